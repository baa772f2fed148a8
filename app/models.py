"""What is loaded once for everybody: backbones and prompt sets. No visitor's value is kept here."""

from __future__ import annotations

import threading
from functools import cache

import torch

import engine

_lock = threading.Lock()


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
    """Raises BackboneError; a failure is not remembered, so that the next try may succeed."""
    with _lock:
        return _loaded(name, device, precision)


def choices(name: str) -> list[tuple[str, str]]:
    """(title, value) of the prompt sets that fit a backbone, then tasks whose sets are made from words on the spot."""
    fitting = []
    covered = set()
    for each in engine.library():
        try:
            prompts = engine.PromptSet.load(each)
        except engine.PromptSetError:
            continue  # the Library tab and `python -m engine list` say what is wrong with it
        if prompts.card["backbone"]["id"] == name:
            fitting.append((prompts.title, each))
            covered.add(prompts.card["task"]["id"])
    order = list(engine.tasks())
    tasks = [t for t in order if t not in covered]
    fitting.sort(key=lambda pair: pair[1])
    fitting.sort(key=lambda pair: min((i for i, t in enumerate(order) if pair[1].startswith(t + "-")), default=len(order)))
    return fitting + [(f"{engine.task(t).title} (description-ensemble, made now)", t) for t in tasks]


@cache
def _prompts(name: str, backbone_name: str, device: str, precision: str) -> engine.PromptSet:
    return engine.prompt_set(name, _loaded(backbone_name, device, precision))


def prompts(name: str, backbone_name: str, device: str, precision: str) -> engine.PromptSet:
    """Raises PromptSetError or DataError."""
    with _lock:
        return _prompts(name, backbone_name, device, precision)


def zero_shot_beside(chosen: engine.PromptSet) -> engine.PromptSet | None:
    """The library's zero-shot set of the same task and weights, to show beside a learned one."""
    name = f"{chosen.card['task']['id']}-zero-shot-{chosen.card['backbone']['id']}"
    if name == chosen.name or name not in engine.library():
        return None
    found = engine.PromptSet.load(name)
    return found if found.card["backbone"] == chosen.card["backbone"] and found.labels == chosen.labels else None
