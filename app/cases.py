"""A visitor's files: moved out of Gradio's cache at once, under random names, and deleted when the visit ends.

Gradio keeps an upload under its own name and serves it by URL to whoever knows the path. So each upload is moved to a
private folder (mode 700), where its name is random, and deleted when the visit or the server ends; the true name is kept in the visitor's state for display only.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import engine


@dataclass(frozen=True)
class Case:
    """One opened file. name : as the visitor knows it, shown, never logged; path : where it lies now."""

    name: str
    path: Path
    frames: int
    owned: bool = True  # an example belongs to its package and is never deleted

    def series(self) -> engine.Series:
        return engine.read([self.path])[0]

    def frame(self, index: int) -> engine.Image:
        """Raises ImageError, which speaks of the file by the name that the visitor knows."""
        try:
            return self.series().frame(index)
        except engine.EngineError as error:
            raise _renamed(error, self.path.name, self.name) from None


PREFIX = "promptscope-uploads-"


@cache
def _folder() -> Path:
    """This process's own; what a process that was killed has left is deleted first."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if not (owner.isdigit() and Path(f"/proc/{owner}").exists()):
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def take(upload: str) -> Case:
    """Moves an upload away and opens it. Raises ImageError; then the file is already gone."""
    source = Path(upload)
    place = _folder() / secrets.token_hex(16)
    try:
        shutil.move(source, place)
    except OSError:  # the same content twice at once is one file to Gradio
        raise engine.ImageError(f"The file {source.name!r} was taken by another request.", "Upload it again.") from None
    try:
        series = engine.read([place])[0]
    except BaseException as error:
        place.unlink(missing_ok=True)
        if isinstance(error, engine.EngineError):
            raise _renamed(error, place.name, source.name) from None
        raise
    return Case(source.name, place, series.frames)


def sample(title: str) -> Case:
    found = next(s for s in engine.samples() if s.title == title)
    return Case(f"Example: {title}", found.path, engine.read([found.path])[0].frames, owned=False)


def _renamed(error: engine.EngineError, ours: str, theirs: str) -> engine.EngineError:
    """The same sentence with the name that the visitor knows."""
    return type(error)(error.message.replace(ours, theirs), error.hint.replace(ours, theirs))


def forget(cases: list[Case]) -> None:
    """Deletes a visitor's files."""
    for case in cases or []:
        if case.owned:
            case.path.unlink(missing_ok=True)
