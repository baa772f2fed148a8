"""DICOM through pydicom: one file is one Series, decoded frame by frame.

Order of work for grey images (PS3.3 C.11.1, C.11.2, C.7.6.3.1.2): decode; modality LUT or rescale; VOI LUT, window of
the user, of the file, or automatic; to [0, 1]; inverted once where stored as MONOCHROME1 or presented INVERSE.
Everything that was done or assumed is in the notes. Nothing that identifies a patient is kept: only the tags named in
this file are read into notes.

Bounded against crafted files: deflated data are measured before pydicom inflates them, frames are decoded one by one,
and header sizes are checked before memory is taken.
Left out (the issue on clinical reading brings them): grouping of files into volumes, a second decoder, ICC profiles,
overlays, pixel aspect ratio.
"""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from engine.errors import ImageError
from engine.readers._grey import apply_window, automatic_window
from engine.types import Image, Window

MAX_PIXELS = 100_000_000  # a frame
MAX_INFLATED = 512 * 1024 * 1024  # bytes of a deflated data set
GREY = ("MONOCHROME1", "MONOCHROME2")
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
        self._header = self._guard(self._read_header)
        header = self._header
        if "Rows" not in header or "Columns" not in header:
            kind = UID(str(header.get("SOPClassUID", ""))).name or "of unknown kind"
            raise ImageError(f"The DICOM file {path.name!r} holds no image ({kind}).", "Choose a file with pixel data.")
        rows, columns = int(header.Rows), int(header.Columns)
        samples = int(header.get("SamplesPerPixel", 1) or 1)
        if not rows or not columns or rows * columns * samples > MAX_PIXELS:
            raise ImageError(
                f"The DICOM file {path.name!r} claims {rows} x {columns} pixels with {samples} samples "
                "((0028,0010) Rows, (0028,0011) Columns).",
                f"At most {MAX_PIXELS // 1_000_000} million values a frame are read.",
            )
        self.frames = self._guard(lambda: max(1, int(header.get("NumberOfFrames", 1) or 1)))
        self.affine = self._guard(lambda: _affine(header))
        syntax = header.file_meta.get("TransferSyntaxUID", None)
        name = syntax.name if syntax else "no transfer syntax given, read as Implicit VR Little Endian"
        self.notes: tuple[str, ...] = (f"DICOM {header.get('Modality', '')}, {columns} x {rows} pixels, {name}.",)

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
        with self.path.open("rb") as stream:
            prefixed = stream.read(132)[128:] == b"DICM"
        if prefixed:
            meta = pydicom.filereader.read_file_meta_info(self.path)
            if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                self._measure_deflated(meta)
        header = pydicom.dcmread(self.path, stop_before_pixels=True, force=not prefixed)
        if not len(header):
            raise ImageError(f"The DICOM file {self.path.name!r} holds no data set.", "Export it again.")
        return header

    def _measure_deflated(self, meta: Dataset) -> None:
        """Refuses a deflated data set that would inflate beyond MAX_INFLATED (pydicom has no limit of its own)."""
        with self.path.open("rb") as stream:
            # the group's length counts from behind its own element, which takes 12 bytes (PS3.10 7.1)
            stream.seek(132 + 12 + int(meta.get("FileMetaInformationGroupLength", 0)))
            inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
            while chunk := stream.read(1 << 16):
                while chunk and not inflater.eof:
                    total += len(inflater.decompress(chunk, 1 << 20))
                    chunk = inflater.unconsumed_tail
                    if total > MAX_INFLATED:
                        raise ImageError(
                            f"The DICOM file {self.path.name!r} inflates to more than {MAX_INFLATED >> 20} MiB.",
                            "Export it uncompressed.",
                        )

    def frame(self, index: int, window: Window | None = None) -> Image:
        if not 0 <= index < self.frames:
            raise ImageError(f"There is no frame {index + 1}; {self.path.name!r} has {self.frames}.")
        return self._guard(lambda: self._frame(index, window))

    def _frame(self, index: int, window: Window | None) -> Image:
        header, notes = self._header, list(self.notes)
        if self.frames > 1:
            notes.append(f"Frame {index + 1} of {self.frames}.")
        decoded = Dataset()
        try:
            stored = pixel_array(self.path, index=index, ds_out=decoded)
        except Exception as error:
            raise ImageError(self._why_not(error), "Export it uncompressed (Explicit VR Little Endian).") from error
        photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
        used: Window | None = None
        if photometric == "PALETTE COLOR":
            coloured = apply_color_lut(stored, header)
            pixels = coloured.astype(np.float32) / (2 ** (8 * coloured.dtype.itemsize) - 1)
            notes.append("Colours looked up in the file's palette.")
        elif stored.ndim == 3:
            bits = int(header.get("BitsStored", 8))
            pixels = np.clip(stored.astype(np.float32) / (2**bits - 1), 0, 1)
            if photometric != "RGB":
                notes.append(f"Converted from {photometric} to RGB.")
        elif photometric in GREY:
            pixels, used = self._grey(stored, index, window, notes)
        else:
            raise ImageError(f"(0028,0004) Photometric Interpretation {photometric!r} cannot be read in {self.path.name!r}.")
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
        if window is None and lut is not None and "ModalityLUTSequence" not in header and "LUTData" in lut:
            looked = apply_voi(values.astype(stored.dtype) if float(values.min()).is_integer() else stored, header)
            pixels = looked.astype(np.float32) / (2 ** int(lut.LUTDescriptor[2]) - 1)
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
        if header.PhotometricInterpretation == "MONOCHROME1" or inverse:
            pixels = 1 - pixels
            how = "stored as MONOCHROME1" if not inverse else "(2050,0020) Presentation LUT Shape is INVERSE"
            notes.append(f"Inverted: {how}.")
        return pixels, used

    def _why_not(self, error: Exception) -> str:
        syntax = self._header.file_meta.get("TransferSyntaxUID", UID(""))
        if not any(k in self._header for k in ("PixelData", "FloatPixelData")) and "PixelData" in str(error):
            return f"The DICOM file {self.path.name!r} has no pixel data (7FE0,0010)."
        if str(syntax).startswith(VIDEO):
            return f"The DICOM file {self.path.name!r} holds a video ({syntax.name}), which cannot be decoded here."
        if isinstance(error, (NotImplementedError, RuntimeError)):  # pydicom: every plug-in refused
            return (
                f"No decoder here reads the pixels of {self.path.name!r} ({syntax.name}, "
                f"{self._header.get('BitsStored', '?')} bits): they are damaged, or of a kind that is not known."
            )
        return f"The pixels of {self.path.name!r} ({syntax.name}) are damaged or cut off ({type(error).__name__})."


# --- what the standard keeps in several places ------------------------------------------------------------------------


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
    if group is not None and "RescaleSlope" in group:
        slope, intercept = float(group.RescaleSlope), float(group.RescaleIntercept)
        notes.append(f"Rescaled with slope {slope:g} and intercept {intercept:g} (of the frame).")
        return stored * slope + intercept
    if "ModalityLUTSequence" in header or "RescaleSlope" in header:
        if "RescaleSlope" in header and "ModalityLUTSequence" not in header:
            notes.append(f"Rescaled with slope {header.RescaleSlope:g} and intercept {header.get('RescaleIntercept', 0):g}.")
        else:
            notes.append("Modality LUT of the file applied.")
        return apply_modality_lut(stored, header)
    return stored


def _file_window(header: Dataset, index: int) -> Window | None:
    """The first usable window of the file or frame. PS3.3 C.11.2, C.7.6.16.2.10."""
    for place in (_functional(header, index, "FrameVOILUTSequence"), header):
        if place is None:
            continue
        center, width = _first(place.get("WindowCenter")), _first(place.get("WindowWidth"))
        function = str(place.get("VOILUTFunction") or "LINEAR").upper()
        if center is not None and width is not None and width >= (1 if function == "LINEAR" else 1e-9):
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
        if found and len(found) == 2 and min(float(x) for x in found) > 0:
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
