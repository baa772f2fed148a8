"""Tasks (assets/tasks.json) and description banks (assets/descriptions/<task>.json): data, read once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import DataError

ASSETS = Path(__file__).resolve().parent.parent / "assets"
NAMES = ("medical", "query", "lay")  # a class by its name in medicine, as one asks for it, and in everyday words
BANK_BYTES = 16 * 2**20  # of a bank's file; the largest that is shipped has 0.1 MB
SLOTS = ("colour", "shape", "location", "texture")  # what can be said of a finding beside its name
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
        wanted = str(folder).strip().lower().replace("_", " ")
        for label in self.labels:
            known = (label.name, label.display, *label.aliases)
            if wanted in {name.lower().replace("_", " ") for name in known}:
                return label.name
        raise DataError(
            f"{str(folder)[:80]!r} is no class of the task {self.id!r}.", f"Its classes are: {', '.join(self.names)}."
        )


@dataclass(frozen=True)
class ClassDescriptions:
    """What is written about one class. synonyms : words by NAMES; attributes : words by SLOTS, the best first; sentences : at
    least 30 in the shipped banks, distinct; negatives : that it is absent."""

    synonyms: dict[str, tuple[str, ...]]
    attributes: dict[str, tuple[str, ...]]
    sentences: tuple[str, ...]
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class DescriptionBank:
    """task : its id; classes : by label, in label order; sha256 : of its file, or of the file that `bank_text` would make;
    provenance : what made or changed it, in order, one object a step ({"by": ..., "model": ..., "at": ...}; no names, no paths)."""

    task: str
    source: str
    licence: str
    classes: dict[str, ClassDescriptions] = field(hash=False)
    sha256: str = ""
    provenance: tuple[dict[str, Any], ...] = field(default=(), hash=False)


def check_texts(given: Any, what: str) -> None:
    """A text alone would be taken letter by letter. Raises DataError where it is no list of texts; `what` : as in "The colour"."""
    if not isinstance(given, (list, tuple)) or not all(isinstance(each, str) for each in given):
        raise DataError(f"{what} cannot be {repr(given)[:60]}.", 'Give a list of texts, as in ["dark", "grey"].')


def slot_of(kind: str) -> str:
    """ "color" is taken for "colour"; anything else is left as it is."""
    return "colour" if kind == "color" else kind


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


def task(name: str, place: str | Path | None = None) -> Task:
    """The task with this id. place : a bank's file, or a folder of <task>.json, that must hold its words. Raises DataError."""
    if name not in tasks():
        raise DataError(f"There is no task called {name!r}.", f"Choose one of: {', '.join(tasks())}.")
    if not place:
        return tasks()[name]
    if name not in (found := tasks_with(place)):
        raise DataError(
            f"{Path(place).name!r} holds no description bank of the task {name!r}.", f"It holds: {', '.join(found)}."
        )
    return found[name]


def descriptions(of: str | Task) -> DescriptionBank:
    """The written descriptions of a task's classes, in label order. of : a known task's id, or a task. Raises DataError.

    A task's own bank comes first, then one at PROMPTSCOPE_DESCRIPTIONS (a file or a folder, as of `tasks_with`, which must hold
    some), then the shipped one.
    """
    if isinstance(of, Task) and of.bank is not None:
        return of.bank
    name = of.id if isinstance(of, Task) else of
    if found := bank_of(name):
        return found
    raise DataError(f"There is no description bank for the task {name!r}.", f"Write one as {name}.json.")


def bank_of(name: str) -> DescriptionBank | None:
    """The bank of a task's id at PROMPTSCOPE_DESCRIPTIONS, else the shipped one, else None. Raises DataError."""
    place = os.environ.get("PROMPTSCOPE_DESCRIPTIONS")
    path = _of_everybody(Path(place).absolute()).get(name) if place else None
    return _bank(path, name) if path else shipped(name)


def shipped(name: str) -> DescriptionBank | None:
    """The bank that came with PromptScope, whatever else is set."""
    path = ASSETS / "descriptions" / f"{name}.json"
    return _bank(path, name) if path.is_file() else None


def tasks_with(place: str | Path) -> dict[str, Task]:
    """The tasks, by id, of whose words a file or folder holds banks, each with its own there. Raises DataError where there are none.

    place : a bank's file, of the task that it names; or a folder of <task>.json
    """
    found = {name: (task(name), path) for name, path in _files(Path(place)).items()}
    return {name: replace(of, bank=read_bank(path, of)) for name, (of, path) in found.items()}


def _files(place: Path) -> dict[str, Path]:
    """The banks' files by their task's id. Raises DataError where there are none."""
    if not place.is_dir():
        return {task(_task_of(place)).id: place}
    found = {name: path for name in tasks() if (path := place / f"{name}.json").is_file()}
    if not found:
        raise DataError(
            f"The folder {place.name!r} holds no description bank.", "Name a bank's file, or a folder of <task>.json."
        )
    return found


_of_everybody = cache(_files)  # of PROMPTSCOPE_DESCRIPTIONS, whose banks are read once, too


def bank_text(bank: DescriptionBank) -> str:
    """A bank's file, of the form of assets/descriptions/<task>.json."""
    classes = {
        label: {
            "synonyms": {name: list(each.synonyms.get(name, ())) for name in NAMES},
            "attributes": {slot: list(each.attributes.get(slot, ())) for slot in SLOTS},
            "sentences": list(each.sentences),
            "negatives": list(each.negatives),
        }
        for label, each in bank.classes.items()
    }
    about: dict[str, Any] = {"task": bank.task, "source": bank.source, "licence": bank.licence}
    about |= {"provenance": list(bank.provenance)} if bank.provenance else {}
    return json.dumps(about | {"classes": classes}, indent=2, ensure_ascii=False) + "\n"


def made_bank(bank: DescriptionBank) -> DescriptionBank:
    """The bank with the hash of its file: for one that was made or changed here."""
    return replace(bank, sha256=hashlib.sha256(bank_text(bank).encode()).hexdigest())


def read_bank(path: str | Path, of: Task) -> DescriptionBank:
    """A bank's file, for the classes of a task. Raises DataError."""
    with _readable(path := Path(path)):
        raw = _bytes(path)
        return _bank_of(raw, json.loads(raw), of)


def with_bank(
    task: Task,
    own: Mapping[str, Sequence[str]],
    words: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    provenance: Sequence[Mapping[str, Any]] = (),
) -> Task:
    """The task with descriptions of every class, whatever its classes are: those that were written for its id, before them
    the user's `own`, by label, and plain ones where there are fewer than a dozen. A task with written ones alone is unchanged.

    words : the user's own, by label, then by NAMES and SLOTS, in place of those that were written; provenance : how they came
    """
    found = bank_of(task.id)
    there = found.classes if found else {}
    words = {label: kinds for label, kinds in (words or {}).items() if kinds}
    if not words and not any(own.values()) and task.names == tuple(there):
        return task
    classes = {}
    for label in task.labels:
        known = there.get(label.name, ClassDescriptions({}, {}, (), ()))
        first = tuple(own.get(label.name, ())) or known.sentences
        plain = _plain(task, label)[: max(0, len(PLAIN) - len(first))]
        mine = {kind: tuple(each) for kind, each in words.get(label.name, {}).items()}
        classes[label.name] = replace(
            known,
            synonyms=known.synonyms | {kind: mine[kind] for kind in NAMES if kind in mine},
            attributes=known.attributes | {slot: mine[slot] for slot in SLOTS if slot in mine},
            sentences=tuple(dict.fromkeys((*first, *plain))),
        )
    steps = tuple(dict(step) for step in provenance)
    source = "written in this workspace" if words or any(own.values()) else "templates"
    source, licence = (f"{found.source.rstrip('.')}. Edited in this workspace.", found.licence) if found else (source, "")
    return replace(task, bank=made_bank(DescriptionBank(task.id, source, licence, classes, provenance=steps)))


def kind_of_image(task: Task, noun: str = "image") -> str:
    """ "MRI image of the brain"; "medical image" where the task says no more."""
    image = f"medical {noun}" if task.modality == "any" else f"{task.modality} {noun}"
    return image if task.organ == "any" else f"{image} of the {task.organ}"


def _plain(task: Task, label: Label) -> tuple[str, ...]:
    """A dozen sentences that say no more than the names of the class, the kind of image and the body part."""
    shown = label.display
    name = shown[0].lower() + shown[1:] if shown[1:2].islower() else shown  # "Glioma", but "COVID-19"
    organ = "body part" if task.organ == "any" else task.organ
    made = (each.format(c=name, image=kind_of_image(task), organ=organ) for each in PLAIN)
    return tuple(each[0].upper() + each[1:] for each in made)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever else a file turns out to be becomes one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"There is no file {str(path)!r}.", "Name a bank's file, or a folder of <task>.json.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())[:160]
        if isinstance(error, OSError):
            why = error.strerror or why
        elif isinstance(error, KeyError):
            why = f"it has no {why}"
        elif isinstance(error, (TypeError, AttributeError, RecursionError)):
            why = "a part of it has another form"
        raise DataError(
            f"The description bank {path.name!r} cannot be read: {why}.", "It should look like those in assets/descriptions."
        ) from error


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > BANK_BYTES:
        raise ValueError(f"it is larger than {BANK_BYTES // 2**20} MB")
    return path.read_bytes()


def _task_of(path: Path) -> str:
    """The task that a bank's file names. Raises DataError."""
    with _readable(path):
        return str(json.loads(_bytes(path))["task"])[:80]


@cache
def _bank(path: Path, name: str) -> DescriptionBank:
    return read_bank(path, task(name))


def _bank_of(raw: bytes, found: Any, of: Task) -> DescriptionBank:
    classes = {
        label: ClassDescriptions(
            synonyms={k: _words(v) for k, v in c["synonyms"].items()},
            attributes={k: _words(v) for k, v in c["attributes"].items()},
            sentences=_words(c["sentences"]),
            negatives=_words(c["negatives"]),
        )
        for label, c in found["classes"].items()
    }
    if tuple(classes) != of.names:
        named = ", ".join(list(classes)[:12]) + (f" and {len(classes) - 12} more" if len(classes) > 12 else "")
        raise DataError(f"The description bank of {of.id!r} has other classes than the task: {named}.")
    name, source, licence = about = [found[key] for key in ("task", "source", "licence")]
    if not all(isinstance(each, str) for each in about):
        raise ValueError("task, source or licence is no text")
    provenance = tuple(dict(step) for step in found.get("provenance", ()))
    json.dumps([about, provenance], ensure_ascii=False, allow_nan=False).encode()  # it must be possible to write it again
    return DescriptionBank(name, source, licence, classes, hashlib.sha256(raw).hexdigest(), provenance)


def _words(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("a list of words is something else")
    "".join(found).encode()  # half a surrogate pair cannot be written: ValueError
    return tuple(found)
