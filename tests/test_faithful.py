"""Maps held against chance, random weights and shifts: known answers and second roads. Run: python -m pytest tests/test_faithful.py"""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import PIL.Image
import pytest
import scipy.stats
import torch

import engine
from engine.__main__ import main
from engine.backbones.base import AttentionLayer
from engine.errors import BackboneError, DataError, ExplainError, PromptSetError
from engine.evaluate import mean_over_units
from engine.explain import DEFAULT
from engine.faithful import STILL, balanced, centred, replaced, verdict
from engine.heads import LinearHead
from engine.preprocess import Preprocess

HASH = "f" * 64
GRID, CELL, KNOWN = (4, 4), 4, (1, 2)  # the one cell that the fake looks at: rows 4 to 7, columns 8 to 11
WHOLE = engine.Box(0, 0, 16, 16)


class OneCell:
    """Says the first class with 9 to 1 where the known cell is bright, else the second with 9 to 1; a visual prompt turns it
    round. Its LeGrad is each cell's brightness."""

    id, source, device, dtype, dim, logit_scale = "fake", "a test", "cpu", "float32", 2, 1.0
    preprocess = Preprocess(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    weights_hash, grid, prefix_tokens = HASH, GRID, 1

    def __init__(self):
        self.batches: list[torch.Tensor] = []

    def encode_images(self, x, visual_prompt=None):
        self.batches.append(x.clone())
        bright = x[:, 0, 4:8, 8:12].mean(dim=(1, 2)) > 0.5
        first = bright.logical_not() if visual_prompt is not None else bright
        return torch.stack([first, ~first], dim=1).float()

    def encode_texts(self, texts):
        raise AssertionError("nobody asks for texts")

    def attention_layers(self, x, last, visual_prompt=None):
        cells = x[:, 0].unflatten(2, (4, CELL)).unflatten(1, (4, CELL)).mean(dim=(2, 4)).flatten(1)  # (B, 16)
        values = torch.stack([cells, -cells], dim=-1)  # (B, 16, 2): what the two targets find there
        values = torch.cat([torch.zeros(len(x), 1, 2), values], dim=1)
        weights = torch.full((len(x), 1, 17, 17), 1 / 17, requires_grad=True)
        return [AttentionLayer(weights, (weights @ values[:, None]).mean(dim=(1, 2)))]


def asked(visual_prompt: engine.VisualPrompt | None = None, **card) -> engine.PromptSet:
    about = {
        "schema_version": 1,
        "name": "toy-zero-shot-fake",
        "task": {"id": "toy", "title": "Toy"},
        "labels": ["bright", "dark"],
        "method": {"name": "zero-shot", "options": {}},
        "backbone": {"id": "fake", "weights_hash": HASH},
        "head": "linear",
        "activation": "softmax",
        "data": {"images": 0},
        "metrics": [],
        "temperature": None,
        "licence": "Apache-2.0",
        "intended_use": "tests",
    } | card
    head = LinearHead(np.eye(2, dtype=np.float32), float(np.log(9)), np.zeros(2, dtype=np.float32))
    return engine.PromptSet(head, about, visual_prompt)


def bright_cell() -> engine.Input:
    pixels = np.zeros((3, 16, 16), dtype=np.float32)
    pixels[:, 4:8, 8:12] = 1
    return engine.Input(pixels, WHOLE)


def known_at(place: int) -> np.ndarray:
    """A map that puts the known cell at this place of the order, and the others in the order of their numbers."""
    cells = [i for i in range(16) if i != KNOWN[0] * 4 + KNOWN[1]]
    cells.insert(place, KNOWN[0] * 4 + KNOWN[1])
    values = np.zeros(16, dtype=np.float32)
    values[cells] = np.arange(16, 0, -1)
    return values.reshape(GRID)


# --- curves -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(16))
def test_the_areas_are_those_worked_out_by_hand_wherever_the_known_cell_stands(place):
    found = engine.deletion_insertion(bright_cell(), OneCell(), asked(), "bright", known_at(place), steps=16, fill="mean")
    # 0.9 until it is gone, one slope of mean 0.5, then 0.1; shown, the other way round
    assert found.deletion_auc == pytest.approx((place * 0.9 + 0.5 + (15 - place) * 0.1) / 16, abs=1e-6)
    assert found.insertion_auc == pytest.approx((place * 0.1 + 0.5 + (15 - place) * 0.9) / 16, abs=1e-6)
    np.testing.assert_allclose(found.shares, np.arange(17) / 16)


def test_the_ideal_map_and_its_reverse_are_the_two_extremes():
    ideal = engine.deletion_insertion(bright_cell(), OneCell(), asked(), "bright", known_at(0), steps=16)
    reverse = engine.deletion_insertion(bright_cell(), OneCell(), asked(), "bright", -known_at(0), steps=16)
    assert (ideal.deletion_auc, ideal.insertion_auc) == (pytest.approx(0.125), pytest.approx(0.875))
    assert (reverse.deletion_auc, reverse.insertion_auc) == (pytest.approx(0.875), pytest.approx(0.125))
    assert ideal.score == pytest.approx(0.75) and reverse.score == pytest.approx(-0.75)


def test_few_steps_take_rounded_counts_and_more_steps_than_cells_take_one_at_a_time():
    few = engine.deletion_insertion(bright_cell(), OneCell(), asked(), "bright", known_at(4), steps=3, fill="mean")
    np.testing.assert_allclose(few.shares, [0, 5 / 16, 11 / 16, 1])  # 16 / 3 = 5.33, 32 / 3 = 10.67
    np.testing.assert_allclose(few.deletion, [0.9, 0.1, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(few.insertion, [0.1, 0.9, 0.9, 0.9], rtol=1e-6)
    many = engine.deletion_insertion(bright_cell(), OneCell(), asked(), "bright", known_at(4), steps=100, fill="mean")
    assert len(many.shares) == 17


def test_equal_values_are_taken_in_a_random_order_that_the_seed_fixes():
    flat = np.zeros(GRID, dtype=np.float32)

    def area(seed: int) -> float:
        return engine.deletion_insertion(
            bright_cell(), OneCell(), asked(), "bright", flat, steps=16, fill="mean", seed=seed
        ).deletion_auc

    found = [area(seed) for seed in range(8)]
    assert found == [area(seed) for seed in range(8)] and len(set(found)) > 3


def test_what_was_not_seen_or_has_no_number_stays_as_it_is():
    seen, values = np.ones(GRID, dtype=bool), known_at(0)
    seen[KNOWN] = False
    backbone = OneCell()
    found = engine.deletion_insertion(bright_cell(), backbone, asked(), "bright", values, 15, "mean", seen=seen)
    np.testing.assert_allclose([*found.deletion, *found.insertion], 0.9, rtol=1e-6)
    assert all((batch[:, :, 4:8, 8:12] == 1).all() for batch in backbone.batches) and len(found.shares) == 16
    unknown = values.copy()
    unknown[KNOWN] = np.nan
    again = engine.deletion_insertion(bright_cell(), OneCell(), asked(), "bright", unknown, 15, "mean")
    assert np.array_equal(again.deletion, found.deletion)
    with pytest.raises(ExplainError, match="no cell that the model saw"):
        engine.deletion_insertion(bright_cell(), OneCell(), asked(), "bright", values, seen=np.zeros(GRID, dtype=bool))


def test_a_visual_prompt_goes_along_into_every_forward():
    turned = asked(engine.VisualPrompt(np.zeros((1, 1, 1), dtype=np.float32)))
    found = engine.deletion_insertion(bright_cell(), OneCell(), turned, "bright", known_at(0), steps=16, fill="mean")
    assert found.deletion_auc == pytest.approx(0.875) and found.insertion_auc == pytest.approx(0.125)


def test_what_cannot_be_drawn_is_said():
    ask = (bright_cell(), OneCell())
    with pytest.raises(ExplainError, match="A curve of 0 steps"):
        engine.deletion_insertion(*ask, asked(), "bright", known_at(0), steps=0)
    with pytest.raises(ExplainError, match="'green' is no class of the prompt set 'toy-zero-shot-fake'"):
        engine.deletion_insertion(*ask, asked(), "green", known_at(0))
    with pytest.raises(ExplainError, match=r"no replacement called 'ink'\. Choose one of: blur, mean"):
        engine.deletion_insertion(*ask, asked(), "bright", known_at(0), fill="ink")
    with pytest.raises(ExplainError, match=r"shape \(4, 4\), its seen cells \(2, 2\)"):
        engine.deletion_insertion(*ask, asked(), "bright", known_at(0), seen=np.ones((2, 2), dtype=bool))
    with pytest.raises(PromptSetError, match="was made for the backbone 'other'"):
        other = asked(backbone={"id": "other", "weights_hash": "0" * 64})
        engine.deletion_insertion(*ask, other, "bright", known_at(0))


def test_a_blurred_input_equals_a_plain_loop_and_keeps_what_is_even():
    pixels = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    expected, sigma = np.zeros_like(pixels), 8 / 2
    for y in range(8):
        for x in range(8):
            total, weight = np.zeros(3), 0.0
            for v in range(8):
                for u in range(8):
                    w = np.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * sigma**2))
                    total, weight = total + w * pixels[:, v, u], weight + w
            expected[:, y, x] = total / weight
    np.testing.assert_allclose(replaced(pixels, (2, 4)), expected, atol=1e-6)  # a cell's longer side is 4
    np.testing.assert_allclose(replaced(np.full((3, 8, 8), 0.3, np.float32), (2, 2)), 0.3, rtol=1e-6)
    assert not replaced(pixels, (2, 2), "mean").any()


def test_cells_of_padding_and_cells_that_are_covered_altogether_are_not_seen():
    box = engine.Box(-2, 0, 8, 8)  # an image of 4 rows and 8 columns in the middle of a square: cells of 2 x 2 pixels
    np.testing.assert_array_equal(engine.seen_cells(box, (4, 8), GRID), [[False] * 4, [True] * 4, [True] * 4, [False] * 4])
    covered = [engine.Box(0, 0, 2, 2), engine.Box(0, 2, 2, 1)]  # a whole cell, and half of the next
    found = engine.seen_cells(box, (4, 8), GRID, covered)
    assert found[1].tolist() == [False, True, True, True]
    assert engine.seen_cells(engine.Box(0, 0, 3, 3), (3, 3), (14, 14)).all()  # cells smaller than a pixel
    cropped = engine.Box(0, 100, 224, 224)
    assert engine.seen_cells(cropped, (224, 424), (14, 14)).all()


# --- against chance ---------------------------------------------------------------------------------------------------


def test_random_orders_lie_between_the_ideal_map_and_its_reverse():
    found = engine.against_chance(bright_cell(), OneCell(), asked(), "bright", known_at(0), steps=16, orders=20, fill="mean")
    allowed = {round((15 - 2 * place) * 0.8 / 16, 6) for place in range(16)}  # insertion minus deletion, by hand
    assert {round(each.score, 6) for each in found.random} <= allowed and len({e.score for e in found.random}) > 5
    assert found.beaten == sum(each.score < 0.74 for each in found.random) >= 19
    assert found.moved == pytest.approx(0.8) and "better than" in found.verdict
    worst = engine.against_chance(bright_cell(), OneCell(), asked(), "bright", -known_at(0), steps=16, orders=20)
    assert worst.beaten == 0 and worst.verdict.startswith("This map is no better than a random one (better than 0 of 20")
    flat = engine.against_chance(bright_cell(), OneCell(), asked(), "bright", np.ones(GRID), steps=4, orders=3)
    assert flat.verdict == "This map marks nothing."


def test_an_input_that_several_orders_share_is_encoded_once():
    backbone = OneCell()
    engine.against_chance(bright_cell(), backbone, asked(), "bright", known_at(0), steps=16, orders=5)
    inputs = torch.cat(backbone.batches)
    assert len(inputs) <= 2 + 7 * 2 * 15  # both ends once, 15 inputs between them for each of 7 orders both ways
    assert max(map(len, backbone.batches)) == 32


def test_the_centre_comes_first_and_equal_distances_are_equal():
    found = centred((4, 6))
    assert set(map(tuple, np.argwhere(found == found.max()))) == {(1, 2), (1, 3), (2, 2), (2, 3)}
    assert np.array_equal(found, found[::-1]) and np.array_equal(found, found[:, ::-1])
    assert all(a >= b for a, b in pairwise(found[1, 3:]))


def said(beaten: int, orders: int = 20, centre: float = 0.0, moved: float = 1.0, flat: bool = False) -> str:
    random = [0.1] * beaten + [0.5] * (orders - beaten)  # 0.5 is a tie, which is not beaten
    return verdict(0.5, random, centre, moved, flat)


def test_the_verdict_at_its_borders():
    good, maybe, none = "This map is better than a random one", "This map may be no better", "This map is no better"
    expected = {20: good, 19: good, 18: maybe, 11: maybe, 10: none, 0: none}
    for beaten, words in expected.items():
        assert said(beaten).startswith(words) and f"better than {beaten} of 20 random orders" in said(beaten)
    assert said(95, 100).startswith(good) and said(94, 100).startswith(maybe)
    assert "centre of the image" not in said(20, centre=0.49) and "centre of the image" in said(20, centre=0.5)
    assert said(20, moved=STILL).startswith(good)
    assert "hardly moves (by 1.9 percentage points at most)" in said(20, moved=0.019)
    assert said(20, moved=0.0, flat=True) == "This map marks nothing."


def test_a_backbone_that_cannot_carry_the_default_shows_its_first():
    assert engine.explanations_for(OneCell()) == ["legrad", "occlusion"]
    (found,) = engine.explain(bright_cell(), OneCell(), asked(), ["bright"])
    assert (found.method, found.target) == ("legrad", "rest") and np.argmax(found.values) == KNOWN[0] * 4 + KNOWN[1]
    (answer,) = engine.compare_image(bright_cell(), OneCell(), [asked()])
    assert answer.heatmap.method == "legrad"


# --- sanity -----------------------------------------------------------------------------------------------------------


def test_rank_correlation_by_hand_with_ties_and_of_a_flat_map():
    assert engine.rank_correlation(np.array([1, 2, 3]), np.array([10, 30, 20])) == pytest.approx(0.5)
    assert engine.rank_correlation(np.array([[1.0, 2], [3, 4]]), np.array([[-1.0, -2], [-3, -9]])) == pytest.approx(-1)
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 50), rng.integers(0, 5, 50)
    assert engine.rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert np.isnan(engine.rank_correlation(np.ones(4), np.arange(4)))


def test_a_map_that_moves_with_the_input_is_stable_under_shifts():
    noise = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    image = engine.Input(np.broadcast_to(noise, (3, 16, 16)).copy(), WHOLE)
    assert engine.shift_stability(image, OneCell(), asked(), "bright", "legrad", shift=CELL) == pytest.approx(1)  # a cell
    ramp = np.add.outer(16 * np.arange(16), np.arange(16)).astype(np.float32) / 256  # even steps: half a cell is exact too
    image = engine.Input(np.broadcast_to(ramp, (3, 16, 16)).copy(), WHOLE)
    assert engine.shift_stability(image, OneCell(), asked(), "bright", "legrad", shift=2) == pytest.approx(1)
    with pytest.raises(ExplainError, match="cannot be moved by 16"):
        engine.shift_stability(image, OneCell(), asked(), "bright", "legrad", shift=16)


class Nailed(OneCell):
    """Its map is the same wherever the image stands: a shift must show that."""

    def attention_layers(self, x, last, visual_prompt=None):
        fixed = torch.from_numpy(np.random.default_rng(1).random((1, 3, 16, 16), dtype=np.float32))
        return super().attention_layers(fixed.expand(len(x), -1, -1, -1), last, visual_prompt)


def test_a_map_that_stays_where_it_is_is_not_stable_under_shifts():
    found = engine.shift_stability(bright_cell(), Nailed(), asked(), "bright", "legrad", shift=CELL)
    assert found < 0.5


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


@pytest.fixture(scope="module")
def kinds(mini):
    return engine.METHODS["description-ensemble"]().learn(mini, engine.task("modality"))


@pytest.fixture(scope="module")
def random_mini(mini):
    return engine.randomised(mini, (1, 12))


@pytest.fixture(scope="module")
def scan(mini):
    path = next(str(s.path) for s in engine.samples() if s.title == "CT")
    return engine.prepare(engine.read_image(path), mini.preprocess)


def test_a_batch_equals_one_by_one_and_a_plain_loop(mini, kinds, scan):
    values = np.random.default_rng(0).random((14, 14), dtype=np.float32)
    together = engine.deletion_insertion(scan, mini, kinds, "CT", values, steps=4)
    alone = engine.deletion_insertion(scan, mini, kinds, "CT", values, steps=4, batch=1)
    np.testing.assert_allclose(together.deletion, alone.deletion, atol=1e-5)  # batch size changes the order of summation
    np.testing.assert_allclose(together.insertion, alone.insertion, atol=1e-5)
    blurred, order = replaced(scan.pixels, (14, 14)), np.argsort(-values.ravel())
    for step, gone in enumerate((0, 49, 98, 147, 196)):
        less, more = scan.pixels.copy(), blurred.copy()
        for cell in order[:gone]:
            place = (slice(None), slice(cell // 14 * 16, cell // 14 * 16 + 16), slice(cell % 14 * 16, cell % 14 * 16 + 16))
            less[place], more[place] = blurred[place], scan.pixels[place]
        for pixels, curve in ((less, together.deletion), (more, together.insertion)):
            with torch.no_grad():
                features = mini.encode_images(torch.from_numpy(pixels)[None]).numpy()
            p = kinds.probabilities(features)[0, kinds.labels.index("CT")]
            assert curve[step] == pytest.approx(p, abs=1e-5)


def test_randomising_replaces_the_last_blocks_and_nothing_else(mini, random_mini):
    before = mini._model.state_dict()
    for last, other in random_mini.items():
        after = other._model.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        inside = {n for n in before if any(n.startswith(f"visual.trunk.blocks.{12 - i}.") for i in range(1, last + 1))}
        assert changed == inside and other.weights_hash != mini.weights_hash
    with pytest.raises(
        BackboneError, match="The last 13 blocks of 'scope-mini' cannot be randomised: its image tower has 12"
    ):
        engine.randomised(mini, (13,))
    with pytest.raises(BackboneError, match="The weights of 'fake' cannot be randomised"):
        engine.randomised(OneCell(), (1,))


@pytest.fixture(params=list(engine.EXPLANATIONS))
def name(request, mini):
    if request.param not in engine.explanations_for(mini):
        pytest.skip(f"scope-mini cannot carry {request.param}")
    return request.param


def test_every_map_changes_with_the_weights(name, mini, kinds, scan, random_mini):
    found = engine.weights_matter(scan, mini, kinds, "CT", name, {12: random_mini[12]})
    # 1 where weights do not matter; one image by chance has much (docs/faithful.md has the means); not a number of a flat map
    assert not found[12] > 0.95


def test_legrad_changes_much_when_all_blocks_are_random(mini, kinds, scan, random_mini):
    found = engine.weights_matter(scan, mini, kinds, "CT", "legrad", random_mini | {0: mini})
    assert found[0] == pytest.approx(1)  # the same weights, the same map
    assert found[1] < 0.999 and abs(found[12]) < 0.7


def test_every_map_can_be_held_against_chance(name, mini, kinds, scan):
    (heatmap,) = engine.explain(scan, mini, kinds, ["CT"], name)
    found = engine.against_chance(scan, mini, kinds, "CT", heatmap.values, steps=2, orders=2)
    assert found.curves.deletion[0] == pytest.approx(found.curves.insertion[-1]) and "random" in found.verdict
    assert found.curves.deletion[0] == pytest.approx(found.random[1].deletion[0], abs=1e-7)


# --- over many images -------------------------------------------------------------------------------------------------


def drawn_from(*counts: tuple[int, int]) -> list[engine.Source]:
    """Sources of so many images in each of two classes, two images a group."""
    return [
        engine.Source(
            [
                engine.Example(f"{s}{c}{i}", c, group=f"{c}{i // 2}")
                for c, n in zip("ab", some, strict=True)
                for i in range(n)
            ],
            asked(),
        )
        for s, some in enumerate(counts)
    ]


def test_images_are_drawn_evenly_over_sources_classes_and_groups():
    found = balanced(drawn_from((20, 20), (20, 3), (1, 1)), 22)
    assert [sum(s == each for s, _ in found) for each in range(3)] == [8, 7, 2]  # the last has no more
    for s, expected in ((0, {"a": 4, "b": 4}), (1, {"a": 4, "b": 3})):
        rows = [e for source, e in found if source == s]
        assert {c: sum(e.label == c for e in rows) for c in "ab"} == expected
    groups = [e.group for source, e in found if source == 0]
    assert len(set(groups)) == 8
    assert [s for s, _ in found[:6]] == [0, 1, 2, 0, 1, 2] and found == balanced(drawn_from((20, 20), (20, 3), (1, 1)), 22)
    with pytest.raises(DataError, match="0 images cannot be drawn"):
        balanced(drawn_from((2, 2)), 0)


def test_an_interval_keeps_groups_together():
    values = np.array([0.0, 0, 0, 1, 1, 1])
    apart, together = mean_over_units(values, list("abcdef")), mean_over_units(values, list("aaabbb"))
    assert apart.value == together.value == 0.5
    assert (together.low, together.high) == (0, 1)  # of two groups, a quarter of the resamples are twice the same one
    assert apart.low > 0 and apart.high < 1


@pytest.fixture
def folders(tmp_path):
    """Class folders of four images each: the known cell bright, or dark."""
    for label, level in (("bright", 255), ("dark", 0)):
        (tmp_path / label).mkdir()
        for i in range(4):
            pixels = np.zeros((16, 16), dtype=np.uint8)
            pixels[4:8, 8:12] = level
            pixels[12, i] = 9
            PIL.Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    return tmp_path


def test_the_table_has_the_areas_that_were_worked_out_by_hand(folders):
    examples = [e for e in engine.read_examples(folders) if e.label == "bright"]
    more = [engine.Example(e.path, "dark") for e in examples[:2]]  # called wrongly: 2 of the 6 are not named right
    source = engine.Source(examples[2:] + more, asked())
    rows = tuple(engine.score_maps([source], OneCell(), ["legrad"], images=4, steps=16, orders=2, fill="mean"))
    found = engine.Faithfulness(rows)
    assert [r.named_right for r in rows].count(True) == 2 and len(set(found.units)) == 4
    by = {each.name: each for each in found.maps}
    assert found.maps[0].name == "legrad" and set(by) == {"legrad", "random", "centre"}
    assert by["legrad"].deletion.value == pytest.approx(0.125) and by["legrad"].insertion.value == pytest.approx(0.875)
    assert by["random"].score.value == pytest.approx(0, abs=1e-7)  # an order and its reverse
    assert by["legrad"].over_random.low == pytest.approx(0.75, abs=1e-6) and by["legrad"].seconds > 0
    assert by["random"].seconds == 0 and by["legrad"].stability is None


def test_maps_that_are_not_there_or_cannot_be_made_are_said(folders):
    source = engine.Source(engine.read_examples(folders), asked())
    with pytest.raises(ExplainError, match="no explanation called 'tarot'"):
        next(engine.score_maps([source], OneCell(), ["tarot"]))
    with pytest.raises(ExplainError, match="0 random orders"):
        next(engine.score_maps([source], OneCell(), ["legrad"], orders=0))


def table(default: float, **scores: float) -> engine.Faithfulness:
    """20 images whose scores differ a little from image to image, all maps alike. default : of the map that is shown unasked."""
    scores |= {DEFAULT: default}
    rows = [
        engine.Scored(0, str(i), True, {n: 0.3 for n in scores}, {n: 0.3 + v + i / 1000 for n, v in scores.items()}, {})
        for i in range(20)
    ]
    return engine.Faithfulness(tuple(rows))


def test_the_words_say_plainly_where_the_default_is_not_the_best():
    words = table(0.1, attention=0.2, random=0.0, centre=0.3).in_words()
    assert words.startswith("Of the maps, attention is best by insertion minus deletion")
    assert "It is better than random orders (difference 0.200, 95 % 0.200 to 0.200)." in words
    assert "It is worse than going from the centre outwards" in words
    assert "It is better than the default, integrated-gradients (difference 0.100" in words
    assert "default" not in table(0.2, attention=0.1, random=0.0, centre=0.0).in_words()
    assert "not clearly better than random orders" in table(0.0, random=0.0, centre=0.0).in_words()


def test_the_command_prints_one_object_a_table_and_what_is_done_at_ctrl_c(folders, capsys, monkeypatch):
    words = ["faithful", "--data", str(folders), "--prompts", "zero-one", "--images", "4", "--steps", "2", "--random", "2"]
    monkeypatch.setattr(engine, "load_backbone", lambda *_: OneCell())
    monkeypatch.setattr(engine, "prompt_set", lambda *_: asked())
    assert main([*words, "--json"]) == 0
    out = capsys.readouterr().out
    (row,) = json.loads(out)["results"]
    assert row["images"] == 4 and row["prompt_sets"] == [{"prompt_set": "toy-zero-shot-fake", "images": 4}]
    assert {each["name"] for each in row["maps"]} >= {"legrad", "random", "centre"} and not row["stopped"]
    assert set(row["maps"][0]["deletion"]) == {"value", "low", "high"}
    made = engine.score_maps

    def stopped(*args, **more):
        yield next(made(*args, **more))
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "score_maps", stopped)
    assert main(words) == 130
    found = capsys.readouterr()
    assert "Stopped after 1 images" in found.err and "| legrad |" in found.out and "| random |" in found.out
    assert main([*words, "--prompts", "a", "b"]) == 2
    assert "1 sources of images and 2 prompt sets" in capsys.readouterr().err
