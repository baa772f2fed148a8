"""What can be wrong with the sentences and words that describe a class, in words for whoever wrote them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.backbones.base import Backbone
from engine.errors import BackboneError, DataError
from engine.tasks import NAMES, SLOTS, Label, Task, check_texts

MOST = 500  # sentences of a class; the largest bank has 50
LONGEST = 400  # characters of one: more than any text tower reads
MOST_WORDS, LONGEST_WORDS = 50, 100  # entries of a slot, and characters of one; the shipped banks have 5, and 60


def check_sentences(task: Task, label: str, lines: Sequence[str], backbone: Backbone) -> tuple[list[str], list[str]]:
    """(the sentences of a class, each once; what to think about before they are used). Raises DataError where they cannot be
    used: no list of texts, none, too many, or one that the backbone's text tower cannot read whole."""
    known = _label(task, label)
    check_texts(lines, f"The sentences of {known.display!r}")
    written = [" ".join(line.split()) for line in lines if line.strip()]
    kept = list(dict.fromkeys(written))
    if not kept:
        raise DataError(f"The class {known.display!r} has no sentence.", "Write one or more, each on a line of its own.")
    if len(kept) > MOST:
        raise DataError(f"The class {known.display!r} has {len(kept)} sentences.", f"Up to {MOST} are taken.")
    long = [line for line in kept if len(line) > LONGEST]
    if long or not fits(kept, backbone):
        line = next(iter(long)) if long else next(each for each in kept if not fits([each], backbone))
        raise DataError(
            f"The sentence that begins {line[:60]!r} is too long for {backbone.id!r}: its end would not be read.",
            "Make two of it.",
        )
    thoughts = []
    if len(written) > len(kept):
        more = len(written) - len(kept)
        thoughts.append(
            "1 sentence came twice and counts once." if more == 1 else f"{more} sentences came again and count once."
        )
    return kept, thoughts + _others(task, known, kept)


def check_words(task: Task, label: str, kind: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the words of a slot or names of a kind, each once, the best first; what to think about). kind : of SLOTS or NAMES.
    Raises DataError where they are no list of texts, too many, or one is too long. None at all are allowed: the slot is then
    empty."""
    known = _label(task, label)
    if kind not in (*SLOTS, *NAMES):
        raise DataError(
            f"A class has no slot and no name {str(kind)[:40]!r}.", f"Choose one of: {', '.join((*SLOTS, *NAMES))}."
        )
    check_texts(words, f"The {kind} of {known.display!r}")
    kept = list(dict.fromkeys(" ".join(each.split()) for each in words if each.strip()))
    if len(kept) > MOST_WORDS:
        raise DataError(f"The {kind} of {known.display!r} has {len(kept)} entries.", f"Up to {MOST_WORDS} are taken.")
    for each in kept:
        if len(each) > LONGEST_WORDS or not each.isprintable():
            why = "is longer than a few words" if each.isprintable() else "has a sign that cannot be printed"
            raise DataError(f"The {kind} that begins {each[:40]!r} {why}.", f"Write up to {LONGEST_WORDS} plain characters.")
    return kept, _others(task, known, kept)


def _label(task: Task, label: str) -> Label:
    known = next((each for each in task.labels if each.name == label), None)
    if known is None:
        raise DataError(f"{str(label)[:80]!r} is no class of this task.", f"Its classes are: {', '.join(task.names)}.")
    return known


def _others(task: Task, known: Label, lines: Sequence[str]) -> list[str]:
    """Lines that name another class of the task."""
    found = []
    for line in lines:
        other = next((each for each in task.labels if each is not known and names_another(line, each, known)), None)
        if other:
            found.append(f"{line[:60]!r} names another class, {other.display!r}: the model may read it as that one.")
    return found


def fits(lines: list[str], backbone: Backbone) -> bool:
    """Does the text tower read these sentences whole?"""
    try:
        backbone.encode_texts(lines)
    except BackboneError:
        return False
    return True


def names_another(line: str, other: Label, own: Label) -> bool:
    """Does a sentence say another class in full, where that is no part of its own name ("tumour" in "benign tumour")?"""
    mine = f"{own.name} {own.display}".lower()
    names = {other.name.lower(), other.display.lower()}
    return any(name not in mine and re.search(rf"\b{re.escape(name)}\b", line.lower()) for name in names)
