"""Whose workspace a request means: one for everybody, or one a visitor that goes with him.

Run: python -m pytest tests/test_visits.py
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import free_port
from gradio_client import Client
from gradio_client.exceptions import AppError

import engine
from app import models, page, visits
from app.settings import Settings, SettingsError, read_settings
from app.visits import Visits

ROOT = Path(__file__).resolve().parent.parent


class Quiet:
    """A queue that trains nothing, and tells whose trainings it was to carry out."""

    def __init__(self):
        self.spaces: list[engine.Workspace] = []

    def add(self, workspace):
        self.spaces.append(workspace)

    def remove(self, workspace):
        self.spaces.remove(workspace)


def request(session: str = "", **headers: str) -> SimpleNamespace:
    """session : padded to the length of one that Gradio's page makes."""
    name = session and session.ljust(11, ".")
    return SimpleNamespace(session_hash=name, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.fixture
def clock(monkeypatch):
    """What the visits take for the time, in seconds; a test moves it."""
    now = [10_000.0]
    monkeypatch.setattr(visits, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(visits, "SWEEP_S", 1000)  # the tests sweep
    return now


@pytest.fixture
def public(clock):
    made = Visits(Settings(is_public=True, idle_minutes=30, max_visits=3), Quiet())
    yield made
    made.close()


def test_on_a_kept_page_everybody_has_the_same_workspace_and_no_token(tmp_path):
    kept = Visits(Settings(workspace=tmp_path / "kept"), Quiet())
    assert kept.arrive("", request("a")) == ""
    spaces = {id(kept.workspace(each)) for each in (None, request("a"), request("b"), request())}
    assert len(spaces) == 1 and kept.found(None).folder == tmp_path / "kept"
    kept.leave(request("a"))
    kept.close()
    assert (tmp_path / "kept").is_dir(), "what is kept was deleted"


def test_two_visitors_have_nothing_in_common(public):
    tokens = [public.arrive("", request(name)) for name in "ab"]
    mine, theirs = (public.workspace(request(name)) for name in "ab")
    mine.add_task("Mine", ["yes", "no"])
    assert theirs.tasks() == {} and len(mine.tasks()) == 1
    assert mine.folder != theirs.folder and tokens[0] != tokens[1]
    assert all(len(token) >= 32 for token in tokens)
    assert os.stat(mine.folder.parent).st_mode & 0o077 == 0


def test_nothing_is_made_for_who_only_looks(public):
    public.arrive("", request("a"))
    assert public.found(request("a")) is None and public.queue.spaces == []
    made = public.workspace(request("a"))
    assert public.found(request("a")) is made and public.queue.spaces == [made]


def test_a_reloaded_tab_finds_its_own_by_the_token(public, clock):
    token = public.arrive("", request("before"))
    mine = public.workspace(request("before"))
    public.leave(request("before"))
    clock[0] += visits.GRACE_S - 1
    public.sweep()
    assert public.arrive(token, request("after")) == token
    assert public.workspace(request("after")) is mine
    clock[0] += 600
    public.sweep()
    assert public.workspace(request("after")) is mine and mine.folder.is_dir()


def test_what_a_tab_did_before_it_showed_its_token_does_not_hide_its_own(public):
    """Bug: what it had left behind had no tab, which ended every later deletion."""
    token = public.arrive("", request("before"))
    mine = public.workspace(request("before"))
    other = public.workspace(request("after"))  # a click that came before the page had loaded
    public.arrive(token, request("after"))
    assert public.workspace(request("after")) is mine is not other
    public.arrive(token, request("second tab"))
    assert public.workspace(request("second tab")) is mine
    public.sweep()
    assert mine.folder.is_dir() and not other.folder.exists() and public.queue.spaces == [mine]


def test_a_guessed_token_opens_nothing(public):
    token = public.arrive("", request("a"))
    mine = public.workspace(request("a"))
    for guess in (token[:-1], token + "x", token.swapcase(), "", None, "a" * 32, f"{visits.HEADER} {token}"):
        given = public.arrive(guess, request(f"guess {guess}"))
        assert given not in (guess, token) and public.found(request(f"guess {guess}")) is None
    assert public.workspace(request("a")) is mine


def test_a_visit_is_deleted_a_minute_after_its_last_tab_has_closed(public, clock):
    token = public.arrive("", request("one"))
    mine = public.workspace(request("one"))
    public.arrive(token, request("two"))
    public.leave(request("one"))
    clock[0] += visits.GRACE_S + 1
    public.sweep()
    assert mine.folder.is_dir(), "a second tab is open"
    public.leave(request("two"))
    clock[0] += visits.GRACE_S + 1
    public.sweep()
    assert not mine.folder.exists() and public.queue.spaces == []
    assert public.arrive(token, request("three")) != token


def test_a_connection_that_was_cut_for_a_moment_loses_nothing(public, clock):
    """Bug: the tab was forgotten when its connection broke, and what it asked next was answered from another workspace."""
    mine = public.workspace(request("a"))
    public.leave(request("a"))
    clock[0] += visits.GRACE_S - 1
    assert public.workspace(request("a")) is mine
    clock[0] += visits.GRACE_S + 1
    public.sweep()
    assert mine.folder.is_dir()


def test_who_is_idle_is_gone_and_whose_training_runs_is_not(public, clock, monkeypatch):
    mine, watching = public.workspace(request("a")), public.workspace(request("b"))
    monkeypatch.setattr(watching, "jobs", lambda active=False: ["a training"])
    clock[0] += 30 * 60 - 1
    public.sweep()
    assert mine.folder.is_dir()
    public.found(request("a"))  # asking for anything is enough
    clock[0] += 30 * 60 - 1
    public.sweep()
    assert mine.folder.is_dir()
    clock[0] += 2
    public.sweep()
    assert not mine.folder.exists() and watching.folder.is_dir()
    public.leave(request("b"))  # nobody watches any more
    clock[0] += visits.GRACE_S + 1
    public.sweep()
    assert not watching.folder.exists()


def test_what_a_late_request_writes_into_a_deleted_visit_is_deleted_as_well(public, clock):
    mine = public.workspace(request("a"))
    public.leave(request("a"))
    clock[0] += visits.GRACE_S + 1
    public.sweep()
    late = mine.place("ab" * 32)
    late.parent.mkdir(parents=True)
    late.write_bytes(b"of a patient")
    public.sweep()
    assert not mine.folder.parent.exists()


def test_a_full_page_says_so_and_lets_others_in_when_somebody_has_left(public, clock):
    for name in "abc":
        public.workspace(request(name))
    with pytest.raises(engine.DataError, match=r"full: 3 visits are under way\. Try again in some minutes"):
        public.workspace(request("d"))
    assert public.found(request("d")) is None  # to look and to classify needs no room
    public.leave(request("a"))
    clock[0] += visits.GRACE_S + 1
    public.sweep()
    assert public.workspace(request("d")).tasks() == {}


def test_a_program_names_its_visit_by_a_header(public):
    chosen = "0123456789abcdefghijklmn"
    mine = public.workspace(request("x", x_promptscope_visit=chosen))
    assert public.workspace(request("y", x_promptscope_visit=chosen, x_gradio_user="mcp")) is mine
    assert public.workspace(request("x")) is not mine
    with pytest.raises(engine.DataError, match=r"has 23 characters\. Send at least 24 random ones"):
        public.workspace(request("x", x_promptscope_visit=chosen[1:]))
    for lost in (None, request(), request("shared by all", x_gradio_user="mcp")):
        with pytest.raises(engine.DataError, match=r"belongs to none\. Send a header x-promptscope-visit with at least 24"):
            public.workspace(lost)
        assert public.found(lost) is None  # to classify needs no visit


def test_a_session_that_could_be_guessed_opens_nothing(public):
    """Bug: a client could call its session "s0", and whoever tried that name had its visit."""
    for name in ("s", "s0", "1234567"):
        guessed = SimpleNamespace(session_hash=name, headers={})
        for ask in (public.workspace, public.found, public.looked, lambda r: public.arrive("", r)):
            with pytest.raises(engine.DataError, match=rf"name has {len(name)} characters.*at least 8 random ones"):
                ask(guessed)
    assert public.queue.spaces == []
    assert public.workspace(SimpleNamespace(session_hash="12345678", headers={})).tasks() == {}


def test_many_at_once_get_one_workspace_each(clock):
    made = Visits(Settings(is_public=True, max_visits=100), Quiet())
    found: dict[int, set] = {i: set() for i in range(10)}
    gate = threading.Barrier(40)

    def ask(i: int) -> None:
        gate.wait()
        found[i].add(made.workspace(request(f"visitor {i}")).folder)

    threads = [threading.Thread(target=ask, args=(i % 10,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(folders) == 1 for folders in found.values())
    assert len(set().union(*found.values())) == len(made.queue.spaces) == 10
    made.close()
    assert not any(folder.exists() for folders in found.values() for folder in folders)


def test_one_deletion_that_fails_does_not_end_the_others(clock, monkeypatch, caplog):
    monkeypatch.setattr(visits, "SWEEP_S", 0.02)
    made = Visits(Settings(is_public=True), Quiet())
    first, second = (made.workspace(request(name)) for name in "ab")
    remove = made.queue.remove
    monkeypatch.setattr(made.queue, "remove", lambda space: 1 / 0 if space is first else remove(space))
    clock[0] += 3600
    for _ in range(100):
        if not first.folder.exists() and not second.folder.exists():
            break
        time.sleep(0.05)
    assert not first.folder.exists() and not second.folder.exists() and "could not be deleted" in caplog.text
    made.close()


def test_a_visit_whose_trainings_cannot_be_looked_at_is_over_and_those_beside_it_are_deleted(public, clock, monkeypatch):
    """Bug: what was found over before it was forgotten, and its folder stayed until the server ended."""
    first, second, third = (public.workspace(request(name)) for name in "abc")
    monkeypatch.setattr(second, "jobs", lambda active: 1 / 0)
    clock[0] += 3600
    public.sweep()
    assert [each.folder.exists() for each in (first, second, third)] == [False] * 3 and public.queue.spaces == []


def test_the_settings_of_visits_are_numbers_within_bounds():
    read = read_settings({"PROMPTSCOPE_PUBLIC": "1", "PROMPTSCOPE_MAX_VISITS": "7", "PROMPTSCOPE_IDLE_MINUTES": "5"})
    assert (read.is_public, read.max_visits, read.visit_mb, read.idle_minutes, read.mcp) == (True, 7, 500, 5, False)
    assert read_settings({"SPACE_ID": "a/b"}).is_public and not read_settings({}).is_public
    for name, value in (
        ("MAX_VISITS", "0"),
        ("MAX_VISITS", "many"),
        ("VISIT_MB", "0"),
        ("IDLE_MINUTES", "-1"),
        ("PUBLIC", "yes"),
        ("MCP", "2"),
    ):
        with pytest.raises(SettingsError, match=f"PROMPTSCOPE_{name} is '{value}'"):
            read_settings({f"PROMPTSCOPE_{name}": value})
    with pytest.raises(SettingsError, match="DATABASE_URL is set for a public page"):
        read_settings({"PROMPTSCOPE_PUBLIC": "1", "PROMPTSCOPE_DATABASE_URL": "postgresql+psycopg://x"})


# --- the built page -----------------------------------------------------------------------------------------------------


@pytest.fixture
def page_of_one():
    made = page.Page(Settings(is_public=True, max_visits=1, device="cpu"))
    made.build()
    yield made
    made.host.close()


def test_looking_at_every_tab_takes_no_room(page_of_one):
    """Bug: opening the page made a visit, and after max_visits lookers nobody could bring anything."""
    host = page_of_one.host
    for i in range(3):
        looker = request(f"looker {i}")
        host.visits.arrive("", looker)
        for name, tab in page_of_one.tabs.items():
            inputs, outputs = tab.lists()
            found = tab.arrive(looker, *(each.value for each in inputs))
            assert set(found) <= set(outputs) if isinstance(found, dict) and len(outputs) > 1 else found, name
            assert "page is full" not in repr(found), name
    assert host.visits._visits == {}
    brought = host.workspace(request("looker 2"))
    brought.add_task("Mine", ["yes", "no"])
    compare = page_of_one.tabs["Compare"]
    again = compare.arrive(request("looker 1"), *(each.value for each in compare.lists()[0]))
    assert again[compare.ui.none]["visible"] and "page is full" not in repr(again)
    assert host.questions(request("looker 2"))[0][0].startswith("yours: Mine")


def test_a_visitor_starts_no_download(page_of_one, monkeypatch):
    """Bug: who chose a backbone that is not on this machine had it fetched from the hub."""
    host, loaded = page_of_one.host, []
    monkeypatch.setattr(host, "is_absent", lambda name: name != "clip-vit-b32")
    monkeypatch.setattr(models, "backbone", lambda name, *_: loaded.append(name))
    with pytest.raises(engine.BackboneError, match="weights of 'biomedclip' are not on this machine"):
        host.load("biomedclip")
    for name in ("clip-vit-b32", host.settings.backbone):  # the page's own was loaded when it started
        host.load(name)
    assert loaded == ["clip-vit-b32", host.settings.backbone]
    assert [value for _, value in host.backbones()] == [host.settings.backbone, "clip-vit-b32"]
    monkeypatch.setattr(host, "settings", Settings())
    host.load("biomedclip")
    assert len(host.backbones()) == len(engine.BACKBONES) and loaded[-1] == "biomedclip"


def test_what_is_made_of_a_visitors_own_goes_with_his_visit(page_of_one, clock):
    """Bug: his sets and what was made of his own words stayed in memory when his visit had been deleted."""
    host, mine = page_of_one.host, request("a")
    workspace = host.workspace(mine)
    workspace.adopt("busi")
    host.questions(mine)
    asked = host.asked(mine, "scope-mini", "busi-zero-shot")
    assert asked.task is not None
    made = host.prompts(asked)
    assert host.prompts(asked) is made, "made twice"
    assert host.prompts(pickle.loads(pickle.dumps(asked))) is made
    everybodys = host.prompts(replace(asked, folder="", task=None))
    assert host.prompts(replace(asked, folder="", task=None)) is everybodys is not made
    folder = str(workspace.prompts)
    kept = {place: set(map(id, held.values())) for place, held in models._made.items()}
    assert id(made) in kept[folder] and id(made) not in kept[""]
    del workspace
    clock[0] += 3600
    host.visits.sweep()
    gc.collect()
    assert folder not in models._made
    again = host.prompts(asked)  # in a worker process, which has only what is in `asked`
    assert again is not made and again.labels == made.labels


def test_a_visit_has_room_for_so_much(page_of_one, monkeypatch, tmp_path):
    host, space = page_of_one.host, page_of_one.host.workspace(request("a"))
    stored = space.holdings()["bytes"]
    monkeypatch.setattr(page_of_one.host, "settings", Settings(is_public=True, visit_mb=1))
    coming = tmp_path / "coming"
    coming.write_bytes(bytes(1_000_000 - stored))
    host.check_room(space, [coming, coming, tmp_path / "gone"])  # the same file twice is one
    coming.write_bytes(bytes(1_000_001 - stored))
    with pytest.raises(engine.DataError, match=r"1 MB would come to the \d MB of your visit, .* room for 1 MB\. Delete"):
        host.check_room(space, [coming])
    monkeypatch.setattr(page_of_one.host, "settings", Settings(visit_mb=1))
    host.check_room(space, [coming])  # a kept workspace is its owner's


# --- the real server ----------------------------------------------------------------------------------------------------


@contextmanager
def public_page(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """`python -m app` as a public page in a process of its own, with the folder for everything temporary."""
    port = free_port()
    more = {"PROMPTSCOPE_PORT": str(port), "PROMPTSCOPE_PUBLIC": "1", "TMPDIR": str(folder), "PROMPTSCOPE_DEVICE": "cpu"}
    environment = os.environ | more | {"GRADIO_TEMP_DIR": str(folder / "gradio")}
    server = subprocess.Popen(
        [sys.executable, "-m", "app"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            assert server.poll() is None
            try:
                urllib.request.urlopen(url, timeout=2).close()
                break
            except OSError:
                time.sleep(0.25)
        yield url, server
    finally:
        server.terminate()
        server.wait(timeout=30)


def kept_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("promptscope-*/workspace"))


def until(true, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return False


def test_visits_of_a_real_server_end_with_it_also_when_it_is_killed(tmp_path):
    """What a kill has left is gone as soon as the next server is there, before anybody has asked it for anything."""
    with public_page(tmp_path) as (url, server):
        mine, theirs = Client(url, verbose=False), Client(url, verbose=False)
        mine.predict("Mine", ["yes", "no"], api_name="/make_task")
        titles = [[task["title"] for task in each.predict(api_name="/tasks")] for each in (mine, theirs)]
        assert titles == [["Mine"], []] and len(kept_in(tmp_path)) >= 1
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=30)
        assert len(kept_in(tmp_path)) >= 1, "the kill came too late to test anything"
    with public_page(tmp_path) as (url, _):
        assert kept_in(tmp_path) == []
        mine = Client(url, verbose=False)
        mine.predict("Mine", ["yes", "no"], api_name="/make_task")
        assert len(kept_in(tmp_path)) == 1
    assert kept_in(tmp_path) == [], "an end in peace leaves nothing"


def test_a_full_server_says_so_to_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    settings = Settings(port=free_port(), device="cpu", is_public=True, max_visits=1)
    app, url, _ = page.launch(settings, prevent_thread_lock=True, quiet=True)
    try:
        first, second = Client(url, verbose=False), Client(url, verbose=False)
        first.predict("Mine", ["yes", "no"], api_name="/make_task")
        with pytest.raises(AppError, match="This page is full: 1 visits are under way"):
            second.predict("Mine", ["yes", "no"], api_name="/make_task")
        assert second.predict(api_name="/tasks") == second.predict(api_name="/jobs") == []
        assert len(second.predict(api_name="/library")) == len(engine.library())
        for name, asked in (
            ("cases", "mine"),
            ("least_sure", "mine"),
            ("job", "x"),
            ("result", "x"),
            ("comparable", "mine"),
        ):
            with pytest.raises(AppError, match="You have brought nothing to this page yet"):
                second.predict(asked, api_name=f"/{name}")
    finally:
        app.get_blocks().close(verbose=False)
