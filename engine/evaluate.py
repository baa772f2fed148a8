"""How good a prompt set is on labelled images: metrics with bootstrap intervals that respect groups.

Intervals: 95 %, percentile bootstrap over units (group, else patient, else file), Efron and Tibshirani 1993, chapter 13.
A class that a resample happens to miss is left out of that resample's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.backbones.base import Backbone
from engine.data import unit
from engine.errors import DataError
from engine.features import features_of
from engine.predict import bound
from engine.prompts import PromptSet
from engine.types import Example, Interval

RESAMPLES = 1000
BINS = 15  # of the calibration error, as in Guo et al.
AT_ONCE = 1 << 20  # images times resamples that are in memory together (8 MB an array)
SHOWN = ("accuracy", "balanced_accuracy", "auroc", "ece")
COMPARED = ("accuracy", "balanced_accuracy", "auroc")  # a better ece alone helps nobody to decide
UNEVEN = 2  # times as many cases in the largest class as in the smallest; beyond, accuracy rewards naming the largest
FEW = 20  # cases; below, intervals are so wide that little can be said
FEWEST = 6  # units that two answers must differ on to be told apart: with 5, all one way, the sign test gives 2 / 2**5 = 6 %
NO_RANGE = "too few cases for a range"


@dataclass(frozen=True)
class Evaluation:
    """metrics : by name; confusion : (C, C) int, rows truth, columns prediction; probabilities (N, C); truth (N,) int;
    unit_names : what each image belongs to, which may identify a patient."""

    labels: tuple[str, ...]
    metrics: dict[str, Interval]
    confusion: np.ndarray
    probabilities: np.ndarray
    truth: np.ndarray
    unit_names: tuple[str, ...]
    images: int
    units: int

    @property
    def chance(self) -> float:
        return 1 / len(self.labels)


# --- metrics --------------------------------------------------------------------------------------------------------
#
# Each takes truth (N,) int and probabilities (N, C) and returns a float. With weights (R, N), how often each image counts
# in each of R resamples, it returns (R,): what R bootstrap resamples share, such as an order, is then made once.

Result = Any  # float, or float64 (R,)


def _counts(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Confusion, float64 (C, C) or (R, C, C): rows truth, columns the most probable class."""
    classes = probabilities.shape[1]
    cell = np.eye(classes**2)[truth * classes + probabilities.argmax(axis=1)]  # (N, C * C)
    flat = cell.sum(axis=0) if weights is None else weights @ cell
    return flat.reshape(*flat.shape[:-1], classes, classes)


def _mean(above: np.ndarray, below: np.ndarray) -> Result:
    """Mean over classes (the last axis) of above / below, without classes where below is 0; NaN where none is left."""
    there = below > 0
    ratios = np.divide(above, below, out=np.zeros_like(below), where=there)
    with np.errstate(invalid="ignore"):
        return ratios.sum(axis=-1) / there.sum(axis=-1)


def accuracy(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> Result:
    right = (probabilities.argmax(axis=1) == truth).astype(float)
    return right.mean() if weights is None else weights @ right / weights.sum(axis=-1)


def balanced_accuracy(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> Result:
    """Mean recall (sensitivity) of the classes that occur."""
    counts = _counts(truth, probabilities, weights)
    return _mean(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def macro_f1(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> Result:
    """Mean over the classes that occur of 2 TP / (2 TP + FP + FN), as the papers' evaluator has it."""
    counts = _counts(truth, probabilities, weights)
    true, called = counts.sum(axis=-1), counts.sum(axis=-2)
    return _mean(2 * np.diagonal(counts, axis1=-2, axis2=-1), np.where(true > 0, true + called, 0))


def specificity(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> Result:
    """Mean over the classes that occur of TN / (TN + FP), one class against the rest, at the most probable class."""
    counts = _counts(truth, probabilities, weights)
    true, called, hit = counts.sum(axis=-1), counts.sum(axis=-2), np.diagonal(counts, axis1=-2, axis2=-1)
    others = true.sum(axis=-1, keepdims=True) - true
    return _mean(others - (called - hit), np.where(true > 0, others, 0))


def _roc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives (T + 1,) or (R, T + 1) at no image and at each of T distinct scores, from the highest."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # images of equal score pass together
    ones = np.ones(len(scores)) if weights is None else weights[:, order]
    hits = np.cumsum(ones * positive[order], axis=-1)[..., ends]
    called = np.cumsum(ones, axis=-1)[..., ends]
    pad = [(0, 0)] * (hits.ndim - 1) + [(1, 0)]
    return np.pad(hits, pad), np.pad(called - hits, pad)


def auroc(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> Result:
    """Mean over classes of one-against-rest AUROC, the chance that an image of the class scores above another, ties half
    (Mann-Whitney); NaN where only one class occurs."""
    areas, pairs = [], []
    for c in range(probabilities.shape[1]):
        tp, fp = _roc(truth == c, probabilities[:, c], weights)
        areas.append(((tp[..., 1:] + tp[..., :-1]) / 2 * np.diff(fp, axis=-1)).sum(axis=-1))
        pairs.append(tp[..., -1] * fp[..., -1])
    return _mean(np.stack(areas, axis=-1), np.stack(pairs, axis=-1))


def sensitivity_at(
    truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, specificity: float = 0.9
) -> Result:
    """Mean over classes of the highest sensitivity, one class against the rest, that a threshold gives which keeps at least
    this specificity. NaN where only one class occurs. The threshold is chosen on the same images: an optimistic number."""
    hits, positives = [], []
    for c in range(probabilities.shape[1]):
        tp, fp = _roc(truth == c, probabilities[:, c], weights)
        others = fp[..., -1:]
        kept = others - fp >= specificity * others - 1e-9 * others  # 0.9 is no binary fraction
        hits.append(np.where(kept, tp, 0).max(axis=-1))
        positives.append(np.where(others[..., 0] > 0, tp[..., -1], 0))
    return _mean(np.stack(hits, axis=-1), np.stack(positives, axis=-1))


def ece(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> Result:
    """Expected calibration error of the top probability, 15 bins of equal width, closed above. Guo et al.,
    arXiv:1706.04599, eq. 3."""
    top = probabilities.max(axis=1).astype(float)
    within = np.clip(np.searchsorted(np.linspace(0, 1, BINS + 1), top) - 1, 0, BINS - 1)
    gap = np.eye(BINS)[within] * ((probabilities.argmax(axis=1) == truth) - top)[:, None]  # (N, BINS)
    if weights is None:
        return np.abs(gap.sum(axis=0)).sum() / len(truth)
    return np.abs(weights @ gap).sum(axis=-1) / weights.sum(axis=-1)


METRICS: dict[str, Callable[..., Result]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "auroc": auroc,
    "specificity": specificity,
    "sensitivity_at_90_specificity": sensitivity_at,
    "ece": ece,
}
RISING = tuple(name for name in METRICS if name != "ece")  # the higher, the better


# --- intervals ------------------------------------------------------------------------------------------------------


def _resamples(units: Sequence[str], seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each image is drawn when whole units are: float64 (R, N), `resamples` rows in all, some at a time."""
    names, where = np.unique(np.asarray(units), return_inverse=True)
    rng = np.random.default_rng(seed)
    step = max(1, AT_ONCE // len(where))
    for start in range(0, resamples, step):
        draws = [rng.integers(0, len(names), len(names)) for _ in range(min(step, resamples - start))]
        yield np.stack([np.bincount(d, minlength=len(names)) for d in draws]).astype(float)[:, where]


def _interval(value: Result, drawn: list[np.ndarray]) -> Interval:
    """drawn : the resamples' values; those that are not defined are left out."""
    values = np.concatenate(drawn)
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return Interval(float(value), float(low), float(high))


def with_intervals(
    truth: np.ndarray, probabilities: np.ndarray, units: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """truth (N,) int, probabilities (N, C), units (N,) -> every metric with its interval."""
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for weights in _resamples(units, seed, resamples):
        for name, metric in METRICS.items():
            drawn[name].append(metric(truth, probabilities, weights))
    return {name: _interval(metric(truth, probabilities), drawn[name]) for name, metric in METRICS.items()}


def paired_difference(
    truth: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    units: Sequence[str],
    metric: str = "accuracy",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """How much better b is than a, metric(b) - metric(a), both (N, C) on the same resamples of units. Raises DataError."""
    if metric not in METRICS:
        raise DataError(f"There is no metric called {metric!r}.", f"Choose one of: {', '.join(METRICS)}.")
    score = METRICS[metric]
    drawn = [score(truth, b, weights) - score(truth, a, weights) for weights in _resamples(units, seed, resamples)]
    return _interval(score(truth, b) - score(truth, a), drawn)


def mean_with_interval(
    truth: np.ndarray,
    runs: Sequence[np.ndarray],
    units: Sequence[str],
    metric: str = "accuracy",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """The mean of a metric over several runs, each (N, C), on the same images: every resample of units scores all runs."""
    score = METRICS[metric]
    drawn = [np.mean([score(truth, run, weights) for run in runs], axis=0) for weights in _resamples(units, seed, resamples)]
    return _interval(np.mean([score(truth, run) for run in runs]), drawn)


def mean_over_units(values: np.ndarray, units: Sequence[str], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean of one number an image (N,), with its interval over units (N,)."""
    drawn = [weights @ values / weights.sum(axis=-1) for weights in _resamples(units, seed, resamples)]
    return _interval(values.mean(), drawn)


# --- what is said of two --------------------------------------------------------------------------------------------


def deciding_measure(truth: np.ndarray) -> str:
    """ "balanced_accuracy" where one class has much more cases (N,) than another that occurs, else "accuracy"."""
    counts = np.bincount(truth)
    counts = counts[counts > 0]
    return "balanced_accuracy" if len(counts) and counts.max() > UNEVEN * counts.min() else "accuracy"


def clearly(truth: np.ndarray, a: np.ndarray, b: np.ndarray, units: Sequence[str], by: Interval) -> int:
    """1 where b is better than a, -1 where it is worse, 0 where that may be chance. by : their `paired_difference`; of a
    handful its percentiles promise too much, so that one must be right more often than the other in FEWEST units."""
    more = (b.argmax(axis=1) == truth).astype(int) - (a.argmax(axis=1) == truth)
    _, where = np.unique(np.asarray(units), return_inverse=True)
    if np.count_nonzero(np.bincount(where, more)) < FEWEST or not (by.low > 0 or by.high < 0):
        return 0
    return 1 if by.value > 0 else -1


def in_points(of: Interval) -> str:
    """ "4 to 20": the ends in percentage points; NO_RANGE where all resamples are alike, which is no certainty."""
    return NO_RANGE if of.high - of.low < 1e-9 else f"{round(100 * of.low)} to {round(100 * of.high)}"


# --- base to novel --------------------------------------------------------------------------------------------------


def harmonic_mean(a: float, b: float) -> float:
    """2 a b / (a + b); 0 where both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def harmonic_means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(base, novel) of each dataset -> (harmonic mean of the two averages, mean of the datasets' harmonic means).

    Tables of this field print either; the second is never the larger one, so both belong in a report.
    """
    if not pairs:
        raise DataError("There are no base and novel accuracies to average.")
    base, novel = np.mean(pairs, axis=0)
    return harmonic_mean(float(base), float(novel)), float(np.mean([harmonic_mean(*pair) for pair in pairs]))


# --- images ---------------------------------------------------------------------------------------------------------


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
    prompts = bound(prompts, backbone)
    if not examples:
        raise DataError("There are no labelled images to evaluate on.")
    unknown = sorted({e.label for e in examples} - set(prompts.labels))
    if unknown:
        raise DataError(
            f"The label {unknown[0]!r} is no class of the prompt set {prompts.name!r}.",
            f"Its classes are: {', '.join(prompts.labels)}.",
        )
    if features is None:
        features = features_of(examples, backbone, progress, prompts.visual_prompt)
    probabilities = prompts.probabilities(features)
    truth = np.asarray([prompts.labels.index(e.label) for e in examples])
    confusion = np.zeros((len(prompts.labels),) * 2, dtype=int)
    np.add.at(confusion, (truth, probabilities.argmax(axis=1)), 1)
    units = [unit(e) for e in examples]
    metrics = with_intervals(truth, probabilities, units)
    return Evaluation(prompts.labels, metrics, confusion, probabilities, truth, tuple(units), len(examples), len(set(units)))
