"""The names and the look of a class, in the Library: a form of slots, how the model reads them, what they do to labelled images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gradio as gr

import engine
from app import compute, programs, render, shelf, text
from app.host import HIDDEN, Host, Updates

if TYPE_CHECKING:
    from app.library import Library

KINDS = (*engine.NAMES, *engine.SLOTS)
METHOD = "attribute-prompts"
Held = dict[str, dict[str, list[str]]]  # words by label and kind


class Words:
    """Handlers of the fold below the descriptions, whose task and class they are about. A field is saved when it is left."""

    def __init__(self, host: Host, library: Library):
        self.host, self.library = host, library
        self.ui = SimpleNamespace()

    def show(self, request: gr.Request | None, name: str, label: str | None) -> Updates:
        """The fields of a class, and the prompts that they make."""
        ui, task = self.ui, self.library.tasks(request).get(name)
        if task is None or label not in task.names:
            return {**dict.fromkeys(ui.fields.values(), ""), ui.read: "", ui.said: ""}
        held = _held(task)[label]
        fields = {ui.fields[kind]: "; ".join(held[kind]) for kind in KINDS}
        return {**fields, ui.read: _read(task, label), ui.said: ""}

    def write(
        self, request: gr.Request | None, name: str, words: Mapping[str, Mapping[str, Sequence[str]]]
    ) -> tuple[engine.Task, list[str], str]:
        """(the task with these words, by label and kind; what to think about; what that does to labelled images). Raises
        EngineError, and nothing is saved."""
        task = self.library.tasks(request).get(name)
        if task is None:
            raise engine.DataError(f"There is no task {name[:80]!r}.", "Choose one of the list.")
        checked: Held = {}
        thoughts: list[str] = []
        changed = task
        for label, kinds in words.items():
            for kind, each in kinds.items():
                kept, more = engine.check_words(task, label, kind, each)
                checked.setdefault(label, {})[kind] = kept
                thoughts += more
                changed, _ = engine.edit_words(changed, label, kind, kept)
        backbone, workspace = self.host.backbone(self.host.settings.backbone), self.host.workspace(request)
        compute.from_words(
            changed, self.host.asked(request, backbone.id, name), METHOD
        )  # a prompt that is too long is no prompt
        if name not in workspace.tasks():
            workspace.adopt(name)
        changed = workspace.edit_task(name, words=checked)
        return changed, thoughts, self.library.effect(request, workspace, task, changed, METHOD)

    def save(self, request: gr.Request | None, name: str, label: str | None, kind: str, words: str) -> Updates:
        """One field, where it was changed."""
        ui, task = self.ui, self.library.tasks(request).get(name)
        if task is None or label not in task.names or _split(words) == _held(task)[label][kind]:
            return {ui.said: gr.skip()}
        try:
            changed, thoughts, effect = self.write(request, name, {label: {kind: _split(words)}})
        except engine.EngineError as error:
            return {ui.said: render.error(str(error))}
        shown = "; ".join(_held(changed)[label][kind])
        said = shelf.said(f"{text.WORDS_SAVED.format(kind=text.WORDS_KINDS[kind])} {effect}".strip(), thoughts)
        return {ui.fields[kind]: shown, ui.read: _read(changed, label), ui.said: said, ui.undo: gr.update(visible=False)}

    def fill(self, request: gr.Request | None, name: str, label: str | None) -> Updates:
        """The slots of every class, by a masked language model. What was there can be had back."""
        ui = self.ui
        try:
            task = self.library.tasks(request)[name]
            before = {each: {slot: kinds[slot] for slot in engine.SLOTS} for each, kinds in _held(task).items()}
            bank = compute.filled(
                task, self.host.settings.masked_lm, self.host.asked(request, self.host.settings.backbone, name)
            )
            found = {each: about.attributes for each, about in bank.classes.items()}
            _, thoughts, effect = self.write(request, name, found)
        except engine.EngineError as error:
            return {ui.said: render.error(str(error))}
        said = shelf.said(f"{text.WORDS_FILLED.format(model=bank.provenance[-1]['model'])} {effect}".strip(), thoughts)
        shown = self.show(request, name, label)
        return shown | {ui.said: said, ui.before: (name, before), ui.undo: gr.update(visible=True)}

    def take_back(
        self, request: gr.Request | None, before: tuple[str, Held] | None, name: str, label: str | None
    ) -> Updates:
        ui, hidden = self.ui, gr.update(visible=False)
        if not before:
            return {ui.undo: hidden}
        try:
            *_, effect = self.write(request, *before)
        except engine.EngineError as error:
            return {ui.said: render.error(str(error))}
        said = shelf.said(f"{text.WORDS_BACK} {effect}".strip())
        return self.show(request, name, label) | {ui.said: said, ui.before: None, ui.undo: hidden}

    def propose(
        self, request: gr.Request | None, name: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio puts its own in this place
    ) -> Updates:  # fmt: skip
        """Which names and slots help on the labelled images of the task."""
        try:
            found = self.proposal(request, name, lambda done, of: progress((done, of), desc=text.WORDS_TRYING))
            said = _proposed(found)
        except engine.EngineError as error:
            said = render.error(str(error))
        return {self.ui.said: said}

    def proposal(
        self, request: gr.Request | None, name: str, far: Callable[[int, int], None] | None = None
    ) -> engine.Proposal:
        """Raises EngineError."""
        task, workspace = self.library.tasks(request).get(name), self.host.looked(request)
        if task is None:
            raise engine.DataError(f"There is no task {name[:80]!r}.", "Choose one of the list.")
        examples = workspace.examples(name) if workspace and name in workspace.tasks() else []
        if not examples or workspace is None:
            raise engine.DataError(text.WORDS_NONE_LABELLED, text.WORDS_NONE_LABELLED_HINT)
        asked = self.host.asked(request, self.host.settings.backbone, name)
        features = self.library.features(request, workspace, examples, name)
        return compute.proposed(task, examples, features, asked, None if compute.ON_ZERO else far)

    # for programs

    def edit_words(self, request: gr.Request, task: str, label: str, kind: str, words: list[str]) -> dict[str, Any]:
        """Replaces the words of one kind that are known of a class: its names, or what is said of its look.

        task: id of a task, one of `tasks` or of `/about`
        label: a class of the task
        kind: medical, query or lay (names); colour, shape, location or texture (its look)
        words: the best first; none empties the slot
        Returns: `thoughts` (what may be wrong with the words), `prompts` (how the model reads the class now) and `effect` (on labelled
        images, or empty).
        """
        changed, thoughts, effect = self.write(request, task, {label: {kind: words}})
        return {"thoughts": thoughts, "prompts": list(_prompts(changed, label)), "effect": effect}

    def propose_words(self, request: gr.Request, task: str) -> dict[str, Any]:
        """Tries names and slots of attribute prompts on the caller's labelled images of a task, and says whether the best of them
        helps more than chance; nothing is changed.

        task: id of a task
        Returns: `told` (in words), `tried` (the best ten: what, and its balanced accuracy)
        """
        found = self.proposal(request, task)
        return {
            "told": found.in_words(),
            "tried": [{"what": each.in_words(), "balanced_accuracy": each.score} for each in found.tried[:10]],
        }

    # layout and wiring

    def lay_out(self) -> None:
        ui = self.ui
        ui.before = gr.State(None)
        with gr.Accordion(text.WORDS, open=False, elem_id="ps-words") as ui.fold:
            gr.HTML(f'<p class="ps-small">{text.WORDS_ABOUT}</p>')
            ui.fields = {}
            for row in (engine.NAMES, engine.SLOTS[:2], engine.SLOTS[2:]):
                with gr.Row():
                    for kind in row:
                        ui.fields[kind] = gr.Textbox(
                            "", label=text.WORDS_KINDS[kind], max_lines=4, min_width=120, elem_id=f"ps-words-{kind}"
                        )
            ui.said = gr.HTML("", elem_id="ps-words-said")
            ui.read = gr.HTML("", elem_id="ps-words-read")
            with gr.Row():
                ui.propose = gr.Button(text.WORDS_PROPOSE, size="sm", elem_id="ps-words-propose", min_width=120)
                ui.fill = gr.Button(
                    text.WORDS_FILL, size="sm", elem_id="ps-words-fill", min_width=120, visible=self._can_fill
                )
                ui.undo = gr.Button(text.WORDS_UNDO, size="sm", visible=False, elem_id="ps-words-undo", min_width=80)

    @property
    def _can_fill(self) -> bool:
        """A public page fetches no model for a visitor: its operator names one that is there."""
        return not self.host.settings.is_public or bool(self.host.settings.masked_lm)

    def wire(self, *chosen: Any) -> None:
        """chosen : events after which another class is in the editor."""
        ui, bank = self.ui, self.library.ui
        shown = [*ui.fields.values(), ui.read, ui.said]
        of = [bank.bank_task, bank.label]
        for event in (ui.fold.expand, *(each.then for each in chosen)):
            event(self.show, of, shown, show_progress="hidden", trigger_mode="always_last", **HIDDEN)
        for kind, field in ui.fields.items():
            for event in (field.blur, field.submit):
                event(
                    self._saver(kind), [*of, field], [field, ui.read, ui.said, ui.undo],
                    show_progress_on=ui.said, trigger_mode="multiple", **HIDDEN,
                )  # fmt: skip
        ui.propose.click(self.propose, bank.bank_task, ui.said, show_progress_on=ui.said, **HIDDEN)
        ui.fill.click(self.fill, of, [*shown, ui.before, ui.undo], show_progress_on=ui.said, **HIDDEN)
        ui.undo.click(self.take_back, [ui.before, *of], [*shown, ui.before, ui.undo], show_progress_on=ui.said, **HIDDEN)

    def _saver(self, kind: str) -> Callable[..., Updates]:
        def save(request: gr.Request, name: str, label: str, words: str) -> Updates:
            return self.save(request, name, label, kind, words)

        return save

    def endpoints(self) -> None:
        programs.offer(self.edit_words, "edit_words")
        programs.offer(self.propose_words, "propose_words")


def _held(task: engine.Task) -> Held:
    """What is known of every class; empty where nothing is."""
    found = {}
    for label, about in engine.descriptions(task).classes.items():
        known = about.synonyms | about.attributes
        found[label] = {kind: list(known.get(kind, ())) for kind in KINDS}
    return found


def _split(words: str) -> list[str]:
    return [" ".join(each.split()) for each in re.split(r"[;\n]", words) if each.strip()]


def _prompts(task: engine.Task, label: str) -> tuple[str, ...]:
    return engine.prompts_of(task, engine.METHODS[METHOD].Config())[label]


def _read(task: engine.Task, label: str) -> str:
    """How a model reads the class: by these prompts."""
    listed = "".join(f"<li>{escape(each)}</li>" for each in _prompts(task, label))
    return f'<details class="ps-facts" open><summary>{text.WORDS_READ}</summary><ul class="ps-small">{listed}</ul></details>'


def _proposed(found: engine.Proposal) -> str:
    rows = "".join(
        f'<tr><td>{escape(each.in_words())}</td><td class="ps-number">{100 * each.score:.0f} %</td></tr>'
        for each in found.tried[:5]
    )
    head = f"<tr><th>{text.WORDS_TRIED}</th><th>{text.WORDS_SCORE}</th></tr>"
    table = f'<table class="ps-rows"><thead>{head}</thead><tbody>{rows}</tbody></table>'
    return f'<div class="ps-notes" role="status"><p>{escape(found.in_words())}</p>{table}<p class="ps-small">{text.WORDS_CHOSEN}</p></div>'
