"""Raw attention: where the encoder attends, whatever is asked. The last block's attention of CLS, mean over its heads.

It knows no class: every target has the same map. Where a model pools its patches instead of CLS, the mean over them.

Legend: B images, T targets, H heads, N tokens, h x w patches.
"""

from __future__ import annotations

from torch import Tensor

from engine.backbones.base import LastAttention
from engine.types import VisualPrompt


def attention(backbone: LastAttention, inputs: Tensor, targets: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
    """inputs (B, 3, S, S), targets (T, D) -> (B, T, h, w) float32, at least 0: shares of attention, the same for every target."""
    weights = backbone.last_attention(inputs, visual_prompt).float()  # (B, H, N, N)
    row = weights[:, :, backbone.pooled_tokens, backbone.prefix_tokens :].mean(dim=(1, 2))
    return row.unflatten(-1, backbone.grid)[:, None].repeat(1, len(targets), 1, 1)
