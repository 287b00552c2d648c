"""Measure how this machine runs a bundle best (`python -m export tune`).

Intra-op threads, spinning and batch sizes are timed through the service's own session, with as many
cores as the container's quota allows. The service loads the profile (RERANK_PROFILE).
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tqdm import tqdm

from export.bench.measure import cores, timed
from service.engine.contract import Manifest
from service.engine.rows import Row
from service.engine.session import Session

BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class TuneOptions:
    """Measure how this machine serves a bundle best, and write a profile for RERANK_PROFILE."""

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to measure."""
    out: Path = Path("build/profile.json")
    """Profile to write."""
    candidates: int = 50
    """Candidates of each list."""
    budget_ms: float = 10.0
    """Largest p99 of a run, in milliseconds."""
    seconds: float = 1.0
    """Time for each number of threads and batch size; more makes the result steadier."""


def rows_of(session: Session, batch: int, candidates: int) -> list[Row]:
    """Return a batch of random lists; the time of a run does not depend on their content."""
    draw = np.random.default_rng(0)
    blank = session.blank_row(min(candidates, session.manifest.max_candidates))
    numbers = draw.standard_normal(blank.numbers.shape).astype(np.float32)
    row = dataclasses.replace(blank, numbers=numbers)  # every step is the case to keep the budget
    return [dataclasses.replace(row) for _ in range(batch)]


class TuneError(ValueError):
    """The options give no profile."""


def tune(options: TuneOptions) -> dict[str, Any]:
    """Measure, write the profile, return it. Raises TuneError for an option out of range."""
    check_options(options)
    available = cores()
    measured: list[dict[str, Any]] = []
    counts = sorted({1, 2, available // 2, available} - {0})
    fitting = [count for count in counts if count <= available]
    for threads in tqdm(fitting, "threads", disable=None):
        for spinning in (False, True) if threads > 1 else (False,):
            measured += measure(options, threads, spinning)
    best = min(row["ms_p99"] for row in measured)
    if best > options.budget_ms:
        raise TuneError(
            f"--budget-ms: no p99 is below {options.budget_ms:g} ms, the best is {best} ms"
        )
    profile = {
        **choose(measured, options.budget_ms),
        "budget_ms": options.budget_ms,
        "cores": available,
        "host_cores": os.cpu_count(),
        "machine": platform.machine(),
        "onnxruntime": ort.__version__,
        "measured": measured,
    }
    options.out.write_text(json.dumps(profile, indent=1) + "\n", encoding="utf-8")
    return profile


def check_options(options: TuneOptions) -> None:
    """Raise TuneError for an option out of range."""
    longest = Manifest.read(options.bundle).max_candidates
    for option, value, holds, rule in (
        ("candidates", options.candidates, 1 <= options.candidates <= longest, f"1 to {longest}"),
        ("budget-ms", options.budget_ms, options.budget_ms > 0, "above 0"),
        ("seconds", options.seconds, options.seconds > 0, "above 0"),
    ):
        if not holds:
            raise TuneError(f"--{option}: must be {rule}, got {value}")


def measure(options: TuneOptions, threads: int, spinning: bool) -> list[dict[str, Any]]:
    """Time every batch size with one setting of the session."""
    session = Session.load(options.bundle, threads, spinning=spinning, backend="auto")
    runs: dict[str, Callable[[], Any]] = {
        str(batch): partial(session.run, rows_of(session, batch, options.candidates))
        for batch in BATCHES
    }
    return [
        {
            "threads": threads, "spinning": spinning, "batch": int(batch),
            "ms_median": round(1e3 * float(np.median(seconds)), 4),
            "ms_p99": round(1e3 * float(np.quantile(seconds, 0.99)), 4),
        }
        for batch, seconds in timed(runs, options.seconds * len(BATCHES)).items()
    ]  # fmt: skip


def choose(measured: list[dict[str, Any]], budget_ms: float) -> dict[str, Any]:
    """Choose threads, spinning and batch size for the most requests per second within a budget.

    More threads must gain a tenth, because they take a core from other workers. At least one row
    must keep the budget.
    """
    pool = [row for row in measured if row["ms_p99"] <= budget_ms]

    def rate(row: dict[str, Any]) -> float:
        return float(row["batch"] / row["ms_median"])

    single = max((row for row in pool if row["threads"] == 1), key=rate, default=None)
    best = max(pool, key=rate)
    if single is not None and rate(best) < 1.1 * rate(single):
        best = single
    return {
        "threads": best["threads"],
        "spinning": best["spinning"],
        "max_batch_size": best["batch"],
    }
