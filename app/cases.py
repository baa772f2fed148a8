"""A visitor's files: copied without what identifies anybody, under random names, and deleted when the visit ends.

Gradio keeps an upload under its own name and serves it by URL to whoever knows the path. So each upload is moved to a
private folder (mode 700) at once; workers write clean copies of it (engine.sandbox), and the originals are deleted before the
answer. Names of files are said once, where a file is refused; none is kept, not in the visitor's state either.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

import engine
from app import text

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

    def named(self, error: Exception) -> str:
        """An error about its files, without their names."""
        said = str(error)
        for name in self.series.files:
            said = said.replace(repr(name), repr(self.title))
        return said


@dataclass(frozen=True)
class Taken:
    """What became of an upload, or how far it is. first : an image of it, while the others are read; failed, aside : (a file's
    name, why it was refused or passed over), for the screen alone; names : the visitor's of each "File 1" in a series."""

    done: int
    total: int
    first: engine.Image | None = None
    cases: tuple[Case, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    aside: tuple[tuple[str, str], ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def refused(self) -> tuple[str, ...]:
        return tuple(sentence for _, sentence in self.failed)


def uploaded(sent: Any) -> list[tuple[str, str]]:
    """(where Gradio put it, its name) of files that a program or teach.js says it has uploaded, each as {"path", "name" or
    "orig_name"}. Raises ImageError for anything else: nothing but uploads is opened, no folder of them, and no address is
    followed. One that is gone by now is left to `received`."""
    found = []
    folder = Path(get_upload_folder()).resolve()
    if not isinstance(sent, list) or not all(isinstance(each, dict) for each in sent):
        raise engine.ImageError(text.SENT_BADLY, text.NOT_UPLOADED_HINT)
    for each in sent:
        path = str(each.get("path") or "")
        name = str(each.get("name") or each.get("orig_name") or "") or Path(path).name
        is_other = os.path.lexists(path) and not is_file(Path(path))
        if not path or is_other or not Path(path).resolve().is_relative_to(folder):
            raise engine.ImageError(text.NOT_UPLOADED.format(name=name[:200]), text.NOT_UPLOADED_HINT)
        found.append((path, name))
    return found


def is_file(upload: Path) -> bool:
    """Nothing else is moved: a folder would be the uploads of others, and a link leads anywhere."""
    return os.path.isfile(upload) and not os.path.islink(upload)


@contextmanager
def received(uploads: list[str], names: list[str] | None = None) -> Iterator[tuple[list[tuple[Path, str]], list[str]]]:
    """(where it lies, its name) of each upload, out of Gradio's reach; and sentences for those that are gone. All are deleted
    afterwards. names : with the folders that the visitor sees, where the page knows them. Raises ImageError for too many."""
    folder = engine.PrivateFolder()
    here: list[tuple[Path, str]] = []
    gone: list[str] = []
    moved: dict[Path, Path] = {}
    try:
        # the same file twice is one upload, unless it lies in two folders
        for path, name in dict.fromkeys(zip(uploads, names or uploads, strict=True)):
            upload, place = Path(path), folder.path / secrets.token_hex(16)
            if upload in moved:
                here.append((moved[upload], name))
                continue
            try:
                if not is_file(upload):
                    raise FileNotFoundError
                shutil.move(upload, place)
            except FileNotFoundError:  # the same content twice at once is one file to Gradio
                gone.append(f"The file {upload.name!r} was taken by another request. Upload it again.")
                continue
            except OSError as error:
                upload.unlink(missing_ok=True)
                gone.append(f"The file {upload.name!r} could not be taken in ({error.strerror}). Try again later.")
                continue
            moved[upload] = place
            if not upload.name.startswith("."):  # what systems leave in folders (.DS_Store) is nobody's image
                here.append((place, name if names else upload.name))
        most = engine.sandbox().limits.zip_entries
        if len(uploads) > most:
            raise engine.ImageError(f"{len(uploads)} files are too many at once.", f"At most {most} are taken.")
        yield here, gone
    finally:
        folder.delete()


def take(files: list[tuple[Path, str]]) -> Iterator[Taken]:
    """Clean copies of the files, opened as series: how far it is, file by file, then what became of them."""
    folder = engine.PrivateFolder()
    came: list[tuple[Path | engine.ImageError, str, str]] = []  # with its name, and that with the folders of its archive
    aside: list[tuple[str, str]] = []
    copies = 0
    removed: Counter[str] = Counter()
    for each in engine.sandbox().admit(files, folder.path, secrets.token_bytes(32)):
        first = None
        if each.is_aside:
            aside.append((each.name, str(each.file)))
        else:
            came.append((each.file, each.name, each.inside))
        if not isinstance(each.file, engine.ImageError):
            copies += 1
            removed.update(dict(each.removed))
            first = _look(each.file) if copies == 1 and each.total >= MANY else None
        yield Taken(each.done, each.total, first)
    good: list[tuple[Path, str]] = []
    failed: list[tuple[str, str]] = []
    for (file, name, _), shown in zip(came, _told_apart([(name, inside) for _, name, inside in came]), strict=True):
        if isinstance(file, engine.ImageError):
            failed.append((shown, str(file).replace(repr(name), repr(shown))))
        else:
            good.append((file, shown))
    names = {f"File {i}": shown for i, (_, shown) in enumerate(good, start=1)}
    opened = engine.Opened(())
    if good:
        opened = engine.sandbox().open_all([path for path, _ in good], names=list(names))
    failed += [(names[ours], str(error).replace(repr(ours), repr(names[ours]))) for ours, error in opened.refused]
    titles = _titles([series.about.title for series in opened.series])
    cases = tuple(Case(s, t, tuple(removed.items()), folder) for s, t in zip(opened.series, titles, strict=True))
    if not cases:
        folder.delete()
    yield Taken(len(files), len(files), None, cases, tuple(failed), tuple(aside), names)


@contextmanager
def only(path: str) -> Iterator[engine.Series]:
    """The first series of a program's upload, while it is looked at. Raises ImageError."""
    taken = Taken(0, 0)
    try:
        with received([path]) as (files, gone):
            *_, taken = take(files)
        if not taken.cases:
            raise engine.ImageError(next(iter([*gone, *taken.refused]), "There is no image in the file."))
        yield taken.cases[0].series
    finally:
        forget(list(taken.cases))


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


def _told_apart(found: list[tuple[str, str]]) -> list[str]:
    """Names of files (name, that with the folders of its archive or ""): with the folders, then numbered, where a name comes more
    than once. Gradio does not say in which folder of the visitor's an upload lay."""
    often = Counter(name for name, _ in found)
    return _titles([inside or name if often[name] > 1 else name for name, inside in found])


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
