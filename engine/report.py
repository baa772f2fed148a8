"""A comparison to take along: a table (CSV), plots (PNG) and a report (HTML) that opens anywhere, without a network.

In none of them is a patient or a file named; a case is its number. The report holds images only where they are given. The
only home of matplotlib.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from engine.compare import MEASURES, Column, Comparison, care, in_words, right_where
from engine.evaluate import BINS, RESAMPLES, SHOWN
from engine.results import NOTICE, csv_cell
from engine.types import Interval

TITLES = MEASURES | {"auroc": "AUROC", "ece": "calibration error"}
COLOURS = ("#0f766e", "#b45309", "#6d28d9", "#be123c", "#1d4ed8", "#4d7c0f", "#a21caf", "#475569")  # one a set, on white


def table(found: Comparison) -> str:
    """CSV, a row for each set: its metrics and differences to the first with the ends of their intervals, and its cost."""
    names = list(found.columns[0].metrics)
    differences = sorted({name for c in found.columns for name in c.differences})
    three = ("", "_low", "_high")
    head = ["set", "method", "judged", "images", "units"]
    head += [f"{name}{end}" for name in names for end in three]
    head += [f"{name}_difference{end}" for name in differences for end in three]
    head += ["seconds_per_image", "shares_the_image_forward", "bytes"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    for c in found.columns:
        row: list[Any] = [csv_cell(each) for each in (c.name, c.card["method"]["name"], c.judged)]
        row += [len(found.cases), found.units]
        for name in names:
            row += _three(c.metrics[name])
        for name in differences:
            row += _three(c.differences[name]) if name in c.differences else ["", "", ""]
        writer.writerow([*row, c.forward_s + c.scoring_s, int(c.is_shared_image), c.size])
    return stream.getvalue()


def _three(of: Interval) -> list[float | str]:
    return ["" if np.isnan(v) else float(v) for v in (of.value, of.low, of.high)]


def plots(found: Comparison) -> bytes:
    """A PNG: each set's metrics with their intervals, and below how far its probabilities can be believed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second, and few ask for a plot
    from matplotlib.figure import Figure

    count = len(found.columns)
    across = min(4, count)
    down = -(-count // across)
    figure = Figure(figsize=(11, 1.2 + 0.36 * count + 2.7 * down), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[1 + 0.36 * count, 2.7 * down]))
    panels = above.subplots(1, 3, sharey=True)
    for panel, name in zip(panels, SHOWN, strict=False):
        for i, c in enumerate(found.columns):
            of = c.metrics[name]
            panel.plot([of.low, of.high], [i, i], color=COLOURS[i], linewidth=2)
            panel.plot([of.value], [i], "o", color=COLOURS[i])
        panel.set_title(TITLES[name], fontsize=10)
        panel.set_xlim(-0.02, 1.02)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(count), [_short(c.name) for c in found.columns], fontsize=9)
    for tick in panels[0].get_yticklabels():
        tick.set_parse_math(False)
    panels[0].set_ylim(count - 0.5, -0.5)
    for i, c in enumerate(found.columns):
        panel = below.add_subplot(down, across, i + 1)
        panel.plot([0, 1], [0, 1], color="#9ca3af", linewidth=1)
        panel.bar(
            [b.confidence for b in c.calibration],
            [b.accuracy for b in c.calibration],
            0.8 / BINS,
            color=COLOURS[i],
            alpha=0.8,
        )
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        panel.set_title(_short(c.name), fontsize=9).set_parse_math(False)
        panel.set_xlabel("probability given", fontsize=8)
        panel.set_ylabel("share right", fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= 34 else name[:33] + "…"


def report(found: Comparison, numbers: Sequence[int], thumbnails: Mapping[int, bytes] | None = None) -> str:
    """One HTML file with everything in it. numbers : what people call each of the cases; thumbnails : JPEG by number, or
    None for a report without images."""
    said = "".join(f"<p>{escape(line)}</p>" for line in in_words(found)[1:])
    warned = "".join(f"<li>{escape(line)}</li>" for line in care(found))
    picture = base64.b64encode(plots(found)).decode()
    of = f" of {found.units} patients or groups" if found.units < len(found.cases) else ""
    classes = ", ".join(f"{escape(display)}: {int((found.truth == c).sum())}" for c, display in enumerate(found.display))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(found.title)}: a comparison</title><style>{STYLE}</style></head><body>"
        f'<p class="notice">{escape(NOTICE)}</p><h1>{escape(found.title)}: {len(found.columns)} prompt sets compared</h1>'
        f"<p>{time.strftime('%d %B %Y')}</p>"
        f'<p class="first">{escape(in_words(found)[0])}</p>{said}'
        f"{f'<h2>Read with care</h2><ul>{warned}</ul>' if warned else ''}"
        f"<h2>Data</h2><p>{len(found.cases)} labelled cases{of}. {classes}.</p>"
        f"<p>Backbone {escape(found.backbone)}, computed on {escape(found.device)}.</p>"
        f"<h2>Numbers</h2><p>In brackets 95 % intervals, from {RESAMPLES} resamples of patients (of images, where none is "
        f"known).</p>{_numbers(found)}"
        '<h2>Plots</h2><img class="plots" alt="The numbers above, and calibration" '
        f'src="data:image/png;base64,{picture}">'
        f"<p>Below: of the cases to which a set gave about this probability, the share that it got right. On the line, a "
        f"probability means what it says.</p>"
        f"<h2>How often two sets name the same class</h2>{_agreement(found)}"
        f"<h2>Who is right where</h2>{_groups(found, numbers, thumbnails or {})}"
        f"<h2>How each set was made</h2>{''.join(map(_made, found.columns))}</body></html>"
    )


def _numbers(found: Comparison) -> str:
    head = "".join(f"<th>{escape(TITLES[name])}</th>" for name in SHOWN)
    rows = []
    for i, c in enumerate(found.columns):
        cells = "".join(f"<td>{_interval(c.metrics[name])}</td>" for name in SHOWN)
        less = c.differences.get(found.measure)
        difference = "the reference" if less is None else _interval(less, "+")
        mark = ' class="ahead"' if i == found.ahead else ""
        rows.append(
            f"<tr{mark}><th>{escape(c.name)}<small>{escape(c.judged)}</small></th>{cells}<td>{difference}</td>"
            f"<td>{1000 * (c.forward_s + c.scoring_s):.1f} ms{'*' if c.is_shared_image else ''}</td><td>{c.size:,}</td></tr>"
        )
    return (
        f"<table><thead><tr><th>Prompt set</th>{head}<th>{escape(TITLES[found.measure])}, difference to the first</th>"
        f"<th>time an image</th><th>bytes</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        "<p><small>* of which the image pass is shared: all sets with a star together need it once.</small></p>"
    )


def _interval(of: Interval, sign: str = "") -> str:
    if np.isnan(of.value):
        return "not defined"
    value, low, high = (f"{v:{sign}.3f}" for v in (of.value, of.low, of.high))
    return f"{value} ({low} to {high})"


def _agreement(found: Comparison) -> str:
    if len(found.columns) < 2:
        return "<p>There is only one.</p>"
    head = "".join(f"<th>{escape(c.name)}</th>" for c in found.columns)
    rows = []
    for a, c in enumerate(found.columns):
        cells = "".join(
            "<td></td>" if a == b else f"<td>{found.same[a, b]:.0%} (kappa {found.kappa[a, b]:.2f})</td>"
            for b in range(len(found.columns))
        )
        rows.append(f"<tr><th>{escape(c.name)}</th>{cells}</tr>")
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _groups(found: Comparison, numbers: Sequence[int], thumbnails: Mapping[int, bytes]) -> str:
    parts = []
    for title, members in right_where(found):
        names = ", ".join(str(numbers[i]) for i in members)
        images = "".join(
            f'<img alt="case {numbers[i]}" src="data:image/jpeg;base64,{base64.b64encode(thumbnails[numbers[i]]).decode()}">'
            for i in members
            if numbers[i] in thumbnails
        )
        parts.append(f"<h3>{escape(title)}: {len(members)}</h3><p>Cases {names}</p><p>{images}</p>")
    return "".join(parts)


def _made(column: Column) -> str:
    card = column.card
    options = json.dumps(card["method"]["options"], sort_keys=True, ensure_ascii=False)
    images = card["data"]["images"]
    return (
        f"<h3>{escape(column.name)}</h3><p>Method {escape(card['method']['name'])}; "
        f"{f'learned from {images} images' if images else 'learned from words alone'}; "
        f"for the backbone {escape(card['backbone']['id'])} ({escape(card['backbone']['weights_hash'][:12])}).</p>"
        f"<p><code>{escape(options)}</code></p><p><small>Licence: {escape(card['licence'])}</small></p>"
    )


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem;
  color: #111827; background: #fff; }
.notice { background: #fef3c7; color: #713f12; border: 1px solid #d97706; border-radius: 6px; padding: .4rem .8rem;
  font-weight: 600; }
.first { font-size: 1.25rem; font-weight: 600; } h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 1rem 0 0; } h3 + p { margin-top: .2rem; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { border: 1px solid #d1d5db; padding: .3rem .5rem; text-align: left; }
td { font-variant-numeric: tabular-nums; } th small { display: block; font-weight: 400; color: #4b5563; }
.ahead { background: #ecfdf5; } .plots { max-width: 100%; } code { font-size: .8rem; overflow-wrap: anywhere; }
p img { height: 96px; margin: 2px; }
""".strip()
