"""The work behind the page, as functions that a ZeroGPU Space can run in its GPU worker.

They take names, not models: the worker is forked from this process and finds the loaded backbone there, and what crosses
the border is small and can be pickled. Visitors take turns (app.turns): two computations never share the cores. Preparing an
image and reading probabilities off its features need no turn; a set's texts are encoded once, by whoever asks first.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

import engine
from app import metrics, models, seen
from app.turns import Turns

F = TypeVar("F", bound=Callable[..., Any])
turns = Turns()


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
        with turns.alone(function.__name__):
            return work(*values)

    return cast("F", waiting)


def _with_others(function: F) -> F:
    """Takes turns for its parts, so that images of several visitors share a forward. On a ZeroGPU Space, which lends the GPU
    to one function at a time, it is one turn."""
    return _in_turn(function) if ON_ZERO else function


def _alone(work: str) -> AbstractContextManager[None]:
    return nullcontext() if ON_ZERO else turns.alone(work)


@dataclass(frozen=True)
class Asked:
    """Which model and which question. device : "cpu" or "cuda"; target : of the map, "" for no map; method : of the map, "" for the
    first that the backbone can carry; folder : of the visitor's own prompt sets, "" for none; task : his own that the question is
    about, or None; visitor : whose images these are (app.seen), "" for nobody's."""

    backbone: str
    prompts: str
    device: str
    precision: str
    target: str = ""
    method: str = ""
    folder: str = ""
    task: engine.Task | None = None
    visitor: str = ""


@dataclass(frozen=True)
class Found:
    """heatmap : of the most probable class, or None where none is offered."""

    prepared: engine.Input
    prediction: engine.Prediction
    beside: engine.Prediction | None
    heatmap: engine.Heatmap | None


@_with_others
def classify(image: engine.Image, asked: Asked) -> Found:
    """Probabilities, those of zero-shot beside them, and the map of the most probable class. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    prompts = models.prompts(asked)
    prompts.check(backbone)
    zero = models.zero_shot_beside(prompts, asked)
    with turns.coming():
        prepared = engine.prepare(image, backbone.preprocess)
        features = _encoded([prepared], backbone, asked, prompts.visual_prompt)[0]
    plain = features if prompts.is_shared_image or not zero else _encoded([prepared], backbone, asked)[0]
    with _reading([prompts]):
        prediction = engine.read_off(features, backbone, prompts)
    beside = engine.read_off(plain, backbone, zero) if zero else None
    heatmap = None
    if _has_map(backbone, prompts, asked.target):
        with _alone("map"):
            heatmap = _map(prepared, backbone, prompts, prediction.ranked()[0][0], asked)
    return Found(prepared, prediction, beside, heatmap)


@_in_turn
def draw(prepared: engine.Input, label: str, asked: Asked) -> engine.Heatmap | None:
    """The map of another class, or against another target. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    prompts = models.prompts(asked)
    return _map(prepared, backbone, prompts, label, asked) if _has_map(backbone, prompts, asked.target) else None


@_in_turn
def locate(
    image: engine.Image, phrases: list[str], locator: str, most: int, asked: Asked, negatives: Sequence[str] = ()
) -> list[engine.Located]:
    """Where an image resembles each phrase, by a backbone's windows or patches. negatives : what it is held against, else
    neutral phrases. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    return engine.locate(image, phrases, engine.load_locator(locator, backbone), negatives, most)


@_with_others
def score(inputs: list[engine.Input], asked: Asked) -> np.ndarray:
    """Probabilities (B, C) of many frames. Raises EngineError."""
    return _score(inputs, [asked])[0]


@_with_others
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
def filled(task: engine.Task, language: engine.Generator) -> engine.DescriptionBank:
    """The task's slots by a masked language model. Raises EngineError."""
    return language.fill(task)


@_in_turn
def proposed(
    task: engine.Task,
    examples: list[engine.Example],
    features: np.ndarray,
    asked: Asked,
    far: Callable[[int, int], None] | None = None,
) -> engine.Proposal:
    """Which words of a task help on labelled cases. far(done, all) : told of the prompts that are encoded. Raises EngineError."""
    return engine.propose_words(
        models.backbone(asked.backbone, asked.device, asked.precision), task, examples, features, progress=far
    )


@_with_others
def side_by_side(
    image: engine.Image, sets: list[engine.PromptSet], asked: Asked, label: str
) -> tuple[engine.Input, list[engine.Answer]]:
    """What each set says of an image, with maps of the label, "" for each one's most probable class. Raises EngineError."""
    backbone = models.backbone(asked.backbone, asked.device, asked.precision)
    with turns.coming():
        prepared = engine.prepare(image, backbone.preprocess)
        encode = _encoder([prepared], backbone, asked, sets)
    first = "" if engine.explanations_for(backbone) else None
    with _alone("map"):
        return prepared, engine.compare_image(prepared, backbone, sets, first, label, encode)


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
    encode = _encoder(inputs, backbone, asked[0], sets)
    with _reading(sets):
        return engine.scorer(backbone, sets, encode)(inputs)


def _reading(sets: list[engine.PromptSet]) -> AbstractContextManager[None]:
    """Probabilities off features are a moment's work, unless the text tower takes part (CoCoOp)."""
    return _alone("texts") if any(each.card["head"] == "conditional" for each in sets) else nullcontext()


def _encoder(
    inputs: list[engine.Input], backbone: engine.Backbone, asked: Asked, sets: list[engine.PromptSet]
) -> Callable[..., np.ndarray]:
    """What gives the engine the features of these inputs, encoded by now, for each visual prompt among the sets. Raises
    PromptSetError."""
    known: dict[Hashable, np.ndarray] = {}
    for each in sets:
        each.check(backbone)
    for prompt in (each.visual_prompt for each in sets):
        if _words(prompt) not in known:
            known[_words(prompt)] = _encoded(inputs, backbone, asked, prompt)
    return lambda _inputs, _backbone, prompt=None: known[_words(prompt)]


def _encoded(
    inputs: list[engine.Input], backbone: engine.Backbone, asked: Asked, prompt: engine.VisualPrompt | None = None
) -> np.ndarray:
    """(B, D) float32: those that this visitor had encoded before are remembered, the others are encoded with what other
    visitors wait for."""
    if ON_ZERO:
        return engine.embed(inputs, backbone, prompt)
    tower = (asked.backbone, backbone.weights_hash, backbone.device, backbone.dtype, _words(prompt))
    keys = [(*tower, hashlib.sha256(each.pixels.tobytes()).digest()) for each in inputs]
    known = seen.of(asked.visitor)
    rows = {key: row for key in keys if (row := known.get(key)) is not None}
    missing = {key: each for key, each in zip(keys, inputs, strict=True) if key not in rows}
    metrics.REMEMBERED.labels("hit").inc(len(keys) - len(missing))
    metrics.REMEMBERED.labels("miss").inc(len(missing))
    if missing:
        made = turns.encode(tower, list(missing.values()), lambda every: engine.embed(every, backbone, prompt))
        for key, row in zip(missing, made, strict=True):
            known.put(key, row)
            rows[key] = row
    return np.stack([rows[key] for key in keys])


def _words(prompt: engine.VisualPrompt | None) -> Hashable:
    """Equal for equal prompts."""
    if prompt is None:
        return None
    digest = hashlib.sha256(prompt.tokens.tobytes()).digest()
    return digest, prompt.tokens.shape, prompt.insert, prompt.literal


def _has_map(backbone: engine.Backbone, prompts: engine.PromptSet, target: str) -> bool:
    return bool(target and engine.explanations_for(backbone) and prompts.class_embeddings is not None)


def _map(
    prepared: engine.Input, backbone: engine.Backbone, prompts: engine.PromptSet, label: str, asked: Asked
) -> engine.Heatmap:
    return engine.explain(prepared, backbone, prompts, [label], asked.method, asked.target)[0]
