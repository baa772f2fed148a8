"""Zip archives: what is unpacked, under which names, and what is refused; bombs and path tricks written by hand.

python -m pytest tests/test_archives.py
"""

from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from engine.errors import ImageError
from engine.limits import MIB, Limits
from engine.readers import _archive, is_archive
from engine.readers._archive import Refused, unpack

NIFTI = b"\x5c\x01\0\0" + bytes(340) + b"n+1\0" + bytes(100)


def entry(name: str, method: int = zipfile.ZIP_DEFLATED, mode: int = 0, system: int = 3) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.compress_type, made.external_attr, made.create_system = method, mode << 16, system
    return made


@pytest.fixture
def pack(tmp_path):
    """Writes a zip of (name or ZipInfo, content) and returns its path."""

    def packed(*entries: tuple[str | zipfile.ZipInfo, bytes], name: str = "study.zip") -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for each, content in entries:
                archive.writestr(each, content)
        return path

    return packed


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def contents(path: Path, folder: Path, limits: Limits = Limits()) -> tuple[list[tuple[str, bytes]], list[Refused]]:  # noqa: B008
    done, refused = unpack(path, folder, limits)
    assert sorted(folder.iterdir()) == sorted(each.path for each in done)  # nothing else was written
    return [(each.name, each.path.read_bytes()) for each in done], refused


def refusal(path: Path, folder: Path, limits: Limits = Limits()) -> str:  # noqa: B008
    """The one refusal of an archive whose file "good" is unpacked all the same."""
    done, refused = contents(path, folder, limits)
    assert done == [("good", b"fine")] and len(refused) == 1
    return f"{refused[0].message} {refused[0].hint}"


# --- what is unpacked --------------------------------------------------------------------------------------------------


def test_files_are_unpacked_in_order_under_names_that_tell_nothing(pack, folder):
    big = random.Random(0).randbytes(2_300_000)  # more than one part of a stream
    path = pack(("Doe^Jane/ser 1/im2.dcm", big), ("Doe^Jane/", b""), ("Doe^Jane/im1", b"one"), (entry("s", 0), b"stored"))
    done, refused = unpack(path, folder, Limits())
    assert [each.name for each in done] == ["im2.dcm", "im1", "s"] and refused == []
    assert [each.path.read_bytes() for each in done] == [big, b"one", b"stored"]
    assert all(len(each.path.name) == 32 and int(each.path.name, 16) >= 0 for each in done)
    assert all(each.path.parent == folder and stat.S_IMODE(each.path.stat().st_mode) == 0o600 for each in done)


def test_files_of_one_name_in_two_folders_are_two(pack, folder):
    done, refused = contents(pack(("a/IM1", b"1"), ("b/IM1", b"2")), folder)
    assert done == [("IM1", b"1"), ("IM1", b"2")] and refused == []


def test_files_of_the_system_and_directories_of_media_are_left_out_and_counted(pack, folder):
    names = ["a/.DS_Store", "__MACOSX/a/._im1", "Thumbs.db", "a/desktop.ini", "DICOMDIR", ".hidden/im1", "dicomdir"]
    done, refused = contents(pack(*((n, b"x") for n in names), ("a/im1", b"1")), folder)
    assert done == [("im1", b"1")]
    assert refused == [Refused("", "7 files were left out of the archive 'study.zip': hidden, or a DICOMDIR.")]


def test_a_gzipped_nifti_is_no_archive_within_the_archive(pack, folder):
    packed = gzip.compress(NIFTI)
    assert contents(pack(("t1.nii.gz", packed)), folder) == ([("t1.nii.gz", packed)], [])


def test_an_empty_file_is_unpacked_for_its_reader_to_refuse(pack, folder):
    assert contents(pack(("x.dcm", b"")), folder) == ([("x.dcm", b"")], [])


def test_an_archive_is_known_by_its_first_bytes(tmp_path):
    for content, known in ((b"PK\x03\x04..", True), (b"PK\x05\x06" + bytes(18), True), (b"PK\x07\x08", False), (b"", False)):
        (tmp_path / "x").write_bytes(content)
        assert is_archive(tmp_path / "x") == known


# --- entries that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../x.dcm", "a/../../x.dcm", "/etc/x.dcm", "C:/x.dcm", "c:x.dcm", "a\\..\\x.dcm", "\\\\host\\x.dcm", "a/\x07/x.dcm"],
)
def test_paths_that_lead_out_of_the_archive_are_refused(pack, folder, name):
    assert "x.dcm' has a path that leads out" in refusal(pack((name, b"x"), ("good", b"fine")), folder)


def test_a_name_is_shown_without_control_characters(pack, folder):
    (done, refused) = contents(pack(("a/b\x1b[31m.dcm", b"x")), folder)
    assert done == [] and refused[0].name == "b_[31m.dcm" and "\x1b" not in refused[0].message


@pytest.mark.parametrize("system", [0, 3])
@pytest.mark.parametrize(
    ("kind", "words"), [(stat.S_IFLNK, "'x' is a link"), (stat.S_IFCHR, "no plain file"), (stat.S_IFIFO, "no plain file")]
)
def test_links_and_devices_are_refused(pack, folder, kind, words, system):
    path = pack((entry("x", mode=kind | 0o777, system=system), b"/etc/passwd"), ("good", b"fine"))
    assert words in refusal(path, folder)


def test_encrypted_files_are_refused(pack, folder):
    path = pack(("x", b"x"), ("good", b"fine"))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "'x' is encrypted" in refusal(path, folder)


@pytest.mark.parametrize(("method", "number"), [(zipfile.ZIP_BZIP2, "12"), (zipfile.ZIP_LZMA, "14")])
def test_other_methods_of_packing_are_refused_by_number(pack, folder, method, number):
    words = refusal(pack((entry("x", method), b"x" * 99), ("good", b"fine")), folder)
    assert f"packed by a method that is not read here ({number})" in words


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 and more",
        b"PK\x05\x06" + bytes(18),
        gzip.compress(b"x" * 999, mtime=0),
        tar(),
        b"7z\xbc\xaf\x27\x1c",
        b"BZh9",
        b"Rar!\x1a",
    ],
)
def test_archives_within_the_archive_are_refused(pack, folder, content):
    assert "'inner.dcm' is an archive inside the archive" in refusal(
        pack(("a/inner.dcm", content), ("good", b"fine")), folder
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_path_that_is_there_twice_is_taken_once(pack, folder):
    assert "'good' is twice in the archive" in refusal(pack(("good", b"fine"), ("good", b"other")), folder)


def test_a_damaged_file_is_refused_alone(pack, folder):
    path = pack(("x", bytes(range(256)) * 20), ("good", b"fine"))
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF  # in the first file's data
    path.write_bytes(content)
    assert "'x' in the archive is damaged" in refusal(path, folder)


def test_a_wrong_checksum_is_noticed(pack, folder):
    path = pack((entry("x", 0), b"some content"), ("good", b"fine"))
    path.write_bytes(path.read_bytes().replace(b"some content", b"same content"))
    assert "'x' in the archive is damaged (BadZipFile)" in refusal(path, folder)


# --- archives that are refused -----------------------------------------------------------------------------------------


def refused_whole(path: Path, folder: Path, words: str, limits: Limits = Limits()) -> None:  # noqa: B008
    with pytest.raises(ImageError, match=words):
        unpack(path, folder, limits)
    assert list(folder.iterdir()) == []


def test_an_archive_of_nothing_is_refused(pack, folder):
    refused_whole(pack(), folder, r"'study\.zip' is empty \(0 files\)")
    refused_whole(pack(("a/", b"")), folder, "is empty")


@pytest.mark.parametrize("keep", [10, 40, 0.5, -1, -10])
def test_a_cut_off_archive_is_refused(pack, folder, keep):
    path = pack(*((f"{i}", bytes([i]) * 500) for i in range(20)))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused_whole(path, folder, "damaged, cut off or one of several parts")


def test_too_many_files_are_refused_before_they_are_listed(pack, folder):
    path = pack(*((f"{i:05d}", b"") for i in range(2001)))
    assert len(contents(path, folder, Limits(zip_entries=2001))[0]) == 2001
    for each in folder.iterdir():
        each.unlink()
    refused_whole(path, folder, "holds more than 2000 files", Limits(zip_entries=2000))


def test_a_huge_directory_takes_no_memory(tmp_path, folder):
    # a million entries in an archive of 46 MB that says so of itself
    one = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    path = tmp_path / "huge.zip"
    path.write_bytes(one * 1_000_000 + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 10, 10, 46_000_000, 0, 0))
    tracemalloc.start()
    refused_whole(path, folder, "holds more than 5000 files")
    assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    tracemalloc.stop()


def test_an_entry_of_too_much_is_refused_by_what_it_says_and_by_what_it_holds(pack, folder):
    limits = Limits(inflated_mb=1, zip_ratio=10**6)
    path = pack((entry("x", 0), bytes(2 * MIB)), ("good", b"fine"))
    assert "'x' unpacks to more than 1 MiB" in refusal(path, folder, limits)


def test_a_bomb_of_one_file_is_refused_alone(pack, folder):
    path = pack(("x", bytes(20 * MIB)), ("good", b"fine"))  # about a thousandfold
    assert "'x' unpacks to more than 200 times its size" in refusal(path, folder)


def test_a_small_black_image_is_no_bomb(pack, folder):
    content = bytes(MIB - 1)
    assert contents(pack(("x", content)), folder) == ([("x", content)], [])


def test_many_bombs_are_one(pack, folder):
    path = pack(*((f"{i}", bytes(MIB)) for i in range(80)))  # each below the ratio's floor
    refused_whole(path, folder, "unpacks to more than 200 times its size")


def test_an_archive_of_too_much_is_refused_whole_and_what_was_written_is_removed(pack, folder):
    path = pack(*((entry(f"{i}", 0), bytes([i]) * MIB) for i in range(4)))
    refused_whole(path, folder, "'study.zip' unpacks to more than 3 MiB", Limits(unpacked_mb=3))


def overlapping(copies: int) -> bytes:
    """An archive whose directory names one packed file many times (Fifield's full overlap)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(bytes(MIB)) + packer.flush()
    body = (
        struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, zlib.crc32(bytes(MIB)), len(data), MIB, 1, 0) + b"0" + data
    )
    listing = b"".join(
        struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, zlib.crc32(bytes(MIB)), len(data), MIB, 1, 0, 0, 0, 0, 0, 0
        )
        + b"%d" % (i % 10)
        for i in range(copies)
    )
    return body + listing + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, copies, copies, len(listing), len(body), 0)


def test_files_that_share_bytes_are_refused(tmp_path, folder):
    path = tmp_path / "x.zip"
    path.write_bytes(overlapping(1))
    assert [each.name for each in unpack(path, folder, Limits())[0]] == ["0"]
    for each in folder.iterdir():
        each.unlink()
    path.write_bytes(overlapping(9))
    refused_whole(path, folder, "files that share bytes")


def test_an_entry_that_reaches_into_the_next_is_refused(tmp_path, folder, pack):
    # Fifield's quoting: the first file's data hold the header of the second
    path = pack((entry("a", 0), b"x" * 100), (entry("b", 0), b"y" * 100))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    struct.pack_into("<2L", content, at + 20, 180, 180)
    path.write_bytes(content)
    refused_whole(path, folder, "files that share bytes")


def test_a_full_disk_is_said_and_leaves_nothing(pack, folder, monkeypatch):
    def no_space(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    path = pack(("a", b"1"), ("b", b"2"))
    monkeypatch.setattr(_archive.os, "fdopen", no_space)
    refused_whole(path, folder, "'study.zip' cannot be unpacked: No space left on device")


def test_bytes_changed_at_random_end_in_a_sentence(pack, folder):
    import numpy as np

    chance = np.random.default_rng(3)
    path = pack(*((f"a/{i}", bytes([i]) * 300) for i in range(4)))
    content = path.read_bytes()
    for _ in range(400):
        changed = bytearray(content)
        for at in chance.integers(0, len(content), chance.integers(1, 6)):
            changed[at] = chance.integers(256)
        path.write_bytes(changed)
        try:
            done, refused = unpack(path, folder, Limits())
        except ImageError:
            assert list(folder.iterdir()) == []
            continue
        assert sorted(folder.iterdir()) == sorted(each.path for each in done)
        assert all(each.message for each in refused)
        for each in done:
            each.path.unlink()


def test_an_entry_without_a_name_is_unpacked_and_does_not_spoil_the_others(tmp_path, folder):
    """Bug: Python's ZipInfo.is_dir raises IndexError for it, and the whole archive was called damaged."""
    data = b"pixels"
    sizes = struct.pack("<III", zlib.crc32(data), len(data), len(data))
    local = struct.pack("<IHHHHH", 0x04034B50, 20, 0, 0, 0, 33) + sizes + struct.pack("<HH", 0, 0)
    central = struct.pack("<IHHHHHH", 0x02014B50, 20, 20, 0, 0, 0, 33) + sizes + struct.pack("<HHHHHII", 0, 0, 0, 0, 0, 0, 0)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(central), len(local) + len(data), 0)
    (tmp_path / "x.zip").write_bytes(local + data + central + end)
    assert contents(tmp_path / "x.zip", folder) == ([("an entry without a name", data)], [])
