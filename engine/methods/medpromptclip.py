"""MedPromptCLIP: prompts learned from descriptions alone, without an image. Repository user-test023/MedPromptCLIP at ffe6b80.

A shallow context and deep text prompts (rows 1 to n replaced again before blocks 1 to depth - 1) are learned so that a class's
bare prompt lands on the frozen features e_j of its descriptions: loss = weight * mean |o_c(j) - e_j|^2 over batch and D ("mse"),
or mean |o_c(j) - e_j| ("l1", the weight is not used). AdamW. The minimum of the first is the unit mean of the descriptions,
which is the description ensemble: compare with it always. What may be gained is on classes that were not described.

One prompted forward a class instead of one a sentence: the loss is the same, since the prompt depends on the class only.
A description longer than the text tower is cut at a word (upstream cuts at a token).
faithful: deep prompts are rounded to half precision at each forward; class names keep underscores while training where the
context has more than five rows, and are in lower case where it has fewer.
Left out: upstream's unused template and attribute data.

Legend: A active runs, B batch, C classes, N descriptions, n rows, K deep layers, W token width, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.backbones.base import PromptTunable
from engine.context import Prompts
from engine.errors import BackboneError, DataError
from engine.methods._context import DEVIATION, ContextConfig, ContextLearner, ContextMethod, cross_entropy, tunable
from engine.methods._descriptions import description_card, sentence_features
from engine.methods.base import LabelledFeatures
from engine.prompts import PromptSet
from engine.tasks import Task, descriptions, tasks
from engine.training import Batch, Recipe, Watch

BANKS = ("task", "all")
LOSSES = ("mse", "l1")


def described(task: Task, bank: str) -> dict[str, list[str]]:
    """Class -> descriptions: of the task's labels, or ("all") of every task's, its own first. Classes that belong to the task
    but are not among its labels (novel ones) are left out everywhere."""
    found: dict[str, list[str]] = {}
    novel = set(descriptions(task).classes) - set(task.names)
    for each in (task, *(tasks() if bank == "all" else ())):
        for name, words in descriptions(each).classes.items():
            if name in novel:
                continue
            into = found.setdefault(name, [])
            into += [sentence for sentence in words.sentences if sentence not in into]
    return found


def cut(text: str, backbone: PromptTunable) -> str:
    """The text, less words at its end until the text tower takes it."""
    words = text.split()
    while len(words) > 1:
        try:
            backbone.tokenize([" ".join(words)])
            break
        except BackboneError:
            words.pop()
    return " ".join(words)


class MedPromptCLIPLearner(ContextLearner):
    def __init__(self, backbone: PromptTunable, task: Task, methods: Sequence[Any], seeds: Sequence[int]):
        method = methods[0]
        super().__init__(backbone, task, methods, seeds)
        self.rounds = method.config.faithful
        self.l1 = method.config.loss == "l1"
        self.weight = torch.tensor([m.config.weight for m in methods], device=self.prompts.start.device)
        names = list(method.described(task))
        if method.config.faithful and method.config.tokens > 5:
            names = [name.replace(" ", "_") for name in names]
        elif method.config.faithful:
            names = [name.lower() for name in names]
        self.training_prompts = method.prompts(backbone, task, names)
        layers = min(method.config.depth, backbone.text_layers) - 1
        if layers < 1:
            return
        for parameters, seed in zip(self.parameters, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed + 1)
            deep = torch.randn(layers, *self.prompts.start.shape, generator=generator) * DEVIATION
            parameters["deep"] = nn.Parameter(deep.to(self.prompts.start.device))

    def deep(self, runs: list[int]) -> Tensor | None:
        if "deep" not in self.parameters[0]:
            return None
        deep = self.stacked("deep", runs)  # (A, K, n, W)
        return deep.half().float() if self.rounds else deep

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        runs = batch.runs
        o = self.training_prompts.encode(self.stacked("context", runs), deep=self.deep(runs))  # (A, C, D)
        away = o.gather(1, batch.y[..., None].expand(-1, -1, o.shape[-1])) - batch.v  # (A, B, D)
        each = away.abs().mean(dim=-1) if self.l1 else self.weight[runs][:, None] * away.square().mean(dim=-1)
        return {"text": (each * batch.w).sum(dim=1)}


class MedPromptCLIP(ContextMethod):
    name = "medpromptclip"
    needs_descriptions = True
    needs_images = False
    learns = MedPromptCLIPLearner
    varies = (*ContextMethod.varies, "weight", "weight_decay", "warmup_epochs", "warmup_lr")

    @dataclass(frozen=True)
    class Config(ContextConfig):
        """depth : blocks of the text tower with prompts; bank : "task", or "all" for those of every task
        loss : "mse" or "l1"; weight : of the mse; weight_decay, warmup_epochs, warmup_lr : of the optimiser
        """

        template: str = "X X X X X X {}."
        tokens: int = 6
        random: bool = True
        epochs: int = 72
        batch: int = 256
        lr: float = 0.005
        depth: int = 9
        bank: str = "task"
        loss: str = "mse"
        weight: float = 1000.0
        weight_decay: float = 0.1
        warmup_epochs: int = 3
        warmup_lr: float = 1e-4

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.bank not in BANKS or self.loss not in LOSSES:
                raise DataError(
                    f"MedPromptCLIP knows no bank {self.bank!r} with the loss {self.loss!r}.",
                    f"Banks: {', '.join(BANKS)}; losses: {', '.join(LOSSES)}.",
                )

    @property
    def recipe(self) -> Recipe:
        c = self.config
        return Recipe(
            c.epochs,
            c.batch,
            c.lr,
            "adamw",
            weight_decay=c.weight_decay,
            warmup_epochs=c.warmup_epochs,
            warmup_lr=c.warmup_lr,
        )

    def described(self, task: Task) -> dict[str, list[str]]:
        return described(task, self.config.bank)

    def items(self, backbone: Any, task: Task, data: LabelledFeatures | None) -> LabelledFeatures:
        """The descriptions' features stand where other methods have images."""
        tower, classes = tunable(backbone, self.name), self.described(task)
        texts = [cut(sentence, tower) for each in classes.values() for sentence in each]
        targets = np.repeat(np.arange(len(classes)), [len(each) for each in classes.values()])
        return LabelledFeatures(sentence_features(backbone, texts).cpu().numpy()[None], targets)

    def of(self, learned: dict[str, np.ndarray], backbone: Any, task: Task) -> PromptSet:
        if self.config.faithful and "deep" in learned:
            learned = learned | {"deep": learned["deep"].astype(np.float16).astype(np.float32)}
        return super().of(learned, backbone, task)

    def about(self, task: Task) -> dict[str, Any]:
        return description_card(task)


class FewShotLearner(ContextLearner):
    """Cross-entropy on images, from the text-learned start."""

    def __init__(self, backbone: PromptTunable, task: Task, methods: Sequence[Any], seeds: Sequence[int]):
        super().__init__(backbone, task, methods, seeds)
        for r, (method, seed) in enumerate(zip(methods, seeds, strict=True)):
            start = method.start or method.stage_one(backbone, task, seed)
            self.parameters[r] = {
                name: nn.Parameter(torch.from_numpy(value).to(self.prompts.start.device)) for name, value in start.items()
            }

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        deep = self.stacked("deep", batch.runs) if "deep" in self.parameters[0] else None
        t = self.prompts.encode(self.stacked("context", batch.runs), deep=deep)
        return {"ce": cross_entropy(self.logits(batch.v, t), batch)}


class MedPromptCLIPFewShot(ContextMethod):
    """MedPromptCLIP's few-shot stage: the text-learned prompts go on with a few labelled images.

    faithful: upstream's scripts never load stage one and read other defaults (methods/medpromptclip.md Q1, Q2): the context starts
    from the first four word pieces of "a fundus image of", whatever the modality, in "a photo of a {}."; deep prompts at
    random. Left out: upstream also fine-tunes the whole image tower, by a freeze that is commented out (Q3).
    """

    name = "medpromptclip-few-shot"
    needs_descriptions = True
    learns = FewShotLearner
    start: dict[str, np.ndarray] | None = None

    @dataclass(frozen=True)
    class Config(ContextConfig):
        """As MedPromptCLIP's, of which stage one takes its defaults; lr, batch, epochs : of the few-shot stage"""

        template: str = "X X X X X X {}."
        tokens: int = 6
        random: bool = True
        epochs: int = 40
        batch: int = 2
        lr: float = 1e-5
        depth: int = 9
        bank: str = "task"
        weight_decay: float = 0.1

        def __post_init__(self) -> None:
            super().__post_init__()
            _ = self.stage_one

        @property
        def stage_one(self) -> MedPromptCLIP.Config:
            return MedPromptCLIP.Config(
                template=self.template, tokens=self.tokens, random=self.random, depth=self.depth, bank=self.bank
            )

    @property
    def recipe(self) -> Recipe:
        c = self.config
        return Recipe(c.epochs, c.batch, c.lr, "adamw", weight_decay=c.weight_decay, warmup_epochs=0)

    def prepared(self, backbone: Any, task: Task, seed: int, watch: Watch | None) -> MedPromptCLIPFewShot:
        made = MedPromptCLIPFewShot(self.config)
        made.start = self.stage_one(tunable(backbone, self.name), task, seed, watch)
        return made

    def template(self, task: Task) -> str:
        return "a photo of a {}." if self.config.faithful else self.config.template

    def prompts(self, backbone: Any, task: Task, names: Sequence[str]) -> Prompts:
        return Prompts(backbone, self.template(task), names, 4 if self.config.faithful else self.config.tokens)

    def stage_one(self, backbone: Any, task: Task, seed: int, watch: Watch | None = None) -> dict[str, np.ndarray]:
        c, one = self.config, self.config.stage_one
        if c.faithful:  # no stage one: upstream's own start
            one = replace(one, template="a photo of a {}.", tokens=4, random=False, words="a fundus image of")
            learner = MedPromptCLIPLearner(backbone, task, [MedPromptCLIP(one)], [seed])
            return {name: value.detach().cpu().numpy() for name, value in learner.parameters[0].items()}
        look = Watch(stop=watch.stop) if watch else None  # progress and checkpoint are the second stage's
        return MedPromptCLIP(one).learn(backbone, task, seed=seed, watch=look).learned

    def about(self, task: Task) -> dict[str, Any]:
        return description_card(task)
