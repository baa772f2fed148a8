"""BiomedCLIP: PubMedBERT_256 and ViT-B/16 trained on PMC-15M. Zhang et al., arXiv:2303.00915; weights MIT.

Its folder is any open_clip local-dir folder: PROMPTSCOPE_BIOMEDCLIP, else the hub (see _hub.py). Its text configuration
is in this repository, because the model's own configuration only names it.
"""

from __future__ import annotations

from engine.backbones._hub import HubModel, Repository
from engine.tasks import ASSETS

HUB_ID = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
REVISION = "9f341de24bfb00180f1b847274256e9b65a3a32e"
TEXT_CONFIG = ASSETS / "backbones" / "biomedclip" / "text_config.json"  # BERT-base, as the config names it

MODEL = HubModel(
    "biomedclip",
    Repository(HUB_ID, REVISION, ("open_clip_config.json", "open_clip_pytorch_model.bin", "tokenizer.json")),
    text_config=TEXT_CONFIG,
    licence="MIT",
)
