"""python -m loadtest agree: does the open loop see what another tool sees?

The service at thirty requests per second, the same request, once asked by `hey` (a Debian package)
and once by this open loop, in turns. Writes agree.json; exit status 1 where the medians differ by
more than 15 %.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.generators import generators
from loadtest.processes import bound_to_parent
from loadtest.results import Load, machine
from loadtest.scenarios import JSON, Asking, Catalogue, scenario
from loadtest.server import ServerError, serving

TOLERANCE = 0.15


def main(arguments: Sequence[str]) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest agree", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"), help="to serve")
    parser.add_argument("--rate", type=int, default=30, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=3, help="of each tool")
    parser.add_argument("--out", type=Path, default=Path("docs/reports/agree.json"), help="where")
    asked = parser.parse_args(arguments)
    if shutil.which("hey") is None:
        print("loadtest: hey is not installed (apt-get install hey)", file=sys.stderr)
        return 2
    try:
        report = measure(asked)
    except (OSError, KeyError, ValueError, ServerError, subprocess.CalledProcessError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    asked.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    return 1 if abs(report["ours_over_hey"] - 1) > TOLERANCE else 0


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Medians of both, in ms."""
    what = scenario("ids", Catalogue.of(asked.bundle), Asking(50), count=1)
    medians: dict[str, list[float]] = {"hey": [], "ours": []}
    with serving(asked.bundle) as server, generators(1) as sending:
        for turn in range(asked.turns):
            medians["hey"].append(by_hey(server.url + what.path, what.bodies[0], asked))
            run = sending.offer(server.url, what, Load(
                asked.rate, asked.seconds, seed=turn))  # fmt: skip
            if run.failed or run.unranked:
                raise ServerError(f"{run.failed} requests failed, {run.unranked} were not ranked")
            medians["ours"].append(run.latency_ms(0.5))
    hey, ours = (float(np.mean(medians[name])) for name in ("hey", "ours"))
    return {
        "command": "python -m loadtest agree", "machine": machine(), "rate": asked.rate,
        "p50_ms": {name: [round(v, 3) for v in values] for name, values in medians.items()},
        "ours_over_hey": round(ours / hey, 3),
    }  # fmt: skip


def by_hey(url: str, body: bytes, asked: argparse.Namespace) -> float:
    """The median that hey tells, one client at the rate. Raises CalledProcessError."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(body)
        file.flush()
        told = subprocess.run(
            bound_to_parent(
                ["hey", "-c", "1", "-q", str(asked.rate), "-z", f"{asked.seconds:g}s", "-m", "POST",
                 "-T", JSON, "-D", file.name, "-o", "csv", url]
            ),
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    times = [float(line["response-time"]) for line in csv.DictReader(told.stdout.splitlines())]
    return 1e3 * float(np.median(times))
