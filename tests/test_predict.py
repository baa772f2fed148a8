"""From image to probabilities, and how good they are. Run: python -m pytest tests/test_predict.py"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import engine
from engine.errors import DataError, PromptSetError
from engine.evaluate import auroc, balanced_accuracy, with_intervals


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


@pytest.fixture(scope="module")
def prompts(mini):
    return engine.METHODS["zero-shot"]().learn(mini, engine.task("modality"))


def test_predict_equals_the_formula_written_out(mini, prompts):
    sample = engine.samples()[0]
    image = engine.read_image(sample.path)
    found = engine.predict(image, mini, prompts)
    x = torch.from_numpy(engine.prepare(image, mini.preprocess).pixels)[None]
    words = mini.encode_texts([prompts.card["template"].format(name) for name in prompts.labels])
    expected = torch.softmax(mini.logit_scale * mini.encode_images(x) @ words.T, dim=-1)[0]
    np.testing.assert_allclose(found.probabilities, expected.numpy(), atol=1e-6)
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert (found.backbone, found.device, found.calibrated) == ("scope-mini", "cpu (float32)", False)


def test_ranked_is_most_probable_first_and_keeps_label_order_in_ties():
    p = engine.Prediction(("a", "b", "c"), np.array([0.2, 0.4, 0.4]), "s", "b", "cpu")
    assert [label for label, _ in p.ranked()] == ["b", "c", "a"]


def test_eight_shared_image_sets_score_one_image_from_one_forward(capsys, monkeypatch):
    """Also through the command line, counted at the image tower."""
    from engine.__main__ import main
    from engine.backbones._openclip import OpenClipViT

    calls = []
    forward = OpenClipViT.encode_images
    monkeypatch.setattr(OpenClipViT, "encode_images", lambda self, x, p=None: calls.append(1) or forward(self, x, p))
    names = list(engine.tasks())[:8]
    assert main(["predict", str(engine.samples()[0].path), "--prompts", *names, "--explain", "none", "--json"]) == 0
    assert len(calls) == 1 and capsys.readouterr().out.count('"status": "ok"') == 8


def test_a_set_of_other_weights_is_refused_before_anything_is_computed(mini, prompts, monkeypatch):
    card = prompts.card | {"backbone": {"id": "scope-mini", "weights_hash": "0" * 64}}
    foreign = engine.PromptSet(prompts.head, card)
    monkeypatch.setattr(type(mini), "encode_images", lambda *_: pytest.fail("computed all the same"))
    with pytest.raises(PromptSetError, match="made for other weights"):
        engine.predict(engine.Image(np.zeros((4, 4), np.float32)), mini, foreign)


# --- metrics ------------------------------------------------------------------------------------------------------------


def random_case(seed: int, n: int = 90, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[truth]
    return truth, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_metrics_equal_scikit_learns():
    truth, p = random_case(0)
    assert balanced_accuracy(truth, p) == pytest.approx(balanced_accuracy_score(truth, p.argmax(1)))
    assert auroc(truth, p) == pytest.approx(roc_auc_score(truth, p, multi_class="ovr", average="macro"))


def test_metrics_by_hand():
    truth = np.array([0, 0, 0, 1])
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    found = with_intervals(truth, p, list("abcd"), resamples=10)
    assert found["accuracy"].value == 0.75
    assert found["balanced_accuracy"].value == pytest.approx((2 / 3 + 1) / 2)
    assert found["auroc"].value == pytest.approx(2 / 3)  # class 1: beats 0.1 and 0.2, loses to 0.7


def test_intervals_hold_the_value_and_are_wider_when_images_belong_together():
    truth, p = random_case(1)
    alone = with_intervals(truth, p, [str(i) for i in range(90)])["accuracy"]
    truth9, p9 = np.repeat(truth[:10], 9), np.repeat(p[:10], 9, axis=0)
    together = with_intervals(truth9, p9, [str(i // 9) for i in range(90)])["accuracy"]
    assert alone.low < alone.value < alone.high
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_intervals_are_the_same_for_a_seed():
    truth, p = random_case(2)
    first, second = (with_intervals(truth, p, list(map(str, truth)), seed=5)["auroc"] for _ in range(2))
    assert first == second


def test_evaluate_refuses_labels_that_the_set_does_not_know(mini, prompts):
    with pytest.raises(DataError, match="'glioma' is no class of the prompt set"):
        engine.evaluate([engine.Example("x.png", "glioma")], mini, prompts)
    with pytest.raises(DataError, match="no labelled images"):
        engine.evaluate([], mini, prompts)


def test_evaluate_counts_the_confusion_by_truth_and_prediction(mini, prompts):
    names = prompts.labels
    vectors = prompts.class_embeddings
    examples = [engine.Example(f"{i}.png", names[i]) for i in range(3)]
    features = vectors[[0, 1, 1]]  # the third image looks like class 1
    found = engine.evaluate(examples, mini, prompts, features)
    assert found.confusion[0, 0] == found.confusion[1, 1] == found.confusion[2, 1] == 1 and found.confusion.sum() == 3
    assert found.metrics["accuracy"].value == pytest.approx(2 / 3) and found.chance == 1 / 8
