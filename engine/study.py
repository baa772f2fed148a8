"""What a training is to somebody with a handful of cases: a prompt set, and an honest answer to whether it helped.

Cases that came with a test part are judged there, by the set that learned from the rest ("held-out"). Else the cases are
divided into folds, whole patients (engine.data.unit) together and the classes alike in each; every case is judged by what was
learned from the other folds, and the set that is kept learns from all ("cross-validated"). A method that chooses something on
validation images finds them within what it learns from, in each fold anew. What learns from words alone has seen no case and
is judged on all ("words-alone"). Where a class is of one patient, nothing can be held out, and that is said ("none").

Zero-shot and the simplest baseline are judged on the same cases; differences are paired, intervals draw whole patients.
What is said in words is accuracy in percentage points, and balanced accuracy where a class has more than twice the cases of
another.

Legend: N examples, J judged ones, V views, D joint embedding, C classes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from engine.backbones.base import Backbone
from engine.data import check_examples, hold_out, joined, straddling, unit
from engine.errors import DataError, Stopped
from engine.evaluate import (
    COMPARED,
    FEW,
    NO_RANGE,
    SHOWN,
    clearly,
    deciding_measure,
    in_points,
    paired_difference,
    with_intervals,
)
from engine.features import features_of, views_of
from engine.heads import LinearHead
from engine.methods import METHODS
from engine.methods import method as method_of
from engine.methods.base import LabelledFeatures, Trained, learn_stacked, visual_prompt
from engine.predict import bound
from engine.prompts import PromptSet
from engine.store import Store, digest_of
from engine.tasks import Task, descriptions
from engine.training import Watch
from engine.tune import VIEWS, targets
from engine.types import Example, Interval

SCHEMA_VERSION = 1  # of result.json
# What each budget offers, its default first.
BUDGETS: dict[str, tuple[str, ...]] = {
    "quick": ("linear-probe",),
    "standard": (
        "biomedcoop",
        "coop",
        "kgcoop",
        "prograd",
        "cocoop",
        "biomed-dpt",
        "clip-adapter",
        "tip-adapter",
        "tip-adapter-f",
        "lp++",
    ),
    "words": ("medpromptclip", "description-ensemble", "attribute-prompts"),
}
FOLDS, MANY, FOLDS_OF_MANY = 5, 40, 3  # beyond so many cases three folds judge as well, in little more than half the time
CHOOSING = 0.2  # of what a method learns from, kept for choosing where it chooses
VERY_UNEVEN = 5  # times as many cases in the largest class as in the smallest
FEW_UNITS = 3
BASELINE = "linear-probe"
MOST_VIEWS = 64
# What the options that count something may be, beyond which a training would not end, or not fit; any other number is 0 to 1e6.
BOUNDS = {
    "epochs": (1, 1000),
    "batch": (1, 4096),
    "iterations": (1, 10_000),
    "reduction": (1, 64),
    "descriptions": (1, 1000),
    "sentences": (0, 1000),
    "tokens": (0, 64),
    "zero_tokens": (0, 64),
    "depth": (0, 64),
    "warmup_epochs": (0, 1000),
}


@dataclass(frozen=True)
class Plan:
    """method : of METHODS; options : over the paper's; views : of each image while it learns; seed : of the folds and the
    training."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    views: int = VIEWS
    seed: int = 1

    @classmethod
    def of(cls, method: str, options: dict[str, Any]) -> Plan:
        """Of one list of options, as a page or a program gives them: views and seed, and the method's own."""
        own = {name: value for name, value in options.items() if name not in ("views", "seed")}
        return cls(method, own, options.get("views", VIEWS), options.get("seed", 1))


@dataclass(frozen=True)
class Stage:
    """How far a training is. stage : "reading" (images), "learning" (epochs, or runs of what has none) or "checking"; loss : of
    the epoch; accuracy : on cases that are held out from what it has learned so far; remaining_s : of this stage."""

    stage: str
    done: int
    of: int
    loss: float | None = None
    accuracy: float | None = None
    remaining_s: float | None = None


Tell = Callable[[Stage], None]
Asks = Callable[[], bool]
Rows = np.ndarray  # (n,) int64, indices of examples


@dataclass(frozen=True)
class _Design:
    """folds : (what is learned from, what is judged) of each; kept : what the set that is kept learns from, None where that is
    the only fold's set; care : what must be said of the cases."""

    kind: str
    folds: list[tuple[Rows, Rows]]
    kept: Rows | None
    care: list[str]


# --- before ----------------------------------------------------------------------------------------------------------


def check_plan(task: Task, examples: Sequence[Example], plan: Plan) -> list[str]:
    """Sentences of care (few cases, a class of one patient, ...). Raises DataError where nothing can be learned, or for an
    option that the method does not have."""
    method, examples = _method(task, plan), joined(examples)
    if method.needs_descriptions:
        descriptions(task)
    if method.needs_images or examples:
        y = targets(examples, task)
        if method.needs_images:
            check_examples([replace(e, split="") for e in examples])
            absent = [label.display for c, label in enumerate(task.labels) if not (y == c).any()]
            if absent:
                raise DataError(f"No labelled image shows {absent[0]!r}.", "Label at least one of each class.")
    return _design(task, examples, method, plan.seed).care


def _method(task: Task, plan: Plan) -> Any:
    if not isinstance(plan.views, int) or not 1 <= plan.views <= MOST_VIEWS:
        raise DataError(f"{plan.views!r} views of an image cannot be made.", f"Take 1 to {MOST_VIEWS}.")
    if not isinstance(plan.seed, int) or not 0 <= plan.seed < 2**32:
        raise DataError(f"The seed cannot be {plan.seed!r}.", "Take a whole number from 0 to 4294967295, for example 1.")
    made = method_of(plan.method, task.id, **plan.options)
    for name, value in plan.options.items():
        least, most = BOUNDS.get(name, (0, 1_000_000))
        if not isinstance(value, str) and not least <= value <= most:
            raise DataError(f"The option {name!r} of {plan.method!r} cannot be {value!r}.", f"Take {least} to {most}.")
    return made


def _design(task: Task, examples: Sequence[Example], method: Any, seed: int) -> _Design:
    everything: Rows = np.arange(len(examples))
    if not examples:
        return _Design("words-alone", [], everything, [])
    care: list[str] = []
    held = _held_out(task, examples, care) if method.needs_images else None
    folds = [held] if held else []
    if not held and {e.label for e in examples} == set(task.names):  # else a baseline has nothing to learn some class from
        folds = grouped_folds(examples, FOLDS if len(examples) <= MANY else FOLDS_OF_MANY, seed)
    kept = None if held else everything
    if not method.needs_images:
        kind = "words-alone"
    elif held:
        kind = "held-out"
    else:
        kind = "cross-validated" if folds else "none"
    return _Design(kind, folds, kept, care + _care(task, examples, kind, folds))


def _held_out(task: Task, examples: Sequence[Example], care: list[str]) -> tuple[Rows, Rows] | None:
    """By the test part that came with the cases, where there is one of use."""
    test = [i for i, e in enumerate(examples) if e.split == "test"]
    if not test:
        return None
    both = set(straddling([e for e in examples if e.split != "test"], [examples[i] for i in test]))
    rest = [i for i, e in enumerate(examples) if e.split != "test" and not {unit(e), e.patient, e.path} & both]
    left_out = len(examples) - len(test) - len(rest)
    if {examples[i].label for i in rest} != set(task.names):
        care.append("The test part that came with the images is not used: without it some class has none to learn from.")
        return None
    if left_out:
        care.append(
            f"{_count(left_out, 'image')} left out of learning: the same patient, or a near copy, is in the test part."
        )
    return np.asarray(rest), np.asarray(test)


def grouped_folds(examples: Sequence[Example], most: int, seed: int) -> list[tuple[Rows, Rows]]:
    """(learned from, judged), no unit on both sides and every class to learn from in each; fewer where a class has fewer
    units, none where that cannot be."""
    labels, units = np.asarray([e.label for e in examples]), np.asarray([unit(e) for e in examples])
    units_of = Counter(label for label, _ in set(zip(labels, units, strict=True)))
    random = np.random.RandomState(seed)
    for k in range(min(most, *units_of.values()), 1, -1):
        for _ in range(10):  # patients with several classes may need another draw
            split = StratifiedGroupKFold(k, shuffle=True, random_state=random)
            found = list(split.split(labels, labels, units))
            if all(len(judged) and set(labels[learned]) == set(labels) for learned, judged in found):
                return found
    return []


def _care(task: Task, examples: Sequence[Example], kind: str, folds: list[tuple[Rows, Rows]]) -> list[str]:
    said = []
    display = {label.name: label.display for label in task.labels}
    images = Counter(e.label for e in examples)
    units = Counter(label for label, _ in {(e.label, unit(e)) for e in examples})
    judged = len(examples) if kind == "words-alone" else sum(len(test) for _, test in folds)
    many = {name: _many(task, examples, name) for name in images}
    if kind == "none":
        rare = min(units, key=lambda name: units[name])
        why = f"{display[rare]!r} has only {many[rare]}" if units[rare] == 1 else "The classes share their patients"
        said.append(f"{why}, so that none can be kept to check on: label more.")
    elif judged < FEW:
        said.append(f"There {'is' if judged == 1 else 'are'} {_count(judged, 'case')} to judge by: the ranges are wide.")
    if images and max(images.values()) > VERY_UNEVEN * min(images.values()):
        most, least = max(images, key=lambda name: images[name]), min(images, key=lambda name: images[name])
        said.append(
            f"{display[most]!r} has {images[most]} images, {display[least]!r} {images[least]}: "
            "look at the balanced accuracy, which counts each class alike."
        )
    if kind == "words-alone":  # what follows is about learning from cases
        return said + list(task.shortcuts)
    said += [
        f"{display[name]!r} has only {many[name]}: what is learned of it may be about them alone."
        for name in task.names
        if 1 < units[name] < FEW_UNITS
    ]
    unknown = sum(not e.patient for e in examples)
    if unknown:
        said.append(
            f"The patient of {_count(unknown, 'image')} is not known: images of one person may be on both sides, "
            "which flatters the result."
        )
    groups = Counter(e.group for e in examples if e.group)
    near = sum(count for count in groups.values() if count > 1)
    if near:
        said.append(f"{_count(near, 'image')} had a near copy or belonged together, and stayed on one side.")
    return said + list(task.shortcuts)


def _many(task: Task, examples: Sequence[Example], name: str) -> str:
    """How many units a class has, as people call them."""
    own = [e for e in examples if e.label == name]
    word = "patient" if all(e.patient for e in own) else "image"
    return _count(len({unit(e) for e in own}), word)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- the study -------------------------------------------------------------------------------------------------------


def study(
    backbone: Backbone,
    task: Task,
    examples: Sequence[Example],
    plan: Plan,
    folder: Path,
    store: Store | None = None,
    tell: Tell | None = None,
    stop: Asks | None = None,
    pause: Asks | None = None,
    ids: Sequence[int] | None = None,
    spent: dict[str, float] | None = None,
) -> tuple[PromptSet, dict[str, Any]]:
    """The prompt set, and the result (assets/schemas/result.json); both are left in `folder` as well (prompts/, result.json).

    store : of the images' features; tell : is told how far it is; stop : asked every moment whether to end it;
    pause : the same, only where nothing is lost: after images whose features are new in the store, and after an epoch that is
    in the checkpoint; a method that has neither epochs nor all of itself in the checkpoint learns in one go
    ids : what each example is called in the result, else its place among them; spent : seconds that earlier parts took
    The same call goes on from the checkpoint in the folder. Raises DataError, ImageError, BackboneError, and Stopped.
    """
    method, told, asked = _method(task, plan), tell or (lambda stage: None), stop or (lambda: False)
    check_plan(task, examples, plan)
    assert ids is None or len(ids) == len(examples)
    examples = joined(examples)
    design = _design(task, examples, method, plan.seed)
    y = targets(examples, task)
    clock = _Clock(spent or {})

    views, plain = _read(backbone, method, examples, plan, store, told, asked, pause)
    clock.lap("reading")

    parts = [rows for rows, _ in design.folds] if method.needs_images else []
    parts += [] if design.kept is None else [design.kept]
    data = [_data(method, examples, views, y, rows, plan.seed) if method.needs_images else None for rows in parts]
    judged = _judged(design, len(examples))
    place = Path(folder) / f"learning-{_key(backbone, task, examples, plan)}.safetensors"
    for old in Path(folder).glob("learning-*"):
        if old != place:
            old.unlink()
    watch = _Watching(told, asked, pause, lambda sets: _accuracy(backbone, design, sets, views, y, judged))
    sets = watch.learn(method, backbone, task, data, plan.seed, place)
    clock.lap("learning")

    told(Stage("checking", 0, 1))
    arms = {"tuned": _judge(backbone, design, sets, views, len(task.names))} if len(judged) else {}
    titles = {"tuned": method.name, "zero-shot": "Zero-shot", "baseline": "Linear probe"}
    if arms:
        zero = METHODS["zero-shot"]().learn(backbone, task)
        arms["zero-shot"] = zero.probabilities(plain)
        if method.name == BASELINE:
            titles["baseline"] = "Nearest class mean"
            simple = [_nearest_mean(backbone, zero, plain, y, rows) for rows, _ in design.folds]
        else:
            probe = METHODS[BASELINE]()
            learned = [_data(probe, examples, plain[None], y, rows, plan.seed) for rows, _ in design.folds]
            simple = [probe.learn(backbone, task, each, plan.seed) for each in learned]
        if simple:
            arms["baseline"] = _judge(backbone, replace(design, kind=""), simple, plain[None], len(task.names))
    arms = {arm: p.astype(float).round(6) for arm, p in arms.items()}  # the metrics are of what is written
    result = _result(task, plan, backbone, method, examples, design, judged, y, arms, titles)
    result["cases"] = [
        {"case": int(ids[i] if ids else i), "truth": int(y[i])} | {arm: p[i].tolist() for arm, p in arms.items()}
        for i in judged
    ]
    result["learned"] = [
        {"case": int(ids[i] if ids else i), "file": digest_of(e.path), "units": sorted({e.patient, e.group} - {""})}
        for i in (parts[-1] if method.needs_images else [])
        for e in (examples[i],)
    ]
    clock.lap("checking")
    result["seconds"] = clock.seconds
    prompts = replace(sets[-1], card=sets[-1].card | {"metrics": _card_metrics(result)})
    result["bytes"] = _leave(prompts, Path(folder))
    _write(Path(folder) / "result.json", json.dumps(result, allow_nan=False).encode())
    told(Stage("checking", 1, 1))
    return prompts, result


class _Growing(Store):
    """A store that knows whether it keeps something new."""

    has_grown = False

    def put(self, vectors: dict[str, np.ndarray], image: str = "") -> None:
        super().put(vectors, image)
        self.has_grown = self.has_grown or bool(self.get(list(vectors)[:1]))


class _Clock:
    """Seconds of each stage. spent : by earlier parts of the same training."""

    def __init__(self, spent: dict[str, float]):
        self.seconds, self._before = dict.fromkeys(("reading", "learning", "checking"), 0.0), dict(spent)
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(self._before.get(name, 0.0) + now - self._since, 3)
        self._since = now


def _read(
    backbone: Backbone,
    method: Any,
    examples: Sequence[Example],
    plan: Plan,
    store: Store | None,
    tell: Tell,
    stop: Asks,
    pause: Asks | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The features as the method sees them (V, N, D), and plain ones (N, D)."""
    if not examples:
        return np.zeros((1, 0, backbone.dim), np.float32), np.zeros((0, backbone.dim), np.float32)
    prompt, start = visual_prompt(method, backbone), time.monotonic()
    passes = 2 if prompt is not None else 1
    store = _Growing(store.path) if store else None

    def progress(done: int, of: int, before: int = 0) -> None:
        if stop():
            raise Stopped("The training was stopped while it read the images.")
        done, of = before + done, passes * of
        tell(Stage("reading", done, of, remaining_s=(time.monotonic() - start) / done * (of - done)))
        if pause and store and store.has_grown and done < of and pause():
            raise Stopped("The training was paused while it read the images.")

    count = plan.views if method.needs_images and method.sees_views else 1
    views = views_of(examples, backbone, count, plan.seed, progress, prompt, store)
    if prompt is None:
        return views, views[0]
    return views, features_of(examples, backbone, lambda done, of: progress(done, of, of), store=store)


def _data(
    method: Any, examples: Sequence[Example], views: np.ndarray, y: np.ndarray, rows: Rows, seed: int
) -> LabelledFeatures:
    """What is learned from some of the examples; where the method chooses, a part of them is for that."""
    if not method.chooses:
        return LabelledFeatures(views[:, rows], y[rows])
    place = {examples[i].path: i for i in rows}
    parts = hold_out([replace(examples[i], split="") for i in rows], CHOOSING, seed)
    learned, held = (np.sort([place[e.path] for e in part]).astype(int) for part in parts)
    return LabelledFeatures(views[:, learned], y[learned], views[0][held], y[held])


def _judged(design: _Design, examples: int) -> Rows:
    if design.kind == "words-alone":
        return np.arange(examples)
    return np.sort(np.concatenate([test for _, test in design.folds])) if design.folds else np.arange(0)


def _judge(backbone: Backbone, design: _Design, sets: Sequence[PromptSet], views: np.ndarray, classes: int) -> np.ndarray:
    """(N, C): each example by the set that has not learned from it, NaN where there is none."""
    if design.kind == "words-alone":
        return bound(sets[0], backbone).probabilities(views[0])
    found = np.full((views.shape[1], classes), np.nan, dtype=np.float32)
    for (_, test), prompts in zip(design.folds, sets, strict=False):  # the last set may be of all
        found[test] = bound(prompts, backbone).probabilities(views[0][test])
    return found


def _accuracy(
    backbone: Backbone, design: _Design, sets: Sequence[PromptSet], views: np.ndarray, y: np.ndarray, judged: Rows
) -> float | None:
    if not len(judged):
        return None
    found = _judge(backbone, design, sets, views, len(sets[0].labels))
    return float((found[judged].argmax(axis=1) == y[judged]).mean())


def _nearest_mean(backbone: Backbone, like: PromptSet, plain: np.ndarray, y: np.ndarray, rows: Rows) -> PromptSet:
    """Each class is the mean of its images, at zero-shot's scale."""
    means = np.stack([plain[rows][y[rows] == c].mean(axis=0) for c in range(len(like.labels))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return replace(like, head=LinearHead(means, backbone.logit_scale, np.zeros(len(means), np.float32)))


class _Watching:
    """Looks at the learning: tells how far it is, with the accuracy on held-out cases as it last was."""

    def __init__(self, tell: Tell, stop: Asks, pause: Asks | None, accuracy: Callable[[Sequence[PromptSet]], float | None]):
        self.tell, self.stop, self.pause, self.accuracy = tell, stop, pause or (lambda: False), accuracy
        self.last: float | None = None
        self.first: tuple[int, float] | None = None  # epoch and time from which the remaining time is reckoned

    def learn(
        self,
        method: Any,
        backbone: Backbone,
        task: Task,
        data: Sequence[LabelledFeatures | None],
        seed: int,
        checkpoint: Path,
    ) -> list[PromptSet]:
        if isinstance(method, Trained):
            # only these have a checkpoint of everything
            pausable = method.stages == 1 and type(method).prepared is Trained.prepared
            watch = Watch(
                progress=self.epoch,
                sets=self.look,
                stop=lambda: self.stop() or (pausable and self.pause()),
                checkpoint=checkpoint,
            )
            return learn_stacked([method] * len(data), backbone, task, data, [seed] * len(data), watch)
        found = []
        for i, each in enumerate(data):
            if self.stop():
                raise Stopped("The training was stopped.")
            self.tell(Stage("learning", i, len(data)))
            found.append(method.learn(backbone, task, each, seed, Watch(stop=self.stop)))
        return found

    def look(self, epoch: int, sets: Sequence[PromptSet]) -> None:
        self.last = self.accuracy(sets)

    def epoch(self, epoch: int, epochs: int, loss: float) -> None:
        now = time.monotonic()
        self.first = self.first or (epoch, now)
        done, seconds = epoch - self.first[0], now - self.first[1]
        remaining = seconds / done * (epochs - epoch) if done else None
        self.tell(Stage("learning", epoch, epochs, loss, self.last, remaining))


def _key(backbone: Backbone, task: Task, examples: Sequence[Example], plan: Plan) -> str:
    """What must be the same for a checkpoint to be of this very study: it is then continued, else begun anew."""
    about = (plan, task, list(examples), backbone.weights_hash, backbone.dtype)
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


# --- the result ------------------------------------------------------------------------------------------------------


def _result(
    task: Task,
    plan: Plan,
    backbone: Backbone,
    method: Any,
    examples: Sequence[Example],
    design: _Design,
    judged: Rows,
    y: np.ndarray,
    arms: dict[str, np.ndarray],
    titles: dict[str, str],
) -> dict[str, Any]:
    classes = len(task.names)
    truth, units = y[judged], [unit(examples[i]) for i in judged]
    confusion = np.zeros((classes, classes), dtype=int)
    about: dict[str, dict[str, Any]] = {"tuned": {"title": titles["tuned"], "metrics": {}}}
    differences: dict[str, dict[str, Interval]] = {}
    for arm, p in arms.items():
        metrics = with_intervals(truth, p[judged], units)
        about[arm] = {"title": titles[arm], "metrics": {name: _triple(metrics[name]) for name in SHOWN}}
        if arm != "tuned":
            differences[arm] = {
                name: paired_difference(truth, p[judged], arms["tuned"][judged], units, name) for name in COMPARED
            }
    if arms:
        np.add.at(confusion, (truth, arms["tuned"][judged].argmax(axis=1)), 1)
    measure = deciding_measure(truth)
    # 1 where the tuned set is clearly better than the other
    sides = {
        arm: clearly(truth, arms[arm][judged], arms["tuned"][judged], units, each[measure])
        for arm, each in differences.items()
    }
    care = list(design.care)
    if sides.get("baseline", 0) < 0:
        more = _turned(differences["baseline"][measure])
        care.insert(
            0, f"The simplest baseline ({titles['baseline']}) is better by {_points(more.value)} ({in_points(more)})."
        )
    gain = differences.get("zero-shot", {}).get(measure)
    side = 0 if plan.method == "zero-shot" else sides.get("zero-shot", 0)
    return {
        "schema": SCHEMA_VERSION,
        "method": plan.method,
        "options": dict(plan.options),
        "views": plan.views,
        "seed": plan.seed,
        "backbone": backbone.id,
        "task": task.id,
        "labels": list(task.names),
        "display": [label.display for label in task.labels],
        "design": design.kind,
        "folds": len(design.folds) if design.kind == "cross-validated" else 0,
        "images": len(examples),
        "patients": len({unit(e) for e in examples}),
        "labelled_by_patient": bool(examples) and all(e.patient for e in examples),
        "measure": measure,
        "verdict": {1: "better", -1: "worse", 0: "unclear"}[side],
        "headline": _headline(plan.method, design, gain, side, measure, about["tuned"]["metrics"], len(judged)),
        "care": care,
        "arms": about,
        "differences": {arm: {name: _triple(v) for name, v in each.items()} for arm, each in differences.items()},
        "confusion": confusion.tolist(),
    }


def _headline(
    method: str, design: _Design, gain: Interval | None, side: int, measure: str, metrics: dict[str, Any], judged: int
) -> str:
    """The first words on the page: worse is said as plainly as better, and chance is named where it may be the reason."""
    if gain is None:
        what = "Learned from descriptions alone" if design.kind == "words-alone" else "Learned"
        why = "there are no labelled cases to check it on" if design.kind == "words-alone" else "none could be held out"
        return f"{what}, but not checked: {why}."
    cases = f"{judged} {'labelled' if design.kind == 'words-alone' else 'held-out'} case{'' if judged == 1 else 's'}"
    if method == "zero-shot":
        own = Interval(*metrics[measure])
        return f"Zero-shot is right in {100 * own.value:.0f} % ({in_points(own)}) of {cases}."
    of = " of balanced accuracy" if measure == "balanced_accuracy" else ""
    points = round(100 * abs(gain.value))
    word, more = ("Better", gain) if gain.value > 0 else ("Worse", _turned(gain))
    if side:
        return f"{word} than zero-shot by {_points(more.value)}{of} ({in_points(more)}) on {cases}."
    span = NO_RANGE if in_points(gain) == NO_RANGE else f"{_side(gain.low)} to {_side(gain.high)}"
    if not points:
        return f"No different from zero-shot on {cases}{'' if span == NO_RANGE else f' ({span})'}."
    return f"{word} than zero-shot by {_points(more.value)}{of} on {cases}, which may be chance ({span})."


def _turned(gain: Interval) -> Interval:
    return Interval(-gain.value, -gain.high, -gain.low)


def _points(value: float) -> str:
    points = round(100 * value)
    return f"{points} point{'' if points == 1 else 's'}"


def _side(value: float) -> str:
    points = round(100 * value)
    return f"{abs(points)} {'worse' if points < 0 else 'better'}" if points else "the same"


def _triple(value: Interval) -> list[float | None]:
    """JSON knows no NaN: null where it is not defined."""
    return [round(each, 6) if math.isfinite(each) else None for each in (value.value, value.low, value.high)]


def _card_metrics(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [(name, *each) for name, each in result["arms"]["tuned"]["metrics"].items() if None not in each]
    about = {"images": len(result["cases"]), "split": result["design"]}
    return [{"name": name, "value": value, "low": low, "high": high} | about for name, value, low, high in rows]


def _leave(prompts: PromptSet, folder: Path) -> int:
    """Saves the set as folder/prompts; returns its bytes."""
    place = prompts.save(Path(folder) / "prompts")
    return sum(file.stat().st_size for file in place.iterdir())


def _write(path: Path, data: bytes) -> None:
    """The whole file or none."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
