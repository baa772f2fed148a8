"""Every backbone through one contract, against the library's own forward. Run: python -m pytest tests/test_backbones.py

No model hub is reached: each architecture is proven on random weights made here, by the code that loads real ones. The
contract runs on scope-mini (BiomedCLIP's shape), a small CLIP and a small PMC-CLIP; each architecture is also compared
with the library at full size.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import safetensors.numpy
import torch
import torch.nn.functional as F
import transformers
from conftest import RandomBiomedCLIP
from open_clip.model import build_model_from_openai_state_dict
from open_clip.modified_resnet import ModifiedResNet
from safetensors.torch import load_file, save_file
from torch import Tensor

import engine
from engine.backbones import _hub, _random, biomedclip, clip_vit, pmc_clip, pmc_clip_l14, pubmedclip, scope_mini
from engine.backbones._openclip import CLIP_PREPROCESS
from engine.backbones.base import Differentiable, Embedded, PatchLevel, PromptTunable, VisualPrompted
from engine.errors import BackboneError
from engine.types import VisualPrompt

TEXTS = [
    "a photo of a glioma tumor.",
    "MRI of the brain",
    "Chest radiograph with patchy, peripheral opacities in both lungs.",
]
TOKENIZER = scope_mini.FOLDER / "tokenizer.json"
KINDS = ["scope-mini", "tiny-clip", "tiny-pmc"]
VITS = ["scope-mini", "tiny-clip"]


@dataclass(frozen=True)
class Case:
    """A backbone, the folder that it was read from, and the same folder through open_clip's own loader."""

    tower: Any
    folder: Path
    library: Any
    is_bert: bool

    def images(self, count: int = 2, seed: int = 0) -> Tensor:
        size = self.tower.preprocess.size
        return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))

    def embedded(self, texts: list[str] = TEXTS) -> Embedded:
        return self.tower.embed_tokens(self.tower.tokenize(texts))


def library(folder: Path, place: Path) -> Any:
    """open_clip's own loader; a BERT's configuration is said by its path, so that nothing asks the hub."""
    for file in folder.iterdir():
        (place / file.name).symlink_to(file)
    config = json.loads((folder / "open_clip_config.json").read_text())
    if "hf_model_name" in config["model_cfg"]["text_cfg"]:
        text = folder / "text_config.json"
        config["model_cfg"]["text_cfg"]["hf_model_name"] = str(text if text.is_file() else biomedclip.TEXT_CONFIG)
        (place / "open_clip_config.json").unlink()
        (place / "open_clip_config.json").write_text(json.dumps(config))
    return open_clip.create_model(f"local-dir:{place}", device="cpu").eval()


@pytest.fixture(scope="session")
def cases(random_biomedclip: RandomBiomedCLIP, tiny, tmp_path_factory) -> Any:
    known: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in known:
            if name == "biomedclip":
                tower, folder = random_biomedclip.backbone, random_biomedclip.folder
            elif name == "scope-mini":
                tower, folder = engine.load_backbone(name), scope_mini.FOLDER
            else:
                tower, folder = engine.load_backbone(f"local-dir:{tiny[name]}"), tiny[name]
            known[name] = Case(tower, folder, library(folder, tmp_path_factory.mktemp("library")), name != "tiny-clip")
        return known[name]

    return case


@pytest.fixture(params=KINDS)
def case(request, cases) -> Case:
    return cases(request.param)


@pytest.fixture(params=[*KINDS, "biomedclip"])
def any_case(request, cases) -> Case:
    """Also BiomedCLIP's full size and 256 tokens: for the tests that say what goes in and what comes out."""
    return cases(request.param)


@pytest.fixture(params=VITS)
def vit(request, cases) -> Case:
    return cases(request.param)


# --- the contract -----------------------------------------------------------------------------------------------------


def test_a_kind_offers_what_its_towers_can(case):
    assert isinstance(case.tower, PromptTunable) and isinstance(case.tower, VisualPrompted)
    convolutional = isinstance(case.library.visual, ModifiedResNet)
    assert isinstance(case.tower, PatchLevel) == isinstance(case.tower, Differentiable) == (not convolutional)
    assert case.tower.inserts_visual_prompts == (not convolutional)
    assert case.tower.visual_prompt_width == (1 if convolutional else case.tower._image.embed(case.images(1)).shape[-1])


def test_image_features_equal_the_librarys_own(any_case):
    found = any_case.tower.encode_images(any_case.images())
    expected = any_case.library.encode_image(any_case.images(), normalize=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2))


def test_tokens_equal_the_librarys_own(any_case):
    if any_case.is_bert:
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(any_case.folder / "tokenizer.json"), pad_token="[PAD]"
        )
        expected = fast(TEXTS, padding="longest", return_tensors="pt").input_ids
    else:
        expected = open_clip.get_tokenizer("ViT-B-16")(TEXTS)
        assert expected.shape[1] == any_case.tower.context_length
        expected = expected[:, : int((expected != 0).sum(1).max())]
    assert torch.equal(any_case.tower.tokenize(TEXTS), expected)


def test_text_features_equal_the_librarys_own_at_full_padding(any_case):
    """Trimmed to the longest text, against 77 or 256 tokens: BERT masks the padding, CLIP's attention is causal."""
    padded = full_length(any_case.tower, any_case.tower.tokenize(TEXTS))
    with torch.no_grad():
        expected = any_case.library.encode_text(padded, normalize=True)
    # trimming changes the order of summation in the attention's softmax, nothing else
    torch.testing.assert_close(any_case.tower.encode_texts(TEXTS), expected, atol=2e-5, rtol=0)


def full_length(tower: Any, ids: Tensor) -> Tensor:
    return F.pad(ids, (0, tower.context_length - ids.shape[1]))  # padding is 0 in all of them


def test_embedded_tokens_give_exactly_the_same_features(case):
    assert torch.equal(case.tower.encode_embedded(case.embedded()), case.tower.encode_texts(TEXTS))


def test_learned_vectors_in_place_of_words_move_only_their_own_text(case):
    text = case.embedded()
    vectors = text.vectors.clone()
    vectors[0, 1:3] = vectors[0, [3, 4]]  # a constant would vanish in the LayerNorm
    moved, before = case.tower.encode_embedded(Embedded(vectors, text.ids)), case.tower.encode_embedded(text)
    assert (moved[0] - before[0]).abs().max() > 1e-4
    torch.testing.assert_close(moved[1:], before[1:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("padded", [False, True], ids=["trimmed", "full"])
def test_vectors_of_other_words_equal_the_sentence_of_those_words(any_case, padded):
    """Rows 1 to n are the words after CLS or SOT; the ids still say where the text ends (biomedcoop.md 1.0)."""
    template, words = (
        ["a photo of a kidney.", "a photo of a tumor."],
        ["the image in this kidney.", "the image in this tumor."],
    )
    ids, other = any_case.tower.tokenize(template), any_case.embedded(words)
    if padded:
        ids = full_length(any_case.tower, ids)
    text = any_case.tower.embed_tokens(ids)
    count = 4  # one token a word, in both vocabularies
    assert torch.equal(text.ids[:, 1 + count : other.ids.shape[1]], other.ids[:, 1 + count :])
    vectors = torch.cat([text.vectors[:, :1], other.vectors[:, 1 : 1 + count], text.vectors[:, 1 + count :]], dim=1)
    found = any_case.tower.encode_embedded(Embedded(vectors, text.ids))
    torch.testing.assert_close(found, any_case.tower.encode_texts(words), atol=2e-5 if padded else 0, rtol=0)


def test_gradients_reach_vectors_and_deep_prompts_and_no_weight(case):
    text = case.embedded(TEXTS[:2])
    vectors = text.vectors.clone().requires_grad_(True)
    deep = torch.randn(1, 2, 3, case.tower.token_width).requires_grad_(True)
    case.tower.encode_embedded(Embedded(vectors, text.ids), deep=deep)[0, 0].backward()
    assert vectors.grad is not None and vectors.grad[0].abs().sum() > 0 and vectors.grad[1].abs().sum() == 0
    assert deep.grad is not None and (deep.grad[0, 0].abs().sum(-1) > 0).all() and deep.grad[0, 1].abs().sum() == 0
    assert not any(p.requires_grad or p.grad is not None for p in case.tower._model.parameters())


def deep_by_hand(case: Case, text: Embedded, deep: Tensor) -> Tensor:
    """The library's blocks one after another, rows 1 to n overwritten before blocks 1 to K."""
    model, (count, length) = case.library, text.ids.shape
    if case.is_bert:
        bert = model.text.transformer
        tokens = bert.embeddings(inputs_embeds=text.vectors)
        mask = torch.where(text.ids != 0, 0.0, torch.finfo(torch.float32).min)[:, None, None].expand(-1, 1, length, -1)
        blocks = [lambda x, b=b: b(x, mask) for b in bert.encoder.layer]
    else:
        tokens = text.vectors + model.positional_embedding[:length]
        mask = torch.full((length, length), float("-inf")).triu(1)
        blocks = [lambda x, b=b: b(x, attn_mask=mask) for b in model.transformer.resblocks]
    for k, block in enumerate(blocks):
        if 1 <= k <= len(deep):
            tokens = tokens.clone()
            for n in range(count):
                tokens[n, 1 : 1 + deep.shape[2]] = deep[k - 1, n if deep.shape[1] > 1 else 0]
        tokens = block(tokens)
    if not case.is_bert:
        ends = (text.ids == 49407).int().argmax(1)
        return F.normalize(model.ln_final(tokens)[range(count), ends] @ model.text_projection, dim=-1)
    pooled = tokens[:, 0] if bert.pooler is None else bert.pooler(tokens)
    return F.normalize(model.text.proj(pooled), dim=-1)


@pytest.mark.parametrize("own", [True, False], ids=["per text", "shared"])
def test_deep_prompts_equal_an_explicit_loop_over_the_blocks(case, own):
    text = case.embedded()
    depth, n = case.tower.text_layers - 1, 3
    deep = torch.randn(
        depth, len(TEXTS) if own else 1, n, case.tower.token_width, generator=torch.Generator().manual_seed(1)
    )
    for k in (1, depth):
        with torch.no_grad():
            expected = deep_by_hand(case, text, deep[:k])
        found = case.tower.encode_embedded(text, deep=deep[:k])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert (found - case.tower.encode_embedded(text)).abs().max() > 1e-3
    assert torch.equal(case.tower.encode_embedded(text), case.tower.encode_texts(TEXTS))  # nothing stays behind


def test_more_deep_prompts_than_blocks_after_the_first_are_refused(case):
    deep = torch.zeros(case.tower.text_layers, 1, 2, case.tower.token_width)
    with pytest.raises(BackboneError, match=rf"{len(deep)} deep prompts; .* at most {len(deep) - 1}"):
        case.tower.encode_embedded(case.embedded(), deep=deep)


def test_dropout_acts_in_bert_only_where_asked_and_never_in_clip(case):
    text = case.embedded(TEXTS[:1] * 16)
    still = case.tower.encode_embedded(text)
    shaken = case.tower.encode_embedded(text, dropout=True)
    assert not any(module.training for module in case.tower._model.modules())
    if case.is_bert:
        assert ((shaken - still).abs().amax(1) > 1e-3).all()
        assert len(shaken.unique(dim=0)) == 16  # each text draws its own
        assert (shaken.mean(0) @ still[0]) > 0.5  # around the still one
    else:
        assert torch.equal(shaken, still)
    assert torch.equal(case.tower.encode_embedded(text), still)


def test_frozen_is_frozen_batch_norm_included(case):
    """Everything a backbone does, and no stored number moves (BiomedCoOp's PMC-CLIP lets its BatchNorm drift)."""
    tower, text = case.tower, case.embedded()
    before = {name: tensor.clone() for name, tensor in tower._model.state_dict().items()}
    vectors = text.vectors.clone().requires_grad_(True)
    deep = torch.randn(1, 1, 2, tower.token_width)
    tower.encode_embedded(Embedded(vectors, text.ids), dropout=True, deep=deep).sum().backward()
    tower.encode_images(case.images())
    tower.encode_images(case.images(1), zeros(tower, insert=False))
    after = tower._model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    if isinstance(case.library.visual, ModifiedResNet):
        assert any(name.endswith("running_mean") for name in before)


def test_logit_scale_is_exponentiated(any_case):
    stored = load_file(any_case.folder / "open_clip_model.safetensors")["logit_scale"].float()
    assert any_case.tower.logit_scale == pytest.approx(float(np.exp(stored.item())), rel=1e-3)  # fp16 in scope-mini


def test_weights_hash_is_over_names_types_shapes_bytes_tokenizer_and_preprocessing(any_case):
    digest = hashlib.sha256()
    arrays = safetensors.numpy.load_file(any_case.folder / "open_clip_model.safetensors")
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode() + array.tobytes())
    if any_case.is_bert:
        digest.update((any_case.folder / "tokenizer.json").read_bytes())
    else:  # CLIP's vocabulary: a header, then a pair a line
        merges = list(open_clip.tokenizer.SimpleTokenizer().bpe_ranks)
        assert any_case.tower._text.vocabulary.decode().split("\n")[1 : 1 + len(merges)] == [" ".join(m) for m in merges]
        digest.update(any_case.tower._text.vocabulary)
    config = json.loads((any_case.folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    digest.update(json.dumps(config, sort_keys=True).encode())
    assert any_case.tower.weights_hash == digest.hexdigest()


def test_scope_minis_hash_is_the_one_that_its_prompt_sets_name(cases):
    assert cases("scope-mini").tower.weights_hash.startswith("5dc05f86b6b1c113")


def test_a_text_beyond_the_context_is_refused_with_its_length(case):
    with pytest.raises(BackboneError, match=r"has \d+ tokens; .* reads at most \d+"):
        case.tower.encode_texts(["kidney " * 300])


# --- patches and attention --------------------------------------------------------------------------------------------


def blocks_of(case: Case) -> tuple[Tensor, list[Any], Any]:
    """The library's tokens before the first block, its blocks, and what carries tokens (..., W) to the joint space."""
    visual, x = case.library.visual, case.images(2)
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(x)))
        return tokens, list(trunk.blocks), lambda t: visual.head(trunk.norm(t))
    patches = visual.conv1(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.expand(len(x), 1, -1), patches], 1) + visual.positional_embedding
    return visual.ln_pre(tokens), list(visual.transformer.resblocks), lambda t: visual.ln_post(t) @ visual.proj


def test_patches_lie_in_the_joint_space(vit):
    with torch.no_grad():
        tokens, blocks, project = blocks_of(vit)
        for block in blocks:
            tokens = block(tokens)
        expected = F.normalize(project(tokens[:, 1:]), dim=-1).unflatten(1, vit.tower.grid)  # without CLS
    torch.testing.assert_close(vit.tower.encode_patches(vit.images(2)), expected, atol=1e-5, rtol=0)


def test_attention_in_sight_computes_what_fused_attention_computes(vit):
    layers = vit.tower.attention_layers(vit.images(2), 2)
    with torch.no_grad():
        tokens, blocks, project = blocks_of(vit)
        expected = []
        for block in blocks:
            tokens = block(tokens)
            expected.append(F.normalize(project(tokens.mean(1)), dim=-1))
    for layer, pooled in zip(layers, expected[-2:], strict=True):
        torch.testing.assert_close(layer.pooled.detach(), pooled, atol=1e-5, rtol=0)
        torch.testing.assert_close(layer.weights.detach().sum(-1), torch.ones(layer.weights.shape[:-1]))
        assert torch.autograd.grad(layer.pooled[0, 0], layer.weights)[0][0].abs().sum() > 0


# --- visual prompts ---------------------------------------------------------------------------------------------------


def zeros(tower: Any, insert: bool, literal: bool = False, count: int = 4) -> VisualPrompt:
    return VisualPrompt(np.zeros((1, count, tower.visual_prompt_width), np.float32), insert, literal)


@pytest.mark.parametrize("insert", [True, False], ids=["insert", "overwrite"])
def test_zero_tokens_in_closed_form_equal_zero_tokens_computed(vit, insert):
    closed = vit.tower.encode_images(vit.images(), zeros(vit.tower, insert))
    literal = vit.tower.encode_images(vit.images(), zeros(vit.tower, insert, literal=True))
    torch.testing.assert_close(closed, literal, atol=1e-5, rtol=0)
    assert (closed - vit.tower.encode_images(vit.images())).abs().max() > 1e-4


@pytest.mark.parametrize("insert", [True, False], ids=["insert", "overwrite"])
@pytest.mark.parametrize("kind", ["zeros", "shared", "deep"])
def test_a_visual_prompt_equals_overwriting_tokens_before_every_block(vit, insert, kind):
    """Biomed-DPT's order: after the position embedding (and CLIP's ln_pre), then again before each block."""
    with torch.no_grad():
        tokens, blocks, project = blocks_of(vit)
        count, width = 4, tokens.shape[2]
        given = np.random.default_rng(0).normal(size=(1 if kind == "shared" else len(blocks), count, width))
        given = (given * (kind != "zeros")).astype(np.float32)
        given.flags.writeable = False
        if insert:
            tokens = torch.cat([tokens[:, :1], torch.zeros(2, count, width), tokens[:, 1:]], 1)
        for k, block in enumerate(blocks):
            tokens = tokens.clone()
            tokens[:, 1 : 1 + count] = torch.tensor(given[0 if kind == "shared" else k])
            tokens = block(tokens)
        expected = F.normalize(project(tokens[:, 0]), dim=-1)
    found = vit.tower.encode_images(vit.images(), VisualPrompt(given, insert))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_resnets_visual_prompt_sets_channels_after_the_stem_and_each_stage(cases):
    case = cases("tiny-pmc")
    given = np.random.default_rng(0).normal(size=(5, 3, 1)).astype(np.float32)
    visual, x = case.library.visual, case.images()
    with torch.no_grad():
        for k, stage in enumerate([visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4]):
            x = stage(x)
            for m in range(3):
                x[:, 1 + m] = float(given[k, m, 0])
        expected = F.normalize(visual.attnpool(x), dim=-1)
    torch.testing.assert_close(case.tower.encode_images(case.images(), VisualPrompt(given, insert=False)), expected)
    assert (expected - case.tower.encode_images(case.images())).abs().max() > 1e-3
    with pytest.raises(BackboneError, match="cannot insert a visual prompt"):
        case.tower.encode_images(case.images(1), VisualPrompt(given))


@pytest.mark.parametrize("change", [(6, 0, 0), (0, 0, 1), (0, 300, 0)], ids=["layers", "width", "tokens"])
def test_a_visual_prompt_of_another_backbone_is_refused_with_its_shape(case, change):
    shape = tuple(np.add((1, 4, case.tower.visual_prompt_width), change))
    with pytest.raises(
        BackboneError, match=rf"has the shape \({shape[0]}, {shape[1]}, {shape[2]}\); this image tower takes"
    ):
        case.tower.encode_images(case.images(1), VisualPrompt(np.zeros(shape, np.float32), insert=False))


# --- loading: never silently something else ---------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(scope_mini.FOLDER, tmp_path / "mini"))


@pytest.fixture
def clip(tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny["tiny-clip"], tmp_path / "clip"))


def rewrite(folder: Path, change) -> None:
    weights = load_file(folder / "open_clip_model.safetensors")
    change(weights)
    save_file(weights, folder / "open_clip_model.safetensors")


def reconfigure(folder: Path, change) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text())
    change(config["model_cfg"])
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def load(folder: Path):
    return engine.load_backbone(f"local-dir:{folder}")


def test_a_missing_tensor_is_named(copy):
    rewrite(copy, lambda w: w.pop("visual.trunk.cls_token"))
    with pytest.raises(BackboneError, match=r"lack visual\.trunk\.cls_token"):
        load(copy)


def test_an_unknown_tensor_is_named(copy):
    rewrite(copy, lambda w: w.update(surprise=torch.zeros(1)))
    with pytest.raises(BackboneError, match="have unknown surprise"):
        load(copy)


def test_a_tensor_of_a_wrong_shape_is_named(copy):
    rewrite(copy, lambda w: w.update({"visual.trunk.cls_token": torch.zeros(1, 1, 7)}))
    with pytest.raises(BackboneError, match=r"wrong shape for visual\.trunk\.cls_token"):
        load(copy)


def test_position_ids_of_old_checkpoints_are_accepted(copy):
    rewrite(copy, lambda w: w.update({"text.transformer.embeddings.position_ids": torch.arange(77)[None]}))
    assert load(copy).dim == 256


def test_one_changed_weight_changes_the_hash(copy):
    before = load(copy).weights_hash
    rewrite(copy, lambda w: w["logit_scale"].add_(1))
    assert load(copy).weights_hash != before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("open_clip_config.json", "has no open_clip_config.json"),
        ("open_clip_model.safetensors", "holds no weights"),
        ("tokenizer.json", "has no tokenizer.json"),
        ("text_config.json", "configuration 'text_config.json' is not on this machine"),
    ],
)
def test_a_missing_file_is_said(copy, name, sentence):
    (copy / name).unlink()
    with pytest.raises(BackboneError, match=sentence):
        load(copy)


def test_damaged_weights_are_said(copy):
    (copy / "open_clip_model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(BackboneError, match="cannot be read"):
        load(copy)


def test_a_pickle_that_would_run_code_is_refused(copy, tmp_path):
    (copy / "open_clip_model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"visual.trunk.cls_token": Evil()}, copy / "open_clip_pytorch_model.bin")
    with pytest.raises(BackboneError, match="cannot be read"):
        load(copy)
    assert not (tmp_path / "ran").exists()


def test_a_training_checkpoint_gives_its_state(clip):
    """Also one in torch's old format, trained in parallel."""
    before = load(clip).weights_hash
    state = load_file(clip / "open_clip_model.safetensors")
    (clip / "open_clip_model.safetensors").unlink()
    checkpoint = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}
    torch.save(checkpoint, clip / "open_clip_pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert load(clip).weights_hash == before
    torch.save([1, 2], clip / "open_clip_pytorch_model.bin")
    with pytest.raises(BackboneError, match="holds no weights by name"):
        load(clip)


def test_the_activation_is_the_configurations(clip):
    """The same weights with GELU and QuickGELU: both load, and differ."""
    quick = load(clip)
    reconfigure(clip, lambda c: c.pop("quick_gelu"))
    plain, x = load(clip), torch.randn(1, 3, 64, 64)
    assert (quick.encode_images(x) - plain.encode_images(x)).abs().max() > 1e-4
    assert (quick.encode_texts(TEXTS) - plain.encode_texts(TEXTS)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["vision_cfg"].update(attentional_pool=True), r"image tower \(VisionTransformer\) is of a kind"),
        (lambda c: c["vision_cfg"].update(qk_norm=True), r"image tower \(VisionTransformer\) is of a kind"),
        (lambda c: c["vision_cfg"].update(timm_model_name="resnet18"), r"image tower \(TimmModel\) is of a kind"),
        (lambda c: c["text_cfg"].update(no_causal_mask=True), r"text tower \(CLIP\) is of a kind"),
        (lambda c: c["text_cfg"].update(pool_type="last"), r"text tower \(CLIP\) is of a kind"),
        (lambda c: c["text_cfg"].update(hf_tokenizer_name="bert"), r"text tower \(CLIP\) is of a kind"),
        (lambda c: c.update(surprise=1), "cannot build the architecture: .*surprise"),
    ],
)
def test_a_tower_that_is_not_read_is_said(clip, change, sentence):
    reconfigure(clip, change)
    with pytest.raises(BackboneError, match=sentence):
        load(clip)


def test_unknown_names_devices_and_precisions_are_said():
    with pytest.raises(BackboneError, match="no backbone called 'resnet'"):
        engine.load_backbone("resnet")
    with pytest.raises(BackboneError, match="no precision 'int3'"):
        engine.load_backbone("scope-mini", dtype="int3")
    with pytest.raises(BackboneError, match="cannot compute on 'cuda:99'"):
        engine.load_backbone("scope-mini", device="cuda:99")


@pytest.mark.parametrize("name", ["scope-mini", "tiny-clip", "tiny-pmc"])
def test_bfloat16_is_used_where_asked_and_close(cases, name):
    full = cases(name)
    half = engine.load_backbone(f"local-dir:{full.folder}", dtype="bfloat16")
    assert next(half._model.parameters()).dtype == torch.bfloat16 and half.dtype == "bfloat16"
    cosine = (half.encode_images(full.images()) * full.tower.encode_images(full.images())).sum(-1)
    assert cosine.min() > 0.99  # 8 bits of mantissa through 12 blocks
    assert (half.encode_texts(TEXTS) * full.tower.encode_texts(TEXTS)).sum(-1).min() > 0.99
    prompted = half.encode_images(full.images(), zeros(half, insert=False))
    assert prompted.dtype == torch.float32
    deep = torch.zeros(1, 1, 2, half.token_width)
    assert half.encode_embedded(half.embed_tokens(half.tokenize(TEXTS)), deep=deep).dtype == torch.float32


# --- where weights come from: folder, offline cache, hub --------------------------------------------------------------

REPOSITORIES = {
    "biomedclip": [biomedclip.MODEL.repository],
    "clip-vit-b16": [clip_vit.B16.repository],
    "clip-vit-b32": [clip_vit.B32.repository],
    "pubmedclip": [pubmedclip.REPOSITORY],
    "pmc-clip": [pmc_clip.WEIGHTS, pmc_clip.BERT],
    "pmc-clip-l14": [pmc_clip_l14.MODEL.repository],
}


@pytest.fixture(params=REPOSITORIES)
def hub_id(request) -> str:
    return request.param


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """The hub's cache, empty, and no folder named."""
    for name in REPOSITORIES:
        monkeypatch.delenv(_hub.variable(name), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield tmp_path / "hub"
    shutil.rmtree(tmp_path, ignore_errors=True)  # pytest keeps three runs' folders; these are large


def into_cache(cache: Path, repository: _hub.Repository, folder: Path) -> None:
    """The hub's own cache layout, with `folder`'s files; without a pinned revision as the newest of main."""
    place = cache / f"{repository.kind}s--{repository.name.replace('/', '--')}"
    revision = repository.revision or "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    snapshot = place / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for name in repository.files:
        (snapshot / name).symlink_to(folder / name)


def test_every_entry_but_the_embedded_one_comes_from_the_hub():
    assert ["scope-mini", *REPOSITORIES] == list(engine.BACKBONES)


def test_a_backbone_that_is_nowhere_says_what_to_do(hub_id, empty_cache):
    assert engine.BACKBONES[hub_id].present() is None
    sentence = rf"'{hub_id}' is not on this machine and the model hub cannot be reached.*set {_hub.variable(hub_id)} to it"
    with pytest.raises(BackboneError, match=sentence):
        engine.load_backbone(hub_id)


def test_a_named_folder_that_is_none_or_empty_says_so(hub_id, tmp_path, monkeypatch):
    monkeypatch.setenv(_hub.variable(hub_id), "/nowhere/at/all")
    assert engine.BACKBONES[hub_id].present() is None
    with pytest.raises(BackboneError, match=rf"{_hub.variable(hub_id)} names '/nowhere/at/all', which is no folder"):
        engine.load_backbone(hub_id)
    monkeypatch.setenv(_hub.variable(hub_id), str(tmp_path))
    assert engine.BACKBONES[hub_id].present() == tmp_path
    first = "open_clip_config.json" if hub_id not in ("pubmedclip", "pmc-clip") else REPOSITORIES[hub_id][0].files[0]
    with pytest.raises(BackboneError) as caught:
        engine.load_backbone(hub_id)
    assert f"The folder {str(tmp_path)!r} has no {first}." in str(caught.value)


@pytest.mark.parametrize("name", ["clip-vit-b16", "clip-vit-b32", "pmc-clip-l14"])
def test_a_folder_of_another_architecture_or_activation_is_refused(name, tiny, clip, monkeypatch):
    monkeypatch.setenv(_hub.variable(name), str(clip))
    with pytest.raises(BackboneError, match=r"another architecture than ViT-.*\(embed_dim, .*vision_cfg, text_cfg"):
        engine.load_backbone(name)
    model = engine.BACKBONES[name].architecture
    expected = open_clip.get_model_config(model)
    reconfigure(clip, lambda c: (c.clear(), c.update(expected), c.update(quick_gelu=not expected.get("quick_gelu", False))))
    with pytest.raises(BackboneError, match=rf"another architecture than {model} \(quick_gelu\)"):
        engine.load_backbone(name)


def test_pubmedclip_and_pmc_clip_refuse_weights_of_another_architecture(tiny, tmp_path, monkeypatch):
    state = load_file(tiny["tiny-clip"] / "open_clip_model.safetensors")
    torch.save({"state_dict": state}, tmp_path / pubmedclip.FILE)
    monkeypatch.setenv("PROMPTSCOPE_PUBMEDCLIP", str(tmp_path))
    with pytest.raises(BackboneError, match=r"weights of 'pubmedclip' lack .* belong to another architecture"):
        engine.load_backbone("pubmedclip")
    monkeypatch.setattr(pmc_clip, "MODEL", _random.TINY_PMC)
    shutil.copy(tiny["tiny-pmc"] / "text_config.json", tmp_path)
    for name in pmc_clip.WEIGHTS.files:
        torch.save(state, tmp_path / name)
    monkeypatch.setenv("PROMPTSCOPE_PMC_CLIP", str(tmp_path))
    with pytest.raises(BackboneError, match=r"has no vocab\.txt"):
        engine.load_backbone("pmc-clip")
    shutil.copy(TOKENIZER, tmp_path)
    with pytest.raises(BackboneError, match=r"'text_projection_layer\.pth' holds no matrix"):
        engine.load_backbone("pmc-clip")
    torch.save(torch.zeros(32, 24), tmp_path / pmc_clip.PROJECTION)
    with pytest.raises(BackboneError, match="weights of 'pmc-clip' lack "):
        engine.load_backbone("pmc-clip")


def test_biomedclip_from_the_hubs_offline_cache(random_biomedclip, empty_cache, tmp_path):
    """At the pinned revision, with the pickle that the hub has."""
    (tmp_path / "files").mkdir()
    for name in ("open_clip_config.json", "tokenizer.json"):
        shutil.copy(random_biomedclip.folder / name, tmp_path / "files" / name)
    state = load_file(random_biomedclip.folder / "open_clip_model.safetensors")
    torch.save(state, tmp_path / "files" / "open_clip_pytorch_model.bin")
    into_cache(empty_cache, biomedclip.MODEL.repository, tmp_path / "files")
    assert biomedclip.MODEL.present() is not None
    found = engine.load_backbone("biomedclip")
    assert found.source == f"offline cache of {biomedclip.HUB_ID} at {biomedclip.REVISION[:8]}"
    x = torch.randn(1, 3, 224, 224)
    # both towers lie in their own file's pages, at different addresses: products of unaligned rows are summed in another order
    torch.testing.assert_close(found.encode_images(x), random_biomedclip.backbone.encode_images(x), atol=1e-6, rtol=0)


# --- full size, once each: the named loader against the library's own -------------------------------------------------


def same(found: Any, images: Tensor, texts: Tensor, x: Tensor) -> None:
    torch.testing.assert_close(found.encode_images(x), F.normalize(images, dim=-1), atol=2e-6, rtol=0)
    torch.testing.assert_close(found.encode_texts(TEXTS), F.normalize(texts, dim=-1), atol=2e-5, rtol=0)
    assert found.preprocess.size == 224 and found.preprocess.mean == tuple(open_clip.OPENAI_DATASET_MEAN)
    assert found.context_length == 77


@pytest.mark.parametrize("name", ["clip-vit-b16", "clip-vit-b32"])
@torch.no_grad()
def test_openais_vits_at_full_size_equal_the_librarys_own(name, empty_cache, tmp_path, monkeypatch):
    """By the named folder, and one by the hub's offline cache."""
    config = open_clip.get_model_config(engine.BACKBONES[name].architecture)
    folder, x = _random.write(tmp_path / "files", config), torch.randn(1, 3, 224, 224)
    if name == "clip-vit-b32":
        into_cache(empty_cache, clip_vit.B32.repository, folder)
    else:
        monkeypatch.setenv(_hub.variable(name), str(folder))
    assert engine.BACKBONES[name].present() is not None
    found = engine.load_backbone(name)
    (tmp_path / "library").mkdir()
    model = library(folder, tmp_path / "library")
    same(found, model.encode_image(x), model.encode_text(open_clip.get_tokenizer("ViT-B-16")(TEXTS)), x)
    assert (found.dim, found.grid, found.text_layers) == (512, (14, 14) if name == "clip-vit-b16" else (7, 7), 12)
    if name == "clip-vit-b32":
        assert found.source == "offline cache of timm/vit_base_patch32_clip_224.openai at ab5b8ef4"


@torch.no_grad()
def test_pmc_clip_l14_with_fewer_layers_equals_the_librarys_own(empty_cache, tmp_path, monkeypatch):
    """Full width, 2 and 2 of its 24 and 12 layers, so that it takes seconds; all layers are counted without weights."""
    config = open_clip.get_model_config("ViT-L-14")
    with torch.device("meta"):
        assert sum(p.numel() for p in open_clip.model.CLIP(**config).parameters()) == 427_616_513
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 2
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-L-14", config)
    into_cache(empty_cache, pmc_clip_l14.MODEL.repository, _random.write(tmp_path / "files", config))
    found, x = engine.load_backbone("pmc-clip-l14"), torch.randn(1, 3, 224, 224)
    assert found.source == "offline cache of ryanyip7777/pmc_vit_l_14 at a1db5a40"
    (tmp_path / "library").mkdir()
    model = library(tmp_path / "files", tmp_path / "library")
    same(found, model.encode_image(x), model.encode_text(open_clip.get_tokenizer("ViT-L-14")(TEXTS)), x)
    assert (found.dim, found.grid, found.token_width, found.text_layers) == (768, (16, 16), 768, 2)


@torch.no_grad()
def test_pubmedclip_at_full_size_equals_openais_architecture(empty_cache, tmp_path):
    _random.write_pubmedclip(tmp_path / "files")
    into_cache(empty_cache, pubmedclip.REPOSITORY, tmp_path / "files")
    found, x = engine.load_backbone("pubmedclip"), torch.randn(1, 3, 224, 224)
    assert found.source == "offline cache of sarahESL/PubMedCLIP"
    state = torch.load(tmp_path / "files" / pubmedclip.FILE, weights_only=True)["state_dict"]
    model = build_model_from_openai_state_dict(state, cast_dtype=torch.float32).float()  # reads the sizes off the weights
    same(found, model.encode_image(x), model.encode_text(open_clip.get_tokenizer("ViT-B-32")(TEXTS)), x)
    assert found.logit_scale == pytest.approx(1 / 0.07)


@torch.no_grad()
def test_pmc_clip_at_full_size_equals_a_plain_forward(empty_cache, tmp_path):
    """ResNet-50 with 8 heads, and BERT's pooler output times the matrix, as the papers' code has it (biomedcoop.md 7)."""
    files = _random.write_pmc_clip(tmp_path / "files", TOKENIZER, biomedclip.TEXT_CONFIG)
    vocabulary = json.loads(TOKENIZER.read_text())["model"]["vocab"]
    (files / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    into_cache(empty_cache, pmc_clip.WEIGHTS, files)
    assert pmc_clip.present() is None  # without BiomedBERT's vocabulary it is not all there
    into_cache(empty_cache, pmc_clip.BERT, files)
    found, x = engine.load_backbone("pmc-clip"), torch.randn(1, 3, 224, 224)
    assert found.source == f"offline cache of axiong/pmc_oa and {pmc_clip.BERT.name} at d673b883"
    image = ModifiedResNet(layers=[3, 4, 6, 3], output_dim=768, heads=8, image_size=224, width=64).eval()
    image.load_state_dict(torch.load(files / pmc_clip.IMAGE, weights_only=True))
    bert = transformers.BertModel(transformers.BertConfig.from_json_file(biomedclip.TEXT_CONFIG)).eval()
    bert.load_state_dict(torch.load(files / pmc_clip.TEXT, weights_only=True))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), pad_token="[PAD]")
    tokens = tokenizer(TEXTS, padding="max_length", max_length=77, return_tensors="pt")
    pooled = bert(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
    same(found, image(x), pooled @ torch.load(files / pmc_clip.PROJECTION, weights_only=True), x)
    assert found.logit_scale == pytest.approx(83.864, abs=1e-3)
    assert not isinstance(found, PatchLevel) and not isinstance(found, Differentiable)


@pytest.mark.shared
def test_biomedberts_words_give_the_same_ids_as_its_tokenizer(shared):
    """vocab.txt, which its repository has, and tokenizer.json, which BiomedCLIP's has."""
    from engine.backbones._text_towers import BertText

    text = transformers.BertModel(transformers.BertConfig(**_random.TINY_BERT))
    tower = type("Text", (), {"transformer": text, "config": text.config})()
    words, whole = (BertText(tower, shared / "data" / "tokenizer" / n) for n in ("vocab.txt", "tokenizer.json"))
    sentences = [*TEXTS, "Röntgenthorax: COVID-19 (SARS-CoV-2), 3 cm; T2-weighted!", "naïve café—étude 肺"]
    assert words.ids(sentences) == whole.ids(sentences)


# --- open_clip's own names --------------------------------------------------------------------------------------------


def test_an_open_clip_folder_on_the_hub_loads_by_its_name(tiny, empty_cache):
    repository = _hub.Repository("someone/tiny", None, ("open_clip_config.json", "open_clip_model.safetensors"))
    into_cache(empty_cache, repository, tiny["tiny-clip"])
    found = engine.load_backbone("open_clip:hf-hub:someone/tiny")
    assert (found.id, found.source) == ("open_clip:hf-hub:someone/tiny", "offline cache of someone/tiny")
    assert found.weights_hash == load(tiny["tiny-clip"]).weights_hash
    with pytest.raises(BackboneError, match="another architecture than ViT-B-16 "):
        engine.load_backbone("open_clip:ViT-B-16/hf-hub:someone/tiny")


def test_a_pretrained_tag_loads_by_open_clips_table(tiny, monkeypatch):
    """A small model and its file, entered into the table as open_clip's own are."""
    entry = {"file": str(tiny["tiny-clip"] / "open_clip_model.safetensors"), "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", _random.TINY_CLIP)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"ours": CLIP_PREPROCESS | entry})
    found = engine.load_backbone("open_clip:tiny/ours")
    assert (found.id, found.source) == ("open_clip:tiny/ours", "open_clip, pretrained ours")
    assert found.weights_hash == load(tiny["tiny-clip"]).weights_hash
    assert torch.equal(found.encode_texts(TEXTS), load(tiny["tiny-clip"]).encode_texts(TEXTS))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ViT-Z-99/openai", "no model 'ViT-Z-99'"),
        ("ViT-B-16", "no weights '' for ViT-B-16.*laion2b_s34b_b88k"),
        ("ViT-B-16/nonsense", "no weights 'nonsense' for ViT-B-16"),
        ("ViT-B-16/openai", "activation. Choose ViT-B-16-quickgelu/openai"),
        ("ViT-B-16-quickgelu/laion2b_s34b_b88k", "no weights"),
        ("roberta-ViT-B-32/laion2b_s12b_b32k", "needs files of its own"),
        ("RN50-quickgelu/openai", "is not on this machine and cannot be fetched"),
        ("hf-hub:no/where", "is not on this machine and the model hub cannot be reached"),
    ],
)
def test_an_open_clip_name_that_cannot_be_had_says_why(name, sentence, empty_cache, monkeypatch):
    def offline(entry: dict) -> str:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(BackboneError, match=sentence):
        engine.load_backbone(f"open_clip:{name}")


@pytest.mark.shared
def test_biomedberts_own_tokenizer_pads_and_trims(shared, tiny, tmp_path):
    """The WordPiece vocabulary of BiomedBERT (abstract) in place of ours: ids of a sentence by hand."""
    folder = Path(shutil.copytree(tiny["tiny-pmc"], tmp_path / "own"))
    shutil.copy(shared / "data" / "tokenizer" / "tokenizer.json", folder)
    tower = load(folder)
    vocabulary = (shared / "data" / "tokenizer" / "vocab.txt").read_text().splitlines()
    ids = tower.tokenize(["a photo of a glioma.", "a"])
    words = ["[CLS]", "a", "photo", "of", "a", "glioma", ".", "[SEP]"]
    assert [vocabulary[i] for i in ids[0]] == words
    assert [vocabulary[i] for i in ids[1]] == ["[CLS]", "a", "[SEP]"] + ["[PAD]"] * 5


def test_scope_mini_with_other_weights_than_its_cards_is_refused(copy, monkeypatch):
    assert engine.load_backbone("scope-mini").weights_hash in (scope_mini.FOLDER / "README.md").read_text()
    rewrite(copy, lambda weights: weights.update(logit_scale=weights["logit_scale"] + 1))
    monkeypatch.setattr(scope_mini, "FOLDER", copy)
    with pytest.raises(BackboneError, match="are not those of its card"):
        scope_mini.load("cpu", "float32")
