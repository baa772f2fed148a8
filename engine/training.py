"""One training loop for every method that learns by gradient.

Runs of one method (seeds, shots, hyper-parameters) are stacked: each has its own parameters, data, order and learning
rate, and one forward pass serves them all. The loop draws batches, sets the learning rate, saves after each epoch, and
reports; it knows no method. It never asks the device for a number inside an epoch.

Schedule: upstream's, in closed form (Dassl's cosine after one constant warm-up epoch, stepped once an epoch).
Left out: CUDA graphs and torch.compile (LOG.md), several devices.

Legend: R runs, A active runs, B batch, N items of a run, V views of an item, D joint embedding.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from engine.errors import DataError, Stopped

Values = dict[str, list[list[Tensor]]]  # by term, by run


@dataclass(frozen=True)
class Recipe:
    """How a method is optimised.

    optimiser : "sgd" (momentum, no Nesterov) or "adamw"; betas, eps : AdamW's
    warmup_epochs : at the constant warmup_lr, counted within `epochs`; then a cosine that `rate` gives
    per_step : the schedule takes steps for epochs (what upstream's CLIP-Adapter does by mistake)
    """

    epochs: int
    batch: int
    lr: float
    optimiser: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    per_step: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not self.lr > 0:
            raise DataError(
                f"{self.epochs} epochs of batches of {self.batch} at the learning rate {self.lr} cannot be trained.",
                "Each must be above 0.",
            )


def rate(recipe: Recipe, epoch: int) -> float:
    """The learning rate of an epoch, from 0: warmup_lr, then lr / 2 * (1 + cos(pi * (epoch - warmup) / epochs))."""
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr
    return recipe.lr / 2 * (1 + math.cos(math.pi * (epoch - recipe.warmup_epochs) / recipe.epochs))


@dataclass(frozen=True)
class Run:
    """One of the stacked runs. views (V, N, D) float32: the items as they may be drawn; targets (N,) int64.

    about : what else makes a training another one (the method's options), for the checkpoint

    own_views : each epoch has its own (V = recipe.epochs: upstream's protocol, every crop rendered beforehand); else each
    item's view is drawn anew each time
    """

    views: Tensor
    targets: Tensor
    recipe: Recipe
    seed: int
    about: str = ""
    own_views: bool = False

    @property
    def batch(self) -> int:
        return min(self.recipe.batch, len(self.targets))

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.targets) // self.recipe.batch)  # the last incomplete batch is dropped, as upstream does

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    def order(self) -> tuple[Tensor, Tensor]:
        """(steps, B) items and (steps, B) views, from the seed alone."""
        generator = torch.Generator().manual_seed(self.seed)
        used = self.steps_per_epoch * self.batch
        items, views = [], []
        for epoch in range(self.recipe.epochs):
            drawn = torch.randperm(len(self.targets), generator=generator)[:used]
            which = torch.randint(len(self.views), (used,), generator=generator)
            items.append(drawn.view(-1, self.batch))
            views.append((torch.full((used,), epoch) if self.own_views else which).view(-1, self.batch))
        return torch.cat(items), torch.cat(views)


@dataclass(frozen=True)
class Batch:
    """One step of the active runs. runs : their indices; v (A, B, D), y (A, B); w (A, B) sums to 1 in a row, 0 where a run's
    batch is shorter than the longest."""

    runs: list[int]
    v: Tensor
    y: Tensor
    w: Tensor


class Learner(Protocol):
    """R runs of one method side by side. parameters : by name, for each run."""

    parameters: list[dict[str, Tensor]]

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of this step, each (A,), weights included: their sum is the loss."""
        ...

    def backward(self, terms: dict[str, Tensor], batch: Batch) -> None:
        """Leaves each active run's gradient in its parameters."""
        ...


@dataclass
class Watch:
    """How to look at a training, and how to stop it.

    progress(epoch, epochs, loss) is called after an epoch, at most five times a second; `stop` is asked as often.
    sets(epoch, prompt sets) gets what every run would leave now, before `progress`: at most once a second, more rarely where
    that takes more than a tenth of the time, and at the end; the training is the same without it
    checkpoint : a file that is written after each epoch, and from which the same training goes on; removed at the end
    """

    progress: Callable[[int, int, float], None] | None = None
    sets: Callable[[int, list[Any]], None] | None = None
    stop: Callable[[], bool] | None = None
    checkpoint: Path | None = None


@dataclass
class History:
    """terms : by name, one list for each run with the mean of each epoch."""

    terms: dict[str, list[list[float]]] = field(default_factory=dict)


def train(
    learner: Learner,
    runs: list[Run],
    watch: Watch | None = None,
    steps: int | None = None,
    look: Callable[[int], None] | None = None,
) -> History:
    """Trains the learner's parameters in place; `steps` ends it early (parity tests, bench); look(epoch) is called as rarely as
    `Watch.sets`.

    Raises Stopped where the watch asks for it, DataError where the loss is no longer a number, or where the checkpoint is
    another training's.
    """
    watch = watch or Watch()
    device = next(iter(learner.parameters[0].values())).device
    places = [(items.to(device), views.to(device)) for items, views in (run.order() for run in runs)]
    data = [(run.views.to(device), run.targets.to(device)) for run in runs]
    longest = max(runs, key=lambda run: run.steps)
    total, per_epoch = min(longest.steps, steps or longest.steps), longest.steps_per_epoch
    optimiser = _optimiser(learner, runs)
    steps_seen: Values = {}  # by term, by run: the values of the steps of its epoch
    means: Values = {}  # by term, by run: of epochs that are over, still on the device
    history, start = History(), 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(runs[0].seed)
        key = _key(learner, runs) if watch.checkpoint else ""
        if watch.checkpoint and watch.checkpoint.exists():
            start = _resume(watch.checkpoint, key, learner, optimiser, history, steps_seen)
        told = look_again = 0.0
        for step in range(start, total):
            active = [r for r, run in enumerate(runs) if step < run.steps]
            for r in active:
                at = step if runs[r].recipe.per_step else step // runs[r].steps_per_epoch
                optimiser.param_groups[r]["lr"] = rate(runs[r].recipe, at)
            batch = _batch(active, step, runs, places, data)
            optimiser.zero_grad(set_to_none=True)
            terms = learner.terms(batch)
            learner.backward(terms, batch)
            optimiser.step()
            for name, values in terms.items():
                kept = steps_seen.setdefault(name, [[] for _ in runs])
                over = means.setdefault(name, [[] for _ in runs])
                for r, value in zip(active, values.detach().unbind(), strict=True):
                    kept[r].append(value)
                    if (step + 1) % runs[r].steps_per_epoch == 0 or step + 1 == total:
                        over[r].append(torch.stack(kept[r]).mean())
                        kept[r].clear()
            if (step + 1) % per_epoch and step + 1 < total:
                continue
            finite = True
            for name, over in means.items():
                into = history.terms.setdefault(name, [[] for _ in runs])
                for r, waiting in enumerate(over):
                    into[r] += [float(each) for each in waiting]
                    finite &= all(map(math.isfinite, into[r][len(into[r]) - len(waiting) :]))
                    waiting.clear()
            epoch, epochs = -(-(step + 1) // per_epoch), -(-total // per_epoch)
            losses = [sum(kept[r][-1] for kept in history.terms.values() if kept[r]) for r in active]
            if not finite:
                raise DataError(
                    f"The loss is no longer a number after epoch {epoch} of {epochs}.", "Lower the learning rate."
                )
            if watch.checkpoint and step + 1 < total:
                _save(watch.checkpoint, key, learner, optimiser, history, steps_seen, step + 1)
            began = time.monotonic()
            if look and (began >= look_again or step + 1 == total):
                with torch.random.fork_rng(devices=[]):
                    look(epoch)
                look_again = began + max(1.0, 10 * (time.monotonic() - began))
            if time.monotonic() - told > 0.2 or step + 1 == total:
                told = time.monotonic()
                if watch.progress:
                    watch.progress(epoch, epochs, sum(losses) / len(losses))
                if watch.stop and watch.stop() and step + 1 < total:
                    raise Stopped(f"The training was stopped after epoch {epoch} of {epochs}.")
    if watch.checkpoint:
        watch.checkpoint.unlink(missing_ok=True)
    return history


def _optimiser(learner: Learner, runs: list[Run]) -> torch.optim.Optimizer:
    """One parameter group a run, so that each has its own learning rate."""
    groups: list[dict] = []
    for parameters, run in zip(learner.parameters, runs, strict=True):
        group = {"params": list(parameters.values()), "lr": run.recipe.lr, "weight_decay": run.recipe.weight_decay}
        if run.recipe.optimiser == "sgd":
            groups.append(group | {"momentum": run.recipe.momentum})
        else:
            groups.append(group | {"betas": run.recipe.betas, "eps": run.recipe.eps})
    return torch.optim.SGD(groups) if runs[0].recipe.optimiser == "sgd" else torch.optim.AdamW(groups)


def _batch(active: list[int], step: int, runs: list[Run], places: list, data: list) -> Batch:
    most = max(runs[r].batch for r in active)
    rows = []
    for r in active:
        (items, views), (features, targets) = places[r], data[r]
        which = items[step]
        v, y = features[views[step], which], targets[which]
        w = torch.full((len(which),), 1 / len(which), device=v.device)
        short = most - len(which)
        if short:
            v, y, w = (
                torch.cat([v, v.new_zeros(short, v.shape[1])]),
                torch.cat([y, y.new_zeros(short)]),
                torch.cat([w, w.new_zeros(short)]),
            )
        rows.append((v, y, w))
    return Batch(active, *(torch.stack(each) for each in zip(*rows, strict=True)))


# --- going on after a kill ------------------------------------------------------------------------------------------


def _key(learner: Learner, runs: list[Run]) -> str:
    """What must be the same for a checkpoint to be continued: the learner's kind and start, the data, the recipes."""
    digest = hashlib.sha256(type(learner).__qualname__.encode())
    for parameters, run in zip(learner.parameters, runs, strict=True):
        digest.update(repr((run.recipe, run.seed, run.about, sorted(parameters))).encode())
        for tensor in (run.views, run.targets, *(parameters[name] for name in sorted(parameters))):
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _save(
    path: Path, key: str, learner: Learner, optimiser: torch.optim.Optimizer, history: History, seen: Values, step: int
) -> None:
    tensors = {"random": torch.get_rng_state()}
    device = next(iter(learner.parameters[0].values())).device
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    for r, parameters in enumerate(learner.parameters):
        for name, parameter in parameters.items():
            tensors[f"{r}/{name}"] = parameter.detach()
            for what, value in optimiser.state[parameter].items():
                tensors[f"{r}/{name}/{what}"] = value
    about = {"key": key, "step": str(step), "history": json.dumps(history.terms)}
    about["seen"] = json.dumps({name: [[float(x) for x in kept] for kept in runs] for name, runs in seen.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, about))
    part.replace(path)


def _resume(path: Path, key: str, learner: Learner, optimiser: torch.optim.Optimizer, history: History, seen: Values) -> int:
    """The step to go on from. Raises DataError where the file is anything else than a checkpoint of this very training: it
    may be dear to somebody."""
    fault = DataError(
        f"{path.name!r} is no checkpoint of this training (of other data, options or seed, or damaged).",
        "Remove it, or name another file.",
    )
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            about = stored.metadata() or {}
            if about.get("key") != key:
                raise fault
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError):
        raise fault from None
    torch.set_rng_state(tensors.pop("random"))
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors.pop("random.cuda"), next(iter(learner.parameters[0].values())).device)
    for r, parameters in enumerate(learner.parameters):
        for name, parameter in parameters.items():
            parameter.data.copy_(tensors.pop(f"{r}/{name}"))
            start = f"{r}/{name}/"
            state = {
                k.removeprefix(start): tensors.pop(k).to(parameter.device) for k in list(tensors) if k.startswith(start)
            }
            if state:
                optimiser.state[parameter] = state
    history.terms.update(json.loads(about["history"]))
    for name, runs in json.loads(about["seen"]).items():
        seen[name] = [[torch.tensor(x) for x in kept] for kept in runs]
    return int(about["step"])
