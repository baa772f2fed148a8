"""The Batch tab: many files, a folder or a zip to one table, with a row for every file."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np

import engine
from app import audit, cases, compute, parcels, programs, render, rows, text
from app.host import HIDDEN, Host, Updates

EVERY_S = 0.4  # between two pictures of the growing table
MOST = 8  # questions at once


@dataclass(frozen=True)
class Sheet:
    """A batch, as far as it is. rows : of `predict --json`; names : of each prompt set, a label as people read it; titles : of
    prompt sets; shortcuts : what to read every row of theirs with care for; over : set when nobody wants more; gone : set when
    nobody looks at it any more. Kept for the visit; files are named here and on the screen alone."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    shortcuts: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)

    def drop(self) -> None:
        self.gone.set()
        self.over.set()


class Batch:
    """Handlers of the tab. Files come in as in Read: clean copies are held until the visitor clears them or leaves, so that
    another question can be asked of them."""

    def __init__(self, host: Host):
        self.host, self.settings = host, host.settings
        self.ui = SimpleNamespace()

    # the work

    def take(self, uploads: list[str]) -> Iterator[cases.Taken]:
        """How far the files are; the last says what became of each. Raises EngineError where nothing can be done at all."""
        taken = cases.Taken(0, 0)
        with cases.received(uploads) as (files, gone):
            for taken in cases.take(files):
                yield taken
        lost = [("", sentence) for sentence in gone]
        yield replace(taken, failed=(*taken.failed, *lost), aside=(*taken.aside, *_not_taken(uploads)))

    def classify(
        self,
        request: gr.Request | None,
        taken: cases.Taken | None,
        backbone: str,
        questions: list[str],
        pool: str,
        cover_text: bool,
        sheet: Sheet,
    ) -> Iterator[tuple[int, int]]:
        """Fills the sheet; (images so far, in all). Raises EngineError where nothing can be done at all, and Stopped."""
        if taken is None or not (taken.cases or taken.failed or taken.aside):
            raise engine.DataError(text.BATCH_NOTHING, text.BATCH_NOTHING_HINT)
        asked = [self.host.asked(request, backbone, each) for each in dict.fromkeys(questions or [])]
        if not asked:
            raise engine.DataError(text.BATCH_NO_QUESTION, text.BATCH_NO_QUESTION_HINT.format(most=MOST))
        if len(asked) > MOST:
            many = text.BATCH_MANY_QUESTIONS.format(count=len(asked))
            raise engine.DataError(many, text.BATCH_MANY_QUESTIONS_HINT.format(most=MOST))
        if pool and pool not in engine.POOLS:
            raise engine.DataError(f"There is no pooling {pool[:32]!r}.", f"Choose one of: {', '.join(engine.POOLS)}.")
        self.host.load(backbone)
        sets, model = [self.host.prompts(each) for each in asked], self.host.backbone(backbone)
        sheet.names.update({each.name: {label: each.display(label) for label in each.labels} for each in sets})
        sheet.titles.update({each.name: each.title for each in sets})
        sheet.shortcuts.extend(dict.fromkeys(line for each in sets for line in each.card.get("shortcuts", ())))

        def score(inputs: list[engine.Input]) -> list[np.ndarray]:
            if sheet.over.is_set():
                raise engine.Stopped(text.BATCH_STOPPED)
            return compute.score_all(inputs, asked)

        def account(
            image: engine.Image, _: engine.Input, prediction: engine.Prediction, prompts: engine.PromptSet, frames: int
        ) -> None:
            if self.settings.audit:
                pixels, how = audit.digest(image), pool if frames > 1 else ""
                line = audit.entry(pixels, image.window, prediction, prompts, int(cover_text), False, frames, how)
                audit.write(self.settings.audit, line)

        refused = [(name, engine.ImageError(why)) for name, why in taken.failed]
        aside = [((name,), engine.ImageError(why)) for name, why in taken.aside]
        look, series = engine.Look(pool=pool, cover_text=cover_text), tuple(case.series for case in taken.cases)
        for row in engine.predict_all(engine.Opened(series), model, sets, look, score, account):
            sheet.rows.append(_with_names(row, taken.names))
            yield _images(sheet.rows, len(sets)), len(series)
        sheet.rows.extend(engine.predict_all(engine.Opened((), tuple(refused), tuple(aside)), model, sets))
        yield len(series), len(series)

    # the page

    def open_files(self, uploads: list[str] | None, held: cases.Taken | None, sheet: Sheet | None) -> Iterator[Updates]:
        """New files replace those that were held; only when they are there they are classified."""
        ui, shown, taken = self.ui, 0.0, None
        if sheet is not None:
            sheet.drop()
        cases.forget(list(held.cases) if held else [])
        yield {ui.held: None, ui.sheet: None, ui.problem: "", **self._drawn(None, ""), **self._running(True)}
        try:
            for taken in self.take(uploads or []):
                if time.monotonic() - shown > EVERY_S:
                    shown = time.monotonic()
                    yield {ui.far: rows.progress(text.READING, taken.done, taken.total)}
            yield {ui.held: taken, ui.drop: None, ui.came: secrets.token_hex(8)}  # its change starts `run`
        except engine.EngineError as error:
            yield {ui.drop: None, ui.problem: render.error(str(error)), **self._running(False)}

    def run(
        self,
        request: gr.Request | None,
        held: cases.Taken | None,
        backbone: str,
        questions: list[str],
        pool: str,
        cover_text: bool,
        only: str,
    ) -> Iterator[Updates]:
        """The table grows on the screen."""
        ui, sheet, shown = self.ui, Sheet(), 0.0
        done, total = 0, len(held.cases) if held else 0
        yield {ui.sheet: sheet, ui.problem: "", **self._drawn(None, ""), **self._running(True)}
        try:
            for done, total in self.classify(request, held, backbone, questions, pool, cover_text, sheet):
                if time.monotonic() - shown > EVERY_S:
                    shown = time.monotonic()
                    said = text.BATCH_CLASSIFYING.format(done=done, total=total)
                    yield {ui.far: rows.progress(said, done, total), **self._drawn(sheet, only)}
            yield {**self._drawn(sheet, only), **self._running(False)}
        except engine.Stopped:
            if not sheet.gone.is_set():
                said = text.BATCH_STOPPED_AT.format(done=done, total=total)
                yield {**self._drawn(sheet, only), **self._running(False), ui.far: rows.notice(said)}
        except engine.EngineError as error:
            yield {ui.problem: render.error(str(error)), **self._drawn(sheet, only), **self._running(False)}

    def stop(self, sheet: Sheet | None) -> Updates:
        """What has been read so far stays. `run` draws it and says how much it is: a second hand in the same place could be
        written over by the first's last picture. Files that are still coming (there is no sheet then) are let go."""
        if sheet is None:
            return {**self._running(False), self.ui.drop: None, self.ui.far: rows.notice(text.BATCH_STOPPED)}
        sheet.over.set()
        return {self.ui.stop: gr.update(visible=False)}

    def filter(self, sheet: Sheet | None, only: str) -> Updates:
        return self._drawn(sheet, only)

    def clear(self, held: cases.Taken | None, sheet: Sheet | None) -> Updates:
        if sheet is not None:
            sheet.drop()
        cases.forget(list(held.cases) if held else [])
        ui = self.ui
        return {
            ui.held: None,
            ui.sheet: None,
            ui.drop: None,
            ui.problem: "",
            **self._drawn(None, ""),
            **self._running(False),
        }

    def _drawn(self, sheet: Sheet | None, only: str) -> Updates:
        ui, found = self.ui, sheet.rows if sheet else []
        return {
            ui.counts: rows.counts(found, sheet.shortcuts) if sheet and found else "",
            ui.table: rows.table(found, only, sheet.names, sheet.titles, sheet.shortcuts)
            if sheet and found
            else rows.empty(),
            ui.results: gr.update(visible=bool(found)),
        }

    def _running(self, running: bool) -> Updates:
        ui = self.ui
        far = rows.progress(text.BATCH_STARTING, 0, 1) if running else ""
        return {ui.far: far, ui.stop: gr.update(visible=running), ui.go: gr.update(interactive=not running)}

    def as_csv(self, sheet: Sheet | None) -> str:
        return parcels.pack("promptscope.csv", engine.as_csv(sheet.rows), "text/csv") if sheet else ""

    def as_json(self, sheet: Sheet | None) -> str:
        return (
            parcels.pack("promptscope.json", json.dumps(_answer(sheet.rows), indent=1), "application/json") if sheet else ""
        )

    # programs

    def batch(
        self,
        request: gr.Request,
        files: list[gr.FileData],
        questions: list[str],
        backbone: str = "scope-mini",
        pool: str = "mean",
        cover_text: bool = False,
    ) -> dict[str, Any]:
        """Classifies many files, with a row for every one of them; keeps nothing.

        files: uploaded files (gradio_client: handle_file) or zip archives; DICOM files of one series become one row.
        questions: prompt sets or tasks, up to eight; the endpoint library lists them.
        backbone: its id.
        pool: mean, max or top-k makes all slices of a volume one answer; an empty text takes the middle slice.
        cover_text: blacken what looks like burned-in text first.
        Returns: schema, notice, and results as `predict --json` prints them; status is ok, error or skipped.
        """
        sheet = Sheet()
        *_, taken = self.take([place for place, _ in cases.uploaded(files)])
        try:
            for _ in self.classify(request, taken, backbone, questions, pool, cover_text, sheet):
                pass
        finally:
            cases.forget(list(taken.cases))
        return _answer(sheet.rows)

    # layout and wiring

    def lay_out(self) -> None:
        ui, settings = self.ui, self.settings
        ui.held = gr.State(None, delete_callback=lambda held: cases.forget(list(held.cases) if held else []))
        ui.sheet, ui.came = gr.State(None), gr.State("")
        options = self.host.questions(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=300):
                gr.HTML(f'<p class="ps-small">{text.BATCH_ABOUT}</p>')
                ui.drop = gr.File(
                    label=text.DROP, file_count="multiple", type="filepath", height=160, elem_id="ps-batch-drop"
                )
                ui.folder = gr.UploadButton(text.FOLDER, file_count="directory", size="sm", elem_id="ps-batch-folder")
                ui.questions = gr.Dropdown(
                    options, value=[options[0][1]], multiselect=True, max_choices=MOST, label=text.BATCH_QUESTIONS,
                    info=text.BATCH_QUESTIONS_INFO, elem_id="ps-batch-questions",
                )  # fmt: skip
                ui.backbone = gr.Dropdown(
                    self.host.backbones(), value=settings.backbone, label=text.BACKBONE, info=text.BACKBONE_INFO
                )
                ui.pool = gr.Dropdown([(text.BATCH_MIDDLE, ""), *text.BATCH_POOLS], value="mean", label=text.BATCH_POOL)
                ui.cover = gr.Checkbox(False, label=text.BATCH_COVER)
                with gr.Row():
                    ui.go = gr.Button(text.BATCH_GO, variant="primary", elem_id="ps-batch-go", min_width=120)
                    ui.stop = gr.Button(text.STOP, visible=False, elem_id="ps-batch-stop", min_width=80)
            with gr.Column(scale=8, min_width=420):
                ui.problem = gr.HTML("", elem_id="ps-batch-problem")
                ui.far = gr.HTML("", elem_id="ps-batch-far")
                with gr.Row(visible=False, elem_classes="ps-batch-bar") as ui.results:
                    ui.counts = gr.HTML("", elem_id="ps-batch-counts")
                    ui.only = gr.Radio(
                        list(text.BATCH_ONLY), value="", show_label=False, container=False, elem_id="ps-batch-only"
                    )
                    ui.csv = gr.Button(text.BATCH_CSV, size="sm", min_width=110, elem_id="ps-batch-csv")
                    ui.json = gr.Button(text.BATCH_JSON, size="sm", min_width=110, elem_id="ps-batch-json")
                    ui.clear = gr.Button(text.CLEAR, size="sm", min_width=80)
                ui.table = gr.HTML(rows.empty(), elem_id="ps-batch-table")

    def lists(self) -> tuple[list[Any], list[Any]]:
        return [self.ui.questions], [self.ui.questions]

    def arrive(self, request: gr.Request, chosen: list[str]) -> Any:
        """The tab is opened: what can be asked may have changed in another one."""
        options = self.host.questions(request)
        known = {value for _, value in options}
        return gr.update(choices=options, value=[each for each in chosen or [] if each in known])

    def wire(self) -> None:
        ui = self.ui
        drawn = [ui.problem, ui.far, ui.counts, ui.table, ui.results, ui.go, ui.stop, ui.drop]
        asked = [ui.held, ui.backbone, ui.questions, ui.pool, ui.cover, ui.only]
        how: dict[str, Any] = {"show_progress": "hidden", **HIDDEN}
        running = [start(self.run, asked, [ui.sheet, *drawn], **how) for start in (ui.go.click, ui.came.change)]
        opening = []
        for source in (ui.drop, ui.folder):
            opened = [ui.held, ui.came, ui.sheet, *drawn]
            opening.append(source.upload(self.open_files, [source, ui.held, ui.sheet], opened, **how))
        ui.stop.click(self.stop, [ui.sheet], drawn, cancels=opening, **how)
        ui.only.input(self.filter, [ui.sheet, ui.only], [ui.counts, ui.table, ui.results], **how)
        ui.clear.click(self.clear, [ui.held, ui.sheet], [ui.held, ui.sheet, *drawn], cancels=running + opening, **how)
        parcels.saved_by(ui.csv, self.as_csv, [ui.sheet])
        parcels.saved_by(ui.json, self.as_json, [ui.sheet])

    def endpoints(self) -> None:
        programs.offer(self.batch, "batch")


def _answer(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema": 1, "notice": text.NOTICE, "results": found}


def _images(found: list[dict[str, Any]], sets: int) -> int:
    """How many images these rows are of: one that was read has a row for each set, one that was not has one."""
    read = sum(row["status"] == "ok" for row in found)
    return read // sets + len(found) - read


def _not_taken(uploads: list[str]) -> list[tuple[str, str]]:
    """Uploads that are passed over before anything is opened: hidden files, and the same file again."""
    often = Counter(uploads)
    found = [(Path(each).name, text.BATCH_HIDDEN) for each in often if Path(each).name.startswith(".")]
    return found + [(Path(each).name, text.BATCH_AGAIN) for each, count in often.items() for _ in range(count - 1)]


def _with_names(row: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The row with the visitor's names of files in place of ours ("File 3")."""

    def named(sentence: str) -> str:
        return re.sub(r"'(File \d+)'", lambda found: repr(names.get(found[1], found[1])), sentence)

    said = {"files": [names[each] for each in row["files"]], "error": named(row["error"]) if row["error"] else None}
    if row["pooling"]:
        failed = [each | {"error": named(each["error"])} for each in row["pooling"]["failed"]]
        said["pooling"] = row["pooling"] | {"failed": failed}
    return row | said
