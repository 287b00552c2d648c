"""Fit a schema on new data as the continuation of a schema that was fitted before."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from service.engine.contract import FEATURES, Integers
from service.engine.features.layout import Layout
from service.engine.features.schema import Feature, Schema
from service.engine.features.schema_rules import SchemaError

# Fields that fitting fills, and fields that change neither a column nor the values in it.
FITTED, FREE = {"mean", "std", "vocabulary"}, {"required", "min_count"}
ABSENT = -1  # row of a value that the earlier table lacks


def read_schema(directory: Path) -> Schema:
    """Read the fitted schema of a run. Raises SchemaError, or OSError if there is none."""
    return Schema.from_dict(json.loads((directory / FEATURES).read_text(encoding="utf-8")))


def grow(schema: Schema, earlier: Schema | None) -> Schema:
    """Return `schema`, fitted on new data, with the means and deviations of `earlier`.

    Vocabularies hold the values of both. Without `earlier` the schema stays as it is. Raises
    SchemaError where declarations differ.
    """
    if earlier is None:
        return schema
    refuse_differences(schema, earlier)
    before = {feature.name: feature for feature in earlier.features}
    features = [_grow(feature, before[feature.name]) for feature in schema.features]
    return dataclasses.replace(schema, features=tuple(features))


def _grow(feature: Feature, earlier: Feature) -> Feature:
    vocabulary = tuple(sorted({*feature.vocabulary, *earlier.vocabulary}))
    return dataclasses.replace(feature, mean=earlier.mean, std=earlier.std, vocabulary=vocabulary)


def refuse_differences(schema: Schema, earlier: Schema) -> None:
    """Raise SchemaError that names the first declaration which differs from `earlier`."""
    names, before = ([feature.name for feature in s.features] for s in (schema, earlier))
    for name in names:
        if name not in before:
            raise SchemaError(f"features.{name}: must be absent, because the checkpoint lacks it")
    for name in before:
        if name not in names:
            raise SchemaError(f"features.{name}: must be declared, because the checkpoint has it")
    if names != before:
        rule = f"must be declared in the order of the checkpoint, {', '.join(before)}"
        raise SchemaError(f"features: {rule}, got {', '.join(names)}")
    pairs: list[tuple[str, Any, Any]] = [
        ("history", schema.history, earlier.history),
        ("label", schema.label, earlier.label),
        *(
            (f"features.{one.name}", one, other)
            for one, other in zip(schema.features, earlier.features, strict=True)
        ),
    ]
    for path, one, other in pairs:
        for field in dataclasses.fields(one):
            # Fitting replaces the default of a statistic by the rate of all items.
            of_fit = field.name == "default" and getattr(one, "kind", "") == "statistic"
            if field.name in FITTED | FREE or of_fit:
                continue
            value, expected = getattr(one, field.name), getattr(other, field.name)
            if value != expected:
                rule = f"must be {expected!r} as in the checkpoint"
                raise SchemaError(f"{path}.{field.name}: {rule}, got {value!r}")


def earlier_tokens(schema: Schema, earlier: Schema) -> Integers:
    """Return the token that each token of a grown schema had in `earlier`, int64 [V]; or ABSENT."""
    layout, before = Layout(schema), Layout(earlier)
    tokens = np.full(layout.vocabulary_size, ABSENT, np.int64)
    tokens[0] = 0  # no token
    for feature in schema.features:
        if not feature.slots:
            continue
        first, start = layout.first_token[feature.name], before.first_token[feature.name]
        tokens[first] = start
        place = first + 1
        if feature.buckets is not None:
            tokens[place : place + feature.buckets] = np.arange(feature.buckets) + (start + 1)
            continue
        values = before.features[feature.name].vocabulary
        index_of = {value: start + 1 + index for index, value in enumerate(values)}
        tokens[place : place + len(feature.vocabulary)] = [
            index_of.get(value, ABSENT) for value in feature.vocabulary
        ]
    return tokens
