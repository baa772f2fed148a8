"""A backbone's files fetched from the hub by a process of its own, which says how far it is and can be ended at any moment.

The process runs this file with the repositories as JSON, imports the hub's client and nothing of the engine, and prints a JSON
line for each step: {"of": bytes}, {"done": bytes}, {"failed": kind of error}. What was fetched stays in the hub's cache, and the
next try goes on from there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

EVERY_S = 0.5  # between two lines
SECRETS = ("PROMPTSCOPE_AUTH", "PROMPTSCOPE_DATABASE_URL")  # which the process has no need of


class Fetch:
    """A download. state : "running", "done", "stopped" or "failed"; done, of : bytes so far and in all (0 until the hub has
    said it); error : a sentence. Raises BackboneError for an unknown name."""

    def __init__(self, id: str):
        from engine.backbones import BACKBONES

        self.id, self.state, self.done, self.of, self.error = id, "running", 0, 0, ""
        self._repositories = BACKBONES[id].published().repositories
        wanted = [[each.name, each.kind, each.revision, list(each.files)] for each in self._repositories]
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, json.dumps(wanted)],
            stdin=subprocess.PIPE,  # it ends where this process does
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name not in SECRETS},
        )
        self._reader = threading.Thread(target=self._read, daemon=True, name=f"fetch {id}")
        self._reader.start()

    def _read(self) -> None:
        from engine.backbones import _hub

        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            self.of, self.done = said.get("of", self.of), said.get("done", self.done)
            if "failed" in said:
                self.error = str(_hub.unreached(self.id, self._repositories, said["failed"]))
        status = self._process.wait()
        if self.state == "running":
            self.state = "done" if status == 0 else "failed"
            if status != 0 and not self.error:
                self.error = f"Fetching {self.id!r} ended without a word (status {status}). Try again."

    def stop(self) -> None:
        """Ends it at once; what has come so far is kept."""
        if self.state == "running":
            self.state = "stopped"
            self._process.kill()
        self._reader.join(timeout=5)


# --- in the process of its own ------------------------------------------------------------------------------------------


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _until_parent_ends() -> None:
    os.read(0, 1)  # nothing is ever written to it: this returns when it is closed
    os._exit(1)


def _main(wanted: list[tuple[str, str, str | None, list[str]]]) -> int:
    from huggingface_hub import HfApi, constants, snapshot_download

    threading.Thread(target=_until_parent_ends, daemon=True).start()
    blobs = [
        Path(constants.HF_HUB_CACHE) / "--".join([f"{kind}s", *name.split("/")]) / "blobs" for name, kind, _, _ in wanted
    ]
    try:
        of = 0
        for name, kind, revision, files in wanted:
            about = HfApi().repo_info(name, repo_type=kind, revision=revision, files_metadata=True, timeout=20)
            of += sum(part.size or 0 for part in about.siblings or [] if part.rfilename in files)
        _say(of=of)
        threading.Thread(target=_count, args=(blobs, of), daemon=True).start()
        for name, kind, revision, files in wanted:
            snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=files)
    except Exception as error:  # the hub's client raises a dozen kinds; each means that it was not reached
        _say(failed=type(error).__name__)
        return 1
    _say(done=of)
    return 0


def _count(folders: list[Path], of: int) -> None:
    pause = threading.Event()
    while not pause.wait(EVERY_S):
        _say(done=min(_size(folders), of))


def _size(folders: list[Path]) -> int:
    here = 0
    for part in (part for folder in folders if folder.is_dir() for part in folder.iterdir()):
        with suppress(FileNotFoundError):  # it has just got its final name
            here += part.stat().st_size
    return here


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
