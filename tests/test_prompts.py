"""Prompt sets: saved and loaded whole, or refused in one sentence. Run: python -m pytest tests/test_prompts.py"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

import engine
from engine.errors import PromptSetError
from engine.heads import LinearHead
from engine.methods import carried, instant
from engine.methods.base import linear_prompt_set
from engine.prompts import PromptSet

HASH = "a" * 64


def made(**card) -> PromptSet:
    """Two classes in two dimensions, scale 10."""
    about = {
        "schema_version": 1,
        "name": "toy-zero-shot-fake",
        "task": {"id": "toy", "title": "Toy"},
        "labels": ["left", "up"],
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
    return PromptSet(LinearHead(np.eye(2, dtype=np.float32), 10.0, np.array([0.0, 1.0], dtype=np.float32)), about)


FEATURE = np.array([[0.6, 0.8]], dtype=np.float32)


def test_scores_and_probabilities_by_hand():
    np.testing.assert_allclose(made().scores(FEATURE), [[6.0, 9.0]], rtol=1e-6)
    np.testing.assert_allclose(made().probabilities(FEATURE), [[0.04742587, 0.95257413]], rtol=1e-5)  # 1 / (1 + e^3)


def test_a_temperature_divides_the_scores():
    np.testing.assert_allclose(made(temperature=3.0).probabilities(FEATURE)[0, 1], 0.73105858, rtol=1e-5)  # 1 / (1 + 1/e)


def test_sigmoid_treats_each_class_alone():
    np.testing.assert_allclose(made(activation="sigmoid").probabilities(FEATURE), [[0.99752738, 0.99987661]], rtol=1e-5)


def test_very_large_scores_stay_finite():
    features = np.array([[200.0, -200.0]], dtype=np.float32)
    np.testing.assert_allclose(made().probabilities(features), [[1.0, 0.0]])


def test_saved_and_loaded_is_the_same_and_unknown_fields_are_kept(tmp_path):
    before = made(written_by="a later version")
    after = PromptSet.load(before.save(tmp_path / "set"))
    assert after.card == before.card and after.labels == ("left", "up")
    assert np.array_equal(after.scores(FEATURE), before.scores(FEATURE))


def test_a_saved_set_holds_no_pickle_and_no_weights(tmp_path):
    folder = made().save(tmp_path / "set")
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "prompts.safetensors"]
    assert sorted(safetensors.numpy.load_file(folder / "prompts.safetensors")) == ["bias", "embeddings", "scale"]


def rewrite_card(folder, **changes):
    card = json.loads((folder / "card.json").read_text()) | changes
    (folder / "card.json").write_text(json.dumps(card))


def rewrite_tensors(folder, **changes):
    tensors = safetensors.numpy.load_file(folder / "prompts.safetensors") | changes
    metadata = {"format": "promptscope", "labels": json.dumps(["left", "up"])}
    kept = {k: v for k, v in tensors.items() if v is not None}
    safetensors.numpy.save_file(kept, folder / "prompts.safetensors", metadata)


def cut(folder):
    path = folder / "prompts.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


FAULTS = {
    "reordered labels": (lambda f: rewrite_card(f, labels=["up", "left"]), "not those that it was saved with: up, left"),
    "missing label": (lambda f: rewrite_card(f, labels=["left", "down"]), "not those that it was saved with"),
    "one label": (lambda f: rewrite_card(f, labels=["left"]), "not valid at labels"),
    "repeated label": (lambda f: rewrite_card(f, labels=["left", "left"]), "not valid at labels"),
    "future version": (lambda f: rewrite_card(f, schema_version=2), "format version 2; this PromptScope reads 1"),
    "future head": (lambda f: rewrite_card(f, head="quantum"), "head of the kind 'quantum'"),
    "bad hash": (
        lambda f: rewrite_card(f, backbone={"id": "x", "weights_hash": "no"}),
        "not valid at backbone/weights_hash",
    ),
    "bad temperature": (lambda f: rewrite_card(f, temperature=0), "not valid at temperature"),
    "too few display names": (lambda f: rewrite_card(f, display=["Left"]), "1 display names for 2 labels"),
    "card no object": (lambda f: (f / "card.json").write_text("[]"), "no JSON object"),
    "card no JSON": (lambda f: (f / "card.json").write_text("{"), "cannot be read"),
    "card missing": (lambda f: (f / "card.json").unlink(), "has no card.json"),
    "tensors missing": (lambda f: (f / "prompts.safetensors").unlink(), r"has no prompts\.safetensors"),
    "tensors cut": (cut, "cannot be read"),
    "tensors random": (lambda f: (f / "prompts.safetensors").write_bytes(bytes(range(256))), "cannot be read"),
    "one tensor missing": (lambda f: rewrite_tensors(f, scale=None), "The tensor 'scale' is missing"),
    "wrong shape": (
        lambda f: rewrite_tensors(f, bias=np.zeros(3, np.float32)),
        r"The tensor 'bias' has the shape \(3,\), which does not fit",
    ),
    "not a number": (lambda f: rewrite_tensors(f, bias=np.array([0, np.nan], np.float32)), "no finite float32"),
    "not unit length": (lambda f: rewrite_tensors(f, embeddings=2 * np.eye(2, dtype=np.float32)), "length 2.000, not 1"),
    "no labels in metadata": (
        lambda f: safetensors.numpy.save_file({"scale": np.ones(1, np.float32)}, f / "prompts.safetensors"),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_set_is_refused_in_one_sentence(tmp_path, fault):
    folder = made().save(tmp_path / "set")
    damage, sentence = FAULTS[fault]
    damage(folder)
    with pytest.raises(PromptSetError, match=sentence) as raised:
        PromptSet.load(folder)
    assert "\n" not in str(raised.value)


def test_a_set_for_another_backbone_is_refused_with_what_to_choose():
    other = SimpleNamespace(id="biomedclip", weights_hash="b" * 64)
    with pytest.raises(PromptSetError, match=r"made for the backbone 'fake', not 'biomedclip'\. Choose 'fake'"):
        made().check(other)


def test_a_set_for_other_weights_of_the_same_name_is_refused():
    other = SimpleNamespace(id="fake", weights_hash="b" * 64)
    with pytest.raises(PromptSetError, match=r"other weights of 'fake' \(aaaaaaaaaaaa, here bbbbbbbbbbbb\)"):
        made().check(other)


def test_the_same_weights_under_another_name_are_accepted():
    made().check(SimpleNamespace(id="local-dir:/somewhere", weights_hash=HASH))


def test_an_unknown_set_is_said():
    with pytest.raises(PromptSetError, match="There is no prompt set 'no-such-set'"):
        PromptSet.load("no-such-set")


# --- what is shipped ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


def test_at_least_eight_tasks_have_both_sets():
    have = engine.library()
    both = [t for t in engine.tasks() if {f"{t}-zero-shot-scope-mini", f"{t}-description-ensemble-scope-mini"} <= set(have)]
    assert len(both) >= 8, have


@pytest.mark.parametrize("name", engine.library())
def test_a_shipped_set_is_what_its_method_makes_now(name, mini):
    shipped = PromptSet.load(name)
    shipped.check(mini)
    card, task = shipped.card, engine.task(shipped.card["task"]["id"])
    if card["method"]["name"] in instant():
        again = engine.METHODS[card["method"]["name"]]().learn(mini, task)
    else:  # what it learned, put into the same classes' sentences once more
        again = carried(shipped, mini, task)
        assert (card["data"]["images"] > 0) == engine.METHODS[card["method"]["name"]].needs_images
    assert again.name == shipped.name == name and again.labels == shipped.labels
    # other processors sum in another order
    np.testing.assert_allclose(again.class_embeddings, shipped.class_embeddings, atol=1e-4)
    assert card["descriptions"] == again.card["descriptions"]


def test_the_name_never_leaves_the_pattern(mini):
    backbone = SimpleNamespace(id="local-dir:/tmp/Some Folder", weights_hash=HASH, dtype="float32", logit_scale=1.0)
    method = engine.METHODS["zero-shot"]()
    task = engine.task("oct_srf")
    backbone.encode_texts = mini.encode_texts
    with pytest.raises(PromptSetError, match="not valid at name"):
        linear_prompt_set(method, backbone, task, mini.encode_texts(list(task.names)), name="../../etc")
    assert method.learn(backbone, task).name == "oct_srf-zero-shot-local-dir--tmp-some-folder"
