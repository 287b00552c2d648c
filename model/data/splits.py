"""Assign requests to train, valid, test or history.

Every function takes rows of request_id, user_id and timestamp (ms), ordered by time and then as in
the file, and returns them with a column `split`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

COLD_SEED = 0  # of the random choice of users in `cold`
COLD_SHARE = 0.1  # share of users in test, and again in valid
METARANK_TRAIN = 0.8  # share of the lists before the test lists
METARANK_VALID = 0.1  # share of these lists that is valid
BY_TIME_STARTS = (0.8, 0.9)  # quantiles of the timestamps at which valid and test begin


def warm(requests: pl.DataFrame) -> pl.DataFrame:
    """Make each user's last list test, the one before valid, and the rest train.

    A user of two lists has no valid list, and a user of one list has only train.
    """
    size = pl.len().over("user_id")
    from_end = size - 1 - pl.int_range(pl.len()).over("user_id").cast(pl.Int64)
    split = (
        pl.when((from_end == 0) & (size >= 2))
        .then(pl.lit("test"))
        .when((from_end == 1) & (size >= 3))
        .then(pl.lit("valid"))
        .otherwise(pl.lit("train"))
    )
    return requests.with_columns(split.alias("split"))


def cold(
    requests: pl.DataFrame, valid_share: float = COLD_SHARE, test_share: float = COLD_SHARE
) -> pl.DataFrame:
    """Make these shares of the users valid and test, with their last list each.

    Earlier lists of these users are history. All lists of other users are train.
    """
    return by_users(requests, *held_out_users(requests["user_id"], valid_share, test_share))


def held_out_users(
    users: Iterable[str], valid_share: float, test_share: float
) -> tuple[list[str], list[str]]:
    """Draw the users of valid and those of test, whose order in `users` does not matter."""
    every = np.array(sorted(set(users)), dtype=object)
    order = np.random.default_rng(COLD_SEED).permutation(len(every))
    first = round(test_share * len(every))
    second = first + round(valid_share * len(every))
    return every[order[first:second]].tolist(), every[order[:first]].tolist()


def by_users(requests: pl.DataFrame, valid: Sequence[str], test: Sequence[str]) -> pl.DataFrame:
    """Make the last lists of these users valid and test, and their earlier lists history."""
    last = pl.int_range(pl.len()).over("user_id") == pl.len().over("user_id") - 1
    user = pl.col("user_id")
    split = (
        pl.when(~user.is_in([*test, *valid]))
        .then(pl.lit("train"))
        .when(~last)
        .then(pl.lit("history"))
        .when(user.is_in(test))
        .then(pl.lit("test"))
        .otherwise(pl.lit("valid"))
    )
    return requests.with_columns(split.alias("split"))


def metarank(requests: pl.DataFrame) -> pl.DataFrame:
    """Make the last fifth of the lists in time test, as in Metarank's documentation.

    Metarank tunes nothing and has no valid lists; here they are the last tenth of the others.
    """
    before_test = round(METARANK_TRAIN * len(requests))
    train = round((1.0 - METARANK_VALID) * before_test)
    row = pl.int_range(pl.len())
    split = (
        pl.when(row < train)
        .then(pl.lit("train"))
        .when(row < before_test)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("test"))
    )
    return requests.with_columns(split.alias("split"))


def by_share_of_time(
    requests: pl.DataFrame, valid_share: float, test_share: float, first: int, last: int
) -> pl.DataFrame:
    """Make the last `test_share` of the time test, the `valid_share` before valid, the rest train.

    A list belongs to the split of its timestamp, so no train list is later than a valid or test
    list. The shares are of the time between the first list and the last, not of the lists.

    Args:
        first: time of the first list of the log in ms; `last` likewise.
    """
    time, span = pl.col("timestamp"), last - first
    split = (
        pl.when(time >= pl.lit(last - test_share * span, pl.Float64))
        .then(pl.lit("test"))
        .when(time >= pl.lit(last - (valid_share + test_share) * span, pl.Float64))
        .then(pl.lit("valid"))
        .otherwise(pl.lit("train"))
    )
    return requests.with_columns(split.alias("split"))


def by_time(requests: pl.DataFrame) -> pl.DataFrame:
    """Make the first 80 % of the lists in time train, the next 10 % valid and the last 10 % test.

    Requests also need `end` (ms), the time of their last exposure. A list that straddles a boundary
    is dropped, because not all of its labels existed when the next split began.
    """
    start, end = pl.col("timestamp"), pl.col("end")
    valid, test = (start.quantile(share, "nearest") for share in BY_TIME_STARTS)
    split = (
        pl.when(end < valid)
        .then(pl.lit("train"))
        .when((start >= valid) & (end < test))
        .then(pl.lit("valid"))
        .when(start >= test)
        .then(pl.lit("test"))
    )
    return requests.with_columns(split.alias("split")).drop_nulls("split")
