"""Few-shot fine-tuning of a detector on annotated boxes: transformers' own loss for Grounding DINO, all weights trained.

Recipe: MIU-VL's (methods/miu_vl.md 2): AdamW, 1e-4, the language tower 1e-5, weight decay 1e-4, a tenth of the rate after 67 % and
again after 89 % of 30 epochs, batches of 8, gradients clipped at norm 1. Left out of it: warm-up over 2000 steps (a few shots have
fewer), the moving average of the weights, scales drawn anew, mixed precision.

An epoch's order and dropout follow from the seed and the epoch's number alone, so that a training that goes on from its checkpoint
ends in the weights of one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from engine.errors import DataError
from engine.locate.grounding_dino import GroundingDino, load
from engine.render import picture
from engine.types import Image, Phrase

LANGUAGE = "text_backbone"  # the part of a parameter's name that says that it is of the language tower
DROPS = (0.67, 0.89)  # of the epochs, after each of which the rate is a tenth


@dataclass(frozen=True)
class Boxed:
    """An image to learn from. read : gives it; boxes : float32 (N, 4), x0, y0, x1, y1 in its pixels, N > 0; phrases (N,) : each box's
    place in the list of phrases."""

    read: Callable[[], Image]
    boxes: np.ndarray
    phrases: tuple[int, ...]


@dataclass(frozen=True)
class DetectorRecipe:
    epochs: int = 30
    batch: int = 8
    lr: float = 1e-4
    language_lr: float = 1e-5
    weight_decay: float = 1e-4
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not self.lr > 0 or not self.language_lr >= 0:
            raise DataError(
                f"{self.epochs} epochs of batches of {self.batch} at the rate {self.lr:g} cannot be trained.",
                "Each must be above 0.",
            )

    def share(self, epoch: int) -> float:
        """Of the rates, in an epoch from 0."""
        return 0.1 ** sum(epoch >= drop * self.epochs for drop in DROPS)


def tune_detector(
    detector: GroundingDino,
    boxed: Sequence[Boxed],
    phrases: Sequence[Phrase],
    recipe: DetectorRecipe | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Trains the detector in place and leaves it frozen: the mean loss of each epoch. phrases : stand in the caption in this order.

    checkpoint : written after each epoch, removed at the end; the same training goes on from it
    Raises DataError where there is nothing to learn from, the loss is no number, or the checkpoint is another training's.
    """
    recipe = recipe or DetectorRecipe()
    if not boxed:
        raise DataError("No image has a box to learn from.")
    tokens, _ = detector.caption(phrases)
    net, losses, start = detector.net, [], 0
    weights = dict(net.named_parameters())
    language = [p for name, p in weights.items() if LANGUAGE in name]
    others = [p for name, p in weights.items() if LANGUAGE not in name]
    rates = (recipe.lr, recipe.language_lr)
    optimiser = torch.optim.AdamW([{"params": others}, {"params": language}], weight_decay=recipe.weight_decay)
    key = _key(weights, boxed, phrases, recipe, seed) if checkpoint else ""
    if checkpoint and checkpoint.exists():
        losses = _resume(checkpoint, key, weights, optimiser)
        start = len(losses)
    device = net.device
    net.train().requires_grad_(True)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for epoch in range(start, recipe.epochs):
                torch.manual_seed((seed << 20) + epoch)
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * recipe.share(epoch)
                of_steps = []
                for rows in torch.randperm(len(boxed)).split(recipe.batch):
                    loss = net(**_batch(detector, [boxed[i] for i in rows], tokens)).loss
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(weights.values(), recipe.clip)
                    optimiser.step()
                    of_steps.append(loss.detach())
                losses.append(float(torch.stack(of_steps).mean()))
                if not math.isfinite(losses[-1]):
                    raise DataError(f"The loss is no longer a number after epoch {epoch + 1}.", "Lower the learning rate.")
                if checkpoint and epoch + 1 < recipe.epochs:
                    _save(checkpoint, key, weights, optimiser, losses)
                if progress:
                    progress(epoch + 1, recipe.epochs, losses[-1])
    finally:
        net.eval().requires_grad_(False)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return losses


def _batch(detector: GroundingDino, rows: Sequence[Boxed], tokens: dict[str, Tensor]) -> dict[str, Any]:
    """What the model takes, with the boxes as middle and size, by the image's sides."""
    images, labels, device = [row.read() for row in rows], [], detector.net.device
    for row, image in zip(rows, images, strict=True):
        (h, w), (x0, y0, x1, y1) = image.shape, row.boxes.T
        boxes = np.stack([(x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h], axis=1)
        labels.append(
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32, device=device),
                "class_labels": torch.tensor(row.phrases, dtype=torch.int64, device=device),
            }
        )
    pixels = detector.processor.image_processor(images=[picture(image) for image in images], return_tensors="pt")
    repeated = {name: each.expand(len(rows), -1) for name, each in tokens.items()}
    return {name: each.to(device) for name, each in {**pixels, **repeated}.items()} | {"labels": labels}


def load_detector(model: str, device: str = "cpu") -> GroundingDino:
    """One to fine-tune. model : a folder, OWNER/NAME on the hub, or "" for the tiny one. Raises BackboneError."""
    return load(model, None, device)


def save_detector(detector: GroundingDino, folder: Path, about: dict[str, Any]) -> None:
    """A folder that `load_locator("grounding-dino:FOLDER")` takes; tuning.json holds `about`, which names no file."""
    detector.net.save_pretrained(folder)
    detector.processor.save_pretrained(folder)
    (folder / "tuning.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


# --- going on after a kill --------------------------------------------------------------------------------------------


def _key(
    weights: dict[str, Tensor], boxed: Sequence[Boxed], phrases: Sequence[Phrase], recipe: DetectorRecipe, seed: int
) -> str:
    """What must be the same for a checkpoint to be continued."""
    digest = hashlib.sha256(repr((recipe, seed, list(phrases))).encode())
    for row in boxed:
        digest.update(repr((row.boxes.tolist(), row.phrases)).encode())
    for name, each in weights.items():
        digest.update(name.encode())
        digest.update(each.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _save(path: Path, key: str, weights: dict[str, Tensor], optimiser: torch.optim.Optimizer, losses: list[float]) -> None:
    tensors = {}
    for name, each in weights.items():
        tensors[name] = each.detach()
        for what, value in optimiser.state[each].items():  # none where no gradient came
            tensors[f"{name}/{what}"] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    stored = {name: each.cpu().contiguous() for name, each in tensors.items()}
    part.write_bytes(save(stored, {"key": key, "losses": json.dumps(losses)}))
    part.replace(path)


def _resume(path: Path, key: str, weights: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> list[float]:
    """The losses of the epochs that are done. Raises DataError where the file is no checkpoint of this very training."""
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
    with torch.no_grad():
        for name, each in weights.items():
            each.copy_(tensors.pop(name))
    for name, each in weights.items():
        kept = {what: tensors[f"{name}/{what}"] for what in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{what}" in tensors}
        if kept:
            optimiser.state[each] = {k: v if k == "step" else v.to(each.device) for k, v in kept.items()}
    return list(json.loads(about["losses"]))
