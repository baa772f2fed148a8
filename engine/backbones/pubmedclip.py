"""PubMedCLIP ViT-B/32: OpenAI's CLIP fine-tuned on ROCO. Eslami et al., EACL Findings 2023, arXiv:2112.13906.

One file, a training checkpoint whose state_dict has OpenAI's names, which are open_clip's; QuickGELU as in OpenAI's code.
The folder PROMPTSCOPE_PUBMEDCLIP holds the same file. The full name of a revision was not published where this was
built, so the newest is taken (three commits, the last of August 2024 changed the README only).
"""

from __future__ import annotations

from pathlib import Path

import open_clip

from engine.backbones import _hub
from engine.backbones._openclip import CLIP_PREPROCESS, Files, OpenCLIP, read_weights
from engine.backbones._openclip import load as load_files
from engine.errors import BackboneError

ID = "pubmedclip"
ARCHITECTURE = "ViT-B-32-quickgelu"
FILE = "PubMedCLIP_ViT32.pth"
REPOSITORY = _hub.Repository("sarahESL/PubMedCLIP", None, (FILE,))


def present() -> Path | None:
    return _hub.present(ID, REPOSITORY)


def published() -> _hub.Published:
    return _hub.Published((REPOSITORY,), 512, _hub.UNSTATED)


def load(device: str, dtype: str) -> OpenCLIP:
    """Raises BackboneError."""
    (folder,), source = _hub.find(ID, REPOSITORY)
    weights = folder / FILE
    if not weights.is_file():
        raise BackboneError(f"The folder {str(folder)!r} has no {FILE}.", f"Copy it from {REPOSITORY}.")
    config = {"model_cfg": open_clip.get_model_config(ARCHITECTURE), "preprocess_cfg": CLIP_PREPROCESS}
    return load_files(ID, source, Files(config, lambda: read_weights(weights)), device, dtype)
