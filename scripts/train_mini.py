"""Train scope-mini, the embedded backbone: contrastive image to text, from written captions.

    python scripts/train_mini.py --data ../shared/data                 (about 90 minutes on 2 cores; resumes by itself)
    python scripts/train_mini.py --data ../shared/data --device cuda
    python scripts/train_mini.py --data ../shared/data --work runs/heldout --unnamed busi retina lc25000_lung

What it does, in order: reads the sets that the tasks name; drops training images that are near duplicates of a
validation or test image of any set; trains a WordPiece tokenizer on our own sentences; builds the towers
(timm ViT-Ti/16, BERT of 4 layers); trains; writes open_clip's local-dir layout in fp16.

Words first: the text tower learns alone to send each class's captions (bank sentences; templates with synonyms, the
modality and the organ) to the class's anchor and to its modality's anchor; trained together with the image tower from
nothing it collapsed (LOG.md). Then the text tower is locked and the image tower learns against its captions, one drawn
for every class and modality at each step. Images to captions: softmax within the task, softmax over all classes that do
not contradict each other, softmax over modalities; captions to images: softmax over the batch with several positives
(UniCL, arXiv:2204.03610). Patches are dropped at random while training (FLIP, arXiv:2212.00794), fewer towards the end.
Optional: the image feature also predicts an ImageNet teacher's feature.

Left out: masked image modelling, hyper-parameter search (a later issue). Validation is on held-out groups only.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import PatchDropout
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engine.backbones import _openclip
from engine.data import read_examples, unit
from engine.tasks import descriptions, task, tasks

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, as BiomedCLIP
SIZE = 224
CONTEXT = 77
DIM = 256
# Turning an image over must not change what it says: hearts, livers and scanners' tables have a side.
FLIPS = {"derm7": "both", "lc25000_lung": "both", "btmri": "side", "busi": "side", "kneexray": "side", "retina": "side"}
FLIPS |= {"octmnist": "side", "oct_srf": "side"}
# Tasks whose classes may both be true of one image are not each other's negatives.
OVERLAP = [{"covid_cxr", "pneumonia_cxr"}, {"octmnist", "oct_srf"}]
WEIGHT = {"medmnist_modality": 0.5, "octmnist": 0.25, "oct_srf": 0.2, "derm7": 1.5, "kneexray": 1.3, "lc25000_lung": 0.7}
NEAR = 10  # bits of 256 by which a difference hash may differ and still be the same picture


@dataclass
class Item:
    task: str
    label: int  # index in all classes
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


def read_sets(root: Path, sets: list[str], unnamed: list[str]) -> tuple[dict[str, list[Item]], dict]:
    """Items by split ("train", "val"), and counts for the card; test images are read for their hashes only.

    unnamed : sets whose classes are never told: every training image is of the one class "", and val stays unread
    """
    classes = class_index(sets, unnamed)
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
        items[e.split].append(Item(t.id, classes.index((t.id, label)), kinds.index(class_modality(t.id, e.label)), pixels))
        counts[e.split][t.id] = counts[e.split].get(t.id, 0) + 1
    return items, counts


def class_index(sets: list[str], unnamed: list[str]) -> list[tuple[str, str]]:
    """(task, label) of every class that is told apart; an unnamed set is one class with the label ""."""
    return [(name, label) for name in sets for label in ([""] if name in unnamed else task(name).names)]


class Sampler:
    """Draws tasks by weight and classes within a task by the square root of their counts."""

    def __init__(self, items: list[Item], rng: random.Random):
        self.by: dict[str, dict[int, list[Item]]] = {}
        for item in items:
            self.by.setdefault(item.task, {}).setdefault(item.label, []).append(item)
        self.rng, self.names = rng, list(self.by)
        self.weights = [WEIGHT.get(n, 1.0) for n in self.names]

    def __call__(self, count: int) -> list[Item]:
        drawn = []
        for name in self.rng.choices(self.names, self.weights, k=count):
            labels = list(self.by[name])
            label = self.rng.choices(labels, [math.sqrt(len(self.by[name][c])) for c in labels])[0]
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


def augmented(items: list[Item], rng: random.Random, generator: torch.Generator) -> Tensor:
    """(B, 3, 224, 224), normalised, with random gamma, contrast, brightness, tint and noise."""
    stacked = np.stack([view(i.pixels, rng, FLIPS.get(i.task, "")) for i in items])
    x = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty(len(x), channels, 1, 1).uniform_(low, high, generator=generator)

    x = x.clamp(1e-4, 1) ** torch.exp(each(-0.35, 0.35))
    x = (x - 0.5) * each(0.75, 1.25) + 0.5 + each(-0.1, 0.1) + each(-0.03, 0.03, 3)
    x = (x + torch.randn(x.shape, generator=generator) * each(0, 0.04)).clamp(0, 1)
    return normalised(x)


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


# --- words ----------------------------------------------------------------------------------------------------------

KIND_WORDS = {
    "MRI": ["MRI", "magnetic resonance image", "MR scan", "MRI slice"],
    "ultrasound": ["ultrasound", "sonogram", "ultrasound scan", "ultrasound image"],
    "X-ray": ["X-ray", "radiograph", "plain film", "X-ray image"],
    "CT": ["CT", "computed tomography", "CT scan", "CT slice"],
    "dermoscopy": ["dermoscopy", "dermatoscopy image", "dermoscopic photograph", "close-up skin photograph"],
    "histopathology": ["histopathology", "H&E slide", "microscopy of stained tissue", "histology image"],
    "fundus photograph": [
        "fundus photograph",
        "colour fundus image",
        "retinal photograph",
        "photograph of the back of the eye",
    ],
    "OCT": ["OCT", "optical coherence tomography", "OCT B-scan", "retinal OCT"],
    "any": ["medical image"],
}


def caption(name: str, label: str, rng: random.Random) -> str:
    """One caption of a class: a bank sentence (60 %), or a template around the name or a synonym. Without a label:
    the modality and the organ, no more."""
    t = task(name)
    if not label:
        kind = rng.choice(KIND_WORDS[t.modality])
        return rng.choice([f"{kind} of the {t.organ}.", f"{kind}, {t.organ}.", f"this is a {kind} of the {t.organ}."])
    words = descriptions(name).classes[label]
    if rng.random() < 0.6:
        return rng.choice(words.sentences)
    names = [label, label, *words.synonyms["medical"], *words.synonyms["query"], *words.synonyms["lay"]]
    what, kind = rng.choice(names), rng.choice(KIND_WORDS[t.modality])
    organ = "" if t.organ == "any" else f" of the {t.organ}"
    shape, texture = rng.choice(words.attributes["shape"]), rng.choice(words.attributes["texture"])
    forms = [
        t.template.format(what),
        f"a photo of a {what}.",
        f"{what}.",
        f"{kind}{organ} showing {what}.",
        f"{what} on {kind}{organ}.",
        f"{kind}{organ}: {what}, {shape}, {texture}.",
    ]
    return rng.choice(forms)


def modality_caption(kind: str, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(descriptions("modality").classes[kind].sentences)
    word = rng.choice(KIND_WORDS[kind])
    return rng.choice([task("modality").template.format(kind), f"a photo of a {kind}.", f"{word}.", f"this is a {word}."])


def make_tokenizer() -> Tokenizer:
    """A lower-case WordPiece tokenizer (BERT's shape) trained on our sentences, with every printable character."""
    texts = []
    for name in tasks():
        for label, words in descriptions(name).classes.items():
            texts += [label, *words.sentences, *words.negatives]
            texts += [w for group in (words.synonyms, words.attributes) for found in group.values() for w in found]
    texts += [w for group in KIND_WORDS.values() for w in group] + [t.template for t in tasks().values()]
    texts += ["a photo of a", "an image showing no sign of"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    alphabet = [chr(c) for c in range(33, 127)]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=6000, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def write_folder(out: Path) -> None:
    """open_clip's local-dir layout, without weights."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": CONTEXT,
                "pad_token": "[PAD]",
                "unk_token": "[UNK]",
                "cls_token": "[CLS]",
                "sep_token": "[SEP]",
                "mask_token": "[MASK]",
            },
            indent=1,
        )
    )
    text = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": CONTEXT,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    (out / _openclip.TEXT_CONFIG).write_text(json.dumps(text, indent=1))
    config = {
        "model_cfg": {
            "embed_dim": DIM,
            "vision_cfg": {
                "timm_model_name": "vit_tiny_patch16_224",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": SIZE,
            },
            "text_cfg": {
                "hf_model_name": _openclip.TEXT_CONFIG,
                "hf_tokenizer_name": "tokenizer.json",
                "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": CONTEXT,
            },
        },
        "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "shortest"},
    }
    (out / _openclip.CONFIG).write_text(json.dumps(config, indent=1))


class Words:
    """Draws and tokenizes one caption a class and one a modality."""

    def __init__(self, folder: Path, classes: list[tuple[str, str]], rng: random.Random):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_padding(pad_id=0)
        self.tokenizer.enable_truncation(CONTEXT)
        self.classes, self.rng = classes, rng

    def ids(self, texts: list[str]) -> Tensor:
        return torch.tensor([e.ids for e in self.tokenizer.encode_batch(texts)])

    def captions(self) -> list[str]:
        """One of every class, then one of every modality."""
        texts = [caption(name, label, self.rng) for name, label in self.classes]
        return texts + [modality_caption(kind, self.rng) for kind in task("modality").names]


# --- training -------------------------------------------------------------------------------------------------------


def rivals(classes: list[tuple[str, str]]) -> Tensor:
    """(C, C) bool: may class j be a negative of an image of class i?"""
    allowed = torch.ones(len(classes), len(classes), dtype=torch.bool)
    for i, (a, _) in enumerate(classes):
        for j, (b, _) in enumerate(classes):
            clash = any({a, b} == pair for pair in OVERLAP) or (a != b and "medmnist_modality" in (a, b))
            allowed[i, j] = not clash
    return allowed


def losses(v: Tensor, t: Tensor, scale: Tensor, labels: Tensor, kinds: Tensor, allowed: Tensor, same: Tensor) -> Tensor:
    """v (B, D), t (C + M, D) unit length. See the module's docstring."""
    count = len(allowed)
    logits = scale * v @ t.T
    mine, modality = logits[:, :count], logits[:, count:]
    within = F.cross_entropy(mine.masked_fill(~same[labels], -1e4), labels, label_smoothing=0.0)
    over = F.cross_entropy(mine.masked_fill(~allowed[labels], -1e4), labels)
    kind = F.cross_entropy(modality, kinds)
    back = mine.masked_fill(~allowed[labels], -1e4).T  # (C, B)
    positive = labels[None, :] == torch.arange(count)[:, None].to(labels.device)
    present = positive.any(1)
    chosen = back.masked_fill(~positive, -1e4)[present].logsumexp(1)
    text = (back[present].logsumexp(1) - chosen).mean()
    return within + 0.5 * over + 0.5 * kind + 0.25 * text


def train_text(model: Any, words: Words, allowed: Tensor, args: argparse.Namespace) -> None:
    """The text tower alone: captions to the anchors of their class and of their modality."""
    kinds = task("modality").names
    kind_of = torch.tensor([kinds.index(class_modality(name, label)) for name, label in words.classes])
    count, device = len(words.classes), args.device
    truth = torch.arange(count).to(device)
    anchors = nn.Parameter(F.normalize(torch.randn(count + len(kinds), DIM), dim=-1).to(device))
    optimiser = torch.optim.AdamW([*model.text.parameters(), anchors], lr=5e-4, weight_decay=0.01, betas=(0.9, 0.98))
    model.train()
    for step in range(args.text_steps):
        for group in optimiser.param_groups:
            group["lr"] = 5e-4 * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / args.text_steps))
        t = F.normalize(model.encode_text(words.ids(words.captions() + words.captions()).to(device)), dim=-1)
        logits = 15 * t.unflatten(0, (2, -1)) @ F.normalize(anchors, dim=-1).T  # (2, C + M, C + M)
        loss = torch.zeros((), device=device)
        for each in logits:
            loss = loss + F.cross_entropy(each[:count, :count].masked_fill(~allowed, -1e4), truth, label_smoothing=0.1)
            loss = loss + F.cross_entropy(each[:count, count:], kind_of.to(device), label_smoothing=0.1)
            loss = loss + F.cross_entropy(each[count:, count:], torch.arange(len(kinds)).to(device), label_smoothing=0.1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.text.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 50 == 0:
            right = (logits[:, :count, :count].masked_fill(~allowed, -1e4).argmax(-1) == truth).float().mean()
            say(json.dumps({"text_step": step + 1, "loss": round(loss.item(), 3), "right": round(right.item(), 3)}))


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
        first = next(i for i, (n, _) in enumerate(words.classes) if n == name)
        t = task(name)
        truth = torch.tensor([items[i].label - first for i in rows])
        found[name] = balanced(v[rows] @ texts([t.template.format(n) for n in t.names]).T, truth)
    kinds = task("modality")
    truth = torch.tensor([item.modality for item in items])
    found["modality"] = balanced(v @ texts([kinds.template.format(n) for n in kinds.names]).T, truth)
    return found


def teacher_features(folder: Path, items: list[Item]) -> Tensor:
    """(N, 1280), standardised: what an ImageNet MobileNetV2 says of the centre of each image."""
    spec = importlib.util.spec_from_file_location("teacher", folder / "load_torch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    graph, params = module.load(str(folder))
    out = []
    with torch.no_grad():
        for start in range(0, len(items), 64):
            x = centred(items[start : start + 64])
            x = x * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
            out.append(module.forward(graph, params, x * 2 - 1)[1])
    features = torch.cat(out)
    return (features - features.mean(0)) / (features.std(0) + 1e-3)


def patches_kept(progress: float) -> float:
    return 0.25 if progress < 0.7 else 0.5 if progress < 0.95 else 1.0


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    rng, generator = random.Random(args.seed), torch.Generator().manual_seed(args.seed)
    work = args.work
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "model" / _openclip.CONFIG).is_file():  # a resumed run keeps its tokenizer
        write_folder(work / "model")
    sets = [name for name, t in tasks().items() if t.data and name not in args.without]
    say("reading", ", ".join(sets))
    items, counts = read_sets(args.data, sets, args.unnamed)
    say("images", {k: len(v) for k, v in items.items()}, "near duplicates dropped", counts["dropped_near_duplicates"])
    classes = class_index(sets, args.unnamed)
    words, draw = Words(work / "model", classes, rng), Sampler(items["train"], rng)
    model = _openclip.build_model(work / "model").to(args.device)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1 / 0.07))
    teacher, project = None, nn.Linear(model.visual.trunk.num_features, 1280).to(args.device)
    if args.teacher and not (work / "teacher.pt").is_file():
        say("teacher features of", len(items["train"]), "images")
        torch.save(teacher_features(args.teacher, items["train"]), work / "teacher.pt")
    if args.teacher:
        teacher = torch.load(work / "teacher.pt", weights_only=True)
        place = {id(item): i for i, item in enumerate(items["train"])}
    say("parameters", sum(p.numel() for p in model.parameters()))
    both = [*model.named_parameters(), *project.named_parameters()]
    decayed, plain = [p for _, p in both if p.ndim > 1], [p for _, p in both if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.98)
    )
    allowed = rivals(classes).to(args.device)
    if args.init:
        say("image tower and teacher's projection from", args.init)
        before = torch.load(args.init, weights_only=True, map_location=args.device)
        visual = {k.removeprefix("visual."): v for k, v in before["model"].items() if k.startswith("visual.")}
        model.visual.load_state_dict(visual)
        project.load_state_dict(before["project"])
    if not (work / "checkpoint.pt").is_file():
        train_text(model, words, allowed, args)
    model.text.requires_grad_(False)
    average, start = copy.deepcopy(model).eval().requires_grad_(False), 0
    if (work / "checkpoint.pt").is_file():
        saved = torch.load(work / "checkpoint.pt", weights_only=True, map_location=args.device)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        project.load_state_dict(saved["project"])
        optimiser.load_state_dict(saved["optimiser"])
        start = saved["step"]
        rng.seed(args.seed + start)
        generator.manual_seed(args.seed + start)
        say("resumed at step", start)
    bank = caption_bank(model, words, 200, args.device)
    same = torch.tensor([[a == b for b, _ in classes] for a, _ in classes]).to(args.device)
    log = (work / "log.jsonl").open("a")
    began, seen = time.time(), 0.0
    for step in range(start, args.steps):
        progress = step / args.steps
        rate = args.lr * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in optimiser.param_groups:
            group["lr"] = rate
        keep = patches_kept(progress)
        model.visual.train()
        model.visual.trunk.patch_drop = PatchDropout(1 - keep, num_prefix_tokens=1) if keep < 1 else nn.Identity()
        batch = draw(args.batch)
        x = augmented(batch, rng, generator).to(args.device)
        raw = model.visual.trunk(x)
        v = F.normalize(model.visual.head(raw), dim=-1)
        picks = torch.randint(len(bank), (bank.shape[1],), generator=generator)
        t = bank[picks.to(args.device), torch.arange(bank.shape[1], device=args.device)]
        labels = torch.tensor([i.label for i in batch], device=args.device)
        kinds = torch.tensor([i.modality for i in batch], device=args.device)
        loss = losses(v, t, model.logit_scale.exp(), labels, kinds, allowed, same)
        if teacher is not None:
            wanted = teacher[[place[id(i)] for i in batch]].to(args.device)
            loss = loss + args.teacher_weight * (1 - F.cosine_similarity(project(raw), wanted, dim=-1)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in both], 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
            decay = min(0.995, (step + 1) / (step + 20))
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        seen = 0.95 * seen + 0.05 * loss.item() if step > start else loss.item()
        if (step + 1) % 50 == 0 or step + 1 == args.steps:
            state = {"model": model.state_dict(), "average": average.state_dict(), "project": project.state_dict()}
            torch.save(state | {"optimiser": optimiser.state_dict(), "step": step + 1}, work / "checkpoint.part")
            (work / "checkpoint.part").replace(work / "checkpoint.pt")
            line: dict[str, object] = {
                "step": step + 1,
                "loss": round(seen, 4),
                "kept": keep,
                "minutes": round((time.time() - began) / 60, 2),
            }
            if (step + 1) % args.check == 0 or step + 1 == args.steps:
                line["val"] = {k: round(x, 4) for k, x in validate(average, items["val"], words, args.device).items()}
            say(json.dumps(line))
            log.write(json.dumps(line) + "\n")
            log.flush()
    weights = {k: p.detach().half().contiguous().cpu() for k, p in average.state_dict().items() if p.is_floating_point()}
    save_file(weights, work / "model" / _openclip.WEIGHTS[0])
    about = {"steps": args.steps, "batch": args.batch, "seed": args.seed, "lr": args.lr, "counts": counts}
    about |= {"text_steps": args.text_steps, "init": str(args.init) if args.init else None}
    about |= {"teacher": bool(args.teacher), "without": args.without, "unnamed": args.unnamed}
    (work / "model" / "training.json").write_text(json.dumps(about, indent=1))
    say("written", work / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train scope-mini.")
    parser.add_argument("--data", type=Path, required=True, help="folder with sets/ (and teacher/)")
    parser.add_argument("--work", type=Path, default=Path("runs/scope-mini"), help="checkpoints, log and the result")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", type=int, default=500, help="steps between validations")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--teacher", type=Path, default=None, help="folder of the ImageNet teacher, or nothing")
    parser.add_argument("--teacher-weight", type=float, default=1.0)
    parser.add_argument("--init", type=Path, default=None, help="a checkpoint whose image tower to go on from")
    parser.add_argument("--text-steps", type=int, default=500)
    parser.add_argument("--unnamed", nargs="*", default=[], help="tasks whose images are seen but whose classes never named")
    parser.add_argument("--without", nargs="*", default=[], help="tasks to leave out")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
