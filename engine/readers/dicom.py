"""DICOM through pydicom: one file is one Series, its header read once, decoded frame by frame.

Order of work for grey images (PS3.3 C.11.1, C.11.2, C.7.6.3.1.2): decode (engine.readers._decoders); modality LUT or
rescale; VOI LUT, window of the user, of the file, or automatic; to [0, 1]; inverted once where stored as MONOCHROME1 or
presented INVERSE; resampled to square pixels. Colour images: palette or YBR to RGB; ICC profile to sRGB; square pixels.
Everything that was done or assumed is in the notes. Nothing that identifies a patient is told: only the elements named here
and in engine.readers._header are read, and words among them only where they are in a list of engine.readers._about.

Bounded against crafted files: deflated data are inflated here within a limit, never by pydicom, which has none; sizes,
elements and nesting are checked before memory is taken; a directory (DICOMDIR) is refused, never followed.
Assumed: where the meta header contradicts the bytes, the bytes are right (with a note).
Left out: overlays (noted), Presentation LUT Sequence, Real World Value Mapping, supplemental palettes, the calibration of
ultrasound regions, video. Text is never decoded by Specific Character Set: none is shown.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageCms
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_dataset, read_preamble
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from engine.errors import ImageError
from engine.limits import MEGA, Limits
from engine.readers._about import BODY_PARTS, ELEMENTS, MODALITIES, burned_in, facts_of, withheld
from engine.readers._decoders import (
    ITEM,
    ROADS,
    Decoded,
    Layout,
    Span,
    UndecodableError,
    decode,
    decode_native,
    joined,
    known,
    spans_of_frames,
)
from engine.readers._grey import affine_after, apply_window, automatic_window, is_automatic, square, stretched_to
from engine.readers._header import (
    VRS,
    YBR,
    Place,
    affine_of,
    aspect_of,
    encoding_of,
    file_windows,
    functional,
    layout_of,
    marks_of,
    named,
    needed,
    slot_of,
    spacing_of,
    word,
)
from engine.types import About, Image, Window

T = TypeVar("T")
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT")  # explicit VRs whose length has 4 bytes
UNDEFINED = 0xFFFFFFFF
DIRECTORY = "1.2.840.10008.1.3.10"
GE = "1.2.840.113619.5.2"  # private: implicit little endian, but its pixels are big endian
VIDEO = "1.2.840.10008.1.2.4.10"  # prefix of the MPEG and HEVC transfer syntaxes


def sniff(head: bytes) -> bool:
    """The DICM prefix of PS3.10 7.1; or a data set that begins without one, as old files do."""
    if head[128:132] == b"DICM":
        return True
    group, element, vr = head[:2], head[2:4], head[4:6]
    begins = group in (b"\x02\x00", b"\x08\x00") and element < b"\x20\x00"
    if head[:2] == b"\x00\x08" and vr in VRS:  # big endian
        return True
    return begins and len(head) >= 8 and ((vr.isalpha() and vr.isupper()) or head[6:8] == b"\x00\x00")


def read(path: Path, limits: Limits) -> list[DicomSeries]:
    return [DicomSeries(path, limits)]


class _Bounded(io.BufferedReader):
    """A file that is asked for no more bytes than it holds: a crafted length would take that much memory first."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self.size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(-1 if size is None or size < 0 else min(size, self.size))


class DicomSeries:
    """One DICOM file as a Series. Raises ImageError, whatever the file holds."""

    def __init__(self, path: Path, limits: Limits):
        self.path, self.limits, self.files = path, limits, (path.name,)
        self._inflated: bytes | None = None
        self._guard(self._begin)

    # --- the header, once

    def _begin(self) -> None:
        name, notes, told = self.path.name, list[str](), list[str]()
        with self._stream() as raw:
            stream, meta, implicit, little = self._data_set(raw, notes)
            self.syntax = str(meta.get("TransferSyntaxUID") or "")
            header, place = self._read_header(stream, implicit, little)
            header.file_meta = meta
            self._header = header
            self._check(header)
            counts, self._identifying = withheld(header, self.limits.nesting, name)
            self.layout, assumed = layout_of(header, place, name, self._identifying)
            self._check_size()
            self._locate(stream, place, notes, told)
        rows, columns = self.layout.rows, self.layout.columns
        self._modality = word(header, "Modality", MODALITIES)
        tags = header.keys()  # a data set itself gives elements, each converted
        overlays = len({tag.group for tag in tags if tag.group & 0xFF00 == 0x6000 and tag.element in (0x0102, 0x3000)})
        if overlays:
            notes.append(f"{overlays} overlay{'s are' if overlays > 1 else ' is'} not shown ((60xx,3000) Overlay Data).")
        if not header.file_meta:
            notes.append("The file has no meta header (group 0002).")
        shown = self._shown(spacing) if (spacing := spacing_of(header, 0)[0]) else None
        self.affine = affine_after(affine_of(header, self.frames), (rows, columns), shown or (rows, columns))
        self.slots = (slot_of(header, rows, columns),)
        self.warnings: tuple[str, ...] = tuple(told)
        title = f"{self._modality or 'DICOM'}, {columns} x {rows}" + (f", {self.frames} frames" if self.frames > 1 else "")
        self.about = About(
            title=title,
            modality=self._modality,
            body_part=word(header, "BodyPartExamined", BODY_PARTS).lower(),
            facts=facts_of(header, self.layout, self.frames, self.syntax),
            withheld=counts,
            windows=file_windows(header, self.frames // 2, self._identifying),
            deep=self.layout.colours == 1,
            hounsfield=self._modality == "CT",
            burned_in=burned_in(header, self._modality),
        )
        first = f"DICOM {self._modality}, {columns} x {rows} pixels, {self._syntax}.".replace("DICOM ,", "DICOM,")
        self.notes: tuple[str, ...] = (first, *assumed, *notes)

    def _check(self, header: Dataset) -> None:
        """What the file is, before anything else is believed."""
        kinds = {
            str(uid): f"{named(keyword)} is {known(uid) or 'not known'}"
            for place, keyword in ((header.file_meta, "MediaStorageSOPClassUID"), (header, "SOPClassUID"))
            if (uid := place.get(keyword))
        }
        records = f"it has {named('DirectoryRecordSequence')}" if "DirectoryRecordSequence" in header else ""
        if why := kinds.get(DIRECTORY, records):
            raise ImageError(
                f"The DICOM file {self.path.name!r} is a directory of other files: {why}.", "Give the files themselves."
            )
        missing = [f"{named(keyword)} is missing" for keyword in ("Rows", "Columns") if keyword not in header]
        if missing:
            kind = list(kinds.values())[-1] if kinds else f"{named('SOPClassUID')} is missing"
            raise ImageError(
                f"The DICOM file {self.path.name!r} holds no image: {missing[0]}, {kind}.", "Choose a file with pixel data."
            )

    def _check_size(self) -> None:
        """Before memory is taken."""
        layout, rows, columns = self.layout, self.layout.rows, self.layout.columns
        if min(rows, columns) < 1 or rows * columns * layout.colours > self.limits.values:
            is_palette = layout.colours > layout.samples
            how = f"of {layout.photometric}, three colours each" if is_palette else f"with {layout.samples} samples"
            raise ImageError(
                f"The DICOM file {self.path.name!r} claims {rows} x {columns} pixels {how} "
                "((0028,0010) Rows, (0028,0011) Columns).",
                f"At most {self.limits.values // MEGA} million values a frame are read.",
            )

    def _guard(self, work: Callable[[], T]) -> T:
        """pydicom raises anything on damaged files, and quotes values in warnings: one sentence instead."""
        name = self.path.name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return work()
        except (ImageError, MemoryError):
            raise
        except UndecodableError as error:
            hint = "Export it again, uncompressed (Explicit VR Little Endian)."
            raise ImageError(f"The pixels of {name!r} ({self._syntax}) {error}.", hint) from error
        except RecursionError as error:
            raise ImageError(f"The DICOM file {name!r} nests its sequences too deeply.", "Export it again.") from error
        except Exception as error:
            raise ImageError(
                f"The DICOM file {name!r} is damaged or not valid ({type(error).__name__}).", "Export it again."
            ) from error

    def _stream(self) -> BinaryIO:
        """The bytes that hold the data set: the file's, or the inflated ones of a deflated file."""
        return _Bounded(self.path) if self._inflated is None else io.BytesIO(self._inflated)

    def _data_set(self, stream: BinaryIO, notes: list[str]) -> tuple[BinaryIO, Dataset, bool, bool]:
        """A stream where the data set begins; the meta group; whether it is implicit, and little endian. PS3.10 7, PS3.5 7, 10."""
        read_preamble(stream, force=True)
        meta = _read_file_meta_info(stream)
        begin, declared = stream.tell(), UID(str(meta.get("TransferSyntaxUID") or ""))
        told = encoding_of(stream.read(12))
        stream.seek(begin)
        fits = declared if declared in NATIVE[:3] else ExplicitVRLittleEndian
        if declared == DeflatedExplicitVRLittleEndian:
            try:
                self._inflated = self._inflate(stream)
                stream, told = io.BytesIO(self._inflated), fits
            except zlib.error:
                if told is None:
                    raise
                stream.seek(begin)
        self._syntax = known(declared) or "an unknown transfer syntax"
        if not declared:
            fits = told or ImplicitVRLittleEndian
            self._syntax = f"no transfer syntax given, read as {fits.name}"
        elif told is not None and (told != fits or (declared == NATIVE[3] and self._inflated is None)):
            notes.append(
                f"(0002,0010) Transfer Syntax UID says {self._syntax}; the data set is {told.name} and was read as such."
            )
            fits = told
        return stream, meta, fits == ImplicitVRLittleEndian, fits != ExplicitVRBigEndian

    def _inflate(self, stream: BinaryIO) -> bytes:
        inflater, out, limit = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO(), self.limits.inflated
        while not inflater.eof:
            chunk = stream.read(1 << 20)
            if not chunk:
                raise ImageError(
                    f"The DICOM file {self.path.name!r} is cut off: {out.tell()} bytes were inflated, the end is missing.",
                    "Export it again.",
                )
            out.write(inflater.decompress(chunk, limit + 1 - out.tell()))
            if out.tell() > limit:
                raise ImageError(
                    f"The DICOM file {self.path.name!r} inflates to more than {self.limits.inflated_mb} MiB.",
                    "Export it uncompressed.",
                )
        return out.getvalue()

    def _read_header(self, stream: BinaryIO, implicit: bool, little: bool) -> tuple[Dataset, Place | None]:
        """Everything before the pixels, and where they are."""
        found: list[tuple[int, str | None, int]] = []
        seen = 0

        def at_pixels(tag: int, vr: str | None, length: int) -> bool:
            nonlocal seen
            seen += 1
            if seen > ELEMENTS:
                raise ImageError(f"The header of {self.path.name!r} has more than {ELEMENTS} elements.", "Export it again.")
            if tag in PIXELS:
                found[:] = [(tag, vr, length)]
            return tag in PIXELS

        header = read_dataset(stream, implicit, little, stop_when=at_pixels)
        if not len(header):
            raise ImageError(f"The DICOM file {self.path.name!r} holds no data set (0 elements).", "Export it again.")
        if not found:
            return header, None
        tag, vr, length = found[0]
        start = stream.tell() + (12 if vr in LONG else 8)
        return header, Place(PIXELS[tag], start, length, vr or "OW", not little or self.syntax == GE)

    def _locate(self, stream: BinaryIO, place: Place | None, notes: list[str], told: list[str]) -> None:
        """Where each frame is, and how many there are. `told` gets warnings."""
        name, layout, syntax = self.path.name, self.layout, self.syntax
        if syntax.startswith(VIDEO):
            raise ImageError(
                f"The DICOM file {name!r} holds a video: {named('TransferSyntaxUID')} is {self._syntax}.",
                "Export single frames.",
            )
        assert place is not None  # layout_of has refused a file without pixels
        end = stream.seek(0, 2)
        stream.seek(place.start)
        encapsulated = place.length == UNDEFINED or (syntax in ROADS and stream.read(4) == ITEM)
        if encapsulated and UID(syntax) in NATIVE:
            notes.append(f"(0002,0010) Transfer Syntax UID says {self._syntax}, but the pixels are encapsulated.")
        if not encapsulated and syntax in ROADS:
            notes.append(f"(0002,0010) Transfer Syntax UID says {self._syntax}, but the pixels are not encapsulated.")
        if not encapsulated and syntax and syntax not in (*NATIVE, *ROADS, GE):
            if 8 * place.length not in (layout.bits * layout.frames, layout.bits * layout.frames + 8):
                raise ImageError(
                    f"The DICOM file {name!r} has pixels of a kind that is not known: {named('TransferSyntaxUID')} is {self._syntax}.",
                    "Export it uncompressed.",
                )
            notes.append(
                "(0002,0010) Transfer Syntax UID is not known; by their length the pixels are uncompressed, and read so."
            )
        self._place = place
        self._spans: list[list[Span]] | None = None
        claimed = layout.frames
        if encapsulated:
            offsets = self._header.get("ExtendedOffsetTable")
            table = offsets if isinstance(offsets, bytes) else b""
            self._spans = spans_of_frames(stream, place.start, end, claimed, table)
            there = len(self._spans)
        else:
            size = 8 * min(place.length, end - place.start)
            if layout.subsampled and size >= layout.allocated * layout.rows * layout.columns * 3 * claimed:
                notes.append(f"(0028,0004) says {layout.photometric}, the length of the pixels YBR_FULL: read as that.")
                self.layout = layout = replace(layout, photometric="YBR_FULL")
            there = size // layout.bits
            if there > claimed:
                notes.append(f"The pixel data could hold {there} frames; (0028,0008) Number of Frames is {claimed}.")
        if 0 < there < claimed:
            told.append(f"(0028,0008) Number of Frames is {claimed}, but only {there} are in the file.")
        self.frames = min(claimed, max(there, 1))
        if self.frames > self.limits.frames:
            raise ImageError(
                f"The DICOM file {name!r} has {self.frames} frames ((0028,0008) Number of Frames).",
                f"At most {self.limits.frames} are read.",
            )

    # --- one frame

    def stored(self, index: int, without: str = "") -> Decoded:
        """Frame `index` as decoded, before any LUT, window or change of colours; `without` one decoder, for comparisons.

        Raises UndecodableError.
        """
        if self._spans is None:
            with self._stream() as stream:
                return decode_native(stream, self._place.start, self.layout, index)
        if index >= len(self._spans):
            raise UndecodableError("are missing: no frame is in (7FE0,0010) Pixel Data")
        with self._stream() as stream:
            frame = joined(stream, self._spans[index])
        return decode(frame, self.syntax, self.layout, self.limits.inflated, without)

    def frame(self, index: int, window: Window | None = None) -> Image:
        if not 0 <= index < self.frames:
            raise ImageError(f"There is no frame {index + 1}; {self.path.name!r} has {self.frames}.")
        return self._guard(lambda: self._frame(index, window))

    def _frame(self, index: int, window: Window | None) -> Image:
        header, notes = self._header, list(self.notes)
        if self.frames > 1:
            notes.append(f"Frame {index + 1} of {self.frames}.")
        decoded = self.stored(index)
        notes += decoded.notes
        used: Window | None = None
        if self.layout.colours == 1:
            pixels, used = self._grey(decoded.values, index, window, notes)
        else:
            pixels = self._coloured(decoded, notes)
            if window is not None:
                notes.append("A window does not apply to colours.")
        told = [*self.warnings, *decoded.warnings]
        pixels, spacing = self._squared(pixels, index, notes, told)
        if np.ptp(pixels) == 0:
            told.append("All pixels have the same value: the file may be damaged.")
        return Image(
            pixels=np.ascontiguousarray(pixels, dtype=np.float32),
            spacing_mm=spacing,
            notes=tuple(notes),
            warnings=tuple(told),
            window=used,
            modality=self._modality,
            marks=marks_of(header, index),
        )

    def _grey(
        self, stored: np.ndarray, index: int, window: Window | None, notes: list[str]
    ) -> tuple[np.ndarray, Window | None]:
        header = self._header
        values = _rescaled(stored, header, index, notes)
        of_file = next(iter(file_windows(header, index, self._identifying)), None)
        lut = next(iter(header.get("VOILUTSequence", None) or []), None)
        used = window or of_file
        if window is None and lut is not None and "LUTData" in lut:
            bits = int(lut.LUTDescriptor[2])
            if not 1 <= bits <= 16:  # the standard knows 8 to 16, PS3.3 C.11.2.1.1
                raise ImageError(
                    f"The VOI LUT of {self.path.name!r} has entries of {bits} bits ((0028,3002) LUT Descriptor).",
                    "Choose a window instead, or export the file again.",
                )
            pixels = np.clip(_looked_up(values, lut, header) / (2**bits - 1), 0, 1)
            used = None
            notes.append("VOI LUT of the file applied.")
        else:
            if used is None or is_automatic(used):
                why = "The file has no usable window: values" if window is None else "Values"
                used = automatic_window(values, _padded(stored, header, self.layout))
                notes.append(
                    f"{why} shown from {used.center - used.width / 2:.4g} "
                    f"to {used.center + used.width / 2:.4g} (0.5 to 99.5 percentile of unpadded pixels)."
                )
            else:
                unit = " HU" if self._modality == "CT" else ""
                called = f"Window {used.name}: centre" if used.name else "Window centre"
                notes.append(f"{called} {used.center:g}{unit}, width {used.width:g}{unit} ({used.source}).")
            pixels = apply_window(values, used)
        inverse = header.get("PresentationLUTShape", "") == "INVERSE"
        if self.layout.photometric == "MONOCHROME1" or inverse:
            pixels = 1 - pixels
            how = "stored as MONOCHROME1" if not inverse else "(2050,0020) Presentation LUT Shape is INVERSE"
            notes.append(f"Inverted: {how}.")
        return pixels, used

    def _coloured(self, decoded: Decoded, notes: list[str]) -> np.ndarray:
        """RGB, float32 in [0, 1]."""
        if decoded.colours == "PALETTE COLOR":
            pixels = _palette(decoded.values, self._header, self.layout)
            notes.append("Colours looked up in the file's palette.")
        else:
            pixels = _rgb(decoded.values, decoded.colours, decoded.bits)
            if self.layout.photometric != "RGB":
                notes.append(f"Converted from {self.layout.photometric} to RGB.")
        optical = next(iter(self._header.get("OpticalPathSequence") or []), None)
        profile = self._header.get("ICCProfile") or (optical.get("ICCProfile") if optical is not None else None)
        return _standard_colours(pixels, profile, notes) if profile else pixels

    def _shown(self, ratio: tuple[float, float]) -> tuple[int, int] | None:
        """Rows and columns of a frame once its pixels are square; None where these would be more than the limit."""
        high, wide = stretched_to((self.layout.rows, self.layout.columns), ratio)
        return (high, wide) if high * wide * self.layout.colours <= self.limits.values else None

    def _squared(
        self, pixels: np.ndarray, index: int, notes: list[str], told: list[str]
    ) -> tuple[np.ndarray, tuple[float, float] | None]:
        """Square pixels, and their spacing. PS3.3 C.7.6.3.1.7, 10.7.1.3."""
        spacing, whose = spacing_of(self._header, index)
        if whose:
            notes.append(whose)
        ratio = spacing or aspect_of(self._header)
        if ratio is None:
            return pixels, None
        shown, shape = self._shown(ratio), f"{ratio[0] / ratio[1]:.4g}"
        if shown == pixels.shape[:2]:
            return pixels, spacing
        if shown is None:
            told.append(f"Pixels are {shape} times as high as wide, too unequal to be made square: the image is distorted.")
            return pixels, spacing
        pixels, even = square(pixels, ratio)
        notes.append(f"Resampled to square pixels, {shown[1]} x {shown[0]}: stored ones are {shape} times as high as wide.")
        return pixels, even if spacing else None


# --- values ------------------------------------------------------------------------------------------------------------


def _rescaled(stored: np.ndarray, header: Dataset, index: int, notes: list[str]) -> np.ndarray:
    """Stored values through the modality LUT or the rescale of the file or frame. PS3.3 C.11.1."""
    group = functional(header, index, "PixelValueTransformationSequence")
    lut = next(iter(header.get("ModalityLUTSequence") or []), None)
    if group is None and lut is not None and "LUTData" in lut:
        notes.append("Modality LUT of the file applied.")
        return _looked_up(stored, lut, header)
    place, whose = (header, "") if group is None else (group, " (of the frame)")
    slope, intercept = needed(place, "RescaleSlope"), needed(place, "RescaleIntercept")
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


def _palette(values: np.ndarray, header: Dataset, layout: Layout) -> np.ndarray:
    """Palette indices to RGB, float32 in [0, 1]; those outside to the first or last entry. PS3.3 C.7.6.3.1.5, C.7.6.3.1.6."""
    tables = []
    for colour in ("Red", "Green", "Blue"):
        count, first, bits = (int(each) for each in header[f"{colour}PaletteColorLookupTableDescriptor"].value)
        count = count or 2**16
        whole, parts = f"{colour}PaletteColorLookupTableData", f"Segmented{colour}PaletteColorLookupTableData"
        if whole in header:
            entries = _words(
                header[whole].value, 8 if bits <= 8 and len(header[whole].value) < 2 * count else 16, layout.big
            )
        else:
            entries = _expanded(_words(header[parts].value, 8 if bits <= 8 else 16, layout.big).tolist(), count, bits <= 8)
        if entries.size < count:
            raise ImageError(
                f"The palette has {entries.size} entries, its (0028,1101) descriptor says {count}.",
                "Export the file again as RGB.",
            )
        tables.append(entries[:count])
    table = np.stack(tables, axis=-1).astype(np.float32)
    table /= 255 if bits <= 8 or table.max() <= 255 else 65535  # 8-bit entries may stand in 16-bit words
    if layout.signed and first >= 2**15:
        first -= 2**16  # a negative first value, read as unsigned
    at = np.clip(values.astype(np.int64) - first, 0, count - 1)
    return table[at]


def _words(value: Any, bits: int, big: bool) -> np.ndarray:
    """The entries of a table that is stored as bytes, or as numbers where its VR is US."""
    if not isinstance(value, bytes):
        return np.atleast_1d(np.asarray(value, dtype=np.int64))
    if bits == 16:
        return np.frombuffer(value[: len(value) // 2 * 2], ">u2" if big else "<u2").astype(np.int64)
    entries = np.frombuffer(value, "u1")
    if big and entries.size % 2 == 0:  # two of them stand in a 16-bit word, PS3.5 7.3
        entries = entries.reshape(-1, 2)[:, ::-1].reshape(-1)
    return entries.astype(np.int64)


def _expanded(data: list[int], count: int, narrow: bool) -> np.ndarray:
    """A segmented palette: discrete, linear and indirect segments; no more than `count` entries. PS3.3 C.7.9.2."""
    entries: list[int] = []

    def expand(at: int, segments: int, within: bool) -> None:
        while at + 1 < len(data) and len(entries) < count and segments:
            kind, length = data[at], data[at + 1]
            at, segments = at + 2, segments - 1
            if kind == 0:
                entries.extend(data[at : at + length])
                at += length
            elif kind == 1 and entries and at < len(data):
                begin, end = entries[-1], data[at]
                entries.extend(round(begin + (end - begin) * step / length) for step in range(1, length + 1))
                at += 1
            elif kind == 2 and entries and not within and at + (4 if narrow else 2) <= len(data):
                parts = data[at : at + (4 if narrow else 2)]
                offset = sum(part << (8 if narrow else 16) * i for i, part in enumerate(parts))
                expand(offset if narrow else offset // 2, length, True)  # the offset is in bytes
                at += len(parts)
            else:
                raise ImageError(
                    f"A segment of the palette ((0028,1221) to (0028,1223)) is of kind {kind}, which cannot be here."
                )

    expand(0, count, False)
    return np.asarray(entries, dtype=np.int64)


def _rgb(values: np.ndarray, colours: str, bits: int) -> np.ndarray:
    """RGB, float32 in [0, 1], from RGB or YBR of `bits` bits. PS3.3 C.7.6.3.1.2."""
    top = float(2**bits - 1)
    found = values.astype(np.float32)
    if colours in YBR:
        y, cb, cr = found[..., 0], found[..., 1] - 2 ** (bits - 1), found[..., 2] - 2 ** (bits - 1)
        if "PARTIAL" in colours:  # luminance from 16 to 235, colours from 16 to 240, of 8 bits
            y, cb, cr = (y - 16 * 2 ** (bits - 8)) * (255 / 219), cb * (255 / 224), cr * (255 / 224)
        found = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(found / top, 0, 1, dtype=np.float32)


def _standard_colours(pixels: np.ndarray, profile: Any, notes: list[str]) -> np.ndarray:
    """Colours through the file's ICC profile to sRGB, in 8 bits; as they are where the profile cannot be used. PS3.3 C.11.15."""
    try:
        given = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
        picture = PIL.Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
        shown = PIL.ImageCms.profileToProfile(picture, given, PIL.ImageCms.createProfile("sRGB"))
    except (PIL.ImageCms.PyCMSError, OSError, TypeError, ValueError):
        notes.append("(0028,2000) ICC Profile cannot be used: colours are shown as stored.")
        return pixels
    notes.append("Colours converted from the file's ICC profile to sRGB.")
    return np.asarray(shown, dtype=np.float32) / 255


def _padded(stored: np.ndarray, header: Dataset, layout: Layout) -> np.ndarray | None:
    """Where (0028,0120) Pixel Padding Value (to its Range Limit) stands, or its floating point kin. PS3.3 C.7.5.1.1.2."""
    kind = {"FloatPixelData": "Float", "DoubleFloatPixelData": "DoubleFloat"}.get(layout.keyword, "")
    low = header.get(f"{kind}PixelPaddingValue")
    high = header.get(f"{kind}PixelPaddingRangeLimit")
    if not isinstance(low, (int, float)):
        return None
    low, high = (_as_stored(each, layout) for each in (low, high if isinstance(high, (int, float)) else low))
    return (stored >= min(low, high)) & (stored <= max(low, high))


def _as_stored(value: float, layout: Layout) -> float:
    """A padding value in the sign of the pixels: its VR may be the other one."""
    if layout.keyword == "PixelData" and layout.signed and value >= 2 ** (layout.stored - 1):
        return value - 2**layout.stored
    return value + 2**layout.stored if layout.keyword == "PixelData" and not layout.signed and value < 0 else value
