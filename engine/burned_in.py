"""Text that seems to stand in the pixels, and black areas over it.

How it is found: overlay text is drawn thin, sharply, with one grey value, and in rows with nothing close above or below.
So thin strokes are taken that are brighter (or darker) than what lies around them, joined to characters, and linked to rows
that share a height, a grey value and a base line. It is no guarantee: what is found depends on how the text was drawn, and
handwriting, single letters and rotated or very large text are not looked for. docs/privacy.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from engine.types import Box, Image

# Lengths are in pixels of the image that is looked at: the whole one, and one at half its size for larger characters.
WORKED_ON = 1100  # of the longer side; a larger image is made smaller first
STROKE = 7  # wider strokes are not thin
HEIGHTS = (4, 28)  # of a character
CONTRAST = 0.15  # of a stroke to what lies around it
MOST = 800  # characters; where there are more, those with the strongest contrast


@dataclass(frozen=True)
class _Marks:
    """What may be characters; arrays of equal length. Rows and columns as in slices, contrast and grey are means."""

    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray
    grey: np.ndarray
    contrast: np.ndarray

    def __len__(self) -> int:
        return len(self.top)

    def some(self, which: np.ndarray) -> _Marks:
        return _Marks(*(getattr(self, each.name)[which] for each in fields(self)))


def find_text(image: Image) -> list[Box]:
    """Where text seems to stand, in image pixels, from the top down; empty where none is found."""
    shrink = -(-max(image.shape) // WORKED_ON)
    found: list[Box] = []
    for grey, scale in product(_greys(image.pixels), (shrink, 2 * shrink, 4 * shrink)):
        small = _smaller(grey, scale)
        if min(small.shape) < 2 * HEIGHTS[0]:
            continue
        for signed in (small, 255 - small):
            mask, marks = _marks(signed)
            found += [_box(row, scale, image.shape) for row in _rows(marks) if _is_text(row, mask)]
    return sorted(_joined(found), key=lambda box: (box.top, box.left))


def cover(image: Image, boxes: Sequence[Box]) -> Image:
    """The image with everything in the boxes black, and a note. Give all boxes at once: the note counts them.

    A pixel that a box touches is in it; boxes that lie outside are left out. Covering the same again changes nothing.
    """
    rows, columns = image.shape
    pixels, count = image.pixels.copy(), 0
    for box in boxes:
        top, left = max(0, int(np.floor(box.top))), max(0, int(np.floor(box.left)))
        bottom, right = int(np.ceil(box.top + box.height)), int(np.ceil(box.left + box.width))
        if top < min(bottom, rows) and left < min(right, columns):
            pixels[top:bottom, left:right] = 0
            count += 1
    if not count:
        return image
    note = f"{count} area{'s were' if count > 1 else ' was'} covered before classification."
    return replace(image, pixels=pixels, notes=image.notes if note in image.notes else (*image.notes, note))


def _greys(pixels: np.ndarray) -> list[np.ndarray]:
    """(H, W) uint8. Of colours the largest and the smallest: yellow on black stands out in the one, white on pink in the
    other."""
    values = np.rint(pixels * 255).astype(np.uint8)
    if values.ndim == 2:
        return [values]
    planes = [np.ascontiguousarray(values[..., i]) for i in range(3)]
    return [reduce(np.maximum, planes), reduce(np.minimum, planes)]


def _smaller(grey: np.ndarray, scale: int) -> np.ndarray:
    if scale == 1:
        return grey
    rows, columns = (extent // scale for extent in grey.shape)
    return grey[: rows * scale, : columns * scale].reshape(rows, scale, columns, scale).mean(axis=(1, 3)).astype(np.uint8)


def _over(values: np.ndarray, size: int, best: np.ufunc) -> np.ndarray:
    """np.minimum or np.maximum over a square of an odd size around each pixel, in steps that double."""
    for axis in (0, 1):
        beside = [(size // 2, size // 2) if axis == i else (0, 0) for i in (0, 1)]
        values, done = np.pad(values, beside, mode="edge"), 1
        while done < size:
            step = min(done, size - done)
            first, second = (slice(None, -step), slice(step, None))
            values = best(values[first], values[second]) if axis == 0 else best(values[:, first], values[:, second])
            done += step
    return values


def _marks(grey: np.ndarray) -> tuple[np.ndarray, _Marks]:
    """Bright thin strokes, (H, W) bool, and the connected ones that have a character's size."""
    above = grey - _over(_over(grey, STROKE, np.minimum), STROKE, np.maximum)  # the top-hat: what an opening takes away
    peak = _over(above, STROKE + 2, np.maximum)
    mask = (above > 255 * CONTRAST) & (above > peak // 2)  # half of the peak: smooth edges do not join neighbours
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    where = np.flatnonzero(labels)
    owner = labels.ravel()[where] - 1
    boxes = [(r.start, r.stop, c.start, c.stop) for r, c in ndimage.find_objects(labels)]
    top, bottom, left, right = np.array(boxes, dtype=np.intp).reshape(-1, 4).T
    area = np.bincount(owner, minlength=count)
    contrast = np.bincount(owner, above.ravel()[where], minlength=count) / (255 * np.maximum(area, 1))
    core = above.ravel()[where] > 0.8 * peak.ravel()[where]
    cores = np.maximum(np.bincount(owner[core], minlength=count), 1)
    value = np.bincount(owner[core], grey.ravel()[where][core], minlength=count) / (255 * cores)
    height, width = bottom - top, right - left
    fits = (height >= HEIGHTS[0]) & (height <= HEIGHTS[1]) & (width <= 4 * height)  # small letters may touch
    fits &= (area >= 0.8 * height) & (area >= 0.15 * height * width)
    found = _Marks(top, bottom, left, right, value, contrast).some(np.flatnonzero(fits))
    return mask, found.some(np.argsort(-found.contrast, kind="stable")[:MOST])


def _rows(marks: _Marks) -> Iterator[_Marks]:
    """At least three characters side by side, alike in height, grey and contrast."""

    def pairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return values[:, None], values[None, :]

    if len(marks) < 3:
        return
    (top, top2), (bottom, bottom2) = pairs(marks.top), pairs(marks.bottom)
    (left, left2), (right, right2) = pairs(marks.left), pairs(marks.right)
    height, height2 = bottom - top, bottom2 - top2
    low, high = np.minimum(height, height2), np.maximum(height, height2)
    gap = np.maximum(left, left2) - np.minimum(right, right2)
    linked = (np.minimum(bottom, bottom2) - np.maximum(top, top2) >= 0.6 * low) & (high <= 2 * low)
    linked &= (gap <= 1.2 * high) & (gap >= -0.3 * high)  # a space between words; letters that lean over
    linked &= np.abs(np.subtract(*pairs(marks.grey))) < 0.15
    linked &= np.abs(np.subtract(*pairs(marks.contrast))) < 0.25
    count, group = connected_components(linked, directed=False)
    for each in np.flatnonzero(np.bincount(group, minlength=count) >= 3):
        yield marks.some(np.flatnonzero(group == each))


def _is_text(row: _Marks, mask: np.ndarray) -> bool:
    """The thresholds were set on ../shared/data/sets with text drawn into them (tests/test_burned_in.py, docs/privacy.md)."""
    height = row.bottom - row.top
    typical = float(np.median(height))
    top, bottom, left, right = row.top.min(), row.bottom.max(), row.left.min(), row.right.max()
    if bottom - top > 2 * typical or height.std() > 0.45 * typical:
        return False
    near = max(1.0, 0.08 * typical)
    on_base = float(np.mean(np.abs(row.bottom - np.median(row.bottom)) <= near))
    on_top = float(np.mean(np.abs(row.top - np.median(row.top)) <= near))
    contrast, count = float(row.contrast.mean()), len(row)
    margin = int(max(2, 0.6 * typical))
    above, below = mask[max(0, top - margin) : top, left:right], mask[bottom : bottom + margin, left:right]
    inside = mask[top:bottom, left:right].mean()
    around = (above.sum() + below.sum()) / max(1, above.size + below.size)
    if around <= 0.08 * inside:  # nothing close above or below
        return (on_base >= 0.6 and contrast >= 0.22) if count > 3 else (on_base == 1 and contrast >= 0.3)
    if count >= 5 and on_base >= 0.8 and on_top >= 0.6:  # a line among lines
        return contrast >= 0.3
    return count >= 4 and on_base >= 0.6 and contrast >= 0.5


def _box(row: _Marks, scale: int, shape: tuple[int, int]) -> Box:
    """With a margin: strokes are thinner here than where they were drawn, and a row's first letter may be missing."""
    rise = 0.25 * float(np.median(row.bottom - row.top)) * scale
    top, left = max(0.0, row.top.min() * scale - rise), max(0.0, row.left.min() * scale - 4 * rise)
    bottom = min(float(shape[0]), row.bottom.max() * scale + rise)
    right = min(float(shape[1]), row.right.max() * scale + 4 * rise)
    return Box(top, left, bottom - top, right - left)


def _joined(boxes: list[Box]) -> list[Box]:
    """Boxes that overlap become one around them."""
    left = list(boxes)
    done: list[Box] = []
    while left:
        box = left.pop()
        touching = [i for i, other in enumerate(left) if _overlap(box, other)]
        if not touching:
            done.append(box)
            continue
        for i in reversed(touching):
            box = _around(box, left.pop(i))
        left.append(box)
    return done


def _overlap(a: Box, b: Box) -> bool:
    rows = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    return rows > 0 and min(a.left + a.width, b.left + b.width) > max(a.left, b.left)


def _around(a: Box, b: Box) -> Box:
    top, left = min(a.top, b.top), min(a.left, b.left)
    bottom, right = max(a.top + a.height, b.top + b.height), max(a.left + a.width, b.left + b.width)
    return Box(top, left, bottom - top, right - left)


def text_warning(found: Sequence[Box]) -> list[str]:
    """What to say of boxes that look like text: one sentence, or none."""
    if not found:
        return []
    areas = "1 area looks" if len(found) == 1 else f"{len(found)} areas look"
    return [
        f"{areas} like text. It may name a patient or give the answer away: cover it if so. Some text is missed by this search."
    ]
