"""Files that are crafted to take the reader down, and the builders of files that they are made with.

Every one is generated; nothing is stored. fuzz.py sends them through worker processes; test_safety.py names each in a test.
"""

from __future__ import annotations

import gzip
import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from pydicom.datadict import dictionary_VR, tag_for_keyword

MIB = 1 << 20
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")  # PS3.5 7.1.2
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
PIXELS = b"\xe0\x7f\x10\x00"
UNDEFINED = b"\xff" * 4


def picture(form: str, mode: str = "RGB", size: tuple[int, int] = (24, 17), **options: Any) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(values).convert(mode).save(out, form, **options)
    return out.getvalue()


def nifti(shape: tuple[int, ...], values: bytes, offset: float = 352, code: int = 4, bits: int = 16) -> bytes:
    """A little-endian NIfTI-1 file, by nifti1.h."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into(f"<{1 + len(shape)}h", head, 40, len(shape), *shape)
    struct.pack_into("<hh", head, 70, code, bits)
    struct.pack_into("<8f", head, 76, 1, 0.5, 0.5, 2, 1, 1, 1, 1)
    struct.pack_into("<fff", head, 108, offset, 1, 0)
    struct.pack_into("<hh", head, 252, 0, 1)
    struct.pack_into("<12f", head, 280, -0.5, 0, 0, 10, 0, 0.5, 0, 20, 0, 0, 2, 30)
    head[344:348] = b"n+1\0"
    return bytes(head) + values


def mha(size: str, values: bytes, data: str = "LOCAL", more: str = "") -> bytes:
    lines = f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n{more}"
    return (
        f"{lines}DimSize = {size}\nElementSpacing = 1 1 2\nElementType = MET_SHORT\nElementDataFile = {data}\n".encode()
        + values
    )


def nrrd(sizes: str, values: bytes, encoding: str = "raw", more: str = "") -> bytes:
    lines = f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
    axes = "space directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (0,0,0)\n"
    return f"{lines}{axes}endian: little\nencoding: {encoding}\n{more}\n".encode() + values


def element(keyword: str, value: Any, vr: str = "") -> bytes:
    """Explicit VR Little Endian. value : int or ints for US and SS, text, or bytes as they are. keyword or "ggggeeee"."""
    tag = tag_for_keyword(keyword) or int(keyword, 16)
    if not vr:
        vr = dictionary_VR(tag).split(" ")[0]
    if isinstance(value, str):
        value = value.encode("latin-1", "replace")
        value += b" " * (len(value) % 2)
    elif not isinstance(value, bytes):
        numbers = [value] if isinstance(value, int) else list(value)
        value = struct.pack(f"<{len(numbers)}H", *numbers)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr.encode() in LONG:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", min(len(value), 65535)) + value[:65535]


def sequences(depth: int, defined: bool, closed: bool = True) -> bytes:
    head = b"\x08\x00\x15\x11SQ\0\0"
    if not defined:
        end = ITEM_END + bytes(4) + SEQUENCE_END + bytes(4) if closed else b""
        return (head + UNDEFINED + ITEM + UNDEFINED) * depth + end * depth
    parts: list[bytes] = []
    for level in range(depth):  # from the innermost: each is 20 bytes longer than what it holds
        parts.append(head + struct.pack("<I", 20 * level + 8) + ITEM + struct.pack("<I", 20 * level))
    return b"".join(reversed(parts))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@dataclass(frozen=True)
class Bomb:
    """make : writes it into a folder and says where. reads : it may be shown, since something honest is in it.

    slow : takes more than a second or so, left to `make fuzz`
    """

    name: str
    make: Callable[[Path], Path]
    reads: bool = False
    slow: bool = False


EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
GREY: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7\0",
    "Modality": "OT",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": 64,
    "Columns": 64,
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "PixelRepresentation": 0,
}


def dicom(syntax: str = EXPLICIT, pixels: bytes | None = None, tail: bytes = b"", head: bytes = b"", **tags: Any) -> bytes:
    """A file of GREY with other tags. pixels : the whole element (7FE0,0010); head, tail : elements in front and behind."""
    if pixels is None:
        pixels = element("PixelData", bytes(range(256)) * 16, "OB")
    data = head + b"".join(element(k, v) for k, v in (GREY | tags).items() if v is not None) + tail + pixels
    return _meta(syntax) + data


def _meta(syntax: str) -> bytes:
    uid = element("TransferSyntaxUID", syntax.encode() + b"\0" * (len(syntax) % 2))
    return bytes(128) + b"DICM" + element("FileMetaInformationGroupLength", struct.pack("<I", len(uid)), "UL") + uid


def fragments(*parts: bytes, table: bytes = b"", closed: bool = True) -> bytes:
    """Encapsulated pixels. PS3.5 A.4."""
    items = b"".join(ITEM + struct.pack("<I", len(p) + len(p) % 2) + p + b"\0" * (len(p) % 2) for p in (table, *parts))
    return PIXELS + b"OB\0\0" + UNDEFINED + items + (SEQUENCE_END + bytes(4) if closed else b"")


def zeros(mebibytes: int, bits: int = -zlib.MAX_WBITS) -> bytes:
    """So many MiB of zeros deflated, quickly: one flushed block again and again. bits : as in zlib; 31 for gzip."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = block * mebibytes + packer.flush()
    if bits == 31:
        return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + body + struct.pack("<II", 0, mebibytes * MIB & 0xFFFFFFFF)
    return (b"\x78\xda" + body + bytes(4)) if bits > 0 else body


def _sized(content: bytes, marker: bytes, at: int, form: str, *values: int) -> bytes:
    """A JPEG-like stream with other numbers behind a marker."""
    place = content.index(marker) + at
    size = struct.calcsize(form)
    return content[:place] + struct.pack(form, *values) + content[place + size :]


def _jpeg(rows: int, columns: int, marker: int = 0xC0) -> bytes:
    wide = _sized(picture("JPEG", "L", (64, 64)), b"\xff\xc0", 5, ">HH", rows, columns)
    return wide.replace(b"\xff\xc0", bytes([255, marker]), 1)


def _scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    content = picture("JPEG", "L", (2000, 2000), progressive=True, quality=5)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def _j2k(*sizes: tuple[int, int]) -> bytes:
    """JPEG 2000 with other numbers (at, value) in SIZ: 6 width, 10 height, 22 and 26 tiles, ISO 15444-1 A.5.1."""
    content = picture("JPEG2000", "L", (64, 64), no_jp2=True)
    for at, value in sizes:
        content = _sized(content, b"\xff\x51", at, ">I", value)
    return content


def _jls(rows: int, columns: int) -> bytes:
    """JPEG-LS: a frame header, ITU-T T.87 C.2.2, and noise."""
    frame = struct.pack(">HHBHHBBBB", 0xFFF7, 11, 8, rows, columns, 1, 1, 0x11, 0)
    scan = struct.pack(">HHBBBBBB", 0xFFDA, 8, 1, 1, 0, 0, 0, 0)
    return b"\xff\xd8" + frame + scan + bytes(range(1, 200)) + b"\xff\xd9"


def _rle(*segments: bytes, offsets: tuple[int, ...] | None = None) -> bytes:
    """PS3.5 G.5."""
    starts = offsets or tuple(64 + sum(map(len, segments[:i])) for i in range(len(segments)))
    return struct.pack("<16I", len(starts), *starts, *(0,) * (15 - len(starts))) + b"".join(segments)


def _palette(descriptor: list[int], data: bytes, segmented: str = "") -> bytes:
    """Explicit elements of a palette in three colours."""
    return b"".join(
        element(f"{c}PaletteColorLookupTableDescriptor", descriptor, "US")
        + element(f"{segmented}{c}PaletteColorLookupTableData", data, "OW")
        for c in ("Red", "Green", "Blue")
    )


def _lut(mebibytes: int) -> bytes:
    return element("LUTDescriptor", [0, 0, 16], "US") + element("LUTData", bytes(mebibytes * MIB), "OW")


def _item(content: bytes) -> bytes:
    return ITEM + struct.pack("<I", len(content)) + content


def _dicom_bombs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    plain = dicom()
    rest = plain[len(_meta(EXPLICIT)) :]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    front = packer.compress(rest[: rest.index(PIXELS)] + PIXELS + b"OB\0\0" + struct.pack("<I", 1 << 30))
    front += packer.flush(zlib.Z_FULL_FLUSH)
    yield "deflated DICOM of 1 GiB of zeros", lambda: _meta(DEFLATED) + zeros(1024)
    yield "deflated DICOM whose pixels are 1 GiB of zeros", lambda: _meta(DEFLATED) + front + zeros(1024)
    yield (
        "deflated DICOM that inflates to another one",
        lambda: _meta(DEFLATED) + zlib.compress(zlib.compress(zeros(1024))[2:-4], 9)[2:-4],
    )
    frame = "1.2.840.10008.1.2.8.1"
    yield "Deflated Image Frame of 1 GiB", lambda: dicom(frame, fragments(zeros(1024)))
    yield "Deflated Image Frame in a hundred fragments", lambda: dicom(frame, fragments(*[zeros(16)] * 100))
    yield "JPEG after deflate that inflates to 1 GiB", lambda: dicom("1.2.840.10008.1.2.4.95", fragments(zeros(1024)))
    rle = "1.2.840.10008.1.2.5"
    yield "RLE that expands to 500 MB", lambda: dicom(rle, fragments(_rle(b"\x81\x00" * (2 << 20))))
    yield (
        "RLE of 15 segments in one place",
        lambda: dicom(
            rle, fragments(_rle(b"\x81\x00" * (1 << 20), offsets=(64,) * 15)), BitsAllocated=32, BitsStored=32, HighBit=31
        ),
    )
    yield (
        "RLE whose segments begin behind its end",
        lambda: dicom(rle, fragments(_rle(b"\x81\0" * 32, offsets=(2**32 - 1,)))),
    )
    yield "RLE of 2^32-1 segments", lambda: dicom(rle, fragments(b"\xff" * 64 + b"\x81\0" * 32))
    yield "RLE of 65535 x 65535", lambda: dicom(rle, fragments(_rle(b"\x81\0" * 32)), Rows=65535, Columns=65535)
    yield "RLE that fills no row", lambda: dicom(rle, fragments(_rle(b"\x80" * (4 << 20))))
    for number, marker in ((50, 0xC0), (51, 0xC1), (57, 0xC3), (70, 0xC3)):
        uid = f"1.2.840.10008.1.2.4.{number}"
        yield (
            f"DICOM of 64 x 64 whose JPEG (.{number}) is 65535 x 65535",
            lambda uid=uid, marker=marker: dicom(uid, fragments(_jpeg(65535, 65535, marker))),
        )
    yield (
        "DICOM with a JPEG of 5000 scans",
        lambda: dicom("1.2.840.10008.1.2.4.50", fragments(_scans(5000)), Rows=2000, Columns=2000),
    )
    for number in (80, 81):
        yield (
            f"DICOM of 64 x 64 whose JPEG-LS (.{number}) is 65535 x 65535",
            lambda number=number: dicom(f"1.2.840.10008.1.2.4.{number}", fragments(_jls(65535, 65535))),
        )
    yield (
        "JPEG-LS and its header of 2000 x 2000 in 200 bytes",
        lambda: dicom("1.2.840.10008.1.2.4.80", fragments(_jls(2000, 2000)), Rows=2000, Columns=2000),
    )
    far = 2**32 - 1
    for number in (90, 91, 201):
        yield (
            f"DICOM of 64 x 64 whose JPEG 2000 (.{number}) is 2^32-1 x 2^32-1",
            lambda number=number: dicom(f"1.2.840.10008.1.2.4.{number}", fragments(_j2k((6, far), (10, far)))),
        )
    yield (
        "JPEG 2000 of a million tiles of one pixel",
        lambda: dicom(
            "1.2.840.10008.1.2.4.90", fragments(_j2k((6, 1000), (10, 1000), (22, 1), (26, 1))), Rows=1000, Columns=1000
        ),
    )
    yield (
        "JPEG 2000 of 16384 components",
        lambda: dicom("1.2.840.10008.1.2.4.90", fragments(_sized(_j2k(), b"\xff\x51", 38, ">H", 16384))),
    )
    yield (
        "JPEG 2000 of 65535 layers",
        lambda: dicom("1.2.840.10008.1.2.4.90", fragments(_sized(_j2k(), b"\xff\x52", 6, ">H", 65535))),
    )
    # sizes
    yield "DICOM of 65535 x 65535", lambda: dicom(Rows=65535, Columns=65535)
    yield "DICOM of 65535 samples", lambda: dicom(SamplesPerPixel=65535)
    yield "DICOM of 65535 bits", lambda: dicom(BitsAllocated=65535, BitsStored=65535, HighBit=65534)
    yield "DICOM of 2^31-1 frames", lambda: dicom(NumberOfFrames="2147483647")
    yield "DICOM of 10^400 frames", lambda: dicom(NumberOfFrames="9" * 400)
    yield (
        "DICOM of 50,000 empty frames",
        lambda: dicom("1.2.840.10008.1.2.4.50", fragments(*[b""] * 50_000), NumberOfFrames="50000"),
    )
    group = element("FrameVOILUTSequence", _item(element("WindowCenter", "1") + element("WindowWidth", "2")))
    yield (
        "a hundred thousand functional groups",
        lambda: dicom(NumberOfFrames="100000", tail=element("PerFrameFunctionalGroupsSequence", _item(group) * 100_000)),
    )
    yield (
        "overlays of 65535 x 65535",
        lambda: dicom(
            pixels=element("PixelData", bytes(4096), "OB")
            + b"".join(
                element(f"{0x6000 + 2 * i:04x}0010", [65535], "US") + element(f"{0x6000 + 2 * i:04x}0011", [65535], "US")
                for i in range(16)
            )
        ),
    )
    # tables
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    yield "a palette of 65536 entries in 2 bytes", lambda: dicom(**palette, tail=_palette([0, 0, 16], b"\0\1"))
    yield "a palette of 32 MiB", lambda: dicom(**palette, tail=_palette([0, 0, 16], bytes(32 << 20)))
    loop = struct.pack("<4H", 2, 1, 0, 0) * 5000  # indirect segments that repeat the first ones
    yield "a segmented palette that repeats itself", lambda: dicom(**palette, tail=_palette([0, 0, 16], loop, "Segmented"))
    deep = struct.pack("<4H", 0, 2, 1, 2) + b"".join(
        struct.pack("<4H", 2, 2, 8 * i & 0xFFFF, 8 * i >> 16) for i in range(2000)
    )
    yield (
        "a segmented palette that doubles at each step",
        lambda: dicom(**palette, tail=_palette([0, 0, 16], deep, "Segmented")),
    )
    line = struct.pack("<3H", 1, 65535, 7) * 20_000
    yield "a segmented palette of a billion entries", lambda: dicom(**palette, tail=_palette([0, 0, 16], line, "Segmented"))
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        yield f"{keyword} of 32 MiB", lambda keyword=keyword: dicom(tail=element(keyword, _item(_lut(32))))
    yield "an ICC profile of 32 MiB", lambda: dicom(
        SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
        pixels=element("ICCProfile", bytes(32 << 20), "OB") + element("PixelData", bytes(64 * 64 * 3), "OB"),
    )  # fmt: skip
    # structure
    for depth in (17, 5000, 100_000):
        yield f"sequences {depth} deep, of undefined length", lambda depth=depth: dicom(tail=sequences(depth, False))
        yield f"sequences {depth} deep, of defined length", lambda depth=depth: dicom(tail=sequences(depth, True))
    yield "sequences 100,000 deep and never closed", lambda: dicom(tail=sequences(100_000, False, closed=False))
    implicit = (b"\x08\x00\x15\x11" + UNDEFINED + ITEM + UNDEFINED) * 50_000
    yield (
        "unknown elements with sequences 50,000 deep in them",
        lambda: dicom(tail=struct.pack("<HH", 0x0009, 0x1001) + b"UN\0\0" + UNDEFINED + ITEM + UNDEFINED + implicit),
    )
    yield "an implicit file of sequences 50,000 deep", lambda: _meta("1.2.840.10008.1.2") + implicit
    yield (
        "a million elements",
        lambda: dicom(
            tail=b"".join(
                struct.pack("<HH2sH", 0x0009 + 2 * (i >> 15), 0x1000 + (i & 0x7FFF), b"LO", 0) for i in range(1_000_000)
            )
        ),
    )
    yield "one element a million times", lambda: dicom(tail=element("WindowCenter", "1 ") * 1_000_000)
    yield (
        "a sequence of a million items",
        lambda: dicom(tail=element("ReferencedStudySequence", (ITEM + bytes(4)) * 1_000_000)),
    )
    many = ("1\\" * 32_000)[:-1] + " "
    for keyword in (
        "WindowCenter",
        "PixelSpacing",
        "ImageType",
        "SpecificCharacterSet",
        "NumberOfFrames",
        "SeriesInstanceUID",
    ):
        yield f"{keyword} of 32,000 values", lambda keyword=keyword: dicom(**{keyword: many})
    millions = b"1\\" * (4 << 20)
    yield (
        "four million values in a text of another VR",
        lambda: dicom(tail=struct.pack("<HH", 0x0028, 0x1050) + b"UT\0\0" + struct.pack("<I", len(millions)) + millions),
    )
    yield (
        "implicit DICOM with eight million window centres",
        lambda: (
            _meta("1.2.840.10008.1.2")
            + struct.pack("<HHIH", 0x28, 0x10, 2, 8)
            + struct.pack("<HHIH", 0x28, 0x11, 2, 8)
            + struct.pack("<HHI", 0x28, 0x1050, 2 * len(millions))
            + millions * 2
        ),
    )
    yield "a number of 60,000 digits", lambda: dicom(WindowCenter="9" * 60_000, WindowWidth="1")
    yield (
        "names of 20,000 components",
        lambda: dicom(PatientName="^=" * 20_000, head=element("SpecificCharacterSet", "ISO_IR 192")),
    )
    yield (
        "escape sequences, 30,000 of them",
        lambda: dicom(SpecificCharacterSet="ISO 2022 IR 6\\ISO 2022 IR 87", PatientName="\x1b$B\x1b(B" * 8000),
    )
    for name, length in {"2^32-2": 2**32 - 2, "2^31": 2**31, "undefined": 2**32 - 1}.items():
        yield f"pixels of length {name}", lambda length=length: dicom(pixels=PIXELS + b"OB\0\0" + struct.pack("<I", length))
        yield (
            f"a private element of length {name}",
            lambda length=length: dicom(tail=b"\x09\x00\x01\x10UN\0\0" + struct.pack("<I", length)),
        )
    baseline = "1.2.840.10008.1.2.4.50"
    honest = _jpeg(64, 64)
    yield "fragments without an end", lambda: dicom(baseline, fragments(honest, closed=False))
    yield "a fragment of 4 GiB", lambda: dicom(baseline, fragments(closed=False) + ITEM + struct.pack("<I", 2**32 - 16))
    yield "a fragment of undefined length", lambda: dicom(baseline, fragments(closed=False) + ITEM + UNDEFINED + honest)
    yield "a million empty fragments", lambda: dicom(baseline, fragments(*[b""] * 1_000_000))
    yield (
        "an offset table of 2^30 entries",
        lambda: dicom(baseline, PIXELS + b"OB\0\0" + UNDEFINED + ITEM + struct.pack("<I", 2**32 - 4) + bytes(64)),
    )
    yield (
        "an offset table of a million entries",
        lambda: dicom(baseline, fragments(honest, table=struct.pack("<I", 2**32 - 2) * 1_000_000), NumberOfFrames="4000"),
    )
    yield (
        "an extended offset table that points to 2^63",
        lambda: dicom(
            baseline,
            element("ExtendedOffsetTable", struct.pack("<Q", 2**63), "OV")
            + element("ExtendedOffsetTableLengths", struct.pack("<Q", 2**63), "OV")
            + fragments(honest),
        ),
    )
    yield "a meta group of 4 GiB", lambda: plain.replace(struct.pack("<I", len(_meta(EXPLICIT)) - 144), b"\xff" * 4, 1)
    yield (
        "a meta group of 32 MiB",
        lambda: bytes(128) + b"DICM" + element("00020102", bytes(32 << 20), "OB") + _meta(EXPLICIT)[132:] + rest,
    )
    yield "DICOM that is also a program", lambda: b"MZ" + plain[2:]
    yield (
        "a DICOMDIR of ../../../etc/passwd",
        lambda: (
            _meta(EXPLICIT)
            + element("SOPClassUID", "1.2.840.10008.1.3.10")
            + element(
                "DirectoryRecordSequence", _item(element("ReferencedFileID", "..\\..\\..\\etc\\passwd") + element("Rows", 8))
            )
        ),
    )


def _png(width: int, height: int, bits: int = 8, colour: int = 0, data: bytes = b"", more: bytes = b"") -> bytes:
    shape = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", shape) + more + chunk(b"IDAT", data or zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _tiff(*entries: tuple[int, int, int, int], next_page: int = 0, tail: bytes = bytes(64)) -> bytes:
    """One directory at 8. entries : tag, type, count, value."""
    body = b"".join(struct.pack("<HHII", *e) for e in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", next_page) + tail


def _page(width: int, height: int, compression: int = 1, **more: int) -> list[tuple[int, int, int, int]]:
    found = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: height, 279: 64}
    return [(tag, 4, 1, value) for tag, value in found.items()]


def _pages(count: int) -> bytes:
    """A page, and a chain of directories of one tag each."""
    first = _tiff(*_page(8, 8), next_page=186)  # 64 bytes of pixels behind 122 of header
    return first + b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 1, 186 + 18 * (i + 1)) for i in range(count))


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for k, b in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _bmp(width: int, height: int, bits: int = 8, compression: int = 0, data: bytes = bytes(100)) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + head + bytes(1024) + data


def _picture_bombs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    small = picture("PNG", "L", (8, 8))
    wide = 2**24 - 1
    yield "PNG of 2^31-1 x 2^31-1", lambda: _png(2**31 - 1, 2**31 - 1)
    yield "PNG of 13000 x 13000 zeros", lambda: _png(13000, 13000, data=zeros(162, 15))
    yield "PNG of one row of 10^9 pixels", lambda: _png(10**9, 1, bits=1)
    yield "PNG of 8 x 8 with 1 GiB of pixels", lambda: _png(8, 8, data=zeros(1024, 15))
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")):
        yield (
            f"PNG with a {kind.decode()} chunk of 1 GiB",
            lambda kind=kind, head=head: small[:33] + chunk(kind, head + zeros(1024, 15)) + small[33:],
        )
    yield "PNG of a million chunks", lambda: small[:33] + chunk(b"teSt", b"") * 1_000_000 + small[33:]
    yield (
        "PNG with ten thousand compressed texts",
        lambda: small[:33] + chunk(b"zTXt", b"a\0\0" + zeros(1, 15)) * 10_000 + small[33:],
    )
    yield "APNG of 2^31-1 frames", lambda: small[:33] + chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + small[33:]
    yield "JPEG of 65535 x 65535", lambda: _jpeg(65535, 65535)
    yield "JPEG of 5000 scans", lambda: _scans(5000)
    segment = b"\xff\xe1" + struct.pack(">H", 65535) + b"Exif\0\0" + bytes(65527)
    yield "JPEG of 500 EXIF segments", lambda: b"\xff\xd8" + segment * 500 + _jpeg(64, 64)[2:]
    exif = b"Exif\0\0" + _tiff((0x8769, 4, 1, 8), next_page=8)
    yield (
        "JPEG whose EXIF points at itself",
        lambda: b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + _jpeg(64, 64)[2:],
    )
    yield "TIFF of a million pages", lambda: _pages(1_000_000)
    yield "TIFF whose page is its next", lambda: _tiff(*_page(8, 8), next_page=8)
    two = b"".join(struct.pack("<HHII", *e) for e in _page(8, 8))
    yield (
        "TIFF of two pages in a circle",
        lambda: b"II*\0\x08\0\0\0\x09\0" + two + struct.pack("<I", 122) + b"\x09\0" + two + struct.pack("<I", 8) + bytes(64),
    )
    for name, tag in (("StripOffsets", 273), ("BitsPerSample", 258), ("ColorMap", 320), ("TileOffsets", 324)):
        yield (
            f"TIFF with 2^32-1 values in {name}",
            lambda tag=tag: _tiff(*(e for e in _page(8, 8) if e[0] != tag), (tag, 4, 2**32 - 1, 8)),
        )
    yield (
        "TIFF of a billion tiles",
        lambda: _tiff(*_page(60000, 60000), (322, 4, 1, 1), (323, 4, 1, 1), (324, 4, 1, 8), (325, 4, 1, 8)),
    )
    yield (
        "TIFF of 1900 x 1900 in one tile of 2^31",
        lambda: _tiff(
            *(e for e in _page(1900, 1900) if e[0] not in (273, 278, 279)),
            *((322, 4, 1, 2**31 - 16), (323, 4, 1, 2**31 - 16), (324, 4, 1, 8), (325, 4, 1, 64)),
        ),
    )
    packed = zeros(1024, 15)
    yield (
        "TIFF of 1000 x 1000 whose strip inflates to 1 GiB",
        lambda: _tiff(
            *((t, y, n, {273: 200, 279: len(packed)}.get(t, v)) for t, y, n, v in _page(1000, 1000, 8)),
            tail=bytes(200 - 122) + packed,
        ),
    )
    yield "TIFF of 65535 samples", lambda: _tiff(*((t, y, n, 65535 if t == 277 else v) for t, y, n, v in _page(64, 64)))
    yield "TIFF of 100000 x 100000", lambda: _tiff(*_page(100_000, 100_000))
    yield "BigTIFF that begins at 2^63", lambda: b"II\x2b\0\x08\0\0\0" + struct.pack("<Q", 2**63) + bytes(64)
    yield (
        "TIFF with 4 MiB of XMP in circles of EXIF",
        lambda: _tiff(*_page(8, 8), (0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (700, 1, 4 << 20, 200), tail=bytes(4 << 20)),
    )
    vp8x = struct.pack("<I", 0) + struct.pack("<I", wide)[:3] * 2
    yield "WebP of 2^24 x 2^24", lambda: _riff((b"VP8X", vp8x), (b"VP8L", b"\x2f" + bytes(40)))
    yield (
        "lossless WebP of 16383 x 16383",
        lambda: _riff((b"VP8L", b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(40))),
    )
    still = picture("WEBP", "RGB", (8, 8), lossless=True)[12:]
    moving = struct.pack("<I", 2) + struct.pack("<I", 7)[:3] * 2
    frame = bytes(6) + struct.pack("<I", 7)[:3] * 2 + bytes(4) + still
    yield (
        "WebP of a hundred thousand frames",
        lambda: _riff((b"VP8X", moving), (b"ANIM", bytes(6)), *[(b"ANMF", frame)] * 100_000),
    )
    yield "WebP whose chunk is 4 GiB", lambda: b"RIFF\xff\xff\xff\xffWEBPVP8L\xf6\xff\xff\xff\x2f" + bytes(40)
    for name, width, height in (
        ("2^31-1 x 2^31-1", 2**31 - 1, 2**31 - 1),
        ("64 x -2^31", 64, -(2**31)),
        ("-64 x 64", -64, 64),
    ):
        yield f"BMP of {name}", lambda width=width, height=height: _bmp(width, height)
    yield "BMP of run lengths, 30000 x 30000", lambda: _bmp(30000, 30000, 8, 1, b"\xff\0" * 1000 + b"\0\1")
    yield "BMP of 1900 x 1900 in 8 bytes of run lengths", lambda: _bmp(1900, 1900, 8, 1, b"\xff\0\0\2\xff\xff\0\1")
    yield "BMP with a header of 2^31", lambda: _bmp(8, 8)[:14] + struct.pack("<I", 2**31 - 1) + _bmp(8, 8)[18:]
    yield "BMP with a palette of 2^32-1", lambda: _bmp(8, 8)[:46] + struct.pack("<I", 2**32 - 1) + _bmp(8, 8)[50:]


# zip entries, raw: what is said of them need not be true. APPNOTE 4.3


@dataclass(frozen=True)
class Entry:
    name: bytes
    data: bytes = b""
    method: int = 0
    size: int | None = None  # as the directory tells it
    flags: int = 0
    attributes: int = 0
    at: int | None = None  # where the directory says that it stands
    packed: int | None = None
    crc: int | None = None


def archive(*entries: Entry, count: int | None = None) -> bytes:
    body, directory = bytearray(), bytearray()
    for e in entries:
        at = len(body) if e.at is None else e.at
        packed = len(e.data) if e.packed is None else e.packed
        crc = zlib.crc32(e.data) if e.crc is None else e.crc
        sizes = struct.pack("<III", crc, packed, packed if e.size is None else e.size)
        if e.at is None:
            body += struct.pack("<4sHHHHH", b"PK\3\4", 20, e.flags, e.method, 0, 33) + sizes
            body += struct.pack("<HH", len(e.name), 0) + e.name + e.data
        directory += struct.pack("<4sHHHHHH", b"PK\1\2", 0x314, 20, e.flags, e.method, 0, 33) + sizes
        directory += struct.pack("<HHHHHII", len(e.name), 0, 0, 0, 0, e.attributes, at) + e.name
    number = min(len(entries) if count is None else count, 65535)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, number, number, len(directory), len(body), 0)
    return bytes(body + directory + end)


def _archive_bombs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    honest = Entry(b"a.png", picture("PNG"))

    def nested(depth: int, wide: int) -> bytes:
        inner = archive(Entry(b"a.bin", zeros(1024), 8, 1 << 30))
        for _ in range(depth):
            inner = archive(*(Entry(b"%d.zip" % i, inner) for i in range(wide)))
        return inner

    yield "zip of zips of zips, as 42.zip", lambda: nested(3, 3)
    yield "zip that holds itself as an entry", lambda: archive(honest, Entry(b"b.zip", b"PK\3\4", at=0, packed=40))
    yield (
        "zip whose entries share bytes",
        lambda: archive(
            Entry(b"0.png", zeros(256), 8, 1 << 28),
            *(Entry(b"%d.png" % i, b"", 8, 1 << 28, at=0, packed=260_000) for i in range(1, 250)),
        ),
    )
    yield "zip whose entries overlap by one byte", lambda: archive(honest, Entry(b"b.png", at=10, packed=len(honest.data)))
    yield "zip of 100,000 entries", lambda: archive(honest, *(Entry(b"%d" % i, b"", at=0) for i in range(100_000)))
    yield "zip of 100,000 folders", lambda: archive(honest, *(Entry(b"%d/" % i, at=0) for i in range(100_000)))
    yield "zip of one entry of 1 GiB of zeros", lambda: archive(Entry(b"a.dcm", zeros(1024), 8, 1 << 30))
    yield "zip of one entry that claims 1 byte and holds 1 GiB", lambda: archive(Entry(b"a.dcm", zeros(1024), 8, 1))
    yield "zip of one entry that claims 4 GiB and holds 1 byte", lambda: archive(Entry(b"a.dcm", b"x", 0, 2**32 - 2))
    yield "zip whose entry claims 4 GiB of the archive", lambda: archive(Entry(b"a.dcm", b"x", packed=2**32 - 2))
    crc = zlib.crc32(bytes(MIB))
    yield (
        "zip of 900 entries of 1 MiB of zeros",
        lambda: archive(*(Entry(b"%d" % i, zeros(1), 8, MIB, crc=crc) for i in range(900))),
    )
    for name, path in {
        "an absolute path": b"/tmp/promptscope-escaped",
        "..": b"../../../../tmp/promptscope-escaped",
        ".. in its middle": b"a/../../promptscope-escaped",
        "backslashes": b"..\\..\\promptscope-escaped",
        "a drive": b"C:\\promptscope-escaped",
        "a zero byte": b"a\0/../promptscope-escaped",
        "a name of 65,000 letters": b"x" * 65_000,
        "a name that is empty": b"",
        "a name of terminal codes": b"\x1b]0;promptscope-escaped\x07.png",
        "a name that turns the reading direction": "a\u202egnp.exe".encode(),
    }.items():
        yield f"zip entry with {name}", lambda path=path: archive(Entry(path, honest.data, flags=0x800))
    link = 0o120777 << 16
    yield "zip with a link to /etc/passwd", lambda: archive(Entry(b"a.png", b"/etc/passwd", attributes=link))
    yield (
        "zip with a link and an entry behind it",
        lambda: archive(Entry(b"a", b"/tmp", attributes=link), Entry(b"a/promptscope-escaped", b"x")),
    )
    for name, mode in {"device": 0o020666, "pipe": 0o010666, "socket": 0o140666}.items():
        yield f"zip with a {name}", lambda mode=mode: archive(Entry(b"a.png", b"", attributes=mode << 16))
    yield (
        "zip with a program that would run as root",
        lambda: archive(Entry(b"a.png", honest.data, attributes=0o104755 << 16)),
    )
    yield "zip with one name twice", lambda: archive(honest, Entry(b"a.png", b"other"))
    yield "zip with an encrypted entry", lambda: archive(Entry(b"a.png", honest.data, flags=1))
    for method in (12, 14, 93, 9):
        yield f"zip with method {method}", lambda method=method: archive(Entry(b"a.png", honest.data, method))
    yield "zip whose directory begins behind its end", lambda: archive(honest)[:-6] + struct.pack("<IH", 2**32 - 2, 0)
    yield "zip of 65535 entries in a directory of one", lambda: archive(honest, count=65535)
    yield "zip of the end of a directory alone", lambda: archive()
    yield "zip with its end a thousand times", lambda: archive(honest) + archive(honest)[-22:] * 1000
    yield "zip cut in its middle", lambda: archive(honest, honest)[:-200]
    yield (
        "zip that claims 2^63 bytes by zip64",
        lambda: archive(Entry(b"a.png", b"x", size=2**32 - 1, packed=2**32 - 1)).replace(b"PK\1\2", b"PK\1\2"),
    )


def _volume_bombs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    values = bytes(240)
    head = nifti((6, 5, 4), b"")
    yield "NIfTI of 32767^7", lambda: nifti((32767,) * 7, values)
    yield "NIfTI of 6 x 5 x 4 x 32767^4", lambda: nifti((6, 5, 4, 32767, 32767, 32767, 32767), values)
    yield "NIfTI of -1 x -1 x -1", lambda: nifti((-1, -1, -1), values)
    yield "NIfTI of 0 x 0 x 0", lambda: nifti((0, 0, 0), values)
    yield "NIfTI of 32767 dimensions", lambda: head[:40] + struct.pack("<h", 32767) + head[42:] + values
    for offset in (float("nan"), float("inf"), -1.0, 1e30, 0.0, 4e9):
        yield f"NIfTI whose values begin at {offset}", lambda offset=offset: nifti((6, 5, 4), values, offset)
    for code, bits in ((0, 0), (2048, 256), (32767, 32767), (1, 1), (-1, -1)):
        yield f"NIfTI of data type {code}", lambda code=code, bits=bits: nifti((6, 5, 4), values, code=code, bits=bits)
    yield "NIfTI with an extension of 2^31", lambda: head[:348] + b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 6) + values
    yield "NIfTI with steps of NaN", lambda: head[:76] + struct.pack("<8f", *[float("nan")] * 8) + head[108:] + values
    yield "gzip of 1 GiB that claims to be a small NIfTI", lambda: gzip.compress(head + values) + zeros(1024, 31)
    yield (
        "gzip of a NIfTI of 300 x 300 x 300 and 1 GiB of zeros",
        lambda: gzip.compress(nifti((250, 250, 250), b"")) + zeros(1024, 31),
    )
    yield "gzip of 1 GiB of zeros", lambda: zeros(1024, 31)
    yield "gzip of a gzip of a NIfTI", lambda: gzip.compress(gzip.compress(head + values))
    yield "gzip of fifty thousand members", lambda: gzip.compress(head) + gzip.compress(b"") * 50_000 + gzip.compress(values)
    yield "MHA of 10^9 x 10^9 x 10^9", lambda: mha("1000000000 1000000000 1000000000", values)
    yield "MHA of 10^40", lambda: mha("1" + "0" * 40 + " 1 1", values)
    yield "MHA of -1 x -1 x 1", lambda: mha("-1 -1 1", values)
    yield "MHA of 10^9 dimensions", lambda: mha("6 5 4", values).replace(b"NDims = 3", b"NDims = 1000000000")
    for name in (
        "/etc/passwd",
        "../../../etc/passwd",
        "LIST\n/etc/passwd",
        "/dev/zero",
        "%03d.raw 1 100000000 1",
        "https://127.0.0.1/a",
    ):
        yield f"MHA whose values are in {name!r}", lambda name=name: mha("6 5 4", values, data=name)
        yield f"NRRD whose values are in {name!r}", lambda name=name: nrrd("6 5 4", values, more=f"data file: {name}\n")
    yield "MHA whose values inflate to 1 GiB", lambda: mha("6 5 4", zeros(1024, 15), more="CompressedData = True\n")
    yield "MHA with a header of 16 MiB", lambda: mha("6 5 4", values, more="Comment = " + "x" * (16 << 20) + "\n")
    yield "MHA of a million lines", lambda: mha("6 5 4", values, more="A = 1\n" * 1_000_000)
    yield "NRRD of 10^9 x 10^9 x 10^9", lambda: nrrd("1000000000 1000000000 1000000000", values)
    yield (
        "NRRD of 16 dimensions of 10^9",
        lambda: nrrd(" ".join(["1000000000"] * 16), values).replace(b"dimension: 3", b"dimension: 16"),
    )
    yield "NRRD whose values inflate to 1 GiB", lambda: nrrd("6 5 4", zeros(1024, 31), "gzip")
    yield "NRRD whose values unpack by bzip2", lambda: nrrd("6 5 4", b"BZh9" + bytes(100), "bzip2")
    yield "NRRD that skips -1 bytes", lambda: nrrd("6 5 4", values, more="byte skip: -1\n")
    yield "NRRD that skips 10^18 bytes", lambda: nrrd("6 5 4", values, more=f"byte skip: {10**18}\n")
    yield "NRRD that skips 10^18 lines", lambda: nrrd("6 5 4", values, more=f"line skip: {10**18}\n")
    yield "NRRD with a header of 16 MiB", lambda: nrrd("6 5 4", values, more="# " + "x" * (16 << 20) + "\n")
    yield "NRRD of a million keys", lambda: nrrd("6 5 4", values, more="a:=1\n" * 1_000_000)


def _linked(target: Path | str, name: str = "a.png") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


def _socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "a"))
    return folder / "a"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.dcm")
    return folder / "a.dcm"


def _folder_of(*makers: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        inside = folder / "study"
        inside.mkdir()
        for each in makers:
            each(inside)
        return inside

    return make


def _deep_folder(folder: Path) -> Path:
    place = folder
    for _ in range(300):
        place = place / "d"
    place.mkdir(parents=True)
    return folder / "d"


def _file_bombs() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    honest = picture("PNG")
    yield "a pipe that nobody writes to", _pipe
    yield "a socket", _socket
    yield "the device /dev/zero", lambda folder: Path("/dev/zero")
    yield "a link to /dev/zero", _linked("/dev/zero")
    yield "a link to /etc/passwd", _linked("/etc/passwd")
    yield "a link to itself", _linked("a.png")
    yield "a link to a process's memory", _linked("/proc/self/mem")
    yield "a folder with a link out of it", _folder_of(_linked("/etc"), _linked("/etc/passwd", "b.png"))
    yield "a folder with a link to itself", _folder_of(_linked(".", "a"))
    yield "a folder with a pipe and a socket", _folder_of(_pipe, _socket)
    yield "folders 300 deep", _deep_folder
    yield "a name with a zero byte", lambda folder: folder / "a\0b.png"
    yield "a name of 5000 letters", lambda folder: folder / ("x" * 5000)
    yield "a name with line breaks", lambda folder: written(folder / "a\n\r\x1b[31m\u2028b.dcm", b"no image")
    yield "a name of 255 bytes", lambda folder: written(folder / ("ü" * 127 + "x"), b"no image")
    yield "a name that is no UTF-8", lambda folder: written(folder / os.fsdecode(b"\xff\xfe.png"), b"no image")
    yield "a name that is no UTF-8, of a picture", lambda folder: written(folder / os.fsdecode(b"\xff\xfe.png"), honest)
    yield "a name of an option", lambda folder: written(folder / "--help", honest[:40])


READS = frozenset(  # something honest is in them, and may be shown
    """zip entry with a name that is empty; Deflated Image Frame of 1 GiB; Deflated Image Frame in a hundred fragments; RLE that expands to 500 MB;
    JPEG 2000 of 65535 layers; DICOM of 2^31-1 frames; DICOM of 10^400 frames; overlays of 65535 x 65535;
    a palette of 32 MiB; VOILUTSequence of 32 MiB; ModalityLUTSequence of 32 MiB; an ICC profile of 32 MiB;
    WindowCenter of 32,000 values; PixelSpacing of 32,000 values; ImageType of 32,000 values;
    SpecificCharacterSet of 32,000 values; NumberOfFrames of 32,000 values; SeriesInstanceUID of 32,000 values;
    a number of 60,000 digits; names of 20,000 components; escape sequences, 30,000 of them; fragments without an end;
    a fragment of undefined length; an offset table of a million entries; an extended offset table that points to 2^63;
    a meta group of 4 GiB; a meta group of 32 MiB; DICOM that is also a program; PNG of 8 x 8 with 1 GiB of pixels;
    APNG of 2^31-1 frames; JPEG whose EXIF points at itself; TIFF of a million pages; TIFF whose page is its next;
    TIFF of two pages in a circle; TIFF with 2^32-1 values in ColorMap; TIFF with 2^32-1 values in TileOffsets;
    TIFF of 1000 x 1000 whose strip inflates to 1 GiB; TIFF with 4 MiB of XMP in circles of EXIF;
    zip entry with a name of 65,000 letters; zip entry with a name that turns the reading direction;
    zip with a program that would run as root; zip with one name twice; zip of 65535 entries in a directory of one;
    zip of 900 entries of 1 MiB of zeros; NIfTI whose values begin at 0.0; NIfTI with an extension of 2^31;
    NIfTI with steps of NaN; a name that is no UTF-8, of a picture""".replace("\n    ", " ").split("; ")
)
SLOW = frozenset(  # seconds each, so left to `make fuzz`; these, too, may be shown where the limits let them be read
    """DICOM with a JPEG of 5000 scans; a hundred thousand functional groups; a million elements;
    one element a million times; a sequence of a million items; four million values in a text of another VR;
    implicit DICOM with eight million window centres; a million empty fragments; PNG of a million chunks;
    PNG with ten thousand compressed texts; JPEG of 5000 scans; JPEG of 500 EXIF segments;
    WebP of a hundred thousand frames; gzip of fifty thousand members""".replace("\n    ", " ").split("; ")
)


def bombs() -> list[Bomb]:
    """All of them, made when asked."""
    found: list[Bomb] = []
    for made in (_dicom_bombs(), _picture_bombs(), _archive_bombs(), _volume_bombs()):
        found += [Bomb(name, lambda folder, content=content: written(folder / "bomb", content())) for name, content in made]
    found += [Bomb(name, make) for name, make in _file_bombs()]
    assert {b.name for b in found} >= READS | SLOW
    return [Bomb(b.name, b.make, b.name in READS | SLOW, b.name in SLOW) for b in found]


@cache
def _by_name() -> dict[str, Bomb]:
    return {b.name: b for b in bombs()}


def write(name: str, folder: Path) -> Path:
    """Makes a bomb, in whatever process this is called."""
    return _by_name()[name].make(folder)
