"""Zero-shot: one sentence a class. Radford et al., arXiv:2103.00020, section 3.1."""

from __future__ import annotations

from dataclasses import dataclass

from engine.backbones.base import Backbone
from engine.context import sentences
from engine.errors import DataError
from engine.methods.base import Configured, LabelledFeatures, linear_prompt_set
from engine.prompts import PromptSet
from engine.tasks import Task
from engine.training import Watch


class ZeroShot(Configured):
    name = "zero-shot"
    needs_images = False

    @dataclass(frozen=True)
    class Config:
        """template : a sentence with {} for the class; empty takes the task's own."""

        template: str = ""

        def __post_init__(self) -> None:
            if self.template and "{}" not in self.template:
                raise DataError(f"The template {self.template!r} has no place for the class.", "Write {} where it goes.")

    def learn(
        self,
        backbone: Backbone,
        task: Task,
        data: LabelledFeatures | None = None,
        seed: int = 1,
        watch: Watch | None = None,
    ) -> PromptSet:
        template = self.config.template or task.template
        embeddings = backbone.encode_texts(sentences(template, task.names))  # (C, D)
        return linear_prompt_set(self, backbone, task, embeddings, template=template)

    def carry(self, prompts: PromptSet, backbone: Backbone, task: Task) -> PromptSet:
        return self.learn(backbone, task)
