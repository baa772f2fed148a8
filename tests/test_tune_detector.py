"""Few-shot fine-tuning of a detector: a random one learns a handful of images, and goes on where it was stopped.
Run: python -m pytest tests/test_tune_detector.py"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detector import write_detector

import engine
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
