"""What a DICOM header says of pixels, windows and geometry, wherever the standard keeps it.

Only the elements named here are read. Numbers are checked, words are told only where they are in a list (engine.readers._about).
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import STANDARD_VR

from engine.errors import ImageError
from engine.readers._decoders import Layout
from engine.types import Slot, Window

GREY = ("MONOCHROME1", "MONOCHROME2")
YBR = ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422")
COLOUR = ("RGB", *YBR, "YBR_ICT", "YBR_RCT")
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")  # PS3.3 C.11.2.1.3
MOST = 16  # values of an element of words or windows that are looked at; scanners write a handful
VRS = {str(vr).encode() for vr in STANDARD_VR}


def encoding_of(head: bytes) -> UID | None:
    """The encoding of a data set by its first element, or None where it does not tell. PS3.5 7.1."""
    if len(head) < 8:
        return None
    little, big = struct.unpack_from("<H", head)[0], struct.unpack_from(">H", head)[0]
    if head[4:6] in VRS and min(little, big) <= 0x0040:
        return ExplicitVRLittleEndian if little <= big else ExplicitVRBigEndian
    length = struct.unpack_from("<I", head, 4)[0]
    return ImplicitVRLittleEndian if little == 8 and length < 1 << 16 else None


def strings(place: Dataset, keyword: str) -> list[str]:
    """The first values of a text element as they are, or none."""
    return [str(each).strip() for each in values_of(place, keyword)[:MOST]]


def word(place: Dataset, keyword: str, known: Container[str]) -> str:
    """The value of a code string if it is one of `known`, else "": any other may be a name."""
    value = "".join(strings(place, keyword)[:1])
    return value if value in known else ""


def values_of(place: Dataset, keyword: str) -> list[Any]:
    """The values of an element; none where it is absent, empty or not valid: what is only shown must not stop the reading."""
    try:
        value = place.get(keyword)
    except (ValueError, TypeError, OverflowError, NotImplementedError):
        return []
    return list(value) if isinstance(value, (list, MultiValue)) else [] if value is None else [value]


def numbers(place: Dataset, keyword: str) -> tuple[float, ...]:
    """The values of an element, NaN for each that is no number."""
    return tuple(float(each) if isinstance(each, (int, float)) else np.nan for each in values_of(place, keyword))


def number(place: Dataset, keyword: str) -> float | None:
    """The first value, or None where it is absent or no finite number."""
    found = numbers(place, keyword)
    return found[0] if found and np.isfinite(found[0]) else None


def is_said(place: Dataset, keyword: str) -> bool:
    """Whether an element has a value at all, valid or not."""
    return keyword in place and bool(place.get_item(keyword).value)


def needed(place: Dataset, keyword: str) -> float | None:
    """The first value, or None where it is absent or empty. Raises ImageError for what is no number: pixels depend on it."""
    found = number(place, keyword)
    if found is None and is_said(place, keyword):
        raise ImageError(f"{named(keyword)} is no finite number: values cannot be told.", "Export the file again.")
    return found


def named(keyword: str) -> str:
    """An element of the standard as sentences name it: "(0028,0010) Rows"."""
    tag = tag_for_keyword(keyword) or 0
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {dictionary_description(tag)}"


def some(place: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers, or None."""
    found = numbers(place, keyword)
    return found if len(found) == count and bool(np.isfinite(found).all()) else None


def functional(header: Dataset, index: int, keyword: str) -> Dataset | None:
    """An item of a functional group: the frame's own, else the shared one (PS3.3 C.7.6.16)."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for group in (*per_frame[index : index + 1], *shared[:1]):
        for item in group.get(keyword) or []:
            return item
    return None


def _is_code(text: str, identifying: frozenset[str]) -> bool:
    """Whether a value may be told in an error: letters of a code string, PS3.5 6.2, and nobody's name."""
    return bool(re.fullmatch(r"[A-Z0-9_ ]+", text[:32])) and not identifies(text, identifying)


# --- pixels -----------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where the pixels are: which element, its value's offset, length and VR, and the byte order."""

    keyword: str
    start: int
    length: int
    vr: str
    big: bool


def layout_of(header: Dataset, place: Place | None, name: str, identifying: frozenset[str]) -> tuple[Layout, list[str]]:
    """What the header says of the pixels, and what had to be assumed. PS3.3 C.7.6.3."""
    if place is None:
        raise ImageError(
            f"The DICOM file {name!r} has no pixel data: (7FE0,0010) Pixel Data is missing.", "Choose a file with an image."
        )
    notes: list[str] = []

    def given(keyword: str, tag: str, default: int | None = None, what: str = "") -> int:
        value = number(header, keyword)
        if value is not None:
            return int(value)
        if default is None:
            raise ImageError(f"{tag} is missing in {name!r}, so that its pixels cannot be read.", "Export it again.")
        notes.append(f"{tag} is missing: read as {what or default}.")
        return default

    samples = given("SamplesPerPixel", "(0028,0002) Samples per Pixel", 1)
    photometric = str(header.get("PhotometricInterpretation") or "").strip()
    if not photometric:
        photometric = "RGB" if samples == 3 else "MONOCHROME2"
        notes.append(f"(0028,0004) Photometric Interpretation is missing: read as {photometric}.")
    allocated = given("BitsAllocated", "(0028,0100) Bits Allocated")
    if place.keyword != "PixelData":
        stored, signed = allocated, True
        if allocated != (32 if place.keyword == "FloatPixelData" else 64):
            raise ImageError(f"(0028,0100) Bits Allocated '{allocated}' does not fit the floating point pixels of {name!r}.")
    else:
        stored = given("BitsStored", "(0028,0101) Bits Stored", allocated)
        representation = given("PixelRepresentation", "(0028,0103) Pixel Representation", 0, "unsigned")
        if representation not in (0, 1):
            raise ImageError(f"(0028,0103) Pixel Representation '{representation}' of {name!r} is neither 0 nor 1.")
        signed = representation == 1
    if number(header, "NumberOfFrames") is None and is_said(header, "NumberOfFrames"):
        notes.append("(0028,0008) Number of Frames is no number: read as 1.")
    planar = given("PlanarConfiguration", "(0028,0006) Planar Configuration", 0) if samples > 1 else 0
    wrong = (
        f"(0028,0100) Bits Allocated '{allocated}' is none of 1, 8, 16, 32 and 64"
        if allocated not in (1, 8, 16, 32, 64)
        else f"(0028,0101) Bits Stored '{stored}' is not from 1 to {allocated}"
        if not 1 <= stored <= allocated
        else f"(0028,0002) Samples per Pixel '{samples}' is neither 1 nor 3"
        if samples not in (1, 3)
        else f"(0028,0006) Planar Configuration '{planar}' is neither 0 nor 1"
        if planar not in (0, 1)
        else ""
    )
    if wrong:
        raise ImageError(f"The pixels of {name!r} cannot be read: {wrong}.", "Export it again.")
    grey_or_palette = (*GREY, "PALETTE COLOR")
    if samples == 3 and photometric in grey_or_palette:
        notes.append(f"(0028,0004) says {photometric}, (0028,0002) three samples: read as RGB.")
        photometric = "RGB"
    if photometric not in (COLOUR if samples == 3 else grey_or_palette):
        word = repr(photometric[:32]) if _is_code(photometric, identifying) else "of unknown letters"
        raise ImageError(
            f"(0028,0004) Photometric Interpretation {word} with {samples} sample{'s' * (samples > 1)} a pixel cannot be read "
            f"in the DICOM file {name!r}.",
            "Export it as MONOCHROME2 or RGB.",
        )
    high = number(header, "HighBit")
    made = Layout(
        rows=int(number(header, "Rows") or 0),
        columns=int(number(header, "Columns") or 0),
        samples=samples,
        photometric=photometric,
        allocated=allocated,
        stored=stored,
        high=stored - 1 if high is None else int(high),
        signed=signed,
        planar=planar,
        frames=max(1, int(number(header, "NumberOfFrames") or 1)),
        keyword=place.keyword,
        word=place.vr != "OB",
        big=place.big,
    )
    if place.keyword == "PixelData" and made.high != stored - 1:
        notes.append(f"(0028,0102) High Bit is {made.high}, not {stored - 1}: values are taken from the bits below it.")
    return made, notes


# --- windows -----------------------------------------------------------------------------------------------------------


def file_windows(header: Dataset, index: int, identifying: frozenset[str]) -> tuple[Window, ...]:
    """The usable ones of the first windows of the file or frame, in their order. PS3.3 C.11.2, C.7.6.16.2.10."""
    for place in (functional(header, index, "FrameVOILUTSequence"), header):
        if place is None:
            continue
        function = "".join(strings(place, "VOILUTFunction")[:1]).upper() or "LINEAR"
        if function not in FUNCTIONS:
            continue
        names = strings(place, "WindowCenterWidthExplanation")
        found = []
        centers, widths = numbers(place, "WindowCenter")[:MOST], numbers(place, "WindowWidth")[:MOST]
        for i, (center, width) in enumerate(zip(centers, widths, strict=False)):
            if np.isfinite([center, width]).all() and width >= (1 if function == "LINEAR" else 1e-9):
                found.append(Window(center, width, function, "file", _harmless("".join(names[i : i + 1]), identifying)))
        if found:
            return tuple(found)
    return ()


def _harmless(words: str, identifying: frozenset[str]) -> str:
    """A window's explanation as a name: letters, digits and spaces, short, no long number, no word that identifies somebody."""
    name = " ".join(re.sub(r"[^A-Za-z0-9 ]", " ", words).split())
    told = identifies(name, identifying)
    return "" if told or len(name) > 24 or re.search(r"\d{5}", name) else name


def identifies(words: str, identifying: frozenset[str]) -> bool:
    """Whether a word of the file's names and places is in it, or is one of its words."""
    lower = words.casefold()
    return bool(set(lower.split()) & identifying) or any(word in lower for word in identifying if len(word) > 3)


# --- geometry ----------------------------------------------------------------------------------------------------------


def spacing_of(header: Dataset, index: int) -> tuple[tuple[float, float] | None, str]:
    """(row, column) in mm, and a note where it is not the patient's. PS3.3 10.7, C.8.11.4."""
    for place in (functional(header, index, "PixelMeasuresSequence"), header):
        found = some(place, "PixelSpacing", 2) if place is not None else None
        if found and min(found) > 0:
            return (found[0], found[1]), ""
    found = some(header, "ImagerPixelSpacing", 2)
    if found and min(found) > 0:
        magnified = number(header, "EstimatedRadiographicMagnificationFactor") or 1.0
        if not 0.1 < magnified < 100:
            magnified = 1.0
        how = f", divided by a magnification of {magnified:g} (0018,1114)" if magnified != 1 else ""
        return (found[0] / magnified, found[1] / magnified), f"Pixel spacing is the detector's (0018,1164){how}."
    found = some(header, "NominalScannedPixelSpacing", 2)
    if found and min(found) > 0:
        return (found[0], found[1]), "Pixel spacing is the film scanner's (0018,2010)."
    return None, ""


def aspect_of(header: Dataset) -> tuple[float, float] | None:
    """(0028,0034) Pixel Aspect Ratio: height and width of a pixel, in no unit. PS3.3 C.7.6.3.1.7."""
    found = some(header, "PixelAspectRatio", 2)
    return (found[0], found[1]) if found and min(found) > 0 else None


def cosines_of(header: Dataset, index: int) -> tuple[float, ...] | None:
    """(0020,0037) Image Orientation (Patient) of a frame: two unit vectors, or None."""
    for place in (functional(header, index, "PlaneOrientationSequence"), header):
        found = some(place, "ImageOrientationPatient", 6) if place is not None else None
        if found:
            row, column = np.asarray(found[:3]), np.asarray(found[3:])
            right = abs(np.linalg.norm(row) - 1) < 0.05 and abs(np.linalg.norm(column) - 1) < 0.05
            return found if right and abs(row @ column) < 0.05 else None
    return None


def position_of(header: Dataset, index: int) -> tuple[float, ...] | None:
    for place in (functional(header, index, "PlanePositionSequence"), header):
        found = some(place, "ImagePositionPatient", 3) if place is not None else None
        if found:
            return found
    return None


ENDS = (("L", "R"), ("P", "A"), ("H", "F"))  # what lies at the positive and negative end of x, y and z: LPS
OPPOSITE = {a: b for pair in ENDS for a, b in (pair, pair[::-1])}
QUADRUPED = "QUADRUPED"  # (0010,2210) of an animal, whose sides have other names
OBLIQUE = 0.26  # sine of 15 degrees: a direction that leans less towards an axis is not named for it


def _direction(vector: np.ndarray) -> str:
    """One or two letters for where a direction leads, the strongest first. PS3.3 C.7.6.1.1.1, C.7.6.2.1.1."""
    strongest = sorted(range(3), key=lambda i: -abs(vector[i]))[:2]
    return "".join(ENDS[i][int(vector[i] < 0)] for i in strongest if abs(vector[i]) >= OBLIQUE)


def marks_of(header: Dataset, index: int) -> tuple[str, str, str, str] | None:
    """What lies left, top, right and bottom of a frame; None where unknown, or where the patient is an animal."""
    if word(header, "AnatomicalOrientationType", (QUADRUPED,)):
        return None
    cosines = cosines_of(header, index)
    if cosines:
        right, bottom = (np.asarray(part) for part in (cosines[:3], cosines[3:]))
        return _direction(-right), _direction(-bottom), _direction(right), _direction(bottom)
    along = strings(header, "PatientOrientation")
    if len(along) != 2 or not all(re.fullmatch("[LRPAHF]{1,3}", each) for each in along):
        return None
    right_of, below = along[0][:2], along[1][:2]
    left_of, above = ("".join(OPPOSITE[letter] for letter in each) for each in (right_of, below))
    return left_of, above, right_of, below


def orientation(cosines: tuple[float, ...]) -> str:
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    name = ("sagittal", "coronal", "axial")[int(np.argmax(normal))]
    return name if normal.max() > 0.9 else f"oblique, nearest to {name}"


def slot_of(header: Dataset, rows: int, columns: int) -> Slot:
    """Where the file stands among others. PS3.3 C.7.6.2, C.7.3.1."""
    position, cosines = position_of(header, 0), cosines_of(header, 0)
    uid = str(header.get("SeriesInstanceUID") or "")
    telling = ("AcquisitionNumber", "EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue", "TriggerTime")
    return Slot(
        series=hashlib.sha256(uid.encode()).hexdigest()[:16] if uid else "",
        number=int(number(header, "InstanceNumber") or 0),
        position=position,  # type: ignore[arg-type]
        cosines=cosines,  # type: ignore[arg-type]
        spacing_mm=spacing_of(header, 0)[0],
        rows=rows,
        columns=columns,
        localizer="LOCALIZER" in strings(header, "ImageType"),
        tilt_deg=number(header, "GantryDetectorTilt") or 0.0,
        group=" ".join(f"{found:g}" if (found := number(header, keyword)) is not None else "-" for keyword in telling),
    )


def affine_of(header: Dataset, frames: int) -> np.ndarray | None:
    """Index (column, row, frame, 1) to patient LPS mm; None where frames are not evenly stacked. PS3.3 C.7.6.2.1.1."""
    position, cosines, spacing = position_of(header, 0), cosines_of(header, 0), spacing_of(header, 0)[0]
    if position is None or cosines is None or spacing is None:
        return None
    along_row, along_column = np.asarray(cosines[:3], float), np.asarray(cosines[3:], float)
    step = np.cross(along_row, along_column) * (number(header, "SliceThickness") or 1.0)
    if frames > 1:
        places = [position_of(header, i) for i in range(frames)]
        if None in places or any(cosines_of(header, i) != cosines for i in range(frames)):
            return None
        stack = np.asarray(places, float)
        step = (stack[-1] - stack[0]) / (frames - 1)
        if not step.any() or not np.allclose(stack, stack[0] + np.arange(frames)[:, None] * step, atol=0.1):  # mm
            return None
    affine = np.eye(4)
    affine[:3, 0] = along_row * spacing[1]
    affine[:3, 1] = along_column * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = np.asarray(position, float)
    return affine
