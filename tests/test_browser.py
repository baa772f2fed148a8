"""The page in a real browser, as a radiologist uses it. Run: python -m pytest tests/test_browser.py

Screenshots go to test-artefacts/ (outside git). The browser is Debian's Chromium (PROMPTSCOPE_CHROMIUM names another).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import free_port
from playwright.sync_api import Page, expect, sync_playwright

import engine

ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = ROOT / "test-artefacts"
CHROMIUM = os.environ.get("PROMPTSCOPE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
CT = next(s.path for s in engine.samples() if s.title == "CT")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER: install Debian's chromium, or run `make test`, which does"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """`python -m app` in a process of its own."""
    port = free_port()
    environment = os.environ | {"PROMPTSCOPE_PORT": str(port), "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("cache"))}
    log = (tmp_path_factory.mktemp("log") / "log").open("w+")
    server = subprocess.Popen([sys.executable, "-m", "app"], cwd=ROOT, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            assert server.poll() is None, Path(log.name).read_text()
            try:
                urllib.request.urlopen(url, timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        yield url
        assert "Traceback" not in Path(log.name).read_text(), Path(log.name).read_text()[-1500:]
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """A page that fails the test where it asks another host or throws."""
    context = chromium.new_context(viewport={"width": 1440, "height": 1000})
    tab = context.new_page()
    outside: list[str] = []
    thrown: list[str] = []
    tab.on("request", lambda r: outside.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    tab.on("pageerror", lambda e: thrown.append(str(e)))
    tab.goto(address)
    tab.wait_for_selector("#ps-drop", timeout=60_000)
    yield tab
    assert outside == [] and thrown == []
    context.close()


def picture(tab: Page, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    tab.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


def upload(tab: Page, path: Path) -> None:
    tab.locator("#ps-drop input[type=file]").set_input_files(path)


def drawn(tab: Page) -> str:
    return tab.locator(".ps-map").get_attribute("src") or ""


def test_an_empty_page_says_what_to_do(visit):
    expect(visit.locator("#ps-view")).to_contain_text("Drop an image, or try an example")
    expect(visit.get_by_text("Research use only. Not a medical device.")).to_be_visible()
    expect(visit.locator("#ps-device")).to_have_text("Computed on cpu (float32)")
    picture(visit, "empty")


def test_upload_a_dicom_read_probabilities_and_change_the_class_of_the_map(visit):
    upload(visit, CT)
    expect(visit.locator(".ps-bars li")).to_have_count(8, timeout=60_000)
    numbers = [float(t.rstrip("%")) for t in visit.locator(".ps-number").all_inner_texts()]
    assert sum(numbers) == pytest.approx(100, abs=0.5) and numbers == sorted(numbers, reverse=True)
    expect(visit.locator("#ps-notes")).to_contain_text("Rescaled with slope 1 and intercept -1024")
    expect(visit.locator(".ps-map")).to_be_visible()
    before, first = drawn(visit), visit.locator(".ps-legend b").inner_text()
    picture(visit, "ct")
    radios = visit.locator("#ps-classes input[type=radio]")
    assert radios.count() == 8 and radios.nth(0).is_checked()
    radios.nth(1).check()
    expect(visit.locator(".ps-legend b")).not_to_have_text(first, timeout=30_000)
    assert drawn(visit) != before
    picture(visit, "ct-another-class")


def test_the_opacity_slider_fades_the_map_at_once(visit):
    upload(visit, CT)
    expect(visit.locator(".ps-map")).to_be_visible(timeout=60_000)
    visit.locator("#ps-opacity input[type=number]").fill("0.2")
    visit.keyboard.press("Tab")
    expect(visit.locator(".ps-map")).to_have_css("opacity", "0.2")


def test_garbage_is_a_sentence_and_the_page_goes_on(visit, tmp_path):
    upload(visit, CT)
    expect(visit.locator(".ps-bars")).to_be_visible(timeout=60_000)
    garbage = tmp_path / "scan.dcm"
    garbage.write_bytes(bytes(range(256)) * 4)
    upload(visit, garbage)
    alert = visit.get_by_role("alert")
    expect(alert).to_contain_text("'scan.dcm' is no image that can be read here", timeout=30_000)
    expect(visit.locator(".ps-bars")).to_be_visible()  # what was open stays
    picture(visit, "garbage")
    upload(visit, CT)
    expect(alert).to_have_count(0, timeout=30_000)


def test_frames_of_a_cine_can_be_chosen(visit):
    visit.get_by_role("button", name="Ultrasound", exact=True).click()
    expect(visit.locator("#ps-notes")).to_contain_text("Frame 16 of 30", timeout=60_000)
    number = visit.locator("#ps-frame input[type=number]")
    number.fill("3")
    number.press("Enter")
    visit.locator("#ps-frame input[type=range]").focus()
    visit.keyboard.press("ArrowLeft")
    expect(visit.locator("#ps-notes")).to_contain_text(re.compile(r"Frame [23] of 30"), timeout=30_000)
    picture(visit, "cine")


def test_another_question_is_another_answer(visit):
    upload(visit, CT)
    expect(visit.locator(".ps-bars li")).to_have_count(8, timeout=60_000)
    visit.locator("#ps-prompts input").click()
    visit.get_by_role("option", name=re.compile("Kidney finding on CT .description")).click()
    expect(visit.locator(".ps-bars li")).to_have_count(4, timeout=60_000)
    expect(visit.locator("#ps-notes")).to_contain_text("Slices of very few patients")
    picture(visit, "kidney")


def test_an_absent_backbone_says_what_to_do_and_the_page_goes_on(visit):
    upload(visit, CT)
    expect(visit.locator(".ps-bars")).to_be_visible(timeout=60_000)
    visit.locator("#ps-backbone input").click()
    visit.get_by_role("option", name="biomedclip").click()
    expect(visit.get_by_role("alert")).to_contain_text("PROMPTSCOPE_BIOMEDCLIP", timeout=60_000)
    picture(visit, "absent-backbone")
    visit.locator("#ps-backbone input").click()
    visit.get_by_role("option", name="scope-mini").click()
    expect(visit.locator(".ps-bars")).to_be_visible(timeout=60_000)


def test_the_whole_job_can_be_done_from_the_keyboard(visit):
    button = visit.get_by_role("button", name="MR", exact=True)
    button.focus()
    visit.keyboard.press("Enter")
    expect(visit.locator(".ps-bars")).to_be_visible(timeout=60_000)
    visit.locator("#ps-classes input[type=radio]").first.focus()
    before = visit.locator(".ps-legend b").inner_text()
    visit.keyboard.press("Tab")  # Gradio's radios are tabbed through one by one
    visit.keyboard.press("Space")
    expect(visit.locator(".ps-legend b")).not_to_have_text(before, timeout=30_000)


def test_clear_forgets_the_image(visit):
    upload(visit, CT)
    expect(visit.locator(".ps-bars")).to_be_visible(timeout=60_000)
    visit.get_by_role("button", name="Clear", exact=True).click()
    expect(visit.locator("#ps-view")).to_contain_text("No image yet", timeout=30_000)
    expect(visit.locator(".ps-bars")).to_have_count(0)


@pytest.mark.parametrize(("theme", "width"), [("dark", 1440), ("light", 420)])
def test_dark_and_narrow_screens_can_be_read(chromium, address, theme, width):
    context = chromium.new_context(viewport={"width": width, "height": 1000}, color_scheme=theme)
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_selector("#ps-drop", timeout=60_000)
    upload(tab, CT)
    expect(tab.locator(".ps-bars")).to_be_visible(timeout=60_000)
    tab.wait_for_timeout(500)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width + 1
    picture(tab, f"{theme}-{width}")
    context.close()
