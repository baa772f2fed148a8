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
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

import engine
from engine.backbones.base import Embedded
from engine.context import Prompts
from engine.methods._descriptions import description_features
from engine.training import Batch, Recipe

TASKS = {3: "busi", 4: "btmri", 8: "chmnist"}
SHOTS, EPOCHS, BATCH, VIEWS = 16, 100, 4, 8
TIMED = 5  # steps, after one that is not counted


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


def _peak_mb() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


def _forget_peak() -> None:
    """Linux: the resident set's peak starts again from what is resident now, freed memory given back."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not allowed here: the peak is then the process's own


def timed(step: Callable[[], None], device: str = "cpu") -> tuple[float, float]:
    """(median seconds of TIMED steps, peak resident MB meanwhile)."""
    taken = []
    _forget_peak()
    for i in range(TIMED + 1):
        began = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        if i:
            taken.append(time.perf_counter() - began)
    return median(taken), _peak_mb()


@cache
def upstream_seconds(full: Callable[..., Any], classes: int) -> tuple[float, float]:
    step, (images, _, labels) = UpstreamStep(full(), classes), material(full(), classes)
    return timed(lambda: step(images, labels))


@cache
def our_seconds(full: Callable[..., Any], classes: int, precision: str = "float32", runs: int = 1) -> tuple[float, float]:
    backbone = full(precision)
    step, (_, features, labels) = OurStep(backbone, classes, runs), material(backbone, classes)
    return timed(lambda: step(features, labels))


def step_speedup(full: Callable[..., Any], classes: int, goal: str, precision: str = "float32") -> dict[str, Any]:
    theirs, their_peak = upstream_seconds(full, classes)
    ours, our_peak = our_seconds(full, classes, precision)
    parts = {"upstream_s": theirs, "ours_s": ours, "upstream_peak_mb": their_peak, "ours_peak_mb": our_peak}
    return {"value": theirs / ours, "goal": goal} | parts


def stacked_speedup(full: Callable[..., Any]) -> dict[str, Any]:
    theirs, _ = upstream_seconds(full, 4)
    stacked, peak = our_seconds(full, 4, runs=8)
    return {"value": theirs / (stacked / 8), "goal": ">= 25", "a_run_s": stacked / 8, "stacked_peak_mb": peak}


@cache
def _image_seconds(full: Callable[..., Any], precision: str) -> float:
    """Of one image in a batch of 32."""
    backbone = full(precision)
    x = torch.randn(32, 3, backbone.preprocess.size, backbone.preprocess.size)

    def forward() -> None:
        with torch.no_grad():
            backbone.encode_images(x)

    return timed(forward)[0] / 32


def run_speedup(full: Callable[..., Any], views: int, goal: str) -> dict[str, Any]:
    """A whole 16-shot run of 4 classes: upstream's steps against views encoded once and our steps, in the faster precision."""
    items = SHOTS * 4
    recipe = Recipe(EPOCHS, BATCH, 0.0025)
    steps = recipe.epochs * (items // recipe.batch)
    theirs = steps * upstream_seconds(full, 4)[0]
    precision = min(
        ("float32", "bfloat16"), key=lambda p: views * _image_seconds(full, p) + steps / items * our_seconds(full, 4, p)[0]
    )
    encode = items * views * _image_seconds(full, precision)
    ours = encode + steps * our_seconds(full, 4, precision)[0]
    parts = {"upstream_s": theirs, "ours_s": ours, "encode_s": encode, "steps": steps, "views": views}
    return {"value": theirs / ours, "goal": goal, "precision": precision, "extrapolated": True} | parts


def gpu_speedup(full: Callable[..., Any]) -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"value": None, "goal": ">= 15"}
    backbone = full("float32", "cuda")
    images, features, labels = material(backbone, 4, "cuda")
    upstream, ours = UpstreamStep(backbone, 4), OurStep(backbone, 4)
    theirs, mine = timed(lambda: upstream(images, labels), "cuda")[0], timed(lambda: ours(features, labels), "cuda")[0]
    return {"value": theirs / mine, "goal": ">= 15", "upstream_s": theirs, "ours_s": mine}
