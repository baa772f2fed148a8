"""Chunks of an archive on many machines, by Ray Data (requirements-scale.txt); the only home of ray.

The same hand as on one machine (engine.table): the driver sends numbers of chunks and nothing of the files; each machine
reads the plan and the archive and writes the parts, so both lie where all machines find them under the same path. The code
goes along; the packages of requirements.txt and requirements-scale.txt are there already. An actor that is ended is started
again by Ray, and what it had begun is done again; parts that are there are passed over.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import DataError

if TYPE_CHECKING:
    from engine.table import Table

ROOT = Path(__file__).resolve().parent.parent
LEFT = [".git", ".venv", "runs", "tests", "docs", "test-artefacts"]  # what the machines do not need of the repository
CONNECTING_S = 10


class Actor:
    """A hand in one of the cluster's processes. One core's worth of work, unless the cluster gives more."""

    def __init__(self, table: Table):
        from engine.table import Hand

        self.hand = Hand(table, 1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for number in batch["chunk"]:
            self.hand.do(int(number))
        return batch


def work(table: Table, numbers: list[int], address: str, workers: int) -> Iterator[int]:
    """Does the chunks; gives their numbers as they are done. address : of a cluster, or "local" to start one here; workers : 0
    for as many as the cluster has cores (or, where the device is cuda, GPUs). Raises DataError where there is no such cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no telemetry
    try:
        import ray
        import ray.data
    except ImportError:
        raise DataError("Ray is not installed here.", "pip install -r requirements-scale.txt") from None
    try:
        _answers(address)
        ray.init(
            address,
            runtime_env={"working_dir": str(ROOT), "excludes": LEFT},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"There is no Ray cluster at {address!r}.", "`ray start --head` prints its address.") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        gpu = 1 if table.device == "cuda" else 0
        many = workers or int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1))
        data = ray.data.from_items([{"chunk": number} for number in numbers], override_num_blocks=len(numbers))
        found = data.map_batches(
            Actor, fn_constructor_args=(table,), batch_size=1, concurrency=min(many, len(numbers)), num_cpus=1, num_gpus=gpu
        )
        for row in found.iter_rows():
            yield int(row["chunk"])
    finally:
        ray.shutdown()


def _answers(address: str) -> None:
    """Raises OSError or ValueError where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    if address not in ("local", "auto"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECTING_S).close()
