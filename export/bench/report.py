"""The benchmark's report: ratios of one run, sweeps, the arithmetic floor, plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from export.bench.pages import render
from pages.figures import save

Row = dict[str, Any]
KEY = ("variant", "batch", "candidates", "slate_length", "budget", "reasoning_share")
# Ratio in inference.json -> its label on the page.
RATIO_LABELS = {
    "torch eager / static": "torch eager / static",
    "torch eager / gated": "torch eager / gated",
    "gated, nobody reasons / S = 0": "gated, no row reasons / static, S = 0",
    "gated, all reason / static": "gated, all rows reason / static",
    "cost of reasoning, half of the rows / all": "cost of reasoning, half of the rows / all rows",
    "torch eager / native": "torch eager / native",
    "static / native": "static / native, all rows reason",
    "gated / native, nobody reasons": "gated / native, no row reasons",
    "native, half of the rows / all": "native, half of the rows reason / all rows",
}
COLOURS = {"gated": "tab:blue", "static": "tab:orange", "native": "tab:green"}
STYLES: dict[float, Literal[":", "--", "-"]] = {
    0.0: ":",
    0.5: "--",
    1.0: "-",
}  # share of the rows that reason -> line
# Of the plot beside the first: swept field, axis label, title, variants, fields off the base size.
PANELS: tuple[tuple[str, str, str, tuple[str, ...], dict[str, Any]], ...] = (
    ("candidates", "candidates N", "1 list", ("gated", "static", "native"), {}),
    ("slate_length", "positions K", "1 list", ("gated", "static", "native"), {}),
    ("budget", "reasoning steps S per position", "1 list", ("static",), {}),
    ("budget", "reasoning steps S per position", "32 lists", ("static",), {"batch": 32}),
    ("reasoning_share", "share of rows that reason", "32 lists", ("gated",), {"batch": 32}),
)
BASE = {"batch": 1, "candidates": 50, "slate_length": 10, "budget": 3, "reasoning_share": 1.0}


class Figures:
    """Median times by variant and size; where a size was timed twice, the first timing counts."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.first: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            self.first.setdefault(tuple(row[name] for name in KEY), row)

    def ms(self, variant: str, batch: int, budget: int = 3, share: float = 1.0) -> float | None:
        """Return the median milliseconds of a run over lists of 50 and slates of 10."""
        row = self.first.get((variant, batch, 50, 10, budget, share))
        return None if row is None else float(row["ms_median"])

    def sweep(self, variant: str, axis: str, **fixed: Any) -> list[Row]:
        """Return the rows of a variant that differ from the base size only in `axis`, in order."""
        size = BASE | fixed
        rows = [
            row
            for row in self.first.values()
            if row["variant"] == variant
            and all(row[name] == value for name, value in size.items() if name != axis)
        ]
        return sorted(rows, key=lambda row: row[axis])


def ratios(figures: Figures) -> list[dict[str, Any]]:
    """Divide medians that were timed in turns, for each batch that has all of them."""
    entries = []
    for batch in sorted({row["batch"] for row in figures.rows}):
        times = (
            figures.ms("torch eager", batch),
            figures.ms("static", batch),
            figures.ms("static", batch, budget=0),
            *(figures.ms("gated", batch, share=share) for share in (1.0, 0.0)),
        )
        measured = [ms for ms in times if ms is not None]
        if len(measured) < len(times):
            continue
        eager, static, plain, gated, none = measured
        half = figures.ms("gated", batch, share=0.5)  # absent at batch 1
        entries.append(
            {
                "batch": batch,
                "torch eager / static": round(eager / static, 2),
                "torch eager / gated": round(eager / gated, 2),
                "gated, nobody reasons / S = 0": round(none / plain, 3),
                "gated, all reason / static": round(gated / static, 3),
                "cost of reasoning, half of the rows / all": (
                    None if half is None else round((half - plain) / (gated - plain), 3)
                ),
                **native_ratios(figures, batch, eager, static, none),
            }
        )
    return entries


def native_ratios(
    figures: Figures, batch: int, eager: float, static: float, gated: float
) -> dict[str, float | None]:
    """Divide medians of a batch by those of the native library; empty where it was not timed.

    Args:
        eager: Median of torch, every step taken.
        static: Median of the static graph.
        gated: Median of the gated graph, no step taken.
    """
    full = figures.ms("native", batch)
    plain, half = (figures.ms("native", batch, share=share) for share in (0.0, 0.5))
    if full is None or plain is None:
        return {}
    return {
        "torch eager / native": round(eager / full, 2),
        "static / native": round(static / full, 2),
        "gated / native, nobody reasons": round(gated / plain, 2),
        "native, half of the rows / all": None if half is None else round(half / full, 3),
    }


def write(
    rows: Sequence[Row],
    floors: Sequence[dict[str, Any]],
    notes: dict[str, str],
    nodes: dict[str, int],
    machine: str,
    out: Path,
) -> None:
    """Write inference.json, inference.md and inference.png below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "rows": list(rows), "ratios": ratios(Figures(rows)),
              "floors": list(floors), "nodes": nodes, "notes": notes}  # fmt: skip
    (out / "inference.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_page(out)


def write_page(out: Path) -> None:
    """Write inference.md and inference.png from the inference.json below `out`."""
    report = json.loads((out / "inference.json").read_text(encoding="utf-8"))
    (out / "inference.md").write_text(page(report), encoding="utf-8")
    plot(Figures(report["rows"]), out / "inference.png")


def page(report: dict[str, Any]) -> str:
    """Render the report as Markdown."""
    figures = Figures(report["rows"])
    floors = [
        (floor, variant, ms)
        for floor in report["floors"]
        for variant in ("static", "native")
        if (ms := figures.ms(variant, floor["batch"])) is not None
    ]
    measured = {key for ratio in report["ratios"] for key in ratio}
    labels = {key: label for key, label in RATIO_LABELS.items() if key in measured}
    values = {**report, "floors": floors, "ratio_labels": labels}
    return render("inference.md.jinja", **values)


def plot(figures: Figures, path: Path) -> None:
    """Plot the time of a request against batch, candidates, positions, steps and share."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.artist import Artist
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.8), layout="constrained")
    batches = axes[0, 0]
    for variant in ("gated", "native"):
        for share, style in STYLES.items():
            rows = figures.sweep(variant, "batch", reasoning_share=share)
            times = [row["ms_median"] / row["batch"] for row in rows]
            batches.plot([row["batch"] for row in rows], times, style, marker="o", markersize=3,
                         color=COLOURS[variant])  # fmt: skip
    batches.set_xscale("log", base=2)
    batches.xaxis.set_major_formatter("{x:.0f}")
    batches.set(xlabel="lists in a run", ylabel="ms per list", ylim=(0, None))
    for axis, (name, label, title, variants, fixed) in zip(axes.flat[1:], PANELS, strict=True):
        for variant in variants:
            rows = figures.sweep(variant, name, **fixed)
            times = [row["ms_median"] / row["batch"] for row in rows]
            slow = [row["ms_p99"] / row["batch"] for row in rows]
            points = [row[name] for row in rows]
            axis.plot(points, times, "-o", markersize=3, color=COLOURS[variant])
            axis.fill_between(points, times, slow, color=COLOURS[variant], alpha=0.15, lw=0)
            if name != "candidates":
                axis.set_xticks(points)
        axis.set(xlabel=label, title=title, ylabel="ms per list", ylim=(0, None))
    handles: list[Artist] = [
        Line2D([], [], color=colour, label=name)
        for name, colour in COLOURS.items()
        if figures.ms(name, 1) is not None
    ]
    handles += [
        Line2D([], [], linestyle=style, color="grey", label=f"{share:.0%} of rows reason")
        for share, style in STYLES.items()
    ]
    handles.append(Rectangle((0, 0), 1, 1, color="grey", alpha=0.3, label="median to p99"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
    save(figure, path, 100)
    pyplot.close(figure)
