"""Outcomes of users from the records of a journal."""

import pytest

from model.experiment.errors import ExperimentError
from model.experiment.outcomes import Arms, Span, read_outcomes
from service.journal.records import Bundle
from tests.support.journals import decision, event, write_segment

ACTIVE, CANARY = Bundle("m", "1", "aa"), Bundle("m", "2", "cc")
SPAN = Span(None, 10_000, 1000, 100)


def read(directory, records, span=SPAN, types=(), slow_ms=5.0):
    write_segment(directory, records)
    return read_outcomes(directory, Arms("aa", "cc"), span, types, slow_ms)


def a_list(number, user, at, bundle=ACTIVE, **more):
    return decision(number, user, at, f"r{number}", bundle=bundle, **{"slate": [1, 0], **more})


def test_outcomes_are_means_over_the_lists_of_a_user_within_the_window(tmp_path):
    outcomes = read(tmp_path, [
        a_list(0, "c", 2000, CANARY), event(0, "c", 2010, "r0", item="a", label=1.0),
        event(1, "c", 2020, "r0", item="b", label=0.5), event(2, "c", 2030, "r0", item="b",
                                                              label=0.25),
        a_list(1, "c", 2500, CANARY, degraded=["overload"], total_ms=9.0),
        a_list(2, "c", 3001, CANARY), event(3, "c", 3010, "r2", item="a", label=1.0),
        a_list(3, "a", 2100), event(4, None, 2110, "r3", item="a", label=1.0),
    ])  # fmt: skip
    assert outcomes.is_canary.tolist() == [True, False]
    assert outcomes.ended.tolist() == [3100, 3200]
    assert outcomes.reward.tolist() == [0.75, 1.0]
    assert outcomes.degraded.tolist() == [0.5, 0.0]
    assert outcomes.slow.tolist() == [0.5, 0.0]
    assert outcomes.began == 2000
    assert outcomes.counts["events"] == 5


def test_an_outcome_does_not_change_when_more_is_read_later(tmp_path):
    records = [a_list(n, f"u{n}", 2000 + 300 * n, (ACTIVE, CANARY)[n % 2]) for n in range(10)]
    records += [event(n, None, 2050 + 300 * n, f"r{n}", item="a", label=0.1 * n) for n in range(10)]
    records += [a_list(20, "u1", 4000, ACTIVE), event(20, None, 9000, "r1", item="b", label=1.0)]
    write_segment(tmp_path, records)
    early, late = (
        read_outcomes(tmp_path, Arms("aa", "cc"), Span(2000, until, 1000, 100), (), 5.0)
        for until in (4000, 9000)
    )
    count = len(early.ended)
    assert 0 < count < len(late.ended)
    for name in ("ended", "is_canary", "reward"):
        assert getattr(early, name).tolist() == getattr(late, name)[:count].tolist()


def test_lists_and_events_that_do_not_count_are_counted_by_reason(tmp_path):
    outcomes = read(tmp_path, [
        a_list(0, "c", 2000, CANARY), a_list(1, None, 2000), a_list(2, "a", 1000),
        a_list(3, "x", 2000, Bundle("m", "3", "ff")), a_list(4, "late", 9950),
        a_list(5, "a", 2050), a_list(6, "b", 2050, request_id="r5"),
        event(0, "c", 2010, "r0", item="z", label=1.0), event(1, "c", 2010, None, label=1.0),
        event(2, "c", 2010, "r0", item="a", label=None), event(3, "c", 2200, "r0", label=1.0),
        event(7, "c", 2010, "r0", label=1.0, outcome="duplicate"),
        event(5, "c", 2010, "r5", label=1.0), event(6, "c", 2010, "r0", label=1.0, type="x"),
        event(7, "c", 2010, "r0", label=1.0), event(7, "c", 2010, "r0", label=1.0),
        event(8, "a", 2010, "r0", label=1.0), event(0, None, 2010, "r0", item="z", label=1.0),
    ], types=("like",))  # fmt: skip
    assert outcomes.counts == {
        "lists": 5, "lists without a user": 1, "lists of other versions": 1,
        "lists before the experiment": 1, "users that are not complete yet": 1, "events": 1,
        "events: of no such list": 2, "events: without a request": 1,
        "events: without a label": 1, "events: late": 1, "events: duplicate": 2,
        "events: ambiguous": 1, "events: of another user": 1,
    }  # fmt: skip
    assert outcomes.reward.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("at", [2010, 2101])
def test_a_repetition_counts_if_it_alone_is_on_record_and_late_ones_leave_its_place(tmp_path, at):
    repeated = {"label": 1.0, "outcome": "duplicate"}
    records = [event(0, "c", at, "r0", **repeated), event(0, "c", 2020, "r0", **repeated)]
    outcomes = read(tmp_path, [a_list(0, "c", 2000, CANARY), a_list(1, "a", 2000), *records])
    assert outcomes.reward.tolist() == [1.0, 0.0]
    assert outcomes.counts["events"] == 1


def test_a_user_of_both_versions_is_left_out_and_counted(tmp_path):
    outcomes = read(tmp_path, [
        a_list(0, "c", 2000, CANARY), a_list(1, "both", 2000), a_list(2, "both", 2500, CANARY),
        a_list(3, "c", 9000, ACTIVE),
    ])  # fmt: skip
    assert outcomes.crossed == 1
    assert outcomes.is_canary.tolist() == [True]


def test_a_journal_without_lists_of_the_canary_is_refused(tmp_path):
    with pytest.raises(ExperimentError, match=r"must have lists of the canary cc.*lists: 1"):
        read(tmp_path, [a_list(0, "a", 2000)])
