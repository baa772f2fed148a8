"""Which words help: names, slots and variants of attribute prompts tried on labelled cases, and what an edit does to answers.

The best of many looks better than it is. What is told of a proposal is therefore found by folds of whole patients: in each the
choice is made on the other cases, and judged on these ("cross-fitted"; Varma and Simon, BMC Bioinformatics 7:91, 2006). Cases of
a test split are refused: words that were chosen on them could not be tested any more.

Legend: N cases, C classes, D joint embedding, K candidates, T distinct prompts.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from engine.backbones.base import Backbone
from engine.data import unit
from engine.errors import DataError, Stopped
from engine.evaluate import METRICS, RISING, clearly, in_points, mean_with_interval, paired_difference
from engine.methods._descriptions import BATCH, sentence_features
from engine.methods.attribute_prompts import OWN_NAME, AttributePrompts, prompts_of
from engine.study import grouped_folds
from engine.tasks import NAMES, SLOTS, Task, descriptions, made_bank, slot_of
from engine.types import Example, Interval
from engine.wording import check_words

METRIC = "balanced_accuracy"
FOLDS = 5
TOLD = 10  # candidates whose difference gets an interval
# The names of a class, in sentences for people.
CALLED = {
    OWN_NAME: "the class's own name",
    "medical": "its name in a textbook",
    "query": "its name as one would search for it",
    "lay": "its everyday name",
}
VARIANTS = 3  # at most, of a candidate; MIU-VL makes as many


@dataclass(frozen=True)
class Tried:
    """One way to write the prompts. score : of the metric, on all cases; difference : from the plain class name, paired, on the
    same cases that it was chosen on, of the first TOLD; None beyond."""

    config: AttributePrompts.Config
    score: float
    difference: Interval | None = None

    def in_words(self) -> str:
        name, slots = CALLED[self.config.name], self.config.chosen
        if not slots:
            return f"{name} alone"
        variants = f"the mean of {self.config.ranks} variants" if self.config.ranks > 1 else "the best word of each"
        return f"{name} with {_listed(slots)}, {variants}"


@dataclass(frozen=True)
class Proposal:
    """tried : all candidates, the best first; plain : the class's own name alone; chosen : the best one's difference from it
    where each case was judged by a choice made without it, None where the cases cannot be divided; same : folds that chose
    the same; verdict : 1 helps, -1 harms, 0 no clear help."""

    metric: str
    tried: tuple[Tried, ...]
    plain: Interval
    chosen: Interval | None
    verdict: int
    folds: int
    same: int
    images: int
    units: int

    @property
    def best(self) -> Tried:
        return self.tried[0]

    def in_words(self) -> str:
        cases = f"On {_counted(self.images, self.units)} the best of {len(self.tried)} ways is {self.best.in_words()}."
        if self.chosen is None:
            return f"{cases} There are too few cases of some class to say whether that is more than chance."
        measure, points = self.metric.replace("_", " "), f"{100 * self.chosen.value:+.1f} points"
        if _is_still(self.chosen):
            return f"{cases} Chosen on other cases, such words leave the {measure} of the plain class name as it is."
        found = f"Chosen on other cases, such words give {points} of {measure} beside the plain class name"
        helps = {1: "they help", -1: "they harm", 0: "no clear help"}[self.verdict]
        return f"{cases} {found} (95 %: {in_points(self.chosen)}): {helps}."


@dataclass(frozen=True)
class Effect:
    """difference : after minus before, on the same resamples; verdict : 1 better, -1 worse, 0 where that may be chance;
    changed : cases that are answered with another class."""

    metric: str
    before: Interval
    after: Interval
    difference: Interval
    verdict: int
    images: int
    units: int
    changed: int

    def in_words(self) -> str:
        was, now = (f"{100 * each.value:.1f} %" for each in (self.before, self.after))
        told = {1: "better", -1: "worse", 0: "no clear difference"}[self.verdict]
        measure = self.metric.replace("_", " ")
        measure = measure[0].upper() + measure[1:]
        shown = f"{measure} on {_counted(self.images, self.units)}: {was} before, {now} after"
        if _is_still(self.difference) and (self.units > 1 or not self.changed):
            though = f", though {self.changed} answer{'s' * (self.changed > 1)} did" if self.changed else ""
            return f"{shown}: the score did not change{though}."
        return f"{shown}, {100 * self.difference.value:+.1f} points (95 %: {in_points(self.difference)}): {told}."


def candidates(task: Task, template: str = "", variants: int = VARIANTS) -> list[AttributePrompts.Config]:
    """Every name that the bank has, with every subset of the slots that it has words for and 1 to `variants` of them, the
    plainest first."""
    classes = [each for label, each in descriptions(task).classes.items() if label in task.names]
    names = [OWN_NAME, *(kind for kind in NAMES if any(each.synonyms.get(kind) for each in classes))]
    held = {slot: max((len(each.attributes.get(slot, ())) for each in classes), default=0) for slot in SLOTS}
    made = []
    for count in range(len(SLOTS) + 1):
        for slots in combinations([slot for slot in SLOTS if held[slot]], count):
            for ranks in range(1, 1 + max(1, min(variants, max((held[slot] for slot in slots), default=0)))):
                made += [AttributePrompts.Config(name, ", ".join(slots), ranks, template=template) for name in names]
    return made


def propose_words(
    backbone: Backbone,
    task: Task,
    examples: Sequence[Example],
    features: np.ndarray,
    metric: str = METRIC,
    template: str = "",
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Proposal:
    """The candidates in the order of their metric on these cases, and what choosing the best of them is worth.

    features : (N, D) float32, unit length, from `features_of`; template : of all candidates, "" takes the method's own
    progress(done, all) : of the prompts that are encoded; a second search finds them in the store
    Raises DataError where a case is of a test split or of no class of the task, Stopped.
    """
    truth, units = _cases(task, examples, features, metric)
    if any(e.split == "test" for e in examples):
        raise DataError("Words are not chosen on a test split: they could not be tested any more.", "Give train and val.")
    configs = candidates(task, template)
    answers = _answers(backbone, task, configs, features, progress, stop)  # (K, N, C)
    score = METRICS[metric]
    ranked = _ranked([score(truth, each) for each in answers])
    plain = answers[0]  # the class's own name, no slot
    tried = []
    for place, k in enumerate(ranked):
        more = paired_difference(truth, plain, answers[k], units, metric) if place < TOLD else None
        tried.append(Tried(configs[k], float(score(truth, answers[k])), more))
    found = grouped_folds(examples, FOLDS, seed)
    chosen, verdict, picks = None, 0, list[int]()
    if found:
        told = np.empty_like(plain)
        for learned, judged in found:
            picks.append(_ranked([score(truth[learned], each[learned]) for each in answers])[0])
            told[judged] = answers[picks[-1]][judged]
        chosen = paired_difference(truth, plain, told, units, metric)
        verdict = clearly(truth, plain, told, units, chosen)
    at_first = mean_with_interval(truth, [plain], units, metric)
    same = picks.count(ranked[0])
    return Proposal(metric, tuple(tried), at_first, chosen, verdict, len(found), same, len(truth), len(set(units)))


def effect_of_words(
    backbone: Backbone,
    before: Task,
    after: Task,
    examples: Sequence[Example],
    features: np.ndarray,
    method: Any = None,
    metric: str = METRIC,
) -> Effect:
    """What other words do to the answers, without any tuning. before, after : the same classes, each with its bank.

    features : (N, D) float32, unit length; method : one that learns from words in a moment, None takes attribute prompts
    Raises DataError, also where the method does not learn in a moment; BackboneError where a prompt is too long.
    """
    method = method or AttributePrompts()
    if method.needs_images or method.is_trained:
        raise DataError(f"The method {method.name!r} takes more than words and a moment.", "Take one that learns at once.")
    if before.names != after.names:
        raise DataError(f"The tasks {before.id!r} and {after.id!r} have other classes.", "Compare words of the same.")
    truth, units = _cases(before, examples, features, metric)
    a, b = (method.learn(backbone, each).probabilities(features) for each in (before, after))
    more = paired_difference(truth, a, b, units, metric)
    was, now = (mean_with_interval(truth, [each], units, metric) for each in (a, b))
    changed = int((a.argmax(axis=1) != b.argmax(axis=1)).sum())
    return Effect(metric, was, now, more, clearly(truth, a, b, units, more), len(truth), len(set(units)), changed)


def edit_words(task: Task, label: str, kind: str, words: Sequence[str]) -> tuple[Task, list[str]]:
    """(the task with other words in a slot, or other names of a kind, in a bank of its own; what to think about).

    label : as `Task.label_of` knows it; kind : of SLOTS ("color" is "colour") or NAMES; words : the best first. The bank's
    provenance says that a person did it, and when. Raises DataError, where the task has no bank or the words cannot be used.
    """
    label, kind = task.label_of(label), slot_of(kind)
    kept, thoughts = check_words(task, label, kind, words)
    bank = descriptions(task)
    about = bank.classes[label]
    held = "attributes" if kind in SLOTS else "synonyms"
    about = replace(about, **{held: getattr(about, held) | {kind: tuple(kept)}})
    step = {"by": "a person", "changed": f"{kind} of {label!r}", "at": datetime.date.today().isoformat()}
    steps = (*(each for each in bank.provenance if each != step), step)
    return replace(task, bank=made_bank(replace(bank, classes=bank.classes | {label: about}, provenance=steps))), thoughts


def _cases(task: Task, examples: Sequence[Example], features: np.ndarray, metric: str) -> tuple[np.ndarray, list[str]]:
    """(truth (N,) int, units). Raises DataError."""
    if metric not in RISING:
        what = (
            f"The metric {metric!r} is better lower" if metric in METRICS else f"There is no metric called {metric[:40]!r}"
        )
        raise DataError(f"{what}.", f"Choose one of: {', '.join(RISING)}.")
    if not len(examples):
        raise DataError("There are no labelled images to try words on.", "Label some, or name data that hold some.")
    if features.shape[:1] != (len(examples),) or features.ndim != 2:
        raise DataError(
            f"Features of the shape {features.shape} do not fit {len(examples)} images.", "They should be (N, D)."
        )
    unknown = sorted({e.label for e in examples} - set(task.names))
    if unknown:
        raise DataError(f"{unknown[0]!r} is no class of {task.id!r}.", f"Its classes are: {', '.join(task.names)}.")
    return np.asarray([task.names.index(e.label) for e in examples]), [unit(e) for e in examples]


def _answers(
    backbone: Backbone,
    task: Task,
    configs: Sequence[AttributePrompts.Config],
    features: np.ndarray,
    progress: Callable[[int, int], None] | None,
    stop: Callable[[], bool] | None,
) -> np.ndarray:
    """(K, N, C) float32 probabilities; each of the T distinct prompts is encoded once."""
    read = [prompts_of(task, config) for config in configs]
    texts = list(dict.fromkeys(each for prompts in read for rows in prompts.values() for each in rows))
    parts = []
    for start in range(0, len(texts), BATCH):
        if stop and stop():
            raise Stopped("The search for words was stopped.")
        parts.append(sentence_features(backbone, texts[start : start + BATCH]).float().cpu())
        if progress:
            progress(min(start + BATCH, len(texts)), len(texts))
    rows, place = torch.cat(parts), {each: i for i, each in enumerate(texts)}  # (T, D)
    images = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    made = np.empty((len(configs), len(features), len(task.names)), np.float32)
    for k, prompts in enumerate(read):
        means = torch.stack([rows[[place[each] for each in prompts[label]]].mean(dim=0) for label in task.names])
        scores = backbone.logit_scale * images @ F.normalize(means, dim=-1).T  # (N, C)
        made[k] = scores.softmax(dim=-1).numpy()
    return made


def _ranked(scores: Sequence[float]) -> list[int]:
    """The candidates' places, the best first; of equal ones the plainer, which comes first. A score that is none is last."""
    given = np.nan_to_num(np.asarray(scores, float), nan=-np.inf)
    return np.argsort(-np.round(given, 9), kind="stable").tolist()


def _is_still(difference: Interval) -> bool:
    """Is it 0 in every resample?"""
    return max(map(abs, (difference.value, difference.low, difference.high))) < 1e-9


def _counted(images: int, units: int) -> str:
    return f"{images} cases" + (f" ({units} patients or groups)" if units < images else "")


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + [words[-1]])
