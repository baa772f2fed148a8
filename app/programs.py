"""How programs use the page: named, typed and described endpoints for gradio_client, curl and MCP clients.

A tab offers a method; its docstring is the documentation everywhere: what it does, then `name: words` for each argument and
`Returns: words`. A file that a program names must be one that it uploaded: a path of the server is refused, and so is an address.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, get_args, get_type_hints

import gradio as gr
from gradio import processing_utils, utils
from gradio.context import Context
from gradio_client import Client

import engine
from app import cases, guard, text


@dataclass(frozen=True)
class Described:
    """Of an endpoint, in words. arguments : by name, in order."""

    what: str
    arguments: dict[str, str]
    returns: str


def described(method: Callable[..., Any]) -> Described:
    """From a docstring. Raises ValueError where an argument is not described: nobody could use it."""
    names = [name for name, *_ in utils.get_function_params(method)]
    what, arguments, returns = "", dict.fromkeys(names, ""), ""
    now = ""
    for line in (inspect.getdoc(method) or "").splitlines():
        head, colon, words = (part.strip() for part in line.partition(":"))
        if head in ("Args", "Arguments", "Parameters") and not words:
            continue
        if colon and (head in arguments or head == "Returns"):
            now, line = head, words
        elif head.startswith("Returns ") and now:
            now, line = "Returns", line.strip().removeprefix("Returns ")
        if now == "Returns":
            returns = f"{returns} {line.strip()}".strip()
        elif now:
            arguments[now] = f"{arguments[now]} {line.strip()}".strip()
        else:
            what = f"{what} {line.strip()}".strip()
    missing = [name for name, words in arguments.items() if not words]
    if not what or missing:
        raise ValueError(f"{method.__qualname__} says nothing of {missing or 'what it does'}.")
    return Described(what, arguments, returns)


def offer(method: Callable[..., Any], name: str) -> None:
    """Makes a method of a tab an endpoint. An EngineError becomes its sentence, and is not written to the log, since it may
    name somebody's file. Inside of gr.Blocks."""
    words, files = described(method), _files(method)
    signature = inspect.signature(method)

    @wraps(method)
    def answered(*values: Any, **named: Any) -> Any:
        given = signature.bind(*values, **named).arguments
        try:
            for each in files:
                value = given.get(each)
                sent = value if isinstance(value, list) else [value]
                cases.uploaded([file if isinstance(file, dict) else {"path": file} for file in sent if file is not None])
            return method(*values, **named)
        except engine.EngineError as error:
            raise gr.Error(str(error), print_exception=False) from error

    listed = "".join(f"    {argument}: {meaning}\n" for argument, meaning in words.arguments.items())
    answered.__doc__ = f"{words.what}\n\nArgs:\n{listed}Returns:\n    {words.returns}"  # as Gradio reads it
    answered.__name__ = name  # of the MCP tool, too
    gr.api(answered, api_name=name, api_description=f"{words.what} {text.FILES_GIVEN}" if files else words.what)
    made = max(Context.root_block.fns.values(), key=lambda fn: fn._id)
    if made.api_name != name:
        raise ValueError(f"The name {name!r} is taken, by an event of the page or another endpoint.")
    for component, meaning in zip(made.inputs, words.arguments.values(), strict=True):
        component.label = meaning
    for component in made.outputs:
        component.label = words.returns or words.what


def _files(method: Callable[..., Any]) -> list[str]:
    """The arguments that are uploaded files."""

    def holds(hint: Any) -> bool:
        return hint is gr.FileData or any(holds(part) for part in get_args(hint))

    return [name for name, hint in get_type_hints(method).items() if name != "return" and holds(hint)]


def connect(demo: gr.Blocks, address: str, entry: dict[str, str]) -> Client:
    """Makes Gradio's MCP server take files as base64 or as addresses of uploads, and answer in JSON. entry : the cookie by
    which it passes the password of its own page. Returns the client by which it calls the page; close it at the end. Raises
    EngineError where this Gradio's is another."""
    server: Any = demo.mcp_server_obj
    guard.check_gradio(server, "_client_instance", "convert_strings_to_filedata", "postprocess_output_data")
    client = Client(
        address, headers={"x-gradio-user": "mcp"}, httpx_kwargs={"cookies": entry}, download_files=False, verbose=False,
        analytics_enabled=False, _skip_components=False,
    )  # fmt: skip
    given, answer = server.convert_strings_to_filedata, server.postprocess_output_data

    def files(value: dict[str, Any], positions: list[list[str | int]]) -> Any:
        """positions : of files in the schema, which says "items" and "oneOf" where a value has numbers or nothing."""
        named = {str(position[0]) for position in positions}
        places = [place for name in named & value.keys() for place in _strings(value[name], [name])]
        return given(_replaced(value, lambda part: _uploaded(demo, address, part), named), places)

    def in_json(data: Any, root: str) -> Any:
        def written(part: Any) -> Any:
            is_file = isinstance(part, dict) and "path" in part and "meta" in part
            return json.dumps(part) if isinstance(part, dict | list) and not is_file else part

        return answer([written(part) for part in data], root)

    server._client_instance, server.convert_strings_to_filedata, server.postprocess_output_data = client, files, in_json
    return client


def _strings(value: Any, place: list[str | int]) -> list[list[str | int]]:
    """Where the strings are in a value."""
    if isinstance(value, list):
        return [found for i, part in enumerate(value) for found in _strings(part, [*place, i])]
    return [place] if isinstance(value, str) else []


def _replaced(value: dict[str, Any], change: Callable[[str], str], names: set[str]) -> dict[str, Any]:
    def walked(part: Any) -> Any:
        if isinstance(part, list):
            return [walked(each) for each in part]
        return change(part) if isinstance(part, str) else part

    return {name: walked(part) if name in names else part for name, part in value.items()}


def _uploaded(demo: gr.Blocks, address: str, value: str) -> str:
    """A file in base64 (data:...;base64,...) becomes an upload like any other, deleted like any other."""
    if not value.startswith("data:"):
        return value
    head, _, coded = value.partition(",")
    if not head.endswith(";base64") or not re.fullmatch(r"[A-Za-z0-9+/\s]*={0,2}\s*", coded):
        raise gr.Error(text.NOT_BASE64, print_exception=False)
    place = processing_utils.save_base64_to_cache(value, utils.get_upload_folder())
    demo.upload_file_set.add(place)
    return f"{address}gradio_api/file={place}"
