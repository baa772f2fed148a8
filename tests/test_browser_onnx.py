"""The page on an exported image tower, in a real browser. Run: python -m pytest tests/test_browser_onnx.py"""

from __future__ import annotations

import pytest
from gradio_client import Client, handle_file
from playwright.sync_api import expect
from test_browser import CT, chromium, picture, pytestmark, running, upload  # noqa: F401 - fixtures and marks

import engine

COMPUTED = "cpu (float32 in ONNX Runtime)"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    exports, folder = tmp_path_factory.mktemp("exports"), tmp_path_factory.mktemp("server")
    engine.export_onnx("scope-mini", "fp32", exports / "mini")
    with running(folder, PROMPTSCOPE_ONNX=str(exports), PROMPTSCOPE_BACKBONE="onnx:scope-mini") as (url, _):
        yield url


def test_the_page_on_an_exported_tower_shows_the_numbers_of_torch_and_what_runs(chromium, address):  # noqa: F811
    tab = chromium.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    tab.goto(address)
    expect(tab.locator("#ps-device")).to_have_text(f"Computed on {COMPUTED}", timeout=60_000)
    upload(tab, CT)
    expect(tab.locator("#ps-bars li")).to_have_count(8, timeout=60_000)
    backbone = engine.load_backbone("scope-mini")
    by_torch = engine.predict(engine.read_image(CT), backbone, engine.prompt_set("modality", backbone))
    shown = tab.locator("#ps-bars .ps-number").all_inner_texts()
    assert [float(each.rstrip("%")) for each in shown] == [round(100 * p, 1) for _, p in by_torch.ranked()]
    expect(tab.locator("#ps-bars")).to_contain_text(f"onnx:scope-mini · Computed on {COMPUTED}")
    expect(tab.locator(".ps-map")).to_be_visible()  # one that needs no gradient
    first = tab.locator(".ps-legend b").inner_text()
    before = tab.locator(".ps-map").get_attribute("src")
    tab.locator("#ps-classes input[type=radio]").nth(1).check()
    expect(tab.locator(".ps-legend b")).not_to_have_text(first, timeout=30_000)
    assert tab.locator(".ps-map").get_attribute("src") != before
    picture(tab, "onnx")
    tab.get_by_role("tab", name="Library").click()
    tab.get_by_role("tab", name="Backbones").click()
    row = tab.locator("tr", has=tab.locator("th", has_text="onnx:scope-mini"))
    expect(row).to_contain_text("exported on this machine (fp32)", timeout=30_000)
    expect(row).to_contain_text(f"{COMPUTED}, loaded")
    tab.context.close()


def test_a_question_that_needs_words_is_a_sentence(address):
    client = Client(address, verbose=False)
    asked = {"backbone": "onnx:scope-mini", "prompts": "chmnist-zero-shot"}
    (row,) = client.predict(handle_file(CT), **asked, api_name="/predict")["results"]
    assert row["status"] == "error" and "'onnx:scope-mini' is an image tower: it reads no text." in row["error"]
