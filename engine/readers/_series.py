"""Files of one DICOM series to one stack of slices, from their headers alone. PS3.3 C.7.6.2.1.1, C.7.3.1.

Slices are sorted along the normal of their planes, which runs to the left, to the back and to the head (LPS) as the
cosines say; instance numbers only decide where positions are missing or equal.
Left out: multi-frame files (each is a series already), and resampling: planes are shown as they were taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from engine.errors import ImageError
from engine.readers._grey import is_automatic
from engine.types import About, Image, Series, Slot, Window

SAME_DIRECTION = 1e-3  # largest difference of a direction cosine within a stack: a scanner's rounding, 0.06 degrees
SAME_PLACE_MM = 0.01  # positions nearer than this are one: files give them in steps of 0.001 mm or finer
UNEVEN = 0.02  # of the spacing: more is told
GAP = 0.15  # a distance this near to a multiple of the spacing is taken for missing slices
TILT_DEG = 0.5  # a line of positions that leans less is rounding
NAMED_GAPS = 3  # more gaps are counted, not named one by one
TRIED = 3  # slices that are decoded in search of a window for all: thousands of damaged ones would take minutes
# What is a stack even where files lack positions. Radiographs, photographs and still ultrasound of one series are single views.
SLICED = ("CT", "MR", "PT", "OPT")


def group(series: Sequence[Series]) -> list[Series]:
    """Single-frame files with the same Slot.series as stacks; all others as they are. In the order in which they came.

    A series is divided where files differ in size or orientation, are localizers, or stand at the same positions
    (echoes, time points); each part says so. Nothing is decoded.
    """
    found: dict[Hashable, list[Series]] = {}
    for index, each in enumerate(series):
        found.setdefault(each.slots[0].series if _is_slice(each) else index, []).append(each)
    parts = [
        part for key, members in found.items() for part in (_parts(members) if isinstance(key, str) else [(members, [])])
    ]
    order = {id(each): index for index, each in enumerate(series)}
    parts.sort(key=lambda part: min(order[id(member)] for member in part[0]))
    return [Stack(members, notes) if notes or len(members) > 1 else members[0] for members, notes in parts]


class Stack:
    """Single-frame files as the slices of one Series.

    affine : (column, row, slice, 1) to patient millimetres (LPS) from the first and the last position, so that it
    carries a gantry's tilt; where slices are missing or uneven only these two are exact. None without geometry
    """

    def __init__(self, members: Sequence[Series], notes: Iterable[str] = ()):
        """members : one frame and one slot each, in any order; notes : why they are apart from others"""
        along = _along([m.slots[0] for m in members])
        if along is None:
            ranked = sorted(range(len(members)), key=lambda i: members[i].slots[0].number)
        else:
            places = _levels(along)
            ranked = sorted(range(len(members)), key=lambda i: (places[i], members[i].slots[0].number))
            along = along[ranked]
        self.members = tuple(members[i] for i in ranked)
        self.slots: tuple[Slot, ...] = tuple(m.slots[0] for m in self.members)
        self.files = tuple(name for m in self.members for name in m.files)
        self.frames = len(self.members)
        self.affine = self.members[0].affine if self.frames == 1 else None if along is None else _affine(self.members)
        told, warned = _geometry(self.slots, along) if self.frames > 1 else ([], [])
        self.notes: tuple[str, ...] = (*notes, *told)
        self.warnings: tuple[str, ...] = tuple(warned)
        self.about = self._described(along)
        self._shared: dict[bool, tuple[Window | None, int]] = {}

    def _described(self, along: np.ndarray | None) -> About:
        middle = self.members[self.frames // 2].about
        if self.frames == 1:
            return middle
        slot, n = self.slots[0], self.frames
        facts = {"slices": f"{n}"}
        steps = [] if along is None else [d for d in np.diff(along) if d > SAME_PLACE_MM]
        if along is not None and steps:
            step = _usual(steps)
            facts["spacing between slices"] = f"{step:.4g} mm"
            if slot.spacing_mm:
                extent = (slot.columns * slot.spacing_mm[1], slot.rows * slot.spacing_mm[0], along[-1] - along[0] + step)
                facts["extent"] = " x ".join(f"{mm:.4g}" for mm in extent) + " mm"
        withheld: Counter[str] = Counter()
        for member in self.members:
            withheld.update(dict(member.about.withheld))
        return replace(
            middle,
            title=f"{middle.modality or 'DICOM'}, {n} slices of {slot.columns} x {slot.rows}",
            facts=(*facts.items(), *(f for f in middle.facts if f[0] not in facts)),
            withheld=tuple(withheld.items()),
            burned_in=tuple(dict.fromkeys(s for m in self.members for s in m.about.burned_in)),
        )

    def frame(self, index: int, window: Window | None = None) -> Image:
        """Slice `index` (0-based). Where its file has no window, the middle slice's automatic window is used for all,
        so that brightness does not jump. Raises ImageError, for this slice only."""
        if not 0 <= index < self.frames:
            raise ImageError(f"There is no frame {index + 1}; the series has {self.frames} slices.")
        member, note = self.members[index], ""
        is_own = bool(member.about.windows) if window is None else not is_automatic(window)
        if self.frames > 1 and not is_own:
            automatic, source = self._automatic(window)
            if automatic is not None:
                window = automatic
                note = f"Shown with the automatic window of slice {source + 1}, as all slices of the series."
        image = member.frame(0, window)
        said = [f"Slice {index + 1} of {self.frames}."] if self.frames > 1 else []
        notes = (*said, *self.notes, *image.notes, *([note] if note else []))
        return replace(image, notes=notes, warnings=(*self.warnings, *image.warnings))

    def _automatic(self, window: Window | None) -> tuple[Window | None, int]:
        """The automatic window of the middle slice, or of one beside it where that is damaged, and which slice that is.

        window : as asked for. None where slices bring windows or lookup tables of their own, or all TRIED ones are damaged:
        each is then shown with its own. Found once for all slices.
        """
        own_first = window is None
        if own_first not in self._shared:
            nearest = sorted(range(self.frames), key=lambda i: abs(i - self.frames // 2))
            found: tuple[Window | None, int] = (None, nearest[0])
            for index in nearest[:TRIED]:
                try:
                    used = self.members[index].frame(0, window).window
                except ImageError:  # it is told where this slice itself is shown
                    continue
                found = (used if used is not None and used.source == "automatic" else None, index)
                break
            self._shared[own_first] = found
        return self._shared[own_first]


# --- which files belong together ---------------------------------------------------------------------------------------


def _is_slice(series: Series) -> bool:
    """One frame with a place among others of its series."""
    if len(series.slots) != 1 or series.frames != 1 or not series.slots[0].series:
        return False
    return series.slots[0].position is not None or series.about.modality in SLICED


def _parts(members: list[Series]) -> list[tuple[list[Series], list[str]]]:
    """The files of one series that make a stack each, and why they are apart from the others."""
    parts = []
    for is_localizer in (False, True):
        together = [m for m in members if m.slots[0].localizer == is_localizer]
        planes = _by_plane(together)
        sizes = len({(m.slots[0].rows, m.slots[0].columns) for m in together})
        several = " and ".join(["sizes"] * (sizes > 1) + ["orientations"] * (len(planes) > sizes))
        for plane in planes:
            notes = []
            if is_localizer:
                notes.append("A localizer ((0008,0008) Image Type), for planning: set apart from the slices of its series.")
            if len(planes) > 1:
                notes.append(f"The series holds images of several {several}: these are {len(plane)} of its {len(together)}.")
            phases = _by_group(plane)
            for number, phase in enumerate(phases, start=1):
                again = f"The series has {len(phases)} acquisitions, echoes or time points: this is number {number} of them."
                parts.append((phase, [*notes, again] if len(phases) > 1 else notes))
    return parts


def _by_plane(members: list[Series]) -> list[list[Series]]:
    """Of one size and orientation each."""
    nowhere = (9.0,) * 6  # as a direction that no file has
    slots = [m.slots[0] for m in members]
    traits = np.nan_to_num([(s.rows, s.columns, *(s.cosines or nowhere)) for s in slots])
    planes, left = [], np.arange(len(members))
    while len(left):
        is_same = np.abs(traits[left] - traits[left[0]]).max(axis=1) <= SAME_DIRECTION
        planes.append([members[i] for i in left[is_same]])
        left = left[~is_same]
    return planes


def _by_group(members: list[Series]) -> list[list[Series]]:
    """By Slot.group, where several files stand at one position and their groups tell them apart; else all as one.

    Step-and-shoot scanners number each slice as an acquisition of its own: that divides nothing.
    """
    along = _along([m.slots[0] for m in members])
    if along is None:
        return [members]
    most = max(Counter(_levels(along)).values())
    phases: dict[str, list[Series]] = {}
    for member in members:
        phases.setdefault(member.slots[0].group, []).append(member)
    if most == 1 or not 1 < len(phases) <= max(most, len(members) // 2):
        return [members]
    return sorted(phases.values(), key=lambda phase: min(m.slots[0].number for m in phase))


# --- geometry ----------------------------------------------------------------------------------------------------------


def _normal(slot: Slot) -> np.ndarray:
    assert slot.cosines is not None
    normal = np.cross(slot.cosines[:3], slot.cosines[3:])
    return normal / (np.linalg.norm(normal) or 1.0)


def _along(slots: Sequence[Slot]) -> np.ndarray | None:
    """float64 (N,), mm along the first slot's normal; None where a position or orientation is missing or no number."""
    if any(s.position is None or s.cosines is None for s in slots):
        return None
    along = np.asarray([s.position for s in slots], dtype=np.float64) @ _normal(slots[0])
    return along if np.isfinite(along).all() and _normal(slots[0]).any() else None


def _levels(along: np.ndarray) -> list[int]:
    """Which place each stands at, counted along the normal; positions that are one share it."""
    order = np.argsort(along, kind="stable")
    levels = np.empty(len(along), dtype=int)
    levels[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) > SAME_PLACE_MM)])
    return levels.tolist()


def _usual(steps: Sequence[float] | np.ndarray) -> float:
    """The median, of two in the middle the smaller: of the distances 5 and 15 mm it is 5 that is the spacing."""
    return float(np.sort(steps)[(len(steps) - 1) // 2])


def _affine(members: Sequence[Series]) -> np.ndarray | None:
    """float64 (4, 4), in its third column the step from slice to slice. PS3.3 C.7.6.2.1.1"""
    first, last = members[0].affine, members[-1].affine
    if first is None or last is None:
        return None
    affine = np.array(first, dtype=np.float64)
    affine[:3, 2] = (last - first)[:3, 3] / (len(members) - 1)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-9:  # all at one place: no volume
        return None
    return affine


def _geometry(slots: Sequence[Slot], along: np.ndarray | None) -> tuple[list[str], list[str]]:
    """Notes and warnings on positions: none, equal, missing, uneven, tilted. along : sorted"""
    if along is None:
        how = "of their instance numbers ((0020,0013))" if any(s.number for s in slots) else "in which the files came"
        return [f"(0020,0032) Image Position (Patient) is missing: slices are in the order {how}."], []
    notes: list[str] = []
    warnings: list[str] = []
    steps = np.diff(along)
    equal = int((steps <= SAME_PLACE_MM).sum())
    if equal:
        stand = "stands" if equal == 1 else "stand"
        notes.append(f"{_slices(equal)} {stand} where another does: these are in the order of (0020,0013) Instance Number.")
    apart = steps[steps > SAME_PLACE_MM]
    if len(apart):
        uneven, warnings = _spacing(steps, _usual(apart))
        notes += uneven
    notes += _tilt(slots)
    return notes, warnings


def _spacing(steps: np.ndarray, usual: float) -> tuple[list[str], list[str]]:
    gaps, uneven = [], []
    for index, step in enumerate(steps):
        times = round(step / usual)
        if times >= 2 and abs(step / usual - times) <= GAP:
            gaps.append((index, times - 1))
        elif step > SAME_PLACE_MM and abs(step - usual) > max(UNEVEN * usual, SAME_PLACE_MM):
            uneven.append(float(step))
    warnings = [
        f"{_slices(missing)} {'seems' if missing == 1 else 'seem'} to be missing between slice {index + 1} and {index + 2}."
        for index, missing in gaps[:NAMED_GAPS]
    ]
    if len(gaps) > NAMED_GAPS:
        rest = gaps[NAMED_GAPS:]
        warnings.append(f"{_slices(sum(m for _, m in rest))} more seem to be missing at {len(rest)} other places.")
    if uneven:
        low, high = min(usual, *uneven), max(usual, *uneven)
        return [f"The distance between slices is not even: {low:.4g} to {high:.4g} mm, mostly {usual:.4g} mm."], warnings
    return [], warnings


def _tilt(slots: Sequence[Slot]) -> list[str]:
    """The angle between the normal and the line from the first to the last position, and (0018,1120)."""
    line = np.subtract(slots[-1].position, slots[0].position)  # type: ignore[arg-type]
    length, normal = float(np.linalg.norm(line)), _normal(slots[0])
    lean = float(np.degrees(np.arccos(np.clip(line @ normal / length, -1, 1)))) if length > SAME_PLACE_MM else 0.0
    written = slots[0].tilt_deg
    said = f" ((0018,1120) Gantry/Detector Tilt is {written:g} degrees)" if abs(written) > TILT_DEG else ""
    if lean > TILT_DEG:
        return [f"The slices are sheared by {lean:.1f} degrees against their normal, as a tilted gantry leaves them{said}."]
    return [f"The gantry was tilted{said}; the slices stand straight above each other."] if said else []


def _slices(count: int) -> str:
    return "1 slice" if count == 1 else f"{count} slices"
