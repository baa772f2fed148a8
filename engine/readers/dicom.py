"""DICOM through pydicom: one file is one Series, decoded frame by frame.

Order of work for grey images (PS3.3 C.11.1, C.11.2, C.7.6.3.1.2): decode; modality LUT or rescale; VOI LUT, window of
the user, of the file, or automatic; to [0, 1]; inverted once where stored as MONOCHROME1 or presented INVERSE.
Everything that was done or assumed is in the notes. Nothing that identifies a patient is kept: only the tags named in
this file are read into notes.

Bounded against crafted files: deflated data are inflated here within a limit, never by pydicom, which has none; frames
are decoded one by one, and header sizes are checked before memory is taken.
Left out (the issue on clinical reading brings them): grouping of files into volumes, a second decoder, ICC profiles,
overlays, pixel aspect ratio.
"""

from __future__ import annotations

import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from engine.errors import ImageError
from engine.readers._grey import apply_window, automatic_window
from engine.types import Image, Window

MAX_PIXELS = 40_000_000  # values a frame; rescaled to float64 they take 0.3 GB, and more than once
MAX_INFLATED = 256 * 1024 * 1024  # bytes of a deflated data set
GREY = ("MONOCHROME1", "MONOCHROME2")
# GDCM, pydicom's first choice, ends the whole process on some damaged data; what others decode as well goes to them.
PLUGINS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.51": "pillow",  # JPEG extended; neither takes 12 bits
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
}
VIDEO = ("1.2.840.10008.1.2.4.10",)  # prefix of the MPEG and HEVC transfer syntaxes


def sniff(head: bytes) -> bool:
    """The DICM prefix of PS3.10 7.1; or a data set that begins without one, as old files do."""
    if head[128:132] == b"DICM":
        return True
    group, element, vr = head[:2], head[2:4], head[4:6]
    begins = group in (b"\x02\x00", b"\x08\x00") and element < b"\x20\x00"
    return begins and len(head) >= 8 and ((vr.isalpha() and vr.isupper()) or head[6:8] == b"\x00\x00")


def read(path: Path) -> list[DicomSeries]:
    return [DicomSeries(path)]


class DicomSeries:
    """One DICOM file as a Series."""

    def __init__(self, path: Path):
        self.path, self.files = path, (path.name,)
        self._guard(self._begin)

    def _begin(self) -> None:
        path, header = self.path, self._read_header()
        if "Rows" not in header or "Columns" not in header:
            kind = _known(header.get("SOPClassUID")) or "of unknown kind"
            raise ImageError(f"The DICOM file {path.name!r} holds no image ({kind}).", "Choose a file with pixel data.")
        rows, columns = int(header.Rows), int(header.Columns)
        samples = int(header.get("SamplesPerPixel", 1) or 1)
        if not rows or not columns or rows * columns * samples > MAX_PIXELS:
            raise ImageError(
                f"The DICOM file {path.name!r} claims {rows} x {columns} pixels with {samples} samples "
                "((0028,0010) Rows, (0028,0011) Columns).",
                f"At most {MAX_PIXELS // 1_000_000} million values a frame are read.",
            )
        self._header = header
        self.frames = max(1, int(header.get("NumberOfFrames", 1) or 1))
        self.affine = _affine(header)
        self.notes: tuple[str, ...] = (f"DICOM {header.get('Modality', '')}, {columns} x {rows} pixels, {self._syntax}.",)

    def _guard(self, work: Any) -> Any:
        """pydicom raises anything on damaged files, and quotes values in warnings: one sentence instead."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return work()
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(
                f"The DICOM file {self.path.name!r} is damaged or not valid ({type(error).__name__}).", "Export it again."
            ) from error

    def _read_header(self) -> Dataset:
        source, meta = self._source()
        header = pydicom.dcmread(source, stop_before_pixels=True, force=True)
        if not len(header):
            raise ImageError(f"The DICOM file {self.path.name!r} holds no data set.", "Export it again.")
        syntax = meta.get("TransferSyntaxUID")
        if not syntax:
            self._syntax = f"no transfer syntax given, read as {_encoding(header).name}"
        else:
            self._syntax = _known(syntax) or "an unknown transfer syntax"
        return header

    def _source(self) -> tuple[Path | BytesIO, Dataset]:
        """What pydicom may read, and the file's meta group: the file itself, or a deflated one inflated here."""
        with self.path.open("rb") as stream:
            read_preamble(stream, force=True)
            meta = _read_file_meta_info(stream)  # leaves the stream where the data set begins
            if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
                return self.path, meta
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            data = inflater.decompress(stream.read(), MAX_INFLATED)
        if not inflater.eof:
            if inflater.unconsumed_tail:
                raise ImageError(
                    f"The DICOM file {self.path.name!r} inflates to more than {MAX_INFLATED >> 20} MiB.",
                    "Export it uncompressed.",
                )
            raise ImageError(f"The DICOM file {self.path.name!r} is cut off.", "Export it again.")
        inflated = BytesIO(bytes(128) + b"DICM")
        inflated.seek(0, 2)
        plain = FileMetaDataset()
        plain.TransferSyntaxUID = ExplicitVRLittleEndian
        write_file_meta_info(inflated, plain, enforce_standard=False)
        inflated.write(data)
        inflated.seek(0)
        return inflated, meta

    def _stored(self, index: int) -> np.ndarray:
        """Frame `index` as decoded. pydicom takes one frame from a file that says how it is encoded; others are read whole."""
        source, meta = self._source()
        if meta.get("TransferSyntaxUID"):
            return pixel_array(source, index=index, decoding_plugin=PLUGINS.get(str(meta.TransferSyntaxUID), ""))
        whole = pydicom.dcmread(source, force=True)
        whole.file_meta.TransferSyntaxUID = _encoding(whole)
        return pixel_array(whole, index=index)

    def frame(self, index: int, window: Window | None = None) -> Image:
        if not 0 <= index < self.frames:
            raise ImageError(f"There is no frame {index + 1}; {self.path.name!r} has {self.frames}.")
        return self._guard(lambda: self._frame(index, window))

    def _frame(self, index: int, window: Window | None) -> Image:
        header, notes = self._header, list(self.notes)
        if self.frames > 1:
            notes.append(f"Frame {index + 1} of {self.frames}.")
        try:
            stored = self._stored(index)
        except (ImageError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # pylibjpeg's RLE decoder, in Rust, panics outside of Exception
            raise ImageError(self._why_not(error), "Export it uncompressed (Explicit VR Little Endian).") from error
        photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
        used: Window | None = None
        if photometric == "PALETTE COLOR":
            coloured = apply_color_lut(stored, header)[..., :3]  # a palette may bring alpha
            pixels = coloured.astype(np.float32) / (2 ** (8 * coloured.dtype.itemsize) - 1)
            notes.append("Colours looked up in the file's palette.")
        elif stored.ndim == 3:
            bits = int(header.get("BitsStored") or 8)
            pixels = np.clip(stored.astype(np.float32) / (2**bits - 1), 0, 1)
            if photometric != "RGB":
                notes.append(f"Converted from {photometric} to RGB.")
        elif photometric in GREY:
            pixels, used = self._grey(stored, index, window, notes)
        else:
            raise ImageError(
                f"(0028,0004) Photometric Interpretation {photometric[:32]!r} cannot be read in {self.path.name!r}."
            )
        flat = "All pixels have the same value: the file may be damaged."
        return Image(
            pixels=np.ascontiguousarray(pixels, dtype=np.float32),
            spacing_mm=_spacing(header, index),
            notes=tuple(notes),
            warnings=(flat,) if np.ptp(pixels) == 0 else (),
            window=used,
            modality=str(header.get("Modality", "")),
        )

    def _grey(
        self, stored: np.ndarray, index: int, window: Window | None, notes: list[str]
    ) -> tuple[np.ndarray, Window | None]:
        header = self._header
        values = _rescaled(stored, header, index, notes)
        in_file = _file_window(header, index)
        lut = next(iter(header.get("VOILUTSequence", None) or []), None)
        used = window or in_file
        if window is None and lut is not None and "LUTData" in lut:
            pixels = np.clip(_looked_up(values, lut, header) / (2 ** int(lut.LUTDescriptor[2]) - 1), 0, 1)
            used = None
            notes.append("VOI LUT of the file applied.")
        else:
            if used is None:
                used = automatic_window(values, _padded(stored, header))
                notes.append(
                    f"The file has no window: values shown from {used.center - used.width / 2:.4g} "
                    f"to {used.center + used.width / 2:.4g} (0.5 to 99.5 percentile of unpadded pixels)."
                )
            else:
                unit = " HU" if header.get("Modality") == "CT" else ""
                notes.append(f"Window centre {used.center:g}{unit}, width {used.width:g}{unit} ({used.source}).")
            pixels = apply_window(values, used)
        inverse = header.get("PresentationLUTShape", "") == "INVERSE"
        if header.get("PhotometricInterpretation") == "MONOCHROME1" or inverse:
            pixels = 1 - pixels
            how = "stored as MONOCHROME1" if not inverse else "(2050,0020) Presentation LUT Shape is INVERSE"
            notes.append(f"Inverted: {how}.")
        return pixels, used

    def _why_not(self, error: BaseException) -> str:
        name, syntax = self.path.name, str(self._header.file_meta.get("TransferSyntaxUID", ""))
        if "no pixel data" in str(error) or "no 'Pixel Data'" in str(error):
            return f"The DICOM file {name!r} has no pixel data (7FE0,0010)."
        if syntax.startswith(VIDEO):
            return f"The DICOM file {name!r} holds a video ({self._syntax}), which cannot be decoded here."
        reason = str(error).partition("\n")[0].rstrip(".")
        if isinstance(error, (ValueError, AttributeError)) and "(0028," in reason and len(reason) < 250:
            return f"The pixels of {name!r} cannot be decoded: {reason}."  # pydicom names the tag, its value and its range
        if isinstance(error, (NotImplementedError, RuntimeError)) or "transfer syntax" in reason:  # every plug-in refused
            return (
                f"No decoder here reads the pixels of {name!r} ({self._syntax}, "
                f"{self._header.get('BitsStored', '?')} bits): they are damaged, or of a kind that is not known."
            )
        return f"The pixels of {name!r} ({self._syntax}) are damaged or cut off ({type(error).__name__})."


# --- what the standard keeps in several places ------------------------------------------------------------------------


def _known(uid: Any) -> str:
    """The name of a UID that the standard knows, else nothing: a file may hold anything there."""
    uid = UID(str(uid or ""))
    return "" if uid.name == uid else str(uid.name)


def _functional(header: Dataset, index: int, keyword: str) -> Dataset | None:
    """An item of a functional group: the frame's own, else the shared one (PS3.3 C.7.6.16)."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for group in (*per_frame[index : index + 1], *shared[:1]):
        for item in group.get(keyword) or []:
            return item
    return None


def _rescaled(stored: np.ndarray, header: Dataset, index: int, notes: list[str]) -> np.ndarray:
    """Stored values through the modality LUT or the rescale of the file or frame. PS3.3 C.11.1."""
    group = _functional(header, index, "PixelValueTransformationSequence")
    lut = next(iter(header.get("ModalityLUTSequence") or []), None)
    if group is None and lut is not None and "LUTData" in lut:
        notes.append("Modality LUT of the file applied.")
        return _looked_up(stored, lut, header)
    place, whose = (header, "") if group is None else (group, " (of the frame)")
    slope, intercept = _first(place.get("RescaleSlope")), _first(place.get("RescaleIntercept"))
    if slope is None and intercept is None:
        return stored
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    notes.append(f"Rescaled with slope {slope:g} and intercept {intercept:g}{whose}.")
    return stored * slope + intercept


def _looked_up(values: np.ndarray, item: Dataset, header: Dataset) -> np.ndarray:
    """Values through a LUT, those outside to its first or last entry. PS3.3 C.11.1.1 and C.11.2.1.1."""
    first = int(item.LUTDescriptor[1])
    data = item.LUTData
    if isinstance(data, bytes):  # OW
        data = np.frombuffer(data, "<u2" if header.original_encoding[1] else ">u2")
    entries = np.asarray(data, dtype=np.float64)
    if header.get("PixelRepresentation") and first >= 2**15 and entries.size + first > 2**16:
        first -= 2**16  # a negative first value, read as unsigned
    at = np.clip(np.rint(values.astype(np.float64)) - first, 0, entries.size - 1)
    return entries[at.astype(np.intp)]


def _encoding(header: Dataset) -> UID:
    """The transfer syntax that fits what was read, where the file gives none."""
    implicit, little = header.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _file_window(header: Dataset, index: int) -> Window | None:
    """The first usable window of the file or frame. PS3.3 C.11.2, C.7.6.16.2.10."""
    for place in (_functional(header, index, "FrameVOILUTSequence"), header):
        if place is None:
            continue
        center, width = _first(place.get("WindowCenter")), _first(place.get("WindowWidth"))
        function = str(place.get("VOILUTFunction") or "LINEAR").upper()
        if center is None or width is None or not np.isfinite([center, width]).all():
            continue
        if width >= (1 if function == "LINEAR" else 1e-9):
            return Window(center, width, function, "file")
    return None


def _first(value: Any) -> float | None:
    values = list(value) if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
    return float(values[0]) if values and values[0] not in (None, "") else None


def _padded(stored: np.ndarray, header: Dataset) -> np.ndarray | None:
    """Where (0028,0120) Pixel Padding Value (to its Range Limit) stands. PS3.3 C.7.5.1.1.2."""
    low = header.get("PixelPaddingValue")
    if low is None or isinstance(low, bytes):
        return None
    high = header.get("PixelPaddingRangeLimit", low)
    return (stored >= min(low, high)) & (stored <= max(low, high))


def _spacing(header: Dataset, index: int) -> tuple[float, float] | None:
    measures = _functional(header, index, "PixelMeasuresSequence")
    for place in (measures, header):
        found = place.get("PixelSpacing") if place is not None else None
        if isinstance(found, (list, pydicom.multival.MultiValue)) and len(found) == 2 and min(float(x) for x in found) > 0:
            return float(found[0]), float(found[1])
    return None


def _affine(header: Dataset) -> np.ndarray | None:
    """Index (column, row, slice, 1) to patient LPS mm for a single frame. PS3.3 C.7.6.2.1.1."""
    position, cosines = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    spacing = _spacing(header, 0)
    if not position or not cosines or spacing is None or len(position) != 3 or len(cosines) != 6:
        return None
    along_row, along_column = np.asarray(cosines[:3], float), np.asarray(cosines[3:], float)
    affine = np.eye(4)
    affine[:3, 0] = along_row * spacing[1]
    affine[:3, 1] = along_column * spacing[0]
    affine[:3, 2] = np.cross(along_row, along_column) * float(header.get("SliceThickness") or 1.0)
    affine[:3, 3] = np.asarray(position, float)
    return affine
