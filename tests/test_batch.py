"""Many files to one table: the stream of rows, the Batch tab's handlers, its table and its downloads.

Run: python -m pytest tests/test_batch.py
"""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import threading
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image
import pytest
from conftest import make_dicom
from phantom import write_series

import engine
from app import batch, cases, compute, rows
from app.host import Host
from app.settings import Settings

CT = next(s.path for s in engine.samples() if s.title == "CT")
QUESTION = "modality-description-ensemble"


def picture(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    PIL.Image.fromarray(rng.integers(0, 255, (48, 64), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


@pytest.fixture(scope="module")
def modality(mini):
    return engine.prompt_set("modality", mini)


@pytest.fixture
def folder(tmp_path):
    """Good, damaged, empty, text, DICOMDIR, hidden; a zip with a zip inside; a series; a link that leads out."""
    place = tmp_path / "study"
    (place / "ct").mkdir(parents=True)
    write_series(place / "ct", slices=4, side=32)
    picture(place / "good.png")
    (place / "damaged.png").write_bytes((place / "good.png").read_bytes()[:80])
    (place / "empty.dcm").write_bytes(b"")
    (place / "notes.txt").write_text("no image")
    (place / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (place / ".DS_Store").write_bytes(b"x")
    (tmp_path / "elsewhere.png").write_bytes((place / "good.png").read_bytes())
    (place / "link.png").symlink_to(tmp_path / "elsewhere.png")
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("deep.png", b"x")
    with zipfile.ZipFile(place / "more.zip", "w") as archive:
        archive.write(picture(tmp_path / "packed.png", 1), "packed.png")
        archive.writestr("inner.zip", inner.getvalue())
        archive.writestr("__MACOSX/._packed.png", b"x")
    return place


def test_every_file_of_a_folder_ends_in_a_row(folder, mini, modality):
    opened = engine.open_all([folder])
    found = list(engine.predict_all(opened, mini, [modality], engine.Look(pool="mean")))
    named = {name for row in found for name in row["files"]}
    there = {p.name for p in folder.rglob("*") if p.is_file()} | {"packed.png", "inner.zip"}
    assert named == there  # more.zip stands for what was passed over in it
    by = {name: row for row in found for name in row["files"]}
    status = {name: row["status"] for name, row in by.items()}
    slices = {p.name for p in (folder / "ct").iterdir()}
    assert {n for n, s in status.items() if s == "ok"} == slices | {"good.png", "packed.png"}
    assert {n for n, s in status.items() if s == "error"} == {"damaged.png", "empty.dcm", "notes.txt", "inner.zip"}
    assert {n for n, s in status.items() if s == "skipped"} == {"DICOMDIR", ".DS_Store", "link.png", "more.zip"}
    assert "hidden, or a DICOMDIR" in by["more.zip"]["error"] and "leads out of it" in by["link.png"]["error"]
    assert len(by[min(slices)]["files"]) == 4 and by[min(slices)]["pooling"]["frames"] == [1, 2, 3, 4]
    assert all(row["error"] for row in found if row["status"] != "ok")


def test_the_numbers_are_those_of_predict_and_of_pooling_by_hand(tmp_path, mini, modality):
    picture(tmp_path / "a.png")
    write_series(tmp_path / "ct", slices=3, side=32)
    series = {s.frames: s for s in engine.read([tmp_path / "a.png", tmp_path / "ct"])}
    opened = engine.Opened(tuple(series.values()))
    by_hand = np.stack([engine.predict(series[3].frame(i), mini, modality).probabilities for i in range(3)])
    single = engine.predict(series[1].frame(0), mini, modality).probabilities
    for pool, expected in (("mean", by_hand.mean(axis=0)), ("", by_hand[1])):
        found = {len(row["files"]): row for row in engine.predict_all(opened, mini, [modality], engine.Look(pool=pool))}
        np.testing.assert_allclose(list(found[3]["probabilities"].values()), expected, atol=1e-5)
        np.testing.assert_allclose(list(found[1]["probabilities"].values()), single, atol=1e-6)
        assert found[3]["frame"] == (None if pool else 2) and found[1]["frame"] == 1


@dataclass
class Counting:
    """A series of one frame that counts how often it is decoded, and at how many places at once its pixels live."""

    series: engine.Series
    decoded: list[int] = field(default_factory=list)
    frames: int = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.series, name)

    def frame(self, index: int, window: engine.Window | None = None) -> engine.Image:
        self.decoded.append(index)
        return self.series.frame(index, window)


def test_the_stream_is_lazy_and_ends_where_nobody_asks_for_more(tmp_path, mini, modality):
    series = engine.read([picture(tmp_path / "a.png")])[0]
    counting = Counting(series)
    opened = engine.Opened((counting,) * 200)
    stream = engine.predict_all(opened, mini, [modality])
    next(stream)
    ahead = 2 * engine.sandbox().workers  # decoded while the first was classified
    assert len(counting.decoded) <= ahead + 2
    stream.close()
    before = len(counting.decoded)
    threading.Event().wait(0.3)
    assert len(counting.decoded) <= before + ahead


def test_one_image_forward_serves_several_shared_image_sets(tmp_path, mini, modality, monkeypatch):
    calls = []
    plain = type(mini).encode_images
    monkeypatch.setattr(type(mini), "encode_images", lambda self, x, p=None: calls.append(len(x)) or plain(self, x, p))
    sets = [modality, engine.prompt_set("btmri", mini), engine.prompt_set("busi-zero-shot", mini)]
    found = list(engine.predict_all(engine.open_all([picture(tmp_path / "a.png")]), mini, sets))
    assert [row["prompt_set"] for row in found] == [each.name for each in sets] and calls == [1]


# --- the table as CSV -----------------------------------------------------------------------------------------------------


def test_the_csv_holds_the_numbers_and_runs_no_formula(tmp_path, mini, modality):
    for name in ("=HYPERLINK(1).png", "+1.png", "-2.png", "@x.png", "plain.png"):
        picture(tmp_path / name)
    (tmp_path / "=bad.png").write_bytes(b"no image")
    found = list(engine.predict_all(engine.open_all([tmp_path]), mini, [modality]))
    hostile = replace(modality, card=modality.card | {"labels": ["=1+1", *modality.card["labels"][1:]]})
    found += engine.predict_all(engine.open_all([tmp_path / "plain.png"]), mini, [hostile])
    table = list(csv.DictReader(io.StringIO(engine.as_csv(found))))
    assert len(table) == len(found) == 7
    for line, row in zip(table, found, strict=True):
        assert not any(str(cell).startswith(("=", "+", "-", "@", "\t", "\r")) for cell in [*line, *line.values()])
        assert line["files"].lstrip("'") == row["files"][0] and line["status"] == row["status"]
        for label, p in (row["probabilities"] or {}).items():
            column = f"p({label})"
            assert float(line[column]) == pytest.approx(p, abs=1e-5)
        if row["probabilities"]:
            assert line["top_class"].lstrip("'") == max(row["probabilities"], key=row["probabilities"].get)
            assert float(line["top_probability"]) == pytest.approx(max(row["probabilities"].values()), abs=1e-5)
    names = {line["files"] for line in table}
    assert {"'=HYPERLINK(1).png", "'+1.png", "'-2.png", "'@x.png", "'=bad.png", "plain.png"} == names
    assert table[-1]["top_class"] in ("'=1+1", *hostile.labels[1:])


def test_a_cell_is_guarded_only_where_a_spreadsheet_would_run_it():
    assert [engine.csv_cell(v) for v in ("=1", "\tx", "a=1", -0.5, True, None, 3)] == [
        "'=1",
        "'\tx",
        "a=1",
        "-0.5",
        "true",
        "",
        "3",
    ]


# --- the tab ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    host = Host(Settings(device="cpu", workspace=tmp_path_factory.mktemp("workspace")))
    made = batch.Batch(host)
    with gr.Blocks():
        made.lay_out()
    yield made
    host.close()


def uploaded(tmp_path: Path, names: dict[str, bytes]) -> list[str]:
    """As Gradio keeps uploads: each in a folder of its own."""
    places = []
    for i, (name, content) in enumerate(names.items()):
        place = tmp_path / "uploads" / str(i) / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        places.append(str(place))
    return places


def png(tmp_path: Path, seed: int = 0) -> bytes:
    return picture(tmp_path / "made.png", seed).read_bytes()


def ran(tab: batch.Batch, uploads: list[str], questions: list[str], only: str = "") -> tuple[Any, Any, list[dict]]:
    """(held, sheet, updates) after an upload and a classification."""
    *_, opened = tab.open_files(uploads, None, None)
    held = opened.get(tab.ui.held)
    updates = list(tab.run(None, held, "scope-mini", questions, "mean", False, only))
    return held, updates[0][tab.ui.sheet], updates


def test_the_tab_gives_every_upload_a_row_under_the_name_its_owner_knows(tab, tmp_path):
    write_series(tmp_path / "ct", slices=3, side=32)
    slices = {p.name: p.read_bytes() for p in sorted((tmp_path / "ct").iterdir())}
    names = {"DOE^JANE.png": png(tmp_path), "notes.txt": b"no image", ".DS_Store": b"x", **slices}
    uploads = uploaded(tmp_path, names)
    held, sheet, updates = ran(tab, [*uploads, uploads[0]], [QUESTION, "btmri"])
    found = sheet.rows
    assert {name for row in found for name in row["files"]} == set(names)
    assert [row["status"] for row in found].count("ok") == 4  # a picture and a series, two questions each
    assert {row["error"] for row in found if row["status"] == "skipped"} == {
        "Passed over: a hidden file, as systems leave them in folders.",
        "Passed over: the same file came more than once.",
    }
    html = updates[-1][tab.ui.table]
    assert "DOE^JANE.png" in html and "Brain tumour on MRI" in html and "File 1" not in html + repr(found)
    assert "4 read · 1 failed · 2 passed over" in updates[-1][tab.ui.counts]
    assert not any(Path(each).exists() for each in uploads)
    answer = json.loads(base64.b64decode(json.loads(tab.as_json(sheet))["data"]))
    assert answer["schema"] == 1 and answer["results"] == json.loads(json.dumps(found))
    folder = held.cases[0].folder.path
    assert folder.is_dir() and "DOE" not in repr([p.name for p in folder.rglob("*")])
    tab.clear(held, sheet)
    assert not folder.exists()


def test_what_came_is_classified_and_what_did_not_come_is_not(tab, tmp_path, monkeypatch):
    """Bug: an upload that was refused as a whole ended in peace, and the files before it were classified again."""
    with gr.Blocks() as demo:
        wired = batch.Batch(tab.host)
        wired.lay_out()
        wired.wire()
    ui = wired.ui
    starts = {(part._id, event) for fn in demo.fns.values() if fn.fn and fn.fn.__name__ == "run" for part, event in (
        (demo.blocks[target], name) for target, name in fn.targets)}  # fmt: skip
    assert starts == {(ui.go._id, "click"), (ui.came._id, "change")}

    def opened(uploads, held):
        parts = {}
        for updates in wired.open_files(uploads, held, None):
            parts |= updates
        return parts

    first = opened(uploaded(tmp_path, {"a.png": png(tmp_path)}), None)
    held = first[ui.held]
    assert first[ui.came] and len(held.cases) == 1
    monkeypatch.setattr(engine.sandbox(), "limits", replace(engine.sandbox().limits, zip_entries=1))
    refused = opened(uploaded(tmp_path, {"b.png": b"x", "c.png": b"y"}), held)
    assert "2 files are too many at once" in refused[ui.problem] and ui.came not in refused
    assert refused[ui.held] is None and not held.cases[0].folder.path.exists()
    assert refused[ui.go]["interactive"] and not refused[ui.stop]["visible"]
    monkeypatch.undo()
    second = opened(uploaded(tmp_path, {"d.png": png(tmp_path, 1)}), None)
    assert second[ui.came] not in ("", first[ui.came]), "no change, and nothing would start"
    cases.forget(list(second[ui.held].cases))


def test_another_question_can_be_asked_of_the_same_files(tab, tmp_path):
    held, first, _ = ran(tab, uploaded(tmp_path, {"a.png": png(tmp_path)}), [QUESTION])
    again, *_ = (
        updates[tab.ui.sheet]
        for updates in tab.run(None, held, "scope-mini", ["busi"], "mean", False, "")
        if tab.ui.sheet in updates
    )
    assert first.rows[0]["prompt_set"].startswith("modality") and again.rows[0]["prompt_set"].startswith("busi")
    tab.clear(held, again)


def test_stop_ends_the_work_and_the_rows_so_far_stay(tab, tmp_path, monkeypatch):
    held, _, _ = ran(tab, uploaded(tmp_path, {f"{i}.png": png(tmp_path, i) for i in range(12)}), [QUESTION])
    scored = []
    plain = compute.score_all
    sheet = batch.Sheet()

    def counting(inputs, asked):
        scored.append(len(inputs))
        if len(scored) == 3:
            tab.stop(sheet)
        return plain(inputs, asked)

    monkeypatch.setattr(compute, "score_all", counting)
    with pytest.raises(engine.Stopped):
        list(tab.classify(None, held, "scope-mini", [QUESTION], "mean", False, sheet))
    assert len(sheet.rows) == len(scored) == 3
    tab.clear(held, sheet)


def test_after_stop_the_page_says_how_many_images_are_read_and_shows_their_rows(tab, tmp_path, monkeypatch):
    """Bug: the bar and "Classifying" stayed. Two questions: two rows an image."""
    held, _, _ = ran(tab, uploaded(tmp_path, {f"{i}.png": png(tmp_path, i) for i in range(5)}), [QUESTION])
    plain, scored, sheets = compute.score_all, [], []

    def stopping(inputs, asked):
        scored.append(len(inputs))
        if len(scored) == 3:
            tab.stop(sheets[0])
        return plain(inputs, asked)

    monkeypatch.setattr(compute, "score_all", stopping)
    page = {}
    for updates in tab.run(None, held, "scope-mini", [QUESTION, "btmri"], "mean", False, ""):
        sheets += [updates[tab.ui.sheet]] if tab.ui.sheet in updates else []
        page |= updates
    assert "Stopped. 3 of 5 images are read." in page[tab.ui.far] and "progressbar" not in page[tab.ui.far]
    assert len(sheets[0].rows) == 6 and page[tab.ui.table].count("<tr>") == 1 + 6
    assert page[tab.ui.go]["interactive"] and not page[tab.ui.stop]["visible"]
    assert "Uncalibrated: the numbers rank the classes" in page[tab.ui.table]
    scored.clear()
    for updates in tab.run(None, held, "scope-mini", [QUESTION], "mean", False, ""):
        if tab.ui.sheet in updates:
            cleared = updates[tab.ui.sheet]
            cleared.drop()
    assert "progressbar" in updates[tab.ui.far] and scored == [], "whoever has cleared the table wants no words on it"
    tab.clear(held, sheets[0])


def test_files_of_one_name_are_told_apart(tab, tmp_path):
    """By their folders in an archive; Gradio does not say the folders of other uploads, so these are numbered."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a/img1.png", png(tmp_path, 1))
        archive.writestr("b/img1.png", png(tmp_path, 2))
        archive.writestr("b/other.png", png(tmp_path, 3))
        archive.writestr("c/img1.png", b"no image")
    loose = [(tmp_path / "loose" / str(i) / "img2.png") for i in (4, 5)]
    for seed, place in enumerate(loose, start=4):
        place.parent.mkdir(parents=True)
        place.write_bytes(png(tmp_path, seed))
    held, sheet, _ = ran(tab, [*uploaded(tmp_path, {"more.zip": packed.getvalue()}), *map(str, loose)], [QUESTION])
    by = {row["files"][0]: row for row in sheet.rows}
    assert {name for name, row in by.items() if row["status"] == "ok"} == {
        "a/img1.png", "b/img1.png", "other.png", "img2.png (1 of 2)", "img2.png (2 of 2)",
    }  # fmt: skip
    assert len(sheet.rows) == 6 and "'c/img1.png'" in by["c/img1.png"]["error"]
    tab.clear(held, sheet)


def test_what_cannot_be_done_is_one_sentence_and_loses_nothing(tab, tmp_path):
    held, _, _ = ran(tab, uploaded(tmp_path, {"a.png": png(tmp_path)}), [QUESTION])
    for backbone, questions, pool, words in (
        ("scope-mini", [], "mean", "No question is chosen. Choose one or more, up to 8."),
        ("scope-mini", [f"{t}-zero-shot" for t in list(engine.tasks())[:9]], "mean", "9 questions are chosen."),
        ("scope-mini", ["nope"], "mean", "There is no prompt set"),
        ("resnet", [QUESTION], "mean", "no backbone called"),
        ("scope-mini", [QUESTION], "median", "There is no pooling"),
    ):
        last = list(tab.run(None, held, backbone, questions, pool, False, ""))[-1]
        assert words in last[tab.ui.problem] and 'role="alert"' in last[tab.ui.problem]
    assert "There are no files" in list(tab.run(None, None, "scope-mini", [QUESTION], "mean", False, ""))[-1][tab.ui.problem]
    assert held.cases[0].folder.path.is_dir()
    tab.clear(held, None)


def test_the_filter_shows_only_failures_and_everything_is_escaped(tab, tmp_path):
    bad = '<img src=x onerror="alert(1)">.png'
    held, sheet, _ = ran(tab, uploaded(tmp_path, {bad: b"no image", "a.png": png(tmp_path)}), [QUESTION])
    html = tab.filter(sheet, "error")[tab.ui.table]
    assert "&lt;img src=x" in html and "<img" not in html and "a.png" not in html
    assert "a.png" in tab.filter(sheet, "")[tab.ui.table]
    tab.clear(held, sheet)


def test_every_answer_of_a_batch_is_accounted_for(tmp_path):
    host = Host(Settings(device="cpu", workspace=tmp_path / "w", audit=tmp_path / "audit"))
    made = batch.Batch(host)
    with gr.Blocks():
        made.lay_out()
    held, sheet, _ = ran(made, uploaded(tmp_path, {"DOE.png": png(tmp_path), "b.png": png(tmp_path, 1)}), [QUESTION, "busi"])
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [line["prompt_set"] for line in lines] == [row["prompt_set"] for row in sheet.rows] and len(lines) == 4
    assert len({line["pixels"] for line in lines}) == 2 and "DOE" not in (tmp_path / "audit").read_text()
    made.clear(held, sheet)
    host.close()


def test_a_table_of_many_rows_says_how_many_it_leaves_out():
    row = engine.error_row(["x.png"], "scope-mini", engine.ImageError("No."))
    html = rows.table([row] * (rows.SHOWN + 5), "", {}, {}, ())
    assert html.count("<tr>") == rows.SHOWN + 1 and f"The first {rows.SHOWN} of {rows.SHOWN + 5} rows" in html


def test_a_volume_that_cannot_be_decoded_names_the_visitors_file(tab, tmp_path):
    broken = make_dicom(tmp_path / "v.dcm", np.zeros((4, 8, 8), dtype=np.uint8)).read_bytes()
    held, sheet, _ = ran(tab, uploaded(tmp_path, {"mine.dcm": broken}), [QUESTION])
    named = batch._with_names(
        engine.error_row(["File 1"], "scope-mini", engine.ImageError("The file 'File 1' is damaged.")),
        {"File 1": "mine.dcm"},
    )
    assert named["files"] == ["mine.dcm"] and named["error"] == "The file 'mine.dcm' is damaged."
    assert sheet.rows[0]["files"] == ["mine.dcm"]
    tab.clear(held, sheet)


def test_names_of_uploads_are_not_kept_by_the_cases(tmp_path):
    place = uploaded(tmp_path, {"DOE^JANE.dcm": Path(shutil.copy(CT, tmp_path / "ct.dcm")).read_bytes()})
    with cases.received(place) as (files, _):
        *_, taken = cases.take(files)
    assert taken.names == {"File 1": "DOE^JANE.dcm"} and "DOE" not in repr(taken.cases)
    cases.forget(list(taken.cases))
