"""The form of a class's names and look, in a real browser, with a language model that is made here.

Run: python -m pytest tests/test_browser_words.py
"""

from __future__ import annotations

import re

import numpy as np
import PIL.Image
import pytest
import small_models
from gradio_client import Client, handle_file
from playwright.sync_api import expect
from test_browser import chromium, picture, pytestmark, running  # noqa: F401 - fixtures and marks

from engine.generators.masked_lm import SENTENCES

CLASSES = ["bright square", "dark square"]


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A masked language model that knows one thing of each class."""
    told = [(SENTENCES["colour"].replace("{c}", c), word) for c, word in zip(CLASSES, ("white", "black"), strict=True)]
    told += [(SENTENCES["shape"].replace("{c}", c), "round") for c in CLASSES]
    return small_models.bert(tmp_path_factory.mktemp("language"), told, steps=300)


@pytest.fixture(scope="module")
def page(tmp_path_factory, language):
    """(address, task) of a page whose workspace has ten labelled images."""
    folder, files = tmp_path_factory.mktemp("server"), []
    rng = np.random.default_rng(0)
    for i in range(10):
        pixels = rng.integers(0, 60, (64, 64)).astype(np.uint8)
        pixels[16:48, 16:48] += 150 * (i % 2 == 0)
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
        files.append(handle_file(folder / f"{i}.png"))
    more = {"PROMPTSCOPE_WORKSPACE": str(folder / "workspace"), "PROMPTSCOPE_MASKED_LM": str(language)}
    with running(folder, PROMPTSCOPE_PRECISION="float32", **more) as (url, _):
        client = Client(url, verbose=False)
        task = client.predict("Squares", CLASSES, api_name="/make_task")["id"]
        cases = client.predict(task, files, api_name="/add_images")["cases"]
        for i, case in enumerate(cases):
            client.predict(task, [case], CLASSES[i % 2], api_name="/label")
        yield url, task, client


def field(tab, kind):
    return tab.locator(f"#ps-words-{kind} textarea, #ps-words-{kind} input").first


def save(tab):
    tab.locator("#ps-words-save").click()


@pytest.fixture
def tab(chromium, page):  # noqa: F811
    opened = chromium.new_context(viewport={"width": 1440, "height": 1200}).new_page()
    opened.goto(page[0])
    opened.get_by_role("tab", name="Library").click(timeout=60_000)
    opened.get_by_role("tab", name="Descriptions").click()
    opened.locator("#ps-bank-task input").click(timeout=30_000)
    opened.get_by_role("option", name="Squares").click()
    expect(opened.locator("#ps-bank-class input")).to_have_value("bright square", timeout=30_000)
    opened.locator("#ps-words").get_by_text("Names and look of this class").click()
    expect(opened.locator("#ps-words-read")).to_contain_text("bright square", timeout=60_000)  # so the fields are filled
    yield opened
    opened.context.close()


def test_a_slot_is_edited_the_model_reads_it_and_its_effect_stands_beside_it(tab, page):
    read, said = tab.locator("#ps-words-read"), tab.locator("#ps-words-said")
    expect(read).to_contain_text("bright square", timeout=30_000)
    expect(tab.locator("#ps-bank-lines textarea")).to_have_value(
        re.compile("bright square")
    )  # its sentences, none of them new
    expect(tab.locator("#ps-bank-said")).not_to_contain_text("Not saved yet")
    field(tab, "texture").fill("smooth;  even ;; ")
    save(tab)
    expect(said).to_contain_text(
        "Saved: Texture. Such prompts alone, on your labelled images, each class counting the same:", timeout=60_000
    )
    expect(said).to_contain_text("on 10 cases")
    expect(field(tab, "texture")).to_have_value("smooth; even")
    expect(read).to_contain_text("smooth")
    _, task, client = page
    assert client.predict(task, "bright square", "texture", ["smooth", "even"], api_name="/edit_words")["prompts"] == (
        read.locator("li").all_inner_texts()
    )
    tab.locator("#ps-bank-class input").click()
    tab.get_by_role("option", name="dark square").click()
    expect(read).to_contain_text("dark square", timeout=30_000)
    expect(field(tab, "texture")).to_have_value("")
    field(tab, "lay").fill("x" * 200)
    save(tab)
    expect(said).to_contain_text("is longer than a few words", timeout=30_000)
    expect(field(tab, "lay")).to_have_value("x" * 200)  # nothing of it is lost, also on the way to another class and back
    for name, value in (("bright square", ""), ("dark square", "x" * 200)):
        tab.locator("#ps-bank-class input").click()
        tab.get_by_role("option", name=name).click()
        expect(field(tab, "lay")).to_have_value(value, timeout=30_000)


def test_a_language_model_fills_the_slots_and_what_was_there_comes_back(tab):
    said = tab.locator("#ps-words-said")
    field(tab, "colour").fill("green")
    save(tab)
    expect(said).to_contain_text("Saved: Colour.", timeout=60_000)
    tab.locator("#ps-words-fill").click()
    expect(said).to_contain_text("of every class are now what", timeout=90_000)
    expect(field(tab, "colour")).to_have_value(re.compile("^white;"), timeout=60_000)
    expect(field(tab, "shape")).to_have_value(re.compile("^round;"))
    expect(tab.locator("#ps-words-read")).to_contain_text("white")
    picture(tab, "words")
    tab.locator("#ps-words-undo").click()
    expect(said).to_contain_text("as they were before they were filled", timeout=60_000)
    expect(field(tab, "colour")).to_have_value("green")
    expect(tab.locator("#ps-words-undo")).to_be_hidden()


def test_which_words_help_is_told_with_what_choosing_is_worth(tab, page):
    _, task, client = page
    client.predict(task, "bright square", "colour", ["white"], api_name="/edit_words")
    client.predict(task, "dark square", "colour", ["black"], api_name="/edit_words")
    tab.locator("#ps-words-propose").click()
    said = tab.locator("#ps-words-said")
    expect(said).to_contain_text(re.compile("On 10 cases.* the best of"), timeout=120_000)
    told = client.predict(task, api_name="/propose_words")
    assert told["told"] in said.inner_text()
    rows = said.locator("tbody tr").all_inner_texts()
    for place, (row, tried) in enumerate(zip(rows[:5], told["tried"], strict=False), start=1):
        assert row.startswith(f"{place}.") and tried["what"] in row and f"{100 * tried['balanced_accuracy']:.0f} %" in row
    assert sum("(the plain name)" in row for row in rows) == sum("are made today" in row for row in rows) == 1
    picture(tab, "ways")


def test_a_task_without_images_says_so_for_programs(page):
    with pytest.raises(Exception, match="no labelled image of this task"):
        page[2].predict("busi", api_name="/propose_words")
    with pytest.raises(Exception, match="no slot and no name 'size'"):
        page[2].predict("busi", "benign tumor", "size", ["big"], api_name="/edit_words")
    named = page[2].predict("busi", "Benign tumour", "color", ["pale"], api_name="/edit_words")  # as people call them
    assert any("pale" in each for each in named["prompts"])
