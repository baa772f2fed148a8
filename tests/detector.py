"""A Grounding DINO of the real architecture with random weights, small enough for tests: config, processor and all, as a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    PreTrainedTokenizerFast,
    SwinConfig,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

WORDS = [
    "pink",
    "round",
    "bump",
    "in",
    "rectum",
    "bright",
    "square",
    "dark",
    "disc",
    "lung",
    "nodule",
    "polyp",
    "skin",
    ",",
    "lesion",
    "red",
    "cell",
    "in",
    "the",
    "##s",
    "##ish",
]
KINDS = {
    "grounding-dino": (GroundingDinoConfig, GroundingDinoForObjectDetection),
    "mm-grounding-dino": (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection),
}


def tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece whose [CLS], [SEP], "." and "?" have BERT's ids, which the architecture has built in."""
    ids = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    ids |= {word: 200 + i for i, word in enumerate(dict.fromkeys(WORDS))}
    taken = set(ids.values())
    ids |= {f"[unused{i}]": i for i in range(1030) if i not in taken}
    core = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=256, **named)


def write_detector(
    folder: Path, kind: str = "grounding-dino", seed: int = 0, side: int = 96, queries: int = 20, dropout: float = 0.1
) -> Path:
    """The folder, as `save_pretrained` leaves it. side : of the images that it sees, in pixels; dropout : of every kind."""
    config, model = KINDS[kind]
    made = config(
        backbone_config=SwinConfig(
            image_size=side, patch_size=4, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=3,
            out_features=["stage2", "stage3", "stage4"], drop_path_rate=dropout,
        ),
        text_config=BertConfig(
            vocab_size=1030, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=256, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        ),
        d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=queries, auxiliary_loss=True, dropout=dropout,
        attention_dropout=dropout, activation_dropout=dropout, fusion_dropout=dropout, fusion_droppath=dropout,
        text_enhancer_dropout=dropout,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = model(made)
        net.eval()
    net.save_pretrained(folder)
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": side, "longest_edge": side})
    GroundingDinoProcessor(images, tokenizer()).save_pretrained(folder)
    return folder
