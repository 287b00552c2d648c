"""CPU time per request, inside the graph's run and outside of it."""

from __future__ import annotations

import json
import os
import re
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
            before = cpu_seconds(server, client)
            for number in range(turn * options.requests, (turn + 1) * options.requests):
                body = requests.bodies[number % len(requests.bodies)]
                client.post(requests.path, content=body).raise_for_status()
            total, inside = (
                1e3 * (end - begin) / options.requests
                for begin, end in zip(before, cpu_seconds(server, client), strict=True)
            )
            if turn:  # the first turn is a warm-up
                turns.append((inside, total - inside, (total - inside) / inside))
    names = ("inside_ms", "outside_ms", "outside_over_inside")
    return {
        "command": "python -m loadtest cpu",
        "machine": hardware(),
        "scenario": options.scenario,
        "history_cache_hits": CacheCounts.of(server.url).share_since(counts),
        "candidates": options.candidates,
        **{
            name: [round(float(np.mean(v)), 4), round(min(v), 4), round(max(v), 4)]
            for name, v in zip(names, zip(*turns, strict=True), strict=True)
        },
    }


def cpu_seconds(server: Server, client: httpx.Client) -> tuple[float, float]:
    """Return the CPU seconds of the process so far, and those in the graph's run."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    text = client.get("/metrics").text
    inside = re.findall(r"^rerank_inference_cpu_seconds_total (\S+)$", text, re.M)[0]
    return ticks / os.sysconf("SC_CLK_TCK"), float(inside)
