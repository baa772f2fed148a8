"""Zip archives to files, streamed within limits: each entry is unpacked under a random name, or refused in a sentence.

Entries never choose where they are written, so a name can do no harm; one that tries (an absolute path, "..", a drive, a
backslash, a link) is refused all the same, since no honest tool writes it. Bombs are met by limits on what comes out of each
entry and of all, on the ratio to what goes in, and by refusing entries that share bytes (Fifield, "A better zip bomb", 2019).
Left out: archives within archives, encryption, methods other than stored and deflated, archives in several parts.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ImageError
from engine.limits import MIB, Limits
from engine.readers import volume

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # lzma takes the memory that an entry asks for
SMALL, ALL_SMALL = MIB, 64 * MIB  # what an entry, and an archive, may hold at any ratio: black images deflate a thousandfold
SIDE_FILES = ("thumbs.db", "desktop.ini", "dicomdir")  # of file systems; a DICOMDIR only names other files
LOCAL_HEADER = 30  # bytes before an entry's name and data, APPNOTE 4.3.7
DIRECTORY = 512  # bytes of an archive's directory for each entry that is allowed: a name of some folders takes 300
ARCHIVES = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"BZh",
    b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd",
)


@dataclass(frozen=True)
class Unpacked:
    """An entry as a file. name : the last part of the entry's, for display; inside : all of it, with its folders, which may
    be classes. Both may identify a patient."""

    path: Path
    name: str
    inside: str = ""


@dataclass(frozen=True)
class Refused:
    """An entry, or with an empty name several, that were not unpacked: why, and what to do."""

    name: str
    message: str
    hint: str = ""


def unpack(path: Path, folder: Path, limits: Limits) -> tuple[list[Unpacked], list[Refused]]:
    """The entries of a zip archive as files in `folder`, readable by their owner alone, in the archive's order.

    Raises ImageError where the archive as a whole cannot be used; what was written is then removed.
    """
    written: list[Unpacked] = []
    try:
        with path.open("rb", buffering=0) as raw, _Archive(path, raw, limits) as archive:
            return _entries(archive, path, folder, limits, written)
    except BaseException as error:
        for each in written:
            each.path.unlink(missing_ok=True)
        if isinstance(error, (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error)):
            raise ImageError(
                f"The archive {path.name!r} is damaged, cut off or one of several parts.", "Pack it again, as one zip."
            ) from None
        if isinstance(error, OSError):
            raise ImageError(f"The archive {path.name!r} cannot be unpacked: {error.strerror}.") from None
        raise


class _Archive(zipfile.ZipFile):
    """An opened archive. Its directory is measured before zipfile makes an object of each entry."""

    def __init__(self, path: Path, raw: io.FileIO, limits: Limits):
        most = limits.zip_entries
        too_many = ImageError(f"The archive {path.name!r} holds more than {most} files.", f"At most {most} are unpacked.")

        class Measured(io.BufferedReader):
            is_directory = True

            def read(self, size: int | None = -1, /) -> bytes:
                if self.is_directory and size is not None and size > DIRECTORY * most + MIB:
                    raise too_many
                data = super().read(size)
                if self.is_directory and data.count(b"PK\x01\x02") > most:
                    raise too_many
                return data

        measured = Measured(raw)
        super().__init__(measured)
        measured.is_directory = False


def _entries(
    archive: zipfile.ZipFile, path: Path, folder: Path, limits: Limits, written: list[Unpacked]
) -> tuple[list[Unpacked], list[Refused]]:
    entries = [e for e in archive.infolist() if not e.filename.endswith("/")]
    if not entries:
        raise ImageError(f"The archive {path.name!r} is empty (0 files).", "Pack the images again.")
    _check_bytes(archive, path)
    budget = _Budget(path, limits)
    refused: list[Refused] = []
    seen: set[str] = set()
    aside = 0
    for entry in entries:
        shown = _shown(entry.orig_filename) or "an entry without a name"
        if _is_aside(entry.orig_filename):
            aside += 1
            continue
        why = _objection(entry, seen, limits)
        seen.add(entry.orig_filename)
        if why is None:
            target = folder / secrets.token_hex(16)
            written.append(Unpacked(target, shown, "/".join(map(_shown, entry.orig_filename.split("/")))))
            why = _write(archive, entry, target, budget)
            if why is not None:
                target.unlink(missing_ok=True)
                written.pop()
        if why is not None:
            refused.append(Refused(shown, *why))
    if aside:
        files = "1 file was" if aside == 1 else f"{aside} files were"
        refused.append(Refused("", f"{files} left out of the archive {path.name!r}: hidden, or a DICOMDIR."))
    return written, refused


class _Budget:
    """What may still come out of an archive. Raises ImageError when it is spent, by entries that are refused as well."""

    def __init__(self, path: Path, limits: Limits):
        self.path, self.limits, self.out, self.size = path, limits, 0, path.stat().st_size

    def spend(self, count: int) -> None:
        self.out += count
        if self.out > self.limits.unpacked_mb * MIB:
            raise ImageError(
                f"The archive {self.path.name!r} unpacks to more than {self.limits.unpacked_mb} MiB.", "Give it in parts."
            )
        if self.out > max(ALL_SMALL, self.limits.zip_ratio * self.size):
            raise ImageError(
                f"The archive {self.path.name!r} unpacks to more than {self.limits.zip_ratio} times its size.",
                "Give the images themselves.",
            )


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, budget: _Budget) -> tuple[str, str] | None:
    """Streams an entry to a new file. Returns why it was refused."""
    name, limits, count = _shown(entry.orig_filename), budget.limits, 0
    most = max(SMALL, limits.zip_ratio * entry.compress_size)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        try:
            with archive.open(entry) as source:
                while part := source.read(MIB):
                    if count == 0 and _is_archive(part):
                        return (
                            f"The file {name!r} is an archive inside the archive.",
                            "Unpack it and give the images inside.",
                        )
                    count += len(part)
                    budget.spend(len(part))
                    if count > limits.inflated:
                        return f"The file {name!r} unpacks to more than {limits.inflated_mb} MiB.", "Save a smaller copy."
                    if count > most:
                        return (
                            f"The file {name!r} unpacks to more than {limits.zip_ratio} times its size.",
                            "Give the file itself.",
                        )
                    out.write(part)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            return f"The file {name!r} in the archive is damaged ({type(error).__name__}).", "Pack it again."
    return None


# --- entries -----------------------------------------------------------------------------------------------------------


def _shown(name: str) -> str:
    """The last part of an entry's name, without control characters."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(c if c.isprintable() else "_" for c in last)[:255]


def _is_aside(name: str) -> bool:
    """Files of operating systems, and DICOMDIR, which is not followed."""
    parts = name.split("/")
    hidden = any(part.startswith(".") and part.strip(".") for part in parts)
    return hidden or "__MACOSX" in parts or parts[-1].lower() in SIDE_FILES


def _objection(entry: zipfile.ZipInfo, seen: set[str], limits: Limits) -> tuple[str, str] | None:
    """Why an entry is refused before it is opened: a sentence and a hint."""
    name, shown, again = entry.orig_filename, _shown(entry.orig_filename), "Pack the images again with a plain zip tool."
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if re.match(r"[/\\]|[A-Za-z]:", name) or "\\" in name or ".." in name.split("/") or re.search(r"[\0-\x1f]", name):
        return f"The file {shown!r} has a path that leads out of the archive.", again
    if kind == stat.S_IFLNK:
        return f"The file {shown!r} is a link to another file.", "Pack the file itself."
    if kind not in (0, stat.S_IFREG):
        return f"The file {shown!r} is no plain file.", again
    if name in seen:
        return f"The file {shown!r} is twice in the archive under one path: the first is taken.", ""
    if entry.flag_bits & 0x41:  # encrypted, or strongly so
        return f"The file {shown!r} is encrypted.", "Unpack the archive with its password and give the images inside."
    if entry.compress_type not in METHODS:
        return f"The file {shown!r} is packed by a method that is not read here ({entry.compress_type}).", again
    if entry.file_size > limits.inflated:
        return f"The file {shown!r} unpacks to more than {limits.inflated_mb} MiB.", "Save a smaller copy."
    return None


def _is_archive(head: bytes) -> bool:
    return (head.startswith(ARCHIVES) or head[257:262] == b"ustar") and not volume.sniff(head[:4096])


def _check_bytes(archive: zipfile.ZipFile, path: Path) -> None:
    """No two entries may share bytes: an archive of kilobytes would unpack to terabytes."""
    ends = 0
    for entry in sorted(archive.infolist(), key=lambda e: e.header_offset):
        if entry.header_offset < ends:
            raise ImageError(
                f"The archive {path.name!r} holds files that share bytes, as crafted ones do.", "Pack it again."
            )
        ends = entry.header_offset + LOCAL_HEADER + entry.compress_size
    if ends > archive.start_dir:
        raise zipfile.BadZipFile
