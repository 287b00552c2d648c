"""The report of the loop: expected clicks by arm and day, gains, jobs and what faults cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from loadtest import page
from loadtest.loop.bars import Results, loops_of, store_of
from loadtest.loop.kills import RETRAINING

NAME = "loop"
FEWEST = 2  # seeds of an interval
PAIRS = (("loop", "frozen"), ("loop", "state"), ("state", "frozen"))
LEARNING = ("loop", "loop plain", "loop transformer", "loop transformer plain")
REASONING = (("loop", "loop plain"), ("loop transformer", "loop transformer plain"))


def rows_of(results: Results) -> list[dict[str, Any]]:
    """Return expected clicks of each arm and day: the mean over seeds with its 95 % interval.

    steps: mean reasoning steps of a list; None for slates that no model made.
    """
    rows = []
    for arm, outcomes in results.items():
        by_day = days_of(outcomes)
        for day in range(by_day.shape[1]):
            value, low, high = interval(by_day[:, day])
            steps = [outcome["days"][day].get("steps") for outcome in outcomes]
            rows.append(
                {
                    "arm": arm, "day": day, "expected_clicks": value, "low": low, "high": high,
                    "steps": None if None in steps else round(float(np.mean(steps)), 4),
                }
            )  # fmt: skip
    return rows


def days_of(outcomes: Sequence[Mapping[str, Any]]) -> Any:
    """Return expected clicks by seed and day, float64 [S, D]."""
    return np.array([[day["expected_clicks"] for day in o["days"]] for o in outcomes])


def interval(values: Any) -> tuple[float, float | None, float | None]:
    """Return the mean of one value per seed with its 95 % interval of Student's t.

    Both ends are None for one seed.
    """
    mean = float(np.mean(values))
    if len(values) < FEWEST:
        return round(mean, 6), None, None
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return round(mean, 6), round(mean - reach, 6), round(mean + reach, 6)


def summary_of(results: Results) -> list[dict[str, Any]]:
    """Return differences between arms over all days and over the last half, paired by seed.

    The share of the gap is (loop - frozen) / (best - frozen), and likewise from state.
    """
    rows = []
    for days, name in ((slice(None), "all days"), (slice(-(days_count(results) // 2), None),
                                                  "last half of the days")):  # fmt: skip
        means = {arm: days_of(outs)[:, days].mean(axis=1) for arm, outs in results.items()}
        for arm, against in (*PAIRS, *REASONING):
            if arm in means and against in means:
                rows.append(_row(f"{arm} - {against}, {name}", means[arm] - means[against]))
        for base, others in (("frozen", means), ("state", [m for m in means if m in LEARNING])):
            if {"best", base} <= means.keys():
                gap = means["best"] - means[base]
                for arm in others:
                    if arm not in ("best", base):
                        share = (means[arm] - means[base]) / gap
                        what = f"share of the gap from {base} to best closed by {arm}, {name}"
                        rows.append(_row(what, share))
    return rows


def days_count(results: Results) -> int:
    """Return the number of days."""
    return len(next(iter(results.values()))[0]["days"])


def _row(what: str, values: Any) -> dict[str, Any]:
    value, low, high = interval(values)
    return {"what": what, "value": value, "low": low, "high": high}


def jobs_of(results: Results) -> list[dict[str, Any]]:
    """Return the nightly jobs of all loops: the count of each outcome."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for arm, outcomes in results.items():
        for outcome in outcomes:
            for job in outcome.get("jobs", ()):
                failed = ", ".join(job.get("failed", ()))
                text = f"{job['outcome']}{f' by {failed}' if failed else ''}"
                counts[arm, job["job"], text] += 1
    return [
        {"arm": arm, "job": job, "outcome": text, "count": count}
        for (arm, job, text), count in sorted(counts.items())
    ]


def faults_of(results: Results) -> dict[str, int]:
    """Return the faults of all loops and what they cost, each count by its name."""
    counts: Counter[str] = Counter()
    for loop in loops_of(results):
        for kill in loop["kills"]:
            stage = f" in {kill['stage']}" if kill["part"] == RETRAINING else ""
            counts[f"kills of {kill['part']}{stage}"] += 1
        counts["calls sent again"] += loop["calls"].get("calls sent again", 0)
        counts["lists without the store or unranked"] += loop["calls"].get("degraded", 0)
        for name, count in store_of(loop).items():
            counts[f"answers of the store: {name}"] += count
        counts.update(loop["journal"])
        for name in ("joined", "orphaned", "late", "ambiguous", "duplicate"):
            counts[f"event records {name}"] += loop["joined"].get(f"events: {name}", 0)
    return dict(counts)


def write_report(out: Path, payload: Mapping[str, Any]) -> None:
    """Write loop.json, loop.md and loop.png. Raises OSError."""
    from loadtest.loop.plots import draw_days

    out.mkdir(parents=True, exist_ok=True)
    (out / f"{NAME}.json").write_text(json.dumps(payload, indent=1) + "\n", "utf-8")
    (out / f"{NAME}.md").write_text(render_page(payload), "utf-8")
    draw_days(payload["rows"], out / f"{NAME}.png")


def render_page(payload: Mapping[str, Any]) -> str:
    """Return the report as Markdown; every figure comes from the payload."""
    results = payload["results"]
    text = page.render(
        f"{NAME}.md", report=payload, jobs=jobs_of(results), faults=faults_of(results),
        figure=figure,
    )  # fmt: skip
    return text.rstrip() + "\n"


def figure(row: Mapping[str, Any], name: str = "value") -> str:
    """Return a value with its interval."""
    if row["low"] is None:
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
