"""Studies: who is judged by what, the numbers by a second road, and the words.

python -m pytest tests/test_study.py
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

import engine
from app import gallery
from engine.evaluate import clearly, paired_difference
from engine.methods.base import LabelledFeatures, learn_stacked
from engine.study import _data, _Design, _design, _headline, _method, grouped_folds
from engine.types import Example, Interval

SCHEMA = json.loads((Path(engine.__file__).parent.parent / "assets/schemas/result.json").read_text())
TASK = engine.Task(
    "colours", "Which colour?", "any", "any", (engine.Label("red", "Red"), engine.Label("green", "Green")), "{}."
)


class Colours:
    """A backbone whose features are an image's mean red, green and blue; its words for red and green are right or swapped."""

    id, source, device, dtype, dim, logit_scale = "colours", "here", "cpu", "float32", 3, 10.0
    preprocess = engine.Preprocess(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def __init__(self, swapped: bool = False):
        self.words = {"red": [0.0, 1.0, 0.0], "green": [1.0, 0.0, 0.0]} if swapped else {}
        self.words = self.words or {"red": [1.0, 0.0, 0.0], "green": [0.0, 1.0, 0.0]}
        self.weights_hash = "0" * 63 + str(int(swapped))

    def encode_images(self, x, visual_prompt=None):
        return torch.nn.functional.normalize(x.mean(dim=(2, 3)), dim=-1)

    def encode_texts(self, texts):
        return torch.tensor([next(v for k, v in self.words.items() if k in text) for text in texts])


def picture(path: Path, colour: tuple[int, int, int]) -> str:
    PIL.Image.new("RGB", (8, 8), colour).save(path)
    return str(path)


@pytest.fixture
def colours(tmp_path) -> list[Example]:
    """Four patients a class with two images each, of slightly different shades."""
    made = []
    for c, name in enumerate(TASK.names):
        for p in range(4):
            for i in range(2):
                shade = (200 - 5 * p, 40 + 3 * i, 30)
                file = picture(tmp_path / f"{name}{p}{i}.png", shade if c == 0 else (shade[1], shade[0], shade[2]))
                made.append(Example(file, name, patient=f"{name}-{p}"))
    return made


@pytest.fixture(scope="session")
def mini() -> engine.Backbone:
    return engine.load_backbone("scope-mini")


@pytest.fixture(scope="session")
def noise(tmp_path_factory) -> list[Example]:
    """Three images of random blocks a class of BUSI, brighter from class to class."""
    place, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    made = []
    for c, name in enumerate(engine.task("busi").names):
        for i in range(3):
            blocks = rng.integers(0, 100, (8, 8)).astype(np.uint8) + 70 * c
            file = place / f"{c}{i}.png"
            PIL.Image.fromarray(np.kron(blocks, np.ones((8, 8), np.uint8))).save(file)
            made.append(Example(str(file), name))
    return made


def ran(backbone, task, examples, plan, folder, **more):
    prompts, result = engine.study(backbone, task, examples, plan, folder, **more)
    jsonschema.validate(result, SCHEMA)
    assert json.loads((folder / "result.json").read_text()) == result
    assert engine.PromptSet.load(folder / "prompts").card == prompts.card
    return prompts, result


# --- who is judged by what -------------------------------------------------------------------------------------------


def test_folds_keep_patients_whole_and_judge_everybody_once():
    rng = np.random.default_rng(3)
    examples = [Example(f"{i}", "abc"[rng.integers(3)], patient=f"{rng.integers(18)}") for i in range(90)]
    folds = grouped_folds(examples, 5, 1)
    assert len(folds) == 5
    assert sorted(np.concatenate([judged for _, judged in folds])) == list(range(90))
    for learned, judged in folds:
        assert not {examples[i].patient for i in learned} & {examples[i].patient for i in judged}
        assert {examples[i].label for i in learned} == set("abc")
        assert sorted([*learned, *judged]) == list(range(90))
    assert all(
        (a == b).all()
        for one, two in zip(folds, grouped_folds(examples, 5, 1), strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_classes_are_alike_in_each_fold():
    examples = [Example(f"{i}", "a" if i < 20 else "b") for i in range(30)]
    for _, judged in grouped_folds(examples, 5, 1):
        assert Counter(examples[i].label for i in judged) == {"a": 4, "b": 2}


def test_there_are_as_many_folds_as_the_rarest_class_has_patients():
    examples = [Example(f"a{i}", "a") for i in range(9)] + [Example(f"b{i}", "b", patient=f"{i // 2}") for i in range(6)]
    assert len(grouped_folds(examples, 5, 1)) == 3


def test_a_class_of_one_patient_cannot_be_folded():
    assert (
        grouped_folds([Example(f"a{i}", "a") for i in range(9)] + [Example("b", "b", "p"), Example("c", "b", "p")], 5, 1)
        == []
    )


def test_nothing_is_learned_from_a_patient_who_is_judged(tmp_path):
    """Each patient has four equal images and a class by chance: whoever peeks is right always, whoever does not, by chance."""
    rng = np.random.default_rng(5)
    examples = []
    for p in range(16):
        colour, name = tuple(int(x) for x in rng.integers(0, 255, 3)), TASK.names[p % 2]
        examples += [Example(picture(tmp_path / f"{p}{i}.png", colour), name, patient=f"{p}") for i in range(4)]
    for method in ("linear-probe", "tip-adapter"):
        _, result = ran(Colours(), TASK, examples, engine.Plan(method), tmp_path)
        assert result["design"] == "cross-validated" and result["patients"] == 16
        assert result["arms"]["tuned"]["metrics"]["accuracy"][0] < 0.75
        assert result["arms"]["baseline"]["metrics"]["accuracy"][0] < 0.75


def test_out_of_fold_probabilities_are_those_of_probes_that_did_not_see_the_fold(colours, tmp_path):
    backbone, plan = Colours(), engine.Plan("linear-probe")
    _, result = ran(backbone, TASK, colours, plan, tmp_path, ids=range(100, 116))
    found = {row["case"]: row["tuned"] for row in result["cases"]}
    assert sorted(found) == list(range(100, 116))
    features = engine.features_of(colours, backbone)
    y = np.asarray([TASK.names.index(e.label) for e in colours])
    for learned, judged in grouped_folds(colours, 5, plan.seed):
        inner = _data(_method(TASK, plan), colours, features[None], y, learned, plan.seed)
        probe = engine.METHODS["linear-probe"]().learn(backbone, TASK, inner)
        assert np.allclose([found[100 + i] for i in judged], probe.probabilities(features[judged]), atol=1e-6)  # rounding


def test_what_is_chosen_on_comes_from_within_the_fold(colours):
    y = np.asarray([TASK.names.index(e.label) for e in colours])
    views = np.arange(2 * 16 * 3, dtype=np.float32).reshape(2, 16, 3)
    for learned, _ in grouped_folds(colours, 5, 1):
        data = _data(engine.METHODS["tip-adapter"](), colours, views, y, learned, 1)
        rows = [int(np.flatnonzero((views[0] == row).all(axis=1))[0]) for row in data.views[0]]
        held = [int(np.flatnonzero((views[0] == row).all(axis=1))[0]) for row in data.validation]
        assert sorted(rows + held) == sorted(learned)
        assert not {colours[i].patient for i in rows} & {colours[i].patient for i in held}
        assert (data.targets == y[rows]).all() and (data.validation_targets == y[held]).all() and set(y[held]) == {0, 1}
        plain = _data(engine.METHODS["clip-adapter"](), colours, views, y, learned, 1)
        assert plain.validation is None and plain.views.shape == (2, len(learned), 3)


def test_a_test_part_that_was_brought_is_what_judges_the_set_that_is_kept(colours, tmp_path):
    backbone = Colours()
    brought = [replace(e, split="test" if e.patient.endswith(("0", "1")) else "train") for e in colours]
    prompts, result = ran(backbone, TASK, brought, engine.Plan("linear-probe"), tmp_path)
    assert result["design"] == "held-out" and result["folds"] == 0
    judged = [i for i, e in enumerate(brought) if e.split == "test"]
    assert [row["case"] for row in result["cases"]] == judged
    features = engine.features_of([brought[i] for i in judged], backbone)
    assert np.allclose([row["tuned"] for row in result["cases"]], prompts.probabilities(features), atol=1e-6)
    assert prompts.card["data"]["images"] + prompts.card["data"]["validation_images"] == 8


def test_a_patient_on_both_sides_of_a_brought_split_is_not_learned_from(colours):
    brought = [replace(e, split="test" if e.path.endswith("00.png") else "train") for e in colours]
    design = _design(TASK, brought, engine.METHODS["coop"](), 1)
    assert [i for i, _ in enumerate(brought) if i not in design.folds[0][0]] == [0, 1, 8, 9]
    assert "2 images left out of learning: the same patient, or a near copy, is in the test part." in design.care


def test_a_test_part_without_which_a_class_is_empty_is_not_used(colours):
    brought = [replace(e, split="test" if e.label == "red" else "train") for e in colours]
    design = _design(TASK, brought, engine.METHODS["coop"](), 1)
    assert design.kind == "cross-validated" and "is not used" in design.care[0]


def test_a_class_of_one_image_leaves_a_set_that_was_not_checked(colours, tmp_path):
    few = [e for e in colours if e.label == "red"] + [e for e in colours if e.label == "green"][:1]
    prompts, result = ran(Colours(), TASK, few, engine.Plan("linear-probe"), tmp_path)
    assert (result["design"], result["verdict"], result["cases"]) == ("none", "unclear", [])
    assert result["headline"] == "Learned, but not checked: none could be held out."
    assert result["care"][0] == "'Green' has only 1 patient, so that none can be kept to check on: label more."
    assert prompts.labels == ("red", "green") and prompts.card["metrics"] == []


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_zero_shot_that_names_every_colour_wrong_is_beaten_by_all_points(colours, tmp_path):
    prompts, result = ran(Colours(swapped=True), TASK, colours, engine.Plan("linear-probe"), tmp_path)
    assert result["headline"] == "Better than zero-shot by 100 points (too few cases for a range) on 16 held-out cases."
    assert result["verdict"] == "better" and result["confusion"] == [[8, 0], [0, 8]]
    assert result["differences"]["zero-shot"]["accuracy"] == [1.0, 1.0, 1.0]
    assert result["arms"]["baseline"]["title"] == "Nearest class mean"
    assert result["arms"]["baseline"]["metrics"]["accuracy"] == [1.0, 1.0, 1.0]
    accuracy = next(row for row in prompts.card["metrics"] if row["name"] == "accuracy")
    assert accuracy == {"name": "accuracy", "value": 1.0, "low": 1.0, "high": 1.0, "images": 16, "split": "cross-validated"}
    assert result["bytes"] == sum(f.stat().st_size for f in (tmp_path / "prompts").iterdir())


def test_the_metrics_are_those_of_the_cases_that_are_listed(tmp_path):
    rng = np.random.default_rng(1)
    examples = []
    for i in range(40):
        name = TASK.names[i % 4 == 0]  # thirty red, ten green
        colour = rng.integers(60, 200, 3)
        colour[0 if name == "red" else 1] += 40
        examples.append(Example(picture(tmp_path / f"{i}.png", tuple(map(int, colour))), name))
    _, result = ran(Colours(), TASK, examples, engine.Plan("clip-adapter", {"epochs": 5}, views=2), tmp_path)
    truth = np.asarray([row["truth"] for row in result["cases"]])
    assert truth.tolist() == [TASK.names.index(e.label) for e in examples]
    values = {}
    for arm in ("tuned", "zero-shot", "baseline"):
        p = np.asarray([row[arm] for row in result["cases"]])
        found = {name: value for name, (value, _, _) in result["arms"][arm]["metrics"].items()}
        expected = {
            "accuracy": (p.argmax(axis=1) == truth).mean(),
            "balanced_accuracy": balanced_accuracy_score(truth, p.argmax(axis=1)),
            "auroc": (roc_auc_score(truth, p[:, 1]) + roc_auc_score(1 - truth, p[:, 0])) / 2,
        }
        values[arm] = expected
        assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-6)
        if arm == "tuned":
            assert result["confusion"] == confusion_matrix(truth, p.argmax(axis=1)).tolist()
    for other in ("zero-shot", "baseline"):
        for name, (value, low, high) in result["differences"][other].items():
            assert value == pytest.approx(values["tuned"][name] - values[other][name], abs=2e-6)
            assert low <= value <= high
    assert result["measure"] == "balanced_accuracy"  # thirty are more than twice ten
    # so little training changes no answer
    assert result["confusion"] == confusion_matrix(truth, [np.argmax(row["zero-shot"]) for row in result["cases"]]).tolist()
    assert result["headline"] == "No different from zero-shot on 40 held-out cases."


def test_words_alone_are_judged_on_every_labelled_case(noise, mini, tmp_path):
    task = engine.task("busi")
    _, result = ran(mini, task, noise, engine.Plan("description-ensemble"), tmp_path)
    assert result["design"] == "words-alone" and len(result["cases"]) == 9
    features = engine.features_of(noise, mini)
    expected = engine.METHODS["description-ensemble"]().learn(mini, task).probabilities(features)
    assert np.allclose([row["tuned"] for row in result["cases"]], expected, atol=1e-6)
    assert "baseline" in result["arms"] and "on 9 labelled cases" in result["headline"]


def test_words_alone_are_judged_without_a_baseline_where_some_class_has_no_case(noise, mini, tmp_path):
    task, two = engine.task("busi"), noise[:6]  # no normal scan
    _, result = ran(mini, task, two, engine.Plan("description-ensemble"), tmp_path)
    assert set(result["arms"]) == {"tuned", "zero-shot"} and len(result["cases"]) == 6
    assert result["learned"] == []
    page = gallery.result(result)
    assert "on 6 labelled cases" in page and "Linear probe" not in page


def test_what_the_set_learned_from_is_in_its_result(colours, tmp_path):
    _, result = ran(Colours(), TASK, colours, engine.Plan("linear-probe"), tmp_path, ids=range(100, 116))
    assert result["learned"] == [
        {"case": 100 + i, "file": hashlib.sha256(Path(e.path).read_bytes()).hexdigest(), "units": [e.patient]}
        for i, e in enumerate(colours)
    ]
    brought = [replace(e, split="test" if e.patient.endswith(("0", "1")) else "train") for e in colours]
    _, result = ran(Colours(), TASK, brought, engine.Plan("linear-probe"), tmp_path)
    assert [row["case"] for row in result["learned"]] == [i for i, e in enumerate(brought) if e.split == "train"]


def test_groups_that_part_a_patient_part_nothing(colours, tmp_path):
    """Each image of a patient is in a group of its own; without their patients they would be sixteen units."""
    apart = [replace(e, group=f"g{i}") for i, e in enumerate(colours)]
    _, result = ran(Colours(), TASK, apart, engine.Plan("linear-probe"), tmp_path)
    assert result["patients"] == 8
    assert "16 images had a near copy or belonged together, and stayed on one side." in engine.check_plan(
        TASK, apart, engine.Plan("linear-probe")
    )


def test_words_alone_without_a_case_have_no_accuracy(mini, tmp_path):
    prompts, result = ran(mini, engine.task("busi"), [], engine.Plan("medpromptclip", {"epochs": 2}), tmp_path)
    assert (
        result["headline"] == "Learned from descriptions alone, but not checked: there are no labelled cases to check it on."
    )
    assert result["arms"]["tuned"]["metrics"] == {} and result["cases"] == [] and len(prompts.labels) == 3


def test_a_method_with_a_visual_prompt_sees_other_features_than_what_it_is_compared_with(noise, mini, tmp_path):
    task = engine.task("busi")
    prompts, result = ran(mini, task, noise, engine.Plan("biomed-dpt", {"epochs": 1}, views=1), tmp_path)
    zero = engine.METHODS["zero-shot"]().learn(mini, task).probabilities(engine.features_of(noise, mini))
    assert np.allclose([row["zero-shot"] for row in result["cases"]], zero, atol=1e-6)
    assert prompts.visual_prompt is not None


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> engine.Store:
    return engine.Store(tmp_path_factory.mktemp("features") / "features.sqlite3")


@pytest.mark.parametrize("method", [name for group in engine.BUDGETS.values() for name in group])
def test_every_method_of_a_budget_can_be_studied(method, noise, mini, store, tmp_path):
    known = {field.name for field in fields(engine.METHODS[method].Config)}
    plan = engine.Plan(method, {"epochs": 2} if "epochs" in known else {}, views=2)
    prompts, result = ran(mini, engine.task("busi"), noise, plan, tmp_path, store=store)
    assert prompts.card["method"]["name"] == method and len(result["cases"]) == 9
    assert set(result["arms"]) == {"tuned", "zero-shot", "baseline"}
    assert not list(tmp_path.glob("learning-*"))


# --- the words -------------------------------------------------------------------------------------------------------

FOLDED = _Design("cross-validated", [], np.arange(0), [])


@pytest.mark.parametrize(
    ("gain", "side", "headline"),
    [
        ((0.12, 0.04, 0.20), 1, "Better than zero-shot by 12 points (4 to 20) on 38 held-out cases."),
        ((-0.12, -0.20, -0.04), -1, "Worse than zero-shot by 12 points (4 to 20) on 38 held-out cases."),
        ((-0.01, -0.02, -0.004), -1, "Worse than zero-shot by 1 point (0 to 2) on 38 held-out cases."),
        (
            (0.05, -0.03, 0.12),
            0,
            "Better than zero-shot by 5 points on 38 held-out cases, which may be chance (3 worse to 12 better).",
        ),
        (
            (-0.05, -0.12, 0.0),
            0,
            "Worse than zero-shot by 5 points on 38 held-out cases, which may be chance (12 worse to the same).",
        ),
        ((0.0, -0.06, 0.06), 0, "No different from zero-shot on 38 held-out cases (6 worse to 6 better)."),
        (
            (1.0, 1.0, 1.0),
            0,
            "Better than zero-shot by 100 points on 38 held-out cases, which may be chance (too few cases for a range).",
        ),
    ],
)
def test_the_first_words_say_whether_it_helped(gain, side, headline):
    assert _headline("coop", FOLDED, Interval(*gain), side, "accuracy", {}, 38) == headline
    balanced = headline.replace("points", "points of balanced accuracy").replace("point ", "point of balanced accuracy ")
    assert _headline("coop", FOLDED, Interval(*gain), side, "balanced_accuracy", {}, 38) == balanced


def test_a_handful_of_patients_proves_nothing_however_right_it_is():
    """Always wrong against always right: five patients may be chance (2 / 2**5 > 5 %), six not (2 / 2**6 < 5 %)."""
    right = np.eye(2)[[0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]]
    truth, wrong = right.argmax(axis=1), 1 - right
    for units, side in (([f"p{i % 5}" for i in range(12)], 0), ([f"p{i % 6}" for i in range(12)], 1)):
        by = paired_difference(truth, wrong, right, units)
        assert (by.value, by.low, by.high) == (1, 1, 1)
        assert clearly(truth, wrong, right, units, by) == side
        assert clearly(truth, right, wrong, units, Interval(-1, -1, -1)) == -side
    assert clearly(truth, wrong, right, [f"p{i}" for i in range(12)], Interval(0.1, 0.0, 0.2)) == 0


def test_zero_shot_is_not_compared_with_itself():
    metrics = {"accuracy": [0.625, 0.5, 0.75]}
    assert _headline("zero-shot", FOLDED, Interval(0, 0, 0), 0, "accuracy", metrics, 8) == (
        "Zero-shot is right in 62 % (50 to 75) of 8 held-out cases."
    )


def test_a_simpler_method_that_does_better_is_named_first(noise, tmp_path):
    """Probe right, tuned wrong: an adapter that is not trained at all, beside words that are swapped."""
    made = []
    for i in range(12):
        colour = (200, 40 + i, 30) if i % 2 == 0 else (40 + i, 200, 30)
        made.append(Example(picture(tmp_path / f"{i}.png", colour), TASK.names[i % 2]))
    plan = engine.Plan("clip-adapter", {"epochs": 1, "lr": 1e-9}, views=1)
    _, result = ran(Colours(swapped=True), TASK, made, plan, tmp_path)
    assert result["care"][0] == "The simplest baseline (Linear probe) is better by 100 points (too few cases for a range)."


def test_care_is_said_of_few_uneven_unknown_and_alike(tmp_path):
    task = replace(TASK, shortcuts=("Red images come from one scanner.",))
    red = [Example(f"r{i}", "red", patient=f"{i}") for i in range(11)]
    green = [Example("g0", "green", group="G1"), Example("g1", "green", group="G1"), Example("g2", "green")]
    assert engine.check_plan(task, red + green[:2] + green[2:], engine.Plan("linear-probe")) == [
        "There are 14 cases to judge by: the ranges are wide.",
        "'Green' has only 2 images: what is learned of it may be about them alone.",
        "The patient of 3 images is not known: images of one person may be on both sides, which flatters the result.",
        "2 images had a near copy or belonged together, and stayed on one side.",
        "Red images come from one scanner.",
    ]
    assert engine.check_plan(task, red + green, engine.Plan("zero-shot")) == [
        "There are 14 cases to judge by: the ranges are wide.",
        "Red images come from one scanner.",
    ]
    many = [Example(f"r{i}", "red", patient=f"{i}") for i in range(40)]
    told = engine.check_plan(TASK, many + green, engine.Plan("linear-probe"))
    assert "'Red' has 40 images, 'Green' 3: look at the balanced accuracy, which counts each class alike." in told


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (engine.Plan("no-such"), "There is no method called 'no-such'"),
        (engine.Plan("linear-probe", {"speed": 2}), "has no option 'speed'"),
        (engine.Plan("linear-probe", views=0), "0 views of an image cannot be made. Take 1 to 64."),
        (engine.Plan("linear-probe", seed="x"), "The seed cannot be 'x'. Take a whole number from 0 to 4294967295"),
        (engine.Plan("linear-probe", seed=-1), "The seed cannot be -1"),
        (engine.Plan("linear-probe", seed=2**32), "The seed cannot be 4294967296"),
        (engine.Plan("coop", {"epochs": 1001}), "The option 'epochs' of 'coop' cannot be 1001. Take 1 to 1000."),
        (engine.Plan("coop", {"epochs": 0}), "'epochs' of 'coop' cannot be 0"),
        (engine.Plan("coop", {"batch": 4097}), "'batch' of 'coop' cannot be 4097. Take 1 to 4096."),
        (engine.Plan("coop", {"lr": float("nan")}), "'lr' of 'coop' cannot be nan"),
        (engine.Plan("biomedcoop"), "There is no description bank for the task 'colours'"),
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(colours, plan, sentence):
    with pytest.raises(engine.DataError, match=sentence):
        engine.check_plan(TASK, colours, plan)


@pytest.mark.parametrize(
    ("examples", "sentence"),
    [
        ([], "There are no labelled images."),
        ([Example("a", "red"), Example("b", "red")], "All 2 images are of one class, 'red'."),
        ([Example("a", "red"), Example("b", "blue")], "'blue' is no class of the task 'colours'"),
    ],
)
def test_cases_that_cannot_teach_are_one_sentence(examples, sentence):
    with pytest.raises(engine.DataError, match=sentence):
        engine.check_plan(TASK, examples, engine.Plan("linear-probe"))


def test_a_class_without_a_labelled_image_is_named_as_people_read_it():
    task = replace(TASK, labels=(*TASK.labels, engine.Label("blue", "Blue (sky)")))
    with pytest.raises(
        engine.DataError, match=r"No labelled image shows 'Blue \(sky\)'\. Label at least one of each class\."
    ):
        engine.check_plan(task, [Example("a", "red"), Example("b", "green")], engine.Plan("linear-probe"))


# --- looking at it, stopping it, going on ----------------------------------------------------------------------------

SHORT = engine.Plan("biomedcoop", {"epochs": 6}, views=2)


def same(one: engine.PromptSet, two: engine.PromptSet) -> bool:
    return all((a == b).all() for a, b in zip(one.head.tensors().values(), two.head.tensors().values(), strict=True))


@pytest.fixture(scope="session")
def whole(noise, mini, tmp_path_factory) -> tuple[engine.PromptSet, dict]:
    return ran(mini, engine.task("busi"), noise, SHORT, tmp_path_factory.mktemp("whole"))


def without_times(result: dict) -> dict:
    return {k: v for k, v in result.items() if k != "seconds"}


def test_the_same_seed_gives_the_same_study(noise, mini, whole, tmp_path):
    prompts, result = ran(mini, engine.task("busi"), noise, SHORT, tmp_path)
    assert same(prompts, whole[0]) and without_times(result) == without_times(whole[1])


def test_looking_at_a_training_does_not_change_it(noise, mini):
    task = engine.task("busi")
    views = np.stack([engine.features_of(noise, mini)] * 2)
    data = LabelledFeatures(views, np.repeat(np.arange(3), 3))
    method, seen = engine.method("biomedcoop", epochs=4, faithful=True), []  # with dropout: it draws numbers
    plain = learn_stacked([method], mini, task, [data], [1])[0]

    def look(epoch, sets):
        torch.rand(3)
        seen.append((epoch, sets[0].head.tensors()))

    looked = learn_stacked([method], mini, task, [data], [1], engine.Watch(sets=look))[0]
    assert same(plain, looked)
    assert [seen[0][0], seen[-1][0]] == [1, 4]
    assert all((a == b).all() for a, b in zip(seen[-1][1].values(), plain.head.tensors().values(), strict=True))


def test_the_accuracy_that_is_shown_last_is_the_results(noise, mini, whole, tmp_path):
    told = []
    _, result = ran(mini, engine.task("busi"), noise, SHORT, tmp_path, tell=told.append)
    last = [stage for stage in told if stage.stage == "learning"][-1]
    assert (last.done, last.of) == (6, 6)
    assert last.accuracy == pytest.approx(result["arms"]["tuned"]["metrics"]["accuracy"][0], abs=1e-6)
    assert [each.stage for each in told if each.done == each.of] == ["reading", "learning", "checking"]


def test_a_study_that_is_paused_again_and_again_ends_as_one_that_was_not(noise, mini, whole, tmp_path):
    store = engine.Store(tmp_path / "features.sqlite3")
    for _ in range(20):
        try:
            prompts, result = ran(mini, engine.task("busi"), noise, SHORT, tmp_path, store=store, pause=lambda: True)
            break
        except engine.Stopped:
            assert list(tmp_path.glob("learning-*.safetensors"))
            assert not (tmp_path / "result.json").exists()
    assert same(prompts, whole[0]) and without_times(result) == without_times(whole[1])
    assert not list(tmp_path.glob("learning-*"))


def test_reading_is_paused_as_well_where_a_store_keeps_what_was_read(noise, mini, tmp_path):
    """Of 32 views each image is a batch: every call reads one more, the last one learns."""
    task, plan = engine.task("busi"), engine.Plan("coop", {"epochs": 1}, views=32)
    store, told = engine.Store(tmp_path / "features.sqlite3"), []
    for i in range(1, 9):
        with pytest.raises(engine.Stopped, match="paused while it read"):
            engine.study(mini, task, noise, plan, tmp_path, store=store, tell=told.append, pause=lambda: True)
        assert (told[-1].stage, told[-1].done) == ("reading", i)
    assert ran(mini, task, noise, plan, tmp_path, store=store, pause=lambda: True)


@pytest.mark.parametrize("stored", [False, True])
def test_reading_is_not_paused_where_nothing_would_be_left(noise, mini, tmp_path, monkeypatch, stored):
    monkeypatch.setenv("PROMPTSCOPE_KEEP_DAYS", "0")
    store = engine.Store(tmp_path / "features.sqlite3") if stored else None
    plan = engine.Plan("linear-probe", views=32)
    assert ran(mini, engine.task("busi"), noise, plan, tmp_path, store=store, pause=lambda: True)


def test_a_checkpoint_of_other_cases_is_thrown_away_not_an_error(noise, mini, whole, tmp_path):
    with pytest.raises(engine.Stopped):
        engine.study(mini, engine.task("busi"), noise[:-1], SHORT, tmp_path, pause=lambda: True)
    old = list(tmp_path.glob("learning-*"))
    prompts, _ = ran(mini, engine.task("busi"), noise, SHORT, tmp_path)
    assert old and not old[0].exists() and same(prompts, whole[0])


def test_stopping_is_asked_for_while_images_are_read_and_between_what_has_no_epochs(colours, noise, mini, tmp_path):
    with pytest.raises(engine.Stopped, match="while it read the images"):
        engine.study(mini, engine.task("busi"), noise, SHORT, tmp_path, stop=lambda: True)
    told: list = []

    def learning() -> bool:
        return any(stage.stage == "learning" for stage in told)

    with pytest.raises(engine.Stopped):
        engine.study(Colours(), TASK, colours, engine.Plan("linear-probe"), tmp_path, tell=told.append, stop=learning)
    assert [stage.stage for stage in told].count("learning") == 1
    assert not (tmp_path / "result.json").exists()
