"""Load servers with one rate in turns, and read what a list costs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.generators import Generators
from loadtest.results import Load
from loadtest.scenarios import Scenario
from loadtest.server import ServerError
from peers.cost import machine_cpu_s, run_counters
from peers.summary import summary


@dataclass(frozen=True)
class Durations:
    """Seconds at one rate, of its warm-up, and of each batch size of the work alone."""

    turn_s: float = 8.0
    warm_up_s: float = 1.0
    alone_s: float = 2.0


@dataclass(frozen=True)
class Side:
    """One server of the turns: a call that starts it, its requests, and its metrics.

    counted: True for a service of this project, whose metrics count runs and lists.
    """

    start: Callable[[], contextlib.AbstractContextManager[str]]
    requests: Mapping[str, Scenario]
    counted: bool


def load(
    sending: Generators,
    url: str,
    sent: Scenario,
    rate: float,
    durations: Durations,
    seed: int = 0,
) -> dict[str, float]:
    """Offer a rate and return it with p50_ms, p99_ms and cpu_ms of a list.

    cpu_ms is of all processes but the generator. Raises ServerError when a request failed or
    was not ranked.
    """
    offered = Load(max(rate, 1.0), durations.turn_s, durations.warm_up_s, seed)
    before = machine_cpu_s()
    run = sending.offer(url, sent, offered)
    seconds = durations.turn_s + durations.warm_up_s
    spent = machine_cpu_s() - before - run.busy * seconds
    if run.failed or run.unranked:
        raise ServerError(f"{url}: {run.failed} failed, {run.unranked} not ranked at {rate:.0f}/s")
    return {
        "load": offered.rate, "p50_ms": run.latency_ms(0.5), "p99_ms": run.latency_ms(0.99),
        "cpu_ms": 1e3 * spent / (offered.rate * seconds),
    }  # fmt: skip


def take_turns(
    sending: Generators,
    sides: Mapping[str, Side],
    rates: Mapping[str, float],
    turns: int,
    durations: Durations,
) -> dict[str, dict[str, Any]]:
    """Load every side with the same rate in each scenario, in turns that change their order.

    Args:
        rates: Requests per second, by scenario.

    Return by scenario `load_rps`, and by server the mean, least and greatest of each figure.
    """
    figures: dict[str, dict[str, list[dict[str, float]]]] = {
        name: {side: [] for side in sides} for name in rates
    }
    for turn in range(turns):
        names = list(sides)[:: -1 if turn % 2 else 1]
        for name in names:
            with sides[name].start() as url:
                for scenario, rate in rates.items():
                    sent = sides[name].requests[scenario]
                    before = run_counters(url) if sides[name].counted else {}
                    result = load(sending, url, sent, rate, durations, seed=turn)
                    if before:
                        result |= cost_of_runs(before, run_counters(url))
                    figures[scenario][name].append(result)
    report: dict[str, dict[str, Any]] = {}
    for scenario, rate in rates.items():
        report[scenario] = {"load_rps": round(rate, 1)}
        for name, each in figures[scenario].items():
            keys = [key for key in each[0] if key != "load"]
            report[scenario][name] = {key: summary([one[key] for one in each], 3) for key in keys}
    return report


def cost_of_runs(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return CPU milliseconds of a list inside runs, and lists in a run, between two readings."""
    spent = {key: value - before[key] for key, value in after.items()}
    return {
        "run_cpu_ms": 1e3 * spent["run_s"] / spent["lists"],
        "lists_a_run": spent["lists"] / spent["runs"],
    }
