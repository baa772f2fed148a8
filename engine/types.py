"""The values that travel from file to page: frozen data, numpy only.

Legend: H, W image rows and columns; h, w map rows and columns; C classes; S input size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Window:
    """A VOI window in stored units after the modality LUT (Hounsfield units for CT). PS3.3 C.11.2."""

    center: float
    width: float
    function: str = "LINEAR"  # LINEAR, LINEAR_EXACT or SIGMOID, PS3.3 C.11.2.1.2 and C.11.2.1.3
    source: str = "user"  # user, file, automatic or preset
    name: str = ""  # a preset's name, or the file's (0028,1055) explanation


@dataclass(frozen=True)
class About:
    """What a file says of itself that identifies nobody: for the page's panel, never free text that a person typed.

    title : a few words, as "CT, 512 x 512"
    modality : DICOM Modality (0008,0060) or ""; body_part : Body Part Examined (0018,0015), lower case, or ""
    facts : (name, value) of geometry and acquisition, in the order in which they are shown
    withheld : (what, how many elements) that identify somebody; they were counted and not taken along
    windows : the file's own windows, in its order
    deep : its values go through a window (grey, deeper than 8 bits); hounsfield : they look like Hounsfield units
    burned_in : why text may stand in the pixels, as sentences; empty where nothing says so
    """

    title: str = ""
    modality: str = ""
    body_part: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    withheld: tuple[tuple[str, int], ...] = ()
    windows: tuple[Window, ...] = ()
    deep: bool = False
    hounsfield: bool = False
    burned_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slot:
    """Where a DICOM file stands among the others of its series.

    series : sha256 of (0020,000E) Series Instance UID, 16 digits of it, or "" where there is none
    number : (0020,0013) Instance Number, or 0
    position : (0020,0032) Image Position (Patient), mm, or None; cosines : (0020,0037), six numbers, or None
    spacing_mm : (row, column), or None; rows, columns : of a frame
    localizer : (0008,0008) Image Type says LOCALIZER; tilt_deg : (0018,1120) Gantry/Detector Tilt
    group : what else must agree within a stack, as acquisition, echo or temporal position
    """

    series: str
    number: int
    position: tuple[float, float, float] | None
    cosines: tuple[float, float, float, float, float, float] | None
    spacing_mm: tuple[float, float] | None
    rows: int
    columns: int
    localizer: bool = False
    tilt_deg: float = 0.0
    group: str = ""


@dataclass(frozen=True)
class Image:
    """One frame as it is shown and classified.

    pixels : float32, (H, W) or (H, W, 3), in [0, 1], bright means high
    spacing_mm : (row, column) distance between pixel centres, or None where the file does not say
    notes : sentences about what was done or assumed while reading; never anything identifying
    window : what turned values into pixels; None where none applies
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    window: Window | None = None
    modality: str = ""  # DICOM Modality (0008,0060) where known
    marks: tuple[str, str, str, str] | None = None  # what lies left, top, right, bottom (R, L, A, P, H, F), where known

    @property
    def shape(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]


@runtime_checkable
class Series(Protocol):
    """One or more frames of one study object, decoded only when asked.

    files : names for display only, in frame order; may identify a patient, never logged or saved
    frames : how many frames there are
    affine : (4, 4) voxel (column, row, frame, 1) to patient millimetres (LPS), or None
    notes, warnings : of the whole series; a frame has its own as well
    slots : where its files stand among others, one a file; empty where that is not known (pictures, volumes)
    """

    @property
    def files(self) -> tuple[str, ...]: ...

    @property
    def frames(self) -> int: ...

    @property
    def affine(self) -> np.ndarray | None: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    @property
    def about(self) -> About: ...

    @property
    def slots(self) -> tuple[Slot, ...]: ...

    def frame(self, index: int, window: Window | None = None) -> Image:
        """Frame `index` (0-based); `window` overrides the file's own. Raises ImageError."""
        ...


@dataclass(frozen=True)
class Box:
    """What the model saw, in image pixels; may exceed the image where it was padded."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True)
class Input:
    """What a backbone takes. pixels : float32 (3, S, S), normalised; box : where they lie in the image."""

    pixels: np.ndarray
    box: Box


@dataclass(frozen=True)
class Prediction:
    """probabilities : float32 (C,), in the order of labels. calibrated : a temperature was fitted."""

    labels: tuple[str, ...]
    probabilities: np.ndarray
    prompt_set: str
    backbone: str
    device: str
    calibrated: bool = False
    activation: str = "softmax"

    def ranked(self) -> list[tuple[str, float]]:
        """(label, probability), most probable first; ties keep label order."""
        order = np.argsort(-self.probabilities, kind="stable")
        return [(self.labels[i], float(self.probabilities[i])) for i in order]


@dataclass(frozen=True)
class Heatmap:
    """values : float32 (h, w), as the method made them, not normalised; box : where they lie in the image.

    target : "class" (the class alone), "rest" (the class against the mean of the others) or
    "runner-up" (the class against its strongest rival).
    """

    values: np.ndarray
    box: Box
    label: str
    method: str
    target: str = "class"


@dataclass(frozen=True)
class Phrase:
    """What to look for: a name, with what is said of it before and after (MIU-VL's prefix, name, suffix, arXiv:2209.15517)."""

    name: str
    prefix: str = ""
    suffix: str = ""

    @property
    def text(self) -> str:
        return f"{self.prefix}{self.name}{self.suffix}"


@dataclass(frozen=True)
class Located:
    """Where an image shows what a phrase names; no boxes where it is not found.

    heat : its values float32 (h, w) in [0, 1], its box the whole image; locator : its name, model : what computed
    boxes : float32 (N, 4), x0, y0, x1, y1 in the image's pixels from its top left corner, half-open: columns x0 to x1 - 1
    scores : float32 (N,) in [0, 1], highest first; negatives : what it was held against
    point : (x, y), in the image's pixels: the middle of the largest of the hottest places; None where none is hotter
    notes : sentences about what was done or not found
    """

    phrase: Phrase
    locator: str
    model: str
    heat: Heatmap
    boxes: np.ndarray
    scores: np.ndarray
    point: tuple[float, float] | None
    negatives: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """One labelled file. group : what must never straddle a split (see engine.data)."""

    path: str
    label: str
    patient: str = ""
    group: str = ""
    split: str = ""


@dataclass(frozen=True)
class Interval:
    """A number with its bootstrap interval (95 %)."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """JSON has no NaN: an AUROC of one class alone is null."""
        return {k: float(v) if np.isfinite(v) else None for k, v in vars(self).items()}


@dataclass(frozen=True)
class VisualPrompt:
    """Tokens that stand at positions 1 to M of the image tower, put there again before each of its blocks.

    tokens : (layers, M, width) float32; one layer stands for the same tokens at every block
    insert : True puts them between the class token and the patches; False overwrites the first M patches
    literal : compute them as tokens also where all are zero; else zeros are a closed form (one key and value a block)
    """

    tokens: np.ndarray
    insert: bool = True
    literal: bool = False
