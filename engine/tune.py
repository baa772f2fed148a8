"""Labelled images to a prompt set: read, encode once, learn. The only place where files, features and methods meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.backbones.base import Backbone
from engine.data import SAMPLERS, check_examples
from engine.errors import DataError
from engine.features import Progress, features_of, views_of
from engine.methods.base import LabelledFeatures, visual_prompt
from engine.prompts import PromptSet
from engine.store import Store
from engine.tasks import Label, Task, descriptions
from engine.training import Watch
from engine.types import Example

VIEWS = 8  # of each image: the plain one and seven crops; the accuracy beside exact mode is in LOG.md
EXACT = -1  # every crop of every epoch, as upstream trains


def task_of(examples: Sequence[Example], name: str = "own") -> Task:
    """A task made of the examples' own labels, in alphabetical order, for data that no known task describes."""
    labels = tuple(Label(label, label) for label in sorted({e.label for e in examples}))
    return Task(name, name, "any", "any", labels, "a photo of a {}.")


def labelled(
    method: Any,
    backbone: Backbone,
    task: Task,
    train: Sequence[Example],
    validation: Sequence[Example],
    views: int = VIEWS,
    seed: int = 1,
    progress: Progress | None = None,
    store: Store | None = None,
) -> LabelledFeatures:
    """The images as a method learns from them. views : how many of each; EXACT renders one for every epoch, and that only
    for a method that has epochs. Raises ImageError, DataError."""
    prompt = visual_prompt(method, backbone)
    exact = views == EXACT and hasattr(method, "recipe")
    count = method.recipe.epochs if exact else max(1, views)
    made = views_of(train, backbone, count, seed, progress, prompt, store, all_random=exact)
    held = features_of(validation, backbone, visual_prompt=prompt, store=store) if validation else None
    return LabelledFeatures(made, targets(train, task), held, targets(validation, task) if validation else None, exact)


def targets(examples: Sequence[Example], task: Task) -> np.ndarray:
    """(N,) int64. Raises DataError for a label that the task does not have."""
    names = {name: i for i, name in enumerate(task.names)}
    unknown = sorted({e.label for e in examples} - names.keys())
    if unknown:
        raise DataError(f"{unknown[0]!r} is no class of the task {task.id!r}.", f"Its classes are: {', '.join(names)}.")
    return np.asarray([names[e.label] for e in examples], dtype=np.int64)


def tune(
    method: Any,
    backbone: Backbone,
    task: Task,
    examples: Sequence[Example] = (),
    shots: int = 16,
    seed: int = 1,
    sampler: str = "grouped",
    views: int = VIEWS,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> PromptSet:
    """The prompt set that the method learns from `shots` images a class of the examples, or from words alone.

    progress : of the encoding; watch : of the training. Raises DataError before anything is encoded where the data cannot
    teach.
    """
    if not method.needs_images:
        return method.learn(backbone, task, seed=seed, watch=watch)
    if sampler not in SAMPLERS:
        raise DataError(f"There is no sampler {sampler!r}.", f"Choose one of: {', '.join(SAMPLERS)}.")
    check_examples(list(examples))
    absent = sorted(set(task.names) - {task.names[i] for i in targets(examples, task)})
    if absent:
        raise DataError(f"No image shows {absent[0]!r}.", "Give each class at least one image.")
    if method.needs_descriptions:
        descriptions(task)
    train, validation = SAMPLERS[sampler](list(examples), shots, seed)
    data = labelled(method, backbone, task, train, validation, views, seed, progress)
    made = method.learn(backbone, task, data, seed, watch)
    about = made.card["data"] | {"sampler": sampler, "views": "exact" if views == EXACT else views}
    return replace(made, card=made.card | {"data": about})
