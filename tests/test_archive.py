"""A whole archive to a Parquet table: what is walked, how it is cut, that every file is there once whoever is killed.

Run: python -m pytest tests/test_archive.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest
from conftest import ROOT
from phantom import write_series

import engine
from engine import table as tables
from engine.__main__ import main
from engine.archive import Entry, check_plan, chunked, read_chunk, walk, write_plan

QUESTION = "modality"


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 64), dtype=np.uint8)).save(path, format="PNG")
    return path


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


@pytest.fixture(scope="module")
def modality(mini):
    return engine.prompt_set(QUESTION, mini)


@pytest.fixture
def here(monkeypatch):
    """Chunks are done in this process, in place of a worker's, which starts for seconds."""

    def work(table, numbers, workers):
        hand = tables.Hand(table, 1)
        for number in numbers:
            hand.do(number)
            yield number

    monkeypatch.setattr(tables, "work", work)


def rows_of(folder: Path) -> list[dict]:
    return pyarrow.parquet.read_table(folder).to_pylist()


# --- what is walked, and how it is cut ------------------------------------------------------------------------------------


def test_a_folder_is_walked_in_order_and_every_file_is_named(tmp_path):
    inside = tmp_path / "a"
    for name in ("b.png", "a.zip", "z/1.png", "z/.git/x", "y/DICOMDIR", ".hidden", "c.png"):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_bytes(b"x")
    (tmp_path / "elsewhere.png").write_bytes(b"x")
    (inside / "out.png").symlink_to(tmp_path / "elsewhere.png")
    (inside / "in.png").symlink_to(inside / "b.png")
    (inside / "folder").symlink_to(tmp_path)
    (inside / "broken.png").symlink_to(tmp_path / "nothing")
    (inside / "t.parquet").mkdir()
    (inside / "t.parquet" / "part-0.parquet").write_bytes(b"x")
    found = [(os.path.relpath(e.path, inside), e.status) for e in walk([inside], besides=inside / "t.parquet")]
    assert found == [
        (".hidden", "skipped"), ("b.png", ""), ("broken.png", ""), ("c.png", ""), ("folder", "skipped"), ("in.png", ""),
        ("out.png", "skipped"), ("a.zip", ""), ("y/DICOMDIR", "skipped"), ("z/1.png", ""), ("z/.git/x", "skipped"),
    ]  # fmt: skip


def test_a_folder_that_cannot_be_opened_is_an_entry_with_its_sentence(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    plain = os.scandir

    def refusing(path):  # the tests may run as root, whom no mode keeps out
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (found,) = walk([tmp_path])
    assert (found.status, found.why) == ("error", "A folder cannot be opened: Permission denied.")


def test_a_list_names_files_folders_and_zips_from_its_own_folder(tmp_path):
    for name in ("d/1.png", "d/2.png", "e.png"):
        picture(tmp_path / name)
    (tmp_path / "list.txt").write_bytes(b"e.png\n\nd\n" + os.fsencode(tmp_path) + b"/gone.png\r\n\xff.png\n")
    found = [Path(e.path).relative_to(tmp_path).as_posix() for e in walk([], [tmp_path / "list.txt"])]
    assert found == ["e.png", "d/1.png", "d/2.png", "gone.png", "\udcff.png"]


def test_what_is_named_twice_is_refused(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for twice in ([tmp_path, tmp_path], [tmp_path, tmp_path / "a" / "b"]):
        with pytest.raises(engine.DataError, match="is named twice, or lies in a folder that is named"):
            list(walk(twice))
    (tmp_path / "ab").mkdir()
    assert list(walk([tmp_path / "a", tmp_path / "ab"])) == []


def test_chunks_keep_a_folder_whole_and_a_zip_alone():
    names = [
        *(f"/a/{i}" for i in range(3)),
        *(f"/b/{i}" for i in range(2)),
        *(f"/c/{i}" for i in range(9)),
        "/c/x.zip",
        "/d/0",
    ]
    found = [[e.path for e in chunk] for chunk in chunked((Entry(name, 1, 1) for name in names), 4)]
    assert found == [names[0:3], names[3:5], names[5:9], names[9:13], names[13:14], ["/c/x.zip"], ["/d/0"]]
    assert [len(c) for c in chunked((Entry(f"/{i // 2}/{i}", 1, 1) for i in range(20)), 5)] == [4, 4, 4, 4, 4]
    assert list(chunked([], 4)) == []


def test_the_plan_gives_back_its_chunks_and_refuses_another_archive(tmp_path):
    chunks = [[Entry("/a/1\udcff", 3, 5), Entry("/a/.x", 1, 1, "skipped", "Why.")], [Entry("/b/1", 4, 4)]]
    assert write_plan(chunks, tmp_path / "plan") == (2, 3)
    assert read_chunk(tmp_path / "plan", 0) == [Entry("/a/1\udcff", -1, 0), Entry("/a/.x", -1, 0, "skipped", "Why.")]
    check_plan(chunks, tmp_path / "plan")
    for other in (
        chunks[:1],
        [chunks[0], [replace(chunks[1][0], size=5)]],
        [chunks[0], [replace(chunks[1][0], changed_ns=5)]],
    ):
        with pytest.raises(engine.DataError, match=r"archive has changed since its table was begun \(chunk 2 is not"):
            check_plan(other, tmp_path / "plan")
    with pytest.raises(engine.DataError, match="chunk 3 is not as it was"):
        check_plan([*chunks, chunks[1]], tmp_path / "plan")
    with pytest.raises(engine.DataError, match="There is no file in what is named"):
        write_plan([], tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["plan"]


def test_a_plan_of_many_files_is_written_and_checked_in_little_memory(tmp_path):
    """300,000 entries are some 80 MB as Python objects; the process may grow by a quarter of that."""
    program = (
        "import resource, sys; from pathlib import Path; import pyarrow.parquet; from engine.archive import *\n"
        "def chunks(n): return chunked((Entry(f'/archive/{i // 700}/{i:09}.dcm', i, i) for i in range(n)), 1000)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "place = Path(sys.argv[1]); write_plan(chunks(20_000), place); check_plan(chunks(20_000), place); before = peak()\n"
        "print(write_plan(chunks(300_000), place)); check_plan(chunks(300_000), place); print(peak() - before)"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path / "plan")], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    planned, grown = ran.stdout.splitlines()
    assert planned == "(429, 300000)" and float(grown) < 20  # 428 folders of 700 and one of 400: a chunk each


# --- rows -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path):
    """A series with a damaged slice, pictures, what is no image, a zip with one name in two folders, a name that is no text."""
    place = tmp_path / "archive"
    (place / "ct").mkdir(parents=True)
    write_series(place / "ct", slices=4, side=32)
    third = sorted((place / "ct").iterdir())[2]
    third.write_bytes(third.read_bytes()[:-500])
    picture(place / "e", 1)  # one letter, as DICOM exports have: it stands in every sentence
    (place / "notes.txt").write_text("no image")
    (place / "cut.png").write_bytes((place / "e").read_bytes()[:80])
    (place / ".DS_Store").write_bytes(b"x")
    picture(Path(os.fsdecode(os.fsencode(place) + b"/name-\xff.png")), 2)
    with zipfile.ZipFile(place / "more.zip", "w") as packed:
        for folder in ("one", "two"):
            packed.write(picture(tmp_path / folder / "same.png", 3 if folder == "one" else 4), f"{folder}/same.png")
        packed.writestr("two/text.txt", "no image")
        packed.writestr("__MACOSX/._x", b"x")
    (place / "bad.zip").write_bytes(b"PK\x03\x04 no zip")
    return place


def test_the_table_has_the_rows_of_predict_json_one_a_file(archive, tmp_path, here, capsys):
    out = tmp_path / "t.parquet"
    asked = ["predict", str(archive), "--prompts", QUESTION, "btmri", "--json"]
    assert main([*asked, "--out", str(out)]) == 1
    said = json.loads(capsys.readouterr().out)
    found = rows_of(out)
    assert main([*asked, "--explain", "none"]) == 1
    expected = json.loads(capsys.readouterr().out)["results"]

    keyed = {(os.path.basename(row["inside"] or row["path"]), row["inside"], row["prompt_set"]): row for row in found}
    assert len(keyed) == len(found)
    slices = sorted(p.name for p in (archive / "ct").iterdir())
    answered = 0
    for row in expected:
        for name in row["files"]:
            shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            mine = [
                r
                for r in found
                if os.path.basename(r["inside"] or r["path"]) == shown and r["prompt_set"] == row["prompt_set"]
            ]
            if name == slices[2]:  # of a series all of whose other slices are read: its own status says it
                assert [r["status"] for r in mine] == ["error"] and mine[0]["error"] == row["pooling"]["failed"][0]["error"]
                continue
            mine = [r for r in mine if (r["status"], r["error"]) == (row["status"], row["error"])]
            assert mine, (name, row["status"], row["error"])
            if row["status"] == "ok":
                answered += 1
                assert any(
                    all(r[f"p({label})"] == pytest.approx(p, abs=1e-5) for label, p in row["probabilities"].items())
                    and (r["frame"], r["notes"], r["warnings"]) == (row["frame"], row["notes"], row["warnings"])
                    and r["pooling"] == (row["pooling"] and row["pooling"]["words"])
                    and r["window_center"] == (row["window"] and row["window"]["center"])
                    for r in mine
                )  # 1e-5: one forward of several images, or of one
                assert all(r["label"] == max(row["probabilities"], key=row["probabilities"].get) for r in mine[:1])
    assert answered == 2 * (3 + 2 + 2)  # three slices, two pictures, two in the zip; two questions
    by = {os.path.basename(row["path"]): row for row in found}
    assert by["e"]["width"] == 64 and by["e"]["height"] == 40 and by["e"]["frames"] == 1 and by["e"]["modality"] is None
    first = by[slices[0]]
    assert (
        first["frames"] == 3
        and first["modality"] == "CT"
        and first["series"] in {str(archive / "ct" / name) for name in slices}
    )
    assert len({by[name]["series"] for name in (*slices[:2], slices[3])}) == 1 and by["e"]["series"] is None
    assert {r["inside"] for r in found if r["path"].endswith("more.zip")} == {
        "one/same.png",
        "two/same.png",
        "text.txt",
        None,
        "two/text.txt",
    } - {"text.txt"}
    assert by["bad.zip"]["status"] == "error" and "'bad.zip'" in by["bad.zip"]["error"]
    assert by[".DS_Store"]["status"] == "skipped" and by["name-\\xff.png"]["status"] == "ok"
    assert said["statuses"] == {"ok": 7, "error": 5, "skipped": 2} and said["folder"] == str(out)
    assert said["files"] == 11 and json.loads((out / "_manifest.json").read_text())["statuses"] == said["statuses"]


def test_single_frames_in_one_batch_have_the_numbers_of_single_ones(tmp_path, mini, modality):
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(5)]
    (tmp_path / "bad.png").write_bytes(paths[0].read_bytes()[:80])
    opened = engine.open_all([tmp_path])
    alone, together = (list(engine.predict_all(opened, mini, [modality], batch=n)) for n in (1, 3))
    alone, together = ({row["files"][0]: row for row in rows} for rows in (alone, together))
    assert alone.keys() == together.keys() and Counter(row["status"] for row in together.values()) == {"ok": 5, "error": 1}
    for name, one in alone.items():
        if one["status"] == "ok":
            # one forward of one, or of three
            assert one["probabilities"] == pytest.approx(together[name]["probabilities"], abs=1e-5)


def test_the_hash_of_a_prompt_set_follows_its_numbers_and_its_card(modality, mini):
    again = engine.prompt_set(QUESTION, mini)
    assert again.hash == modality.hash and len(modality.hash) == 64
    other = replace(modality, card=modality.card | {"temperature": 2.0})
    moved = replace(modality, head=replace(modality.head, scale=modality.head.scale + 1))
    assert len({modality.hash, other.hash, moved.hash}) == 3


# --- going on -------------------------------------------------------------------------------------------------------------


def test_another_archive_another_question_and_another_process_are_refused(tmp_path, here, capsys):
    out = tmp_path / "t.parquet"
    for i in range(3):
        picture(tmp_path / "a" / f"{i}.png", i)
    asked = ["predict", str(tmp_path / "a"), "--out", str(out), "--chunk", "2"]
    assert main([*asked, "--prompts", QUESTION]) == 0
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("part-*")}
    assert main([*asked, "--prompts", QUESTION]) == 0
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("part-*")} == before and len(before) == 2
    capsys.readouterr()

    def refused(*words: str) -> str:
        assert main([*asked, *words]) == 2
        return capsys.readouterr().err

    assert "'t.parquet' was begun with another prompt sets" in refused("--prompts", "btmri")
    assert "was begun with another look" in refused("--prompts", QUESTION, "--cover-text")
    assert "was begun with another chunk" in refused("--prompts", QUESTION, "--chunk", "3")
    with tables._alone(out):
        assert "is being written by another process" in refused("--prompts", QUESTION)
    picture(tmp_path / "a" / "0.png", 9)
    assert "The archive has changed since its table was begun (chunk 1 " in refused("--prompts", QUESTION)
    (out / "_manifest.json").unlink()
    assert "holds parts of a table, but no _manifest.json" in refused("--prompts", QUESTION)
    (tmp_path / "f.parquet").write_bytes(b"")
    assert "'f.parquet' is a file; the table is a folder" in refused(
        "--prompts", QUESTION, "--out", str(tmp_path / "f.parquet")
    )
    assert main(["predict", "--list", "x"]) == 2
    assert "Name one, as in --out answers.parquet" in capsys.readouterr().err


class Dies:
    """What ends the process that is given it."""

    def __reduce__(self):
        return os._exit, (7,)


def test_a_chunk_that_ends_every_worker_is_said_and_not_tried_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "TRIES", 2)
    table = tables.Table(tmp_path, "scope-mini", (Dies(),))
    with pytest.raises(engine.DataError, match=r"Chunk 5 has ended its worker process 2 times \(status 7\)"):
        list(tables.work(table, [5], 1))


def test_what_a_worker_cannot_do_is_its_parents_error(tmp_path, modality):
    table = tables.Table(tmp_path, "local-dir:/nowhere", (modality,))
    with pytest.raises(engine.BackboneError, match="/nowhere"):
        list(tables.work(table, [0, 1], 1))


def children(process: int, word: bytes) -> list[int]:
    """Processes below it whose command has the word."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            if word in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
            found += children(child, word)
    return found


def start(folder: Path, out: Path, *more: str) -> subprocess.Popen:
    words = ["predict", str(folder), "--prompts", QUESTION, "--out", str(out), "--chunk", "4", *more]
    heeds = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a shell's job in the background ignores Ctrl-C, and its children
    call = [sys.executable, "-m", "engine", *words]
    return subprocess.Popen(call, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heeds)


def until_parts(out: Path, process: subprocess.Popen, count: int) -> None:
    over = time.monotonic() + 200
    while len(list(out.glob("part-*.parquet"))) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < over, "no part came"
        time.sleep(0.01)


def is_whole(folder: Path, out: Path) -> None:
    counts = Counter(row["path"] for row in rows_of(out))
    assert counts == Counter(str(path) for path in folder.rglob("*.png"))
    assert not list(out.glob("_*.tmp"))


@pytest.mark.timeout(600)
def test_every_file_is_there_once_after_a_worker_a_run_and_ctrl_c(tmp_path):
    folder, out = tmp_path / "a", tmp_path / "t.parquet"
    for i in range(100):
        picture(folder / f"{i // 10}" / f"{i}.png", i % 7)
    process = start(folder, out, "--workers", "2")
    until_parts(out, process, 1)
    killed = children(process.pid, b"spawn_main")[0]
    os.kill(killed, signal.SIGKILL)
    until_parts(out, process, 3 + len(list(out.glob("part-*.parquet"))))
    assert killed not in children(process.pid, b"spawn_main")
    process.kill()  # the run: its workers end by themselves
    process.communicate()
    (out / "_left.tmp").write_bytes(b"x")  # as of a worker that was killed while it wrote

    process = start(folder, out, "--workers", "1")
    until_parts(out, process, 2 + len(list(out.glob("part-*.parquet"))))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "The same command goes on where it was." in said and "Traceback" not in said
    there = len(list(out.glob("part-*.parquet")))
    assert 0 < there < 30

    process = start(folder, out, "--workers", "1")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    is_whole(folder, out)


def test_chunk_after_chunk_memory_stays_where_it_was(tmp_path, mini, modality):
    """A process that did six chunks more may have grown by 16 MiB; the images of their files are 100."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    score, look = engine.scorer(mini, [modality]), engine.Look(pool="mean")
    for i in range(12):
        PIL.Image.fromarray(np.full((600, 600), i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    chunk = [Entry(str(path), 0, 0) for path in sorted(tmp_path.iterdir())]
    for turn in range(10):
        assert len(tables.predict_chunk(chunk, mini, [modality], look, score)) == 12
        if turn == 3:
            before = resident()
    assert resident() - before < 16


# --- Ray ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of three machines' worth of processes on this one; its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        from ray.cluster_utils import Cluster
    except ImportError:
        pytest.skip("NO RAY: nothing was tested on a cluster. Install requirements-scale.txt.")
    made = Cluster()
    for _ in range(3):
        made.add_node(num_cpus=1, object_store_memory=80 << 20, include_dashboard=False)
    yield made.address
    made.shutdown()


def actors() -> list[int]:
    """Ray's processes that do chunks; Ray gives them their name."""
    return [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if _reads(p).startswith(b"ray::MapWorker")]


def _reads(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.timeout(600)
def test_a_cluster_fills_the_same_table_though_a_worker_is_killed(cluster, tmp_path, monkeypatch, here):
    folder, out, alone = tmp_path / "a", tmp_path / "t.parquet", tmp_path / "alone.parquet"
    for i in range(60):
        picture(folder / f"{i // 10}" / f"{i}.png", i % 7)
    process = start(folder, out, "--ray", cluster, "--workers", "2")
    until_parts(out, process, 1)
    os.kill(actors()[0], signal.SIGKILL)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    is_whole(folder, out)
    assert main(["predict", str(folder), "--prompts", QUESTION, "--out", str(alone), "--chunk", "4"]) == 0
    for one, other in zip(rows_of(out), rows_of(alone), strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}, "the same code and the same output"


def test_a_cluster_that_is_not_there_is_a_sentence(tmp_path, modality):
    pytest.importorskip("ray", reason="NO RAY: nothing was tested on a cluster.")
    picture(tmp_path / "a.png")
    table = tables.Table(tmp_path / "t.parquet", "scope-mini", (modality,))
    with pytest.raises(engine.DataError, match=r"There is no Ray cluster at '127.0.0.1:1'"):
        tables.predict_archive([tmp_path / "a.png"], table, ray="127.0.0.1:1")
