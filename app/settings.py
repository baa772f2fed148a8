"""What an operator may change, from PROMPTSCOPE_* variables. Read once; a wrong value stops the start with a sentence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import EngineError


class SettingsError(EngineError):
    pass


@dataclass(frozen=True)
class Settings:
    """host, port : where the page listens; auth : (user, password) or None; upload_mb : largest file;
    device : "auto", "cpu" or "cuda"; precision : of the backbones; backbone : chosen at first; audit : a file to which
    every answer adds a line, or None."""

    host: str = "127.0.0.1"
    port: int = 7860
    auth: tuple[str, str] | None = None
    upload_mb: int = 200
    device: str = "auto"
    precision: str = "float32"
    backbone: str = "scope-mini"
    audit: Path | None = None


def _number(variables: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = variables.get(name, str(default)).strip()
    if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
        raise SettingsError(f"{name} is {text!r}.", f"It should be a whole number from {low} to {high}.")
    return int(text)


def read_settings(variables: Mapping[str, str] = os.environ) -> Settings:
    """Raises SettingsError."""
    port = "PROMPTSCOPE_PORT" if "PROMPTSCOPE_PORT" in variables else "GRADIO_SERVER_PORT"  # a Space sets the second
    on_space = bool(variables.get("SPACE_ID"))
    auth = variables.get("PROMPTSCOPE_AUTH", "")
    user, colon, password = auth.partition(":")
    if auth and not (user and colon and password):
        raise SettingsError("PROMPTSCOPE_AUTH is not understood.", "Write it as user:password.")
    device = variables.get("PROMPTSCOPE_DEVICE", "auto")
    if device not in ("auto", "cpu", "cuda"):
        raise SettingsError(f"PROMPTSCOPE_DEVICE is {device!r}.", "It should be auto, cpu or cuda.")
    return Settings(
        host=variables.get("PROMPTSCOPE_HOST", "0.0.0.0" if on_space else "127.0.0.1"),
        port=_number(variables, port, 7860, 1, 65535),
        auth=(user, password) if auth else None,
        upload_mb=_number(variables, "PROMPTSCOPE_UPLOAD_MB", 200, 1, 10_000),
        device=device,
        precision=variables.get("PROMPTSCOPE_PRECISION", "float32"),
        backbone=variables.get("PROMPTSCOPE_BACKBONE", "scope-mini"),
        audit=Path(variables["PROMPTSCOPE_AUDIT"]) if variables.get("PROMPTSCOPE_AUDIT") else None,
    )
