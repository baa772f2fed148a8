"""How much a handful of labels gets out of an image tower: 16-shot linear probes on sets that it was never told the classes of.

    python scripts/measure_mini.py --data ../shared/data --folder runs/heldout/model

Five draws of 16 training images a class; features standardised over them; logistic regression; balanced accuracy on the test
split; mean and deviation over the draws. Beside it, with the same draws: a ViT-Ti of random weights and the ImageNet teacher.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import engine
from engine.backbones import _openclip
from scripts.mini_data import MEAN, STD, Item, centred, load
from scripts.mini_words import write_folder
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--towers", type=Path, nargs="*", default=[], help="trained folders, or checkpoints of pretrain_mini.py"
    )
    parser.add_argument("--tasks", nargs="*", default=["busi", "retina", "lc25000_lung"])
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--beside", action="store_true", help="a random tower and the teacher too")
    args = parser.parse_args()
    encoders = {str(path): tower(path) for path in args.towers}
    if args.beside:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder))
            encoders["random tower"] = _openclip.build_model(Path(folder)).visual.eval()
        teacher = Teacher(args.data / "teacher" / "mobilenet_v2", "cpu")
        encoders["ImageNet teacher"] = lambda x: teacher(for_teacher(x))[1]
    rows: dict[str, list[list[float]]] = {name: [] for name in encoders}
    for name in args.tasks:
        task = engine.task(name)
        examples = [e for each in task.data for e in engine.read_examples(args.data / "sets" / each, task)]
        parts = {split: [e for e in examples if e.split == split] for split in ("train", "test")}
        items = {split: [Item(name, 0, 0, load(e.path)[0]) for e in each] for split, each in parts.items()}
        labels = {split: [e.label for e in each] for split, each in parts.items()}
        for key, encode in encoders.items():
            features = {split: encoded(encode, each) for split, each in items.items()}
            rows[key].append(probed(features, labels, args.shots, args.draws))
    print("| tower |", " | ".join(args.tasks), "| mean |")
    print("|---" * (len(args.tasks) + 2) + "|")
    for key, found in rows.items():
        cells = [f"{np.mean(each):.1f} ± {np.std(each, ddof=1):.1f}" for each in found]
        print(f"| {key} |", " | ".join(cells), f"| {np.mean(found):.1f} |", flush=True)


if __name__ == "__main__":
    main()
