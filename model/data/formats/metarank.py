"""Read events of Metarank's schema: item, user, ranking and interaction, as lines of JSON."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from model.data.dialect import decode, read_lines
from model.data.errors import DataError
from model.data.files import Files, format_of, shortened
from model.data.formats.imported import Imported, write_table
from model.data.rules import Rule, check_rows
from model.data.scan import LISTS, NUMBERS, ROW, decode_list, unreadable
from service.engine.features.ids import BLANKS
from service.engine.features.schema import Feature, Schema

KINDS = ("item", "user", "ranking", "interaction")
# Values are read as text, and lists as the text of their JSON.
_FIELDS = pl.List(pl.Struct({"name": pl.String, "value": pl.String}))
_CANDIDATES = pl.List(pl.Struct({"id": pl.String, "relevancy": pl.String, "fields": _FIELDS}))
_TEXTS = ("event", "id", "timestamp", "item", "user", "session", "ranking", "type")
_IDS = ("id", "item", "user", "session", "ranking")
_EVENT: dict[str, Any] = {
    **dict.fromkeys(_TEXTS, pl.String), "fields": _FIELDS, "items": _CANDIDATES,
}  # fmt: skip


@dataclass(frozen=True)
class Events:
    """Tables that events were converted to; without events of a kind, there is no table."""

    log: Imported
    items: Imported | None
    users: Imported | None


def is_metarank(path: Path) -> bool:
    """Return whether a file can hold events: lines of JSON."""
    return format_of(path) == "ndjson"


def read_metarank(
    files: Files, schema: Schema, interactions: Mapping[str, float], scratch: Path
) -> Events:
    """Convert events to a log and tables, with the features that the schema names.

    Fields of items and users are features of them, fields of a ranking are features of its context,
    and relevancy and fields of its items are features of candidates.

    Args:
        interactions: label of each type of interaction; a candidate has the largest of its own. If
            empty, every type has the largest label of the schema.

    Raises DataError for an event that breaks a rule.
    """
    events = _scan(files, scratch)
    _check(files, events)
    labels = _labels(files, events, schema, interactions)
    rankings = events.filter(pl.col("event") == "ranking")
    context = _columns(schema, "context", pl.col("fields"))
    candidates = (
        rankings.select(
            ROW,
            pl.col("id").alias("request_id"),
            pl.coalesce("user", "session").alias("user_id"),
            _time().alias("timestamp"),
            *context,
            pl.int_ranges(0, pl.col("items").list.len(), dtype=pl.Int32).alias("position"),
            pl.col("items").alias("__item"),
        )
        .explode("__item", "position")
        .unnest("__item", separator="_")
    )
    relevancy = pl.col("__item_relevancy").cast(pl.Float64, strict=False).alias("relevancy")
    fields = _columns(schema, "candidate", pl.col("__item_fields"))
    names = [column.meta.output_name() for column in fields]
    listed = any(feature.name == "relevancy" for feature in schema.features)
    if listed:  # RankLens has it among the fields of the item
        of_field = [pl.col("relevancy").cast(pl.Float64, strict=False)] * ("relevancy" in names)
        relevancy = pl.coalesce("__item_relevancy", *of_field).alias("relevancy")
    rows = candidates.rename({"__item_id": "item_id"}).with_columns(fields)
    rows = rows.with_columns(relevancy) if listed else rows
    rows = rows.join(labels, on=["request_id", "item_id"], how="left", maintain_order="left")
    rows = rows.with_columns(pl.col("label").fill_null(schema.label.range[0]))
    log = write_table(files, rows.drop("__item_relevancy", "__item_fields"), "rankings", scratch)
    return Events(
        log,
        _entities(files, events, schema, "item", scratch),
        _entities(files, events, schema, "user", scratch),
    )


def _scan(files: Files, scratch: Path) -> pl.LazyFrame:
    """Parse the events of all files into `scratch` and return them with ROW; count them."""
    frames, offset = [], 1
    for index, path in enumerate(files.paths):
        source, _ = decode(path, files.dialect, scratch, ndjson=True)
        parsed = scratch / f"events-{index}.parquet"
        try:
            read = pl.scan_ndjson(glob.escape(str(source)), schema=_EVENT)
            read.with_columns(_plain_ids()).sink_parquet(parsed)
        except pl.exceptions.PolarsError as error:
            only = Files((path,), (str(path),), files.dialect)
            raise _find_misshapen(source, path) or unreadable(only, error) from None
        events = pl.scan_parquet(parsed)
        files.counts.append(int(events.select(pl.len()).collect().item()))
        frames.append(events.with_row_index(ROW, offset=offset))
        offset += files.counts[-1]
    if not sum(files.counts):
        raise DataError(files, "must have at least one row, got an empty file")
    return pl.concat(frames)


def _plain_ids() -> list[pl.Expr]:
    """Return the ids of events without the blanks around them, before any of them are joined.

    A blank user is none, so that the session counts.
    """
    ids = {name: pl.col(name).str.strip_chars(BLANKS) for name in _IDS}
    for name in ("user", "session"):
        ids[name] = pl.when(ids[name] != "").then(ids[name])
    candidate = pl.element().struct.with_fields(pl.field("id").str.strip_chars(BLANKS))
    ids["items"] = pl.col("items").list.eval(candidate)
    return [value.alias(name) for name, value in ids.items()]


def _find_misshapen(source: Path, path: Path) -> DataError | None:
    """Return an error about the first event whose fields or items are no list of objects."""
    for row, text in enumerate((line for line in read_lines(source) if line.strip()), 1):
        try:
            event = json.loads(text)
        except ValueError:
            return None
        if not isinstance(event, dict):
            return None
        for name in ("fields", "items"):
            value = event.get(name)
            entries = [] if value is None else value
            if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
                rule = "must be a list of objects"
                return DataError(path, rule, row=row, column=name, value=value)
    return None


def _time() -> pl.Expr:
    """Return the timestamp in ms, from digits or ISO text; null for other text."""
    text = pl.col("timestamp")
    plain = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="ms")
    zoned = text.str.replace("Z$", "+00:00")
    zoned = zoned.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", strict=False, time_unit="ms")
    return pl.coalesce(
        text.cast(pl.Int64, strict=False), zoned.dt.epoch("ms"), plain.dt.epoch("ms")
    )


def _check(files: Files, events: pl.LazyFrame) -> None:
    """Check the parts that each kind of event must have."""

    def of(kind: str, broken: pl.Expr) -> pl.Expr:
        return ((pl.col("event") == kind) & broken).fill_null(False)

    needed = {
        "item": ["item"],
        "user": ["user"],
        "ranking": ["id"],
        "interaction": ["item", "type"],
    }
    rules = [
        Rule("event", f"must be one of {', '.join(KINDS)}",
             ~pl.col("event").is_in(KINDS).fill_null(False)),
        *(
            Rule(name, f"must be a text in an event {kind}", of(kind, pl.col(name).is_null()))
            for kind, names in needed.items()
            for name in names
        ),
        Rule("timestamp", "must be milliseconds, or a time such as 2021-11-15T10:00:00Z",
             (_time().is_null() & pl.when(pl.col("event").is_in(["item", "user"]))
              .then(pl.col("timestamp").is_not_null())
              .otherwise(pl.col("event") == "ranking")).fill_null(False)),
        Rule("items", "must hold at least one candidate",
             of("ranking", pl.col("items").list.len().fill_null(0) == 0)),
    ]  # fmt: skip
    check_rows(files, events, rules)
    if events.filter(pl.col("event") == "ranking").head(1).collect().is_empty():
        raise DataError(files, "must have at least one event of the kind ranking, got none")


def _labels(
    files: Files, events: pl.LazyFrame, schema: Schema, interactions: Mapping[str, float]
) -> pl.LazyFrame:
    """Return the label of each request_id and item_id that a user interacted with."""
    done = events.filter(pl.col("event") == "interaction")
    types = done.group_by("type").len().sort("type").collect(engine="streaming")
    labels = interactions or dict.fromkeys(types["type"], schema.label.range[1])
    unknown = [name for name in labels if name not in set(types["type"])]
    if unknown:
        rule = f"must be a type in the log, which has {shortened(types['type'].to_list())}"
        raise DataError(Path("--interactions"), rule, value=unknown[0])
    others = [name for name in types["type"] if name not in labels]
    if others:
        files.remarks.append(f"interactions that count nothing: {shortened(others)}")
    label = pl.col("type").replace_strict(dict(labels), default=None, return_dtype=pl.Float64)
    counted = done.with_columns(label.alias("label")).drop_nulls("label")
    listed = (
        events.filter(pl.col("event") == "ranking")
        .select(pl.col("id").alias("ranking"), pl.col("items").list.eval(
            pl.element().struct.field("id")).alias("item"))
        .explode("item")
    )  # fmt: skip
    total = int(counted.select(pl.len()).collect(engine="streaming").item())
    used = counted.join(listed, on=["ranking", "item"], how="semi")
    lost = total - int(used.select(pl.len()).collect(engine="streaming").item())
    if lost:
        files.remarks.append(
            f"{lost:,} of {total:,} interactions name no list that holds their item; they are left "
            "out"
        )
    return counted.group_by(
        pl.col("ranking").alias("request_id"), pl.col("item").alias("item_id")
    ).agg(pl.col("label").max())


def _columns(schema: Schema, owner: str, fields: pl.Expr) -> list[pl.Expr]:
    """Return the features of an owner from a list of fields, by their names."""
    return [
        _typed(
            fields.list.eval(
                pl.element()
                .filter(pl.element().struct.field("name") == feature.name)
                .struct.field("value")
            ).list.last(),
            feature,
        ).alias(feature.name)
        for feature in schema.features
        if feature.of == owner and feature.kind != "statistic"
    ]


def _typed(text: pl.Expr, feature: Feature) -> pl.Expr:
    """Return a value from its text: a list for kinds that hold one, and 1 or 0 for a boolean."""
    if feature.kind in LISTS:
        return decode_list(text)
    if feature.kind in NUMBERS:
        return text.replace({"true": "1", "false": "0"})
    return text


def _entities(
    files: Files, events: pl.LazyFrame, schema: Schema, owner: str, scratch: Path
) -> Imported | None:
    """Return the table of items or users over time; None without events of the kind."""
    of_kind = events.filter(pl.col("event") == owner)
    if of_kind.head(1).collect().is_empty():
        return None
    columns = _columns(schema, owner, pl.col("fields"))
    names = [column.meta.output_name() for column in columns]
    rows = of_kind.select(
        ROW, pl.col(owner).alias(f"{owner}_id"), _time().alias("timestamp"), *columns
    )
    timed = rows.select(pl.col("timestamp").is_not_null().all()).collect(engine="streaming").item()
    if not timed:
        text = (
            f"some events {owner} have no timestamp, so the last value of each field always counts"
        )
        files.remarks.append(text)
    key = [f"{owner}_id", *(["timestamp"] if timed else [])]
    latest = rows.group_by(key, maintain_order=True).agg(
        pl.col(ROW).last(), *(pl.col(name).drop_nulls().last() for name in names)
    )
    return write_table(files, latest, f"{owner}s", scratch)
