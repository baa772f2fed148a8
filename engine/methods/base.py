"""What a method is: it learns from words, or from labelled features, and leaves a prompt set.

A method is a class with a nested `Config` dataclass (the paper's defaults) and `learn`. The optimiser, the device,
the data loader and the disk are unknown to it.

Legend: N images, D joint embedding, C classes.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from engine.backbones.base import Backbone
from engine.heads import LinearHead
from engine.prompts import INTENDED_USE, SCHEMA_VERSION, PromptSet
from engine.tasks import Task


@dataclass(frozen=True)
class LabelledFeatures:
    """features (N, D) float32, unit length; targets (N,) int64, indices of the task's labels."""

    features: np.ndarray
    targets: np.ndarray


class Method(Protocol):
    """name : its registry name; needs_images : False where it learns from words alone; config : its options, an
    instance of the class's own `Config`."""

    name: str
    needs_images: bool
    config: Any

    def learn(self, backbone: Backbone, task: Task, data: LabelledFeatures | None = None) -> PromptSet: ...


def linear_prompt_set(method: Method, backbone: Backbone, task: Task, embeddings: Tensor, **card: Any) -> PromptSet:
    """A prompt set of class embeddings (C, D), unit length, scaled as the backbone was trained. card : more fields."""
    made = embeddings.detach().float().cpu().numpy()
    name = re.sub(r"[^a-z0-9_.-]", "-", f"{task.id}-{method.name}-{backbone.id}".lower())
    about = {
        "schema_version": SCHEMA_VERSION,
        "name": name[:120],
        "task": {"id": task.id, "title": task.title, "modality": task.modality, "organ": task.organ},
        "labels": list(task.names),
        "display": [label.display for label in task.labels],
        "method": {"name": method.name, "options": asdict(method.config)},
        "backbone": {"id": backbone.id, "weights_hash": backbone.weights_hash},
        "head": "linear",
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
    return PromptSet(LinearHead(made, backbone.logit_scale, np.zeros(len(made), dtype=np.float32)), about)
