"""A visitor's files: copied without what identifies anybody, under random names, and deleted when the visit ends.

Gradio keeps an upload under its own name and serves it by URL to whoever knows the path. So each upload is moved to a
private folder (mode 700) at once; workers write clean copies of it (engine.sandbox), and the originals are deleted before the
answer. Names of files are said once, where a file is refused; none is kept, not in the visitor's state either.
"""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import engine

MANY = 8  # files from which on one is shown while the others are read


@dataclass(frozen=True)
class Case:
    """One series that a visitor opened. title : neutral words, never a file's name; removed : (what, how many elements)
    identified somebody in the upload; folder : of the clean copies, deleted when no case refers to it, None for an example."""

    series: engine.Series
    title: str
    removed: tuple[tuple[str, int], ...] = ()
    folder: engine.PrivateFolder | None = None
    key: str = field(default_factory=secrets.token_hex)  # tells this opening from any other


@dataclass(frozen=True)
class Taken:
    """What became of an upload, or how far it is. first : an image of it, while the others are read; refused : sentences
    that name the visitor's files, for the screen alone."""

    done: int
    total: int
    first: engine.Image | None = None
    cases: tuple[Case, ...] = ()
    refused: tuple[str, ...] = ()


@contextmanager
def received(uploads: list[str]) -> Iterator[tuple[list[tuple[Path, str]], list[str]]]:
    """(where it lies, its name) of each upload, out of Gradio's reach; and sentences for those that are gone. All are deleted
    afterwards. Raises ImageError for too many."""
    folder = engine.PrivateFolder()
    here: list[tuple[Path, str]] = []
    gone: list[str] = []
    try:
        for upload in map(Path, dict.fromkeys(uploads)):  # the same file twice is one upload
            place = folder.path / secrets.token_hex(16)
            try:
                shutil.move(upload, place)
            except FileNotFoundError:  # the same content twice at once is one file to Gradio
                gone.append(f"The file {upload.name!r} was taken by another request. Upload it again.")
                continue
            except OSError as error:
                upload.unlink(missing_ok=True)
                gone.append(f"The file {upload.name!r} could not be taken in ({error.strerror}). Try again later.")
                continue
            if not upload.name.startswith("."):  # what systems leave in folders (.DS_Store) is nobody's image
                here.append((place, upload.name))
        most = engine.sandbox().limits.zip_entries
        if len(uploads) > most:
            raise engine.ImageError(f"{len(uploads)} files are too many at once.", f"At most {most} are taken.")
        yield here, gone
    finally:
        folder.delete()


def take(files: list[tuple[Path, str]]) -> Iterator[Taken]:
    """Clean copies of the files, opened as series: how far it is, file by file, then what became of them."""
    folder = engine.PrivateFolder()
    copies: list[tuple[Path, str]] = []
    refused: list[str] = []
    removed: Counter[str] = Counter()
    for each in engine.sandbox().admit(files, folder.path, secrets.token_bytes(32)):
        first = None
        if isinstance(each.file, engine.ImageError):
            refused.append(str(each.file))
        else:
            copies.append((each.file, each.name))
            removed.update(dict(each.removed))
            first = _look(each.file) if len(copies) == 1 and each.total >= MANY else None
        yield Taken(each.done, each.total, first)
    names = {f"File {i}": name for i, (_, name) in enumerate(copies, start=1)}
    opened = engine.Opened(())
    if copies:
        opened = engine.sandbox().open_all([path for path, _ in copies], names=list(names))
    refused += [str(error).replace(repr(ours), repr(names[ours])) for ours, error in opened.refused]
    titles = _titles([series.about.title for series in opened.series])
    cases = tuple(Case(s, t, tuple(removed.items()), folder) for s, t in zip(opened.series, titles, strict=True))
    if not cases:
        folder.delete()
    yield Taken(len(files), len(files), cases=cases, refused=tuple(refused))


def _look(path: Path) -> engine.Image | None:
    """An image of one file, or None where it has none: what is wrong with it is said when all are read."""
    try:
        series = engine.sandbox().open_file(path, "File 1")
        return series[0].frame(engine.middle(series[0])) if series else None
    except engine.ImageError:
        return None


def sample(title: str) -> Case:
    found = next(s for s in engine.samples() if s.title == title)
    return Case(engine.read([found.path])[0], f"Example: {title}")


def _titles(found: list[str]) -> list[str]:
    """Titles that can be told apart: those that come more than once are numbered."""
    often, seen = Counter(found), Counter[str]()
    made = []
    for title in found:
        seen[title] += 1
        made.append(f"{title} ({seen[title]} of {often[title]})" if often[title] > 1 else title)
    return made


def forget(cases: list[Case]) -> None:
    """Deletes a visitor's files now."""
    for case in cases or []:
        if case.folder:
            case.folder.delete()
