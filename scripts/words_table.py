"""Writes the table of words into docs/results.md: accuracy without any tuning, by how the classes are written.

    python scripts/words_table.py --data ../shared/data                                   (every set that is there)
    python scripts/words_table.py --data ../shared/data --backbone local-dir:runs/heldout/model --tasks busi retina lc25000_lung
    ... --bank masked-lm=banks        (one column more: attribute prompts of the banks in a file or folder)

Balanced accuracy and AUROC on the test splits, with 95 % intervals over groups; nothing is chosen on these images. One section
of docs/results.md for each backbone, between markers; another backbone's stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import engine

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "results.md"
ATTRIBUTE, ENSEMBLE = "attribute-prompts", "description-ensemble"
Scored = tuple[int, int, dict[str, engine.Evaluation], dict[str, engine.Interval]]
METRICS = {"balanced_accuracy": "Balanced accuracy", "auroc": "AUROC"}


def columns(
    task: engine.Task, banks: dict[str, dict[str, engine.Task]]
) -> dict[str, tuple[engine.Task, str, dict[str, Any]]]:
    """By heading: the task with its words, the method and its options."""
    found: dict[str, tuple[engine.Task, str, dict[str, Any]]] = {
        "task's sentence": (task, "zero-shot", {"template": ""}),  # not the papers' for the data set
        "class name": (task, ATTRIBUTE, {"slots": ""}),
    }
    found |= {f"{name} name": (task, ATTRIBUTE, {"slots": "", "name": name}) for name in engine.NAMES}
    found["attributes"] = (task, ATTRIBUTE, {})
    found |= {f"attributes, {name} name": (task, ATTRIBUTE, {"name": name}) for name in engine.NAMES}
    found["attributes, paper's template"] = (task, ATTRIBUTE, {"faithful": True})
    found["attributes, paper's template, lay name"] = (task, ATTRIBUTE, {"faithful": True, "name": "lay"})
    found["descriptions"] = (task, ENSEMBLE, {})
    for name, tasks in banks.items():
        if task.id in tasks:
            found[f"attributes by {name}"] = (tasks[task.id], ATTRIBUTE, {})
    return found


def shown(interval: engine.Interval) -> str:
    return f"{100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def scored(task: engine.Task, data: Path, backbone: engine.Backbone, banks: dict[str, dict[str, engine.Task]]) -> Scored:
    """(images, groups, evaluations by heading, difference in balanced accuracy from the class name)."""
    examples = [e for folder in task.data for e in engine.read_examples(data / "sets" / folder, task, "test")]
    features = engine.features_of(examples, backbone, store=engine.Store())
    made = {
        heading: engine.evaluate(examples, backbone, engine.method(method, **options).learn(backbone, of), features)
        for heading, (of, method, options) in columns(task, banks).items()
    }
    plain = made["class name"]
    more = {
        heading: engine.paired_difference(
            each.truth, plain.probabilities, each.probabilities, each.unit_names, "balanced_accuracy"
        )
        for heading, each in made.items()
    }
    return plain.images, plain.units, made, more


def section(backbone: engine.Backbone, rows: dict[str, Scored]) -> str:
    name = backbone.id.rsplit("/", 1)[-1]
    lines = [f"### {name} (weights hash {backbone.weights_hash[:12]}, {backbone.dtype})", ""]
    for metric, title in METRICS.items():
        lines += [f"{title} in per cent, 95 % intervals over groups:", ""]
        lines += ["| words | " + " | ".join(f"{t} ({n} images, {u} groups)" for t, (n, u, *_) in rows.items()) + " |"]
        lines += ["|---" * (1 + len(rows)) + "|"]
        for heading in dict.fromkeys(h for _, _, made, _ in rows.values() for h in made):
            cells = [shown(made[heading].metrics[metric]) if heading in made else "" for _, _, made, _ in rows.values()]
            lines.append(f"| {heading} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["Balanced accuracy minus the class name's alone, paired, in points:", ""]
    lines += ["| words | " + " | ".join(rows) + " |", "|---" * (1 + len(rows)) + "|"]
    for heading in dict.fromkeys(h for *_, more in rows.values() for h in more if h != "class name"):
        by = [more.get(heading) for *_, more in rows.values()]
        cells = [f"{100 * i.value:+.1f} ({100 * i.low:+.1f} to {100 * i.high:+.1f})" if i else "" for i in by]
        lines.append(f"| {heading} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def put(text: str, name: str, document: Path = DOCUMENT) -> None:
    """Between this backbone's markers, which are added at the end where there are none."""
    first, last = f"<!-- words_table.py: {name} -->", f"<!-- end of words_table.py: {name} -->"
    before, found, rest = document.read_text(encoding="utf-8").partition(first)
    after = rest.partition(last)[2] if found else "\n"
    before = before if found else before.rstrip() + "\n\n"
    document.write_text(f"{before}{first}\n\n{text}\n\n{last}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="scope-mini")
    parser.add_argument("--tasks", nargs="*", default=[], help="default: every task whose data are there")
    parser.add_argument("--bank", nargs="*", default=[], metavar="NAME=FILE|FOLDER")
    args = parser.parse_args()
    banks = {name: engine.tasks_with(place) for name, _, place in (each.partition("=") for each in args.bank)}
    backbone = engine.load_backbone(args.backbone)
    there = [t.id for t in engine.tasks().values() if t.data and all((args.data / "sets" / f).is_dir() for f in t.data)]
    rows = {}
    for name in args.tasks or there:
        rows[name] = scored(engine.task(name), args.data, backbone, banks)
        for heading, each in rows[name][2].items():
            print(f"{name:18} {heading:32} {shown(each.metrics['balanced_accuracy'])}", flush=True)
    put(section(backbone, rows), backbone.id.rsplit("/", 1)[-1])


if __name__ == "__main__":
    main()
