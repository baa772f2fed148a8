"""One graph, many targets: the gradients that maps share.

One backward a target: a batched one (is_grads_batched) was no faster on a processor (eight targets of LeGrad: 4.22 forwards
of CPU time in one batch, 4.18 one by one) and takes the memory of all.

Legend: B images, T targets, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def gradients(features: Tensor, targets: Tensor, leaf: Tensor) -> Iterator[Tensor]:
    """For each target, in their order, (leaf.shape) float32: d <target, feature of an image> / d that image's leaf.

    features : (B, D) with a graph to leaf (B, ...), which the last target frees; targets : (T, D)
    """
    for t, target in enumerate(targets.to(features)):
        # d <target, feature> / d feature is the target
        (found,) = torch.autograd.grad(features, leaf, target.expand_as(features), retain_graph=t + 1 < len(targets))
        yield found.float()
