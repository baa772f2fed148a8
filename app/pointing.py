"""Pointing, beside the image that is read: a visitor types a phrase, and sees where the image resembles it, two phrases side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

import engine
from app import cases, compute, programs, render, text
from app.host import HIDDEN, Host, Screen, Updates

if TYPE_CHECKING:
    from app.read import Read

BOXES = 3  # of a phrase
LOCATORS = tuple(value for _, value in text.POINT_LOCATORS)  # those that need no model of their own


class Pointing:
    """Handlers of the fold in the tab Read, whose image they look at."""

    def __init__(self, host: Host, read: Read):
        self.host, self.read = host, read
        self.ui = SimpleNamespace()

    def classes(self, request: gr.Request | None, question: str, backbone: str, label: str | None) -> Any:
        """The classes of the question that is open, whose words can be taken. label : that is chosen, and stays."""
        try:
            prompts = self.host.prompts(self.host.asked(request, backbone, question))
            options = [(prompts.display(label), label) for label in prompts.labels]
        except engine.EngineError:  # the tab says what is wrong with the question
            options = []
        known = label if label in [value for _, value in options] else None
        return gr.update(choices=options, value=known, visible=bool(options))

    def another_question(self, request: gr.Request | None, question: str, backbone: str, label: str | None) -> Updates:
        """The classes of another question; what was taken of a class goes with the one before, one's own words stay."""
        ui, gone = self.ui, {self.ui.phrase: "", self.ui.other: ""} if label else {}
        return {ui.of_class: self.classes(request, question, backbone, None), **gone}

    def words(self, request: gr.Request | None, question: str, backbone: str, label: str | None) -> tuple[Any, Any]:
        """A class's name, and its name among the words about its look."""
        if not label:
            return gr.skip(), gr.skip()
        try:
            asked = self.host.asked(request, backbone, question)
            prompts = self.host.prompts(asked)
        except engine.EngineError:  # the tab says what is wrong with the question
            return gr.skip(), gr.skip()
        try:
            bank = engine.descriptions(asked.task or prompts.card["task"]["id"])
        except engine.EngineError:  # nobody wrote of it
            return prompts.display(label), ""
        if label not in bank.classes:
            return prompts.display(label), ""
        full = engine.described(bank, label)
        return full.name, "" if full.text == full.name else full.text

    def _rivals(self, request: gr.Request | None, question: str, backbone: str, label: str | None, phrase: str) -> list[str]:
        """What a phrase is held against: the other classes of the question where it still is the name of the class that was
        taken, else nothing of it. Raises EngineError."""
        if not label or phrase != self.words(request, question, backbone, label)[0]:
            return []
        labels = self.host.prompts(self.host.asked(request, backbone, question)).labels
        return [each for each in labels if each != label]

    def point(
        self, request: gr.Request | None, screen: Screen, index: int, frame: int, window: str, center: float, width: float,
        invert: bool, areas: str, backbone: str, question: str, label: str | None, phrase: str, other: str, locator: str,
    ) -> Updates:  # fmt: skip
        """Where the image on the screen resembles each phrase; a sentence where something does not fit. label : the class whose
        words were taken, if any."""
        now = screen.view, screen.look
        held = screen.held
        try:
            if not phrase.strip():
                raise engine.ExplainError(text.POINT_EMPTY)
            image = self.read.image(screen, index, frame, window, center, width, invert, areas)
            phrases = [each.strip() for each in (phrase, other) if each.strip()]
            self.host.load(backbone)
            rivals = self._rivals(request, question, backbone, label, phrase.strip())
            found = compute.locate(image, phrases, locator, BOXES, self.host.asked(request, backbone, ""), rivals)
            case = held[min(index or 0, len(held) - 1)]
            said = drawn(image, found, text.POINT_FRAME.format(frame=int(frame)) if case.series.frames > 1 else "")
        except engine.EngineError as error:
            said = render.error(held[min(index or 0, len(held) - 1)].named(error) if held else str(error))
        return {self.ui.pointed: said if (screen.view, screen.look) == now else gr.skip()}

    # for programs

    def locate(
        self,
        request: gr.Request | None,
        file: gr.FileData,
        phrase: str,
        backbone: str = "",
        frame: int = 0,
        window: str = "",
        most: int = BOXES,
        locator: str = LOCATORS[0],
    ) -> dict[str, Any]:
        """Where one image resembles a phrase: boxes with scores. The models were not taught where things are: a box is where
        the image is nearer to the phrase than to neutral ones, and no outline of a finding.

        file: DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, WebP, BMP, or a zip of these
        phrase: what to look for, such as "dark irregular mass"
        backbone: id of the model, or nothing for the page's own
        frame: from 1; 0 takes the middle one
        window: CENTRE,WIDTH, a preset's name, automatic, or nothing for the file's own
        most: boxes at most, from 1
        locator: windows (parts of the image, each seen alone) or patches (all from one look; vision transformers)
        Returns: `notice`, `phrase`, `locator`, `model`, `negatives` (what the phrase was held against), `boxes` ([x0, y0, x1, y1] in pixels
        from the top left corner, half-open), `scores` (0 to 1, of each box), `notes`, and `image`: a PNG of the image with them,
        as data:image/png;base64
        """
        if locator not in LOCATORS:
            raise engine.ExplainError(f"There is no {locator[:40]!r} here.", f"Choose one of: {', '.join(LOCATORS)}.")
        asked = self.host.asked(request, backbone or self.host.settings.backbone, "")
        self.host.load(asked.backbone)
        with cases.only(file["path"]) as series:
            index = frame - 1 if frame else engine.middle(series)
            image = series.frame(index, engine.named_window(window) if window else None)
        (found,) = compute.locate(image, [phrase], locator, most, asked)
        return {
            "notice": text.NOTICE,
            "phrase": found.phrase.text,
            "locator": found.locator,
            "model": found.model,
            "negatives": list(found.negatives),
            "boxes": found.boxes.tolist(),
            "scores": found.scores.tolist(),
            "notes": list(found.notes),
            "image": render.data_address(_picture(image, found)),
        }

    # layout and wiring

    def lay_out(self) -> None:
        ui = self.ui
        with gr.Accordion(text.POINT, open=False, elem_id="ps-point") as ui.fold:
            ui.of_class = gr.Dropdown([], label=text.POINT_CLASS, visible=False, elem_id="ps-point-class")
            ui.phrase = gr.Textbox(
                "", label=text.POINT_PHRASE, placeholder=text.POINT_EXAMPLE, max_lines=2, elem_id="ps-point-phrase"
            )
            ui.other = gr.Textbox(
                "", label=text.POINT_OTHER, info=text.POINT_OTHER_INFO, max_lines=3, elem_id="ps-point-other"
            )
            ui.how = gr.Radio(
                list(text.POINT_LOCATORS),
                value=LOCATORS[0],
                label=text.POINT_LOCATOR,
                info=text.POINT_LOCATOR_INFO,
                elem_id="ps-point-how",
            )
            ui.show = gr.Button(text.POINT_SHOW, size="sm", variant="primary", elem_id="ps-point-show")
            ui.pointed = gr.HTML("", elem_id="ps-pointed")

    def wire(self) -> None:
        ui, read = self.ui, self.read.ui
        every: dict[str, Any] = {"trigger_mode": "multiple", **HIDDEN}
        words = [ui.of_class, ui.phrase, ui.other]
        asked = [read.screen, read.file, *self.read.view_of(), read.backbone, read.prompts, *words, ui.how]
        for event in (ui.show.click, ui.phrase.submit, ui.other.submit):
            event(self.point, asked, ui.pointed, show_progress_on=ui.pointed, **every)
        about = [read.prompts, read.backbone, ui.of_class]
        # as it comes: a class of the question before is no choice of this one
        quiet: dict[str, Any] = {"show_progress": "hidden", "preprocess": False, **every}
        ui.fold.expand(self.classes, about, ui.of_class, **quiet)
        read.prompts.change(self.another_question, about, words, **quiet)
        read.clear.click(lambda: (None, "", ""), None, words, show_progress="hidden", **every)
        ui.of_class.input(self.words, about, [ui.phrase, ui.other], show_progress="hidden", **every)

    def endpoints(self) -> None:
        programs.offer(self.locate, "locate")


def _picture(image: engine.Image, found: engine.Located) -> np.ndarray:
    """uint8 (h, w, 3): the image, no larger than the eye can use, under the heat and with the boxes."""
    small = engine.smaller(image, render.LONGEST)
    down, across = small.shape[0] / image.shape[0], small.shape[1] / image.shape[1]
    heat = replace(found.heat, box=engine.Box(0, 0, *map(float, small.shape)))
    picture = engine.overlay(small, engine.place(heat, small.shape)) if len(found.boxes) else engine.picture(small)
    picture = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    return engine.outlined(picture, found.boxes * np.array([across, down, across, down], np.float32))


def drawn(image: engine.Image, found: Sequence[engine.Located], frame: str = "") -> str:
    """The phrases side by side: each with its picture, and its boxes in words. frame : which of several, in words."""
    figures = []
    for each in found:
        words = escape(each.phrase.text)
        rows = "".join(f"<li>{_said(image, box, score)}</li>" for box, score in zip(each.boxes, each.scores, strict=True))
        answer = f"<ol>{rows}</ol>" if rows else f'<p role="status">{escape(each.notes[-1])}</p>'  # why there is none
        source = render.data_address(_picture(image, each))
        alt, ratio = escape(text.POINT_ALT.format(phrase=each.phrase.text)), image.shape[1] / image.shape[0]
        figures.append(
            f'<figure><div class="ps-point-picture" style="--ps-ratio:{ratio:.4f}"><img src="{source}" alt="{alt}">{_numbers(image, each.boxes)}</div>'
            f"<figcaption><b>{words}</b>{answer}</figcaption></figure>"
        )
    first, which = found[0], f'<p class="ps-small">{escape(frame)}</p>' if frame else ""
    against = ", ".join(first.negatives)
    notes = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(n for each in found for n in each.notes))
    return (
        f'<section class="ps-point" aria-label="{text.POINT_FOUND}">{which}<div class="ps-point-both">{"".join(figures)}</div>'
        f'<p class="ps-small">{text.POINT_CARE}</p><details class="ps-facts"><summary>{text.POINT_HOW}</summary>'
        f'<p class="ps-small">{escape(text.POINT_AGAINST.format(model=first.model, against=against))}</p>'
        f'<ul class="ps-small">{notes}</ul></details></section>'
    )


def _numbers(image: engine.Image, boxes: np.ndarray) -> str:
    """The number of each box in the picture, above its corner where there is room, else in it; the first on top."""
    rows, columns = image.shape
    return "".join(
        f'<span{" class=ps-above" * (y0 > rows / 8)} style="left:{100 * x0 / columns:.1f}%;top:{100 * y0 / rows:.1f}%" '
        f'aria-hidden="true">{number}</span>'
        for number, (x0, y0, *_) in reversed(list(enumerate(boxes.astype(float).tolist(), start=1)))
    )


def _said(image: engine.Image, box: np.ndarray, score: float) -> str:
    """Where and how large a box is, in the words of a report."""
    (x0, y0, x1, y1), (rows, columns) = map(float, box), image.shape
    down, across = min(int(3 * (y0 + y1) / 2 / rows), 2), min(int(3 * (x0 + x1) / 2 / columns), 2)
    where = text.POINT_WHERE[down][across]
    if image.spacing_mm:
        size = f"{(x1 - x0) * image.spacing_mm[1]:.0f} x {(y1 - y0) * image.spacing_mm[0]:.0f} mm"
    else:
        size = f"{x1 - x0:.0f} x {y1 - y0:.0f} pixels"
    return text.POINT_BOX.format(where=where, size=size, score=f"{score:.2f}")
