"""Every method through one contract, and each one's formula by a second road. Run: python -m pytest tests/test_methods.py"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import engine
from engine.errors import DataError


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


@pytest.fixture(params=list(engine.METHODS))
def method(request):
    return engine.METHODS[request.param]


def test_a_method_leaves_a_whole_prompt_set_in_label_order(method, mini, tmp_path):
    task = engine.task("ctkidney")
    made = method().learn(mini, task)
    assert made.labels == task.names and made.card["method"]["name"] == method.name
    assert np.array_equal(engine.PromptSet.load(made.save(tmp_path / "x")).class_embeddings, made.class_embeddings)
    made.check(mini)


def test_a_method_is_deterministic(method, mini):
    first, second = (method().learn(mini, engine.task("retina")).class_embeddings for _ in range(2))
    assert np.array_equal(first, second)


def test_each_class_follows_its_own_words(method, mini):
    """Classes in another order give the same embeddings in that order."""
    task = engine.task("busi")
    from dataclasses import replace

    turned = replace(task, labels=task.labels[::-1])
    a, b = method().learn(mini, task).class_embeddings, method().learn(mini, turned).class_embeddings
    np.testing.assert_allclose(a, b[::-1], atol=1e-6)


def test_zero_shot_is_the_embedded_sentence(mini):
    made = engine.METHODS["zero-shot"]().learn(mini, engine.task("btmri"))
    expected = mini.encode_texts(["a photo of a pituitary tumor, MRI of the brain."])[0]
    np.testing.assert_allclose(made.class_embeddings[2], expected.numpy(), atol=1e-6)


def test_a_template_without_a_place_for_the_class_is_refused():
    method = engine.METHODS["zero-shot"]
    with pytest.raises(DataError, match="'a photo' has no place for the class"):
        method(method.Config(template="a photo"))


def test_the_ensemble_is_the_unit_mean_of_unit_sentences(mini):
    made = engine.METHODS["description-ensemble"]().learn(mini, engine.task("busi"))
    sentences = engine.descriptions("busi").classes["malignant tumor"].sentences
    rows = torch.cat([mini.encode_texts([s]) for s in sentences]).double().numpy()  # one by one, without padding
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    mean = rows.sum(axis=0)
    np.testing.assert_allclose(made.class_embeddings[1], mean / np.linalg.norm(mean), atol=2e-6)


def test_every_description_fits_scope_minis_context(mini):
    for task in engine.tasks():
        for words in engine.descriptions(task).classes.values():
            assert mini.tokenize(list(words.sentences + words.negatives)).shape[1] <= mini.context_length
