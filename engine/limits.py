"""What one file may ask for: checked before memory is taken, and enforced on the process that decodes it.

An operator changes a limit by a variable, as in PROMPTSCOPE_MAX_MEGAPIXELS=200; the page shows them beside the drop zone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from engine.errors import EngineError

MEGA = 1_000_000
MIB = 1 << 20


class LimitsError(EngineError):
    """A limit whose variable is not understood."""


@dataclass(frozen=True)
class Limits:
    """Each field is set by PROMPTSCOPE_MAX_<FIELD>.

    megapixels : million values (rows x columns x samples) of one frame
    frames : of one file
    volume_megavoxels : million voxels of one NIfTI, MHA or NRRD file
    inflated_mb : MiB of a deflated DICOM data set, a gzipped volume, or one entry of a zip
    unpacked_mb : MiB of a whole zip, unpacked
    zip_entries, zip_ratio : files in a zip; bytes that come out of one that goes in
    nesting : levels of DICOM sequences within sequences
    seconds : to read one file or decode one frame; upload_seconds : to copy all files of one upload clean
    memory_mb : MiB of address space that a decoding process may take beyond what it starts with
    """

    megapixels: int = 100
    frames: int = 50_000
    volume_megavoxels: int = 300
    inflated_mb: int = 512
    unpacked_mb: int = 4096
    zip_entries: int = 5000
    zip_ratio: int = 200
    nesting: int = 16
    seconds: int = 60
    upload_seconds: int = 600
    memory_mb: int = 4096

    @property
    def values(self) -> int:
        """Values of one frame."""
        return self.megapixels * MEGA

    @property
    def inflated(self) -> int:
        """Bytes."""
        return self.inflated_mb * MIB


def read_limits(variables: Mapping[str, str] = os.environ) -> Limits:
    """From PROMPTSCOPE_MAX_* variables. Raises LimitsError."""
    found = {}
    for field in fields(Limits):
        name = f"PROMPTSCOPE_MAX_{field.name.upper()}"
        if name not in variables:
            continue
        text = variables[name].strip()
        if not (text.isascii() and text.isdigit()) or not 0 < int(text) <= 10**9:
            raise LimitsError(f"{name} is {text[:32]!r}.", "It should be a whole number above 0.")
        found[field.name] = int(text)
    return Limits(**found)
