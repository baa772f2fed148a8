"""What a visitor's images were encoded to, for as long as the visit lasts: asking another question costs no image forward.

A visitor finds his own alone: an answer that came faster because somebody else had the same image would tell so. Kept in memory
by a hash of the prepared pixels; gone at Clear, when the visit ends, and what was unused for longest goes where there is no room.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np

MIB = 1 << 20
EACH_BYTES, ALL_BYTES = 8 * MIB, 64 * MIB  # of one visitor (some 4,000 images), and of all
IDLE_S = 3600  # a session that does not say when it ends


class Seen:
    """One visitor's. Safe to use from many threads."""

    def __init__(self) -> None:
        self.bytes, self.used = 0, time.monotonic()
        self._lock = threading.Lock()
        self._rows: OrderedDict[Hashable, np.ndarray] = OrderedDict()  # what was used last stands last

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: Hashable) -> np.ndarray | None:
        with self._lock:
            found = self._rows.get(key)
            if found is not None:
                self._rows.move_to_end(key)
            return found

    def put(self, key: Hashable, row: np.ndarray) -> None:
        kept = row.copy()  # not a view that holds a whole batch
        kept.flags.writeable = False
        with self._lock:
            if key not in self._rows:
                self._rows[key] = kept
                self.bytes += kept.nbytes
            while self.bytes > EACH_BYTES:
                self.bytes -= self._rows.popitem(last=False)[1].nbytes


_lock = threading.Lock()
_visitors: OrderedDict[str, Seen] = OrderedDict()  # who was here last stands last


def of(visitor: str) -> Seen:
    """What this visitor's are remembered in; "" is nobody, who is not remembered. Whoever has been forgotten meanwhile writes to
    something that nobody reads."""
    if not visitor:
        return Seen()
    now = time.monotonic()
    with _lock:
        found = _visitors.setdefault(visitor, Seen())
        found.used = now
        _visitors.move_to_end(visitor)
        while len(_visitors) > 1:
            longest = next(iter(_visitors.values()))
            if now - longest.used <= IDLE_S and sum(each.bytes for each in _visitors.values()) <= ALL_BYTES:
                break
            _visitors.popitem(last=False)
        return found


def forget(visitor: str) -> None:
    """At Clear, and when the visit is over."""
    with _lock:
        _visitors.pop(visitor, None)


def total_bytes() -> int:
    with _lock:
        return sum(each.bytes for each in _visitors.values())
