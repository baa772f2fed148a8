"""Files to images: values by hand, a contract for every reader, broken inputs, real files.

python -m pytest tests/test_readers.py
"""

from __future__ import annotations

import csv
import gzip
import json
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
from broken import SECONDS
from conftest import make_lut
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from test_volumes import mha, nifti, nrrd

import engine
from engine.errors import EngineError, ImageError
from engine.limits import Limits
from engine.readers import READERS, dicom, open_file
from engine.readers._grey import apply_window
from engine.types import Image, Window

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
MAGICS = {"dicom": bytes(128) + b"DICM", "raster": b"\x89PNG\r\n\x1a\n", "volume": b"NRRD0004\n"}


def save(path: Path, values: np.ndarray, **options) -> Path:
    PIL.Image.fromarray(values).save(path, **options)
    return path


def frame(path: Path, window: Window | None = None) -> Image:
    return engine.read([path])[0].frame(0, window)


def close(found: np.ndarray, wanted: object) -> None:
    np.testing.assert_allclose(found, np.asarray(wanted, dtype=float), atol=1e-6)  # float32 holds 7 digits


# --- the contract, for every entry of the registry ---------------------------------------------------------------------

GREY = np.array([[0, 1000, 2000], [3000, 4000, 4095]], dtype=np.uint16)
COLOUR = np.array([[[255, 0, 0], [0, 128, 0]], [[0, 0, 64], [1, 2, 3]]], dtype=np.uint8)


def own_files(name: str, folder: Path, write_dicom) -> list[Path]:
    """Files of each reader's formats; a new reader adds its own here."""
    if name == "dicom":
        return [
            *(write_dicom(folder / f"{s}.dcm", GREY, s) for s in ("explicit", "implicit", "big", "deflated", "rle")),
            *(write_dicom(folder / f"bare {s}.dcm", GREY, s, meta=False) for s in ("explicit", "implicit")),
            write_dicom(folder / "colour.dcm", COLOUR),
            write_dicom(folder / "frames.dcm", np.stack([GREY, GREY[::-1]])),
        ]
    if name == "raster":
        files = [save(folder / f"colour.{s}", COLOUR) for s in ("png", "jpg", "tif", "webp", "bmp")]
        return [
            *files,
            save(folder / "grey.png", COLOUR[..., 0]),
            save(folder / "deep.png", GREY),
            save(folder / "deep.tif", GREY),
        ]
    if name == "volume":
        values = np.arange(24, dtype="i2").reshape(2, 3, 4)
        files = {
            "axial.nii": nifti(values),
            "packed.nii.gz": gzip.compress(nifti(values)),
            "big.nii": nifti(values, order=">"),
            "colour.nii": nifti(np.arange(36, dtype="u1"), dims=(2, 3, 2), code=128),
            "coronal.mha": mha(values, ElementSpacing="1 4 1"),
            "packed.mha": mha(values, compressed=True),
            "raw.nrrd": nrrd(values),
            "packed.nrrd": nrrd(values, "gzip"),
        }
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return [folder / file for file in files]
    raise AssertionError(f"The reader {name!r} has no files in own_files.")


@pytest.mark.parametrize("name", list(READERS))
def test_a_reader_knows_its_own_files_and_no_others(name, tmp_path, write_dicom):
    for other in READERS:
        folder = tmp_path / other
        folder.mkdir()
        for path in own_files(other, folder, write_dicom):
            head = path.read_bytes()[:4096]
            assert bool(READERS[name].sniff(head)) == (other == name), path.name


@pytest.mark.parametrize("name", list(READERS))
def test_a_reader_does_not_stumble_over_short_or_foreign_beginnings(name):
    for head in (b"", b"\0", b"\x08\x00", b"%PDF-1.7", b"PK\x03\x04", bytes(4096), b"RIFF\0\0\0\0WAVE", b"Findings: none"):
        assert not READERS[name].sniff(head)


@pytest.mark.parametrize("name", list(READERS))
def test_a_reader_gives_series_of_images_as_the_types_promise(name, tmp_path, write_dicom):
    for path in own_files(name, tmp_path, write_dicom):
        for series in READERS[name].read(path, Limits()):
            assert isinstance(series, engine.Series)
            assert series.files == (path.name,) and series.frames >= 1
            for index in range(series.frames):
                image = series.frame(index)
                assert image.pixels.dtype == np.float32 and image.pixels.flags.c_contiguous
                assert image.pixels.shape[:2] == image.shape
                assert image.pixels.ndim == 2 or image.pixels.shape[2:] == (3,)
                assert image.pixels.min() >= 0 and image.pixels.max() <= 1 and np.ptp(image.pixels) > 0
                assert image.notes and all(note.strip() == note and "\n" not in note for note in image.notes)
            for index in (-1, series.frames):
                with pytest.raises(ImageError, match="There is no frame"):
                    series.frame(index)


@pytest.mark.parametrize("name", list(READERS))
def test_two_readings_of_a_file_are_equal(name, tmp_path, write_dicom):
    for path in own_files(name, tmp_path, write_dicom):
        assert np.array_equal(frame(path).pixels, frame(path).pixels)


def test_every_reader_is_a_module_of_its_folder():
    modules = {p.stem for p in Path(dicom.__file__).parent.glob("*.py") if not p.stem.startswith("_")}
    assert modules == set(READERS)


# --- which files -------------------------------------------------------------------------------------------------------


def test_a_folder_gives_every_file_below_it_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.png", "a.png", "b/d.png"):
        save(tmp_path / name, COLOUR)
    assert [s.files[0] for s in engine.read([tmp_path])] == ["a.png", "d.png", "c.png"]


def test_the_extension_does_not_matter(tmp_path, write_dicom):
    picture = save(tmp_path / "picture.png", COLOUR).rename(tmp_path / "picture.dcm")
    study = write_dicom(tmp_path / "study.jpg", GREY, WindowCenter=2048, WindowWidth=4096)
    bare = save(tmp_path / "x.bmp", COLOUR).rename(tmp_path / "no extension")
    close(frame(picture).pixels, COLOUR / 255)
    close(frame(study).pixels, GREY / 4095)  # (x - 2047.5) / 4095 + 0.5
    close(frame(bare).pixels, COLOUR / 255)


def test_the_image_of_a_file_is_its_middle_frame(tmp_path, write_dicom):
    frames = np.stack([np.full((2, 2), v, dtype=np.uint8) for v in (0, 51, 102, 153)])
    frames[:, 0, 0] = 0
    path = write_dicom(tmp_path / "x", frames, WindowCenter=128, WindowWidth=256)
    image = engine.read_image(path)
    close(image.pixels, [[0, 0.4], [0.4, 0.4]])  # the third of four: 102 / 255
    assert "Frame 3 of 4." in image.notes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"PK\x03\x04....", "The archive 'x.png' is damaged, cut off or one of several parts"),
        (b"%PDF-1.7", "a PDF document"),
        (b"GIF89a..", "a GIF: export it as PNG"),
        (b"Findings", "begins with 46 69 6e 64"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, words):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ImageError, match=words):
        engine.read([tmp_path / "x.png"])


def test_nothing_and_what_is_not_there_are_said(tmp_path):
    with pytest.raises(ImageError, match="There is no file"):
        engine.read([])
    with pytest.raises(ImageError, match=r"There is no file 'absent\.dcm'"):
        engine.read([tmp_path / "absent.dcm"])


# --- pictures ----------------------------------------------------------------------------------------------------------


def test_8_bit_grey_is_divided_by_255(tmp_path):
    image = frame(save(tmp_path / "x.png", np.array([[0, 51], [204, 255]], dtype=np.uint8)))
    close(image.pixels, [[0, 0.2], [0.8, 1]])
    assert image.notes == ("PNG, 2 x 2 pixels, grey.",)
    assert image.spacing_mm is None and image.window is None and image.warnings == ()


def test_12_bit_values_in_a_16_bit_png_are_divided_by_4095(tmp_path):
    # Pillow's own convert("L") clips them at 255
    image = frame(save(tmp_path / "x.png", np.array([[0, 819, 4095]], dtype=np.uint16)))
    close(image.pixels, [[0, 0.2, 1]])
    assert any("read as 12 bit" in note for note in image.notes)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_values_are_divided_by_65535(tmp_path, suffix):
    image = frame(save(tmp_path / f"x.{suffix}", np.array([[0, 13107, 32768, 65535]], dtype=np.uint16)))
    close(image.pixels, [[0, 0.2, 32768 / 65535, 1]])


def test_a_dark_8_bit_range_in_a_16_bit_png_is_not_stretched(tmp_path):
    close(frame(save(tmp_path / "x.png", np.array([[0, 51, 102]], dtype=np.uint16))).pixels, [[0, 0.2, 0.4]])


def test_a_big_endian_16_bit_tiff_is_not_swapped(tmp_path):
    path = tmp_path / "x.tif"
    tags = [(256, 4), (257, 1), (258, 16), (259, 1), (262, 1), (273, 200), (277, 1), (278, 1), (279, 8)]
    body = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + body + bytes(4)
    path.write_bytes(head.ljust(200, b"\0") + struct.pack(">4H", 0, 13107, 32768, 65535))
    close(frame(path).pixels, [[0, 0.2, 32768 / 65535, 1]])


def test_a_float_tiff_runs_between_its_percentiles(tmp_path):
    values = np.linspace(-1, 1, 201, dtype=np.float32).reshape(3, 67)  # steps of 0.01
    image = frame(save(tmp_path / "x.tif", values))
    # the 0.5 percentile of 201 evenly spaced values is the second one, -0.99; the 99.5 percentile is 0.99
    assert image.window is not None and image.window.width == pytest.approx(1.98, abs=1e-5)
    close(image.pixels, np.clip((values.astype(float) + 0.99) / 1.98, 0, 1))


def test_a_window_applies_to_deep_pictures_only(tmp_path):
    deep = save(tmp_path / "deep.png", np.array([[0, 100, 300, 500]], dtype=np.uint16))
    close(frame(deep, Window(300, 400, "LINEAR_EXACT")).pixels, [[0, 0, 0.5, 1]])
    flat = save(tmp_path / "flat.png", np.array([[0, 51]], dtype=np.uint8))
    image = frame(flat, Window(10, 20))
    close(image.pixels, [[0, 0.2]])
    assert any("does not apply" in note for note in image.notes)


def test_not_a_number_in_a_picture_is_black(tmp_path):
    values = np.array([[np.nan, 0.0, 0.5, 1.0]], dtype=np.float32)
    close(frame(save(tmp_path / "x.tif", values), Window(0.5, 1, "LINEAR_EXACT")).pixels, [[0, 0, 0.5, 1]])


def test_the_pages_of_a_tiff_are_frames(tmp_path):
    pages = [PIL.Image.fromarray(np.full((2, 3), v, dtype=np.uint8)) for v in (51, 102, 255)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    series = engine.read([tmp_path / "x.tif"])[0]
    assert series.frames == 3
    assert [float(series.frame(i).pixels[0, 0]) for i in (2, 0, 1)] == pytest.approx([1, 0.2, 0.4])
    assert "Page 2 of 3." in series.frame(1).notes


@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("tif", {}), ("bmp", {}), ("webp", {"lossless": True})])
def test_colour_without_loss_is_divided_by_255(tmp_path, suffix, options):
    image = frame(save(tmp_path / f"x.{suffix}", COLOUR, **options))
    close(image.pixels, COLOUR / 255)
    assert "colour" in image.notes[0]


def test_a_jpeg_of_one_colour_keeps_it(tmp_path):
    values = np.empty((16, 16, 3), dtype=np.uint8)
    values[:] = (200, 100, 50)
    pixels = frame(save(tmp_path / "x.jpg", values, quality=95)).pixels
    # one colour has no frequencies to lose: what is left is the rounding of YCbCr and back
    np.testing.assert_allclose(pixels, values / 255, atol=2.5 / 255)


def test_transparency_is_laid_over_black(tmp_path):
    values = np.array([[[255, 255, 255, 0], [200, 100, 50, 51], [200, 100, 50, 255]]], dtype=np.uint8)
    image = frame(save(tmp_path / "x.png", values))
    close(image.pixels, np.array([[[0, 0, 0], [40, 20, 10], [200, 100, 50]]]) / 255)  # 51 / 255 = 0.2
    assert "Transparent parts are shown black." in image.notes


def test_a_palette_is_looked_up(tmp_path):
    picture = PIL.Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 255, 0, 51, 0, 102, 255])
    picture.save(tmp_path / "x.png")
    close(frame(tmp_path / "x.png").pixels, np.array([[[10, 20, 30], [255, 0, 51], [0, 102, 255]]]) / 255)


def test_a_transparent_palette_entry_is_black(tmp_path):
    picture = PIL.Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 255, 0, 51])
    picture.save(tmp_path / "x.png", transparency=1)
    close(frame(tmp_path / "x.png").pixels, np.array([[[10, 20, 30], [0, 0, 0]]]) / 255)


def test_one_bit_pictures_are_black_and_white(tmp_path):
    PIL.Image.fromarray(np.array([[0, 255, 255]], dtype=np.uint8)).convert("1").save(tmp_path / "x.png")
    close(frame(tmp_path / "x.png").pixels, [[0, 1, 1]])


@pytest.mark.parametrize(
    ("orientation", "wanted"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (6, [[4, 1], [5, 2], [6, 3]]),  # to be turned a quarter clockwise
        (8, [[3, 6], [2, 5], [1, 4]]),
    ],
)
def test_a_picture_is_turned_as_its_exif_tag_asks(tmp_path, orientation, wanted):
    picture = PIL.Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8) * 40)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "x.png", exif=exif)
    image = frame(tmp_path / "x.png")
    close(image.pixels, np.array(wanted) * 40 / 255)
    assert any("EXIF" in note for note in image.notes) == (orientation != 1)


def test_a_picture_of_one_value_is_warned_of(tmp_path):
    assert frame(save(tmp_path / "x.png", np.full((2, 2), 9, dtype=np.uint8))).warnings
    assert not frame(save(tmp_path / "y.png", COLOUR)).warnings


def test_a_picture_within_the_limits_is_read_and_no_other(tmp_path):
    wide = save(tmp_path / "x.png", np.eye(1000, dtype=np.uint8))
    colour = save(tmp_path / "y.png", np.zeros((600, 600, 3), dtype=np.uint8))
    small = Limits(megapixels=1)
    assert open_file(wide, small)[0].frames == 1
    with pytest.raises(ImageError, match=r"claims 600 x 600 pixels; of its kind \(RGB\) at most 0\.333 megapixels"):
        open_file(colour, small)
    pages = [PIL.Image.fromarray(np.full((2, 3), v, dtype=np.uint8)) for v in (1, 2, 3)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match=r"has 3 pages\. At most 2 are read"):
        open_file(tmp_path / "x.tif", Limits(frames=2))


def test_every_page_of_a_tiff_is_within_the_limits_or_refused(tmp_path):
    small, large = PIL.Image.new("L", (9, 9), 7), PIL.Image.new("L", (1200, 1000))
    small.save(tmp_path / "x.tif", save_all=True, append_images=[large, PIL.Image.new("RGB", (700, 700))])
    (series,) = open_file(tmp_path / "x.tif", Limits(megapixels=1))
    close(series.frame(0).pixels, np.full((9, 9), 7 / 255))
    with pytest.raises(ImageError, match=r"claims 1200 x 1000 pixels; of its kind \(L\) at most 1 megapixels"):
        series.frame(1)
    with pytest.raises(ImageError, match=r"claims 700 x 700 pixels; of its kind \(RGB\) at most 0\.333 megapixels"):
        series.frame(2)


@pytest.mark.parametrize("late", [False, True])
def test_grey_with_a_transparent_value_counts_as_the_colours_that_come_out_of_it(tmp_path, late):
    path = save(tmp_path / "x.png", np.eye(700, dtype=np.uint8), transparency=1)
    content = path.read_bytes()
    place = content.index(b"tRNS") - 4
    chunk, rest = content[place : place + 14], content[:place] + content[place + 14 :]
    if late:  # behind the pixels, where it is found when they are decoded
        path.write_bytes(rest[:-12] + chunk + rest[-12:])
    with pytest.raises(ImageError, match=r"claims 700 x 700 pixels; .* at most 0\.333 megapixels"):
        open_file(path, Limits(megapixels=1))[0].frame(0)
    assert open_file(path, Limits(megapixels=2))[0].frame(0).pixels.shape == (700, 700, 3)


def test_a_deep_picture_says_that_windows_apply_and_finds_its_own(tmp_path):
    (deep,) = open_file(save(tmp_path / "x.png", np.arange(201, dtype=np.uint16).reshape(3, 67)), Limits())
    (flat,) = open_file(save(tmp_path / "y.png", COLOUR), Limits())
    assert deep.about.deep and not flat.about.deep
    automatic = Window(float("nan"), float("nan"), "LINEAR_EXACT", "automatic")
    # the 0.5 and 99.5 percentile of 0 to 200
    assert deep.frame(0, automatic).window == Window(100, 198, "LINEAR_EXACT", "automatic")
    close(flat.frame(0, automatic).pixels, COLOUR / 255)


# --- windows, by the formulas of PS3.3 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "wanted"),
    [
        # C.11.2.1.2.1 with c = 40, w = 400: below 40 - 0.5 - 199.5 = -160 black, above 40 - 0.5 + 199.5 = 239 white,
        # else (x - 39.5) / 399 + 0.5
        (-1000, 0.0),
        (-160, 0.0),
        (-159, 1 / 399),
        (0, (0 - 39.5) / 399 + 0.5),
        (39.5, 0.5),
        (40, 0.5 / 399 + 0.5),
        (238, 398 / 399),
        (239, 1.0),
        (3000, 1.0),
    ],
)
def test_a_linear_window_by_hand(x, wanted):
    assert apply_window(np.array([x]), Window(40, 400))[0] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("x", "wanted"), [(-160, 0), (-60, 0.25), (40, 0.5), (140, 0.75), (240, 1), (241, 1), (-161, 0)])
def test_an_exact_linear_window_by_hand(x, wanted):
    # C.11.2.1.3.2: (x - 40) / 400 + 0.5
    assert apply_window(np.array([x]), Window(40, 400, "LINEAR_EXACT"))[0] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    # C.11.2.1.3.1: 1 / (1 + exp(-4 (x - 40) / 400)); exp(1) = 2.7182818, exp(2) = 7.3890561
    ("x", "wanted"),
    [(40, 0.5), (140, 2.7182818 / 3.7182818), (-60, 1 / 3.7182818), (240, 7.3890561 / 8.3890561), (1e9, 1), (-1e9, 0)],
)
def test_a_sigmoid_window_by_hand(x, wanted):
    assert apply_window(np.array([x]), Window(40, 400, "SIGMOID"))[0] == pytest.approx(wanted, abs=1e-6)


def test_a_window_of_width_1_is_a_threshold():
    assert apply_window(np.array([98, 99, 99.5, 99.6, 100, 101]), Window(100, 1)).tolist() == [0, 0, 0, 1, 1, 1]


def test_a_large_frame_is_windowed_as_a_small_one(monkeypatch):
    values = np.arange(1000).reshape(20, 50)
    whole = apply_window(values, Window(500, 900))
    monkeypatch.setattr("engine.readers._grey.BAND", 77)
    assert np.array_equal(apply_window(values, Window(500, 900)), whole)


@pytest.mark.parametrize(
    "window", [Window(0, 0.5), Window(0, -1), Window(0, 0, "SIGMOID"), Window(np.nan, 5), Window(0, np.inf, "LINEAR_EXACT")]
)
def test_a_window_that_cannot_be_applied_is_refused(window):
    with pytest.raises(ImageError, match=r"\(0028,1051\) Window Width"):
        apply_window(np.zeros(3), window)


def test_an_unknown_window_function_is_named():
    with pytest.raises(ImageError, match=r"\(0028,1056\) VOI LUT Function 'CUBIC'"):
        apply_window(np.zeros(3), Window(0, 10, "CUBIC"))


# --- DICOM, by hand ----------------------------------------------------------------------------------------------------

CT = np.array([[24, 865, 984], [1063, 1064, 2000]], dtype=np.uint16)  # -1000, -159, -40, 39, 40, 976 HU
CT_SHOWN = [[0, 1 / 399, (-40 - 39.5) / 399 + 0.5], [(39 - 39.5) / 399 + 0.5, 0.5 / 399 + 0.5, 1]]
CT_TAGS = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}


@pytest.mark.parametrize(
    ("syntax", "meta"),
    [("explicit", True), ("implicit", True), ("deflated", True), ("rle", True), ("explicit", False), ("implicit", False)],
)
def test_rescale_comes_before_the_window_in_every_encoding(tmp_path, write_dicom, syntax, meta):
    image = frame(write_dicom(tmp_path / "x", CT, syntax, meta, **CT_TAGS))
    close(image.pixels, CT_SHOWN)
    assert image.modality == "CT" and image.window == Window(40, 400, "LINEAR", "file")
    assert "Rescaled with slope 1 and intercept -1024." in image.notes
    assert "Window centre 40 HU, width 400 HU (file)." in image.notes


def test_big_endian_pixels_are_swapped(tmp_path, write_dicom):
    close(frame(write_dicom(tmp_path / "x", CT, "big", **CT_TAGS)).pixels, CT_SHOWN)


def test_a_file_without_a_transfer_syntax_says_how_it_was_read(tmp_path, write_dicom):
    image = frame(write_dicom(tmp_path / "x", CT, "explicit", meta=False, **CT_TAGS))
    assert "no transfer syntax given, read as Explicit VR Little Endian" in image.notes[0]


def test_a_deflated_file_is_named_as_deflated(tmp_path, write_dicom):
    # bug: pydicom's pixel_array(path) does not inflate, so that every deflated file was refused as cut off
    assert "Deflated" in frame(write_dicom(tmp_path / "x", CT, "deflated", **CT_TAGS)).notes[0]


def test_the_window_functions_of_the_file_are_used(tmp_path, write_dicom):
    values = np.array([[0, 100, 200, 300]], dtype=np.int16)
    tags = {"WindowCenter": 100, "WindowWidth": 200}
    exact = frame(write_dicom(tmp_path / "x", values, VOILUTFunction="LINEAR_EXACT", **tags))
    close(exact.pixels, [[0, 0.5, 1, 1]])
    sigmoid = frame(write_dicom(tmp_path / "y", values, VOILUTFunction="SIGMOID", **tags))
    e2, e4 = 7.3890561, 54.5981500
    close(sigmoid.pixels, [[1 / (1 + e2), 0.5, e2 / (1 + e2), e4 / (1 + e4)]])


def test_of_several_windows_the_first_is_used(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x", CT, WindowCenter=[1000, 5], WindowWidth=[2001, 6])
    assert frame(path).window == Window(1000, 2001, "LINEAR", "file")
    close(frame(path).pixels, np.minimum((CT - 999.5) / 2000 + 0.5, 1))


def test_the_users_window_overrides_the_files(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x", CT, **CT_TAGS)
    image = frame(path, Window(0, 80, "LINEAR_EXACT"))
    close(image.pixels, [[0, 0, 0], [39 / 80 + 0.5, 1, 1]])  # -40 HU is the lower end, 40 HU the upper
    assert "Window centre 0 HU, width 80 HU (user)." in image.notes


def test_the_users_window_overrides_the_files_lut(tmp_path, write_dicom):
    path = write_dicom(
        tmp_path / "x", np.array([[0, 1, 2, 4]], dtype=np.uint8), VOILUTSequence=make_lut([2, 0, 8], [255, 0])
    )
    close(frame(path, Window(2, 4, "LINEAR_EXACT")).pixels, [[0, 0.25, 0.5, 1]])


def test_a_window_of_width_0_gives_way_to_an_automatic_one(tmp_path, write_dicom):
    image = frame(write_dicom(tmp_path / "x", np.arange(201, dtype=np.uint8)[None], WindowCenter=5, WindowWidth=0))
    assert image.window == Window(100, 198, "LINEAR_EXACT", "automatic")
    close(image.pixels, np.clip((np.arange(201)[None] - 1) / 198, 0, 1))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [None, "IDENTITY", "INVERSE"])
def test_an_image_is_inverted_exactly_once(tmp_path, write_dicom, photometric, shape):
    values = np.array([[0, 51, 255]], dtype=np.uint8)
    tags = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape}
    image = frame(write_dicom(tmp_path / "x", values, WindowCenter=128, WindowWidth=256, **tags))
    # PS3.3 C.11.6.1.2: MONOCHROME1 goes with INVERSE; the pair is one inversion, not two
    inverted = shape == "INVERSE" or photometric == "MONOCHROME1"
    close(image.pixels, [[1, 0.8, 0]] if inverted else [[0, 0.2, 1]])
    assert sum(note.startswith("Inverted") for note in image.notes) == int(inverted)


def test_an_automatic_window_is_inverted_too(tmp_path, write_dicom):
    values = np.arange(201, dtype=np.uint8)[None]
    image = frame(write_dicom(tmp_path / "x", values, PhotometricInterpretation="MONOCHROME1"))
    close(image.pixels, 1 - np.clip((np.arange(201)[None] - 1) / 198, 0, 1))


@pytest.mark.parametrize("raw", [False, True])
def test_a_voi_lut_of_the_file_is_looked_up(tmp_path, write_dicom, raw):
    entries = [0, 1000, 4095, 2000]
    data = struct.pack("<4H", *entries) if raw else entries
    values = np.array([[0, 10, 11], [12, 13, 99]], dtype=np.uint16)
    path = write_dicom(tmp_path / "x", values, VOILUTSequence=make_lut([4, 10, 12], data), WindowCenter=5, WindowWidth=9)
    image = frame(path)
    close(image.pixels, np.array([[0, 0, 1000], [4095, 2000, 2000]]) / 4095)
    assert "VOI LUT of the file applied." in image.notes and image.window is None


def test_a_voi_lut_follows_a_rescale_to_negative_values(tmp_path, write_dicom):
    # bug: the rescaled values were cast back to unsigned, so that -2 became 65534
    values = np.array([[0, 1, 2, 3]], dtype=np.uint16)
    lut = make_lut([4, -2, 8], [0, 51, 102, 255])
    image = frame(write_dicom(tmp_path / "x", values, RescaleSlope=1, RescaleIntercept=-2, VOILUTSequence=lut))
    close(image.pixels, [[0, 0.2, 0.4, 1]])


def test_a_voi_lut_of_8_bits_takes_values_above_255(tmp_path, write_dicom):
    # bug: pydicom's apply_voi looks up in the type of the entries, so that 256 became 0
    lut = make_lut([512, 0, 8], [0] * 256 + [255] * 256)
    image = frame(write_dicom(tmp_path / "x", np.array([[0, 255, 256, 511]], dtype=np.uint16), VOILUTSequence=lut))
    close(image.pixels, [[0, 0, 1, 1]])


def test_a_modality_lut_comes_before_the_window(tmp_path, write_dicom):
    lut = make_lut([3, 100, 16], [0, 400, 1000])
    values = np.array([[0, 100, 101, 102, 5000]], dtype=np.uint16)
    tags = {"WindowCenter": 500, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    image = frame(write_dicom(tmp_path / "x", values, ModalityLUTSequence=lut, **tags))
    close(image.pixels, [[0, 0, 0.4, 1, 1]])
    assert "Modality LUT of the file applied." in image.notes


def test_a_modality_lut_with_12_bits_is_read(tmp_path, write_dicom):
    # bug: pydicom asks numpy for the type uint12
    lut = make_lut([2, 0, 12], [0, 4095])
    values = np.array([[0, 1]], dtype=np.uint16)
    image = frame(write_dicom(tmp_path / "x", values, ModalityLUTSequence=lut, WindowCenter=2048, WindowWidth=4096))
    close(image.pixels, [[0, 1]])


def test_a_modality_lut_comes_before_a_voi_lut(tmp_path, write_dicom):
    path = write_dicom(
        tmp_path / "x",
        np.array([[0, 1, 2]], dtype=np.uint16),
        ModalityLUTSequence=make_lut([3, 0, 16], [2, 0, 1]),
        VOILUTSequence=make_lut([3, 0, 8], [0, 51, 255]),
    )
    close(frame(path).pixels, [[1, 0, 0.2]])


def test_a_rescale_without_an_intercept_is_applied_as_its_note_says(tmp_path, write_dicom):
    # bug: the note said so, but pydicom rescales only where both are given
    path = write_dicom(tmp_path / "x", np.array([[0, 50, 100]], dtype=np.uint8), RescaleSlope=2)
    image = frame(path, Window(100, 200, "LINEAR_EXACT"))
    close(image.pixels, [[0, 0.5, 1]])
    assert "Rescaled with slope 2 and intercept 0." in image.notes


def test_signed_values_stay_signed(tmp_path, write_dicom):
    values = np.array([[-1000, -1, 0, 1, 1000]], dtype=np.int16)
    tags = {"WindowCenter": 0, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"}
    close(frame(write_dicom(tmp_path / "x", values, **tags)).pixels, [[0, 0.4995, 0.5, 0.5005, 1]])


def test_12_bits_in_16_ignore_what_stands_above_them(tmp_path, write_dicom):
    values = np.array([[0x0000, 0x0333, 0xF333, 0x0FFF]], dtype=np.uint16)  # 0x333 = 819 = 0.2 * 4095
    path = write_dicom(tmp_path / "x", values, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096)
    close(frame(path).pixels, [[0, 0.2, 0.2, 1]])


def test_12_signed_bits_in_16_are_extended(tmp_path, write_dicom):
    values = np.array([[0x0800, 0x0FFF, 0x0000, 0x07FF]], dtype=np.int16)  # -2048, -1, 0, 2047
    tags = {"WindowCenter": 0, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"}
    image = frame(write_dicom(tmp_path / "x", values, BitsStored=12, HighBit=11, **tags))
    close(image.pixels, [[0, 2047 / 4096, 0.5, 4095 / 4096]])


@pytest.mark.parametrize(
    "padding", [{"PixelPaddingValue": -2000}, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}]
)
def test_padding_stays_out_of_the_automatic_window(tmp_path, write_dicom, padding):
    values = np.arange(-20, 381, dtype=np.int16)  # 0 to 200 after halving
    values[:200] = -2000
    if "PixelPaddingRangeLimit" in padding:
        values[100:200] = -1995
    kept = values[200:]  # 180 to 380: 201 values, the 0.5 percentile is 181, the 99.5 percentile 379
    assert kept.size == 201
    image = frame(write_dicom(tmp_path / "x", values[None], **padding))
    assert image.window == Window(280, 198, "LINEAR_EXACT", "automatic")
    close(image.pixels[0, :200], np.zeros(200))


def test_without_a_padding_value_every_pixel_counts(tmp_path, write_dicom):
    values = np.concatenate([np.full(201, -2000), np.arange(201)]).astype(np.int16)[None]
    assert frame(write_dicom(tmp_path / "x", values)).window.center < 0


def test_float_pixels_are_read(tmp_path, write_dicom):
    values = np.array([[-1.5, 0.0, 0.25, 2.5, np.nan]], dtype=np.float32)
    image = frame(write_dicom(tmp_path / "x", values), Window(0.5, 4, "LINEAR_EXACT"))
    close(image.pixels, [[0, 0.375, 0.4375, 1, 0]])


def test_palette_colours_are_looked_up(tmp_path, write_dicom):
    tags = {}
    for name, entries in {
        "Red": (0, 0xFFFF, 0x3333),
        "Green": (0xFFFF, 0, 0x6666),
        "Blue": (0x3333, 0x6666, 0xCCCC),
    }.items():
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = struct.pack("<3H", *entries)
    values = np.array([[0, 1], [2, 9]], dtype=np.uint8)
    image = frame(write_dicom(tmp_path / "x", values, PhotometricInterpretation="PALETTE COLOR", **tags))
    last = [0.2, 0.4, 0.8]
    close(image.pixels, [[[0, 1, 0.2], [1, 0, 0.4]], [last, last]])  # beyond the table: its last entry


@pytest.mark.parametrize(("syntax", "planar"), [("explicit", 0), ("explicit", 1), ("rle", 0)])
def test_colour_is_read_by_pixel_and_by_plane(tmp_path, write_dicom, planar, syntax):
    image = frame(write_dicom(tmp_path / "x", COLOUR, syntax, PlanarConfiguration=planar))
    close(image.pixels, COLOUR / 255)


def test_16_bit_colour_is_divided_by_its_stored_bits(tmp_path, write_dicom):
    values = np.array([[[0, 819, 4095], [4095, 0, 2048]]], dtype=np.uint16)
    image = frame(write_dicom(tmp_path / "x", values, BitsStored=12, HighBit=11))
    close(image.pixels, values / 4095)


def test_ybr_becomes_rgb(tmp_path, write_dicom):
    values = np.array([[[76, 85, 255], [150, 44, 21], [128, 128, 128]]], dtype=np.uint8)
    image = frame(write_dicom(tmp_path / "x", values, PhotometricInterpretation="YBR_FULL"))
    # PS3.3 C.7.6.3.1.2: red is 76.2, 85.0, 255.5, green 149.7, 43.5, 21.2 in YBR_FULL; rounding of 8 bits on both ways
    np.testing.assert_allclose(image.pixels[0] * 255, [[255, 0, 0], [0, 255, 0], [128, 128, 128]], atol=2.5)
    assert "Converted from YBR_FULL to RGB." in image.notes


def functional(**items: Dataset) -> Dataset:
    group = Dataset()
    for keyword, item in items.items():
        setattr(group, keyword, Sequence([item]))
    return group


def item(**tags) -> Dataset:
    made = Dataset()
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    return made


def test_a_frames_own_window_rescale_and_spacing_are_used(tmp_path, write_dicom):
    frames = np.stack([np.array([[0, 10, 20, 30]], dtype=np.uint16)] * 3)
    per_frame = [
        functional(
            FrameVOILUTSequence=item(WindowCenter=c, WindowWidth=w, VOILUTFunction="LINEAR_EXACT"),
            PixelValueTransformationSequence=item(RescaleSlope=s, RescaleIntercept=i, RescaleType="US"),
            PixelMeasuresSequence=item(PixelSpacing=[s, s]),
        )
        for c, w, s, i in ((15, 30, 1, 0), (30, 60, 2, 0), (0, 20, 1, -10))
    ]
    common = functional(FrameVOILUTSequence=item(WindowCenter=1000, WindowWidth=10))
    path = write_dicom(
        tmp_path / "x",
        frames,
        PerFrameFunctionalGroupsSequence=Sequence(per_frame),
        SharedFunctionalGroupsSequence=Sequence([common]),
        WindowCenter=1,
        WindowWidth=2,
    )
    series = engine.read([path])[0]
    assert series.frames == 3
    close(series.frame(0).pixels, [[0, 1 / 3, 2 / 3, 1]])
    close(series.frame(1).pixels, [[0, 1 / 3, 2 / 3, 1]])
    close(series.frame(2).pixels, [[0, 0.5, 1, 1]])
    assert [series.frame(i).spacing_mm for i in range(3)] == [(1, 1), (2, 2), (1, 1)]
    assert "Rescaled with slope 1 and intercept -10 (of the frame)." in series.frame(2).notes


def test_the_shared_functional_group_counts_before_the_files_top_level(tmp_path, write_dicom):
    frames = np.stack([np.array([[0, 10, 20, 40]], dtype=np.uint16)] * 2)
    common = functional(FrameVOILUTSequence=item(WindowCenter=20, WindowWidth=40, VOILUTFunction="LINEAR_EXACT"))
    tags = {"SharedFunctionalGroupsSequence": Sequence([common]), "WindowCenter": 1, "WindowWidth": 2}
    close(engine.read([write_dicom(tmp_path / "x", frames, **tags)])[0].frame(1).pixels, [[0, 0.25, 0.5, 1]])


def test_spacing_is_row_then_column(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x", GREY, PixelSpacing=[0.5, 0.25])
    assert engine.read([path])[0].slots[0].spacing_mm == (0.5, 0.25)
    assert frame(path).spacing_mm == (0.25, 0.25) and frame(path).shape == (4, 3)  # square pixels, twice the rows


@pytest.mark.parametrize("spacing", [None, [0, 0], [-1, 1], [1], "", [1, 2, 3]])
def test_a_spacing_that_cannot_be_is_none(tmp_path, write_dicom, spacing):
    assert frame(write_dicom(tmp_path / "x", GREY, PixelSpacing=spacing)).spacing_mm is None


def test_the_affine_by_hand(tmp_path, write_dicom):
    path = write_dicom(
        tmp_path / "x",
        GREY,
        PixelSpacing=[0.5, 0.25],  # 0.5 mm from row to row, 0.25 mm from column to column
        SliceThickness=3,
        ImagePositionPatient=[-10, 20, 30],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],  # along a row towards posterior, down a column towards the feet
    )
    affine = engine.read([path])[0].affine
    # stored column 4, row 2: y = 20 + 4 * 0.25, z = 30 - 2 * 0.5; the normal (0,1,0) x (0,0,-1) = (-1,0,0). Frames have twice the
    # rows, for square pixels: the centre of stored row r is at (r + 0.5) * 2 - 0.5
    close(affine @ [4, 4.5, 0, 1], [-10, 21, 29, 1])
    close(affine @ [0, 0.5, 1, 1], [-13, 20, 30, 1])
    assert engine.read([write_dicom(tmp_path / "y", GREY)])[0].affine is None


def test_what_is_wrong_is_named_with_its_tag(tmp_path, write_dicom):
    def refuse(words: str, array: np.ndarray | None = GREY, **tags) -> None:
        with pytest.raises(ImageError, match=words):
            frame(write_dicom(tmp_path / "x", array, **tags))

    refuse(r"65535 x 65535 pixels.*\(0028,0010\) Rows", Rows=65535, Columns=65535)
    refuse(r"\(0028,0004\).*'NONSENSE'", PhotometricInterpretation="NONSENSE")
    refuse(r"\(0028,0100\).*'12'", BitsAllocated=12)
    refuse(r"has no pixel data: \(7FE0,0010\) Pixel Data is missing", None, Rows=4, Columns=4)
    missing = r"holds no image: \(0028,0010\) Rows is missing, \(0008,0016\) SOP Class UID "
    refuse(missing + r"is 12-lead ECG Waveform Storage\.", None, SOPClassUID="1.2.840.10008.5.1.4.1.1.9.1.1")
    refuse(missing + r"is not known\.", None, SOPClassUID="1.2.3")
    refuse(r"holds no image: \(0028,0011\) Columns is missing, \(0008,0016\)", GREY, Columns=None)


# --- nothing that identifies a patient ---------------------------------------------------------------------------------

SECRETS = {
    "PatientName": "Quixote^Alonso",
    "PatientID": "QX-4711",
    "PatientBirthDate": "16050116",
    "PatientAddress": "La Mancha 7",
    "PatientComments": "windmills",
    "InstitutionName": "Hospital Toboso",
    "InstitutionAddress": "Dulcinea Street",
    "ReferringPhysicianName": "Panza^Sancho",
    "OperatorsName": "Rocinante",
    "AccessionNumber": "ACC987654",
    "StudyDate": "20240229",
    "StudyTime": "112233",
    "StudyInstanceUID": "1.2.826.0.1.777.1",
    "SeriesInstanceUID": "1.2.826.0.1.777.2",
    "StudyDescription": "Fight against giants",
    "SeriesDescription": "Giant 3",
    "ProtocolName": "Lance",
    "StationName": "VENTA",
    "DeviceSerialNumber": "SER555777",
    "ManufacturerModelName": "Barber basin",
    "ImageComments": "Mambrino",
}


def told(path: Path) -> str:
    """Everything that the engine says of a file, name aside."""
    said = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            series = engine.read([path])[0]
            said += [*series.notes, repr(series)]
            image = series.frame(0)
            said += [*image.notes, *image.warnings, repr(image), image.modality, repr(image.window)]
        except EngineError as error:
            said += [str(error), repr(error), error.hint]
    return "\n".join([*said, *(str(w.message) for w in warned)])


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"PixelData": b"\0\0"},
        {"PhotometricInterpretation": "NONSENSE"},
        {"WindowCenter": float("nan"), "WindowWidth": 0},
        {"BitsAllocated": 12},
        {"Rows": None},
        {"ImageOrientationPatient": [1, 2]},
    ],
)
def test_nothing_that_identifies_a_patient_is_told(tmp_path, write_dicom, capfd, tags):
    words = told(write_dicom(tmp_path / "x", CT, **SECRETS, **tags)) + "".join(capfd.readouterr())
    assert "DICOM" in words or "pixels" in words
    pieces = {piece for value in SECRETS.values() for piece in (value, *value.split("^"), *value.split())}
    assert [p for p in pieces if len(p) > 3 and p.lower() in words.lower()] == []


def test_a_patients_name_in_a_wrong_place_is_not_told(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x", None, SOPClassUID="1.2.3.4711", PatientName="Quixote")
    words = told(path)
    assert "(0008,0016) SOP Class UID is not known" in words and "4711" not in words


# --- broken inputs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict]:
    """tests/broken.py in a process of its own: a crash there fails a test here, and its memory is its own."""
    script = Path(__file__).parent / "broken.py"
    command = [sys.executable, str(script), str(tmp_path_factory.mktemp("broken"))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    last = lines[-1] if lines else "nothing"
    assert ran.returncode == 0, f"the process ended with {ran.returncode} after {last}: {ran.stderr[-2000:]}"
    return [line for line in lines if "begun" not in line]


def test_there_are_enough_broken_inputs_and_no_two_alike(outcomes):
    names = [o["description"] for o in outcomes]
    assert len(names) >= 50 and len(set(names)) == len(names)


def test_a_broken_input_raises_nothing_but_an_engine_error(outcomes):
    assert [(o["description"], o["raised"]) for o in outcomes if "raised" in o] == []


def test_a_broken_input_is_refused_in_one_sentence(outcomes):
    refused = [o for o in outcomes if "error" in o]
    assert len(refused) > len(outcomes) / 2
    bad = [
        o
        for o in refused
        if not 20 < len(o["error"]) < 600
        or "Traceback" in o["error"]
        or not o["error"].endswith(".")
        or not all(c.isprintable() for c in o["error"])  # no line break either
    ]
    assert bad == []


def test_a_broken_input_that_can_be_read_gives_a_valid_image(outcomes):
    read = [o for o in outcomes if "image" in o]
    assert read and [(o["description"], o["image"]) for o in read if o["image"]] == []


def test_a_broken_input_takes_no_longer_than_its_limit(outcomes):
    assert [(o["description"], o["seconds"]) for o in outcomes if o["seconds"] > SECONDS] == []


def test_a_broken_input_takes_no_more_than_1000_mb(outcomes):
    # on top of what the process holds with torch and all before it reads anything: half a gigabyte or more
    assert [(o["description"], o["peak_mb"]) for o in outcomes if o["peak_mb"] > 1000][:1] == []


def test_a_deflated_bomb_is_recognised_wherever_it_hides(outcomes):
    # bug: the limit was checked where the meta group's length pointed, and not at all without a preamble
    bombs = {o["description"]: o.get("error", "") for o in outcomes if "deflated bomb" in o["description"]}
    assert len(bombs) == 3
    for name, sentence in bombs.items():
        assert "inflates to more than 512 MiB" in sentence or "command" in name, (name, sentence)


# --- real files --------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_nine_of_ten_real_files_that_pydicom_decodes_are_read(shared):
    folder = shared / "data" / "dicom"
    with (folder / "table.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    decodable = [r for r in rows if r["decode"] == "ok"]
    assert len(decodable) > 80
    refused = {}
    for row in decodable:
        try:
            image = frame(folder / row["file"])
        except EngineError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
            refused[row["file"]] = str(error)
            continue
        square = any(note.startswith("Resampled to square pixels") for note in image.notes)
        assert image.pixels.dtype == np.float32
        assert square or image.shape == (int(row["rows"]), int(row["cols"])), row["file"]
        assert np.isfinite(image.pixels).all() and image.pixels.min() >= 0 and image.pixels.max() <= 1, row["file"]
        assert image.modality == row["modality"]
    assert len(refused) <= 0.1 * len(decodable), refused


@pytest.mark.shared
def test_real_files_without_pixels_or_decoder_are_refused_in_a_sentence(shared):
    folder = shared / "data" / "dicom"
    with (folder / "table.csv").open(newline="") as lines:
        rows = [r for r in csv.DictReader(lines) if r["decode"] != "ok"]
    assert len(rows) > 40
    for row in rows:
        try:
            image = frame(folder / row["file"])
            assert image.pixels.size and np.isfinite(image.pixels).all()
        except EngineError as error:
            assert "\n" not in str(error) and len(str(error)) < 600


@pytest.mark.shared
def test_one_image_in_many_encodings_is_one_image(shared):
    folder = shared / "data" / "dicom" / "cornerstoneWADOImageLoader"
    plain = frame(next(folder.glob("CTImage.dcm_BigEndian*"))).pixels
    for name in ("Deflated", "JPEG2000LosslessOnly", "JPEGLSLossless", "JPEGProcess14SV1", "JPEGProcess14T", "RLELossless"):
        for path in folder.glob(f"CTImage.dcm_{name}*"):
            assert np.array_equal(frame(path).pixels, plain), path.name
    # the lossy ones differ by their loss: a few HU of the window's 400
    for name in ("JPEG2000TransferSyntax", "JPEGLSLossy"):
        for path in folder.glob(f"CTImage.dcm_{name}*"):
            assert np.abs(frame(path).pixels - plain).mean() < 0.03, path.name


needs_bundled = pytest.mark.skipif(
    not (BUNDLED / "CT_small.dcm").is_file(), reason="pydicom was installed without its files"
)


@needs_bundled
def test_ct_small_at_named_positions_equals_its_raw_bytes():
    content = (BUNDLED / "CT_small.dcm").read_bytes()
    begin = content.index(b"\xe0\x7f\x10\x00OW\0\0") + 12  # the last element's tag, VR, reserved bytes and length
    assert struct.unpack_from("<I", content, begin - 4) == (128 * 128 * 2,)

    def hounsfield(row: int, column: int) -> int:
        return struct.unpack_from("<h", content, begin + 2 * (128 * row + column))[0] - 1024  # (0028,1052)

    positions = [(0, 0), (0, 127), (127, 0), (64, 64), (100, 30), (37, 88)]
    image = frame(BUNDLED / "CT_small.dcm", Window(40, 400))
    for row, column in positions:
        wanted = min(1.0, max(0.0, (hounsfield(row, column) - 39.5) / 399 + 0.5))
        assert image.pixels[row, column] == pytest.approx(wanted, abs=1e-6), (row, column)
    automatic = frame(BUNDLED / "CT_small.dcm")
    every = sorted(hounsfield(r, c) for r in range(128) for c in range(128))
    # the percentile between ranks, as numpy's default: 0.005 * 16383 = 81.915
    low = every[81] + 0.915 * (every[82] - every[81])
    high = every[16301] + 0.085 * (every[16302] - every[16301])
    for row, column in positions:
        wanted = min(1.0, max(0.0, (hounsfield(row, column) - low) / (high - low)))
        assert automatic.pixels[row, column] == pytest.approx(wanted, abs=1e-5), (row, column)
    assert image.spacing_mm == pytest.approx((0.661468, 0.661468)) and image.modality == "CT"


@needs_bundled
def test_one_mr_image_in_many_encodings_is_one_image():
    plain = frame(BUNDLED / "MR_small.dcm").pixels
    others = ("bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "RLE")
    for name in others:
        assert np.array_equal(frame(BUNDLED / f"MR_small_{name}.dcm").pixels, plain), name


@needs_bundled
def test_a_rust_decoder_that_panics_gives_way_to_the_second_with_a_warning(tmp_path):
    # bug: pylibjpeg-rle's panic is no Exception and went past every except
    content = (BUNDLED / "MR_small_RLE.dcm").read_bytes()
    middle = len(content) // 2
    noise = np.random.default_rng(7).bytes(3000)
    (tmp_path / "x").write_bytes(content[:middle] + noise + content[middle + 3000 :])
    image = frame(tmp_path / "x")
    assert "Decoded by pydicom after pylibjpeg failed." in image.notes
    assert image.warnings == ("The pixels may be damaged: pylibjpeg refused them.",)


@needs_bundled
def test_damaged_jpeg_ls_does_not_end_the_process(tmp_path):
    # bug: GDCM, which pydicom tries first, throws past Python and aborts where the sample precision cannot be
    content = bytearray((BUNDLED / "JPEGLSNearLossless_08.dcm").read_bytes())
    header = content.index(b"\xff\xf7")  # SOF55: marker, length (2 bytes), precision, rows, columns
    content[header + 4] = 200
    (tmp_path / "x").write_bytes(content)
    code = f"import sys; sys.path.insert(0, {str(Path(engine.__file__).parent.parent)!r})\n"
    code += "from engine.readers import dicom; from engine.limits import Limits; from pathlib import Path\n"
    code += f"try: dicom.read(Path({str(tmp_path / 'x')!r}), Limits())[0].frame(0)\nexcept Exception as e: print(type(e).__name__)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "ImageError"), ran.stderr[-500:]


def test_the_samples_can_all_be_read():
    for sample in engine.samples():
        image = engine.read_image(sample.path)
        assert np.ptp(image.pixels) > 0, sample.title


def test_a_phones_jpeg_shows_its_picture_not_the_preview_behind_it(tmp_path):
    picture, preview = PIL.Image.new("L", (40, 30), 200), PIL.Image.new("L", (8, 6), 10)
    picture.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert engine.read([tmp_path / "a.jpg"])[0].frames == 1
    image = engine.read_image(tmp_path / "a.jpg")
    assert image.shape == (30, 40) and abs(float(image.pixels.mean()) - 200 / 255) < 0.01
