"""Pointing at what a phrase names: locators by name. A locator is a class with `locate` (base.py), made by its module's

    load(model, backbone, device) -> Locator

where model is what stands behind the name's colon ("grounding-dino:FOLDER"), "" where nothing does, and backbone the one that
the user chose, which a detector of its own does not look at. A phrase that is not found is an answer: no boxes, and a note.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.backbones.base import Backbone
from engine.errors import ExplainError
from engine.locate.base import Locator, described, grid_of, over_image
from engine.registry import Registry
from engine.tasks import SLOTS, DescriptionBank
from engine.types import Image, Located, Phrase

LOCATORS = Registry(
    "locator",
    ExplainError,
    {
        "patches": "engine.locate.patches",
        "windows": "engine.locate.windows",
        "grounding-dino": "engine.locate.grounding_dino",
    },
)
MOST = 10  # boxes of a phrase, where nobody says otherwise
LONG = 500  # characters of a phrase; a text tower takes 256 tokens at most


def load_locator(name: str, backbone: Backbone | None = None, device: str = "cpu") -> Locator:
    """The locator by its name, as in "windows", "grounding-dino" or "grounding-dino:FOLDER". Raises ExplainError, BackboneError."""
    kind, _, model = name.partition(":")
    return LOCATORS[kind].load(model, backbone, device)


def locate(
    image: Image,
    phrases: Phrase | str | Sequence[Phrase | str],
    locator: Locator,
    negatives: Sequence[str] = (),
    most: int = MOST,
) -> list[Located]:
    """Where the image shows what each phrase names, one result a phrase.

    negatives : what it is held against (a task's other classes, say), else the locator's own choice
    most : boxes of a phrase at most. Raises ExplainError where a phrase says nothing, or what the locator raises.
    """
    asked = [each if isinstance(each, Phrase) else Phrase(each.strip()) for each in _many(phrases)]
    if not asked:
        raise ExplainError("There is no phrase.", "Write what to look for, as in 'lung nodule'.")
    if most < 1:
        raise ExplainError(f"{most} boxes cannot be shown.", "Ask for at least 1.")
    for text in (*(each.name for each in asked), *negatives):
        if not text.strip():
            raise ExplainError("A phrase is empty.", "Write what to look for, as in 'lung nodule'.")
    for text in (*(each.text for each in asked), *negatives):
        if len(text) > LONG:
            raise ExplainError(
                f"A phrase has {len(text)} characters, more than {LONG}: {text[:40]!r} ...", "Say it in a few words."
            )
    if np.ptp(image.pixels) == 0:
        return [_nowhere(image, each, locator, tuple(negatives)) for each in asked]
    return locator.locate(image, asked, tuple(negatives), most)


def with_and_without(
    image: Image,
    bank: DescriptionBank,
    label: str,
    locator: Locator,
    negatives: Sequence[str] = (),
    kind: str = "",
    slots: Sequence[str] = SLOTS,
    most: int = MOST,
) -> tuple[Located, Located]:
    """A class by its name alone, and with its attribute words: each asked by itself, so that neither sees the other.

    kind, slots : as `described` has them. Raises ExplainError where the bank has no such class.
    """
    if label not in bank.classes:
        raise ExplainError(f"{label!r} is no class of the description bank of {bank.task!r}.")
    full = described(bank, label, kind, slots)
    (plain,) = locate(image, Phrase(full.name), locator, negatives, most)
    (rich,) = locate(image, full, locator, negatives, most)
    return plain, rich


def _many(phrases: Phrase | str | Sequence[Phrase | str]) -> Sequence[Phrase | str]:
    return [phrases] if isinstance(phrases, (Phrase, str)) else phrases


def _nowhere(image: Image, phrase: Phrase, locator: Locator, negatives: tuple[str, ...]) -> Located:
    heat = over_image(np.zeros(grid_of(image.shape)), image.shape, phrase, locator.name, "rest")
    boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    note = "The image is the same everywhere: there is nothing to point at."
    return Located(phrase, locator.name, locator.model, heat, boxes, scores, None, negatives, (note,))
