"""A report keeps what its cache has lost, unless the two disagree."""

import copy

import pytest

from model.study.merge import MergeError, merge_reports

PLACE = {"dataset": "ranklens", "split": "warm", "track": "stand-alone"}


def row(model, seed, value):
    return {**PLACE, "model": model, "seed": seed, "metric": "ndcg@10", "value": value}


def line(model, seeds, mean):
    return {**PLACE, "title": "Controls", "model": model, "seeds": seeds, "ndcg@10": [mean]}


def report(rows, tables):
    return {"rows": rows, "tables": tables, "comparisons": [], "curves": [], "positions": []}


OLD = report([row("host", 0, 0.63), row("zero token", 0, 0.62)], [line("host", 3, 0.63)])


def test_rows_of_cells_that_are_gone_stay_and_new_ones_join_them():
    new = report([row("host", 0, 0.63), row("random gate", 0, 0.61)], [line("random gate", 3, 0.6)])
    merged = merge_reports(OLD, new)
    assert [r["model"] for r in merged["rows"]] == ["host", "zero token", "random gate"]
    assert [t["model"] for t in merged["tables"]] == ["host", "random gate"]


def test_a_line_of_more_seeds_replaces_the_old_one_and_a_line_of_fewer_does_not():
    for seeds, kept in ((5, 0.64), (1, 0.63)):
        merged = merge_reports(OLD, report([], [line("host", seeds, 0.64)]))
        assert merged["tables"] == [line("host", max(seeds, 3), kept)]


def test_a_cell_that_says_something_else_than_the_report_is_refused():
    new = report([row("host", 0, 0.630003)], [])
    with pytest.raises(MergeError, match=r"stand-alone, host, 0, ndcg@10: 0\.630003 in the cache"):
        merge_reports(OLD, new)
    new["rows"][0]["value"] = 0.630001  # rounding
    merge_reports(OLD, new)


def test_nothing_of_either_report_is_changed_in_place():
    old, new = copy.deepcopy(OLD), report([row("gru", 0, 0.6)], [line("host", 9, 0.1)])
    before = copy.deepcopy(new)
    merge_reports(old, new)
    assert (old, new) == (OLD, before)
