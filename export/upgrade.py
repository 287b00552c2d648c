"""Rewrite an older bundle with item rows and graphs of intent (`python -m export upgrade`)."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.agreement import agree
from export.draws import random_batches, random_lists
from export.graph.split import SplitError, split_file
from export.intent import check_intent, write_intent_golden, write_intent_graphs
from export.place import building_beside, named
from model.data.errors import DataError
from service.engine.contract import (
    CONTRACT_VERSION,
    EVALUATOR,
    GENERATOR,
    GOLDEN,
    NETWORKS,
    OLD_CONTRACT,
    STATIC,
    BundleError,
)
from service.engine.features.featuriser import Featuriser
from service.engine.features.item_half import Weights
from service.engine.features.row_featuriser import write_rows
from service.engine.session import Session

BATCHES = 200  # random batches that the old and the new bundle rank


@dataclass(frozen=True)
class UpgradeOptions:
    """Rewrite a bundle of contract 2, or one without graphs of intent, as one that ranks alike."""

    bundle: Path
    """Bundle of contract 2, or of contract 3 without graphs of intent."""
    out: Path
    """Bundle to write, bundles/NAME/VERSION; may be the same."""
    batches: int = BATCHES
    """Random batches of 1 to 8 lists on which both bundles are compared."""


def upgrade(options: UpgradeOptions) -> dict[str, Any]:
    """Write the bundle and return how far both agree, and how far the graphs of intent do.

    Raises DataError without a batch to compare, BundleError for a bundle that needs no upgrade, and
    DisagreementError if the new one ranks otherwise; `out` is then left as it was.
    """
    if options.batches < 1:
        raise DataError(Path("--batches"), "must be at least 1", value=options.batches)
    old = Session.load(options.bundle)
    manifest = old.manifest
    if manifest.supports_intent:
        raise BundleError(
            f"--bundle: {options.bundle}: has contract {manifest.contract_version} and graphs of "
            "intent; the bundle needs no upgrade"
        )
    name, version = named(options.out)
    with building_beside(options.out) as building:
        if manifest.contract_version == OLD_CONTRACT:
            width = write_upgraded(options.bundle, building)
            featuriser = old.featuriser
            manifest = dataclasses.replace(
                manifest,
                contract_version=CONTRACT_VERSION,
                numbers=len(featuriser.request_columns),
                tokens=None,
                width=width,
                items=len(featuriser.items.ids),
            )
        else:
            for file in manifest.files:
                shutil.copyfile(options.bundle / file, building / file)
        manifest = dataclasses.replace(manifest, name=name, version=version)
        write_intent_graphs(building)
        write_intent_golden(building, manifest.write(building))
        new = Session.load(building)  # replays the golden requests
        lists = random_lists(old, options.batches, seed=0)
        rows, again = (random_batches(session, lists, seed=0) for session in (old, new))
        agreement = agree({"the old bundle": old, "the new one": new}, rows, again)
        return {**dataclasses.asdict(agreement), "intent": check_intent(new, building, lists)}


def write_upgraded(bundle: Path, directory: Path) -> int:
    """Write the files of contract 3 but the manifest, and return the width of the item rows.

    Raises BundleError for graphs of another kind.
    """
    featuriser = Featuriser.load(bundle)
    weights: dict[str, Weights] = {}
    for name in (GENERATOR, STATIC, EVALUATOR):
        try:
            content, embedding = split_file(bundle / name, featuriser.request_columns)
        except SplitError as error:
            raise BundleError(f"{bundle / name}: {error}") from error
        network = NETWORKS[name == EVALUATOR]
        weights[network] = Weights(embedding.projection, embedding.table)
        (directory / name).write_bytes(content)
    write_rows(directory, featuriser, weights)
    if featuriser.snapshot is not None:
        featuriser.snapshot.save(directory)
    (directory / GOLDEN).write_bytes((bundle / GOLDEN).read_bytes())
    return int(weights[NETWORKS[0]].embeddings.shape[1])
