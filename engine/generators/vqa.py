"""Words by a model that answers questions about an image.

Source: MIU-VL (arXiv:2209.15517), its mode `vqa`: colour, shape and place of the finding are asked of every image, the answer is taken
as it is (beam search of 10, no run of three tokens twice). Its model is OFA, which is not in transformers; BLIP (arXiv:2201.12086) is
taken in its place, or any other that transformers knows to answer questions (`_read`: BLIP and BLIP-2 write an answer, ViLT chooses
one of its list, image-text-to-text models are asked in a chat).

For a bank, many images vote: the most frequent answers of a slot, the first seen first where two are as frequent. What only one image
said is left out, since it may have been read off that picture (a burned-in name); the same pixels again are the same image. Each image
is asked about the class that it is labelled with, an image without a label about every class. For one image alone (`for_image`) the question is
about "the finding", and every class gets the same words: classes stay comparable.
Left out: answers are not restricted to a list, as in the paper; "yes", "no" and answers that are no words are dropped and counted.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.auto import modeling_auto

from engine.errors import BackboneError, DataError
from engine.generators import _pretrained
from engine.generators.base import Words, check_name, look, name_of, with_attributes, written
from engine.tasks import DescriptionBank, Task
from engine.training import Watch
from engine.types import Image

MODEL, REVISION = "Salesforce/blip-vqa-base", "787b3d35d57e49572baabd22884b3d5a05acf072"
# MIU-VL, its figure of the framework; the question for texture is ours
QUESTIONS = {
    "colour": "What color is this {c}?",
    "shape": "What is the shape of this {c}?",
    "location": "Where is this {c} located?",
    "texture": "What is the texture of this {c}?",
}
PAPER = ("colour", "shape", "location")
NO_ANSWER = ("yes", "no", "unknown", "none", "n/a")
LONGEST = 60  # characters of an answer
CHAT = "Answer with one or two words: "  # before the question, for models that would write a paragraph
TOKENS = 10  # of an answer
AGREEING = 2  # images that must give an answer


class VQA:
    name = "vqa"
    needs_images = True
    writes = "attributes"

    @dataclass(frozen=True)
    class Config:
        """model : an id of the hub or a folder; revision : of the hub, "" takes the newest (the default model's is pinned); top :
        words a slot; name : by which name a class is asked for (label, medical, query or lay); subject : what is asked for where it
        is about no class; beams : of the search for an answer."""

        model: str = MODEL
        revision: str = ""
        top: int = 3
        name: str = "lay"
        subject: str = "finding"
        beams: int = 10

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()
        check_name(self.config.name)
        if self.config.top < 1 or not 1 <= self.config.beams <= 50:
            raise DataError(
                f"{self.config.top} words a slot by {self.config.beams} beams cannot be taken.",
                "Give 1 or more, and 1 to 50 beams.",
            )

    @cached_property
    def model(self) -> Answering:
        """Loaded when it is first needed. Raises BackboneError."""
        pinned = REVISION if self.config.model == MODEL else ""
        return Answering(_pretrained.find(self.config.model, self.config.revision or pinned), self.config.beams)

    def fill(self, task: Task, images: Iterable[tuple[Image, str]] = (), watch: Watch | None = None) -> DescriptionBank:
        return self.fill_slots(task, images, PAPER, watch)

    def fill_slots(
        self, task: Task, images: Iterable[tuple[Image, str]], slots: Sequence[str], watch: Watch | None = None
    ) -> DescriptionBank:
        """As fill, of some slots. A slot of which no answer came twice stays as it was (`as_it_was` in the provenance)."""
        bank = written(task)
        votes = {label: {slot: Counter[str]() for slot in slots} for label in task.names}
        known = set[tuple[str, str]]()
        seen, dropped, of = 0, 0, len(images) if isinstance(images, Sequence) else 0
        for image, labelled in images:
            look(watch, seen, of)
            if labelled and labelled not in votes:
                raise DataError(f"{labelled[:80]!r} is no class of this task.", f"Its classes are: {', '.join(task.names)}.")
            digest = hashlib.sha256(image.pixels.tobytes()).hexdigest()
            labels = [each for each in ([labelled] if labelled else task.names) if (digest, each) not in known]
            known |= {(digest, each) for each in labels}
            asked = [(label, slot) for label in labels for slot in slots]
            questions = [QUESTIONS[slot].format(c=name_of(bank, label, self.config.name)) for label, slot in asked]
            for (label, slot), answer in zip(asked, map(_word, self.model.answers(image, questions)), strict=True):
                votes[label][slot].update([answer] if answer else [])
                dropped += not answer
            seen += 1
        if not seen:
            raise DataError("There is no image to ask about.", "Give some of a training split.")
        counts = {
            label: {
                slot: {word: count for word, count in heard.most_common(self.config.top) if count >= AGREEING}
                for slot, heard in each.items()
            }
            for label, each in votes.items()
        }
        found: Words = {label: {slot: tuple(kept) for slot, kept in each.items() if kept} for label, each in counts.items()}
        step = {
            "name": self.config.name,
            "images": len({digest for digest, _ in known}),
            "agreeing": AGREEING,
            "answers": counts,
            "as_it_was": {label: [slot for slot in slots if slot not in each] for label, each in found.items()},
            "dropped": dropped,
        }
        return with_attributes(bank, found, self._step(slots) | step)

    def answers_of(self, image: Image, slots: Sequence[str] = PAPER) -> dict[str, tuple[str, ...]]:
        """Words by slot for one image, asked about no class; a slot whose answer is no word is empty. Raises BackboneError."""
        answers = self.model.answers(image, [QUESTIONS[slot].format(c=self.config.subject) for slot in slots])
        return {slot: tuple(filter(None, [_word(answer)])) for slot, answer in zip(slots, answers, strict=True)}

    def for_image(self, task: Task, image: Image, slots: Sequence[str] = PAPER) -> DescriptionBank:
        """A bank for one image alone: its words, the same for every class, so that classes differ by their other words only. A slot
        without an answer is empty."""
        words = self.answers_of(image, slots)
        found: Words = {label: dict(words) for label in task.names}
        return with_attributes(written(task), found, self._step(slots) | {"subject": self.config.subject, "images": 1})

    def _step(self, slots: Sequence[str]) -> dict[str, Any]:
        questions = {slot: QUESTIONS[slot] for slot in slots}
        return {
            "by": self.name,
            **self.model.source.identity(),
            "questions": questions,
            "beams": self.config.beams,
            "top": self.config.top,
        }


def _word(answer: str) -> str:
    """An answer as a word of a slot, "" where it is none."""
    word = " ".join(answer.lower().split()).strip(" .,!?\"'")
    return word if re.search(r"[a-z]", word) and word not in NO_ANSWER and len(word) <= LONGEST else ""


class Answering:
    """A model that answers questions about an image."""

    def __init__(self, source: _pretrained.Source, beams: int):
        self.source, self.beams = source, beams
        self._kind, cls = _read(source)
        self.processor: Any = _pretrained.processor(source)
        self.model: Any = _pretrained.load(cls, source, "answer head")

    def answers(self, image: Image, questions: Sequence[str]) -> list[str]:
        """One answer a question. Raises BackboneError where the model does not take the image."""
        pixels = np.round(np.clip(image.pixels, 0, 1) * 255).astype(np.uint8)
        pixels = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels  # (H, W, 3)
        return [_pretrained.guarded(self.source, partial(self._answer, pixels, question)) for question in questions]

    def _answer(self, pixels: np.ndarray, question: str) -> str:
        with torch.no_grad():
            if self._kind == "chosen":
                inputs = self.processor(images=pixels, text=question, return_tensors="pt")
                return str(self.model.config.id2label[int(self.model(**inputs).logits[0].argmax())])
            search = {"num_beams": self.beams, "no_repeat_ngram_size": 3, "max_new_tokens": TOKENS}
            if self._kind == "written":
                inputs = self.processor(images=pixels, text=question, return_tensors="pt")
                return str(self.processor.decode(self.model.generate(**inputs, **search)[0], skip_special_tokens=True))
            parts = [{"type": "image"}, {"type": "text", "text": CHAT + question}]
            text = self.processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
            inputs = self.processor(images=pixels, text=text, return_tensors="pt")
            made = self.model.generate(**inputs, **search)[0, inputs.input_ids.shape[1] :]
            return str(self.processor.decode(made, skip_special_tokens=True))


def _read(source: _pretrained.Source) -> tuple[str, Any]:
    """How a model answers ("written", "chosen" or "chat") and its class in transformers, by its configuration. Raises BackboneError."""
    about = source.config()
    kind, named = str(about.get("model_type"))[:40], about.get("architectures")
    if kind == "ofa":
        raise BackboneError(
            f"{source.id!r} is an OFA model, which transformers does not have.",
            f"Choose {MODEL}, or another that answers questions.",
        )
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    if modeling_auto.MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES.get(kind) == architecture:
        return ("chosen" if kind == "vilt" else "written"), getattr(transformers, architecture)
    if modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind) == architecture:
        return "chat", transformers.AutoModelForImageTextToText
    raise BackboneError(
        f"The model {source.id!r} answers no questions about images (its type is {kind!r}, {architecture[:60]!r}).",
        f"Choose {MODEL}, or another that does.",
    )
