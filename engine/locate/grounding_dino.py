"""Phrase to boxes by a detector: Grounding DINO (Liu et al., arXiv:2303.05499) through transformers, GLIP's maintained successor.

Zero-shot with attribute captions as MIU-VL has it on GLIP (methods/miu_vl.md 1.1, 1.6): phrases joined by ". ", each prefix + name +
suffix; a box's score is the mean over the tokens of the NAME's span of sigmoid(logit), so that what stands before and after it acts
through the text tower alone. Above 0.05, NMS at 0.6 phrase by phrase. Assumed: full stops part phrases in the model (its text
attention ends there), so none may stand in a phrase.
Left out: GLIP's square root with a centerness, which this architecture has not.

Any repository or folder of the same kind works (MM Grounding DINO, arXiv:2401.02361): grounding-dino:OWNER/NAME, grounding-dino:FOLDER.

Legend: Q queries, T tokens, N boxes, H, W image rows and columns, h, w heat rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from engine.backbones._hub import Repository, fetch, find
from engine.backbones.base import Backbone
from engine.errors import BackboneError, ExplainError
from engine.locate.base import best, grid_of, hottest, over_image
from engine.render import picture
from engine.types import Image, Located, Phrase

ID = "grounding-dino"
FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
TINY = Repository("IDEA-Research/grounding-dino-tiny", "a2bb814dd30d776dcf7e30523b00659f4f141c71", FILES)  # Apache-2.0
LEAST = 0.05  # a score at or below it is no find, as GLIP has it
ENDS = (".", "?")  # at which the model's text attention parts phrases


class GroundingDino:
    """model : its repository or folder; net, processor : transformers' own, for fine-tuning as well."""

    name = ID

    def __init__(self, folder: Path, model: str, device: str = "cpu"):
        """folder : config.json, model.safetensors, the processor's and tokenizer's files. Raises BackboneError."""
        self.model, self.device = model, f"{device} (float32)"
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise BackboneError(f"This machine cannot compute on {device!r}.", "Choose 'cpu'.") from error
        transformers.utils.logging.disable_progress_bar()  # the command line says one sentence
        try:
            # safetensors alone, and no code out of the folder
            loaded = AutoModelForZeroShotObjectDetection.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            self.net, info = loaded
            self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises a dozen kinds; each means that the folder is no such model
            first = (str(error).strip() or "no reason given").splitlines()[0][:200]
            raise BackboneError(
                f"{str(folder)!r} is no Grounding DINO that transformers can load ({type(error).__name__}: {first}).",
                f"It needs {', '.join(FILES)}.",
            ) from error
        if info["missing_keys"] or info["mismatched_keys"]:
            name = sorted(info["missing_keys"] or [each[0] for each in info["mismatched_keys"]])[0]
            raise BackboneError(
                f"The weights in {str(folder)!r} lack {name!r} or have it in another shape.", "Copy them again."
            )
        if not getattr(self.processor.tokenizer, "is_fast", False):
            raise BackboneError(
                f"The tokenizer in {str(folder)!r} does not say where words stand.", "It needs tokenizer.json."
            )
        self.net.eval().requires_grad_(False).to(device)

    def caption(self, phrases: Sequence[Phrase]) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        """The caption's tokens, by the model's own names, and for each phrase the places of its name's. Raises ExplainError."""
        text, spans = "", []
        for each in phrases:
            for end in ENDS:
                if end in each.text:
                    raise ExplainError(
                        f"The phrase {each.text!r} holds {end!r}, at which this detector ends a phrase.", "Write it without."
                    )
            text += ". " * bool(text)
            start = len(text) + len(each.prefix)
            spans.append((start, start + len(each.name)))
            text += each.text
        tokens = self.processor.tokenizer(f"{text}.", return_offsets_mapping=True, return_tensors="pt")
        room = self.net.config.max_text_len
        if tokens["input_ids"].shape[1] > room:
            raise ExplainError(
                f"The phrases have {tokens['input_ids'].shape[1]} tokens together; this detector takes {room}.",
                "Ask for fewer at a time.",
            )
        offsets = tokens.pop("offset_mapping")[0].tolist()
        places = [[t for t, (a, b) in enumerate(offsets) if b > a and a < end and b > start] for start, end in spans]
        for each, some in zip(phrases, places, strict=True):
            if not some:
                raise ExplainError(f"This detector's tokenizer knows nothing of {each.name!r}.", "Write it in other words.")
        return dict(tokens), places

    def locate(self, image: Image, phrases: Sequence[Phrase], negatives: Sequence[str], most: int) -> list[Located]:
        """All phrases stand in one caption, the negatives after them: a box that a negative fits better is none of a phrase's.

        The heat of a place is the highest score of the boxes around it.
        """
        tokens, places = self.caption([*phrases, *map(Phrase, negatives)])
        boxes, scores = self.boxes(image, tokens, places)
        found = []
        rival = scores[len(phrases) :].max(axis=0, initial=0.0)
        for phrase, score in zip(phrases, scores, strict=False):
            kept = (score > LEAST) & (score >= rival)
            own, sure = best(boxes[kept], score[kept], most)
            said = () if len(own) else (f"The detector finds no {phrase.text!r}.",)
            heat = over_image(
                _painted(own, sure, image.shape), image.shape, phrase, ID, "rest" if len(negatives) else "class"
            )
            found.append(Located(phrase, ID, self.model, heat, own, sure, hottest(heat), tuple(negatives), said))
        return found

    @torch.no_grad()
    def boxes(self, image: Image, tokens: dict[str, torch.Tensor], places: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Every query: boxes (Q, 4), in the image's pixels and within it, and scores (phrases, Q)."""
        pixels = self.processor.image_processor(images=picture(image), return_tensors="pt")
        inputs = {name: each.to(self.net.device) for name, each in {**pixels, **tokens}.items()}
        out = self.net(**inputs)
        chances = out.logits[0].float().sigmoid()  # (Q, T); padding has -inf, so 0
        scores = torch.stack([chances[:, some].mean(dim=1) for some in places]).cpu().numpy()
        x, y, width, height = out.pred_boxes[0].float().cpu().numpy().T
        h, w = image.shape
        edges = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
        return np.clip(edges, 0, 1).astype(np.float32) * np.array([w, h, w, h], np.float32), scores


def _painted(boxes: np.ndarray, scores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w): at each cell whose centre a box holds the highest score of such boxes, else 0."""
    grid = grid_of(shape)
    heat = np.zeros(grid, np.float32)
    y = (np.arange(grid[0]) + 0.5) * shape[0] / grid[0]
    x = (np.arange(grid[1]) + 0.5) * shape[1] / grid[1]
    for (x0, y0, x1, y1), score in zip(boxes[::-1], scores[::-1], strict=True):  # the highest last
        heat[np.ix_((y >= y0) & (y < y1), (x >= x0) & (x < x1))] = score
    return heat


def load(model: str, backbone: Backbone | None, device: str) -> GroundingDino:
    """model : "" for the tiny one, a folder, or OWNER/NAME on the hub. Raises BackboneError."""
    if not model:
        (folder,), source = find(ID, TINY)
        return GroundingDino(folder, source, device)
    if Path(model).is_dir():
        return GroundingDino(Path(model), Path(model).name, device)
    if model.count("/") != 1 or model.startswith(("/", ".")):
        raise BackboneError(f"There is no folder {model!r}.", "Name a folder, or a repository of the hub as OWNER/NAME.")
    (folder,), _ = fetch(f"{ID}:{model}", f"name it as {ID}:FOLDER", Repository(model, None, FILES))
    return GroundingDino(folder, model, device)
