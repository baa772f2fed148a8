"""The images that scope-mini learns from: which, in what balance, and as which crops."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from engine.data import read_examples, unit
from engine.tasks import task

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, as BiomedCLIP
SIZE = 224
# Turning an image over must not change what it says: hearts, livers and scanners' tables have a side.
FLIPS = {"derm7": "both", "lc25000_lung": "both", "btmri": "side", "busi": "side", "kneexray": "side", "retina": "side"}
FLIPS |= {"octmnist": "side", "oct_srf": "side"}
# Tasks whose classes may both be true of one image are not each other's negatives.
OVERLAP = [{"covid_cxr", "pneumonia_cxr"}, {"octmnist", "oct_srf"}]
WEIGHT = {"medmnist_modality": 0.5, "octmnist": 0.25, "oct_srf": 0.2, "derm7": 1.5, "kneexray": 2.0, "lc25000_lung": 0.7}
NEAR = 10  # bits of 256 by which a difference hash may differ and still be the same picture


@dataclass
class Item:
    task: str
    label: int  # index in all classes, -1 for one that is left out
    modality: int
    pixels: np.ndarray  # uint8 (h, w) or (h, w, 3), shorter side at most 240


def say(*words: object) -> None:
    print(*words, flush=True)


# --- data -----------------------------------------------------------------------------------------------------------


def difference_hash(picture: PIL.Image.Image) -> np.ndarray:
    small = np.asarray(picture.convert("L").resize((17, 16), PIL.Image.Resampling.BILINEAR), dtype=np.int16)
    return np.packbits((small[:, 1:] > small[:, :-1]).ravel())


def load(path: str) -> tuple[np.ndarray, np.ndarray]:
    picture: PIL.Image.Image = PIL.Image.open(path)
    picture = picture.convert("L" if picture.mode in ("L", "1") else "RGB")
    shorter = min(picture.size)
    if shorter > 240:
        picture = picture.resize([round(s * 240 / shorter) for s in picture.size], PIL.Image.Resampling.BICUBIC)
    return np.asarray(picture), difference_hash(picture)


def class_modality(name: str, label: str) -> str:
    return label.split()[-1] if name == "medmnist_modality" else task(name).modality


def read_sets(
    root: Path, sets: list[str], unnamed: list[str], left_out: Collection[str] = ()
) -> tuple[dict[str, list[Item]], dict]:
    """Items by split ("train", "val"), and counts for the card; test images are read for their hashes only.

    unnamed : sets whose classes are never told: every training image is of the one class "", and val stays unread
    left_out : classes "task:label" whose images have the label -1
    """
    place = {each: i for i, each in enumerate(class_index(sets, unnamed, left_out))}
    kinds = task("modality").names
    rows = []
    for name in sets:
        t = task(name)
        for folder in t.data:
            for e in read_examples(root / "sets" / folder, t):
                pixels, hashed = load(e.path)
                rows.append((t, e, pixels, hashed))
    held = [(t.id, e, h) for t, e, _, h in rows if e.split != "train"]
    hashes = np.stack([h for *_, h in held])
    patients = {e.patient for _, e, _ in held if e.patient and "person" in e.patient}
    counts: dict = {"train": {}, "val": {}, "dropped_near_duplicates": 0}
    items: dict[str, list[Item]] = {"train": [], "val": []}
    held_units = {(t, unit(e)) for t, e, _ in held}
    for t, e, pixels, hashed in rows:
        if e.split == "test" or (e.split == "val" and t.id in unnamed):
            continue
        if e.split == "train":
            assert (t.id, unit(e)) not in held_units, f"{e.path}: its group is on both sides"
            near = np.bitwise_count(hashes ^ hashed).sum(1).min() <= NEAR
            if near or e.patient in patients:  # COVID_CXR and PNEUMONIA_CXR share children
                counts["dropped_near_duplicates"] += 1
                continue
        label = "" if t.id in unnamed else e.label
        items[e.split].append(Item(t.id, place.get((t.id, label), -1), kinds.index(class_modality(t.id, e.label)), pixels))
        counts[e.split][t.id] = counts[e.split].get(t.id, 0) + 1
    return items, counts


def class_index(sets: list[str], unnamed: list[str], left_out: Collection[str] = ()) -> list[tuple[str, str]]:
    """(task, label) of every class that is told apart; an unnamed set is one class with the label ""; left_out : "task:label"."""
    every = [(name, label) for name in sets for label in ([""] if name in unnamed else task(name).names)]
    return [(name, label) for name, label in every if f"{name}:{label}" not in left_out]


class Sampler:
    """Draws tasks by weight and classes within a task by a power of their counts: 0 for each as often as the others, 0.5 for the root."""

    def __init__(self, items: list[Item], rng: random.Random, power: float = 0.5):
        self.by: dict[str, dict[int, list[Item]]] = {}
        for item in items:
            self.by.setdefault(item.task, {}).setdefault(item.label, []).append(item)
        self.rng, self.names, self.power = rng, list(self.by), power
        self.weights = [WEIGHT.get(n, 1.0) for n in self.names]

    def __call__(self, count: int) -> list[Item]:
        drawn = []
        for name in self.rng.choices(self.names, self.weights, k=count):
            labels = list(self.by[name])
            label = self.rng.choices(labels, [len(self.by[name][c]) ** self.power for c in labels])[0]
            drawn.append(self.rng.choice(self.by[name][label]))
        return drawn


def view(pixels: np.ndarray, rng: random.Random, flips: str) -> np.ndarray:
    """A random crop of 40 to 100 % of the area, turned over where anatomy allows: uint8 (224, 224, 3)."""
    h, w = pixels.shape[:2]
    for _ in range(10):
        area, ratio = rng.uniform(0.4, 1.0) * h * w, math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        ch, cw = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < ch <= h and 0 < cw <= w:
            break
    else:
        ch, cw = min(h, w), min(h, w)
    top, left = rng.randint(0, h - ch), rng.randint(0, w - cw)
    picture = PIL.Image.fromarray(pixels[top : top + ch, left : left + cw])
    out = np.asarray(picture.resize((SIZE, SIZE), PIL.Image.Resampling.BILINEAR))
    if flips and rng.random() < 0.5:
        out = out[:, ::-1]
    if flips == "both":
        out = np.rot90(out, rng.randint(0, 3))
    return out if out.ndim == 3 else np.repeat(out[..., None], 3, axis=2)


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def centred(items: list[Item]) -> Tensor:
    """(B, 3, 224, 224): shorter side to 224, centre crop, normalised."""
    out = []
    for item in items:
        picture = PIL.Image.fromarray(item.pixels)
        scale = SIZE / min(picture.size)
        picture = picture.resize([max(SIZE, round(s * scale)) for s in picture.size], PIL.Image.Resampling.BICUBIC)
        left, top = (picture.width - SIZE) // 2, (picture.height - SIZE) // 2
        out.append(np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)).convert("RGB")))
    return normalised(torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float() / 255)


class Views:
    """Crops of every training image with what the teacher says of them, made once and kept on disk: a student that sees the same
    crop later with other patches and another intensity costs no decoding and no teacher. teacher_of : called where none are kept yet"""

    def __init__(
        self, folder: Path, items: list[Item], count: int, teacher_of: Callable[[], Any], rng: random.Random, device: str
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.rows, self.count, total = {id(item): i for i, item in enumerate(items)}, count, len(items) * count
        kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
            "pixels": (np.uint8, (total, SIZE, SIZE, 3)),
            "pooled": (np.float16, (total, 1280)),
            "places": (np.float16, (total, 7, 7, 320)),
        }
        done = folder / "done"
        mode: Literal["r", "w+"] = "r" if done.is_file() else "w+"
        if mode == "r" and done.read_text() != str(total):
            raise SystemExit(
                f"{folder} holds {done.read_text()} crops and {total} are wanted. Name another folder with --views."
            )
        self.of: dict[str, Any] = {
            name: np.memmap(folder / name, dtype, mode, shape=shape) for name, (dtype, shape) in kinds.items()
        }
        if mode == "w+":
            self._make(items, teacher_of(), rng, device)
            done.write_text(str(total))

    def _make(self, items: list[Item], teacher: Any, rng: random.Random, device: str) -> None:
        total = len(self.of["pixels"])
        for start in range(0, total, 64):
            drawn = [items[r // self.count] for r in range(start, min(start + 64, total))]
            pixels = np.stack([view(item.pixels, rng, FLIPS.get(item.task, "")) for item in drawn])
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            places, pooled = teacher((x * 2 - 1).to(device))
            self.of["pixels"][start : start + 64] = pixels
            self.of["pooled"][start : start + 64] = pooled.cpu().half().numpy()
            self.of["places"][start : start + 64] = places.permute(0, 2, 3, 1).cpu().half().numpy()
            if start // 64 % 100 == 0:
                say("views", start, "of", total)
        for each in self.of.values():
            each.flush()

    def __call__(self, drawn: list[Item], rng: random.Random) -> dict[str, Tensor]:
        rows = [self.rows[id(item)] * self.count + rng.randrange(self.count) for item in drawn]
        return {name: torch.from_numpy(np.stack([values[r] for r in rows])) for name, values in self.of.items()}


def patches_of(pixels: Tensor, kept: Tensor, side: int = 16) -> Tensor:
    """pixels (B, S, S, 3) uint8, kept (B, K) -> (B, K, 3, side, side) in [0, 1]."""
    batch, size = pixels.shape[:2]
    grid = size // side
    cut = pixels.view(batch, grid, side, grid, side, 3).transpose(2, 3).reshape(batch, grid * grid, side * side * 3)
    rows = kept[..., None].expand(-1, -1, cut.shape[-1])
    return cut.gather(1, rows).view(batch, -1, side, side, 3).permute(0, 1, 4, 2, 3).float() / 255


def jittered(x: Tensor, generator: torch.Generator) -> Tensor:
    """(B, K, 3, h, w) in [0, 1] -> normalised, with random gamma, contrast, brightness, tint and noise by image."""

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty(len(x), 1, channels, 1, 1).uniform_(low, high, generator=generator)

    x = x.clamp(1e-4, 1) ** torch.exp(each(-0.35, 0.35))
    x = (x - 0.5) * each(0.75, 1.25) + 0.5 + each(-0.1, 0.1) + each(-0.03, 0.03, 3)
    x = (x + torch.randn(x.shape, generator=generator) * each(0, 0.04)).clamp(0, 1)
    return normalised(x)


def some_patches(
    pixels: Tensor, share: float, generator: torch.Generator, device: str, side: int = 16
) -> tuple[Tensor, Tensor]:
    """pixels (B, S, S, 3) uint8 -> a share of each image's patches, drawn and altered, (B, K, 3, side, side), and which (B, K)."""
    places = (pixels.shape[1] // side) ** 2
    kept = torch.rand(len(pixels), places, generator=generator).argsort(dim=1)[:, : round(share * places)]
    return jittered(patches_of(pixels, kept, side), generator).to(device), kept.to(device)
