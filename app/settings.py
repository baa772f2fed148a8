"""What an operator may change, from PROMPTSCOPE_* variables. Read once; a wrong value stops the start with a sentence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine import EngineError, workspace_folder


class SettingsError(EngineError):
    pass


@dataclass(frozen=True)
class Settings:
    """host, port : where the page listens; auth : (user, password) or None; upload_mb : largest file;
    device : "auto", "cpu" or "cuda"; precision : of the backbones, "auto" for the faster one here; backbone : chosen at first; audit : a file to which
    every classification adds a line, or None; is_public : each visitor has a workspace of his own, deleted when he leaves, after
    idle_minutes at the latest, so many visitors have room at once (max_visits), each for so much (visit_mb); workspace : the
    folder of everybody's otherwise; database_url : of its tables, "" for SQLite in the folder; mcp : programs may use the page through the Model Context Protocol; max_waiting : requests beyond those that are
    under way, before others are sent away for a moment; masked_lm : folder or hub id of the language model that fills slots, "" for the default
    (a public page then offers none)."""

    host: str = "127.0.0.1"
    port: int = 7860
    auth: tuple[str, str] | None = None
    upload_mb: int = 200
    device: str = "auto"
    precision: str = "auto"
    backbone: str = "scope-mini"
    audit: Path | None = None
    is_public: bool = False
    workspace: Path = field(default_factory=workspace_folder)
    database_url: str = ""
    idle_minutes: int = 30
    max_visits: int = 100
    visit_mb: int = 500
    mcp: bool = False
    max_waiting: int = 64
    masked_lm: str = ""


def _number(variables: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = variables.get(name, str(default)).strip()
    if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
        raise SettingsError(f"{name} is {text!r}.", f"It should be a whole number from {low} to {high}.")
    return int(text)


def _switch(variables: Mapping[str, str], name: str, default: bool) -> bool:
    text = variables.get(name, str(int(default))).strip()
    if text not in ("0", "1"):
        raise SettingsError(f"{name} is {text!r}.", "Write 1 for yes or 0 for no.")
    return text == "1"


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
    is_public, url = _switch(variables, "PROMPTSCOPE_PUBLIC", on_space), variables.get("PROMPTSCOPE_DATABASE_URL", "")
    if is_public and url:
        raise SettingsError(
            "PROMPTSCOPE_DATABASE_URL is set for a public page, where nothing is kept.",
            "Set PROMPTSCOPE_PUBLIC=0, or no URL.",
        )
    return Settings(
        host=variables.get("PROMPTSCOPE_HOST", "0.0.0.0" if on_space else "127.0.0.1"),
        port=_number(variables, port, 7860, 1, 65535),
        auth=(user, password) if auth else None,
        upload_mb=_number(variables, "PROMPTSCOPE_UPLOAD_MB", 200, 1, 10_000),
        device=device,
        precision=variables.get("PROMPTSCOPE_PRECISION", "auto"),
        backbone=variables.get("PROMPTSCOPE_BACKBONE", "scope-mini"),
        audit=Path(variables["PROMPTSCOPE_AUDIT"]) if variables.get("PROMPTSCOPE_AUDIT") else None,
        is_public=is_public,
        workspace=workspace_folder(variables),
        database_url=url,
        idle_minutes=_number(variables, "PROMPTSCOPE_IDLE_MINUTES", 30, 1, 1440),
        max_visits=_number(variables, "PROMPTSCOPE_MAX_VISITS", 100, 1, 10_000),
        visit_mb=_number(variables, "PROMPTSCOPE_VISIT_MB", 500, 1, 1_000_000),
        mcp=_switch(variables, "PROMPTSCOPE_MCP", False),
        max_waiting=_number(variables, "PROMPTSCOPE_MAX_WAITING", 64, 1, 10_000),
        masked_lm=variables.get("PROMPTSCOPE_MASKED_LM", ""),
    )
