"""Geometry there and back: prepare against open_clip's own transform, boxes by hand, place, and what is drawn.

python -m pytest tests/test_preprocess.py
"""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from open_clip.transform import image_transform

import engine
from engine.render import FLAT, colours, relative
from engine.types import Box, Heatmap, Image

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SIZES = [(224, 224), (301, 199), (97, 333), (224, 500), (63, 64), (512, 511), (1000, 37)]  # rows, columns


def picture_of(rows: int, columns: int, coloured: bool) -> np.ndarray:
    """8-bit noise on a slope, far enough from 0 and 255 that bicubic does not overshoot them: open_clip clips in between."""
    random = np.random.default_rng(rows * 1000 + columns)
    shape = (rows, columns, 3) if coloured else (rows, columns)
    slope = np.linspace(80, 120, columns)[:, None] if coloured else np.linspace(80, 120, columns)
    return (slope + random.integers(0, 60, shape)).astype(np.uint8)


def image_of(values: np.ndarray) -> Image:
    return Image((values / 255).astype(np.float32))


def theirs(values: np.ndarray, mode: str, fill: int = 0) -> np.ndarray:
    transform = image_transform(224, is_train=False, mean=MEAN, std=STD, resize_mode=mode, fill_color=fill)
    return transform(PIL.Image.fromarray(values)).numpy()


def ours(values: np.ndarray, mode: str, fill: float = 0.0) -> engine.Input:
    return engine.prepare(image_of(values), engine.Preprocess(224, MEAN, STD, resize=mode, fill=fill))


# open_clip resizes in 8 bits: it rounds once after each of the two directions, half a level each, and the second
# direction's bicubic weights (absolute sum below 1.3) pass the first rounding on: 0.5 + 1.3 * 0.5 levels, and then /std
TOLERANCE = 1.2 / 255 / min(STD)


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape == (3, 224, 224) and a.dtype == np.float32
    assert np.abs(a - b).max() < TOLERANCE
    assert np.abs(a - b).mean() < TOLERANCE / 3  # rounding has no direction: nothing is shifted by a pixel


@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_prepare_equals_open_clip(mode, size, coloured):
    values = picture_of(*size, coloured)
    # open_clip converts grey pictures to three channels only where the mode is RGB: give it what it expects
    coloured_values = values if coloured else np.repeat(values[..., None], 3, axis=2)
    same(ours(values, mode).pixels, theirs(coloured_values, mode))


@pytest.mark.parametrize(
    "size",
    [
        (224, 224),
        (448, 224),
        (320, 448),
        (301, 199),
        (224, 500),
        (63, 64),
        (1000, 37),
        (100, 300),
        (300, 200),
        (97, 333),
        (512, 511),
    ],
)
def test_prepare_with_padding_equals_open_clip(size):
    values = picture_of(*size, True)
    same(ours(values, "longest", fill=51 / 255).pixels, theirs(values, "longest", fill=51))


def test_an_image_of_the_right_size_is_only_normalised():
    values = picture_of(224, 224, True)
    for mode in ("shortest", "longest", "squash"):
        found = ours(values, mode)
        wanted = (np.moveaxis(values, -1, 0) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
        np.testing.assert_allclose(found.pixels, wanted, atol=1e-5)  # float32
        assert found.box == Box(0, 0, 224, 224)


def test_overshoot_is_clipped_before_it_is_normalised():
    values = np.zeros((300, 300), dtype=np.uint8)
    values[:, 150:] = 255
    found = engine.prepare(image_of(values), engine.Preprocess(224, **PLAIN)).pixels
    assert found.min() == 0 and found.max() == 1


# --- the box, by hand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "columns", "mode", "box"),
    [
        # 400 x 200 to 200 x 100: 50 rows cut off above and below, two image pixels for each of the input's
        (400, 200, "shortest", Box(100, 0, 200, 200)),
        (200, 400, "shortest", Box(0, 100, 200, 200)),
        # 50 x 80 is enlarged to 100 x 160, 30 columns cut off on each side; half an image pixel each
        (50, 80, "shortest", Box(0, 15, 50, 50)),
        # 400 x 200 to 100 x 50, padded with 25 columns on each side, four image pixels each
        (400, 200, "longest", Box(0, -100, 400, 400)),
        (200, 400, "longest", Box(-100, 0, 400, 400)),
        (50, 25, "longest", Box(0, -12.5, 50, 50)),
        (400, 200, "squash", Box(0, 0, 400, 200)),
        (37, 1000, "squash", Box(0, 0, 37, 1000)),
    ],
)
def test_the_box_by_hand(rows, columns, mode, box):
    image = Image(np.zeros((rows, columns), dtype=np.float32))
    found = engine.prepare(image, engine.Preprocess(100, resize=mode, **PLAIN)).box
    assert (found.top, found.left, found.height, found.width) == pytest.approx((box.top, box.left, box.height, box.width))


def test_padding_is_the_fill_and_the_image_lies_between():
    image = Image(np.ones((400, 200), dtype=np.float32))
    pixels = engine.prepare(image, engine.Preprocess(100, resize="longest", fill=0.25, **PLAIN)).pixels
    assert (pixels[:, :, :25] == 0.25).all() and (pixels[:, :, 75:] == 0.25).all() and (pixels[:, :, 25:75] == 1).all()


def test_the_smallest_image_can_be_prepared():
    for shape in ((1, 1), (1, 60), (60, 1)):
        for mode in ("shortest", "longest", "squash"):
            found = engine.prepare(Image(np.ones(shape, dtype=np.float32)), engine.Preprocess(32, resize=mode, **PLAIN))
            assert found.pixels.shape == (3, 32, 32) and found.pixels.max() == 1


def test_an_image_too_long_and_thin_is_refused_before_it_is_resized():
    with pytest.raises(engine.ImageError, match="1000000 x 1 pixels: too long and thin"):
        engine.prepare(Image(np.ones((1, 1_000_000), dtype=np.float32)), engine.Preprocess(32, **PLAIN))


# --- place -------------------------------------------------------------------------------------------------------------


def one_hot(cells: int, row: int, column: int, box: Box) -> Heatmap:
    values = np.zeros((cells, cells), dtype=np.float32)
    values[row, column] = 1
    return Heatmap(values, box, "x", "by hand")


@pytest.mark.parametrize("cell", [(0, 0), (0, 6), (3, 3), (6, 2), (6, 6)])
@pytest.mark.parametrize("box", [Box(0, 0, 70, 70), Box(30, 0, 70, 140), Box(-20, 10, 140, 70)])
def test_a_one_hot_map_lands_where_its_patch_is(box, cell):
    placed = np.nan_to_num(engine.place(one_hot(7, *cell, box), (160, 160)))
    tall, wide = box.height / 7, box.width / 7
    top, left = box.top + cell[0] * tall, box.left + cell[1] * wide
    inside = placed[max(0, round(top)) : max(0, round(top + tall)), round(left) : round(left + wide)]
    if inside.size:
        assert inside.min() >= 0.25  # bilinear: a quarter at an inner patch's corner
        assert inside.max() == placed.max() > 0.8
    row, column = (np.arange(160) + 0.5)[:, None], (np.arange(160) + 0.5)[None]
    far = (abs(row - (top + tall / 2)) > tall) | (abs(column - (left + wide / 2)) > wide)
    assert not placed[far].any()  # nothing beyond one patch


def test_bilinear_values_by_hand():
    # 2 x 1 cells on 8 x 1 pixels: cell centres at 2 and 6, pixel centres at 0.5 to 7.5
    placed = engine.place(Heatmap(np.array([[0.0], [4.0]], dtype=np.float32), Box(0, 0, 8, 1), "x", "m"), (8, 1))
    assert placed[:, 0].tolist() == pytest.approx([0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4])


def test_a_constant_map_stays_constant_inside_the_box():
    placed = engine.place(Heatmap(np.full((14, 14), 3.0, dtype=np.float32), Box(5.5, -3, 40, 50), "x", "m"), (60, 60))
    assert placed.dtype == np.float32
    assert np.allclose(placed[np.isfinite(placed)], 3, atol=1e-5)


def test_what_the_model_did_not_see_is_nan():
    placed = engine.place(one_hot(7, 3, 3, Box(100, 0, 200, 200)), (400, 200))
    assert np.isnan(placed[:100]).all() and np.isnan(placed[300:]).all() and np.isfinite(placed[100:300]).all()
    beside = engine.place(one_hot(7, 3, 3, Box(0, 100, 200, 200)), (200, 400))
    assert np.isnan(beside[:, :100]).all() and np.isnan(beside[:, 300:]).all() and np.isfinite(beside[:, 100:300]).all()


def test_a_padded_box_sees_the_whole_image():
    assert np.isfinite(engine.place(one_hot(7, 3, 3, Box(0, -100, 400, 400)), (400, 200))).all()


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(("rows", "columns"), [(300, 300), (200, 520), (520, 200), (97, 131), (1024, 768)])
@pytest.mark.parametrize("at", [(0.5, 0.5), (0.3, 0.62)])
def test_a_bright_square_comes_back_to_its_place(mode, rows, columns, at):
    short = min(rows, columns)
    side = max(6, short // 8)
    # within the centre that every mode shows
    centre = (rows / 2 + (at[0] - 0.5) * (short - side), columns / 2 + (at[1] - 0.5) * (short - side))
    top, left = round(centre[0] - side / 2), round(centre[1] - side / 2)
    pixels = np.zeros((rows, columns), dtype=np.float32)
    pixels[top : top + side, left : left + side] = 1
    found = engine.prepare(Image(pixels), engine.Preprocess(224, resize=mode, **PLAIN))
    values = found.pixels[0].reshape(14, 16, 14, 16).mean(axis=(1, 3))  # as a model of 14 x 14 patches would see it
    placed = np.nan_to_num(engine.place(Heatmap(values, found.box, "x", "pooled"), (rows, columns)))
    y, x = (placed * np.arange(rows)[:, None]).sum() / placed.sum(), (placed * np.arange(columns)).sum() / placed.sum()
    assert abs(y - (top + (side - 1) / 2)) < found.box.height / 14
    assert abs(x - (left + (side - 1) / 2)) < found.box.width / 14


# --- what is drawn -----------------------------------------------------------------------------------------------------


def test_colours_run_from_the_first_stop_to_the_last():
    assert colours(np.array([0.0, 0.2, 1.0])).tolist() == [[13, 8, 60], [106, 23, 110], [252, 255, 164]]
    assert colours(np.array(0.1)).tolist() == pytest.approx([59.5, 15.5, 85])  # halfway between the first two


def test_colours_grow_lighter_throughout():
    lightness = colours(np.linspace(0, 1, 101)) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()


def test_a_picture_is_the_image_in_8_bits():
    grey = engine.picture(Image(np.array([[0, 0.2, 1]], dtype=np.float32)))
    assert grey.dtype == np.uint8 and grey.tolist() == [[[0, 0, 0], [51, 51, 51], [255, 255, 255]]]
    coloured = engine.picture(Image(np.array([[[0, 0.4, 1]]], dtype=np.float32)))
    assert coloured.tolist() == [[[0, 102, 255]]]


def example() -> tuple[Image, np.ndarray]:
    random = np.random.default_rng(3)
    placed = random.normal(size=(20, 30)).astype(np.float32)
    placed[:, :8] = np.nan
    return Image(random.random((20, 30)).astype(np.float32)), placed


@pytest.mark.parametrize("value", [0.0, 5.0, -2.0, 1e-9])
def test_a_flat_map_is_drawn_as_nothing(value):
    image, _ = example()
    placed = np.full((20, 30), value, dtype=np.float32)
    assert engine.is_flat(placed)
    assert np.array_equal(engine.overlay(image, placed, 1.0), engine.picture(image))
    assert not engine.layer(placed)[..., 3].any()


def test_a_nearly_flat_map_is_drawn_as_nothing_and_one_above_the_limit_is_drawn():
    slope = np.linspace(0, 1, 20, dtype=np.float32)[None] * np.ones((4, 1), dtype=np.float32)
    assert engine.is_flat(1 - 0.9 * FLAT * slope)
    assert not engine.is_flat(1 - 1.1 * FLAT * slope)


def test_a_map_that_saw_nothing_is_drawn_as_nothing():
    image, _ = example()
    placed = np.full((20, 30), np.nan, dtype=np.float32)
    assert engine.is_flat(placed)
    assert np.array_equal(engine.overlay(image, placed, 1.0), engine.picture(image))
    assert not engine.layer(placed)[..., 3].any()


def test_pixels_that_the_model_did_not_see_stay_as_they_are():
    image, placed = example()
    placed = placed + 10  # below 0 a map is clear as well
    drawn, before = engine.overlay(image, placed, 1.0), engine.picture(image)
    assert np.array_equal(drawn[:, :8], before[:, :8])
    assert not engine.layer(placed)[:, :8, 3].any()
    assert (drawn[:, 8:] != before[:, 8:]).any(axis=-1).mean() > 0.9


def test_an_overlay_without_opacity_is_the_picture():
    image, placed = example()
    assert np.array_equal(engine.overlay(image, placed, 0.0), engine.picture(image))


def test_an_overlay_by_hand():
    image = Image(np.full((1, 3), 0.4, dtype=np.float32))  # 102
    drawn = engine.overlay(image, np.array([[1.0, 1.2, 2.0]], dtype=np.float32), 0.5)
    # the lowest value is clear; 0.2 of the range takes 0.5 * 0.2**2 of its colour (106, 23, 110); the highest half of (252, 255, 164)
    assert drawn.tolist() == [[[102, 102, 102], [102, 100, 102], [177, 178, 133]]]


def test_the_map_is_relative_to_its_own_range():
    found = relative(np.array([[-2.0, 0.0, np.nan, 2.0]], dtype=np.float32))
    assert found.tolist() == [[0, 0, 0, 1]]  # what speaks against is clear
    found = relative(np.array([[-3.0, -2.0, np.nan, -1.0]], dtype=np.float32))
    assert found.tolist() == [[0, 0.5, 0, 1]]
    found = relative(np.array([[-1.0, 1.0, np.nan, 2.0]], dtype=np.float32), (-4.0, 4.0))
    assert found.tolist() == [[0, 0.25, 0, 0.5]]


def test_layer_and_overlay_agree():
    image, placed = example()
    layer = engine.layer(placed).astype(float)
    cover = layer[..., 3:] / 255
    by_layer = engine.picture(image) * (1 - cover) + layer[..., :3] * cover
    assert np.abs(by_layer - engine.overlay(image, placed, 1.0)).max() <= 2  # alpha and colour are rounded to 8 bits
