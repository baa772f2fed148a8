"""Every head's scores by hand, its tensors there and back, and damaged ones refused. Run: python -m pytest tests/test_heads.py"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch

import engine
from engine.backbones.base import Embedded
from engine.errors import PromptSetError
from engine.heads import HEADS, AdapterHead, CacheHead, ConditionalHead, LinearHead
from engine.predict import bound
from engine.prompts import PromptSet
from engine.types import VisualPrompt


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These matrices are small: threads that wait for each other on a busy machine cost fifty times the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTSCOPE_CACHE", str(tmp_path / "cache"))


def f32(*values) -> np.ndarray:
    return np.array(values, dtype=np.float32)


EYE = np.eye(2, dtype=np.float32)
V = f32([0.6, 0.8])


# --- by hand --------------------------------------------------------------------------------------------------------------


def test_a_linear_head_with_one_scale():
    head = LinearHead(EYE, 10.0, f32(0, 1))
    np.testing.assert_allclose(head.scores(V), [[6, 9]], rtol=1e-6)
    assert head.classes == 2 and head.class_embeddings is head.embeddings


def test_a_linear_head_with_a_scale_for_each_class():
    np.testing.assert_allclose(LinearHead(EYE, f32(2, 3), f32(1, -1)).scores(V), [[2.2, 1.4]], rtol=1e-6)


def test_weights_of_any_length_become_unit_rows_and_their_lengths():
    drawn = np.random.default_rng(0)
    w, b = drawn.normal(size=(4, 6)) * [[1e-6], [1], [50], [3]], drawn.normal(size=4)
    v = drawn.normal(size=(5, 6)).astype(np.float32)
    head = LinearHead.of_weights(w, b)
    np.testing.assert_allclose(head.scores(v), v @ w.T + b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(head.embeddings, axis=1), 1, atol=1e-6)
    assert head.embeddings.dtype == head.scale.dtype == head.bias.dtype == head.scores(v).dtype == np.float32


def test_a_class_whose_weights_are_zero_can_be_loaded_again():
    """What a linear probe leaves where the features do not differ."""
    head = LinearHead.of_weights(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([1.0, 2.0]))
    np.testing.assert_allclose(LinearHead.from_tensors(head.tensors()).scores(V), [[1, 7]], rtol=1e-6)


def test_a_cache_head():
    """v . keys = .6, .8, 1, so exp(-2 (1 - .)) = .44932896, .67032005, 1; the first is of class 0, the others of class 1."""
    keys, values = f32([1, 0], [0, 1], [0.6, 0.8]), f32([1, 0], [0, 1], [0, 1])
    head = CacheHead(EYE, 2.0, keys, values, alpha=0.5, beta=2.0)
    np.testing.assert_allclose(head.scores(V), [[1.2 + 0.5 * 0.44932896, 1.6 + 0.5 * 1.67032005]], rtol=1e-6)
    assert head.classes == 2 and head.class_embeddings is None


def test_an_adapter_head():
    """v = (.6, .8): relu(.6 - .4) = .2; relu(.2 * (2, -1)) = (.4, 0); a quarter of that and three of v: (.55, .6).
    v = (0, 1): relu(-.5) = 0, so three quarters of v are left, not brought to unit length."""
    head = AdapterHead(EYE, 10.0, f32([1, -0.5]), f32([2], [-1]), ratio=0.25)
    np.testing.assert_allclose(head.scores(np.vstack([V, f32([0, 1])])), [[5.5, 6.0], [0, 7.5]], rtol=1e-5)
    assert head.classes == 2 and head.class_embeddings is None


def test_a_conditional_head():
    """relu(.6 - .1) = .5, the shift is .5 * (2, -1) + (0, .5) = (1, 0), added to both rows of the context."""
    seen = []

    def encode(contexts: np.ndarray) -> np.ndarray:
        seen.append(contexts)
        return np.stack([f32([1, 0], [0, 1], [0.6, 0.8])] * len(contexts))

    meta = (f32([1, 0]), f32(-0.1), f32([2], [-1]), f32(0, 0.5))
    head = ConditionalHead(f32([0, 0], [1, 1]), meta, 10.0, 3, encode)
    np.testing.assert_allclose(head.scores(V), [[6, 8, 10]], rtol=1e-6)
    np.testing.assert_allclose(seen[0], [[[1, 0], [2, 1]]], rtol=1e-6)
    assert head.classes == 3 and head.class_embeddings is None


def test_each_image_of_a_conditional_head_has_its_own_classes():
    meta = (f32([1, 0]), f32(0.0), f32([1], [0]), f32(0, 0))  # the shift is (relu(v_0), 0)
    head = ConditionalHead(f32([0, 0]), meta, 1.0, 2, lambda c: np.concatenate([c, -c], axis=1))  # (B, 2, 2)
    np.testing.assert_allclose(head.scores(f32([0.6, 0.8], [-1, 0])), [[0.36, -0.36], [0, 0]], atol=1e-6)


# --- there and back, and damage -------------------------------------------------------------------------------------------


def drawn(name: str) -> tuple[str, object]:
    """A head of 3 classes, D = 5, with random numbers; N = 7, H = 4, n = 2, W = 6."""
    r = np.random.default_rng(3)

    def normal(*shape: int) -> np.ndarray:
        return r.normal(size=shape).astype(np.float32)

    unit = normal(3, 5)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    heads = {
        "linear": ("linear", lambda: LinearHead(unit, 12.5, normal(3))),
        "linear per class": ("linear", lambda: LinearHead(unit, np.abs(normal(3)), normal(3))),
        "cache": (
            "cache",
            lambda: CacheHead(unit, 12.5, normal(7, 5), np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0]], 2, 5.5),
        ),
        "adapter": ("adapter", lambda: AdapterHead(unit, 12.5, normal(4, 5), normal(5, 4), 0.3)),
        "conditional": (
            "conditional",
            lambda: ConditionalHead(normal(2, 6), (normal(4, 5), normal(4), normal(6, 4), normal(6)), 12.5, 3),
        ),
    }
    kind, make = heads[name]
    return kind, make()


NAMES = ["linear", "linear per class", "cache", "adapter", "conditional"]
FEATURES = np.random.default_rng(4).normal(size=(6, 5)).astype(np.float32)


def scored(head) -> np.ndarray:
    if isinstance(head, ConditionalHead):
        wide = np.random.default_rng(5).normal(size=(12, 15)).astype(np.float32)
        head = replace(head, encode=lambda c: (c.reshape(len(c), 12) @ wide).reshape(-1, 3, 5))
    return head.scores(FEATURES)


def a_set(kind: str, head, **more) -> PromptSet:
    card = {
        "schema_version": 1,
        "name": "toy",
        "task": {"id": "toy", "title": "Toy"},
        "labels": ["a", "b", "c"],
        "method": {"name": "zero-shot", "options": {}},
        "backbone": {"id": "fake", "weights_hash": "a" * 64},
        "head": kind,
        "activation": "softmax",
        "data": {"images": 0},
        "metrics": [],
        "temperature": None,
        "licence": "Apache-2.0",
        "intended_use": "tests",
    }
    return PromptSet(head, card, **more)


def test_every_head_is_tried():
    assert {drawn(name)[0] for name in NAMES} == set(HEADS)


@pytest.mark.parametrize("name", NAMES)
def test_a_heads_tensors_give_the_same_head(name, tmp_path):
    kind, head = drawn(name)
    tensors = head.tensors()
    assert all(t.dtype == np.float32 for t in tensors.values())
    assert np.array_equal(scored(HEADS[kind].from_tensors(tensors)), scored(head))
    prompts = a_set(kind, head)
    for place in (prompts.save(tmp_path / "set"), prompts.export(tmp_path / "deep" / "set.safetensors")):
        again = PromptSet.load(place)
        assert np.array_equal(scored(again.head), scored(head)) and again.card == prompts.card


DAMAGES = {
    "missing": lambda t: None,
    "not a number": lambda t: np.where(np.arange(t.size).reshape(t.shape) == 0, np.nan, t).astype(np.float32),
    "infinite": lambda t: np.full_like(t, np.inf),
    "double": lambda t: t.astype(np.float64),
    "whole numbers": lambda t: t.astype(np.int32),
    "a dimension more": lambda t: t[None],
    "no dimension": lambda t: np.float32(1).reshape(()),
    "empty": lambda t: t[:0],
    "a row more": lambda t: np.concatenate([t, t[:1]]),
}
# rows of a context are as many as there are; classes of an adapter are counted against the labels
FREE = {("conditional", "context", "a row more"), ("adapter", "embeddings", "a row more")}


def cases():
    for name in NAMES:
        for tensor in drawn(name)[1].tensors():
            for damage in DAMAGES:
                if (name, tensor, damage) not in FREE:
                    yield name, tensor, damage


@pytest.mark.parametrize(("name", "tensor", "damage"), list(cases()))
def test_a_damaged_tensor_is_refused_in_one_sentence(name, tensor, damage):
    kind, head = drawn(name)
    tensors = head.tensors()
    changed = DAMAGES[damage](tensors[tensor])
    damaged = {k: changed if k == tensor else v for k, v in tensors.items() if not (k == tensor and changed is None)}
    with pytest.raises(PromptSetError) as raised:
        HEADS[kind].from_tensors(damaged)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 200
    if damage == "missing":
        assert str(raised.value) == f"The tensor {tensor!r} is missing."


@pytest.mark.parametrize("name", ["linear", "linear per class", "cache", "adapter"])
def test_class_embeddings_that_are_not_of_unit_length_are_refused(name):
    kind, head = drawn(name)
    tensors = head.tensors()
    tensors["embeddings"] = tensors["embeddings"] * f32([1], [1.01], [1])
    with pytest.raises(PromptSetError, match=r"length 1\.010, not 1"):
        HEADS[kind].from_tensors(tensors)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("features", [FEATURES[:, :4], FEATURES[0], FEATURES[None]], ids=["narrow", "one", "three axes"])
def test_features_of_another_shape_are_refused(name, features):
    head = drawn(name)[1]
    with pytest.raises(PromptSetError, match=r"this prompt set takes \(B, 5\)"):
        head.scores(features)


def test_a_conditional_head_without_its_text_tower_says_so():
    with pytest.raises(PromptSetError, match=r"asks the text tower at every image\. Use it with its backbone"):
        drawn("conditional")[1].scores(FEATURES)


@pytest.mark.parametrize("count", [2.0, 4.0])
def test_a_conditional_head_for_another_number_of_labels_is_refused(count, tmp_path):
    folder = a_set(*drawn("conditional")).save(tmp_path / "set")
    with safetensors.safe_open(folder / "prompts.safetensors", "numpy") as stored:
        tensors, metadata = {k: stored.get_tensor(k) for k in stored.keys()}, stored.metadata()  # noqa: SIM118
    tensors["classes"] = f32(count)
    safetensors.numpy.save_file(tensors, folder / "prompts.safetensors", metadata)
    with pytest.raises(PromptSetError, match="names 3 labels for"):
        PromptSet.load(folder)


# --- what a set carries beside its head -----------------------------------------------------------------------------------


def with_extras() -> PromptSet:
    tokens = np.random.default_rng(6).normal(size=(2, 4, 8)).astype(np.float32)
    learned = {"context": f32([1, 2], [3, 4]), "deep": np.ones((3, 2, 2), np.float32)}
    return a_set(*drawn("linear"), visual_prompt=VisualPrompt(tokens, insert=False, literal=True), learned=learned)


@pytest.mark.parametrize("how", ["save", "export"])
def test_what_was_learned_and_the_visual_prompt_are_kept(how, tmp_path):
    before = with_extras()
    after = PromptSet.load(getattr(before, how)(tmp_path / "set"))
    assert after.learned.keys() == before.learned.keys()
    assert all(np.array_equal(after.learned[k], before.learned[k]) for k in before.learned)
    assert np.array_equal(after.visual_prompt.tokens, before.visual_prompt.tokens)
    assert (after.visual_prompt.insert, after.visual_prompt.literal) == (False, True)
    assert not after.is_shared_image


def rewritten(folder, metadata=None, **tensors):
    with safetensors.safe_open(folder / "prompts.safetensors", "numpy") as stored:
        old, about = {k: stored.get_tensor(k) for k in stored.keys()}, stored.metadata()  # noqa: SIM118
    safetensors.numpy.save_file(old | tensors, folder / "prompts.safetensors", about | (metadata or {}))
    return folder


EXTRAS = {
    "learned not a number": {"learned.context": f32([1, np.nan], [3, 4])},
    "visual prompt not a number": {"visual_prompt": np.full((2, 4, 8), np.nan, np.float32)},
    "visual prompt of two dimensions": {"visual_prompt": np.zeros((4, 8), np.float32)},
    "visual prompt no JSON": {"metadata": {"visual_prompt": "{"}},
    "visual prompt no object": {"metadata": {"visual_prompt": "[]"}},
    "visual prompt of another version": {"metadata": {"visual_prompt": json.dumps({"twist": 3})}},
}


@pytest.mark.parametrize("fault", EXTRAS)
def test_a_damaged_extra_is_refused_in_one_sentence(fault, tmp_path):
    folder = rewritten(with_extras().save(tmp_path / "set"), **EXTRAS[fault])
    with pytest.raises(PromptSetError) as raised:
        PromptSet.load(folder)
    assert "\n" not in str(raised.value)


FILES = {
    "no card inside": (lambda path: path.parent / "set" / "prompts.safetensors", "has no card in it"),
    "cut": (lambda path: (path.write_bytes(path.read_bytes()[:-2]), path)[1], "cannot be read"),
    "text": (lambda path: (path.write_bytes(b"hello"), path)[1], "cannot be read"),
    "empty": (lambda path: (path.write_bytes(b""), path)[1], "cannot be read"),
}


@pytest.mark.parametrize("fault", FILES)
def test_an_exported_file_that_is_not_whole_is_refused_in_one_sentence(fault, tmp_path):
    with_extras().save(tmp_path / "set")
    change, sentence = FILES[fault]
    path = change(with_extras().export(tmp_path / "one.safetensors"))
    with pytest.raises(PromptSetError, match=sentence) as raised:
        PromptSet.load(path)
    assert "\n" not in str(raised.value)


def test_an_exported_file_whose_card_is_damaged_is_refused(tmp_path):
    path = with_extras().export(tmp_path / "one.safetensors")
    raw = path.read_bytes()
    assert raw.count(b"schema_version") == 1
    path.write_bytes(raw.replace(b"schema_version", b"schema_verslon"))
    with pytest.raises(PromptSetError, match=r"not valid at card\.json"):
        PromptSet.load(path)


# --- bound ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


def conditional(mini, **card) -> PromptSet:
    """Random numbers on scope-mini, for the classes of busi."""
    r = np.random.default_rng(8)

    def normal(*shape: int) -> np.ndarray:
        return (0.1 * r.normal(size=shape)).astype(np.float32)

    width = mini.token_width
    meta = (normal(16, mini.dim), normal(16), normal(width, 16), normal(width))
    made = a_set("conditional", ConditionalHead(normal(3, width), meta, 7.0, 3))
    about = {
        "labels": list(engine.task("busi").names),
        "template": "a photo of a {}.",
        "backbone": {"id": mini.id, "weights_hash": mini.weights_hash},
    }
    return replace(made, card=made.card | about | card)


def test_a_bound_set_equals_a_loop_over_images_and_classes_through_the_text_tower(mini):
    prompts = conditional(mini)
    v = torch.nn.functional.normalize(torch.randn(34, mini.dim, generator=torch.Generator().manual_seed(1)), dim=-1)
    first, first_bias, second, second_bias = map(torch.from_numpy, prompts.head.meta)
    expected = torch.zeros(34, 3)
    for b in (0, 1, 31, 32, 33):  # more images than go through the tower at once
        shift = second @ torch.clamp(first @ v[b] + first_bias, min=0) + second_bias
        for c, name in enumerate(prompts.labels):
            text = mini.embed_tokens(mini.tokenize([f"a photo of a {name}."]))
            vectors = text.vectors.clone()
            for row in range(3):
                vectors[0, 1 + row] = torch.from_numpy(prompts.head.context[row]) + shift
            expected[b, c] = 7.0 * (mini.encode_embedded(Embedded(vectors, text.ids))[0] @ v[b])
    found = bound(prompts, mini).scores(v.numpy())
    rows = [0, 1, 31, 32, 33]
    np.testing.assert_allclose(found[rows], expected[rows].numpy(), atol=2e-5)  # batched otherwise
    assert np.ptp(found, axis=0).min() > 1e-3  # images differ


def test_bound_leaves_every_other_head_as_it_is(mini):
    for name in NAMES[:-1]:
        prompts = a_set(*drawn(name))
        prompts = replace(prompts, card=prompts.card | {"backbone": {"id": mini.id, "weights_hash": mini.weights_hash}})
        assert bound(prompts, mini) is prompts


def test_bound_refuses_another_backbone(mini):
    with pytest.raises(PromptSetError, match="was made for other weights of 'scope-mini'"):
        bound(conditional(mini, backbone={"id": "scope-mini", "weights_hash": "b" * 64}), mini)


def test_bound_refuses_a_backbone_that_shows_no_text_tower(mini):
    class Plain:
        id, weights_hash = mini.id, mini.weights_hash

    with pytest.raises(PromptSetError, match="needs the text tower of its backbone"):
        bound(conditional(mini), Plain())


@pytest.mark.parametrize("template", [None, "no place for the class"])
def test_bound_refuses_a_card_without_a_usable_template(mini, template):
    with pytest.raises(engine.EngineError):
        bound(conditional(mini, template=template), mini)
