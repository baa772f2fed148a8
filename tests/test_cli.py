"""The command line as a user types it. Run: python -m pytest tests/test_cli.py"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest
from phantom import write_series

import engine
from engine.__main__ import main
from engine.store import Store

CT = next(str(s.path) for s in engine.samples() if s.title == "CT")


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out = capsys.readouterr()
    return code, out.out, out.err


def test_predict_prints_probabilities_notes_and_a_map_file(capsys, tmp_path):
    code, out, _ = run(capsys, "predict", CT, "--out", str(tmp_path))
    assert code == 0 and "note: DICOM CT, 128 x 128 pixels" in out and "uncalibrated" in out
    assert engine.NOTICE in out and "Not a medical device." in engine.NOTICE
    (written,) = tmp_path.iterdir()
    assert f"map: {written}" in out
    assert PIL.Image.open(written).size == (128, 128)


def test_predict_json_is_as_documented_and_equals_the_library(capsys, tmp_path):
    code, out, _ = run(capsys, "predict", CT, "--prompts", "modality", "ctkidney", "--json", "--out", str(tmp_path))
    found = json.loads(out)
    assert code == 0 and found["schema"] == 1 and len(found["results"]) == 2
    row = found["results"][0]
    assert set(row) == {
        "files", "status", "error", "backbone", "prompt_set", "device", "probabilities", "calibrated", "frame", "pooling",
        "window", "notes", "warnings", "map",
    }  # fmt: skip
    backbone = engine.load_backbone("scope-mini")
    expected = engine.predict(engine.read_image(CT), backbone, engine.prompt_set("modality", backbone))
    np.testing.assert_allclose(list(row["probabilities"].values()), expected.probabilities, atol=1e-6)
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert row["window"]["source"] == "automatic" and row["calibrated"] is False and row["device"] == "cpu (float32)"
    assert Path(row["map"]).is_file() and "CT_small" not in row["map"]


def test_a_users_window_is_applied_and_said(capsys, tmp_path):
    _, out, _ = run(capsys, "predict", CT, "--window", "40,400", "--json", "--explain", "none")
    row = json.loads(out)["results"][0]
    window = {"center": 40.0, "width": 400.0, "function": "LINEAR_EXACT", "source": "user", "name": ""}
    assert row["window"] == window and row["map"] is None
    _, out, _ = run(capsys, "predict", CT, "--window", "lung", "--json", "--explain", "none")
    lung = {"center": -600, "width": 1500, "function": "LINEAR", "source": "preset", "name": "lung"}
    assert json.loads(out)["results"][0]["window"] == lung


def test_a_series_is_pooled_over_its_slices_and_a_frame_can_be_asked_for(capsys, tmp_path):
    write_series(tmp_path / "ct", slices=6, side=32)
    (tmp_path / "ct" / "notes.txt").write_text("no image")
    asked = ("predict", str(tmp_path / "ct"), "--json", "--out", str(tmp_path / "maps"))
    code, out, _ = run(capsys, *asked, "--pool", "max")
    row, failed = json.loads(out)["results"]
    assert code == 1 and failed["files"] == ["notes.txt"] and failed["status"] == "error"
    assert len(row["files"]) == 6 and row["frame"] is None
    pooling = row["pooling"]
    assert pooling["how"] == "max" and pooling["frames"] == [1, 2, 3, 4, 5, 6] and pooling["failed"] == []
    assert pooling["words"] == "each class's highest of 6 frames, scaled to sum to 1"
    highest = {label: max(values) for label, values in pooling["curve"].items()}
    for label, p in row["probabilities"].items():
        assert p == pytest.approx(highest[label] / sum(highest.values()), abs=1e-6)
    _, out, _ = run(capsys, *asked, "--frame", "3")
    single = json.loads(out)["results"][0]
    assert single["frame"] == 3 and single["pooling"] is None and "Slice 3 of 6." in single["notes"]
    for label, p in single["probabilities"].items():
        assert p == pytest.approx(pooling["curve"][label][2], abs=1e-5)  # one forward of six frames, or of one


def test_what_looks_like_text_is_covered_where_that_is_asked(capsys, tmp_path):
    rng = np.random.default_rng(0)
    picture = PIL.Image.fromarray(rng.integers(60, 90, (300, 400), dtype=np.uint8))
    PIL.ImageDraw.Draw(picture).text((20, 20), "DOE JANE 1970-01-01", fill=255, font=PIL.ImageFont.load_default(22))
    picture.save(tmp_path / "a.png")
    _, plain, _ = run(capsys, "predict", str(tmp_path / "a.png"), "--json", "--explain", "none")
    _, covered, _ = run(capsys, "predict", str(tmp_path / "a.png"), "--json", "--explain", "none", "--cover-text")
    assert not any("covered" in note for note in json.loads(plain)["results"][0]["notes"])
    assert any("covered before classification" in note for note in json.loads(covered)["results"][0]["notes"])


def test_some_failures_are_exit_code_1_and_the_rest_is_there(capsys, tmp_path):
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"no image")
    code, out, err = run(capsys, "predict", str(bad), CT, "--json", "--explain", "none")
    rows = json.loads(out)["results"]
    assert code == 1 and [r["status"] for r in rows] == ["ok", "error"]
    assert rows[1]["error"].startswith("The file 'bad.dcm' is no image") and rows[1]["error"] in err


def test_nothing_could_run_is_exit_code_2_with_one_sentence(capsys, tmp_path):
    code, _, err = run(capsys, "predict", str(tmp_path / "none.png"))
    assert code == 2 and err == "error: There is no file 'none.png'.\n"
    code, out, err = run(capsys, "predict", CT, "--prompts", "no-such-set")
    assert (
        code == 2 and out == "" and err.startswith("error: There is no prompt set 'no-such-set'.") and err.count("\n") == 1
    )
    code, _, err = run(capsys, "predict", CT, "--window", "wide")
    assert code == 2 and "The window 'wide' is not understood" in err


def test_list_names_everything(capsys):
    code, out, _ = run(capsys, "list", "--json")
    found = json.loads(out)
    assert code == 0 and {b["id"] for b in found["backbones"]} == set(engine.BACKBONES)
    assert found["methods"] == list(engine.METHODS) and len(found["tasks"]) == len(engine.tasks())
    assert {p["name"] for p in found["prompt_sets"]} == set(engine.library())
    assert not [p for p in found["prompt_sets"] if "error" in p]
    assert run(capsys, "list")[0] == 0


def test_evaluate_on_class_folders(capsys, tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("benign", "malignant", "normal"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            PIL.Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(tmp_path / folder / f"{i}.png")
    code, out, _ = run(capsys, "evaluate", "--data", str(tmp_path), "--prompts", "busi", "--json")
    row = json.loads(out)["results"][0]
    assert code == 0 and row["images"] == 6 and np.sum(row["confusion"]) == 6 and row["chance"] == pytest.approx(1 / 3)
    assert row["metrics"]["balanced_accuracy"]["low"] <= row["metrics"]["balanced_accuracy"]["value"]


def test_bench_measures_a_key_and_refuses_an_unknown_one(capsys):
    code, out, _ = run(capsys, "bench", "--only", "mini_tower_ms", "--json")
    found = json.loads(out)
    assert code == 0 and found["keys"]["mini_tower_ms"]["value"] > 0 and found["machine"]["cores"] >= 1
    code, _, err = run(capsys, "bench", "--only", "speed_of_light")
    assert code == 2 and "bench has no key 'speed_of_light'" in err


def test_erase_deletes_what_is_kept_of_a_patients_files(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTSCOPE_CACHE", str(tmp_path / "cache"))
    for i in range(2):
        PIL.Image.fromarray(np.full((8, 8), 40 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    backbone = engine.load_backbone("scope-mini")
    examples = [engine.Example(str(tmp_path / f"{i}.png"), "a") for i in range(2)]
    engine.features_of(examples, backbone, store=Store())
    assert run(capsys, "erase", str(tmp_path / "0.png"))[:2] == (0, "1 features erased.\n")
    code, out, _ = run(capsys, "erase", "--older-than", "0", "--json")
    assert code == 0 and json.loads(out) == {"schema": 1, "erased": 1}
    code, _, err = run(capsys, "erase")
    assert code == 2 and "Nothing is named to erase" in err


def test_a_frame_and_a_pool_do_not_go_together_and_frames_count_from_1(capsys):
    for words in (("--frame", "0"), ("--frame", "1", "--pool", "max")):
        code, _, err = run(capsys, "predict", CT, *words)
        assert code == 2 and err.startswith(f"error: --frame {words[1]} does not fit:") and err.count("\n") == 1
