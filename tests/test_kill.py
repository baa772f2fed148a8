"""kill -9 of the server and of its worker at random moments of labelling and training.

PROMPTSCOPE_KILLS says how many (4; CI takes 20).

python -m pytest tests/test_kill.py
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from labelled import labelled

import engine
from engine.workspace.queue import Work, carry_out, is_alive

KILLS = int(os.environ.get("PROMPTSCOPE_KILLS", "4"))
LONGEST_S = 1.5  # from one moment to the next
# It says what it is about to label and what it has, and trains beside that.
SERVER = """
import itertools, random, sys
from pathlib import Path
import engine
workspace, queue = engine.Workspace(Path(sys.argv[1])), engine.Queue()
queue.add(workspace)
cases, names = [case.id for case in workspace.cases("btmri")], workspace.task("btmri").names
choose = random.Random(sys.argv[2])
for _ in itertools.count():
    case, name = choose.choice(cases), choose.choice(names)
    print("wants", case, name, sep="|", flush=True)
    workspace.label("btmri", [case], name)
    print("has", case, name, sep="|", flush=True)
"""


class Server:
    def __init__(self, folder: Path, seed: int):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder), str(seed)], stdout=subprocess.PIPE, text=True
        )
        self.said: list[list[str]] = []
        self.first = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.endswith("\n"):  # a line that was cut was not said
                self.said.append(line.strip().split("|"))
                self.first.set()

    def worker(self) -> int | None:
        """Its pid, where there is one."""
        children = Path(f"/proc/{self.process.pid}/task")
        for each in children.glob("*/children"):
            for pid in each.read_text().split():
                with suppress(OSError):
                    if b"engine.workspace.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return int(pid)
        return None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()


def under_way(workspace: engine.Workspace, jobs: list[str], before: list[list]) -> None:
    """Waits until a training has got further than it was."""
    start = time.monotonic()
    while [workspace.job(job).curve for job in jobs] == before:
        assert time.monotonic() - start < 200, "no training has begun"
        time.sleep(0.02)


@pytest.mark.timeout(max(600, 30 * KILLS))
def test_no_label_is_lost_and_no_training_stuck_whenever_it_is_killed(tmp_path):
    """Pairs of kills, the worker's and its server's. In every second pair one of them comes while a training is under way."""
    workspace = labelled(tmp_path, "busi", "btmri", images=2)
    jobs = [
        workspace.submit("busi", method, "scope-mini", views=2, epochs=15 * KILLS).id for method in ("biomedcoop", "coop")
    ]
    labels = {case.id: {case.label} for case in workspace.cases("btmri")}  # what each may be now
    moments, under, kept = random.Random(7), 0, 0
    for pair in range(KILLS // 2):
        before = [workspace.job(job).curve for job in jobs]
        server = Server(tmp_path / "workspace", pair)
        try:
            assert server.first.wait(200)
            if pair % 4 == 1:
                under_way(workspace, jobs, before)
            time.sleep(moments.uniform(0, LONGEST_S))
            start = time.monotonic()
            while (worker := server.worker()) is None:
                assert time.monotonic() - start < 60, "no worker was started"
                time.sleep(0.02)
            os.kill(worker, signal.SIGKILL)
            if pair % 4 == 3:
                under_way(workspace, jobs, before)
            time.sleep(moments.uniform(0, LONGEST_S))
        finally:
            server.kill()
            workspace.close()
        for what, case, name in server.said:
            labels[int(case)] = {name} if what == "has" else labels[int(case)] | {name}

        workspace = engine.Workspace(tmp_path / "workspace")
        workspace.requeue(lambda owner: is_alive(owner, 0.0))  # as the next server does
        assert all(case.label in labels[case.id] for case in workspace.cases("btmri"))
        labels = {case.id: {case.label} for case in workspace.cases("btmri")}
        assert {workspace.job(job).state for job in jobs} <= {"queued", "done"}
        under += pair % 2
        kept += any(list((workspace.jobs_folder / job).glob("learning-*")) for job in jobs)
        with closing(sqlite3.connect(tmp_path / "workspace" / "workspace.sqlite3")) as table:
            assert table.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert engine.check(workspace) == []
    assert kept >= under  # the kills did come in the middle of a training

    for job in jobs:
        if workspace.claim(job, "the last"):
            assert carry_out(Work(str(workspace.folder), "", job, "the last", "cpu", "float32"))
        assert workspace.job(job).state == "done", workspace.job(job).error
        assert workspace.result(job)["images"] == 6
    assert engine.check(workspace) == []
    workspace.close()
