"""Fit a feature schema on the train split and encode the item table with it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from model.data import labels
from model.data.chunks import read_chunks
from model.data.layout import COLUMNS
from model.data.moment import Moment
from model.data.train_values import values_over_time
from service.engine.features.encoding import encode_number, encode_vector
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.schema import NUMBER_KINDS, Feature, Schema


def fit(
    schema: Schema,
    rows: pl.DataFrame | pl.LazyFrame,
    items: pl.DataFrame,
    users: pl.DataFrame,
    moment: Moment | None = None,
) -> Featuriser:
    """Return a featuriser with means, deviations and vocabularies of the train split alone.

    In a data set with a record of its moment, values of items and users that train rows carry
    inline count too. Without one only those of the tables do, as for RankLens.

    Raises FeatureError if an item breaks the fitted schema.
    """
    train = rows.lazy().filter(pl.col("split") == "train")

    def in_train(name: str) -> pl.Expr:
        ids = train.select(name).unique().collect(engine="streaming")
        return pl.col(name).is_in(ids[name].implode())

    tables = {"item": items.filter(in_train("item_id")), "user": users.filter(in_train("user_id"))}
    inline = rows.lazy().collect_schema().names()

    def columns(feature: Feature) -> Iterator[pl.Series]:
        # An id stands only once in its table, so its frequency is counted in the log.
        if feature.of in tables and feature.name not in COLUMNS:
            if moment is not None and feature.name in inline:
                yield from values_over_time(feature, train, tables[feature.of])
            elif feature.name in tables[feature.of].columns:
                yield tables[feature.of][feature.name]
        elif feature.name in inline:
            for chunk in read_chunks(rows.lazy().select("request_id", "split", feature.name)):
                train_rows = chunk.filter(pl.col("split") == "train")
                if feature.of in ("context", "user"):
                    train_rows = train_rows.unique("request_id", keep="first", maintain_order=True)
                yield train_rows[feature.name]

    fitted = []
    for feature in schema.features:
        fitted.append(_fit_feature(feature, columns(feature)))
        if feature.kind == "statistic" and feature.default is None:
            gain = train.select(labels.gain(schema.label).mean()).collect(engine="streaming")
            mean = float(np.clip(gain.item(), 1e-3, 1.0 - 1e-3))
            fitted[-1] = dataclasses.replace(fitted[-1], default=math.log(mean / (1.0 - mean)))
    complete = dataclasses.replace(schema, features=tuple(fitted))
    return Featuriser(complete, _encode_items(complete, items))


def _fit_feature(feature: Feature, columns: Iterable[pl.Series]) -> Feature:
    """Return the feature with a vocabulary, or with mean and deviation over all chunks."""
    values = (column.drop_nulls().to_list() for column in columns)
    if feature.slots:
        counts: Counter[str] = Counter()
        for entries in values:
            flat = (v for value in entries for v in (value if isinstance(value, list) else [value]))
            counts.update(map(str, flat))
        vocabulary = sorted(v for v, count in counts.items() if count >= feature.min_count)
        return dataclasses.replace(feature, vocabulary=tuple(vocabulary))
    if feature.kind not in NUMBER_KINDS:
        return feature
    moments = [
        (len(entries), numbers.mean(), numbers.var())
        for entries in values
        if entries
        for numbers in [np.array([feature.transform_value(float(value)) for value in entries])]
    ]
    if not moments:
        return feature
    sizes, means, variances = np.array(moments).T
    share = sizes / sizes.sum()
    mean = float((share * means).sum())
    std = float(np.sqrt((share * (variances + (means - mean) ** 2)).sum()))
    constant = std < 1e-6 * max(1.0, abs(mean))  # except for rounding errors
    return dataclasses.replace(feature, mean=mean, std=1.0 if constant else std)


def _encode_items(schema: Schema, items: pl.DataFrame) -> ItemTable:
    """Encode every item with the same encoders as features of a request."""
    item_features = [feature for feature in schema.features if feature.of == "item"]
    encoder = Featuriser(schema, _empty_table(item_features))
    number_features = [feature for feature in item_features if feature.kind in NUMBER_KINDS]
    token_features = [feature for feature in item_features if feature.slots]
    vector_features = [feature for feature in item_features if feature.kind == "vector"]
    numbers = np.zeros((len(items), len(number_features)), np.float32)
    tokens = np.zeros((len(items), sum(f.slots for f in token_features)), np.int64)
    vectors = {f.name: np.zeros((len(items), f.width), np.float32) for f in vector_features}
    for index, item in enumerate(items.iter_rows(named=True)):
        path = f"items.parquet[{item['item_id']!r}]"

        def value(feature: Feature, item: dict[str, Any] = item) -> Any:
            entry = item.get(feature.name)
            return feature.default if entry is None else entry

        numbers[index] = [encode_number(f, value(f), f"{path}.{f.name}") for f in number_features]
        if token_features:
            tokens[index] = np.concatenate(
                [encoder.encode_tokens(f, value(f), f"{path}.{f.name}") for f in token_features]
            )
        for feature in vector_features:
            where = f"{path}.{feature.name}"
            vectors[feature.name][index] = encode_vector(feature, value(feature), where)
    return ItemTable(tuple(items["item_id"].to_list()), numbers, tokens, vectors)


def _empty_table(features: list[Feature]) -> ItemTable:
    """Return a table of no items with the columns of `features`."""
    return ItemTable(
        (),
        np.zeros((0, sum(f.kind in NUMBER_KINDS for f in features)), np.float32),
        np.zeros((0, sum(f.slots for f in features)), np.int64),
        {f.name: np.zeros((0, f.width), np.float32) for f in features if f.kind == "vector"},
    )
