"""Which precision computes faster on this machine: measured once for an architecture, and remembered in the cache folder.

bfloat16 is twice as fast as float32 where the processor has units for it (AMX, AVX512-BF16) and several times slower where it
has none; what a processor says of itself does not decide that, a timing of the tower itself does. float32 stays
unless bfloat16 is clearly faster (GAIN). PROMPTSCOPE_PRECISION, where it is set, decides instead.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from engine import processor
from engine.store import folder

AUTO = "auto"
GAIN = 1.15  # bfloat16 rounds to 8 bits: it must save an eighth of the time at least
ROUNDS = 3

Seconds = Callable[[], float]  # runs a forward once


def asked(precision: str) -> str:
    """The same; for "auto" what the operator set, where he set something."""
    return os.environ.get("PROMPTSCOPE_PRECISION", AUTO) if precision == AUTO else precision


def chosen(tower: nn.Module, architecture: dict[str, Any], size: int, device: str) -> str:
    """ "float32" or "bfloat16", remembered by machine, device, threads, torch and architecture.

    tower : an image tower in float32 on `device`; architecture : its configuration; size : S of its input (1, 3, S, S)
    """
    if device != "cpu" and os.environ.get("SPACES_ZERO_GPU"):
        return "bfloat16"  # the GPU is lent later, for seconds: nothing can be timed now, and every GPU lent there has the units
    path, key = folder() / "precision.json", _key(architecture, device)
    known = _read(path)
    if key not in known:
        known[key] = decide(_forward(tower, size, device, torch.float32), _forward(tower, size, device, torch.bfloat16))
        _write(path, known)
    return known[key]["precision"]


def decide(full: Seconds, half: Seconds) -> dict[str, Any]:
    """Both in turn, after a round that is not counted, so that a busy moment touches both."""
    taken = [(full(), half()) for _ in range(ROUNDS + 1)][1:]
    gain = statistics.median(a / b for a, b in taken)
    milliseconds = {
        f"{name}_ms": 1e3 * statistics.median(each)
        for name, each in zip(("float32", "bfloat16"), zip(*taken, strict=True), strict=True)
    }
    return {"precision": "bfloat16" if gain >= GAIN else "float32", "gain": gain} | milliseconds


def _forward(tower: nn.Module, size: int, device: str, dtype: torch.dtype) -> Seconds:
    tower = tower if dtype == torch.float32 else copy.deepcopy(tower).to(dtype)
    x = torch.zeros(1, 3, size, size, device=device, dtype=dtype)

    def seconds() -> float:
        began = time.perf_counter()
        with torch.no_grad():
            tower(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return seconds


def _key(architecture: dict[str, Any], device: str) -> str:
    if device == "cpu":
        where = f"{processor.name()} {' '.join(processor.units())} {torch.get_num_threads()} threads"
    else:
        where = torch.cuda.get_device_name(device)
    what = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode()).hexdigest()[:16]
    return f"{where}, torch {torch.__version__}, architecture {what}"


def _read(path: Any) -> dict[str, Any]:
    """What cannot be read, or is not of this form, is measured again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: each for key, each in found.items() if each["precision"] in ("float32", "bfloat16")}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}


def _write(path: Any, known: dict[str, Any]) -> None:
    """Whole or not at all; where the disk refuses, the next start measures again."""
    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(known, indent=1), encoding="utf-8")
        part.replace(path)
    except OSError:
        return
