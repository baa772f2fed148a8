"""What a workspace gives out: frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.types import Example

QUEUED, RUNNING, STOPPING, STOPPED, DONE, FAILED = "queued", "running", "stopping", "stopped", "done", "failed"
ACTIVE = (QUEUED, RUNNING, STOPPING)


@dataclass(frozen=True)
class Case:
    """One image of a task. number : from 1, within its task, what people call it; patient : a pseudonym ("P3") or "";
    label : a label of the task or ""; files : sha256 of each, in frame order; path : of the file that stands for it;
    about : modality, title, rows, columns, frames; twin_of : the number of the earlier case whose image is nearly this one, or 0;
    group : what must stay on one side of a split with it, where that is more than one patient (near twins, brought groups);
    in_group : it was brought in a group, which stands for a patient who is not named."""

    id: int
    number: int
    task: str
    files: tuple[str, ...]
    path: str
    patient: str
    label: str
    split: str
    about: dict[str, Any]
    twin_of: int = 0
    group: str = ""
    in_group: bool = False

    @property
    def example(self) -> Example:
        """As the engine learns from it."""
        patient = self.patient or (f"G{self.number}" if self.in_group else "")
        return Example(self.path, self.label, patient, self.group, self.split)


@dataclass(frozen=True)
class Added:
    """What became of an upload. cases : ids of new ones; refused : sentences that name the user's files, for the screen alone;
    again : how many were there already (exact duplicates within the task, which are not added twice); contrary : how many of
    these came with another label, patient, group or split than they have, which stays; labelled : how many came with a label; unknown : names of folders
    or CSV values that are no class of the task, with how many images each; strays : the ids of these images, by name, to be
    labelled once there is a class; removed : (what identified somebody, how many elements)."""

    cases: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()
    again: int = 0
    contrary: int = 0
    labelled: int = 0
    unknown: tuple[tuple[str, int], ...] = ()
    strays: tuple[tuple[str, tuple[int, ...]], ...] = ()
    removed: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Intake:
    """How far an upload is; the last one has `added`."""

    done: int
    total: int
    added: Added | None = None


@dataclass(frozen=True)
class Job:
    """A training as it stands; see tables.JobRow for the fields."""

    id: str
    task: str
    state: str
    asked: dict[str, Any]
    progress: dict[str, Any]
    curve: list[Any] = field(default_factory=list)
    error: str = ""
    prompt_set: str = ""
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE
