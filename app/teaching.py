"""Teach for programs: every action of the tab as an endpoint; and what the tab and programs do in the same way."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import gradio as gr

import engine
from app import cases, compute, gallery, models, programs, text
from app.gallery import Look
from app.host import Host

CHUNK = 16  # images that are looked at in one turn: other visitors' requests come in between
OFTEN_S = 0.3  # between two signs of life while files come in
BACKUP_MB = 64  # what passes through the page, and through a browser's memory


@dataclass(frozen=True)
class Guesses:
    """What a model thinks of the cases of a task. of : case id -> a probability a class; by : the sentence that says whose
    guesses they are; wrong : why there are none."""

    task: str = ""
    of: dict[int, list[float]] = field(default_factory=dict)
    by: str = ""
    wrong: str = ""


class TeachPrograms:
    """The tab's endpoints."""

    def __init__(self, host: Host):
        self.host = host

    def tasks(self, request: gr.Request | None) -> list[dict[str, Any]]:
        """The questions of this workspace, the newest first: id, title, classes, modality, organ, and how many images and
        patients each class has.

        Returns: a list of questions
        """
        workspace = self.host.looked(request)
        return [_task_row(workspace, task) for task in workspace.tasks().values()] if workspace else []

    def make_task(
        self,
        request: gr.Request | None,
        title: str,
        classes: list[str],
        modality: str = "any",
        organ: str = "any",
        sentences: dict[str, list[str]] | None = None,
    ) -> dict[str, Any]:
        """Makes a question with two or more classes, to which images can be added.

        title: what is asked, in a few words
        classes: their names, in the order in which probabilities are given
        modality: the kind of image, as "ultrasound"
        organ: as "breast"
        sentences: descriptions by class, for methods that learn from words
        Returns: the question, with its id
        """
        workspace = self.host.workspace(request)
        return _task_row(workspace, workspace.add_task(title, classes, modality, organ, sentences=sentences))

    def adopt_task(self, request: gr.Request | None, task: str) -> dict[str, Any]:
        """Brings a known question, with its written descriptions, into this workspace.

        task: its id, one of those that `about` names
        Returns: the question
        """
        workspace = self.host.workspace(request)
        return _task_row(workspace, workspace.adopt(task))

    def change_task(
        self,
        request: gr.Request | None,
        task: str,
        title: str | None = None,
        display: dict[str, str] | None = None,
        sentences: dict[str, list[str]] | None = None,
        new_classes: list[str] | None = None,
    ) -> dict[str, Any]:
        """Changes a question: what is not given stays.

        task: the question's id
        title: a new title
        display: how people read a class, by its name
        sentences: descriptions by class, in place of those that it has
        new_classes: names of classes to add
        Returns: the question as it is now
        """
        workspace = self.host.seen(request)
        return _task_row(workspace, workspace.edit_task(task, title, display, sentences, new_classes or []))

    def remove_task(self, request: gr.Request | None, task: str) -> dict[str, Any]:
        """Takes a question out of sight, with its images and trainings, until `restore_task`.

        task: the question's id
        Returns: its id
        """
        self.host.seen(request).remove_task(task)
        self.host.queue.wake()
        return {"removed": task}

    def restore_task(self, request: gr.Request | None, task: str) -> dict[str, Any]:
        """Brings a removed question back.

        task: the question's id
        Returns: the question
        """
        workspace = self.host.seen(request)
        return _task_row(workspace, workspace.restore_task(task))

    def add_images(self, request: gr.Request | None, task: str, files: list[gr.FileData]) -> dict[str, Any]:
        """Adds uploaded files to a question: images, DICOM files, zips of class folders, or a CSV (path, label, patient) with
        its images. Says what was added, what was there already, and why a file was left out.

        task: the question's id
        files: uploaded files (gradio_client: a list of handle_file(...)); addresses are refused
        Returns: ids of new images, how many were there already or came with a class, folders that are no class, and sentences on
        files that were left out
        """
        workspace = self.host.seen(request)
        workspace.task(task)
        added, gone = engine.Added(), list[str]()
        for step, gone in taken(self.host, workspace, task, cases.uploaded(files), often_s=60):  # noqa: B007 - said below
            added = step.added or added
        return {
            "cases": list(added.cases),
            "again": added.again,
            "labelled": added.labelled,
            "unknown": {name: list(ids) for name, ids in added.strays},
            "refused": [*gone, *added.refused],
            "removed": dict(added.removed),
        }

    def cases(self, request: gr.Request | None, task: str) -> list[dict[str, Any]]:
        """The images of a question: id, number, class ("" for none), patient as a pseudonym, the number of the image that it
        looks like (0 for none), kind and size.

        task: the question's id
        Returns: a list of images
        """
        workspace = self.host.seen(request)
        workspace.task(task)
        return [_case_row(case) for case in workspace.cases(task)]

    def label(self, request: gr.Request | None, task: str, cases: list[int], label: str) -> dict[str, Any]:
        """Gives images a class, as one act that `undo` takes back.

        task: the question's id
        cases: ids of the images, as `cases` gives them
        label: the class's name, or nothing to take the class away
        Returns: how many, and images and patients of each class
        """
        workspace = self.host.seen(request)
        chosen = case_ids(cases)
        workspace.label(task, chosen, label)
        return {"labelled": len(set(chosen)), "balance": workspace.balance(task)}

    def undo(self, request: gr.Request | None, task: str) -> dict[str, Any]:
        """Takes back the last act of labelling in a question.

        task: the question's id
        Returns: ids of the images that it had changed, and images and patients of each class
        """
        workspace = self.host.seen(request)
        return {"changed": list(workspace.undo(task)), "balance": workspace.balance(task)}

    def erase_cases(self, request: gr.Request | None, task: str, cases: list[int]) -> dict[str, Any]:
        """Deletes images for good: files, labels, features, results. There is no undo.

        task: the question's id
        cases: ids of the images, as `cases` gives them
        Returns: how many are gone
        """
        return {"erased": erased(self.host.seen(request), task, {"cases": cases})}

    def erase_patient(self, request: gr.Request | None, task: str, patient: str) -> dict[str, Any]:
        """Deletes everything of one patient for good, in all questions. There is no undo.

        task: the question's id
        patient: the pseudonym, as "P3"
        Returns: how many images are gone
        """
        return {"erased": erased(self.host.seen(request), task, {"patient": patient})}

    def erase_older(self, request: gr.Request | None, days: float) -> dict[str, Any]:
        """Deletes images of all questions that were brought more than so many days ago, for good. There is no undo.

        days: 0 for all
        Returns: how many images are gone
        """
        return {"erased": erased(self.host.seen(request), "", {"days": days})}

    def least_sure(
        self, request: gr.Request | None, task: str, backbone: str = "scope-mini", count: int = 10, unlabelled: bool = True
    ) -> list[dict[str, Any]]:
        """The images that the model is least sure of, which are the most worth labelling: each with its probabilities.

        task: the question's id
        backbone: the model that looks, where nothing was trained yet
        count: how many
        unlabelled: only images without a class
        Returns: a list of images, the least sure first
        """
        workspace = self.host.seen(request)
        known, found = workspace.task(task), Guesses()
        for found in guessed(self.host, workspace, known, backbone, request):  # noqa: B007 - the last one is of all
            pass
        look = Look("unsure", "none" if unlabelled else "")
        rows = look.of(workspace.cases(task), known.names, found.of)[:count]
        return [_case_row(case) | {"probabilities": dict(zip(known.names, found.of[case.id], strict=True))} for case in rows]

    def teach(
        self,
        request: gr.Request | None,
        task: str,
        method: str = "biomedcoop",
        backbone: str = "scope-mini",
        views: int = 8,
        seed: int = 1,
        options: dict[str, Any] | None = None,
    ) -> str:
        """Queues a training on the labelled images of a question and returns its id at once; ask `job` how far it is.

        task: the question's id
        method: one of those that `about` names; linear-probe is the quickest, medpromptclip needs no images
        backbone: the model that is taught
        views: of each image: the plain one and random crops
        seed: the same seed gives the same result
        options: of the method, in place of the paper's
        Returns: the training's id
        """
        workspace = self.host.seen(request)
        budget = next((name for name, methods in engine.BUDGETS.items() if method in methods), "standard")
        return submitted(self.host, workspace, task, method, backbone, budget, views, seed, options or {}).id

    def job(self, request: gr.Request | None, job: str) -> dict[str, Any]:
        """How far a training is: state (queued, running, stopping, stopped, done, failed), place in the queue, progress,
        remaining seconds, curve of [epoch, loss, held-out accuracy], and what went wrong.

        job: the training's id
        Returns: the training
        """
        workspace = self.host.seen(request)
        return self._job_row(workspace, workspace.job(job))

    def jobs(self, request: gr.Request | None, task: str = "") -> list[dict[str, Any]]:
        """The trainings of this workspace, the newest first.

        task: only of this question, where one is given
        Returns: a list of trainings
        """
        workspace = self.host.looked(request)
        return [self._job_row(workspace, job) for job in workspace.jobs(task)] if workspace else []

    def _job_row(self, workspace: engine.Workspace, job: engine.Job) -> dict[str, Any]:
        return asdict(job) | {"position": self.host.queue.position(workspace, job.id)}

    def stop_job(self, request: gr.Request | None, job: str) -> dict[str, Any]:
        """Stops a training within a second; `resume_job` goes on from its last epoch.

        job: the training's id
        Returns: the training as it is now
        """
        self.host.seen(request).stop(job)
        self.host.queue.wake()
        return self.job(request, job)

    def resume_job(self, request: gr.Request | None, job: str) -> dict[str, Any]:
        """Queues a stopped or failed training again; it goes on from its last epoch.

        job: the training's id
        Returns: the training as it is now
        """
        self.host.seen(request).resume(job)
        self.host.queue.wake()
        return self.job(request, job)

    def result(self, request: gr.Request | None, job: str) -> dict[str, Any]:
        """What a finished training was good for: the headline, metrics with intervals of the tuned set, of zero-shot and of a
        simple baseline, what to be careful about, the confusion matrix and every held-out case.

        job: the training's id
        Returns: the result
        """
        return self.host.seen(request).result(job)

    def keep(self, request: gr.Request | None, job: str, name: str = "") -> str:
        """Saves what a training left as a prompt set. `predict` takes its name without the backbone's.

        job: the training's id
        name: wanted; else question, method and backbone
        Returns: the name
        """
        return self.host.seen(request).keep(job, name)

    def back_up(self, request: gr.Request | None) -> str:
        """Everything of this workspace in one file, up to 64 MB; `python -m engine workspace restore` makes it a workspace again.
        It holds the images: keep it as safe as them.

        Returns: a zip in base64
        """
        return base64.b64encode(packed(self.host, self.host.seen(request))).decode()

    def endpoints(self) -> None:
        for method in (
            self.tasks, self.make_task, self.adopt_task, self.change_task, self.remove_task, self.restore_task,
            self.add_images, self.cases, self.label, self.undo, self.erase_cases, self.erase_patient, self.erase_older,
            self.least_sure, self.teach, self.job, self.jobs, self.stop_job, self.resume_job, self.result, self.keep,
            self.back_up,
        ):  # fmt: skip
            programs.offer(method, method.__name__)


# --- what the tab does, too ----------------------------------------------------------------------------------------------


def guessed(
    host: Host, workspace: engine.Workspace, task: engine.Task, backbone: str, request: gr.Request | None
) -> Iterator[Guesses]:
    every = workspace.cases(task.id)
    if not every:
        return
    prompts, by, asked = _guesser(host, workspace, task, backbone, request)
    of: dict[int, list[float]] = {}
    for start in range(0, len(every), CHUNK):
        part = every[start : start + CHUNK]
        examples = [engine.Example(case.path, "") for case in part]
        made = compute.features(examples, asked, workspace.features, prompts.visual_prompt)
        chances = prompts.probabilities(made)
        of |= {case.id: [float(p) for p in row] for case, row in zip(part, chances, strict=True)}
        yield Guesses(task.id, of, by)


def _guesser(
    host: Host, workspace: engine.Workspace, task: engine.Task, backbone: str, request: gr.Request | None
) -> tuple[engine.PromptSet, str, compute.Asked]:
    """The set of the newest training that knows the task's classes as they are now, else one from words alone."""
    for job in workspace.jobs(task.id):
        place = workspace.prompts / job.prompt_set if job.prompt_set else workspace.jobs_folder / job.id / "prompts"
        if job.state == "done" and (place / "card.json").is_file():
            prompts = models.stored(place)
            if prompts.labels == task.names:
                asked = host.asked(request, job.asked["backbone"], task.id)
                prompts.check(host.backbone(asked.backbone))
                return prompts, text.GUESSED_BY.format(when=gallery.when(job.ended)), asked
    host.load(backbone)
    asked = host.asked(request, backbone, task.id)
    return compute.from_words(task, asked), text.GUESSED_FROM_WORDS, asked


def submitted(
    host: Host, workspace: engine.Workspace, name: str, method: str, backbone: str, budget: str, views: int | None, seed: int | None, options: Mapping[str, Any]
) -> engine.Job:  # fmt: skip
    """Queued, after what can be known to fail has been said. views, seed : None for the usual ones. Raises EngineError."""
    host.load(backbone)
    asked = dict(options)
    asked["views"] = engine.Plan.views if views is None else views
    asked["seed"] = engine.Plan.seed if seed is None else seed
    engine.check_plan(workspace.task(name), workspace.examples(name), engine.Plan.of(method, asked))
    job = workspace.submit(name, method, backbone, budget, **asked)
    host.queue.wake()
    return job


def taken(
    host: Host, workspace: engine.Workspace, task: str, uploads: list[tuple[str, str]], often_s: float = OFTEN_S
) -> Iterator[tuple[engine.Intake, list[str]]]:
    """How far an upload is, now and then, and at last what became of it; with sentences on files that are gone. Raises
    DataError where a visit has no room for it."""
    last = 0.0
    with cases.received([path for path, _ in uploads], [name for _, name in uploads]) as (files, gone):
        host.check_room(workspace, [path for path, _ in files])
        for step in engine.take_in(workspace, task, files):
            if step.added or time.monotonic() - last > often_s:
                last = time.monotonic()
                yield step, gone


def erased(workspace: engine.Workspace, task: str, doomed: Mapping[str, Any]) -> int:
    """How many images are gone. doomed : {"cases": ids}, {"patient": "P3"}, or {"days": of all tasks, the older ones}. Raises
    DataError."""
    if "days" in doomed:
        count = engine.erase_older(workspace, float(doomed["days"]))
    elif "patient" in doomed:
        count = engine.erase_patient(workspace, task, str(doomed["patient"]))
    else:
        count = engine.erase_cases(workspace, task, case_ids(doomed.get("cases", [])))
    models.forget(workspace)
    return count


def case_ids(asked: Any) -> list[int]:
    """Of cases, as teach.js and programs name them. Raises DataError."""
    try:
        return [int(str(each)) for each in asked]
    except (TypeError, ValueError) as error:
        raise engine.DataError(text.SENT_BADLY) from error


def packed(host: Host, workspace: engine.Workspace) -> bytes:
    """A backup that passes through the page: it never lies in Gradio's cache. Raises DataError for a large one."""
    folder = engine.PrivateFolder()
    try:
        size = sum(path.stat().st_size for path in workspace.folder.glob("files/*/*"))  # so much is in the backup as it is
        if size <= BACKUP_MB * 1e6:
            made = engine.back_up(workspace, folder.path / "backup.zip")
            size = made.stat().st_size
            if size <= BACKUP_MB * 1e6:
                return made.read_bytes()
    finally:
        folder.delete()
    hint = text.BACKUP_HINT_PUBLIC if host.settings.is_public else text.BACKUP_HINT
    raise engine.DataError(text.BACKUP_LARGE.format(megabytes=-(-size // 10**6), most=BACKUP_MB), hint)


def _task_row(workspace: engine.Workspace, task: engine.Task) -> dict[str, Any]:
    balance = workspace.balance(task.id)
    return {
        "id": task.id,
        "title": task.title,
        "modality": task.modality,
        "organ": task.organ,
        "classes": [
            {"name": each.name, "display": each.display, "images": balance[each.name][0], "patients": balance[each.name][1]}
            for each in task.labels
        ],
        "unlabelled": balance[""][0],
    }


def _case_row(case: engine.Case) -> dict[str, Any]:
    return {
        "id": case.id, "number": case.number, "label": case.label, "patient": case.patient, "twin_of": case.twin_of,
        **{key: case.about[key] for key in ("modality", "rows", "columns", "frames") if key in case.about},
    }  # fmt: skip
