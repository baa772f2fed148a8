"""The table of a batch as HTML: pure functions, everything from files and cards escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from app import render, text

SHOWN = 300  # rows on the screen; the downloads have all
MARKS = {"ok": "✓", "error": "✕", "skipped": "–"}


def progress(words: str, done: int, total: int) -> str:
    share = done / total if total else 0
    return (
        f'<div class="ps-progress" role="status"><p>{escape(words)}</p><span class="ps-track" role="progressbar" '
        f'aria-valuenow="{done}" aria-valuemin="0" aria-valuemax="{total}" aria-label="{escape(words)}">'
        f'<i class="ps-fill" style="width:{share:.1%}"></i></span></div>'
    )


def notice(words: str) -> str:
    return f'<p class="ps-small" role="status">{escape(words)}</p>'


def empty() -> str:
    return f'<div class="ps-empty"><div><b>{text.BATCH_EMPTY}</b><p>{text.BATCH_EMPTY_HINT}</p></div></div>'


def _care(row: dict[str, Any], shared: Sequence[str]) -> list[str]:
    """What to read this row with care for, beyond what holds for all of its question's."""
    return [sentence for sentence in row["warnings"] if sentence not in shared]


def counts(rows: Sequence[dict[str, Any]], shared: Sequence[str]) -> str:
    """How many rows there are of each kind, in words. shared : warnings that are said once for all."""
    found = {status: sum(row["status"] == status for row in rows) for status in MARKS}
    care = sum(bool(_care(row, shared)) for row in rows)
    parts = [text.BATCH_COUNTS[status].format(count=count) for status, count in found.items() if count or status == "ok"]
    if care:
        parts.append(text.BATCH_CARE.format(count=care))
    return f'<p class="ps-counts">{" · ".join(parts)}</p>'


def table(
    rows: Sequence[dict[str, Any]],
    only: str,
    names: Mapping[str, Mapping[str, str]],
    titles: Mapping[str, str],
    shared: Sequence[str],
) -> str:
    """only : "", "error" or "care"; names : of each prompt set, a label as people read it; titles : of prompt sets, one alone
    has no column; shared : warnings that hold for all rows."""
    wanted: Callable[[dict[str, Any]], Any] = {
        "": lambda row: True,
        "error": lambda row: row["status"] == "error",
        "care": lambda row: _care(row, shared),
    }[only]
    chosen = [(number, row) for number, row in enumerate(rows, start=1) if wanted(row)]
    title = f'<p class="ps-small">{escape(next(iter(titles.values())))}</p>' if len(titles) == 1 else ""
    is_raw = any(row["status"] == "ok" and not row["calibrated"] for row in rows)
    note = f'<p class="ps-small">{text.UNCALIBRATED}</p>' if is_raw else ""
    above = title + note + render.notes(text.BATCH_FOR_ALL, shared, "ps-warn")
    if not chosen:
        return f'{above}<p class="ps-small">{text.BATCH_NONE_OF_THESE}</p>'
    columns = [name for name in text.BATCH_HEAD if name != text.BATCH_QUESTION or len(titles) > 1]
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in columns)
    body = "".join(_row(number, row, names, titles, shared) for number, row in chosen[:SHOWN])
    more = f'<p class="ps-small">{text.BATCH_MORE.format(shown=SHOWN, all=len(chosen))}</p>' if len(chosen) > SHOWN else ""
    return (
        f'{above}<div class="ps-scroll" tabindex="0"><table class="ps-rows"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{more}"
    )


def _row(
    number: int,
    row: dict[str, Any],
    names: Mapping[str, Mapping[str, str]],
    titles: Mapping[str, str],
    shared: Sequence[str],
) -> str:
    status, has_questions = row["status"], len(titles) > 1
    told = f'<td class="ps-{status}"><b aria-hidden="true">{MARKS[status]}</b> {text.BATCH_STATUS[status]}</td>'
    start = f'<tr><td class="ps-number">{number}</td>{told}<td class="ps-filename">{_files(row["files"])}</td>'
    if status != "ok":
        return f'{start}<td colspan="{3 + has_questions}">{escape(row["error"])}</td></tr>'
    if has_questions:
        start += f"<td>{escape(titles.get(row['prompt_set'], row['prompt_set']))}</td>"
    display, p = names.get(row["prompt_set"], {}), row["probabilities"]
    ranked = sorted(p, key=p.__getitem__, reverse=True)
    top, how = ranked[0], ""
    if row["pooling"]:
        how = f"<p>{escape(text.POOL_TITLE.format(words=row['pooling']['words']))}</p>"
    elif len(row["files"]) > 1 or row["frame"] > 1:
        how = f"<p>{text.BATCH_FRAME.format(frame=row['frame'])}</p>"
    others = "".join(f"<li>{escape(display.get(each, each))}: {p[each]:.1%}</li>" for each in ranked)
    return (
        f"{start}<td><details><summary>{escape(display.get(top, top))}</summary>{how}<ul>{others}</ul></details></td>"
        f'<td class="ps-number">{p[top]:.1%}<span class="ps-track"><i class="ps-fill" style="width:{p[top]:.1%}"></i></span></td>'
        f"<td>{_warnings(_care(row, shared))}</td></tr>"
    )


def _warnings(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    listed = "".join(f"<li>{escape(each)}</li>" for each in sentences)
    return f'<details class="ps-careful"><summary>{len(sentences)}</summary><ul>{listed}</ul></details>'


def _files(files: Sequence[str]) -> str:
    if len(files) <= 1:
        return escape("".join(files))
    listed = "".join(f"<li>{escape(name)}</li>" for name in files)
    more = text.BATCH_FILES.format(first=files[0], more=len(files) - 1)
    return f"<details><summary>{escape(more)}</summary><ul>{listed}</ul></details>"
