"""What identifies a patient: left behind in copies, found nowhere afterwards, forgotten in time and on demand.

Run: python -m pytest tests/test_privacy.py
The list of what has to go is that of another program, dicom-anonymizer (BSD), which made it from the tables of PS3.15.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sqlite3
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.PngImagePlugin
import pydicom
import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom import config
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from test_dicom import relabelled

import engine
from engine import store as features_store
from engine.features import features_of
from engine.limits import Limits
from engine.readers import open_file
from engine.readers._clean import BULK, CODES, EMPTY, KINDS_OF_IMAGE, MADE_ANEW, NUMBERS, SEQUENCES, clean
from engine.store import DAY, Store, StoreError, digest_of, erase
from engine.types import Example

ROOT = Path(__file__).resolve().parent.parent
MARKER, ACCENTED = "MARKERPATIENT", "MÄRKERPATIENT"
BORN = "19610312"
TEXTS = ("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
VALUES = dict.fromkeys(TEXTS, MARKER) | {"CS": MARKER, "AS": "054Y", "DA": BORN, "DT": BORN + "101112", "TM": "101112.5"}
VALUES |= {"UI": "1.2.826.0.1.3680043.8.498.7.1961", "DS": "71.318", "IS": "71318", "US": 7131, "SS": 7131, "UL": 71318}
VALUES |= {"SL": 71318, "FL": 71.318, "FD": 71.318, "AT": 0x00100010, "SV": 71318, "UV": 71318}
VALUES |= {vr: MARKER.encode() + b" " for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "UN")}
DECISIVE = {"PhotometricInterpretation", "VOILUTFunction", "PresentationLUTShape"}  # a name there makes it no image
PICTURE = (np.arange(48 * 40).reshape(48, 40) % 251).astype(np.uint8)


# --- what the tests share ---------------------------------------------------------------------------------------------------


def assert_nowhere(
    folder: Path, *logs: str | bytes, words: tuple[str, ...] = (MARKER, ACCENTED), but: tuple[Path, ...] = ()
):
    """Neither in a file below the folder (inside of archives, and in their names) nor in the logs, in four encodings.

    but : files or folders that may hold the words, as the study itself
    """
    for path in sorted(folder.rglob("*")):
        if any(path == each or each in path.parents for each in but):
            continue
        assert not _holds(str(path.relative_to(folder)).encode(), words), f"the name {path}"
        if path.is_file():
            for inside, content in _contents(path.name, path.read_bytes()):
                assert not _holds(content, words), f"in {path} ({inside})"
    for log in logs:
        assert not _holds(log if isinstance(log, bytes) else log.encode(), words), log


def _holds(content: bytes, words: tuple[str, ...]) -> bool:
    folded = content.lower()
    return any(
        word.lower().encode(code) in folded or word.upper().encode(code).lower() in folded
        for word in words
        for code in ("utf-8", "latin-1", "utf-16-le", "utf-16-be")
    )


def _contents(name: str, content: bytes):
    """The bytes, and what is packed in them."""
    yield name, content
    if content[:2] == b"\x1f\x8b":
        yield f"{name}, unpacked", gzip.decompress(content)
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for each in archive.namelist():
                yield f"{name}/{each}", each.encode() + archive.read(each)
    if content[:4] == b"\x89PNG":
        for packed in re.findall(rb"(?:zTXt|iTXt|iCCP)[^\0]*\0+(x.*)", content, re.DOTALL):
            yield f"{name}, a packed chunk", zlib.decompressobj().decompress(packed)


def test_the_search_for_a_name_finds_it_in_every_encoding_and_in_archives(tmp_path):
    for i, code in enumerate(("utf-8", "latin-1", "utf-16-le", "utf-16-be")):
        (tmp_path / f"{i}").write_bytes(b"\x01" + f"a {ACCENTED.lower()} b".encode(code))
        with pytest.raises(AssertionError, match="in "):
            assert_nowhere(tmp_path)
        (tmp_path / f"{i}").unlink()
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", "x" * 99 + MARKER)
    with pytest.raises(AssertionError, match="inside"):
        assert_nowhere(tmp_path)
    assert_nowhere(tmp_path, but=(tmp_path / "x.npz",))
    with pytest.raises(AssertionError, match="says"):
        assert_nowhere(tmp_path, f"the log says {MARKER}", but=(tmp_path / "x.npz",))


def element(tag: int, vr: str, value) -> DataElement:
    return DataElement(tag, vr, value, validation_mode=config.IGNORE)


def planted(vr: str, deeper: bool = True):
    """A value of the VR that identifies somebody."""
    if vr != "SQ":
        return VALUES[vr]
    item = Dataset()
    item.add(element(0x00100010, "PN", f"{MARKER}^Anna"))
    item.add(element(0x0008103E, "LO", MARKER))
    if deeper:
        item.add(element(0x00081140, "SQ", Sequence([planted("SQ", False)[0]])))
    return Sequence([item])


def plant(data: Dataset, charset: str = "ISO_IR 100") -> Dataset:
    """Every element of the standard that takes text, a date or a sequence; private ones, at the top and nested."""
    data.SpecificCharacterSet = charset
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        group = tag >> 16
        if vr not in (*TEXTS, "CS", "DA", "DT", "TM", "AS", "SQ", "UI") or group <= 4 or keyword in DECISIVE:
            continue
        if keyword in ("SOPClassUID", "SpecificCharacterSet", *SEQUENCES) or group in (0x60, 0x7F, 0x7FE0, 0xFFFE, 0xFFFA):
            continue
        text = f"{MARKER} {ACCENTED}" if vr in ("LO", "LT", "ST", "UT", "UC") else None
        data.add(element(tag, vr, text or planted(vr)))
    for place in (data, data.ReferencedImageSequence[0]):
        block = place.private_block(0x0029, f"{MARKER} HEADER", create=True)
        block.add_new(0x10, "LO", MARKER)
        block.add_new(0x11, "SQ", planted("SQ"))
        block.add_new(0x12, "OB", MARKER.encode() + b" ")
    data.add_new(0x60000022, "LO", MARKER)
    data.add_new(0x50002500, "LO", MARKER)
    return data


def study_file(path: Path, write_dicom, array: np.ndarray = PICTURE, syntax: str = "explicit", charset="ISO_IR 100", **tags):
    """A DICOM file with a name in every element that takes one, and a program in its preamble."""
    write_dicom(path, array, syntax, **tags)
    data = pydicom.dcmread(path)
    geometry = {k: data[k].value for k in tags if k in data}
    plant(data, charset)
    for keyword, value in geometry.items():
        setattr(data, keyword, value)
    data.preamble = b"MZ" + MARKER.encode() + bytes(113)
    data.file_meta.SourceApplicationEntityTitle = MARKER
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(path)
    path.write_bytes(path.read_bytes() + (b"" if syntax == "deflated" else b"PK" + MARKER.encode()))
    return path


def nameless(window: engine.Window | None) -> engine.Window | None:
    """What a window is called may stay behind."""
    return window and replace(window, name="")


def same_image(before: Path, after: Path) -> None:
    old, new = open_file(before), open_file(after)
    assert [s.frames for s in old] == [s.frames for s in new]
    for one, two in zip(old, new, strict=True):
        for index in {0, one.frames - 1}:
            first, second = one.frame(index), two.frame(index)
            assert np.array_equal(first.pixels, second.pixels)
            assert (nameless(first.window), first.spacing_mm, first.marks) == (
                nameless(second.window),
                second.spacing_mm,
                second.marks,
            )


# --- DICOM ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192"])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big", "deflated", "rle"])
def test_no_text_of_a_header_is_in_the_copy_which_reads_to_the_same_pixels(syntax, charset, write_dicom, tmp_path):
    source = study_file(
        tmp_path / "a", write_dicom, syntax=syntax, charset=charset, PixelSpacing=[0.5, 0.5], WindowCenter=90
    )
    assert syntax == "deflated" or _holds(source.read_bytes(), (MARKER,))
    (tmp_path / "kept").mkdir()
    done = clean(source, tmp_path / "kept" / "b", Limits())
    assert_nowhere(tmp_path / "kept", words=(MARKER, ACCENTED, BORN, "101112"))
    same_image(source, tmp_path / "kept" / "b")
    removed = dict(done.removed)
    assert removed["private elements"] >= 8 and removed["unique identifiers"] > 80 and removed["dates and times"] > 100
    assert removed["names and identifiers"] > 50 and removed["people and places"] > 50 and removed["free text"] > 300


def test_the_copy_says_what_was_done_and_has_an_empty_preamble(write_dicom, tmp_path):
    source = study_file(tmp_path / "a", write_dicom, BurnedInAnnotation="YES")
    clean(source, tmp_path / "b", Limits())
    raw, copy = (tmp_path / "b").read_bytes(), pydicom.dcmread(tmp_path / "b")
    assert raw[:132] == bytes(128) + b"DICM"
    assert os.stat(tmp_path / "b").st_mode & 0o777 == 0o600
    assert copy.PatientIdentityRemoved == "YES" and copy.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert copy.BurnedInAnnotation == "YES"  # still so
    assert all(keyword in copy and copy[keyword].is_empty for keyword in EMPTY)
    assert copy.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7" and "SourceApplicationEntityTitle" not in copy.file_meta
    assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID != VALUES["UI"]
    assert not [e for e in copy.iterall() if e.tag.is_private]
    assert {keyword_for_tag(e.tag) for e in copy.iterall()} <= (
        SEQUENCES | BULK | NUMBERS | CODES | MADE_ANEW | set(KINDS_OF_IMAGE) | EMPTY.keys() | {"SOPClassUID", "ContrastBolusAgent"}
        | {"PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence", "CodeValue"}
        | {"CodingSchemeDesignator", "CodeMeaning", "LongitudinalTemporalInformationModified"}
    )  # fmt: skip


def of_the_profile() -> list[int]:
    """The tags of Table E.1-1 that the profile removes, empties or replaces, as dicom-anonymizer lists them."""
    names = [name for name in dir(table) if name.endswith("_TAGS") and name != "ALL_TAGS"]
    found = {tag for name in names for tag in getattr(table, name)}
    return sorted(Tag(tag[0], tag[1]) for tag in found if len(tag) == 2)


@pytest.mark.parametrize("nested", [False, True])
def test_nothing_that_the_standards_profile_acts_on_survives(nested, write_dicom, tmp_path):
    tags = of_the_profile()
    assert len(tags) > 550  # the table has grown with every edition
    source, inside = pydicom.dcmread(write_dicom(tmp_path / "a", PICTURE)), Dataset()
    known = [tag for tag in tags if Tag(tag) in DicomDictionary and tag >> 16 > 2]
    for tag in known:
        vr = dictionary_VR(tag).partition(" ")[0]
        (inside if nested else source).add(element(tag, vr, planted(vr)))
    if nested:
        source.SharedFunctionalGroupsSequence = Sequence([Dataset()])
        source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = Sequence([inside])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.save_as(tmp_path / "a")
    clean(tmp_path / "a", tmp_path / "b", Limits())
    copy = pydicom.dcmread(tmp_path / "b")
    place = copy.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0] if nested else copy
    left = {tag: place[tag] for tag in known if tag in place and not place[tag].is_empty}
    anew = {keyword_for_tag(tag) for tag in left}
    assert anew <= MADE_ANEW | {"DeidentificationMethod", "DeidentificationMethodCodeSequence", "ContrastBolusAgent"}
    assert all(each.value != VALUES["UI"] for each in left.values())
    assert "ContrastBolusAgent" not in left or left[Tag(0x00180010)].value == "YES"


def test_uids_are_made_anew_alike_under_one_key_and_otherwise_under_another(write_dicom, tmp_path):
    uids = {"SeriesInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3.5", "SOPInstanceUID": "1.2.3.6"}
    for name in "ab":
        write_dicom(tmp_path / name, PICTURE, **(uids | {"SOPInstanceUID": f"1.2.3.6.{ord(name)}"}))
    made = {}
    for name, key in (("a", b"one"), ("b", b"one"), ("a", b"two")):
        clean(tmp_path / name, tmp_path / "c", Limits(), key)
        made[name, key] = pydicom.dcmread(tmp_path / "c")
    first, second, third = made["a", b"one"], made["b", b"one"], made["a", b"two"]
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != third.SeriesInstanceUID
    assert len({first.SeriesInstanceUID, first.StudyInstanceUID, first.SOPInstanceUID, second.SOPInstanceUID}) == 4
    assert re.fullmatch(r"2\.25\.[1-9]\d{20,38}", first.SeriesInstanceUID) and first.SeriesInstanceUID.is_valid
    assert open_file(tmp_path / "a")[0].slots[0].number == open_file(tmp_path / "c")[0].slots[0].number


def test_geometry_windows_and_functional_groups_stay(write_dicom, tmp_path):
    frame = Dataset()
    frame.FrameVOILUTSequence = Sequence([Dataset()])
    frame.FrameVOILUTSequence[0].WindowCenter, frame.FrameVOILUTSequence[0].WindowWidth = 50, 80
    frame.FrameVOILUTSequence[0].WindowCenterWidthExplanation = "BONE"
    frame.FrameContentSequence = Sequence([Dataset()])
    frame.FrameContentSequence[0].FrameAcquisitionDateTime = BORN
    frame.FrameContentSequence[0].FrameComments = MARKER
    tags = {
        "ImagePositionPatient": [1.5, -2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [0.7, 0.7],
        "SliceThickness": 5, "KVP": 120, "Modality": "CT", "BodyPartExamined": "CHEST", "InstanceNumber": 7,
        "PerFrameFunctionalGroupsSequence": Sequence([frame] * 2), "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }  # fmt: skip
    write_dicom(tmp_path / "a", np.stack([PICTURE, 255 - PICTURE]), **tags)
    clean(tmp_path / "a", tmp_path / "b", Limits())
    copy = pydicom.dcmread(tmp_path / "b")
    assert copy.ImagePositionPatient == [1.5, -2, 3] and copy.KVP == 120 and copy.BodyPartExamined == "CHEST"
    assert list(copy.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"] and copy.InstanceNumber == 7
    group = copy.PerFrameFunctionalGroupsSequence[1]
    assert group.FrameVOILUTSequence[0].WindowWidth == 80
    assert group.FrameVOILUTSequence[0].WindowCenterWidthExplanation == "BONE"
    assert len(group.FrameContentSequence[0]) == 0
    same_image(tmp_path / "a", tmp_path / "b")
    assert open_file(tmp_path / "b")[0].frame(1).window.width == 80


@pytest.mark.parametrize("tags", [{"Modality": MARKER}, {"BodyPartExamined": MARKER}, {"WindowCenterWidthExplanation": "Anna"},
                                  {"PatientOrientation": ["L", "ANNA"]}])  # fmt: skip
def test_a_code_that_is_no_term_of_the_standard_stays_behind(tags, write_dicom, tmp_path):
    write_dicom(tmp_path / "a", PICTURE, WindowCenter=100, WindowWidth=150, **tags)
    clean(tmp_path / "a", tmp_path / "b", Limits())
    assert not set(tags) & {keyword_for_tag(tag) for tag in list(pydicom.dcmread(tmp_path / "b").keys())}
    same_image(tmp_path / "a", tmp_path / "b")


def test_a_word_of_the_image_type_that_is_no_term_leaves_another_in_its_place(write_dicom, tmp_path):
    """Bug: one word of a manufacturer's own took SECONDARY along, and the page did not warn of what the file itself says."""
    write_dicom(tmp_path / "a", PICTURE, ImageType=["DERIVED", "SECONDARY", MARKER, "", "LOCALIZER"])
    clean(tmp_path / "a", tmp_path / "b", Limits())
    assert list(pydicom.dcmread(tmp_path / "b").ImageType) == ["DERIVED", "SECONDARY", "OTHER", "", "LOCALIZER"]
    before, after = (open_file(tmp_path / name)[0] for name in "ab")
    assert before.about.burned_in == after.about.burned_in and "SECONDARY" in " ".join(after.about.burned_in)
    assert after.slots[0].localizer


def test_that_there_was_an_overlay_is_still_said_of_the_copy(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a", PICTURE)
    data = pydicom.dcmread(path)
    data.add_new((0x6002, 0x0022), "LO", MARKER)
    data.add_new((0x6002, 0x3000), "OW", MARKER.encode() + b" ")
    data.save_as(path)
    clean(path, tmp_path / "b", Limits())
    assert MARKER.encode() not in (tmp_path / "b").read_bytes()
    said = "1 overlay is not shown ((60xx,3000) Overlay Data)."
    assert said in open_file(path)[0].notes and said in open_file(tmp_path / "b")[0].notes


def test_a_photometric_interpretation_that_may_be_a_name_is_refused_without_its_value(write_dicom, tmp_path):
    write_dicom(tmp_path / "a", PICTURE, PhotometricInterpretation=MARKER)
    with pytest.raises(engine.ImageError, match=r"\(0028,0004\)") as error:
        clean(tmp_path / "a", tmp_path / "b", Limits())
    assert MARKER not in str(error.value) and sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_what_is_no_image_gets_no_copy(write_dicom, tmp_path):
    (tmp_path / "text").write_text(f"{MARKER} was here")
    write_dicom(tmp_path / "report", None, PatientName=MARKER)
    for name in ("text", "report"):
        with pytest.raises(engine.ImageError) as error:
            clean(tmp_path / name, tmp_path / "b", Limits())
        assert MARKER not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report", "text"]


def test_files_without_a_meta_header_and_of_odd_length_are_copied(write_dicom, tmp_path):
    for i, (syntax, meta) in enumerate([("implicit", False), ("explicit", False), ("big", False), ("explicit", True)]):
        write_dicom(tmp_path / "a", PICTURE[:3, :3], syntax, meta, PatientName=MARKER)
        clean(tmp_path / "a", tmp_path / f"b{i}", Limits())
        assert not _holds((tmp_path / f"b{i}").read_bytes(), (MARKER,))
        same_image(tmp_path / "a", tmp_path / f"b{i}")
    assert open_file(tmp_path / "b0")[0].frame(0).pixels.shape == (3, 3)


def test_the_copy_of_a_file_in_ges_private_syntax_is_not_swapped(write_dicom, tmp_path):
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
    write_dicom(tmp_path / "a", values.byteswap(), "implicit", PatientName=MARKER, WindowCenter=1650.5, WindowWidth=3301)
    content = (tmp_path / "a").read_bytes()
    syntax, private = b"1.2.840.10008.1.2\0", b"1.2.840.113619.5.2"  # implicit little endian, but big endian pixels
    assert content.count(b"UI\x12\0" + syntax) == 1
    (tmp_path / "a").write_bytes(content.replace(b"UI\x12\0" + syntax, b"UI\x12\0" + private))
    clean(tmp_path / "a", tmp_path / "b", Limits())
    for name in ("a", "b"):
        np.testing.assert_allclose(open_file(tmp_path / name)[0].frame(0).pixels, values / 3300, atol=1e-6)  # float32
    assert not _holds((tmp_path / "b").read_bytes(), (MARKER,))


def test_an_animal_gets_no_human_side_marks_from_its_copy(write_dicom, tmp_path):
    lying = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    for kind, marks in (("QUADRUPED", None), ("BIPED", ("R", "A", "L", "P")), (MARKER, ("R", "A", "L", "P"))):
        write_dicom(tmp_path / "a", PICTURE, AnatomicalOrientationType=kind, **lying)
        removed = dict(clean(tmp_path / "a", tmp_path / "b", Limits()).removed)
        assert removed.get("names and identifiers", 0) == (kind == MARKER)
        assert open_file(tmp_path / "b")[0].frame(0).marks == marks
    assert not _holds((tmp_path / "b").read_bytes(), (MARKER,))


def test_no_more_words_and_windows_are_copied_than_are_read(write_dicom, tmp_path):
    many = {
        "WindowCenter": list(range(1, 301)),
        "WindowWidth": list(range(2, 302)),
        "WindowCenterWidthExplanation": ["BONE"] * 300,
        "ImageType": ["ORIGINAL", "PRIMARY", *["AXIAL"] * 300],
    }
    write_dicom(tmp_path / "a", PICTURE, **many)
    clean(tmp_path / "a", tmp_path / "b", Limits())
    copy = pydicom.dcmread(tmp_path / "b")
    for keyword, values in many.items():
        assert list(copy[keyword].value) == values[:16]
    same_image(tmp_path / "a", tmp_path / "b")
    assert open_file(tmp_path / "b")[0].about.windows == open_file(tmp_path / "a")[0].about.windows


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big"])
def test_a_file_that_is_not_deflated_as_it_says_is_copied(syntax, write_dicom, tmp_path):
    array = PICTURE.astype(np.uint16) * 257
    relabelled(write_dicom(tmp_path / "a", array, syntax, PatientName=MARKER), "1.2.840.10008.1.2.1.99")
    clean(tmp_path / "a", tmp_path / "b", Limits())
    same_image(tmp_path / "a", tmp_path / "b")
    assert np.array_equal(pydicom.dcmread(tmp_path / "b").pixel_array, array)
    assert not _holds((tmp_path / "b").read_bytes(), (MARKER,))


def test_a_deflated_file_inflates_within_the_limit(write_dicom, tmp_path):
    write_dicom(tmp_path / "a", np.zeros((1200, 1200), np.uint8), "deflated")
    with pytest.raises(engine.ImageError, match="1 MiB"):
        clean(tmp_path / "a", tmp_path / "b", Limits(inflated_mb=1))
    assert not (tmp_path / "b").exists()


def test_a_colour_profile_is_kept_without_its_texts_and_gives_the_same_colours(write_dicom, tmp_path):
    profile = bytearray(PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes())
    where = profile.find("sRGB".encode("utf-16-be"))
    words = MARKER[:4].encode("utf-16-be")
    profile[where : where + len(words)] = words
    profile[80:84] = b"MARK"  # its creator
    colours = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    write_dicom(tmp_path / "a", colours, ICCProfile=bytes(profile))
    clean(tmp_path / "a", tmp_path / "b", Limits())
    kept = pydicom.dcmread(tmp_path / "b").ICCProfile
    assert not _holds(kept, ("MARK",)) and _holds(bytes(profile), ("MARK",))

    def to_lab(icc: bytes) -> np.ndarray:
        lab = PIL.ImageCms.createProfile("LAB")
        return np.asarray(
            PIL.ImageCms.profileToProfile(PIL.Image.fromarray(colours), io.BytesIO(icc), lab, outputMode="LAB")
        )

    assert np.array_equal(to_lab(bytes(profile)), to_lab(kept))
    same_image(tmp_path / "a", tmp_path / "b")


def test_every_real_file_that_reads_has_a_copy_that_reads_the_same(shared, tmp_path):
    folders = [Path(pydicom.__file__).parent / "data", shared / "data" / "dicom"]
    files = [
        p for folder in folders for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix not in (".py", ".csv", ".md")
    ]
    read = 0
    for path in files:
        try:
            open_file(path)[0].frame(0)
        except engine.ImageError:
            continue
        clean(path, tmp_path / "b", Limits())
        same_image(path, tmp_path / "b")
        read += 1
        # word for word what the original says of its patient is not in the copy
        said = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        raw = (tmp_path / "b").read_bytes()
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "InstitutionName", "StudyInstanceUID"):
            value = str(said.get(keyword) or "").encode("latin-1", "replace")
            assert len(value) < 6 or value not in raw, (path, keyword)
    assert read >= 180  # of 348 files; the others are no images, damaged on purpose, or not readable here


# --- pictures ---------------------------------------------------------------------------------------------------------------


def exif(turned: int = 6) -> PIL.Image.Exif:
    found = PIL.Image.Exif()
    found[0x010E], found[0x0112], found[0x013B] = MARKER, turned, MARKER  # description, orientation, artist
    return found


COLOURS = np.stack([PICTURE, 255 - PICTURE, PICTURE // 2], axis=-1)


def pictures(folder: Path) -> list[Path]:
    """One picture of each kind, with a name wherever one fits."""
    grey, colour = PIL.Image.fromarray(PICTURE), PIL.Image.fromarray(COLOURS)
    deep = PIL.Image.fromarray((PICTURE.astype(np.uint16) * 257) ^ 3)
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("Patient", MARKER)
    info.add_text("More", MARKER * 9, zip=True)
    info.add_itxt("Comment", ACCENTED, zip=True)
    xmp = f"<x:xmpmeta><dc:creator>{MARKER}</dc:creator></x:xmpmeta>".encode()
    grey.save(folder / "text.png", pnginfo=info, exif=exif(), dpi=(72, 72))
    deep.save(folder / "deep.png", pnginfo=info)
    colour.quantize(16).save(folder / "palette.png", pnginfo=info, transparency=3)
    colour.save(folder / "moving.png", save_all=True, append_images=[colour.rotate(180)], pnginfo=info)
    colour.save(folder / "turned.jpg", exif=exif(), comment=MARKER, xmp=xmp, quality=92)
    grey.save(folder / "steps.jpg", progressive=True, exif=exif(3), comment=ACCENTED.encode())
    colour.convert("CMYK").save(folder / "cmyk.jpg", comment=MARKER)
    colour.save(folder / "lossless.webp", lossless=True, exif=exif(8), xmp=xmp)
    colour.convert("RGBA").save(folder / "lossy.webp", exif=exif(1).tobytes(), xmp=xmp)
    colour.save(folder / "moving.webp", save_all=True, append_images=[colour.rotate(180)], duration=50, xmp=xmp)
    grey.copy().save(folder / "pages.tif", save_all=True, append_images=[deep.copy()], description=MARKER, artist=ACCENTED)
    PIL.Image.fromarray(PICTURE.astype(np.float32) / 7).save(folder / "float.tif", description=MARKER)
    colour.save(folder / "turned.tif", exif=exif(6), compression="tiff_lzw", description=MARKER)
    colour.save(folder / "plain.bmp")
    colour.quantize(7).save(folder / "palette.bmp")
    made = sorted(folder.iterdir())
    for path in made:
        path.write_bytes(path.read_bytes() + f"PK{MARKER}".encode() * 3)
    return made


def test_pictures_lose_every_text_and_read_to_the_same_pixels(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    files = pictures(tmp_path / "a")
    assert len(files) == 15
    for path in files:
        done = clean(path, tmp_path / "b" / path.name, Limits())
        same_image(path, tmp_path / "b" / path.name)
        assert done.removed, path.name
    assert_nowhere(tmp_path / "b")
    assert open_file(tmp_path / "b" / "turned.jpg")[0].frame(0).shape == (40, 48)  # turned, as before
    assert open_file(tmp_path / "b" / "pages.tif")[0].frames == 2


def test_a_jpeg_keeps_its_scan_byte_for_byte_and_loses_the_thumbnail(tmp_path):
    path = tmp_path / "a.jpg"
    PIL.Image.fromarray(PICTURE).save(path, quality=80)
    raw = path.read_bytes()
    head = raw[:2] + b"\xff\xe0" + struct.pack(">H", 16 + 3 * 4) + b"JFIF\0\1\2\1\0\x48\0\x48\2\2" + b"MARKMARKMARK"
    path.write_bytes(head + raw[20:])  # its JFIF segment is 18 bytes long
    clean(path, tmp_path / "b.jpg", Limits())
    kept = (tmp_path / "b.jpg").read_bytes()
    assert kept == raw[:2] + b"\xff\xe0\x00\x10JFIF\0\1\2\1\0\x48\0\x48\0\0" + raw[20:]


# --- volumes ----------------------------------------------------------------------------------------------------------------

VOXELS = np.arange(2 * 3 * 4, dtype=np.int16)  # 4 columns, 3 rows, 2 slices


def nifti(order: str = "<") -> bytes:
    """A header with names in its texts, one extension, the voxels, and something behind them."""
    head, name = bytearray(348), MARKER.encode()
    struct.pack_into(order + "i", head, 0, 348)
    head[4:14], head[14:32], head[148:180] = name[:10], name.ljust(18), name.ljust(32)  # data_type, db_name, descrip
    head[228:241], head[328:341] = name, name  # aux_file, intent_name
    struct.pack_into(order + "8h", head, 40, 3, 4, 3, 2, 1, 1, 1, 1)
    struct.pack_into(order + "hh", head, 70, 4, 16)
    struct.pack_into(order + "8f", head, 76, 1, 0.5, 0.5, 3, 1, 1, 1, 1)
    struct.pack_into(order + "fff", head, 108, 352 + 32, 2, -1)  # where the voxels begin, slope, intercept
    head[344:348] = b"n+1\0"
    extension = b"\1\0\0\0" + struct.pack(order + "ii", 32, 6) + name.ljust(24)
    return bytes(head) + extension + VOXELS.astype(order + "i2").tobytes() + name


def volumes(folder: Path) -> list[Path]:
    (folder / "little.nii").write_bytes(nifti("<"))
    (folder / "big.nii").write_bytes(nifti(">"))
    with gzip.GzipFile(f"{MARKER}.nii", "wb", fileobj=(folder / "a.nii.gz").open("wb")) as packed:
        packed.write(nifti())
    raw = VOXELS.astype("<i2").tobytes()
    mha = f"ObjectType = Image\nNDims = 3\nComment = {MARKER}\nPatientName = {ACCENTED}\nBinaryData = True\n"
    mha += "BinaryDataByteOrderMSB = False\n{}ElementSpacing = 0.5 0.5 3\nOffset = 1 2 3\nDimSize = 4 3 2\n"
    mha += "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (folder / "a.mha").write_bytes(mha.format("").encode("latin-1") + raw + MARKER.encode())
    packed = zlib.compress(raw)
    said = f"CompressedData = True\nCompressedDataSize = {len(packed)}\n"
    (folder / "packed.mha").write_bytes(mha.format(said).encode("latin-1") + packed + MARKER.encode())
    nrrd = f"NRRD0004\n# {MARKER}\ntype: short\ndimension: 3\nsizes: 4 3 2\nspace: left-posterior-superior\n"
    nrrd += f"space directions: (0.5,0,0) (0,0.5,0) (0,0,3)\nspace origin: (1,2,3)\ncontent: {MARKER}\nendian: little\n"
    nrrd += f"patient:={ACCENTED}\nkinds: domain domain domain\nencoding: {{}}\n\n"
    (folder / "a.nrrd").write_bytes(nrrd.format("raw").encode("latin-1") + raw + MARKER.encode())
    out = io.BytesIO()
    with gzip.GzipFile(f"{MARKER}.raw", "wb", fileobj=out) as packed:
        packed.write(raw)
    (folder / "packed.nrrd").write_bytes(nrrd.format("gzip").encode("latin-1") + out.getvalue())
    return sorted(folder.iterdir())


def test_volumes_lose_every_text_and_read_to_the_same_slices(tmp_path):
    pytest.importorskip("engine.readers.volume")
    if "volume" not in engine.READERS:
        pytest.skip("NO VOLUMES: no reader is registered for them.")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    files = volumes(tmp_path / "a")
    assert len(files) == 7
    for path in files:
        clean(path, tmp_path / "b" / path.name, Limits())
        same_image(path, tmp_path / "b" / path.name)
        old, new = open_file(path)[0], open_file(tmp_path / "b" / path.name)[0]
        assert np.array_equal(old.affine, new.affine) and old.frame(0).spacing_mm == new.frame(0).spacing_mm
    assert_nowhere(tmp_path / "b")
    kept = (tmp_path / "b" / "big.nii").read_bytes()
    assert kept[352:] == VOXELS.astype(">i2").tobytes() and struct.unpack_from(">f", kept, 108)[0] == 352


def test_words_where_a_volumes_numbers_belong_are_refused_and_not_repeated(tmp_path):
    for path in volumes(tmp_path):
        if path.suffix in (".mha", ".nrrd"):
            wrong = re.sub(rb"(ElementSpacing =|kinds:) [^\n]*", rb"\1 " + MARKER.encode(), path.read_bytes())
            path.write_bytes(wrong)
            with pytest.raises(engine.ImageError) as error:
                clean(path, tmp_path / "copy", Limits())
            assert MARKER not in str(error.value) and not (tmp_path / "copy").exists()


# --- the store: how long, and how it is erased ----------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Store:
    monkeypatch.delenv("PROMPTSCOPE_KEEP_DAYS", raising=False)
    return Store(tmp_path / "features.sqlite3")


def at(monkeypatch, days: float) -> None:
    """As if this many days had passed."""
    now = time.time()
    monkeypatch.setattr(features_store.time, "time", lambda: now + days * DAY)


ONE = {"k": np.array([1, 2], np.float32)}


def test_a_feature_is_forgotten_after_thirty_days(kept, monkeypatch):
    kept.put(ONE, "image")
    at(monkeypatch, 29.9)
    assert kept.get(["k"])["k"].tolist() == [1, 2]
    at(monkeypatch, 30.1)
    assert kept.get(["k"]) == {}


def test_an_operator_says_how_long_and_zero_keeps_nothing(kept, monkeypatch):
    kept.put(ONE)
    monkeypatch.setenv("PROMPTSCOPE_KEEP_DAYS", "365")
    at(monkeypatch, 300)
    assert kept.get(["k"])
    monkeypatch.setenv("PROMPTSCOPE_KEEP_DAYS", "0")
    assert kept.get(["k"]) == {}  # what was there is gone as well
    kept.put(ONE)
    monkeypatch.setenv("PROMPTSCOPE_KEEP_DAYS", "365")
    assert kept.get(["k"]) == {}
    monkeypatch.setenv("PROMPTSCOPE_KEEP_DAYS", "a week")
    with pytest.raises(StoreError, match="PROMPTSCOPE_KEEP_DAYS is 'a week'"):
        kept.put(ONE)


def test_what_is_too_old_is_looked_for_once_an_hour(kept, monkeypatch):
    kept.put(ONE)
    asked = []
    monkeypatch.setattr(features_store, "_forget", lambda *args: asked.append(args) or 0)
    for days in (0, 0.5 / 24, 1.1 / 24, 1.2 / 24):
        monkeypatch.setattr(features_store.time, "time", lambda days=days: 1_800_000_000 + days * DAY)
        kept.get(["k"])
    assert len(asked) == 2


def test_erasing_an_image_leaves_the_others_and_no_bytes_behind(kept):
    value = np.frombuffer(b"a patient's feature is theirs...", np.float32)
    kept.put({"first": value, "second": value}, "one")
    kept.put({"third": value}, "two")
    assert kept.path.read_bytes().count(value.tobytes()) == 3
    assert kept.erase(["one", "unknown"]) == 2
    assert kept.get(["first", "second", "third"]).keys() == {"third"}
    assert kept.path.read_bytes().count(value.tobytes()) == 1
    assert kept.erase([]) == 0 and kept.erase_older(0) == 1
    assert value.tobytes() not in kept.path.read_bytes()


def test_a_table_of_an_older_version_is_made_again(kept):
    with closing(sqlite3.connect(kept.path)) as old, old:
        old.execute("CREATE TABLE vector (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
        old.execute("INSERT INTO vector VALUES ('k', x'0000803f')")
    kept.put(ONE, "image")
    assert kept.get(["k"]) and kept.erase(["image"]) == 1


def test_a_patients_files_are_enough_to_erase_what_is_kept_of_them(kept, tmp_path):
    mini = engine.load_backbone("scope-mini")
    folder = tmp_path / "patient"
    folder.mkdir()
    for i, name in enumerate(("a.png", "b.png", "other.png")):
        PIL.Image.fromarray(PICTURE // (i + 1)).save((folder if i < 2 else tmp_path) / name)
    examples = [Example(str(p), "x") for p in (folder / "a.png", folder / "b.png", tmp_path / "other.png")]
    features_of(examples, mini, store=kept)
    (folder / "a.png").rename(folder / "renamed.png")
    assert erase([folder], store=kept) == 2
    assert erase([folder], store=kept) == 0
    assert erase([tmp_path / "other.png"], older_than_days=1, store=kept) == 1
    with pytest.raises(StoreError, match=r"'missing\.png' cannot be read"):
        erase([tmp_path / "missing.png"], store=kept)


def test_a_store_that_cannot_be_erased_is_said(kept):
    kept.path.write_bytes(b"no database at all" * 99)
    with pytest.raises(StoreError, match="nothing was erased"):
        kept.erase(["one"])
    assert Store(kept.path.parent / "none").erase(["one"]) == 0


def test_a_folders_digest_follows_its_files_bytes_and_not_their_names(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "a").write_bytes(b"1")
    (tmp_path / "x" / "b").write_bytes(b"2")
    first = digest_of(tmp_path / "x")
    (tmp_path / "x" / "b").rename(tmp_path / "x" / "c")
    assert digest_of(tmp_path / "x") == first
    (tmp_path / "x" / "c").write_bytes(b"3")
    assert digest_of(tmp_path / "x") != first
    # printf abc | sha256sum
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- a study with a name everywhere, through everything ----------------------------------------------------------------------------


def write_study(folder: Path, write_dicom) -> Path:
    """Series, multi-frame file, pictures and a volume; every text, file and folder has the name."""
    study = folder / f"{MARKER}^Anna {ACCENTED}"
    (study / MARKER).mkdir(parents=True)
    for i in range(3):
        study_file(study / MARKER / f"{MARKER} {i}.dcm", write_dicom, PICTURE + i, "explicit", "ISO_IR 100",
                   ImagePositionPatient=[0, 0, i], ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1, 1],
                   InstanceNumber=i + 1)  # fmt: skip
    study_file(study / f"cine {MARKER}", write_dicom, np.stack([PICTURE, 255 - PICTURE]), "rle", "ISO_IR 192")
    for path in pictures(study / MARKER):
        if path.suffix != ".dcm":
            path.rename(study / f"{MARKER} {path.name}")
    (study / f"{MARKER}.nii").write_bytes(nifti())
    return study


def test_a_name_that_stands_everywhere_in_a_study_is_nowhere_afterwards(write_dicom, tmp_path):
    home = tmp_path / "machine"
    home.mkdir()
    study = write_study(home, write_dicom)
    for label, shade in (("bright", 200), ("dark", 40)):
        (study / "labelled" / label).mkdir(parents=True)
        for i in range(3):
            info = PIL.PngImagePlugin.PngInfo()
            info.add_text("Patient", MARKER)
            noise = np.random.default_rng(i).integers(0, 40, (32, 32))
            path = study / "labelled" / label / f"{MARKER} {i}.png"
            PIL.Image.fromarray((shade + noise).astype(np.uint8)).save(path, pnginfo=info)
    (study / f"broken {MARKER}.png").write_bytes((study / f"{MARKER} text.png").read_bytes()[:300])
    (study / f"broken {MARKER}.dcm").write_bytes((study / MARKER / f"{MARKER} 0.dcm").read_bytes()[:-2000])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PROMPTSCOPE", "XDG", "HF_"))}
    environment |= {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PROMPTSCOPE_CACHE": str(home / "cache")}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    (home / "tmp").mkdir()

    def run(*commands: list[str], code: int = 0) -> str:
        """What `python -m engine` says to commands, one after the other in a process of its own."""
        program = (
            "import json, sys; from engine.__main__ import main; print([main(words) for words in json.loads(sys.argv[1])])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(commands)],
            cwd=home, env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.stdout.rstrip().endswith(str([code] * len(commands))), done.stderr
        return done.stdout + done.stderr

    data, made = str(study / "labelled"), str(home / "sets")
    broken = [str(p) for p in sorted(study.glob("broken*"))]
    some = [str(study / f"{MARKER} {name}") for name in ("text.png", "turned.jpg", "pages.tif")]
    said = run(["predict", str(study / MARKER), str(study / f"cine {MARKER}"), str(study / f"{MARKER}.nii"), *some, *broken,
                "--prompts", "modality", "--json", "--out", str(home / "maps")], code=1)  # fmt: skip
    log = run(
        ["tune", "--data", data, "--method", "tip-adapter", "--shots", "2", "--views", "1", "--out", made, "--name", "s",
         "--checkpoint", str(home / "checkpoint")],
        ["evaluate", "--data", data, "--prompts", str(home / "sets" / "s")],
        ["export", str(home / "sets" / "s"), "--out", str(home / "one.safetensors")],
    )  # fmt: skip
    assert list((home / "maps").glob("*.png")) and (home / "one.safetensors").is_file()
    assert_nowhere(home, log, but=(study,))
    # what predict prints names the files that the user gave, and nothing else of them
    names = {p.name for p in study.rglob("*")}
    for name in sorted(names, key=len, reverse=True):
        said = said.replace(name, "").replace(name.encode("ascii", "backslashreplace").decode(), "")
    assert_nowhere(home / "cache", re.sub(r"\\u00c4", "Ä", said), but=(study,))


def test_the_library_keeps_and_says_nothing_of_a_name(write_dicom, tmp_path, monkeypatch, caplog):
    study = write_study(tmp_path, write_dicom)
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("PROMPTSCOPE_CACHE", str(tmp_path / "cache"))
    mini = engine.load_backbone("scope-mini")
    prompts = engine.prompt_set("modality", mini)
    told: list[str] = []
    for path in sorted(p for p in study.rglob("*") if p.is_file()):
        try:
            series = open_file(path)[0]
            image = series.frame(0)
        except engine.ImageError as error:
            told.append(str(error).replace(path.name, ""))
            continue
        engine.predict(image, mini, prompts)
        told.append(
            repr((image.notes, image.warnings, image.window, image.modality, series.notes, series.about, series.slots))
        )
    features_of([Example(str(p), "x", patient=MARKER) for p in sorted(study.glob("*.png"))], mini, store=Store())
    with pytest.raises(engine.ImageError) as error:
        open_file(study / f"cine {MARKER}")[0].frame(99)
    told.append(str(error.value).replace(f"cine {MARKER}", ""))
    assert len(told) >= 18
    assert_nowhere(tmp_path, *told, caplog.text, but=(study,))
