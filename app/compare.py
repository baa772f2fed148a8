"""The Compare tab: prompt sets side by side, on one image and on a workspace's labelled ones.

What can be compared on labelled images has a value: "words:METHOD" (made on the spot), "library:NAME", "set:NAME" (the
visitor's own), "training:ID" (not saved yet), and "train:METHOD", which is trained first and then is "training:ID".
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import gradio as gr

import engine
from app import audit, cases, columns, compute, covers, gallery, models, parcels, programs, render, text
from app.host import HIDDEN, Host, Screen, Updates
from app.read import Read

MOST = 8
AT_ONCE = 16  # images that are read in one turn: other visitors come in between
POLL_S = 1.0


@dataclass(frozen=True)
class Going:
    """What is to be compared. entries : values, as above; jobs : ids of trainings that were begun for it; missed : sentences
    about what could not be."""

    task: str
    backbone: str
    entries: tuple[str, ...]
    jobs: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """cases : ids, of comparison.cases in their order."""

    task: str
    comparison: engine.Comparison
    cases: tuple[int, ...]


class Compare:
    """Handlers of the tab. read : the tab whose open image is compared on."""

    def __init__(self, host: Host, read: Read):
        self.host, self.read, self.settings = host, read, host.settings
        self.ui = SimpleNamespace()  # the components, by name; see lay_out

    # one image

    def look(
        self, request: gr.Request | None, which: str, chosen: list[str], backbone: str, label: str, opacity: float,
        screen: Screen, index: int, frame: int, window: str, center: float, width: float, invert: bool, areas: str,
    ) -> Updates:  # fmt: skip
        """What each set says of the image: cards, the agreement first."""
        ui = self.ui
        try:
            if which:
                series = cases.sample(which).series
                image, covered, inverted = series.frame(engine.middle(series)), 0, False
            else:
                image = self.read.image(screen, index, frame, window, center, width, invert, areas)
                covered, inverted = len(covers.read(areas)), invert
            names, sets, answers = self._answers(request, image, chosen, backbone, label, covered, inverted)
        except engine.EngineError as error:
            return {ui.cards: render.error(str(error)), ui.label: gr.update(visible=False), ui.seen: ""}
        first = sets[0]
        asked = [(first.display(each), each) for each in first.labels]
        is_one = all(set(each.labels) == set(first.labels) for each in sets)
        known = label if label in first.labels and is_one else ""
        return {
            ui.cards: columns.side_by_side(image, names, sets, answers, opacity),
            ui.label: gr.update(choices=[(text.OWN_ANSWER, ""), *asked], value=known, visible=is_one),
            ui.seen: "" if which else _key(screen.held, index),
        }

    def _answers(
        self,
        request: gr.Request | None,
        image: engine.Image,
        chosen: Sequence[str],
        backbone: str,
        label: str,
        covered: int,
        inverted: bool,
    ) -> tuple[list[str], list[engine.PromptSet], list[engine.Answer]]:
        """Raises EngineError. Each answer adds its line to the audit, where one is kept."""
        self.host.load(backbone)
        sets = [self.host.prompts(self.host.asked(request, backbone, each)) for each in chosen]
        asked = self.host.asked(request, backbone, "")
        _, answers = compute.side_by_side(image, sets, asked, label if any(label in s.labels for s in sets) else "")
        for prompts, answer in zip(sets, answers, strict=True):
            line = audit.entry(audit.digest(image), image.window, answer.prediction, prompts, covered, inverted)
            audit.write(self.settings.audit, line)
        own = {each.value for each in self.host.asks(request) if each.own}
        return _names(sets, [each in own for each in chosen]), sets, answers

    def _sets(self, request: gr.Request | None, chosen: Sequence[str]) -> list[tuple[str, str]]:
        """What can look at an image, those first that answer the same question as the first chosen one."""
        asks = self.host.asks(request)
        task = next((each.task for each in asks if chosen and each.value == chosen[0]), "")
        return [(each.title, each.value) for each in sorted(asks, key=lambda each: each.task != task)]

    def offer_sets(self, request: gr.Request, chosen: list[str]) -> Any:
        return gr.update(choices=self._sets(request, chosen))

    # labelled images: what can be compared

    def _task(self, workspace: engine.Workspace, name: str) -> engine.Task:
        if not name:
            raise engine.DataError("No question is chosen.", "Make one and label some images in the tab Teach.")
        return workspace.task(name)

    def _entries(self, workspace: engine.Workspace, task: engine.Task, backbone: str) -> list[tuple[str, str]]:
        """(title, value) of everything that can be compared for a task."""
        found: list[tuple[str, str]] = []
        for name in workspace.sets():
            prompts = _loaded(workspace.prompts / name)
            if prompts and _fits(prompts, task, backbone):
                short = name.removesuffix(f"-{backbone}")
                title = text.OF_YOURS.format(method=_method(prompts), name=short)
                found.append((f"{title}{_earlier(prompts, task)}", f"set:{name}"))
        for job in workspace.jobs(task.id):
            prompts = _loaded(workspace.jobs_folder / job.id / "prompts")
            if job.state == "done" and prompts and _fits(prompts, task, backbone):
                when = gallery.when(job.ended)
                title = text.OF_TRAINING.format(method=_method(prompts), when=when)
                found.append((f"{title}{_earlier(prompts, task)}", f"training:{job.id}"))
        for method in engine.instant():
            words = text.OF_WORDS_NOW if engine.METHODS[method].needs_descriptions else text.OF_WORDS
            found.append((words.format(method=text.METHOD_TITLES[method]), f"words:{method}"))
        for name in engine.library():
            prompts = _loaded(engine.LIBRARY / name) if name.startswith(f"{task.id}-") else None
            if prompts and prompts.card["method"]["name"] not in engine.instant() and _fits(prompts, task, backbone):
                found.append((text.OF_LIBRARY.format(method=_method(prompts)), f"library:{name}"))
        for method in dict.fromkeys(each for methods in engine.BUDGETS.values() for each in methods):
            if method not in engine.instant():
                found.append((text.TRAIN_NOW.format(method=text.METHOD_TITLES[method]), f"train:{method}"))
        return found

    def choose_task(self, request: gr.Request | None, name: str, backbone: str) -> Updates:
        """Another question, or another model: what can be compared, with a choice to begin with."""
        try:
            workspace = self.host.seen(request)
            return self._chooser(workspace, self._task(workspace, name), backbone, [])
        except engine.EngineError:
            return {self.ui.rivals: gr.update(choices=[], value=[]), self.ui.first: ""}

    def _chooser(self, workspace: engine.Workspace, task: engine.Task, backbone: str, chosen: Sequence[str]) -> Updates:
        """chosen : nothing where nobody has chosen, and then what is proposed is remembered."""
        options, found = self._entries(workspace, task, backbone), dict[Any, Any]()
        known = [each for each in chosen if each in {value for _, value in options}]
        if not known:
            own = [value for _, value in options if value.startswith(("set:", "training:"))]
            known = ["words:zero-shot", *own][:MOST] if own else ["words:zero-shot", "words:description-ensemble"]
            found = {self.ui.offered: known}
        return found | {self.ui.rivals: gr.update(choices=options, value=known), self.ui.first: _trained_first(known)}

    # labelled images: comparing

    def begin(self, request: gr.Request | None, name: str, backbone: str, chosen: list[str]) -> Updates:
        """Queues what has to be trained first; without that, the comparison begins at once."""
        ui = self.ui
        try:
            workspace = self.host.seen(request)
            going = self._begun(workspace, self._task(workspace, name), backbone, chosen)
        except engine.EngineError as error:
            return {ui.far: render.error(str(error)), ui.going: None, ui.timer: gr.update(active=False)}
        return {ui.result: "", ui.found: None, ui.saves: gr.update(visible=False), **self._as_it_stands(workspace, going)}

    def _begun(self, workspace: engine.Workspace, task: engine.Task, backbone: str, chosen: Sequence[str]) -> Going:
        """Raises EngineError before anything is queued."""
        if not chosen or len(chosen) > MOST:
            raise engine.DataError(f"{len(chosen)} are chosen to compare.", f"Choose one to {MOST}; two make a comparison.")
        wanted, examples = (
            [each.removeprefix("train:") for each in chosen if each.startswith("train:")],
            workspace.examples(task.id),
        )
        if not examples:
            raise engine.DataError("No image of this question is labelled.", "Label some in the tab Teach.")
        budgets = {method: budget for budget, methods in engine.BUDGETS.items() for method in methods}
        for method in wanted:
            if method not in budgets:
                raise engine.DataError(f"{method!r} cannot be trained here.", f"Choose one of: {', '.join(budgets)}.")
            engine.check_plan(task, examples, engine.Plan(method))
        self.host.load(backbone)
        begun = {f"train:{m}": workspace.submit(task.id, m, backbone, budgets[m]).id for m in wanted}
        if begun:
            self.host.queue.wake()
        entries = tuple(f"training:{begun[each]}" if each in begun else each for each in chosen)
        return Going(task.id, backbone, entries, tuple(begun.values()))

    def _as_it_stands(self, workspace: engine.Workspace, going: Going) -> Updates:
        """The trainings that are waited for; when all have ended, the comparison's turn."""
        ui = self.ui
        jobs = [workspace.job(each) for each in going.jobs]
        if any(job.is_active for job in jobs):
            places = [(job, self.host.queue.position(workspace, job.id)) for job in jobs]
            return {
                ui.going: going,
                ui.far: columns.trainings(places, going.missed),
                ui.timer: gr.update(active=True),
                ui.stop: gr.update(visible=True),
            }
        failed = {f"training:{job.id}": job for job in jobs if job.state != "done"}
        missed = [
            text.NOT_TRAINED.format(name=text.METHOD_TITLES[job.asked["method"]], why=job.error or text.WAS_STOPPED)
            for job in failed.values()
        ]
        left = tuple(each for each in going.entries if each not in failed)
        return {
            ui.going: replace(going, entries=left, jobs=(), missed=tuple(missed)),
            ui.far: columns.reading(0, 1),
            ui.timer: gr.update(active=False),
            ui.stop: gr.update(visible=True),
            ui.turn: secrets.token_hex(8),  # its change starts `compare`
        }

    def follow(self, request: gr.Request | None, going: Going | None) -> Updates:
        """Every second while something is trained for the comparison."""
        ui = self.ui
        if going is None or not going.jobs:
            return {ui.timer: gr.update(active=False)}
        try:
            return self._as_it_stands(self.host.seen(request), going)
        except engine.EngineError as error:
            return {ui.far: render.error(str(error)), ui.going: None, ui.timer: gr.update(active=False)}

    def stop(self, request: gr.Request | None, going: Going | None) -> Updates:
        """Ends the trainings that were begun for the comparison; what they have learned so far is kept in Teach."""
        ui = self.ui
        said = ""
        try:
            workspace = self.host.seen(request)
            for each in going.jobs if going else ():
                workspace.stop(each)
            self.host.queue.wake()
        except engine.EngineError as error:
            said = render.error(str(error))
        return {ui.going: None, ui.far: said, ui.timer: gr.update(active=False), ui.stop: gr.update(visible=False)}

    def compare(self, request: gr.Request | None, going: Going | None) -> Iterator[Updates]:
        """The images that are not known yet are read, a few at a time; then everything is said at once."""
        ui, idle = self.ui, {self.ui.going: None, self.ui.stop: gr.update(visible=False)}
        if going is None:
            yield {ui.going: None}
            return
        try:
            workspace = self.host.seen(request)
            found = None
            for done, total, found in self._compared(request, workspace, going.task, going.backbone, going.entries):
                if found is None:
                    yield {ui.far: columns.reading(done, total)}
            assert found is not None
            known = {case.id: case for case in workspace.cases(going.task)}
            drawn = columns.compared(
                found.comparison, [known.get(i) for i in found.cases], workspace.thumbnail, going.missed
            )
            task = workspace.task(going.task)
            lists = self._chooser(workspace, task, going.backbone, going.entries)  # what was trained is one of them now
            yield {ui.far: "", ui.result: drawn, ui.found: found, ui.saves: gr.update(visible=True), **lists, **idle}
        except engine.EngineError as error:
            yield {ui.far: render.error(str(error)), **idle}

    def _compared(
        self, request: gr.Request | None, workspace: engine.Workspace, name: str, backbone: str, entries: Sequence[str]
    ) -> Iterator[tuple[int, int, Found | None]]:
        """(images read, of how many, None), and at last what was found. Raises EngineError."""
        task = self._task(workspace, name)
        cases = {case.id: case.example for case in workspace.cases(task.id) if case.label}
        examples, ids = list(cases.values()), list(cases)
        asked = self.host.asked(request, backbone, "")
        self.host.load(backbone)
        rivals = _different([self._candidate(workspace, task, each, cases, asked) for each in entries])
        work = engine.to_read(examples, rivals)
        done, total = 0, sum(len(part) for _, part in work)
        for prompt, part in work:
            for start in range(0, len(part), AT_ONCE):
                compute.features(part[start : start + AT_ONCE], asked, workspace.features, prompt)
                done += len(part[start : start + AT_ONCE])
                yield done, total, None
        found = compute.judge(examples, rivals, asked, workspace.features)
        workspace.record("compared", task=task.id, sets=len(rivals), cases=len(found.cases))
        yield done, total, Found(task.id, found, tuple(ids[i] for i in found.cases))

    def _candidate(
        self,
        workspace: engine.Workspace,
        task: engine.Task,
        value: str,
        cases: Mapping[int, engine.Example],
        asked: compute.Asked,
    ) -> engine.Candidate:
        """Raises EngineError for what is not there."""
        kind, _, name = value.partition(":")
        if kind == "words" and name in engine.instant():
            return engine.candidate(text.METHOD_TITLES[name], compute.from_words(task, asked, name), True)
        if kind == "library" and name in engine.library():
            shipped = engine.PromptSet.load(engine.LIBRARY / name)
            return engine.candidate(text.OF_LIBRARY.format(method=_method(shipped)), shipped, True)
        job = workspace.origin(name) if kind == "set" else workspace.job(name) if kind == "training" else None
        if kind == "training" and job and job.prompt_set in workspace.sets():
            kind, name = "set", job.prompt_set
        if kind == "training" and job:
            prompts, title = engine.PromptSet.load(workspace.jobs_folder / job.id / "prompts"), text.TRAINED_HERE
        elif kind == "set" and name in workspace.sets():
            prompts, title = engine.PromptSet.load(workspace.prompts / name), text.YOURS
        elif kind == "train":
            raise engine.DataError(text.TRAIN_FIRST.format(value=value[:80]), text.TRAIN_FIRST_HINT)
        else:
            raise engine.DataError(text.NOT_COMPARABLE.format(value=value[:80]), text.NOT_COMPARABLE_HINT)
        try:
            result = workspace.result(job.id) if job and job.task == task.id else None
        except engine.DataError:  # the result was deleted: nothing says what it has seen
            result = None
        title = f"{title.format(method=_method(prompts))}{_earlier(prompts, task)}"
        return engine.candidate(title, prompts, False, cases, result)

    # taking along

    def as_csv(self, found: Found | None) -> str:
        return parcels.pack(_file(found, "csv"), engine.comparison_table(found.comparison), "text/csv") if found else ""

    def as_png(self, found: Found | None) -> str:
        return parcels.pack(_file(found, "png"), engine.comparison_plots(found.comparison), "image/png") if found else ""

    def as_html(self, request: gr.Request | None, found: Found | None, with_images: bool) -> str:
        if found is None:
            return ""
        made = self._report(self.host.seen(request), found, with_images)
        return parcels.pack(_file(found, "html"), made, "text/html")

    def _report(self, workspace: engine.Workspace, found: Found, with_images: bool) -> str:
        """Cases that were deleted meanwhile have no number any more, and no image."""
        known = {case.id: case for case in workspace.cases(found.task)}
        numbers = [known[i].number if i in known else 0 for i in found.cases]
        there = [known[i] for i in found.cases if i in known] if with_images else []
        thumbnails = {case.number: workspace.thumbnail(case).read_bytes() for case in there}
        return engine.comparison_report(found.comparison, numbers, thumbnails)

    # programs

    def compare_image(
        self,
        request: gr.Request,
        file: gr.FileData,
        prompts: list[str],
        backbone: str = "",
    ) -> dict[str, Any]:
        """Asks up to eight prompt sets about one image, from one pass of the image tower for all that can share it.

        file: an uploaded image (gradio_client: handle_file); of a series the middle slice is taken
        prompts: names of prompt sets, or task ids; the endpoint about lists them
        backbone: its id, or nothing for the page's own
        Returns: notice, `agreement` (sentences) and `results`: set, labels, probabilities and the most probable label of each
        """
        with cases.only(file["path"]) as series:
            image = series.frame(engine.middle(series))
            names, sets, answers = self._answers(request, image, prompts, backbone or self.settings.backbone, "", 0, False)
        rows = [
            {
                "set": each.name,
                "title": name,
                "labels": list(each.labels),
                "probabilities": [float(p) for p in answer.prediction.probabilities],
                "top": answer.prediction.ranked()[0][0],
            }
            for name, each, answer in zip(names, sets, answers, strict=True)
        ]
        return {"notice": text.NOTICE, "agreement": engine.agreement(names, sets, answers), "results": rows}

    def comparable(self, request: gr.Request, task: str, backbone: str = "") -> list[list[str]]:
        """What can be compared on the labelled images of a task.

        task: its id
        backbone: its id, or nothing for the page's own
        Returns: [title, value] of each; the endpoints compare_cases and comparison_report take values
        """
        workspace = self.host.seen(request)
        backbone = backbone or self.settings.backbone
        return [[title, value] for title, value in self._entries(workspace, self._task(workspace, task), backbone)]

    def compare_cases(self, request: gr.Request, task: str, entries: list[str], backbone: str = "") -> dict[str, Any]:
        """Judges up to eight prompt sets on the labelled images of a task, each only on images that it has not learned from.

        task: its id
        entries: values of the endpoint comparable, as words:zero-shot, set:NAME or training:ID; the first is the reference
        backbone: its id, or nothing for the page's own
        Returns: notice; `words` and `care` as sentences; `sets` with metrics, differences and cost, [value, low, high] each
        """
        return {"notice": text.NOTICE} | engine.comparison_rows(self._found(request, task, entries, backbone).comparison)

    def comparison_report(
        self,
        request: gr.Request,
        task: str,
        entries: list[str],
        backbone: str = "",
        form: str = "html",
        with_images: bool = False,
    ) -> str:
        """The comparison of compare_cases as a document that opens anywhere, or as a table.

        task: its id
        entries: values of the endpoint comparable
        backbone: its id, or nothing for the page's own
        form: html for a report with plots, csv for a table
        with_images: small pictures of the cases in the report
        Returns: the document's text
        """
        if form not in ("html", "csv"):
            raise engine.DataError(text.FORMS.format(form=form[:20]))
        found = self._found(request, task, entries, backbone)
        if form == "csv":
            return engine.comparison_table(found.comparison)
        return self._report(self.host.seen(request), found, with_images)

    def _found(self, request: gr.Request, task: str, entries: Sequence[str], backbone: str) -> Found:
        workspace = self.host.seen(request)
        *_, (_, _, found) = self._compared(request, workspace, task, backbone or self.settings.backbone, entries)
        assert found is not None
        return found

    # layout and wiring

    def lay_out(self) -> None:
        ui, settings = self.ui, self.settings
        options = self.host.questions(None)
        ui.going, ui.found, ui.turn = gr.State(None), gr.State(None), gr.State("")
        ui.seen, ui.proposed = gr.State(""), gr.State([])  # the opening of Read's image in the cards; sets nobody chose
        ui.offered = gr.State([])  # likewise, on labelled images
        ui.timer = gr.Timer(POLL_S, active=False)
        with gr.Tabs(elem_id="ps-compare-tabs"):
            with gr.Tab(text.COMPARE_IMAGE, id="image"), gr.Row(equal_height=False):
                with gr.Column(scale=3, min_width=280):
                    gr.HTML(f'<p class="ps-small">{text.COMPARE_IMAGE_HELP}</p>')
                    ui.which = gr.Radio(_images([], 0), value="", label=text.WHICH_IMAGE, elem_id="ps-compare-which")
                    ui.sets = gr.Dropdown(
                        options, value=[], multiselect=True, max_choices=MOST, label=text.CHOOSE_SETS,
                        info=text.CHOOSE_SETS_INFO, elem_id="ps-compare-sets",
                    )  # fmt: skip
                    ui.backbone = gr.Dropdown(
                        self.host.backbones(), value=settings.backbone, label=text.BACKBONE, info=text.BACKBONE_INFO
                    )
                    ui.look = gr.Button(text.COMPARE_GO, variant="primary", elem_id="ps-compare-look")
                    ui.label = gr.Radio([], label=text.WHOSE_MAP, visible=False, elem_id="ps-compare-label")
                    ui.opacity = gr.Slider(0, 1, value=0.5, step=0.05, label=text.OPACITY)
                with gr.Column(scale=9, min_width=420):
                    ui.cards = gr.HTML(columns.empty(text.COMPARE_EMPTY), elem_id="ps-compare-cards")
            with gr.Tab(text.COMPARE_CASES, id="cases"), gr.Row(equal_height=False):
                with gr.Column(scale=3, min_width=280):
                    gr.HTML(f'<p class="ps-small">{text.COMPARE_CASES_HELP}</p>')
                    ui.none = gr.HTML(columns.empty(text.NO_TASK_YET), visible=False)
                    ui.task = gr.Dropdown(
                        [], value=None, label=text.WHICH_TASK, info=text.WHICH_TASK_INFO, elem_id="ps-compare-task"
                    )
                    ui.rivals = gr.Dropdown(
                        [], value=[], multiselect=True, max_choices=MOST, label=text.CHOOSE_RIVALS,
                        info=text.CHOOSE_RIVALS_INFO, elem_id="ps-compare-rivals",
                    )  # fmt: skip
                    ui.first = gr.HTML("", elem_id="ps-compare-first")
                    ui.model = gr.Dropdown(
                        self.host.backbones(), value=settings.backbone, label=text.BACKBONE, info=text.BACKBONE_INFO
                    )
                    with gr.Row():
                        ui.go = gr.Button(text.COMPARE_GO, variant="primary", elem_id="ps-compare-go", min_width=120)
                        ui.stop = gr.Button(text.STOP, visible=False, elem_id="ps-compare-stop", min_width=80)
                    with gr.Column(visible=False, elem_id="ps-compare-saves") as ui.saves:
                        gr.HTML(f'<h4 class="ps-label">{text.TAKE_ALONG}</h4>')
                        with gr.Row():
                            ui.csv = gr.Button(text.AS_CSV, size="sm", min_width=90, elem_id="ps-compare-csv")
                            ui.png = gr.Button(text.AS_PNG, size="sm", min_width=90, elem_id="ps-compare-png")
                            ui.html = gr.Button(text.AS_HTML, size="sm", min_width=90, elem_id="ps-compare-html")
                        ui.images = gr.Checkbox(False, label=text.WITH_IMAGES, info=text.WITH_IMAGES_INFO)
                with gr.Column(scale=9, min_width=420):
                    ui.far = gr.HTML("", elem_id="ps-compare-far")
                    ui.result = gr.HTML(columns.empty(text.CASES_EMPTY), elem_id="ps-compare-result")

    def lists(self) -> tuple[list[Any], list[Any]]:
        ui, read = self.ui, self.read.ui
        inputs = [
            read.screen,
            read.file,
            read.prompts,
            ui.seen,
            ui.proposed,
            ui.sets,
            ui.task,
            ui.rivals,
            ui.offered,
            ui.model,
        ]
        chooser = [ui.task, ui.none, ui.rivals, ui.offered, ui.first]
        return inputs, [ui.which, ui.proposed, ui.sets, ui.cards, ui.seen, *chooser]

    def arrive(
        self, request: gr.Request, screen: Screen, index: int, question: str, seen: str, proposed: list[str],
        chosen: list[str], task: str, rivals: list[str], offered: list[str], backbone: str,
    ) -> Updates:  # fmt: skip
        """The tab is opened: what is open in Read, and what can be compared, may have changed in other ones."""
        ui, workspace = self.ui, self.host.looked(request)
        known = {value for _, value in self.host.questions(request)}
        if not chosen or chosen == proposed:  # nobody has chosen: what Read asks
            chosen = proposed = self._alike(request, question)
        chosen = [each for each in chosen if each in known]
        labelled = _labelled(workspace) if workspace else {}
        name = task if task in labelled else next(iter(labelled), None)
        options = [(text.TASK_CASES.format(title=each.title, labelled=count), each.id) for each, count in labelled.values()]
        found: Updates = {
            ui.which: gr.update(choices=_images(screen.held, index)),
            ui.proposed: proposed,
            ui.sets: gr.update(choices=self._sets(request, chosen), value=chosen),
            ui.task: gr.update(choices=options, value=name, visible=bool(labelled)),
            ui.none: gr.update(visible=not labelled),
        }
        if seen and seen != _key(screen.held, index):  # another image is open now, or none
            found |= {ui.cards: columns.empty(text.COMPARE_EMPTY), ui.seen: ""}
        if workspace is None or name is None:
            return found | {ui.rivals: gr.update(choices=[], value=[]), ui.first: ""}
        is_chosen = name == task and rivals != offered  # else what has come since is proposed as well
        return found | self._chooser(workspace, labelled[name][0], backbone, rivals if is_chosen else [])

    def _alike(self, request: gr.Request, question: str) -> list[str]:
        """To begin with: four sets that answer the question that Read asks, that one first."""
        asks = {each.value: each for each in self.host.asks(request)}
        if question not in asks:
            return []
        same = [value for value, each in asks.items() if each.task == asks[question].task]
        return [question, *(value for value in same if value != question)][:4]

    def wire(self) -> None:
        ui, read = self.ui, self.read.ui
        shown = [read.screen, read.file, *self.read.view_of()]
        asked = [ui.which, ui.sets, ui.backbone, ui.label, ui.opacity, *shown]
        looked: dict[str, Any] = {"show_progress_on": [ui.cards], **HIDDEN}
        ui.look.click(self.look, asked, [ui.cards, ui.label, ui.seen], **looked)
        ui.label.input(self.look, asked, [ui.cards, ui.label, ui.seen], trigger_mode="always_last", **looked)
        ui.sets.input(self.offer_sets, [ui.sets], ui.sets, show_progress="hidden", **HIDDEN)
        fade = "(v) => { document.querySelectorAll('#ps-compare-cards .ps-map').forEach((m) => { m.style.opacity = v }); }"
        ui.opacity.input(None, [ui.opacity], None, js=fade, **HIDDEN)

        how: dict[str, Any] = {"show_progress": "hidden", **HIDDEN}
        chooser = [ui.rivals, ui.offered, ui.first]
        for control in (ui.task, ui.model):
            control.input(self.choose_task, [ui.task, ui.model], chooser, **how)
        ui.rivals.input(_trained_first, ui.rivals, ui.first, **how)
        waiting = [ui.going, ui.far, ui.timer, ui.stop, ui.turn]
        ui.go.click(
            self.begin, [ui.task, ui.model, ui.rivals], [*waiting, ui.result, ui.found, ui.saves], **how
        )  # fmt: skip
        ui.timer.tick(self.follow, ui.going, waiting, **how)
        comparing = ui.turn.change(
            self.compare, ui.going, [ui.far, ui.result, ui.found, ui.saves, ui.going, ui.stop, *chooser], **how
        )
        ui.stop.click(self.stop, ui.going, [ui.going, ui.far, ui.timer, ui.stop], cancels=[comparing], **how)
        parcels.saved_by(ui.csv, self.as_csv, [ui.found])
        parcels.saved_by(ui.png, self.as_png, [ui.found])
        parcels.saved_by(ui.html, self.as_html, [ui.found, ui.images])

    def endpoints(self) -> None:
        for method in (self.compare_image, self.comparable, self.compare_cases, self.comparison_report):
            programs.offer(method, method.__name__)


def _images(held: list[cases.Case], index: int) -> list[tuple[str, str]]:
    """(words, title of an example, "" for the image that is open in Read)."""
    own = text.NOTHING_IN_READ
    if held:
        own = text.FROM_READ.format(title=held[min(index or 0, len(held) - 1)].title)
    return [(own, ""), *((text.EXAMPLE.format(title=s.title), s.title) for s in engine.samples())]


def _key(held: list[cases.Case], index: int) -> str:
    return held[min(index or 0, len(held) - 1)].key if held else ""


def _names(sets: Sequence[engine.PromptSet], own: Sequence[bool]) -> list[str]:
    """As short as tells them apart: the method where all ask one question."""
    is_one = len({each.card["task"]["title"] for each in sets}) == 1
    names = [
        f"{_method(each) if is_one else each.title}{', yours' if is_own else ''}"
        for each, is_own in zip(sets, own, strict=True)
    ]
    often = Counter(names)
    return [each.name if often[name] > 1 else name for name, each in zip(names, sets, strict=True)]


def _different(rivals: list[engine.Candidate]) -> list[engine.Candidate]:
    """Each name once: those that come again are numbered."""
    often, seen = Counter(each.name for each in rivals), Counter[str]()
    made = []
    for each in rivals:
        seen[each.name] += 1
        made.append(replace(each, name=f"{each.name} ({seen[each.name]})") if often[each.name] > 1 else each)
    return made


def _method(prompts: engine.PromptSet) -> str:
    """With the words that attribute prompts were told to use, where these are not the usual ones."""
    name, words = prompts.card["method"]["name"], prompts.card.get("words")
    title = text.METHOD_TITLES.get(name, name)
    if not words:
        return title
    called = {value: shown for shown, value in text.WORDS_BY}
    told = [called[words["name"]]] * (words["name"] != "class")
    if words["slots"] != list(engine.SLOTS):
        told.append(", ".join(text.WORDS_KINDS[each].lower() for each in words["slots"]) or text.WORDS_NO_LOOK)
    return f"{title} ({'; '.join(told)})" if told else title


def _earlier(prompts: engine.PromptSet, task: engine.Task) -> str:
    """What to add to a set's name where the task's words have changed since it was made of them."""
    about = prompts.card.get("descriptions")
    try:
        return text.EARLIER_WORDS if about and about["sha256"] != engine.descriptions(task).sha256 else ""
    except engine.EngineError:  # nobody wrote of the task any more
        return text.EARLIER_WORDS


def _loaded(place: Any) -> engine.PromptSet | None:
    """None where it is not there or damaged: the tab Library says what is wrong with it."""
    try:
        return models.stored(place)
    except engine.PromptSetError:
        return None


def _fits(prompts: engine.PromptSet, task: engine.Task, backbone: str) -> bool:
    made_for = prompts.card["backbone"]["id"].removeprefix("onnx:")  # an exported tower has its source's weights
    return made_for == backbone.removeprefix("onnx:") and set(prompts.labels) == set(task.names)


def _trained_first(chosen: list[str]) -> str:
    count = sum(each.startswith("train:") for each in chosen or [])
    return f'<p class="ps-small">{text.FIRST_TRAINED.format(count=count)}</p>' if count else ""


def _labelled(workspace: engine.Workspace) -> dict[str, tuple[engine.Task, int]]:
    """By id, the tasks with labelled images, and how many these are."""
    counted = {name: (task, len(workspace.examples(name))) for name, task in workspace.tasks().items()}
    return {name: (task, count) for name, (task, count) in counted.items() if count}


def _file(found: Found | None, ending: str) -> str:
    return f"comparison-{found.task}.{ending}" if found else ""
