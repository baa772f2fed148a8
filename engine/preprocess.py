"""From an image to a backbone's input, and from a map back to the image.

`prepare` and `place` are inverse in geometry: a pixel that `prepare` did not show to the model is NaN in `place`.
Resizing is Pillow's antialiased bicubic on float32, so that it equals open_clip's own transform to rounding
(open_clip.transform.image_transform: resize the shorter side, crop the centre) without its 8-bit step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import PIL.Image

from engine.errors import ImageError
from engine.types import Box, Heatmap, Image, Input

RESAMPLE = {"bicubic": PIL.Image.Resampling.BICUBIC, "bilinear": PIL.Image.Resampling.BILINEAR}
LONGEST = 64  # sides beyond this ratio would be resized to many times the input, to be cropped away


@dataclass(frozen=True)
class Preprocess:
    """What the weights were trained with; it travels with them (open_clip's preprocess_cfg).

    resize : "shortest" (shorter side to `size`, centre crop), "longest" (longer side to `size`, padded with
    `fill` in [0, 1]) or "squash" (both sides to `size`)
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: str = "shortest"
    fill: float = 0.0


def _resized(channel: np.ndarray, height: int, width: int, how: str) -> np.ndarray:
    picture = PIL.Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32))  # mode "F"
    return np.asarray(picture.resize((width, height), RESAMPLE[how]), dtype=np.float32)


def _start(side: int, size: int) -> int:
    """Where the input begins on a resized side: cropped in the centre as torchvision rounds, padded as open_clip does."""
    return round((side - size) / 2) if side >= size else -((size - side) // 2)


def _normalised(channels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """(1 or 3, S, S) in about [0, 1] (bicubic overshoots) -> (3, S, S)."""
    clipped = np.clip(np.broadcast_to(channels, (3, *channels.shape[1:])), 0.0, 1.0)
    mean = np.asarray(preprocess.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(preprocess.std, dtype=np.float32)[:, None, None]
    return (clipped - mean) / std


def _channels(image: Image) -> list[np.ndarray]:
    return [image.pixels] if image.pixels.ndim == 2 else [image.pixels[..., i] for i in range(3)]


def random_views(image: Image, preprocess: Preprocess, count: int, seed: int) -> np.ndarray:
    """(count, 3, S, S) float32: random resized crops as the papers train with (torchvision's RandomResizedCrop: 8 to 100 % of
    the area, aspect 3/4 to 4/3, ten tries, then the largest central crop of an allowed aspect). No flip."""
    rng, (rows, columns), size = np.random.default_rng(seed), image.shape, preprocess.size
    made = []
    for _ in range(count):
        top, left, height, width = _random_box(rows, columns, rng)
        crops = [channel[top : top + height, left : left + width] for channel in _channels(image)]
        resized = np.stack([_resized(crop, size, size, preprocess.interpolation) for crop in crops])
        made.append(_normalised(resized, preprocess))
    return np.stack(made)


def _random_box(rows: int, columns: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """top, left, height, width."""
    low, high = 3 / 4, 4 / 3
    for _ in range(10):
        area, ratio = rng.uniform(0.08, 1.0) * rows * columns, np.exp(rng.uniform(np.log(low), np.log(high)))
        width, height = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < width <= columns and 0 < height <= rows:
            return int(rng.integers(0, rows - height + 1)), int(rng.integers(0, columns - width + 1)), height, width
    height, width = rows, columns
    if columns / rows < low:
        height = max(1, round(columns / low))
    elif columns / rows > high:
        width = max(1, round(rows * high))
    return (rows - height) // 2, (columns - width) // 2, height, width


def prepare(image: Image, preprocess: Preprocess) -> Input:
    """The input (3, S, S) of a backbone and the box of the image that it shows."""
    size = preprocess.size
    rows, columns = image.shape
    if preprocess.resize == "squash":
        height = width = size
    elif preprocess.resize == "shortest":  # torchvision's resize truncates the longer side
        height, width = (max(1, side * size // min(rows, columns)) for side in (rows, columns))
    else:  # open_clip's ResizeKeepRatio rounds it
        height, width = (max(1, round(side * size / max(rows, columns))) for side in (rows, columns))
    if height * width > LONGEST * size * size:
        raise ImageError(f"The image is {columns} x {rows} pixels: too long and thin for this model.", "Crop it first.")
    resized = np.stack([_resized(c, height, width, preprocess.interpolation) for c in _channels(image)])
    top, left = (_start(side, size) for side in (height, width))
    canvas = np.full((len(resized), size, size), preprocess.fill, dtype=np.float32)
    into = (slice(max(0, -top), max(0, -top) + min(size, height)), slice(max(0, -left), max(0, -left) + min(size, width)))
    outof = (slice(max(0, top), max(0, top) + min(size, height)), slice(max(0, left), max(0, left) + min(size, width)))
    canvas[:, into[0], into[1]] = resized[:, outof[0], outof[1]]
    down, across = rows / height, columns / width  # image pixels per input pixel
    return Input(_normalised(canvas, preprocess), Box(top * down, left * across, size * down, size * across))


def smaller(image: Image, longest: int) -> Image:
    """The image with its longer side no longer than that many pixels, for the eye; itself where it is no longer."""
    rows, columns = image.shape
    if max(rows, columns) <= longest:
        return image
    height, width = (max(1, round(side * longest / max(rows, columns))) for side in (rows, columns))
    channels = [_resized(each, height, width, "bicubic") for each in _channels(image)]
    pixels = np.clip(channels[0] if len(channels) == 1 else np.stack(channels, axis=-1), 0, 1)
    spacing = image.spacing_mm and (image.spacing_mm[0] * rows / height, image.spacing_mm[1] * columns / width)
    return replace(image, pixels=pixels, spacing_mm=spacing)


def _weights(cells: int, start: float, length: float, pixels: int) -> np.ndarray:
    """Bilinear weights (pixels, cells) of map cells at the image's pixel centres; zero rows outside the box."""
    centres = (np.arange(pixels) + 0.5 - start) / length * cells - 0.5  # in cells
    low = np.clip(np.floor(centres), 0, cells - 1).astype(int)
    high = np.minimum(low + 1, cells - 1)
    share = np.clip(centres - low, 0.0, 1.0)
    weights = np.zeros((pixels, cells), dtype=np.float32)
    np.add.at(weights, (np.arange(pixels), low), 1.0 - share)
    np.add.at(weights, (np.arange(pixels), high), share)
    return weights


def place(heatmap: Heatmap, shape: tuple[int, int]) -> np.ndarray:
    """The map in image coordinates: float32 (H, W), bilinear, NaN where the model saw nothing."""
    box, (rows, columns) = heatmap.box, shape
    h, w = heatmap.values.shape
    down, across = _weights(h, box.top, box.height, rows), _weights(w, box.left, box.width, columns)
    placed = down @ heatmap.values.astype(np.float32) @ across.T
    y, x = np.arange(rows) + 0.5, np.arange(columns) + 0.5
    seen = ((y > box.top) & (y < box.top + box.height))[:, None] & ((x > box.left) & (x < box.left + box.width))
    return np.where(seen, placed, np.nan).astype(np.float32)
