"""Files to images. A format is one module with `sniff(head) -> bool` and `read(path) -> list[Series]`, and one line here.

Formats are told apart by their first bytes, never by the name: DICOM often has no extension, and extensions lie.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.errors import ImageError
from engine.registry import Registry
from engine.types import Image, Series

HEAD = 4096  # bytes that a reader may look at to recognise its format

READERS = Registry("image format", ImageError, {"dicom": "engine.readers.dicom", "raster": "engine.readers.raster"})

# What a file is when no reader knows it, so that the sentence can say so.
KNOWN_OTHERS = {
    b"PK\x03\x04": "a zip archive: unpack it and give the images inside",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"%PDF": "a PDF document: export the image from it",
    b"GIF8": "a GIF: export it as PNG",
    b"\x89HDF": "an HDF5 file",
    b"7z\xbc\xaf": "a 7z archive: unpack it and give the images inside",
}


def read(paths: Iterable[str | Path]) -> list[Series]:
    """Every image in the files (folders: every file below them), one Series a file. Raises ImageError."""
    files: list[Path] = []
    for each in paths:
        place = Path(each)
        if "\0" in str(place) or len(place.name.encode(errors="replace")) > 255:
            raise ImageError(f"There can be no file {place.name[:80]!r}: the name is not valid.")
        files += sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    if not files:
        raise ImageError("No file was given.", "Give a DICOM, PNG, JPEG, TIFF, WebP or BMP file.")
    return [series for file in files for series in _read_file(file)]


def read_image(path: str | Path) -> Image:
    """The one frame of a file; of several frames the middle one, with a note. Raises ImageError."""
    series = read([path])[0]
    return series.frame(middle(series))


def middle(series: Series) -> int:
    """The frame that is shown first: the middle one of several."""
    return series.frames // 2


def _read_file(path: Path) -> list[Series]:
    try:
        if path.exists() and not path.is_file():
            raise ImageError(f"{path.name!r} is no file but a device or a pipe.")
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except FileNotFoundError:
        raise ImageError(f"There is no file {path.name!r}.") from None
    except OSError as error:
        raise ImageError(f"The file {path.name!r} cannot be opened: {error.strerror}.") from error
    if not head:
        raise ImageError(f"The file {path.name!r} is empty (0 bytes).", "Save or export it again.")
    for reader in READERS.values():
        if reader.sniff(head):
            return reader.read(path)
    what = next((words for magic, words in KNOWN_OTHERS.items() if head.startswith(magic)), None)
    if what:
        raise ImageError(f"The file {path.name!r} is {what}.")
    raise ImageError(
        f"The file {path.name!r} is no image that can be read here (it begins with {head[:4].hex(' ')}).",
        "Give a DICOM, PNG, JPEG, TIFF, WebP or BMP file.",
    )
