"""How long a computation takes, and the least it could take on this machine: its floor, for `bench`.

A floor is the larger of two times: operations over the rate at which this machine multiplies large matrices in that precision, and
bytes that must be moved over the rate at which it copies. Both rates are measured in the same run, with the same
threads. Operations are counted as torch dispatches them (torch.utils.flop_counter: products, convolutions and attention, a
multiplication and an addition as two); what is no product (norms, activations, softmax) counts nothing, so that no program reaches
its floor. Bytes are what a part says it has to read at least: weights once, and its inputs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine.errors import EngineError

ROUNDS = 7
SIDE = 2048  # of the square matrices: 17 GFLOP, more than a tower's products need to reach their rate
COPIED = 256 << 20  # bytes: more than any cache
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Part:
    """Something that is timed. precision : of its products; reads : bytes it must read at least"""

    run: Callable[[], Any]
    precision: str = "float32"
    reads: int = 0
    device: str = "cpu"


def interleaved(*sides: Callable[[], Any], rounds: int = ROUNDS, device: str = "cpu") -> list[list[float]]:
    """Seconds of every round of each side, taken in turn, so that a drift of the machine's speed touches all."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for each, kept in zip(sides, taken, strict=True):
            began = time.perf_counter()
            each()
            if device != "cpu":
                torch.cuda.synchronize(device)
            kept.append(time.perf_counter() - began)
    return taken


def medians(*sides: Callable[[], Any], rounds: int = ROUNDS, device: str = "cpu") -> list[float]:
    """Median seconds of each side, after one round that is not counted."""
    return [statistics.median(kept[1:]) for kept in interleaved(*sides, rounds=rounds + 1, device=device)]


def measure(parts: dict[str, Part], rounds: int = ROUNDS) -> dict[str, dict[str, Any]]:
    """Every part's time beside its floor (`told`). The round that is not counted counts its operations."""
    counted = {name: operations(each.run) for name, each in parts.items()}
    devices = {each.device for each in parts.values()}
    taken = interleaved(*(each.run for each in parts.values()), rounds=rounds, device=devices.pop())
    return {
        name: told(statistics.median(kept), counted[name], each)
        for (name, each), kept in zip(parts.items(), taken, strict=True)
    }


def told(seconds: float, counted: float, part: Part) -> dict[str, Any]:
    """ms : measured; floor_ms : the least it could take; share : of the floor in the time, 1 where nothing is lost; bound : which
    of the two makes the floor; gflop, mb : what was counted"""
    products = counted / matrix_rate(part.precision, part.device)
    moved = part.reads / bandwidth(part.device)
    floor = max(products, moved)
    return {
        "ms": 1e3 * seconds,
        "floor_ms": 1e3 * floor,
        "share": floor / seconds,
        "bound": "operations" if products >= moved else "bytes",
        "gflop": counted / 1e9,
        "mb": part.reads / 1e6,
        "precision": part.precision,
    }


def _of_packed(given: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    return 2 * given.numel() * out_shape[-1]


# a layer whose weights are in oneDNN's own order (backbones/_packed.py) is unknown to torch's counter
COUNTED = {torch.ops.mkldnn._linear_pointwise: _of_packed} if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {}


def operations(run: Callable[[], Any]) -> int:
    """Of one run, its backward pass included."""
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        run()
    return counter.get_total_flops()


def weight_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def products(precision: str, device: str = "cpu", side: int = SIDE) -> list[Callable[[], Any]]:
    """The roads that torch has to the product of two square matrices: its own, and on a processor oneDNN with its own layout
    of the weights, which is the faster one on some."""
    if precision not in DTYPES:
        raise EngineError(f"bench knows no precision {precision!r}.", f"Choose one of: {', '.join(DTYPES)}.")
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    roads: list[Callable[[], Any]] = [lambda: a @ b]
    if device == "cpu" and torch.backends.mkldnn.is_available() and precision != "float16":
        given, weights = a.to_mkldnn(), b.to_mkldnn()
        roads.append(lambda: torch._C._nn.mkldnn_linear(given, weights, None))
    return roads


@cache
def matrix_rate(precision: str, device: str = "cpu") -> float:
    """Operations a second of the fastest of `products`, measured once in a run."""
    with torch.no_grad():
        return 2 * SIDE**3 / min(medians(*products(precision, device), rounds=5, device=device))


@cache
def bandwidth(device: str = "cpu") -> float:
    """Bytes a second, read and written, of a large copy, measured once in a run."""
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    (seconds,) = medians(lambda: target.copy_(source), rounds=5, device=device)
    return 2 * COPIED / seconds
