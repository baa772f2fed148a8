"""Files to images, in this process. A format is one module with `sniff(head) -> bool` and
`read(path, limits) -> list[Series]`, and one line here.

Formats are told apart by their first bytes, never by the name: DICOM often has no extension, and extensions lie.
What a stranger sends is read through engine.sandbox, which calls this in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.errors import ImageError
from engine.limits import Limits
from engine.registry import Registry
from engine.types import Series

LIMITS = Limits()
FORMATS = "DICOM, PNG, JPEG, TIFF, WebP, BMP, NIfTI, MHA or NRRD"
HEAD = 4096  # bytes that a reader may look at to recognise its format

READERS = Registry(
    "image format",
    ImageError,
    {"dicom": "engine.readers.dicom", "raster": "engine.readers.raster", "volume": "engine.readers.volume"},
)

# What a file is when no reader knows it, so that the sentence can say so.
KNOWN_OTHERS = {
    b"PK\x03\x04": "a zip archive inside another: unpack it first",
    b"\x1f\x8b": "a gzip archive of no volume: unpack it first",
    b"%PDF": "a PDF document: export the image from it",
    b"GIF8": "a GIF: export it as PNG",
    b"\x89HDF": "an HDF5 file",
    b"7z\xbc\xaf": "a 7z archive: unpack it and give the images inside",
}


def open_file(path: str | Path, limits: Limits = LIMITS) -> list[Series]:
    """What one file holds, its frames not yet decoded. Raises ImageError."""
    place = Path(path)
    return reader_of(place).read(place, limits)


def files_below(paths: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """The files themselves, and for a folder every file below it, in the order of their names; and those that are passed over
    in a folder: hidden files, DICOMDIRs (lists of other files) and links that lead out of it. Raises ImageError for none."""
    files: list[Path] = []
    aside: list[Path] = []
    for each in map(Path, paths):
        if not os.path.isdir(each):  # unlike Path.is_dir, it takes any name
            files.append(each)
            continue
        root = each.resolve()
        for p in sorted(each.rglob("*")):
            if p.is_file():
                (aside if _is_aside(p, each, root) else files).append(p)
    if not files:
        raise ImageError("There is no file.", f"Give a {FORMATS} file, or a folder that holds some.")
    return files, aside


def _is_aside(path: Path, folder: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return hidden or path.name == "DICOMDIR" or (path.is_symlink() and not path.resolve().is_relative_to(root))


def middle(series: Series) -> int:
    """The frame that is shown first: the middle one of several."""
    return series.frames // 2


def reader_of(path: Path) -> Any:
    """The module of READERS that knows the file by its first bytes. Raises ImageError."""
    if "\0" in str(path) or len(path.name.encode(errors="replace")) > 255:
        raise ImageError(f"There can be no file {path.name[:80]!r}: the name is not valid.")
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
            return reader
    what = next((words for magic, words in KNOWN_OTHERS.items() if head.startswith(magic)), None)
    if what:
        raise ImageError(f"The file {path.name!r} is {what}.")
    raise ImageError(
        f"The file {path.name!r} is no image that can be read here (it begins with {head[:4].hex(' ')}).",
        f"Give a {FORMATS} file.",
    )


def is_archive(path: Path) -> bool:
    """Is it a zip archive? A file that cannot be opened is none, nor is a pipe, which would be waited for."""
    try:
        if not os.path.isfile(path):
            return False
        with path.open("rb") as stream:
            return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except (OSError, ValueError):
        return False
