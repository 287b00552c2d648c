"""Events that clients keep until they are acknowledged, and the faults that a store can have."""

import orjson
import pytest

from loadtest.errors import LoadTestError
from loadtest.state.ledger import Ledger
from tests.support.bundles import BUNDLE


def acknowledged(ledger, client=0, duplicates=0):
    batch = ledger.pending_batch(client)
    accepted = len(batch) - duplicates
    answer = {"accepted": accepted, "duplicates": duplicates, "refused": []}
    ledger.acknowledge(client, orjson.dumps(answer))
    return batch


def stored_user(batch, name):
    return {"history": {"time": [each["time"] for each in batch if each["user"] == name]}}


def test_a_batch_stays_the_same_until_it_is_acknowledged():
    ledger = Ledger(BUNDLE)
    first = ledger.pending_batch(3)
    assert ledger.pending_batch(3) == first
    assert ledger.waiting() == [3]
    acknowledged(ledger, 3)
    assert ledger.waiting() == []
    ids = {each["event_id"] for each in first}
    assert not ids & {each["event_id"] for each in ledger.pending_batch(3)}


def test_an_answer_that_misses_events_is_an_error():
    ledger = Ledger(BUNDLE)
    ledger.pending_batch(0)
    with pytest.raises(LoadTestError, match="events were sent"):
        ledger.acknowledge(0, b'{"accepted": 0, "duplicates": 0, "refused": []}')


def test_a_store_with_every_event_once_has_no_fault():
    ledger = Ledger(BUNDLE)
    batch = acknowledged(ledger, duplicates=1)
    assert ledger.acknowledged == len(batch)
    assert ledger.duplicates == 1
    for name in ledger.moments:
        assert ledger.faults_of_user(name, stored_user(batch, name)) == (0, 0)


def test_a_lost_event_and_a_repeated_one_are_faults():
    ledger = Ledger(BUNDLE)
    batch = acknowledged(ledger) + acknowledged(ledger)
    (name,) = ledger.moments
    assert ledger.faults_of_user(name, stored_user(batch[1:], name)) == (1, 0)
    assert ledger.faults_of_user(name, stored_user([*batch, batch[0]], name)) == (0, 1)
    assert ledger.faults_of_user(name, stored_user([*batch[1:], batch[1]], name)) == (1, 1)


def test_a_counter_that_moved_twice_is_a_fault():
    ledger = Ledger(BUNDLE)
    batch = acknowledged(ledger)
    item = batch[0]["item"]
    shows = sum(each["item"] == item for each in batch)
    counters = {"like_rate": {"shows": float(shows), "likes": 0.0, "time": 0}}
    assert ledger.faults_of_item(item, {"counters": counters}) == 0
    counters["like_rate"]["shows"] += 1.0
    assert ledger.faults_of_item(item, {"counters": counters}) == 1


def test_no_user_has_more_answers_than_a_history_keeps_and_their_times_differ():
    ledger = Ledger(BUNDLE)
    for _ in range(30):
        acknowledged(ledger)
    assert len(ledger.moments) > 1
    for moments in ledger.moments.values():
        assert len(moments) == len(set(moments)) <= 100
