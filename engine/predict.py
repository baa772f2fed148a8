"""One image to probabilities: prepare, encode, score. The only place where these three meet."""

from __future__ import annotations

import numpy as np
import torch

from engine.backbones.base import Backbone
from engine.preprocess import prepare
from engine.prompts import PromptSet
from engine.types import Image, Input, Prediction


def embed(inputs: list[Input], backbone: Backbone, visual_prompt: np.ndarray | None = None) -> np.ndarray:
    """(B, D) float32, unit length."""
    x = torch.from_numpy(np.stack([each.pixels for each in inputs]))
    prompt = None if visual_prompt is None else torch.from_numpy(visual_prompt)
    with torch.no_grad():
        return backbone.encode_images(x, prompt).cpu().numpy()


def read_off(features: np.ndarray, backbone: Backbone, prompts: PromptSet) -> Prediction:
    """features (D,) of one image -> what a prompt set says of it."""
    prompts.check(backbone)
    return Prediction(
        labels=prompts.labels,
        probabilities=prompts.probabilities(features[None])[0],
        prompt_set=prompts.name,
        backbone=backbone.id,
        device=f"{backbone.device} ({backbone.dtype})",
        calibrated=prompts.temperature is not None,
        activation=prompts.activation,
    )


def predict(image: Image, backbone: Backbone, prompts: PromptSet) -> Prediction:
    """Probabilities of one image. Raises PromptSetError where the set belongs to another backbone."""
    prompts.check(backbone)
    features = embed([prepare(image, backbone.preprocess)], backbone, prompts.visual_prompt)
    return read_off(features[0], backbone, prompts)
