"""What is loaded once for everybody: backbones and prompt sets. What was made of a visitor's own goes with his workspace."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import engine

AGAIN_S = 20  # until a backbone that could not be loaded is tried again
MOST = 256  # sets that are kept of a folder
_lock = threading.Lock()  # of what stands below
_locks: dict[str, threading.Lock] = {}  # of each backbone: who waits for one that is fetched holds nobody else up
_ready: dict[tuple[str, str, str], engine.Backbone] = {}
_fetches: dict[str, engine.Fetch] = {}  # by backbone: a download is everybody's
_failed: dict[str, tuple[float, engine.BackboneError]] = {}
_made: dict[str, dict[Any, engine.PromptSet]] = {"": {}}  # by the folder of a workspace's sets; "" is everybody's


def device_of(wanted: str) -> str:
    """ "auto" takes a GPU where torch can use one; the page always shows what computes."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def _loaded(name: str, device: str, precision: str) -> engine.Backbone:
    backbone = engine.load_backbone(name, device, precision)
    _ = backbone.weights_hash  # reads the weights once, here rather than in the first visitor's request
    return backbone


def backbone(name: str, device: str, precision: str) -> engine.Backbone:
    """Raises BackboneError; a failure is remembered for a moment only, so that who asked meanwhile need not wait for the hub
    as well, and the next try may succeed."""
    with _alone(name):
        when, error = _failed.get(name, (0.0, None))
        if error and time.monotonic() - when < AGAIN_S:
            raise error
        key = (name, device, precision)
        try:
            if key not in _ready:
                _ready[key] = _loaded(*key)
            return _ready[key]
        except engine.BackboneError as failure:
            _failed[name] = (time.monotonic(), failure)
            raise


def _alone(name: str) -> threading.Lock:
    with _lock:
        return _locks.setdefault(name, threading.Lock())


def ready(name: str, device: str, precision: str) -> engine.Backbone | None:
    """The backbone where somebody has loaded it; waits for nothing."""
    return _ready.get((name, device, precision))


def fetch(name: str) -> engine.Fetch:
    """Begins a download, or gives the one that runs. Raises BackboneError for an unknown name."""
    engine.BACKBONES[name]
    with _lock:
        if name not in _fetches or _fetches[name].state != "running":
            _fetches[name] = engine.Fetch(name)
        return _fetches[name]


def fetched(name: str) -> engine.Fetch | None:
    """The newest download of a backbone. Once its files have come, who asks for it next need not wait for another try."""
    found = _fetches.get(name)
    if found and found.state == "done":
        _failed.pop(name, None)
    return found


@dataclass(frozen=True)
class Question:
    """Something that can be asked of an image. value : a set's name without its backbone, so that a question stays when the
    backbone changes; task, method : a title and a name; own : the visitor's."""

    value: str
    task: str
    method: str
    own: bool = False

    @property
    def title(self) -> str:
        return f"{'yours: ' if self.own else ''}{self.task} ({self.method})"


def questions(workspace: engine.Workspace | None) -> list[Question]:
    """What can be asked: the sets of the workspace, every task with every method that learns from words, then the library's
    learned sets."""
    words = engine.instant()
    words.sort(key=lambda name: name != "description-ensemble")  # the better default first
    found: dict[str, Question] = {}
    if workspace is not None:
        folder = Path(folder_of(workspace))
        for name in engine.library(folder):
            _offer(found, folder / name, True)
        own = (Question(f"{t.id}-{m}", t.title, m, True) for t in workspace.tasks().values() for m in words)
        found |= {each.value: each for each in own}
    known = (Question(f"{t.id}-{m}", t.title, m) for t in engine.tasks().values() for m in words)
    found |= {each.value: each for each in known if each.value not in found}
    for name in engine.library():
        _offer(found, engine.LIBRARY / name, False)
    return list(found.values())


@dataclass(frozen=True)
class Item:
    """A prompt set of the library. name : of its folder; own : the visitor's; problem : a sentence, where it cannot be used."""

    name: str
    own: bool
    prompts: engine.PromptSet | None
    problem: str = ""


def items(workspace: engine.Workspace | None) -> list[Item]:
    """Every prompt set that is stored: the visitor's, then everybody's."""
    found = []
    for own, folder in [*([(True, Path(folder_of(workspace)))] if workspace else []), (False, engine.LIBRARY)]:
        for name in engine.library(folder):
            try:
                found.append(Item(name, own, stored(folder / name)))
            except engine.PromptSetError as error:
                found.append(Item(name, own, None, str(error)))
    return found


def folder_of(workspace: engine.Workspace) -> str:
    """The folder of a workspace's sets. What is made of them from now on is kept as long as the workspace is open."""
    folder = str(workspace.prompts)
    with _lock:
        if folder not in _made:
            _made[folder] = {}
            weakref.finalize(workspace, _made.pop, folder, None)
    return folder


def forget(workspace: engine.Workspace) -> None:
    """Sets of a workspace are read again: what was deleted may be among the features that one holds."""
    with _lock:
        if str(workspace.prompts) in _made:
            _made[str(workspace.prompts)] = {}


def _kept(folder: str, key: Any, make: Callable[[], engine.PromptSet | None]) -> engine.PromptSet | None:
    """folder : of a workspace's sets (`folder_of`), or "" for everybody's. In a worker process a workspace's are made again."""
    held = _made.get(folder, {})
    made = held.get(key) or make()
    with _lock:
        if made is not None and key not in held:
            held[key] = made
            if len(held) > MOST:
                del held[next(iter(held))]
    return made


def stored(place: Path) -> engine.PromptSet:
    """The set in a folder, read once as long as it stays as it is. Raises PromptSetError."""
    card = place / "card.json"
    folder = "" if place.parent == engine.LIBRARY else str(place.parent)
    key = (place.name, card.stat().st_mtime if card.is_file() else 0.0)
    found = _kept(folder, key, lambda: engine.PromptSet.load(place))
    assert found is not None
    return found


def _offer(found: dict[str, Question], place: Path, is_own: bool) -> None:
    try:
        card = stored(place).card
    except engine.PromptSetError:
        return  # `python -m engine list` says what is wrong with it
    value = place.name.removesuffix(f"-{card['backbone']['id']}")
    found.setdefault(value, Question(value, card["task"]["title"], card["method"]["name"], is_own))


def own_task(workspace: engine.Workspace, prompts: str) -> engine.Task | None:
    """The workspace's task that a question is about: its own words, or a set that was learned for it."""
    tasks = workspace.tasks()
    for name in tasks:
        if prompts in {name, *(f"{name}-{method}" for method in engine.instant())}:
            return tasks[name]
    for name in engine.library(workspace.prompts):
        if prompts == name or name.startswith(f"{prompts}-"):
            return tasks.get(stored(workspace.prompts / name).card["task"]["id"])
    return None


def _from_words(asked: Any, task: engine.Task | None) -> engine.PromptSet | None:
    """task : the visitor's own, or None for the known ones."""
    on = (asked.backbone, asked.device, asked.precision)
    tasks = [task] if task else engine.tasks().values()
    key = (asked.prompts, *on, task)
    return _kept(asked.folder if task else "", key, lambda: engine.from_words(asked.prompts, _ready[on], tasks))


def exported(prompts: engine.PromptSet) -> bytes:
    """A set's one file, to send; it never lies in Gradio's cache."""
    folder = engine.PrivateFolder()
    try:
        return prompts.export(folder.path / "set").read_bytes()
    finally:
        folder.delete()


def prompts(asked: Any) -> engine.PromptSet:
    """The set for this backbone, of the visitor's folder, his own task, or the library, else one made from words on the spot.
    Raises PromptSetError or DataError.

    asked : compute.Asked; its prompts are a question's value, a whole name of the library, or a task's id; never a path
    """
    name, model = asked.prompts, asked.backbone
    backbone(model, asked.device, asked.precision)
    with _alone(model):
        if Path(name).name == name and name not in (".", ".."):
            folders = [Path(asked.folder)] if asked.folder else []
            for folder in [*folders, engine.LIBRARY]:
                if folder == engine.LIBRARY and asked.task and (made := _from_words(asked, asked.task)):
                    return made
                for each in (f"{name}-{model}", f"{name}-{model.removeprefix('onnx:')}", name):
                    if (folder / each / "card.json").is_file():
                        return stored(folder / each)
        made = _from_words(asked, None)
        if made is not None:
            return made
    raise engine.PromptSetError(f"There is no prompt set {name!r} for the backbone {model!r}.", "Choose another.")


def zero_shot_beside(chosen: engine.PromptSet, asked: Any) -> engine.PromptSet | None:
    """The zero-shot set of the same task and weights, to show beside a learned one. asked : compute.Asked"""
    task = chosen.card["task"]["id"]
    if chosen.card["method"]["name"] == "zero-shot":
        return None
    try:
        found = prompts(replace(asked, prompts=f"{task}-zero-shot"))
    except engine.EngineError:
        return None
    return found if found.labels == chosen.labels else None
