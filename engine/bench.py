"""Performance as ratios, each measured in one run on one machine: `python -m engine bench --json [--only KEY...]`.

Ratios are medians of interleaved rounds, so that a drift of the machine's speed touches both sides. Full-size means
BiomedCLIP's architecture with random weights. Keys that need ONNX or another precision by default come with them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import engine
from engine import _tuning_bench
from engine.backbones import _random
from engine.backbones.biomedclip import TEXT_CONFIG
from engine.backbones.scope_mini import FOLDER as MINI
from engine.methods.base import linear_prompt_set
from engine.prompts import PromptSet

ROUNDS = 7


def medians(*sides: Callable[[], Any], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of each side, taken in turn after one round that is not counted."""
    taken: list[list[float]] = [[] for _ in sides]
    for r in range(rounds + 1):
        for each, kept in zip(sides, taken, strict=True):
            began = time.perf_counter()
            each()
            if r:
                kept.append(time.perf_counter() - began)
    return [statistics.median(kept) for kept in taken]


@cache
def full_size(precision: str = "float32", device: str = "cpu") -> Any:
    """BiomedCLIP's architecture with random weights, loaded by the same code as the real one."""
    with tempfile.TemporaryDirectory() as folder:
        _random.write_biomedclip(Path(folder), MINI / "tokenizer.json", TEXT_CONFIG)
        backbone = engine.load_backbone(f"local-dir:{folder}", device, precision)
        _ = backbone.weights_hash  # read once while the files are there, as the app does when it starts
        return backbone


def random_prompts(backbone: Any, seed: int = 0) -> PromptSet:
    """Eight unit vectors as a prompt set of the eight modalities."""
    task = engine.task("modality")
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(len(task.names), backbone.dim, generator=generator), dim=-1)
    return linear_prompt_set(engine.METHODS["zero-shot"](), backbone, task, vectors)


def image() -> engine.Image:
    return engine.Image(np.random.default_rng(0).random((512, 512), dtype=np.float32))


def tune_step_speedup_c4() -> dict[str, Any]:
    return _tuning_bench.step_speedup(full_size, 4, ">= 15")


def tune_step_speedup_c8() -> dict[str, Any]:
    return _tuning_bench.step_speedup(full_size, 8, ">= 15")


def tune_step_speedup_bf16_c4() -> dict[str, Any]:
    return _tuning_bench.step_speedup(full_size, 4, "report; >= 25 with bf16 units", "bfloat16")


def tune_run_speedup_exact() -> dict[str, Any]:
    return _tuning_bench.run_speedup(full_size, _tuning_bench.EPOCHS, ">= 8")


def tune_run_speedup_cached() -> dict[str, Any]:
    return _tuning_bench.run_speedup(full_size, _tuning_bench.VIEWS, ">= 25")


def tune_stacked_speedup() -> dict[str, Any]:
    return _tuning_bench.stacked_speedup(full_size)


def tune_gpu_speedup() -> dict[str, Any]:
    return _tuning_bench.gpu_speedup(full_size)


def predict_overhead() -> dict[str, Any]:
    backbone, prompts, seen = full_size(), random_prompts(full_size()), image()
    x = torch.from_numpy(engine.prepare(seen, backbone.preprocess).pixels)[None]

    def bare() -> None:
        with torch.no_grad():
            backbone.encode_images(x)

    ours, floor = medians(lambda: engine.predict(seen, backbone, prompts), bare)
    return {"value": ours / floor, "goal": "<= 1.10", "predict_ms": 1e3 * ours, "tower_ms": 1e3 * floor}


def _map_over_forward(classes: int) -> dict[str, Any]:
    backbone, prompts = full_size(), random_prompts(full_size())
    prepared = engine.prepare(image(), backbone.preprocess)
    x = torch.from_numpy(prepared.pixels)[None]
    labels = list(prompts.labels[:classes])

    def forward() -> None:
        with torch.no_grad():
            backbone.encode_images(x)

    made, floor = medians(lambda: engine.explain(prepared, backbone, prompts, labels, "legrad"), forward)
    return {
        "value": made / floor,
        "goal": "<= 3" if classes == 1 else "<= 6",
        "map_ms": 1e3 * made,
        "forward_ms": 1e3 * floor,
    }


def legrad_over_forward() -> dict[str, Any]:
    return _map_over_forward(1)


def legrad8_over_forward() -> dict[str, Any]:
    return _map_over_forward(8)


def compare8_over_1() -> dict[str, Any]:
    backbone, seen = full_size(), image()
    sets = [random_prompts(backbone, seed) for seed in range(8)]

    def score(count: int) -> None:
        engine.compare_image(engine.prepare(seen, backbone.preprocess), backbone, sets[:count], None)

    eight, one = medians(lambda: score(8), lambda: score(1))
    return {"value": eight / one, "goal": "<= 1.05", "eight_ms": 1e3 * eight, "one_ms": 1e3 * one}


def mini_tower_ms() -> dict[str, Any]:
    backbone = engine.load_backbone("scope-mini")
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def forward() -> None:
        with torch.no_grad():
            backbone.encode_images(x)

    (taken,) = medians(forward, rounds=20)
    return {"value": 1e3 * taken, "goal": "report"}


def ready_seconds() -> dict[str, Any]:
    """From the start of the process to the page answering."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PROMPTSCOPE_PORT": str(port), "PROMPTSCOPE_HOST": "127.0.0.1"}
    began = time.perf_counter()
    root = Path(__file__).resolve().parent.parent
    page = subprocess.Popen(
        [sys.executable, "-m", "app"], cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while time.perf_counter() - began < 120:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    if answer.status == 200:
                        return {"value": time.perf_counter() - began, "goal": "report"}
            except OSError:
                time.sleep(0.1)
        raise engine.EngineError("The page did not answer within 120 seconds.", "Start `python -m app` to see why.")
    finally:
        page.terminate()
        page.wait(timeout=30)


KEYS: dict[str, Callable[[], dict[str, Any]]] = {
    each.__name__: each
    for each in (
        tune_step_speedup_c4,
        tune_step_speedup_c8,
        tune_step_speedup_bf16_c4,
        tune_run_speedup_exact,
        tune_run_speedup_cached,
        tune_stacked_speedup,
        tune_gpu_speedup,
        predict_overhead,
        legrad_over_forward,
        legrad8_over_forward,
        compare8_over_1,
        mini_tower_ms,
        ready_seconds,
    )
}


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def run(args: argparse.Namespace) -> int:
    wanted = args.only or list(KEYS)
    unknown = [key for key in wanted if key not in KEYS]
    if unknown:
        raise engine.EngineError(f"bench has no key {unknown[0]!r}.", f"Choose among: {', '.join(KEYS)}.")
    found: dict[str, Any] = {"schema": 1, "machine": machine()}
    for key in wanted:
        print(f"measuring {key} ...", file=sys.stderr, flush=True)
        found[key] = KEYS[key]()
    found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for key in wanted:
        parts = {k: round(v, 2) for k, v in found[key].items() if isinstance(v, float) and k != "value"}
        value = found[key]["value"]
        shown = f"{value:8.3f}" if value is not None else f"{'none':>8}"
        print(f"{key:26} {shown}   goal {found[key]['goal']:8} {parts or ''}")
    return 0
