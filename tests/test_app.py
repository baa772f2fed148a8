"""The page through its HTTP API, its handlers and its pictures. Run: python -m pytest tests/test_app.py"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from broken import broken_files
from conftest import free_port
from gradio_client import Client, handle_file

import engine
from app import cases, models, page, render, text
from app.settings import Settings, SettingsError, read_settings

ROOT = Path(__file__).resolve().parent.parent
CT = next(s.path for s in engine.samples() if s.title == "CT")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The real server in this process, on a free port; its address and its cache folder."""
    cache = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        settings = Settings(port=free_port(), device="cpu")
        _, address, _ = page.launch(settings, prevent_thread_lock=True, quiet=True)
        yield address, cache


@pytest.fixture(scope="module")
def client(server):
    return Client(server[0], verbose=False)


def ask(client: Client, file: Path, prompts: str = "modality", backbone: str = "scope-mini", frame: int = 0) -> dict:
    answer = client.predict(handle_file(str(file)), backbone, prompts, frame, api_name="/predict")
    assert answer["schema"] == 1 and "not a medical device" in answer["notice"].lower()
    (row,) = answer["results"]
    return row


def test_the_api_gives_the_probabilities_of_the_library(client):
    row = ask(client, CT)
    backbone = engine.load_backbone("scope-mini")
    expected = engine.predict(engine.read_image(CT), backbone, engine.prompt_set("modality", backbone))
    assert row["status"] == "ok" and row["files"] == ["CT_small.dcm"]
    np.testing.assert_allclose(list(row["probabilities"].values()), expected.probabilities, atol=1e-6)
    assert list(row["probabilities"]) == list(expected.labels)


def test_fifty_broken_inputs_are_each_a_sentence_and_the_app_still_answers(client, tmp_path):
    broken = [
        (what, path) for what, path in broken_files(tmp_path) if os.path.isfile(path)
    ]  # not the pipes and impossible names
    assert len(broken) >= 50
    sentences = {}
    for what, path in broken:
        row = ask(client, path)
        if row["status"] == "ok":  # what an honest reader can read all the same
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5), what
            continue
        sentence = sentences[what] = row["error"]
        assert "Traceback" not in sentence and "\n" not in sentence and 20 < len(sentence) < 600, (what, sentence)
        assert sentence.rstrip()[-1] in ".)", (what, sentence)
        assert not re.search(r"/[a-z0-9]{16,}|[0-9a-f]{32}", sentence), f"{what} shows our own file name: {sentence}"
    assert len(sentences) >= 40, f"only {len(sentences)} of {len(broken)} were refused"
    assert ask(client, CT)["status"] == "ok"


def test_unknown_names_are_sentences_too(client):
    assert "no backbone called 'resnet'" in ask(client, CT, backbone="resnet")["error"]
    assert "no prompt set 'nope'" in ask(client, CT, prompts="nope")["error"]
    assert "There is no frame 9; 'CT_small.dcm' has 1." in ask(client, CT, frame=9)["error"]


def test_an_absent_backbone_says_what_to_do(client, monkeypatch):
    monkeypatch.delenv("PROMPTSCOPE_BIOMEDCLIP", raising=False)
    row = ask(client, CT, backbone="biomedclip", prompts="btmri")
    assert row["status"] == "error" and "PROMPTSCOPE_BIOMEDCLIP" in row["error"]


def test_uploads_leave_nothing_behind(server, client, tmp_path):
    named = tmp_path / "DOE^JANE_1970.dcm"
    shutil.copy(CT, named)
    assert ask(client, named)["status"] == "ok"
    left = [p for p in server[1].rglob("*") if p.is_file() and p.stat().st_size > 0 and "DOE" in str(p)]
    assert left == []
    assert not [p for p in cases._folder().iterdir() if p.is_file()]


def test_about_tells_what_computes(client):
    about = client.predict(api_name="/about")
    assert about["device"] == "cpu (float32)" and about["prompt_sets"] == engine.library()


def test_only_the_documented_endpoints_are_named(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/predict", "/about"}


def test_files_of_the_repository_are_not_served(server):
    for path in (ROOT / "README.md", ROOT / "requirements.txt", Path("/etc/passwd")):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{server[0]}gradio_api/file={path}", timeout=10)


def test_the_page_loads_nothing_from_elsewhere(server):
    with urllib.request.urlopen(server[0], timeout=10) as answer:
        html = answer.read().decode()
    outside = [u for u in re.findall(r'(?:src|href)="(https?://[^"]+)"', html) if server[0] not in u]
    assert outside == []


# --- handlers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handlers():
    return page.Page(Settings(device="cpu"))


def copied(tmp_path: Path, name: str = "a.dcm") -> str:
    return str(shutil.copy(CT, tmp_path / name))


def test_a_bad_file_among_good_ones_is_named_and_the_good_ones_open(handlers, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    held, _, _, drop, problem = handlers.open_files([copied(tmp_path), str(bad)], [])
    assert [case.name for case in held] == ["a.dcm"] and drop is None
    assert 'role="alert"' in problem and "bad.png" in problem
    cases.forget(held)


def test_a_bad_file_alone_keeps_what_was_open(handlers, tmp_path):
    held, *_ = handlers.open_files([copied(tmp_path)], [])
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    kept, *_, problem = handlers.open_files([str(bad)], held)
    assert kept is held and held[0].path.is_file() and "This did not work" in problem
    handlers.clear(held)
    assert not held[0].path.exists()


def test_look_gives_bars_notes_and_a_map_and_redraw_another(handlers):
    held, *_ = handlers.open_sample("CT", [])
    reading, shown, bars, said, classes = handlers.look(
        held, 0, 1, "scope-mini", "modality-description-ensemble", "class", 0.6
    )
    assert bars.count("<li") == 8 and "zero-shot" in bars and "Uncalibrated" in bars
    assert "How the file was read" in said and "Rescaled with slope 1" in said and "Learned from words alone" in said
    assert 'class="ps-map"' in shown and "Map: what speaks for" in shown and "2 cm" in shown
    other = classes["choices"][1][1]
    redrawn = handlers.redraw(reading, other, "class", 0.6)
    assert (
        re.search(r'class="ps-map"[^>]*src="([^"]+)"', redrawn)[1]
        != re.search(r'class="ps-map"[^>]*src="([^"]+)"', shown)[1]
    )


def test_a_set_that_does_not_fit_is_a_sentence_in_the_viewer(handlers):
    held, *_ = handlers.open_sample("CT", [])
    reading, shown, bars, _, _ = handlers.look(held, 0, 1, "scope-mini", "nope", "class", 0.6)
    assert reading is None and 'role="alert"' in shown and "no prompt set" in shown and bars == ""


def test_the_same_upload_twice_is_one_case_and_a_vanished_one_a_sentence(handlers, tmp_path):
    path = copied(tmp_path)
    held, *_ = handlers.open_files([path, path], [])
    assert len(held) == 1
    cases.forget(held)
    with pytest.raises(engine.ImageError, match=r"'a\.dcm' was taken by another request"):
        cases.take(path)


def test_an_image_too_long_and_thin_is_a_sentence(client, tmp_path):
    """It would be resized to many times the input (it once took 3 GB)."""
    PIL.Image.new("L", (20_000, 1)).save(tmp_path / "thin.png")
    assert "20000 x 1 pixels: too long and thin" in ask(client, tmp_path / "thin.png")["error"]


def test_everything_from_outside_is_escaped():
    image = engine.Image(np.zeros((4, 4), np.float32))
    assert "<i>" not in render.viewer(image, engine.Box(0, 0, 4, 4), None, "x", 0.5, "<i>n</i>").replace("<i class", "")
    assert "<script>" not in render.error("<script>alert(1)</script>")
    assert "<b>x" not in render.notes("t", ["<b>x</b>"])


def test_a_flat_map_is_said_and_not_drawn():
    image = engine.Image(np.zeros((10, 10), np.float32))
    html = render.viewer(image, engine.Box(0, 0, 10, 10), np.ones((10, 10), np.float32), "x", 0.5)
    assert "ps-map" not in html and text.FLAT in html


def test_the_frame_of_what_the_model_saw_is_drawn_where_it_was():
    image = engine.Image(np.zeros((100, 200), np.float32))
    html = render.viewer(image, engine.Box(0, 50, 100, 100), np.ones((100, 200), np.float32), "x", 0.5)
    assert "left:25.000%" in html and "width:50.000%" in html and text.BOX in html


@pytest.mark.parametrize(("columns", "spacing", "expected"), [(200, 1.0, "5 cm"), (128, 0.66, "2 cm"), (100, 0.1, "2 mm")])
def test_the_scale_bar_is_a_round_length_of_at_most_a_quarter(columns, spacing, expected):
    image = engine.Image(np.zeros((50, columns), np.float32), spacing_mm=(spacing, spacing))
    assert f"<span>{expected}</span>" in render.viewer(image, engine.Box(0, 0, 50, columns), None, "x", 0.5)


def test_questions_do_not_depend_on_the_backbone_and_are_made_where_none_is_shipped(
    handlers, random_biomedclip, monkeypatch
):
    values = [value for _, value in models.questions()]
    assert values[:2] == ["modality-description-ensemble", "modality-zero-shot"] and len(values) == len(set(values))
    assert models.prompts("btmri-zero-shot", "scope-mini", "cpu", "float32").name == "btmri-zero-shot-scope-mini"
    monkeypatch.setenv("PROMPTSCOPE_BIOMEDCLIP", str(random_biomedclip.folder))
    models.backbone("biomedclip", "cpu", "float32")
    made = models.prompts("btmri-zero-shot", "biomedclip", "cpu", "float32")
    assert made.name == "btmri-zero-shot-biomedclip"
    models._loaded.cache_clear()
    models._prompts.cache_clear()


def test_a_path_is_no_prompt_set(client, tmp_path):
    """A visitor cannot make the server open folders."""
    assert "There is no prompt set" in ask(client, CT, prompts=str(tmp_path))["error"]
    assert "There is no prompt set" in ask(client, CT, prompts="../learned_prompts")["error"]
    assert "no backbone called 'local-dir:" in ask(client, CT, backbone=f"local-dir:{tmp_path}")["error"]


def test_what_a_killed_server_left_is_deleted_at_the_next_start(tmp_path, monkeypatch):
    left, alive = tmp_path / "promptscope-uploads-999999999-x", tmp_path / f"promptscope-uploads-{os.getpid()}-y"
    for folder in (left, alive):
        folder.mkdir()
        (folder / "upload").write_bytes(b"pixels")
    monkeypatch.setattr(cases.tempfile, "gettempdir", lambda: str(tmp_path))
    cases._folder.__wrapped__()
    assert not left.exists() and (alive / "upload").exists()


# --- settings and starting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"PROMPTSCOPE_PORT": "http"}, "PROMPTSCOPE_PORT is 'http'"),
        ({"PROMPTSCOPE_PORT": "70000"}, "from 1 to 65535"),
        ({"PROMPTSCOPE_AUTH": "nocolon"}, "Write it as user:password"),
        ({"PROMPTSCOPE_DEVICE": "tpu"}, "auto, cpu or cuda"),
        ({"PROMPTSCOPE_UPLOAD_MB": "0"}, "from 1 to 10000"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_a_sentence(variables, sentence):
    with pytest.raises(SettingsError, match=sentence):
        read_settings(variables)


def test_settings_are_read():
    found = read_settings({"PROMPTSCOPE_AUTH": "u:p:w", "PROMPTSCOPE_HOST": "0.0.0.0", "PROMPTSCOPE_PORT": "80"})
    assert (found.auth, found.host, found.port) == (("u", "p:w"), "0.0.0.0", 80)


def test_the_spaces_file_starts_the_page_as_a_space_does(tmp_path):
    """`python space.py` from the repository's root, with a Space's variables."""
    port = free_port()
    environment = os.environ | {
        "SPACE_ID": "someone/promptscope",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(tmp_path / "gradio"),
        "TMPDIR": str(tmp_path),
    }
    started = subprocess.Popen([sys.executable, "space.py"], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    try:
        for _ in range(120):
            assert started.poll() is None, started.stderr.read().decode()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("the page did not answer in 60 seconds")
        assert ask(Client(f"http://127.0.0.1:{port}/", verbose=False), CT)["status"] == "ok"
        assert list(tmp_path.glob("promptscope-uploads-*"))
    finally:
        started.terminate()
        started.communicate(timeout=30)
    assert not list(tmp_path.glob("promptscope-uploads-*")), "a stopped server left its upload folder"
