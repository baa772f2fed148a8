"""One image to probabilities: prepare, encode, score. The only place where these three meet.

torch is imported where a backbone computes with it: with an `onnx:` backbone none is in the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engine.backbones.base import Backbone, PromptTunable, WithoutTorch
from engine.errors import PromptSetError
from engine.heads import ConditionalHead
from engine.preprocess import prepare
from engine.prompts import PromptSet
from engine.types import Image, Input, Prediction, VisualPrompt

Encode = Callable[
    ..., np.ndarray
]  # as `embed`, by which it can be replaced: who has encoded these inputs need not do so again


def embed(inputs: list[Input], backbone: Backbone, visual_prompt: VisualPrompt | None = None) -> np.ndarray:
    """(B, D) float32, unit length."""
    pixels = np.stack([each.pixels for each in inputs])
    if isinstance(backbone, WithoutTorch):
        return backbone.encode_arrays(pixels, visual_prompt)
    import torch

    with torch.no_grad():
        return backbone.encode_images(torch.from_numpy(pixels), visual_prompt).cpu().numpy()


def bound(prompts: PromptSet, backbone: Backbone) -> PromptSet:
    """The set, ready to score with its backbone. Raises PromptSetError where that is another one.

    A conditional head (CoCoOp) is given the text tower; every other head is ready as it is.
    """
    prompts.check(backbone)
    head = prompts.head
    if not isinstance(head, ConditionalHead):
        return prompts
    if not isinstance(backbone, PromptTunable):
        raise PromptSetError(f"The prompt set {prompts.name!r} needs the text tower of its backbone.", "Load it whole.")
    template = prompts.card.get("template") or ""
    if template.count("{}") != 1:
        raise PromptSetError(f"The card of the prompt set {prompts.name!r} has no template with {{}} for the class.")
    import torch

    from engine.context import Prompts

    texts = Prompts(backbone, template, prompts.labels, len(head.context))

    def encode(contexts: np.ndarray) -> np.ndarray:
        rows = []
        with torch.no_grad():
            for start in range(0, len(contexts), 32):
                part = torch.from_numpy(contexts[start : start + 32].astype(np.float32)).to(backbone.device)
                rows.append(texts.encode(part).cpu().numpy())
        return np.concatenate(rows)

    return replace(prompts, head=replace(head, encode=encode))


def read_off(features: np.ndarray, backbone: Backbone, prompts: PromptSet) -> Prediction:
    """features (D,) of one image -> what a prompt set says of it."""
    prompts = bound(prompts, backbone)
    found = prompts.probabilities(features[None])[0]
    return prediction_of(found, backbone, prompts, prompts.temperature is not None)


def prediction_of(probabilities: np.ndarray, backbone: Backbone, prompts: PromptSet, calibrated: bool = False) -> Prediction:
    """Probabilities (C,) with what they are of and where they were computed. calibrated : false where frames were pooled, for
    a temperature is fitted to single images."""
    return Prediction(
        labels=prompts.labels,
        probabilities=probabilities,
        prompt_set=prompts.name,
        backbone=backbone.id,
        device=f"{backbone.device} ({backbone.dtype})",
        calibrated=calibrated,
        activation=prompts.activation,
    )


def predict(image: Image, backbone: Backbone, prompts: PromptSet) -> Prediction:
    """Probabilities of one image. Raises PromptSetError where the set belongs to another backbone."""
    prompts.check(backbone)
    features = embed([prepare(image, backbone.preprocess)], backbone, prompts.visual_prompt)
    return read_off(features[0], backbone, prompts)
