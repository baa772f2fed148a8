"""Windows by name: what a file brings, presets for CT, and the automatic one.

A window turns values into grey; what it shows is what is classified. Only CT's values mean the same on every machine (Hounsfield
units), so presets are for CT and for volumes that look like it; elsewhere there are the file's windows and the automatic one.
Figures: the usual teaching values (Radiopaedia, "Windowing (CT)"); centre and width in HU.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np

from engine.errors import ImageError
from engine.types import About, Image, Window

AUTOMATIC = Window(math.nan, math.nan, "LINEAR_EXACT", "automatic", "automatic")  # the reader fills in the numbers

# name: centre, width, and the body parts (0018,0015) for which it comes first
PRESETS: dict[str, tuple[float, float, tuple[str, ...]]] = {
    "lung": (-600, 1500, ("chest", "lung", "thorax")),
    "mediastinum": (40, 400, ("chest", "heart", "thorax", "mediastinum")),
    "brain": (40, 80, ("head", "brain", "skull")),
    "stroke": (32, 8, ("head", "brain")),
    "subdural": (75, 215, ("head", "brain", "skull")),
    "temporal bone": (600, 2800, ("head", "skull", "iac", "ear")),
    "soft tissue": (50, 350, ("neck", "pelvis", "extremity")),
    "abdomen": (50, 400, ("abdomen", "pelvis", "abdomenpelvis", "kidney")),
    "liver": (30, 150, ("abdomen", "liver")),
    "spine": (50, 250, ("spine", "cspine", "tspine", "lspine")),
    "bone": (
        400,
        1800,
        ("spine", "cspine", "tspine", "lspine", "extremity", "hip", "knee", "shoulder", "hand", "foot", "skull"),
    ),
}


def preset(name: str) -> Window:
    center, width, _ = PRESETS[name]
    return Window(center, width, "LINEAR", "preset", name)


def offered(about: About) -> tuple[Window, ...]:
    """What to choose from for a file: its own windows, then presets with those of its body part first, then automatic."""
    if not about.deep:
        return ()
    names = list(PRESETS) if about.modality == "CT" or about.hounsfield else []
    names.sort(key=lambda name: about.body_part not in PRESETS[name][2])
    return (*about.windows, *map(preset, names), AUTOMATIC)


def named(words: str) -> Window:
    """A preset's name, "automatic", or CENTRE,WIDTH as in "40,400" ("40 / 400" and "40 400" are understood). Raises
    ImageError."""
    name = words.strip().lower()
    if name in PRESETS:
        return preset(name)
    if name == "automatic":
        return AUTOMATIC
    try:
        center, width = (float(part) for part in re.split(r"\s*[,/]\s*|\s+", name))
    except ValueError:
        raise ImageError(
            f"The window {words[:40]!r} is not understood.",
            f"Write CENTRE,WIDTH, as in 40,400, or a name: {', '.join([*PRESETS, 'automatic'])}.",
        ) from None
    return by_hand(center, width)


def by_hand(center: float, width: float) -> Window:
    """As sliders set it: exact, so that values between 0 and 1 have windows, too."""
    return Window(center, width, "LINEAR_EXACT")


def inverted(image: Image) -> Image:
    """Dark and bright exchanged, as somebody asked."""
    return replace(image, pixels=np.float32(1) - image.pixels, notes=(*image.notes, "Inverted by hand."))
