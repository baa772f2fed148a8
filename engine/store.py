"""Features that need not be computed twice, on disk: an SQLite table of vectors under hashed keys.

Nothing in it can be read back into a sentence, a path or an image; deleting the file costs time, no more. It lies under
PROMPTSCOPE_CACHE, else in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

CHUNK = 500  # SQLite's default limit of parameters is 999 in old versions


def folder() -> Path:
    named = os.environ.get("PROMPTSCOPE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptscope"


class Store:
    """Float32 vectors by key. Several processes may use it at once."""

    def __init__(self, path: Path | None = None):
        self.path = path or folder() / "features.sqlite3"

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found = sqlite3.connect(self.path, timeout=60)
        found.execute("CREATE TABLE IF NOT EXISTS vector (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
        return found

    def get(self, keys: list[str]) -> dict[str, np.ndarray]:
        """Those of the keys that are there. A store that cannot be read is an empty one."""
        hashed = {_hash(key): key for key in keys}
        names = list(hashed)
        found: dict[str, np.ndarray] = {}
        try:
            with closing(self._open()) as table:
                for start in range(0, len(names), CHUNK):
                    part = names[start : start + CHUNK]
                    rows = table.execute(f"SELECT key, value FROM vector WHERE key IN ({','.join('?' * len(part))})", part)
                    whole = ((name, value) for name, value in rows if isinstance(value, bytes) and len(value) % 4 == 0)
                    found |= {hashed[name]: np.frombuffer(value, dtype=np.float32).copy() for name, value in whole}
        except (sqlite3.Error, OSError):
            return {}
        return found

    def put(self, vectors: dict[str, np.ndarray]) -> None:
        """Keeps them; where the disk refuses, they are computed again next time."""
        rows = [(_hash(key), np.ascontiguousarray(value, dtype=np.float32).tobytes()) for key, value in vectors.items()]
        try:
            with closing(self._open()) as table, table:
                table.executemany("INSERT OR REPLACE INTO vector VALUES (?, ?)", rows)
        except (sqlite3.Error, OSError):
            return


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
