"""Images to try: test files that the installed pydicom brings along (MIT), found at run time, none in this repository."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

FILES = {
    "CT": "CT_small.dcm",
    "MR": "MR_small.dcm",
    "Ultrasound": "examples_ybr_color.dcm",
    "Nuclear medicine": "JPEG2000.dcm",
}


@dataclass(frozen=True)
class Sample:
    title: str
    path: Path


def samples() -> list[Sample]:
    """Those that are there; an empty list where pydicom was installed without its test files."""
    spec = importlib.util.find_spec("pydicom")
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(spec.submodule_search_locations[0]) / "data" / "test_files"
    return [Sample(title, folder / name) for title, name in FILES.items() if (folder / name).is_file()]
