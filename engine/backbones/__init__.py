"""Backbones by name. A name is an entry of BACKBONES or `local-dir:<folder>` (open_clip's local-dir layout)."""

from __future__ import annotations

from pathlib import Path

from engine.backbones.base import Backbone
from engine.errors import BackboneError
from engine.registry import Registry

# Each module has load(device, dtype) -> Backbone and present() -> Path | None (its files on this machine).
BACKBONES = Registry(
    "backbone",
    BackboneError,
    {
        "scope-mini": "engine.backbones.scope_mini",
        "biomedclip": "engine.backbones.biomedclip",
    },
)


def load_backbone(name: str, device: str = "cpu", dtype: str = "float32") -> Backbone:
    """The backbone, frozen, on `device` ("cpu", "cuda") in `dtype` ("float32", "bfloat16", "float16").

    Both are taken as asked: nothing falls back silently. Raises BackboneError.
    """
    if name.startswith("local-dir:"):
        from engine.backbones._openclip import TimmBertCLIP

        folder = Path(name.removeprefix("local-dir:"))
        return TimmBertCLIP(name, folder, f"local folder {folder}", device, dtype)
    return BACKBONES[name].load(device, dtype)
