"""The load that was offered at one rate, and the result of it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.connections import EXHAUSTED
from loadtest.openloop import Sample

ROOT = Path(__file__).parents[1]
BUSY = 0.85  # share of a core above which a generator may have been the bottleneck
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Load:
    """Requests per second, for how long (s), after how much warm-up (s), drawn by a seed."""

    rate: float
    seconds: float
    warmup: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class RateResult:
    """The samples after the warm-up, and the state of the generators.

    busy: the largest share of a core that one used; lag_ms: how late they sent, at p99.
    """

    load: Load
    samples: Sequence[Sample]
    busy: float
    lag_ms: float
    expected: Sequence[int] = (200,)

    @property
    def void(self) -> str | None:
        """The reason why the run says nothing about the service, or None."""
        if self.busy > BUSY:
            return f"a generator used {self.busy:.0%} of a core"
        if exhausted := exhaustion(self.samples):
            return exhausted
        if not self.samples:
            return "no request was due"
        return None

    def latency_ms(self, quantile: float) -> float:
        """Return a quantile over all requests; those without a response count as they waited."""
        return 1e3 * float(np.quantile([s.latency_s for s in self.samples], quantile))

    @property
    def failures(self) -> Counter[str]:
        """Failed requests by kind: no response, or a status that was not expected."""
        return failures_of(self.samples, self.expected)

    @property
    def failed(self) -> int:
        """Number of failed requests."""
        return self.failures.total()

    @property
    def unranked(self) -> int:
        """Number of responses with the initial ranking."""
        return sum(s.degraded not in (None, "reduced_budget") for s in self.samples)

    def report(self) -> dict[str, Any]:
        """Return the figures for JSON. Means are None without a ranked list."""
        served = [s for s in self.samples if s.status in self.expected]
        ranked = [s for s in served if s.budget is not None]
        # Until the last response: draining the queue takes its time.
        duration_s = max([self.load.seconds, *(s.ended - self.load.warmup for s in self.samples)])
        reasons = Counter(s.degraded for s in served if s.degraded)

        def mean(values: Sequence[float]) -> float | None:
            return round(float(np.mean(values)), 3) if values else None

        return {
            "asked_rps": round(self.load.rate, 1),
            "offered_rps": round(len(self.samples) / self.load.seconds, 1),
            "achieved_rps": round(len(served) / duration_s, 1),
            "requests": len(self.samples),
            "failed": self.failed,
            "failures": dict(self.failures),
            "unranked": self.unranked,
            "degraded": dict(reasons),
            "latency_ms": {f"p{100 * q:g}": round(self.latency_ms(q), 3) for q in QUANTILES}
            if self.samples
            else {},
            "mean_ms": mean([1e3 * s.latency_s for s in self.samples]),
            "queue_ms": mean([s.queue_ms for s in ranked]),
            "inference_ms": mean([s.inference_ms for s in ranked]),
            "steps_used": mean([s.steps for s in ranked]),
            "budget": mean([float(s.budget) for s in ranked if s.budget is not None]),
            "generator": {"busy": round(self.busy, 3), "lag_p99_ms": round(self.lag_ms, 3)},
            "void": self.void,
        }


def failures_of(samples: Sequence[Sample], expected: Sequence[int] = (200,)) -> Counter[str]:
    """Count the failed requests by kind, the most frequent first."""
    kinds = (s.failure or f"status {s.status}" for s in samples if s.status not in expected)
    return Counter(dict(Counter(kinds).most_common()))


def exhaustion(samples: Sequence[Sample]) -> str | None:
    """Return the reason why a run without enough sockets is void, or None."""
    count = sum(sample.failure == EXHAUSTED for sample in samples)
    return f"{EXHAUSTED} for {count} of {len(samples)} requests" if count else None


def described(failures: Mapping[str, int]) -> str:
    """Return failures as text, as `timeout (3), status 503 (1)`."""
    return ", ".join(f"{kind} ({count})" for kind, count in failures.items())


def machine() -> str:
    """Return the architecture and the number of cores of this machine."""
    return f"{hardware()}, shared by service and generator"


def hardware() -> str:
    """Return the architecture and the number of cores, as `x86_64, 2 cores`."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def commit() -> str | None:
    """Return the hash of the commit that is checked out, with "-dirty" after a change, or None."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or an installation without a repository
    return run.stdout.strip()
