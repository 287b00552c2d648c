"""CPU time per request of two checkouts, in turns: other load of the machine changes it little."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from loadtest.commands import Cpu
from loadtest.cpu import TURNS, run_turn, spread
from loadtest.errors import PASSED
from loadtest.history_cache import CacheCounts
from loadtest.results import hardware
from loadtest.scenarios import Catalogue, RequestOptions, scenario
from loadtest.server import Server, ServerError, serving_under
from loadtest.target import require_candidates

SCENARIOS = ("ids", "history", "returning")
# A run in a thread costs more than one on the event loop; a busy machine must not choose.
SETTINGS = {"adaptive_budget": "false", "brief_run_ms": 1e6}


def compare(options: Cpu) -> int:
    """Measure both checkouts in every scenario and write the report.

    Raises ServerError for a failed request.
    """
    assert options.baseline is not None
    catalogue = Catalogue.of(options.bundle)
    require_candidates(options.candidates, catalogue, options.bundle)
    trees = {"before": options.baseline, "after": Path()}
    rows = []
    try:
        with contextlib.ExitStack() as stack:
            servers = {
                name: stack.enter_context(
                    serving_under((), options.bundle, settings=SETTINGS, checkout=tree)
                )
                for name, tree in trees.items()
            }
            for name in tqdm(SCENARIOS, disable=None):
                rows += measure_in_turns(servers, name, catalogue, options)
    except httpx.HTTPError as error:
        raise ServerError(f"{type(error).__name__}: {error}") from error
    report = {
        "command": "python -m loadtest cpu --baseline CHECKOUT",
        "commits": {name: commit_of(tree) for name, tree in trees.items()},
        "machine": hardware(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "candidates": options.candidates,
        "rows": rows,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    return PASSED


def measure_in_turns(
    servers: dict[str, Server], name: str, catalogue: Catalogue, options: Cpu
) -> list[dict[str, Any]]:
    """Return a row for each server: milliseconds per request, mean, least and greatest."""
    requests = scenario(name, catalogue, RequestOptions(options.candidates, entropy_threshold=-1))
    counts = {server: CacheCounts.of(of.url) for server, of in servers.items()}
    turns: dict[str, list[tuple[float, float]]] = {server: [] for server in servers}
    for turn in range(TURNS + 1):
        for server, of in servers.items():
            with httpx.Client(base_url=of.url) as client:
                times = run_turn(of, client, requests, options.requests, turn)
            if turn:  # the first turn is a warm-up
                turns[server].append(times)
    return [
        {
            "case": server,
            "scenario": name,
            "history_cache_hits": CacheCounts.of(of.url).share_since(counts[server]),
            "inside_ms": spread([inside for inside, _ in turns[server]]),
            "outside_ms": spread([outside for _, outside in turns[server]]),
            "total_ms": spread([inside + outside for inside, outside in turns[server]]),
        }
        for server, of in servers.items()
    ]


def commit_of(tree: Path) -> str:
    """Return the abbreviated commit of a checkout, with -dirty where its files differ."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout[:-1]
