"""Metrics of the entity store and of the events that change it."""

from __future__ import annotations

from service.metric_families import SECONDS, MetricFamilies

AGES = (1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400, 365 * 86400)  # seconds
EVENT_OUTCOMES = ("accepted", "duplicate", "refused", "failed")
RECORD_OUTCOMES = ("written", "refused", "deleted")
COMMIT_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
LOOKUPS = ("hit", "miss", "timeout", "error", "corrupt")


class StateMetrics(MetricFamilies):
    """Defines the metrics `rerank_state_*` and `rerank_feedback_*`."""

    def _define_state(self) -> None:
        lookups = self._counter(
            "rerank_state_lookups",
            "Users looked up in the entity store, by result: hit, miss, timeout, error, corrupt.",
            ("result",),
        )
        self.state_lookups = {result: lookups.labels(result) for result in LOOKUPS}
        self.state_duration = self._histogram(
            "rerank_state_duration_seconds",
            "Time of a lookup in the entity store that was answered.",
            SECONDS,
        )
        self.state_age = self._histogram(
            "rerank_state_age_seconds", "Time since the last change of a user that was read.", AGES
        )
        item_lookups = self._counter(
            "rerank_state_item_lookups",
            "Candidates looked up in the entity store, by result: hit, miss, corrupt; timeout and "
            "error count distinct items of a call.",
            ("result",),
        )
        self.state_item_lookups = {result: item_lookups.labels(result) for result in LOOKUPS}
        self.state_item_age = self._histogram(
            "rerank_state_item_age_seconds",
            "Time since the last change of the item of a list that changed longest ago.",
            AGES,
        )
        self.state_clipped = self._counter(
            "rerank_state_clipped_values",
            "Numbers of items from the entity store that were clipped to the range of training.",
        )
        self.state_ignored = self._counter(
            "rerank_state_ignored_values",
            "Features of items from the entity store that the model's schema does not declare or "
            "allow.",
        )
        self.state_bytes = self._counter(
            "rerank_state_read_bytes", "Bytes of entities read from the store."
        )
        records = self._counter(
            "rerank_state_records",
            "Users and items received by the routes, by kind: user, item; and outcome: written, "
            "refused, deleted.",
            ("kind", "outcome"),
        )
        self.state_records = {
            (kind, outcome): records.labels(kind, outcome)
            for kind in ("user", "item")
            for outcome in RECORD_OUTCOMES
        }
        self._define_health()

    def _define_health(self) -> None:
        self.state_up = self._gauge(
            "rerank_state_up",
            "1 if the entity store responds, 0 if not or if there is none.",
            "livemax",
        )
        self.state_configured = self._gauge(
            "rerank_state_configured", "1 if RERANK_STATE names an entity store.", "livemax"
        )
        self.state_volatile = self._gauge(
            "rerank_state_volatile",
            "1 if the entity store may lose acknowledged writes in a power cut.",
            "livemax",
        )
        self.state_entities = self._gauge(
            "rerank_state_entities",
            "Entities in the store, by kind: user, item; all if the engine counts them together.",
            "livemax",
            ("kind",),
        )
        self.state_size = self._gauge(
            "rerank_state_size_bytes", "Size of the entity store.", "livemax"
        )
        self.state_lag = self._gauge(
            "rerank_state_lag_seconds",
            "Seconds since a replica of the entity store last heard from its primary.",
            "livemax",
        )
        self.state_limit = self._gauge(
            "rerank_state_limit_bytes",
            "Size that the entity store may grow to; 0 without a limit that the service knows.",
            "livemax",
        )

    def _define_feedback(self) -> None:
        events = self._counter(
            "rerank_feedback_events",
            "Events received, by outcome: accepted, duplicate, refused, failed (not kept).",
            ("outcome",),
        )
        self.feedback_events = {outcome: events.labels(outcome) for outcome in EVENT_OUTCOMES}
        self.feedback_waiting = self._gauge(
            "rerank_feedback_waiting", "Events that wait for their commit, or are in it.", "livesum"
        )
        self.feedback_commit = self._histogram(
            "rerank_feedback_commit_duration_seconds", "Time of a commit of events.", SECONDS
        )
        self.feedback_commit_events = self._histogram(
            "rerank_feedback_commit_events", "Events of one commit.", COMMIT_SIZES
        )
