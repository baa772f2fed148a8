"""The verbs of `python -m engine words` that write a bank: fill (attributes) and describe (sentences)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import engine
from engine.data import unit
from engine.types import Image

FILLING = ("masked-lm", "vqa", "hybrid")  # those that write attributes


class _Pictures(Sequence[tuple[Image, str]]):
    """Examples whose images are read one at a time, when they are asked about."""

    def __init__(self, examples: Sequence[engine.Example]):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, i: int) -> tuple[Image, str]: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[tuple[Image, str]]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return _Pictures(self.examples[i])
        return engine.read_image(self.examples[i].path), self.examples[i].label


def add_parsers(whats: Any, options: Any) -> None:
    """Adds fill and describe to the subparsers of `words`. options : reads NAME=VALUE pairs."""

    def what(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        p = whats.add_parser(name, help=help, description=help)
        p.set_defaults(run=run, options=options)
        p.add_argument("task", metavar="TASK", help="its id")
        p.add_argument("--out", type=Path, required=True, metavar="BANK.json", help="file of the new bank")
        p.add_argument("--force", action="store_true", help="replace what is there")
        p.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other options of the generator")
        p.add_argument("--json", action="store_true")
        return p

    p = what("fill", run_fill, "Write a task's attributes by a model, without an expert (docs/generators.md).")
    p.add_argument("--with", dest="by", required=True, choices=FILLING, help="by which generator")
    p.add_argument("--model", default=None, metavar="ID|FOLDER", help="of transformers (default: the generator's own)")
    p.add_argument("--images", default=None, metavar="DATA", help="labelled images; of their splits only train is looked at")
    p.add_argument("--most", type=int, default=64, help="images at most, evenly over the classes (default: 64)")
    p.add_argument("--faithful", action="store_true", help="masked-lm as the paper does it")
    p = what(
        "describe", run_describe, "Write a task's sentences by a language model; only words of the task leave this machine."
    )
    p.add_argument("--endpoint", required=True, metavar="URL", help="as in http://localhost:11434/v1")
    p.add_argument("--model", required=True, metavar="NAME", help="its name at the endpoint")
    p.add_argument("--questions", choices=["medpromptclip", "biomedcoop"], default="medpromptclip")
    p.add_argument("--insecure", action="store_true", help="allow http to another machine")
    p.add_argument(
        "--backbone", default="scope-mini", help="whose text tower must read every sentence (default: scope-mini)"
    )


def run_fill(args: argparse.Namespace) -> int:
    task = engine.task(args.task)
    options = (
        args.options(args.set)
        | ({"model": args.model} if args.model else {})
        | ({"faithful": True} if args.faithful else {})
    )
    made = engine.generator(args.by, **options)
    if made.needs_images and not args.images:
        raise engine.DataError(f"The generator {args.by!r} needs labelled images.", "Name them with --images.")
    if args.images and not made.needs_images:
        raise engine.DataError(f"The generator {args.by!r} looks at no images.", "Leave --images out.")
    _check_free(args)
    images = _Pictures(_drawn(args.images, task, args.most)) if args.images else ()
    return _written(made.fill(task, images, engine.Watch(progress=_done)), args)


def run_describe(args: argparse.Namespace) -> int:
    task = engine.task(args.task)
    _check_free(args)
    journal = str(args.out.with_suffix(".answers.jsonl"))
    own = {"endpoint": args.endpoint, "model": args.model, "questions": args.questions, "insecure": args.insecure}
    made = engine.generator("llm", **{"journal": journal} | args.options(args.set) | own)
    made.backbone, made.say = engine.load_backbone(args.backbone), _say
    return _written(made.fill(task, (), engine.Watch(progress=_done)), args)


def _check_free(args: argparse.Namespace) -> None:
    if args.out.exists() and not args.force:
        raise engine.DataError(f"There is a file {args.out.name!r} already.", "Name another, or add --force.")
    args.out.parent.mkdir(parents=True, exist_ok=True)  # before the work; a journal is written beside it


def _drawn(data: str, task: engine.Task, most: int) -> list[engine.Example]:
    """Images of each class in turn, of the training split where there are splits; never of test or validation. One of
    each patient or group a class, so that what two images say is not read off one patient's pictures."""
    found = engine.read_examples(data, task)
    if any(e.split for e in found):
        found = [e for e in found if e.split == "train"]
    if not found or most < 1:
        raise engine.DataError(f"No image of a training split is at {data!r}.", "Give one, and --most 1 or more.")
    engine.check_files(found)
    by_label = [list({unit(e): e for e in found if e.label == label}.values()) for label in task.names]
    longest = max(map(len, by_label))
    return [each[i] for i in range(longest) for each in by_label if i < len(each)][:most]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _done(done: int, of: int, _: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{of or '?'}", end="\n" if done == of else "", file=sys.stderr, flush=True)


def _written(bank: engine.DescriptionBank, args: argparse.Namespace) -> int:
    args.out.write_text(engine.bank_text(bank), encoding="utf-8")
    if args.json:
        step = bank.provenance[-1]
        print(
            json.dumps({"schema": 1, "results": [{"written": str(args.out), "sha256": bank.sha256, "step": step}]}, indent=1)
        )
        return 0
    print(args.out)
    for label, slots in next((s["as_it_was"] for s in reversed(bank.provenance) if "as_it_was" in s), {}).items():
        if slots:
            print(f"note: no two images agreed on {', '.join(slots)} of {label!r}: as before.", file=sys.stderr)
    for label, each in bank.classes.items():
        for slot, words in each.attributes.items() if args.what == "fill" else ():
            print(f"  {label:28} {slot:9} {', '.join(words)}")
        if args.what == "describe":
            print(f"  {label:28} {len(each.sentences)} sentences")
    return 0
