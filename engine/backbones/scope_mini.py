"""scope-mini: the embedded default, a compact CLIP of BiomedCLIP's shape trained by this project.

Its folder (assets/backbones/scope-mini) is in the repository: weights, tokenizer, model card and their own licence.
For demonstration, tests and research; not a medical device.
"""

from __future__ import annotations

import json
from pathlib import Path

from engine.backbones._hub import Published
from engine.backbones._openclip import OpenCLIP, local_dir, read_config
from engine.backbones._openclip import load as load_files
from engine.errors import BackboneError
from engine.tasks import ASSETS

FOLDER = ASSETS / "backbones" / "scope-mini"


def load(device: str, dtype: str) -> OpenCLIP:
    """Raises BackboneError, also where the weights are not those that the card speaks of."""
    found = load_files("scope-mini", "in this repository (assets/backbones/scope-mini)", local_dir(FOLDER), device, dtype)
    told = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))["weights_hash"]
    if found.weights_hash != told:
        raise BackboneError(
            f"The weights of scope-mini ({found.weights_hash[:12]}) are not those of its card ({told[:12]}).",
            "Fetch assets/backbones/scope-mini again, all of it.",
        )
    return found


def present() -> Path | None:
    return FOLDER if FOLDER.is_dir() else None


def published() -> Published:
    return Published((), read_config(FOLDER)["model_cfg"]["embed_dim"], "CC BY-NC 4.0")
