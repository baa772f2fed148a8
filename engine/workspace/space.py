"""A folder in which somebody's cases, labels, tasks, trainings and prompt sets live.

    folder/workspace.sqlite3      the tables, unless a database URL names another place
    folder/files/ab/abcd...       cleaned image files under their sha256
    folder/thumbs/ab/abcd....jpg  a small picture of the file that stands for a case
    folder/features.sqlite3       features of these images, deleted with them
    folder/prompts/<name>/        prompt sets that were tuned or imported here
    folder/removed/<name>/        those that were deleted, for an undo
    folder/jobs/<id>/             checkpoint and result of a training
    folder/key                    the secret behind patients' pseudonyms

All of it is readable by its owner alone. Every method is one transaction, and those that write take turns, so that what one
has read still holds when it writes. Left out: file names and identifiers, which are never kept.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import PIL.Image
from sqlalchemy import ScalarSelect, func, select
from sqlalchemy.orm import Session

from engine.errors import DataError, PromptSetError
from engine.preprocess import smaller
from engine.prompts import PromptSet, library
from engine.sandbox import read_image
from engine.store import Store
from engine.tasks import Label, Task, tasks
from engine.types import Example, Image
from engine.workspace import migrations
from engine.workspace.database import READING, connect, understood
from engine.workspace.definitions import LONGEST, definition_of, edited, shown_as, task_of
from engine.workspace.tables import AuditRow, CaseRow, JobRow, LabelRow, PatientRow, TaskRow
from engine.workspace.twins import joined, twins
from engine.workspace.values import ACTIVE, DONE, FAILED, QUEUED, RUNNING, STOPPED, STOPPING, Case, Job

THUMBNAIL = 160  # pixels of the longest side
BESIDE = re.compile(r"\.|lost\+found$|features\.sqlite3")  # what may be in a new folder: of a volume, of a cache


def workspace_folder(variables: Mapping[str, str] = os.environ) -> Path:
    """Everybody's: PROMPTSCOPE_WORKSPACE, else in the user's data folder."""
    named = variables.get("PROMPTSCOPE_WORKSPACE")
    if named:
        return Path(named).expanduser()
    return Path(variables.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "promptscope"


class Workspace:
    """Opened by folder; made where there is none, but not among other things. url : of a database elsewhere (postgresql://...).
    Raises DataError."""

    def __init__(self, folder: Path, url: str = ""):
        self.folder = Path(folder)
        self.url = url
        self.prompts = self.folder / "prompts"
        self.jobs_folder = self.folder / "jobs"
        self.features = Store(self.folder / "features.sqlite3")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._claim()
            for name in ("files", "thumbs", "jobs", "prompts", "removed"):
                (self.folder / name).mkdir(exist_ok=True, mode=0o700)
            for name in ("features.sqlite3", *(() if url else ("workspace.sqlite3",))):
                (self.folder / name).touch(mode=0o600)  # also where the folder is open to others
        except OSError as error:
            raise DataError(
                f"The workspace's folder {str(folder)!r} cannot be used ({error.strerror}).",
                "Name another: PROMPTSCOPE_WORKSPACE.",
            ) from error
        self._engine = connect(url or f"sqlite:///{self.folder / 'workspace.sqlite3'}")
        self._reading = self._engine.execution_options(**READING[self._engine.dialect.name])
        with understood():
            migrations.upgrade(self._engine)

    def _claim(self) -> None:
        """The key comes first, so that whatever else is in a folder without one is not ours. Raises DataError."""
        beside = [each.name for each in self.folder.iterdir() if not BESIDE.match(each.name)]
        place = self.folder / "key"
        if place.exists():
            return
        if beside and "workspace.sqlite3" not in beside:
            raise DataError(
                f"The folder {str(self.folder)!r} holds other things and is no workspace.",
                "Name another, or an empty one: PROMPTSCOPE_WORKSPACE.",
            )
        part = durable(io.BytesIO(secrets.token_bytes(32)), place)
        try:
            os.link(part, place)  # the first of several processes wins
        except FileExistsError:
            pass
        part.unlink()

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that may write: one at a time. Raises DataError where the database does not answer."""
        with understood(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            session.connection()  # its turn begins now, not with its first question: files may come before that
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads, all of it at one moment; it waits for nobody."""
        with understood(), Session(self._reading, expire_on_commit=False) as session, session.begin():
            yield session

    def compact(self) -> None:
        """What was deleted leaves the database's files as well: SQLite has overwritten it with zeros and empties its log, unless
        somebody reads for longer than two seconds (`look_after` tries again); PostgreSQL gives the space back."""
        raw = self._engine.raw_connection()
        database: Any = raw.driver_connection
        try:
            if self._engine.dialect.name == "sqlite":
                database.execute("PRAGMA busy_timeout=500")
                for _ in range(4):
                    busy, *_ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                    if not busy:
                        break
            else:
                database.autocommit = True
                database.execute("VACUUM")
        finally:
            raw.invalidate()  # not back to the pool in another mode

    @cached_property
    def key(self) -> bytes:
        """32 random bytes behind pseudonyms and new UIDs: without it they lead back to nobody."""
        return (self.folder / "key").read_bytes()

    # tasks

    def add_task(
        self,
        title: str,
        labels: Sequence[str | Label],
        modality: str = "any",
        organ: str = "any",
        template: str = "",
        sentences: Mapping[str, Sequence[str]] | None = None,
    ) -> Task:
        """A question of the user's own. template : a prompt with {} for the class, or made from modality and organ;
        sentences : descriptions of each class, or none. Raises DataError."""
        made = [each if isinstance(each, Label) else Label(each.strip(), shown_as(each)) for each in labels]
        definition = definition_of("", modality.strip() or "any", organ.strip() or "any", template, made, ())
        edited(definition, title=title, sentences=sentences or {})
        stem = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:40] or "task"
        with self.writing() as session:
            taken = {*session.scalars(select(TaskRow.id)), *tasks()}
            name = next(n for n in (stem, *(f"{stem}_{i}" for i in range(2, len(taken) + 3))) if n not in taken)
            row = TaskRow(id=name, definition=definition, created=time.time())
            session.add(row)
            record(session, "task added", task=name, classes=len(made))
            return task_of(row)

    def adopt(self, task: str | Task) -> Task:
        """A known task (assets/tasks.json), to give it cases here; it keeps its id and its written descriptions. One that is
        here already stays as it is. Raises DataError."""
        known = tasks().get(task if isinstance(task, str) else task.id)
        if known is None:
            raise DataError(f"There is no known task {str(task)!r}.", f"Choose one of: {', '.join(tasks())}.")
        with self.writing() as session:
            row = session.get(TaskRow, known.id)
            if row is None:
                definition = definition_of(
                    known.title, known.modality, known.organ, known.template, known.labels, known.shortcuts
                )
                row = TaskRow(id=known.id, definition=definition, created=time.time())
                session.add(row)
                record(session, "task added", task=known.id, classes=len(known.labels))
            row.removed = 0.0
            return task_of(row)

    def edit_task(
        self,
        name: str,
        title: str | None = None,
        display: Mapping[str, str] | None = None,
        sentences: Mapping[str, Sequence[str]] | None = None,
        new_labels: Sequence[str] = (),
        words: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        provenance: Sequence[Mapping[str, Any]] | None = None,
    ) -> Task:
        """Changes what is given, or nothing. display : how people read a label, by its name (the name itself stays, so labels
        stay valid); sentences : by label, in place of those that it has; new_labels : classes to add; words : by label, those of
        each kind (NAMES, SLOTS) that is given, as `check_words` leaves them; provenance : of them, as a bank has it. Raises DataError."""
        with self.writing() as session:
            row = task_row(session, name)
            row.definition = edited(
                json.loads(json.dumps(row.definition)), title, display, sentences, new_labels, words, provenance
            )
            record(session, "task changed", task=name, classes=len(row.definition["labels"]))
            return task_of(row)

    def add_label(self, name: str, label: str) -> Task:
        """One more class of a task. Raises DataError."""
        return self.edit_task(name, new_labels=[label])

    def remove_task(self, name: str) -> None:
        """Takes a task out of sight, with its cases, until `restore_task`; its trainings are stopped. Raises DataError."""
        with self.writing() as session:
            task_row(session, name).removed = time.time()
            for job in session.scalars(select(JobRow.id).where(JobRow.task == name, JobRow.state.in_(ACTIVE))):
                _stop(session, job)
            record(session, "task removed", task=name)

    def restore_task(self, name: str) -> Task:
        """Raises DataError."""
        with self.writing() as session:
            row = task_row(session, name, removed=True)
            row.removed = 0.0
            record(session, "task restored", task=name)
            return task_of(row)

    def task(self, name: str) -> Task:
        """Raises DataError."""
        with self.reading() as session:
            return task_of(task_row(session, name))

    def tasks(self) -> dict[str, Task]:
        """Those of this workspace, the newest first."""
        with self.reading() as session:
            rows = session.scalars(
                select(TaskRow).where(TaskRow.removed == 0.0).order_by(TaskRow.created.desc(), TaskRow.id)
            )
            return {row.id: task_of(row) for row in rows}

    # cases and labels

    def cases(self, task: str) -> list[Case]:
        """Of a task, in the order in which they came, each with the label that counts."""
        columns = [getattr(CaseRow, name) for name in ("id", "number", "files", "patient", "split", "about", "together")]
        asked = (
            select(*columns, CaseRow.fingerprint, LabelRow.label)
            .outerjoin(LabelRow, LabelRow.id == newest_label())
            .where(CaseRow.task == task)
            .order_by(CaseRow.number)
        )
        with self.reading() as session:
            rows = session.execute(asked).all()
        earliest, alike = twins(tuple(row.fingerprint for row in rows))
        first = joined(len(rows), [*enumerate(alike)], [[row.patient for row in rows], [row.together for row in rows]])
        people: dict[int, list[int | None]] = {}  # of all that must stay together
        for row, group in zip(rows, first, strict=True):
            people.setdefault(group, []).append(row.patient)
        apart = {group for group, each in people.items() if len(each) == 1 or (each[0] and len(set(each)) == 1)}
        return [
            Case(
                id=row.id,
                number=row.number,
                task=task,
                files=tuple(row.files),
                path=str(self.place(row.files[len(row.files) // 2])),
                patient=f"P{row.patient}" if row.patient else "",
                label=row.label or "",
                split=row.split,
                about=row.about,
                twin_of=rows[earliest[i]].number if earliest[i] < i else 0,
                group="" if first[i] in apart else f"G{rows[first[i]].number}",
                in_group=bool(row.together),
            )
            for i, row in enumerate(rows)
        ]

    def case(self, task: str, number: int) -> Case:
        """Raises DataError."""
        found = next((case for case in self.cases(task) if case.number == number), None)
        if found is None:
            raise DataError(f"There is no case {number} in this task.", "Look at the gallery again.")
        return found

    def place(self, digest: str) -> Path:
        """Where the file with this sha256 lies."""
        return self.folder / "files" / digest[:2] / digest

    def image(self, case: Case) -> Image:
        """The frame that stands for it, as the model sees it. Raises ImageError."""
        return read_image(case.path)

    def thumbnail(self, case: Case) -> Path:
        """A JPEG whose longest side has 160 pixels; made where it is not there. Raises ImageError."""
        place = self.thumb(Path(case.path).name)
        return place if place.exists() else draw_thumbnail(self.image(case), place)

    def thumb(self, digest: str) -> Path:
        return self.folder / "thumbs" / digest[:2] / f"{digest}.jpg"

    def label(self, task: str, cases: Sequence[int], label: str) -> str:
        """Gives the cases (ids) of a task a label, "" takes theirs away; one act, which `undo` takes back. Returns the act's
        id. Raises DataError."""
        act, now, chosen = secrets.token_hex(8), time.time(), list(dict.fromkeys(cases))
        with self.writing() as session:
            names = task_of(task_row(session, task)).names
            if label and label not in names:
                raise DataError(f"{label!r} is no class of this task.", f"Its classes are: {', '.join(names)}.")
            known = set(session.scalars(select(CaseRow.id).where(CaseRow.task == task)))
            unknown = [case for case in chosen if case not in known]
            if unknown:
                raise DataError(
                    f"{len(unknown)} of {len(chosen)} chosen cases are not in this task.", "Look at the gallery again."
                )
            session.add_all([LabelRow(case=case, label=label, act=act, at=now) for case in chosen])
            record(session, "labelled", task=task, cases=len(chosen))
        return act

    def undo(self, task: str) -> tuple[int, ...]:
        """Takes back the last act of labelling in the task that is not undone; returns the ids of the cases that it had
        changed. Labels that came with the images are no act."""
        with self.writing() as session:
            act = session.scalar(
                select(LabelRow.act)
                .join(CaseRow, CaseRow.id == LabelRow.case)
                .where(CaseRow.task == task, ~LabelRow.undone, LabelRow.act != "")
                .order_by(LabelRow.id.desc())
                .limit(1)
            )
            if act is None:
                return ()
            changed = list(session.scalars(select(LabelRow).where(LabelRow.act == act)))
            for row in changed:
                row.undone = True
            record(session, "label undone", task=task, cases=len(changed))
            return tuple(row.case for row in changed)

    def examples(self, task: str) -> list[Example]:
        """The labelled cases as the engine learns from them."""
        return [case.example for case in self.cases(task) if case.label]

    def balance(self, task: str) -> dict[str, tuple[int, int]]:
        """(images, known patients) of each label in the task's order, and of "", those without a label."""
        cases = self.cases(task)
        of = {name: [case for case in cases if case.label == name] for name in (*self.task(task).names, "")}
        return {name: (len(each), len({case.patient for case in each} - {""})) for name, each in of.items()}

    # jobs

    def submit(self, task: str, method: str, backbone: str, budget: str = "standard", **options: Any) -> Job:
        """Queues a training. Raises DataError where there is no such task; whether it can learn, check_plan says before."""
        made = JobRow(
            id=secrets.token_hex(8),
            task=task,
            state=QUEUED,
            asked={"method": method, "backbone": backbone, "budget": budget, "options": options},
            progress={},
            curve=[],
            created=time.time(),
        )
        with self.writing() as session:
            task_row(session, task)
            session.add(made)
            record(session, "training queued", task=task, job=made.id, method=method)
            session.flush()
            return _job(made)

    def job(self, name: str) -> Job:
        """Raises DataError."""
        with self.reading() as session:
            return _job(_job_row(session, name))

    def jobs(self, task: str = "", active: bool = False) -> list[Job]:
        """The newest first; of one task, or only those that wait or run."""
        wanted = select(JobRow).order_by(JobRow.created.desc(), JobRow.id)
        if task:
            wanted = wanted.where(JobRow.task == task)
        if active:
            wanted = wanted.where(JobRow.state.in_(ACTIVE))
        with self.reading() as session:
            return [_job(row) for row in session.scalars(wanted)]

    def stop(self, name: str) -> None:
        """Asks a training to stop: a waiting one is stopped at once, a running one within a second; one that has ended stays
        as it is. Raises DataError."""
        with self.writing() as session:
            _job_row(session, name)
            if _stop(session, name):
                record(session, "training stopped", job=name)

    def resume(self, name: str) -> None:
        """Queues a stopped or failed training again; it goes on from its last epoch. Raises DataError."""
        with self.writing() as session:
            row = _job_row(session, name)
            task_row(session, row.task)
            if row.state == DONE:
                raise DataError("This training is finished: there is nothing to go on with.", "Start a new one.")
            if row.state in (STOPPED, FAILED):
                row.state, row.error, row.ended = QUEUED, "", 0.0
                record(session, "training resumed", job=name)

    def result(self, name: str) -> dict[str, Any]:
        """What a finished training found. Raises DataError."""
        job = self.job(name)
        place = self.jobs_folder / job.id / "result.json"
        if not place.is_file():
            raise DataError("This training has no result.", job.error or "It was not finished, or its result was deleted.")
        return json.loads(place.read_text(encoding="utf-8"))

    # jobs, for whoever carries them out. owner : who that is; what another one writes does not count.

    def claim(self, name: str, owner: str) -> bool:
        """queued becomes running, for one owner."""
        with self.writing() as session:
            row = session.get(JobRow, name)
            if row is None or row.state != QUEUED:
                return False
            now = time.time()
            row.state, row.owner, row.beat, row.started = RUNNING, owner, now, row.started or now
            return True

    def advance(self, name: str, owner: str, progress: dict[str, Any] | None = None, curve: list[Any] | None = None) -> str:
        """Says how far it is; returns the state, "" where the job is no longer this owner's."""
        with self.writing() as session:
            row = _owned(session, name, owner)
            if row is None:
                return ""
            row.progress = row.progress if progress is None else progress
            row.curve = row.curve if curve is None else curve
            row.beat = time.time()
            return row.state

    def finish(self, name: str, owner: str, state: str, error: str = "") -> bool:
        """Ends it, or with "queued" gives it back; False where the job is no longer this owner's."""
        with self.writing() as session:
            row = _owned(session, name, owner)
            if row is None:
                return False
            if state == QUEUED and row.state == STOPPING:
                state = STOPPED
            row.state, row.error, row.owner = state, error, ""
            row.ended = 0.0 if state == QUEUED else time.time()
            record(session, f"training {state}", job=name)
            return True

    def requeue(self, is_alive: Callable[[str], bool]) -> int:
        """Jobs whose owner is no more wait again, or are stopped where that was asked for; returns how many."""
        with self.writing() as session:
            rows = session.scalars(select(JobRow).where(JobRow.state.in_((RUNNING, STOPPING))))
            lost = [row for row in rows if not is_alive(row.owner)]
            for row in lost:
                row.state, row.owner = (QUEUED if row.state == RUNNING else STOPPED), ""
                row.ended = 0.0 if row.state == QUEUED else time.time()
                record(session, "training lost", job=row.id)
            return len(lost)

    def beats(self) -> dict[str, float]:
        """When each owner of a running training last said so."""
        asked = (
            select(JobRow.owner, func.max(JobRow.beat)).where(JobRow.state.in_((RUNNING, STOPPING))).group_by(JobRow.owner)
        )
        with self.reading() as session:
            return {owner: beat for owner, beat in session.execute(asked)}

    # prompt sets

    def sets(self) -> list[str]:
        return library(self.prompts)

    def keep(self, job: str, name: str = "") -> str:
        """Keeps the set that a training left (engine.study has written its metrics into its card); returns its name, the same
        for the same job ever after. name : wanted by the user; else task, method and backbone. Raises DataError."""
        found = self.job(job)
        if found.prompt_set in self.sets():
            return found.prompt_set
        made = self.jobs_folder / found.id / "prompts"
        if not (made / "card.json").is_file():
            raise DataError("This training left no prompt set.", "Train again.")
        learned = PromptSet.load(made)
        backbone = learned.card["backbone"]["id"]
        stem = (_slug(name) if name.strip() else learned.name).removesuffix(f"-{_slug(backbone)}")
        if not stem:
            raise DataError(f"{name[:LONGEST]!r} cannot be a name.", "Use letters and digits.")
        with self.writing() as session:
            row = _job_row(session, found.id)
            if row.prompt_set in self.sets():  # somebody was faster
                return row.prompt_set
            chosen = self._free(session, stem, _slug(backbone))
            self._put(learned, chosen)
            row.prompt_set = chosen
            record(session, "prompt set kept", job=found.id, prompt_set=chosen)
        shutil.rmtree(made, ignore_errors=True)
        return chosen

    def add_set(self, prompts: PromptSet) -> str:
        """A prompt set from elsewhere, under its own name or the next that is free."""
        backbone = _slug(prompts.card["backbone"]["id"])
        stem = _slug(prompts.name).removesuffix(f"-{backbone}") or "imported"
        with self.writing() as session:
            chosen = self._free(session, stem, backbone)
            self._put(prompts, chosen)
            record(session, "prompt set imported", prompt_set=chosen)
        return chosen

    def _put(self, prompts: PromptSet, name: str) -> None:
        place = self.folder / f".{secrets.token_hex(8)}"
        replace(prompts, card=prompts.card | {"name": name}).save(place)
        place.rename(self.prompts / name)

    def _free(self, session: Session, stem: str, backbone: str) -> str:
        """A name that no set has or can have again, not a shipped one either (it would be hidden), and no training's. It ends with
        the backbone, which the page takes off again."""
        taken = {each.name for folder in (self.prompts, self.folder / "removed") for each in folder.glob("*")}
        taken |= {*library(), *session.scalars(select(JobRow.prompt_set))}
        stem, ending = stem[:70], f"-{backbone[:40]}"
        names = (f"{stem}{ending}", *(f"{stem}-{i}{ending}" for i in range(2, len(taken) + 3)))
        return next(each for each in names if each not in taken)

    def remove_set(self, name: str) -> None:
        """Takes a set away until `restore_set`. Raises PromptSetError."""
        with self.writing() as session:
            if name not in self.sets():
                raise PromptSetError(f"There is no prompt set {name[:LONGEST]!r} of your own.", "Look at the list again.")
            self._moved(self.prompts / name, self.folder / "removed" / name)
            record(session, "prompt set removed", prompt_set=name)

    def restore_set(self, name: str) -> None:
        """Raises PromptSetError."""
        with self.writing() as session:
            if name not in library(self.folder / "removed") or name in self.sets():
                raise PromptSetError(f"The prompt set {name[:LONGEST]!r} cannot be brought back.", "Look at the list again.")
            self._moved(self.folder / "removed" / name, self.prompts / name)
            record(session, "prompt set restored", prompt_set=name)

    def _moved(self, place: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)  # an older one of the same name, removed before
        place.rename(target)

    def origin(self, name: str) -> Job | None:
        """The training that left the set, or None for one that was brought."""
        with self.reading() as session:
            row = session.scalar(select(JobRow).where(JobRow.prompt_set == name).limit(1))
            return _job(row) if row else None

    # what is here

    def holdings(self) -> dict[str, int]:
        """How much there is: tasks, cases, patients, labels, trainings, prompt_sets, and bytes of everything in the folder."""
        kinds = {"tasks": TaskRow, "cases": CaseRow, "patients": PatientRow, "trainings": JobRow}
        with self.reading() as session:
            found = {name: session.scalar(select(func.count()).select_from(kind)) or 0 for name, kind in kinds.items()}
            labelled = select(func.count()).select_from(CaseRow).join(LabelRow, LabelRow.id == newest_label())
            found["labels"] = session.scalar(labelled.where(LabelRow.label != "")) or 0
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return found | {"prompt_sets": len(self.sets()), "bytes": sum(path.lstat().st_size for path in files)}

    def record(self, what: str, **detail: Any) -> None:
        """One line of the audit: counts, hashes and names of methods; nothing about a patient, no file name."""
        with self.writing() as session:
            record(session, what, **detail)


def draw_thumbnail(image: Image, place: Path) -> Path:
    """A JPEG file at `place`."""
    pixels = smaller(image, THUMBNAIL).pixels
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = place.with_suffix(f".{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        PIL.Image.fromarray((pixels * 255).round().astype("uint8")).save(stream, "JPEG", quality=85)
    os.replace(part, place)
    return place


# --- rows ----------------------------------------------------------------------------------------------------------------


def record(session: Session, what: str, **detail: Any) -> None:
    session.add(AuditRow(at=time.time(), what=what, detail=detail))


def newest_label() -> ScalarSelect[int | None]:
    """The id of the label that counts, of a case of the surrounding question."""
    of_case = select(func.max(LabelRow.id)).where(LabelRow.case == CaseRow.id, ~LabelRow.undone)
    return of_case.correlate(CaseRow).scalar_subquery()


def task_row(session: Session, name: str, removed: bool = False) -> TaskRow:
    row = session.get(TaskRow, name)
    if row is None or bool(row.removed) != removed:
        raise DataError(f"There is no task {name[:LONGEST]!r} in this workspace.", "Choose another, or make it.")
    return row


def _job_row(session: Session, name: str) -> JobRow:
    row = session.get(JobRow, name)
    if row is None:
        raise DataError(f"There is no training {name[:LONGEST]!r} in this workspace.", "It may have been deleted.")
    return row


def _owned(session: Session, name: str, owner: str) -> JobRow | None:
    row = session.get(JobRow, name)
    return row if row and row.owner == owner and row.state in (RUNNING, STOPPING) else None


def _stop(session: Session, name: str) -> bool:
    row = session.get_one(JobRow, name)
    if row.state == QUEUED:
        row.state, row.ended = STOPPED, time.time()
    elif row.state == RUNNING:
        row.state = STOPPING
    else:
        return False
    return True


def _job(row: JobRow) -> Job:
    names = ("id", "task", "state", "asked", "progress", "curve", "error", "prompt_set", "created", "started", "ended")
    return Job(**{name: getattr(row, name) for name in names})


def _slug(name: str) -> str:
    """In the characters that a folder and a card may have."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_.-]+", "-", plain.lower()).strip("-._")


# --- files ---------------------------------------------------------------------------------------------------------------


def durable(source: IO[bytes], place: Path) -> Path:
    """A new file (mode 600) beside `place` with what the source holds, on the disk; to be renamed to it."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = place.with_name(f".{secrets.token_hex(8)}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        shutil.copyfileobj(source, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return part


def settle(folder: Path) -> None:
    """What was renamed into the folder is on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
