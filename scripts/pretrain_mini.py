"""The first training of scope-mini's image tower: from images alone, without a class or a word.

    python scripts/pretrain_mini.py --data ../shared/data --work runs/pretrained            (stop it at any time; resumes by itself)
    python scripts/pretrain_mini.py --data ../shared/data --work runs/pretrained --cool 1500    (1500 more steps, to a learning rate of 0)

The tower learns to say what an ImageNet teacher (MobileNetV2, ../shared/data/teacher) says of the same augmented view: from its
image feature the teacher's pooled feature, from each patch token the teacher's map at that place. Both are standardised, channel by
channel, so that the mean squared error is the share of variance that is not explained. Teacher and student see one view, and never the
same one twice (a consistent teacher, arXiv:2106.05237). Patches are dropped at random (FLIP, arXiv:2212.00794). The learning rate
is constant until it is cooled, so that the length need not be known before. Train images of all sets, scope-mini-heldout's left-out ones
included: no label is read, so that both trainings of the recipe go on from here.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engine.backbones import _openclip
from engine.tasks import tasks
from scripts.train_mini import MEAN, STD, Item, Sampler, augmented, centred, read_sets, say, write_folder

PROBED = ("btmri", "derm7", "pneumonia_cxr")  # chosen on: none of the sets that scope-mini-heldout leaves out


class Teacher:
    """MobileNetV2 in bfloat16: x (B, 3, 224, 224) in [-1, 1] -> map (B, 320, 7, 7) and pooled feature (B, 1280)."""

    def __init__(self, folder: Path, device: str):
        spec = importlib.util.spec_from_file_location("teacher", folder / "load_torch.py")
        assert spec and spec.loader
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        graph, params = self.module.load(str(folder))
        self.params = {k: self._placed(v, device) for k, v in params.items()}
        ops = graph["ops"]
        mean = next(i for i, op in enumerate(ops) if op["op"] == "MEAN")
        last = max(i for i in range(mean) if ops[i]["op"] == "CONV_2D")  # the 1 x 1 convolution from 320 to 1280 channels
        self.body = {"ops": ops[:last], "input_tensor": graph["input_tensor"]}
        self.head = {"ops": ops[last : mean + 1], "input_tensor": ops[last]["in"][0]}

    @staticmethod
    def _placed(value: Tensor, device: str) -> Tensor:
        value = value.to(device, torch.bfloat16)
        return value.to(memory_format=torch.channels_last) if value.ndim == 4 else value

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        places, _ = self.module.forward(self.body, self.params, x)
        _, pooled = self.module.forward(self.head, self.params, places)
        return places.float(), pooled.float()


class Student(nn.Module):
    """scope-mini's image tower with the two projections to what the teacher says."""

    def __init__(self, visual: Any):
        super().__init__()
        self.visual = visual
        trunk = visual.trunk
        self.grid = trunk.patch_embed.grid_size[0]
        self.pooled, self.places = nn.Linear(visual.head.proj.out_features, 1280), nn.Linear(trunk.embed_dim, 320)

    def forward(self, x: Tensor, keep: float) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, 3, S, S) -> pooled (B, 1280), places (B, K, 320) of the kept patches, and which they are (B, K)."""
        trunk = self.visual.trunk
        tokens = trunk._pos_embed(trunk.patch_embed(x))
        kept = torch.rand(len(x), self.grid**2, device=x.device).argsort(dim=1)[:, : round(keep * self.grid**2)]
        rows = kept[..., None].expand(-1, -1, tokens.shape[-1])
        tokens = torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, rows)], dim=1)
        tokens = trunk.norm(trunk.blocks(trunk.norm_pre(tokens)))
        return self.pooled(self.visual.head(tokens[:, 0])), self.places(tokens[:, 1:]), kept


def wanted(places: Tensor, grid: int, kept: Tensor) -> Tensor:
    """The teacher's map (B, 320, 7, 7) at the student's kept patches: (B, K, 320)."""
    every = F.interpolate(places, size=(grid, grid), mode="bilinear").flatten(2).transpose(1, 2)
    return every.gather(1, kept[..., None].expand(-1, -1, every.shape[-1]))


def for_teacher(x: Tensor) -> Tensor:
    """Normalised for the student -> [-1, 1]."""
    mean, std = (torch.tensor(each, device=x.device)[:, None, None] for each in (MEAN, STD))
    return (x * std + mean) * 2 - 1


@torch.no_grad()
def probe(visual: Any, items: dict[str, list[Item]], device: str) -> dict[str, float]:
    """Balanced accuracy of a 16-shot logistic regression on held-out groups, three draws, by task."""
    visual.eval()
    found = {}
    for name in PROBED:
        train, held = ([i for i in items[split] if i.task == name] for split in ("train", "val"))
        labels = sorted({i.label for i in train})
        scores = []
        for draw in range(3):
            rng = random.Random(draw)
            shots = [i for c in labels for i in rng.sample([each for each in train if each.label == c], 16)]
            x, y = (torch.cat([visual(centred(p[k : k + 64]).to(device)) for k in range(0, len(p), 64)]) for p in (shots, held))
            x, y = (F.normalize(each, dim=-1).cpu().numpy() for each in (x, y))
            scale = StandardScaler().fit(x)
            fitted = LogisticRegression(max_iter=1000).fit(scale.transform(x), [i.label for i in shots])
            truth, said = np.array([i.label for i in held]), fitted.predict(scale.transform(y))
            scores.append(np.mean([(said[truth == c] == c).mean() for c in np.unique(truth)]))
        found[name] = round(float(np.mean(scores)), 4)
    return found


def pretrain(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "model" / _openclip.CONFIG).is_file():
        write_folder(args.work / "model")
    sets = [name for name, t in tasks().items() if t.data]
    items, counts = read_sets(args.data, sets, [])
    say("images", len(items["train"]), "near duplicates dropped", counts["dropped_near_duplicates"])
    rng, generator = random.Random(args.seed), torch.Generator().manual_seed(args.seed)
    draw, teacher = Sampler(items["train"], rng), Teacher(args.teacher or args.data / "teacher" / "mobilenet_v2", args.device)
    student = Student(_openclip.build_model(args.work / "model").visual).to(args.device)
    decayed = [p for p in student.parameters() if p.ndim > 1]
    plain = [p for p in student.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.98)
    )
    average, start = copy.deepcopy(student).requires_grad_(False), 0
    seen = augmented(draw(512), rng, generator)
    said = [teacher(for_teacher(x.to(args.device))) for x in seen.split(64)]
    scales = {
        "places": torch.stack(torch.std_mean(torch.cat([p for p, _ in said]), dim=(0, 2, 3))),
        "pooled": torch.stack(torch.std_mean(torch.cat([f for _, f in said]), dim=0)),
    }
    place = args.work / "checkpoint.pt"
    if place.is_file():
        saved = torch.load(place, weights_only=True, map_location=args.device)
        student.load_state_dict(saved["student"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        start, scales = saved["step"], saved["scales"]
        rng.seed(args.seed + start)
        generator.manual_seed(args.seed + start)
        torch.manual_seed(args.seed + start)
        say("resumed at step", start)
    end = start + args.cool if args.cool else args.steps
    (deviation, mean), (deviations, means) = scales["pooled"], scales["places"]
    log, began, drift = (args.work / "log.jsonl").open("a"), time.time(), [1.0, 1.0]
    for step in range(start, end):
        rate = args.lr * min(1.0, (step + 1) / 300) * ((end - step) / args.cool if args.cool else 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate
        student.train()
        x = augmented(draw(args.batch), rng, generator).to(args.device)
        places, pooled = teacher(for_teacher(x))
        pooled = ((pooled - mean) / (deviation + 1e-3)).clamp(-5, 5)
        places = ((places - means[:, None, None]) / (deviations[:, None, None] + 1e-3)).clamp(-5, 5)
        with torch.autocast(x.device.type, torch.bfloat16):
            told, shown, kept = student(x, args.keep)
        whole = F.mse_loss(told.float(), pooled)
        dense = F.mse_loss(shown.float(), wanted(places, student.grid, kept))
        optimiser.zero_grad(set_to_none=True)
        (whole + 0.5 * dense).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            decay = min(0.998, (step + 1) / (step + 20))
            for a, p in zip(average.parameters(), student.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        drift = [0.98 * d + 0.02 * each.item() for d, each in zip(drift, (whole, dense), strict=True)]
        if (step + 1) % 100 == 0 or step + 1 == end:
            state = {"student": student.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(state | {"step": step + 1, "scales": scales}, args.work / "checkpoint.part")
            (args.work / "checkpoint.part").replace(place)
            line: dict[str, object] = {"step": step + 1, "pooled": round(drift[0], 4), "places": round(drift[1], 4)}
            line |= {"keep": args.keep, "lr": rate, "minutes": round((time.time() - began) / 60, 2)}
            if (step + 1) % args.check == 0 or step + 1 == end:
                line["probe"] = probe(average.visual, items, args.device)
            say(json.dumps(line))
            log.write(json.dumps(line) + "\n")
            log.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sets/ and teacher/")
    parser.add_argument("--work", type=Path, default=Path("runs/pretrained"))
    parser.add_argument("--teacher", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=1_000_000, help="the last step of the constant learning rate")
    parser.add_argument("--cool", type=int, default=0, help="so many more steps, down to a learning rate of 0")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--keep", type=float, default=0.25, help="share of the patches that are kept")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", type=int, default=1000, help="steps between probes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    pretrain(parser.parse_args())


if __name__ == "__main__":
    main()
