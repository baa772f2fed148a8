"""Every method on every kind of backbone; what they say is docs/matrix.md. Run: python -m pytest tests/test_matrix.py

To write the table again: PROMPTSCOPE_WRITE_DOCS=1 python -m pytest tests/test_matrix.py
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

import engine
from engine.methods.base import LabelledFeatures, visual_prompt

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "matrix.md"
# A kind, and the backbones that are built of the same towers.
KINDS = {
    "scope-mini": "scope-mini, biomedclip (ViT and BERT, class token)",
    "tiny-clip": "clip-vit-b16, clip-vit-b32, pubmedclip, pmc-clip-l14 (CLIP's ViT and causal text tower)",
    "tiny-pmc": "pmc-clip (ResNet and BERT, pooler output)",
}
TASK = engine.task("busi")


def short(name: str):
    """The method with few epochs."""
    kind = engine.METHODS[name]
    few = {"epochs": 2} if "epochs" in {f.name for f in fields(kind.Config)} else {}
    return kind(kind.Config(**few))


def outcome(method, backbone) -> str:
    """ "yes", or the sentence that says why not."""
    rng = np.random.default_rng(0)
    try:
        pixels = rng.normal(size=(6, 3, backbone.preprocess.size, backbone.preprocess.size)).astype(np.float32)
        views = backbone.encode_images(torch.from_numpy(pixels), visual_prompt(method, backbone)).numpy()[None]
        labels = np.arange(6) % 3
        data = LabelledFeatures(views, labels, views[0][:3], labels[:3]) if method.needs_images else None
        made = engine.bound(method.learn(backbone, TASK, data), backbone)
    except engine.EngineError as error:
        return str(error)
    probabilities = made.probabilities(views[0])
    assert probabilities.shape == (6, 3) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    return "yes"


@pytest.fixture(scope="module")
def matrix(tiny) -> dict[str, dict[str, str]]:
    backbones = {kind: engine.load_backbone(kind if kind == "scope-mini" else f"local-dir:{tiny[kind]}") for kind in KINDS}
    return {name: {kind: outcome(short(name), b) for kind, b in backbones.items()} for name in engine.METHODS}


def test_every_method_runs_on_every_kind_of_backbone(matrix):
    assert {kind for row in matrix.values() for kind in row} == set(KINDS)
    assert all(cell == "yes" for row in matrix.values() for cell in row.values()), matrix


def test_the_documents_matrix_is_what_was_found(matrix):
    lines = ["# Which method runs on which backbone", ""]
    lines += ["Made by tests/test_matrix.py, on random weights of each kind of towers.", ""]
    lines += ["| method | " + " | ".join(KINDS.values()) + " |", "|---" * (len(KINDS) + 1) + "|"]
    lines += ["| " + " | ".join([name, *row.values()]) + " |" for name, row in matrix.items()]
    lines += ["", "Biomed-DPT's zero tokens are inserted, on the ResNet they are channels set to zero."]
    text = "\n".join(lines) + "\n"
    if os.environ.get("PROMPTSCOPE_WRITE_DOCS") == "1":
        DOCUMENT.write_text(text, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == text
