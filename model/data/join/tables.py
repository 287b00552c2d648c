"""The tables of a join: their columns, and the values of a record for them.

lists       a row per decision: request_id (the id of its record), request (the request_id of the
            response), user_id, timestamp, bundle, digest, variant, policy, reason (null unless the
            list is left out), features of the user and the use of the entity store
rows        a row per candidate: request_id, user_id, timestamp, rank (place in the initial
            ranking), position (in the slate, null outside), item_id, and the features
histories   a row per entry, oldest first: request_id, item_id, label, features (MessagePack)
events      a row per event
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ormsgpack
import polars as pl

from service.engine.features.ids import read_id
from service.engine.features.schema import Feature, Schema
from service.journal.records import DecisionRecord, EventRecord
from service.state.entities import Item
from service.state.errors import EntityError

Row = dict[str, Any]
KIND_TYPES: Mapping[str, pl.DataType] = {
    "identifier": pl.String(), "category": pl.String(), "categories": pl.List(pl.String()),
    "number": pl.Float64(), "statistic": pl.Float64(), "vector": pl.List(pl.Float32()),
}  # fmt: skip
# Directories of a join; prepare reads the first two.
IMPRESSIONS, USERS, CANDIDATES = "impressions", "users", "candidates"
HISTORIES, REQUESTS = "histories", "requests"
TABLES = (IMPRESSIONS, USERS, CANDIDATES, HISTORIES, REQUESTS)
INLINE = "inline."  # before the name of a statistic, which a log must not hold
LIST_TYPES: Mapping[str, Any] = {
    "request_id": pl.String, "request": pl.String, "user_id": pl.String, "timestamp": pl.Int64,
    "bundle": pl.String, "digest": pl.String, "variant": pl.String, "policy": pl.String,
    "reason": pl.String, "partial": pl.Boolean, "now": pl.Int64, "live": pl.Boolean,
}  # fmt: skip
HISTORY_TYPES: Mapping[str, Any] = {
    "request_id": pl.String, "item_id": pl.String, "label": pl.Float32, "features": pl.Binary,
}  # fmt: skip
EVENT_TYPES: Mapping[str, Any] = {
    "record": pl.String, "event_id": pl.String, "request": pl.String, "user_id": pl.String,
    "item_id": pl.String, "type": pl.String, "outcome": pl.String, "value": pl.Float64,
    "label": pl.Float64, "at": pl.Int64, "position": pl.Int32, "displayed": pl.List(pl.String),
}  # fmt: skip


class ValueOfAnotherKind(ValueError):
    """A value that the schema does not allow: another schema served it."""


def user_features(schema: Schema) -> list[Feature]:
    """Return the features of users that a list has a column for."""
    return [f for f in schema.features if f.of == "user" and f.name != "user_id"]


def row_features(schema: Schema) -> list[Feature]:
    """Return the features of candidates, items and contexts that a row has a column for."""
    return [f for f in schema.features if f.of != "user" and f.name != "item_id"]


def column_of(feature: Feature) -> str:
    """Return the name of a feature's column."""
    return f"{INLINE}{feature.name}" if feature.kind == "statistic" else feature.name


def list_types(schema: Schema) -> dict[str, Any]:
    """Return the columns of the table of lists."""
    return {**LIST_TYPES, **{f.name: KIND_TYPES[f.kind] for f in user_features(schema)}}


def row_types(schema: Schema) -> dict[str, Any]:
    """Return the columns of the table of rows."""
    return {
        "request_id": pl.String, "user_id": pl.String, "timestamp": pl.Int64, "rank": pl.Int32,
        "position": pl.Int32, "item_id": pl.String,
        **{column_of(f): KIND_TYPES[f.kind] for f in row_features(schema)},
        "stored": pl.Binary, "from_store": pl.List(pl.String),
    }  # fmt: skip


def converted(feature: Feature, value: Any) -> Any:
    """Return a value as the column of its feature has it. Raises ValueOfAnotherKind."""
    if value is None:
        return None
    kind, is_list = feature.kind, isinstance(value, list | tuple)
    if kind == "identifier" and not is_list:
        return str(read_id(value))
    if kind == "category" and isinstance(value, str):
        return value
    if kind == "categories" and (is_list or isinstance(value, str)):
        texts = list(value) if is_list else [value]
        if all(isinstance(text, str) for text in texts):
            return texts
    if kind in ("number", "statistic") and _is_number(value):
        return float(value)
    if kind == "vector" and is_list and all(map(_is_number, value)):
        return [float(entry) for entry in value]
    raise ValueOfAnotherKind(f"{feature.name}: a {kind}, got {str(value)[:80]}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def list_row(record: DecisionRecord, schema: Schema, reason: str | None) -> Row:
    """Return the row of a decision. Raises ValueOfAnotherKind unless a reason leaves it out."""
    store, bundle = record.store, record.bundle
    row: Row = {
        "request_id": record.record, "request": record.request_id, "user_id": record.user,
        "timestamp": record.at, "bundle": f"{bundle.name}/{bundle.version}",
        "digest": bundle.digest, "variant": record.variant, "policy": record.policy.kind,
        "reason": reason, "partial": record.user_is_partial,
        "now": None if store is None else store.now, "live": store is None or store.live,
    }  # fmt: skip
    of_user = {} if reason else record.user_features
    for feature in user_features(schema):
        row[feature.name] = converted(feature, of_user.get(feature.name))
    return row


def candidate_rows(record: DecisionRecord, schema: Schema) -> list[Row]:
    """Return a row for each candidate in initial order. Raises ValueOfAnotherKind."""
    position_of = {candidate: place for place, candidate in enumerate(record.slate)}
    features, blobs = row_features(schema), record.store.blobs if record.store else ()
    inline = record.candidate_list().by_candidate()
    rows: list[Row] = []
    for rank, item in enumerate(record.ids):
        values = inline[rank] if inline else {}
        blob = blobs[rank] if blobs else None
        of_store = _stored_features(blob, features, values)
        row: Row = {
            "request_id": record.record, "user_id": record.user, "timestamp": record.at,
            "rank": rank, "position": position_of.get(rank), "item_id": item, "stored": blob,
            "from_store": list(of_store),
        }  # fmt: skip
        for feature in features:
            if feature.name in of_store:
                row[feature.name] = of_store[feature.name]
                continue
            value = (record.context if feature.of == "context" else values).get(feature.name)
            if feature.name == "score" and feature.of == "candidate" and record.scores:
                value = record.scores[rank] if value is None else value
            row[column_of(feature)] = converted(feature, value)
        rows.append(row)
    return rows


def _stored_features(
    blob: bytes | None, features: Sequence[Feature], inline: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the stored values that a request does not replace and that the schema allows.

    Stored values of statistics stay in the blob, because a log must not hold them.
    """
    if blob is None:
        return {}
    try:
        stored = Item.from_blob(blob).features
    except EntityError:
        return {}
    values = {}
    for feature in features:
        is_stored = feature.of == "item" and feature.kind != "statistic"
        if is_stored and stored.get(feature.name) is not None and inline.get(feature.name) is None:
            try:
                values[feature.name] = converted(feature, stored[feature.name])
            except ValueError:  # the service left it out too
                continue
    return values


def history_rows(record: DecisionRecord) -> list[Row]:
    """Return a row for each entry of the history as it was used."""
    features: Sequence[Mapping[str, Any]] = record.history_features or [{}] * len(record.history)
    return [
        {
            "request_id": record.record,
            "item_id": item,
            "label": label,
            "features": ormsgpack.packb(dict(of_entry)) if of_entry else None,
        }
        for (item, label), of_entry in zip(record.history, features, strict=True)
    ]


def event_row(record: EventRecord) -> Row:
    """Return the row of an event; one without an id has that of its record."""
    return {
        "record": record.record, "event_id": record.event_id or record.record,
        "request": record.request_id, "user_id": record.user, "item_id": record.item,
        "type": record.type, "outcome": record.outcome, "value": record.value,
        "label": record.label, "at": record.at, "position": record.position,
        "displayed": list(record.displayed),
    }  # fmt: skip
