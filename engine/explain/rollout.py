"""Attention rollout: where the encoder attends, followed through all blocks. Abnar & Zuidema, arXiv:2005.00928, section 3.

The product of the blocks' (A + I) / 2, A the mean over heads and I the residual way, rows scaled to sum to 1; of it the
row of CLS. It knows no class: every target has the same map. What goes to a visual prompt's tokens, which are put there
anew before each block and know nothing of the image, is left out by the scaling of rows.

Legend: B images, T targets, H heads, N tokens, h x w patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.backbones.base import EveryAttention
from engine.types import VisualPrompt


def rollout(backbone: EveryAttention, inputs: Tensor, targets: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
    """inputs (B, 3, S, S), targets (T, D) -> (B, T, h, w) float32, at least 0: shares of a path, the same for every target."""
    layers = backbone.every_attention(inputs, visual_prompt)
    identity = torch.eye(layers[0].shape[-1], device=layers[0].device)
    rows = identity[backbone.pooled_tokens].expand(len(inputs), -1, -1)  # (B, 1, N): only CLS's row of the product is wanted
    for weights in reversed(layers):
        mixed = (weights.float().mean(dim=1) + identity) / 2  # (B, N, N)
        rows = rows @ (mixed / mixed.sum(dim=-1, keepdim=True))
    row = rows.mean(dim=1)[:, backbone.prefix_tokens :]
    return row.unflatten(-1, backbone.grid)[:, None].repeat(1, len(targets), 1, 1)
