"""int8 beside fp32, both in ONNX Runtime, for bench: how much faster, and how often the answer is the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine.backbones import _onnx, _onnx_export
from engine.exporting import compared_on
from engine.preprocess import random_views

CROPS = 32  # of each sample image


def _both(backbone: Any, place: str) -> list[_onnx.OnnxTower]:
    """The tower in fp32 and in int8 (dynamic)."""
    images, on = compared_on(backbone.preprocess)
    made = [_onnx_export.export(backbone, each, images, on, out=Path(place) / each) for each in ("fp32", "int8")]
    return [_onnx.OnnxTower(each, "cpu") for each in made]


def speedup(full_size: Callable[[], Any], medians: Callable[..., list[float]]) -> dict[str, Any]:
    """fp32 over int8 at a batch of 1; the parts have a batch of 8 as well."""
    with tempfile.TemporaryDirectory() as place:
        fp32, int8 = _both(full_size(), place)
        x = compared_on(fp32.preprocess)[0][:8]
        one = medians(lambda: fp32.encode_arrays(x[:1]), lambda: int8.encode_arrays(x[:1]))
        eight = medians(lambda: fp32.encode_arrays(x), lambda: int8.encode_arrays(x), rounds=3)
    named = {"fp32_ms": one[0], "int8_ms": one[1], "fp32_batch8_ms": eight[0], "int8_batch8_ms": eight[1]}
    return {"value": one[0] / one[1], "floor": None, "goal": "report", "batch8": eight[0] / eight[1]} | {
        k: 1e3 * v for k, v in named.items()
    }


def top1_agreement() -> dict[str, Any]:
    """The share of the same decisions on scope-mini: every shared-image set of the library on crops of the sample images."""
    backbone = engine.load_backbone("scope-mini")
    pictures = [engine.read_image(each.path) for each in engine.samples()]
    crops = np.concatenate([random_views(each, backbone.preprocess, CROPS, i) for i, each in enumerate(pictures)])
    sets = [prompts for prompts in map(engine.PromptSet.load, engine.library()) if prompts.is_shared_image]
    sets = [prompts for prompts in sets if prompts.card["backbone"]["weights_hash"] == backbone.weights_hash]
    with tempfile.TemporaryDirectory() as place:
        found = [tower.encode_arrays(crops.astype(np.float32)) for tower in _both(backbone, place)]
    same = [np.equal(*(prompts.scores(each).argmax(axis=1) for each in found)) for prompts in sets]
    return {
        "value": float(np.mean(same)),
        "floor": None,
        "goal": "report",
        "images": float(len(crops)),
        "prompt_sets": float(len(sets)),
    }
