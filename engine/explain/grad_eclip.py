"""Grad-ECLIP: what each patch's values add to the score through the last attention. Zhao et al., ICML 2024, arXiv:2502.18816.

For the last block: w, the gradient of s = <target, image feature> with respect to the attention's output at CLS, weighs
the channels; lambda_i, the cosine of CLS's query and patch i's key over all heads together, min-max scaled over the
patches, loosens the softmax, which is too sparse in CLIP; a patch's value is ReLU(sum_c w_c lambda_i v_ic). Without the
scaling a negative cosine turns the sign of what a patch says. The authors' code runs the last attention with one head;
here it is the model's own.

Where a model pools its patches instead of CLS, each patch is a query, and the sum runs over queries, too.

Legend: B images, T targets, H heads, R tokens that the feature is read from (CLS), P patches, C channels of all heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.backbones.base import LastBlockOpen
from engine.explain._gradients import gradients
from engine.types import VisualPrompt


def grad_eclip(
    backbone: LastBlockOpen, inputs: Tensor, targets: Tensor, visual_prompt: VisualPrompt | None = None
) -> Tensor:
    """inputs (B, 3, S, S), targets (T, D) -> (B, T, h, w) float32, at least 0."""
    block = backbone.last_block(inputs, visual_prompt)
    queries, keys, values = (_channels(each) for each in (block.queries, block.keys, block.values))
    keys, values = keys[:, backbone.prefix_tokens :], values[:, backbone.prefix_tokens :]  # (B, P, C)
    loosened = _scaled(F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(1, 2))  # (B, R, P)
    slopes = torch.stack(list(gradients(block.features, targets, block.mixed)))  # (T, B, H, R, C / H)
    slopes = slopes.transpose(2, 3).flatten(3)  # (T, B, R, C)
    weighted = torch.einsum("tbrc,bpc->tbrp", slopes, values)
    maps = (weighted * loosened).sum(dim=2).clamp(min=0).transpose(0, 1)  # (B, T, P)
    return F.pad(maps, (block.overwritten, 0)).unflatten(-1, backbone.grid)


def _channels(heads: Tensor) -> Tensor:
    """(B, H, N, C / H) -> (B, N, C) float32."""
    return heads.transpose(1, 2).flatten(2).float()


def _scaled(cosines: Tensor) -> Tensor:
    """Min-max over the last dimension; all 1 where all are equal."""
    low, high = cosines.aminmax(dim=-1, keepdim=True)
    return torch.where(high > low, (cosines - low) / (high - low), torch.ones_like(cosines))
