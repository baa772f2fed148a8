"""The image towers: timm's ViT, CLIP's ViT and CLIP's ResNet, as open_clip builds them, with or without a visual prompt.

Without a prompt the library's own forward computes, but for CLIP's ViT: on a processor torch's MultiheadAttention leaves the
fused kernel where no gradient is asked for. With one the blocks run one by one, as Biomed-DPT's code does it
(methods/biomed_dpt.md 1.4); its zero tokens are also a closed form: LayerNorm(0) is its bias, so in each block
all zero tokens have one constant key and value, which is one extra key whose logit is raised by log(M).

Legend as in base.py; M tokens of a visual prompt.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.models.vision_transformer import Block
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor

from engine.backbones.base import AttentionLayer
from engine.errors import BackboneError
from engine.types import VisualPrompt


def _rows(prompt: VisualPrompt, layers: int, width: int, room: int, like: Tensor) -> Tensor:
    """The prompt's tokens for every layer: (layers, M, width). Raises BackboneError."""
    shape = prompt.tokens.shape
    if len(shape) != 3 or shape[0] not in (1, layers) or not 0 < shape[1] <= room or shape[2] != width:
        raise BackboneError(
            f"The visual prompt has the shape {shape}; this image tower takes (1 or {layers}, 1 to {room}, {width}).",
            "Use it with the backbone that it was made for.",
        )
    return torch.tensor(prompt.tokens).to(like).expand(layers, -1, -1)


class ViT(ABC):
    """visual : open_clip's module; blocks : its transformer's; prefix : tokens before the patches; width : of a token."""

    visual: Any
    blocks: list[Any]
    grid: tuple[int, int]
    prefix: int
    width: int
    inserts = True

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """x (B, 3, S, S) -> (B, T, width), as block 0 sees them."""

    @abstractmethod
    def qkv(self, block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, keys and values of one block, each (B, H, T, width / H)."""

    @abstractmethod
    def finish(self, block: Any, tokens: Tensor, mixed: Tensor) -> Tensor:
        """What follows the attention in one block: its heads' values (B, H, T, width / H) -> (B, T, width)."""

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """The last block's tokens (B, T, width) -> (B, D)."""

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """Any tokens (..., width), normed and carried to the joint space: (..., D)."""

    def features(self, x: Tensor, prompt: VisualPrompt | None) -> Tensor:
        """x (B, 3, S, S) -> (B, D). The outputs at a prompt's positions are discarded after each block."""
        if prompt is None:
            return self.plain(x)
        tokens, rows = self._begin(x, prompt)
        for block, row in zip(self.blocks, rows, strict=True):
            tokens = self._step(block, tokens, row, prompt)
        return self.pool(tokens)

    def plain(self, x: Tensor) -> Tensor:
        """x (B, 3, S, S) -> (B, D), without a prompt."""
        return self.visual(x)

    def _begin(self, x: Tensor, prompt: VisualPrompt) -> tuple[Tensor, Tensor]:
        """The tokens that are kept, and the prompt's for every block (layers, M, width)."""
        tokens = self.embed(x)
        rows = _rows(prompt, len(self.blocks), self.width, self.grid[0] * self.grid[1], tokens)
        if not prompt.insert:
            tokens = torch.cat([tokens[:, : self.prefix], tokens[:, self.prefix + rows.shape[1] :]], dim=1)
        return tokens, rows

    def _step(self, block: Any, tokens: Tensor, row: Tensor, prompt: VisualPrompt) -> Tensor:
        """One block with the prompt's tokens among the others."""
        if not prompt.literal and not prompt.tokens.any():
            return self._with_sink(block, tokens, len(row))
        row = row.expand(len(tokens), -1, -1)
        tokens = block(torch.cat([tokens[:, : self.prefix], row, tokens[:, self.prefix :]], dim=1))
        return torch.cat([tokens[:, : self.prefix], tokens[:, self.prefix + row.shape[1] :]], dim=1)

    def _with_sink(self, block: Any, tokens: Tensor, count: int) -> Tensor:
        """One block as if `count` zero tokens stood among `tokens`."""
        q, k, v = self.qkv(block, tokens)
        _, k0, v0 = self.qkv(block, torch.zeros_like(tokens[:, :1]))
        weight = q.new_zeros(k.shape[2] + 1)
        weight[-1] = math.log(count)
        mixed = F.scaled_dot_product_attention(
            q, torch.cat([k, k0], dim=2), torch.cat([v, v0], dim=2), attn_mask=weight.expand(q.shape[2], -1), scale=1.0
        )
        return self.finish(block, tokens, mixed)

    def patches(self, x: Tensor) -> Tensor:
        """x (B, 3, S, S) -> (B, h, w, D)."""
        tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens)
        return self.project(tokens[:, self.prefix :]).unflatten(1, self.grid)

    def attention_layers(self, x: Tensor, last: int, prompt: VisualPrompt | None = None) -> list[AttentionLayer]:
        with torch.no_grad():
            tokens, rows = (self.embed(x), None) if prompt is None else self._begin(x, prompt)
            for index, block in enumerate(self.blocks[:-last]):
                tokens = block(tokens) if rows is None or prompt is None else self._step(block, tokens, rows[index], prompt)
        layers = []
        for index, block in enumerate(self.blocks[-last:], start=len(self.blocks) - last):
            with torch.no_grad():
                q, k, v = self.qkv(block, tokens)
                shown = tokens[:, :0] if rows is None else rows[index].expand(len(tokens), -1, -1)
                _, k0, v0 = self.qkv(block, shown)
                weights = (q @ torch.cat([k, k0], dim=2).transpose(-2, -1)).softmax(dim=-1)
                weights, to_prompt = weights.split([k.shape[2], k0.shape[2]], dim=-1)
                if prompt is not None and not prompt.insert:  # overwritten patches have a column of zeros
                    weights, v = (self._gap(each, shown.shape[1], dim) for each, dim in ((weights, 3), (v, 2)))
            with torch.enable_grad():
                weights = weights.contiguous().requires_grad_(True)
                tokens = self.finish(block, tokens, weights @ v + to_prompt @ v0)
                # LeGrad: the mean over all tokens of the block's output, carried to the joint space
                layers.append(AttentionLayer(weights, F.normalize(self.project(tokens.mean(dim=1)).float(), dim=-1)))
            tokens = tokens.detach()
        return layers

    def _gap(self, each: Tensor, count: int, dim: int) -> Tensor:
        """`count` zeros after the prefix tokens."""
        before, after = each.split([self.prefix, each.shape[dim] - self.prefix], dim=dim)
        shape = list(each.shape)
        shape[dim] = count
        return torch.cat([before, each.new_zeros(shape), after], dim=dim)


class TimmViT(ViT):
    def __init__(self, visual: Any):
        self.visual, self._trunk = visual, visual.trunk
        self.blocks = list(self._trunk.blocks)
        self.grid = tuple(self._trunk.patch_embed.grid_size)
        self.prefix, self.width = int(self._trunk.num_prefix_tokens), int(self._trunk.embed_dim)

    def embed(self, x: Tensor) -> Tensor:
        trunk = self._trunk
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(x))))

    def qkv(self, block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attn, (b, t, _) = block.attn, tokens.shape
        q, k, v = attn.qkv(block.norm1(tokens)).reshape(b, t, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        return attn.q_norm(q) * attn.scale, attn.k_norm(k), v

    def finish(self, block: Any, tokens: Tensor, mixed: Tensor) -> Tensor:
        tokens = tokens + block.ls1(block.attn.proj(block.attn.norm(mixed.transpose(1, 2).flatten(2))))
        return tokens + block.ls2(block.mlp(block.norm2(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        return self.visual.head(self._trunk.forward_head(self._trunk.norm(tokens)))

    def project(self, tokens: Tensor) -> Tensor:
        return self.visual.head(self._trunk.head(self._trunk.fc_norm(self._trunk.norm(tokens))))


class ClipViT(ViT):
    prefix = 1

    def __init__(self, visual: Any):
        self.visual, self.blocks = visual, list(visual.transformer.resblocks)
        self.grid, self.width = tuple(visual.grid_size), int(visual.transformer.width)

    def plain(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        for block in self.blocks:
            q, k, v = self.qkv(block, tokens)
            tokens = self.finish(block, tokens, F.scaled_dot_product_attention(q, k, v, scale=1.0))
        return self.pool(tokens)

    def embed(self, x: Tensor) -> Tensor:
        return self.visual._embeds(x)

    def qkv(self, block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attn, (b, t, _) = block.attn, tokens.shape
        joined = F.linear(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = joined.reshape(b, t, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        return q * attn.head_dim**-0.5, k, v

    def finish(self, block: Any, tokens: Tensor, mixed: Tensor) -> Tensor:
        tokens = tokens + block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
        return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        return self.visual._pool(tokens)[0] @ self.visual.proj

    def project(self, tokens: Tensor) -> Tensor:
        return self.visual.ln_post(tokens) @ self.visual.proj


class ResNet:
    """CLIP's ResNet. Its visual prompt is Biomed-DPT's transposed: channels 1 to M hold the prompt's values after the
    stem and after each of the four stages; channel 0 stays."""

    width = 1
    inserts = False

    def __init__(self, visual: Any):
        self.visual = visual

    def features(self, x: Tensor, prompt: VisualPrompt | None) -> Tensor:
        """x (B, 3, S, S) -> (B, D)."""
        if prompt is None:
            return self.visual(x)
        if prompt.insert:
            raise BackboneError("A convolutional image tower cannot insert a visual prompt.", "Overwrite channels instead.")
        visual = self.visual
        stages = [visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        rows = _rows(prompt, len(stages), self.width, visual.conv3.out_channels - 1, x)  # the stem has the fewest channels
        for stage, row in zip(stages, rows, strict=True):
            x = stage(x)
            values = row[:, :, None].expand(len(x), -1, *x.shape[2:])  # (B, M, h, w)
            x = torch.cat([x[:, :1], values, x[:, 1 + len(row) :]], dim=1)
        return visual.attnpool(x)


def image_tower(visual: Any) -> ViT | ResNet:
    """The tower around open_clip's module. Raises BackboneError for a kind that is not read."""
    if isinstance(visual, ModifiedResNet):
        return ResNet(visual)
    if isinstance(visual, TimmModel):
        trunk = visual.trunk
        if isinstance(trunk, TimmVisionTransformer) and trunk.attn_pool is None and _all(trunk.blocks, Block):
            return TimmViT(visual)
    elif isinstance(visual, VisionTransformer):
        plain = visual.attn_pool is None and not visual.output_tokens and visual.pool_type != "none"
        if plain and _all(visual.transformer.resblocks, ResidualAttentionBlock):
            return ClipViT(visual)
    raise BackboneError(
        f"The image tower ({type(visual).__name__}) is of a kind that is not read.",
        "Choose a model with a timm ViT, CLIP's ViT or CLIP's ResNet.",
    )


def _all(blocks: Any, kind: type) -> bool:
    return all(type(block) is kind for block in blocks)
