"""Label the items of slates by the events on them, and by the rule for passed-over ones."""

from __future__ import annotations

from collections import Counter

import polars as pl

from model.data.join.options import JoinOptions
from service.engine.features.event_types import PASS, EventType
from service.engine.features.schema import Schema

KEY = ["request_id", "item_id"]


def label_rows(
    rows: pl.LazyFrame, joined: pl.DataFrame, schema: Schema
) -> tuple[pl.LazyFrame, Counter[str]]:
    """Return the rows of the impression log, and counts of events on them.

    An item has the highest label of its events. Others of the slate, and items whose events have
    no label, have that of a pass, if the rule `passed_over` of the schema or an event's `displayed`
    says so, and else no row: nobody can tell if they were seen.

    Args:
        rows: of all candidates.
        joined: events with the `list` that they are on.
    """
    slates = rows.filter(pl.col("position").is_not_null())
    touched = (
        slates.select(*KEY, pl.col("position").alias("place"))
        .join(joined.lazy().select(pl.col("list").alias("request_id")).unique(), on="request_id",
              how="semi")
        .collect()
    )  # fmt: skip
    on_items = joined.rename({"list": "request_id"}).join(touched, on=KEY, how="left")
    counts = Counter(
        {
            "item not in the slate": on_items["place"].null_count(),
            "another position": len(on_items.filter(pl.col("position") != pl.col("place"))),
            "without a label": on_items["label"].null_count(),
        }
    )
    on_slates = on_items.filter(pl.col("place").is_not_null())
    acted = pl.col("type") != PASS
    labels = on_slates.group_by(KEY).agg(pl.col("label").max())
    displays = joined.select(
        pl.col("list").alias("request_id"), pl.col("displayed").alias("item_id")
    ).filter(pl.col("item_id").list.len() > 0)
    displayed = displays.explode("item_id").unique().with_columns(pl.lit(True).alias("displayed"))
    reach = on_slates.filter(acted).group_by("request_id").agg(pl.col("place").max().alias("last"))
    stated = displays.select("request_id").unique().with_columns(pl.lit(True).alias("stated"))
    labelled = (
        slates.join(labels.lazy(), on=KEY, how="left")
        .join(displayed.lazy(), on=KEY, how="left")
        .join(reach.lazy(), on="request_id", how="left")
        .join(stated.lazy(), on="request_id", how="left")
        .with_columns(_canonical(schema).alias("label"))
        .filter(pl.col("label").is_not_null())
    )
    low, span = schema.label.range[0], schema.label.span
    label = (pl.lit(low) + pl.lit(span) * pl.col("label")).alias("label")
    return labelled.with_columns(label).drop("displayed", "last", "stated"), counts


def _canonical(schema: Schema) -> pl.Expr:
    """Return the label 0..1 of a row of a slate, null for one that is left out."""
    passed = schema.events.get(PASS, EventType(0.0)).label
    is_stated = pl.col("stated").fill_null(False)
    by_rule = {
        "above": (pl.col("position") < pl.col("last")).fill_null(False),
        "all": pl.lit(True),
        "stated": pl.lit(False),
    }[schema.passed_over.rule]
    is_passed = pl.col("displayed").fill_null(False) | (~is_stated & by_rule)
    return (
        pl.when(pl.col("label").is_not_null())
        .then(pl.col("label"))
        .when(is_passed)
        .then(pl.lit(passed, pl.Float64))
        .otherwise(None)
    )


def settled_at(lists: pl.LazyFrame, following: pl.LazyFrame, options: JoinOptions) -> pl.LazyFrame:
    """Return request_id and settled_at of lists: the user's next list, or the declared time.

    following: lists after them.
    """
    names = ["request_id", "user_id", "timestamp"]
    every = pl.concat([lists.select(names), following.select(names)]).sort("timestamp", *names[:1])
    following_time = pl.col("timestamp").shift(-1).over("user_id")
    comes_back = pl.when(pl.col("user_id").is_not_null()).then(following_time)
    latest = pl.col("timestamp") + options.schema.passed_over.settle_ms
    settled = pl.min_horizontal(comes_back, latest).alias("settled_at")
    return every.select("request_id", settled)
