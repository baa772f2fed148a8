"""Whether the map on the screen says more than chance: computed in turn with other visitors, told in words, and drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np

import engine
from app import compute, render, text

STEPS = 10
ORDERS = 20
IMAGES = 2 + 2 * (STEPS - 1) * (ORDERS + 2)  # that pass the model for one check, at most
SHAPE = (440, 200, 46, 10, 12, 30)  # width, height, and the room left, right, above and below


def check(
    prepared: engine.Input,
    heatmap: engine.Heatmap,
    prompts: engine.PromptSet,
    asked: compute.Asked,
    backbone: engine.Backbone,
    shape: tuple[int, int],
    covered: Sequence[engine.Box] = (),
    far: Callable[[int], None] = lambda done: None,
) -> engine.Chance:
    """The map's deletion and insertion curves beside those of random orders. shape, covered : of the image; what shows nothing
    of it stays as it is. far : is told before each batch how many images have passed, and ends the check by raising.
    Raises EngineError."""
    grid = heatmap.values.shape[0], heatmap.values.shape[1]
    seen = engine.seen_cells(prepared.box, shape, grid, covered)
    asked, done = replace(asked, visitor=""), 0  # nobody sent these images: they are not remembered

    def score(inputs: list[engine.Input]) -> np.ndarray:
        nonlocal done
        far(done)
        done += len(inputs)
        return compute.score(inputs, asked)

    return engine.against_chance(
        prepared, backbone, prompts, heatmap.label, heatmap.values, STEPS, ORDERS, seen=seen, score=score
    )


def as_row(chance: engine.Chance) -> dict[str, Any]:
    """For programs. Scores are insertion minus deletion."""
    return {
        "verdict": chance.verdict,
        "deletion_auc": chance.curves.deletion_auc,
        "insertion_auc": chance.curves.insertion_auc,
        "score": chance.curves.score,
        "random": [each.score for each in chance.random],
        "centre": chance.centre.score,
    }


def drawn(chance: engine.Chance, title: str) -> str:
    """The verdict first, then what it was read from. title : of the map's kind."""
    how = text.CHECK_EXPLAINED.format(orders=len(chance.random))
    return (
        f'<section class="ps-chance" aria-label="{text.CHECKED}"><p><b>{escape(chance.verdict)}</b></p>'
        f"<details><summary>{text.CHECK_HOW}</summary>{_plot(chance, title)}<p>{how}</p>"
        "</details></section>"
    )


def _plot(chance: engine.Chance, title: str) -> str:
    """The probability as places are shown and taken away, with the middle of the random orders for both."""
    width, height, left, right, top, bottom = SHAPE
    across, down, curves = width - left - right, height - top - bottom, chance.curves

    def line(values: np.ndarray, style: int) -> str:
        points = " ".join(
            f"{left + across * s:.1f},{top + down * (1 - p):.1f}" for s, p in zip(curves.shares, values, strict=True)
        )
        return f'<polyline class="ps-line{style}" points="{points}"/>'

    chosen = (
        (text.SHOWN_FIRST.format(title=title), curves.insertion),
        (text.GONE_FIRST.format(title=title), curves.deletion),
        (text.SHOWN_RANDOM, np.median([each.insertion for each in chance.random], axis=0)),
        (text.GONE_RANDOM, np.median([each.deletion for each in chance.random], axis=0)),
    )
    marks = "".join(
        f'<text x="{left - 6}" y="{top + down * (1 - share) + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        for share in (0, 0.5, 1)
    )
    key = "".join(render.keyed(i, words) for i, (words, _) in enumerate(chosen))
    return (
        f'<svg class="ps-plot ps-still" viewBox="0 0 {width} {height}" role="img" aria-label="{text.CHECK_PLOT}">'
        f'<rect x="{left}" y="{top}" width="{across}" height="{down}"/>{marks}'
        f'<text x="{left + across / 2:.0f}" y="{height - 8}" text-anchor="middle">{text.CHECK_ACROSS}</text>'
        f"{''.join(line(values, i) for i, (_, values) in enumerate(chosen))}</svg>"
        f'<ul class="ps-lines">{key}</ul>'
    )
