"""LP++: a linear probe beside the text classifier, with step sizes from the data. Huang et al., arXiv:2404.02285.

logits_c = w_c . v + b_c + alpha_c * (v . t_c). W, b: full-batch SGD with momentum 0.9 and the step 4 N / lambda_max(F^T F);
alpha: every tenth epoch a step N / (4 max_c sum_i (f_i . t_c)^2) down the gradient gathered since. Start: w_c the sum of the
class's unit features, alpha_c 250 times the mean cosine of own class and text. The epoch of the best validation accuracy is
kept (the latest of equals), else the last.
faithful: upstream never sets alpha's gathered gradient back to zero (methods/biomedcoop.md 1.7).

Legend: N images, C classes, D joint embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.backbones.base import Backbone
from engine.context import HAND_WRITTEN, hand_written
from engine.errors import Stopped
from engine.heads import LinearHead
from engine.methods.base import Configured, LabelledFeatures, check_data, data_card, made_set
from engine.prompts import PromptSet
from engine.tasks import Task
from engine.training import Watch

EVERY = 10  # epochs between steps of alpha


class LPPlusPlus(Configured):
    name = "lp++"
    is_trained = True
    chooses = True
    sees_views = False

    @dataclass(frozen=True)
    class Config:
        epochs: int = 300
        faithful: bool = False

    def learn(
        self,
        backbone: Backbone,
        task: Task,
        data: LabelledFeatures | None = None,
        seed: int = 1,
        watch: Watch | None = None,
    ) -> PromptSet:
        data = check_data(self.name, backbone, task, data)
        text = hand_written(backbone, task.names).cpu()  # (C, D)
        weights, bias, alpha = self.fit(data, text, seed, watch or Watch())
        joined = (weights + alpha[:, None] * text).numpy()  # alpha_c * (v . t_c) is linear in v too
        head = LinearHead.of_weights(joined, bias.numpy())
        return made_set(self, backbone, task, head, template=HAND_WRITTEN, data=data_card(data, seed))

    def fit(self, data: LabelledFeatures, text: Tensor, seed: int, watch: Watch) -> tuple[Tensor, Tensor, Tensor]:
        """weights (C, D), bias (C,), alpha (C,)."""
        f, y = torch.from_numpy(np.ascontiguousarray(data.views[0])), torch.from_numpy(data.targets)
        own = F.one_hot(y, len(text)).float()  # (N, C)
        near = f @ text.T  # (N, C)
        weights = own.T @ f
        bound = 1 / text.shape[1] ** 0.5  # torch's default for a linear layer's bias
        bias = (2 * torch.rand(len(text), generator=torch.Generator().manual_seed(seed)) - 1) * bound
        alpha = 250 * ((near * own).sum(dim=0) / own.sum(dim=0)).mean().expand(len(text)).clone()
        n = len(f)
        step = 4 * n / torch.linalg.eigvalsh(f.T @ f)[-1]
        alpha_step = n / (4 * near.square().sum(dim=0).max())
        gathered = torch.zeros_like(alpha)
        momenta = [torch.zeros_like(weights), torch.zeros_like(bias)]
        kept, best = (weights, bias, alpha), -1.0
        for epoch in range(self.config.epochs):
            away = ((f @ weights.T + bias + alpha * near).softmax(dim=1) - own) / n  # (N, C): the gradient of the logits
            gathered += (away * near).sum(dim=0)
            for momentum, gradient in zip(momenta, (away.T @ f, away.sum(dim=0)), strict=True):
                momentum.mul_(0.9).add_(gradient)
            weights, bias = weights - step * momenta[0], bias - step * momenta[1]
            if (epoch + 1) % EVERY == 0:
                alpha = alpha - alpha_step * gathered
                if not self.config.faithful:
                    gathered.zero_()
            if data.validation is None or data.validation_targets is None or not len(data.validation):
                kept = (weights, bias, alpha)
            else:
                v = torch.from_numpy(data.validation)
                found = (v @ weights.T + bias + alpha * (v @ text.T)).argmax(dim=1)
                right = float((found == torch.from_numpy(data.validation_targets)).float().mean())
                if right >= best:
                    kept, best = (weights, bias, alpha), right
            if watch.progress and ((epoch + 1) % EVERY == 0 or epoch + 1 == self.config.epochs):
                loss = F.cross_entropy(f @ weights.T + bias + alpha * near, y)
                watch.progress(epoch + 1, self.config.epochs, float(loss))
            if watch.stop and watch.stop():
                raise Stopped(f"The training was stopped after epoch {epoch + 1} of {self.config.epochs}.")
        return kept
