"""What the model card says of transfer, of classes left out and of calibration, into a file that ship_mini.py reads.

    python scripts/measure_mini.py --data ../shared/data --towers runs/heldout/model --beside --heldout runs/heldout/model \\
        --novel runs/novel/model --shipped runs/scope-mini/model

Probes: five draws of 16 training images a class; features standardised over them; logistic regression; balanced accuracy on
the test split. With the same draws: a ViT-Ti of random weights and the ImageNet teacher.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import engine
from engine.backbones import _openclip
from engine.data import unit
from engine.evaluate import mean_with_interval
from scripts.mini_data import MEAN, STD, Item, centred, load, say
from scripts.mini_words import UNREAD_DENIALS, UNREAD_SENTENCES, write_folder
from scripts.pretrain_mini import Teacher

Encode = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def encoded(encode: Encode, items: list[Item]) -> np.ndarray:
    return torch.cat([encode(centred(items[i : i + 64])).float() for i in range(0, len(items), 64)]).numpy()


def probed(features: dict[str, np.ndarray], labels: dict[str, list[str]], shots: int, draws: int) -> list[float]:
    """Balanced accuracy of each draw, in per cent."""
    found = []
    for draw in range(draws):
        rng = random.Random(draw)
        rows = [
            i
            for c in sorted(set(labels["train"]))
            for i in rng.sample([k for k, of in enumerate(labels["train"]) if of == c], shots)
        ]
        scale = StandardScaler().fit(features["train"][rows])
        fitted = LogisticRegression(max_iter=2000).fit(
            scale.transform(features["train"][rows]), [labels["train"][i] for i in rows]
        )
        found.append(100 * balanced_accuracy_score(labels["test"], fitted.predict(scale.transform(features["test"]))))
    return found


def tower(path: Path) -> Encode:
    """The image tower of a written folder, or the averaged one of a checkpoint of pretrain_mini.py."""
    folder = path if path.is_dir() else path.parent / "model"
    visual: Any = _openclip.build_model(folder).visual
    if path.is_dir():
        weights = _openclip.read_weights(_openclip.weights_file(folder))
    else:
        weights = torch.load(path, weights_only=True, map_location="cpu")["average"]
    visual.load_state_dict({k.removeprefix("visual."): v for k, v in weights.items() if k.startswith("visual.")})
    return visual.eval()


def for_teacher(x: torch.Tensor) -> torch.Tensor:
    """Normalised as for a tower -> [-1, 1]."""
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return (x * deviation + mean) * 2 - 1


def probes(data: Path, encoders: dict[str, Encode], names: list[str], shots: int, draws: int) -> dict[str, Any]:
    """Balanced accuracy in per cent of each draw, by tower and task."""
    rows: dict[str, dict[str, list[float]]] = {key: {} for key in encoders}
    for name in names:
        parts = {split: examples_of(data, name, split) for split in ("train", "test")}
        items = {split: [Item(name, 0, 0, load(e.path)[0]) for e in each] for split, each in parts.items()}
        labels = {split: [e.label for e in each] for split, each in parts.items()}
        for key, encode in encoders.items():
            features = {split: encoded(encode, each) for split, each in items.items()}
            rows[key][name] = probed(features, labels, shots, draws)
            say(key, name, np.round(rows[key][name], 1))
    return rows


def examples_of(data: Path, name: str, split: str) -> list[engine.Example]:
    task = engine.task(name)
    return [e for folder in task.data for e in engine.read_examples(data / "sets" / folder, task, split)]


def numbers(interval: engine.Interval) -> list[float]:
    return [round(float(each), 4) for each in (interval.value, interval.low, interval.high)]


def untuned(data: Path, backbone: engine.Backbone, names: list[str]) -> dict[str, Any]:
    """Balanced accuracy and AUROC with intervals of what learns from words alone, by task and method."""
    rows: dict[str, Any] = {}
    for name in names:
        tests = examples_of(data, name, "test")
        features = engine.features_of(tests, backbone)
        for method in engine.instant():
            made = engine.METHODS[method]().learn(backbone, engine.task(name))
            scored = engine.evaluate(tests, backbone, made, features)
            rows.setdefault(name, {})[method] = {k: numbers(scored.metrics[k]) for k in ("balanced_accuracy", "auroc")}
            rows[name]["images"], rows[name]["chance"] = scored.images, scored.chance
            say(name, method, rows[name][method])
    return rows


def tuned(data: Path, backbone: engine.Backbone, names: list[str], method: str, shots: int, draws: int) -> dict[str, Any]:
    """Balanced accuracy of a method at its paper's options: the mean over draws with its interval over test images, and the draws."""
    rows = {}
    for name in names:
        task, tests = engine.task(name), examples_of(data, name, "test")
        features, examples = engine.features_of(tests, backbone), examples_of(data, name, "train")
        runs = [
            engine.evaluate(
                tests,
                backbone,
                engine.tune(engine.method(method, name), backbone, task, examples, shots, seed),
                features,
            )
            for seed in range(1, draws + 1)
        ]
        mean = mean_with_interval(
            runs[0].truth, [each.probabilities for each in runs], runs[0].unit_names, "balanced_accuracy"
        )
        each_draw = [round(each.metrics["balanced_accuracy"].value, 4) for each in runs]
        rows[name] = {"mean": numbers(mean), "draws": each_draw}
        say(method, name, rows[name])
    return rows


def calibration(data: Path, backbone: engine.Backbone, names: list[str]) -> dict[str, Any]:
    """ECE (15 bins) of the zero-shot set on the test split, before and after one temperature that is fitted on the val split."""
    rows = {}
    for name in names:
        task = engine.task(name)
        made = engine.METHODS["zero-shot"]().learn(backbone, task)
        fitted_on, tests = examples_of(data, name, "val"), examples_of(data, name, "test")
        scores = made.scores(engine.features_of(fitted_on, backbone))
        truth = np.array([task.names.index(e.label) for e in fitted_on])

        def loss(log_t: float, scores: np.ndarray = scores, truth: np.ndarray = truth) -> float:
            return float(-log_softmax(scores / np.exp(log_t), axis=1)[np.arange(len(truth)), truth].mean())

        temperature = float(np.exp(minimize_scalar(loss, bounds=(-3, 5), method="bounded").x))
        features = engine.features_of(tests, backbone)
        scaled = replace(made, card=made.card | {"temperature": temperature})
        before, after = (engine.evaluate(tests, backbone, each, features).metrics["ece"] for each in (made, scaled))
        rows[name] = {"temperature": round(temperature, 3), "before": numbers(before), "after": numbers(after)}
        rows[name]["images"] = len(tests)
        say(name, rows[name])
    return rows


def novel(data: Path, backbone: engine.Backbone, left_out: dict[str, list[str]]) -> dict[str, Any]:
    """Base-to-novel (CoCoOp, section 4.1): test images of the classes that were learned, among them; of those that were left
    out, among those. Balanced accuracy, by task, method and side."""
    rows: dict[str, Any] = {}
    for name, away in left_out.items():
        task = engine.task(name)
        tests = examples_of(data, name, "test")
        features = engine.features_of(tests, backbone)
        for method in ("zero-shot", "description-ensemble"):
            made = engine.METHODS[method]().learn(backbone, task)
            probabilities = made.probabilities(features)
            for side in ("base", "novel"):
                kept = [c for c in task.names if (c in away) == (side == "novel")]
                columns = [task.names.index(c) for c in kept]
                at = [i for i, e in enumerate(tests) if e.label in kept]
                truth, units = np.array([kept.index(tests[i].label) for i in at]), [unit(tests[i]) for i in at]
                among = probabilities[np.ix_(at, columns)]
                found = mean_with_interval(truth, [among / among.sum(axis=1, keepdims=True)], units, "balanced_accuracy")
                rows.setdefault(name, {}).setdefault(method, {})[side] = numbers(found)
                rows[name].setdefault("classes", {})[side] = kept
        say(name, rows[name])
    return rows


def language(data: Path, backbone: engine.Backbone, names: list[str]) -> dict[str, Any]:
    """Balanced accuracy by each class's sentences that no caption used, beside as many that captions did use; and by denials that
    no caption used, where the class whose denial fits least is the answer."""
    rows: dict[str, Any] = {}
    for name in names:
        task, tests = engine.task(name), examples_of(data, name, "test")
        features, bank = engine.features_of(tests, backbone), engine.descriptions(name).classes
        truth, units = np.array([task.names.index(e.label) for e in tests]), [unit(e) for e in tests]
        texts = {
            "unread": [bank[label].sentences[-UNREAD_SENTENCES:] for label in task.names],
            "read": [bank[label].sentences[:UNREAD_SENTENCES] for label in task.names],
            "denials": [bank[label].negatives[-UNREAD_DENIALS:] for label in task.names],
        }
        for kind, by_class in texts.items():
            means = torch.stack([backbone.encode_texts(list(each)).mean(0) for each in by_class])
            scores = features @ torch.nn.functional.normalize(means, dim=1).numpy().T
            answers = np.eye(len(task.names))[(scores.argmin(1) if kind == "denials" else scores.argmax(1))]
            found = mean_with_interval(truth, [answers], units, "balanced_accuracy")
            rows.setdefault(name, {"images": len(tests), "chance": 1 / len(task.names)})[kind] = numbers(found)
        say(name, rows[name])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/measured.json"), help="what was measured before stays in it")
    parser.add_argument(
        "--towers", type=Path, nargs="*", default=[], help="probes of folders or of pretrain_mini.py's checkpoints"
    )
    parser.add_argument("--beside", action="store_true", help="probes of a random tower and of the teacher too")
    parser.add_argument(
        "--heldout", type=Path, default=None, help="folder: untuned and CoOp on sets whose classes it never read"
    )
    parser.add_argument("--novel", type=Path, default=None, help="folder of a training with classes left out")
    parser.add_argument("--shipped", type=Path, default=None, help="folder: calibration and unread sentences on every set")
    parser.add_argument("--tasks", nargs="*", default=["busi", "retina", "lc25000_lung"])
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.is_file() else {}
    encoders = {str(path): tower(path) for path in args.towers}
    if args.beside:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder))
            encoders["random tower"] = _openclip.build_model(Path(folder)).visual.eval()
        teacher = Teacher(args.data, "cpu")
        encoders["ImageNet teacher"] = lambda x: teacher(for_teacher(x))[1]
    if encoders:
        found["probes"] = found.get("probes", {}) | probes(args.data, encoders, args.tasks, args.shots, args.draws)
    if args.heldout:
        backbone = engine.load_backbone(f"local-dir:{args.heldout}")
        found["heldout"] = {"weights_hash": backbone.weights_hash, "untuned": untuned(args.data, backbone, args.tasks)}
        found["heldout"]["coop"] = tuned(args.data, backbone, args.tasks, "coop", args.shots, args.draws)
    if args.novel:
        backbone = engine.load_backbone(f"local-dir:{args.novel}")
        left_out: dict[str, list[str]] = {}
        for each in json.loads((args.novel / "training.json").read_text())["left_out"]:
            name, _, label = each.partition(":")
            left_out.setdefault(name, []).append(label)
        found["novel"] = {"weights_hash": backbone.weights_hash, "sets": novel(args.data, backbone, left_out)}
    if args.shipped:
        backbone = engine.load_backbone(f"local-dir:{args.shipped}")
        every = [name for name, task in engine.tasks().items() if task.data]
        found["calibration"] = {"weights_hash": backbone.weights_hash, "sets": calibration(args.data, backbone, every)}
        found["language"] = language(args.data, backbone, [name for name in every if name != "medmnist_modality"])
    args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
