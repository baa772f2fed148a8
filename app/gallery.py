"""The Teach tab's pictures: cases in a grid, how the classes are balanced, a training as it goes, and what it was good for.

Pure functions from engine values to HTML. Whatever a person typed or a file brought is escaped; thumbnails travel as data.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isnan, nan
from pathlib import Path
from typing import Any

import engine
from app import render, text

PAGE = 60  # cases of one page
COLOURS = 9  # of the classes (teach.css); the number beside the name tells the others apart
FEW = 8  # images of a class below which the page says that these are few
KEYS = 9  # classes that a number key reaches

Guesses = Mapping[int, Sequence[float]]  # case id -> a probability a class, in the order of the task
Thumbnail = Callable[[engine.Case], Path]


@dataclass(frozen=True)
class Look:
    """What of the cases is on the screen. how : a key of text.SORTS; only : "", "none", "twins", or "=" and a class; page :
    from 0."""

    how: str = "came"
    only: str = ""
    page: int = 0

    def of(self, cases: Sequence[engine.Case], labels: Sequence[str], guesses: Guesses) -> list[engine.Case]:
        """All that are asked for, in order."""
        found = [case for case in cases if self._is_asked(case)]
        keys: dict[str, Callable[[engine.Case], Any]] = {
            "unsure": lambda case: max(guesses[case.id]) if case.id in guesses else 2.0,  # without a guess: last
            "unlabelled": lambda case: bool(case.label),
            "label": lambda case: labels.index(case.label) if case.label in labels else len(labels),
        }
        return sorted(found, key=keys[self.how]) if self.how in keys else found

    def _is_asked(self, case: engine.Case) -> bool:
        if self.only.startswith("="):
            return case.label == self.only[1:]
        return not self.only or (self.only == "none" and not case.label) or (self.only == "twins" and case.twin_of > 0)

    def shown(self, found: Sequence[engine.Case]) -> Sequence[engine.Case]:
        return found[self.page * PAGE : (self.page + 1) * PAGE]


def pages(count: int) -> int:
    return max(1, -(-count // PAGE))


def display(task: engine.Task, label: str) -> str:
    return next((each.display for each in task.labels if each.name == label), label)


def guess_of(task: engine.Task, chances: Sequence[float]) -> tuple[str, float]:
    """The likeliest class, as people read it, and how likely."""
    best = max(range(len(chances)), key=lambda i: chances[i])
    return task.labels[best].display, float(chances[best])


# --- cases -------------------------------------------------------------------------------------------------------------


def tools(task: engine.Task) -> str:
    """A button for everything that a key does."""
    given = "".join(
        f'<button type="button" class="ps-give ps-c{i % COLOURS + 1}" data-give="{escape(each.name)}">'
        f"{_key(i)}{escape(each.display)}</button>"
        for i, each in enumerate(task.labels)
    )
    return (
        f'<div class="ps-tools" role="toolbar" aria-label="{text.TOOLS}"><b class="ps-count" aria-live="polite" data-chosen="{text.CHOSEN}">{text.NONE_CHOSEN}</b>{given}'
        f'<button type="button" class="ps-give" data-give=""><kbd>0</kbd>{text.NO_LABEL}</button>'
        f'<button type="button" data-act="undo"><kbd>U</kbd>{text.UNDO}</button>'
        f'<span class="ps-gap"></span><button type="button" data-act="all"><kbd>A</kbd>{text.ALL_HERE}</button>'
        f'<button type="button" data-act="none"><kbd>Esc</kbd>{text.NONE}</button>'
        f'<button type="button" data-act="open"><kbd>&#9166;</kbd>{text.ENLARGE}</button>'
        f'<button type="button" data-act="erase">{text.ERASE}</button></div>'
    )


def _key(index: int) -> str:
    return f"<kbd>{index + 1}</kbd>" if index < KEYS else ""


def grid(task: engine.Task, found: Sequence[engine.Case], guesses: Guesses, thumbnail: Thumbnail) -> str:
    """The cases of a page; what is chosen and what the keys do is teach.js's."""
    names = {each.name: i for i, each in enumerate(task.labels)}
    cells = "".join(_cell(task, names, case, guesses.get(case.id), thumbnail) for case in found)
    # Gradio patches what is there into what should be; `data-drawn` tells teach.js that this has happened.
    # teach.js shows a new label before the server has confirmed it, and needs the words for that
    words = "".join(
        f'<template data-label="{escape(each.name)}" data-kind="ps-c{i % COLOURS + 1}" data-words="{escape(each.display)}">'
        f"{_tag(task, i)}</template>"
        for i, each in enumerate(task.labels)
    )
    return (
        f'<div class="ps-grid" role="listbox" aria-multiselectable="true" aria-label="{text.GRID}" data-task="{escape(task.id)}" data-bare="{text.NO_LABEL}" data-drawn="{time.monotonic_ns()}">'
        f"{cells}</div>{words}<p class='ps-small'>{text.GRID_HELP}</p>"
    )


def _tag(task: engine.Task, index: int) -> str:
    return f"<b>{index + 1}</b> {escape(task.labels[index].display)}"


def _cell(
    task: engine.Task, names: Mapping[str, int], case: engine.Case, chances: Sequence[float] | None, thumbnail: Thumbnail
) -> str:
    index = names.get(case.label, -1)
    kind, tag = (f"ps-c{index % COLOURS + 1}", _tag(task, index)) if index >= 0 else ("ps-c0", text.NO_LABEL)
    said = [text.CASE.format(number=case.number)]
    person = guess = twin = ""
    if case.patient:
        said.append(text.OF_PATIENT.format(patient=case.patient))
        person = f'<span class="ps-person">{escape(case.patient)}</span>'
    if case.twin_of:
        words = text.TWIN.format(number=case.twin_of)
        said.append(words)
        twin = f'<span class="ps-twin" title="{escape(words)}">≈ {case.twin_of}</span>'
    if chances:
        name, sure = guess_of(task, chances)
        words = text.GUESS.format(name=name, sure=f"{sure:.0%}")
        said.append(words)
        differs = " ps-differs" if index >= 0 and task.labels[index].display != name else ""
        guess = (
            f'<span class="ps-guess{differs}" title="{escape(words)}"><span>{escape(name)}</span><i>{sure:.0%}</i></span>'
        )
    return (
        f'<div class="ps-case {kind}" role="option" aria-selected="false" tabindex="-1" data-case="{case.id}" '
        f'data-said="{escape("; ".join(said))}" aria-label="{escape("; ".join([*said, display(task, case.label) or text.NO_LABEL]))}">'
        f'<img src="{data(thumbnail(case))}" alt="" draggable="false" loading="lazy"><span class="ps-no">{case.number}</span>'
        f'{person}{twin}<span class="ps-tag">{tag}</span>{guess}</div>'
    )


def data(place: Path) -> str:
    """A thumbnail as a data address."""
    return "data:image/jpeg;base64," + base64.b64encode(place.read_bytes()).decode()


def step(index: int) -> str:
    number, title, words = text.STEPS[index]
    more = f'<p class="ps-small">{words}</p>' if words else ""
    return f'<div class="ps-step"><span aria-hidden="true">{number}</span><div><h3>{title}</h3>{more}</div></div>'


def about(task: engine.Task) -> str:
    """The classes of a task, each in its colour with its number."""
    chips = "".join(
        f'<li class="ps-c{i % COLOURS + 1}"><b>{i + 1}</b> {escape(each.display)}</li>' for i, each in enumerate(task.labels)
    )
    return f'<ul class="ps-classes" aria-label="{text.CLASS}" data-task="{escape(task.id)}">{chips}</ul>'


def drop_zone(upload_mb: int) -> str:
    """Where files come in: teach.js sends them with the names of their folders, which Gradio's own zone forgets."""
    return (
        f'<div class="ps-zone" id="ps-zone" data-first="{text.BRING_FIRST}" data-sending="{text.SENDING}" data-failed="{text.SEND_FAILED.format(mb=upload_mb)}">'
        f'<p><b>{text.BRING}</b></p><div class="ps-zone-buttons">'
        f'<label class="ps-zone-button">{text.BRING_FILES}<input type="file" id="ps-bring-files" multiple></label>'
        f'<label class="ps-zone-button">{text.BRING_FOLDER}<input type="file" id="ps-bring-folder" webkitdirectory></label></div>'
        f'<p class="ps-small" id="ps-zone-said" role="status"></p>'
        f'<p class="ps-small">{text.BRING_INFO} <span title="{text.BRING_MORE}">{text.BRING_PRIVACY}</span></p></div>'
    )


def pager(look: Look, total: int) -> str:
    """Which part of the cases is on the screen, and the ways to the parts beside it."""
    if total <= PAGE:
        return ""
    first, last = look.page * PAGE + 1, min(total, (look.page + 1) * PAGE)
    back, on = ("disabled" if look.page == 0 else ""), ("disabled" if last == total else "")
    return (
        f'<nav class="ps-pager" aria-label="{text.IMAGES}"><button type="button" data-page="{look.page - 1}" {back}>{text.PREVIOUS}</button>'
        f'<span aria-current="page" data-now="{look.page}">{text.PAGES.format(first=first, last=last, total=total)}</span>'
        f'<button type="button" data-page="{look.page + 1}" {on}>{text.NEXT_PAGE}</button></nav>'
    )


def confirmed(number: int, words: str) -> str:
    """The server's answer to what teach.js sent under this number."""
    return f'<p class="ps-told" role="status" data-number="{number}">{escape(words)}</p>'


def large(task: engine.Task, case: engine.Case, image: engine.Image, chances: Sequence[float] | None, by: str) -> str:
    """One case, as large as the column allows, with its class and what the model thinks."""
    rows, columns = image.shape
    title = text.CASE.format(number=case.number) + (
        f", {text.OF_PATIENT.format(patient=case.patient)}" if case.patient else ""
    )
    label = display(task, case.label) or text.NO_LABEL
    thought = f"<h4>{text.MODEL_THINKS}</h4>{chances_of(task, chances, by)}" if chances else ""
    return (
        f'<aside class="ps-large" aria-label="{escape(title)}"><header><b>{escape(title)}</b>'
        f'<button type="button" data-open="" aria-label="{text.CLOSE}">✕</button></header>'
        f'<figure class="ps-viewer" style="--ps-ratio:{columns / rows:.4f}"><div class="ps-stage"><img class="ps-base" '
        f'src="{render.data_of(engine.smaller(image, render.LONGEST))}" alt="{escape(title)}"></div></figure>'
        f"<p><b>{text.CLASS}:</b> {escape(label)}</p>{thought}</aside>"
    )


def exported(name: str, packed: bytes, holds_features: bool) -> str:
    """The link to a saved set's file, and what is in it."""
    source = "data:application/octet-stream;base64," + base64.b64encode(packed).decode()
    caution = (
        f'<p class="ps-few">{text.EXPORT_CACHE}</p>' if holds_features else f'<p class="ps-small">{text.EXPORT_INFO}</p>'
    )
    return (
        f'<div class="ps-saved" role="status"><p>{escape(text.SAVED.format(name=name))}</p>'
        f'<a class="ps-link" download="{escape(name)}.safetensors" href="{source}">{text.EXPORT}</a>{caution}</div>'
    )


def empty_grid(words: str) -> str:
    return f'<div class="ps-empty ps-empty-grid"><p>{escape(words)}</p></div>'


def balance(task: engine.Task, cases: Sequence[engine.Case]) -> str:
    """Images and patients of each class, with a sentence where there are too few."""
    if not cases:
        return ""
    most = max(1, *(sum(c.label == each.name for c in cases) for each in task.labels))
    rows, few = [], []
    for i, each in enumerate(task.labels):
        images, people = counted(cases, each.name)
        rows.append(
            f'<tr><th scope="row">{_key(i)}{escape(each.display)}</th><td class="ps-track"><i class="ps-fill ps-c{i % COLOURS + 1}" '
            f'style="width:{images / most:.0%}"></i></td><td class="ps-number">{images}</td><td class="ps-number">{people or "–"}</td></tr>'
        )
        if images < FEW:
            few.append(each.display)
    bare = sum(not case.label for case in cases)
    named = ", ".join(few) if len(few) <= 3 else text.CLASSES.format(count=len(few))
    warned = text.FEW.format(names=named, few=FEW) if few else ""
    known = len({case.patient for case in cases if case.patient})
    alone = sum(not case.patient for case in cases)
    if not alone:
        said = text.PATIENTS.format(known=known)
    else:
        said = (text.PATIENTS_SOME if known else text.PATIENTS_NONE).format(alone=alone, known=known)
    return (
        f'<section class="ps-balance" aria-label="{text.BALANCE}"><table><thead><tr><th scope="col">{text.CLASS}</th><td></td>'
        f'<th scope="col">{text.IMAGES}</th><th scope="col">{text.PEOPLE}</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'<p class="ps-small">{text.LABELLED.format(labelled=len(cases) - bare, cases=len(cases))} {said}</p>'
        f"{f'<p class=ps-few>{escape(warned)}</p>' if warned else ''}</section>"
    )


def counted(cases: Sequence[engine.Case], label: str) -> tuple[int, int]:
    """Images with a label, and the patients that they are known to be of."""
    found = [case for case in cases if case.label == label]
    return len(found), len({case.patient for case in found if case.patient})


def coming(done: int, total: int) -> str:
    return (
        f'<div class="ps-coming" role="status"><p>{text.COMING.format(share=f"{done / max(1, total):.0%}")}</p>'
        f'<progress max="{max(1, total)}" value="{done}"></progress></div>'
    )


def added(found: engine.Added, gone: Sequence[str]) -> str:
    """What became of an upload, best first; folders that are no class are offered as new ones."""
    lines = [text.ADDED.format(images=text.images(len(found.cases))) if found.cases else text.ADDED_NONE]
    if found.labelled:
        lines.append(text.CAME_LABELLED.format(count=found.labelled))
    if found.again:
        lines.append(text.AGAIN.format(count=found.again))
    if found.contrary:
        lines.append(text.CONTRARY.format(count=found.contrary))
    if found.removed:
        what = ", ".join(f"{name} ({count})" for name, count in found.removed)
        lines.append(text.REMOVED_HERE.format(what=what))
    refused = [*gone, *found.refused]
    listed = "".join(f"<li>{escape(each)}</li>" for each in refused[:200])
    bad = text.LEFT_OUT.format(count=len(refused))
    return (
        f'<div class="ps-added" role="status"><p>{escape(" ".join(lines))}</p>{offers(found.strays)}'
        f"{f'<details class=ps-error open><summary>{bad}</summary><ul>{listed}</ul></details>' if refused else ''}</div>"
    )


def offers(strays: Sequence[tuple[str, Sequence[int]]]) -> str:
    """Folders that are no class, each with a button that makes it one."""
    rows = "".join(
        f"<li><span>{text.UNKNOWN.format(name=escape(repr(name)), images=text.images(len(ids)))}</span>"
        f'<button type="button" data-class="{escape(name)}">{text.AS_CLASS}</button></li>'
        for name, ids in strays
    )
    return f'<ul class="ps-offers">{rows}</ul>' if rows else ""


def chances_of(task: engine.Task, found: Sequence[float], by: str) -> str:
    """A case's guess, class by class."""
    rows = "".join(
        f'<li class="{"ps-top" if rank == 0 else ""}"><span class="ps-name">{escape(task.labels[i].display)}</span>'
        f'<span class="ps-number">{found[i]:.0%}</span><span class="ps-track"><i class="ps-fill" style="width:{found[i]:.1%}"></i></span></li>'
        for rank, i in enumerate(sorted(range(len(found)), key=lambda i: -found[i]))
    )
    return f'<ol class="ps-bars">{rows}</ol><p class="ps-small">{escape(by)}</p>'


# --- a training ----------------------------------------------------------------------------------------------------------

PLOT = (432, 150, 40, 52, 10, 24)  # width, height, and margins left, right (room for "100%"), top, bottom


def job(found: engine.Job, position: int) -> str:
    """A training as it stands: what it does, how far it is, and its curve."""
    p, asked = found.progress, found.asked
    title = f"{text.METHOD_TITLES.get(asked['method'], asked['method'])}"
    if found.state == "queued":
        said = text.WAITING.format(position=position) if position > 1 else text.NEXT
    elif found.state in ("running", "stopping"):
        said = text.STOPPING if found.state == "stopping" else text.STAGES.get(p.get("stage", ""), text.STARTING)
    else:
        said = {"stopped": text.STOPPED, "done": text.DONE, "failed": text.FAILED}[found.state]
    bar = facts = ""
    if found.is_active and p.get("of"):
        bar = f'<progress max="{p["of"]}" value="{p["done"]}" aria-label="{escape(said)}"></progress>'
        facts = f'<p class="ps-small">{text.STEP.format(done=p["done"], of=p["of"])}{_left(p.get("remaining_s"))}</p>'
    wrong = f'<p class="ps-few">{escape(found.error)}</p>' if found.error else ""
    shown = curve(found.curve) if found.state != "done" else ""
    return (
        f'<section class="ps-job" data-state="{found.state}" aria-label="{text.TRAINING}"><p role="status"><b>{escape(title)}</b> · {said}</p>'
        f"{bar}{facts}{wrong}{shown}</section>"
    )


def _left(seconds: float | None) -> str:
    return "" if seconds is None else ", " + text.REMAINING.format(time=lasting(seconds))


def lasting(seconds: float) -> str:
    """A duration in words, no finer than anybody needs."""
    if seconds < 1:
        return text.UNDER_A_SECOND
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def curve(points: Sequence[Sequence[Any]]) -> str:
    """The error while learning (left scale) and the accuracy on held-out cases (right scale) over the epochs."""
    if len(points) < 2:
        return ""
    width, height, left, right, top, bottom = PLOT
    across, down = width - left - right, height - top - bottom
    last = float(points[-1][0])
    first = float(points[0][0])
    high = max(float(loss) for _, loss, _ in points) or 1.0

    def x(epoch: float) -> float:
        return left + across * (epoch - first) / max(1e-9, last - first)

    def y(share: float) -> float:
        return top + down * (1 - share)

    losses = " ".join(f"{x(e):.1f},{y(loss / high):.1f}" for e, loss, _ in points)
    rights = " ".join(f"{x(e):.1f},{y(v):.1f}" for e, _, v in points if v is not None)
    marks = "".join(
        f'<text x="{left - 5}" y="{y(share) + 4:.1f}" text-anchor="end">{high * share:.2g}</text>'
        f'<text x="{width - right + 5}" y="{y(share) + 4:.1f}">{share:.0%}</text>'
        for share in (0, 1)
    )
    ends = "".join(
        f'<text x="{x(epoch):.1f}" y="{height - 6}" text-anchor="{anchor}">{epoch:g}</text>'
        for epoch, anchor in ((first, "start"), (last, "end"))
    )
    said = text.CURVE.format(epoch=f"{last:g}", loss=f"{points[-1][1]:.3g}")
    key = [(0, text.LOSS)] + ([(1, text.HELD_OUT_SO_FAR)] if rights else [])
    lines = "".join(render.keyed(i, words) for i, words in key)
    return (
        f'<svg class="ps-plot ps-still" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">'
        f'<rect x="{left}" y="{top}" width="{across}" height="{down}"/>{marks}{ends}'
        f'<text x="{left + across / 2:.0f}" y="{height - 6}" text-anchor="middle">{text.EPOCHS}</text>'
        f'<polyline class="ps-line0" points="{losses}"/><polyline class="ps-line1" points="{rights}"/></svg>'
        f'<ul class="ps-lines">{lines}</ul>'
    )


# --- what it was good for ------------------------------------------------------------------------------------------------

HARDEST = 8


def result(found: dict[str, Any]) -> str:
    """The answer first; then what to be careful about, the numbers, and what was taken for what."""
    mark = {"better": "▲", "worse": "▼"}.get(found["verdict"], "●")
    care = "".join(f"<li>{escape(each)}</li>" for each in found["care"])
    careful = f'<section class="ps-notes ps-warn"><h4>{text.CARE}</h4><ul>{care}</ul></section>' if care else ""
    return (
        f'<section class="ps-outcome"><div class="ps-verdict ps-{escape(found["verdict"])}" role="status"><span aria-hidden="true">{mark}</span>'
        f"<p>{escape(found['headline'])}</p></div>"
        f"{careful}{_arms(found)}{_confusion(found)}<p class='ps-small'>{escape(design(found))}</p></section>"
    )


def design(found: dict[str, Any]) -> str:
    """How the cases were held out, in a sentence."""
    words = text.DESIGNS.get(found["design"], found["design"])
    spent = sum(float(each) for each in found["seconds"].values())
    return f"{words.format(folds=found['folds'])} {text.SPENT.format(time=lasting(spent), kilobytes=round(found['bytes'] / 1000))}"


def _arms(found: dict[str, Any]) -> str:
    """One column a way of answering; the tuned one first."""
    arms = [(key, found["arms"][key]) for key in ("tuned", "zero-shot", "baseline") if key in found["arms"]]
    if not any(arm["metrics"] for _, arm in arms):
        return ""
    head = "".join(
        f'<th scope="col" title="{escape(text.ARMS.get(key, ""))}">{escape(text.METHOD_TITLES.get(arm["title"], arm["title"]))}</th>'
        for key, arm in arms
    )
    rows = []
    for metric, (name, meaning) in text.METRIC_NAMES.items():
        cells = "".join(f"<td>{measured(metric, _interval(arm['metrics'].get(metric)))}</td>" for _, arm in arms)
        rows.append(f'<tr><th scope="row"><abbr title="{escape(meaning)}">{name}</abbr></th>{cells}</tr>')
    return (
        f'<table class="ps-table"><caption>{text.ARMS_CAPTION}</caption><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _interval(found: Sequence[float | None] | None) -> engine.Interval:
    return engine.Interval(*(nan if each is None else each for each in found or [None] * 3))


def measured(metric: str, of: engine.Interval) -> str:
    """A metric with its interval; NaN where either is not defined."""
    if isnan(of.value):
        return f"<small>{text.NOT_DEFINED}</small>"
    is_share = metric in text.AS_PERCENT
    span = "" if isnan(of.low) else engine.in_points(of)
    if not is_share and of.low < of.high:
        span = f"{of.low:.2f} to {of.high:.2f}"
    return f"<b>{of.value:{'.0%' if is_share else '.2f'}}</b> <small>{span}</small>"


def _confusion(found: dict[str, Any]) -> str:
    """Rows are the truth, columns the answer; each cell with cases is a button that shows them."""
    table, names = found["confusion"], found["display"]
    if not any(map(sum, table)):
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for i, line in enumerate(table):
        cells = []
        for j, count in enumerate(line):
            share = count / max(1, sum(line))
            said = escape(text.CELL.format(count=count, truth=names[i], answer=names[j]))
            kind = "ps-right" if i == j else "ps-wrong-cell"
            cells.append(
                f'<td class="{kind}" style="--share:{share:.2f}"><button type="button" data-cell="{i},{j}" aria-label="{said}" title="{said}">{count}</button></td>'
                if count
                else f'<td class="{kind}"><span>0</span></td>'
            )
        rows.append(f'<tr><th scope="row">{escape(names[i])}</th>{"".join(cells)}</tr>')
    return (
        f'<table class="ps-table ps-confusion"><caption>{text.CONFUSION}</caption><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def in_cell(found: dict[str, Any], truth: int, answer: int) -> list[dict[str, Any]]:
    """The held-out cases of a class that were taken for another (or the same), the surest mistake first."""
    return sorted(
        (
            each
            for each in found["cases"]
            if each["truth"] == truth and max(range(len(each["tuned"])), key=lambda i: each["tuned"][i]) == answer
        ),
        key=lambda each: -each["tuned"][answer],
    )


def hardest(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Held-out cases whose own class was thought least likely."""
    return sorted(found["cases"], key=lambda each: each["tuned"][each["truth"]])[:HARDEST]


def pictures(
    title: str,
    rows: Sequence[dict[str, Any]],
    count: int,
    found: dict[str, Any],
    cases: Mapping[int, engine.Case],
    thumbnail: Thumbnail,
) -> str:
    """Thumbnails of some held-out cases, each with its truth and the answer; a click enlarges. count : how many there were
    before any was deleted."""
    names = found["display"]
    cells = []
    for each in rows:
        case = cases.get(each["case"])
        if case is None:
            continue
        answer = max(range(len(names)), key=lambda i: each["tuned"][i])
        said = text.RECOGNISED if answer == each["truth"] else text.TAKEN_FOR
        words = said.format(truth=names[each["truth"]], answer=names[answer], sure=f"{each['tuned'][answer]:.0%}")
        cells.append(
            f'<button type="button" class="ps-mini" data-open="{case.id}" aria-label="{escape(text.CASE.format(number=case.number))}: {escape(words)}">'
            f'<img src="{data(thumbnail(case))}" alt=""><span><b>{case.number}</b> {escape(words)}</span></button>'
        )
    gone = count - len(cells)
    left = f'<p class="ps-small">{text.ERASED_SINCE.format(images=text.images(gone))}</p>' if gone else ""
    return f'<section class="ps-minis"><h4>{escape(title)}</h4><div>{"".join(cells)}</div>{left}</section>'


def when(seconds: float) -> str:
    return time.strftime("%d %b %H:%M", time.localtime(seconds))
