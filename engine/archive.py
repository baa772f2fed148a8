"""Which files an archive holds, and in which chunks they are read: the plan that a run and whoever continues it keep to.

Folders are walked as a stream, sorted by name: what is held is one folder's names, and the chunk that grows. The plan is a
Parquet file with a chunk a row (and a row group, so that any process reads its chunk alone), written once. A later run walks
again and compares sizes and times of change, so that no table mixes two states of an archive.
Left out: files that change without a new size or time; a path that a list names twice is two entries.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from engine.errors import DataError

ASIDE = "Passed over in a folder: hidden, a DICOMDIR, or a link that leads out of it."
LINK = "Passed over in a folder: a link to another folder, which is not followed."


@dataclass(frozen=True)
class Entry:
    """One file. path : absolute; size : bytes, -1 where nothing is there; changed_ns : time of its last change
    status, why : what is known without opening it ("skipped", "error"), and the sentence; else ""."""

    path: str
    size: int
    changed_ns: int
    status: str = ""
    why: str = ""


def _entry(path: str, status: str = "", why: str = "") -> Entry:
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return Entry(path, -1, 0, status, why)
    return Entry(path, about.st_size, about.st_mtime_ns, status, why)


def walk(paths: Iterable[str | Path], lists: Iterable[str | Path] = (), besides: str | Path = "") -> Iterator[Entry]:
    """Every file in files, folders and lists (one path a line, taken from the list's folder), the same order each time.

    besides : a folder that is not looked into, the table's own. Raises DataError where a path lies in another one.
    """
    roots = [os.path.abspath(path) for path in paths]
    real = [os.path.join(os.path.realpath(root), "") for root in roots]
    for i, inner in enumerate(real):
        if any(inner.startswith(outer) for j, outer in enumerate(real) if j != i):
            raise DataError(f"{roots[i]!r} is named twice, or lies in a folder that is named.", "Name each file once.")
    own = os.path.realpath(besides) if besides else ""
    for root in roots:
        yield from _below(root, own) if os.path.isdir(root) else [_entry(root)]
    for each in lists:
        folder = os.path.dirname(os.path.abspath(each))
        with open(each, encoding="utf-8", errors="surrogateescape") as lines:  # as Python keeps names that are not UTF-8
            for line in lines:
                path = os.path.join(folder, line.rstrip("\r\n"))
                if line.strip():
                    yield from _below(path, own) if os.path.isdir(path) else [_entry(path)]


def _below(root: str, own: str) -> Iterator[Entry]:
    """A folder's files, its zip archives last, then its folders."""
    inside = os.path.join(os.path.realpath(root), "")
    waiting = [(root, False)]
    while waiting:
        here, is_hidden = waiting.pop()
        if os.path.realpath(here) == own:
            continue
        try:
            with os.scandir(here) as listed:
                entries = sorted(listed, key=lambda e: (is_zip(e.name), e.name))
        except OSError as error:
            yield Entry(here, -1, 0, "error", f"A folder cannot be opened: {error.strerror}.")
            continue
        folders = []
        for each in entries:
            hidden = is_hidden or each.name.startswith(".")
            if each.is_dir(follow_symlinks=False):
                folders.append((each.path, hidden))
            elif each.is_symlink() and each.is_dir():
                yield _entry(each.path, "skipped", LINK)
            elif hidden or each.name == "DICOMDIR" or _leads_out(each, inside):
                yield _entry(each.path, "skipped", ASIDE)
            else:
                yield _entry(each.path)
        waiting += reversed(folders)


def _leads_out(each: os.DirEntry[str], inside: str) -> bool:
    return each.is_symlink() and each.is_file() and not os.path.realpath(each.path).startswith(inside)


def is_zip(path: str) -> bool:
    """By its name: who plans opens no file."""
    return path.lower().endswith(".zip")


def chunked(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """The entries in chunks of at most `size`. A folder of no more stays whole, so that a DICOM series in it does; a zip
    archive, which holds many files, is a chunk of its own."""
    full: list[Entry] = []  # what is ready to go, a zip or whole folders
    folder: list[Entry] = []  # the files so far of the one that is being walked
    where: str | None = ""
    for each in chain(entries, [None]):
        key = None if each is None else each.path if is_zip(each.path) else os.path.dirname(each.path)
        if key != where or len(folder) == size:
            alone = any(is_zip(part[0].path) for part in (full, folder) if part)
            if full and (alone or len(full) + len(folder) > size):
                yield full
                full = []
            full, folder, where = full + folder, [], key
        if each is not None:
            folder.append(each)
    if full:
        yield full


# --- the plan ----------------------------------------------------------------------------------------------------------


def digest(chunk: Sequence[Entry]) -> str:
    """What a chunk is, 32 hexadecimal digits of sha256."""
    made = hashlib.sha256()
    for each in chunk:
        made.update(os.fsencode(each.path) + f"\0{each.size}\0{each.changed_ns}\0{each.status}\0".encode())
    return made.hexdigest()[:32]


def write_plan(chunks: Iterable[Sequence[Entry]], place: Path) -> tuple[int, int]:
    """Writes the plan, whole or not at all; how many chunks and files it has. Raises DataError where there is no file."""
    import pyarrow
    import pyarrow.parquet

    texts = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema(
        {"digest": pyarrow.string(), "paths": pyarrow.list_(pyarrow.binary()), "status": texts, "why": texts}
    )
    unfinished, count, files = place.with_name(place.name + ".tmp"), 0, 0
    with pyarrow.parquet.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for chunk in chunks:
            row = {
                "digest": digest(chunk),
                "paths": [os.fsencode(each.path) for each in chunk],  # names need not be text
                "status": [each.status for each in chunk],
                "why": [each.why for each in chunk],
            }
            writer.write_table(pyarrow.Table.from_pylist([row], schema))
            count, files = count + 1, files + len(chunk)
    if not files:
        unfinished.unlink()
        raise DataError("There is no file in what is named.", "Name a folder, a zip, or files.")
    os.replace(unfinished, place)
    return count, files


def check_plan(chunks: Iterable[Sequence[Entry]], place: Path) -> None:
    """Raises DataError where the archive is not what the plan was made of."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(place) as plan:
        known = (cell.as_py() for batch in plan.iter_batches(1, columns=["digest"]) for cell in batch["digest"])
        for number, (chunk, was) in enumerate(zip_longest(chunks, known), start=1):
            if chunk is None or was != digest(chunk):
                raise DataError(
                    f"The archive has changed since its table was begun (chunk {number} is not as it was).",
                    "Name another --out for what it is now; the table that is there stays.",
                )


def read_chunk(place: Path, number: int) -> list[Entry]:
    """The entries of a chunk; their sizes and times are left out."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(place) as plan:
        (row,) = plan.read_row_group(number, columns=["paths", "status", "why"]).to_pylist()
    found = zip(row["paths"], row["status"], row["why"], strict=True)
    return [Entry(os.fsdecode(path), -1, 0, status, why) for path, status, why in found]
