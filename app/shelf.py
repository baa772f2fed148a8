"""The Library tab as HTML: prompt sets and their cards, backbones, descriptions. Pure functions; everything escaped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

import engine
from app import text
from app.models import Item

MIB = 2**20


def size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / MIB:.1f} MB" if count >= MIB else f"{count / 1024:.0f} kB"


def hint(words: str) -> str:
    return f'<div class="ps-hint">{words}</div>'


# --- prompt sets -------------------------------------------------------------------------------------------------------


def cards(items: Sequence[Item], chosen: str, among: int) -> str:
    """The list; a click on one tells library.js. chosen : the key of the one that is open; among : sets in all."""
    if not items:
        return f'<p class="ps-small">{text.LIBRARY_NONE}</p>'
    listed = "".join(_card(item, key(item) == chosen) for item in items)
    count = text.LIBRARY_COUNT.format(shown=len(items), all=among)
    return f'<p class="ps-small" role="status">{count}</p><div class="ps-shelf" role="group" aria-label="{text.LIBRARY_SETS}">{listed}</div>'


def key(item: Item) -> str:
    return f"{'own' if item.own else 'shipped'}:{item.name}"


def _card(item: Item, chosen: bool) -> str:
    whose = f'<span class="ps-chip ps-own">{text.LIBRARY_YOURS}</span>' if item.own else ""
    if item.prompts is None:
        inside = f"<b>{escape(item.name)}</b>{whose}<span>{text.LIBRARY_UNUSABLE}</span>"
    else:
        card = item.prompts.card
        method = escape(text.LIBRARY_METHODS.get(card["method"]["name"], card["method"]["name"]))
        inside = (
            f"<b>{escape(card['task']['title'])}</b>{whose}<span>{method}</span>"
            f"<span>{len(item.prompts.labels)} {text.LIBRARY_CLASSES_WORD} · {escape(card['backbone']['id'])} · {_learned(card['data'])}</span>"
        )
    pressed = "true" if chosen else "false"
    return (
        f'<button type="button" class="ps-set" data-do="set {escape(key(item))}" aria-pressed="{pressed}">{inside}</button>'
    )


def _learned(data: dict) -> str:
    return text.LIBRARY_FROM_IMAGES.format(images=data["images"]) if data["images"] else text.LIBRARY_FROM_WORDS


def card(item: Item, backbone: engine.Backbone | None, is_absent: bool) -> str:
    """Everything about one set. backbone : where it is loaded, so that the weights can be compared."""
    name = f'<p class="ps-small"><code>{escape(item.name)}</code></p>'
    if item.prompts is None:
        return f'<section class="ps-card"><h3>{text.LIBRARY_UNUSABLE}</h3>{name}<p>{escape(item.problem)}</p></section>'
    prompts, c = item.prompts, item.prompts.card
    data, method = c["data"], c["method"]["name"]
    apart = ", ".join(escape(prompts.display(label)) for label in prompts.labels)
    facts = [
        (text.LIBRARY_TELLS_APART, apart),
        (text.LIBRARY_HOW_MADE, f"{escape(text.LIBRARY_METHODS.get(method, method))} <code>{escape(method)}</code>"),
        (text.LIBRARY_LEARNED_FROM, escape(_learning(data))),
        (text.LIBRARY_SHELF_BACKBONE, f"{escape(c['backbone']['id'])}: {_fits(prompts, backbone, is_absent)}"),
        (
            text.LIBRARY_CALIBRATION,
            text.LIBRARY_CALIBRATED_AT.format(t=c["temperature"]) if c["temperature"] else text.UNCALIBRATED,
        ),
        (text.LIBRARY_LICENCE, escape(c["licence"])),
        (text.LIBRARY_INTENDED, escape(c["intended_use"])),
    ]
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    shortcuts = "".join(f"<li>{escape(each)}</li>" for each in c.get("shortcuts", ()))
    care = (
        f'<section class="ps-notes ps-warn"><h4>{text.LIBRARY_SHORTCUTS}</h4><ul>{shortcuts}</ul></section>'
        if shortcuts
        else ""
    )
    raw = escape(json.dumps(c, indent=1, ensure_ascii=False, sort_keys=True))
    whose = text.LIBRARY_YOURS_WORDS if item.own else text.LIBRARY_SHIPPED_WORDS
    return (
        f'<section class="ps-card" aria-label="{text.LIBRARY_SETS}"><h3>{escape(c["task"]["title"])}</h3>{name}{care}'
        f'<dl class="ps-dl">{listed}</dl>{_metrics(c["metrics"])}<p class="ps-small">{whose}</p>'
        f'<details class="ps-facts"><summary>{text.LIBRARY_RAW_CARD}</summary><pre>{raw}</pre></details></section>'
    )


def _learning(data: dict) -> str:
    if not data["images"]:
        return text.LIBRARY_FROM_WORDS_LONG
    said = text.LIBRARY_FROM_IMAGES.format(images=data["images"])
    if data.get("shots"):
        said += text.LIBRARY_UP_TO_SHOTS.format(shots=data["shots"])
    return said + "."


def _fits(prompts: engine.PromptSet, backbone: engine.Backbone | None, is_absent: bool) -> str:
    if backbone is not None:
        same = prompts.card["backbone"]["weights_hash"] == backbone.weights_hash
        return f"<b>{text.LIBRARY_FITS if same else text.LIBRARY_FITS_NOT}</b>"
    return text.LIBRARY_FITS_ABSENT if is_absent else text.LIBRARY_FITS_LATER


def _metrics(metrics: Sequence[dict]) -> str:
    """In words, with intervals."""
    if not metrics:
        return f'<p class="ps-small">{text.LIBRARY_NO_METRICS}</p>'
    wheres = {text.LIBRARY_ON_IMAGES.format(images=each["images"], split=each["split"]) for each in metrics}
    rows = []
    for each in metrics:
        title, meaning = text.LIBRARY_METRIC_NAMES.get(each["name"], (each["name"].replace("_", " "), ""))
        percent, gain = each["name"] not in ("auroc", "ece"), "minus" in each["name"]
        interval = ""
        if {"low", "high"} <= each.keys():
            interval = f" ({_number(each['low'], percent)} to {_number(each['high'], percent)})"
        unit = text.LIBRARY_POINTS if gain else " %" if percent else ""
        value = f"{'+' if gain and round(100 * each['value']) > 0 else ''}{_number(each['value'], percent)}{unit}"
        where = text.LIBRARY_ON_IMAGES.format(images=each["images"], split=each["split"])
        rows.append(
            f'<tr><th scope="row" title="{escape(meaning)}">{escape(title)}</th><td><b>{value}</b>{interval}</td>'
            f"{f'<td>{escape(where)}</td>' if len(wheres) > 1 else ''}</tr>"
        )
    caption = text.LIBRARY_METRICS_CAPTION.format(where=f" ({', '.join(wheres)})" if len(wheres) == 1 else "")
    return f'<table class="ps-rows ps-metrics"><caption>{escape(caption)}</caption><tbody>{"".join(rows)}</tbody></table>'


def _number(value: float, percent: bool) -> str:
    return f"{round(100 * value)}" if percent else f"{value:.2f}"


# --- backbones ---------------------------------------------------------------------------------------------------------


def backbones(found: Sequence[tuple[engine.Weights, engine.Backbone | None, engine.Fetch | None]], may_fetch: bool) -> str:
    """The table. found : each with the loaded backbone and its newest download, where there is one."""
    rows = []
    for weights, loaded, fetch in found:
        here = weights.folder is not None
        runs = (
            text.LIBRARY_LOADED_ON.format(device=f"{loaded.device} ({loaded.dtype})")
            if loaded
            else text.LIBRARY_NOT_LOADED
            if here
            else ""
        )
        origin = ", ".join(weights.fetched_from) or text.LIBRARY_WITH_PROMPTSCOPE
        rows.append(
            f'<tr><th scope="row">{escape(weights.id)}<span class="ps-small">{escape(text.LIBRARY_BACKBONE_WORDS.get(weights.id, ""))}</span></th>'
            f'<td><b aria-hidden="true">{"✓" if here else "–"}</b> {escape(weights.place)}</td>'
            f'<td class="ps-number">{size(weights.size) if here else ""}</td><td class="ps-number">{weights.dim}</td>'
            f"<td>{escape(weights.licence)}</td><td>{escape(origin)}</td><td>{escape(runs)}</td>"
            f"<td>{_fetching(weights, fetch, here, may_fetch)}</td></tr>"
        )
        if fetch and fetch.state in ("failed", "stopped") and not here:
            said = escape(fetch.error or text.FETCH_STOPPED)
            rows.append(
                f'<tr><td class="ps-error" colspan="{len(text.LIBRARY_BACKBONE_HEAD)}" role="alert">{said}</td></tr>'
            )
    head = "".join(f'<th scope="col">{each}</th>' for each in text.LIBRARY_BACKBONE_HEAD)
    return f'<div class="ps-scroll" tabindex="0"><table class="ps-rows"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _fetching(weights: engine.Weights, fetch: engine.Fetch | None, here: bool, may_fetch: bool) -> str:
    if fetch and fetch.state == "running":
        share = fetch.done / fetch.of if fetch.of else 0
        far = text.LIBRARY_FETCHED_OF.format(done=size(fetch.done), of=size(fetch.of)) if fetch.of else text.FETCH_ASKING
        return (
            f'<div role="status">{far}<span class="ps-track"><i class="ps-fill" style="width:{share:.1%}"></i></span>'
            f"{_button(f'stop {weights.id}', text.STOP)}</div>"
        )
    if here or not weights.fetched_from:
        return ""
    return _button(f"fetch {weights.id}", text.LIBRARY_DOWNLOAD) if may_fetch else text.FETCH_NOT_HERE


def _button(action: str, words: str) -> str:
    return f'<button type="button" class="ps-do" data-do="{escape(action)}">{words}</button>'


# --- descriptions ------------------------------------------------------------------------------------------------------


def bank(task: engine.Task, found: engine.DescriptionBank) -> str:
    """What is written about each class."""
    parts = []
    for label in task.labels:
        about = found.classes[label.name]
        slots = [(slot, words) for part in (about.synonyms, about.attributes) for slot, words in part.items() if words]
        listed = "".join(f"<dt>{escape(slot)}</dt><dd>{escape(', '.join(words))}</dd>" for slot, words in slots)
        negatives = f"<h5>{text.LIBRARY_NEGATIVES}</h5>{_lines(about.negatives)}" if about.negatives else ""
        count = text.LIBRARY_SENTENCES.format(count=len(about.sentences))
        parts.append(
            f'<details class="ps-facts"><summary>{escape(label.display)} <span class="ps-small">{count}</span></summary>'
            f"{f'<dl>{listed}</dl>' if listed else ''}{_lines(about.sentences)}{negatives}</details>"
        )
    licence = f" {text.LIBRARY_LICENCE}: {escape(found.licence)}." if found.licence else ""
    return f'<section class="ps-card"><p class="ps-small">{text.LIBRARY_SOURCE}: {escape(found.source.rstrip("."))}.{licence}</p>{"".join(parts)}</section>'


def _lines(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in sentences)}</ul>"


def said(words: str, thoughts: Sequence[str] = ()) -> str:
    listed = f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in thoughts)}</ul>" if thoughts else ""
    return f'<div class="ps-notes {"ps-warn" if thoughts else ""}" role="status"><p>{escape(words)}</p>{listed}</div>'
