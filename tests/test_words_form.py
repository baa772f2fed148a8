"""The form of a class's names and look, without a browser: whose words are saved, and what comes back.

Run: python -m pytest tests/test_words_form.py
"""

from __future__ import annotations

import re

import gradio as gr
import numpy as np
import PIL.Image
import pytest

import engine
from app import compute
from app.page import Page
from app.settings import Settings
from app.words import KINDS, Acts, Form, _proposed
from engine.words import Tried

BENIGN, MALIGNANT = "benign tumor", "malignant tumor"


@pytest.fixture
def form(tmp_path):
    page = Page(Settings(device="cpu", workspace=tmp_path / "workspace"))
    page.build()
    yield page.tabs["Library"].words
    page.host.close()


def fields(form, shown):
    return [shown[form.ui.fields[kind]] for kind in KINDS]


def typed(form, shown, **words):
    return [words.get(kind, shown[form.ui.fields[kind]]) for kind in KINDS]


def words_of(form, label, kind, task="busi"):
    about = engine.descriptions(form.library.tasks(None)[task]).classes[label]
    return (about.synonyms | about.attributes)[kind]


def test_words_go_to_the_class_that_the_fields_are_of_whatever_is_chosen_by_then(form):
    """Bug: a field that was left after another class had been chosen was written into that one."""
    first = form.show(None, "busi", BENIGN)
    before = words_of(form, MALIGNANT, "colour")
    said = form.save(None, Acts(), "class", first[form.ui.form], *typed(form, first, colour="dark; grey;  dark"))
    assert "Saved: Colour." in said[form.ui.said]
    assert words_of(form, BENIGN, "colour") == ("dark", "grey") and words_of(form, MALIGNANT, "colour") == before
    assert set(said) == {form.ui.said}  # the fields are left to `show`, which knows what is chosen


def test_what_is_not_saved_is_there_again_and_what_is_saved_is_shown_as_it_is_kept(form):
    ui, first = form.ui, form.show(None, "busi", BENIGN)
    other = form.show(None, "busi", MALIGNANT, "class", first[ui.form], *typed(form, first, colour="x" * 200, shape="oval"))
    assert fields(form, other) == ["; ".join(words_of(form, MALIGNANT, kind)) for kind in KINDS]
    back = form.show(None, "busi", BENIGN, "class", other[ui.form], *fields(form, other))
    assert back[ui.fields["colour"]] == "x" * 200 and back[ui.fields["shape"]] == "oval"
    refused = form.save(None, Acts(), "class", back[ui.form], *fields(form, back))
    assert "is longer than a few words" in refused[ui.said] and words_of(form, BENIGN, "shape") != ("oval",)
    saved = typed(form, back, colour=" dark ;; grey")
    form.save(None, Acts(), "class", back[ui.form], *saved)
    again = form.show(None, "busi", BENIGN, "class", back[ui.form], *saved)
    assert again[ui.fields["colour"]] == "dark; grey" and not Form.read(again[ui.form]).drafts


def test_what_somebody_else_changed_meanwhile_is_not_turned_back(form):
    first = form.show(None, "busi", BENIGN)
    form.edit_words(None, "busi", BENIGN, "colour", ["theirs"])
    assert (
        "Nothing was changed." in form.save(None, Acts(), "class", first[form.ui.form], *fields(form, first))[form.ui.said]
    )
    form.save(None, Acts(), "class", first[form.ui.form], *typed(form, first, shape="oval"))
    assert words_of(form, BENIGN, "colour") == ("theirs",) and words_of(form, BENIGN, "shape") == ("oval",)


@pytest.mark.parametrize(
    "words", ["", "{", "[]", '{"task": 3}', '{"drafts": [[1]]}', '{"shown": 7}', "[" * 100_000, '{"x": 1}']
)
def test_a_form_that_was_tampered_with_is_an_empty_one(form, words):
    assert "Nothing was changed." in form.save(None, Acts(), "class", words, *[""] * len(KINDS))[form.ui.said]
    shown = form.show(None, "busi", BENIGN, "class", words, *["a"] * len(KINDS))
    assert fields(form, shown) == ["; ".join(words_of(form, BENIGN, kind)) for kind in KINDS]


def test_the_prompts_are_by_the_name_that_is_chosen(form):
    shown = form.show(None, "busi", BENIGN, "lay")
    assert words_of(form, BENIGN, "lay")[0] in shown[form.ui.read]
    assert words_of(form, BENIGN, "lay")[0] not in form.show(None, "busi", BENIGN)[form.ui.read]


class Language:
    """Says "striped" of everything."""

    def fill(self, task, images=(), watch=None):
        from engine.generators.base import with_attributes, written

        found = {label: {slot: ("striped",) for slot in engine.SLOTS} for label in task.names}
        return with_attributes(written(task), found, {"by": "masked-lm", "model": "a stub"})


def test_filling_is_taken_back_but_for_what_was_edited_since_and_leaves_its_provenance(form):
    ui = form.ui
    form.__dict__["language"] = Language()
    form.edit_words(None, "busi", BENIGN, "colour", ["mine"])
    was = words_of(form, MALIGNANT, "colour")
    once = form.fill(None, Acts(), None, "busi", "class")
    assert words_of(form, BENIGN, "colour") == words_of(form, MALIGNANT, "shape") == ("striped",)
    bank = engine.descriptions(form.library.tasks(None)["busi"])
    assert [step["by"] for step in bank.provenance] == ["a person", "masked-lm"] and bank.provenance[-1]["model"] == "a stub"
    twice = form.fill(None, Acts(), once[ui.before], "busi", "class")  # what it would give back is still what a person wrote
    form.edit_words(None, "busi", MALIGNANT, "shape", ["oval"])
    form.take_back(None, Acts(), twice[ui.before], "class")
    assert words_of(form, BENIGN, "colour") == ("mine",) and words_of(form, MALIGNANT, "colour") == was
    assert words_of(form, MALIGNANT, "shape") == ("oval",)


def test_a_public_page_without_a_model_fills_nothing_whoever_asks(tmp_path):
    page = Page(Settings(device="cpu", workspace=tmp_path / "workspace", is_public=True))
    page.build()
    form = page.tabs["Library"].words
    assert "This page has no language model." in form.fill(None, Acts(), None, "busi", "class")[form.ui.said]
    page.host.close()


def test_words_are_neither_judged_nor_chosen_on_a_test_split(form, tmp_path):
    workspace = form.host.workspace(None)
    task = workspace.add_task("Squares", ["bright square", "dark square"])
    rows = ["path,label,split"]
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 60, (32, 32)).astype(np.uint8) + 150 * (i % 2 == 0)
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{task.names[i % 2]},{'test' if i > 7 else 'train'}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    files = [*tmp_path.glob("*.png"), tmp_path / "table.csv"]
    for _ in engine.take_in(workspace, task.id, [(each, each.name) for each in files]):
        pass
    examples = workspace.examples(task.id)
    assert len(examples) == 12 and sum(e.split == "test" for e in examples) == 4
    assert form.proposal(None, task.id).images == 8
    *_, effect = form.write(None, task.id, {task.names[0]: {"colour": ["white"]}})
    assert "each class counting the same: Balanced accuracy on 8 cases" in effect


def test_commas_divide_words_where_no_semicolon_does_and_words_with_a_comma_come_back(form):
    """Bug: "dark gray, evenly hypoechoic" was one phrase in the form, and two on the command line."""
    for typing, kept, shown_as in (
        ("dark gray, evenly hypoechoic", ("dark gray", "evenly hypoechoic"), "dark gray; evenly hypoechoic"),
        ("upper, mid and lower zones;", ("upper, mid and lower zones",), "upper, mid and lower zones;"),
        ("grey, even; black", ("grey, even", "black"), "grey, even; black"),
    ):
        first = form.show(None, "busi", BENIGN)
        form.save(None, Acts(), "class", first[form.ui.form], *typed(form, first, colour=typing))
        assert words_of(form, BENIGN, "colour") == kept
        again = form.show(None, "busi", BENIGN)
        assert again[form.ui.fields["colour"]] == shown_as
        same = form.save(None, Acts(), "class", again[form.ui.form], *fields(form, again))
        assert "Nothing was changed." in same[form.ui.said]


def test_words_that_are_not_saved_are_named_with_their_class(form):
    """Bug: nothing told which classes had words that were not saved."""
    ui, first = form.ui, form.show(None, "busi", BENIGN)
    assert first[ui.unsaved] == ""
    typing = typed(form, first, colour="pale", location="chest wall")
    other = form.show(None, "busi", MALIGNANT, "class", first[ui.form], *typing)
    assert "Not saved yet: “Benign tumour” (Colour, Location)." in other[ui.unsaved]
    back = form.show(None, "busi", BENIGN, "class", other[ui.form], *fields(form, other))
    assert "“Benign tumour” (Colour, Location)" in back[ui.unsaved]
    form.save(None, Acts(), "class", back[ui.form], *fields(form, back))
    assert form.show(None, "busi", BENIGN, "class", back[ui.form], *fields(form, back))[ui.unsaved] == ""


def test_opening_the_fold_leaves_what_is_typed(form):
    """Bug: words that were typed just after the fold had been opened were wiped by what came with its opening."""
    acts, first = Acts(), form.show(None, "busi", BENIGN)
    nothing_said = {form.ui.said: ""}
    assert form.show_class(None, acts, "busi", BENIGN) == first | nothing_said
    assert form.show_class(None, acts, "busi", BENIGN) == {form.ui.form: gr.skip()}
    about = ("class", first[form.ui.form], *fields(form, first))
    other = form.show_class(None, acts, "busi", MALIGNANT, *about)
    assert other == form.show(None, "busi", MALIGNANT, *about) | nothing_said
    assert form.show_class(None, acts, "busi", BENIGN) == first | nothing_said


def test_a_late_answer_is_not_shown_in_the_place_of_a_later_one(form, monkeypatch):
    """Bug: some 20 s after "Fill" its failure stood where the answer to "Save" had been."""
    acts, first = Acts(), form.show(None, "busi", BENIGN)

    def slowly(*_):
        form.save(None, acts, "class", first[form.ui.form], *typed(form, first, colour="pale"))
        raise engine.BackboneError("Too late.")

    monkeypatch.setattr(compute, "filled", slowly)
    form.__dict__["language"] = Language()
    assert form.fill(None, acts, None, "busi", "class") == {form.ui.said: gr.skip()}
    assert words_of(form, BENIGN, "colour") == ("pale",)
    monkeypatch.setattr(compute, "filled", lambda task, language: language.fill(task))
    assert "of every class are now what" in form.fill(None, acts, None, "busi", "class")[form.ui.said]


def test_a_model_that_is_not_there_is_a_matter_for_whoever_runs_the_page(tmp_path, caplog):
    """Bug: a visitor was told to copy a model into a folder, and to give that folder as the model."""
    page = Page(Settings(device="cpu", workspace=tmp_path / "workspace", masked_lm=str(tmp_path / "none")))
    page.build()
    form = page.tabs["Library"].words
    said = form.fill(None, Acts(), None, "busi", "class")[form.ui.said]
    assert "This page has no language model. Ask whoever runs this page: PROMPTSCOPE_MASKED_LM names one." in said
    assert "folder" not in said and "There is no language model to fill words with." in caplog.text
    page.host.close()


def test_the_table_places_the_plain_name_and_the_words_of_today_among_all_ways():
    """Bug: nothing told how good 57 % was, beside the plain name and beside what is used today."""
    made = engine.METHODS["attribute-prompts"].Config
    ways = [made("lay", "colour", r) for r in (1, 2, 3)] + [made("query", "shape", r) for r in (1, 2, 3)]
    ways += [made("class", "colour, shape", 2), made("class", "colour", 3), made("class", "", 1)]
    tried = tuple(Tried(way, 0.9 - 0.05 * i) for i, way in enumerate(ways))
    rows = re.findall("<tr>(<td>.*?)</tr>", _proposed(engine.Proposal("accuracy", tried, None, None, 0, 0, 0, 9, 9)))
    assert [row.split(".")[0].removeprefix("<td>") for row in rows] == ["1", "2", "3", "4", "5", "7", "9"]
    assert "(as attribute prompts are made today" in rows[5] and "60 %" in rows[5]
    assert "(the plain name)" in rows[6] and "50 %" in rows[6] and "(" not in rows[0]
