"""What the server counts, for Prometheus: how often, how long, how many; never who, and nothing of a file.

Labels have few values, all of them ours: an endpoint, an outcome, a kind of work. What is a state rather than a count (visits,
trainings, the queue) is asked when somebody reads the metrics (app.health).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
REGISTRY = CollectorRegistry()  # of this process: whatever computes in it counts here
ProcessCollector(registry=REGISTRY)  # memory, processor time, open files

States = Mapping[str, tuple[str, Mapping[str, float]]]  # name -> (what it is, state or "" -> value)

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
REQUESTS = Counter(
    "promptscope_requests",
    "Requests that left the queue, by endpoint (page: an event of the page) and outcome: success, failed (answered with an error), "
    "cancelled. A file that cannot be read is a row of a successful answer.",
    ["endpoint", "outcome"],
    registry=REGISTRY,
)
REFUSED = Counter(
    "promptscope_requests_refused", "Requests that were sent away because the queue was full.", registry=REGISTRY
)
ANSWERING = Histogram(
    "promptscope_request_seconds",
    "From the head of the queue to the answer: reading, waiting for a turn, computing.",
    ["endpoint"],
    buckets=SECONDS,
    registry=REGISTRY,
)
WAITING = Histogram(
    "promptscope_waiting_seconds",
    "Waiting in the queue of requests (queue), and for the turn to compute (turn).",
    ["where"],
    buckets=SECONDS,
    registry=REGISTRY,
)
COMPUTING = Histogram(
    "promptscope_computing_seconds", "Holding the turn, by kind of work.", ["work"], buckets=SECONDS, registry=REGISTRY
)
BATCH = Histogram(
    "promptscope_batch_images", "Images of one forward of an image tower.", buckets=(1, 2, 4, 8, 16), registry=REGISTRY
)
REMEMBERED = Counter(
    "promptscope_embeddings",
    "Embeddings that a visitor's request needed: hit (known from before) or miss.",
    ["result"],
    registry=REGISTRY,
)


@contextmanager
def timed(histogram: Histogram, **labels: str) -> Iterator[None]:
    begun = time.perf_counter()
    try:
        yield
    finally:
        histogram.labels(**labels).observe(time.perf_counter() - begun)


class _States(Collector):
    def __init__(self, states: States):
        self.states = states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, (words, values) in self.states.items():
            gauge = GaugeMetricFamily(f"promptscope_{name}", words, labels=["state"] if "" not in values else [])
            for label, value in values.items():
                gauge.add_metric([label] if label else [], value)
            yield gauge


def written(states: States) -> bytes:
    """Everything as text, with what is true now beside what was counted."""
    now = CollectorRegistry()
    now.register(_States(states))
    return generate_latest(REGISTRY) + generate_latest(now)
