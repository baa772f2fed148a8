"""The process that trains: `python -m engine.workspace.worker`, started by engine.workspace.queue.

A line of JSON on stdin is a Work to carry out; or {"load": ...}, a backbone to have ready; or {"read": ...}, images to read until
something else is asked for. A line on stdout says that a Work is over. Backbones stay loaded. When stdin ends, so does the
process, at once: a server that was killed leaves nothing behind, and the job's checkpoint holds its last epoch.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

import torch

from engine.errors import EngineError
from engine.workspace.queue import Work, carry_out, loaded, read_ahead

# Whoever looks at the page comes first. The tests set 0: beside others on two cores a polite process hardly starts.
NICE = int(os.environ.get("PROMPTSCOPE_TRAINING_NICE", "10"))


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which ends this process
    os.nice(NICE)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    while True:
        each = asked.get()
        if "load" in each:
            with suppress(EngineError):  # the training that needs it will say so
                loaded(*each["load"].values())
        elif "read" in each:
            read_ahead(**each["read"], stop=lambda: not asked.empty())
        else:
            over = carry_out(Work(**each))
            answers.write(json.dumps({"over": over}).encode() + b"\n")


def _listen(asked: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        asked.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
