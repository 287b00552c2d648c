"""Metrics of the operating system about each process of the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Processes(Collector):
    """Memory, CPU time, file descriptors and start time of each process, labelled `worker`."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics `process_*`."""
        metrics: dict[str, Metric] = {}
        for worker, pid in self._pids().items():
            for single in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                metric = metrics.setdefault(
                    single.name, Metric(single.name, single.documentation, single.type)
                )
                for sample in single.samples:
                    metric.add_sample(sample.name, {"worker": worker}, sample.value)
        yield from metrics.values()
