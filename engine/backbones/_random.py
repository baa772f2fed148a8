"""Folders with random weights of a known architecture, for tests and `bench`: real loading code, no real weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.backbones import _openclip

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def write_biomedclip(folder: Path, tokenizer: Path, text_config: Path, seed: int = 0) -> Path:
    """BiomedCLIP's architecture (its open_clip_config.json, from the model's card) with random float32 weights.

    tokenizer : a tokenizer.json; text_config : the BERT configuration
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    shutil.copy(text_config, folder / _openclip.TEXT_CONFIG)
    name = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    vision = {"timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False, "timm_pool": ""}
    config = {
        "model_cfg": {
            "embed_dim": 512,
            "vision_cfg": vision | {"timm_proj": "linear", "image_size": 224},
            "text_cfg": {
                "hf_model_name": name,
                "hf_tokenizer_name": name,
                "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": 256,
            },
        },
        "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD},
    }
    (folder / _openclip.CONFIG).write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = {k: v.contiguous() for k, v in _openclip.build_model(folder).state_dict().items()}
    save_file(weights, folder / _openclip.WEIGHTS[0])
    return folder
