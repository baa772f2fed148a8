"""Train scope-mini, the embedded backbone: contrastive image to text, from written captions, after pretrain_mini.py.

    python scripts/train_mini.py --data ../shared/data                       (resumes by itself)
    python scripts/train_mini.py --data ../shared/data --work runs/heldout --steps 700 --unnamed busi retina lc25000_lung

What it does, in order: reads the sets that the tasks name; drops training images that are near duplicates of a
validation or test image of any set; trains; writes open_clip's local-dir layout in fp16. The towers: timm ViT-Ti/16, BERT of
4 layers, with a WordPiece tokenizer of our own sentences.

Words first: the text tower and both projections learn against what the pretrained image tower says of the training images (no
pass through that tower is needed), so that captions lie where their images look alike. Then the text tower is locked and the image
tower learns against its captions, one drawn for every class and modality at each step. Images to captions: softmax within the
task, among which is a sentence that denies the image's own class; softmax over all classes that do not contradict each other;
softmax over modalities; of the sentences that deny a class, its own fits least; captions to images: softmax over the batch
with several positives (UniCL, arXiv:2204.03610). The same, with less weight, from the mean of the patches, and from the mean of what the last
block's values say of each, so that maps that look at patches have something to see. The teacher's targets of the first training are kept, so that features that no
caption names are not lost. Patches are dropped at random while training (FLIP, arXiv:2212.00794), fewer towards the end.

Validation is on held-out groups only.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engine.backbones import _openclip
from engine.tasks import task, tasks
from scripts.mini_data import OVERLAP, Item, Sampler, Views, centred, class_index, read_sets, say, some_patches
from scripts.mini_words import Words
from scripts.pretrain_mini import Student, Teacher, probe, unexplained


def rivals(classes: list[tuple[str, str]]) -> Tensor:
    """(C, C) bool: may class j be a negative of an image of class i?"""
    allowed = torch.ones(len(classes), len(classes), dtype=torch.bool)
    for i, (a, _) in enumerate(classes):
        for j, (b, _) in enumerate(classes):
            clash = any({a, b} == pair for pair in OVERLAP) or (a != b and "medmnist_modality" in (a, b))
            allowed[i, j] = not clash
    return allowed


def losses(v: Tensor, t: Tensor, scale: Tensor, labels: Tensor, kinds: Tensor, allowed: Tensor, same: Tensor) -> Tensor:
    """v (B, D), t (C + M + C, D) unit length. See the module's docstring."""
    count = len(allowed)
    logits = scale * v @ t.T
    mine, modality, denied = logits[:, :count], logits[:, count:-count], logits[:, -count:]
    truth = labels[:, None]
    others = ~same[labels]
    alone = (same[labels].sum(1) == 1).float()  # a set whose classes are not told apart denies nothing
    against = torch.cat([mine.masked_fill(others, -1e4), denied.gather(1, truth)], dim=1)
    within = F.cross_entropy(against, labels)
    over = F.cross_entropy(mine.masked_fill(~allowed[labels], -1e4), labels)
    kind = F.cross_entropy(modality, kinds)
    denial = (F.cross_entropy((-denied).masked_fill(others, -1e4), labels, reduction="none") * (1 - alone)).mean()
    back = mine.masked_fill(~allowed[labels], -1e4).T  # (C, B)
    positive = labels[None, :] == torch.arange(count)[:, None].to(labels.device)
    present = positive.any(1)
    chosen = back.masked_fill(~positive, -1e4)[present].logsumexp(1)
    text = (back[present].logsumexp(1) - chosen).mean()
    return within + 0.5 * over + 0.5 * kind + 0.25 * text + 0.25 * denial


def train_text(model: Any, words: Words, raw: Tensor, items: list[Item], args: argparse.Namespace) -> None:
    """The text tower and both projections, against what the pretrained image tower says of the training images. raw (N, W)."""
    device, count = args.device, len(words.classes)
    allowed, same = rivals(words.classes).to(device), same_task(words.classes).to(device)
    rng, place = random.Random(args.seed), {id(item): i for i, item in enumerate(items)}
    draw = Sampler(items, rng, args.balance)
    learned = [*model.text.parameters(), *model.visual.head.parameters(), model.logit_scale]
    optimiser = torch.optim.AdamW(learned, lr=5e-4, weight_decay=0.01, betas=(0.9, 0.98))
    model.train()
    began = time.time()
    for step in range(args.text_steps):
        for group in optimiser.param_groups:
            group["lr"] = 5e-4 * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / args.text_steps))
        batch = draw(512)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            t = model.encode_text(words.ids(words.captions()).to(device))
            v = model.visual.head(raw[[place[id(i)] for i in batch]].to(device))
        t, v = F.normalize(t.float(), dim=-1), F.normalize(v.float(), dim=-1)
        labels = torch.tensor([i.label for i in batch], device=device)
        kinds = torch.tensor([i.modality for i in batch], device=device)
        loss = losses(v, t, model.logit_scale.exp(), labels, kinds, allowed, same)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(50))
        if (step + 1) % 50 == 0:
            spread = (t[:count] @ t[:count].T).mean()
            line = {"text_step": step + 1, "loss": round(loss.item(), 3), "likeness": round(spread.item(), 3)}
            say(json.dumps(line | {"minutes": round((time.time() - began) / 60, 2)}))


def same_task(classes: list[tuple[str, str]]) -> Tensor:
    return torch.tensor([[a == b for b, _ in classes] for a, _ in classes])


@torch.no_grad()
def raw_features(model: Any, items: list[Item], device: str, place: Path, step: int) -> Tensor:
    """(N, W): the class token of the centre of each image, kept beside the first training's checkpoint of that step."""
    if place.is_file() and (kept := torch.load(place, weights_only=True))["step"] == step and len(kept["raw"]) == len(items):
        return kept["raw"]
    model.eval()
    out = []
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        for start in range(0, len(items), 64):
            out.append(model.visual.trunk(centred(items[start : start + 64]).to(device)).float().cpu())
    torch.save({"step": step, "raw": torch.cat(out)}, place)
    return torch.cat(out)


@torch.no_grad()
def caption_bank(model: Any, words: Words, draws: int, device: str) -> Tensor:
    """(draws, C + M, D), unit length: what the locked text tower says of random captions."""
    model.eval()
    return torch.stack([model.encode_text(words.ids(words.captions()).to(device), normalize=True) for _ in range(draws)])


@torch.no_grad()
def validate(model: Any, items: list[Item], words: Words, device: str) -> dict[str, float]:
    """Balanced accuracy by task with the task's template, and of the modality, over held-out groups."""
    model.eval()
    features = []
    for start in range(0, len(items), 64):
        features.append(model.encode_image(centred(items[start : start + 64]).to(device), normalize=True).cpu())
    v = torch.cat(features)

    def texts(prompts: list[str]) -> Tensor:
        return model.encode_text(words.ids(prompts).to(device), normalize=True).cpu()

    def balanced(scores: Tensor, truth: Tensor) -> float:
        right = scores.argmax(1) == truth
        return float(np.mean([right[truth == c].float().mean() for c in truth.unique()]))

    found = {}
    for name in dict.fromkeys(name for name, label in words.classes if label):
        rows = [i for i, item in enumerate(items) if item.task == name]
        known = [i for i, (n, _) in enumerate(words.classes) if n == name]
        truth = torch.tensor([items[i].label - known[0] for i in rows])
        prompts = [task(name).template.format(words.classes[i][1]) for i in known]
        found[name] = balanced(v[rows] @ texts(prompts).T, truth)
    kinds = task("modality")
    truth = torch.tensor([item.modality for item in items])
    found["modality"] = balanced(v @ texts([kinds.template.format(n) for n in kinds.names]).T, truth)
    return found


def patches_kept(progress: float) -> float:
    return 0.25 if progress < 0.65 else 0.5 if progress < 0.9 else 1.0


def begun(work: Path, pretrained: Path) -> None:
    """The folder of the first training, with its tokenizer, is where this one begins."""
    model = work / "model"
    if not (model / _openclip.CONFIG).is_file():
        model.mkdir(parents=True, exist_ok=True)
        for file in (pretrained / "model").iterdir():
            (model / file.name).write_bytes(file.read_bytes())


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    rng, generator = random.Random(args.seed), torch.Generator().manual_seed(args.seed)
    work, device = args.work, args.device
    begun(work, args.pretrained)
    sets = [name for name, t in tasks().items() if t.data and name not in args.without]
    say("reading", ", ".join(sets))
    items, counts = read_sets(args.data, sets, args.unnamed, args.left_out)
    say("images", {k: len(v) for k, v in items.items()}, "near duplicates dropped", counts["dropped_near_duplicates"])
    classes = class_index(sets, args.unnamed, args.left_out)
    words = Words(work / "model", classes, rng)
    model = _openclip.build_model(work / "model")
    student = Student(model.visual)
    before = torch.load(args.pretrained / "checkpoint.pt", weights_only=True, map_location="cpu")
    student.load_state_dict(before["average"])
    model.to(device)
    student.to(device)
    scales = {name: each.to(device) for name, each in before["scales"].items()}
    views = Views(args.views, items["train"], args.count, lambda: Teacher(args.data, device), rng, device)
    told = {split: [item for item in each if item.label >= 0] for split, each in items.items()}
    draw = Sampler(told["train"], rng, args.balance)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1 / 0.07))
    allowed, same = rivals(classes).to(device), same_task(classes).to(device)
    place = work / "checkpoint.pt"
    if not place.is_file():
        raw = raw_features(model, items["train"], device, args.pretrained / "features.pt", before["step"])
        rows = [i for i, item in enumerate(items["train"]) if item.label >= 0]
        train_text(model, words, raw[rows], told["train"], args)
    model.text.requires_grad_(False)
    both = nn.ModuleList([model, student])
    learned = [p for p in both.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    start = 0
    if place.is_file():
        saved = torch.load(place, weights_only=True, map_location=device)
        both.load_state_dict(saved["both"])
        optimiser.load_state_dict(saved["optimiser"])
        start = saved["step"]
        rng.seed(args.seed + start)
        generator.manual_seed(args.seed + start)
        say("resumed at step", start)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    if start:
        average.load_state_dict(saved["average"])
    bank = caption_bank(model, words, args.bank, device)
    log = (work / "log.jsonl").open("a")
    began, seen = time.time(), 0.0
    for step in range(start, args.steps):
        progress = step / args.steps
        rate = args.lr * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in optimiser.param_groups:
            group["lr"] = rate
        keep = patches_kept(progress)
        model.visual.train()
        batch = draw(args.batch)
        some = views(batch, rng)
        x, kept = some_patches(some["pixels"], keep, generator, device)
        with torch.autocast(x.device.type, torch.bfloat16):
            tokens, values = student.tokens_and_values(x, kept)
            heard = torch.stack([tokens[:, 0], tokens[:, 1:].mean(1), values[:, 1:].mean(1)])
            joint = model.visual.head(heard)
            said, shown = student.pooled(joint[0]), student.places(tokens[:, 1:])
        v, *local = F.normalize(joint.float(), dim=-1)
        picks = torch.randint(len(bank), (bank.shape[1],), generator=generator)
        t = bank[picks.to(device), torch.arange(bank.shape[1], device=device)]
        labels = torch.tensor([i.label for i in batch], device=device)
        kinds = torch.tensor([i.modality for i in batch], device=device)
        named, *placed = (losses(each, t, model.logit_scale.exp(), labels, kinds, allowed, same) for each in (v, *local))
        whole, dense = unexplained(said, shown, some, scales, student.grid, kept)
        taught = whole + 0.5 * dense
        loss = named + args.patch_weight * sum(placed) + args.teacher_weight * taught
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
            decay = min(0.995, (step + 1) / (step + 20))
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        seen = 0.95 * seen + 0.05 * named.item() if step > start else named.item()
        if (step + 1) % 50 == 0 or step + 1 == args.steps:
            state = {"both": both.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(state | {"step": step + 1}, work / "checkpoint.part")
            (work / "checkpoint.part").replace(place)
            line: dict[str, object] = {
                "step": step + 1,
                "loss": round(seen, 4),
                "taught": round(taught.item(), 3),
                "kept": keep,
            }
            line["minutes"] = round((time.time() - began) / 60, 2)
            if (step + 1) % args.check == 0 or step + 1 == args.steps:
                line["val"] = {k: round(x, 4) for k, x in validate(average, told["val"], words, device).items()}
                line["probe"] = probe(average.visual, told, device)
            say(json.dumps(line))
            log.write(json.dumps(line) + "\n")
            log.flush()
    weights = {k: p.detach().half().contiguous().cpu() for k, p in average.state_dict().items() if p.is_floating_point()}
    save_file(weights, work / "model" / _openclip.WEIGHTS[0])
    about = {"steps": args.steps, "batch": args.batch, "seed": args.seed, "lr": args.lr, "counts": counts}
    about |= {"text_steps": args.text_steps, "pretrained_steps": before["step"], "teacher_weight": args.teacher_weight}
    about |= {"balance": args.balance, "patch_weight": args.patch_weight}
    about |= {"without": args.without, "unnamed": args.unnamed, "left_out": args.left_out}
    (work / "model" / "training.json").write_text(json.dumps(about, indent=1))
    say("written", work / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sets/ and teacher/")
    parser.add_argument("--work", type=Path, default=Path("runs/scope-mini"), help="checkpoints, log and the result")
    parser.add_argument("--pretrained", type=Path, default=Path("runs/pretrained"), help="folder of the first training")
    parser.add_argument("--views", type=Path, default=Path("runs/views"), help="where the crops are kept")
    parser.add_argument("--count", type=int, default=4, help="crops of an image")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", type=int, default=500, help="steps between validations")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--teacher-weight", type=float, default=1.0)
    parser.add_argument("--patch-weight", type=float, default=0.25, help="of the captions' loss on the mean of the patches")
    parser.add_argument("--balance", type=float, default=0.0, help="power of a class's count by which it is drawn")
    parser.add_argument("--bank", type=int, default=200, help="captions of each class that images learn against")
    parser.add_argument("--text-steps", type=int, default=500)
    parser.add_argument("--unnamed", nargs="*", default=[], help="tasks whose images are seen but whose classes never named")
    parser.add_argument(
        "--left-out", nargs="*", default=[], metavar="TASK:CLASS", help="classes whose images get no caption"
    )
    parser.add_argument("--without", nargs="*", default=[], help="tasks to leave out")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
