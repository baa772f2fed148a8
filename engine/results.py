"""The rows of `predict --json`, the same for the command line and the page's API. Documented in the README."""

from __future__ import annotations

from typing import Any

from engine.errors import EngineError
from engine.prompts import PromptSet
from engine.types import Image, Prediction, Series

NOTICE = "Research use only. Not a medical device. Not for diagnosis."


def result_row(
    series: Series, index: int, image: Image, prediction: Prediction, prompts: PromptSet, map_path: str | None
) -> dict[str, Any]:
    """One image and one prompt set. index : the frame, from 0; it is written from 1."""
    w = image.window
    window = None if w is None else {"center": w.center, "width": w.width, "function": w.function, "source": w.source}
    return {
        "files": list(series.files),
        "status": "ok",
        "error": None,
        "backbone": prediction.backbone,
        "prompt_set": prompts.name,
        "device": prediction.device,
        "probabilities": {k: float(p) for k, p in zip(prediction.labels, prediction.probabilities, strict=True)},
        "calibrated": prediction.calibrated,
        "frame": index + 1,
        "window": window,
        "notes": list(image.notes),
        "warnings": [*image.warnings, *prompts.card.get("shortcuts", [])],
        "map": map_path,
    }


def error_row(file: str, backbone: str, error: EngineError) -> dict[str, Any]:
    """A file that failed, with the same keys."""
    return {
        "files": [file],
        "status": "error",
        "error": str(error),
        "backbone": backbone,
        "prompt_set": None,
        "device": None,
        "probabilities": None,
        "calibrated": False,
        "frame": None,
        "window": None,
        "notes": [],
        "warnings": [],
        "map": None,
    }
