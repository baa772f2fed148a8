"""Writes the list of endpoints in docs/api.md from the page itself. Run: python -m scripts.write_api

The texts are the docstrings of the methods that the tabs offer; tests/test_programs.py fails where the file says something else.
"""

from __future__ import annotations

import inspect
import tempfile
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from app import programs
from app.page import Page
from app.settings import Settings

FILE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
MARK = "<!-- Written by `python -m scripts.write_api` from here on. -->"

# What an example says for an argument that must be given, by its name, or by the endpoint's and its name.
EXAMPLES = {
    "backbone": '"scope-mini"',
    "cases": "[1, 2, 3]",
    "classes": '["benign", "malignant"]',
    "days": "90",
    "edit_bank.sentences": '["a smooth oval mass with a thin wall"]',
    "entries": '["words:zero-shot", "set:mine-scope-mini"]',
    "file": 'handle_file("study.dcm")',
    "files": '[handle_file("images.zip")]',
    "job": '"a1b2c3d4e5f60718"',
    "kind": '"colour"',
    "label": '"benign"',
    "name": '"mine-scope-mini"',
    "patient": '"P3"',
    "phrase": '"dark irregular mass"',
    "prompts": '["btmri", "btmri-zero-shot"]',
    "questions": '["modality"]',
    "sentences": '{"benign": ["a smooth oval mass"], "malignant": ["a mass with spikes"]}',
    "task": '"breast_lesions"',
    "words": '["dark", "grey"]',
    "title": '"Breast lesions"',
}


def endpoints() -> dict[str, Callable[..., Any]]:
    """The methods behind the page's public endpoints, by name, in the order of the tabs."""
    with tempfile.TemporaryDirectory() as folder:
        page = Page(Settings(device="cpu", workspace=Path(folder)))
        demo = page.build()
        page.host.close()
    return {fn.api_name: fn.fn for fn in demo.fns.values() if fn.api_visibility == "public" and fn.api_name}


def kind(hint: Any) -> str:
    """A type as people write it."""
    if hint is gr.FileData:
        return "file"
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if len(parts) < len(typing.get_args(hint)):
        return f"{' or '.join(kind(part) for part in parts)} or None"
    if Any in parts:
        return kind(typing.get_origin(hint))
    if typing.get_origin(hint) in (list, dict):
        return f"{typing.get_origin(hint).__name__}[{', '.join(kind(part) for part in parts)}]"
    return str(getattr(hint, "__name__", hint))


def written(name: str, method: Callable[..., Any]) -> str:
    """One endpoint's part of the file."""
    words, hints = programs.described(method), typing.get_type_hints(method)
    parameters = inspect.signature(method).parameters
    lines = [f"### `/{name}`", "", words.what, ""]
    given: list[str] = []
    if words.arguments:
        lines += ["| argument | type | if left out | what |", "|---|---|---|---|"]
    for argument, meaning in words.arguments.items():
        default = parameters[argument].default
        is_needed = default is inspect.Parameter.empty
        if is_needed:
            example = EXAMPLES.get(f"{name}.{argument}") or EXAMPLES[argument]
            given.append(f"{argument}={example}, ")
        left_out = "must be given" if is_needed else f"`{default!r}`"
        lines.append(f"| `{argument}` | {kind(hints[argument])} | {left_out} | {meaning.rstrip('.')} |")
    lines += [""] if words.arguments else []
    lines += [f"Answer ({kind(hints['return'])}): {(words.returns or 'as above').rstrip('.')}.", ""]
    lines += ["```python", f'client.predict({"".join(given)}api_name="/{name}")', "```", ""]
    return "\n".join(lines)


def document() -> str:
    """The whole file: what a person wrote, then the list."""
    before = FILE.read_text(encoding="utf-8").partition(MARK)[0]
    return f"{before}{MARK}\n\n" + "\n".join(written(name, method) for name, method in endpoints().items())


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
    print(f"{FILE}: {len(endpoints())} endpoints")
