"""One run of `python -m model retrain`: a lock, a plan, and stages that are done once each."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.retraining import stages
from model.retraining.commands import Retrain
from model.retraining.errors import CanaryError, RetrainError, SupersededError, UnsettledError
from model.retraining.plan import Plan, check_options, make_plan, share_of, texts_of
from model.retraining.publish import publication, publish
from model.retraining.record import RunRecord, records_in
from model.retraining.report import REPORT, write_report

LOCK = "lock"
PUBLISHED, REJECTED = 0, 1  # exit status
WAITING = 0  # exit status too: a job that runs every night fails for no experiment
ROLES = ("shadow", "canary")  # outcomes of a run that published its candidate
Stage = Callable[[RunRecord, Retrain, int], dict[str, Any]]
STAGES: Mapping[str, Stage] = {
    "join": stages.join,
    "prepare": stages.prepare,
    "labels": stages.judge_labels,
    "train": stages.train,
    "export": stages.export,
    "gates": stages.judge,
    "publish": publish,
}


def retrain(options: Retrain, steps: Mapping[str, Stage] = STAGES) -> int:
    """Begin a run or finish the one that was interrupted; return the exit status.

    Raises RetrainError, and the errors of the stages for input that they refuse.
    """
    check_options(options)
    try:
        if options.dry_run:
            print_plan(options, steps)
            return PUBLISHED
        options.work.mkdir(parents=True, exist_ok=True)
        with exclusive(options.work / LOCK) as lock:
            outcome = retrain_alone(options, steps, lock)
    except CanaryError as error:
        print(error)
        return WAITING
    return PUBLISHED if outcome in ROLES else REJECTED


def retrain_alone(options: Retrain, steps: Mapping[str, Stage], lock: int) -> str:
    """Begin a run or finish the one that was interrupted, with the lock; return its outcome."""
    # Before anything that may end or wait: see forget_deleted_users.
    stages.forget_deleted_users(options)
    if options.abandon:
        abandon(options)
    record = unfinished(options) or begin(options)
    print(f"{record.directory}: {headline(record.plan)}")
    try:
        outcome = carry_out(record, options, steps, lock)
    except UnsettledError:
        # It keeps its last moment of decisions, and would be refused every night.
        shutil.rmtree(record.directory)
        raise
    write_report(record, outcome)
    if not options.keep_data:
        remove_data(record, outcome)
    record.close(outcome)
    print(f"{record.plan.name}/{record.plan.version}: {outcome}; {record.directory / REPORT}")
    return outcome


def carry_out(record: RunRecord, options: Retrain, steps: Mapping[str, Stage], lock: int) -> str:
    """Do the stages that are left, in order; return the outcome of the run."""
    for name, stage in steps.items():
        if not all(figures.get("passed", True) for figures in record.stages.values()):
            return "rejected"
        if name in record.stages:
            continue
        print(f"{record.directory}: {name}", file=sys.stderr)
        began = time.monotonic()
        try:
            # Refuse before hours of training what could not be published after them.
            publication(options.models / record.plan.name, record.plan, share_of(options.promote))
            figures = stage(record, options, lock)
        except SupersededError as error:
            print(f"retrain: {error}", file=sys.stderr)
            return "superseded"
        record.finish(name, {**figures, "seconds": round(time.monotonic() - began, 1)})
    return "shadow" if share_of(options.promote) is None else "canary"


@contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """Hold the lock of a working directory, and give its descriptor.

    A child that inherits the descriptor holds the lock too, so that no other run begins beside a
    child that outlives its parent. Raises RetrainError if another process holds it.
    """
    with path.open("w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetrainError(
                f"{path}: held by another run, or by a child of one that was killed; wait until "
                "it ends"
            ) from None
        yield file.fileno()


def unfinished(options: Retrain) -> RunRecord | None:
    """Return the run to go on with, if there is one.

    Raises RetrainError if it has other options.
    """
    for record in records_in(options.work):
        if record.outcome is not None:
            continue
        before, now = record.plan.options, texts_of(options)
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise RetrainError(
                    f"--{name.replace('_', '-')}: must be {before.get(name, 'unset')} as in the "
                    f"unfinished run {record.directory}, got {now.get(name, 'none')}; finish that "
                    "run, or give it up with --abandon"
                )
        return record
    return None


def new_plan(options: Retrain) -> Plan:
    """Return the plan of a run that begins now. Raises the errors of `make_plan`."""
    earlier = [record.plan for record in records_in(options.work)]
    return make_plan(options, time.time_ns() // 1_000_000, earlier)


def begin(options: Retrain) -> RunRecord:
    """Write the plan of a new run in a directory of its own.

    Raises CanaryError without a trace if its candidate could not be published now: a run that
    waits for the end of an experiment would learn from old decisions then.
    """
    plan = new_plan(options)
    publication(options.models / plan.name, plan, share_of(options.promote))
    directory = options.work / plan.version
    building = options.work / f".{plan.version}.building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    RunRecord(building, plan).write()
    os.replace(building, directory)  # a run without a record would use its version up
    return RunRecord(directory, plan)


def remove_data(record: RunRecord, outcome: str) -> None:
    """Remove the prepared lists of a run that is over, and a bundle that the store has.

    Later runs continue the training and need neither. The lists are those of users, who may ask for
    their erasure.
    """
    data = record.directory / stages.DATA
    for path in (data, data.with_name(f"{data.name}.arrays")):
        shutil.rmtree(path, ignore_errors=True)
    if outcome in ROLES:
        shutil.rmtree(record.directory / stages.BUNDLES, ignore_errors=True)


def abandon(options: Retrain) -> None:
    """Give up the runs that are not finished, and remove their data like that of a finished one."""
    for record in records_in(options.work):
        if record.outcome is None:
            if not options.keep_data:
                remove_data(record, "abandoned")
            record.close("abandoned")
            print(f"{record.directory}: abandoned")


def headline(plan: Plan) -> str:
    """Return a plan in one line."""
    return (
        f"{plan.name}/{plan.version} from {plan.name}/{plan.champion} ({plan.checkpoint}), "
        f"decisions until {plan.until}"
    )


def print_plan(options: Retrain, steps: Mapping[str, Stage]) -> None:
    """Print all that a run would do. Raises RetrainError like a run."""
    record = None if options.abandon else unfinished(options)
    plan = record.plan if record else new_plan(options)
    finished = record.stages if record else {}
    print(f"{options.work / plan.version}: {headline(plan)}")
    for name in steps:
        print(f"  {name}: {'done' if name in finished else 'to do'}")
    serving = publication(options.models / plan.name, plan, share_of(options.promote))
    print(f"  then {options.models / plan.name}: {serving}")
