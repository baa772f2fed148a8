"""Biomed-DPT: a clinical template as context, an ensemble of descriptions as teacher, zero tokens in the image tower.
Peng et al., arXiv:2505.05189.

loss = CE + l1_weight * mean |t_c - f_c| + kl_weight * KL(teacher || student) / C, with f_c the unit mean of the class's
description features and the teacher's logits from the same image features. Nothing visual is learned: M zero tokens at
every block dilute the attention (closed form in methods/biomed_dpt.md 1.4); the figure inserts them, the code overwrites the
first M patches.
faithful: overwrites, trains with the text tower's dropout, and, as upstream's default "middle" position has it in BiomedCLIP's
file, moves one word piece after the context to the context's middle. Left out: what its files for CLIP, PubMedCLIP and
PMC-CLIP do otherwise (methods/biomed_dpt.md Q7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.backbones.base import Backbone, PromptTunable, VisualPrompted
from engine.context import Prompts
from engine.errors import BackboneError, DataError
from engine.methods._context import (
    WITH_FILES_OF_THEIR_OWN,
    ContextConfig,
    ContextLearner,
    ContextMethod,
    cross_entropy,
    divergence,
)
from engine.methods._descriptions import description_card, description_means
from engine.tasks import Task
from engine.training import Batch
from engine.types import VisualPrompt


class MiddlePrompts(Prompts):
    """Upstream's "middle": name lengths are counted as 1, so one word piece goes between the context's halves."""

    def insert(self, context: Tensor) -> Tensor:
        rows = super().insert(context)
        half, n = self.tokens // 2, self.tokens
        parts = [rows[:, :, : 1 + half], rows[:, :, 1 + n : 2 + n], rows[:, :, 1 + half : 1 + n], rows[:, :, 2 + n :]]
        return torch.cat(parts, dim=2)


class BiomedDPTLearner(ContextLearner):
    def __init__(self, backbone: PromptTunable, task: Task, methods: Sequence[Any], seeds: Sequence[int]):
        super().__init__(backbone, task, methods, seeds)
        configs = [method.config for method in methods]
        self.teacher = description_means(backbone, task, configs[0].descriptions)  # (C, D)
        self.l1 = torch.tensor([c.l1_weight for c in configs], device=self.teacher.device)
        self.kl = torch.tensor([c.kl_weight for c in configs], device=self.teacher.device)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        t = self.class_features(batch.runs, self.dropout)
        student = self.logits(batch.v, t)
        return {
            "ce": cross_entropy(student, batch),
            "l1": self.l1[batch.runs] * (t - self.teacher).abs().mean(dim=(1, 2)),
            "kl": self.kl[batch.runs] * divergence(self.logits(batch.v, self.teacher), student, batch),
        }


class BiomedDPT(ContextMethod):
    name = "biomed-dpt"
    needs_descriptions = True
    drops_out = True
    learns = BiomedDPTLearner
    varies = (*ContextMethod.varies, "l1_weight", "kl_weight")

    @dataclass(frozen=True)
    class Config(ContextConfig):
        """template : empty makes one of the task's modality and organ; zero_tokens : M, 0 for none
        insert : between the class token and the patches, else over the first M patches; literal : see VisualPrompt
        """

        template: str = ""
        tokens: int = 0
        l1_weight: float = 1.0
        kl_weight: float = 1.0
        descriptions: int = 50
        zero_tokens: int = 4
        insert: bool = True
        literal: bool = False

        def __post_init__(self) -> None:
            if self.template or self.tokens < 0:
                super().__post_init__()
            if self.zero_tokens < 0 or self.descriptions < 1:
                raise DataError(
                    f"{self.zero_tokens} zero tokens and {self.descriptions} descriptions cannot be.",
                    "Take 0, and 1, or more.",
                )

    def visual_prompt(self, backbone: Backbone) -> VisualPrompt | None:
        if not self.config.zero_tokens:
            return None
        if not isinstance(backbone, VisualPrompted):
            raise BackboneError(f"The backbone {backbone.id!r} takes no visual prompt.", "Set zero_tokens to 0.")
        tokens = np.zeros((1, self.config.zero_tokens, backbone.visual_prompt_width), dtype=np.float32)
        insert = self.config.insert and not self.config.faithful and backbone.inserts_visual_prompts
        return VisualPrompt(tokens, insert, self.config.literal)

    def template(self, task: Task) -> str:
        return self.config.template or made_template(task)

    def prompts(self, backbone: PromptTunable, task: Task, names: Sequence[str]) -> Prompts:
        kind = MiddlePrompts if self.config.faithful and backbone.id not in WITH_FILES_OF_THEIR_OWN else Prompts
        return kind(backbone, self.template(task), names, self.config.tokens)

    def about(self, task: Task) -> dict[str, Any]:
        return description_card(task)


def made_template(task: Task) -> str:
    """In the manner of the paper's table, for a task that is not in it: "a CT photo of a {} in the kidney."."""
    modality = "" if task.modality == "any" else f"{task.modality} "
    organ = "" if task.organ == "any" else f" in the {task.organ}"
    return f"a {modality}photo of a {{}}{organ}."
