"""Metric values in anonymous memory, which all processes of a service map.

The files that prometheus_client shares between processes lie in a directory: whoever cleans it
loses counts, and a full file system kills the process that writes. Memory has neither fault, and a
worker that takes a dead one's place continues its counts.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import mmap
import os
import tempfile
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import reduction
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

logger = logging.getLogger("service")

SLOT_BYTES = 4 << 20  # of address space; only pages that hold values take memory
USED, PID, BEATS, CONNECTIONS, FIRST = range(5)  # words at the start of a slot
COMBINE: Mapping[str, Callable[[float, float], float]] = {
    "": lambda total, value: total + value,  # counters and histograms
    "livesum": lambda total, value: total + value,
    "livemin": min,
    "livemax": max,
}


class Slot:
    """The values of one process.

    The memory is an array of words of 8 bytes: the number of words in use, the process id, a count
    of heartbeats, the number of open connections, then for each value the length of its key in
    bytes, the key, and the float64.
    Only the process of the slot writes, until it is dead; all may read.
    """

    def __init__(self, memory: memoryview) -> None:
        self._bytes, self._words, self.values = memory, memory.cast("Q"), memory.cast("d")
        self._words[USED] = max(self._words[USED], FIRST)
        self._index: dict[str, int] = {}
        self._is_full = False

    @property
    def pid(self) -> int:
        """The process of the slot, or 0."""
        return self._words[PID]

    @property
    def beats(self) -> int:
        """Heartbeats of the process; 0 until it serves."""
        return self._words[BEATS]

    @classmethod
    def alone(cls) -> Slot:
        """Return a slot in memory of this process."""
        return cls(memoryview(mmap.mmap(-1, SLOT_BYTES)))

    @property
    def connections(self) -> int:
        """Open connections of the process; only meaningful once it serves."""
        return self._words[CONNECTIONS]

    @connections.setter
    def connections(self, count: int) -> None:
        self._words[CONNECTIONS] = count

    def open(self) -> None:
        """Make the calling process that of the slot."""
        self._words[PID], self._words[BEATS], self._is_full = os.getpid(), 0, False
        self._index = {key: at for at, key in self._entries()}

    def beat(self) -> None:
        """Report that the event loop of this process runs."""
        self._words[BEATS] += 1

    def close(self) -> None:
        """Keep the counts of a dead process and drop its gauges."""
        self._words[PID] = self._words[BEATS] = 0
        for at, key in self._entries():
            if parsed(key)[0] == "gauge":
                self.values[at] = math.nan

    def samples(self) -> Iterator[tuple[str, float]]:
        """Yield the key of every value, and the value."""
        for at, key in self._entries():
            if not math.isnan(value := self.values[at]):
                yield key, value

    def index(self, key: str) -> int | None:
        """Return the word of a value, which is added if it is new, or None if there is no room."""
        if key in self._index:
            at = self._index[key]
            if math.isnan(self.values[at]):
                self.values[at] = 0.0
            return at
        encoded = key.encode()
        at = self._words[USED] + 1 + math.ceil(len(encoded) / 8)
        if at >= len(self._words):
            return None
        start = 8 * (self._words[USED] + 1)
        self._words[self._words[USED]] = len(encoded)
        self._bytes[start : start + len(encoded)] = encoded
        self.values[at] = 0.0
        self._words[USED] = at + 1  # last: a reader sees complete entries only
        self._index[key] = at
        return at

    def place(self, keys: Sequence[str]) -> tuple[Any, list[int]]:
        """Return the memory of the values of some keys, and their places in it.

        If the slot is full, the memory is a list of this process alone, which nothing exports. The
        first time a line of the log says so: labels come from models and versions, and a service
        that runs for long enough has seen more of them than a slot holds.
        """
        places = [self.index(key) for key in keys]
        if None not in places:
            return self.values, places  # type: ignore[return-value]
        if not self._is_full:
            self._is_full = True
            logger.error(
                "metrics: no room for %s %s in the %d bytes of a process; series with further "
                "labels are not exported until the service restarts",
                *parsed(keys[0])[3:5],
                len(self._bytes),
            )
        return [0.0] * len(keys), list(range(len(keys)))

    def _entries(self) -> Iterator[tuple[int, str]]:
        at = FIRST
        while at < self._words[USED]:
            length, start = self._words[at], 8 * (at + 1)
            at += 1 + math.ceil(length / 8)
            yield at, str(self._bytes[start : start + length], "utf-8")
            at += 1


class SharedValues(Collector):
    """A slot for the supervisor, the first, and one for each worker.

    The object can be sent to a process as it starts.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        memory = memoryview(mmap.mmap(descriptor, 0))
        starts = range(0, len(memory), SLOT_BYTES)
        self.slots = [Slot(memory[start : start + SLOT_BYTES]) for start in starts]

    @classmethod
    def create(cls, workers: int) -> SharedValues:
        """Allocate the memory. Raises OSError naming the number of workers."""
        try:
            return cls(anonymous_file(SLOT_BYTES * (1 + workers)))
        except OSError as error:
            raise OSError(
                f"RERANK_WORKERS={workers}: no memory for shared metrics ({error.strerror})"
            ) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return attach, (reduction.DupFd(self._descriptor),)

    def pids(self) -> dict[str, int]:
        """Return the running processes by name: `supervisor`, and the workers from `1`."""
        names = ["supervisor", *map(str, range(1, len(self.slots)))]
        return {name: slot.pid for name, slot in zip(names, self.slots, strict=True) if slot.pid}

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, combined over the processes."""
        combined: dict[str, float] = {}
        for slot in self.slots:
            for key, value in slot.samples():
                if key in combined:
                    value = COMBINE[parsed(key)[1]](combined[key], value)
                combined[key] = value
        groups: dict[str, dict[str, float]] = {}
        for key, value in combined.items():
            groups.setdefault(parsed(key)[2], {})[key] = value
        for group in groups.values():
            yield metric_of(group)


def attach(duplicate: Any) -> SharedValues:
    """Map, in a new process, the memory that its parent sent."""
    return SharedValues(duplicate.detach())


def anonymous_file(size: int) -> int:
    """Return a descriptor of a file of zeros that no directory holds."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("rerank-metrics")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


@functools.cache
def parsed(key: str) -> tuple[str, str, str, str, dict[str, str], str]:
    """Split a key into type, mode, metric, sample, labels and help text."""
    kind, mode, metric, sample, labels, text = json.loads(key)
    return kind, mode, metric, sample, labels, text


def metric_of(group: Mapping[str, float]) -> Metric:
    """Build a metric from its values. Buckets, each stored alone, become cumulative."""
    kind, _, name, _, _, text = parsed(next(iter(group)))
    metric = Metric(name, text, kind)
    buckets: dict[tuple[tuple[str, str], ...], dict[float, float]] = {}
    for key, value in group.items():
        _, _, _, sample, labels, _ = parsed(key)
        if not sample.endswith("_bucket"):
            metric.add_sample(sample, labels, value)
            continue
        rest = tuple(pair for pair in labels.items() if pair[0] != "le")
        buckets.setdefault(rest, {})[float(labels["le"])] = value
    for rest, counts in buckets.items():
        total = 0.0
        for bound in sorted(counts):
            total += counts[bound]
            text = floatToGoString(bound)  # type: ignore[no-untyped-call]
            metric.add_sample(f"{name}_bucket", {**dict(rest), "le": text}, total)
        metric.add_sample(f"{name}_count", dict(rest), total)
    return metric


def value_key(
    kind: str, metric: str, sample: str, labels: Mapping[str, str], text: str, mode: str = ""
) -> str:
    """Return the key of a value; `parsed` is the inverse."""
    return json.dumps([kind, mode, metric, sample, labels, text])


class Cell:
    """A value of a slot, written without a lock: by one thread, which alone writes this value."""

    __slots__ = ("_at", "_values")

    def __init__(self, slot: Slot, key: str) -> None:
        """Take the value of a key, which is not exported if it is new and the slot is full."""
        self._values, (self._at,) = slot.place([key])

    def add(self, amount: float) -> None:
        """Add to the value."""
        self._values[self._at] += amount

    def set(self, value: float) -> None:
        """Replace the value."""
        self._values[self._at] = value


class HistogramCells:
    """The values of one histogram, written as those of a Cell."""

    __slots__ = ("_bounds", "_buckets", "_sum", "_values")

    def __init__(
        self, slot: Slot, name: str, text: str, labels: Mapping[str, str], bounds: Sequence[float]
    ) -> None:
        """Take the values of a histogram of prometheus_client, by its name, help text and labels.

        They are not exported if they are new and the slot is full.
        """
        self._bounds = tuple(bounds)
        keys = [value_key("histogram", name, f"{name}_sum", labels, text)]
        for bound in (*bounds, math.inf):
            of_bucket = {**labels, "le": floatToGoString(bound)}  # type: ignore[no-untyped-call]
            keys.append(value_key("histogram", name, f"{name}_bucket", of_bucket, text))
        self._values, (self._sum, *self._buckets) = slot.place(keys)

    def observe(self, amount: float) -> None:
        """Count an amount."""
        values = self._values
        values[self._buckets[bisect_left(self._bounds, amount)]] += 1.0
        values[self._sum] += amount


def value_class(slot: Slot) -> type:
    """Return the class that prometheus_client instantiates for each value of this process."""
    lock = threading.Lock()

    class SharedValue:
        """A float64 of the slot, or of this process alone if the slot is full."""

        _multiprocess = True

        def __init__(
            self,
            kind: str,
            metric: str,
            sample: str,
            names: Sequence[str],
            labels: Sequence[str],
            text: str,
            multiprocess_mode: str = "",
            **_: Any,
        ) -> None:
            pairs = dict(zip(names, labels, strict=True))
            key = value_key(kind, metric, sample, pairs, text, multiprocess_mode)
            with lock:
                self._values, (self._at,) = slot.place([key])

        def inc(self, amount: float) -> None:
            with lock:
                self._values[self._at] += amount

        def set(self, value: float, timestamp: float | None = None) -> None:
            with lock:
                self._values[self._at] = value

        def get(self) -> float:
            return float(self._values[self._at])

        def set_exemplar(self, exemplar: Any) -> None:
            """Exemplars are not exported."""

        def get_exemplar(self) -> None:
            """Exemplars are not exported."""

    return SharedValue
