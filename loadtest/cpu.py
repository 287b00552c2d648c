"""python -m loadtest cpu: CPU time of a request, inside the graph's run and outside of it.

One closed-loop client, ids alone, every reasoning step taken. The process's own CPU time from the
kernel, the run's from `rerank_inference_cpu_seconds_total`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from loadtest.server import Server, ServerError, serving


def main(arguments: Sequence[str]) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest cpu", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"), help="to serve")
    parser.add_argument("--candidates", type=int, default=50, help="of each list")
    parser.add_argument("--requests", type=int, default=2000, help="in each of five turns")
    parser.add_argument("--out", type=Path, default=Path("docs/reports/cpu.json"), help="where")
    asked = parser.parse_args(arguments)
    try:
        with serving(asked.bundle, adaptive_budget="false") as server:
            report = measure(server, asked)
    except (OSError, ServerError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    asked.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    return 0


def measure(server: Server, asked: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds per request: the mean of five turns, and the range."""
    with np.load(asked.bundle / "items.npz", allow_pickle=False) as table:
        ids = table["ids"].tolist()[: asked.candidates]
    body = json.dumps({"candidates": ids, "reasoning": {"entropy_threshold": -1}}).encode()
    turns = []
    with httpx.Client(base_url=server.url) as client:
        for turn in range(6):
            before = spent(server, client)
            for _ in range(asked.requests):
                client.post("/rerank", content=body).raise_for_status()
            total, inside = (
                1e3 * (b - a) / asked.requests
                for a, b in zip(before, spent(server, client), strict=True)
            )
            if turn:  # the first warms
                turns.append((inside, total - inside, (total - inside) / inside))
    names = ("inside_ms", "outside_ms", "outside_over_inside")
    return {
        "command": "python -m loadtest cpu",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "candidates": asked.candidates,
        **{
            name: [round(float(np.mean(v)), 4), round(min(v), 4), round(max(v), 4)]
            for name, v in zip(names, zip(*turns, strict=True), strict=True)
        },
    }


def spent(server: Server, client: httpx.Client) -> tuple[float, float]:
    """CPU seconds of the process so far, and of them in the run."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    text = client.get("/metrics").text
    inside = re.findall(r"^rerank_inference_cpu_seconds_total (\S+)$", text, re.M)[0]
    return ticks / os.sysconf("SC_CLK_TCK"), float(inside)
