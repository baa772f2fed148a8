"""Phrase to heat by patches: how much each place of an image, by itself, looks like the phrase. On any ViT, no boxes were learned.

Patches by the value path of the last block (MaskCLIP, arXiv:2112.01071; see explain/patch_similarity.py), the phrase by several
wordings whose features are averaged (CLIP, arXiv:2103.00020, 3.1.4), and contrast: raw cosines hardly differ between places, so
each patch says whether it is nearer to the phrase than to its strongest rival among the negatives.

Small findings: the image is also seen in windows at twice the size, which overlap by half; the heat of all windows of one size that
show a pixel is averaged, and the higher of the sizes' counts, for what is small is seen in one of them alone. Left out: interpolated positions in place of windows, which towers were not trained on.

Legend: V windows, P phrases, R negatives, D joint embedding, h x w patches, H, W image rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from engine.backbones.base import Backbone, ValuePatches, WithoutTorch
from engine.errors import ExplainError, ImageError
from engine.locate.base import boxes_of, grid_of, hottest, over_image, why_none
from engine.preprocess import place, prepare
from engine.types import Box, Heatmap, Image, Input, Located, Phrase

WORDINGS = ("{}", "an image of {}.", "a medical image showing {}.")
NEUTRAL = ("background", "normal tissue", "nothing unusual", "an empty region of the image")  # where no negatives are named
ZOOMS = (1, 2)
OVERLAPS = 0.5  # of neighbouring windows' sides, at least
WINDOWS = 160  # at most: a long image is not seen closer, and beyond that not at all
SMALL = 16  # pixels of a window's side, below which there is nothing to see
BATCH = 16  # windows of one forward pass


def windows(shape: tuple[int, int], zoom: int) -> list[tuple[int, int, int]]:
    """(top, left, side) of squares that cover an image of this shape (H, W), its shorter side divided by `zoom` each."""
    side = max(1, round(min(shape) / zoom))

    def starts(length: int) -> list[int]:
        count = math.ceil((length - side) / (side * (1 - OVERLAPS)) - 1e-9) + 1
        return sorted({round(at) for at in np.linspace(0, length - side, max(1, count))})

    return [(top, left, side) for top in starts(shape[0]) for left in starts(shape[1])]


class Patches:
    """backbone : any whose image tower shows its patches; zooms : the sizes at which an image is seen."""

    name = "patches"
    zooms: tuple[int, ...] = ZOOMS

    def __init__(self, backbone: Backbone, zooms: Sequence[int] = ()):
        """Raises ExplainError where the backbone cannot carry it."""
        if isinstance(backbone, WithoutTorch):
            raise ExplainError(
                f"{backbone.id!r} is an image tower, which reads no phrase.", f"Choose {backbone.of!r} itself."
            )
        self._check(backbone)
        self._backbone, self._zooms = backbone, tuple(zooms) or self.zooms
        self.model, self.device = backbone.id, f"{backbone.device} ({backbone.dtype})"

    def _check(self, backbone: Backbone) -> None:
        if not isinstance(backbone, ValuePatches):
            raise ExplainError(
                f"The backbone {backbone.id!r} does not show its patches, by which a phrase is found in an image.",
                "Choose one with a vision transformer that runs in torch, as scope-mini, or the locator windows.",
            )

    def _cells(self, inputs: Sequence[Input]) -> torch.Tensor:
        """(V, h, w, D), unit length: what is compared with the phrase, place by place."""
        assert isinstance(self._backbone, ValuePatches)
        return self._backbone.value_patches(torch.from_numpy(np.stack([each.pixels for each in inputs])))

    def locate(self, image: Image, phrases: Sequence[Phrase], negatives: Sequence[str], most: int) -> list[Located]:
        """Raises ImageError where the image is too long, BackboneError where a phrase is."""
        against, notes = tuple(negatives) or NEUTRAL, []
        seen = [(zoom, windows(image.shape, zoom)) for zoom in self._zooms]
        kept = [(zoom, each) for zoom, each in seen if zoom == 1 or (each[0][2] >= SMALL and len(each) <= WINDOWS)]
        kept = kept or [(1, windows(image.shape, 1))]
        if len(kept[0][1]) > WINDOWS:
            raise ImageError(
                f"The image is {image.shape[1]} x {image.shape[0]} pixels: too long to look through.", "Crop it."
            )
        if kept != seen:
            notes.append("Not looked at as closely as others: the image is too small or too long.")
        notes.append(f"Seen in {sum(len(each) for _, each in kept)} windows.")
        with torch.no_grad():
            texts = torch.stack([self._feature(each) for each in [*(p.text for p in phrases), *against]])
            heats = np.max([self._heat(image, each, texts, len(phrases)) for _, each in kept], axis=0)
        found = []
        for phrase, heat in zip(phrases, heats, strict=True):
            boxes, scores = boxes_of(heat, image.shape, most)
            said = () if len(boxes) else (why_none(heat, phrase),)
            whole = over_image(heat, image.shape, phrase, self.name, "runner-up")
            point = hottest(whole)
            found.append(Located(phrase, self.name, self.model, whole, boxes, scores, point, against, (*notes, *said)))
        return found

    def _feature(self, text: str) -> torch.Tensor:
        """(D,), unit length: the mean over the wordings."""
        mean = self._backbone.encode_texts([each.format(text) for each in WORDINGS]).mean(dim=0)
        return torch.nn.functional.normalize(mean, dim=-1)

    def _heat(self, image: Image, squares: list[tuple[int, int, int]], texts: torch.Tensor, phrases: int) -> np.ndarray:
        """texts (P + R, D) -> (P, h, w) in [0, 1]: the mean over the windows that show a place."""
        grid = grid_of(image.shape)
        scale = np.array(grid) / np.array(image.shape)
        total, count = np.zeros((phrases, *grid), np.float32), np.zeros(grid, np.float32)
        for start in range(0, len(squares), BATCH):
            part = squares[start : start + BATCH]
            inputs = [
                prepare(replace(image, pixels=image.pixels[top : top + side, left : left + side]), self._backbone.preprocess)
                for top, left, side in part
            ]
            cosines = torch.einsum("vhwd,td->vthw", self._cells(inputs).float().cpu(), texts.float().cpu())
            values = contrast(cosines, phrases, self._backbone.logit_scale).numpy()  # (V, P, h, w)
            for (top, left, _), each, heats in zip(part, inputs, values, strict=True):
                box = Box(
                    (top + each.box.top) * scale[0],
                    (left + each.box.left) * scale[1],
                    each.box.height * scale[0],
                    each.box.width * scale[1],
                )
                for p, heat in enumerate(heats):
                    placed = place(Heatmap(heat, box, "", self.name), grid)
                    shown = np.isfinite(placed)
                    total[p][shown] += placed[shown]
                count += shown
        return total / np.maximum(count, 1)


def contrast(cosines: torch.Tensor, phrases: int, scale: float) -> torch.Tensor:
    """cosines (V, P + R, h, w), phrases first -> (V, P, h, w) in [0, 1]: the phrase's probability against its strongest negative
    alone, at the model's scale; above 0.5 where it is nearer than all of them."""
    rival = cosines[:, phrases:].amax(dim=1, keepdim=True)
    return torch.sigmoid(scale * (cosines[:, :phrases] - rival))


def load(model: str, backbone: Backbone | None, device: str) -> Patches:
    """Raises ExplainError."""
    return Patches(needed(model, backbone, Patches.name))


def needed(model: str, backbone: Backbone | None, name: str) -> Backbone:
    if model or backbone is None:
        raise ExplainError(f"The locator {name!r} needs a backbone.", "Name it by itself, as in --backbone scope-mini.")
    return backbone
