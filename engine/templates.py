"""A class's name and words in a template, MIU-VL's caption (arXiv:2209.15517) among them.

A part of a template in [ ] vanishes where a place in it has no word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.errors import DataError
from engine.tasks import SLOTS

FAITHFUL = "[{colour} color, ][{shape} shape ]{name}[ {where}]"  # make_autopromptsv2.py at 80adbdb, the caption
# {slots} : the words of all slots in their order; {where} : "in" and the location
PLACES = ("name", "image", "modality", "organ", "slots", "where", *SLOTS)
INTO = re.compile(
    "(in|at|on|within|inside|outside|behind|beside|near|above|just|over|under|below|beneath|along|across|around|between|extending) "
)
_PART, _PLACE = re.compile(r"\[([^\[\]]*)\]"), re.compile(r"\{(\w*)\}")


def where(location: str) -> str:
    """ "the bowel" -> "in the bowel"; what says itself how it lies ("behind the heart") stays, as does ""."""
    return location if not location or INTO.match(location) else f"in {location}"


def location_of(said: str) -> str:
    """What `where` was given, from what it gave, without the "in"; "" where it is no place."""
    if said.startswith("in ") and not said.startswith("in front of "):
        return said.removeprefix("in ")
    return said if where(said) == said else ""


def check_template(template: str) -> None:
    """Raises DataError where it has no place for the name, an unknown place, or a bracket without its other half."""
    unknown = [place for place in _PLACE.findall(template) if place not in PLACES]
    if unknown or "{name}" not in template:
        what = f"an unknown place {{{unknown[0]}}}" if unknown else "no place for the class"
        raise DataError(f"The template {template[:120]!r} has {what}.", f"Write {{name}}, and of: {', '.join(PLACES[1:])}.")
    rest = _PLACE.sub("", _PART.sub(r"\1", template))
    if set(rest) & set("[]{}"):
        raise DataError(
            f"The template {template[:120]!r} has a bracket without its other half.", "Close it, or leave it out."
        )
    if "{name}" not in _PART.sub("", template):
        raise DataError(
            f"The template {template[:120]!r} has the class in a part that may vanish.", "Take {name} out of [ ]."
        )


def filled(template: str, words: Mapping[str, str]) -> str:
    """As `put_in`, on one line."""
    return " ".join(put_in(template, words).split())


def put_in(template: str, words: Mapping[str, str]) -> str:
    """words : by PLACES, "" where there is none. Words are put in as they are, with whatever brackets they hold."""
    words = {**words, "where": where(words.get("location", ""))}
    made = []
    for i, part in enumerate(_PART.split(template)):  # every second one stood in [ ]
        if i % 2 == 0 or all(words[place] for place in _PLACE.findall(part)):
            made.append(_PLACE.sub(lambda found: words[found[1]], part))
    return "".join(made)
