"""NIfTI (.nii, .nii.gz), MetaImage (.mha) and NRRD volumes through SimpleITK, as slices in a radiologist's orientation.

Sources: nifti1.h (NIfTI-1.1), the MetaIO and NRRD0005 format definitions. Slices are axial, or lie across the coarsest axis
where spacing is uneven. The patient's right is on the left, the head or the front on top; sagittal slices look to the left.
Frames run to the head, to the back, or to the right, as DICOM series are sorted (engine.readers._series).

Sizes are read here, by a strict reading of the header, before ITK takes any memory, and ITK must find the same. Headers that
name another file are refused: ITK would open it. Nothing of a header's free text is kept or told.
Assumed: values are linear, bright means high. Where a NIfTI file gives sform and qform, ITK prefers the sform; what is no
number in a NIfTI file ITK reads as 0.
Left out: NIfTI-2, Analyze, header and data in two files, complex values, all but the first of several volumes.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from engine.errors import ImageError
from engine.limits import MEGA, MIB, Limits
from engine.readers._grey import affine_after, apply_window, automatic_window, is_automatic, square, stretched_to
from engine.types import About, Image, Slot, Window

GZIP = b"\x1f\x8b"
TEXT = 1 << 16  # bytes of a MetaImage or NRRD header; longer ones hold no image description
LINE = {"MetaImage": 450, "NRRD": 8192}  # bytes of one of its lines; MetaIO reads 500 and would take the rest for a new line
SAMPLE = 1 << 23  # voxels that the automatic window is computed from
ANISOTROPIC = 1.5  # coarser by more than this: the other planes are made of few, stretched pixels
HOUNSFIELD = (-3100, -900)  # where a CT's lowest value lies: air is -1000, scanners pad with -1024, -2000, -2048 or -3024
SKEW_DEG = 1.0  # an axis that leans more off the patient's is told

# nifti1.h: datatype code and bytes; complex, 128 bits and single bits are left out
NIFTI_TYPES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8, 2304: 4}
MET_TYPES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8}
MET_TYPES = MET_TYPES | {f"U{name}": size for name, size in MET_TYPES.items()} | {"FLOAT": 4, "DOUBLE": 8}
NRRD_TYPES = {"float": 4, "double": 8} | {
    name: size
    for size, names in (
        (1, "signed char|int8|int8_t|uchar|unsigned char|uint8|uint8_t"),
        (2, "short|short int|signed short|signed short int|int16|int16_t"),
        (2, "ushort|unsigned short|unsigned short int|uint16|uint16_t"),
        (4, "int|signed int|int32|int32_t|uint|unsigned int|uint32|uint32_t"),
        (8, "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t"),
        (8, "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t"),
    )
    for name in names.split("|")
}
NRRD_SPACES = ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps")

# What is shown across each axis of the patient (0 right to left, 1 front to back, 2 feet to head): its name; axis and
# direction of frames, rows and columns; what then lies left, top, right, bottom.
PLANES = (
    ("sagittal", ((0, -1), (2, -1), (1, 1)), ("A", "H", "P", "F")),
    ("coronal", ((1, 1), (2, -1), (0, 1)), ("R", "H", "L", "F")),
    ("axial", ((2, 1), (1, 1), (0, 1)), ("R", "A", "L", "P")),
)


def sniff(head: bytes) -> bool:
    if head.startswith(GZIP):
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 544)
        except zlib.error:
            return False
        return _is_nifti(head)
    return _is_nifti(head) or head.startswith(b"NRRD000") or _is_metaimage(head)


def _is_nifti(head: bytes) -> bool:
    one = head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and head[344:348] in (b"n+1\0", b"ni1\0")
    two = head[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") and head[4:8] in (b"n+2\0", b"ni2\0")
    return one or two


def _is_metaimage(head: bytes) -> bool:
    return re.match(rb"(ObjectType|NDims|Comment)[ \t]*=", head) is not None and b"NDims" in head


def read(path: Path, limits: Limits) -> list[VolumeSeries]:
    with path.open("rb") as stream:
        head = stream.read(348)
    if head.startswith(b"NRRD"):
        header = nrrd_header(path, limits)
    elif head.startswith(GZIP) or _is_nifti(head):
        header = nifti_header(path, limits)
    else:
        header = metaimage_header(path, limits)
    return [VolumeSeries(path, header, limits)]


class VolumeSeries:
    """A volume as a Series. Its values are read when it is opened, and kept.

    affine : (column, row, frame, 1) of the frames as they are shown to patient millimetres (LPS), or None
    """

    warnings: tuple[str, ...] = ()
    slots: tuple[Slot, ...] = ()

    def __init__(self, path: Path, header: _Header, limits: Limits):
        self.path, self.files = path, (path.name,)
        stored = _decoded(path, header)
        shown = _arranged(stored, header)
        self._values, self._marks, self._coloured = shown.values, shown.marks, stored.values.ndim == 4
        self.frames, rows, columns = self._values.shape[:3]
        samples = 3 if self._coloured else 1
        if self.frames > limits.frames or rows * columns * samples > limits.values:
            raise ImageError(
                f"The volume {path.name!r} has {self.frames} slices of {columns} x {rows} pixels.",
                f"At most {limits.frames} slices of {limits.megapixels} million values are read.",
            )
        notes, kind = [*stored.notes, *header.notes, *shown.notes], stored.values.dtype
        hounsfield = False
        if not self._coloured:
            self._automatic, hounsfield, told = _looked_over(stored.values)
            notes += told
        self._spacing, self.affine, self._is_stretched = shown.spacing_mm, shown.affine, False
        if self._spacing:  # the pixels are made square when a frame is shown
            high, wide = stretched_to((rows, columns), self._spacing)
            self._is_stretched = (high, wide) != (rows, columns) and high * wide * samples <= limits.values
            if self._is_stretched:
                notes.append(f"Pixels of {self._spacing[0]:.4g} x {self._spacing[1]:.4g} mm are shown square.")
                self.affine = affine_after(self.affine, (rows, columns), (high, wide))
                rows, columns = high, wide
        several = f"{self.frames} {shown.plane} slices of " if self.frames > 1 else ""
        facts = [("stored size", " x ".join(map(str, stored.sizes))), ("stored values", str(kind))]
        if header.is_spaced:
            facts.insert(1, ("voxel", " x ".join(f"{mm:.4g}" for mm in stored.spacing_mm) + " mm"))
        if shown.marks:
            facts.append(("stored orientation", stored.orientation))
        self.about = About(
            f"{header.form}, {several}{columns} x {rows}", facts=tuple(facts), deep=not self._coloured, hounsfield=hounsfield
        )
        self.notes: tuple[str, ...] = (f"{header.form}, {' x '.join(map(str, stored.sizes))} voxels of {kind}.", *notes)

    def frame(self, index: int, window: Window | None = None) -> Image:
        if not 0 <= index < self.frames:
            raise ImageError(f"There is no frame {index + 1}; {self.path.name!r} has {self.frames}.")
        notes = ([f"Slice {index + 1} of {self.frames}."] if self.frames > 1 else []) + list(self.notes)
        values = np.ascontiguousarray(self._values[index])
        if self._coloured:
            pixels = values[..., :3].astype(np.float32) / np.iinfo(values.dtype).max
            if window is not None:
                notes.append("A window does not apply to colours.")
            window = None
        else:
            if window is None or is_automatic(window):
                window = self._automatic
                low, high = window.center - window.width / 2, window.center + window.width / 2
                notes.append(f"Values shown from {low:.4g} to {high:.4g} (0.5 to 99.5 percentile of the whole volume).")
            else:
                named = f"{window.source} {window.name!r}" if window.source == "preset" else window.source
                notes.append(f"Window centre {window.center:g}, width {window.width:g} ({named}).")
            pixels = apply_window(values, window)
        spacing = self._spacing
        if spacing is not None and self._is_stretched:
            pixels, spacing = square(pixels, spacing)
        flat = "All pixels of this slice have the same value: there is nothing to see."
        return Image(
            np.ascontiguousarray(pixels, dtype=np.float32),
            spacing_mm=spacing,
            notes=tuple(notes),
            warnings=(flat,) if np.ptp(pixels) == 0 else (),
            window=window,
            marks=self._marks,
        )


# --- values ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stored:
    """The first volume as ITK reads it. values : (k, j, i) or (k, j, i, 3 or 4); the rest in the order i, j, k."""

    values: np.ndarray
    sizes: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: np.ndarray
    direction: np.ndarray  # (3, 3), a column an axis
    orientation: str  # where the axes run to, as "RAS"
    notes: tuple[str, ...]


def _decoded(path: Path, header: _Header) -> _Stored:
    import SimpleITK as sitk  # a third of a second, for which other formats need not wait

    reader = sitk.ImageFileReader()
    reader.SetImageIO(header.itk_io)
    notes = []
    # A sheared or rounded sform becomes the nearest rotation; ITK refuses it otherwise. It looks when it makes the NIfTI reader.
    os.environ["ITK_NIFTI_SFORM_PERMISSIVE"] = "1"
    with _itk(path) as folder:
        link = Path(folder, f"volume{header.suffix}")  # ITK goes by the ending; a link leaves no copy if this process ends
        link.symlink_to(path.resolve())
        reader.SetFileName(str(link))
        reader.ReadImageInformation()
        sizes, samples = reader.GetSize(), reader.GetNumberOfComponents()
        if math.prod(sizes) * samples != math.prod(header.sizes):
            raise ImageError(
                f"The volume {path.name!r} contradicts itself: its size can be read in two ways.", "Export it again."
            )
        if len(sizes) > 3:
            volumes = math.prod(sizes[3:])
            reader.SetExtractSize([*sizes[:3], *(0 for _ in sizes[3:])])
            if volumes > 1:
                notes.append(f"The file holds {volumes} volumes: the first is read.")
        image = reader.Execute()
    key = "ITK_sform_corrected"
    if image.HasMetaDataKey(key) and image.GetMetaData(key) != "NO":
        notes.append("The file's orientation (sform) is sheared: the nearest one without shear is used.")
    values = sitk.GetArrayFromImage(image)  # a copy: a view would not outlive the image, which holds the header's words
    if header.intercept:
        values = values - values.dtype.type(header.intercept)
    if samples == 2 or samples > 4 or (samples > 1 and values.dtype.kind != "u"):
        notes.append(f"The file holds {samples} values a voxel: the first is shown.")
        values = values[..., 0]
    elif samples == 4:
        notes.append("The fourth value of each voxel (its opacity) is left out.")
    spacing, origin, direction = image.GetSpacing(), image.GetOrigin(), np.eye(3)
    if len(image.GetSize()) == 2:
        values, spacing, origin = values[None], (*spacing, 1.0), (*origin, 0.0)
    else:
        direction = np.asarray(image.GetDirection(), dtype=np.float64).reshape(3, 3)
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction.ravel().tolist())
    return _Stored(values, image.GetSize(), spacing, np.asarray(origin), direction, orientation, tuple(notes))


@contextmanager
def _itk(path: Path) -> Iterator[str]:
    """A private folder; what ITK raises becomes one sentence, and what its libraries print, which may quote the file, nothing."""
    sys.stderr.flush()
    shown, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        with tempfile.TemporaryDirectory(prefix="promptscope-volume-") as folder:
            yield folder
    except RuntimeError as error:  # ITK's messages hold paths
        if "alloc" in str(error):
            raise MemoryError from None
        raise ImageError(
            f"The volume {path.name!r} is damaged or of a kind that is not read here.", "Export it again."
        ) from None
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nothing)


def _looked_over(values: np.ndarray) -> tuple[Window, bool, list[str]]:
    """The automatic window of a volume, whether its values look like Hounsfield units, and notes."""
    flat, step = values.reshape(-1), 1
    if flat.size > SAMPLE:
        step = flat.size // SAMPLE | 1  # odd, so that it does not meet the same columns in every row
    sample, notes = flat[::step], []
    kept = sample[np.isfinite(sample)]
    if kept.size < sample.size:
        notes.append("Values that are no number are shown black.")
    hounsfield = bool(
        kept.size and HOUNSFIELD[0] <= kept.min() <= HOUNSFIELD[1] and kept.max() > 0 and not np.mod(kept, 1).any()
    )
    if hounsfield:
        notes.append("Values look like Hounsfield units.")
    return automatic_window(kept), hounsfield, notes


# --- planes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
    """values : (frame, row, column), a view of the stored ones; spacing_mm : (row, column); affine as Series has it."""

    values: np.ndarray
    plane: str
    marks: tuple[str, str, str, str] | None
    spacing_mm: tuple[float, float] | None
    affine: np.ndarray | None
    notes: tuple[str, ...]


def _arranged(stored: _Stored, header: _Header) -> _Shown:
    """Axes permuted and turned to one of PLANES; nothing is resampled."""
    flat = len(stored.sizes) == 2
    is_oriented = header.is_oriented and not flat
    letters = stored.orientation if is_oriented else "LPS"
    axis_of = [next(a for a, letter in enumerate(letters) if letter in pair) for pair in ("LR", "PA", "SI")]
    rising = [letters[a] in "LPS" for a in axis_of]
    across = 2 if flat else _across([stored.values.shape[2 - a] for a in axis_of], [stored.spacing_mm[a] for a in axis_of])
    plane, directions, marks = PLANES[across]
    values = stored.values.transpose([2 - axis_of[p] for p, _ in directions] + [3] * (stored.values.ndim - 3))
    affine = np.eye(4)
    affine[:3, 3] = stored.origin_mm
    for shown, (patient, wanted) in enumerate(directions):  # frame, row, column
        axis = axis_of[patient]
        step = stored.direction[:, axis] * stored.spacing_mm[axis]
        if rising[patient] != (wanted > 0):
            values = np.flip(values, shown)
            affine[:3, 3] += step * (values.shape[shown] - 1)
            step = -step
        affine[:3, 2 - shown] = step
    notes = []
    if not is_oriented:
        notes.append("The file does not say how it lies in the patient: sides are unknown, LPS is assumed.")
    else:
        notes.append(f"Stored towards {letters}; shown as {plane} slices, {_words(marks)}.")
        lean = np.degrees(np.arccos(np.clip(np.abs(stored.direction).max(axis=0).min(), 0, 1)))
        if lean > SKEW_DEG:
            notes.append(f"The volume lies {lean:.0f} degrees oblique to the patient's axes: letters name the nearest.")
    if not header.is_spaced:
        notes.append("The file gives no voxel size.")
    spacing = tuple(stored.spacing_mm[axis_of[p]] for p, _ in directions[1:])
    return _Shown(
        values,
        plane,
        marks if is_oriented else None,
        spacing if header.is_spaced else None,  # type: ignore[arg-type]
        affine if header.is_spaced and is_oriented else None,
        tuple(notes),
    )


def _across(sizes: list[int], spacing_mm: list[float]) -> int:
    """The patient's axis that slices are stacked along: one with a single sample, one that is clearly coarsest, or feet to head."""
    single = [p for p in (2, 1, 0) if sizes[p] == 1]
    if single:
        return single[0]
    coarsest = int(np.argmax(spacing_mm))
    return coarsest if spacing_mm[coarsest] > ANISOTROPIC * sorted(spacing_mm)[1] else 2


def _words(marks: tuple[str, str, str, str]) -> str:
    left = {"R": "the patient's right", "A": "the front"}[marks[0]]
    top = {"A": "the front", "H": "the head"}[marks[1]]
    return f"{left} on the left, {top} on top"


# --- headers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    """form : in words; itk_io, suffix : how ITK opens it; sizes : all of them, values a voxel included.

    intercept : what ITK adds to the values where a NIfTI's slope of 0 says that nothing is to be done
    """

    form: str
    itk_io: str
    suffix: str
    sizes: tuple[int, ...]
    is_oriented: bool
    is_spaced: bool
    notes: tuple[str, ...] = ()
    intercept: float = 0.0


def nifti_header(path: Path, limits: Limits) -> _Header:
    with path.open("rb") as stream, _damaged(path):
        packed = stream.read(2) == GZIP
        stream.seek(0)
        source: BinaryIO = gzip.GzipFile(fileobj=stream) if packed else stream  # type: ignore[assignment]
        head = source.read(352)
        if len(head) < 348:
            raise _cut_off(path, 348, len(head))
        order = "<" if head[0] != 0 else ">"
        if struct.unpack_from(order + "i", head)[0] == 540:
            raise ImageError(f"The file {path.name!r} is NIfTI-2, which is not read here.", "Save it as NIfTI-1.")
        if head[344:348] == b"ni1\0":
            raise ImageError(
                f"The file {path.name!r} is a NIfTI header whose data are in another file.", "Save both as one .nii file."
            )
        dimensions, *sizes = struct.unpack_from(order + "8h", head, 40)
        code = struct.unpack_from(order + "h", head, 70)[0]
        if not 2 <= dimensions <= 5:
            raise ImageError(
                f"The volume {path.name!r} has {dimensions} dimensions (dim[0]).", "Volumes of 2 to 5 are read."
            )
        if code not in NIFTI_TYPES:
            raise ImageError(
                f"The volume {path.name!r} has values of a kind that is not read here (datatype {code}).",
                "Save it as 16-bit integers or 32-bit floats.",
            )
        samples = {128: (3,), 2304: (4,)}.get(code, ())
        values = _bounded(path, (*sizes[:dimensions], *samples), limits)
        offset = struct.unpack_from(order + "f", head, 108)[0]
        if not (offset == 0 or 348 <= offset <= limits.inflated):
            raise ImageError(
                f"The volume {path.name!r} says that its data begin at byte {offset:g} (vox_offset).", "Export it again."
            )
        need = max(int(offset), 352) + values * NIFTI_TYPES[code] // (samples[0] if samples else 1)
        have = len(head) + _counted(path, source, limits) if packed else path.stat().st_size
        if have < need:
            raise _cut_off(path, need, have)
    qform, sform = struct.unpack_from(order + "hh", head, 252)
    numbers = struct.unpack_from(order + "18f", head, 256)
    if (qform > 0 or sform > 0) and not all(map(math.isfinite, numbers)):
        raise ImageError(
            f"The orientation of the volume {path.name!r} holds what is no number (sform or qform).", "Export it again."
        )
    steps = struct.unpack_from(order + "8f", head, 76)[1 : 1 + min(dimensions, 3)]
    is_spaced = all(math.isfinite(step) and step > 0 for step in steps)
    notes = []
    lengths = np.linalg.norm(np.reshape(numbers[6:], (3, 4))[:, : len(steps)], axis=0)
    if sform > 0 and is_spaced and np.abs(lengths / steps - 1).max() > 0.01:
        notes.append("The file gives two voxel sizes (pixdim and sform): those of pixdim are used.")
    slope, intercept = struct.unpack_from(order + "2f", head, 112)
    is_scaled = math.isfinite(slope) and slope != 0
    return _Header(
        "NIfTI",
        "NiftiImageIO",
        ".nii.gz" if packed else ".nii",
        (*sizes[:dimensions], *samples),
        (qform > 0 or sform > 0) and dimensions > 2,
        is_spaced,
        tuple(notes),
        intercept if not is_scaled and math.isfinite(intercept) else 0.0,
    )


def metaimage_header(path: Path, limits: Limits) -> _Header:
    """MetaIO is lenient where two readings of a header would differ, so what is not plain here is refused."""
    fields, begin = fields_of(path, "MetaImage")
    if fields.get("ElementDataFile") != "LOCAL":
        raise ImageError(
            f"The MetaImage header {path.name!r} refers to another file for its data.", "Save both as one .mha file."
        )
    sizes = _numbers(path, fields, "DimSize")
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    if kind not in MET_TYPES:
        raise ImageError(
            f"The volume {path.name!r} has values of a kind that is not read here (ElementType).",
            "Save it as MET_SHORT or MET_FLOAT.",
        )
    if len(sizes) != sum(_numbers(path, fields, "NDims")) or not 2 <= len(sizes) <= 4:
        raise ImageError(
            f"The volume {path.name!r} has {len(sizes)} sizes (DimSize), which its NDims contradicts or forbids.",
            "Volumes of 2 to 4 dimensions are read.",
        )
    if fields.get("BinaryData", "True") != "True" or int(fields.get("HeaderSize", "0") != "0"):
        raise ImageError(
            f"The volume {path.name!r} is written as text or with a header of its own (BinaryData, HeaderSize).",
            "Save it as binary .mha.",
        )
    samples = _numbers(path, fields, "ElementNumberOfChannels") if "ElementNumberOfChannels" in fields else ()
    if samples == (1,):
        samples = ()
    need = _bounded(path, (*samples, *sizes), limits) * MET_TYPES[kind]
    with path.open("rb") as stream, _damaged(path):
        stream.seek(begin)
        if fields.get("CompressedData", "False") == "True":
            length = _numbers(path, fields, "CompressedDataSize") if "CompressedDataSize" in fields else (0,)
            if sum(length) > path.stat().st_size - begin:
                raise _cut_off(path, sum(length), path.stat().st_size - begin)
            have = _counted(path, _Inflated(stream), limits)
        else:
            have = path.stat().st_size - begin
    if have < need:
        raise _cut_off(path, need, have)
    is_oriented = len(sizes) > 2 and any(key in fields for key in ("TransformMatrix", "Rotation", "Orientation"))
    is_spaced = "ElementSpacing" in fields or "ElementSize" in fields
    return _Header("MetaImage", "MetaImageIO", ".mha", (*samples, *sizes), is_oriented, is_spaced)


def nrrd_header(path: Path, limits: Limits) -> _Header:
    fields, begin = fields_of(path, "NRRD")
    if any("file" in key for key in fields):
        raise ImageError(
            f"The NRRD header {path.name!r} refers to another file for its data.", "Save both as one .nrrd file."
        )
    sizes = _numbers(path, fields, "sizes")
    if len(sizes) != sum(_numbers(path, fields, "dimension")) or not 2 <= len(sizes) <= 5:
        raise ImageError(
            f"The volume {path.name!r} has {len(sizes)} sizes, which its dimension contradicts or forbids.",
            "Volumes of 2 to 5 dimensions are read.",
        )
    kind, encoding = fields.get("type", "").lower(), fields.get("encoding", "").lower()
    if kind not in NRRD_TYPES:
        raise ImageError(
            f"The volume {path.name!r} has values of a kind that is not read here (type).", "Save it as short or float."
        )
    for key in ("lineskip", "byteskip"):
        if fields.get(key, "0") != "0":
            raise ImageError(
                f"The volume {path.name!r} has data that begin elsewhere than after its header ({key}).", "Export it again."
            )
    need = _bounded(path, sizes, limits) * NRRD_TYPES[kind]
    with path.open("rb") as stream, _damaged(path):
        stream.seek(begin)
        if encoding == "raw":
            have = path.stat().st_size - begin
        elif encoding in ("gzip", "gz"):
            have = _counted(path, gzip.GzipFile(fileobj=stream), limits)
        else:
            raise ImageError(f"The volume {path.name!r} has an encoding that is not read here.", "Save it as raw or gzip.")
    if have < need:
        raise _cut_off(path, need, have)
    is_oriented = (
        len(sizes) > 2
        and "spacedirections" in fields
        and fields.get("space", "").lower().removesuffix("-time") in NRRD_SPACES
    )
    return _Header("NRRD", "NrrdImageIO", ".nrrd", sizes, is_oriented, "spacedirections" in fields or "spacings" in fields)


def fields_of(path: Path, form: str) -> tuple[dict[str, str], int]:
    """The fields of a text header, and where the data begin. Values are never told: they may name a patient.

    Raises ImageError for what two readers might understand differently: control characters, fields given twice, long lines.
    """
    fields: dict[str, str] = {}
    is_nrrd = form == "NRRD"
    plain = rb"([A-Za-z0-9 -]+?) ?:=?[ \t]*(.*)" if is_nrrd else rb"([A-Za-z0-9_.\[\]-]+)[ \t]*=[ \t]*(.*)"
    with path.open("rb") as stream:
        if is_nrrd:
            stream.readline(64)  # the magic
        while stream.tell() < TEXT:
            line = stream.readline(LINE[form] + 1)
            text = line.rstrip(b"\r\n \t")
            if not line.endswith(b"\n") or re.search(rb"[\0-\x08\x0b-\x1f]", text):
                break
            if is_nrrd and not text:
                return fields, stream.tell()
            if not text or (is_nrrd and text.startswith(b"#")):
                continue
            parts = re.fullmatch(plain, text, re.DOTALL)
            if parts is None:
                break
            key, value = parts[1].decode("ascii"), parts[2].decode("latin-1")
            if is_nrrd:
                if parts[0][len(parts[1]) :].lstrip().startswith(b":="):
                    continue  # a key of the writer's own
                key = re.sub("[ -]", "", key.lower())
            if key in fields:
                raise ImageError(f"The header of {path.name!r} gives a field twice.", "Export it again.")
            fields[key] = value
            if not is_nrrd and key.lower() == "elementdatafile":
                return fields, stream.tell()
    raise ImageError(
        f"The header of {path.name!r} ({form}) is damaged, cut off or longer than {TEXT >> 10} KiB.", "Export it again."
    )


def _numbers(path: Path, fields: dict[str, str], key: str) -> tuple[int, ...]:
    words = fields.get(key, "").split()
    if not words or not all(re.fullmatch("[0-9]{1,15}", word) for word in words):
        raise ImageError(f"The header of {path.name!r} gives no whole numbers for {key}.", "Export it again.")
    return tuple(map(int, words))


# --- bounds ------------------------------------------------------------------------------------------------------------


def _bounded(path: Path, sizes: tuple[int, ...], limits: Limits) -> int:
    """How many values the sizes make. Raises ImageError."""
    claimed, most = " x ".join(map(str, sizes)), limits.volume_megavoxels * MEGA
    if min(sizes) < 1:
        raise ImageError(f"The volume {path.name!r} claims {claimed} voxels.", "Each size must be at least 1.")
    if math.prod(sizes) > most:
        raise ImageError(
            f"The volume {path.name!r} claims {claimed} voxels.", f"At most {limits.volume_megavoxels} million are read."
        )
    return math.prod(sizes)


def _counted(path: Path, source: BinaryIO | gzip.GzipFile | _Inflated, limits: Limits) -> int:
    """Bytes that a compressed source holds, which are not kept: ITK inflates for itself. Raises ImageError above the limit."""
    count = 0
    while part := source.read(MIB):
        count += len(part)
        if count > limits.inflated:
            raise ImageError(
                f"The volume {path.name!r} inflates to more than {limits.inflated_mb} MiB.", "Save a smaller part of it."
            )
    return count


class _Inflated:
    """The zlib stream of a compressed MetaImage, which the standard library reads from no file."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._inflater = stream, zlib.decompressobj()

    def read(self, size: int) -> bytes:
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._stream.read(MIB)
            if not packed:
                raise EOFError
            if part := self._inflater.decompress(packed, size):
                return part
        return b""


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
        raise ImageError(
            f"The volume {path.name!r} is damaged or cut off and cannot be inflated ({type(error).__name__}).",
            "Export or send it again.",
        ) from None


def _cut_off(path: Path, need: int, have: int) -> ImageError:
    return ImageError(
        f"The volume {path.name!r} is cut off: its header tells of {need} bytes and there are {have}.",
        "Export or send it again.",
    )
