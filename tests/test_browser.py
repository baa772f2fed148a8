"""The page in a real browser, as a radiologist uses it. Run: python -m pytest tests/test_browser.py

Screenshots go to test-artefacts/ (outside git). The browser is Debian's Chromium (PROMPTSCOPE_CHROMIUM names another).
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest
from conftest import free_port
from gradio_client import Client, handle_file
from phantom import write_series
from playwright.sync_api import Page, expect, sync_playwright
from test_privacy import MARKER, assert_nowhere, write_study

import engine

ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = ROOT / "test-artefacts"
CHROMIUM = os.environ.get("PROMPTSCOPE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
CT = next(s.path for s in engine.samples() if s.title == "CT")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER: install Debian's chromium, or run `make test`, which does"),
]


@contextmanager
def running(folder: Path, before: str = "pass", **variables: str) -> Iterator[tuple[str, Path]]:
    """`python -m app` in a process of its own, with its cache and log in the folder: its address, and the log. before : Python
    to run in it first."""
    port, log = free_port(), folder / "log"
    environment = os.environ | {"PROMPTSCOPE_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "cache")} | variables
    with log.open("w") as said:
        program = f"import runpy; {before}; runpy.run_module('app', run_name='__main__')"
        server = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=said, stderr=said)
        url = f"http://127.0.0.1:{port}/"
        try:
            for _ in range(1200):
                assert server.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(url, timeout=2).close()
                    break
                except urllib.error.HTTPError:  # it asks for a password
                    break
                except OSError:
                    time.sleep(0.1)
            yield url, log
            assert "Traceback" not in log.read_text(), log.read_text()[-1500:]
        finally:
            server.terminate()
            server.wait(timeout=30)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server")) as (url, _):
        yield url


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
    expect(visit.locator("#ps-care")).to_contain_text("Slices of very few patients")
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
    expect(visit.locator("#ps-care")).to_have_text("")


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


# --- series, windows, covers -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> list[Path]:
    """A made chest CT of 40 slices, its files in random order, with a name in every header."""
    return write_series(tmp_path_factory.mktemp("ct"), slices=40, side=128)


def base(tab: Page) -> str:
    """The picture without its map."""
    return tab.locator(".ps-base").get_attribute("src") or ""


def changed(tab: Page, before: str) -> None:
    tab.wait_for_function(
        "(before) => { const e = document.querySelector('.ps-base'); return e && e.src !== before }",
        arg=before,
        timeout=30_000,
    )


def choose(tab: Page, list_id: str, words: str) -> None:
    tab.locator(f"#{list_id} input").click()
    tab.get_by_role("option", name=words).first.click()


def test_a_series_of_files_is_one_volume_to_page_through_and_to_classify(visit, series):
    visit.locator("#ps-drop input[type=file]").set_input_files(series)
    expect(visit.locator(".ps-file")).to_have_text("CT, 40 slices of 128 x 128", timeout=60_000)
    expect(visit.locator("#ps-frame")).to_contain_text("Frame of 40")
    expect(visit.locator("#ps-notes")).to_contain_text("Slice 21 of 40.")
    expect(visit.locator(".ps-mark")).to_have_text(["R", "A", "L", "P"])
    expect(visit.locator(".ps-thumb")).to_have_count(10, timeout=30_000)
    before = base(visit)
    visit.locator(".ps-thumb").nth(2).click()
    changed(visit, before)
    expect(visit.locator("#ps-notes")).to_contain_text("Slice 10 of 40.")
    visit.locator("#ps-all").click()
    expect(visit.locator("#ps-curve")).to_contain_text("the mean over 40 frames", timeout=60_000)
    pooled = [float(t.rstrip("%")) for t in visit.locator("#ps-curve .ps-number").all_inner_texts()]
    assert sum(pooled) == pytest.approx(100, abs=0.5)
    picture(visit, "series")
    before, area = base(visit), visit.locator("#ps-curve .ps-plot-area")
    size = area.bounding_box()
    area.click(position={"x": size["width"] * 30 / 39, "y": size["height"] / 2})  # the 31st of 40
    changed(visit, before)
    expect(visit.locator("#ps-notes")).to_contain_text("Slice 31 of 40.")
    visit.get_by_label("each class's highest").check()
    expect(visit.locator("#ps-curve")).to_contain_text("each class's highest of 40 frames", timeout=30_000)


def test_the_window_is_chosen_set_by_hand_and_inverted_and_always_the_one_that_is_classified(visit, series):
    visit.locator("#ps-drop input[type=file]").set_input_files(series)
    expect(visit.locator("#ps-notes")).to_contain_text("centre 40 HU, width 400 HU (file)", timeout=60_000)
    before = base(visit)
    choose(visit, "ps-window", "Lung, -600 / 1500")
    changed(visit, before)
    expect(visit.locator("#ps-notes")).to_contain_text("-600 HU, width 1500 HU")
    expect(visit.locator("#ps-center input[type=number]")).to_have_value("-600")
    picture(visit, "lung-window")
    before = base(visit)
    visit.locator("#ps-width input[type=number]").fill("300")
    visit.locator("#ps-width input[type=number]").press("Enter")
    changed(visit, before)
    expect(visit.locator("#ps-notes")).to_contain_text("-600 HU, width 300 HU (user)")
    expect(visit.locator("#ps-window input")).to_have_value("By hand")
    before = base(visit)
    visit.locator("#ps-invert input").check()
    changed(visit, before)
    expect(visit.locator("#ps-notes")).to_contain_text("Inverted by hand.")


def test_what_the_file_says_is_shown_and_whom_it_names_is_not(visit, series):
    visit.locator("#ps-drop input[type=file]").set_input_files(series)
    expect(visit.locator(".ps-file")).to_have_text("CT, 40 slices of 128 x 128", timeout=60_000)
    visit.locator("#ps-about summary").click()
    panel = visit.locator("#ps-about")
    for words in ("2.5 mm", "axial", "names and identifiers"):
        expect(panel).to_contain_text(words)
    picture(visit, "about")
    html = visit.content()
    assert "Phantom^Chest" not in html and "19000101" not in html
    assert not [path.name for path in series if path.name in visit.locator("#ps-view").inner_html()]


def test_text_in_the_picture_is_said_and_can_be_covered_found_or_drawn(visit, tmp_path):
    rng = np.random.default_rng(0)
    made = PIL.Image.fromarray((40 + rng.normal(0, 6, (480, 640))).clip(0, 255).astype(np.uint8))
    PIL.ImageDraw.Draw(made).text((20, 16), "DOE JANE 1970-01-01", fill=255, font=PIL.ImageFont.load_default(24))
    made.save(tmp_path / "us.png")
    upload(visit, tmp_path / "us.png")
    expect(visit.locator("#ps-care")).to_contain_text("1 area looks like text", timeout=60_000)
    expect(visit.locator(".ps-text").first).to_be_visible()
    picture(visit, "text-found")
    visit.locator("#ps-cover").get_by_text("Cover areas before classification").click()
    before = base(visit)
    visit.locator("#ps-cover-found").click()
    changed(visit, before)
    expect(visit.locator("#ps-notes")).to_contain_text("covered before classification")
    expect(visit.locator(".ps-text")).to_have_count(0)
    before, found = base(visit), visit.locator("#ps-covers textarea").input_value()
    visit.locator("#ps-draw").click()
    visit.locator(".ps-stage").scroll_into_view_if_needed()
    visit.evaluate("window.scrollTo(0, 0)")
    stage = visit.locator(".ps-stage").bounding_box()
    visit.mouse.move(stage["x"] + stage["width"] * 0.25, stage["y"] + stage["height"] * 0.5)
    visit.mouse.down()
    visit.mouse.move(stage["x"] + stage["width"] * 0.5, stage["y"] + stage["height"] * 0.75, steps=4)
    visit.mouse.up()
    changed(visit, before)
    drawn_area = visit.locator("#ps-covers textarea").input_value().removeprefix(found).strip("; ")
    top, left, height, width = (int(number) for number in drawn_area.split(","))
    assert (top, left, height, width) == (pytest.approx(240, abs=3), pytest.approx(160, abs=3), pytest.approx(120, abs=5), pytest.approx(160, abs=5))  # fmt: skip
    picture(visit, "covered")
    visit.get_by_role("button", name="Uncover").click()
    expect(visit.locator(".ps-text").first).to_be_visible(timeout=30_000)


def classify_a_long_one(tab: Page, folder: Path) -> None:
    """Begins what takes a while: 1200 pages."""
    values = np.random.default_rng(0).integers(0, 255, (1200, 32, 32), dtype=np.uint8)
    pages = [PIL.Image.fromarray(each) for each in values]
    pages[0].save(folder / "x.tif", save_all=True, append_images=pages[1:])
    upload(tab, folder / "x.tif")
    expect(tab.locator("#ps-all")).to_contain_text("Classify all 1200 frames", timeout=60_000)
    tab.locator("#ps-all").click()
    expect(tab.locator("#ps-curve")).to_contain_text("of 1200 frames so far", timeout=60_000)


def test_classifying_all_frames_can_be_stopped(visit, tmp_path):
    classify_a_long_one(visit, tmp_path)
    visit.locator("#ps-stop").click()
    visit.wait_for_timeout(2500)
    said = visit.locator("#ps-curve").inner_text()
    visit.wait_for_timeout(2500)
    assert visit.locator("#ps-curve").inner_text() == said and "so far" in said
    before = base(visit)
    visit.locator(".ps-thumb").nth(0).click()  # the page goes on
    changed(visit, before)


def test_a_bomb_and_a_zip_with_a_bad_entry_are_sentences_and_the_page_goes_on(visit, tmp_path, series):
    bomb = tmp_path / "bomb.png"
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    upload(visit, bomb)
    expect(visit.locator("#ps-problem")).to_contain_text("megapixels", timeout=60_000)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in series[:3]:
            archive.write(path, path.name)
        archive.writestr("readme.txt", "no image")
    upload(visit, tmp_path / "study.zip")
    expect(visit.locator(".ps-file")).to_have_text("CT, 3 slices of 128 x 128", timeout=60_000)
    expect(visit.locator("#ps-problem")).to_contain_text("readme.txt")


def test_a_folder_can_be_chosen(visit, series):
    with visit.expect_file_chooser() as chooser:
        visit.get_by_role("button", name="Choose a folder").click()
    chooser.value.set_files(series[0].parent)
    expect(visit.locator(".ps-file")).to_have_text("CT, 40 slices of 128 x 128", timeout=60_000)


def test_a_name_that_stands_everywhere_in_a_study_is_nowhere_in_what_the_page_keeps_or_logs(chromium, write_dicom, tmp_path):
    """The page's half of tests/test_privacy.py: headers, texts and file names through upload, reading, errors and audit."""
    study, home = write_study(tmp_path, write_dicom), tmp_path / "machine"
    (home / "tmp").mkdir(parents=True)
    (study / f"broken {MARKER}.png").write_bytes((study / f"{MARKER} text.png").read_bytes()[:300])
    (study / f"broken {MARKER}.dcm").write_bytes((study / MARKER / f"{MARKER} 0.dcm").read_bytes()[:-2000])
    files = sorted(p for p in study.rglob("*") if p.is_file())
    places = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PROMPTSCOPE_CACHE": str(home / "kept")}
    with running(home, **places, PROMPTSCOPE_AUDIT=str(home / "audit.jsonl")) as (url, log):
        context = chromium.new_context(viewport={"width": 1440, "height": 1000})
        tab = context.new_page()
        tab.goto(url)
        tab.wait_for_selector("#ps-drop input[type=file]", state="attached", timeout=60_000)
        tab.locator("#ps-drop input[type=file]").set_input_files(files)
        expect(tab.locator("#ps-bars .ps-bars")).to_be_visible(timeout=60_000)
        expect(tab.locator("#ps-problem")).to_contain_text(f"broken {MARKER}.dcm")  # said once, to whoever sent it
        shown = tab.locator("#ps-file input")
        shown.click()
        count = tab.get_by_role("option").count()
        assert count >= 8
        tab.locator("h1").click()
        for i in range(count):
            before = tab.locator("#ps-view").inner_html()
            if i:
                shown.click()
                tab.get_by_role("option").nth(i).click()
                tab.locator("h1").click()
                tab.wait_for_function(
                    "(before) => document.querySelector('#ps-view').innerHTML !== before",
                    arg=before,
                    timeout=30_000,
                )
            assert MARKER not in tab.locator("#ps-view").inner_html() + tab.locator("#ps-notes").inner_html()
        kept = [p for p in (home / "tmp").rglob("*") if p.is_file()]
        assert len(kept) >= count
        assert_nowhere(home, log.read_bytes())
        answer = Client(url, verbose=False, download_files=str(tmp_path / "answers")).predict(
            handle_file(str(files[-1])), "scope-mini", "nope", 0, api_name="/predict"
        )
        assert answer["results"][0]["status"] == "error"
        context.close()
        assert (home / "audit.jsonl").read_text().count("\n") >= count
    assert_nowhere(home)
    assert not list((home / "tmp").glob("promptscope-*")), "a stopped server left a visitor's files"


def test_another_image_ends_the_classification_of_all_frames_of_the_one_before(visit, tmp_path, series):
    """Bug: the first patient's curve went on growing beside the second patient's picture."""
    classify_a_long_one(visit, tmp_path)
    visit.locator("#ps-drop input[type=file]").set_input_files(series)
    expect(visit.locator(".ps-file")).to_have_text("CT, 40 slices of 128 x 128", timeout=60_000)
    expect(visit.locator("#ps-all")).to_contain_text("Classify all 40 frames", timeout=30_000)
    visit.wait_for_timeout(2000)
    expect(visit.locator("#ps-curve")).to_have_text("")
    visit.get_by_label("each class's highest").check()  # chosen before: it holds for what comes
    visit.locator("#ps-all").click()
    expect(visit.locator("#ps-curve")).to_contain_text("each class's highest of 40 frames", timeout=60_000)
    before = base(visit)
    visit.locator(".ps-thumb").nth(0).click()
    changed(visit, before)
    expect(visit.locator("#ps-curve")).to_contain_text(
        "each class's highest of 40 frames"
    )  # and stays when a frame is looked at


def test_clear_is_not_overtaken_by_what_was_asked_before(visit, series):
    """Bug: a slow answer put the patient's picture back after Clear."""
    visit.locator("#ps-drop input[type=file]").set_input_files(series)
    visit.get_by_role("button", name="Clear", exact=True).click()
    expect(visit.locator("#ps-view")).to_contain_text("No image yet", timeout=30_000)
    visit.wait_for_timeout(5000)
    expect(visit.locator("#ps-view")).to_contain_text("No image yet")
    expect(visit.locator(".ps-thumb")).to_have_count(0)
    upload(visit, CT)  # and the page goes on
    expect(visit.locator("#ps-bars .ps-bars")).to_be_visible(timeout=60_000)


def test_what_is_still_on_its_way_at_clear_is_not_opened(visit, series):
    """Bugs: files that took long to arrive were opened after Clear; after a Clear no folder was."""

    def slowly(route) -> None:
        time.sleep(1.5)
        route.continue_()

    visit.route("**/upload*", slowly)
    visit.locator("#ps-drop input[type=file]").set_input_files(series)
    with visit.expect_response("**/upload*", timeout=30_000):
        visit.get_by_role("button", name="Clear", exact=True).click()
    visit.wait_for_timeout(4000)
    expect(visit.locator("#ps-view")).to_contain_text("No image yet")
    visit.unroute("**/upload*")
    upload(visit, CT)
    expect(visit.locator("#ps-bars .ps-bars")).to_be_visible(timeout=60_000)
    visit.get_by_role("button", name="Clear", exact=True).click()
    expect(visit.locator("#ps-view")).to_contain_text("No image yet", timeout=30_000)
    with visit.expect_file_chooser() as chooser:
        visit.locator("#ps-folder").click()
    chooser.value.set_files(series[0].parent)
    expect(visit.locator(".ps-thumb")).to_have_count(10, timeout=60_000)


def test_a_map_of_another_kind_is_chosen_and_tested_against_chance(visit):
    upload(visit, CT)
    expect(visit.locator("#ps-method")).to_be_visible(timeout=60_000)
    before = visit.locator(".ps-map").get_attribute("src")
    visit.locator("#ps-method input").click()
    visit.get_by_role("option", name="attention of the last layer").click()
    expect(visit.locator(".ps-map")).not_to_have_attribute("src", before, timeout=60_000)
    visit.locator("#ps-check").click()
    expect(visit.locator("#ps-check-stop")).to_be_visible(timeout=30_000)
    visit.locator("#ps-check-stop").click()
    expect(visit.locator("#ps-chance")).to_contain_text("Stopped. Nothing is known of this map.", timeout=30_000)
    visit.locator("#ps-check").click()
    expect(visit.locator("#ps-chance")).to_contain_text("of 20 random orders", timeout=180_000)
    visit.locator("#ps-chance summary").click()
    picture(visit, "chance")
    visit.locator("#ps-classes label").nth(1).click()  # another map: nothing is known of it
    expect(visit.locator("#ps-chance")).to_have_text("", timeout=60_000)
