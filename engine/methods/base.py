"""What a method is: it learns from words, or from labelled features, and leaves a prompt set.

A method is a class with a nested `Config` dataclass (the paper's defaults) and `learn`. One that learns by gradient is
`Trained`: it says its recipe, its learner and what is left of it; the optimiser, the device, the data loader and the disk
are unknown to it.

Legend: R runs, V views, N images, M validation images, D joint embedding, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.backbones.base import Backbone
from engine.errors import DataError
from engine.heads import Head, LinearHead
from engine.prompts import INTENDED_USE, SCHEMA_VERSION, PromptSet
from engine.tasks import Task
from engine.training import Recipe, Run, Watch, train
from engine.types import VisualPrompt


@dataclass(frozen=True)
class LabelledFeatures:
    """views (V, N, D) float32, unit length: V views of each image, all with the method's visual prompt where it has one;
    targets (N,) int64, indices of the task's labels.

    own_views : V is the method's epochs, and each epoch sees its own view
    validation, validation_targets : (M, D) and (M,), plain views, for methods that choose something; None where there are none
    """

    views: np.ndarray
    targets: np.ndarray
    validation: np.ndarray | None = None
    validation_targets: np.ndarray | None = None
    own_views: bool = False

    @property
    def shots(self) -> int:
        """Images of the smallest class."""
        return int(np.unique(self.targets, return_counts=True)[1].min())


class Method(Protocol):
    """name : its registry name; needs_images : False where it learns from words alone; needs_descriptions : of the task;
    is_trained : it takes more than a moment; chooses : it uses validation images where it gets some; sees_views : it learns from
    all views of an image, not from the plain one alone; config : its options, an instance of the class's own `Config`."""

    name: str
    needs_images: bool
    needs_descriptions: bool
    is_trained: bool
    chooses: bool
    sees_views: bool
    config: Any

    def learn(
        self,
        backbone: Backbone,
        task: Task,
        data: LabelledFeatures | None = None,
        seed: int = 1,
        watch: Watch | None = None,
    ) -> PromptSet: ...

    def carry(self, prompts: PromptSet, backbone: Backbone, task: Task) -> PromptSet:
        """What was learned, for the labels of another task (novel classes). Raises DataError where that cannot be."""
        ...


def visual_prompt(method: Method, backbone: Backbone) -> VisualPrompt | None:
    """What the image tower is given while this method's features are made."""
    made = getattr(method, "visual_prompt", None)
    return made(backbone) if made else None


def check_data(name: str, backbone: Backbone, task: Task, data: LabelledFeatures | None) -> LabelledFeatures:
    """Raises DataError, before anything is trained, where the features cannot teach."""
    if data is None:
        raise DataError(f"The method {name!r} needs labelled images.", "Give it some, or choose one that learns from words.")
    views, targets = data.views, data.targets
    if views.ndim != 3 or views.shape[1] != len(targets) or not views.size:
        raise DataError(
            f"Features of the shape {views.shape} do not fit {len(targets)} labels.", "They should be (V, N, D)."
        )
    if views.shape[2] != backbone.dim:
        raise DataError(f"The features have {views.shape[2]} dimensions; {backbone.id!r} makes {backbone.dim}.")
    if not np.isfinite(views).all():
        bad = int((~np.isfinite(views).all(axis=(0, 2))).sum())
        raise DataError(
            f"The features of {bad} of {len(targets)} images hold values that are no numbers.", "Leave them out."
        )
    if targets.min() < 0 or targets.max() >= len(task.names):
        raise DataError(f"A label is outside the {len(task.names)} classes of the task {task.id!r}.")
    missing = [name for c, name in enumerate(task.names) if not (targets == c).any()]
    if missing:
        raise DataError(f"No image shows {missing[0]!r}.", "Give each class at least one image.")
    held, labels = data.validation, data.validation_targets
    if held is not None and len(held):
        fits = labels is not None and held.shape == (len(labels), backbone.dim)
        if not fits or not np.isfinite(held).all():
            raise DataError(f"Validation features of the shape {held.shape} do not fit, or are no finite numbers.")
    return data


def set_name(method: Method, backbone: Backbone, task: Task) -> str:
    """TASK-METHOD-BACKBONE, in the characters that a folder may have."""
    return re.sub(r"[^a-z0-9_.-]", "-", f"{task.id}-{method.name}-{backbone.id}".lower())[:120]


def made_set(
    method: Method,
    backbone: Backbone,
    task: Task,
    head: Head,
    kind: str = "linear",
    learned: dict[str, np.ndarray] | None = None,
    **card: Any,
) -> PromptSet:
    """A prompt set with its card. card : fields beside what every card holds."""
    about = {
        "schema_version": SCHEMA_VERSION,
        "name": set_name(method, backbone, task),
        "task": {"id": task.id, "title": task.title, "modality": task.modality, "organ": task.organ},
        "labels": list(task.names),
        "display": [label.display for label in task.labels],
        "method": {"name": method.name, "options": asdict(method.config)},
        "backbone": {"id": backbone.id, "weights_hash": backbone.weights_hash, "precision": backbone.dtype},
        "head": kind,
        "activation": "softmax",
        "template": None,
        "descriptions": None,
        "data": {"images": 0, "shots": None, "seed": None, "sampler": None},
        "metrics": [],
        "temperature": None,
        "shortcuts": list(task.shortcuts),
        "licence": "Apache-2.0",
        "intended_use": INTENDED_USE,
    } | card
    return PromptSet(head, about, visual_prompt(method, backbone), learned or {})


def linear_prompt_set(method: Method, backbone: Backbone, task: Task, embeddings: Tensor, **more: Any) -> PromptSet:
    """A prompt set of class embeddings (C, D), unit length, scaled as the backbone was trained."""
    made = embeddings.detach().float().cpu().numpy()
    return made_set(method, backbone, task, LinearHead(made, backbone.logit_scale, np.zeros(len(made), np.float32)), **more)


def data_card(data: LabelledFeatures, seed: int) -> dict[str, Any]:
    """The card's summary: counts, never names."""
    held = 0 if data.validation is None else len(data.validation)
    return {
        "images": len(data.targets),
        "validation_images": held,
        "shots": data.shots,
        "views": len(data.views),
        "seed": seed,
        "sampler": None,
    }


class Configured:
    """A method's options, and what most methods are: they need images and no descriptions, and learn in a moment what
    belongs to its classes."""

    name: str
    needs_images: bool = True
    needs_descriptions: bool = False
    is_trained: bool = False
    chooses: bool = False
    sees_views: bool = True

    def __init__(self, config: Any = None):
        self.config = config or self.Config()  # type: ignore[attr-defined]

    def carry(self, prompts: PromptSet, backbone: Backbone, task: Task) -> PromptSet:
        raise DataError(f"What {self.name!r} learned belongs to its classes.", "Learn the new classes from images of them.")


class Trained(Configured):
    """A method that learns by gradient. A subclass gives `recipe`, `learner` and `prompt_set`."""

    is_trained = True

    @property
    def recipe(self) -> Recipe:
        raise NotImplementedError

    varies: tuple[str, ...] = ("epochs", "batch", "lr")  # options in which the runs of a stack may differ

    def prepared(self, backbone: Any, task: Task, seed: int, watch: Watch | None) -> Any:
        """The method, with what it must learn before this training."""
        return self

    @classmethod
    def learner(
        cls, backbone: Any, task: Task, methods: Sequence[Any], data: Sequence[LabelledFeatures], seeds: Sequence[int]
    ) -> Any:
        """One learner for R runs; raises BackboneError where the backbone cannot carry the method."""
        raise NotImplementedError

    @property
    def stages(self) -> int:
        """How often the training is run on the same parameters with a fresh optimiser; learner.stage(k) begins each."""
        return 1

    def prompt_set(self, learner: Any, r: int, backbone: Backbone, task: Task) -> PromptSet:
        """What run r of the learner leaves."""
        raise NotImplementedError

    def items(self, backbone: Any, task: Task, data: LabelledFeatures | None) -> LabelledFeatures:
        """What is drawn from in training: the images, unless a method draws from something else."""
        return check_data(self.name, backbone, task, data)

    def learn(
        self,
        backbone: Backbone,
        task: Task,
        data: LabelledFeatures | None = None,
        seed: int = 1,
        watch: Watch | None = None,
    ) -> PromptSet:
        return learn_stacked([self], backbone, task, [data], [seed], watch)[0]


def learn_stacked(
    methods: Sequence[Trained],
    backbone: Backbone,
    task: Task,
    data: Sequence[LabelledFeatures | None],
    seeds: Sequence[int],
    watch: Watch | None = None,
) -> list[PromptSet]:
    """R runs of one method at once: methods differ in their config, data in their shots. Raises DataError, Stopped."""
    first, watch = methods[0], watch or Watch()
    for method in methods:
        alike = replace(method.config, **{name: getattr(first.config, name) for name in first.varies})
        if alike != first.config:
            raise DataError(f"Runs of {first.name!r} that differ in more than {', '.join(first.varies)} cannot be stacked.")
    items = [method.items(backbone, task, each) for method, each in zip(methods, data, strict=True)]
    methods = [method.prepared(backbone, task, seed, watch) for method, seed in zip(methods, seeds, strict=True)]
    learner = first.learner(backbone, task, methods, items, seeds)
    runs = []
    for method, each, seed in zip(methods, items, seeds, strict=True):
        views, targets = torch.from_numpy(np.ascontiguousarray(each.views)), torch.from_numpy(each.targets)
        about = repr((method.name, method.config, backbone.weights_hash, task.id, task.names))
        runs.append(Run(views.to(backbone.device), targets.to(backbone.device), method.recipe, seed, about, each.own_views))

    def look(epoch: int) -> None:
        assert watch.sets is not None
        with torch.no_grad():
            watch.sets(epoch, [method.prompt_set(learner, r, backbone, task) for r, method in enumerate(methods)])

    for stage in range(first.stages):
        if first.stages > 1:  # a checkpoint would be the last stage's, which the first cannot go on from
            learner.stage(stage)
        train(
            learner, runs, replace(watch, checkpoint=None) if first.stages > 1 else watch, look=look if watch.sets else None
        )
    made = []
    for r, (method, given, seed) in enumerate(zip(methods, data, seeds, strict=True)):
        with torch.no_grad():
            prompts = method.prompt_set(learner, r, backbone, task)
        seen = prompts.card["data"] | {"seed": seed}
        if given is not None and method.needs_images:
            seen = data_card(given, seed)
        prompts = replace(prompts, card=prompts.card | {"data": seen})
        made.append(prompts)
    return made
