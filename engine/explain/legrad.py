"""LeGrad: where attention would have to rise for the class to score higher. Bousselham et al., arXiv:2404.03214.

For each of the last LAYERS blocks: s = <target, mean token of the block in the joint space>; the gradient of s with
respect to the block's attention, negative parts cut (eq. 5), averaged over heads and queries (eq. 6); the mean over
blocks, patches only. The paper's final min-max scaling is left to the drawing, so that a map of nothing stays nothing.

Legend: B images, T targets, H heads, N tokens, h x w patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.backbones.base import Differentiable
from engine.explain._gradients import gradients
from engine.types import VisualPrompt

LAYERS = 6  # of 12: earlier blocks form edges and textures


def legrad(backbone: Differentiable, inputs: Tensor, targets: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
    """inputs (B, 3, S, S), targets (T, D) -> (B, T, h, w) float32, at least 0."""
    maps = []
    layers = backbone.attention_layers(inputs, LAYERS, visual_prompt)
    for layer in layers:
        risen = [  # negative parts cut, then the mean over heads and queries: (B, N)
            each.clamp(min=0).mean(dim=(1, 2)) for each in gradients(layer.pooled, targets, layer.weights)
        ]
        maps.append(torch.stack(risen, dim=1)[..., backbone.prefix_tokens :])
    return torch.stack(maps).mean(dim=0).unflatten(-1, backbone.grid)
