"""Few-shot fine-tuning of a detector: a random one learns a handful of images, and goes on where it was stopped.
Run: python -m pytest tests/test_tune_detector.py"""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
import torch
from detector import write_detector

import engine
from engine.__main__ import main
from engine.detection import Case, Region
from engine.errors import DataError
from engine.locate._tuning import Boxed, DetectorRecipe, tune_detector

SQUARES = [(8, 8, 1.0), (60, 16, 1.0), (16, 60, 0.0), (60, 56, 0.0)]  # top, left, grey
PHRASES = [engine.Phrase("bright square"), engine.Phrase("dark disc")]


def pixels(top: int, left: int, grey: float) -> np.ndarray:
    found = np.full((96, 96), 0.5, np.float32)
    found[top : top + 28, left : left + 28] = grey
    return found


def boxed(*squares: tuple[int, int, float]) -> list[Boxed]:
    return [
        Boxed(
            lambda square=square: engine.Image(pixels(*square)),
            np.array([[square[1], square[0], square[1] + 28, square[0] + 28]], np.float32),
            (int(square[2] == 0),),
        )
        for square in squares
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("detector"), queries=10)


def fresh(folder):
    return engine.load_locator(f"grounding-dino:{folder}")


def weights(detector) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in detector.net.named_parameters()}


def test_the_rates_are_the_papers():
    recipe = DetectorRecipe()
    assert (recipe.lr, recipe.language_lr, recipe.weight_decay, recipe.epochs, recipe.batch) == (1e-4, 1e-5, 1e-4, 30, 8)
    # 67 % of 30 epochs is 20.1, 89 % is 26.7
    assert [recipe.share(e) for e in (0, 20, 21, 26, 27, 29)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    with pytest.raises(DataError, match=r"0 epochs of batches of 8 at the rate 0\.0001 cannot be trained"):
        DetectorRecipe(epochs=0)


def test_the_loss_is_the_models_own_of_boxes_by_middle_and_size(folder):
    """The first epoch of one batch: the loss by a second road, with the labels written by hand."""
    detector, (row,) = fresh(folder), boxed(SQUARES[1])
    tokens, _ = detector.caption(PHRASES)
    read = detector.processor.image_processor(images=engine.picture(row.read()), return_tensors="pt")
    # top 60, left 16, 28 high and wide, of 96: the middle is at 30 and 74
    label = {"boxes": torch.tensor([[30 / 96, 74 / 96, 28 / 96, 28 / 96]]), "class_labels": torch.tensor([0])}
    detector.net.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.randperm(1)
        expected = float(detector.net(**read, **tokens, labels=[label]).loss)
    detector.net.eval()
    assert tune_detector(detector, [row], PHRASES, DetectorRecipe(epochs=1))[0] == pytest.approx(expected, rel=1e-5)


def test_every_weight_is_trained_the_language_tower_at_its_own_rate(folder):
    detector = fresh(folder)
    before = weights(detector)
    tune_detector(detector, boxed(*SQUARES[:2]), PHRASES, DetectorRecipe(epochs=1, language_lr=0, weight_decay=0))
    moved = {name: float((each - before[name]).abs().max()) for name, each in detector.net.named_parameters()}
    assert all(by == 0 for name, by in moved.items() if "text_backbone" in name)
    image = [by for name, by in moved.items() if "backbone.conv_encoder" in name]
    assert image and max(image) == pytest.approx(1e-4, rel=0.05)  # AdamW's first step is the rate, whatever the gradient
    assert not any(p.requires_grad for p in detector.net.parameters()) and not detector.net.training


def test_a_stopped_training_ends_in_the_same_weights(folder, tmp_path):
    rows, recipe, file = boxed(*SQUARES), DetectorRecipe(epochs=4, batch=2), tmp_path / "training.safetensors"
    whole = fresh(folder)
    losses = tune_detector(whole, rows, PHRASES, recipe, seed=3)

    def stops(epoch, epochs, loss):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_detector(fresh(folder), rows, PHRASES, recipe, 3, file, stops)
    assert file.is_file()
    with pytest.raises(DataError, match=r"'training\.safetensors' is no checkpoint of this training"):
        tune_detector(fresh(folder), rows, PHRASES, recipe, 4, file)
    again, seen = fresh(folder), []
    found = tune_detector(again, rows, PHRASES, recipe, 3, file, lambda epoch, *_: seen.append(epoch))
    assert found == losses and seen == [3, 4] and not file.exists()
    for name, each in weights(whole).items():
        assert torch.equal(each, again.net.get_parameter(name)), name
    file.write_bytes(b"x")
    with pytest.raises(DataError, match="is no checkpoint of this training"):
        tune_detector(fresh(folder), rows, PHRASES, recipe, 3, file)
    with pytest.raises(DataError, match="No image has a box to learn from"):
        tune_detector(again, [], PHRASES)


@pytest.mark.timeout(600)  # some 45 s of processor time, more beside other work
def test_a_random_detector_learns_four_images_by_heart(tmp_path):
    """With this seed, in one thread: from random weights so few steps do not always suffice (docs/locate.md)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    detector, rows = fresh(write_detector(tmp_path, dropout=0.0)), boxed(*SQUARES)
    try:
        losses = tune_detector(detector, rows, PHRASES, DetectorRecipe(epochs=400, batch=4, lr=1e-3, language_lr=1e-4))
    finally:
        torch.set_num_threads(threads)
    assert losses[-1] < losses[0] / 10
    for row in rows:
        found = engine.locate(row.read(), PHRASES, detector)[row.phrases[0]]
        x0, y0, x1, y1 = row.boxes[0]
        left, top, right, bottom = found.boxes[0]
        shared = max(0, min(x1, right) - max(x0, left)) * max(0, min(y1, bottom) - max(y0, top))
        assert shared / (28 * 28 + (right - left) * (bottom - top) - shared) > 0.5


# --- few shots --------------------------------------------------------------------------------------------------------


def case(*categories: str, crowd: bool = False) -> Case:
    regions = tuple(Region(c, (1.0 + i, 2.0, 5.0, 9.0), crowd=crowd) for i, c in enumerate(categories))
    return Case(lambda: engine.Image(np.zeros((10, 10), np.float32)), "", (10, 10), regions)


def test_as_many_images_are_drawn_as_shots_ask_for():
    cases = [case("a"), case("a"), case("a"), case("b", "a"), case("b"), case(), case("b", crowd=True)]
    for seed in range(5):
        drawn = engine.few(cases, ("a", "b"), 1, seed)
        shown = [set(each.phrases) for each in drawn]
        assert 1 <= len(drawn) <= 2 and set.union(*shown) == {0, 1}
        assert [d.phrases for d in engine.few(cases, ("a", "b"), 1, seed)] == [d.phrases for d in drawn]
    every = engine.few(cases, ("a", "b"), 0)
    assert len(every) == 5  # neither the empty one nor the crowd
    (both,) = (each for each in every if len(each.phrases) == 2)
    assert both.phrases == (1, 0)
    np.testing.assert_array_equal(both.boxes, [[1, 2, 5, 9], [2, 2, 5, 9]])
    assert len(engine.few(cases, ("a",), 2)) == 2
    with pytest.raises(DataError, match="No image shows 'c'"):
        engine.few(cases, ("a", "c"), 1)
    with pytest.raises(DataError, match="-1 shots cannot be drawn"):
        engine.few(cases, ("a",), -1)


# --- the command line -------------------------------------------------------------------------------------------------


def test_a_detector_is_tuned_and_located_with_on_the_command_line(capsys, folder, tmp_path):
    images, annotated = [], []
    for i, (top, left, grey) in enumerate(SQUARES):
        PIL.Image.fromarray((pixels(top, left, grey) * 255).astype(np.uint8)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 96, "width": 96})
        annotated.append({"id": i, "image_id": i, "category_id": int(grey == 0), "bbox": [left, top, 28, 28]})
    named = [{"id": 0, "name": "bright square"}, {"id": 1, "name": "dark disc"}]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": images, "categories": named, "annotations": annotated}))
    asked = ["tune-detector", "--coco", str(file), "--images", str(tmp_path), "--model", str(folder)]
    asked += ["--epochs", "2", "--out", str(tmp_path / "tuned"), "--json"]
    assert main(asked) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert row["images"] == 4 and row["boxes"] == 4 and len(row["losses"]) == 2 and row["recipe"]["language_lr"] == 1e-5
    about = json.loads((tmp_path / "tuned" / "tuning.json").read_text())
    assert about["losses"] == row["losses"] and str(tmp_path) not in json.dumps(about) and ".png" not in json.dumps(about)
    expected = fresh(folder)
    tune_detector(expected, engine.few(engine.read_coco(file, tmp_path)[1], ("bright square", "dark disc"), 10, 1),
                  PHRASES, DetectorRecipe(epochs=2), 1)  # fmt: skip
    tuned = fresh(tmp_path / "tuned")
    for name, each in weights(expected).items():
        torch.testing.assert_close(each, tuned.net.get_parameter(name), rtol=0, atol=1e-6)
    assert main(asked) == 2 and "is there already and not empty" in capsys.readouterr().err
    assert main(["locate", str(tmp_path / "0.png"), "bright square", "--with", f"grounding-dino:{tmp_path / 'tuned'}"]) == 0
