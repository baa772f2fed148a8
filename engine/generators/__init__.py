"""Generators by name: each takes a task and writes its bank of words anew, attributes or sentences, without an expert."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from engine.errors import DataError
from engine.registry import Registry

GENERATORS = Registry(
    "generator",
    DataError,
    {
        "masked-lm": "engine.generators.masked_lm:MaskedLM",
        "vqa": "engine.generators.vqa:VQA",
        "hybrid": "engine.generators.hybrid:Hybrid",
        "llm": "engine.generators.llm:LLM",
    },
)


def generator(name: str, /, **options: Any) -> Any:
    """A generator with these options over its own defaults. Raises DataError for an option that it does not have."""
    kind = GENERATORS[name]
    known = {field.name: field.default for field in fields(kind.Config)}
    for option, value in options.items():
        if option not in known:
            raise DataError(f"The generator {name!r} has no option {option!r}.", f"It has: {', '.join(known)}.")
        wanted = type(known[option])
        if not isinstance(value, (int, float) if wanted is float else wanted) or (
            isinstance(value, bool) and wanted is not bool
        ):
            raise DataError(f"The option {option!r} of {name!r} cannot be {value!r}.", f"An example is {known[option]!r}.")
    return kind(kind.Config(**options))
