"""Shared-image prompt sets on an exported image tower, with no torch in the process: a start of a second, some 200 MB of memory.

    python -m engine.light FILE|FOLDER|ZIP... --backbone scope-mini --prompts SET... [--precision int8] [--device cuda] [--json]

The same code as `python -m engine predict --backbone onnx:ID --explain none`, without what only torch can do: maps, sets with a
visual prompt, sets that ask a text tower. The rows are the same, too (README, "What --json prints").
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from engine.backbones import load_backbone
from engine.batch import Look, predict_all
from engine.errors import EngineError
from engine.methods import prompt_set
from engine.pooling import POOLS
from engine.results import NOTICE
from engine.sandbox import open_all
from engine.windows import named


def rows(
    files: list[str], id: str, sets: list[str], device: str = "cpu", precision: str = "float32", look: Look | None = None
) -> list[dict[str, Any]]:
    """A row for each series (or file) and prompt set, then one for each file that failed; see engine.results.

    id : of the backbone whose export is used, without onnx:; sets : names of the library, folders, or task ids
    precision : "float32", "float16" or "int8"; look : default all frames, pooled by their mean
    Raises EngineError where nothing can run.
    """
    backbone = load_backbone(f"onnx:{id}", device, precision)
    prompts = [prompt_set(name, backbone) for name in sets]
    for each in prompts:
        each.check(backbone)
    found = predict_all(open_all(files), backbone, prompts, look or Look(pool="mean"))
    return [row for row in found if row["status"] != "skipped"]


def main(words: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m engine.light", description=(__doc__ or "").splitlines()[0])
    p.add_argument("files", nargs="+", metavar="FILE", help="files, folders, zip archives")
    p.add_argument("--backbone", default="scope-mini", help="id whose tower is exported (default: scope-mini)")
    p.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    p.add_argument("--precision", default="float32", help="float32, float16 or int8, as exported (default: float32)")
    p.add_argument("--prompts", nargs="+", default=["modality"], metavar="SET", help="names, folders or task ids")
    p.add_argument("--pool", choices=list(POOLS), default="mean", help="of all frames (default: mean)")
    p.add_argument("--window", default=None, help="CENTRE,WIDTH as in 40,400; a preset as in lung; or automatic")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(words)
    look = Look(window=named(args.window) if args.window else None, pool=args.pool)
    try:
        found = rows(args.files, args.backbone.removeprefix("onnx:"), args.prompts, args.device, args.precision, look)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = [row for row in found if row["status"] == "error"]
    if args.json:
        print(json.dumps({"schema": 1, "notice": NOTICE, "results": found}, indent=1))
    else:
        for row in (row for row in found if row["status"] == "ok"):
            label, p_most = max(row["probabilities"].items(), key=lambda item: item[1])
            print(
                f"{', '.join(row['files'][:3])}: {row['prompt_set']} on {row['backbone']}, {row['device']}: {label} {p_most:.1%}"
            )
        print(NOTICE)
    for row in failed:
        print(f"error: {row['error']}", file=sys.stderr)
    return 0 if not failed else 2 if len(failed) == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
