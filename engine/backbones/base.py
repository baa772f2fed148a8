"""What a backbone is: protocols, no models.

Legend: B images, N texts, L tokens, W token width, D joint embedding, S input size, h x w patch grid, H heads,
T tokens of the image tower (prefix tokens first, then h * w patches).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from engine.preprocess import Preprocess
from engine.types import VisualPrompt

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Backbone(Protocol):
    """Turns images and texts into points of one space.

    id : the name it was loaded by; source : where its weights came from, in words
    device, dtype : where and in which precision both towers compute ("cpu", "float32")
    logit_scale : already exponentiated (it is stored as a logarithm)
    """

    id: str
    source: str
    device: str
    dtype: str
    dim: int
    logit_scale: float
    preprocess: Preprocess

    @property
    def weights_hash(self) -> str:
        """sha256 over the sorted (name, dtype, shape, bytes) of both towers as stored, plus the tokenizer's
        and the preprocessing's JSON."""
        ...

    def encode_images(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
        """x (B, 3, S, S) float, normalised by `preprocess` -> (B, D) float32, unit length."""
        ...

    def encode_texts(self, texts: list[str]) -> Tensor:
        """N sentences -> (N, D) float32, unit length. Raises BackboneError where one is too long."""
        ...


@runtime_checkable
class WithoutTorch(Backbone, Protocol):
    """An image tower alone, which encodes where there is no torch in the process. of : the backbone that it is the tower of."""

    of: str

    def encode_arrays(self, pixels: np.ndarray, visual_prompt: VisualPrompt | None = None) -> np.ndarray:
        """As encode_images, of arrays."""
        ...


@dataclass(frozen=True)
class Embedded:
    """Texts at the door of the text tower. vectors : (N, L, W); ids : (N, L), which say where padding and the
    end token are. A prompt method replaces rows of `vectors` and leaves `ids` alone."""

    vectors: Tensor
    ids: Tensor


@runtime_checkable
class PromptTunable(Backbone, Protocol):
    """Law: encode_embedded(embed_tokens(tokenize(texts))) equals encode_texts(texts), exactly.

    context_length : the longest L the tower takes; token_width : W; text_layers : its blocks
    """

    context_length: int
    token_width: int
    text_layers: int

    def tokenize(self, texts: list[str]) -> Tensor:
        """(N, L) int64, L trimmed to the longest text. Raises BackboneError where one exceeds context_length."""
        ...

    def embed_tokens(self, ids: Tensor) -> Embedded:
        """Word embeddings only; positions and token types are added inside the tower."""
        ...

    def encode_embedded(self, text: Embedded, dropout: bool = False, deep: Tensor | None = None) -> Tensor:
        """(N, D) float32, unit length, differentiable in text.vectors and deep. `dropout` turns the tower's own dropout
        on for this call (upstream's BiomedCoOp trains so, methods' `faithful=True`).

        deep : (K, N or 1, n, W), K below text_layers: before block k = 1..K the rows 1 to n (after the first token) are
        replaced by deep[k - 1]; block 0 sees text.vectors as they are (deep text prompts, arXiv:2210.03117)
        """
        ...


@runtime_checkable
class PatchLevel(Backbone, Protocol):
    """Patches in the joint space."""

    def encode_patches(self, x: Tensor) -> Tensor:
        """x (B, 3, S, S) -> (B, h, w, D) float32, unit length."""
        ...


@runtime_checkable
class VisualPrompted(Backbone, Protocol):
    """Takes a visual prompt in `encode_images`; others refuse one with BackboneError.

    visual_prompt_width : the width of one token; a convolutional tower has 1, and its "tokens" are its channels 1 to M,
    set to the value after the stem and after each stage
    inserts_visual_prompts : False where it can only overwrite
    """

    visual_prompt_width: int
    inserts_visual_prompts: bool


@dataclass(frozen=True)
class AttentionLayer:
    """One block of the image tower, with a graph from `weights` to `pooled`.

    weights : (B, H, T, T), softmaxed, rows attend to columns
    pooled : (B, D), unit length: the block's mean token carried to the joint space
    """

    weights: Tensor
    pooled: Tensor


@runtime_checkable
class ValuePatches(Backbone, Protocol):
    """Patches in the joint space by the last block's value path: no attention mixes them (MaskCLIP, arXiv:2112.01071)."""

    def value_patches(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
        """x (B, 3, S, S) -> (B, h, w, D) float32, unit length; zeros at patches that the visual prompt overwrites."""
        ...


@runtime_checkable
class LastAttention(Backbone, Protocol):
    """Shows the attention of its last block; forward only.

    grid : (h, w) patches; prefix_tokens : how many tokens come before the patches (CLS, registers)
    pooled_tokens : the tokens that the image's feature is read from: the first (CLS), or all patches
    """

    grid: tuple[int, int]
    prefix_tokens: int
    pooled_tokens: slice

    def last_attention(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
        """(B, H, T, T), softmaxed, rows attend to columns. With a visual prompt, what goes to its tokens is left out (rows
        sum to less than 1), and patches that it overwrites have a row and a column of zeros."""
        ...


@runtime_checkable
class EveryAttention(LastAttention, Protocol):
    """Shows the attention of all its blocks; forward only."""

    def every_attention(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> list[Tensor]:
        """First block to last, each as `last_attention` has it."""
        ...


@dataclass(frozen=True)
class FeatureMap:
    """What the image's feature is made of, place by place, with a graph from `values` to `features`.

    values : (B, h, w, C), zeros at patches that a visual prompt overwrites
    features : (B, D), unit length
    """

    values: Tensor
    features: Tensor


@runtime_checkable
class FeatureMapped(Backbone, Protocol):
    """Shows its last feature map to gradient maps: a ViT's patches behind the last block's first norm, a ResNet's last stage."""

    def feature_map(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> FeatureMap: ...


@runtime_checkable
class InputDifferentiable(Backbone, Protocol):
    """Its features can be followed back to the pixels."""

    def differentiable_features(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
        """As `encode_images`, with a graph to x where x asks for gradients."""
        ...


@dataclass(frozen=True)
class LastBlock:
    """The last block's attention, with a graph from `mixed` to `features`. R tokens that the feature is read from (CLS, or all).

    queries : (B, H, R, W / H); keys, values : (B, H, T - overwritten, W / H), without a visual prompt's own
    mixed : (B, H, R, W / H), the heads' outputs before their projection
    features : (B, D), unit length
    overwritten : how many patches, from the first, a visual prompt stands in place of
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    mixed: Tensor
    features: Tensor
    overwritten: int


@runtime_checkable
class LastBlockOpen(Backbone, Protocol):
    """Opens its last block. grid and prefix_tokens as in LastAttention."""

    grid: tuple[int, int]
    prefix_tokens: int

    def last_block(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> LastBlock: ...


@runtime_checkable
class Differentiable(Backbone, Protocol):
    """Shows the attention of its last blocks to gradient maps.

    grid : (h, w) patches; prefix_tokens : how many tokens come before the patches (CLS, registers)
    """

    grid: tuple[int, int]
    prefix_tokens: int

    def attention_layers(self, x: Tensor, last: int, visual_prompt: VisualPrompt | None = None) -> list[AttentionLayer]:
        """The last `last` blocks, first to last. Each layer's graph reaches back to its own weights only.

        With a visual prompt the weights are those of the image's own tokens: rows sum to less than 1, and patches that it
        overwrites have a column of zeros.
        """
        ...
