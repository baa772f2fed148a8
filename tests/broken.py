"""Inputs that no honest exporter writes: each must end in one sentence, or in a valid image; see test_readers.py.

python tests/broken.py FOLDER writes them, reads each with the engine, and prints one JSON line a file:
description, seconds of this process (other load does not count), peak memory so far in MB above what the imports took,
and what happened.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
from conftest import make_dicom, make_lut
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

SECONDS = 10  # a file may take; a hang is broken off at twice this

META_LENGTH = 132 + 8  # where the value of (0002,0000) stands: preamble, prefix, tag, VR and length


def _picture(form: str, mode: str = "RGB", size: tuple[int, int] = (64, 48), **options) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(values).convert(mode).save(out, form, **options)
    return out.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, bits: int = 8, colour: int = 0, data: bytes = b"\0" * 100) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _tiff(entries: list[tuple[int, int, int, int]], next_page: int = 0) -> bytes:
    """A little-endian TIFF with one directory at 8; entries of tag, type, count, value."""
    body = b"".join(struct.pack("<HHII", *e) for e in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", next_page) + b"\0" * 64


def _page(width: int, height: int) -> list[tuple[int, int, int, int]]:
    shape = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    return [*shape, (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 64)]


def _zeros_deflated(mebibytes: int) -> bytes:
    """Raw deflate of so many MiB of zeros: one flushed block repeated, so that making it is quick."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * mebibytes + packer.flush()


def _nested(depth: int) -> Dataset:
    inner = Dataset()
    inner.PatientID = "x"
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedStudySequence = Sequence([inner])
        inner = outer
    return inner


def _deep(depth: int) -> bytes:
    """Sequences of undefined length opened `depth` times and never closed, Explicit VR Little Endian."""
    opened = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return opened * depth


def broken_files(folder: Path) -> list[tuple[str, Path]]:
    """(description, path) of each, written into `folder`."""
    folder = Path(folder)
    made: list[tuple[str, Path]] = []

    def add(description: str, content: bytes, name: str | None = None) -> Path:
        path = folder / (name or f"{len(made):03d}.bin")
        path.write_bytes(content)
        made.append((description, path))
        return path

    def dicom(description: str, array: np.ndarray | None, syntax: str = "explicit", meta: bool = True, **tags) -> Path:
        path = folder / f"{len(made):03d}.dcm"
        make_dicom(path, array, syntax, meta, **tags)
        made.append((description, path))
        return path

    def patched(description: str, source: bytes, old: bytes, new: bytes) -> None:
        assert source.count(old) == 1, (description, source.count(old))
        add(description, source.replace(old, new))

    random = np.random.default_rng(7)
    noise = random.bytes(3000)
    grey = random.integers(0, 4096, (32, 40), dtype=np.uint16)
    plain = make_dicom(folder / "plain.dcm", grey, WindowCenter="2000", WindowWidth="4000").read_bytes()
    deflated = make_dicom(folder / "deflated.dcm", grey, "deflated").read_bytes()

    def data_of(content: bytes) -> int:
        """Where the data set begins."""
        return META_LENGTH + 4 + struct.unpack_from("<I", content, META_LENGTH)[0]

    begin, packed = data_of(plain), data_of(deflated)

    # --- pictures that end too early
    pictures = {
        "PNG": _picture("PNG"),
        "JPEG": _picture("JPEG"),
        "progressive JPEG": _picture("JPEG", progressive=True),
        "TIFF": _picture("TIFF"),
        "TIFF with deflate": _picture("TIFF", compression="tiff_adobe_deflate"),
        "WebP": _picture("WEBP"),
        "lossless WebP": _picture("WEBP", lossless=True),
        "BMP": _picture("BMP"),
    }
    for name, content in pictures.items():
        for share in (0.02, 0.3, 0.9):
            add(f"{name} cut after {share:.0%}", content[: max(12, int(share * len(content)))])
    for name in ("PNG", "JPEG", "WebP", "TIFF with deflate"):
        middle = len(pictures[name]) // 2
        add(f"{name} with noise in its middle", pictures[name][:middle] + noise[:400] + pictures[name][middle + 400 :])

    # --- noise behind a magic number
    magics = {
        "PNG": b"\x89PNG\r\n\x1a\n",
        "JPEG": b"\xff\xd8\xff\xe0",
        "TIFF": b"II*\0",
        "big-endian TIFF": b"MM\0*",
        "BMP": b"BM",
        "WebP": b"RIFF\x00\x10\x00\x00WEBP",
        "DICOM": bytes(128) + b"DICM",
        "DICOM without preamble": b"\x08\x00\x05\x00CS\x0a\x00",
        "old implicit DICOM": b"\x08\x00\x05\x00\x0a\x00\x00\x00",
        "gzip": b"\x1f\x8b\x08",
        "HDF5": b"\x89HDF\r\n\x1a\n",
        "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    }
    for name, magic in magics.items():
        add(f"noise behind the magic number of {name}", magic + noise)
        add(f"the magic number of {name} alone", magic)
    add("noise", noise)

    # --- things that are no images, under names of images
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as pack:
        pack.writestr("a.dcm", plain)
    add("a zip archive", archive.getvalue(), "study.dcm")
    add("a gzip archive", gzip.compress(plain), "image.dcm.gz")
    add("a PDF document", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", "report.png")
    add("an HTML page", b"<!DOCTYPE html><html><body>404</body></html>", "scan.jpg")
    add("a text", b"Findings: none.\n", "findings.dcm")
    add("a JSON text", b'{"pixels": []}', "image.tif")
    add("an SVG", b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "image.svg")
    add("a GIF", _picture("GIF", "P"), "image.png")
    add("a PPM", _picture("PPM"), "image.bmp")
    add("an ICO", b"\0\0\1\0\1\0" + noise[:100], "image.ico")
    add("an empty file", b"", "empty.png")
    add("one byte", b"\x89", "one.png")
    add("a NumPy array", b"\x93NUMPY\x01\x00" + noise, "array.npy")
    add("a pickle", b"\x80\x04\x95" + noise, "array.pkl")
    add("a PNG called .dcm", pictures["PNG"], "picture.dcm")
    add("a DICOM file called .png", plain, "dicom.png")
    add("a name of quotes and a line break", b"no image", 'it\'s "odd"\n.png')
    empty = folder / "nothing inside"
    empty.mkdir()
    made.append(("a folder without files", empty))
    link = folder / "link to a folder"
    link.symlink_to(empty, target_is_directory=True)
    made.append(("a link to a folder without files", link))
    around = folder / "around"
    around.symlink_to(around)
    made.append(("a link to itself", around))
    dangling = folder / "dangling.png"
    dangling.symlink_to(folder / "was here")
    made.append(("a link to nothing", dangling))
    pipe = folder / "pipe.dcm"
    os.mkfifo(pipe)
    made.append(("a pipe that nobody writes to", pipe))
    made.append(("a device", Path("/dev/zero")))
    made.append(("a file that is not there", folder / "absent.dcm"))
    made.append(("a name with a zero byte", folder / "a\0b.png"))
    made.append(("a name that is too long", folder / ("x" * 300)))

    # --- pictures whose headers lie
    add("PNG that claims 100000 x 100000 pixels", _png(100_000, 100_000))
    add("PNG that claims 12000 x 12000 pixels", _png(12_000, 12_000))
    add("PNG that claims 2^31-1 rows", _png(1, 2**31 - 1))
    add("PNG without rows", _png(10, 0))
    add("PNG of 3 bits", _png(8, 8, bits=3))
    add("PNG of colour type 5", _png(8, 8, colour=5))
    add("PNG palette without a palette", _png(8, 8, colour=3, data=b"\0" * 72))
    add("PNG with too little data", _png(64, 64))
    add(
        "PNG with a text of 64 MB",
        _png(8, 8)[:33] + _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26))) + _png(8, 8)[33:],
    )
    add("PNG with a wrong check sum", pictures["PNG"][:29] + b"\0\0\0\0" + pictures["PNG"][33:])
    bitmap = pictures["BMP"]
    add("BMP that claims 100000 x 100000 pixels", bitmap[:18] + struct.pack("<ii", 100_000, 100_000) + bitmap[26:])
    add("BMP of a negative width", bitmap[:18] + struct.pack("<ii", -64, 48) + bitmap[26:])
    add("BMP of 77 bits", bitmap[:28] + struct.pack("<H", 77) + bitmap[30:])
    add("BMP whose pixels begin behind its end", bitmap[:10] + struct.pack("<I", 2**31) + bitmap[14:])
    add("TIFF that claims 100000 x 100000 pixels", _tiff(_page(100_000, 100_000)))
    add("TIFF that claims 9000 x 9000 pixels", _tiff(_page(9_000, 9_000)))
    add("TIFF whose second page is its first", _tiff(_page(8, 8), next_page=8))
    add("TIFF whose strips begin behind its end", _tiff([(t, y, n, 2**31 if t == 273 else v) for t, y, n, v in _page(8, 8)]))
    add("TIFF with 2^32-1 values in a tag", _tiff([(t, y, 2**32 - 1 if t == 273 else n, v) for t, y, n, v in _page(8, 8)]))
    add("TIFF with 65535 tags", b"II*\0\x08\0\0\0\xff\xff" + noise)
    add("TIFF without tags", _tiff([]))
    not_numbers = np.full((8, 8), np.nan, dtype=np.float32)
    out = io.BytesIO()
    PIL.Image.fromarray(not_numbers).save(out, "TIFF")
    add("TIFF whose values are all NaN", out.getvalue())
    not_numbers[:4], not_numbers[4] = np.linspace(-3e38, 3e38, 8), np.inf
    out = io.BytesIO()
    PIL.Image.fromarray(not_numbers).save(out, "TIFF")
    add("TIFF with infinities and the largest floats", out.getvalue())
    webp = pictures["lossless WebP"]
    add("WebP whose size is wrong", webp[:4] + struct.pack("<I", 2**32 - 2) + webp[8:])

    # --- DICOM that ends too early
    for at in (100, 130, 134, 150, begin - 3, begin, begin + 3, begin + 60, len(plain) - grey.nbytes - 2, len(plain) - 777):
        add(f"DICOM cut after {at} bytes", plain[:at])
    add("deflated DICOM cut in its middle", deflated[: (packed + len(deflated)) // 2])
    add("deflated DICOM with noise in its data", deflated[: packed + 40] + noise[:200] + deflated[packed + 240 :])
    add("deflated DICOM that is not deflated", deflated[:packed] + plain[begin:])
    rle = make_dicom(folder / "rle.dcm", grey, "rle").read_bytes()
    add("RLE cut in its middle", rle[:-900])
    add("RLE with noise in its data", rle[:-900] + noise[:900])
    patched("RLE of 15 segments", rle, struct.pack("<II", 2, 64), struct.pack("<II", 15, 64))
    patched("RLE whose segment begins behind its end", rle, struct.pack("<II", 2, 64), struct.pack("<II", 2, 2**31))

    # --- DICOM whose header lies
    dicom("DICOM of 65535 x 65535 pixels", grey, Rows=65535, Columns=65535)
    dicom("DICOM of 10000 x 9999 pixels with the data of 1280", grey, Rows=10000, Columns=9999)
    dicom("DICOM without rows", grey, Rows=0)
    dicom("DICOM whose rows are empty", grey, Rows="")
    dicom("DICOM without Rows (0028,0010)", grey, Rows=None)
    dicom("DICOM with one row too many", grey, Rows=33)
    dicom("DICOM of 2^31-1 frames", grey, NumberOfFrames=2**31 - 1)
    dicom("DICOM of -5 frames", grey, NumberOfFrames=-5)
    dicom("DICOM of no frames", grey, NumberOfFrames=0)
    dicom("DICOM of 0 bits allocated", grey, BitsAllocated=0)
    dicom("DICOM of 65535 bits allocated", grey, BitsAllocated=65535)
    dicom("DICOM of 12 bits allocated", grey, BitsAllocated=12)
    dicom("DICOM of 64 bits allocated with the data of 16", grey, BitsAllocated=64)
    dicom("DICOM of 0 bits stored", grey, BitsStored=0)
    dicom("DICOM of 200 bits stored", grey, BitsStored=200)
    dicom("DICOM of more bits stored than allocated", grey, BitsStored=24, HighBit=23)
    dicom("DICOM whose high bit is 99", grey, HighBit=99)
    dicom("DICOM whose pixel representation is 7", grey, PixelRepresentation=7)
    for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        dicom(f"DICOM without {keyword}", grey, **{keyword: None})
    dicom("DICOM of 4 samples", grey, SamplesPerPixel=4)
    dicom("DICOM of 65535 samples", grey, SamplesPerPixel=65535)
    dicom(
        "DICOM that claims colour of grey data",
        grey,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
    )
    colour = random.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    dicom("colour DICOM without a planar configuration", colour, PlanarConfiguration=None)
    dicom("colour DICOM of planar configuration 9", colour, PlanarConfiguration=9)
    dicom("colour DICOM of 0 bits stored", colour, BitsStored=0)
    dicom("colour DICOM that claims MONOCHROME2", colour, PhotometricInterpretation="MONOCHROME2")
    dicom("photometric interpretation NONSENSE", grey, PhotometricInterpretation="NONSENSE")
    dicom("photometric interpretation of 5000 letters", grey, PhotometricInterpretation="X" * 5000)
    dicom("photometric interpretation YBR_FULL_422 of one sample", grey, PhotometricInterpretation="YBR_FULL_422")
    dicom("PALETTE COLOR without a palette", grey, PhotometricInterpretation="PALETTE COLOR")
    dicom(
        "PALETTE COLOR with a palette that is too short",
        grey.astype(np.uint8),
        PhotometricInterpretation="PALETTE COLOR",
        **{f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in ("Red", "Green", "Blue")},
        **{f"{c}PaletteColorLookupTableData": b"\0\1" for c in ("Red", "Green", "Blue")},
    )
    for width in (0, -3, 0.5, float("nan"), float("inf")):
        dicom(f"window width {width}", grey, WindowCenter=100, WindowWidth=width)
    dicom("window centre NaN", grey, WindowCenter=float("nan"), WindowWidth=100)
    dicom("window without a width", grey, WindowCenter=100)
    dicom("an empty window", grey, WindowCenter="", WindowWidth="")
    dicom("unknown VOI LUT function", grey, WindowCenter=100, WindowWidth=50, VOILUTFunction="CUBIC")
    dicom("rescale slope 0", grey, RescaleSlope=0, RescaleIntercept=5)
    dicom("rescale slope NaN", grey, RescaleSlope=float("nan"), RescaleIntercept=0)
    dicom("rescale slope empty", grey, RescaleSlope="", RescaleIntercept="")
    dicom("rescale slope 1e308", grey, RescaleSlope=1e308, RescaleIntercept=-1e308)
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        dicom(f"{keyword} with an empty item", grey, **{keyword: Sequence([Dataset()])})
        dicom(f"{keyword} with 3 of 65536 entries", grey, **{keyword: make_lut([0, 0, 16], [1, 2, 3])})
        dicom(f"{keyword} of 0 bits", grey, **{keyword: make_lut([3, 0, 0], [1, 2, 3])})
        dicom(f"{keyword} of an odd number of bytes", grey, **{keyword: make_lut([4, 0, 16], b"abc")})
        dicom(f"{keyword} without data", grey, **{keyword: make_lut([4, 0, 16], b"")})
    dicom("pixel spacing of one number", grey, PixelSpacing=[0.5])
    dicom(
        "pixel spacing of 0",
        grey,
        PixelSpacing=[0, 0],
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    )
    dicom(
        "orientation of nothing", grey, PixelSpacing=[1, 1], ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=[0] * 6
    )
    dicom(
        "position of two numbers",
        grey,
        PixelSpacing=[1, 1],
        ImagePositionPatient=[0, 0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    )
    dicom("functional groups without items", grey, NumberOfFrames=1, SharedFunctionalGroupsSequence=Sequence([]))
    dicom("sequences 40 deep", grey, ReferencedStudySequence=Sequence([_nested(40)]))
    floats = np.full((8, 8), np.nan, dtype=np.float32)
    dicom("float pixel data that are all NaN", floats)
    floats[0], floats[1] = np.linspace(-1, 1, 8), np.inf
    dicom("float pixel data with NaN and infinity", floats)
    dicom("grey pixels that are all the same", np.full((8, 8), 7, dtype=np.uint16))
    dicom("DICOM without pixel data", None, Rows=8, Columns=8, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2")
    dicom("DICOM with a report", None, Modality="SR")
    dicom("DICOM with empty pixel data", grey, PixelData=b"")
    dicom("deflated DICOM without pixel data", None, "deflated", Rows=8, Columns=8)
    dicom("DICOM without meta group and pixel data", None, meta=False, Rows=8, Columns=8)
    add("DICOM of the prefix and sequences 5000 deep", plain[:begin] + _deep(5000))
    add("DICOM without meta group, sequences 5000 deep", _deep(5000))

    # --- DICOM whose encoding lies; the lengths stay the same
    explicit, zero = b"1.2.840.10008.1.2.1\0", b"\0"
    for name, uid in {
        "an unknown transfer syntax": b"1.2.3.4.5.6.7.8.9.0\0",
        "a transfer syntax that is no UID": b"not a UID, is it?..\0",
        "implicit VR": b"1.2.840.10008.1.2".ljust(20, zero),
        "big endian": b"1.2.840.10008.1.2.2\0",
        "deflated": b"1.2.840.10008.1.2.1\0",
        "RLE": b"1.2.840.10008.1.2.5\0",
    }.items():
        if uid != explicit:
            patched(f"explicit little-endian DICOM that claims {name}", plain, explicit, uid)
    patched("DICOM with an empty transfer syntax", plain, explicit, bytes(20))
    for name, uid in {
        "JPEG baseline": "1.2.840.10008.1.2.4.50",
        "JPEG Lossless": "1.2.840.10008.1.2.4.70",
        "JPEG-LS": "1.2.840.10008.1.2.4.80",
        "JPEG 2000": "1.2.840.10008.1.2.4.90",
        "HTJ2K": "1.2.840.10008.1.2.4.201",
        "MPEG2": "1.2.840.10008.1.2.4.100",
        "MPEG4": "1.2.840.10008.1.2.4.102",
        "HEVC": "1.2.840.10008.1.2.4.107",
        "JPIP": "1.2.840.10008.1.2.4.94",
        "a private syntax": "1.2.840.113619.5.2",
    }.items():
        path = dicom(f"encapsulated noise that claims {name}", grey)
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = uid
        data.PixelData = pydicom.encaps.encapsulate([noise[:600]])
        data["PixelData"].is_undefined_length = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.save_as(path, implicit_vr=False, little_endian=True)
    for value in (0, 4, 2**31, 2**32 - 1):
        add(f"meta group length {value}", plain[:META_LENGTH] + struct.pack("<I", value) + plain[META_LENGTH + 4 :])
    patched("a VR that does not exist", plain, b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00ZZ")
    patched("Rows as a text", plain, b"\x28\x00\x10\x00US\x02\x00\x20\x00", b"\x28\x00\x10\x00LO\x02\x00ab")
    patched("Rows as a decimal string", plain, b"\x28\x00\x10\x00US\x02\x00\x20\x00", b"\x28\x00\x10\x00DS\x02\x00x1")
    patched("Rows of length 65534", plain, b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00US\xfe\xff")
    patched("Rows of length 3", plain, b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00US\x03\x00")
    pixels = b"\xe0\x7f\x10\x00OW\x00\x00"
    for name, length in {"0": 0, "2 GiB": 2**31, "undefined": 2**32 - 1, "odd": grey.nbytes - 1}.items():
        patched(
            f"pixel data whose length is {name}",
            plain,
            pixels + struct.pack("<I", grey.nbytes),
            pixels + struct.pack("<I", length),
        )
    patched("window centre as words", plain, b"DS\x04\x002000", b"DS\x04\x00word")

    # --- bombs
    meta = deflated[:packed]
    add("deflated DICOM that inflates to 4 GiB", meta + _zeros_deflated(4096))
    # the meta group's length points at a small deflated stream, pydicom reads on to the bomb
    small = _zeros_deflated(1)[:1000]
    private = b"\x02\x00\x02\x01OB\0\0" + struct.pack("<I", len(small)) + small
    liar = meta[:META_LENGTH] + struct.pack("<I", packed - META_LENGTH - 4 + 12) + meta[META_LENGTH + 4 :] + private
    add("deflated bomb behind a meta group of the wrong length", liar + _zeros_deflated(4096))
    add("deflated bomb without preamble", meta[132:] + _zeros_deflated(4096))
    command = struct.pack("<HHII", 0, 0, 4, 0)
    add("deflated bomb behind a command group", meta + command + _zeros_deflated(4096))
    header = make_dicom(folder / "large.dcm", grey, Rows=6000, Columns=6600, PixelData=None).read_bytes()[begin:]
    header += pixels + struct.pack("<I", 6000 * 6600 * 2)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    add(
        "deflated DICOM of 39 million zeros in 80 kB",
        meta + packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH) + _zeros_deflated(76),
    )
    for bits, colour, wide, high in (
        (8, 0, 10_000, 9_900),
        (16, 0, 5_700, 5_800),
        (8, 2, 5_700, 5_800),
        (8, 6, 10_000, 9_900),
    ):
        row = 1 + wide * bits // 8 * {0: 1, 2: 3, 6: 4}[colour]
        zeros = zlib.compress(bytes(row * high), 1) if colour != 6 else zlib.compress(bytes(row))
        shape = _chunk(b"IHDR", struct.pack(">IIBBBBB", wide, high, bits, colour, 0, 0, 0))
        name = f"PNG of {wide} x {high} zeros of {bits} bits, colour type {colour}"
        add(name, b"\x89PNG\r\n\x1a\n" + shape + _chunk(b"IDAT", zeros) + _chunk(b"IEND", b""))

    deep = io.BytesIO()
    PIL.Image.fromarray(np.zeros((5700, 5800), dtype=np.float32)).save(deep, "TIFF", compression="tiff_adobe_deflate")
    add("TIFF of 5700 x 5800 zeros of 32 bits", deep.getvalue())

    # --- pydicom's own odd files, whole and cut
    bundled = Path(pydicom.__file__).parent / "data" / "test_files"
    for name in (
        "MR_truncated.dcm",
        "badVR.dcm",
        "JPEG2000-embedded-sequence-delimiter.dcm",
        "waveform_ecg.dcm",
        "rtplan_truncated.dcm",
        "meta_missing_tsyntax.dcm",
        "no_meta.dcm",
        "UN_sequence.dcm",
        "SC_rgb_jpeg.dcm",
        "JPEG-lossy.dcm",
        "zipMR.gz",
    ):
        if (bundled / name).is_file():
            shutil.copy(bundled / name, folder / name)
            made.append((f"pydicom's {name}", folder / name))
    for name in (
        "JPEG2000.dcm",
        "MR_small_RLE.dcm",
        "JPEGLSNearLossless_16.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "examples_palette.dcm",
    ):
        if (bundled / name).is_file():
            content = (bundled / name).read_bytes()
            for share in (0.5, 0.97):
                add(f"pydicom's {name} cut after {share:.0%}", content[: int(share * len(content))])
            add(
                f"pydicom's {name} with noise in its middle",
                content[: len(content) // 2] + noise + content[len(content) // 2 + 3000 :],
            )
    return made


def _peak_mb() -> float:
    """The most memory that this process held; Linux's ru_maxrss would count what it was before execv, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def outcome(path: Path) -> dict[str, object]:
    """What the engine makes of one file: {"error": sentence}, {"image": what is wrong with it, or ""} or {"raised": ...}."""
    import engine

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(2 * SECONDS)
    try:
        image = engine.read([path])[0].frame(0)
        p = image.pixels
        wrong = []
        if p.dtype != np.float32 or not (p.ndim == 2 or (p.ndim == 3 and p.shape[2] == 3)):
            wrong.append(f"{p.dtype} {p.shape}")
        if not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
            wrong.append(f"values from {p.min()} to {p.max()}")
        if not image.notes:
            wrong.append("no notes")
        return {"image": ", ".join(wrong), "notes": image.notes}
    except engine.EngineError as error:
        return {"error": str(error)}
    except BaseException:
        return {"raised": traceback.format_exc()}
    finally:
        signal.alarm(0)


def main() -> None:
    """Writes the files in a process of its own, so that the memory counted is the reading's."""
    folder = Path(sys.argv[1])
    if "--read" not in sys.argv:
        made = [(description, str(path)) for description, path in broken_files(folder)]
        (folder / "list.json").write_text(json.dumps(made))
        os.execv(sys.executable, [sys.executable, __file__, str(folder), "--read"])
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import engine.readers

    assert engine.readers
    before = _peak_mb()
    for description, path in json.loads((folder / "list.json").read_text()):
        print(json.dumps({"begun": description}), flush=True)  # names the file if the process dies
        start = time.process_time()
        found = outcome(Path(path))
        peak = _peak_mb() - before
        print(
            json.dumps({"description": description, "seconds": time.process_time() - start, "peak_mb": peak, **found}),
            flush=True,
        )


if __name__ == "__main__":
    main()
