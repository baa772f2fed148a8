"""From labelled files to prompt sets and result tables. Run: python -m pytest tests/test_tune.py"""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

import engine
from engine.__main__ import main
from engine.errors import DataError, ImageError
from engine.features import features_of, views_of
from engine.preprocess import _random_box, random_views
from engine.reproduce import COLUMNS, KEY, _place, published, rows_of, summary
from engine.store import Store
from engine.tune import targets, tune

TASK = engine.task("busi")


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data set of three classes of noise around three greys: root/BUSI/split.csv; 5 train, 2 val, 3 test a class."""
    top = tmp_path_factory.mktemp("data")
    place, rng, rows = top / "BUSI", np.random.default_rng(0), []
    for c, label in enumerate(TASK.names):
        for i in range(10):
            path = place / label.replace(" ", "_") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.clip(40 + 80 * c + rng.normal(0, 12, (40, 50)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(noise).save(path)
            split = "train" if i < 5 else "val" if i < 7 else "test"
            rows.append([f"{path.parent.name}/{path.name}", label, f"p{c}{i}", split])
    with (place / "split.csv").open("w", newline="") as table:
        csv.writer(table).writerows([["path", "label", "patient", "split"], *rows])
    return top


@pytest.fixture(scope="module")
def examples(root):
    return engine.read_examples(root / "BUSI", TASK)


def few(name: str, **options):
    return engine.method(name, "", epochs=2, **options)


# --- views --------------------------------------------------------------------------------------------------------------


def test_crops_are_drawn_as_torchvision_draws_them():
    """Its RandomResizedCrop with the papers' scale and ratio: the same means and deviations of area, aspect and place."""
    torch.manual_seed(1)
    rng, picture = np.random.default_rng(1), torch.zeros(1, 300, 400)
    ours = np.array([_random_box(300, 400, rng) for _ in range(6000)], dtype=float)
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(6000)], dtype=float)

    def shape(boxes):
        top, left, height, width = boxes.T
        return np.stack([height * width / 120000, np.log(width / height), top / 300, left / 400])

    for statistic in (np.mean, np.std):  # 6000 draws: a standard error of about 0.003
        np.testing.assert_allclose(statistic(shape(ours), axis=1), statistic(shape(theirs), axis=1), atol=0.015)
    top, left, height, width = ours.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 300).all() and (left + width <= 400).all()


@pytest.mark.parametrize(("rows", "columns", "box"), [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10))])
def test_a_long_thin_image_gives_its_central_part(rows, columns, box):
    """torchvision falls back to the largest central crop of an allowed aspect, here 4 / 3 and 3 / 4."""
    assert {_random_box(rows, columns, np.random.default_rng(seed)) for seed in range(50)} == {box}


def test_a_crop_is_the_resized_part_of_the_image(mini, monkeypatch):
    image = engine.Image(np.random.default_rng(0).random((60, 80), dtype=np.float32))
    monkeypatch.setattr("engine.preprocess._random_box", lambda *_: (10, 20, 30, 40))
    made = random_views(image, mini.preprocess, 1, 0)[0]
    part = replace(mini.preprocess, resize="squash")
    expected = engine.prepare(engine.Image(image.pixels[10:40, 20:60]), part).pixels
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_the_first_view_is_the_plain_one_and_crops_depend_on_the_file_alone(mini, examples):
    some = examples[:4]
    views = views_of(some, mini, 3, seed=5)
    assert views.shape == (3, 4, 256)
    np.testing.assert_allclose(views[0], features_of(some, mini), atol=2e-6)  # other batches, other rounding
    np.testing.assert_allclose(views_of(some[::-1], mini, 3, seed=5)[:, ::-1], views, atol=2e-6)
    assert np.abs(views_of(some, mini, 3, seed=6)[1:] - views[1:]).max() > 1e-3
    assert np.abs(views_of(some, mini, 2, seed=5, all_random=True)[0] - views[0]).max() > 1e-3


def test_the_store_gives_back_what_was_computed_and_keeps_prompts_apart(mini, examples, tmp_path):
    store, some = Store(tmp_path / "x.sqlite3"), examples[:3]
    prompt = engine.VisualPrompt(np.zeros((1, 4, 192), dtype=np.float32))
    first = views_of(some, mini, 2, 1, store=store)
    under = views_of(some, mini, 2, 1, visual_prompt=prompt, store=store)
    calls = []

    class Counted:
        def __getattr__(self, name):
            return getattr(mini, name)

        def encode_images(self, *parts):
            calls.append(parts)
            return mini.encode_images(*parts)

    assert np.array_equal(views_of(some, Counted(), 2, 1, store=store), first)
    assert np.array_equal(views_of(some, Counted(), 2, 1, visual_prompt=prompt, store=store), under)
    assert not calls and not np.allclose(first, under)


# --- tune ---------------------------------------------------------------------------------------------------------------


def test_tuning_draws_whole_patients_and_says_so_on_the_card(mini, examples):
    made = tune(few("coop"), mini, TASK, examples, shots=3, seed=2, views=2)
    about = made.card["data"]
    assert about == {
        "images": 9, "validation_images": 6, "shots": 3, "views": 2, "seed": 2, "sampler": "grouped",
    }  # fmt: skip
    assert "p0" not in json.dumps(made.card) and ".png" not in json.dumps(made.card)


def test_exact_mode_gives_each_epoch_its_own_crops(mini, examples, monkeypatch):
    from engine.methods.base import Trained

    seen = {}
    learn = Trained.learn
    monkeypatch.setattr(
        Trained, "learn", lambda self, b, t, data, *more: seen.update(data=data) or learn(self, b, t, data, *more)
    )
    tune(engine.method("coop", "", epochs=3), mini, TASK, examples, shots=1, views=engine.EXACT)
    views = seen["data"].views
    assert views.shape == (3, 3, 256) and all(np.abs(views[i] - views[j]).max() > 1e-4 for i in range(3) for j in range(i))


def test_biomed_dpts_features_are_made_under_its_visual_prompt(mini, examples):
    made = tune(few("biomed-dpt"), mini, TASK, examples, shots=2, views=1)
    assert made.visual_prompt.tokens.shape == (1, 4, 192) and made.visual_prompt.insert and not made.is_shared_image
    test = [e for e in examples if e.split == "test"]
    scored = engine.evaluate(test, mini, made)
    under = features_of(test, mini, None, made.visual_prompt)
    np.testing.assert_allclose(scored.probabilities, made.probabilities(under), atol=1e-6)
    assert np.abs(under - features_of(test, mini)).max() > 1e-4
    single = engine.predict(engine.read_image(test[0].path), mini, made)
    np.testing.assert_allclose(single.probabilities, scored.probabilities[0], atol=1e-4)


FAULTS = {
    "one class": (lambda rows: [e for e in rows if e.label == TASK.names[0]], {}, "are of one class, 'benign tumor'"),
    "one image": (lambda rows: rows[:1], {}, "only one image"),
    "no shots": (lambda rows: rows, {"shots": 0}, "0 images a class cannot be drawn"),
    "no images": (lambda rows: [], {}, "There are no labelled images"),
    "a patient in two splits": (
        lambda rows: [replace(e, patient="same") for e in rows],
        {},
        "1 of the patients, groups or files have images in more than one split",
    ),
    "an unknown label": (
        lambda rows: [*rows, replace(rows[0], label="cyst", path="z")],
        {},
        "'cyst' is no class of the task",
    ),
    "an unknown sampler": (lambda rows: rows, {"sampler": "random"}, "no sampler 'random'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_data_are_refused_in_a_sentence_before_anything_is_encoded(mini, examples, monkeypatch, fault):
    spoil, options, words = FAULTS[fault]
    monkeypatch.setattr(sys.modules["engine.tune"], "views_of", lambda *_, **__: pytest.fail("encoded"))
    with pytest.raises(DataError, match=words) as caught:
        tune(few("coop"), mini, TASK, spoil(list(examples)), **({"shots": 2} | options))
    assert "\n" not in str(caught.value)


def test_an_unreadable_image_is_named_before_training(mini, examples, tmp_path, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    spoiled = [replace(e, path=str(tmp_path / "broken.png")) if i == 0 else e for i, e in enumerate(examples)]
    monkeypatch.setattr("engine.methods.base.train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ImageError, match=r"broken\.png"):
        tune(few("coop"), mini, TASK, spoiled, shots=5, views=1)


def test_a_task_without_descriptions_is_refused_by_methods_that_need_them(mini, examples):
    own = engine.task_of(examples)
    assert own.names == tuple(sorted(TASK.names))
    assert tune(few("coop"), mini, own, examples, shots=1, views=1).labels == own.names
    with pytest.raises(DataError, match="no description bank for the task 'own'"):
        tune(few("biomedcoop"), mini, own, examples, shots=1, views=1)


def test_targets_follow_the_tasks_order(examples):
    assert targets(examples[::10], TASK).tolist() == [0, 1, 2]


# --- options ------------------------------------------------------------------------------------------------------------


def test_the_papers_options_are_taken_by_data_set_and_protocol():
    config = engine.method("biomedcoop", "kneexray").config
    assert (config.sccm_weight, config.kdsp_weight, config.tau, config.epochs, config.lr) == (5.0, 20.0, 1.75, 100, 0.0025)
    config = engine.method("biomedcoop", "covid_19", "base-to-novel").config
    assert (config.sccm_weight, config.kdsp_weight, config.tau, config.epochs) == (20.0, 1.0, 1.25, 50)
    config = engine.method("biomed-dpt", "covid_19").config
    assert (config.l1_weight, config.kl_weight, config.tokens) == (65.0, 2.5, 6)
    assert config.template == "a chest X-ray photo of a {} affected by COVID-19 in the lung."
    assert engine.method("prograd", "busi", "base-to-novel").config.lr == 0.0015
    assert engine.method("kgcoop", "busi").config.weight == 10.0 and engine.method("kgcoop", "derm7").config.weight == 8.0
    assert engine.method("medpromptclip", "ODIR", "words-alone").config.loss == "l1"
    assert engine.method("medpromptclip", "SLO", "words-alone").config.warmup_lr == 1e-5


def test_an_option_that_a_method_does_not_have_is_refused():
    with pytest.raises(DataError, match="'coop' has no option 'tau'"):
        engine.method("coop", tau=1.5)
    with pytest.raises(DataError, match="'tau' of 'biomedcoop' cannot be 'high'"):
        engine.method("biomedcoop", tau="high")


def test_every_row_of_the_papers_tables_makes_a_method():
    for name, protocols in engine.methods.papers()["options"].items():
        for protocol, table in protocols.items():
            for data_set in table:
                assert engine.method(name, data_set, protocol).name == name


# --- reproduce ----------------------------------------------------------------------------------------------------------


def asked(root, out, **more):
    given = {"protocol": "few-shot", "data": root, "datasets": ("busi",), "methods": ("zero-shot", "coop"), "shots": (1, 2)}
    given |= {"seeds": (1, 2), "out": out, "views": 1} | more
    return engine.Asked(**given)


def test_a_table_has_one_row_a_run_and_goes_on_where_it_stopped(mini, root, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.methods.coop.CoOp.Config.epochs", 2, raising=False)
    out, said = tmp_path / "results.csv", []
    options = json.dumps({"epochs": 2})
    engine.reproduce(asked(root, out, methods=("coop",), shots=(1,), options=options), mini, said.append)
    assert len(rows_of(out)) == 2 and len(said) == 2
    rows = engine.reproduce(asked(root, out, methods=("coop",), options=options), mini, said.append)
    assert len(said) == 4  # only the two runs of two shots were added
    assert [(r["shots"], r["seed"]) for r in rows] == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]
    assert all(tuple(r) == COLUMNS and r["images"] == "9" and 0 <= float(r["accuracy"]) <= 1 for r in rows)
    engine.reproduce(asked(root, out, methods=("zero-shot",), shots=(1, 2)), mini, said.append)
    found = summary(rows_of(out), out)
    assert {(e["method"], e["shots"], e["seeds"]) for e in found} == {("coop", 1, 2), ("coop", 2, 2), ("zero-shot", 0, 1)}
    mine = next(e for e in found if e["method"] == "coop" and e["shots"] == 1)
    mean = np.mean([float(r["accuracy"]) for r in rows if r["shots"] == "1"])
    assert mine["mean"] == pytest.approx(100 * mean, abs=1e-3) and mine["low"] <= mine["mean"] <= mine["high"]
    text = engine.markdown(rows_of(out), out)
    assert (
        '| coop, options {"epochs": 2} |' in text and "[50.2, 50.2]" in text
    )  # the papers' CoOp at one shot, in both tables
    kept = [p for p in out.with_suffix("").rglob("*") if p.is_file()]
    assert len(kept) == 5 and not any(b"p00" in p.read_bytes() for p in kept)


def test_a_stacked_run_equals_the_same_run_alone(mini, root, tmp_path):
    options = json.dumps({"epochs": 3})
    more = {"methods": ("kgcoop",), "options": options, "views": 2}
    together = engine.reproduce(asked(root, tmp_path / "a.csv", **more), mini, lambda _: None)
    alone = engine.reproduce(asked(root, tmp_path / "b.csv", shots=(2,), seeds=(2,), **more), mini, lambda _: None)
    key = (*(alone[0][k] for k in KEY), "test")
    a, b = (np.load(_place(tmp_path / f"{n}.csv", key))["probabilities"] for n in ("a", "b"))
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert alone[0]["accuracy"] == together[3]["accuracy"]


def test_base_to_novel_learns_half_of_the_classes_and_names_the_others(mini, root, tmp_path):
    """busi has three classes: two are base, and one novel class cannot be told from anything."""
    options = json.dumps({"epochs": 1})
    more = {"protocol": "base-to-novel", "methods": ("coop",), "shots": (2,), "seeds": (1,), "options": options}
    said = []
    assert engine.reproduce(asked(root, tmp_path / "r.csv", **more), mini, said.append) == []
    assert said == ["busi: left out, it has only one novel class"]


def test_base_to_novel_tests_both_halves(mini, root, tmp_path):
    """ctkidney's four classes, from the same pictures under its names."""
    kidney, place = engine.task("ctkidney"), tmp_path / "data" / "CTKidney"
    rows = []
    place.mkdir(parents=True)
    for c, label in enumerate(kidney.names):
        for i in range(6):
            (place / f"{c}{i}.png").write_bytes((root / "BUSI" / "normal_scan" / f"{i}.png").read_bytes())
            rows.append([f"{c}{i}.png", label, f"p{c}{i}", "train" if i < 2 else "val" if i < 3 else "test"])
    (place / "split.csv").write_text("path,label,patient,split\n" + "\n".join(",".join(row) for row in rows))
    options = json.dumps({"epochs": 1})
    more = {
        "protocol": "base-to-novel",
        "methods": ("coop", "tip-adapter"),
        "shots": (1,),
        "seeds": (1,),
        "data": tmp_path / "data",
    }
    more |= {"datasets": ("ctkidney",)}
    found = engine.reproduce(
        asked(root, tmp_path / "r.csv", **more | {"methods": ("coop",), "options": options}), mini, print
    )
    assert [(r["test"], r["images"]) for r in found] == [("base", "6"), ("novel", "6")]
    found = engine.reproduce(asked(root, tmp_path / "r.csv", **more | {"methods": ("tip-adapter",)}), mini, print)
    assert found[3]["test"] == "novel" and "belongs to its classes" in found[3]["notes"] and not found[3]["accuracy"]
    assert "HM of the averages" in engine.markdown(found, tmp_path / "r.csv")


def test_a_context_carries_to_novel_classes_as_encoded_by_hand(mini, examples):
    made = tune(few("coop"), mini, TASK, examples, shots=1, views=1)
    other = engine.task("retina")
    carried = engine.carried(made, mini, other)
    assert carried.labels == other.names and carried.card["data"] == made.card["data"]
    text = mini.embed_tokens(mini.tokenize([f"a photo of a {name}." for name in other.names]))
    text.vectors[:, 1:5] = torch.from_numpy(made.learned["context"])
    np.testing.assert_allclose(carried.class_embeddings, mini.encode_embedded(text).numpy(), atol=1e-5)
    probe = tune(engine.method("linear-probe"), mini, TASK, examples, shots=1, views=1)
    with pytest.raises(DataError, match="'linear-probe' learned belongs to its classes"):
        engine.carried(probe, mini, other)


def test_rows_made_in_another_way_are_not_averaged_as_seeds(mini, root, tmp_path, monkeypatch):
    """Another template, another bank: other runs, apart in the summary and in the table."""
    out, more = tmp_path / "r.csv", {"methods": ("zero-shot",)}
    engine.reproduce(asked(root, out, **more), mini, lambda _: None)
    engine.reproduce(asked(root, out, **more, options=json.dumps({"template": "an image of {}."})), mini, lambda _: None)
    found = summary(rows_of(out), out)
    assert [e["seeds"] for e in found] == [1, 1]
    assert "zero-shot, options {}" in engine.markdown(rows_of(out), out)
    shipped = Path(engine.__file__).parent.parent / "assets" / "descriptions" / "busi.json"
    (tmp_path / "busi.json").write_text(shipped.read_text() + " ")
    monkeypatch.setenv("PROMPTSCOPE_DESCRIPTIONS", str(tmp_path))
    assert len(engine.reproduce(asked(root, out, **more), mini, lambda _: None)) == 3


def test_a_target_that_is_added_later_adds_its_row_alone(mini, root, tmp_path):
    options = json.dumps({"epochs": 1})
    more = {"protocol": "cross-dataset", "methods": ("coop",), "shots": (1,), "seeds": (1,), "options": options}
    out = tmp_path / "r.csv"
    engine.reproduce(asked(root, out, targets=("busi",), **more), mini, lambda _: None)
    rows = rows_of(out)
    out.write_text("\n".join(out.read_text().splitlines()[:2]) + "\n")  # stopped between the two tests
    assert [r["test"] for r in engine.reproduce(asked(root, out, targets=("busi",), **more), mini, lambda _: None)] == [
        r["test"] for r in rows
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"out": Path("table")}, "cannot be 'table'. Name a file that ends in .csv"),
        ({"protocol": "cross-dataset"}, "needs data sets to test on"),
        ({"methods": ("coop",), "options": '{"tau": 1}'}, "'coop' has no option 'tau'"),
        ({"protocol": "leave-one-out"}, "no protocol 'leave-one-out'"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_runs(root, tmp_path, more, words):
    with pytest.raises(DataError, match=words):
        asked(root, more.pop("out", tmp_path / "r.csv"), **more)


def test_words_alone_leaves_out_what_needs_images(mini, root, tmp_path):
    said = []
    more = {"protocol": "words-alone", "methods": ("zero-shot", "coop")}
    rows = engine.reproduce(asked(root, tmp_path / "r.csv", **more), mini, said.append)
    assert [r["method"] for r in rows] == ["zero-shot"] and "busi coop: left out, it needs images" in said


def test_cross_dataset_tests_the_context_elsewhere(mini, root, tmp_path):
    options = json.dumps({"epochs": 1})
    more = {"protocol": "cross-dataset", "methods": ("coop",), "shots": (1,), "seeds": (1,), "options": options}
    rows = engine.reproduce(asked(root, tmp_path / "r.csv", targets=("busi",), **more), mini, lambda _: None)
    assert [r["test"] for r in rows] == ["test", "test of busi"] and rows[0]["accuracy"] == rows[1]["accuracy"]


def test_the_papers_numbers_stand_beside_ours():
    assert published("few-shot", "biomedcoop", 16) == [("BiomedCoOp's table", 72.42), ("Biomed-DPT's table", 72.13)]
    assert published("few-shot", "zero-shot", 16) == [] and published("few-shot", "coop", 3) == []


def test_a_table_of_another_version_is_refused(mini, root, tmp_path):
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="other columns than this version writes"):
        engine.reproduce(asked(root, tmp_path / "r.csv"), mini, lambda _: None)


# --- the command line ---------------------------------------------------------------------------------------------------


def run(capsys, *words):
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_tune_evaluate_export_and_import_from_the_command_line(capsys, root, tmp_path):
    data = str(root / "BUSI")
    words = [
        "tune",
        "--data",
        data,
        "--task",
        "busi",
        "--method",
        "coop",
        "--shots",
        "2",
        "--set",
        "epochs=2",
        "--views",
        "2",
    ]
    words += ["--name", "mine"]
    code, out, err = run(capsys, *words, "--out", str(tmp_path), "--json")
    assert code == 0, err
    made = json.loads(out)["results"][0]
    assert made["data"]["images"] == 6 and made["method"]["options"]["epochs"] == 2 and made["prompt_set"] == "mine"
    assert list(made["test"]) == ["balanced_accuracy", "balanced_accuracy_of_zero_shot", "difference"]
    code, _, err = run(capsys, *words, "--out", str(tmp_path))
    assert code == 2 and "a prompt set 'mine'" in err and "add --force" in err
    code, out, _ = run(capsys, "evaluate", "--data", data, "--split", "test", "--prompts", made["folder"], "--json")
    assert code == 0 and json.loads(out)["results"][0]["images"] == 9
    code, out, _ = run(capsys, "export", made["folder"], "--out", str(tmp_path / "one.safetensors"))
    assert code == 0
    code, _, err = run(capsys, "export", made["folder"], "--out", str(tmp_path / "one.safetensors"))
    assert code == 2 and "Add --force" in err
    code, out, err = run(capsys, "import", str(tmp_path / "one.safetensors"), "--out", str(tmp_path / "library"), "--json")
    assert code == 0, err
    again, before = engine.PromptSet.load(json.loads(out)["results"][0]["written"]), engine.PromptSet.load(made["folder"])
    assert again.card == before.card and np.array_equal(again.learned["context"], before.learned["context"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "coop"], "'coop' needs labelled images"),
        (["--method", "medpromptclip"], "learns from a task's descriptions"),
        (["--method", "telepathy", "--task", "busi"], "no method called 'telepathy'"),
        (["--method", "coop", "--task", "busi", "--data", "/nowhere"], "no file or folder at '/nowhere'"),
        (["--method", "coop", "--task", "busi", "--data", "x", "--set", "epochs"], "Write NAME=VALUE"),
        (["--method", "coop", "--task", "busi", "--data", "x", "--views", "many"], "'many' views cannot be made"),
        (["--method", "biomed-dpt", "--task", "busi", "--data", "x", "--set", "zero_tokens=-1"], "-1 zero tokens"),
        (["--method", "clip-adapter", "--task", "busi", "--data", "x", "--set", "reduction=0"], "D / 0 wide"),
    ],
)
def test_tune_refuses_in_one_sentence(capsys, words, sentence):
    code, out, err = run(capsys, "tune", *words)
    assert code == 2 and sentence in err and "Traceback" not in err and err.count("\n") == 1 and not out


def test_class_folders_without_splits_are_held_out_for_the_test(capsys, root, tmp_path):
    own = tmp_path / "own"
    for label in TASK.names[:2]:
        (own / label).mkdir(parents=True)
        for i in range(6):
            (own / label / f"{i}.png").write_bytes((root / "BUSI" / label.replace(" ", "_") / f"{i}.png").read_bytes())
    words = ["tune", "--data", str(own), "--method", "linear-probe", "--shots", "3", "--views", "1", "--out", str(tmp_path)]
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert "learned from 6 images" in out and "on 4 images that it did not learn from; so few say little" in out
    made = engine.PromptSet.load(tmp_path / "own-linear-probe-scope-mini")
    assert made.labels == ("benign tumor", "malignant tumor")


def test_reproduce_from_the_command_line(capsys, root, tmp_path):
    words = ["--protocol", "few-shot", "--data", str(root), "--dataset", "busi", "--method", "tip-adapter", "--shots", "1"]
    code, out, err = run(capsys, "reproduce", *words, "--views", "1", "--seeds", "1", "--out", str(tmp_path / "r.csv"))
    assert code == 0, err
    assert "| tip-adapter |" in out and "[49.2, 49.1]" in out
    code, out, _ = run(
        capsys, "reproduce", *words, "--views", "1", "--seeds", "1", "--out", str(tmp_path / "r.csv"), "--json"
    )
    assert json.loads(out)["summary"][0]["method"] == "tip-adapter"


def test_a_bank_is_imported_and_learned_from_in_place_of_ours(capsys, tmp_path, monkeypatch, mini):
    bank = {name: [f"{name} seen from side {i}." for i in range(3)] for name in TASK.names}
    (tmp_path / "upstream.json").write_text(json.dumps(bank))
    target = tmp_path / "banks" / "busi.json"
    words = ["import", str(tmp_path / "upstream.json"), "--bank", "--task", "busi", "--out", str(target)]
    code, out, err = run(capsys, *words)
    assert code == 0 and f"To use it: --descriptions {target}, or " in out, err
    monkeypatch.setenv(*re.search(r"(PROMPTSCOPE_DESCRIPTIONS)=(\S+) for all that runs", out).groups())  # as it says
    made = engine.METHODS["description-ensemble"]().learn(mini, TASK)
    mean = mini.encode_texts(bank["malignant tumor"]).mean(dim=0)
    np.testing.assert_allclose(made.class_embeddings[1], (mean / mean.norm()).numpy(), atol=1e-6)


def test_the_benchmarks_56_classes_are_described():
    benchmark = [t for t in engine.tasks().values() if t.benchmark]
    assert len(benchmark) == 11 and sum(len(t.names) for t in benchmark) == 56
    assert all(len(set(words.sentences)) >= 30 for t in benchmark for words in engine.descriptions(t.id).classes.values())


def test_an_interrupted_training_says_that_it_goes_on(capsys, root, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "tune", interrupted)
    words = ["tune", "--data", str(root / "BUSI"), "--task", "busi", "--method", "coop", "--out", str(tmp_path / "x")]
    code, _, err = run(capsys, *words, "--checkpoint", str(tmp_path / "c"))
    assert code == 130 and "Stopped. The same command goes on where it was." in err and "Traceback" not in err


def test_what_is_no_set_and_no_checkpoint_is_refused_by_its_content(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    code, _, err = run(capsys, "import", str(tmp_path / "notes.txt"), "--out", str(tmp_path))
    assert code == 2 and "The tensors of the prompt set 'notes.txt' cannot be read" in err
    code, _, err = run(capsys, "import", str(tmp_path / "absent.pth"), "--out", str(tmp_path))
    assert code == 2 and "There is no file" in err
