"""Rows and bars of a part of a report."""

import pytest

from loadtest.measured import Bar, Measured


@pytest.mark.parametrize(
    ("bar", "inside", "outside"),
    [("<=", 0.1, 0.11), (">=", 0.1, 0.09), (">", 0.11, 0.1), ("==", 0.1, 0.2)],
)
def test_a_bar_holds_for_values_on_its_side_and_for_no_others(bar, inside, outside):
    assert Bar(bar, 0.1).holds(inside)
    assert not Bar(bar, 0.1).holds(outside)


def test_a_row_of_several_turns_has_their_mean_least_and_greatest():
    measured = Measured()
    measured.add("time", "lmdb", [1.0, 2.0, 6.0], "ms", Bar("<=", 3.0))
    measured.add("count", "redis", 7, "events")
    figures = [(row["value"], row["low"], row["high"]) for row in measured.rows]
    assert figures == [(3, 1, 6), (7, None, None)]
    assert [(r["bar"], r["kept"]) for r in measured.rows] == [("<= 3", True), (None, None)]


def test_the_low_end_of_an_interval_can_be_held_against_the_bar():
    measured = Measured()
    measured.add_interval("gain", "lmdb", (0.2, -0.1, 0.5), "NDCG@10", Bar(">", 0), compared=-0.1)
    measured.add_interval("gain", "lmdb", (0.2, -0.1, 0.5), "NDCG@10", Bar(">", 0))
    assert [row["kept"] for row in measured.rows] == [False, True]
