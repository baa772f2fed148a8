"""Engine values to HTML: pure functions. Everything that comes from a file or a card is escaped.

Pictures travel inside the page as data, so that no patient's image is written to Gradio's cache.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
import PIL.Image

import engine
from app import text

LONGEST = 1024  # pixels of the longer side that are sent to the browser


def _data(pixels: np.ndarray, smooth: bool) -> str:
    """uint8 (H, W, C) as a PNG data address, no larger than LONGEST."""
    shown = PIL.Image.fromarray(pixels)
    if max(shown.size) > LONGEST:
        scale = LONGEST / max(shown.size)
        size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
        shown = shown.resize(size, PIL.Image.Resampling.BILINEAR if smooth else PIL.Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    shown.save(stream, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def viewer(
    image: engine.Image, box: engine.Box, placed: np.ndarray | None, label: str, opacity: float, name: str = ""
) -> str:
    """The image, the map as a layer over it, the frame of what the model saw, a scale bar and a colour bar."""
    rows, columns = image.shape
    drawn = placed is not None and not engine.is_flat(placed)
    alt = f"{image.modality or 'Image'}, {columns} x {rows} pixels"
    parts = [f'<img class="ps-base" src="{_data(engine.picture(image), False)}" alt="{escape(alt)}">']
    if placed is not None and drawn:
        source = _data(engine.layer(placed), True)
        parts.append(
            f'<img class="ps-map" style="opacity:{opacity:.2f}" src="{source}" alt="Map: what speaks for {escape(label)}">'
        )
    top, left = max(0.0, box.top / rows), max(0.0, box.left / columns)
    bottom, right = min(1.0, (box.top + box.height) / rows), min(1.0, (box.left + box.width) / columns)
    whole = bottom - top > 0.995 and right - left > 0.995
    if not whole:
        where = f"top:{top:.3%};left:{left:.3%};height:{bottom - top:.3%};width:{right - left:.3%}"
        parts.append(f'<div class="ps-box" style="{where}" aria-hidden="true"></div>')
    if image.spacing_mm:
        bar_mm = _round_length(columns * image.spacing_mm[1] / 4)
        share = bar_mm / (columns * image.spacing_mm[1])
        parts.append(f'<div class="ps-scale" style="width:{share:.2%}"><span>{_length(bar_mm)}</span></div>')
    captions = [f'<p class="ps-file">{escape(name)}</p>'] if name else []
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
        f'<figure class="ps-viewer" style="{ratio}"><div class="ps-stage">{"".join(parts)}</div>'
        f"<figcaption>{''.join(captions)}</figcaption></figure>"
    )


def _round_length(mm: float) -> float:
    power = 10 ** np.floor(np.log10(mm))
    return float(max(step * power for step in (1, 2, 5) if step * power <= mm))


def _length(mm: float) -> str:
    return f"{mm / 10:g} cm" if mm >= 10 else f"{mm:g} mm"


def empty_viewer() -> str:
    return f'<div class="ps-viewer ps-empty"><div><b>{text.EMPTY_VIEWER}</b><p>{text.EMPTY}</p></div></div>'


def error(sentence: str) -> str:
    return f'<div class="ps-error" role="alert"><b>This did not work.</b><p>{escape(sentence)}</p></div>'


def bars(prediction: engine.Prediction, prompts: engine.PromptSet, beside: engine.Prediction | None) -> str:
    """Probabilities, most probable first; a tick on each bar is the zero-shot result where there is one."""
    zero = dict(zip(beside.labels, beside.probabilities, strict=True)) if beside else {}
    rows = []
    for rank, (label, p) in enumerate(prediction.ranked()):
        name = escape(prompts.display(label))
        said = f"{name}: {p:.1%}" + (f", zero-shot {zero[label]:.1%}" if label in zero else "")
        tick = f'<i class="ps-tick" style="left:{zero[label]:.2%}"></i>' if label in zero else ""
        rows.append(
            f'<li class="{"ps-top" if rank == 0 else ""}" aria-label="{said}">'
            f'<span class="ps-name">{name}</span><span class="ps-number">{p:.1%}</span>'
            f'<span class="ps-track"><i class="ps-fill" style="width:{p:.2%}"></i>{tick}</span></li>'
        )
    beside_name = escape(beside.prompt_set) if beside else ""
    key = f'<p class="ps-key"><i class="ps-tick"></i> zero-shot: one sentence a class ({beside_name})</p>'
    note = text.CALIBRATED if prediction.calibrated else text.UNCALIBRATED
    device = text.COMPUTED.format(device=escape(prediction.device))
    return (
        f'<section class="ps-result" aria-label="Probabilities"><h3>{escape(prompts.card["task"]["title"])}</h3>'
        f'<ol class="ps-bars">{"".join(rows)}</ol>{key if beside else ""}'
        f'<p class="ps-small"><span class="ps-chip">{note}</span></p>'
        f'<p class="ps-small">{escape(prediction.backbone)} · {device}</p></section>'
    )


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
