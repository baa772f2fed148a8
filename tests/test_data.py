"""Labelled images, tasks and description banks.

python -m pytest tests/test_data.py
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import engine
from engine.data import unit
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
