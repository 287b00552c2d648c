"""Time slates with an intent against those without one (`python -m export intent`)."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export.bench.features import commit_of
from export.bench.measure import median, timed
from export.bench.pages import render
from export.cases import EVERY_STEP, NO_STEP
from service.engine.contract import INTENT_FILES, Manifest
from service.engine.features.candidates import CandidateList
from service.engine.intent import DiversityTerm, SlateIntent, build_intent
from service.engine.rows import Row
from service.engine.session import Session

ROOT = Path(__file__).parents[2]
BEFORE = "bundle without graphs of intent"
ATTRIBUTES = ("genres", "director", "tags")
BATCHES = (1, 8)


@dataclass(frozen=True)
class IntentOptions:
    """Time slates with diversity and boosts against those without (ten minutes)."""

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle with graphs of intent, whose items have genres, directors and tags."""
    out: Path = Path("docs/reports/intent.json")
    """File for the report; the page beside it ends in .md."""
    candidates: int = 50
    """Candidates of a list."""
    rounds: int = 60
    """Turns of each case, batch size and gate."""
    page_only: bool = False
    """Render the page from the report without measuring."""


def measure_intent(options: IntentOptions) -> None:
    """Measure, write the report and its page, and print the ratios."""
    if not options.page_only:
        options.out.write_text(json.dumps(measure(options), indent=1) + "\n", encoding="utf-8")
    report = json.loads(options.out.read_text(encoding="utf-8"))
    options.out.with_suffix(".md").write_text(page(report), encoding="utf-8")
    print(json.dumps([[row["case"], row["batch"], row["gate"], row["ratio"]]
                      for row in report["rows"]], indent=1))  # fmt: skip


def measure(options: IntentOptions) -> dict[str, Any]:
    """Return the report: CPU times of runs in turns, of building an intent, and of loading."""
    with tempfile.TemporaryDirectory() as directory:
        before = without_intent(options.bundle, Path(directory) / "ranklens" / "1")
        sessions = Session.load(before), Session.load(options.bundle)
        loads = {BEFORE: load_cost(before), "the bundle": load_cost(options.bundle)}
    gates = {"every step": EVERY_STEP, "served": None, "no step": NO_STEP}
    rows = [
        row
        for batch in BATCHES
        for gate, threshold in gates.items()
        for row in timings(sessions, options, batch, gate, threshold)
    ]
    return {
        "command": "python -m export intent",
        "commit": commit_of(ROOT),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "candidates": options.candidates,
        "positions": sessions[0].manifest.slate_length,
        "rows": rows,
        "build_ms": build_times(sessions[1], options),
        "loads": loads,
    }


def without_intent(bundle: Path, directory: Path) -> Path:
    """Copy a bundle without its graphs of intent; return the copy."""
    shutil.copytree(bundle, directory)
    for name in INTENT_FILES:
        (directory / name).unlink()
    Manifest.read(directory).write(directory)
    return directory


def intents_of(session: Session, row: Row) -> dict[str, SlateIntent | None]:
    """Return the intent of each case for one list."""
    terms = [DiversityTerm(name, 0.5, 0.3, "sum") for name in ATTRIBUTES]
    values = [session.values(name, row) for name in ATTRIBUTES]
    boosts = np.linspace(-1.0, 1.0, len(row.numbers), dtype=np.float32)
    return {
        "without intent": None,
        "diversity by genres": build_intent(terms[:1], values[:1]),
        "diversity by genres, director and tags": build_intent(terms, values),
        "boosts": build_intent([], [], boosts),
    }


def lists_of(session: Session, count: int, size: int) -> list[CandidateList]:
    """Return lists of random items of the bundle."""
    ids, draw = list(session.featuriser.items.ids), np.random.default_rng(0)
    return [
        CandidateList([ids[i] for i in draw.choice(len(ids), size, replace=False).tolist()])
        for _ in range(count)
    ]


def timings(
    sessions: Sequence[Session],
    options: IntentOptions,
    batch: int,
    gate: str,
    threshold: float | None,
) -> list[dict[str, Any]]:
    """Return one row of the report for each case of a batch size and a gate.

    Args:
        sessions: of the bundle without graphs of intent, and of the one with them.
        gate: name of the threshold.
        threshold: nats, None for the bundle's.
    """
    before, served = sessions
    lists = lists_of(served, batch, options.candidates)
    plain = [served.row(candidates, None, None, threshold) for candidates in lists]
    intents = [intents_of(served, row) for row in plain]
    runs: dict[str, Callable[[], Any]] = {BEFORE: partial(before.run, plain)}
    for case in intents[0]:
        rows = [
            dataclasses.replace(row, intent=of_row[case])
            for row, of_row in zip(plain, intents, strict=True)
        ]
        runs[case] = partial(served.run, rows)
    steps = [int(slate.steps.sum()) for slate in before.run(plain)]
    rounds = [turn_of_each(runs, number) for number in range(options.rounds)]
    return [
        {
            "case": case, "batch": batch, "gate": gate, "steps": float(np.mean(steps)),
            "ms_median": round(float(np.median([times[case] for times in rounds])), 4),
            "ratio": round(float(np.median([times[case] / times[BEFORE] for times in rounds])), 3),
        }
        for case in runs
    ]  # fmt: skip


def turn_of_each(runs: Mapping[str, Callable[[], Any]], seed: int) -> dict[str, float]:
    """Return the median milliseconds of each case in one turn, in random order.

    A ratio of two cases in one turn hardly depends on how busy the machine is meanwhile.
    """
    order = np.random.default_rng(seed).permutation(list(runs)).tolist()
    times = timed({case: runs[case] for case in order}, 0.0, clock=time.thread_time)
    return {case: median(values) for case, values in times.items()}


def build_times(session: Session, options: IntentOptions) -> dict[str, float]:
    """Return the milliseconds of reading the values of one list and building its intent."""
    (candidates,) = lists_of(session, 1, options.candidates)
    row = session.row(candidates)

    def build(names: Sequence[str]) -> SlateIntent:
        terms = [DiversityTerm(name, 0.5, 0.3, "sum") for name in names]
        return build_intent(terms, [session.values(name, row) for name in names])

    runs = {", ".join(names): partial(build, names) for names in (ATTRIBUTES[:1], ATTRIBUTES)}
    times = timed(runs, 1.0, clock=time.thread_time)
    return {names: round(median(values), 4) for names, values in times.items()}


def load_cost(bundle: Path) -> dict[str, float]:
    """Return the CPU seconds and the private memory that loading a bundle takes in a process."""
    run = subprocess.run(
        [sys.executable, "-m", __name__, str(bundle.resolve())],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    cost: dict[str, float] = json.loads(run.stdout)
    return cost


def page(report: Mapping[str, Any]) -> str:
    """Render the report's page."""
    return render("intent.md.jinja", report=report)


def private_megabytes() -> float:
    """Return the memory that this process shares with no other."""
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty")) / 1e3


def main(arguments: Sequence[str]) -> None:
    """Load a bundle and print its cost as JSON."""
    memory, began = private_megabytes(), time.process_time()
    session = Session.load(Path(arguments[0]))
    seconds = time.process_time() - began
    used = private_megabytes() - memory
    assert session.manifest
    print(json.dumps({"cpu_s": round(seconds, 3), "private_mb": round(used, 1)}))


if __name__ == "__main__":
    main(sys.argv[1:])
