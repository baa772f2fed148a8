"""The work behind the page, as functions that a ZeroGPU Space can run in its GPU worker.

They take names, not models: the worker is forked from this process and finds the loaded backbone there, and what crosses
the border is small and can be pickled. Visitors take turns: two computations never share the cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

import engine
from app import models

F = TypeVar("F", bound=Callable[..., Any])
_turn = threading.Semaphore(1)


def _in_turn(function: F) -> F:
    """One at a time; in the GPU worker (`spaces.GPU`, which must be seen at import) where there is one."""
    try:
        import spaces
    except ImportError:
        work = function
    else:
        work = spaces.GPU(duration=30)(function)

    @wraps(function)
    def waiting(*values: Any) -> Any:
        with _turn:
            return work(*values)

    return cast("F", waiting)


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
    """heatmap : of the most probable class, or None where none is offered."""

    prepared: engine.Input
    prediction: engine.Prediction
    beside: engine.Prediction | None
    heatmap: engine.Heatmap | None


@_in_turn
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
    heatmap = _map(prepared, backbone, prompts, prediction.ranked()[0][0], asked.target)
    return Found(prepared, prediction, beside, heatmap)


@_in_turn
def draw(prepared: engine.Input, label: str, asked: Asked) -> engine.Heatmap | None:
    """The map of another class, or against another target. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    prompts = models.prompts(asked.prompts, asked.backbone, asked.device, asked.precision)
    return _map(prepared, backbone, prompts, label, asked.target)


@_in_turn
def score(inputs: list[engine.Input], asked: Asked) -> np.ndarray:
    """Probabilities (B, C) of many frames. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    prompts = models.prompts(asked.prompts, asked.backbone, asked.device, asked.precision)
    return engine.scorer(backbone, [prompts])(inputs)[0]


def _map(
    prepared: engine.Input, backbone: engine.Backbone, prompts: engine.PromptSet, label: str, target: str
) -> engine.Heatmap | None:
    offered = engine.explanations_for(backbone)
    if not target or not offered or prompts.class_embeddings is None:
        return None
    return engine.explain(prepared, backbone, prompts, [label], offered[0], target)[0]
