"""The tables of a join: their columns, and the values of a record for them.

lists       a row per decision: request_id (the id of its record), request (the request_id of the
            response), user_id, timestamp, bundle, digest, variant, policy, reason (null unless the
            list is left out), features of the user and the use of the entity store
rows        a row per candidate: request_id, user_id, timestamp, rank (place in the initial
            ranking), position (in the slate, null outside), item_id, the features, and the
            statistics as served
histories   a row per entry, oldest first: request_id, item_id, label, rate (of its item as
            served), features (MessagePack)
events      a row per event
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from types import NoneType
from typing import Any

import ormsgpack
import polars as pl

from service.engine.features.ids import read_id
from service.engine.features.schema import Feature, Schema
from service.journal.records import DecisionRecord, EventRecord
from service.state.entities import Item
from service.state.errors import EntityError

Row = dict[str, Any]
Columns = Mapping[str, Sequence[Any]]
KIND_TYPES: Mapping[str, pl.DataType] = {
    "identifier": pl.String(), "category": pl.String(), "categories": pl.List(pl.String()),
    "number": pl.Float64(), "statistic": pl.Float64(), "vector": pl.List(pl.Float32()),
}  # fmt: skip
# Types of values that a column holds as they are.
PLAIN: Mapping[str, set[type]] = {
    "category": {str, NoneType}, "categories": {list, NoneType},
    "number": {float, NoneType}, "statistic": {float, NoneType},
}  # fmt: skip
# Directories of a join; prepare reads the first two.
IMPRESSIONS, USERS, CANDIDATES = "impressions", "users", "candidates"
HISTORIES, REQUESTS = "histories", "requests"
TABLES = (IMPRESSIONS, USERS, CANDIDATES, HISTORIES, REQUESTS)
# Before the name of a statistic, which a log must not hold: as its request had it, and as served.
INLINE, SERVED = "inline.", "served."
LIST_TYPES: Mapping[str, Any] = {
    "request_id": pl.String, "request": pl.String, "user_id": pl.String, "timestamp": pl.Int64,
    "bundle": pl.String, "digest": pl.String, "variant": pl.String, "policy": pl.String,
    "reason": pl.String, "partial": pl.Boolean, "now": pl.Int64, "live": pl.Boolean,
}  # fmt: skip
HISTORY_TYPES: Mapping[str, Any] = {
    "request_id": pl.String, "item_id": pl.String, "label": pl.Float32, "rate": pl.Float64,
    "features": pl.Binary,
}  # fmt: skip
EVENT_TYPES: Mapping[str, Any] = {
    "record": pl.String, "event_id": pl.String, "request": pl.String, "user_id": pl.String,
    "item_id": pl.String, "type": pl.String, "outcome": pl.String, "value": pl.Float64,
    "label": pl.Float64, "at": pl.Int64, "position": pl.Int32, "displayed": pl.List(pl.String),
}  # fmt: skip


# Columns that the tables of candidates have beside the features, while and after they are labelled.
TAKEN = {
    "rank", "stored", "from_store", "settled_at", "displayed", "last", "stated",
}  # fmt: skip


@dataclass(frozen=True)
class Served:
    """Values of statistics that a list was served with, whatever gave them.

    statistics: of each candidate, by name; rates: of the item of each entry of the history, the
    statistic `history.rate`. Both are empty for a list whose bundle is not at hand.
    """

    statistics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rates: Sequence[float] = ()


class ValueOfAnotherKind(ValueError):
    """A value that the schema does not allow: another schema served it."""


def user_features(schema: Schema) -> list[Feature]:
    """Return the features of users that a list has a column for."""
    return [f for f in schema.features if f.of == "user" and f.name != "user_id"]


def row_features(schema: Schema) -> list[Feature]:
    """Return the features of candidates, items and contexts that a row has a column for."""
    return [f for f in schema.features if f.of != "user" and f.name != "item_id"]


def taken_name(schema: Schema) -> str | None:
    """Return a feature that has the name of a column of the tables, None without one."""
    names = [f.name for f in user_features(schema) if f.name in {*LIST_TYPES, "settled_at"}]
    names += [f.name for f in row_features(schema) if f.name in TAKEN]
    return names[0] if names else None


def column_of(feature: Feature) -> str:
    """Return the name of a feature's column."""
    return f"{INLINE}{feature.name}" if feature.kind == "statistic" else feature.name


def served_statistics(schema: Schema) -> list[str]:
    """Return the statistics whose served values can be read off the arrays of a list."""
    return [f.name for f in schema.features if f.kind == "statistic" and f.transform == "none"]


def list_types(schema: Schema) -> dict[str, Any]:
    """Return the columns of the table of lists."""
    return {**LIST_TYPES, **{f.name: KIND_TYPES[f.kind] for f in user_features(schema)}}


def row_types(schema: Schema) -> dict[str, Any]:
    """Return the columns of the table of rows."""
    return {
        "request_id": pl.String, "user_id": pl.String, "timestamp": pl.Int64, "rank": pl.Int32,
        "position": pl.Int32, "item_id": pl.String,
        **{column_of(f): KIND_TYPES[f.kind] for f in row_features(schema)},
        **{f"{SERVED}{name}": pl.Float64() for name in served_statistics(schema)},
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


def converted_column(feature: Feature, values: Sequence[Any]) -> list[Any]:
    """Return `converted` of each value; columns of one plain type, as most are, stay as they are.

    Raises ValueOfAnotherKind.
    """
    if set(map(type, values)) <= PLAIN.get(feature.kind, set()):
        if feature.kind != "categories":
            return list(values)
        texts = chain.from_iterable(value for value in values if value is not None)
        if set(map(type, texts)) <= {str}:
            return list(values)
    return [converted(feature, value) for value in values]


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


def candidate_columns(record: DecisionRecord, schema: Schema, served: Served) -> Columns:
    """Return the columns of the candidates in initial order. Raises ValueOfAnotherKind."""
    count = len(record.ids)
    positions: list[int | None] = [None] * count
    for place, candidate in enumerate(record.slate):
        positions[candidate] = place
    nothing: Sequence[Any] = [None] * count
    blobs = record.store.blobs if record.store else ()
    columns: dict[str, list[Any]] = {
        "request_id": [record.record] * count, "user_id": [record.user] * count,
        "timestamp": [record.at] * count, "rank": list(range(count)), "position": positions,
        "item_id": list(record.ids), "stored": list(blobs or nothing),
        "from_store": [[] for _ in range(count)],
    }  # fmt: skip
    candidates = record.candidate_list()
    for feature in row_features(schema):
        name = feature.name
        if feature.of == "context":
            columns[name] = [converted(feature, record.context.get(name))] * count
            continue
        values = candidates.values(name) or nothing
        if name == "score" and feature.of == "candidate" and record.scores:
            pairs = zip(record.scores, values, strict=True)
            values = [value if score is None else score for score, value in pairs]
        columns[column_of(feature)] = converted_column(feature, values)
    for name in served_statistics(schema):
        columns[f"{SERVED}{name}"] = [*(served.statistics.get(name) or nothing)]
    for rank, blob in enumerate(blobs):
        if blob is not None:
            _take_stored(blob, rank, schema, columns)
    return columns


def _take_stored(blob: bytes, rank: int, schema: Schema, columns: Mapping[str, list[Any]]) -> None:
    """Write the stored values of a candidate that its request does not replace.

    Values that the schema does not allow were left out by the service too. Those of statistics
    stay in the blob.
    """
    try:
        stored = Item.from_blob(blob).features
    except EntityError:
        return
    for feature in row_features(schema):
        name, value = feature.name, stored.get(feature.name)
        is_stored = feature.of == "item" and feature.kind != "statistic" and value is not None
        if is_stored and columns[name][rank] is None:
            with contextlib.suppress(ValueError):
                columns[name][rank] = converted(feature, value)
                columns["from_store"][rank].append(name)


def history_columns(record: DecisionRecord, served: Served) -> Columns:
    """Return the columns of the entries of the history as it was used."""
    count = len(record.history)
    features, nothing = record.history_features or [{}] * count, [None] * count
    return {
        "request_id": [record.record] * count,
        "item_id": [item for item, _ in record.history],
        "label": [label for _, label in record.history],
        "rate": [*(served.rates or nothing)],
        "features": [ormsgpack.packb(dict(each)) if each else None for each in features],
    }


def event_row(record: EventRecord) -> Row:
    """Return the row of an event; one without an id has that of its record."""
    return {
        "record": record.record, "event_id": record.event_id or record.record,
        "request": record.request_id, "user_id": record.user, "item_id": record.item,
        "type": record.type, "outcome": record.outcome, "value": record.value,
        "label": record.label, "at": record.at, "position": record.position,
        "displayed": list(record.displayed),
    }  # fmt: skip
