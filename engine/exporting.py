"""An image tower for ONNX Runtime, from the name of a backbone: exported, and compared with torch on pictures and on noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.backbones import BACKBONES, load_backbone
from engine.preprocess import Preprocess, prepare
from engine.readers import files_below
from engine.samples import samples
from engine.sandbox import read_image

NOISE = 12  # images of noise beside the samples
CALIBRATION_MOST = 32  # images; more change the scales little


def compared_on(preprocess: Preprocess) -> tuple[np.ndarray, str]:
    """(N, 3, S, S) float32 inputs that are the same at every export, and what they are in words."""
    pictures = [prepare(read_image(each.path), preprocess).pixels for each in samples()]
    noise = np.random.default_rng(0).standard_normal((NOISE, 3, preprocess.size, preprocess.size)).astype(np.float32)
    return np.concatenate([*(each[None] for each in pictures), noise]), f"{len(pictures)} sample images and {NOISE} of noise"


def export_onnx(
    name: str, precision: str = "fp32", out: Path | None = None, calibrate: Path | None = None
) -> dict[str, Any]:
    """Exports a backbone's image tower for `onnx:<name>` and returns its card, with the folder as `folder`.

    precision : "fp32", "fp16" or "int8"; calibrate : a folder of images that int8 takes its scales from, else from each batch
    Raises BackboneError, also where fp32 or fp16 does not agree with torch; ImageError where one of the folder's files cannot be read.
    """
    from engine.backbones import _onnx_export

    backbone: Any = load_backbone(name)
    images, images_are = compared_on(backbone.preprocess)
    given = calibrated_on(calibrate, backbone.preprocess) if calibrate else None
    licence = BACKBONES[name].published().licence if name in BACKBONES else ""
    made = _onnx_export.export(backbone, precision, images, images_are, licence, out, given)
    return made.card | {"folder": str(made.folder)}


def calibrated_on(folder: Path, preprocess: Preprocess) -> np.ndarray:
    """(N, 3, S, S) float32 inputs, evenly spread over the folder's files. Raises ImageError."""
    files, _ = files_below([folder])
    chosen = files[:: max(1, len(files) // CALIBRATION_MOST)][:CALIBRATION_MOST]
    return np.stack([prepare(read_image(file), preprocess).pixels for file in chosen])
