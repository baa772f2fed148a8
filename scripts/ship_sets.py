"""Make the library's prompt sets again, with their cards: after new weights, or a changed method.

    python scripts/ship_sets.py --data ../shared/data                                    (every set that is there)
    python scripts/ship_sets.py --data ../shared/data --methods coop kgcoop --tasks busi  (these, new or not)

Knows no method by name: without --methods it makes what the cards in learned_prompts/ name. What is trained is tuned on K images a class
of the train split (whole groups) and compared with the untuned description ensemble; all is scored on the same images of the
test split. "in-distribution" is written where the backbone's own training saw the set (training.json beside its weights).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import engine
from engine.backbones.scope_mini import FOLDER
from engine.data import unit
from engine.prompts import LIBRARY, PromptSet

LEARNED = "CC BY-NC 4.0, as scope-mini's weights and part of the images"
UNTUNED = "description-ensemble"  # what every learned set is compared with


@dataclass(frozen=True)
class Tested:
    """A task's test images. where : in words, for the card."""

    examples: list[engine.Example]
    features: np.ndarray
    where: str


def seen_sets() -> dict[str, int]:
    """Training images of each task that scope-mini was trained on."""
    return json.loads((FOLDER / "training.json").read_text())["counts"]["train"]


def test_sets(data: Path, backbone: engine.Backbone) -> dict[str, Tested]:
    """By task; the task `modality` asks of every image which kind it is."""
    from scripts.mini_data import class_modality

    found: dict[str, Tested] = {}
    kinds: list[engine.Example] = []
    for t in engine.tasks().values():
        for folder in t.data:
            examples = engine.read_examples(data / "sets" / folder, t, "test")
            where = f"test split of {folder}" + ("; in-distribution" if t.id in seen_sets() else "")
            found[t.id] = Tested(examples, engine.features_of(examples, backbone), where)
            kinds += [replace(e, label=class_modality(t.id, e.label), group=f"{t.id}/{unit(e)}") for e in examples]
            print(t.id, len(examples), "test images", flush=True)
    features = np.concatenate([each.features for each in found.values()])
    return found | {"modality": Tested(kinds, features, "test split of all sets; in-distribution")}


def ship(made: PromptSet, tested: Tested, backbone: engine.Backbone, untuned: PromptSet | None = None) -> engine.Evaluation:
    """Into the library with its metrics, and, where `untuned` is given, the difference from it."""
    features = tested.features if made.is_shared_image else None
    scored = engine.evaluate(tested.examples, backbone, made, features)
    split = f"{tested.where}, {'tuned' if untuned else 'no tuning'}"

    def entry(name: str, i: engine.Interval) -> dict[str, object]:
        numbers = {k: round(getattr(i, k), 4) for k in ("value", "low", "high")}
        return {"name": name, "images": scored.images, "split": split} | numbers

    metrics = [entry(name, i) for name, i in scored.metrics.items() if np.isfinite(i.value)]
    if untuned is not None:
        before = engine.evaluate(tested.examples, backbone, untuned, tested.features)
        for name in ("accuracy", "balanced_accuracy"):
            i = engine.paired_difference(scored.truth, before.probabilities, scored.probabilities, scored.unit_names, name)
            metrics.append(entry(f"{name} minus the untuned {UNTUNED}'s", i))
    licence = {"licence": LEARNED} if untuned else {}
    replace(made, card=made.card | {"metrics": metrics} | licence).save(LIBRARY / made.name)
    return scored


def shipped(backbone: str) -> list[tuple[str, str]]:
    """(task, method) of the library's sets for this backbone, those that learn from words alone first."""
    found = []
    for name in engine.library():
        card = json.loads((LIBRARY / name / "card.json").read_text(encoding="utf-8"))
        if card["backbone"]["id"] == backbone:
            found.append((card["task"]["id"], card["method"]["name"]))
    return sorted(found, key=lambda each: engine.METHODS[each[1]].is_trained)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=[])
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    backbone = engine.load_backbone("scope-mini")
    tests = test_sets(args.data, backbone)
    there = shipped("scope-mini")
    tasks = args.tasks or dict.fromkeys(t for t, m in there if engine.METHODS[m].is_trained)
    methods = args.methods or dict.fromkeys(m for _, m in there)
    wanted = [(t, m) for t in tasks for m in methods] if args.tasks or args.methods else there
    for task_id, name in wanted:
        task, began = engine.task(task_id), time.perf_counter()
        if not engine.METHODS[name].is_trained:
            scored = ship(engine.METHODS[name]().learn(backbone, task), tests[task_id], backbone)
            print(
                f"| {task_id} | {name} | {scored.images} | {100 * scored.metrics['balanced_accuracy'].value:.1f} | | |",
                flush=True,
            )
            continue
        method = engine.method(name, task_id)
        examples = engine.read_examples(args.data / "sets" / task.data[0], task)
        made = engine.tune(method, backbone, task, examples, args.shots, args.seed)
        took = time.perf_counter() - began
        untuned = engine.METHODS[UNTUNED]().learn(backbone, task)
        scored = ship(made, tests[task_id], backbone, untuned)
        found = engine.PromptSet.load(made.name).card["metrics"]
        i = next(m for m in found if m["name"].startswith("balanced_accuracy minus"))
        print(
            f"| {task_id} | {name} | {scored.images} | {100 * scored.metrics['balanced_accuracy'].value:.1f} | "
            f"{100 * i['value']:+.1f} ({100 * i['low']:+.1f} to {100 * i['high']:+.1f}) | {took:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
