"""Every Prometheus metric, defined once. Base units; no user, item or request labels."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.registry import Collector

from service.metric_families import SECONDS
from service.process_metrics import Processes
from service.shared_values import (
    Cell,
    HistogramCells,
    SharedValues,
    Slot,
    value_class,
    value_key,
)
from service.state_metrics import AGES, StateMetrics

disable_created_metrics()  # type: ignore[no-untyped-call]

STAGES = ("parse", "features", "queue", "inference", "respond")

# Upper bounds of histogram buckets.
STEPS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100)
LIST_SIZES = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)

JOURNAL_RESULTS = ("written", "dropped")

MODEL_LABELS = ("model", "version")
NO_LABELS: Mapping[str, str] = {}
INTENTS = ("diversity", "boost")
START_FAILURES = ("bundle", "keys", "telemetry", "system", "internal", "killed")


class Metrics(StateMetrics):
    """The metrics of one application, in a registry of their own: two in a process do not clash."""

    def __init__(self, shared: SharedValues | None = None, slot: int = 0) -> None:
        """Define the metrics.

        Args:
            shared: The values of all processes of the service, if it has several workers.
            slot: The slot of this process among them.
        """
        super().__init__()
        self._slot = Slot.alone() if shared is None else shared.slots[slot]
        self._slot.open()
        # Set in any case: an inherited PROMETHEUS_MULTIPROC_DIR would share files with others.
        values.ValueClass = value_class(self._slot)
        self._define_ranking()
        self._define_load()
        self._define_models()
        self._define_state()
        self._define_feedback()
        self._define_journal()
        self._define_processes()
        self.hot = HotMetrics(self._slot, self)
        self._page = self.registry
        if shared is not None:
            self._page = CollectorRegistry()
            self._page.register(shared)
        self._page.register(Processes(shared.pids if shared else lambda: {"1": os.getpid()}))

    def _define_ranking(self) -> None:
        self.requests = self._counter(
            "rerank_requests",
            "Lists ranked, by outcome ok, reduced_budget, state or degraded; and calls refused: "
            "client_error, error.",
            (*MODEL_LABELS, "variant", "outcome"),
        )
        self.duration = self._histogram(
            "rerank_request_duration_seconds",
            "Time from the complete body to the rendered response, without waits for traced steps.",
            SECONDS,
        )
        self.stage = self._histogram(
            "rerank_stage_duration_seconds",
            "Time per stage: parse, features, queue, inference, respond.",
            SECONDS,
            ("stage",),
        )
        self.stages = {stage: self.stage.labels(stage) for stage in STAGES}
        self.steps = self._histogram(
            "rerank_reasoning_steps", "Reasoning steps of one slate.", STEPS
        )
        self.list_size = self._histogram("rerank_list_size", "Candidates of one list.", LIST_SIZES)
        self.unknown = self._counter(
            "rerank_unknown_candidates",
            "Candidates that neither item table nor entity store has; a rising share is a wrong id "
            "space.",
        )
        self.histories = self._counter(
            "rerank_history_cache",
            "Histories looked up in the cache of prepared ones, by result: hit, miss.",
            ("result",),
        )
        for result in ("hit", "miss"):  # exported from 0
            self.histories.labels(result)
        self.intent_lists = self._counter(
            "rerank_intent_lists",
            "Lists with an intent, by kind: diversity, boost; a list with both counts in both.",
            ("kind",),
        )
        for kind in INTENTS:  # exported from 0, or the panel is empty until the first
            self.intent_lists.labels(kind)
        self.intent_positions = self._counter(
            "rerank_intent_positions",
            "Positions that were compared with the model's choice without diversity and boosts.",
        )
        self.intent_changed = self._counter(
            "rerank_intent_changed_positions",
            "Positions whose choice diversity and boosts changed, of rerank_intent_positions.",
        )
        self.degraded = self._counter(
            "rerank_degraded",
            "Responses with the initial ranking, by reason: deadline, overload, model_error; or "
            "with fewer reasoning steps than requested: reduced_budget; or without the entity "
            "store: state.",
            ("reason",),
        )

    def _define_load(self) -> None:
        self.batch_size = self._histogram("rerank_batch_size", "Lists in one run.", BATCH_SIZES)
        self.shed = self._counter(
            "rerank_shed",
            "Lists shed before they were ranked, those of shadows included, by reason: deadline, "
            "overload, disconnected, quota.",
            ("reason",),
        )
        self.budget_level = self._gauge(
            "rerank_budget_level",
            "Maximum reasoning steps per position of a run; it falls as lists wait.",
            "livemin",
        )
        # Reported as the minimum over processes. Start at +inf so that a loading worker or the
        # supervisor does not pull it to 0.
        self.budget_level.set(math.inf)
        self.inference_cpu = self._counter(
            "rerank_inference_cpu_seconds", "CPU time of the threads that run the graph."
        )
        self.queue_depth = self._gauge("rerank_queue_depth", "Lists waiting for a run.", "livesum")
        self.inflight = self._gauge("rerank_inflight", "Ranking calls in flight.", "livesum")

    def _define_models(self) -> None:
        self.changes = self._counter(
            "rerank_model_changes",
            "Changes of the served versions, by outcome: changed, refused, rolled_back.",
            ("name", "outcome"),
        )
        self.shadow = self._counter(
            "rerank_shadow",
            "Lists compared with a shadow version, by outcome: same_slate, same_items, "
            "different, failed, skipped.",
            (*MODEL_LABELS, "outcome"),
        )
        self.model_info = self._gauge(
            "rerank_model_info",
            "1 for a bundle that is loaded to serve.",
            "livemax",
            ("name", "version", "provider"),
        )

        self.backend_info = self._gauge(
            "rerank_backend_info",
            "1 for the backend of a bundle that is loaded to serve: native, or onnx by reason "
            "setting, provider, library, configuration, difference.",
            "livemax",
            ("name", "version", "backend", "reason"),
        )

    def _define_journal(self) -> None:
        records = self._counter(
            "rerank_journal_records", "Records of the journal, by result: written, dropped.",
            ("result",),
        )  # fmt: skip
        self.journal_records = {result: records.labels(result) for result in JOURNAL_RESULTS}
        self.journal_bytes = self._counter("rerank_journal_written_bytes", "Bytes in the sink.")
        self.journal_errors = self._counter("rerank_journal_errors", "Failed writes to the sink.")
        self.journal_buffer = self._gauge(
            "rerank_journal_buffer_bytes", "Bytes of records that wait to be written.", "livesum"
        )
        self.explored = self._counter(
            "rerank_explored_lists", "Lists whose slate was sampled to explore."
        )

    def _define_processes(self) -> None:
        self.workers = self._gauge("rerank_workers", "Workers that serve.", "livesum")
        self.workers_configured = self._gauge(
            "rerank_workers_configured", "Workers that RERANK_WORKERS asks for.", "livemax"
        )
        self.worker_restarts = self._counter(
            "rerank_worker_restarts", "Workers that died and were replaced."
        )
        self.start_failures = self._counter(
            "rerank_worker_start_failures",
            "Workers that could not start, by reason: bundle, keys, telemetry, system, internal, "
            "killed.",
            ("reason",),
        )
        for reason in START_FAILURES:  # exported from 0, or the first failure is no increase
            self.start_failures.labels(reason)
        self.log_lines_dropped = self._counter(
            "rerank_log_lines_dropped", "Log lines that could not be written."
        )
        self.descriptors_exhausted = self._counter(
            "rerank_file_descriptors_exhausted",
            "Checks, one a second and worker, at which no file descriptor was free.",
        )

    def count_history_lookup(self, hit: bool) -> None:
        """Count a lookup in the cache of prepared histories."""
        self.hot.histories[hit].add(1.0)

    def page(self) -> bytes:
        """Render all metrics in Prometheus's text format, combined over workers."""
        return generate_latest(self._page)


class HotMetrics:
    """The metrics of every list and run, written without locks by the event loop alone.

    They are values of the same metrics. prometheus_client takes a lock and five calls for each, a
    sixth of the calls of a request.
    """

    def __init__(self, slot: Slot, metrics: Metrics) -> None:
        self._slot, self._requests = slot, metrics.requests
        self._outcomes: dict[tuple[str, str, str, str], Cell] = {}
        self._stages = [
            self._histogram(metrics.stage, SECONDS, {"stage": stage}) for stage in STAGES
        ]
        self._duration = self._histogram(metrics.duration, SECONDS)
        self._steps = self._histogram(metrics.steps, STEPS)
        self._list_size = self._histogram(metrics.list_size, LIST_SIZES)
        self.batch_size = self._histogram(metrics.batch_size, BATCH_SIZES)
        self.budget_level = self._gauge(metrics.budget_level, "livemin")
        self.queue_depth = self._gauge(metrics.queue_depth, "livesum")
        self.inflight = self._gauge(metrics.inflight, "livesum")
        self.inference_cpu = self._counter(metrics.inference_cpu)
        self.histories = {
            hit: self._counter(metrics.histories, {"result": "hit" if hit else "miss"})
            for hit in (True, False)
        }

        self.state_duration = self._histogram(metrics.state_duration, SECONDS)
        self.state_age = self._histogram(metrics.state_age, AGES)
        self.state_item_age = self._histogram(metrics.state_item_age, AGES)
        self.state_bytes = self._counter(metrics.state_bytes)
        self.state_users_hit = self._counter(metrics.state_lookups["hit"], {"result": "hit"})
        self.state_items = {
            result: self._counter(counter, {"result": result})
            for result, counter in metrics.state_item_lookups.items()
        }

    def observe_list(self, stages: Sequence[float], total: float, steps: int, size: int) -> None:
        """Observe one list: its seconds per stage and in all, reasoning steps and candidates.

        stages: in the order of STAGES.
        """
        for cells, seconds in zip(self._stages, stages, strict=True):
            cells.observe(seconds)
        self._duration.observe(total)
        self._steps.observe(steps)
        self._list_size.observe(size)

    def count_request(self, model: str, version: str, variant: str, outcome: str) -> None:
        """Count one list by its outcome."""
        labels = model, version, variant, outcome
        cell = self._outcomes.get(labels)
        if cell is None:
            self._requests.labels(*labels)  # exports it
            names = dict(zip((*MODEL_LABELS, "variant", "outcome"), labels, strict=True))
            cell = self._outcomes[labels] = self._counter(self._requests, names)
        cell.add(1.0)

    def _histogram(
        self, histogram: Histogram, bounds: Sequence[float], labels: Mapping[str, str] = NO_LABELS
    ) -> HistogramCells:
        name, text = named(histogram)
        return HistogramCells(self._slot, name, text, labels, bounds)

    def _gauge(self, gauge: Gauge, mode: str) -> Cell:
        name, text = named(gauge)
        return Cell(self._slot, value_key("gauge", name, name, NO_LABELS, text, mode))

    def _counter(self, counter: Counter, labels: Mapping[str, str] = NO_LABELS) -> Cell:
        name, text = named(counter)
        key = value_key("counter", name, f"{name}_total", labels, text)
        return Cell(self._slot, key)


def named(metric: Collector) -> tuple[str, str]:
    """Return name and help text of a metric of prometheus_client."""
    (described,) = metric.collect()
    return described.name, described.documentation
