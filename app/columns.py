"""Comparisons to HTML: pure functions. Everything that comes from a file or a card is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np

import engine
from app import gallery, render, text

CARD = 360  # pixels of an image in a card
SHOWN = ("accuracy", "balanced_accuracy", "auroc", "ece")
MOST = 24  # pictures of a group
PALE = 0.4  # of the common scale; what stays below is as good as invisible


# --- one image ---------------------------------------------------------------------------------------------------------


def empty(words: str) -> str:
    return f'<div class="ps-empty ps-nothing"><p>{escape(words)}</p></div>'


def side_by_side(
    image: engine.Image,
    names: Sequence[str],
    sets: Sequence[engine.PromptSet],
    answers: Sequence[engine.Answer],
    opacity: float,
) -> str:
    """Who says the same, first; then a card for each set, all maps over one range."""
    small = engine.smaller(image, CARD)
    down, across = small.shape[0] / image.shape[0], small.shape[1] / image.shape[1]
    placed = [_placed(a.heatmap, small.shape, down, across) if a.heatmap else None for a in answers]
    seen = [p[np.isfinite(p)] for p in placed if p is not None and not engine.is_flat(p)]
    span = (min(float(p.min()) for p in seen), max(float(p.max()) for p in seen)) if seen else None
    said = engine.agreement(names, sets, answers) or [text.NO_AGREEMENT if len(sets) > 1 else text.ONE_SET]
    base = render.data_of(small)
    order = {frozenset(prompts.labels): prompts.labels for prompts in reversed(sets)}  # as the first of a question has them
    cards = "".join(
        _card(base, small.shape, name, prompts, answer, p, span, opacity, order[frozenset(prompts.labels)])
        for name, prompts, answer, p in zip(names, sets, answers, placed, strict=True)
    )
    key = f'<div class="ps-legend"><span>low</span><i class="ps-ramp"></i><span>high</span></div><p>{text.ONE_SCALE} {text.MAP_CAVEAT}</p>'
    return (
        f'<section class="ps-compared">{"".join(f"<p class=ps-answer>{escape(line)}</p>" for line in said)}'
        f'<p class="ps-small"><span class="ps-chip">{text.UNCALIBRATED}</span></p>'
        f'<div class="ps-cards">{cards}</div><div class="ps-small">{key if span else ""}'
        f"<p>{text.COMPUTED.format(device=escape(answers[0].prediction.device))}</p></div></section>"
    )


def _placed(heatmap: engine.Heatmap, shape: tuple[int, int], down: float, across: float) -> np.ndarray:
    box = heatmap.box
    seen = engine.Box(box.top * down, box.left * across, box.height * down, box.width * across)
    return engine.place(replace(heatmap, box=seen), shape)


def _card(
    base: str,
    shape: tuple[int, int],
    name: str,
    prompts: engine.PromptSet,
    answer: engine.Answer,
    placed: np.ndarray | None,
    span: tuple[float, float] | None,
    opacity: float,
    order: tuple[str, ...],
) -> str:
    top, p = answer.prediction.ranked()[0]
    layer = ""
    if placed is None or answer.heatmap is None:
        below = text.NO_MAP_HERE
    elif engine.is_flat(placed):
        below = text.FLAT_HERE
    else:
        words = text.MAP_OF if _shows(placed, span) else text.MAP_PALE
        below = words.format(name=prompts.display(answer.heatmap.label))
        source = render.data_address(engine.layer(placed, span))
        layer = f'<img class="ps-map" style="opacity:{opacity:.2f}" src="{source}" alt="{escape(below)}">'
    rows, columns = shape
    return (
        f'<article class="ps-card"><h4>{escape(name)}</h4>'
        f'<p class="ps-says"><b>{escape(prompts.display(top))}</b> {p:.0%}</p>'
        f'<div class="ps-stage" style="--ps-ratio:{columns / rows:.4f}"><img class="ps-base" src="{base}" alt="">{layer}</div>'
        f'<p class="ps-small">{escape(below)}</p>{_bars(answer.prediction, prompts, order)}</article>'
    )


def _shows(placed: np.ndarray, span: tuple[float, float] | None) -> bool:
    """Can it be seen on the common scale? Opacity is the square of a value's place on it."""
    low, high = span or (0.0, 1.0)
    return float(np.nanmax(placed)) - low >= PALE * (high - low)


def _bars(prediction: engine.Prediction, prompts: engine.PromptSet, order: tuple[str, ...]) -> str:
    """A class stands at the same place in every card."""
    top = prediction.ranked()[0][0]
    found = dict(zip(prediction.labels, map(float, prediction.probabilities), strict=True))
    rows = "".join(
        f'<li class="{"ps-top" if label == top else ""}"><span class="ps-name">{escape(prompts.display(label))}</span>'
        f'<span class="ps-number">{found[label]:.0%}</span>'
        f'<span class="ps-track"><i class="ps-fill" style="width:{found[label]:.2%}"></i></span></li>'
        for label in order
    )
    return f'<ol class="ps-bars">{rows}</ol>'


# --- labelled cases ----------------------------------------------------------------------------------------------------


def trainings(jobs: Sequence[tuple[engine.Job, int]], missed: Sequence[str]) -> str:
    """What is trained for a comparison. jobs : with the place of each in the queue."""
    listed = "".join(gallery.job(replace(job, curve=[]), position) for job, position in jobs)
    return f'<div class="ps-jobs"><p>{text.TRAINING_FIRST}</p>{listed}{_missed(missed)}</div>'


def _missed(sentences: Sequence[str]) -> str:
    return render.notes(text.NOT_COMPARED, sentences, "ps-warn")


def reading(done: int, total: int) -> str:
    said = text.READING_CASES.format(done=done, total=total)
    return f'<div class="ps-jobs"><p role="status">{said}</p><progress max="{total}" value="{done}" aria-label="{said}"></progress></div>'


def compared(
    found: engine.Comparison,
    cases: Sequence[engine.Case | None],
    thumbnail: Callable[[engine.Case], Path],
    missed: Sequence[str],
) -> str:
    """In words, then care, numbers, calibration, and who is right where. cases : of found.cases; None where one is gone."""
    first, *more = engine.comparison_words(found)
    return (
        f'<section class="ps-compared"><p class="ps-answer">{escape(first)}</p>'
        f"{''.join(f'<p>{escape(line)}</p>' for line in more)}{_missed(missed)}"
        f"{render.notes(text.WARNINGS, engine.comparison_care(found), 'ps-warn')}"
        f"<h3>{text.NUMBERS}</h3>{_numbers(found)}"
        f'<h3>{text.RIGHT_WHERE}</h3><p class="ps-small">{text.RIGHT_WHERE_HELP}</p>{_groups(found, cases, thumbnail)}'
        f'<h3>{text.CALIBRATION}</h3><p class="ps-small">{text.CALIBRATION_HELP}</p>{_calibration(found)}{_same(found)}'
        f'<p class="ps-small">{escape(found.backbone)} · {text.COMPUTED.format(device=escape(found.device))}</p></section>'
    )


def _numbers(found: engine.Comparison) -> str:
    decides, *others = [found.measure, *(name for name in SHOWN if name != found.measure)]
    head = {n: f'<th title="{escape(text.METRIC_NAMES[n][1])}">{escape(text.METRIC_NAMES[n][0])}</th>' for n in SHOWN}
    rows = []
    for i, c in enumerate(found.columns):
        cells = {n: f"<td>{_whisker(c.metrics[n], n)}{gallery.measured(n, c.metrics[n])}</td>" for n in SHOWN}
        less = c.differences.get(found.measure)
        star = "*" if c.is_shared_image else ""
        rows.append(
            f'<tr class="{"ps-ahead" if i == found.ahead and len(found.columns) > 1 else ""}">'
            f'<th scope="row">{escape(c.name)}<small>{escape(c.judged)}</small></th>{cells[decides]}'
            f"<td>{text.THE_FIRST if less is None else _points(less, c.is_apart)}</td>{''.join(cells[n] for n in others)}"
            f"<td>{_seconds(c.forward_s + c.scoring_s)}{star}</td><td>{c.size / 1000:,.0f} kB</td></tr>"
        )
    return (
        f'<div class="ps-scroll"><table class="ps-numbers"><thead><tr><th>{text.ONE_OF_SETS}</th>{head[decides]}'
        f"<th>{text.DIFFERENCE}</th>{''.join(head[n] for n in others)}"
        f"<th>{text.IMAGE_TIME}</th><th>{text.SET_SIZE}</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="ps-small">{text.NUMBERS_HELP} {text.SHARED_FORWARD if any(c.is_shared_image for c in found.columns) else ""}</p>'
    )


def _points(of: engine.Interval, is_apart: bool) -> str:
    if np.isnan(of.value):
        return f"<small>{text.NOT_DEFINED}</small>"
    said = text.POINTS.format(value=f"{100 * of.value:+.0f}")
    return (
        f'<b class="{"ps-clear" if is_apart else ""}">{said}</b> <small>{100 * of.low:+.0f} to {100 * of.high:+.0f}</small>'
    )


def _seconds(s: float) -> str:
    return f"{s:.1f} s" if s >= 1 else f"{1000 * s:.0f} ms" if s >= 0.001 else "< 1 ms"


def _whisker(of: engine.Interval, metric: str) -> str:
    """The interval from 0 to 1 as a line, the value as a dot."""
    if np.isnan(of.value):
        return ""
    low, value, high = (4 + 112 * min(1.0, max(0.0, v)) for v in (of.low, of.value, of.high))
    said = f"{text.METRIC_NAMES[metric][0]}: {of.value:.2f}, {of.low:.2f} to {of.high:.2f}"
    return (
        f'<svg class="ps-whisker" viewBox="0 0 120 14" role="img" aria-label="{escape(said)}"><line class="ps-axis" x1="4" y1="7" x2="116" y2="7"/>'
        f'<line x1="{low:.1f}" y1="7" x2="{high:.1f}" y2="7"/><circle cx="{value:.1f}" cy="7" r="4"/></svg>'
    )


def _groups(found: engine.Comparison, cases: Sequence[engine.Case | None], thumbnail: Callable[[engine.Case], Path]) -> str:
    parts = []
    for title, members in engine.right_where(found):
        pictures = []
        for i in members[:MOST]:
            case = cases[i]
            if case is None:
                continue
            truth = found.display[int(found.truth[i])]
            answers = {c.name: found.display[int(c.probabilities[i].argmax())] for c in found.columns}
            said = "; ".join(f"{name}: {answer}" for name, answer in answers.items())
            wrong = ", ".join(dict.fromkeys(answer for answer in answers.values() if answer != truth))
            else_ = f"<small>{escape(text.SAID_ELSE.format(names=wrong))}</small>" if wrong else ""
            pictures.append(
                f'<figure title="{escape(said)}"><img src="{gallery.data(thumbnail(case))}" alt="{text.CASE.format(number=case.number)}">'
                f"<figcaption>{case.number} · {escape(truth)}{else_}</figcaption></figure>"
            )
        more = f'<p class="ps-small">{text.MORE_IMAGES.format(count=len(members) - MOST)}</p>' if len(members) > MOST else ""
        is_open = "" if len(members) == len(found.cases) or title.startswith("All are") else " open"
        parts.append(
            f'<details class="ps-group"{is_open}><summary>{escape(title)}: {len(members)}</summary>'
            f'<div class="ps-pictures">{"".join(pictures)}</div>{more}</details>'
        )
    return "".join(parts)


def _calibration(found: engine.Comparison) -> str:
    size, left, top = 150, 34, 8

    def x(share: float) -> float:
        return left + size * share

    def y(share: float) -> float:
        return top + size * (1 - share)

    plots = []
    for c in found.columns:
        most = max(b.count for b in c.calibration)
        dots = "".join(
            f'<circle cx="{x(b.confidence):.1f}" cy="{y(b.accuracy):.1f}" r="{3 + 5 * (b.count / most) ** 0.5:.1f}">'
            f"<title>{text.BIN.format(images=text.images(b.count), given=f'{b.confidence:.0%}', right=f'{b.accuracy:.0%}')}</title></circle>"
            for b in c.calibration
        )
        marks = "".join(
            f'<text x="{left - 4}" y="{y(s) + 4:.0f}" text-anchor="end">{s:.0%}</text>'
            f'<text x="{x(s):.0f}" y="{top + size + 14}" text-anchor="middle">{s:.0%}</text>'
            for s in (0, 0.5, 1)
        )
        plots.append(
            f'<figure class="ps-reliable"><figcaption>{escape(c.name)}</figcaption>'
            f'<svg viewBox="0 0 {left + size + 16} {top + size + 34}" role="img" aria-label="{text.CALIBRATION}: {escape(c.name)}">'
            f'<rect x="{left}" y="{top}" width="{size}" height="{size}"/>'
            f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>{marks}{dots}'
            f'<text x="{left + size / 2}" y="{top + size + 29}" text-anchor="middle">{text.GIVEN_P}</text></svg></figure>'
        )
    return f'<div class="ps-plots">{"".join(plots)}</div>'


def _same(found: engine.Comparison) -> str:
    """How often two say the same."""
    if len(found.columns) < 2:
        return ""
    head = "".join(f"<th>{escape(c.name)}</th>" for c in found.columns)
    rows = []
    for a, c in enumerate(found.columns):
        cells = "".join(
            "<td></td>" if a == b else f"<td>{found.same[a, b]:.0%} <small>kappa {found.kappa[a, b]:.2f}</small></td>"
            for b in range(len(found.columns))
        )
        rows.append(f'<tr><th scope="row">{escape(c.name)}</th>{cells}</tr>')
    return (
        f'<details class="ps-facts"><summary>{text.SAY_THE_SAME}</summary><div class="ps-scroll"><table class="ps-numbers"><thead><tr><th></th>{head}'
        f'</tr></thead><tbody>{"".join(rows)}</tbody></table></div><p class="ps-small">{text.KAPPA}</p></details>'
    )
