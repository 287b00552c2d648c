"""Split a user's log, and note the moment that the tables of the data set are of."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from model.data import splits
from model.data.errors import DataError
from model.data.files import Files
from model.data.moment import Moment

HOUR = 3_600_000  # ms; a log that spans no more than this is not split by time unless asked
SECONDS = 10**8, 10**10  # times from 1973 to 2286 in seconds, which are 1970 in milliseconds
FAR = 0.5  # a gap of more than this share of the log's time sets the lists beyond it apart


@dataclass(frozen=True)
class SplitOptions:
    """The split of a log: time, last-list, user or column; None lets the log decide.

    The shares are of the time for a split by time, and of the users for a split by user.
    """

    kind: str | None = None
    valid_share: float = 0.1
    test_share: float = 0.1

    def __post_init__(self) -> None:
        for option, share in (
            ("--valid-share", self.valid_share),
            ("--test-share", self.test_share),
        ):
            if not 0.0 < share < 1.0:
                raise DataError(Path(option), "must be above 0 and below 1", value=share)
        if self.valid_share + self.test_share >= 1.0:
            rule = "must leave a share for train beside --test-share"
            raise DataError(Path("--valid-share"), rule, value=self.valid_share)


def split_log(
    path: Path | Files, requests: pl.DataFrame, options: SplitOptions, has_time: bool
) -> tuple[pl.DataFrame, Moment]:
    """Return the requests with a column `split`, and the moment of the train split.

    Args:
        path: the log, for errors.
        requests: request_id, user_id, timestamp and perhaps split, by time and then as in the file.
        has_time: `timestamp` holds times in ms, not numbers of rows.

    Raises DataError for a split that the log does not allow or that leaves a needed split empty.
    """
    times = requests["timestamp"]
    spans = has_time and _integer(times.max()) - _integer(times.min()) > HOUR
    if has_time and isinstance(path, Files):
        path.remarks += _remarks_on_times(times)
    kind = options.kind or _default_kind("split" in requests.columns, spans)
    if kind == "column" and "split" not in requests.columns:
        raise DataError(path, "is missing, but --split column reads it", column="split")
    if kind == "time" and not has_time:
        raise DataError(path, "is missing, but --split time reads it", column="timestamp")
    divided = requests if kind == "column" else _divide(requests, kind, options)
    counts = {name: int((divided["split"] == name).sum()) for name in ("train", "valid", "test")}
    if kind == "column" and not counts["train"]:
        raise DataError(path, "must have at least one request of split train", column="split")
    if kind in ("time", "user") and not all(counts.values()):
        raise _empty_split(path, divided, kind, counts)
    as_of = None
    if has_time and (spans or kind == "time"):
        as_of = _integer(divided.filter(pl.col("split") == "train")["timestamp"].max())
    return divided, Moment(kind, as_of, as_of is not None and _is_ordered(divided))


def _remarks_on_times(times: pl.Series) -> list[str]:
    """Return a remark if the times look like seconds, whose log would seem to span an hour."""
    latest = _integer(times.max())
    if not SECONDS[0] <= latest < SECONDS[1]:
        return []
    return [
        f"column timestamp: {latest} is read as milliseconds, {to_iso(latest)}; "
        "if these are seconds, multiply them by 1000"
    ]


def _default_kind(has_column: bool, spans: bool) -> str:
    if has_column:
        return "column"
    return "time" if spans else "last-list"


def _divide(requests: pl.DataFrame, kind: str, options: SplitOptions) -> pl.DataFrame:
    shares = options.valid_share, options.test_share
    requests = requests.drop("split", strict=False)
    if kind == "time":
        return splits.by_share_of_time(requests, *shares)
    return splits.cold(requests, *shares) if kind == "user" else splits.warm(requests)


def _is_ordered(requests: pl.DataFrame) -> bool:
    """True if all train lists precede all valid lists, and these all test lists."""
    ends: list[tuple[Any, Any]] = [
        (times.min(), times.max())
        for name in ("train", "valid", "test")
        if len(times := requests.filter(pl.col("split") == name)["timestamp"])
    ]
    others = requests["split"].is_in(["train", "valid", "test"]).all()
    return others and all(before[1] < after[0] for before, after in itertools.pairwise(ends))


def _empty_split(
    path: Path | Files, requests: pl.DataFrame, kind: str, counts: dict[str, int]
) -> DataError:
    """Return an error with the counts, and the outlier that stretches the time of the log."""
    got = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    advice = "choose other shares or another --split, such as last-list"
    if kind == "user":
        rule = f"--split user must leave no split empty; it has {got} lists; {advice}"
        return DataError(path, rule, column="user_id")
    return DataError(
        path,
        f"--split time must leave no split empty; it has {got} lists; "
        f"{_outlier(requests) or advice}",
        column="timestamp",
    )


def _outlier(requests: pl.DataFrame) -> str | None:
    """Name the list beyond the largest gap, on the side that has fewer lists."""
    times = requests["timestamp"].to_numpy()
    gaps = times[1:] - times[:-1]
    if len(times) < 3 or gaps.max() <= FAR * (times[-1] - times[0]):
        return None
    after = int(gaps.argmax()) + 1  # the first list behind the gap
    row = after if len(times) - after < after else after - 1
    name, moment = requests["request_id"][row], int(times[row])
    return f"request {name!r} at {moment} ({to_iso(moment)}) lies far from the others; correct it"


def to_iso(moment: int) -> str:
    """Return a time in ms as ISO 8601 UTC, or its number if the calendar does not reach it."""
    try:
        time = datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return str(moment)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _integer(value: Any) -> int:
    return int(value)
