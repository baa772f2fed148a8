"""KgCoOp: CoOp, held near the hand-written prompt. Yao et al., arXiv:2303.13283, eq. 4 and 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.backbones.base import PromptTunable
from engine.context import hand_written
from engine.methods._context import ContextConfig, ContextLearner, ContextMethod, cross_entropy
from engine.tasks import Task
from engine.training import Batch


class KgCoOpLearner(ContextLearner):
    def __init__(self, backbone: PromptTunable, task: Task, methods: Sequence[Any], seeds: Sequence[int]):
        super().__init__(backbone, task, methods, seeds)
        self.general = hand_written(backbone, task.names)  # (C, D)
        self.weight = torch.tensor([method.config.weight for method in methods], device=self.general.device)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        t = self.class_features(batch.runs)
        away = 1 - (t * self.general).sum(dim=-1).mean(dim=-1)  # (A,): unit rows, so this is the mean cosine
        return {"ce": cross_entropy(self.logits(batch.v, t), batch), "kg": self.weight[batch.runs] * away}


class KgCoOp(ContextMethod):
    name = "kgcoop"
    learns = KgCoOpLearner
    varies = (*ContextMethod.varies, "weight")

    @dataclass(frozen=True)
    class Config(ContextConfig):
        """weight : lambda of eq. 5"""

        batch: int = 128
        lr: float = 0.002
        weight: float = 8.0
