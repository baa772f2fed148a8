"""How good a prompt set is on labelled images: metrics with bootstrap intervals that respect groups.

Intervals: 95 %, percentile bootstrap over units (group, else patient, else file), Efron and Tibshirani 1993, chapter 13.
A class that a resample happens to miss is left out of that resample's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from engine.backbones.base import Backbone
from engine.data import unit
from engine.errors import DataError
from engine.predict import embed
from engine.preprocess import prepare
from engine.prompts import PromptSet
from engine.readers import read_image
from engine.types import Example, Interval

RESAMPLES = 1000
BATCH = 32


@dataclass(frozen=True)
class Evaluation:
    """metrics : by name; confusion : (C, C) int, rows truth, columns prediction; probabilities (N, C)."""

    labels: tuple[str, ...]
    metrics: dict[str, Interval]
    confusion: np.ndarray
    probabilities: np.ndarray
    images: int
    units: int

    @property
    def chance(self) -> float:
        return 1 / len(self.labels)


def accuracy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    return float((probabilities.argmax(axis=1) == truth).mean())


def balanced_accuracy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean recall of the classes that occur."""
    right = probabilities.argmax(axis=1) == truth
    return float(np.mean([right[truth == c].mean() for c in np.unique(truth)]))


def auroc(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over classes of one-against-rest AUROC; NaN where only one class occurs."""
    present = [c for c in np.unique(truth) if (truth != c).any()]
    return float(np.mean([roc_auc_score(truth == c, probabilities[:, c]) for c in present])) if present else float("nan")


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "auroc": auroc,
}


def with_intervals(
    truth: np.ndarray, probabilities: np.ndarray, units: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """truth (N,) int, probabilities (N, C), units (N,) -> every metric with its interval."""
    names, where = np.unique(np.asarray(units), return_inverse=True)
    members = [np.flatnonzero(where == u) for u in range(len(names))]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in METRICS}
    for _ in range(resamples):
        rows = np.concatenate([members[u] for u in rng.integers(0, len(names), len(names))])
        for name, metric in METRICS.items():
            drawn[name].append(metric(truth[rows], probabilities[rows]))
    found = {}
    for name, metric in METRICS.items():
        low, high = np.nanpercentile(drawn[name], [2.5, 97.5])
        found[name] = Interval(metric(truth, probabilities), float(low), float(high))
    return found


def features_of(
    examples: Sequence[Example], backbone: Backbone, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """(N, D) float32, unit length, in the order of the examples. progress(done, all) is called after each batch."""
    rows = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        rows.append(embed([prepare(read_image(e.path), backbone.preprocess) for e in batch], backbone))
        if progress:
            progress(min(start + BATCH, len(examples)), len(examples))
    return np.concatenate(rows)


def evaluate(
    examples: Sequence[Example],
    backbone: Backbone,
    prompts: PromptSet,
    features: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Metrics of a prompt set on labelled images. features : from `features_of`, where they are at hand.

    Raises DataError where a label is not one of the set's, ImageError where a file cannot be read.
    """
    prompts.check(backbone)
    if not examples:
        raise DataError("There are no labelled images to evaluate on.")
    unknown = sorted({e.label for e in examples} - set(prompts.labels))
    if unknown:
        raise DataError(
            f"The label {unknown[0]!r} is no class of the prompt set {prompts.name!r}.",
            f"Its classes are: {', '.join(prompts.labels)}.",
        )
    if features is None:
        features = features_of(examples, backbone, progress)
    probabilities = prompts.probabilities(features)
    truth = np.asarray([prompts.labels.index(e.label) for e in examples])
    confusion = np.zeros((len(prompts.labels),) * 2, dtype=int)
    np.add.at(confusion, (truth, probabilities.argmax(axis=1)), 1)
    units = [unit(e) for e in examples]
    metrics = with_intervals(truth, probabilities, units)
    return Evaluation(prompts.labels, metrics, confusion, probabilities, len(examples), len(set(units)))
