"""Encoded pixel data to stored values, one frame at a time: a first decoder, and a second one where the first fails. PS3.5 8.2.

    transfer syntax (1.2.840.10008.1.2...)      first         second
    uncompressed (none, .1, .1.99, .2)          pydicom
    JPEG baseline (.4.50)                       imagecodecs   Pillow
    JPEG extended (.4.51)                       imagecodecs   Pillow (8 bits)
    JPEG progressive, retired (.4.53, .4.55)    imagecodecs
    JPEG Lossless (.4.57, .4.70)                imagecodecs   GDCM
    JPEG-LS (.4.80, .4.81)                      pyjpegls      imagecodecs
    JPEG 2000 (.4.90, .4.91), HTJ2K (.4.201-3)  pylibjpeg     imagecodecs
    JPEG XL (.4.110-2)                          imagecodecs
    RLE (.5)                                    pylibjpeg     pydicom
    Deflated Image Frame (.8.1)                 zlib

All but imagecodecs and zlib are pydicom's plug-ins. imagecodecs comes first for JPEG because GDCM ends the process on some
damaged frames, and pydicom 3.0 converts colours that carry Adobe's marker twice. Lossy JPEG of 12 bits has no second decoder for
reading: GDCM decodes it, and ends the process on damaged frames, so that it is asked in comparisons only (COMPARED).
For JPEG Lossless it is asked where the frame's markers are whole, and may end the process even so: engine.sandbox is for that.

Assumed: what the code stream says of itself (kind, precision, colour) is truer than what the header says of it.
Left out: video, and JPIP, whose pixels are elsewhere. imagecodecs' OpenJPH is asked for lossless HTJ2K only: in a lossy one its
values wrap around instead of being clipped (measured on pydicom's HTJ2K_08_RGB.dcm); OpenJPEG takes those.
Its RLE is not asked at all: it ends the process on some damaged frames.

Legend: H, W rows and columns of a frame.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import BinaryIO, NamedTuple

import gdcm  # type: ignore[import-untyped]
import imagecodecs
import numpy as np
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

STEM = "1.2.840.10008.1.2"
DCT = (f"{STEM}.4.50", f"{STEM}.4.51", f"{STEM}.4.53", f"{STEM}.4.55")
LOSSLESS = (f"{STEM}.4.57", f"{STEM}.4.70")
JPEG_LS = (f"{STEM}.4.80", f"{STEM}.4.81")
JPEG_2000 = (f"{STEM}.4.90", f"{STEM}.4.91")
HTJ2K = (f"{STEM}.4.201", f"{STEM}.4.202", f"{STEM}.4.203")
JPEG_XL = (f"{STEM}.4.110", f"{STEM}.4.111", f"{STEM}.4.112")
RLE = (f"{STEM}.5",)
DEFLATED_FRAME = (f"{STEM}.8.1",)
FAMILIES = (DCT, LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K, JPEG_XL, RLE)

ROADS: dict[str, tuple[str, ...]] = {
    DCT[0]: ("imagecodecs", "pillow"),
    DCT[1]: ("imagecodecs", "pillow"),
    **dict.fromkeys(DCT[2:], ("imagecodecs",)),
    **dict.fromkeys(LOSSLESS, ("imagecodecs", "gdcm")),
    **dict.fromkeys(JPEG_LS, ("pyjpegls", "imagecodecs")),
    **dict.fromkeys((*JPEG_2000, *HTJ2K), ("pylibjpeg", "imagecodecs")),
    **dict.fromkeys(JPEG_XL, ("imagecodecs",)),
    **dict.fromkeys(RLE, ("pylibjpeg", "pydicom")),
    **dict.fromkeys(DEFLATED_FRAME, ("zlib",)),
}

COMPARED = dict.fromkeys(DCT[1:], ("gdcm",))  # asked as well where a decoder is to be compared with

# Transfer syntaxes that pydicom 3.0 does not know
NAMES = {
    JPEG_XL[0]: "JPEG XL Lossless",
    JPEG_XL[1]: "JPEG XL JPEG Recompression",
    JPEG_XL[2]: "JPEG XL",
    DEFLATED_FRAME[0]: "Deflated Image Frame Compression",
}

Span = tuple[int, int]  # where bytes lie in a file: offset and length


class UndecodableError(Exception):
    """Why no frame came out: the rest of a sentence that begins "The pixels ..."."""


def known(value: object) -> str:
    """The name of a UID that the standard knows, else nothing: a file may hold anything there."""
    uid = UID(str(value or ""))
    return NAMES.get(uid, "" if uid.name == uid else str(uid.name))


@dataclass(frozen=True)
class Layout:
    """What the header says of the pixels. PS3.3 C.7.6.3.

    keyword : PixelData, FloatPixelData or DoubleFloatPixelData; word : its VR is OW
    stored, high : Bits Stored and High Bit; signed : Pixel Representation; planar : Planar Configuration
    big : the file is big endian
    """

    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high: int
    signed: bool
    planar: int = 0
    frames: int = 1
    keyword: str = "PixelData"
    word: bool = True
    big: bool = False

    @property
    def subsampled(self) -> bool:
        """Uncompressed, two pixels share their colour. PS3.3 C.7.6.3.1.2."""
        return self.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") and self.samples == 3

    @property
    def colours(self) -> int:
        """Values of a pixel as it is shown: a palette gives three."""
        return 3 if self.photometric == "PALETTE COLOR" else self.samples

    @property
    def bits(self) -> int:
        """Of an uncompressed frame."""
        values = self.rows * self.columns * self.samples
        return self.allocated * (values * 2 // 3 if self.subsampled else values)


@dataclass(frozen=True)
class Decoded:
    """values : (H, W) or (H, W, 3), as stored: before any LUT, window or change of colours
    colours : the photometric interpretation of `values`; bits : how many of them carry the value
    """

    values: np.ndarray
    colours: str
    bits: int
    decoder: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


# --- where frames lie --------------------------------------------------------------------------------------------------

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
END = b"\xff\xd9"  # of a JPEG, JPEG-LS or JPEG 2000 code stream; padding may follow it


def spans_of_frames(stream: BinaryIO, start: int, end: int, frames: int, extended: bytes = b"") -> list[list[Span]]:
    """The fragments of each frame that is there, at most `frames`. PS3.5 A.4.

    start : of the basic offset table's item tag; end : of the file
    extended : (7FE0,0001) Extended Offset Table, as bytes
    """
    fragments, at = [], start
    while at + 8 <= end:
        stream.seek(at)
        tag, length = struct.unpack("<4sI", stream.read(8))
        if tag != ITEM:
            break
        fragments.append((at + 8, min(length, end - at - 8)))
        at += 8 + length
    if len(fragments) < 2:
        return []
    (table, size), fragments = fragments[0], fragments[1:]
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:  # whatever the tables say, which may be wrong
        return [[each] for each in fragments]
    stream.seek(table)
    firsts = {struct.unpack_from("<I", each)[0] for each in _cut(stream.read(size), 4)}
    if extended:
        firsts = {struct.unpack("<Q", each)[0] for each in _cut(extended, 8)}
    begin = fragments[0][0]
    grouped: list[list[Span]] = []
    ended = True
    for offset, length in fragments:
        if offset - begin in firsts if len(firsts) > 1 else ended:
            grouped.append([])
        if not grouped:
            grouped.append([])
        grouped[-1].append((offset, length))
        stream.seek(max(offset, offset + length - 16))
        ended = END in stream.read(min(length, 16))
    return grouped[:frames]


def _cut(content: bytes, size: int) -> list[bytes]:
    return [content[i : i + size] for i in range(0, len(content) - size + 1, size)]


def joined(stream: BinaryIO, spans: Sequence[Span]) -> bytes:
    parts = []
    for offset, length in spans:
        stream.seek(offset)
        parts.append(stream.read(length))
    return b"".join(parts)


# --- what a code stream says of itself ---------------------------------------------------------------------------------


class Stream(NamedTuple):
    """precision : bits a sample; rows, columns, samples : of the image; each 0 where unknown
    colours : RGB, YBR_FULL or "" where it does not say; adobe : Adobe's marker is there
    is_whole : JPEG's segments follow each other without a gap, from the first to the image data
    """

    precision: int = 0
    rows: int = 0
    columns: int = 0
    samples: int = 0
    colours: str = ""
    adobe: bool = False
    is_whole: bool = False


def kind_of(frame: bytes) -> tuple[str, ...]:
    """The family of transfer syntaxes that a frame belongs to by its first bytes; () where they do not tell."""
    if frame[:3] == b"\xff\xd8\xff":
        marker = next(
            (m for m, _ in _segments(frame) if 0xC0 <= m <= 0xF7 and m not in (0xC4, 0xC8, 0xCC, *range(0xD0, 0xF0))), 0
        )
        return JPEG_LS if marker == 0xF7 else LOSSLESS if marker == 0xC3 else DCT if marker in (0xC0, 0xC1, 0xC2) else ()
    if frame[:4] == b"\xff\x4f\xff\x51":
        return HTJ2K if b"\xff\x50" in frame[40:100] and frame[6] & 0x40 else JPEG_2000  # Rsiz bit 14: Part 15
    if frame[:2] == b"\xff\x0a" or frame[4:12] == b"JXL \r\n\x87\n":
        return JPEG_XL
    if len(frame) >= 64 and 1 <= frame[0] <= 15 and frame[1:8] == b"\0\0\0\x40\0\0\0":
        return RLE
    return ()


def _segments(frame: bytes) -> list[tuple[int, bytes]]:
    """JPEG's marker segments up to its image data, SOS the last: marker and content. ITU-T T.81 B.1.1."""
    found, at = [], 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        marker, length = frame[at + 1], struct.unpack_from(">H", frame, at + 2)[0]
        if length < 2:
            break
        found.append((marker, frame[at + 4 : at + 2 + length]))
        if marker == 0xDA:
            break
        at += 2 + length
    return found


def _told(frame: bytes, family: tuple[str, ...]) -> Stream:
    if family in (JPEG_2000, HTJ2K):
        if len(frame) < 43:
            return Stream()
        right, bottom, left, top = struct.unpack_from(">4I", frame, 8)  # ISO/IEC 15444-1 A.5.1
        samples, precision = struct.unpack_from(">HB", frame, 40)
        return Stream((precision & 0x7F) + 1, max(bottom - top, 0), max(right - left, 0), samples)
    found = Stream()
    for marker, content in _segments(frame) if family in (DCT, LOSSLESS, JPEG_LS) else ():
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7) and len(content) >= 6:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", content)
            colours = "RGB" if content[6::3][:samples] in (b"RGB", b"rgb") else found.colours
            found = found._replace(precision=precision, rows=rows, columns=columns, samples=samples, colours=colours)
        elif marker == 0xDA:
            found = found._replace(is_whole=True)
        elif marker == 0xE0 and content.startswith(b"JFIF") and family == DCT:
            found = found._replace(colours=found.colours or "YBR_FULL")
        elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            colours = found.colours if family != DCT else "YBR_FULL" if content[11] else "RGB"
            found = found._replace(adobe=True, colours=colours)
    return found


# --- decoding ----------------------------------------------------------------------------------------------------------


def decode_native(stream: BinaryIO, start: int, layout: Layout, index: int) -> Decoded:
    """One frame of uncompressed pixel data that begin at `start`. Raises UndecodableError."""
    first = index * layout.bits // 8
    need = -(-(index + 1) * layout.bits // 8) - first
    end = stream.seek(0, 2)
    if start + first + need > end:
        raise UndecodableError(f"are cut off: {max(0, end - start - first)} of {need} bytes are there")
    if layout.allocated == 1:  # a frame need not begin with a byte, PS3.5 8.1.1; pydicom 3.0 may read one byte too few then
        stream.seek(start + first)
        skipped = index * layout.bits % 8
        packed = np.frombuffer(stream.read(-(-(skipped + layout.bits) // 8)), np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[skipped : skipped + layout.bits]
        return Decoded(bits.reshape(layout.rows, layout.columns), layout.photometric, 1, "numpy")
    stream.seek(start)
    photometric = "YBR_FULL_422" if layout.subsampled else layout.photometric
    options = _options(replace(layout, photometric=photometric))
    options |= {"number_of_frames": max(layout.frames, index + 1)}
    decoder = get_decoder(ExplicitVRBigEndian if layout.big else ExplicitVRLittleEndian)
    values, _ = decoder.as_array(stream, index=index, raw=True, **options)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if layout.keyword == "PixelData":
        shift = min(max(layout.high + 1 - layout.stored, 0), layout.allocated - layout.stored)
        values = lowest_bits(values >> shift if shift else values, layout.stored, layout.signed)
    return Decoded(values, layout.photometric, layout.stored, "pydicom")


def decode(frame: bytes, syntax: str, layout: Layout, limit: int, without: str = "") -> Decoded:
    """One encapsulated frame.

    limit : bytes to which a deflated frame may inflate
    without : a decoder that is not to be asked, for comparisons. Raises UndecodableError.
    """
    notes: list[str] = []
    if syntax in DEFLATED_FRAME and without != "zlib":
        return _inflated(frame, layout, limit)
    found = kind_of(frame)
    if found and syntax not in found:
        declared = known(syntax) or "something else"
        notes.append(
            f"(0002,0010) Transfer Syntax UID says {declared}; the pixels are {known(found[0])} and were read as such."
        )
        syntax = found[0]
    family = next((each for each in FAMILIES if syntax in each), ())
    if not family:
        raise UndecodableError("are of a kind that no decoder here reads")
    if family in (JPEG_2000, HTJ2K):
        # without the boxes of a whole JP2 file, which DICOM does not allow; damaged ones keep pydicom 3.0 busy for ever
        bare = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
        if bare < 0:
            raise UndecodableError("are damaged or cut off: they have no JPEG 2000 code stream")
        frame = frame[bare:]
    told = _told(frame, family)
    size, wanted = (told.rows, told.columns, told.samples), (layout.rows, layout.columns, layout.samples)
    if any(one and one != other for one, other in zip(size, wanted, strict=True)):  # before memory is taken for it
        raise UndecodableError(
            "are {} x {} with {} samples, the header says {} x {} with {} ".format(*size, *wanted)
            + "((0028,0010) Rows, (0028,0011) Columns, (0028,0002) Samples per Pixel)"
        )
    if syntax == DCT[0] and told.precision == 12:
        syntax = DCT[1]
    unended = family not in (RLE, JPEG_XL) and END not in frame[-64:]
    if unended and family == JPEG_LS:
        frame += END  # else CharLS searches beyond it for many seconds before it refuses it
    values, decoder, failed = _by_the_first_that_can(frame, syntax, layout, told, without)
    if failed:
        notes.append(f"Decoded by {decoder} after {' and '.join(failed)} failed.")
    bits = told.precision if told.precision and family not in LOSSLESS else layout.stored
    if told.precision and told.precision != layout.stored and family in (JPEG_LS, JPEG_2000, HTJ2K, DCT):
        notes.append(f"(0028,0101) Bits Stored says {layout.stored} bits, the compressed pixels {told.precision}.")
    colours = layout.photometric
    if layout.samples == 3:
        if family == DCT:
            colours = told.colours or ("RGB" if colours == "RGB" else "YBR_FULL")
            if (colours == "RGB") != (layout.photometric == "RGB"):
                words = f"(0028,0004) Photometric Interpretation says {layout.photometric}, the JPEG itself {colours}: read as that."
                notes.append(words)
        elif family == JPEG_XL or colours in ("YBR_ICT", "YBR_RCT"):
            colours = "RGB"
        elif told.colours:
            colours = told.colours
    warnings = []
    if unended:
        warnings.append("The compressed pixels have no end marker: they may be cut off, and parts of the image missing.")
    if failed:
        warnings.append(f"The pixels may be damaged: {' and '.join(failed)} refused them.")
    return Decoded(values, colours, bits, decoder, tuple(notes), tuple(warnings))


def _by_the_first_that_can(
    frame: bytes, syntax: str, layout: Layout, told: Stream, without: str
) -> tuple[np.ndarray, str, list[str]]:
    """Values, who decoded them, and who could not. A decoder that gives nothing but one value is doubted.

    Pillow and GDCM do that for a truncated JPEG 2000 frame (pydicom issue 966).
    """
    failed: list[str] = []
    doubted: tuple[np.ndarray, str] | None = None
    for name in (*ROADS[syntax], *(COMPARED.get(syntax, ()) if without else ())):
        if name == without:
            continue
        try:
            values = DECODERS[name](frame, syntax, layout, told)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except (
            BaseException
        ):  # decoders raise anything on damaged frames, and pylibjpeg's, in Rust, panics outside of Exception
            failed.append(name)
            continue
        if values.size > 1 and values.min() == values.max() and doubted is None:
            doubted = values, name
            continue
        if doubted is not None and values.min() != values.max():
            return values, name, [doubted[1], *failed]
        return (values, name, failed) if doubted is None else (*doubted, [])
    if doubted is not None:
        return (*doubted, [])
    raise UndecodableError(
        f"are damaged or cut off, or contradict their header ({' and '.join(failed) or 'no decoder'} refused them)"
    )


def lowest_bits(values: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """The lowest `bits` of each value, the highest of them as sign where `signed`; same item size."""
    values = values.view(f"{'i' if signed else 'u'}{values.dtype.itemsize}")
    shift = 8 * values.dtype.itemsize - bits
    return values if shift <= 0 else (values << shift) >> shift


def _fitted(values: np.ndarray, layout: Layout, bits: int) -> np.ndarray:
    """Values in a container of Bits Allocated at least. Raises ValueError where the size is another."""
    wanted = (layout.rows, layout.columns, 3)[: 2 if layout.samples == 1 else 3]
    if values.shape != wanted:
        raise ValueError(f"{values.shape}, not {wanted}")
    values = np.ascontiguousarray(values)
    size = max(values.dtype.itemsize, layout.allocated // 8, 1)
    return lowest_bits(values.view(f"u{values.dtype.itemsize}").astype(f"u{size}", copy=False), bits, layout.signed)


def _options(layout: Layout) -> dict[str, object]:
    """What pydicom's decoders are told."""
    given: dict[str, object] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "bits_allocated": layout.allocated,
        "number_of_frames": 1,
        "pixel_keyword": layout.keyword,
        "pixel_vr": "OW" if layout.word else "OB",
    }
    if layout.keyword == "PixelData":
        given |= {"bits_stored": layout.stored, "pixel_representation": int(layout.signed), "correct_unused_bits": False}
    return given | ({"planar_configuration": layout.planar} if layout.samples > 1 else {})


def _by_plugin(name: str) -> Callable[[bytes, str, Layout, Stream], np.ndarray]:
    """pydicom's plug-in of that name, for one frame."""

    def values(frame: bytes, syntax: str, layout: Layout, told: Stream) -> np.ndarray:
        if name == "pillow" and told.adobe and layout.samples == 3 and told.colours == "YBR_FULL":
            raise ValueError("pydicom's Pillow plug-in converts to RGB where Adobe's marker stands")
        if layout.allocated == 1 and syntax in RLE:  # PS3.5 8.2.2: bits are packed before they are encoded
            packed = replace(layout, rows=1, columns=-(-layout.rows * layout.columns // 8), allocated=8, stored=8, high=7)
            return _unpacked(values(frame, syntax, packed, told), layout)
        padded = frame + b"\0" * (len(frame) % 2)
        source = ITEM + bytes(4) + ITEM + struct.pack("<I", len(padded)) + padded + DELIMITER + bytes(4)
        found, _ = get_decoder(syntax).as_array(source, index=0, raw=True, decoding_plugin=name, **_options(layout))
        bits = told.precision if told.precision and syntax in (*JPEG_LS, *JPEG_2000, *HTJ2K) else layout.stored
        return found if layout.allocated == 1 else _fitted(found, layout, bits)

    return values


def _by_imagecodecs(frame: bytes, syntax: str, layout: Layout, told: Stream) -> np.ndarray:
    """libjpeg-turbo, CharLS, OpenJPEG, OpenJPH and libjxl, colours left as they are encoded."""
    if syntax in (*DCT, *LOSSLESS):
        same = "RGB" if layout.samples == 3 else None  # from and to one space: nothing is converted
        values = imagecodecs.jpeg8_decode(frame, colorspace=same, outcolorspace=same)
    elif syntax in JPEG_LS:
        values = imagecodecs.jpegls_decode(frame)
    elif syntax in HTJ2K[:2] and hasattr(imagecodecs, "htj2k_decode"):  # OpenJPH; absent from imagecodecs for Python 3.10
        values = imagecodecs.htj2k_decode(frame, planar=False)
    elif syntax in JPEG_XL:
        values = imagecodecs.jpegxl_decode(frame)
    else:
        values = imagecodecs.jpeg2k_decode(frame, planar=False)
    if layout.samples == 3 and values.ndim == 3 and values.shape[0] == 3 and values.shape[2] != 3:
        values = np.moveaxis(values, 0, -1)
    bits = told.precision if told.precision and syntax not in LOSSLESS else layout.stored
    return _fitted(values, layout, bits)


def _by_gdcm(frame: bytes, syntax: str, layout: Layout, told: Stream) -> np.ndarray:
    """GDCM: through pydicom, or without it for lossy JPEG of 12 bits, which pydicom keeps from it, for comparisons."""
    if syntax not in DCT:
        if not told.is_whole or not 2 <= told.precision <= min(16, layout.allocated):
            raise ValueError("damaged where GDCM would end the process")
        return _by_plugin("gdcm")(frame, syntax, layout, told)
    if told.precision != 12 or layout.samples != 1 or layout.allocated != 16:
        raise ValueError("asked for 12 bits, grey, only")
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((layout.columns, layout.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, int(layout.signed)))
    content = image.GetBuffer().encode("utf-8", "surrogateescape")
    return _fitted(np.frombuffer(content, "<u2").reshape(layout.rows, layout.columns), layout, 12)


def _unpacked(packed: np.ndarray, layout: Layout) -> np.ndarray:
    """Bits of bytes, the lowest first, as an image. PS3.5 8.1.1."""
    count = layout.rows * layout.columns
    return np.unpackbits(packed.reshape(-1).view(np.uint8), bitorder="little")[:count].reshape(layout.rows, layout.columns)


def _inflated(frame: bytes, layout: Layout, limit: int) -> Decoded:
    """Deflated Image Frame Compression: a frame as it is uncompressed, deflated. PS3.5 A.4.13."""
    need = -(-layout.bits // 8)
    if need > limit:
        raise UndecodableError(f"inflate to more than {limit >> 20} MiB")
    try:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, need)
    except zlib.error:
        raise UndecodableError("are damaged: they cannot be inflated") from None
    whole = replace(layout, frames=1, big=False, word=False)
    return replace(decode_native(BytesIO(content), 0, whole, 0), decoder="zlib")


DECODERS: dict[str, Callable[[bytes, str, Layout, Stream], np.ndarray]] = {
    "imagecodecs": _by_imagecodecs,
    "gdcm": _by_gdcm,
    **{name: _by_plugin(name) for name in ("pillow", "pydicom", "pyjpegls", "pylibjpeg")},
}
