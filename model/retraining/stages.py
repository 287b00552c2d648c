"""The stages of a run up to its gates. Each is done again from its beginning if it was killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.data.commands import PrepareImpressions
from model.data.layout import SPLITS
from model.learning.commands import Train
from model.retraining.commands import Retrain
from model.retraining.errors import RetrainError, UnsettledError
from model.retraining.gates import Limits, judge_candidate, judge_log
from model.retraining.plan import TRAINING
from model.retraining.record import RunRecord
from service.engine.features.durations import to_ms

DATA, BUNDLES, JOINED = "data", "bundles", "joined"


def join(record: RunRecord, options: Retrain, lock: int) -> dict[str, Any]:
    """Bring the joined log of the journal up to the end of the run, or take the log as it is.

    Joined lists of the champion are compared with those that it served, as by `model join --check`.
    Raises UnsettledError if no list is settled, and DataError like `python -m model join`.
    """
    from model.data.join.checking import ServedBundle
    from model.data.join.joining import join as join_journal
    from model.data.join.options import JoinOptions, read_until
    from model.data.join.tables import IMPRESSIONS, USERS

    users = [str(path) for paths in options.users for path in paths]
    if options.journal is None:
        return {"log": [str(path) for paths in options.log for path in paths], "users": users}
    out, plan = options.work / JOINED, record.plan
    counts = join_journal(
        options.journal,
        out,
        JoinOptions.read(options.schema, options.wait, options.part, plan.name),
        read_until(plan.until),
        ServedBundle.load(options.models / plan.name / plan.champion),
    )
    if not any((out / IMPRESSIONS).glob("*.parquet")):
        reasons = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
        raise UnsettledError(
            f"{options.journal}: must have a list whose feedback is settled, got none "
            f"({reasons or 'no record'}); parts of --part are joined --wait after their end"
        )
    users += [str(out / USERS)] if any((out / USERS).glob("*.parquet")) else []
    return {"log": [str(out / IMPRESSIONS)], "users": users, "counts": dict(counts)}


def forget_deleted_users(options: Retrain) -> None:
    """Remove users from the joined log whose deletion the journal has recorded since the last join.

    A run that waits for an experiment joins nothing for days, and meanwhile `journal erase` removes
    the record of a deletion.
    """
    from model.data.join.joining import forget_since

    if options.journal is not None:
        removed = forget_since(options.journal, options.work / JOINED)
        if removed:
            print(f"{options.work / JOINED}: {removed} lists of deleted users removed")


def prepare(record: RunRecord, options: Retrain, lock: int) -> dict[str, Any]:
    """Prepare the log, split by time: the latest lists are those of the gates.

    Raises UnsettledError if --last leaves no list.
    """
    from model.data.join.options import read_until

    log, users = (
        tuple(Path(path) for path in record.stages["join"][role]) for role in ("log", "users")
    )
    if options.last is not None:
        log = latest_parts(log, max(0, read_until(record.plan.until) - to_ms(options.last)))
    out = record.directory / DATA
    PrepareImpressions(
        (log,), out, options.schema, items=options.items, users=(users,) if users else (),
        split="time",
    ).execute()  # fmt: skip
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return {split: summary["splits"].get(split) for split in SPLITS}


def latest_parts(joined: Sequence[Path], since: int) -> tuple[Path, ...]:
    """Return the files of a joined log whose parts begin at a time in ms or later.

    Raises UnsettledError if there are none.
    """
    from model.data.join.options import part_name

    files = [file for directory in joined for file in sorted(directory.glob("*.parquet"))]
    latest = tuple(file for file in files if file.stem >= part_name(since))
    if not latest:
        newest = files[-1].stem if files else "never"
        raise UnsettledError(
            f"--last: the latest joined part begins at {newest}, before {part_name(since)}; parts "
            "of --part are joined --wait after their end"
        )
    return latest


def judge_labels(record: RunRecord, options: Retrain, lock: int) -> dict[str, Any]:
    """Judge the log by the champion, before hours of training on it."""
    champion = options.models / record.plan.name / record.plan.champion
    return judge_log(champion, record.directory / DATA)


def train(record: RunRecord, options: Retrain, lock: int) -> dict[str, Any]:
    """Continue the champion's training on the data set; an interrupted training resumes."""
    from model.learning.checkpoint import read_state

    out = record.directory / TRAINING
    Train(
        data=record.directory / DATA,
        out=out,
        config=options.config,
        epochs=options.epochs,
        seed=options.seed,
        continue_from=Path(record.plan.checkpoint),
    ).execute()
    state = read_state(out)
    return {"validation": state.validation, "drift": state.drift, "threshold": state.threshold}


def export(record: RunRecord, options: Retrain, lock: int) -> dict[str, Any]:
    """Write the bundle in a process of its own, which compares it with torch.

    Raises RetrainError for a graph that differs.
    """
    out, checkpoint = bundle_of(record), record.directory / TRAINING
    shutil.rmtree(out, ignore_errors=True)  # a killed attempt may have ended after its last move
    words: list[object] = ["export", "--checkpoint", checkpoint, "--out", out]
    if options.entropy_quantile is not None:
        words += ["--entropy-quantile", options.entropy_quantile]
    text = child(words, lock)
    outcome: dict[str, Any] = json.loads(text)
    return {"verification": outcome["verification"], "metrics": outcome["offline_metrics"]}


def judge(record: RunRecord, options: Retrain, lock: int) -> dict[str, Any]:
    """Compare the candidate with the champion, and return the gates with their figures."""
    champion = options.models / record.plan.name / record.plan.champion
    return judge_candidate(
        champion,
        bundle_of(record),
        record.directory / DATA,
        record.stages["export"]["verification"],
        Limits(options.margin, options.slowdown),
    )


def bundle_of(record: RunRecord) -> Path:
    """Return the directory of a run's bundle, NAME/VERSION."""
    return record.directory / BUNDLES / record.plan.name / record.plan.version


def child(arguments: Sequence[object], lock: int) -> str:
    """Run `python -m ARGUMENTS` with the lock, and return its output; its errors pass through.

    Raises RetrainError for a status that is not 0.
    """
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, pass_fds=(lock,))
    if done.returncode:
        raise RetrainError(
            f"python -m {' '.join(map(str, arguments))}: status {done.returncode}; its message "
            "is above"
        )
    return done.stdout
