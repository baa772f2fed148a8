"""Maps: known answers, a second road, and what every method promises. Run: python -m pytest tests/test_explain.py"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import engine
from engine.backbones.base import AttentionLayer
from engine.backbones.scope_mini import FOLDER
from engine.errors import ExplainError
from engine.explain import target_vectors
from engine.explain.legrad import LAYERS, legrad


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


@pytest.fixture(scope="module")
def prompts(mini):
    return engine.METHODS["description-ensemble"]().learn(mini, engine.task("modality"))


def prepared(mini: engine.Backbone, seed: int = 0) -> engine.Input:
    image = engine.Image(np.random.default_rng(seed).random((300, 260), dtype=np.float32))
    return engine.prepare(image, mini.preprocess)


@pytest.fixture(params=list(engine.EXPLANATIONS))
def name(request, mini):
    if request.param not in engine.explanations_for(mini):
        pytest.skip(f"scope-mini cannot carry {request.param}")
    return request.param


def test_a_map_is_float32_on_the_patch_grid_and_finite(name, mini, prompts):
    x = torch.from_numpy(np.stack([prepared(mini, s).pixels for s in range(2)]))
    maps = engine.EXPLANATIONS[name](mini, x, torch.from_numpy(prompts.class_embeddings[:3]))
    assert maps.shape == (2, 3, 14, 14) and maps.dtype == torch.float32 and torch.isfinite(maps).all()


def test_each_image_and_target_has_the_map_it_has_alone(name, mini, prompts):
    x = torch.from_numpy(np.stack([prepared(mini, s).pixels for s in range(2)]))
    vectors = torch.from_numpy(prompts.class_embeddings[:2])
    together = engine.EXPLANATIONS[name](mini, x, vectors)
    alone = engine.EXPLANATIONS[name](mini, x[1:], vectors[1:])
    torch.testing.assert_close(together[1, 1], alone[0, 0], rtol=1e-3, atol=1e-9)


def test_a_map_for_another_class_differs(name, mini, prompts):
    first, second = engine.explain(prepared(mini), mini, prompts, ["MRI", "dermoscopy"], name)
    assert (first.label, second.label, first.method) == ("MRI", "dermoscopy", name)
    assert np.abs(first.values - second.values).max() > 0.05 * first.values.max()


def test_a_map_is_the_same_twice_and_leaves_nothing_behind(name, mini, prompts):
    first, second = (engine.explain(prepared(mini), mini, prompts, ["CT"], name)[0].values for _ in range(2))
    assert np.array_equal(first, second)
    assert not any(p.requires_grad or p.grad is not None for p in mini._model.parameters())


# --- LeGrad -------------------------------------------------------------------------------------------------------------


class KnownAttention:
    """One layer whose answer is known: pooled = mean over queries and heads of weights @ values."""

    grid, prefix_tokens = (2, 2), 1

    def __init__(self, values: torch.Tensor):
        self.values = values  # (N, D), N = 1 + 4

    def attention_layers(self, x, last, visual_prompt=None):
        weights = torch.full((len(x), 2, 5, 5), 0.2, requires_grad=True)
        return [AttentionLayer(weights, (weights @ self.values).mean(dim=(1, 2)))]


def test_legrad_points_at_the_patch_that_holds_the_target():
    values = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [-2.0, 0.0], [0.0, 0.0]])  # CLS, then four patches
    maps = legrad(KnownAttention(values), torch.zeros(1, 3, 4, 4), torch.eye(2))
    # d<target, pooled> / d weights[h, q, k] = <target, values[k]> / (2 heads * 5 queries); below zero is cut
    expected = torch.tensor([[[0.1, 0.0], [0.0, 0.0]], [[0.0, 0.3], [0.0, 0.0]]])[None]
    torch.testing.assert_close(maps, expected)


def test_legrad_of_values_that_say_nothing_is_flat_and_drawn_as_nothing():
    maps = legrad(KnownAttention(torch.zeros(5, 2)), torch.zeros(1, 3, 4, 4), torch.eye(2))
    heatmap = engine.Heatmap(maps[0, 0].numpy(), engine.Box(0, 0, 8, 8), "x", "legrad")
    assert engine.is_flat(engine.place(heatmap, (8, 8)))


def test_legrad_equals_an_independent_transcription(mini, prompts):
    """One graph through all blocks, attention by hand: arXiv:2404.03214, eq. 4 to 7, without our block by block road."""
    from engine.backbones._openclip import build_model, read_weights, weights_file

    model = build_model(FOLDER).eval()
    model.load_state_dict({k: v.float() for k, v in read_weights(weights_file(FOLDER)).items()})
    trunk, x = model.visual.trunk, torch.from_numpy(prepared(mini).pixels)[None]
    target = torch.from_numpy(prompts.class_embeddings[3])
    tokens, total = trunk._pos_embed(trunk.patch_embed(x)), torch.zeros(14, 14)
    for depth, block in enumerate(trunk.blocks):
        a = block.attn
        q, k, v = (t.unflatten(-1, (a.num_heads, -1)).transpose(1, 2) for t in a.qkv(block.norm1(tokens)).chunk(3, dim=-1))
        weights = torch.softmax(q @ k.transpose(-1, -2) / np.sqrt(q.shape[-1]), dim=-1)
        weights.retain_grad()
        tokens = tokens + a.proj((weights @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.norm2(tokens))
        if depth >= len(trunk.blocks) - LAYERS:
            s = F.normalize(model.visual.head(trunk.norm(tokens.mean(1))), dim=-1)[0] @ target
            (gradient,) = torch.autograd.grad(s, weights, retain_graph=True)
            total += gradient.clamp(min=0).mean(dim=(0, 1, 2))[1:].reshape(14, 14)
    found = engine.explain(prepared(mini), mini, prompts, [prompts.labels[3]])[0].values
    torch.testing.assert_close(torch.from_numpy(found), total / LAYERS, rtol=1e-3, atol=1e-8)


# --- targets ------------------------------------------------------------------------------------------------------------


class ThreeClasses:
    name, labels = "toy", ("a", "b", "c")
    class_embeddings = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)


def test_targets_by_hand():
    scores = np.array([5.0, 1.0, 3.0])
    assert target_vectors(ThreeClasses, ["b"], "class", scores).tolist() == [[0, 1, 0]]
    assert target_vectors(ThreeClasses, ["a"], "rest", scores).tolist() == [[1, -0.5, -0.5]]
    assert target_vectors(ThreeClasses, ["a", "b"], "runner-up", scores).tolist() == [[1, 0, -1], [-1, 1, 0]]


def test_what_cannot_be_mapped_is_said():
    with pytest.raises(ExplainError, match="'d' is no class of the prompt set 'toy'"):
        target_vectors(ThreeClasses, ["d"], "class", np.zeros(3))
    with pytest.raises(ExplainError, match="no map target called 'best'"):
        target_vectors(ThreeClasses, ["a"], "best", np.zeros(3))

    class NoEmbeddings(ThreeClasses):
        class_embeddings = None

    with pytest.raises(ExplainError, match="has no class embeddings"):
        target_vectors(NoEmbeddings, ["a"], "class", np.zeros(3))


@pytest.mark.parametrize("insert", [True, False])
def test_attention_under_a_visual_prompt_ends_in_the_features_under_it(mini, insert):
    """The blocks that a map walks through are those that `encode_images` computes; a prompt of zeros changes the map."""
    prompt = engine.VisualPrompt(np.zeros((1, 4, 192), dtype=np.float32), insert=insert)
    x = torch.from_numpy(prepared(mini).pixels)[None]
    tower, layers = mini._image, []
    finish = tower.finish
    tower.finish = lambda *parts: layers.append(finish(*parts)) or layers[-1]
    try:
        found = mini.attention_layers(x, 12, prompt)
    finally:
        del tower.finish
    with torch.no_grad():
        features = torch.nn.functional.normalize(tower.pool(layers[-1]), dim=-1)
    torch.testing.assert_close(features, mini.encode_images(x, prompt), atol=1e-5, rtol=0)
    kept = found[0].weights.detach()
    assert kept.shape[-1] == 197 and (kept.sum(dim=-1) < 0.99).any() and (kept.sum(dim=-1) < 1 + 1e-5).all()
    assert (kept[..., 1:5] == 0).all() != insert
    plain, under = (legrad(mini, x, torch.eye(256)[:1], p) for p in (None, prompt))
    assert not torch.allclose(plain, under)
