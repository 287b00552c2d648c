"""Fill item features that a log states now and then: the latest value at the time of a list."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

# Rows times features that are sorted and filled at once, at about 30 bytes each.
CELLS = 1 << 22
# Helper columns: the number of an entity, and of an entity at one time.
ENTITY, GROUP, LACKING, EARLY = "__entity", "__group", "__lacking", "__early"


def values_in_log(
    rows: pl.LazyFrame, key: str, names: Sequence[str], times: tuple[str, str, str], cutoff: int
) -> pl.LazyFrame | None:
    """Return the values of features at the time of each list that lacks one; None if none does.

    A list has the latest value at or before its time; of lists at the same time, the last one
    counts. A train list before the first value has that one, if it is not later than the cutoff.

    Args:
        rows: of a log, with an entity at most once per list.
        key: column of the entities.
        names: features.
        times: columns of the time, of the place among all lists, and of the split being train.
        cutoff: time of the latest train list.
    """
    time, place, train = times
    nulls = rows.select(pl.col(names).is_null().any()).collect(engine="streaming")
    names = [name for name in names if nulls[name].item()]
    if not names:
        return None
    lacking = pl.any_horizontal(pl.col(names).is_null()).alias(LACKING)
    lists = rows.select(key, time, place, train, lacking).collect(engine="streaming")
    entity, group = pl.col(key).rle_id(), pl.struct(key, time).rle_id()
    lists = lists.sort(key, place).with_columns(entity.alias(ENTITY), group.alias(GROUP))
    entities, ends = lists[ENTITY], lists[GROUP].ne_missing(lists[GROUP].shift(-1))
    groups = lists.filter(ends).select(ENTITY, (pl.col(time) <= cutoff).alias(EARLY))
    lists = lists.filter(LACKING).unique([GROUP, train], maintain_order=True)
    lists = lists.select(key, time, train, GROUP)
    columns = [lists.drop(GROUP)]
    step = max(1, CELLS // len(ends))
    for start in range(0, len(names), step):
        part = names[start : start + step]
        stated = rows.select(key, place, *part).collect(engine="streaming").sort(key, place)
        filled = stated.with_columns(entities).select(pl.col(part).forward_fill().over(ENTITY))
        values = _by_group(filled.filter(ends), groups, part)[lists[GROUP]]
        of_train = [pl.when(train).then(f"__{name}") for name in part]
        values = values.with_columns(lists[train]).select(map(pl.coalesce, part, of_train))
        columns.append(values)
    return pl.concat(columns, how="horizontal").lazy()


def _by_group(latest: pl.DataFrame, groups: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Return the latest values of each entity and time, and as `__NAME` the first ones after it."""
    early = pl.when(EARLY).then(pl.col(names))
    first = latest.with_columns(groups).select(early.backward_fill().over(ENTITY))
    first = first.rename({name: f"__{name}" for name in names})
    return pl.concat([latest, first], how="horizontal")
