"""ProGrad: CoOp whose gradient may not go against what the hand-written prompt says. Zhu et al., arXiv:2205.14865, eq. 4.

g is the gradient of the cross-entropy, h that of the divergence from the zero-shot prediction; where they disagree
(cos(g, h) < 0), g loses `share` of its part along h. The divergence itself is not minimised.
faithful: upstream's file for BiomedCLIP takes the student for its own teacher, so that h is rounding noise whose direction
still decides (methods/biomedcoop.md 1.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.backbones.base import PromptTunable
from engine.context import hand_written
from engine.methods._context import WITH_FILES_OF_THEIR_OWN, ContextConfig, ContextLearner, ContextMethod, cross_entropy
from engine.tasks import Task
from engine.training import Batch


class ProGradLearner(ContextLearner):
    def __init__(self, backbone: PromptTunable, task: Task, methods: Sequence[Any], seeds: Sequence[int]):
        super().__init__(backbone, task, methods, seeds)
        self.general = hand_written(backbone, task.names)  # (C, D)
        self.teaches_itself = methods[0].config.faithful and backbone.id not in WITH_FILES_OF_THEIR_OWN
        configs = [method.config for method in methods]
        self.temperature = torch.tensor([c.temperature for c in configs], device=self.general.device)
        self.share = torch.tensor([c.share for c in configs], device=self.general.device)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        student = self.logits(batch.v, self.class_features(batch.runs))
        teacher = student.detach() if self.teaches_itself else self.logits(batch.v, self.general)
        t = self.temperature[batch.runs][:, None, None]
        each = -((teacher / t).softmax(dim=-1) * (student / t).log_softmax(dim=-1)).sum(dim=-1)  # (A, B)
        return {"ce": cross_entropy(student, batch), "kl": t[:, 0, 0] ** 2 * (each * batch.w).sum(dim=1)}

    def backward(self, terms: dict[str, Tensor], batch: Batch) -> None:
        contexts = [self.parameters[r]["context"] for r in batch.runs]
        g = torch.autograd.grad(terms["ce"].sum(), contexts, retain_graph=True)
        h = torch.autograd.grad(terms["kl"].sum(), contexts)
        for r, context, wanted, general in zip(batch.runs, contexts, g, h, strict=True):
            along = general / general.norm().clamp_min(1e-30)
            with_it = (wanted * along).sum()
            context.grad = wanted - self.share[r] * with_it.clamp_max(0) * along


class ProGrad(ContextMethod):
    name = "prograd"
    learns = ProGradLearner
    varies = (*ContextMethod.varies, "temperature", "share")

    @dataclass(frozen=True)
    class Config(ContextConfig):
        """temperature : T of the divergence; share : lambda of eq. 4"""

        batch: int = 128
        lr: float = 0.002
        temperature: float = 1.0
        share: float = 1.0
