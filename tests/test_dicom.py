"""DICOM: every transfer syntax with expected pixels from an independent road, values by hand, headers that lie, bounds.

python -m pytest tests/test_dicom.py
python tests/test_dicom.py            prints the table of docs/dicom.md
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gdcm  # noqa: F401 (prints once where it is first imported)
import imagecodecs
import numpy as np
import PIL.ImageCms
import pydicom
import pytest
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.errors import ImageError
from engine.limits import Limits
from engine.readers import _decoders, _worker, dicom, open_file
from engine.readers._decoders import ROADS, STEM, known
from engine.readers._grey import square
from engine.readers.dicom import DicomSeries
from engine.types import Image, Window
from scripts import survey_reading

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
NAN = float("nan")
AUTOMATIC = Window(NAN, NAN, source="automatic")


def close(found: np.ndarray, wanted: object, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(found, np.asarray(wanted, dtype=float), atol=atol)  # 1e-6: float32 holds 7 digits


def opened(path: Path, **limits: int) -> DicomSeries:
    found = open_file(path, Limits(**limits))[0]
    assert isinstance(found, DicomSeries)
    return found


def frame(path: Path, window: Window | None = None, index: int = 0) -> Image:
    return opened(path).frame(index, window)


def item(**tags: object) -> Dataset:
    made = Dataset()
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    return made


# --- writing files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What a file's header says of its pixels."""

    photometric: str = "MONOCHROME2"
    allocated: int = 16
    stored: int = 16
    signed: bool = False
    planar: int = 0

    @property
    def samples(self) -> int:
        return 1 if self.photometric.startswith(("MONOCHROME", "PALETTE")) else 3


def written(
    path: Path, syntax: str, kind: Kind, shape: tuple[int, int], content: bytes | list[bytes], **tags: object
) -> Path:
    """A file whose pixels are `content`: bytes as they are, or encoded frames to be encapsulated."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = "1.2.840.10008.5.1.4.1.1.7", "1.2.826.0.1.3680043.8.498.1", "MR"
    data.Rows, data.Columns = shape
    data.SamplesPerPixel, data.PhotometricInterpretation = kind.samples, kind.photometric
    data.BitsAllocated, data.BitsStored, data.HighBit = kind.allocated, kind.stored, kind.stored - 1
    data.PixelRepresentation = int(kind.signed)
    if kind.samples > 1:
        data.PlanarConfiguration = kind.planar
    if isinstance(content, list):
        data.PixelData = encapsulate(content)
        if len(content) > 1:
            data.NumberOfFrames = len(content)
    else:
        data.PixelData = content + b"\0" * (len(content) % 2)
    data["PixelData"].VR = "OB" if kind.allocated <= 8 or isinstance(content, list) else "OW"
    data["PixelData"].is_undefined_length = isinstance(content, list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are what some tests are about
        for keyword, value in tags.items():
            if value is None:
                del data[keyword]
            else:
                setattr(data, keyword, value)
        data.file_meta = FileMetaDataset()
        newer = not UID(syntax).is_transfer_syntax  # than pydicom
        data.file_meta.TransferSyntaxUID = UID(f"{STEM}.4.201" if newer else syntax)
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(
            path,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=True,
        )
    return relabelled(path, syntax) if newer else path


def relabelled(path: Path, wrong: str) -> Path:
    """The same file with another transfer syntax in its meta group."""
    content = path.read_bytes()
    place = content.index(b"\x02\x00\x10\x00UI") + 6
    (length,), uid = struct.unpack_from("<H", content, place), wrong.encode() + b"\0" * (len(wrong) % 2)
    group = struct.unpack_from("<I", content, 140)[0] + len(uid) - length  # (0002,0000), the first element
    changed = content[:place] + struct.pack("<H", len(uid)) + uid + content[place + 2 + length :]
    path.write_bytes(changed[:140] + struct.pack("<I", group) + changed[144:])
    return path


@functools.cache
def values_of(kind: Kind, shape: tuple[int, int] = (37, 43)) -> np.ndarray:
    """Smooth values with some noise, over the whole range of the stored bits."""
    full = (*shape, 3)[: 2 if kind.samples == 1 else 3]
    random = np.random.default_rng(kind.stored * 2 + kind.signed)
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / (sum(shape) - 2)
    ramp = ramp if kind.samples == 1 else np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1)
    most = 2**kind.stored - 1
    found = np.clip(np.rint((ramp * 0.9 + 0.1 * random.random(full)) * most), 0, most)
    found.flat[0], found.flat[-1] = 0, most
    low = 2 ** (kind.stored - 1) if kind.signed else 0
    return (found - low).astype(f"{'i' if kind.signed else 'u'}{max(kind.allocated, 8) // 8}")


def raw(values: np.ndarray, kind: Kind, big: bool = False) -> bytes:
    """Uncompressed bytes. PS3.5 8."""
    if kind.allocated == 1:
        return np.packbits(values.reshape(-1), bitorder="little").tobytes()
    if kind.planar:
        values = np.moveaxis(values, -1, 0)
    content = np.ascontiguousarray(values).astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    return content


def rle(values: np.ndarray, kind: Kind) -> bytes:
    """RLE by hand, runs of literals only: slow to read, and right. PS3.5 G."""
    planes = np.moveaxis(values, -1, 0) if kind.samples == 3 else values[None]
    size = values.dtype.itemsize
    segments = []
    for plane in planes:
        each = np.ascontiguousarray(plane).astype(plane.dtype.newbyteorder(">")).view(np.uint8).reshape(-1, size)
        for byte in range(size):
            content = each[:, byte].tobytes()
            cut = b"".join(bytes([len(p) - 1]) + p for p in (content[i : i + 128] for i in range(0, len(content), 128)))
            segments.append(cut + b"\0" * (len(cut) % 2))
    offsets = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(offsets))) + b"".join(segments)


def unsigned(values: np.ndarray, kind: Kind) -> np.ndarray:
    """The same bits: what JPEG, which knows no sign, is given."""
    return values.view(f"u{values.dtype.itemsize}") & np.array(2**kind.stored - 1).astype(f"u{values.dtype.itemsize}")


def lossless_jpeg(values: np.ndarray, kind: Kind, predictor: int = 1) -> bytes:
    return imagecodecs.jpeg8_encode(unsigned(values, kind), lossless=True, predictor=predictor, bitspersample=kind.stored)


def dct(values: np.ndarray, kind: Kind) -> bytes:
    space = {"colorspace": "RGB", "outcolorspace": "RGB"} if kind.photometric == "RGB" else {}
    return imagecodecs.jpeg8_encode(
        values, level=98, bitspersample=kind.stored, subsampling="444" if kind.samples == 3 else None, **space
    )


def jpeg_2000(values: np.ndarray, kind: Kind) -> bytes:
    """By pylibjpeg-openjpeg: bits and sign as given."""
    space = 2 if kind.samples == 1 else 1
    return bytes(encode_array(values, kind.stored, photometric_interpretation=space, use_mct=kind.photometric == "YBR_RCT"))


def htj2k(values: np.ndarray, kind: Kind) -> bytes:
    """By OpenJPH; the reader's first decoder is OpenJPEG."""
    return imagecodecs.htj2k_encode(values, rgb=kind.photometric == "YBR_RCT")


def jpeg_ls(values: np.ndarray, kind: Kind) -> bytes:
    return imagecodecs.jpegls_encode(unsigned(values, kind))


def deflated(values: np.ndarray, kind: Kind) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    found = packer.compress(raw(values, kind)) + packer.flush()
    return found + b"\0" * (len(found) % 2)


def packed_rle(values: np.ndarray, kind: Kind) -> bytes:
    return (
        rle(np.frombuffer(raw(values, kind), np.uint8)[None], Kind(allocated=8, stored=8))
        if kind.allocated == 1
        else rle(values, kind)
    )


G1, G8, G12, G16, G32 = (Kind(allocated=a, stored=s) for a, s in ((1, 1), (8, 8), (16, 12), (16, 16), (32, 32)))
S8, S12, S16, S32 = (Kind(allocated=a, stored=s, signed=True) for a, s in ((8, 8), (16, 12), (16, 16), (32, 32)))
INVERTED = Kind("MONOCHROME1", 16, 12)
RGB, PLANES, RGB16, RGB12 = Kind("RGB", 8, 8), Kind("RGB", 8, 8, planar=1), Kind("RGB", 16, 16), Kind("RGB", 16, 12)
YBR, PALETTE = Kind("YBR_FULL", 8, 8), Kind("PALETTE COLOR", 8, 8)
PALETTE16 = Kind("PALETTE COLOR", 16, 16)
RCT = Kind("YBR_RCT", 8, 8)
EVERY = (G1, G8, S8, G12, S12, G16, S16, G32, S32, INVERTED, PALETTE, PALETTE16, RGB, PLANES, RGB12, RGB16, YBR)
Encoder = Callable[[np.ndarray, Kind], bytes] | None

# Transfer syntax, how a file of it is made (None: uncompressed), its road to the expected values, and the kinds of pixels.
LITERAL = "the array, as the test packs it"
ENCODED = "the array before it was encoded by"
SYNTAXES: list[tuple[str, Encoder, str, tuple[Kind, ...]]] = [
    (STEM, None, LITERAL, EVERY),
    (f"{STEM}.1", None, LITERAL, EVERY),
    (f"{STEM}.1.99", None, LITERAL, EVERY),
    (f"{STEM}.2", None, LITERAL, EVERY),
    (f"{STEM}.4.50", dct, "Pillow's decoder", (G8, PALETTE, RGB, YBR)),
    (f"{STEM}.4.51", dct, "Pillow's (8 bits) or GDCM's decoder", (G8, G12, INVERTED, YBR)),
    (f"{STEM}.4.57", functools.partial(lossless_jpeg, predictor=4), f"{ENCODED} libjpeg-turbo, predictor 4", (G8, G12, G16, S16, INVERTED, PALETTE, RGB)),
    (f"{STEM}.4.70", lossless_jpeg, f"{ENCODED} libjpeg-turbo", (G8, S8, G12, S12, G16, S16, INVERTED, PALETTE, PALETTE16, RGB, YBR)),
    (f"{STEM}.4.80", jpeg_ls, f"{ENCODED} CharLS", (G8, S8, G16, S16, PALETTE, PALETTE16, RGB, RGB16, YBR)),
    (f"{STEM}.4.81", jpeg_ls, f"{ENCODED} CharLS, near 0", (G8, G16, S16, RGB)),
    (f"{STEM}.4.90", jpeg_2000, f"{ENCODED} OpenJPEG", (G8, S8, G12, S12, G16, S16, INVERTED, PALETTE, PALETTE16, RGB, RGB12, RGB16, RCT)),
    (f"{STEM}.4.91", jpeg_2000, f"{ENCODED} OpenJPEG, reversible", (G8, G12, S16, RGB)),
    *((f"{STEM}.4.{n}", htj2k, f"{ENCODED} OpenJPH", (G8, S8, G16, S16, PALETTE, RGB, RGB16, RCT)) for n in (201, 202, 203)),
    *((f"{STEM}.4.{n}", lambda v, k: imagecodecs.jpegxl_encode(v, lossless=True), f"{ENCODED} libjxl", (G8, G16, RGB)) for n in (110, 112)),
    (f"{STEM}.5", packed_rle, "the array, as the test packs it", (G1, G8, S8, G12, S12, G16, S16, G32, INVERTED, PALETTE, PALETTE16, RGB, RGB16, YBR)),
    (f"{STEM}.8.1", deflated, "the array, as the test packs it", (G1, G8, G12, S16, G32, PALETTE, RGB, YBR)),
]  # fmt: skip


def title(syntax: str) -> str:
    return known(syntax).partition(" [")[0]


def cases() -> list[object]:
    return [
        pytest.param(syntax, encoder, kind, id=case_id(syntax, kind))
        for syntax, encoder, _, kinds in SYNTAXES
        for kind in kinds
    ]


def case_id(syntax: str, kind: Kind) -> str:
    words = kind.photometric.lower().replace(" ", "-").replace("_", "-")
    return f"{syntax.removeprefix(STEM) or '.0'} {words} {'s' if kind.signed else 'u'}{kind.stored}/{kind.allocated}{' planes' * kind.planar}"


def table() -> str:
    """What docs/dicom.md shows between its marks."""
    lines = [
        "| transfer syntax | photometric interpretation | bits | decoders | expected values | test_stored_values_come_back |",
        "|---|---|---|---|---|---|",
    ]
    for syntax, encoder, road, kinds in SYNTAXES:
        for kind in kinds:
            planes = ", by plane" * kind.planar
            sign = "signed" if kind.signed else "unsigned"
            decoders = ", ".join(ROADS.get(syntax, ("pydicom",))[: 1 if encoder is dct and kind.stored > 8 else 2])
            lines.append(
                f"| {title(syntax)} ({syntax.removeprefix('1.2.840.10008.')}) | {kind.photometric}{planes} | "
                f"{kind.stored} of {kind.allocated}, {sign} | {decoders} | {road} | `[{case_id(syntax, kind)}]` |"
            )
    return "\n".join(lines)


def encoded_file(path: Path, syntax: str, encoder: Encoder, kind: Kind, values: np.ndarray, **tags: object) -> Path:
    if encoder is not None:
        return written(path, syntax, kind, values.shape[:2], [encoder(values, kind)], **tags)
    return written(path, syntax, kind, values.shape[:2], raw(values, kind, syntax == ExplicitVRBigEndian), **tags)


# --- every transfer syntax x photometric interpretation x bits ----------------------------------------------------------


def grey_palette(kind: Kind) -> dict[str, object]:
    """A palette that shows an index as its own grey."""
    if not kind.photometric.startswith("PALETTE"):
        return {}
    count = 2**kind.stored
    entries = (np.arange(count) * (65535 // (count - 1))).astype("<u2").tobytes()
    return {f"{c}PaletteColorLookupTable{w}": v for c in ("Red", "Green", "Blue") for w, v in (("Descriptor", [count % 65536, 0, 16]), ("Data", entries))}  # fmt: skip


@pytest.mark.parametrize(("syntax", "encoder", "kind"), cases())
def test_stored_values_come_back(tmp_path, syntax, encoder, kind):
    values = values_of(kind)
    tags = grey_palette(kind) if syntax != ExplicitVRBigEndian else {}
    series = opened(encoded_file(tmp_path / "x", syntax, encoder, kind, values, **tags))
    found = series.stored(0)
    assert found.values.dtype.kind == values.dtype.kind and found.values.shape == values.shape
    if encoder is not dct:
        assert np.array_equal(found.values, values)
    else:
        # lossy: the other decoder's values exactly, and near what was encoded (quality 98)
        other = series.stored(0, without=found.decoder)
        assert other.decoder != found.decoder and np.array_equal(found.values, other.values)
        if kind.photometric != "YBR_FULL":  # there the encoder has converted RGB
            assert np.abs(found.values.astype(int) - values.astype(int)).mean() < 2 ** (kind.stored - 7)
    if tags or syntax != ExplicitVRBigEndian or not kind.photometric.startswith("PALETTE"):
        image = series.frame(0)
        assert np.ptp(image.pixels) > 0.5 and image.warnings == ()


@pytest.mark.parametrize(
    ("syntax", "encoder", "kind"),
    [case for case in cases() if len(ROADS.get(case.values[0], ())) > 1 and case.values[1] is not dct],
)
def test_the_second_decoder_gives_the_same_values(tmp_path, syntax, encoder, kind):
    series = opened(encoded_file(tmp_path / "x", syntax, encoder, kind, values_of(kind), **grey_palette(kind)))
    first = series.stored(0)
    second = series.stored(0, without=first.decoder)
    assert second.decoder == ROADS[syntax][1] != first.decoder
    assert np.array_equal(second.values, values_of(kind)) and second.colours == first.colours


def test_the_table_of_the_documentation_is_of_these_tests():
    text = (Path(__file__).parent.parent / "docs" / "dicom.md").read_text()
    shown = text.partition("<!-- table -->\n")[2].partition("\n<!-- end -->")[0]
    assert shown == table(), "run `python tests/test_dicom.py --write`"


def test_every_transfer_syntax_that_is_decoded_has_a_row():
    retired = set(_decoders.DCT[2:])  # no encoder writes them here; two real files do, see the survey
    assert set(ROADS) - {syntax for syntax, *_ in SYNTAXES} == retired | {f"{STEM}.4.111"}  # a recompressed JPEG


# --- decoders that fail ------------------------------------------------------------------------------------------------


def fails(*_: object) -> np.ndarray:
    raise ValueError("no")


def test_the_second_decoder_is_named_where_the_first_fails(tmp_path, monkeypatch):
    path = encoded_file(tmp_path / "x", f"{STEM}.4.90", jpeg_2000, G16, values_of(G16))
    whole = frame(path)
    monkeypatch.setitem(_decoders.DECODERS, "pylibjpeg", fails)
    image = frame(path)
    assert "Decoded by imagecodecs after pylibjpeg failed." in image.notes
    assert image.warnings == ("The pixels may be damaged: pylibjpeg refused them.",)
    assert np.array_equal(image.pixels, whole.pixels) and not any("Decoded by" in note for note in whole.notes)


def test_both_decoders_that_fail_are_named(tmp_path, monkeypatch):
    path = encoded_file(tmp_path / "x.dcm", f"{STEM}.4.80", jpeg_ls, G8, values_of(G8))
    for name in ("pyjpegls", "imagecodecs"):
        monkeypatch.setitem(_decoders.DECODERS, name, fails)
    with pytest.raises(ImageError, match=r"'x\.dcm' \(JPEG-LS Lossless .*pyjpegls and imagecodecs refused them"):
        frame(path)


def test_a_decoder_that_silently_gives_zeros_is_doubted(tmp_path, monkeypatch):
    # pydicom issue 966: a truncated JPEG 2000 frame came out of Pillow and GDCM as zeros, without an error
    path = encoded_file(tmp_path / "x", f"{STEM}.4.90", jpeg_2000, G16, values_of(G16))
    monkeypatch.setitem(
        _decoders.DECODERS, "pylibjpeg", lambda f, s, layout, t: np.zeros((layout.rows, layout.columns), "u2")
    )
    image = frame(path)
    assert "Decoded by imagecodecs after pylibjpeg failed." in image.notes and np.ptp(image.pixels) == 1


def test_a_frame_that_is_black_stays_black(tmp_path):
    black = np.zeros((37, 43), dtype=np.uint16)
    image = frame(encoded_file(tmp_path / "x", f"{STEM}.4.90", jpeg_2000, G16, black))
    assert image.warnings == ("All pixels have the same value: the file may be damaged.",)
    assert not any("Decoded by" in note for note in image.notes)


def test_a_frame_of_another_size_than_the_header_says_is_refused(tmp_path):
    path = encoded_file(tmp_path / "x", f"{STEM}.4.70", lossless_jpeg, G16, values_of(G16), Rows=30)
    with pytest.raises(ImageError, match=r"are 37 x 43 with 1 samples, the header says 30 x 43 with 1 \(\(0028,0010\) Rows"):
        frame(path)


def test_compressed_pixels_of_less_precision_than_the_header_says_are_read(tmp_path):
    # pydicom issue 2059: JPEG 2000 of 12 bits under a header of 16 ended in a reshape error
    values = values_of(G12)
    path = written(tmp_path / "x", f"{STEM}.4.90", G16, values.shape, [jpeg_2000(values, G12)])
    image = frame(path)
    assert np.array_equal(opened(path).stored(0).values, values)
    assert "(0028,0101) Bits Stored says 16 bits, the compressed pixels 12." in image.notes


def test_signed_pixels_in_an_unsigned_code_stream_are_signed_again(tmp_path):
    values = values_of(S12)
    path = written(tmp_path / "x", f"{STEM}.4.90", S12, values.shape, [jpeg_2000(unsigned(values, S12), G12)])
    assert np.array_equal(opened(path).stored(0).values, values)
    assert np.array_equal(opened(path).stored(0, without="pylibjpeg").values, values)


def test_a_frame_without_its_end_is_warned_of(tmp_path):
    smooth = np.add.outer(np.arange(128), np.arange(128)).astype(np.uint8)
    whole = dct(smooth, G8)
    path = written(tmp_path / "x", f"{STEM}.4.50", G8, smooth.shape, [whole[: len(whole) // 2]])
    try:
        image = frame(path)
    except ImageError as error:
        assert "are damaged or cut off" in error.message
    else:
        assert "have no end marker" in image.warnings[0]


def test_gdcm_is_asked_for_12_bit_lossy_jpeg_in_comparisons_only(tmp_path, monkeypatch):
    # bug: it ends the process on some damaged frames of that kind, found by fuzzing
    path = encoded_file(tmp_path / "x", f"{STEM}.4.51", dct, G12, values_of(G12))
    assert opened(path).stored(0, without="imagecodecs").decoder == "gdcm"
    asked: list[int] = []
    monkeypatch.setitem(_decoders.DECODERS, "imagecodecs", fails)
    monkeypatch.setitem(_decoders.DECODERS, "gdcm", lambda *_: asked.append(1))
    with pytest.raises(ImageError, match="imagecodecs and pillow refused them"):
        frame(path)
    assert asked == []


def test_a_recompressed_jpeg_in_jpeg_xl_looks_as_before(tmp_path):
    values = values_of(Kind("RGB", 8, 8), (64, 64))
    jpeg = imagecodecs.jpeg8_encode(values, level=95)
    path = written(tmp_path / "x", f"{STEM}.4.111", YBR, (64, 64), [imagecodecs.jpegxl_encode_jpeg(jpeg)])
    # libjxl and libjpeg-turbo each round the transform and the change of colours
    close(frame(path).pixels * 255, imagecodecs.jpeg8_decode(jpeg), atol=3)


def test_damaged_rle_does_not_end_the_process(tmp_path):
    # bug: imagecodecs' RLE decoder, asked second, ends the process where a segment's offset leads out of the frame
    content = rle(values_of(RGB), RGB)
    for offset in (2**31, 2**32 - 1, len(content) + 9):
        broken = content[:8] + struct.pack("<I", offset) + content[12:]
        with pytest.raises(ImageError, match="pylibjpeg and pydicom refused them"):
            frame(written(tmp_path / "x", f"{STEM}.5", RGB, (37, 43), [broken]))


def test_damaged_boxes_around_a_jpeg_2000_code_stream_are_skipped(tmp_path):
    # bug: pydicom 3.0 looks for the code stream for ever where the length of a JP2 box is 0
    values = values_of(G12)
    boxes = bytes.fromhex("0000000c6a5020200d0a870a") + struct.pack(">I4s", 20, b"ftyp") + b"jp2 \0\0\0\0jp2 " + bytes(8)
    path = written(tmp_path / "x", f"{STEM}.4.90", G12, values.shape, [boxes + jpeg_2000(values, G12)])
    assert np.array_equal(opened(path).stored(0).values, values)
    with pytest.raises(ImageError, match="no JPEG 2000 code stream"):
        frame(written(tmp_path / "y", f"{STEM}.4.90", G12, values.shape, [boxes + bytes(1000)]))


def test_a_truncated_jpeg_ls_frame_is_refused_at_once(tmp_path):
    # bug: CharLS took 4 seconds and more to refuse some frames that have no end marker
    whole = jpeg_ls(values_of(G8, (128, 128)), G8)
    began = time.process_time()
    for cut in range(len(whole) // 2, len(whole) // 2 + 8):
        with pytest.raises(ImageError, match="are damaged or cut off"):
            frame(written(tmp_path / "x", f"{STEM}.4.80", G8, (128, 128), [whole[:cut]]))
    assert time.process_time() - began < 2


@pytest.mark.parametrize("damage", ["gap", "precision"])
def test_gdcm_is_not_asked_for_lossless_jpeg_with_damaged_markers(tmp_path, monkeypatch, damage):
    # bug: it ends the process on both, found by fuzzing
    encoded = bytearray(lossless_jpeg(values_of(G8), G8))
    place = encoded.index(b"\xff\xc3")
    if damage == "precision":
        encoded[place + 4] = 155
    else:
        encoded[place:place] = bytes(16)
    asked: list[int] = []
    gdcm_of_pydicom = _decoders._by_plugin
    monkeypatch.setattr(_decoders, "_by_plugin", lambda name: (asked.append(1), gdcm_of_pydicom(name))[1])
    monkeypatch.setitem(_decoders.DECODERS, "imagecodecs", fails)
    with pytest.raises(ImageError, match="imagecodecs and gdcm refused them"):
        frame(written(tmp_path / "x", f"{STEM}.4.70", G8, (37, 43), [bytes(encoded)]))
    assert asked == []


def test_lossy_htj2k_does_not_wrap_around_where_it_is_white(tmp_path):
    # bug: OpenJPH through imagecodecs gives 0 where a lossy value would be above 255; OpenJPEG clips it
    values = np.zeros((64, 64, 3), dtype=np.uint8)
    values[20:40, 10:50] = 255
    encoded = imagecodecs.htj2k_encode(values, level=0.02, reversible=False, rgb=True)
    path = written(tmp_path / "x", f"{STEM}.4.203", RCT, (64, 64), [encoded])
    for without in ("", "pylibjpeg"):
        found = opened(path).stored(0, without=without).values.astype(int)
        assert np.abs(found - values).max() <= 5, without  # the loss of this level


# --- files whose meta header lies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("said", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, f"{STEM}.1.99"])
def test_a_wrong_encoding_in_the_meta_header_is_noticed(tmp_path, true, said):
    path = relabelled(encoded_file(tmp_path / "x", true, None, S16, values_of(S16)), said)
    assert np.array_equal(opened(path).stored(0).values, values_of(S16))
    words = [note for note in frame(path).notes if note.startswith("(0002,0010) Transfer Syntax UID says")]
    assert len(words) == (said != true)


@pytest.mark.parametrize(
    ("encoder", "kind", "said"),
    [(jpeg_2000, G16, f"{STEM}.4.70"), (lossless_jpeg, G16, f"{STEM}.4.90"), (jpeg_ls, G8, f"{STEM}.4.50"), (rle, G16, f"{STEM}.4.80"), (htj2k, G8, f"{STEM}.4.91"), (dct, G8, f"{STEM}.5")],
)  # fmt: skip
def test_pixels_of_another_kind_than_the_meta_header_says_are_read(tmp_path, encoder, kind, said):
    values = values_of(kind)
    path = written(tmp_path / "x", said, kind, values.shape, [encoder(values, kind)])
    image = frame(path)
    assert any("the pixels are" in note and "were read as such" in note for note in image.notes)
    assert encoder is dct or np.array_equal(opened(path).stored(0).values, values)


def test_encapsulated_pixels_under_an_uncompressed_syntax_are_read(tmp_path):
    path = encoded_file(tmp_path / "x", f"{STEM}.4.90", jpeg_2000, G16, values_of(G16))
    relabelled(path, f"{STEM}.1")
    assert np.array_equal(opened(path).stored(0).values, values_of(G16))
    assert any("but the pixels are encapsulated" in note for note in frame(path).notes)


def test_uncompressed_pixels_under_a_compressed_syntax_are_read(tmp_path):
    content = values_of(G16).tobytes()
    path = written(tmp_path / "x", f"{STEM}.1", G16, (37, 43), content)
    relabelled(path, f"{STEM}.4.90")
    assert np.array_equal(opened(path).stored(0).values, values_of(G16))
    assert any("but the pixels are not encapsulated" in note for note in frame(path).notes)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("keep", ["prefix", "meta group", "data set"])
def test_what_is_left_of_a_file_without_its_beginning_is_read(tmp_path, syntax, keep):
    path = encoded_file(tmp_path / "x", syntax, None, S16, values_of(S16))
    content = path.read_bytes()
    begin = {"prefix": 0, "meta group": 132, "data set": content.index(b"\x08\x00\x16\x00" if syntax != ExplicitVRBigEndian else b"\x00\x08\x00\x16")}[keep]  # fmt: skip
    path.write_bytes(content[begin:])
    assert np.array_equal(opened(path).stored(0).values, values_of(S16))
    assert any("no meta header" in note for note in frame(path).notes) == (keep == "data set")


def test_the_pixels_of_ges_private_syntax_are_big_endian(tmp_path):
    path = written(tmp_path / "x", ImplicitVRLittleEndian, S16, (37, 43), raw(values_of(S16), S16, big=True))
    assert np.array_equal(opened(relabelled(path, "1.2.840.113619.5.2")).stored(0).values, values_of(S16))


def test_pixels_of_an_unknown_syntax_are_read_where_their_length_fits(tmp_path):
    path = relabelled(
        written(tmp_path / "x.dcm", ExplicitVRLittleEndian, S16, (37, 43), raw(values_of(S16), S16)), "1.2.826.4711"
    )
    image = frame(path)
    assert np.array_equal(opened(path).stored(0).values, values_of(S16))
    assert any("by their length the pixels are uncompressed" in note for note in image.notes) and "4711" not in repr(image)
    longer = written(tmp_path / "y.dcm", ExplicitVRLittleEndian, S16, (37, 43), raw(values_of(S16), S16) + bytes(100))
    with pytest.raises(ImageError, match=r"'y\.dcm' has pixels of a kind that is not known: \(0002,0010\)"):
        frame(relabelled(longer, "1.2.826.4711"))


def test_an_element_of_an_odd_length_does_not_shift_the_others(tmp_path, write_dicom):
    content = write_dicom(tmp_path / "x", values_of(S16), StudyID="abcd").read_bytes()
    place = content.index(b"\x20\x00\x10\x00SH\x04\x00abcd")
    (tmp_path / "x").write_bytes(content[:place] + b"\x20\x00\x10\x00SH\x03\x00abc" + content[place + 12 :])
    assert np.array_equal(opened(tmp_path / "x").stored(0).values, values_of(S16))


def test_what_is_missing_in_the_header_is_assumed_with_a_note(tmp_path):
    values = values_of(G8)
    path = encoded_file(
        tmp_path / "x",
        f"{STEM}.1",
        None,
        G8,
        values,
        PixelRepresentation=None,
        BitsStored=None,
        PhotometricInterpretation=None,
    )
    assert np.array_equal(opened(path).stored(0).values, values)
    notes = frame(path).notes
    assert "(0028,0103) Pixel Representation is missing: read as unsigned." in notes
    assert "(0028,0101) Bits Stored is missing: read as 8." in notes
    assert "(0028,0004) Photometric Interpretation is missing: read as MONOCHROME2." in notes


# --- frames --------------------------------------------------------------------------------------------------------------

FRAMES = [np.full((32, 32), v, dtype=np.uint16) + np.arange(32, dtype=np.uint16) for v in (0, 100, 200, 300)]


def encapsulated(how: str) -> tuple[bytes, dict[str, object]]:
    encoded = [jpeg_2000(f, G16) for f in FRAMES]
    if how == "offset table":
        return encapsulate(encoded), {}
    if how == "no table":
        return encapsulate(encoded, has_bot=False), {}
    if how == "extended table":
        content, offsets, lengths = encapsulate_extended(encoded)
        return content, {"ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
    if how == "fragments and table":
        return encapsulate(encoded, fragments_per_frame=3), {}
    if how == "fragments, no table":
        return encapsulate(encoded, fragments_per_frame=3, has_bot=False), {}
    wrong = bytearray(encapsulate(encoded))
    wrong[12:24] = struct.pack("<3I", 7, 9, 11)
    return bytes(wrong), {}


@pytest.mark.parametrize(
    "how", ["offset table", "no table", "extended table", "fragments and table", "fragments, no table", "wrong table"]
)
def test_each_frame_is_found(tmp_path, how):
    content, tags = encapsulated(how)
    path = written(tmp_path / "x", f"{STEM}.4.90", G16, (32, 32), [b"ab"], NumberOfFrames=4)
    data = pydicom.dcmread(path)
    data.PixelData = content
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    data.save_as(path)
    series = opened(path)
    assert series.frames == 4
    for index in (2, 0, 3, 1):
        assert np.array_equal(series.stored(index).values, FRAMES[index])


def test_one_frame_is_decoded_without_the_others(tmp_path, monkeypatch):
    path = written(tmp_path / "x", f"{STEM}.4.90", G16, (32, 32), [jpeg_2000(f, G16) for f in FRAMES])
    asked: list[bytes] = []
    decoder = _decoders.DECODERS["pylibjpeg"]
    monkeypatch.setitem(_decoders.DECODERS, "pylibjpeg", lambda f, *rest: (asked.append(f), decoder(f, *rest))[1])
    series = opened(path)
    assert asked == []
    series.frame(2)
    assert [len(each) for each in asked] == [len(jpeg_2000(FRAMES[2], G16)) + len(jpeg_2000(FRAMES[2], G16)) % 2]


def test_only_the_bytes_of_one_uncompressed_frame_are_read(tmp_path, monkeypatch):
    path = written(tmp_path / "x", f"{STEM}.1", G16, (32, 32), np.stack(FRAMES * 50).tobytes(), NumberOfFrames=200)
    series = opened(path)
    taken: list[int] = []
    read = dicom._Bounded.read
    monkeypatch.setattr(dicom._Bounded, "read", lambda self, size=-1: (taken.append(size), read(self, size))[1])
    assert np.array_equal(series.stored(150).values, FRAMES[2])
    assert taken == [32 * 32 * 2]


@pytest.mark.parametrize("syntax", [f"{STEM}.1", f"{STEM}.1.99", f"{STEM}.4.90"])
def test_a_header_is_read_once_for_all_frames(tmp_path, monkeypatch, syntax):
    # bug: bytes 4 and 5 of this deflated data set happen to be letters of a VR, so that it was taken for an explicit one
    content = [jpeg_2000(f, G16) for f in FRAMES] if syntax.endswith(".90") else np.stack(FRAMES).tobytes()
    path = written(tmp_path / "x", syntax, G16, (32, 32), content, NumberOfFrames=4)
    read, inflated = [], []
    monkeypatch.setattr(dicom, "read_dataset", lambda *a, _f=dicom.read_dataset, **k: (read.append(1), _f(*a, **k))[1])
    monkeypatch.setattr(
        DicomSeries, "_inflate", lambda self, s, _f=DicomSeries._inflate: (inflated.append(1), _f(self, s))[1]
    )
    series = opened(path)
    for index in range(4):
        assert np.array_equal(series.stored(index).values, FRAMES[index])
    assert len(read) == 1 and len(inflated) == (syntax == f"{STEM}.1.99")


@pytest.mark.parametrize("claimed", [5, 2**31 - 1])
@pytest.mark.parametrize("compressed", [False, True])
def test_more_frames_than_there_are_is_a_warning(tmp_path, claimed, compressed):
    content = [jpeg_2000(f, G16) for f in FRAMES] if compressed else np.stack(FRAMES).tobytes()
    path = written(
        tmp_path / "x", f"{STEM}.4.90" if compressed else f"{STEM}.1", G16, (32, 32), content, NumberOfFrames=claimed
    )
    series = opened(path)
    assert series.frames == 4 and np.array_equal(series.stored(3).values, FRAMES[3])
    assert series.warnings == (f"(0028,0008) Number of Frames is {claimed}, but only 4 are in the file.",)
    assert series.frame(0).warnings == series.warnings


def test_frames_of_single_bits_need_not_begin_with_a_byte(tmp_path):
    bits = np.random.default_rng(3).integers(0, 2, (5, 3, 7), dtype=np.uint8)  # 21 bits a frame
    path = written(
        tmp_path / "x", f"{STEM}.1", G1, (3, 7), np.packbits(bits.reshape(-1), bitorder="little").tobytes(), NumberOfFrames=5
    )
    series = opened(path)
    assert all(np.array_equal(series.stored(i).values, bits[i]) for i in range(5))


def test_a_frame_that_is_cut_off_says_how_much_is_there(tmp_path):
    path = written(tmp_path / "x.dcm", f"{STEM}.1", G16, (32, 32), bytes(32 * 32 * 2))
    path.write_bytes(path.read_bytes()[:-48])
    with pytest.raises(ImageError, match=r"The pixels of 'x\.dcm' .* are cut off: 2000 of 2048 bytes are there"):
        frame(path)


# --- values by hand ------------------------------------------------------------------------------------------------------


def test_a_high_bit_above_the_stored_bits_shifts_the_values(tmp_path):
    # 12 bits in the upper part of 16: 0x1230 is 0x123 and the lowest four bits are no part of it
    values = np.array([[0x1230, 0x123F, 0xFFF0, 0x0000]], dtype=np.uint16)
    path = written(tmp_path / "x", f"{STEM}.1", G12, (1, 4), values.tobytes(), HighBit=15)
    assert opened(path).stored(0).values.tolist() == [[0x123, 0x123, 0xFFF, 0]]
    assert "(0028,0102) High Bit is 15, not 11: values are taken from the bits below it." in frame(path).notes


@pytest.mark.parametrize(
    ("photometric", "colour", "wanted"),
    [
        # PS3.3 C.7.6.3.1.2, red (255, 0, 0) by hand: Y = 0.299 * 255 = 76.2, CB = 128 - 0.1687 * 255 = 85.0, CR = 255.5
        ("YBR_FULL_422", (76, 85, 255), (255, 0, 0)),
        # partial: Y = 0.2568 * 255 + 16 = 81.5, CB = 128 - 0.1482 * 255 = 90.2, CR = 0.4392 * 255 + 128 = 240.0
        ("YBR_PARTIAL_422", (81, 90, 240), (255, 0, 0)),
        ("YBR_PARTIAL_422", (16, 128, 128), (0, 0, 0)),
        ("YBR_PARTIAL_422", (235, 128, 128), (255, 255, 255)),
    ],
)
def test_uncompressed_ybr_that_shares_colours_is_read(tmp_path, photometric, colour, wanted):
    y, cb, cr = colour
    content = bytes([y, y, cb, cr] * 4)  # Y1 Y2 CB CR, two pixels
    path = written(tmp_path / "x", f"{STEM}.1", Kind(photometric, 8, 8), (2, 4), content)
    close(frame(path).pixels[1, 3] * 255, wanted, atol=2.5)  # 8 bits are rounded both ways


def test_ybr_422_with_the_bytes_of_full_colour_is_read_as_that(tmp_path):
    content = bytes([76, 85, 255] * 8)
    image = frame(written(tmp_path / "x", f"{STEM}.1", Kind("YBR_FULL_422", 8, 8), (2, 4), content))
    close(image.pixels[1, 3] * 255, (255, 0, 0), atol=2.5)
    assert any("the length of the pixels YBR_FULL" in note for note in image.notes)


@pytest.mark.parametrize("marker", ["none", "JFIF", "Adobe RGB", "Adobe YCbCr"])
def test_a_jpegs_own_colours_count(tmp_path, marker):
    red = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    ycc = {"JFIF", "Adobe YCbCr", "none"}
    space = "RGB" if marker == "Adobe RGB" else "YCBCR"
    encoded = imagecodecs.jpeg8_encode(red, level=100, colorspace="RGB", outcolorspace=space, subsampling="444")
    app0 = encoded.find(b"\xff\xe0")
    bare = (
        encoded if app0 < 0 else encoded[:app0] + encoded[app0 + 2 + struct.unpack(">H", encoded[app0 + 2 : app0 + 4])[0] :]
    )
    app14 = bare.find(b"\xff\xee")
    bare = bare if app14 < 0 else bare[:app14] + bare[app14 + 16 :]
    mark = {
        "none": b"",
        "JFIF": b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0",
        "Adobe RGB": b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\0",
        "Adobe YCbCr": b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\1",
    }[marker]
    path = written(tmp_path / "x", f"{STEM}.4.50", YBR, (16, 16), [bare[:2] + mark + bare[2:]])
    image = frame(path)
    close(image.pixels[8, 8] * 255, (200, 100, 50), atol=2.5)
    assert any("the JPEG itself RGB" in note for note in image.notes) == (marker not in ycc)


def palette_tags(
    first: int, bits: int, tables: tuple[bytes, bytes, bytes], count: int, segmented: bool = False
) -> dict[str, object]:
    tags: dict[str, object] = {}
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [count, first, bits]
        tags[f"{'Segmented' * segmented}{colour}PaletteColorLookupTableData"] = table
    return tags


def test_a_palette_of_8_bits_that_begins_above_0(tmp_path):
    tags = palette_tags(10, 8, (bytes([0, 51, 255, 0]), bytes([255, 0, 51, 0]), bytes([0, 0, 102, 0])), 3)
    path = written(tmp_path / "x", f"{STEM}.1", PALETTE, (1, 4), bytes([0, 10, 11, 200]), **tags)
    close(frame(path).pixels, [[[0, 1, 0], [0, 1, 0], [0.2, 0, 0], [1, 0.2, 0.4]]])


def test_a_palette_of_8_bits_in_words(tmp_path):
    # bug: divided by 65535, colours that stand in the lower half of a word are black
    words = [np.array(v, dtype="<u2").tobytes() for v in ([0, 51, 255], [255, 0, 51], [0, 0, 102])]
    tags = palette_tags(0, 16, (words[0], words[1], words[2]), 3)
    path = written(tmp_path / "x", f"{STEM}.1", PALETTE, (1, 4), bytes([0, 1, 2, 9]), **tags)
    close(frame(path).pixels, [[[0, 1, 0], [0.2, 0, 0], [1, 0.2, 0.4], [1, 0.2, 0.4]]])


def test_16_bit_indices_into_a_palette_of_8_bits(tmp_path):
    # bug: pydicom looks up in the type of the entries, so that index 256 became 0
    table = bytes(range(256)) * 2
    tags = palette_tags(0, 8, (table, table, table), 512)
    path = written(tmp_path / "x", f"{STEM}.1", PALETTE16, (1, 3), struct.pack("<3H", 255, 256, 511), **tags)
    close(frame(path).pixels[0, :, 0], [1, 0, 1])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_big_endian_palette_is_swapped(tmp_path, bits):
    entries = [0, 51, 102, 255] if bits == 8 else [0, 13107, 26214, 65535]
    table = bytes([51, 0, 255, 102]) if bits == 8 else struct.pack(">4H", *entries)  # two bytes in a big-endian word
    path = written(
        tmp_path / "x",
        ExplicitVRBigEndian,
        PALETTE,
        (1, 4),
        bytes([0, 1, 2, 3]),
        **palette_tags(0, bits, (table, table, table), 4),
    )
    series = opened(path)
    assert series.layout.big
    close(series.frame(0).pixels[0, :, 1], [0, 0.2, 0.4, 1])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_segmented_palette_by_hand(tmp_path, bits):
    # PS3.3 C.7.9.2: discrete 0, 100; linear to 200 in 4; indirect: again the first segment (offset 0), then last discrete 255
    data = [0, 2, 0, 100, 1, 4, 200]
    wanted = [0, 100, 125, 150, 175, 200, 0, 100, 255]
    tail = [0, 1, 255]
    if bits == 8:
        table = bytes([*data, 2, 1, 0, 0, 0, 0, *tail])
    else:
        table = struct.pack(f"<{len(data) + 7}H", *data, 2, 1, 0, 0, *tail)
    table += b"\0" * (len(table) % 2)
    path = written(
        tmp_path / "x",
        f"{STEM}.1",
        PALETTE,
        (1, 9),
        bytes(range(9)),
        **palette_tags(0, bits, (table, table, table), 9, True),
    )
    close(frame(path).pixels[0, :, 2] * 255, wanted, atol=1e-4)


def test_a_segmented_palette_that_calls_itself_is_refused(tmp_path):
    table = struct.pack("<8H", 0, 1, 7, 2, 2, 0, 0, 0)  # the indirect segment copies the discrete one and itself
    path = written(
        tmp_path / "x", f"{STEM}.1", PALETTE, (1, 2), bytes(2), **palette_tags(0, 16, (table, table, table), 99, True)
    )
    with pytest.raises(ImageError, match=r"segment of the palette .* is of kind 2"):
        frame(path)


def test_a_palette_that_is_too_short_is_refused(tmp_path):
    table = bytes(8)
    path = written(tmp_path / "x", f"{STEM}.1", PALETTE, (1, 2), bytes(2), **palette_tags(0, 16, (table, table, table), 256))
    with pytest.raises(ImageError, match=r"palette has 4 entries, its .* says 256"):
        frame(path)


def test_an_icc_profile_leads_to_srgb(tmp_path):
    colour = np.full((2, 2, 3), (200, 100, 50), dtype=np.uint8)
    srgb = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    same = frame(written(tmp_path / "x", f"{STEM}.1", RGB, (2, 2), colour.tobytes(), ICCProfile=srgb))
    close(same.pixels * 255, colour, atol=1.01)  # sRGB to sRGB, through 8 bits
    assert "Colours converted from the file's ICC profile to sRGB." in same.notes
    # its red and blue primaries exchanged: what was red is blue
    swapped = srgb.replace(b"rXYZ", b"tttt").replace(b"bXYZ", b"rXYZ").replace(b"tttt", b"bXYZ")
    red = np.full((2, 2, 3), (255, 0, 0), dtype=np.uint8)
    other = frame(written(tmp_path / "y", f"{STEM}.1", RGB, (2, 2), red.tobytes(), ICCProfile=swapped))
    close(other.pixels[0, 0] * 255, (0, 0, 255), atol=2)


@pytest.mark.parametrize(
    "profile", [b"not a profile..", bytes(200), PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("LAB")).tobytes()]
)
def test_an_icc_profile_that_cannot_be_used_is_noted(tmp_path, profile):
    colour = np.full((2, 2, 3), (200, 100, 50), dtype=np.uint8)
    image = frame(
        written(tmp_path / "x", f"{STEM}.1", RGB, (2, 2), colour.tobytes(), ICCProfile=profile + b"\0" * (len(profile) % 2))
    )
    close(image.pixels * 255, colour, atol=1e-3)
    assert "(0028,2000) ICC Profile cannot be used: colours are shown as stored." in image.notes


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
@pytest.mark.parametrize("padding", [False, True])
def test_floating_point_pixels_and_their_padding(tmp_path, write_dicom, keyword, dtype, padding):
    values = np.concatenate([np.full(100, -9999.0), np.arange(201) / 100]).astype(dtype)[None]
    bits = 8 * values.dtype.itemsize
    name = keyword.replace("PixelData", "PixelPaddingValue")
    path = write_dicom(tmp_path / "x", None, Rows=1, Columns=301, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=bits, **{keyword: values.tobytes()}, **({name: -9999.0} if padding else {}))  # fmt: skip
    series = opened(path)
    assert np.array_equal(series.stored(0).values, values)
    image = series.frame(0)
    assert image.window is not None
    # without the padding: 0.00 to 2.00, of which the 0.5 percentile is 0.01 and the 99.5 percentile 1.99
    assert (image.window.center == pytest.approx(1.0)) == padding
    if padding:
        assert image.window.width == pytest.approx(1.98, abs=1e-6)


@pytest.mark.parametrize("value", [-2000, 63536])
def test_a_padding_value_in_the_wrong_sign_is_still_padding(tmp_path, write_dicom, value):
    values = np.concatenate([np.full(300, -2000), np.arange(201)]).astype(np.int16)[None]
    path = write_dicom(tmp_path / "x", values)
    data = pydicom.dcmread(path)
    data.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    data.save_as(path)
    assert frame(path).window == Window(100, 198, "LINEAR_EXACT", "automatic")


# --- windows -------------------------------------------------------------------------------------------------------------


def test_all_windows_of_a_file_are_told_with_their_explanations(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x", np.arange(16, dtype=np.uint16).reshape(4, 4), WindowCenter=[40, -600, 5, 300], WindowWidth=[400, 1500, 0, 2000], WindowCenterWidthExplanation=["SOFT-TISSUE", "Lung", "none", "Bone"])  # fmt: skip
    series = opened(path)
    assert series.about.windows == (
        Window(40, 400, "LINEAR", "file", "SOFT TISSUE"),
        Window(-600, 1500, "LINEAR", "file", "Lung"),
        Window(300, 2000, "LINEAR", "file", "Bone"),
    )
    assert series.frame(0).window == series.about.windows[0]
    assert "Window SOFT TISSUE: centre 40, width 400 (file)." in series.frame(0).notes


def test_no_more_than_sixteen_windows_of_a_file_are_told(tmp_path, write_dicom):
    centers = list(range(1, 3001))
    path = write_dicom(tmp_path / "x", values_of(G8), WindowCenter=centers, WindowWidth=[2 * c for c in centers])
    assert [(w.center, w.width) for w in opened(path).about.windows] == [(c, 2 * c) for c in range(1, 17)]


@pytest.mark.parametrize("explanation", ["Quixote", "for alonso", "ID 4711471", "X" * 25, "of Toboso", "QuixoteLung"])
def test_an_explanation_that_may_identify_somebody_is_dropped(tmp_path, write_dicom, explanation):
    tags = {
        "PatientName": "Quixote^Alonso",
        "InstitutionName": "Hospital Toboso",
        "WindowCenterWidthExplanation": explanation,
    }
    path = write_dicom(tmp_path / "x", np.arange(16, dtype=np.uint16).reshape(4, 4), WindowCenter=4, WindowWidth=8, **tags)
    assert opened(path).about.windows == (Window(4, 8, "LINEAR", "file"),)


def test_the_automatic_window_can_be_asked_for(tmp_path, write_dicom):
    values = np.arange(201, dtype=np.uint8)[None]
    path = write_dicom(tmp_path / "x", values, WindowCenter=4, WindowWidth=8)
    image = frame(path, AUTOMATIC)
    assert image.window == Window(100, 198, "LINEAR_EXACT", "automatic")
    close(image.pixels, np.clip((values - 1.0) / 198, 0, 1))
    assert "Values shown from 1 to 199 (0.5 to 99.5 percentile of unpadded pixels)." in image.notes


def test_a_preset_is_noted_by_its_name(tmp_path, write_dicom):
    path = write_dicom(
        tmp_path / "x",
        np.array([[0, 424, 1174, 3000]], dtype=np.int16),
        Modality="CT",
        RescaleSlope=1,
        RescaleIntercept=-1024,
    )
    preset = Window(-600, 1500, source="preset", name="lung")
    image = frame(path, preset)
    assert image.window == preset and "Window lung: centre -600 HU, width 1500 HU (preset)." in image.notes
    # C.11.2.1.2.1: (x + 600.5) / 1499 + 0.5 of -1024, -600 and 150 HU
    close(image.pixels, [[(-1024 + 600.5) / 1499 + 0.5, 0.5 / 1499 + 0.5, 1, 1]])


def test_a_windows_words_that_are_no_numbers_give_way_to_an_automatic_one(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x", np.arange(201, dtype=np.uint8)[None], WindowCenter="1000", WindowWidth=200)
    path.write_bytes(path.read_bytes().replace(b"DS\x04\x001000", b"DS\x04\x00word"))
    assert frame(path).window == Window(100, 198, "LINEAR_EXACT", "automatic")


def test_a_window_of_an_unknown_function_is_not_usable_and_its_word_not_told(tmp_path, write_dicom):
    path = write_dicom(
        tmp_path / "x", np.arange(201, dtype=np.uint8)[None], WindowCenter=5, WindowWidth=9, VOILUTFunction="QUIXOTE"
    )
    image = frame(path)
    assert image.window == Window(100, 198, "LINEAR_EXACT", "automatic")
    assert (
        "The file has no usable window: values shown from 1 to 199 (0.5 to 99.5 percentile of unpadded pixels)."
        in image.notes
    )
    assert "QUIXOTE" not in repr(image)


def test_a_rescale_that_is_no_number_is_refused_by_its_tag(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x", np.arange(16, dtype=np.uint8).reshape(4, 4), RescaleSlope="1000", RescaleIntercept=0)
    path.write_bytes(path.read_bytes().replace(b"DS\x04\x001000", b"DS\x04\x00word"))
    with pytest.raises(ImageError, match=r"\(0028,1053\) Rescale Slope is no finite number"):
        frame(path)


# --- geometry ------------------------------------------------------------------------------------------------------------


def test_twice_as_high_pixels_become_two_rows(tmp_path, write_dicom):
    values = np.array([[0, 100], [200, 100]], dtype=np.uint8)
    path = write_dicom(
        tmp_path / "x", values, WindowCenter=100, WindowWidth=200, VOILUTFunction="LINEAR_EXACT", PixelSpacing=[2, 1]
    )
    image = frame(path)
    # centres of the new rows lie at -0.25, 0.25, 0.75 and 1.25 of the old ones; the ends stay
    close(image.pixels, [[0, 0.5], [0.25, 0.5], [0.75, 0.5], [1, 0.5]])
    assert image.spacing_mm == (1, 1)
    assert "Resampled to square pixels, 2 x 4: stored ones are 2 times as high as wide." in image.notes


def test_a_pixel_aspect_ratio_alone_gives_no_spacing(tmp_path, write_dicom):
    values = np.array([[0, 255]], dtype=np.uint8)
    image = frame(write_dicom(tmp_path / "x", values, WindowCenter=128, WindowWidth=256, PixelAspectRatio=["1", "3"]))
    close(image.pixels, [[0, 0, 1 / 3, 2 / 3, 1, 1]])  # centres at -1/3, 0, 1/3, 2/3, 1, 4/3
    assert image.spacing_mm is None and image.shape == (1, 6)


def test_colours_are_made_square_too(tmp_path):
    path = written(tmp_path / "x", f"{STEM}.1", RGB, (1, 2), bytes([255, 0, 0, 0, 0, 255]), PixelAspectRatio=["1", "2"])
    close(frame(path).pixels, [[[1, 0, 0], [0.75, 0, 0.25], [0.25, 0, 0.75], [0, 0, 1]]])


def test_pixels_too_unequal_to_be_made_square_are_left_with_a_warning(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x", values_of(G8), PixelSpacing=[10000, 1])
    image = opened(path, megapixels=1).frame(0)
    assert image.shape == (37, 43) and "too unequal to be made square" in image.warnings[0]


def test_the_affine_of_pixels_too_unequal_to_be_made_square_is_of_the_stored_ones(tmp_path, write_dicom):
    lying = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    affine = opened(write_dicom(tmp_path / "x", values_of(G8), PixelSpacing=[10000, 1], **lying), megapixels=1).affine
    assert affine is not None
    close(affine @ [3, 2, 0, 1], [3, 20000, 0, 1])  # column 3 at 1 mm each, row 2 at 10 m each


@pytest.mark.parametrize("spacing", [(1, 1), (0.7, 0.7002), (3, 3)])
def test_square_pixels_are_left_alone(spacing):
    pixels = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    found, even = square(pixels, spacing)
    assert found is pixels and even == spacing


def test_a_detectors_spacing_is_divided_by_the_magnification(tmp_path, write_dicom):
    tags = {"ImagerPixelSpacing": [0.2, 0.2], "EstimatedRadiographicMagnificationFactor": 1.25}
    image = frame(write_dicom(tmp_path / "x", values_of(G8), **tags))
    assert image.spacing_mm == pytest.approx((0.16, 0.16))
    assert "Pixel spacing is the detector's (0018,1164), divided by a magnification of 1.25 (0018,1114)." in image.notes
    assert frame(write_dicom(tmp_path / "y", values_of(G8), PixelSpacing=[0.1, 0.1], **tags)).spacing_mm == (0.1, 0.1)


@pytest.mark.parametrize(
    ("cosines", "marks", "name"),
    [
        # along a row to the patient's left (x), down a column to the back (y): seen from the feet, PS3.3 C.7.6.2.1.1
        ([1, 0, 0, 0, 1, 0], ("R", "A", "L", "P"), "axial"),
        ([1, 0, 0, 0, 0, -1], ("R", "H", "L", "F"), "coronal"),
        ([0, 1, 0, 0, 0, -1], ("A", "H", "P", "F"), "sagittal"),
        ([-1, 0, 0, 0, 1, 0], ("L", "A", "R", "P"), "axial"),
        # turned by 20 degrees about the body's axis: sin 20 = 0.34 is named, by 10 degrees (0.17) is not
        ([0.9397, 0.3420, 0, -0.3420, 0.9397, 0], ("RA", "AL", "LP", "PR"), "axial"),
        ([0.9848, 0.1736, 0, -0.1736, 0.9848, 0], ("R", "A", "L", "P"), "axial"),
        # half-way between axial and coronal: the normal is (0, -0.71, 0.71)
        ([1, 0, 0, 0, 0.7071, 0.7071], ("R", "AF", "L", "PH"), "oblique, nearest to"),
    ],
)
def test_marks_from_the_orientation_by_hand(tmp_path, write_dicom, cosines, marks, name):
    series = opened(write_dicom(tmp_path / "x", values_of(G8), ImageOrientationPatient=cosines))
    found = series.frame(0).marks
    assert found is not None and [set(a) for a in found] == [set(b) for b in marks]
    assert [a[0] for a in found] == [b[0] for b in marks] or "0.7071" in str(cosines)
    assert dict(series.about.facts)["orientation"].startswith(name)


@pytest.mark.parametrize(
    ("orientation", "marks"),
    [(["L", "F"], ("R", "H", "L", "F")), (["P", "FL"], ("A", "HR", "P", "FL")), (["LPF", "PRH"], ("RA", "AL", "LP", "PR")), (["L"], None), (["X", "F"], None), (["QUIXOTE", "F"], None)],
)  # fmt: skip
def test_marks_from_the_patient_orientation(tmp_path, write_dicom, orientation, marks):
    assert frame(write_dicom(tmp_path / "x", values_of(G8), PatientOrientation=orientation)).marks == marks


def test_no_marks_where_nothing_is_known(tmp_path, write_dicom):
    assert frame(write_dicom(tmp_path / "x", values_of(G8))).marks is None
    tags = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "AnatomicalOrientationType": "QUADRUPED"}
    assert frame(write_dicom(tmp_path / "y", values_of(G8), **tags)).marks is None
    assert frame(write_dicom(tmp_path / "z", values_of(G8), ImageOrientationPatient=[1, 0, 0, 1, 0, 0])).marks is None


def enhanced(path: Path, write_dicom, positions: list[float], cosines: list[list[float]]) -> Path:
    per_frame = Sequence(
        [
            item(
                PlanePositionSequence=Sequence([item(ImagePositionPatient=[1, 2, z])]),
                PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=c)]),
            )
            for z, c in zip(positions, cosines, strict=True)
        ]
    )
    shared = Sequence([item(PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.5, 0.5], SliceThickness=4)]))])
    frames = np.stack([values_of(G8)] * len(positions))
    return write_dicom(
        path, frames, PerFrameFunctionalGroupsSequence=per_frame, SharedFunctionalGroupsSequence=shared, Modality="MR"
    )


def test_an_enhanced_file_has_marks_per_frame_and_one_slot(tmp_path, write_dicom):
    series = opened(enhanced(tmp_path / "x", write_dicom, [0, 3], [[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]]))
    assert series.frame(0).marks == ("R", "A", "L", "P") and series.frame(1).marks == ("R", "H", "L", "F")
    assert series.affine is None  # two orientations are no volume
    assert len(series.slots) == 1 and series.slots[0].position == (1, 2, 0) and series.slots[0].spacing_mm == (0.5, 0.5)
    assert dict(series.about.facts)["slice thickness"] == "4 mm"


def test_an_enhanced_files_affine_follows_its_frames(tmp_path, write_dicom):
    axial = [1, 0, 0, 0, 1, 0]
    affine = opened(enhanced(tmp_path / "x", write_dicom, [10, 7, 4], [axial] * 3)).affine
    assert affine is not None
    close(affine @ [2, 4, 2, 1], [1 + 2 * 0.5, 2 + 4 * 0.5, 4, 1])
    assert opened(enhanced(tmp_path / "y", write_dicom, [10, 7, 0], [axial] * 3)).affine is None  # uneven


def test_the_slot_of_a_file(tmp_path, write_dicom):
    tags = {"SeriesInstanceUID": "1.2.3", "InstanceNumber": 7, "ImagePositionPatient": [1, 2, 3], "EchoNumbers": 2, "AcquisitionNumber": 5, "GantryDetectorTilt": -12.5, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}  # fmt: skip
    slot = opened(write_dicom(tmp_path / "x", values_of(G8), ImageOrientationPatient=[1, 0, 0, 0, 1, 0], **tags)).slots[0]
    assert slot.series == hashlib.sha256(b"1.2.3").hexdigest()[:16]
    assert (slot.number, slot.position, slot.rows, slot.columns) == (7, (1, 2, 3), 37, 43)
    assert slot.localizer and slot.tilt_deg == -12.5 and slot.group == "5 2 - - -"


# --- what is told of a file ------------------------------------------------------------------------------------------------


def test_what_a_file_says_of_itself(tmp_path, write_dicom):
    path = write_dicom(
        tmp_path / "x",
        values_of(S16),
        Modality="CT",
        BodyPartExamined="CHEST",
        PixelSpacing=[0.7031, 0.7031],
        SliceThickness=5,
        SpacingBetweenSlices=2.5,
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        Laterality="L",
        ViewPosition="AP",
        KVP=120,
        Exposure=150,
        ConvolutionKernel="B30f",
        ContrastBolusAgent="Omnipaque for Quixote",
        LossyImageCompression="01",
        LossyImageCompressionRatio=10,
    )
    about = opened(path).about
    assert (about.title, about.modality, about.body_part) == ("CT, 43 x 37", "CT", "chest")
    assert about.facts == (
        ("size", "43 x 37 pixels"),
        ("pixel spacing", "0.7031 x 0.7031 mm"),
        ("orientation", "axial"),
        ("laterality", "left"),
        ("view", "AP"),
        ("slice thickness", "5 mm"),
        ("spacing between slices", "2.5 mm"),
        ("tube voltage", "120 kV"),
        ("exposure", "150 mAs"),
        ("kernel", "B30f"),
        ("contrast agent", "yes"),
        ("transfer syntax", "Explicit VR Little Endian"),
        ("photometric interpretation", "MONOCHROME2"),
        ("stored values", "16 of 16 bits, signed"),
        ("lossy compression", "yes, 10 : 1"),
    )
    cine = opened(write_dicom(tmp_path / "y", np.stack([values_of(G8)] * 3), Modality="US"))
    assert cine.about.title == "US, 43 x 37, 3 frames" and ("frames", "3") in cine.about.facts


def test_words_in_coded_elements_are_not_told(tmp_path, write_dicom):
    name = "QUIXOTE"
    tags = {k: name for k in ("Modality", "BodyPartExamined", "Laterality", "ViewPosition", "ConvolutionKernel", "PresentationLUTShape", "VOILUTFunction", "SeriesDescription", "ProtocolName", "ManufacturerModelName", "AnatomicalOrientationType", "BurnedInAnnotation")}  # fmt: skip
    series = opened(
        write_dicom(tmp_path / "x", values_of(G8), ImageType=[name, name, name], PatientOrientation=[name, name], **tags)
    )
    said = f"{series.about!r} {series.slots!r} {series.notes!r} {series.frame(0)!r}"
    assert name.lower() not in said.lower() and series.about.title == "DICOM, 43 x 37"


def test_what_identifies_somebody_is_counted_in_sequences_too(tmp_path, write_dicom):
    nested = Sequence([item(PatientName="A^B", StudyDate="20200101", ReferencedSOPInstanceUID="1.2.3"), item(PatientID="7")])
    path = write_dicom(
        tmp_path / "x",
        values_of(G8),
        PatientName="Quixote^Alonso",
        PatientID="4711",
        PatientBirthDate="16050116",
        PatientComments="",
        StudyDate="20240229",
        StudyTime="112233",
        InstitutionName="Toboso",
        ReferringPhysicianName="Panza",
        StudyDescription="Giants",
        SeriesInstanceUID="1.2.826.5",
        Manufacturer="ACME",
        ReferencedStudySequence=nested,
    )
    data = pydicom.dcmread(path)
    block = data.private_block(0x0011, "ACME", create=True)
    block.add_new(1, "LO", "secret")
    data.save_as(path)
    assert opened(path).about.withheld == (
        ("names and identifiers", 4),  # two names, two identifiers
        ("dates and times", 4),  # birth, study twice, time
        ("people and places", 2),
        ("free text", 1),
        ("private elements", 2),  # the creator and its element
        ("unique identifiers", 3),  # series, referenced, and the file's own SOP instance
    )


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, []),
        ({"Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, ["this modality (US"]),
        ({"Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "BurnedInAnnotation": "NO"}, []),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "BurnedInAnnotation": "YES"}, ["(0028,0301)"]),
        ({"Modality": "CT", "BurnedInAnnotation": "NO"}, ["secondary capture"]),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "ImageType": ["DERIVED", "SECONDARY"]}, ["SECONDARY"]),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, ["SCREEN SAVE"]),
        ({"Modality": "OT"}, ["secondary capture", "this modality (OT"]),
    ],
)  # fmt: skip
def test_why_text_may_stand_in_the_pixels(tmp_path, write_dicom, tags, words):
    reasons = opened(write_dicom(tmp_path / "x", values_of(G8), **tags)).about.burned_in
    assert len(reasons) == len(words) and all(word in reason for word, reason in zip(words, reasons, strict=True))


def test_overlays_are_counted_and_left_out(tmp_path, write_dicom):
    values = np.array([[0x0000, 0x0333, 0xF333, 0x0FFF]], dtype=np.uint16)
    tags = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}
    path = write_dicom(tmp_path / "x", values, **tags)
    data = pydicom.dcmread(path)
    data.add_new(0x60003000, "OW", b"\xff\xff")
    data.add_new(0x60020102, "US", 12)  # another one, in a bit above the stored ones
    data.save_as(path)
    image = frame(path)
    close(image.pixels, [[0, 0.2, 0.2, 1]])
    assert "2 overlays are not shown ((60xx,3000) Overlay Data)." in image.notes


# --- bounds --------------------------------------------------------------------------------------------------------------


def test_a_frame_larger_than_the_limit_is_refused_before_memory_is_taken(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x.dcm", values_of(G8), Rows=2000, Columns=1000)
    with pytest.raises(ImageError, match=r"'x\.dcm' claims 2000 x 1000 pixels .*\(\(0028,0010\) Rows.*At most 1 million"):
        opened(path, megapixels=1)


@pytest.mark.parametrize(("rows", "spacing"), [(400, [1, 1]), (300, [2, 1])])
def test_a_palette_counts_as_the_three_colours_that_come_out_of_it(tmp_path, rows, spacing):
    """One index a pixel is within a million values, three colours are not: as stored, or once their pixels are square."""
    tables = tuple(bytes(range(256)) for _ in range(3))
    tags = palette_tags(0, 8, tables, 256) | {"PixelSpacing": spacing}
    path = written(tmp_path / "x.dcm", f"{STEM}.1", PALETTE, (rows, 1000), bytes(range(250)) * 4 * rows, **tags)
    assert opened(path).frame(0).shape == (rows * spacing[0], 1000)
    if rows * 1000 * 3 > 10**6:
        with pytest.raises(ImageError, match=r"claims 400 x 1000 pixels .*PALETTE COLOR.*At most 1 million values"):
            opened(path, megapixels=1)
    else:
        image = opened(path, megapixels=1).frame(0)
        assert image.shape == (rows, 1000) and "too unequal to be made square" in image.warnings[0]


@pytest.mark.parametrize("size", [-5, 0])
def test_a_size_below_one_is_refused_by_its_value(tmp_path, write_dicom, size):
    path = write_dicom(tmp_path / "x.dcm", values_of(G8))
    content = path.read_bytes()
    for element in (0x10, 0x11):  # as signed numbers, which the standard does not have there
        place = content.index(struct.pack("<HH2s", 0x28, element, b"US"))
        content = content[: place + 4] + struct.pack("<2sHh", b"SS", 2, size) + content[place + 10 :]
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"'x\.dcm' claims {size} x {size} pixels .*\(\(0028,0010\) Rows"):
        opened(path)


def test_what_a_file_of_many_frames_says_of_itself_stays_small(tmp_path, write_dicom):
    """An enhanced file of 2,000 frames, each with windows and words of its own, in less than ten kilobytes."""
    many = {"WindowCenter": list(range(1, 101)), "WindowWidth": [100] * 100, "WindowCenterWidthExplanation": ["BONE"] * 100}
    groups = [
        item(
            PlanePositionSequence=Sequence([item(ImagePositionPatient=[0, 0, z])]),
            FrameVOILUTSequence=Sequence([item(**many)] if z == 1000 else []),
        )
        for z in range(2000)
    ]
    lying = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1], "ImageType": ["ORIGINAL"] * 5000}
    path = write_dicom(
        tmp_path / "x", np.zeros((2000, 2, 2), np.uint8), PerFrameFunctionalGroupsSequence=Sequence(groups), **lying
    )
    said, _ = _worker.describe({"path": str(path)}, Limits())
    (series,) = said["series"]
    assert series["frames"] == 2000 and len(series["about"]["windows"]) == 16 and len(series["slots"]) == 1
    close(np.asarray(series["affine"]) @ [0, 0, 1999, 1], [0, 0, 1999, 1])
    assert len(json.dumps(said)) < 10_000


def test_more_frames_than_the_limit_are_refused(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x.dcm", np.zeros((5, 2, 2), dtype=np.uint8))
    with pytest.raises(ImageError, match=r"'x\.dcm' has 5 frames \(\(0028,0008\) Number of Frames\)"):
        opened(path, frames=4)


def nested(depth: int) -> Dataset:
    inner = item(PatientID="x")
    for _ in range(depth):
        inner = item(ReferencedStudySequence=Sequence([inner]))
    return inner


def test_deep_sequences_are_refused_in_a_sentence(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x.dcm", values_of(G8), ReferencedStudySequence=Sequence([nested(15)]))
    assert opened(path).frames == 1
    with pytest.raises(ImageError, match=r"'x\.dcm' nests its sequences more than 15 deep"):
        opened(path, nesting=15)


def test_a_header_of_too_many_elements_is_refused(tmp_path, write_dicom, monkeypatch):
    path = write_dicom(tmp_path / "x.dcm", values_of(G8), ReferencedStudySequence=Sequence([item(PatientID="x")] * 50))
    monkeypatch.setattr("engine.readers._about.ELEMENTS", 40)
    with pytest.raises(ImageError, match=r"'x\.dcm' has more than 40 elements"):
        opened(path)
    monkeypatch.setattr("engine.readers.dicom.ELEMENTS", 5)
    with pytest.raises(ImageError, match="has more than 5 elements"):
        opened(path)


def test_a_deflated_bomb_is_refused_at_the_limit(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x.dcm", np.zeros((1500, 1500), dtype=np.uint8), "deflated")
    assert path.stat().st_size < 10_000
    with pytest.raises(ImageError, match=r"'x\.dcm' inflates to more than 1 MiB"):
        opened(path, inflated_mb=1)
    assert opened(path).layout.rows == 1500


def test_a_deflated_file_that_is_cut_off_says_how_much_is_there(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x.dcm", values_of(G8, (300, 400)), "deflated")
    content = path.read_bytes()[:-500]
    path.write_bytes(content)
    begin = 144 + struct.unpack_from("<I", content, 140)[0]  # behind the meta group
    there = len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[begin:]))
    with pytest.raises(ImageError, match=rf"'x\.dcm' is cut off: {there} bytes were inflated"):
        opened(path)


def test_a_deflated_frame_is_inflated_to_its_size_and_no_further(tmp_path):
    zeros = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = zeros.compress(bytes(100 << 20)) + zeros.flush()
    path = written(tmp_path / "x.dcm", f"{STEM}.8.1", G8, (4, 4), [bomb + b"\0" * (len(bomb) % 2)])
    began = time.process_time()
    assert opened(path).stored(0).values.tolist() == [[0] * 4] * 4
    assert time.process_time() - began < 1  # inflating all of it and more would take longer
    wide = written(tmp_path / "y.dcm", f"{STEM}.8.1", G32, (1024, 1024), [bomb + b"\0" * (len(bomb) % 2)])
    with pytest.raises(ImageError, match="inflate to more than 1 MiB"):
        opened(wide, inflated_mb=1).frame(0)


def test_an_element_longer_than_the_file_takes_no_memory(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x", values_of(G8), ImageComments="abcd")
    content = path.read_bytes()
    place = content.index(b"\x20\x00\x00\x40LT\x04\x00")
    longer = content[:place] + b"\x20\x00\x00\x40UT\0\0" + struct.pack("<I", 2**32 - 16) + content[place + 8 :]
    path.write_bytes(longer)
    with dicom._Bounded(path) as bounded:
        assert bounded.read(2**40) == longer  # Python would reserve that much first
    with pytest.raises(ImageError, match=r"holds no image|no pixel data"):
        opened(path)


def test_a_directory_of_files_is_refused_and_not_followed():
    with pytest.raises(
        ImageError,
        match=r"'DICOMDIR' is a directory of other files: \(0002,0002\) Media Storage SOP Class UID is Media Storage "
        r"Directory Storage\. Give the files themselves",
    ):
        opened(BUNDLED / "dicomdirtests" / "DICOMDIR")


def test_a_video_is_refused_in_a_sentence(tmp_path):
    path = written(tmp_path / "x.dcm", f"{STEM}.4.102", YBR, (4, 4), [b"mpeg"])
    with pytest.raises(
        ImageError, match=r"'x\.dcm' holds a video: \(0002,0010\) .* is MPEG-4 AVC/H\.264.*Export single frames"
    ):
        frame(path)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"BitsAllocated": 12}, r"\(0028,0100\) Bits Allocated '12' is none of"),
        ({"BitsStored": 20}, r"\(0028,0101\) Bits Stored '20' is not from 1 to 8"),
        ({"PixelRepresentation": 7}, r"\(0028,0103\) Pixel Representation '7'"),
        ({"SamplesPerPixel": 4}, r"\(0028,0002\) Samples per Pixel '4' is neither 1 nor 3"),
        ({"PhotometricInterpretation": "YBR_FULL"}, r"\(0028,0004\) Photometric Interpretation 'YBR_FULL' with 1 sample"),
        ({"PhotometricInterpretation": "Quixote, A."}, r"Photometric Interpretation of unknown letters"),
        (
            {"PhotometricInterpretation": "QUIXOTE", "PatientName": "Quixote"},
            r"Photometric Interpretation of unknown letters",
        ),
        ({"BitsAllocated": None}, r"\(0028,0100\) Bits Allocated is missing"),
        ({"Rows": ""}, r"claims 0 x 43 pixels .*\(\(0028,0010\) Rows"),
    ],
)
def test_a_description_of_pixels_that_cannot_be_is_named(tmp_path, write_dicom, tags, words):
    with pytest.raises(ImageError, match=words):
        frame(write_dicom(tmp_path / "x", values_of(G8), **tags))


# --- real files ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not BUNDLED.is_dir(), reason="pydicom was installed without its files")
def test_colour_files_look_as_pydicom_shows_them():
    names = [p.name for p in sorted(BUNDLED.glob("SC_*.dcm")) if "32bit" not in p.name and p.name != "SC_rgb_jpeg.dcm"]
    assert len(names) > 15
    for name in [*names, "examples_ybr_color.dcm", "examples_rgb_color.dcm", "JPEG2000.dcm"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = pydicom.pixels.pixel_array(BUNDLED / name, index=0)
        found = opened(BUNDLED / name).frame(0)
        if found.pixels.ndim == 3:
            top = 255 if wanted.dtype == np.uint8 else 65535
            # pydicom rounds to 8 bits after its conversion from YBR, we do not
            assert np.abs(found.pixels - wanted / top).max() < 1.01 / top, name


@pytest.mark.shared
def test_every_real_file_is_read_as_on_a_second_road_or_refused_in_a_sentence(shared):
    outcomes = survey_reading.surveyed([survey_reading.FOLDERS[0], shared / "data" / "dicom"])
    assert [o for o in outcomes if not o.is_explained] == []
    # what is not read names an element of the file, or the bytes that are missing
    assert [o for o in outcomes if not o.frames and not re.search(r"\([0-9A-F]{4},[0-9A-F]{4}\)|\d+ bytes", o.said)] == []
    read = [o for o in outcomes if o.frames]
    assert len(read) >= 200 and sum(o.difference is None for o in read) <= 2
    assert all(o.difference == 0 for o in read if o.difference is not None)


@pytest.mark.shared
def test_one_segmentation_in_four_encodings_is_one(shared):
    folder = shared / "data" / "dicom" / "pydicom-data"
    for stem in ("liver", "liver_nonbyte_aligned"):
        roads = [opened(folder / f"{stem}_{how}.dcm") for how in ("deflate", "rle", "j2k")]
        for index in range(roads[0].frames):
            one, *others = (series.stored(index).values for series in roads)
            assert one.any() and all(np.array_equal(one, other) for other in others)


if __name__ == "__main__":
    if "--write" in sys.argv:
        place = Path(__file__).parent.parent / "docs" / "dicom.md"
        before, _, rest = place.read_text().partition("<!-- table -->\n")
        place.write_text(f"{before}<!-- table -->\n{table()}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")
    else:
        print(table())
