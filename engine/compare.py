"""Several prompt sets side by side: on one image, and on the same labelled cases.

On an image all shared-image sets are read off one image forward; a set with a visual prompt has its own, equal prompts share
one. On cases every set is judged on the same ones, each of which it has not learned from: sets that were learned from these
very cases by the answers of the training's folds. Left out: corrections for having looked at several sets at once.

Legend: S sets, N cases, C classes, D joint embedding.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch

from engine.backbones.base import Backbone
from engine.data import unit
from engine.errors import DataError
from engine.evaluate import (
    BINS,
    COMPARED,
    FEW,
    clearly,
    deciding_measure,
    in_points,
    paired_difference,
    with_intervals,
)
from engine.explain import EXPLANATIONS, explanations_for
from engine.features import Progress, features_of
from engine.heads import LinearHead
from engine.predict import Encode, bound, embed, read_off
from engine.preprocess import prepare
from engine.prompts import PromptSet
from engine.sandbox import read_image
from engine.store import Store, digest_of
from engine.types import Example, Heatmap, Input, Interval, Prediction, VisualPrompt

MOST = 8  # sets side by side: more columns are not read
TIMED = 3  # runs of which the median is the cost

HELD = "Judged on cases left out while it learned."
WORDS = "Learned from words alone."
ELSEWHERE = "Learned elsewhere: if your images are of the public data set that it learned from, its numbers may be too good."
MAY_HAVE_SEEN = "May have seen these cases while it learned: its numbers may be too good."

T = TypeVar("T")


# --- one image ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What one set says of an image. heatmap : in units of its score, so that maps of one backbone can share a scale; None
    where the set offers none."""

    prediction: Prediction
    heatmap: Heatmap | None


def compare_image(
    prepared: Input,
    backbone: Backbone,
    sets: Sequence[PromptSet],
    explanation: str | None = "",
    label: str = "",
    encode: Encode = embed,
) -> list[Answer]:
    """One answer a set, in their order. Raises DataError for too many, PromptSetError for a set of another backbone.

    explanation : a map of each set, "" for the backbone's first, or None for none
    label : of the maps; "" for each set's own most probable class
    encode : where the features come from

    A map's values are those of the class embedding (unit length) times the head's scale: they say what raises the score, and
    mean the same in every set of this backbone.
    """
    _check_count(sets)
    for prompts in sets:
        prompts.check(backbone)
    answers: dict[int, Answer] = {}
    for members in _by_visual_prompt(sets):
        prompt = sets[members[0]].visual_prompt
        features = encode([prepared], backbone, prompt)[0]
        found = {i: read_off(features, backbone, sets[i]) for i in members}
        maps = _maps(prepared, backbone, prompt, sets, found, explanation, label) if explanation is not None else {}
        answers |= {i: Answer(found[i], maps.get(i)) for i in members}
    return [answers[i] for i in range(len(sets))]


def _check_count(sets: Sequence[Any]) -> None:
    if not sets:
        raise DataError("Nothing was chosen to compare.", f"Choose two or more, up to {MOST}.")
    if len(sets) > MOST:
        raise DataError(f"{len(sets)} are too many to compare at once.", f"Choose up to {MOST}.")


def _by_visual_prompt(sets: Sequence[PromptSet]) -> list[list[int]]:
    """Which sets share an image forward."""
    groups: dict[Any, list[int]] = {}
    for i, prompts in enumerate(sets):
        p = prompts.visual_prompt
        key = p and (p.tokens.shape, p.tokens.tobytes(), p.insert, p.literal)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _maps(
    prepared: Input,
    backbone: Backbone,
    prompt: VisualPrompt | None,
    sets: Sequence[PromptSet],
    found: dict[int, Prediction],
    method: str,
    label: str,
) -> dict[int, Heatmap]:
    """Of those sets of a group that have class embeddings (and the class): all in one pass."""
    asked = {i: label or prediction.ranked()[0][0] for i, prediction in found.items()}
    asked = {i: name for i, name in asked.items() if isinstance(sets[i].head, LinearHead) and name in sets[i].labels}
    if not asked:
        return {}
    vectors, scales = [], []
    for i, name in asked.items():
        head, c = sets[i].head, sets[i].labels.index(name)
        assert isinstance(head, LinearHead)
        vectors.append(head.embeddings[c])
        scales.append(float(np.broadcast_to(head.scale, head.classes)[c]))
    x, method = torch.from_numpy(prepared.pixels)[None], method or explanations_for(backbone)[0]
    made = EXPLANATIONS[method](backbone, x, torch.from_numpy(np.stack(vectors)), prompt).cpu().numpy()[0]
    return {
        i: Heatmap(values * scale, prepared.box, name, method)
        for (i, name), values, scale in zip(asked.items(), made, scales, strict=True)
    }


def agreement(names: Sequence[str], sets: Sequence[PromptSet], answers: Sequence[Answer]) -> list[str]:
    """Who says the same: one sentence for each question that two or more of the sets ask."""
    questions: dict[frozenset[str], list[int]] = {}
    for i, prompts in enumerate(sets):
        questions.setdefault(frozenset(prompts.labels), []).append(i)
    said = []
    for members in questions.values():
        if len(members) < 2:
            continue
        first = sets[members[0]]
        top = {i: answers[i].prediction.ranked()[0][0] for i in members}
        votes = Counter(top.values()).most_common()
        most, count = votes[0]
        others = "; ".join(f"{names[i]} says {first.display(c)}" for i, c in top.items() if c != most)
        if count == len(members):
            words = f"{'Both' if count == 2 else f'All {count}'} say {first.display(most)}."
        elif count == 1 or votes[1][1] == count:
            words = "They do not agree: " + "; ".join(f"{names[i]} says {first.display(c)}" for i, c in top.items()) + "."
        else:
            words = f"{count} of {len(members)} say {first.display(most)}; {others}."
        said.append(words if len(questions) == 1 else f"{first.card['task']['title']}: {words[0].lower()}{words[1:]}")
    return said


# --- labelled cases ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A set to be judged. name : as people read it, unlike the others'; judged : how, a sentence.

    held : (N, C) what trainings that had not seen a case say of it, in the order of prompts.labels; rows of NaN where there
    is none and the set itself is asked; None where that is every case
    learned : (N,) bool, cases that it has learned from (or from their patient) and of which there is no such answer; None
    where there are none
    """

    name: str
    prompts: PromptSet
    judged: str
    held: np.ndarray | None = None
    learned: np.ndarray | None = None


@dataclass(frozen=True)
class Bin:
    """Cases whose highest probability lies in one of 15 equal parts of 0 to 1. confidence, accuracy : their means."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Column:
    """One set on the cases. probabilities (N, C) in the comparison's order of classes; differences : to the first set, by
    metric, empty for the first itself; is_apart : that by the measure is not chance (`evaluate.clearly`); forward_s : of the image tower for one image; scoring_s : of this set on top."""

    name: str
    card: dict[str, Any]
    judged: str
    probabilities: np.ndarray
    metrics: dict[str, Interval]
    differences: dict[str, Interval]
    is_apart: bool
    calibration: tuple[Bin, ...]
    is_shared_image: bool
    forward_s: float
    scoring_s: float
    size: int  # bytes of the exported file


@dataclass(frozen=True)
class Comparison:
    """cases : indices of the examples that count; truth (N,) int; measure : the metric that decides; ahead : the column that
    is best by it; behind : how much each other one is behind, by name; clear : those of them where that is not chance;
    same, kappa (S, S) : share of cases on which two name the same class, and Cohen's kappa of that."""

    title: str
    labels: tuple[str, ...]
    display: tuple[str, ...]
    cases: tuple[int, ...]
    left_out: int
    truth: np.ndarray
    units: int
    unknown: int  # cases of which neither patient nor group is known
    backbone: str
    device: str
    columns: tuple[Column, ...]
    measure: str
    ahead: int
    behind: dict[str, Interval]
    clear: frozenset[str]
    same: np.ndarray
    kappa: np.ndarray
    shortcuts: tuple[str, ...]

    @property
    def right(self) -> np.ndarray:
        """(S, N) bool."""
        return np.stack([c.probabilities.argmax(axis=1) == self.truth for c in self.columns])


def candidate(
    name: str, prompts: PromptSet, is_ours: bool, cases: Mapping[int, Example] | None = None, result: Any = None
) -> Candidate:
    """A set with what is known of its learning. is_ours : it comes with this program; cases : the examples that it will be
    judged on, in their order, by id; result : of the training that it comes from (assets/schemas/result.json), or None.

    A case that no fold left out is new to it unless it, its file, or an image of its patient or group was learned from.
    """
    if result is None or result["design"] == "words-alone":
        from_words = not prompts.card["data"]["images"]
        return Candidate(name, prompts, WORDS if from_words else ELSEWHERE if is_ours else MAY_HAVE_SEEN)
    kept = {row["case"]: row["tuned"] for row in result["cases"]}
    columns = [result["labels"].index(label) for label in prompts.labels]
    cases = cases or {}
    held = np.full((len(cases), len(columns)), np.nan)
    rows = {row["case"]: row for row in result["learned"]}
    files, units = {row["file"] for row in rows.values()}, {unit for row in rows.values() for unit in row["units"]}
    for case in cases.keys() & rows.keys():  # as they are called now: what came later may have joined them
        units |= _units(cases[case])
    learned = np.zeros(len(cases), dtype=bool)
    for i, (case, example) in enumerate(cases.items()):
        if case in kept:
            held[i] = np.asarray(kept[case], dtype=float)[columns]
        else:
            learned[i] = case in rows or bool(units & _units(example)) or digest_of(example.path) in files
    return Candidate(name, prompts, HELD, held, learned)


def _units(of: Example) -> set[str]:
    return {of.patient, of.group} - {""}


def compare_cases(
    examples: Sequence[Example],
    backbone: Backbone,
    candidates: Sequence[Candidate],
    store: Store | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Every candidate on the same examples; the first is what the others are compared with. progress : of the reading.

    Raises DataError (too many, other classes, no case that is new to all), PromptSetError, ImageError.
    """
    _check(examples, candidates)
    at = _new_to_all(examples, candidates)
    chosen, labels = [examples[i] for i in at], candidates[0].prompts.labels
    sets = [bound(c.prompts, backbone) for c in candidates]
    groups = _by_visual_prompt(sets)
    one = prepare(read_image(chosen[0].path), backbone.preprocess)
    said: dict[int, np.ndarray] = {}
    costs: dict[int, tuple[float, float]] = {}
    for g, members in enumerate(groups):
        prompt = sets[members[0]].visual_prompt
        features = np.zeros((len(chosen), backbone.dim), dtype=np.float32)
        own = [i for i, case in enumerate(at) if any(_asks(candidates[m], case) for m in members)]
        if own:
            told = _shifted(progress, g * len(chosen), len(groups) * len(chosen))
            features[own] = features_of([chosen[i] for i in own], backbone, told, prompt, store)
        forward_s, seen = _timed(partial(embed, [one], backbone, prompt))
        for m in members:
            scoring_s, _ = _timed(partial(sets[m].probabilities, seen))
            costs[m] = (forward_s, scoring_s)
            order = [sets[m].labels.index(label) for label in labels]
            said[m] = _answers(candidates[m], sets[m], features, at)[:, order]
    rows = [(c, said[i], *costs[i]) for i, c in enumerate(candidates)]
    device = f"{backbone.device} ({backbone.dtype})"
    return _compared(examples, tuple(at), rows, backbone.id, device)


def _check(examples: Sequence[Example], candidates: Sequence[Candidate]) -> None:
    _check_count(candidates)
    if not examples:
        raise DataError("There are no labelled cases to compare on.", "Label some in the tab Teach.")
    first = candidates[0]
    for each in candidates[1:]:
        if set(each.prompts.labels) != set(first.prompts.labels):
            raise DataError(
                f"{each.name!r} tells {', '.join(each.prompts.labels)} apart, {first.name!r} {', '.join(first.prompts.labels)}.",
                "Compare sets that answer one question.",
            )
    unknown = sorted({e.label for e in examples} - set(first.prompts.labels))
    if unknown:
        raise DataError(
            f"The label {unknown[0]!r} is no class of {first.name!r}.",
            f"Its classes are: {', '.join(first.prompts.labels)}.",
        )


def to_read(examples: Sequence[Example], candidates: Sequence[Candidate]) -> list[tuple[VisualPrompt | None, list[Example]]]:
    """What `compare_cases` will encode, so that who has a store can have it encoded bit by bit before. Raises DataError."""
    _check(examples, candidates)
    at, sets = _new_to_all(examples, candidates), [c.prompts for c in candidates]
    found = []
    for members in _by_visual_prompt(sets):
        own = [examples[i] for i in at if any(_asks(candidates[m], i) for m in members)]
        found.append((sets[members[0]].visual_prompt, own))
    return found


def _new_to_all(examples: Sequence[Example], candidates: Sequence[Candidate]) -> list[int]:
    """Indices of the cases that none has learned from, except where its trainings left them out. Raises DataError."""
    left: set[int] = set(range(len(examples)))
    for each in candidates:
        if each.learned is not None:
            left -= set(np.flatnonzero(each.learned).tolist())
            if not left:
                raise DataError(
                    f"{each.name!r} has learned from all of these cases, or from all that the others have not.",
                    "Label some more cases, or leave that set out.",
                )
    return sorted(left)


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    """Of one group's reading, as a part of all."""
    return (lambda done, _: progress(start + done, total)) if progress else None


def _asks(of: Candidate, case: int) -> bool:
    """Must the set itself be asked about this case?"""
    return of.held is None or bool(np.isnan(of.held[case]).any())


def _answers(of: Candidate, prompts: PromptSet, features: np.ndarray, at: Sequence[int]) -> np.ndarray:
    """(N, C) in the order of the set's labels."""
    asked = np.asarray([_asks(of, case) for case in at])
    found = np.empty((len(at), len(prompts.labels)))
    if asked.any():
        found[asked] = prompts.probabilities(features[asked])
    if of.held is not None:
        found[~asked] = of.held[at][~asked]
    return found


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    taken = []
    for _ in range(TIMED):
        began = time.perf_counter()
        made = work()
        taken.append(time.perf_counter() - began)
    return median(taken), made


def _compared(
    examples: Sequence[Example],
    cases: tuple[int, ...],
    rows: Sequence[tuple[Candidate, np.ndarray, float, float]],
    backbone: str,
    device: str,
) -> Comparison:
    first = rows[0][0].prompts
    truth = np.asarray([first.labels.index(examples[i].label) for i in cases])
    units = [unit(examples[i]) for i in cases]
    said = [probabilities for _, probabilities, *_ in rows]
    measure = deciding_measure(truth)
    differences = [
        {m: paired_difference(truth, said[0], probabilities, units, m) for m in COMPARED} if i else {}
        for i, probabilities in enumerate(said)
    ]
    columns = tuple(
        Column(
            name=of.name,
            card=of.prompts.card,
            judged=of.judged,
            probabilities=probabilities,
            metrics=with_intervals(truth, probabilities, units),
            differences=differences[i],
            is_apart=i > 0 and clearly(truth, said[0], probabilities, units, differences[i][measure]) != 0,
            calibration=calibration(truth, probabilities),
            is_shared_image=of.prompts.is_shared_image,
            forward_s=forward_s,
            scoring_s=scoring_s,
            size=of.prompts.size,
        )
        for i, (of, probabilities, forward_s, scoring_s) in enumerate(rows)
    )
    ahead = max(range(len(rows)), key=lambda i: columns[i].metrics[measure].value)
    behind = {
        c.name: paired_difference(truth, c.probabilities, said[ahead], units, measure)
        for i, c in enumerate(columns)
        if i != ahead
    }
    clear = (
        c.name
        for c in columns
        if c.name in behind and clearly(truth, c.probabilities, said[ahead], units, behind[c.name]) > 0
    )
    called = np.stack([p.argmax(axis=1) for p in said])
    same, kappa = np.eye(len(rows)), np.eye(len(rows))
    for a, b in combinations(range(len(rows)), 2):
        same[a, b] = same[b, a] = (called[a] == called[b]).mean()
        kappa[a, b] = kappa[b, a] = cohens_kappa(called[a], called[b], len(first.labels))
    return Comparison(
        title=first.card["task"]["title"],
        labels=first.labels,
        display=tuple(map(first.display, first.labels)),
        cases=cases,
        left_out=len(examples) - len(cases),
        truth=truth,
        units=len(set(units)),
        unknown=sum(not examples[i].patient for i in cases),
        backbone=backbone,
        device=device,
        columns=columns,
        measure=measure,
        ahead=ahead,
        behind=behind,
        clear=frozenset(clear),
        same=same,
        kappa=kappa,
        shortcuts=tuple(dict.fromkeys(line for of, *_ in rows for line in of.prompts.card["shortcuts"])),
    )


def calibration(truth: np.ndarray, probabilities: np.ndarray) -> tuple[Bin, ...]:
    """The bins that hold cases, from the lowest confidence: equal width, closed above, as in `evaluate.ece`."""
    top = probabilities.max(axis=1).astype(float)
    right = probabilities.argmax(axis=1) == truth
    within = np.clip(np.searchsorted(np.linspace(0, 1, BINS + 1), top) - 1, 0, BINS - 1)
    return tuple(
        Bin(int((within == b).sum()), float(top[within == b].mean()), float(right[within == b].mean()))
        for b in np.unique(within)
    )


def cohens_kappa(a: np.ndarray, b: np.ndarray, classes: int) -> float:
    """Agreement beyond chance of two lists of classes (N,); 1 where both name one class only. Cohen 1960."""
    chance = float(np.bincount(a, minlength=classes) @ np.bincount(b, minlength=classes)) / len(a) ** 2
    return 1.0 if chance == 1 else (float((a == b).mean()) - chance) / (1 - chance)


# --- in words ----------------------------------------------------------------------------------------------------------

MEASURES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}


def in_words(found: Comparison) -> list[str]:
    """The answer first: who is ahead, and from whom that is a clear difference."""
    best = found.columns[found.ahead]
    value, cases = best.metrics[found.measure], f"{len(found.cases)} cases"
    number = f"{value.value:.0%} ({in_points(value)}) on {cases}"
    if found.measure == "accuracy":
        number = f"right in {int(found.right[found.ahead].sum())} of {cases}, {value.value:.0%} ({in_points(value)})"
    else:
        number = f"balanced accuracy {number}"
    clear = {name: by for name, by in found.behind.items() if name in found.clear}
    open_ = {name: by for name, by in found.behind.items() if name not in found.clear}
    if not found.behind:
        return [f"{best.name}: {number}."]
    lines = [f"Best: {best.name}, {number}." if not open_ else f"No clear winner. Ahead is {best.name}, {number}."]
    if clear:
        lines.append(f"Clearly better than {_listed(clear)}.")
    if open_:
        lines.append(f"No clear difference from {_listed(open_)}: this may be chance.")
    return lines


def _listed(differences: dict[str, Interval]) -> str:
    found = [f"{name} (by {100 * d.value:.0f} points, {in_points(d)})" for name, d in differences.items()]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"


def care(found: Comparison) -> list[str]:
    """What to know before believing it."""
    said = []
    if found.left_out:
        said.append(f"{found.left_out} labelled cases are left out: one of the sets has learned from them.")
    for column in found.columns:
        if column.judged in (ELSEWHERE, MAY_HAVE_SEEN):
            said.append(f"{column.name}: {column.judged[0].lower()}{column.judged[1:]}")
    if len(found.cases) < FEW:
        said.append(f"{len(found.cases)} cases are few: the intervals are wide.")
    absent = [d for c, d in enumerate(found.display) if not (found.truth == c).any()]
    if absent:
        said.append(f"No case shows {', '.join(absent)}.")
    if found.measure == "balanced_accuracy":
        said.append("The classes differ much in number, so balanced accuracy decides: the mean over classes.")
    if found.unknown:
        said.append(f"The patient of {found.unknown} cases is not known: several of one person make intervals too narrow.")
    if found.units < len(found.cases):
        said.append(f"The cases come from {found.units} patients or groups; the intervals count these, not the images.")
    if len(found.columns) > 2:
        said.append("The best of several on the same cases looks a little better than it is.")
    return [*said, *found.shortcuts]


def right_where(found: Comparison) -> list[tuple[str, list[int]]]:
    """The cases (positions in found.cases) by who is right, those first on which the sets differ."""
    right = found.right
    count = right.sum(axis=0)
    groups: list[tuple[str, np.ndarray]] = []
    if len(right) > 1:
        groups += [(f"Only {c.name} is right", np.flatnonzero(right[i] & (count == 1))) for i, c in enumerate(found.columns)]
    if len(right) > 2:
        groups += [
            (f"All but {c.name} are right", np.flatnonzero(~right[i] & (count == len(right) - 1)))
            for i, c in enumerate(found.columns)
        ]
        groups.append(("Some are right", np.flatnonzero((count > 1) & (count < len(right) - 1))))
    groups.append(("None is right" if len(right) > 1 else "Wrong", np.flatnonzero(count == 0)))
    groups.append(("All are right" if len(right) > 1 else "Right", np.flatnonzero(count == len(right))))
    return [(title, list(map(int, members))) for title, members in groups if len(members)]


def as_rows(found: Comparison) -> dict[str, Any]:
    """The comparison for programs, JSON-able; numbers that are not defined are None."""

    def three(of: Interval) -> list[float | None]:
        return [None if np.isnan(v) else float(v) for v in (of.value, of.low, of.high)]

    return {
        "task": found.title,
        "labels": list(found.labels),
        "images": len(found.cases),
        "units": found.units,
        "unknown_patients": found.unknown,
        "left_out": found.left_out,
        "measure": found.measure,
        "words": in_words(found),
        "care": care(found),
        "backbone": found.backbone,
        "device": found.device,
        "sets": [
            {
                "name": c.name,
                "method": c.card["method"],
                "judged": c.judged,
                "metrics": {name: three(v) for name, v in c.metrics.items()},
                "differences": {name: three(v) for name, v in c.differences.items()},
                "calibration": [[b.count, b.confidence, b.accuracy] for b in c.calibration],
                "seconds_per_image": c.forward_s + c.scoring_s,
                "shares_the_image_forward": c.is_shared_image,
                "bytes": c.size,
            }
            for c in found.columns
        ],
        "behind": {name: three(v) for name, v in found.behind.items()},
        "same": found.same.tolist(),
        "kappa": found.kappa.tolist(),
        "right": {c.name: row.tolist() for c, row in zip(found.columns, found.right, strict=True)},
    }
