"""Frames' probabilities to one answer. numpy only.

Legend: F frames, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.errors import DataError, EngineError

STRIDE = 8  # every eighth frame first
TOP = 5  # frames that a top-k pool looks at

POOLS = {
    "mean": "the mean over {frames} frames",
    "max": "each class's highest of {frames} frames, scaled to sum to 1",
    "top-k": "the mean of each class's {k} highest of {frames} frames, scaled to sum to 1",
}


@dataclass(frozen=True)
class Curve:
    """What has been classified so far.

    frames : (F,) indices from 0, ascending; probabilities : for each prompt set (F, C), float32
    failed : frames that could not be decoded or prepared, with the error; total : frames in all
    """

    frames: np.ndarray
    probabilities: tuple[np.ndarray, ...]
    failed: tuple[tuple[int, EngineError], ...]
    total: int

    @property
    def done(self) -> int:
        return len(self.frames) + len(self.failed)


def order(frames: int) -> list[int]:
    """Every eighth, then those halfway between, and so on: each frame once."""
    found: list[int] = []
    stride = STRIDE
    while stride:
        found += [i for i in range(0, frames, stride) if stride == STRIDE or i % (2 * stride)]
        stride //= 2
    return found


def pool(probabilities: np.ndarray, how: str = "mean", k: int = TOP) -> np.ndarray:
    """(F, C), of classes that exclude each other -> (C,), float32, sums to 1. Raises DataError for an unknown pool."""
    if how not in POOLS:
        raise DataError(f"There is no pooling {how[:32]!r}.", f"Choose one of: {', '.join(POOLS)}.")
    if how == "mean":
        return probabilities.mean(axis=0)
    highest = np.sort(probabilities, axis=0)[-(1 if how == "max" else min(k, len(probabilities))) :]
    found = highest.mean(axis=0)
    return found / found.sum()


def pooled_by(how: str, frames: int, k: int = TOP) -> str:
    """How `pool` came to its numbers, in words."""
    return POOLS[how].format(frames=frames, k=min(k, frames))


def peak(curve: np.ndarray, column: int) -> int:
    """The row of a curve (F, C) that speaks most for a class: where a map is drawn."""
    values = curve[:, column]
    return int(values.argmax()) if math.isfinite(float(values.max())) else 0
