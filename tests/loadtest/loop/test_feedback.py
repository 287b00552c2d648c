"""Feedback of simulated users, and its faults."""

from collections import Counter

import numpy as np
import pytest

from loadtest.loop.feedback import LATE_MS, OVERDUE_MS, Feedback, events_of
from loadtest.loop.plan import HOUR_MS

RESPONSE = {"request_id": "d0-7", "slate": [{"id": item} for item in ("a", "b", "c", "d")]}


def test_every_click_is_an_event_and_the_first_states_what_was_displayed():
    events = events_of(RESPONSE, "u1", [False, True, False, True], 5000)
    assert [(e["item"], e["position"], e["type"]) for e in events] == [
        ("b", 1, "click"), ("d", 3, "click"),
    ]  # fmt: skip
    # The other clicked item would count as passed over, too.
    assert [e.get("shown") for e in events] == [["a", "b", "c"], None]
    assert {e["request_id"] for e in events} == {"d0-7"}
    assert len({e["event_id"] for e in events}) == 2


def test_a_list_without_a_click_has_one_pass_with_all_items():
    (event,) = events_of(RESPONSE, "u1", [False] * 4, 5000)
    assert (event["item"], event["type"], event["time"]) == ("a", "pass", 5000)
    assert event["shown"] == ["a", "b", "c", "d"]


def test_without_faults_every_event_is_delivered_once_at_its_time():
    feedback = Feedback(np.random.default_rng(0), faults=False)
    for number in range(50):
        feedback.add(number, [{"event_id": str(number)}])
    assert feedback.counts == {"lists in time": 50, "events in time": 50}
    assert feedback.due(-1) == []
    taken = feedback.due(49)
    assert [(moment, events[0]["event_id"]) for moment, events in taken] == [
        (number, str(number)) for number in range(50)
    ]
    assert feedback.due(10**9) == []


def test_faults_deliver_late_overdue_twice_or_never_as_they_are_counted():
    feedback = Feedback(np.random.default_rng(1), faults=True)
    for number in range(2000):
        feedback.add(0, [{"event_id": str(number)}])
    lists = {name.removeprefix("lists "): n for name, n in feedback.counts.items()
             if name.startswith("lists ")}  # fmt: skip
    assert sum(lists.values()) == 2000
    moments = Counter(moment for moment, _ in feedback.due(10**9))
    assert moments == {
        0: lists["in time"] + lists["doubled"], HOUR_MS: lists["doubled"],
        LATE_MS: lists["late"], OVERDUE_MS: lists["overdue"],
    }  # fmt: skip
    assert lists["lost"] / 2000 == pytest.approx(0.05, abs=0.02)
