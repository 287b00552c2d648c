"""Define the metrics of one registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Upper bounds of the buckets of durations.
SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25,
    0.5, 1.0,
)  # fmt: skip


class MetricFamilies:
    """Makes metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _gauge(
        self,
        name: str,
        text: str,
        mode: Literal["livemin", "livesum", "livemax"],
        labels: Sequence[str] = (),
    ) -> Gauge:
        """Define a gauge; mode combines the values of live workers."""
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=mode)
