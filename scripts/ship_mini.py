"""From a finished training to what the repository ships: weights and the model card. Then `ship_sets.py` makes the prompt sets.

    python scripts/ship_mini.py --data ../shared/data --work runs/scope-mini --measured runs/measured.json --maps runs/maps.json

Evaluates on the test splits (in-distribution, no tuning: the backbone was trained on the train splits), writes
assets/backbones/scope-mini/, and prints the table. What measure_mini.py and measure_maps.py found goes into the
card. Knows no method by name: every registered method that learns from words alone in a moment is measured for every task.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import engine
from engine.backbones.scope_mini import FOLDER
from scripts.ship_sets import test_sets

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
SHIPPED += ["tokenizer_config.json", "training.json", "log.jsonl", "first.jsonl"]


def said(found: engine.Evaluation, name: str, scale: float = 100) -> str:
    i = found.metrics[name]
    return f"{scale * i.value:.1f} ({scale * i.low:.1f} to {scale * i.high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/scope-mini"))
    parser.add_argument("--pretrained", type=Path, default=Path("runs/pretrained"), help="folder of the first training")
    parser.add_argument("--measured", type=Path, default=Path("runs/measured.json"), help="of measure_mini.py")
    parser.add_argument("--maps", type=Path, default=Path("runs/maps.json"), help="of measure_maps.py")
    args = parser.parse_args()
    install(args.work, args.pretrained)
    backbone = engine.load_backbone("scope-mini")
    tests = test_sets(args.data, backbone)
    rows, plain = [], {}
    for task_id in tests:
        for method in engine.instant():
            made, tested = engine.METHODS[method]().learn(backbone, engine.task(task_id)), tests[task_id]
            scored = engine.evaluate(tested.examples, backbone, made, tested.features)
            rows.append(
                f"| {task_id} | {method} | {scored.images} | {100 * scored.chance:.1f} | "
                f"{said(scored, 'accuracy')} | {said(scored, 'balanced_accuracy')} | {said(scored, 'auroc')} |"
            )
            print(rows[-1], flush=True)
            if method == "zero-shot":
                plain[task_id] = scored
    write_card(backbone, rows, plain, json.loads(args.measured.read_text()), json.loads(args.maps.read_text()))
    print("Now make the prompt sets again: python scripts/ship_sets.py --data", args.data)


def install(work: Path, pretrained: Path) -> None:
    """The files of a training, and the weights' hash in training.json, which loading compares with the weights."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copy(work / "log.jsonl", work / "model" / "log.jsonl")
    shutil.copy(pretrained / "log.jsonl", work / "model" / "first.jsonl")
    for name in SHIPPED:
        shutil.copyfile(work / "model" / name, FOLDER / name)
        (FOLDER / name).chmod(0o644)  # safetensors writes 0600
    place = FOLDER / "training.json"
    found = engine.load_backbone(f"local-dir:{FOLDER}").weights_hash
    place.write_text(json.dumps(json.loads(place.read_text()) | {"weights_hash": found}, indent=1))


def of(interval: list[float]) -> str:
    value, low, high = (100 * each for each in interval)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def gates(plain: dict[str, engine.Evaluation]) -> str:
    """What zero-shot reaches over the sets with 100 test images or more, in a sentence. plain : by task."""
    sets = {name: each for name, each in plain.items() if each.images >= 100 and name != "modality"}
    above = {name: each.metrics["balanced_accuracy"].value - each.chance for name, each in sets.items()}
    low = [name for name, each in sets.items() if each.metrics["balanced_accuracy"].low <= each.chance]
    chance = (
        f"not above chance by its lower bound: {', '.join(low)}" if low else "the lower 95 % bound of each is above chance"
    )
    return (
        f"Over the {len(sets)} sets with 100 test images or more, zero-shot's balanced accuracy is on average "
        f"{100 * np.mean(list(above.values())):.1f} points above chance; {chance}. The kind of image is right in "
        f"{said(plain['modality'], 'accuracy')} %."
    )


# 16-shot probes of HOG features by the protocol of measure_mini.py, as the data's owner measured them.
HOG = {"busi": "49.9 ± 5.1", "retina": "56.7 ± 2.0", "lc25000_lung": "48.5 ± 3.2"}


def transfer(measured: dict[str, Any]) -> str:
    """The tables of scope-mini-heldout."""
    heldout, probes = measured["heldout"], measured["probes"]
    names = list(heldout["untuned"])
    lines = [
        "| no tuning | images | chance | " + " | ".join(engine.instant()) + " |",
        "|---" * (3 + len(engine.instant())) + "|",
    ]
    for name, each in heldout["untuned"].items():
        cells = [of(each[method]["balanced_accuracy"]) for method in engine.instant()]
        lines.append(f"| {name} | {each['images']} | {100 * each['chance']:.1f} | " + " | ".join(cells) + " |")
    lines += ["", "| 16 shots, five draws | " + " | ".join(names) + " | mean |", "|---" * (2 + len(names)) + "|"]
    for tower, by in probes.items():
        cells = [f"{np.mean(by[n]):.1f} ± {np.std(by[n], ddof=1):.1f}" for n in names]
        title = "scope-mini-heldout" if "heldout" in tower else "first training alone" if tower.endswith(".pt") else tower
        lines.append(f"| linear probe: {title} | " + " | ".join(cells) + f" | {np.mean([by[n] for n in names]):.1f} |")
    hog = np.mean([float(HOG[n].split()[0]) for n in names])
    lines.append("| linear probe: HOG | " + " | ".join(HOG[n] for n in names) + f" | {hog:.1f} |")
    coop = heldout["coop"]
    mean = 100 * np.mean([coop[n]["mean"][0] for n in names])
    lines.append("| CoOp on scope-mini-heldout | " + " | ".join(of(coop[n]["mean"]) for n in names) + f" | {mean:.1f} |")
    return "\n".join(lines)


def left_out(measured: dict[str, Any]) -> str:
    lines = ["| set | classes left out | method | learned classes | left-out classes | harmonic mean |", "|---" * 6 + "|"]
    for name, each in measured["novel"]["sets"].items():
        for method in ("zero-shot", "description-ensemble"):
            base, novel = each[method]["base"], each[method]["novel"]
            both = 200 * base[0] * novel[0] / max(base[0] + novel[0], 1e-9)
            away = ", ".join(each["classes"]["novel"])
            lines.append(f"| {name} | {away} | {method} | {of(base)} | {of(novel)} | {both:.1f} |")
    return "\n".join(lines)


def language(measured: dict[str, Any]) -> str:
    lines = ["| task | images | chance | sentences read | sentences never read | denials never read |", "|---" * 6 + "|"]
    for name, each in measured["language"].items():
        cells = " | ".join(of(each[kind]) for kind in ("read", "unread", "denials"))
        lines.append(f"| {name} | {each['images']} | {100 * each['chance']:.1f} | {cells} |")
    return "\n".join(lines)


def calibrated(measured: dict[str, Any]) -> str:
    lines = ["| task | images | ECE | temperature | ECE after |", "|---" * 5 + "|"]
    for name, each in measured["calibration"]["sets"].items():
        lines.append(
            f"| {name} | {each['images']} | {of(each['before'])} | {each['temperature']:.2f} | {of(each['after'])} |"
        )
    return "\n".join(lines)


def pointed(maps: dict[str, Any]) -> str:
    lines = ["| map | pointing | energy |", "|---" * 3 + "|"]
    lines += [f"| {name} | {of(each['pointing'])} | {of(each['energy'])} |" for name, each in maps["maps"].items()]
    return "\n".join(lines)


def plot(first: list[dict[str, Any]], log: list[dict[str, Any]]) -> None:
    """The first training's unexplained share, then loss and validation of the second, into curves.png."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
    for name, colour in (("pooled", "#0f766e"), ("places", "#b45309")):
        left.plot([x["step"] for x in first], [x[name] for x in first], color=colour, label=name)
    left.set(xlabel="step without labels", ylabel="share of the teacher that is not explained")
    left.legend(fontsize=7)
    middle.plot([x["step"] for x in log], [x["loss"] for x in log], color="#0f766e")
    middle.set(xlabel="step with captions", ylabel="loss against captions")
    checked = [x for x in log if "val" in x]
    colours = matplotlib.colormaps["tab20"].resampled(20)(range(20))
    for name, colour in zip(checked[-1]["val"], colours, strict=False):
        values = [100 * x["val"][name] for x in checked]
        right.plot([x["step"] for x in checked], values, label=name, color=colour, marker="o", markersize=3, linewidth=1)
    right.set(xlabel="step with captions", ylabel="balanced accuracy on val, %", ylim=(0, 102))
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(FOLDER / "curves.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def write_card(
    backbone: engine.Backbone,
    rows: list[str],
    plain: dict[str, engine.Evaluation],
    measured: dict[str, Any],
    maps: dict[str, Any],
) -> None:
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
    plot([json.loads(line) for line in (FOLDER / "first.jsonl").read_text().splitlines()], log)
    newline, heldout = "\n", measured["heldout"]["weights_hash"]
    if measured["calibration"]["weights_hash"] != backbone.weights_hash or maps["weights_hash"] != backbone.weights_hash:
        raise SystemExit("Calibration or maps were measured on other weights. Measure them again.")
    (FOLDER / "README.md").write_text(f"""# scope-mini, version 2

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
  seed {about["seed"]}), then `python scripts/ship_mini.py`. The exact numbers of training are in training.json, first.jsonl and log.jsonl.
  The tokenizer's training breaks ties by chance, so that a re-made tokenizer differs in a few pieces: tokenizer.json is
  part of the weights and of their hash.
- Speed: 15.5 ms an image in the default precision (`mini_tower_ms` of `python -m engine bench`, 2 cores of an AMD EPYC with AVX512-BF16; version 1, of the same shape).
- An ImageNet MobileNetV2 (Apache-2.0, google-coral) was the teacher of the image tower; nothing of it is in here.

## Numbers: in-distribution, no tuning

Test splits, groups (patients, lesions, near duplicates) apart from training; {counts["dropped_near_duplicates"]} training
images were dropped because they, or a child in them, also stand in a validation or test split of any set. Values in
per cent with 95 % bootstrap intervals over groups (1000 resamples). Chance is one over the number of classes.

| task | prompt set | images | chance | accuracy | balanced accuracy | AUROC |
|---|---|---|---|---|---|---|
{newline.join(rows)}

{gates(plain)}

The row `modality` asks of every test image of all sets which kind of image it is. OCT has 26 test images in all: its
figures are a demonstration. Sets and their known shortcuts are in assets/tasks.json; each accuracy should be read with them.
CTKIDNEY holds very few patients, so its accuracy says little.

### Calibration

Expected calibration error of zero-shot (15 bins), in per cent, before and after one temperature fitted on each set's val split.
Nothing of it is built in: another set needs its own. Resampling makes this error larger, so that an interval can begin above its value.
Where val is small the temperature is no help, or is at the end of the range that is searched (148.41, on four images).

{calibrated(measured)}

## Numbers: what carries to other tasks (scope-mini-heldout)

The same recipe, but the images of BUSI, RETINA and LC25000_LUNG had captions of modality and organ only, and nothing of their val and
test splits was seen: a hospital's own task. These weights are not in the repository: hash `{heldout}`, command
`make mini-heldout DATA=...`. Balanced accuracy in per cent.

{transfer(measured)}

Without tuning: classes that it never read, and they are not recognised: nothing here is above chance but what is barely so. Intervals over test groups; ± the deviation over draws. Linear probe: standardised features,
logistic regression (scripts/measure_mini.py). HOG as given with the data.

### Classes left out

A third training of the recipe without two classes of each of three sets (their images had no caption at all; the first training
saw them without labels). Each side among its own classes, balanced accuracy in per cent; 50 is chance where two are left out.

{left_out(measured)}

### Sentences never read

The last six sentences and the last two denials ("no sign of ...") of each class's bank were kept from the captions. Balanced accuracy in per
cent on the test splits with scope-mini: by six sentences that captions used, by the six that none used, and by denials alone, where the answer is
the class whose denial fits the image least.

{language(measured)}

## Where maps point (synthetic)

{maps["images"]} composites: a square of an image with a finding pasted into a normal one at a random place (scripts/measure_maps.py). In per
cent; centre and random look at nothing.

{pointed(maps)}

## Training data

| set | modality | train | val | licence of the data, as far as known |
|---|---|---|---|---|
{newline.join(sets)}

Captions: the description banks of assets/descriptions (written for this project) and templates with modality, organ,
synonyms and attributes.

## Validation while training (averaged weights, one template a task)

![Loss and validation](curves.png)

Peaks on the left are where the training was stopped and called again: the moving average that is drawn begins anew.

| step | loss | mean balanced accuracy of the tasks | modality |
|---|---|---|---|
{newline.join(curve)}

## Limits

No calibration is built in. Classes outside the training sets, other scanners, children where it saw adults, photographs of
screens and annotated images are outside what it knows; it answers all the same. No fairness analysis was possible: the
sets carry no demographics.
""")


if __name__ == "__main__":
    main()
