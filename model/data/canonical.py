"""Write a canonical data set in the format that docs/data.md describes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from model.data import labels, statistics
from model.data.collisions import count_collisions, describe_collisions
from model.data.dataset import Dataset
from model.data.encodable import check_encodable
from model.data.layout import CANDIDATES, COLUMNS, HISTORIES, IMPRESSIONS, SPLITS
from model.data.log_splits import to_iso
from model.data.moment import RECORD, TOTALS
from model.data.rated_rows import (
    RatedCounts,
    counts_without_time,
    rate_over_time,
    write_counts,
)
from model.data.source import Source
from service.engine.features.schema import LabelScale, Schema

# Helper columns. No feature may have a name that begins with two underscores.
ORDER_COLUMN, FOLD_COLUMN = "__order", "__fold"


def write_canonical(
    directory: Path,
    schema_path: Path,
    schema: Schema,
    source: Source,
    requests: pl.DataFrame,
    provenance: dict[str, Any],
) -> None:
    """Fit the statistics that the source lacks on the train split, then write all files.

    Args:
        directory: an existing, empty directory.
        requests: request_id, user_id, timestamp and split, in the order of the data set.
        provenance: entries for summary.json about arguments and sources.

    Raises DataError or FeatureError if the schema cannot be fitted to the data.
    """
    items, rows, counts = _fit_statistics(schema, source, requests)
    names = rows.collect_schema().names()
    inline = [f.name for f in schema.features if f.name in names and f.name not in COLUMNS]
    impressions = directory / IMPRESSIONS
    rows.sort(ORDER_COLUMN, "position").select(*COLUMNS, *inline).sink_parquet(
        impressions, row_group_size=1 << 18
    )
    counted = SplitCounts(
        _split_counts(impressions, schema.label),
        labels.has_grades(pl.scan_parquet(impressions)),
    )
    if source.histories is not None:
        source.histories.write_parquet(directory / HISTORIES)
    finished = dataclasses.replace(source, items=items)
    write_tables(directory, schema_path, schema, finished, counts, counted, provenance)


@dataclass(frozen=True)
class SplitCounts:
    """Numbers of each split for summary.json, and whether labels have more than two values."""

    splits: dict[str, dict[str, int]]
    has_grades: bool


def write_tables(
    directory: Path,
    schema_path: Path,
    schema: Schema,
    source: Source,
    counts: RatedCounts,
    counted: SplitCounts,
    provenance: dict[str, Any],
) -> None:
    """Write all files beside the impressions, which lie in the directory, and fit the schema.

    Args:
        source: items with statistics, and users.
        counts: shows and likes behind the statistics.

    Raises DataError or FeatureError if the schema cannot be fitted to the data.
    """
    items = source.items
    item_names = [f.name for f in schema.features if f.name in items.columns]
    item_columns = ["item_id", *(name for name in item_names if name != "item_id")]
    items.sort("item_id").select(item_columns).write_parquet(directory / "items.parquet")
    of_user = [f.name for f in schema.features if f.of == "user"]
    user_names = [name for name in of_user if name in source.users.columns]
    user_columns = ["user_id", *(name for name in user_names if name != "user_id")]
    source.users.select(user_columns).write_parquet(directory / "users.parquet")
    totals, moment = write_counts(directory, items, counts), source.moment
    if moment is not None:
        moment = dataclasses.replace(moment, statistics=totals)
    shutil.copyfile(schema_path, directory / "schema.yaml")
    summary = {
        "name": schema.name,
        **provenance,
        **(
            {RECORD: moment.to_json()} if moment is not None else {TOTALS: totals} if totals else {}
        ),
        "splits": counted.splits,
        "items": len(items),
        "users": len(source.users),
        "ignored_columns": source.ignored,
    }
    hashed = count_collisions(directory, schema)
    if hashed:
        summary["buckets"] = hashed
    if schema.label.gain_form is None and counted.has_grades:
        summary["middle_label"] = sum(schema.label.range) / 2.0
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    (directory / "summary.json").write_text(text, encoding="utf-8")
    dataset = Dataset(directory)  # fits the schema, so that a misfit fails before training starts
    fitted = dataset.featuriser.schema
    check_encodable(IMPRESSIONS, dataset.rows, fitted, ["request_id", "item_id"])
    if dataset.candidates is not None:
        check_encodable(CANDIDATES, dataset.candidates, fitted, ["request_id", "item_id"])
    check_encodable("users.parquet", dataset.users.lazy(), fitted, ["user_id"])


def _fit_statistics(
    schema: Schema, source: Source, requests: pl.DataFrame
) -> tuple[pl.DataFrame, pl.LazyFrame, RatedCounts]:
    """Return items with statistics over all train lists, rows with values inline, and the counts.

    The values of a log with time are as of each row; without time they are out of fold. The rows
    also have ORDER_COLUMN, timestamp, split and FOLD_COLUMN of their requests.
    """
    train = requests.filter(pl.col("split") == "train").select("request_id")
    train = train.with_columns(pl.Series(FOLD_COLUMN, statistics.folds(len(train))))
    ordered = requests.with_row_index(ORDER_COLUMN).join(train, on="request_id", how="left")
    columns = ["request_id", ORDER_COLUMN, "timestamp", "split", FOLD_COLUMN]
    rows = source.rows.join(ordered.lazy().select(columns), on="request_id")
    if source.moment is not None and source.moment.as_of is not None:
        rated = rate_over_time(schema, source, rows, source.moment)
        return rated.items, rated.rows, (rated.ids, rated.counts)
    impressions = rows.select("item_id", "label", fold=FOLD_COLUMN).drop_nulls("fold")
    counts = statistics.like_counts(impressions, schema.label)
    items = source.items
    for feature in schema.features:
        if feature.kind != "statistic" or feature.name in source.items.columns:
            continue
        table, unseen = statistics.like_rates(counts, feature.prior_strength)
        items = items.join(table.rename({"value": feature.name}), on="item_id", how="left")
        items = items.with_columns(pl.col(feature.name).fill_null(unseen))
        out_of_fold = statistics.out_of_fold_like_rates(counts, feature.prior_strength)
        renamed = out_of_fold.select(
            "item_id", pl.col("fold").alias(FOLD_COLUMN), pl.col("value").alias(feature.name)
        )
        rows = rows.join(renamed.lazy(), on=["item_id", FOLD_COLUMN], how="left")
    return items, rows, counts_without_time(counts, schema, source)


def _split_counts(impressions: Path, scale: LabelScale) -> dict[str, dict[str, int]]:
    """Count requests, users, rows and positives of each split, for summary.json."""
    positive = labels.is_positive(scale)
    requests = pl.scan_parquet(impressions).group_by("request_id", "split", "user_id")
    lists = requests.agg(pl.len().alias("rows"), positive.sum().alias("positives"))
    counts = lists.group_by("split").agg(
        pl.len().alias("requests"),
        pl.col("user_id").n_unique().alias("users"),
        pl.col("rows", "positives").sum(),
        (pl.col("positives") == 0).sum().alias("all_negative_lists"),
        (pl.col("positives") == pl.col("rows")).sum().alias("all_positive_lists"),
    )
    by_split = {row.pop("split"): row for row in counts.collect(engine="streaming").to_dicts()}
    return {split: by_split[split] for split in SPLITS if split in by_split}


def file_digests(files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name, with directories if two names are equal."""
    paths = [*files]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        top = os.path.commonpath([path.parent.resolve() for path in paths])
        names = [os.path.relpath(path.parent.resolve() / path.name, top) for path in paths]
    digests = {}
    for path, name in zip(paths, names, strict=True):
        with path.open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def summary_lines(directory: Path) -> Iterator[str]:
    """Yield the lines that `prepare` prints about one data set, from its summary.json."""
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    yield from (f"{directory} {line}" for line in summary.get("inputs", ()))
    for split, counts in summary["splits"].items():
        numbers = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
        yield f"{directory} {split}: {numbers}"
    for split, quality in summary.get("retrieval", {}).items():
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in quality.items())
        yield f"{directory} {split}: {numbers}"
    if summary.get("dropped"):
        numbers = ", ".join(f"{count:,} {name}" for name, count in summary["dropped"].items())
        yield f"{directory} dropped: {numbers}"
    moment = summary.get(RECORD)
    if moment and moment["as_of"] is not None:
        yield f"{directory}: split {moment['split']}, as of {to_iso(moment['as_of'])}"
    if summary["ignored_columns"]:
        yield f"{directory}: not in the schema: {', '.join(summary['ignored_columns'])}"
    yield from (f"{directory}: {line}" for line in describe_collisions(summary.get("buckets", {})))
    if "middle_label" in summary:
        yield (
            f"{directory}: labels have more than two values and schema.yaml declares no "
            f"label.gain: a label above {summary['middle_label']:g} is a positive, any other a "
            "negative; declare gain: exponential, linear or binary"
        )
