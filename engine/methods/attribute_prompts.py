"""Attribute prompts: a class's name, joined by a template with words for its colour, shape, location and texture.

Qin et al., arXiv:2209.15517 (MIU-VL). Variant j takes word j of every slot at once, as their generator does; theirs are prompt
sets of their own, here the first `ranks` variants are an ensemble: the mean of unit features, brought to unit length again.
A class without any words is its name alone.
Left out: words of one image (a class here is one point for all images), GLIP's score over the tokens of the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from engine.backbones.base import Backbone
from engine.errors import DataError
from engine.methods._descriptions import description_card, sentence_features
from engine.methods.base import Configured, LabelledFeatures, linear_prompt_set
from engine.prompts import PromptSet
from engine.tasks import NAMES, SLOTS, Task, descriptions, kind_of_image, slot_of
from engine.templates import FAITHFUL, check_template, filled
from engine.training import Watch

TEMPLATE = "{image} showing {name}[: {slots}]."
OWN_NAME = "class"
MOST = 50  # variants: as many words as a slot takes


class AttributePrompts(Configured):
    name = "attribute-prompts"
    needs_images = False
    needs_descriptions = True

    @dataclass(frozen=True)
    class Config:
        """name : "class", or one of the bank's names: "medical", "query", "lay"; a class that has none there keeps its own
        slots : which of SLOTS are used, in this order, divided by commas; "" for none
        ranks : how many variants, from the best words on; rank : this variant alone, from 1; 0 takes the ensemble
        template : with {name} and any of PLACES; "" takes TEMPLATE
        faithful : the paper's template, and one variant (`rank`, else the first) as its files hold it; with `name` "lay" it is
        the paper's prompt (its --real_cls_names), with another one that name stands there
        """

        name: str = OWN_NAME
        slots: str = ", ".join(SLOTS)
        ranks: int = 3
        rank: int = 0
        template: str = ""
        faithful: bool = False

        def __post_init__(self) -> None:
            if self.name not in (OWN_NAME, *NAMES):
                raise DataError(f"A class has no name {self.name!r}.", f"Choose one of: {', '.join((OWN_NAME, *NAMES))}.")
            wrong = [each for each in self.chosen if each not in SLOTS]
            if wrong or len(set(self.chosen)) < len(self.chosen):
                what = f"no slot {wrong[0]!r}" if wrong else f"no slot twice, as in {self.slots!r}"
                raise DataError(f"Attribute prompts have {what}.", f"Choose of: {', '.join(SLOTS)}.")
            if not 1 <= self.ranks <= MOST:
                raise DataError(f"{self.ranks} variants cannot be made.", f"ranks is from 1 to {MOST}.")
            if not 0 <= self.rank <= MOST:
                raise DataError(
                    f"There is no variant {self.rank}.", f"rank is from 1 to {MOST}, or 0 for the mean of all variants."
                )
            check_template(self.wording)

        @property
        def chosen(self) -> tuple[str, ...]:
            return tuple(slot_of(each.strip()) for each in self.slots.split(",")) if self.slots.strip() else ()

        @property
        def wording(self) -> str:
            """The template in use."""
            return FAITHFUL if self.faithful else (self.template or TEMPLATE).replace("{color}", "{colour}")

    def learn(
        self,
        backbone: Backbone,
        task: Task,
        data: LabelledFeatures | None = None,
        seed: int = 1,
        watch: Watch | None = None,
    ) -> PromptSet:
        read = prompts_of(task, self.config)
        features = sentence_features(backbone, [each for prompts in read.values() for each in prompts])
        parts = features.split([len(prompts) for prompts in read.values()])
        embeddings = F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)  # (C, D)
        return linear_prompt_set(self, backbone, task, embeddings, **description_card(task), **self._card(task, read))

    def carry(self, prompts: PromptSet, backbone: Backbone, task: Task) -> PromptSet:
        return self.learn(backbone, task)

    def _card(self, task: Task, read: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        """words : how the bank was read; keep_own_name : classes that have no name of the kind asked for; name_alone : classes
        that have no words in the slots asked for."""
        about = descriptions(task).classes
        bare = [c for c in task.names if c not in about or not any(about[c].attributes.get(s) for s in self.config.chosen)]
        words = {
            "name": self.config.name,
            "keep_own_name": [
                c for c in task.names if self.config.name != OWN_NAME and not _named(task, c, self.config.name)
            ],
            "slots": list(self.config.chosen),
            "name_alone": bare if self.config.chosen else [],
            "variants": {label: len(prompts) for label, prompts in read.items()},
        }
        return {"template": self.config.wording, "words": words}


def prompts_of(task: Task, config: AttributePrompts.Config) -> dict[str, tuple[str, ...]]:
    """The sentences of each class, by label, the variants in their order; at least one a class. Raises DataError."""
    classes = descriptions(task).classes
    ranks = [max(1, config.rank)] if config.rank or config.faithful else list(range(1, config.ranks + 1))
    made = {}
    for label in task.names:
        slots = {slot: classes[label].attributes.get(slot, ()) if label in classes else () for slot in config.chosen}
        most = max([1, *map(len, slots.values())])
        of_class = {
            "name": _named(task, label, config.name) or label,
            "image": kind_of_image(task),
            "modality": "" if task.modality == "any" else task.modality,
            "organ": "" if task.organ == "any" else task.organ,
        }
        variants = []
        for rank in [each for each in ranks if each <= most] or ranks[:1]:
            words = dict.fromkeys(SLOTS, "") | {slot: all_[rank - 1] for slot, all_ in slots.items() if len(all_) >= rank}
            listed = ", ".join(words[slot] for slot in config.chosen if words[slot])
            variants.append(filled(config.wording, of_class | words | {"slots": listed}))
        made[label] = tuple(dict.fromkeys(variants))
    return made


def _named(task: Task, label: str, kind: str) -> str:
    """A class's first name of a kind, "" where the bank has none."""
    about = descriptions(task).classes.get(label)
    return next(iter(about.synonyms.get(kind, ())), "") if about else ""
