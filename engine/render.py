"""Engine values to pictures: pure functions, uint8 arrays (H, W, 3).

A map's colours run from its lowest seen value, or from 0 where it has values on both sides of it, to its highest: what speaks against
a class stays clear. A flat map is drawn as nothing, and pixels that the model did not see stay as they are.
"""

from __future__ import annotations

import numpy as np

from engine.types import Image

FLAT = 0.02  # less variation than this share of the largest value is shown as no signal
# Dark violet over red to pale yellow, monotone in lightness so that it reads in grey print too.
STOPS = np.array([[13, 8, 60], [106, 23, 110], [187, 55, 84], [237, 105, 37], [251, 180, 20], [252, 255, 164]], float)


def colours(t: np.ndarray) -> np.ndarray:
    """t in [0, 1], any shape -> float (..., 3) in 0 to 255."""
    at = np.linspace(0, 1, len(STOPS))
    return np.stack([np.interp(t, at, STOPS[:, c]) for c in range(3)], axis=-1)


def picture(image: Image) -> np.ndarray:
    """The image itself, uint8 (H, W, 3)."""
    grey = np.rint(image.pixels * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey


def relative(placed: np.ndarray, span: tuple[float, float] | None = None) -> np.ndarray:
    """A placed map (H, W), NaN where unseen, to [0, 1] over its own range, or over the `span` that it shares with others, from 0
    up where that holds 0; zero where flat or unseen."""
    seen = placed[np.isfinite(placed)]
    if not seen.size:
        return np.zeros(placed.shape, dtype=np.float32)
    low, high = float(seen.min()), float(seen.max())
    if high - low <= FLAT * max(abs(low), abs(high)):
        return np.zeros(placed.shape, dtype=np.float32)
    low, high = span or (low, high)
    if low < 0 < high:
        low = 0.0
    return np.clip(np.nan_to_num((placed - low) / (high - low)), 0, 1).astype(np.float32)


def is_flat(placed: np.ndarray) -> bool:
    """Is there nothing to draw?"""
    return not relative(placed).any()


def layer(placed: np.ndarray, span: tuple[float, float] | None = None) -> np.ndarray:
    """The map alone, uint8 (H, W, 4): colour by value, alpha by its square, so that low values leave the image clear."""
    t = relative(placed, span)
    return np.rint(np.concatenate([colours(t), 255 * t[..., None] ** 2], axis=-1)).astype(np.uint8)


def overlay(image: Image, placed: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """The image with a placed map over it, uint8 (H, W, 3). opacity in [0, 1]."""
    base = picture(image).astype(float)
    t = relative(placed)
    cover = (opacity * t**2)[..., None]
    return np.rint(base * (1 - cover) + colours(t) * cover).astype(np.uint8)


def outlined(drawn: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) with boxes (N, 4), x0, y0, x1, y1 in its pixels, around what they hold: the first in full strength and
    dark beside it, so that it reads on any ground; the others thinner."""
    drawn = drawn.copy()
    rows, columns = drawn.shape[:2]
    thick = max(1, round(max(rows, columns) / 300))
    for i, (x0, y0, x1, y1) in reversed(list(enumerate(np.rint(boxes).astype(int)))):
        ways = ((2 * thick, STOPS[0]), (thick, STOPS[-1])) if i == 0 else ((thick, STOPS[3]),)
        for width, colour in ways:
            top, bottom, left, right = (
                max(0, y0 - width),
                min(rows, y1 + width),
                max(0, x0 - width),
                min(columns, x1 + width),
            )
            line = np.ones((bottom - top, right - left), dtype=bool)
            line[max(0, y0 - top) : y1 - top, max(0, x0 - left) : x1 - left] = False
            drawn[top:bottom, left:right][line] = colour
    return drawn
