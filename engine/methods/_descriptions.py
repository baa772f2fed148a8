"""The frozen features of a task's descriptions: the teacher of several methods, encoded once and kept on disk.

Legend: C classes, n descriptions a class, D joint embedding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.backbones.base import Backbone
from engine.store import Store
from engine.tasks import Task, bank_of, descriptions

BATCH = 64


def description_card(task: Task) -> dict[str, Any]:
    """For the card; nothing where the task has no bank (a context that was carried to a task of the user's own)."""
    bank = task.bank or bank_of(task.id)
    if bank is None:
        return {"descriptions": None}
    about: dict[str, Any] = {"bank": bank.task, "sha256": bank.sha256}
    return {"descriptions": about | ({"provenance": list(bank.provenance)} if bank.provenance else {})}


def sentence_features(backbone: Backbone, sentences: list[str]) -> Tensor:
    """(N, D) float32, unit length, from the store where it has them (keys: weights, precision, sentence)."""
    store = Store()
    keys = [f"{backbone.weights_hash} {backbone.dtype} text {sentence}" for sentence in sentences]
    found = store.get(keys)
    missing = [i for i, key in enumerate(keys) if key not in found]
    for start in range(0, len(missing), BATCH):
        rows = missing[start : start + BATCH]
        with torch.no_grad():
            made = backbone.encode_texts([sentences[i] for i in rows]).cpu().numpy()
        new = {keys[i]: each for i, each in zip(rows, made, strict=True)}
        store.put(new)
        found |= new
    return torch.stack([torch.from_numpy(found[key]) for key in keys]).to(backbone.device)


def description_means(backbone: Backbone, task: Task, most: int) -> Tensor:
    """(C, D), unit length: each class's mean of its first `most` descriptions' unit features; 0 takes all."""
    classes = descriptions(task).classes
    rows = [sentence_features(backbone, list(classes[name].sentences[: most or None])).mean(dim=0) for name in task.names]
    return F.normalize(torch.stack(rows), dim=-1)


def description_features(backbone: Backbone, task: Task, most: int) -> Tensor:
    """(C, n, D), unit length: the first n descriptions of each class, n the smaller of `most` and the shortest list."""
    classes = descriptions(task).classes
    n = min(most, *(len(classes[name].sentences) for name in task.names))
    rows = [sentence for name in task.names for sentence in classes[name].sentences[:n]]
    return sentence_features(backbone, rows).unflatten(0, (len(task.names), n))
