"""Pointing in the page, without a browser: whose image the boxes are on, and what is said where something does not fit.

Run: python -m pytest tests/test_pointing.py
"""

from __future__ import annotations

from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
from phantom import write_series
from test_app import opened

import engine
from app import compute
from app.host import Screen
from app.page import Page
from app.settings import Settings


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    page = Page(Settings(device="cpu", workspace=tmp_path / "workspace"))
    page.build()
    yield page.tabs["Read"]
    page.host.close()


def found(image, phrases):
    heat = engine.Heatmap(np.zeros((4, 4), np.float32), engine.Box(0, 0, *map(float, image.shape)), phrases[0], "windows")
    boxes, scores = np.array([[0, 0, 8, 4], [16, 8, 24, 24]], np.float32), np.array([0.7, 0.6], np.float32)
    return [engine.Located(engine.Phrase(each), "windows", "a model", heat, boxes, scores, None) for each in phrases]


def asked(frame=2, phrase="bone", backbone="scope-mini", question="modality", label=None, other=""):
    return 0, frame, "", 40.0, 400.0, False, "", backbone, question, label, phrase, other, "windows"


@pytest.fixture
def screen(read, tmp_path):
    held, _ = opened(read, [str(p) for p in write_series(tmp_path / "series", slices=4, side=32)])
    return Screen(held=held)


def test_boxes_are_not_shown_under_another_frame(read, screen, monkeypatch):
    """Bug: a frame that was chosen while one was looked through got its boxes."""
    pointing = read.pointing
    monkeypatch.setattr(compute, "locate", lambda image, phrases, *_: found(image, phrases))
    said = pointing.point(None, screen, *asked())[pointing.ui.pointed]
    assert "Frame 2" in said and "top left of the picture" in said and "score 0.70" in said
    assert 'style="left:0.0%;top:0.0%" aria-hidden="true">1<' in said  # each frame has its number in the picture, too
    assert '<span class=ps-above style="left:50.0%;top:25.0%" aria-hidden="true">2<' in said and "--ps-ratio:1.0000" in said

    def moved(image, phrases, *_):
        read.look(None, screen, 0, 3, "", 40.0, 400.0, False, "", "scope-mini", "modality", "", None, 0.5)
        return found(image, phrases)

    monkeypatch.setattr(compute, "locate", moved)
    assert pointing.point(None, screen, *asked())[pointing.ui.pointed] == gr.skip()


def test_what_does_not_fit_is_a_sentence_without_a_files_name(read, screen, monkeypatch):
    pointing = read.pointing
    (name, *_) = screen.held[0].series.files

    def fails(*_):
        raise engine.ImageError(f"The file {name!r} is too long to look through.")

    monkeypatch.setattr(compute, "locate", fails)
    said = pointing.point(None, screen, *asked())[pointing.ui.pointed]
    assert "too long to look through" in said and name not in said
    assert "Write what to look for first" in pointing.point(None, screen, *asked(phrase=" "))[pointing.ui.pointed]


def test_a_class_that_nobody_wrote_of_gives_its_name_alone(read, monkeypatch):
    pointing = read.pointing
    full = engine.described(engine.descriptions("busi"), "malignant tumor")
    assert pointing.words(None, "busi-zero-shot", "scope-mini", "malignant tumor") == (full.name, full.text)
    assert pointing.words(None, "busi-zero-shot", "scope-mini", None) == (gr.skip(), gr.skip())
    assert pointing.words(None, "gone-set", "scope-mini", "malignant tumor") == (gr.skip(), gr.skip())
    backbone = engine.load_backbone("scope-mini")
    made = engine.prompt_set("busi-zero-shot", backbone)
    other = type(made)(made.head, made.card | {"labels": ["cyst", *made.labels[1:]], "display": ["Cyst", "b", "c"]})
    monkeypatch.setattr(pointing.host, "prompts", lambda asked: other)
    assert pointing.words(None, "busi-zero-shot", "scope-mini", "cyst") == ("Cyst", "")


def test_a_class_is_held_against_the_other_classes_and_ones_own_words_against_neutral_ones(read, screen, monkeypatch):
    """Bug: the page held a class against "background" and "normal tissue", the command line and docs/locate.md against the others."""
    pointing, against = read.pointing, []

    def noted(image, phrases, locator, most, asked, negatives):
        against.append(list(negatives))
        return [replace(each, negatives=tuple(negatives)) for each in found(image, phrases)]

    monkeypatch.setattr(compute, "locate", noted)
    of_class = {"question": "busi-zero-shot", "label": "malignant tumor"}
    name, look = pointing.words(None, "busi-zero-shot", "scope-mini", "malignant tumor")
    said = pointing.point(None, screen, *asked(phrase=name, other=look, **of_class))[pointing.ui.pointed]
    assert "every place is held against: benign tumor, normal scan." in said
    pointing.point(None, screen, *asked(phrase="bone", **of_class))
    pointing.point(None, screen, *asked(phrase=name, question="busi-zero-shot"))
    assert against == [["benign tumor", "normal scan"], [], []]


def test_words_that_fit_the_whole_picture_are_said_to(read, screen, monkeypatch):
    """Bug: a frame around the whole picture was "the middle of the picture"."""
    pointing = read.pointing

    def nowhere(image, phrases, *_):
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        return [replace(e, boxes=none[0], scores=none[1], notes=("Seen.", "'<b>' fits all.")) for e in found(image, phrases)]

    monkeypatch.setattr(compute, "locate", nowhere)
    said = pointing.point(None, screen, *asked())[pointing.ui.pointed]
    assert '<p role="status">&#x27;&lt;b&gt;&#x27; fits all.</p>' in said and "<ol>" not in said


def test_the_words_of_a_class_go_with_its_question_and_ones_own_stay(read):
    """Bug: "greyscale, fan-shaped sector" was asked of the next question's images."""
    ui, about = read.pointing.ui, ("busi-zero-shot", "scope-mini")
    gone = read.pointing.another_question(None, *about, "ultrasound")
    assert gone[ui.phrase] == gone[ui.other] == "" and gone[ui.of_class]["value"] is None
    assert [value for _, value in gone[ui.of_class]["choices"]] == list(engine.task("busi").names)
    assert set(read.pointing.another_question(None, *about, None)) == {ui.of_class}
    for label, kept in (("normal scan", "normal scan"), ("MRI", None), (None, None)):  # opening the fold again keeps it
        assert read.pointing.classes(None, *about, label)["value"] == kept
