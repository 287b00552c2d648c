"""Agreement of the open loop with hey, another tool, at a low rate."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import tempfile
from typing import Any

import numpy as np

from loadtest.commands import Agree
from loadtest.errors import MISSED, PASSED, UsageError
from loadtest.generators import generators
from loadtest.processes import bound_to_parent
from loadtest.results import Load, described, machine
from loadtest.scenarios import JSON, Catalogue, RequestOptions, scenario
from loadtest.server import ServerError, serving

TOLERANCE = 0.15


def agree(options: Agree) -> int:
    """Measure with both tools, write the report and compare the medians."""
    if shutil.which("hey") is None:
        raise UsageError("hey is not installed; on Debian: apt-get install hey")
    report = measure(options)
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    return MISSED if abs(report["ours_over_hey"] - 1) > TOLERANCE else PASSED


def measure(options: Agree) -> dict[str, Any]:
    """Return the medians of both tools in ms. Raises ServerError for a failed request."""
    bodies = scenario("ids", Catalogue.of(options.bundle), RequestOptions(50), count=1)
    medians: dict[str, list[float]] = {"hey": [], "ours": []}
    with serving(options.bundle) as server, generators(1) as load_generators:
        for turn in range(options.turns):
            url, body = server.url + bodies.path, bodies.bodies[0]
            medians["hey"].append(median_of_hey(url, body, options))
            run = load_generators.offer(
                server.url, bodies, Load(options.rate, options.seconds, seed=turn)
            )
            if run.failed or run.unranked:
                raise ServerError(
                    f"{run.failed} requests failed ({described(run.failures)}), "
                    f"{run.unranked} were not ranked"
                )
            medians["ours"].append(run.latency_ms(0.5))
    hey, ours = (float(np.mean(medians[name])) for name in ("hey", "ours"))
    return {
        "command": "python -m loadtest agree", "machine": machine(), "rate": options.rate,
        "p50_ms": {name: [round(v, 3) for v in values] for name, values in medians.items()},
        "ours_over_hey": round(ours / hey, 3),
    }  # fmt: skip


def median_of_hey(url: str, body: bytes, options: Agree) -> float:
    """Return hey's median in ms for one client at the rate. Raises ServerError when hey fails."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(body)
        file.flush()
        command = [
            "hey", "-c", "1", "-q", str(options.rate), "-z", f"{options.seconds:g}s", "-m", "POST",
            "-T", JSON, "-D", file.name, "-o", "csv", url,
        ]  # fmt: skip
        done = subprocess.run(bound_to_parent(command), check=False, capture_output=True, text=True)
    if done.returncode:
        raise ServerError(f"hey: exit status {done.returncode}: {done.stderr.strip()}")
    times = [float(line["response-time"]) for line in csv.DictReader(done.stdout.splitlines())]
    return 1e3 * float(np.median(times))
