"""scope-mini: the embedded default, a compact CLIP of BiomedCLIP's shape trained by this project.

Its folder (assets/backbones/scope-mini) is in the repository: weights, tokenizer, model card and their own licence.
For demonstration, tests and research; not a medical device.
"""

from __future__ import annotations

from pathlib import Path

from engine.backbones._openclip import TimmBertCLIP
from engine.tasks import ASSETS

FOLDER = ASSETS / "backbones" / "scope-mini"


def load(device: str, dtype: str) -> TimmBertCLIP:
    return TimmBertCLIP("scope-mini", FOLDER, "in this repository (assets/backbones/scope-mini)", device, dtype)


def present() -> Path | None:
    return FOLDER if FOLDER.is_dir() else None
