"""Programs as users: every action has a documented endpoint; gradio_client, MCP and the library do the same work.

Run: python -m pytest tests/test_programs.py
"""

from __future__ import annotations

import ast
import asyncio
import base64
import contextlib
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import numpy as np
import PIL.Image
import pytest
from conftest import free_port, make_dicom
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

import engine
from app import page, programs
from app.settings import Settings
from scripts import write_api

ROOT = Path(__file__).resolve().parent.parent
CT = next(s.path for s in engine.samples() if s.title == "CT")
HEADERS = "x-promptscope-visit"


def serve(place: Path, **more: Any):
    """The real server with MCP, in this process."""
    settings = Settings(port=free_port(), device="cpu", mcp=True, workspace=place / "workspace", **more)
    app, address, _ = page.launch(settings, prevent_thread_lock=True, quiet=True)
    return SimpleNamespace(app=app, address=address, workspace=place / "workspace")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        made = serve(tmp_path_factory.mktemp("kept"))
        yield made
        made.app.get_blocks().close(verbose=False)


@pytest.fixture(scope="module")
def client(served):
    return Client(served.address, verbose=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder as the documentation's programs expect it: images/*.dcm of ten patients, every second one bright, and next.dcm."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(11):
        pixels = rng.integers(0, 60, (48, 48)).astype(np.uint8)
        pixels[12:36, 12:36] += 150 * (i % 2 == 0)
        place = folder / "next.dcm" if i == 10 else folder / "images" / f"{i:02}.dcm"
        uids = {
            name: f"1.2.3.{i + 1}.{k}" for k, name in enumerate(("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"))
        }
        make_dicom(place, pixels, PatientID=f"patient {i}", Modality="US", **uids)
    return folder


# --- what is documented -------------------------------------------------------------------------------------------------


def test_every_endpoint_says_what_it_does_and_what_each_argument_means(client):
    """The page's own events are no endpoints, and no endpoint got another name because its own was taken."""
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    offered = write_api.endpoints()
    assert set(named) == {f"/{name}" for name in offered}
    assert not [name for name in named if re.search(r"_\d+$", name)]
    for name, method in offered.items():
        words = programs.described(method)
        assert len(words.what) > 20 and words.what.endswith("."), name
        listed = named[f"/{name}"]["parameters"]
        assert [each["parameter_name"] for each in listed] == list(words.arguments), name
        assert [each["label"] for each in listed] == list(words.arguments.values()), name
        assert all(each["python_type"]["type"] not in ("Any", "") for each in listed), (name, listed)
        (answer,) = named[f"/{name}"]["returns"]
        assert answer["label"] == words.returns or words.what, name


def test_what_the_page_can_do_a_program_can_do_too():
    """By hand: the actions of the tabs that issue 7 names."""
    assert set(write_api.endpoints()) >= {
        "about", "predict", "explain",  # Read
        "tasks", "make_task", "adopt_task", "change_task", "remove_task", "restore_task", "add_images", "cases", "label", "undo",
        "least_sure", "erase_cases", "erase_patient", "erase_older", "teach", "job", "jobs", "stop_job", "resume_job", "result", "keep",  # Teach
        "compare_image", "compare_cases", "comparison_report",  # Compare
        "library", "import_set", "export_set", "remove_set", "restore_set", "backbones", "fetch_backbone", "bank", "edit_bank",
        "batch",
    }  # fmt: skip


def test_the_reference_is_what_the_server_says():
    """If this fails: python -m scripts.write_api"""
    assert write_api.FILE.read_text(encoding="utf-8") == write_api.document()


def test_every_example_of_the_reference_is_a_call_that_fits():
    text = write_api.FILE.read_text(encoding="utf-8").partition(write_api.MARK)[2]
    calls = re.findall(r"```python\n(.*?)```", text, re.S)
    offered = write_api.endpoints()
    assert len(calls) == len(offered)
    for line in calls:
        call = ast.parse(line).body[0].value
        given = {each.arg for each in call.keywords}
        name = next(ast.literal_eval(each.value) for each in call.keywords if each.arg == "api_name")
        arguments = programs.described(offered[name.lstrip("/")]).arguments
        assert given - {"api_name"} <= set(arguments), line


def test_what_says_nothing_of_an_argument_is_not_offered():
    def silent(task: str, count: int = 1) -> int:
        """Does something with a task.

        task: its id
        """
        return count

    with pytest.raises(ValueError, match=r"silent says nothing of \['count'\]"):
        programs.described(silent)
    with gr.Blocks(), pytest.raises(ValueError, match="says nothing of what it does"):
        programs.offer(lambda: 1, "nameless")


def test_a_docstring_is_read_as_it_is_written():
    def method(request: gr.Request | None, task: str, of: int = 1) -> dict[str, int]:
        """Counts things: all of them,
        twice.

        task: its id: a word,
            or two
        of: what
        Returns: the number
        of things
        """
        return {}

    found = programs.described(method)
    assert found.what == "Counts things: all of them, twice."
    assert found.arguments == {"task": "its id: a word, or two", "of": "what"}
    assert found.returns == "the number of things"


# --- gradio_client ------------------------------------------------------------------------------------------------------


def blocks_of(heading: str) -> str:
    """The Python block below a heading of docs/api.md."""
    text = write_api.FILE.read_text(encoding="utf-8").partition(f"## {heading}")[2]
    return re.search(r"```python\n(.*?)```", text, re.S)[1]


def run_block(source: str, folder: Path, monkeypatch) -> tuple[str, dict[str, Any]]:
    """What a documented program prints, and its names, run in the folder."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(source, "docs/api.md", "exec"), names)
    return said.getvalue(), names


def test_the_documented_program_labels_teaches_saves_uses_and_compares(served, images, monkeypatch):
    source = blocks_of("With gradio_client").replace("http://127.0.0.1:7860", served.address)
    said, names = run_block(source, images, monkeypatch)
    client, task, job = names["client"], names["task"], names["job"]
    listed = client.predict(task, api_name="/cases")
    assert [case["label"] for case in listed] == ["bright", "dark"] * 5
    assert [case["patient"] for case in listed] == [f"P{i}" for i in range(1, 11)]
    assert "patient 3" not in json.dumps(listed)
    result = client.predict(job, api_name="/result")
    assert result["headline"] in said and "on 10 held-out cases" in result["headline"]
    # the saved set is the one that the training left, and says of the image what the library says with it
    kept = engine.PromptSet.load(served.workspace / "prompts" / "mine-scope-mini")
    backbone = engine.load_backbone("scope-mini")
    expected = engine.predict(engine.read_image(images / "next.dcm"), backbone, kept)
    row = names["answer"]["results"][0]
    assert row["prompt_set"] == "mine-scope-mini"
    assert row["probabilities"] == pytest.approx(dict(zip(expected.labels, map(float, expected.probabilities), strict=True)))
    assert expected.ranked()[0][0] == "bright"
    assert not list(Path(served.workspace).rglob("*.dcm")), "names of files are kept"


def test_label_and_undo_are_acts(client, images):
    task = client.predict("Undo", ["a", "b"], api_name="/make_task")["id"]
    added = client.predict(
        task, [handle_file(p) for p in sorted((images / "images").glob("0[0-2].dcm"))], api_name="/add_images"
    )
    ids = added["cases"]
    assert client.predict(task, ids, "a", api_name="/label")["balance"]["a"] == [3, 3]
    client.predict(task, ids[:1], "b", api_name="/label")

    def labels() -> list[str]:
        return [case["label"] for case in client.predict(task, api_name="/cases")]

    assert labels() == ["b", "a", "a"]
    assert client.predict(task, api_name="/undo")["changed"] == ids[:1] and labels() == ["a", "a", "a"]
    assert client.predict(task, api_name="/undo")["changed"] == ids and labels() == ["", "", ""]
    assert client.predict(task, api_name="/undo")["changed"] == []
    assert client.predict(task, ids[1:2], api_name="/erase_cases")["erased"] == 1
    assert [case["id"] for case in client.predict(task, api_name="/cases")] == [ids[0], ids[2]]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"api_name": "/cases", "task": "nothing"}, "nothing"),
        (
            {"api_name": "/label", "task": "undo", "cases": [123456], "label": "a"},
            "1 of 1 chosen cases are not in this task",
        ),
        ({"api_name": "/make_task", "title": "One", "classes": ["one"]}, "two|class"),
        ({"api_name": "/teach", "task": "nothing"}, "nothing"),
        ({"api_name": "/job", "job": "nothing"}, "no training 'nothing'"),
        ({"api_name": "/predict", "file": "/etc/passwd"}, "not.*uploaded|Upload"),
        ({"api_name": "/explain", "file": {"path": "/etc/passwd"}}, "Upload"),
    ],
)
def test_what_goes_wrong_is_a_sentence(client, served, call, sentence):
    client.predict("Undo", ["a", "b"], api_name="/make_task")
    with pytest.raises(AppError, match=sentence) as told:
        client.predict(**call)
    assert "Traceback" not in str(told.value) and "\n" not in str(told.value)


def test_a_map_for_programs_is_the_librarys(client):
    found = client.predict(handle_file(CT), target="rest", prompts="modality-zero-shot", api_name="/explain")
    backbone = engine.load_backbone("scope-mini")
    image, prompts = engine.read_image(CT), engine.prompt_set("modality-zero-shot", backbone)
    label = engine.predict(image, backbone, prompts).ranked()[0][0]
    heatmap = engine.explain(engine.prepare(image, backbone.preprocess), backbone, prompts, [label], target="rest")[0]
    expected = engine.overlay(image, engine.place(heatmap, image.shape))
    drawn = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(found["image"].partition(",")[2]))))
    assert found["label"] == label and found["target"] == "rest" and not found["is_flat"]
    assert drawn.shape == expected.shape and np.abs(drawn.astype(int) - expected).max() <= 2  # rounding of the box
    assert found["method"] == heatmap.method and found["chance"] is None
    told = client.predict(handle_file(CT), prompts="modality-zero-shot", method="attention", check=True, api_name="/explain")
    scores = told["chance"]
    assert told["method"] == "attention" and len(scores["random"]) == 20
    assert scores["score"] == pytest.approx(scores["insertion_auc"] - scores["deletion_auc"])
    beaten = sum(each < scores["score"] for each in scores["random"])
    assert f"{beaten} of 20 random orders" in scores["verdict"]
    with pytest.raises(AppError, match="no explanation called 'x'"):
        client.predict(handle_file(CT), method="x", api_name="/explain")
    with pytest.raises(AppError, match="'x' is no class of"):
        client.predict(handle_file(CT), label="x", api_name="/explain")
    with pytest.raises(AppError, match="no map target called 'all'"):
        client.predict(handle_file(CT), target="all", api_name="/explain")


def test_where_a_phrase_is_for_programs_is_the_librarys(client):
    told = client.predict(handle_file(CT), phrase="dark irregular mass", most=2, api_name="/locate")
    image, locator = engine.read_image(CT), engine.load_locator("windows", engine.load_backbone("scope-mini"))
    (found,) = engine.locate(image, "dark irregular mass", locator, most=2)
    np.testing.assert_allclose(told["boxes"], found.boxes.tolist())
    np.testing.assert_allclose(told["scores"], found.scores.tolist(), atol=1e-6)
    assert (
        0 < len(told["boxes"]) <= 2
        and told["negatives"] == list(found.negatives)
        and told["phrase"] == "dark irregular mass"
    )
    drawn = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(told["image"].partition(",")[2]))))
    assert drawn.shape[:2] == image.shape and (drawn != engine.picture(image)[..., :3]).any()
    with pytest.raises(AppError, match="A phrase is empty"):
        client.predict(handle_file(CT), phrase=" ", api_name="/locate")
    with pytest.raises(AppError, match="-3 boxes cannot be shown"):
        client.predict(handle_file(CT), phrase="bone", most=-3, api_name="/locate")
    with pytest.raises(AppError, match="There is no 'grounding-dino' here"):
        client.predict(handle_file(CT), phrase="bone", locator="grounding-dino", api_name="/locate")


def test_curl_does_it_in_two_steps(served):
    """As docs/api.md says: arguments by name."""
    (place,) = httpx.post(f"{served.address}gradio_api/upload", files={"files": ("ct.dcm", CT.read_bytes())}).json()
    asked = {"file": {"path": place, "meta": {"_type": "gradio.FileData"}}, "prompts": "modality"}
    event = httpx.post(f"{served.address}gradio_api/call/v2/predict", json=asked).json()["event_id"]
    answer = httpx.get(f"{served.address}gradio_api/call/predict/{event}", timeout=60).text
    assert answer.startswith("event: complete")
    (row,) = json.loads(answer.partition("data: ")[2])[0]["results"]
    assert row["status"] == "ok" and row["files"] == ["ct.dcm"]


# --- the library --------------------------------------------------------------------------------------------------------


def test_the_documented_lines_do_the_same_without_a_server(images, monkeypatch):
    said, names = run_block(blocks_of("With the library alone"), images, monkeypatch)
    workspace, result = names["workspace"], names["workspace"].result(names["job"].id)
    assert (
        result["headline"] in said and [case.label for case in workspace.cases(names["task"].id)] == ["bright", "dark"] * 5
    )
    assert names["prompts"].card["method"]["name"] == "linear-probe" and names["mine"] == "mine-scope-mini"
    assert said.rstrip().splitlines()[-1].startswith("[('bright'")
    workspace.close()


# --- MCP ----------------------------------------------------------------------------------------------------------------


def speak(address: str, tell, headers: dict[str, str] | None = None, over_sse: bool = False) -> Any:
    """Runs `await tell(session)` as an MCP client of the page."""

    async def talk() -> Any:
        if over_sse:
            connection = sse_client(f"{address}gradio_api/mcp/sse", headers=headers)
        else:
            http = httpx.AsyncClient(headers=headers, timeout=60, follow_redirects=True)
            connection = streamable_http_client(f"{address}gradio_api/mcp/", http_client=http)
        async with connection as streams, ClientSession(*streams[:2]) as session:
            await session.initialize()
            return await tell(session)

    return asyncio.run(talk())


def answer_of(result: Any) -> Any:
    assert not result.isError, result.content
    text = result.content[0].text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def in_base64(place: Path) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(place.read_bytes()).decode()


@pytest.mark.parametrize("over_sse", [False, True], ids=["http", "sse"])
def test_mcp_lists_every_endpoint_with_its_words(served, over_sse):
    tools = speak(served.address, lambda session: session.list_tools(), over_sse=over_sse).tools
    offered = write_api.endpoints()
    assert {tool.name for tool in tools} == set(offered)
    for tool in tools:
        words = programs.described(offered[tool.name])
        assert tool.description.startswith(words.what)
        given = {name: about["description"] for name, about in tool.inputSchema["properties"].items()}
        assert given == words.arguments, tool.name
    predict = next(tool for tool in tools if tool.name == "predict")
    assert predict.inputSchema["required"] == ["file"] and predict.inputSchema["properties"]["file"]["type"] == "string"


def test_an_mcp_client_makes_a_task_brings_files_labels_and_asks(served, images):
    async def tell(session):
        async def call(name, **arguments):
            return answer_of(await session.call_tool(name, arguments))

        about = await call("about")
        task = (await call("make_task", title="Through MCP", classes=["a", "b"]))["id"]
        files = [in_base64(p) for p in sorted((images / "images").glob("0[0-3].dcm"))]
        added = await call("add_images", task=task, files=files)
        await call("label", task=task, cases=added["cases"][:2], label="a")
        row = (await call("predict", file=in_base64(CT), prompts="modality"))["results"][0]
        return about, added, await call("cases", task=task), row

    about, added, cases, row = speak(served.address, tell)
    assert about["device"] == "cpu (float32)"
    assert len(added["cases"]) == 4 and added["refused"] == []
    assert [case["label"] for case in cases] == ["a", "a", "", ""]
    backbone = engine.load_backbone("scope-mini")
    expected = engine.predict(engine.read_image(CT), backbone, engine.prompt_set("modality", backbone))
    assert list(row["probabilities"].values()) == pytest.approx(list(map(float, expected.probabilities)), abs=1e-6)


def test_an_mcp_client_may_name_what_was_uploaded_to_the_page_and_no_other_address(served):
    (place,) = httpx.post(f"{served.address}gradio_api/upload", files={"files": ("ct.dcm", CT.read_bytes())}).json()

    async def tell(session):
        own = await session.call_tool("predict", {"file": f"{served.address}gradio_api/file={place}", "prompts": "modality"})
        others = [
            await session.call_tool("predict", {"file": file})
            for file in ("https://example.org/a.dcm", "/etc/passwd", "data:;base64,???", "data:text/plain,hello",
                         f"{served.address}gradio_api/file=/etc/passwd")
        ]  # fmt: skip
        return own, others

    own, others = speak(served.address, tell)
    assert answer_of(own)["results"][0]["status"] == "ok"
    said = [other.content[0].text for other in others]
    assert all(other.isError for other in others), said
    assert "fetches nothing" in said[0] and "fetches nothing" in said[4] and "base64" in said[2] and "base64" in said[3]


def test_files_that_came_through_mcp_are_deleted_like_any_other(served, tmp_path):
    marked = make_dicom(tmp_path / "a.dcm", np.full((32, 32), 7, np.uint8), PatientName="MARKED^BY^TEST")
    speak(served.address, lambda session: session.call_tool("predict", {"file": in_base64(marked), "prompts": "modality"}))
    folder = Path(programs.utils.get_upload_folder())
    left = [path for path in folder.rglob("*") if path.is_file() and b"MARKED^BY^TEST" in path.read_bytes()]
    assert left == []


def test_an_error_reaches_an_mcp_client_as_a_sentence(served):
    wrong = speak(served.address, lambda session: session.call_tool("cases", {"task": "nothing"}))
    assert wrong.isError and "nothing" in wrong.content[0].text and "Traceback" not in wrong.content[0].text


@pytest.fixture(scope="module")
def in_public(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        made = serve(tmp_path_factory.mktemp("public"), is_public=True)
        yield made
        made.app.get_blocks().close(verbose=False)


def test_on_a_public_page_mcp_clients_have_visits_of_their_own(in_public):
    mine, theirs = ({HEADERS: letter * 24} for letter in "mt")

    def titles(headers):
        answer = speak(in_public.address, lambda session: session.call_tool("tasks", {}), headers)
        return [task["title"] for task in answer_of(answer)]

    made = speak(in_public.address, lambda s: s.call_tool("make_task", {"title": "Mine", "classes": ["a", "b"]}), mine)
    assert answer_of(made)["title"] == "Mine"
    assert titles(mine) == ["Mine"] and titles(theirs) == []
    nobody = speak(in_public.address, lambda session: session.call_tool("tasks", {}))
    assert nobody.isError and HEADERS in nobody.content[0].text
    looked = speak(in_public.address, lambda s: s.call_tool("predict", {"file": in_base64(CT), "prompts": "modality"}))
    assert answer_of(looked)["results"][0]["status"] == "ok"  # to classify needs no visit
    assert Client(in_public.address, verbose=False).predict(api_name="/tasks") == []
