"""What the server says of itself: /health for whoever keeps it running, /metrics for Prometheus.

Health answers 200 where a request would be computed, else 503 with the reasons. It computes nothing itself, so that it answers
at once however many wait. Neither says anything of a visitor. The password: app.guard.
"""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

import engine
from app import compute, guard, metrics, models, seen, text
from app.host import Host

STUCK_S = 300  # that one turn may take: the longest of the page's own, many cases compared, take some seconds
AGAIN_S = 10  # that whoever was sent away should wait


class Health:
    """Of one page. Watches its queue of requests from now on (`watch`)."""

    def __init__(self, host: Host, demo: gr.Blocks):
        self.host, self.demo, self.began = host, demo, time.monotonic()

    def reasons(self) -> list[str]:
        """Why nothing would be computed, sentences."""
        settings, found = self.host.settings, []
        if models.ready(settings.backbone, self.host.device, settings.precision) is None:
            found.append(text.UNHEALTHY_BACKBONE.format(name=settings.backbone))
        if (took := compute.turns.under_way_s()) > STUCK_S:
            found.append(text.UNHEALTHY_STUCK.format(seconds=round(took)))
        if self.demo._queue.stopped:
            found.append(text.UNHEALTHY_QUEUE)
        if not self.host.queue.is_served():
            found.append(text.UNHEALTHY_TRAININGS)
        if not self.host.visits.is_swept():
            found.append(text.UNHEALTHY_VISITS)
        return found

    def health(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and what is said. device : of the loaded backbone, where its towers are; None where none is loaded."""
        settings, reasons = self.host.settings, self.reasons()
        loaded = models.ready(settings.backbone, self.host.device, settings.precision)
        return 503 if reasons else 200, {
            "status": "unavailable" if reasons else "ok",
            "reasons": reasons,
            "version": engine.__version__,
            "backbone": settings.backbone,
            "device": loaded.device if loaded else None,
            "precision": loaded.dtype if loaded else None,
            "uptime_s": round(time.monotonic() - self.began, 1),
        }

    def refusal(self) -> tuple[str, int]:
        """What is said to a request for which the queue has no room, and after how many seconds it may come again."""
        metrics.REFUSED.inc()
        words = text.STOPPING if self.demo._queue.stopped else text.QUEUE_FULL
        return words.format(waiting=len(self.demo._queue), seconds=AGAIN_S), AGAIN_S

    def written(self) -> bytes:
        """The metrics, as text."""
        return metrics.written(self._states())

    def _states(self) -> metrics.States:
        queued, running = self.host.queue.count()
        tabs, visits = self.host.visits.count()
        return {
            "queue_length": ("Requests that wait in the queue.", {"": len(self.demo._queue)}),
            "turns_waiting": (
                "Requests that are under way and wait for their turn to compute.",
                {"": compute.turns.waiting()},
            ),
            "turn_seconds": ("How long the computation that is under way has been.", {"": compute.turns.under_way_s()}),
            "visits_open": (
                "Tabs in browsers, and visits with a workspace of their own.",
                {"tab": tabs, "workspace": visits},
            ),
            "trainings": ("Trainings that wait, and that run here.", {"queued": queued, "running": running}),
            "embeddings_bytes": ("Embeddings that are remembered for open visits.", {"": seen.total_bytes()}),
            "up": ("1 where /health is 200.", {"": float(not self.reasons())}),
        }

    def watch(self) -> None:
        """Counts every request that leaves the page's queue, and how it ended. Raises EngineError where this Gradio's is another."""
        queue: Any = self.demo._queue
        guard.check_gradio(queue, "process_events", "event_analytics", "compute_analytics_summary")
        process = queue.process_events
        # it would keep 10,000 requests with their sessions' names, and summarise them with pandas after each one
        queue.compute_analytics_summary = lambda records: {"functions": {}}

        async def counted(events: list[Any], batch: bool, begun: float, fn: Any) -> None:
            endpoint = fn.api_name if fn.api_visibility == "public" else "page"
            for event in events:
                metrics.WAITING.labels("queue").observe(time.monotonic() - event.enqueue_time)
            try:
                with metrics.timed(metrics.ANSWERING, endpoint=endpoint):
                    await process(events, batch, begun, fn)
            finally:
                for event in events:
                    ended = queue.event_analytics.pop(event._id, {}).get("status", "cancelled")
                    metrics.REQUESTS.labels(endpoint, ended).inc()

        queue.process_events = counted
