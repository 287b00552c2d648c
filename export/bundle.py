"""Write a bundle: compose, pick golden requests, verify, measure offline metrics."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from export.cases import RequestSampler
from export.gate import choose_gate, describe_gate
from export.golden import golden
from export.graph.compose import compose, compose_evaluator
from export.graph.lower import ComposeError
from export.intent import write_intent_golden, write_intent_graphs
from export.place import building_beside, named
from export.replays import write_golden
from export.verify import verify
from model.data.dataset import Dataset
from model.data.item_updates import with_items_of
from model.data.log_splits import to_iso
from model.learning.checkpoint import Trained
from model.learning.evaluate import evaluate
from service.engine.contract import (
    EVALUATOR,
    GENERATOR,
    GOLDEN,
    NETWORKS,
    STATIC,
    BundleError,
    Manifest,
)
from service.engine.features.item_half import Weights
from service.engine.features.row_featuriser import write_rows
from service.engine.session import Session


def write(trained: Trained, out: Path, data: Path, quantile: float | None = None) -> dict[str, Any]:
    """Build a bundle beside `out`, verify it, and only then move it to `out`.

    Args:
        out: NAME/VERSION of the bundle: a new directory, or a bundle to replace.
        data: Data set of the random requests and the offline metrics, whose items the bundle gets.
        quantile: of the validation entropies for the threshold; by default the gate is chosen by
            validation (export.gate).

    Returns the verification, the gate and the offline metrics. Raises VerificationError,
    BundleError, or DataError for a data set of another schema, and leaves `out` as it was.
    """
    if trained.config.reasoning.gate != "entropy":
        raise BundleError(
            f"reasoning.gate: only 'entropy' is served, got {trained.config.reasoning.gate!r}"
        )
    trained = with_items(trained, data)
    with building_beside(out) as building:
        gate = choose_gate(trained, data, quantile)
        if gate is not None:
            trained = dataclasses.replace(trained, threshold=gate.thresholds[gate.chosen])
        requests = RequestSampler(data)
        write_graphs(trained, building)
        write_intent_graphs(building)
        write_items(trained, building)
        write_golden(building / GOLDEN, golden(trained, requests))
        manifest = manifest_of(trained, out).write(building)
        verification = verify(trained, building, requests)
        manifest = write_intent_golden(building, manifest)
        session = Session.load(building)
        metrics = evaluate(session, data)
        described = None if gate is None else describe_gate(session, gate, data)
        dataclasses.replace(manifest, offline_metrics=metrics, gate=described).write(building)
    return {"verification": verification, "gate": described, "offline_metrics": metrics}


def with_items(trained: Trained, data: Path) -> Trained:
    """Return the networks over the items of a data set, if it is not the one of their training.

    Raises DataError if its schema differs.
    """
    if Dataset(data, featuriser=trained.featuriser).digest() == trained.state.data_digest:
        return trained
    return dataclasses.replace(trained, featuriser=with_items_of(trained.featuriser, data))


def write_graphs(trained: Trained, directory: Path) -> None:
    """Compose both forms of the generator and the evaluator. Raises BundleError."""
    columns = trained.featuriser.request_columns, trained.config.slate_length
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


def write_items(trained: Trained, directory: Path) -> None:
    """Write the schema, the item table and the item rows of both networks."""
    networks = (trained.generator.embed, trained.evaluator.embed)
    weights = {
        network: Weights(
            module.project.weight.detach().numpy().T, module.table.weight.detach().numpy()
        )
        for network, module in zip(NETWORKS, networks, strict=True)
    }
    write_rows(directory, trained.featuriser, weights)
    if trained.featuriser.snapshot is not None:
        trained.featuriser.snapshot.save(directory)


def manifest_of(trained: Trained, out: Path) -> Manifest:
    """Describe the bundle; offline metrics and file hashes are added later."""
    config, features, state = trained.config, trained.featuriser, trained.state
    origin = {} if state.continued_from is None else {"continued_from": state.continued_from}
    as_of = None if features.snapshot is None else features.snapshot.as_of
    name, version = named(out)
    return Manifest(
        name=name,
        version=version,
        slate_length=config.slate_length,
        budget=config.reasoning.budget,
        entropy_threshold=trained.threshold,
        reason_temperature=config.reasoning.reason_temperature,
        recommend_temperature=config.reasoning.recommend_temperature,
        max_candidates=config.max_candidates,
        numbers=len(features.request_columns),
        width=trained.generator.embed.project.out_features,
        items=len(features.items.ids),
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
