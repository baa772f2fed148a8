"""Heads: how features become scores. numpy only, so that a shared-image set needs no torch.

`linear` is here; `cache` (Tip-Adapter), `adapter` (CLIP-Adapter) and `conditional` (CoCoOp) come with their methods,
one class and one line in HEADS each.

Legend: B images, C classes, D joint embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.errors import PromptSetError


class Head(Protocol):
    """classes : C. class_embeddings : (C, D) unit length, or None where the head has none (then there is no map)."""

    @property
    def classes(self) -> int: ...

    @property
    def class_embeddings(self) -> np.ndarray | None: ...

    def scores(self, features: np.ndarray) -> np.ndarray:
        """features (B, D) float32, unit length -> (B, C) float32 logits."""
        ...

    def tensors(self) -> dict[str, np.ndarray]:
        """What `from_tensors` takes."""
        ...


@dataclass(frozen=True)
class LinearHead:
    """scores = scale * features @ embeddings.T + bias. embeddings (C, D) float32, unit length; bias (C,)."""

    embeddings: np.ndarray
    scale: float
    bias: np.ndarray

    @property
    def classes(self) -> int:
        return len(self.embeddings)

    @property
    def class_embeddings(self) -> np.ndarray:
        return self.embeddings

    def scores(self, features: np.ndarray) -> np.ndarray:
        if features.ndim != 2 or features.shape[1] != self.embeddings.shape[1]:
            raise PromptSetError(
                f"The image features have the shape {features.shape}; this prompt set takes (B, {self.embeddings.shape[1]})."
            )
        return (self.scale * features @ self.embeddings.T + self.bias).astype(np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        scale = np.asarray([self.scale], dtype=np.float32)
        return {"embeddings": self.embeddings.astype(np.float32), "scale": scale, "bias": self.bias.astype(np.float32)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> LinearHead:
        """Raises PromptSetError where a tensor is missing, has a wrong shape or is damaged."""
        missing = sorted({"embeddings", "scale", "bias"} - tensors.keys())
        if missing:
            raise PromptSetError(f"The tensor {missing[0]!r} is missing.")
        embeddings, scale, bias = tensors["embeddings"], tensors["scale"], tensors["bias"]
        if embeddings.ndim != 2 or not embeddings.size or scale.shape != (1,) or bias.shape != (len(embeddings),):
            raise PromptSetError(f"Tensor shapes do not fit: {embeddings.shape}, {scale.shape}, {bias.shape}.")
        if not all(t.dtype == np.float32 and np.isfinite(t).all() for t in (embeddings, scale, bias)):
            raise PromptSetError("A tensor holds values that are no finite float32 numbers.")
        lengths = np.linalg.norm(embeddings, axis=1)
        if np.abs(lengths - 1).max() > 1e-3:  # float32 rounding is far below
            raise PromptSetError(f"A class embedding has the length {lengths[np.abs(lengths - 1).argmax()]:.3f}, not 1.")
        return cls(embeddings, float(scale[0]), bias)


HEADS = {"linear": LinearHead}
