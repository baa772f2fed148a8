"""What is loaded once for everybody: backbones and prompt sets. No visitor's value is kept here."""

from __future__ import annotations

import threading
import time
from functools import cache

import torch

import engine

AGAIN_S = 20  # until a backbone that could not be loaded is tried again
_lock = threading.Lock()
_failed: dict[str, tuple[float, engine.BackboneError]] = {}


def device_of(wanted: str) -> str:
    """ "auto" takes a GPU where torch can use one; the page always shows what computes."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


@cache
def _loaded(name: str, device: str, precision: str) -> engine.Backbone:
    backbone = engine.load_backbone(name, device, precision)
    _ = backbone.weights_hash  # reads the weights once, here rather than in the first visitor's request
    return backbone


def backbone(name: str, device: str, precision: str) -> engine.Backbone:
    """Raises BackboneError; a failure is remembered for a moment only, so that who asked meanwhile need not wait for the hub
    as well, and the next try may succeed."""
    with _lock:
        when, error = _failed.get(name, (0.0, None))
        if error and time.monotonic() - when < AGAIN_S:
            raise error
        try:
            return _loaded(name, device, precision)
        except engine.BackboneError as failure:
            _failed[name] = (time.monotonic(), failure)
            raise


def questions() -> list[tuple[str, str]]:
    """(title, value) of what can be asked: every task with every method that learns from words, then the library's
    learned sets. The value is a set's name without its backbone, so that a question stays when the backbone changes."""
    words = engine.instant()
    words.sort(key=lambda name: name != "description-ensemble")  # the better default first
    found = {f"{t.id}-{m}": f"{t.title} ({m})" for t in engine.tasks().values() for m in words}
    for name in engine.library():
        try:
            prompts = engine.PromptSet.load(name)
        except engine.PromptSetError:
            continue  # `python -m engine list` says what is wrong with it
        found.setdefault(name.removesuffix(f"-{prompts.card['backbone']['id']}"), prompts.title)
    return [(title, value) for value, title in found.items()]


@cache
def _prompts(name: str, backbone_name: str, device: str, precision: str) -> engine.PromptSet:
    backbone = _loaded(backbone_name, device, precision)
    for shipped in (f"{name}-{backbone_name}", name):
        if shipped in engine.library():
            return engine.PromptSet.load(shipped)
    made = engine.from_words(name, backbone)
    if made is not None:
        return made
    raise engine.PromptSetError(f"There is no prompt set {name!r} for the backbone {backbone_name!r}.", "Choose another.")


def prompts(name: str, backbone_name: str, device: str, precision: str) -> engine.PromptSet:
    """The library's set for this backbone, else one made from words on the spot. Raises PromptSetError or DataError.

    name : a question's value, a whole name of the library, or a task's id; never a path
    """
    with _lock:
        return _prompts(name, backbone_name, device, precision)


def zero_shot_beside(chosen: engine.PromptSet, backbone_name: str, device: str, precision: str) -> engine.PromptSet | None:
    """The zero-shot set of the same task and weights, to show beside a learned one."""
    task = chosen.card["task"]["id"]
    if chosen.card["method"]["name"] == "zero-shot" or task not in engine.tasks():
        return None
    found = prompts(f"{task}-zero-shot", backbone_name, device, precision)
    return found if found.labels == chosen.labels else None
