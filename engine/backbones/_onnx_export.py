"""Makes what engine/backbones/_onnx.py computes with: an image tower as an ONNX graph, kept only where it agrees with torch.

Outputs: `features` (B, D), unit length; of a ViT also `patches` (B, h, w, D), unit length, by the last block's value path, and
`attention` (B, H, T, T) of the last block: what maps need that go without gradients. What comes in and goes out is float32.

fp16 : weights and products in half precision. Every softmax is computed in float32, and so are mean and variance of every
LayerNorm (ONNX's LayerNormalization does that by its stash_type).
int8 : weights in eight bits, one scale a channel; activations with a scale that each batch gives (dynamic) or that images gave
once (static). A ViT's first convolution and all products of two activations stay in float32; a ResNet's convolutions have
eight bits where there are images to calibrate with.

Legend as in base.py.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.backbones import _onnx
from engine.backbones._image_towers import ResNet, ViT
from engine.backbones._onnx import ATTENTION, CARD, FEATURES, INPUT, MODEL, PATCHES, Export
from engine.backbones._openclip import OpenCLIP
from engine.errors import BackboneError
from engine.store import digest_of
from engine.tasks import tasks

LEAST = 0.9999  # cosine of the worst image's features, fp32 and fp16
OPSET = 18  # the lowest that torch's exporter writes
BATCH = 8


def _mixed(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled queries, keys and values (B, H, T, width / H) -> the heads' values and the attention in float32."""
    weights = (q @ k.transpose(-2, -1)).float().softmax(dim=-1)
    return weights.to(v) @ v, weights


class Graph(nn.Module):
    """What is exported: (B, 3, S, S) float32 -> the outputs in their order. It is written for tracing, block by block, so that
    the last block's attention is seen; what it computes is compared with the library's own forward."""

    def __init__(self, tower: ViT | ResNet, dtype: torch.dtype):
        super().__init__()
        self._tower, self._dtype = copy.deepcopy(tower), dtype
        self.visual = self._tower.visual.to(dtype)

    @property
    def outputs(self) -> list[str]:
        return [FEATURES] if isinstance(self._tower, ResNet) else [FEATURES, PATCHES, ATTENTION]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x, tower = image.to(self._dtype), self._tower
        if isinstance(tower, ResNet):
            return (F.normalize(self._pooled(tower._convolved(x, None)).float(), dim=-1),)
        tokens = tower.embed(x)
        for block in tower.blocks[:-1]:
            tokens = tower.finish(block, tokens, _mixed(*tower.qkv(block, tokens))[0])
        last = tower.blocks[-1]
        q, k, v = tower.qkv(last, tokens)
        mixed, weights = _mixed(q, k, v)
        features = tower.pool(tower.finish(last, tokens, mixed))
        patches = tower.project(tower.added(last, v[:, :, tower.prefix :])).unflatten(1, tower.grid)
        return F.normalize(features.float(), dim=-1), F.normalize(patches.float(), dim=-1), weights

    def _pooled(self, x: Tensor) -> Tensor:
        """CLIP's attention pool: the mean of all places asks every place. (B, C, h, w) -> (B, D)."""
        pool = self.visual.attnpool
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + pool.positional_embedding.to(x)
        q, k, v = (
            each.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for each in (pool.q_proj(x[:, :1]), pool.k_proj(x), pool.v_proj(x))
        )
        mixed, _ = _mixed(q * q.shape[-1] ** -0.5, k, v)
        return pool.c_proj(mixed.transpose(1, 2).flatten(2))[:, 0]


def export(
    backbone: OpenCLIP,
    precision: str,
    images: np.ndarray,
    images_are: str,
    licence: str = "",
    out: Path | None = None,
    calibration: np.ndarray | None = None,
) -> Export:
    """Writes the folder and returns it; its card has the parity.

    backbone : on the processor in float32; precision : "fp32", "fp16" or "int8"
    images (N, 3, S, S) float32, prepared : what torch and ONNX Runtime are compared on; images_are : in words
    calibration : as images, for static int8; out : the folder, else its own in the cache
    Raises BackboneError, and leaves nothing, where fp32 or fp16 does not agree with torch.
    """
    if precision not in _onnx.PRECISIONS.values():
        known = ", ".join(_onnx.PRECISIONS.values())
        raise BackboneError(f"There is no export in the precision {precision!r}.", f"Choose one of: {known}.")
    if not isinstance(backbone, OpenCLIP):
        raise BackboneError(
            f"{backbone.id!r} is no model that can be exported.", "Choose the backbone that it was made from."
        )
    if calibration is not None and precision != "int8":
        raise BackboneError(f"Images to calibrate with are for int8, not for {precision}.", "Leave them out.")
    folder = out or _onnx.home() / _onnx.folder_name(backbone.id, precision, backbone.weights_hash)
    folder.parent.mkdir(parents=True, exist_ok=True)
    graph = Graph(backbone._image, torch.float16 if precision == "fp16" else torch.float32).eval()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as place:
        file = Path(place) / MODEL
        _write(graph, backbone.preprocess.size, file)
        if precision == "int8":
            _quantise(file, isinstance(backbone._image, ResNet), calibration)
        parity = _parity(backbone, file, graph.outputs, images) | {"on": images_are}
        worst = min(parity["cosine"].values())
        if precision != "int8" and not worst >= LEAST:
            raise BackboneError(
                f"The {precision} export of {backbone.id!r} does not agree with torch: "
                f"a cosine of {worst:.6f} where {LEAST} is the least.",
                "Nothing was written; choose fp32.",
            )
        card = _card(backbone, precision, graph.outputs, file, parity, licence)
        if precision == "int8":
            card["quantization"] = "static" if calibration is not None else "dynamic"
        folder.mkdir(exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)  # a model whose card is of another is refused; a card comes last
        file.replace(folder / MODEL)
        (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return _onnx.read_export(folder)


def _card(
    backbone: OpenCLIP, precision: str, outputs: list[str], file: Path, parity: dict[str, Any], licence: str
) -> dict[str, Any]:
    tower = backbone._image
    is_vit = isinstance(tower, ViT)
    return {
        "schema_version": _onnx.SCHEMA_VERSION,
        "id": backbone.id,
        "weights_hash": backbone.weights_hash,
        "licence": licence,
        "precision": precision,
        "quantization": None,
        "opset": OPSET,
        "sha256": digest_of(file),
        "outputs": outputs,
        "dim": backbone.dim,
        "logit_scale": backbone.logit_scale,
        "preprocess": asdict(backbone.preprocess),
        "grid": list(tower.grid) if is_vit else None,
        "prefix_tokens": tower.prefix if is_vit else 0,
        "pooled_tokens": [tower.pooled.start, tower.pooled.stop] if is_vit else None,
        "parity": parity,
        "versions": {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
    }


def _write(graph: Graph, side: int, file: Path) -> None:
    """The graph as a file of its own, weights inside, with any number of images."""
    with warnings.catch_warnings(), _quiet(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own deprecated calls
        made = torch.onnx.export(
            graph,
            (torch.zeros(2, 3, side, side),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=graph.outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert made is not None
        made.save(str(file), external_data=False)


def _quantise(file: Path, is_convolutional: bool, calibration: np.ndarray | None) -> None:
    """In place."""
    from onnxruntime import quantization as q

    model = onnx.load(file)
    del model.graph.value_info[:]  # names that torch's exporter gave to shapes, which the quantiser would have to agree with
    _own_weights(model.graph)
    kinds = ["MatMul", "Gemm"]
    how: dict[str, Any] = {
        "per_channel": True,
        "weight_type": q.QuantType.QInt8,
        "extra_options": {"MatMulConstBOnly": True},
    }
    with _quiet():
        if calibration is None:
            q.quantize_dynamic(model, file, op_types_to_quantize=kinds, **how)
            return
        kinds += ["Conv"] if is_convolutional else []
        # with the other format (QDQ) ONNX Runtime 1.31 gives wrong products of three dimensions: a cosine of 0.5
        how |= {
            "quant_format": q.QuantFormat.QOperator,
            "activation_type": q.QuantType.QUInt8,
        }  # QInt8 takes four times as long
        q.quantize_static(model, file, Given(calibration), op_types_to_quantize=kinds, **how)


def _own_weights(graph: onnx.GraphProto) -> None:
    """Each Gemm with a weight of its own: the quantiser transposes it, also where another node reads it (the projection of
    features and patches)."""
    weights = {each.name: each for each in graph.initializer}
    for i, node in enumerate(graph.node):
        if node.op_type == "Gemm" and node.input[1] in weights:
            own = graph.initializer.add()
            own.CopyFrom(weights[node.input[1]])
            node.input[1] = own.name = f"{own.name}_{i}"


class Given:
    """Images for the quantiser (onnxruntime.quantization.CalibrationDataReader), one at a time."""

    def __init__(self, images: np.ndarray):
        self._rest: Iterator[np.ndarray] = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._rest, None)
        return None if image is None else {INPUT: image[None].astype(np.float32)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without advice for developers on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _parity(backbone: OpenCLIP, file: Path, outputs: list[str], images: np.ndarray) -> dict[str, Any]:
    """Against torch in float32: the least cosine of features and patches, the largest difference of attention weights, and the
    share of images whose most likely modality is the same."""
    running = _onnx.session(file, "cpu")
    task = tasks()["modality"]
    with torch.no_grad():
        words = backbone.encode_texts([task.template.format(label.display) for label in task.labels]).numpy()
    cosines: dict[str, list[float]] = {name: [] for name in outputs if name != ATTENTION}
    apart, same = [0.0], []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        ours = dict(zip(outputs, running.run(outputs, {INPUT: part}), strict=True))
        theirs = _by_torch(backbone, torch.from_numpy(part), outputs)
        for name, found in cosines.items():
            found.append(float((ours[name] * theirs[name]).sum(axis=-1).min()))  # both have unit length
        if ATTENTION in outputs:
            apart.append(float(np.abs(ours[ATTENTION] - theirs[ATTENTION]).max()))
        same += list((ours[FEATURES] @ words.T).argmax(axis=1) == (theirs[FEATURES] @ words.T).argmax(axis=1))
    least = {name: min(found) for name, found in cosines.items()}
    return {"cosine": least, "attention_apart": max(apart), "top1_agreement": float(np.mean(same))}


def _by_torch(backbone: Any, x: Tensor, outputs: list[str]) -> dict[str, np.ndarray]:
    """The same outputs by the library's own forward and by the code that maps use."""
    with torch.no_grad():
        made = {FEATURES: backbone.encode_images(x)}
        if ATTENTION in outputs:
            made |= {PATCHES: backbone.value_patches(x), ATTENTION: backbone.last_attention(x)}
    return {name: value.numpy() for name, value in made.items()}
