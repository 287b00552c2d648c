"""Split a user's log, and note the moment that the tables of the data set are of."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
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


@dataclass(frozen=True)
class Division:
    """The rule by which the lists of a log, or of one of its shards, are divided.

    kind         time, last-list, user or column
    options      with the shares
    first, last  times of the first and the last list of the log in ms
    valid, test  users held out, for the kind user
    """

    kind: str
    options: SplitOptions
    first: int
    last: int
    valid: Sequence[str] = ()
    test: Sequence[str] = ()

    def apply(self, requests: pl.DataFrame) -> pl.DataFrame:
        """Return requests with a column `split`.

        Args:
            requests: user_id, timestamp and perhaps split, by time and then as in the file, with
                all lists of their users.
        """
        if self.kind == "column":
            return requests
        requests = requests.drop("split", strict=False)
        if self.kind == "time":
            shares = self.options.valid_share, self.options.test_share
            return splits.by_share_of_time(requests, *shares, self.first, self.last)
        if self.kind == "user":
            return splits.by_users(requests, self.valid, self.test)
        return splits.warm(requests)


@dataclass(frozen=True)
class SplitTimes:
    """Number of lists of one split, and times of its first and last list in ms."""

    lists: int
    first: int
    last: int


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
    ends = _integer(times.min()), _integer(times.max())
    division = choose_division(path, options, "split" in requests.columns, has_time, *ends)
    if division.kind == "user":
        shares = options.valid_share, options.test_share
        valid, test = splits.held_out_users(requests["user_id"], *shares)
        division = replace(division, valid=valid, test=test)
    divided = division.apply(requests)
    grouped = divided.group_by("split").agg(
        pl.len(), first=pl.col("timestamp").min(), last=pl.col("timestamp").max()
    )
    of_splits = {split: SplitTimes(*numbers) for split, *numbers in grouped.iter_rows()}
    return divided, moment_of(path, division, of_splits, has_time, lambda: divided)


def choose_division(
    path: Path | Files,
    options: SplitOptions,
    has_column: bool,
    has_time: bool,
    first: int,
    last: int,
) -> Division:
    """Return the division of a log by its options; the users of the kind user are left out.

    Args:
        has_column: the log has a column `split`.
        first: time of the first list; `last` likewise.

    Raises DataError for a split that the log does not allow.
    """
    if has_time and isinstance(path, Files):
        path.remarks += _remarks_on_times(last)
    kind = options.kind or _default_kind(has_column, has_time and last - first > HOUR)
    if kind == "column" and not has_column:
        raise DataError(path, "is missing, but --split column reads it", column="split")
    if kind == "time" and not has_time:
        raise DataError(path, "is missing, but --split time reads it", column="timestamp")
    return Division(kind, options, first, last)


def moment_of(
    path: Path | Files,
    division: Division,
    of_splits: Mapping[str, SplitTimes],
    has_time: bool,
    requests: Callable[[], pl.DataFrame],
) -> Moment:
    """Return the moment of the train split of a log that was divided.

    Args:
        requests: reads request_id and timestamp of all lists by time, for an error.

    Raises DataError if a needed split is empty.
    """
    kind = division.kind
    counts = {
        name: of_splits[name].lists if name in of_splits else 0
        for name in ("train", "valid", "test")
    }
    if kind == "column" and not counts["train"]:
        raise DataError(path, "must have at least one request of split train", column="split")
    if kind in ("time", "user") and not all(counts.values()):
        raise _empty_split(path, requests, kind, counts)
    spans = division.last - division.first > HOUR
    as_of = of_splits["train"].last if has_time and (spans or kind == "time") else None
    moment = Moment(kind, as_of, as_of is not None and _is_ordered(of_splits))
    if isinstance(path, Files) and as_of is not None and not moment.ordered:
        path.remarks += _remarks_on_later_labels(of_splits, kind, as_of)
    return moment


def _remarks_on_times(latest: int) -> list[str]:
    """Return a remark if the times look like seconds, whose log would seem to span an hour."""
    if not SECONDS[0] <= latest < SECONDS[1]:
        return []
    return [
        f"column timestamp: {latest} is read as milliseconds, {to_iso(latest)}; "
        "if these are seconds, multiply them by 1000"
    ]


def _remarks_on_later_labels(
    of_splits: Mapping[str, SplitTimes], kind: str, as_of: int
) -> list[str]:
    """Return a remark if a table of items would count labels that come after a test list."""
    if "test" not in of_splits or of_splits["test"].first >= as_of:
        return []
    first = to_iso(of_splits["test"].first)
    return [
        f"with --split {kind}, test lists from {first} on are ranked with item tables as of "
        f"{to_iso(as_of)}, which know later values and labels; --split time measures what a "
        "deployed model meets"
    ]


def _default_kind(has_column: bool, spans: bool) -> str:
    if has_column:
        return "column"
    return "time" if spans else "last-list"


def _is_ordered(of_splits: Mapping[str, SplitTimes]) -> bool:
    """True if all train lists precede all valid lists, and these all test lists."""
    present = [of_splits[name] for name in ("train", "valid", "test") if name in of_splits]
    others = len(present) == len(of_splits)
    return others and all(before.last < after.first for before, after in pairwise(present))


def _empty_split(
    path: Path | Files,
    requests: Callable[[], pl.DataFrame],
    kind: str,
    counts: dict[str, int],
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
        f"{_outlier(requests()) or advice}",
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
