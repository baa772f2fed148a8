"""The Library tab: prompt sets found, brought, saved, deleted and brought back; backbones and their download from a hub made
here; descriptions edited. What is hostile is refused or escaped. Run: python -m pytest tests/test_library.py
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gradio as gr
import huggingface_hub
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
import torch
from conftest import free_port
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from test_importing import prompt_learner

import engine
from app import library, models, page, shelf
from app.host import Host
from app.settings import Settings
from engine.backbones import _fetch

SET = "btmri-biomedcoop-scope-mini"


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


def built(settings: Settings) -> library.Library:
    made = library.Library(Host(settings))
    with gr.Blocks():
        made.lay_out()
    return made


@pytest.fixture
def tab(tmp_path):
    made = built(Settings(device="cpu", workspace=tmp_path / "workspace"))
    yield made
    made.host.close()


ANY = ("",) * 6  # no filter
TOLD = ("",) * 6  # nothing said of a checkpoint


def listed(tab: library.Library, **wanted: str) -> list[str]:
    chosen = library.Wanted(**wanted)
    return [item.name for item in tab.items(None) if chosen.has(item)]


def brought(tab: library.Library, tmp_path: Path, name: str, content: bytes, *told: str) -> dict[str, object]:
    """What the page says when a file is dropped, by the components' names."""
    place = tmp_path / "cache" / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(content)
    found = tab.bring(None, str(place), None, *(told or TOLD), *ANY)
    assert not place.exists()
    return {key: found.get(part) for key, part in vars(tab.ui).items()}


# --- finding ------------------------------------------------------------------------------------------------------------


def test_search_and_filters_find_what_the_folders_names_say(tab):
    everything = engine.library()
    assert listed(tab) == everything
    assert listed(tab, task="busi") == [name for name in everything if name.startswith("busi-")]
    assert listed(tab, method="biomedcoop") == [name for name in everything if "-biomedcoop-" in name]
    ultrasound = {t.id for t in engine.tasks().values() if t.modality == "ultrasound"}
    assert listed(tab, modality="ultrasound") == [name for name in everything if name.split("-")[0] in ultrasound]
    assert listed(tab, words="glioma BIOMEDCOOP") == ["btmri-biomedcoop-scope-mini"]
    assert listed(tab, backbone="biomedclip") == listed(tab, whose="own") == listed(tab, words="no such thing") == []
    shown = tab.show(None, "", "", "busi", "", "", "coop", "shipped")
    assert shown[tab.ui.list].count("ps-set") == 1 and "1 of 62 prompt sets" in shown[tab.ui.list].replace(
        str(len(everything)), "62"
    )


def test_a_card_says_what_the_set_is_in_words(tab):
    tab.host.backbone("scope-mini")
    shown = tab.show(None, f"shipped:{SET}", *ANY)
    card, html = engine.PromptSet.load(SET).card, shown[tab.ui.card]
    accuracy = next(m for m in card["metrics"] if m["name"] == "accuracy")
    value, low, high = (round(100 * accuracy[key]) for key in ("value", "low", "high"))
    assert f"<b>{value} %</b> ({low} to {high})" in html and f"{accuracy['images']} images" in html
    for words in ("Glioma, Meningioma, Pituitary tumour, Normal brain", "made for the weights on this machine", "CC BY-NC"):
        assert words in html
    assert card["shortcuts"][0] in html and "cannot be deleted" in html and shown[tab.ui.remove]["visible"] is False


def test_a_set_for_other_weights_says_so(tab, mini):
    there = engine.PromptSet.load(SET)
    other = replace(there, card=there.card | {"backbone": {"id": "scope-mini", "weights_hash": "0" * 64}})
    html = shelf.card(models.Item(SET, False, other), mini, False)
    assert "made for other weights" in html
    assert "compared with the weights when" in shelf.card(models.Item(SET, False, other), None, False)
    assert "weights are not on this machine" in shelf.card(models.Item(SET, False, other), None, True)


def test_a_folder_is_not_brought(tab, tmp_path):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "others").write_bytes(b"x")
    tab.bring(None, str(tmp_path / "uploads"), None, *TOLD, *ANY)
    assert (tmp_path / "uploads" / "others").read_bytes() == b"x"


# --- bringing, saving, deleting -----------------------------------------------------------------------------------------


def test_a_saved_set_comes_back_with_the_same_scores_and_is_a_question(tab, tmp_path):
    parcel = json.loads(tab.save(None, f"shipped:{SET}"))
    assert parcel["name"] == f"{SET}.safetensors"
    said = brought(tab, tmp_path, parcel["name"], base64.b64decode(parcel["data"]))
    (name,) = tab.host.workspace(None).sets()
    assert f"“{name}” is in your library" in said["said"] and said["chosen"] == f"own:{name}"
    features = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
    mine = engine.PromptSet.load(tab.host.workspace(None).prompts / name)
    np.testing.assert_array_equal(mine.scores(features), engine.PromptSet.load(SET).scores(features))
    assert mine.card == engine.PromptSet.load(SET).card | {"name": name}
    question = name.removesuffix("-scope-mini")
    assert ("yours: " + mine.title, question) in tab.host.questions(None)
    second = brought(tab, tmp_path, parcel["name"], base64.b64decode(parcel["data"]))
    assert second["chosen"] == said["chosen"] and tab.host.workspace(None).sets() == [name]


def test_own_sets_are_deleted_with_undo_and_shipped_ones_never(tab, tmp_path):
    workspace = tab.host.workspace(None)
    name = workspace.add_set(engine.PromptSet.load(SET))
    gone = tab.remove(None, f"own:{name}", *ANY)
    assert workspace.sets() == [] and gone[tab.ui.gone] == name and gone[tab.ui.undo]["visible"] is True
    back = tab.undo(None, name, *ANY)
    assert workspace.sets() == [name] and back[tab.ui.chosen] == f"own:{name}"
    for key in (f"shipped:{SET}", f"own:{SET}x", "own:../../etc"):
        assert 'role="alert"' in tab.remove(None, key, *ANY)[tab.ui.said]
    assert (engine.LIBRARY / SET / "card.json").is_file() and workspace.sets() == [name]


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/promptscope-was-here"),))


def bomb() -> bytes:
    """A zip that would unpack to 1 GB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as entry:
        for _ in range(64):
            entry.write(b"\0" * 2**20)
    return stream.getvalue()


def pickled() -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": {"ctx": Evil()}}, stream)
    return stream.getvalue()


def with_card(**changed: object) -> bytes:
    there = engine.PromptSet.load(SET)
    card = there.card | changed
    metadata = {"format": "promptscope", "labels": json.dumps(card["labels"]), "card": json.dumps(card)}
    return safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in there.head.tensors().items()}, metadata)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bomb.safetensors", bomb, "bomb.safetensors"),
        ("evil.pth.tar", pickled, "evil.pth.tar"),
        ("plain.pkl", lambda: pickle.dumps(Evil()), "cannot be read"),
        ("noise.safetensors", lambda: bytes(range(256)) * 40, "cannot be read"),
        ("header.safetensors", lambda: (2**62).to_bytes(8, "little") + b"{}", "cannot be read"),
        ("empty.safetensors", lambda: b"", "cannot be read"),
        ("weights.safetensors", lambda: safetensors.numpy.save({"a": np.zeros(3)}), "cannot be read"),
        ("nocard.safetensors", lambda: safetensors.numpy.save({"a": np.zeros(3)}, {"labels": '["a"]'}), "has no card"),
        ("path.safetensors", lambda: with_card(name="../../../x"), "not valid at name"),
        ("type.safetensors", lambda: with_card(data="many"), "not valid at data"),
        ("head.safetensors", lambda: with_card(head="pickle"), "does not know"),
        ("labels.safetensors", lambda: with_card(labels=["a", "b"], display=["a", "b"]), "labels"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_hostile_is_refused_in_a_sentence_and_leaves_nothing(tab, tmp_path, name, content, words):
    before = {p for p in tmp_path.rglob("*") if "workspace" in p.parts}
    said = brought(tab, tmp_path, name, content())
    assert 'role="alert"' in said["said"] and words in said["said"] and "Traceback" not in said["said"]
    assert said["waiting"] is None and tab.host.workspace(None).sets() == []
    assert not Path("/tmp/promptscope-was-here").exists()
    assert {p for p in tmp_path.rglob("*") if "workspace" in p.parts and "sqlite" not in p.name} <= before | {
        tab.host.workspace(None).prompts
    }


def test_a_hostile_card_is_shown_as_text(tab, tmp_path):
    script = "<script>alert(1)</script>"
    task = {"id": "x", "title": script, "modality": script}
    said = brought(tab, tmp_path, "x.safetensors", with_card(name="x", task=task, licence=script, shortcuts=[script]))
    assert "is in your library" in said["said"]
    everything = said["card"] + said["list"] + str(tab.arrive(None, said["chosen"], "", "", "", "", *ANY)[tab.ui.list])
    assert "<script" not in everything and "&lt;script&gt;" in everything


def test_a_set_that_is_damaged_on_the_disk_is_listed_and_can_be_deleted(tab):
    workspace = tab.host.workspace(None)
    name = workspace.add_set(engine.PromptSet.load(SET))
    (workspace.prompts / name / "prompts.safetensors").write_bytes(b"broken")
    shown = tab.show(None, f"own:{name}", *ANY)
    assert "cannot be used" in shown[tab.ui.card] and "cannot be read" in shown[tab.ui.card]
    tab.remove(None, f"own:{name}", *ANY)
    assert workspace.sets() == []


def test_a_checkpoint_waits_until_its_task_is_said(tab, tmp_path, mini):
    stream = io.BytesIO()
    torch.save({"state_dict": prompt_learner(mini, "btmri"), "epoch": 7}, stream)
    asked = brought(tab, tmp_path, "model.pth.tar-100", stream.getvalue())
    assert "This is a checkpoint of coop or prograd" in asked["said"] and asked["waiting"].file.is_file()
    wrong = tab.go_on(None, asked["waiting"], "busi", "coop", "scope-mini", "", "", "", *ANY)
    assert "was not learned with" in wrong[tab.ui.said] or "classes" in wrong[tab.ui.said]
    done = tab.go_on(None, wrong[tab.ui.waiting], "btmri", "coop", "scope-mini", "", "", "", *ANY)
    (name,) = tab.host.workspace(None).sets()
    (tmp_path / "model").write_bytes(stream.getvalue())
    expected = engine.import_checkpoint(tmp_path / "model", mini, engine.task("btmri"), "coop")
    mine = engine.PromptSet.load(tab.host.workspace(None).prompts / name)
    np.testing.assert_allclose(mine.class_embeddings, expected.class_embeddings, atol=1e-6)
    assert done[tab.ui.waiting] is None and not asked["waiting"].file.exists()


# --- backbones ----------------------------------------------------------------------------------------------------------


def test_the_table_of_backbones_tells_what_is_there(tab):
    tab.host.backbone("scope-mini")
    rows = {row["id"]: row for row in tab.list_backbones()}
    assert list(rows) == list(engine.BACKBONES)
    folder = Path(engine.weights("scope-mini").folder)
    assert rows["scope-mini"]["size"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert rows["scope-mini"]["dim"] == engine.load_backbone("scope-mini").dim and rows["scope-mini"]["present"]
    assert rows["scope-mini"]["device"] == "cpu (float32)" and not rows["biomedclip"]["present"]
    assert "9f341de2" in rows["biomedclip"]["fetched_from"][0]
    html = tab.backbone_rows()
    assert 'data-do="fetch biomedclip"' in html and "fetch scope-mini" not in html


def test_a_folder_that_a_variable_names_is_said(monkeypatch, tiny):
    monkeypatch.setenv("PROMPTSCOPE_CLIP_VIT_B32", str(tiny["tiny-clip"]))
    found = engine.weights("clip-vit-b32")
    size = sum(
        (tiny["tiny-clip"] / name).stat().st_size for name in ("open_clip_config.json", "open_clip_model.safetensors")
    )
    assert found.place == "the folder that PROMPTSCOPE_CLIP_VIT_B32 names" and found.size == size


class Hub(BaseHTTPRequestHandler):
    """As much of the model hub as its client asks for. files : by name; pause_s : after each 64 kB."""

    files: dict[str, bytes] = {}
    pause_s = 0.0

    def log_message(self, *args: object) -> None: ...

    def _send(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            for start in range(0, len(body), 2**16):
                self.wfile.write(body[start : start + 2**16])
                time.sleep(self.pause_s)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        revision = "ab5b8ef490e86faa07d3523926b842c765de1de5"
        if "/tree/" in path:
            found = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in self.files.items()]
            self._send(json.dumps(found).encode(), Content_Type="application/json")
        elif path.startswith("/api/"):
            siblings = [{"rfilename": n, "size": len(b)} for n, b in self.files.items()]
            about = {"id": "timm/x", "sha": revision, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            self._send(json.dumps(about).encode(), Content_Type="application/json")
        else:
            name = path.rsplit("/", 1)[1]
            if name not in self.files:
                self.send_error(404)
                return
            self._send(self.files[name], ETag=f'"{name}"', X_Repo_Commit=revision, Accept_Ranges="none")

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, and a cache of its own."""

    class Here(Hub):
        files = {"open_clip_config.json": b"{}" * 500, "open_clip_model.safetensors": b"w" * 3_000_000, "other.bin": b"x"}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(models, "_fetches", {})
    yield Here
    server.shutdown()


def until(fetch: engine.Fetch, done: Callable[[engine.Fetch], bool]) -> None:
    over = time.monotonic() + 60
    while not done(fetch):
        assert time.monotonic() < over and fetch.state in ("running", "done"), vars(fetch)
        time.sleep(0.05)


def test_a_backbone_is_fetched_with_progress_and_is_then_here(tab, hub):
    assert engine.weights("clip-vit-b32").folder is None
    hub.pause_s = 0.03
    seen = [tab.fetch_backbone("clip-vit-b32")]
    fetch = models.fetched("clip-vit-b32")
    until(fetch, lambda f: seen.append(tab.fetching("clip-vit-b32")) or f.state != "running")
    assert fetch.state == "done" and fetch.error == "" and fetch.done == fetch.of == 3_001_000
    between = [far["done"] for far in seen if 0 < far["done"] < 3_001_000]
    assert between == sorted(between) and between, "no progress was seen"
    found = engine.weights("clip-vit-b32")
    assert found.size == 3_001_000 and found.place == "the hub's cache on this machine"
    assert not tab.host.is_absent("clip-vit-b32") and 'data-do="fetch clip-vit-b32"' not in tab.backbone_rows()


def test_a_download_knows_no_password_and_counts_on_while_files_get_their_names(tab, hub, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTSCOPE_AUTH", "user:secret")
    monkeypatch.setenv("PROMPTSCOPE_DATABASE_URL", "postgresql://user:secret@host/name")
    hub.pause_s = 0.2
    fetch = models.fetch("clip-vit-b32")
    until(fetch, lambda f: f.of > 0)
    known = Path(f"/proc/{fetch._process.pid}/environ").read_bytes()
    assert b"HF_ENDPOINT=" in known and b"secret" not in known
    fetch.stop()
    place = tmp_path / "blobs"
    place.mkdir()
    (place / "a.incomplete").symlink_to(place / "a")  # gone between the list and the look
    (place / "b").write_bytes(b"12345")
    assert _fetch._size([place, tmp_path / "none"]) == 5


def test_a_download_stops_within_a_second_and_goes_on_later(tab, hub):
    hub.pause_s = 0.2
    tab.do(None, "fetch clip-vit-b32", *ANY)
    fetch = models.fetched("clip-vit-b32")
    until(fetch, lambda f: f.of > 0)
    assert 'data-do="stop clip-vit-b32"' in tab.backbone_rows()
    start = time.monotonic()
    tab.do(None, "stop clip-vit-b32", *ANY)
    assert fetch._process.poll() is not None and time.monotonic() - start < 1
    assert fetch.state == "stopped" and "What has come is kept" in tab.backbone_rows()
    hub.pause_s = 0
    tab.do(None, "fetch clip-vit-b32", *ANY)
    until(models.fetched("clip-vit-b32"), lambda f: f.state != "running")
    assert models.fetched("clip-vit-b32").state == "done"


def test_a_hub_that_cannot_be_reached_is_one_sentence_with_what_to_do(tab, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    tab.do(None, "fetch clip-vit-b32", *ANY)
    models.fetched("clip-vit-b32")._reader.join(timeout=60)
    html = tab.backbone_rows()
    assert "the model hub cannot be reached" in html and "PROMPTSCOPE_CLIP_VIT_B32" in html and 'role="alert"' in html
    assert 'data-do="fetch clip-vit-b32"' in html and "Traceback" not in html
    assert "no backbone called" in tab.do(None, "fetch ../../x", *ANY)[tab.ui.fetch_said]


def test_visitors_of_a_public_page_fetch_nothing(tmp_path):
    made = built(Settings(device="cpu", is_public=True, workspace=tmp_path))
    assert "public page" in made.do(None, "fetch biomedclip", *ANY)[made.ui.fetch_said]
    assert "Whoever runs this page can fetch it." in made.backbone_rows() and "data-do" not in made.backbone_rows()
    made.host.close()


def test_who_waits_for_one_backbone_holds_nobody_else_up(monkeypatch):
    """Bug: one lock for all, so that a download of minutes stopped every visitor."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(name: str, *rest: str) -> str:
        if name == "slow":
            begun.set()
            assert go_on.wait(10)
        return name

    monkeypatch.setattr(models, "_loaded", slow)
    waiting = threading.Thread(target=models.backbone, args=("slow", "cpu", "float32"))
    waiting.start()
    assert begun.wait(5)
    answered: list[object] = []
    other = threading.Thread(target=lambda: answered.append(models.backbone("quick", "cpu", "float32")))
    other.start()
    other.join(timeout=5)
    assert answered == ["quick"] and waiting.is_alive()
    go_on.set()
    waiting.join(timeout=5)
    for name in ("slow", "quick"):
        models._ready.pop((name, "cpu", "float32"))


# --- descriptions -------------------------------------------------------------------------------------------------------


def test_the_bank_is_shown_and_editing_a_shipped_one_makes_a_copy(tab):
    shipped = engine.descriptions("busi")
    shown = tab.show_bank(None, "busi", "benign tumor")
    assert shown[tab.ui.lines].splitlines() == list(shipped.classes["benign tumor"].sentences)
    assert shown[tab.ui.bank].count("<summary>") == 3 and "not reviewed" in shown[tab.ui.bank]
    lines = "An oval dark mass with a thin bright rim.\n\n  A mass   wider than tall. \nA mass wider than tall."
    saved = tab.save_bank(None, lines, library.Drafts(("busi", "benign tumor")).packed())
    assert "1 sentence came twice and counts once." in saved[tab.ui.bank_said]
    task = tab.host.workspace(None).task("busi")
    mine = engine.descriptions(task).classes
    first = ("An oval dark mass with a thin bright rim.", "A mass wider than tall.")
    assert mine["benign tumor"].sentences[:2] == first
    assert mine["normal scan"].sentences == shipped.classes["normal scan"].sentences
    assert engine.descriptions("busi") == shipped
    assert tab.show_bank(None, "busi", "benign tumor")[tab.ui.lines].splitlines()[:2] == list(first)


def test_what_is_written_and_not_saved_is_there_again(tab):
    """Bug: it was lost when another class was chosen."""
    ui = tab.ui
    first = tab.show_bank(None, "busi", "benign tumor")
    assert first[ui.bank_said] == ""
    other = tab.show_bank(None, "busi", "malignant tumor", "Mine.", first[ui.drafts])
    assert other[ui.lines].splitlines() == list(engine.descriptions("busi").classes["malignant tumor"].sentences)
    assert "Not saved yet: what you wrote about “Benign tumour”." in other[ui.bank_said]
    arrived = tab.arrive(None, "", "btmri", "glioma", other[ui.lines], other[ui.drafts], *ANY)
    assert "“Benign tumour”" in arrived[ui.bank_said] and "Malignant" not in arrived[ui.bank_said]
    back = tab.show_bank(None, "busi", "benign tumor", arrived[ui.lines], arrived[ui.drafts])
    assert back[ui.lines] == "Mine."
    saved = tab.save_bank(None, back[ui.lines], back[ui.drafts])
    assert "your 1 sentence, and 11 template sentences to fill up." in saved[ui.bank_said]
    assert "holds 1 task" in saved[ui.holds]
    assert tab.show_bank(None, "busi", "malignant tumor", saved[ui.lines], saved[ui.drafts])[ui.bank_said] == ""


def test_lines_are_of_the_class_that_they_came_with(tab):
    """Bug: a choice that came before the answer of the one before emptied the sentences of its class, and a save could write into
    the wrong one."""
    ui = tab.ui
    first = tab.show_bank(None, "busi", "benign tumor")
    early = tab.show_bank(None, "retina", "glaucoma", "", "")  # as the browser had it before the first answer
    assert early[ui.bank_said] == "" and early[ui.lines].splitlines() == list(
        engine.descriptions("retina").classes["glaucoma"].sentences
    )
    saved = tab.save_bank(None, "Mine of the tumour.", first[ui.drafts])  # while another class is chosen already
    assert saved[ui.bank_task] == "busi" and saved[ui.label]["value"] == "benign tumor"
    assert engine.descriptions(tab.tasks(None)["busi"]).classes["benign tumor"].sentences[0] == "Mine of the tumour."
    assert not tab.host.visits.found(None).tasks().keys() & {"retina"}


@pytest.mark.parametrize("words", ["", "{", "[]", "3", '[["a"], []]', '[["a", "b"], [["c"]]]', "[" * 100_000])
def test_drafts_that_are_none_are_empty(words):
    assert library.Drafts.read(words) == library.Drafts()


def test_the_same_file_twice_is_one_set_and_the_foot_follows(tab, tmp_path):
    file = tmp_path / "set.safetensors"
    engine.PromptSet.load(SET).export(file)
    first, again = (brought(tab, tmp_path, name, file.read_bytes()) for name in ("a.safetensors", "b.safetensors"))
    (name,) = tab.host.workspace(None).sets()
    assert f"“{name}” is in your library" in first["said"] and "1 prompt set " in first["holds"]
    assert f"“{name}” is there already" in again["said"] and "1 prompt set " in again["holds"]
    assert "0 prompt sets " in tab.remove(None, f"own:{name}", *ANY)[tab.ui.holds]
    assert "1 prompt set " in tab.undo(None, name, *ANY)[tab.ui.holds]
    with safetensors.safe_open(file, framework="numpy") as stored:
        metadata, tensors = stored.metadata(), {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    first_one = next(iter(tensors))
    tensors[first_one] = np.nextafter(tensors[first_one], np.float32(9))
    other = brought(tab, tmp_path, "d.safetensors", safetensors.numpy.save(tensors, metadata))
    assert "is in your library" in other["said"] and "2 prompt sets " in other["holds"]
    damaged = brought(tab, tmp_path, "c.safetensors", b"no set")
    assert "the file is damaged, or is no prompt set" in damaged["said"] and "Error" not in damaged["said"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "has no sentence"),
        (["  ", ""], "has no sentence"),
        (["word " * 75], "is too long for"),
        (["a" * 401], "is too long for"),
        ([f"Sentence {i}." for i in range(501)], "501 sentences"),
    ],
)
def test_sentences_that_cannot_be_used_are_refused_with_what_to_do(mini, lines, words):
    with pytest.raises(engine.DataError, match=words):
        engine.check_sentences(engine.task("busi"), "benign tumor", lines, mini)


def test_a_sentence_that_names_another_class_is_pointed_out(mini):
    task = engine.task("busi")
    kept, thoughts = engine.check_sentences(
        task, "benign tumor", ["A benign tumor of the breast.", "Unlike a malignant tumor, its rim is smooth."], mini
    )
    assert len(kept) == 2 and len(thoughts) == 1 and "'Malignant tumour'" in thoughts[0] and "Unlike" in thoughts[0]
    with pytest.raises(engine.DataError, match="no class of this task"):
        engine.check_sentences(task, "cyst", ["A cyst."], mini)


def test_the_effect_on_labelled_images_is_that_of_the_two_ensembles(tab, tmp_path, mini):
    workspace, rng = tab.host.workspace(None), np.random.default_rng(0)
    workspace.adopt("busi")
    files = []
    for i in range(6):
        place = tmp_path / f"{i}.png"
        PIL.Image.fromarray(rng.integers(0, 40 * (i + 1), (64, 64), dtype=np.uint8)).save(place)
        files.append((place, f"{('benign', 'malignant', 'normal')[i % 3]}/{i}.png"))
    *_, last = engine.take_in(workspace, "busi", files)
    examples = workspace.examples("busi")
    assert len(examples) == 6 and last.added.labelled == 6
    before = workspace.task("busi")
    _, _, effect = tab.write(None, "busi", "malignant tumor", ["A dark mass with a ragged edge and a shadow."])
    features = np.concatenate([
        engine.embed([engine.prepare(engine.read_image(e.path), mini.preprocess)], mini) for e in examples
    ])  # fmt: skip
    truth = np.array([before.names.index(e.label) for e in examples])
    shares = []
    for task in (before, workspace.task("busi")):
        made = engine.METHODS["description-ensemble"]().learn(mini, task)
        right = made.scores(features).argmax(axis=1) == truth
        draws = np.random.default_rng(1).integers(0, 6, (20_000, 6))  # another seed and more of them than evaluate's
        shares.append((right.mean(), *np.percentile(right[draws].mean(axis=1), [2.5, 97.5])))
    found = re.findall(r"(\d+) % \((\d+) to (\d+)\)", effect)
    assert [tuple(map(int, each)) for each in found] == [tuple(round(100 * v) for v in each) for each in shares]
    assert "On your 6 labelled images" in effect and "makes later results on these images too good" in effect


def test_a_workspace_tells_what_it_holds(tab, tmp_path):
    assert tab.holds(None).startswith("Your workspace holds 0 tasks, 0 images (0 with a class), 0 prompt sets and ")
    tab.host.workspace(None).add_set(engine.PromptSet.load(SET))
    tab.host.workspace(None).adopt("busi")
    assert tab.holds(None).startswith("Your workspace holds 1 task, 0 images (0 with a class), 1 prompt set and ")


def test_nothing_is_left_of_a_file_that_was_dropped(tab, tmp_path):
    """The upload is moved out of Gradio's reach at once, and deleted when it is imported or refused."""
    content = (tmp_path / "set").with_suffix(".safetensors")
    engine.PromptSet.load(SET).export(content)
    raw = content.read_bytes()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    brought(tab, tmp_path, "a.safetensors", raw)
    brought(tab, tmp_path, "b.safetensors", raw[:100])
    assert list((tmp_path / "cache").iterdir()) == []


# --- programs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """The real server in this process."""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        settings = Settings(port=free_port(), device="cpu", workspace=folder / "workspace")
        _, address, _ = page.launch(settings, prevent_thread_lock=True, quiet=True)
        yield Client(address, verbose=False)


def test_programs_list_save_bring_and_delete_sets(client, tmp_path):
    found = client.predict(api_name="/library")
    assert [each["name"] for each in found if not each["own"]] == engine.library()
    card = next(each for each in found if each["name"] == SET)
    assert card["card"] == engine.PromptSet.load(SET).card and card["question"] == "btmri-biomedcoop"
    file = client.predict(SET, api_name="/export_set")
    assert engine.PromptSet.load(file).card["name"] == SET
    name = client.predict(handle_file(file), api_name="/import_set")
    assert [each["name"] for each in client.predict(api_name="/library") if each["own"]] == [name]
    assert client.predict(name, api_name="/remove_set") == name
    assert not any(each["own"] for each in client.predict(api_name="/library"))
    assert client.predict(name, api_name="/restore_set") == name
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for inputs, endpoint, words in (
        ((SET,), "/remove_set", "cannot be deleted"),
        (("../../etc",), "/remove_set", "no prompt set"),
        (("../../etc",), "/export_set", "no prompt set"),
        ((handle_file(str(tmp_path / "bad.safetensors")),), "/import_set", "cannot be read"),
        (({"path": "/etc/passwd"},), "/import_set", "no file that was uploaded"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(*inputs, api_name=endpoint)


def test_programs_read_backbones_and_edit_descriptions(client):
    rows = client.predict(api_name="/backbones")
    assert [row["id"] for row in rows] == list(engine.BACKBONES)
    with pytest.raises(AppError, match="Nothing of 'biomedclip' is being fetched"):
        client.predict("biomedclip", api_name="/fetching")
    shipped = client.predict("kvasir", api_name="/bank")
    label = engine.task("kvasir").names[0]
    assert shipped["classes"][label]["sentences"] == list(engine.descriptions("kvasir").classes[label].sentences)
    thoughts = client.predict("kvasir", label, ["One.", "One."], api_name="/edit_bank")
    assert thoughts == {"thoughts": ["1 sentence came twice and counts once."], "effect": ""}
    assert client.predict("kvasir", api_name="/bank")["classes"][label]["sentences"][0] == "One."
    with pytest.raises(AppError, match="has no sentence"):
        client.predict("kvasir", label, [], api_name="/edit_bank")


def test_programs_classify_a_batch_with_a_row_for_every_file(client, tmp_path, mini):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(rng.integers(0, 255, (48, 64), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    files = [handle_file(str(tmp_path / name)) for name in ("a.png", "b.png", "notes.txt")]
    answer = client.predict(files, ["modality"], api_name="/batch")
    assert answer["schema"] == 1 and "not a medical device" in answer["notice"].lower()
    rows = {row["files"][0]: row for row in answer["results"]}
    assert {name: row["status"] for name, row in rows.items()} == {"a.png": "ok", "b.png": "ok", "notes.txt": "error"}
    expected = engine.predict(engine.read_image(tmp_path / "b.png"), mini, engine.prompt_set("modality", mini))
    np.testing.assert_allclose(list(rows["b.png"]["probabilities"].values()), expected.probabilities, atol=1e-6)
    with pytest.raises(AppError, match="No question is chosen"):
        client.predict(files[:1], [], api_name="/batch")
    with pytest.raises(AppError, match="no file that was uploaded"):
        client.predict([{"path": "/etc/passwd"}], ["modality"], api_name="/batch")
