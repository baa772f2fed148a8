"""Decoding in worker processes: what comes back, and what happens when a worker does not.

python -m pytest tests/test_sandbox.py
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import engine
from engine.errors import ImageError
from engine.limits import Limits, LimitsError, read_limits
from engine.readers import open_file
from engine.sandbox import Sandbox
from engine.scratch import PrivateFolder
from engine.types import Window

# A worker that does what a crafted file would like a decoder to do, when asked.
BAD = """
import ctypes, os, time
from engine.readers import _worker
def bad(asked, limits):
    what = asked["how"]
    if what == "crash": ctypes.string_at(0)
    if what == "exit": os._exit(3)
    if what == "hang":
        while True: time.sleep(1)
    if what == "eat": held = bytearray(64 << 30)
    if what == "raise": raise ValueError("Quixote^Don 1605-01-16")
    if what == "panic": raise type("PanicException", (BaseException,), {})("Quixote")
    if what == "recurse": return bad(asked, limits)
    if what == "print": print("Quixote", flush=True); os.system("echo Quixote >&2; echo Quixote")
    if what == "core": return {"core": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE)[0]}, None
    if what == "environment": return {"names": sorted(os.environ)}, None
    if what == "odd": return {}, type("Image", (), {"pixels": __import__("numpy").zeros((1, 2, 3, 4))})()
    if what == "once":
        if _worker._open: os._exit(3)
        _worker._open[("x", 0, 0)] = []
    if what == "huge":
        import struct, json
        words = json.dumps({"shape": [1 << 20, 1 << 20]}).encode()
        os.write(7, struct.pack("<I", len(words)) + words)
    return {"pid": os.getpid()}, None
_worker.ANSWERS["bad"] = bad
"""


@pytest.fixture
def bad(monkeypatch):
    module = Sandbox.ask.__globals__  # the module's name is the function's, too
    before, serve = module["BOOT"].rsplit("from engine.readers._worker", 1)
    monkeypatch.setitem(module, "BOOT", before + f"exec({BAD!r}); from engine.readers._worker" + serve)
    made = Sandbox(Limits(seconds=3, memory_mb=512), workers=1)
    yield lambda how: made.ask("bad", Path("f81d.dcm"), "visit.dcm", how=how)[0]
    made.close()


def refused(work, *asked) -> None:
    with pytest.raises(ImageError):
        work(*asked)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    PIL.Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(path)
    return path


# --- what comes back ---------------------------------------------------------------------------------------------------


def test_an_image_from_a_worker_equals_one_read_here(tmp_path, write_dicom):
    grey = np.arange(12, dtype=np.int16).reshape(3, 4) * 100
    path = write_dicom(tmp_path / "x.dcm", grey, WindowCenter=500, WindowWidth=800, PixelSpacing=[0.5, 0.25], Modality="CT")
    there, here = engine.read([path])[0], open_file(path)[0]
    for window in (None, Window(300, 400)):
        far, near = there.frame(0, window), here.frame(0, window)
        np.testing.assert_array_equal(far.pixels, near.pixels)
        for name in ("spacing_mm", "notes", "warnings", "window", "modality", "marks"):
            assert getattr(far, name) == getattr(near, name), name
    for name in ("files", "frames", "notes", "warnings", "about", "slots"):
        assert getattr(there, name) == getattr(here, name), name
    assert (there.affine is None) == (here.affine is None)


def test_an_error_from_a_worker_is_the_error_that_is_raised_here(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x.dcm", np.zeros((2, 2), np.uint8), PhotometricInterpretation="XYZ")
    with pytest.raises(ImageError) as here:
        open_file(path)[0].frame(0)
    with pytest.raises(ImageError) as there:
        engine.read([path])[0].frame(0)
    assert (here.value.message, here.value.hint) == (there.value.message, there.value.hint)


def test_a_relative_path_is_of_where_one_stands_not_of_where_the_worker_was_started(tmp_path, write_dicom, monkeypatch):
    """Bug: after a change of folder there was "no file" where one was."""
    for place, value in (("a", 20), ("b", 200)):
        (tmp_path / place).mkdir()
        write_dicom(tmp_path / place / "same.dcm", np.full((8, 8), value, np.uint8), WindowCenter=128, WindowWidth=256)
    for place, value in (("a", 20), ("b", 200)):
        monkeypatch.chdir(tmp_path / place)
        (series,) = engine.read([Path("same.dcm")])
        monkeypatch.chdir(tmp_path)
        assert series.frame(0).pixels.max() == pytest.approx(value / 255, abs=0.01)


def test_a_file_that_has_changed_is_read_anew(picture):
    assert engine.read_image(picture).pixels[0, 1] == pytest.approx(1 / 255)
    PIL.Image.fromarray(np.full((3, 4), 51, dtype=np.uint8)).save(picture)
    os.utime(picture, ns=(1, 1))
    assert engine.read_image(picture).pixels[0, 1] == pytest.approx(0.2)


def test_many_threads_get_their_own_answers(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for i, path in enumerate(paths):
        PIL.Image.fromarray(np.full((8, 8), i, dtype=np.uint8)).save(path)
    found: dict[int, float] = {}

    def read(i: int) -> None:
        found[i] = float(engine.read_image(paths[i]).pixels[0, 0])

    threads = [threading.Thread(target=read, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == pytest.approx({i: i / 255 for i in range(40)})


def test_of_many_files_the_bad_ones_are_refused_alone(tmp_path, picture):
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (tmp_path / "c.txt").write_text("no image")
    opened = engine.open_all([tmp_path])
    assert [s.files for s in opened.series] == [("a.png",)]
    assert [name for name, _ in opened.refused] == ["b.png", "c.txt"]
    assert all(isinstance(error, ImageError) and name in str(error) for name, error in opened.refused)


def test_frames_come_in_the_order_that_was_asked_for_with_errors_in_their_places(tmp_path):
    path = tmp_path / "x.tif"
    pages = [PIL.Image.fromarray(np.full((2, 2), i, dtype=np.uint8)) for i in range(9)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    found = list(engine.frames_of(engine.read([path])[0], [8, 0, 99, 4]))
    assert [i for i, _ in found] == [8, 0, 99, 4]
    assert [round(float(x.pixels[0, 0] * 255)) for i, x in found if i != 99] == [8, 0, 4]
    assert isinstance(found[2][1], ImageError) and "no frame 100" in str(found[2][1])


# --- what happens when a worker fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("crash", r"'visit.dcm' is damaged: its decoder crashed \(SIGSEGV\) on it\. Export it again"),
        ("exit", "'visit.dcm' is damaged: its decoder failed on it"),
        ("hang", "'visit.dcm' took longer than 3 s to read and was stopped"),
        ("eat", "'visit.dcm' needs more than 512 MiB of memory to be read"),
        ("raise", r"'visit.dcm' is damaged or not valid \(ValueError\)"),
        ("panic", r"'visit.dcm' is damaged or not valid \(PanicException\)"),
        ("recurse", "'visit.dcm' nests its parts too deeply"),
        ("huge", "'visit.dcm' is damaged"),
        ("odd", "'visit.dcm' is damaged"),
    ],
)
def test_whatever_a_worker_does_is_one_sentence_and_the_next_request_is_answered(bad, how, words, capfd):
    with pytest.raises(ImageError, match=words) as caught:
        bad(how)
    assert "Quixote" not in str(caught.value)
    assert bad("fine")["pid"] != os.getpid()
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_what_a_library_prints_in_a_worker_goes_nowhere(bad, capfd):
    assert bad("print")["pid"]
    assert capfd.readouterr() == ("", "")


def test_a_worker_leaves_no_core_dump(bad):
    assert bad("core")["core"] == 0


def test_a_worker_knows_no_password_and_no_token(bad, monkeypatch):
    for name in ("PROMPTSCOPE_AUTH", "HF_TOKEN", "PROMPTSCOPE_AUDIT"):
        monkeypatch.setenv(name, "secret")
    assert not {"PROMPTSCOPE_AUTH", "HF_TOKEN", "PROMPTSCOPE_AUDIT"} & set(bad("environment")["names"])


def test_a_file_is_not_blamed_for_what_an_earlier_one_left_behind(bad):
    first = bad("once")["pid"]
    assert bad("once")["pid"] != first  # that worker failed on it, and a fresh one was asked


def test_a_worker_that_hangs_does_not_keep_others_from_answering(bad):
    started = time.monotonic()
    slow = threading.Thread(target=refused, args=(bad, "hang"))
    slow.start()
    assert bad("fine")["pid"]  # waits for the only worker, then gets a new one
    slow.join()
    assert time.monotonic() - started < 60


def test_the_memory_of_this_process_does_not_grow_with_a_worker_that_eats(bad):
    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20

    bad("fine")
    before = held()
    for _ in range(3):
        refused(bad, "eat")
    assert held() - before < 50


def test_workers_end_with_their_parent(tmp_path, picture):
    code = f"import engine; engine.read([{str(picture)!r}]); print(engine.sandbox()._idle[0]._process.pid, flush=True); "
    for ending in ("", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"):
        ran = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, timeout=120, check=False)
        pid = int(ran.stdout)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
            assert time.monotonic() < deadline, f"worker {pid} outlived its parent"
            time.sleep(0.05)


def test_a_forked_child_has_workers_of_its_own(picture):
    engine.read([picture])
    code = (
        f"import os, engine; engine.read([{str(picture)!r}]); mine = engine.sandbox()._idle[0]._process.pid\n"
        "pid = os.fork()\n"
        f"if not pid: image = engine.read_image({str(picture)!r}); os._exit(0 if engine.sandbox()._idle[0]._process.pid != mine and image.pixels.shape == (3, 4) else 1)\n"
        f"status = os.waitpid(pid, 0)[1]; engine.read([{str(picture)!r}]); raise SystemExit(status)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_whoever_stops_asking_does_not_wait_for_what_is_being_decoded():
    """Bug: Gradio closes a stopped handler on its event loop, and every visitor waited."""
    box, release = Sandbox(), threading.Event()
    found = box.map(lambda i: i if i == 0 else release.wait(30), range(9))
    assert next(found) == 0
    started = time.monotonic()
    found.close()
    assert time.monotonic() - started < 1
    release.set()


# --- archives and uploads ------------------------------------------------------------------------------------------------


def test_what_a_zip_held_goes_with_its_series(tmp_path, picture):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(picture, "folder/b.png")
    opened = engine.open_all([tmp_path / "a.zip"])
    series, place = opened.series[0], opened.series[0].path
    assert series.files == ("b.png",) and series.frame(0).shape == (3, 4) and place.is_file()
    del opened, series
    gc.collect()
    assert not place.parent.exists()


def test_an_upload_is_copied_clean_one_after_the_other_and_what_fails_is_named(tmp_path, picture):
    (tmp_path / "bad.dcm").write_bytes(b"nothing")
    target = PrivateFolder()
    files = [(picture, "a.png"), (tmp_path / "bad.dcm", "bad.dcm"), (tmp_path / "gone.png", "gone.png")]
    found = list(engine.sandbox().admit(files, target.path, b"key"))
    assert [(each.name, each.done, each.total) for each in found] == [("a.png", 1, 3), ("bad.dcm", 2, 3), ("gone.png", 3, 3)]
    assert found[0].file.parent == target.path and found[0].file.stat().st_mode & 0o777 == 0o600
    assert engine.read_image(found[0].file).pixels[0, 1] == pytest.approx(1 / 255)
    assert "'bad.dcm' is no image" in str(found[1].file) and "no file 'gone.png'" in str(found[2].file)
    assert list(target.path.iterdir()) == [found[0].file]


def test_an_upload_that_takes_too_long_is_cut_short_and_says_so(tmp_path, picture):
    box, target = Sandbox(Limits(upload_seconds=0)), PrivateFolder()
    (only,) = box.admit([(picture, "a.png")], target.path, b"key")
    assert str(only.file) == "The file 'a.png' was left out: the files before it took 0 s. Upload fewer at once."
    box.close()


def test_the_archives_of_an_upload_hold_no_more_together_than_one_may(tmp_path, picture):
    for i in range(4):
        with zipfile.ZipFile(tmp_path / f"{i}.zip", "w") as archive:
            for j in range(3):
                archive.write(picture, f"{j}.png")
    box, target = Sandbox(Limits(zip_entries=4)), PrivateFolder()
    found = list(box.admit([(tmp_path / f"{i}.zip", f"{i}.zip") for i in range(4)], target.path, b"key"))
    box.close()
    assert len([each for each in found if not isinstance(each.file, ImageError)]) == 6
    left_out = {each.name: str(each.file) for each in found if isinstance(each.file, ImageError)}
    assert left_out.keys() == {"2.zip", "3.zip"}
    assert left_out["2.zip"] == "The archive '2.zip' was left out: those before it are enough. Upload fewer at once."


def test_a_worker_lets_go_of_a_file_that_is_no_longer_there(tmp_path, picture):
    from engine.readers import _worker

    path = tmp_path / "b.png"
    path.write_bytes(picture.read_bytes())
    _worker.opened(path, Limits())
    assert any(key[0] == str(path) for key in _worker._open)
    path.unlink()
    _worker.opened(picture, Limits())
    assert not any(key[0] == str(path) for key in _worker._open)
    _worker._open.clear()


# --- limits ------------------------------------------------------------------------------------------------------------


def test_limits_come_from_variables_and_are_enforced(tmp_path, monkeypatch):
    assert read_limits({"PROMPTSCOPE_MAX_MEGAPIXELS": "1"}) == Limits(megapixels=1)
    with pytest.raises(LimitsError, match=r"PROMPTSCOPE_MAX_SECONDS is 'soon'\. It should be a whole number above 0"):
        read_limits({"PROMPTSCOPE_MAX_SECONDS": "soon"})
    path = tmp_path / "large.png"
    PIL.Image.fromarray(np.zeros((1001, 1000), dtype=np.uint8)).save(path)
    small = Sandbox(Limits(megapixels=1))
    with pytest.raises(ImageError, match="1000 x 1001 pixels"):
        small.open_file(path)
    small.close()
    assert engine.read([path])[0].frame(0).shape == (1001, 1000)
