"""Figures of all rounds of a server, as its row of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peers import Peer
from peers.environments import version

SERVICE = "this service"
BASELINE = "this service, other commit"
SERVICE_SETTINGS = (
    "One worker per core, every other setting at its default: runs are made on the event loop "
    "(RERANK_BRIEF_RUN_MS), of at most 16 lists."
)


def mean_of(rounds: Sequence[dict[str, Any]], key: str) -> float:
    """Return the mean of one figure over rounds."""
    return float(np.mean([each[key] for each in rounds]))


def summary(values: Sequence[float], digits: int) -> list[float]:
    """Return mean, least and greatest, rounded."""
    return [round(float(v), digits) for v in (np.mean(values), min(values), max(values))]


def ratio(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> list[float]:
    """Divide capacities round by round and return mean, least and greatest of the ratios."""
    pairs = [(a["rate"], b["rate"]) for a, b in zip(one, other, strict=True)]
    return summary([a / b if b else float("inf") for a, b in pairs], 3)


def row(
    name: str,
    peer: Peer | None,
    scenario: str,
    rounds: Sequence[dict[str, Any]],
    backend: str,
) -> dict[str, Any]:
    """Return one server's row in one scenario; a peer of None stands for this service.

    backend: That of this service, "native" or "onnx".
    """
    mean, low, high = summary([each["rate"] for each in rounds], 1)
    same = [each["same"] for each in rounds if each["same"] is not None]
    ours = "equal" if backend == "native" else "exported"
    return {
        "server": name, "version": version(peer), "scenario": scenario,
        "work": ours if peer is None else peer.work,
        "capacity_rps": mean, "low": low, "high": high,
        "p50_ms": round(mean_of(rounds, "p50_ms"), 2),
        "p99_ms": round(mean_of(rounds, "p99_ms"), 2),
        "load_rps": round(mean_of(rounds, "load"), 1),
        "cpu_ms": round(mean_of(rounds, "cpu_ms"), 3),
        "settings": SERVICE_SETTINGS if peer is None else peer.settings,
        "same_answers": all(same) if same else None,
        "void": next((each["void"] for each in rounds if each["void"]), None),
    }  # fmt: skip
