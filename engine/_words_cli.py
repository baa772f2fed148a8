"""python -m engine words show | set | propose | effect: what is written of a task's classes, what it is read as, and what helps.

--json prints {"schema": 1, "results": [...]}. Words are tried on the splits train and val alone, never on a test split; data
without splits are taken whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import engine

METHOD = "attribute-prompts"
SHOWN = 10  # proposals that are printed


def add_words_verbs(whats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verbs below `words`."""

    def verb(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        found = whats.add_parser(name, help=help, description=help)
        found.set_defaults(run=run)
        found.add_argument("task", metavar="TASK", help="a task's id")
        found.add_argument("--json", action="store_true")
        return found

    def bank(found: argparse.ArgumentParser) -> None:
        found.add_argument(
            "--descriptions", type=Path, default=None, metavar="FILE|FOLDER", help="default: the task's own bank"
        )

    def written(found: argparse.ArgumentParser) -> None:
        found.add_argument("--name", default=None, help="class, medical, query or lay (default: class)")
        found.add_argument("--slots", default=None, help="with commas, in their order (default: all); '' for none")
        found.add_argument("--ranks", type=int, default=None, help="variants, from the best words on (default: 3)")
        found.add_argument("--rank", type=int, default=None, help="this variant alone")
        found.add_argument(
            "--template", default=None, help="with {name}, and of {image}, {slots}, {colour}, ...; [ ] may vanish"
        )
        found.add_argument("--faithful", action="store_true", default=None, help="the paper's template, one variant")

    def cases(found: argparse.ArgumentParser) -> None:
        found.add_argument("--data", required=True, help="class folders or a CSV; a test split in it is left out")
        found.add_argument("--metric", choices=engine.RISING, default="balanced_accuracy")
        found.add_argument("--backbone", default="scope-mini", help="id or local-dir:FOLDER (default: scope-mini)")
        found.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
        found.add_argument("--precision", default="float32", help="float32, bfloat16, float16 or auto (default: float32)")

    p = verb("show", run_show, "Each class's names and words, and the prompts that are read.")
    p.add_argument("--class", dest="label", default=None, metavar="CLASS", help="this class alone")
    bank(p)
    written(p)
    p = verb(
        "set",
        run_set,
        "Write words into a slot, or names of a kind, of a bank's file; a new file starts from the task's own.",
    )
    p.add_argument("--bank", type=Path, required=True, metavar="FILE")
    p.add_argument("--class", dest="label", required=True, metavar="CLASS")
    p.add_argument("--slot", required=True, help=", ".join((*engine.SLOTS, *engine.NAMES)))
    p.add_argument("--words", required=True, help="with commas, or semicolons, the best first; '' empties it")
    p = verb(
        "propose",
        run_propose,
        "Which names, slots and variants help on labelled cases, and whether that is more than chance.",
    )
    cases(p)
    bank(p)
    p.add_argument("--template", default="", help="of all candidates (default: the method's)")
    p.add_argument("--seed", type=int, default=1, help="of the folds")
    p = verb("effect", run_effect, "What another bank does to the answers on labelled cases, beside the present one.")
    p.add_argument("--bank", type=Path, required=True, metavar="FILE", help="the other one")
    p.add_argument("--method", choices=engine.instant(), default=METHOD, help=f"that reads them (default: {METHOD})")
    cases(p)
    bank(p)
    written(p)


def run_show(args: argparse.Namespace) -> int:
    task = engine.task(args.task, args.descriptions)
    wanted = task.names if args.label is None else (task.label_of(args.label),)
    found, read = engine.descriptions(task), engine.prompts_of(task, _method(args).config)
    rows = []
    for label in wanted:
        about = found.classes[label]
        row: dict[str, Any] = {"class": label, "names": {k: list(about.synonyms.get(k, ())) for k in engine.NAMES}}
        row |= {"slots": {k: list(about.attributes.get(k, ())) for k in engine.SLOTS}, "prompts": list(read[label])}
        rows.append(row)
    if args.json:
        told = {"bank": found.task, "sha256": found.sha256, "source": found.source, "licence": found.licence}
        return _told(told | {"provenance": list(found.provenance), "results": rows})
    print(f"{found.source.rstrip('.')}. Licence: {found.licence or 'not said'}.")
    for step in found.provenance:
        print("  " + ", ".join(f"{key} {value}" for key, value in step.items() if isinstance(value, str)))
    for row in rows:
        print(row["class"])
        for kind, words in (*row["names"].items(), *row["slots"].items()):
            print(f"  {kind:10} {', '.join(words) or '-'}")
        for prompt in row["prompts"]:
            print(f"  read as    {prompt}")
    return 0


def run_set(args: argparse.Namespace) -> int:
    task = engine.task(args.task, args.bank if args.bank.is_file() else None)
    changed, thoughts = engine.edit_words(task, args.label, args.slot, args.words.split(";" if ";" in args.words else ","))
    assert changed.bank is not None
    args.bank.parent.mkdir(parents=True, exist_ok=True)
    args.bank.write_text(engine.bank_text(changed.bank), encoding="utf-8")
    for thought in thoughts:
        print(f"note: {thought}", file=sys.stderr)
    if args.json:
        return _told({"results": [{"written": str(args.bank), "sha256": changed.bank.sha256, "thoughts": thoughts}]})
    print(args.bank)
    return 0


def run_propose(args: argparse.Namespace) -> int:
    task = engine.task(args.task, args.descriptions)
    examples, backbone, features = _cases(args, task)
    found = engine.propose_words(backbone, task, examples, features, args.metric, args.template, args.seed)
    rows = [_tried(each) for each in found.tried[:SHOWN]]
    if args.json:
        about = {k: getattr(found, k) for k in ("metric", "verdict", "folds", "same", "images", "units")}
        about |= {"plain": found.plain.as_json(), "chosen": found.chosen and found.chosen.as_json()}
        return _told(
            {"notice": engine.NOTICE, **about, "words": found.in_words(), "candidates": len(found.tried), "results": rows}
        )
    print(
        f"{args.metric.replace('_', ' ')} of {len(found.tried)} ways to write the prompts; "
        f"the class's own name alone: {100 * found.plain.value:.1f} %"
    )
    for each in found.tried[:SHOWN]:
        more = each.difference
        by = f"{100 * more.value:+5.1f} points ({100 * more.low:+.1f} to {100 * more.high:+.1f})" if more else ""
        print(f"  {100 * each.score:5.1f} %  {by}  {each.in_words()}")
    print("  (the best of many on the cases that they were chosen on: these are optimistic)")
    print(
        f"{found.in_words()} The same was chosen in {found.same} of {found.folds} folds."
        if found.folds
        else found.in_words()
    )
    return 0


def run_effect(args: argparse.Namespace) -> int:
    before, after = engine.task(args.task, args.descriptions), engine.task(args.task, args.bank)
    method = _method(args)
    examples, backbone, features = _cases(args, before)
    found = engine.effect_of_words(backbone, before, after, examples, features, method, args.metric)
    if args.json:
        row: dict[str, Any] = {k: getattr(found, k) for k in ("metric", "verdict", "images", "units", "changed")}
        row |= {k: getattr(found, k).as_json() for k in ("before", "after", "difference")}
        return _told({"notice": engine.NOTICE, "results": [row | {"words": found.in_words()}]})
    print(found.in_words())
    return 0


def _method(args: argparse.Namespace) -> Any:
    """The method with the options that were given. Raises DataError for one that it does not have."""
    named = ("name", "slots", "ranks", "rank", "template", "faithful")
    given = {k: v for k in named if (v := getattr(args, k)) is not None}
    return engine.method(getattr(args, "method", METHOD), args.task, "words-alone", **given)


def _cases(args: argparse.Namespace, task: engine.Task) -> tuple[list[engine.Example], engine.Backbone, np.ndarray]:
    """The labelled images that words may be tried on, and their features (N, D). Raises DataError."""
    given = engine.read_examples(args.data, task)
    kept = [e for e in given if e.split != "test"]
    if not kept:
        raise engine.DataError(
            "All these images are of a test split.", "Words are tried on train and val alone: give those."
        )
    print(f"{len(kept)} cases; {len(given) - len(kept)} of a test split are left alone", file=sys.stderr)
    backbone = engine.load_backbone(args.backbone, args.device, args.precision)
    return kept, backbone, engine.features_of(kept, backbone, _images_done)


def _images_done(done: int, total: int) -> None:
    if sys.stderr.isatty() or done == total:
        print(f"\r  {done}/{total} images", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _tried(each: engine.Tried) -> dict[str, Any]:
    difference = each.difference and each.difference.as_json()
    return {"options": asdict(each.config), "score": each.score, "difference": difference, "words": each.in_words()}


def _told(found: dict[str, Any]) -> int:
    print(json.dumps({"schema": 1} | found, indent=1))
    return 0
