"""Features that need not be computed twice, on disk: an SQLite table of vectors under hashed keys.

Nothing in it can be read back into a sentence, a path or an image; deleting the file costs time, no more. It lies under
PROMPTSCOPE_CACHE, else in the user's cache folder. Features of a patient's image are the patient's all the same: each row
knows by a hash which image it was made from, so that `erase` finds it, and none is kept longer than PROMPTSCOPE_KEEP_DAYS
(30; 0 keeps nothing, and whoever opens the table then empties it).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from engine.errors import EngineError

CHUNK = 500  # SQLite's default limit of parameters is 999 in old versions
KEEP_DAYS = 30
DAY, HOUR = 86_400, 3600  # seconds
COLUMNS = ["key", "image", "made", "value"]


class StoreError(EngineError):
    """What was to be erased could not be."""


def folder() -> Path:
    named = os.environ.get("PROMPTSCOPE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptscope"


def keep_days(variables: Mapping[str, str] = os.environ) -> int:
    """Days from PROMPTSCOPE_KEEP_DAYS after which a row is deleted; 0 keeps nothing. Raises StoreError."""
    text = variables.get("PROMPTSCOPE_KEEP_DAYS", str(KEEP_DAYS)).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise StoreError(f"PROMPTSCOPE_KEEP_DAYS is {text[:32]!r}.", "Write a whole number of days; 0 keeps nothing.")
    return int(text)


def digest_of(path: str | Path) -> str:
    """Of a file's bytes; of a folder the bytes of every file below it, whatever their names."""
    place = Path(path)
    if not place.is_dir():
        return _digest(place)
    inside = sorted(_digest(each) for each in place.rglob("*") if each.is_file())
    return hashlib.sha256("\n".join(inside).encode()).hexdigest()


class Store:
    """Float32 vectors by key. Several processes may use it at once."""

    def __init__(self, path: Path | None = None):
        self.path = path or folder() / "features.sqlite3"

    def _open(self) -> sqlite3.Connection:
        """The table, without what is too old: that is looked for once an hour."""
        days = keep_days()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found = sqlite3.connect(self.path, timeout=60)
        try:
            self._prepare(found, days)
        except BaseException:
            found.close()
            raise
        return found

    def _prepare(self, table: sqlite3.Connection, days: int) -> None:
        table.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not only forgotten
        columns = [row[1] for row in table.execute("PRAGMA table_info(vector)")]
        if columns != COLUMNS:  # a table of an older version: it costs only time
            with table:
                table.execute("DROP TABLE IF EXISTS vector")
                table.execute(
                    "CREATE TABLE vector (key TEXT PRIMARY KEY, image TEXT NOT NULL, made REAL NOT NULL, value BLOB NOT NULL)"
                )
                table.execute("CREATE INDEX vector_image ON vector (image)")
        hour = int(time.time() // HOUR)
        if days == 0 or table.execute("PRAGMA user_version").fetchone()[0] != hour:
            with table:
                _forget(table, days)
                table.execute(f"PRAGMA user_version = {hour}")

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

    def put(self, vectors: dict[str, np.ndarray], image: str = "") -> None:
        """Keeps them; where the disk refuses, they are computed again next time.

        image : the digest of the image that they were made from; "" for texts
        """
        if keep_days() == 0:
            return
        owner, now = _hash(image) if image else "", time.time()
        rows = [
            (_hash(key), owner, now, np.ascontiguousarray(value, dtype=np.float32).tobytes())
            for key, value in vectors.items()
        ]
        try:
            with closing(self._open()) as table, table:
                table.executemany("INSERT OR REPLACE INTO vector VALUES (?, ?, ?, ?)", rows)
        except (sqlite3.Error, OSError):
            return

    def erase(self, digests: Iterable[str]) -> int:
        """Deletes every feature of the images of these digests; returns how many there were. Raises StoreError."""
        owners = [_hash(each) for each in digests]
        return self._delete(
            lambda table: sum(table.execute("DELETE FROM vector WHERE image = ?", [each]).rowcount for each in owners)
        )

    def erase_older(self, days: float) -> int:
        """Deletes what was made more than `days` ago; returns how many there were. Raises StoreError."""
        return self._delete(lambda table: _forget(table, days))

    def _delete(self, work: Callable[[sqlite3.Connection], int]) -> int:
        """Unlike a feature that cannot be kept, one that cannot be deleted is said."""
        if not self.path.exists():
            return 0
        try:
            with closing(self._open()) as table, table:
                return work(table)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"The feature store cannot be changed ({type(error).__name__}), so nothing was erased.",
                f"Delete the file {self.path.name!r} in the cache folder: it costs only time.",
            ) from error


def erase(paths: Iterable[str | Path], older_than_days: float | None = None, store: Store | None = None) -> int:
    """Deletes what is kept of these files (each folder: itself and everything below it) and, where asked, whatever was
    made more than that many days ago. Returns how many features there were. Raises StoreError.

    The files themselves are read for their digests and not touched.
    """
    held, digests = store or Store(), set()
    for each in map(Path, paths):
        try:
            inside = [each, *each.rglob("*")] if each.is_dir() else [each]
            digests |= {digest_of(p) for p in inside if p.is_dir() or p.is_file() or p == each}
        except OSError as error:
            raise StoreError(
                f"{each.name!r} cannot be read ({error.strerror}), so nothing was erased.",
                "Give the patient's original files, or use --older-than.",
            ) from error
    return held.erase(digests) + (held.erase_older(older_than_days) if older_than_days is not None else 0)


def _digest(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def _forget(table: sqlite3.Connection, days: float) -> int:
    return table.execute("DELETE FROM vector WHERE made <= ?", [time.time() - days * DAY]).rowcount


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
