"""The papers' protocols, run by run: python -m engine reproduce --protocol few-shot --data ROOT --dataset btmri --method coop.

Protocols (methods/biomedcoop.md 5): few-shot (train and test on all classes), base-to-novel (train on the first half of the
classes, test on both halves), words-alone (no image is learned from), cross-dataset (train on one data set, test on others).
A results table (CSV) has one row a run and a test; a run whose rows are there is not run again, so that a stopped table goes
on. Beside it a folder keeps each run's probabilities, from which intervals and paired differences are computed.

ROOT holds a folder a data set, named as in the papers (BTMRI) or by task, in the papers' layout (split_BTMRI.json beside
BTMRI/) or with split.csv. Features of images are kept on disk (engine/store.py).
Seeds, and shots, of one method and data set are trained in one stack.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.backbones.base import Backbone
from engine.data import SAMPLERS, base_and_novel, of_classes, read_examples, straddling
from engine.errors import DataError
from engine.evaluate import METRICS, evaluate, harmonic_means, mean_with_interval
from engine.features import Progress, features_of
from engine.methods import METHODS, carried, method, papers
from engine.methods.base import Trained, learn_stacked, visual_prompt
from engine.prompts import PromptSet
from engine.store import Store
from engine.tasks import Task, descriptions, task
from engine.training import Watch
from engine.tune import EXACT, labelled
from engine.types import Example

PROTOCOLS = ("few-shot", "base-to-novel", "words-alone", "cross-dataset")
RUN = ("backbone", "weights", "precision", "views", "sampler", "faithful", "options")
KEY = ("protocol", "dataset", "method", "shots", "seed", *RUN, "descriptions", "data")
COLUMNS = (*KEY, "test", "images", "units", "chance", *METRICS, "seconds", "stacked", "notes")
STACK = 12  # runs trained at once; more only help while the processor is not full


@dataclass(frozen=True)
class Asked:
    """What to run. views : of each training image, or EXACT; options : set by hand, over the papers', as JSON; sampler :
    empty takes `papers` for a split file and `grouped` for everything else; targets : of cross-dataset."""

    protocol: str
    data: Path
    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    out: Path
    views: int = EXACT
    sampler: str = ""
    faithful: bool = False
    options: str = "{}"
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise DataError(f"There is no protocol {self.protocol!r}.", f"Choose one of: {', '.join(PROTOCOLS)}.")
        for name in self.methods:
            self.method(name, "")
        if self.out.suffix != ".csv" or self.out.is_dir():
            raise DataError(f"The results table cannot be {str(self.out)!r}.", "Name a file that ends in .csv.")
        if self.protocol == "cross-dataset" and not self.targets:
            raise DataError("The protocol cross-dataset needs data sets to test on.", "Name them with --targets.")
        if not self.data.is_dir():
            raise DataError(f"There is no folder {str(self.data)!r}.", "Give the folder that holds the data sets' folders.")

    def method(self, name: str, data_set: str) -> Any:
        """With the papers' options, those set by hand, and upstream's quirks where they are asked for. Raises DataError."""
        has_quirks = any(field.name == "faithful" for field in fields(METHODS[name].Config))
        options = json.loads(self.options) | ({"faithful": True} if self.faithful and has_quirks else {})
        return method(name, data_set, "few-shot" if self.protocol == "cross-dataset" else self.protocol, **options)


@dataclass(frozen=True)
class DataSet:
    """digest : of the list of its images, labels and splits."""

    task: Task
    examples: list[Example]
    sampler: str
    digest: str

    def split(self, name: str) -> list[Example]:
        return [e for e in self.examples if e.split == name]


def data_set(asked: Asked, name: str) -> DataSet:
    """Raises DataError where its folder or its test split is not there."""
    found = task(name)
    folders = list(dict.fromkeys([*([found.benchmark] if found.benchmark else []), *found.data, name]))
    place = next((asked.data / folder for folder in folders if (asked.data / folder).is_dir()), None)
    if place is None:
        raise DataError(f"The data set {name!r} is not in {str(asked.data)!r}.", f"Its folder is {' or '.join(folders)}.")
    examples = read_examples(place, found)
    if not {"train", "test"} <= {e.split for e in examples}:
        raise DataError(f"The data set {name!r} has no splits train and test.", "Add a split.csv or the papers' split file.")
    from_papers = any(place.glob("split_*.json")) and not (place / "split.csv").is_file()
    rows = sorted((os.path.relpath(e.path, place), e.label, e.split) for e in examples)
    digest = hashlib.sha256(repr(rows).encode()).hexdigest()[:12]
    return DataSet(found, examples, asked.sampler or ("papers" if from_papers else "grouped"), digest)


def reproduce(
    asked: Asked,
    backbone: Backbone,
    say: Callable[[str], None] = print,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Runs what the table lacks; returns all its rows. Raises DataError, ImageError, Stopped.

    watch : its progress and stop are used; checkpoints lie beside the table's probabilities; progress : of the encoding
    In `faithful` runs the text tower's dropout is drawn for a whole stack, so a run's numbers depend on its company.
    """
    done = {(*(row[k] for k in KEY), row["test"]) for row in rows_of(asked.out)}
    sets = {name: data_set(asked, name) for name in (*asked.datasets, *asked.targets)}
    bench = Bench(asked, backbone, sets, Store(), done)
    for name in asked.datasets:
        data = bench.sets[name]
        if asked.protocol == "base-to-novel" and len(base_and_novel(data.task.names)[1]) < 2:
            say(f"{name}: left out, it has only one novel class")
            continue
        both = straddling(data.split("train"), data.split("test"))
        if both:
            say(f"{name}: {len(both)} patients or groups have images in train and test; accuracy on new patients is lower")
        for method_name in asked.methods:
            kind = METHODS[method_name]
            if asked.protocol == "words-alone" and kind.needs_images:
                say(f"{name} {method_name}: left out, it needs images")
                continue
            wanted = [run for run in _runs(asked, kind) if bench.missing(bench.key(data, method_name, *run))]
            for start in range(0, len(wanted), STACK):
                bench.stack(data, method_name, wanted[start : start + STACK], say, watch, progress)
    return rows_of(asked.out)


def _runs(asked: Asked, kind: Any) -> list[tuple[int, int]]:
    """(shots, seed); words alone have no shots, and only what is trained has seeds."""
    if not kind.needs_images:
        return [(0, seed) for seed in (asked.seeds if kind.is_trained else asked.seeds[:1])]
    return [(shots, seed) for shots in asked.shots for seed in asked.seeds]


@dataclass(frozen=True)
class Bench:
    """What every run of one call shares. done : (*key, test) of the table's rows."""

    asked: Asked
    backbone: Backbone
    sets: dict[str, DataSet]
    store: Store
    done: set[tuple[str, ...]]

    def key(self, data: DataSet, name: str, shots: int, seed: int) -> tuple[str, ...]:
        """What makes a run this run, in the order of KEY."""
        asked, backbone = self.asked, self.backbone
        run = (backbone.id.split(":")[0], backbone.weights_hash[:12], backbone.dtype)
        how = ("exact" if asked.views == EXACT else asked.views, data.sampler, asked.faithful, asked.options)
        bank = descriptions(data.task.id).sha256[:12]
        return tuple(map(str, (asked.protocol, data.task.id, name, shots, seed, *run, *how, bank, data.digest)))

    def missing(self, key: tuple[str, ...]) -> set[str]:
        """The tests of this run that the table does not have."""
        targets = {f"test of {target}" for target in self.asked.targets}
        wanted = {"base-to-novel": {"base", "novel"}, "cross-dataset": {"test", *targets}}
        return {test for test in wanted.get(self.asked.protocol, {"test"}) if (*key, test) not in self.done}

    def stack(
        self,
        data: DataSet,
        name: str,
        runs: Sequence[tuple[int, int]],
        say: Callable[[str], None],
        watch: Watch | None,
        progress: Progress | None,
    ) -> None:
        """Learns the runs side by side, tests each, and writes its rows."""
        asked, backbone = self.asked, self.backbone
        made, learnt = asked.method(name, data.task.id), data.task
        if asked.protocol == "base-to-novel":
            learnt = _part(data.task, base_and_novel(data.task.names)[0])
        began = time.perf_counter()
        given: list[Any] = []
        for shots, seed in runs:
            if not made.needs_images:
                given.append(None)
                continue
            train, held = (of_classes(each, learnt.names) for each in SAMPLERS[data.sampler](data.examples, shots, seed))
            given.append(labelled(made, backbone, learnt, train, held, asked.views, seed, progress, self.store))
        seeds = [seed for _, seed in runs]
        keys = [self.key(data, name, shots, seed) for shots, seed in runs]
        if watch:
            watch = replace(watch, checkpoint=_place(asked.out, ("training", *map(str, keys))).with_suffix(".checkpoint"))
        if isinstance(made, Trained):
            found = learn_stacked([made] * len(runs), backbone, learnt, given, seeds, watch)
        else:
            found = [made.learn(backbone, learnt, each, seed, watch) for each, seed in zip(given, seeds, strict=True)]
        seconds = (time.perf_counter() - began) / len(runs)
        for (shots, seed), key, prompts in zip(runs, keys, found, strict=True):
            missing = self.missing(key)
            for test, scored, note in self.tests(data, learnt, prompts, made):
                if test not in missing:
                    continue
                row: dict[str, Any] = dict(zip(KEY, key, strict=True)) | {"test": test, "notes": note}
                row |= {"seconds": round(seconds, 2), "stacked": len(runs)}
                if scored is not None:
                    row |= {k: round(i.value, 6) for k, i in scored.metrics.items()}
                    row |= {"images": scored.images, "units": scored.units, "chance": round(scored.chance, 6)}
                    _keep(asked.out, (*key, test), scored.probabilities, scored.truth, scored.unit_names)
                _append(asked.out, row)
                self.done.add((*key, test))
                shown = note or f"accuracy {100 * scored.metrics['accuracy'].value:.1f} %"
                say(f"{data.task.id} {name} {shots} shots seed {seed} {test}: {shown} ({seconds:.1f} s a run)")

    def tests(self, data: DataSet, learnt: Task, prompts: PromptSet, made: Any) -> Iterator[tuple[str, Any, str]]:
        """(test's name, evaluation or None, why not)."""
        asked, backbone, prompt = self.asked, self.backbone, visual_prompt(made, self.backbone)

        def scored(set_: PromptSet, examples: list[Example]) -> Any:
            return evaluate(examples, backbone, set_, features_of(examples, backbone, None, prompt, self.store))

        if asked.protocol == "base-to-novel":
            novel = _part(data.task, base_and_novel(data.task.names)[1])
            yield "base", scored(prompts, of_classes(data.split("test"), learnt.names)), ""
            try:
                yield "novel", scored(carried(prompts, backbone, novel), of_classes(data.split("test"), novel.names)), ""
            except DataError as error:
                yield "novel", None, error.message
            return
        yield "test", scored(prompts, data.split("test")), ""
        for target in asked.targets if asked.protocol == "cross-dataset" else ():
            other = self.sets[target]
            try:
                yield f"test of {target}", scored(carried(prompts, backbone, other.task), other.split("test")), ""
            except DataError as error:
                yield f"test of {target}", None, error.message


def _part(whole: Task, names: Sequence[str]) -> Task:
    return replace(whole, labels=tuple(label for label in whole.labels if label.name in names))


# --- the table ------------------------------------------------------------------------------------------------------


def rows_of(table: Path) -> list[dict[str, Any]]:
    """All rows, as text; none where there is no table. Raises DataError for a table of other columns."""
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DataError(f"The table {table.name!r} has other columns than this version writes.", "Name a new file.")
        return list(reader)


def _append(table: Path, row: dict[str, Any]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    new = not table.is_file()
    with table.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def _place(table: Path, key: Sequence[str]) -> Path:
    return table.with_suffix("") / f"{hashlib.sha256(repr(tuple(key)).encode()).hexdigest()[:24]}.npz"


def _keep(table: Path, key: Sequence[str], probabilities: np.ndarray, truth: np.ndarray, units: Sequence[str]) -> None:
    """Numbers only: units become indices, so that no name or path is kept."""
    path = _place(table, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    where = np.unique(np.asarray(units), return_inverse=True)[1]
    np.savez_compressed(path, probabilities=probabilities.astype(np.float32), truth=truth, units=where)


# --- what it comes to -----------------------------------------------------------------------------------------------


def summary(rows: Sequence[dict[str, Any]], table: Path, metric: str = "accuracy") -> list[dict[str, Any]]:
    """One entry for the rows that differ in nothing but their seed: the mean over seeds, its 95 % interval over test units
    (the draws of the training images are not resampled), and the seeds' `deviation`. All in per cent."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    alike = [name for name in KEY if name != "seed"]
    for row in rows:
        if row["accuracy"]:
            groups.setdefault((*(row[k] for k in alike), row["test"]), []).append(row)
    found = []
    for members in groups.values():
        first, test = members[0], members[0]["test"]
        runs = [np.load(_place(table, (*(row[k] for k in KEY), test))) for row in members]
        units = [str(u) for u in runs[0]["units"]]
        i = mean_with_interval(runs[0]["truth"], [run["probabilities"] for run in runs], units, metric)
        each = [float(row[metric]) for row in members]
        found.append(
            {k: first[k] for k in ("protocol", "dataset", "method", *RUN)}
            | {"shots": int(first["shots"]), "test": test, "images": int(first["images"]), "seeds": len(each)}
            | {"mean": 100 * i.value, "low": 100 * i.low, "high": 100 * i.high}
            | {"deviation": 100 * float(np.std(each)), "chance": 100 * float(first["chance"])}
        )
    return found


def published(protocol: str, name: str, shots: int) -> list[tuple[str, float]]:
    """(table, number) of the papers for a method at this many shots (few-shot), each a mean over the papers' data sets."""
    about = papers()["published"].get(protocol, {})
    found = []
    for table, methods in about.items():
        if isinstance(methods, dict) and name in methods and shots in about.get("shots", []):
            found.append((table, methods[name][about["shots"].index(shots)]))
    return found


def markdown(rows: Sequence[dict[str, Any]], table: Path, metric: str = "accuracy") -> str:
    """Tables for people: ours with intervals, the papers' numbers beside them."""
    entries = summary(rows, table, metric)
    lines = []
    for protocol in PROTOCOLS:
        part = [e for e in entries if e["protocol"] == protocol]
        if not part:
            continue
        differ = [name for name in RUN if name != "sampler" and len({e[name] for e in part}) > 1]
        for e in part:  # rows made in different ways stand apart
            e["method"] = ", ".join([e["method"], *(f"{name} {e[name]}" for name in differ)])
        methods, datasets = (list(dict.fromkeys(e[k] for e in part)) for k in ("method", "dataset"))
        columns = sorted({(e["shots"], e["test"]) for e in part if e["shots"]}) or [
            (0, e) for e in {e["test"] for e in part}
        ]
        lines += [f"### {protocol}, {metric} in per cent", ""]
        for dataset in datasets:
            mine = [e for e in part if e["dataset"] == dataset]
            lines += [f"**{dataset}**: {mine[0]['images']} test images, chance {mine[0]['chance']:.1f}", ""]
            lines += [_line(["method", *(f"{shots} shots, {test}" if shots else test for shots, test in columns)])]
            lines += [_line(["---"] * (len(columns) + 1))]
            for name in methods:
                cells = []
                for shots, test in columns:
                    found = [e for e in mine if e["method"] == name and e["test"] == test and e["shots"] in (shots, 0)]
                    cells.append(_cell(found[0]) if found else "")
                lines.append(_line([name, *cells]))
            lines.append("")
        lines += _means(part, methods, datasets, columns, protocol)
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(e: dict[str, Any]) -> str:
    spread = f" ±{e['deviation']:.1f}" if e["seeds"] > 1 else ""
    return f"{e['mean']:.1f} ({e['low']:.1f} to {e['high']:.1f}){spread}"


def _means(part: list, methods: list[str], datasets: list[str], columns: list, protocol: str) -> list[str]:
    """The mean over data sets beside the papers', and for base-to-novel both harmonic means."""
    names = ", ".join(datasets)
    lines = [f"**mean of {names}**; in brackets the papers' own, BiomedCLIP over their data sets", ""]
    lines += [_line(["method", *(f"{shots} shots, {test}" if shots else test for shots, test in columns)])]
    lines += [_line(["---"] * (len(columns) + 1))]
    for name in methods:
        cells = []
        for shots, test in columns:
            found = [e["mean"] for e in part if e["method"] == name and e["test"] == test and e["shots"] in (shots, 0)]
            theirs = ", ".join(f"{number:.1f}" for _, number in published(protocol, name.split(",")[0], shots))
            whole = len(found) == len(datasets)
            cells.append((f"{np.mean(found):.1f}" if whole else "") + (f" [{theirs}]" if theirs else ""))
        lines.append(_line([name, *cells]))
    if protocol == "base-to-novel":
        lines += [
            "",
            _line(["method", "HM of the averages", "mean of the HMs", "papers: base, novel, HM"]),
            _line(["---"] * 4),
        ]
        for name in methods:
            pairs = []
            for dataset in datasets:
                pair = {e["test"]: e["mean"] for e in part if e["method"] == name and e["dataset"] == dataset}
                pairs += [(pair["base"], pair["novel"])] if {"base", "novel"} <= pair.keys() else []
            both = [f"{x:.1f}" for x in harmonic_means(pairs)] if pairs else ["", ""]
            theirs = "; ".join(
                ", ".join(map(str, each[name.split(",")[0]]))
                for each in papers()["published"][protocol].values()
                if isinstance(each, dict) and name.split(",")[0] in each
            )
            lines.append(_line([name, *both, theirs]))
    return [*lines, ""]
