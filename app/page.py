"""The page: its tabs, its head, and the server behind it."""

from __future__ import annotations

import logging
import secrets
import threading
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

import engine
from app import audit, compute, guard, programs, text
from app.batch import Batch
from app.compare import Compare
from app.health import Health
from app.host import HIDDEN, Host
from app.library import Library
from app.read import Read
from app.settings import Settings
from app.teach import Teach

HERE = Path(__file__).parent
STYLES = [HERE / "style.css", HERE / "teach.css", HERE / "compare.css", HERE / "library.css"]
SCRIPTS = [HERE / "page.js", HERE / "teach.js", HERE / "library.js"]
IDLE_S = 3600  # this long after a visitor has left, Gradio ends the session and his files are deleted


class Page:
    """A tab has `lay_out` (its components), `wire` (its events), `endpoints` (for programs) and `arrive`, which gives the
    updates of its lists when it is opened."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.host = Host(settings)
        self.read = Read(self.host)
        self.tabs: dict[str, Any] = {
            "Read": self.read,
            "Teach": Teach(self.host, self.read),
            "Compare": Compare(self.host, self.read),
            "Library": Library(self.host),
            "Batch": Batch(self.host),
        }

    def build(self) -> gr.Blocks:
        """The whole page. `settings.backbone` is loaded here, so that the first visitor does not wait."""
        self.host.load(self.settings.backbone)
        with guard.Blocks(title=text.TITLE, analytics_enabled=False, delete_cache=(600, IDLE_S), fill_width=True) as demo:
            self._head()
            token = gr.BrowserState("", storage_key="promptscope-visit", secret="promptscope")
            laid: dict[str, gr.Tab] = {}
            with gr.Tabs(elem_id="ps-tabs"):
                for name, tab in self.tabs.items():
                    with gr.Tab(name, id=name.lower()) as laid[name]:
                        tab.lay_out()
            arrived = demo.load(self.host.visits.arrive, token, token, **HIDDEN)
            demo.unload(self.host.visits.leave)
            programs.offer(self.about, "about")
            for tab in self.tabs.values():  # before the page's own events, which would take the names
                tab.endpoints()
            for name, tab in self.tabs.items():
                tab.wire()
                inputs, outputs = tab.lists()
                if clear := getattr(tab.ui, "clear", None):
                    clear.click(self.host.visits.forget, **HIDDEN)
                laid[name].select(tab.arrive, inputs, outputs, show_progress="hidden", **HIDDEN)
                arrived.then(tab.arrive, inputs, outputs, show_progress="hidden", **HIDDEN)
        return demo

    def warm(self) -> None:
        """Does what the first visitor would wait for otherwise: starts the processes that read files, encodes the first
        question's texts, and has the backbone encode an image and draw a map."""
        try:
            engine.sandbox().warm()
            if not compute.ON_ZERO:  # the GPU is lent to visitors
                asked = self.host.asked(None, self.settings.backbone, self.host.questions(None)[0][1], "rest")
                compute.classify(engine.Image(np.zeros((8, 8), np.float32)), asked)
        except engine.EngineError as error:  # whoever asks next is told
            logging.getLogger(__name__).warning("nothing could be made ready (%s)", error)

    def _head(self) -> None:
        gr.HTML(
            f'<header class="ps-head"><div><h1>{text.TITLE}</h1><p>{text.SUBTITLE}</p></div>'
            f'<div class="ps-badges"><span class="ps-chip ps-warnchip" role="note">{text.NOTICE}</span>'
            f'<span class="ps-chip" id="ps-device">{text.COMPUTED.format(device=self.host.computes)}</span></div></header>'
        )

    def about(self) -> dict[str, Any]:
        """What this server has, what it takes, and where it computes.

        Returns: ids of backbones, prompt sets, tasks, methods, explanations and formats; `device`, `limits`, `version`.
        """
        return {
            "notice": text.NOTICE,
            "version": engine.__version__,
            "device": self.host.computes,
            "backbones": [*engine.BACKBONES, *engine.exported()],
            "prompt_sets": engine.library(),
            "tasks": list(engine.tasks()),
            "methods": list(engine.METHODS),
            "explanations": list(engine.EXPLANATIONS),
            "formats": list(engine.READERS),
            "limits": vars(engine.sandbox().limits) | {"upload_mb": self.settings.upload_mb},
        }


def launch(settings: Settings, **more: Any) -> Any:
    """Starts the server. Only what a visitor uploads himself can be fetched; the repository's folder is blocked."""
    audit.check(settings.audit)
    page = Page(settings)
    demo = page.build()
    # requests run side by side, and take turns where they compute (app.compute)
    demo.queue(max_size=settings.max_waiting, default_concurrency_limit=4)
    health = Health(page.host, demo)
    health.watch()
    stays, caller, own = more.pop("prevent_thread_lock", False), None, secrets.token_urlsafe(32)
    try:
        started = demo.launch(
            server_name=settings.host,
            server_port=settings.port,
            max_file_size=settings.upload_mb * gr.FileSize.MB,
            blocked_paths=[str(HERE.parent)],
            app_kwargs=guard.guarded(settings, health, own),
            run_history=False,  # it would keep what was asked and answered in the browser
            mcp_server=settings.mcp,
            show_error=False,
            footer_links=["api"],
            theme=gr.themes.Base(
                primary_hue="teal", secondary_hue="teal", neutral_hue="slate",
                font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"],
            ),
            css_paths=STYLES,
            js="() => { " + "\n".join(f"({path.read_text(encoding='utf-8').strip().rstrip(';')})();" for path in SCRIPTS) + " }",
            ssr_mode=False,
            prevent_thread_lock=True,
            **more,
        )  # fmt: skip
        threading.Thread(target=page.warm, daemon=True, name="warm").start()
        if settings.mcp:
            caller = programs.connect(demo, started[1], {guard.COOKIE: own})
        if not stays:
            demo.block_thread()
        return started
    finally:
        if not stays:
            if caller:
                caller.close()
            page.host.close()
