"""Backbones by name. A name is an entry of BACKBONES, `local-dir:FOLDER` (open_clip's local-dir layout), open_clip's
own (`open_clip:MODEL/TAG` or `open_clip:hf-hub:OWNER/NAME`), or `onnx:NAME`, any of these with its image tower exported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from engine.backbones.base import Backbone
from engine.errors import BackboneError
from engine.registry import Registry

# Each has load(device, dtype) -> Backbone, present() -> Path | None (its files on this machine) and published() -> _hub.Published.
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


@dataclass(frozen=True)
class Weights:
    """What is known of a backbone's weights without loading them. folder : on this machine, or None; place : where, in words;
    size : in bytes, of the files there; dim : of the joint space; fetched_from : repositories of the hub, none where the weights
    come with this one."""

    id: str
    folder: Path | None
    place: str
    size: int
    dim: int
    licence: str
    fetched_from: tuple[str, ...]


def weights(name: str) -> Weights:
    """Asks this machine only, never the network. Raises BackboneError."""
    if name.startswith("onnx:"):
        return _weights_of_exports(name)
    from engine.backbones import _hub

    folder, about = BACKBONES[name].present(), BACKBONES[name].published()
    files = {file for each in about.repositories for file in each.files}
    parts = [p for p in folder.rglob("*") if p.is_file() and (not files or p.name in files)] if folder else []
    variable = _hub.variable(name)
    place = "not on this machine"
    if folder:
        place = "in this repository"
        if about.repositories:
            place = f"the folder that {variable} names" if os.environ.get(variable) else "the hub's cache on this machine"
    return Weights(
        name,
        folder,
        place,
        sum(p.stat().st_size for p in parts),
        about.dim,
        about.licence,
        tuple(map(str, about.repositories)),
    )


def exported() -> list[str]:
    """The `onnx:` backbones on this machine."""
    from engine.backbones import _onnx

    return list(dict.fromkeys(f"{_onnx.PREFIX}{each.card['id']}" for each in _onnx.exports()[0]))


def _weights_of_exports(name: str) -> Weights:
    from engine.backbones import _onnx

    found = [each for each in _onnx.exports()[0] if f"{_onnx.PREFIX}{each.card['id']}" == name]
    if not found:
        raise BackboneError(f"{name!r} is not on this machine.", f"Make it with `python -m engine export {name}`.")
    place = f"exported on this machine ({', '.join(each.card['precision'] for each in found)})"
    size, card = sum(each.size for each in found), found[0].card
    return Weights(name, found[0].folder, place, size, card["dim"], card["licence"], ())


def load_backbone(name: str, device: str = "cpu", dtype: str = "float32") -> Backbone:
    """The backbone, frozen, on `device` ("cpu", "cuda") in `dtype` ("float32", "bfloat16", "float16"; "auto" takes the faster of the
    first two as measured on this machine, and the backbone's `dtype` says which).

    Both are taken as asked: nothing falls back silently. An `onnx:` backbone also has "int8". Raises BackboneError.
    """
    if name.startswith("onnx:"):
        from engine.backbones import _onnx

        return _onnx.load(name.removeprefix("onnx:"), device, dtype)
    if name.startswith("local-dir:"):
        from engine.backbones import _openclip

        folder = Path(name.removeprefix("local-dir:"))
        return _openclip.load(name, f"local folder {folder}", _openclip.local_dir(folder), device, dtype)
    if name.startswith("open_clip:"):
        from engine.backbones import _hub

        return _hub.load_open_clip(name.removeprefix("open_clip:"), device, dtype)
    return BACKBONES[name].load(device, dtype)
