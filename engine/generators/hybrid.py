"""Words of both kinds: colour and shape from images, the location from a masked language model.

Source: MIU-VL (arXiv:2209.15517), its mode `hybrid`, as the paper says it: a question about the place of a finding is hard to answer
from a picture that shows nothing else. Upstream's code leaves the shape out and asks about cells in every data set; here it does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from engine.generators import masked_lm, vqa
from engine.tasks import DescriptionBank, Task
from engine.training import Watch
from engine.types import Image

SEEN, SAID = ("colour", "shape"), ("location",)


class Hybrid:
    name = "hybrid"
    needs_images = True
    writes = "attributes"

    @dataclass(frozen=True)
    class Config:
        """model, revision : as of `vqa`; language_model, language_revision : as of `masked-lm`; top : words a slot; beams : of an
        answer; words : as of `masked-lm`."""

        model: str = vqa.MODEL
        revision: str = ""
        language_model: str = masked_lm.MODEL
        language_revision: str = ""
        top: int = 3
        beams: int = 10
        words: str = ""

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()

    @cached_property
    def sees(self) -> vqa.VQA:
        c = self.config
        return vqa.VQA(vqa.VQA.Config(model=c.model, revision=c.revision, top=c.top, beams=c.beams))

    @cached_property
    def says(self) -> masked_lm.MaskedLM:
        c = self.config
        return masked_lm.MaskedLM(
            masked_lm.MaskedLM.Config(model=c.language_model, revision=c.language_revision, top=c.top, words=c.words)
        )

    def fill(self, task: Task, images: Iterable[tuple[Image, str]] = (), watch: Watch | None = None) -> DescriptionBank:
        return self._placed(task, self.sees.fill_slots(task, images, SEEN, watch), watch)

    def for_image(self, task: Task, image: Image) -> DescriptionBank:
        """As of `vqa`, of colour and shape; the location is each class's own, as in the paper."""
        return self._placed(task, self.sees.for_image(task, image, SEEN), None)

    def _placed(self, task: Task, bank: DescriptionBank, watch: Watch | None) -> DescriptionBank:
        return self.says.fill_slots(replace(task, bank=bank), SAID, watch)
