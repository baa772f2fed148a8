"""Files that a visitor saves: they travel in the page and become files on his disk, never on this machine's.

Gradio's own way writes them to its cache, where whoever knows the address can fetch them; these may name patients' files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from app.host import HIDDEN

SAVE = """(parcel) => {
  if (!parcel) return "";
  const { name, type, data } = JSON.parse(parcel);
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  return "";
}"""


def pack(name: str, content: str | bytes, kind: str) -> str:
    """What `saved_by` sends. kind : a media type, as in text/csv."""
    raw = content.encode() if isinstance(content, str) else content
    return json.dumps({"name": name, "type": kind, "data": base64.b64encode(raw).decode()})


def saved_by(button: gr.Button, handler: Callable[..., Any], inputs: list[Any], more: list[Any] | None = None) -> None:
    """A click asks the handler for a parcel and saves it; "" saves nothing. more : components that the handler updates as well,
    after the parcel. Inside of gr.Blocks."""
    with gr.Row(elem_classes="ps-unseen"):
        parcel = gr.Textbox("", label="file")
    asked = button.click(handler, inputs, [parcel, *(more or [])], show_progress="hidden", **HIDDEN)
    asked.then(None, parcel, parcel, js=SAVE, **HIDDEN)
