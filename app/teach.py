"""The Teach tab: a question, images with classes, a training, and an honest answer to whether it helped.

What teach.js writes arrives in unseen text boxes; app/teaching.py offers the same to programs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import wraps
from html import escape
from types import SimpleNamespace
from typing import Any

import gradio as gr

import engine
from app import cases, gallery, models, parcels, render, teaching, text
from app.gallery import Look
from app.host import HIDDEN, Host, Screen, Updates
from app.read import Read
from app.teaching import Guesses, TeachPrograms

POLL_S = 1.0  # between two looks at a training
STOPS_S = 1.5  # a training has stopped by then; if not, the next look says so


@dataclass(frozen=True)
class Brought:
    """Folders of the last upload that are no class yet: name -> ids of their cases. For the screen of that visit alone."""

    task: str = ""
    unknown: dict[str, list[int]] = field(default_factory=dict)


def _said(handler: Callable[..., Updates]) -> Callable[..., Updates]:
    """What is wrong is said in a sentence above the tab, and everything else stays as it is."""

    @wraps(handler)
    def saying(self: Teach, *values: Any) -> Updates:
        try:
            return {self.ui.wrong: ""} | handler(self, *values)
        except engine.EngineError as error:
            return {self.ui.wrong: render.error(str(error))}

    return saying


class Teach:
    """Handlers of the tab. read : the tab in which a saved set is used."""

    def __init__(self, host: Host, read: Read):
        self.host, self.read = host, read
        self.endpoints = TeachPrograms(host).endpoints
        self.ui = SimpleNamespace()  # the components, by name; see lay_out

    # what is on the screen

    def _whole(self, workspace: engine.Workspace | None, name: str) -> Updates:
        """Everything of a task, as it is when one comes to it. workspace : None before anything was brought."""
        ui, tasks = self.ui, workspace.tasks() if workspace else {}
        task = tasks.get(name)
        found: Updates = {
            **self._chosen(tasks, task),
            ui.new: gr.update(open=not tasks),
            ui.guesses: Guesses(),
            ui.page: 0,
            ui.sort: "came",
            ui.brought: Brought(),
            ui.case: "",
            ui.seen: "",
            ui.sure: gr.update(visible=False),
            **dict.fromkeys((ui.coming, ui.told, ui.cell), ""),
        }
        if workspace is None or task is None:
            shown = {ui.gallery: gallery.empty_grid(text.NO_TASK), ui.tools: "", ui.balance: "", ui.pages: ""}
            hidden = dict.fromkeys((ui.stop, ui.resume, ui.kept), gr.update(visible=False))
            nothing = {ui.job: "", ui.result: gallery.empty_grid(text.NO_RESULT), ui.timer: gr.update(active=False)}
            return found | shown | hidden | nothing | {ui.trainings: gr.update(choices=[], value=None, visible=False)}
        found |= {
            ui.new_title: task.title,
            ui.new_classes: "\n".join(each.display for each in task.labels),
            ui.only: gr.update(choices=_filters(task), value=""),
            **self._cases(workspace, task, Look(), Guesses()),
            **self._trainings(workspace, task),
        }
        return found

    def _chosen(self, tasks: dict[str, engine.Task], task: engine.Task | None) -> Updates:
        """Which question is chosen, of which there are; what the model thinks is asked anew."""
        ui, named = self.ui, [(each.title, each.id) for each in tasks.values()]
        return {
            ui.task: gr.update(choices=named, value=task.id if task else None, visible=bool(tasks)),
            ui.about: gallery.about(task) if task else "",
            ui.change_form: gr.update(visible=task is not None, open=False),
            ui.wanted: time.monotonic(),
        }

    def _come(self, screen: Screen, study: int, workspace: engine.Workspace | None, name: str) -> Updates:
        """As `_whole`; nothing where another question was chosen meanwhile."""
        found = self._whole(workspace, name)
        return found if screen.ask(study, found[self.ui.task]["value"] or "") else {self.ui.told: gr.skip()}

    def _cases(self, workspace: engine.Workspace, task: engine.Task, look: Look, guesses: Guesses) -> Updates:
        """The gallery, how the classes are balanced, and who can be deleted."""
        ui, every = self.ui, workspace.cases(task.id)
        known = guesses.of if guesses.task == task.id else {}
        found = look.of(every, task.names, known)
        look = Look(look.how, look.only, min(look.page, gallery.pages(len(found)) - 1))
        shown = look.shown(found)
        if shown:
            drawn = gallery.grid(task, shown, known, workspace.thumbnail)
        else:
            drawn = gallery.empty_grid(text.NO_MATCH if every else text.NO_CASES)
        people = list(dict.fromkeys(case.patient for case in every if case.patient))
        return {
            ui.gallery: drawn,
            ui.tools: gallery.tools(task) if every else "",
            ui.guessing: _guessing(guesses) if guesses.task == task.id else "",
            ui.pages: gallery.pager(look, len(found)),
            ui.page: look.page,
            ui.balance: gallery.balance(task, every),
            ui.patient: gr.update(choices=people, value=None, interactive=bool(people)),
        }

    def _trainings(self, workspace: engine.Workspace, task: engine.Task, chosen: str = "") -> Updates:
        """The newest training as it stands, and the result of a finished one: the chosen, else the newest."""
        jobs = workspace.jobs(task.id)
        done = [j for j in jobs if j.state == "done" and (workspace.jobs_folder / j.id / "result.json").is_file()]
        shown = next((job for job in done if job.id == chosen), done[0] if done else None)
        titles = [(f"{gallery.when(job.ended)}, {text.METHOD_TITLES.get(job.asked['method'], job.asked['method'])}", job.id) for job in done]  # fmt: skip
        return {
            self.ui.trainings: gr.update(choices=titles, value=shown.id if shown else None, visible=bool(done)),
            self.ui.budget: gr.update(choices=_budgets(workspace, done)),
            **self._jobs(workspace, jobs),
            **self._result(workspace, task, shown),
        }

    def _jobs(self, workspace: engine.Workspace, jobs: list[engine.Job]) -> Updates:
        """What runs and waits, and what can go on; else the newest. jobs : of the task, the newest first."""
        ui, active, ended = self.ui, _active(jobs), _stopped(jobs)
        shown = active + ([ended] if ended else []) or jobs[:1]
        return {
            ui.job: "".join(gallery.job(job, self.host.queue.position(workspace, job.id)) for job in shown),
            ui.stop: gr.update(visible=bool(active), interactive=any(job.state != "stopping" for job in active)),
            ui.resume: gr.update(visible=ended is not None),
            ui.teach: gr.update(interactive=not active),
            ui.timer: gr.update(active=bool(active)),
            ui.watched: active[0].id if active else "",
        }

    def _result(self, workspace: engine.Workspace, task: engine.Task, job: engine.Job | None) -> Updates:
        ui = self.ui
        if job is None:
            hidden = gr.update(visible=False)
            return {ui.result: gallery.empty_grid(text.NO_RESULT), ui.cell: "", ui.kept: hidden}
        found = workspace.result(job.id)
        here, hardest = {case.id: case for case in workspace.cases(task.id)}, gallery.hardest(found)
        return {
            ui.result: gallery.result(found),
            ui.cell: gallery.pictures(text.HARDEST, hardest, len(hardest), found, here, workspace.thumbnail),
            ui.seen: "",
            ui.kept: gr.update(visible=True),
            ui.set_name: gr.update(
                value=job.prompt_set or f"{task.id}-{job.asked['method']}", interactive=not job.prompt_set
            ),
            ui.saved: self._exported(workspace, job.prompt_set),
        }

    def _exported(self, workspace: engine.Workspace, name: str) -> str:
        """The link to a saved set's one file, which never lies in Gradio's cache."""
        if name not in workspace.sets():
            return ""
        prompts = models.stored(workspace.prompts / name)
        return gallery.exported(name, models.exported(prompts), holds_features=prompts.card["head"] == "cache")

    # coming to the tab, and questions

    def arrive(
        self, request: gr.Request, screen: Screen, chosen: str | None, how: str, only: str, page: int, guesses: Guesses,
        training: str | None,
    ) -> Updates:  # fmt: skip
        """The tab is opened: what is on the screen stays, as it is now. The page is loaded again: the task that trains, else
        the newest."""
        now = screen.study
        chosen = screen.task or chosen  # the list's own value may be behind
        try:
            workspace = self.host.looked(request)
            known = workspace.tasks() if workspace else {}
            if workspace is None or not known:
                return self._come(screen, now, workspace, "")
            self.host.queue.warm(self.host.settings.backbone, workspace, chosen if chosen in known else next(iter(known)))
            if chosen not in known:
                trains = [job.task for job in workspace.jobs(active=True) if job.task in known]
                found = self._come(screen, now, workspace, next(iter((*trains, *known))))
                return {part: new for part, new in found.items() if part is not self.ui.new}
            task, look = known[chosen], Look(how, only, page)
            shown = self._cases(workspace, task, look, guesses) | self._trainings(workspace, task, training or "")
            return self._chosen(known, task) | shown if screen.ask(now, task.id) else {self.ui.told: gr.skip()}
        except engine.EngineError as error:
            return {self.ui.wrong: render.error(str(error))}

    @_said
    def choose(self, request: gr.Request | None, screen: Screen, name: str) -> Updates:
        return self._come(screen, screen.change(), self.host.seen(request), name)

    @_said
    def adopt(self, request: gr.Request | None, screen: Screen, name: str) -> Updates:
        now, workspace = screen.change(), self.host.workspace(request)
        return self._come(screen, now, workspace, workspace.adopt(name or "").id)

    @_said
    def make(
        self, request: gr.Request | None, screen: Screen, title: str, classes: str, modality: str, organ: str
    ) -> Updates:
        now, workspace = screen.change(), self.host.workspace(request)
        names, sentences = _written(classes)
        made = workspace.add_task(title, names, modality or "any", organ or "any", sentences=sentences)
        return self._come(screen, now, workspace, made.id) | dict.fromkeys((self.ui.title, self.ui.classes), "")

    @_said
    def change(self, request: gr.Request | None, screen: Screen, name: str, title: str, classes: str) -> Updates:
        """Lines in their order are the classes that there are; more lines are new ones. A class without "=" keeps its
        descriptions."""
        now, workspace = screen.study, self.host.seen(request)
        task = workspace.task(name)
        shown, sentences = _written(classes)
        if len(shown) < len(task.labels):
            raise engine.DataError(text.LINES.format(lines=len(shown), classes=len(task.labels)), text.LINES_HINT)
        new = shown[len(task.labels) :]
        lines = dict(zip((*task.names, *new), shown, strict=True))
        renamed = {label.name: lines[label.name] for label in task.labels if lines[label.name] != label.display}
        described = {name: sentences[words] for name, words in lines.items() if words in sentences}
        workspace.edit_task(name, title, renamed, described, new)
        return self._come(screen, now, workspace, name) | {self.ui.told: _note(text.CHANGED)}

    @_said
    def remove(self, request: gr.Request | None, screen: Screen, name: str) -> Updates:
        now, workspace = screen.change(), self.host.seen(request)
        title = workspace.task(name).title
        workspace.remove_task(name)
        self.host.queue.wake()
        back = gr.update(value=text.RESTORE_TASK.format(title=title), visible=True)
        found = self._come(screen, now, workspace, next(iter(workspace.tasks()), ""))
        return found | {self.ui.removed: name, self.ui.restore: back}

    @_said
    def restore(self, request: gr.Request | None, screen: Screen, name: str) -> Updates:
        now, workspace = screen.change(), self.host.seen(request)
        return self._come(screen, now, workspace, workspace.restore_task(name).id) | {
            self.ui.restore: gr.update(visible=False)
        }

    # images

    def bring(self, request: gr.Request | None, chosen: str | None, sent: str) -> Iterator[Updates]:
        """Uploads become cases of the question that they were dropped on; what comes of each file is said at the end, and `look`
        draws what is there by then. sent : JSON {"task", "files": [{"path", "name"}]} of teach.js."""
        ui = self.ui
        try:
            workspace, came = self.host.seen(request), _parsed(sent)
            if not isinstance(came, dict) or not isinstance(came.get("task"), str):
                raise engine.DataError(text.SENT_BADLY)
            task = workspace.task(came["task"])
            added, gone = engine.Added(), list[str]()
            for step, gone in teaching.taken(self.host, workspace, task.id, cases.uploaded(came.get("files"))):  # noqa: B007 - said below
                added = step.added or added
                yield {ui.coming: gallery.coming(step.done, step.total)}
            said = gallery.added(added, gone)
            if task.id == chosen:
                brought = Brought(task.id, {folder: list(ids) for folder, ids in added.strays})
                yield {ui.coming: said, ui.brought: brought, ui.wrong: "", ui.wanted: time.monotonic()}
            else:
                yield {ui.coming: f"<p><b>{escape(task.title)}</b></p>{said}", ui.wrong: ""}
            self.host.queue.warm(self.host.settings.backbone, workspace, task.id)
        except engine.EngineError as error:
            yield {ui.wrong: render.error(str(error)), ui.coming: ""}

    @_said
    def add_class(
        self, request: gr.Request | None, name: str, folder: str, brought: Brought, how: str, only: str, guesses: Guesses
    ) -> Updates:
        """A folder of the upload becomes a class, and its images get it."""
        workspace, folder = self.host.seen(request), folder.strip()
        if brought.task != name or folder not in brought.unknown:
            raise engine.DataError(text.SENT_BADLY, text.NOT_UPLOADED_HINT)
        task = workspace.add_label(name, folder)
        workspace.label(name, brought.unknown[folder], task.names[-1])
        left = Brought(name, {other: ids for other, ids in brought.unknown.items() if other != folder})
        said = _note(text.GIVEN.format(images=text.images(len(brought.unknown[folder])), name=task.labels[-1].display))
        return self._cases(workspace, task, Look(how, only), guesses) | {
            self.ui.about: gallery.about(task),
            self.ui.only: gr.update(choices=_filters(task)),
            self.ui.new_classes: "\n".join(each.display for each in task.labels),
            self.ui.brought: left,
            self.ui.wanted: time.monotonic(),
            self.ui.coming: gallery.offers(list(left.unknown.items())),
            self.ui.told: said,
        }

    @_said
    def look(self, request: gr.Request | None, screen: Screen, how: str, only: str, page: int, guesses: Guesses) -> Updates:
        """The gallery in another order, of other cases, or another page of it."""
        _, name = now = screen.question
        if not name:
            return {self.ui.page: 0}
        workspace = self.host.seen(request)
        found = self._cases(workspace, workspace.task(name), Look(how, only, page), guesses)
        return found if screen.question == now else {self.ui.page: gr.skip()}

    def draw(self, request: gr.Request | None, screen: Screen, how: str, only: str, page: int, guesses: Guesses) -> Updates:
        """As `look`, after something that may have said what is wrong."""
        found = self.look(request, screen, how, only, page, guesses)
        return {part: new for part, new in found.items() if new or part is not self.ui.wrong}

    @_said
    def act(
        self, request: gr.Request | None, name: str | None, sent: str, how: str, only: str, page: int, guesses: Guesses
    ) -> Updates:
        """What was done in the gallery, already on the screen, each act in the question in which it was done. Answers with counts
        only; where the screen would be wrong (undo, an error, an earlier answer that never came) with the gallery. name : the
        question that is on the screen; sent : JSON {"number", "acts": [{"task", "cases", "label"} or {"task", "undo"}], "lost"} of
        teach.js."""
        workspace, asked = self.host.seen(request), _parsed(sent)
        if not (isinstance(asked, dict) and isinstance(asked.get("number"), int) and isinstance(asked.get("acts"), list)):
            raise engine.DataError(text.SENT_BADLY)
        is_lost = bool(asked.get("lost"))
        ui, said, wrong, is_here, anew = self.ui, "", "", is_lost, is_lost
        try:
            for each in asked["acts"]:
                is_here |= isinstance(each, dict) and each.get("task") == name
                said, is_undone = _done(workspace, each)
                anew |= is_undone
        except engine.EngineError as error:
            wrong, anew = render.error(str(error)), True
        words = f"{text.LOST} {said}" if is_lost else said
        found: Updates = {ui.told: gallery.confirmed(asked["number"], words), ui.wrong: wrong}
        task = workspace.tasks().get(name or "")
        if task is None or not is_here:
            return found
        if anew:
            return self._cases(workspace, task, Look(how, only, page), guesses) | found
        return found | {ui.balance: gallery.balance(task, workspace.cases(task.id))}

    def guess(self, request: gr.Request | None, screen: Screen, backbone: str, watched: str) -> Iterator[Updates]:
        """What the model thinks of every case: the newest training's set, else plain words. Not while a training needs the
        cores. `look` draws it, in the order that is chosen by then."""
        ui = self.ui
        _, name = now = screen.question
        if not name or watched:
            yield {ui.guessing: ""}
            return
        try:
            workspace = self.host.seen(request)
            total = len(workspace.cases(name))
            for found in teaching.guessed(self.host, workspace, workspace.task(name), backbone, request):
                if screen.question != now:
                    yield {ui.guessing: gr.skip()}
                    return
                progress = text.GUESSING.format(done=len(found.of), total=total)
                yield {ui.guessing: f'<p class="ps-small" role="status">{progress}</p>', ui.guesses: found}
        except engine.EngineError as error:
            yield {ui.guesses: Guesses(name, wrong=str(error))}

    @_said
    def open(self, request: gr.Request | None, name: str, asked: str, guesses: Guesses) -> Updates:
        """One case, large, beside where it was clicked. asked : its id, or nothing to close it, then "result" where it was there."""
        place = self.ui.seen if asked.rstrip().endswith("result") else self.ui.case
        case = asked.replace("result", "").strip()
        if not case:
            return {place: ""}
        workspace = self.host.seen(request)
        task = workspace.task(name)
        found = _case(workspace, name, case)
        chances = guesses.of.get(found.id) if guesses.task == name and place is self.ui.case else None
        return {place: gallery.large(task, found, workspace.image(found), chances, guesses.by)}

    # deleting and keeping

    @_said
    def ask_erase(self, request: gr.Request | None, name: str, sent: str) -> Updates:
        """Deleting the chosen cases waits for a second button."""
        ids = _parsed(sent)
        if not isinstance(ids, list) or not ids:
            raise engine.DataError(text.NONE_TO_ERASE, text.NONE_TO_ERASE_HINT)
        said = text.ERASE_CASES_SURE.format(images=text.images(len(ids))) + self._learned(self.host.seen(request), name)
        return {self.ui.sure: gr.update(visible=True), self.ui.sure_of: _question(said), self.ui.doomed: {"cases": ids}}

    def _learned(self, workspace: engine.Workspace, name: str) -> str:
        """What deleting does not reach."""
        sets = engine.learned_from(workspace, name)
        return f" {text.LEARNED_FROM.format(names=', '.join(sets))}" if sets else ""

    @_said
    def ask_erase_patient(self, request: gr.Request | None, name: str, patient: str | None) -> Updates:
        if not patient:
            raise engine.DataError(text.NO_PATIENT, text.NO_PATIENT_HINT)
        workspace = self.host.seen(request)
        count = sum(case.patient == patient for case in workspace.cases(name))
        said = text.ERASE_PATIENT_SURE.format(patient=patient, images=text.images(count)) + self._learned(workspace, name)
        doomed = {"patient": patient}
        return {self.ui.sure: gr.update(visible=True), self.ui.sure_of: _question(said), self.ui.doomed: doomed}

    @_said
    def ask_erase_older(self, request: gr.Request | None, days: float | None) -> Updates:
        if days is None:
            raise engine.DataError(text.NO_DAYS, text.NO_DAYS_HINT)
        workspace = self.host.seen(request)
        count = engine.count_older(workspace, days)
        if not count:
            raise engine.DataError(text.NONE_OLDER.format(days=days))
        said = text.ERASE_OLDER_SURE.format(images=text.images(count), days=days)
        return {self.ui.sure: gr.update(visible=True), self.ui.sure_of: _question(said), self.ui.doomed: {"days": days}}

    @_said
    def erase(
        self, request: gr.Request | None, name: str, doomed: dict[str, Any], how: str, only: str, page: int, guesses: Guesses
    ) -> Updates:
        workspace = self.host.seen(request)
        count = teaching.erased(workspace, name, doomed)
        task = workspace.task(name)
        found = self._cases(workspace, task, Look(how, only, page), guesses) | self._trainings(workspace, task)
        gone = {self.ui.sure: gr.update(visible=False), self.ui.doomed: {}, self.ui.case: ""}
        return found | gone | {self.ui.told: _note(text.ERASED.format(images=text.images(count)))}

    def _kept(self) -> str:
        """How long things are kept, in a sentence."""
        if self.host.settings.is_public:
            return text.KEEPING_VISIT.format(minutes=self.host.settings.idle_minutes)
        days = engine.keep_cases_days()
        return text.KEEPING_INFO if days is None else text.KEEPING_DAYS.format(days=days)

    def back_up(self, request: gr.Request | None) -> tuple[str, str]:
        """(parcel, what is wrong)."""
        try:
            made = teaching.packed(self.host, self.host.seen(request))
            return parcels.pack("promptscope-backup.zip", made, "application/zip"), ""
        except engine.EngineError as error:
            return "", render.error(str(error))

    # teaching

    def options_of(self, method: str, name: str | None) -> Updates:
        """The method's options as the paper has them, to change."""
        return {
            self.ui.options: "\n".join(f"{k} = {v}" for k, v in asdict(engine.method(method, name or "").config).items())
        }

    def choose_budget(self, budget: str, name: str | None) -> Updates:
        methods = [(text.METHOD_TITLES[each], each) for each in engine.BUDGETS[budget]]
        chosen = engine.BUDGETS[budget][0]
        return {self.ui.method: gr.update(choices=methods, value=chosen), **self.options_of(chosen, name)}

    @_said
    def begin(
        self, request: gr.Request | None, name: str | None, budget: str, backbone: str, method: str, options: str, views: int | None, seed: int | None
    ) -> Updates:  # fmt: skip
        workspace = self.host.seen(request)
        if not name:
            raise engine.DataError(text.BRING_FIRST)
        changed = read_options(method, name, options)
        teaching.submitted(self.host, workspace, name, method, backbone, budget, views, seed, changed)
        return self._jobs(workspace, workspace.jobs(name))

    @_said
    def poll(self, request: gr.Request | None, screen: Screen, watched: str) -> Updates:
        """How far the training is; when it is done, its result."""
        _, name = now = screen.question
        if not name:
            return {self.ui.timer: gr.update(active=False)}
        found = self._polled(self.host.seen(request), name, watched)
        return found if screen.question == now else {self.ui.timer: gr.skip()}

    def _polled(self, workspace: engine.Workspace, name: str, watched: str) -> Updates:
        jobs = workspace.jobs(name)
        if any(job.id == watched and job.state == "done" for job in jobs):
            found = self._trainings(workspace, workspace.task(name), watched)
            return found | {self.ui.views: gr.Tabs(selected="result"), self.ui.wanted: time.monotonic()}
        return self._jobs(workspace, jobs)

    @_said
    def stop(self, request: gr.Request | None, name: str) -> Updates:
        """The one that runs, else the next."""
        workspace = self.host.seen(request)
        for job in [job for job in _active(workspace.jobs(name)) if job.state != "stopping"][:1]:
            workspace.stop(job.id)
            self.host.queue.wake()
            until = time.monotonic() + STOPS_S
            while workspace.job(job.id).state == "stopping" and time.monotonic() < until:
                time.sleep(0.05)
        return self._jobs(workspace, workspace.jobs(name))

    @_said
    def resume(self, request: gr.Request | None, name: str) -> Updates:
        workspace = self.host.seen(request)
        job = _stopped(workspace.jobs(name))
        if job:
            workspace.resume(job.id)
            self.host.queue.wake()
        return self._jobs(workspace, workspace.jobs(name))

    # results

    @_said
    def choose_training(self, request: gr.Request | None, name: str, job: str | None) -> Updates:
        workspace = self.host.seen(request)
        return self._result(workspace, workspace.task(name), workspace.job(job) if job else None)

    @_said
    def show_cell(self, request: gr.Request | None, name: str, job: str, sent: str) -> Updates:
        """The images of one number of the confusion matrix. sent : "truth,answer", indices."""
        workspace = self.host.seen(request)
        found = workspace.result(job)
        indices = [int(each) for each in sent.split(",") if each.strip().isdigit()]
        if len(indices) != 2 or max(indices) >= len(found["display"]):
            raise engine.DataError(text.SENT_BADLY)
        truth, answer = indices
        title = text.IN_CELL.format(truth=found["display"][truth], answer=found["display"][answer])
        here = {case.id: case for case in workspace.cases(name)}
        rows, count = gallery.in_cell(found, truth, answer), found["confusion"][truth][answer]
        return {self.ui.cell: gallery.pictures(title, rows, count, found, here, workspace.thumbnail), self.ui.seen: ""}

    @_said
    def save(self, request: gr.Request | None, job: str | None, wanted: str) -> Updates:
        workspace = self.host.seen(request)
        name = workspace.keep(job or "", wanted)
        return {self.ui.set_name: gr.update(value=name, interactive=False), self.ui.saved: self._exported(workspace, name)}

    @_said
    def use(self, request: gr.Request | None, job: str | None, wanted: str) -> Updates:
        """Saves, and makes it the question of Read; teach.js turns to that tab."""
        workspace = self.host.seen(request)
        found = self.save(request, job, wanted)
        if found[self.ui.wrong]:
            return found
        backbone = workspace.job(job or "").asked["backbone"]
        question = workspace.keep(job or "").removesuffix(f"-{backbone}")
        chosen = gr.update(choices=self.host.questions(request), value=question)
        return found | {self.read.ui.prompts: chosen, self.read.ui.backbone: backbone}

    # layout and wiring

    def lists(self) -> tuple[list[Any], list[Any]]:
        ui = self.ui
        return [ui.screen, ui.task, ui.sort, ui.only, ui.page, ui.guesses, ui.trainings], self.everything

    def lay_out(self) -> None:
        ui, settings = self.ui, self.host.settings
        ui.guesses, ui.brought, ui.page = gr.State(Guesses()), gr.State(Brought()), gr.State(0)
        ui.screen = gr.State(Screen())
        ui.wanted = gr.State(0.0)  # changes when the model should look at the cases again
        ui.watched, ui.removed, ui.doomed = gr.State(""), gr.State(""), gr.State({})
        ui.timer = gr.Timer(POLL_S, active=False)
        ui.wrong = gr.HTML("", elem_id="ps-teach-wrong")
        with gr.Row(equal_height=False, elem_id="ps-teach"):
            with gr.Column(scale=4, min_width=300, elem_id="ps-steps"):
                gr.HTML(gallery.step(0))
                ui.task = gr.Dropdown([], label=text.TASK, visible=False, elem_id="ps-task")
                ui.about = gr.HTML("", elem_id="ps-about-task")
                with gr.Accordion(text.NEW_TASK, open=False, elem_id="ps-new-task") as ui.new:
                    known = [(task.title, task.id) for task in engine.tasks().values()]
                    ui.known = gr.Dropdown(known, label=text.KNOWN, info=text.KNOWN_INFO, elem_id="ps-known")
                    ui.adopt = gr.Button(text.ADOPT, size="sm", elem_id="ps-adopt")
                    gr.HTML(f'<p class="ps-small ps-or">{text.OR_OWN}</p>')
                    ui.title = gr.Textbox(label=text.TASK_TITLE, placeholder=text.TASK_TITLE_HINT, elem_id="ps-title")
                    ui.classes = gr.Textbox(
                        label=text.TASK_CLASSES, info=text.TASK_CLASSES_INFO, placeholder=text.TASK_CLASSES_HINT, lines=3, elem_id="ps-new-classes"
                    )  # fmt: skip
                    with gr.Row():
                        ui.modality = gr.Dropdown(
                            list(text.MODALITIES), value="any", label=text.MODALITY, allow_custom_value=True, min_width=120
                        )
                        ui.organ = gr.Textbox("any", label=text.ORGAN, min_width=100)
                    ui.make = gr.Button(text.MAKE, variant="primary", size="sm", elem_id="ps-make")
                with gr.Accordion(text.CHANGE_TASK, open=False, visible=False, elem_id="ps-change-task") as ui.change_form:
                    ui.new_title = gr.Textbox(label=text.TASK_TITLE)
                    ui.new_classes = gr.Textbox(label=text.TASK_CLASSES, info=text.CHANGE_INFO, lines=3)
                    with gr.Row():
                        ui.change = gr.Button(text.CHANGE, size="sm", min_width=100, elem_id="ps-change")
                        ui.remove = gr.Button(text.REMOVE_TASK, size="sm", min_width=100, elem_id="ps-remove")
                ui.restore = gr.Button("", size="sm", visible=False, elem_id="ps-restore")
                gr.HTML(gallery.step(1))
                gr.HTML(gallery.drop_zone(settings.upload_mb), elem_id="ps-bring")
                ui.coming = gr.HTML("", elem_id="ps-coming")
                ui.balance = gr.HTML("", elem_id="ps-balance")
                gr.HTML(gallery.step(2))
                ui.budget = gr.Radio(_budgets(None, []), value="standard", label=text.BUDGET, elem_id="ps-budget")
                with gr.Accordion(text.ADVANCED, open=False, elem_id="ps-advanced"):
                    methods = engine.BUDGETS["standard"]
                    ui.method = gr.Dropdown(
                        [(text.METHOD_TITLES[each], each) for each in methods], value=methods[0], label=text.METHOD, elem_id="ps-method"
                    )  # fmt: skip
                    ui.backbone = gr.Dropdown(self.host.backbones(), value=settings.backbone, label=text.BACKBONE)
                    with gr.Row():
                        ui.views_of = gr.Number(8, label=text.VIEWS, info=text.VIEWS_INFO, precision=0, minimum=1, maximum=64, min_width=120)  # fmt: skip
                        ui.seed = gr.Number(1, label=text.SEED, info=text.SEED_INFO, precision=0, min_width=120)
                    options = asdict(engine.method(methods[0]).config)
                    ui.options = gr.Textbox(
                        "\n".join(f"{k} = {v}" for k, v in options.items()), label=text.OPTIONS, info=text.OPTIONS_INFO, lines=4, max_lines=12, elem_id="ps-options"
                    )  # fmt: skip
                ui.teach = gr.Button(text.TEACH, variant="primary", elem_id="ps-teach-now")
                ui.job = gr.HTML("", elem_id="ps-job")
                with gr.Row():
                    ui.stop = gr.Button(text.STOP, size="sm", visible=False, min_width=80, elem_id="ps-stop-job")
                    ui.resume = gr.Button(
                        text.RESUME, size="sm", visible=False, variant="primary", min_width=80, elem_id="ps-resume"
                    )
            with gr.Column(scale=9, min_width=420), gr.Tabs(elem_id="ps-views") as ui.views:
                with gr.Tab(text.IMAGES_TAB, id="images"):
                    with gr.Group(visible=False, elem_id="ps-sure") as ui.sure:
                        ui.sure_of = gr.HTML("")
                        with gr.Row():
                            ui.erase = gr.Button(
                                text.ERASE_YES, size="sm", variant="stop", min_width=100, elem_id="ps-erase-yes"
                            )
                            ui.spare = gr.Button(text.ERASE_NO, size="sm", min_width=100, elem_id="ps-erase-no")
                    with gr.Row(elem_id="ps-order"):
                        ui.sort = gr.Dropdown(
                            list(text.SORTS), value="came", label=text.SORT, min_width=130, elem_id="ps-sort"
                        )
                        ui.only = gr.Dropdown(
                            [(text.FILTER_ALL, "")], value="", label=text.FILTER, min_width=130, elem_id="ps-only"
                        )
                        ui.told = gr.HTML("", elem_id="ps-told")
                    ui.tools = gr.HTML("", elem_id="ps-tools")
                    with gr.Row(equal_height=False, elem_id="ps-wall"):
                        ui.gallery = gr.HTML(gallery.empty_grid(text.NO_TASK), elem_id="ps-gallery")
                        ui.case = gr.HTML("", elem_id="ps-case")
                    ui.guessing = gr.HTML("", elem_id="ps-guessing")
                    ui.pages = gr.HTML("", elem_id="ps-pages")
                    with gr.Accordion(text.KEEPING, open=False, elem_id="ps-keeping"):
                        gr.HTML(f'<p class="ps-small">{self._kept()}</p>')
                        with gr.Row(equal_height=True):
                            ui.patient = gr.Dropdown([], label=text.PATIENT, min_width=90, elem_id="ps-patient")
                            ui.erase_patient = gr.Button(
                                text.ERASE_PATIENT, size="sm", min_width=100, elem_id="ps-erase-patient"
                            )
                        if not settings.is_public:
                            with gr.Row(equal_height=True):
                                ui.older = gr.Number(
                                    90, label=text.OLDER, precision=0, minimum=0, min_width=90, elem_id="ps-older"
                                )
                                ui.erase_older = gr.Button(
                                    text.ERASE_OLDER, size="sm", min_width=100, elem_id="ps-erase-older"
                                )
                        ui.back_up = gr.Button(text.BACK_UP, size="sm", elem_id="ps-back-up")
                        gr.HTML(f'<p class="ps-small">{text.BACKUP_INFO}</p>')
                with gr.Tab(text.RESULT_TAB, id="result"):
                    ui.trainings = gr.Dropdown([], label=text.TRAININGS, visible=False, elem_id="ps-trainings")
                    ui.result = gr.HTML(gallery.empty_grid(text.NO_RESULT), elem_id="ps-outcome")
                    with gr.Group(visible=False, elem_id="ps-kept") as ui.kept:
                        with gr.Row():
                            ui.set_name = gr.Textbox(
                                label=text.SET_NAME, info=text.SET_NAME_INFO, min_width=160, elem_id="ps-set-name"
                            )
                            ui.save = gr.Button(text.SAVE, size="sm", min_width=80, elem_id="ps-save")
                            ui.use = gr.Button(text.USE, size="sm", variant="primary", min_width=100, elem_id="ps-use")
                        ui.saved = gr.HTML("", elem_id="ps-saved")
                    with gr.Row(equal_height=False, elem_id="ps-shown"):
                        ui.cell = gr.HTML("", elem_id="ps-cell")
                        ui.seen = gr.HTML("", elem_id="ps-seen")
        # where teach.js says what was done
        with gr.Row(elem_classes="ps-unseen"):
            for name in ("files", "acts", "opened", "asked_cell", "stray", "to_erase", "turned"):
                setattr(ui, name, gr.Textbox("", label=name, elem_id=f"ps-{name.replace('_', '-')}"))
        unseen = {"screen", "files", "opened", "acts", "asked_cell", "stray", "to_erase", "turned"}
        self.everything = [part for name, part in vars(ui).items() if name not in unseen]

    def wire(self) -> None:
        ui, every = self.ui, self.everything
        quiet: dict[str, Any] = {"show_progress": "hidden", **HIDDEN}
        shown = [ui.sort, ui.only, ui.page, ui.guesses]
        for event, handler, inputs in (
            (ui.adopt.click, self.adopt, [ui.screen, ui.known]),
            (ui.make.click, self.make, [ui.screen, ui.title, ui.classes, ui.modality, ui.organ]),
            (ui.change.click, self.change, [ui.screen, ui.task, ui.new_title, ui.new_classes]),
            (ui.remove.click, self.remove, [ui.screen, ui.task]),
            (ui.restore.click, self.restore, [ui.screen, ui.removed]),
        ):
            event(handler, inputs, every, **quiet)
        ui.task.input(self.choose, [ui.screen, ui.task], every, trigger_mode="always_last", **quiet)
        # beside what people may just be choosing and typing; of what comes in one after the other nothing may be passed over
        drawn = [ui.gallery, ui.tools, ui.guessing, ui.pages, ui.page, ui.balance, ui.patient, ui.wrong]
        draw: Any = {"fn": self.draw, "inputs": [ui.screen, *shown], "outputs": drawn, "trigger_mode": "always_last", **quiet}  # fmt: skip
        came = [ui.task, ui.files]
        ui.files.change(self.bring, came, every, trigger_mode="multiple", concurrency_limit=4, **quiet).then(**draw)
        folder = [ui.task, ui.stray, ui.brought, ui.sort, ui.only, ui.guesses]
        ui.stray.change(self.add_class, folder, every, trigger_mode="multiple", concurrency_limit=1, **quiet)
        looked = [ui.screen, ui.backbone, ui.watched]
        ui.wanted.change(self.guess, looked, [ui.guessing, ui.guesses], **quiet).then(**draw)
        ui.backbone.input(time.monotonic, None, ui.wanted, **quiet)
        first = [ui.screen, ui.sort, ui.only, gr.State(0), ui.guesses]
        for control in (ui.sort, ui.only):
            control.input(self.look, first, every, trigger_mode="always_last", **quiet)
        ui.turned.change(
            lambda page: int(page) if page.strip().isdigit() else 0, ui.turned, ui.page, queue=False, **quiet
        ).then(**draw)
        # at once, beside what computes: labels do not wait
        ui.acts.change(self.act, [ui.task, ui.acts, *shown], every, trigger_mode="multiple", queue=False, **quiet)
        ui.opened.change(
            self.open, [ui.task, ui.opened, ui.guesses], [ui.case, ui.seen, ui.wrong], trigger_mode="always_last", **quiet
        )
        ui.to_erase.change(self.ask_erase, [ui.task, ui.to_erase], every, **quiet)
        ui.erase_patient.click(self.ask_erase_patient, [ui.task, ui.patient], every, **quiet)
        if not self.host.settings.is_public:
            ui.erase_older.click(self.ask_erase_older, ui.older, every, **quiet)
        ui.erase.click(self.erase, [ui.task, ui.doomed, *shown], every, **quiet)
        ui.spare.click(lambda: (gr.update(visible=False), {}), None, [ui.sure, ui.doomed], **quiet)
        parcels.saved_by(ui.back_up, self.back_up, [], [ui.wrong])

        ui.budget.input(self.choose_budget, [ui.budget, ui.task], [ui.method, ui.options], **quiet)
        ui.method.input(self.options_of, [ui.method, ui.task], [ui.options], **quiet)
        plan = [ui.task, ui.budget, ui.backbone, ui.method, ui.options, ui.views_of, ui.seed]
        ui.teach.click(self.begin, plan, every, trigger_mode="once", **quiet)
        ui.timer.tick(self.poll, [ui.screen, ui.watched], every, trigger_mode="once", **quiet)
        ui.stop.click(self.stop, ui.task, every, **quiet)
        ui.resume.click(self.resume, ui.task, every, **quiet)

        ui.trainings.input(self.choose_training, [ui.task, ui.trainings], every, **quiet)
        ui.asked_cell.change(self.show_cell, [ui.task, ui.trainings, ui.asked_cell], [ui.cell, ui.seen, ui.wrong], **quiet)
        ui.save.click(self.save, [ui.trainings, ui.set_name], every, **quiet)
        question = [self.read.ui.prompts, self.read.ui.backbone]
        used = ui.use.click(self.use, [ui.trainings, ui.set_name], [*every, *question], **quiet)
        turn = "() => document.querySelector('#ps-tabs button[role=tab]').click()"
        used.success(None, None, None, js=turn, **HIDDEN).then(
            self.read.look_anew, self.read.asks, self.read.answers, **quiet
        )


# --- what people and teach.js write --------------------------------------------------------------------------------------


def _budgets(workspace: engine.Workspace | None, done: list[engine.Job]) -> list[tuple[str, str]]:
    """(title with what it does and how long it took the last time, value). done : finished trainings, the newest first."""
    made = []
    for name, (title, words) in text.BUDGETS.items():
        last = next((job for job in done if job.asked["budget"] == name), None)
        took = ""
        if workspace is not None and last is not None:
            took = f" ({text.LAST_TIME.format(time=gallery.lasting(sum(workspace.result(last.id)['seconds'].values())))})"
        made.append((f"{title}: {words}{took}", name))
    return made


def _written(lines: str) -> tuple[list[str], dict[str, list[str]]]:
    """(names, sentences by name) of classes that were written one a line, as "name = One sentence. Another."."""
    names, sentences = [], {}
    for line in lines.splitlines():
        name, _, words = line.partition("=")
        if name.strip():
            names.append(name.strip())
            said = [each.strip() for each in words.replace(". ", ".\n").split("\n") if each.strip()]
            if said:
                sentences[name.strip()] = said
    return names, sentences


def _filters(task: engine.Task) -> list[tuple[str, str]]:
    classes = [(each.display, f"={each.name}") for each in task.labels]
    return [(text.FILTER_ALL, ""), (text.FILTER_NONE, "none"), *classes, (text.FILTER_TWINS, "twins")]


def read_options(method: str, task: str, lines: str) -> dict[str, Any]:
    """Options that differ from the paper's, of lines "name = value". Raises DataError."""
    config = engine.method(method, task).config
    known = {each.name: getattr(config, each.name) for each in fields(config)}
    changed: dict[str, Any] = {}
    for line in filter(None, map(str.strip, lines.splitlines())):
        name, sign, written = (part.strip() for part in line.partition("="))
        if not sign:
            raise engine.DataError(text.OPTION_LINE.format(line=line[:60]), text.OPTION_LINE_HINT)
        if name not in known:
            title = text.METHOD_TITLES.get(method, method)
            hint = text.OPTION_UNKNOWN_HINT.format(names=", ".join(known))
            raise engine.DataError(text.OPTION_UNKNOWN.format(method=title, name=name[:60]), hint)
        kind = type(known[name])
        try:
            value = {"true": True, "false": False}[written.lower()] if kind is bool else kind(written)
        except (KeyError, ValueError) as error:
            said = text.OPTION_VALUE.format(name=name, value=written[:60])
            raise engine.DataError(said, text.OPTION_VALUE_HINT.format(example=known[name])) from error
        if value != known[name]:
            changed[name] = value
    return changed


def _parsed(sent: str) -> Any:
    """Raises DataError."""
    try:
        return json.loads(sent)
    except ValueError as error:
        raise engine.DataError(text.SENT_BADLY) from error


def _case(workspace: engine.Workspace, task: str, asked: Any) -> engine.Case:
    """A case of this task by its id. Raises DataError, also for another task's or another workspace's."""
    found = next((case for case in workspace.cases(task) if str(case.id) == str(asked)), None)
    if found is None:
        raise engine.DataError("This image is not in this question.", "Look at the gallery again.")
    return found


def _done(workspace: engine.Workspace, act: Any) -> tuple[str, bool]:
    """(what was done, whether it took something back), by one act of teach.js. Raises DataError."""
    try:
        task = workspace.task(str(act["task"]))
        if act.get("undo"):
            changed = set(workspace.undo(task.id))
            numbers = [case.number for case in workspace.cases(task.id) if case.id in changed]
            return text.UNDONE.format(images=text.numbered(numbers)) if numbers else text.NOTHING_TO_UNDO, True
        chosen, label = teaching.case_ids(act["cases"]), str(act["label"])
    except (KeyError, TypeError, AttributeError) as error:
        raise engine.DataError(text.SENT_BADLY) from error
    workspace.label(task.id, chosen, label)
    name = gallery.display(task, label) or text.NO_LABEL
    return text.GIVEN.format(images=text.images(len(chosen)), name=name), False


def _active(jobs: Sequence[engine.Job]) -> list[engine.Job]:
    """What runs, then what waits, in the order of the queue."""
    return sorted((job for job in jobs if job.is_active), key=lambda job: (job.state == "queued", job.created))


def _stopped(jobs: Sequence[engine.Job]) -> engine.Job | None:
    """The newest that can go on, unless another one was finished since."""

    def ended(job: engine.Job) -> float:
        return job.ended or job.started or job.created

    done = max((ended(job) for job in jobs if job.state == "done"), default=0.0)
    return next((job for job in jobs if job.state in ("stopped", "failed") and ended(job) > done), None)


def _guessing(guesses: Guesses) -> str:
    """Whose guesses stand below the images, or why none do."""
    if guesses.wrong:
        return render.error(guesses.wrong)
    return f'<p class="ps-small">{escape(text.GUESSES.format(by=guesses.by))}</p>' if guesses.of else ""


def _note(words: str) -> str:
    return f'<p class="ps-told" role="status">{escape(words)}</p>'


def _question(words: str) -> str:
    return f'<p class="ps-sure" role="alert">{escape(words)}</p>'
