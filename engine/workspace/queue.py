"""Trainings take turns: one queue over all workspaces, one worker process that is kept warm.

Workspaces take turns, the one that was served longest ago first; within one, quick trainings come before others, then the
oldest. The queue owns what it runs: a job in the database names its owner, and what another one writes of it does not count.
An owner is alive while its process is (on this machine), or while its beat is young (on another).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from engine.backbones import load_backbone
from engine.backbones.base import Backbone
from engine.errors import EngineError, Stopped
from engine.features import views_of
from engine.study import Plan, Stage, study
from engine.types import Example
from engine.workspace.space import Workspace
from engine.workspace.values import DONE, FAILED, QUEUED, RUNNING, STOPPED, STOPPING, Case, Job

ROOT = Path(__file__).resolve().parent.parent.parent
EVERY_S = 0.4  # between what a training writes about itself: it costs a transaction
PATIENCE_S = 0.5  # for a training to end by itself when it is asked to
LOOK_S = 0.1  # between looks at whether it is asked to
IDLE_S = 5.0  # until the queue looks by itself for what another process has submitted
BEAT_S = 10.0
SILENCE_S = 60.0  # after which an owner on another machine counts as gone
BACKBONES_KEPT = 2  # of several hundred megabytes each
AWAY = (EngineError, SQLAlchemyError)  # what a workspace says whose database does not answer: the others go on

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """One training to carry out, as it can be sent to another process. url : of the database, "" for SQLite in the folder;
    owner : who claimed it: what another owner writes does not count."""

    folder: str
    url: str
    job: str
    owner: str
    device: str
    precision: str


# --- one training ----------------------------------------------------------------------------------------------------

loaded = lru_cache(maxsize=BACKBONES_KEPT)(load_backbone)
Load = Callable[[str, str, str], Backbone]


def carry_out(work: Work, seconds: float | None = None, load: Load = loaded) -> bool:
    """Trains in this process: at most so many seconds (and one epoch at least), after which the checkpoint holds everything.
    True when it is over (done, stopped, failed or no longer this owner's), False when there is more to do.

    load : gives the backbone of a name, device and precision
    """
    workspace = Workspace(Path(work.folder), work.url)
    try:
        return _Training(workspace, work, seconds).run(load)
    finally:
        workspace.close()


class _Training:
    def __init__(self, workspace: Workspace, work: Work, seconds: float | None):
        self.workspace, self.work, self.seconds = workspace, work, seconds
        self.begun = self.lap = time.monotonic()
        self.written = self.looked = 0.0
        self.job = workspace.job(work.job)
        self.curve = list(self.job.curve)
        self.progress: dict[str, Any] = dict(self.job.progress)
        self.spent: dict[str, float] = dict(self.progress.get("spent", {}))  # seconds of each stage, earlier parts included
        self.state = RUNNING

    def run(self, load: Load) -> bool:
        job = self.job
        cases: list[Case] = []
        try:
            self.write()
            if self.is_over():
                raise Stopped("The training was stopped before it began.")
            task = self.workspace.task(job.task)
            cases = [case for case in self.workspace.cases(job.task) if case.label]
            backbone = load(job.asked["backbone"], self.work.device, self.work.precision)
            study(
                backbone,
                task,
                [case.example for case in cases],
                Plan.of(job.asked["method"], job.asked["options"]),
                self.workspace.jobs_folder / job.id,
                self.workspace.features,
                tell=self.tell,
                stop=self.is_over,
                pause=self.is_time,
                ids=[case.id for case in cases],
                spent=self.spent,
            )
            state, error = DONE, ""
        except Stopped:
            self.write()
            if self.state == RUNNING:
                return False
            state, error = STOPPED, ""
        except EngineError as failure:
            state, error = FAILED, str(failure)
            for case in cases:  # its file is named by a digest, which tells nobody anything
                error = error.replace(repr(Path(case.path).name), f"of case {case.number}")
        except Exception as fault:
            log.exception("a training failed")
            state, error = (
                FAILED,
                f"The training failed by a fault of PromptScope ({type(fault).__name__}). Please report it.",
            )
        if not self.workspace.finish(job.id, self.work.owner, state, error) and _forget(self.workspace, cases):
            shutil.rmtree(self.workspace.jobs_folder / job.id, ignore_errors=True)  # its next owner begins anew
        return True

    def tell(self, stage: Stage) -> None:
        now = time.monotonic()
        self.spent[stage.stage] = self.spent.get(stage.stage, 0.0) + now - self.lap
        self.lap = now
        self.progress = asdict(stage) | {"spent": {name: round(value, 3) for name, value in self.spent.items()}}
        if stage.loss is not None:
            self.curve = [row for row in self.curve if row[0] < stage.done] + [[stage.done, stage.loss, stage.accuracy]]
        if now - self.written > EVERY_S or stage.done == stage.of:
            self.write()

    def write(self) -> None:
        self.state = self.workspace.advance(self.job.id, self.work.owner, self.progress, self.curve)
        self.written = time.monotonic()

    def is_over(self) -> bool:
        """Somebody asked for its end, or another owner has it."""
        now = time.monotonic()
        if now - self.written > EVERY_S:
            self.write()
        elif self.state == RUNNING and now - self.looked > LOOK_S:
            self.looked, self.state = now, self.workspace.job(self.job.id).state
        return self.state != RUNNING

    def is_time(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.begun > self.seconds


def _forget(workspace: Workspace, cases: Sequence[Case]) -> int:
    """Deletes features that were made of cases while these were erased; returns of how many files."""
    gone = {digest for case in cases for digest in case.files if not workspace.place(digest).is_file()}
    if gone:
        workspace.features.erase(gone)
    return len(gone)


def read_ahead(
    folder: str, url: str, task: str, backbone: str, device: str, precision: str, stop: Callable[[], bool]
) -> None:
    """Makes the features that a training of this task will ask for, until `stop`: somebody still labels, and need not wait then.
    What cannot be read is said by the training."""
    if not Path(folder).is_dir():
        return  # the visitor has left

    def progress(done: int, of: int) -> None:
        if stop():
            raise Stopped("Something else is asked for.")

    workspace = Workspace(Path(folder), url)
    cases: list[Case] = []
    try:
        cases = workspace.cases(task)
        examples = [Example(case.path, "") for case in cases]
        views_of(examples, loaded(backbone, device, precision), Plan.views, Plan.seed, progress, None, workspace.features)
    except EngineError:
        return
    finally:
        _forget(workspace, cases)
        workspace.close()


# --- the worker process ----------------------------------------------------------------------------------------------


class _Worker:
    """The process that trains (engine.workspace.worker). It ends when this one does."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PROMPTSCOPE_AUTH"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
        # threads that wait sleep, where they would take the cores from whoever uses the page meanwhile
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.workspace.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> int | None:
        """None while it lives."""
        return self._process.poll()

    def send(self, asked: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        except (BrokenPipeError, ValueError):
            return  # it has ended, as `status` says

    def answered(self, seconds: float) -> bool:
        """Whether it says within so many seconds that a training is over."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return bool(ready) and bool(self._process.stdout.readline())

    def end(self) -> int:
        self._process.kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        return status


# --- the queue -------------------------------------------------------------------------------------------------------

_open: set[str] = set()  # owners in this process


def _started(pid: int) -> str:
    """When a process of this machine started, in ticks since boot; "" where there is none, or only what is left of it."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]


def is_alive(owner: str, beat: float) -> bool:
    """Whether an owner still runs what it has claimed. beat : when it last said so, seconds since 1970."""
    host, pid, started, _ = owner.rsplit(":", 3)
    if host != socket.gethostname()[:40]:
        return time.time() - beat < SILENCE_S
    if int(pid) == os.getpid():
        return owner in _open
    return bool(started) and _started(int(pid)) == started


class _Space:
    def __init__(self, workspace: Workspace):
        self.workspace, self.served = workspace, 0


class Queue:
    """in_process : what carries a part of a training out in this process (a ZeroGPU Space), or None for a worker process."""

    def __init__(self, device: str = "cpu", precision: str = "float32", in_process: Callable[[Work], bool] | None = None):
        self.device, self.precision, self.in_process = device, precision, in_process
        host, pid = socket.gethostname()[:40], os.getpid()
        self.owner = f"{host}:{pid}:{_started(pid)}:{secrets.token_hex(4)}"
        _open.add(self.owner)
        self._spaces: dict[Path, _Space] = {}
        self._lock = threading.Lock()  # of _spaces and _worker
        self._idle = threading.Condition(self._lock)  # that _busy has changed
        self._busy: Workspace | None = None
        self._worker: _Worker | None = None
        self._ahead: Workspace | None = None  # whose images the worker may be reading
        self._turns = 0
        self._awake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, workspace: Workspace) -> None:
        """Its trainings are carried out from now on; those that a killed server left go on from their last epoch."""
        self._recover(workspace)
        with self._lock:
            self._spaces[workspace.folder] = _Space(workspace)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._serve, daemon=True, name="trainings")
                self._thread.start()
        self.wake()

    def remove(self, workspace: Workspace) -> None:
        """Ends what runs in it, which then waits again; when this returns, the folder may be deleted."""
        with self._lock:
            self._spaces.pop(workspace.folder, None)
            self._idle.wait_for(lambda: self._busy is not workspace, timeout=10)
            if self._ahead is workspace:
                self._ahead = None
                if self._worker is not None and self._busy is None:  # it may be reading there
                    self._worker.end()

    def wake(self) -> None:
        """Something was submitted, stopped or resumed."""
        self._awake.set()

    def warm(self, backbone: str = "", workspace: Workspace | None = None, task: str = "") -> None:
        """Starts the worker, and has it load a backbone and read a task's images while nothing else is to do, so that the next
        training need not wait for that."""
        if self.in_process is not None or self._closed:
            return
        worker = self._ready()
        about = {"backbone": backbone, "device": self.device, "precision": self.precision}
        if backbone and workspace is None:
            worker.send({"load": about})
        elif backbone and workspace is not None:
            with self._lock:
                if workspace.folder not in self._spaces:
                    return
                self._ahead = workspace
                worker.send(
                    {"read": about | {"folder": str(workspace.folder.resolve()), "url": workspace.url, "task": task}}
                )

    def is_served(self) -> bool:
        """False where nobody carries trainings out any more."""
        return not self._closed and (self._thread is None or self._thread.is_alive())

    def count(self) -> tuple[int, int]:
        """(trainings that wait, trainings that run here)."""
        with self._lock:
            running = int(self._busy is not None)
        return len(self._order()), running

    def position(self, workspace: Workspace, job: str) -> int:
        """1 for the next one; 0 when it is not waiting."""
        waiting = [(space.workspace.folder, each.id) for space, each in self._order()]
        return waiting.index((workspace.folder, job)) + 1 if (workspace.folder, job) in waiting else 0

    def close(self) -> None:
        """Ends the worker; what it was doing waits again and goes on at the next start."""
        self._closed = True
        self.wake()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._drop()
        _open.discard(self.owner)

    # the dispatcher's own

    def _serve(self) -> None:
        looked, lost = time.monotonic(), False
        while not self._closed:
            try:
                if lost or time.monotonic() - looked > SILENCE_S:  # a server on another machine may have ended
                    spaces = [space for space in self._listed() if lost or space.workspace.url]
                    looked, lost = time.monotonic(), False
                    for space in spaces:
                        try:
                            self._recover(space.workspace, also=self.owner)
                        except AWAY as error:
                            log.warning("the trainings of a workspace cannot be recovered (%s)", type(error).__name__)
                            lost = True
                chosen = self._next()
                if chosen is not None:
                    self._carry(*chosen)
                    continue
            except Exception:  # a database that is away for a moment must not end the queue
                log.exception("the queue of trainings")
                self._rest()
                self._drop()  # nobody attends to it any more
                lost = True
            self._awake.wait(IDLE_S)
            self._awake.clear()

    def _listed(self) -> list[_Space]:
        with self._lock:
            return list(self._spaces.values())

    def _recover(self, workspace: Workspace, also: str = "") -> None:
        """What nobody carries out waits again. also : an owner that is known to carry nothing out."""
        beats = workspace.beats()
        workspace.requeue(lambda owner: owner != also and is_alive(owner, beats.get(owner, 0.0)))

    def _order(self) -> list[tuple[_Space, Job]]:
        """Everything that waits, in the order in which it will be served."""
        spaces = sorted(self._listed(), key=lambda space: space.served)

        def waiting(space: _Space) -> list[tuple[_Space, Job]]:
            try:
                jobs = [job for job in space.workspace.jobs(active=True) if job.state == QUEUED]
            except AWAY as error:
                log.warning("the trainings of a workspace cannot be read (%s)", type(error).__name__)
                return []
            jobs.sort(key=lambda job: (job.asked["budget"] != "quick", job.created))
            return [(space, job) for job in jobs]

        turns = zip_longest(*map(waiting, spaces))
        return [each for turn in turns for each in turn if each is not None]

    def _next(self) -> tuple[Workspace, Job] | None:
        for space, job in self._order():
            with self._lock:
                if self._spaces.get(space.workspace.folder) is not space:
                    continue
                self._busy = space.workspace
            if space.workspace.claim(job.id, self.owner):
                self._turns += 1
                space.served = self._turns
                return space.workspace, job
            self._rest()
        return None

    def _rest(self) -> None:
        with self._lock:
            self._busy = None
            self._idle.notify_all()

    def _is_wanted(self, workspace: Workspace) -> bool:
        with self._lock:
            space = self._spaces.get(workspace.folder)
            return not self._closed and space is not None and space.workspace is workspace

    def _carry(self, workspace: Workspace, job: Job) -> None:
        """Until the job is over, or is not wanted any more. What ends early is begun again as long as it gets further by that."""
        work = Work(str(workspace.folder.resolve()), workspace.url, job.id, self.owner, self.device, self.precision)
        reached: Any = None
        try:
            while self._is_wanted(workspace):
                why = self._part(workspace, work)
                if not why or not self._is_wanted(workspace):
                    break
                job = workspace.job(work.job)
                place = [job.progress.get("stage"), job.progress.get("done")]
                if job.state == STOPPING:
                    workspace.finish(work.job, self.owner, STOPPED)
                    break
                if place == reached:
                    is_kept = any((workspace.jobs_folder / work.job).glob("learning-*"))
                    hint = "Its last epoch is kept: resume it." if is_kept else "Start it again."
                    workspace.finish(work.job, self.owner, FAILED, f"{why} {hint}")
                    break
                reached = place
            # only where it has not ended: the queue was closed, or this removed
            workspace.finish(job.id, self.owner, QUEUED)
        finally:
            self._rest()

    def _part(self, workspace: Workspace, work: Work) -> str:
        """ "" when the job is over, else why it is not: a sentence."""
        if self.in_process is None:
            worker = self._ready()
            worker.send(asdict(work))
            if self._attend(worker, workspace, work):
                return ""
            return f"The training process ended unexpectedly (status {worker.end()})."
        try:
            return "" if self.in_process(work) else "The training gets no further."
        except Exception as fault:
            log.exception("a part of a training failed")
            return f"The training ended unexpectedly ({type(fault).__name__})."

    def _attend(self, worker: _Worker, workspace: Workspace, work: Work) -> bool:
        """True when the worker says that the job is over, False when the worker has to go or has gone."""
        asked, beat = None, time.monotonic()  # when the end was asked for; when this queue last said that it is alive
        while not worker.answered(LOOK_S):
            if worker.status() is not None or not self._is_wanted(workspace):
                return False
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                workspace.advance(work.job, self.owner)
            if workspace.job(work.job).state == STOPPING:
                asked = asked or time.monotonic()
                if time.monotonic() - asked > PATIENCE_S:
                    return False
        return True

    def _drop(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def _ready(self) -> _Worker:
        with self._lock:
            if self._worker is None or self._worker.status() is not None:
                self._worker = _Worker()
            return self._worker
