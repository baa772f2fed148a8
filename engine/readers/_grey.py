"""Stored grey values to [0, 1]: windows and automatic ranges, shared by the readers. numpy only."""

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
