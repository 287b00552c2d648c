"""Python calls, calls into C and memory per request: figures that no load of the machine changes.

A request that costs little CPU time spreads it over many calls, so that no profile shows where to
save. Their number does not depend on the machine.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from loadtest.commands import Cpu
from loadtest.cpu_turns import SCENARIOS, SETTINGS, commit_of
from loadtest.errors import PASSED
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario
from loadtest.server import ServerError, serving_under
from loadtest.target import require_candidates

COUNTED = Path(__file__).with_name("counted.py")
WARM_UP = 70  # requests before the count: more than a scenario has bodies
LARGEST = 40  # functions that the report names
OTHER = "the standard library"


def count_calls(options: Cpu) -> int:
    """Count in each checkout and scenario, and write the report.

    Raises ServerError for a failed request.
    """
    catalogue = Catalogue.of(options.bundle)
    require_candidates(options.candidates, catalogue, options.bundle)
    trees = {"after": Path()}
    if options.baseline is not None:
        trees = {"before": options.baseline, **trees}
    try:
        rows = [row for case, tree in trees.items() for row in of_tree(case, tree, options)]
    except httpx.HTTPError as error:
        raise ServerError(f"{type(error).__name__}: {error}") from error
    report = {
        "command": "python -m loadtest cpu --calls",
        "commits": {case: commit_of(tree) for case, tree in trees.items()},
        "python": sys.version.split()[0],
        "candidates": options.candidates,
        "rows": rows,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    return PASSED


def of_tree(case: str, tree: Path, options: Cpu) -> list[dict[str, Any]]:
    """Return a row per scenario for the service of a checkout."""
    catalogue = Catalogue.of(options.bundle)
    every_step = RequestOptions(options.candidates, entropy_threshold=-1)
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/calls"
        wrapper = [sys.executable, str(COUNTED), path]
        with (
            serving_under(wrapper, options.bundle, settings=SETTINGS, checkout=tree) as server,
            httpx.Client(base_url=server.url) as client,
        ):
            return [
                {
                    "case": case,
                    "scenario": name,
                    **per_request(path, client, scenario(name, catalogue, every_step), options),
                }
                for name in SCENARIOS
            ]


def per_request(
    path: str, client: httpx.Client, requests: Scenario, options: Cpu
) -> dict[str, Any]:
    """Return the calls and KiB of a request, and the calls by package and by function."""

    def send(count: int) -> None:
        for number in range(count):
            body = requests.bodies[number % len(requests.bodies)]
            client.post(requests.path, content=body).raise_for_status()

    send(WARM_UP)
    before = read_counts(path)
    send(options.requests)
    after = read_counts(path)
    count = options.requests
    send(1)
    peak = read_counts(path)["peak"]
    python = by_function(after, 2)
    python.subtract(by_function(before, 2))
    into_c = by_function(after, 3)
    into_c.subtract(by_function(before, 3))
    packages: Counter[str] = Counter()
    for name, calls in python.items():
        packages[package_of(name)] += calls
    return {
        "python_calls": round(python.total() / count, 1),
        "c_calls": round(into_c.total() / count, 1),
        "peak_kib": round(peak / 1024, 1),
        "packages": rounded(packages.most_common(), count),
        "functions": rounded(python.most_common(LARGEST), count),
    }


def rounded(counts: Sequence[tuple[str, int]], requests: int) -> dict[str, float]:
    """Return counts per request; those that no request causes are left out."""
    shares = {name: round(calls / requests, 1) for name, calls in counts}
    return {name: share for name, share in shares.items() if share}


def read_counts(path: str) -> Mapping[str, Any]:
    """Return the counts of a process under `counted.py`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        parts: list[bytes] = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    counts: Mapping[str, Any] = json.loads(b"".join(parts))
    return counts


def by_function(counts: Mapping[str, Any], column: int) -> Counter[str]:
    """Return a column of the counts by file and name of the function."""
    total: Counter[str] = Counter()
    function: Sequence[Any]
    for function in counts["functions"]:
        total[f"{short(function[0])}:{function[1]}"] += function[column]
    return total


def short(file: str) -> str:
    """Return the part of a file's path that names its module."""
    for folder in ("/site-packages/", "/service/"):
        _, separator, rest = file.rpartition(folder)
        if separator:
            return rest if folder == "/site-packages/" else f"service/{rest}"
    return f"{OTHER}/{Path(file).name}"


def package_of(function: str) -> str:
    """Return the package of a function, with its room if it is of the service."""
    first, _, rest = function.partition(":")[0].partition("/")
    return f"service/{rest.partition('/')[0]}" if first == "service" else first
