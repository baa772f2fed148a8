"""The Teach tab in a real browser: mouse and keyboard, labels at once, a training from beginning to use.

Run: python -m pytest tests/test_browser_teach.py
"""

from __future__ import annotations

import base64
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, expect
from test_browser import chromium, picture, pytestmark, running  # noqa: F401 - fixtures and marks
from test_teach import shade

import engine

CT = next(s.path for s in engine.samples() if s.title == "CT")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("teach")


@pytest.fixture(scope="module")
def workplace(place):
    """The address of a page whose workspace is empty at first: each test makes a question of its own."""
    with running(place, PROMPTSCOPE_WORKSPACE=str(place / "workspace")) as (address, _):
        yield address


@pytest.fixture
def visit(chromium, workplace):  # noqa: F811
    """The Teach tab; fails where the page throws, opens a dialog or asks another host."""
    context = chromium.new_context(viewport={"width": 1440, "height": 1000})
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: wrong.append(dialog.message))
    tab.on("request", lambda r: wrong.append(r.url) if not r.url.startswith((workplace, "data:", "blob:")) else None)
    tab.goto(workplace)
    teach(tab)
    yield tab
    assert wrong == []
    context.close()


def teach(tab: Page) -> None:
    tab.wait_for_selector("#ps-drop", state="attached", timeout=60_000)
    tab.get_by_role("tab", name="Teach").click()


def again(tab: Page) -> None:
    tab.reload()
    teach(tab)


def folders(place: Path, each: int = 6, bare: int = 0) -> Path:
    """Class folders whose files have the same names, as folders have."""
    for label, light in (("dark", 60), ("bright", 190)):
        (place / "study" / label).mkdir(parents=True)
        for i in range(each):
            shade(i + light, light).save(place / "study" / label / f"{i}.png")
    for i in range(bare):
        shade(900 + i, 120).save(place / "study" / f"bare {i}.png")
    return place / "study"


def make(tab: Page, classes: str = "dark\nbright") -> None:
    # the page has arrived: it has opened the form, or shows the newest question
    expect(tab.locator("#ps-title:visible, #ps-task:visible").first).to_be_visible(timeout=30_000)
    if not tab.locator("#ps-title").is_visible():
        tab.locator("#ps-new-task").get_by_text("A new question").click()
    tab.locator("#ps-title").locator("input, textarea").first.fill("Light")
    tab.locator("#ps-new-classes textarea").fill(classes)
    tab.locator("#ps-make").click()
    expect(tab.locator("#ps-gallery")).to_contain_text("No images yet", timeout=30_000)
    expect(tab.locator("#ps-about-task .ps-classes li")).to_have_count(len(classes.splitlines()), timeout=30_000)


def tag(tab: Page, number: int) -> str:
    """The class on the screen of an image by its number."""
    return tab.locator(".ps-case", has=tab.locator(f".ps-no:text-is('{number}')")).locator(".ps-tag").inner_text()


def test_an_empty_workspace_says_what_to_do(visit):
    expect(visit.locator("#ps-gallery")).to_contain_text("There is no question yet. Make one in step 1", timeout=30_000)
    expect(visit.locator("#ps-make")).to_be_visible()
    visit.locator("#ps-bring-files").set_input_files(CT)
    expect(visit.locator("#ps-zone-said")).to_have_text("First say in step 1 what you want to tell apart.")
    visit.get_by_role("tab", name="Result").click()
    expect(visit.locator("#ps-outcome")).to_contain_text("No result yet")
    picture(visit, "teach-empty")


def test_images_are_labelled_with_mouse_and_keys_at_once_and_nothing_is_lost(visit, tmp_path):
    make(visit)
    visit.locator("#ps-bring-folder").set_input_files(folders(tmp_path, 3, bare=6))
    expect(visit.locator(".ps-case")).to_have_count(12, timeout=60_000)
    expect(visit.locator("#ps-coming")).to_contain_text("12 images added. 6 came with their class.")
    expect(visit.locator(".ps-guess")).to_have_count(12, timeout=60_000)
    visit.locator("#ps-only input").click()
    visit.get_by_role("option", name="without class").click()
    expect(visit.locator(".ps-case")).to_have_count(6, timeout=30_000)
    shown = visit.locator(".ps-case")
    shown.nth(0).click()
    shown.nth(2).click(modifiers=["Shift"])
    shown.nth(4).click(modifiers=["Control"])
    expect(visit.locator(".ps-count")).to_have_text("4 chosen")
    visit.keyboard.press("2")
    # before any answer of the server: what is asked next comes in the same moment
    assert shown.evaluate_all("cells => cells.map(c => c.querySelector('.ps-tag').innerText)") == [
        "2 bright", "2 bright", "2 bright", "no class", "2 bright", "no class"
    ]  # fmt: skip
    expect(visit.locator("#ps-balance")).to_contain_text("10 of 12 images have a class", timeout=30_000)
    for key in "1212":  # quicker than the server answers: none is lost, the last one counts
        visit.keyboard.press(key)
    visit.keyboard.press("1")
    expect(visit.locator("#ps-told")).to_contain_text("4 images: dark", timeout=30_000)
    assert visit.evaluate("document.activeElement.className").startswith("ps-case")  # the focus stayed where it was
    visit.keyboard.press("u")
    expect(visit.locator("#ps-told")).to_contain_text("Taken back for images 1, 2, 3 and 5.", timeout=30_000)
    picture(visit, "teach-labelled")
    again(visit)
    expect(visit.locator("#ps-balance")).to_contain_text("10 of 12 images have a class", timeout=30_000)
    assert [visit.locator(f".ps-case.ps-c{i}").count() for i in (0, 1, 2)] == [2, 3, 7]


ACTS = re.compile("/gradio_api/(run|queue/join)")


def is_act(request: Request) -> bool:
    return '\\"acts\\"' in (request.post_data or "")


def test_a_class_given_before_the_question_was_changed_is_given_where_the_key_was_pressed(visit, tmp_path):
    make(visit)
    make(visit, "a\nb\nc")
    visit.locator("#ps-task input").click()
    visit.get_by_role("option", name="Light").nth(1).click()  # the older one
    expect(visit.locator("#ps-about-task .ps-classes li")).to_have_count(2, timeout=30_000)
    visit.locator("#ps-bring-folder").set_input_files(folders(tmp_path, 0, bare=2))
    expect(visit.locator(".ps-guess")).to_have_count(2, timeout=60_000)
    held = []
    visit.route(ACTS, lambda route: held.append(route) if is_act(route.request) and not held else route.continue_())
    visit.locator(".ps-case").nth(0).click()
    visit.keyboard.press("1")
    visit.locator(".ps-case").nth(1).click()
    visit.keyboard.press("2")  # waits for the answer to the first
    visit.locator("#ps-task input").click()
    visit.get_by_role("option", name="Light").nth(0).click()
    expect(visit.locator("#ps-about-task .ps-classes li")).to_have_count(3, timeout=30_000)
    held[0].continue_()
    expect(visit.locator("#ps-told")).to_contain_text("1 image: bright", timeout=30_000)
    expect(visit.locator("#ps-gallery")).to_contain_text("No images yet")
    expect(visit.locator("#ps-teach-wrong")).to_be_empty()
    visit.locator("#ps-task input").click()
    visit.get_by_role("option", name="Light").nth(1).click()
    expect(visit.locator(".ps-case")).to_have_count(2, timeout=30_000)
    assert [tag(visit, n) for n in (1, 2)] == ["1 dark", "2 bright"]


def test_what_was_done_while_no_answer_came_is_not_dropped(visit, tmp_path):
    make(visit)
    visit.locator("#ps-bring-folder").set_input_files(folders(tmp_path, 0, bare=2))
    expect(visit.locator(".ps-guess")).to_have_count(2, timeout=60_000)
    lost = []
    visit.route(ACTS, lambda route: lost.append(route) if is_act(route.request) and not lost else route.continue_())
    visit.clock.install()
    visit.locator(".ps-case").nth(0).click()
    visit.keyboard.press("1")  # never arrives
    visit.locator(".ps-case").nth(1).click()
    visit.keyboard.press("2")
    visit.clock.run_for(31_000)
    expect(visit.locator("#ps-told")).to_contain_text("had no answer for a while", timeout=30_000)
    expect(visit.locator("#ps-told")).to_contain_text("1 image: bright", timeout=30_000)
    assert [tag(visit, n) for n in (1, 2)] == ["no class", "2 bright"]  # what is saved is shown


def test_files_that_are_dropped_during_a_transfer_come_in_as_well(visit, tmp_path):
    make(visit)
    held = []
    visit.route("**/upload*", lambda route: held.append(route) if not held else route.continue_())
    for i in range(3):
        shade(i, 60).save(tmp_path / f"{i}.png")
        visit.locator("#ps-bring-files").set_input_files(tmp_path / f"{i}.png")
    expect(visit.locator("#ps-zone")).to_have_class(re.compile("ps-busy"))
    while not held:  # the browser has sent it
        visit.wait_for_timeout(50)
    held[0].continue_()
    expect(visit.locator(".ps-case")).to_have_count(3, timeout=60_000)


def test_a_backup_is_saved_and_nothing_of_it_stays_on_the_server(visit, tmp_path, place):
    make(visit)
    visit.locator("#ps-bring-folder").set_input_files(folders(tmp_path, 1))
    expect(visit.locator(".ps-guess")).to_have_count(2, timeout=60_000)
    visit.locator("#ps-keeping").get_by_text("Back up and delete").click()
    with visit.expect_download(timeout=60_000) as download:
        visit.locator("#ps-back-up").click()
    again = engine.restore(download.value.path(), tmp_path / "again")
    assert sorted(case.label for case in again.cases(next(iter(again.tasks())))) == ["bright", "dark"]
    again.close()
    assert [path for path in (place / "cache").rglob("*") if path.is_file()] == []


def test_the_gallery_works_without_a_mouse(visit, tmp_path):
    make(visit)
    visit.locator("#ps-bring-folder").set_input_files(folders(tmp_path, 2, bare=8))
    expect(visit.locator(".ps-guess")).to_have_count(12, timeout=60_000)
    visit.locator(".ps-case[tabindex='0']").focus()
    visit.keyboard.press("Home")
    for key in ("ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight"):
        visit.keyboard.press(key)
    expect(visit.locator(".ps-count")).to_have_text("3 chosen")
    visit.keyboard.press("1")
    expect(visit.locator("#ps-told")).to_contain_text("3 images: dark", timeout=30_000)
    assert [tag(visit, n) for n in (2, 3, 4)] == ["1 dark"] * 3
    visit.keyboard.press("Enter")
    expect(visit.locator(".ps-large")).to_contain_text("Image 4", timeout=30_000)
    visit.keyboard.press("ArrowRight")  # the large one follows
    expect(visit.locator(".ps-large")).to_contain_text("Image 5", timeout=30_000)
    expect(visit.locator(".ps-large .ps-bars li")).to_have_count(2)
    picture(visit, "teach-enlarged")
    visit.keyboard.press("Escape")
    expect(visit.locator(".ps-large")).to_have_count(0, timeout=30_000)
    visit.keyboard.press("Escape")
    expect(visit.locator(".ps-count")).to_have_text("None chosen")
    visit.keyboard.press("a")
    expect(visit.locator(".ps-count")).to_have_text("12 chosen")
    visit.keyboard.press("Control+z")
    expect(visit.locator("#ps-told")).to_contain_text("Taken back for images 2, 3 and 4.", timeout=30_000)


def test_a_folder_of_another_name_becomes_a_class_with_a_click_whatever_its_name_is(visit, tmp_path):
    make(visit)
    shade(1, 60).save(tmp_path / "one.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "one.png", f"x/{HOSTILE}/1.png")
        archive.writestr("x/dark/broken.png", b"no image")
    raw = base64.b64encode((tmp_path / "x.zip").read_bytes()).decode()
    drop = visit.evaluate_handle(
        """(raw) => { const moved = new DataTransfer();
        moved.items.add(new File([Uint8Array.from(atob(raw), (c) => c.charCodeAt(0))], "x.zip")); return moved; }""",
        raw,
    )
    visit.dispatch_event("#ps-zone", "drop", {"dataTransfer": drop})
    expect(visit.locator("#ps-coming")).to_contain_text("broken.png", timeout=60_000)
    visit.get_by_role("button", name="Make it a class").click()
    expect(visit.locator("#ps-about-task li")).to_have_count(3, timeout=30_000)
    assert tag(visit, 1) == f"3 {HOSTILE}"
    visit.locator(".ps-case").click()
    visit.keyboard.press("1")
    visit.keyboard.press("3")
    assert tag(visit, 1) == f"3 {HOSTILE}"
    expect(visit.locator("#ps-told")).to_contain_text("1 image: <img", timeout=30_000)
    assert visit.locator("#ps-teach img[src='x']").count() == 0


def test_images_are_deleted_after_a_second_question(visit, tmp_path):
    make(visit)
    visit.locator("#ps-bring-folder").set_input_files(folders(tmp_path, 2))
    expect(visit.locator(".ps-case")).to_have_count(4, timeout=60_000)
    visit.get_by_role("button", name="Delete", exact=True).click()
    expect(visit.locator("#ps-teach-wrong")).to_contain_text("No image is chosen", timeout=30_000)
    visit.locator(".ps-case").nth(1).click()
    visit.get_by_role("button", name="Delete", exact=True).click()
    expect(visit.locator("#ps-sure").first).to_contain_text("Delete 1 image for good,", timeout=30_000)
    picture(visit, "teach-delete")
    visit.locator("#ps-erase-no").click()
    expect(visit.locator("#ps-sure").first).to_be_hidden(timeout=30_000)
    expect(visit.locator(".ps-case")).to_have_count(4)
    visit.get_by_role("button", name="Delete", exact=True).click()
    visit.locator("#ps-erase-yes").click()
    expect(visit.locator(".ps-case")).to_have_count(3, timeout=30_000)
    assert [number.inner_text() for number in visit.locator(".ps-no").all()] == ["1", "3", "4"]


def test_a_training_is_watched_read_saved_and_used(visit, tmp_path):
    visit.locator("#ps-drop input[type=file]").set_input_files(CT)  # Read has an image when the question changes
    expect(visit.locator("#ps-bars .ps-bars li").first).to_be_attached(timeout=60_000)
    make(visit)
    visit.locator("#ps-bring-folder").set_input_files(folders(tmp_path))
    expect(visit.locator(".ps-guess")).to_have_count(12, timeout=60_000)
    visit.locator("#ps-budget").get_by_text("Standard").click()
    visit.locator("#ps-advanced").get_by_text("Advanced").click()
    options = visit.locator("#ps-options textarea")
    options.fill(
        re.sub(r"epochs = \d+", "epochs = 130", options.input_value())
    )  # long enough to be stopped on a busy machine
    visit.locator("#ps-teach-now").click()
    expect(visit.locator(".ps-job[data-state=running] svg").first).to_be_visible(timeout=120_000)
    expect(visit.locator("#ps-teach-now")).to_be_disabled()
    outside = visit.locator(".ps-job svg.ps-still").evaluate(
        "plot => [...plot.querySelectorAll('text')].filter(each => { const box = each.getBBox();"
        " return box.x < 0 || box.x + box.width > plot.viewBox.baseVal.width; }).map(each => each.textContent)"
    )
    assert outside == []
    again(visit)
    expect(visit.locator(".ps-job[data-state=running] svg").first).to_be_visible(timeout=60_000)
    picture(visit, "teach-training")
    visit.locator("#ps-stop-job").click()
    expect(visit.locator(".ps-job[data-state=stopped]")).to_be_visible(timeout=30_000)
    visit.locator("#ps-resume").click()
    expect(visit.locator(".ps-verdict")).to_be_visible(timeout=240_000)
    expect(visit.locator(".ps-job")).to_contain_text("is done")
    headline = visit.locator(".ps-verdict p").inner_text()
    assert "zero-shot" in headline and "12 held-out" in headline, headline
    visit.locator("[data-cell]").first.click()
    count = int(visit.locator("[data-cell]").first.inner_text())
    expect(visit.locator(".ps-mini")).to_have_count(count, timeout=30_000)
    visit.locator(".ps-mini").first.click()
    expect(visit.locator("#ps-seen .ps-large")).to_be_visible(timeout=30_000)
    picture(visit, "teach-result")
    visit.locator("#ps-set-name").locator("input, textarea").first.fill("my light")
    visit.locator("#ps-save").click()
    expect(visit.locator("#ps-saved")).to_contain_text("Saved as “my-light-scope-mini”", timeout=30_000)
    with visit.expect_download() as download:
        visit.locator("#ps-saved a").click()
    assert engine.PromptSet.load(download.value.path().rename(tmp_path / "set.safetensors")).labels == ("dark", "bright")
    visit.locator("#ps-use").click()
    expect(visit.locator("#ps-prompts input")).to_have_value("yours: Light (biomedcoop)", timeout=30_000)
    visit.locator("#ps-drop input[type=file]").set_input_files(CT)
    expect(visit.locator("#ps-bars .ps-bars li")).to_have_count(2, timeout=60_000)
    picture(visit, "teach-used")
