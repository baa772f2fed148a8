"""Images that are nearly the same, and what must therefore stay on one side of a split.

A fingerprint is a perceptual hash of 256 bits (ImageHash's phash, hash_size 16): it stays nearly the same when an image is saved
at another size or quality, and changes when the image does. Left out: crops, flips and rotations.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import imagehash
import numpy as np
import PIL.Image

from engine.preprocess import smaller
from engine.types import Image

SIDE = 16  # of the hash: 256 bits
# Bits that may differ. Of copies of 660 real images (saved again as JPEG of quality 75 or 30, at half the size, brightened) 98 to
# 100 % are found; of 9.9 million pairs that are not known to be related 394 are taken for twins, most of them slices of one
# scan or copies that the data sets do not tell of: two are of different classes. Unrelated radiographs begin to be taken at 40.
NEAR = 16
ROWS = 1024  # fingerprints that are compared with all others at once: 20 MB for five thousand


def fingerprint(image: Image) -> str:
    """64 hexadecimal digits."""
    pixels = smaller(image, 512).pixels  # ImageHash makes it 64 x 64
    grey = PIL.Image.fromarray((pixels * 255).round().astype(np.uint8)).convert("L")
    return str(imagehash.phash(grey, hash_size=SIDE))


@lru_cache(maxsize=16)
def twins(fingerprints: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For each position the earliest that differs in NEAR bits or fewer, itself where there is none; and the first of all that
    are joined with it by such steps."""
    where: dict[str, int] = {}  # equal ones count once: a thousand of the same have half a million pairs
    for i, each in enumerate(fingerprints):
        where.setdefault(each, i)
    packed = np.frombuffer(bytes.fromhex("".join(where)), dtype=np.uint8).reshape(len(where), SIDE * SIDE // 8)
    signs = 1 - 2 * np.unpackbits(packed, axis=1).astype(
        np.float32
    )  # (N, 256): the product of two is 256 - 2 x differing bits
    least = signs.shape[1] - 2 * NEAR
    positions = np.array(list(where.values()), dtype=int)
    earliest, first = positions.copy(), positions.copy()
    for start in range(0, len(signs), ROWS):
        near = signs[start : start + ROWS] @ signs[: start + ROWS].T >= least
        for i, row in enumerate(near, start):
            alike = np.flatnonzero(row)
            earliest[i] = positions[alike[0]]
            groups = np.unique(first[alike])
            if len(groups) > 1:
                first[np.isin(first, groups)] = groups[0]
    of = {each: i for i, each in enumerate(where)}
    return tuple(int(earliest[of[each]]) for each in fingerprints), tuple(int(first[of[each]]) for each in fingerprints)


def joined(count: int, pairs: Sequence[tuple[int, int]], alike: Sequence[Sequence[Hashable]]) -> list[int]:
    """For each of `count` positions the first one that it is joined with, by pairs or by an equal value in one of the lists of
    `alike` ("" and None join nobody)."""
    first = list(range(count))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    links = list(pairs)
    for values in alike:
        seen: dict[Hashable, int] = {}
        links += [(seen.setdefault(value, i), i) for i, value in enumerate(values) if value]
    for i, j in links:
        a, b = sorted((root(i), root(j)))
        first[b] = a
    return [root(i) for i in range(count)]
