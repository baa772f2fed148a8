"""The first training of scope-mini's image tower: from images alone, without a class or a word.

    python scripts/pretrain_mini.py --data ../shared/data --work runs/pretrained            (stop it at any time; resumes by itself)
    python scripts/pretrain_mini.py --data ../shared/data --work runs/pretrained --steps 9000 --cool 1500    (longer)

The tower learns to say what an ImageNet teacher (MobileNetV2, ../shared/data/teacher) says of the same crop: from its
image feature the teacher's pooled feature, from each patch token the teacher's map at that place. Both are standardised, channel by
channel, so that the mean squared error is the share of variance that is not explained. Teacher and student see the same crop (a
consistent teacher, arXiv:2106.05237); some crops of each image are kept with what the teacher says of them, and the student sees
them with other patches and another intensity each time. Patches are dropped at random (FLIP, arXiv:2212.00794). The learning rate
is constant until it is cooled, so that the length need not be known before. Train images of all sets, scope-mini-heldout's left-out ones
included: no label is read, so that both trainings of the recipe go on from here.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
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
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engine.backbones import _openclip
from engine.tasks import tasks
from scripts.mini_data import Item, Sampler, Views, centred, read_sets, say, some_patches
from scripts.mini_words import write_folder

PROBED = ("btmri", "derm7", "pneumonia_cxr")  # chosen on: none of the sets that scope-mini-heldout leaves out


class Teacher:
    """MobileNetV2 in bfloat16: x (B, 3, 224, 224) in [-1, 1] -> map (B, 320, 7, 7) and pooled feature (B, 1280)."""

    def __init__(self, data: Path, device: str):
        folder = data / "teacher" / "mobilenet_v2"
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

    def forward(self, patches: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """patches (B, K, 3, 16, 16), kept (B, K) their places -> pooled (B, 1280), places (B, K, 320)."""
        tokens = self.tokens(patches, kept)
        return self.pooled(self.visual.head(tokens[:, 0])), self.places(tokens[:, 1:])

    def tokens(self, patches: Tensor, kept: Tensor) -> Tensor:
        """(B, 1 + K, D), the class token first."""
        return self.visual.trunk.norm(self.visual.trunk.blocks(self.embedded(patches, kept)))

    def tokens_and_values(self, patches: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Twice (B, 1 + K, D): the tokens, and what the last block's values say of each place without the others (MaskCLIP,
        arXiv:2112.01071; engine/explain/patch_similarity.py)."""
        trunk = self.visual.trunk
        before, last = trunk.blocks[:-1](self.embedded(patches, kept)), trunk.blocks[-1]
        values = last.attn.qkv(last.norm1(before))[..., -trunk.embed_dim :]
        return trunk.norm(last(before)), trunk.norm(last.attn.proj(values))

    def embedded(self, patches: Tensor, kept: Tensor) -> Tensor:
        trunk = self.visual.trunk
        first = trunk.patch_embed.proj
        tokens = F.linear(patches.flatten(2), first.weight.flatten(1), first.bias)
        where = torch.cat([torch.zeros_like(kept[:, :1]), kept + 1], dim=1)
        tokens = torch.cat([trunk.cls_token.expand(len(tokens), -1, -1).to(tokens), tokens], dim=1)
        return tokens + trunk.pos_embed[0][where].to(tokens)


def wanted(places: Tensor, grid: int, kept: Tensor) -> Tensor:
    """The teacher's map (B, 320, 7, 7) at the student's kept patches: (B, K, 320)."""
    every = F.interpolate(places, size=(grid, grid), mode="bilinear").flatten(2).transpose(1, 2)
    return every.gather(1, kept[..., None].expand(-1, -1, every.shape[-1]))


def unexplained(
    told: Tensor, shown: Tensor, some: dict[str, Tensor], scales: dict[str, Tensor], grid: int, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """The share of the teacher's variance that the student does not tell, of pooled features and of places.

    told (B, 1280), shown (B, K, 320) : the student's; some : of Views; scales : deviation and mean of each channel by name
    """

    def standardised(name: str) -> Tensor:
        deviation, mean = scales[name]
        return ((some[name].to(mean.device).float() - mean) / (deviation + 1e-3)).clamp(-5, 5)

    places = wanted(standardised("places").permute(0, 3, 1, 2), grid, kept)
    return F.mse_loss(told.float(), standardised("pooled")), F.mse_loss(shown.float(), places)


@torch.no_grad()
def mimetic(trunk: Any) -> None:
    """Attention that begins as pretrained attention looks: queries near keys, values near minus their projection, places as
    sines (arXiv:2305.09828, equations 4 to 6, with its constants 0.7 and 0.4)."""
    width, heads = trunk.embed_dim, trunk.blocks[0].attn.num_heads
    size, one = width // heads, torch.eye(width)

    def factors(noise: float, own: float) -> tuple[Tensor, Tensor]:
        u, s, v = torch.linalg.svd(noise * torch.randn(width, width) / math.sqrt(width) + own * one)
        return u * s.sqrt(), s.sqrt()[:, None] * v

    for block in trunk.blocks:
        queries, keys, values = block.attn.qkv.weight.split(width)
        for h in range(heads):
            left, right = factors(0.7, 0.7)
            queries[h * size : (h + 1) * size] = left[:, :size].T
            keys[h * size : (h + 1) * size] = right[:size]
        left, right = factors(0.4, -0.4)
        block.attn.proj.weight.copy_(left)
        values.copy_(right)
    grid = trunk.patch_embed.grid_size[0]
    angles = torch.arange(grid)[:, None] / 10000 ** (torch.arange(width // 4) / (width // 4))
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    both = torch.cat([waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)], dim=2)
    trunk.pos_embed[0, 1:] = 0.1 * both.reshape(grid * grid, width)


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
            x, y = (
                torch.cat([visual(centred(p[k : k + 64]).to(device)) for k in range(0, len(p), 64)]) for p in (shots, held)
            )
            a, b = (F.normalize(each, dim=-1).cpu().numpy() for each in (x, y))
            scale = StandardScaler().fit(a)
            fitted = LogisticRegression(max_iter=1000).fit(scale.transform(a), [i.label for i in shots])
            truth, said = np.array([i.label for i in held]), fitted.predict(scale.transform(b))
            scores.append(np.mean([(said[truth == c] == c).mean() for c in np.unique(truth)]))
        found[name] = round(float(np.mean(scores)), 4)
    return found


def optimisers_of(student: Student, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the blocks' matrices where it is asked for; each group knows its own highest learning rate."""
    inner = [p for p in student.visual.trunk.blocks.parameters() if p.ndim == 2] if args.muon else []
    chosen = {id(p) for p in inner}
    rest = [p for p in student.parameters() if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.05, "peak": args.lr},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, "peak": args.lr},
    ]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))]
    if inner:
        group = {"params": inner, "peak": args.muon}
        found.append(torch.optim.Muon([group], lr=args.muon, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"))
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
    draw = Sampler(items["train"], rng)
    views = Views(args.views, items["train"], args.count, lambda: Teacher(args.data, args.device), rng, args.device)
    student = Student(_openclip.build_model(args.work / "model").visual)
    if args.mimetic:
        mimetic(student.visual.trunk)
    student.to(args.device)
    optimisers = optimisers_of(student, args)
    average, start = copy.deepcopy(student).requires_grad_(False), 0
    some = views(draw(2048), rng)
    scales = {
        "places": torch.stack(torch.std_mean(some["places"].float(), dim=(0, 1, 2))).to(args.device),
        "pooled": torch.stack(torch.std_mean(some["pooled"].float(), dim=0)).to(args.device),
    }
    place = args.work / "checkpoint.pt"
    if place.is_file():
        saved = torch.load(place, weights_only=True, map_location=args.device)
        student.load_state_dict(saved["student"])
        average.load_state_dict(saved["average"])
        for each, state in zip(optimisers, saved["optimisers"], strict=True):
            each.load_state_dict(state)
        start, scales = saved["step"], saved["scales"]
        rng.seed(args.seed + start)
        generator.manual_seed(args.seed + start)
        torch.manual_seed(args.seed + start)
        say("resumed at step", start)
    end = args.steps + args.cool
    log, began, drift = (args.work / "log.jsonl").open("a"), time.time(), [1.0, 1.0]
    for step in range(start, end):
        share = min(1.0, (step + 1) / args.warm) * ((end - step) / args.cool if step >= args.steps else 1.0)
        for group in (g for each in optimisers for g in each.param_groups):
            group["lr"] = group["peak"] * share
        student.train()
        some = views(draw(args.batch), rng)
        x, kept = some_patches(some["pixels"], args.keep, generator, args.device)
        with torch.autocast(x.device.type, torch.bfloat16):
            told, shown = student(x, kept)
        whole, dense = unexplained(told, shown, some, scales, student.grid, kept)
        student.zero_grad(set_to_none=True)
        (whole + 0.5 * dense).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for each in optimisers:
            each.step()
        with torch.no_grad():
            decay = min(0.998, (step + 1) / (step + 20))
            for a, p in zip(average.parameters(), student.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        drift = [0.98 * d + 0.02 * each.item() for d, each in zip(drift, (whole, dense), strict=True)]
        if (step + 1) % 100 == 0 or step + 1 == end:
            state = {
                "student": student.state_dict(),
                "average": average.state_dict(),
                "optimisers": [o.state_dict() for o in optimisers],
            }
            torch.save(state | {"step": step + 1, "scales": scales}, args.work / "checkpoint.part")
            (args.work / "checkpoint.part").replace(place)
            line: dict[str, object] = {"step": step + 1, "pooled": round(drift[0], 4), "places": round(drift[1], 4)}
            line |= {"keep": args.keep, "share": round(share, 4), "minutes": round((time.time() - began) / 60, 2)}
            if (step + 1) % args.check == 0 or step + 1 == end:
                line["probe"] = probe(average.visual, items, args.device)
            say(json.dumps(line))
            log.write(json.dumps(line) + "\n")
            log.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sets/ and teacher/")
    parser.add_argument("--work", type=Path, default=Path("runs/pretrained"))
    parser.add_argument("--steps", type=int, default=3500, help="steps of a constant learning rate")
    parser.add_argument("--cool", type=int, default=850, help="so many more, down to a learning rate of 0")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--keep", type=float, default=0.25, help="share of the patches that are kept")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--muon", type=float, default=1e-3, help="Muon's learning rate for the blocks' matrices, 0 for AdamW"
    )
    parser.add_argument("--mimetic", action=argparse.BooleanOptionalAction, default=True, help="begin as attention ends")
    parser.add_argument("--warm", type=int, default=300, help="steps of a rising learning rate")
    parser.add_argument("--views", type=Path, default=Path("runs/views"), help="where the crops are kept")
    parser.add_argument("--count", type=int, default=4, help="crops of an image")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", type=int, default=1000, help="steps between probes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    pretrain(parser.parse_args())


if __name__ == "__main__":
    main()
