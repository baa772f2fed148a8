"""The tuning ratios of `bench`: upstream's BiomedCoOp loop beside ours, at BiomedCLIP's full size with random weights.

`UpstreamStep` is our own transcription of what upstream computes at each step (methods/biomedcoop.md 2.2 and 8.1): the image
tower twice on the batch, the text tower over 256 positions with dropout, the descriptions normalised again, one product and
one host synchronisation a description for the selection. A test holds its loss against our learner's. A whole run is the views'
encoding plus steps times the median step ("extrapolated": true); fixed costs that both sides have (loading, the descriptions,
reading files) are left out, and upstream's are the larger. Peaks are of the whole resident process, models included.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import engine
from engine._floors import Part, measure, weight_bytes
from engine.backbones.base import Embedded
from engine.context import Prompts
from engine.methods._descriptions import description_features
from engine.training import Batch, Recipe

TASKS = {3: "busi", 4: "btmri", 8: "chmnist"}
SHOTS, EPOCHS, BATCH, VIEWS = 16, 100, 4, 8
TIMED = 5  # steps, after one that is not counted

Full = Callable[..., Any]  # precision, device -> the backbone


class UpstreamStep:
    """images (B, 3, S, S), labels (B,) -> one SGD step, as upstream computes it. length : of the padded prompts."""

    def __init__(self, backbone: Any, classes: int, length: int = 256, dropout: bool = True):
        task = engine.task(TASKS[classes])
        self.backbone, self.dropout = backbone, dropout
        prompts = Prompts(backbone, "a photo of a {}.", task.names, 4)
        pad = torch.zeros(classes, length - prompts.ids.shape[1], dtype=prompts.ids.dtype, device=prompts.ids.device)
        self.ids = torch.cat([prompts.ids, pad], dim=1)
        with torch.no_grad():
            self.words = backbone.embed_tokens(self.ids).vectors
        self.context = torch.nn.Parameter(prompts.start.clone())
        self.bank = description_features(backbone, task, 50)  # (C, n, D)
        self.optimiser = torch.optim.SGD([self.context], lr=0.0025, momentum=0.9, weight_decay=5e-4)

    def loss(self, images: torch.Tensor, labels: torch.Tensor, tau: float = 1.5) -> torch.Tensor:
        rows = self.context.to(self.words.dtype).expand(len(self.ids), -1, -1)
        vectors = torch.cat([self.words[:, :1], rows, self.words[:, 5:]], dim=1)
        t = self.backbone.encode_embedded(Embedded(vectors, self.ids), self.dropout)  # (C, D)
        with torch.no_grad():
            v, w = self.backbone.encode_images(images), self.backbone.encode_images(images)  # the second tower's, the same
        s = self.backbone.logit_scale
        z = s * v @ t.T
        bank = F.normalize(self.bank, dim=-1)
        scores = torch.tensor([(s * v @ bank[:, i].T).max(dim=1).values.mean().item() for i in range(bank.shape[1])])
        away = (scores - scores.median()) / (scores - scores.median()).abs().median()
        keep = ((away - away.mean()) / away.std()).abs() <= tau
        keep = keep if keep.any() else torch.ones_like(keep)
        chosen = F.normalize(bank[:, keep.to(bank.device)].mean(dim=1), dim=-1)
        everything = F.normalize(bank.mean(dim=1), dim=-1)
        teacher = s * w @ chosen.T
        kl = F.kl_div(z.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="sum", log_target=True) / z.numel()
        return F.cross_entropy(z, labels) + F.mse_loss(t, everything) + kl

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimiser.zero_grad()
        self.loss(images, labels).backward()
        self.optimiser.step()


class OurStep:
    """One step of `runs` stacked runs on cached features."""

    def __init__(self, backbone: Any, classes: int, runs: int = 1):
        kind = engine.METHODS["biomedcoop"]
        methods = [kind(kind.Config(selection="coded"))] * runs
        self.learner = kind.learner(backbone, engine.task(TASKS[classes]), methods, [], list(range(runs)))
        self.optimiser = torch.optim.SGD(
            [p["context"] for p in self.learner.parameters], lr=0.0025, momentum=0.9, weight_decay=5e-4
        )

    def __call__(self, v: torch.Tensor, y: torch.Tensor) -> None:
        runs = len(self.learner.parameters)
        weights = torch.full((runs, len(y)), 1 / len(y), device=v.device)
        batch = Batch(list(range(runs)), v.expand(runs, -1, -1), y.expand(runs, -1), weights)
        self.optimiser.zero_grad()
        self.learner.backward(self.learner.terms(batch), batch)
        self.optimiser.step()


def material(backbone: Any, classes: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """images (4, 3, S, S), their features (4, D), labels (4,)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, backbone.preprocess.size, backbone.preprocess.size, generator=generator).to(device)
    with torch.no_grad():
        features = backbone.encode_images(images)
    return images, features, (torch.arange(BATCH) % classes).to(device)


def peak_mb() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


def forget_peak() -> None:
    """Linux: the resident set's peak starts again from what is resident now, freed memory given back."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not allowed here: the peak is then the process's own


def timed(part: Part) -> dict[str, Any]:
    """The median of TIMED runs beside its floor, and the peak resident MB meanwhile."""
    forget_peak()
    return measure({"": part}, TIMED)[""] | {"peak_mb": peak_mb()}


@cache
def upstream(full: Full, classes: int, device: str = "cpu") -> dict[str, Any]:
    backbone = full("float32", device)
    step, (images, _, labels) = UpstreamStep(backbone, classes), material(backbone, classes, device)
    model = backbone._model
    reads = 2 * weight_bytes(model.visual) + weight_bytes(model.text)
    return timed(Part(lambda: step(images, labels), reads=reads, device=device))


@cache
def ours(full: Full, classes: int, precision: str = "float32", runs: int = 1, device: str = "cpu") -> dict[str, Any]:
    backbone = full(precision, device)
    step, (_, features, labels) = OurStep(backbone, classes, runs), material(backbone, classes, device)
    return timed(Part(lambda: step(features, labels), precision, weight_bytes(backbone._model.text), device))


@cache
def image(full: Full, precision: str) -> dict[str, Any]:
    """32 of them at once."""
    backbone = full(precision)
    x = torch.randn(32, 3, backbone.preprocess.size, backbone.preprocess.size)

    def forward() -> None:
        with torch.no_grad():
            backbone.encode_images(x)

    return timed(Part(forward, precision, weight_bytes(backbone._model.visual) + x.nbytes))


def step_speedup(full: Full, classes: int, goal: str, precision: str = "float32") -> dict[str, Any]:
    theirs, mine = upstream(full, classes), ours(full, classes, precision)
    return _over(theirs, mine, goal) | {"parts": {"upstream": theirs, "ours": mine}}


def stacked_speedup(full: Full) -> dict[str, Any]:
    """A run of eight that are stacked."""
    theirs, stacked = upstream(full, 4), ours(full, 4, runs=8)
    a_run = {each: stacked[each] / 8 for each in ("ms", "floor_ms")}
    return _over(theirs, a_run, ">= 25") | {"parts": {"upstream": theirs, "eight_stacked": stacked}}


def run_speedup(full: Full, views: int, goal: str) -> dict[str, Any]:
    """A whole 16-shot run of 4 classes: upstream's steps against views encoded once and our steps, in the faster precision."""
    items = SHOTS * 4
    recipe = Recipe(EPOCHS, BATCH, 0.0025)
    steps = recipe.epochs * (items // recipe.batch)
    theirs = {each: steps * upstream(full, 4)[each] for each in ("ms", "floor_ms")}
    found = {}
    for precision in ("float32", "bfloat16"):
        encode, learn = image(full, precision), ours(full, 4, precision)
        found[precision] = {
            each: {"encode": items * views / 32 * encode[each], "learn": steps * learn[each]} for each in ("ms", "floor_ms")
        }
    precision = min(found, key=lambda each: sum(found[each]["ms"].values()))
    mine = {each: sum(found[precision][each].values()) for each in ("ms", "floor_ms")}
    parts = {"upstream": theirs, "ours": mine} | {
        name: {each: found[precision][each][name] for each in ("ms", "floor_ms")} for name in ("encode", "learn")
    }
    about = {"precision": precision, "extrapolated": True, "steps": steps, "views": views}
    return _over(theirs, mine, goal) | about | {"parts": parts}


def gpu_speedup(full: Full) -> dict[str, Any]:
    goal = ">= 15"
    if not torch.cuda.is_available():
        return {"value": None, "floor": None, "goal": goal, "why": "torch finds no GPU"}
    theirs, mine = upstream(full, 4, "cuda"), ours(full, 4, device="cuda")
    return _over(theirs, mine, goal) | {"parts": {"upstream": theirs, "ours": mine}}


def _over(theirs: dict[str, Any], mine: dict[str, Any], goal: str) -> dict[str, Any]:
    value, floor = (theirs[each] / mine[each] for each in ("ms", "floor_ms"))
    return {"value": value, "floor": floor, "goal": goal}
