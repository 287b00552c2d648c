"""Capacity as work grows, one dimension at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loadtest import page
from loadtest.capacity import Bound, capacity
from loadtest.commands import Growth
from loadtest.errors import PASSED, VOID, UsageError
from loadtest.generators import generators
from loadtest.results import machine
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario
from loadtest.server import serving

CANDIDATES = (10, 20, 50, 100, 200, 500)
WORKERS = (1, 2)


@dataclass(frozen=True)
class Point:
    """One measurement: the dimension that grows, its value, the requests and the workers."""

    dimension: str
    value: str
    scenario: Scenario
    workers: int = 1


def points(bundle: Path) -> Iterator[Point]:
    """Yield all points. Raises UsageError for a directory that is no bundle."""
    catalogue = Catalogue.of(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    limit = min(len(catalogue.ids), catalogue.longest)

    def ids(
        candidates: int = min(50, limit), slate_size: int | None = None, budget: int | None = None
    ) -> Scenario:
        return scenario("ids", catalogue, RequestOptions(candidates, slate_size, budget))

    for size in CANDIDATES:
        if size <= limit:
            yield Point("candidates", str(size), ids(candidates=size))
    longest = catalogue.slate_length
    for length in sorted({1, max(1, longest // 2), longest}):
        yield Point("slate length", str(length), ids(slate_size=length))
    for budget in range(manifest["budget"] + 1):
        yield Point("budget", str(budget), ids(budget=budget))
    for workers in WORKERS:
        yield Point("workers", str(workers), ids(), workers)
    for name in ("ids", "history", "inline"):
        bodies = scenario(name, catalogue, RequestOptions(min(50, limit)))
        yield Point("body", f"{name}, JSON", bodies)
        yield Point("body", f"{name}, MessagePack", bodies.packed())


def grow(options: Growth) -> int:
    """Measure the points that the report lacks; it is written after each of them."""
    path = options.out / "growth.json"
    head = {
        "command": f"python -m loadtest growth --seconds {options.seconds:g} "
        f"--repeats {options.repeats}",
        "machine": machine(), "p99_ms": options.p99_ms,
    }  # fmt: skip
    chosen = [p for p in points(options.bundle) if options.only in (None, p.dimension)]
    rows = {} if options.fresh else earlier_rows(path, head)
    options.out.mkdir(parents=True, exist_ok=True)
    with generators(1) as load_generators:
        for point in tqdm(chosen, unit="point", disable=None):
            if (point.dimension, point.value) in rows:
                continue
            with serving(
                options.bundle, f"--workers={point.workers}", adaptive_budget="false"
            ) as server:
                searched = capacity(
                    load_generators, server.url, point.scenario, Bound(options.p99_ms),
                    options.seconds, options.repeats,
                )  # fmt: skip
            bodies = point.scenario.bodies
            rows[point.dimension, point.value] = {
                "what": point.dimension, "value": point.value, **searched.report(),
                "body_bytes": sum(map(len, bodies)) // len(bodies),
            }  # fmt: skip
            report = {**head, "rows": list(rows.values())}
            path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    report = {**head, "rows": list(rows.values())}
    write_page(report, options.out)
    print(page.render("growth.md", report=report, spread=spread))
    return VOID if any(row["void"] for row in rows.values()) else PASSED


def write_page(report: dict[str, Any], out: Path) -> None:
    """Write growth.md and growth.png."""
    from loadtest import plots

    (out / "growth.md").write_text(page.render("growth.md", report=report, spread=spread), "utf-8")
    plots.growth(report, out / "growth.png")


def earlier_rows(path: Path, head: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the points of an interrupted run. Raises UsageError for a report of other options."""
    if not path.exists():
        return {}
    report = json.loads(path.read_text("utf-8"))
    for name, value in head.items():
        if report.get(name) != value:
            raise UsageError(
                f"{path}: {name} is {report.get(name)!r}, now {value!r}; --fresh replaces it"
            )
    return {(row["what"], row["value"]): row for row in report["rows"]}


def spread(row: dict[str, Any]) -> str:
    """Return the range of the searches; a single search has none."""
    return "one search" if len(row["repeats"]) == 1 else f"{row['low']:.0f}..{row['high']:.0f}"
