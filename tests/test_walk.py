"""The whole way of the product in one recorded visit, from an empty workspace to a report.

Run: python -m pytest tests/test_walk.py. Screenshots and a trace (`playwright show-trace`) go to test-artefacts/.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from playwright.sync_api import Page, expect
from test_browser import ARTEFACTS, chromium, picture, pytestmark, running  # noqa: F401 - fixtures and marks

ROOT = Path(__file__).resolve().parent.parent
BUSI = ROOT.parent / "shared" / "data" / "sets" / "BUSI"
CLASSES = ("benign", "malignant", "normal")
BARE = {"benign": 3, "malignant": 3, "normal": 2}  # labelled by hand
FOLDERS = {"benign": 11, "malignant": 11, "normal": 10}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, list[str], Path]:
    """A zip of 40 ultrasound images, 32 of them in class folders and 8 bare; the classes of the bare ones, in the order of
    their names; and one more image. Real ones where ../shared is, else made ones."""
    place = tmp_path_factory.mktemp("study")
    archive, truth = place / "study.zip", []
    with zipfile.ZipFile(archive, "w") as packed:
        for number, label in enumerate(CLASSES):
            files = _images(place, label, FOLDERS[label] + BARE[label] + 1, number)
            for i, file in enumerate(files[: FOLDERS[label]]):
                packed.write(file, f"study/{label}/{i}{file.suffix}")
            for file in files[FOLDERS[label] : -1]:
                packed.write(file, f"study/{len(truth):02}{file.suffix}")
                truth.append(label)
            if label == "malignant":
                one = files[-1]
    return archive, truth, one


def _images(place: Path, label: str, count: int, number: int) -> list[Path]:
    if BUSI.is_dir():
        return sorted((BUSI / label).glob("*.*"))[:count]
    files = [place / f"{label}{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        noise = np.random.default_rng(100 * number + i).normal(60 + 70 * number, 25, (96, 128))
        PIL.Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(file)
    return files


def test_from_an_empty_workspace_to_a_report(chromium, tmp_path, study):  # noqa: F811
    archive, truth, one = study
    (tmp_path / "machine").mkdir()
    with running(tmp_path / "machine", PROMPTSCOPE_WORKSPACE=str(tmp_path / "workspace")) as (address, _):
        context = chromium.new_context(viewport={"width": 1440, "height": 1000})
        context.tracing.start(screenshots=True)
        tab = context.new_page()
        thrown: list[str] = []
        tab.on("pageerror", lambda error: thrown.append(str(error)))
        tab.goto(address)
        try:
            walk(tab, archive, truth, one, tmp_path)
        finally:
            ARTEFACTS.mkdir(exist_ok=True)
            context.tracing.stop(path=ARTEFACTS / "walk.zip")
            context.close()
        assert thrown == []


def walk(tab: Page, archive: Path, truth: list[str], one: Path, folder: Path) -> None:
    tab.wait_for_selector("#ps-drop", timeout=60_000)
    tab.get_by_role("tab", name="Teach").click()

    # a question
    tab.locator("#ps-title").locator("input, textarea").first.fill("Breast lesions")
    tab.locator("#ps-new-classes textarea").fill("\n".join(CLASSES))
    tab.locator("#ps-make").click()
    expect(tab.locator("#ps-about-task .ps-classes li")).to_have_count(3, timeout=30_000)
    picture(tab, "walk-1-question")

    # its images, and eight labels by hand
    tab.locator("#ps-bring-files").set_input_files(archive)
    expect(tab.locator("#ps-coming")).to_contain_text("40 images added. 32 came with their class.", timeout=120_000)
    expect(tab.locator(".ps-guess")).to_have_count(40, timeout=120_000)
    tab.locator("#ps-only input").click()
    tab.get_by_role("option", name="without class").click()
    expect(tab.locator(".ps-case")).to_have_count(8, timeout=30_000)
    for i, label in enumerate(truth):
        tab.locator(".ps-case").nth(i).click()
        tab.keyboard.press(str(CLASSES.index(label) + 1))
    expect(tab.locator("#ps-balance")).to_contain_text("40 of 40 images have a class", timeout=30_000)
    picture(tab, "walk-2-labelled")

    # BiomedCoOp, with a reload in the middle, a stop, and going on
    tab.locator("#ps-budget").get_by_text("Standard").click()
    tab.locator("#ps-advanced").get_by_text("Advanced").click()
    options = tab.locator("#ps-options textarea")
    options.fill(re.sub(r"epochs = \d+", "epochs = 40", options.input_value()))  # so that the test does not take minutes
    tab.locator("#ps-teach-now").click()
    expect(tab.locator(".ps-job[data-state=running] svg").first).to_be_visible(timeout=180_000)
    tab.reload()
    tab.wait_for_selector("#ps-drop", state="attached", timeout=60_000)
    tab.get_by_role("tab", name="Teach").click()
    expect(tab.locator(".ps-job[data-state=running] svg").first).to_be_visible(timeout=60_000)
    picture(tab, "walk-3-training")
    tab.locator("#ps-stop-job").click()
    expect(tab.locator(".ps-job[data-state=stopped]")).to_be_visible(timeout=30_000)
    picture(tab, "walk-4-stopped")
    tab.locator("#ps-resume").click()
    expect(tab.locator(".ps-verdict")).to_be_visible(timeout=240_000)
    assert re.search(r"zero-shot.* 40 held-out cases", tab.locator(".ps-verdict p").inner_text())
    assert sum(int(cell.inner_text()) for cell in tab.locator("[data-cell]").all()) == 40
    picture(tab, "walk-5-result")

    # saved, and used on a new image
    tab.locator("#ps-set-name").locator("input, textarea").first.fill("my-lesions")
    tab.locator("#ps-use").click()
    expect(tab.locator("#ps-prompts input")).to_have_value("yours: Breast lesions (biomedcoop)", timeout=30_000)
    tab.locator("#ps-drop input[type=file]").set_input_files(one)
    expect(tab.locator("#ps-bars .ps-bars li")).to_have_count(3, timeout=60_000)
    expect(tab.locator(".ps-map")).to_be_attached(timeout=60_000)
    picture(tab, "walk-6-read")

    # four methods side by side: on this image, and on the labelled ones
    tab.get_by_role("tab", name="Compare").click()
    expect(tab.locator("#ps-compare-sets")).to_contain_text("Breast lesions", timeout=30_000)
    tab.locator("#ps-compare-look").click()
    expect(tab.locator("#ps-compare-cards .ps-bars").first).to_be_visible(timeout=120_000)
    picture(tab, "walk-7-compare-image")
    tab.get_by_role("tab", name="On labelled images").click()
    for words in ("Zero-shot", "my-lesions"):  # proposed
        expect(tab.locator("#ps-compare-rivals")).to_contain_text(words, timeout=30_000)
    for words in ("Description ensemble", "Linear probe"):
        tab.locator("#ps-compare-rivals input").last.click()
        tab.get_by_role("option", name=re.compile(words)).click()
        tab.locator("#ps-compare-rivals input").last.blur()
    picture(tab, "walk-8-chosen")
    tab.locator("#ps-compare-go").click()
    expect(tab.locator("#ps-compare-html")).to_be_visible(timeout=240_000)
    expect(tab.locator("#ps-compare-result")).to_contain_text("Linear probe")
    picture(tab, "walk-9-compared")
    with tab.expect_download(timeout=60_000) as download:
        tab.locator("#ps-compare-html").click()
    report = folder / "report.html"
    download.value.save_as(report)

    # the report opens anywhere, without this server
    page = tab.context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    expect(page.locator("body")).to_contain_text("Research use only")
    expect(page.locator("body")).to_contain_text("Breast lesions")
    page.screenshot(path=ARTEFACTS / "walk-report.png", full_page=True)
    assert all(url.startswith(("file:", "data:")) for url in asked)
    page.close()
