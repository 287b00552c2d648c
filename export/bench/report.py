"""The benchmark's report: ratios of one run, sweeps, the arithmetic floor, plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
KEY = ("variant", "batch", "candidates", "slate_length", "budget", "reasoning_share")


class Figures:
    """Median times by what was asked; the first measured where a size was timed twice."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.first: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            self.first.setdefault(tuple(row[name] for name in KEY), row)

    def ms(self, variant: str, batch: int, budget: int = 3, share: float = 1.0) -> float | None:
        """Median milliseconds of a run over lists of 50 and slates of 10."""
        row = self.first.get((variant, batch, 50, 10, budget, share))
        return None if row is None else float(row["ms_median"])


def ratios(figures: Figures) -> list[dict[str, Any]]:
    """What issue and README claim, as ratios of medians that were timed in turns."""
    found = []
    for batch in sorted({row["batch"] for row in figures.rows}):
        times = (
            figures.ms("torch eager", batch),
            figures.ms("static", batch),
            figures.ms("static", batch, budget=0),
            *(figures.ms("gated", batch, share=share) for share in (1.0, 0.0)),
        )
        known = [ms for ms in times if ms is not None]
        if len(known) < len(times):
            continue
        eager, static, plain, gated, none = known
        half = figures.ms("gated", batch, share=0.5)  # which one row cannot be
        found.append(
            {
                "batch": batch,
                "torch eager / static": round(eager / static, 2),
                "torch eager / gated": round(eager / gated, 2),
                "gated, nobody reasons / S = 0": round(none / plain, 3),
                "gated, all reason / static": round(gated / static, 3),
                "cost of reasoning, half of the rows / all": (
                    None if half is None else round((half - plain) / (gated - plain), 3)
                ),
            }
        )
    return found


def write(
    rows: Sequence[Row],
    floors: Sequence[dict[str, Any]],
    notes: dict[str, str],
    nodes: dict[str, int],
    machine: str,
    out: Path,
) -> None:
    """inference.json, inference.md and inference.png below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    figures = Figures(rows)
    found = ratios(figures)
    payload = {"machine": machine, "rows": list(rows), "ratios": found, "floors": list(floors),
               "nodes": nodes, "notes": notes}  # fmt: skip
    (out / "inference.json").write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    plot(figures, out / "inference.png")
    text = render(figures, found, floors, notes, nodes, machine)
    (out / "inference.md").write_text(text, encoding="utf-8")


def render(
    figures: Figures,
    found: Sequence[dict[str, Any]],
    floors: Sequence[dict[str, Any]],
    notes: dict[str, str],
    nodes: dict[str, int],
    machine: str,
) -> str:
    """The report as Markdown."""
    lines = [
        "# Inference",
        "",
        "Made by `python -m export bench`; the figures are in `inference.json`. One intra-op "
        "thread, no spinning; what a ratio compares was timed in turns of 30 ms. "
        f"Machine: {machine}.",
        "",
        "Lists of N = 50 candidates, slates of K = 10, S = 3 reasoning steps a position unless "
        "said otherwise; D = 64, 121 numbers and 21 tokens a candidate.",
        "",
        f"Nodes once functions are inlined: static {nodes['static']}, gated {nodes['gated']} "
        "beside those in its branches.",
        "",
    ]
    if found:
        names = [name for name in found[0] if name != "batch"]
        batches = " | ".join(f"batch {ratio['batch']}" for ratio in found)
        lines += [f"| ratio of medians | {batches} |", "|---|" + "---|" * len(found)]
        lines += [
            f"| {name} | {' | '.join('-' if r[name] is None else str(r[name]) for r in found)} |"
            for name in names
        ]
        lines += [""]
    lines += ["## The arithmetic floor", "",
              "FLOPs of the products in the static graph over the throughput of one thread in a "
              "512 x 512 x 512 product.", "",
              "| batch | MFLOP | GFLOP/s | floor ms | static ms | static / floor |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for floor in floors:
        ms = figures.ms("static", floor["batch"])
        if ms is not None:
            lines.append(
                f"| {floor['batch']} | {floor['flops'] / 1e6:.1f} | "
                f"{floor['gemm_flops_per_s'] / 1e9:.0f} | {floor['ms']:.3f} | {ms:.3f} | "
                f"{ms / floor['ms']:.1f} |"
            )
    lines += ["", "## Every row", "",
              "| variant | batch | N | K | S | share that reasons | runs | ms median | ms p99 |",
              "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in figures.rows:
        lines.append(
            f"| {r['variant']} | {r['batch']} | {r['candidates']} | {r['slate_length']} | "
            f"{r['budget']} | {r['reasoning_share']:g} | {r['runs']} | {r['ms_median']:.3f} | "
            f"{r['ms_p99']:.3f} |"
        )
    lines += ["", *(f"- {name}: {note}" for name, note in notes.items()), ""]
    lines += ["![Time against batch, list, slate length, steps and share](inference.png)", ""]
    return "\n".join(lines)


def plot(figures: Figures, path: Path) -> None:
    """Time per request against batch, list length, slate length, steps, and share that reasons."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    base = {"batch": 1, "candidates": 50, "slate_length": 10, "budget": 3, "reasoning_share": 1.0}
    panels = (
        ("batch", "gated", {}, True),
        ("candidates", "gated", {}, False),
        ("slate_length", "gated", {}, False),
        ("budget", "static", {}, False),
        ("reasoning_share", "gated", {"batch": 32}, True),
    )
    figure, axes = pyplot.subplots(1, len(panels), figsize=(18, 3.6), layout="constrained")
    for axis, (name, variant, other, per_request) in zip(axes, panels, strict=True):
        fixed = base | other
        shares = (0.0, 0.5, 1.0) if name == "batch" else (fixed["reasoning_share"],)
        for share in shares:
            fixed["reasoning_share"] = share
            rows = [r for r in figures.first.values() if r["variant"] == variant
                    and all(r[k] == v for k, v in fixed.items() if k != name)]  # fmt: skip
            rows.sort(key=lambda r: r[name])
            times = [r["ms_median"] / (r["batch"] if per_request else 1) for r in rows]
            label = f"{share:.0%} reason" if name == "batch" else None
            axis.plot([r[name] for r in rows], times, "-o", markersize=3, label=label)
        title = variant if name == "batch" else f"{variant}, batch {fixed['batch']}"
        axis.set(xlabel=name.replace("_", " "), ylabel="ms per request", ylim=(0, None))
        axis.set_title(title)
        if name == "batch":
            axis.set_xscale("log", base=2)
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
