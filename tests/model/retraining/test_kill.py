"""A retrainer that is killed at any moment and started again ends in the same bundle."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.learning import checkpoint
from model.retraining import publish, run
from model.retraining.errors import RetrainError
from model.retraining.plan import TRAINING, make_plan
from model.retraining.record import RunRecord
from model.retraining.run import LOCK, STAGES, exclusive, retrain
from model.retraining.stages import DATA, bundle_of
from service.engine.contract import MANIFEST, SEAL
from service.models.store import ServingConfig
from tests.support.processes import poll
from tests.support.retraining import IN_PROCESS, options_of, serving

ROOT = Path(__file__).parents[3]
TIMES = {"seconds", "milliseconds"}


class Killed(BaseException):
    """End of a process: nothing that handles errors handles it."""


def fuse(function):
    """Return a function that does its work and then ends the process, before anybody notes it."""

    def wrapped(*arguments, **keywords):
        function(*arguments, **keywords)
        raise Killed

    return wrapped


# Moments by the function after whose work a run is killed, in the order of the run. The export is
# killed in a child below.
AFTER = [
    (RunRecord, "write"),  # the plan
    "join",
    "prepare",
    "labels",
    (checkpoint, "write"),  # an epoch of the training
    "train",
    "gates",
    (publish, "install"),  # the bundle is in the store, and no config names it
    (ServingConfig, "write"),
    "publish",
    (run, "write_report"),
    (run, "remove_data"),
]


def run_until(root, moment):
    """Run until a moment, and be killed there."""
    with pytest.MonkeyPatch.context() as patch:
        steps = dict(IN_PROCESS)
        if isinstance(moment, str):
            steps[moment] = fuse(steps[moment])
        else:
            owner, name = moment
            patch.setattr(owner, name, fuse(getattr(owner, name)))
        with pytest.raises(Killed):
            retrain(options_of(root), steps)


def outcome_of(root):
    """Return the files of the bundle that a run published, and its manifest without times."""
    directory = root / "models" / "sale" / "2"
    files = {
        path.name: path.read_bytes() for path in directory.iterdir()
        if path.name not in (MANIFEST, SEAL)
    }  # fmt: skip
    manifest = without_times(json.loads((directory / MANIFEST).read_text()))
    run_of_champion = manifest["training"]["continued_from"].pop("run")
    assert Path(run_of_champion).parts[-2:] == ("root", "first")
    return files, manifest


def without_times(value):
    """Return a value of JSON without the times that training and export have measured."""
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if name not in TIMES}
        return {name: without_times(each) for name, each in kept.items()}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def test_a_run_that_is_killed_at_twelve_moments_ends_in_the_bundle_of_one_that_is_not(
    root, finished
):
    for moment in AFTER:
        run_until(root, moment)
    assert retrain(options_of(root), IN_PROCESS) == 0
    assert outcome_of(root) == outcome_of(finished)
    assert serving(root) == serving(finished)
    assert len(list((root / "work").glob("*/run.json"))) == 1
    assert RunRecord.read(root / "work" / "2").outcome == "shadow"
    left = {path.name for path in (root / "work" / "2").iterdir()}
    assert left == {"run.json", "report.html", TRAINING}


def trained_run(root, finished):
    """Copy a finished run up to its training into a directory of its own, and return its record."""
    before, plan = RunRecord.read(finished / "work" / "2"), make_plan(options_of(root), 0)
    directory = root / "work" / "2"
    for name in (DATA, TRAINING):
        shutil.copytree(before.directory / name, directory / name)
    done = list(STAGES)[: list(STAGES).index("export")]
    record = RunRecord(directory, plan, {name: before.stages[name] for name in done})
    record.write()
    return record


def child_of(process):
    """Return the process id of the export that a run has started, None before."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(
        (int(p) for p in pids if b"export" in Path(f"/proc/{p}/cmdline").read_bytes()), None
    )


def test_a_command_that_is_killed_while_it_exports_goes_on_once_its_child_has_ended(root, finished):
    record = trained_run(root, finished)
    options = options_of(root)
    words = {"models": options.models, "schema": options.schema, "log": options.log[0][0],
             "work": options.work, "checkpoint": options.checkpoint, "margin": options.margin,
             "slowdown": options.slowdown, "epochs": options.epochs}  # fmt: skip
    arguments = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
    command = subprocess.Popen(
        [sys.executable, "-m", "model", "retrain", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    child = poll(lambda: child_of(command), 60)
    command.kill()
    assert command.wait() == -signal.SIGKILL
    with pytest.raises(RetrainError, match="held by another run, or by a child of one"):
        retrain(options)
    os.kill(child, signal.SIGKILL)
    assert poll(lambda: is_free(root / "work" / LOCK), 10)
    assert retrain(options, IN_PROCESS) == 0
    assert outcome_of(root) == outcome_of(finished)
    assert not bundle_of(record).exists()  # the store has it


def is_free(lock):
    try:
        with exclusive(lock):
            return True
    except RetrainError:
        return False
