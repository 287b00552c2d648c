"""Read and check tables of items and users."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from model.data.errors import DataError
from model.data.extremes import extreme_rules
from model.data.files import Files
from model.data.ids import find_decimals, id_column
from model.data.rules import BadRow, Report
from model.data.scan import ROW, require_agreement, scan_files
from model.data.tables import (
    COMPUTED,
    feature_column,
    require_columns,
    required_rules,
    whole_number,
)
from model.data.users import ANONYMOUS
from service.engine.features.schema import Schema

EXAMPLES = 3  # ids in a message
DECIMAL_REASON = "the ids of one are written with decimals"
# Patterns whose removal from ids, in lower case, makes those of log and table equal.
REASONS = (
    ("^$", "they differ in upper and lower case"),
    (r"[.,]0+$", DECIMAL_REASON),
    (r"^0+", "the ids of one begin with zeros"),
    (r"^\D+", "the ids of one have a prefix"),
)
TIME = "__time"  # time of a list, or from which on the values of a table's row hold


def read_entity_table(
    path: Files | None,
    owner: str,
    schema: Schema,
    timed: bool,
    scratch: Path,
    report: Report,
    computed: bool = False,
) -> pl.DataFrame | None:
    """Read a table of items or users; None without files.

    It has one row per id, or with a column of times, which becomes TIME, one per id and time. Rows
    that break a rule are left out and reported.

    Args:
        timed: the log has times; without them those of the table mean nothing.
        computed: the table may hold statistics, which `prepare` computes.
    """
    if path is None:
        return None
    key = f"{owner}_id"
    features = [f for f in schema.features if f.of == owner and f.name != key]
    kinds = {key: "identifier", **{feature.name: feature.kind for feature in features}}
    if timed:
        kinds["timestamp"] = "time"
    raw = report.readable(path, scan_files(path, kinds, scratch))
    dtypes = raw.collect_schema()
    require_columns(path, dtypes, [key])
    require_agreement(path, kinds, {feature.name for feature in features if not feature.required})
    decimals = find_decimals(path, raw, kinds)
    rules, read = id_column(key, dtypes[key], key in decimals, files=path)
    columns = [pl.col(ROW), read.alias(key)]
    unique, once = key, "must occur once per file"
    if timed and "timestamp" in dtypes:
        rule, time = whole_number("timestamp", dtypes["timestamp"], pl.Int64)
        columns.append(time.alias(TIME))
        rules.append(rule)
        unique, once = "timestamp", f"must occur once per {key}"
    for feature in features:
        if feature.name in dtypes:
            if feature.kind == "statistic" and not computed:
                raise DataError(path, COMPUTED, column=feature.name)
            of_feature, expression = feature_column(
                path, feature, dtypes[feature.name], feature.name in decimals
            )
            columns.append(expression.alias(feature.name))
            rules += [*of_feature, *required_rules(feature, expression)]
    good = report.check(path, raw, rules)
    read_table = good.select(columns).collect(engine="streaming").lazy()
    extremes = [*extreme_rules(read_table, features, sum(path.counts))]
    table = report.check(path, read_table, extremes, raw).collect()
    names = [key, *([TIME] if TIME in table.columns else [])]
    repeated = table.filter(~pl.struct(names).is_first_distinct())
    bad = [BadRow(row, once, value) for row, value in repeated.select(ROW, names[-1]).iter_rows()]
    return report.drop(path, table.lazy(), (unique, once), bad, raw).drop(ROW).collect()


def check_matches(
    files: Files | None, log: pl.LazyFrame, key: str, table: pl.DataFrame | None
) -> None:
    """Note the share of the log's ids that a table has, if it is not all of them.

    Raises DataError if the table has none of them.
    """
    if files is None or table is None:
        return
    ids = log.select(key).unique().collect(engine="streaming")[key].sort()
    ids = ids.filter(~ids.str.starts_with(ANONYMOUS))
    kind = key.removesuffix("_id")
    missing = ids.filter(~ids.is_in(table[key].implode()))
    if len(missing) == len(ids):
        others = table[key].unique().sort()
        rule = f"must have ids of the log, but has none of its {len(ids):,} {kind}s; the log has "
        rule += f"{_examples(ids)}, the table {_examples(others)}{_difference(ids, others, files)}"
        raise DataError(files, rule, column=key)
    if len(missing):
        share = 1.0 - len(missing) / len(ids)
        files.remarks.append(
            f"{100.0 * share:.1f} % of the log's {len(ids):,} {kind}s are in the table; not, "
            f"for example, {_examples(missing)}"
        )


def _difference(ids: pl.Series, others: pl.Series, files: Files) -> str:
    """Return the likely reason why two columns of ids have none in common, or an empty text."""
    for pattern, reason in REASONS:
        plain, other = (
            values.str.strip_chars().str.replace(pattern, "").str.to_lowercase()
            for values in (ids, others)
        )
        if plain.is_in(other.implode()).any():
            comma = reason == DECIMAL_REASON and files.dialect.decimal == "."
            advice = "; for decimal commas pass --decimal ," if comma else ""
            return f"; {reason}{advice}"
    return ""


def _examples(ids: pl.Series) -> str:
    return ", ".join(map(repr, ids.head(EXAMPLES))) or "none"
