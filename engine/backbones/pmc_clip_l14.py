"""PMC-CLIP ViT-L/14: OpenAI's ViT-L/14 fine-tuned on PMC-OA and ROCO by @ryanyip7777, MedPromptCLIP's backbone.

Its open_clip_config.json names no QuickGELU, and it was trained as open_clip's "ViT-L-14" (model card): plain GELU,
although the weights that it started from, and MedPromptCLIP's own loader, have QuickGELU.
"""

from __future__ import annotations

from engine.backbones._hub import HubModel, Repository

MODEL = HubModel(
    "pmc-clip-l14",
    Repository(
        "ryanyip7777/pmc_vit_l_14",
        "a1db5a40d0a07855a435d9fabde846fdf7028be4",
        ("open_clip_config.json", "open_clip_model.safetensors"),
    ),
    architecture="ViT-L-14",
    dim=768,
)
