"""Read KuaiRand as candidate lists that are cut from sessions of consecutive exposures.

The logs record each exposure with its time, but not which exposures were ranked together. A session
is a sequence of exposures to one user on one tab without a gap. It is cut into lists, whose
positions are the order of exposure. Exposures that were placed at random (`is_rand`) carry no
ranking and are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from tqdm import tqdm

from model.data import splits
from model.data.errors import DataError
from model.data.ids import id_rule
from model.data.rules import Rule, check_rows
from model.data.scan import ROW, scan_file
from model.data.source import Source
from model.data.tables import (
    DTYPES,
    require_columns,
    require_unique,
    whole_number,
)
from service.engine.features.schema import Schema

EXPOSURES_PER_PART = 4_000_000  # exposures in memory at once, all of one user together
LOG_COLUMNS = ("user_id", "video_id", "date", "hourmin", "time_ms", "is_rand", "tab")
VIDEO_TOKENS = ("author_id", "video_type", "upload_type", "music_id", "music_type")
VIDEO_COLUMNS = ("video_id", *VIDEO_TOKENS, "upload_dt", "video_duration", "tag")


@dataclass(frozen=True)
class SessionOptions:
    """Options for cutting sessions into lists, and the column of their label.

    label     is_click or long_view
    gap       minutes without an exposure after which a session ends
    length    maximum number of exposures in a list
    shortest  minimum number of exposures in a list; a shorter remainder is dropped

    Raises DataError if `gap` or `shortest` is out of range.
    """

    label: str
    gap: int
    length: int
    shortest: int

    def __post_init__(self) -> None:
        if self.gap < 1:
            raise DataError(Path("--gap"), "must be at least 1 minute", value=self.gap)
        if not 2 <= self.shortest <= self.length:
            rule = f"must be from 2 to --length, which is {self.length}"
            raise DataError(Path("--shortest"), rule, value=self.shortest)


def read_kuairand(
    logs: Sequence[Path],
    videos: Path,
    users: Path | None,
    schema: Schema,
    options: SessionOptions,
    scratch: Path,
    part_size: int = EXPOSURES_PER_PART,
) -> tuple[Source, dict[str, int]]:
    """Read log_standard_*.csv, video_features_basic_*.csv and optionally user_features_*.csv.

    Args:
        scratch: existing directory for intermediate files; the returned rows are read from it.
        part_size: approximate number of exposures in memory at once.

    Returns the tables, and the number of dropped exposures by reason. Raises DataError for a row
    that breaks a rule, or if a split gets no list.
    """
    standard_logs = [scratch / f"log-{index}.parquet" for index in range(len(logs))]
    exposure_count = 0
    for path, target in zip(
        tqdm(logs, "logs", disable=None, leave=False), standard_logs, strict=True
    ):
        exposure_count += _read_log(path, options.label, target)
    exposures = pl.scan_parquet(standard_logs)
    standard_count = exposures.select(pl.len()).collect().item()
    exposed = exposures.select("item_id").unique().collect(engine="streaming")
    catalogue = _read_videos(videos, exposed)
    uploads = catalogue.select("item_id", "upload_dt")
    parts = max(1, math.ceil(standard_count / part_size))
    files, kept_count = [], 0
    for index in tqdm(range(parts), "sessions", disable=None, leave=False):
        part_exposures = exposures.filter(pl.col("user_id").hash(0) % parts == index).collect()
        lists = cut_lists(part_exposures, options).join(
            uploads, "item_id", "left", maintain_order="left"
        )
        # A video edited after its exposure has a later upload date; its age is then 0.
        age = (pl.col("date") - pl.col("upload_dt")).dt.total_days().clip(0)
        files.append(scratch / f"lists-{index}.parquet")
        lists.with_columns(age.cast(pl.Float64).alias("upload_age")).write_parquet(files[-1])
        kept_count += len(lists)
    rows = pl.scan_parquet(files)
    requests = _split_by_time(rows)
    if {"train", "valid", "test"} - set(requests["split"]):
        rule = "must give lists for train, valid and test; change --gap, --length or --shortest"
        raise DataError(logs[0], rule, value=len(requests))
    dropped = {
        "exposures at random": exposure_count - standard_count,
        "exposures in short lists, or repeated in a session": standard_count - kept_count,
        "exposures across a split": kept_count - int(requests["size"].sum()),
    }
    source = Source(
        rows=rows.select(
            "request_id", "user_id", "item_id", "position", "label", "tab", "hour", "upload_age"
        ),
        requests=requests.select("request_id", "user_id", "timestamp", "split"),
        items=catalogue.drop("upload_dt"),
        users=_read_users(users, requests.select("user_id").unique(), schema),
    )
    return source, dropped


def _split_by_time(rows: pl.LazyFrame) -> pl.DataFrame:
    """Return one row per list with a split: request_id, user_id, timestamp, end, size, split."""
    return splits.by_time(
        rows.group_by("request_id")
        .agg(
            pl.col("user_id").first(),
            pl.col("time_ms").min().alias("timestamp"),
            pl.col("time_ms").max().alias("end"),
            pl.len().alias("size"),
        )
        .sort("timestamp", "request_id")
        .collect(engine="streaming")
    )


def _read_log(path: Path, label: str, target: Path) -> int:
    """Check one log, write its standard exposures to `target`, and return the number of all."""
    raw = scan_file(path)
    dtypes = raw.collect_schema()
    require_columns(path, dtypes, [*LOG_COLUMNS, label], "log")
    whole_time, time = whole_number("time_ms", dtypes["time_ms"], pl.Int64)
    minute = pl.col("hourmin").cast(pl.Int32, strict=False)
    clock = minute.is_between(0, 2359) & (minute % 100 < 60)
    date = pl.col("date").cast(pl.String).str.to_date("%Y%m%d", strict=False)
    rules = [
        id_rule("user_id"),
        id_rule("video_id"),
        Rule("date", "must be a date, YYYYMMDD", date.is_null()),
        Rule("hourmin", "must be a time of day, HHMM", ~clock.fill_null(False)),
        whole_time,
        Rule("time_ms", "must be at least 0", (time < 0).fill_null(False)),
        *(
            Rule(
                name,
                "must be 0 or 1",
                ~pl.col(name).cast(pl.String).is_in(["0", "1"]).fill_null(False),
            )
            for name in (label, "is_rand")
        ),
        id_rule("tab"),
    ]
    check_rows(path, raw, rules)
    raw.filter(pl.col("is_rand").cast(pl.String) == "0").select(
        pl.col("user_id").cast(pl.String),
        pl.col("video_id").cast(pl.String).alias("item_id"),
        pl.col("tab").cast(pl.String),
        (minute // 100).cast(pl.String).alias("hour"),
        date.alias("date"),
        time.alias("time_ms"),
        pl.col(label).cast(pl.Float32).alias("label"),
    ).sink_parquet(target)
    return int(raw.select(pl.len()).collect(engine="streaming").item())


def cut_lists(exposures: pl.DataFrame, options: SessionOptions) -> pl.DataFrame:
    """Cut the exposures of some users into lists by adding request_id str and position i32."""
    ordered = exposures.sort("user_id", "time_ms", maintain_order=True)
    time = pl.col("time_ms")
    begins = (
        (pl.col("user_id") != pl.col("user_id").shift())
        | (pl.col("tab") != pl.col("tab").shift())
        | (time - time.shift() > options.gap * 60_000)
    )
    index = pl.int_range(pl.len()).over("session")
    return (
        ordered.with_columns(begins.fill_null(True).cum_sum().alias("session"))
        # A list holds a video once; its first exposure in the session counts.
        .unique(["session", "item_id"], keep="first", maintain_order=True)
        .with_columns(
            (index // options.length).alias("chop"),
            (index % options.length).cast(pl.Int32).alias("position"),
        )
        .filter(pl.len().over("session", "chop") >= options.shortest)
        .with_columns(
            pl.format(
                "{}-{}", "user_id", (pl.col("position") == 0).cum_sum().over("user_id")
            ).alias("request_id"),
            # The context of a list is that of its first exposure.
            pl.col("hour").first().over("session", "chop"),
        )
        .drop("session", "chop")
    )


def _read_videos(path: Path, exposed: pl.DataFrame) -> pl.DataFrame:
    """Return the features of the exposed videos by item_id; videos not in the file have nulls."""
    raw = scan_file(path)
    require_columns(path, raw.collect_schema(), VIDEO_COLUMNS)
    upload = pl.col("upload_dt").cast(pl.String).str.to_date("%Y-%m-%d", strict=False)
    duration = pl.col("video_duration").cast(pl.Float64, strict=False)
    for name, rule, good in (
        ("upload_dt", "must be a date, YYYY-MM-DD", upload.is_not_null()),
        (
            "video_duration",
            "must be milliseconds, at least 0",
            (duration >= 0) & duration.is_finite(),
        ),
    ):
        check_rows(
            path, raw, [Rule(name, rule, pl.col(name).is_not_null() & ~good.fill_null(False))]
        )
    check_rows(path, raw, [id_rule("video_id")])
    tags = pl.col("tag").cast(pl.String).str.split(",")
    table = (
        raw.select(
            ROW,
            pl.col("video_id").cast(pl.String),
            *(pl.col(name).cast(pl.String) for name in VIDEO_TOKENS),
            upload.alias("upload_dt"),
            (duration / 1000).alias("duration"),
            tags.list.eval(pl.element().str.strip_chars()).cast(DTYPES["categories"]).alias("tags"),
        )
        .join(exposed.lazy(), left_on="video_id", right_on="item_id", how="semi")
        .sort(ROW)
        .collect(engine="streaming")
    )
    require_unique(path, table, ["video_id"])
    features = table.drop(ROW).rename({"video_id": "item_id"})
    return exposed.join(features, on="item_id", how="left").sort("item_id")


def _read_users(path: Path | None, active: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return the user features of the schema, all categories, for users with a list."""
    if path is None:
        return active.sort("user_id")
    names = [feature.name for feature in schema.features if feature.of == "user"]
    raw = scan_file(path)
    require_columns(path, raw.collect_schema(), ["user_id", *names])
    check_rows(path, raw, [id_rule("user_id")])
    texts = [pl.col(name).cast(pl.String) for name in ("user_id", *names)]
    table = raw.select(ROW, *texts).collect(engine="streaming")
    require_unique(path, table, ["user_id"])
    return active.join(table.drop(ROW), on="user_id", how="left").sort("user_id")
