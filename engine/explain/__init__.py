"""Maps by name. An explanation is a function

    explain(backbone, inputs (B, 3, S, S), targets (T, D), visual_prompt=None) -> float32 Tensor (B, T, h, w)

whose values are as the method makes them, not normalised: drawing decides the scale. The annotation of its first
parameter is the capability that it needs; `explanations_for` keeps those a backbone can carry, the first of which is what is shown
unasked. So the order is by how faithful they are (docs/faithful.md), those that know no class after those that do, and occlusion
last, which takes too long unasked.
"""

from __future__ import annotations

import inspect
import typing

import numpy as np
import torch

from engine.backbones.base import Backbone
from engine.errors import ExplainError
from engine.prompts import PromptSet
from engine.registry import Registry
from engine.types import Heatmap, Input

EXPLANATIONS = Registry(
    "explanation",
    ExplainError,
    {
        "integrated-gradients": "engine.explain.integrated_gradients:integrated_gradients",
        "legrad": "engine.explain.legrad:legrad",
        "grad-eclip": "engine.explain.grad_eclip:grad_eclip",
        "grad-cam": "engine.explain.grad_cam:grad_cam",
        "patch-similarity": "engine.explain.patch_similarity:patch_similarity",
        "rollout": "engine.explain.rollout:rollout",
        "attention": "engine.explain.attention:attention",
        "occlusion": "engine.explain.occlusion:occlusion",
    },
)

DEFAULT = next(iter(EXPLANATIONS))  # shown unasked, where the backbone can carry it
TARGETS = ("rest", "class", "runner-up")


def explanations_for(backbone: Backbone) -> list[str]:
    """Names of the maps that this backbone can carry, in menu order."""
    names = []
    for name, method in EXPLANATIONS.items():
        needed = next(iter(inspect.signature(method).parameters))
        if isinstance(backbone, typing.get_type_hints(method)[needed]):
            names.append(name)
    return names


def target_vectors(prompts: PromptSet, labels: list[str], kind: str, scores: np.ndarray) -> np.ndarray:
    """(T, D): what each map asks about. scores (C,) of this image name the runner-up.

    "class": the class embedding; "rest": less the mean of the others; "runner-up": less the strongest other.
    Raises ExplainError where the head has no class embeddings.
    """
    vectors = prompts.class_embeddings
    if vectors is None:
        raise ExplainError(f"The prompt set {prompts.name!r} has no class embeddings, so that no map can be made.")
    if kind not in TARGETS:
        raise ExplainError(f"There is no map target called {kind!r}.", f"Choose one of: {', '.join(TARGETS)}.")
    rows = []
    for label in labels:
        if label not in prompts.labels:
            raise ExplainError(f"{label!r} is no class of the prompt set {prompts.name!r}.")
        c = prompts.labels.index(label)
        others = [i for i in range(len(vectors)) if i != c]
        if kind == "class" or not others:
            rows.append(vectors[c])
        elif kind == "rest":
            rows.append(vectors[c] - vectors[others].mean(axis=0))
        else:
            rows.append(vectors[c] - vectors[max(others, key=lambda i: scores[i])])
    return np.stack(rows)


def explain(
    prepared: Input,
    backbone: Backbone,
    prompts: PromptSet,
    labels: list[str],
    method: str = "",
    target: str = "rest",
) -> list[Heatmap]:
    """One map a label for one prepared image. method : "" for the first that the backbone can carry. Raises ExplainError."""
    prompts.check(backbone)
    method = method or explanations_for(backbone)[0]
    if method in EXPLANATIONS and method not in explanations_for(backbone):
        raise ExplainError(f"The backbone {backbone.id!r} cannot carry the map {method!r}.")
    make = EXPLANATIONS[method]
    x = torch.from_numpy(prepared.pixels)[None]
    with torch.no_grad():
        scores = (
            prompts.scores(backbone.encode_images(x, prompts.visual_prompt).cpu().numpy())[0]
            if target == "runner-up"
            else np.empty(0)
        )
    vectors = torch.from_numpy(target_vectors(prompts, labels, target, scores))
    maps = make(backbone, x, vectors, prompts.visual_prompt).cpu().numpy()[0]
    return [Heatmap(values, prepared.box, label, method, target) for values, label in zip(maps, labels, strict=True)]
