"""Labelled images: class folders or a CSV become a list of Examples; splits never divide a group.

Canonical columns are `path,label,patient,group,split`; `class` and `patient_id` are accepted as aliases.
What never straddles a split is the group, else the patient, else the file (`unit`).
Left out here: the papers' split_<NAME>.json and few-shot samplers, which come with the learning methods.
"""

from __future__ import annotations

import csv
from pathlib import Path

from engine.errors import DataError
from engine.tasks import Task
from engine.types import Example

BESIDE = {".txt", ".csv", ".md", ".json", ".xml"}  # what lies beside images; DICOM has any suffix, or none
ALIASES = {"class": "label", "patient_id": "patient"}


def unit(example: Example) -> str:
    """What must stay on one side of a split: the group, else the patient, else the file."""
    return example.group or example.patient or example.path


def _from_csv(table: Path, task: Task | None) -> list[Example]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = [{ALIASES.get(k, k): (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(lines)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The table {table.name!r} is no CSV in UTF-8 ({error}).", "Save it as CSV, UTF-8.") from error
    if not rows:
        raise DataError(f"The table {table.name!r} has no rows.", "Give it the columns path and label.")
    missing = {"path", "label"} - rows[0].keys()
    if missing:
        raise DataError(
            f"The table {table.name!r} lacks the column {', '.join(sorted(missing))!r}.",
            "Its columns should be path, label and, where known, patient, group, split.",
        )
    return [
        Example(
            path=str(table.parent / row["path"]),
            label=task.label_of(row["label"]) if task else row["label"],
            patient=row.get("patient", ""),
            group=row.get("group", ""),
            split=row.get("split", ""),
        )
        for row in rows
    ]


def _from_folders(folder: Path, task: Task | None) -> list[Example]:
    examples = []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        label = task.label_of(place.name) if task else place.name
        found = (f for f in place.rglob("*") if f.is_file() and not f.name.startswith("."))
        files = sorted(f for f in found if f.suffix.lower() not in BESIDE)
        examples += [Example(path=str(f), label=label) for f in files]
    return examples


def read_examples(source: str | Path, task: Task | None = None, split: str | None = None) -> list[Example]:
    """Examples of a folder with `split.csv` or class folders, or of a CSV file.

    task : translates folder names and CSV values to its labels, and refuses unknown ones
    split : keep only the rows of this split ("train", "val", "test")
    Raises DataError.
    """
    place = Path(source)
    if place.is_file():
        examples = _from_csv(place, task)
    elif (place / "split.csv").is_file():
        examples = _from_csv(place / "split.csv", task)
    elif place.is_dir():
        examples = _from_folders(place, task)
    else:
        raise DataError(f"There is no file or folder at {str(source)!r}.", "Give a CSV or a folder of class folders.")
    if split is not None:
        examples = [e for e in examples if e.split == split]
    if not examples:
        where = f" in the split {split!r}" if split else ""
        raise DataError(f"No labelled images were found at {str(source)!r}{where}.")
    return examples
