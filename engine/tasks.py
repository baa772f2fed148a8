"""Tasks (assets/tasks.json) and description banks (assets/descriptions/<task>.json): data, read once."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.errors import DataError

ASSETS = Path(__file__).resolve().parent.parent / "assets"


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
    exploit instead of the finding, to be shown beside every accuracy."""

    id: str
    title: str
    modality: str
    organ: str
    labels: tuple[Label, ...]
    template: str
    benchmark: str | None = None
    data: tuple[str, ...] = ()
    shortcuts: tuple[str, ...] = ()

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
    classes: dict[str, ClassDescriptions]
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


def descriptions(name: str) -> DescriptionBank:
    """The written descriptions of a task's classes, in label order. Raises DataError.

    A bank in the folder PROMPTSCOPE_DESCRIPTIONS (an imported one, say) comes before the one that is shipped.
    """
    folders = [Path(os.environ["PROMPTSCOPE_DESCRIPTIONS"])] if os.environ.get("PROMPTSCOPE_DESCRIPTIONS") else []
    for folder in [*folders, ASSETS / "descriptions"]:
        if (folder / f"{name}.json").is_file():
            return _bank(folder / f"{name}.json", name)
    raise DataError(f"There is no description bank for the task {name!r}.", f"Write one as {name}.json.")


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
