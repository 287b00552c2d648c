"""Build the candidate lists that were served from the files of a join."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ormsgpack
import polars as pl

from model.data.join.tables import (
    CANDIDATES,
    HISTORIES,
    IMPRESSIONS,
    INLINE,
    REQUESTS,
    user_features,
)
from model.data.requests import RequestBuilder
from model.data.users import ANONYMOUS
from service.engine.features.candidates import CandidateList
from service.engine.features.schema import Schema
from service.engine.features.stored_items import StoredItems
from service.state.entities import Item


def served_lists(out: Path, schema: Schema) -> Iterator[tuple[str, CandidateList]]:
    """Yield the id of each decision of a join and its list, in the order of time.

    Featurised with the bundle that made it, a list gives the arrays that were served, bit for bit.
    One part at a time is in memory.
    """
    for path in sorted((out / REQUESTS).glob("*.parquet")):
        lists = pl.read_parquet(path).filter(pl.col("reason").is_null())
        if lists.is_empty():
            continue
        tables = [
            pl.read_parquet(out / name / path.name)
            for name in (IMPRESSIONS, CANDIDATES)
            if (out / name / path.name).exists()
        ]
        rows = pl.concat(tables, how="diagonal").sort("request_id", "rank")
        histories = _histories(out / HISTORIES / path.name)
        of_list = {
            key[0]: group for key, group in rows.partition_by("request_id", as_dict=True).items()
        }
        for one in lists.iter_rows(named=True):
            history = histories.get(one["request_id"], [])
            yield one["request_id"], _served(of_list[one["request_id"]], one, history, schema)


def _histories(path: Path) -> dict[str, list[tuple[str, float, bytes | None]]]:
    """Return the entries of each decision, oldest first."""
    entries: dict[str, list[tuple[str, float, bytes | None]]] = {}
    if path.exists():
        columns = ["request_id", "item_id", "label", "features"]
        for request, item, label, features in pl.read_parquet(path, columns=columns).iter_rows():
            entries.setdefault(request, []).append((item, label, features))
    return entries


def _served(
    rows: pl.DataFrame,
    one: dict[str, Any],
    history: list[tuple[str, float, bytes | None]],
    schema: Schema,
) -> CandidateList:
    """Return the list of a decision from its rows in initial order, its row and its history."""
    statistics = {name: name.removeprefix(INLINE) for name in rows.columns if INLINE in name}
    rows = rows.rename(statistics)
    if one["user_id"] is None:
        rows = rows.with_columns(pl.lit(f"{ANONYMOUS}{one['request_id']}").alias("user_id"))
    # The store gives its values again, by the same rules as it did.
    from_store = rows["from_store"].to_list()
    columns = {name: rows[name].to_list() for name in rows.columns}
    for place, names in enumerate(from_store):
        for name in names:
            columns[name][place] = None
    columns["split"] = ["train"] * len(rows)
    builder = RequestBuilder(schema, rows.columns, None, fresh=True)
    user = {feature.name: one[feature.name] for feature in user_features(schema)}
    request = builder.build(columns, user, [(item, label) for item, label, _ in history])
    records = [{} if packed is None else ormsgpack.unpackb(packed) for _, _, packed in history]
    recent = records[-schema.history.limit :]
    blobs = columns["stored"]
    stored = None
    if one["now"] is not None and any(blob is not None for blob in blobs):
        stored = StoredItems(blobs, Item.from_blob, one["now"], one["live"])
    return dataclasses.replace(
        request,
        history_features=recent if any(recent) else (),
        user_is_partial=one["partial"],
        stored=stored,
    )
