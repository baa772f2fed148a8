"""A context in place of a prompt's first words: what every prompt-learning method and its prompt sets encode.

Rows 1 to n after [CLS] or the start token are replaced by the context; the class name, the full stop and the end token follow
as they are; positions and the mask are the template's own (CoOp, arXiv:2109.01134, "end" position).

Legend: A contexts, C classes, n context rows, K deep layers, L tokens, W token width, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.backbones.base import Backbone, Embedded, PromptTunable
from engine.errors import DataError

HAND_WRITTEN = "a photo of a {}."  # the prompt that the papers start from and compare with


def sentences(template: str, names: Sequence[str]) -> list[str]:
    return [template.replace("{}", name) for name in names]


def hand_written(backbone: Backbone, names: Sequence[str]) -> Tensor:
    """(C, D), unit length: zero-shot's classes."""
    return backbone.encode_texts(sentences(HAND_WRITTEN, names))


def start_of(backbone: PromptTunable, words: str, tokens: int) -> Tensor:
    """(n, W) float32: the embeddings of the first n word pieces. Raises DataError where there are fewer."""
    ids = backbone.tokenize([words]).to(backbone.device)
    if ids.shape[1] < tokens + 2:
        raise DataError(
            f"{words!r} has {ids.shape[1] - 2} word pieces on {backbone.id!r}, not {tokens}.", "Take fewer tokens."
        )
    with torch.no_grad():
        return backbone.embed_tokens(ids).vectors[0, 1 : 1 + tokens].float().clone()


class Prompts:
    """The prompts of C classes, into which contexts are put. tokens : n; 0 takes all word pieces before the class.

    start : (n, W) float32, the template's own rows
    """

    def __init__(self, backbone: PromptTunable, template: str, names: Sequence[str], tokens: int):
        tokens = tokens or backbone.tokenize([template.partition("{}")[0]]).shape[1] - 2  # less the first and last token
        if tokens < 1:
            raise DataError(f"The template {template!r} has no word before the class to learn.", "Start it with some words.")
        ids = backbone.tokenize(sentences(template, names)).to(backbone.device)  # (C, L)
        if ids.shape[1] < tokens + 3 or (ids[:, 1 : 1 + tokens] != ids[:1, 1 : 1 + tokens]).any():
            raise DataError(
                f"The first {tokens} word pieces of {template!r} are not the same for every class on {backbone.id!r}.",
                "Take fewer tokens, or more words before the class.",
            )
        with torch.no_grad():
            self.words = backbone.embed_tokens(ids)
        self.backbone, self.ids, self.tokens = backbone, ids, tokens
        self.start = self.words.vectors[0, 1 : 1 + tokens].float().clone()  # (n, W)

    def insert(self, context: Tensor) -> Tensor:
        """contexts (A, n, W) -> (A, C, L, W)."""
        base = self.words.vectors.expand(len(context), -1, -1, -1)
        rows = context[:, None].to(base.dtype).expand(-1, base.shape[1], -1, -1)
        return torch.cat([base[:, :, :1], rows, base[:, :, 1 + self.tokens :]], dim=2)

    def encode(self, context: Tensor, dropout: bool = False, deep: Tensor | None = None) -> Tensor:
        """contexts (A, n, W), deep (A, K, n, W) -> (A, C, D), unit length."""
        vectors = self.insert(context)
        many = vectors.shape[:2]
        text = Embedded(vectors.flatten(0, 1), self.ids.repeat(many[0], 1))
        if deep is not None:
            deep = deep.transpose(0, 1).repeat_interleave(many[1], dim=1)  # (K, A * C, n, W)
        return self.backbone.encode_embedded(text, dropout, deep).unflatten(0, many)
