"""What several test files share: the repository on the path, a DICOM writer, and the real images beside the repository."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before anything of Gradio or the hub is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pydicom  # noqa: E402
import pytest  # noqa: E402
from postgres import running  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

import engine  # noqa: E402
from engine.backbones import _random, biomedclip, scope_mini  # noqa: E402

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
}


def make_dicom(path: Path, array: np.ndarray | None, syntax: str = "explicit", meta: bool = True, **tags: Any) -> Path:
    """Writes a small DICOM file and returns its path.

    array : (H, W), (H, W, 3) as colour, or (F, H, W) as frames; integers, or float32 as Float Pixel Data; or None
    syntax : a key of SYNTAXES
    meta : False leaves out preamble, prefix and meta group, as files before PS3.10 did
    tags : by keyword; they override what follows from the array, None removes
    """
    data, uid = Dataset(), SYNTAXES[syntax]
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.826.0.1.3680043.8.498.1"
    data.Modality = "OT"
    if array is not None:
        coloured = array.ndim == 3 and array.shape[-1] == 3
        frames = array.shape[0] if array.ndim == 3 and not coloured else 1
        data.Rows, data.Columns = array.shape[:2] if coloured else array.shape[-2:]
        data.SamplesPerPixel = 3 if coloured else 1
        data.PhotometricInterpretation = "RGB" if coloured else "MONOCHROME2"
        if coloured:
            data.PlanarConfiguration = 0
        if frames > 1:
            data.NumberOfFrames = frames
        data.BitsAllocated = 8 * array.dtype.itemsize
        if array.dtype.kind == "f":
            data.FloatPixelData = array.astype("<f4").tobytes()
        else:
            data.BitsStored, data.HighBit = data.BitsAllocated, data.BitsAllocated - 1
            data.PixelRepresentation = int(array.dtype.kind == "i")
            planar = np.moveaxis(array, -1, 0) if tags.get("PlanarConfiguration") == 1 else array
            raw = np.ascontiguousarray(planar).astype(array.dtype.newbyteorder(">" if syntax == "big" else "<")).tobytes()
            data.PixelData = raw + b"\0" * (len(raw) % 2)
            data["PixelData"].VR = "OB" if array.dtype.itemsize == 1 else "OW"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are what the tests are about
        for keyword, value in tags.items():
            if value is None:
                if keyword in data:
                    del data[keyword]
            else:
                setattr(data, keyword, value)
        if not meta:
            data.save_as(path, implicit_vr=syntax == "implicit", little_endian=syntax != "big", enforce_file_format=False)
            return path
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == "rle" else uid
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        if syntax == "rle":
            data.compress(RLELossless, encoding_plugin="pydicom")
        pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def make_lut(descriptor: list[int], data: list[int] | bytes) -> Sequence:
    """A sequence of one LUT. descriptor : entries, first value mapped, bits; data : a list as US, bytes as OW."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if descriptor[1] < 0 else "US", descriptor)
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return Sequence([item])


@pytest.fixture(scope="session")
def write_dicom():
    """The function make_dicom(path, array, syntax="explicit", meta=True, **tags) -> path."""
    return make_dicom


def pytest_collection_modifyitems(items):
    """Files that take longest come first: workers that share the files then end together (Makefile: --no-loadscope-reorder)."""
    slow = ("test_browser", "test_walk", "test_crowd", "test_kill", "test_app", "test_queue", "test_teach", "test_privacy")
    items.sort(key=lambda item: not item.path.name.startswith(slow))


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """No test reads or writes the user's feature store or workspace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PROMPTSCOPE_WORKSPACE", str(tmp_path_factory.mktemp("workspace")))
        patch.setenv("PROMPTSCOPE_TRAINING_NICE", "0")
        patch.setenv("PROMPTSCOPE_PRECISION", "float32")  # what a busy machine measures would decide what tests compare
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared with real images. Skips, or fails where PROMPTSCOPE_REQUIRE_SHARED=1."""
    place = ROOT.parent / "shared"
    if not place.is_dir():
        message = f"NO REAL IMAGES: {place} is absent, so nothing was checked against real files."
        if os.environ.get("PROMPTSCOPE_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return place


@pytest.fixture(scope="session")
def postgres():
    """A running server (tests/postgres.py), one for all tests."""
    yield from running()


@dataclass(frozen=True)
class RandomBiomedCLIP:
    """BiomedCLIP's architecture with random weights, loaded by name; folder : where its files are."""

    backbone: engine.Backbone
    folder: Path


@pytest.fixture(scope="session")
def random_biomedclip(tmp_path_factory) -> RandomBiomedCLIP:
    folder = tmp_path_factory.mktemp("biomedclip")
    _random.write_biomedclip(folder, scope_mini.FOLDER / "tokenizer.json", biomedclip.TEXT_CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTSCOPE_BIOMEDCLIP", str(folder))
        return RandomBiomedCLIP(engine.load_backbone("biomedclip"), folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict[str, Path]:
    """Folders of a small CLIP and a small PMC-CLIP (ResNet and BERT's pooler output)."""
    place = tmp_path_factory.mktemp("tiny")
    (place / "bert.json").write_text(json.dumps(_random.TINY_BERT))
    return {
        "tiny-clip": _random.write(place / "clip", _random.TINY_CLIP),
        "tiny-pmc": _random.write(
            place / "pmc", _random.TINY_PMC, scope_mini.FOLDER / "tokenizer.json", place / "bert.json"
        ),
    }


def free_port() -> int:
    """A port below the range that the system gives to outgoing connections, so that none takes it in between."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
