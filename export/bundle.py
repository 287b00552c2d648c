"""Write a bundle: compose, pick golden requests, verify, measure offline metrics."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from export.cases import RequestSampler
from export.golden import golden
from export.graph.compose import compose, compose_evaluator
from export.graph.lower import ComposeError
from export.verify import verify
from model.data.log_splits import to_iso
from model.learning.checkpoint import Trained
from model.learning.evaluate import evaluate
from service.engine.contract import (
    EVALUATOR,
    FEATURES,
    GENERATOR,
    GOLDEN,
    ITEMS,
    MANIFEST,
    SEAL,
    STATIC,
    STATISTICS,
    BundleError,
    Manifest,
)
from service.engine.session import Session


def write(trained: Trained, out: Path, data: Path) -> dict[str, Any]:
    """Build a bundle beside `out`, verify it, and only then move it to `out`.

    Args:
        out: NAME/VERSION of the bundle: a new directory, or a bundle to replace.
        data: Data set of the random requests and the offline metrics.

    Returns the verification and the offline metrics. Raises VerificationError or BundleError, and
    leaves `out` as it was.
    """
    refuse_foreign_files(out)
    if trained.config.reasoning.gate != "entropy":
        raise BundleError(
            f"reasoning.gate: only 'entropy' is served, got {trained.config.reasoning.gate!r}"
        )
    requests = RequestSampler(data)
    building = out.parent / f".{out.name}.building"
    replaced = out.parent / f".{out.name}.replaced"
    for leftover in (building, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        write_graphs(trained, building)
        trained.featuriser.save(building)
        (building / GOLDEN).write_text(
            json.dumps(golden(trained, requests)) + "\n", encoding="utf-8"
        )
        manifest = manifest_of(trained, out).write(building)
        verification = verify(trained, building, requests)
        session = Session.load(building)
        metrics = evaluate(session, data)
        dataclasses.replace(manifest, offline_metrics=metrics).write(building)
        if out.exists():
            os.replace(out, replaced)  # a rename, so that a reader of `out` gets a whole bundle
        os.replace(building, out)
    finally:
        for leftover in (building, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
    return {"verification": verification, "offline_metrics": metrics}


def refuse_foreign_files(out: Path) -> None:
    """Raise BundleError if `out` holds a file that no bundle has."""
    bundle_files = {
        *(MANIFEST, SEAL, GENERATOR, STATIC, EVALUATOR, FEATURES, ITEMS, STATISTICS, GOLDEN)
    }
    foreign = sorted({path.name for path in out.iterdir()} - bundle_files) if out.exists() else []
    if foreign:
        raise BundleError(
            f"{out}: holds {foreign[0]!r}, which is no file of a bundle; "
            "choose a new directory or a bundle to replace"
        )


def write_graphs(trained: Trained, directory: Path) -> None:
    """Compose both forms of the generator and the evaluator. Raises BundleError."""
    features = trained.featuriser
    columns = features.numbers_width, features.tokens_width, trained.config.slate_length
    try:
        graphs = {
            GENERATOR: compose(trained.generator, *columns, gated=True),
            STATIC: compose(trained.generator, *columns, gated=False),
            EVALUATOR: compose_evaluator(trained.evaluator, *columns),
        }
    except ComposeError as error:
        raise BundleError(str(error)) from error
    for name, model in graphs.items():
        (directory / name).write_bytes(model.SerializeToString())


def manifest_of(trained: Trained, out: Path) -> Manifest:
    """Describe the bundle; offline metrics and file hashes are added later."""
    config, features, state = trained.config, trained.featuriser, trained.state
    origin = {} if state.continued_from is None else {"continued_from": state.continued_from}
    as_of = None if features.snapshot is None else features.snapshot.as_of
    return Manifest(
        name=out.parent.name,
        version=out.name,
        slate_length=config.slate_length,
        budget=config.reasoning.budget,
        entropy_threshold=trained.threshold,
        reason_temperature=config.reasoning.reason_temperature,
        recommend_temperature=config.reasoning.recommend_temperature,
        max_candidates=config.max_candidates,
        numbers=features.numbers_width,
        tokens=features.tokens_width,
        offline_metrics={},
        training={
            "commit": state.commit,
            "config": config.to_json(),
            "seconds": round(state.seconds),
            "validation": state.validation,
            **origin,
        },
        as_of=None if as_of is None else to_iso(as_of),
    )
