"""Metrics of calls, early sheds and decisions; the batcher counts the sheds of its queue."""

from __future__ import annotations

from service.engine.contract import Manifest
from service.engine.features.stored_items import StoredList
from service.engine.intent import SlateIntent
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.ranking.decision import Decision, StageTimes
from service.ranking.intent import IntentEffect
from service.ranking.reranker import PreparedList

# Of lists that were ranked; every other reason is `degraded`.
OUTCOMES = {None: "ok", "reduced_budget": "reduced_budget", "state": "state"}


class Observer:
    """Counts what happens to calls and lists."""

    def __init__(self, metrics: Metrics, fleet: Fleet) -> None:
        self._metrics, self._fleet = metrics, fleet

    def call_started(self) -> None:
        """Count a call as in flight."""
        self._metrics.hot.inflight.add(1.0)

    def call_ended(self) -> None:
        """End a call in flight."""
        self._metrics.hot.inflight.add(-1.0)

    def call_refused(self, server_error: bool) -> None:
        """Count a call that got no list back, under the default model."""
        model = self._fleet.models.get(self._fleet.default_name())
        manifest = model.active.manifest if model else None
        labels = (manifest.name, manifest.version) if manifest else ("", "")
        outcome = "error" if server_error else "client_error"
        self._metrics.requests.labels(*labels, "active", outcome).inc()

    def call_abandoned(self, lists: int) -> None:
        """Count the lists of a call whose client left before they were submitted."""
        self._metrics.shed.labels("disconnected").inc(lists)

    def over_quota(self, lists: int) -> None:
        """Count the lists of a call that exceeded its quota."""
        self._metrics.shed.labels("quota").inc(lists)

    def prepared(self, entry: PreparedList) -> None:
        """Count a prepared list's unknown candidates, or its early refusal."""
        if entry.shed is not None:
            self._metrics.shed.labels("overload").inc()
        if entry.unknown:
            self._metrics.unknown.inc(entry.unknown)
        if entry.state is not None and entry.state.items is not None:
            self._count_items(entry.state.items, len(entry.request.inputs.ids))

    def _count_items(self, items: StoredList, candidates: int) -> None:
        """Count the stored items of a list and observe their age."""
        metrics, hits = self._metrics, len(items.entries)
        results = metrics.hot.state_items
        results["hit"].add(hits)
        results["miss"].add(candidates - hits - items.corrupt)
        if items.corrupt:
            results["corrupt"].add(items.corrupt)
        if items.clipped:
            metrics.state_clipped.inc(items.clipped)
        if items.ignored:
            metrics.state_ignored.inc(items.ignored)
        if hits:
            metrics.hot.state_item_age.observe(items.age_s(items.updated_at.min()))

    def decided(self, decision: Decision, times: StageTimes) -> None:
        """Observe one decision and its times."""
        metrics, reasons = self._metrics, decision.reasons
        for reason in reasons:
            metrics.degraded.labels(reason).inc()
        if decision.explored:
            metrics.explored.inc()
        hot = metrics.hot
        hot.observe_list(times.stages(), times.total, decision.steps, len(decision.ids))
        if decision.row.intent is not None and decision.effect is not None:
            self._count_intent(decision.row.intent, decision.effect)
        outcome = OUTCOMES.get(reasons[0] if reasons else None, "degraded")
        hot.count_request(decision.model, decision.version, decision.variant, outcome)

    def _count_intent(self, intent: SlateIntent, effect: IntentEffect) -> None:
        """Count a list with an intent by its kinds, and the choices that the intent changed."""
        metrics = self._metrics
        for kind, stated in (
            ("diversity", len(intent.weight) > 0),
            ("boost", intent.boost is not None),
        ):
            if stated:
                metrics.intent_lists.labels(kind).inc()
        metrics.intent_positions.inc(effect.choices)
        metrics.intent_changed.inc(effect.changed)

    def shadow_compared(self, shadow: Manifest, outcome: str) -> None:
        """Count one comparison of a shadow's slate."""
        self._metrics.shadow.labels(shadow.name, shadow.version, outcome).inc()
