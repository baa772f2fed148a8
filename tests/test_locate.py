"""Pointing at what a phrase names: one contract for every locator, values by hand, a plain loop beside the detector's score.
Run: python -m pytest tests/test_locate.py"""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
import torch
from detector import KINDS, write_detector

import engine
from engine.__main__ import main
from engine.errors import BackboneError, ExplainError
from engine.locate.base import OVERLAP, boxes_of, described, hottest, otsu, why_none
from engine.locate.grounding_dino import GroundingDino
from engine.locate.patches import Patches, contrast, windows
from engine.locate.windows import Windows
from engine.preprocess import Preprocess


class Brightness:
    """Each of its 4 x 4 patches looks like "bright" as far as it is, and like "dark" as far as it is not."""

    id, source, device, dtype, dim, logit_scale = "fake", "a test", "cpu", "float32", 2, 20.0
    preprocess = Preprocess(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    weights_hash = "f" * 64

    def encode_images(self, x, visual_prompt=None):
        angle = (1 - x[:, 0].mean(dim=(1, 2))) * np.pi / 2
        return torch.stack([angle.cos(), angle.sin()], dim=-1)

    def encode_texts(self, texts):
        angle = [0.0 if "bright" in text else np.pi / 2 if "dark" in text else np.pi / 4 for text in texts]
        return torch.tensor([[np.cos(a), np.sin(a)] for a in angle], dtype=torch.float32)

    def value_patches(self, x, visual_prompt=None):
        mean = x[:, 0].unflatten(2, (4, 4)).unflatten(1, (4, 4)).mean(dim=(2, 4))  # (B, 4, 4)
        angle = (1 - mean) * np.pi / 2
        return torch.stack([angle.cos(), angle.sin()], dim=-1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return {kind: write_detector(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(params=engine.LOCATORS)
def locator(request, folders):
    names = {"patches": "patches", "windows": "windows", "grounding-dino": f"grounding-dino:{folders['grounding-dino']}"}
    return engine.load_locator(names[request.param], Brightness())


def square(top: int, left: int, side: int = 16, shape: tuple[int, int] = (64, 96)) -> engine.Image:
    pixels = np.full(shape, 0.1, dtype=np.float32)
    pixels[top : top + side, left : left + side] = 0.9
    return engine.Image(pixels)


# --- the contract -----------------------------------------------------------------------------------------------------


def test_boxes_lie_in_the_image_highest_first_and_do_not_cover_each_other(locator):
    image = square(16, 32)
    for most in (1, 3):
        for found in engine.locate(image, ["bright square", "bump"], locator, ["dark"], most=most):
            assert found.boxes.dtype == found.scores.dtype == np.float32 and found.boxes.shape == (len(found.scores), 4)
            assert len(found.boxes) <= most
            x0, y0, x1, y1 = found.boxes.T
            assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= 96).all() and (y1 <= 64).all()
            assert (x0 < x1).all() and (y0 < y1).all()
            assert ((found.scores >= 0) & (found.scores <= 1)).all() and (np.diff(found.scores) <= 0).all()
            for i, a in enumerate(found.boxes):
                assert all(overlap(a, b) <= OVERLAP for b in found.boxes[:i])
            placed = engine.place(found.heat, image.shape)
            assert (
                np.isfinite(placed).all()
                and placed.min() >= 0
                and placed.max() <= 1
                and found.heat.box == engine.Box(0, 0, 64, 96)
            )
            assert found.locator == locator.name and found.model == locator.model and found.negatives == ("dark",)
            if not len(found.boxes):
                assert found.notes


def test_each_phrase_has_its_result_in_their_order_and_twice_the_same(locator):
    image = engine.Image(np.repeat(square(0, 0).pixels[..., None], 3, axis=2))
    asked = [engine.Phrase("square", "bright, ", " in the skin"), "dark disc"]
    found, again = (engine.locate(image, asked, locator) for _ in range(2))
    assert [each.phrase.text for each in found] == ["bright, square in the skin", "dark disc"]
    assert found[1].phrase == engine.Phrase("dark disc")
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.heat.values, other.heat.values)


def test_an_image_that_is_the_same_everywhere_has_nothing_to_point_at(locator):
    (found,) = engine.locate(engine.Image(np.full((40, 50), 0.7, np.float32)), "bright", locator)
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,) and found.point is None and not found.heat.values.any()
    assert found.notes == ("The image is the same everywhere: there is nothing to point at.",)


@pytest.mark.parametrize(
    ("phrases", "negatives", "words"),
    [
        ("  ", (), "A phrase is empty"),
        ([], (), "There is no phrase"),
        (engine.Phrase(" ", "pink, "), (), "A phrase is empty"),
        ("bright", (" ",), "A phrase is empty"),
        ("x" * 501, (), "A phrase has 501 characters, more than 500: 'xxxx"),
    ],
)
def test_phrases_that_say_nothing_or_too_much_are_refused(locator, phrases, negatives, words):
    with pytest.raises(ExplainError, match=words):
        engine.locate(square(0, 0), phrases, locator, negatives)
    with pytest.raises(ExplainError, match="0 boxes cannot be shown"):
        engine.locate(square(0, 0), "bright", locator, most=0)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


# --- heat to boxes ----------------------------------------------------------------------------------------------------


def test_a_box_goes_around_what_hangs_together_and_scores_by_its_mean_and_its_peak():
    heat = np.full((10, 20), 0.1, np.float32)
    heat[2:5, 5:9] = 0.9
    heat[2, 5] = 0.3  # a corner below both thresholds: the box goes around it all the same
    heat[8, 15:18] = 0.81
    heat[0, 0:3] = 0.5  # above Otsu's, perhaps, but nearer to what it is held against
    boxes, scores = boxes_of(heat, (100, 400), 10)  # an image of 100 rows and 400 columns: a cell is 10 high and 20 wide
    np.testing.assert_allclose(boxes, [[100, 20, 180, 50], [300, 80, 360, 90]], atol=1e-4)
    np.testing.assert_allclose(scores, [np.sqrt((11 * 0.9 + 0.3) / 12 * 0.9), 0.81], rtol=1e-6)
    assert len(boxes_of(heat, (100, 400), 1)[0]) == 1


def test_heat_that_beats_nothing_or_a_speck_has_no_box():
    heat = np.full((100, 100), 0.5, np.float32)
    assert len(boxes_of(heat, (100, 100), 5)[0]) == 0
    heat[3, 3:6] = 0.9  # 3 of 10000 cells: below the smallest area, 4e-4
    assert len(boxes_of(heat, (100, 100), 5)[0]) == 0
    heat[4, 3:6] = 0.9
    np.testing.assert_allclose(boxes_of(heat, (100, 100), 5)[0], [[3, 3, 6, 5]])


def test_a_box_that_is_the_whole_picture_is_none_and_the_note_says_so():
    """Bug: an ultrasound image was framed whole as "the middle of the picture"."""
    heat = np.full((10, 10), 0.1, np.float32)
    heat[:, :8] = 0.9  # 0.8 of the area, and no more
    np.testing.assert_allclose(boxes_of(heat, (10, 10), 5)[0], [[0, 0, 8, 10]])
    heat[0, :9] = 0.9  # the box around it: 0.9
    assert len(boxes_of(heat, (10, 10), 5)[0]) == 0
    phrase = engine.Phrase("dark oval mass")
    assert why_none(heat, phrase) == "'dark oval mass' fits the whole picture: no place stands out."
    assert (
        why_none(np.full((10, 10), 0.9, np.float32), phrase)
        == "'dark oval mass' fits the whole picture: no place stands out."
    )
    heat[4:6, 2:4] = 1.9  # what stands out in it is found
    np.testing.assert_allclose(boxes_of(heat, (10, 10), 5)[0], [[2, 4, 4, 6]])
    bright = engine.Image(np.random.default_rng(0).uniform(0.8, 0.9, (64, 64)).astype(np.float32))
    (found,) = engine.locate(bright, "bright", Patches(Brightness()), ["dark"])
    assert all((x1 - x0) * (y1 - y0) <= 0.8 * 64 * 64 for x0, y0, x1, y1 in found.boxes)


def test_the_share_finds_the_small_bright_one_in_a_large_warm_region_and_otsu_the_region():
    heat = np.zeros((20, 20), np.float32)
    heat[2:18, 2:18] = 0.45
    heat[8:12, 8:12] = 1.0
    boxes, scores = boxes_of(heat, (20, 20), 5)
    # above half of the way, 0.6: rows and columns 8 to 11; Otsu parts the region, 256 cells, from the rest: 2 to 17
    np.testing.assert_allclose(boxes, [[8, 8, 12, 12], [2, 2, 18, 18]])
    np.testing.assert_allclose(scores, [1, np.sqrt((240 * 0.45 + 16) / 256)], rtol=1e-6)


def test_otsus_threshold_is_the_best_of_all_that_are_tried():
    values = np.random.default_rng(0).beta(2, 5, 500).astype(np.float32)
    values[:120] += 1.5
    edges = np.histogram_bin_edges(values, 64)
    middle = ((edges[1:] + edges[:-1]) / 2)[np.clip(np.digitize(values, edges) - 1, 0, 63)]

    def between(threshold: float) -> float:
        low, high = middle[values < threshold], middle[values >= threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    assert between(otsu(values)) == pytest.approx(max(between(edge) for edge in edges[1:-1]), rel=1e-6)
    assert values[120:].max() < otsu(values) <= values[:120].min() + 1 / 16


def test_the_point_is_the_middle_of_the_hottest_cells():
    heat = np.zeros((4, 8), np.float32)
    heat[1, 2:4] = 0.5

    def at(values: np.ndarray) -> tuple[float, float] | None:
        over = engine.Heatmap(values, engine.Box(0, 0, 40, 160), "x", "y")  # cells 10 high and 20 wide
        return hottest(over)

    assert at(heat) == (60.0, 15.0)  # columns 2 and 3 are 40 to 80, row 1 is 10 to 20
    heat[3, 6] = 0.5  # another one, as hot and smaller: not halfway between them
    assert at(heat) == (60.0, 15.0)
    heat[2:4, 5:8] = 0.5  # and larger
    assert at(heat) == (130.0, 30.0)  # columns 5 to 7 are 100 to 160, rows 2 and 3 are 20 to 40
    assert at(np.full((4, 8), 0.3, np.float32)) is None


# --- patches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "left"), [(0, 0), (16, 32), (24, 72), (48, 80), (40, 8)])
def test_the_box_moves_with_the_bright_square(top, left):
    locator = Patches(Brightness())
    image = square(top, left)
    (found,) = engine.locate(image, "bright", locator, ["dark"])
    truth = np.array([left, top, left + 16, top + 16], float)
    assert overlap(found.boxes[0], truth) > 0.4, found.boxes
    x, y = found.point
    assert left <= x < left + 16 and top <= y < top + 16
    (other,) = engine.locate(image, "dark", locator, ["bright"])
    x, y = other.point
    assert not (left <= x < left + 16 and top <= y < top + 16)


def test_windows_show_a_small_finding_more_sharply():
    image = square(40, 24, side=8, shape=(64, 64))  # a quarter of a patch, and all of one at twice the size
    once, twice = (engine.locate(image, "bright", Patches(Brightness(), zooms), ["dark"])[0] for zooms in ((1,), (1, 2)))
    assert not len(once.boxes) and overlap(twice.boxes[0], np.array([24, 40, 32, 48], float)) > 0.7


def test_no_place_that_is_nearer_to_the_phrase_than_to_its_rival_is_an_answer():
    dim = engine.Image(square(16, 16).pixels * 0.3)
    (found,) = engine.locate(dim, "bright", Patches(Brightness()), ["dark"])
    assert not len(found.boxes) and found.notes[-1] == "No place looks more like 'bright' than like what it is held against."
    assert (
        engine.locate(dim, "bright", Patches(Brightness()))[0].negatives[0] == "background"
    )  # neutral ones, where none is named


def test_the_heat_is_the_phrases_chance_against_its_strongest_negative():
    cosines = torch.tensor([0.30, 0.10, 0.25, 0.28])[None, :, None, None]  # two phrases, two negatives
    expected = [1 / (1 + np.exp(-10 * (0.30 - 0.28))), 1 / (1 + np.exp(-10 * (0.10 - 0.28)))]
    np.testing.assert_allclose(contrast(cosines, 2, 10.0).flatten(), expected, rtol=1e-5)


def test_a_window_counts_as_a_whole_by_hand():
    pixels = np.zeros((32, 32), np.float32)
    pixels[:16] = 1
    (found,) = engine.locate(engine.Image(pixels), "bright", Windows(Brightness(), (2,)), ["dark"])
    # windows of 16 rows from 0, 8 and 16: all bright, half (as near to both: 0.5), all dark
    chance = 1 / (1 + np.exp(-20.0))
    rows = np.repeat([chance, (chance + 0.5) / 2, (1.5 - chance) / 2, 1 - chance], 8)
    np.testing.assert_allclose(found.heat.values, np.tile(rows[:, None], (1, 32)), atol=1e-4)
    np.testing.assert_allclose(found.boxes, [[0, 0, 32, 16]])
    assert found.notes == ("Seen in 9 windows.",)


def test_windows_that_would_show_nothing_are_not_looked_through():
    (found,) = engine.locate(square(4, 4, side=8, shape=(40, 40)), "bright", Windows(Brightness()), ["dark"])  # of 10 pixels
    assert (
        found.notes[0] == "Not looked at as closely as others: the image is too small or too long." and found.point is None
    )
    assert engine.locate(square(16, 32, 24), "bright", Windows(Brightness()), ["dark"])[0].notes == ("Seen in 77 windows.",)


def test_one_window_of_one_square_is_the_plain_map():
    pixels = np.zeros((16, 16), np.float32)
    pixels[4:8, 8:12] = 1
    (found,) = engine.locate(engine.Image(pixels), "bright", Patches(Brightness(), (1,)), ["dark"])
    chance = 1 / (1 + np.exp(-20.0))  # a bright patch: cosine 1 with "bright", 0 with "dark"
    values = np.full((4, 4), 1 - chance, np.float32)
    values[1, 2] = chance
    expected = engine.place(engine.Heatmap(values, engine.Box(0, 0, 16, 16), "", ""), (16, 16))
    np.testing.assert_allclose(found.heat.values, expected, atol=1e-6)


def test_windows_cover_the_image_and_overlap_by_half():
    assert windows((64, 64), 1) == [(0, 0, 64)]
    assert windows((64, 64), 2) == [(t, x, 32) for t in (0, 16, 32) for x in (0, 16, 32)]
    assert windows((64, 96), 1) == [(0, 0, 64), (0, 32, 64)]
    for shape in [(50, 333), (97, 61), (1, 7)]:
        for zoom in (1, 2):
            shown = np.zeros(shape, bool)
            for top, left, side in windows(shape, zoom):
                assert 0 <= top <= shape[0] - side and 0 <= left <= shape[1] - side
                shown[top : top + side, left : left + side] = True
            assert shown.all()


def test_an_image_that_is_too_long_and_a_backbone_without_patches_are_refused():
    long = np.zeros((10, 1000), np.float32)
    long[:, :5] = 1
    with pytest.raises(engine.ImageError, match="1000 x 10 pixels: too long to look through"):
        engine.locate(engine.Image(long), "bright", Patches(Brightness()))
    (found,) = engine.locate(engine.Image(long[:, :200]), "bright", Patches(Brightness()))
    assert "Not looked at as closely as others: the image is too small or too long." in found.notes

    with pytest.raises(ExplainError, match="'fake' does not show its patches"):
        Patches(type("Blind", (), {k: v for k, v in vars(Brightness).items() if k != "value_patches"})())
    with pytest.raises(ExplainError, match="'patches' needs a backbone"):
        engine.load_locator("patches")
    with pytest.raises(ExplainError, match="no locator called 'glip'"):
        engine.load_locator("glip", Brightness())


@pytest.mark.parametrize("name", ["patches", "windows"])
def test_an_image_tower_alone_is_refused_before_an_image_is_looked_at(name):
    tower = type("Tower", (Brightness,), {"of": "whole", "encode_arrays": lambda *_: None})()
    with pytest.raises(ExplainError, match=r"'fake' is an image tower, which reads no phrase\. Choose 'whole' itself"):
        engine.load_locator(name, tower)


def test_a_real_backbone_is_looked_through_and_its_own_text_tower_asked():
    backbone = engine.load_backbone("scope-mini")
    (found,) = engine.locate(square(16, 32), "bright square", engine.load_locator("patches", backbone))
    assert found.model == "scope-mini" and found.heat.values.shape == (64, 96)
    assert "Seen in 17 windows." in found.notes  # 2 at its size, 3 x 5 at twice its size


# --- words ------------------------------------------------------------------------------------------------------------


def bank(**attributes: tuple[str, ...]) -> engine.DescriptionBank:
    words = {"medical": ("polyp", "adenoma"), "lay": ("bump",)}
    return engine.DescriptionBank("toy", "a test", "", {"polyp": engine.ClassDescriptions(words, attributes, (), ())})


def test_a_class_is_described_in_the_papers_order():
    full = bank(location=("rectum", "colon"), shape=("round",), colour=("pink", "red"), texture=())
    assert described(full, "polyp").text == "pink, round, polyp in rectum"
    assert described(full, "polyp", "lay") == engine.Phrase("bump", "pink, round, ", " in rectum")
    assert described(full, "polyp", "query", ("shape",)).text == "round, polyp"
    assert described(bank(location=("within the gland",)), "polyp").text == "polyp within the gland"
    assert described(bank(), "polyp") == engine.Phrase("polyp")


def test_a_class_is_located_with_and_without_its_attribute_words(locator):
    words = bank(colour=("bright",), shape=("round",))
    plain, rich = engine.with_and_without(square(16, 32), words, "polyp", locator, ["dark"], kind="lay")
    assert (plain.phrase.text, rich.phrase.text) == ("bump", "bright, round, bump")
    (alone,) = engine.locate(square(16, 32), "bump", locator, ["dark"])
    np.testing.assert_array_equal(plain.boxes, alone.boxes)
    with pytest.raises(ExplainError, match="'ulcer' is no class of the description bank of 'toy'"):
        engine.with_and_without(square(0, 0), words, "ulcer", locator)


# --- the detector -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_the_mean_chance_of_the_names_tokens_by_a_plain_loop(folders, kind):
    found = engine.load_locator(f"grounding-dino:{folders[kind]}")
    assert isinstance(found, GroundingDino)
    image = square(16, 32)
    asked = [engine.Phrase("lung nodules", "pink, round, ", " in rectum"), engine.Phrase("bump")]
    tokens, places = found.caption(asked)
    words = found.processor.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0].tolist())
    assert words == ["[CLS]", "pink", ",", "round", ",", "lung", "nodule", "##s", "in", "rectum", ".", "bump", ".", "[SEP]"]
    assert places == [[5, 6, 7], [11]]
    boxes, scores = found.boxes(image, tokens, places)
    pixels = found.processor.image_processor(images=engine.picture(image), return_tensors="pt")
    with torch.no_grad():
        out = found.net(**pixels, **tokens)
    for query in range(20):
        for phrase, some in enumerate(places):
            total = 0.0
            for t in some:
                total += 1 / (1 + np.exp(-float(out.logits[0, query, t])))
            assert scores[phrase, query] == pytest.approx(total / len(some), abs=1e-6)
        x, y, width, height = out.pred_boxes[0, query].tolist()
        edges = np.clip([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 0, 1) * [96, 64, 96, 64]
        np.testing.assert_allclose(boxes[query], edges, atol=1e-4)


def test_attribute_words_act_through_the_text_tower_alone(folders):
    """A prefix moves the score by context; the same words inside the name are averaged into it."""
    found = engine.load_locator(f"grounding-dino:{folders['grounding-dino']}")
    image = square(16, 32)
    outside, inside = engine.Phrase("bump", "pink, "), engine.Phrase("pink, bump")
    (tokens, places), (same, more) = found.caption([outside]), found.caption([inside])
    assert tokens["input_ids"].tolist() == same["input_ids"].tolist() and (places, more) == ([[3]], [[1, 2, 3]])
    _, a = found.boxes(image, tokens, places)
    _, b = found.boxes(image, *found.caption([engine.Phrase("bump")]))
    assert not np.allclose(a, b)


def test_a_box_that_a_negative_fits_better_is_none_of_the_phrases(folders):
    found = engine.load_locator(f"grounding-dino:{folders['grounding-dino']}")
    image = square(16, 32)
    boxes, (own, rival) = found.boxes(image, *found.caption([engine.Phrase("skin lesion"), engine.Phrase("bump")]))
    first = own.argmax()  # which no other box would have hidden
    assert rival[first] > own[first] > 0.05
    (result,) = engine.locate(image, "skin lesion", found, ["bump"], most=100)
    kept = (own > 0.05) & (own >= rival)
    assert 0 < len(result.boxes) <= kept.sum() and result.scores[0] == own[kept].max()
    assert {tuple(box) for box in result.boxes} <= {tuple(box) for box in boxes[kept]} - {tuple(boxes[first])}


def test_what_a_detector_cannot_take_is_said(folders, tmp_path):
    found = engine.load_locator(f"grounding-dino:{folders['grounding-dino']}")
    with pytest.raises(ExplainError, match=r"'st. jude' holds '.', at which this detector ends a phrase"):
        engine.locate(square(0, 0), "st. jude", found)
    with pytest.raises(ExplainError, match=r"have 30\d tokens together; this detector takes 256"):
        engine.locate(square(0, 0), ["bump " * 50] * 6, found)
    with pytest.raises(BackboneError, match="is no Grounding DINO that transformers can load"):
        engine.load_locator(f"grounding-dino:{tmp_path}")
    with pytest.raises(BackboneError, match=r"There is no folder '\./nowhere'"):
        engine.load_locator("grounding-dino:./nowhere")
    with pytest.raises(BackboneError, match="is not on this machine and the model hub cannot be reached"):
        engine.load_locator("grounding-dino")
    with pytest.raises(BackboneError, match="cannot compute on 'cuda'"):
        GroundingDino(folders["grounding-dino"], "x", "cuda")


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    pixels = np.full((64, 96), 25, np.uint8)
    pixels[16:32, 32:48] = 230
    PIL.Image.fromarray(pixels).save(tmp_path / "someone.png")
    return tmp_path / "someone.png"


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = main([str(each) for each in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_locate_prints_what_the_library_finds_and_draws_it(capsys, file, tmp_path, folders):
    asked = ("locate", file, "bump", "dark disc", "--with", f"grounding-dino:{folders['grounding-dino']}")
    code, out, _ = run(capsys, *asked, "--negative", "skin lesion", "--json", "--out", tmp_path / "found.png")
    found = json.loads(out)
    assert code == 0 and found["schema"] == 1 and found["notice"] == engine.NOTICE
    locator = engine.load_locator(f"grounding-dino:{folders['grounding-dino']}")
    expected = engine.locate(engine.read_image(file), ["bump", "dark disc"], locator, ["skin lesion"])
    for row, each in zip(found["results"], expected, strict=True):
        assert set(row) == {
            "files", "status", "error", "locator", "model", "device", "phrase", "name", "negatives", "boxes", "scores", "frame",
            "window", "notes", "warnings", "picture",
        }  # fmt: skip
        np.testing.assert_allclose(np.reshape(row["boxes"], (-1, 4)), each.boxes, atol=0.01)
        np.testing.assert_allclose(row["scores"], each.scores, atol=1e-4)
        assert row["phrase"] == each.phrase.text and row["negatives"] == ["skin lesion"] and row["frame"] == 1
    assert [row["picture"] for row in found["results"]] == [str(tmp_path / "found.png"), str(tmp_path / "found-2.png")]
    assert PIL.Image.open(tmp_path / "found-2.png").size == (96, 64)
    code, out, _ = run(capsys, *asked)
    assert code == 0 and f"  {expected[0].scores[0]:.3f}  x " in out and engine.NOTICE in out and "picture: none" in out


def test_a_tasks_classes_are_asked_for_with_and_without_their_attributes(capsys, file):
    code, out, _ = run(capsys, "locate", file, "benign", "--task", "busi", "--json")
    plain, rich = json.loads(out)["results"]
    bank = engine.descriptions("busi").classes["benign tumor"]
    assert code == 0 and plain["locator"] == rich["locator"] == "windows"  # where no other is asked for
    assert plain["phrase"] == "benign tumor" and rich["name"] == "benign tumor"
    assert rich["phrase"].startswith(bank.attributes["colour"][0]) and bank.attributes["location"][0] in rich["phrase"]
    assert plain["negatives"] == [n for n in engine.task("busi").names if n != "benign tumor"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["locate"], "There is nothing to look for"),
        (["locate", "FILE"], "There is nothing to look for"),
        (["locate", "FILE", "x", "--frame", "2"], "There is no frame 2: they count from 1 to 1"),
        (["locate", "FILE", "x", "--out", "found.jpx"], "'found.jpx' is no name of a picture"),
        (["locate", "FILE", " "], "A phrase is empty"),
        (["locate", "FILE", "x", "--with", "glip"], "no locator called 'glip'. Choose one of: patches, windows, grounding-dino"),
        (["locate", "FILE", "x", "--with", "grounding-dino:./no", "--precision", "bfloat16"], "Detectors compute in float32"),
        (["locate", "--coco", "none.json"], "Annotations do not hold their images. Name their folder with --images"),
        (["locate", "FILE", "x", "--images", "."], "--images is the folder of annotated images. Name the annotations with --coco"),
        (["locate", "FILE", "--coco", "none.json"], "Annotations are measured as they are, without FILE"),
        (["locate", "--coco", "x.json", "--task", "busi", "--most", "3"], "as they are, without --task, --most"),
        (["locate", "--coco", "x.json", "--out", "x.png"], "as they are, without --out"),
        (["locate", "--coco", "x.json", "--window", "lung", "--frame", "2"], "as they are, without --window, --frame"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_sentence(capsys, file, words, expected):
    code, _, err = run(capsys, *(str(file) if each == "FILE" else each for each in words))
    assert code == 2 and err.count("\n") == 1 and expected in err


def test_annotations_are_measured_on_the_command_line(capsys, file, tmp_path, folders):
    annotated = {
        "images": [{"id": 1, "file_name": "someone.png", "height": 64, "width": 96}],
        "categories": [{"id": 1, "name": "bump"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [32, 16, 16, 16]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(annotated))
    asked = ("locate", "--coco", tmp_path / "coco.json", "--images", tmp_path)
    asked += ("--with", f"grounding-dino:{folders['grounding-dino']}")
    code, out, _ = run(capsys, *asked, "--json")
    (row,) = json.loads(out)["results"]
    assert code == 0 and row["images"] == row["groups"] == 1 and row["categories"] == ["bump"]
    assert [each["locator"] for each in row["locators"]] == ["grounding-dino", "centre", "random"]
    centre = row["locators"][1]["metrics"]
    assert set(centre) == {"pointing", "energy", "iou", "dice", "ap", "ap50"}
    assert centre["pointing"] == {"value": 0, "low": 0, "high": 0}  # the middle, 48 and 32, is just outside
    code, out, _ = run(capsys, *asked)
    assert code == 0 and "| centre |" in out and engine.NOTICE in out


def test_a_box_is_drawn_around_what_it_holds():
    drawn = engine.outlined(np.full((40, 60, 3), 100, np.uint8), np.array([[10, 20, 15, 24], [30, 5, 40, 15]], np.float32))
    assert (drawn[20:24, 10:15] == 100).all() and (drawn[5:15, 30:40] == 100).all()
    assert (drawn[19, 9:16] == [252, 255, 164]).all() and (drawn[24, 9:16] == [252, 255, 164]).all()  # pale, one pixel
    assert (drawn[18, 8:17] == [13, 8, 60]).all()  # dark around it
    assert (drawn[4, 29:41] == [237, 105, 37]).all() and (drawn[3] == 100).all()
    edge = engine.outlined(np.full((10, 10, 3), 100, np.uint8), np.array([[0, 0, 10, 10]], np.float32))
    assert (edge == 100).all()  # all of the image: nowhere to draw
