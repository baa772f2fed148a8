"""What a generator is, and what all of them do: read a class's name, put words in their place, say in the bank how they came.

A generator replaces attributes or sentences; what it does not write stays as it was. It appends one object to the bank's
provenance: by, model, where the weights came from, what was asked, and when. No names of files or patients are in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Protocol

from engine.errors import DataError, Stopped
from engine.tasks import NAMES, SLOTS, ClassDescriptions, DescriptionBank, Task, bank_of, made_bank
from engine.training import Watch
from engine.types import Image

Words = dict[str, dict[str, tuple[str, ...]]]  # by label, by slot, the best first
LABEL = "label"  # a class by its own name, where none of NAMES is meant
SOURCE = "Written by a generator of PromptScope (see provenance); not reviewed by a clinician."


class Generator(Protocol):
    """name : its registry name; needs_images : it looks at some; writes : "attributes" or "sentences"; config : its options, an
    instance of the class's own `Config`."""

    name: str
    needs_images: bool
    writes: str
    config: Any

    def fill(self, task: Task, images: Iterable[tuple[Image, str]] = (), watch: Watch | None = None) -> DescriptionBank:
        """A new bank of the task. images : with their labels, "" where it is not known; of a training split, never of the test's;
        best one a patient, since what a single image says is left out.

        watch : `progress` is called with (done, of, 0.0); `stop` ends it with Stopped.
        Raises DataError, BackboneError, Stopped.
        """
        ...


def written(task: Task) -> DescriptionBank:
    """The task's bank, an empty one where nothing is written yet."""
    empty = DescriptionBank(task.id, SOURCE, "", {name: ClassDescriptions({}, {}, (), ()) for name in task.names})
    return task.bank or bank_of(task.id) or empty


def check_name(kind: str) -> None:
    if kind not in (LABEL, *NAMES):
        raise DataError(f"There is no kind of name {kind!r}.", f"Choose one of: {', '.join((LABEL, *NAMES))}.")


def name_of(bank: DescriptionBank, label: str, kind: str) -> str:
    """The class's first name of a kind; its label where the bank has none."""
    return next(iter(bank.classes[label].synonyms.get(kind, ())), label)


def with_attributes(bank: DescriptionBank, found: Words, step: Mapping[str, Any]) -> DescriptionBank:
    """The bank with the slots of `found` replaced, and with the step that did it."""
    classes = {}
    for label, each in bank.classes.items():
        slots = {slot: found.get(label, {}).get(slot, each.attributes.get(slot, ())) for slot in SLOTS}
        classes[label] = replace(each, attributes=slots)
    return with_step(replace(bank, classes=classes), step)


def with_step(bank: DescriptionBank, step: Mapping[str, Any]) -> DescriptionBank:
    made = {**step, "at": datetime.now(timezone.utc).date().isoformat()}
    return made_bank(replace(bank, provenance=(*bank.provenance, made)))


def look(watch: Watch | None, done: int, of: int) -> None:
    """Says how far it is. Raises Stopped where the watch asks for it."""
    if watch and watch.progress:
        watch.progress(done, of, 0.0)
    if watch and watch.stop and watch.stop():
        raise Stopped("The words were not finished: they were stopped.")
