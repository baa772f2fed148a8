"""Many small images through `predict --out TABLE.parquet`, one worker killed, then the whole run, and called again.

    python scripts/archive_run.py --folder /tmp/archive --images 100000 --workers 2

Says whether every file is exactly once in the table, how much memory the processes took while they ran (resident, MiB), how
many images a second that is, and one worker's chunk against a plain loop over engine.predict (rounds in turn, one thread each).
A run that was interrupted is made again from what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import engine  # noqa: E402
from engine.archive import Entry  # noqa: E402
from engine.table import predict_chunk  # noqa: E402

CONTENTS = 100  # different images
WARM_S = 60  # of a process, whose memory grows until it has done something of everything
EVERY_S = 2.0
QUESTION = "modality"


def make(folder: Path, images: int) -> list[str]:
    """64 x 64 pixels, 1000 a folder, as their names say: NUMBER-CONTENT.png."""
    contents = []
    for seed in range(CONTENTS):
        coarse = PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8), dtype=np.uint8))
        place = folder.parent / f"{folder.name}-content.png"
        coarse.resize((64, 64), PIL.Image.Resampling.BICUBIC).save(place)
        contents.append(place.read_bytes())
        place.unlink()
    made = []
    for number in range(images):
        place = folder / f"{number // 1000:04}" / f"{number:07}-{number % CONTENTS:03}.png"
        made.append(str(place))
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(contents[number % CONTENTS])
    return made


def against_a_loop(files: list[str], rounds: int = 5, each: int = 100) -> dict[str, object]:
    """Milliseconds an image, median of the rounds: a chunk as a worker does it, and engine.predict one after the other."""
    torch.set_num_threads(1)
    backbone = engine.load_backbone("scope-mini")
    prompts = engine.prompt_set(QUESTION, backbone)
    score, look = engine.scorer(backbone, [prompts]), engine.Look(pool="mean")
    times: dict[str, list[float]] = {"chunk": [], "loop": []}
    for turn in range(rounds + 1):
        part = [files[i % len(files)] for i in range(turn * each, (turn + 1) * each)]
        start = time.perf_counter()
        predict_chunk([Entry(path, 0, 0) for path in part], backbone, [prompts], look, score)
        middle = time.perf_counter()
        for path in part:
            engine.predict(engine.read_image(path), backbone, prompts)
        if turn:  # the first is a warm-up
            times["chunk"].append(1e3 * (middle - start) / each)
            times["loop"].append(1e3 * (time.perf_counter() - middle) / each)
    medians = {name: float(np.median(found)) for name, found in times.items()}
    ratios = [loop / chunk for loop, chunk in zip(times["loop"], times["chunk"], strict=True)]
    return {"ms": medians, "loop_over_chunk": float(np.median(ratios)), "rounds": ratios}


def below(process: int) -> dict[int, str]:
    """The processes that a process has started, and they: what each is."""
    found: dict[int, str] = {}
    try:
        children = [int(c) for task in Path(f"/proc/{process}/task").glob("*/children") for c in task.read_text().split()]
        for child in children:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            kind = "decoder" if b"readers._worker" in command else "worker" if b"spawn_main" in command else "other"
            found |= {child: kind} | below(child)
    except OSError:
        pass  # it has just ended
    return found


def resident(process: int) -> float:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    except (OSError, IndexError):
        return 0.0


def run(args: argparse.Namespace, table: Path, until: float, kill_worker_at: float = 2.0) -> tuple[list[tuple], str]:
    """Runs `predict` until the share `until` of the parts is there, then kills it (above 1: to its end). Samples of memory:
    (kind, process, seconds since it was first seen, MiB)."""
    command = [sys.executable, "-m", "engine", "predict", str(args.folder), "--prompts", QUESTION, "--out", str(table)]
    command += ["--workers", str(args.workers), "--chunk", str(args.chunk), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    parts, samples, seen = args.images / args.chunk, [], dict[int, float]()
    while process.poll() is None:
        time.sleep(EVERY_S)
        now, there = time.monotonic(), len(list(table.glob("part-*.parquet"))) / parts
        family = {process.pid: "parent"} | below(process.pid)
        for each, kind in family.items():
            seen.setdefault(each, now)
            if memory := resident(each):
                samples.append((kind, each, now - seen[each], memory))
        workers = [each for each, kind in family.items() if kind == "worker"]
        if there >= kill_worker_at and workers:
            os.kill(workers[0], signal.SIGKILL)
            print(f"killed a worker at {there:.0%}", file=sys.stderr, flush=True)
            kill_worker_at = 2.0
        if there >= until:
            for each in (process.pid, *family):
                try:
                    os.kill(each, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.wait()
            print(f"killed the run at {there:.0%}", file=sys.stderr, flush=True)
    assert process.stdout is not None
    return samples, process.stdout.read()


def memory(samples: list[tuple]) -> dict[str, dict[str, float]]:
    """Of each kind of process after its warm-up: least and most, and the mean of the first and the last third of a life."""
    found = {}
    for kind in ("parent", "worker", "decoder"):
        warm = [s for s in samples if s[0] == kind and s[2] > WARM_S]
        if not warm:
            continue
        lives = {process: [s[3] for s in warm if s[1] == process] for process in {s[1] for s in warm}}
        longest = max(lives.values(), key=len)
        third = max(1, len(longest) // 3)
        found[kind] = {
            "min": min(s[3] for s in warm),
            "max": max(s[3] for s in warm),
            "first_third": float(np.mean(longest[:third])),
            "last_third": float(np.mean(longest[-third:])),
            "samples": len(warm),
        }
    return found


def check(files: list[str], table: Path) -> dict[str, object]:
    """What the table holds, against the files. Images of one content have one answer, whatever chunk and worker they were in."""
    rows = pyarrow.parquet.read_table(table, columns=["path", "status", "label", "probability"]).to_pydict()
    counts = Counter(rows["path"])
    spread = 0.0
    for content in range(CONTENTS):
        kept = [p for path, p in zip(rows["path"], rows["probability"], strict=True) if path.endswith(f"-{content:03}.png")]
        spread = max(spread, max(kept) - min(kept)) if kept else spread
    return {
        "rows": len(rows["path"]),
        "every_file_exactly_once": counts == Counter(files),
        "statuses": dict(Counter(rows["status"])),
        "largest_difference_within_a_content": spread,
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--folder", type=Path, required=True)
    asked.add_argument("--images", type=int, default=100_000)
    asked.add_argument("--workers", type=int, default=2)
    asked.add_argument("--chunk", type=int, default=1000)
    args = asked.parse_args()
    files = make(args.folder, args.images)
    table = args.folder.with_name(args.folder.name + ".parquet")
    start = time.monotonic()
    first, _ = run(args, table, 0.6, 0.3)
    second, said = run(args, table, 2.0)
    seconds = time.monotonic() - start
    found = {
        "images": args.images,
        "workers": args.workers,
        "seconds": seconds,
        "images_a_second": args.images / seconds,
        "said": json.loads(said),
        "memory_mib": {"killed run": memory(first), "second run": memory(second)},
        **check(files, table),
        "against_a_loop": against_a_loop(files),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
