"""PMC-CLIP: CLIP's ResNet-50 and PubMedBERT trained on PMC-OA. Lin et al., MICCAI 2023, arXiv:2303.07240.

Three files of the data set axiong/pmc_oa and BiomedBERT's vocabulary; the folder PROMPTSCOPE_PMC_CLIP holds all of
them by the same names (tokenizer.json will do for vocab.txt, and text_config.json may replace BERT-base). Text features
are BERT's pooler output times the projection matrix. The files have no logit scale: the papers' code fixes it.
The attention pool has 8 heads (open_clip says it by a head width of 256). The full name of the data set's revision was
not published where this was built, so the newest is taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backbones import _hub
from engine.backbones._openclip import CLIP_PREPROCESS, TEXT_CONFIG, Files, OpenCLIP, read_tensors, read_weights
from engine.backbones._openclip import load as load_files
from engine.backbones.biomedclip import TEXT_CONFIG as BERT_BASE
from engine.errors import BackboneError

ID = "pmc-clip"
LOG_SCALE = 4.4292  # biomedcoop_pmcclip.py of BiomedCoOp: exp(4.4292) = 83.86
IMAGE, TEXT, PROJECTION = "image_encoder(resnet50).pth", "text_encoder.pth", "text_projection_layer.pth"
WEIGHTS = _hub.Repository("axiong/pmc_oa", None, (IMAGE, TEXT, PROJECTION), kind="dataset")
BERT = _hub.Repository(
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", "d673b8835373c6fa116d6d8006b33d48734e305d", ("vocab.txt",)
)
MODEL: dict[str, Any] = {
    "embed_dim": 768,
    "init_logit_scale": LOG_SCALE,
    "vision_cfg": {"layers": [3, 4, 6, 3], "width": 64, "head_width": 256, "image_size": 224},
    "text_cfg": {
        "hf_model_name": BERT.name,
        "hf_pooler_type": "cls_pooler",
        "hf_proj_type": "linear",
        "context_length": 77,
    },
}


def present() -> Path | None:
    return _hub.present(ID, WEIGHTS, BERT)


def published() -> _hub.Published:
    return _hub.Published((WEIGHTS, BERT), MODEL["embed_dim"], _hub.UNSTATED)


def load(device: str, dtype: str) -> OpenCLIP:
    """Raises BackboneError."""
    (folder, words), source = _hub.find(ID, WEIGHTS, BERT)
    for name in WEIGHTS.files:
        if not (folder / name).is_file():
            raise BackboneError(f"The folder {str(folder)!r} has no {name}.", f"Copy it from the data set {WEIGHTS.name}.")
    tokenizer = words / "vocab.txt"
    if (words / "tokenizer.json").is_file():
        tokenizer = words / "tokenizer.json"
    text_config = folder / TEXT_CONFIG if (folder / TEXT_CONFIG).is_file() else BERT_BASE
    config = {"model_cfg": MODEL, "preprocess_cfg": CLIP_PREPROCESS}
    return load_files(ID, source, Files(config, lambda: _weights(folder), tokenizer, text_config), device, dtype)


def _weights(folder: Path) -> dict[str, Tensor]:
    """The three files by open_clip's names. Raises BackboneError."""
    projection = read_tensors(folder / PROJECTION)
    if not isinstance(projection, Tensor):
        raise BackboneError(f"The file {PROJECTION!r} holds no matrix.", "Fetch the file again.")
    named = {f"visual.{name}": tensor for name, tensor in read_weights(folder / IMAGE).items()}
    named |= {f"text.transformer.{name}": tensor for name, tensor in read_weights(folder / TEXT).items()}
    return named | {"text.proj.weight": projection.detach().T, "logit_scale": torch.tensor(LOG_SCALE)}
