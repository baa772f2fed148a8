"""The Library tab: prompt sets with their cards, backbones, and the descriptions of classes."""

from __future__ import annotations

import json
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

import engine
from app import cases, compute, models, parcels, programs, render, shelf, text
from app.host import HIDDEN, Host, Updates
from app.models import Item
from app.words import Words

POLL_S = 1  # while something is fetched
EFFECT_MOST = 100  # labelled images on which the effect of new descriptions is shown: a few seconds


@dataclass(frozen=True)
class Waiting:
    """A checkpoint whose task has yet to be said. folder : where it lies; deleted when it is imported or the visitor leaves."""

    folder: engine.PrivateFolder
    file: Path


@dataclass(frozen=True)
class Wanted:
    """What the list shows; "" is any. words : all of them must be in a set's card."""

    words: str = ""
    task: str = ""
    modality: str = ""
    backbone: str = ""
    method: str = ""
    whose: str = ""

    def has(self, item: Item) -> bool:
        if self.whose and (self.whose == "own") != item.own:
            return False
        if item.prompts is None:
            return not (self.task or self.modality or self.backbone or self.method) and self.words.lower() in item.name
        c = item.prompts.card
        told = (c["task"]["id"], c["task"].get("modality", ""), c["backbone"]["id"], c["method"]["name"])
        asked = (self.task, self.modality, self.backbone, self.method)
        if any(want and want != is_ for want, is_ in zip(asked, told, strict=True)):
            return False
        words = [item.name, c["task"]["title"], c["task"].get("organ", ""), *told, *c["labels"], *c.get("display", ())]
        all_words = " ".join([*words, text.LIBRARY_METHODS.get(told[3], "")]).lower()
        return all(word in all_words for word in self.words.lower().split())


@dataclass(frozen=True)
class Told:
    """What a checkpoint does not say of itself."""

    task: str = ""
    method: str = ""
    backbone: str = ""
    template: str = ""
    position: str = ""
    trained_on: str = ""


@dataclass(frozen=True)
class Drafts:
    """Descriptions that are not saved yet. They travel with the editor's lines through the browser, so that `at` is always the class
    of these lines, whatever was chosen meanwhile. at : (task, label); written : by task and label."""

    at: tuple[str, str] = ("", "")
    written: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def read(cls, words: str) -> Drafts:
        try:
            (name, label), written = json.loads(words or '[["", ""], []]')
            return cls((str(name), str(label)), {(str(t), str(c)): str(lines) for t, c, lines in written})
        except (ValueError, TypeError, RecursionError):
            return cls()

    def packed(self) -> str:
        return json.dumps([self.at, [[*at, lines] for at, lines in self.written.items()]])


class Library:
    """Handlers of the tab."""

    def __init__(self, host: Host):
        self.host, self.settings = host, host.settings
        self.ui = SimpleNamespace()
        self.words = Words(host, self)

    # prompt sets

    def items(self, request: gr.Request | None) -> list[Item]:
        return models.items(self.host.visits.found(request))

    def item(self, request: gr.Request | None, key: str) -> Item | None:
        return next((each for each in self.items(request) if shelf.key(each) == key), None)

    def show(self, request: gr.Request | None, chosen: str, *wanted: str) -> Updates:
        """The list as it is filtered, and the card that is open in it."""
        ui, items = self.ui, self.items(request)
        shown = [item for item in items if Wanted(*(each or "" for each in wanted)).has(item)]
        return {ui.list: shelf.cards(shown, chosen, len(items)), **self._open(request, chosen)}

    def _fresh(self, request: gr.Request | None, chosen: str, *wanted: str) -> Updates:
        """As `show`, where the sets have changed."""
        return {**self.show(request, chosen, *wanted), **self._held(request)}

    def _open(self, request: gr.Request | None, key: str) -> Updates:
        ui, item = self.ui, self.item(request, key)
        if item is None:
            closed = dict.fromkeys((ui.export, ui.remove), gr.update(visible=False))
            return {ui.chosen: "", ui.card: shelf.hint(text.LIBRARY_CHOOSE_ONE), **closed}
        name = item.prompts.card["backbone"]["id"] if item.prompts else ""
        loaded = models.ready(name, self.host.device, self.settings.precision)
        return {
            ui.chosen: key,
            ui.card: shelf.card(item, loaded, self.host.is_absent(name)),
            ui.export: gr.update(visible=item.prompts is not None),
            ui.remove: gr.update(visible=item.own),
        }

    def exported(self, request: gr.Request | None, name: str) -> tuple[str, bytes]:
        """(file name, content) of a set by its name; the visitor's own comes first. Raises PromptSetError."""
        item = next((each for each in self.items(request) if each.name == name), None)
        if item is None or item.prompts is None:
            raise engine.PromptSetError(f"There is no prompt set {name[:120]!r}.", "Look at the list again.")
        return f"{item.name}.safetensors", models.exported(item.prompts)

    def save(self, request: gr.Request, chosen: str) -> str:
        item = self.item(request, chosen)
        if item is None or item.prompts is None:
            return ""
        name, content = self.exported(request, item.name)
        return parcels.pack(name, content, "application/octet-stream")

    def remove(self, request: gr.Request, chosen: str, *wanted: str) -> Updates:
        ui, item = self.ui, self.item(request, chosen)
        try:
            if item is None or not item.own:
                raise engine.PromptSetError(text.LIBRARY_SHIPPED_WORDS)
            self.host.workspace(request).remove_set(item.name)
        except engine.EngineError as error:
            return {ui.said: render.error(str(error))}
        removed = shelf.said(text.LIBRARY_SET_REMOVED.format(name=item.name))
        return {ui.said: removed, ui.gone: item.name, ui.undo: gr.update(visible=True), **self._fresh(request, "", *wanted)}

    def undo(self, request: gr.Request, gone: str, *wanted: str) -> Updates:
        ui = self.ui
        try:
            self.host.workspace(request).restore_set(gone)
        except engine.EngineError as error:
            return {ui.said: render.error(str(error)), ui.undo: gr.update(visible=False)}
        back = shelf.said(text.LIBRARY_SET_BACK.format(name=gone))
        shown = self._fresh(request, f"own:{gone}", *wanted)
        return {ui.said: back, ui.gone: "", ui.undo: gr.update(visible=False), **shown}

    # bringing one

    def bring(self, request: gr.Request, upload: str | None, held: Waiting | None, *more: str) -> Updates:
        """A file is dropped: an exported set is taken at once, a checkpoint waits until its task is said."""
        ui = self.ui
        if held:
            held.folder.delete()
        if not upload or not cases.is_file(Path(upload)):
            return {ui.waiting: None}
        folder = engine.PrivateFolder()
        waiting = Waiting(folder, Path(shutil.move(upload, folder.path / Path(upload).name)))
        return {ui.drop: None, **self._bring(request, waiting, *more)}

    def go_on(self, request: gr.Request, waiting: Waiting | None, *more: str) -> Updates:
        if waiting is None:
            return {self.ui.said: render.error(text.LIBRARY_BRING_FIRST)}
        return self._bring(request, waiting, *more)

    def _bring(self, request: gr.Request, waiting: Waiting, *more: str) -> Updates:
        """more : the fields of Told, then those of Wanted."""
        ui, told, wanted = self.ui, Told(*(each or "" for each in more[:6])), more[6:]
        done: Updates = {ui.waiting: None, ui.undo: gr.update(visible=False)}
        methods: tuple[str, ...] = ()
        try:
            methods = _methods(waiting.file)
            if methods and not told.task:
                asked = shelf.said(text.LIBRARY_BRING_ASK.format(methods=" or ".join(methods)))
                return {ui.waiting: waiting, ui.said: asked, ui.more: gr.update(open=True)}
            before = self.host.workspace(request).sets()
            name = self._imported(request, waiting.file, methods, told)
        except engine.EngineError as error:
            said = {ui.said: render.error(str(error))}
            if methods:  # another task or template may do
                return said | {ui.waiting: waiting, ui.more: gr.update(open=True)}
            waiting.folder.delete()
            return done | said
        waiting.folder.delete()
        brought = shelf.said((text.LIBRARY_BROUGHT_AGAIN if name in before else text.LIBRARY_BROUGHT).format(name=name))
        return done | {ui.said: brought, **self._fresh(request, f"own:{name}", *wanted)}

    def _imported(self, request: gr.Request, file: Path, methods: tuple[str, ...], told: Told) -> str:
        """The name under which it is in the workspace, where the same may be already. methods : of a checkpoint. Raises EngineError."""
        workspace = self.host.workspace(request)
        self.host.check_room(workspace, [file])
        if not methods:
            made = engine.PromptSet.load(file)
            return self._same(request, made) or workspace.add_set(made)
        task = workspace.tasks().get(told.task) or engine.task(told.task)
        names = [line.strip() for line in told.trained_on.splitlines() if line.strip()]
        backbone = self.host.backbone(told.backbone or self.settings.backbone)
        made = engine.import_checkpoint(
            file, backbone, task, told.method or None, told.template or None, told.position or None, names or None
        )
        return self._same(request, made) or workspace.add_set(made)

    def _same(self, request: gr.Request | None, made: engine.PromptSet) -> str | None:
        """The visitor's own set that differs from this one in its name at most."""
        own = (each for each in self.items(request) if each.own)
        return next((each.name for each in own if each.prompts and each.prompts.is_same(made)), None)

    # backbones

    def backbone_rows(self) -> str:
        device, precision = self.host.device, self.settings.precision
        found = [
            (engine.weights(name), models.ready(name, device, precision), models.fetched(name))
            for name in (*engine.BACKBONES, *engine.exported())
        ]
        return shelf.backbones(found, not self.settings.is_public)

    def poll(self) -> Updates:
        """While something is fetched the table follows it."""
        running = any((f := models.fetched(name)) and f.state == "running" for name in engine.BACKBONES)
        return {self.ui.backbones: self.backbone_rows(), self.ui.timer: gr.Timer(active=running)}

    def do(self, request: gr.Request, what: str, *wanted: str) -> Updates:
        """A button in a list: "set KEY", "fetch ID", "stop ID"."""
        act, _, name = what.partition(" ")
        try:
            if act == "set":
                return {self.ui.said: "", **self.show(request, name, *wanted)}
            if act == "fetch":
                self.begin_fetch(name)
            elif act == "stop" and (fetch := models.fetched(name)):
                fetch.stop()
        except engine.EngineError as error:
            return {self.ui.fetch_said: render.error(str(error))}
        return {self.ui.fetch_said: "", **self.poll()}

    def begin_fetch(self, name: str) -> engine.Fetch:
        """Raises BackboneError."""
        if self.settings.is_public:
            raise engine.BackboneError(text.FETCH_PUBLIC, text.FETCH_NOT_HERE)
        return models.fetch(name)

    # descriptions

    def tasks(self, request: gr.Request | None) -> dict[str, engine.Task]:
        """The visitor's own, then everybody's, by id."""
        workspace = self.host.visits.found(request)
        return (workspace.tasks() if workspace else {}) | {k: v for k, v in engine.tasks().items() if not _own(workspace, k)}

    def show_bank(self, request: gr.Request | None, name: str, label: str, lines: str = "", drafts: str = "") -> Updates:
        """lines : what the editor holds, of the class that `drafts` (packed) is at; what is not saved of it is there again when one
        comes back."""
        ui, tasks = self.ui, self.tasks(request)
        task, written = tasks.get(name), _unsaved(tasks, lines, Drafts.read(drafts))
        shown = [next(e.display for e in tasks[t].labels if e.name == each) for t, each in written]
        names = ", ".join(f"“{each}”" for each in shown)
        said = {ui.bank_said: shelf.said(text.BANK_UNSAVED.format(names=names)) if names else ""}
        if task is None:
            closed = {ui.bank: "", ui.label: gr.update(choices=[], value=None), ui.lines: ""}
            return closed | said | {ui.drafts: Drafts(written=written).packed()}
        bank, classes = engine.descriptions(task), [(each.display, each.name) for each in task.labels]
        label = label if label in task.names else task.names[0]
        lines = written.get((name, label), "\n".join(bank.classes[label].sentences))
        said |= {ui.lines: lines, ui.drafts: Drafts((name, label), written).packed()}
        return {ui.bank: shelf.bank(task, bank), ui.label: gr.update(choices=classes, value=label), **said}

    def write(self, request: gr.Request | None, name: str, label: str, lines: list[str]) -> tuple[str, list[str], str]:
        """(what is saved, what to think about, what it does to labelled images), in words. Raises EngineError."""
        task = self.tasks(request).get(name)
        if task is None:
            raise engine.DataError(f"There is no task {name[:80]!r}.", "Choose one of the list.")
        model, workspace = self.host.backbone(self.settings.backbone), self.host.workspace(request)
        kept, thoughts = engine.check_sentences(task, label, lines, model)
        if name not in workspace.tasks():
            task = workspace.adopt(name)
        changed = workspace.edit_task(name, sentences={label: kept})
        more = len(engine.descriptions(changed).classes[label].sentences) - len(kept)
        saved = (text.BANK_SAVED_FILLED if more else text.BANK_SAVED).format(
            name=next(each.display for each in changed.labels if each.name == label),
            own=_count(len(kept), "sentence"),
            templates=_count(more, "template sentence"),
        )
        return saved, thoughts, self.effect(request, workspace, task, changed)

    def effect(
        self,
        request: gr.Request | None,
        workspace: engine.Workspace,
        before: engine.Task,
        after: engine.Task,
        attributes: Any = None,
    ) -> str:
        """What the words alone say of the task's labelled images, before and after; "" for none, or for many. attributes : the
        method where it is about a class's names and look, not about its descriptions."""
        examples = self.examples(workspace, after.id)
        if not 0 < len(examples) <= EFFECT_MOST:
            return ""
        model, learner = self.host.backbone(self.settings.backbone), attributes or engine.METHODS["description-ensemble"]()
        features = self.features(request, workspace, examples, after.id)
        metric = "balanced_accuracy" if attributes else "accuracy"  # of sentences the answer says how many were right
        found = engine.effect_of_words(model, before, after, examples, features, learner, metric)
        if attributes:
            return f"{text.WORDS_EFFECT} {found.in_words()} {text.WORDS_EFFECT_CARE}"
        shares = (found.before, found.after)
        was, now = (f"{100 * s.value:.0f} % ({100 * s.low:.0f} to {100 * s.high:.0f})" for s in shares)
        return text.BANK_EFFECT.format(images=len(examples), before=was, after=now)

    def examples(self, workspace: engine.Workspace, task: str) -> list[engine.Example]:
        """The labelled cases on which words may be judged: those of a test split are left alone."""
        return [each for each in workspace.examples(task) if each.split != "test"]

    def features(
        self, request: gr.Request | None, workspace: engine.Workspace, examples: list[engine.Example], task: str
    ) -> np.ndarray:
        """(N, D) of labelled cases, a few at a time. Raises EngineError."""
        asked = self.host.asked(request, self.settings.backbone, task)
        parts = [examples[i : i + 16] for i in range(0, len(examples), 16)]
        return np.concatenate([compute.features(part, asked, workspace.features) for part in parts])

    def shown_bank(self, request: gr.Request | None, name: str) -> Updates:
        """What is written, and what the workspace holds."""
        task = self.tasks(request).get(name)
        return {self.ui.bank: shelf.bank(task, engine.descriptions(task)) if task else "", **self._held(request)}

    def save_bank(self, request: gr.Request, lines: str, drafts: str) -> Updates:
        """The lines, of the class that they are of."""
        ui, held = self.ui, Drafts.read(drafts)
        (name, label), written = held.at, dict(held.written)
        try:
            saved, thoughts, effect = self.write(request, name, label, lines.splitlines())
        except engine.EngineError as error:
            return {ui.bank_said: render.error(str(error))}
        written.pop((name, label), None)
        shown = self.show_bank(request, name, label, "", Drafts(written=written).packed())
        said = shelf.said(f"{saved} {effect}".strip(), thoughts)
        return {**shown, ui.bank_task: name, ui.bank_said: said, **self._held(request)}

    # what a workspace holds

    def holds(self, request: gr.Request | None) -> str:
        workspace = self.host.visits.found(request)
        if workspace is None:
            return text.LIBRARY_HOLDS_NONE
        held = workspace.holdings()
        return text.LIBRARY_HOLDS.format(
            tasks=_count(held["tasks"], "task"),
            cases=_count(held["cases"], "image"),
            labelled=held["labels"],
            sets=_count(held["prompt_sets"], "prompt set"),
            size=shelf.size(held["bytes"]),
        )

    def _held(self, request: gr.Request | None) -> Updates:
        return {self.ui.holds: f'<p class="ps-small">{self.holds(request)}</p>'}

    # programs

    def library(self, request: gr.Request) -> list[dict[str, Any]]:
        """Lists the prompt sets: the caller's own, then those that come with PromptScope.

        Returns: of each its name, whether it is own, its question (what `predict` takes), and its card; or the error.
        """
        found = []
        for item in self.items(request):
            card = item.prompts.card if item.prompts else None
            question = item.name.removesuffix(f"-{card['backbone']['id']}") if card else None
            found.append(
                {"name": item.name, "own": item.own, "question": question, "card": card, "error": item.problem or None}
            )
        return found

    def import_set(
        self,
        request: gr.Request,
        file: gr.FileData,
        task: str = "",
        method: str = "",
        backbone: str = "",
        template: str = "",
        position: str = "",
        trained_on: str = "",
    ) -> str:
        """Takes a prompt set from elsewhere into the caller's library; a checkpoint of a paper's code needs the task at least.

        file: an exported .safetensors file, or an upstream checkpoint.
        task: of a checkpoint, its id.
        method: of a checkpoint that could be of several.
        backbone: of a checkpoint; the page's own if empty.
        template: of a checkpoint that was not learned with the paper's, with {} for the class.
        position: of the class name in a Biomed-DPT checkpoint, end or middle.
        trained_on: the classes that a checkpoint was learned with, one a line, where they are not the task's.
        Returns: the name of the set in the library; of one that is there already, the name that it has.
        """
        ((place, _),) = cases.uploaded([file])
        folder = engine.PrivateFolder()
        try:
            here = Path(shutil.move(place, folder.path / Path(place).name))
            methods = _methods(here)
            if methods and not task:
                raise engine.DataError(text.LIBRARY_BRING_ASK.format(methods=" or ".join(methods)))
            return self._imported(request, here, methods, Told(task, method, backbone, template, position, trained_on))
        finally:
            folder.delete()

    def export_set(self, request: gr.Request, name: str) -> gr.FileData:
        """Writes one file of a prompt set, to send; import_set takes it.

        name: of a set in the library.
        Returns: the file.
        """
        called, content = self.exported(request, name)
        folder = Path(get_upload_folder()) / secrets.token_hex(
            16
        )  # Gradio serves from there, and deletes it within the hour
        folder.mkdir(parents=True)
        (folder / called).write_bytes(content)
        return gr.FileData(path=str(folder / called), orig_name=called)

    def remove_set(self, request: gr.Request, name: str) -> str:
        """Deletes one of the caller's own prompt sets; restore_set brings it back.

        name: of the set.
        Returns: its name.
        """
        if name in engine.library() and name not in self.host.workspace(request).sets():
            raise engine.PromptSetError(text.LIBRARY_SHIPPED_WORDS)
        self.host.workspace(request).remove_set(name)
        return name

    def restore_set(self, request: gr.Request, name: str) -> str:
        """Brings back a prompt set that remove_set has deleted.

        name: of the set.
        Returns: its name.
        """
        self.host.workspace(request).restore_set(name)
        return name

    def list_backbones(self) -> list[dict[str, Any]]:
        """Lists the backbones, with what is known of their weights; asks no network.

        Returns: id, present, place (in words), size (bytes on disk), dim, licence, fetched_from, device (null until loaded).
        """
        found = []
        for name in (*engine.BACKBONES, *engine.exported()):
            about, loaded = engine.weights(name), models.ready(name, self.host.device, self.settings.precision)
            row = {k: v for k, v in asdict(about).items() if k != "folder"}
            row |= {"present": about.folder is not None, "fetched_from": list(about.fetched_from)}
            found.append(row | {"device": f"{loaded.device} ({loaded.dtype})" if loaded else None})
        return found

    def fetch_backbone(self, name: str) -> dict[str, Any]:
        """Begins to fetch a backbone's weights from the model hub, or goes on; ask fetching how far it is.

        name: the backbone's id.
        Returns: state (running, done, stopped, failed), done and of (bytes; of is 0 until the hub has said it), error.
        """
        return _far(self.begin_fetch(name))

    def fetching(self, name: str) -> dict[str, Any]:
        """Tells how far the fetching of a backbone is.

        name: the backbone's id.
        Returns: as fetch_backbone.
        """
        found = models.fetched(name)
        if found is None:
            raise engine.BackboneError(text.FETCH_NONE.format(name=name[:80]))
        return _far(found)

    def stop_fetching(self, name: str) -> dict[str, Any]:
        """Stops the fetching of a backbone; what has come is kept.

        name: the backbone's id.
        Returns: as fetch_backbone.
        """
        if self.settings.is_public:
            raise engine.BackboneError(text.FETCH_PUBLIC)
        found = models.fetched(name)
        if found is None:
            raise engine.BackboneError(text.FETCH_NONE.format(name=name[:80]))
        found.stop()
        return _far(found)

    def bank_of(self, request: gr.Request, task: str) -> dict[str, Any]:
        """Gives the written descriptions of a task's classes.

        task: its id.
        Returns: task, source, licence, sha256, and classes: by name, their sentences, attributes, synonyms and negatives.
        """
        found = self.tasks(request).get(task)
        if found is None:
            raise engine.DataError(f"There is no task {task[:80]!r}.", "The endpoint about lists them.")
        return asdict(engine.descriptions(found))

    def edit_bank(self, request: gr.Request, task: str, label: str, sentences: list[str]) -> dict[str, Any]:
        """Replaces the sentences of one class, in the caller's workspace; a task that comes with PromptScope is copied there first.

        task: its id.
        label: the class.
        sentences: how it looks in such an image, one or more.
        Returns: thoughts (what may be wrong with the sentences) and effect (on labelled images, or empty).
        """
        _, thoughts, effect = self.write(request, task, label, sentences)
        return {"thoughts": thoughts, "effect": effect}

    def endpoints(self) -> None:
        programs.offer(self.library, "library")
        programs.offer(self.import_set, "import_set")
        programs.offer(self.export_set, "export_set")
        programs.offer(self.remove_set, "remove_set")
        programs.offer(self.restore_set, "restore_set")
        programs.offer(self.list_backbones, "backbones")
        programs.offer(self.fetch_backbone, "fetch_backbone")
        programs.offer(self.fetching, "fetching")
        programs.offer(self.stop_fetching, "stop_fetching")
        programs.offer(self.bank_of, "bank")
        programs.offer(self.edit_bank, "edit_bank")
        self.words.endpoints()

    # layout and wiring

    def lay_out(self) -> None:
        ui = self.ui
        ui.chosen, ui.gone = gr.State(""), gr.State("")
        ui.waiting = gr.State(None, delete_callback=lambda held: held.folder.delete() if held else None)
        with gr.Tabs(elem_id="ps-library"):
            with gr.Tab(text.LIBRARY_SETS, id="sets"):
                self._lay_out_sets()
            with gr.Tab(text.LIBRARY_BACKBONES, id="backbones"):
                gr.HTML(f'<p class="ps-small">{text.FETCH_ABOUT}</p>')
                ui.fetch_said = gr.HTML("", elem_id="ps-fetch-said")
                ui.backbones = gr.HTML("", elem_id="ps-backbones")
                ui.timer = gr.Timer(POLL_S, active=False)
            with gr.Tab(text.LIBRARY_DESCRIPTIONS, id="descriptions"):
                self._lay_out_bank()
        ui.holds = gr.HTML("", elem_id="ps-holds")
        with gr.Row(elem_classes="ps-unseen"):  # where a click on a button of the lists arrives (library.js)
            ui.what = gr.Textbox("", elem_id="ps-library-do", label="what")
            ui.go = gr.Button("go", elem_id="ps-library-go")

    def _lay_out_sets(self) -> None:
        ui, options = self.ui, [(text.LIBRARY_ANY, "")]
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                ui.words = gr.Textbox(
                    "", label=text.LIBRARY_SEARCH, placeholder=text.LIBRARY_SEARCH_HINT, elem_id="ps-library-search"
                )
                with gr.Row():
                    ui.whose = gr.Radio(list(text.LIBRARY_WHOSE), value="", show_label=False, container=False)
                with gr.Accordion(text.LIBRARY_FILTERS, open=False), gr.Row():
                    ui.task = gr.Dropdown(options, value="", label=text.LIBRARY_FILTER_TASK, min_width=140)
                    ui.modality = gr.Dropdown(options, value="", label=text.LIBRARY_FILTER_MODALITY, min_width=140)
                    ui.backbone = gr.Dropdown(options, value="", label=text.LIBRARY_FILTER_BACKBONE, min_width=140)
                    ui.method = gr.Dropdown(options, value="", label=text.LIBRARY_FILTER_METHOD, min_width=140)
                ui.list = gr.HTML("", elem_id="ps-library-list")
            with gr.Column(scale=6, min_width=360):
                ui.said = gr.HTML("", elem_id="ps-library-said")
                ui.undo = gr.Button(text.LIBRARY_SET_UNDO, size="sm", visible=False, elem_id="ps-library-undo")
                ui.card = gr.HTML(shelf.hint(text.LIBRARY_CHOOSE_ONE), elem_id="ps-library-card")
                with gr.Row():
                    ui.export = gr.Button(text.LIBRARY_SET_EXPORT, size="sm", visible=False, elem_id="ps-library-export")
                    ui.remove = gr.Button(
                        text.LIBRARY_SET_REMOVE, size="sm", variant="stop", visible=False, elem_id="ps-library-remove"
                    )
                ui.drop = gr.File(
                    label=text.LIBRARY_BRING, file_count="single", type="filepath", height=140, elem_id="ps-library-drop"
                )
                with gr.Accordion(text.LIBRARY_BRING_MORE, open=False) as ui.more:
                    with gr.Row():
                        ui.of_task = gr.Dropdown([("", "")], value="", label=text.LIBRARY_FILTER_TASK, min_width=160)
                        ui.of_method = gr.Dropdown(
                            [("", ""), *((name, name) for name in engine.METHODS)],
                            value="", label=text.LIBRARY_BRING_METHOD, min_width=160,
                        )  # fmt: skip
                        ui.of_backbone = gr.Dropdown(
                            self.host.backbones(), value=self.settings.backbone, label=text.BACKBONE, min_width=160
                        )
                    ui.of_template = gr.Textbox("", label=text.LIBRARY_BRING_TEMPLATE)
                    ui.of_position = gr.Radio(["", "end", "middle"], value="", label=text.LIBRARY_BRING_POSITION)
                    ui.of_classes = gr.Textbox("", label=text.LIBRARY_BRING_TRAINED, lines=2)
                    ui.import_ = gr.Button(text.LIBRARY_BRING_GO, variant="primary", size="sm")

    def _lay_out_bank(self) -> None:
        ui = self.ui
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                ui.bank_task = gr.Dropdown([], label=text.BANK_TASK, info=text.BANK_ABOUT, elem_id="ps-bank-task")
                ui.bank = gr.HTML("", elem_id="ps-bank")
            with gr.Column(scale=5, min_width=320):
                ui.label = gr.Dropdown([], label=text.BANK_CLASS, elem_id="ps-bank-class")
                ui.lines = gr.Textbox(
                    "", label=text.BANK_LINES, info=text.BANK_LINES_INFO, lines=14, max_lines=24, elem_id="ps-bank-lines"
                )
                with gr.Row(elem_classes="ps-unseen"):
                    ui.drafts = gr.Textbox("", elem_id="ps-bank-drafts", label="drafts")
                ui.bank_save = gr.Button(text.BANK_SAVE, variant="primary", size="sm", elem_id="ps-bank-save")
                ui.bank_said = gr.HTML("", elem_id="ps-bank-said")
                self.words.lay_out()

    def _wanted(self) -> list[Any]:
        ui = self.ui
        return [ui.words, ui.task, ui.modality, ui.backbone, ui.method, ui.whose]

    def lists(self) -> tuple[list[Any], list[Any]]:
        ui = self.ui
        filters = [ui.task, ui.modality, ui.backbone, ui.method]
        bank = [ui.bank_task, ui.bank, ui.label, ui.lines, ui.drafts, ui.bank_said]
        shown = [ui.list, ui.card, ui.chosen, ui.export, ui.remove, ui.holds, ui.backbones, ui.timer, ui.of_task]
        return [ui.chosen, ui.bank_task, ui.label, ui.lines, ui.drafts, *self._wanted()], [*shown, *filters, *bank]

    def arrive(
        self, request: gr.Request, chosen: str, bank_task: str, label: str, lines: str, drafts: str, *wanted: str
    ) -> Updates:
        """The tab is opened: sets, tasks and backbones may have changed."""
        ui, tasks = self.ui, [(task.title, name) for name, task in self.tasks(request).items()]
        cards = [item.prompts.card for item in self.items(request) if item.prompts]
        told = {
            ui.task: {c["task"]["id"]: c["task"]["title"] for c in cards},
            ui.modality: {c["task"]["modality"]: c["task"]["modality"] for c in cards if c["task"].get("modality")},
            ui.backbone: {c["backbone"]["id"]: c["backbone"]["id"] for c in cards},
            ui.method: {
                c["method"]["name"]: text.LIBRARY_METHODS.get(c["method"]["name"], c["method"]["name"]) for c in cards
            },
        }
        filters = {
            component: gr.update(choices=[(text.LIBRARY_ANY, ""), *((title, value) for value, title in found.items())])
            for component, found in told.items()
        }
        name = bank_task if bank_task in dict((v, k) for k, v in tasks) else tasks[0][1]
        return {
            **self.show(request, chosen, *wanted),
            **self.show_bank(request, name, label or "", lines or "", drafts),
            **self.poll(),
            **filters,
            ui.bank_task: gr.update(choices=tasks, value=name),
            ui.of_task: gr.update(choices=[("", ""), *tasks]),
            **self._held(request),
        }

    def wire(self) -> None:
        ui, wanted = self.ui, self._wanted()
        how: dict[str, Any] = {"show_progress": "hidden", **HIDDEN}
        open_ = [ui.card, ui.chosen, ui.export, ui.remove]
        shown = [ui.list, *open_]
        for control in wanted:
            # a text's `input` is not told of what is deleted, cut or pasted
            changed = control.change if control is ui.words else control.input
            changed(self.show, [ui.chosen, *wanted], shown, trigger_mode="always_last", **how)
        told = [ui.of_task, ui.of_method, ui.of_backbone, ui.of_template, ui.of_position, ui.of_classes]
        brought = [ui.waiting, ui.said, ui.more, ui.drop, ui.undo, ui.holds, *shown]
        ui.drop.upload(self.bring, [ui.drop, ui.waiting, *told, *wanted], brought, **HIDDEN)
        ui.import_.click(self.go_on, [ui.waiting, *told, *wanted], brought, **HIDDEN)
        ui.remove.click(self.remove, [ui.chosen, *wanted], [ui.said, ui.gone, ui.undo, ui.holds, *shown], **how)
        ui.undo.click(self.undo, [ui.gone, *wanted], [ui.said, ui.gone, ui.undo, ui.holds, *shown], **how)
        ui.go.click(self.do, [ui.what, *wanted], [ui.said, ui.fetch_said, ui.backbones, ui.timer, *shown], **how)
        ui.timer.tick(self.poll, None, [ui.backbones, ui.timer], **how)
        bank, edited = [ui.bank, ui.label, ui.lines, ui.drafts, ui.bank_said], [ui.bank_task, ui.label, ui.lines, ui.drafts]
        chosen = [each.input(self.show_bank, edited, bank, **how) for each in (ui.bank_task, ui.label)]
        ui.bank_save.click(self.save_bank, [ui.lines, ui.drafts], [ui.holds, ui.bank_task, *bank], **HIDDEN)
        self.words.wire(*chosen)
        parcels.saved_by(ui.export, self.save, [ui.chosen])


def _methods(file: Path) -> tuple[str, ...]:
    """Of a checkpoint, the methods it could be of; () for an exported set. Raises PromptSetError."""
    return engine.checkpoint_methods(file) if zipfile.is_zipfile(file) else ()  # torch writes its checkpoints as zips


def _unsaved(tasks: Mapping[str, engine.Task], lines: str, drafts: Drafts) -> dict[tuple[str, str], str]:
    """The drafts, with the class in the editor as it is there, where they differ from what is saved; of classes that are gone none."""
    written = {**drafts.written, drafts.at: lines}
    there = {(t, label) for t, task in tasks.items() for label in task.names} & written.keys()
    saved = {(t, label): engine.descriptions(tasks[t]).classes[label].sentences for t, label in there}
    return {at: each for at, each in written.items() if at in saved and each.splitlines() != list(saved[at])}


def _own(workspace: engine.Workspace | None, name: str) -> bool:
    return workspace is not None and name in workspace.tasks()


def _far(fetch: engine.Fetch) -> dict[str, Any]:
    return {"state": fetch.state, "done": fetch.done, "of": fetch.of, "error": fetch.error}


def _count(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count} {what}s"
