"""What is kept, for how long, and how it goes: backup in one file, retention, erasing a patient.

A backup is a zip: manifest.json, tables/<name>.jsonl (a row a line), key, files/, prompts/, jobs/. Thumbnails and features are
made again. What is erased is gone from the tables, the files, the features, the results and the backups made from then on; not
from earlier backups, and not from what was learned: prompt sets stay, except those that hold features of single images.

Left out: overwriting of a file's blocks on the disk, which a journaling disk does not promise anyway.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, delete, func, insert, inspect, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from engine.errors import DataError, PromptSetError
from engine.prompts import PromptSet
from engine.store import DAY, digest_of
from engine.workspace import migrations
from engine.workspace.space import Workspace, durable, record, settle, task_row
from engine.workspace.tables import CaseRow, JobRow, LabelRow, PatientRow, Table, TaskRow
from engine.workspace.values import ACTIVE, DONE, QUEUED, RUNNING, STOPPED, STOPPING

FORMAT = 1
NAMES = [table.name for table in Table.metadata.sorted_tables]  # each after those that it refers to
ROWS = 500  # at once
UNDO_S = DAY  # how long what was removed can be brought back
UNDER_WAY_S = 3600  # files younger than this may belong to an upload that is not done
SILENT_S = 600  # a training that says nothing for so long is carried out by nobody
OURS = re.compile(r"[0-9a-f]{64}(\.jpg)?|([0-9a-f]{64})?\.[0-9a-f]{16}")  # an image, its thumbnail, and what becomes one
IN_BACKUP = re.compile(r"key|files/[0-9a-f]{2}/[0-9a-f]{64}|prompts/[a-z0-9][a-z0-9_.-]*/[a-z.]+|jobs/[0-9a-f]{16}/[\w./-]+")


# --- backup ---------------------------------------------------------------------------------------------------------------


def back_up(workspace: Workspace, target: Path) -> Path:
    """One file (mode 600) from which `restore` makes the workspace again, on SQLite or PostgreSQL; of one moment, while others
    go on working. It holds the images and the key: keep it as safe as the workspace. Raises DataError."""
    target = Path(target)
    part = target.with_name(f".{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive, workspace.reading() as session:
                _pack(archive, workspace, session)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, target)
    except FileNotFoundError as error:
        raise DataError(
            "Something was erased, or the folder went away, while the backup was made.", "Make it again."
        ) from error
    except OSError as error:
        raise DataError(f"The backup cannot be written ({error.strerror}).", "Is there room on the disk?") from error
    finally:
        part.unlink(missing_ok=True)
    workspace.record("backup made")
    return target


def _pack(archive: zipfile.ZipFile, workspace: Workspace, session: Session) -> None:
    connection = session.connection()
    manifest = {
        "format": FORMAT,
        "tables": migrations.version(connection),
        "made": time.time(),
        "rows": {name: connection.scalar(select(func.count()).select_from(Table.metadata.tables[name])) for name in NAMES},
    }
    archive.writestr("manifest.json", json.dumps(manifest, indent=1))
    for name in NAMES:
        table = Table.metadata.tables[name]
        entry = zipfile.ZipInfo(f"tables/{name}.jsonl", time.gmtime()[:6])
        entry.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(entry, "w", force_zip64=True) as lines:
            for row in connection.execute(select(table).order_by(table.c.id)).yield_per(ROWS).mappings():
                lines.write(json.dumps(dict(row), ensure_ascii=False).encode() + b"\n")
    archive.write(workspace.folder / "key", "key")
    for digest in sorted({digest for files in session.scalars(select(CaseRow.files)) for digest in files}):
        archive.write(workspace.place(digest), f"files/{digest[:2]}/{digest}")
    still = select(JobRow.id).where(JobRow.state.not_in((RUNNING, STOPPING)))  # what the others write is not whole
    jobs = [workspace.jobs_folder / job for job in session.scalars(still)]
    for folder in [workspace.prompts / name for name in workspace.sets()] + [job for job in jobs if job.is_dir()]:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(workspace.folder).as_posix()
            if path.is_file() and IN_BACKUP.fullmatch(name):
                archive.write(path, name)


def restore(file: Path, folder: Path, url: str = "") -> Workspace:
    """A workspace as it was when the backup was made, in a folder and a database where nothing is yet. Trainings that were
    under way are stopped: they can be resumed. Raises DataError; nothing is then left behind."""
    made: list[Path] = []
    workspace = Workspace(folder, url)
    try:
        with zipfile.ZipFile(file) as archive:
            manifest = _manifest(archive)
            with workspace.writing() as session:
                connection = session.connection()
                _check_empty(workspace, connection)
                _unpack(archive, workspace.folder, made)
                _fill(archive, connection, manifest)
                session.execute(update(JobRow).where(JobRow.state.in_(ACTIVE)).values(state=STOPPED, owner=""))
                missing = [
                    d for files in session.scalars(select(CaseRow.files)) for d in files if not workspace.place(d).exists()
                ]
                if missing:
                    raise DataError(f"{len(missing)} image files are missing in the backup.", "Use another one.")
                record(session, "restored", **manifest["rows"])
    except BaseException as error:
        workspace.close()
        for path in made:
            if path != workspace.folder / "key":  # by which the folder is known as a workspace: an empty one again
                path.unlink(missing_ok=True)
        if isinstance(error, (zipfile.BadZipFile, EOFError, NotImplementedError)):
            raise DataError(
                f"{Path(file).name!r} is no backup of a workspace, or is damaged.", "Use another one."
            ) from error
        if isinstance(error, (SQLAlchemyError, ValueError, KeyError, TypeError, AttributeError)):
            raise DataError(f"The rows in {Path(file).name!r} do not fit together.", "Use another backup.") from error
        if isinstance(error, OSError):
            raise DataError(f"The backup cannot be restored ({error.strerror}).", "Is there room on the disk?") from error
        raise
    return workspace


def _manifest(archive: zipfile.ZipFile) -> dict[str, Any]:
    if "manifest.json" not in archive.namelist():
        raise DataError(
            "The file is a zip, but no backup of a workspace.", "Make one by `python -m engine workspace backup`."
        )
    found = json.loads(archive.read("manifest.json"))
    if found["format"] != FORMAT:
        raise DataError(
            f"The backup has the format {found['format']!r}; this PromptScope reads {FORMAT}.", "Use a newer one."
        )
    return found


def _check_empty(workspace: Workspace, connection: Connection) -> None:
    tables = [Table.metadata.tables[name] for name in NAMES if name != "audit"]
    if (
        any(connection.scalar(select(func.count()).select_from(table)) for table in tables)
        or workspace.sets()
        or any(workspace.folder.glob("files/*/*"))
    ):
        raise DataError("There is something in this workspace already.", "Restore into a new folder, and a new database.")


def _unpack(archive: zipfile.ZipFile, folder: Path, made: list[Path]) -> None:
    entries = [entry for entry in archive.infolist() if not entry.filename.startswith(("tables/", "manifest.json"))]
    free, wanted = shutil.disk_usage(folder).free, sum(entry.file_size for entry in entries)
    if wanted > free:
        raise DataError(f"The backup needs {wanted >> 20} MB, and {free >> 20} MB are free.", "Make room first.")
    for entry in entries:
        name = entry.filename
        if not IN_BACKUP.fullmatch(name) or ".." in name.split("/"):
            raise DataError(f"The backup holds {name[:60]!r}, which belongs in none.", "Use another one.")
        place = folder / name
        with archive.open(entry) as source:
            part = durable(source, place)
        if name.startswith("files/") and digest_of(part) != place.name:
            part.unlink()
            raise DataError("An image in the backup is not what it was when it was packed.", "Use another one.")
        made.append(place)
        os.replace(part, place)
    for parent in {path.parent for path in made}:
        settle(parent)


def _fill(archive: zipfile.ZipFile, connection: Connection, manifest: Mapping[str, Any]) -> None:
    """The rows go into the tables of the version that they are from, which are then brought up to date."""
    present = set(inspect(connection).get_table_names())
    old = MetaData()
    old.reflect(connection, only=[name for name in (*NAMES, "alembic_version") if name in present])
    old.drop_all(connection)
    migrations.advance(connection, manifest["tables"])
    then = MetaData()
    then.reflect(connection, only=list(manifest["rows"]))
    for table in then.sorted_tables:
        count = 0
        for rows in _batches(archive, table.name):
            connection.execute(insert(table), rows)
            count += len(rows)
        if count != manifest["rows"][table.name]:
            raise DataError(f"The backup lacks rows of the table {table.name!r}.", "Use another one.")
        if connection.dialect.name == "postgresql" and table.autoincrement_column is not None and count:
            name, column = f'"{table.name}"', table.autoincrement_column.name
            connection.execute(
                text(f"SELECT setval(pg_get_serial_sequence(:name, :column), (SELECT max({column}) FROM {name}))"),
                {"name": name, "column": column},
            )
    migrations.advance(connection)


def _batches(archive: zipfile.ZipFile, table: str) -> Iterator[list[dict[str, Any]]]:
    rows = []
    with archive.open(f"tables/{table}.jsonl") as lines:
        for line in lines:
            rows.append(json.loads(line))
            if len(rows) == ROWS:
                yield rows
                rows = []
    if rows:
        yield rows


# --- erasing --------------------------------------------------------------------------------------------------------------


def erase_patient(workspace: Workspace, task: str, patient: str) -> int:
    """Everything of one patient, who is called so ("P3") in this task, in all tasks: cases, labels, files, thumbnails, features,
    results. Returns how many cases there were. Raises DataError."""
    with workspace.writing() as session:
        task_row(session, task)
        number = int(patient[1:]) if re.fullmatch(r"P\d{1,9}", patient) else 0
        asked = select(CaseRow.id).where(CaseRow.patient == number)
        if not number or session.scalar(asked.where(CaseRow.task == task).limit(1)) is None:
            raise DataError(f"There is no patient {patient[:20]!r} in this task.", "Look at the gallery again.")
        cases = list(session.scalars(asked))
        _erase(workspace, session, cases)
    workspace.compact()
    return len(cases)


def erase_cases(workspace: Workspace, task: str, cases: Sequence[int]) -> int:
    """The same, of single cases (ids) of a task. Raises DataError."""
    with workspace.writing() as session:
        task_row(session, task)
        chosen = set(cases)
        unknown = chosen.difference(session.scalars(select(CaseRow.id).where(CaseRow.task == task)))
        if unknown:
            raise DataError(f"{len(unknown)} of the chosen cases are not in this task.", "Look again.")
        _erase(workspace, session, list(chosen))
    workspace.compact()
    return len(chosen)


def count_older(workspace: Workspace, days: float) -> int:
    """Cases of all tasks that were added more than `days` ago. Raises DataError."""
    with workspace.reading() as session:
        return len(_older(session, days))


def erase_older(workspace: Workspace, days: float) -> int:
    """The same, of cases that were added more than `days` ago. Raises DataError."""
    with workspace.writing() as session:
        chosen = _older(session, days)
        if chosen:
            _erase(workspace, session, chosen)
    if chosen:
        workspace.compact()
    return len(chosen)


def _older(session: Session, days: float) -> list[int]:
    if not days >= 0:
        raise DataError(f"Cases cannot be older than {days:g} days.", "Name 0 days or more.")
    return list(session.scalars(select(CaseRow.id).where(CaseRow.added <= time.time() - days * DAY)))


def learned_from(workspace: Workspace, task: str) -> list[str]:
    """The prompt sets that were learned from cases of this task. They stay when cases are erased (they hold no image), except
    those whose head is a cache of features."""
    return [name for name in workspace.sets() if (job := workspace.origin(name)) is not None and job.task == task]


def _erase(workspace: Workspace, session: Session, cases: Sequence[int]) -> None:
    """Files go before the transaction ends: where it fails, the cases are still named, and are erased again."""
    gone: set[str] = set()
    tasks: set[str] = set()
    for start in range(0, len(cases), ROWS):
        part = cases[start : start + ROWS]
        for task, files in session.execute(select(CaseRow.task, CaseRow.files).where(CaseRow.id.in_(part))):
            tasks.add(task)
            gone.update(files)
        session.execute(delete(LabelRow).where(LabelRow.case.in_(part)))
        session.execute(delete(CaseRow).where(CaseRow.id.in_(part)))
    _forget_patients(session)
    gone -= {digest for files in session.scalars(select(CaseRow.files)) for digest in files}
    for digest in gone:
        workspace.place(digest).unlink(missing_ok=True)
        workspace.thumb(digest).unlink(missing_ok=True)
    features = workspace.features.erase(gone)
    jobs = list(session.scalars(select(JobRow).where(JobRow.task.in_(tasks))))
    kept = sum(_forget_learning(workspace, job, set(cases)) for job in jobs)
    record(session, "cases erased", cases=len(cases), features=features, prompt_sets_kept=kept)


def _forget_patients(session: Session) -> None:
    """Those of whom no case is left."""
    session.execute(delete(PatientRow).where(~select(CaseRow.id).where(CaseRow.patient == PatientRow.id).exists()))


def _forget_learning(workspace: Workspace, job: JobRow, cases: set[int]) -> int:
    """Takes the cases out of a training's result, and deletes what may hold their features: its checkpoint, and sets with a
    cache of images. A running training begins anew. Returns how many of its sets stay."""
    if job.state in (RUNNING, STOPPING):  # whoever carries it out learns that it is no longer his
        job.state, job.owner = (QUEUED if job.state == RUNNING else STOPPED), ""
    folder = workspace.jobs_folder / job.id
    for path in folder.glob("*"):
        if path.name == "result.json":
            found = json.loads(path.read_text(encoding="utf-8"))
            for part in ("cases", "learned"):
                found[part] = [each for each in found[part] if each["case"] not in cases]
            os.replace(durable(io.BytesIO(json.dumps(found, ensure_ascii=False).encode()), path), path)
        elif path.name != "prompts":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = 0
    for place in (folder / "prompts", workspace.prompts / job.prompt_set, workspace.folder / "removed" / job.prompt_set):
        if (place / "card.json").is_file():
            if json.loads((place / "card.json").read_text(encoding="utf-8"))["head"] == "cache":
                shutil.rmtree(place)
                job.prompt_set = job.prompt_set if place.parent == folder else ""
            else:
                kept += 1
    return kept


# --- what is due ----------------------------------------------------------------------------------------------------------


def keep_cases_days(variables: Mapping[str, str] = os.environ) -> int | None:
    """Days after which cases are erased, from PROMPTSCOPE_KEEP_CASES_DAYS; None keeps them. Raises DataError."""
    said = variables.get("PROMPTSCOPE_KEEP_CASES_DAYS", "").strip()
    if not said:
        return None
    if not (said.isascii() and said.isdigit() and 0 < len(said) < 6):
        raise DataError(f"PROMPTSCOPE_KEEP_CASES_DAYS is {said[:32]!r}.", "Write a whole number of days, or leave it out.")
    return int(said)


def look_after(workspace: Workspace) -> int:
    """What is due, at the opening and once a day: erases cases that were kept long enough (PROMPTSCOPE_KEEP_CASES_DAYS), tasks
    and prompt sets that were removed more than a day ago, and files that an interrupted upload left. Returns how many cases
    were erased. Raises DataError."""
    days = keep_cases_days()
    erased = 0 if days is None else erase_older(workspace, days)
    over = time.time() - UNDO_S
    with workspace.writing() as session:
        tasks = list(session.scalars(select(TaskRow.id).where(TaskRow.removed > 0, TaskRow.removed < over)))
        cases = list(session.scalars(select(CaseRow.id).where(CaseRow.task.in_(tasks))))
        if cases:
            _erase(workspace, session, cases)
        for job in session.scalars(select(JobRow).where(JobRow.task.in_(tasks))):
            shutil.rmtree(workspace.jobs_folder / job.id, ignore_errors=True)
            session.delete(job)
        session.flush()
        session.execute(delete(TaskRow).where(TaskRow.id.in_(tasks)))
        _forget_patients(session)
        for path in _strangers(workspace, session, over):
            path.unlink(missing_ok=True)
        for place in workspace.folder.glob("removed/[a-z0-9]*"):
            if place.is_dir() and place.lstat().st_ctime < over:
                shutil.rmtree(place)
                session.execute(update(JobRow).where(JobRow.prompt_set == place.name).values(prompt_set=""))
    for place in workspace.folder.glob(".*"):
        if OURS.fullmatch(place.name) and place.lstat().st_ctime < over:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    workspace.compact()
    return erased + len(cases)


def _strangers(workspace: Workspace, session: Session, before: float) -> list[Path]:
    """Images and thumbnails that no case refers to and that were written before this time; nothing that others put there."""
    known = {digest for files in session.scalars(select(CaseRow.files)) for digest in files}
    found = [*workspace.folder.glob("files/*/*"), *workspace.folder.glob("thumbs/*/*")]
    return [
        path
        for path in found
        if OURS.fullmatch(path.name) and path.name.removesuffix(".jpg") not in known and path.stat().st_mtime < before
    ]


def check(workspace: Workspace) -> list[str]:
    """Sentences about what does not hold together: the database's own integrity check, files that are missing or changed, files
    that nothing refers to, trainings that nobody carries out, prompt sets that cannot be read. Empty where all is well."""
    with workspace.reading() as session:
        said = _integrity(session)
        files = {digest for each in session.scalars(select(CaseRow.files)) for digest in each}
        jobs = list(session.scalars(select(JobRow).order_by(JobRow.created)))
        strangers = _strangers(workspace, session, time.time() - UNDER_WAY_S)
    missing = sum(not workspace.place(digest).is_file() for digest in files)
    changed = sum(workspace.place(d).is_file() and digest_of(workspace.place(d)) != d for d in files)
    for count, what in (
        (missing, "are missing"),
        (changed, "are not what they were"),
        (len(strangers), "belong to no case"),
    ):
        if count:
            said.append(f"{count} image files {what}.")
    for job in jobs:
        if job.state in (RUNNING, STOPPING) and time.time() - job.beat > SILENT_S:
            said.append(f"The training {job.id} is {job.state}, and nobody carries it out.")
        if job.state == DONE and not (workspace.jobs_folder / job.id / "result.json").is_file():
            said.append(f"The training {job.id} is done, and its result is missing.")
    for name in workspace.sets():
        try:
            PromptSet.load(workspace.prompts / name)
        except PromptSetError as error:
            said.append(str(error))
    return said


def _integrity(session: Session) -> list[str]:
    if session.get_bind().dialect.name != "sqlite":
        return []  # PostgreSQL checks what it reads
    found = [row[0] for row in session.execute(text("PRAGMA integrity_check")) if row[0] != "ok"]
    loose = len(list(session.execute(text("PRAGMA foreign_key_check"))))
    return [
        *(f"The database is damaged: {each}." for each in found),
        *([f"{loose} rows refer to nothing."] if loose else []),
    ]
