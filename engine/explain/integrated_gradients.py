"""Integrated gradients: what each place adds to the score on the way from a blurred input to this one. Sundararajan et al.,
arXiv:1703.01365.

The gradient of <target, image feature> along the straight way from the blurred input to the input, times what the place
changes on that way (eq. 1), summed over a cell's pixels and channels. So all cells together come to what the score gains by
sharpness (completeness), as far as the midpoint rule is exact at STEPS points. From a black start (the paper's) a black place
could say nothing; a blurred one is Fong & Vedaldi's replacement (arXiv:1704.03296).

It follows the score through all blocks to the pixels, and needs nothing of a tower but its gradient.

Legend: B images, T targets, S input size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.backbones.base import InputDifferentiable
from engine.explain._blur import blurred
from engine.explain._gradients import gradients
from engine.types import VisualPrompt

CELLS = 14  # a side, whatever the tower's patches are
STEPS = 2  # points on the way, each a pass forward, and a pass backward a target


def integrated_gradients(
    backbone: InputDifferentiable, inputs: Tensor, targets: Tensor, visual_prompt: VisualPrompt | None = None
) -> Tensor:
    """inputs (B, 3, S, S), targets (T, D) -> (B, T, CELLS, CELLS) float32: below 0 where a place speaks against the target."""
    inputs, size = inputs.float(), inputs.shape[-1]
    start = blurred(inputs, size / CELLS)
    added = torch.zeros(len(targets), *inputs.shape, device=inputs.device)
    for step in range(STEPS):
        leaf = torch.lerp(start, inputs, (step + 0.5) / STEPS).requires_grad_(True)
        features = backbone.differentiable_features(leaf, visual_prompt)
        for total, slope in zip(added, gradients(features, targets, leaf), strict=True):
            total += slope * (inputs - start) / STEPS
    cells = F.one_hot(torch.arange(size, device=inputs.device) * CELLS // size, CELLS).float()  # (S, CELLS)
    return (cells.T @ added.sum(dim=2) @ cells).transpose(0, 1)
