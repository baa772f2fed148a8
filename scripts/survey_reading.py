"""Every file of pydicom's test set and of ../shared/data/dicom: read with a second decoder agreeing, or refused in a sentence.

    python -m scripts.survey_reading [FOLDER...] [--markdown]

A file that is read is decoded again, each of its frames, on another road: encapsulated ones by the decoder that was not used
(engine.readers._decoders.ROADS), uncompressed ones by numpy from the bytes that pydicom's own reader finds. Where a road has
one decoder only, that is said. Stored values must be equal for what is without loss; a lossy frame may differ as TOLERANCES
says. Ends with 1 where a difference is larger than explained, or a refusal names nothing of the file.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from engine.errors import ImageError
from engine.limits import Limits
from engine.readers import dicom
from engine.readers._decoders import DCT, HTJ2K, JPEG_2000, ROADS, UndecodableError, known, lowest_bits

FOLDERS = (Path(pydicom.__file__).parent / "data", Path(__file__).resolve().parents[2] / "shared" / "data" / "dicom")
# Stored values by which two decoders of one lossy frame may differ, and why. Families without a line: 0.
TOLERANCES = {
    DCT: (1, "the inverse cosine transform may round either way (ITU-T T.83 allows it)"),
    (JPEG_2000[1],): (1, "the irreversible wavelet is computed in floating point"),
    (HTJ2K[2],): (1, "the irreversible wavelet is computed in floating point"),
}
NOTHING = ("holds no image", "has no pixel data", "is a directory of other files")  # refusals of files that are no images
WRONG = ("are damaged or cut off", "are cut off:", "the header says")  # refusals of images


@dataclass(frozen=True)
class Outcome:
    """difference : the largest of any frame, or None where there is no second road; allowed : how much may be"""

    file: str
    said: str
    syntax: str = ""
    pixels: str = ""
    first: str = ""
    second: str = ""
    frames: int = 0
    difference: int | float | None = None
    allowed: int = 0

    @property
    def is_explained(self) -> bool:
        if self.frames:
            return self.difference is None or self.difference <= self.allowed
        return repr(Path(self.file).name) in self.said and any(words in self.said for words in (*NOTHING, *WRONG))


def survey(path: Path, name: str) -> Outcome:
    """What becomes of one file. `name` is how the table calls it."""
    try:
        series = dicom.read(path, Limits())[0]
        for index in range(series.frames):
            series.frame(index)
    except ImageError as error:
        return Outcome(name, error.message)
    first = series.stored(0)
    syntax, layout = str(series.syntax), series.layout
    kind = f"{layout.photometric}, {layout.stored}/{layout.allocated} {'float' if layout.keyword != 'PixelData' else 'signed' if layout.signed else 'unsigned'}"
    second, worst = "", None
    for index in range(series.frames):
        other = _by_another(path, series, index)
        if other is None:
            second, worst = "", None
            break
        second, values = other
        one, two = (np.nan_to_num(each.astype(np.float64)) for each in (series.stored(index).values, values))
        worst = max(worst or 0, float(np.abs(one - two).max()))
    allowed = next((most for family, (most, _) in TOLERANCES.items() if syntax in family), 0)
    return Outcome(name, "read", syntax, kind, first.decoder, second, series.frames, worst, allowed)


def _by_another(path: Path, series: dicom.DicomSeries, index: int) -> tuple[str, np.ndarray] | None:
    """Another road's name, and the stored values on it; None where there is none."""
    if series.syntax not in ROADS:
        return "numpy", _by_numpy(path, series, index)
    try:
        found = series.stored(index, without=series.stored(index).decoder)
    except UndecodableError:
        return None
    return found.decoder, found.values


def _by_numpy(path: Path, series: dicom.DicomSeries, index: int) -> np.ndarray:
    """Uncompressed values from the element's bytes, by another reader and nothing but numpy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = pydicom.dcmread(path, force=True)
        layout, content = series.layout, bytes(whole[series.layout.keyword].value)
    count = layout.rows * layout.columns * layout.samples
    if layout.allocated == 1:
        bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[index * count : (index + 1) * count]
        return bits.reshape(layout.rows, layout.columns)
    letter = "f" if layout.keyword != "PixelData" else "iu"[not layout.signed]
    if layout.big and layout.allocated == 8 and layout.word:
        content = np.frombuffer(content[: len(content) // 2 * 2], ">u2").astype("<u2").tobytes()
    values = np.frombuffer(
        content, f"{'<>'[layout.big]}{letter}{layout.allocated // 8}", len(content) // (layout.allocated // 8)
    )
    values = values.astype(values.dtype.newbyteorder("="))
    if layout.subsampled:
        pairs = values[index * count * 2 // 3 : (index + 1) * count * 2 // 3].reshape(-1, 4)  # Y Y Cb Cr
        return np.stack([pairs[:, [0, 2, 3]], pairs[:, [1, 2, 3]]], axis=1).reshape(layout.rows, layout.columns, 3)
    values = values[index * count : (index + 1) * count]
    if letter != "f":
        values = lowest_bits(values, layout.stored, layout.signed)
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns)
    if layout.planar:
        return np.moveaxis(values.reshape(layout.samples, layout.rows, layout.columns), 0, -1)
    return values.reshape(layout.rows, layout.columns, layout.samples)


def surveyed(folders: list[Path]) -> list[Outcome]:
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                with path.open("rb") as stream:
                    if dicom.sniff(stream.read(4096)):
                        found.append(survey(path, path.relative_to(folder.parent).as_posix()))
    return found


def table(outcomes: list[Outcome]) -> list[str]:
    """One line for each kind of pixels that was read."""
    lines = [
        "| transfer syntax | pixels | files | frames | decoders | largest difference (allowed) |",
        "|---|---|---|---|---|---|",
    ]
    kinds = sorted({(o.syntax, o.pixels, o.first, o.second) for o in outcomes if o.frames})
    for kind in kinds:
        these = [o for o in outcomes if o.frames and (o.syntax, o.pixels, o.first, o.second) == kind]
        worst = max((o.difference for o in these if o.difference is not None), default=None)
        syntax, pixels, first, second = kind
        title = known(syntax) or "none given"
        compared = f"{worst:g} ({these[0].allowed})" if worst is not None else "no second decoder"
        roads = f"{first}, {second}" if second else first
        lines.append(f"| {title} | {pixels} | {len(these)} | {sum(o.frames for o in these)} | {roads} | {compared} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[f for f in FOLDERS if f.is_dir()])
    parser.add_argument("--markdown", action="store_true", help="the table alone, for docs/dicom.md")
    options = parser.parse_args()
    outcomes = surveyed(options.folders)
    print("\n".join(table(outcomes)))
    if options.markdown:
        return 0
    counts = Counter(
        "read, equal on a second road" if o.frames and o.difference == 0
        else "read, differs as its loss allows" if o.frames and o.difference is not None and o.is_explained
        else "read, DIFFERS MORE THAN EXPLAINED" if o.frames and not o.is_explained
        else "read, no second decoder" if o.frames
        else "refused, no image" if any(words in o.said for words in NOTHING)
        else "refused, damaged" if o.is_explained
        else "refused, NOT EXPLAINED"
        for o in outcomes
    )  # fmt: skip
    print(f"\n{len(outcomes)} DICOM files")
    for words, count in sorted(counts.items()):
        print(f"{count:6} {words}")
    for o in outcomes:
        if (not o.frames and not any(words in o.said for words in NOTHING)) or not o.is_explained:
            print(f"{o.file}: {o.said}" + (f", difference {o.difference:g}, allowed {o.allowed}" if o.frames else ""))
    return int(not all(o.is_explained for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
