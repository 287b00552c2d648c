"""Assign requests to train, valid, test or history.

Every function takes rows of request_id, user_id and timestamp (ms), ordered by time and then as in
the file, and returns them with a column `split`.
"""

from __future__ import annotations

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
    users = np.array(sorted(set(requests["user_id"])), dtype=object)
    order = np.random.default_rng(COLD_SEED).permutation(len(users))
    first = round(test_share * len(users))
    second = first + round(valid_share * len(users))
    test, valid = users[order[:first]].tolist(), users[order[first:second]].tolist()
    last = pl.int_range(pl.len()).over("user_id") == pl.len().over("user_id") - 1
    user = pl.col("user_id")
    split = (
        pl.when(~user.is_in(test + valid))
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


def by_share_of_time(requests: pl.DataFrame, valid_share: float, test_share: float) -> pl.DataFrame:
    """Make the last `test_share` of the time test, the `valid_share` before valid, the rest train.

    A list belongs to the split of its timestamp, so no train list is later than a valid or test
    list. The shares are of the time between the first list and the last, not of the lists.
    """
    time = pl.col("timestamp")
    first, last = time.min(), time.max()
    split = (
        pl.when(time >= last - test_share * (last - first))
        .then(pl.lit("test"))
        .when(time >= last - (valid_share + test_share) * (last - first))
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
