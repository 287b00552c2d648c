"""Read the features of items and users, as of the moment of the train split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from model.data.entity_tables import TIME
from model.data.errors import DataError
from model.data.files import Files
from model.data.log_values import values_in_log
from model.data.moment import Moment
from model.data.scan import ROW
from model.data.source import LOG_COLUMNS
from model.data.tables import REQUIRED
from service.engine.features.schema import Schema

# Helper columns: the place in time of a list among all lists, its split is train.
ORDER, TRAIN = "__place", "__train"


@dataclass(frozen=True)
class LogInTime:
    """A log whose rows carry TIME, ORDER and TRAIN of their lists.

    cutoff  time of the latest train list in ms, None for a log without times
    moment  record of the split; its `as_of` is the cutoff, or None if the log spans minutes only
    """

    path: Files
    rows: pl.LazyFrame
    cutoff: int | None
    moment: Moment


def place_in_time(
    path: Files, log: pl.LazyFrame, requests: pl.DataFrame, moment: Moment, has_time: bool
) -> LogInTime:
    """Return the log with the time and the split of each row's list.

    Args:
        requests: request_id, timestamp and split, by time.
    """
    train = (pl.col("split") == "train").alias(TRAIN)
    placed = requests.lazy().select("request_id", pl.col("timestamp").alias(TIME), train)
    placed = placed.with_row_index(ORDER)
    rows = log.join(placed, on="request_id", how="left", maintain_order="left")
    latest = requests.filter(pl.col("split") == "train")["timestamp"].to_numpy().max()
    return LogInTime(path, rows, int(latest) if has_time else None, moment)


def read_entities(
    log: LogInTime, schema: Schema, owner: str, table: pl.DataFrame | None
) -> tuple[pl.DataFrame, pl.LazyFrame | None]:
    """Return the table of items or users, and values of their features at the times of lists.

    The table holds an entity's latest value at or before the moment, from the table of the caller
    or else from the log; without a moment, the latest value of the train lists.

    The second result, None if there is nothing to fill, has `owner`_id, TIME, TRAIN and the values
    for rows to which the log gives none.

    Args:
        table: the table of the caller, with TIME if its values change.
    """
    key = f"{owner}_id"
    features = [f for f in schema.features if f.of == owner and f.name != key]
    in_table = [] if table is None else [c for c in table.columns if c not in (key, TIME)]
    log_columns = log.rows.collect_schema().names()
    in_log = [f.name for f in features if f.name in log_columns and f.name not in in_table]
    entities = _latest_in_log(log, key, in_log)
    changes: list[tuple[str, pl.LazyFrame]] = []
    if table is not None and TIME in table.columns:
        changes += [(name, table.lazy()) for name in in_table]
    if log.moment.as_of is not None and owner == "item":
        changes += [(name, log.rows) for name in in_log]
    entities = complete_entities(log, schema, owner, entities, table)
    return entities, _values_at_lists(log, key, changes)


def complete_entities(
    log: LogInTime,
    schema: Schema,
    owner: str,
    entities: pl.DataFrame,
    table: pl.DataFrame | None,
) -> pl.DataFrame:
    """Return the entities of the log with those of the caller's table, by id.

    Args:
        entities: `owner`_id and features that the log alone gives.

    Raises DataError for an entity of the log without a required feature.
    """
    key = f"{owner}_id"
    if table is not None:
        names = [name for name in table.columns if name not in (key, TIME)]
        if TIME in table.columns:
            table = _latest_in_table(table, key, names, log.cutoff)
        entities = entities.join(table, on=key, how="full", coalesce=True)
    features = [f for f in schema.features if f.of == owner and f.name in entities.columns]
    kept = [feature for feature in features if feature.name != key]
    for name in (feature.name for feature in kept if feature.required):
        missing = entities.filter(pl.col(name).is_null())[key]
        rows = log.rows.filter(pl.col(key).is_in(missing.implode())).select(ROW, key)
        for row, entity in rows.head(1).collect().iter_rows():
            raise DataError(
                log.path, f"{REQUIRED}, but {owner} {entity!r} has none", row=row, column=name
            )
    return entities.select(key, *(feature.name for feature in kept)).sort(key)


def _latest_in_log(log: LogInTime, key: str, names: Sequence[str]) -> pl.DataFrame:
    """Return each entity's latest value that is not null, as of the moment.

    Items that the log first shows after the moment are left out. A user has one value at all times.
    """
    as_of = log.moment.as_of if key == "item_id" else None
    early = pl.col(TRAIN) if as_of is None else pl.col(TIME) <= as_of

    def latest(name: str) -> pl.Expr:
        usable = pl.col(name).is_not_null() & early
        value = pl.col(name).filter(usable).sort_by(pl.col(ORDER).filter(usable)).last()
        if as_of is not None:
            return value
        held = pl.col(name).is_not_null()
        # The first value in time, of an entity that no train list has.
        first = pl.col(name).filter(held).sort_by(pl.col(ORDER).filter(held)).first()
        return pl.coalesce(value, first).alias(name)

    entities = (
        log.rows.group_by(key, maintain_order=True)
        .agg(*(latest(name) for name in names), early.any().alias("__early"))
        .collect(engine="streaming")
    )
    if as_of is not None:
        entities = entities.filter("__early")
    return entities.drop("__early")


def _latest_in_table(
    table: pl.DataFrame, key: str, names: Sequence[str], cutoff: int | None
) -> pl.DataFrame:
    """Return the latest value that is not null per id, of rows at or before the cutoff."""
    early = table.lazy() if cutoff is None else table.lazy().filter(pl.col(TIME) <= cutoff)
    values = [pl.col(name).drop_nulls().last() for name in names]
    return early.sort(TIME).group_by(key, maintain_order=True).agg(values).collect()


def _values_at_lists(
    log: LogInTime, key: str, changes: Sequence[tuple[str, pl.LazyFrame]]
) -> pl.LazyFrame | None:
    """Return the values at the time of each list for the rows that have none in the log.

    Args:
        changes: names of features with frames of `key`, TIME and their values over time.
    """
    columns = log.rows.collect_schema().names()
    where = [key, TIME, TRAIN]
    in_log = [name for name, source in changes if source is log.rows]
    values = None
    if in_log and log.cutoff is not None:
        values = values_in_log(log.rows, key, in_log, (TIME, ORDER, TRAIN), log.cutoff)
    for name, source in changes:
        if source is log.rows:
            continue
        lacking = log.rows.filter(pl.col(name).is_null()) if name in columns else log.rows
        rows = lacking.select(where).unique().collect(engine="streaming").sort(where)
        if rows.is_empty():
            continue
        observed = source.join(rows.lazy().select(key).unique(), on=key, how="semi")
        observed = observed.drop_nulls(name)
        history = observed.select(key, TIME, name).sort(TIME, key).collect(engine="streaming")
        of_rows = value_at(rows, key, name, history, log.cutoff).lazy()
        values = (
            of_rows if values is None else values.join(of_rows, on=where, how="full", coalesce=True)
        )
    return values


def value_at(
    rows: pl.DataFrame, key: str, name: str, history: pl.DataFrame, cutoff: int | None
) -> pl.DataFrame:
    """Return the rows with their latest value of `history` at or before their time.

    A train row before the first value takes the first one up to the cutoff, because its item's row
    in the table holds one that is still later.
    """
    latest = rows.sort(TIME).join_asof(
        history, on=TIME, by=key, strategy="backward", check_sortedness=False
    )
    first = (
        history.filter(pl.col(TIME) <= cutoff)
        .group_by(key, maintain_order=True)
        .agg(pl.col(name).first().alias("__first"))
    )
    too_early = pl.col(TRAIN) & pl.col(name).is_null()
    value = pl.when(too_early).then("__first").otherwise(name).alias(name)
    filled = latest.join(first, on=key, how="left", maintain_order="left")
    return filled.select(key, TIME, TRAIN, value).drop_nulls(name)


def fill_values(rows: pl.LazyFrame, key: str, values: pl.LazyFrame | None) -> pl.LazyFrame:
    """Return the rows of a log in time with the values of `read_entities` where they have none."""
    if values is None:
        return rows
    where = [key, TIME, TRAIN]
    names = [name for name in values.collect_schema().names() if name not in where]
    columns = rows.collect_schema().names()
    renamed = values.rename({name: f"__{name}" for name in names})
    joined = rows.join(renamed, on=where, how="left", maintain_order="left")
    filled = [
        pl.coalesce(*([name] if name in columns else []), f"__{name}").alias(name) for name in names
    ]
    return joined.with_columns(filled).drop(f"__{name}" for name in names)


def filled_names(schema: Schema, present: Sequence[str], *values: pl.LazyFrame | None) -> list[str]:
    """Return the features that only `fill_values` gives to the rows, in the order of the schema."""
    columns = {
        name for frame in values if frame is not None for name in frame.collect_schema().names()
    }
    columns -= {*LOG_COLUMNS, *present}  # an id may be a feature of its own
    return [f.name for f in schema.features if f.name in columns]
