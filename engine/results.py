"""The rows of `predict --json`, the same for the command line and the page's API, and as a table. Documented in the README."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from engine.burned_in import text_warning
from engine.errors import EngineError
from engine.pooling import Curve, pooled_by
from engine.prompts import PromptSet
from engine.types import Box, Image, Prediction, Series

NOTICE = "Research use only. Not a medical device. Not for diagnosis."


def result_row(
    series: Series,
    image: Image,
    prediction: Prediction,
    prompts: PromptSet,
    map_path: str | None,
    found_text: Sequence[Box],
    index: int | None = None,
    pooling: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One series and one prompt set. index : the frame that was classified, from 0 (it is written from 1); or pooling : of
    all its frames. image : that frame, or of a pooled series the one whose map is drawn; found_text : areas of it.
    """
    return {
        "files": list(series.files),
        "status": "ok",
        "error": None,
        "backbone": prediction.backbone,
        "prompt_set": prompts.name,
        "device": prediction.device,
        "probabilities": {k: float(p) for k, p in zip(prediction.labels, prediction.probabilities, strict=True)},
        "calibrated": prediction.calibrated,
        "frame": None if index is None else index + 1,
        "pooling": pooling,
        "window": asdict(image.window) if image.window else None,
        "notes": list(image.notes),
        "warnings": warnings_of(series, image, prompts, found_text),
        "map": map_path,
    }


SMALL = 32  # pixels: less than a model can see anything in
# What DICOM (0008,0060) calls the modalities that tasks are about; others are compared with nothing.
CALLED = {
    "CT": ("CT",),
    "MRI": ("MR",),
    "ultrasound": ("US", "IVUS"),
    "X-ray": ("CR", "DX", "DR", "RG", "PX", "RF"),
    "mammography": ("MG",),
    "OCT": ("OPT", "OP"),  # some devices export their sections as photographs
    "fundus photograph": ("OP",),
    "histopathology": ("SM",),
    "endoscopy": ("ES",),
    "dermoscopy": ("DMS",),
    "nuclear medicine": ("NM", "PT"),
}
OBJECTS = ("SEG", "RTDOSE", "RTSTRUCT", "PR", "KO", "REG", "RWV")  # made from images, no images


def warnings_of(series: Series, image: Image, prompts: PromptSet, found_text: Sequence[Box]) -> list[str]:
    """What to read with care, each once: of the file, of the question, of text in the picture (found_text: areas that look like
    it), of the data that the prompts know."""
    found = [*_of_the_question(series.about.modality, prompts), *_of_the_picture(image), *series.warnings, *image.warnings]
    found += [*series.about.burned_in, *text_warning(found_text)]
    return list(dict.fromkeys([*found, *prompts.card.get("shortcuts", [])]))


def _of_the_question(modality: str, prompts: PromptSet) -> list[str]:
    """Is it asked of another kind of image than the file says it is?"""
    if modality in OBJECTS:
        return [f"(0008,0060) Modality is {modality}: this was computed from images. The answer means nothing."]
    asked = prompts.card["task"].get("modality", "any")
    file = [name for name, codes in CALLED.items() if modality in codes]
    if not file or asked in (*file, "any"):
        return []
    return [f"The question is about {asked}, the file says {' or '.join(file)}. The answer means nothing."]


def _of_the_picture(image: Image) -> list[str]:
    found = []
    if np.ptp(image.pixels) == 0:
        found.append("All pixels have the same value: there is nothing to see, and the answer means nothing.")
    if min(image.shape) < SMALL:
        found.append(f"The image has only {image.shape[1]} x {image.shape[0]} pixels.")
    return found


def pooling_row(curve: Curve, column: int, how: str, labels: tuple[str, ...]) -> dict[str, Any]:
    """How many frames became one answer. column : of the prompt set in the curve; frames are written from 1."""
    p = curve.probabilities[column]
    return {
        "how": how,
        "words": pooled_by(how, len(curve.frames)),
        "frames": [int(i) + 1 for i in curve.frames],
        "curve": {label: [float(v) for v in p[:, i]] for i, label in enumerate(labels)},
        "failed": [{"frame": i + 1, "error": str(error)} for i, error in curve.failed],
    }


def error_row(files: list[str], backbone: str, error: EngineError) -> dict[str, Any]:
    """A file or series that failed, with the same keys."""
    return {
        "files": files,
        "status": "error",
        "error": str(error),
        "backbone": backbone,
        "prompt_set": None,
        "device": None,
        "probabilities": None,
        "calibrated": False,
        "frame": None,
        "pooling": None,
        "window": None,
        "notes": [],
        "warnings": [],
        "map": None,
    }


# Columns of the table; then one for each class, as in "p(benign tumor)".
COLUMNS = (
    "files",  # names, separated by "; "
    "status",  # ok, error or skipped
    "error",  # the sentence, where status is not ok
    "backbone",
    "prompt_set",
    "device",
    "top_class",
    "top_probability",
    "calibrated",  # true only where a temperature was fitted
    "frame",  # from 1; empty where all were pooled
    "pooling",  # in words
    "window_center",  # empty where no window applies
    "window_width",
    "warnings",  # separated by "; "
)
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run; OWASP, CSV injection


def csv_cell(value: Any) -> str:
    """A value as a cell that no spreadsheet runs: a text that looks like a formula gets an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return f"'{text}" if text.startswith(FORMULAS) else text


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a table that a spreadsheet opens; see COLUMNS."""
    labels = list(dict.fromkeys(label for row in rows for label in row["probabilities"] or ()))
    stream = io.StringIO()
    write = csv.writer(stream)
    write.writerow([*COLUMNS, *(csv_cell(f"p({label})") for label in labels)])
    for row in rows:
        p = row["probabilities"] or {}
        top = max(p, key=p.__getitem__) if p else None
        window = row["window"]
        told = {
            "files": "; ".join(row["files"]),
            "top_class": top,
            "top_probability": p.get(top),
            "pooling": row["pooling"]["words"] if row["pooling"] else None,
            "window_center": float(window["center"]) if window else None,
            "window_width": float(window["width"]) if window else None,
            "warnings": "; ".join(row["warnings"]),
        }
        cells = row | told
        write.writerow([csv_cell(cells[name]) for name in COLUMNS] + [csv_cell(p.get(label)) for label in labels])
    return stream.getvalue()
