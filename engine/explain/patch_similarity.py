"""Patch similarity by the value path: how much each patch, by itself, looks like the class. One forward, all classes at once.

Each patch's values in the last block go through the attention's output projection, the final norm and the projection to
the joint space, and the map is <target, that unit vector>. No attention mixes the patches there (MaskCLIP, Zhou et al.,
arXiv:2112.01071): CLIP's own last tokens carry the image's whole, and their similarity often marks the background
(CLIP Surgery, arXiv:2304.05653). Left out, as in ClearCLIP (arXiv:2407.12442): the last block's residual way and its MLP.

Legend: B images, T targets, D joint embedding, h x w patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.backbones.base import ValuePatches
from engine.types import VisualPrompt


def patch_similarity(
    backbone: ValuePatches, inputs: Tensor, targets: Tensor, visual_prompt: VisualPrompt | None = None
) -> Tensor:
    """inputs (B, 3, S, S), targets (T, D) -> (B, T, h, w) float32: cosines where targets have unit length, below 0 as well."""
    patches = backbone.value_patches(inputs, visual_prompt)  # (B, h, w, D)
    return torch.einsum("bhwd,td->bthw", patches, targets.to(patches))
