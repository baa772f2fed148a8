"""The words that scope-mini learns: captions of classes and modalities, their denials, its tokenizer, its towers' shapes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from engine.backbones import _openclip
from engine.tasks import descriptions, task, tasks
from scripts.mini_data import MEAN, SIZE, STD

CONTEXT = 77
UNREAD_SENTENCES, UNREAD_DENIALS = 6, 2  # the last of each class's bank, kept for measuring
DIM = 256
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
        return rng.choice(words.sentences[:-UNREAD_SENTENCES])
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


def absent(name: str, label: str, rng: random.Random) -> str:
    """One sentence that says that a class is not there; without a label a modality that it is not."""
    if not label:
        other = rng.choice([kind for kind in KIND_WORDS if kind not in (task(name).modality, "any")])
        return f"not a {rng.choice(KIND_WORDS[other])}."
    words = descriptions(name).classes[label]
    if rng.random() < 0.5:
        return rng.choice(words.negatives[:-UNREAD_DENIALS])
    what = rng.choice([label, *words.synonyms["medical"], *words.synonyms["lay"]])
    return rng.choice(
        [f"no sign of {what}.", f"no {what} is seen.", f"{rng.choice(KIND_WORDS[task(name).modality])} without {what}."]
    )


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
        """One of every class, then one of every modality, then one that says of every class that it is not there."""
        texts = [caption(name, label, self.rng) for name, label in self.classes]
        texts += [modality_caption(kind, self.rng) for kind in task("modality").names]
        return texts + [absent(name, label, self.rng) for name, label in self.classes]
