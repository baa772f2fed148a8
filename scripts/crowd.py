"""Many visitors of a public page at once: they bring images, label, classify, and some of them teach.

    python -m scripts.crowd [--visitors 20] [--teaching 2] [--seconds 60] [--think 1 3] [--address URL]

Prints one JSON object: how long a classification took (ms, from the upload to the answer), how many there were of everything, what
went wrong, and what anybody saw of anybody else. Without an address a server of its own is started on this machine. A visitor
waits a random moment (think, in seconds) between two things, as people do, and its tab holds a connection open all the time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import torch

import engine

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 6  # that a visitor brings
QUESTION = "modality-zero-shot"


class Refused(Exception):
    """An endpoint answered with an error."""


@dataclass
class Visitor:
    """A tab of somebody. number : tells this one's names and images from all others'."""

    address: str
    number: int
    is_teaching: bool
    think_s: tuple[float, float]
    took_ms: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    answers: list[dict[str, float]] = field(default_factory=list)
    task: str = ""
    ids: list[int] = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = f"visitor-{self.number}-{random.randrange(1 << 60):x}"
        self.http = httpx.Client(timeout=120)
        self.arguments = self.http.get(f"{self.address}gradio_api/info").raise_for_status().json()["named_endpoints"]
        self.classes = [f"a{self.number}", f"b{self.number}"]
        self.chance = random.Random(self.number)

    def image(self, k: int) -> bytes:
        """Nobody else's: as a PNG."""
        rng = np.random.default_rng((self.number, k))
        pixels = rng.integers(0, 50, (96, 96, 3))
        pixels[20:70, 20:70] += rng.integers(60, 200, 3)
        stream = io.BytesIO()
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    def uploaded(self, *contents: bytes) -> list[dict[str, Any]]:
        sent = [("files", (f"visitor{self.number}-{i}.png", each)) for i, each in enumerate(contents)]
        places = self.http.post(f"{self.address}gradio_api/upload", files=sent).raise_for_status().json()
        return [{"path": place, "meta": {"_type": "gradio.FileData"}} for place in places]

    def call(self, name: str, *first: Any, **named: Any) -> Any:
        """Raises Refused."""
        base, known = f"{self.address}gradio_api/call/{name}", self.arguments[f"/{name}"]["parameters"]
        values = [*first, *(named.get(each["parameter_name"], each["parameter_default"]) for each in known[len(first) :])]
        asked = self.http.post(base, json={"data": values, "session_hash": self.session}).raise_for_status()
        event = asked.json()["event_id"]
        with self.http.stream("GET", f"{base}/{event}") as lines:
            kind = ""
            for line in lines.iter_lines():
                head, _, rest = line.partition(": ")
                if head == "event":
                    kind = rest
                elif head == "data" and kind == "complete":
                    return json.loads(rest)[0]
                elif head == "data" and kind == "error":
                    raise Refused(f"{name}: {rest}")
        raise Refused(f"{name}: the connection ended")

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.took_ms.setdefault(what, []).append(1000 * (time.perf_counter() - begun))

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except (Refused, httpx.HTTPError) as error:
            self.wrong.append(f"visitor {self.number}: {type(error).__name__} {error}"[:300])

    def think(self) -> None:
        time.sleep(self.chance.uniform(*self.think_s))

    def stay(self, gate: threading.Barrier, until: list[float]) -> None:
        """The whole visit, but for the look at the end. until : [when to stop], set when all are there."""
        threading.Thread(target=self._be_there, daemon=True).start()
        with self.noted():
            with self.timed("bring images"):
                self.task = self.call("make_task", f"Question of {self.number}", self.classes)["id"]
                self.ids = self.call("add_images", self.task, self.uploaded(*map(self.image, range(IMAGES))))["cases"]
            for i, case in enumerate(self.ids):
                self._label(case, i % 2)
        gate.wait()
        with self.noted():
            while not self.wrong and time.monotonic() < until[0]:
                self.think()
                self._label(self.chance.choice(self.ids[2:]), self.chance.randrange(2))
                self.think()
                shown = self.image(IMAGES + len(self.answers))  # another one each time: none is remembered
                with self.timed("classify"):
                    (file,) = self.uploaded(shown)
                    row = self.call("predict", file, prompts=QUESTION)["results"][0]
                if row["status"] != "ok":
                    raise Refused(row["error"])
                self.answers.append(row["probabilities"])
                if self.is_teaching:
                    self._teach()
        self.done = True

    def _label(self, case: int, which: int) -> None:
        with self.timed("label"):
            self.call("label", self.task, [case], self.classes[which])
        self.labels[case] = self.classes[which]

    def _teach(self) -> None:
        """The next training, when the one before is over; a finished one is saved."""
        if self.jobs:
            job = self.call("job", self.jobs[-1])
            if job["state"] in ("queued", "running"):
                return
            if job["state"] != "done":
                raise Refused(f"a training is {job['state']}: {job['error']}")
            self.took_ms.setdefault("teach", []).append(1000 * (job["ended"] - job["created"]))
            self.sets.append(self.call("keep", self.jobs[-1], f"set-of-{self.number}-{len(self.jobs)}"))
        self.jobs.append(self.call("teach", self.task, "coop"))

    def _be_there(self) -> None:
        """The connection that a tab holds open; who closes it has left."""
        try:
            with httpx.stream("GET", f"{self.address}gradio_api/heartbeat/{self.session}", timeout=None) as beats:
                for _ in beats.iter_raw():
                    pass
        except httpx.HTTPError as error:
            if not getattr(self, "done", False):
                self.wrong.append(f"visitor {self.number}: the tab lost its connection ({error})")

    def seen(self) -> list[str]:
        """What this visitor sees that is not its own, or not as it left it: sentences."""
        found: list[str] = []
        with self.noted():
            titles = [task["title"] for task in self.call("tasks")]
            if titles != [f"Question of {self.number}"]:
                found.append(f"visitor {self.number} sees the questions {titles}")
            listed = {case["id"]: case["label"] for case in self.call("cases", self.task)}
            if listed != self.labels:
                found.append(f"visitor {self.number} left {self.labels} and sees {listed}")
            jobs = {job["id"] for job in self.call("jobs")}
            if jobs != set(self.jobs):
                found.append(f"visitor {self.number} began {self.jobs} and sees {sorted(jobs)}")
            for i, answer in enumerate(self.answers):
                expected = alone(self.image(IMAGES + i))
                if not np.allclose([answer[label] for label in expected], list(expected.values()), atol=1e-5):
                    found.append(f"visitor {self.number} was answered {answer}, which is not about its image")
            for job in self.jobs:
                if self.call("job", job)["state"] in ("queued", "running"):
                    self.call("stop_job", job)
        return found

    def can_use(self, prompts: str) -> bool:
        """Does the page answer with this prompt set?"""
        (file,) = self.uploaded(self.image(1))
        return bool(self.call("predict", file, prompts=prompts)["results"][0]["status"] == "ok")


@cache
def learned() -> tuple[engine.Backbone, engine.PromptSet]:
    backbone = engine.load_backbone("scope-mini")
    return backbone, engine.prompt_set(QUESTION, backbone)


def alone(png: bytes) -> dict[str, float]:
    """The answer about an image where nobody else asks: the library's."""
    backbone, prompts = learned()
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(png)
        file.flush()
        found = engine.predict(engine.read_image(Path(file.name)), backbone, prompts)
    return dict(zip(found.labels, map(float, found.probabilities), strict=True))


@contextmanager
def public_page(folder: Path) -> Iterator[str]:
    """`python -m app` as a public page in a process of its own; its address. Its log is folder/log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    more = {"PROMPTSCOPE_PORT": str(port), "PROMPTSCOPE_PUBLIC": "1", "PROMPTSCOPE_DEVICE": "cpu", "TMPDIR": str(folder)}
    exact = {"PROMPTSCOPE_PRECISION": "float32"}  # answers are held against the library's to 1e-5
    environment = os.environ | exact | more | {"GRADIO_TEMP_DIR": str(folder / "gradio")}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "app"], cwd=ROOT, env=environment, stdout=log, stderr=log)
        address = f"http://127.0.0.1:{port}/"
        try:
            while True:
                if server.poll() is not None:
                    raise RuntimeError((folder / "log").read_text())
                try:
                    httpx.get(address, timeout=5)
                    break
                except httpx.HTTPError:
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()
            server.wait(timeout=30)


def percentiles(times: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return {"count": len(times), "p50": round(p50), "p95": round(p95), "p99": round(p99), "max": round(max(times))}


def crowd(address: str, visitors: int, teaching: int, seconds: float, think_s: tuple[float, float]) -> dict[str, Any]:
    """Lets them in, waits until they are done, and says what became of it."""
    torch.set_num_threads(1)  # what is checked here must not stand in the server's way
    here = [Visitor(address, i, i < teaching, think_s) for i in range(visitors)]
    until = [0.0]

    def begin() -> None:
        until[0] = time.monotonic() + seconds

    gate = threading.Barrier(visitors, action=begin)
    threads = [threading.Thread(target=each.stay, args=(gate, until)) for each in here]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lasted = time.monotonic() - begun
    across = [sentence for each in here for sentence in each.seen()]
    sets = [(each, name) for each in here for name in each.sets]
    for owner, name in sets[:1]:
        across += [f"visitor {each.number} uses {name}" for each in here if each is not owner and each.can_use(name)]
        across += [] if owner.can_use(name) else [f"visitor {owner.number} cannot use its own {name}"]
    took: dict[str, list[float]] = {}
    for each in here:
        for what, times in each.took_ms.items():
            took.setdefault(what, []).extend(times)
    return {
        "visitors": visitors,
        "teaching": teaching,
        "seconds": round(lasted, 1),
        "think_s": list(think_s),
        "cores": os.cpu_count(),
        "load": [round(x, 1) for x in os.getloadavg()],
        "ms": {what: percentiles(times) for what, times in took.items()},
        "trainings": sum(len(each.jobs) for each in here),
        "sets": len(sets),
        "wrong": [sentence for each in here for sentence in each.wrong],
        "across": across,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--teaching", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--think", type=float, nargs=2, default=(1.0, 3.0))
    parser.add_argument("--address", default="")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.address:
            found = crowd(asked.address, asked.visitors, asked.teaching, asked.seconds, tuple(asked.think))
        else:
            with public_page(Path(folder)) as address:
                found = crowd(address, asked.visitors, asked.teaching, asked.seconds, tuple(asked.think))
            spent = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the server and its workers, the start included
            found["cpu_s"] = round(spent.ru_utime + spent.ru_stime, 1)
            log = (Path(folder) / "log").read_text()
            found["traceback"] = log[log.index("Traceback") :][:2000] if "Traceback" in log else ""
    print(json.dumps(found, indent=1))
    return 1 if found["wrong"] or found["across"] or found.get("traceback") else 0


if __name__ == "__main__":
    sys.exit(main())
