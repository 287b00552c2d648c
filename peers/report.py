"""The comparison of servers as a page: its tables, and a plot of the capacities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers import PEERS

OURS = "this service"
SAME = {True: "the same", False: "DIFFER", None: "of another model"}


def written(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    ranked = sorted(report["rows"], key=lambda r: -r["capacity_rps"])
    packages = {peer.name: f"{peer.distribution} " for peer in PEERS}
    lines = [
        f"| {r['server']} | {packages.get(r['server'], '')}{r['version']} "
        f"| {r['capacity_rps']:.0f} | "
        f"{r['low']:.0f}..{r['high']:.0f}{' or more' if r['void'] else ''} | {r['load_rps']:.0f} "
        f"| {r['p50_ms']:.1f} | {r['p99_ms']:.1f} | {r['cpu_ms']:.2f} "
        f"| {'the reference' if r['server'] == OURS else SAME[r['same_answers']]} |"
        for r in ranked
    ]
    settings = [f"- **{r['server']}**: {r['settings']}" for r in ranked]
    table, chosen = "\n".join(lines), "\n".join(settings)
    return f"""# Peers

Made by `{report["command"]}`. Machine: {report["machine"]}.
Lists of {report["candidates"]} candidates, ids alone, at the bundle's full budget. Capacity is the
highest rate of an open loop with p99 of at most {report["p99_ms"]:g} ms: mean and range of the
rounds. p50, p99 and CPU milliseconds of a list are at about half of it. Latency counts from when a
request was due; CPU time is the whole machine's less the generator's, so what else the machine does
is in it, and counts most where few lists are ranked.

| server | package | requests/s | range | load | p50 ms | p99 ms | CPU ms | answers |
|---|---|---|---|---|---|---|---|---|
{table}
{compared(report)}
Each peer does with a request what this service does, by the same code (`peers/work.py`):
parse, featurise, run, decode, respond. Settings, the best found for two cores:

{chosen}

![Capacity of each server](peers.png)
"""


def compared(report: dict[str, Any]) -> str:
    """Ours beside the best of the others, and where the time goes; nothing without one."""
    if report["ours_over_best"] is None:
        return ""

    def ranged(values: Sequence[float], digits: int) -> str:
        return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*values, d=digits)

    equal = dict(report["equal_load"])
    load = equal.pop("load_rps")
    lines = [
        f"| {name} | {ranged(v['p50_ms'], 1)} | {ranged(v['p99_ms'], 1)} "
        f"| {ranged(v['cpu_ms'], 3)} |"
        for name, v in equal.items()
    ]
    mine = equal[OURS]
    alone = [
        f"| {r['lists']} | {r['parse_ms']:.3f} | {r['run_ms']:.3f} | {r['respond_ms']:.3f} "
        f"| {r['parse_ms'] + r['run_ms'] + r['respond_ms']:.3f} |"
        for r in report["work_alone"]
    ]
    table, floor = "\n".join(lines), "\n".join(alone)
    return f"""
Ours over the best of those with the same model, round by round:
{ranged(report["ours_over_best"], 2)}. In turns at {load:.0f} requests/s:

| server | p50 ms | p99 ms | CPU ms of a list |
|---|---|---|---|
{table}

Of ours {ranged(mine["run_cpu_ms"], 3)} are the graph's, in runs of {mine["lists_a_run"][0]:.1f}
lists. The work alone, in one process that has a core, without any server, CPU ms of a list:

| lists in a run | parse, featurise | run | respond | all |
|---|---|---|---|---|
{floor}
"""


def plot(report: dict[str, Any], path: Path) -> None:
    """Capacities with their ranges."""
    from matplotlib.figure import Figure

    ranked = sorted(report["rows"], key=lambda r: r["capacity_rps"])
    figure = Figure(figsize=(8, 0.5 * len(ranked) + 1.2), layout="constrained")
    axes = figure.subplots()
    spread = [
        [r["capacity_rps"] - r["low"] for r in ranked],
        [r["high"] - r["capacity_rps"] for r in ranked],
    ]
    colours = ["tab:blue" if r["server"] == OURS else "tab:grey" for r in ranked]
    axes.barh([r["server"] for r in ranked], [r["capacity_rps"] for r in ranked], xerr=spread,
              color=colours, capsize=3)  # fmt: skip
    axes.set_xlabel(f"requests per second at p99 <= {report['p99_ms']:g} ms")
    figure.savefig(path, dpi=110)
