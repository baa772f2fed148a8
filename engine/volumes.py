"""Many frames to one answer: each is classified, then their probabilities are pooled (engine.pooling).

Frames are decoded in workers while the model computes. Every eighth comes first, so that the curve over a volume has its shape
long before it is complete.

Legend: B images, F frames, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from engine.backbones.base import Backbone
from engine.errors import EngineError, ImageError
from engine.pooling import Curve, order, peak, pool
from engine.predict import Encode, bound, embed, prediction_of
from engine.prompts import PromptSet
from engine.sandbox import frames_of
from engine.types import Image, Input, Prediction, Series, Window

BATCH = 16  # frames of one forward pass

Score = Callable[[list[Input]], list[np.ndarray]]


def scorer(backbone: Backbone, sets: Sequence[PromptSet], encode: Encode = embed) -> Score:
    """A function of B inputs that gives each set's probabilities (B, C); one image forward serves all shared-image sets.

    encode : where the features come from. Raises PromptSetError where a set belongs to another backbone.
    """
    ready = [bound(each, backbone) for each in sets]

    def score(inputs: list[Input]) -> list[np.ndarray]:
        shared = encode(inputs, backbone) if any(s.is_shared_image for s in ready) else None
        return [
            s.probabilities(encode(inputs, backbone, s.visual_prompt) if shared is None or not s.is_shared_image else shared)
            for s in ready
        ]

    return score


def curves(
    series: Series,
    prepared: Callable[[Image], Input],
    score: Score,
    window: Window | None = None,
    batch: int = BATCH,
) -> Iterator[Curve]:
    """What the sets say of each frame, growing batch by batch; the last is complete.

    prepared : an image to the backbone's input, done as each frame arrives, so that no more than a few are held; window :
    for all frames, else each file's own. Raises ImageError where no frame can be read.
    """
    frames: list[int] = []
    rows: list[list[np.ndarray]] = []  # of each batch, for each set (B, C)
    failed: list[tuple[int, EngineError]] = []
    images = frames_of(series, order(series.frames), window)
    for start in range(0, series.frames, batch):
        inputs: list[Input] = []
        for index, image in islice(images, min(batch, series.frames - start)):
            try:
                if isinstance(image, ImageError):
                    raise image
                inputs.append(prepared(image))
                frames.append(index)
            except ImageError as error:
                failed.append((index, error))
        if inputs:
            rows.append(score(inputs))
        if frames:
            at = np.argsort(frames)
            found = tuple(np.concatenate(each)[at] for each in zip(*rows, strict=True))
            yield Curve(np.asarray(frames)[at], found, tuple(sorted(failed, key=lambda pair: pair[0])), series.frames)
    if not frames:
        raise failed[0][1]


def pooled(curve: Curve, column: int, how: str, backbone: Backbone, prompts: PromptSet) -> tuple[Prediction, int]:
    """All frames as one answer, and the index of the frame that speaks most for its first class: where a map is drawn.

    column : of the prompt set in the curve; how : see engine.pooling. Raises DataError for an unknown pool.
    """
    p = curve.probabilities[column]
    prediction = prediction_of(pool(p, how), backbone, prompts)
    return prediction, int(curve.frames[peak(p, prompts.labels.index(prediction.ranked()[0][0]))])
