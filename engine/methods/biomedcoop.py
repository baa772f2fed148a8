"""BiomedCoOp: a context held by an ensemble of descriptions. Koleilat et al., CVPR 2025, arXiv:2411.15232.

loss = CE + sccm_weight * mean (t_c - m_c)^2 + kdsp_weight * KL(teacher || student) / C
SCCM (semantic consistency): m_c is the unit mean of the class's description features; the mean is over the C * D elements.
KDSP (distillation with selective prompts): the teacher's classes are unit means of the descriptions that a batch selects.
Description i of every class is kept or dropped together, by q_i = mean over the batch of the largest class score.

Selection: "described" keeps |q - median| <= tau * MAD; "coded" is what upstream computes: it standardises that again, so that
median and MAD cancel and |q - mean| <= tau * deviation is left; "folded" is upstream's PMC-CLIP file, which standardises
|q - median|. Where nothing is kept, or the spread is 0, all descriptions are.
faithful: the coded rule (folded on PMC-CLIP) and the text tower's dropout while training. Formulas: methods/biomedcoop.md 2.2.

Legend: A active runs, B batch, C classes, n descriptions a class, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.backbones.base import PromptTunable
from engine.errors import DataError
from engine.methods._context import ContextConfig, ContextLearner, ContextMethod, cross_entropy, divergence
from engine.methods._descriptions import description_card, description_features
from engine.tasks import Task
from engine.training import Batch

RULES = ("described", "coded", "folded")


def selected(q: Tensor, tau: Tensor, rule: str) -> Tensor:
    """q (A, n), tau (A,) -> which descriptions are kept, (A, n) float32."""
    away = q - q.median(dim=1, keepdim=True).values  # torch's median is the lower one, as upstream's
    if rule == "described":
        spread = away.abs().median(dim=1, keepdim=True).values
        away = away.abs()
    else:
        away = away.abs() if rule == "folded" else away
        away = away - away.mean(dim=1, keepdim=True)
        spread = away.square().sum(dim=1, keepdim=True).div(max(1, q.shape[1] - 1)).sqrt()  # unbiased
        away = away.abs()
    kept = (away <= tau[:, None] * spread) & (spread > 0)
    return torch.where(kept.any(dim=1, keepdim=True), kept, True).float()


class BiomedCoOpLearner(ContextLearner):
    def __init__(self, backbone: PromptTunable, task: Task, methods: Sequence[Any], seeds: Sequence[int]):
        super().__init__(backbone, task, methods, seeds)
        configs = [method.config for method in methods]
        self.bank = description_features(backbone, task, configs[0].descriptions)  # (C, n, D), unit length
        self.mean = F.normalize(self.bank.mean(dim=1), dim=-1)  # (C, D)
        self.rule = methods[0].rule(backbone.id)
        device = self.bank.device
        self.tau = torch.tensor([c.tau for c in configs], device=device)
        self.sccm = torch.tensor([c.sccm_weight for c in configs], device=device)
        self.kdsp = torch.tensor([c.kdsp_weight for c in configs], device=device)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        runs, v = batch.runs, batch.v
        t = self.class_features(runs, self.dropout)
        student = self.logits(v, t)
        best = (v @ self.bank.flatten(0, 1).T).unflatten(-1, self.bank.shape[:2]).amax(dim=2)  # (A, B, n)
        keep = selected((best * batch.w[..., None]).sum(dim=1), self.tau[runs], self.rule)
        chosen = F.normalize(torch.einsum("an,cnd->acd", keep, self.bank), dim=-1)
        return {
            "ce": cross_entropy(student, batch),
            "sccm": self.sccm[runs] * (t - self.mean).square().mean(dim=(1, 2)),
            "kdsp": self.kdsp[runs] * divergence(self.logits(v, chosen), student, batch),
        }


class BiomedCoOp(ContextMethod):
    name = "biomedcoop"
    needs_descriptions = True
    drops_out = True
    learns = BiomedCoOpLearner
    varies = (*ContextMethod.varies, "sccm_weight", "kdsp_weight", "tau")

    @dataclass(frozen=True)
    class Config(ContextConfig):
        """sccm_weight, kdsp_weight : lambda 1 and 2; tau : of the selection; descriptions : the most a class gives
        selection : "described", "coded" or "folded"; `faithful` sets upstream's
        """

        sccm_weight: float = 1.0
        kdsp_weight: float = 1.0
        tau: float = 1.5
        descriptions: int = 50
        selection: str = "described"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.descriptions < 1:
                raise DataError(f"{self.descriptions} descriptions a class teach nothing.", "Take 1 or more.")
            if self.selection not in RULES:
                raise DataError(f"There is no selection {self.selection!r}.", f"Choose one of: {', '.join(RULES)}.")

    def rule(self, backbone: str) -> str:
        if not self.config.faithful:
            return self.config.selection
        return "folded" if backbone == "pmc-clip" else "coded"

    def about(self, task: Task) -> dict[str, Any]:
        return description_card(task)
