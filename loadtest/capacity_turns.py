"""Capacity of two checkouts, searched in turns, so that both meet the same machine."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loadtest.capacity import Bound, CapacityResult, capacity
from loadtest.commands import Capacity
from loadtest.cpu_turns import SCENARIOS, commit_of
from loadtest.errors import PASSED, VOID
from loadtest.generators import Generators, generators
from loadtest.history_cache import CacheCounts
from loadtest.results import hardware
from loadtest.scenarios import Catalogue, RequestOptions, scenario
from loadtest.server import Server, serving_under
from loadtest.target import require_candidates


def compare(options: Capacity) -> int:
    """Search the capacity of both checkouts in every scenario and write the report.

    Raises ServerError for a service that answers no request as expected.
    """
    assert options.baseline is not None
    catalogue = Catalogue.of(options.bundle)
    require_candidates(options.candidates, catalogue, options.bundle)
    trees = {"before": options.baseline, "after": Path()}
    settings = {"adaptive_budget": str(options.adaptive_budget).lower()}
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        load_generators = stack.enter_context(generators(options.generators))
        servers = {
            name: stack.enter_context(
                serving_under(
                    (), options.bundle, (f"--workers={options.workers}",), settings, checkout=tree
                )
            )
            for name, tree in trees.items()
        }
        for name in tqdm(SCENARIOS, disable=None):
            rows += search_in_turns(load_generators, servers, name, catalogue, options)
    report = {
        "command": "python -m loadtest capacity --baseline CHECKOUT",
        "commits": {name: commit_of(tree) for name, tree in trees.items()},
        "machine": hardware(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "candidates": options.candidates,
        "workers": options.workers,
        "p99_ms": options.p99_ms,
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1) + "\n"
    (options.out / "capacity_histories.json").write_text(text, encoding="utf-8")
    print(text, end="")
    return VOID if any(row["void"] for row in rows) else PASSED


def search_in_turns(
    load_generators: Generators,
    servers: dict[str, Server],
    name: str,
    catalogue: Catalogue,
    options: Capacity,
) -> list[dict[str, Any]]:
    """Return a row for each server: requests per second, mean, least and greatest."""
    requests = scenario(name, catalogue, RequestOptions(options.candidates))
    bound = Bound(options.p99_ms)
    counts = {server: CacheCounts.of(of.url) for server, of in servers.items()}
    results = {server: CapacityResult() for server in servers}
    for repeat in range(options.repeats):
        for server in list(servers)[:: -1 if repeat % 2 else 1]:
            result = results[server]
            start = 0.9 * result.rates[-1] if result.rates and result.rates[-1] else 100.0
            capacity(
                load_generators, servers[server].url, requests, bound, options.seconds, repeats=1,
                start=start, result=result,
            )  # fmt: skip
    return [
        {
            "case": server,
            "scenario": name,
            "history_cache_hits": CacheCounts.of(of.url).share_since(counts[server]),
            **results[server].report(),
        }
        for server, of in servers.items()
    ]
