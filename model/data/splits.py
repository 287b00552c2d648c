"""Which lists are train, valid, test or history: each split takes requests and adds `split`.

Requests are rows of request_id, user_id and timestamp (ms), ordered by time, then as in the file.
"""

from __future__ import annotations

import numpy as np
import polars as pl

COLD_SEED = 0  # of the users held out by the cold split
COLD_SHARE = 0.1  # share of users in the cold split's test, and again in its valid
METARANK_TRAIN = 0.8  # share of the lists; the rest is test
METARANK_VALID = 0.1  # share of the lists before the test lists
BY_TIME_STARTS = (0.8, 0.9)  # quantiles of the lists' times where valid and test begin


def warm(requests: pl.DataFrame) -> pl.DataFrame:
    """Each user's last list is test, the one before valid, the rest train.

    A user of two lists has train and test; of one, train alone. Takes requests in order with
    user_id, returns them with `split`.
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


def cold(requests: pl.DataFrame) -> pl.DataFrame:
    """A tenth of the users is test, another valid: their last list; earlier ones are history.

    All lists of the other users are train. Takes and returns what `warm` does.
    """
    users = np.array(sorted(set(requests["user_id"])), dtype=object)
    order = np.random.default_rng(COLD_SEED).permutation(len(users))
    share = round(COLD_SHARE * len(users))
    test, valid = users[order[:share]].tolist(), users[order[share : 2 * share]].tolist()
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
    """The protocol of Metarank's documentation: the last fifth of the lists in time is test.

    It tunes nothing and so has no validation lists; here they are the last tenth of the others.
    Takes and returns what `warm` does.
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


def by_time(requests: pl.DataFrame) -> pl.DataFrame:
    """Train is before valid is before test: four fifths of the lists, a tenth, a tenth.

    Takes requests with `end` (ms), too, when the last candidate was shown. A list that straddles a
    boundary is dropped: its labels were not all known at the time its split begins or ends.
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
