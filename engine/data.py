"""Labelled images: class folders, a CSV or the papers' split file become Examples; samplers draw few of them.

Canonical columns are `path,label,patient,group,split`; `class` and `patient_id` are accepted as aliases.
What never straddles a split is the group, else the patient, else the file (`unit`).
Split files and the sampler `papers`: BiomedCoOp (arXiv:2411.15232), which took them from CoOp (arXiv:2109.01134).
Left out: the patient that a benchmark's file name may hold; split files carry no patients.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import combinations
from operator import attrgetter
from pathlib import Path

from engine.errors import DataError
from engine.tasks import Task
from engine.types import Example

BESIDE = {".txt", ".csv", ".md", ".json", ".xml"}  # what lies beside images; DICOM has any suffix, or none
ALIASES = {"class": "label", "patient_id": "patient"}
SPLITS = ("train", "val", "test")
IN_ORDER = attrgetter("path", "label", "patient", "group", "split")
VALIDATION = 4  # images a class at most, as CoOp's loaders have it (datasets/*.py: min(num_shots, 4))


def unit(example: Example) -> str:
    """What must stay on one side of a split: the group, else the patient, else the file."""
    return example.group or example.patient or example.path


def joined(examples: Sequence[Example]) -> list[Example]:
    """The same in groups as large as whole patients are: where groups and patients overlap, all that hang together is one, so
    that no split by `unit` parts a patient's images."""
    same: dict[tuple[str, str], tuple[str, str]] = {}

    def first(key: tuple[str, str]) -> tuple[str, str]:
        while same.get(key, key) != key:
            key = same[key]
        return key

    for e in examples:
        if e.group and e.patient:
            one, other = sorted((first(("group", e.group)), first(("patient", e.patient))))  # a group's name comes first
            same[other] = one
    found = [first(("group", e.group) if e.group else ("patient", e.patient)) for e in examples]
    return [replace(e, group=name if kind == "group" else "") for e, (kind, name) in zip(examples, found, strict=True)]


def table_rows(table: Path, name: str = "", needed: Collection[str] = ("path", "label")) -> list[dict[str, str]]:
    """The rows of a CSV under its canonical columns, all as text. Raises DataError.

    name : of the table, for sentences, in place of the file's; needed : columns without which it is refused
    """
    name = name or table.name
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            head = lines.readline()
            lines.seek(0)
            divider = max(",;\t", key=head.count)  # where commas are decimal, spreadsheets write semicolons
            found = csv.DictReader(lines, delimiter=divider)
            found.fieldnames = [ALIASES.get(n, n) for n in (name.strip().lower() for name in found.fieldnames or ())]
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in found]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The table {name!r} is no CSV in UTF-8 ({error}).", "Save it as CSV, UTF-8.") from error
    if not rows:
        raise DataError(f"The table {name!r} has no rows.", "Give it the columns path and label.")
    missing = set(needed) - rows[0].keys()
    if missing:
        raise DataError(
            f"The table {name!r} lacks the column {', '.join(sorted(missing))!r}.",
            "Its columns should be path, label and, where known, patient, group, split.",
        )
    return rows


def _from_csv(table: Path, task: Task | None) -> list[Example]:
    return [
        Example(
            path=str(table.parent / row["path"]),
            label=task.label_of(row["label"]) if task else row["label"],
            patient=row.get("patient", ""),
            group=row.get("group", ""),
            split=row.get("split", ""),
        )
        for row in table_rows(table)
    ]


def _from_split_file(file: Path, task: Task | None) -> list[Example]:
    """{"train" | "val" | "test": [[path, label number, class name], ...]}; images below <folder>/<NAME>/, or beside it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
        rows = [(split, *row) for split in SPLITS for row in found[split]]
        names = {(number, name) for _, _, number, name in rows}
        well = all(isinstance(path, str) and path and type(number) is int for _, path, number, _ in rows)
        well = well and all(isinstance(name, str) and name for _, name in names)
    except (ValueError, KeyError, TypeError, RecursionError):  # no JSON, or of another form
        well = False
    if not well:
        raise DataError(
            f"The split file {file.name!r} is not of the form that the papers use.",
            'It should be {"train": [["path", 0, "class name"], ...], "val": [...], "test": [...]}.',
        )
    if len({number for number, _ in names}) < len(names) or len({name for _, name in names}) < len(names):
        raise DataError(f"The split file {file.name!r} gives one class two numbers, or one number two classes.")
    folder = file.parent / file.stem.removeprefix("split_")
    folder = folder if folder.is_dir() else file.parent
    labels = {name: task.label_of(name) if task else name for _, name in sorted(names)}
    return [Example(str(folder / path), labels[name], split=split) for split, path, _, name in rows]


def _from_folders(folder: Path, task: Task | None) -> list[Example]:
    examples = []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        label = task.label_of(place.name) if task else place.name
        found = (f for f in place.rglob("*") if f.is_file() and not f.name.startswith("."))
        files = sorted(f for f in found if f.suffix.lower() not in BESIDE)
        examples += [Example(path=str(f), label=label) for f in files]
    return examples


def _split_file(folder: Path) -> Path | None:
    """The folder's one split_*.json, None where it has none. Raises DataError where it has several."""
    found = sorted(folder.glob("split_*.json"))
    if len(found) > 1:
        names = ", ".join(f.name for f in found[:3])
        raise DataError(f"The folder {folder.name!r} holds {len(found)} split files ({names} ...).", "Name one of them.")
    return found[0] if found else None


def read_examples(source: str | Path, task: Task | None = None, split: str | None = None) -> list[Example]:
    """Examples of a CSV file, a split_<NAME>.json, or a folder; no image is opened.

    source : a folder is read by its split.csv, else by its one split_*.json, else by its class folders
    task : translates folder names, CSV values and class names to its labels, and refuses unknown ones
    split : keep only the rows of this split ("train", "val", "test")
    Raises DataError.
    """
    place = Path(source)
    if place.is_dir():
        table = place / "split.csv"
        file = table if table.is_file() else _split_file(place)
    elif place.is_file():
        file = place
    else:
        raise DataError(f"There is no file or folder at {str(source)!r}.", "Give a CSV or a folder of class folders.")
    if file is None:
        examples = _from_folders(place, task)
    elif file.suffix.lower() == ".json":
        examples = _from_split_file(file, task)
    else:
        examples = _from_csv(file, task)
    if split is not None:
        examples = [e for e in examples if e.split == split]
    if not examples:
        where = f" in the split {split!r}" if split else ""
        raise DataError(f"No labelled images were found at {str(source)!r}{where}.")
    return examples


# --- what holds together ---------------------------------------------------------------------------------------------


def straddling(train: Sequence[Example], rest: Sequence[Example]) -> list[str]:
    """The groups, patients or files with images on both sides, each once. They may identify: count them, don't show them."""
    ways: tuple[Callable[[Example], str], ...] = (unit, lambda e: e.patient, lambda e: e.path)
    found: list[str] = []
    for name_of in ways:
        both = ({name_of(e) for e in train} & {name_of(e) for e in rest}) - {""}
        train = [e for e in train if name_of(e) not in both]  # a patient whose group is counted is not counted again
        found += sorted(both)
    return found


def _check_labels(examples: Sequence[Example]) -> None:
    if not examples:
        raise DataError("There are no labelled images.")
    missing = sum(not e.label for e in examples)
    if missing:
        raise DataError(f"{missing} of {len(examples)} images have no label.", "Label them, or leave them out.")
    if len(examples) == 1:
        raise DataError("There is only one image.", "Give at least one image of each class.")
    label_of: dict[str, str] = {}
    for e in examples:
        if label_of.setdefault(e.path, e.label) != e.label:
            raise DataError(f"The file {Path(e.path).name!r} has two labels, {label_of[e.path]!r} and {e.label!r}.")
    if len(set(label_of.values())) == 1:
        raise DataError(f"All {len(examples)} images are of one class, {examples[0].label!r}.", "Give at least two classes.")


def check_examples(examples: Sequence[Example]) -> None:
    """Raises DataError where nothing sound can be learned or measured: to be called before any training.

    No image, one image, one class, labels missing, a file with two labels, a patient (group, file) in several splits.
    """
    _check_labels(examples)
    sides: dict[str, list[Example]] = {}
    for e in examples:
        sides.setdefault(e.split, []).append(e)
    sides.pop("", None)
    both = {name for one, other in combinations(sides.values(), 2) for name in straddling(one, other)}
    if both:
        raise DataError(
            f"{len(both)} of the patients, groups or files have images in more than one split.",
            "Give all images of a patient the same split.",
        )


# --- few of many ----------------------------------------------------------------------------------------------------


def _train_rows(examples: Sequence[Example], shots: int) -> list[Example]:
    """The rows that may be trained on: of the split train where there are splits, else all. Raises DataError."""
    if shots < 1:
        raise DataError(f"{shots} images a class cannot be drawn.", "Ask for at least 1.")
    _check_labels(examples)
    rows = [e for e in examples if e.split == "train"] if any(e.split for e in examples) else list(examples)
    absent = sorted({e.label for e in examples} - {e.label for e in rows})
    if absent:
        raise DataError(f"No image of the class {absent[0]!r} is in the split 'train'.", "Give it some, or leave it out.")
    return rows


def papers_few_shot(examples: list[Example], shots: int, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, validation) exactly as CoOp and its descendants draw them from a split file.

    `shots` images a class of the split train, then min(shots, 4) of the split val, from one generator; classes as they
    first appear, a class with fewer gives all. Patients may be on both sides: see `straddling`. Raises DataError.
    """
    _train_rows(examples, shots)
    if not any(e.split for e in examples):
        raise DataError("The sampler 'papers' needs splits, and these images have none.", "Use the sampler 'grouped'.")
    rng = random.Random(seed)  # draws what random.seed(seed) and random.sample draw upstream

    def draw(split: str, count: int) -> list[Example]:
        of_class: dict[str, list[Example]] = {}
        for e in examples:
            if e.split == split:
                of_class.setdefault(e.label, []).append(e)
        return [e for rows in of_class.values() for e in (rng.sample(rows, count) if len(rows) >= count else rows)]

    train = draw("train", shots)
    return train, draw("val", min(shots, VALIDATION))


def _draw_by_unit(rows: list[Example], count: int, rng: random.Random) -> list[Example]:
    """`count` images of each class, or all: one of each unit while units last, then a second one of each, and so on."""
    drawn: list[Example] = []
    for label in sorted({e.label for e in rows}):
        of_unit: dict[str, list[Example]] = {}
        for e in rows:
            if e.label == label:
                of_unit.setdefault(unit(e), []).append(e)
        units = list(of_unit.values())
        rng.shuffle(units)
        for images in units:
            rng.shuffle(images)
        turns = max(len(images) for images in units)
        drawn += [images[turn] for turn in range(turns) for images in units if turn < len(images)][:count]
    return drawn


def grouped_few_shot(examples: list[Example], shots: int, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, validation): `shots` images a class and min(shots, 4) a class, no unit on both sides.

    One image a unit is preferred while units last. Train comes from the split train where there are splits; validation
    from the split val, else from units that train left over. Train goes first: where a class has few units its validation
    is smaller or empty. The order of the list does not matter. Raises DataError.
    """
    rows = sorted(set(examples), key=IN_ORDER)
    pool = _train_rows(rows, shots)
    rng = random.Random(seed)
    train = _draw_by_unit(pool, shots, rng)
    used = {unit(e) for e in train}
    rest = [e for e in rows if e.split == "val"] or pool
    return train, _draw_by_unit([e for e in rest if unit(e) not in used], min(shots, VALIDATION), rng)


SAMPLERS: dict[str, Callable[[list[Example], int, int], tuple[list[Example], list[Example]]]] = {
    "papers": papers_few_shot,
    "grouped": grouped_few_shot,
}


def hold_out(examples: Sequence[Example], share: float = 0.3, seed: int = 1) -> tuple[list[Example], list[Example]]:
    """(train, test) of data without splits, with split set: whole units, about `share` of each class's images for test.

    Every class keeps a unit in train; a class with two units or more has one in test, unless they hold other classes'
    last ones. Both lists are in the order of their paths. Raises DataError.
    """
    check_examples(examples)
    if not 0 < share < 1:
        raise DataError(f"A share of {share} cannot be held out.", "Give a share above 0 and below 1.")
    if any(e.split for e in examples):
        raise DataError("These images already have splits.", "Use them, or leave the column split out.")
    rows = sorted(set(examples), key=IN_ORDER)
    units: dict[str, Counter[str]] = {}  # images of each class
    for e in rows:
        units.setdefault(unit(e), Counter())[e.label] += 1
    names = list(units)
    random.Random(seed).shuffle(names)
    images = Counter(e.label for e in rows)
    left = Counter(label for held in units.values() for label in held)  # units of each class in train
    test: set[str] = set()
    done: Counter[str] = Counter()  # images of each class in test

    def take(name: str) -> None:
        test.add(name)
        done.update(units[name])
        left.subtract(set(units[name]))

    def is_free(name: str) -> bool:
        return name not in test and all(left[label] > 1 for label in units[name])

    for label in sorted(images, key=lambda c: (images[c], c)):  # rare classes first
        wanted, own = share * images[label], [n for n in names if label in units[n]]
        for name in own:
            if is_free(name) and abs(done[label] + units[name][label] - wanted) < abs(done[label] - wanted):
                take(name)
        spare = [n for n in own if is_free(n)]
        if not done[label] and spare:  # every unit is larger than twice the share: the smallest one
            take(min(spare, key=lambda n: units[n].total()))
    return (
        [replace(e, split="train") for e in rows if unit(e) not in test],
        [replace(e, split="test") for e in rows if unit(e) in test],
    )


# --- base to novel --------------------------------------------------------------------------------------------------


def base_and_novel(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(base, novel): the first ceil(C / 2) in label order, and the rest. CoCoOp, arXiv:2203.05557."""
    if len(names) < 2:
        raise DataError(f"{len(names)} class cannot be divided into base and novel.", "Give at least two classes.")
    half = -(-len(names) // 2)
    return tuple(names[:half]), tuple(names[half:])


def of_classes(examples: Sequence[Example], names: Collection[str]) -> list[Example]:
    """The examples of these classes. Few-shot draws come first, on all classes, then this: as upstream."""
    return [e for e in examples if e.label in names]
