"""Methods by name: each leaves a prompt set."""

from __future__ import annotations

from engine.errors import DataError
from engine.registry import Registry

METHODS = Registry(
    "method",
    DataError,
    {
        "zero-shot": "engine.methods.zero_shot:ZeroShot",
        "description-ensemble": "engine.methods.description_ensemble:DescriptionEnsemble",
    },
)
