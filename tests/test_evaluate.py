"""Metrics, their intervals, and the features they are computed from. Run: python -m pytest tests/test_evaluate.py"""

from __future__ import annotations

import time

import numpy as np
import PIL.Image
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score, roc_auc_score, roc_curve

import engine
from engine.errors import DataError, ImageError
from engine.evaluate import (
    METRICS,
    accuracy,
    auroc,
    balanced_accuracy,
    deciding_measure,
    ece,
    harmonic_mean,
    harmonic_means,
    macro_f1,
    paired_difference,
    sensitivity_at,
    specificity,
    with_intervals,
)
from engine.features import features_of


def case(seed: int, n: int = 120, classes: int = 4, step: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """truth (n,), probabilities (n, classes); logits are rounded to `step`, so that many scores are equal."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    logits = np.round((rng.normal(size=(n, classes)) + np.eye(classes)[truth]) / step) * step
    if seed % 2:
        logits = np.round(logits)  # few distinct values
        return truth, np.exp(logits)  # not normalised: ties across images stay exact
    return truth, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def slow_specificity(truth: np.ndarray, p: np.ndarray) -> float:
    counts = confusion_matrix(truth, p.argmax(axis=1), labels=range(p.shape[1]))
    found = []
    for c in np.unique(truth):
        others = np.delete(counts, c, axis=0)
        found.append(1 - others[:, c].sum() / others.sum())
    return float(np.mean(found))


def slow_sensitivity(truth: np.ndarray, p: np.ndarray) -> float:
    found = []
    for c in np.unique(truth):
        fpr, tpr, _ = roc_curve(truth == c, p[:, c], drop_intermediate=False)
        found.append(tpr[fpr <= 0.1 + 1e-9].max())
    return float(np.mean(found))


def slow_ece(truth: np.ndarray, p: np.ndarray) -> float:
    """Guo et al., eq. 3, bin by bin."""
    top, right, total = p.max(axis=1), p.argmax(axis=1) == truth, 0.0
    for m in range(15):
        within = (top > m / 15) & (top <= (m + 1) / 15)
        if within.any():
            total += within.mean() * abs(right[within].mean() - top[within].mean())
    return total


SLOW = {
    "accuracy": lambda t, p: accuracy_score(t, p.argmax(axis=1)),
    "balanced_accuracy": lambda t, p: recall_score(t, p.argmax(axis=1), average="macro", labels=np.unique(t)),
    "macro_f1": lambda t, p: f1_score(t, p.argmax(axis=1), average="macro", labels=np.unique(t), zero_division=0),
    "auroc": lambda t, p: np.mean([roc_auc_score(t == c, p[:, c]) for c in np.unique(t)]),
    "specificity": slow_specificity,
    "sensitivity_at_90_specificity": slow_sensitivity,
    "ece": slow_ece,
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_a_metric_equals_scikit_learns_also_with_ties(name, seed):
    truth, p = case(seed)
    if name == "ece":
        p = p / p.sum(axis=1, keepdims=True)
    assert METRICS[name](truth, p) == pytest.approx(SLOW[name](truth, p), abs=1e-12)
    assert isinstance(METRICS[name](truth, p), float)


@pytest.mark.parametrize("name", METRICS)
def test_weights_count_an_image_as_often_as_it_was_drawn(name):
    truth, p = case(2, n=60)
    rng = np.random.default_rng(0)
    weights = np.stack([np.bincount(rng.integers(0, 60, 60), minlength=60) for _ in range(5)]).astype(float)
    weights[4, truth == 3] = 0  # a class that is missed
    found = METRICS[name](truth, p, weights)
    rows = [np.repeat(np.arange(60), w.astype(int)) for w in weights]
    np.testing.assert_allclose(found, [SLOW[name](truth[r], p[r]) for r in rows], atol=1e-12)


def test_metrics_by_hand():
    truth = np.array([0, 0, 0, 1])
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    assert accuracy(truth, p) == 3 / 4
    assert balanced_accuracy(truth, p) == pytest.approx((2 / 3 + 1) / 2)
    assert macro_f1(truth, p) == pytest.approx(
        (4 / 5 + 2 / 3) / 2
    )  # 2 TP / (2 TP + FP + FN): 4 / (4 + 0 + 1), 2 / (2 + 1 + 0)
    assert specificity(truth, p) == pytest.approx((1 + 2 / 3) / 2)
    assert auroc(truth, p) == pytest.approx(2 / 3)  # 0.6 beats 0.1 and 0.2, loses to 0.7; the same for class 0
    # class 0 above 0.4: 0.9 and 0.8 of three. class 1: 0.7 is of the other class and 1 of 3 is too many, so none
    assert sensitivity_at(truth, p) == pytest.approx((2 / 3 + 0) / 2)
    assert sensitivity_at(truth, p, specificity=0.6) == pytest.approx((2 / 3 + 1) / 2)
    assert ece(truth, p) == pytest.approx((0.1 + 0.2 + 0.7 + 0.4) / 4)  # four bins of one image each


def test_ties_count_half_in_the_auroc():
    assert auroc(np.array([0, 0, 1, 1]), np.full((4, 2), 0.5)) == 0.5
    assert auroc(np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])) == 3.5 / 4


@pytest.mark.parametrize(("above", "wanted"), [(1, 1 / 2), (2, 0)])
def test_ninety_per_cent_of_ten_is_nine(above, wanted):
    """1 - 0.9 is less than a tenth in binary: 9 of 10 must be enough all the same, 8 of 10 must not."""
    truth = np.array([0] * 10 + [1] * 2)
    scores = np.array(
        [*[0.8] * above, *[0.1] * (10 - above), 0.7, 0.05]
    )  # so many of the ten are above the first of class 1
    of_class_0 = 0  # the most certain image of "class 0" is one of class 1, and that is half of them
    found = sensitivity_at(truth, np.stack([1 - scores, scores], axis=1))
    assert found == pytest.approx((of_class_0 + wanted) / 2)


def test_a_perfectly_calibrated_certainty_has_no_error_and_an_overconfident_one_its_gap():
    truth = np.array([0, 0, 0, 1])
    assert ece(truth, np.tile([0.75, 0.25], (4, 1))) == pytest.approx(0)
    assert ece(truth, np.tile([1.0, 0.0], (4, 1))) == pytest.approx(0.25)


def test_one_class_alone_has_no_auroc_and_no_interval_of_it():
    truth, p = np.zeros(4, int), np.tile([0.7, 0.3], (4, 1))
    found = with_intervals(truth, p, list("abcd"), resamples=20)
    for name in ("auroc", "specificity", "sensitivity_at_90_specificity"):
        assert np.isnan([found[name].value, found[name].low, found[name].high]).all()
    assert found["accuracy"].value == found["accuracy"].low == 1


# --- intervals ---------------------------------------------------------------------------------------------------------


def test_the_intervals_are_those_of_resampled_rows_written_out():
    """The road by weights and the road by concatenated rows (scikit-learn's metrics) draw the same and find the same."""
    truth, p = case(4, n=60)
    units = [f"p{i // 3}" for i in range(60)]
    names, where = np.unique(units, return_inverse=True)
    members = [np.flatnonzero(where == u) for u in range(len(names))]
    rng, drawn = np.random.default_rng(9), {name: [] for name in METRICS}
    for _ in range(40):
        rows = np.concatenate([members[u] for u in rng.integers(0, 20, 20)])
        for name in METRICS:
            drawn[name].append(SLOW[name](truth[rows], p[rows]))
    found = with_intervals(truth, p, units, seed=9, resamples=40)
    for name, interval in found.items():
        assert interval.value == pytest.approx(SLOW[name](truth, p))
        assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(drawn[name], [2.5, 97.5]))), name


def test_the_size_of_a_step_changes_nothing(monkeypatch):
    truth, p = case(0)
    units = [str(i // 2) for i in range(120)]
    whole = with_intervals(truth, p, units, resamples=50)
    monkeypatch.setitem(with_intervals.__globals__, "AT_ONCE", 1000)  # engine.evaluate is the function of that name
    assert with_intervals(truth, p, units, resamples=50) == whole


def test_a_thousand_resamples_of_2000_images_take_seconds():
    truth, p = case(0, n=2000, classes=5, step=1e-6)
    start = time.perf_counter()
    with_intervals(truth, p, [str(i) for i in range(2000)])
    assert time.perf_counter() - start < 30  # 2 s or less; scikit-learn in the loop took 21 for 500 images


def test_a_paired_difference_is_narrower_than_the_two_apart_and_has_the_sign_of_b_minus_a():
    truth, a = case(0, n=300)
    b = a.copy()
    b[:30] = np.eye(4)[truth[:30]]  # b is right on the first 30, and otherwise like a
    units = [str(i) for i in range(300)]
    found = paired_difference(truth, a, b, units)
    assert found.value == pytest.approx(accuracy(truth, b) - accuracy(truth, a)) and 0 < found.low < found.value < found.high
    alone = with_intervals(truth, a, units)["accuracy"]
    assert found.high - found.low < alone.high - alone.low
    back = paired_difference(truth, b, a, units)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    same = paired_difference(truth, a, a, units, "auroc")
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_paired_difference_resamples_whole_units():
    truth = np.tile([0, 1], 50)
    b = np.eye(2)[truth]
    a = b.copy()
    a[40:] = 1 - a[40:]  # as good as b on two of five patients, wrong on three
    together, apart = ([str(i // size) for i in range(100)] for size in (20, 1))
    wide, narrow = (paired_difference(truth, a, b, units) for units in (together, apart))
    assert wide.value == narrow.value == pytest.approx(0.6)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)  # sqrt(20) times in the limit


def test_an_unknown_metric_is_named_with_the_choices():
    truth, p = case(0)
    with pytest.raises(DataError, match=r"no metric called 'f1'.*macro_f1"):
        paired_difference(truth, p, p, ["a"] * 120, "f1")


# --- base to novel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "novel", "wanted"),
    [
        (47.84, 65.42, 55.27),
        (73.85, 64.75, 69.00),
        (72.26, 67.03, 69.55),
        (68.36, 64.08, 66.15),
        (71.67, 66.93, 69.22),
        (76.26, 73.92, 75.07),
    ],
)
def test_the_harmonic_means_of_the_published_averages(base, novel, wanted):
    """methods/biomedcoop.md, 5.5, last column."""
    assert harmonic_mean(base, novel) == pytest.approx(wanted, abs=0.005)


def test_harmonic_means_two_ways():
    of_averages, average = harmonic_means([(1.0, 0.5), (0.5, 1.0)])
    assert of_averages == pytest.approx(0.75) and average == pytest.approx(2 / 3)
    assert harmonic_means([(0.6, 0.4)]) == pytest.approx((0.48, 0.48))
    assert harmonic_mean(0, 0) == 0
    with pytest.raises(DataError, match="no base and novel"):
        harmonic_means([])


# --- features ----------------------------------------------------------------------------------------------------------


class Encoder:
    """Stands for a backbone where the images matter, not the weights: the mean of each colour plane."""

    def __init__(self):
        self.preprocess = engine.load_backbone("scope-mini").preprocess
        self.images = 0

    def encode_images(self, x, visual_prompt=None):
        self.images += len(x)
        return x.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("Doe^Jane")
    for i in range(3):
        PIL.Image.fromarray(np.full((20, 20), 60 * i, np.uint8)).save(folder / f"{i}.png")
    return [engine.Example(str(folder / f"{i}.png"), "a") for i in range(3)], folder


def test_features_come_in_the_order_of_the_examples(images):
    examples, _ = images
    done = []
    found = features_of(examples, Encoder(), lambda *steps: done.append(steps))
    assert found.shape == (3, 3) and (np.diff(found, axis=0) > 0).all() and done == [(3, 3)]


def test_an_unreadable_file_is_named_without_its_folder(images):
    examples, folder = images
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    with pytest.raises(ImageError, match=r"broken\.png") as caught:
        features_of([*examples, engine.Example(str(folder / "broken.png"), "a")], Encoder())
    assert "Doe" not in str(caught.value)


def test_a_reader_that_names_no_file_is_helped_out(images, monkeypatch):
    def fail(path):
        raise ImageError("A window of width 0 cannot be applied.", "Set the window.")

    monkeypatch.setitem(features_of.__globals__, "read_image", fail)
    with pytest.raises(ImageError, match=r"^The file '0\.png' cannot be read: A window of width 0.* Set the window\.$"):
        features_of(images[0], Encoder())


def test_missing_files_are_counted_before_anything_is_encoded(images):
    examples, folder = images
    encoder = Encoder()
    absent = [engine.Example(str(folder / name), "a") for name in ("gone.png", "lost.png", "x" * 300, "a\0b")]
    with pytest.raises(ImageError, match=r"^4 of 7 files are missing, the first is 'gone\.png'\.$"):
        features_of([*examples, *absent], encoder)
    assert encoder.images == 0


def test_features_that_are_no_numbers_are_refused_with_the_files_name(images):
    encoder = Encoder()
    encoder.encode_images = lambda x, p=None: x.mean(dim=(2, 3)).where(x.mean(dim=(1, 2, 3))[:, None] < -0.5, float("nan"))
    with pytest.raises(DataError, match=r"The features of '2\.png' are not finite") as caught:
        features_of([*images[0][:1], *images[0][2:]], encoder)
    assert "Doe" not in str(caught.value)


def test_balanced_accuracy_decides_where_a_class_has_more_than_twice_the_cases_of_another_that_occurs():
    for counts, measure in (((4, 8), "accuracy"), ((4, 9), "balanced_accuracy"), ((0, 5, 8), "accuracy")):
        assert deciding_measure(np.repeat(np.arange(len(counts)), counts)) == measure
    assert deciding_measure(np.arange(0)) == "accuracy"
