"""The workspace's tables. SQLite in its folder, or PostgreSQL; migrations lie beside this file.

No column holds a file name, a patient's name or identifier, or a path: patients are keyed hashes.
Times are UTC seconds since 1970.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Double, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, float: Double}


class TaskRow(Table):
    """A question of the user's own, or a known one that was taken in. definition : title, modality, organ, template, labels
    [{name, display, aliases}], sentences {label: [..]} and words {label: {kind: [..]}} of the user's own, provenance [..] of these words, shortcuts; counted : how many cases it ever had, so
    that no number is given twice; removed : when it was taken out of sight, or 0."""

    __tablename__ = "task"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    definition: Mapped[dict[str, Any]]
    created: Mapped[float]
    counted: Mapped[int] = mapped_column(default=0)
    removed: Mapped[float] = mapped_column(default=0.0)


class PatientRow(Table):
    """Somebody who is shown as P and the id. person : keyed hash of what the files or the table call him."""

    __tablename__ = "patient"
    __table_args__ = ({"sqlite_autoincrement": True},)  # the number of somebody who was erased is not given again
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    person: Mapped[str] = mapped_column(String(64), unique=True)


class CaseRow(Table):
    """One image of a task. number : within the task, from 1; files : sha256 of each cleaned file, in frame order;
    pixels : sha256 of the frame that stands for it; fingerprint : its perceptual hash, hexadecimal; split : "", "train", "val"
    or "test", as it was brought; together : keyed hash of a group that was brought, or empty."""

    __tablename__ = "case"
    __table_args__ = (UniqueConstraint("task", "number"), UniqueConstraint("task", "pixels"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(ForeignKey("task.id"))
    number: Mapped[int]
    files: Mapped[list[Any]]
    pixels: Mapped[str] = mapped_column(String(64))
    fingerprint: Mapped[str] = mapped_column(String(64))
    patient: Mapped[int | None] = mapped_column(ForeignKey("patient.id"), index=True)
    together: Mapped[str] = mapped_column(String(64), default="")
    split: Mapped[str] = mapped_column(String(8), default="")
    about: Mapped[dict[str, Any]]  # modality, title, rows, columns, frames
    added: Mapped[float]


class LabelRow(Table):
    """One act of labelling one case; the newest that is not undone counts. label : of the task, or "" for none;
    act : what was done at once, so that it is undone at once; "" where the label came with the image."""

    __tablename__ = "label"
    __table_args__ = (Index("label_of_case", "case", "id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    case: Mapped[int] = mapped_column(ForeignKey("case.id"))
    label: Mapped[str] = mapped_column(String(200))
    act: Mapped[str] = mapped_column(String(32), index=True)
    at: Mapped[float]
    undone: Mapped[bool] = mapped_column(default=False)


class JobRow(Table):
    """A training. state : queued, running, stopping, stopped, done or failed; asked : method, budget, options, backbone;
    progress : stage, done, of, loss, remaining_s; curve : [[epoch, loss, validation accuracy or null], ...];
    owner, beat : the process that runs it and when it last said so; error : the sentence of a failed one;
    prompt_set : the name under which its set is kept."""

    __tablename__ = "job"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    task: Mapped[str] = mapped_column(ForeignKey("task.id"), index=True)
    state: Mapped[str] = mapped_column(String(10), index=True)
    asked: Mapped[dict[str, Any]]
    progress: Mapped[dict[str, Any]]
    curve: Mapped[list[Any]]
    error: Mapped[str] = mapped_column(Text, default="")
    prompt_set: Mapped[str] = mapped_column(String(160), default="")
    created: Mapped[float]
    started: Mapped[float] = mapped_column(default=0.0)
    ended: Mapped[float] = mapped_column(default=0.0)
    owner: Mapped[str] = mapped_column(String(160), default="")
    beat: Mapped[float] = mapped_column(default=0.0)


class AuditRow(Table):
    """What was done, in order, never about whom. detail : counts, hashes, names of methods and sets."""

    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[float]
    what: Mapped[str] = mapped_column(String(40))
    detail: Mapped[dict[str, Any]]
