"""Latency at chosen rates, in an open loop."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence

from loadtest import page
from loadtest.commands import Bench
from loadtest.errors import MISSED, PASSED, VOID
from loadtest.generators import generators
from loadtest.history_cache import CacheCounts
from loadtest.results import Load, RateResult, described, machine
from loadtest.target import scenario_of, target_url, with_settings


def bench(options: Bench, command_line: str) -> int:
    """Offer the rates one after the other, and write a page and a JSON file.

    An interrupt ends the rate under way; the rates before it are written. Raises KeyboardInterrupt
    after that.
    """
    scenario = scenario_of(options)
    results: list[RateResult] = []
    hits: float | None = None
    interrupt: KeyboardInterrupt | None = None
    try:
        with target_url(options) as url, generators(options.generators) as load_generators:
            counts = CacheCounts.of(url)
            for number, rate in enumerate(options.rate):
                load = Load(rate, options.seconds, options.warmup, seed=number)
                results.append(load_generators.offer(url, scenario, load))
            hits = CacheCounts.of(url).share_since(counts)
    except KeyboardInterrupt as error:
        if not results:
            raise
        interrupt = error
    report = {
        "command": with_settings(command_line, options),
        "machine": machine(),
        "scenario": options.scenario,
        "candidates": options.candidates,
        "workers": options.workers if options.url is None else None,
        "history_cache_hits": hits,
        "interrupted": interrupt is not None,
        "runs": [result.report() for result in results],
    }
    page.write(options.out, "bench", report, page.bench(report, results))
    print(json.dumps(report, indent=1))
    print(f"loadtest bench: the page is {options.out / 'bench.html'}", file=sys.stderr)
    if interrupt is not None:
        raise interrupt
    return verdict(results, url)


def verdict(results: Sequence[RateResult], url: str) -> int:
    """Return the exit status of some rates, and say on stderr why it is not 0."""
    void = [result for result in results if result.void]
    failures = sum((result.failures for result in results), Counter[str]())
    if failures:
        everything = sum(failures.values()) == sum(len(result.samples) for result in results)
        share = "every request" if everything else "some requests"
        print(f"loadtest bench: {share} to {url} failed: {described(failures)}", file=sys.stderr)
    for result in void:
        print(f"loadtest bench: {result.load.rate:g}/s is void: {result.void}", file=sys.stderr)
    if void:
        return VOID
    return MISSED if failures else PASSED
