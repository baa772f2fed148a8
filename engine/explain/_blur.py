"""The input without what is as small as a cell: where paths to an image start, and what stands where a place is taken away.

Legend: B images, S input size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def blurred(inputs: Tensor, sigma: float) -> Tensor:
    """(..., S, S) -> the same shape, float32: a Gaussian of this standard deviation in pixels, its weights renormalised at the border."""
    at = torch.arange(inputs.shape[-1], dtype=torch.float64, device=inputs.device)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
    weights /= weights.sum(dim=1, keepdim=True)
    return (weights @ inputs.double() @ weights.T).float()
