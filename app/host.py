"""What the tabs share: the settings, the machine's device, the visitors' workspaces and the queue of trainings."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

import engine
from app import cases, compute, models, text
from app.settings import Settings
from app.visits import Visits

MB = 1_000_000
HIDDEN: dict[str, Any] = {"api_visibility": "private"}  # events of the page that are nothing to programs

Updates = dict[Any, Any]  # component -> its new value or properties; what is not named stays


_screens = threading.Lock()  # of every Screen


@dataclass
class Screen:
    """What a visitor's tab shows, by numbers: what is still being answered of something before it is not shown.

    It is changed where it lies, since what a handler gives back reaches the session later, and not always in order. study :
    what was opened (in Teach the question); series : which part of it; view : how that is looked at; turn : the visitor's
    latest act, as the browser counts them; check : of a map, the latest that was asked for or stopped; look : at a frame, the latest; held : the cases that are
    open in Read; task : the question in Teach
    """

    study: int = 0
    series: int = 0
    view: int = 0
    turn: int = 0
    check: int = 0
    look: int = 0
    held: list[cases.Case] = field(default_factory=list)
    task: str = ""

    def change(self, turn: int | None = None) -> int:
        """Another study, or none. turn : of the act, 0 before the page counts. Returns the study's number; 0, and nothing is
        changed, where a later act came first."""
        with _screens:
            if turn is not None and turn < self.turn:
                return 0
            self.study, self.series, self.view = self.study + 1, self.series + 1, self.view + 1
            self.turn = max(turn or 0, self.turn)
            return self.study

    @property
    def question(self) -> tuple[int, str]:
        """Tells whether the one in Teach is still the same."""
        return self.study, self.task

    def hold(self, study: int, opened: list[cases.Case]) -> None:
        """The cases of this study; their files are deleted at once where another one was begun meanwhile, else those of the
        one before."""
        with _screens:
            if self.study == study:
                self.held, opened = opened, self.held
        cases.forget(opened)

    def ask(self, study: int, task: str) -> bool:
        """The question of this study; nothing is changed where another one was begun meanwhile."""
        with _screens:
            if self.study == study:
                self.task = task
            return self.study == study


class Host:
    """One for each page. Handlers of the tabs get a visitor's request first and ask here for what is his."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.device = models.device_of(settings.device)
        self.queue = engine.Queue(self.device, settings.precision, compute.chunk if compute.ON_ZERO else None)
        self.visits = Visits(settings, self.queue)

    def close(self) -> None:
        """Ends trainings (they go on at the next start) and deletes what belongs to visits."""
        self.queue.close()
        self.visits.close()

    def workspace(self, request: gr.Request | None) -> engine.Workspace:
        """The visitor's, or everybody's where the page is not a public one. Raises DataError."""
        return self.visits.workspace(request)

    def looked(self, request: gr.Request | None) -> engine.Workspace | None:
        """As `workspace`, or None where the visitor has brought nothing yet: who only looks takes no room. Raises DataError."""
        return self.visits.looked(request)

    def seen(self, request: gr.Request | None) -> engine.Workspace:
        """As `looked`, for what must be there to be looked at. Raises DataError."""
        workspace = self.looked(request)
        if workspace is None:
            raise engine.DataError(text.NOTHING_BROUGHT, text.NOTHING_BROUGHT_HINT)
        return workspace

    def check_room(self, workspace: engine.Workspace, uploads: Iterable[str | Path]) -> None:
        """Before something comes in. Raises DataError where a visit to a public page would store too much."""
        if not self.settings.is_public:
            return
        coming = sum(os.path.getsize(each) for each in set(uploads) if os.path.isfile(each))
        stored, most = workspace.holdings()["bytes"], self.settings.visit_mb * MB
        if stored + coming > most:
            sizes = {"stored": stored / MB, "coming": coming / MB, "most": most // MB}
            raise engine.DataError(text.VISIT_FULL.format(**sizes), text.VISIT_FULL_HINT)

    def load(self, backbone: str) -> None:
        """In this process, before any worker is forked. Only the registry's names: a visitor opens no folder, and starts no
        download on a public page. Raises BackboneError."""
        if backbone != self.settings.backbone:
            if self._is_closed(backbone):
                raise engine.BackboneError(text.FETCH_ABSENT.format(name=backbone), text.FETCH_NOT_HERE)
            if backbone not in engine.exported():
                engine.BACKBONES[backbone]
        models.backbone(backbone, self.device, self.settings.precision)

    @property
    def computes(self) -> str:
        """Where, and in which precision, the page's own backbone really computes. Raises BackboneError."""
        own = self.backbone(self.settings.backbone)
        return f"{own.device} ({own.dtype})"

    def is_absent(self, backbone: str) -> bool:
        """It would have to be fetched first, which takes a machine that reaches the hub."""
        return backbone in engine.BACKBONES and engine.BACKBONES[backbone].present() is None

    def _is_closed(self, backbone: str) -> bool:
        return self.settings.is_public and self.is_absent(backbone)

    def backbone(self, name: str) -> engine.Backbone:
        """Raises BackboneError."""
        self.load(name)
        return models.backbone(name, self.device, self.settings.precision)

    def backbones(self) -> list[tuple[str, str]]:
        """(title, id), the page's own first; the title says where weights are missing, and a public page leaves those out."""
        own = self.settings.backbone
        named = [
            n for n in dict.fromkeys([own, *engine.BACKBONES, *engine.exported()]) if n == own or not self._is_closed(n)
        ]
        return [(f"{n} (not on this machine)" if self.is_absent(n) else n, n) for n in named]

    def maps(self, backbone: str) -> list[tuple[str, str]]:
        """(title, name) of the kinds of maps of a backbone, the one that is shown unasked first. Raises BackboneError."""
        return [(text.MAP_TITLES.get(name, name), name) for name in engine.explanations_for(self.backbone(backbone))]

    def asked(
        self, request: gr.Request | None, backbone: str, prompts: str, target: str = "", method: str = ""
    ) -> compute.Asked:
        """method : of the map; one that this backbone cannot carry is as none: its first."""
        workspace = self.visits.found(request)
        folder, task = (models.folder_of(workspace), models.own_task(workspace, prompts)) if workspace else ("", None)
        visitor = self.visits.visitor(request)
        if method and method not in (name for _, name in self.maps(backbone)):
            method = ""
        return compute.Asked(backbone, prompts, self.device, self.settings.precision, target, method, folder, task, visitor)

    def prompts(self, asked: compute.Asked) -> engine.PromptSet:
        """Raises PromptSetError, DataError."""
        return models.prompts(asked)

    def questions(self, request: gr.Request | None) -> list[tuple[str, str]]:
        """(title, value) of what can be asked, for a list: the visitor's own sets first, then everybody's."""
        return [(each.title, each.value) for each in self.asks(request)]

    def asks(self, request: gr.Request | None) -> list[models.Question]:
        """In the order of `questions`."""
        return models.questions(self.visits.found(request))
