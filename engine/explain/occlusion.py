"""Occlusion: what the score loses when a place is covered. Zeiler & Fergus, arXiv:1311.2901, section 4.2. Any backbone; slow.

Grey squares (the preprocessing's mean, 0 after it) of two cells' side, one cell apart, cover the input; a cell's value is
the mean drop of <target, image feature> over the squares that cover it. It needs 170 forwards an image and no gradient,
so that it can verify the other maps.

Legend: B images, T targets, K squares, S input size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.backbones.base import Backbone
from engine.types import VisualPrompt

CELLS = 14  # a side: squares of a seventh of the input's side, overlapping by half
AT_ONCE = 32  # covered inputs in one forward


@torch.no_grad()
def occlusion(backbone: Backbone, inputs: Tensor, targets: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
    """inputs (B, 3, S, S), targets (T, D) -> (B, T, CELLS, CELLS) float32: below 0 where covering raises the score."""
    edges = [round(i * inputs.shape[-1] / CELLS) for i in range(CELLS + 1)]
    corners = [(i, j) for i in range(CELLS - 1) for j in range(CELLS - 1)]
    whole = _scores(backbone, inputs, targets, visual_prompt)  # (B, T)
    drops = whole.new_zeros(len(inputs), len(corners), len(targets))  # (B, K, T)
    work = [(b, k) for b in range(len(inputs)) for k in range(len(corners))]
    for begin in range(0, len(work), AT_ONCE):
        some = work[begin : begin + AT_ONCE]
        covered = inputs[[b for b, _ in some]].clone()
        for square, (_, k) in zip(covered, some, strict=True):
            i, j = corners[k]
            square[:, edges[i] : edges[i + 2], edges[j] : edges[j + 2]] = 0
        for (b, k), score in zip(some, _scores(backbone, covered, targets, visual_prompt), strict=True):
            drops[b, k] = whole[b] - score
    total, times = whole.new_zeros(len(inputs), len(targets), CELLS, CELLS), whole.new_zeros(CELLS, CELLS)
    for k, (i, j) in enumerate(corners):
        total[:, :, i : i + 2, j : j + 2] += drops[:, k, :, None, None]
        times[i : i + 2, j : j + 2] += 1
    return total / times


def _scores(backbone: Backbone, inputs: Tensor, targets: Tensor, visual_prompt: VisualPrompt | None) -> Tensor:
    features = backbone.encode_images(inputs, visual_prompt).float()
    return features @ targets.to(features).T  # (B, T)
