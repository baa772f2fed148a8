"""The work behind the page, as functions that a ZeroGPU Space can run in its GPU worker.

They take names, not models: the worker is forked from this process and finds the loaded backbone there, and what crosses
the border is small and can be pickled. Visitors take turns: two computations never share the cores.
"""

from __future__ import annotations

import importlib.util
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


ON_ZERO = importlib.util.find_spec("spaces") is not None  # a ZeroGPU Space: the GPU is lent for seconds at a time
CHUNK_S = 25  # of training, within the 30 s that it is lent


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
    """Which model and which question. device : "cpu" or "cuda"; target : of the map, "" for no map; folder : of the
    visitor's own prompt sets, "" for none; task : his own that the question is about, or None."""

    backbone: str
    prompts: str
    device: str
    precision: str
    target: str = ""
    folder: str = ""
    task: engine.Task | None = None


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
    prompts = models.prompts(asked)
    prompts.check(backbone)
    prepared = engine.prepare(image, backbone.preprocess)
    features = engine.embed([prepared], backbone, prompts.visual_prompt)[0]
    prediction = engine.read_off(features, backbone, prompts)
    zero = models.zero_shot_beside(prompts, asked)
    plain = features if prompts.is_shared_image or not zero else engine.embed([prepared], backbone)[0]
    beside = engine.read_off(plain, backbone, zero) if zero else None
    heatmap = _map(prepared, backbone, prompts, prediction.ranked()[0][0], asked.target)
    return Found(prepared, prediction, beside, heatmap)


@_in_turn
def draw(prepared: engine.Input, label: str, asked: Asked) -> engine.Heatmap | None:
    """The map of another class, or against another target. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    prompts = models.prompts(asked)
    return _map(prepared, backbone, prompts, label, asked.target)


@_in_turn
def score(inputs: list[engine.Input], asked: Asked) -> np.ndarray:
    """Probabilities (B, C) of many frames. Raises EngineError."""
    return _score(inputs, [asked])[0]


@_in_turn
def score_all(inputs: list[engine.Input], asked: list[Asked]) -> list[np.ndarray]:
    """As `score`, for several questions of one backbone: shared-image sets share an image forward. Raises EngineError."""
    return _score(inputs, asked)


@_in_turn
def features(
    examples: list[engine.Example], asked: Asked, store: engine.Store, visual_prompt: engine.VisualPrompt | None = None
) -> np.ndarray:
    """(N, D) of some cases of a workspace, whose store keeps them. Ask for a few at a time: others wait. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    return engine.features_of(examples, backbone, visual_prompt=visual_prompt, store=store)


@_in_turn
def from_words(task: engine.Task, asked: Asked, method: str = "zero-shot") -> engine.PromptSet:
    """The set of a task that only its workspace knows, by a method that learns from words in a moment. Raises EngineError."""
    return engine.METHODS[method]().learn(models.backbone(asked.backbone, asked.device, asked.precision), task)


@_in_turn
def side_by_side(
    image: engine.Image, sets: list[engine.PromptSet], asked: Asked, label: str
) -> tuple[engine.Input, list[engine.Answer]]:
    """What each set says of an image, with maps of the label, "" for each one's most probable class. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    prepared = engine.prepare(image, backbone.preprocess)
    offered = engine.explanations_for(backbone)
    return prepared, engine.compare_image(prepared, backbone, sets, offered[0] if offered else None, label)


@_in_turn
def judge(
    examples: list[engine.Example], candidates: list[engine.Candidate], asked: Asked, store: engine.Store
) -> engine.Comparison:
    """Candidates on labelled cases whose features the store has by now. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    return engine.compare_cases(examples, backbone, candidates, store)


@_in_turn
def chunk(work: engine.Work) -> bool:
    """A part of a training, in this process; True when it is over. For the queue, where no worker process may compute."""
    return engine.carry_out(work, CHUNK_S, models.backbone)


def _score(inputs: list[engine.Input], asked: list[Asked]) -> list[np.ndarray]:
    backbone = models.backbone(asked[0].backbone, asked[0].device, asked[0].precision)
    sets = [models.prompts(each) for each in asked]
    return engine.scorer(backbone, sets)(inputs)


def _map(
    prepared: engine.Input, backbone: engine.Backbone, prompts: engine.PromptSet, label: str, target: str
) -> engine.Heatmap | None:
    offered = engine.explanations_for(backbone)
    if not target or not offered or prompts.class_embeddings is None:
        return None
    return engine.explain(prepared, backbone, prompts, [label], offered[0], target)[0]
