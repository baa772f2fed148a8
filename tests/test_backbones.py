"""Every backbone through one contract, against the library's own forward. Run: python -m pytest tests/test_backbones.py

BiomedCLIP is proven on random weights of its architecture, made here; the loading code is the one that reads real ones.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import safetensors.numpy
import torch
import transformers
from conftest import RandomBiomedCLIP
from safetensors.torch import load_file, save_file

import engine
from engine.backbones import biomedclip, scope_mini
from engine.backbones.base import Differentiable, Embedded, PatchLevel, PromptTunable
from engine.errors import BackboneError

TEXTS = [
    "a photo of a glioma tumor.",
    "MRI of the brain",
    "Chest radiograph with patchy, peripheral opacities in both lungs.",
]


@pytest.fixture(params=list(engine.BACKBONES), scope="module")
def backbone(request, random_biomedclip: RandomBiomedCLIP):
    """Each registered backbone and the folder that it was read from."""
    if request.param == "biomedclip":
        return random_biomedclip.backbone, random_biomedclip.folder
    return engine.load_backbone(request.param), scope_mini.FOLDER


@pytest.fixture(scope="module")
def library(backbone, tmp_path_factory):
    """The same folder through open_clip's own loader and transformers' own tokenizer."""
    _, folder = backbone
    copied = tmp_path_factory.mktemp("library")
    for file in folder.iterdir():
        (copied / file.name).symlink_to(file)
    config = json.loads((folder / "open_clip_config.json").read_text())
    text = folder / "text_config.json"
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(text if text.is_file() else biomedclip.TEXT_CONFIG)
    (copied / "open_clip_config.json").unlink()
    (copied / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.create_model(f"local-dir:{copied}", device="cpu").eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    return model, tokenizer


def images(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(seed))


def test_image_features_equal_the_librarys_own(backbone, library):
    found = backbone[0].encode_images(images())
    expected = library[0].encode_image(images(), normalize=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2))


def test_tokens_equal_the_librarys_own(backbone, library):
    expected = library[1](TEXTS, padding="longest", return_tensors="pt").input_ids
    assert torch.equal(backbone[0].tokenize(TEXTS), expected)


def test_text_features_equal_the_librarys_own_at_full_padding(backbone, library):
    ids = backbone[0].tokenize(TEXTS)
    padded = torch.nn.functional.pad(ids, (0, backbone[0].context_length - ids.shape[1]))  # [PAD] is 0 in both
    with torch.no_grad():
        expected = library[0].encode_text(padded, normalize=True)
    # trimming changes the order of summation in the attention's softmax, nothing else
    torch.testing.assert_close(backbone[0].encode_texts(TEXTS), expected, atol=2e-5, rtol=0)


def test_embedded_tokens_give_exactly_the_same_features(backbone):
    tower = backbone[0]
    assert isinstance(tower, PromptTunable)
    assert torch.equal(tower.encode_embedded(tower.embed_tokens(tower.tokenize(TEXTS))), tower.encode_texts(TEXTS))


def test_learned_vectors_in_place_of_words_move_only_their_own_text(backbone):
    tower = backbone[0]
    text = tower.embed_tokens(tower.tokenize(TEXTS))
    vectors = text.vectors.clone()
    vectors[0, 1:3] = vectors[0, [3, 4]]  # a constant would vanish in the LayerNorm
    moved, before = tower.encode_embedded(Embedded(vectors, text.ids)), tower.encode_embedded(text)
    assert (moved[0] - before[0]).abs().max() > 1e-4
    torch.testing.assert_close(moved[1:], before[1:], atol=1e-6, rtol=0)


def test_swapping_two_words_equals_encoding_the_swapped_sentence(backbone):
    """The vectors stand at the positions where their words stood."""
    tower = backbone[0]
    text = tower.embed_tokens(tower.tokenize(["photo a of kidney"]))
    vectors = text.vectors.clone()
    vectors[:, [1, 2]] = vectors[:, [2, 1]]
    assert torch.equal(tower.encode_embedded(Embedded(vectors, text.ids)), tower.encode_texts(["a photo of kidney"]))


def test_gradients_reach_the_vectors_and_no_weight(backbone):
    tower = backbone[0]
    text = tower.embed_tokens(tower.tokenize(TEXTS[:1]))
    vectors = text.vectors.clone().requires_grad_(True)
    tower.encode_embedded(Embedded(vectors, text.ids))[0, 0].backward()
    assert vectors.grad is not None and vectors.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in tower._model.parameters())


def test_frozen_is_frozen_and_dropout_only_where_asked(backbone):
    tower = backbone[0]
    assert not any(module.training for module in tower._model.modules())
    text = tower.embed_tokens(tower.tokenize(TEXTS))
    still = tower.encode_embedded(text)
    shaken = tower.encode_embedded(text, dropout=True)
    assert (shaken - still).abs().max() > 1e-3
    assert torch.equal(tower.encode_embedded(text), still)
    assert not any(module.training for module in tower._model.modules())


def test_patches_lie_in_the_joint_space(backbone, library):
    tower, visual = backbone[0], library[0].visual
    assert isinstance(tower, PatchLevel)
    with torch.no_grad():
        tokens = visual.trunk.forward_features(images(1))[:, 1:]  # without CLS
        expected = torch.nn.functional.normalize(visual.head(tokens), dim=-1).reshape(1, 14, 14, -1)
    torch.testing.assert_close(tower.encode_patches(images(1)), expected, atol=1e-5, rtol=0)


def test_attention_in_sight_computes_what_fused_attention_computes(backbone, library):
    tower, trunk = backbone[0], library[0].visual.trunk
    assert isinstance(tower, Differentiable)
    layers = tower.attention_layers(images(1), 2)
    with torch.no_grad():
        tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images(1))))
        expected = []
        for block in trunk.blocks:
            tokens = block(tokens)
            pooled = library[0].visual.head(trunk.norm(tokens.mean(1)))
            expected.append(torch.nn.functional.normalize(pooled, dim=-1))
    for layer, pooled in zip(layers, expected[-2:], strict=True):
        torch.testing.assert_close(layer.pooled.detach(), pooled, atol=1e-5, rtol=0)
        torch.testing.assert_close(layer.weights.detach().sum(-1), torch.ones(layer.weights.shape[:-1]))


def test_logit_scale_is_exponentiated(backbone):
    tower, folder = backbone
    stored = load_file(folder / "open_clip_model.safetensors")["logit_scale"].float()
    assert tower.logit_scale == pytest.approx(float(np.exp(stored.item())), rel=1e-3)  # fp16 in scope-mini


def test_weights_hash_is_over_names_types_shapes_bytes_tokenizer_and_preprocessing(backbone):
    tower, folder = backbone
    digest = hashlib.sha256()
    arrays = safetensors.numpy.load_file(folder / "open_clip_model.safetensors")
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode() + array.tobytes())
    digest.update((folder / "tokenizer.json").read_bytes())
    config = json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    digest.update(json.dumps(config, sort_keys=True).encode())
    assert tower.weights_hash == digest.hexdigest()


def test_a_visual_prompt_is_refused_in_a_sentence(backbone):
    with pytest.raises(BackboneError, match="takes no visual prompt"):
        backbone[0].encode_images(images(1), torch.zeros(12, 4, 192))


def test_a_text_beyond_the_context_is_refused_with_its_length(backbone):
    with pytest.raises(BackboneError, match=r"has \d+ tokens; .* reads at most \d+"):
        backbone[0].encode_texts(["kidney " * 300])


# --- loading: never silently something else ---------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(scope_mini.FOLDER, tmp_path / "mini"))


def rewrite(folder: Path, change) -> None:
    weights = load_file(folder / "open_clip_model.safetensors")
    change(weights)
    save_file(weights, folder / "open_clip_model.safetensors")


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


def test_unknown_names_devices_and_precisions_are_said():
    with pytest.raises(BackboneError, match="no backbone called 'resnet'"):
        engine.load_backbone("resnet")
    with pytest.raises(BackboneError, match="no precision 'int3'"):
        engine.load_backbone("scope-mini", dtype="int3")
    with pytest.raises(BackboneError, match="cannot compute on 'cuda:99'"):
        engine.load_backbone("scope-mini", device="cuda:99")


def test_bfloat16_is_used_where_asked_and_close():
    half, full = engine.load_backbone("scope-mini", dtype="bfloat16"), engine.load_backbone("scope-mini")
    assert next(half._model.parameters()).dtype == torch.bfloat16 and half.dtype == "bfloat16"
    cosine = (half.encode_images(images()) * full.encode_images(images())).sum(-1)
    assert cosine.min() > 0.99  # 8 bits of mantissa through 12 blocks


# --- BiomedCLIP's three sources ---------------------------------------------------------------------------------------


def test_biomedclip_from_the_hubs_offline_cache(random_biomedclip, tmp_path, monkeypatch):
    """The hub's own cache layout at the pinned revision, with the pickle that the hub has."""
    monkeypatch.delenv("PROMPTSCOPE_BIOMEDCLIP", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / ("models--" + biomedclip.HUB_ID.replace("/", "--"))
    snapshot = repository / "snapshots" / biomedclip.REVISION
    snapshot.mkdir(parents=True)
    for name in ("open_clip_config.json", "tokenizer.json"):
        shutil.copy(random_biomedclip.folder / name, snapshot / name)
    torch.save(load_file(random_biomedclip.folder / "open_clip_model.safetensors"), snapshot / "open_clip_pytorch_model.bin")
    found = engine.load_backbone("biomedclip")
    assert found.source == f"offline cache of {biomedclip.HUB_ID} at {biomedclip.REVISION[:8]}"
    assert found.weights_hash == random_biomedclip.backbone.weights_hash
    assert torch.equal(found.encode_images(images(1)), random_biomedclip.backbone.encode_images(images(1)))


def test_biomedclip_nowhere_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("PROMPTSCOPE_BIOMEDCLIP", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        BackboneError, match=r"not on this machine and the model hub cannot be reached.*PROMPTSCOPE_BIOMEDCLIP"
    ):
        engine.load_backbone("biomedclip")


def test_biomedclip_in_a_folder_that_is_none_says_so(monkeypatch):
    monkeypatch.setenv("PROMPTSCOPE_BIOMEDCLIP", "/nowhere/at/all")
    with pytest.raises(BackboneError, match="'/nowhere/at/all', which is no folder"):
        engine.load_backbone("biomedclip")


@pytest.mark.shared
def test_biomedclips_own_tokenizer_pads_and_trims(shared, random_biomedclip, tmp_path):
    """The WordPiece vocabulary of BiomedBERT (abstract) in place of ours: ids of a sentence by hand."""
    folder = tmp_path / "own"
    folder.mkdir()
    for file in random_biomedclip.folder.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "tokenizer.json").unlink()
    shutil.copy(shared / "data" / "tokenizer" / "tokenizer.json", folder)
    shutil.copy(biomedclip.TEXT_CONFIG, folder / "text_config.json")
    tower = engine.load_backbone(f"local-dir:{folder}")
    vocabulary = (shared / "data" / "tokenizer" / "vocab.txt").read_text().splitlines()
    ids = tower.tokenize(["a photo of a glioma.", "a"])
    words = ["[CLS]", "a", "photo", "of", "a", "glioma", ".", "[SEP]"]
    assert [vocabulary[i] for i in ids[0]] == words
    assert [vocabulary[i] for i in ids[1]] == ["[CLS]", "a", "[SEP]"] + ["[PAD]"] * 5
