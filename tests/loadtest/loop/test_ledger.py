"""Acknowledged lists and events, compared with store and journal."""

import pytest

from loadtest.loop.feedback import events_of
from loadtest.loop.ledger import AFTER_S, BEFORE_S, Answer, Ledger, answers_of

RESPONSE = {"request_id": "r", "slate": [{"id": item} for item in "abcd"]}
KILL = 100.0


def columns(*answers):
    """Return a stored history as the service returns it."""
    names = ("time", "id", "label")
    return dict(zip(names, map(list, zip(*answers, strict=True)), strict=True))


def test_the_events_of_a_list_add_an_answer_for_each_displayed_item():
    events = events_of(RESPONSE, "u", [False, True, False, True], 5)
    answers = [answer for event in events for answer in answers_of(event)]
    assert sorted(answers) == [
        Answer(5, "a", 0.0), Answer(5, "b", 1.0), Answer(5, "c", 0.0), Answer(5, "d", 1.0),
    ]  # fmt: skip


@pytest.fixture
def ledger():
    """A user with one answer before, and two acknowledged ones, of which one was repeated."""
    made = Ledger(limit=3)
    made.put("u", [{"id": "x", "label": 1.0, "time": 1}])
    for moment, item in enumerate("aba", start=2):
        event = {
            "event_id": item,
            "user": "u",
            "item": item,
            "type": "pass",
            "time": 4 - (item == "a"),
        }
        made.acknowledge([event], moment)
    return made


@pytest.mark.parametrize(
    ("stored", "lost", "extra"),
    [
        ([(1, "x", 1.0), (3, "a", 0.0), (4, "b", 0.0)], 0, 0),
        ([(1, "x", 1.0), (4, "b", 0.0)], 1, 0),
        ([(3, "a", 0.0), (3, "a", 0.0), (4, "b", 0.0)], 0, 1),
        ([(3, "a", 1.0), (4, "b", 0.0)], 2, 1),
    ],
)
def test_answers_that_the_store_lost_or_has_twice_are_counted(ledger, stored, lost, extra):
    counts = ledger.compare_store(lambda user: columns(*stored))
    assert (counts["lost"], counts["too many"]) == (lost, extra)


def test_an_answer_that_newer_ones_displaced_is_not_lost(ledger):
    ledger.acknowledge(
        [{"event_id": "c", "user": "u", "item": "c", "type": "click", "time": 9}], 5.0
    )
    newest = [(3, "a", 0.0), (4, "b", 0.0), (9, "c", 1.0)]
    assert ledger.compare_store(lambda user: columns(*newest))["lost"] == 0
    older = [(1, "x", 1.0), (3, "a", 0.0), (4, "b", 0.0)]
    assert ledger.compare_store(lambda user: columns(*older))["lost"] == 1


@pytest.mark.parametrize(
    ("moment", "unexplained"),
    [(KILL - BEFORE_S - 0.01, 1), (KILL - BEFORE_S + 0.01, 0), (KILL + AFTER_S + 0.01, 1)],
)
def test_only_what_was_acknowledged_just_before_a_kill_may_be_absent(moment, unexplained):
    ledger = Ledger(limit=3, kills=[KILL])
    ledger.answer([{"request_id": "r1"}], moment)
    ledger.acknowledge(
        [{"event_id": "e1", "user": "u", "item": "a", "type": "click", "time": 1}], moment
    )
    counts = ledger.compare_journal([], [])
    assert counts["lists lacking unexplained"] == unexplained
    assert counts["events lacking unexplained"] == unexplained
    kept = ledger.compare_journal(["r1"], [{"event_id": "e1", "outcome": "accepted"}])
    assert kept["lists lacking unexplained"] == kept["events lacking unexplained"] == 0


def test_a_repetition_alone_counts_only_for_an_event_that_was_sent_again():
    event = {"event_id": "e1", "user": "u", "item": "a", "type": "click", "time": 1}
    for again in (False, True):
        ledger = Ledger(limit=3, kills=[KILL])
        ledger.acknowledge([event], 50.0, again)
        counts = ledger.compare_journal([], [{"event_id": "e1", "outcome": "duplicate"}])
        assert counts["events that the journal has as repetitions alone"] == 1
        assert counts["events lacking unexplained"] == (not again)
