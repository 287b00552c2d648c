"""Merging a cache into an existing report: kept rows, replaced rows and contradictions."""

import copy

import pytest

from model.study.merge import MergeError, check_cells, merge_reports

PLACE = {"dataset": "ranklens", "split": "warm", "track": "stand-alone"}


def row(model, seed, value):
    return {**PLACE, "model": model, "seed": seed, "metric": "ndcg@10", "value": value}


def line(model, seeds, mean):
    return {**PLACE, "model": model, "seeds": seeds, "ndcg@10": [mean]}


def report(rows, tables):
    parts = {"cells": [], "rows": rows, "tables": tables, "comparisons": [], "positions": []}
    return {"made": {"commit": "a" * 40}, **parts}


OLD = report([row("host", 0, 0.63), row("zero token", 0, 0.62)], [line("host", 3, 0.63)])


def without_commits(entries):
    return [{name: entry[name] for name in entry if name != "commits"} for entry in entries]


def test_rows_that_the_cache_lacks_stay_and_new_rows_follow_them():
    new = report([row("host", 0, 0.63), row("random gate", 0, 0.61)], [line("random gate", 3, 0.6)])
    merged = merge_reports(OLD, new)
    assert [r["model"] for r in merged["rows"]] == ["host", "zero token", "random gate"]
    assert [t["model"] for t in merged["tables"]] == ["host", "random gate"]


def test_a_table_row_is_replaced_only_by_one_with_more_seeds():
    for seeds, kept in ((5, 0.64), (1, 0.63)):
        merged = merge_reports(OLD, report([], [line("host", seeds, 0.64)]))
        assert without_commits(merged["tables"]) == [line("host", max(seeds, 3), kept)]


def test_a_row_made_again_names_its_commit_and_the_others_that_of_the_old_report():
    again = {**row("host", 0, 0.63), "commits": ["b" * 40]}
    merged = merge_reports(OLD, report([again], [{**line("host", 3, 0.63), "commits": ["b" * 40]}]))
    commits = {entry["model"]: entry["commits"] for entry in merged["rows"]}
    assert commits == {"host": ["b" * 40], "zero token": ["a" * 40]}
    assert merged["tables"][0]["commits"] == ["b" * 40]


def test_a_table_row_made_again_keeps_the_columns_that_the_new_one_lacks():
    old = report([], [{**line("host", 3, 0.63), "second utility": 0.3}])
    (merged,) = merge_reports(old, report([], [line("host", 3, 0.64)]))["tables"]
    assert merged["ndcg@10"] == [0.64]
    assert merged["second utility"] == 0.3


def test_replacing_takes_the_row_that_contradicts_the_report():
    new = report([row("host", 0, 0.7)], [])
    merged = merge_reports(OLD, new, replace=True)
    assert [r["value"] for r in merged["rows"]] == [0.7, 0.62]


def test_a_cell_that_contradicts_the_report_beyond_rounding_raises():
    new = report([row("host", 0, 0.630003)], [])
    with pytest.raises(MergeError, match=r"stand-alone, host, 0, ndcg@10: 0\.630003 in the cache"):
        merge_reports(OLD, new)
    new["rows"][0]["value"] = 0.630001  # within rounding
    merge_reports(OLD, new)


def test_merging_changes_neither_report_in_place():
    old, new = copy.deepcopy(OLD), report([row("gru", 0, 0.6)], [line("host", 9, 0.1)])
    before = copy.deepcopy(new)
    merge_reports(old, new)
    assert (old, new) == (OLD, before)


def test_equal_digests_pass_and_another_digest_or_an_absent_cell_raises():
    cell = {**PLACE, "model": "host", "seed": 0, "digest": "a" * 64}
    report = {"cells": [cell, {**cell, "seed": 1, "digest": "b" * 64}]}
    assert check_cells(report, [cell]) == ["ranklens, warm, stand-alone, host, 0"]
    with pytest.raises(MergeError, match=r"host, 1: .* differ .*aaaaaaaaaaaa, not bbbbbbbbbbbb"):
        check_cells(report, [{**cell, "seed": 1}])
    with pytest.raises(MergeError, match="host, 2: the report has no such cell"):
        check_cells(report, [{**cell, "seed": 2}])
