"""Parity and speed of exported image towers beside torch, every architecture in every precision: docs/onnx.md's table.

    OMP_NUM_THREADS=1 python scripts/measure_onnx.py [--calibrate FOLDER] [ARCHITECTURE ...]

scope-mini has its own weights, the others random ones of their full size (engine/backbones/_random.py). Times are medians of
rounds in which torch and ONNX Runtime take turns, on as many threads as OMP_NUM_THREADS says. Exports go to a folder that is
deleted.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import engine
from engine.backbones import _onnx, _onnx_export, _random
from engine.backbones.biomedclip import TEXT_CONFIG
from engine.backbones.scope_mini import FOLDER as MINI
from engine.bench import medians
from engine.exporting import calibrated_on, compared_on


def clip(name: str) -> Callable[[Path], Path]:
    return lambda folder: _random.write(folder, open_clip.get_model_config(name))


def pmc_clip(folder: Path) -> Path:
    os.environ["PROMPTSCOPE_PMC_CLIP"] = str(_random.write_pmc_clip(folder, MINI / "tokenizer.json", TEXT_CONFIG))
    return folder


ARCHITECTURES: dict[str, tuple[str, Callable[[Path], Path] | None]] = {
    "scope-mini": ("scope-mini, timm ViT of 12 x 192", None),
    "biomedclip": (
        "BiomedCLIP, timm ViT-B/16",
        lambda folder: _random.write_biomedclip(folder, MINI / "tokenizer.json", TEXT_CONFIG),
    ),
    "clip-vit-b16": ("CLIP ViT-B/16", clip("ViT-B-16-quickgelu")),
    "clip-vit-b32": ("CLIP and PubMedCLIP ViT-B/32", clip("ViT-B-32-quickgelu")),
    "pmc-clip": ("PMC-CLIP, CLIP's ResNet-50", pmc_clip),
    "pmc-clip-l14": ("PMC-CLIP ViT-L/14", clip("ViT-L-14")),
}


def loaded(name: str, folder: Path, precision: str) -> Any:
    made = name if name in ("scope-mini", "pmc-clip") else f"local-dir:{folder}"
    return engine.load_backbone(made, dtype=precision)


def rows(name: str, place: Path, calibrate: Path | None, rounds: int) -> None:
    title, write = ARCHITECTURES[name]
    folder = place / name
    if write:
        write(folder)
    backbone = loaded(name, folder, "float32")
    images, on = compared_on(backbone.preprocess)
    asked: list[tuple[str, np.ndarray | None]] = [("fp32", None), ("fp16", None), ("int8", None)]
    if calibrate:
        asked.append(("int8", calibrated_on(calibrate, backbone.preprocess)))
    towers, found = [], []
    for precision, given in asked:
        out = place / f"{name}-{precision}-{given is not None}"
        try:
            made = _onnx_export.export(backbone, precision, images, on, "", out, given)
        except engine.EngineError as error:
            print(f"| {title} | {precision} | {error} |", flush=True)
            continue
        towers.append(_onnx.OnnxTower(made, "cpu"))
        found.append(made)
    halved = loaded(name, folder, "bfloat16")
    taken = []
    for batch in (1, 8):
        x = images[:batch]
        as_tensor = torch.from_numpy(x)

        def by_torch(model: Any, x: torch.Tensor = as_tensor) -> Callable[[], Any]:
            def forward() -> None:
                with torch.no_grad():
                    model.encode_images(x)

            return forward

        ours = [lambda each=each, x=x: each.encode_arrays(x) for each in towers]
        taken.append(medians(by_torch(backbone), by_torch(halved), *ours, rounds=rounds))
    one, eight = ([1e3 * t for t in each] for each in taken)
    print(f"| {title} | torch float32 | | | | | {one[0]:.0f} | {eight[0]:.0f} | 1 | 1 |")
    print(
        f"| | torch bfloat16 | | | | | {one[1]:.0f} | {eight[1]:.0f} | {one[0] / one[1]:.2f} | {eight[0] / eight[1]:.2f} |"
    )
    for i, made in enumerate(found, start=2):
        p, card = made.card["parity"], made.card
        patches = f"{p['cosine']['patches']:.6f}" if "patches" in p["cosine"] else ""
        how = f" {card['quantization']}" if card["quantization"] else ""
        print(
            f"| | {card['precision']}{how}, {made.size / 1e6:.0f} MB | {p['cosine']['features']:.6f} | {patches} "
            f"| {p['attention_apart']:.1e} | {p['top1_agreement']:.0%} | {one[i]:.0f} | {eight[i]:.0f} "
            f"| {one[0] / one[i]:.2f} | {eight[0] / eight[i]:.2f} |",
            flush=True,
        )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("architectures", nargs="*", metavar="ARCHITECTURE", help=", ".join(ARCHITECTURES))
    asked.add_argument("--calibrate", type=Path, default=None, help="a folder of images, for static int8 as well")
    asked.add_argument("--rounds", type=int, default=5)
    given = asked.parse_args()
    print(f"torch {torch.__version__}, ONNX Runtime on {_onnx.threads()} threads, torch on {torch.get_num_threads()}")
    print(
        "| tower | precision, size of the file | cosine of features, least | of patches, least | attention, largest difference | top-1 as torch "
        "| ms a batch of 1 | of 8 | times torch float32, 1 | 8 |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in given.architectures or ARCHITECTURES:
        with tempfile.TemporaryDirectory() as place:
            rows(name, Path(place), given.calibrate, given.rounds)
        gc.collect()


if __name__ == "__main__":
    main()
