"""What can be wrong with the sentences that describe a class, in words for whoever wrote them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.backbones.base import Backbone
from engine.errors import BackboneError, DataError
from engine.tasks import Label, Task

MOST = 500  # sentences of a class; the largest bank has 50
LONGEST = 400  # characters of one: more than any text tower reads


def check_sentences(task: Task, label: str, lines: Sequence[str], backbone: Backbone) -> tuple[list[str], list[str]]:
    """(the sentences of a class, each once; what to think about before they are used). Raises DataError where they cannot be
    used: none, too many, or one that the backbone's text tower cannot read whole."""
    known = next((each for each in task.labels if each.name == label), None)
    if known is None:
        raise DataError(f"{label[:80]!r} is no class of this task.", f"Its classes are: {', '.join(task.names)}.")
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
    for line in kept:
        other = next((each for each in task.labels if each is not known and names_another(line, each, known)), None)
        if other:
            thoughts.append(f"{line[:60]!r} names another class, {other.display!r}: the model may read it as that one.")
    return kept, thoughts


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
