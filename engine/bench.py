"""Performance as ratios, each measured in one run on one machine: `python -m engine bench [--only KEY...] [--json] [--record]`.

Ratios are medians of interleaved rounds, so that a drift of the machine's speed touches both sides. Full-size means
BiomedCLIP's architecture with random weights; the default precision is the one that `auto` chooses on this machine. Beside each value
stands its floor: the value if both sides took no longer than their operations and bytes allow (_floors.py), and
beside each part what share of its time that is. What every key and floor means: docs/bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import engine
from engine import _floors, _onnx_bench, _tuning_bench, processor
from engine._floors import Part, measure, medians
from engine.backbones import _random
from engine.backbones.biomedclip import TEXT_CONFIG
from engine.backbones.scope_mini import FOLDER as MINI
from engine.methods.base import linear_prompt_set
from engine.prompts import PromptSet

ROOT = Path(__file__).resolve().parent.parent
HISTORY = ROOT / "docs" / "bench"
DATA = ROOT.parent / "shared" / "data" / "sets"  # real images, where they are
IMAGES = 100  # test images of each set at most, for precision_top1_agreement
BATCH = 32
GPU_BATCH = 256


@cache
def full_size(precision: str = "float32", device: str = "cpu") -> Any:
    """BiomedCLIP's architecture with random weights, loaded by the same code as the real one."""
    with tempfile.TemporaryDirectory() as folder:
        _random.write_biomedclip(Path(folder), MINI / "tokenizer.json", TEXT_CONFIG)
        backbone = engine.load_backbone(f"local-dir:{folder}", device, precision)
        _ = backbone.weights_hash  # read once while the files are there, as the app does when it starts
        return backbone


def default() -> Any:
    """The full size in the precision that `auto` chooses."""
    return full_size(full_size("auto").dtype)


def random_prompts(backbone: Any, seed: int = 0) -> PromptSet:
    """Eight unit vectors as a prompt set of the eight modalities."""
    task = engine.task("modality")
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(len(task.names), backbone.dim, generator=generator), dim=-1)
    return linear_prompt_set(engine.METHODS["zero-shot"](), backbone, task, vectors)


def image() -> engine.Image:
    return engine.Image(np.random.default_rng(0).random((512, 512), dtype=np.float32))


def inputs(backbone: Any, count: int) -> torch.Tensor:
    """(count, 3, S, S), normal numbers."""
    side = backbone.preprocess.size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(backbone.device)


def forward(backbone: Any, x: torch.Tensor) -> Part:
    """The bare image tower on x."""

    def run() -> None:
        with torch.no_grad():
            backbone.encode_images(x)

    return Part(run, backbone.dtype, tower_bytes(backbone) + x.numel() * x.element_size(), backbone.device)


def tower_bytes(backbone: Any) -> int:
    return _floors.weight_bytes(backbone._model.visual)


def ratio(parts: dict[str, dict[str, Any]], above: str, below: str, goal: str) -> dict[str, Any]:
    """A key: the time of one part over another's, and the same of their floors."""
    value, floor = (parts[above][each] / parts[below][each] for each in ("ms", "floor_ms"))
    return {"value": value, "floor": floor, "goal": goal, "parts": parts}


# --- learning --------------------------------------------------------------------------------------------------------


def tune_step_speedup_c4() -> dict[str, Any]:
    return _tuning_bench.step_speedup(full_size, 4, ">= 15")


def tune_step_speedup_c8() -> dict[str, Any]:
    return _tuning_bench.step_speedup(full_size, 8, ">= 15")


def tune_step_speedup_bf16_c4() -> dict[str, Any]:
    goal = ">= 25" if {"amx_bf16", "avx512_bf16"} & set(processor.units()) else "report"
    return _tuning_bench.step_speedup(full_size, 4, goal, "bfloat16")


def tune_run_speedup_exact() -> dict[str, Any]:
    return _tuning_bench.run_speedup(full_size, _tuning_bench.EPOCHS, ">= 8")


def tune_run_speedup_cached() -> dict[str, Any]:
    return _tuning_bench.run_speedup(full_size, _tuning_bench.VIEWS, ">= 25")


def tune_stacked_speedup() -> dict[str, Any]:
    return _tuning_bench.stacked_speedup(full_size)


def tune_gpu_speedup() -> dict[str, Any]:
    return _tuning_bench.gpu_speedup(full_size)


# --- reading ---------------------------------------------------------------------------------------------------------


def predict_overhead() -> dict[str, Any]:
    """Preparing, the tower and the scores of one image, over the tower alone, both in the default precision."""
    backbone, seen = default(), image()
    prompts, prepared = random_prompts(backbone), engine.prepare(seen, backbone.preprocess)
    tower = forward(backbone, torch.from_numpy(prepared.pixels)[None])
    features = engine.embed([prepared], backbone)[0]
    moved = seen.pixels.nbytes + prepared.pixels.nbytes
    parts = {
        "predict": Part(lambda: engine.predict(seen, backbone, prompts), backbone.dtype, tower.reads + seen.pixels.nbytes),
        "tower": tower,
        "prepare": Part(lambda: engine.prepare(seen, backbone.preprocess), reads=moved),
        "score": Part(lambda: engine.read_off(features, backbone, prompts), reads=features.nbytes),
    }
    return ratio(measure(parts), "predict", "tower", "<= 1.10")


def _map_over_forward(classes: int) -> dict[str, Any]:
    backbone = default()
    prompts, prepared = random_prompts(backbone), engine.prepare(image(), backbone.preprocess)
    labels = list(prompts.labels[:classes])
    tower = forward(backbone, torch.from_numpy(prepared.pixels)[None])
    drawn = Part(lambda: engine.explain(prepared, backbone, prompts, labels, "legrad"), backbone.dtype, tower.reads)
    return ratio(measure({"map": drawn, "tower": tower}), "map", "tower", "<= 3" if classes == 1 else "<= 6")


def legrad_over_forward() -> dict[str, Any]:
    return _map_over_forward(1)


def legrad8_over_forward() -> dict[str, Any]:
    return _map_over_forward(8)


def compare8_over_1() -> dict[str, Any]:
    backbone, seen = default(), image()
    sets = [random_prompts(backbone, seed) for seed in range(8)]
    reads = tower_bytes(backbone) + seen.pixels.nbytes

    def scored(count: int) -> Part:
        def run() -> None:
            engine.compare_image(engine.prepare(seen, backbone.preprocess), backbone, sets[:count], None)

        return Part(run, backbone.dtype, reads)

    return ratio(measure({"eight": scored(8), "one": scored(1)}), "eight", "one", "<= 1.05")


# --- precision and kernels -------------------------------------------------------------------------------------------


def precision_speedup() -> dict[str, Any]:
    """open_clip's own float32 forward over ours in the default precision, of one image and of eight."""
    backbone, plain = default(), full_size()
    parts = {}
    for count in (1, 8):
        x = inputs(backbone, count)

        def theirs(x: torch.Tensor = x) -> None:
            with torch.no_grad():
                plain._model.encode_image(x, normalize=True)

        parts[f"open_clip_{count}"] = Part(theirs, reads=tower_bytes(plain) + x.nbytes)
        parts[f"default_{count}"] = forward(backbone, x)
    found = measure(parts, 5)
    goal = ">= 2" if backbone.dtype != "float32" else "report"
    of_eight = found["open_clip_8"]["ms"] / found["default_8"]["ms"]
    return ratio(found, "open_clip_1", "default_1", goal) | {"of_eight": of_eight, "precision": backbone.dtype}


def precision_top1_agreement() -> dict[str, Any]:
    """The share of real test images that scope-mini gives the same class in the default precision as in float32, by each task's
    descriptions. None where there are no images, or where float32 is the default."""
    plain, ours = (engine.load_backbone("scope-mini", "cpu", each) for each in ("float32", "auto"))
    found: dict[str, Any] = {"value": None, "floor": 1.0, "goal": ">= 0.995", "precision": ours.dtype, "images": 0}
    if ours.dtype == "float32":
        return found | {"why": "float32 is the default precision here"}
    same, by_task = 0, {}
    for task in engine.tasks().values():
        for folder in task.data:
            if not (DATA / folder).is_dir():
                continue
            examples = engine.read_examples(DATA / folder, task, "test")
            examples = examples[:: -(-len(examples) // IMAGES)]  # spread over the whole list
            prompts = engine.prompt_set(f"{task.id}-description-ensemble-scope-mini", plain)
            said: list[list[int]] = [[], []]
            for start in range(0, len(examples), BATCH):
                read = [engine.read_image(each.path) for each in examples[start : start + BATCH]]
                prepared = [engine.prepare(each, plain.preprocess) for each in read]
                for answers, each in zip(said, (plain, ours), strict=True):
                    answers += prompts.scores(engine.embed(prepared, each)).argmax(axis=1).tolist()
            agree = sum(a == b for a, b in zip(*said, strict=True))
            by_task[folder] = agree / len(examples)
            same, found["images"] = same + agree, found["images"] + len(examples)
    if not found["images"]:
        return found | {"why": "there are no real images beside this repository (../shared/data/sets)"}
    return found | {"value": same / found["images"], "by_set": by_task}


def batch32_share() -> dict[str, Any]:
    """The tower's operations on 32 images over the rate of a large product, over the time that it takes: 1 is a tower that is
    nothing but products at the machine's best. Tower and product are timed in turn, so that both see the same machine."""
    backbone = default()
    tower = forward(backbone, inputs(backbone, BATCH))
    counted = _floors.operations(tower.run)
    with torch.no_grad():
        seconds, *products = medians(tower.run, *_floors.products(backbone.dtype), rounds=5)
    rate = 2 * _floors.SIDE**3 / min(products)
    parts = {"tower": _floors.told(seconds, counted, tower)}
    more = {"images_per_s": BATCH / seconds, "gflop_per_s": counted / seconds / 1e9, "matrix_gflop_per_s": rate / 1e9}
    return (
        {"value": counted / rate / seconds, "floor": 1.0, "goal": ">= 0.6", "precision": backbone.dtype}
        | more
        | {"parts": parts}
    )


def gpu_batch_share() -> dict[str, Any]:
    """As batch32_share on a GPU: bfloat16, 256 images, from tensors that are there. None without a GPU."""
    goal = ">= 0.5"
    if not torch.cuda.is_available():
        return {"value": None, "floor": 1.0, "goal": goal, "why": "torch finds no GPU"}
    backbone = full_size("bfloat16", "cuda")
    tower = forward(backbone, inputs(backbone, GPU_BATCH))
    counted = _floors.operations(tower.run)
    seconds, product = medians(tower.run, *_floors.products("bfloat16", "cuda", 8192), device="cuda")
    rate = 2 * 8192**3 / product
    return {"value": counted / rate / seconds, "floor": 1.0, "goal": goal, "images_per_s": GPU_BATCH / seconds} | {
        "gflop_per_s": counted / seconds / 1e9,
        "matrix_gflop_per_s": rate / 1e9,
    }


# --- whole programs --------------------------------------------------------------------------------------------------


def int8_speedup() -> dict[str, Any]:
    return _onnx_bench.speedup(full_size, medians)


def int8_top1_agreement() -> dict[str, Any]:
    return _onnx_bench.top1_agreement()


def mini_tower_ms() -> dict[str, Any]:
    """scope-mini, one image, in the default precision and in float32."""
    plain, ours = (engine.load_backbone("scope-mini", "cpu", each) for each in ("float32", "auto"))
    x = inputs(ours, 1)
    parts = measure({"default": forward(ours, x), "float32": forward(plain, x)}, 20)
    found = parts["default"]
    return {"value": found["ms"], "floor": found["floor_ms"], "goal": "report", "precision": ours.dtype, "parts": parts}


def ready_seconds() -> dict[str, Any]:
    """From the start of the process to the page answering. The floor is a process that imports the libraries and does nothing."""
    began = time.perf_counter()
    libraries = "import torch, open_clip, timm, transformers, gradio"
    subprocess.run([sys.executable, "-W", "ignore", "-c", libraries], cwd=ROOT, check=True, timeout=120)
    imports = time.perf_counter() - began
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PROMPTSCOPE_PORT": str(port), "PROMPTSCOPE_HOST": "127.0.0.1"}
    began = time.perf_counter()
    page = subprocess.Popen(
        [sys.executable, "-m", "app"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while time.perf_counter() - began < 120:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    if answer.status == 200:
                        return {"value": time.perf_counter() - began, "floor": imports, "goal": "report"}
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
        precision_speedup,
        precision_top1_agreement,
        compare8_over_1,
        legrad_over_forward,
        legrad8_over_forward,
        int8_speedup,
        int8_top1_agreement,
        batch32_share,
        gpu_batch_share,
        mini_tower_ms,
        ready_seconds,
    )
}


# --- what is printed and kept ----------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """load : of the last minute, before the run; above `cores`, somebody else was computing."""
    return {
        "processor": processor.name(),
        "units": processor.units(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def rates() -> dict[str, float]:
    """What the floors rest on, measured in this run."""
    found = {f"{each}_gflop_per_s": _floors.matrix_rate(each) / 1e9 for each in ("float32", "bfloat16")}
    return found | {"copy_gb_per_s": _floors.bandwidth() / 1e9}


def is_met(value: float | None, goal: str) -> bool | None:
    """None where there is no value, or nothing was promised. goal : ">= 15", "<= 1.05" or "report" """
    sign, _, bound = goal.partition(" ")
    if value is None or sign == "report":
        return None
    return value >= float(bound) if sign == ">=" else value <= float(bound)


def commit() -> str | None:
    """As in "15ed11c", with "+" where files differ from it; None outside of git."""
    try:
        asked = [
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return asked[0] + ("+" if asked[1] else "")


def record(found: dict[str, Any], folder: Path) -> Path:
    """Adds a line to the history of this kind of machine: docs/bench/<processor>-<cores>-cores.jsonl."""
    about = found["machine"]
    name = " ".join([about["processor"], about["cuda"] or "", str(about["cores"]), "cores"])
    path = folder / (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".jsonl")
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as history:
        history.write(json.dumps({"date": date.today().isoformat(), "commit": commit()} | found) + "\n")
    return path


def table(found: dict[str, Any]) -> str:
    """A line a key, and below it its parts."""
    lines = [f"{'key':26} {'value':>8} {'floor':>8}  {'goal':10} {'':6} peak MB"]
    for key, each in found["keys"].items():
        value, floor = (f"{each[name]:8.3f}" if each[name] is not None else f"{'none':>8}" for name in ("value", "floor"))
        met = {True: "met", False: "missed", None: ""}[each["met"]]
        lines.append(f"{key:26} {value} {floor}  {each['goal']:10} {met:6} {each['peak_mb']:7.0f}")
        for name, part in each.get("parts", {}).items():
            share = f"{part['share']:4.0%} of it {part['bound']}" if part.get("share") else ""
            lines.append(f"    {name:22} {part['ms']:8.1f} ms, floor {part['floor_ms']:8.1f} ms  {share}")
        if each.get("why"):
            lines.append(f"    {each['why']}")
    about = ", ".join(f"{name} {value:.0f}" for name, value in found["rates"].items())
    return "\n".join([*lines, f"{found['machine']['processor']}, {found['machine']['threads']} threads: {about}"])


def run(args: argparse.Namespace) -> int:
    wanted = args.only or list(KEYS)
    unknown = [key for key in wanted if key not in KEYS]
    if unknown:
        raise engine.EngineError(f"bench has no key {unknown[0]!r}.", f"Choose among: {', '.join(KEYS)}.")
    began = time.perf_counter()
    found: dict[str, Any] = {"schema": 2, "machine": machine(), "rates": rates(), "keys": {}}
    for key in wanted:
        print(f"measuring {key} ...", file=sys.stderr, flush=True)
        _tuning_bench.forget_peak()
        each = KEYS[key]()
        peaks = [
            part["peak_mb"] for part in each.get("parts", {}).values() if "peak_mb" in part
        ]  # those that were looked at alone
        met, peak = is_met(each["value"], each["goal"]), max([_tuning_bench.peak_mb(), *peaks])
        found["keys"][key] = each | {"met": met, "peak_mb": peak}
    found["seconds"] = time.perf_counter() - began
    if args.record:
        print(f"recorded in {record(found, HISTORY)}", file=sys.stderr)
    print(json.dumps(found, indent=1) if args.json else table(found))
    return 0
