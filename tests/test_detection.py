"""Measures of pointing, worked out by hand; strangers' annotation files. Run: python -m pytest tests/test_detection.py"""

from __future__ import annotations

import json
import weakref

import numpy as np
import PIL.Image
import pytest

import engine
from engine.detection import (
    Case,
    Centre,
    Chance,
    Found,
    Pointed,
    Region,
    average_precision,
    inside,
    measured,
    point_at,
    read_coco,
)
from engine.errors import DataError
from engine.locate.base import hottest
from engine.types import Box, Heatmap, Located, Phrase


def located(heat: np.ndarray, boxes: list, scores: list) -> Located:
    over = Heatmap(heat.astype(np.float32), Box(0, 0, *map(float, heat.shape)), "x", "fixed")
    found = kept(boxes, scores)
    return Located(Phrase("x"), "fixed", "fixed", over, found.boxes, found.scores, hottest(over))


def kept(boxes: list, scores: list) -> Found:
    return Found(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32))


class Fixed:
    """Says what it was told to say of each image, in turn."""

    name = model = "fixed"
    device = "cpu (float32)"

    def __init__(self, *says: Located):
        self.says = list(says)

    def locate(self, image, phrases, negatives, most):
        return [self.says.pop(0) for _ in phrases]


def case(*regions: Region, unit: str = "a", shape=(10, 10)) -> Case:
    pixels = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape) / 100
    return Case(lambda: engine.Image(pixels), unit, shape, regions)


# --- one image --------------------------------------------------------------------------------------------------------


def test_pointing_energy_iou_and_dice_are_those_worked_out_by_hand():
    heat = np.full((10, 10), 0.1)
    heat[2, 3] = 0.9
    truth = inside(Region("x", (2, 2, 6, 4)), (10, 10))  # columns 2 to 5, rows 2 and 3: 8 pixels
    assert truth.sum() == 8 and truth[2:4, 2:6].all()
    found = measured(located(heat, [[4, 2, 8, 4]], [0.9]), [truth])
    assert found["pointing"] == 1
    assert found["energy"] == pytest.approx((0.9 + 7 * 0.1) / (0.9 + 99 * 0.1))
    assert found["iou"] == pytest.approx(4 / 12) and found["dice"] == pytest.approx(8 / 16)  # 4 pixels shared of 8 and 8


def test_the_first_box_is_held_against_the_region_that_it_meets_best():
    near, far = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    near[0:2, 0:2] = True
    far[6:8, 6:8] = True
    heat = np.zeros((10, 10))
    heat[7, 7] = 1
    found = measured(located(heat, [[0, 0, 2, 2], [6, 6, 8, 8]], [0.9, 0.8]), [far, near])
    assert found == {"pointing": 1.0, "energy": 1.0, "iou": 1.0, "dice": 1.0}
    nothing = measured(located(np.zeros((10, 10)), [], []), [far])
    assert nothing == {"pointing": 0.0, "energy": 0.0, "iou": 0.0, "dice": 0.0}


def test_masks_are_polygons_or_runs_and_count_in_place_of_the_box():
    box = (0.0, 0.0, 4.0, 4.0)
    triangle = inside(Region("x", box, [[0, 0, 4, 0, 0, 4]]), (6, 8))
    assert triangle[0, 0] and not triangle[3, 3] and 6 <= triangle.sum() <= 10  # half of 16 pixels, by its edges
    # runs go down the columns: 6 rows; 7 outside, 2 inside (rows 1 and 2 of column 1), the rest outside
    runs = inside(Region("x", box, {"size": [6, 8], "counts": [7, 2, 39]}), (6, 8))
    expected = np.zeros((6, 8), bool)
    expected[1:3, 1] = True
    np.testing.assert_array_equal(runs, expected)
    # the same packed: 5 bits a character from "0", the third run as it is
    packed = inside(Region("x", box, {"size": [6, 8], "counts": "72W1"}), (6, 8))
    np.testing.assert_array_equal(packed, expected)
    with pytest.raises(DataError, match="A mask of 'x' does not fill its image of 8 x 6 pixels"):
        inside(Region("x", box, {"size": [6, 8], "counts": "72W3"}), (6, 8))


# --- AP ---------------------------------------------------------------------------------------------------------------


def test_average_precision_is_the_one_worked_out_by_hand():
    """Two images, three true boxes A, B (first image) and C (second), all 10 x 10.

    Found, highest first: 0.9 on A exactly; 0.8 nowhere; 0.7 on C with IoU 0.6 (10 x 6 of 10 x 10); B is missed.
    IoU 0.50 to 0.60 (3 thresholds): right, wrong, right. Recall 1/3 at precision 1, 2/3 at precision 2/3. Of the 101 recalls
    0.00 to 1.00, 34 (to 0.33) have 1, 33 (to 0.66) have 2/3, 34 have 0: AP = (34 + 22) / 101.
    IoU 0.65 to 0.95 (7): the third is wrong, too: 34 / 101. AP = (3 * 56 + 7 * 34) / 10 / 101.
    """
    a, b, c = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (0.0, 20.0, 10.0, 30.0)
    first = Pointed(
        case(Region("x", a), Region("x", b), unit="one", shape=(40, 40)),
        {"f": {"x": kept([a, (30, 30, 40, 40)], [0.9, 0.8])}},
        {"f": {}},
    )
    second = Pointed(
        case(Region("x", c), unit="two", shape=(40, 40)), {"f": {"x": kept([(0, 20, 10, 26)], [0.7])}}, {"f": {}}
    )
    found = average_precision([first, second], ["x"], "f")
    assert found["ap50"].value == pytest.approx(56 / 101, abs=1e-6)
    assert found["ap"].value == pytest.approx((3 * 56 + 7 * 34) / 10 / 101, abs=1e-6)
    # a resample is the first image twice, the second twice, or both: 0.5 -> right, right, wrong, wrong of 4: 51 recalls at 1
    once = average_precision([first], ["x"], "f")["ap50"].value
    assert once == pytest.approx(51 / 101, abs=1e-6)
    assert found["ap50"].low == pytest.approx(51 / 101, abs=1e-6) and found["ap50"].high == pytest.approx(1, abs=1e-6)


def test_nothing_found_is_zero_and_a_category_that_does_not_occur_is_left_out():
    region = Region("x", (0.0, 0.0, 5.0, 5.0))
    row = Pointed(case(region), {"f": {"x": kept([], []), "y": kept([], [])}}, {"f": {}})
    assert average_precision([row], ["x"], "f", resamples=2)["ap"].value == 0
    assert average_precision([row], ["x", "y"], "f", resamples=2)["ap"].value == 0
    assert np.isnan(average_precision([row], ["y"], "f", resamples=2)["ap"].value)


def test_a_crowd_is_no_miss_and_what_lies_in_it_no_fault():
    crowd, one = Region("x", (0.0, 0.0, 10.0, 5.0), crowd=True), Region("x", (0.0, 6.0, 4.0, 10.0))
    found = located(np.zeros((10, 10)), [(1, 1, 3, 3), (0, 6, 4, 10)], [0.9, 0.8])
    row = Pointed(case(crowd, one), {"f": {"x": Found(found.boxes, found.scores)}}, {"f": {}})
    assert average_precision([row], ["x"], "f", resamples=2)["ap"].value == pytest.approx(1)
    (pointed,) = point_at([case(crowd)], {"x": Phrase("x")}, {"f": Fixed(found)})
    assert pointed.values == {"f": {}}  # nothing to point at


# --- many images ------------------------------------------------------------------------------------------------------


def test_means_differences_and_intervals_are_over_groups():
    truth, hit, miss = Region("x", (0.0, 0.0, 5.0, 10.0)), np.zeros((10, 10)), np.zeros((10, 10))
    hit[0, 0], miss[0, 9] = 1, 1
    cases = [case(truth, unit="a"), case(truth, unit="a"), case(truth, unit="b"), case(unit="c")]
    says = [located(h, [], []) for h in (hit, hit, miss, miss)]
    other = [located(h, [], []) for h in (miss, miss, miss, miss)]
    locators = {"f": Fixed(*says), "g": Fixed(*other)}
    rows = tuple(point_at(cases, {"x": Phrase("x")}, locators))
    found = engine.Pointing(rows, ("x",))
    assert len(found.pairs) == 3
    mean = found.mean("f", "pointing")
    assert mean.value == pytest.approx(2 / 3) and (mean.low, mean.high) == (0, 1)  # both groups a, or both b
    assert found.difference("g", "f", "pointing").value == pytest.approx(2 / 3)
    assert found.precision["f"]["ap"].value == 0
    with pytest.raises(DataError, match="No image shows a category that was asked for"):
        engine.Pointing(rows, ("y",)).mean("f", "pointing")


def test_centre_and_chance_score_what_they_should():
    rng = np.random.default_rng(0)
    middle = Region("x", (40.0, 40.0, 60.0, 60.0))
    cases = []
    for i in range(40):
        pixels = rng.random((100, 100), dtype=np.float32)
        cases.append(Case(lambda pixels=pixels: engine.Image(pixels), str(i), (100, 100), (middle,)))
    rows = tuple(point_at(cases, {"x": Phrase("x")}, {"centre": Centre(), "random": Chance()}))
    found = engine.Pointing(rows, ("x",))
    assert found.mean("centre", "pointing").value == 1
    chance = found.mean("random", "energy")
    assert chance.value == pytest.approx(0.04, abs=0.005)  # the region's share of the image
    assert found.mean("random", "pointing").value < 0.2
    again = next(point_at(cases, {"x": Phrase("x")}, {"random": Chance()}))
    for one, other in zip(again.found["random"]["x"], rows[0].found["random"]["x"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_neither_heat_nor_masks_are_kept_from_image_to_image(monkeypatch):
    alive: dict[str, list[weakref.ref]] = {"heat": [], "mask": []}

    class Watched(Centre):
        def locate(self, *asked):
            (found,) = super().locate(*asked)
            alive["heat"].append(weakref.ref(found.heat.values))
            return [found]

    def drawn(region, shape):
        assert sum(mask() is not None for mask in alive["mask"]) <= 1  # the one before, until this one takes its place
        mask = inside(region, shape)
        alive["mask"].append(weakref.ref(mask))
        return mask

    monkeypatch.setattr("engine.detection.inside", drawn)
    regions = [Region("x", (i, i, i + 3.0, i + 3.0)) for i in range(5)]
    rows = tuple(point_at([case(*regions)] * 4, {"x": Phrase("x")}, {"centre": Watched()}))
    assert len(rows) == len(alive["heat"]) == 4 and len(alive["mask"]) == 20
    assert not any(each() is not None for each in (*alive["heat"], *alive["mask"]))


# --- COCO's file ------------------------------------------------------------------------------------------------------


def annotations(**changes) -> dict:
    return {
        "images": [{"id": 7, "file_name": "a/one.png", "height": 20, "width": 30, "patient_id": "p"}],
        "categories": [{"id": 3, "name": "bump"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [5, 4, 10, 8], "iscrowd": 0}],
    } | changes


@pytest.fixture
def written(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    pixels = np.zeros((20, 30), np.uint8)
    pixels[4:12, 5:15] = 200
    PIL.Image.fromarray(pixels).save(tmp_path / "images" / "a" / "one.png")

    def write(text: str | dict):
        (tmp_path / "coco.json").write_text(text if isinstance(text, str) else json.dumps(text))
        return tmp_path / "coco.json", tmp_path / "images"

    return write


def test_boxes_masks_crowds_and_groups_are_read(written):
    more = {"image_id": 7, "category_id": 3, "bbox": [0, 0, 2, 2], "iscrowd": 1, "segmentation": [[0, 0, 2, 0, 2, 2]]}
    categories, (one,) = read_coco(*written(annotations(annotations=[*annotations()["annotations"], more])))
    assert categories == ("bump",) and one.unit == "p" and one.shape == (20, 30)
    assert one.regions[0] == Region("bump", (5.0, 4.0, 15.0, 12.0))
    assert one.regions[1].crowd and one.regions[1].mask == more["segmentation"]
    assert one.read().pixels[5, 6] == pytest.approx(200 / 255)


def entry(**changes) -> dict:
    return annotations(annotations=[annotations()["annotations"][0] | changes])


@pytest.mark.parametrize(
    ("told", "unit"),
    [
        ({"patient_id": ""}, "a/one.png"),
        ({"patient_id": " "}, "a/one.png"),
        ({"group": "", "patient_id": "p"}, "p"),
        ({"group": 0, "patient_id": "p"}, "0"),
        ({"patient_id": None}, "a/one.png"),
    ],
)
def test_images_of_no_named_group_are_their_own(written, told, unit):
    assert read_coco(*written(picture(**told)))[1][0].unit == unit


def picture(**changes) -> dict:
    return annotations(images=[annotations()["images"][0] | changes])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, r"is no JSON \(RecursionError\)"),
        ('{"images": ' + "9" * 5000 + "}", r"is no JSON \(ValueError\)"),
        ("[]", "is no object"),
        (annotations(images={}), "has no list of objects 'images'"),
        (annotations(annotations=[1, 2]), "has no list of objects 'annotations'"),
        (annotations(categories=[]), "has no categories"),
        (annotations(categories=[{"id": 3, "name": ["bump"]}]), "a category with the name a list"),
        (annotations(categories=[{"id": 3, "name": "x"}, {"id": 3, "name": "y"}]), "a category with the id 3"),
        (annotations(images=[], annotations=[]), "has no images"),
        (picture(id="7"), "an image with the id '7'"),
        (picture(height=10**30), "gives the image 7 the height and width"),
        (picture(width=-5), "gives the image 7 the height and width"),
        (picture(file_name="../../etc/passwd"), r"the file name '\.\./\.\./etc/passwd', which is none below the folder"),
        (picture(file_name="/etc/passwd"), "which is none below the folder"),
        (picture(file_name="//etc/passwd"), "which is none below the folder"),
        (picture(file_name="C:/one.png"), "which is none below the folder"),
        (picture(file_name="C:one.png"), "which is none below the folder"),
        (picture(file_name="..\\one.png"), "which is none below the folder"),
        (picture(file_name="."), "which is none below the folder"),
        (picture(file_name=5), "the file name 5"),
        (picture(file_name="b.png"), r"1 of the 1 images are not in the folder 'images', the first is 'b\.png'"),
        (entry(image_id=8), "an annotation of the image 8, which it does not list"),
        (entry(category_id=10**400), "the category a huge number"),
        (entry(bbox=[1, 2, 3]), "whose bbox a list is not"),
        (entry(bbox=[0, 0, 0, 5]), "is not x, y, width and height above 0"),
        (entry(bbox=[0, 0, 10**400, 5]), "is not x, y, width and height"),
        (entry(bbox=[0, 0, 31.5, 5]), "a bbox from 0, 0 to 31.5, 5 in an image of 30 x 20 pixels"),
        (json.dumps(entry()).replace("[5, 4, 10, 8]", "[NaN, 4, 10, 8]"), "is not x, y, width and height"),
        (entry(segmentation=[[0, 0, 1]]), "has a polygon that is no list"),
        (entry(segmentation=[[0, 0, 1e8, 0, 1, 1]]), "has a polygon that is no list"),
        (entry(segmentation=[0, 0, 1, 0, 1, 1]), "has a polygon that is no list"),
        # there and back 100 times, 30 pixels wide: 199 edges of 30; an image of 30 x 20 has room for 4 * 32 * 22 = 2816
        (entry(segmentation=[[0, 0, 30, 9] * 100]), "has polygons of 5970 pixels along their edges in an image of 30 x 20"),
        (entry(segmentation=[[0, 0, 30, 9] * 20] * 3), "has polygons of 3510 pixels along their edges"),
        (entry(segmentation={"size": [9, 9], "counts": [81]}), "neither polygons nor an RLE"),
        (entry(segmentation={"size": [20, 30], "counts": [5]}), "neither polygons nor an RLE"),
        (entry(segmentation={"size": [20, 30], "counts": "~~"}), "neither polygons nor an RLE"),
        (entry(segmentation={"size": [20, 30], "counts": "oo"}), "neither polygons nor an RLE"),
        (entry(segmentation="all"), "neither polygons nor an RLE"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_one_sentence(written, text, words):
    with pytest.raises(DataError, match=words) as caught:
        read_coco(*written(text))
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_a_million_entries_are_bounded_and_a_missing_file_said(written, monkeypatch, tmp_path):
    monkeypatch.setattr("engine.detection.ENTRIES", 1000)
    with pytest.raises(DataError, match="has 1001 annotations, more than 1000"):
        read_coco(*written(annotations(annotations=[{}] * 1001)))
    monkeypatch.setattr("engine.detection.BYTES", 1 << 10)
    with pytest.raises(DataError, match="is larger than 0 MB"):
        read_coco(*written(annotations(info="x" * 2000)))
    with pytest.raises(DataError, match=r"There is no file 'other\.json'"):
        read_coco(tmp_path / "other.json", tmp_path)


def test_an_image_of_another_size_than_its_annotations_is_refused(written):
    _, (one,) = read_coco(*written(picture(height=40)))
    with pytest.raises(DataError, match=r"'one.png' has 30 x 20 pixels; its annotations are of 30 x 40"):
        one.read()
