"""Many at once: images of several visitors in one forward, what a visitor's were encoded to, a full queue, and what the server
says of itself.

Run: python -m pytest tests/test_serving.py
"""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import PIL.Image
import pytest
from conftest import free_port
from gradio_client import Client
from phantom import write_series
from prometheus_client.parser import text_string_to_metric_families

import engine
from app import cases, compute, health, models, page, seen, text, turns
from app.host import Screen
from app.read import Shown
from app.settings import Settings, SettingsError, read_settings
from app.turns import Turns
from app.visits import Visits

QUESTION, OTHER = "modality-zero-shot", "btmri-description-ensemble"
ON = ("scope-mini", "cpu", "float32")
HTTP = httpx.Client(timeout=120, limits=httpx.Limits(max_keepalive_connections=0))  # time enough beside other work


def wait_for(what, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.005)


def in_threads(*works) -> list[threading.Thread]:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    return threads


# --- whose turn it is ---------------------------------------------------------------------------------------------------


def numbered(*values: float) -> list[engine.Input]:
    return [engine.Input(np.full((1, 1), value, np.float32), engine.Box(0, 0, 1, 1)) for value in values]


class Tower:
    """Squares numbers. seen : of each forward; it has no answer to 13."""

    def __init__(self):
        self.seen: list[list[float]] = []

    def __call__(self, inputs):
        values = [float(each.pixels[0, 0]) for each in inputs]
        self.seen.append(values)
        if 13 in values:
            raise ZeroDivisionError("thirteen")
        return np.array([[value**2] for value in values])


def asked_at_once(line: Turns, *asked: tuple[str, Tower, list[float]]) -> list:
    """What each got, or the error, where all came while something else was computed, in this order."""
    answers: list = [None] * len(asked)

    def ask(i: int, key: str, tower: Tower, values: list[float]) -> None:
        try:
            answers[i] = line.encode(key, numbered(*values), tower)[:, 0].tolist()
        except ZeroDivisionError as error:
            answers[i] = str(error)

    threads = []
    with line.alone("test"):
        for i, each in enumerate(asked):
            threads += in_threads(lambda i=i, each=each: ask(i, *each))
            wait_for(lambda i=i: line.waiting() == i + 1)
    for thread in threads:
        thread.join(10)
    return answers


def test_what_came_meanwhile_goes_in_one_forward_and_everybody_gets_his_own():
    line, tower = Turns(), Tower()
    assert asked_at_once(line, ("a", tower, [2]), ("a", tower, [3, 4]), ("a", tower, [5])) == [[4], [9, 16], [25]]
    assert tower.seen == [[2, 3, 4, 5]] and line.waiting() == 0 and line.under_way_s() == 0


def test_other_towers_do_not_mix_and_nobody_is_overtaken_by_more_than_one_forward():
    line, one, two = Turns(), Tower(), Tower()
    found = asked_at_once(line, ("a", one, [1]), ("b", two, [2]), ("a", one, [3]), ("b", two, [4]))
    assert found == [[1], [4], [9], [16]] and one.seen == [[1, 3]] and two.seen == [[2, 4]]


def test_a_forward_has_no_more_images_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(turns, "MOST", 4)
    line, tower = Turns(), Tower()
    assert asked_at_once(
        line, ("a", tower, [1]), ("a", tower, [2, 3, 4, 5]), ("a", tower, [6, 7, 8]), ("a", tower, [9])
    ) == [[1], [4, 9, 16, 25], [36, 49, 64], [81]]
    assert tower.seen == [[1, 6, 7, 8], [2, 3, 4, 5], [9]]


def test_an_image_that_fails_fails_alone():
    line, tower = Turns(), Tower()
    assert asked_at_once(line, ("a", tower, [2]), ("a", tower, [13]), ("a", tower, [3])) == [[4], "thirteen", [9]]
    assert tower.seen == [[2, 13, 3], [2], [13], [3]]
    assert line.encode("a", numbered(7), tower).tolist() == [[49]], "the line goes on"


def test_who_is_alone_waits_for_no_window_and_who_has_company_waits_for_it(monkeypatch):
    monkeypatch.setattr(turns, "WINDOW_S", 15)
    line, tower, begun = Turns(), Tower(), time.monotonic()
    with line.coming():
        line.encode("a", numbered(1), tower)
    assert time.monotonic() - begun < 5
    ready = threading.Event()

    def prepares() -> None:
        with line.coming():
            ready.set()
            time.sleep(0.3)
            line.encode("a", numbered(3), tower)

    (late,) = in_threads(prepares)
    ready.wait(5)
    assert line.encode("a", numbered(2), tower).tolist() == [[4]]
    late.join(10)
    assert tower.seen == [[1], [2, 3]] and time.monotonic() - begun < 10


def test_whoever_fails_gives_the_turn_on_and_whoever_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(turns, "WINDOW_S", 15)
    line, begun = Turns(), time.monotonic()
    with pytest.raises(KeyError), line.alone("test"):
        raise KeyError
    with pytest.raises(KeyError), line.coming():
        raise KeyError
    assert line.encode("a", numbered(2), Tower()).tolist() == [[4]] and time.monotonic() - begun < 5


def test_a_thousand_requests_of_thirty_threads_are_all_answered():
    line, tower, wrong, gate = Turns(), Tower(), [], threading.Barrier(30)

    def slow(inputs):
        time.sleep(0.001)
        return tower(inputs)

    def many(k: int) -> None:
        gate.wait()
        for i in range(34):
            value = float(k * 100 + i + 14)
            if i % 5 == 0:
                with line.alone("test"):
                    pass
            with line.coming():
                if line.encode("a", numbered(value), slow).tolist() != [[value**2]]:
                    wrong.append(value)

    for thread in in_threads(*(lambda k=k: many(k) for k in range(30))):
        thread.join(60)
    assert wrong == [] and sum(map(len, tower.seen)) == 30 * 34 and len(tower.seen) < 30 * 34
    assert max(map(len, tower.seen)) <= turns.MOST and line.waiting() == 0 and line.under_way_s() == 0


# --- one image tower for all --------------------------------------------------------------------------------------------


@pytest.fixture
def towers(monkeypatch):
    """How many images and how many texts each forward of scope-mini had."""
    backbone = models.backbone(*ON)
    counted = SimpleNamespace(images=[], texts=[], backbone=backbone)
    images, texts = backbone.encode_images, type(backbone).encode_embedded

    def encode_images(x, visual_prompt=None):
        counted.images.append(len(x))
        return images(x, visual_prompt)

    def encode_embedded(self, text, *rest, **more):
        counted.texts.append(len(text.ids))
        return texts(self, text, *rest, **more)

    monkeypatch.setattr(backbone, "encode_images", encode_images)
    monkeypatch.setattr(type(backbone), "encode_embedded", encode_embedded)
    monkeypatch.setattr(seen, "_visitors", seen.OrderedDict())
    return counted


def image(k: int) -> engine.Image:
    return engine.Image(np.random.default_rng(k).random((40, 50)).astype(np.float32))


def asked(visitor: str = "", prompts: str = QUESTION, **more: str) -> compute.Asked:
    return compute.Asked(ON[0], prompts, *ON[1:], visitor=visitor, **more)


def alone(k: int, backbone: engine.Backbone, prompts: str = QUESTION) -> np.ndarray:
    """What the library says, image by image."""
    return engine.predict(image(k), backbone, engine.prompt_set(prompts, backbone)).probabilities


def test_visitors_who_ask_at_once_share_a_forward_and_get_the_librarys_answers(towers):
    expected = [alone(k, towers.backbone) for k in range(6)]
    models.prompts(asked())
    towers.images.clear()
    found: dict[int, np.ndarray] = {}

    def visit(k: int) -> None:
        found[k] = compute.classify(image(k), asked(f"visitor-{k}")).prediction.probabilities

    with compute.turns.alone("test"):
        threads = in_threads(*(lambda k=k: visit(k) for k in range(6)))
        wait_for(lambda: compute.turns.waiting() == 6)
    for thread in threads:
        thread.join(60)
    assert towers.images == [6]
    for k in range(6):
        np.testing.assert_allclose(found[k], expected[k], atol=1e-5)  # a batch changes the order of summation


def test_one_visitors_bad_image_is_not_anothers_error(towers, monkeypatch):
    encode = towers.backbone.encode_images

    def strict(x, visual_prompt=None):
        if not bool(x.isfinite().all()):
            raise engine.BackboneError("The image holds no numbers.", "Choose another.")
        return encode(x, visual_prompt)

    monkeypatch.setattr(towers.backbone, "encode_images", strict)
    models.prompts(asked())
    good, bad = engine.prepare(image(1), towers.backbone.preprocess), engine.prepare(image(2), towers.backbone.preprocess)
    bad.pixels[0, 0, 0] = np.nan
    said: dict[str, object] = {}

    def visit(name: str, sent: engine.Input) -> None:
        try:
            said[name] = compute.score([sent], asked(name))
        except engine.BackboneError as error:
            said[name] = str(error)

    with compute.turns.alone("test"):
        threads = in_threads(lambda: visit("visitor-a", good), lambda: visit("visitor-b", bad))
        wait_for(lambda: compute.turns.waiting() == 2)
    for thread in threads:
        thread.join(60)
    assert said["visitor-b"] == "The image holds no numbers. Choose another."
    np.testing.assert_allclose(said["visitor-a"][0], alone(1, towers.backbone), atol=1e-5)


def test_another_question_about_the_same_image_costs_no_image_forward_and_is_right(towers):
    for prompts in (QUESTION, OTHER):
        found = compute.classify(image(3), asked("visitor-a", prompts)).prediction
        np.testing.assert_allclose(found.probabilities, alone(3, towers.backbone, prompts), atol=1e-6)
    assert towers.images == [1, 1, 1], "ours once, the library's twice"
    towers.images.clear()
    sets = [models.prompts(asked(prompts=each)) for each in (QUESTION, OTHER)]
    _, answers = compute.side_by_side(image(3), sets, asked("visitor-a", ""), "")
    assert towers.images == [], "Compare after Read"
    np.testing.assert_allclose(answers[1].prediction.probabilities, alone(3, towers.backbone, OTHER), atol=1e-6)


def test_frames_that_were_seen_are_not_encoded_again_and_equal_ones_once(towers):
    inputs = [engine.prepare(image(k), towers.backbone.preprocess) for k in (1, 2, 1, 3)]
    first = compute.score(inputs, asked("visitor-a"))
    assert towers.images == [3] and np.array_equal(first[0], first[2])
    again = compute.score_all([*inputs, engine.prepare(image(4), towers.backbone.preprocess)], [asked("visitor-a")])[0]
    assert towers.images == [3, 1] and np.array_equal(again[:4], first)


def test_another_visitor_finds_nothing_and_nobody_is_remembered(towers):
    for visitor, forwards in (("visitor-a", 1), ("visitor-a", 1), ("visitor-b", 2), ("", 3), ("", 4), ("visitor-a", 4)):
        compute.classify(image(5), asked(visitor))
        assert len(towers.images) == forwards, visitor
    seen.forget("visitor-a")
    compute.classify(image(5), asked("visitor-b"))
    assert len(towers.images) == 4
    compute.classify(image(5), asked("visitor-a"))
    assert len(towers.images) == 5


def test_a_visual_prompt_has_features_of_its_own(towers):
    tokens = np.random.default_rng(0).normal(0, 3, (1, 4, towers.backbone.visual_prompt_width))
    prompt = engine.VisualPrompt(tokens.astype(np.float32))
    one = engine.prepare(image(6), towers.backbone.preprocess)
    plain = compute._encoded([one], towers.backbone, asked("visitor-a"))
    for _ in range(2):
        prompted = compute._encoded([one], towers.backbone, asked("visitor-a"), prompt)
    assert len(towers.images) == 2 and np.abs(prompted - plain).max() > 1e-4  # far above rounding
    np.testing.assert_allclose(prompted, engine.embed([one], towers.backbone, prompt), atol=1e-6)


def test_texts_are_encoded_once_a_prompt_set_for_everybody_that_of_zero_shot_too(towers, monkeypatch, tmp_path):
    """A task of which the library has no sets; without what the store on disk would give."""
    monkeypatch.setenv("PROMPTSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_made", {"": {}})
    ensemble, plain = "dermamnist-description-ensemble", "dermamnist-zero-shot"
    assert compute.classify(image(7), asked("visitor-a", ensemble)).beside is not None
    classes = len(engine.task("dermamnist").names)
    assert sum(towers.texts) == classes * 33 + classes, "the descriptions, and zero-shot's sentences beside them"
    towers.texts.clear()
    (tmp_path / "kept").mkdir()
    monkeypatch.setenv("PROMPTSCOPE_CACHE", str(tmp_path / "kept"))
    for k, prompts in enumerate((ensemble, plain, ensemble)):
        compute.classify(image(8 + k), asked(f"visitor-{k}", prompts))
    assert towers.texts == []


def test_what_is_remembered_is_bounded_and_what_was_used_last_stays(monkeypatch):
    monkeypatch.setattr(seen, "_visitors", seen.OrderedDict())
    row = np.ones(256, np.float32)  # 1 KiB
    monkeypatch.setattr(seen, "EACH_BYTES", 3 << 10)
    mine = seen.of("visitor-a")
    for key in "abc":
        mine.put(key, row)
    assert mine.get("a") is not None
    mine.put("d", row)
    assert mine.get("b") is None and mine.get("a") is not None and mine.bytes == 3 << 10
    monkeypatch.setattr(seen, "ALL_BYTES", 5 << 10)
    for name in ("visitor-b", "visitor-c"):
        seen.of(name).put("a", row)
    seen.of("visitor-b").put("b", row)  # 3 + 2 + 1 KiB
    assert seen.total_bytes() == 6 << 10
    seen.of("visitor-d")
    assert seen.total_bytes() == 3 << 10 and seen.of("visitor-a") is not mine, "who was away for longest goes first"
    now = time.monotonic()
    monkeypatch.setattr(seen, "time", SimpleNamespace(monotonic=lambda: now + seen.IDLE_S + 1))
    seen.of("visitor-e")
    assert seen.total_bytes() == 0


def test_who_is_forgotten_while_he_asks_is_not_remembered_afterwards():
    mine = seen.of("visitor-late")
    seen.forget("visitor-late")
    mine.put("a", np.ones(4, np.float32))
    assert len(seen.of("visitor-late")) == 0
    seen.forget("visitor-late")


# --- whose it is --------------------------------------------------------------------------------------------------------


class Quiet:
    def add(self, workspace): ...

    def remove(self, workspace): ...


def request(session: str, **headers: str) -> SimpleNamespace:
    return SimpleNamespace(session_hash=session, headers={k.replace("_", "-"): v for k, v in headers.items()})


def remembered(visits: Visits, who) -> int:
    found = seen._visitors.get(visits.visitor(who))
    return 0 if found is None else len(found)


def test_a_visit_takes_what_was_remembered_of_it_along(monkeypatch):
    monkeypatch.setattr("app.visits.SWEEP_S", 1000)
    monkeypatch.setattr("app.visits.GRACE_S", -1)
    visits = Visits(Settings(is_public=True), Quiet())
    one, two = request("session-one"), request("session-two")
    tokens = {each.session_hash: visits.arrive("", each) for each in (one, two)}
    assert visits.visitor(one) == tokens["session-one"] != visits.visitor(two)
    for each in (one, two):
        seen.of(visits.visitor(each)).put("a", np.ones(4, np.float32))
    visits.forget(two)  # Clear
    assert (remembered(visits, one), remembered(visits, two)) == (1, 0)
    visits.leave(one)
    assert visits.count()[0] == 1
    visits.sweep()
    assert tokens["session-one"] not in seen._visitors
    seen.of(visits.visitor(two)).put("a", np.ones(4, np.float32))
    visits.close()
    assert tokens["session-two"] not in seen._visitors


def test_on_a_kept_page_a_tab_is_a_visitor_and_what_anybody_could_name_is_none(tmp_path):
    visits = Visits(Settings(workspace=tmp_path / "kept"), Quiet())
    one = request("session-one")
    visits.arrive("", one)
    seen.of(visits.visitor(one)).put("a", np.ones(4, np.float32))
    assert remembered(visits, one) == 1 and remembered(visits, request("session-two")) == 0
    assert visits.visitor(None) == visits.visitor(request("short")) == ""
    assert visits.visitor(request("session-of-all-mcp", x_gradio_user="mcp")) == ""
    assert visits.visitor(request("", x_promptscope_visit="v" * 24)) == f"x-promptscope-visit {'v' * 24}"
    visits.leave(one)
    assert remembered(visits, one) == 0 and visits.count() == (0, 0)
    visits.close()


# --- decoding beside computing ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read():
    made = page.Page(Settings(device="cpu"))
    made.build()
    yield made.read
    made.host.close()


def test_files_are_read_while_somebody_computes(read, tmp_path):
    files = [str(path) for path in write_series(tmp_path / "ct", slices=3, side=32)]
    screen = Screen()
    with compute.turns.alone("test"):
        list(read.open_files(files, screen, 1))
        assert len(screen.held) == 1 and read.image(screen, 0, 2, "", 40, 400, False, "").shape == (32, 32)
    cases.forget(screen.held)


def test_the_next_frames_of_a_volume_are_decoded_while_these_are_computed(read, tmp_path, monkeypatch):
    files = [str(path) for path in write_series(tmp_path / "ct", slices=40, side=32)]
    screen = Screen()
    list(read.open_files(files, screen, 1))
    (case,) = screen.held
    decoded, known = [], []
    ask = engine.sandbox().ask

    def counting(what, *rest, **more):
        answer = ask(what, *rest, **more)
        decoded.append(what)
        return answer

    def score(inputs, asked):
        known.append(len(inputs))
        if sum(known) < 40:
            wait_for(lambda: decoded.count("frame") > sum(known))
        return np.full((len(inputs), 2), 0.5, np.float32)

    monkeypatch.setattr(engine.sandbox(), "ask", counting)
    monkeypatch.setattr(compute, "score", score)
    assert [curve.done for curve in read._curves(case, asked(), Shown())][-1] == 40 and len(known) == 3
    cases.forget([case])


def test_the_processes_that_read_files_can_be_started_before_the_first_file():
    sandbox = engine.Sandbox(workers=2)
    sandbox.warm()
    sandbox.warm()
    workers = list(sandbox._idle)
    assert len(workers) == 2 and all(worker._process.poll() is None for worker in workers)
    sandbox.close()
    assert all(worker._process.poll() is not None for worker in workers)


# --- the server ---------------------------------------------------------------------------------------------------------


@contextmanager
def serving(folder: Path, **more):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        settings = Settings(port=free_port(), device="cpu", workspace=folder / "workspace", **more)
        app, address, _ = page.launch(settings, prevent_thread_lock=True, quiet=True)
        yield SimpleNamespace(app=app, address=address.rstrip("/"))
        app.get_blocks().close(verbose=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A page whose queue takes two; ready when nothing is being made ready any more."""
    with serving(tmp_path_factory.mktemp("served"), max_waiting=2) as server:
        wait_for(lambda: "warm" not in {thread.name for thread in threading.enumerate()}, 120)
        yield server


def png(k: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(k).integers(0, 255, (32, 32)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def begin(address: str, k: int, name: str = "predict", **more) -> httpx.Response:
    """Uploads an image and asks for it; the answer says which event it is."""
    (place,) = HTTP.post(f"{address}/gradio_api/upload", files=[("files", (f"{k}.png", png(k)))]).json()
    data = [{"path": place, "meta": {"_type": "gradio.FileData"}}, "scope-mini", QUESTION, 0, "", "", False]
    return HTTP.post(f"{address}/gradio_api/call/{name}", json={"data": data} | more)


def finish(address: str, event: str) -> tuple[str, str]:
    """How an event ended, and what was said."""
    kind = ""
    with HTTP.stream("GET", f"{address}/gradio_api/call/predict/{event}") as answer:
        for line in answer.iter_lines():
            head, _, rest = line.partition(": ")
            if head == "event":
                kind = rest
            elif head == "data" and kind in ("complete", "error"):
                return kind, rest
    raise AssertionError("the stream ended")


def numbers(address: str, **more) -> dict[str, float]:
    """Every sample of /metrics, as Prometheus understands it: "name{label=value,...}" -> its number."""
    answer = HTTP.get(f"{address}/metrics", **more)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0) - before.get(name, 0)


def test_a_full_queue_says_so_with_what_to_do_and_when_and_nothing_is_lost(served):
    before = numbers(served.address)
    with compute.turns.alone("test"):
        events = [begin(served.address, k).json()["event_id"] for k in range(4)]
        wait_for(lambda: compute.turns.waiting() == 4)  # four are under way
        client = Client(served.address, verbose=False)
        (place,) = HTTP.post(f"{served.address}/gradio_api/upload", files=[("files", ("4.png", png(4)))]).json()
        sent = {"path": place, "meta": {"_type": "gradio.FileData"}}
        jobs = [client.submit(sent, "scope-mini", QUESTION, api_name="/predict")]
        wait_for(lambda: jobs[0].status().rank == 0)  # none is before it
        events.append(begin(served.address, 5).json()["event_id"])
        meanwhile = numbers(served.address)
        assert meanwhile["promptscope_queue_length"] == 2 and meanwhile["promptscope_turns_waiting"] == 4
        refused = begin(served.address, 6)
        assert refused.status_code == 503 and refused.headers["retry-after"] == str(health.AGAIN_S)
        sentence = "The queue is full (2 wait). Try again in 10 seconds: nothing was begun, nothing is lost."
        assert refused.json() == {"detail": sentence}
        of_a_browser = HTTP.post(
            f"{served.address}/gradio_api/call/about", json={"data": []}, headers={"Sec-Fetch-Mode": "cors"}
        )
        assert (of_a_browser.status_code, of_a_browser.json()) == (429, {"detail": sentence})
        assert HTTP.get(f"{served.address}/health").status_code == 200, "busy is not broken"
    rows = [json.loads(said)[0]["results"][0] for kind, said in (finish(served.address, e) for e in events)]
    assert [row["status"] for row in rows] == ["ok"] * 5 and jobs[0].result(120)["results"][0]["status"] == "ok"
    after = numbers(served.address)
    assert grown(before, after, "promptscope_requests_refused_total") == 2
    client.close()


def test_who_waits_is_told_how_many_are_before_him(served):
    """As the page and gradio_client get it: each request that waits hears its rank."""
    client = Client(served.address, verbose=False)
    with compute.turns.alone("test"):
        events = [begin(served.address, 20 + k).json()["event_id"] for k in range(4)]
        wait_for(lambda: compute.turns.waiting() == 4)
        jobs = []
        for k in range(2):
            (place,) = HTTP.post(f"{served.address}/gradio_api/upload", files=[("files", ("x.png", png(30 + k)))]).json()
            sent = {"path": place, "meta": {"_type": "gradio.FileData"}}
            jobs.append(client.submit(sent, "scope-mini", QUESTION, api_name="/predict"))
            wait_for(lambda k=k: jobs[k].status().rank == k)
    assert all(finish(served.address, event)[0] == "complete" for event in events)
    for job in jobs:
        job.result(120)
    client.close()


def test_the_metrics_say_what_was_done(served):
    """Three right requests at once, one about a set that is not there, one endpoint that refuses; by hand."""
    HTTP.get(f"{served.address}/health")
    before = numbers(served.address)
    with compute.turns.alone("test"):
        events = [begin(served.address, 40 + k).json()["event_id"] for k in range(3)]
        wait_for(lambda: compute.turns.waiting() == 3)
    for event in events:
        kind, said = finish(served.address, event)
        assert kind == "complete" and json.loads(said)[0]["results"][0]["status"] == "ok"
    asked_for = HTTP.post(f"{served.address}/gradio_api/call/job", json={"data": ["no-such-training"]}).json()["event_id"]
    with HTTP.stream("GET", f"{served.address}/gradio_api/call/job/{asked_for}") as answer:
        assert "event: error" in answer.read().decode()
    done = "promptscope_requests_total{endpoint=predict,outcome=success}"
    wait_for(lambda: grown(before, numbers(served.address), done) == 3)
    after = numbers(served.address)
    expected = {
        "promptscope_requests_total{endpoint=job,outcome=failed}": 1,
        "promptscope_request_seconds_count{endpoint=predict}": 3,
        "promptscope_request_seconds_count{endpoint=job}": 1,
        "promptscope_waiting_seconds_count{where=queue}": 4,
        "promptscope_batch_images_count": 1,
        "promptscope_batch_images_sum": 3,
        "promptscope_batch_images_bucket{le=2.0}": 0,
        "promptscope_batch_images_bucket{le=4.0}": 1,
        "promptscope_computing_seconds_count{work=images}": 1,
        "promptscope_embeddings_total{result=miss}": 3,
        "promptscope_embeddings_total{result=hit}": 0,
    }
    assert {name: grown(before, after, name) for name in expected} == expected
    assert after["promptscope_queue_length"] == after["promptscope_turns_waiting"] == 0 and after["promptscope_up"] == 1
    assert after["promptscope_trainings{state=queued}"] == after["promptscope_trainings{state=running}"] == 0
    assert after["process_resident_memory_bytes"] > 100e6
    waited = grown(before, after, "promptscope_waiting_seconds_sum{where=turn}")
    assert 0 < waited < 60


def test_the_metrics_and_health_name_nobody_and_no_file(served):
    session = "a-session-of-somebody"
    (place,) = HTTP.post(f"{served.address}/gradio_api/upload", files=[("files", ("DOE^JANE.png", png(50)))]).json()
    data = [{"path": place, "orig_name": "DOE^JANE.png", "meta": {"_type": "gradio.FileData"}}, "scope-mini", QUESTION, 0, "", "", False]  # fmt: skip
    event = HTTP.post(f"{served.address}/gradio_api/call/predict", json={"data": data, "session_hash": session}).json()
    finish(served.address, event["event_id"])
    HTTP.post(f"{served.address}/gradio_api/call/DOE", json={"data": []})
    said = HTTP.get(f"{served.address}/metrics").text + HTTP.get(f"{served.address}/health").text
    assert "DOE" not in said and session not in said and place not in said
    labels = {line.partition("{")[2].partition("=")[0] for line in said.splitlines() if line.startswith("promptscope")}
    assert labels <= {"", "endpoint", "where", "work", "le", "result", "state"}


def test_gradio_keeps_no_record_of_requests_that_are_over(served):
    """It would keep 10,000 with their sessions' names, and summarise them after each request."""
    finish(served.address, begin(served.address, 60).json()["event_id"])
    queue = served.app.get_blocks()._queue
    wait_for(lambda: len(queue.event_analytics) == 0)


def test_health_says_what_computes_and_why_nothing_would(served, monkeypatch):
    good = HTTP.get(f"{served.address}/health")
    said = good.json()
    assert good.status_code == 200 and good.headers["cache-control"] == "no-store" and 0 < said.pop("uptime_s") < 3600
    assert said == {
        "status": "ok", "reasons": [], "version": engine.__version__, "backbone": "scope-mini", "device": "cpu",
        "precision": "float32",
    }  # fmt: skip

    def reasons() -> list[str]:
        answer = HTTP.get(f"{served.address}/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        return answer.json()["reasons"]

    with monkeypatch.context() as patch:
        patch.setattr(health, "STUCK_S", 0.1)
        with compute.turns.alone("test"):
            time.sleep(0.3)
            (said,) = reasons()
            assert re.fullmatch(r"A computation has been under way for \d+ s, and others wait for it\.", said)
    with monkeypatch.context() as patch:
        patch.setattr(models, "_ready", {})
        assert reasons() == ["The backbone scope-mini is not loaded."]
        assert HTTP.get(f"{served.address}/health").json()["device"] is None
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    host = health_of(served).host
    with monkeypatch.context() as patch:
        patch.setattr(host.queue, "_thread", ended)
        patch.setattr(host.visits, "_sweeper", ended)
        assert reasons() == [text.UNHEALTHY_TRAININGS, text.UNHEALTHY_VISITS]
    with monkeypatch.context() as patch:
        patch.setattr(served.app.get_blocks()._queue, "stopped", True)
        assert reasons() == [text.UNHEALTHY_QUEUE]
        assert begin(served.address, 70).json() == {"detail": text.STOPPING.format(seconds=10)}
    assert HTTP.get(f"{served.address}/health").status_code == 200


def health_of(server) -> health.Health:
    middleware = next(each for each in server.app.user_middleware if "vitals" in each.kwargs)
    return middleware.kwargs["vitals"]


def test_with_a_password_health_is_open_and_metrics_are_not(tmp_path):
    with serving(tmp_path, auth=("ann", "secret")) as server:
        assert HTTP.get(f"{server.address}/health").json()["status"] == "ok"
        assert HTTP.get(f"{server.address}/metrics").status_code == 401
        assert numbers(server.address, auth=("ann", "secret"))["promptscope_up"] == 1
        wrong = {"Authorization": "Basic " + base64.b64encode(b"ann:no").decode()}
        assert HTTP.get(f"{server.address}/metrics", headers=wrong).status_code == 401
        assert HTTP.post(f"{server.address}/health").status_code == 401
        assert HTTP.get(f"{server.address}/health/").status_code == 401


def test_the_room_in_the_queue_is_a_setting():
    assert read_settings({}).max_waiting == 64
    assert read_settings({"PROMPTSCOPE_MAX_WAITING": "5"}).max_waiting == 5
    with pytest.raises(SettingsError, match="PROMPTSCOPE_MAX_WAITING is '0'"):
        read_settings({"PROMPTSCOPE_MAX_WAITING": "0"})
