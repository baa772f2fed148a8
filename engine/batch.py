"""Many files to the rows of `predict --json`, one after the other: the stream behind the command line and the Batch tab.

Every file ends in a row: as a part of a series, refused, or passed over. The pixels of a few images are held at a time, and the
work ends where nobody asks for the next row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.backbones.base import Backbone
from engine.burned_in import cover, find_text
from engine.errors import EngineError, ImageError, Stopped
from engine.pooling import Curve
from engine.predict import prediction_of
from engine.preprocess import prepare
from engine.prompts import PromptSet
from engine.readers import middle
from engine.results import error_row, pooling_row, result_row
from engine.sandbox import Opened, sandbox
from engine.types import Image, Input, Prediction, Series, Window
from engine.volumes import Score, curves, pooled, scorer

# What is done with every answer (image, input, prediction, prompt set, how many frames it is of); returns a map's path or None.
Seen = Callable[[Image, Input, Prediction, PromptSet, int], str | None]


@dataclass(frozen=True)
class Look:
    """How every series is looked at. window : None for each file's own; frame : from 0, None for the middle one; pool : how all
    frames of a volume become one answer (engine.pooling), "" to look at one; cover_text : blacken what looks like text."""

    window: Window | None = None
    frame: int | None = None
    pool: str = ""
    cover_text: bool = False

    def at(self, series: Series) -> int | None:
        """The frame that is looked at, None for all."""
        if self.pool and series.frames > 1:
            return None
        return middle(series) if self.frame is None else self.frame

    def image(self, series: Series, index: int) -> Image:
        """As it is classified. Raises ImageError."""
        return self.shown(series.frame(index, self.window))

    def shown(self, image: Image) -> Image:
        return cover(image, find_text(image)) if self.cover_text else image


def predict_all(
    opened: Opened,
    backbone: Backbone,
    sets: Sequence[PromptSet],
    look: Look | None = None,
    score: Score | None = None,
    seen: Seen | None = None,
    progress: Callable[[int, int], None] | None = None,
    batch: int = 1,
) -> Iterator[dict[str, Any]]:
    """A row for each series and prompt set, then one for each file that was refused or passed over ("skipped").

    score : in place of engine.scorer(backbone, sets); it may raise Stopped, which ends the whole; progress : frames of a volume
    so far, and in all; batch : single frames of one forward pass, which wait for each other
    """
    look, score = look or Look(), score or scorer(backbone, sets)
    # single frames are decoded while the ones before them are classified
    first = sandbox().map(partial(_decoded, look=look), opened.series)
    waiting: list[_Prepared] = []
    for series, image in zip(opened.series, first, strict=True):
        try:
            if isinstance(image, ImageError):
                raise image
            if image is not None:
                waiting.append((series, image, prepare(image, backbone.preprocess)))
            else:
                yield from _all(series, backbone, sets, look, score, seen, progress)
        except Stopped:
            raise
        except EngineError as error:
            yield error_row(list(series.files), backbone.id, error)
        if len(waiting) == batch:
            yield from _singles(waiting, backbone, sets, look, score, seen)
            waiting = []
    yield from _singles(waiting, backbone, sets, look, score, seen)
    yield from (error_row([name], backbone.id, error) for name, error in opened.refused)
    yield from (error_row(list(names), backbone.id, error) | {"status": "skipped"} for names, error in opened.aside)


def _decoded(series: Series, look: Look) -> Image | None:
    index = look.at(series)
    return None if index is None else look.image(series, index)


_Prepared = tuple[Series, Image, Input]


def _singles(
    waiting: list[_Prepared], backbone: Backbone, sets: Sequence[PromptSet], look: Look, score: Score, seen: Seen | None
) -> Iterator[dict[str, Any]]:
    """One frame of each series, in one forward pass, and a row for each prompt set."""
    try:
        found = score([prepared for *_, prepared in waiting]) if waiting else []
    except Stopped:
        raise
    except EngineError as error:
        yield from (error_row(list(series.files), backbone.id, error) for series, *_ in waiting)
        return
    for i, one in enumerate(waiting):
        try:
            yield from _one(*one, [p[i] for p in found], backbone, sets, look, seen)
        except Stopped:
            raise
        except EngineError as error:
            yield error_row(list(one[0].files), backbone.id, error)


def _one(
    series: Series,
    image: Image,
    prepared: Input,
    probabilities: list[np.ndarray],
    backbone: Backbone,
    sets: Sequence[PromptSet],
    look: Look,
    seen: Seen | None,
) -> list[dict[str, Any]]:
    """A row for each prompt set. probabilities : (C,) of each."""
    found_text, rows = find_text(image), []
    for prompts, p in zip(sets, probabilities, strict=True):
        prediction = prediction_of(p, backbone, prompts, prompts.temperature is not None)
        drawn = seen(image, prepared, prediction, prompts, 1) if seen else None
        rows.append(result_row(series, image, prediction, prompts, drawn, found_text, look.at(series)))
    return rows


def _all(
    series: Series,
    backbone: Backbone,
    sets: Sequence[PromptSet],
    look: Look,
    score: Score,
    seen: Seen | None,
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """All frames, pooled, and a row for each prompt set; the image is the frame that speaks most for the first class."""
    curve: Curve | None = None
    for curve in curves(series, lambda image: prepare(look.shown(image), backbone.preprocess), score, look.window):
        if progress:
            progress(curve.done, curve.total)
    assert curve is not None  # a series has a frame
    rows = []
    for column, prompts in enumerate(sets):
        prediction, index = pooled(curve, column, look.pool, backbone, prompts)
        image = look.image(series, index)
        prepared = prepare(image, backbone.preprocess)
        drawn = seen(image, prepared, prediction, prompts, len(curve.frames)) if seen else None
        pooling = pooling_row(curve, column, look.pool, prompts.labels)
        rows.append(result_row(series, image, prediction, prompts, drawn, find_text(image), pooling=pooling))
    return rows
