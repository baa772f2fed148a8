"""Pointing at a phrase in a real browser. Run: python -m pytest tests/test_browser_pointing.py"""

from __future__ import annotations

import re

import numpy as np
import PIL.Image
import pytest
from playwright.sync_api import expect
from test_browser import CT, chromium, picture, pytestmark, running, upload  # noqa: F401 - fixtures and marks

import engine


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server"), PROMPTSCOPE_PRECISION="float32") as (url, _):
        yield url


@pytest.fixture
def tab(chromium, address):  # noqa: F811
    page = chromium.new_context(viewport={"width": 1440, "height": 1100}).new_page()
    page.goto(address)
    page.locator("#ps-point").get_by_text("Point at a phrase").click(timeout=60_000)
    yield page
    page.context.close()


def field(tab, name):
    return tab.locator(f"#ps-point-{name} textarea, #ps-point-{name} input").first


def boxes(found):
    return [
        re.search(r"(\d+) x (\d+) mm \(score (\d\.\d\d)\)", line).groups() for line in found.locator("li").all_inner_texts()
    ]


def test_a_phrase_is_shown_where_the_library_finds_it_and_another_beside_it(tab):
    upload(tab, CT)
    expect(tab.locator("#ps-bars li")).to_have_count(8, timeout=60_000)
    field(tab, "phrase").fill("dark air outside of the body")
    field(tab, "phrase").press("Enter")
    figures = tab.locator("#ps-pointed figure")
    expect(figures).to_have_count(1, timeout=60_000)
    image, backbone = engine.read_image(CT), engine.load_backbone("scope-mini")

    def expected(phrase, by="windows"):
        locator = engine.load_locator(by, backbone)
        (found,) = engine.locate(image, phrase, locator, most=3)
        down, across = image.spacing_mm
        return [
            (f"{(x1 - x0) * across:.0f}", f"{(y1 - y0) * down:.0f}", f"{score:.2f}")
            for (x0, y0, x1, y1), score in zip(found.boxes.astype(float), found.scores, strict=True)
        ]

    assert boxes(figures.first) == expected("dark air outside of the body")
    field(tab, "other").fill("dark irregular mass")
    tab.get_by_role("button", name="Show where").click()
    expect(figures).to_have_count(2, timeout=60_000)
    expect(figures.nth(1)).to_contain_text("dark irregular mass")
    assert boxes(figures.nth(1)) == expected("dark irregular mass") != []
    before = boxes(figures.nth(1))
    tab.get_by_label("one look at the whole").check()
    tab.get_by_role("button", name="Show where").click()
    expect(figures.nth(1)).not_to_contain_text(f"score {before[0][2]}", timeout=60_000)
    assert boxes(figures.nth(1)) == expected("dark irregular mass", "patches") != before
    expect(tab.locator("#ps-pointed")).to_contain_text("never taught where things are")
    picture(tab, "pointing")


def test_the_words_of_a_class_are_taken_with_its_look_beside_its_name(tab):
    upload(tab, CT)
    expect(tab.locator("#ps-bars li")).to_have_count(8, timeout=60_000)
    tab.locator("#ps-prompts input").click()
    tab.get_by_role("option", name=re.compile("Breast lesion on ultrasound")).first.click()
    expect(tab.locator("#ps-bars li")).to_have_count(3, timeout=60_000)
    expect(tab.locator("#ps-point-class input")).to_have_value("")
    tab.locator("#ps-point-class input").click()
    tab.get_by_role("option", name=re.compile("Malignant")).click()
    full = engine.described(engine.descriptions("busi"), "malignant tumor")
    expect(field(tab, "phrase")).to_have_value(full.name)
    expect(field(tab, "other")).to_have_value(full.text)
    assert full.name in full.text != full.name
    tab.get_by_role("button", name="Show where").click()
    found = tab.locator("#ps-pointed")
    expect(found.locator("figure")).to_have_count(2, timeout=60_000)
    expect(found).to_contain_text("every place is held against: benign tumor, normal scan.")
    tab.locator("#ps-prompts input").click()
    tab.get_by_role("option", name=re.compile("Kind of image")).first.click()
    for name in ("phrase", "other"):  # the words of a class go with its question
        expect(field(tab, name)).to_have_value("", timeout=60_000)


def test_a_tall_picture_fits_the_window_with_its_numbers_and_clear_takes_the_words(tab, tmp_path):
    """Bug: the picture of a tall image was as wide as its column, 4000 pixels high, with the answer below."""
    pixels = np.random.default_rng(0).integers(0, 60, (1200, 200)).astype(np.uint8)
    pixels[900:950, 60:110] = 250
    PIL.Image.fromarray(pixels).save(tmp_path / "tall.png")
    upload(tab, tmp_path / "tall.png")
    expect(tab.locator("#ps-bars li")).to_have_count(8, timeout=60_000)
    field(tab, "phrase").fill("bright square")
    field(tab, "other").fill("bone")
    tab.get_by_role("button", name="Show where").click()
    shown = tab.locator("#ps-pointed .ps-point-picture")
    expect(shown).to_have_count(2, timeout=60_000)
    for each in shown.all():
        box = each.bounding_box()
        assert 0.9 * 0.6 * 1100 < box["height"] < 1.01 * 0.6 * 1100
        assert box["height"] / box["width"] == pytest.approx(6, rel=0.02)
        assert each.locator("span").count() == each.locator("xpath=..").locator("li").count()
    tab.locator("#ps-clear").click()
    for name in ("phrase", "other"):
        expect(field(tab, name)).to_have_value("", timeout=30_000)


def test_nothing_typed_and_nothing_open_are_sentences_and_another_image_wipes_what_was_shown(tab):
    tab.get_by_role("button", name="Show where").click()
    expect(tab.locator("#ps-pointed")).to_contain_text("Write what to look for first", timeout=30_000)
    field(tab, "phrase").fill("bone")
    tab.get_by_role("button", name="Show where").click()
    expect(tab.locator("#ps-pointed")).to_contain_text("No image is open", timeout=30_000)
    upload(tab, CT)
    expect(tab.locator("#ps-bars li")).to_have_count(8, timeout=60_000)
    expect(tab.locator("#ps-pointed")).not_to_contain_text("No image is open")
    field(tab, "phrase").fill("b" * 600)
    tab.get_by_role("button", name="Show where").click()
    expect(tab.locator("#ps-pointed")).to_contain_text("600 characters, more than 500", timeout=30_000)
    field(tab, "phrase").fill("bone")
    tab.get_by_role("button", name="Show where").click()
    expect(tab.locator("#ps-pointed figure")).to_have_count(1, timeout=60_000)
    tab.locator("#ps-clear").click()
    expect(tab.locator("#ps-pointed figure")).to_have_count(0, timeout=30_000)
