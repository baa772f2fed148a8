"""Methods by name: each leaves a prompt set."""

from __future__ import annotations

from engine.backbones.base import Backbone
from engine.errors import DataError
from engine.prompts import PromptSet
from engine.registry import Registry
from engine.tasks import tasks

METHODS = Registry(
    "method",
    DataError,
    {
        "zero-shot": "engine.methods.zero_shot:ZeroShot",
        "description-ensemble": "engine.methods.description_ensemble:DescriptionEnsemble",
    },
)


def from_words(name: str, backbone: Backbone) -> PromptSet | None:
    """The set of "<task>-<method>", or of a task's id alone (its description ensemble), made on the spot for any
    backbone; None where the name is neither."""
    for each in tasks().values():
        for method in METHODS.values():
            short = each.id if method.name == "description-ensemble" else None
            if not method.needs_images and name in (f"{each.id}-{method.name}", short):
                return method().learn(backbone, each)
    return None


def prompt_set(name: str, backbone: Backbone) -> PromptSet:
    """A prompt set by name or folder, or one `from_words`. Raises PromptSetError."""
    return from_words(name, backbone) or PromptSet.load(name)
