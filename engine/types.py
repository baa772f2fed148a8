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
    source: str = "user"  # user, file, automatic, or a preset's name


@dataclass(frozen=True)
class Image:
    """One frame as it is shown and classified.

    pixels : float32, (H, W) or (H, W, 3), in [0, 1], bright means high
    spacing_mm : (row, column) distance between pixel centres, or None where the file does not say
    notes : sentences about what was done or assumed while reading; never anything identifying
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    window: Window | None = None
    modality: str = ""  # DICOM Modality (0008,0060) where known

    @property
    def shape(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]


@runtime_checkable
class Series(Protocol):
    """One or more frames of one study object, decoded only when asked.

    files : names for display only, in frame order; may identify a patient, never logged or saved
    frames : how many frames there are
    affine : (4, 4) voxel to patient millimetres (LPS), or None
    """

    files: tuple[str, ...]
    frames: int
    affine: np.ndarray | None
    notes: tuple[str, ...]

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
