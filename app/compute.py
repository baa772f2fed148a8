"""The work behind the page, as functions that a ZeroGPU Space can run in its GPU worker.

They take names, not models: the worker is forked from this process and finds the loaded backbone there, and what crosses
the border is small and can be pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

import engine
from app import models

F = TypeVar("F", bound=Callable[..., Any])


def _on_gpu(function: F) -> F:
    """`spaces.GPU` where it is installed (it must be seen at import); elsewhere nothing changes."""
    try:
        import spaces
    except ImportError:
        return function
    return spaces.GPU(duration=30)(function)


@dataclass(frozen=True)
class Asked:
    """Which model and which question. device : "cpu" or "cuda"; target : of the map, "" for no map."""

    backbone: str
    prompts: str
    device: str
    precision: str
    target: str = ""


@dataclass(frozen=True)
class Found:
    """placed : the map in image coordinates (H, W), NaN where unseen, or None where none is offered."""

    prepared: engine.Input
    prediction: engine.Prediction
    beside: engine.Prediction | None
    placed: np.ndarray | None


@_on_gpu
def classify(image: engine.Image, asked: Asked) -> Found:
    """Probabilities, those of zero-shot beside them, and the map of the most probable class. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    prompts = models.prompts(asked.prompts, asked.backbone, asked.device, asked.precision)
    prompts.check(backbone)
    prepared = engine.prepare(image, backbone.preprocess)
    features = engine.embed([prepared], backbone, prompts.visual_prompt)[0]
    prediction = engine.read_off(features, backbone, prompts)
    zero = models.zero_shot_beside(prompts, asked.backbone, asked.device, asked.precision)
    plain = features if prompts.is_shared_image or not zero else engine.embed([prepared], backbone)[0]
    beside = engine.read_off(plain, backbone, zero) if zero else None
    placed = _map(prepared, image.shape, backbone, prompts, prediction.ranked()[0][0], asked.target)
    return Found(prepared, prediction, beside, placed)


@_on_gpu
def draw(prepared: engine.Input, shape: tuple[int, int], label: str, asked: Asked) -> np.ndarray | None:
    """The map of another class, or against another target. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    prompts = models.prompts(asked.prompts, asked.backbone, asked.device, asked.precision)
    return _map(prepared, shape, backbone, prompts, label, asked.target)


def _map(
    prepared: engine.Input,
    shape: tuple[int, int],
    backbone: engine.Backbone,
    prompts: engine.PromptSet,
    label: str,
    target: str,
) -> np.ndarray | None:
    offered = engine.explanations_for(backbone)
    if not target or not offered or prompts.class_embeddings is None:
        return None
    return engine.place(engine.explain(prepared, backbone, prompts, [label], offered[0], target)[0], shape)
