"""Bring new and changed items into a bundle without training (`python -m export items`)."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.place import building_beside, named
from export.replays import golden_requests, intent_requests, write_golden
from model.data.dialect import Dialect
from model.data.errors import DataError
from model.data.item_updates import ItemUpdates, read_item_updates
from model.data.log_splits import to_iso
from model.data.options import Paths
from service.engine.contract import (
    CONTRACT_VERSION,
    EVALUATOR,
    GENERATOR,
    GOLDEN,
    INTENT_GENERATOR,
    INTENT_GOLDEN,
    INTENT_STATIC,
    NETWORKS,
    STATIC,
    BundleError,
    Integers,
    Manifest,
)
from service.engine.features.id_index import HeldIds
from service.engine.features.row_featuriser import RowFeaturiser, open_files
from service.engine.features.schema import NUMBER_KINDS
from service.engine.features.snapshot import Snapshot, StatisticCounts
from service.engine.session import Session

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ItemsOptions:
    """Write a bundle with new and changed items, and the weights of another bundle."""

    bundle: Path
    """Bundle whose weights and other items stay."""
    items: Paths
    """Files of items with item_id and features, as of `prepare impressions`: paths, globs or
    directories of .parquet, .csv, .tsv or .jsonl. A feature without a column stays as it is."""
    out: Path
    """Bundle to write, bundles/NAME/VERSION."""
    as_of: str | None = None
    """Moment of the values in ISO 8601, not before that of the bundle; by default that of the data
    set whose items.parquet it is, else that of the bundle."""
    delimiter: str = ","
    """Character between the fields of a .csv; a .tsv always has tabs."""
    encoding: str = "utf-8"
    """Encoding of text files, such as cp1252, latin-1 or utf-16."""
    decimal: str = "."
    """Decimal mark of numbers in .csv and .tsv, a point or a comma."""
    list_separator: str = "|"
    """Character between the values of a list in one field of a .csv or .tsv."""


@dataclass(frozen=True)
class Places:
    """Rows of updated items: in the bundle, -1 for a new one, and in the new table; U items."""

    before: Integers
    after: Integers


def update_items(options: ItemsOptions) -> dict[str, Any]:
    """Write the bundle and return the number of new, changed and all items.

    Raises BundleError for a bundle of another contract or a damaged one, DataError and FeatureError
    for items that break the schema; `out` is then left as it was.
    """
    began = time.monotonic()
    manifest = Manifest.read(options.bundle)
    if manifest.contract_version != CONTRACT_VERSION:
        raise BundleError(
            f"--bundle: {options.bundle}: contract_version must be {CONTRACT_VERSION}, got "
            f"{manifest.contract_version}; rewrite it with `python -m export upgrade`"
        )
    manifest.verify_files(options.bundle)
    as_of = None if options.as_of is None else read_moment(options.as_of, manifest.as_of)
    dialect = Dialect(options.delimiter, options.encoding, options.decimal, options.list_separator)
    old = RowFeaturiser.load(options.bundle)
    paths = tuple(itertools.chain(*options.items))
    updates = read_item_updates(paths, dialect, old.schema, old.layout)
    if as_of is None:
        as_of = manifest.as_of if updates.moment is None else to_iso(updates.moment)
    origin = manifest.metrics_of or f"{manifest.name}/{manifest.version}"
    name, version = named(options.out)
    with building_beside(options.out) as building:
        places = write_items(old, updates, building)
        of_intent = (INTENT_GENERATOR, INTENT_STATIC) if manifest.supports_intent else ()
        for graph in (GENERATOR, STATIC, EVALUATOR, *of_intent):
            shutil.copyfile(options.bundle / graph, building / graph)
        goldens = (GOLDEN, INTENT_GOLDEN) if manifest.supports_intent else (GOLDEN,)
        for golden in goldens:
            write_golden(building / golden, [])
        changed = dataclasses.replace(
            manifest,
            name=name,
            version=version,
            items=len(old.items.ids) + int((places.before < 0).sum()),
            as_of=as_of,
            metrics_of=origin,
        )
        changed.write(building)
        session = Session.load(building)
        for golden, requests in zip(goldens, (golden_requests, intent_requests), strict=False):
            write_golden(building / golden, requests(session, updates.table.ids))
        changed.write(building)
        Session.load(building)  # replays them
    return {
        "new": int((places.before < 0).sum()),
        "changed": int((places.before >= 0).sum()),
        "items": changed.items,
        "features": list(updates.names),
        "ignored": list(updates.ignored),
        "as_of": as_of,
        "metrics_of": origin,
        "seconds": round(time.monotonic() - began, 1),
    }


def read_moment(text: str, earliest: str | None) -> str:
    """Return a moment in ISO 8601, in UTC by default.

    earliest: moment of the bundle. Raises DataError for other text, and for an earlier moment.
    """
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise DataError(Path("--as-of"), "must be a time in ISO 8601", value=text) from None
    as_of = to_iso(round(1000 * moment.timestamp()))
    if earliest is not None and _is_before(as_of, earliest):
        rule = f"must not be before the moment of the bundle's other items, {earliest}"
        raise DataError(Path("--as-of"), rule, value=text)
    return as_of


def _is_before(moment: str, other: str) -> bool:
    try:
        return datetime.fromisoformat(moment) < datetime.fromisoformat(other)
    except ValueError:  # the bundle's moment is a number, which the calendar does not reach
        return False


def write_items(old: RowFeaturiser, updates: ItemUpdates, directory: Path) -> Places:
    """Write item features and rows with the updates; new items come behind the others."""
    files, count = old.files(), len(old.items.ids)
    before = old.find(updates.table.ids)
    is_new = before == count
    after = before.copy()
    after[is_new] = count + np.arange(int(is_new.sum()))
    before = np.where(is_new, -1, before)
    places = Places(before, after)
    updated = {name: is_new | (name in updates.names) for name in old.layout.features}
    numbers = grown(files.numbers, int(is_new.sum()))
    tokens = grown(files.tokens, int(is_new.sum()))
    vectors = {name: grown(rows, int(is_new.sum())) for name, rows in files.vectors.items()}
    number, slot = 0, 0
    for feature in (f for f in old.schema.features if f.of == "item"):
        rows = updated[feature.name].nonzero()[0]
        if feature.kind in NUMBER_KINDS:
            numbers[after[rows], number] = updates.table.numbers[rows, number]
            number += 1
        elif feature.slots:
            of_feature = slice(slot, slot + feature.slots)
            tokens[after[rows], of_feature] = updates.table.tokens[rows, of_feature]
            slot += feature.slots
        else:
            vectors[feature.name][after[rows]] = updates.table.vectors[feature.name][rows]
    ids = [*old.items.ids, *(updates.table.ids[int(row)] for row in is_new.nonzero()[0])]
    changed = dataclasses.replace(
        files, ids=HeldIds(ids), numbers=numbers, tokens=tokens, vectors=vectors
    )
    changed.write(directory)
    _, layout, arrays = open_files(directory)
    for network in NETWORKS:
        half = old.halves[network]
        half.write_updated(directory, network, layout, arrays, places.before, places.after)
    write_snapshot(old, updates, int(is_new.sum()), directory)
    return places


def grown(rows: Array, more: int) -> Array:
    """Return rows [I + 1, width] with `more` copies of the last one behind them."""
    return np.concatenate([rows, rows[-1:].repeat(more, axis=0)])


def write_snapshot(old: RowFeaturiser, updates: ItemUpdates, more: int, directory: Path) -> None:
    """Write the counts of statistics with zeros for new items.

    They are left out if the updates bring statistics, because these are of other counts.
    """
    snapshot = old.snapshot
    statistics = {f.name for f in old.schema.features if f.kind == "statistic"}
    if snapshot is None or statistics & set(updates.names):
        return
    counts: dict[str, StatisticCounts] = {
        name: dataclasses.replace(
            each,
            shows=np.append(each.shows, np.zeros(more)),
            likes=np.append(each.likes, np.zeros(more)),
        )
        for name, each in snapshot.statistics.items()
    }
    Snapshot(snapshot.as_of, counts).save(directory)
