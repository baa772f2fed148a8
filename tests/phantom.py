"""A CT series that nobody was scanned for: a chest of ellipses in Hounsfield units, with a nodule at a known place.

    python -m tests.phantom FOLDER [SLICES] [SIDE] [SYNTAX]

SYNTAX is explicit or jpeg2000. It serves the browser's tests and the measurement of a 300-slice series.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

NODULE = (0.55, 0.68, 0.46)  # slice, row, column as shares of the volume


def chest(slices: int, side: int, seed: int = 1) -> np.ndarray:
    """int16 (slices, side, side) in HU: air, body, two lungs, spine, a nodule in the left lung, noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    volume = np.empty((slices, side, side), dtype=np.int16)
    for k in range(slices):
        z = (k + 0.5) / slices
        widening = 0.85 + 0.3 * np.sin(np.pi * z)
        plane = np.full((side, side), -1000.0)
        body = (x / 0.44) ** 2 + (y / (0.33 * widening)) ** 2 < 1
        plane[body] = 40
        for centre in (-0.19, 0.19):
            lung = ((x - centre) / (0.15 * widening)) ** 2 + ((y + 0.02) / (0.22 * widening)) ** 2 < 1
            plane[lung & body] = -820
        plane[(x**2 + (y - 0.2) ** 2) < 0.045**2] = 500
        away = ((z - NODULE[0]) * 4) ** 2 + (y - NODULE[2] + 0.5) ** 2 * 400 + (x - NODULE[1] + 0.5) ** 2 * 400
        plane[away < 1] = 60
        volume[k] = np.clip(plane + rng.normal(0, 18, plane.shape), -1024, 3071)
    return volume


def write_series(
    folder: Path, slices: int = 40, side: int = 128, syntax: str = "explicit", thickness_mm: float = 2.5, **tags: object
) -> list[Path]:
    """One file a slice, in random order of their names; position and orientation as a scanner writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(3).permutation(slices)
    study, series = generate_uid(), generate_uid()
    written = []
    for k, plane in enumerate(chest(slices, side)):
        data = Dataset()
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.SOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, study
        data.Modality, data.BodyPartExamined = "CT", "CHEST"
        data.PatientName, data.PatientID, data.PatientBirthDate = "Phantom^Chest", "P0", "19000101"
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.InstanceNumber = k + 1
        data.ImagePositionPatient = [-180, -180, -300 + thickness_mm * k]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing = [360 / side, 360 / side]
        data.SliceThickness = thickness_mm
        data.Rows = data.Columns = side
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.WindowCenter, data.WindowWidth = [40, -600], [400, 1500]
        data.WindowCenterWidthExplanation = ["MEDIASTINUM", "LUNG"]
        data.PixelData = (plane + 1024).astype("<u2").tobytes()
        data["PixelData"].VR = "OW"
        for keyword, value in tags.items():
            setattr(data, keyword, value)
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        if syntax == "jpeg2000":
            data.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
        path = folder / f"{names[k]:04d}.dcm"
        pydicom.dcmwrite(path, data, enforce_file_format=True)
        written.append(path)
    return written


if __name__ == "__main__":
    place, slices, side, syntax = (*sys.argv[1:], *("40", "128", "explicit")[len(sys.argv) - 2 :])
    found = write_series(Path(place), int(slices), int(side), syntax)
    print(f"{len(found)} files below {place}")
