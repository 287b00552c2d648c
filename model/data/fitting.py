"""Fit a feature schema on the train split and encode the item table with it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
import polars as pl

from model.data import labels
from model.data.chunks import read_chunks
from model.data.growth import grow
from model.data.layout import COLUMNS
from model.data.train_values import numbers_over_time, texts_over_time
from model.data.users import is_anonymous
from service.engine.contract import Floats
from service.engine.features.encoding import (
    ColumnError,
    Doubles,
    FeatureError,
    encode_number,
    encode_numbers,
    encode_vector,
    encode_vectors,
)
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.layout import Layout
from service.engine.features.rates import prior_rate
from service.engine.features.schema import NUMBER_KINDS, Feature, Schema
from service.engine.features.snapshot import Snapshot

T = TypeVar("T")
COLUMNS_PER_SCAN = 16  # of a log, so that memory does not grow with the number of its columns


def fit(
    schema: Schema,
    rows: pl.DataFrame | pl.LazyFrame,
    items: pl.DataFrame,
    users: pl.DataFrame,
    snapshot: Snapshot | None = None,
    earlier: Schema | None = None,
    item_counts: Snapshot | None = None,
) -> Featuriser:
    """Return a featuriser with means, deviations and vocabularies of the train split alone.

    With an `earlier` fitted schema, means and deviations are its own, and vocabularies grow.
    In a data set with a snapshot, values of items and users that train rows carry inline count
    too. Without one only those of the tables do, as for RankLens; its `item_counts` change no fit.

    Raises FeatureError if an item breaks the fitted schema, SchemaError for another `earlier` one.
    """
    train = rows.lazy().filter(pl.col("split") == "train")

    def in_train(name: str) -> pl.Expr:
        ids = train.select(name).unique().collect(engine="streaming")
        return pl.col(name).is_in(ids[name].implode())

    tables = {"item": items.filter(in_train("item_id")), "user": users.filter(in_train("user_id"))}
    inline = rows.lazy().collect_schema().names()

    # An id stands only once in its table, so its frequency is counted in the log.
    fits = {feature.name: _PartialFit(feature) for feature in schema.features}
    of_log: list[Feature] = []
    over_time: dict[str, list[str]] = {owner: [] for owner in tables}
    for feature in schema.features:
        name, table = feature.name, tables.get(feature.of)
        if table is None or name in COLUMNS:
            of_log += [feature] if name in inline else []
        elif snapshot is None or name not in inline:
            if name in table.columns:
                fits[name].add(table[name])
        elif feature.slots:
            fits[name].add(texts_over_time(feature, train, table))
        elif feature.kind in NUMBER_KINDS:
            over_time[feature.of].append(name)
    _read_log(of_log, fits, rows.lazy())
    for owner, names in over_time.items():
        for group in batches(names):
            for frame in numbers_over_time(group, f"{owner}_id", train, tables[owner]):
                for name in group:
                    fits[name].add(frame[name])
    fitted = []
    for feature in schema.features:
        fitted.append(fits[feature.name].result())
        if feature.kind == "statistic" and feature.default is None:
            if snapshot is not None and snapshot.as_of is not None:
                counts = snapshot.statistics[feature.name]
                mean = prior_rate(counts.all_likes, counts.all_shows)
            else:
                gain = train.select(labels.gain(schema.label).mean()).collect(engine="streaming")
                mean = float(np.clip(gain.item(), 1e-3, 1.0 - 1e-3))
            fitted[-1] = dataclasses.replace(fitted[-1], default=math.log(mean / (1.0 - mean)))
    complete = grow(dataclasses.replace(schema, features=tuple(fitted)), earlier)
    return Featuriser(complete, encode_items(Layout(complete), items), snapshot or item_counts)


def _read_log(
    features: Sequence[Feature], fits: Mapping[str, _PartialFit], log: pl.LazyFrame
) -> None:
    """Add the train rows of a log to `fits`, a few columns at a time.

    A feature of a user or context is read once per request.
    """
    for group in batches(features):
        names = [feature.name for feature in group]
        for chunk in read_chunks(log.select("request_id", "split", *names)):
            train_rows = chunk.filter(pl.col("split") == "train")
            lists = train_rows
            if any(feature.of in ("context", "user") for feature in group):
                lists = train_rows.unique("request_id", keep="first", maintain_order=True)
            for feature in group:
                frame = lists if feature.of in ("context", "user") else train_rows
                if feature.name == "user_id":
                    frame = frame.filter(~is_anonymous())
                fits[feature.name].add(frame[feature.name])


def batches(entries: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield up to COLUMNS_PER_SCAN entries at a time."""
    for start in range(0, len(entries), COLUMNS_PER_SCAN):
        yield entries[start : start + COLUMNS_PER_SCAN]


class _PartialFit:
    """A feature, and what its values so far say about its vocabulary or its moments."""

    def __init__(self, feature: Feature) -> None:
        self._feature = feature
        self._counts: Counter[str] = Counter()
        self._moments: list[tuple[int, float, float]] = []  # number of values, mean, variance

    def add(self, column: pl.Series) -> None:
        """Add the values of a chunk; nulls do not count."""
        column = column.drop_nulls()
        if self._feature.buckets is not None:
            return  # values are hashed
        if self._feature.slots:
            values = column.explode() if column.dtype.is_nested() else column
            self._counts.update(map(str, values.drop_nulls().to_list()))
        elif self._feature.kind in NUMBER_KINDS and len(column):
            numbers = transformed(self._feature, column.cast(pl.Float64))
            self._moments.append((len(numbers), float(numbers.mean()), float(numbers.var())))

    def result(self) -> Feature:
        """Return the feature with a vocabulary, or with mean and deviation over all chunks."""
        feature = self._feature
        if feature.slots:
            frequent = (v for v, count in self._counts.items() if count >= feature.min_count)
            return dataclasses.replace(feature, vocabulary=tuple(sorted(frequent)))
        if not self._moments:
            return feature
        sizes, means, variances = np.array(self._moments).T
        share = sizes / sizes.sum()
        mean = float((share * means).sum())
        std = float(np.sqrt((share * (variances + (means - mean) ** 2)).sum()))
        constant = std < 1e-6 * max(1.0, abs(mean))  # except for rounding errors
        return dataclasses.replace(feature, mean=mean, std=1.0 if constant else std)


def transformed(feature: Feature, column: pl.Series) -> Doubles:
    """Apply the feature's transform to numbers without null, as `transform_value` does to one.

    The logarithm is that of polars, which takes it from the same library as `math`. That of numpy
    differs in the last bits on some processors.
    """
    numbers: Doubles = column.to_numpy()
    if feature.transform != "log":
        return numbers
    return pl.Series(np.where(numbers < 0.0, 0.0, numbers)).log1p().to_numpy()


def encode_items(layout: Layout, items: pl.DataFrame, file: str = "items.parquet") -> ItemTable:
    """Encode every item, column by column, as features of a request are.

    Args:
        layout: of a fitted schema.
        items: item_id and features; a feature without a column has its default.
        file: name of the table in errors.

    Raises FeatureError for the first item that breaks the schema.
    """
    item_features = [feature for feature in layout.features.values() if feature.of == "item"]
    number_features = [feature for feature in item_features if feature.kind in NUMBER_KINDS]
    numbers = np.zeros((len(items), len(number_features)), np.float32)
    tokens, vectors = [np.zeros((len(items), 0), np.int64)], {}
    try:
        for index, feature in enumerate(number_features):
            numbers[:, index] = _encode_numbers(feature, _column(items, feature))
        for feature in item_features:
            if feature.slots:
                column = _column(items, feature).to_list()
                values = [feature.default if value is None else value for value in column]
                tokens.append(layout.encode_tokens(feature, values, feature.name))
            elif feature.kind == "vector":
                vectors[feature.name] = _encode_vectors(feature, _column(items, feature))
    except (ColumnError, FeatureError):
        _refuse_first_item(layout, item_features, items, file)
        raise
    ids = tuple(items["item_id"].to_list())
    return ItemTable(ids, numbers, np.concatenate(tokens, axis=1), vectors)


def _column(items: pl.DataFrame, feature: Feature) -> pl.Series:
    """Return a column of the table, or nulls in its place."""
    if feature.name in items.columns:
        return items[feature.name]
    return pl.Series(feature.name, [None] * len(items))


def _encode_numbers(feature: Feature, column: pl.Series) -> Floats:
    """Return standardised numbers; null is the default, else the train mean. Raises ColumnError."""
    column = column.cast(pl.Float64)
    if feature.default is not None:
        column = column.fill_null(float(feature.default))
    missing = column.is_null().to_numpy()[None]
    values = column.fill_null(0.0).to_numpy()[None]
    encoded = encode_numbers([feature], values, missing)
    return np.where(missing, 0.0, encoded)[0].astype(np.float32)


def _encode_vectors(feature: Feature, column: pl.Series) -> Floats:
    """Return vectors float32 [I, width]; null is the default, else zeros. Raises ColumnError."""
    rows = np.tile(encode_vector(feature, feature.default, feature.name), (len(column), 1))
    present = column.is_not_null()
    if present.any():
        lists = column.drop_nulls().cast(pl.List(pl.Float64))
        entries = lists.explode()
        if (lists.list.len() != feature.width).any() or entries.has_nulls():
            raise ColumnError(feature.name)
        numbers = entries.to_numpy().reshape(len(lists), feature.width)
        rows[present.to_numpy()] = encode_vectors(feature, numbers)
    return rows


def _refuse_first_item(
    layout: Layout, features: Sequence[Feature], items: pl.DataFrame, file: str
) -> None:
    """Raise FeatureError for the first item that breaks the schema."""
    groups = [
        [f for f in features if f.kind in NUMBER_KINDS],
        [f for f in features if f.slots],
        [f for f in features if f.kind == "vector"],
    ]
    for item in items.iter_rows(named=True):
        for feature in chain.from_iterable(groups):
            entry = item.get(feature.name)
            value = feature.default if entry is None else entry
            path = f"{file}[{item['item_id']!r}].{feature.name}"
            if feature.slots:
                layout.encode_tokens(feature, [value], path)
            elif feature.kind == "vector":
                encode_vector(feature, value, path)
            else:
                encode_number(feature, value, path)
