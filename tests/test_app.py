"""The page through its HTTP API, its handlers and its pictures. Run: python -m pytest tests/test_app.py"""

from __future__ import annotations

import errno
import gc
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import PIL.Image
import pytest
from broken import broken_files
from conftest import free_port
from gradio_client import Client, handle_file
from phantom import write_series

import engine
from app import cases, chance, compute, covers, models, page, render, text
from app.host import Screen
from app.read import Read
from app.settings import Settings, SettingsError, read_settings
from engine import scratch

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
    """Every fourth of those that tests/test_readers.py reads, without pipes and the largest."""
    broken = [(what, path) for what, path in broken_files(tmp_path) if os.path.isfile(path) and "zeros" not in what][::4]
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
    assert "There is no frame 9; 'File 1' has 1." in ask(client, CT, frame=9)["error"]


def test_an_absent_backbone_says_what_to_do(client, monkeypatch):
    monkeypatch.delenv("PROMPTSCOPE_BIOMEDCLIP", raising=False)
    row = ask(client, CT, backbone="biomedclip", prompts="btmri")
    assert row["status"] == "error" and "PROMPTSCOPE_BIOMEDCLIP" in row["error"]


def test_a_backbone_that_failed_is_not_tried_again_at_once_but_later(monkeypatch):
    """Bug: a choice reached the server twice, both waited for the hub, and the way back was not taken meanwhile."""
    tries = []

    def fail(*asked):
        tries.append(asked)
        raise engine.BackboneError("It is not here.")

    monkeypatch.setattr(models, "_loaded", fail)
    monkeypatch.setattr(models, "_failed", {})
    for _ in range(2):
        with pytest.raises(engine.BackboneError, match="It is not here"):
            models.backbone("biomedclip", "cpu", "float32")
    assert len(tries) == 1
    monkeypatch.setattr(models, "AGAIN_S", 0)
    with pytest.raises(engine.BackboneError):
        models.backbone("biomedclip", "cpu", "float32")
    assert len(tries) == 2


def test_uploads_leave_nothing_behind(server, client, tmp_path):
    named = tmp_path / "DOE^JANE_1970.dcm"
    shutil.copy(CT, named)
    assert ask(client, named)["status"] == "ok"
    left = [p for p in server[1].rglob("*") if p.is_file() and p.stat().st_size > 0 and "DOE" in str(p)]
    assert left == []
    assert list(Path(tempfile.gettempdir()).glob(f"promptscope-{os.getpid()}-*")) == []


def test_about_tells_what_computes(client):
    about = client.predict(api_name="/about")
    assert about["device"] == "cpu (float32)" and about["prompt_sets"] == engine.library()


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
    made = page.Page(Settings(device="cpu"))
    made.build()
    yield made.read
    made.host.close()


def copied(tmp_path: Path, name: str = "a.dcm") -> str:
    return str(shutil.copy(CT, tmp_path / name))


def opened(handlers: Read, files: list[str], held: list[cases.Case] | None = None) -> tuple:
    """(cases, problem) after an upload."""
    screen = Screen(held=held or [])
    *_, last = handlers.open_files(files, screen, 1)
    return screen.held, last[handlers.ui.problem]


def sampled(handlers: Read) -> list[cases.Case]:
    screen = Screen()
    handlers.open_sample("CT", screen, 1)
    return screen.held


def look(handlers: Read, held: list[cases.Case], frame: int = 1, window: str = "", invert: bool = False, areas: str = "",
         prompts: str = "modality-description-ensemble") -> SimpleNamespace:  # fmt: skip
    """What the page shows, by the components' names."""
    found = handlers.look_anew(
        None, Screen(held=held), 0, frame, window, 40, 400, invert, areas, "scope-mini", prompts, "class", "", 0.6
    )
    return SimpleNamespace(**{name: found.get(part) for name, part in vars(handlers.ui).items() if name != "samples"})


def test_a_bad_file_among_good_ones_is_named_and_the_good_ones_open(handlers, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    held, problem = opened(handlers, [copied(tmp_path), str(bad)])
    assert [case.title for case in held] == ["CT, 128 x 128"]
    assert 'role="alert"' in problem and "bad.png" in problem and not bad.exists()
    cases.forget(held)


def test_a_bad_file_alone_keeps_what_was_open(handlers, tmp_path):
    held, _ = opened(handlers, [copied(tmp_path)])
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    kept, problem = opened(handlers, [str(bad)], held)
    assert kept is held and held[0].folder.path.is_dir() and "This did not work" in problem
    handlers.clear(Screen(held=held), 1)
    assert not held[0].folder.path.exists()


def test_nothing_of_a_files_name_is_in_the_visitors_state(handlers, tmp_path):
    held, _ = opened(handlers, [copied(tmp_path, "DOE^JANE.dcm")])
    assert "DOE" not in repr(held) and "JANE" not in repr(vars(look(handlers, held)))
    cases.forget(held)


def test_look_gives_bars_notes_and_a_map_and_redraw_another(handlers):
    shown = look(handlers, sampled(handlers))
    assert shown.result.count("<li") == 8 and "zero-shot" in shown.result and "Uncalibrated" in shown.result
    for words in ("How the file was read", "Rescaled with slope 1", "Learned from words alone"):
        assert words in shown.said
    assert 'class="ps-map"' in shown.view and "Map: what speaks for" in shown.view and "2 cm" in shown.view
    other = shown.classes["choices"][1][1]
    redrawn = handlers.redraw(shown.reading, Screen(), other, "class", "", 0.6)[handlers.ui.view]
    assert (
        re.search(r'class="ps-map"[^>]*src="([^"]+)"', redrawn)[1]
        != re.search(r'class="ps-map"[^>]*src="([^"]+)"', shown.view)[1]
    )


def test_a_set_that_does_not_fit_is_a_sentence_in_the_viewer(handlers):
    shown = look(handlers, sampled(handlers), prompts="nope")
    assert shown.reading is None and 'role="alert"' in shown.view and "no prompt set" in shown.view and shown.result == ""


def test_what_is_classified_is_what_is_shown(handlers):
    """The window, the inversion and the covered areas change the picture and the probabilities, and both are one image."""
    held = sampled(handlers)
    plain = look(handlers, held)
    values, exact = plain.reading.image.pixels, {"function": "LINEAR_EXACT"}
    upper = np.arange(128)[:, None] < 64
    for change, expected in (
        ({"window": "lung"}, held[0].series.frame(0, engine.Window(-600, 1500)).pixels),
        ({"window": "own"}, held[0].series.frame(0, engine.Window(40, 400, **exact)).pixels),
        ({"window": "0, 100"}, held[0].series.frame(0, engine.Window(0, 100, **exact)).pixels),
        ({"invert": True}, 1 - values),
        ({"areas": "0,0,64,128"}, np.where(upper, 0, values)),
        ({"areas": "0,0,64,128", "invert": True}, np.where(upper, 0, 1 - values)),  # covered areas are black in any case
    ):
        shown = look(handlers, held, **change)
        np.testing.assert_allclose(shown.reading.image.pixels, expected, atol=1e-6)
        backbone = models.backbone("scope-mini", "cpu", "float32")
        again = engine.predict(shown.reading.image, backbone, shown.reading.prompts)
        assert f"{again.ranked()[0][1]:.1%}" in shown.result, change
        assert shown.view != plain.view


def test_a_large_image_is_shown_smaller_with_its_map_and_boxes_in_place(handlers, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 60, (2000, 3000), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    held, _ = opened(handlers, [str(tmp_path / "a.png")])
    shown = look(handlers, held, areas="0,0,100,100")
    assert shown.reading.image.shape == (683, 1024) and shown.reading.shape == (2000, 3000)
    assert 'data-rows="2000" data-columns="3000"' in shown.view
    assert "left:16.667%" in shown.view and "width:66.667%" in shown.view  # the square in the middle that the model saw
    cases.forget(held)


def test_a_window_or_an_area_that_is_not_understood_is_a_sentence(handlers):
    held = sampled(handlers)
    for slip, words in (
        ({"window": "wide"}, "The window &#x27;wide&#x27;"),
        ({"areas": "1,2,3"}, "The area &#x27;1,2,3&#x27;"),
    ):
        shown = look(handlers, held, **slip)
        assert f"{words} is not understood" in shown.wrong and shown.view is None and shown.result is None  # they stay
    assert 'role="alert"' in look(handlers, held, window="40,0").view
    assert look(handlers, held, window="40 / 400").wrong == ""


def test_values_between_0_and_1_have_windows_too(handlers, tmp_path):
    """Bug: a window by hand was LINEAR, which takes no width below 1."""
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    PIL.Image.fromarray(values).save(tmp_path / "a.tif")
    held, _ = opened(handlers, [str(tmp_path / "a.tif")])
    image = look(handlers, held, window="0.5,0.5").reading.image
    np.testing.assert_allclose(image.pixels, np.clip((values - 0.5) / 0.5 + 0.5, 0, 1), atol=1e-6)
    cases.forget(held)


def test_sliders_are_there_where_a_window_applies_and_stand_at_it(handlers, tmp_path):
    ct = look(handlers, sampled(handlers), window="lung")
    assert ct.levels["visible"] and (ct.center["value"], ct.width["value"]) == (-600, 1500)
    PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    held, _ = opened(handlers, [str(tmp_path / "a.png")])
    assert look(handlers, held).levels["visible"] is False
    cases.forget(held)


def test_a_question_about_another_kind_of_image_is_warned_of(handlers):
    held = sampled(handlers)
    said = "The question is about MRI, the file says CT. The answer means nothing."
    assert said in look(handlers, held, prompts="btmri-zero-shot").care
    assert "The question is about" not in look(handlers, held, prompts="ctkidney-zero-shot").care
    assert "there is nothing to see" in look(handlers, held, areas="0,0,128,128").care


def test_a_file_that_fails_when_it_is_decoded_is_called_by_its_title(handlers, tmp_path):
    cut = tmp_path / "DOE^JANE.dcm"
    cut.write_bytes(CT.read_bytes()[:-20_000])
    held, _ = opened(handlers, [str(cut)])
    said = look(handlers, held).view
    assert "&#x27;CT, 128 x 128&#x27;" in said and "File 1" not in said and "DOE" not in said
    cases.forget(held)


def test_areas_are_written_as_they_are_read():
    boxes = covers.read("0, 0, 40, 300; 5,6,7,8;5,6,7,8;")
    assert boxes == (engine.Box(0, 0, 40, 300), engine.Box(5, 6, 7, 8), engine.Box(5, 6, 7, 8))
    assert covers.write(boxes) == "0, 0, 40, 300; 5, 6, 7, 8" and covers.read("") == ()
    for words in ("a,b,c,d", "-1,0,2,2", "0,0,0,2", "nan,0,1,1", "; ".join(["0,0,1,1"] * 201)):
        with pytest.raises(engine.ImageError):
            covers.read(words)


def test_a_series_opens_as_one_case_shows_its_middle_and_is_classified_whole(handlers, tmp_path):
    ui = handlers.ui
    files = [str(p) for p in write_series(tmp_path / "ct", slices=12, side=32)]
    screen = Screen()
    early, last = handlers.open_files(files, screen, 1)
    assert "One of 12 files" in early[ui.view] and "ps-base" in early[ui.view]
    assert [early[part] for part in (ui.result, ui.care, ui.said, ui.curve)] == [""] * 4  # nothing of the image before it
    held = screen.held
    assert [case.title for case in held] == ["CT, 12 slices of 32 x 32"] and not any(Path(f).exists() for f in files)
    assert last[ui.frame]["maximum"] == 12 and last[ui.frame]["value"] == 7
    windows = dict((value, words) for words, value in last[ui.window]["choices"])
    assert windows["file 2"] == "File 2 LUNG: -600 / 1500" and windows["lung"].startswith("Lung")
    assert list(windows)[3:5] == ["lung", "mediastinum"]  # the chest's presets come first
    asked = (Screen(held=held), 0, 7, "", 40, 400, False, "", "scope-mini", "modality-zero-shot")
    *_, done = handlers.all_frames(None, *asked, "mean")
    (whole,) = (each[ui.whole] for each in handlers.all_frames(None, *asked, "mean") if ui.whole in each)
    html = handlers.repool(whole, 3, "max")
    assert done[ui.how]["interactive"] and not done[ui.stop]["visible"]
    assert whole.curve.done == 12 and "highest of 12 frames" in html and 'data-frames="12"' in html and "ps-now" in html
    frame = look(handlers, held, 3, prompts="modality-zero-shot")
    backbone = models.backbone("scope-mini", "cpu", "float32")
    alone = engine.predict(frame.reading.image, backbone, frame.reading.prompts).probabilities
    np.testing.assert_allclose(whole.curve.probabilities[0][2], alone, atol=1e-5)
    assert frame.whole is None and frame.curve == "" and frame.volume["visible"]
    strip = handlers.thumbnails(screen, 0, "", 40, 400, False, "")
    assert strip.count("data-frame=") == 10 and strip != handlers.thumbnails(screen, 0, "", 40, 400, True, "")
    cases.forget(held)


def test_what_is_answered_of_a_study_that_has_gone_is_not_shown(handlers, tmp_path, monkeypatch):
    """Bugs: one patient's curve grew on beside the next one's picture; an answer came back after Clear."""
    ui, screen = handlers.ui, Screen()
    files = [str(p) for p in write_series(tmp_path / "ct", slices=40, side=32)]
    opening = handlers.open_files(files, screen, 1)
    next(opening)
    handlers.clear(screen, 2)
    assert list(opening) == [{ui.drop: gr.skip()}] and not any(Path(f).exists() for f in files)
    *_, _ = handlers.open_files([str(p) for p in write_series(tmp_path / "again", slices=40, side=32)], screen, 3)
    view = (0, 7, "", 40, 400, False, "", "scope-mini", "modality-zero-shot")
    growing = handlers.all_frames(None, screen, *view, "mean")
    while ui.curve not in next(growing):
        pass
    screen.view += 1
    assert all(ui.curve not in each for each in growing)
    classify = compute.classify

    def slow(*asked):
        screen.change()
        return classify(*asked)

    monkeypatch.setattr(compute, "classify", slow)
    assert set(handlers.look(None, screen, *view, "class", "", 0.6)) == {ui.wrong}
    frames_of = engine.frames_of

    def chosen(*asked):
        handlers.choose_series(screen, 0)  # another series of the study
        return frames_of(*asked)

    monkeypatch.setattr(engine, "frames_of", chosen)
    assert handlers.thumbnails(screen, 0, "", 40, 400, False, "") == gr.skip()
    cases.forget(screen.held)


def test_the_visitors_last_act_counts_in_whatever_order_the_server_hears_of_them(handlers, tmp_path):
    """Bugs: files that took long to arrive were opened after Clear; Clear was heard before the upload that it was to undo."""
    ui, screen = handlers.ui, Screen()
    handlers.open_sample("CT", screen, 1)
    handlers.clear(screen, 3)
    assert screen.held == []
    early = [str(shutil.copy(CT, tmp_path / "early.dcm"))]  # chosen before the page counted
    assert [set(each) for each in handlers.open_files(early, screen, 0)] == [{ui.drop}] and screen.held == []
    sent = [str(shutil.copy(CT, tmp_path / "late.dcm"))]
    (late,) = handlers.open_files(sent, screen, 2)
    assert set(late) == {ui.drop} and not Path(sent[0]).exists() and screen.held == []
    handlers.open_sample("MR", screen, 5)
    for behind in (handlers.open_sample("CT", screen, 4), handlers.clear(screen, 4)):
        assert behind == {ui.drop: gr.skip()} and [case.title for case in screen.held] == ["Example: MR"]


def test_clear_between_the_last_file_and_the_answer_leaves_nothing(handlers, tmp_path, monkeypatch):
    """Bug: the cases were put back by an answer that was already on its way when Clear was pressed."""
    ui, screen = handlers.ui, Screen()
    choosers = handlers._choosers

    def cleared(opened):
        handlers.clear(screen, 2)
        return choosers(opened)

    monkeypatch.setattr(handlers, "_choosers", cleared)
    (came,) = handlers.open_files([copied(tmp_path)], screen, 1)
    assert screen.held == [] and came[ui.file]["visible"] is False  # it went out after Clear had drawn its empty screen
    after = handlers.look_anew(
        None, screen, 0, 1, "", 40, 400, False, "", "scope-mini", "modality-zero-shot", "class", "", 0.5
    )
    assert "No image yet" in after[ui.view] and not after[ui.frame]["visible"] and not after[ui.window]["visible"]


def test_a_map_is_held_against_chance_and_the_test_ends_when_something_else_is_looked_at(handlers, tmp_path, monkeypatch):
    monkeypatch.setattr(chance, "STEPS", 4)
    monkeypatch.setattr(chance, "ORDERS", 4)
    ui, screen = handlers.ui, Screen(held=sampled(handlers))
    view = (0, 1, "", 40, 400, False, "0,0,64,128", "scope-mini", "modality-zero-shot", "class", "attention", 0.5)
    shown = handlers.look_anew(None, screen, *view)
    reading, top = shown[ui.reading], shown[ui.classes]["value"]
    assert shown[ui.method]["value"] == "attention" and ("LeGrad", "legrad") in shown[ui.method]["choices"]
    first, last = handlers.test(reading, screen, top, "class", "attention")
    assert first[ui.check_stop]["visible"] and last[ui.check]["visible"] and not last[ui.check_stop]["visible"]
    backbone = models.backbone("scope-mini", "cpu", "float32")
    heatmap = engine.explain(reading.prepared, backbone, reading.prompts, [top], "attention")[0]
    seen = engine.seen_cells(reading.prepared.box, reading.shape, heatmap.values.shape, [engine.Box(0, 0, 64, 128)])
    assert seen.sum() == seen.size // 2  # the covered upper half says nothing
    alone = engine.against_chance(
        reading.prepared, backbone, reading.prompts, top, heatmap.values, chance.STEPS, chance.ORDERS, seen=seen
    )
    assert alone.verdict in html.unescape(last[ui.chance]) and 'class="ps-line3"' in last[ui.chance]
    testing = handlers.test(reading, screen, top, "class", "attention")
    next(testing)
    assert text.CHECK_STOPPED in handlers.stop_test(screen)[ui.chance]
    assert list(testing) == [{ui.chance: gr.skip()}]
    score = compute.score

    def looked(*asked):
        screen.view += 1  # another window, another frame
        return score(*asked)

    monkeypatch.setattr(compute, "score", looked)
    assert list(handlers.test(reading, screen, top, "class", "legrad"))[1:] == [{ui.chance: gr.skip()}]
    gone = handlers.redraw(reading, screen, top, "class", "legrad", 0.5)
    assert gone[ui.chance] == "" and gone[ui.view] != shown[ui.view]


def test_a_backbone_that_cannot_carry_the_chosen_map_shows_its_first(handlers):
    asked = handlers.host.asked(None, "scope-mini", "modality-zero-shot", "class", "a map of another backbone")
    assert asked.method == ""


def test_covered_areas_and_inversion_hold_for_all_frames_too(handlers, tmp_path):
    held, _ = opened(handlers, [str(p) for p in write_series(tmp_path / "ct", slices=3, side=32)])
    asked = (Screen(held=held), 0, 2, "lung", 40, 400, True, "0,0,16,32", "scope-mini", "modality-zero-shot")
    (whole,) = (each[handlers.ui.whole] for each in handlers.all_frames(None, *asked, "mean") if handlers.ui.whole in each)
    backbone = models.backbone("scope-mini", "cpu", "float32")
    for i in range(3):
        pixels = 1 - held[0].series.frame(i, engine.Window(-600, 1500)).pixels
        pixels[:16] = 0
        alone = engine.predict(engine.Image(pixels), backbone, whole.prompts).probabilities
        np.testing.assert_allclose(whole.curve.probabilities[0][i], alone, atol=1e-5)
    cases.forget(held)


def test_the_same_upload_twice_is_one_case_and_a_vanished_one_a_sentence(handlers, tmp_path):
    path = copied(tmp_path)
    held, problem = opened(handlers, [path, path])
    assert len(held) == 1 and problem == ""
    cases.forget(held)
    assert "a.dcm&#x27; was taken by another request" in opened(handlers, [path])[1]


def test_a_full_disk_is_said_and_the_upload_is_deleted(handlers, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = copied(tmp_path)
    monkeypatch.setattr(cases.shutil, "move", full)
    held, problem = opened(handlers, [path])
    assert held == [] and "could not be taken in (No space left on device)" in problem and not Path(path).exists()


def test_many_refused_files_are_a_list_that_says_whether_others_are_open():
    sentences = [f"The file {i} is bad." for i in range(5)]
    assert "5 files could not be read; the others are open." in render.refused(sentences, True)
    assert "5 files could not be read.</b>" in render.refused(sentences, False)
    assert render.refused([], True) == ""


def test_too_many_files_are_refused_and_deleted(handlers, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.sandbox(), "limits", engine.Limits(zip_entries=2))
    files = [copied(tmp_path, f"{i}.dcm") for i in range(3)]
    held, problem = opened(handlers, files)
    assert held == [] and "3 files are too many at once. At most 2 are taken." in problem
    assert not any(Path(f).exists() for f in files)


def test_a_zip_is_opened_and_its_bad_entries_are_said(client, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(CT, "study/1.dcm")
        archive.writestr("study/readme.txt", "no image")
    answer = client.predict(handle_file(str(tmp_path / "a.zip")), "scope-mini", "modality", 0, api_name="/predict")
    good, bad = answer["results"]
    assert good["status"] == "ok" and bad["status"] == "error" and "readme.txt" in bad["error"]


def test_programs_pool_a_volume_and_choose_a_window(client, tmp_path):
    write_series(tmp_path / "ct", slices=5, side=32)
    shutil.make_archive(str(tmp_path / "ct"), "zip", tmp_path / "ct")
    zipped = handle_file(str(tmp_path / "ct.zip"))
    answer = client.predict(zipped, "scope-mini", "modality", 0, "lung", "top-k", api_name="/predict")
    (row,) = answer["results"]
    assert row["pooling"]["words"] == "the mean of each class's 5 highest of 5 frames, scaled to sum to 1"
    assert row["window"]["name"] == "lung" and sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_the_audit_tells_what_was_asked_and_nothing_of_whom(tmp_path):
    log = tmp_path / "audit.jsonl"
    made = page.Page(Settings(device="cpu", audit=log))
    made.build()
    handlers = made.read
    held, _ = opened(handlers, [str(p) for p in write_series(tmp_path / "DOE^JANE", slices=3, side=32)])
    look(handlers, held, window="lung", areas="0,0,9,9")
    look(handlers, held, invert=True)
    asked = (Screen(held=held), 0, 2, "automatic", 40, 400, False, "", "scope-mini", "modality-zero-shot")
    *_, whole, _ = handlers.all_frames(None, *asked, "max")
    handlers.stop(whole[handlers.ui.whole], "mean")  # what stands on the screen is accounted for, too
    cases.forget(held)
    first, second, third, fourth = map(json.loads, log.read_text().splitlines())
    assert third["window"][2] == "LINEAR_EXACT" and third["window"][1] > 100  # the numbers that were used
    assert fourth["pool"] == "mean" and fourth["pixels"] == third["pixels"] != ""
    assert log.stat().st_mode & 0o777 == 0o600 and not re.search("DOE|Phantom", log.read_text())
    assert first["window"] == [-600, 1500, "LINEAR"] and first["covered"] == 1 and first["pixels"] != second["pixels"]
    assert (first["inverted"], second["inverted"], first["pool"]) == (False, True, None)
    assert (third["frames"], third["pool"]) == (3, "max")
    assert first["weights"] == models.backbone("scope-mini", "cpu", "float32").weights_hash
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_an_audit_that_cannot_be_written_is_said_at_the_start_and_no_answer_goes_unaccounted(tmp_path):
    settings = Settings(device="cpu", audit=tmp_path)  # a folder
    with pytest.raises(engine.EngineError, match=r"The audit cannot be written \(Is a directory\)"):
        page.launch(settings)
    made = page.Page(settings)
    made.build()
    handlers = made.read
    assert "The audit cannot be written" in look(handlers, sampled(handlers)).view


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
    values = [each.value for each in models.questions(None)]
    assert values[:2] == ["modality-description-ensemble", "modality-zero-shot"] and len(values) == len(set(values))
    assert (
        models.prompts(compute.Asked("scope-mini", "btmri-zero-shot", "cpu", "float32")).name == "btmri-zero-shot-scope-mini"
    )
    monkeypatch.setenv("PROMPTSCOPE_BIOMEDCLIP", str(random_biomedclip.folder))
    monkeypatch.setattr(models, "_failed", {})
    models.backbone("biomedclip", "cpu", "float32")
    made = models.prompts(compute.Asked("biomedclip", "btmri-zero-shot", "cpu", "float32"))
    assert made.name == "btmri-zero-shot-biomedclip"
    models._ready.pop(("biomedclip", "cpu", "float32"))
    models._made[""].clear()


def test_a_path_is_no_prompt_set(client, tmp_path):
    """A visitor cannot make the server open folders."""
    assert "There is no prompt set" in ask(client, CT, prompts=str(tmp_path))["error"]
    assert "There is no prompt set" in ask(client, CT, prompts="../learned_prompts")["error"]
    assert "no backbone called 'local-dir:" in ask(client, CT, backbone=f"local-dir:{tmp_path}")["error"]


def test_what_a_killed_server_left_is_deleted_at_the_next_start(tmp_path, monkeypatch):
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    # in a container every server is process 1: a folder of our own number is of a server before us
    gone = [tmp_path / f"promptscope-{number}-x" for number in (999999999, os.getpid())]
    kept = [tmp_path / name for name in (f"promptscope-{alive.pid}-x", "promptscope-out", "promptscope-1x-y")]
    for folder in (*gone, *kept):
        folder.mkdir()
        (folder / "upload").write_bytes(b"pixels")
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    scratch.sweep.__wrapped__()
    alive.kill()
    alive.communicate()
    assert not any(folder.exists() for folder in gone) and all((folder / "upload").exists() for folder in kept)


def test_files_go_when_nobody_refers_to_them_any_more(handlers, tmp_path):
    """Two uploads at once: the later answer replaces the earlier one without forgetting it."""
    held, _ = opened(handlers, [copied(tmp_path)])
    path = held[0].folder.path
    assert path.is_dir()
    del held
    gc.collect()
    assert not path.exists()


def test_a_zip_with_one_bad_series_gives_the_others(client, tmp_path):
    write_series(tmp_path / "ct", slices=2, side=32)
    _, second = sorted((tmp_path / "ct").iterdir())
    content = bytearray(second.read_bytes())
    at = content.index(b"\xe0\x7f\x10\x00")
    second.write_bytes(content[: at + 200])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(CT, "good.dcm")
        archive.write(second, "cut.dcm")
    answer = client.predict(handle_file(str(tmp_path / "a.zip")), "scope-mini", "modality", 0, api_name="/predict")
    assert sorted(row["status"] for row in answer["results"]) == ["error", "ok"]


def test_a_wrong_window_leaves_no_upload_behind(server, client, tmp_path):
    named = tmp_path / "ROE^RICHARD.dcm"
    shutil.copy(CT, named)
    answer = client.predict(handle_file(str(named)), "scope-mini", "modality", 0, "wide", api_name="/predict")
    assert "The window 'wide' is not understood" in answer["results"][0]["error"]
    assert [p for p in server[1].rglob("*") if "ROE" in str(p) and p.is_file()] == []


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
        for _ in range(360):
            assert started.poll() is None, started.stderr.read().decode()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("the page did not answer in three minutes")
        assert ask(Client(f"http://127.0.0.1:{port}/", verbose=False), CT)["status"] == "ok"
    finally:
        started.terminate()
        started.communicate(timeout=30)
    assert not list(tmp_path.glob("promptscope-*")), "a stopped server left its upload folder"
