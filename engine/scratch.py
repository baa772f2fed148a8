"""Folders that nobody else may look into, and that are gone with whoever needed them, also after a kill.

A folder is named by the process that made it. It is deleted when it is no longer referred to or when the process ends; what a
process that was killed has left is deleted by the next one that makes a folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from functools import cache
from pathlib import Path

PREFIX = "promptscope-"
_first = threading.Lock()  # nobody sweeps what another thread has just made


class PrivateFolder:
    """path : a new folder (mode 700) in the system's temporary folder. Kept while this object is."""

    def __init__(self) -> None:
        with _first:
            sweep()
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self._end = weakref.finalize(self, _delete, self.path, os.getpid())

    def delete(self) -> None:
        """Now; more than once does no harm."""
        self._end()


def _delete(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child does not own what it refers to
        shutil.rmtree(path, ignore_errors=True)


@cache
def sweep() -> None:
    """Deletes what processes that are no more have left; once a process, before it makes a folder of its own.

    A folder of this process's own number is left, too: in a container every server is process 1.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and (int(owner) == os.getpid() or not _is_alive(int(owner))):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
