"""The queue of trainings: turns, stopping, going on, and what becomes of a worker or a server that dies.

python -m pytest tests/test_queue.py
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from labelled import labelled
from sqlalchemy.exc import OperationalError

import engine
from engine.workspace import queue as module
from engine.workspace.queue import Work, carry_out, is_alive, read_ahead

TASK = "busi"
SHORT = {"views": 2, "epochs": 6}
LONG = {"views": 2, "epochs": 1000}
ENOUGH_S = 200.0
A_SECOND = 1.5  # and what a machine that runs other tests beside this one adds


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A workspace of four labelled images a class, their features made."""
    place = tmp_path_factory.mktemp("template")
    workspace = labelled(place, TASK)
    job = workspace.submit(TASK, "biomedcoop", "scope-mini", views=2, epochs=1)
    workspace.claim(job.id, "maker")
    assert carry_out(work_of(workspace, job.id, "maker")) and workspace.job(job.id).state == "done"
    workspace.close()
    return place / "workspace"


@pytest.fixture
def workspace(template, tmp_path) -> Iterator[engine.Workspace]:
    made = engine.Workspace(Path(shutil.copytree(template, tmp_path / "workspace")))
    yield made
    made.close()


@pytest.fixture
def queue() -> Iterator[engine.Queue]:
    made = engine.Queue()
    yield made
    made.close()


def work_of(workspace: engine.Workspace, job: str, owner: str) -> Work:
    return Work(str(workspace.folder), "", job, owner, "cpu", "float32")


def claimed(workspace: engine.Workspace, owner: str = "me", method: str = "biomedcoop", **options) -> engine.Job:
    job = workspace.submit(TASK, method, "scope-mini", **(options or SHORT))
    assert workspace.claim(job.id, owner)
    return job


def until(condition: Callable[[], object], seconds: float = ENOUGH_S) -> float:
    """How long it took to come true."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it did not come true"
        time.sleep(0.01)
    return time.monotonic() - start


def learned(workspace: engine.Workspace, job: str) -> tuple[list, dict]:
    """Every number of the set, and the result without its times."""
    prompts, result = engine.PromptSet.load(workspace.jobs_folder / job / "prompts"), workspace.result(job)
    tensors = prompts.head.tensors() | prompts.learned
    return [(name, tensors[name].tolist()) for name in sorted(tensors)], result | {"seconds": None}


# --- one training, in this process -----------------------------------------------------------------------------------


def test_a_training_leaves_its_result_its_set_and_its_curve(workspace):
    job = claimed(workspace)
    assert carry_out(work_of(workspace, job.id, "me"))
    done = workspace.job(job.id)
    assert (done.state, done.error) == ("done", "")
    assert (done.curve[-1][0], done.progress["stage"], done.progress["done"]) == (6, "checking", 1)
    result = workspace.result(job.id)
    cases = {case.id: case for case in workspace.cases(TASK)}
    assert [result["labels"][row["truth"]] for row in result["cases"]] == [
        cases[row["case"]].label for row in result["cases"]
    ]
    assert engine.PromptSet.load(workspace.jobs_folder / job.id / "prompts").labels == workspace.task(TASK).names


def test_tiny_chunks_give_what_one_call_gives(workspace):
    whole, parts = claimed(workspace), claimed(workspace)
    assert carry_out(work_of(workspace, whole.id, "me"))
    calls = 1
    while not carry_out(work_of(workspace, parts.id, "me"), seconds=0.0):
        assert workspace.job(parts.id).state == "running"
        calls += 1
    assert calls == 6  # an epoch at least each time, and the last one with what follows
    assert learned(workspace, parts.id) == learned(workspace, whole.id)
    assert [row[0] for row in workspace.job(parts.id).curve] == [1, 2, 3, 4, 5, 6]


def test_what_has_no_epochs_is_carried_out_whole(workspace):
    for method in ("linear-probe", "tip-adapter", "lp++"):
        job = claimed(workspace, method=method, views=1)
        assert carry_out(work_of(workspace, job.id, "me"), seconds=0.0)
        assert workspace.job(job.id).state == "done"


def test_a_training_that_is_asked_to_stop_stops_and_keeps_its_epochs(workspace):
    job = claimed(workspace, **LONG)
    threading.Timer(1.0, workspace.stop, [job.id]).start()
    assert carry_out(work_of(workspace, job.id, "me"))
    assert workspace.job(job.id).state == "stopped"
    assert list((workspace.jobs_folder / job.id).glob("learning-*"))


def test_what_a_stale_owner_writes_does_not_count(workspace):
    job = claimed(workspace, owner="dead")
    workspace.requeue(lambda owner: False)
    assert workspace.claim(job.id, "alive")
    assert carry_out(work_of(workspace, job.id, "dead"))
    assert workspace.job(job.id).state == "running" and workspace.job(job.id).progress == {}
    assert not (workspace.jobs_folder / job.id / "result.json").exists()
    assert carry_out(work_of(workspace, job.id, "alive")) and workspace.job(job.id).state == "done"


def test_a_failure_is_a_sentence_that_names_the_case_not_the_file(workspace):
    case = workspace.cases(TASK)[4]
    workspace.features.path.unlink()
    Path(case.path).unlink()
    job = claimed(workspace)
    assert carry_out(work_of(workspace, job.id, "me"))
    failed = workspace.job(job.id)
    assert failed.state == "failed"
    assert failed.error == "1 of 12 files are missing, the first is of case 5."


def test_a_fault_of_ours_is_said_and_logged_not_hidden(workspace, caplog):
    def load(*_):
        raise RuntimeError("broken")

    job = claimed(workspace)
    assert carry_out(work_of(workspace, job.id, "me"), load=load)
    assert workspace.job(job.id).error == "The training failed by a fault of PromptScope (RuntimeError). Please report it."
    assert "broken" in caplog.text


def test_an_option_that_the_method_does_not_have_fails_the_job_with_a_sentence(workspace):
    job = claimed(workspace, speed=3)
    assert carry_out(work_of(workspace, job.id, "me"))
    failed = workspace.job(job.id)
    assert failed.state == "failed" and failed.error.startswith("The method 'biomedcoop' has no option 'speed'. It has: ")


def test_a_training_whose_task_is_removed_stops(workspace):
    job = claimed(workspace)
    workspace.remove_task(TASK)
    assert carry_out(work_of(workspace, job.id, "me"))
    assert workspace.job(job.id).state == "stopped"


def test_cases_that_are_erased_while_it_learns_leave_nothing_behind(workspace, monkeypatch):
    job, case = claimed(workspace, method="tip-adapter", views=1), workspace.cases(TASK)[0]
    real = module.study

    def study(*values, **more):
        made = real(*values, **more)  # its set holds features of every case
        engine.erase_cases(workspace, TASK, [case.id])
        workspace.features.put({"late": made[0].head.keys[0]}, case.files[0])
        (workspace.jobs_folder / job.id / "result.json").write_text("{}")
        return made

    monkeypatch.setattr(module, "study", study)
    assert carry_out(work_of(workspace, job.id, "me"))
    assert workspace.job(job.id).state == "queued"
    assert not (workspace.jobs_folder / job.id).exists()
    assert workspace.features.get(["late"]) == {}


def test_images_are_read_while_somebody_still_labels(workspace):
    workspace.features.path.unlink()
    asked = iter([False, True])  # four images are read at a time
    about = (str(workspace.folder), "", TASK, "scope-mini", "cpu", "float32")
    read_ahead(*about, stop=lambda: next(asked))  # something else is asked for
    assert not all_read(workspace)
    read_ahead(*about, stop=lambda: False)
    assert all_read(workspace)
    read_ahead(str(workspace.folder / "left"), *about[1:], stop=lambda: False)
    assert not (workspace.folder / "left").exists()


def all_read(workspace: engine.Workspace) -> bool:
    """Whether a training's features are there already."""
    reads = []
    backbone = counting(module.loaded("scope-mini", "cpu", "float32"), reads)
    engine.views_of(workspace.examples(TASK), backbone, engine.Plan("coop").views, 1, store=workspace.features)
    return not reads


def counting(backbone, reads):
    class Counting:
        def __getattr__(self, name):
            return getattr(backbone, name)

        def encode_images(self, x, visual_prompt=None):
            reads.append(len(x))
            return backbone.encode_images(x, visual_prompt)

    return Counting()


def test_a_case_that_is_labelled_while_the_backbone_loads_is_in_the_next_training(workspace):
    """Which case each answer is about is of the same moment as the images."""
    odd = workspace.cases(TASK)[0]
    workspace.label(TASK, [odd.id], "")

    def load(*about):
        workspace.label(TASK, [odd.id], "normal scan")
        return module.loaded(*about)

    job = claimed(workspace, method="linear-probe", views=1)
    assert carry_out(work_of(workspace, job.id, "me"), load=load)
    learned = workspace.result(job.id)["learned"]
    assert [row["case"] for row in learned] == [case.id for case in workspace.cases(TASK)[1:]]
    assert [row["file"] for row in learned] == [case.files[0] for case in workspace.cases(TASK)[1:]]


def test_cases_that_changed_while_it_was_stopped_are_learned_anew(workspace):
    job = claimed(workspace)
    assert not carry_out(work_of(workspace, job.id, "me"), seconds=0.0)
    workspace.label(TASK, [workspace.cases(TASK)[0].id], "")
    assert carry_out(work_of(workspace, job.id, "me"))
    assert workspace.job(job.id).state == "done" and workspace.result(job.id)["images"] == 11


# --- turns, without a training ---------------------------------------------------------------------------------------


class Turns:
    """Carries out by noting; waits for `go` first."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.go = threading.Event()
        self.began = threading.Event()

    def __call__(self, work: Work) -> bool:
        self.began.set()
        self.go.wait(ENOUGH_S)
        self.done.append(work.job)
        opened = engine.Workspace(Path(work.folder))
        opened.finish(work.job, work.owner, "done")
        opened.close()
        return True


@pytest.fixture
def turns() -> Iterator[tuple[engine.Queue, Turns]]:
    carrier = Turns()
    made = engine.Queue(in_process=carrier)
    yield made, carrier
    carrier.go.set()
    made.close()


def spaces(tmp_path: Path, count: int) -> list[engine.Workspace]:
    made = [engine.Workspace(tmp_path / f"w{i}") for i in range(count)]
    for each in made:
        each.adopt(TASK)
    return made


def test_workspaces_take_turns_and_quick_trainings_go_first_within_one(turns, tmp_path):
    queue, carrier = turns
    one, two, three = spaces(tmp_path, 3)
    queue.add(one)
    first = one.submit(TASK, "coop", "scope-mini").id
    queue.wake()
    assert carrier.began.wait(ENOUGH_S)  # it runs: everything else waits
    ones = [one.submit(TASK, "coop", "scope-mini").id for _ in range(2)]
    quick = one.submit(TASK, "linear-probe", "scope-mini", budget="quick").id
    queue.add(two)
    queue.add(three)
    twos = [two.submit(TASK, "coop", "scope-mini").id for _ in range(2)]
    threes = [three.submit(TASK, "coop", "scope-mini").id]
    expected = [twos[0], threes[0], quick, twos[1], ones[0], ones[1]]
    where = {job: space for space, jobs in ((one, [*ones, quick]), (two, twos), (three, threes)) for job in jobs}
    assert [queue.position(where[job], job) for job in expected] == [1, 2, 3, 4, 5, 6]
    assert queue.position(one, first) == 0 and queue.position(two, quick) == 0
    carrier.go.set()
    until(lambda: len(carrier.done) == 7)
    assert carrier.done == [first, *expected]


def test_a_waiting_training_that_is_stopped_is_not_carried_out(turns, tmp_path):
    queue, carrier = turns
    (one,) = spaces(tmp_path, 1)
    queue.add(one)
    first, second, third = (one.submit(TASK, "coop", "scope-mini").id for _ in range(3))
    queue.wake()
    assert carrier.began.wait(ENOUGH_S)
    one.stop(second)
    carrier.go.set()
    until(lambda: third in carrier.done)
    assert carrier.done == [first, third] and one.job(second).state == "stopped"


def in_parts(tmp_path: Path, part: Callable[[Work], bool]) -> engine.Job:
    """A training of a new workspace as it ended, carried out in this process."""
    queue = engine.Queue(in_process=part)
    (one,) = spaces(tmp_path, 1)
    queue.add(one)
    job = one.submit(TASK, "coop", "scope-mini").id
    queue.wake()
    until(lambda: not one.job(job).is_active)
    queue.close()
    return one.job(job)


def test_parts_follow_each_other_until_it_is_over(tmp_path):
    parts: list[str] = []

    def part(work: Work) -> bool:
        parts.append(work.job)
        opened = engine.Workspace(Path(work.folder))
        if len(parts) < 3:
            opened.advance(work.job, work.owner, {"stage": "learning", "done": len(parts)})
            opened.close()
            return False
        opened.finish(work.job, work.owner, "done")
        opened.close()
        return True

    job = in_parts(tmp_path, part)
    assert job.state == "done"
    assert parts == [job.id] * 3


def test_what_was_running_waits_again_when_the_queue_closes_or_its_workspace_goes(tmp_path):
    (one,) = spaces(tmp_path, 1)
    for end in (lambda q: q.close(), lambda q: q.remove(one)):
        queue = engine.Queue(in_process=lambda work: time.sleep(1))  # never over
        queue.add(one)
        job = one.submit(TASK, "coop", "scope-mini").id
        queue.wake()
        until(lambda job=job: one.job(job).state == "running")
        end(queue)
        assert one.job(job).state == "queued"
        one.stop(job)
        queue.close()


def test_a_database_that_is_away_for_a_moment_does_not_end_the_queue(turns, tmp_path, monkeypatch):
    queue, carrier = turns
    (one,) = spaces(tmp_path, 1)
    carrier.go.set()
    monkeypatch.setattr(module, "IDLE_S", 0.05)
    real, failures = one.jobs, iter([OSError("away")] * 2)

    def jobs(*values, **more):
        for failure in failures:
            raise failure
        return real(*values, **more)

    monkeypatch.setattr(one, "jobs", jobs)
    queue.add(one)
    job = one.submit(TASK, "coop", "scope-mini").id
    until(lambda: job in carrier.done)


def test_what_was_claimed_when_the_database_went_away_is_not_stuck(tmp_path, monkeypatch):
    failures = iter([OSError("away")])

    def part(work: Work) -> bool:
        for failure in failures:
            raise failure
        opened = engine.Workspace(Path(work.folder))
        opened.finish(work.job, work.owner, "done")
        opened.close()
        return True

    monkeypatch.setattr(module, "IDLE_S", 0.05)
    queue = engine.Queue(in_process=part)
    (one,) = spaces(tmp_path, 1)
    queue.add(one)
    job = one.submit(TASK, "coop", "scope-mini").id
    queue.wake()
    until(lambda: one.job(job).state == "done")
    queue.close()


def test_one_workspace_whose_database_is_away_does_not_hold_up_the_others(turns, tmp_path, monkeypatch, caplog):
    queue, carrier = turns
    carrier.go.set()
    monkeypatch.setattr(module, "IDLE_S", 0.05)
    gone, other, third = spaces(tmp_path, 3)

    def away(*_, **__):
        raise engine.DataError("The workspace's database does not answer (secret).", "")

    def broken(*_, **__):
        raise OperationalError("secret", {}, OSError("secret"))

    for each in (gone, other, third):
        queue.add(each)
    monkeypatch.setattr(gone, "jobs", away)
    monkeypatch.setattr(gone, "requeue", away)
    monkeypatch.setattr(third, "jobs", broken)
    job = other.submit(TASK, "coop", "scope-mini").id
    queue.wake()
    until(lambda: job in carrier.done)
    assert queue.position(gone, job) == 0
    assert "cannot be read (DataError)" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_training_that_gets_no_further_fails_with_a_sentence(tmp_path, is_kept):
    parts: list[str] = []

    def part(work: Work) -> bool:
        parts.append(work.job)
        if len(parts) == 2:
            raise RuntimeError("out of memory")
        place = Path(work.folder) / "jobs" / work.job / "learning-x.safetensors"
        place.parent.mkdir(exist_ok=True)
        if is_kept:
            place.touch()
        return False

    job = in_parts(tmp_path, part)
    assert job.state == "failed"
    assert len(parts) == 2
    assert job.error == "The training ended unexpectedly (RuntimeError). " + (
        "Its last epoch is kept: resume it." if is_kept else "Start it again."
    )


# --- owners ----------------------------------------------------------------------------------------------------------


def test_an_owner_is_alive_while_its_process_is(tmp_path):
    queue = engine.Queue()
    assert is_alive(queue.owner, 0.0)
    host, pid, started, _ = queue.owner.rsplit(":", 3)
    assert pid == str(os.getpid())
    assert not is_alive(f"{host}:{pid}:{started}:another", 0.0)  # of this process, and closed
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = module._started(other.pid)
    assert is_alive(f"{host}:{other.pid}:{began}:x", 0.0)
    assert not is_alive(f"{host}:{other.pid}:{int(began) + 1}:x", 0.0)  # its number was given to another process
    other.kill()
    until(lambda: not is_alive(f"{host}:{other.pid}:{began}:x", 0.0))  # dead, though nobody has asked how it died
    other.communicate()
    assert is_alive("elsewhere:1:1:x", time.time() - 10) and not is_alive("elsewhere:1:1:x", time.time() - 100)
    queue.close()
    assert not is_alive(queue.owner, time.time())


# --- the worker process ----------------------------------------------------------------------------------------------


def test_stop_takes_less_than_a_second_and_going_on_gives_what_never_stopping_gives(workspace, queue):
    queue.add(workspace)
    options = {"views": 2, "epochs": 40}
    whole = workspace.submit(TASK, "biomedcoop", "scope-mini", **options).id
    queue.wake()
    until(lambda: not workspace.job(whole).is_active)
    parts = workspace.submit(TASK, "biomedcoop", "scope-mini", **options).id
    queue.wake()
    for _ in range(2):
        epoch = (workspace.job(parts).curve or [[0]])[-1][0]
        until(lambda epoch=epoch: (workspace.job(parts).curve or [[0]])[-1][0] > epoch)
        workspace.stop(parts)
        queue.wake()
        assert until(lambda: workspace.job(parts).state == "stopped") < A_SECOND
        workspace.resume(parts)
        queue.wake()
    until(lambda: not workspace.job(parts).is_active)
    assert workspace.job(parts).state == workspace.job(whole).state == "done"
    assert learned(workspace, parts) == learned(workspace, whole)
    epochs = [row[0] for row in workspace.job(parts).curve]
    assert epochs == sorted(set(epochs)) and epochs[-1] == 40


def test_a_worker_that_does_not_stop_by_itself_is_ended_and_another_takes_its_place(workspace, queue):
    queue.add(workspace)
    job = workspace.submit(TASK, "biomedcoop", "scope-mini", **LONG).id
    queue.wake()
    until(lambda: workspace.job(job).curve)
    os.kill(queue._worker.pid, signal.SIGSTOP)  # as one that hangs
    workspace.stop(job)
    queue.wake()
    assert until(lambda: workspace.job(job).state == "stopped") < A_SECOND
    after = workspace.submit(TASK, "linear-probe", "scope-mini", views=1).id
    queue.wake()
    until(lambda: workspace.job(after).state == "done")


def test_a_worker_that_dies_is_started_again_as_long_as_that_helps(workspace, queue):
    queue.add(workspace)
    job = workspace.submit(TASK, "biomedcoop", "scope-mini", views=2, epochs=30).id
    queue.wake()
    until(lambda: workspace.job(job).curve)
    os.kill(queue._worker.pid, signal.SIGKILL)
    until(lambda: not workspace.job(job).is_active)
    assert workspace.job(job).state == "done"
    hopeless = workspace.submit(TASK, "biomedcoop", "scope-mini", **LONG).id
    queue.wake()
    killed = 0
    while workspace.job(hopeless).is_active:
        worker = queue._worker
        if workspace.job(hopeless).state == "running" and worker is not None and worker.status() is None:
            os.kill(worker.pid, signal.SIGKILL)
            until(lambda worker=worker: worker.status() is not None)
            killed += 1
        time.sleep(0.01)
    assert killed == 2
    assert workspace.job(hopeless).error.startswith("The training process ended unexpectedly (status -9). ")


SERVER = """
import sys, time
from pathlib import Path
import engine
workspace, queue = engine.Workspace(Path(sys.argv[1])), engine.Queue()
queue.add(workspace)
print(queue.owner, flush=True)
while queue._worker is None: time.sleep(0.01)
print(queue._worker.pid, flush=True)
time.sleep(600)
"""


def test_a_server_that_is_killed_leaves_no_process_and_the_next_one_goes_on(workspace, queue):
    job = workspace.submit(TASK, "biomedcoop", "scope-mini", views=2, epochs=60).id
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(workspace.folder)], stdout=subprocess.PIPE, text=True)
    owner, pid = server.stdout.readline().strip(), int(server.stdout.readline())
    until(lambda: workspace.job(job).curve)
    before = workspace.job(job).curve[-1][0]
    assert is_alive(owner, 0.0)
    queue.add(workspace)  # a second server beside it takes nothing away
    assert workspace.job(job).state == "running"
    server.kill()
    assert until(lambda: not module._started(pid)) < 2.0
    server.communicate()
    queue.remove(workspace)
    queue.add(workspace)
    until(lambda: not workspace.job(job).is_active)
    assert workspace.job(job).state == "done"
    assert next(row[0] for row in workspace.job(job).curve if row[0] > before) > before


def test_the_worker_can_be_warmed_before_anybody_asks(workspace, queue):
    queue.add(workspace)
    queue.warm("scope-mini")
    pid = queue._worker.pid
    queue.warm("no-such-backbone")  # said when a training asks for it
    bad = workspace.submit(TASK, "linear-probe", "no-such-backbone").id
    good = workspace.submit(TASK, "linear-probe", "scope-mini", views=1).id
    queue.wake()
    until(lambda: workspace.job(good).state == "done")
    assert workspace.job(bad).state == "failed" and "no backbone called 'no-such-backbone'" in workspace.job(bad).error
    assert queue._worker.pid == pid
    queue.close()
    assert not module._started(pid)
