"""OpenAI's CLIP, ViT-B/16 and ViT-B/32. Radford et al., arXiv:2103.00020; weights MIT.

From timm's conversions for open_clip, which load as open_clip's `openai` tag does: these weights need QuickGELU.
"""

from __future__ import annotations

from engine.backbones._hub import HubModel, Repository

FILES = ("open_clip_config.json", "open_clip_model.safetensors")

B16 = HubModel(
    "clip-vit-b16",
    Repository("timm/vit_base_patch16_clip_224.openai", "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d", FILES),
    architecture="ViT-B-16-quickgelu",
    licence="MIT",
)
B32 = HubModel(
    "clip-vit-b32",
    Repository("timm/vit_base_patch32_clip_224.openai", "ab5b8ef490e86faa07d3523926b842c765de1de5", FILES),
    architecture="ViT-B-32-quickgelu",
    licence="MIT",
)
