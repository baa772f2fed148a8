"""Description ensemble: the mean of many written sentences a class.

Radford et al., arXiv:2103.00020, section 3.1.4 (ensembling in embedding space); with sentences that describe the class,
Menon and Vondrick, arXiv:2210.07183. Each sentence is embedded and brought to unit length, the mean is brought to unit
length again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.backbones.base import Backbone
from engine.methods.base import Configured, LabelledFeatures, linear_prompt_set
from engine.prompts import PromptSet
from engine.tasks import Task, descriptions
from engine.training import Watch


class DescriptionEnsemble(Configured):
    name = "description-ensemble"
    needs_images = False
    needs_descriptions = True

    @dataclass(frozen=True)
    class Config:
        """sentences : how many of each class's descriptions, the first ones; 0 takes all."""

        sentences: int = 0

    def learn(
        self,
        backbone: Backbone,
        task: Task,
        data: LabelledFeatures | None = None,
        seed: int = 1,
        watch: Watch | None = None,
    ) -> PromptSet:
        bank = descriptions(task)
        means = []
        for name in task.names:
            sentences = bank.classes[name].sentences[: self.config.sentences or None]
            means.append(backbone.encode_texts(list(sentences)).mean(dim=0))  # unit rows -> (D,)
        embeddings = F.normalize(torch.stack(means), dim=-1)
        return linear_prompt_set(self, backbone, task, embeddings, descriptions={"bank": bank.task, "sha256": bank.sha256})

    def carry(self, prompts: PromptSet, backbone: Backbone, task: Task) -> PromptSet:
        return self.learn(backbone, task)
