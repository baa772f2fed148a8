"""CoCoOp: a context that each image shifts. Zhou et al., arXiv:2203.05557, section 3.2.

A small network of the image feature (Linear to D / 16, ReLU, Linear) gives one vector, added to every context row; the
prompts of all classes are encoded anew for every image, also at use, so the prompt set needs its text tower.
The paper trains at 0.002; upstream's BiomedCoOp repository, whose default stands here, at 0.001.

Legend: A active runs, B batch, C classes, n context rows, W token width, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.backbones.base import Backbone, PromptTunable
from engine.heads import ConditionalHead
from engine.methods._context import ContextConfig, ContextLearner, ContextMethod, cross_entropy
from engine.methods.base import made_set
from engine.prompts import PromptSet
from engine.tasks import Task
from engine.training import Batch

META = ("meta.0.weight", "meta.0.bias", "meta.2.weight", "meta.2.bias")


class CoCoOpLearner(ContextLearner):
    def __init__(self, backbone: PromptTunable, task: Task, methods: Sequence[Any], seeds: Sequence[int]):
        super().__init__(backbone, task, methods, seeds)
        for parameters, seed in zip(self.parameters, seeds, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                width = backbone.dim // 16
                meta = nn.Sequential(nn.Linear(backbone.dim, width), nn.ReLU(), nn.Linear(width, backbone.token_width))
            for name, value in meta.named_parameters():
                parameters[f"meta.{name}"] = nn.Parameter(value.detach().to(self.prompts.start.device))

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        first, first_bias, second, second_bias = (self.stacked(name, batch.runs) for name in META)
        hidden = (batch.v @ first.transpose(1, 2) + first_bias[:, None]).relu()
        shift = hidden @ second.transpose(1, 2) + second_bias[:, None]  # (A, B, W)
        contexts = self.stacked("context", batch.runs)[:, None] + shift[:, :, None]  # (A, B, n, W)
        t = self.prompts.encode(contexts.flatten(0, 1)).unflatten(0, shift.shape[:2])  # (A, B, C, D)
        logits = self.scale * torch.einsum("abd,abcd->abc", batch.v, t)
        return {"ce": cross_entropy(logits, batch)}


class CoCoOp(ContextMethod):
    name = "cocoop"
    learns = CoCoOpLearner

    @dataclass(frozen=True)
    class Config(ContextConfig):
        epochs: int = 10
        batch: int = 1
        lr: float = 0.001

    def of(self, learned: dict[str, np.ndarray], backbone: Backbone, task: Task) -> PromptSet:
        meta = tuple(learned[name] for name in META)
        head = ConditionalHead(learned["context"], meta, backbone.logit_scale, len(task.names))  # type: ignore[arg-type]
        return made_set(self, backbone, task, head, "conditional", template=self.template(task))

    def carry(self, prompts: PromptSet, backbone: Backbone, task: Task) -> PromptSet:
        head: Any = prompts.head
        return self.of({"context": head.context} | dict(zip(META, head.meta, strict=True)), backbone, task)
