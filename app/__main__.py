"""python -m app: the page, with settings from PROMPTSCOPE_* variables."""

from __future__ import annotations

import signal
import sys

from app import page
from app.settings import read_settings
from engine import EngineError


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads are deleted when a container is stopped
    try:
        settings = read_settings()
        print(f"PromptScope: starting at http://{settings.host}:{settings.port} (research use only)", flush=True)
        page.launch(settings)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the page cannot listen there ({error}). Set PROMPTSCOPE_PORT to a free port.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
