"""PNG, JPEG, TIFF, WebP and BMP through Pillow, 8 and 16 bit, without Pillow's own clipping of 16 to 8 bits.

Assumed: grey values are linear, bright means high. Pages of a TIFF are frames. A picture turned by its EXIF tag is
turned back. Left out: 16-bit colour (Pillow reads its upper 8 bits), ICC profiles.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from engine.errors import ImageError
from engine.limits import Limits
from engine.readers._grey import apply_window, automatic_window, is_automatic
from engine.types import About, Image, Slot, Window

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")  # nothing else is opened: other decoders have had bombs
PILLOWS = 178  # megapixels; Pillow opens nothing larger, whatever the limit
COLOUR_WEIGHT = 3  # colour and deeper grey count thrice against the limit, as their memory does


def sniff(head: bytes) -> bool:
    return head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"BM")) or (
        head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    )


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[PIL.Image.Image]:
    """Whatever goes wrong inside while reading becomes one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and may quote it
            with PIL.Image.open(path, formats=FORMATS) as picture:
                _check(picture, path, limits)
                yield picture
    except ImageError:
        raise
    except PIL.Image.DecompressionBombError as error:  # before the size is known here
        raise ImageError(
            f"The picture {path.name!r} claims more than {min(limits.megapixels, PILLOWS)} megapixels.",
            "Save a smaller copy.",
        ) from error
    except Exception as error:  # decoders raise anything on damaged files
        raise ImageError(
            f"The picture {path.name!r} is damaged or cut off and cannot be decoded ({type(error).__name__}).",
            "Save or export it again.",
        ) from error


def _check(picture: PIL.Image.Image, path: Path, limits: Limits) -> None:
    """Raises ImageError for more than the limit. Pages differ in size, and a PNG may name its transparent grey at its end."""
    is_grey, is_transparent = picture.mode in ("1", "L"), "transparency" in picture.info
    weight = 1 if is_grey and not is_transparent else COLOUR_WEIGHT
    if picture.width * picture.height * weight > limits.values:
        kind = f"{picture.mode}, transparent" if is_grey and is_transparent else picture.mode
        raise ImageError(
            f"The picture {path.name!r} claims {picture.width} x {picture.height} pixels; "
            f"of its kind ({kind}) at most {limits.megapixels / weight:.3g} megapixels are read.",
            "Save a smaller copy.",
        )


def read(path: Path, limits: Limits) -> list[RasterSeries]:
    with _opened(path, limits) as picture:
        # a phone's JPEG (MPO) holds a preview or a depth map behind its picture: no frames
        frames = int(getattr(picture, "n_frames", 1)) if picture.format in ("TIFF", "WEBP") else 1
        if frames > limits.frames:
            raise ImageError(f"The picture {path.name!r} has {frames} pages.", f"At most {limits.frames} are read.")
        about = About(f"{picture.format}, {picture.width} x {picture.height}", deep=_is_deep(picture))
        return [RasterSeries(path, frames, about, limits)]


class RasterSeries:
    """A picture file as a Series."""

    affine = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    slots: tuple[Slot, ...] = ()

    def __init__(self, path: Path, frames: int, about: About, limits: Limits):
        self.path, self.frames, self.about, self.limits, self.files = path, frames, about, limits, (path.name,)

    def frame(self, index: int, window: Window | None = None) -> Image:
        if not 0 <= index < self.frames:
            raise ImageError(f"There is no frame {index + 1}; {self.path.name!r} has {self.frames}.")
        notes: list[str] = []
        with _opened(self.path, self.limits) as picture:
            if self.frames > 1:
                picture.seek(index)
                _check(picture, self.path, self.limits)
                notes.append(f"Page {index + 1} of {self.frames}.")
            turned = PIL.ImageOps.exif_transpose(picture)
            _check(turned, self.path, self.limits)
            if picture.getexif().get(0x0112, 1) != 1:
                notes.append("Turned as its EXIF orientation asks.")
            name = picture.format or "picture"
            pixels, window = _pixels(turned, window, notes)
        notes.insert(0, f"{name}, {pixels.shape[1]} x {pixels.shape[0]} pixels, {'grey' if pixels.ndim == 2 else 'colour'}.")
        flat = "All pixels have the same value: there is nothing to see."
        return Image(pixels, notes=tuple(notes), warnings=(flat,) if np.ptp(pixels) == 0 else (), window=window)


def _is_deep(picture: PIL.Image.Image) -> bool:
    return picture.mode.startswith("I") or picture.mode == "F"  # I;16, I;16B, I, F


def _pixels(picture: PIL.Image.Image, window: Window | None, notes: list[str]) -> tuple[np.ndarray, Window | None]:
    """float32 in [0, 1], (H, W) or (H, W, 3), and the window that was applied to deep grey values."""
    if _is_deep(picture):
        values = np.asarray(picture)
        if window is None and values.dtype.kind != "f" and values.min() >= 0:
            bits = max(8, int(values.max()).bit_length())
            notes.append(f"Stored deeper than 8 bits with values up to {int(values.max())}: read as {bits} bit, linear.")
            return (values / np.float32(2**bits - 1)).astype(np.float32), None
        if window is None or is_automatic(window):
            window = automatic_window(values)
            notes.append(f"Values shown from {window.center - window.width / 2:g} to {window.center + window.width / 2:g}.")
        return apply_window(values, window), window
    if "A" in picture.mode or "transparency" in picture.info:
        picture = PIL.Image.alpha_composite(
            PIL.Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture.convert("RGBA")
        ).convert("RGB")
        notes.append("Transparent parts are shown black.")
    elif picture.mode not in ("L", "1", "RGB"):
        notes.append(f"Converted from {picture.mode} to RGB.")
        picture = picture.convert("RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    values = np.array(picture, dtype=np.float32)
    values /= 255
    if window is not None:
        notes.append("A window does not apply to an 8-bit picture.")
    return values, None
