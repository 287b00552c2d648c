"""python -m loadtest growth: capacity as work grows, one thing at a time.

Lists of more candidates, longer slates, larger budgets, more workers; ids alone beside features
inline, JSON beside MessagePack. Everything else stays at 50 candidates, ids alone, one worker, the
bundle's slate length and budget. Writes growth.{json,md,png}.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loadtest.capacity import Bound, capacity
from loadtest.generators import generators
from loadtest.results import machine
from loadtest.scenarios import Asking, Catalogue, Scenario, scenario
from loadtest.server import ServerError, serving

CANDIDATES = (10, 20, 50, 100, 200, 500)
WORKERS = (1, 2)
GROWING = ("candidates", "slate length", "budget", "workers", "body")


@dataclass(frozen=True)
class Cell:
    """One point: what grows, how far, and who is asked what."""

    what: str
    value: str
    asked: Scenario
    workers: int = 1


def cells(bundle: Path) -> Iterator[Cell]:
    """All points. Raises OSError, ValueError or KeyError where there is no bundle."""
    catalogue = Catalogue.of(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    most = min(len(catalogue.ids), catalogue.longest)

    def ids(**asking: int) -> Scenario:
        return scenario("ids", catalogue, Asking(**{"candidates": min(50, most), **asking}))

    for size in CANDIDATES:
        if size <= most:
            yield Cell("candidates", str(size), ids(candidates=size))
    longest = catalogue.slate_length
    for length in sorted({1, max(1, longest // 2), longest}):
        yield Cell("slate length", str(length), ids(slate_size=length))
    for budget in range(manifest["budget"] + 1):
        yield Cell("budget", str(budget), ids(budget=budget))
    for workers in WORKERS:
        yield Cell("workers", str(workers), ids(), workers)
    for name in ("ids", "history", "inline"):
        asked = scenario(name, catalogue, Asking(min(50, most)))
        yield Cell("body", f"{name}, JSON", asked)
        yield Cell("body", f"{name}, MessagePack", asked.packed())


def main(arguments: Sequence[str]) -> int:
    """Measure what is not in the report yet, and write it after each point: Ctrl-C loses one."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest growth", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"), help="to serve")
    parser.add_argument("--p99-ms", type=float, default=30.0, help="the bound")
    parser.add_argument("--seconds", type=float, default=3.0, help="at each rate")
    parser.add_argument("--repeats", type=int, default=2, help="of each search")
    parser.add_argument("--only", choices=GROWING, help="what grows: measure no other")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--out", type=Path, default=Path("docs/reports"), help="where to write")
    asked = parser.parse_args(arguments)
    path = asked.out / "growth.json"
    head = {
        "command": f"python -m loadtest growth --seconds {asked.seconds:g} "
        f"--repeats {asked.repeats}",
        "machine": machine(), "p99_ms": asked.p99_ms,
    }  # fmt: skip
    try:
        points = [cell for cell in cells(asked.bundle) if asked.only in (None, cell.what)]
        rows = {} if asked.fresh else earlier(path, head)
        asked.out.mkdir(parents=True, exist_ok=True)
        with generators(1) as sending:
            for cell in tqdm(points, unit="point"):
                if (cell.what, cell.value) in rows:
                    continue
                with serving(
                    asked.bundle, f"--workers={cell.workers}", adaptive_budget="false"
                ) as server:
                    found = capacity(
                        sending, server.url, cell.asked, Bound(asked.p99_ms), asked.seconds,
                        asked.repeats,
                    )  # fmt: skip
                rows[cell.what, cell.value] = {
                    "what": cell.what, "value": cell.value, **found.report(),
                    "body_bytes": sum(map(len, cell.asked.bodies)) // len(cell.asked.bodies),
                }  # fmt: skip
                report = {**head, "rows": list(rows.values())}
                path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    except (OSError, KeyError, ValueError, ServerError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    report = {**head, "rows": list(rows.values())}
    (asked.out / "growth.md").write_text(written(report), "utf-8")
    plot(report, asked.out / "growth.png")
    print(written(report))
    return 0


def earlier(path: Path, head: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The points of a report that was made alike. Raises ValueError for another kind of one."""
    if not path.exists():
        return {}
    report = json.loads(path.read_text("utf-8"))
    if any(report.get(name) != value for name, value in head.items()):
        raise ValueError(f"{path} was made otherwise or elsewhere; --fresh replaces it")
    return {(row["what"], row["value"]): row for row in report["rows"]}


def spread(row: dict[str, Any]) -> str:
    """The searches' range; of one search none is known."""
    return "one search" if len(row["repeats"]) == 1 else f"{row['low']:.0f}..{row['high']:.0f}"


def written(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        f"| {r['what']} | {r['value']} | {r['body_bytes']} | {r['capacity_rps']:.0f} "
        f"| {spread(r)}{' or more' if r['void'] else ''} |"
        for r in report["rows"]
    ]
    table = "\n".join(lines)
    return f"""# Capacity as work grows

Made by `{report["command"]}`. Machine: {report["machine"]}.
Requests per second in an open loop at a p99 of at most {report["p99_ms"]:g} ms: the mean of the
searches and their range. What is not named is 50 candidates, ids alone as JSON, one worker, the
bundle's slate length and budget, which load does not lower here. "or more": the generator was the
bottleneck.

| what | value | bytes of a body | requests/s | range |
|---|---|---|---|---|
{table}

![Capacity against each](growth.png)
"""


def plot(report: dict[str, Any], path: Path) -> None:
    """One panel for each thing that grows."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["what"] for row in report["rows"]))
    figure = Figure(figsize=(10, 3 * ((len(names) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(names) + 1) // 2, 2, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        own = [row for row in report["rows"] if row["what"] == name]
        values = [row["value"] for row in own]
        spread = [
            [row["capacity_rps"] - row["low"] for row in own],
            [row["high"] - row["capacity_rps"] for row in own],
        ]
        axes.bar(values, [row["capacity_rps"] for row in own], yerr=spread, capsize=3)
        axes.set(title=name, ylabel="requests/s")
        axes.tick_params(axis="x", rotation=20 if name == "body" else 0)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=110)
