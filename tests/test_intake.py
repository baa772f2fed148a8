"""What becomes of an upload: labels from folders and tables, series as one case, duplicates, patients, twins.

python -m pytest tests/test_intake.py
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import make_dicom
from phantom import write_series
from test_workspace import bring, picture

import engine
from engine.readers._person import person
from engine.workspace.twins import NEAR, fingerprint, joined, twins


@pytest.fixture
def workspace(tmp_path):
    made = engine.Workspace(tmp_path / "workspace")
    made.adopt("busi")  # benign tumor (benign), malignant tumor (malignant), normal scan (normal)
    yield made
    made.close()


def labels(workspace: engine.Workspace, task: str = "busi") -> list[str]:
    return [case.label for case in workspace.cases(task)]


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


# --- folders --------------------------------------------------------------------------------------------------------------

FOLDERS = {
    "data/benign/1.png": "benign tumor",
    "data/MALIGNANT/sub/2.png": "malignant tumor",
    "data/normal/benign/3.png": "benign tumor",  # the nearest folder counts
    "data/abscess/4.png": "",
    "data/abscess/deep/5.png": "",
    "data/6.png": "",
}


@pytest.mark.parametrize("way", ["folder", "zip"])
def test_the_nearest_folder_that_is_a_class_is_the_label_and_others_are_told(workspace, way):
    files = {name: picture(i) for i, name in enumerate(FOLDERS)}
    added = bring(workspace, "busi", files if way == "folder" else {"upload.zip": zipped(files)})
    assert labels(workspace) == list(FOLDERS.values())
    ids = [case.id for case in workspace.cases("busi")]
    assert (added.cases, added.labelled, added.again, added.refused) == (tuple(ids), 3, 0, ())
    assert added.unknown == (("abscess", 2),)  # "data" holds them all and was meant for no class
    assert added.strays == (("abscess", (ids[3], ids[4])),)


def test_a_single_file_says_nothing_of_a_class(workspace):
    added = bring(workspace, "busi", {"benign.png": picture(1)})
    assert (labels(workspace), added.unknown, added.labelled) == ([""], (), 0)


def test_a_file_that_is_no_image_is_refused_by_its_name_and_the_others_are_taken_in(workspace):
    added = bring(
        workspace,
        "busi",
        {"benign/1.png": picture(1), "benign/notes.txt": b"hello", "cut.png": picture(2)[:60], "empty.dcm": b""},
    )
    assert len(added.cases) == 1 and len(added.refused) == 3
    for name in ("notes.txt", "cut.png", "empty.dcm"):
        assert sum(name in said for said in added.refused) == 1, name


def test_progress_counts_every_file_and_ends(workspace, tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    steps = list(engine.take_in(workspace, "busi", [(tmp_path / f"{i}.png", f"{i}.png") for i in range(3)]))
    assert [(step.done, step.total) for step in steps] == [(i, 6) for i in (1, 2, 3, 4, 5, 6, 6)]
    assert [step.added is None for step in steps] == [True] * 6 + [False]
    assert all((tmp_path / f"{i}.png").exists() for i in range(3))  # they are the caller's


def test_an_upload_into_no_task_is_refused_before_anything_is_read(workspace, tmp_path):
    with pytest.raises(engine.DataError, match="no task 'nothing'"):
        next(engine.take_in(workspace, "nothing", [(tmp_path / "absent", "absent")]))


# --- tables ---------------------------------------------------------------------------------------------------------------


def test_a_table_gives_labels_patients_groups_and_splits(workspace):
    table = (
        "path;class;patient_id;group;split\n"
        "a/1.png;benign;P-1;;Training\n"
        r"C:\data\b\1.png;Malignant;P-1;;train"
        "\n2.png;normal;;G;validation\n3.png;odd;;G;test\nabsent.png;benign;;;\n"
    )
    files = {"set/a/1.png": picture(1), "set/b/1.png": picture(2), "set/2.png": picture(3), "set/benign/3.png": picture(4)}
    added = bring(workspace, "busi", {"set/labels.csv": table.encode("utf-8-sig")} | files)
    cases = workspace.cases("busi")
    assert labels(workspace) == ["benign tumor", "malignant tumor", "normal scan", ""]  # the table comes before the folders
    assert [case.patient for case in cases] == ["P1", "P1", "", ""]
    assert [case.split for case in cases] == ["train", "train", "val", "test"]
    assert [case.group for case in cases] == ["", "", "G3", "G3"]
    # a group that was brought stands for a patient who is not named
    assert [(case.example.patient, case.example.group) for case in cases] == [
        ("P1", ""), ("P1", ""), ("G3", "G3"), ("G4", "G3"),
    ]  # fmt: skip
    assert added.refused == ("1 row of the table 'labels.csv' speaks of no image in this upload.",)
    assert added.unknown == (("odd", 1),)


def test_a_table_inside_of_a_zip_speaks_of_the_files_in_it(workspace):
    files = {"x/1.png": picture(1), "x/2.png": picture(2), "x/t.csv": b"path,label\n1.png,benign\nx/2.png,normal\n"}
    added = bring(workspace, "busi", {"a.zip": zipped(files)})
    assert (labels(workspace), added.refused) == (["benign tumor", "normal scan"], ())


def test_a_row_that_could_mean_two_images_labels_both_and_rows_that_disagree_none(workspace):
    files = {"a/1.png": picture(1), "b/1.png": picture(2), "2.png": picture(3)}
    table = b"path,label\n1.png,benign\n2.png,benign\n./2.png,normal\n"
    added = bring(workspace, "busi", files | {"t.csv": table})
    assert labels(workspace) == ["benign tumor", "benign tumor", ""]
    assert added.refused == (
        "The table 't.csv' has several rows that could mean '2.png': it was taken in without a label. Write paths with their "
        "folders.",
    )


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (b"label\nbenign\n", "The table 't.csv' lacks the column 'path'"),
        (b"path,label,split\n1.png,benign,holdout\n", "has the split 'holdout'. It should be one of: train, val, test"),
        (b"path,label\n1.png,Z\xfcrich\n", "is no CSV in UTF-8"),
        (b"", "has no rows"),
    ],
)
def test_a_table_that_cannot_be_used_is_said_and_nothing_is_taken_in(workspace, table, sentence):
    with pytest.raises(engine.DataError, match=sentence.replace(".", r"\.")):
        bring(workspace, "busi", {"1.png": picture(1), "t.csv": table})
    assert workspace.cases("busi") == [] and list(workspace.folder.glob("files/*/*")) == []


def test_a_table_alone_asks_for_its_images(workspace):
    with pytest.raises(engine.DataError, match=r"'t\.csv' came without its images\. Upload them together"):
        bring(workspace, "busi", {"t.csv": b"path,label\n1.png,benign\n"})


# --- series and patients --------------------------------------------------------------------------------------------------


def test_a_series_is_one_case_and_its_middle_slice_stands_for_it(workspace, tmp_path):
    write_series(tmp_path / "ct", 5, 24)
    files = {f"benign/ct/{path.name}": path.read_bytes() for path in sorted((tmp_path / "ct").iterdir(), reverse=True)}
    bring(workspace, "busi", files)
    (case,) = workspace.cases("busi")
    assert (len(case.files), case.label, case.about["frames"], case.about["modality"]) == (5, "benign tumor", 5, "CT")
    series = engine.read([tmp_path / "ct"])[0]
    wanted = engine.read_image(tmp_path / "ct" / series.files[2])  # by the original files
    assert np.array_equal(workspace.image(case).pixels, wanted.pixels)
    assert PIL.Image.open(workspace.thumbnail(case)).size == (24, 24)
    assert bring(workspace, "busi", files).again == 1


def test_a_patient_of_a_file_and_of_a_table_are_one_where_they_are_called_the_same(workspace, tmp_path):
    def dicom(seed: int, **tags: object) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 4096, (16, 16), dtype=np.uint16)
        return make_dicom(tmp_path / f"{seed}.dcm", pixels, SOPInstanceUID=f"1.2.{seed}", **tags).read_bytes()

    files = {
        "1.dcm": dicom(1, PatientID=" abc 12 "),
        "2.dcm": dicom(2, PatientID="ABC  12", PatientName="Somebody^Else"),
        "3.dcm": dicom(3, PatientName="Doe^Jane^", PatientBirthDate="19700101"),
        "4.dcm": dicom(4, PatientName="DOE^JANE", PatientBirthDate="19700101"),
        "5.dcm": dicom(5, PatientName="Doe^Jane", PatientBirthDate="19700102"),
        "6.dcm": dicom(6, PatientID="Anonymous"),
        "7.dcm": dicom(7),
        "8.png": picture(8),
        "9.dcm": dicom(9, PatientID="other"),
        "t.csv": b"path,patient\n8.png,Abc 12\n9.dcm,abc 12\n",
    }
    bring(workspace, "busi", files)
    assert [case.patient for case in workspace.cases("busi")] == ["P1", "P1", "P2", "P2", "P3", "", "", "P1", "P1"]


def test_a_pseudonym_is_a_keyed_hash():
    key = bytes(range(32))
    assert person(key, "A 1") == hmac.new(key, b"a 1", hashlib.sha256).hexdigest()[:16]
    assert person(key, "", "Doe^Jane", "1970") == hmac.new(key, b"doe jane\n1970", hashlib.sha256).hexdigest()[:16]
    assert person(bytes(32), "A 1") != person(key, "A 1")
    assert person(key, " \0") == person(key, "None", "Anonymous", "19700101") == ""


# --- duplicates -----------------------------------------------------------------------------------------------------------


def resaved(content: bytes, form: str, **how: object) -> bytes:
    stream = io.BytesIO()
    PIL.Image.open(io.BytesIO(content)).save(stream, form, **how)
    return stream.getvalue()


def test_an_image_is_there_once_whatever_it_is_called_or_saved_as(workspace):
    first = bring(workspace, "busi", {"1.png": picture(1), "benign/2.png": picture(2), "again.png": picture(1)})
    assert (len(first.cases), first.again, first.contrary) == (2, 1, 0)
    again = bring(
        workspace,
        "busi",
        {
            "malignant/other.bmp": resaved(picture(1), "BMP"),  # the same pixels; it had no label
            "normal/2.png": picture(2),  # another label than it has
            "t.csv": b"path,patient\nother.bmp,A\n",
        },
    )
    assert (again.cases, again.again, again.contrary) == ((), 2, 1)
    assert [(case.label, case.patient) for case in workspace.cases("busi")] == [
        ("malignant tumor", "P1"),
        ("benign tumor", ""),
    ]
    assert len(list(workspace.folder.glob("files/*/*"))) == 2 and engine.check(workspace) == []
    other = workspace.add_task("Other", ["a", "b"]).id
    assert len(bring(workspace, other, {"a/1.png": picture(1)}).cases) == 1  # another question
    assert len(list(workspace.folder.glob("files/*/*"))) == 2


def test_a_copy_brings_what_its_case_lacks_and_what_contradicts_it_is_counted(workspace):
    bring(workspace, "busi", {"1.png": picture(1), "2.png": picture(2), "3.png": picture(3)})
    table = "path,patient,group,split\n1.png,A,,train\n2.png,,G,val\n3.png,,G,\n"
    again = bring(workspace, "busi", {f"{i}.png": picture(i) for i in (1, 2, 3)} | {"t.csv": table.encode()})
    told = [(case.patient, case.group, case.split) for case in workspace.cases("busi")]
    assert told == [("P1", "", "train"), ("", "G2", "val"), ("", "G2", "")]
    assert (again.cases, again.again, again.contrary) == ((), 3, 0)
    # another patient and another split of the first; another group of the second; the third agrees
    table = "path,patient,group,split\n1.png,B,,test\n2.png,,H,val\n3.png,,G,\n"
    against = bring(workspace, "busi", {f"{i}.png": picture(i) for i in (1, 2, 3)} | {"t.csv": table.encode()})
    assert (against.again, against.contrary) == (3, 2)
    assert [(case.patient, case.group, case.split) for case in workspace.cases("busi")] == told
    assert workspace.holdings()["patients"] == 1, "B has no case"


def test_the_same_file_gives_the_same_clean_bytes_again(workspace, tmp_path):
    """Else a case that was erased and brought again, or is in two tasks, would lie there twice."""
    pixels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    content = make_dicom(tmp_path / "1.dcm", pixels, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4").read_bytes()
    bring(workspace, "busi", {"1.dcm": content})
    (case,) = workspace.cases("busi")
    engine.erase_cases(workspace, "busi", [case.id])
    bring(workspace, "busi", {"2.dcm": content})
    assert workspace.cases("busi")[0].files == case.files


def photograph(seed: int) -> PIL.Image.Image:
    """Smooth, as pictures are: noise has no copy of half its size."""
    noise = np.random.default_rng(seed).normal(size=(12, 12, 3))
    pixels = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    return PIL.Image.fromarray(pixels).resize((240, 200), PIL.Image.Resampling.BICUBIC)


def as_png(image: PIL.Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_near_twins_are_flagged_and_stay_on_one_side(workspace):
    first, second = photograph(1), photograph(2)
    bring(
        workspace,
        "busi",
        {
            "benign/1.png": as_png(first),
            "normal/2.png": as_png(second),
            "benign/3.jpg": resaved(as_png(first), "JPEG", quality=40),
            "normal/4.png": as_png(photograph(3)),
            "benign/5.png": as_png(first.resize((120, 100))),
            "normal/6.png": as_png(photograph(4)),
            "t.csv": b"path,label,patient\n3.jpg,benign,A\n4.png,normal,A\n6.png,normal,B\n",
        },
    )
    cases = workspace.cases("busi")
    assert [case.twin_of for case in cases] == [0, 0, 1, 0, 1, 0]
    # 1, 3 and 5 are one image, and 3 is of the patient whose 4 is: the four stay together
    assert [case.group for case in cases] == ["G1", "", "G1", "G1", "G1", ""]
    examples = workspace.examples("busi")
    assert [(e.patient, e.group) for e in examples] == [
        ("", "G1"), ("", ""), ("P1", "G1"), ("P1", "G1"), ("", "G1"), ("P2", ""),
    ]  # fmt: skip
    assert engine.straddling([examples[0]], [examples[3]]) == ["G1"]


def test_twins_are_those_that_a_slow_comparison_finds():
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 2, (600, 256), dtype=np.uint8)
    for i in range(0, 580, 7):
        rows[i + 9] = rows[i]
        rows[i + 9, rng.choice(256, int(rng.integers(0, 2 * NEAR)), replace=False)] ^= 1
    for i, j, bits in ((581, 590, slice(0, 10)), (590, 595, slice(10, 20))):  # the first and the last differ in 20
        rows[j] = rows[i]
        rows[j, bits] ^= 1
    prints = tuple(np.packbits(row).tobytes().hex() for row in rows)
    slow = [(i, j) for i in range(600) for j in range(i + 1, 600) if int((rows[i] != rows[j]).sum()) <= NEAR]
    earliest, first = list(range(600)), list(range(600))
    for i, j in reversed(slow):
        earliest[j] = i
    for _ in range(600):  # until nothing changes
        for i, j in slow:
            first[i] = first[j] = min(first[i], first[j])
    assert twins(prints) == (tuple(earliest), tuple(first)) and len(slow) > 20
    assert (earliest[595], first[595]) == (590, 581)
    assert twins(()) == ((), ())


def test_thousands_that_look_the_same_take_little_room():
    """Bug: every pair of them was kept, 1.4 GB for 2500."""
    same = ("0" * 64, "f" * 64, "0" * 63 + "1") * 1500
    tracemalloc.start()
    earliest, first = twins(same)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert earliest == first == (0, 1, 0) * 1500 and peak < 20 << 20
    # near, and no two the same: each of 2048 has other bits of the last eleven
    near = tuple(f"{'0' * 61}{i:03x}" for i in range(2048))
    tracemalloc.start()
    assert twins(near) == ((0,) * 2048,) * 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20


def test_what_is_joined_by_any_road_has_one_first():
    assert joined(6, [(0, 2)], [["", "a", "a", "", "b", None], [None, "", "", "x", "x", 0]]) == [0, 0, 0, 3, 3, 5]


def test_copies_of_real_images_are_twins_and_other_images_are_not(shared):
    place = shared / "data" / "sets" / "PNEUMONIA_CXR"
    with (place / "split.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines)][:40]
    images = [engine.read_image(place / row["path"]) for row in rows]
    prints = [fingerprint(image) for image in images]
    copies = []
    for image in images:
        pixels = PIL.Image.fromarray((image.pixels * 255).round().astype(np.uint8))
        small = resaved(as_png(pixels.resize((pixels.width // 2, pixels.height // 2))), "JPEG", quality=75)
        values = np.asarray(PIL.Image.open(io.BytesIO(small)), dtype=np.float32) / 255
        copies.append(fingerprint(engine.Image(values)))
    assert twins((*prints, *copies)) == (tuple(range(40)) * 2,) * 2


def test_a_patient_is_never_on_both_sides_of_a_held_out_part(workspace):
    table = ["path,label,patient"]
    files = {}
    for i in range(24):
        files[f"{i}.png"] = picture(i)
        table.append(f"{i}.png,{('benign', 'malignant', 'normal')[i % 3]},Q{i // 3}")
    bring(workspace, "busi", files | {"t.csv": "\n".join(table).encode()})
    train, test = engine.hold_out(workspace.examples("busi"))
    assert test and not {e.patient for e in train} & {e.patient for e in test}
    assert {e.patient for e in (*train, *test)} == {f"P{i}" for i in range(1, 9)}


def test_a_kill_before_the_last_moment_leaves_files_and_no_case(workspace, tmp_path, monkeypatch):
    from engine.workspace import intake

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(intake, "_added", killed)
    with pytest.raises(KeyboardInterrupt):
        bring(workspace, "busi", {"benign/1.png": picture(1)})
    assert workspace.cases("busi") == [] and len(list(workspace.folder.glob("files/*/*"))) == 1
    monkeypatch.undo()
    assert len(bring(workspace, "busi", {"benign/1.png": picture(1)}).cases) == 1 and engine.check(workspace) == []


def test_a_file_that_is_erased_while_it_comes_in_again_is_written_again(workspace, monkeypatch):
    from engine.workspace import intake

    bring(workspace, "busi", {"1.png": picture(1)})
    other = workspace.add_task("Other", ["a", "b"]).id
    late = intake._added

    def erased(*words: object) -> object:
        Path(workspace.cases("busi")[0].path).unlink()  # as by another process, a moment before
        return late(*words)

    monkeypatch.setattr(intake, "_added", erased)
    bring(workspace, other, {"1.png": picture(1)})
    assert engine.check(workspace) == []
