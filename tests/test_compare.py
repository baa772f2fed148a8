"""Sets side by side: one image forward for all, cases that none has learned from. Run: python -m pytest tests/test_compare.py"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import cohen_kappa_score

import engine
from engine import bench, compare
from engine.evaluate import BINS, ece
from engine.heads import CacheHead, LinearHead
from engine.methods.base import made_set
from engine.tasks import Label

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TASK = engine.Task("hue", "Hue", "any", "any", tuple(Label(c, c.title()) for c in COLOURS), "a {} photo")


class Hue:
    """A backbone that can be followed by hand: an image's feature is its mean colour, of unit length; prompts shift it."""

    id, source, device, dtype, dim, logit_scale = "hue", "made here", "cpu", "float32", 3, 10.0
    preprocess = engine.Preprocess(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", "squash")
    weights_hash = "0" * 64

    def __init__(self) -> None:
        self.forwards = 0

    def encode_images(self, x: torch.Tensor, visual_prompt: Any = None) -> torch.Tensor:
        self.forwards += 1
        mean = x.mean(dim=(2, 3))
        if visual_prompt is not None:
            mean = mean + torch.from_numpy(visual_prompt.tokens[0, 0])
        return torch.nn.functional.normalize(mean, dim=-1)

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        raise NotImplementedError


def a_set(rows: Any = None, backbone: Any = None, labels: tuple[str, ...] = tuple(COLOURS), **more: Any) -> engine.PromptSet:
    """Class embeddings (unit rows) times 10; without any: each class is its own colour."""
    own = {name: np.eye(3, dtype=np.float32)[i] for i, name in enumerate(COLOURS)}
    rows = np.stack([own[name] for name in labels]) if rows is None else np.asarray(rows, dtype=np.float32)
    task = replace(TASK, labels=tuple(Label(c, c.title()) for c in labels))
    head = LinearHead(rows, 10.0, np.zeros(len(rows), np.float32))
    return made_set(engine.METHODS["zero-shot"](), backbone or Hue(), task, head, **more)


SWAPPED = ((0, 1, 0), (1, 0, 0), (0, 0, 1))  # takes red for green


@pytest.fixture
def photographs(tmp_path) -> Callable[..., list[engine.Example]]:
    """Plain images of these colours; label "red" shown as green: ("red", "green")."""

    def made(*named: str | tuple[str, str], patients: tuple[str, ...] = ()) -> list[engine.Example]:
        found = []
        for i, each in enumerate(named):
            label, shown = each if isinstance(each, tuple) else (each, each)
            path = tmp_path / f"{i}.png"
            PIL.Image.new("RGB", (8 + i, 8), COLOURS[shown]).save(path)
            found.append(engine.Example(str(path), label, patients[i] if patients else ""))
        return found

    return made


def plain(name: str, prompts: engine.PromptSet) -> engine.Candidate:
    return engine.candidate(name, prompts, is_ours=True)


# one image


@pytest.fixture(scope="module")
def mini() -> engine.Backbone:
    return engine.load_backbone("scope-mini")


@pytest.fixture(scope="module")
def prepared(mini) -> engine.Input:
    pixels = np.random.default_rng(3).random((70, 90), dtype=np.float32)
    return engine.prepare(engine.Image(pixels), mini.preprocess)


def test_eight_shared_image_sets_cost_one_image_forward_and_equal_prompts_share_one():
    backbone = Hue()
    seen = engine.prepare(engine.Image(np.full((8, 8), 0.5, np.float32)), backbone.preprocess)
    engine.compare_image(seen, backbone, [a_set() for _ in range(8)], None)
    assert backbone.forwards == 1
    prompt, other = (engine.VisualPrompt(np.full((1, 1, 3), v, np.float32)) for v in (0.5, 0.7))
    twin = engine.VisualPrompt(prompt.tokens.copy())
    sets = [a_set(), *(replace(a_set(), visual_prompt=p) for p in (prompt, twin, other)), a_set()]
    backbone.forwards = 0
    engine.compare_image(seen, backbone, sets, None)
    assert backbone.forwards == 3  # without a prompt, the two equal ones, the other


def test_each_answer_is_what_the_set_says_alone(mini):
    image = engine.Image(np.random.default_rng(4).random((60, 60), dtype=np.float32))
    names = ["busi-zero-shot", "busi-biomed-dpt", "busi-coop", "busi-biomedcoop"]  # the second has a visual prompt
    sets = [engine.prompt_set(f"{name}-scope-mini", mini) for name in names]
    assert not sets[1].is_shared_image
    answers = engine.compare_image(engine.prepare(image, mini.preprocess), mini, sets, None)
    for answer, prompts in zip(answers, sets, strict=True):
        alone = engine.predict(image, mini, prompts)
        np.testing.assert_allclose(answer.prediction.probabilities, alone.probabilities, atol=1e-6)
        assert answer.prediction.prompt_set == prompts.name and answer.heatmap is None


def test_maps_are_those_of_explain_in_units_of_the_score(mini, prepared):
    sets = [engine.prompt_set(f"busi-{m}-scope-mini", mini) for m in ("zero-shot", "biomed-dpt", "coop")]
    steep = replace(sets[0].head, scale=np.asarray([5.0, 7.0, 9.0], np.float32))  # as a linear probe: one scale a class
    sets.append(replace(sets[0], head=steep))
    for prompts, answer in zip(sets, engine.compare_image(prepared, mini, sets), strict=True):
        top = answer.prediction.ranked()[0][0]
        (alone,) = engine.explain(prepared, mini, prompts, [top], target="class")
        scale = prompts.head.scale if np.ndim(prompts.head.scale) == 0 else prompts.head.scale[prompts.labels.index(top)]
        assert answer.heatmap.label == top
        np.testing.assert_allclose(answer.heatmap.values, alone.values * scale, rtol=1e-4, atol=1e-9)
    named = engine.compare_image(prepared, mini, sets, label="malignant tumor")
    assert {answer.heatmap.label for answer in named} == {"malignant tumor"}


def test_a_head_without_class_embeddings_has_no_map(mini, prepared):
    shipped = engine.prompt_set("busi-zero-shot", mini)
    keys = shipped.head.embeddings
    cache = CacheHead(shipped.head.embeddings, 100.0, keys, np.eye(3, dtype=np.float32), 1.0, 5.0)
    sets = [shipped, replace(shipped, head=cache, card=shipped.card | {"head": "cache"})]
    first, second = engine.compare_image(prepared, mini, sets)
    assert first.heatmap is not None and second.heatmap is None


def test_more_than_eight_none_and_foreign_sets_are_sentences(mini, prepared):
    shipped = engine.prompt_set("busi-zero-shot", mini)
    with pytest.raises(engine.DataError, match=r"9 are too many to compare at once\. Choose up to 8\."):
        engine.compare_image(prepared, mini, [shipped] * 9)
    with pytest.raises(engine.DataError, match="Nothing was chosen to compare"):
        engine.compare_image(prepared, mini, [])
    with pytest.raises(engine.PromptSetError, match="was made for the backbone 'hue', not 'scope-mini'"):
        engine.compare_image(prepared, mini, [shipped, a_set()])


def said(*tops: tuple[str, engine.PromptSet]) -> list[str]:
    """The sentences where the sets say this."""
    answers = []
    for top, prompts in tops:
        p = np.asarray([0.8 if label == top else 0.1 for label in prompts.labels])
        answers.append(engine.Answer(engine.Prediction(prompts.labels, p, "", "", ""), None))
    return engine.agreement([f"S{i}" for i in range(1, len(tops) + 1)], [p for _, p in tops], answers)


def test_agreement_is_a_sentence_for_each_question():
    hue, turned = a_set(), a_set(labels=("blue", "red", "green"))
    other = a_set(labels=("red", "blue"), rows=((1, 0, 0), (0, 0, 1)))
    assert said(("red", hue), ("red", turned), ("red", hue)) == ["All 3 say Red."]
    assert said(("red", hue), ("red", turned)) == ["Both say Red."]
    assert said(("red", hue), ("red", turned), ("blue", hue)) == ["2 of 3 say Red; S3 says Blue."]
    assert said(("red", hue), ("blue", hue)) == ["They do not agree: S1 says Red; S2 says Blue."]
    tie = ("red", hue), ("red", hue), ("blue", hue), ("blue", hue)
    assert said(*tie) == ["They do not agree: S1 says Red; S2 says Red; S3 says Blue; S4 says Blue."]
    assert said(("red", hue), ("red", other)) == []  # two questions: nothing to agree on
    assert said(("red", hue), ("red", other), ("red", turned)) == ["Hue: both say Red."]


# labelled cases


def test_metrics_differences_and_groups_are_those_worked_out_by_hand(photographs):
    """Five images, the fourth shown in a misleading colour. A: each class its colour; B: red and green swapped."""
    examples = photographs("red", "green", "blue", ("blue", "red"), "blue")
    found = engine.compare_cases(examples, Hue(), [plain("A", a_set()), plain("B", a_set(SWAPPED))])
    a, b = found.columns
    assert a.metrics["accuracy"].value == 4 / 5 and b.metrics["accuracy"].value == 2 / 5
    assert a.metrics["balanced_accuracy"].value == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert b.metrics["balanced_accuracy"].value == pytest.approx((0 + 0 + 2 / 3) / 3)
    assert a.differences == {} and b.differences["accuracy"].value == pytest.approx(-2 / 5)
    high = np.exp(10) / (np.exp(10) + 2)  # softmax of (10, 0, 0)
    np.testing.assert_allclose(a.probabilities.max(axis=1), high, atol=1e-6)
    assert found.right.tolist() == [[True, True, True, False, True], [False, False, True, False, True]]
    assert engine.right_where(found) == [
        ("Only A is right", [0, 1]),
        ("None is right", [3]),
        ("All are right", [2, 4]),
    ]
    # A calls r g b r b, B calls g r b g b: the same in 2 of 5
    assert found.same.tolist() == [[1, 0.4], [0.4, 1]]
    chance = (2 * 1 + 1 * 2 + 2 * 2) / 25
    assert found.kappa[0, 1] == pytest.approx((0.4 - chance) / (1 - chance))
    assert found.measure == "balanced_accuracy"  # 3 of a class against 1 of another
    assert found.ahead == 0 and found.behind["B"].value == pytest.approx(2 / 3)


def test_three_sets_are_grouped_by_who_is_right(photographs):
    examples = photographs("red", "green", "blue", "blue")
    turned = a_set(((0, 0, 1), (0, 1, 0), (1, 0, 0)))  # red and blue swapped
    found = engine.compare_cases(examples, Hue(), [plain("A", a_set()), plain("B", a_set(SWAPPED)), plain("C", turned)])
    assert engine.right_where(found) == [
        ("Only A is right", [0]),
        ("All but B are right", [1]),
        ("All but C are right", [2, 3]),
    ]


def test_differences_are_the_engines_own_on_resamples_of_patients(photographs):
    examples = photographs("red", "green", ("green", "blue"), "blue", "red", patients=("p1", "p1", "p2", "p2", "p3"))
    found = engine.compare_cases(examples, Hue(), [plain("A", a_set()), plain("B", a_set(SWAPPED))])
    units = [e.patient for e in examples]
    for name in ("accuracy", "balanced_accuracy", "auroc"):
        both = [c.probabilities for c in found.columns]
        assert found.columns[1].differences[name] == engine.paired_difference(found.truth, *both, units, name)
    assert found.units == 3 and found.unknown == 0
    assert "The cases come from 3 patients or groups; the intervals count these, not the images." in engine.comparison_care(
        found
    )
    anonymous = engine.compare_cases(photographs("red", "green"), Hue(), [plain("A", a_set())])
    words = "The patient of 2 cases is not known: several of one person make intervals too narrow."
    assert words in engine.comparison_care(anonymous)


def test_sets_with_their_classes_in_another_order_are_aligned_by_name(photographs):
    examples = photographs("red", "green", "blue")
    turned = a_set(labels=("blue", "red", "green"))
    found = engine.compare_cases(examples, Hue(), [plain("A", a_set()), plain("B", turned)])
    np.testing.assert_allclose(found.columns[0].probabilities, found.columns[1].probabilities, atol=1e-6)
    assert found.labels == ("red", "green", "blue") and found.right.all()


def training(
    cases: dict[int, list[float]], design: str, labels: tuple[str, ...] = tuple(COLOURS), learned: Any = None
) -> dict[str, Any]:
    """learned : {case: (file, *units)}, else just the cases that its folds left out."""
    rows = [{"case": case, "truth": 0, "tuned": row} for case, row in cases.items()]
    known = {case: ("",) for case in cases} if learned is None else learned
    seen = [{"case": case, "file": file, "units": units} for case, (file, *units) in known.items()]
    return {"design": design, "labels": list(labels), "cases": rows, "learned": seen}


def by_id(ids: Sequence[int], examples: list[engine.Example]) -> dict[int, engine.Example]:
    return dict(zip(ids, examples, strict=True))


LEARNED = {"data": {"images": 6, "shots": 2, "seed": 1, "sampler": None}}


def test_a_set_that_was_learned_here_is_judged_by_what_its_folds_said(photographs):
    """The set itself is always right; case 13 was labelled after the training. Trainings' classes are in another order."""
    examples, ids = photographs("red", "green", "blue"), [11, 12, 13]
    order = ("blue", "green", "red")
    right = training({11: [0.1, 0.2, 0.7], 12: [0.1, 0.6, 0.3]}, "cross-validated", order)
    mistaken = training({11: [0.7, 0.2, 0.1], 12: [0.1, 0.6, 0.3]}, "cross-validated", order)
    tuned = engine.candidate("tuned", a_set(**LEARNED), False, by_id(ids, examples), right)
    wrong = engine.candidate("wrong", a_set(**LEARNED), False, by_id(ids, examples), mistaken)
    found = engine.compare_cases(examples, Hue(), [tuned, wrong])
    assert found.cases == (0, 1, 2) and found.left_out == 0
    assert found.columns[0].judged == found.columns[1].judged == compare.HELD
    np.testing.assert_allclose(found.columns[0].probabilities[:2], [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1]])
    assert found.columns[0].probabilities[2, 2] == pytest.approx(np.exp(10) / (np.exp(10) + 2))  # asked itself
    assert found.right.tolist() == [[True, True, True], [False, True, True]]


def test_cases_that_a_set_with_a_test_split_has_learned_from_count_for_nobody(photographs):
    examples, ids = photographs("red", "green", "blue", "red"), [1, 2, 3, 4]
    cases = by_id(ids, examples)
    said = training({2: [0.1, 0.8, 0.1], 4: [0.2, 0.7, 0.1]}, "held-out", learned={1: ("",), 3: ("",)})
    held = engine.candidate("held", a_set(**LEARNED), False, cases, said)
    found = engine.compare_cases(examples, Hue(), [plain("A", a_set()), held])
    assert found.cases == (1, 3) and found.left_out == 2
    assert found.right.tolist() == [[True, True], [True, False]]
    assert "2 labelled cases are left out: one of the sets has learned from them." in engine.comparison_care(found)
    for design in ("held-out", "none"):
        every = training({}, design, learned={case: ("",) for case in ids})
        nothing = engine.candidate("nothing", a_set(**LEARNED), False, cases, every)
        with pytest.raises(engine.DataError, match="'nothing' has learned from all of these cases"):
            engine.compare_cases(examples, Hue(), [nothing])


@pytest.mark.parametrize("design", ["cross-validated", "held-out", "none"])
def test_a_case_that_came_later_is_new_unless_its_image_or_patient_was_learned_from(photographs, design):
    """5 : of a stranger; 6 : of P1, of whom case 1 is; 7 : the file of a case that is gone; 8 : of P9, whose cases are gone;
    9 : a near twin of case 2, which is in a group only since 9 came."""
    examples = photographs(*["red"] * 7, patients=("P1", "", "P2", "P1", "", "P9", ""))
    examples[1], examples[6] = (replace(examples[i], group="G2") for i in (1, 6))
    same = engine.store.digest_of(examples[4].path)
    learned = {1: ("", "P1"), 2: ("",), 3: (same,), 4: ("", "P9")}
    said = {} if design == "none" else {1: [0.8, 0.1, 0.1], 2: [0.8, 0.1, 0.1]}
    cases = by_id([1, 2, 5, 6, 7, 8, 9], examples)
    of = engine.candidate("of", a_set(**LEARNED), False, cases, training(said, design, learned=learned))
    found = dict(zip(cases, of.learned, strict=True))
    assert [case for case, is_learned in found.items() if is_learned] == [*([] if said else [1, 2]), 6, 7, 8, 9]
    assert np.isnan(of.held[2]).all()  # the stranger's: the set itself is asked


def test_what_is_known_of_a_sets_learning_is_said(photographs):
    assert engine.candidate("a", a_set(), False).judged == compare.WORDS
    assert engine.candidate("a", a_set(**LEARNED), True).judged == compare.ELSEWHERE
    suspect = engine.candidate("a", a_set(**LEARNED), False)
    assert suspect.judged == compare.MAY_HAVE_SEEN
    found = engine.compare_cases(photographs("red", "green"), Hue(), [suspect])
    assert "a: may have seen these cases while it learned: its numbers may be too good." in engine.comparison_care(found)
    shipped = engine.compare_cases(photographs("red", "green"), Hue(), [engine.candidate("s", a_set(**LEARNED), True)])
    assert engine.comparison_care(shipped)[0] == (
        "s: learned elsewhere: if your images are of the public data set that it learned from, its numbers may be too good."
    )
    assert "2 cases are few: the intervals are wide." in engine.comparison_care(found)
    assert "No case shows Blue." in engine.comparison_care(found)


def test_the_image_tower_runs_once_for_all_sets_and_not_for_cases_that_folds_answered(photographs):
    backbone, examples = Hue(), photographs("red", "green", "blue")
    engine.compare_cases(examples, backbone, [plain(f"S{i}", a_set()) for i in range(8)])
    assert backbone.forwards == 1 + compare.TIMED  # a batch of three, and the runs that are timed
    backbone.forwards = 0
    every = training({i: [0.5, 0.3, 0.2] for i in range(3)}, "cross-validated")
    engine.compare_cases(
        examples, backbone, [engine.candidate("t", a_set(**LEARNED), False, by_id(range(3), examples), every)]
    )
    assert backbone.forwards == compare.TIMED


def test_what_will_be_encoded_can_be_asked_before(photographs):
    examples = photographs("red", "green", "blue")
    prompt = engine.VisualPrompt(np.full((1, 1, 3), 0.5, np.float32))
    kept = training({0: [0.5, 0.3, 0.2], 1: [0.1, 0.8, 0.1]}, "cross-validated")
    tuned = engine.candidate(
        "tuned", replace(a_set(**LEARNED), visual_prompt=prompt), False, by_id(range(3), examples), kept
    )
    (none, every), (own, rest) = engine.to_read(examples, [plain("A", a_set()), tuned])
    assert none is None and every == examples
    assert own is prompt and rest == examples[2:]


def test_what_cannot_be_compared_is_a_sentence(photographs):
    examples = photographs("red", "green")
    two = a_set(labels=("red", "green"), rows=((1, 0, 0), (0, 1, 0)))
    with pytest.raises(engine.DataError, match=r"'B' tells red, green apart, 'A' red, green, blue\. Compare sets"):
        engine.compare_cases(examples, Hue(), [plain("A", a_set()), plain("B", two)])
    with pytest.raises(engine.DataError, match="'blue' is no class of 'B'"):
        engine.compare_cases(photographs("blue"), Hue(), [plain("B", two)])
    with pytest.raises(engine.DataError, match="no labelled cases to compare on"):
        engine.compare_cases([], Hue(), [plain("A", a_set())])
    with pytest.raises(engine.DataError, match="9 are too many"):
        engine.compare_cases(examples, Hue(), [plain(f"S{i}", a_set()) for i in range(9)])


def test_calibration_and_kappa_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    truth, p = rng.integers(0, 3, 400), rng.dirichlet([1, 1, 1], 400)
    top, right = p.max(axis=1), p.argmax(axis=1) == truth
    share, confidence = calibration_curve(right, top, n_bins=BINS, strategy="uniform")
    bins = compare.calibration(truth, p)
    np.testing.assert_allclose([b.accuracy for b in bins], share)
    np.testing.assert_allclose([b.confidence for b in bins], confidence)
    gaps = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / 400
    assert sum(b.count for b in bins) == 400 and gaps == pytest.approx(ece(truth, p))
    other = np.where(rng.random(400) < 0.6, truth, rng.integers(0, 3, 400))
    assert compare.cohens_kappa(truth, other, 3) == pytest.approx(cohen_kappa_score(truth, other))
    assert compare.cohens_kappa(np.zeros(4, int), np.zeros(4, int), 3) == 1.0


def test_the_answer_comes_first_and_chance_is_called_chance(photographs):
    many = photographs(*(["red", "green", "blue"] * 8))
    found = engine.compare_cases(many, Hue(), [plain("A", a_set()), plain("B", a_set(SWAPPED)), plain("C", a_set())])
    first, second, third = engine.comparison_words(found)
    assert first == "No clear winner. Ahead is A, right in 24 of 24 cases, 100% (too few cases for a range)."
    low, high = (100 * v for v in (found.behind["B"].low, found.behind["B"].high))
    assert second == f"Clearly better than B (by 67 points, {low:.0f} to {high:.0f})."
    assert third == "No clear difference from C (by 0 points, too few cases for a range): this may be chance."
    clear = engine.compare_cases(many, Hue(), [plain("B", a_set(SWAPPED)), plain("A", a_set())])
    assert engine.comparison_words(clear)[0] == "Best: A, right in 24 of 24 cases, 100% (too few cases for a range)."


@pytest.mark.parametrize(("patients", "is_clear"), [(5, False), (6, True)])
def test_a_handful_that_all_agree_is_no_clear_winner(photographs, patients, is_clear):
    """B is wrong in all twelve, A in none: five patients may be chance (2 / 2**5 > 5 %), six not (2 / 2**6 < 5 %)."""
    examples = photographs(*["red", "green"] * 6, patients=tuple(f"p{i % patients}" for i in range(12)))
    found = engine.compare_cases(examples, Hue(), [plain("A", a_set()), plain("B", a_set(SWAPPED))])
    assert (found.clear == {"B"}) == is_clear
    assert engine.comparison_words(found)[0].startswith("Best: A" if is_clear else "No clear winner. Ahead is A")


def test_the_cost_is_seconds_and_bytes(photographs, tmp_path):
    prompts = a_set()
    (column,) = engine.compare_cases(photographs("red"), Hue(), [plain("A", prompts)]).columns
    assert column.size == prompts.export(tmp_path / "one.safetensors").stat().st_size
    assert 0 < column.forward_s < 1 and 0 < column.scoring_s < 1


def test_the_rows_for_programs_are_json_and_say_the_same(photographs):
    found = engine.compare_cases(photographs("red", "red"), Hue(), [plain("A", a_set()), plain("B", a_set(SWAPPED))])
    rows = json.loads(json.dumps(engine.comparison_rows(found), allow_nan=False))
    assert rows["sets"][0]["metrics"]["accuracy"] == [1.0, 1.0, 1.0]
    assert rows["sets"][0]["metrics"]["auroc"] == [None, None, None]  # only one class occurs
    assert rows["sets"][1]["differences"]["accuracy"][0] == -1.0
    assert rows["right"] == {"A": [True, True], "B": [False, False]}
    assert not any(Path(e).name in str(rows) for e in ("0.png", "1.png"))


def test_the_bench_measures_this_path(monkeypatch):
    """Eight sets and one, each with one image forward of its own; the small backbone in the large one's place."""
    backbone, answered = Hue(), []
    real = engine.compare_image

    def compared(*about):
        answers = real(*about)
        answered.append(len(answers))
        return answers

    monkeypatch.setattr(bench, "default", lambda: backbone)
    monkeypatch.setattr(bench, "tower_bytes", lambda backbone: 0)
    monkeypatch.setattr(bench, "random_prompts", lambda backbone, seed: a_set())
    monkeypatch.setattr(engine, "compare_image", compared)
    found = bench.compare8_over_1()
    assert answered.count(8) == answered.count(1) == len(answered) / 2
    assert backbone.forwards == len(answered)
    one, eight = (found["parts"][each]["ms"] for each in ("one", "eight"))
    assert found["value"] == eight / one and one > 0
