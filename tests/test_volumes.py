"""NIfTI, MetaImage and NRRD: bytes written by hand here, slices, marks and affines expected by hand; bounds on what is crafted.

python -m pytest tests/test_volumes.py
"""

from __future__ import annotations

import gzip
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ImageError
from engine.limits import Limits
from engine.readers import volume
from engine.types import Image, Series, Window

AUTOMATIC = Window(float("nan"), float("nan"), "LINEAR_EXACT", "automatic")
TO_255 = Window(127.5, 255, "LINEAR_EXACT")  # shows x as x / 255
CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}
RAS = np.eye(3, 4)  # i to the right, j to the front, k to the head, 1 mm


def nifti(
    values: np.ndarray,
    sform: np.ndarray | None = RAS,
    order: str = "<",
    pixdim: tuple[float, ...] | None = None,
    scl: tuple[float, float] = (0, 0),
    dims: tuple[int, ...] | None = None,
    code: int | None = None,
    magic: bytes = b"n+1\0",
    **at: tuple[str, int, float],
) -> bytes:
    """A NIfTI-1 file of `values` in the order (k, j, i), as nifti1.h lays it out. at : further fields (format, offset, value)"""
    head = bytearray(352)
    dims = dims or values.shape[::-1]
    if pixdim is None:
        pixdim = (1, 1, 1) if sform is None else tuple(np.linalg.norm(sform[:, :3], axis=0))
    struct.pack_into(order + "i", head, 0, 348)
    struct.pack_into(order + "8h", head, 40, len(dims), *dims, *[1] * (7 - len(dims)))
    struct.pack_into(
        order + "hh", head, 70, code or CODES[values.dtype.str[1:]], 8 * values.dtype.itemsize if code is None else 0
    )
    struct.pack_into(order + "8f", head, 76, 1, *pixdim, *[1] * (7 - len(pixdim)))
    struct.pack_into(order + "3f", head, 108, 352, *scl)
    head[123] = 2  # millimetres
    head[148 : 148 + 11] = b"Doe^Patient"
    if sform is not None:
        struct.pack_into(order + "h", head, 254, 1)
        struct.pack_into(order + "12f", head, 280, *np.ravel(sform))
    head[344:348] = magic
    for form, offset, value in at.values():
        struct.pack_into(order + form, head, offset, value)
    return bytes(head) + values.astype(values.dtype.newbyteorder(order)).tobytes()


def mha(values: np.ndarray, compressed: bool = False, kind: str = "MET_SHORT", extra: str = "", **fields: str) -> bytes:
    data = zlib.compress(values.tobytes()) if compressed else values.tobytes()
    own = {
        "ObjectType": "Image",
        "NDims": str(values.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(compressed),
        "CompressedDataSize": str(len(data)) if compressed else "",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 1 1",
        "DimSize": " ".join(map(str, values.shape[::-1])),
        "ElementType": kind,
        "Comment": "Doe Patient",
        "ElementDataFile": "LOCAL",
    }
    last = {"ElementDataFile": (own | fields)["ElementDataFile"]}
    lines = [f"{k} = {v}" for k, v in (own | fields).items() if v and k not in last]
    return ("\n".join([*lines, *extra.split("\n"), f"ElementDataFile = {last['ElementDataFile']}"]) + "\n").encode() + data


def nrrd(values: np.ndarray, encoding: str = "raw", kind: str = "short", extra: str = "", **fields: str) -> bytes:
    data = {"gzip": gzip.compress}.get(encoding, bytes)(values.tobytes())
    own = {
        "type": kind,
        "dimension": str(values.ndim),
        "space": "left-posterior-superior",
        "space dimension": "",
        "sizes": " ".join(map(str, values.shape[::-1])),
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "endian": "little",
        "encoding": encoding,
        "space origin": "(0,0,0)",
    }
    lines = [
        f"{k.replace('_', ' ')}: {v}" for k, v in (own | {k.replace("_", " "): v for k, v in fields.items()}).items() if v
    ]
    return (
        "NRRD0004\n# Doe Patient\n" + "\n".join([*lines, *extra.splitlines()]) + "\nname:=Doe Patient\n\n"
    ).encode() + data


@pytest.fixture
def read(tmp_path):
    count = itertools.count()

    def opened(content: bytes, limits: Limits = Limits()) -> Series:  # noqa: B008
        path = tmp_path / f"{next(count)}.bin"
        path.write_bytes(content)
        assert volume.sniff(content[:4096])
        (series,) = volume.read(path, limits)
        return series

    return opened


def whole(series: Series) -> np.ndarray:
    """The values of all slices, from pixels shown from 0 to 255."""
    return np.stack([np.rint(series.frame(i, TO_255).pixels * 255) for i in range(series.frames)])


def towards(affine: np.ndarray | None) -> list[list[float]]:
    assert affine is not None
    return np.round(affine, 4).tolist()


# values whose place is their name: 100 for the head, 10 for the back, 1 for the left, in the order (z, y, x) of LPS
LPS_VALUES = 100 * np.arange(2)[:, None, None] + 10 * np.arange(3)[:, None] + np.arange(4)
LPS = LPS_VALUES.astype("i2")

# --- orientation -------------------------------------------------------------------------------------------------------


def test_a_volume_stored_to_the_right_and_front_is_shown_with_the_right_on_the_left(read):
    # NIfTI's own axes: i to the right, j to the front; flipped against LPS in both
    series = read(nifti(LPS[:, ::-1, ::-1], RAS))
    assert whole(series).tolist() == LPS.tolist()
    assert series.frame(0).marks == ("R", "A", "L", "P") and series.frame(0).spacing_mm == (1, 1)
    assert series.notes[1] == "Stored towards RAS; shown as axial slices, the patient's right on the left, the front on top."
    # the pixel at the upper left is the last in i and j: x = 3 to the right, y = 2 to the front, so (-3, -2) in LPS
    assert towards(series.affine) == [[1, 0, 0, -3], [0, 1, 0, -2], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    "axes", [a for a in itertools.product("RLAPSI", repeat=3) if len({"RLAPSI".index(x) // 2 for x in a}) == 3]
)
def test_however_it_is_stored_it_is_shown_the_same(read, axes):
    """All 48 orders and directions of the axes."""
    values, sform = LPS, np.zeros((3, 4))
    lps = [next(n for n, pair in enumerate(("LR", "PA", "SI")) if letter in pair) for letter in axes]
    stored = values.transpose([2 - n for n in lps[::-1]])  # (k, j, i)
    for axis, letter in enumerate(axes):
        rises_in_ras = letter in "RAS"
        if letter not in "LPS":
            stored = np.flip(stored, 2 - axis)
        sform[lps[axis], axis] = 1 if rises_in_ras else -1
    series = read(nifti(np.ascontiguousarray(stored), sform))
    assert dict(series.about.facts)["stored orientation"] == "".join(axes)
    assert whole(series).tolist() == LPS.tolist()
    assert series.frame(1).marks == ("R", "A", "L", "P")


def test_slices_across_a_coarse_left_right_axis_are_sagittal_with_the_front_on_the_left(read):
    sform = np.diag([-4.0, -1, 1])  # i to the left by 4 mm, j to the back, k to the head
    series = read(nifti(LPS, np.c_[sform, [10, 20, 30]]))
    assert series.frames == 4 and series.frame(0).marks == ("A", "H", "P", "F")
    # from left to right, as the normal of sagittal slices points; rows from the head down, columns from front to back
    assert whole(series)[0].tolist() == [[103, 113, 123], [3, 13, 23]]
    assert whole(series)[3].tolist() == [[100, 110, 120], [0, 10, 20]]
    # the first pixel shown is i = 3, j = 0, k = 1: in RAS (10 - 12, 20, 31), in LPS (2, -20, 31)
    assert towards(series.affine) == [[0, 0, -4, 2], [1, 0, 0, -20], [0, -1, 0, 31], [0, 0, 0, 1]]
    assert series.about.title == "NIfTI, 4 sagittal slices of 3 x 2"


def test_slices_across_a_coarse_front_back_axis_are_coronal_with_the_head_on_top(read):
    series = read(nifti(LPS, np.c_[np.diag([-1.0, -3, 1]), [0, 0, 0]]))
    assert series.frames == 3 and series.frame(0).marks == ("R", "H", "L", "F")
    assert whole(series)[1].tolist() == [[110, 111, 112, 113], [10, 11, 12, 13]]
    assert towards(series.affine) == [[1, 0, 0, 0], [0, 0, 3, 0], [0, -1, 0, 1], [0, 0, 0, 1]]


def test_spacing_that_is_nearly_even_leaves_slices_axial(read):
    assert read(nifti(LPS, np.c_[np.diag([-1.4, -1, 1]), [0, 0, 0]])).frame(0).marks == ("R", "A", "L", "P")


def test_a_single_slice_is_shown_in_its_own_plane(read):
    series = read(nifti(LPS[:, 1:2], np.c_[np.diag([-1.0, -1, 1]), [0, 0, 0]]))
    assert series.frames == 1 and series.frame(0).marks == ("R", "H", "L", "F")
    assert whole(series)[0].tolist() == [[110, 111, 112, 113], [10, 11, 12, 13]]


def test_oblong_pixels_are_shown_square_and_the_affine_follows(read):
    # 1 mm columns, 2 mm rows: each row becomes two; their centres lie a quarter of a row from the old one
    values = np.array([[[0, 0], [100, 100], [200, 200]]], dtype="i2")
    series = read(nifti(values, np.c_[np.diag([-1.0, -2, 2]), [0, 0, 0]]))
    image = series.frame(0, TO_255)
    assert image.spacing_mm == (1, 1)
    assert (image.pixels[:, 0] * 255).tolist() == pytest.approx([0, 25, 75, 125, 175, 200])
    assert series.affine is not None
    assert (series.affine @ [0, 0, 0, 1])[:3] == pytest.approx([0, -0.5, 0])  # 0.5 mm before the centre of the old first row
    assert (series.affine @ [0, 5, 0, 1])[:3] == pytest.approx([0, 4.5, 0])  # the last old centre lies at 4 mm
    assert any("shown square" in note for note in series.notes)


def test_an_oblique_volume_is_told_and_lettered_by_its_nearest_axes(read):
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    turned = np.array([[-1, 0, 0, 0], [0, -c, s, 0], [0, s, c, 0]])
    series = read(nifti(LPS, turned))
    assert series.frame(0).marks == ("R", "A", "L", "P") and whole(series).tolist() == LPS.tolist()
    assert any("lies 10 degrees oblique" in note for note in series.notes)


def test_without_an_orientation_sides_are_unknown(read):
    series = read(nifti(LPS, None))
    assert series.frame(0).marks is None and series.affine is None
    assert whole(series).tolist() == LPS.tolist()
    assert any("does not say how it lies in the patient" in note for note in series.notes)
    assert any("sides are unknown" in note for note in read(mha(LPS, TransformMatrix="")).notes)
    assert any(
        "sides are unknown" in note
        for note in read(nrrd(LPS, space="", space_directions="", space_origin="", spacings="1 1 1")).notes
    )


def test_a_quaternion_orients_as_well_as_a_matrix(read):
    # qform: half a turn about the head-feet axis, quaternion (0, 0, 0, 1): i to the left, j to the back
    at = {"qform": ("h", 252, 1), "d": ("f", 264, 1.0), "x": ("f", 268, 7.0), "y": ("f", 272, 8.0), "z": ("f", 276, 9.0)}
    series = read(nifti(LPS, None, **at))
    assert whole(series).tolist() == LPS.tolist() and series.frame(0).marks == ("R", "A", "L", "P")
    assert towards(series.affine) == [[1, 0, 0, -7], [0, 1, 0, -8], [0, 0, 1, 9], [0, 0, 0, 1]]


def test_a_sheared_sform_is_read_as_the_nearest_rotation_and_told(read):
    series = read(nifti(LPS, np.array([[-1, 0.05, 0, 0], [0, -1, 0, 0], [0, 0, 1.0, 0]]), pixdim=(1, 1, 1)))
    assert whole(series).tolist() == LPS.tolist()
    assert any("sheared" in note for note in series.notes)
    assert not any("sheared" in note for note in read(nifti(LPS, RAS)).notes)


def test_two_voxel_sizes_in_one_file_are_told(read):
    series = read(nifti(LPS, np.c_[np.diag([-1.0, -1, 2]), [0, 0, 0]], pixdim=(1, 1, 1)))
    assert any("two voxel sizes (pixdim and sform)" in note for note in series.notes)


def test_micrometres_become_millimetres(read):
    series = read(nifti(LPS, None, pixdim=(500, 500, 500), units=("B", 123, 3), qform=("h", 252, 1)))
    assert series.frame(0).spacing_mm == pytest.approx((0.5, 0.5))


def test_a_voxel_size_that_is_no_length_is_left_out(read):
    for wrong in (0, float("nan")):
        series = read(nifti(LPS, None, pixdim=(wrong, 1, 1)))
        assert series.frame(0).spacing_mm is None and series.affine is None
        assert "The file gives no voxel size." in series.notes


# --- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", list(CODES))
@pytest.mark.parametrize("packed", [False, True])
def test_nifti_of_every_type_and_byte_order(read, kind, order, packed):
    values = np.array([[[0, 51], [102, 127]]], dtype=kind)
    content = nifti(values, np.c_[np.diag([-1.0, -1, 1]), [0, 0, 0]], order)
    image = read(gzip.compress(content) if packed else content).frame(0, TO_255)
    np.testing.assert_allclose(image.pixels, [[0, 0.2], [0.4, 127 / 255]], atol=1e-6)  # float32


@pytest.mark.parametrize("order", ["<", ">"])
def test_slope_and_intercept_come_before_the_window(read, order):
    values = np.array([[[0, 100], [200, 300]]], dtype="i2")
    series = read(nifti(values, np.c_[np.diag([-1.0, -1, 1]), [0, 0, 0]], order, scl=(2, -100)))
    # -100, 100, 300, 500
    np.testing.assert_allclose(series.frame(0, Window(200, 600, "LINEAR_EXACT")).pixels, [[0, 1 / 3], [2 / 3, 1]], atol=1e-6)


@pytest.mark.parametrize("slope", [0, float("nan")])
def test_a_slope_of_nothing_leaves_values_as_stored(read, slope):
    series = read(nifti(LPS[:1], RAS, scl=(slope, 5)))
    assert whole(series)[0].tolist() == LPS[0, ::-1, ::-1].tolist()


def test_the_window_is_of_the_whole_volume_and_not_of_the_slice(read):
    values = np.arange(801, dtype="f4").reshape(3, 3, 89)  # the 0.5 and 99.5 percentile of 0 to 800: 4 and 796
    series = read(nifti(values, np.c_[np.diag([-1.0, -1, 1]), [0, 0, 0]]))
    for asked in (None, AUTOMATIC):
        images = [series.frame(i, asked) for i in range(3)]
        assert {i.window for i in images} == {Window(400, 792, "LINEAR_EXACT", "automatic")}
        np.testing.assert_allclose(images[1].pixels[0], (np.arange(267, 356) - 4) / 792, atol=1e-6)
    assert "Values shown from 4 to 796 (0.5 to 99.5 percentile of the whole volume)." in images[0].notes


def test_a_large_volume_is_sampled_for_its_window(read, monkeypatch):
    monkeypatch.setattr(volume, "SAMPLE", 1000)
    values = np.arange(27_000, dtype="f4").reshape(30, 30, 30)
    window = read(nifti(values)).frame(0).window
    assert window is not None
    assert (window.center, window.width) == pytest.approx((13_500, 26_730), rel=0.002)  # 99 % of the range, by every 27th


def test_a_window_of_the_user_is_used_and_named(read):
    series = read(nifti(LPS))
    assert "Window centre 40, width 400 (user)." in series.frame(0, Window(40, 400)).notes
    assert (
        "Window centre -600, width 1500 (preset 'lung')."
        in series.frame(0, Window(-600, 1500, "LINEAR", "preset", "lung")).notes
    )
    with pytest.raises(ImageError, match=r"Window Width"):
        series.frame(0, Window(40, 0))


def test_values_that_look_like_hounsfield_units_are_told(read):
    ct = np.array([[[-1024, -1000], [40, 1200]]], dtype="i2")
    series = read(nifti(ct))
    assert series.about.hounsfield and series.about.modality == ""
    assert "Values look like Hounsfield units." in series.notes
    assert read(nifti((ct + 1024).astype("u2"), scl=(1, -1024))).about.hounsfield
    for other in (ct + 200, ct * 4, ct + 0.5, -np.abs(ct)):
        assert not read(nifti(other.astype("f4"))).about.hounsfield


def test_what_is_no_number_is_black_and_told(read):
    values = np.array([[[np.nan, 0.0], [0.5, 1.0]], [[0.0, 0.2], [0.3, np.inf]]], dtype="f4")
    series = read(mha(values, kind="MET_FLOAT"))
    assert series.frame(0, Window(0.5, 1, "LINEAR_EXACT")).pixels.tolist() == [[0, 0], [0.5, 1]]
    assert series.frame(1, Window(0.5, 1, "LINEAR_EXACT")).pixels[1, 1] == 1
    assert np.isfinite(series.frame(0).pixels).all()
    assert any("no number" in note for note in series.notes)
    assert read(mha(np.full((1, 2, 2), np.nan, "f4"), kind="MET_FLOAT")).frame(0).warnings


def test_a_slice_of_one_value_is_warned_of(read):
    values = LPS.copy()
    values[1] = 7
    series = read(nifti(values))
    assert not series.frame(0).warnings and series.frame(1).warnings


@pytest.mark.parametrize(("code", "samples"), [(128, 3), (2304, 4)])
def test_colours_are_shown_as_they_are(read, code, samples):
    rgba = np.array([[[[255, 0, 51, 9], [0, 102, 0, 9]]]], dtype="u1")[..., :samples]
    series = read(nifti(np.ascontiguousarray(rgba), np.c_[np.diag([-1.0, -1, 1]), [0, 0, 0]], dims=(2, 1, 1), code=code))
    image = series.frame(0, Window(40, 400))
    np.testing.assert_allclose(image.pixels, [[[1, 0, 0.2], [0, 0.4, 0]]], atol=1e-6)
    assert image.window is None and not series.about.deep
    assert any("opacity" in note for note in image.notes) == (samples == 4)


def test_of_several_volumes_the_first_is_read_and_their_number_told(read):
    four = np.stack([LPS, LPS + 100])
    for content in (
        nifti(four, np.c_[np.diag([-1.0, -1, 1]), [0, 0, 0]]),
        mha(four, TransformMatrix="1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", Offset="0 0 0 0", ElementSpacing="1 1 1 1"),
        nrrd(four, space="", space_directions="", space_origin="", spacings="1 1 1 1"),
    ):
        series = read(content)
        assert whole(series).tolist() == LPS.tolist()
        assert "The file holds 2 volumes: the first is read." in series.notes


def test_of_several_values_a_voxel_the_first_is_shown_and_their_number_told(read):
    vectors = np.stack([LPS, LPS + 50], axis=-1)  # interleaved
    for content in (
        mha(vectors, NDims="3", DimSize="4 3 2", ElementNumberOfChannels="2"),
        nrrd(vectors, kinds="vector domain domain domain", space_directions="none (1,0,0) (0,1,0) (0,0,1)"),
    ):
        series = read(content)
        assert whole(series).tolist() == LPS.tolist()
        assert "The file holds 2 values a voxel: the first is shown." in series.notes


def test_two_dimensions_are_one_frame_without_sides(read):
    for content in (
        nifti(LPS[0]),
        mha(LPS[0], TransformMatrix="1 0 0 1", Offset="0 0", ElementSpacing="1 1"),
        nrrd(LPS[0], space="", space_directions="", space_origin="", spacings="1 1"),
        nrrd(
            np.repeat(LPS[0][..., None], 2, axis=-1),
            space="",
            space_dimension="2",
            kinds="vector domain domain",
            space_directions="none (1,0) (0,1)",
            space_origin="(0,0)",
        ),
    ):
        series = read(content)
        assert series.frames == 1 and series.frame(0).marks is None
        assert whole(series)[0].tolist() == LPS[0].tolist()


# --- MetaImage and NRRD ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_a_metaimage_is_oriented_by_its_matrix(read, compressed):
    # a row of the matrix an axis: i to the left, j to the head, k to the front
    stored = np.ascontiguousarray(LPS.transpose(1, 0, 2)[::-1])
    series = read(mha(stored, compressed, TransformMatrix="1 0 0 0 0 1 0 -1 0", Offset="1 2 3"))
    assert whole(series).tolist() == LPS.tolist() and series.frame(0).marks == ("R", "A", "L", "P")
    assert dict(series.about.facts)["stored orientation"] == "LSA"
    assert towards(series.affine) == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]]  # j = 0 is k = 2: y = 2 - 2


def test_a_big_endian_metaimage_is_swapped(read):
    series = read(mha(LPS.astype(">i2"), BinaryDataByteOrderMSB="True"))
    assert whole(series).tolist() == LPS.tolist()


@pytest.mark.parametrize(
    ("kind", "dtype"), [("MET_UCHAR", "u1"), ("MET_USHORT", "u2"), ("MET_FLOAT", "f4"), ("MET_DOUBLE", "f8")]
)
def test_metaimages_of_other_types(read, kind, dtype):
    assert whole(read(mha(LPS.astype(dtype), kind=kind))).tolist() == LPS.tolist()


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_an_nrrd_of_each_encoding(read, encoding):
    series = read(nrrd(LPS, encoding))
    assert whole(series).tolist() == LPS.tolist() and series.frame(0).marks == ("R", "A", "L", "P")


def test_an_nrrd_in_another_space_is_turned(read):
    series = read(nrrd(np.ascontiguousarray(LPS[:, ::-1, ::-1]), space="right-anterior-superior", space_origin="(1,2,3)"))
    assert whole(series).tolist() == LPS.tolist()
    assert towards(series.affine) == [[1, 0, 0, -4], [0, 1, 0, -4], [0, 0, 1, 3], [0, 0, 0, 1]]


# --- what is not read --------------------------------------------------------------------------------------------------

GOOD = nifti(LPS)
NOISE = nifti(np.random.default_rng(0).integers(0, 1000, (8, 8, 8), dtype="i2"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD[:-1], "is cut off: its header tells of 400 bytes and there are 399"),
        (GOOD[:200] + GOOD[344:348].rjust(148, b"\0"), "is cut off"),
        (gzip.compress(NOISE, mtime=0)[:-20], "is damaged or cut off and cannot be inflated"),
        # the wrong checksum
        (gzip.compress(NOISE, mtime=0)[:-8] + bytes(8), "is damaged or cut off and cannot be inflated"),
        (gzip.compress(GOOD[:-1], mtime=0), "is cut off"),
        (nifti(LPS, magic=b"ni1\0"), "whose data are in another file"),
        (nifti(LPS, code=32), r"datatype 32"),
        (nifti(LPS, code=1), r"datatype 1\)"),
        (nifti(LPS, dims=(4, 3, 0)), "claims 4 x 3 x 0 voxels"),
        (nifti(LPS, dims=(4, -3, 2)), "claims 4 x -3 x 2 voxels"),
        (nifti(LPS, dims=(32767, 32767, 32767)), "At most 300 million"),
        (nifti(LPS, rank=("h", 40, 7)), "7 dimensions"),
        (nifti(LPS, rank=("h", 40, 1)), "1 dimensions"),
        (nifti(LPS, rank=("h", 40, -1)), "-1 dimensions"),
        (nifti(LPS, offset=("f", 108, 1e12)), "vox_offset"),
        (nifti(LPS, offset=("f", 108, float("nan"))), "vox_offset"),
        (nifti(LPS, offset=("f", 108, 100.0)), "vox_offset"),
        (nifti(LPS, offset=("f", 108, 1000.0)), "is cut off"),
        (nifti(LPS, number=("f", 280, float("nan"))), "orientation"),
        (b"\x1c\x02\0\0n+2\0\r\n\x1a\n" + bytes(540), "is NIfTI-2"),
        (mha(LPS, ElementDataFile="data.raw"), "refers to another file"),
        (mha(LPS, ElementDataFile="LIST"), "refers to another file"),
        (mha(LPS, ElementDataFile="/etc/passwd"), "refers to another file"),
        (mha(LPS, DimSize="4 3 x"), "no whole numbers for DimSize"),
        (mha(LPS, DimSize="4 3"), "DimSize"),
        (mha(LPS, DimSize="4 3 99999999999"), "At most 300 million"),
        (mha(LPS, DimSize="4 3 3"), "is cut off"),
        (mha(LPS, ElementType="MET_STRING"), r"ElementType"),
        (mha(LPS, BinaryData="False"), "BinaryData"),
        (mha(LPS, HeaderSize="-1"), "HeaderSize"),
        (mha(LPS, extra="DimSize = 1 1 1"), "gives a field twice"),
        (mha(LPS, extra="ElementDataFile : /etc/passwd"), "damaged"),
        (mha(LPS, extra="Note = " + "x" * 600), "damaged"),
        (mha(LPS, extra="Note = x\x0bElementDataFile = /etc/passwd"), "damaged"),
        (mha(LPS, True)[:-5], "is cut off"),
        (mha(LPS, True, CompressedDataSize="")[:-5], "is damaged or cut off"),
        (mha(LPS, True, CompressedDataSize="99999999"), "is cut off"),
        (mha(LPS, True, DimSize="400 300 200"), "is cut off"),
        (nrrd(LPS, extra="data file: x.raw"), "refers to another file"),
        (nrrd(LPS, extra="DataFile: LIST"), "refers to another file"),
        (nrrd(LPS, extra="datafile: /etc/passwd"), "refers to another file"),
        (nrrd(LPS, sizes="4 3 2 1"), "dimension"),
        (nrrd(LPS, sizes="4 3000000 2000"), "At most 300 million"),
        (nrrd(LPS, sizes="4 3 3"), "is cut off"),
        (nrrd(LPS, "hex"), "encoding"),
        (nrrd(LPS, "bzip2"), "encoding"),
        (nrrd(LPS, kind="block"), r"\(type\)"),
        (nrrd(LPS, byte_skip="5"), "byteskip"),
        (nrrd(LPS, extra="sizes: 1 1 1"), "gives a field twice"),
        (nrrd(LPS, extra="junk"), "damaged"),
        (nrrd(LPS).partition(b"\n\n")[0], "damaged"),
        (nrrd(LPS, "gzip")[:-9], "damaged or cut off"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(read, content, words, capfd):
    with pytest.raises(ImageError, match=words) as raised:
        read(content)
    assert "\n" not in str(raised.value) and "Doe" not in str(raised.value) and "/etc" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_bombs_are_stopped_by_the_limits(read):
    small = Limits(inflated_mb=1, volume_megavoxels=1, frames=60)
    with pytest.raises(ImageError, match="inflates to more than 1 MiB"):
        read(gzip.compress(GOOD + bytes(2 << 20)), small)
    zeros = np.zeros((30, 160, 160), dtype="i2")
    with pytest.raises(ImageError, match="inflates to more than 1 MiB"):
        read(mha(zeros, True), small)
    with pytest.raises(ImageError, match="inflates to more than 1 MiB"):
        read(nrrd(zeros, "gzip"), small)
    with pytest.raises(ImageError, match=r"claims 101 x 100 x 100 voxels.*At most 1 million"):
        read(nifti(LPS, dims=(101, 100, 100)), small)
    with pytest.raises(ImageError, match=r"has 61 slices of 2 x 2 pixels. At most 60 slices"):
        read(nifti(np.zeros((61, 2, 2), "u1")), small)
    with pytest.raises(ImageError, match=r"1 slices of 1200 x 1000 pixels. At most .* of 1 million values"):
        read(nifti(np.zeros((1, 1000, 1200), "u1")), Limits(megapixels=1))


def test_itk_is_quiet_where_it_stumbles(read, capfd):
    odd = [
        nifti(LPS, bits=("h", 72, 99)),
        nifti(LPS, None, qform=("h", 252, 1), b=("f", 256, 9.0)),
        mha(LPS, TransformMatrix="0 0 0 0 0 0 0 0 0"),
        mha(LPS, ElementSpacing="0 0 0"),
        mha(LPS, ElementSpacing="-1 1 1"),
        mha(LPS, Offset="a b c"),
        nrrd(LPS, space_directions="(0,0,0) (0,0,0) (0,0,0)"),
        nrrd(LPS, space_directions="(a,0,0) (0,1,0) (0,0,1)"),
        nrrd(LPS, endian="middle"),
        nrrd(LPS, extra="thicknesses: 1 2"),
    ]
    for content in odd:
        try:
            image = read(content).frame(0)
        except ImageError as error:
            assert "Doe" not in str(error)
        else:
            assert np.isfinite(image.pixels).all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [GOOD, mha(LPS), nrrd(LPS)])
def test_bytes_changed_at_random_end_in_a_sentence_or_an_image(tmp_path, content):
    chance = np.random.default_rng(5)
    path = tmp_path / "x"
    begin = {b"n": 0}.get(content[:1], 0)
    for _ in range(150):
        changed = bytearray(content)
        for at in chance.integers(begin, min(len(content), 400), chance.integers(1, 5)):
            changed[at] = chance.integers(256)
        path.write_bytes(bytes(changed[: chance.integers(1, len(changed) + 1)] if chance.random() < 0.2 else changed))
        try:
            (series,) = volume.read(path, Limits())
            pixels = series.frame(series.frames // 2).pixels
        except (ImageError, MemoryError):
            continue
        assert np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1


def test_nothing_of_a_headers_words_is_told(read):
    for content in (GOOD, mha(LPS, PatientName="Doe"), nrrd(LPS)):
        series = read(content)
        image = series.frame(0)
        assert "Doe" not in repr((series.notes, series.about, image.notes, image.warnings, vars(series)))


def test_other_files_are_no_volumes():
    for head in (
        b"",
        b"\x1f\x8b",
        gzip.compress(b"x" * 600, mtime=0),
        b"Comment = hello",
        b"ObjectType",
        bytes(4096),
        b"NRR",
        b"\x5c\x01\0\0",
    ):
        assert not volume.sniff(head)


def test_a_slice_of_a_large_volume_costs_little_after_the_first(tmp_path):
    import time

    path = tmp_path / "x.nii"
    path.write_bytes(nifti(np.random.default_rng(0).integers(-1000, 1000, (100, 256, 256), dtype="i2")))
    (series,) = volume.read(path, Limits())
    start = time.perf_counter()
    images: list[Image] = [series.frame(i) for i in range(0, 100, 10)]
    assert time.perf_counter() - start < 2  # a guard against reading the file for each: it takes some milliseconds a slice
    assert len({i.pixels.tobytes() for i in images}) == 10


def test_no_file_is_left_behind(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    path = Path(tmp_path, "x.nii")
    for content in (GOOD, GOOD[:-1], nifti(LPS, bits=("h", 72, 99))):
        path.write_bytes(content)
        try:
            volume.read(path, Limits())
        except ImageError:
            continue
    assert list((tmp_path / "t").iterdir()) == []
