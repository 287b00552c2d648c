"""CPU time per request, inside the graph's run and outside of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from loadtest.commands import Cpu
from loadtest.errors import PASSED
from loadtest.history_cache import CacheCounts
from loadtest.results import hardware
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario
from loadtest.server import Server, ServerError, serving
from loadtest.target import require_candidates

TURNS = 5


def measure_cpu(options: Cpu) -> int:
    """Measure and write the report. Raises ServerError for a failed request."""
    catalogue = Catalogue.of(options.bundle)
    require_candidates(options.candidates, catalogue, options.bundle)
    every_step = RequestOptions(options.candidates, entropy_threshold=-1)
    requests = scenario(options.scenario, catalogue, every_step)
    try:
        with serving(options.bundle, adaptive_budget="false") as server:
            report = measure(server, requests, options)
    except httpx.HTTPError as error:
        raise ServerError(f"{type(error).__name__}: {error}") from error
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    return PASSED


def measure(server: Server, requests: Scenario, options: Cpu) -> dict[str, Any]:
    """Return milliseconds per request: mean, least and greatest of the turns."""
    turns = []
    counts = CacheCounts.of(server.url)
    with httpx.Client(base_url=server.url) as client:
        for turn in range(TURNS + 1):
            inside, outside = run_turn(server, client, requests, options.requests, turn)
            if turn:  # the first turn is a warm-up
                turns.append((inside, outside, outside / inside))
    names = ("inside_ms", "outside_ms", "outside_over_inside")
    return {
        "command": "python -m loadtest cpu",
        "machine": hardware(),
        "scenario": options.scenario,
        "history_cache_hits": CacheCounts.of(server.url).share_since(counts),
        "candidates": options.candidates,
        **{name: spread(values) for name, values in zip(names, zip(*turns, strict=True),
                                                        strict=True)},
    }  # fmt: skip


def run_turn(
    server: Server, client: httpx.Client, requests: Scenario, count: int, turn: int
) -> tuple[float, float]:
    """Send the requests of a turn, `count` in number.

    Return milliseconds of CPU time per request, inside and outside of the graph's run.
    """
    before = cpu_seconds(server, client)
    for number in range(turn * count, (turn + 1) * count):
        body = requests.bodies[number % len(requests.bodies)]
        client.post(requests.path, content=body).raise_for_status()
    total, inside = (
        1e3 * (end - begin) / count
        for begin, end in zip(before, cpu_seconds(server, client), strict=True)
    )
    return inside, total - inside


def spread(values: Sequence[float]) -> list[float]:
    """Return mean, least and greatest."""
    return [round(float(np.mean(values)), 4), round(min(values), 4), round(max(values), 4)]


def cpu_seconds(server: Server, client: httpx.Client) -> tuple[float, float]:
    """Return the CPU seconds of the process so far, and those in the graph's run."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    text = client.get("/metrics").text
    inside = re.findall(r"^rerank_inference_cpu_seconds_total (\S+)$", text, re.M)[0]
    return ticks / os.sysconf("SC_CLK_TCK"), float(inside)
