"""Directories in which tests retrain a small model."""

import os

from model.retraining.commands import Retrain
from model.retraining.plan import TRAINING
from model.retraining.run import STAGES
from model.retraining.stages import DATA, bundle_of
from service.models.store import ServingConfig


def linked(champion, directory):
    """Return a directory with a store and a journal of its own, and the champion's other files."""
    (directory / "journal").mkdir(parents=True)
    for name in ("log.parquet", "schema.yaml", "first"):
        os.symlink(champion / name, directory / name)
    # Hard links: a bundle is never changed in place.
    target = directory / "models" / "sale" / "1"
    target.mkdir(parents=True)
    for path in sorted((champion / "models" / "sale" / "1").iterdir()):
        os.link(path, target / path.name)
    return directory


def options_of(root, **more):
    """Return options of a run that passes its gates unless the candidate is much worse."""
    fields = {
        "models": root / "models", "schema": root / "schema.yaml", "work": root / "work",
        "log": ((root / "log.parquet",),), "checkpoint": root / "first", "margin": 0.2,
        "slowdown": 20.0, "epochs": 1, **more,
    }  # fmt: skip
    return Retrain(**fields)


def serving(root):
    """Return the versions that the store of a directory serves."""
    return ServingConfig.read(root / "models" / "sale")


def reject(record, options, lock):
    """Stand in for a stage of gates, one of which fails."""
    return {"passed": False, "gates": []}


def export_here(record, options, lock):
    """Export in the process of the test: a new one would spend its time on imports."""
    from export import bundle
    from model.learning import checkpoint

    trained = checkpoint.load(record.directory / TRAINING)
    outcome = bundle.write(trained, bundle_of(record), record.directory / DATA)
    return {"verification": outcome["verification"], "metrics": outcome["offline_metrics"]}


IN_PROCESS = {**STAGES, "export": export_here}
