"""The page: layout and wiring. A handler reads, predicts, explains, renders and returns; thinking happens in engine/."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

import engine
from app import cases, compute, models, render, text
from app.cases import Case
from app.settings import Settings

STYLE = Path(__file__).with_name("style.css")
IDLE_S = 3600  # this long after a visitor has left, Gradio ends the session and his files are deleted
# One line for all that computes: requests are answered in their order, and two never share the cores.
COMPUTE: dict[str, Any] = {"concurrency_id": "compute", "concurrency_limit": 1, "api_visibility": "private"}


@dataclass(frozen=True)
class Reading:
    """What the last look at an image found: enough to draw another class's map."""

    image: engine.Image
    prepared: engine.Input
    prompts: engine.PromptSet
    asked: compute.Asked
    name: str


class Page:
    """Handlers around the settings; every visitor's value comes in and goes out through Gradio's state."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.device = models.device_of(settings.device)

    def _load(self, backbone: str) -> None:
        """In this process, before any worker is forked. Only the registry's names: a visitor opens no folder."""
        if backbone != self.settings.backbone:
            engine.BACKBONES[backbone]
        models.backbone(backbone, self.device, self.settings.precision)

    def _asked(self, backbone: str, prompts: str, target: str = "") -> compute.Asked:
        return compute.Asked(backbone, prompts, self.device, self.settings.precision, target)

    # opening

    def open_files(self, uploads: list[str] | None, held: list[Case]) -> tuple[Any, ...]:
        """New files replace what was open; those that cannot be read are named, the others stay."""
        opened: list[Case] = []
        refused: list[str] = []
        for upload in dict.fromkeys(uploads or []):  # the same file twice is one upload
            try:
                opened.append(cases.take(upload))
            except engine.EngineError as error:
                refused.append(str(error))
        if not opened:
            return held, gr.skip(), gr.skip(), None, render.error(" ".join(refused)) if refused else ""
        cases.forget(held)
        return opened, *self._choosers(opened), None, render.error(" ".join(refused)) if refused else ""

    def open_sample(self, title: str, held: list[Case]) -> tuple[Any, ...]:
        opened = [cases.sample(title)]
        cases.forget(held)
        return opened, *self._choosers(opened), None, ""

    def _choosers(self, opened: list[Case]) -> tuple[Any, Any]:
        names = [(case.name, i) for i, case in enumerate(opened)]
        return gr.update(choices=names, value=0, visible=len(opened) > 1), self._frames(opened[0])

    def _frames(self, case: Case) -> Any:
        return gr.update(minimum=1, maximum=max(2, case.frames), value=case.frames // 2 + 1, visible=case.frames > 1)

    def choose_file(self, held: list[Case], index: int) -> Any:
        return self._frames(held[index])

    # reading

    def look(
        self, held: list[Case], index: int, frame: int, backbone: str, prompts_name: str, target: str, opacity: float
    ) -> tuple[Any, ...]:
        """Probabilities, map and notes of one frame; a sentence where something does not fit."""
        hidden = gr.update(visible=False)
        if not held:
            return None, render.empty_viewer(), "", "", hidden
        case = held[min(index or 0, len(held) - 1)]
        try:
            self._load(backbone)
            image = case.frame(min(int(frame or 1), case.frames) - 1 if case.frames > 1 else 0)
            found = compute.classify(image, self._asked(backbone, prompts_name, target))
            prompts = models.prompts(prompts_name, backbone, self.device, self.settings.precision)
        except engine.EngineError as error:
            return None, render.error(str(error)), "", "", hidden
        ranked = [label for label, _ in found.prediction.ranked()]
        shown = render.viewer(image, found.prepared.box, found.placed, prompts.display(ranked[0]), opacity, case.name)
        said = (
            render.notes(text.WARNINGS, [*image.warnings, *prompts.card.get("shortcuts", [])], "ps-warn")
            + render.notes(text.NOTES, image.notes)
            + render.card(prompts)
        )
        names = [(prompts.display(label), label) for label in ranked]
        classes = gr.update(choices=names, value=ranked[0], visible=found.placed is not None)
        reading = Reading(image, found.prepared, prompts, self._asked(backbone, prompts_name), case.name)
        return reading, shown, render.bars(found.prediction, prompts, found.beside), said, classes

    def redraw(self, reading: Reading | None, label: str, target: str, opacity: float) -> Any:
        """The map of another class, or against another target."""
        if reading is None or not label:
            return gr.skip()
        try:
            placed = compute.draw(reading.prepared, reading.image.shape, label, replace(reading.asked, target=target))
        except engine.EngineError as error:
            return render.error(str(error))
        shown = reading.prompts.display(label)
        return render.viewer(reading.image, reading.prepared.box, placed, shown, opacity, reading.name)

    def clear(self, held: list[Case]) -> tuple[Any, ...]:
        cases.forget(held)
        hidden = gr.update(visible=False)
        return [], None, hidden, hidden, render.empty_viewer(), "", "", hidden, ""

    # for programs

    def predict(self, file: str | None, backbone: str, prompts_name: str, frame: int) -> dict[str, Any]:
        """One file to one result row of `predict --json`; a file that fails is a row with the sentence. Keeps nothing."""
        name = Path(file).name if file else ""
        try:
            row = self._row(file, backbone, prompts_name, int(frame or 0))
        except engine.EngineError as error:
            row = engine.error_row(name, backbone, error)
        return {"schema": 1, "notice": text.NOTICE, "results": [row]}

    def _row(self, file: str | None, backbone: str, prompts_name: str, frame: int) -> dict[str, Any]:
        if not file:
            raise engine.ImageError("No file was given.", "Upload one first.")
        case = cases.take(file)
        try:
            self._load(backbone)
            index = frame - 1 if frame else case.frames // 2
            image = case.frame(index)
            found = compute.classify(image, self._asked(backbone, prompts_name))
            prompts = models.prompts(prompts_name, backbone, self.device, self.settings.precision)
            return engine.result_row(case.series(), index, image, found.prediction, prompts, None) | {"files": [case.name]}
        finally:
            cases.forget([case])

    def about(self) -> dict[str, Any]:
        """What this server has and where it computes."""
        return {
            "notice": text.NOTICE,
            "version": engine.__version__,
            "device": f"{self.device} ({self.settings.precision})",
            "backbones": list(engine.BACKBONES),
            "prompt_sets": engine.library(),
            "tasks": list(engine.tasks()),
            "explanations": list(engine.EXPLANATIONS),
        }


def build(settings: Settings) -> gr.Blocks:
    """The whole page. `settings.backbone` is loaded here, so that the first visitor does not wait."""
    page = Page(settings)
    page._load(settings.backbone)
    options = models.questions()
    first = options[0][1]
    with gr.Blocks(title=text.TITLE, analytics_enabled=False, delete_cache=(600, IDLE_S), fill_width=True) as demo:
        held = gr.State([], delete_callback=cases.forget)
        reading = gr.State(None)
        gr.HTML(
            f'<header class="ps-head"><div><h1>{text.TITLE}</h1><p>{text.SUBTITLE}</p></div>'
            f'<div class="ps-badges"><span class="ps-chip ps-warnchip" role="note">{text.NOTICE}</span>'
            f'<span class="ps-chip" id="ps-device">{text.COMPUTED.format(device=f"{page.device} ({settings.precision})")}'
            "</span></div></header>"
        )
        with gr.Tabs(), gr.Tab("Read"), gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                drop = gr.File(label=text.DROP, file_count="multiple", type="filepath", height=160, elem_id="ps-drop")
                gr.HTML(f'<p class="ps-small">{text.DROP_LIMIT.format(mb=settings.upload_mb)}</p>')
                sample_buttons = []
                if engine.samples():
                    gr.HTML(f'<h4 class="ps-label">{text.SAMPLES}</h4>')
                    with gr.Row(elem_classes="ps-samples"):
                        for each in engine.samples():
                            sample_buttons.append((each.title, gr.Button(each.title, size="sm", min_width=60)))
                prompts = gr.Dropdown(options, value=first, label=text.PROMPTS, info=text.PROMPTS_INFO, elem_id="ps-prompts")
                backbone = gr.Dropdown(
                    list(dict.fromkeys([settings.backbone, *engine.BACKBONES])), value=settings.backbone, label=text.BACKBONE, info=text.BACKBONE_INFO,
                    elem_id="ps-backbone",
                )  # fmt: skip
                clear = gr.Button(text.CLEAR, size="sm", variant="secondary")
            with gr.Column(scale=5, min_width=320):
                problem = gr.HTML("", elem_id="ps-problem")
                file = gr.Dropdown([], label=text.FILE, visible=False, elem_id="ps-file")
                view = gr.HTML(render.empty_viewer(), elem_id="ps-view")
                opacity = gr.Slider(0, 1, value=0.6, step=0.05, label=text.OPACITY, elem_id="ps-opacity")
                frame = gr.Slider(1, 2, value=1, step=1, label=text.FRAME, visible=False, elem_id="ps-frame")
            with gr.Column(scale=4, min_width=300):
                result = gr.HTML("", elem_id="ps-bars")
                classes = gr.Radio([], label=text.MAP_CLASS, visible=False, elem_id="ps-classes")
                target = gr.Dropdown(list(text.MAP_TARGETS), value="class", label=text.MAP_TARGET)
                said = gr.HTML("", elem_id="ps-notes")

        opened = [held, file, frame, drop, problem]
        asked = [held, file, frame, backbone, prompts, target, opacity]
        answered = [reading, view, result, said, classes]

        def then_look(event: Any) -> None:
            event.then(page.look, asked, answered, show_progress_on=[view, result], **COMPUTE)

        then_look(drop.upload(page.open_files, [drop, held], opened, api_visibility="private"))
        for title, button in sample_buttons:
            then_look(
                button.click(lambda before, t=title: page.open_sample(t, before), [held], opened, api_visibility="private")
            )
        then_look(file.input(page.choose_file, [held, file], frame, api_visibility="private"))
        for control in (prompts.input, backbone.input):
            control(page.look, asked, answered, show_progress_on=[view, result], **COMPUTE)
        # while the slider moves only the last position is looked at
        frame.input(page.look, asked, answered, trigger_mode="always_last", show_progress="hidden", **COMPUTE)
        for control in (classes.input, target.input):
            control(page.redraw, [reading, classes, target, opacity], view, show_progress_on=view, **COMPUTE)
        # Fading needs no server: the map is a layer of its own.
        fade = "(v) => { document.querySelectorAll('.ps-map').forEach((m) => { m.style.opacity = v }); }"
        opacity.input(None, [opacity], None, js=fade, api_visibility="private")
        clear.click(
            page.clear, [held], [held, reading, file, frame, view, result, said, classes, problem], api_visibility="private"
        )
        _endpoints(page, backbone.value, first)
    return demo


def _endpoints(page: Page, backbone: str, prompts: str) -> None:
    """/predict and /about for gradio_client and curl; the controls are never seen."""
    with gr.Row(visible=False):
        file = gr.File(label="file", type="filepath")
        chosen = gr.Textbox(backbone, label="backbone")
        question = gr.Textbox(prompts, label="prompt set, or a task's id")
        frame = gr.Number(0, label="frame, from 1; 0 takes the middle one", precision=0)
        out, run, ask = gr.JSON(), gr.Button(), gr.Button()
    run.click(
        page.predict,
        [file, chosen, question, frame],
        out,
        api_name="predict",
        api_description=page.predict.__doc__,
        concurrency_id="compute",
    )
    ask.click(page.about, None, out, api_name="about", api_description=page.about.__doc__)


def launch(settings: Settings, **more: Any) -> Any:
    """Starts the server. Only what a visitor uploads himself can be fetched; the repository's folder is blocked."""
    demo = build(settings)
    demo.queue(max_size=64, default_concurrency_limit=1)
    return demo.launch(
        server_name=settings.host,
        server_port=settings.port,
        auth=settings.auth,
        max_file_size=settings.upload_mb * gr.FileSize.MB,
        blocked_paths=[str(Path(__file__).resolve().parent.parent)],
        show_error=False,
        footer_links=["api"],
        theme=gr.themes.Base(
            primary_hue="teal", secondary_hue="teal", neutral_hue="slate",
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"],
        ),
        css_paths=[STYLE],
        ssr_mode=False,
        **more,
    )  # fmt: skip
