"""Engine values to HTML: pure functions. Everything that comes from a file or a card is escaped.

Pictures travel inside the page as data, so that no patient's image is written to Gradio's cache.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
import PIL.Image

import engine
from app import text

LONGEST = 1024  # pixels of the longer side that are sent to the browser
THUMB = 96  # of a thumbnail
BY_HAND = "own"  # the window that the sliders set


def data_address(pixels: np.ndarray) -> str:
    """uint8 (H, W, C) as a PNG data address."""
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def data_of(image: engine.Image) -> str:
    """An image as a PNG data address."""
    return data_address(engine.picture(image))


def viewer(
    image: engine.Image,
    box: engine.Box,
    placed: np.ndarray | None,
    label: str,
    opacity: float,
    title: str = "",
    found_text: Sequence[engine.Box] = (),
    shape: tuple[int, int] | None = None,
) -> str:
    """The image, the map as a layer over it, the frame of what the model saw, frames around what looks like text, marks of
    side and orientation, a scale bar and a colour bar. shape : of the image before it was made smaller, in whose pixels
    boxes are given."""
    rows, columns = shape = shape or image.shape
    drawn = placed is not None and not engine.is_flat(placed)
    alt = f"{image.modality or 'Image'}, {columns} x {rows} pixels"
    parts = [f'<img class="ps-base" src="{data_address(engine.picture(image))}" alt="{escape(alt)}">']
    if placed is not None and drawn:
        source = data_address(engine.layer(placed))
        parts.append(
            f'<img class="ps-map" style="opacity:{opacity:.2f}" src="{source}" alt="Map: what speaks for {escape(label)}">'
        )
    where, whole = _where(box, shape)
    if not whole:
        parts.append(f'<div class="ps-box" style="{where}" aria-hidden="true"></div>')
    for each in found_text:
        parts.append(f'<div class="ps-text" style="{_where(each, shape)[0]}" aria-hidden="true"></div>')
    for side, mark in zip(("left", "top", "right", "bottom"), image.marks or (), strict=False):
        parts.append(f'<span class="ps-mark ps-mark-{side}" title="{escape(text.SIDES[mark[:1]])}">{escape(mark)}</span>')
    if image.spacing_mm:
        across_mm = image.shape[1] * image.spacing_mm[1]
        bar_mm = _round_length(across_mm / 4)
        share = bar_mm / across_mm
        parts.append(f'<div class="ps-scale" style="width:{share:.2%}"><span>{_length(bar_mm)}</span></div>')
    captions = [f'<p class="ps-file">{escape(title)}</p>'] if title else []
    if drawn:
        captions.append(
            f'<div class="ps-legend"><span>low</span><i class="ps-ramp"></i><span>high</span> '
            f"<b>{escape(label)}</b></div><p>{text.MAP_CAVEAT}</p>"
        )
    elif placed is not None:
        captions.append(f'<p role="status">{text.FLAT}</p>')
    else:
        captions.append(f'<p role="status">{text.NO_MAP}</p>')
    if not whole:
        captions.append(f"<p>{text.BOX}</p>")
    ratio = f"--ps-ratio:{columns / rows:.4f}"
    return (
        f'<figure class="ps-viewer" style="{ratio}"><div class="ps-stage" data-rows="{rows}" data-columns="{columns}">'
        f"{''.join(parts)}</div>"
        f"<figcaption>{''.join(captions)}</figcaption></figure>"
    )


def _where(box: engine.Box, shape: tuple[int, int]) -> tuple[str, bool]:
    """CSS of a box over an image, clipped to it, and whether it is all of it."""
    rows, columns = shape
    top, left = max(0.0, box.top / rows), max(0.0, box.left / columns)
    bottom, right = min(1.0, (box.top + box.height) / rows), min(1.0, (box.left + box.width) / columns)
    style = f"top:{top:.3%};left:{left:.3%};height:{bottom - top:.3%};width:{right - left:.3%}"
    return style, bottom - top > 0.995 and right - left > 0.995


def _round_length(mm: float) -> float:
    power = 10 ** np.floor(np.log10(mm))
    return float(max((step * power for step in (2, 5) if step * power <= mm), default=power))


def _length(mm: float) -> str:
    return f"{mm / 10:g} cm" if mm >= 10 else f"{mm:g} mm"


def empty_viewer() -> str:
    return f'<div class="ps-viewer ps-empty"><div><b>{text.EMPTY_VIEWER}</b><p>{text.EMPTY}</p></div></div>'


def preview(image: engine.Image, files: int) -> str:
    """One image of many, before anything is known of it."""
    rows, columns = image.shape
    return (
        f'<figure class="ps-viewer" style="--ps-ratio:{columns / rows:.4f}"><div class="ps-stage">'
        f'<img class="ps-base" src="{data_address(engine.picture(image))}" alt="Preview"></div>'
        f'<figcaption><p role="status">{text.READING_FIRST.format(files=files)}</p></figcaption></figure>'
    )


def limits(upload_mb: int, most: engine.Limits) -> str:
    """What may be dropped, and what happens to it."""
    numbers = text.DROP_LIMITS.format(
        mb=upload_mb,
        megapixels=most.megapixels,
        frames=most.frames,
        volume=most.volume_megavoxels,
        entries=most.zip_entries,
        unpacked=most.unpacked_mb,
        seconds=most.seconds,
    )
    return (
        f'<p class="ps-small">{text.DROP_LIMIT} {text.DROP_PRIVACY}</p>'
        f'<details class="ps-facts"><summary>{text.LIMITS}</summary><p class="ps-small">{numbers}</p></details>'
    )


def refused(sentences: Sequence[str], are_others: bool) -> str:
    """Files that could not be read: all that is said of one or a few, a list that folds for many. are_others : some could."""
    if not sentences:
        return ""
    if len(sentences) <= 3:
        return error(" ".join(sentences))
    listed = "".join(f"<li>{escape(s)}</li>" for s in sentences[:200])
    more = f"<p>{len(sentences) - 200} more.</p>" if len(sentences) > 200 else ""
    return (
        f'<div class="ps-error" role="alert"><b>{text.REFUSED.format(count=len(sentences))}{text.OTHERS if are_others else "."}</b>'
        f"<details><summary>{text.REFUSED_WHICH}</summary><ul>{listed}</ul>{more}</details></div>"
    )


def error(sentence: str) -> str:
    return f'<div class="ps-error" role="alert"><b>This did not work.</b><p>{escape(sentence)}</p></div>'


def bars(prediction: engine.Prediction, prompts: engine.PromptSet, beside: engine.Prediction | None) -> str:
    """Probabilities, most probable first; a tick on each bar is the zero-shot result where there is one."""
    zero = dict(zip(beside.labels, map(float, beside.probabilities), strict=True)) if beside else {}
    beside_name = escape(beside.prompt_set) if beside else ""
    key = f'<p class="ps-key"><i class="ps-tick"></i> zero-shot: one sentence a class ({beside_name})</p>'
    note = text.CALIBRATED if prediction.calibrated else text.UNCALIBRATED
    device = text.COMPUTED.format(device=escape(prediction.device))
    return (
        f'<section class="ps-result" aria-label="Probabilities"><h3>{escape(prompts.card["task"]["title"])}</h3>'
        f"{_bars(prediction.ranked(), prompts, zero)}{key if beside else ''}"
        f'<p class="ps-small"><span class="ps-chip">{note}</span></p>'
        f'<p class="ps-small">{escape(prediction.backbone)} · {device}</p></section>'
    )


def _bars(ranked: list[tuple[str, float]], prompts: engine.PromptSet, zero: dict[str, float]) -> str:
    rows = []
    for rank, (label, p) in enumerate(ranked):
        name = escape(prompts.display(label))
        said = f"{name}: {p:.1%}" + (f", zero-shot {zero[label]:.1%}" if label in zero else "")
        tick = f'<i class="ps-tick" style="left:{zero[label]:.2%}"></i>' if label in zero else ""
        rows.append(
            f'<li class="{"ps-top" if rank == 0 else ""}" aria-label="{said}">'
            f'<span class="ps-name">{name}</span><span class="ps-number">{p:.1%}</span>'
            f'<span class="ps-track"><i class="ps-fill" style="width:{p:.2%}"></i>{tick}</span></li>'
        )
    return f'<ol class="ps-bars">{"".join(rows)}</ol>'


# --- series ------------------------------------------------------------------------------------------------------------

LINES = 3  # classes that the curve shows
PLOT = (640, 190, 44, 12, 12, 26)  # width, height, and margins left, top, right, bottom


def pooled(curve: engine.Curve, prompts: engine.PromptSet, how: str, at: int) -> str:
    """All frames as one answer, and each class's probability over the frames. at : the frame on the screen, from 0."""
    found = engine.pool(curve.probabilities[0], how)
    ranked = sorted(zip(prompts.labels, map(float, found), strict=True), key=lambda pair: -pair[1])
    words = engine.pooled_by(how, len(curve.frames))
    done = text.POOL_TITLE.format(words=words)
    if curve.done < curve.total:
        done = f'<b role="status">{text.POOL_PART.format(done=curve.done, total=curve.total)}</b>'
    bad = "".join(f"<li>{text.FRAME_FAILED.format(frame=i + 1, error=escape(str(e)))}</li>" for i, e in curve.failed[:20])
    return (
        f'<section class="ps-result" aria-label="All frames"><p class="ps-small">{done}</p>'
        f"{_plot(curve, prompts, [label for label, _ in ranked[:LINES]], at)}"
        f'<p class="ps-small">{text.CURVE_HELP}</p>{_bars(ranked, prompts, {})}{f"<ul>{bad}</ul>" if bad else ""}</section>'
    )


def keyed(line: int, words: str) -> str:
    """What a line of a plot is, for the list below it. line : number of its style."""
    return f'<li><svg class="ps-plot"><line class="ps-line{line}" x1="0" y1="4" x2="28" y2="4"/></svg>{escape(words)}</li>'


def _plot(curve: engine.Curve, prompts: engine.PromptSet, labels: list[str], at: int) -> str:
    width, height, left, top, right, bottom = PLOT
    across, down = width - left - right, height - top - bottom

    def x(frame: float) -> float:
        return left + across * frame / max(1, curve.total - 1)

    def y(p: float) -> float:
        return top + down * (1 - p)

    parts = [f'<rect x="{left}" y="{top}" width="{across}" height="{down}"/>']
    for share in (0, 0.5, 1):
        parts.append(f'<text x="{left - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    parts.append(f'<line x1="{left}" y1="{y(0.5):.1f}" x2="{width - right}" y2="{y(0.5):.1f}"/>')
    for frame, anchor in ((0, "start"), (curve.total - 1, "end")):
        parts.append(f'<text x="{x(frame):.1f}" y="{height - 8}" text-anchor="{anchor}">{frame + 1}</text>')
    parts.append(f'<text x="{left + across / 2:.1f}" y="{height - 8}" text-anchor="middle">{text.FRAMES}</text>')
    for index, _ in curve.failed:
        parts.append(f'<line class="ps-failed" x1="{x(index):.1f}" y1="{y(0):.1f}" x2="{x(index):.1f}" y2="{y(0.06):.1f}"/>')
    key = []
    for i, label in enumerate(labels):
        values = curve.probabilities[0][:, prompts.labels.index(label)]
        points = " ".join(f"{x(float(f)):.1f},{y(float(p)):.1f}" for f, p in zip(curve.frames, values, strict=True))
        parts.append(f'<polyline class="ps-line{i}" points="{points}"/>')
        key.append(keyed(i, prompts.display(label)))
    parts.append(f'<line class="ps-now" x1="{x(at):.1f}" y1="{top}" x2="{x(at):.1f}" y2="{top + down}"/>')
    parts.append(f'<rect class="ps-plot-area" x="{left}" y="{top}" width="{across}" height="{down}"/>')
    said = escape(f"Probability over {curve.total} frames of: {', '.join(prompts.display(label) for label in labels)}")
    return (
        f'<svg class="ps-plot" viewBox="0 0 {width} {height}" data-frames="{curve.total}" role="img" aria-label="{said}">'
        f'{"".join(parts)}</svg><ul class="ps-lines">{"".join(key)}</ul>'
    )


def strip(frames: Iterable[tuple[int, engine.Image | engine.ImageError]]) -> str:
    """Small pictures of some frames; a click goes there (page.js)."""
    cells = []
    for index, image in frames:
        said = text.GO_TO.format(frame=index + 1)
        inside = "<span>?</span>"
        if isinstance(image, engine.Image):
            inside = (
                f'<img src="{data_address(engine.picture(engine.smaller(image, THUMB)))}" alt=""><span>{index + 1}</span>'
            )
        cells.append(
            f'<button type="button" class="ps-thumb" data-frame="{index + 1}" aria-label="{said}">{inside}</button>'
        )
    return f'<div class="ps-strip" role="group" aria-label="{text.STRIP}">{"".join(cells)}</div>'


# --- words -------------------------------------------------------------------------------------------------------------


def window_choices(about: engine.About) -> list[tuple[str, str]]:
    """(what is read, value) for the list of windows; the value of the file's own is "file 1" and so on."""
    found = [(text.AS_FILE, "")]
    own = 0
    for window in engine.offered_windows(about):
        numbers = f"{window.center:g} / {window.width:g}"
        if window.source == "file":
            own += 1
            found.append(
                (text.OWN_WINDOW.format(number=own, name=window.name, numbers=numbers).replace(" : ", ": "), f"file {own}")
            )
        elif window.source == "preset":
            found.append((f"{window.name.capitalize()}, {numbers}", window.name))
        else:
            found.append((text.AUTOMATIC, window.name))
    return [*found, (text.BY_HAND, BY_HAND)]


def about(about: engine.About, removed: Sequence[tuple[str, int]]) -> str:
    """What a file says that identifies nobody, and how much was left behind."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in about.facts)
    gone = ", ".join(f"{escape(what)} ({count})" for what, count in removed)
    return (
        f'<details class="ps-facts" id="ps-about"><summary>{text.ABOUT}</summary><dl>{facts}</dl>'
        f"<p><b>{text.REMOVED}:</b> {gone or text.REMOVED_NONE}</p></details>"
    )


def cover_help() -> str:
    return f'<p class="ps-small">{text.COVER_HELP}</p><button type="button" id="ps-draw" aria-pressed="false">{text.DRAW}</button>'


def notes(title: str, sentences: Sequence[str], kind: str = "") -> str:
    if not sentences:
        return ""
    listed = "".join(f"<li>{escape(s)}</li>" for s in sentences)
    return f'<section class="ps-notes {kind}"><h4>{escape(title)}</h4><ul>{listed}</ul></section>'


def card(prompts: engine.PromptSet) -> str:
    """What a prompt set is made of, in words."""
    c = prompts.card
    made = f"Method {c['method']['name']}, for the backbone {c['backbone']['id']} ({c['backbone']['weights_hash'][:12]})."
    learned = f"Learned from {c['data']['images']} images." if c["data"]["images"] else "Learned from words alone."
    lines = [made, learned]
    for m in c["metrics"]:
        name = m["name"].replace("_", " ")
        interval = f" ({m['low']:.3f} to {m['high']:.3f})" if {"low", "high"} <= m.keys() else ""
        lines.append(f"{name} {m['value']:.3f}{interval}, {m['images']} images, {m['split']}.")
    return notes(text.CARD, [*lines, c["intended_use"], f"Licence: {c['licence']}."])
