"""Description ensemble: the mean of many written sentences a class.

Radford et al., arXiv:2103.00020, section 3.1.4 (ensembling in embedding space); with sentences that describe the class,
Menon and Vondrick, arXiv:2210.07183. Each sentence is embedded and brought to unit length, the mean is brought to unit
length again. The sentences' features are kept between runs: a second start encodes none.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.backbones.base import Backbone
from engine.methods._descriptions import description_card, description_means
from engine.methods.base import Configured, LabelledFeatures, linear_prompt_set
from engine.prompts import PromptSet
from engine.tasks import Task
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
        embeddings = description_means(backbone, task, self.config.sentences)  # (C, D)
        return linear_prompt_set(self, backbone, task, embeddings, **description_card(task))

    def carry(self, prompts: PromptSet, backbone: Backbone, task: Task) -> PromptSet:
        return self.learn(backbone, task)
