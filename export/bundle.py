"""Write a bundle: compose, verify torch against onnxruntime, pick golden requests, measure."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from export.cases import Requests
from export.golden import golden
from export.graph.compose import ComposeError, compose, compose_evaluator
from export.verify import verify
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
    BundleError,
    Manifest,
)
from service.engine.session import Session


def write(trained: Trained, out: Path, data: Path) -> dict[str, Any]:
    """Build the bundle beside `out`, verify it, and only then move it there.

    `out` is `.../<name>/<version>`, new or a bundle to replace. Returns the verification and the
    offline metrics. Raises VerificationError or service.engine.contract.BundleError; `out` is then
    as it was.
    """
    refuse_foreign_files(out)
    if trained.config.reasoning.gate != "entropy":
        raise BundleError(
            f"reasoning.gate: only entropy is served, got {trained.config.reasoning.gate!r}"
        )
    requests = Requests(data)
    building = out.parent / f".{out.name}.building"
    replaced = out.parent / f".{out.name}.replaced"
    for left in (building, replaced):
        shutil.rmtree(left, ignore_errors=True)
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
        manifest = Manifest(**{**manifest.__dict__, "offline_metrics": metrics})
        manifest.write(building)
        if out.exists():
            os.replace(out, replaced)  # a moment's work: who loads `out` finds a whole bundle
        os.replace(building, out)
    finally:
        for left in (building, replaced):
            shutil.rmtree(left, ignore_errors=True)
    return {"verification": verification, "offline_metrics": metrics}


def refuse_foreign_files(out: Path) -> None:
    """Raise BundleError where `out` holds files that no bundle has."""
    bundle_files = {MANIFEST, SEAL, GENERATOR, STATIC, EVALUATOR, FEATURES, ITEMS, GOLDEN}
    foreign = sorted({path.name for path in out.iterdir()} - bundle_files) if out.exists() else []
    if foreign:
        raise BundleError(f"{out}: a new directory or a bundle to replace, it holds {foreign[0]!r}")


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
    """Describe the bundle, without offline metrics."""
    config, features = trained.config, trained.featuriser
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
            "commit": trained.state.commit,
            "config": trained.config.to_json(),
            "seconds": round(trained.state.seconds),
            "validation": trained.state.validation,
        },
    )
