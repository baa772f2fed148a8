"""Points at a pasted part of another modality, beside the centre and chance: docs/locate.md's table. Composites are synthetic.

A host image of one set gets a square of another set's image (its middle, a quarter to nearly half of the host's shorter side, hard
edges) at a random place; the phrase is the guest's kind of image, the negatives are the others. Images of the sets' own splits,
each host and guest once, one of a group.

Run: python scripts/measure_locate.py --data ../shared/data/sets --split test --images 105
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import engine
from engine.data import unit
from engine.detection import METRICS, Case, Pointed, Region
from engine.preprocess import smaller

KINDS = {  # a set -> what its images are, as the task "modality" names it
    "BTMRI": "MRI",
    "BUSI": "ultrasound",
    "PNEUMONIA_CXR": "X-ray",
    "CTKIDNEY": "CT",
    "DERM7": "dermoscopy",
    "LC25000_LUNG": "histopathology",
    "RETINA": "fundus photograph",
}
HOST = 256  # pixels of a host's longer side


def coloured(image: engine.Image) -> np.ndarray:
    """(H, W, 3), the longer side no longer than HOST."""
    pixels = smaller(image, HOST).pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def place_of(host: str, share: float, down: float, across: float) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """The composite's shape, and top, left and side of its guest. share : of the shorter side; down, across : in [0, 1)."""
    shape = coloured(engine.read_image(host)).shape[:2]
    side = round(share * min(shape))
    return (shape[0], shape[1]), (int(down * (shape[0] - side + 1)), int(across * (shape[1] - side + 1)), side)


def composite(host: str, guest: str, at: tuple[int, int, int]) -> engine.Image:
    pixels, part = coloured(engine.read_image(host)).copy(), engine.read_image(guest)
    shorter = min(part.shape)
    top, left = ((length - shorter) // 2 for length in part.shape)
    middle = engine.Image(part.pixels[top : top + shorter, left : left + shorter])
    row, column, side = at
    small = coloured(smaller(middle, side))
    grown = np.arange(side) * small.shape[0] // side  # a guest that is smaller than its place is repeated
    pixels[row : row + side, column : column + side] = small[grown][:, grown]
    return engine.Image(pixels)


def composites(data: Path, split: str, images: int, seed: int) -> list[Case]:
    """Hosts and guests in turns over the kinds; each Case's region is of the guest's kind."""
    rng, left = np.random.default_rng(seed), {}
    for name, kind in KINDS.items():
        rows = engine.read_examples(data / name, split=split)
        first = {unit(row): row for row in (rows[i] for i in rng.permutation(len(rows)))}  # one of a group
        left[kind] = list(first.values())
    cases, kinds = [], list(KINDS.values())
    for turn in range(images):
        guest = kinds[turn % len(kinds)]
        host = kinds[(turn + 1 + turn // len(kinds) % (len(kinds) - 1)) % len(kinds)]
        if not left[guest] or not left[host]:
            raise SystemExit(f"The sets have too few images for {images} composites.")
        below, above = left[host].pop(), left[guest].pop()
        shape, at = place_of(below.path, *rng.uniform([0.25, 0, 0], [0.45, 1, 1]))
        region = Region(guest, (at[1], at[0], at[1] + at[2], at[0] + at[2]))
        cases.append(Case(partial(composite, below.path, above.path, at), f"{turn}", shape, (region,)))
    return cases


def measure(cases: list[Case], locators: dict[str, engine.Locator]) -> engine.Pointing:
    """Each case is asked for its guest's kind alone, against the other kinds."""
    rows: list[Pointed] = []
    for case in cases:
        (guest,) = {region.category for region in case.regions}
        others = [kind for kind in KINDS.values() if kind != guest]
        rows += engine.point_at([case], {guest: engine.Phrase(guest)}, locators, others)
    return engine.Pointing(tuple(rows), tuple(KINDS.values()))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--data", type=Path, default=Path("../shared/data/sets"))
    asked.add_argument("--split", default="test")
    asked.add_argument("--images", type=int, default=105)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--backbone", default="scope-mini")
    args = asked.parse_args()
    backbone = engine.load_backbone(args.backbone)
    own = {name: engine.load_locator(name, backbone) for name in ("windows", "patches")}
    found = measure(composites(args.data, args.split, args.images, args.seed), own | engine.baselines())
    print("| locator | " + " | ".join(METRICS) + " |\n" + "|---" * (len(METRICS) + 1) + "|")
    for name in (*own, *engine.baselines()):
        means = (found.mean(name, metric) for metric in METRICS)
        print(f"| {name} | " + " | ".join(f"{i.value:.3f} ({i.low:.3f} to {i.high:.3f})" for i in means) + " |")
    for name in own:
        for other in engine.baselines():
            by = {metric: found.difference(other, name, metric) for metric in METRICS}
            print(json.dumps({f"{name} over {other}": {k: [round(x, 3) for x in vars(i).values()] for k, i in by.items()}}))


if __name__ == "__main__":
    main()
