"""BiomedCLIP: PubMedBERT_256 and ViT-B/16 trained on PMC-15M. Zhang et al., arXiv:2303.00915; weights MIT.

Where its files are looked for, in this order; the first that is there is used, and said in `source`:
1. the folder PROMPTSCOPE_BIOMEDCLIP names (any open_clip local-dir folder);
2. the hub's offline cache at the pinned revision;
3. the hub itself at the pinned revision, unless HF_HUB_OFFLINE is set.
A revision is pinned because a prompt set belongs to exact weights.
"""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub

from engine.backbones._openclip import TimmBertCLIP
from engine.errors import BackboneError
from engine.tasks import ASSETS

HUB_ID = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
REVISION = "9f341de24bfb00180f1b847274256e9b65a3a32e"
FILES = ["open_clip_config.json", "open_clip_pytorch_model.bin", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
TEXT_CONFIG = ASSETS / "backbones" / "biomedclip" / "text_config.json"  # BERT-base, as the config names it


def _snapshot(local_only: bool) -> Path:
    return Path(
        huggingface_hub.snapshot_download(HUB_ID, revision=REVISION, allow_patterns=FILES, local_files_only=local_only)
    )


def present() -> Path | None:
    """The folder with its files where they are on this machine; never asks the network."""
    named = os.environ.get("PROMPTSCOPE_BIOMEDCLIP")
    if named:
        return Path(named) if Path(named).is_dir() else None
    try:
        folder = _snapshot(local_only=True)
    except (huggingface_hub.errors.LocalEntryNotFoundError, OSError, ValueError):
        return None
    return folder if all((folder / name).is_file() for name in FILES[:3]) else None


def load(device: str, dtype: str) -> TimmBertCLIP:
    """Raises BackboneError, which says what to do, where no source can be reached."""
    named = os.environ.get("PROMPTSCOPE_BIOMEDCLIP")
    if named:
        if not Path(named).is_dir():
            raise BackboneError(f"PROMPTSCOPE_BIOMEDCLIP names {named!r}, which is no folder.")
        return TimmBertCLIP("biomedclip", Path(named), f"local folder {named}", device, dtype, text_config=TEXT_CONFIG)
    folder, source = present(), f"offline cache of {HUB_ID} at {REVISION[:8]}"
    if folder is None:
        try:
            folder, source = _snapshot(local_only=False), f"hub, {HUB_ID} at {REVISION[:8]}"
        except Exception as error:  # the hub's client raises a dozen kinds; each means that it was not reached
            raise BackboneError(
                f"BiomedCLIP is not on this machine and the model hub cannot be reached ({type(error).__name__}).",
                f"Connect once, or copy {HUB_ID} (revision {REVISION[:8]}) into a folder and set "
                "PROMPTSCOPE_BIOMEDCLIP to it.",
            ) from error
    return TimmBertCLIP("biomedclip", folder, source, device, dtype, text_config=TEXT_CONFIG)
