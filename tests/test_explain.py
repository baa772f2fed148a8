"""Maps: known answers, a second road, and what every method promises. Run: python -m pytest tests/test_explain.py"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import engine
from engine.backbones._openclip import build_model, read_weights, weights_file
from engine.backbones.base import AttentionLayer, FeatureMap, LastBlock
from engine.backbones.scope_mini import FOLDER
from engine.errors import ExplainError
from engine.explain import target_vectors
from engine.explain._blur import blurred
from engine.explain._gradients import gradients
from engine.explain.attention import attention
from engine.explain.grad_cam import grad_cam
from engine.explain.grad_eclip import grad_eclip
from engine.explain.integrated_gradients import STEPS, integrated_gradients
from engine.explain.legrad import LAYERS, legrad
from engine.explain.occlusion import occlusion
from engine.explain.patch_similarity import patch_similarity
from engine.explain.rollout import rollout

EVERY = list(engine.EXPLANATIONS)
CARRIED = {"scope-mini": EVERY, "tiny-clip": EVERY, "tiny-pmc": ["integrated-gradients", "grad-cam", "occlusion"]}
NO_CLASS = ("attention", "rollout")  # where the encoder attends, whatever is asked
OWN_CELLS = ("integrated-gradients", "occlusion")  # no patches of the tower
GRIDS = {"scope-mini": (14, 14), "tiny-clip": (4, 4), "tiny-pmc": (2, 2)}


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


@pytest.fixture(scope="module")
def prompts(mini):
    return engine.METHODS["description-ensemble"]().learn(mini, engine.task("modality"))


def prepared(mini: engine.Backbone, seed: int = 0) -> engine.Input:
    image = engine.Image(np.random.default_rng(seed).random((300, 260), dtype=np.float32))
    return engine.prepare(image, mini.preprocess)


# --- what every map of every kind of tower promises -------------------------------------------------------------------


@pytest.fixture(scope="session")
def towers(tiny):
    """By kind: the backbone, and the folder that it was read from."""
    known = {"scope-mini": (engine.load_backbone("scope-mini"), FOLDER)}
    return known | {kind: (engine.load_backbone(f"local-dir:{folder}"), folder) for kind, folder in tiny.items()}


@pytest.fixture(params=[(kind, name) for kind, names in CARRIED.items() for name in names], ids=" ".join)
def carried(request, towers, monkeypatch):
    """A kind of tower, its backbone, and the name of a map that it carries. Maps of their own cells have 4 a side here: occlusion
    covers 9 squares, not 169."""
    kind, name = request.param
    for own in OWN_CELLS:
        monkeypatch.setattr(importlib.import_module(engine.EXPLANATIONS.entries[own].partition(":")[0]), "CELLS", 4)
    return kind, towers[kind][0], name


def inputs(backbone: engine.Backbone, count: int = 2, seed: int = 0) -> torch.Tensor:
    """Noise; of every second image the upper half is white."""
    size = backbone.preprocess.size
    x = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    x[1::2, :, : size // 2] = 2.0
    return x


def directions(backbone: engine.Backbone, count: int = 3, seed: int = 1) -> torch.Tensor:
    return F.normalize(torch.randn(count, backbone.dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("kind", CARRIED)
def test_a_kind_of_tower_offers_the_maps_that_it_can_carry_in_the_order_of_the_menu(kind, towers):
    assert engine.explanations_for(towers[kind][0]) == CARRIED[kind]


def test_a_map_is_float32_finite_and_holds_no_graph(carried):
    kind, backbone, name = carried
    maps = engine.EXPLANATIONS[name](backbone, inputs(backbone), directions(backbone))
    assert maps.shape == (2, 3, *((4, 4) if name in OWN_CELLS else GRIDS[kind]))
    assert maps.dtype == torch.float32 and torch.isfinite(maps).all() and not maps.requires_grad
    assert maps.flatten(2).std(dim=-1).max() > 0
    assert name in ("patch-similarity", *OWN_CELLS) or (maps >= 0).all()


def test_each_image_and_target_has_the_map_it_has_alone(carried):
    _, backbone, name = carried
    x, vectors = inputs(backbone), directions(backbone)
    together = engine.EXPLANATIONS[name](backbone, x, vectors)
    for b, t in ((0, 0), (1, 2)):
        alone = engine.EXPLANATIONS[name](backbone, x[b : b + 1], vectors[t : t + 1])[0, 0]
        # a batch changes the order of summation
        torch.testing.assert_close(together[b, t], alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()) + 2e-7)


def test_a_map_is_of_its_image_and_of_its_class_where_the_method_knows_classes(carried):
    _, backbone, name = carried
    maps = engine.EXPLANATIONS[name](backbone, inputs(backbone), directions(backbone))
    assert (maps[0] - maps[1]).abs().max() > 0.002 * maps.abs().max()  # random weights hardly tell images apart
    others = (maps[:, 1:] - maps[:, :1]).abs().max()
    assert others == 0 if name in NO_CLASS else others > 0.05 * maps.abs().max()


def test_a_map_is_the_same_twice_also_without_gradients_around_and_leaves_nothing_behind(carried):
    _, backbone, name = carried
    first = engine.EXPLANATIONS[name](backbone, inputs(backbone), directions(backbone))
    with torch.no_grad():
        second = engine.EXPLANATIONS[name](backbone, inputs(backbone), directions(backbone))
    assert torch.equal(first, second)
    assert not any(p.requires_grad or p.grad is not None for p in backbone._model.parameters())


def test_a_map_takes_inputs_of_half_precision(carried):
    _, backbone, name = carried
    x, vectors = inputs(backbone, 1).bfloat16(), directions(backbone, 2)
    found = engine.EXPLANATIONS[name](backbone, x, vectors)
    assert torch.equal(found, engine.EXPLANATIONS[name](backbone, x.float(), vectors))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("name", [each for each in EVERY if each != "occlusion"])  # 170 forwards; nothing of its own in bf16
def test_a_map_of_a_tower_in_half_precision_is_the_map(name, towers):
    whole, half = towers["scope-mini"][0], engine.load_backbone("scope-mini", dtype="bfloat16")
    x, vectors = torch.from_numpy(prepared(whole).pixels)[None], directions(whole, 2)
    expected = engine.EXPLANATIONS[name](whole, x, vectors)
    found = engine.EXPLANATIONS[name](half, x, vectors)
    assert found.dtype == torch.float32 and not found.requires_grad
    for one, other in zip(found.flatten(2)[0], expected.flatten(2)[0], strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.95  # bf16 keeps 8 bits


@pytest.mark.parametrize("insert", [True, False], ids=["insert", "overwrite"])
@pytest.mark.parametrize("values", ["zeros", "learned"])
def test_a_map_goes_along_with_a_visual_prompt(carried, insert, values):
    kind, backbone, name = carried
    if insert and kind == "tiny-pmc":
        pytest.skip("a convolutional tower cannot insert")
    tokens = np.random.default_rng(0).normal(size=(1, 3, backbone.visual_prompt_width)) * (values == "learned")
    prompt = engine.VisualPrompt(tokens.astype(np.float32), insert)
    x, vectors = inputs(backbone, 1), directions(backbone, 2)
    plain, under = (engine.EXPLANATIONS[name](backbone, x, vectors, each) for each in (None, prompt))
    assert under.shape == plain.shape and torch.isfinite(under).all()
    assert (under - plain).abs().max() > 1e-3 * plain.abs().max()
    if kind != "tiny-pmc" and name not in OWN_CELLS:
        hidden = under.flatten(2)[..., :3]
        assert (hidden == 0).all() != insert
    if values == "zeros" and kind != "tiny-pmc":  # computed as tokens, not in closed form
        literal = engine.VisualPrompt(tokens.astype(np.float32), insert, literal=True)
        found = engine.EXPLANATIONS[name](backbone, x, vectors, literal)
        torch.testing.assert_close(found, under, rtol=1e-3, atol=1e-4 * float(under.abs().max()) + 2e-7)


@pytest.mark.parametrize("kind", CARRIED)
@pytest.mark.parametrize("prompted", [False, True])
def test_what_maps_are_made_from_ends_in_the_features_of_the_image(kind, prompted, towers):
    backbone, x = towers[kind][0], inputs(towers[kind][0])
    tokens = np.random.default_rng(0).normal(size=(1, 3, backbone.visual_prompt_width)).astype(np.float32)
    prompt = engine.VisualPrompt(tokens, insert=False) if prompted else None
    features = backbone.encode_images(x, prompt)
    torch.testing.assert_close(backbone.feature_map(x, prompt).features.detach(), features, atol=1e-5, rtol=0)
    if kind != "tiny-pmc":
        torch.testing.assert_close(backbone.last_block(x, prompt).features.detach(), features, atol=1e-5, rtol=0)
        layers = backbone.attention_layers(x, 2, prompt)
        every = backbone.every_attention(x, prompt)
        kept = slice(None) if prompt is None else [0, *range(4, every[0].shape[-1])]
        for layer, weights in zip(layers, every[-2:], strict=True):
            torch.testing.assert_close(weights[:, :, kept], layer.weights.detach(), atol=1e-5, rtol=0)
        torch.testing.assert_close(backbone.last_attention(x, prompt), every[-1], atol=1e-5, rtol=0)
        if prompt is not None:
            assert (every[0][:, :, 1:4] == 0).all() and (every[0][..., 1:4] == 0).all()


def test_explain_hands_on_what_the_method_makes(mini, prompts):
    for name in EVERY[:-1]:
        (found,) = engine.explain(prepared(mini), mini, prompts, ["MRI"], name, "rest")
        assert (found.label, found.method, found.target) == ("MRI", name, "rest")
        x = torch.from_numpy(prepared(mini).pixels)[None]
        vector = torch.from_numpy(target_vectors(prompts, ["MRI"], "rest", np.empty(0)))
        assert np.array_equal(found.values, engine.EXPLANATIONS[name](mini, x, vector)[0, 0].numpy())


def test_gradients_of_many_targets_by_hand():
    leaf = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    weights = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.randn(11, 4, generator=torch.Generator().manual_seed(2))
    found = torch.stack(list(gradients((leaf**2) @ weights, targets, leaf)))
    expected = 2 * leaf.detach() * (targets @ weights.T)[:, None]  # d sum_i w_id x_i^2 / d x_i
    torch.testing.assert_close(found, expected)


# --- a second road: the library's own modules, its own forward, hooks and plain loops -----------------------------------


class Library:
    """open_clip's model of a folder, and what its last block is made of, whichever library wrote it."""

    def __init__(self, folder):
        text = folder / "text_config.json"
        self.model = build_model(folder, text if text.is_file() else None).eval()
        self.model.load_state_dict({k: v.float() for k, v in read_weights(weights_file(folder)).items()})
        visual = self.visual = self.model.visual
        if hasattr(visual, "trunk"):
            self.blocks, self.heads = list(visual.trunk.blocks), visual.trunk.blocks[0].attn.num_heads
        elif hasattr(visual, "transformer"):
            self.blocks, self.heads = list(visual.transformer.resblocks), visual.transformer.resblocks[0].attn.num_heads
        else:
            self.blocks, self.heads = [], 0

    def caught(self, modules, x, before=False):
        """What goes into (before) or comes out of each module in one forward of the image, and the image's feature."""
        found, hooks = {}, []
        for i, module in enumerate(modules):
            if before:
                hooks.append(module.register_forward_pre_hook(lambda m, a, i=i: found.__setitem__(i, a[0])))
            else:
                hooks.append(module.register_forward_hook(lambda m, a, out, i=i: found.__setitem__(i, out)))
        feature = self.model.encode_image(x, normalize=True)
        for hook in hooks:
            hook.remove()
        return [found[i] for i in range(len(modules))], feature

    def norm(self, block):
        return block.norm1 if hasattr(block, "norm1") else block.ln_1

    def qkv(self, block, tokens):
        """Each (N, W), of one image's tokens (1, N, W)."""
        normed, attn = self.norm(block)(tokens), block.attn
        joined = attn.qkv(normed) if hasattr(attn, "qkv") else F.linear(normed, attn.in_proj_weight, attn.in_proj_bias)
        return [each[0] for each in joined.chunk(3, dim=-1)]

    def out(self, block, values):
        return (block.attn.proj if hasattr(block.attn, "qkv") else block.attn.out_proj)(values)

    def weights(self, block, tokens):
        """(H, N, N), head by head."""
        q, k, _ = self.qkv(block, tokens)
        width = q.shape[1] // self.heads
        parts = [slice(h * width, (h + 1) * width) for h in range(self.heads)]
        return torch.stack([torch.softmax(q[:, p] @ k[:, p].T / width**0.5, dim=-1) for p in parts])

    def after(self, block, tokens, mixed):
        tokens = tokens + self.out(block, mixed)
        return tokens + block.mlp((block.norm2 if hasattr(block, "norm2") else block.ln_2)(tokens))

    def project(self, tokens):
        visual = self.visual
        if hasattr(visual, "trunk"):
            return visual.head(visual.trunk.norm(tokens))
        return visual.ln_post(tokens) @ visual.proj


@pytest.fixture(params=["scope-mini", "tiny-clip"])
def second(request, towers):
    """A backbone with a ViT, the same weights in the library, an image, two targets and the grid."""
    backbone, folder = towers[request.param]
    return backbone, Library(folder), inputs(backbone, 1, seed=3), directions(backbone, 2, seed=4), GRIDS[request.param]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", CARRIED)
def test_grad_cam_equals_hooks_on_the_librarys_own_forward(kind, towers):
    backbone, folder = towers[kind]
    library, x, targets = Library(folder), inputs(backbone, 1, seed=3), directions(backbone, 2, seed=4)
    convolutional = kind == "tiny-pmc"
    layer = library.visual.layer4 if convolutional else library.norm(library.blocks[-1])
    found = grad_cam(backbone, x, targets)
    for t, target in enumerate(targets):
        (shown,), feature = library.caught([layer], x)
        (slope,) = torch.autograd.grad(feature[0] @ target, shown)
        shown = shown.detach()
        if convolutional:
            shown, slope = (each[0].flatten(1).T for each in (shown, slope))  # (places, channels)
        else:
            shown, slope = shown[0, 1:], slope[0, 1:]
        values = [float(torch.dot(slope.mean(0), place)) for place in shown]
        close(found[0, t].flatten(), torch.tensor(values).clamp(min=0))


def test_grad_eclip_equals_a_plain_loop_over_heads_and_patches(second):
    backbone, library, x, targets, grid = second
    (tokens,), feature = library.caught(library.blocks[-1:], x, before=True)
    block, tokens = library.blocks[-1], tokens.detach()
    q, k, v = library.qkv(block, tokens)
    width = q.shape[1] // library.heads
    weights = library.weights(block, tokens)
    mixed = torch.cat([weights[h] @ v[:, h * width : (h + 1) * width] for h in range(library.heads)], dim=1)[None]
    again = F.normalize(library.project(library.after(block, tokens, mixed)[:, 0]), dim=-1)
    torch.testing.assert_close(again, feature, atol=1e-5, rtol=0)
    for t, target in enumerate(targets):
        (slope,) = torch.autograd.grad(again[0] @ target, mixed, retain_graph=True)
        q, k, v = q.detach(), k.detach(), v.detach()
        cosines = [float(F.cosine_similarity(q[0], key, dim=0)) for key in k[1:]]
        low, high = min(cosines), max(cosines)
        values = [
            max(0.0, float((slope[0, 0] * value).sum()) * (cosine - low) / (high - low))
            for value, cosine in zip(v[1:], cosines, strict=True)
        ]
        close(grad_eclip(backbone, x, targets)[0, t], torch.tensor(values).reshape(grid))


def test_raw_attention_and_rollout_equal_plain_products(second):
    backbone, library, x, targets, grid = second
    tokens, _ = library.caught(library.blocks, x, before=True)
    with torch.no_grad():
        layers = [library.weights(block, each).mean(0) for block, each in zip(library.blocks, tokens, strict=True)]
    close(attention(backbone, x, targets)[0, 1], layers[-1][0, 1:].reshape(grid))
    product = torch.eye(len(layers[0]))
    for weights in layers:
        product = (0.5 * weights + 0.5 * torch.eye(len(weights))) @ product
    close(rollout(backbone, x, targets)[0, 1], product[0, 1:].reshape(grid))


def test_patch_similarity_equals_a_plain_loop_over_patches(second):
    backbone, library, x, targets, grid = second
    (tokens,), _ = library.caught(library.blocks[-1:], x, before=True)
    with torch.no_grad():
        _, _, v = library.qkv(library.blocks[-1], tokens)
        vectors = [library.project(library.out(library.blocks[-1], value)) for value in v[1:]]
        values = [[float(F.cosine_similarity(each, target, dim=0)) for each in vectors] for target in targets]
    close(patch_similarity(backbone, x, targets)[0], torch.tensor(values).unflatten(1, grid))


def test_occlusion_equals_a_plain_loop_over_squares(towers):
    backbone = towers["tiny-clip"][0]
    x, targets = inputs(backbone, 1), directions(backbone, 2)
    edges = [0, 5, 9, 14, 18, 23, 27, 32, 37, 41, 46, 50, 55, 59, 64]  # 64 pixels in 14 cells
    whole = backbone.encode_images(x)[0] @ targets.T
    drops = {}
    for i in range(13):
        for j in range(13):
            covered = x.clone()
            covered[..., edges[i] : edges[i + 2], edges[j] : edges[j + 2]] = 0
            drops[i, j] = whole - backbone.encode_images(covered)[0] @ targets.T
    found = occlusion(backbone, x, targets)
    for i, j in ((0, 0), (0, 6), (5, 9), (13, 13), (7, 0)):
        over = [d for (a, b), d in drops.items() if a in (i - 1, i) and b in (j - 1, j)]
        torch.testing.assert_close(found[0, :, i, j], torch.stack(over).mean(0), atol=1e-5, rtol=0)


def test_integrated_gradients_equal_a_plain_loop_over_pixels_and_steps(towers):
    """By differences of the score in float64 on the library's own forward, at the way's own points: no gradient of ours."""
    backbone, folder = towers["tiny-clip"]
    visual = Library(folder).visual.double()
    x, targets = inputs(backbone, 1, seed=3), directions(backbone, 2, seed=4)
    start, found = blurred(x, 64 / 14), integrated_gradients(backbone, x, targets)
    row = [pixel * 14 // 64 for pixel in range(64)]

    def score(pixels):
        return F.normalize(visual(pixels), dim=-1)[0] @ targets.double().T

    for i, j in ((0, 0), (6, 9), (13, 13)):
        inside = torch.tensor([[(row[y], row[x]) == (i, j) for x in range(64)] for y in range(64)])
        change, expected = torch.where(inside, (x - start).double(), 0.0), torch.zeros(2, dtype=torch.float64)
        for k in range(STEPS):
            at = (start + (k + 0.5) / STEPS * (x - start)).double()
            expected += (score(at + 1e-4 * change) - score(at - 1e-4 * change)) / 2e-4 / STEPS
        torch.testing.assert_close(found[0, :, i, j].double(), expected, rtol=1e-3, atol=1e-5)


class KnownScore:
    """Its feature is the sum of the pixels' squares in the upper half, and in the lower half."""

    def differentiable_features(self, x, visual_prompt=None):
        return (x**2).unflatten(2, (2, -1)).sum(dim=(1, 3, 4))


def test_integrated_gradients_add_up_to_what_the_score_gains():
    """Of a square the midpoint rule is exact."""
    x = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    start = blurred(x, 2)
    found = integrated_gradients(KnownScore(), x, torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    gained = (x**2 - start**2).sum(dim=1).unflatten(1, (14, 2)).unflatten(3, (14, 2)).sum(dim=(2, 4))  # (B, 14, 14)
    torch.testing.assert_close(found[:, 0, :7], gained[:, :7], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, 1, 7:], -gained[:, 7:], rtol=1e-4, atol=1e-4)
    assert not found[:, 0, 7:].any() and not found[:, 1, :7].any()


def test_integrated_gradients_of_an_even_image_are_flat():
    found = integrated_gradients(KnownScore(), torch.full((1, 3, 28, 28), 0.7), torch.eye(2))
    assert found.abs().max() < 1e-5


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
    found = engine.explain(prepared(mini), mini, prompts, [prompts.labels[3]], "legrad", "class")[0].values
    torch.testing.assert_close(torch.from_numpy(found), total / LAYERS, rtol=1e-3, atol=1e-8)


# --- known answers ------------------------------------------------------------------------------------------------------


class KnownFeatures:
    """A feature map of 2 x 2 places and 2 channels; the feature is 4 times the value of place (0, 1), channel by channel."""

    def __init__(self, values: torch.Tensor):
        self.values = values  # (2, 2, 2)

    def feature_map(self, x, visual_prompt=None):
        values = self.values[None].clone().requires_grad_(True)
        return FeatureMap(values, 4 * values[:, 0, 1])


def test_grad_cam_weighs_each_channel_by_its_mean_gradient():
    values = torch.tensor([[[1.0, -1.0], [5.0, 2.0]], [[-2.0, 0.0], [0.5, 3.0]]])
    maps = grad_cam(KnownFeatures(values), torch.zeros(1, 3, 4, 4), torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    # mean over 4 places of a gradient of 4 at one of them: weight 1 for channel 0, and -1 for channel 1
    torch.testing.assert_close(maps[0], torch.tensor([[[1.0, 5.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.0]]]))


class KnownBlock:
    """One head; the feature is the attention's output at CLS, so that the gradient is the target."""

    grid, prefix_tokens = (2, 2), 1

    def __init__(self, keys: list, values: list, overwritten: int = 0):
        self.keys, self.values = torch.tensor(keys)[None, None], torch.tensor(values)[None, None]
        self.overwritten = overwritten

    def last_block(self, x, visual_prompt=None):
        mixed = torch.zeros(1, 1, 1, 2, requires_grad=True)
        return LastBlock(torch.tensor([[[[1.0, 0.0]]]]), self.keys, self.values, mixed, 1 * mixed[:, 0, 0], self.overwritten)


def test_grad_eclip_marks_the_planted_patch_and_not_the_one_that_speaks_against_and_points_away():
    """Cosines 1, -1, 0 and 1 become weights 1, 0, 1/2 and 1. Without that scaling the second patch, which lowers the score
    (-7) and whose key points away (-1), would be the most marked of all: (-7) * (-1)."""
    keys = [[9.0, 9.0], [1.0, 0.0], [-2.0, 0.0], [0.0, 3.0], [5.0, 0.0]]  # CLS, then four patches
    values = [[9.0, 9.0], [2.0, 0.0], [-7.0, 0.0], [4.0, 0.0], [-3.0, 1.0]]
    maps = grad_eclip(KnownBlock(keys, values), torch.zeros(1, 3, 4, 4), torch.eye(2))
    torch.testing.assert_close(maps[0], torch.tensor([[[2.0, 0.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]))


def test_grad_eclip_leaves_overwritten_patches_out_of_the_scaling_and_at_zero():
    keys, values = [[9.0, 9.0], [1.0, 0.0], [1.0, 1.0]], [[9.0, 9.0], [2.0, 0.0], [4.0, 0.0]]
    maps = grad_eclip(KnownBlock(keys, values, overwritten=2), torch.zeros(1, 3, 4, 4), torch.eye(2)[:1])
    torch.testing.assert_close(maps[0, 0], torch.tensor([[0.0, 0.0], [2.0, 0.0]]))  # the lower of two cosines weighs 0


def test_grad_eclip_of_keys_that_are_all_alike_is_the_values_alone():
    keys, values = [[1.0, 0.0]] * 5, [[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]
    maps = grad_eclip(KnownBlock(keys, values), torch.zeros(1, 3, 4, 4), torch.eye(2)[:1])
    torch.testing.assert_close(maps[0, 0], torch.tensor([[1.0, 0.0], [3.0, 0.0]]))


class KnownLayers:
    """CLS and two patches."""

    grid, prefix_tokens, pooled_tokens = (1, 2), 1, slice(0, 1)

    def __init__(self, *layers: list):
        self.layers = [torch.tensor(layer) for layer in layers]  # each (H, 3, 3)

    def every_attention(self, x, visual_prompt=None):
        return [layer[None] for layer in self.layers]

    def last_attention(self, x, visual_prompt=None):
        return self.layers[-1][None]


def test_rollout_by_hand_in_the_order_of_the_blocks():
    stay = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    first, last = [[[0.5, 0.5, 0.0], *stay]], [[[0.0, 0.5, 0.5], *stay]]
    # row of CLS: (.5, .25, .25) of the last, times the first's rows (.75, .25, 0), (0, 1, 0), (0, 0, 1)
    maps = rollout(KnownLayers(first, last), torch.zeros(1, 3, 4, 4), torch.eye(2))
    torch.testing.assert_close(maps, torch.tensor([0.375, 0.25]).expand(1, 2, 1, 2))


def test_rollout_leaves_out_what_goes_to_a_visual_prompt():
    """Rows of 0.4 and 0.6 to the prompt: (A + I) / 2 is (.6, .1, 0), scaled to 1."""
    maps = rollout(KnownLayers([[[0.2, 0.2, 0.0], [0.0] * 3, [0.0] * 3]]), torch.zeros(1, 3, 4, 4), torch.eye(2)[:1])
    torch.testing.assert_close(maps[0, 0], torch.tensor([[1 / 7, 0.0]]))


def test_raw_attention_is_the_mean_over_heads_of_the_pooled_tokens_row():
    layer = [[[0.1, 0.9, 0.0], [9.0] * 3, [9.0] * 3], [[0.4, 0.1, 0.5], [9.0] * 3, [9.0] * 3]]
    maps = attention(KnownLayers(layer), torch.zeros(1, 3, 4, 4), torch.eye(2))
    torch.testing.assert_close(maps, torch.tensor([0.5, 0.25]).expand(1, 2, 1, 2))

    class Pooled(KnownLayers):  # the mean of patches is the feature
        pooled_tokens = slice(1, None)

    layer = [[[9.0] * 3, [0.0, 0.2, 0.8], [0.0, 0.6, 0.4]]]
    torch.testing.assert_close(
        attention(Pooled(layer), torch.zeros(1, 3, 4, 4), torch.eye(1))[0, 0, 0], torch.tensor([0.4, 0.6])
    )


def test_patch_similarity_points_at_the_patch_whose_own_vector_is_asked_for(towers):
    for kind in ("scope-mini", "tiny-clip"):
        backbone, x = towers[kind][0], inputs(towers[kind][0], 1)
        found = patch_similarity(backbone, x, backbone.value_patches(x)[0, 2, 1][None])[0, 0]
        assert found.argmax() == 2 * GRIDS[kind][1] + 1 and found[2, 1] == pytest.approx(1, abs=1e-5)
        assert found.flatten().topk(2).values[1] < 0.999


class OneCellCounts:
    """The feature is the mean of one cell of the input's first channel, and its negative."""

    def encode_images(self, x, visual_prompt=None):
        cell = x[:, 0, 4:6, 8:10].mean(dim=(1, 2))
        return torch.stack([cell, -cell], dim=1)


def test_occlusion_finds_the_one_cell_that_counts():
    """28 pixels: cells of 2. Of the 4 squares over a neighbour of cell (2, 4), 2 cover it, too; over a diagonal one, 1."""
    maps = occlusion(OneCellCounts(), torch.full((1, 3, 28, 28), 8.0), torch.eye(2))
    expected = torch.zeros(14, 14)
    expected[1:4, 3:6] = 8 * torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])
    torch.testing.assert_close(maps[0], torch.stack([expected, -expected]))


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
