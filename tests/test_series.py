"""Files of a DICOM series to stacks: order, gaps, tilt and parts by hand; windows shared within a stack.

python -m pytest tests/test_series.py
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ImageError
from engine.limits import Limits
from engine.readers import open_file
from engine.readers._series import Stack, group
from engine.types import About, Image, Series, Slot, Window

AXIAL = (1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, -1)
SAGITTAL = (0, 1, 0, 0, 0, -1)
UID = "1.2.826.0.1.3680043.8.498.55"
AUTOMATIC = Window(float("nan"), float("nan"), "LINEAR_EXACT", "automatic")


# --- series of files on disk -------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path, write_dicom) -> Callable[..., list[Series]]:
    """Files of one value each, read back. The first pixel is black, so that none is flat."""
    count = itertools.count()

    def written(values: Sequence[int], positions: Sequence[Sequence[float] | None], shape=(2, 2), **tags) -> list[Series]:
        found = []
        for value, position in zip(values, positions, strict=True):
            pixels = np.full(shape, value, dtype=np.uint8)
            pixels[0, 0] = 0
            own = {
                "Modality": "MR",
                "SeriesInstanceUID": UID,
                "InstanceNumber": 1,
                "ImageOrientationPatient": list(AXIAL),
                "ImagePositionPatient": None if position is None else list(position),
                "PixelSpacing": [0.5, 0.5],
                "WindowCenter": 128,
                "WindowWidth": 256,
            }
            path = write_dicom(tmp_path / f"{next(count):04d}.dcm", pixels, **(own | tags))
            found += open_file(path, Limits())
        return found

    return written


def shown(series: Series) -> list[int]:
    """The value of each slice: the window from 0 to 255 of width 256 shows x as x / 255."""
    return [round(float(series.frame(i).pixels[1, 1]) * 255) for i in range(series.frames)]


def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(write):
    heights = [30.0, 0.0, 20.0, 10.0]
    (stack,) = group(write([4, 1, 3, 2], [(0, 0, z) for z in heights]))
    assert shown(stack) == [1, 2, 3, 4]
    assert stack.files == ("0001.dcm", "0003.dcm", "0002.dcm", "0000.dcm")
    assert [s.position for s in stack.slots] == [(0, 0, 0), (0, 0, 10), (0, 0, 20), (0, 0, 30)]
    assert stack.warnings == () and stack.frame(1).notes[0] == "Slice 2 of 4."


def test_where_the_normal_points_to_the_feet_slices_run_to_the_feet(write):
    # rows to the left, columns to the front: their cross product points down
    tags = {"ImageOrientationPatient": [1, 0, 0, 0, -1, 0]}
    (stack,) = group(write([1, 2, 3], [(0, 0, 10), (0, 0, 30), (0, 0, 20)], **tags))
    assert shown(stack) == [2, 3, 1]


def test_oblique_slices_are_sorted_along_their_own_normal(write):
    # turned by 45 degrees about the left-right axis: the normal is (0, -1, 1) / sqrt 2, so by z alone the order would be wrong
    r = 0.70710678
    tags = {"ImageOrientationPatient": [1, 0, 0, 0, r, r]}
    positions = [(0, 0, 0), (0, -10, -3), (0, -20, -6)]  # along the normal 0, 7 / sqrt 2, 14 / sqrt 2
    (stack,) = group(write([1, 2, 3], positions, **tags))
    assert shown(stack) == [1, 2, 3]
    assert dict(stack.about.facts)["spacing between slices"] == "4.95 mm"  # 7 / sqrt 2 = 4.9497


def test_the_affine_takes_the_corners_to_their_places_in_the_patient(write):
    tags = {"ImageOrientationPatient": list(CORONAL), "PixelSpacing": [2, 0.5]}
    (stack,) = group(write([1, 2, 3], [(-10, 5, 40), (-10, 8, 40), (-10, 11, 40)], shape=(4, 6), **tags))
    assert stack.affine is not None
    # columns go 0.5 mm to the left, rows 2 mm to the feet, slices 3 mm to the back; frames are shown with four rows for each
    # stored one, so that stored row r has its centre at (r + 0.5) * 4 - 0.5
    assert (stack.affine @ [0, 1.5, 0, 1])[:3] == pytest.approx([-10, 5, 40])
    assert (stack.affine @ [5, 1.5, 0, 1])[:3] == pytest.approx([-7.5, 5, 40])
    assert (stack.affine @ [0, 13.5, 0, 1])[:3] == pytest.approx([-10, 5, 34])
    assert (stack.affine @ [0, 1.5, 2, 1])[:3] == pytest.approx([-10, 11, 40])


def test_two_series_whose_files_alternate_become_two(write):
    first = write([1, 2], [(0, 0, 0), (0, 0, 5)])
    second = write([8, 9], [(0, 0, 0), (0, 0, 5)], SeriesInstanceUID=UID + ".2")
    stacks = group([second[0], first[1], second[1], first[0]])
    assert [shown(s) for s in stacks] == [[8, 9], [1, 2]]  # in the order of their first files


def test_a_localizer_is_set_apart_and_says_so(write):
    slices = write([1, 2, 3], [(0, 0, 0), (0, 0, 5), (0, 0, 10)])
    localizer = write(
        [9], [(0, 0, 0)], ImageOrientationPatient=list(CORONAL), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    alone, stack = group([*localizer, *slices])
    assert (alone.frames, stack.frames) == (1, 3)
    assert any("A localizer" in note for note in alone.notes)
    assert any("A localizer" in note for note in alone.frame(0).notes)
    assert shown(stack) == [1, 2, 3] and stack.notes == ()


def test_several_orientations_of_one_series_are_parts_that_say_so(write):
    axial = write([1, 2], [(0, 0, 0), (0, 0, 5)])
    sagittal = write([3, 4, 5], [(0, 0, 0), (5, 0, 0), (10, 0, 0)], ImageOrientationPatient=list(SAGITTAL))
    parts = group([*axial, *sagittal])
    assert [p.frames for p in parts] == [2, 3]
    assert parts[0].notes == ("The series holds images of several orientations: these are 2 of its 5.",)
    assert parts[1].notes == ("The series holds images of several orientations: these are 3 of its 5.",)
    assert shown(parts[1]) == [5, 4, 3]  # the normal of sagittal slices, (0, 1, 0) x (0, 0, -1), points to the right


def test_several_sizes_of_one_series_are_parts_that_say_so(write):
    small = write([1, 2], [(0, 0, 0), (0, 0, 5)])
    large = write([3, 4], [(0, 0, 0), (0, 0, 5)], shape=(4, 4))
    parts = group([*small, *large])
    assert [p.notes for p in parts] == [("The series holds images of several sizes: these are 2 of its 4.",)] * 2


def test_echoes_at_the_same_positions_become_a_stack_each(write):
    positions = [(0, 0, 0), (0, 0, 5), (0, 0, 10)]
    second = write([7, 8, 9], positions, EchoNumbers=2, InstanceNumber=5)
    first = write([1, 2, 3], positions, EchoNumbers=1, InstanceNumber=2)
    parts = group([second[0], first[0], second[2], first[1], first[2], second[1]])
    assert [shown(p) for p in parts] == [[7, 8, 9], [1, 2, 3]]
    assert parts[0].notes == ("The series has 2 acquisitions, echoes or time points: this is number 2 of them.",)
    assert parts[1].notes == ("The series has 2 acquisitions, echoes or time points: this is number 1 of them.",)


def test_slices_that_each_are_an_acquisition_stay_together(write):
    files = [write([z + 1], [(0, 0, 5.0 * z)], AcquisitionNumber=z + 1)[0] for z in range(4)]
    again = write([9], [(0, 0, 15)], AcquisitionNumber=5, InstanceNumber=2)  # one place was scanned twice
    (stack,) = group([*again, *files])
    assert shown(stack) == [1, 2, 3, 4, 9]
    assert any("1 slice stands where another does" in note for note in stack.notes)
    assert stack.warnings == ()


def test_files_without_positions_are_in_the_order_of_their_numbers_and_it_is_said(write):
    files = [write([value], [None], InstanceNumber=value)[0] for value in (10, 9, 2)]
    (stack,) = group(files)
    assert shown(stack) == [2, 9, 10]
    assert stack.notes == (
        "(0020,0032) Image Position (Patient) is missing: slices are in the order of their instance numbers ((0020,0013)).",
    )
    assert stack.affine is None


def test_without_positions_and_numbers_files_stay_in_their_order(write):
    (stack,) = group(write([3, 1, 2], [None, None, None], InstanceNumber=None))
    assert shown(stack) == [3, 1, 2]
    assert "in the order in which the files came" in stack.notes[0]


@pytest.mark.parametrize("modality", ["DX", "MG", "US", "OT", "XC"])
def test_single_views_of_one_series_stay_single_images(write, modality):
    views = write([1, 2], [None, None], Modality=modality, ImageOrientationPatient=None)
    assert group(views) == views


def test_one_file_alone_is_left_as_it_is(write):
    (file,) = write([1], [(0, 0, 0)])
    assert group([file]) == [file]


def test_files_without_a_series_uid_are_never_joined(write):
    files = write([1, 2], [(0, 0, 0), (0, 0, 5)], SeriesInstanceUID=None)
    assert group(files) == files


def test_a_multi_frame_file_stays_alone(tmp_path, write_dicom, write):
    frames = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    (several,) = open_file(write_dicom(tmp_path / "m.dcm", frames, SeriesInstanceUID=UID), Limits())
    singles = write([1, 2], [(0, 0, 0), (0, 0, 5)])
    stack, alone = group([singles[0], several, singles[1]])
    assert alone is several and stack.frames == 2


def test_pictures_are_not_joined(tmp_path):
    import PIL.Image

    for name in "ab":
        PIL.Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(tmp_path / f"{name}.png")
    pictures = [s for name in "ab" for s in open_file(tmp_path / f"{name}.png", Limits())]
    assert group(pictures) == pictures


def test_the_window_of_the_file_is_used_for_its_slice(write):
    bright = write([100], [(0, 0, 0)], WindowCenter=50, WindowWidth=101)
    dark = write([100, 100], [(0, 0, 5), (0, 0, 10)])
    (stack,) = group([*bright, *dark])
    assert shown(stack) == [255, 100, 100]
    assert stack.frame(0, Window(100, 201)).pixels[1, 1] == pytest.approx(0.5 + 0.5 / 200)  # (100 - 99.5) / 200 + 0.5


# --- series of headers -------------------------------------------------------------------------------------------------


class Fake:
    """A file by its header; its frame is of one value, with an automatic window as wide as `width`."""

    frames, notes, warnings = 1, (), ()

    def __init__(self, z: float, name: str = "x", width: float | None = 10, fails: bool = False, **slot):
        own = dict(series="s", number=0, position=(0.0, 0.0, z), cosines=AXIAL, spacing_mm=(0.7, 0.7), rows=512, columns=512)
        self.files, self.slots = (name,), (Slot(**(own | slot)),)  # type: ignore[arg-type]
        self.affine = np.eye(4)
        self.affine[:3, 3] = self.slots[0].position or 0
        self.width, self.fails, self.decoded = width, fails, 0
        self.about = About(
            "CT, 512 x 512",
            "CT",
            facts=(("slice thickness", "5 mm"), ("spacing between slices", "7 mm")),
            withheld=(("names", 3), ("dates", 1)),
            burned_in=("It may be.",),
        )

    def frame(self, index: int, window: Window | None = None) -> Image:
        self.decoded += 1
        if self.fails:
            raise ImageError(f"The pixels of {self.files[0]!r} are damaged.")
        if self.width is None:
            return Image(np.zeros((2, 2), np.float32), notes=("Decoded.",))
        if window is None or np.isnan(window.center):
            window = Window(0, self.width, "LINEAR_EXACT", "automatic")
        return Image(np.zeros((2, 2), np.float32), notes=("Decoded.",), window=window)


def stack_at(*heights: float, **options) -> Series:
    (stack,) = group([Fake(z, **options) for z in heights])
    return stack


def test_missing_slices_are_counted_and_placed():
    stack = stack_at(*(2.5 * i for i in range(60) if i not in (41, 42)))
    assert stack.warnings == ("2 slices seem to be missing between slice 41 and 42.",)
    assert stack.notes == ()
    assert stack.frame(0).warnings == stack.warnings


def test_one_missing_slice_of_few_is_found():
    assert stack_at(0, 5, 15).warnings == ("1 slice seems to be missing between slice 2 and 3.",)
    assert stack_at(0, 10, 15).warnings == ("1 slice seems to be missing between slice 1 and 2.",)


def test_many_gaps_are_summed_up():
    heights = [h for i in range(6) for h in (100 * i, 100 * i + 10, 100 * i + 20, 100 * i + 30)]  # 70 mm gaps: 6 slices
    warnings = stack_at(*heights).warnings
    assert warnings[:3] == tuple(f"6 slices seem to be missing between slice {n} and {n + 1}." for n in (4, 8, 12))
    assert warnings[3:] == ("12 slices more seem to be missing at 2 other places.",)


def test_uneven_spacing_is_noted_and_rounding_is_not():
    assert stack_at(0, 5, 10, 16.5, 21.5).notes == ("The distance between slices is not even: 5 to 6.5 mm, mostly 5 mm.",)
    rounded = stack_at(*(round(i * 1.25 + random.Random(i).uniform(-0.004, 0.004), 3) for i in range(50)))
    assert rounded.notes == () and rounded.warnings == ()


def test_a_tilted_gantry_is_told_in_degrees():
    # tables move along z while planes lean by 20 degrees about the left-right axis: the normal is (0, -sin, cos)
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    cosines = (1, 0, 0, 0, float(c), float(s))
    stack = stack_at(0, 5, 10, cosines=cosines, tilt_deg=-20.0)
    assert stack.notes == (
        "The slices are sheared by 20.0 degrees against their normal, as a tilted gantry leaves them "
        "((0018,1120) Gantry/Detector Tilt is -20 degrees).",
    )
    assert stack.affine is not None
    assert (stack.affine @ [0, 0, 2, 1])[:3] == pytest.approx([0, 0, 10])  # the shear is in the affine
    assert dict(stack.about.facts)["spacing between slices"] == f"{5 * c:.4g} mm"
    assert stack_at(0, 5, 10, tilt_deg=12.5).notes == (
        "The gantry was tilted ((0018,1120) Gantry/Detector Tilt is 12.5 degrees); the slices stand straight above each other.",
    )


def test_orientations_that_differ_by_rounding_are_one():
    slices = [Fake(z, cosines=(1, 1e-5 * z, 0, 0, 1, 0)) for z in (0.0, 1.0, 2.0)]
    assert [s.frames for s in group(slices)] == [3]
    turned = [Fake(z, cosines=(1, 0, 0, 0, 1, 0.01 * z)) for z in (0.0, 1.0)]  # 0.6 degrees
    assert [s.frames for s in group(turned)] == [1, 1]


def test_positions_that_are_no_number_are_as_good_as_missing():
    (stack,) = group([Fake(float("nan"), number=2), Fake(0.0, number=1)])
    assert [s.number for s in stack.slots] == [1, 2] and "is missing" in stack.notes[0]
    (stack,) = group([Fake(0.0, number=2, cosines=(0,) * 6), Fake(1.0, number=1, cosines=(0,) * 6)])
    assert [s.number for s in stack.slots] == [1, 2] and stack.affine is None


def test_a_stack_says_what_it_is_and_counts_what_was_withheld():
    about = stack_at(*(float(z) for z in range(300))).about
    assert about.title == "CT, 300 slices of 512 x 512" and about.modality == "CT"
    assert about.facts == (
        ("slices", "300"),
        ("spacing between slices", "1 mm"),
        ("extent", "358.4 x 358.4 x 300 mm"),  # 512 times 0.7 mm
        ("slice thickness", "5 mm"),
    )
    assert about.withheld == (("names", 900), ("dates", 300))
    assert about.burned_in == ("It may be.",)


def test_without_windows_in_the_files_all_slices_are_shown_with_the_middle_ones():
    slices = [Fake(float(z), width=10 + z) for z in range(5)]
    (stack,) = group(slices)
    images = [stack.frame(i) for i in range(5)]
    assert {i.window for i in images} == {Window(0, 12, "LINEAR_EXACT", "automatic")}
    assert images[4].notes == (
        "Slice 5 of 5.",
        "Decoded.",
        "Shown with the automatic window of slice 3, as all slices of the series.",
    )
    assert [s.decoded for s in slices] == [1, 1, 2, 1, 1]  # the middle one once more, for its window
    assert stack.frame(0, AUTOMATIC).window == Window(0, 12, "LINEAR_EXACT", "automatic")
    assert stack.frame(0, Window(40, 400)).window == Window(40, 400)


def test_colour_slices_have_no_window_to_share():
    slices = [Fake(float(z), width=None) for z in range(3)]
    (stack,) = group(slices)
    assert stack.frame(0).window is None and stack.frame(0).notes == ("Slice 1 of 3.", "Decoded.")


def test_a_damaged_slice_fails_alone_even_where_it_is_the_middle_one():
    (stack,) = group([Fake(float(z), name=f"{z}.dcm", width=10 + z, fails=z == 1) for z in range(3)])
    with pytest.raises(ImageError, match=r"'1\.dcm' are damaged"):
        stack.frame(1)
    assert stack.frame(2).window == Window(0, 10, "LINEAR_EXACT", "automatic")  # of the nearest slice that can be decoded
    (lost,) = group([Fake(float(z), fails=True) for z in range(2)])
    with pytest.raises(ImageError, match="damaged"):
        lost.frame(0)


def test_a_window_for_all_is_looked_for_in_three_slices_and_no_more():
    slices = [Fake(float(z), width=10 + z, fails=z != 99) for z in range(100)]
    (stack,) = group(slices)
    with pytest.raises(ImageError, match="damaged"):
        stack.frame(0)
    assert sum(s.decoded for s in slices) == 4  # 50, 49, 51, and the slice that was asked for
    assert stack.frame(99).window == Window(0, 109, "LINEAR_EXACT", "automatic")  # its own
    assert "as all slices" not in " ".join(stack.frame(99).notes)


def test_there_is_no_slice_beyond_the_last():
    stack = stack_at(0, 1)
    assert isinstance(stack, Series)
    for index in (-1, 2):
        with pytest.raises(ImageError, match="There is no frame"):
            stack.frame(index)


def test_three_hundred_slices_are_grouped_in_a_moment_and_without_a_pixel():
    slices = [Fake(float(z), number=z) for z in range(300)]
    random.Random(1).shuffle(slices)
    start = time.perf_counter()
    (stack,) = group(slices)
    assert time.perf_counter() - start < 1
    assert [s.number for s in stack.slots] == list(range(300))
    assert not any(s.decoded for s in slices)


def test_thousands_of_orientations_are_divided_in_a_moment():
    slices = [Fake(0.0, cosines=(np.cos(a), np.sin(a), 0, 0, 0, -1)) for a in np.linspace(0, 6, 2000)]
    start = time.perf_counter()
    assert len(group(slices)) == 2000
    assert time.perf_counter() - start < 5


def test_nothing_of_a_series_is_grouped_twice():
    parts = group([Fake(0.0), Fake(5.0), Fake(0.0, series="t"), Fake(5.0, cosines=CORONAL)])
    assert sorted(len(p.files) for p in parts) == [1, 1, 2]
    assert group(parts)[0] is parts[0]  # a stack is a series like any other
    assert isinstance(parts[0], Stack) and group([]) == []


def test_the_order_of_a_stack_does_not_depend_on_the_order_of_its_files(write):
    files = write([1, 2, 3, 4], [(0, 0, 5), (0, 0, 0), (0, 0, 5), (0, 0, 10)], InstanceNumber=None)
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        (stack,) = group([files[i] for i in order])
        assert shown(stack) in ([2, 1, 3, 4], [2, 3, 1, 4])
        assert Path(stack.files[0]).name == "0001.dcm"
