"""Scan a user's log, and read its columns by the rules for single rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from model.data.errors import DataError
from model.data.extremes import extreme_rules
from model.data.files import Files
from model.data.ids import find_decimals, id_column
from model.data.layout import SPLITS
from model.data.log_checks import LogChecks
from model.data.rejects import Rejects
from model.data.rules import Report, Rule
from model.data.scan import ROW, require_agreement, scan_files
from model.data.source import LOG_COLUMNS
from model.data.tables import (
    COMPUTED,
    decimal_text,
    feature_column,
    require_columns,
    required_rules,
    whole_number,
)
from service.engine.features.schema import Feature, Schema

# Kinds of the columns that every log may have, beside those of the schema.
BASE_KINDS = {
    "request_id": "identifier",
    "user_id": "identifier",
    "item_id": "identifier",
    "position": "whole",
    "label": "number",
    "timestamp": "time",
    "split": "category",
}


@dataclass(frozen=True)
class OpenedLog:
    """A log whose rows were checked one by one.

    checks    files, report, and rows as the log has them
    schema    of the features
    features  features that are columns of the log
    good      rows that break no rule, as the log has them
    values    value of each column of `good`
    """

    checks: LogChecks
    schema: Schema
    features: Sequence[Feature]
    good: pl.LazyFrame
    values: Mapping[str, pl.Expr]

    @property
    def files(self) -> Files:
        """Return the files of the log, whose rows are counted."""
        return self.checks.files

    @property
    def timed(self) -> bool:
        """Return true if the log has times; else the order of rows stands for time."""
        return "timestamp" in self.values

    def read(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Return ROW and the values of rows as the log has them."""
        return rows.select(ROW, *(value.alias(name) for name, value in self.values.items()))

    def check_extremes(self, log: pl.LazyFrame) -> pl.LazyFrame:
        """Return the rows of a log that was read without those that hold absurd numbers."""
        extremes = [*extreme_rules(log, self.features, sum(self.files.counts))]
        return self.checks.report.check(self.files, log, extremes, self.checks.raw)

    def ignored(self) -> tuple[str, ...]:
        """Return the columns that nothing reads."""
        expected = {*BASE_KINDS, ROW, *(feature.name for feature in self.features)}
        names = self.checks.raw.collect_schema().names()
        return tuple(name for name in names if name not in expected)


def open_log(
    path: Files, schema: Schema, scratch: Path, rejects: Rejects | None = None
) -> OpenedLog:
    """Scan the files of a log and check every row (docs/data.md).

    Args:
        scratch: existing directory for intermediate files.
        rejects: takes the rows that break a rule; without it the report raises an error later.

    Raises DataError for columns or files that break a rule.
    """
    report = Report(rejects)
    raw = _scan_log(path, schema, scratch, report)
    dtypes = raw.collect_schema()
    features = [f for f in schema.features if f.name in dtypes and f.name not in LOG_COLUMNS]
    for feature in features:
        if feature.kind == "statistic":
            raise DataError(path, COMPUTED, column=feature.name)
    decimals = find_decimals(path, raw, _kinds(schema))
    rules, values = _base_columns(path, schema, dtypes, decimals)
    for feature in features:
        of_feature, values[feature.name] = feature_column(
            path, feature, dtypes[feature.name], feature.name in decimals
        )
        rules += of_feature
        if feature.of != "user":  # one row of a user may hold the value that others lack
            rules += required_rules(feature, values[feature.name])
    good = report.check(path, raw, rules, empty_lists=True)
    return OpenedLog(LogChecks(path, report, raw), schema, features, good, values)


def _scan_log(path: Files, schema: Schema, scratch: Path, report: Report) -> pl.LazyFrame:
    """Scan the log, and check that its files have the columns that they must have."""
    kinds = _kinds(schema)
    raw = report.readable(path, scan_files(path, kinds, scratch))
    optional = {feature.name for feature in schema.features if not feature.required}
    optional -= {*BASE_KINDS}
    if not _needs_users(schema):
        optional.add("user_id")
    needed = [name for name in LOG_COLUMNS if name not in optional]
    try:
        require_columns(path, raw.collect_schema(), needed, "log")
        require_agreement(path, kinds, optional)
    except DataError:
        report.raise_first()  # a row that cannot be read may be the reason
        raise
    return raw


def _needs_users(schema: Schema) -> bool:
    return any(feature.name == "user_id" and feature.required for feature in schema.features)


def _kinds(schema: Schema) -> dict[str, str]:
    return {**{feature.name: feature.kind for feature in schema.features}, **BASE_KINDS}


def _base_columns(
    files: Files, schema: Schema, dtypes: pl.Schema, decimals: Collection[str]
) -> tuple[list[Rule], dict[str, pl.Expr]]:
    """Return the rules and values of the columns that every log has.

    Args:
        decimals: columns of ids that are written with decimals.
    """
    rules: list[Rule] = []
    columns: dict[str, pl.Expr] = {"user_id": pl.lit(None, pl.String)}
    for name in ("request_id", "user_id", "item_id"):
        if name in dtypes:
            required = name != "user_id" or _needs_users(schema)
            id_rules, columns[name] = id_column(
                name, dtypes[name], name in decimals, required, files
            )
            rules += id_rules
    low, high = schema.label.range
    label = decimal_text(pl.col("label"), dtypes["label"], files).cast(pl.Float64, strict=False)
    whole_rule, columns["position"] = whole_number("position", dtypes["position"], pl.Int32)
    columns["label"] = ((label - low) / (high - low)).cast(pl.Float32)
    rules += [
        whole_rule,
        Rule("position", "must be at least 0", (columns["position"] < 0).fill_null(False)),
        Rule("label", "must be a number", ~label.is_finite().fill_null(False)),
        Rule(
            "label",
            f"must be between {low:g} and {high:g}",
            ~label.is_between(low, high).fill_null(True),
        ),
    ]
    if "timestamp" in dtypes:
        whole_rule, columns["timestamp"] = whole_number("timestamp", dtypes["timestamp"], pl.Int64)
        rules.append(whole_rule)
    if "split" in dtypes:
        columns["split"] = pl.col("split").cast(pl.String)
        broken = ~columns["split"].is_in(SPLITS).fill_null(False)
        rules.append(Rule("split", f"must be one of {', '.join(SPLITS)}", broken))
    return rules, columns
