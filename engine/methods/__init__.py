"""Methods by name: each leaves a prompt set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

from engine.backbones.base import Backbone, WithoutTorch
from engine.errors import DataError, PromptSetError
from engine.prompts import PromptSet, library
from engine.registry import Registry
from engine.tasks import ASSETS, Task, shipped, tasks

METHODS = Registry(
    "method",
    DataError,
    {
        "zero-shot": "engine.methods.zero_shot:ZeroShot",
        "description-ensemble": "engine.methods.description_ensemble:DescriptionEnsemble",
        "attribute-prompts": "engine.methods.attribute_prompts:AttributePrompts",
        "coop": "engine.methods.coop:CoOp",
        "cocoop": "engine.methods.cocoop:CoCoOp",
        "kgcoop": "engine.methods.kgcoop:KgCoOp",
        "prograd": "engine.methods.prograd:ProGrad",
        "biomedcoop": "engine.methods.biomedcoop:BiomedCoOp",
        "biomed-dpt": "engine.methods.biomed_dpt:BiomedDPT",
        "medpromptclip": "engine.methods.medpromptclip:MedPromptCLIP",
        "medpromptclip-few-shot": "engine.methods.medpromptclip:MedPromptCLIPFewShot",
        "clip-adapter": "engine.methods.clip_adapter:CLIPAdapter",
        "tip-adapter": "engine.methods.tip_adapter:TipAdapter",
        "tip-adapter-f": "engine.methods.tip_adapter:TipAdapterF",
        "linear-probe": "engine.methods.linear_probe:LinearProbe",
        "lp++": "engine.methods.lp_plus_plus:LPPlusPlus",
    },
)


def instant() -> list[str]:
    """Methods that learn from words alone, in a moment: their sets need not be stored."""
    return [name for name, method in METHODS.items() if not method.needs_images and not method.is_trained]


def from_words(name: str, backbone: Backbone, of: Iterable[Task] | None = None) -> PromptSet | None:
    """The set of "<task>-<method>" for an instant method, or of a task's id alone (its description ensemble), made on the
    spot for any backbone; None where the name is neither. of : the tasks, else all known ones."""
    for each in tasks().values() if of is None else of:
        for method in instant():
            short = each.id if method == "description-ensemble" else None
            if name in (f"{each.id}-{method}", short):
                return METHODS[method]().learn(backbone, each)
    return None


def prompt_set(name: str, backbone: Backbone, of: Sequence[Task] | None = None) -> PromptSet:
    """A prompt set by name or folder, or one `from_words`, whose name ends in a hash of the words where they are not the shipped
    ones; for an image tower alone the library's, which was made so by its source. of : the tasks whose words it may be made from,
    and then nothing else is taken. Raises PromptSetError."""
    if of is not None:
        made = None if isinstance(backbone, WithoutTorch) else from_words(name, backbone, of)
        if made is None:
            raise PromptSetError(
                f"The prompt set {name!r} is not made on the spot with {backbone.id!r} from these descriptions.",
                f"Name TASK-METHOD of: {', '.join(each.id for each in of)}; {', '.join(instant())}.",
            )
        return _told_apart(made)
    if isinstance(backbone, WithoutTorch):
        stored = [f"{name}{method}-{backbone.of}" for method in ("", "-description-ensemble")]
        return PromptSet.load(next((each for each in stored if each in library()), name))
    made = from_words(name, backbone)
    return _told_apart(made) if made else PromptSet.load(name)


def _told_apart(made: PromptSet) -> PromptSet:
    """Sets of one name and other words have other answers, rows and maps."""
    about = made.card.get("descriptions")
    known = about and shipped(about["bank"])
    if not about or (known and known.sha256 == about["sha256"]):
        return made
    return replace(made, card=made.card | {"name": f"{made.name[:112]}-{about['sha256'][:8]}"})


def carried(prompts: PromptSet, backbone: Backbone, task: Task) -> PromptSet:
    """What a set learned, for the labels of another task (novel classes). Raises DataError where the method cannot."""
    prompts.check(backbone)
    about = prompts.card["method"]
    kind = METHODS[about["name"]]
    known = {field.name for field in fields(kind.Config)}
    made = kind(kind.Config(**{k: v for k, v in about["options"].items() if k in known})).carry(prompts, backbone, task)
    names = ("data", "descriptions", "licence", "imported") if prompts.learned else ("data", "licence", "imported")
    return replace(made, card=made.card | {k: prompts.card[k] for k in names if k in prompts.card})


@cache
def papers() -> dict[str, Any]:
    """assets/papers.json: the options that the papers' code gives each data set, and the numbers they published."""
    return json.loads((ASSETS / "papers.json").read_text(encoding="utf-8"))


def method(name: str, data_set: str = "", protocol: str = "few-shot", /, **options: Any) -> Any:
    """A method with the paper's options for a data set (a task's id, or the paper's own name) and protocol.

    options : set by hand, over the paper's. Raises DataError for an option that the method does not have.
    """
    kind = METHODS[name]
    table = papers()["options"].get(name, {}).get(protocol, {})
    known = {field.name: field.default for field in fields(kind.Config)}
    for option, value in options.items():
        if option not in known:
            raise DataError(f"The method {name!r} has no option {option!r}.", f"It has: {', '.join(known)}.")
        if not isinstance(value, (int, float) if isinstance(known[option], float) else type(known[option])):
            raise DataError(f"The option {option!r} of {name!r} cannot be {value!r}.", f"An example is {known[option]!r}.")
    return kind(kind.Config(**(table.get("*", {}) | table.get(data_set, {}) | options)))
