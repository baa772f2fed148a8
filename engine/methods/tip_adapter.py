"""Tip-Adapter: zero-shot and a cache of the labelled images. Zhang et al., arXiv:2207.09519; Tip-Adapter-F trains the keys.

scores = scale * v . t + alpha * exp(-beta * (1 - v . keys)) @ one-hot labels. alpha and beta are searched on validation images
(a grid of 200 x 200 in [0.1, 49.85], as upstream's BiomedCoOp); without any, the paper's alpha 1 and beta 5.5 stand.
Tip-Adapter-F: AdamW on the keys, a cosine once an epoch, at alpha and beta as they stand, then the search.
faithful (F): upstream searches alpha in 0 to 9 by training one shared set of keys again for each, with beta 1, and its main
training changes nothing (methods/biomedcoop.md 1.7).

Legend: V views, N images, M validation images, C classes, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.backbones.base import Backbone
from engine.context import HAND_WRITTEN, hand_written
from engine.heads import CacheHead
from engine.methods._context import ContextLearner, cross_entropy
from engine.methods.base import Configured, LabelledFeatures, Trained, check_data, data_card, made_set
from engine.prompts import PromptSet
from engine.tasks import Task
from engine.training import Batch, Recipe, Watch

GRID = np.linspace(0.1, 0.1 + 49.75, 200)  # [0.1, 49.85]
ALPHA, BETA = 1.0, 5.5  # arXiv:2207.09519, section 4.1


def cache(data: LabelledFeatures, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """keys (N, D): the unit mean of each image's views; values (N, C) one-hot."""
    keys = data.views.mean(axis=0)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    return keys.astype(np.float32), np.eye(classes, dtype=np.float32)[data.targets]


def searched(head: CacheHead, data: LabelledFeatures) -> CacheHead:
    """The head with the alpha and beta of the best validation accuracy; as it is where there are no validation images."""
    if data.validation is None or data.validation_targets is None or not len(data.validation):
        return head
    plain = head.scale * data.validation @ head.embeddings.T  # (M, C)
    affinity = 1 - data.validation @ head.keys.T  # (M, N)
    best, found = -1.0, head
    for beta in GRID:
        near = np.exp(-beta * affinity) @ head.values
        scores = plain + GRID[:, None, None] * near  # (200, M, C)
        right = (scores.argmax(axis=2) == data.validation_targets).mean(axis=1)
        if right.max() > best:
            best = float(right.max())
            alpha = float(GRID[right.argmax()])
            found = CacheHead(head.embeddings, head.scale, head.keys, head.values, alpha, float(beta))
    return found


def start(method: Any, backbone: Any, task: Task, data: LabelledFeatures) -> CacheHead:
    keys, values = cache(data, len(task.names))
    text = hand_written(backbone, task.names).cpu().numpy()
    return CacheHead(text, backbone.logit_scale, keys, values, method.config.alpha, method.config.beta)


@dataclass(frozen=True)
class CacheConfig:
    """alpha : the cache's weight, beta : its sharpness, where they are not searched; search : on validation images"""

    alpha: float = ALPHA
    beta: float = BETA
    search: bool = True


class TipAdapter(Configured):
    name = "tip-adapter"
    chooses = True
    Config = CacheConfig

    def learn(
        self,
        backbone: Backbone,
        task: Task,
        data: LabelledFeatures | None = None,
        seed: int = 1,
        watch: Watch | None = None,
    ) -> PromptSet:
        data = check_data(self.name, backbone, task, data)
        head = start(self, backbone, task, data)
        head = searched(head, data) if self.config.search else head
        return made_set(self, backbone, task, head, "cache", template=HAND_WRITTEN, data=data_card(data, seed))


class KeysLearner:
    def __init__(self, backbone: Any, task: Task, methods: Sequence[Any], data: Sequence[LabelledFeatures]):
        self.heads = [start(method, backbone, task, each) for method, each in zip(methods, data, strict=True)]
        self.data, self.scale = data, backbone.logit_scale
        self.alpha, self.beta = ([getattr(head, name) for head in self.heads] for name in ("alpha", "beta"))

        def there(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(backbone.device)

        self.text, self.values = there(self.heads[0].embeddings), [there(head.values) for head in self.heads]
        self.parameters: list[dict[str, Tensor]] = [{"keys": nn.Parameter(there(head.keys))} for head in self.heads]

    def stage(self, number: int) -> None:
        """faithful: alpha takes 0, 1, ... 9 in turn, on the same keys."""
        self.alpha = [float(number) for _ in self.alpha]

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        near = []
        for r, v in zip(batch.runs, batch.v, strict=True):  # runs of different shots have caches of different size
            affinity = 1 - v @ self.parameters[r]["keys"].T
            near.append(self.alpha[r] * torch.exp(-self.beta[r] * affinity) @ self.values[r])
        return {"ce": cross_entropy(self.scale * batch.v @ self.text.T + torch.stack(near), batch)}

    backward = ContextLearner.backward


class TipAdapterF(Trained):
    name = "tip-adapter-f"
    chooses = True
    varies = (*Trained.varies, "alpha", "beta", "search")

    @dataclass(frozen=True)
    class Config(CacheConfig):
        epochs: int = 20
        batch: int = 256
        lr: float = 0.001
        faithful: bool = False

    @property
    def recipe(self) -> Recipe:
        c = self.config
        return Recipe(c.epochs, c.batch, c.lr, "adamw", weight_decay=0.01, betas=(0.9, 0.999), eps=1e-4, warmup_epochs=0)

    @property
    def stages(self) -> int:
        return 10 if self.config.faithful else 1

    @classmethod
    def learner(
        cls, backbone: Any, task: Task, methods: Sequence[Any], data: Sequence[LabelledFeatures], seeds: Sequence[int]
    ) -> KeysLearner:
        if methods[0].config.faithful:
            methods = [cls(replace(method.config, beta=1.0)) for method in methods]
        return KeysLearner(backbone, task, methods, data)

    def prompt_set(self, learner: KeysLearner, r: int, backbone: Backbone, task: Task) -> PromptSet:
        old = learner.heads[r]
        keys = learner.parameters[r]["keys"].detach().cpu().numpy()
        head = CacheHead(old.embeddings, old.scale, keys, old.values, learner.alpha[r], learner.beta[r])
        head = searched(head, learner.data[r]) if self.config.search else head
        return made_set(self, backbone, task, head, "cache", template=HAND_WRITTEN)
