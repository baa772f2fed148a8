"""Image files to features, each file read once: plain views, or several random crops of each.

Legend: N images, V views, D joint embedding, S input size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from engine.backbones.base import Backbone
from engine.errors import DataError, ImageError
from engine.preprocess import prepare, random_views
from engine.sandbox import read_image, sandbox
from engine.store import Store, digest_of
from engine.types import Example, Image, VisualPrompt

VERSION = 2  # of readers and crops: features that the store keeps under another one are made again
BATCH = 32  # inputs of one forward pass

Progress = Callable[[int, int], None]


def features_of(
    examples: Sequence[Example],
    backbone: Backbone,
    progress: Progress | None = None,
    visual_prompt: VisualPrompt | None = None,
    store: Store | None = None,
) -> np.ndarray:
    """(N, D) float32, unit length, in the order of the examples. progress(done, all) is called as images are done.

    store : keeps the features on disk; for public data sets, since the features of a patient's image are the patient's
    Raises ImageError where a file is missing (before any is encoded) or cannot be read, DataError where the backbone
    makes no numbers of one.
    """
    return views_of(examples, backbone, 1, 0, progress, visual_prompt, store)[0]


def check_files(examples: Sequence[Example]) -> None:
    """Raises ImageError where a file is not there."""
    missing = [Path(e.path).name for e in examples if not os.path.exists(e.path)]
    if missing:
        raise ImageError(f"{len(missing)} of {len(examples)} files are missing, the first is {missing[0]!r}.")


def views_of(
    examples: Sequence[Example],
    backbone: Backbone,
    views: int,
    seed: int,
    progress: Progress | None = None,
    visual_prompt: VisualPrompt | None = None,
    store: Store | None = None,
    all_random: bool = False,
) -> np.ndarray:
    """(V, N, D) float32, unit length: the plain view and V - 1 random crops, or (all_random) V random crops.

    The crops follow from the seed and the file's bytes, so that neither order nor company changes them.
    """
    check_files(examples)
    if not examples:
        raise DataError("There are no labelled images.", "Give class folders, a CSV or a split file that name some.")
    first = "random" if all_random else "plain"
    kind = f"{VERSION} {backbone.weights_hash} {backbone.dtype} {_words(visual_prompt)} {first} {seed}" if store else ""
    digests = [digest_of(e.path) if store or views > 1 or all_random else "" for e in examples]
    found = [_kept(store, [f"{kind} {v} {digest}" for v in range(views)]) for digest in digests]
    missing = (e for e, kept in zip(examples, found, strict=True) if kept is None)
    images = sandbox().map(_read, missing)  # decoded ahead, in workers, while the tower computes
    waiting: list[tuple[int, str, np.ndarray]] = []  # example, digest, (V, 3, S, S)
    for i, digest in enumerate(digests):
        if found[i] is None:
            image = next(images)
            if isinstance(image, ImageError):
                raise image
            waiting.append((i, digest, _inputs(image, backbone, views, f"{digest} {seed}", all_random)))
        if waiting and (len(waiting) * views >= BATCH or i + 1 == len(examples)):
            made = _encoded(np.concatenate([inputs for *_, inputs in waiting]), backbone, visual_prompt)
            for (j, file, _), each in zip(waiting, made.reshape(len(waiting), views, -1), strict=True):
                if not np.isfinite(each).all():
                    name = Path(examples[j].path).name
                    raise DataError(f"The features of {name!r} are not finite numbers.", "Try the precision float32.")
                found[j] = each
                if store:
                    store.put({f"{kind} {v} {file}": row for v, row in enumerate(each)}, file)
            waiting.clear()
        if progress and (not waiting):
            progress(i + 1, len(examples))
    return np.stack([each for each in found if each is not None], axis=1)


def _kept(store: Store | None, keys: list[str]) -> np.ndarray | None:
    """(V, D), where all are there."""
    found = store.get(keys) if store else {}
    return np.stack([found[key] for key in keys]) if found and len(found) == len(keys) else None


def _words(visual_prompt: VisualPrompt | None) -> str:
    if visual_prompt is None:
        return "no prompt"
    digest = hashlib.sha256(np.ascontiguousarray(visual_prompt.tokens).tobytes()).hexdigest()[:16]
    return f"{digest} {visual_prompt.tokens.shape} {visual_prompt.insert} {visual_prompt.literal}"


def _read(example: Example) -> Image:
    """Raises ImageError that names the file, without its folder."""
    try:
        return read_image(example.path)
    except ImageError as error:
        name = Path(example.path).name
        if name in error.message:
            raise
        raise ImageError(f"The file {name!r} cannot be read: {error.message}", error.hint) from error


def _inputs(image: Image, backbone: Backbone, views: int, words: str, all_random: bool) -> np.ndarray:
    """(V, 3, S, S)."""
    crops = views if all_random else views - 1
    drawn = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")
    rows = [] if all_random else [prepare(image, backbone.preprocess).pixels[None]]
    if crops:
        rows.append(random_views(image, backbone.preprocess, crops, drawn))
    return np.concatenate(rows).astype(np.float32)


def _encoded(inputs: np.ndarray, backbone: Backbone, visual_prompt: VisualPrompt | None) -> np.ndarray:
    rows = []
    with torch.no_grad():
        for start in range(0, len(inputs), BATCH):
            rows.append(backbone.encode_images(torch.from_numpy(inputs[start : start + BATCH]), visual_prompt).cpu().numpy())
    return np.concatenate(rows)
