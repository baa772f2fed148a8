"""What stands before every address: the password, the sizes, and that nothing is fetched or opened for a program.

Run: python -m pytest tests/test_guards.py
"""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from conftest import free_port
from gradio.state_holder import SessionState
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, AuthenticationError

import engine
from app import cases, guard, page, programs, text
from app.settings import Settings

CT = next(s.path for s in engine.samples() if s.title == "CT")
AUTH = ("ann", "se:cret ü")
MIB = 1 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The real server with a password, MCP, and uploads of 1 MB at most: app, address, its folder of uploads."""
    uploads = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        patch.setattr(guard, "TRIES", 10_000)  # the tests give many wrong passwords
        workspace = tmp_path_factory.mktemp("workspace")
        settings = Settings(port=free_port(), device="cpu", auth=AUTH, mcp=True, upload_mb=1, workspace=workspace)
        app, address, _ = page.launch(settings, prevent_thread_lock=True, quiet=True)
        yield SimpleNamespace(app=app, address=address.rstrip("/"), uploads=uploads)
        app.get_blocks().close(verbose=False)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def routes(found) -> set[tuple[str, str]]:
    """(method, path) of everything that the server answers, inside of what is mounted as well."""
    every = set()
    for route in found:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        mounted = None if getattr(route, "methods", None) else getattr(getattr(route, "app", None), "routes", None)
        if inner is not None:
            every |= routes(inner)
        elif mounted is not None:
            every |= {(method, route.path + path) for method, path in routes(mounted)}
        else:
            every |= {(method, route.path) for method in getattr(route, "methods", None) or ("GET", "POST")}
    return every


def test_without_the_password_every_address_is_closed(served):
    """Bug: Gradio's own password left heartbeats, cancelling, MCP and more open, and its login page lists every endpoint."""
    every = routes(served.app.routes)
    paths = {path for _, path in every}
    for known in ("/config", "/gradio_api/info", "/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/mcp/sse",
                  "/gradio_api/heartbeat/{session_hash}", "/gradio_api/cancel", "/gradio_api/component_server", "/monitoring",
                  "/gradio_api/file={path_or_url:path}", "/gradio_api/call/{api_name}", "/gradio_api/mcp"):  # fmt: skip
        assert known in paths
    open_ones = {}
    with httpx.Client() as client:
        for method, path in sorted(every):
            answer = client.request(method, served.address + re.sub(r"\{[^}]*\}", "x", path))
            if answer.status_code != 401:
                open_ones[f"{method} {path}"] = (answer.status_code, answer.text)
    assert open_ones == {
        "GET /logout": (303, ""),
        "GET /gradio_api/startup-events": (200, "false"),  # nothing but that the server has started
    }


def test_the_page_to_sign_in_says_nothing_of_what_is_behind(served):
    answer = httpx.get(served.address, headers={"Accept": "text/html"})
    assert answer.status_code == 401 and text.NOTICE in answer.text and 'name="password"' in answer.text
    for word in ("predict", "gradio", "scope-mini", "backbone", "<script"):
        assert word not in answer.text


def test_an_mcp_request_without_the_password_gets_nothing(served):
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Accept": "application/json, text/event-stream"}
    for more, status in (({}, 401), (basic("ann", "wrong"), 401), (basic(*AUTH), 200)):
        answer = httpx.post(f"{served.address}/gradio_api/mcp/", json=asked, headers=headers | more)
        assert answer.status_code == status
        assert ("predict" in answer.text) is (status == 200)


def test_the_right_password_opens_the_page_by_form_by_program_and_by_header(served):
    with httpx.Client(follow_redirects=True, headers={"Accept": "text/html"}) as browser:
        wrong = browser.post(f"{served.address}/login", data={"username": "ann", "password": "se:cret"})
        assert wrong.status_code == 401 and text.WRONG_PASSWORD in wrong.text and not browser.cookies
        entered = browser.post(f"{served.address}/login", data={"username": AUTH[0], "password": AUTH[1]})
        assert entered.status_code == 200 and "gradio_config" in entered.text
        held = dict(browser.cookies)
        assert list(held) == [guard.COOKIE]
        out = browser.get(f"{served.address}/logout")
        assert out.status_code == 401 and not browser.cookies
    assert httpx.get(f"{served.address}/config", cookies=held).status_code == 401, "signed out, and still in"
    client = Client(served.address, auth=AUTH, verbose=False)
    assert client.predict(api_name="/about")["device"] == "cpu (float32)"
    assert httpx.get(f"{served.address}/config", headers=basic(*AUTH)).status_code == 200
    with pytest.raises(AuthenticationError):
        Client(served.address, auth=("ann", "no"), verbose=False)


@pytest.mark.parametrize(
    "header", ["Basic", "Basic ***", "Basic " + base64.b64encode(b"\xff\xfe").decode(), "Bearer ann", "basic"]
)
def test_a_broken_header_is_a_wrong_password(served, header):
    assert httpx.get(f"{served.address}/config", headers={"Authorization": header}).status_code == 401


async def ask(door: guard.Guard, headers: dict[str, str], host: str) -> int:
    """The status of a request for /config from this address."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/config", "query_string": b"", "client": (host, 1), "scheme": "http",
             "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()], "server": ("here", 80)}  # fmt: skip
    await door(scope, receive, send)
    return sent[0]["status"]


def test_after_five_wrong_passwords_an_address_waits_and_others_do_not(monkeypatch):
    import asyncio

    now = [1000.0]
    monkeypatch.setattr(guard, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(guard, "TRIES", 5)

    async def behind(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    door = guard.Guard(behind, Settings(auth=("ann", "right")), SimpleNamespace())

    async def tries() -> None:
        right, wrong = basic("ann", "right"), basic("ann", "wrong")
        assert [await ask(door, wrong, "10.0.0.1") for _ in range(6)] == [401] * 5 + [429]
        assert await ask(door, right, "10.0.0.1") == 429  # not looked at, so that nothing is learned from it
        assert await ask(door, right, "10.0.0.2") == 200
        now[0] += guard.WAIT_S
        assert [await ask(door, wrong, "10.0.0.1") for _ in range(2)] == [401, 429]  # one try each time
        now[0] += guard.WAIT_S
        assert await ask(door, right, "10.0.0.1") == 200
        assert [await ask(door, wrong, "10.0.0.1") for _ in range(5)] == [401] * 5  # forgotten by the right one

    asyncio.run(tries())


def test_what_is_remembered_of_wrong_passwords_is_bounded(monkeypatch):
    import asyncio

    monkeypatch.setattr(guard, "ADDRESSES", 3)
    door = guard.Guard(lambda *_: None, Settings(auth=("ann", "right")), SimpleNamespace())
    for host in ("a", "b", "c", "d"):
        asyncio.run(ask(door, basic("ann", "wrong"), host))
    assert list(door._wrong) == ["b", "c", "d"]


# --- sizes --------------------------------------------------------------------------------------------------------------


def test_a_file_over_the_limit_is_refused_on_every_way_in(served):
    large, small = b"x" * (MIB + 1), b"x" * 1000
    head = basic(*AUTH)
    upload = f"{served.address}/gradio_api/upload"
    assert httpx.post(upload, files={"files": ("a.dcm", small)}, headers=head).status_code == 200
    assert httpx.post(upload, files={"files": ("a.dcm", large)}, headers=head).status_code == 413
    # what is not a file of its own: base64 inside of JSON, and the components' functions
    body = json.dumps({"data": ["y" * (3 * MIB)]})
    for path in ("call/predict", "run/predict", "queue/join", "component_server", "mcp/", "call/v2/predict"):
        answer = httpx.post(
            f"{served.address}/gradio_api/{path}", content=body, headers=head | {"Content-Type": "application/json"}
        )
        assert answer.status_code == 413 and text.TOO_LARGE in answer.text, path


def test_a_body_that_does_not_say_how_long_it_is_is_counted(served):
    def parts():
        for _ in range(40):
            yield b"y" * 100_000

    head = basic(*AUTH) | {"Content-Type": "application/json"}
    answer = httpx.post(f"{served.address}/gradio_api/call/predict", content=parts(), headers=head)
    assert answer.status_code == 413


def test_many_files_at_once_may_hold_what_a_zip_may(served, monkeypatch):
    limits = engine.sandbox().limits
    most = guard.Guard(lambda *_: None, Settings(upload_mb=1), SimpleNamespace())._most
    assert most("/gradio_api/upload") == limits.unpacked_mb * MIB
    assert most("/gradio_api/call/predict") == MIB * 4 // 3 + MIB


# --- nothing is fetched, nothing of the server is opened ---------------------------------------------------------------


@pytest.fixture
def elsewhere():
    """A server somewhere, and the list of what it was asked for."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CT.read_bytes())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def takes_files(served) -> list[tuple[str, list[str]]]:
    """(endpoint, its arguments that are files)."""
    info = httpx.get(f"{served.address}/gradio_api/info", headers=basic(*AUTH)).json()["named_endpoints"]
    found = []
    for name, about in info.items():
        files = [p["parameter_name"] for p in about["parameters"] if "gradio.FileData" in json.dumps(p["type"])]
        if files:
            found.append((name.lstrip("/"), files))
    return found


def outcome(served, name: str, arguments: dict) -> str:
    """What a plain HTTP call of an endpoint says at the end."""
    head = basic(*AUTH)
    begun = httpx.post(f"{served.address}/gradio_api/call/v2/{name}", json=arguments, headers=head)
    if begun.status_code != 200:
        return begun.text
    return httpx.get(f"{served.address}/gradio_api/call/{name}/{begun.json()['event_id']}", headers=head, timeout=60).text


def sample_arguments(served, name: str) -> dict:
    """Something for each argument that must be given."""
    info = httpx.get(f"{served.address}/gradio_api/info", headers=basic(*AUTH)).json()["named_endpoints"][f"/{name}"]
    kinds = {"string": "modality", "integer": 1, "number": 1, "boolean": False, "array": [], "object": {}}
    return {
        p["parameter_name"]: kinds.get(p["type"].get("type", ""))
        for p in info["parameters"]
        if not p.get("parameter_has_default")
    }


def test_no_endpoint_follows_an_address(served, elsewhere):
    address, asked = elsewhere
    endpoints = takes_files(served)
    assert "predict" in dict(endpoints)
    for name, files in endpoints:
        for file in (
            {"path": f"{address}/a.dcm", "meta": {"_type": "gradio.FileData"}},
            {"path": f"{address}/b.dcm", "url": f"{address}/b.dcm"},
            {"path": "", "url": f"{address}/c.dcm", "meta": {"_type": "gradio.FileData"}},
            f"{address}/d.dcm",
        ):
            for given in (file, [file]):
                said = outcome(served, name, sample_arguments(served, name) | dict.fromkeys(files, given))
                assert "error" in said and '"ok"' not in said, (name, file, said)
    for path in (f"file={address}/e.dcm", f"file={address.replace('http', 'HTTP')}/f.dcm", f"proxy={address}/g.dcm"):
        assert httpx.get(f"{served.address}/gradio_api/{path}", headers=basic(*AUTH)).status_code in (400, 403, 404)
    assert asked == []


def test_an_address_is_refused_by_a_sentence(served):
    client = Client(served.address, auth=AUTH, verbose=False)
    for address in ("http://127.0.0.1:9/a.dcm", "https://example.org/a.dcm"):
        with pytest.raises(AppError, match="fetches nothing from other addresses"):
            client.predict(handle_file(address), api_name="/predict")


def test_no_endpoint_opens_or_moves_a_file_of_the_server(served, tmp_path):
    """Bug: what does not say that it is a file is not looked at by Gradio, and the endpoint opened any path."""
    mine = tmp_path / "mine.dcm"
    mine.write_bytes(CT.read_bytes())
    others, link = served.uploads / "folder" / "others.dcm", served.uploads / "folder" / "link.dcm"
    others.parent.mkdir()
    others.write_bytes(CT.read_bytes())
    link.symlink_to(others)
    for name, files in takes_files(served):
        for file in (
            {"path": str(mine)},
            {"path": str(mine), "meta": {"_type": "gradio.FileData"}},
            {"path": f"{served.uploads}/../{mine}"},
            {"path": str(served.uploads / ".." / tmp_path.name / "mine.dcm")},
            {"path": ["a"]},
            {"path": str(served.uploads)},
            {"path": str(others.parent)},
            {"path": str(link)},
            str(mine),
        ):
            for given in (file, [file]):
                said = outcome(served, name, sample_arguments(served, name) | dict.fromkeys(files, given))
                assert "error" in said and '"ok"' not in said, (name, file, said)
                assert "Traceback" not in said and str(tmp_path) not in said.replace(json.dumps(str(mine)), ""), said
    assert mine.read_bytes() == others.read_bytes() == CT.read_bytes() and link.is_symlink()


def test_only_a_file_is_moved(tmp_path):
    """Bug: who named the folder of uploads moved it, and all that waited in it was deleted."""
    folder, mine = tmp_path / "uploads", tmp_path / "uploads" / "mine.dcm"
    folder.mkdir()
    mine.write_bytes(b"x")
    (folder / "link").symlink_to(mine)
    with cases.received([str(folder), str(folder / "link"), str(folder / "gone")]) as (files, gone):
        assert files == [] and len(gone) == 3
    assert mine.read_bytes() == b"x" and (folder / "link").is_symlink()


def test_a_gradio_without_what_is_replaced_stops_the_start(monkeypatch):
    monkeypatch.delattr(guard.processing_utils, "async_ssrf_protected_get")
    with pytest.raises(engine.EngineError, match=r"Gradio 6\.\S+ has no async_ssrf_protected_get, .*constraints\.txt"):
        guard.guarded(Settings(), SimpleNamespace(), "")
    with pytest.raises(engine.EngineError, match="has no _client_instance, convert_strings_to_filedata, postprocess_output"):
        programs.connect(SimpleNamespace(mcp_server_obj=object()), "", {})


def test_an_upload_is_found_by_its_own_address_and_nothing_else_is(served, tmp_path):
    import asyncio

    client = Client(served.address, auth=AUTH, verbose=False)
    (place,) = httpx.post(
        f"{served.address}/gradio_api/upload", files={"files": ("a.dcm", CT.read_bytes())}, headers=basic(*AUTH)
    ).json()
    assert asyncio.run(guard.own_upload(f"{served.address}/gradio_api/file={place}", "")) == place
    row = client.predict(
        {"path": f"{served.address}/gradio_api/file={place}", "meta": {"_type": "gradio.FileData"}}, api_name="/predict"
    )["results"][0]
    assert row["status"] == "ok"
    outside = tmp_path / "x.dcm"
    outside.write_bytes(b"x")
    for other in (f"{served.uploads}/../x", "/etc/passwd", str(outside), str(served.uploads)):
        with pytest.raises(Exception, match="fetches nothing"):
            asyncio.run(guard.own_upload(f"{served.address}/gradio_api/file={other}", ""))


def test_the_log_names_no_file_of_a_visitor(served, tmp_path, capfd):
    named = tmp_path / "DOE^JANE.dcm"
    named.write_bytes(b"nothing")
    client = Client(served.address, auth=AUTH, verbose=False)
    client.predict(handle_file(str(named)), api_name="/predict")
    with pytest.raises(AppError):
        client.predict(handle_file("http://example.org/DOE^JANE.dcm"), api_name="/predict")
    few = {"data": [{"path": "DOE^JANE.dcm", "meta": {"_type": "gradio.FileData"}}]}
    begun = httpx.post(f"{served.address}/gradio_api/call/predict", json=few, headers=basic(*AUTH)).json()["event_id"]
    said = httpx.get(f"{served.address}/gradio_api/call/predict/{begun}", headers=basic(*AUTH)).text
    assert "1 values came, and " in said
    told = capfd.readouterr()
    assert "DOE" not in told.out + told.err and "Traceback" not in told.err


def test_nothing_that_was_asked_is_kept_by_the_browser_or_by_gradio(served):
    config = httpx.get(f"{served.address}/config", headers=basic(*AUTH)).json()
    assert config["run_history"] is False
    assert httpx.get(f"{served.address}/gradio_api/runs", headers=basic(*AUTH)).status_code == 404
    marked = b"ASKED^BY^TEST"
    (place,) = httpx.post(
        f"{served.address}/gradio_api/upload", files={"files": ("a.dcm", CT.read_bytes() + marked)}, headers=basic(*AUTH)
    ).json()
    assert marked in Path(place).read_bytes()
    assert '"ok"' in outcome(served, "predict", {"file": {"path": place}, "prompts": "modality"})
    assert not [p for p in served.uploads.rglob("*") if p.is_file() and marked in p.read_bytes()]


def test_a_number_beyond_a_slider_is_the_nearest_within_also_where_the_bounds_have_changed():
    """Bug: the window of one image was beyond the bounds of the next, which was a traceback in the log."""
    with guard.Blocks() as demo:
        slider = gr.Slider(-10, 10, value=7)
        slider.input(lambda value: value, slider, None)
    (asked,) = demo.fns.values()
    state = SessionState(demo)

    def given(value: float) -> list[float]:
        return asyncio.run(demo.preprocess_data(asked, [value], state))

    assert [given(value) for value in (99, -99, 3, None)] == [[10], [-10], [3], [7]]
    state[slider._id] = gr.Slider(0, 5, render=False)
    assert [given(value) for value in (9, -9, 3)] == [[5], [0], [3]]


def test_a_closed_tabs_stream_ends_without_a_traceback_and_other_errors_do_not():
    """Bug: Gradio forgets the session of a closed tab twice, and the log had a KeyError."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("b2ztdknxmba")

    async def asked(path: str) -> list[str]:
        said: list[str] = []

        async def send(message):
            said.append(message["type"])

        scope = {"type": "http", "path": path, "method": "GET", "headers": [], "query_string": b""}
        await guard.Guard(app, Settings(), "own")(scope, lambda: None, send)
        return said

    assert asyncio.run(asked("/gradio_api/queue/data")) == ["http.response.start"]
    with pytest.raises(KeyError):
        asyncio.run(asked("/gradio_api/call/predict"))
