"""open_clip models with a timm ViT image tower and a BERT-style text tower: the shape of BiomedCLIP and scope-mini.

A folder is open_clip's `local-dir` layout: open_clip_config.json, the weights (open_clip_model.safetensors or
open_clip_pytorch_model.bin) and the tokenizer's files. The text tower's own configuration is read from
text_config.json in the folder where there is one, else from the cache of the hub; never from the network.

Legend as in base.py.
"""

from __future__ import annotations

import copy
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch
import torch.nn.functional as F
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn

from engine.backbones.base import AttentionLayer, Embedded
from engine.errors import BackboneError
from engine.preprocess import Preprocess

CONFIG = "open_clip_config.json"
TEXT_CONFIG = "text_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors as stored; executes nothing (safetensors, or torch's weights_only reader). Raises BackboneError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except PermissionError as error:
        raise BackboneError(f"The weights {str(path)!r} may not be opened by this user.", "Give read permission.") from error
    except Exception as error:
        raise BackboneError(f"The weights {path.name!r} cannot be read: {error}.", "Fetch the file again.") from error


def build_model(folder: Path, text_config: Path | None = None) -> Any:
    """The architecture of a folder with random weights. Raises BackboneError.

    text_config : where the text tower's configuration is when the folder has none of its own
    """
    config = copy.deepcopy(read_config(folder)["model_cfg"])
    text = config["text_cfg"]
    name = text.get("hf_model_name")
    if not name or "timm_model_name" not in config["vision_cfg"]:
        raise BackboneError(
            f"The towers in {str(folder)!r} are not a timm ViT and a BERT-style text tower.",
            "This version reads models of BiomedCLIP's shape.",
        )
    if (folder / TEXT_CONFIG).is_file():
        text_config = folder / TEXT_CONFIG
    if text_config is None:
        cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
        if not isinstance(cached, str):
            raise BackboneError(
                f"The text tower's configuration {name!r} is not on this machine.",
                f"Put it into {str(folder)!r} as {TEXT_CONFIG}.",
            )
        text_config = Path(cached)
    text |= {"hf_model_name": str(text_config), "hf_model_pretrained": False}
    config["vision_cfg"]["timm_model_pretrained"] = False
    config.pop("custom_text", None)
    return open_clip.model.CustomTextCLIP(**config)


class TimmBertCLIP:
    """A frozen open_clip model as a backbone: Backbone, PromptTunable, PatchLevel and Differentiable.

    Frozen is frozen: eval mode, no gradients, dropout only where `encode_embedded(..., dropout=True)` asks for it.
    """

    def __init__(self, id: str, folder: Path, source: str, device: str, dtype: str, text_config: Path | None = None):
        if dtype not in DTYPES:
            raise BackboneError(f"There is no precision {dtype!r}.", f"Choose one of: {', '.join(DTYPES)}.")
        try:
            self._device = torch.device(device)
            torch.empty(0, device=self._device)
        except (RuntimeError, AssertionError) as error:
            raise BackboneError(f"This machine cannot compute on {device!r}.", "Choose 'cpu'.") from error
        config = read_config(folder)
        self.id, self.source, self.device, self.dtype = id, source, device, dtype
        self._folder, self._config = folder, config
        model = build_model(folder, text_config)
        if not isinstance(model.visual, TimmModel) or not isinstance(model.visual.trunk, VisionTransformer):
            raise BackboneError(f"The image tower of {id!r} is not a timm ViT, which this version does not read yet.")
        if not isinstance(model.text, HFTextEncoder):
            raise BackboneError(f"The text tower of {id!r} is not a BERT-style tower, which this version does not read yet.")
        self._load(model)
        self._model: Any = model.eval().requires_grad_(False).to(self._device, DTYPES[dtype])
        self._trunk, self._text = self._model.visual.trunk, self._model.text
        self._tokenizer = self._read_tokenizer()
        self._clean = open_clip.tokenizer.get_clean_fn("whitespace")
        self._pad = int(self._text.config.pad_token_id)
        self.dim = int(config["model_cfg"]["embed_dim"])
        self.logit_scale = float(model.logit_scale.exp())
        self.context_length = int(config["model_cfg"]["text_cfg"].get("context_length", 77))
        self.token_width = int(self._text.config.hidden_size)
        side = self._model.visual.image_size
        how = config["preprocess_cfg"]
        self.preprocess = Preprocess(
            size=side[0] if isinstance(side, (tuple, list)) else int(side),
            mean=tuple(how["mean"]),
            std=tuple(how["std"]),
            interpolation=how.get("interpolation", "bicubic"),
            resize=how.get("resize_mode", "shortest"),
        )
        self.grid: tuple[int, int] = tuple(self._trunk.patch_embed.grid_size)
        self.prefix_tokens = int(self._trunk.num_prefix_tokens)

    def _load(self, model: nn.Module) -> None:
        """Every tensor the model needs, none that it does not know. Raises BackboneError."""
        stored = read_weights(weights_file(self._folder))
        # transformers before 4.31 stored this constant; later ones do not (open_clip PR 595)
        stored = {k: v for k, v in stored.items() if not k.endswith("embeddings.position_ids")}
        wanted = model.state_dict()
        missing, unknown = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
        wrong = [k for k in wanted.keys() & stored.keys() if wanted[k].shape != stored[k].shape]
        for what, names in (("lack", missing), ("have unknown", unknown), ("have a wrong shape for", sorted(wrong))):
            if names:
                shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                raise BackboneError(
                    f"The weights of {self.id!r} {what} {shown}.", "They belong to another architecture: check the folder."
                )
        model.load_state_dict({k: v.float() for k, v in stored.items()})

    def _read_tokenizer(self) -> Tokenizer:
        path = self._folder / "tokenizer.json"
        if not path.is_file():
            raise BackboneError(
                f"The folder {str(self._folder)!r} has no tokenizer.json.", "Copy the tokenizer's files too."
            )
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def weights_hash(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(read_weights(weights_file(self._folder)).items()):
            digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        digest.update((self._folder / "tokenizer.json").read_bytes())
        digest.update(json.dumps(self._config["preprocess_cfg"], sort_keys=True).encode())
        return digest.hexdigest()

    # images

    def encode_images(self, x: Tensor, visual_prompt: Tensor | None = None) -> Tensor:
        if visual_prompt is not None:
            raise BackboneError(f"The backbone {self.id!r} takes no visual prompt yet.")
        features = self._model.encode_image(self._moved(x))
        return F.normalize(features.float(), dim=-1)

    def encode_patches(self, x: Tensor) -> Tensor:
        tokens = self._trunk.forward_features(self._moved(x))[:, self.prefix_tokens :]
        patches = F.normalize(self._joint(tokens).float(), dim=-1)
        return patches.unflatten(1, self.grid)

    def attention_layers(self, x: Tensor, last: int) -> list[AttentionLayer]:
        trunk, blocks = self._trunk, list(self._trunk.blocks)
        with torch.no_grad():
            tokens = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(self._moved(x)))))
            for block in blocks[:-last]:
                tokens = block(tokens)
        layers = []
        for block in blocks[-last:]:
            with torch.enable_grad():
                weights, after = _attention(block, tokens.detach())
                # LeGrad: the mean over all tokens of the block's output, carried to the joint space
                pooled = F.normalize(self._joint(trunk.norm(after.mean(dim=1))).float(), dim=-1)
            layers.append(AttentionLayer(weights, pooled))
            tokens = after.detach()
        return layers

    def _joint(self, tokens: Tensor) -> Tensor:
        return self._model.visual.head(self._trunk.head(self._trunk.fc_norm(tokens)))

    def _moved(self, x: Tensor) -> Tensor:
        return x.to(self._device, DTYPES[self.dtype])

    # texts

    def tokenize(self, texts: list[str]) -> Tensor:
        rows = [e.ids for e in self._tokenizer.encode_batch([self._clean(text) for text in texts])]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.context_length:
                raise BackboneError(
                    f"The text {text[:60]!r}... has {len(row)} tokens; {self.id!r} reads at most {self.context_length}.",
                    "Shorten it.",
                )
        longest = max(len(row) for row in rows)
        return torch.tensor([row + [self._pad] * (longest - len(row)) for row in rows])

    def encode_texts(self, texts: list[str]) -> Tensor:
        features = self._model.encode_text(self.tokenize(texts).to(self._device))
        return F.normalize(features.float(), dim=-1)

    def embed_tokens(self, ids: Tensor) -> Embedded:
        ids = ids.to(self._device)
        return Embedded(self._text.transformer.get_input_embeddings()(ids), ids)

    def encode_embedded(self, text: Embedded, dropout: bool = False) -> Tensor:
        mask = (text.ids != self._pad).long()
        self._text.transformer.train(dropout)
        try:
            out = self._text.transformer(inputs_embeds=text.vectors.to(DTYPES[self.dtype]), attention_mask=mask)
        finally:
            self._text.transformer.eval()
        return F.normalize(self._text.proj(self._text.pooler(out, mask)).float(), dim=-1)


def _attention(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """One timm block with its attention in sight: weights (B, H, T, T), a leaf with a graph to the output (B, T, W)."""
    attn = block.attn
    b, t, _ = tokens.shape
    with torch.no_grad():
        q, k, v = attn.qkv(block.norm1(tokens)).reshape(b, t, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        weights = (attn.q_norm(q) * attn.scale @ attn.k_norm(k).transpose(-2, -1)).softmax(dim=-1)
    weights = weights.requires_grad_(True)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    tokens = tokens + block.ls1(attn.proj(attn.norm(mixed)))
    return weights, tokens + block.ls2(block.mlp(block.norm2(tokens)))
