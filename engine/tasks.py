"""Tasks (assets/tasks.json) and description banks (assets/descriptions/<task>.json): data, read once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from engine.errors import DataError

ASSETS = Path(__file__).resolve().parent.parent / "assets"
# What can be said of any finding, with its name at {c}, the kind of image at {image} and the body part at {organ}.
PLAIN = (
    "{image} showing {c}.",
    "{c} seen on {image}.",
    "The appearance is that of {c}.",
    "Findings are consistent with {c}.",
    "Imaging features typical of {c}.",
    "{image} with the classic appearance of {c}.",
    "The most likely reading of this image is {c}.",
    "A representative example of {c}.",
    "{image} in a patient with {c}.",
    "The examination was reported as {c}.",
    "A case that an expert reader labelled {c}.",
    "The {organ} as it looks in {c}.",
)


@dataclass(frozen=True)
class Label:
    """name : the class as methods and prompts use it; display : as people read it; aliases : folder names."""

    name: str
    display: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A question with ordered labels. benchmark : its dataset's name in the papers, or None; data : names of
    dataset folders that hold it; template : one prompt with {} for the class; shortcuts : what a model may
    exploit instead of the finding, to be shown beside every accuracy; bank : descriptions that belong to this task alone
    (a user's own), in place of the file's."""

    id: str
    title: str
    modality: str
    organ: str
    labels: tuple[Label, ...]
    template: str
    benchmark: str | None = None
    data: tuple[str, ...] = ()
    shortcuts: tuple[str, ...] = ()
    bank: DescriptionBank | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    def label_of(self, folder: str) -> str:
        """The label that a folder or CSV value means ("kl0" -> "healthy knee"). Raises DataError."""
        wanted = folder.strip().lower().replace("_", " ")
        for label in self.labels:
            known = (label.name, label.display, *label.aliases)
            if wanted in {name.lower().replace("_", " ") for name in known}:
                return label.name
        raise DataError(f"{folder!r} is no class of the task {self.id!r}.", f"Its classes are: {', '.join(self.names)}.")


@dataclass(frozen=True)
class ClassDescriptions:
    """What is written about one class. sentences : at least 30, distinct; negatives : that it is absent."""

    synonyms: dict[str, tuple[str, ...]]
    attributes: dict[str, tuple[str, ...]]
    sentences: tuple[str, ...]
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class DescriptionBank:
    task: str
    source: str
    licence: str
    classes: dict[str, ClassDescriptions] = field(hash=False)
    sha256: str


@cache
def tasks() -> dict[str, Task]:
    """Every task by id, in the order of the file."""
    found = json.loads((ASSETS / "tasks.json").read_text(encoding="utf-8"))["tasks"]
    made = {}
    for entry in found:
        labels = tuple(Label(x["name"], x["display"], tuple(x["aliases"])) for x in entry["labels"])
        made[entry["id"]] = Task(
            id=entry["id"],
            title=entry["title"],
            modality=entry["modality"],
            organ=entry["organ"],
            labels=labels,
            template=entry["template"],
            benchmark=entry["benchmark"],
            data=tuple(entry["data"]),
            shortcuts=tuple(entry["shortcuts"]),
        )
    return made


def task(name: str) -> Task:
    """The task with this id. Raises DataError."""
    if name not in tasks():
        raise DataError(f"There is no task called {name!r}.", f"Choose one of: {', '.join(tasks())}.")
    return tasks()[name]


def descriptions(of: str | Task) -> DescriptionBank:
    """The written descriptions of a task's classes, in label order. of : a known task's id, or a task. Raises DataError.

    A task's own bank comes first, then one in the folder PROMPTSCOPE_DESCRIPTIONS (an imported one, say), then the shipped one.
    """
    if isinstance(of, Task):
        if of.bank is not None:
            return of.bank
        of = of.id
    folders = [Path(os.environ["PROMPTSCOPE_DESCRIPTIONS"])] if os.environ.get("PROMPTSCOPE_DESCRIPTIONS") else []
    for folder in [*folders, ASSETS / "descriptions"]:
        if (folder / f"{of}.json").is_file():
            return _bank(folder / f"{of}.json", of)
    raise DataError(f"There is no description bank for the task {of!r}.", f"Write one as {of}.json.")


def with_bank(task: Task, own: Mapping[str, Sequence[str]]) -> Task:
    """The task with descriptions of every class, whatever its classes are: those that were written for its id, before them
    the user's `own`, by label, and plain ones where there are fewer than a dozen. A task with written ones alone is unchanged.
    """
    try:
        written = descriptions(task.id).classes
    except DataError:
        written = {}
    if not any(own.values()) and task.names == tuple(written):
        return task
    classes = {}
    for label in task.labels:
        known = written.get(label.name, ClassDescriptions({}, {}, (), ()))
        first = tuple(own.get(label.name, ())) or known.sentences
        plain = _plain(task, label)[: max(0, len(PLAIN) - len(first))]
        classes[label.name] = replace(known, sentences=tuple(dict.fromkeys((*first, *plain))))
    words = json.dumps({name: each.sentences for name, each in classes.items()}, ensure_ascii=False)
    source = "written in this workspace" if any(own.values()) else "templates"
    bank = DescriptionBank(task.id, source, "", classes, hashlib.sha256(words.encode()).hexdigest())
    return replace(task, bank=bank)


def _plain(task: Task, label: Label) -> tuple[str, ...]:
    """A dozen sentences that say no more than the names of the class, the kind of image and the body part."""
    shown = label.display
    name = shown[0].lower() + shown[1:] if shown[1:2].islower() else shown  # "Glioma", but "COVID-19"
    organ = "body part" if task.organ == "any" else task.organ
    image = "medical image" if task.modality == "any" else f"{task.modality} image"
    image = f"{image} of the {organ}" if task.organ != "any" else image
    made = (each.format(c=name, image=image, organ=organ) for each in PLAIN)
    return tuple(each[0].upper() + each[1:] for each in made)


@cache
def _bank(path: Path, name: str) -> DescriptionBank:
    raw = path.read_bytes()
    found = json.loads(raw)
    classes = {
        label: ClassDescriptions(
            synonyms={k: tuple(v) for k, v in c["synonyms"].items()},
            attributes={k: tuple(v) for k, v in c["attributes"].items()},
            sentences=tuple(c["sentences"]),
            negatives=tuple(c["negatives"]),
        )
        for label, c in found["classes"].items()
    }
    if tuple(classes) != task(name).names:
        raise DataError(f"The description bank of {name!r} has other classes than the task: {', '.join(classes)}.")
    return DescriptionBank(found["task"], found["source"], found["licence"], classes, hashlib.sha256(raw).hexdigest())
