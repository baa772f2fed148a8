"""What of a comparison can be taken along. Run: python -m pytest tests/test_report.py"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest
from test_compare import SWAPPED, Hue, a_set, photographs, plain

import engine

_ = photographs  # the fixture
HOSTILE = '<script src="http://evil.example/x.js">alert(1)</script> & $x$'


@pytest.fixture
def found(photographs) -> engine.Comparison:
    sets = [plain("=1+1", a_set()), plain(HOSTILE, a_set(SWAPPED))]
    return engine.compare_cases(photographs("red", "green", "blue", ("blue", "red")), Hue(), sets)


class Tags(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_fetches_nothing_and_runs_nothing(found):
    page = Tags(engine.comparison_report(found, [1, 2, 3, 4], {4: b"jpeg"}))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action"):
                assert value and value.startswith("data:image/"), (tag, value)
    assert "url(" not in engine.comparison_report(found, [1, 2, 3, 4])


def test_hostile_names_are_text(found):
    page = engine.comparison_report(found, [1, 2, 3, 4])
    assert "<script" not in page
    assert HOSTILE in "".join(Tags(page).words)


def test_the_report_says_what_it_is_what_was_found_and_how(found):
    words = " ".join(" ".join(Tags(engine.comparison_report(found, [7, 8, 9, 12])).words).split())
    assert engine.NOTICE in words
    for line in (*engine.comparison_words(found), *engine.comparison_care(found)):
        assert line in words
    accuracy = found.columns[0].metrics["accuracy"]
    assert f"{accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})" in words
    assert "4 labelled cases. Red: 1, Green: 1, Blue: 2." in words
    assert "Only =1+1 is right: 2 Cases 7, 8" in words and "None is right: 1 Cases 12" in words
    assert "Method zero-shot; learned from words alone" in words and '"template"' in words


def test_images_are_in_the_report_only_where_they_are_given(found):
    assert "image/jpeg" not in engine.comparison_report(found, [1, 2, 3, 4])
    page = engine.comparison_report(found, [1, 2, 3, 4], {1: b"one", 4: b"four"})
    assert re.findall(r'alt="case (\d+)" src="data:image/jpeg;base64,(\w+)', page) == [("1", "b25l"), ("4", "Zm91cg")]


def test_the_table_read_back_is_the_numbers(found):
    rows = list(csv.DictReader(io.StringIO(engine.comparison_table(found))))
    assert [row["set"] for row in rows] == ["'=1+1", HOSTILE]  # no spreadsheet takes the first for a formula
    for row, column in zip(rows, found.columns, strict=True):
        for name, of in column.metrics.items():
            assert [float(row[name + end]) for end in ("", "_low", "_high")] == [of.value, of.low, of.high]
        for name, of in column.differences.items():
            assert [float(row[f"{name}_difference{end}"]) for end in ("", "_low", "_high")] == [of.value, of.low, of.high]
        assert float(row["seconds_per_image"]) == column.forward_s + column.scoring_s
        assert int(row["bytes"]) == column.size and row["images"] == "4"
    assert rows[0]["accuracy_difference"] == ""


def test_no_cell_is_a_formula_wherever_it_comes_from(photographs):
    foreign = a_set()
    foreign = replace(foreign, card=foreign.card | {"method": foreign.card["method"] | {"name": "=cmd|' /C calc'!A0"}})
    table = engine.comparison_table(engine.compare_cases(photographs("red"), Hue(), [plain("A", foreign)]))
    (row,) = csv.DictReader(io.StringIO(table))
    assert row["method"] == "'=cmd|' /C calc'!A0"


def test_the_plots_are_a_picture_of_eight_sets_as_well(photographs):
    sets = [plain(f"Set {i} with a very long name that would not fit $\\frac{i}$", a_set()) for i in range(8)]
    found = engine.compare_cases(photographs("red", "red"), Hue(), sets)  # AUROC is not defined
    picture = PIL.Image.open(io.BytesIO(engine.comparison_plots(found)))
    assert picture.format == "PNG" and picture.width > 1000 and "Software" not in picture.info
    drawn = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (drawn == (0x0F, 0x76, 0x6E)).all(axis=1).sum() > 50  # the first set's colour


def test_plots_leave_no_figure_behind(found):
    from matplotlib import pyplot

    engine.comparison_plots(found)
    assert pyplot.get_fignums() == []
