"""Who computes next: one at a time, in the order in which they asked; images that wait for the same tower go in one forward.

There is no thread of its own. Whoever's turn it is takes along the images in the line that want what its own want, computes all
of them, and hands the others their rows; so a batch is whatever came while the one before was computed. Somebody alone waits
for nothing: the window is for images that are already being prepared, which others do in the few milliseconds before they ask.

Left out: batching across processes (a ZeroGPU Space lends its GPU to one function at a time).

Legend: B images, D joint embedding.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

import engine
from app import metrics

MOST = 16  # images of one forward, as of a volume's frames: more gain little and keep those before them waiting
WINDOW_S = 0.004

Forward = Callable[[list[engine.Input]], np.ndarray]  # B inputs -> (B, D)


@dataclass(eq=False)
class _Place:
    """In the line. key : of images that may share a forward, None for other work; rows, error : once somebody has done it."""

    key: Hashable = None
    inputs: Sequence[engine.Input] = ()
    called: threading.Event = field(default_factory=threading.Event)
    rows: np.ndarray | None = None
    error: BaseException | None = None

    def answer(self) -> np.ndarray:
        """Raises what the forward raised."""
        if self.error is not None:
            raise self.error
        assert self.rows is not None
        return self.rows


class Turns:
    """Safe to use from many threads. Whoever has the turn must not ask for another one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: list[_Place] = []
        self._coming: set[int] = set()  # threads that will ask for an image soon
        self._since: float | None = None  # when whoever computes began, monotonic; None where nobody does

    @contextmanager
    def alone(self, work: str) -> Iterator[None]:
        """Other work than images. work : what it is, in the metrics."""
        self._enter(_Place())
        try:
            with metrics.timed(metrics.COMPUTING, work=work):
                yield
        finally:
            self._leave()

    @contextmanager
    def coming(self) -> Iterator[None]:
        """While an image is prepared, and until it is asked for: who computes next may wait a moment for it."""
        with self._changed:
            self._coming.add(threading.get_ident())
        try:
            yield
        finally:
            with self._changed:
                self._arrived()

    def encode(self, key: Hashable, inputs: Sequence[engine.Input], forward: Forward) -> np.ndarray:
        """(B, D), whoever computes it. key : equal for all whose forwards are the same function. Raises what the forward raises
        on these images: those of others do not matter."""
        place = _Place(key, inputs)
        self._enter(place)
        if place.rows is None and place.error is None:
            try:
                _compute(self._together(place), forward)
            finally:
                self._leave()
        return place.answer()

    def waiting(self) -> int:
        """How many stand in the line."""
        return len(self._line)

    def under_way_s(self) -> float:
        """How long whoever has the turn has had it, 0 where nobody has."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _enter(self, place: _Place) -> None:
        """Returns when it is this one's turn, or when somebody has done it."""
        with metrics.timed(metrics.WAITING, where="turn"):
            with self._changed:
                self._arrived()
                if self._since is None:
                    self._since = time.monotonic()
                    return
                self._line.append(place)
            place.called.wait()

    def _leave(self) -> None:
        with self._changed:
            following = self._line.pop(0) if self._line else None
            self._since = time.monotonic() if following else None
        if following:
            following.called.set()

    def _arrived(self) -> None:
        self._coming.discard(threading.get_ident())
        self._changed.notify_all()

    def _together(self, first: _Place) -> list[_Place]:
        """The images that go along, as far as there is room; they leave the line."""
        with self._changed:
            if len(first.inputs) < MOST:
                self._changed.wait_for(lambda: not self._coming, WINDOW_S)
            taken, room = [first], MOST - len(first.inputs)
            for each in self._line:
                if each.key == first.key and len(each.inputs) <= room:
                    taken.append(each)
                    room -= len(each.inputs)
            self._line = [each for each in self._line if each not in taken]
        return taken


def _compute(group: list[_Place], forward: Forward) -> None:
    """One forward for all; where it fails each has its own, so that one's image is not another's error."""
    inputs = [each for place in group for each in place.inputs]
    try:
        with metrics.timed(metrics.COMPUTING, work="images"):
            rows = forward(inputs)
        start = 0
        for place in group:
            place.rows = rows[start : start + len(place.inputs)]
            start += len(place.inputs)
        metrics.BATCH.observe(len(inputs))
    except BaseException as error:  # raised again by whoever asked
        if len(group) == 1:
            group[0].error = error
        else:
            for place in group:
                _compute([place], forward)
    for place in group:
        place.called.set()
