"""The load that was offered at one rate, and the result of it."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.openloop import Sample

BUSY = 0.85  # share of a core above which a generator may have been the bottleneck
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Load:
    """Requests per second, for how long (s), how much of it warms up (s), by how many processes."""

    rate: float
    seconds: float
    warmup: float = 1.0
    generators: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Offered:
    """The samples after the warm-up, and what the generators were like.

    busy: the largest share of a core that one used; lag_ms: how late they sent, 99 % of requests.
    """

    load: Load
    samples: Sequence[Sample]
    busy: float
    lag_ms: float
    expected: Sequence[int] = (200,)

    @property
    def void(self) -> str | None:
        """Why the run says nothing of the service."""
        if self.busy > BUSY:
            return f"a generator used {self.busy:.0%} of a core"
        if not self.samples:
            return "no request was due"
        return None

    def latency_ms(self, quantile: float) -> float:
        """Of all that was due, unanswered included as long as they waited."""
        return 1e3 * float(np.quantile([s.latency_s for s in self.samples], quantile))

    @property
    def failed(self) -> int:
        """Unanswered, or with a status that was not expected."""
        return sum(s.status not in self.expected for s in self.samples)

    @property
    def unranked(self) -> int:
        """Answered with the initial ranking."""
        return sum(s.degraded not in (None, "reduced_budget") for s in self.samples)

    def report(self) -> dict[str, Any]:
        """The figures, as JSON has them."""
        served = [s for s in self.samples if s.status in self.expected]
        ranked = [s for s in served if s.budget is not None]
        # Until the last answer: what piled up takes its time.
        took = max([self.load.seconds, *(s.ended - self.load.warmup for s in self.samples)])
        reasons = Counter(s.degraded for s in served if s.degraded)

        def mean(values: Sequence[float]) -> float | None:
            return round(float(np.mean(values)), 3) if values else None

        return {
            "asked_rps": round(self.load.rate, 1),
            "offered_rps": round(len(self.samples) / self.load.seconds, 1),
            "achieved_rps": round(len(served) / took, 1),
            "requests": len(self.samples),
            "failed": self.failed,
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


def machine() -> str:
    """What the figures were measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, shared by service and generator"
