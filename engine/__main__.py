"""The command line: python -m engine list | predict | locate | tune | tune-detector | evaluate | faithful | prompts | words | reproduce |
import | export | erase | workspace | bench.

--json prints one documented object (README, "What --json prints"). Exit codes: 0 all well; 1 some files failed, the
rest is there; 2 wrong usage, or nothing could run (one sentence on stderr).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

import engine
from engine import _words_cli, _words_generate, bench
from engine.backbones.base import Backbone
from engine.prompts import LIBRARY
from engine.table import CHUNK
from engine.types import Image

# --- list -----------------------------------------------------------------------------------------------------------


def run_list(args: argparse.Namespace) -> int:
    backbones = [{"id": n, "present": b.present() is not None} for n, b in engine.BACKBONES.items()]
    backbones += [{"id": n, "present": True} for n in engine.exported()]
    found: dict[str, Any] = {
        "schema": 1,
        "backbones": backbones,
        "methods": list(engine.METHODS),
        "prompt_sets": [],
        "explanations": list(engine.EXPLANATIONS),
        "generators": list(engine.GENERATORS),
        "tasks": [{"id": t.id, "title": t.title, "labels": list(t.names)} for t in engine.tasks().values()],
        "formats": list(engine.READERS),
    }
    for name in engine.library():
        try:
            card = engine.PromptSet.load(name).card
            found["prompt_sets"].append({"name": name, "backbone": card["backbone"]["id"], "labels": card["labels"]})
        except engine.PromptSetError as error:
            found["prompt_sets"].append({"name": name, "error": str(error)})
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    print("backbones")
    for each in backbones:
        print(f"  {each['id']:18} {'present' if each['present'] else 'not on this machine'}")
    for kind in ("methods", "explanations", "generators", "formats"):
        print(kind)
        print("  " + ", ".join(found[kind]))
    print("tasks (a task's id works as --prompts)")
    for each in found["tasks"]:
        print(f"  {each['id']:20} {each['title']}: {', '.join(each['labels'])}")
    print("prompt sets")
    for each in found["prompt_sets"]:
        print(f"  {each['name']:46} {each.get('error') or each['backbone']}")
    return 0


# --- predict --------------------------------------------------------------------------------------------------------


def _write_map(image: Image, placed: np.ndarray, prompts: engine.PromptSet, label: str, out: Path) -> str:
    """Named by pixels, never by the file, whose name may identify a patient."""
    out.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(np.ascontiguousarray(image.pixels).tobytes()).hexdigest()[:12]
    path = out / f"map-{digest}-{prompts.name}-{prompts.labels.index(label)}.png"
    PIL.Image.fromarray(engine.overlay(image, placed)).save(path)
    return str(path)


def _draws(backbone: Backbone, args: argparse.Namespace) -> engine.Seen:
    """Writes the map of an answer's first class, where one can be made and there is something to see."""

    def drawn(
        image: Image, prepared: engine.Input, prediction: engine.Prediction, prompts: engine.PromptSet, frames: int
    ) -> str | None:
        if prompts.class_embeddings is None or args.explain not in ("", *engine.explanations_for(backbone)):
            return None
        top = prediction.ranked()[0][0]
        placed = engine.place(engine.explain(prepared, backbone, prompts, [top], args.explain)[0], image.shape)
        return None if engine.is_flat(placed) else _write_map(image, placed, prompts, top, args.out)

    return drawn


def run_predict(args: argparse.Namespace) -> int:
    backbone = engine.load_backbone(args.backbone, args.device, args.precision)
    sets = [_set(name, backbone, args) for name in args.prompts]
    for prompts in sets:
        prompts.check(backbone)
    if args.explain not in ("", *engine.EXPLANATIONS, "none"):
        raise engine.ExplainError(
            f"There is no explanation {args.explain!r}.", f"Choose: {', '.join(engine.EXPLANATIONS)}, none."
        )
    if args.frame is not None and (args.frame < 1 or args.pool):
        why = "--pool is for all frames" if args.pool else "frames count from 1"
        raise engine.ImageError(f"--frame {args.frame} does not fit: {why}.", "Give the number of one frame, or --pool.")
    look = engine.Look(
        window=engine.named_window(args.window) if args.window else None,
        frame=None if args.frame is None else args.frame - 1,
        pool="" if args.frame is not None else args.pool or "mean",
        cover_text=args.cover_text,
    )
    if args.out.suffix == ".parquet":
        return _predict_archive(args, sets, look)
    if args.list or args.workers or args.ray or not args.files:
        raise engine.DataError("Lists, workers and Ray are for tables.", "Name one, as in --out answers.parquet, and files.")
    opened = engine.open_all(args.files, _files_read)
    found = engine.predict_all(opened, backbone, sets, look, seen=_draws(backbone, args), progress=_images_done)
    rows = [row for row in found if row["status"] != "skipped"]  # hidden files and the like, which nobody named
    failed = [row for row in rows if row["status"] == "error"]
    if args.json:
        print(json.dumps({"schema": 1, "notice": engine.NOTICE, "results": rows}, indent=1))
    else:
        for row in rows:
            _show(row)
        print(engine.NOTICE)
    for row in failed:
        print(f"error: {row['error']}", file=sys.stderr)
    return 0 if not failed else 2 if len(failed) == len(rows) else 1


def _predict_archive(args: argparse.Namespace, sets: list[engine.PromptSet], look: engine.Look) -> int:
    """All files to a table in Parquet; exit codes as of few files."""
    table = engine.Table(args.out.absolute(), args.backbone, tuple(sets), args.device, args.precision, look)
    done = engine.predict_archive(args.files, table, args.list, args.chunk, args.workers, args.ray, _chunks_done)
    ok, failed = done.statuses.get("ok", 0), done.statuses.get("error", 0)
    if args.json:
        print(json.dumps({"schema": 1, "notice": engine.NOTICE} | vars(done) | {"folder": str(done.folder)}, indent=1))
    else:
        print(f"{str(args.out)!r}: " + ", ".join(f"{count} {status}" for status, count in sorted(done.statuses.items())))
        print(engine.NOTICE)
    return 0 if not failed else 1 if ok else 2


def _chunks_done(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r  {done}/{total} chunks", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _show(row: dict[str, Any]) -> None:
    if row["status"] == "error":
        return
    more = f" and {len(row['files']) - 3} more" if len(row["files"]) > 3 else ""
    print(f"{', '.join(row['files'][:3])}{more}: {row['prompt_set']} on {row['backbone']}, {row['device']}")
    for label, p in sorted(row["probabilities"].items(), key=lambda item: -item[1]):
        print(f"  {label:32} {p:6.1%}  {'#' * round(40 * p)}")
    print(f"  {'calibrated' if row['calibrated'] else 'uncalibrated: compare the classes, do not read as risk'}")
    if row["pooling"]:
        print(f"  pooled: {row['pooling']['words']}")
    for note in row["notes"]:
        print(f"  note: {note}")
    for warning in row["warnings"]:
        print(f"  warning: {warning}")
    print(f"  map: {row['map'] or 'none'}")


# --- locate ---------------------------------------------------------------------------------------------------------


def _locator(args: argparse.Namespace) -> engine.Locator:
    on_backbone = args.locator in ("patches", "windows")
    if not on_backbone and args.precision != "float32":
        raise engine.ExplainError(f"Detectors compute in float32, not in {args.precision}.", "Leave --precision out.")
    backbone = engine.load_backbone(args.backbone, args.device, args.precision) if on_backbone else None
    return engine.load_locator(args.locator, backbone, args.device)


def run_locate(args: argparse.Namespace) -> int:
    if args.coco:
        return _locate_coco(args)
    if args.images:
        raise engine.DataError("--images is the folder of annotated images.", "Name the annotations with --coco.")
    if not args.file or not args.phrases:
        raise engine.DataError(
            "There is nothing to look for.", 'Name a file and a phrase, as in: locate study.dcm "lung nodule".'
        )
    if args.out and args.out.suffix.lower() != ".png":
        raise engine.DataError(f"{args.out.name!r} is no name of a picture.", "Name it as in found.png.")
    if args.descriptions and not args.task:
        raise engine.DataError("Descriptions are of a task.", "Name it with --task.")
    found = engine.read([args.file])
    if len(found) != 1:
        raise engine.DataError(
            f"{Path(args.file).name!r} holds {len(found)} series of images.", "Name a file or folder of one."
        )
    series = found[0]
    if args.frame is not None and not 1 <= args.frame <= series.frames:
        raise engine.ImageError(f"There is no frame {args.frame}: they count from 1 to {series.frames}.")
    index = engine.middle(series) if args.frame is None else args.frame - 1
    image = series.frame(index, engine.named_window(args.window) if args.window else None)
    locator = _locator(args)
    rows: list[dict[str, Any]] = []
    for turn, located in enumerate(_asked_for(args, image, locator)):
        path = None
        if args.out:
            path = args.out if not turn else args.out.with_stem(f"{args.out.stem}-{turn + 1}")
            found_any = len(located.boxes) > 0  # heat is relative: it glows as much where nothing is found
            drawn = engine.overlay(image, engine.place(located.heat, image.shape)) if found_any else engine.picture(image)
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(engine.outlined(drawn, located.boxes)).save(path)
        rows.append(
            {
                "files": list(series.files),
                "status": "ok",
                "error": None,
                "locator": located.locator,
                "model": located.model,
                "device": locator.device,
                "phrase": located.phrase.text,
                "name": located.phrase.name,
                "negatives": list(located.negatives),
                "boxes": [[round(float(x), 2) for x in box] for box in located.boxes],
                "scores": [round(float(x), 4) for x in located.scores],
                "frame": index + 1,
                "window": vars(image.window) if image.window else None,
                "notes": [*image.notes, *located.notes],
                "warnings": list(image.warnings),
                "picture": None if path is None else str(path),
            }
        )
    if args.json:
        print(json.dumps({"schema": 1, "notice": engine.NOTICE, "results": rows}, indent=1))
        return 0
    for row in rows:
        print(f"{row['phrase']}: {row['locator']}, {row['model']}, {row['device']}")
        for box, score in zip(row["boxes"], row["scores"], strict=True):
            print(f"  {score:.3f}  x {box[0]:g} to {box[2]:g}, y {box[1]:g} to {box[3]:g}")
        for note in row["notes"]:
            print(f"  note: {note}")
        print(f"  picture: {row['picture']}" if row["picture"] else "  picture: none")
    print(engine.NOTICE)
    return 0


def _asked_for(args: argparse.Namespace, image: Image, locator: engine.Locator) -> list[engine.Located]:
    """The phrases; of a task's classes each by name and with its attribute words, against its other classes."""
    most = 10 if args.most is None else args.most
    if not args.task:
        return engine.locate(image, args.phrases, locator, args.negative, most)
    task = engine.task(args.task, args.descriptions)
    found: list[engine.Located] = []
    for words in args.phrases:
        label = task.label_of(words)
        against = args.negative or [each for each in task.names if each != label]
        found += engine.with_and_without(image, engine.descriptions(task), label, locator, against, most=most)
    return found


def _locate_coco(args: argparse.Namespace) -> int:
    of_one = {"FILE": args.file, "--task": args.task, "--most": args.most, "--out": args.out}
    of_one |= {"--window": args.window, "--frame": args.frame, "--descriptions": args.descriptions}
    idle = [name for name, value in of_one.items() if value is not None]
    if idle:
        raise engine.DataError(
            f"Annotations are measured as they are, without {', '.join(idle)}.", "Leave it out, or --coco."
        )
    if not args.images:
        raise engine.DataError("Annotations do not hold their images.", "Name their folder with --images.")
    categories, cases = engine.read_coco(args.coco, args.images)
    locator = _locator(args)
    locators = {locator.name: locator} | engine.baselines()
    rows = []
    for row in engine.point_at(cases, {c: engine.Phrase(c) for c in categories}, locators, args.negative):
        rows.append(row)
        _images_done(len(rows), len(cases))
    found = engine.Pointing(tuple(rows), categories)
    table = [{"locator": name, "metrics": {k: i.as_json() for k, i in found.measures(name).items()}} for name in locators]
    counted = {"images": len(cases), "groups": len({c.unit for c in cases}), "images_with_a_category": len(found.pairs)}
    about = {"model": locator.model, "device": locator.device, "categories": list(categories), **counted, "locators": table}
    if args.json:
        print(json.dumps({"schema": 1, "notice": engine.NOTICE, "results": [about]}, indent=1))
        return 0
    print(f"{locator.model}, {locator.device}: {counted['images']} images in {counted['groups']} groups")
    print(found.markdown())
    print(engine.NOTICE)
    return 0


def run_tune_detector(args: argparse.Namespace) -> int:
    if args.out.exists() and not args.force and (not args.out.is_dir() or any(args.out.iterdir())):
        raise engine.DataError(f"{str(args.out)!r} is there already and not empty.", "Name another folder, or add --force.")
    recipe = engine.DetectorRecipe(epochs=args.epochs, batch=args.batch, lr=args.lr, language_lr=args.lr / 10)
    categories, cases = engine.read_coco(args.coco, args.images)
    boxed = engine.few(cases, categories, args.shots, args.seed)
    detector = engine.load_detector(args.model, args.device)
    phrases = [engine.Phrase(c) for c in categories]
    losses = engine.tune_detector(detector, boxed, phrases, recipe, args.seed, args.checkpoint, _epochs_done)
    about = {
        "of": detector.model,
        "categories": list(categories),
        "shots": args.shots,
        "images": len(boxed),
        "boxes": sum(len(each.boxes) for each in boxed),
        "seed": args.seed,
        "recipe": vars(recipe),
        "losses": losses,
    }
    engine.save_detector(detector, args.out, about)
    if args.json:
        results = [about | {"folder": str(args.out)}]
        print(json.dumps({"schema": 1, "notice": engine.NOTICE, "results": results}, indent=1))
        return 0
    print(
        f"{args.out}: learned from {about['boxes']} boxes on {about['images']} images; loss {losses[0]:.3f} to {losses[-1]:.3f}"
    )
    print(f"  not tested: python -m engine locate --with grounding-dino:{args.out} --coco TEST.json --images FOLDER")
    print(engine.NOTICE)
    return 0


# --- evaluate and prompts -------------------------------------------------------------------------------------------


def _files_read(done: int, total: int) -> None:
    if sys.stderr.isatty() and total > 1:
        print(f"\r  {done}/{total} files read", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _images_done(done: int, total: int) -> None:
    if not sys.stderr.isatty() and done < total:
        return
    print(f"\r  {done}/{total} images", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _epochs_done(epoch: int, epochs: int, loss: float) -> None:
    if not sys.stderr.isatty() and epoch < epochs:
        return
    bar = "#" * (30 * epoch // epochs)
    end = "" if epoch < epochs else "\n"
    print(f"\r  [{bar:30}] epoch {epoch}/{epochs}, loss {loss:.3f}", end=end, file=sys.stderr, flush=True)


def _tasks(args: argparse.Namespace) -> list[engine.Task] | None:
    """The tasks that --descriptions holds words of, with these; None where there are no others than each task's own."""
    return list(engine.tasks_with(args.descriptions).values()) if args.descriptions else None


def _set(name: str, backbone: Backbone, args: argparse.Namespace) -> engine.PromptSet:
    """A prompt set by name, of the words that were asked for; says where classes have none."""
    return _noted(engine.prompt_set(name, backbone, _tasks(args)))


def _noted(prompts: engine.PromptSet) -> engine.PromptSet:
    if bare := prompts.card.get("words", {}).get("name_alone"):
        print(
            f"note: {prompts.name}: the bank has no words for {', '.join(bare)}: their names alone are read.",
            file=sys.stderr,
        )
    return prompts


def run_evaluate(args: argparse.Namespace) -> int:
    backbone = engine.load_backbone(args.backbone, args.device, args.precision)
    rows = []
    known_features: dict[tuple[str, ...], np.ndarray] = {}  # images are encoded once, however many shared-image sets
    for name in args.prompts:
        prompts = _set(name, backbone, args)
        known = prompts.card["task"]["id"]
        task = engine.task(known) if known in engine.tasks() else None
        examples = engine.read_examples(args.data, task, args.split)
        prompts.check(backbone)
        paths = tuple(e.path for e in examples)
        if prompts.is_shared_image:
            if paths not in known_features:
                known_features[paths] = engine.features_of(examples, backbone, _images_done)
            found = engine.evaluate(examples, backbone, prompts, known_features[paths])
        else:
            found = engine.evaluate(examples, backbone, prompts, progress=_images_done)
        rows.append(
            {
                "prompt_set": prompts.name,
                "backbone": backbone.id,
                "images": found.images,
                "units": found.units,
                "chance": found.chance,
                "metrics": {k: i.as_json() for k, i in found.metrics.items()},
                "labels": list(found.labels),
                "confusion": found.confusion.tolist(),
            }
        )
    if args.json:
        print(json.dumps({"schema": 1, "results": rows}, indent=1))
        return 0
    for row in rows:
        print(f"{row['prompt_set']}: {row['images']} images in {row['units']} groups, chance {row['chance']:.1%}")
        for metric, i in row["metrics"].items():
            shown = "not defined" if i["value"] is None else f"{i['value']:.3f}  (95 % {i['low']:.3f} to {i['high']:.3f})"
            print(f"  {metric:30} {shown}")
    return 0


def run_prompts(args: argparse.Namespace) -> int:
    """Makes the sets that need no images and take a moment, for every task named (default: all), in the library."""
    backbone = engine.load_backbone(args.backbone, args.device, args.precision)
    known = _tasks(args) or engine.tasks().values()
    for task in [engine.task(name, args.descriptions) for name in args.tasks or ()] or known:
        for method in args.methods or engine.instant():
            made = engine.method(method, task.id, "words-alone")
            if made.needs_images:
                raise engine.DataError(f"The method {method!r} needs labelled images.", "Use `tune`.")
            prompts = _noted(made.learn(backbone, task))
            print(prompts.save(args.out / prompts.name))
    return 0


FEW = 30  # test images below which an interval promises more than it can hold


# --- tune, reproduce ------------------------------------------------------------------------------------------------


def _options(pairs: list[str]) -> dict[str, Any]:
    """["tau=1.25", "template=a photo of a {}."] -> values read as JSON, else as text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise engine.DataError(f"The option {pair!r} is not understood.", "Write NAME=VALUE, as in tau=1.25.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _views(text: str) -> int:
    if text == "exact":
        return engine.EXACT
    if not text.isdigit() or int(text) < 1:
        raise engine.DataError(f"{text!r} views cannot be made.", "Write a number from 1, or exact.")
    return int(text)


def run_tune(args: argparse.Namespace) -> int:
    views, options = _views(args.views), _options(args.set) | ({"faithful": True} if args.faithful else {})
    needs_images = engine.METHODS[args.method].needs_images
    method = engine.method(args.method, args.task or "", "few-shot" if needs_images else "words-alone", **options)
    if needs_images and not args.data:
        raise engine.DataError(f"The method {args.method!r} needs labelled images.", "Name them with --data.")
    if not needs_images and not args.task:
        raise engine.DataError(f"The method {args.method!r} learns from a task's descriptions.", "Name it with --task.")
    if args.descriptions and not args.task:
        raise engine.DataError("Descriptions are of a task.", "Name it with --task.")
    task = engine.task(args.task, args.descriptions) if args.task else None
    examples = engine.read_examples(args.data, task) if args.data else []
    task = task or engine.task_of(examples)
    if needs_images:
        engine.check_files(examples)
    backbone = engine.load_backbone(args.backbone, args.device, args.precision)
    folder = args.out / (args.name or engine.set_name(method, backbone, task))
    if folder.exists() and not args.force:
        raise engine.PromptSetError(
            f"There is a prompt set {folder.name!r} in {str(args.out)!r} already.", "Give this one a --name, or add --force."
        )
    if examples and not any(e.split for e in examples):  # no split of their own: some whole patients are kept for the test
        engine.check_examples(examples)
        kept, test = engine.hold_out(examples, seed=args.seed)
    else:
        kept, test = examples, [e for e in examples if e.split == "test"]
    watch = engine.Watch(progress=_epochs_done, checkpoint=args.checkpoint)
    if args.checkpoint and args.checkpoint.is_file():
        print(f"  going on from {args.checkpoint}", file=sys.stderr)
    prompts = engine.tune(method, backbone, task, kept, args.shots, args.seed, args.sampler, views, watch, _images_done)
    if args.name:
        prompts = replace(prompts, card=prompts.card | {"name": args.name})
    _noted(prompts).save(folder)
    tested = _beside_zero_shot(prompts, backbone, task, test) if test else {}
    if args.json:
        about = {"prompt_set": prompts.name, "folder": str(folder), "test": tested}
        about |= {k: prompts.card[k] for k in ("data", "method")}
        print(json.dumps({"schema": 1, "notice": engine.NOTICE, "results": [about]}, indent=1))
        return 0
    about = prompts.card["data"]
    print(f"{folder}: learned from " + (f"{about['images']} images" if needs_images else "words alone"))
    if needs_images and about["shots"] < args.shots:
        print(f"  {args.shots} images a class were asked for; the smallest class had {about['shots']} to learn from")
    for name, i in tested.items():
        print(f"  {name:42} {i['value']:6.1%}  (95 % {i['low']:.1%} to {i['high']:.1%})")
    if tested:
        few = "; so few say little, whatever the interval" if len(test) < FEW else ""
        print(f"  on {len(test)} images that it did not learn from{few}")
    elif needs_images:
        print("  not tested: the data have no images left for that")
    return 0


def _beside_zero_shot(
    prompts: engine.PromptSet, backbone: Backbone, task: engine.Task, test: list[engine.Example]
) -> dict[str, dict[str, float]]:
    """Balanced accuracy of the set, of zero-shot, and their difference, with intervals."""
    zero = engine.METHODS["zero-shot"]().learn(backbone, task)
    plain = engine.features_of(test, backbone, _images_done)
    before = engine.evaluate(test, backbone, zero, plain)
    after = engine.evaluate(test, backbone, prompts, plain if prompts.is_shared_image else None)
    metric = "balanced_accuracy"
    more = engine.paired_difference(after.truth, before.probabilities, after.probabilities, after.unit_names, metric)
    named = {metric: after.metrics[metric], f"{metric}_of_zero_shot": before.metrics[metric], "difference": more}
    return {name: {"value": i.value, "low": i.low, "high": i.high} for name, i in named.items()}


def run_reproduce(args: argparse.Namespace) -> int:
    asked = engine.Asked(
        protocol=args.protocol,
        data=args.data,
        datasets=tuple(args.dataset),
        methods=tuple(args.method),
        shots=tuple(args.shots),
        seeds=tuple(args.seeds),
        out=args.out,
        views=_views(args.views),
        sampler=args.sampler or "",
        faithful=args.faithful,
        options=json.dumps(_options(args.set), sort_keys=True),
        targets=tuple(args.targets),
    )
    backbone = engine.load_backbone(args.backbone, args.device, args.precision)
    watch = engine.Watch(progress=_epochs_done)
    rows = engine.reproduce(asked, backbone, lambda line: print(line, file=sys.stderr, flush=True), watch, _images_done)
    if args.json:
        print(json.dumps({"schema": 1, "rows": rows, "summary": engine.summary(rows, args.out)}, indent=1))
    else:
        print(engine.markdown(rows, args.out, args.metric))
    return 0


# --- faithful -------------------------------------------------------------------------------------------------------


def _sources(args: argparse.Namespace, backbone: Backbone) -> list[engine.Source]:
    """A prompt set for each --data, or one for all."""
    if len(args.prompts) not in (1, len(args.data)):
        raise engine.DataError(
            f"There are {len(args.data)} sources of images and {len(args.prompts)} prompt sets.",
            "Give one set for all, or one for each, in their order.",
        )
    sets = [engine.prompt_set(name, backbone) for name in args.prompts]
    found = []
    for data, prompts in zip(args.data, sets * (len(args.data) // len(sets)), strict=True):
        known = prompts.card["task"]["id"]
        task = engine.task(known) if known in engine.tasks() else None
        found.append(engine.Source(engine.read_examples(data, task, args.split), prompts))
    return found


def run_faithful(args: argparse.Namespace) -> int:
    """Ctrl-C prints what is done."""
    backbone = engine.load_backbone(args.backbone, args.device, args.precision)
    maps = engine.explanations_for(backbone) if args.maps == ["all"] else args.maps
    sources = _sources(args, backbone)
    asked = (args.images, args.steps, args.random, args.fill, args.target, tuple(args.blocks), args.seed)
    rows: list[engine.Scored] = []
    stopped = False
    try:
        for row in engine.score_maps(sources, backbone, maps, *asked):
            rows.append(row)
            _images_done(len(rows), args.images)
    except KeyboardInterrupt:
        if not rows:
            raise
        stopped = True
        print(f"\nStopped after {len(rows)} images, of which the table is.", file=sys.stderr)
    found = engine.Faithfulness(tuple(rows))
    if args.json:
        print(json.dumps({"schema": 1, "results": [_faithful_row(found, sources, backbone, args, stopped)]}, indent=1))
    else:
        _show_faithful(found, sources)
    return 130 if stopped else 0


def _faithful_row(
    found: engine.Faithfulness, sources: list[engine.Source], backbone: Backbone, args: argparse.Namespace, stopped: bool
) -> dict[str, Any]:
    counts = [sum(row.source == s for row in found.rows) for s in range(len(sources))]
    return {
        "backbone": backbone.id,
        "device": f"{backbone.device} ({backbone.dtype})",
        "prompt_sets": [{"prompt_set": s.prompts.name, "images": n} for s, n in zip(sources, counts, strict=True)],
        "images": len(found.rows),
        "groups": len(set(found.units)),
        "named_right": sum(row.named_right for row in found.rows),
        "stopped": stopped,
        "steps": args.steps,
        "random_orders": args.random,
        "fill": args.fill,
        "target": args.target,
        "seed": args.seed,
        "maps": [
            {
                "name": each.name,
                "deletion": each.deletion.as_json(),
                "insertion": each.insertion.as_json(),
                "insertion_minus_deletion": each.score.as_json(),
                "over_random": each.over_random.as_json(),
                "seconds": each.seconds,
                "shift_correlation": each.stability.as_json() if each.stability else None,
                "randomised_correlation": {str(b): i.as_json() for b, i in each.weights.items()},
            }
            for each in found.maps
        ],
        "words": found.in_words(),
    }


def _show_faithful(found: engine.Faithfulness, sources: list[engine.Source]) -> None:
    def shown(i: engine.Interval | None) -> str:
        return "" if i is None else f"{i.value:.3f} ({i.low:.3f} to {i.high:.3f})"

    for s, source in enumerate(sources):
        print(f"{source.prompts.name}: {sum(row.source == s for row in found.rows)} images")
    right = sum(row.named_right for row in found.rows)
    print(f"{len(found.rows)} images in {len(set(found.units))} groups, {right} of them named rightly\n")
    blocks = list(found.maps[0].weights) or next((list(each.weights) for each in found.maps if each.weights), [])
    head = ["map", "deletion AUC (low)", "insertion AUC (high)", "insertion - deletion", "over random", "s a map"]
    head += ["shifted"] * bool(blocks) + [f"last {b} random" for b in blocks]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for each in found.maps:
        cells = [each.name, *map(shown, (each.deletion, each.insertion, each.score, each.over_random))]
        cells.append(f"{each.seconds:.3f}" if each.seconds else "")
        if blocks:
            cells += [shown(each.stability), *(shown(each.weights.get(b)) for b in blocks)]
        print("| " + " | ".join(cells) + " |")
    print("\n" + found.in_words())


# --- import and export ----------------------------------------------------------------------------------------------


def run_import(args: argparse.Namespace) -> int:
    if args.bank:
        return _import_bank(args)
    path = Path(args.file)
    if not path.exists():
        raise engine.PromptSetError(f"There is no file {str(path)!r}.")
    if path.is_dir() or not zipfile.is_zipfile(path):  # torch writes its checkpoints as zip archives
        prompts = engine.PromptSet.load(path)
    else:
        if not args.task:
            raise engine.DataError("A checkpoint does not say which classes it is for.", "Name its task with --task.")
        backbone = engine.load_backbone(args.backbone, args.device, args.precision)
        prompts = engine.import_checkpoint(
            path, backbone, engine.task(args.task), args.method, args.template, args.position, args.trained_on
        )
    folder = (args.out or LIBRARY) / prompts.name
    if folder.exists() and not args.force:
        raise engine.PromptSetError(f"There is a prompt set {prompts.name!r} already.", "Add --force to replace it.")
    return _written(prompts.save(folder), args)


def _written(path: Path, args: argparse.Namespace) -> int:
    print(json.dumps({"schema": 1, "results": [{"written": str(path)}]}, indent=1) if args.json else path)
    return 0


def _import_bank(args: argparse.Namespace) -> int:
    if not args.task:
        raise engine.DataError("A description bank belongs to a task.", "Name it with --task.")
    bank = engine.import_bank(args.file, engine.task(args.task))
    target = args.out or Path(f"{args.task}.json")
    if target.is_dir() or not target.suffix:
        target /= f"{args.task}.json"
    if target.suffix != ".json":
        raise engine.DataError(f"The file {target.name!r} has another ending than '.json'.", "Name it so, or name a folder.")
    if target.exists() and not args.force:
        raise engine.DataError(f"There is a file {str(target)!r} already.", "Add --force to replace it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(engine.bank_text(bank), encoding="utf-8")
    _written(target, args)
    if not args.json:
        place = shlex.quote(str(target))
        print(f"To use it: --descriptions {place}, or PROMPTSCOPE_DESCRIPTIONS={place} for all that runs, the page as well.")
    return 0


def run_export(args: argparse.Namespace) -> int:
    if args.prompts.startswith("onnx:"):
        return _export_tower(args)
    if args.prompts.startswith("bank:"):
        return _export_bank(args)
    if args.precision or args.calibrate or args.format or args.images or args.descriptions:
        raise engine.PromptSetError(
            "A prompt set is exported as it is: --precision and --calibrate are of image towers, --format, --images and "
            "--descriptions of banks.", "Write onnx:ID or bank:TASK to export one.",
        )  # fmt: skip
    prompts = engine.PromptSet.load(args.prompts)
    target = args.out or Path(f"{prompts.name}.safetensors")
    if target.exists() and not args.force:
        raise engine.PromptSetError(f"There is a file {str(target)!r} already.", "Add --force to replace it.")
    return _written(prompts.export(target), args)


def _export_bank(args: argparse.Namespace) -> int:
    if not args.format:
        raise engine.DataError("A bank is exported in a form.", f"Give --format {', '.join(engine.FORMATS)}.")
    name = args.prompts.removeprefix("bank:")
    task = engine.task(name, args.descriptions)
    target = args.out or Path(f"{name}{engine.FORMATS[args.format].suffix}")
    images = args.images.read_text(encoding="utf-8", errors="replace").split("\n") if args.images else []
    there = [target, *(target.with_name(f"{target.stem}_top{rank}{target.suffix}") for rank in range(1, 10))]
    if any(each.exists() for each in there) and not args.force:
        raise engine.DataError(
            f"There is a file {str(target)!r} already, or one of its variants.", "Add --force to replace it."
        )
    bank = engine.descriptions(task)
    written = engine.export_bank(bank, task, args.format, target, [each.strip() for each in images if each.strip()])
    results = [{"written": str(each)} for each in written]
    print(json.dumps({"schema": 1, "results": results}, indent=1) if args.json else "\n".join(map(str, written)))
    return 0


def _export_tower(args: argparse.Namespace) -> int:
    if args.out and args.out.exists() and any(args.out.iterdir()) and not args.force:
        raise engine.BackboneError(f"The folder {str(args.out)!r} is not empty.", "Add --force to replace an export in it.")
    card = engine.export_onnx(args.prompts.removeprefix("onnx:"), args.precision or "fp32", args.out, args.calibrate)
    if args.json:
        print(json.dumps({"schema": 1, "results": [card]}, indent=1))
        return 0
    parity, how = card["parity"], f" {card['quantization']}" if card["quantization"] else ""
    print(f"{card['folder']}: {card['precision']}{how}, compared with torch on {parity['on']}")
    for name, cosine in parity["cosine"].items():
        print(f"  {name:10} least cosine {cosine:.6f}")
    if "attention" in card["outputs"]:
        print(f"  attention  largest difference {parity['attention_apart']:.1e}")
    print(f"  top-1      {parity['top1_agreement']:.1%} the same modality")
    return 0


# --- erase ----------------------------------------------------------------------------------------------------------


def run_erase(args: argparse.Namespace) -> int:
    if not args.files and args.older_than is None:
        raise engine.DataError("Nothing is named to erase.", "Give a patient's files, or --older-than DAYS.")
    count = engine.erase(args.files, args.older_than)
    if args.json:
        print(json.dumps({"schema": 1, "erased": count}, indent=1))
    else:
        print(f"{count} features erased.")
    return 0


# --- workspace -------------------------------------------------------------------------------------------------------


def run_workspace(args: argparse.Namespace) -> int:
    url = args.url if args.url is not None else os.environ.get("PROMPTSCOPE_DATABASE_URL", "")
    if args.what == "restore":
        return _told(args, engine.restore(args.file, args.folder, url).holdings())
    if not any((args.folder / name).is_file() for name in ("key", "workspace.sqlite3")):
        raise engine.DataError(f"There is no workspace at {str(args.folder)!r}.", "Name its folder with --folder.")
    workspace = engine.Workspace(args.folder, url)
    if args.what == "status":
        return _told(args, workspace.holdings())
    if args.what == "backup":
        return _told(args, {"written": str(engine.back_up(workspace, args.file))})
    if args.what == "check":
        found = engine.check(workspace)
        _told(args, {"faults": found} if args.json or found else {"faults": "none"})
        return 1 if found else 0
    if args.older_than is not None:
        if args.task is not None or args.patient is not None:
            raise engine.DataError(
                "--older-than is of all tasks and patients, and does not go with --task or --patient.", "Give one of them."
            )
        return _told(args, {"cases erased": engine.erase_older(workspace, args.older_than)})
    if args.task is None or args.patient is None:
        raise engine.DataError("Nothing is named to erase.", "Give --task T --patient P3, or --older-than DAYS.")
    sets = engine.learned_from(workspace, args.task)
    erased = engine.erase_patient(workspace, args.task, args.patient)
    return _told(args, {"cases erased": erased, "prompt sets that learned from the task": sets})


def _told(args: argparse.Namespace, found: dict[str, Any]) -> int:
    if args.json:
        print(json.dumps({"schema": 1} | found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name.replace('_', ' '):12} {', '.join(value) if isinstance(value, list) else value}")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m engine", description=f"PromptScope's engine. {engine.NOTICE}")
    verbs = top.add_subparsers(dest="verb", required=True)

    def verb(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        found = verbs.add_parser(name, help=help, description=help)
        found.set_defaults(run=run)
        return found

    def words_of(found: argparse.ArgumentParser) -> None:
        found.add_argument(
            "--descriptions",
            type=Path,
            default=None,
            metavar="FILE|FOLDER",
            help="a bank of a task, or banks, whose words are read in place of the task's own",
        )

    def machine(found: argparse.ArgumentParser, precision: str = "float32") -> None:
        found.add_argument("--backbone", default="scope-mini", help="id, local-dir:FOLDER or onnx:ID (default: scope-mini)")
        found.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
        words = f"float32, bfloat16, float16, or auto: the faster one here (default: {precision}); onnx: int8, too"
        found.add_argument("--precision", default=precision, help=words)

    p = verb("list", run_list, "What there is: backbones, methods, prompt sets, explanations.")
    p.add_argument("--json", action="store_true")

    p = verb("predict", run_predict, "Probabilities and a map for each file.")
    p.add_argument("files", nargs="*", metavar="FILE", help="files, folders, zip archives")
    p.add_argument("--list", nargs="+", default=[], metavar="FILE", help="of files, folders and zips, a path a line")
    machine(p, "auto")
    p.add_argument("--prompts", nargs="+", default=["modality"], metavar="SET", help="names, folders or task ids")
    words_of(p)
    p.add_argument("--explain", default="", metavar="MAP", help="a map's name, or none (default: the backbone's first)")
    p.add_argument("--frame", type=int, default=None, help="one frame, from 1 (default: all frames, pooled)")
    p.add_argument("--pool", choices=list(engine.POOLS), default=None, help="of all frames (default: mean)")
    p.add_argument("--window", default=None, help="CENTRE,WIDTH as in 40,400; a preset as in lung; or automatic")
    p.add_argument("--cover-text", action="store_true", help="blacken what looks like burned-in text first")
    p.add_argument(
        "--out",
        type=Path,
        default=Path("promptscope-out"),
        help="folder of the maps; or NAME.parquet, a table of a whole archive, without maps",
    )
    p.add_argument("--workers", type=int, default=0, help="processes that fill a table (default: one for two cores)")
    p.add_argument("--chunk", type=int, default=CHUNK, help=f"files of a part of a table (default: {CHUNK})")
    p.add_argument(
        "--ray", default="", metavar="ADDRESS", help="cluster that fills a table (requirements-scale.txt), or local"
    )
    p.add_argument("--json", action="store_true")

    p = verb(
        "locate", run_locate, "Where an image shows what a phrase names: boxes and a picture; or how well, on annotations."
    )
    p.add_argument("file", nargs="?", metavar="FILE", help="a file, or a folder or zip of one series")
    p.add_argument("phrases", nargs="*", metavar="PHRASE", help="what to look for")
    p.add_argument(
        "--with", dest="locator", default="windows", metavar="LOCATOR",
        help="windows on the backbone (default), its patches, grounding-dino, or another detector of its kind: grounding-dino:FOLDER|OWNER/NAME",
    )  # fmt: skip
    p.add_argument(
        "--negative", nargs="+", default=[], metavar="PHRASE", help="what it is held against (default: neutral words)"
    )
    p.add_argument(
        "--task", default=None, help="phrases are classes of this task: each by name, and with its attribute words"
    )
    words_of(p)
    p.add_argument("--most", type=int, default=None, metavar="N", help="boxes of a phrase (default: 10)")
    p.add_argument("--window", default=None, help="a preset's name, CENTER,WIDTH or automatic")
    p.add_argument("--frame", type=int, default=None, help="from 1 (default: the middle one)")
    p.add_argument(
        "--out", type=Path, default=None, metavar="PNG", help="a picture of heat and boxes; further phrases: PNG-2 ..."
    )
    p.add_argument("--coco", type=Path, default=None, metavar="JSON", help="measure on annotations in place of FILE")
    p.add_argument("--images", type=Path, default=None, metavar="FOLDER", help="of the annotations")
    machine(p)
    p.add_argument("--json", action="store_true")

    p = verb("evaluate", run_evaluate, "Metrics with intervals on labelled images.")
    p.add_argument("--data", required=True, help="class folders, a folder with split.csv, or a CSV")
    p.add_argument("--prompts", nargs="+", required=True, metavar="SET")
    words_of(p)
    p.add_argument("--split", default=None, help="only this split of the CSV, as in test")
    machine(p, "auto")
    p.add_argument("--json", action="store_true")

    p = verb(
        "faithful", run_faithful, "Which map tells the truth: deletion and insertion on labelled images, beside chance."
    )
    p.add_argument("--data", nargs="+", required=True, metavar="DATA", help="class folders or CSVs; images are drawn evenly")
    p.add_argument("--prompts", nargs="+", required=True, metavar="SET", help="one for all data, or one for each")
    p.add_argument("--split", default=None, help="only this split of the CSV, as in test")
    p.add_argument("--images", type=int, default=200, help="in all (default: 200)")
    p.add_argument("--maps", nargs="+", default=["all"], metavar="MAP", help="default: all that the backbone carries")
    p.add_argument("--steps", type=int, default=10, help="of each curve (default: 10)")
    p.add_argument("--random", type=int, default=4, metavar="N", help="random orders an image (default: 4)")
    p.add_argument("--fill", default="blur", help="what stands for what is taken away: blur (default) or mean")
    p.add_argument("--target", default="rest", help="of the maps: rest (default), class or runner-up")
    p.add_argument(
        "--blocks", nargs="*", type=int, default=[], metavar="B",
        help="also check maps with the image tower's last B blocks randomised, and under shifts of the input",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=0)
    machine(p)
    p.add_argument("--json", action="store_true")

    p = verb("prompts", run_prompts, "Make the prompt sets that learn from words alone.")
    p.add_argument("--tasks", nargs="*", default=None)
    p.add_argument("--methods", nargs="+", default=None, help="default: all that need no images")
    words_of(p)
    p.add_argument("--out", type=Path, default=LIBRARY)
    machine(p)

    p = verb("tune", run_tune, "Learn a prompt set from labelled images, or from words alone.")
    p.add_argument("--data", default=None, help="class folders, a CSV, or the papers' split file")
    p.add_argument("--method", required=True, help=", ".join(engine.METHODS))
    p.add_argument("--task", default=None, help="a task's id (default: the labels of the data are the classes)")
    words_of(p)
    p.add_argument("--shots", type=int, default=16, help="images a class (default: 16)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--sampler", default="grouped", help="grouped (whole patients) or papers (their split files' draws)")
    p.add_argument("--views", default="8", help="views of an image, or exact: a new crop every epoch (default: 8)")
    p.add_argument("--faithful", action="store_true", help="as upstream's code does it, quirks included")
    p.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="options of the method")
    p.add_argument("--checkpoint", type=Path, default=None, help="file from which a stopped training goes on")
    p.add_argument("--out", type=Path, default=LIBRARY, help="folder of the set's folder (default: the library)")
    p.add_argument("--name", default=None, help="of the set (default: TASK-METHOD-BACKBONE)")
    p.add_argument("--force", action="store_true", help="replace a set of this name")
    machine(p, "auto")
    p.add_argument("--json", action="store_true")

    wording = verbs.add_parser("words", help="The words of a task's classes: show, set, propose, effect, fill, describe.")
    whats = wording.add_subparsers(dest="what", required=True)
    _words_cli.add_words_verbs(whats)
    _words_generate.add_parsers(whats, _options)

    p = verb("tune-detector", run_tune_detector, "Fine-tune a detector on annotated boxes, few or many (docs/locate.md).")
    p.add_argument("--coco", type=Path, required=True, metavar="JSON", help="COCO annotations to learn from")
    p.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="of the annotations")
    p.add_argument("--model", default="", help="a folder or OWNER/NAME on the hub (default: grounding-dino-tiny)")
    p.add_argument("--shots", type=int, default=10, help="images a category, 0 for all (default: 10)")
    p.add_argument("--epochs", type=int, default=30)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--lr", type=float, default=1e-4, help="a tenth of it for the language tower (default: 1e-4)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--checkpoint", type=Path, default=None, help="file from which a stopped training goes on")
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the tuned detector")
    p.add_argument("--force", action="store_true", help="write into a folder that is not empty")
    p.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    p.add_argument("--json", action="store_true")

    p = verb("reproduce", run_reproduce, "The papers' protocols: a results table, ours beside theirs.")
    p.add_argument("--protocol", required=True, choices=engine.PROTOCOLS)
    p.add_argument("--data", type=Path, required=True, help="the folder that holds a folder for each data set")
    p.add_argument("--dataset", nargs="+", required=True, help="task ids, as in btmri")
    p.add_argument("--method", nargs="+", default=list(engine.METHODS))
    p.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    p.add_argument("--targets", nargs="*", default=[], help="data sets to test on (cross-dataset)")
    p.add_argument("--views", default="exact", help="exact (a new crop every epoch, default) or a number of kept views")
    p.add_argument("--sampler", default=None, choices=["papers", "grouped"])
    p.add_argument("--faithful", action="store_true", help="as upstream's code does it, quirks included")
    p.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="options of the methods, over the papers'")
    p.add_argument("--metric", default="accuracy", choices=list(engine.METRICS), help="of the printed tables")
    p.add_argument("--out", type=Path, default=Path("results.csv"), help="the table; a run that is in it is not run again")
    machine(p)
    p.add_argument("--json", action="store_true")

    p = verb("import", run_import, "An exported prompt set, an upstream checkpoint, or a description bank.")
    p.add_argument("file", metavar="FILE")
    p.add_argument("--task", default=None, help="the classes of a checkpoint or bank")
    p.add_argument("--method", default=None, help="of a checkpoint that may be of several")
    p.add_argument("--template", default=None, help="of a checkpoint, as in 'a photo of a {}.'")
    p.add_argument("--position", choices=["end", "middle"], default=None, help="of the class in Biomed-DPT's prompt")
    p.add_argument("--trained-on", nargs="*", default=None, metavar="CLASS", help="a checkpoint's classes, in their order")
    p.add_argument("--bank", action="store_true", help="FILE holds descriptions (prompt_templates.py or JSON)")
    p.add_argument("--force", action="store_true", help="replace what is there")
    p.add_argument("--out", type=Path, default=None, help="folder (default: the library); of a bank its folder or FILE.json")
    machine(p)
    p.add_argument("--json", action="store_true")

    p = verb("export", run_export, "One file of a prompt set; onnx:ID, an image tower; or bank:TASK, descriptions, to send.")
    p.add_argument("prompts", metavar="SET")
    p.add_argument("--format", choices=list(engine.FORMATS), default=None, help="of a bank: whose form it takes")
    p.add_argument("--images", type=Path, default=None, metavar="FILE", help="of miu-vl: the images it names, a path a line")
    words_of(p)
    p.add_argument("--precision", choices=["fp32", "fp16", "int8"], default=None, help="of an image tower (default: fp32)")
    p.add_argument("--calibrate", type=Path, default=None, metavar="FOLDER", help="images for int8's scales")
    p.add_argument("--out", type=Path, default=None, metavar="FILE", help="of an image tower: its folder")
    p.add_argument("--force", action="store_true", help="replace what is there")
    p.add_argument("--json", action="store_true")

    p = verb("erase", run_erase, "Delete what is kept of images between runs (docs/privacy.md).")
    p.add_argument("files", nargs="*", metavar="FILE", help="a patient's files or folders, as they were read")
    p.add_argument("--older-than", type=float, default=None, metavar="DAYS", help="whatever was made earlier")
    p.add_argument("--json", action="store_true")

    workspace = verb("workspace", run_workspace, "What the page keeps: status, backup, restore, erase, check.")
    whats = workspace.add_subparsers(dest="what", required=True)
    for what, words in (
        ("status", "How much is there."),
        ("backup", "Everything in one file, images included."),
        ("restore", "A backup into a folder (and database) where nothing is yet."),
        ("erase", "A patient, or what is older than some days, out of everything."),
        ("check", "What does not hold together; exit code 1 where something does not."),
    ):
        p = whats.add_parser(what, help=words, description=words)
        p.set_defaults(run=run_workspace)
        if what in ("backup", "restore"):
            p.add_argument("file", type=Path, metavar="FILE")
        if what == "erase":
            p.add_argument("--task", default=None, help="id of the task in which the patient is called so")
            p.add_argument("--patient", default=None, metavar="P3", help="as the page shows it")
            p.add_argument("--older-than", type=float, default=None, metavar="DAYS", help="cases that were added earlier")
        p.add_argument("--folder", type=Path, default=engine.workspace_folder(), help="default: the page's")
        p.add_argument("--url", default=None, help="of its database (default: PROMPTSCOPE_DATABASE_URL)")
        p.add_argument("--json", action="store_true")

    p = verb("bench", bench.run, "Performance ratios, measured in one run on this machine.")
    p.add_argument("--only", nargs="+", default=None, metavar="KEY", help=", ".join(bench.KEYS))
    p.add_argument("--record", action="store_true", help="add a line to this machine's history in docs/bench")
    p.add_argument("--json", action="store_true")
    return top


def main(words: list[str] | None = None) -> int:
    args = parser().parse_args(words)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        is_table = args.verb == "predict" and args.out.suffix == ".parquet"
        is_journaled = args.verb == "words" and args.what == "describe"
        goes_on = getattr(args, "checkpoint", None) or args.verb == "reproduce" or is_table or is_journaled
        print("\nStopped." + (" The same command goes on where it was." if goes_on else ""), file=sys.stderr)
        return 130
    except engine.EngineError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename!r} cannot be used: {error.strerror}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
