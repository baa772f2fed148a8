"""A learned context: rows 1 to n of an embedded prompt are parameters (CoOp, Zhou et al., arXiv:2109.01134, section 3.2).

Shared by every method that learns one. Left out: class-specific contexts.

Legend: A active runs, B batch, C classes, n context rows, W token width, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.backbones.base import Backbone, PromptTunable
from engine.context import Prompts, start_of
from engine.errors import BackboneError, DataError
from engine.methods.base import LabelledFeatures, Trained, linear_prompt_set
from engine.prompts import PromptSet
from engine.tasks import Task
from engine.training import Batch, Recipe

# Upstream copied BiomedCLIP's trainers for these, and not every quirk of BiomedCLIP's file is in the copies.
WITH_FILES_OF_THEIR_OWN = ("clip-vit-b16", "clip-vit-b32", "pubmedclip", "pmc-clip")
DEVIATION = 0.02  # of a random start, arXiv:2109.01134, section 4.1


@dataclass(frozen=True)
class ContextConfig:
    """template : a sentence with {} for the class; tokens : how many word pieces at its start are learned, 0 for all that
    come before the class
    random : start from random rows instead of the template's words; words : start from these in their place
    faithful : as upstream's code does it, quirks included
    """

    template: str = "a photo of a {}."
    tokens: int = 4
    random: bool = False
    words: str = ""
    epochs: int = 100
    batch: int = 4
    lr: float = 0.0025
    faithful: bool = False

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise DataError(f"A context of {self.tokens} tokens cannot be learned.", "Take 1 or more, or 0 for all words.")
        if self.template.count("{}") != 1:
            raise DataError(f"The template {self.template!r} has no single place for the class.", "Write {} where it goes.")


def tunable(backbone: Backbone, method: str) -> PromptTunable:
    if not isinstance(backbone, PromptTunable):
        raise BackboneError(
            f"The backbone {backbone.id!r} cannot carry {method!r}: it shows no text tower.", "Choose another."
        )
    return backbone


class ContextLearner:
    """R runs with a context each. Subclasses add terms."""

    def __init__(self, backbone: PromptTunable, task: Task, methods: Sequence[Any], seeds: Sequence[int]):
        self.prompts = methods[0].prompts(backbone, task, task.names)
        self.scale, self.dropout = backbone.logit_scale, methods[0].config.faithful and methods[0].drops_out
        self.parameters: list[dict[str, Tensor]] = []
        for method, seed in zip(methods, seeds, strict=True):
            start = self.prompts.start
            if method.config.words:
                start = start_of(backbone, method.config.words, self.prompts.tokens)
            if method.config.random:
                generator = torch.Generator().manual_seed(seed)
                start = (torch.randn(start.shape, generator=generator) * DEVIATION).to(start.device)
            self.parameters.append({"context": nn.Parameter(start.clone())})

    def stacked(self, name: str, runs: list[int]) -> Tensor:
        return torch.stack([self.parameters[r][name] for r in runs])

    def class_features(self, runs: list[int], dropout: bool = False) -> Tensor:
        """(A, C, D), unit length."""
        return self.prompts.encode(self.stacked("context", runs), dropout)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        t = self.class_features(batch.runs, self.dropout)
        return {"ce": cross_entropy(self.logits(batch.v, t), batch)}

    def logits(self, v: Tensor, t: Tensor) -> Tensor:
        """v (A, B, D), t (A, C, D) or (C, D) -> (A, B, C)."""
        return self.scale * v @ t.transpose(-1, -2)

    def backward(self, terms: dict[str, Tensor], batch: Batch) -> None:
        """Every run's own gradient from one pass: no run's loss depends on another's parameters."""
        torch.stack(list(terms.values())).sum().backward()


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Weighted mean over the batch: (A,)."""
    each = F.cross_entropy(logits.flatten(0, 1), batch.y.flatten(), reduction="none")
    return (each.view(batch.w.shape) * batch.w).sum(dim=1)


def divergence(teacher: Tensor, student: Tensor, batch: Batch) -> Tensor:
    """KL(teacher || student) of logits (A, B, C), batch mean over C: (A,). Upstream divides the sum by B * C."""
    log_t, log_s = teacher.log_softmax(dim=-1), student.log_softmax(dim=-1)
    each = (log_t.exp() * (log_t - log_s)).sum(dim=-1)
    return (each * batch.w).sum(dim=1) / student.shape[-1]


class ContextMethod(Trained):
    """A method whose prompt set is the class embeddings of a learned context.

    drops_out : upstream trains it with the text tower's dropout on; learns : its learner
    """

    drops_out = False
    learns: type[ContextLearner] = ContextLearner
    Config: type[ContextConfig] = ContextConfig

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.config.epochs, self.config.batch, self.config.lr)

    def template(self, task: Task) -> str:
        return self.config.template

    def prompts(self, backbone: PromptTunable, task: Task, names: Sequence[str]) -> Prompts:
        return Prompts(backbone, self.template(task), names, self.config.tokens)

    @classmethod
    def learner(
        cls, backbone: Any, task: Task, methods: Sequence[Any], data: Sequence[LabelledFeatures], seeds: Sequence[int]
    ) -> Any:
        return cls.learns(tunable(backbone, cls.name), task, methods, seeds)

    def prompt_set(self, learner: Any, r: int, backbone: Backbone, task: Task) -> PromptSet:
        learned = {name: value.detach().float().cpu().numpy() for name, value in learner.parameters[r].items()}
        return self.of(learned, backbone, task)

    def of(self, learned: dict[str, np.ndarray], backbone: Backbone, task: Task) -> PromptSet:
        """The prompt set of a context (n, W), learned here, for other classes, or elsewhere (an imported checkpoint)."""
        prompts = self.prompts(tunable(backbone, self.name), task, task.names)
        at = {name: torch.from_numpy(value).to(backbone.device)[None] for name, value in learned.items()}
        if at["context"].shape[1:] != prompts.start.shape:
            raise DataError(
                f"The context has the shape {tuple(at['context'].shape[1:])}; {self.name!r} on {backbone.id!r} takes "
                f"{tuple(prompts.start.shape)}.",
                "Use the backbone that it was learned with.",
            )
        with torch.no_grad():
            embeddings = prompts.encode(at["context"], deep=at.get("deep"))[0]
        about = {"template": self.template(task)} | self.about(task)
        return linear_prompt_set(self, backbone, task, embeddings, learned=learned, **about)

    def about(self, task: Task) -> dict[str, Any]:
        """More fields of the card."""
        return {}

    def carry(self, prompts: PromptSet, backbone: Backbone, task: Task) -> PromptSet:
        return self.of(prompts.learned, backbone, task)
