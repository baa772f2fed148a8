"""Burned-in text: found where it was drawn, rarely found where there is none, covered before classification.

Run: python -m pytest tests/test_burned_in.py
The numbers of docs/privacy.md: python -m tests.test_burned_in
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pydicom
import pytest

from engine.burned_in import cover, find_text
from engine.readers import open_file
from engine.types import Box, Image, Window

LINES = (
    "DOE JOHN", "12.03.1961", "ID 8837462", "F 54Y", "St. Mary Hospital", "HR 72", "14:33:08", "Miller, Anna", "GE LOGIQ E9",
    "MI 1.1 TIS 0.4", "Dr. Weber", "2019-07-14", "L4-12t", "Portable AP", "ACC 99182",
)  # fmt: skip
COLOURS = {"white": (255, 255, 255), "yellow": (255, 255, 0), "grey": (180, 180, 180), "black on white": (0, 0, 0)}
SETS = {
    "chest X-ray": "PNEUMONIA_CXR", "chest X-ray 2": "COVID_CXR", "CT": "CTKIDNEY", "MR": "BTMRI", "ultrasound": "BUSI",
    "dermatoscopy": "DERM7", "histology": "LC25000_LUNG", "fundus": "RETINA", "OCT": "OCT_MINI", "knee X-ray": "KNEEXRAY",
}  # fmt: skip
VISIBLE = 0.3  # of the range between the text and what it stands on: what is fainter is counted apart


def picture(pixels: np.ndarray) -> Image:
    return Image(np.asarray(pixels, dtype=np.float32) / 255)


def drawn(pixels: np.ndarray, lines: list[tuple[int, int, str]], size: int, colour: str = "white"):
    """The pixels, uint8, with the lines at (top, left), and the (top, bottom, left, right) of each line's letters."""
    made = PIL.Image.fromarray(pixels).convert("RGB")
    pen, font, boxes = PIL.ImageDraw.Draw(made), PIL.ImageFont.load_default(size), []
    for top, left, text in lines:
        x0, y0, x1, y1 = (int(v) for v in pen.textbbox((left, top), text, font=font))
        if colour == "black on white":
            pen.rectangle((x0 - 4, y0 - 3, x1 + 4, y1 + 3), fill=(255, 255, 255))
        pen.text((left, top), text, font=font, fill=COLOURS[colour])
        boxes.append((y0, y1, x0, x1))
    return np.asarray(made), boxes


def covered(shape: tuple[int, int], boxes: list[Box]) -> np.ndarray:
    found = np.zeros(shape, bool)
    for box in boxes:
        bottom, right = np.ceil(box.top + box.height), np.ceil(box.left + box.width)
        found[int(box.top) : int(bottom), int(box.left) : int(right)] = True
    return found


def is_found(line: tuple[int, int, int, int], mask: np.ndarray) -> bool:
    """Three quarters of a line lie in boxes: a name would not be read from the rest."""
    top, bottom, left, right = line
    return bool(mask[top:bottom, left:right].mean() >= 0.75)


# --- drawn on plain grounds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("size", [8, 10, 12, 16, 24, 40])
def test_lines_of_any_usual_size_and_colour_are_found(size, colour):
    ground = np.full((400, 600, 3), 20, np.uint8)
    pixels, lines = drawn(ground, [(20, 30, "DOE JOHN"), (120, 200, "12.03.1961"), (300, 40, "ID 8837462")], size, colour)
    mask = covered(pixels.shape[:2], find_text(picture(pixels)))
    assert [is_found(line, mask) for line in lines] == [True] * 3
    assert mask.mean() < 0.25  # and not the whole picture


def test_lines_that_stand_close_below_each_other_are_found():
    lines = [(20 + 18 * i, 15, LINES[i]) for i in range(6)]
    pixels, boxes = drawn(np.zeros((300, 400, 3), np.uint8), lines, 16)
    mask = covered(pixels.shape[:2], find_text(picture(pixels)))
    assert sum(is_found(box, mask) for box in boxes) >= 5  # "F 54Y" has few letters for a line among lines
    assert not mask[150:].any()


def test_text_in_a_large_image_is_found_at_its_place():
    pixels, (line,) = drawn(np.zeros((2600, 2000), np.uint8), [(2400, 1500, "St. Mary Hospital")], 44)
    (box,) = find_text(picture(pixels[..., 0]))
    assert abs(box.top + box.height / 2 - (line[0] + line[1]) / 2) < 12
    assert abs(box.left + box.width / 2 - (line[2] + line[3]) / 2) < 12


def test_black_letters_on_a_bright_picture_are_found():
    made = PIL.Image.new("L", (300, 200), 210)
    PIL.ImageDraw.Draw(made).text((40, 60), "Miller, Anna", font=PIL.ImageFont.load_default(14), fill=0)
    assert is_found((64, 72, 42, 115), covered((200, 300), find_text(picture(np.asarray(made)))))


@pytest.mark.parametrize("name", ["black", "ramp", "noise", "discs", "grid", "one letter", "tiny"])
def test_where_there_is_no_text_none_is_found(name):
    rows, columns = np.mgrid[:256, :320]
    one = drawn(np.zeros((256, 320, 3), np.uint8), [(40, 40, "R")], 30)[0]
    pixels = {
        "black": np.zeros((256, 320)),
        "ramp": columns * 255 / 320,
        "noise": np.random.default_rng(0).normal(120, 12, (256, 320)).clip(0, 255),
        "discs": 200.0 * (np.hypot(rows % 64 - 32, columns % 80 - 40) < 20),
        "grid": 200.0 * ((rows % 32 == 0) | (columns % 32 == 0)),
        "one letter": one,
        "tiny": np.zeros((3, 2)),
    }[name]
    assert find_text(picture(pixels)) == []


def test_a_megapixel_takes_less_than_150_milliseconds():
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.normal(100, 20, (64, 64)), np.ones((16, 16))) + rng.normal(0, 4, (1024, 1024))
    image = picture(
        drawn(smooth.clip(0, 255).astype(np.uint8), [(30, 40, "DOE JOHN"), (960, 700, "12.03.1961")], 20)[0][..., 0]
    )

    def seconds() -> float:
        start = time.perf_counter()
        find_text(image)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.15  # the fastest of five: other processes take the rest


# --- covering -----------------------------------------------------------------------------------------------------------------


def test_what_is_covered_is_black_and_everything_else_as_it_was():
    pixels = np.linspace(0.1, 1, 30, dtype=np.float32).reshape(5, 6)
    marks = ("R", "A", "L", "P")
    image = Image(pixels, (0.5, 0.7), ("read",), ("careful",), Window(40, 400), "CT", marks)
    done = cover(image, [Box(1.2, 2, 1.5, 2.1), Box(4, -3, 9, 4)])  # rows 1 to 2, columns 2 to 4; row 4, column 0
    expected = pixels.copy()
    expected[1:3, 2:5] = expected[4, 0] = 0
    assert np.array_equal(done.pixels, expected) and np.array_equal(image.pixels, pixels)
    assert done.notes == ("read", "2 areas were covered before classification.")
    assert (done.window, done.spacing_mm, done.marks, done.modality) == (image.window, (0.5, 0.7), marks, "CT")
    assert done.warnings == ("careful",) and done.pixels.dtype == np.float32


def test_covering_again_changes_nothing_and_one_area_is_said_in_the_singular():
    image = Image(np.ones((4, 4, 3), np.float32))
    once = cover(image, [Box(0, 0, 1, 1)])
    twice = cover(once, [Box(0, 0, 1, 1)])
    assert once.notes == twice.notes == ("1 area was covered before classification.",)
    assert np.array_equal(once.pixels, twice.pixels) and once.pixels.sum() == 45


def test_boxes_outside_of_the_image_or_none_leave_it_alone():
    image = Image(np.ones((4, 4), np.float32))
    assert cover(image, []) is image
    assert cover(image, [Box(4, 0, 2, 2), Box(0, -2, 1, 2), Box(1, 1, 0, 3)]) is image


def test_a_covered_text_is_not_found_again():
    image = picture(drawn(np.zeros((200, 300, 3), np.uint8), [(40, 40, "DOE JOHN"), (90, 40, "ID 8837462")], 14)[0])
    boxes = find_text(image)
    assert len(boxes) == 2 and find_text(cover(image, boxes)) == []


def test_the_text_of_a_real_ultrasound_is_found():
    """examples_palette.dcm comes with pydicom; where its lines stand was read off with the eye."""
    image = open_file(Path(pydicom.__file__).parent / "data" / "test_files" / "examples_palette.dcm")[0].frame(0)
    mask = covered(image.shape, find_text(image))
    date, time_of_day = (9, 23, 670, 772), (36, 49, 670, 780)
    number, place = (36, 49, 97, 263), (36, 49, 328, 510)
    assert [is_found(line, mask) for line in (date, time_of_day, number, place)] == [True] * 4
    assert mask[110:340, 250:550].mean() < 0.01  # the picture itself


# --- real images ------------------------------------------------------------------------------------------------------------


def real(shared: Path, name: str, count: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """As they are, and enlarged three times: most are 224 pixels wide, which no viewer's text is made for."""
    files = sorted(p for p in (shared / "data" / "sets" / SETS[name]).rglob("*") if p.suffix in (".jpg", ".png"))
    for path in random.Random(seed).sample(files, min(count, len(files))):
        with PIL.Image.open(path) as opened:
            small = opened if opened.mode in ("L", "RGB") else opened.convert("RGB")
            yield "small", np.asarray(small)
            yield "enlarged", np.asarray(small.resize((3 * small.width, 3 * small.height), PIL.Image.Resampling.BICUBIC))


def recall(shared: Path, name: str, count: int, seed: int) -> tuple[int, int, int]:
    """Lines found, lines drawn that can be seen, lines drawn that can hardly be seen; at the top and bottom, as overlays are."""
    rng, found, seen, faint = random.Random(seed), 0, 0, 0
    for size_of_image, pixels in real(shared, name, count, seed):
        size = rng.choice([8, 10, 12, 14] if size_of_image == "small" else [10, 12, 14, 16, 20, 24, 30, 40])
        colour, height = rng.choice(list(COLOURS)), pixels.shape[0]
        lines = []
        for top in (3, height - int(1.4 * size) - 3):
            text = rng.choice(LINES)
            width = int(PIL.ImageFont.load_default(size).getlength(text))
            if width + 12 < pixels.shape[1]:
                lines.append((top, rng.randrange(5, pixels.shape[1] - width - 5), text))
        made, boxes = drawn(pixels, lines, size, colour)
        mask = covered(made.shape[:2], find_text(picture(made)))
        ground = np.asarray(PIL.Image.fromarray(pixels).convert("RGB"), float)
        for top, bottom, left, right in boxes:
            apart = np.abs(ground[top:bottom, left:right] - COLOURS[colour]).max(axis=2).mean() / 255
            if apart < VISIBLE and colour != "black on white":
                faint += 1
                continue
            seen += 1
            found += is_found((top, bottom, left, right), mask)
    return found, seen, faint


def alarms(shared: Path, name: str, count: int, seed: int) -> tuple[int, int]:
    """Images in which something is found, and images; nothing was drawn into them."""
    found = [bool(find_text(picture(pixels))) for _, pixels in real(shared, name, count, seed)]
    return sum(found), len(found)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a proportion."""
    z, p = 1.96, hits / of
    middle, half = p + z * z / (2 * of), z * (p * (1 - p) / of + z * z / (4 * of * of)) ** 0.5
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


@pytest.mark.shared
def test_most_text_drawn_into_real_images_is_found_and_few_images_without_text_alarm(shared):
    lines = [recall(shared, name, 8, seed=101) for name in SETS]
    found, seen = (sum(each[i] for each in lines) for i in (0, 1))
    assert seen > 250 and found / seen > 0.85
    # of these sets, whose pictures have no text of their own
    quiet = [alarms(shared, name, 8, seed=101) for name in ("dermatoscopy", "fundus", "OCT", "knee X-ray", "histology")]
    assert sum(hits for hits, _ in quiet) <= 4 and sum(of for _, of in quiet) == 80


if __name__ == "__main__":
    place = Path(__file__).resolve().parent.parent.parent / "shared"
    print("| images | lines found | of visible | 95 % | hardly visible | alarms without text drawn | of | 95 % |")
    print("|---|---|---|---|---|---|---|---|")
    total = np.zeros(5, int)
    for title in SETS:
        row = (*recall(place, title, 50, 101), *alarms(place, title, 50, 101))
        total += row
        for label, r in (
            ((title, row), ("all", tuple(int(v) for v in total))) if title == list(SETS)[-1] else ((title, row),)
        ):
            spans = ["{:.0f} to {:.0f} %".format(*(100 * v for v in wilson(r[i], r[i + 1]))) for i in (0, 3)]
            print(f"| {label} | {r[0]} | {r[1]} | {spans[0]} | {r[2]} | {r[3]} | {r[4]} | {spans[1]} |")
