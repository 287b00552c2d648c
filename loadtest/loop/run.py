"""Run the first models and arms that the scratch directory lacks, then write the report."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from loadtest.errors import MISSED, PASSED, LoadTestError
from loadtest.loop.arm import ArmRun
from loadtest.loop.bars import bars_of
from loadtest.loop.command import ArmName, Loop
from loadtest.loop.feedback import WAIT
from loadtest.loop.first_model import make_first_model
from loadtest.loop.kills import KILLS, RETRAINING
from loadtest.loop.learner import PART, RULES, SLOWDOWN
from loadtest.loop.plan import (
    ARMS,
    BASE,
    Base,
    Scale,
    arms_of,
    scale_of,
    seeds_of,
    training_config,
    world_of,
)
from loadtest.loop.report import rows_of, summary_of, write_report
from loadtest.loop.steps import done_once
from loadtest.processes import end_with_parent
from loadtest.results import commit, hardware
from loadtest.server import ServerError

RESULT = "result.json"
OPTIONS = "options.json"


@dataclass(frozen=True)
class Job:
    """One piece of work of a worker process: the first model of a seed, or one arm."""

    directory: Path  # of the seed
    seed: int
    scale: Scale
    base: Base
    arm: ArmName | None = None
    engine: str = "redis"

    def run(self) -> dict[str, Any]:
        """Do the work unless its result is there. Raises LoadTestError."""
        first = self.directory / self.base.slug
        if self.arm is None:
            return make_first_model(first, self.base, self.scale, self.seed)
        directory = self.directory / self.arm.replace(" ", "-")
        path = self.directory / f"{directory.name}.{RESULT}"
        return done_once(path, lambda: self._serve(directory, first))

    def _serve(self, directory: Path, first: Path) -> dict[str, Any]:
        assert self.arm is not None
        arm, began = ARMS[self.arm], time.monotonic()
        made: dict[str, Any] = {"begin": 0}  # no service has the best slates
        if arm.kind != "best":
            made = json.loads((first / "first.json").read_text("utf-8"))
        run = ArmRun(
            directory, arm, self.scale, world_of(self.seed, self.scale), made["begin"], first,
            self.seed, self.engine, made.get("stages", {}),
        )  # fmt: skip
        try:
            outcome = run.run()
        except httpx.HTTPError as error:
            raise ServerError(f"{self.arm}: {type(error).__name__}: {error}") from None
        return {**outcome, "seconds": round(time.monotonic() - began, 1)}


def run_loop(options: Loop, command_line: str) -> int:
    """Run what is missing, write the report, and print it. Raises LoadTestError."""
    scale, arms, seeds = scale_of(options), arms_of(options), range(seeds_of(options))
    scratch = options.scratch / ("smoke" if options.smoke else "full")
    scratch.mkdir(parents=True, exist_ok=True)
    keep_options(scratch, options, scale)
    bases = {ARMS[arm].base for arm in arms if ARMS[arm].kind != "best"}
    first = [
        Job(scratch / f"seed{seed}", seed, scale, base)
        for seed in seeds
        for base in sorted(bases, key=lambda base: base.slug)
    ]
    served = [
        Job(scratch / f"seed{seed}", seed, scale, ARMS[arm].base, arm, options.engine)
        for seed in seeds
        for arm in arms
    ]
    began = time.monotonic()
    run_jobs("first models", first, options.jobs)
    outcomes = run_jobs("arms", served, options.jobs)
    results: dict[str, list[dict[str, Any]]] = {
        arm: [out for job, out in zip(served, outcomes, strict=True) if job.arm == arm]
        for arm in arms
    }
    payload: dict[str, Any] = {
        "command": command_line, "commit": commit(), "machine": hardware(),
        "seconds": round(time.monotonic() - began, 1), "scale": dataclasses.asdict(scale),
        "seeds": len(seeds), "engine": options.engine, "smoke": options.smoke,
    }  # fmt: skip
    quantile = training_config(BASE, scale, 0, again=True)["reasoning"]["entropy_quantile"]
    payload["jobs"] = {
        "margin": scale.margin, "slowdown": SLOWDOWN, "wait": WAIT, "part": PART,
        "entropy_quantile": quantile, "rules": RULES,
    }  # fmt: skip
    payload |= {"rows": rows_of(results), "summary": summary_of(results)}
    bars = bars_of(results, payload["summary"], options.smoke, parts_of(options))
    payload |= {"bars": bars, "results": results}
    smoke_out = options.smoke and options.out == Loop().out
    out = options.scratch if smoke_out else options.out
    write_report(out, payload)
    return print_verdict(payload, out)


def parts_of(options: Loop) -> tuple[str, ...]:
    """Return the parts that are killed in every loop; LMDB is no process that can be."""
    if not options.faults:
        return ()
    parts = [part for part in KILLS.values() if part != "store" or options.engine == "redis"]
    return (*parts, RETRAINING)


def keep_options(scratch: Path, options: Loop, scale: Scale) -> None:
    """Note the options of what a scratch directory has; with others, what it has is obsolete.

    Raises LoadTestError unless --restart allows to remove it.
    """
    content = json.dumps({**dataclasses.asdict(scale), "engine": options.engine}, sort_keys=True)
    path = scratch / OPTIONS
    if options.restart:
        for result in scratch.glob(f"seed*/*{RESULT}"):
            result.unlink()
    elif path.exists() and path.read_text("utf-8") != content:
        raise LoadTestError(
            f"{scratch}: holds results of other options; remove it, or name another --scratch"
        )
    path.write_text(content, "utf-8")


def run_jobs(name: str, jobs: Sequence[Job], processes: int) -> list[dict[str, Any]]:
    """Run the jobs in processes of their own, and return their outcomes in order.

    An interrupt, and the first error, end them all. Raises LoadTestError.
    """
    if not jobs:
        return []
    # Not by fork: polars keeps threads that a forked child lacks.
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(min(processes, len(jobs)), begin_worker) as pool,
        tqdm(total=len(jobs), unit="job", desc=name, disable=None) as bar,
    ):
        outcomes: dict[int, dict[str, Any]] = {}
        for number, outcome in pool.imap_unordered(_run_numbered, list(enumerate(jobs))):
            outcomes[number] = outcome
            bar.update()
    return [outcomes[number] for number in range(len(jobs))]


def begin_worker() -> None:
    """Let the parent decide about Ctrl-C, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def _run_numbered(entry: tuple[int, Job]) -> tuple[int, dict[str, Any]]:
    number, job = entry
    return number, job.run()


def print_verdict(payload: dict[str, Any], out: Path) -> int:
    """Print figures and bars; return MISSED if one was missed."""
    for row in payload["summary"]:
        print(f"{row['what']}: {interval_text(row)}")
    missed = 0
    for bar in payload["bars"]:
        print(f"{'kept' if bar['kept'] else 'MISSED'}: {bar['rule']} ({bar['figure']})")
        missed += not bar["kept"]
    print(out / "loop.md")
    if missed:
        print(f"loadtest loop: {missed} bars were missed", file=sys.stderr)
    return MISSED if missed else PASSED


def interval_text(row: dict[str, Any]) -> str:
    """Return value, low and high of a row."""
    ends = "" if row["low"] is None else f" [{row['low']:.4f}, {row['high']:.4f}]"
    return f"{row['value']:.4f}{ends}"
