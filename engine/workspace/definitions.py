"""What a task of a workspace is made of, as JSON (tables.TaskRow.definition), and what makes it hold together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import DataError
from engine.tasks import Label, Task, check_texts, with_bank
from engine.workspace.tables import TaskRow

LONGEST = 80  # characters of a class's name or a title


def definition_of(
    title: str, modality: str, organ: str, template: str, labels: Sequence[Label], shortcuts: Sequence[str]
) -> dict[str, Any]:
    """Raises DataError for a template that has no place for the class."""
    if template and template.count("{}") != 1:
        raise DataError(f"The template {template[:LONGEST]!r} has no one place for the class.", "Write {} where it belongs.")
    return {
        "title": title,
        "modality": modality,
        "organ": organ,
        "template": template or _template(modality, organ),
        "labels": [{"name": x.name, "display": x.display, "aliases": list(x.aliases)} for x in labels],
        "sentences": {},
        "words": {},
        "provenance": [],
        "shortcuts": list(shortcuts),
    }


def _template(modality: str, organ: str) -> str:
    """As those of assets/tasks.json: "a photo of {}, CT of the kidney." """
    where = [modality if modality != "any" else "medical image", *([f"of the {organ}"] if organ != "any" else [])]
    return "a photo of {}." if (modality, organ) == ("any", "any") else f"a photo of {{}}, {' '.join(where)}."


def edited(
    definition: dict[str, Any],
    title: str | None = None,
    display: Mapping[str, str] | None = None,
    sentences: Mapping[str, Sequence[str]] | None = None,
    new_labels: Sequence[str] = (),
    words: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    provenance: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Changes the definition in its place and returns it. Raises DataError where it would not hold together."""
    check_texts(new_labels, "New classes")
    check_texts(list((display or {}).values()), "Names of classes")
    for name, lines in (sentences or {}).items():
        check_texts(lines, f"The sentences of {name[:LONGEST]!r}")
    labels = definition["labels"]
    labels += [{"name": name.strip(), "display": shown_as(name), "aliases": []} for name in new_labels]
    named = {each["name"]: each for each in labels}
    unknown = [name for name in (*(display or ()), *(sentences or ()), *(words or ())) if name not in named]
    if unknown:
        raise DataError(f"{unknown[0][:LONGEST]!r} is no class of this task.", f"Its classes are: {', '.join(named)}.")
    for name, shown in (display or {}).items():
        named[name]["display"] = shown.strip()
    for name, lines in (sentences or {}).items():
        definition["sentences"][name] = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    for name, kinds in (words or {}).items():
        held = definition.setdefault("words", {}).setdefault(name, {})
        held |= {kind: list(each) for kind, each in kinds.items()}
    if provenance is not None:
        definition["provenance"] = [dict(step) for step in provenance]
    if title is not None:
        definition["title"] = title.strip()
    if not definition["title"]:
        raise DataError("The task has no title.", "Say in a few words what it asks.")
    names = [each["name"] for each in labels]
    for said in (definition["title"], definition["modality"], definition["organ"], *names, *(x["display"] for x in labels)):
        if len(said) > LONGEST or not said.isprintable():
            raise DataError(f"{said[:40]!r} ... is too long, or has no plain letters.", f"Use up to {LONGEST} characters.")
    meant: dict[str, str] = {}  # what a folder of that name means
    for each in labels:
        for said in (each["name"], each["display"]):
            other = meant.setdefault(" ".join(said.lower().replace("_", " ").split()), each["name"])
            if not said or other != each["name"]:
                raise DataError(f"{', '.join(names)} cannot be told apart.", "Give each class a name of its own.")
    if len(labels) < 2 or len(set(names)) < len(names):
        raise DataError(f"{', '.join(names) or 'No class'} cannot be told apart.", "Name two or more different classes.")
    return definition


def shown_as(name: str) -> str:
    """A class that is called like a folder, as people and prompts write it: "glioma_tumor" is "glioma tumor"."""
    return " ".join(name.replace("_", " ").split())


def task_of(row: TaskRow) -> Task:
    d = row.definition
    labels = tuple(Label(x["name"], x["display"], tuple(x["aliases"])) for x in d["labels"])
    made = Task(row.id, d["title"], d["modality"], d["organ"], labels, d["template"], shortcuts=tuple(d["shortcuts"]))
    return with_bank(made, d["sentences"], d.get("words"), d.get("provenance", ()))
