"""Do maps point at a finding? Images of a finding pasted into normal ones of the same set, at a known place. Synthetic.

    python scripts/measure_maps.py --data ../shared/data --backbone scope-mini --images 105

A normal image gets a square of an image with a finding (its middle, a quarter to nearly half of the host's shorter side, hard
edges) at a random place; each map is asked for the finding's class against the rest, by the description ensemble. Test splits,
each host and guest once, one of a group. Pointing game: is the hottest place inside? Energy: the share of (positive) heat inside.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import engine
from engine.data import unit
from engine.evaluate import mean_over_units
from scripts.measure_locate import composite, place_of
from scripts.measure_mini import examples_of

NORMAL = {
    "btmri": "normal brain",
    "busi": "normal scan",
    "pneumonia_cxr": "normal chest",
    "covid_cxr": "normal lungs",
    "ctkidney": "normal kidney",
    "lc25000_lung": "lung benign tissue",
    "retina": "normal retina",
}


def scored(heat: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """(pointing, energy) of a heat map (H, W) whose finding is at `inside`, bool (H, W); 0 where nothing is pointed at, as in
    engine/detection.py."""
    heat = np.clip(heat, 0, None)
    total = float(heat.sum())
    return (float(inside.flat[int(heat.argmax())]), float(heat[inside].sum()) / total) if total > 0 else (0.0, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="scope-mini")
    parser.add_argument("--maps", nargs="*", default=[], help="default: every one that the backbone can carry")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=105)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="what was measured, as JSON")
    args = parser.parse_args()
    backbone, rng = engine.load_backbone(args.backbone), np.random.default_rng(args.seed)
    maps = args.maps or [m for m in engine.explanations_for(backbone) if m != "occlusion"]
    sets = {name: engine.METHODS["description-ensemble"]().learn(backbone, engine.task(name)) for name in NORMAL}
    hosts: dict[str, list[engine.Example]] = {}
    guests: dict[str, list[engine.Example]] = {}
    for name, normal in NORMAL.items():
        rows = examples_of(args.data, name, args.split)
        first = list({unit(row): row for row in (rows[i] for i in rng.permutation(len(rows)))}.values())
        hosts[name] = [e for e in first if e.label == normal]
        guests[name] = [e for e in first if e.label != normal]
    values: dict[str, list[tuple[float, float]]] = {name: [] for name in (*maps, *engine.baselines())}
    units, names = [], list(NORMAL)
    for turn in range(args.images):
        name = names[turn % len(names)]
        if not hosts[name] or not guests[name]:
            continue
        host, guest = hosts[name].pop(), guests[name].pop()
        shape, at = place_of(host.path, *rng.uniform([0.25, 0, 0], [0.45, 1, 1]))
        image, inside = composite(host.path, guest.path, at), np.zeros(shape, bool)
        inside[at[0] : at[0] + at[2], at[1] : at[1] + at[2]] = True
        prepared = engine.prepare(image, backbone.preprocess)
        for method in maps:
            found = engine.explain(prepared, backbone, sets[name], [guest.label], method)[0]
            values[method].append(scored(engine.place(found, image.shape), inside))
        for key, locator in engine.baselines().items():
            blind = locator.locate(image, [engine.Phrase(guest.label)], (), 1)[0]
            values[key].append(scored(engine.place(blind.heat, image.shape), inside))
        units.append(str(turn))
    rows_out = {}
    print(f"{len(units)} composites\n\n| map | pointing | energy |\n|---|---|---|")
    for key, each in values.items():
        means = [mean_over_units(np.array(column), units) for column in zip(*each, strict=True)]
        rows_out[key] = {
            m: [round(x, 4) for x in (i.value, i.low, i.high)] for m, i in zip(("pointing", "energy"), means, strict=True)
        }
        print(f"| {key} | " + " | ".join(f"{i.value:.3f} ({i.low:.3f} to {i.high:.3f})" for i in means) + " |", flush=True)
    if args.out:
        args.out.write_text(
            json.dumps({"images": len(units), "weights_hash": backbone.weights_hash, "maps": rows_out}, indent=1)
        )


if __name__ == "__main__":
    main()
