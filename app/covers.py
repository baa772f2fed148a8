"""Covered areas as the page writes and reads them: "top,left,height,width" in pixels, separated by semicolons."""

from __future__ import annotations

from collections.abc import Iterable

import engine

MOST = 200  # areas


def read(words: str) -> tuple[engine.Box, ...]:
    """Raises ImageError."""
    found = []
    for part in filter(None, (each.strip() for each in words.split(";"))):
        try:
            top, left, height, width = (float(number) for number in part.split(","))
        except ValueError:
            top = left = height = width = -1.0
        if not (0 <= top < 1e6 and 0 <= left < 1e6 and 0 < height < 1e6 and 0 < width < 1e6):
            raise engine.ImageError(
                f"The area {part[:40]!r} is not understood.",
                "Write top, left, height, width in pixels, as in 0, 0, 40, 300.",
            )
        found.append(engine.Box(top, left, height, width))
    if len(found) > MOST:
        raise engine.ImageError(f"{len(found)} areas are too many.", f"At most {MOST} are covered.")
    return tuple(found)


def write(boxes: Iterable[engine.Box]) -> str:
    """Each area once, in whole pixels."""
    return "; ".join(dict.fromkeys(f"{b.top:.0f}, {b.left:.0f}, {b.height:.0f}, {b.width:.0f}" for b in boxes))
