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

NAME = "loop"
DELIVERED = ("in time", "late", "overdue", "doubled")  # fates of feedback that is sent
SEVERAL = ("lists: with feedback", "lists: compared with those served")  # counts of joined lists
FEWEST = 2  # seeds of an interval
Results = Mapping[str, Sequence[Mapping[str, Any]]]  # arm -> the outcome of each seed
PAIRS = (("loop", "frozen"), ("loop", "state"), ("state", "frozen"))
REASONING = (("loop", "loop plain"), ("loop transformer", "loop transformer plain"))


def rows_of(results: Results) -> list[dict[str, Any]]:
    """Return expected clicks of each arm and day: the mean over seeds with its 95 % interval."""
    rows = []
    for arm, outcomes in results.items():
        by_day = days_of(outcomes)
        for day in range(by_day.shape[1]):
            value, low, high = interval(by_day[:, day])
            rows.append(
                {"arm": arm, "day": day, "expected_clicks": value, "low": low, "high": high}
            )
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

    The share of the gap is (loop - frozen) / (best - frozen).
    """
    rows = []
    for days, name in ((slice(None), "all days"), (slice(-(days_count(results) // 2), None),
                                                  "last half of the days")):  # fmt: skip
        means = {arm: days_of(outs)[:, days].mean(axis=1) for arm, outs in results.items()}
        for arm, against in (*PAIRS, *REASONING):
            if arm in means and against in means:
                rows.append(_row(f"{arm} - {against}, {name}", means[arm] - means[against]))
        if {"best", "frozen"} <= means.keys():
            gap = means["best"] - means["frozen"]
            for arm in means:
                if arm not in ("best", "frozen"):
                    share = (means[arm] - means["frozen"]) / gap
                    rows.append(_row(f"share of the gap closed by {arm}, {name}", share))
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


def losses_of(outcome: Mapping[str, Any]) -> dict[str, int]:
    """Compare what one loop's service answered and acknowledged with what its journal has.

    Decisions of a killed process that were not flushed yet are lost, and events about them are
    orphans. All other events that were acknowledged must be in the journal.
    """
    calls, joined, feedback = outcome["calls"], outcome["joined"], outcome["feedback"]
    lists = sum(count for name, count in joined.items() if is_fate_of_lists(name))
    events = sum(joined.get(f"events: {name}", 0) for name in ("joined", "orphaned", "late"))
    sent = sum(feedback.get(f"events {fate}", 0) for fate in DELIVERED)
    return {
        "lists answered": calls.get("lists", 0),
        "lists in the journal": lists,
        "events sent": sent,
        "events accepted": calls.get("events accepted", 0),
        "events in the journal": events,
        "events orphaned": joined.get("events: orphaned", 0),
        "events late": joined.get("events: late", 0),
        "events repeated": calls.get("events repeated", 0),
    }


def is_fate_of_lists(name: str) -> bool:
    """Return true for a count of the join in which every list is once."""
    return name == "lists" or (name.startswith("lists: ") and name not in SEVERAL)


def bars_of(results: Results, smoke: bool) -> list[dict[str, Any]]:
    """Return the bars: the circle closes, nothing acknowledged is lost, and the loop gains."""
    loops = [o for arm, outs in results.items() if arm.startswith("loop") for o in outs]
    bars = []
    if loops:
        jobs = [job for outcome in loops for job in outcome["jobs"]]
        promoted = sum(job["outcome"] == "promote" for job in jobs)
        canaries = sum(job["outcome"] == "canary" for job in jobs)
        bars.append(
            _bar(
                "a candidate passes its gates as canary in every loop",
                f"{canaries} canaries in {len(loops)} loops",
                canaries >= len(loops),
            )
        )
        bars.append(_bar("a canary is promoted in every loop",
                         f"{promoted} promotions", promoted >= len(loops)))  # fmt: skip
        losses = [losses_of(outcome) for outcome in loops]
        gone = sum(loss["events sent"] - loss["events in the journal"] for loss in losses)
        bars.append(_bar("every acknowledged event is in the journal once",
                         f"{gone} of {sum(loss['events sent'] for loss in losses)} are not",
                         gone == 0))  # fmt: skip
    gains = [row for row in summary_of(results) if row["what"] == "loop - frozen, all days"]
    if gains and not smoke:
        low = gains[0]["low"]
        figure = "one seed" if low is None else f"interval from {low:.4f}"
        bars.append(_bar("the loop is above the frozen model", figure, low is not None and low > 0))
    return bars


def _bar(rule: str, figure: str, kept: bool) -> dict[str, Any]:
    return {"rule": rule, "figure": figure, "kept": kept}


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
    losses: Counter[str] = Counter()
    for arm, outcomes in results.items():
        if arm.startswith("loop"):
            for outcome in outcomes:
                losses.update(losses_of(outcome))
    text = page.render(
        f"{NAME}.md", report=payload, jobs=jobs_of(results), losses=losses, figure=figure
    )
    return text.rstrip() + "\n"


def figure(row: Mapping[str, Any], name: str = "value") -> str:
    """Return a value with its interval."""
    if row["low"] is None:
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
