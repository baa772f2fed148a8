"""Folders with random weights of a known architecture, for tests and `bench`: real loading code, no real weights; and a
backbone with part of its weights random, to see whether a map depends on them.

open_clip initialises the weights; biases, norms and running statistics are then moved off their zeros and ones, so
that what would vanish in a comparison does not.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.backbones import _openclip, pmc_clip, pubmedclip
from engine.errors import BackboneError

BIOMEDBERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
BIOMEDCLIP: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": BIOMEDBERT,
        "hf_tokenizer_name": BIOMEDBERT,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}
# Small ones of each kind. CLIP's vocabulary has 49408 words, however small the tower.
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}
TINY_PMC: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 64},
    "text_cfg": pmc_clip.MODEL["text_cfg"],
}
TINY_BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def weights(model_cfg: dict[str, Any], text_config: Path | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Random float32 weights of an architecture, by open_clip's names."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = _openclip.built(model_cfg, text_config).state_dict()
        for name, tensor in state.items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("bn3.weight")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor += 0.1 * torch.randn_like(tensor)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def untrained(backbone: Any, last: int, seed: int = 0) -> _openclip.OpenCLIP:
    """The same backbone with the last `last` blocks of its image tower random, by `weights`; embedding, final norm, projection and
    text tower stay. A ResNet's blocks are its four stages and the attention pool. Its weights_hash is its own.

    Raises BackboneError where it is no open_clip model, or has not so many blocks.
    """
    if not isinstance(backbone, _openclip.OpenCLIP):
        raise BackboneError(
            f"The weights of {backbone.id!r} cannot be randomised.", "Choose the backbone that it was made from."
        )
    visual, files = backbone._model.visual, backbone._files
    stages = [getattr(visual, name, None) for name in ("layer1", "layer2", "layer3", "layer4", "attnpool")]
    blocks = list(getattr(backbone._image, "blocks", stages))
    if not 1 <= last <= len(blocks):
        raise BackboneError(
            f"The last {last} blocks of {backbone.id!r} cannot be randomised: its image tower has {len(blocks)}.",
            f"Give 1 to {len(blocks)}.",
        )
    chosen = {id(block) for block in blocks[-last:]}
    inside = tuple(f"{name}." for name, module in backbone._model.named_modules() if id(module) in chosen)
    fresh = weights(files.config["model_cfg"], files.text_config, seed)

    def mixed() -> dict[str, Tensor]:
        return {name: fresh[name] if name.startswith(inside) else kept for name, kept in files.weights().items()}

    source = f"{backbone.source}, the last {last} blocks of its image tower random"
    return _openclip.load(backbone.id, source, replace(files, weights=mixed), backbone.device, backbone.dtype)


def write(folder: Path, model_cfg: dict[str, Any], tokenizer: Path | None = None, text_config: Path | None = None) -> Path:
    """An open_clip local-dir folder. tokenizer : a tokenizer.json, text_config : the BERT configuration, both for BERT."""
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer and text_config:
        shutil.copy(tokenizer, folder / "tokenizer.json")
        shutil.copy(text_config, folder / _openclip.TEXT_CONFIG)
    config = {"model_cfg": model_cfg, "preprocess_cfg": _openclip.CLIP_PREPROCESS}
    (folder / _openclip.CONFIG).write_text(json.dumps(config))
    save_file(weights(model_cfg, text_config), folder / _openclip.WEIGHTS[0])
    return folder


def write_biomedclip(folder: Path, tokenizer: Path, text_config: Path) -> Path:
    """BiomedCLIP's architecture (its open_clip_config.json, from the model's card)."""
    return write(folder, BIOMEDCLIP, tokenizer, text_config)


def write_pubmedclip(folder: Path) -> Path:
    """PubMedCLIP's file: a training checkpoint, in half precision where OpenAI's code has it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = open_clip.get_model_config(pubmedclip.ARCHITECTURE)
    model = _openclip.built(config, None)
    model.load_state_dict(weights(config))
    open_clip.model.convert_weights_to_fp16(model)
    torch.save({"epoch": 1, "state_dict": model.state_dict(), "optimizer": {}}, folder / pubmedclip.FILE)
    return folder


def write_pmc_clip(folder: Path, tokenizer: Path, text_config: Path) -> Path:
    """PMC-CLIP's three files and its tokenizer, of the full size."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer, folder / tokenizer.name)
    state = weights(pmc_clip.MODEL, text_config)
    for name, prefix in ((pmc_clip.IMAGE, "visual."), (pmc_clip.TEXT, "text.transformer.")):
        torch.save({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, folder / name)
    torch.save(state["text.proj.weight"].T.contiguous(), folder / pmc_clip.PROJECTION)
    return folder
