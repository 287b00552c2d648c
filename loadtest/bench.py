"""Latency at chosen rates, in an open loop."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest import page
from loadtest.commands import Bench
from loadtest.errors import MISSED, PASSED, VOID
from loadtest.generators import generators
from loadtest.history_cache import CacheCounts
from loadtest.results import Load, RateResult, described, machine
from loadtest.target import scenarios_of, target_url, with_settings


@dataclass
class Section:
    """Figures of one scenario.

    history_cache_hits: share of histories that were in the cache; None before the last rate ended,
    or without histories.
    """

    scenario: str
    results: list[RateResult] = field(default_factory=list)
    history_cache_hits: float | None = None

    def report(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "scenario": self.scenario,
            "history_cache_hits": self.history_cache_hits,
            "runs": [result.report() for result in self.results],
        }


def bench(options: Bench, command_line: str) -> int:
    """Offer the rates one after the other, and write a page and a JSON file.

    An interrupt ends the rate under way; the rates before it are written. Raises KeyboardInterrupt
    after that.
    """
    scenarios = scenarios_of(options)
    sections = [Section(scenario.name) for scenario in scenarios]
    first, *others = sections
    interrupt: KeyboardInterrupt | None = None
    try:
        with target_url(options) as url, generators(options.generators) as load_generators:
            for scenario, section in zip(scenarios, sections, strict=True):
                counts = CacheCounts.of(url)
                for number, rate in enumerate(options.rate):
                    load = Load(rate, options.seconds, options.warmup, seed=number)
                    section.results.append(load_generators.offer(url, scenario, load))
                section.history_cache_hits = CacheCounts.of(url).share_since(counts)
    except KeyboardInterrupt as error:
        if not first.results:
            raise
        interrupt = error
    report = {
        "command": with_settings(command_line, options),
        "machine": machine(),
        "candidates": options.candidates,
        "workers": options.workers if options.url is None else None,
        "interrupted": interrupt is not None,
        **first.report(),
        "beside": [section.report() for section in others],
    }
    page.write(options.out, "bench", report, page.bench(report, first.results))
    print(json.dumps(report, indent=1))
    print(f"loadtest bench: the page is {options.out / 'bench.html'}", file=sys.stderr)
    if interrupt is not None:
        raise interrupt
    return verdict([result for section in sections for result in section.results], url)


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
