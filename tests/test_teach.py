"""The Teach tab: its handlers over real workspaces, its pictures, its endpoints. Run: python -m pytest tests/test_teach.py"""

from __future__ import annotations

import base64
import io
import json
import re
import time
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image
import pytest
from conftest import free_port
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from sqlalchemy import update

import engine
from app import cases, compute, gallery, models, teaching, text
from app.gallery import Look
from app.host import Host, Screen
from app.read import Read
from app.settings import Settings
from app.teach import Brought, Teach, read_options
from app.teaching import Guesses, TeachPrograms
from engine.workspace.tables import CaseRow

HOSTILE = "<script>alert('x')</script>\" onload=\"y"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(html: str, name: str = "", **attributes: str) -> list[dict[str, str | None]]:
    parser = Tags()
    parser.feed(html)
    return [a for tag, a in parser.found if tag == (name or tag) and all(a.get(k) == v for k, v in attributes.items())]


def laid(settings: Settings) -> tuple[gr.Blocks, Teach]:
    host = Host(settings)
    with gr.Blocks() as demo:
        read = Read(host)
        teach = Teach(host, read)
        read.lay_out()
        teach.lay_out()
        teach.endpoints()
        read.wire()
        teach.wire()
    return demo, teach


@pytest.fixture
def tab(tmp_path, monkeypatch):
    """Trains in this process, as on a ZeroGPU Space: tests/test_queue.py is about the worker."""
    monkeypatch.setattr(compute, "ON_ZERO", True)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    _, teach = laid(Settings(device="cpu", workspace=tmp_path / "workspace"))
    yield teach
    teach.host.close()


def shade(seed: int, light: int) -> PIL.Image.Image:
    """An image of its own, dark or bright: what a model can tell apart."""
    values = np.random.default_rng(seed).normal(light, 25, (48, 64)).clip(0, 255)
    return PIL.Image.fromarray(values.astype(np.uint8))


def sent(files: dict[str, PIL.Image.Image | bytes | Path], task: str = "light") -> str:
    """What teach.js writes when these were dropped on a question, by the names that the visitor sees."""
    rows = []
    for i, (name, content) in enumerate(files.items()):
        place = Path(get_upload_folder()) / f"{time.monotonic_ns()}{i}" / Path(name).name
        place.parent.mkdir(parents=True)
        if isinstance(content, PIL.Image.Image):
            content.save(place)
        else:
            place.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        rows.append({"path": str(place), "name": name})
    return json.dumps({"task": task, "files": rows})


def made(tab: Teach, classes: str = "dark\nbright", title: str = "Light") -> str:
    found = tab.make(None, Screen(), title, classes, "any", "any")
    assert found[tab.ui.wrong] == ""
    return found[tab.ui.task]["value"]


def on(name: str) -> Screen:
    return Screen(task=name)


def brought(tab: Teach, name: str, files: str) -> Any:
    *_, last = tab.bring(None, name, files)
    return tab.look(None, on(name), "came", "", 0, Guesses()) | last


def filled(tab: Teach, tmp_path: Path, each: int = 4, bare: int = 0) -> str:
    """A task with `each` images a class, and some without."""
    name = made(tab)
    files = {f"study/{label}/{i}.png": shade(i + 100 * light, light) for label, light in (("dark", 60), ("bright", 190)) for i in range(each)}  # fmt: skip
    files |= {f"study/{i}.png": shade(900 + i, 120) for i in range(bare)}
    assert brought(tab, name, sent(files))[tab.ui.wrong] == ""
    return name


def arrived(tab: Teach, chosen: str | None = None, look: Look = Look(), training: str | None = None) -> Any:  # noqa: B008
    """The tab is opened, with what was on the screen before; or the page is loaded."""
    return tab.arrive(None, Screen(), chosen, look.how, look.only, look.page, Guesses(), training)


def act(tab: Teach, name: str, *acts: dict[str, Any], number: int = 1, **more: Any) -> Any:
    asked = {"number": number, "acts": [{"task": name} | each for each in acts]} | more
    return tab.act(None, name, json.dumps(asked), "came", "", 0, Guesses())


# --- questions ---------------------------------------------------------------------------------------------------------


def test_a_question_is_made_of_lines_and_its_descriptions_are_sentences(tab):
    name = made(tab, "benign = An oval mass. Smooth margins.\n\n  malignant  \n")
    task = tab.host.workspace(None).task(name)
    assert task.names == ("benign", "malignant") and task.title == "Light"
    assert task.bank is not None and task.bank.classes["benign"].sentences[:2] == ("An oval mass.", "Smooth margins.")


def test_a_question_with_one_class_is_a_sentence_and_nothing_is_made(tab):
    found = tab.make(None, Screen(), "One", "alone", "any", "any")
    assert "cannot be told apart" in found[tab.ui.wrong] and set(found) == {tab.ui.wrong}
    assert tab.host.workspace(None).tasks() == {}


def test_lines_rename_and_add_classes_but_take_none_away(tab, tmp_path):
    name = filled(tab, tmp_path, 1)
    workspace = tab.host.workspace(None)
    assert tab.change(None, on(name), name, "Shade", "dim\nbright\ndappled = Light and shadow.")[tab.ui.wrong] == ""
    task = workspace.task(name)
    assert [(label.name, label.display) for label in task.labels] == [("dark", "dim"), ("bright", "bright"), ("dappled", "dappled")]  # fmt: skip
    assert [case.label for case in workspace.cases(name)] == ["dark", "bright"]
    assert task.bank is not None and "Light and shadow." in task.bank.classes["dappled"].sentences
    said = tab.change(None, on(name), name, "Shade", "dim")[tab.ui.wrong]
    assert "1 lines are left for 3 classes" in said and len(workspace.task(name).labels) == 3


def test_a_change_that_does_not_hold_together_changes_nothing_at_all(tab):
    name = made(tab)
    before = tab.host.workspace(None).task(name)
    assert "has no title" in tab.change(None, on(name), name, " ", "dark\nbright\ndappled")[tab.ui.wrong]
    with pytest.raises(engine.DataError, match="'dusk' is no class"):
        TeachPrograms(tab.host).change_task(None, name, display={"dusk": "x"}, new_classes=["dappled"])
    assert tab.host.workspace(None).task(name) == before


def test_what_a_question_shows_to_be_changed_changes_nothing_when_it_is_saved(tab):
    name = made(tab, "benign = An oval mass. Smooth margins.\nmalignant")
    before = tab.host.workspace(None).task(name)
    shown = tab.choose(None, Screen(), name)
    assert shown[tab.ui.new_classes] == "benign\nmalignant"
    tab.change(None, on(name), name, shown[tab.ui.new_title], shown[tab.ui.new_classes])
    assert tab.host.workspace(None).task(name) == before


def test_a_removed_question_can_be_brought_back(tab, tmp_path):
    name = filled(tab, tmp_path, 2)
    gone = tab.remove(None, Screen(), name)
    assert gone[tab.ui.task]["value"] is None and "Light" in gone[tab.ui.restore]["value"]
    back = tab.restore(None, Screen(), gone[tab.ui.removed])
    assert back[tab.ui.task]["value"] == name and len(tags(back[tab.ui.gallery], role="option")) == 4


def test_a_known_question_is_adopted_with_its_id(tab):
    found = tab.adopt(None, Screen(), "busi")
    assert found[tab.ui.task]["value"] == "busi"
    assert tab.host.workspace(None).task("busi").names == engine.task("busi").names


# --- images -------------------------------------------------------------------------------------------------------------


def test_folders_give_classes_copies_are_counted_and_what_is_no_image_is_named(tab, tmp_path):
    name = made(tab)
    same = shade(1, 60)
    files = {
        "s/dark/1.png": same,
        "s/bright/1.png": shade(2, 190),
        "s/twilight/1.png": shade(3, 120),
        "s/2.png": shade(4, 120),
    }
    first = brought(tab, name, sent(files))
    workspace = tab.host.workspace(None)
    assert [case.label for case in workspace.cases(name)] == ["dark", "bright", "", ""]
    assert "4 images added. 2 came with their class." in first[tab.ui.coming]
    assert first[tab.ui.brought].unknown == {"twilight": [workspace.cases(name)[2].id]}  # "s" holds them all
    again = brought(tab, name, sent({"other.png": same, "bad.png": b"nothing of the kind"}))
    assert "No new image. Here already and not added twice: 1." in again[tab.ui.coming] and "bad.png" in again[tab.ui.coming]
    assert len(workspace.cases(name)) == 4 and not list((tmp_path / "uploads").rglob("*.png"))


def test_a_folder_becomes_a_class_with_one_click_and_its_images_get_it(tab, tmp_path):
    name = made(tab)
    files = {"s/dark/1.png": shade(1, 60), "s/twilight/1.png": shade(3, 120), "s/twilight/2.png": shade(4, 120)}
    held = brought(tab, name, sent(files))[tab.ui.brought]
    found = tab.add_class(None, name, "twilight ", held, "came", "", Guesses())
    workspace = tab.host.workspace(None)
    assert workspace.balance(name) == {"dark": (1, 0), "bright": (0, 0), "twilight": (2, 0), "": (0, 0)}
    assert found[tab.ui.brought] == Brought(name, {}) and found[tab.ui.coming] == ""
    refused = tab.add_class(None, name, "dusk", held, "came", "", Guesses())
    assert "not understood" in refused[tab.ui.wrong] and len(workspace.task(name).labels) == 3


def test_what_is_dropped_belongs_to_the_question_on_which_it_was_dropped(tab):
    first, other = made(tab), made(tab, "a\nb", "Other")
    *_, last = tab.bring(None, other, sent({"s/dark/1.png": shade(1, 60), "s/twilight/1.png": shade(2, 60)}, first))
    workspace = tab.host.workspace(None)
    assert len(workspace.cases(first)) == 2 and workspace.cases(other) == []
    assert "Light" in last[tab.ui.coming] and tab.ui.brought not in last  # its offers are of the other question


def test_no_upload_and_no_click_is_passed_over_while_another_is_under_way(tmp_path):
    demo, teach = laid(Settings(device="cpu", workspace=tmp_path / "workspace"))
    modes = {id_: fn.trigger_mode for fn in demo.fns.values() for id_, event in fn.targets if event == "change"}
    assert [modes[box._id] for box in (teach.ui.files, teach.ui.stray, teach.ui.acts)] == ["multiple"] * 3
    teach.host.close()


def test_the_same_file_in_two_folders_is_two_names_of_one_upload(tab, tmp_path):
    """Gradio keeps equal files of one name once: the second name must not be lost with the first file."""
    place = Path(get_upload_folder()) / "hash" / "1.png"
    place.parent.mkdir(parents=True)
    shade(1, 60).save(place)
    with cases.received([str(place)] * 2, ["s/dark/1.png", "s/bright/1.png"]) as (files, gone):
        assert [name for _, name in files] == ["s/dark/1.png", "s/bright/1.png"] and gone == []
        assert files[0][0] == files[1][0] and files[0][0].is_file()


@pytest.mark.parametrize("path", ["/etc/passwd", "https://example.org/x.png", "", "../x.png"])
def test_nothing_but_uploads_is_opened(tab, path):
    name = made(tab)
    found = brought(tab, name, json.dumps({"task": name, "files": [{"path": path, "name": "x.png"}]}))
    assert "no file that was uploaded to this page" in found[tab.ui.wrong]
    assert tab.host.workspace(None).cases(name) == []


@pytest.mark.parametrize("words", ["", "no json", "{}", "[1]", '"x"'])
def test_what_the_page_did_not_write_is_a_sentence(tab, words):
    found = brought(tab, made(tab), words)
    assert "not understood" in found[tab.ui.wrong]


def test_classes_are_balanced_in_images_and_patients(tab, tmp_path, write_dicom):
    """By hand: dark has 3 images of 2 patients, bright 1 of 1 patient, who is one of those of dark; one has no class."""
    name = made(tab)
    files: dict[str, Any] = {}
    for i, (label, person) in enumerate([("dark", "A"), ("dark", "A"), ("dark", "B"), ("bright", "B"), ("", "C")]):
        values = np.random.default_rng(i).integers(0, 255, (40, 40), dtype=np.uint8)
        files[f"s/{label or 'x'}/{i}.dcm"] = write_dicom(
            tmp_path / f"{i}.dcm", values, PatientID=person, PatientName=f"Doe^{person}", SOPInstanceUID=f"1.2.3.{i}"
        )
    found = brought(tab, name, sent(files))
    assert found[tab.ui.wrong] == ""
    every = tab.host.workspace(None).cases(name)
    assert gallery.counted(every, "dark") == (3, 2) and gallery.counted(every, "bright") == (1, 1)
    rows = re.findall(r'<td class="ps-number">(\d+|–)</td><td class="ps-number">(\d+|–)</td>', found[tab.ui.balance])
    assert rows == [("3", "2"), ("1", "1")]
    assert "4 of 5 images have a class. 3 patients." in found[tab.ui.balance]
    assert "Fewer than 8 images: dark, bright." in found[tab.ui.balance]
    assert found[tab.ui.patient]["choices"] == ["P1", "P2", "P3"]
    shown = found[tab.ui.gallery] + found[tab.ui.coming] + found[tab.ui.balance]
    assert "Doe" not in shown and "Left behind at the door" in found[tab.ui.coming]


def test_what_is_on_the_screen_stays_when_one_comes_back_to_the_tab(tab, tmp_path):
    name = filled(tab, tmp_path, 2, bare=1)
    newer = made(tab, "a\nb", "Newer")
    assert arrived(tab)[tab.ui.task]["value"] == newer
    back = arrived(tab, name, Look(only="none"))
    assert back[tab.ui.task]["value"] == name and len(tags(back[tab.ui.gallery], role="option")) == 1
    assert not {tab.ui.sort, tab.ui.only, tab.ui.coming, tab.ui.case, tab.ui.guesses} & set(back)
    tab.remove(None, Screen(), name)
    assert arrived(tab, name)[tab.ui.task]["value"] == newer


def test_many_images_are_pages(tab, tmp_path):
    cases_ = [SimpleNamespace(id=i, label="", twin_of=0) for i in range(130)]
    assert gallery.pages(130) == 3 and gallery.pages(60) == 1 and gallery.pages(0) == 1
    assert [case.id for case in Look(page=2).shown(cases_)] == list(range(120, 130))
    assert "121 to 130 of 130" in gallery.pager(Look(page=2), 130) and gallery.pager(Look(), 60) == ""
    on = tags(gallery.pager(Look(page=2), 130), "button")
    assert [button["data-page"] for button in on] == ["1", "3"] and "disabled" in on[1] and "disabled" not in on[0]


# --- order --------------------------------------------------------------------------------------------------------------


def case(number: int, label: str = "", twin_of: int = 0) -> engine.Case:
    return engine.Case(number + 100, number, "t", ("f",), "", "", label, "", {}, twin_of)


def test_the_least_sure_come_first_and_filters_leave_out_the_others():
    every = [case(1, "a"), case(2), case(3, "b", twin_of=1), case(4, "a"), case(5)]
    chances = np.array([[0.9, 0.1], [0.45, 0.55], [0.2, 0.8], [0.51, 0.49]])
    guesses = {each.id: row.tolist() for each, row in zip(every, chances, strict=False)}  # the last one has none

    def numbers(look: Look) -> list[int]:
        return [each.number for each in look.of(every, ("b", "a"), guesses)]

    assert numbers(Look("unsure")) == [*(1 + np.argsort(chances.max(axis=1))), 5] == [4, 2, 3, 1, 5]
    assert numbers(Look("came")) == [1, 2, 3, 4, 5]
    assert numbers(Look("unlabelled")) == [2, 5, 1, 3, 4]
    assert numbers(Look("label")) == [3, 1, 4, 2, 5]
    assert numbers(Look(only="=a")) == [1, 4] and numbers(Look(only="none")) == [2, 5] and numbers(Look(only="twins")) == [3]


def test_what_the_model_thinks_is_what_the_library_computes(tab, tmp_path):
    name = filled(tab, tmp_path, 2, bare=3)
    workspace = tab.host.workspace(None)
    *_, last = tab.guess(None, on(name), "scope-mini", "")
    last |= tab.draw(None, on(name), "unsure", "", 0, last[tab.ui.guesses])
    backbone = engine.load_backbone("scope-mini")
    prompts = engine.METHODS["zero-shot"]().learn(backbone, workspace.task(name))
    expected = {
        each.id: engine.predict(workspace.image(each), backbone, prompts).probabilities for each in workspace.cases(name)
    }
    found = last[tab.ui.guesses]
    assert found.task == name and set(found.of) == set(expected)
    for key, row in expected.items():
        np.testing.assert_allclose(found.of[key], row, atol=2e-5)  # a batch sums in another order
    order = [int(cell["data-case"] or 0) for cell in tags(last[tab.ui.gallery], role="option")]
    assert order == sorted(expected, key=lambda key: expected[key].max())
    rows = TeachPrograms(tab.host).least_sure(None, name, count=2)
    bare = [each.id for each in workspace.cases(name) if not each.label]
    assert [row["id"] for row in rows] == sorted(bare, key=lambda key: expected[key].max())[:2]


def test_the_model_does_not_look_while_a_training_needs_the_cores(tab, tmp_path):
    name = filled(tab, tmp_path, 2)
    assert list(tab.guess(None, on(name), "scope-mini", "a-job")) == [{tab.ui.guessing: ""}]


def test_the_model_says_what_it_thinks_and_the_gallery_is_drawn_as_it_is_asked_for_by_then(tab, tmp_path):
    name = filled(tab, tmp_path, 2)
    updates = list(tab.guess(None, on(name), "scope-mini", ""))
    assert set().union(*updates) == {tab.ui.guesses, tab.ui.guessing}
    shown = tab.draw(None, on(name), "came", "=dark", 0, updates[-1][tab.ui.guesses])
    assert len(tags(shown[tab.ui.gallery], role="option")) == 2 and "names of the classes alone" in shown[tab.ui.guessing]
    *_, last = tab.guess(None, on(name), "nope", "")
    shown = tab.draw(None, on(name), "came", "", 0, last[tab.ui.guesses])
    assert "no backbone" in shown[tab.ui.guessing] and len(tags(shown[tab.ui.gallery], role="option")) == 4
    assert tab.ui.wrong not in shown  # what was said before stays
    assert tab.draw(None, Screen(), "came", "", 0, Guesses())  # Gradio takes no empty answer


def test_what_is_answered_of_another_question_is_not_drawn(tab, tmp_path, monkeypatch):
    """Bug: the gallery of the question before was drawn under the new one."""
    name = filled(tab, tmp_path, 9)
    screen = on(name)
    other = made(tab, "a\nb", "Other")
    thinking = tab.guess(None, screen, "scope-mini", "")  # 18 images: two turns
    assert tab.ui.guesses in next(thinking)
    tab.choose(None, screen, other)
    assert list(thinking) == [{tab.ui.guessing: gr.skip()}]
    cases_of = tab._cases

    def slow(*asked):
        tab.choose(None, screen, other)
        return cases_of(*asked)

    monkeypatch.setattr(tab, "_come", lambda *asked: {})
    monkeypatch.setattr(tab, "_cases", slow)
    assert set(tab.draw(None, screen, "came", "", 0, Guesses())) == {tab.ui.page}


# --- labelling ------------------------------------------------------------------------------------------------------------


def test_labels_are_confirmed_with_counts_and_undone_as_they_were_given(tab, tmp_path):
    name = filled(tab, tmp_path, 1, bare=4)
    workspace = tab.host.workspace(None)
    ids = [each.id for each in workspace.cases(name)]
    found = act(tab, name, {"cases": ids[2:5], "label": "dark"}, {"cases": ids[5:], "label": "bright"}, number=7)
    assert [each.label for each in workspace.cases(name)] == ["dark", "bright", "dark", "dark", "dark", "bright"]
    assert tags(found[tab.ui.told], "p", **{"data-number": "7"}) and "1 image: bright" in found[tab.ui.told]
    assert tab.ui.gallery not in found  # it is on the screen already
    undone = act(tab, name, {"undo": True})
    assert [each.label for each in workspace.cases(name)] == ["dark", "bright", "dark", "dark", "dark", ""]
    assert "Taken back for image 6." in undone[tab.ui.told] and len(tags(undone[tab.ui.gallery], role="option")) == 6
    act(tab, name, {"cases": ids[:1], "label": ""})
    assert workspace.cases(name)[0].label == ""
    act(tab, name, {"undo": True}, {"undo": True})
    assert [each.label for each in workspace.cases(name)] == ["dark", "bright", "", "", "", ""]
    assert text.NOTHING_TO_UNDO in act(tab, name, {"undo": True})[tab.ui.told]


def test_old_images_of_all_questions_are_deleted_after_a_second_button(tab, tmp_path, monkeypatch):
    name = filled(tab, tmp_path, 1)
    other = made(tab, "a\nb", "Other")
    brought(tab, other, sent({"new.png": shade(90, 90)}, other))
    workspace, ui = tab.host.workspace(None), tab.ui
    with workspace.writing() as session:  # a hundred days ago
        session.execute(update(CaseRow).where(CaseRow.task == name).values(added=time.time() - 100 * 86_400))
    assert "No number of days is given." in tab.ask_erase_older(None, None)[ui.wrong]
    assert "No image was brought more than 101 days ago." in tab.ask_erase_older(None, 101)[ui.wrong]
    asked = tab.ask_erase_older(None, 90)
    assert "Delete 2 images of all your questions, brought more than 90 days ago, for good?" in asked[ui.sure_of]
    assert len(workspace.cases(name)) == 2
    erased = tab.erase(None, other, asked[ui.doomed], "came", "", 0, Guesses())
    assert "Deleted: 2 images." in erased[ui.told]
    assert (len(workspace.cases(name)), len(workspace.cases(other))) == (0, 1)
    monkeypatch.setenv("PROMPTSCOPE_KEEP_CASES_DAYS", "30")
    assert "are deleted 30 days after they came" in tab._kept()


def test_deleting_a_patient_needs_one(tab, tmp_path):
    found = tab.ask_erase_patient(None, filled(tab, tmp_path, 1), None)
    assert "No patient is chosen." in found[tab.ui.wrong] and tab.ui.doomed not in found


def test_a_set_that_holds_features_leaves_the_memory_with_its_images(tab, tmp_path):
    """Bug: it was answered from until the page closed."""
    name = filled(tab, tmp_path, 1)
    workspace = tab.host.workspace(None)
    prompts = engine.prompt_set("modality-zero-shot", engine.load_backbone("scope-mini"))
    models.folder_of(workspace)
    prompts.save(workspace.prompts / "mine-scope-mini")
    assert models.stored(workspace.prompts / "mine-scope-mini") is models.stored(workspace.prompts / "mine-scope-mini")
    assert models._made[str(workspace.prompts)]
    teaching.erased(workspace, name, {"cases": [workspace.cases(name)[0].id]})
    assert not models._made[str(workspace.prompts)]


def test_what_was_taken_back_is_named(tab, tmp_path):
    name = filled(tab, tmp_path, 0, bare=6)
    ids = [each.id for each in tab.host.workspace(None).cases(name)]
    for chosen, said in ((ids[1:2], "image 2."), (ids[1:4], "images 2, 3 and 4."), (ids, "6 images.")):
        act(tab, name, {"cases": chosen, "label": "dark"})
        assert f"Taken back for {said}" in act(tab, name, {"undo": True})[tab.ui.told]


def test_an_act_belongs_to_the_question_in_which_it_was_done(tab, tmp_path):
    name = filled(tab, tmp_path, 1, bare=1)
    other, workspace = made(tab, "a\nb", "Other"), tab.host.workspace(None)
    asked = {"number": 3, "acts": [{"task": name, "cases": [workspace.cases(name)[2].id], "label": "bright"}]}
    found = tab.act(None, other, json.dumps(asked), "came", "", 0, Guesses())
    assert workspace.cases(name)[2].label == "bright" and "1 image: bright" in found[tab.ui.told]
    assert not {tab.ui.gallery, tab.ui.balance} & set(found)  # the other question is on the screen
    tab.act(None, other, json.dumps({"number": 4, "acts": [{"task": name, "undo": True}]}), "came", "", 0, Guesses())
    assert workspace.cases(name)[2].label == ""


def test_an_answer_that_never_came_is_said_and_the_gallery_is_drawn_again(tab, tmp_path):
    name = filled(tab, tmp_path, 1)
    found = act(tab, name, number=2, lost=True)
    assert "had no answer" in found[tab.ui.told] and len(tags(found[tab.ui.gallery], role="option")) == 2
    ids = [each.id for each in tab.host.workspace(None).cases(name)]
    found = act(tab, name, {"cases": ids, "label": "dark"}, number=3, lost=True)
    assert "had no answer" in found[tab.ui.told] and "2 images: dark" in found[tab.ui.told]


@pytest.mark.parametrize("number", [2**70, -1, "x", 1.5, None, [1]])
def test_what_is_no_number_of_an_image_is_a_sentence(tab, tmp_path, number):
    name, programs = filled(tab, tmp_path, 1), TeachPrograms(tab.host)
    words = "not in this task|not understood"
    assert re.search(words, act(tab, name, {"cases": [number], "label": "dark"})[tab.ui.wrong])
    assert re.search(words, tab.erase(None, name, {"cases": [number]}, "came", "", 0, Guesses())[tab.ui.wrong])
    for ask in (lambda: programs.label(None, name, [number], "dark"), lambda: programs.erase_cases(None, name, [number])):
        with pytest.raises(engine.DataError, match=words):
            ask()
    assert [case.label for case in tab.host.workspace(None).cases(name)] == ["dark", "bright"]


def test_many_images_are_deleted_as_one(tab, tmp_path, monkeypatch):
    name = filled(tab, tmp_path, 4)
    ids = [case.id for case in tab.host.workspace(None).cases(name)]
    asked: list[str] = []
    cases_of = engine.Workspace.cases
    monkeypatch.setattr(engine.Workspace, "cases", lambda self, task: asked.append(task) or cases_of(self, task))
    counts = []
    for part in (ids[:1], ids[1:]):
        asked.clear()
        tab.erase(None, name, {"cases": [str(each) for each in part]}, "came", "", 0, Guesses())
        counts.append(len(asked))
    assert counts[0] == counts[1] and cases_of(tab.host.workspace(None), name) == []


def test_a_backup_passes_through_the_page_and_stays_nowhere(tab, tmp_path, monkeypatch):
    name = filled(tab, tmp_path, 2)
    folders: list[engine.PrivateFolder] = []
    private = engine.PrivateFolder
    monkeypatch.setattr(engine, "PrivateFolder", lambda: folders.append(private()) or folders[-1])
    parcel, wrong = tab.back_up(None)
    assert [folder.path.exists() for folder in folders] == [False]
    packed = json.loads(parcel)
    assert (packed["name"], wrong) == ("promptscope-backup.zip", "")
    (tmp_path / "backup.zip").write_bytes(base64.b64decode(packed["data"]))
    again = engine.restore(tmp_path / "backup.zip", tmp_path / "again")
    assert [case.label for case in again.cases(name)] == ["dark", "dark", "bright", "bright"]
    again.close()
    monkeypatch.setattr(teaching, "BACKUP_MB", 0.001)
    parcel, wrong = tab.back_up(None)
    assert parcel == "" and "python -m engine workspace backup FILE" in wrong


def test_a_case_of_another_question_cannot_be_named_and_the_gallery_is_drawn_again(tab, tmp_path):
    name = filled(tab, tmp_path, 1)
    theirs = tab.host.workspace(None).cases(name)[0].id
    other = made(tab, "a\nb", "Other")
    found = act(tab, other, {"cases": [theirs], "label": "a"})
    assert "1 of 1 chosen cases are not in this task" in found[tab.ui.wrong] and tab.ui.gallery in found
    assert "not in this question" in tab.open(None, other, str(theirs), Guesses())[tab.ui.wrong]
    assert "not in this task" in tab.erase(None, other, {"cases": [theirs]}, "came", "", 0, Guesses())[tab.ui.wrong]
    assert tab.host.workspace(None).cases(name)[0].label == "dark"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "[]",
        "{}",
        '{"number": 1, "acts": [{"task": "light", "cases": "x", "label": "dark"}]}',
        '{"number": 1, "acts": [1]}',
    ],
)
def test_an_act_that_is_no_act_is_a_sentence(tab, tmp_path, words):
    name = filled(tab, tmp_path, 1)
    found = tab.act(None, name, words, "came", "", 0, Guesses())
    assert "not understood" in found[tab.ui.wrong]


def test_a_visitor_sees_and_names_only_his_own(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    _, tab = laid(Settings(device="cpu", is_public=True))
    one, two = (SimpleNamespace(session_hash=each * 12) for each in "ab")
    try:
        name = tab.make(one, Screen(), "Light", "dark\nbright", "any", "any")[tab.ui.task]["value"]
        list(tab.bring(one, name, sent({"s/dark/1.png": shade(1, 60)})))
        mine = tab.host.workspace(one).cases(name)[0].id
        programs = TeachPrograms(tab.host)
        assert tab.arrive(two, Screen(), None, "came", "", 0, Guesses(), None)[tab.ui.task]["value"] is None
        assert programs.tasks(two) == [] and tab.host.looked(two) is None  # who only looks takes no room
        assert "brought nothing" in tab.open(two, name, str(mine), Guesses())[tab.ui.wrong]
        tab.make(two, Screen(), "Light", "dark\nbright", "any", "any")
        assert "not in this question" in tab.open(two, name, str(mine), Guesses())[tab.ui.wrong]
        sent_act = json.dumps({"number": 1, "acts": [{"task": name, "cases": [mine], "label": "bright"}]})
        assert "not in this task" in tab.act(two, name, sent_act, "came", "", 0, Guesses())[tab.ui.wrong]
        assert tab.host.workspace(one).cases(name)[0].label == "dark"
        with pytest.raises(engine.DataError):
            programs.erase_cases(two, name, [mine])
    finally:
        tab.host.close()


# --- teaching ---------------------------------------------------------------------------------------------------------------


def taught(tab: Teach, name: str, budget: str = "quick", method: str = "linear-probe") -> tuple[str, Any]:
    """(job, what the page shows when it is done)."""
    began = tab.begin(None, name, budget, "scope-mini", method, "", 1, 1)
    assert began[tab.ui.wrong] == "", began[tab.ui.wrong]
    job = began[tab.ui.watched]
    assert began[tab.ui.timer]["active"] and not began[tab.ui.teach]["interactive"] and began[tab.ui.stop]["visible"]
    until = time.monotonic() + 120
    while tab.host.workspace(None).job(job).is_active and time.monotonic() < until:
        tab.poll(None, on(name), job)
        time.sleep(0.2)
    return job, tab.poll(None, on(name), job)


def test_a_training_ends_with_its_result_is_saved_and_used(tab, tmp_path):
    name = filled(tab, tmp_path, 6)
    job, shown = taught(tab, name)
    ui, workspace = tab.ui, tab.host.workspace(None)
    assert workspace.job(job).state == "done", workspace.job(job).error
    found = workspace.result(job)
    assert (
        shown[ui.views].selected == "result" and shown[ui.timer]["active"] is False and shown[ui.trainings]["value"] == job
    )
    html = shown[ui.result]
    assert html.index(found["headline"][:30]) < html.index("<table")
    for i, line in enumerate(found["confusion"]):  # each number opens as many pictures
        for j, count in enumerate(line):
            cell = tab.show_cell(None, name, job, f"{i},{j} ")
            assert cell[ui.wrong] == "" and len(tags(cell[ui.cell], "button")) == count
    worst = sorted(found["cases"], key=lambda each: each["tuned"][each["truth"]])[: gallery.HARDEST]
    assert [int(b["data-open"] or 0) for b in tags(shown[ui.cell], "button")] == [each["case"] for each in worst]
    assert "not understood" in tab.show_cell(None, name, job, "5,5")[ui.wrong]

    saved = tab.save(None, job, "My light")
    kept = saved[ui.set_name]["value"]
    assert workspace.sets() == [kept] and kept in saved[ui.saved] and saved[ui.set_name]["interactive"] is False
    link = next(a for a in tags(saved[ui.saved], "a") if a.get("download"))
    assert link["download"] == f"{kept}.safetensors"
    used = tab.use(None, job, "")
    question = used[tab.read.ui.prompts]
    assert question["value"] == kept.removesuffix("-scope-mini") and question["value"] in {v for _, v in question["choices"]}
    assert used[tab.read.ui.backbone] == "scope-mini"

    *_, guessed = tab.guess(None, on(name), "scope-mini", "")
    assert "after your training" in guessed[ui.guesses].by and "this is no test" in guessed[ui.guesses].by
    assert guessed[ui.guesses].of.keys() == {each.id for each in workspace.cases(name)}

    gone, truth = worst[0]["case"], worst[0]["truth"]
    answer = int(np.argmax(worst[0]["tuned"]))
    asked = tab.ask_erase(None, name, json.dumps([str(gone)]))
    assert "Delete 1 image for good," in asked[ui.sure_of]
    erased = tab.erase(None, name, asked[ui.doomed], "came", "", 0, Guesses())
    assert erased[ui.wrong] == "" and "Deleted: 1 image." in erased[ui.told]
    assert gone not in {each.id for each in workspace.cases(name)}
    assert gone not in [int(b["data-open"] or 0) for b in tags(erased[ui.cell], "button")]
    assert "Deleted since, of this result: 1 image." in tab.show_cell(None, name, job, f"{truth},{answer}")[ui.cell]

    back = arrived(tab)  # the page is loaded again
    assert back[ui.task]["value"] == name and back[ui.trainings]["value"] == job


def test_what_cannot_be_taught_is_a_sentence_and_nothing_is_queued(tab, tmp_path):
    name = filled(tab, tmp_path, 0, bare=2)
    found = tab.begin(None, name, "quick", "scope-mini", "linear-probe", "", 1, 1)
    assert found[tab.ui.wrong] and "Traceback" not in found[tab.ui.wrong] and tab.host.workspace(None).jobs() == []
    assert "step 1" in tab.begin(None, None, "quick", "scope-mini", "linear-probe", "", 1, 1)[tab.ui.wrong]
    assert "no backbone" in tab.begin(None, name, "quick", "nope", "linear-probe", "", 1, 1)[tab.ui.wrong]


def test_a_training_is_stopped_and_goes_on(tab, tmp_path):
    name = filled(tab, tmp_path, 4)
    began = tab.begin(None, name, "standard", "scope-mini", "biomedcoop", "epochs = 1000", 1, 1)
    job, workspace = began[tab.ui.watched], tab.host.workspace(None)
    until = time.monotonic() + 90
    while not workspace.job(job).curve and time.monotonic() < until:
        time.sleep(0.2)
    shown = tab.poll(None, on(name), job)
    assert 'data-state="running"' in shown[tab.ui.job] and "<progress" in shown[tab.ui.job]
    there = arrived(tab)  # a page that is loaded meanwhile finds it
    assert there[tab.ui.watched] == job and there[tab.ui.timer]["active"] is True
    tab.stop(None, name)
    until = time.monotonic() + 10
    while workspace.job(job).is_active and time.monotonic() < until:
        time.sleep(0.1)
    stopped = tab.poll(None, on(name), job)
    assert 'data-state="stopped"' in stopped[tab.ui.job] and stopped[tab.ui.resume]["visible"] and not stopped[tab.ui.stop]["visible"]  # fmt: skip
    assert stopped[tab.ui.timer]["active"] is False and stopped[tab.ui.teach]["interactive"]
    assert tab.resume(None, name)[tab.ui.timer]["active"] is True
    tab.stop(None, name)


def test_every_training_that_runs_or_waits_is_shown_and_stopped_the_running_one_first(tab, tmp_path):
    name, ui = filled(tab, tmp_path, 2), tab.ui
    workspace = tab.host.workspace(None)
    tab.host.queue.close()  # this test carries them out
    older, newer = (workspace.submit(name, method, "scope-mini") for method in ("biomedcoop", "linear-probe"))
    workspace.claim(older.id, "test")

    def states(found: Any) -> list[str | None]:
        return [each["data-state"] for each in tags(found[ui.job], "section")]

    shown = tab.poll(None, on(name), "")
    assert states(shown) == ["running", "queued"] and shown[ui.watched] == older.id
    assert shown[ui.job].index("BiomedCoOp") < shown[ui.job].index("Linear probe")
    stopping = tab.stop(None, name)
    assert states(stopping) == ["stopping", "queued"] and workspace.job(newer.id).state == "queued"
    workspace.finish(older.id, "test", "stopped")
    shown = tab.poll(None, on(name), older.id)
    assert states(shown) == ["queued", "stopped"] and shown[ui.watched] == newer.id and shown[ui.resume]["visible"]
    tab.resume(None, name)
    assert workspace.job(older.id).state == "queued"  # not the newest, but the one that was stopped
    workspace.claim(older.id, "test")
    workspace.finish(older.id, "test", "failed", "It did not work.")
    workspace.claim(newer.id, "test")
    assert "It did not work." in tab.poll(None, on(name), older.id)[ui.job]  # while the other one runs
    workspace.finish(newer.id, "test", "done")
    shown = tab.poll(None, on(name), newer.id)
    assert shown[ui.views].selected == "result" and states(shown) == ["done"]
    assert not shown[ui.resume]["visible"] and shown[ui.timer]["active"] is False


def test_an_emptied_number_means_the_usual_one(tab, tmp_path):
    name = filled(tab, tmp_path, 2)
    tab.host.queue.close()
    assert tab.begin(None, name, "quick", "scope-mini", "linear-probe", "", None, None)[tab.ui.wrong] == ""
    (job,) = tab.host.workspace(None).jobs()
    assert job.asked["options"] == {"views": 8, "seed": 1}


def test_words_alone_need_no_images_and_then_nothing_is_claimed(tab):
    name = made(tab)
    job, shown = taught(tab, name, "words", "description-ensemble")
    found = tab.host.workspace(None).result(job)
    assert found["cases"] == [] and found["headline"] in re.sub("<[^>]+>", "", shown[tab.ui.result])
    assert "<table" not in shown[tab.ui.result] and shown[tab.ui.kept]["visible"]


def test_options_are_lines_and_only_what_differs_from_the_paper_is_asked():
    shown = engine.method("biomedcoop", "own").config
    lines = "\n".join(f"{k} = {v}" for k, v in vars(shown).items())
    assert read_options("biomedcoop", "own", lines) == {}
    changed = read_options("biomedcoop", "own", lines.replace(f"epochs = {shown.epochs}", "epochs = 7") + "\ntau = 2")
    assert changed == {"epochs": 7, "tau": 2.0} and isinstance(changed["tau"], float)
    assert read_options("biomedcoop", "own", "faithful = TRUE") == {"faithful": True}
    for line, words in (("epochs", "'epochs' is no option"), ("epoch = 3", "BiomedCoOp has no option 'epoch'"),
                        ("epochs = many", "'epochs' cannot be 'many'"), ("faithful = perhaps", "cannot be 'perhaps'")):  # fmt: skip
        with pytest.raises(engine.DataError, match=re.escape(words)):
            read_options("biomedcoop", "own", line)


def test_a_budget_has_a_method_and_says_how_long_it_took(tab, tmp_path):
    found = tab.choose_budget("words", None)
    assert found[tab.ui.method]["value"] == "medpromptclip" and "epochs = 72" in found[tab.ui.options]
    name = filled(tab, tmp_path, 3)
    job, shown = taught(tab, name)
    seconds = sum(tab.host.workspace(None).result(job)["seconds"].values())
    titles = {value: title for title, value in shown[tab.ui.budget]["choices"]}
    assert f"last time {gallery.lasting(seconds)}" in titles["quick"] and "last time" not in titles["standard"]


# --- pictures ---------------------------------------------------------------------------------------------------------------


def outcome(**more: Any) -> dict[str, Any]:
    """A result of three cases, by hand."""
    metrics = {name: [0.5, 0.25, 0.75] for name in text.METRIC_NAMES}
    arms = {name: {"title": name, "metrics": metrics} for name in ("tuned", "zero-shot", "baseline")}
    judged = [
        {"case": 101, "truth": 0, "tuned": [0.9, 0.1]},
        {"case": 102, "truth": 0, "tuned": [0.3, 0.7]},
        {"case": 103, "truth": 1, "tuned": [0.6, 0.4]},
    ]
    return {
        "headline": "Better than zero-shot by 12 points (4 to 20) on 3 held-out cases.", "verdict": "better", "care": [],
        "arms": arms, "confusion": [[1, 1], [1, 0]], "display": ["a", "b"], "labels": ["a", "b"], "cases": judged,
        "design": "cross-validated", "folds": 3, "seconds": {"reading": 1.0, "learning": 2.4}, "bytes": 8123,
    } | more  # fmt: skip


def test_a_result_worse_than_zero_shot_says_so_first():
    html = gallery.result(
        outcome(verdict="worse", headline="Worse than zero-shot by 3 points (1 to 5).", care=["Few cases."])
    )
    assert (
        html.index("ps-worse")
        < html.index("Worse than zero-shot by 3 points")
        < html.index("Few cases.")
        < html.index("<table")
    )
    assert "It took 3 s; the prompt set has 8 kB." in html and "3 parts took turns" in html


def test_a_cell_holds_the_cases_that_it_counts_and_the_hardest_come_first():
    found = outcome()
    assert [each["case"] for each in gallery.in_cell(found, 0, 1)] == [102]
    assert [each["case"] for each in gallery.in_cell(found, 1, 0)] == [103] and gallery.in_cell(found, 1, 1) == []
    assert [each["case"] for each in gallery.hardest(found)] == [102, 103, 101]
    assert {b["data-cell"] for b in tags(gallery.result(found), "button")} == {"0,0", "0,1", "1,0"}


def test_cases_that_were_deleted_since_are_said(tmp_path):
    thumb = tmp_path / "t.jpg"
    shade(1, 60).save(thumb)
    found = outcome()
    html = gallery.pictures("x", found["cases"], 3, found, {101: case(1)}, lambda _: thumb)
    assert "Deleted since, of this result: 2 images." in html and len(tags(html, "button")) == 1
    assert "a: recognised, 90%" in html


def test_a_result_without_held_out_cases_shows_no_numbers():
    arms = {"tuned": {"title": "medpromptclip", "metrics": {}}}
    html = gallery.result(
        outcome(arms=arms, confusion=[[0, 0], [0, 0]], cases=[], design="none", care=["Nothing was held out."])
    )
    assert "<table" not in html and "Nothing was held out." in html


def test_a_training_shows_where_it_stands():
    asked = {"method": "biomedcoop", "budget": "standard", "backbone": "scope-mini", "options": {}}
    waiting = engine.Job("j", "t", "queued", asked, {})
    assert "number 3 in the queue" in gallery.job(waiting, 3) and "is next" in gallery.job(waiting, 1)
    curve = [[1, 2.0, None], [2, 1.0, 0.5], [3, 0.5, 0.75]]
    running = replace(waiting, state="running", progress={"stage": "learning", "done": 3, "of": 10, "remaining_s": 12.4}, curve=curve)  # fmt: skip
    html = gallery.job(running, 0)
    assert "3 of 10, about 12 s left" in html and tags(html, "progress", value="3", max="10")
    losses, rights = (each["points"] for each in tags(html, "polyline"))
    # 432 x 150 with margins 40, 52, 10, 24: x from 40 to 380, y from 10 (top) to 126
    assert losses == "40.0,10.0 210.0,68.0 380.0,97.0" and rights == "210.0,68.0 380.0,39.0"
    failed = replace(waiting, state="failed", error="The process ended <unexpectedly>.")
    assert "The process ended &lt;unexpectedly&gt;." in gallery.job(failed, 0) and "did not work" in gallery.job(failed, 0)


def test_durations_are_no_finer_than_anybody_needs():
    assert [gallery.lasting(s) for s in (0.4, 12.4, 89, 90, 600)] == ["under a second", "12 s", "89 s", "2 min", "10 min"]


def test_hostile_words_stay_words(tmp_path):
    thumb = tmp_path / "t.jpg"
    shade(1, 60).save(thumb)
    labels = tuple(engine.Label(name, name) for name in (HOSTILE, "plain"))
    task = engine.Task(HOSTILE, HOSTILE, "any", "any", labels, "{}")
    shown = engine.Case(1, 1, HOSTILE, ("f",), "", HOSTILE, HOSTILE, "", {}, 2)
    image = engine.Image(np.zeros((8, 8), np.float32))
    added = engine.Added((1,), (HOSTILE,), strays=((HOSTILE, (1,)),), removed=((HOSTILE, 1),))
    result = outcome(display=[HOSTILE, "b"], headline=HOSTILE, care=[HOSTILE], verdict=HOSTILE, design=HOSTILE)
    job = engine.Job("j", "t", "failed", {"method": HOSTILE}, {}, error=HOSTILE)
    for html in (
        gallery.tools(task), gallery.about(task), gallery.grid(task, [shown], {1: [0.5, 0.5]}, lambda _: thumb),
        gallery.balance(task, [shown]), gallery.added(added, [HOSTILE]), gallery.result(result), gallery.job(job, 0),
        gallery.large(task, shown, image, [0.5, 0.5], HOSTILE), gallery.empty_grid(HOSTILE), gallery.exported(HOSTILE, b"", True),
        gallery.pictures(HOSTILE, result["cases"], 3, result, {101: shown}, lambda _: thumb), gallery.confirmed(1, HOSTILE),
    ):  # fmt: skip
        assert "<script" not in html and not [a for a in tags(html) if "onload" in a], html[:300]


def test_a_label_is_a_colour_and_a_number_and_a_name(tmp_path):
    thumb = tmp_path / "t.jpg"
    shade(1, 60).save(thumb)
    task = engine.Task("t", "T", "any", "any", tuple(engine.Label(n, n.title()) for n in ("dark", "bright")), "{}")
    html = gallery.grid(task, [case(1, "bright"), case(2)], {101: [0.75, 0.25]}, lambda _: thumb)
    first, second = tags(html, role="option")
    assert (
        first["aria-label"] == "Image 1; the model thinks Dark, 75%; Bright" and second["aria-label"] == "Image 2; no class"
    )
    assert "ps-c2" in str(first["class"]) and "<b>2</b> Bright" in html and "ps-differs" in html
    assert [t["data-label"] for t in tags(html, "template")] == ["dark", "bright"]


# --- programs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        demo, teach = laid(Settings(device="cpu", workspace=folder / "workspace"))
        _, address, _ = demo.launch(server_port=free_port(), prevent_thread_lock=True, quiet=True, ssr_mode=False)
        yield Client(address, verbose=False, download_files=str(folder / "answers")), teach
        demo.close()
        teach.host.close()


def test_a_program_does_all_that_the_page_does(served, tmp_path):
    client, _ = served

    def ask(name: str, *values: Any) -> Any:
        return client.predict(*values, api_name=f"/{name}")

    task = ask("make_task", "Light", ["dark", "bright"])["id"]
    with zipfile.ZipFile(tmp_path / "light.zip", "w") as archive:
        for label, light in (("dark", 60), ("bright", 190)):
            for i in range(6):
                shade(i + light, light).save(tmp_path / "one.png")
                archive.write(tmp_path / "one.png", f"light/{label}/{i}.png")
    shade(999, 60).save(tmp_path / "bare.png")
    added = ask("add_images", task, [handle_file(tmp_path / "light.zip"), handle_file(tmp_path / "bare.png")])
    assert len(added["cases"]) == 13 and added["labelled"] == 12 and added["refused"] == []
    (bare,) = [row["id"] for row in ask("cases", task) if not row["label"]]
    assert [row["id"] for row in ask("least_sure", task, "scope-mini", 3)] == [bare]
    assert ask("label", task, [bare], "bright")["balance"] == {"dark": [6, 0], "bright": [7, 0], "": [0, 0]}
    assert ask("undo", task)["changed"] == [bare]
    ask("label", task, [bare], "dark")
    assert ask("tasks")[0]["classes"][0] == {"name": "dark", "display": "dark", "images": 7, "patients": 0}
    job = ask("teach", task, "linear-probe", "scope-mini", 1)
    for _ in range(240):
        if ask("job", job)["state"] not in ("queued", "running"):
            break
        time.sleep(0.25)
    assert ask("job", job)["state"] == "done" and [row["id"] for row in ask("jobs", task)] == [job]
    assert sum(map(sum, ask("result", job)["confusion"])) == 13
    assert ask("keep", job, "light one") == "light-one-scope-mini"
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(ask("back_up")))) as backup:
        assert sum(entry.startswith("files/") for entry in backup.namelist()) == 13
    assert ask("erase_cases", task, [bare]) == {"erased": 1} and len(ask("cases", task)) == 12
    changed = ask("change_task", task, "Shade", {"dark": "dim"}, None, ["dusk"])
    assert changed["title"] == "Shade" and [row["display"] for row in changed["classes"]] == ["dim", "bright", "dusk"]
    ask("remove_task", task)
    assert ask("tasks") == [] and ask("restore_task", task)["id"] == task
    assert ask("adopt_task", "busi")["id"] == "busi"


def test_programs_get_sentences_too(served):
    client, _ = served
    task = client.predict("Other", ["a", "b"], api_name="/make_task")["id"]
    for name, values, words in (
        ("make_task", ("One", ["a"]), "cannot be told apart"),
        ("cases", ("nope",), "no task 'nope'"),
        ("label", (task, [1_000_000], "a"), "not in this task"),
        ("job", ("nope",), "no training 'nope'"),
        ("teach", (task, "linear-probe"), "labelled"),
        ("add_images", (task, [{"path": "/etc/passwd", "meta": {"_type": "x"}}]), "not an uploaded file|uploaded to this page"),
        ("erase_patient", (task, "P9"), "no patient 'P9'"),
    ):  # fmt: skip
        with pytest.raises(Exception, match=words) as raised:
            client.predict(*values, api_name=f"/{name}")
        assert "Traceback" not in str(raised.value)
