"""Heads: how features become scores. numpy only, so that a shared-image set needs no torch.

One class and one line in HEADS each. What a head computes is said once, here; the methods that learn it compute the same
in torch, and a test holds them together.

Legend: B images, C classes, D joint embedding, N cached images, n context rows, W token width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

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


def _fits(features: np.ndarray, dim: int) -> None:
    if features.ndim != 2 or features.shape[1] != dim:
        raise PromptSetError(f"The image features have the shape {features.shape}; this prompt set takes (B, {dim}).")


def _checked(tensors: dict[str, np.ndarray], shapes: dict[str, tuple[str | int, ...]]) -> list[np.ndarray]:
    """The tensors in the order of `shapes`, finite float32, with equal letters of equal size. Raises PromptSetError."""
    missing = sorted(shapes.keys() - tensors.keys())
    if missing:
        raise PromptSetError(f"The tensor {missing[0]!r} is missing.")
    sizes: dict[str | int, int] = {}
    found = [tensors[name] for name in shapes]
    for name, shape in shapes.items():
        actual = tensors[name].shape
        expected = tuple(size if isinstance(size, int) else sizes.get(size) for size in shape)
        if (
            len(actual) != len(shape)
            or 0 in actual
            or any(e not in (None, a) for e, a in zip(expected, actual, strict=True))
        ):
            raise PromptSetError(f"The tensor {name!r} has the shape {actual}, which does not fit ({shape}, {sizes}).")
        sizes |= {letter: size for letter, size in zip(shape, actual, strict=True) if isinstance(letter, str)}
    if not all(t.dtype == np.float32 and np.isfinite(t).all() for t in found):
        raise PromptSetError("A tensor holds values that are no finite float32 numbers.")
    return found


def _unit_rows(rows: np.ndarray, what: str) -> None:
    lengths = np.linalg.norm(rows, axis=1)
    if np.abs(lengths - 1).max() > 1e-3:  # float32 rounding is far below
        raise PromptSetError(f"A {what} has the length {lengths[np.abs(lengths - 1).argmax()]:.3f}, not 1.")


def _number(value: float) -> np.ndarray:
    return np.asarray([value], dtype=np.float32)


@dataclass(frozen=True)
class LinearHead:
    """scores = scale * features @ embeddings.T + bias. embeddings (C, D) float32, unit length; bias (C,).

    scale : one number, or (C,) where the classes have weights of different length (linear probe, LP++)
    """

    embeddings: np.ndarray
    scale: float | np.ndarray
    bias: np.ndarray

    @property
    def classes(self) -> int:
        return len(self.embeddings)

    @property
    def class_embeddings(self) -> np.ndarray:
        return self.embeddings

    def scores(self, features: np.ndarray) -> np.ndarray:
        _fits(features, self.embeddings.shape[1])
        return (self.scale * (features @ self.embeddings.T) + self.bias).astype(np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        scale = np.atleast_1d(np.asarray(self.scale, dtype=np.float32))
        return {"embeddings": self.embeddings.astype(np.float32), "scale": scale, "bias": self.bias.astype(np.float32)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> LinearHead:
        """Raises PromptSetError where a tensor is missing, has a wrong shape or is damaged."""
        per_class = np.shape(tensors.get("scale", ())) != (1,)
        shape: tuple[str | int, ...] = ("C",) if per_class else (1,)
        embeddings, scale, bias = _checked(tensors, {"embeddings": ("C", "D"), "scale": shape, "bias": ("C",)})
        _unit_rows(embeddings, "class embedding")
        return cls(embeddings, scale if per_class else float(scale[0]), bias)

    @classmethod
    def of_weights(cls, weights: np.ndarray, bias: np.ndarray) -> LinearHead:
        """From weights (C, D) of any length: scores = features @ weights.T + bias."""
        lengths = np.linalg.norm(weights, axis=1, keepdims=True)
        some = np.full(weights.shape, weights.shape[1] ** -0.5)  # the direction of a row of zeros, whose scale is 0
        directions = np.divide(weights, lengths, out=some, where=lengths > 0)
        return cls(directions.astype(np.float32), lengths[:, 0].astype(np.float32), bias.astype(np.float32))


@dataclass(frozen=True)
class CacheHead:
    """Tip-Adapter, arXiv:2207.09519, eq. 4 to 6: a linear classifier and a cache of labelled images.

    scores = scale * v @ embeddings.T + alpha * exp(-beta * (1 - v @ keys.T)) @ values
    keys (N, D), unit length before they are fine-tuned; values (N, C), one-hot
    """

    embeddings: np.ndarray
    scale: float
    keys: np.ndarray
    values: np.ndarray
    alpha: float
    beta: float

    @property
    def classes(self) -> int:
        return len(self.embeddings)

    @property
    def class_embeddings(self) -> None:
        return None

    def scores(self, features: np.ndarray) -> np.ndarray:
        _fits(features, self.embeddings.shape[1])
        near = np.exp(-self.beta * (1 - features @ self.keys.T)) @ self.values
        return (self.scale * features @ self.embeddings.T + self.alpha * near).astype(np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        numbers = {"scale": _number(self.scale), "alpha": _number(self.alpha), "beta": _number(self.beta)}
        return {"embeddings": self.embeddings, "keys": self.keys, "values": self.values} | numbers

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> CacheHead:
        """Raises PromptSetError where a tensor is missing, has a wrong shape or is damaged."""
        shapes: dict[str, tuple[str | int, ...]] = {"embeddings": ("C", "D"), "keys": ("N", "D"), "values": ("N", "C")}
        shapes |= {"scale": (1,), "alpha": (1,), "beta": (1,)}
        embeddings, keys, values, scale, alpha, beta = _checked(tensors, shapes)
        _unit_rows(embeddings, "class embedding")
        return cls(embeddings, float(scale[0]), keys, values, float(alpha[0]), float(beta[0]))


@dataclass(frozen=True)
class AdapterHead:
    """CLIP-Adapter, arXiv:2110.04544, eq. 3 to 5: scores = scale * (ratio * A(v) + (1 - ratio) * v) @ embeddings.T,
    A(v) = relu(relu(v @ down.T) @ up.T); the adapted feature is not brought to unit length again.

    down (H, D), up (D, H)
    """

    embeddings: np.ndarray
    scale: float
    down: np.ndarray
    up: np.ndarray
    ratio: float

    @property
    def classes(self) -> int:
        return len(self.embeddings)

    @property
    def class_embeddings(self) -> None:
        return None

    def scores(self, features: np.ndarray) -> np.ndarray:
        _fits(features, self.embeddings.shape[1])
        adapted = np.maximum(np.maximum(features @ self.down.T, 0) @ self.up.T, 0)
        mixed = self.ratio * adapted + (1 - self.ratio) * features
        return (self.scale * mixed @ self.embeddings.T).astype(np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        numbers = {"scale": _number(self.scale), "ratio": _number(self.ratio)}
        return {"embeddings": self.embeddings, "down": self.down, "up": self.up} | numbers

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> AdapterHead:
        """Raises PromptSetError where a tensor is missing, has a wrong shape or is damaged."""
        shapes: dict[str, tuple[str | int, ...]] = {"embeddings": ("C", "D"), "down": ("H", "D"), "up": ("D", "H")}
        embeddings, down, up, scale, ratio = _checked(tensors, shapes | {"scale": (1,), "ratio": (1,)})
        _unit_rows(embeddings, "class embedding")
        return cls(embeddings, float(scale[0]), down, up, float(ratio[0]))


@dataclass(frozen=True)
class ConditionalHead:
    """CoCoOp, arXiv:2203.05557, section 3.2: each image has its own class embeddings.

    context_b = context + meta(v_b), meta = Linear, ReLU, Linear; scores_bc = scale * v_b . text(context_b, class c)
    context (n, W); weights of meta (H, D), (H,), (W, H), (W,); count : C
    encode : contexts (B, n, W) -> (B, C, D) unit length; the text tower, which `engine.predict.bound` gives
    """

    context: np.ndarray
    meta: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    scale: float
    count: int
    encode: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def classes(self) -> int:
        return self.count

    @property
    def class_embeddings(self) -> None:
        return None

    def scores(self, features: np.ndarray) -> np.ndarray:
        first, first_bias, second, second_bias = self.meta
        _fits(features, first.shape[1])
        if self.encode is None:
            raise PromptSetError("This prompt set asks the text tower at every image.", "Use it with its backbone.")
        shifts = np.maximum(features @ first.T + first_bias, 0) @ second.T + second_bias  # (B, W)
        texts = self.encode(self.context + shifts[:, None])  # (B, C, D)
        return (self.scale * np.einsum("bd,bcd->bc", features, texts)).astype(np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        numbers = {"scale": _number(self.scale), "classes": _number(self.count)}
        return {"context": self.context} | {f"meta.{i}": each for i, each in enumerate(self.meta)} | numbers

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> ConditionalHead:
        """Raises PromptSetError where a tensor is missing, has a wrong shape or is damaged."""
        shapes: dict[str, tuple[str | int, ...]] = {"context": ("n", "W"), "meta.0": ("H", "D"), "meta.1": ("H",)}
        shapes |= {"meta.2": ("W", "H"), "meta.3": ("W",), "scale": (1,), "classes": (1,)}
        context, first, first_bias, second, second_bias, scale, count = _checked(tensors, shapes)
        return cls(context, (first, first_bias, second, second_bias), float(scale[0]), int(count[0]))


HEADS: dict[str, Any] = {"linear": LinearHead, "cache": CacheHead, "adapter": AdapterHead, "conditional": ConditionalHead}
