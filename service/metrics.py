"""Every metric, defined once. Base units; no user, item or request labels."""

from __future__ import annotations

import math
import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

# Where several workers keep their metrics; read by prometheus_client when it is imported.
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25,
    0.5, 1.0,
)  # fmt: skip
STAGES = ("parse", "features", "queue", "inference", "respond")
COUNTS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100)
SIZES = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """The metrics of one application; its own registry, so that two in a process do not clash."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ("model", "version")
        self.requests = Counter(
            "rerank_requests",
            "Lists answered, by outcome ok, reduced_budget or degraded; and calls refused: "
            "client_error, error.",
            (*model, "variant", "outcome"),
            registry=self.registry,
        )
        self.duration = Histogram(
            "rerank_request_duration_seconds",
            "From the whole body read to the answer built.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stage = Histogram(
            "rerank_stage_duration_seconds",
            "Parts of a request: parse, features, queue, inference, respond.",
            ("stage",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stages = {stage: self.stage.labels(stage) for stage in STAGES}
        self.steps = Histogram(
            "rerank_reasoning_steps",
            "Reasoning steps of one slate.",
            buckets=COUNTS,
            registry=self.registry,
        )
        self.list_size = Histogram(
            "rerank_list_size", "Candidates of one list.", buckets=SIZES, registry=self.registry
        )
        self.unknown = Counter(
            "rerank_unknown_candidates",
            "Candidates whose id the item table lacks; a rising share is a wrong id space.",
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "rerank_batch_size", "Lists in one run.", buckets=BATCHES, registry=self.registry
        )
        self.degraded = Counter(
            "rerank_degraded",
            "Answers that are the initial ranking, by reason: deadline, overload, model_error; or "
            "that were reasoned about less than asked: reduced_budget.",
            ("reason",),
            registry=self.registry,
        )
        self.shed = Counter(
            "rerank_shed",
            "Lists that never ran, by reason: deadline, overload, disconnected, quota.",
            ("reason",),
            registry=self.registry,
        )
        self.budget_level = Gauge(
            "rerank_budget_level",
            "Most reasoning steps per position that a run takes now; it falls as lists wait.",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        # Until a model is at work: the least of all processes is told, and one that still loads, or
        # only supervises, has no level.
        self.budget_level.set(math.inf)
        self.inference_cpu = Counter(
            "rerank_inference_cpu_seconds",
            "CPU time of the runs, of the thread that makes them.",
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "rerank_queue_depth",
            "Lists waiting for a run.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.inflight = Gauge(
            "rerank_inflight",
            "Calls being answered.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.changes = Counter(
            "rerank_model_changes",
            "Changes of what is served, by outcome: changed, refused, rolled_back.",
            ("name", "outcome"),
            registry=self.registry,
        )
        self.shadow = Counter(
            "rerank_shadow",
            "Lists a shadow ranked too, by outcome: same_slate, same_items, different, failed, "
            "skipped.",
            (*model, "outcome"),
            registry=self.registry,
        )
        self.worker_restarts = Counter(
            "rerank_worker_restarts",
            "Workers that died and were replaced.",
            registry=self.registry,
        )
        self.model_info = Gauge(
            "rerank_model_info",
            "1 for a bundle that is loaded to serve.",
            ("name", "version", "provider"),
            registry=self.registry,
            multiprocess_mode="livemax",
        )

    def page(self) -> bytes:
        """In Prometheus's text format; of several workers, their sum."""
        if DIRECTORY not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
