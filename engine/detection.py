"""How well a locator points: COCO's AP and AP50, the pointing game, energy, IoU and Dice, beside the centre and chance.

Annotations: COCO's detection JSON (boxes; masks as polygons or RLE), read as a stranger's file: bounded, checked, one sentence.
AP: pycocotools, boxes of every size, at most 100 an image and category. The others, one number an image and category that it shows:
pointing game (Zhang et al., arXiv:1608.00507): is the hottest place inside? energy (Wang et al., Score-CAM, arXiv:1910.01279, 4.3):
the share of the heat inside; IoU and Dice of the first box with the region that it meets best, in pixels. Inside is inside the mask
where one is drawn, else the box. Intervals: evaluate.py's, over groups (`group` or `patient_id` of COCO's images where given).
Left out: crowds, which count for AP alone, as COCO has it.

Legend: H, W image rows and columns; N boxes; K categories; I images.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engine.errors import DataError
from engine.evaluate import mean_over_units
from engine.faithful import centred
from engine.locate import locate
from engine.locate._tuning import Boxed
from engine.locate.base import Locator, boxes_of, grid_of, hottest, over_image
from engine.preprocess import place
from engine.sandbox import read_image
from engine.types import Box, Heatmap, Image, Interval, Located, Phrase

METRICS = ("pointing", "energy", "iou", "dice")
MOST = 100  # boxes an image and category, COCO's
BYTES = 1 << 28  # of an annotation file
ENTRIES = 1_000_000  # of images or annotations
PIXELS = 1 << 27  # of an image: its masks are drawn at its size
OUTLINE = 1 << 21  # pixels of a region's polygons along their edges, of each of which pycocotools makes five points
FAR = 1e9  # no coordinate is larger
RESAMPLES = 200  # of AP, each of which sorts all boxes
CELLS = (14, 14)  # of the centre's and chance's heat
RLE = re.compile(
    r"[0-o]*[0-O]"
)  # COCO's compressed counts: 6 bits a character, the last one of a number without the bit for more


@dataclass(frozen=True)
class Region:
    """box : x0, y0, x1, y1 in the image's pixels, half-open; mask : COCO's polygons or RLE, or None; crowd : many in one."""

    category: str
    box: tuple[float, float, float, float]
    mask: Any = None
    crowd: bool = False


@dataclass(frozen=True)
class Case:
    """One annotated image. read : gives it; unit : what it belongs to, never shown; shape : (H, W)."""

    read: Callable[[], Image]
    unit: str
    shape: tuple[int, int]
    regions: tuple[Region, ...]


# --- COCO's annotations -----------------------------------------------------------------------------------------------


def read_coco(path: str | Path, images: str | Path) -> tuple[tuple[str, ...], list[Case]]:
    """The names of the categories, in the file's order, and its images with their regions; no image is opened.

    path : COCO's detection JSON; images : the folder of its file names. Raises DataError.
    """
    path, images = Path(path), Path(images)
    fault = partial(_fault, path.name)
    if not path.is_file():
        raise DataError(f"There is no file {path.name!r}.")
    if path.stat().st_size > BYTES:
        raise fault(f"is larger than {BYTES >> 20} MB", "Split it.")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise fault(f"is no JSON ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise fault("is no object")
    lists = []
    for name in ("categories", "images", "annotations"):
        entries = found.get(name)
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise fault(f"has no list of objects {name!r}")
        if len(entries) > ENTRIES:
            raise fault(f"has {len(entries)} {name}, more than {ENTRIES}", "Split it.")
        lists.append(entries)
    categories = _categories(lists[0], fault)
    shapes: dict[int, tuple[int, int]] = {}
    files: dict[int, tuple[str, str]] = {}
    for each in lists[1]:
        number, name = each.get("id"), each.get("file_name")
        if type(number) is not int or number in shapes:
            raise fault(f"has an image with the id {_shown(number)}, which is no whole number of its own")
        sides = each.get("height"), each.get("width")
        if not all(type(side) is int and 0 < side <= PIXELS for side in sides) or sides[0] * sides[1] > PIXELS:
            raise fault(f"gives the image {number} the height and width {_shown(sides)}")
        file = PureWindowsPath(name if isinstance(name, str) and "\0" not in name and "\\" not in name else "")
        if not file.parts or ".." in file.parts or file.anchor:  # a root, a drive, a share
            raise fault(f"gives the image {number} the file name {_shown(name)}, which is none below the folder of images")
        shapes[number] = (sides[0], sides[1])
        told = (str(each[key]) for key in ("group", "patient_id") if isinstance(each.get(key), (str, int)))
        files[number] = (str(name), next((unit for unit in told if unit.strip()), str(name)))
    regions: dict[int, list[Region]] = {number: [] for number in shapes}
    for each in lists[2]:
        number, category = each.get("image_id"), each.get("category_id")
        if type(number) is not int or number not in shapes:
            raise fault(f"has an annotation of the image {_shown(number)}, which it does not list")
        if type(category) is not int or category not in categories:
            raise fault(f"has an annotation of the category {_shown(category)}, which it does not list")
        regions[number].append(_region(each, categories[category], shapes[number], fault))
    missing = [name for name, _ in files.values() if not (images / name).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(files)} images are not in the folder {images.name!r}, the first is {missing[0]!r}.",
            "Name the folder of the annotations' file names with --images.",
        )
    cases = [
        Case(partial(_read, images / name, shapes[number]), unit, shapes[number], tuple(regions[number]))
        for number, (name, unit) in files.items()
    ]
    if not cases:
        raise fault("has no images")
    return tuple(categories.values()), cases


def _fault(name: str, what: str, hint: str = "It should be COCO's detection format.") -> DataError:
    return DataError(f"The annotation file {name!r} {what}.", hint)


def _shown(value: Any) -> str:
    """A stranger's value, short, without making a text of all of it."""
    if isinstance(value, (dict, list)):
        return "a list" if isinstance(value, list) else "an object"
    if type(value) is int and abs(value) > FAR:
        return "a huge number"
    return repr(value[:40] if isinstance(value, str) else value)


def _categories(entries: list[dict[str, Any]], fault: Callable[..., DataError]) -> dict[int, str]:
    found: dict[int, str] = {}
    for each in entries:
        number, name = each.get("id"), each.get("name")
        if type(number) is not int or number in found:
            raise fault(f"has a category with the id {_shown(number)}, which is no whole number of its own")
        if not isinstance(name, str) or not name.strip() or name in found.values() or len(found) >= 1000:
            raise fault(f"has a category with the name {_shown(name)}, which is no text of its own, or more than 1000")
        found[number] = name
    if not found:
        raise fault("has no categories")
    return found


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= FAR  # not true of NaN


def _region(each: dict[str, Any], category: str, shape: tuple[int, int], fault: Callable[..., DataError]) -> Region:
    box = each.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_number, box)) or min(box[2:]) <= 0:
        raise fault(f"has an annotation whose bbox {_shown(box)} is not x, y, width and height above 0")
    x0, y0, x1, y1 = float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3])
    if x0 < -1 or y0 < -1 or x1 > shape[1] + 1 or y1 > shape[0] + 1:  # annotators round
        raise fault(f"has a bbox from {x0:g}, {y0:g} to {x1:g}, {y1:g} in an image of {shape[1]} x {shape[0]} pixels")
    return Region(
        category, (x0, y0, x1, y1), _mask(each.get("segmentation"), shape, fault), each.get("iscrowd") in (1, True)
    )


def _mask(found: Any, shape: tuple[int, int], fault: Callable[..., DataError]) -> Any:
    """Checked, for what pycocotools makes of other numbers is memory that is not its own."""
    if found is None or found == []:
        return None
    if isinstance(found, list):
        outline = 0.0
        for polygon in found:
            well = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(_number, polygon))
            if not well or min(polygon) < -1 or max(polygon[::2]) > shape[1] + 1 or max(polygon[1::2]) > shape[0] + 1:
                raise fault("has a polygon that is no list of x, y, x, y, x, y ... within its image")
            outline += float(np.abs(np.diff(np.reshape(polygon, (-1, 2)), axis=0)).max(axis=1).sum())
        if outline > min(OUTLINE, 4 * (shape[0] + 2) * (shape[1] + 2)):
            raise fault(
                f"has polygons of {outline:.0f} pixels along their edges in an image of {shape[1]} x {shape[0]} pixels"
            )
        return found
    if isinstance(found, dict) and found.get("size") == list(shape):
        counts = found.get("counts")
        if isinstance(counts, list) and all(type(n) is int and 0 <= n <= PIXELS for n in counts):
            if sum(counts) == shape[0] * shape[1]:
                return {"size": list(shape), "counts": counts}
        elif isinstance(counts, str) and RLE.fullmatch(counts):
            return {"size": list(shape), "counts": counts}
    raise fault("has a segmentation that is neither polygons nor an RLE of its image's size")


def _read(path: Path, shape: tuple[int, int]) -> Image:
    image = read_image(path)
    if image.shape != shape:
        raise DataError(
            f"{path.name!r} has {image.shape[1]} x {image.shape[0]} pixels; its annotations are of {shape[1]} x {shape[0]}."
        )
    return image


def inside(region: Region, shape: tuple[int, int]) -> np.ndarray:
    """bool (H, W): the pixels of the mask, or those whose centres lie in the box. Raises DataError where an RLE has another size."""
    if region.mask is None:
        return _within(region.box, shape)
    try:
        if isinstance(region.mask, list):
            return rle.decode(rle.merge(rle.frPyObjects(region.mask, *shape))).astype(bool)
        packed = region.mask if isinstance(region.mask["counts"], str) else rle.frPyObjects(region.mask, *shape)
        return rle.decode(packed).astype(bool)
    except ValueError as error:
        raise DataError(
            f"A mask of {region.category!r} does not fill its image of {shape[1]} x {shape[0]} pixels."
        ) from error


def _within(box: Sequence[float], shape: tuple[int, int]) -> np.ndarray:
    y, x = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    return ((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))


def few(cases: Sequence[Case], categories: Sequence[str], shots: int, seed: int = 0) -> list[Boxed]:
    """Images to learn from, in the seed's order: an image is taken while a category that it shows is in fewer than `shots` of those
    taken; 0 takes all that show one. Crowds are left out. Raises DataError where a category is shown by none."""
    if shots < 0:
        raise DataError(f"{shots} shots cannot be drawn.", "Give images a category, or 0 for all.")
    counts, taken = dict.fromkeys(categories, 0), []
    for i in np.random.default_rng(seed).permutation(len(cases)):
        regions = [region for region in cases[i].regions if not region.crowd and region.category in counts]
        shown = {region.category for region in regions}
        if not shown or (shots and min(counts[c] for c in shown) >= shots):
            continue
        for c in shown:
            counts[c] += 1
        boxes = np.array([region.box for region in regions], np.float32)
        taken.append(Boxed(cases[i].read, boxes, tuple(categories.index(region.category) for region in regions)))
    missing = [c for c, count in counts.items() if not count]
    if missing:
        raise DataError(f"No image shows {missing[0]!r}.", "Take the category out of the annotations, or annotate one.")
    return taken


# --- what every locator is held against -------------------------------------------------------------------------------


class Centre:
    """Points at the middle of every image, where what an image is of tends to stand."""

    name = model = "centre"
    device = "cpu (float32)"

    def locate(self, image: Image, phrases: Sequence[Phrase], negatives: Sequence[str], most: int) -> list[Located]:
        return [_blind(self.name, centred(CELLS), image, each, most) for each in phrases]


class Chance:
    """Points at a place that the seed, the image and the phrase draw."""

    name = model = "random"
    device = "cpu (float32)"

    def __init__(self, seed: int = 0):
        self._seed = seed

    def locate(self, image: Image, phrases: Sequence[Phrase], negatives: Sequence[str], most: int) -> list[Located]:
        pixels = np.ascontiguousarray(image.pixels).tobytes()
        found = []
        for each in phrases:
            drawn = hashlib.sha256(b"%d %s " % (self._seed, each.text.encode()) + pixels).digest()
            heat = np.random.default_rng(list(drawn)).random(CELLS)
            found.append(_blind(self.name, heat, image, each, most))
        return found


def _blind(name: str, values: np.ndarray, image: Image, phrase: Phrase, most: int) -> Located:
    (h, w), shape = grid_of(image.shape), image.shape
    heat = place(Heatmap(values.astype(np.float32), Box(0, 0, h, w), "", name), (h, w))
    boxes, scores = boxes_of(heat, shape, most)
    whole = over_image(heat, shape, phrase, name, "class")
    return Located(phrase, name, name, whole, boxes, scores, hottest(whole))


def baselines() -> dict[str, Locator]:
    """Who has not looked at the image, by name."""
    return {each.name: each for each in (Centre(), Chance())}


# --- measures ---------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What AP needs of a Located, whose heat is not kept. boxes : float32 (N, 4); scores : float32 (N,)."""

    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Pointed:
    """One image. found : by locator and category; values : by locator, category that it shows, and METRICS."""

    case: Case
    found: dict[str, dict[str, Found]]
    values: dict[str, dict[str, dict[str, float]]]


def point_at(
    cases: Sequence[Case], phrases: Mapping[str, Phrase], locators: Mapping[str, Locator], negatives: Sequence[str] = ()
) -> Iterator[Pointed]:
    """One image after the other: every locator asked for every category, at once. phrases : by category.

    Raises DataError, ImageError where a file cannot be read, and what the locators raise.
    """
    for case in cases:
        image = case.read()
        found: dict[str, dict[str, Found]] = {}
        values: dict[str, dict[str, dict[str, float]]] = {}
        shown = {c: [r for r in case.regions if r.category == c and not r.crowd] for c in phrases}
        for name, locator in locators.items():
            made = dict(zip(phrases, locate(image, list(phrases.values()), locator, negatives, MOST), strict=True))
            found[name] = {c: Found(each.boxes, each.scores) for c, each in made.items()}
            values[name] = {
                c: measured(made[c], (inside(region, case.shape) for region in regions))
                for c, regions in shown.items()
                if regions
            }
        yield Pointed(case, found, values)


def measured(found: Located, masks: Iterable[np.ndarray]) -> dict[str, float]:
    """masks : bool (H, W) each, one a region, none held longer than it is looked at -> METRICS; 0 where nothing is pointed at."""
    shape = int(found.heat.box.height), int(found.heat.box.width)
    first = _within(found.boxes[0], shape) if len(found.boxes) else np.zeros(shape, bool)
    every, size, iou, dice = np.zeros(shape, bool), int(first.sum()), 0.0, 0.0
    for mask in masks:
        every |= mask
        both, areas = int((first & mask).sum()), size + int(mask.sum())
        iou, dice = max(iou, both / max(areas - both, 1)), max(dice, 2 * both / max(areas, 1))
    heat, point = place(found.heat, shape), found.point
    hit = point is not None and bool(every[int(point[1]), int(point[0])])
    total = float(heat.sum())
    return {
        "pointing": float(hit),
        "energy": float(heat[every].sum()) / total if total > 0 else 0.0,
        "iou": iou,
        "dice": dice,
    }


@dataclass(frozen=True)
class Pointing:
    """Locators beside each other, on the same images. rows : one an image; categories : in order."""

    rows: tuple[Pointed, ...]
    categories: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[Pointed, str]]:
        """Images with each category that they show."""
        return [(row, c) for row in self.rows for c in self.categories if c in next(iter(row.values.values()))]

    def _values(self, locator: str, metric: str) -> tuple[np.ndarray, list[str]]:
        pairs = self.pairs
        if not pairs:
            raise DataError("No image shows a category that was asked for, so that nothing can be measured.")
        return np.array([row.values[locator][c][metric] for row, c in pairs]), [row.case.unit for row, _ in pairs]

    def mean(self, locator: str, metric: str) -> Interval:
        """Raises DataError where no image shows a category."""
        return mean_over_units(*self._values(locator, metric))

    def difference(self, a: str, b: str, metric: str) -> Interval:
        """How much more b has than a, on the same images."""
        (one, units), (other, _) = self._values(a, metric), self._values(b, metric)
        return mean_over_units(other - one, units)

    def measures(self, locator: str) -> dict[str, Interval]:
        """METRICS, and AP and AP50, of one locator. Raises DataError where no image shows a category."""
        return {metric: self.mean(locator, metric) for metric in METRICS} | self.precision[locator]

    def markdown(self) -> str:
        """A table, a row a locator."""
        head = "| locator | pointing | energy | IoU | Dice | AP | AP50 |\n" + "|---" * 7 + "|"
        rows = []
        for name in self.rows[0].found:
            cells = (f"{i.value:.3f} ({i.low:.3f} to {i.high:.3f})" for i in self.measures(name).values())
            rows.append("| " + " | ".join([name, *cells]) + " |")
        return "\n".join([head, *rows])

    @cached_property
    def precision(self) -> dict[str, dict[str, Interval]]:
        """By locator: "ap" (the mean over IoU 0.50 to 0.95) and "ap50"; NaN where no image shows a category."""
        return {name: average_precision(self.rows, self.categories, name) for name in self.rows[0].found}


def average_precision(
    rows: Sequence[Pointed], categories: Sequence[str], locator: str, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """COCO's AP and AP50 of one locator's boxes, with intervals over groups of images."""
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        for k, c in enumerate(categories):
            for region in (r for r in row.case.regions if r.category == c):
                truth.append(_annotation(i, k, region.box) | {"id": len(truth) + 1, "iscrowd": int(region.crowd)})
            boxes, scores = row.found[locator][c].boxes, row.found[locator][c].scores
            for box, score in zip(boxes.tolist(), scores.tolist(), strict=True):
                found.append(_annotation(i, k, box) | {"id": len(found) + 1, "iscrowd": 0, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        judge = COCOeval(*(_indexed(each, len(rows), len(categories)) for each in (truth, found)), "bbox")
        judge.params.areaRng, judge.params.areaRngLbl, judge.params.maxDets = [[0, 1e10]], ["all"], [MOST]
        judge.evaluate()
        per_image, count = judge.evalImgs, len(rows)
        value = _precision(judge, per_image, list(range(count)), count)
        names, where = np.unique([row.case.unit for row in rows], return_inverse=True)
        members = [np.flatnonzero(where == n) for n in range(len(names))]
        rng, drawn = np.random.default_rng(seed), []
        for _ in range(resamples):
            chosen = np.concatenate([members[n] for n in rng.integers(0, len(names), len(names))])
            drawn.append(_precision(judge, per_image, chosen.tolist(), count))
    ends = np.nanpercentile(drawn, [2.5, 97.5], axis=0) if not np.isnan(drawn).all() else np.full((2, 2), np.nan)
    return {n: Interval(value[i], float(ends[0, i]), float(ends[1, i])) for i, n in enumerate(("ap", "ap50"))}


def _annotation(image: int, category: int, box: Sequence[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    return {"image_id": image, "category_id": category, "bbox": [x0, y0, width, height], "area": width * height}


def _indexed(annotations: list[dict[str, Any]], images: int, categories: int) -> COCO:
    made = COCO()
    made.dataset = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": k} for k in range(categories)],
        "annotations": annotations,
    }
    made.createIndex()
    return made


def _precision(judge: COCOeval, per_image: list[Any], chosen: list[int], count: int) -> tuple[float, float]:
    """AP and AP50 of some images, one as often as it is chosen: what pycocotools found in each is put together anew."""
    judge.evalImgs = [per_image[k * count + i] for k in range(len(per_image) // count) for i in chosen]
    judge.params.imgIds = judge._paramsEval.imgIds = list(range(len(chosen)))
    judge.accumulate()
    precision = judge.eval["precision"]  # (IoU thresholds, recalls, K, areas, limits); -1 where a category does not occur
    every = [part[part > -1] for part in (precision, precision[0])]
    return tuple(float(part.mean()) if part.size else float("nan") for part in every)  # type: ignore[return-value]
