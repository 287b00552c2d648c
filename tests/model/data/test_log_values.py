"""Values of features that a log states now and then, against their definition."""

from __future__ import annotations

from typing import Any
from unittest import mock

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import log_values
from model.data.log_values import values_in_log

TIMES = ("time", "place", "train")
LISTS = st.lists(
    st.tuples(
        st.integers(0, 5),  # time
        st.booleans(),  # train
        st.lists(
            st.tuples(
                st.sampled_from("abc"),
                st.none() | st.integers(0, 9).map(float),
                st.none() | st.lists(st.sampled_from("xy"), max_size=2),
            ),
            max_size=3,
            unique_by=lambda entry: entry[0],
        ),
    ),
    min_size=1,
    max_size=12,
)


def rows_of(lists):
    """Return the rows of lists in the order of their times."""
    ordered = sorted(lists, key=lambda entry: entry[0])
    return [
        (item, time, place, train, price, tags)
        for place, (time, train, candidates) in enumerate(ordered)
        for item, price, tags in candidates
    ]


def by_definition(rows, row, column, cutoff):
    """Return the value of one row by a search through all rows of its item."""
    item, time, _, train, *_ = row
    stated = [other for other in rows if other[0] == item and other[column] is not None]
    before = [other for other in stated if other[1] <= time]
    if before:
        return before[-1][column]
    first = min((other[1] for other in stated), default=None)
    if not train or first is None or first > cutoff:
        return None
    return [other for other in stated if other[1] == first][-1][column]


@settings(max_examples=80, deadline=None)
@given(LISTS, st.sampled_from([1, 5, 1000]))
def test_every_list_has_the_latest_value_and_early_train_lists_the_first(lists, cells):
    rows = rows_of(lists)
    cutoff = max((row[1] for row in rows if row[3]), default=-1)
    columns = ["item", *TIMES, "price", "tags"]
    types: list[Any] = [pl.String, pl.Int64, pl.UInt32, pl.Boolean, pl.Float64, pl.List(pl.String)]
    frame = pl.DataFrame(rows, dict(zip(columns, types, strict=True)), orient="row")
    with mock.patch.object(log_values, "CELLS", cells):
        values = values_in_log(frame.lazy(), "item", ["price", "tags"], TIMES, cutoff)
    expected = {
        (row[0], row[1], row[3]): tuple(by_definition(rows, row, n, cutoff) for n in (4, 5))
        for row in rows
        if row[4] is None or row[5] is None
    }
    if values is None:
        assert not expected
        return
    filled = values.collect().rows_by_key(["item", "time", "train"], unique=True)
    lacking = {n for n in (4, 5) if any(row[n] is None for row in rows)}
    names = [name for n, name in ((4, "price"), (5, "tags")) if n in lacking]
    assert values.collect_schema().names() == ["item", "time", "train", *names]
    assert filled.keys() == expected.keys()
    for key, value in filled.items():
        assert value == tuple(v for n, v in zip((4, 5), expected[key], strict=True) if n in lacking)


def test_a_log_without_gaps_has_no_values_to_fill():
    frame = pl.LazyFrame({"item": ["a"], "time": [0], "place": [0], "train": [True], "p": [1.0]})
    assert values_in_log(frame, "item", ["p"], TIMES, 0) is None
