"""python -m loadtest overload: five times what the service can do, and what becomes of everybody.

Finds the capacity at the full budget with a closed loop, then offers a quarter of it, `--factor`
times it, and a quarter again, as an open loop. Writes overload.{json,md,png}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from loadtest.openloop import Sample, closed, poisson, run
from loadtest.server import Server, ServerError, serving

GRACE_S = 0.010  # what an answer may take beyond its deadline


def main(arguments: Sequence[str]) -> int:
    """Measure and write; exit status 1 where an answer is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest overload", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"), help="to serve")
    parser.add_argument("--factor", type=float, default=5.0, help="of capacity that is offered")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--rest", type=float, default=15.0, help="seconds before and after it")
    parser.add_argument("--candidates", type=int, default=100, help="of each list")
    parser.add_argument("--slates", type=int, default=8, help="sampled of each list, 1: the greedy")
    parser.add_argument("--timeout-ms", type=float, default=100.0, help="deadline of each request")
    parser.add_argument("--max-queue", type=int, default=128, help="the service's")
    parser.add_argument("--out", type=Path, default=Path("docs/reports"), help="where to write")
    asked = parser.parse_args(arguments)
    try:
        report = measure(asked)
    except (OSError, ServerError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "overload.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (asked.out / "overload.md").write_text(written(report), "utf-8")
    plot(report, asked.out / "overload.png")
    print(json.dumps(report["summary"], indent=1))
    return 1 if report["summary"]["unanswered"] else 0


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Capacity, then the load step."""
    bodies = lists(asked)
    settings: dict[str, object] = {"max_queue": asked.max_queue}
    with serving(asked.bundle, adaptive_budget="false", **settings) as server:
        run(closed(server.url, bodies, 16, 2.0))
        found = run(closed(server.url, bodies, 16, 6.0))
        full = [s for s in found if s.budget is not None]
        capacity = len(full) / max(s.ended for s in found)
    with serving(asked.bundle, **settings) as server:
        rates = (capacity / 4, asked.factor * capacity, capacity / 4)
        phases = list(zip(rates, (asked.rest, asked.seconds, asked.rest), strict=True))
        with watched(server) as seen:
            samples = run(poisson(server.url, bodies, phases, seed=0))
    series = by_second(samples, seen)
    return {
        "command": "python -m loadtest overload",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "candidates": asked.candidates, "slates": asked.slates, "deadline_ms": asked.timeout_ms,
        "max_queue": asked.max_queue, "factor": asked.factor,
        "phases": [{"rate": round(rate, 1), "seconds": seconds} for rate, seconds in phases],
        "summary": summary(samples, series, seen, asked, capacity),
        "series": series,
    }  # fmt: skip


def lists(asked: argparse.Namespace) -> list[bytes]:
    """Bodies of ids alone, of known items."""
    with np.load(asked.bundle / "items.npz", allow_pickle=False) as table:
        known = table["ids"].tolist()
    draw = random.Random(0)
    found = []
    for seed in range(64):
        body: dict[str, Any] = {"candidates": draw.sample(known, asked.candidates)}
        body["timeout_ms"] = asked.timeout_ms
        if asked.slates > 1:
            body["sampling"] = {"slates": asked.slates, "seed": seed}
        found.append(json.dumps(body).encode())
    return found


@contextlib.contextmanager
def watched(server: Server) -> Iterator[list[dict[str, float]]]:
    """Resident memory (MB), queue and level of the service, about once a second."""
    seen: list[dict[str, float]] = []
    done = threading.Event()
    began = time.monotonic()

    def look() -> None:
        with httpx.Client(timeout=5) as client:
            while not done.wait(1.0):
                status = Path(f"/proc/{server.process.pid}/status").read_text()
                found = {"at": time.monotonic() - began}
                found["rss_mb"] = int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024
                with contextlib.suppress(httpx.HTTPError):
                    text = client.get(f"{server.url}/metrics").text
                    for name in ("queue_depth", "budget_level"):
                        value = re.findall(rf"^rerank_{name} (\S+)$", text, re.M)
                        found[name] = float(value[0])
                seen.append(found)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def by_second(samples: Sequence[Sample], seen: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """What was due in each second, and what came of it."""
    found = []
    for second in range(int(max(s.due for s in samples)) + 1):
        own = [s for s in samples if second <= s.due < second + 1]
        if not own:
            continue
        reasons = Counter(s.degraded for s in own)
        budgets = [s.budget for s in own if s.budget is not None]
        found.append(
            {
                "second": second,
                "offered": len(own),
                "answered": sum(s.status != 0 for s in own),
                "full": reasons[None],
                "reduced_budget": reasons["reduced_budget"],
                "shed": reasons["overload"] + reasons["deadline"],
                "budget": round(float(np.mean(budgets)), 3) if budgets else None,
                "p99_ms": round(1e3 * float(np.quantile([s.latency_s for s in own], 0.99)), 2),
                "queue": next((e["queue_depth"] for e in seen if int(e["at"]) == second
                               and "queue_depth" in e), None),
            }
        )  # fmt: skip
    return found


def summary(
    samples: Sequence[Sample],
    series: Sequence[dict[str, Any]],
    seen: Sequence[dict[str, float]],
    asked: argparse.Namespace,
    capacity: float,
) -> dict[str, Any]:
    """The figures that the report is about; times of the overload alone."""
    starts, ends = asked.rest, asked.rest + asked.seconds
    loaded = [s for s in samples if starts <= s.due < ends]
    latency = np.array([s.latency_s for s in loaded])
    limit = asked.timeout_ms / 1e3 + GRACE_S
    # When the answer says it: a list is due before it meets the others.
    reduced = [s.ended for s in samples if s.degraded == "reduced_budget" and s.due >= starts]
    shed = [s.ended for s in samples if s.degraded in ("overload", "deadline") and s.due >= starts]
    after = [e["budget_level"] for e in seen if e["at"] > ends and "budget_level" in e]
    memory = {
        name: [e["rss_mb"] for e in seen if low <= e["at"] < high]
        for name, low, high in (
            ("first", starts + 5, starts + 15),
            ("last", ends - 10, ends),
        )
    }
    growth = None
    if memory["first"] and memory["last"]:
        growth = round(float(np.mean(memory["last"]) / np.mean(memory["first"]) - 1), 4)
    return {
        "capacity_per_s": round(capacity, 1),
        "offered_per_s": round(len(loaded) / asked.seconds, 1),
        "requests": len(samples),
        "unanswered": sum(s.status == 0 for s in samples),
        "other_than_200": sum(s.status not in (0, 200) for s in samples),
        "ranked_per_s": round(sum(s.budget is not None for s in loaded) / asked.seconds, 1),
        "p50_ms": round(1e3 * float(np.quantile(latency, 0.5)), 2),
        "p99_ms": round(1e3 * float(np.quantile(latency, 0.99)), 2),
        "deadline_ms": asked.timeout_ms,
        "within_deadline_and_10_ms": round(float((latency <= limit).mean()), 5),
        "largest_queue": max(e.get("queue_depth", 0) for e in seen),
        "rss_growth": growth,
        "budget_falls_after_s": round(min(reduced) - starts, 3) if reduced else None,
        "first_shed_after_s": round(min(shed) - starts, 3) if shed else None,
        "level_at_the_end": after[-1] if after else None,
    }


def written(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in report["summary"].items())
    phases = ", ".join(f"{p['rate']:g}/s for {p['seconds']:g} s" for p in report["phases"])
    return f"""# Overload

Made by `{report["command"]}`; the time series is in `overload.json`. Machine: {report["machine"]},
shared by service and generator. Lists of {report["candidates"]} candidates, ids alone, the best of
{report["slates"]} sampled slates, a deadline of {report["deadline_ms"]:g} ms,
a queue of {report["max_queue"]}.
Poisson arrivals: {phases}. Latency counts from the moment a request was due.

| figure | |
|---|---|
{rows}

Capacity is a closed loop of 16 clients with every list at the full budget. `requests`,
`unanswered` and `other_than_200` are of the whole run, the rest of the overload alone;
`budget_falls_after_s` and `first_shed_after_s` count from its begin.

![What was offered, what became of it, budget and latency](overload.png)
"""


def plot(report: dict[str, Any], path: Path) -> None:
    """The time series."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series = report["series"]
    at = [s["second"] for s in series]
    figure, axes = pyplot.subplots(3, 1, figsize=(9, 8), sharex=True)
    parts = ("full", "reduced_budget", "shed")
    colours = ("tab:green", "tab:orange", "tab:red")
    axes[0].stackplot(at, *([s[part] for s in series] for part in parts), labels=parts,
                      colors=colours, alpha=0.7)  # fmt: skip
    axes[0].plot(at, [s["offered"] for s in series], "k--", linewidth=1, label="offered")
    axes[0].set_ylabel("requests per second")
    axes[0].legend(loc="upper left")
    axes[1].plot(at, [np.nan if s["budget"] is None else s["budget"] for s in series])
    axes[1].set_ylabel("mean budget granted\nper position")
    axes[2].plot(at, [s["p99_ms"] for s in series])
    axes[2].axhline(report["deadline_ms"], color="k", linestyle=":", label="deadline")
    axes[2].set_ylabel("p99, ms")
    axes[2].set_xlabel("seconds")
    axes[2].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
