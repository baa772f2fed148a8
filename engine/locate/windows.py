"""Phrase to heat by windows: how much each part of an image, seen alone, looks like the phrase. Any backbone that reads text.

As patches.py, with a window's image feature in place of its patches: that is the feature which CLIP's training aligns with words,
and which a tower without aligned patches (docs/faithful.md: scope-mini's) has alone. An image is cut into windows of a quarter of its
shorter side, which overlap by half (scale chosen on validation composites, docs/locate.md): what is much smaller or larger than a
window is found badly, and no box is finer than half of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.backbones.base import Backbone
from engine.locate.patches import Patches, needed
from engine.predict import embed
from engine.types import Input


class Windows(Patches):
    name = "windows"
    zooms = (4,)

    def _check(self, backbone: Backbone) -> None:
        """Every backbone has image features."""

    def _cells(self, inputs: Sequence[Input]) -> torch.Tensor:
        """(V, 1, 1, D)."""
        return torch.from_numpy(embed(list(inputs), self._backbone))[:, None, None]


def load(model: str, backbone: Backbone | None, device: str) -> Windows:
    """Raises ExplainError."""
    return Windows(needed(model, backbone, Windows.name))
