"""The page: layout and wiring. A handler reads, predicts, explains, renders and returns; thinking happens in engine/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

import engine
from app import cases, models, render, text
from app.cases import Case
from app.settings import Settings

STYLE = Path(__file__).with_name("style.css")
IDLE_S = 3600  # after this long without a visit a visitor's files are deleted


@dataclass(frozen=True)
class Reading:
    """What the last look at an image found: enough to draw another class's map."""

    image: engine.Image
    prepared: engine.Input
    prompts: engine.PromptSet
    backbone: str
    label: str


class Page:
    """Handlers around the settings; every visitor's value comes in and goes out through Gradio's state."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.device = models.device_of(settings.device)

    def _backbone(self, name: str) -> engine.Backbone:
        return models.backbone(name, self.device, self.settings.precision)

    def _prompts(self, name: str, backbone: str) -> engine.PromptSet:
        self._backbone(backbone)
        return models.prompts(name, backbone, self.device, self.settings.precision)

    # opening

    def open_files(self, uploads: list[str] | None, held: list[Case]) -> tuple[Any, ...]:
        """New files replace what was open; those that cannot be read are named, the others stay."""
        opened: list[Case] = []
        refused: list[str] = []
        for upload in uploads or []:
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
        return gr.update(choices=names, value=0, visible=True, interactive=len(opened) > 1), self._frames(opened[0])

    def _frames(self, case: Case) -> Any:
        return gr.update(minimum=1, maximum=max(2, case.frames), value=case.frames // 2 + 1, visible=case.frames > 1)

    def choose_file(self, held: list[Case], index: int) -> Any:
        return self._frames(held[index])

    def choose_backbone(self, name: str, chosen: str) -> Any:
        options = models.choices(name)
        values = [value for _, value in options]
        before = chosen.replace("-description-ensemble", "").replace("-zero-shot", "")
        kept = next(
            (v for v in values if v == chosen or before.startswith(v) or v.startswith(before.split("-")[0])), values[0]
        )
        return gr.update(choices=options, value=kept)

    # reading

    def look(
        self, held: list[Case], index: int, frame: int, backbone_name: str, prompts_name: str, target: str, opacity: float
    ) -> tuple[Any, ...]:
        """Probabilities, map and notes of one frame; a sentence where something does not fit."""
        if not held:
            return None, render.empty_viewer(), "", "", gr.update(visible=False)
        case = held[min(index or 0, len(held) - 1)]
        try:
            backbone = self._backbone(backbone_name)
            prompts = self._prompts(prompts_name, backbone_name)
            number = min(int(frame), case.frames) - 1 if case.frames > 1 else 0
            try:
                image = engine.read([case.path])[0].frame(number)
            except engine.EngineError as error:
                raise cases.renamed(error, case.path.name, case.name) from None
            prepared, prediction, beside, maps = self._compute(image, backbone, prompts, target)
        except engine.EngineError as error:
            return None, render.error(str(error)), "", "", gr.update(visible=False)
        top = prediction.ranked()[0][0]
        reading = Reading(image, prepared, prompts, backbone_name, top)
        shown = render.viewer(image, prepared.box, maps, prompts.display(top), opacity)
        names = [(prompts.display(label), label) for label, _ in prediction.ranked()]
        said = (
            render.notes(text.WARNINGS, [*image.warnings, *prompts.card.get("shortcuts", [])], "ps-warn")
            + render.notes(text.NOTES, image.notes)
            + render.card(prompts)
        )
        classes = gr.update(choices=names, value=top, visible=maps is not None)
        return reading, shown, render.bars(prediction, prompts, beside), said, classes

    def _compute(
        self, image: engine.Image, backbone: engine.Backbone, prompts: engine.PromptSet, target: str
    ) -> tuple[engine.Input, engine.Prediction, engine.Prediction | None, np.ndarray | None]:
        def work() -> tuple[engine.Input, engine.Prediction, engine.Prediction | None, np.ndarray | None]:
            prepared = engine.prepare(image, backbone.preprocess)
            features = engine.embed([prepared], backbone, prompts.visual_prompt)[0]
            prediction = engine.read_off(features, backbone, prompts)
            zero = models.zero_shot_beside(prompts, engine.library())
            beside = engine.read_off(features, backbone, zero) if zero else None
            return (
                prepared,
                prediction,
                beside,
                self._map(prepared, image, backbone, prompts, prediction.ranked()[0][0], target),
            )

        return models.on_gpu(work)()

    def _map(
        self, prepared: engine.Input, image: engine.Image, backbone: engine.Backbone, prompts: engine.PromptSet,
        label: str, target: str,
    ) -> np.ndarray | None:  # fmt: skip
        offered = engine.explanations_for(backbone)
        if not offered or prompts.class_embeddings is None:
            return None
        return engine.place(engine.explain(prepared, backbone, prompts, [label], offered[0], target)[0], image.shape)

    def redraw(self, reading: Reading | None, label: str, target: str, opacity: float) -> Any:
        """The map of another class, or against another target."""
        if reading is None or not label:
            return gr.skip()
        backbone = self._backbone(reading.backbone)

        def work() -> np.ndarray | None:
            return self._map(reading.prepared, reading.image, backbone, reading.prompts, label, target)

        try:
            placed = models.on_gpu(work)()
        except engine.EngineError as error:
            return render.error(str(error))
        return render.viewer(reading.image, reading.prepared.box, placed, reading.prompts.display(label), opacity)

    def clear(self, held: list[Case]) -> tuple[Any, ...]:
        cases.forget(held)
        hidden = gr.update(visible=False)
        return [], None, hidden, hidden, render.empty_viewer(), "", "", hidden, ""

    # for programs

    def predict(self, file: str | None, backbone_name: str, prompts_name: str, frame: int) -> dict[str, Any]:
        """One file to one result row of `predict --json`; a file that fails is a row with the sentence. Keeps nothing."""
        if not file:
            row = engine.error_row("", backbone_name, engine.ImageError("No file was given.", "Upload one first."))
            return {"schema": 1, "notice": text.NOTICE, "results": [row]}
        name = Path(file).name
        try:
            case = cases.take(file)
            try:
                backbone = self._backbone(backbone_name)
                prompts = self._prompts(prompts_name, backbone_name)
                series = engine.read([case.path])[0]
                index = int(frame) - 1 if frame else engine.middle(series)
                image = series.frame(index)
                prediction = self._predict(image, backbone, prompts)
                row = engine.result_row(series, index, image, prediction, prompts, None) | {"files": [name]}
            except engine.EngineError as error:
                row = engine.error_row(name, backbone_name, cases.renamed(error, case.path.name, name))
            finally:
                cases.forget([case])
        except engine.EngineError as error:
            row = engine.error_row(name, backbone_name, error)
        return {"schema": 1, "notice": text.NOTICE, "results": [row]}

    def _predict(self, image: engine.Image, backbone: engine.Backbone, prompts: engine.PromptSet) -> engine.Prediction:
        return models.on_gpu(lambda: engine.predict(image, backbone, prompts))()

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
    page._backbone(settings.backbone)
    options = models.choices(settings.backbone)
    first = next((value for _, value in options if value.startswith("modality-description")), options[0][1])
    with gr.Blocks(title=text.TITLE, analytics_enabled=False, delete_cache=(600, IDLE_S), fill_width=True) as demo:
        held = gr.State([], time_to_live=IDLE_S, delete_callback=cases.forget)
        reading = gr.State(None, time_to_live=IDLE_S)
        gr.HTML(
            f'<header class="ps-head"><div><h1>{text.TITLE}</h1><p>{text.SUBTITLE}</p></div>'
            f'<div class="ps-badges"><span class="ps-chip ps-warnchip" role="note">{text.NOTICE}</span>'
            f'<span class="ps-chip" id="ps-device">{text.COMPUTED.format(device=f"{page.device} ({settings.precision})")}'
            "</span></div></header>"
        )
        with gr.Tabs(), gr.Tab("Read"), gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=280):
                drop = gr.File(label=text.DROP, file_count="multiple", type="filepath", height=150, elem_id="ps-drop")
                gr.HTML(f'<p class="ps-small">{text.DROP_LIMIT.format(mb=settings.upload_mb)}</p>')
                sample_buttons = []
                if engine.samples():
                    gr.HTML(f'<h4 class="ps-label">{text.SAMPLES}</h4>')
                    with gr.Row(elem_classes="ps-samples"):
                        for each in engine.samples():
                            sample_buttons.append((each.title, gr.Button(each.title, size="sm", min_width=60)))
                prompts = gr.Dropdown(options, value=first, label=text.PROMPTS, info=text.PROMPTS_INFO, elem_id="ps-prompts")
                backbone = gr.Dropdown(
                    list(engine.BACKBONES), value=settings.backbone, label=text.BACKBONE, info=text.BACKBONE_INFO,
                    elem_id="ps-backbone",
                )  # fmt: skip
                clear = gr.Button(text.CLEAR, size="sm", variant="secondary")
            with gr.Column(scale=5, min_width=320):
                problem = gr.HTML("", elem_id="ps-problem")
                file = gr.Dropdown([], label=text.FILE, visible=False, elem_id="ps-file")
                view = gr.HTML(render.empty_viewer(), elem_id="ps-view")
                frame = gr.Slider(1, 2, value=1, step=1, label=text.FRAME, visible=False, elem_id="ps-frame")
            with gr.Column(scale=4, min_width=300):
                result = gr.HTML("", elem_id="ps-bars")
                classes = gr.Radio([], label=text.MAP_CLASS, visible=False, elem_id="ps-classes")
                with gr.Row():
                    target = gr.Dropdown(list(text.MAP_TARGETS), value="class", label=text.MAP_TARGET, min_width=140)
                    opacity = gr.Slider(0, 1, value=0.6, step=0.05, label=text.OPACITY, min_width=140, elem_id="ps-opacity")
                said = gr.HTML("", elem_id="ps-notes")

        opened = [held, file, frame, drop, problem]
        asked = [held, file, frame, backbone, prompts, target, opacity]
        answered = [reading, view, result, said, classes]

        def then_look(event: Any) -> None:
            event.then(page.look, asked, answered, api_visibility="private", show_progress_on=[view, result])

        then_look(drop.upload(page.open_files, [drop, held], opened, api_visibility="private"))
        for title, button in sample_buttons:
            then_look(
                button.click(lambda cases, t=title: page.open_sample(t, cases), [held], opened, api_visibility="private")
            )
        then_look(file.input(page.choose_file, [held, file], frame, api_visibility="private"))
        then_look(backbone.input(page.choose_backbone, [backbone, prompts], prompts, api_visibility="private"))
        for control in (prompts.input, frame.release):
            control(page.look, asked, answered, api_visibility="private", show_progress_on=[view, result])
        for control in (classes.input, target.input):
            control(page.redraw, [reading, classes, target, opacity], view, api_visibility="private", show_progress_on=view)
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
    run.click(page.predict, [file, chosen, question, frame], out, api_name="predict", api_description=page.predict.__doc__)
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
