"""CLIP-Adapter: a small residual network on the image feature. Gao et al., arXiv:2110.04544, eq. 3 to 5.

The classes are zero-shot's; the adapted feature is not brought to unit length again. The schedule is a cosine once an epoch.
faithful: upstream's BiomedCoOp steps it once a batch, so that the learning rate swings with a period of 2 * epochs batches
(methods/biomedcoop.md 1.7).

Legend: A active runs, B batch, C classes, H hidden, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.backbones.base import Backbone
from engine.context import HAND_WRITTEN, hand_written
from engine.errors import DataError
from engine.heads import AdapterHead
from engine.methods._context import ContextLearner, cross_entropy
from engine.methods.base import LabelledFeatures, Trained, made_set
from engine.prompts import PromptSet
from engine.tasks import Task
from engine.training import Batch, Recipe


class AdapterLearner:
    def __init__(self, backbone: Any, task: Task, methods: Sequence[Any], seeds: Sequence[int]):
        self.text = hand_written(backbone, task.names)  # (C, D)
        self.scale = backbone.logit_scale
        self.ratio = torch.tensor([m.config.ratio for m in methods], device=self.text.device)
        self.parameters: list[dict[str, Tensor]] = []
        for method, seed in zip(methods, seeds, strict=True):
            hidden = max(1, backbone.dim // method.config.reduction)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                down, up = nn.Linear(backbone.dim, hidden, bias=False), nn.Linear(hidden, backbone.dim, bias=False)
            made = {"down": down.weight, "up": up.weight}
            self.parameters.append({k: nn.Parameter(v.detach().to(self.text.device)) for k, v in made.items()})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        down, up = (torch.stack([self.parameters[r][k] for r in batch.runs]) for k in ("down", "up"))
        adapted = ((batch.v @ down.transpose(1, 2)).relu() @ up.transpose(1, 2)).relu()
        ratio = self.ratio[batch.runs][:, None, None]
        mixed = ratio * adapted + (1 - ratio) * batch.v
        return {"ce": cross_entropy(self.scale * mixed @ self.text.T, batch)}

    backward = ContextLearner.backward


class CLIPAdapter(Trained):
    name = "clip-adapter"
    varies = (*Trained.varies, "ratio")

    @dataclass(frozen=True)
    class Config:
        """ratio : alpha, the adapted share; reduction : D over the hidden width; faithful : see the module"""

        ratio: float = 0.5
        reduction: int = 4
        epochs: int = 20
        batch: int = 32
        lr: float = 0.01
        faithful: bool = False

        def __post_init__(self) -> None:
            if self.reduction < 1:
                raise DataError(f"The adapter cannot be D / {self.reduction} wide.", "Take a reduction of 1 or more.")

    @property
    def recipe(self) -> Recipe:
        c = self.config
        return Recipe(c.epochs, c.batch, c.lr, momentum=0.0, weight_decay=0.0, per_step=c.faithful)

    @classmethod
    def learner(
        cls, backbone: Any, task: Task, methods: Sequence[Any], data: Sequence[LabelledFeatures], seeds: Sequence[int]
    ) -> AdapterLearner:
        return AdapterLearner(backbone, task, methods, seeds)

    def prompt_set(self, learner: AdapterLearner, r: int, backbone: Backbone, task: Task) -> PromptSet:
        down, up = (learner.parameters[r][k].detach().cpu().numpy() for k in ("down", "up"))
        head = AdapterHead(learner.text.cpu().numpy(), backbone.logit_scale, down, up, self.config.ratio)
        return made_set(self, backbone, task, head, "adapter", template=HAND_WRITTEN)

    def carry(self, prompts: PromptSet, backbone: Backbone, task: Task) -> PromptSet:
        """The adapter works on the image; the new classes come from their names."""
        head: Any = prompts.head
        text = hand_written(backbone, task.names).cpu().numpy()
        made = AdapterHead(text, head.scale, head.down, head.up, head.ratio)
        return made_set(self, backbone, task, made, "adapter", template=HAND_WRITTEN)
