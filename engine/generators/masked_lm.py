"""Words by a masked language model: a sentence about the class with one gap, which the model fills.

Source: MIU-VL (arXiv:2209.15517), its generator `lama`: one sentence a class and slot, the k likeliest words of the mask's logits.
`faithful` is that: the whole vocabulary, raw pieces included; rank j of every slot fills prompt j (attribute prompts with `faithful` and
`rank`). The default takes words of a closed list a slot (assets/words), because raw ranks hold words such as "right" as a location.

An entry of several pieces, be it a word or a phrase of several words, stands at as many masks and is filled from the left: log p = the
sum over its pieces of log p(piece | the pieces before it, masks from there on). Within a word that is the pseudo-log-likelihood of
arXiv:2305.10588 (within_word_l2r); within the phrase, whose later words are masked as well, it is our extension; for one piece it is the
paper's own number. Scoring a piece while the later ones are seen would favour rare words, whose pieces give one another away. A list's scores go through log-softmax, so that the slots of classes compare. Longer phrases still score lower.
Left out: several gaps in one sentence; a correction for how frequent a word is without the class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import transformers

from engine.errors import BackboneError, DataError
from engine.generators import _pretrained
from engine.generators.base import Words, check_name, look, name_of, with_attributes, written
from engine.tasks import ASSETS, SLOTS, DescriptionBank, Task
from engine.training import Watch
from engine.types import Image

MODEL, REVISION = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", "d673b8835373c6fa116d6d8006b33d48734e305d"
# MIU-VL, make_autopromptsv2.py; the sentence for texture is ours
SENTENCES = {
    "colour": "The typical color of {c} is {mask}.",
    "shape": "The typical shape of {c} is {mask}.",
    "location": "The location of {c} is at {mask}.",
    "texture": "The typical texture of {c} is {mask}.",
}
PAPER = ("colour", "shape", "location")  # which it fills
MOST, LONGEST = 1000, 60  # words of a list; characters of a word
LARGEST = 1 << 20  # bytes of a file of words
BATCH = 32


class MaskedLM:
    name = "masked-lm"
    needs_images = False
    writes = "attributes"

    @dataclass(frozen=True)
    class Config:
        """model : an id of the hub or a folder; revision : of the hub, "" takes the newest (the default model's is pinned);
        top : words a slot; closed : words of a list, else whole words of the vocabulary; words : a file of lists of your own by
        slot, {"colour": ["dark", ...], ...}, for assets/words; name : by which name the class is asked for (label, medical, query
        or lay); faithful : as the paper does it."""

        model: str = MODEL
        revision: str = ""
        top: int = 3
        closed: bool = True
        words: str = ""
        name: str = "medical"
        faithful: bool = False

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()
        check_name(self.config.name)
        if not 1 <= self.config.top <= 50:
            raise DataError(f"{self.config.top} words a slot cannot be taken.", "Give 1 to 50.")

    @cached_property
    def filler(self) -> Filler:
        """The model, loaded when it is first needed. Raises BackboneError."""
        pinned = REVISION if self.config.model == MODEL else ""
        return Filler(_pretrained.find(self.config.model, self.config.revision or pinned))

    def fill(self, task: Task, images: Iterable[tuple[Image, str]] = (), watch: Watch | None = None) -> DescriptionBank:
        return self.fill_slots(task, PAPER if self.config.faithful else SLOTS, watch)

    def fill_slots(self, task: Task, slots: Sequence[str], watch: Watch | None = None) -> DescriptionBank:
        """As fill, of some slots."""
        bank, config = written(task), self.config
        closed = config.closed and not config.faithful
        lists, of = vocabulary(task, config.words) if closed else ({}, "whole vocabulary")
        found: Words = {label: {} for label in task.names}
        for i, (label, slot) in enumerate((label, slot) for label in task.names for slot in slots):
            look(watch, i, len(task.names) * len(slots))
            sentence = SENTENCES[slot].replace("{c}", name_of(bank, label, config.name))
            if closed:
                scores = self.filler.scores(sentence, lists[slot])
                best = sorted(scores, key=lambda word: -scores[word])[: config.top]  # ties keep the list's order
            else:
                best = self.filler.likeliest(sentence, config.top, whole=not config.faithful)
            found[label][slot] = tuple(best)
        step = {
            "by": self.name,
            **self.filler.source.identity(),
            "sentences": {slot: SENTENCES[slot] for slot in slots},
            "name": config.name,
            "top": config.top,
            "vocabulary": of,
            "faithful": config.faithful,
        }
        return with_attributes(bank, found, step)


def vocabulary(task: Task, file: str = "") -> tuple[dict[str, tuple[str, ...]], str]:
    """The lists of words by slot for a task's kind of image and body part, and which they are, with a hash. file : a user's own.
    Raises DataError."""
    if file:
        path = Path(file)
        try:
            if path.stat().st_size > LARGEST:
                raise ValueError(f"more than {LARGEST} bytes")
            raw = path.read_bytes()
            found = json.loads(raw)
            lists = {slot: tuple(dict.fromkeys(word.strip() for word in found[slot])) for slot in SLOTS}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"The words of {path.name!r} cannot be read ({type(error).__name__}).",
                'It should be {"colour": ["dark", ...], "shape": [...], "location": [...], "texture": [...]}.',
            ) from error
        for slot, words in lists.items():
            wrong = next((word for word in words if not word or len(word) > LONGEST), None)
            if not words or len(words) > MOST or wrong is not None:
                why = f"the word {wrong[:20]!r}" if wrong is not None else f"{len(words)} words"
                raise DataError(
                    f"The words of {path.name!r} have {why} for {slot!r}.",
                    f"Give 1 to {MOST} words of up to {LONGEST} characters a slot.",
                )
        return lists, f"a file of the user's, sha256 {hashlib.sha256(raw).hexdigest()}"
    lists, sha = {}, hashlib.sha256()
    for slot in SLOTS:
        raw = (ASSETS / "words" / f"{slot}.json").read_bytes()
        sha.update(raw)
        words = json.loads(raw)["words"]
        lists[slot] = tuple(dict.fromkeys(w for key in ("any", task.modality, task.organ) for w in words.get(key, ())))
    return lists, f"assets/words, sha256 {sha.hexdigest()}"


class Filler:
    """A masked language model that fills the gap {mask} of a sentence.

    Legend: N contexts, L tokens, m masks, V vocabulary.
    """

    def __init__(self, source: _pretrained.Source):
        self.source = source
        if source.config().get("model_type") not in transformers.models.auto.modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            kind = str(source.config().get("model_type"))[:40]
            raise BackboneError(
                f"The model {source.id!r} is no masked language model (its type is {kind!r}).",
                "Choose one that fills a mask, as BERT does.",
            )
        self.tokenizer: Any = _pretrained.tokenizer(source)
        if self.tokenizer.mask_token is None:
            raise BackboneError(f"The tokenizer of {source.id!r} has no mask token.", "Choose a masked language model.")
        self.model: Any = _pretrained.load(transformers.AutoModelForMaskedLM, source, "fill-mask head")
        room = getattr(self.model.config, "max_position_embeddings", 512)
        self.room = min(room, self.tokenizer.model_max_length)

    def _ids(self, sentence: str, masks: int) -> torch.Tensor:
        """(L,) with so many masks at the gap. Raises DataError."""
        text = sentence.replace("{mask}", " ".join([self.tokenizer.mask_token] * masks))
        ids = torch.tensor(self.tokenizer(text).input_ids)
        there = int((ids == self.tokenizer.mask_token_id).sum())
        if there != masks or sentence.count("{mask}") != 1:
            raise DataError(
                f"The sentence {sentence[:80]!r} does not have exactly one mask.", "Take the mask out of its names."
            )
        if len(ids) > self.room:
            raise DataError(
                f"The sentence that begins {sentence[:60]!r} is too long for {self.source.id!r}: {len(ids)} tokens of {self.room}.",
                "Give the class a shorter name.",
            )
        return ids

    def _read(self, sentence: str, contexts: Sequence[tuple[int, tuple[int, ...]]]) -> torch.Tensor:
        """(N, V) log-probabilities at the first mask that is left, for contexts (m, pieces that fill the first masks)."""
        rows = []
        for masks, group in groupby(sorted(contexts), key=lambda each: each[0]):
            base = self._ids(sentence, masks)
            places = (base == self.tokenizer.mask_token_id).nonzero().flatten()
            filled = [pieces for _, pieces in group]
            for start in range(0, len(filled), BATCH):
                part = filled[start : start + BATCH]
                ids = base.repeat(len(part), 1)
                for row, pieces in zip(ids, part, strict=True):
                    row[places[: len(pieces)]] = torch.tensor(pieces, dtype=ids.dtype)
                with torch.no_grad():
                    logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                at = places[[len(pieces) for pieces in part]]
                rows.append(logits[torch.arange(len(part)), at].float().log_softmax(dim=-1))
        return torch.cat(rows)

    def scores(self, sentence: str, words: Sequence[str]) -> dict[str, float]:
        """log p of each word at the gap, among these words alone. A word with a piece that the model does not know is left out.
        Raises BackboneError where none is left, DataError for the sentence."""
        pieces = {word: tuple(self.tokenizer(f" {word}", add_special_tokens=False).input_ids) for word in words}
        known = {word: ids for word, ids in pieces.items() if ids and self.tokenizer.unk_token_id not in ids}
        if not known:
            raise BackboneError(
                f"The model {self.source.id!r} knows none of the {len(words)} words.", "Give it other words."
            )
        contexts = sorted({(len(ids), ids[:i]) for ids in known.values() for i in range(len(ids))})
        read = dict(zip(contexts, self._read(sentence, contexts), strict=True))
        sums = [sum(float(read[len(ids), ids[:i]][piece]) for i, piece in enumerate(ids)) for ids in known.values()]
        return dict(zip(known, torch.tensor(sums).log_softmax(dim=0).tolist(), strict=True))

    def likeliest(self, sentence: str, top: int, whole: bool) -> list[str]:
        """The likeliest single pieces of the whole vocabulary, as they are; `whole` leaves only words of letters, two at least,
        that are no continuation of another piece."""
        row = self._read(sentence, [(1, ())])[0]
        if not whole:
            return self.tokenizer.convert_ids_to_tokens(row.topk(min(top, len(row))).indices.tolist())
        found: list[str] = []
        for index in row.argsort(descending=True).tolist():
            piece = self.tokenizer.convert_ids_to_tokens(index)
            word = self.tokenizer.convert_tokens_to_string([piece]).strip()
            if index not in self.tokenizer.all_special_ids and self._begins(piece) and word.isalpha() and len(word) > 1:
                found += [word] if word not in found else []
            if len(found) == top:
                break
        return found

    @cached_property
    def _mark(self) -> str:
        """What byte-pair pieces that begin a word begin with, "" for a WordPiece vocabulary, whose other pieces begin with ##."""
        (first, *_) = self.tokenizer.convert_ids_to_tokens(self.tokenizer(" x", add_special_tokens=False).input_ids)
        return first[0] if first[0] in "\u0120\u2581" else ""

    def _begins(self, piece: str) -> bool:
        return piece.startswith(self._mark) if self._mark else not piece.startswith("##")
