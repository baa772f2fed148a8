"""open_clip models as backbones, whatever their towers: Files say where a model is, OpenCLIP computes with it.

A folder is open_clip's `local-dir` layout: open_clip_config.json, the weights (open_clip_model.safetensors or
open_clip_pytorch_model.bin) and, for BERT, the tokenizer's files. BERT's own configuration is read from
text_config.json in the folder where there is one, else from the cache of the hub; never from the network.

Legend as in base.py.
"""

from __future__ import annotations

import copy
import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from engine import processor
from engine.backbones import _packed, _precision
from engine.backbones._image_towers import ViT, image_tower
from engine.backbones._text_towers import text_tower
from engine.backbones.base import AttentionLayer, Embedded
from engine.errors import BackboneError
from engine.preprocess import Preprocess
from engine.types import VisualPrompt

CONFIG = "open_clip_config.json"
TEXT_CONFIG = "text_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# open_clip's own defaults, which are OpenAI's (open_clip.constants)
CLIP_PREPROCESS = {
    "mean": list(open_clip.OPENAI_DATASET_MEAN),
    "std": list(open_clip.OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@dataclass(frozen=True)
class Files:
    """Where a model's parts are.

    config : as in open_clip_config.json; weights : reads the tensors as stored, by open_clip's names
    tokenizer : where BERT's tokenizer.json or vocab.txt should be; text_config : BERT's configuration; CLIP has neither
    """

    config: dict[str, Any]
    weights: Callable[[], dict[str, Tensor]]
    tokenizer: Path | None = None
    text_config: Path | None = None


def local_dir(folder: Path, text_config: Path | None = None) -> Files:
    """A folder's files. text_config : BERT's configuration where the folder has none. Raises BackboneError."""
    config, weights = read_config(folder), weights_file(folder)
    return Files(config, lambda: read_weights(weights), folder / "tokenizer.json", _text_config(folder, text_config))


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's open_clip_config.json. Raises BackboneError."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(
            f"The folder {str(folder)!r} has no {CONFIG}.", "It should be an open_clip local-dir folder."
        ) from None
    except (OSError, ValueError) as error:
        raise BackboneError(f"{CONFIG} in {str(folder)!r} cannot be read: {error}.") from error
    try:
        _ = config["model_cfg"]["embed_dim"], config["model_cfg"]["vision_cfg"], config["model_cfg"]["text_cfg"]
        _ = config["preprocess_cfg"]["mean"], config["preprocess_cfg"]["std"]
    except (KeyError, TypeError) as error:
        raise BackboneError(f"{CONFIG} in {str(folder)!r} lacks {error}.") from error
    return config


def weights_file(folder: Path) -> Path:
    """The weights in the folder, safetensors first. Raises BackboneError."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise BackboneError(f"The folder {str(folder)!r} holds no weights.", f"It should have {' or '.join(WEIGHTS)}.")


def read_tensors(path: Path) -> Any:
    """What a file of weights holds, mapped into memory rather than copied; executes nothing (safetensors, or torch's
    weights_only reader). Raises BackboneError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError as error:
        raise BackboneError(f"The weights {str(path)!r} may not be opened by this user.", "Give read permission.") from error
    except Exception as error:
        raise BackboneError(f"The weights {path.name!r} cannot be read: {error}.", "Fetch the file again.") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors by name, as stored. A training checkpoint has them under state_dict, and as module.* where it was
    trained in parallel. Raises BackboneError."""
    found = read_tensors(path)
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(each, Tensor) for each in found.values()):
        raise BackboneError(f"The file {path.name!r} holds no weights by name.", "Fetch the file again.")
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def build_model(folder: Path, text_config: Path | None = None) -> Any:
    """The architecture of a folder with random weights. Raises BackboneError.

    text_config : where the text tower's configuration is when the folder has none of its own
    """
    return built(read_config(folder)["model_cfg"], _text_config(folder, text_config))


def _text_config(folder: Path, otherwise: Path | None) -> Path | None:
    return folder / TEXT_CONFIG if (folder / TEXT_CONFIG).is_file() else otherwise


def built(model_cfg: dict[str, Any], text_config: Path | None) -> Any:
    """open_clip's model with random weights. text_config : BERT's configuration. Raises BackboneError."""
    config = copy.deepcopy(model_cfg)
    vision, text = config["vision_cfg"], config["text_cfg"]
    custom = config.pop("custom_text", False)
    name = text.get("hf_model_name")
    if name:
        if text_config is None:
            cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
            if not isinstance(cached, str):
                raise BackboneError(
                    f"The text tower's configuration {name!r} is not on this machine.",
                    f"Put it into the model's folder as {TEXT_CONFIG}.",
                )
            text_config = Path(cached)
        text |= {"hf_model_name": str(text_config), "hf_model_pretrained": False}
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    kind = open_clip.model.CustomTextCLIP if custom or name else open_clip.model.CLIP
    try:
        return kind(**config)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise BackboneError(
            f"open_clip {open_clip.__version__} cannot build the architecture: {error}.", f"Check {CONFIG}."
        ) from error


def load(id: str, source: str, files: Files, device: str, dtype: str) -> OpenCLIP:
    """The backbone, frozen. The architecture is built without numbers and then given the file's own pages, so that weights are
    in memory once, and shared between processes where they stay in the file's precision. Raises BackboneError."""
    dtype = _precision.asked(dtype)
    if dtype not in (_precision.AUTO, *DTYPES):
        raise BackboneError(f"There is no precision {dtype!r}.", f"Choose one of: {', '.join((_precision.AUTO, *DTYPES))}.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(f"This machine cannot compute on {device!r}.", "Choose 'cpu'.") from error
    if torch.get_num_threads() > processor.threads():
        torch.set_num_threads(processor.threads())
    with torch.device("meta"):
        model = built(files.config["model_cfg"], files.text_config)
    tower = image_tower(model.visual)
    kind = OpenClipViT if isinstance(tower, ViT) else OpenCLIP
    return kind(id, source, files, device, dtype, model, tower)


def _fill_constants(model: nn.Module) -> None:
    """What a model computes when it is built and no file holds. Raises BackboneError where that is something unknown."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not buffer.is_meta:
                continue
            if name == "position_ids":
                made = torch.arange(buffer.shape[-1]).expand(buffer.shape)
            elif name == "token_type_ids":
                made = torch.zeros(buffer.shape, dtype=buffer.dtype)
            elif name == "attn_mask":  # causal
                made = torch.full(buffer.shape, float("-inf")).triu_(1)
            else:
                raise BackboneError(f"The architecture has a constant {name!r} that is not known.", "Choose another model.")
            module.register_buffer(name, made, persistent=False)


class OpenCLIP:
    """A frozen open_clip model as a backbone: Backbone, PromptTunable and VisualPrompted.

    Frozen is frozen: eval mode, no gradients, dropout only where `encode_embedded(..., dropout=True)` asks for it.
    """

    def __init__(self, id: str, source: str, files: Files, device: str, dtype: str, model: Any, tower: Any):
        self.id, self.source, self.device = id, source, device
        self._files, text_cfg = files, files.config["model_cfg"]["text_cfg"]
        self._image = tower
        self._text = text_tower(model, text_cfg, files.tokenizer)
        self._load(model)
        side, how = model.visual.image_size, files.config["preprocess_cfg"]
        size = side[0] if isinstance(side, (tuple, list)) else int(side)
        model.eval().requires_grad_(False).to(device)
        if dtype == _precision.AUTO:
            dtype = _precision.chosen(model.visual, files.config["model_cfg"]["vision_cfg"], size, device)
        self.dtype, self._model = dtype, model.to(DTYPES[dtype])
        _packed.pack(model.visual, device, DTYPES[dtype])
        self.dim = int(files.config["model_cfg"]["embed_dim"])
        self.logit_scale = float(model.logit_scale.exp())
        self.context_length = int(text_cfg.get("context_length", 77))
        self.token_width, self.text_layers = self._text.width, self._text.layers
        self.visual_prompt_width, self.inserts_visual_prompts = self._image.width, self._image.inserts
        self.preprocess = Preprocess(
            size=size,
            mean=tuple(how["mean"]),
            std=tuple(how["std"]),
            interpolation=how.get("interpolation", "bicubic"),
            resize=how.get("resize_mode", "shortest"),
        )

    def _load(self, model: nn.Module) -> None:
        """Every tensor the model needs, none that it does not know. Raises BackboneError."""
        # transformers before 4.31 stored this constant; later ones do not (open_clip PR 595)
        stored = {k: v for k, v in self._files.weights().items() if not k.endswith("embeddings.position_ids")}
        wanted = model.state_dict()
        missing, unknown = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
        wrong = [k for k in wanted.keys() & stored.keys() if wanted[k].shape != stored[k].shape]
        for what, names in (("lack", missing), ("have unknown", unknown), ("have a wrong shape for", sorted(wrong))):
            if names:
                shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                raise BackboneError(
                    f"The weights of {self.id!r} {what} {shown}.", "They belong to another architecture: check the folder."
                )
        model.load_state_dict({k: v.float() for k, v in stored.items()}, assign=True)
        _fill_constants(model)

    @cached_property
    def weights_hash(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self._files.weights().items()):
            digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        digest.update(self._text.vocabulary)
        digest.update(json.dumps(self._files.config["preprocess_cfg"], sort_keys=True).encode())
        return digest.hexdigest()

    # images

    def encode_images(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
        return F.normalize(self._image.features(self._moved(x), visual_prompt).float(), dim=-1)

    def _moved(self, x: Tensor) -> Tensor:
        return x.to(self.device, DTYPES[self.dtype])

    # texts

    def tokenize(self, texts: list[str]) -> Tensor:
        rows = self._text.ids(texts)
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.context_length:
                raise BackboneError(
                    f"The text {text[:60]!r}... has {len(row)} tokens; {self.id!r} reads at most {self.context_length}.",
                    "Shorten it.",
                )
        longest = max(len(row) for row in rows)
        return torch.tensor([row + [self._text.pad] * (longest - len(row)) for row in rows])

    def encode_texts(self, texts: list[str]) -> Tensor:
        return self.encode_embedded(self.embed_tokens(self.tokenize(texts)))

    def embed_tokens(self, ids: Tensor) -> Embedded:
        ids = ids.to(self.device)
        return Embedded(self._text.embed(ids), ids)

    def encode_embedded(self, text: Embedded, dropout: bool = False, deep: Tensor | None = None) -> Tensor:
        if deep is not None and len(deep) >= self.text_layers:
            raise BackboneError(
                f"There are {len(deep)} deep prompts; the text tower of {self.id!r} takes at most {self.text_layers - 1}.",
                "Choose a smaller depth.",
            )
        return F.normalize(self._text.features(self._moved(text.vectors), text.ids, dropout, deep).float(), dim=-1)


class OpenClipViT(OpenCLIP):
    """With a ViT as image tower also PatchLevel and Differentiable."""

    def __init__(self, *parts: Any):
        super().__init__(*parts)
        self.grid: tuple[int, int] = self._image.grid
        self.prefix_tokens = self._image.prefix

    def encode_patches(self, x: Tensor) -> Tensor:
        return F.normalize(self._image.patches(self._moved(x)).float(), dim=-1)

    def attention_layers(self, x: Tensor, last: int, visual_prompt: VisualPrompt | None = None) -> list[AttentionLayer]:
        return self._image.attention_layers(self._moved(x), last, visual_prompt)
