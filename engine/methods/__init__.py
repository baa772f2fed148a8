"""Methods by name: each leaves a prompt set."""

from __future__ import annotations

from engine.backbones.base import Backbone
from engine.errors import DataError
from engine.prompts import PromptSet
from engine.registry import Registry
from engine.tasks import task, tasks

METHODS = Registry(
    "method",
    DataError,
    {
        "zero-shot": "engine.methods.zero_shot:ZeroShot",
        "description-ensemble": "engine.methods.description_ensemble:DescriptionEnsemble",
    },
)


def prompt_set(name: str, backbone: Backbone) -> PromptSet:
    """A prompt set by name or folder; a task's id makes its description ensemble on the spot, for any backbone."""
    if name in tasks():
        return METHODS["description-ensemble"]().learn(backbone, task(name))
    return PromptSet.load(name)
