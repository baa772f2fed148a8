"""The text towers: BERT with a pooled CLS row, and CLIP's causal transformer, as open_clip builds them.

Each takes texts as word embeddings, so that a prompt method can put learned vectors in place of words. Features are
not normalised. Legend as in base.py.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.hf_model import ClsLastHiddenStatePooler, HFTextEncoder
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor, nn

from engine.errors import BackboneError


def _prompted(tokens: Tensor, rows: Tensor) -> Tensor:
    """tokens (N, L, W) with rows 1 to n replaced by `rows` (N or 1, n, W)."""
    rows = rows.to(tokens).expand(len(tokens), -1, -1)
    return torch.cat([tokens[:, :1], rows, tokens[:, 1 + rows.shape[1] :]], dim=1)


class BertText:
    """BERT: [CLS] words [SEP], padding masked out. One call at a time: dropout and deep prompts are switches of the module."""

    def __init__(self, text: Any, tokenizer: Path):
        self._text, self._bert = text, text.transformer
        self._blocks = self._bert.encoder.layer
        self.layers, self.width = len(self._blocks), int(text.config.hidden_size)
        self.pad = int(text.config.pad_token_id)
        self.vocabulary = tokenizer.read_bytes()
        if tokenizer.suffix == ".txt":  # BiomedBERT's repository has no tokenizer.json
            self._tokenizer = BertWordPieceTokenizer(str(tokenizer), lowercase=True)
        else:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._clean = open_clip.tokenizer.get_clean_fn("whitespace")
        self._lock = threading.Lock()

    def ids(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch([self._clean(text) for text in texts])]

    def embed(self, ids: Tensor) -> Tensor:
        return self._bert.get_input_embeddings()(ids)

    def features(self, vectors: Tensor, ids: Tensor, dropout: bool, deep: Tensor | None) -> Tensor:
        """vectors (N, L, W), ids (N, L) -> (N, D)."""
        mask = (ids != self.pad).long()
        if not dropout and isinstance(self._text.pooler, ClsLastHiddenStatePooler):
            return self._text.proj(self._cls(vectors, mask.bool(), deep))
        with self._lock, self._deep_prompts(deep):
            self._bert.train(dropout)
            try:
                out = self._bert(inputs_embeds=vectors, attention_mask=mask)
            finally:
                self._bert.eval()
        return self._text.proj(self._text.pooler(out, mask))

    def _cls(self, vectors: Tensor, mask: Tensor, deep: Tensor | None) -> Tensor:
        """(N, W): the CLS row by BERT's own arithmetic, without the library's way around it, and of the last block no other row:
        none is read. A step of prompt learning is a fifth shorter by that."""
        embeddings, rows = self._bert.embeddings, [] if deep is None else list(deep)
        places = embeddings.position_embeddings.weight[: vectors.shape[1]] + embeddings.token_type_embeddings.weight[0]
        tokens = embeddings.LayerNorm(vectors + places)
        for k, block in enumerate(self._blocks):
            if 0 < k <= len(rows):
                tokens = _prompted(tokens, rows[k - 1])
            asked = tokens[:, :1] if k + 1 == self.layers else tokens
            own, out = block.attention.self, block.attention.output
            q, key, v = (
                each.unflatten(-1, (own.num_attention_heads, -1)).transpose(1, 2)  # (N, heads, L, W / heads)
                for each in (own.query(asked), own.key(tokens), own.value(tokens))
            )
            seen = F.scaled_dot_product_attention(q, key, v, attn_mask=mask[:, None, None]).transpose(1, 2).flatten(2)
            seen = out.LayerNorm(out.dense(seen) + asked)
            tokens = block.output.LayerNorm(block.output.dense(block.intermediate(seen)) + seen)
        return tokens[:, 0]

    @contextmanager
    def _deep_prompts(self, deep: Tensor | None) -> Iterator[None]:
        def hook(rows: Tensor) -> Any:
            return lambda _, inputs: (_prompted(inputs[0], rows), *inputs[1:])

        rows = [] if deep is None else list(deep)
        hooks = [block.register_forward_pre_hook(hook(r)) for block, r in zip(self._blocks[1:], rows, strict=False)]
        try:
            yield
        finally:
            for each in hooks:
                each.remove()


class CausalText:
    """CLIP's transformer: SOT words EOT, then zeros. Attention is causal and the EOT row is read, so that what follows
    it changes nothing. It has no dropout."""

    pad = 0

    def __init__(self, text: Any, options: dict[str, Any]):
        self._text, self._blocks = text, text.transformer.resblocks
        self.layers, self.width = len(self._blocks), int(text.transformer.width)
        self.vocabulary = gzip.decompress(Path(default_bpe()).read_bytes())
        self._tokenizer = SimpleTokenizer(**options)

    def ids(self, texts: list[str]) -> list[list[int]]:
        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        return [[start, *self._tokenizer.encode(text), end] for text in texts]

    def embed(self, ids: Tensor) -> Tensor:
        return self._text.token_embedding(ids)

    def features(self, vectors: Tensor, ids: Tensor, dropout: bool, deep: Tensor | None) -> Tensor:
        """vectors (N, L, W), ids (N, L) -> (N, D)."""
        tokens = vectors + self._text.positional_embedding[: ids.shape[1]]
        rows = [] if deep is None else list(deep)
        for k, block in enumerate(self._blocks):
            if 0 < k <= len(rows):
                tokens = _prompted(tokens, rows[k - 1])
            attn = block.attn  # torch's own module leaves the fused kernel where no gradient is asked for
            joined = F.linear(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias)
            q, key, v = joined.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, L, W / heads)
            seen = F.scaled_dot_product_attention(q, key, v, is_causal=True).transpose(1, 2).flatten(2)
            tokens = tokens + block.ls_1(attn.out_proj(seen))
            tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        last = self._text.ln_final(
            tokens[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
        )  # EOT is the highest id
        projection = self._text.text_projection
        return projection(last) if isinstance(projection, nn.Linear) else last @ projection


# What changes the shape of the causal tower, and the values that are read.
_CAUSAL = {"pool_type": "argmax", "no_causal_mask": False, "embed_cls": False, "proj_type": "linear", "output_tokens": False}


def text_tower(model: Any, config: dict[str, Any], tokenizer: Path | None) -> BertText | CausalText:
    """The tower of open_clip's model. Raises BackboneError for a kind that is not read, or without a tokenizer.

    config : its text_cfg; tokenizer : where BERT's tokenizer.json or vocab.txt should be (CLIP's is part of open_clip)
    """
    text = getattr(model, "text", model)
    if isinstance(text, HFTextEncoder):
        if text.config.model_type == "bert" and tokenizer:
            if not tokenizer.is_file():
                raise BackboneError(
                    f"The folder {str(tokenizer.parent)!r} has no {tokenizer.name}.", "Copy the tokenizer's files too."
                )
            return BertText(text, tokenizer)
    elif not config.get("hf_tokenizer_name") and all(config.get(k, v) == v for k, v in _CAUSAL.items()):
        return CausalText(text, config.get("tokenizer_kwargs") or {})
    raise BackboneError(
        f"The text tower ({config.get('hf_model_name') or type(text).__name__}) is of a kind that is not read.",
        "Choose a model with BERT or CLIP's causal text tower.",
    )
