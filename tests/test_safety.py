"""No file takes this process down: mutated files and bombs through worker processes, in short; whole by `make fuzz`.

python -m pytest tests/test_safety.py
"""

from __future__ import annotations

import re
import struct
from dataclasses import fields
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from bombs import SLOW, bombs, picture
from conftest import ROOT, make_lut
from fuzz import GROWTH_MB, LIMITS, Outcome, Report, made_elsewhere, mutated, mutations, run, seeds

from engine.errors import ImageError
from engine.limits import Limits
from engine.readers import open_file
from engine.sandbox import Sandbox
from engine.types import Window

FILES = 600  # of the 20,000 of `make fuzz`
FAST = [b for b in bombs() if not b.slow]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> Report:
    """Without ../shared, so that the files are the same on every machine."""
    return run(mutations(seeds(None), 1, range(FILES)), keep=tmp_path_factory.mktemp("failed"))


@pytest.fixture(scope="module")
def exploded() -> tuple[Report, dict[str, Outcome]]:
    found: dict[str, Outcome] = {}
    with made_elsewhere(FAST) as made:
        return run(made, said=found.__setitem__), found


def test_mutated_files_are_images_or_sentences(fuzzed):
    assert fuzzed.failures == []
    assert fuzzed.files == FILES
    assert fuzzed.kinds["image"] > FILES / 10 and fuzzed.kinds["refused"] > FILES / 10, "the mutations test nothing"


def test_mutated_files_leave_nothing_in_this_process_or_on_the_disk(fuzzed):
    assert fuzzed.growth_mb < GROWTH_MB
    assert fuzzed.left_behind == []


@pytest.mark.parametrize("bomb", FAST, ids=lambda b: b.name)
def test_a_bomb_is_a_sentence_or_what_is_honest_in_it(exploded, bomb):
    found = exploded[1][bomb.name]
    assert found.faults == []
    assert bomb.reads or "image" not in found.kinds, "an image was made of it"
    assert found.slowest_s < LIMITS.seconds + 10, (
        "its worker was not stopped in time"
    )  # two workers may have to start for it


def test_bombs_leave_nothing_in_this_process_or_on_the_disk(exploded):
    report = exploded[0]
    assert report.growth_mb < GROWTH_MB
    assert report.left_behind == []
    assert not Path("/tmp/promptscope-escaped").exists()


def test_there_are_at_least_a_hundred_bombs_each_with_its_own_name():
    names = [b.name for b in bombs()]
    assert len(names) == len(set(names)) >= 100 + len(SLOW)


def test_the_same_seed_and_index_give_the_same_file():
    corpus = seeds(None)
    assert mutated(corpus, 1, 17) == mutated(corpus, 1, 17)
    assert len({mutated(corpus, 1, i)[1] for i in range(50)}) > 45


def test_a_decoder_that_gives_up_shows_nothing_of_an_earlier_file(tmp_path):
    """A strip of noise: libtiff stops, and Pillow shows its buffer, which held whatever memory held (failed before)."""
    tiff = bytearray(picture("TIFF", "1", compression="group4"))
    at = struct.unpack_from("<I", tiff, 4)[0]
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", tiff, at)[0], 12):
        if struct.unpack_from("<H", tiff, entry)[0] == 273:  # StripOffsets
            struct.pack_into("<I", tiff, entry + 8, 2)
    (tmp_path / "broken.tif").write_bytes(tiff)
    seen = []
    sandbox = Sandbox(LIMITS, workers=1)
    for value in (255, 90, 200, 17):
        PIL.Image.fromarray(np.full((24, 17), value, dtype=np.uint8)).save(tmp_path / f"{value}.png")
        sandbox.open_file(tmp_path / f"{value}.png")[0].frame(0)
        seen.append(sandbox.open_file(tmp_path / "broken.tif")[0].frame(0).pixels)
    sandbox.close()
    for pixels in seen:
        assert np.array_equal(pixels, seen[0])


def test_the_table_of_limits_in_the_documents_is_that_of_the_code():
    text = (ROOT / "docs" / "safety.md").read_text()
    told = dict(re.findall(r"^\| `PROMPTSCOPE_MAX_([A-Z_]+)` \| ([\d,]+) \|", text, re.MULTILINE))
    assert told == {f.name.upper(): f"{f.default:,}" for f in fields(Limits)}


@pytest.mark.parametrize("bits", [0, 17, 65535])
def test_a_voi_lut_of_no_possible_depth_is_refused(tmp_path, write_dicom, bits):
    """Found by the fuzz run: entries of 0, divided by 2^0 - 1, were no numbers."""
    path = write_dicom(tmp_path / "a.dcm", np.eye(3, dtype=np.uint8), VOILUTSequence=make_lut([3, 0, bits], [0, 0, 0]))
    series = open_file(path)[0]
    with pytest.raises(ImageError, match=rf"VOI LUT of 'a\.dcm' has entries of {bits} bits \(\(0028,3002\)"):
        series.frame(0)
    assert series.frame(0, Window(1, 2)).pixels.max() == pytest.approx(1)


HALF = """
import os
from engine.readers import _worker
def half(asked, limits):
    for end in ("", ".part"):
        with open(asked["target"] + end, "wb") as stream: stream.write(b"Quixote^Don")
    os._exit(3)
_worker.ANSWERS["clean"] = half
"""


def test_a_worker_that_dies_over_a_clean_copy_leaves_none_of_it(tmp_path, monkeypatch):
    module = Sandbox.admit.__globals__
    before, serve = module["BOOT"].rsplit("from engine.readers._worker", 1)
    monkeypatch.setitem(module, "BOOT", f"{before}exec({HALF!r}); from engine.readers._worker{serve}")
    path, kept = tmp_path / "a.png", tmp_path / "kept"
    path.write_bytes(picture("PNG"))
    kept.mkdir()
    sandbox = Sandbox(LIMITS, workers=1)
    (admitted,) = sandbox.admit([(path, "visit.png")], kept, bytes(32))
    sandbox.close()
    assert isinstance(admitted.file, ImageError) and "'visit.png' is damaged" in str(admitted.file)
    assert list(kept.iterdir()) == []
