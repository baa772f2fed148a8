"""Files that a stranger could send, made by a machine: mutations of honest files, and crafted bombs, through worker processes.

python -m tests.fuzz --files 20000 --bombs    the whole run, as `make fuzz`; exits with 1 if any file did more than be refused
python -m tests.fuzz --seed 1 --only 4711     one file of that run again

Each file is opened, its first and last frames are decoded twice, it is copied clean, and the clean copy is read. It must be
an image (float32, within [0, 1]) or one sentence; what does anything else is kept in runs/fuzz. Seeds are pydicom's bundled
files, small files made here and, where it lies beside the repository, ../shared/data/dicom; the same seed, index and corpus
give the same bytes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import gzip
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import struct
import sys
import tempfile
import threading
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydicom

ROOT = Path(__file__).resolve().parent.parent
for each in (ROOT, ROOT / "tests"):
    if str(each) not in sys.path:
        sys.path.insert(0, str(each))

from bombs import (  # noqa: E402
    ITEM,
    LONG,
    MIB,
    PIXELS,
    SEQUENCE_END,
    UNDEFINED,
    Bomb,
    bombs,
    chunk,
    element,
    mha,
    nifti,
    nrrd,
    picture,
    sequences,
    write,
    written,
)

from engine.errors import ImageError  # noqa: E402
from engine.limits import Limits  # noqa: E402
from engine.sandbox import Sandbox, _Worker  # noqa: E402
from engine.types import Series, Window  # noqa: E402

# Small enough that thousands of files take minutes and 50 MB of growth cannot hide behind one honest large picture.
LIMITS = Limits(
    megapixels=4,
    frames=5000,
    volume_megavoxels=16,
    inflated_mb=64,
    unpacked_mb=256,
    zip_entries=1000,
    seconds=10,
    memory_mb=1024,
)
KEY = bytes(range(32))
LARGEST_SEED = 300_000  # bytes
NO_SEEDS = (".py", ".pyc", ".md", ".txt", ".csv", ".json", ".dump", ".icc")
LARGEST_FILE = 4 << 20  # bytes of a mutated file; blocks are repeated
GROWTH_MB = 50  # that this process may grow by

Random = np.random.Generator


# --- the corpus --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seed:
    name: str
    content: bytes


def _pictures() -> Iterator[tuple[str, bytes]]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"{mode}.png", picture("PNG", mode)
    for mode in ("L", "RGB", "CMYK"):
        yield f"{mode}.jpg", picture("JPEG", mode)
    yield "progressive.jpg", picture("JPEG", progressive=True)
    for mode, compression in (
        ("1", "group4"),
        ("L", None),
        ("P", None),
        ("RGB", "tiff_lzw"),
        ("RGB", "jpeg"),
        ("L", "packbits"),
    ):
        yield f"{mode}-{compression}.tif", picture("TIFF", mode, compression=compression)
    yield "lossy.webp", picture("WEBP")
    yield "lossless.webp", picture("WEBP", "RGBA", lossless=True)
    for mode in ("1", "L", "P", "RGB"):
        yield f"{mode}.bmp", picture("BMP", mode)
    ramp = np.arange(20 * 30).reshape(20, 30)
    pages = [PIL.Image.fromarray((ramp * (i + 1) % 251).astype(np.uint8)) for i in range(4)]
    for name, form, values in (
        ("16.png", "PNG", (ramp * 100).astype(np.uint16)),
        ("16.tif", "TIFF", (ramp * 100).astype(np.uint16)),
        ("float.tif", "TIFF", ramp.astype(np.float32) - 300),
        ("int.tif", "TIFF", ramp.astype(np.int32) - 300),
    ):
        out = io.BytesIO()
        PIL.Image.fromarray(values).save(out, form)
        yield name, out.getvalue()
    for name, form, options in (("pages.tif", "TIFF", {"compression": "tiff_deflate"}), ("moving.webp", "WEBP", {})):
        out = io.BytesIO()
        pages[0].save(out, form, save_all=True, append_images=pages[1:], **options)
        yield name, out.getvalue()


def _volumes() -> Iterator[tuple[str, bytes]]:
    values = (np.arange(6 * 5 * 4) * 13 - 400).astype("<i2").tobytes()
    yield "a.nii", nifti((6, 5, 4), values)
    yield "a.nii.gz", gzip.compress(nifti((6, 5, 4), values), mtime=0)
    yield "float.nii", nifti((6, 5, 4), np.linspace(-1, 1, 120).astype("<f4").tobytes(), code=16, bits=32)
    yield "rgb.nii", nifti((6, 5, 4), bytes(range(120)) * 3, code=128, bits=24)
    yield "time.nii", nifti((6, 5, 2, 2), values)
    yield "a.mha", mha("6 5 4", values)
    packed = zlib.compress(values)
    yield "packed.mha", mha("6 5 4", packed, more=f"CompressedData = True\nCompressedDataSize = {len(packed)}\n")
    yield "a.nrrd", nrrd("6 5 4", values)
    yield "packed.nrrd", nrrd("6 5 4", gzip.compress(values, mtime=0), "gzip")


def seeds(shared: Path | None = ROOT.parent / "shared" / "data" / "dicom") -> list[Seed]:
    """Honest files of every format and transfer syntax, in an order that depends on nothing but what there is."""
    found = [Seed(name, content) for name, content in itertools.chain(_pictures(), _volumes())]
    bundled = Path(pydicom.__file__).parent / "data" / "test_files"
    known: set[bytes] = set()
    for folder in filter(None, (bundled, shared)):
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.stat().st_size > LARGEST_SEED or path.suffix in NO_SEEDS:
                continue
            if "TINY_ALPHA" in str(path) and path.name != "IM000000":  # fifty headers without pixels
                continue
            content = path.read_bytes()
            digest = hashlib.sha256(content).digest()
            if digest not in known:
                known.add(digest)
                found.append(Seed(path.name, content))
    small = [s for s in found if len(s.content) < 10_000]
    for i, (first, second) in enumerate(zip(small[::9], small[5::9], strict=False)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED) as pack:
            for each in (first, second):
                pack.writestr(zipfile.ZipInfo(f"study/{each.name}"), each.content)
        found.append(Seed(f"{i}.zip", out.getvalue()))
    return found


# --- mutations: (content, random) -> other content ---------------------------------------------------------------------

EDGES = (0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 127, 128, 255, 256, 257, 4095, 4096, 32767, 32768, 65534, 65535)
EDGES_32 = (*EDGES, 2**16, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 16, 2**32 - 2, 2**32 - 1)
NUMBERS = (
    "",
    "0",
    "1",
    "-1",
    "0.5",
    "1e-300",
    "-1e308",
    "1e308",
    "nan",
    "inf",
    "-inf",
    "2147483647",
    "99999999999999999999",
)
NUMBERS += ("1e999", "0x10", "1,5", " 7 ", "\\", "1\\", "\\1", "1\\2", "1\\2\\3", "-0", "1.0", "9" * 400, "x", "１", "1_0")


def _flipped(content: bytes, random: Random) -> bytes:
    data = bytearray(content)
    for at in random.integers(0, len(data), random.integers(1, 17)):
        data[at] ^= 1 << int(random.integers(8))
    return bytes(data)


def _overwritten(content: bytes, random: Random) -> bytes:
    """Bytes of the header more often than those behind it."""
    data = bytearray(content)
    end = len(data) if random.random() < 0.5 else min(len(data), 2048)
    for at in random.integers(0, end, random.integers(1, 9)):
        data[at] = random.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, int(random.integers(256))))
    return bytes(data)


def _cut(content: bytes, random: Random) -> bytes:
    return content[: int(random.integers(0, len(content)))]


def _without_block(content: bytes, random: Random) -> bytes:
    at = int(random.integers(0, len(content)))
    return content[:at] + content[at + int(2 ** (random.random() * 12)) :]


def _with_block_again(content: bytes, random: Random) -> bytes:
    at, size = int(random.integers(0, len(content))), int(2 ** (random.random() * 12))
    times = int(2 ** (random.random() * 8))
    return (content[:at] + content[at : at + size] * times + content[at:])[:LARGEST_FILE]


def _with_a_number(content: bytes, random: Random) -> bytes:
    """A 16- or 32-bit edge value anywhere in the first kilobytes, in either byte order."""
    at = int(random.integers(0, min(len(content), 4096)))
    form = str(random.choice(["<H", ">H", "<I", ">I"]))
    value = struct.pack(form, int(random.choice(EDGES if form[1] == "H" else EDGES_32)))
    return content[:at] + value + content[at + len(value) :]


BLIND = (_flipped, _overwritten, _cut, _without_block, _with_block_again, _with_a_number)

# What a DICOM header may be made to say, by keyword. Numbers where the VR is US.
SAYINGS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"), EDGES),
    **dict.fromkeys(("PixelRepresentation", "PlanarConfiguration"), EDGES),
    **dict.fromkeys(
        (
            "NumberOfFrames",
            "WindowCenter",
            "WindowWidth",
            "PixelSpacing",
            "ImagerPixelSpacing",
            "RescaleSlope",
            "RescaleIntercept",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelAspectRatio",
            "SliceThickness",
            "InstanceNumber",
            "GantryDetectorTilt",
        ),
        NUMBERS,
    ),
    "PhotometricInterpretation": (
        *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_RCT"),
        *("YBR_ICT", "ARGB", "HSV", "XYB", "", "monochrome2", "A" * 200, "RGB\\RGB"),
    ),
    "PixelPaddingValue": EDGES,
    "PixelPaddingRangeLimit": EDGES,
    "VOILUTFunction": ("LINEAR", "LINEAR_EXACT", "SIGMOID", "", "sigmoid", "X" * 100),
    "PresentationLUTShape": ("IDENTITY", "INVERSE", "", "X"),
    "ImageType": ("", "ORIGINAL", "DERIVED\\PRIMARY\\LOCALIZER", "\\" * 5000),
    "Modality": ("CT", "US", "", "X" * 64, "CT\\MR", "\x1b$B"),
    "SpecificCharacterSet": ("ISO_IR 192", "ISO 2022 IR 87", "\\ISO 2022 IR 149", "GB18030", "nonsense", "\\" * 100),
    "SeriesInstanceUID": ("", "1" * 300, "not a UID", "1.2\\1.3"),
    "LossyImageCompression": ("00", "01", "", "XX"),
    "BurnedInAnnotation": ("YES", "NO", "", "maybe"),
}
SYNTAXES = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"),
    *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 92, 100, 102, 107, 110, 201, 202, 203, 94, 95)),
    *("1.2.840.10008.1.2.8.1", "1.2.840.10008.1.20", "1.2.840.113619.5.2", "", "not a UID", "1" * 64),
)
VRS = (*LONG, b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS")
VRS += (b"ST", b"TM", b"UI", b"UL", b"US", b"ZZ", b"\0\0")


def _headed(content: bytes, random: Random) -> bytes:
    """One element is made to say something else, or is put in front of the pixels where it was not."""
    keyword = str(random.choice(list(SAYINGS)))
    made = element(keyword, SAYINGS[keyword][int(random.integers(len(SAYINGS[keyword])))])
    at = content.find(made[:4], 132)
    if at < 0 or not content[at + 4 : at + 6].isalpha():
        at = max(content.find(PIXELS), 0)
        return content[:at] + made + content[at:]
    size = 12 + struct.unpack_from("<I", content, at + 8)[0] if content[at + 4 : at + 6] in LONG else 0
    size = size or 8 + struct.unpack_from("<H", content, at + 6)[0]
    return content[:at] + made + content[at + size :]


def _of_another_syntax(content: bytes, random: Random) -> bytes:
    at = content.find(b"\x02\x00\x10\x00UI", 132)
    if at < 0:
        return _headed(content, random)
    size = struct.unpack_from("<H", content, at + 6)[0]
    uid = str(random.choice(SYNTAXES)).encode()
    uid += b"\0" * (len(uid) % 2)
    return content[: at + 6] + struct.pack("<H", len(uid)) + uid + content[at + 8 + size :]


def _elements(content: bytes) -> list[int]:
    """Where something stands that looks like a tag with its VR."""
    return [m.start() for m in re.finditer(rb"[\x02-\x60][\x00-\x7f].[\x00-\x7f][A-Z]{2}", content[:65536], re.DOTALL)]


def _of_another_vr(content: bytes, random: Random) -> bytes:
    places = _elements(content)
    if not places:
        return _overwritten(content, random)
    at = int(random.choice(places)) + 4
    return content[:at] + VRS[int(random.integers(len(VRS)))] + content[at + 2 :]


def _of_another_length(content: bytes, random: Random) -> bytes:
    places = _elements(content)
    if not places:
        return _with_a_number(content, random)
    at = int(random.choice(places))
    if content[at + 4 : at + 6] in LONG:
        return content[: at + 8] + struct.pack("<I", int(random.choice(EDGES_32))) + content[at + 12 :]
    return content[: at + 6] + struct.pack("<H", int(random.choice(EDGES))) + content[at + 8 :]


def _with_sequences(content: bytes, random: Random) -> bytes:
    """Sequences within sequences, of undefined or of defined length, before the pixels; closed or not."""
    depth = int(2 ** (random.random() * 12))
    made = sequences(depth, bool(random.integers(2)), closed=bool(random.integers(2)))
    at = max(content.find(PIXELS), 0)
    return content[:at] + made + content[at:]


def _encapsulated_wrongly(content: bytes, random: Random) -> bytes:
    places = [m.start() for m in re.finditer(re.escape(ITEM), content[: 1 << 20])] or [content.find(PIXELS)]
    at = int(random.choice(places))
    how = int(random.integers(6))
    if at < 0 or how == 0:  # a native file that claims fragments, or fragments that claim to be native
        at = content.find(PIXELS)
        return content[: at + 8] + (UNDEFINED if random.random() < 0.5 else bytes(4)) + content[at + 12 :]
    length = struct.pack("<I", int(random.choice(EDGES_32)))
    if how == 1:
        return content[: at + 4] + length + content[at + 8 :]
    if how == 2:  # an offset table that points anywhere
        table = b"".join(struct.pack("<I", int(random.choice(EDGES_32))) for _ in range(int(random.integers(1, 9))))
        return content[:at] + ITEM + struct.pack("<I", len(table)) + table + content[at:]
    if how == 3:
        return content[:at] + (ITEM + bytes(4)) * int(2 ** (random.random() * 12)) + content[at:]
    if how == 4:
        return content.replace(SEQUENCE_END, b"", 1)
    return content[:at] + element("ExtendedOffsetTable", length * 2, "OV") + content[at:]


def _with_a_lut(content: bytes, random: Random) -> bytes:
    """A palette or a VOI LUT whose descriptor and data do not fit each other."""
    descriptor = [int(random.choice(EDGES)) for _ in range(3)]
    data = bytes(int(random.choice((0, 1, 2, 3, 256, 512, 65536, 131072))))
    if random.random() < 0.5:
        item = element("LUTDescriptor", descriptor, "US") + element("LUTData", data, "OW")
        made = element(
            str(random.choice(["VOILUTSequence", "ModalityLUTSequence"])), ITEM + struct.pack("<I", len(item)) + item
        )
    else:
        segmented = "Segmented" if random.random() < 0.5 else ""
        data = bytes(random.integers(0, 4, len(data), dtype=np.uint8)) if segmented else data
        made = element("PhotometricInterpretation", "PALETTE COLOR") + b"".join(
            element(f"{c}PaletteColorLookupTableDescriptor", descriptor, "US")
            + element(f"{segmented}{c}PaletteColorLookupTableData", data, "OW")
            for c in ("Red", "Green", "Blue")
        )
    at = max(content.find(PIXELS), 0)
    return content[:at] + made + content[at:]


def _of_another_stream(content: bytes, random: Random) -> bytes:
    """The sizes in a JPEG, JPEG-LS or JPEG 2000 stream (also one within a DICOM file) are others than the header's."""
    places = [m.start() for m in re.finditer(rb"\xff[\xc0-\xc3\xf7]\x00.|\xff\x51\x00.", content[: 1 << 20], re.DOTALL)]
    if not places:
        return _with_a_number(content, random)
    data = bytearray(content)
    at = int(random.choice(places))
    if data[at + 1] == 0x51 and len(data) > at + 42:
        for _ in range(int(random.integers(1, 4))):
            struct.pack_into(">I", data, at + 6 + 4 * int(random.integers(8)), int(random.choice(EDGES_32)))
    elif len(data) > at + 10:
        data[at + 4] = int(random.choice((1, 2, 7, 8, 12, 15, 16, 17, 255)))
        struct.pack_into(">H", data, at + 5 + 2 * int(random.integers(2)), int(random.choice(EDGES)))
    return bytes(data)


DICOM_EDITS = (_headed, _headed, _headed, _of_another_syntax, _of_another_vr, _of_another_length, _with_sequences)
DICOM_EDITS += (_encapsulated_wrongly, _with_a_lut, _of_another_stream)


def _png_edited(content: bytes, random: Random) -> bytes:
    """The header lies under a right check sum, or a chunk stands where it should not."""
    shape = bytearray(content[16:29])
    if random.random() < 0.7:
        if random.random() < 0.5:
            struct.pack_into(">I", shape, 4 * int(random.integers(2)), int(random.choice(EDGES_32)))
        else:
            shape[8 + int(random.integers(5))] = int(random.choice(EDGES[:16])) & 255
        return content[:8] + chunk(b"IHDR", bytes(shape)) + content[33:]
    body = random.bytes(int(2 ** (random.random() * 10)))
    kind = bytes(random.choice([b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"eXIf", b"acTL", b"gAMA", b"IHDR", b"IDAT", b"fdAT"]))
    return content[:33] + chunk(kind, body) + content[33:]


def _tiff_edited(content: bytes, random: Random) -> bytes:
    order = "<" if content[:2] == b"II" else ">"
    data = bytearray(content)
    at = struct.unpack_from(order + "I", data, 4)[0]
    if at + 2 > len(data):
        return _with_a_number(content, random)
    count = struct.unpack_from(order + "H", data, at)[0]
    if random.random() < 0.1:
        target, form = at + 2 + 12 * count, "I"  # where the next page lies
    else:
        entry = at + 2 + 12 * int(random.integers(max(1, count)))
        offset, form = ((0, "H"), (2, "H"), (4, "I"), (8, "I"))[int(random.integers(4))]
        target = entry + offset
    if target + 4 > len(data):
        return _with_a_number(content, random)
    value = int(random.choice(EDGES if form == "H" else (*EDGES_32, at)))
    struct.pack_into(order + form, data, target, value)
    return bytes(data)


def _nifti_edited(content: bytes, random: Random) -> bytes:
    packed = content[:2] == b"\x1f\x8b"
    data = bytearray(gzip.decompress(content) if packed else content)
    how = int(random.integers(4))
    if how == 0:
        struct.pack_into("<h", data, 40 + 2 * int(random.integers(8)), int(random.choice((*EDGES[:-3], -1, -32768))))
    elif how == 1:
        struct.pack_into(
            "<h", data, 70 + 2 * int(random.integers(2)), int(random.choice((0, 1, 2, 8, 16, 32, 64, 128, 2304, -1)))
        )
    else:
        place = int(random.choice([*range(76, 120, 4), *range(252, 328, 4)]))
        value = float(random.choice([0, -1, 1e-30, 1e30, 3e38, np.nan, np.inf, -np.inf, 351, 353, 2**31, 0.5]))
        struct.pack_into("<f", data, place, value)
    return gzip.compress(bytes(data), mtime=0) if packed else bytes(data)


def _text_edited(content: bytes, random: Random) -> bytes:
    """One value in the header of an MHA or NRRD file, or one line twice."""
    end = content.find(b"\n\n") if content.startswith(b"NRRD") else content.find(b"ElementDataFile")
    end = len(content) if end < 0 else content.find(b"\n", end + 2)
    lines = content[:end].split(b"\n")
    at = int(random.integers(len(lines)))
    key, separator, _ = re.match(rb"([^=:]*)([=:]?)(.*)", lines[at], re.DOTALL).groups()  # type: ignore[union-attr]
    said = str(
        random.choice([*NUMBERS, "-3 4 5", "1 " * 500, "/etc/passwd", "../../etc/passwd", "LIST", "LOCAL", "%d", "none"])
    )
    lines[at] = key + separator + b" " + said.encode() if random.random() < 0.8 else lines[at] + b"\n" + lines[at]
    return b"\n".join(lines) + content[end:]


def _zip_edited(content: bytes, random: Random) -> bytes:
    """A field of a local header, of the central directory, or of the directory's end. APPNOTE 4.3.7, 4.3.12, 4.3.16."""
    kind, size = ((b"PK\x03\x04", 30), (b"PK\x01\x02", 46), (b"PK\x05\x06", 22))[int(random.integers(3))]
    places = [m.start() for m in re.finditer(re.escape(kind), content)]
    if not places:
        return _with_a_number(content, random)
    data = bytearray(content)
    at = int(random.choice(places)) + 4 + 2 * int(random.integers((size - 4) // 2))
    struct.pack_into("<H", data, at, int(random.choice(EDGES)))
    return bytes(data)


def _edits_for(content: bytes) -> tuple[Callable[[bytes, Random], bytes], ...]:
    if content.startswith(b"\x89PNG"):
        return (_png_edited,)
    if content.startswith((b"II*\0", b"MM\0*")):
        return (_tiff_edited,)
    if content.startswith(b"\xff\xd8"):
        return (_of_another_stream,)
    if content.startswith(b"PK"):
        return (_zip_edited,)
    if content.startswith((b"NRRD", b"ObjectType")):
        return (_text_edited,)
    if content.startswith(b"\x1f\x8b") or content[344:347] == b"n+1":
        return (_nifti_edited,)
    if content.startswith((b"BM", b"RIFF")):
        return (_with_a_number,)
    return DICOM_EDITS


def mutated(corpus: list[Seed], seed: int, index: int) -> tuple[str, bytes]:
    """(what was done, the file). The same for the same corpus, seed and index."""
    random = np.random.default_rng([seed, index])
    origin = corpus[int(random.integers(len(corpus)))]
    content, done = origin.content, [origin.name]
    for _ in range(int(random.choice((1, 1, 1, 2, 3)))):
        roll = random.random()
        if len(content) < 64:
            break
        if roll < 0.05:
            other = corpus[int(random.integers(len(corpus)))]
            content = (
                content[: int(random.integers(len(content)))] + other.content[int(random.integers(len(other.content))) :]
            )
            done.append(f"the end of {other.name}")
            continue
        kinds = _edits_for(content) if roll < 0.6 else BLIND
        change = kinds[int(random.integers(len(kinds)))]
        try:
            content = change(content, random)
        except (EOFError, OSError, zlib.error, struct.error):  # the file was too broken already for this edit
            continue
        done.append(change.__name__.strip("_").replace("_", " "))
    return ", ".join(done), content


# --- the judgement -----------------------------------------------------------------------------------------------------

STOPPED = {"took longer than": "stopped by time", "its decoder": "crashed in its worker", "of memory": "stopped by memory"}


@dataclass
class Outcome:
    """faults : what must not be, as sentences; said : the engine's sentences; kinds : of what happened."""

    faults: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    slowest_s: float = 0.0  # of one request


def judged(sandbox: Sandbox, path: Path, folder: Path) -> Outcome:
    """What becomes of one file on the way that the page sends it."""
    found = Outcome()

    def attempt(work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            return work()
        except ImageError as error:
            _refused(error, found, sandbox.limits)
        except Exception:
            found.faults.append(traceback.format_exc())
        finally:
            found.slowest_s = max(found.slowest_s, time.monotonic() - started)
        return None

    def frames(series: Series) -> list[str]:
        """A digest of each frame: pixels are not kept, so that the memory counted is the engine's."""
        seen = []
        for index in sorted({0, series.frames - 1}):
            for each in (None, Window(40, 400)):
                image = attempt(lambda index=index, each=each: series.frame(index, each))
                seen.append("" if image is None else _looked_at(image, found))
        return seen

    opened = attempt(lambda: sandbox.open_all([path]))
    first: list[list[str]] = []
    if opened is not None:
        for _, error in opened.refused:
            _refused(error, found, sandbox.limits)
        first = [frames(series) for series in opened.series]
    target = Path(tempfile.mkdtemp(dir=folder))
    admitted = attempt(lambda: list(sandbox.admit([(path, path.name)], target, KEY)))
    if admitted is not None:
        copies = [each.file for each in admitted if isinstance(each.file, Path)]
        for each in admitted:
            if isinstance(each.file, ImageError):
                _refused(each.file, found, sandbox.limits)
        left = set(target.rglob("*")) - set(copies)
        if left:
            found.faults.append(f"{len(left)} files were left behind by the clean copy.")
        again = attempt(lambda: sandbox.open_all(copies)) if copies else None
        if again is not None:
            for _, error in again.refused:
                found.kinds.add("clean copy refused")
                _refused(error, found, sandbox.limits)
            second = [frames(series) for series in again.series]
            if len(copies) == 1 and not again.refused:
                _compared(first, second, found)
    shutil.rmtree(target)
    if not found.kinds:
        found.faults.append("Neither an image nor a sentence.")
    return found


def _compared(first: list[list[str]], second: list[list[str]], found: Outcome) -> None:
    """A broken file and its clean copy, counted only: what is written anew may be mended by it."""
    pairs = [*zip(itertools.chain(*first), itertools.chain(*second), strict=False)]
    if any(a and b and a != b for a, b in pairs):
        found.kinds.add("the copy shows other pixels")
    elif any(a and not b for a, b in pairs):
        found.kinds.add("only the file reads")
    elif first != second:
        found.kinds.add("only the copy reads")


def _refused(error: ImageError, found: Outcome, limits: Limits) -> None:
    text = str(error)
    found.said.append(text)
    kind = next((k for words, k in STOPPED.items() if words in text), "refused")
    found.kinds.add(kind)
    if not (text.isprintable() and 20 <= len(text) <= 600 and text.endswith(".")):
        found.faults.append(f"No sentence: {text!r}")


def _looked_at(image: Any, found: Outcome) -> str:
    p = image.pixels
    if p.dtype != np.float32 or not (p.ndim == 2 or (p.ndim == 3 and p.shape[2] == 3)) or not p.size:
        found.faults.append(f"An image of {p.dtype} {p.shape}.")
        return ""
    low, high = float(p.min()), float(p.max())  # NaN stays NaN in both
    if not 0 <= low <= high <= 1:
        found.faults.append(f"An image with values from {low} to {high}.")
    for text in (*image.notes, *image.warnings):
        if not (text.isprintable() and text.endswith((".", "!"))):
            found.faults.append(f"A note that is no sentence: {text!r}")
    if not image.notes:
        found.faults.append("An image without a note.")
    found.kinds.add("image")
    return f"{p.shape} {hashlib.sha256(np.ascontiguousarray(p).data).hexdigest()[:12]}"


class Memory:
    """This process's resident memory, in MiB: before, after, and at its highest as seen every 20 ms.

    Before and after are taken when the allocator has given back what is free.
    """

    def __init__(self) -> None:
        self.before = self.peak = self.after = self.now(trimmed=True)
        self._done = threading.Event()

    @staticmethod
    def now(trimmed: bool = False) -> float:
        if trimmed:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.after = self.now(trimmed=True)


@contextmanager
def counted_workers() -> Iterator[list[int]]:
    """The number of worker processes that were started, as the list's length."""
    started: list[int] = []
    begin = _Worker.__init__

    def counting(self: _Worker, limits: Limits) -> None:
        begin(self, limits)
        started.append(self._process.pid)

    _Worker.__init__ = counting  # type: ignore[method-assign]
    try:
        yield started
    finally:
        _Worker.__init__ = begin  # type: ignore[method-assign]


@dataclass
class Report:
    """Of one run; see summary."""

    files: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, list[str]]] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    stopped: list[tuple[str, str]] = field(default_factory=list)
    memory_mb: dict[str, float] = field(default_factory=dict)
    workers: int = 0
    left_behind: list[str] = field(default_factory=list)

    def add(self, name: str, found: Outcome) -> None:
        self.files += 1
        self.kinds.update(found.kinds or {"nothing"})
        if found.faults:
            self.failures.append((name, found.faults))
        self.slowest = sorted([*self.slowest, (found.slowest_s, name)], reverse=True)[:5]
        for kind in found.kinds & set(STOPPED.values()):
            self.stopped.append((kind, name))

    @property
    def is_clean(self) -> bool:
        """No failure, nothing left behind, and this process has grown by less than GROWTH_MB."""
        return not self.failures and not self.left_behind and self.growth_mb < GROWTH_MB

    @property
    def growth_mb(self) -> float:
        return self.memory_mb["after"] - self.memory_mb["before"]

    def summary(self) -> str:
        lines = [
            f"{self.files} files in {self.seconds:.0f} s ({self.files / max(self.seconds, 1e-9):.1f} files/s)",
            "outcomes (a file can have several): " + ", ".join(f"{k}: {n}" for k, n in self.kinds.most_common()),
            "this process's memory: "
            + ", ".join(f"{k} {v:.0f} MiB" for k, v in self.memory_mb.items())
            + f"; {self.workers} workers were started",
            "slowest requests: " + "; ".join(f"{s:.1f} s {name}" for s, name in self.slowest),
            f"stopped or crashed in a worker: {len(self.stopped)}",
            *(f"  {kind}: {name}" for kind, name in self.stopped[:40]),
            f"failures: {len(self.failures)}",
            *(f"  {name}: {faults[0][-700:]}" for name, faults in self.failures[:40]),
        ]
        return "\n".join(lines)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Of this process and of its workers, so that what is left behind is seen."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable


def run(
    makers: Iterator[tuple[str, Callable[[Path], Path]]],
    limits: Limits = LIMITS,
    threads: int = 2,
    keep: Path | None = None,
    said: Callable[[str, Outcome], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Makes each file in a folder of its own, judges it, and deletes it. keep : where the files go that failed."""
    report, lock = Report(), threading.Lock()
    folder = Path(tempfile.mkdtemp(prefix="promptscope-fuzz-"))
    sandbox = Sandbox(limits, workers=threads)
    started = time.monotonic()

    def one(maker: tuple[str, Callable[[Path], Path]]) -> None:
        name, make = maker
        place = Path(tempfile.mkdtemp(prefix="case-", dir=folder))
        path = make(place)
        found = judged(sandbox, path, place)
        with lock:
            report.add(name, found)
            if said:
                said(name, found)
            if progress:
                progress(report.files)
        if found.faults and keep and os.path.isfile(path):
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, keep / re.sub(r"\W+", "-", f"{name}-{path.suffix}")[:120])
        shutil.rmtree(place)

    warm = folder / "warm.png"
    warm.write_bytes(picture("PNG"))
    try:
        with _temporary_files_in(folder), ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: judged(sandbox, warm, folder), range(threads)))  # what is loaded once is no growth
            with counted_workers() as workers, Memory() as memory:
                for batch in iter(lambda: list(itertools.islice(makers, 400)), []):
                    list(pool.map(one, batch))
                    sandbox.close()  # deletes what zips held
            report.workers = len(workers)
        warm.unlink()
        report.left_behind = sorted(p.name for p in folder.iterdir())
        report.seconds = time.monotonic() - started
        report.memory_mb = {"before": memory.before, "after": memory.after, "peak": memory.peak}
    finally:
        sandbox.close()
        shutil.rmtree(folder, ignore_errors=True)
    return report


def mutations(corpus: list[Seed], seed: int, indices: range) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    def make(folder: Path, index: int) -> Path:
        return written(folder / f"{index}.bin", mutated(corpus, seed, index)[1])

    for index in indices:
        yield f"{seed}/{index}", partial(make, index=index)


@contextmanager
def made_elsewhere(chosen: list[Bomb]) -> Iterator[Iterator[tuple[str, Callable[[Path], Path]]]]:
    """Bombs for run, made by another process, so that the memory of this one is the engine's alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as maker:
        yield ((b.name, lambda folder, b=b: maker.submit(write, b.name, folder).result()) for b in chosen)


def main() -> None:
    ask = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n", 1)[0])
    ask.add_argument("--files", type=int, default=0, help="how many mutated files")
    ask.add_argument("--bombs", action="store_true", help="all bombs, under small limits and under the default ones")
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--only", type=int, help="this one file of the run, with what is said of it")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--json", action="store_true")
    asked = ask.parse_args()
    keep = ROOT / "runs" / "fuzz"
    corpus = seeds()
    if asked.only is not None:
        one = mutations(corpus, asked.seed, range(asked.only, asked.only + 1))
        report = run(one, threads=1, keep=keep, said=lambda name, found: print(name, *found.said, *found.faults, sep="\n  "))
        print(report.summary())
        sys.exit(bool(report.failures))

    def progress(done: int) -> None:
        if done % 500 == 0:
            print(f"{done} files", file=sys.stderr, flush=True)

    reports = {}
    if asked.files:
        made = mutations(corpus, asked.seed, range(asked.files))
        reports[f"mutations of {len(corpus)} files"] = run(made, threads=asked.threads, keep=keep, progress=progress)
    if asked.bombs:
        every = bombs()
        for name, limits in {"small limits": LIMITS, "the default limits, 20 s": Limits(seconds=20)}.items():
            with made_elsewhere(every) as made:
                reports[f"{len(every)} bombs under {name}"] = run(made, limits, asked.threads, keep, progress=progress)
    for name, report in reports.items():
        print(json.dumps({name: vars(report)}, default=dict) if asked.json else f"{name}\n{report.summary()}\n")
    sys.exit(any(not report.is_clean for report in reports.values()))


if __name__ == "__main__":
    main()
