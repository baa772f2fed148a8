"""Linear probe: logistic regression on the image features. Radford et al., arXiv:2103.00020, appendix A.3.

C is searched on validation images as upstream's BiomedCoOp does: the best of 1e6 to 1e-6 in steps of 100, then eight halvings
of the step around it on log10 C. Without any, C is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn.linear_model import LogisticRegression

from engine.backbones.base import Backbone
from engine.heads import LinearHead
from engine.methods.base import Configured, LabelledFeatures, check_data, data_card, made_set
from engine.prompts import PromptSet
from engine.tasks import Task
from engine.training import Watch

GRID = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
HALVINGS = 8


def fitted(data: LabelledFeatures, c: float, iterations: int) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=iterations).fit(data.views[0], data.targets)


def searched(data: LabelledFeatures, iterations: int) -> float:
    """C by validation accuracy; the first of equals."""
    if data.validation is None or not len(data.validation):
        return 1.0

    @cache  # the centre of a halving was fitted before
    def score(c: float) -> float:
        return float(fitted(data, c, iterations).score(data.validation, data.validation_targets))

    centre = np.log10(max(GRID, key=score))
    step = 1.0
    for _ in range(HALVINGS):
        centre = max((centre, centre - step, centre + step), key=lambda x: score(10.0**x))
        step /= 2
    return float(10.0**centre)


class LinearProbe(Configured):
    name = "linear-probe"
    chooses = True
    sees_views = False

    @dataclass(frozen=True)
    class Config:
        """iterations : the most that the solver (L-BFGS) takes"""

        iterations: int = 1000

    def learn(
        self,
        backbone: Backbone,
        task: Task,
        data: LabelledFeatures | None = None,
        seed: int = 1,
        watch: Watch | None = None,
    ) -> PromptSet:
        data = check_data(self.name, backbone, task, data)
        found = fitted(data, searched(data, self.config.iterations), self.config.iterations)
        weights, bias = found.coef_, found.intercept_
        if len(weights) == 1:  # two classes share one row: softmax of (-z / 2, z / 2) is the sigmoid of z
            weights, bias = np.concatenate([-weights / 2, weights / 2]), np.concatenate([-bias / 2, bias / 2])
        return made_set(self, backbone, task, LinearHead.of_weights(weights, bias), data=data_card(data, seed))
