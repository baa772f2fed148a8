"""Labelled images, tasks and description banks.

python -m pytest tests/test_data.py
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import engine
from engine.data import (
    SAMPLERS,
    base_and_novel,
    check_examples,
    grouped_few_shot,
    hold_out,
    joined,
    of_classes,
    papers_few_shot,
    straddling,
    unit,
)
from engine.errors import DataError
from engine.tasks import ASSETS
from engine.types import Example

KNEE = engine.task("kneexray")


def table(folder: Path, text: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_text(text, encoding=encoding)
    return path


# --- class folders and tables ------------------------------------------------------------------------------------------


def test_class_folders_become_examples_in_order(tmp_path):
    for name in (
        "kl1/b.png",
        "kl0/z.JPG",
        "kl0/a.png",
        "kl0/deeper/c.dcm",
        "kl0/study",
        "kl1/notes.txt",
        "README.md",
        "kl0/x.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = engine.read_examples(tmp_path, KNEE)
    assert [(str(Path(e.path).relative_to(tmp_path)), e.label) for e in found] == [
        ("kl0/a.png", "healthy knee"),
        ("kl0/deeper/c.dcm", "healthy knee"),
        ("kl0/study", "healthy knee"),  # DICOM files often have no extension
        ("kl0/z.JPG", "healthy knee"),
        ("kl1/b.png", "doubtful osteoarthritis"),
    ]
    assert all(e.patient == e.group == e.split == "" for e in found)


def test_without_a_task_a_folders_name_is_its_label(tmp_path):
    (tmp_path / "Some Class").mkdir()
    (tmp_path / "Some Class" / "a.png").write_bytes(b"x")
    assert [e.label for e in engine.read_examples(tmp_path)] == ["Some Class"]


def test_a_table_with_canonical_columns_is_read(tmp_path):
    path = table(
        tmp_path, "path,label,patient,group,split\na/1.png,kl0,p1,g1,train\n/abs/2.png,severe osteoarthritis,p2,,test\n"
    )
    assert engine.read_examples(path, KNEE) == [
        Example(str(tmp_path / "a/1.png"), "healthy knee", "p1", "g1", "train"),
        Example("/abs/2.png", "severe osteoarthritis", "p2", "", "test"),
    ]


def test_a_table_with_alias_columns_in_any_order_is_read(tmp_path):
    path = table(tmp_path, "split,width,patient_id,class,path\nval,512,p9,KL2,x.png\n")
    found = engine.read_examples(path, KNEE)
    assert found == [Example(str(tmp_path / "x.png"), "minimal osteoarthritis", "p9", "", "val")]


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path):
    # with a byte-order mark, CRLF, quotes and blanks around values
    path = table(tmp_path, '\ufeffpath,label\r\n"a, b.png", kl4 \r\n')
    assert engine.read_examples(path, KNEE) == [Example(str(tmp_path / "a, b.png"), "severe osteoarthritis")]


def test_a_folder_with_a_split_table_is_read_by_its_table(tmp_path):
    (tmp_path / "kl0").mkdir()
    (tmp_path / "kl0" / "not in the table.png").write_bytes(b"x")
    table(tmp_path, "path,class,split\nkl0/1.png,kl0,train\nkl3/2.png,kl3,test\nkl0/3.png,kl0,test\n", "split.csv")
    assert [Path(e.path).name for e in engine.read_examples(tmp_path, KNEE)] == ["1.png", "2.png", "3.png"]
    assert [e.label for e in engine.read_examples(tmp_path, KNEE, "test")] == ["moderate osteoarthritis", "healthy knee"]
    assert [Path(e.path).name for e in engine.read_examples(tmp_path, KNEE, "train")] == ["1.png"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'labels.csv' has no rows"),
        ("path,label\n", "'labels.csv' has no rows"),
        ("path,split\n1.png,test\n", "lacks the column 'label'"),
        ("file,class\n1.png,kl0\n", "lacks the column 'path'"),
        ("a,b\n1,2\n", "lacks the column 'label, path'"),
        ("path,label\n1.png,kl7\n", "'kl7' is no class of the task 'kneexray'.*healthy knee, doubtful osteoarthritis"),
        ("path,label\n1.png,\n", "'' is no class"),
        ("path,label\n1.png\n", "'' is no class"),
    ],
)
def test_a_table_that_does_not_hold_together_is_refused(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        engine.read_examples(table(tmp_path, text), KNEE)


def test_a_folder_of_another_task_is_refused(tmp_path):
    (tmp_path / "glioma").mkdir()
    (tmp_path / "glioma" / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="'glioma' is no class of the task 'kneexray'"):
        engine.read_examples(tmp_path, KNEE)


def test_nothing_found_is_said(tmp_path):
    with pytest.raises(DataError, match="There is no file or folder"):
        engine.read_examples(tmp_path / "absent")
    with pytest.raises(DataError, match="No labelled images were found"):
        engine.read_examples(tmp_path)
    path = table(tmp_path, "path,label,split\n1.png,kl0,train\n")
    with pytest.raises(DataError, match="in the split 'val'"):
        engine.read_examples(path, KNEE, "val")


def test_what_stays_on_one_side_of_a_split_is_the_group_then_the_patient_then_the_file():
    assert unit(Example("f.png", "x", "p", "g")) == "g"
    assert unit(Example("f.png", "x", "p")) == "p"
    assert unit(Example("f.png", "x")) == "f.png"


# --- the papers' split files ---------------------------------------------------------------------------------------------

SPLIT = {
    "train": [["healthy_knee/1.png", 0, "healthy knee"], ["severe_osteoarthritis/2.png", 4, "severe osteoarthritis"]],
    "val": [["healthy_knee/3.png", 0, "healthy knee"]],
    "test": [["severe_osteoarthritis/4.png", 4, "severe osteoarthritis"]],
}


def split_file(folder: Path, content: object = SPLIT, name: str = "split_KneeXray.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_split_file_is_read_with_its_images_below_the_folder_of_its_name(tmp_path):
    (tmp_path / "KneeXray").mkdir()
    assert engine.read_examples(split_file(tmp_path)) == [
        Example(str(tmp_path / "KneeXray/healthy_knee/1.png"), "healthy knee", split="train"),
        Example(str(tmp_path / "KneeXray/severe_osteoarthritis/2.png"), "severe osteoarthritis", split="train"),
        Example(str(tmp_path / "KneeXray/healthy_knee/3.png"), "healthy knee", split="val"),
        Example(str(tmp_path / "KneeXray/severe_osteoarthritis/4.png"), "severe osteoarthritis", split="test"),
    ]


def test_a_split_files_images_are_beside_it_where_that_folder_is_absent(tmp_path):
    found = engine.read_examples(split_file(tmp_path), KNEE, "val")
    assert found == [Example(str(tmp_path / "healthy_knee/3.png"), "healthy knee", split="val")]


def test_a_split_files_class_name_goes_through_the_task(tmp_path):
    path = split_file(tmp_path, {"train": [["1.png", 0, "KL0"]], "val": [], "test": []})
    assert [e.label for e in engine.read_examples(path, KNEE)] == ["healthy knee"]
    path = split_file(tmp_path, {"train": [["1.png", 0, "glioma"]], "val": [], "test": []})
    with pytest.raises(DataError, match="'glioma' is no class of the task 'kneexray'"):
        engine.read_examples(path, KNEE)


def test_a_folder_is_read_by_its_table_then_its_split_file_then_its_class_folders(tmp_path):
    (tmp_path / "kl1").mkdir()
    (tmp_path / "kl1" / "0.png").write_bytes(b"x")
    assert [Path(e.path).name for e in engine.read_examples(tmp_path, KNEE)] == ["0.png"]
    split_file(tmp_path)
    assert [Path(e.path).name for e in engine.read_examples(tmp_path, KNEE, "train")] == ["1.png", "2.png"]
    table(tmp_path, "path,label\n9.png,kl0\n", "split.csv")
    assert [Path(e.path).name for e in engine.read_examples(tmp_path, KNEE)] == ["9.png"]


def test_a_folder_with_several_split_files_is_refused(tmp_path):
    split_file(tmp_path)
    split_file(tmp_path, name="split_BUSI.json")
    with pytest.raises(DataError, match=r"2 split files \(split_BUSI.json, split_KneeXray.json"):
        engine.read_examples(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 100_000,
        "[]",
        {"train": [], "val": []},
        {"train": {"a": 1}, "val": [], "test": []},
        {"train": [["a.png", 0]], "val": [], "test": []},
        {"train": ["abc"], "val": [], "test": []},
        {"train": [["a.png", "0", "x"]], "val": [], "test": []},
        {"train": [[1, 0, "x"]], "val": [], "test": []},
        {"train": [["a.png", 0, None]], "val": [], "test": []},
        {"train": [["a.png", 0, ["x"]]], "val": [], "test": []},
        {"train": None, "val": [], "test": []},
    ],
    ids=lambda c: json.dumps(c)[:30],
)
def test_a_split_file_of_another_form_is_refused(tmp_path, content):
    with pytest.raises(DataError, match=r"'split_KneeXray.json' is not of the form"):
        engine.read_examples(split_file(tmp_path, content))


def test_a_split_file_in_another_encoding_or_with_ambiguous_classes_is_refused(tmp_path):
    path = split_file(tmp_path)
    path.write_bytes(json.dumps(SPLIT).encode("utf-16"))
    with pytest.raises(DataError, match="not of the form"):
        engine.read_examples(path)
    for rows in ([["a", 0, "x"], ["b", 0, "y"]], [["a", 0, "x"], ["b", 1, "x"]]):
        with pytest.raises(DataError, match="one class two numbers, or one number two classes"):
            engine.read_examples(split_file(tmp_path, {"train": rows, "val": [], "test": []}))


# --- the sampler of the papers -------------------------------------------------------------------------------------------

# methods/biomedcoop.md, 5.2: made by upstream's own loader. Seeds 1, 2, 3, each with 1 and 16 shots.
DRAWS = [(1, 1), (1, 16), (2, 1), (2, 16), (3, 1), (3, 16)]
VECTORS = {
    "BTMRI": "37729da8f2f5f6ce cba38a4494db70b5 a1baeb36fca2fded 8d019a6964ed8b86 4eca16cd12692428 d72323ff526b2fa9",
    "BUSI": "35d299399543394a ed22ba9c8c63442a 09a1c6050b45bf10 3d968bff5cc1ad5a befd12aaabead2d1 5ec2980c791a45ad",
    "CHMNIST": "4c50178d9963b61c 08fc0aab7839552f e707bdf9b0060dfa 32e1ab591e71816e b108922871b5a453 df4f030f6fc48bbe",
    "COVID_19": "dfc32f86a6377740 e05105662eb6b65f e09d2e8cfc14f5e5 8b242992d6fafdfa 4f450909e1a29398 53c6e77ea3f73082",
    "CTKidney": "c0fa3a84a4159768 f76fed7017fe39f5 3da2b3f76ff010c8 ea769e95da06058a 568fc8c4334723a3 71d085efd40c427e",
    "DermaMNIST": "b73e71a24ab04d9c b6fd74f5ce5e7507 10b68d47258c1cf3 5e4f9148315a26af e3893c29f9e53790 38835c1928742aeb",
    "KneeXray": "f68db56f0a278339 2da9a5198bc808d3 2d8065a4e2e8c56a 4643f92c2885b215 790904623ca94e34 d6bb88d2a374a061",
    "Kvasir": "1b4a01742bb9b162 89f86473a802bb9f 74bca2ac5122e93e 9b6cf9356aa3eae6 4d218439d567b7e0 44a32861aec274ec",
    "LungColon": "262ae0a0432dacaf 0f1b81bbc255dff9 93b4c5fe863b41d0 bf0b08308b8acc27 949d5f4b78752b0f 5087428c215ba437",
    "RETINA": "90a11d6f6431eda5 86a084f760223130 9c12da07ecd49174 9b8f181aed8c613a a048df03a268ca65 6bc43faed9b514fb",
}
CASES = [(name, *draw, want) for name, row in VECTORS.items() for draw, want in zip(DRAWS, row.split(), strict=True)]


@cache
def benchmark(folder: Path, name: str) -> list[Example]:
    return engine.read_examples(folder / f"split_{name}.json")


@pytest.mark.shared
@pytest.mark.parametrize(("name", "seed", "shots", "wanted"), CASES)
def test_the_draws_of_the_papers_are_repeated(shared, name, seed, shots, wanted):
    folder = shared / "splits"
    train, validation = papers_few_shot(benchmark(folder, name), shots, seed)
    paths = "\n".join(str(Path(e.path).relative_to(folder)) for e in train)
    assert hashlib.sha256(paths.encode()).hexdigest()[:16] == wanted
    assert {e.split for e in train} == {"train"} and {e.split for e in validation} == {"val"}
    assert set(Counter(e.label for e in validation).values()) == {min(shots, 4)}


@pytest.mark.shared
def test_the_first_draw_of_btmri_is_readable(shared):
    train, _ = papers_few_shot(benchmark(shared / "splits", "BTMRI"), 1, 1)
    assert [Path(e.path).name for e in train] == ["image1229.jpg", "image852.jpg", "image975.jpg", "image1108.jpg"]
    assert [e.label for e in train] == ["glioma tumor", "meningioma tumor", "normal brain", "pituitary tumor"]


@pytest.mark.shared
def test_the_tasks_of_the_benchmark_have_the_label_order_of_the_split_files(shared):
    """Base and novel classes follow from this order."""
    compared = 0
    for task in engine.tasks().values():
        path = shared / "splits" / f"split_{task.benchmark}.json"
        if path.is_file():
            rows = {tuple(row[1:]) for split in json.loads(path.read_text()).values() for row in split}
            assert tuple(name for _, name in sorted(rows)) == task.names
            compared += 1
    assert compared >= 5


def some(label: str, count: int, split: str = "", patient: str = "") -> list[Example]:
    return [Example(f"{label}/{split}{i}.png", label, patient.format(i=i), split=split) for i in range(count)]


def test_a_class_with_few_images_gives_all_in_order_and_the_generator_is_the_papers():
    rows = some("b", 3, "train") + some("a", 9, "train") + some("a", 9, "val") + some("b", 9, "val")
    train, validation = papers_few_shot(rows, 5, 7)
    random.seed(7)  # as upstream
    a, b = random.sample(some("a", 9, "train"), 5), some("b", 3, "train")
    assert train == b + a
    assert validation == random.sample(some("a", 9, "val"), 4) + random.sample(some("b", 9, "val"), 4)


def test_the_sampler_of_the_papers_needs_splits():
    with pytest.raises(DataError, match=r"'papers' needs splits.*'grouped'"):
        papers_few_shot(some("a", 3) + some("b", 3), 1, 1)


# --- the sampler that keeps units whole -----------------------------------------------------------------------------------


def test_units_are_never_on_both_sides_and_each_gives_one_image_first():
    rows = some("a", 30, patient="p{i}") + some("b", 30, patient="q{i}")
    rows += [Example(f"{e.path}.again", e.label, e.patient) for e in rows]
    for seed in range(20):
        train, validation = grouped_few_shot(rows, 16, seed)
        assert Counter(e.label for e in train) == {"a": 16, "b": 16}
        assert Counter(e.label for e in validation) == {"a": 4, "b": 4}
        assert len({unit(e) for e in train}) == 32 and straddling(train, validation) == []


def test_further_images_come_from_the_same_units_and_validation_is_what_is_left():
    rows = [Example(f"{label}{p}{i}.png", label, f"{label}{p}") for label in "ab" for p in range(3) for i in range(4)]
    train, validation = grouped_few_shot(rows, 7, 0)
    assert sorted(Counter(e.patient for e in train).values()) == [2, 2, 2, 2, 3, 3]  # 7 images of 3 patients a class
    assert len(set(train)) == 14 and validation == []
    train, validation = grouped_few_shot(rows, 2, 0)
    assert Counter(e.label for e in validation) == {"a": 2, "b": 2} and straddling(train, validation) == []


def test_a_patient_of_two_classes_stays_on_one_side():
    rows = [Example(f"{p}{side}.png", "ab"[(p + side) % 2], f"p{p}") for p in range(12) for side in range(2)]
    for seed in range(20):
        train, validation = grouped_few_shot(rows, 4, seed)
        assert len(train) == 8 and straddling(train, validation) == []


def test_with_splits_train_and_validation_keep_to_theirs():
    rows = [e for split in ("train", "val", "test") for label in "ab" for e in some(label, 9, split)]
    train, validation = grouped_few_shot(rows, 5, 1)
    assert len(train) == 10 and {e.split for e in train} == {"train"}
    assert len(validation) == 8 and {e.split for e in validation} == {"val"}
    train, validation = grouped_few_shot([e for e in rows if e.split != "val"], 5, 1)  # without val: what train left over
    assert len(validation) == 8 and {e.split for e in validation} == {"train"} and straddling(train, validation) == []


def test_a_unit_of_val_that_train_drew_is_left_out():
    train = [Example(f"{label}.png", label, label, split="train") for label in "ab"]
    val = [
        Example(f"{label}{i}.png", label, label if i == 0 else f"{label}{i}", split="val") for label in "ab" for i in (0, 1)
    ]
    assert {e.path for e in grouped_few_shot(train + val, 4, 0)[1]} == {"a1.png", "b1.png"}


def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_the_list():
    rows = some("a", 40, patient="p{i}") + some("b", 40, patient="q{i}")
    mixed = random.Random(0).sample(rows, len(rows))
    assert grouped_few_shot(rows, 8, 3) == grouped_few_shot(mixed, 8, 3) != grouped_few_shot(rows, 8, 4)
    assert hold_out(rows, 0.3, 3) == hold_out(mixed, 0.3, 3) != hold_out(rows, 0.3, 4)


TWICE = [Example("x/scan7.png", "a"), Example("x/scan7.png", "b"), Example("2.png", "a")]


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=list(SAMPLERS))
@pytest.mark.parametrize(
    ("rows", "shots", "words"),
    [
        (some("a", 3, "train") + some("b", 3, "train"), 0, "0 images a class cannot be drawn"),
        (some("a", 3, "train") + some("b", 3, "train"), -1, "-1 images a class"),
        ([], 1, "no labelled images"),
        (some("a", 3, "train"), 1, "All 3 images are of one class, 'a'"),
        (some("", 3, "train"), 1, "3 of 3 images have no label"),
        (TWICE, 1, r"The file 'scan7.png' has two labels, 'a' and 'b'"),
        (some("a", 3, "train") + some("b", 3, "test"), 1, "No image of the class 'b' is in the split 'train'"),
    ],
)
def test_a_sampler_refuses_what_it_cannot_draw_from(sampler, rows, shots, words):
    with pytest.raises(DataError, match=words):
        sampler(rows, shots, 1)


@pytest.mark.shared
def test_grouped_draws_of_the_real_tables_hold_together(shared):
    for data in ("DERM7", "CTKIDNEY", "OCT_MINI"):
        rows = engine.read_examples(shared / "data" / "sets" / data)
        check_examples(rows)
        train, validation = grouped_few_shot(rows, 16, 1)
        assert max(Counter(e.label for e in train).values()) <= 16 and straddling(train, validation) == []


# --- held out, and what holds together -----------------------------------------------------------------------------------


def test_holding_out_keeps_units_whole_and_the_classes_shares():
    rows = [Example(f"a{p}-{i}.png", "a", f"p{p}") for p in range(50) for i in range(1 + p % 3)]
    rows += [Example(f"b{p}-{i}.png", "b", f"p{p}") for p in range(40, 60) for i in range(2)]  # ten patients have both
    for seed in range(10):
        train, test = hold_out(rows, 0.3, seed)
        assert straddling(train, test) == [] and len(train) + len(test) == len(rows)
        assert {e.split for e in train} == {"train"} and {e.split for e in test} == {"test"}
        for label in "ab":
            share = sum(e.label == label for e in test) / sum(e.label == label for e in rows)
            assert share == pytest.approx(0.3, abs=0.06)  # a unit is up to 5 of 139 images, in both classes


@pytest.mark.parametrize(("sizes", "held"), [([1, 1], 1), ([1, 1, 1], 1), ([9, 1], 1), ([100, 100], 100), ([5], 0)])
def test_a_class_of_few_units_keeps_one_in_train_and_gives_one_where_it_can(sizes, held):
    rows = [Example(f"a{u}-{i}.png", "a", f"p{u}") for u, size in enumerate(sizes) for i in range(size)] + some("b", 10)
    train, test = hold_out(rows)
    assert [e.label for e in test].count("a") == held and {e.label for e in train} == {"a", "b"}
    train, test = hold_out(rows, share=0.01)
    assert [e.label for e in test].count("a") == (min(sizes) if len(sizes) > 1 else 0)


def test_holding_out_refuses_odd_shares_and_splits():
    rows = some("a", 4) + some("b", 4)
    for share in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(DataError, match="A share of"):
            hold_out(rows, share)
    with pytest.raises(DataError, match="already have splits"):
        hold_out(some("a", 4, "train") + some("b", 4, "test"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "There are no labelled images"),
        (some("a", 1), "There is only one image"),
        (some("a", 5), "All 5 images are of one class, 'a'"),
        (some("a", 5) + some("", 2), "2 of 7 images have no label"),
        (TWICE, "'scan7.png' has two labels"),
        (
            [Example(f"{s}{i}.png", "ab"[i], f"Doe{i}", split=s) for s in ("train", "test") for i in (0, 1)],
            "^2 of the patients",
        ),
        (
            [Example(f"{s}{i}.png", "ab"[i], "Doe", f"g{i}{s}", s) for s in ("train", "val") for i in (0, 1)],
            "^1 of the patients",
        ),
        ([Example(f"{i}.png", "ab"[i], group=f"{s}{i}", split=s) for s in ("train", "test") for i in (0, 1)], "^2 of the"),
    ],
)
def test_data_that_do_not_hold_together_are_refused_before_training(rows, words):
    with pytest.raises(DataError, match=words) as caught:
        check_examples(rows)
    assert "Doe" not in str(caught.value)
    assert caught.value.message.count(". ") == 0


def test_sound_data_pass_with_and_without_splits():
    check_examples(some("a", 2) + some("b", 2))
    check_examples([*some("a", 2, "train"), *some("b", 2, "train"), *some("a", 2, "test"), *some("b", 1)])


def test_a_straddling_patient_is_counted_once():
    left = [Example("1.png", "a", "p1", "g1"), Example("2.png", "a", "p2"), Example("3.png", "a")]
    right = [
        Example("4.png", "a", "p1", "g1"),
        Example("5.png", "b", "p2"),
        Example("3.png", "a"),
        Example("6.png", "b", "p6"),
    ]
    assert straddling(left, right) == ["3.png", "g1", "p2"]
    assert straddling(left, right[3:]) == []


# --- base to novel --------------------------------------------------------------------------------------------------------


def test_the_first_half_of_the_classes_rounded_up_is_base():
    assert base_and_novel("abcde") == (("a", "b", "c"), ("d", "e"))
    assert base_and_novel(KNEE.names)[1] == ("moderate osteoarthritis", "severe osteoarthritis")
    with pytest.raises(DataError, match="1 class cannot be divided"):
        base_and_novel(["a"])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "base", "novel"),
    [("DermaMNIST", 412, 1593), ("KneeXray", 1382, 274), ("LungColon", 4500, 3000), ("RETINA", 633, 635)],
)
def test_base_and_novel_test_images_are_as_many_as_the_papers(shared, name, base, novel):
    """methods/biomedcoop.md, 5.3."""
    rows = json.loads((shared / "splits" / f"split_{name}.json").read_text())["test"]
    names = [label for _, label in sorted({(number, label) for _, number, label in rows})]
    test = [e for e in benchmark(shared / "splits", name) if e.split == "test"]
    assert tuple(len(of_classes(test, part)) for part in base_and_novel(names)) == (base, novel)


# --- tasks -------------------------------------------------------------------------------------------------------------

# product.md, section 4
BENCHMARK = [
    "btmri",
    "busi",
    "chmnist",
    "covid_19",
    "ctkidney",
    "dermamnist",
    "kneexray",
    "kvasir",
    "lungcolon",
    "octmnist",
    "retina",
]
OWN = {"covid_cxr", "pneumonia_cxr", "derm7", "lc25000_lung"}


def test_the_ids_are_spelled_as_the_product_says():
    tasks = engine.tasks()
    assert set(tasks) >= OWN
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in tasks)
    of_benchmark = [t.id for t in tasks.values() if t.benchmark]
    assert of_benchmark and set(of_benchmark) <= set(BENCHMARK)
    assert not set(tasks) & (set(BENCHMARK) - set(of_benchmark))
    for name in of_benchmark:
        assert re.sub(r"\W", "_", tasks[name].benchmark.lower()) == name


def test_ids_labels_and_aliases_are_unambiguous():
    raw = json.loads((ASSETS / "tasks.json").read_text(encoding="utf-8"))["tasks"]
    assert [t["id"] for t in raw] == list(engine.tasks())
    for task in engine.tasks().values():
        assert len(set(task.names)) == len(task.names) >= 2
        meant: dict[str, set[str]] = {}
        for label in task.labels:
            for name in (label.name, label.display, *label.aliases):
                meant.setdefault(name.lower().replace("_", " "), set()).add(label.name)
        assert {k: v for k, v in meant.items() if len(v) > 1} == {}, task.id
        assert task.template.count("{}") == 1 and task.title and task.modality and task.organ


@pytest.mark.parametrize(
    ("name", "folder", "label"),
    [
        ("kneexray", "kl0", "healthy knee"),
        ("kneexray", " KL4 ", "severe osteoarthritis"),
        ("btmri", "glioma_tumor", "glioma tumor"),
        ("btmri", "notumor", "normal brain"),
        ("busi", "benign", "benign tumor"),
        ("ctkidney", "stone", "kidney stone"),
        ("derm7", "mel", "melanoma"),
        ("lc25000_lung", "lung_n", "lung benign tissue"),
        ("octmnist", "CNV", "choroidal neovascularization"),
        ("retina", "normal_fundus", "normal retina"),
        ("modality", "MR", "MRI"),
        ("medmnist_modality", "AbdomenCT", "abdomen CT"),
    ],
)
def test_a_folders_name_means_its_label(name, folder, label):
    assert engine.task(name).label_of(folder) == label


def test_an_unknown_task_is_named_with_the_choices():
    with pytest.raises(DataError, match=r"no task called 'knee'.*kneexray"):
        engine.task("knee")
    with pytest.raises(DataError, match="no description bank for the task 'knee'"):
        engine.descriptions("knee")


@pytest.mark.shared
def test_every_folder_of_the_real_sets_means_a_label_of_its_task(shared):
    sets = sorted(p for p in (shared / "data" / "sets").iterdir() if p.is_dir())
    owners = {data: task for task in engine.tasks().values() for data in task.data}
    assert {p.name for p in sets} == set(owners)
    for place in sets:
        folders = sorted(p.name for p in place.iterdir() if p.is_dir())
        labels = [owners[place.name].label_of(name) for name in folders]
        assert sorted(labels) == sorted(owners[place.name].names), place.name  # each label once


@pytest.mark.shared
def test_the_real_tables_are_read_whole_and_by_split(shared):
    readme = (shared / "data" / "README.md").read_text(encoding="utf-8")
    for task in engine.tasks().values():
        for data in task.data:
            place = shared / "data" / "sets" / data
            counts = re.search(rf"^\| {data} \|.*?\| (\d+)/(\d+)/(\d+) \|", readme, re.MULTILINE)
            assert counts is not None, data
            found = {split: engine.read_examples(place, task, split) for split in ("train", "val", "test")}
            assert tuple(len(v) for v in found.values()) == tuple(int(n) for n in counts.groups()), data
            everything = engine.read_examples(place, task)
            assert len(everything) == sum(len(v) for v in found.values())
            with (place / "split.csv").open(newline="", encoding="utf-8") as lines:
                rows = list(csv.DictReader(lines))
            wanted = Counter(task.label_of(Path(row["path"]).parts[0]) for row in rows)  # a second road: the folder
            assert Counter(e.label for e in everything) == wanted and set(wanted) == set(task.names)
            assert all(Path(e.path).is_file() for e in everything[:: max(1, len(everything) // 50)])
            sides: dict[str, set[str]] = {}
            for example in everything:
                sides.setdefault(unit(example), set()).add(example.split)
            assert [u for u, s in sides.items() if len(s) > 1] == [], data


# --- description banks -------------------------------------------------------------------------------------------------


def plain(sentence: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", sentence.lower()).split())


@pytest.fixture(params=list(engine.tasks()))
def bank(request):
    return engine.descriptions(request.param)


def test_a_bank_has_the_classes_of_its_task_in_order(bank):
    raw = (ASSETS / "descriptions" / f"{bank.task}.json").read_bytes()
    assert tuple(json.loads(raw)["classes"]) == tuple(bank.classes) == engine.task(bank.task).names
    assert bank.sha256 == hashlib.sha256(raw).hexdigest()
    assert bank.source and bank.licence


def test_a_class_has_30_distinct_sentences(bank):
    for name, words in bank.classes.items():
        assert len({plain(s) for s in words.sentences}) == len(words.sentences) >= 30, name
        for sentence in (*words.sentences, *words.negatives):
            assert sentence == sentence.strip() and sentence[0].isupper() and sentence.endswith("."), sentence
            assert "{" not in sentence and "\n" not in sentence and len(sentence.split()) >= 4, sentence
        assert words.negatives and words.attributes
        assert {"medical", "query", "lay"} <= set(words.synonyms)
        assert all(words.synonyms.values()) and all(words.attributes.values())


def test_a_negative_is_no_sentence_of_any_class(bank):
    positive = {plain(s) for c in bank.classes.values() for s in c.sentences}
    assert [n for c in bank.classes.values() for n in c.negatives if plain(n) in positive] == []


def test_a_sentence_names_no_other_class_of_its_task(bank):
    named = []
    for name, words in bank.classes.items():
        for other in bank.classes:
            if other == name or plain(other) in plain(name):  # "viral pneumonia" is part of "viral pneumonia lungs"
                continue
            wanted = re.compile(rf"\b{re.escape(plain(other))}\b")
            # inside the class's own name it is no other class: "no subretinal fluid" holds "subretinal fluid"
            named += [(name, other, s) for s in words.sentences if wanted.search(plain(s).replace(plain(name), " "))]
    assert named == []


def test_no_sentence_is_in_two_places():
    places: dict[str, list[tuple[str, str]]] = {}
    for task in engine.tasks():
        for name, words in engine.descriptions(task).classes.items():
            for sentence in words.sentences:
                places.setdefault(plain(sentence), []).append((task, name))
    assert {s: p for s, p in places.items() if len(p) > 1} == {}


def test_there_is_no_bank_without_a_task():
    assert {p.stem for p in (ASSETS / "descriptions").glob("*.json")} == set(engine.tasks())


def test_groups_and_patients_that_overlap_are_one_group():
    """P is in g and h, and h holds Q; R has a group of its own, S none."""
    about = [("P", "g"), ("P", "h"), ("Q", "h"), ("Q", ""), ("P", ""), ("R", "r"), ("S", ""), ("", "g"), ("", "")]
    made = joined([Example(f"{i}", "a", *each) for i, each in enumerate(about)])
    assert [e.group for e in made] == ["g"] * 5 + ["r", "", "g", ""]
    assert [(e.path, e.patient) for e in made] == [(f"{i}", patient) for i, (patient, _) in enumerate(about)]
    assert len({unit(e) for e in made}) == 4 and joined(made) == made
