"""The names and the look of a class, in the Library: a form of slots, how the model reads them, what they do to labelled images."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
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
PROPOSAL_MOST = 1000  # labelled images on which words are tried: some seconds, for which others wait
Held = dict[str, dict[str, list[str]]]  # words by label and kind


@dataclass(frozen=True)
class Form:
    """What the fields of the form hold. It travels with them through the browser, so that it is always theirs, whatever was chosen
    meanwhile. shown : of each kind, as it is saved; drafts : of other classes, [task, label, kind, text] that is not saved."""

    task: str = ""
    label: str = ""
    shown: Mapping[str, str] = field(default_factory=dict)
    drafts: Sequence[Sequence[str]] = ()

    @classmethod
    def read(cls, words: str) -> Form:
        try:
            form = cls(**json.loads(words or "{}"))
            return cls(str(form.task), str(form.label), dict(form.shown), [tuple(map(str, each)) for each in form.drafts])
        except (ValueError, TypeError, RecursionError):
            return cls()

    def changed(self, fields: Sequence[str]) -> dict[str, str]:
        """By kind, what is not as it is saved."""
        return {kind: each for kind, each in zip(KINDS, fields, strict=True) if each != self.shown.get(kind, "")}


@dataclass
class Acts:
    """What a visitor has done in the form, counted: the answer to an act is shown while it is the latest. It is changed where it
    lies, as a Screen is. shown : the task and the class that the fields were last given the words of."""

    latest: int = 0
    shown: tuple[str, str | None] = ("", None)

    def begin(self) -> int:
        self.latest += 1
        return self.latest

    def said(self, act: int, answer: str) -> Any:
        return answer if act == self.latest else gr.skip()


class Words:
    """Handlers of the fold below the descriptions, whose task and class they are about."""

    def __init__(self, host: Host, library: Library):
        self.host, self.library = host, library
        self.ui = SimpleNamespace()
        self._loading = threading.Lock()

    def show(
        self, request: gr.Request | None, name: str, label: str | None, by: str = "class", form: str = "", *fields: str
    ) -> Updates:
        """The fields of a class, and the prompts that they make. What is in the fields and not saved is there again when one
        comes back to its class. by : which name the prompts have."""
        ui, task, before = self.ui, self.library.tasks(request).get(name), Form.read(form)
        drafts = {(d[0], d[1], d[2]): d[3] for d in before.drafts if len(d) == 4}
        if before.task and fields:
            drafts |= {(before.task, before.label, kind): each for kind, each in before.changed(fields).items()}
        if task is None or label not in task.names:
            nothing = {**dict.fromkeys(ui.fields.values(), ""), ui.read: "", ui.unsaved: ""}
            return nothing | {ui.form: _packed(Form(drafts=_listed(drafts)))}
        held = _held(task)[label]
        shown = {kind: _joined(held[kind]) for kind in KINDS}
        texts = dict(shown)
        for kind in KINDS:
            draft = drafts.pop((name, label, kind), None)
            if draft is not None and _split(draft) != held[kind]:
                texts[kind] = draft
        kept = {**drafts, **{(name, label, kind): texts[kind] for kind in KINDS if texts[kind] != shown[kind]}}
        return {
            **{ui.fields[kind]: texts[kind] for kind in KINDS},
            ui.form: _packed(Form(name, label, shown, _listed(drafts))),
            ui.read: _read(task, label, by),
            ui.unsaved: _unsaved(self.library.tasks(request), kept),
        }

    def show_class(self, request: gr.Request | None, acts: Acts, name: str, label: str | None, *rest: str) -> Updates:
        """As `show`, where another class was shown before: an event that comes twice does not wipe what is typed meanwhile."""
        if acts.shown == (name, label):
            return {self.ui.form: gr.skip()}
        acts.shown = (name, label)
        acts.begin()
        return {**self.show(request, name, label, *rest), self.ui.said: ""}

    def write(
        self,
        request: gr.Request | None,
        name: str,
        words: Mapping[str, Mapping[str, Sequence[str]]],
        by: str = "class",
        made: engine.DescriptionBank | None = None,
    ) -> tuple[engine.Task, list[str], str]:
        """(the task with these words, by label and kind; what to think about; what that does to labelled images). made : the bank
        of a generator, which says how they came, else a person did it. Raises EngineError, and nothing is saved."""
        task = self._task(request, name)
        thoughts: list[str] = []
        changed = task
        for label, kinds in words.items():
            for kind, each in kinds.items():
                changed, more = engine.edit_words(changed, label, kind, each)
                thoughts += more
        backbone, workspace = self.host.backbone(self.host.settings.backbone), self.host.workspace(request)
        compute.from_words(changed, self.host.asked(request, backbone.id, name), METHOD)  # a prompt that is too long is none
        was = _held(task)
        kept = {
            label: {kind: each for kind, each in kinds.items() if each != was[label][kind]}
            for label, kinds in _held(changed).items()
        }
        if name not in workspace.tasks():
            workspace.adopt(name)
        steps = (made or engine.descriptions(changed)).provenance
        changed = workspace.edit_task(name, words=kept, provenance=steps)
        method = engine.METHODS[METHOD](engine.METHODS[METHOD].Config(name=by))
        return changed, thoughts, self.library.effect(request, workspace, task, changed, method)

    def save(self, request: gr.Request | None, acts: Acts, by: str, form: str, *fields: str) -> Updates:
        """What was changed in the fields, of the class that they are of."""
        ui, at, act = self.ui, Form.read(form), acts.begin()
        changed = {kind: _split(each) for kind, each in at.changed(fields).items()}
        if not at.task or not changed:
            return {ui.said: acts.said(act, shelf.said(text.WORDS_SAME))}
        try:
            _, thoughts, effect = self.write(request, at.task, {at.label: changed}, by)
        except engine.EngineError as error:
            return {ui.said: acts.said(act, render.error(str(error)))}
        kinds = ", ".join(text.WORDS_KINDS[kind] for kind in changed)
        said = shelf.said(f"{text.WORDS_SAVED.format(kinds=kinds)} {effect}".strip(), thoughts)
        return {ui.said: acts.said(act, said)}

    @cached_property
    def language(self) -> Any:
        """The language model that fills slots. Raises BackboneError; why there is none is for whoever runs the page, in its log."""
        model = self.host.settings.masked_lm
        try:
            made = engine.generator("masked-lm", **({"model": model} if model else {}))
            made.filler.model.eval()  # it is loaded here, in nobody's turn
        except engine.EngineError as error:
            logging.getLogger(__name__).warning("There is no language model to fill words with. %s", error)
            raise engine.BackboneError(text.WORDS_NO_MODEL, text.WORDS_NO_MODEL_HINT) from error
        return made

    def fill(
        self, request: gr.Request | None, acts: Acts, before: tuple[str, Held, Held] | None, name: str, by: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio puts its own in this place
    ) -> Updates:  # fmt: skip
        """The slots of every class, by a masked language model. What was there can be had back."""
        ui, act = self.ui, acts.begin()
        try:
            if not self._can_fill:
                raise engine.BackboneError(text.WORDS_NO_MODEL, text.WORDS_NO_MODEL_HINT)
            task = self._task(request, name)
            progress((0, 2), desc=text.WORDS_LOADING)
            with self._loading:
                language = self.language
            progress((1, 2), desc=text.WORDS_FILLING)
            bank = compute.filled(task, language)
            was = _slots(_held(task))
            found = {
                label: {slot: list(each) for slot, each in about.attributes.items()} for label, about in bank.classes.items()
            }
            changed, thoughts, effect = self.write(request, name, found, by, bank)
        except engine.EngineError as error:
            return {ui.said: acts.said(act, render.error(str(error)))}
        if before and before[0] == name:
            was = before[1]  # as it was before the first time
        said = shelf.said(f"{text.WORDS_FILLED.format(model=bank.provenance[-1]['model'])} {effect}".strip(), thoughts)
        filled = (name, was, _slots(_held(changed)))
        return {ui.said: acts.said(act, said), ui.before: filled, ui.undo: gr.update(visible=True)}

    def take_back(self, request: gr.Request | None, acts: Acts, before: tuple[str, Held, Held] | None, by: str) -> Updates:
        """The slots as they were before they were filled, but for those that were edited since."""
        ui, hidden, act = self.ui, gr.update(visible=False), acts.begin()
        if not before:
            return {ui.undo: hidden}
        name, was, filled = before
        try:
            now = _held(self._task(request, name))
            back = {
                label: {slot: each for slot, each in slots.items() if now.get(label, {}).get(slot) == filled[label][slot]}
                for label, slots in was.items()
                if label in now
            }
            *_, effect = self.write(request, name, back, by)
        except engine.EngineError as error:
            return {ui.said: acts.said(act, render.error(str(error)))}
        said = shelf.said(f"{text.WORDS_BACK} {effect}".strip())
        return {ui.said: acts.said(act, said), ui.before: None, ui.undo: hidden}

    def propose(
        self, request: gr.Request | None, acts: Acts, name: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio puts its own in this place
    ) -> Updates:  # fmt: skip
        """Which names and slots help on the labelled images of the task."""
        act = acts.begin()
        try:
            found = self.proposal(request, name, lambda done, of: progress((done, of), desc=text.WORDS_TRYING))
            said = _proposed(found)
        except engine.EngineError as error:
            said = render.error(str(error))
        return {self.ui.said: acts.said(act, said)}

    def proposal(
        self, request: gr.Request | None, name: str, far: Callable[[int, int], None] | None = None
    ) -> engine.Proposal:
        """Raises EngineError."""
        task, workspace = self._task(request, name), self.host.looked(request)
        examples = self.library.examples(workspace, name) if workspace and name in workspace.tasks() else []
        if not examples or workspace is None:
            raise engine.DataError(text.WORDS_NONE_LABELLED, text.WORDS_NONE_LABELLED_HINT)
        if len(examples) > PROPOSAL_MOST:
            raise engine.DataError(
                text.WORDS_TOO_MANY.format(images=len(examples), most=PROPOSAL_MOST), text.WORDS_TOO_MANY_HINT
            )
        asked = self.host.asked(request, self.host.settings.backbone, name)
        features = self.library.features(request, workspace, examples, name)
        return compute.proposed(task, examples, features, asked, None if compute.ON_ZERO else far)

    def _task(self, request: gr.Request | None, name: str) -> engine.Task:
        """Raises DataError."""
        task = self.library.tasks(request).get(name)
        if task is None:
            raise engine.DataError(f"There is no task {name[:80]!r}.", "Choose one of the list.")
        return task

    # for programs

    def edit_words(self, request: gr.Request, task: str, label: str, kind: str, words: list[str]) -> dict[str, Any]:
        """Replaces the words of one kind that are known of a class: its names, or what is said of its look.

        task: id of a task, one of `tasks` or of `/about`
        label: a class of the task
        kind: medical, query or lay (names); colour, shape, location or texture (its look)
        words: the best first; none empties the slot
        Returns: `thoughts` (what may be wrong with the words), `prompts` (how the model reads the class now, by its own name) and `effect`
        (on labelled images, or empty).
        """
        changed, thoughts, effect = self.write(request, task, {label: {kind: words}})
        return {"thoughts": thoughts, "prompts": list(_prompts(changed, changed.label_of(label))), "effect": effect}

    def propose_words(self, request: gr.Request, task: str) -> dict[str, Any]:
        """Tries names and slots of attribute prompts on the caller's labelled images of a task (those of a test split are left
        alone), and says whether the best of them helps more than chance; nothing is changed.

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
        ui.before, ui.acts = gr.State(None), gr.State(Acts())
        with gr.Accordion(text.WORDS, open=False, elem_id="ps-words") as ui.fold:
            gr.HTML(f'<p class="ps-small">{text.WORDS_ABOUT}</p>')
            ui.fields = {}
            for row in (engine.NAMES, engine.SLOTS[:2], engine.SLOTS[2:]):
                with gr.Row():
                    for kind in row:
                        ui.fields[kind] = gr.Textbox(
                            "", label=text.WORDS_KINDS[kind], max_lines=20, min_width=120, elem_id=f"ps-words-{kind}"
                        )
            ui.unsaved = gr.HTML("", elem_id="ps-words-unsaved")
            ui.save = gr.Button(text.WORDS_SAVE, variant="primary", size="sm", elem_id="ps-words-save")
            with gr.Row():
                ui.propose = gr.Button(text.WORDS_PROPOSE, size="sm", elem_id="ps-words-propose", min_width=120)
                ui.fill = gr.Button(
                    text.WORDS_FILL, size="sm", elem_id="ps-words-fill", min_width=120, visible=self._can_fill
                )
                ui.undo = gr.Button(text.WORDS_UNDO, size="sm", visible=False, elem_id="ps-words-undo", min_width=80)
            ui.said = gr.HTML("", elem_id="ps-words-said")
            ui.by = gr.Radio(
                list(text.WORDS_BY), value="class", label=text.WORDS_NAME, info=text.WORDS_NAME_INFO, elem_id="ps-words-by"
            )
            ui.read = gr.HTML("", elem_id="ps-words-read")
            with gr.Row(elem_classes="ps-unseen"):
                ui.form = gr.Textbox("", elem_id="ps-words-form", label="form")

    @property
    def _can_fill(self) -> bool:
        """A public page fetches no model for a visitor: its operator names one that is there."""
        return not self.host.settings.is_public or bool(self.host.settings.masked_lm)

    def shown(self) -> tuple[list[Any], list[Any]]:
        """What `show` takes, and gives."""
        ui, bank = self.ui, self.library.ui
        fields = list(ui.fields.values())
        return [bank.bank_task, bank.label, ui.by, ui.form, *fields], [*fields, ui.form, ui.read, ui.unsaved]

    def wire(self, *chosen: Any) -> None:
        """chosen : events after which another class is in the editor."""
        ui, bank = self.ui, self.library.ui
        takes, gives = self.shown()
        fields = list(ui.fields.values())
        how: dict[str, Any] = {"show_progress_on": ui.said, **HIDDEN}
        saved = ui.save.click(self.save, [ui.acts, ui.by, ui.form, *fields], ui.said, **how)
        turned = [ui.said, ui.before, ui.undo]
        filled = ui.fill.click(self.fill, [ui.acts, ui.before, bank.bank_task, ui.by], turned, **how)
        back = ui.undo.click(self.take_back, [ui.acts, ui.before, ui.by], turned, **how)
        ui.propose.click(self.propose, [ui.acts, bank.bank_task], ui.said, **how)
        for choose in (ui.fold.expand, *(each.then for each in chosen)):
            choose(self.show_class, [ui.acts, *takes], [*gives, ui.said], show_progress="hidden", **HIDDEN)
        for again in (ui.by.input, *(each.then for each in (saved, filled, back))):
            again(self.show, takes, gives, show_progress="hidden", **HIDDEN)
        for event in (saved, filled, back):  # the task may be a new one of the workspace, and its words are listed
            event.then(self.library.shown_bank, bank.bank_task, [bank.bank, bank.holds], show_progress="hidden", **HIDDEN)

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


def _slots(held: Held) -> Held:
    return {label: {slot: kinds[slot] for slot in engine.SLOTS} for label, kinds in held.items()}


def _split(words: str) -> list[str]:
    """Divided at semicolons, and where there are none at commas, as on the command line."""
    divided = re.split(r"[;\n]" if ";" in words else r"[,\n]", words)
    return list(dict.fromkeys(" ".join(each.split()) for each in divided if each.strip()))


def _joined(words: Sequence[str]) -> str:
    """What `_split` divides into these."""
    joined = "; ".join(words)
    return f"{joined};" if "," in joined and ";" not in joined else joined


def _unsaved(tasks: Mapping[str, engine.Task], drafts: Mapping[tuple[str, str, str], str]) -> str:
    """Of which classes words are not saved yet, and which words."""
    kinds: dict[str, list[str]] = {}
    for name, label, kind in drafts:
        shown = next((each.display for each in tasks[name].labels if each.name == label), "") if name in tasks else ""
        if shown and kind in KINDS:
            kinds.setdefault(shown, []).append(text.WORDS_KINDS[kind])
    listed = "; ".join(f"“{shown}” ({', '.join(each)})" for shown, each in kinds.items())
    return shelf.said(text.WORDS_UNSAVED.format(names=listed)) if listed else ""


def _packed(form: Form) -> str:
    return json.dumps(asdict(form))


def _listed(drafts: Mapping[tuple[str, str, str], str]) -> list[list[str]]:
    return [[*at, each] for at, each in drafts.items()]


def _prompts(task: engine.Task, label: str, by: str = "class") -> tuple[str, ...]:
    return engine.prompts_of(task, engine.METHODS[METHOD].Config(name=by))[label]


def _read(task: engine.Task, label: str, by: str) -> str:
    """How a model reads the class: by these prompts."""
    listed = "".join(f"<li>{escape(each)}</li>" for each in _prompts(task, label, by))
    return f'<details class="ps-facts" open><summary>{text.WORDS_READ}</summary><ul class="ps-small">{listed}</ul></details>'


def _proposed(found: engine.Proposal) -> str:
    """What was found, and a table: the best five ways, and where the plain name and the ways of today stand among all."""
    usual = engine.METHODS[METHOD].Config()
    by_usual = [each for each in found.tried if each.config.name == usual.name]
    today = max(by_usual, key=lambda each: (len(each.config.chosen), each.config.ranks))
    plain = next(each for each in by_usual if not each.config.chosen)
    marks = {id(today): text.WORDS_TODAY, id(plain): text.WORDS_PLAIN}
    rows = "".join(
        f'<tr><td>{place}.</td><td>{escape(each.in_words())}{marks.get(id(each), "")}</td><td class="ps-number">{100 * each.score:.0f} %</td></tr>'
        for place, each in enumerate(found.tried, start=1)
        if place <= 5 or id(each) in marks
    )
    head = f"<tr><th></th><th>{text.WORDS_TRIED}</th><th>{text.WORDS_SCORE}</th></tr>"
    table = f'<table class="ps-rows"><thead>{head}</thead><tbody>{rows}</tbody></table>'
    below = f'<p class="ps-small">{text.WORDS_CHOSEN}</p><p class="ps-small">{text.WORDS_USE}</p>'
    return f'<div class="ps-notes" role="status"><p>{escape(found.in_words())}</p>{table}{below}</div>'
