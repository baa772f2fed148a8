"""What stands before every address of the server: the password, the sizes, and that nothing is fetched for anybody.

Gradio's own password leaves some addresses open (heartbeats, cancelling, the Model Context Protocol, and the list of endpoints
inside of its login page), so it is not used: whoever has not signed in gets one small page of ours, or 401. A browser signs in
by that page, `gradio_client` by `auth=`, and whatever can only send headers (curl, MCP clients) by HTTP Basic.
"""

from __future__ import annotations

import base64
import binascii
import html
import logging
import math
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

import gradio as gr
from gradio import processing_utils, utils
from gradio.state_holder import SessionState
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import engine
from app import metrics, text
from app.settings import Settings

COOKIE = "promptscope-entry"
SIGNED_IN_S = 12 * 3600
TRIES, WAIT_S = 5, 30  # after so many wrong passwords from one address, one more is looked at every so many seconds
FORGET_S = 600  # and the wrong ones are forgotten after this
ADDRESSES = 10_000  # remembered at most
FORM_BYTES = 10_000
MIB = 1 << 20
PAGE = (Path(__file__).parent / "entry.html").read_text(encoding="utf-8")


class Vitals(Protocol):
    """What /health and /metrics say (app.health)."""

    def health(self) -> tuple[int, dict[str, Any]]: ...
    def written(self) -> bytes: ...
    def refusal(self) -> tuple[str, int]:
        """Of a request for which there is no room: a sentence, and the seconds to wait."""
        ...


class TooLarge(Exception):
    """A request's body is longer than its address takes."""


class Guard:
    """ASGI middleware. Safe for one event loop, which is where Gradio's server runs."""

    def __init__(self, app: ASGIApp, settings: Settings, vitals: Vitals, own: str = ""):
        """own : the cookie by which the page's MCP server calls the page, or none."""
        self.app, self.settings, self.vitals = app, settings, vitals
        self._entries = {own: math.inf} if own else {}  # cookie -> when it ends, monotonic
        self._wrong: dict[str, tuple[int, float]] = {}  # address -> how many wrong passwords, when the last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await Response(status_code=403)(scope, receive, send)  # Gradio 6 has no WebSockets
        request = Request(scope, receive)
        answer = self._health(request) or await self._refusal(request) or await self._metrics(request)
        if answer is not None:
            return await answer(scope, receive, send)
        await self._bounded(scope, receive, send)

    def _health(self, request: Request) -> Response | None:
        """For load balancers, which have no password; nothing in it is anybody's."""
        if request.scope["path"] != "/health" or request.method not in ("GET", "HEAD"):
            return None
        status, said = self.vitals.health()
        return JSONResponse(said, status, {"Cache-Control": "no-store"})

    async def _metrics(self, request: Request) -> Response | None:
        if request.scope["path"] != "/metrics" or request.method not in ("GET", "HEAD"):
            return None
        written = await run_in_threadpool(self.vitals.written)  # it asks the workspaces for their trainings
        return Response(written, media_type=metrics.CONTENT_TYPE)

    async def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that does not go on to the page, or None."""
        path = request.scope["path"]
        if "/file=http" in path.lower():  # Gradio would fetch it and pass it on
            return JSONResponse({"detail": text.NOTHING_FETCHED}, status_code=403)
        if self.settings.auth is None:
            return None
        if path == "/logout":
            self._entries.pop(self._cookie(request), None)
            gone = RedirectResponse("./", status_code=303)
            gone.delete_cookie(COOKIE)
            return gone
        if path.rstrip("/") == "/login" and request.method == "POST":
            return await self._sign_in(request)
        # asked by Gradio of itself while it starts; says whether it was the first to ask
        if path == "/gradio_api/startup-events" or self._entries.get(self._cookie(request), 0) > time.monotonic():
            return None
        return self._by_header(request)

    # the password

    def _by_header(self, request: Request) -> Response | None:
        scheme, _, coded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            if self._must_wait(request):
                return self._later(request)
            try:
                given = base64.b64decode(coded, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                given = ("", "", "")
            if self._is_right(request, given[0], given[2]):
                return None
        if request.method in ("GET", "HEAD") and request.scope["path"] == "/":
            return self._form(request, "")
        return JSONResponse({"detail": text.SIGN_IN_FIRST}, status_code=401)

    async def _sign_in(self, request: Request) -> Response:
        """A form's user name and password to a cookie; a browser goes to the page, a program gets JSON."""
        by_hand = "text/html" in request.headers.get("accept", "")
        if self._must_wait(request):
            return self._later(request)
        sent = b""
        async for part in request.stream():
            sent += part
            if len(sent) > FORM_BYTES:
                return JSONResponse({"detail": text.TOO_LARGE}, status_code=413)
        fields = {name: values[0] for name, values in parse_qs(sent.decode(errors="replace")).items()}
        if not self._is_right(request, fields.get("username", ""), fields.get("password", "")):
            if by_hand:
                return self._form(request, text.WRONG_PASSWORD)
            return JSONResponse({"detail": text.WRONG_PASSWORD}, status_code=401)
        now, entry = time.monotonic(), secrets.token_urlsafe(32)
        self._entries = {e: until for e, until in self._entries.items() if until > now} | {entry: now + SIGNED_IN_S}
        answer: Response = RedirectResponse("./", status_code=303) if by_hand else JSONResponse({"success": True})
        safe = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        answer.set_cookie(COOKIE, entry, max_age=SIGNED_IN_S, httponly=True, samesite="lax", secure=safe)
        return answer

    def _is_right(self, request: Request, user: str, password: str) -> bool:
        """Both are compared in the same time whatever they are; a wrong one is counted."""
        assert self.settings.auth is not None
        given = (user.strip().encode(), password.encode())
        same = [
            secrets.compare_digest(ours.encode(), theirs) for ours, theirs in zip(self.settings.auth, given, strict=True)
        ]
        address, now = _address(request), time.monotonic()
        if all(same):
            self._wrong.pop(address, None)
            return True
        count, last = self._wrong.pop(address, (0, now))
        self._wrong[address] = (count + 1 if now - last < FORGET_S else 1, now)
        if len(self._wrong) > ADDRESSES:
            del self._wrong[next(iter(self._wrong))]  # the one that tried longest ago
        return False

    def _must_wait(self, request: Request) -> bool:
        count, last = self._wrong.get(_address(request), (0, 0.0))
        return count >= TRIES and time.monotonic() - last < WAIT_S

    def _later(self, request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return self._form(request, text.WAIT_TO_SIGN_IN.format(seconds=WAIT_S), 429)
        return JSONResponse(
            {"detail": text.WAIT_TO_SIGN_IN.format(seconds=WAIT_S)}, status_code=429, headers={"Retry-After": str(WAIT_S)}
        )

    @staticmethod
    def _cookie(request: Request) -> str:
        try:
            found = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return found.value if found else ""

    @staticmethod
    def _form(request: Request, problem: str, status: int = 401) -> Response:
        said = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
        words = {
            "title": text.TITLE,
            "notice": text.NOTICE,
            "user": text.USER,
            "password": text.PASSWORD,
            "enter": text.ENTER,
        }
        page = PAGE
        for name, value in (words | {"problem": said}).items():
            page = page.replace(f"{{{name}}}", value)
        return HTMLResponse(page, status, {"Cache-Control": "no-store"})

    # sizes, and room in the queue

    def _full(self, request: Request) -> Response:
        """To a program 503. Gradio's page says something of its own at 503, and at anything else what is in the answer."""
        sentence, seconds = self.vitals.refusal()
        status = 429 if "sec-fetch-mode" in request.headers else 503
        return JSONResponse({"detail": sentence}, status, {"Retry-After": str(seconds)})

    def _most(self, path: str) -> int:
        """Bytes that a request to this address may bring: a folder's files at once may hold what a zip may; anything else one
        file, in base64 at most, and some words beside it."""
        if path.rstrip("/").endswith("/gradio_api/upload"):
            return engine.sandbox().limits.unpacked_mb * MIB
        return self.settings.upload_mb * MIB * 4 // 3 + MIB

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, and ends it where its body is too long, whether it says so at first or not. Where Gradio has no
        room in its queue, who asks is told what to do."""
        request, most, came, begun, full = Request(scope), self._most(scope["path"]), 0, False, False
        refusal = JSONResponse({"detail": text.TOO_LARGE}, status_code=413)
        said = request.headers.get("content-length", "0")
        if not said.isdigit() or int(said) > most:
            return await refusal(scope, receive, send)

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > most:
                raise TooLarge
            return message

        async def sent(message: Message) -> None:
            nonlocal begun, full
            if message["type"] == "http.response.start" and message["status"] == 503 and _is_joining(scope["path"]):
                full = begun = True
                await self._full(request)(scope, receive, send)
            elif not full and (came <= most or begun):  # else it is an answer to the half of a request
                begun = True
                await send(message)

        try:
            await self.app(scope, counted, sent)
        except TooLarge:
            pass
        except Exception as error:
            # Gradio ends the stream of a tab that was closed by looking for a session that it has forgotten; whatever goes wrong
            # in a stream it has told the tab before, as the stream's last message
            if not (begun and scope["path"].endswith("/queue/data")):
                raise
            logging.getLogger(__name__).info("a tab's stream ended (%s)", type(error).__name__)
        if came > most and not begun:
            await refusal(scope, receive, send)


def _is_joining(path: str) -> bool:
    """Does a request to this address go into the queue?"""
    return path.rstrip("/").endswith("/queue/join") or "/gradio_api/call/" in path


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


async def own_upload(url: str, cache_dir: str) -> str:
    """The place of a file that was uploaded to this server, from its address; Gradio asks this for every file that is given
    as an address. Nothing is fetched from anywhere. Raises gr.Error."""
    _, found, path = unquote(url).partition("/gradio_api/file=")
    folder = Path(utils.get_upload_folder()).resolve()
    place = Path(path).resolve()
    if not found or not place.is_relative_to(folder) or not place.is_file():
        raise gr.Error(text.NOTHING_FETCHED, print_exception=False)
    return str(place)


async def nothing_fetched(url: str) -> Any:
    raise gr.Error(text.NOTHING_FETCHED, print_exception=False)


def check_gradio(holder: Any, *names: str) -> None:
    """Before functions of Gradio are replaced by ours: in another version it would not use them. Raises EngineError."""
    lost = [name for name in names if not hasattr(holder, name)]
    if lost:
        raise engine.EngineError(
            f"Gradio {gr.__version__} has no {', '.join(lost)}, without which this page is not safe.",
            "Install the version in constraints.txt.",
        )


class Blocks(gr.Blocks):
    """Gradio's page. What a request with too few values did bring is not written to the log: it may name somebody's file."""

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        if len(inputs) < len(block_fn.inputs):
            said = text.TOO_FEW.format(got=len(inputs), needed=len(block_fn.inputs))
            raise gr.Error(said, print_exception=False)

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: SessionState | None, explicit_call: bool = False
    ) -> list[Any]:
        """A number beyond a slider's bounds counts as the nearest one within, and none as the last one: bounds change with the
        image that is open, and who empties a slider's number means nothing by it."""
        for i, (block, value) in enumerate(zip(block_fn.inputs, inputs, strict=False)):
            slider = state[block._id] if state and block._id in state else block
            if isinstance(slider, gr.Slider):
                number = slider.value if value is None else value
                if isinstance(number, int | float):
                    inputs[i] = min(max(number, slider.minimum), slider.maximum)
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)


def guarded(settings: Settings, vitals: Vitals, own: str) -> dict[str, Any]:
    """What `Blocks.launch` must be given as `app_kwargs`. own : see Guard. From now on Gradio in this process follows no address: these two
    functions are its only ways out. Raises EngineError where this Gradio has others."""
    check_gradio(processing_utils, "async_ssrf_protected_download", "async_ssrf_protected_get")
    processing_utils.async_ssrf_protected_download = own_upload
    processing_utils.async_ssrf_protected_get = nothing_fetched
    return {"middleware": [Middleware(Guard, settings=settings, vitals=vitals, own=own)]}
