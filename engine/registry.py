"""name -> "module:attribute" or "module", imported on first use. The order of the lines is the order of the menu."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from engine.errors import EngineError


class Registry(Mapping[str, Any]):
    """A read-only mapping whose values are imported when they are asked for."""

    def __init__(self, kind: str, error: type[EngineError], entries: dict[str, str]):
        self.kind, self.error, self.entries = kind, error, entries

    def __getitem__(self, name: str) -> Any:
        if name not in self.entries:
            raise self.error(f"There is no {self.kind} called {name!r}.", f"Choose one of: {', '.join(self.entries)}.")
        module, _, attribute = self.entries[name].partition(":")
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
