"""python -m loadtest bench: what a request takes at a given rate, in an open loop.

Poisson arrivals from processes of their own; latency counts from when a request was due. A run
whose generator was the bottleneck is void, and says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest import page
from loadtest.generators import generators
from loadtest.results import Load, machine
from loadtest.scenarios import MAKERS, Asking, Catalogue, Scenario, scenario
from loadtest.server import ServerError, serving


def command(name: str, arguments: Sequence[str], url: str | None) -> str:
    """What was called, with the settings that a service started for it found in the environment."""
    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("RERANK_"))
    return " ".join([*(settings if url is None else ()), "python -m loadtest", name, *arguments])


@contextlib.contextmanager
def target(asked: argparse.Namespace, **settings: object) -> Iterator[str]:
    """The URL that was asked for, or that of a service started for it."""
    if asked.url is not None:
        yield asked.url.rstrip("/")
        return
    with serving(asked.bundle, f"--workers={asked.workers}", **settings) as server:
        yield server.url


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that offers load is told."""
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"),
                        help="to serve, and to take item ids from")  # fmt: skip
    parser.add_argument("--url", help="of a service that runs; else one is started")
    parser.add_argument("--workers", type=int, default=1, help="of the service that is started")
    parser.add_argument("--scenario", choices=[*MAKERS], default="ids", help="what is asked")
    parser.add_argument("--candidates", type=int, default=50, help="of each list")
    parser.add_argument("--generators", type=int, default=1, help="processes that send")


def scenario_of(asked: argparse.Namespace) -> Scenario:
    """The scenario of a command line. Raises ValueError naming what does not fit."""
    catalogue = Catalogue.of(asked.bundle)
    most = min(len(catalogue.ids), catalogue.longest)
    if not 1 <= asked.candidates <= most:
        raise ValueError(f"--candidates: 1 to {most}, the bundle's, got {asked.candidates}")
    return scenario(asked.scenario, catalogue, Asking(asked.candidates))


def positive(text: str) -> float:
    """A number above 0. Raises argparse.ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0, got {text!r}")
    return number


def main(arguments: Sequence[str]) -> int:
    """Offer the rates one after the other; exit status 1 where a run is void or a request fails."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest bench", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add_arguments(parser)
    parser.add_argument(
        "--rate", type=positive, nargs="+", default=[100, 300, 600], help="per second"
    )
    parser.add_argument("--seconds", type=positive, default=10.0, help="at each rate")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds before, left out")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where to write")
    asked = parser.parse_args(arguments)
    try:
        what = scenario_of(asked)
        with target(asked) as url, generators(asked.generators) as sending:
            found = [
                sending.offer(url, what, Load(rate, asked.seconds, asked.warmup, seed=i))
                for i, rate in enumerate(asked.rate)
            ]
    except (OSError, KeyError, ValueError, ServerError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    report = {
        "command": command("bench", arguments, asked.url),
        "machine": machine(),
        "scenario": asked.scenario,
        "candidates": asked.candidates,
        "workers": asked.workers if asked.url is None else None,
        "runs": [each.report() for each in found],
    }
    page.write(asked.out, "bench", report, page.bench(report, found))
    print(json.dumps(report, indent=1))
    print(f"loadtest: the page is {asked.out / 'bench.html'}", file=sys.stderr)
    if all(each.failed == len(each.samples) for each in found):
        print(f"loadtest: nothing was answered as it should be by {url}", file=sys.stderr)
    return 1 if any(each.void or each.failed for each in found) else 0
