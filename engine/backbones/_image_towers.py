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

from engine.backbones.base import AttentionLayer, FeatureMap, LastBlock
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
    """visual : open_clip's module; blocks : its transformer's; prefix : tokens before the patches; width : of a token;
    pooled : the tokens that the image's feature is read from, CLS or the patches."""

    visual: Any
    blocks: list[Any]
    grid: tuple[int, int]
    prefix: int
    width: int
    pooled: slice
    inserts = True

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """x (B, 3, S, S) -> (B, T, width), as block 0 sees them."""

    @abstractmethod
    def norm(self, block: Any, tokens: Tensor) -> Tensor:
        """One block's first norm: (B, T, width)."""

    @abstractmethod
    def heads(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, keys and values of one block's normed tokens, each (B, H, T, width / H)."""

    def qkv(self, block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, keys and values of one block, each (B, H, T, width / H)."""
        return self.heads(block, self.norm(block, tokens))

    @abstractmethod
    def added(self, block: Any, mixed: Tensor) -> Tensor:
        """What one block's attention adds to the tokens: its heads' values (B, H, T, width / H) -> (B, T, width)."""

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

    def _before(self, x: Tensor, last: int, prompt: VisualPrompt | None) -> tuple[Tensor, Tensor | None]:
        """The tokens that the block `last` from the end sees, and the prompt's for every block (layers, M, width) or None."""
        tokens, rows = (self.embed(x), None) if prompt is None else self._begin(x, prompt)
        for index, block in enumerate(self.blocks[:-last]):
            tokens = block(tokens) if rows is None or prompt is None else self._step(block, tokens, rows[index], prompt)
        return tokens, rows

    def _prompts_keys(self, block: Any, tokens: Tensor, row: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, M, width / H) of a visual prompt's tokens in one block; M is 0 without one."""
        _, k0, v0 = self.qkv(block, tokens[:, :0] if row is None else row.expand(len(tokens), -1, -1))
        return k0, v0

    def attention_layers(self, x: Tensor, last: int, prompt: VisualPrompt | None = None) -> list[AttentionLayer]:
        with torch.no_grad():
            tokens, rows = self._before(x, last, prompt)
        layers = []
        for index, block in enumerate(self.blocks[-last:], start=len(self.blocks) - last):
            with torch.no_grad():
                q, k, v = self.qkv(block, tokens)
                k0, v0 = self._prompts_keys(block, tokens, None if rows is None else rows[index])
                weights = (q @ torch.cat([k, k0], dim=2).transpose(-2, -1)).softmax(dim=-1)
                weights, to_prompt = weights.split([k.shape[2], k0.shape[2]], dim=-1)
                if prompt is not None and not prompt.insert:  # overwritten patches have a column of zeros
                    weights, v = (self._gap(each, k0.shape[2], dim) for each, dim in ((weights, 3), (v, 2)))
            with torch.enable_grad():
                weights = weights.contiguous().requires_grad_(True)
                tokens = self.finish(block, tokens, weights @ v + to_prompt @ v0)
                # LeGrad: the mean over all tokens of the block's output, carried to the joint space
                layers.append(AttentionLayer(weights, F.normalize(self.project(tokens.mean(dim=1)).float(), dim=-1)))
            tokens = tokens.detach()
        return layers

    @torch.no_grad()
    def attention_weights(self, x: Tensor, last: int, prompt: VisualPrompt | None = None) -> list[Tensor]:
        """The last `last` blocks' attention, each (B, H, T, T): softmaxed, rows attend to columns. Attention to a prompt is
        left out; an overwritten patch has a row and a column of zeros."""
        tokens, rows = self._before(x, last, prompt)
        found = []
        for index, block in enumerate(self.blocks[-last:], start=len(self.blocks) - last):
            q, k, v = self.qkv(block, tokens)
            k0, v0 = self._prompts_keys(block, tokens, None if rows is None else rows[index])
            weights = (q @ torch.cat([k, k0], dim=2).transpose(-2, -1)).softmax(dim=-1)
            if index + 1 < len(self.blocks):
                tokens = self.finish(block, tokens, weights @ torch.cat([v, v0], dim=2))
            weights = weights[..., : k.shape[2]]
            hidden = self._overwritten(rows, prompt)
            found.append(self._gap(self._gap(weights, hidden, 3), hidden, 2))
        return found

    def last_block(self, x: Tensor, prompt: VisualPrompt | None = None) -> LastBlock:
        """Its queries are those of the tokens that `pool` reads, so that one CLS token costs no pass over all."""
        block, read = self.blocks[-1], self._read
        with torch.no_grad():
            tokens, rows = self._before(x, 1, prompt)
            q, k, v = self.qkv(block, tokens)
            k0, v0 = self._prompts_keys(block, tokens, None if rows is None else rows[-1])
            q = q[:, :, read]
            keys, values = torch.cat([k, k0], dim=2), torch.cat([v, v0], dim=2)
            mixed = F.scaled_dot_product_attention(q, keys, values, scale=1.0)
        with torch.enable_grad():
            mixed = mixed.requires_grad_(True)
            features = F.normalize(self.pool(self.finish(block, tokens[:, read], mixed)).float(), dim=-1)
        return LastBlock(q, k, v, mixed, features, self._overwritten(rows, prompt))

    def feature_map(self, x: Tensor, prompt: VisualPrompt | None = None) -> FeatureMap:
        """The patches behind the last block's first norm; the tokens that go past it hold still."""
        block, read = self.blocks[-1], self._read
        with torch.no_grad():
            tokens, rows = self._before(x, 1, prompt)
            k0, v0 = self._prompts_keys(block, tokens, None if rows is None else rows[-1])
            hidden = self._overwritten(rows, prompt)
            first, patches = self.norm(block, tokens).split([self.prefix, tokens.shape[1] - self.prefix], dim=1)
            values = F.pad(patches, (0, 0, hidden, 0)).unflatten(1, self.grid).contiguous()
        with torch.enable_grad():
            values = values.requires_grad_(True)
            q, k, v = self.heads(block, torch.cat([first, values.flatten(1, 2)[:, hidden:]], dim=1))
            keys, shown = torch.cat([k, k0], dim=2), torch.cat([v, v0], dim=2)
            mixed = F.scaled_dot_product_attention(q[:, :, read], keys, shown, scale=1.0)
            features = F.normalize(self.pool(self.finish(block, tokens[:, read], mixed)).float(), dim=-1)
        return FeatureMap(values, features)

    @torch.no_grad()
    def value_patches(self, x: Tensor, prompt: VisualPrompt | None = None) -> Tensor:
        """x (B, 3, S, S) -> (B, h, w, D): what the last block's attention would add at a patch that attends to itself alone,
        carried to the joint space; zeros where the prompt overwrites."""
        tokens, rows = self._before(x, 1, prompt)
        _, _, v = self.qkv(self.blocks[-1], tokens[:, self.prefix :])
        found = self.project(self.added(self.blocks[-1], v))
        return F.pad(found, (0, 0, self._overwritten(rows, prompt), 0)).unflatten(1, self.grid)

    @property
    def _read(self) -> slice:
        """The tokens that `pool` needs: CLS alone, or all."""
        return self.pooled if self.pooled.stop == 1 else slice(None)

    def _overwritten(self, rows: Tensor | None, prompt: VisualPrompt | None) -> int:
        """How many patches, from the first, the prompt overwrites."""
        return 0 if rows is None or prompt is None or prompt.insert else rows.shape[1]

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
        self.pooled = slice(0, 1) if self._trunk.global_pool == "token" else slice(self.prefix, None)

    def embed(self, x: Tensor) -> Tensor:
        trunk = self._trunk
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(x))))

    def norm(self, block: Any, tokens: Tensor) -> Tensor:
        return block.norm1(tokens)

    def heads(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attn, (b, t, _) = block.attn, normed.shape
        q, k, v = attn.qkv(normed).reshape(b, t, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        return attn.q_norm(q) * attn.scale, attn.k_norm(k), v

    def added(self, block: Any, mixed: Tensor) -> Tensor:
        return block.ls1(block.attn.proj(block.attn.norm(mixed.transpose(1, 2).flatten(2))))

    def finish(self, block: Any, tokens: Tensor, mixed: Tensor) -> Tensor:
        tokens = tokens + self.added(block, mixed)
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
        self.pooled = slice(0, 1) if visual.pool_type == "tok" else slice(self.prefix, None)

    def plain(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        for block in self.blocks:
            q, k, v = self.qkv(block, tokens)
            tokens = self.finish(block, tokens, F.scaled_dot_product_attention(q, k, v, scale=1.0))
        return self.pool(tokens)

    def embed(self, x: Tensor) -> Tensor:
        return self.visual._embeds(x)

    def norm(self, block: Any, tokens: Tensor) -> Tensor:
        return block.ln_1(tokens)

    def heads(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attn, (b, t, _) = block.attn, normed.shape
        joined = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = joined.reshape(b, t, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        return q * attn.head_dim**-0.5, k, v

    def added(self, block: Any, mixed: Tensor) -> Tensor:
        return block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))

    def finish(self, block: Any, tokens: Tensor, mixed: Tensor) -> Tensor:
        tokens = tokens + self.added(block, mixed)
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
        return self.visual(x) if prompt is None else self.visual.attnpool(self._convolved(x, prompt))

    def _convolved(self, x: Tensor, prompt: VisualPrompt | None) -> Tensor:
        """The last stage's output, (B, C, h, w). Raises BackboneError."""
        visual = self.visual
        stages = [visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        if prompt is None:
            for stage in stages:
                x = stage(x)
            return x
        if prompt.insert:
            raise BackboneError("A convolutional image tower cannot insert a visual prompt.", "Overwrite channels instead.")
        rows = _rows(prompt, len(stages), self.width, visual.conv3.out_channels - 1, x)  # the stem has the fewest channels
        for stage, row in zip(stages, rows, strict=True):
            x = stage(x)
            values = row[:, :, None].expand(len(x), -1, *x.shape[2:])  # (B, M, h, w)
            x = torch.cat([x[:, :1], values, x[:, 1 + len(row) :]], dim=1)
        return x

    def feature_map(self, x: Tensor, prompt: VisualPrompt | None = None) -> FeatureMap:
        """The last stage's output; the graph goes through the attention pool."""
        with torch.no_grad():
            values = self._convolved(x, prompt).permute(0, 2, 3, 1).contiguous()
        with torch.enable_grad():
            values = values.requires_grad_(True)
            features = F.normalize(self.visual.attnpool(values.permute(0, 3, 1, 2)).float(), dim=-1)
        return FeatureMap(values, features)


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
