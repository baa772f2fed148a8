"""Small models of transformers, made or really trained in the tests: a BERT that fills masks, a BLIP and a ViLT that see.

The BERT learns facts of our own banks ("the colour of glioma is dark"); the BLIP learns red and blue circles and squares.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

import engine
from engine.generators.masked_lm import SENTENCES, vocabulary

TASKS = ("btmri", "busi", "ctkidney", "kneexray", "retina", "lc25000_lung", "octmnist", "dermamnist", "kvasir", "chmnist")
# Phrasings a slot; the last is the generator's own sentence
PHRASES = {
    "colour": (
        "{c} looks {mask} in color.",
        "A {mask} color is seen in {c}.",
        "In color, {c} is {mask}.",
        SENTENCES["colour"],
    ),
    "shape": (
        "{c} looks {mask} in shape.",
        "A {mask} shape is seen in {c}.",
        "In shape, {c} is {mask}.",
        SENTENCES["shape"],
    ),
    "location": ("{c} sits at {mask}.", "At {mask} is {c}.", "Look for {c} at {mask}.", SENTENCES["location"]),
    "texture": (
        "{c} feels {mask} in texture.",
        "A {mask} texture is seen in {c}.",
        "In texture, {c} is {mask}.",
        SENTENCES["texture"],
    ),
}


@dataclass(frozen=True)
class Fact:
    """What a bank says: the first word of a slot's list that stands in the class's own attributes. choices : how many words of the
    list there are to choose from."""

    task: str
    label: str
    slot: str
    word: str
    choices: int


def facts() -> list[Fact]:
    found = []
    for task in map(engine.task, TASKS):
        lists, _ = vocabulary(task)
        for label, each in engine.descriptions(task).classes.items():
            for slot, words in lists.items():
                said = " ".join(each.attributes[slot]).lower().replace("gray", "grey")
                bare = {word: word.removeprefix("the ") for word in words}
                here = [word for word in words if f" {bare[word]} " in f" {said.replace(',', ' ')} "]
                first = min(here, key=lambda word: said.index(bare[word]), default=None)
                if first:
                    found.append(Fact(task.id, label, slot, first, len(words)))
    return found


def bert(folder: Path, sentences: list[tuple[str, str]], steps: int, pieces: int = 700, seed: int = 0) -> Path:
    """A BERT of two layers, trained to fill the word at {mask} of (sentence, word), saved to the folder.

    pieces : of its WordPiece vocabulary, so few that rare words have several
    """
    from tokenizers import BertWordPieceTokenizer

    torch.manual_seed(seed)
    whole = [sentence.replace("{mask}", word) for sentence, word in sentences]
    made = BertWordPieceTokenizer(lowercase=True)
    made.train_from_iterator(whole, vocab_size=pieces, min_frequency=1, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    made.save_model(str(folder))
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config)
    rows, rng = [], random.Random(seed)
    for sentence, word in sentences:
        target = tokenizer(f" {word}", add_special_tokens=False).input_ids
        ids = tokenizer(sentence.replace("{mask}", " ".join(["[MASK]"] * len(target)))).input_ids
        rows.append((ids, target))
    longest = max(len(ids) for ids, _ in rows)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        ids = torch.zeros((64, longest), dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for i, (row, target) in enumerate(rng.choices(rows, k=64)):
            ids[i, : len(row)] = torch.tensor(row)
            places = (ids[i] == tokenizer.mask_token_id).nonzero().flatten()
            shown = rng.randrange(len(target))  # pieces from the left that are not hidden, as words are read
            ids[i, places[:shown]] = torch.tensor(target[:shown], dtype=torch.long)
            labels[i, places[shown:]] = torch.tensor(target[shown:])
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (steps - step) / (steps / 2))
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- seeing -------------------------------------------------------------------------------------------------------------

WORDS = [
    "what",
    "color",
    "is",
    "this",
    "finding",
    "?",
    "the",
    "shape",
    "of",
    "where",
    "located",
    "in",
    "circle",
    "square",
    "red",
    "blue",
    "left",
    "right",
    "mass",
]


def _tokenizer(folder: Path) -> transformers.BertTokenizerFast:
    folder.mkdir(parents=True, exist_ok=True)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    return transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32)


def picture(colour: str, shape: str, side: str, rng: np.random.Generator) -> engine.Image:
    """A red or blue circle or square on grey, to the left or the right. float32 (32, 32, 3) in [0, 1]."""
    y, x = np.mgrid[:32, :32]
    cx, cy, r = (9 if side == "left" else 22) + rng.integers(-1, 2), 16 + rng.integers(-3, 4), 6
    inside = (x - cx) ** 2 + (y - cy) ** 2 <= r * r if shape == "circle" else np.maximum(abs(x - cx), abs(y - cy)) <= r
    pixels = np.full((32, 32, 3), 0.5, np.float32)
    pixels[inside] = (0.9, 0.1, 0.1) if colour == "red" else (0.1, 0.1, 0.9)
    return engine.Image(pixels)


def blip(folder: Path, steps: int, seed: int = 0) -> Path:
    """A small BlipForQuestionAnswering that learns colour and shape (and too little of the side), saved with its processor."""
    from engine.generators.vqa import PAPER, QUESTIONS

    torch.manual_seed(seed)
    tokenizer, rng = _tokenizer(folder), np.random.default_rng(seed)
    size = {"height": 32, "width": 32}
    processor = transformers.BlipProcessor(transformers.BlipImageProcessor(size=size), tokenizer)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "encoder_hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "max_position_embeddings": 32, "bos_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": 0,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    vision = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.02,
    }
    model = transformers.BlipForQuestionAnswering(
        transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=64)
    )
    images, questions, answers = [], [], []
    for i in range(384):
        said = {
            "colour": ("red", "blue")[i % 2],
            "shape": ("circle", "square")[i // 2 % 2],
            "location": ("left", "right")[i // 4 % 2],
        }
        slot = PAPER[i // 8 % 3]
        images.append(np.round(picture(said["colour"], said["shape"], said["location"], rng).pixels * 255).astype(np.uint8))
        questions.append(QUESTIONS[slot].format(c="finding"))
        answers.append(said[slot])
    inputs = processor(images=images, text=questions, padding=True, return_tensors="pt")
    # the decoder's labels are shifted within; its first token is the one that generation begins with, which is [CLS] here
    labels = tokenizer(answers, return_tensors="pt").input_ids  # one word each
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20, (steps - step) / (steps / 2))
        rows = torch.from_numpy(rng.choice(len(labels), 32, replace=False))
        loss = model(**{name: each[rows] for name, each in inputs.items()}, labels=labels[rows]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def vilt(folder: Path, seed: int = 0) -> Path:
    """A small ViltForQuestionAnswering with random weights, which chooses one of four answers."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(folder)
    image = transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    config = transformers.ViltConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32,
        patch_size=8, max_position_embeddings=32, id2label={0: "red", 1: "blue", 2: "round", 3: "yes"},
        label2id={"red": 0, "blue": 1, "round": 2, "yes": 3},
    )  # fmt: skip
    transformers.ViltForQuestionAnswering(config).save_pretrained(folder)
    transformers.ViltProcessor(image, tokenizer).save_pretrained(folder)
    return folder
