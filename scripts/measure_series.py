"""A CT series from files to answers: first image, whole classification and memory, beside a plain pydicom loop in the same run.

    python -m scripts.measure_series [--slices 300] [--side 512] [--syntax explicit jpeg2000] [--browser] [--json]

The slices are made (tests/phantom.py). The plain loop is what a notebook does: dcmread, pixel_array, rescale, window, prepare,
one forward a slice, in one process. --browser also times the page in Chromium, upload included. Absolute times go to LOG.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

import engine
from tests.phantom import write_series

PAGE = 4096


def resident_mb() -> float:
    """Of this process and its workers, now."""
    found = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if int(place.name) == os.getpid() or parent == os.getpid():
                found += int((place / "statm").read_text().split()[1]) * PAGE
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
    return found / 2**20


class Peak:
    """The most memory that this process and its workers held together while the block ran, above what they held before."""

    def __enter__(self) -> Peak:
        self.before = self.most = resident_mb()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.05):
            self.most = max(self.most, resident_mb())

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        self.thread.join()
        self.mb = self.most - self.before


def plain(files: list[Path], backbone: engine.Backbone, prompts: engine.PromptSet) -> dict[str, float]:
    """One file after the other."""
    start, first = time.perf_counter(), 0.0
    with Peak() as peak:
        headers = [(float(pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient[2]), f) for f in files]
        rows = []
        for _, file in sorted(headers):
            data = pydicom.dcmread(file)
            values = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
            pixels = np.clip((values - (40 - 0.5)) / (400 - 1) + 0.5, 0, 1).astype(np.float32)
            first = first or time.perf_counter() - start
            rows.append(engine.predict(engine.Image(pixels), backbone, prompts).probabilities)
    return {
        "first_image_s": first,
        "whole_s": time.perf_counter() - start,
        "peak_mb": peak.mb,
        "top": float(np.mean(rows, 0).max()),
    }


def ours(files: list[Path], backbone: engine.Backbone, prompts: engine.PromptSet) -> dict[str, float]:
    """As the page does: decoded in workers while the model computes."""
    engine.sandbox().close()
    start, curve = time.perf_counter(), None
    with Peak() as peak:
        series = engine.open_all(files).series[0]
        opened = time.perf_counter() - start
        series.frame(engine.middle(series))
        first = time.perf_counter() - start
        prepared = partial(engine.prepare, preprocess=backbone.preprocess)
        shape = 0.0
        for curve in engine.curves(series, prepared, engine.scorer(backbone, [prompts])):
            shape = shape or (time.perf_counter() - start if curve.done >= curve.total / 8 else 0.0)
    assert curve is not None
    return {
        "opened_s": opened,
        "first_image_s": first,
        "curve_of_every_eighth_s": shape,
        "whole_s": time.perf_counter() - start,
        "peak_mb": peak.mb,
        "top": float(engine.pool(curve.probabilities[0]).max()),
    }


def in_browser(files: list[Path]) -> dict[str, float]:
    """Upload, first image, probabilities and the whole curve, in Chromium against `python -m app`."""
    import shutil
    import subprocess
    import urllib.request

    from playwright.sync_api import sync_playwright

    environment = os.environ | {"PROMPTSCOPE_PORT": "27999"}
    server = subprocess.Popen([sys.executable, "-m", "app"], env=environment, stdout=subprocess.DEVNULL)
    url = "http://127.0.0.1:27999/"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            tab = browser.new_page()
            tab.goto(url)
            tab.wait_for_selector("#ps-drop input[type=file]", state="attached", timeout=60_000)
            start = time.perf_counter()
            tab.locator("#ps-drop input[type=file]").set_input_files(files)
            tab.wait_for_selector("#ps-view .ps-base", timeout=300_000)
            first = time.perf_counter() - start
            tab.wait_for_selector("#ps-bars .ps-bars", timeout=300_000)
            answered = time.perf_counter() - start
            tab.wait_for_selector(".ps-thumb", timeout=300_000)
            begun = time.perf_counter()
            tab.locator("#ps-all").click()
            tab.wait_for_selector("#ps-curve svg", timeout=300_000)
            curve = time.perf_counter() - begun
            tab.wait_for_function("!document.querySelector('#ps-curve').innerText.includes('so far')", timeout=600_000)
            whole = time.perf_counter() - begun
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return {
        "first_image_s": first,
        "middle_slice_answered_s": answered,
        "first_curve_after_click_s": curve,
        "whole_curve_after_click_s": whole,
    }


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--slices", type=int, default=300)
    words.add_argument("--side", type=int, default=512)
    words.add_argument("--syntax", nargs="+", default=["explicit", "jpeg2000"], choices=["explicit", "jpeg2000"])
    words.add_argument("--browser", action="store_true")
    words.add_argument("--json", action="store_true")
    asked = words.parse_args()
    backbone = engine.load_backbone("scope-mini")
    prompts = engine.prompt_set("modality", backbone)
    found: dict[str, Any] = {"slices": asked.slices, "side": asked.side, "cores": os.cpu_count()}
    for syntax in asked.syntax:
        with tempfile.TemporaryDirectory() as folder:
            files = write_series(Path(folder) / "ct", asked.slices, asked.side, syntax, 1.0)
            rows = {"plain": plain(files, backbone, prompts), "ours": ours(files, backbone, prompts)}
            assert abs(rows["plain"]["top"] - rows["ours"]["top"]) < 1e-4, "the two roads differ"
            if asked.browser:
                rows["page"] = in_browser(files)
        found[syntax] = rows
    found["peak_of_this_process_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if asked.json:
        print(json.dumps(found, indent=1))
        return 0
    for syntax in asked.syntax:
        print(f"{asked.slices} slices of {asked.side} x {asked.side}, {syntax}")
        for name, row in found[syntax].items():
            print(f"  {name:6} " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
