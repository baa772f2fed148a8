"""What a locator is, and how heat becomes boxes. Nothing here knows a model.

Heat to boxes: regions above a threshold that hang together, a box around each, score = sqrt(mean heat inside x peak), after
GLIP's sqrt(p x centerness) (methods/miu_vl.md 7.2); NMS at 0.6 as GLIP has it. Two thresholds propose boxes, a share of the
highest value and Otsu's (IEEE SMC 9(1), 1979): small findings and large ones want different ones.

Legend: H, W image rows and columns; h, w heat rows and columns; N boxes; P phrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy import ndimage
from torchvision.ops import nms

from engine.tasks import SLOTS, DescriptionBank
from engine.templates import where
from engine.types import Box, Heatmap, Image, Located, Phrase

LONGEST = 512  # cells of a heat's longer side at most: what can be seen, at a bounded cost
SHARE = 0.5  # of the way from the lowest heat to the highest: half of a peak's height is as wide as what made it
FOUND = 0.5  # heat above this is nearer to the phrase than to what it is held against
SMALLEST = 4e-4  # of the image's area: less is a speck, not a region (about 20 x 20 pixels of 1000 x 1000)
WHOLE = 0.8  # of the image's area: a box above it is the picture, and says nothing about where
OVERLAP = 0.6  # intersection over union above which the lower box goes, GLIP's


@runtime_checkable
class Locator(Protocol):
    """name : its registry name; model : what computes; device : where ("cpu (float32)")."""

    name: str
    model: str
    device: str

    def locate(self, image: Image, phrases: Sequence[Phrase], negatives: Sequence[str], most: int) -> list[Located]:
        """One result a phrase, each with at most `most` boxes; where there is none the last note says why. The image is not the
        same everywhere, phrases are not empty."""
        ...


def grid_of(shape: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the heat over an image of this shape (H, W): its pixels, or fewer where it is large."""
    scale = min(1.0, LONGEST / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def otsu(values: np.ndarray) -> float:
    """The threshold between 64 bins that parts values best in two: the greatest variance between the parts. Otsu 1979, eq. 14."""
    counts, edges = np.histogram(values.astype(float), bins=64)  # of float32 that hardly differ there are no 64
    centres = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(counts)[:-1].astype(float), np.cumsum(counts * centres)[:-1]
    above, total = values.size - below, float((counts * centres).sum())
    both = (below > 0) & (above > 0)
    apart = np.zeros(len(below))
    apart[both] = below[both] * above[both] * (sums[both] / below[both] - (total - sums[both]) / above[both]) ** 2
    return float(edges[1:-1][apart.argmax()])


def boxes_of(heat: np.ndarray, shape: tuple[int, int], most: int, found: float = FOUND) -> tuple[np.ndarray, np.ndarray]:
    """heat (h, w) in [0, 1] over an image of this shape (H, W) -> boxes (N, 4) in its pixels and scores (N,), as Located has them.

    A box holds heat above `found` and is not the whole picture, so that there may be none.
    """
    cells, scores = _regions(heat, found)
    part = (cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1]) <= WHOLE * heat.size
    across, down = shape[1] / heat.shape[1], shape[0] / heat.shape[0]
    return best(cells[part] * np.array([across, down, across, down], np.float32), scores[part], most)


def why_none(heat: np.ndarray, phrase: Phrase) -> str:
    """Why `boxes_of` finds none in the heat of a phrase, in a sentence."""
    if len(_regions(heat, FOUND)[0]):
        return f"{phrase.text!r} fits the whole picture: no place stands out."
    return f"No place looks more like {phrase.text!r} than like what it is held against."


def _regions(heat: np.ndarray, found: float) -> tuple[np.ndarray, np.ndarray]:
    """(boxes (N, 4) in cells, scores (N,)), float32: what hangs together above either threshold and holds heat above `found`."""
    low, peak = float(heat.min()), float(heat.max())
    cells, proposals = [], []
    for threshold in {low + SHARE * (peak - low), otsu(heat)} if peak > found else ():
        labels, _ = ndimage.label(heat > threshold)
        sizes = np.bincount(labels.ravel())
        for label, place in enumerate(ndimage.find_objects(labels), start=1):
            inside = heat[place]
            if sizes[label] < SMALLEST * heat.size or not inside.max() > found:
                continue
            cells.append((place[1].start, place[0].start, place[1].stop, place[0].stop))
            proposals.append(float(np.sqrt(inside.mean() * inside.max())))
    return np.array(cells, np.float32).reshape(-1, 4), np.array(proposals, np.float32)


def best(boxes: np.ndarray, scores: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest of boxes that overlap, and of these the `most` highest."""
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), OVERLAP).numpy()[:most]
    return boxes[kept], scores[kept]


def over_image(heat: np.ndarray, shape: tuple[int, int], phrase: Phrase, method: str, target: str) -> Heatmap:
    """Heat (h, w) that covers an image of this shape (H, W)."""
    return Heatmap(heat.astype(np.float32), Box(0.0, 0.0, float(shape[0]), float(shape[1])), phrase.text, method, target)


def hottest(heat: Heatmap) -> tuple[float, float] | None:
    """Located's point: of the highest cells those that hang together, of such groups the largest, and its middle."""
    values, over = heat.values, heat.box
    if not np.ptp(values):
        return None
    labels, _ = ndimage.label(values == values.max())
    y, x = np.nonzero(labels == 1 + np.bincount(labels.ravel())[1:].argmax())
    return (
        over.left + float(x.mean() + 0.5) / values.shape[1] * over.width,
        over.top + float(y.mean() + 0.5) / values.shape[0] * over.height,
    )


def described(bank: DescriptionBank, label: str, kind: str = "", slots: Sequence[str] = SLOTS) -> Phrase:
    """A class with its attributes: "colour, shape, texture, NAME in location" (MIU-VL's order: [COLOR], [SHAPE], [CLS] [LOCATION]).

    kind : of the name (medical, query, lay), or "" for the label; slots : which to say, each by the bank's first word
    """
    each = bank.classes[label]
    words = {slot: each.attributes[slot][0] for slot in slots if each.attributes.get(slot)}
    name = (each.synonyms.get(kind) or (label,))[0]
    place = where(words.pop("location", ""))
    before = [words[slot] for slot in SLOTS if slot in words]
    return Phrase(name, "".join(f"{word}, " for word in before), f" {place}" if place else "")
