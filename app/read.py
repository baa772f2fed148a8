"""The Read tab: one study, its probabilities, its map. A handler reads, predicts, explains, renders and returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np

import engine
from app import audit, cases, chance, compute, covers, programs, render, text
from app.cases import Case
from app.host import HIDDEN, Host, Screen, Updates
from app.pointing import Pointing

STRIP = 10  # thumbnails below a series


@dataclass(frozen=True)
class Shown:
    """How an image is shown, which is how it is classified. window : None as the file asks; covered : areas in pixels."""

    window: engine.Window | None = None
    invert: bool = False
    covered: tuple[engine.Box, ...] = ()

    def of(self, image: engine.Image) -> engine.Image:
        return engine.cover(engine.inverted(image) if self.invert else image, self.covered)


@dataclass(frozen=True)
class Reading:
    """What the last look at an image found: enough to draw another class's map. image : for the eye, no larger than it can
    use; shape : of the whole one, in whose pixels boxes, and covered areas, are given."""

    image: engine.Image
    shape: tuple[int, int]
    prepared: engine.Input
    prompts: engine.PromptSet
    asked: compute.Asked
    title: str
    found_text: tuple[engine.Box, ...]
    covered: tuple[engine.Box, ...] = ()


@dataclass(frozen=True)
class Whole:
    """What is known of all frames of a series. pixels, window : of the frame that was on the screen, for the audit."""

    shown: Shown
    asked: compute.Asked
    curve: engine.Curve
    prompts: engine.PromptSet
    pixels: str
    window: engine.Window | None


class _Stopped(Exception):
    """Nobody waits for the test of this map any more."""


class Read:
    """Handlers of the tab; every visitor's value comes in and goes out through Gradio's state."""

    def __init__(self, host: Host):
        self.host, self.settings = host, host.settings
        self.ui = SimpleNamespace()  # the components, by name; see lay_out
        self.pointing = Pointing(host, self)

    # opening

    def open_files(
        self,
        uploads: list[str] | None,
        screen: Screen,
        turn: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio puts its own in this place
    ) -> Iterator[Updates]:
        """New files replace what was open; those that cannot be read are named, the others stay.

        turn : when they were chosen; they are deleted where something was done since, such as Clear
        """
        ui, taken = self.ui, cases.Taken(0, 0)
        refused: list[str] = []
        try:
            with cases.received(uploads or []) as (files, gone):
                now = screen.change(turn)
                if not now:
                    yield {ui.drop: None}
                    return
                refused += gone
                for taken in cases.take(files):
                    progress((taken.done, taken.total), desc=text.READING)
                    if screen.study != now:
                        cases.forget(list(taken.cases))
                        yield {ui.drop: gr.skip()}  # a generator that gives nothing empties all that it could give
                        return
                    if taken.first:
                        early = render.preview(engine.smaller(taken.first, render.LONGEST), taken.total)
                        yield {**self._emptied(), ui.view: early, ui.problem: ""}
            refused += taken.refused
        except engine.EngineError as error:
            refused.append(str(error))
        told = {ui.drop: None, ui.problem: render.refused(refused, bool(taken.cases))}
        if not taken.cases:
            yield told
            return
        screen.hold(now, list(taken.cases))
        yield told | self._choosers(taken.cases) if screen.study == now else {ui.drop: gr.skip()}

    def open_sample(self, title: str, screen: Screen, turn: int) -> Updates:
        now = screen.change(turn)
        if not now:
            return {self.ui.drop: gr.skip()}
        opened = [cases.sample(title)]
        screen.hold(now, opened)
        return {self.ui.drop: None, self.ui.problem: "", **self._choosers(opened)}

    def _choosers(self, opened: Any) -> Updates:
        """Of the series, its frame, its window and what is covered."""
        names = [(case.title, i) for i, case in enumerate(opened)]
        return {self.ui.file: gr.update(choices=names, value=0, visible=len(opened) > 1), **self._controls(opened[0])}

    def _controls(self, case: Case) -> Updates:
        """The controls as they are for a new series."""
        ui, frames, about = self.ui, case.series.frames, case.series.about
        label = text.FRAME.format(frames=frames)
        return {
            ui.frame: gr.update(minimum=1, maximum=max(2, frames), value=frames // 2 + 1, visible=frames > 1, label=label),
            ui.window: gr.update(choices=render.window_choices(about), value="", visible=about.deep),
            ui.invert: False,
            ui.areas: "",
            ui.strip: "",
        }

    def choose_series(self, screen: Screen, index: int) -> Updates:
        screen.series += 1
        held = screen.held
        return self._controls(held[index]) if index < len(held) else {self.ui.strip: ""}

    def _emptied(self) -> Updates:
        """Everything that is said of an image, unsaid: nothing of one patient stands beside another's picture."""
        ui = self.ui
        return dict.fromkeys((ui.wrong, ui.result, ui.care, ui.said, ui.strip, self.pointing.ui.pointed), "") | {
            ui.reading: None,
            **self._no_map(),
            **self._no_volume(),
        }

    # reading

    def _shown(self, case: Case, window: str, center: float, width: float, invert: bool, areas: str) -> Shown:
        """Raises ImageError for a window or an area that is not understood."""
        if not case.series.about.deep or not window:
            chosen = None
        elif window == render.BY_HAND:
            chosen = engine.by_hand(float(center), float(width))
        else:
            own = {f"file {i}": each for i, each in enumerate(case.series.about.windows, start=1)}
            chosen = own.get(window) or engine.named_window(window)
        return Shown(chosen, invert, covers.read(areas))

    def image(
        self, screen: Screen, index: int, frame: int, window: str, center: float, width: float, invert: bool, areas: str
    ) -> engine.Image:
        """The image on the screen, as it is classified. Raises ImageError, also where there is none."""
        held = screen.held
        if not held:
            raise engine.ImageError("No image is open.", "Open one in the tab Read first.")
        case = held[min(index or 0, len(held) - 1)]
        shown = self._shown(case, window, center, width, invert, areas)
        return shown.of(case.series.frame(min(int(frame or 1), case.series.frames) - 1, shown.window))

    def look(
        self, request: gr.Request | None, screen: Screen, index: int, frame: int, window: str, center: float, width: float, invert: bool, areas: str,
        backbone: str, prompts_name: str, target: str, method: str | None, opacity: float,
    ) -> Updates:  # fmt: skip
        """Probabilities, map and notes of one frame; a sentence where something does not fit."""
        ui, now, held = self.ui, screen.view, screen.held
        screen.look += 1
        pointed = {self.pointing.ui.pointed: ""}  # at another image, or frame
        unsaid = {ui.reading: None, ui.result: "", ui.care: "", ui.said: "", **self._no_map(), **pointed}
        if not held:
            return {**unsaid, ui.wrong: "", ui.view: render.empty_viewer(), ui.levels: gr.update(visible=False)}
        case = held[min(index or 0, len(held) - 1)]
        try:
            shown = self._shown(case, window, center, width, invert, areas)
        except engine.EngineError as error:  # a slip of the keyboard: what was on the screen stays
            return {ui.wrong: render.error(str(error))}
        try:
            self.host.load(backbone)
            image = shown.of(case.series.frame(min(int(frame or 1), case.series.frames) - 1, shown.window))
            asked = self.host.asked(request, backbone, prompts_name, target, method or "")
            found, prompts = compute.classify(image, asked), self.host.prompts(asked)
            line = audit.entry(audit.digest(image), image.window, found.prediction, prompts, len(shown.covered), invert)
            audit.write(self.settings.audit, line)
        except engine.EngineError as error:
            if screen.view != now:
                return {ui.wrong: gr.skip()}
            return {**unsaid, ui.wrong: "", ui.view: render.error(case.named(error))}
        ranked = [label for label, _ in found.prediction.ranked()]
        found_text = tuple(engine.find_text(image))
        if screen.view != now:
            return {ui.wrong: gr.skip()}
        reading = Reading(
            engine.smaller(image, render.LONGEST),
            image.shape,
            found.prepared,
            prompts,
            replace(asked, target=""),
            case.title,
            found_text,
            shown.covered,
        )
        said = (
            render.notes(text.NOTES, list(dict.fromkeys([*case.series.notes, *image.notes])))
            + render.about(case.series.about, case.removed)
            + render.card(prompts)
        )
        names = [(prompts.display(label), label) for label in ranked]
        return {
            ui.wrong: "",
            ui.reading: reading,
            ui.view: self._view(reading, found.heatmap, ranked[0], opacity),
            ui.result: render.bars(found.prediction, prompts, found.beside),
            ui.care: render.notes(text.WARNINGS, engine.warnings_of(case.series, image, prompts, found_text), "ps-warn"),
            ui.said: said,
            **self._mapped(names, found.heatmap, backbone),
            **self._sliders(image, window),
            **pointed,
        }

    def look_anew(self, request: gr.Request | None, screen: Screen, index: int, *rest: Any) -> Updates:
        """As `look`, where more than the frame has changed: what is known of all frames no longer holds. Where nothing is open,
        nothing is left of what an answer that came late has drawn."""
        screen.view += 1
        held = screen.held
        if not held:
            return self._nothing()
        found = self.look(request, screen, index, *rest)
        if held[min(index or 0, len(held) - 1)].series.frames == 1:
            return found | self._no_volume()
        frames = held[min(index or 0, len(held) - 1)].series.frames
        ui = self.ui
        return (
            found
            | self._no_volume()
            | {ui.volume: gr.update(visible=True), ui.run_all: text.ALL_FRAMES.format(frames=frames)}
        )

    def look_by_hand(
        self, request: gr.Request | None, screen: Screen, index: int, frame: int, window: str, *rest: Any
    ) -> Updates:
        """As `look_anew`, with the window of the sliders; the list of windows says so, too."""
        return {self.ui.window: render.BY_HAND, **self.look_anew(request, screen, index, frame, render.BY_HAND, *rest)}

    def _view(self, reading: Reading, heatmap: engine.Heatmap | None, label: str, opacity: float) -> str:
        placed = None if heatmap is None else _placed(heatmap, reading.image, reading.shape)
        name = reading.prompts.display(label)
        return render.viewer(
            reading.image, reading.prepared.box, placed, name, opacity, reading.title, reading.found_text, reading.shape
        )

    def _sliders(self, image: engine.Image, window: str) -> Updates:
        """The centre and width that are shown; what somebody set by hand is left as it is. No sliders where no window
        applies: the file's own table is shown, or colours."""
        ui, used = self.ui, image.window
        if used is None:
            return {ui.levels: gr.update(visible=False)}
        if window == render.BY_HAND:
            return {ui.levels: gr.update(visible=True)}
        low, high = (-1024, 3071) if image.modality == "CT" else (used.center - 2 * used.width, used.center + 2 * used.width)
        step = 1 if high - low > 100 else (high - low) / 1000
        return {
            ui.levels: gr.update(visible=True),
            ui.center: gr.update(
                minimum=min(low, used.center), maximum=max(high, used.center), value=used.center, step=step
            ),
            ui.width: gr.update(minimum=step, maximum=max(high - low, used.width), value=used.width, step=step),
        }

    def _no_map(self) -> Updates:
        """Nothing to choose of a map, and nothing said of one."""
        ui, hidden = self.ui, gr.update(visible=False)
        return {ui.classes: hidden, ui.mapping: hidden, ui.chance: "", **self._checking(False)}

    def _mapped(self, names: list[tuple[str, str]], heatmap: engine.Heatmap | None, backbone: str) -> Updates:
        """What can be chosen of a map that is on the screen. names : (words, class), the most probable first."""
        ui = self.ui
        if heatmap is None:
            return self._no_map() | {ui.classes: gr.update(choices=names, value=names[0][1], visible=False)}
        return {
            ui.classes: gr.update(choices=names, value=heatmap.label, visible=True),
            ui.mapping: gr.update(visible=True),
            ui.method: gr.update(choices=self.host.maps(backbone), value=heatmap.method),
            ui.chance: "",
            **self._checking(False),
        }

    def _checking(self, running: bool) -> Updates:
        return {self.ui.check: gr.update(visible=not running), self.ui.check_stop: gr.update(visible=running)}

    def redraw(
        self, reading: Reading | None, screen: Screen, label: str, target: str, method: str, opacity: float
    ) -> Updates:
        """The map of another class, against another target, or of another kind. What was said of the one before goes."""
        ui = self.ui
        screen.check += 1
        if reading is None or not label:
            return {ui.view: gr.skip()}
        now = screen.view
        try:
            heatmap = compute.draw(reading.prepared, label, replace(reading.asked, target=target, method=method))
            view = self._view(reading, heatmap, label, opacity)
        except engine.EngineError as error:
            view = render.error(str(error))
        return {ui.view: view, ui.chance: "", **self._checking(False)} if screen.view == now else {ui.view: gr.skip()}

    def test(
        self, reading: Reading | None, screen: Screen, label: str, target: str, method: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio puts its own in this place
    ) -> Iterator[Updates]:  # fmt: skip
        """Whether the map says more than chance. It takes a while, and ends when it is stopped or another map is looked at."""
        ui = self.ui
        screen.check += 1
        now = screen.check, screen.view
        if reading is None or not label:
            yield self._checking(False)
            return
        yield {ui.chance: '<div class="ps-chance ps-room"></div>', **self._checking(True)}

        def far(done: int) -> None:
            if (screen.check, screen.view) != now:
                raise _Stopped
            progress((done, chance.IMAGES), desc=text.CHECKING)

        try:
            asked = replace(reading.asked, target=target, method=method)
            heatmap = compute.draw(reading.prepared, label, asked)
            if heatmap is None:
                raise engine.ExplainError(text.NO_MAP)
            backbone = self.host.backbone(asked.backbone)
            image = reading.shape, reading.covered
            found = chance.check(reading.prepared, heatmap, reading.prompts, asked, backbone, *image, far)
            said = chance.drawn(found, text.MAP_TITLES.get(heatmap.method, heatmap.method))
        except engine.EngineError as error:
            said = render.error(str(error))
        except _Stopped:
            yield {ui.chance: gr.skip()}
            return
        yield {ui.chance: said, **self._checking(False)} if (screen.check, screen.view) == now else {ui.chance: gr.skip()}

    def stop_test(self, screen: Screen) -> Updates:
        screen.check += 1
        return {self.ui.chance: f'<p role="status">{text.CHECK_STOPPED}</p>', **self._checking(False)}

    def cover_text(self, reading: Reading | None, areas: str) -> Any:
        """Adds what looks like text to the covered areas; what is not understood there stays as it is, and is said."""
        if reading is None:
            return gr.skip()
        try:
            return covers.write([*covers.read(areas), *reading.found_text])
        except engine.EngineError:
            return gr.skip()

    # all frames of a series

    def _no_volume(self) -> Updates:
        ui = self.ui
        return {ui.volume: gr.update(visible=False), ui.whole: None, ui.curve: "", **self._running(False)}

    def _running(self, running: bool) -> Updates:
        """While all frames are classified there is a button to stop, and the way to pool them is settled."""
        return {self.ui.stop: gr.update(visible=running), self.ui.how: gr.update(interactive=not running)}

    def thumbnails(
        self,
        screen: Screen,
        index: int,
        window: str,
        center: float,
        width: float,
        invert: bool,
        areas: str,
    ) -> str:
        """Small pictures of a series, shown as it is classified; made when everything else is on the screen."""
        held, now = screen.held, screen.series
        case = held[min(index or 0, len(held) - 1)] if held else None
        if case is None or case.series.frames == 1:
            return ""
        try:
            shown = self._shown(case, window, center, width, invert, areas)
        except engine.EngineError:
            return ""  # the viewer says what is wrong with the window or the areas
        last = case.series.frames - 1
        at = sorted({round(i * last / (STRIP - 1)) for i in range(STRIP)})
        frames = engine.frames_of(case.series, at, shown.window)
        drawn = render.strip((i, shown.of(each) if isinstance(each, engine.Image) else each) for i, each in frames)
        return drawn if screen.series == now else gr.skip()

    def all_frames(
        self, request: gr.Request | None, screen: Screen, index: int, frame: int, window: str, center: float, width: float, invert: bool, areas: str,
        backbone: str, prompts_name: str, how: str,
    ) -> Iterator[Updates]:  # fmt: skip
        """Every frame's probabilities, growing on the screen; stopped by the button beside it."""
        held = screen.held
        if not held:
            yield self._running(False)
            return
        ui, case, at = self.ui, held[min(index or 0, len(held) - 1)], int(frame or 1) - 1
        now = screen.view
        yield self._running(True)
        try:
            self.host.load(backbone)
            shown = self._shown(case, window, center, width, invert, areas)
            asked = self.host.asked(request, backbone, prompts_name)
            prompts = self.host.prompts(asked)
            pixels, used = self._on_screen(case, at, shown)
            for curve in self._curves(case, asked, shown):
                if screen.view != now:
                    break  # whatever came in between has drawn the page anew
                whole = Whole(shown, asked, curve, prompts, pixels, used)
                if curve.done == curve.total:
                    self._account(whole, how)
                yield {ui.whole: whole, ui.curve: render.pooled(curve, prompts, how, at), **self._running(True)}
            yield self._running(False)
        except engine.EngineError as error:
            if screen.view == now:
                yield {ui.whole: None, ui.curve: render.error(str(error)), **self._running(False)}

    def _on_screen(self, case: Case, at: int, shown: Shown) -> tuple[str, engine.Window | None]:
        """What the audit says of the frame on the screen; nothing where none is kept, or the frame cannot be decoded."""
        if not self.settings.audit:
            return "", None
        try:
            image = case.series.frame(at, shown.window)
        except engine.ImageError:
            return "", None
        return audit.digest(shown.of(image)), image.window

    def stop(self, whole: Whole | None, how: str) -> Updates:
        """What has been classified so far stays, and is an answer that must be accounted for."""
        if whole is not None:
            try:
                self._account(whole, how)
            except engine.EngineError as error:
                return {self.ui.curve: render.error(str(error)), **self._running(False)}
        return self._running(False)

    def _curves(self, case: Case, asked: compute.Asked, shown: Shown) -> Iterator[engine.Curve]:
        preprocess = self.host.backbone(asked.backbone).preprocess
        return engine.curves(
            case.series,
            lambda image: engine.prepare(shown.of(image), preprocess),
            lambda inputs: [compute.score(inputs, asked)],
            shown.window,
        )

    def _pooled(self, whole: Whole, how: str) -> engine.Prediction:
        backbone = self.host.backbone(whole.asked.backbone)
        return engine.pooled(whole.curve, 0, how, backbone, whole.prompts)[0]

    def _account(self, whole: Whole, how: str) -> None:
        shown, pooled = whole.shown, self._pooled(whole, how)
        frames = len(whole.curve.frames)
        line = audit.entry(whole.pixels, whole.window, pooled, whole.prompts, len(shown.covered), shown.invert, frames, how)
        audit.write(self.settings.audit, line)

    def repool(self, whole: Whole | None, frame: int, how: str) -> Any:
        if whole is None:
            return gr.skip()
        try:
            self._account(whole, how)
        except engine.EngineError as error:
            return render.error(str(error))
        return render.pooled(whole.curve, whole.prompts, how, int(frame or 1) - 1)

    def clear(self, screen: Screen, turn: int) -> Updates:
        now = screen.change(turn)
        if not now:
            return {self.ui.drop: gr.skip()}
        screen.hold(now, [])
        return self._nothing() | {self.ui.problem: ""}

    def _nothing(self) -> Updates:
        """The screen where no image is open."""
        ui, hidden = self.ui, gr.update(visible=False)
        gone = dict.fromkeys((ui.file, ui.frame, ui.window, ui.levels), hidden)
        return {
            **self._emptied(), **gone, ui.invert: False, ui.areas: "", ui.view: render.empty_viewer(),
        }  # fmt: skip

    # for programs

    def predict(
        self,
        request: gr.Request | None,
        file: gr.FileData,
        backbone: str = "",
        prompts: str = "",
        frame: int = 0,
        window: str = "",
        how: str = "",
        cover_text: bool = False,
    ) -> dict[str, Any]:
        """Reads one file, or a zip of a series: rows as of `python -m engine predict --json`, one a series; what fails is a row
        with the sentence. Keeps nothing.

        file: DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, WebP, BMP, or a zip of these
        backbone: id of the model, or nothing for the page's own
        prompts: name of a prompt set, or a task's id, or nothing for the page's first question
        frame: from 1; 0 takes the middle one
        window: CENTRE,WIDTH, a preset's name, automatic, or nothing for the file's own
        how: mean, max or top-k to pool all frames, or nothing to read one
        cover_text: blacken what looks like burned-in text first
        Returns: `schema`, `notice` and `results`, a row with `status`, `error`, `probabilities` and more a series
        """
        path, backbone = file["path"], backbone or self.settings.backbone
        rows: list[dict[str, Any]] = []
        taken = cases.Taken(0, 0)
        try:
            with cases.received([path]) as (files, gone):
                self.host.load(backbone)
                asked = self.host.asked(request, backbone, prompts or self.host.questions(request)[0][1])
                chosen = engine.named_window(window) if window else None
                *_, taken = cases.take(files)
            for case in taken.cases:
                try:
                    rows.append(self._row(case, asked, chosen, frame, how, cover_text))
                except engine.EngineError as error:
                    rows.append(engine.error_row([], backbone, error))
            for sentence in (*gone, *taken.refused):
                rows.append(engine.error_row([], backbone, engine.ImageError(sentence)))
        except engine.EngineError as error:
            rows.append(engine.error_row([], backbone, error))
        finally:
            cases.forget(list(taken.cases))
        return {"schema": 1, "notice": text.NOTICE, "results": [row | {"files": [Path(path).name]} for row in rows]}

    def _row(
        self, case: Case, asked: compute.Asked, window: engine.Window | None, frame: int, how: str, cover_text: bool
    ) -> dict[str, Any]:
        prompts, series, backbone = self.host.prompts(asked), case.series, self.host.backbone(asked.backbone)

        def as_asked(image: engine.Image) -> engine.Image:
            return engine.cover(image, engine.find_text(image)) if cover_text else image

        if not how:
            index = frame - 1 if frame else engine.middle(series)
            image = as_asked(series.frame(index, window))
            prediction = compute.classify(image, asked).prediction
            row = engine.result_row(series, image, prediction, prompts, None, engine.find_text(image), index)
        else:
            *_, curve = engine.curves(
                series,
                lambda image: engine.prepare(as_asked(image), backbone.preprocess),
                lambda inputs: [compute.score(inputs, asked)],
                window,
            )
            prediction, at = engine.pooled(curve, 0, how, backbone, prompts)
            image = as_asked(series.frame(at, window))
            pooling = engine.pooling_row(curve, 0, how, prompts.labels)
            row = engine.result_row(series, image, prediction, prompts, None, engine.find_text(image), pooling=pooling)
        frames = series.frames if how else 1
        line = audit.entry(audit.digest(image), image.window, prediction, prompts, int(cover_text), False, frames, how)
        audit.write(self.settings.audit, line)
        return row

    def explain(
        self,
        request: gr.Request | None,
        file: gr.FileData,
        label: str = "",
        target: str = "rest",
        backbone: str = "",
        prompts: str = "",
        frame: int = 0,
        window: str = "",
        method: str = "",
        check: bool = False,
    ) -> dict[str, Any]:
        """Draws the map of what speaks for a class over one image. It estimates which places raise the score, and does not outline
        a finding.

        file: DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, WebP, BMP, or a zip of these
        label: a class of the prompt set, or nothing for the most probable one
        target: rest for the class against all others, class for it alone, runner-up for it against the next probable one
        backbone: id of the model, or nothing for the page's own
        prompts: name of a prompt set, or a task's id, or nothing for the page's first question
        frame: from 1; 0 takes the middle one
        window: CENTRE,WIDTH, a preset's name, automatic, or nothing for the file's own
        method: the kind of map, one of `explanations` of `/about`, or nothing for the backbone's first
        check: whether the map is better than chance is tested, too; that takes some four hundred passes of the image tower
        Returns: `notice`, `label`, `target`, `method`, `is_flat` (the model has no preferred place, nothing is drawn), `chance` (null
        unless it was asked for: `verdict`, `deletion_auc`, `insertion_auc`, `score`, `random` and `centre` scores), and `image`: a PNG
        of the image under its map, as data:image/png;base64
        """
        asked = self.host.asked(
            request, backbone or self.settings.backbone, prompts or self.host.questions(request)[0][1], target
        )
        self.host.load(asked.backbone)
        asked = replace(asked, method=method)
        with cases.only(file["path"]) as series:
            index = frame - 1 if frame else engine.middle(series)
            image = series.frame(index, engine.named_window(window) if window else None)
        found, learned = compute.classify(image, replace(asked, target="")), self.host.prompts(asked)
        label = label or found.prediction.ranked()[0][0]
        if label not in learned.labels:
            raise engine.PromptSetError(
                f"{label!r} is no class of {learned.name!r}.", f"It has: {', '.join(learned.labels)}."
            )
        heatmap = compute.draw(found.prepared, label, asked)
        if heatmap is None:
            raise engine.ExplainError(text.NO_MAP)
        small = engine.smaller(image, render.LONGEST)
        placed = _placed(heatmap, small, image.shape)
        drawn = render.data_address(engine.overlay(small, placed))
        told = None
        if check:
            model = self.host.backbone(asked.backbone)
            told = chance.as_row(chance.check(found.prepared, heatmap, learned, asked, model, image.shape))
        return {
            "notice": text.NOTICE,
            "label": label,
            "target": target,
            "method": heatmap.method,
            "is_flat": engine.is_flat(placed),
            "chance": told,
            "image": drawn,
        }

    # layout and wiring

    def lists(self) -> tuple[list[Any], list[Any]]:
        return [self.ui.prompts], [self.ui.prompts]

    def arrive(self, request: gr.Request, chosen: str) -> Any:
        """The tab is opened: what can be asked may have changed in another one."""
        options = self.host.questions(request)
        if chosen in {value for _, value in options}:
            return gr.update(choices=options)
        return gr.update(choices=options, value=options[0][1])

    def lay_out(self) -> None:
        ui, settings = self.ui, self.settings
        options = self.host.questions(None)
        backbones = self.host.backbones()
        ui.screen = gr.State(Screen(), delete_callback=lambda screen: cases.forget(screen.held))
        ui.reading, ui.whole = gr.State(None), gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                ui.drop = gr.File(label=text.DROP, file_count="multiple", type="filepath", height=160, elem_id="ps-drop")
                ui.folder = gr.UploadButton(text.FOLDER, file_count="directory", size="sm", elem_id="ps-folder")
                gr.HTML(render.limits(settings.upload_mb, engine.sandbox().limits))
                ui.samples = []
                if engine.samples():
                    gr.HTML(f'<h4 class="ps-label">{text.SAMPLES}</h4>')
                    with gr.Row(elem_classes="ps-samples"):
                        for each in engine.samples():
                            ui.samples.append((each.title, gr.Button(each.title, size="sm", min_width=60)))
                ui.prompts = gr.Dropdown(
                    options, value=options[0][1], label=text.PROMPTS, info=text.PROMPTS_INFO, elem_id="ps-prompts"
                )
                ui.backbone = gr.Dropdown(
                    backbones, value=settings.backbone, label=text.BACKBONE, info=text.BACKBONE_INFO, elem_id="ps-backbone"
                )
                ui.clear = gr.Button(text.CLEAR, size="sm", variant="secondary", elem_id="ps-clear")
            with gr.Column(scale=5, min_width=320):
                ui.problem = gr.HTML("", elem_id="ps-problem")
                ui.wrong = gr.HTML("", elem_id="ps-wrong")
                ui.file = gr.Dropdown([], label=text.SERIES, visible=False, elem_id="ps-file")
                ui.view = gr.HTML(render.empty_viewer(), elem_id="ps-view")
                ui.frame = gr.Slider(1, 2, value=1, step=1, label=text.FRAME, visible=False, elem_id="ps-frame")
                ui.strip = gr.HTML("", elem_id="ps-strip")
                with gr.Group(visible=False, elem_id="ps-volume") as ui.volume:
                    with gr.Row():
                        ui.run_all = gr.Button(
                            text.ALL_FRAMES, size="sm", variant="primary", elem_id="ps-all", min_width=120
                        )
                        ui.stop = gr.Button(text.STOP, size="sm", visible=False, elem_id="ps-stop", min_width=60)
                    ui.how = gr.Radio(list(text.POOLS), value="mean", label=text.POOL, elem_id="ps-pool")
                    ui.curve = gr.HTML("", elem_id="ps-curve")
                ui.opacity = gr.Slider(0, 1, value=0.5, step=0.05, label=text.OPACITY, elem_id="ps-opacity")
                ui.window = gr.Dropdown(
                    [(text.AS_FILE, "")], value="", label=text.WINDOW, info=text.WINDOW_INFO, visible=False,
                    allow_custom_value=True, elem_id="ps-window",
                )  # fmt: skip
                with gr.Row(visible=False) as ui.levels:
                    ui.center = gr.Slider(
                        -1024, 3071, value=40, step=1, label=text.CENTER, elem_id="ps-center", min_width=120
                    )
                    ui.width = gr.Slider(1, 4096, value=400, step=1, label=text.WIDTH, elem_id="ps-width", min_width=120)
                ui.invert = gr.Checkbox(False, label=text.INVERT, elem_id="ps-invert")
                with gr.Accordion(text.COVER, open=False, elem_id="ps-cover"):
                    gr.HTML(render.cover_help())
                    ui.areas = gr.Textbox("", label=text.COVERED, info=text.COVERED_INFO, max_lines=3, elem_id="ps-covers")
                    with gr.Row():
                        ui.apply = gr.Button(text.APPLY, size="sm", elem_id="ps-cover-apply", min_width=60)
                        ui.found = gr.Button(text.COVER_FOUND, size="sm", elem_id="ps-cover-found", min_width=60)
                        ui.uncover = gr.Button(text.UNCOVER, size="sm", min_width=60)
                self.pointing.lay_out()
            with gr.Column(scale=4, min_width=300):
                ui.result = gr.HTML("", elem_id="ps-bars")
                ui.care = gr.HTML("", elem_id="ps-care")
                ui.classes = gr.Radio([], label=text.MAP_CLASS, visible=False, elem_id="ps-classes")
                with gr.Group(visible=False) as ui.mapping:
                    ui.target = gr.Dropdown(list(text.MAP_TARGETS), value="rest", label=text.MAP_TARGET, elem_id="ps-target")
                    maps = self.host.maps(settings.backbone)
                    first = maps[0][1] if maps else None
                    ui.method = gr.Dropdown(maps, value=first, label=text.MAP_METHOD, elem_id="ps-method")
                    ui.check = gr.Button(text.CHECK, size="sm", elem_id="ps-check")
                    ui.check_stop = gr.Button(text.STOP, size="sm", visible=False, elem_id="ps-check-stop")
                ui.chance = gr.HTML("", elem_id="ps-chance")
                ui.said = gr.HTML("", elem_id="ps-notes")
        # where a click on a thumbnail or on the curve arrives (page.js)
        with gr.Row(elem_classes="ps-unseen"):
            ui.goto = gr.Textbox("", elem_id="ps-goto", label="frame")
            ui.go = gr.Button("go", elem_id="ps-go")
            ui.turn = gr.Number(0, label="turn", precision=0)

    def view_of(self) -> list[Any]:
        """The components that say how an image is shown."""
        ui = self.ui
        return [ui.frame, ui.window, ui.center, ui.width, ui.invert, ui.areas]

    def wire(self) -> None:
        ui = self.ui
        view_of = self.view_of()
        asked = [ui.screen, ui.file, *view_of, ui.backbone, ui.prompts, ui.target, ui.method, ui.opacity]
        testing = [ui.chance, ui.check, ui.check_stop]
        answered = [
            ui.wrong, ui.reading, ui.view, ui.result, ui.care, ui.said, ui.classes, ui.levels, ui.center, ui.width,
            ui.mapping, ui.method, self.pointing.ui.pointed, *testing,
        ]  # fmt: skip
        volume = [ui.volume, ui.run_all, ui.whole, ui.curve, ui.stop, ui.how]
        controls = [ui.frame, ui.window, ui.invert, ui.areas, ui.strip]
        anew = [ui.file, *controls, *answered, *volume]
        self.asks, self.answers = asked, anew  # of `look_anew`, for a tab that changes the question
        opened = [*anew, ui.drop, ui.problem]

        # Whoever looks at something else does not wait for what is under way, and never sees it: handlers ask the screen
        # (`Screen`). Gradio's own `cancels` would come too late at times, and end the event that is meant to follow.
        running = ui.run_all.click(
            self.all_frames, [ui.screen, ui.file, *view_of, ui.backbone, ui.prompts, ui.how],
            [ui.whole, ui.curve, ui.stop, ui.how],
            show_progress="hidden", **HIDDEN,
        )  # fmt: skip
        ui.stop.click(self.stop, [ui.whole, ui.how], [ui.curve, ui.stop, ui.how], cancels=[running], **HIDDEN)
        ui.how.input(self.repool, [ui.whole, ui.frame, ui.how], ui.curve, show_progress="hidden", **HIDDEN)

        every: dict[str, Any] = {"trigger_mode": "multiple", **HIDDEN}  # also while the one before is under way
        last: dict[str, Any] = {"trigger_mode": "always_last", **HIDDEN}

        def thumbnails(event: Any) -> None:
            inputs = [ui.screen, ui.file, ui.window, ui.center, ui.width, ui.invert, ui.areas]
            event.then(self.thumbnails, inputs, ui.strip, show_progress="hidden", **every)

        def then_look(event: Any) -> None:
            thumbnails(event.then(self.look_anew, asked, anew, show_progress_on=[ui.view, ui.result], **every))

        turn = "(screen) => [screen, window.promptscopeTurn?.next() ?? 0]"  # which act came first, whichever the server hears first
        for source in (ui.drop, ui.folder):
            then_look(
                source.upload(
                    self.open_files,
                    [source, ui.screen, ui.turn],
                    opened,
                    concurrency_limit=4,
                    show_progress_on=[ui.view],
                    js="(files, screen) => [files, screen, window.promptscopeTurn?.sent ?? 0]",
                    **every,
                )
            )
        for title, button in ui.samples:
            opening = button.click(
                lambda *now, t=title: self.open_sample(t, *now), [ui.screen, ui.turn], opened, js=turn, **every
            )
            then_look(opening)
        then_look(ui.file.input(self.choose_series, [ui.screen, ui.file], controls, **every))
        for control in (ui.prompts, ui.backbone):  # the last choice counts, also while an earlier one is being tried
            control.input(self.look_anew, asked, anew, show_progress_on=[ui.view, ui.result], **last)
        for event in (ui.window.input, ui.invert.input, ui.apply.click, ui.areas.submit):
            then_look(event(lambda: None, **every))
        then_look(ui.found.click(self.cover_text, [ui.reading, ui.areas], ui.areas, **every))
        then_look(ui.uncover.click(lambda: "", None, ui.areas, **every))
        # while a slider moves only the last position is looked at
        ui.frame.input(self.look, asked, answered, show_progress="hidden", **last)
        for slider in (ui.center, ui.width):
            slider.input(self.look_by_hand, asked, anew, show_progress="hidden", **last)
            thumbnails(slider.release(lambda: render.BY_HAND, None, ui.window, **HIDDEN))
        gone = ui.go.click(lambda value: int(value) if value.isdigit() else gr.skip(), ui.goto, ui.frame, **every)
        gone.then(self.look, asked, answered, show_progress="hidden", **last)
        chosen = [ui.reading, ui.screen, ui.classes, ui.target, ui.method]
        for control in (ui.classes, ui.target, ui.method):
            control.input(self.redraw, [*chosen, ui.opacity], [ui.view, *testing], show_progress_on=ui.view, **last)
        ui.check.click(self.test, chosen, testing, show_progress_on=ui.chance, **every)  # also while a stopped one ends
        ui.check_stop.click(self.stop_test, ui.screen, testing, **every)
        # Fading needs no server: the map is a layer of its own.
        fade = "(v) => { document.querySelectorAll('.ps-map').forEach((m) => { m.style.opacity = v }); }"
        ui.opacity.input(None, [ui.opacity], None, js=fade, **HIDDEN)
        ui.clear.click(self.clear, [ui.screen, ui.turn], opened, js=turn, **every)
        self.pointing.wire()

    def endpoints(self) -> None:
        programs.offer(self.predict, "predict")
        programs.offer(self.explain, "explain")
        self.pointing.endpoints()


def _placed(heatmap: engine.Heatmap, image: engine.Image, shape: tuple[int, int]) -> np.ndarray:
    """The map over a smaller copy of the image that it was made of, which has this shape."""
    (rows, columns), box = image.shape, heatmap.box
    down, across = rows / shape[0], columns / shape[1]
    seen = engine.Box(box.top * down, box.left * across, box.height * down, box.width * across)
    return engine.place(replace(heatmap, box=seen), image.shape)
