"""Grad-CAM: which places of the last feature map raise the score, channel by channel. Selvaraju et al., arXiv:1610.02391.

The weight of a channel is the mean over all places of the score's gradient (eq. 1); a place's value is its weighted
channels' sum, negative sums cut (eq. 2). On a ResNet the feature map is the last stage's output, and gradients come
through the attention pool. On a ViT it is the patches behind the last block's first norm, the field's choice
(pytorch-grad-cam): a patch then acts on the class token by keys and values alone. Left out: CLS and other tokens that are no places.

Legend: B images, T targets, h x w places, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.backbones.base import FeatureMapped
from engine.explain._gradients import gradients
from engine.types import VisualPrompt


def grad_cam(backbone: FeatureMapped, inputs: Tensor, targets: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
    """inputs (B, 3, S, S), targets (T, D) -> (B, T, h, w) float32, at least 0."""
    shown = backbone.feature_map(inputs, visual_prompt)
    slopes = torch.stack(list(gradients(shown.features, targets, shown.values)))  # (T, B, h, w, C)
    weights = slopes.mean(dim=(2, 3))
    return torch.einsum("tbc,bhwc->bthw", weights, shown.values.detach().float()).clamp(min=0)
