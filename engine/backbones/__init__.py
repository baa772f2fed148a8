"""Backbones by name. A name is an entry of BACKBONES, `local-dir:FOLDER` (open_clip's local-dir layout), or open_clip's
own: `open_clip:MODEL/TAG` or `open_clip:hf-hub:OWNER/NAME`."""

from __future__ import annotations

from pathlib import Path

from engine.backbones.base import Backbone
from engine.errors import BackboneError
from engine.registry import Registry

# Each has load(device, dtype) -> Backbone and present() -> Path | None (its files on this machine).
BACKBONES = Registry(
    "backbone",
    BackboneError,
    {
        "scope-mini": "engine.backbones.scope_mini",
        "biomedclip": "engine.backbones.biomedclip:MODEL",
        "clip-vit-b16": "engine.backbones.clip_vit:B16",
        "clip-vit-b32": "engine.backbones.clip_vit:B32",
        "pubmedclip": "engine.backbones.pubmedclip",
        "pmc-clip": "engine.backbones.pmc_clip",
        "pmc-clip-l14": "engine.backbones.pmc_clip_l14:MODEL",
    },
)


def load_backbone(name: str, device: str = "cpu", dtype: str = "float32") -> Backbone:
    """The backbone, frozen, on `device` ("cpu", "cuda") in `dtype` ("float32", "bfloat16", "float16").

    Both are taken as asked: nothing falls back silently. Raises BackboneError.
    """
    if name.startswith("local-dir:"):
        from engine.backbones import _openclip

        folder = Path(name.removeprefix("local-dir:"))
        return _openclip.load(name, f"local folder {folder}", _openclip.local_dir(folder), device, dtype)
    if name.startswith("open_clip:"):
        from engine.backbones import _hub

        return _hub.load_open_clip(name.removeprefix("open_clip:"), device, dtype)
    return BACKBONES[name].load(device, dtype)
