"""Windows by name. Run: python -m pytest tests/test_windows.py"""

from __future__ import annotations

import math

import numpy as np
import pytest

import engine
from engine.errors import ImageError
from engine.types import About, Image, Window
from engine.windows import PRESETS, inverted, named, offered


@pytest.mark.parametrize("words", ["40,400", " 40 , 400 ", "40 / 400", "40/400", "40 400", "4e1,400.0"])
def test_a_window_is_typed_as_people_write_it(words):
    assert named(words) == Window(40, 400, "LINEAR_EXACT", "user")


def test_presets_and_the_automatic_window_have_names():
    assert named("Lung") == Window(-600, 1500, "LINEAR", "preset", "lung")
    automatic = named("automatic")
    assert math.isnan(automatic.center) and automatic.source == "automatic"


@pytest.mark.parametrize("words", ["", "wide", "40", "40,400,1", "a,b"])
def test_what_is_no_window_is_refused_with_what_there_is(words):
    with pytest.raises(
        ImageError, match=r"is not understood\. Write CENTRE,WIDTH, as in 40,400, or a name: lung, mediastinum"
    ):
        named(words)


def test_presets_are_offered_for_ct_with_those_of_the_body_part_first():
    own = Window(30, 100, "LINEAR", "file", "SPECIAL")
    names = [w.name for w in offered(About(modality="CT", body_part="abdomen", windows=(own,), deep=True))]
    assert names[:3] == ["SPECIAL", "abdomen", "liver"] and names[-1] == "automatic"
    assert sorted(names[1:-1]) == sorted(PRESETS)
    assert [w.name for w in offered(About(modality="CT", body_part="head", deep=True))][:3] == [
        "brain",
        "stroke",
        "subdural",
    ]


def test_where_values_are_no_hounsfield_units_there_are_no_presets():
    assert [w.name for w in offered(About(modality="MR", deep=True))] == ["automatic"]
    assert "lung" in [w.name for w in offered(About(deep=True, hounsfield=True))]  # a NIfTI that looks like CT
    assert offered(About(modality="US")) == ()  # colour: no window applies


def test_inversion_exchanges_dark_and_bright_and_says_so():
    found = inverted(Image(np.array([[0, 0.25, 1]], dtype=np.float32), notes=("a",)))
    np.testing.assert_array_equal(found.pixels, np.array([[1, 0.75, 0]], dtype=np.float32))
    assert found.pixels.dtype == np.float32 and found.notes == ("a", "Inverted by hand.")


def test_an_image_is_made_smaller_for_the_eye_with_its_spacing():
    image = Image(np.tile(np.linspace(0, 1, 400, dtype=np.float32), (200, 1)), spacing_mm=(0.5, 0.5))
    small = engine.smaller(image, 100)
    assert small.shape == (50, 100) and small.spacing_mm == (2.0, 2.0)
    np.testing.assert_allclose(small.pixels[25, 10:90], (np.arange(10, 90) * 4 + 1.5) / 399, atol=0.002)
    assert engine.smaller(image, 400) is image
