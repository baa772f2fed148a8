"""Uploads become cases of a task: cleaned, opened, recognised where they are there already, labelled where they say how.

A label comes from a table (CSV: path, label, patient, group, split) or from the nearest folder that is a class of the task. A
DICOM series is one case, and the slice in its middle stands for it. Files are on the disk before the one transaction that makes
them cases, so a kill leaves no case without its file.

Left out: patients that only a file's name tells; rows of a table whose images came in an earlier upload, since names are not kept.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from engine.data import SPLITS, table_rows
from engine.errors import DataError, ImageError
from engine.readers._person import person
from engine.sandbox import Admitted, read_image, sandbox
from engine.scratch import PrivateFolder
from engine.store import digest_of
from engine.tasks import Task
from engine.types import Image, Series
from engine.workspace.space import Workspace, draw_thumbnail, durable, newest_label, record, settle, task_row
from engine.workspace.tables import CaseRow, LabelRow, PatientRow
from engine.workspace.twins import fingerprint
from engine.workspace.values import Added, Intake

TABLE_MB = 20  # the largest table: a hundred thousand rows
GROUP = "group "  # before a group's name, which may be a patient's
SIDES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


@dataclass(frozen=True)
class _Copy:
    """A clean copy. parts : its folders and name, as it was sent; whose : engine.readers._person, or ""."""

    path: Path
    parts: tuple[str, ...]
    whose: str

    @property
    def name(self) -> str:
        return self.parts[-1]


@dataclass(frozen=True)
class _Found:
    """A case to be: its files in frame order and what was said about it. told : what the label was called, or ""."""

    files: tuple[Path, ...]
    digests: tuple[str, ...]
    pixels: str
    fingerprint: str
    about: dict[str, object]
    whose: str
    together: str
    split: str
    label: str
    told: str


def take_in(workspace: Workspace, task: str, files: Sequence[tuple[Path, str]]) -> Iterator[Intake]:
    """How far it is, file by file, then what became of them.

    files : (where it lies, its name with the folders that the user sees, as in "busi/benign/1.png"); they stay where they are
    Raises DataError where there is no such task, a table cannot be used or the disk is full: nothing is then taken in.
    """
    asked = workspace.task(task)
    here = PrivateFolder()
    try:
        yield from _take_in(workspace, asked, files, here.path)
    except OSError as error:
        raise DataError(f"The images cannot be kept ({error.strerror}).", "Is there room on the disk?") from error
    finally:
        here.delete()


def _take_in(workspace: Workspace, task: Task, files: Sequence[tuple[Path, str]], folder: Path) -> Iterator[Intake]:
    copies: list[_Copy] = []
    refused: list[str] = []
    removed: Counter[str] = Counter()
    tables: list[_Table] = []
    total = 1
    for each in sandbox().admit(files, folder, workspace.key, tables=True):
        total = 2 * each.total
        if isinstance(each.file, ImageError):
            refused += [] if each.is_aside else [str(each.file)]
        elif each.name.lower().endswith(".csv"):
            tables.append(_Table(each.file, _split(each.name)[-1]))
        else:
            copies.append(_Copy(each.file, _parts(each), each.person))
            removed.update(dict(each.removed))
        yield Intake(each.done, total)
    if tables and not copies:
        raise DataError(f"The table {tables[0].name!r} came without its images.", "Upload them together, or as one zip.")
    folders = _Folders(task, [copy.parts for copy in copies])
    series, bad = _opened(copies)
    refused += bad
    found: list[_Found] = []
    done, there = total // 2, _known(workspace, task.id)
    for members, image, about in _looked_at(series):
        done += len(members)
        yield Intake(min(done, total), total)
        if isinstance(image, ImageError):
            refused.append(str(image))
            continue
        row = next((row for table in tables if (row := table.row_of(members))), {})
        found.append(_found(workspace.key, task, members, image, about, row, folders))
        if found[-1].pixels not in there:  # files first, so that no case is ever without its own
            _keep(workspace, found[-1], image)
            there.add(found[-1].pixels)
    for table in tables:
        refused += table.complaints()
    with workspace.writing() as session:
        added = _added(session, workspace, task.id, found)
    yield Intake(total, total, replace(added, refused=tuple(refused), removed=tuple(removed.items())))


def _known(workspace: Workspace, task: str) -> set[str]:
    with workspace.reading() as session:
        return set(session.scalars(select(CaseRow.pixels).where(CaseRow.task == task)))


def _found(
    key: bytes,
    task: Task,
    members: Sequence[_Copy],
    image: Image,
    about: dict[str, object],
    row: dict[str, str],
    folders: _Folders,
) -> _Found:
    """row : of a table, or {}; it counts before the folders."""
    told = row.get("label", "") or folders.told(members[0].parts)
    label = _label(task, row["label"]) if row.get("label") else folders.label(members[0].parts)
    return _Found(
        files=tuple(member.path for member in members),
        digests=tuple(digest_of(member.path) for member in members),
        pixels=_pixels(image),
        fingerprint=fingerprint(image),
        about=about,
        whose=person(key, row.get("patient", "")) or next((each.whose for each in members if each.whose), ""),
        together=person(key, GROUP + row["group"]) if row.get("group") else "",
        split=row.get("split", ""),
        label=label,
        told="" if label else told,
    )


def _keep(workspace: Workspace, found: _Found, image: Image) -> None:
    """The files and the thumbnail of a case to be, on the disk."""
    _store(workspace, found)
    thumb = workspace.thumb(found.digests[len(found.digests) // 2])
    if not thumb.exists():
        draw_thumbnail(image, thumb)


def _store(workspace: Workspace, found: _Found) -> None:
    for path, digest in zip(found.files, found.digests, strict=True):
        place = workspace.place(digest)
        if not place.exists():
            with path.open("rb") as source:
                os.replace(durable(source, place), place)
            settle(place.parent)


def _added(session: Session, workspace: Workspace, task: str, found: Sequence[_Found]) -> Added:
    """Makes the cases, in one transaction with the writers' lock: what was looked up before may have changed since."""
    owner, now = task_row(session, task), time.time()
    there = {row.pixels: row for row in session.scalars(select(CaseRow).where(CaseRow.task == task))}
    asked = select(CaseRow.id, LabelRow.label).join(LabelRow, LabelRow.id == newest_label()).where(CaseRow.task == task)
    labels = {case: label for case, label in session.execute(asked)}
    people = {person: number for person, number in session.execute(select(PatientRow.person, PatientRow.id))}
    new: list[int] = []
    again = contrary = labelled = 0
    strays: dict[str, list[int]] = {}
    for each in found:
        row = there.get(each.pixels)
        if row is None:
            _store(workspace, each)  # unless somebody erased the same file meanwhile, it is there
            owner.counted += 1
            row = CaseRow(
                task=task,
                number=owner.counted,
                files=list(each.digests),
                pixels=each.pixels,
                fingerprint=each.fingerprint,
                together=each.together,
                split=each.split,
                about=each.about,
                added=now,
            )
            session.add(row)
            session.flush()
            there[each.pixels] = row
            new.append(row.id)
        else:
            again += 1
        if each.whose and not row.patient:
            if each.whose not in people:
                somebody = PatientRow(person=each.whose)
                session.add(somebody)
                session.flush()
                people[each.whose] = somebody.id
            row.patient = people[each.whose]
        row.together, row.split = row.together or each.together, row.split or each.split
        has = labels.get(row.id, "")
        if each.label and not has:
            session.add(LabelRow(case=row.id, label=each.label, act="", at=now))
            labels[row.id] = each.label
            labelled += 1
        elif each.told and not has:
            strays.setdefault(each.told, []).append(row.id)
        brought = (each.label, each.whose and people.get(each.whose, -1), each.together, each.split)
        kept = (labels.get(row.id, ""), row.patient, row.together, row.split)
        contrary += any(new and new != old for new, old in zip(brought, kept, strict=True))
    record(session, "cases added", task=task, cases=len(new), again=again, labelled=labelled)
    return Added(
        cases=tuple(new),
        again=again,
        contrary=contrary,
        labelled=labelled,
        unknown=tuple((name, len(ids)) for name, ids in strays.items()),
        strays=tuple((name, tuple(ids)) for name, ids in strays.items()),
    )


# --- what an upload says --------------------------------------------------------------------------------------------------


class _Table:
    """A CSV of the upload: which row speaks of which file. Raises DataError where it is none."""

    def __init__(self, path: Path, name: str):
        self.name = name
        if path.stat().st_size > TABLE_MB << 20:
            raise DataError(f"The table {name!r} is larger than {TABLE_MB} MB.", "Leave out what is not needed.")
        self.rows = table_rows(path, name, needed=("path",))
        path.unlink()
        for row in self.rows:
            row["split"] = SIDES.get(row.get("split", "").lower(), row.get("split", "").lower())
            if row["split"] not in ("", *SPLITS):
                raise DataError(
                    f"The table {name!r} has the split {row['split'][:40]!r}.", f"It should be one of: {', '.join(SPLITS)}."
                )
        self._of: dict[str, list[int]] = {}  # a file's own name -> rows
        self._parts = [_split(row["path"]) for row in self.rows]
        for i, parts in enumerate(self._parts):
            if parts:
                self._of.setdefault(parts[-1], []).append(i)
        self._used: set[int] = set()
        self._unclear: Counter[str] = Counter()

    def row_of(self, members: Sequence[_Copy]) -> dict[str, str]:
        """The row of any of a case's files: the one whose path agrees with most of the file's folders, if it is one alone."""
        for member in members:
            ranked = sorted(((_agree(self._parts[i], member.parts), i) for i in self._of.get(member.name, ())), reverse=True)
            if not ranked:
                continue
            best = [i for agree, i in ranked if agree == ranked[0][0]]
            self._used |= set(best)
            said = [self.rows[i] | {"path": ""} for i in best]
            if all(each == said[0] for each in said):
                return said[0]
            self._unclear[member.name] += 1
        return {}

    def complaints(self) -> list[str]:
        """About rows that spoke of nothing."""
        left = len(self.rows) - len(self._used)
        said = []
        if self._unclear:
            name = next(iter(self._unclear))
            said.append(
                f"The table {self.name!r} has several rows that could mean {name!r}: it was taken in without a label. "
                "Write paths with their folders."
            )
        if left:
            rows = (
                f"1 row of the table {self.name!r} speaks" if left == 1 else f"{left} rows of the table {self.name!r} speak"
            )
            said.append(f"{rows} of no image in this upload.")
        return said


class _Folders:
    """What the folders of an upload say: the nearest one that is a class of the task."""

    def __init__(self, task: Task, names: Sequence[tuple[str, ...]]):
        self.task = task
        levels = zip(*(parts[:-1] for parts in names), strict=False)
        self._shared = len(list(takewhile(lambda level: len(set(level)) == 1, levels)))  # leading folders that all have
        self._divided = any(len(parts) - 1 > self._shared for parts in names)

    def label(self, parts: tuple[str, ...]) -> str:
        return next((label for folder in reversed(parts[:-1]) if (label := _label(self.task, folder))), "")

    def told(self, parts: tuple[str, ...]) -> str:
        """The folder that was meant for a class, if one was: the first in which the upload's files differ; the one that they
        share where nothing lies below it."""
        folders = parts[:-1]
        if not folders or (self._divided and len(folders) <= self._shared):
            return ""
        return folders[min(self._shared, len(folders) - 1)]


def _label(task: Task, said: str) -> str:
    """The label that is meant, "" for none of the task."""
    try:
        return task.label_of(said)
    except DataError:
        return ""


def _parts(each: Admitted) -> tuple[str, ...]:
    return _split(each.inside) or (each.name,)


def _split(path: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", ".", ".."))


def _agree(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many of the last parts are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


# --- images ---------------------------------------------------------------------------------------------------------------


def _opened(copies: Sequence[_Copy]) -> tuple[list[tuple[list[_Copy], Series]], list[str]]:
    """(files in frame order, series) of each case to be; sentences for files that are no image."""
    if not copies:
        return [], []
    known = {f"File {i}": copy for i, copy in enumerate(copies, start=1)}
    opened = sandbox().open_all([copy.path for copy in copies], names=list(known))
    refused = [str(error).replace(repr(ours), repr(known[ours].name)) for ours, error in opened.refused]
    return [([known[name] for name in series.files], series) for series in opened.series], refused


def _looked_at(
    series: Sequence[tuple[list[_Copy], Series]],
) -> Iterator[tuple[list[_Copy], Image | ImageError, dict[str, object]]]:
    """The frame that stands for each, read as `Workspace.image` will read it."""

    def look(members: list[_Copy]) -> Image:
        middle = members[len(members) // 2]
        try:
            return read_image(middle.path)
        except ImageError as error:
            words = (text.replace(middle.path.name, middle.name) for text in (error.message, error.hint))
            raise ImageError(*words) from error

    looked = sandbox().map(look, [members for members, _ in series])
    for (members, each), image in zip(series, looked, strict=True):
        about: dict[str, object] = {"modality": each.about.modality, "title": each.about.title, "frames": each.frames}
        if isinstance(image, Image):
            about |= {"rows": image.shape[0], "columns": image.shape[1]}
        yield members, image, about


def _pixels(image: Image) -> str:
    """sha256 of what is seen, at 16 bits, so that a copy in another format is the same image."""
    shape = "x".join(map(str, image.pixels.shape))
    values = np.ascontiguousarray((image.pixels * 65535).round().astype("<u2"))
    return hashlib.sha256(shape.encode() + values.tobytes()).hexdigest()
