"""From a finished training to what the repository ships: weights, prompt sets with their metrics, and the model card.

    python scripts/ship_mini.py --data ../shared/data --work runs/scope-mini

Evaluates on the test splits (in-distribution, no tuning: the backbone was trained on the train splits), writes
assets/backbones/scope-mini/ and learned_prompts/, and prints the table. Knows no method by name: every registered method
that learns from words alone in a moment is made for every task; `ship_sets.py` makes those that are trained.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import engine
from engine.backbones.scope_mini import FOLDER
from engine.prompts import LIBRARY
from scripts.ship_sets import ship, test_sets

LICENCES = {
    "BTMRI": "CC0 (Kaggle compilation), parts CC BY 4.0 or unclear",
    "BUSI": "CC0 (mirror)",
    "COVID_CXR": "unclear (mixed sources), viral pneumonia CC BY 4.0",
    "CTKIDNEY": "unclear (data files (c) original authors)",
    "DERM7": "CC BY-NC 4.0 (ISIC archive, HAM10000)",
    "KNEEXRAY": "CC BY 4.0",
    "LC25000_LUNG": "unclear (authors ask for a citation)",
    "MEDMNIST_MODALITY": "CC BY-SA 4.0",
    "OCT_MINI": "CC BY 4.0",
    "OCT_SRF": "unclear",
    "PNEUMONIA_CXR": "CC BY 4.0",
    "RETINA": "ODbL (compilation), sources for research",
}
SHIPPED = ["open_clip_config.json", "open_clip_model.safetensors", "text_config.json", "tokenizer.json"]
SHIPPED += ["tokenizer_config.json", "training.json", "log.jsonl"]


def said(found: engine.Evaluation, name: str, scale: float = 100) -> str:
    i = found.metrics[name]
    return f"{scale * i.value:.1f} ({scale * i.low:.1f} to {scale * i.high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/scope-mini"))
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.work / "log.jsonl", args.work / "model" / "log.jsonl")
    for name in SHIPPED:
        shutil.copyfile(args.work / "model" / name, FOLDER / name)
        (FOLDER / name).chmod(0o644)  # safetensors writes 0600
    backbone = engine.load_backbone("scope-mini")
    for old in LIBRARY.glob("*-scope-mini"):
        if json.loads((old / "card.json").read_text())["method"]["name"] in engine.instant():
            shutil.rmtree(old)
    tests = test_sets(args.data, backbone)
    rows = []
    for task_id in tests:
        for method in engine.instant():
            scored = ship(engine.METHODS[method]().learn(backbone, engine.task(task_id)), tests[task_id], backbone)
            rows.append(
                f"| {task_id} | {method} | {scored.images} | {100 * scored.chance:.1f} | "
                f"{said(scored, 'accuracy')} | {said(scored, 'balanced_accuracy')} | {said(scored, 'auroc')} |"
            )
            print(rows[-1], flush=True)
    write_card(backbone, rows)
    print("Now make the learned sets again: python scripts/ship_sets.py --data", args.data)


def write_card(backbone: engine.Backbone, rows: list[str]) -> None:
    about = json.loads((FOLDER / "training.json").read_text())
    log = [json.loads(line) for line in (FOLDER / "log.jsonl").read_text().splitlines()]
    counts = about["counts"]
    size = (FOLDER / "open_clip_model.safetensors").stat().st_size / 1e6
    sets = [
        f"| {folder} | {t.modality} | {counts['train'].get(t.id, 0)} | {counts['val'].get(t.id, 0)} | {LICENCES[folder]} |"
        for t in engine.tasks().values()
        for folder in t.data
    ]
    curve = [
        f"| {x['step']} | {x['loss']} | {100 * np.mean([v for k, v in x['val'].items() if k != 'modality']):.1f} | "
        f"{100 * x['val']['modality']:.1f} |"
        for x in log
        if "val" in x
    ]
    newline = "\n"
    (FOLDER / "README.md").write_text(f"""# scope-mini, version 1

A compact CLIP of BiomedCLIP's shape, trained by the PromptScope project: timm ViT-Ti/16 at 224 (14 x 14 patches), a
BERT-style text tower of 4 layers with its own WordPiece tokenizer, an MLP projection, 256 joint dimensions. It is what a
fresh machine runs, so that the page, the tests and the demos work where no model hub can be reached.

**For demonstration, tests and research only. Not a medical device, not for diagnosis.** It is small, it saw few images of
few sources, and it says nothing reliable about a patient.

- Weights: float16 safetensors, {size:.1f} MB. Weights hash: `{backbone.weights_hash}`.
- Licence of the weights: CC BY-NC 4.0, see LICENSE in this folder, because the training data hold DERM7 (ISIC,
  non-commercial). The code of the repository is Apache-2.0.
- Made by: `python scripts/pretrain_mini.py` ({about["pretrained_steps"]} steps without labels), `python scripts/train_mini.py`
  ({about["text_steps"]} text steps, then {about["steps"]} image steps of {about["batch"]} images, AdamW, learning rate {about["lr"]},
  seed {about["seed"]}), then `python scripts/ship_mini.py`. The exact numbers of training are in training.json and log.jsonl.
  The tokenizer's training breaks ties by chance, so that a re-made tokenizer differs in a few pieces: tokenizer.json is
  part of the weights and of their hash.
- An ImageNet MobileNetV2 (Apache-2.0, google-coral) was the teacher of the image tower; nothing of it is in here.

## Numbers: in-distribution, no tuning

Test splits, groups (patients, lesions, near duplicates) apart from training; {counts["dropped_near_duplicates"]} training
images were dropped because they, or a child in them, also stand in a validation or test split of any set. Values in
per cent with 95 % bootstrap intervals over groups (1000 resamples). Chance is one over the number of classes.

| task | prompt set | images | chance | accuracy | balanced accuracy | AUROC |
|---|---|---|---|---|---|---|
{newline.join(rows)}

The row `modality` asks of every test image of all sets which kind of image it is. OCT has 26 test images in all: its
figures are a demonstration. Sets and their known shortcuts are in assets/tasks.json; each accuracy should be read with them.
CTKIDNEY holds very few patients, so its accuracy says little.

## Training data

| set | modality | train | val | licence of the data, as far as known |
|---|---|---|---|---|
{newline.join(sets)}

Captions: the description banks of assets/descriptions (written for this project) and templates with modality, organ,
synonyms and attributes.

## Validation while training (averaged weights, one template a task)

| step | loss | mean balanced accuracy of the tasks | modality |
|---|---|---|---|
{newline.join(curve)}

## Limits

No calibration is fitted. Classes outside the training sets, other scanners, children where it saw adults, photographs of
screens and annotated images are outside what it knows; it answers all the same. No fairness analysis was possible: the
sets carry no demographics.
""")


if __name__ == "__main__":
    main()
