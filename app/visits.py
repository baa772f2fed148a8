"""Whose workspace a request means. One for everybody, kept (PROMPTSCOPE_WORKSPACE); or, on a public page, one a visitor.

A visitor's workspace lies in a private folder (engine.scratch), made when he first brings something: it is deleted a moment
after his last tab has closed, when he has been idle, when the server ends, and, after a kill, when the next one starts. A tab
that is reloaded finds it again by a token that the browser keeps. A program has a session of its own (gradio_client), or names
its visit by a header; whoever knows a token or that header has the visit, so both are long and random. A session's name is
its client's choice as well, and means the visit of its tab until that ends: Gradio's page makes it of 52 random bits,
gradio_client of 122. One so short that it could be guessed is refused. It stands in addresses that the page asks for, so the
log of a proxy is as secret as a visit.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

import engine
from app import seen
from app.settings import Settings

GRACE_S = 60  # after the last tab closed: a reload comes back sooner
SWEEP_S = 5
DAY_S = 86_400  # between two looks for what was kept long enough
AGAIN_S = 900  # so long, what a request that was under way may still write to a deleted folder is deleted again
HEADER = "x-promptscope-visit"  # of programs that cannot keep a session, as MCP clients
SHORTEST = 24  # characters of it
SHORTEST_SESSION = 8  # characters of a session's name: Gradio's page makes 9 to 12, gradio_client 36


@dataclass
class _Visit:
    folder: engine.PrivateFolder
    workspace: engine.Workspace


@dataclass
class _Tab:
    """Of a browser, or a program's session. seen : monotonic, when it last asked for something, or closed."""

    token: str
    seen: float
    is_open: bool = True


class Visits:
    """Safe to use from many threads."""

    def __init__(self, settings: Settings, queue: engine.Queue):
        self.settings, self.queue = settings, queue
        self._lock = threading.Lock()
        self._tabs: dict[str, _Tab] = {}  # by session hash
        self._visits: dict[str, _Visit] = {}  # by token
        self._open: set[str] = set()  # session hashes of the browsers' tabs
        self._gone: list[tuple[Path, float]] = []
        self._end = threading.Event()
        self._kept: engine.Workspace | None = None
        engine.PrivateFolder().delete()  # the first one of a process: what a killed server has left goes with it
        self._sweeper = threading.Thread(target=self._sweep_on, daemon=True, name="visits")
        if not settings.is_public:
            self._kept = engine.Workspace(settings.workspace, settings.database_url)
            engine.look_after(self._kept)
            self._sweeper = threading.Thread(target=self._look_after, args=[self._kept], daemon=True, name="retention")
            queue.add(self._kept)
        self._sweeper.start()

    def _look_after(self, workspace: engine.Workspace) -> None:
        while not self._end.wait(DAY_S):
            try:
                engine.look_after(workspace)
            except engine.EngineError:  # its database is away for a moment: tomorrow again
                logging.getLogger(__name__).exception("What is due in the workspace could not be done.")

    def arrive(self, token: str | None, request: gr.Request) -> str:
        """A tab opens. token : what its browser remembers. Returns what it is to remember."""
        with self._lock:
            self._open.add(str(request.session_hash))
        if self._kept is not None:
            return token or ""
        with self._lock:
            name = _name(request)
            if token and (token in self._visits or any(tab.token == token for tab in self._tabs.values())):
                self._tabs[name] = _Tab(token, time.monotonic())
            return self._tab(name).token

    def leave(self, request: gr.Request) -> None:
        """A tab closes, or its connection is cut: its next request opens it again."""
        with self._lock:
            self._open.discard(str(request.session_hash))
            tab = self._tabs.get(str(request.session_hash))
            if tab:
                tab.seen, tab.is_open = time.monotonic(), False
        if self._kept is not None:
            self.forget(request)

    def workspace(self, request: gr.Request | None) -> engine.Workspace:
        """Made where the visitor has none yet. Raises DataError."""
        if self._kept is not None:
            return self._kept
        name = _named(request)
        with self._lock:
            token = self._tab(name).token
            if token not in self._visits:
                if len(self._visits) >= self.settings.max_visits:
                    raise engine.DataError(
                        f"This page is full: {len(self._visits)} visits are under way.", "Try again in some minutes."
                    )
                folder = engine.PrivateFolder()
                made = self._visits[token] = _Visit(folder, engine.Workspace(folder.path / "workspace"))
                self.queue.add(made.workspace)
            return self._visits[token].workspace

    def found(self, request: gr.Request | None) -> engine.Workspace | None:
        """As `workspace`, or None where the visitor has brought nothing yet."""
        if self._kept is not None:
            return self._kept
        name = _name(request)
        with self._lock:
            visit = self._visits.get(self._tab(name).token) if name else None
            return visit.workspace if visit else None

    def visitor(self, request: gr.Request | None) -> str:
        """Whose images a request is about (app.seen): a tab's, also where all share a workspace; a visit's, which may have several
        tabs; "" where it belongs to none."""
        try:
            name = _name(request)
        except engine.DataError:
            if self._kept is None:
                raise
            return ""  # a name that others may have, too
        if self._kept is not None:
            return name
        with self._lock:
            return self._tab(name).token if name else ""

    def forget(self, request: gr.Request) -> None:
        """At Clear: what the visitor's images were encoded to."""
        seen.forget(self.visitor(request))

    def count(self) -> tuple[int, int]:
        """Tabs that are open in browsers, and visits that have a workspace of their own."""
        with self._lock:
            return len(self._open), len(self._visits)

    def is_swept(self) -> bool:
        """False where what is over is no longer deleted."""
        return self._sweeper.is_alive()

    def looked(self, request: gr.Request | None) -> engine.Workspace | None:
        """As `found`, for what only a visit can be told of. Raises DataError where the request belongs to none."""
        if self._kept is None:
            _named(request)
        return self.found(request)

    def _tab(self, name: str) -> _Tab:
        """That of a session, seen now."""
        tab = self._tabs.setdefault(name, _Tab(secrets.token_urlsafe(24), 0.0))
        tab.seen, tab.is_open = time.monotonic(), True
        return tab

    def _sweep_on(self) -> None:
        while not self._end.wait(SWEEP_S):
            try:
                self.sweep()
            except Exception:  # the next one must come all the same
                logging.getLogger(__name__).exception("A visit that is over could not be deleted.")

    def sweep(self) -> None:
        """Deletes the visits that are over."""
        now = time.monotonic()
        for token in list(self._visits):
            with self._lock:
                if token not in self._visits or not self._is_over(token, now):
                    continue
                visit = self._visits.pop(token)
                self._gone.append((visit.folder.path, now))
            seen.forget(token)
            self._delete(visit)
        with self._lock:
            for name, tab in list(self._tabs.items()):
                if tab.token not in self._visits and now - tab.seen > (
                    60 * self.settings.idle_minutes if tab.is_open else GRACE_S
                ):
                    del self._tabs[name]
                    if not any(other.token == tab.token for other in self._tabs.values()):
                        seen.forget(tab.token)
        self._gone = [(folder, when) for folder, when in self._gone if now - when < AGAIN_S]
        for folder, _ in self._gone:
            shutil.rmtree(folder, ignore_errors=True)

    def _is_over(self, token: str, now: float) -> bool:
        tabs = [tab for tab in self._tabs.values() if tab.token == token]
        unseen = now - max((tab.seen for tab in tabs), default=0.0)  # a tab that showed its token has left another visit
        if not any(tab.is_open for tab in tabs):
            return unseen > GRACE_S
        if unseen <= 60 * self.settings.idle_minutes:
            return False
        try:  # who watches a training does not ask for anything
            return not self._visits[token].workspace.jobs(active=True)
        except Exception:  # its database does not answer: nobody can see that training
            logging.getLogger(__name__).exception("A visit's trainings could not be looked at: it counts as over.")
            return True

    def _delete(self, visit: _Visit) -> None:
        try:
            self.queue.remove(visit.workspace)
            visit.workspace.close()
        finally:
            visit.folder.delete()

    def close(self) -> None:
        self._end.set()
        with self._lock:
            gone = list(self._visits.values())
            for token in {*self._visits, *(tab.token for tab in self._tabs.values())}:
                seen.forget(token)
            self._visits.clear()
            self._tabs.clear()
        for visit in gone:
            self._delete(visit)
        if self._kept is not None:
            self.queue.remove(self._kept)
            self._kept.close()


def _name(request: gr.Request | None) -> str:
    """Of the session that a request belongs to, "" for none. Raises DataError."""
    headers = getattr(request, "headers", None) or {}
    chosen = str(headers.get(HEADER, ""))
    if chosen:
        if len(chosen) < SHORTEST:
            raise engine.DataError(
                f"The header {HEADER} has {len(chosen)} characters.",
                f"Send at least {SHORTEST} random ones, always the same.",
            )
        return f"{HEADER} {chosen}"
    session = str(getattr(request, "session_hash", None) or "")
    if not session or headers.get("x-gradio-user") == "mcp":  # all MCP clients share one session of Gradio's
        return ""
    if len(session) < SHORTEST_SESSION:
        raise engine.DataError(
            f"The session's name has {len(session)} characters, and could be guessed.",
            f"Send at least {SHORTEST_SESSION} random ones, or the header {HEADER}.",
        )
    return session


def _named(request: gr.Request | None) -> str:
    """As `_name`, and never "". Raises DataError."""
    name = _name(request)
    if not name:
        raise engine.DataError(
            "This page keeps things for the length of a visit, and this request belongs to none.",
            f"Send a header {HEADER} with at least {SHORTEST} random characters, always the same.",
        )
    return name
