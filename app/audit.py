"""What was asked of which model and what it said, a line each, for a host who must account for it. Off unless asked for.

PROMPTSCOPE_AUDIT names the file (JSON lines, mode 600, appended to). A line tells the pixels' hash, how they were shown, weights,
prompt set and probabilities; no name, no identifier, no address of a visitor.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import engine


class AuditError(engine.EngineError):
    pass


def digest(image: engine.Image) -> str:
    """Of the pixels as they were classified."""
    return hashlib.sha256(np.ascontiguousarray(image.pixels).tobytes()).hexdigest()


def entry(
    pixels: str,
    window: engine.Window | None,
    prediction: engine.Prediction,
    prompts: engine.PromptSet,
    covered: int,
    inverted: bool,
    frames: int = 1,
    pool: str = "",
) -> dict[str, Any]:
    """A line of the audit. pixels : digest of the image, or of the one on the screen when all frames were pooled."""
    return {
        "time": round(time.time(), 3),
        "version": engine.__version__,
        "pixels": pixels,
        "frames": frames,
        "pool": pool or None,
        "window": [window.center, window.width, window.function] if window else None,
        "inverted": inverted,
        "covered": covered,
        "backbone": prediction.backbone,
        "weights": prompts.card["backbone"]["weights_hash"],
        "prompt_set": prompts.name,
        "device": prediction.device,
        "probabilities": {k: round(float(p), 6) for k, p in zip(prediction.labels, prediction.probabilities, strict=True)},
    }


def check(path: Path | None) -> None:
    """Raises AuditError where lines could not be written."""
    if path is not None:
        _append(path, b"")


def write(path: Path | None, line: dict[str, Any]) -> None:
    """Appends one line at once, so that lines of several threads never mix. None: nothing is kept. Raises AuditError: an
    answer that must be accounted for and cannot be is not given."""
    if path is not None:
        _append(path, (json.dumps(line, allow_nan=False) + "\n").encode())


def _append(path: Path, line: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
    except OSError as error:
        raise AuditError(
            f"The audit cannot be written ({error.strerror}).", "Whoever runs this page should look at PROMPTSCOPE_AUDIT."
        ) from error
