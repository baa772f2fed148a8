"""Stored grey values to [0, 1] (windows, automatic ranges) and unequal to equal spacing, shared by the readers. numpy only."""

from __future__ import annotations

import numpy as np

from engine.errors import ImageError
from engine.types import Window

BAND = 1 << 22  # values that are windowed at once: a large frame in float64 would take gigabytes
PERCENTILES = (0.5, 99.5)  # of unpadded pixels; the ends hold hot pixels and markers


def apply_window(values: np.ndarray, window: Window) -> np.ndarray:
    """values, any shape, in the window's units -> float32 in [0, 1]; NaN becomes 0. PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Raises ImageError for a width below 1 (LINEAR), or of 0 or less (LINEAR_EXACT, SIGMOID).
    """
    c, w, function = window.center, window.width, window.function
    least = 1.0 if function == "LINEAR" else np.nextafter(0.0, 1.0)
    if not (np.isfinite(c) and np.isfinite(w) and w >= least):
        raise ImageError(
            f"A window of centre {c:g} and width {w:g} cannot be applied ({function}).",
            f"(0028,1051) Window Width must be {'at least 1' if function == 'LINEAR' else 'above 0'}.",
        )
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ImageError(
            f"(0028,1056) VOI LUT Function {function[:32]!r} is not known.", "Use LINEAR, LINEAR_EXACT or SIGMOID."
        )
    flat, shown = values.reshape(-1), np.empty(values.size, dtype=np.float32)
    for start in range(0, flat.size, BAND):
        part = slice(start, start + BAND)
        shown[part] = np.nan_to_num(np.clip(_shown(flat[part].astype(np.float64), c, w, function), 0, 1))
    return shown.reshape(values.shape)


def _shown(x: np.ndarray, c: float, w: float, function: str) -> np.ndarray:
    if function == "LINEAR":  # C.11.2.1.2.1
        if w == 1:  # the formula's ramp has no width: a threshold
            return x > c - 0.5
        return (x - (c - 0.5)) / (w - 1) + 0.5
    if function == "LINEAR_EXACT":  # C.11.2.1.3.2
        return (x - c) / w + 0.5
    return 1 / (1 + np.exp(np.clip(-4 * (x - c) / w, -700, 700)))  # SIGMOID, C.11.2.1.3.1


def automatic_window(values: np.ndarray, padded: np.ndarray | None = None) -> Window:
    """The window from the 0.5 to the 99.5 percentile of the finite values outside `padded` (bool, same shape)."""
    kept = values[np.isfinite(values)] if padded is None else values[np.isfinite(values) & ~padded]
    if not kept.size:
        kept = np.zeros(1)
    low, high = (float(p) for p in np.percentile(kept, PERCENTILES, overwrite_input=True))
    if high <= low:
        low, high = float(kept.min()), float(kept.max())
    width = high - low or 1.0
    return Window((low + high) / 2, width, "LINEAR_EXACT", "automatic")


def is_automatic(window: Window) -> bool:
    """Whether a window only asks for the automatic one, as Window(nan, nan, source="automatic") does."""
    return window.source == "automatic" and bool(np.isnan(window.center) or np.isnan(window.width))


SQUARE = 0.001  # spacings that differ by less are equal: half a pixel in 512


def square(pixels: np.ndarray, spacing: tuple[float, float]) -> tuple[np.ndarray, tuple[float, float]]:
    """Pixels of equal distance along rows and columns, and that distance: no pixel is lost, the other axis gets more of them.

    pixels : (H, W) or (H, W, 3), any type; what is returned is float32, or `pixels` itself where nothing is to be done
    spacing : (row, column) distance, in any unit. Bilinear between pixel centres.
    """
    row, column = spacing
    if abs(row / column - 1) < SQUARE:
        return pixels, spacing
    axis, least = (0, column) if row > column else (1, row)
    return _stretched(pixels, axis, stretched_to(pixels.shape[:2], spacing)[axis]), (least, least)


def stretched_to(shape: tuple[int, ...], spacing: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns after `square`."""
    (high, wide), (row, column) = shape[:2], spacing
    if abs(row / column - 1) < SQUARE:
        return high, wide
    return (round(high * row / column), wide) if row > column else (high, round(wide * column / row))


def affine_after(affine: np.ndarray | None, old: tuple[int, ...], new: tuple[int, ...]) -> np.ndarray | None:
    """The affine of a frame of `new` instead of `old` rows and columns with the same edges."""
    if affine is None:
        return None
    down, right = old[0] / new[0], old[1] / new[1]
    steps = np.diag([right, down, 1.0, 1.0])
    steps[:2, 3] = (right - 1) / 2, (down - 1) / 2  # the centre of the first pixel
    return affine @ steps


def _stretched(pixels: np.ndarray, axis: int, length: int) -> np.ndarray:
    """`length` samples along `axis`, the outer edges of the first and last pixel kept in place."""
    have = pixels.shape[axis]
    at = np.clip((np.arange(length) + 0.5) * have / length - 0.5, 0, have - 1)
    low = np.floor(at).astype(np.intp)
    share = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(pixels.ndim)])
    below = np.take(pixels, low, axis).astype(np.float32)
    return below + share * (np.take(pixels, np.minimum(low + 1, have - 1), axis) - below)
