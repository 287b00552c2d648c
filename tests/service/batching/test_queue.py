"""The queue: its order, the entries that make room, and the batches taken from it."""

import math

import numpy as np
import pytest

from service.batching.queue import Queue, QueueEntry
from service.engine.buckets import SIZES
from service.engine.constraints import SlateConstraints
from service.engine.rows import Row, SlateSampling

ALL = 1000  # slates, more than any test has


def entry_of(name, priority=0, deadline=10.0, size=20, slates=None, work_ns=0):
    """Return an entry whose name stands in for its future."""
    numbers, tokens = np.zeros((size, 1), np.float32), np.zeros((size, 1), np.int64)
    sampling = None if slates is None else SlateSampling(slates, seed=0)
    row = Row(numbers, tokens, 1, 3, 0.0, 1.0, 1.0, SlateConstraints.none(size, 1), sampling)
    return QueueEntry(row, priority, deadline, 0.0, name, work_ns)


def queue(*entries, limit=8):
    made: Queue = Queue(limit)
    for entry in entries:
        made.push(entry)
    return made


def names(entries):
    return "".join(entry.future for entry in entries)


def live(entry):
    return True


def test_it_is_ordered_by_priority_then_by_deadline_then_by_arrival():
    made = queue(
        entry_of("f", 1, 1.0),
        entry_of("c", 0, 5.0),
        entry_of("d", 0, 9.0),
        entry_of("a", 0, 2.0),
        entry_of("e", 0, 9.0),
        entry_of("b", 0, 2.0),
        entry_of("g", 2, 0.5),
    )
    assert names(made.take(ALL, live)) == "abcdefg"
    assert len(made) == 0
    assert made.take(ALL, live) == []


def test_the_volume_is_slates_times_candidates_summed_over_the_queue():
    made = queue(entry_of("a", size=30), entry_of("b", size=7, slates=4), entry_of("c", size=1))
    assert made.volume == 30 + 28 + 1
    made.take(1, live)
    assert made.volume == 29
    made.make_room(7, 0)
    assert made.volume == 29
    made.take(ALL, lambda entry: False)
    assert (made.volume, len(made)) == (0, 0)


def test_the_earliest_deadline_is_of_any_priority():
    assert queue().earliest_deadline() == math.inf
    assert queue(entry_of("a", 0, 5.0), entry_of("b", 2, 3.0)).earliest_deadline() == 3.0


def test_entries_of_lower_priority_make_room_the_last_of_the_lowest_first():
    entries = [
        entry_of("a", 0, 1.0), entry_of("b", 1, 1.0), entry_of("c", 1, 9.0), entry_of("d", 2, 1.0),
    ]  # fmt: skip
    made = queue(*entries, limit=4)
    assert made.make_room(0, 0) == []
    assert names(made.make_room(1, 0)) == "d"
    assert made.make_room(1, 0) == []  # one place is free
    assert names(made.make_room(2, 0)) == "c"
    assert names(made) == "ab"
    assert made.volume == 40


def test_no_entry_is_evicted_where_too_few_could_be():
    made = queue(entry_of("a", 0), entry_of("b", 1), entry_of("c", 2), limit=3)
    assert made.make_room(3, 0) is None
    assert names(made.make_room(1, 1)) == "c"
    made = queue(entry_of("a", 0), entry_of("b", 1), limit=2)
    assert made.make_room(1, 1) is None  # none has a lower priority
    assert made.make_room(1, 2) is None
    assert len(made) == 2


def test_more_rows_at_once_than_the_queue_holds_never_fit():
    assert queue(limit=3).make_room(3, 0) == []
    assert queue(limit=3).make_room(4, 0) is None


def test_the_order_holds_after_an_eviction():
    entries = [entry_of(name, i % 2, 9.0 - i) for i, name in enumerate("abcdefgh")]
    made = queue(*entries)
    assert names(made.make_room(2, 0)) == "bd"  # the latest deadlines of priority 1
    assert names(made.take(ALL, live)) == "gecahf"


def test_retain_drops_what_is_not_live_with_its_volume():
    made = queue(entry_of("a"), entry_of("b", slates=3), entry_of("c", 1), limit=3)
    checked = []

    def is_live(entry):
        checked.append(entry.future)
        return entry.future != "b"

    made.retain(is_live)
    assert sorted(checked) == ["a", "b", "c"]
    assert made.volume == 40
    assert made.make_room(1, 0) == []
    assert names(made.take(ALL, live)) == "ac"


@pytest.mark.parametrize(
    ("size", "bucket"),
    [(1, 32), (32, 32), (33, 64), (64, 64), (65, 128), (129, 256), (257, 512), (512, 512),
     (513, 513)],
)  # fmt: skip
def test_an_entry_is_of_the_smallest_bucket_that_holds_its_list(size, bucket):
    assert entry_of("a", size=size).bucket == bucket
    assert SIZES == (32, 64, 128, 256, 512)


def test_a_batch_takes_the_first_entry_and_those_of_its_bucket_and_the_rest_keep_their_order():
    made = queue(
        entry_of("a", deadline=1.0, size=40),
        entry_of("b", deadline=2.0, size=20),
        entry_of("c", deadline=3.0, size=64),
        entry_of("d", deadline=4.0, size=500),
        entry_of("e", deadline=5.0, size=1),
        entry_of("f", 1, deadline=0.0, size=33),
    )
    assert names(made.take(ALL, live)) == "acf"
    assert made.volume == 20 + 500 + 1
    assert names(made.take(ALL, live)) == "be"
    assert names(made.take(ALL, live)) == "d"


def test_a_batch_has_at_most_max_slates_and_a_sampled_row_counts_each_of_its_slates():
    made = queue(
        entry_of("a", deadline=1.0),
        entry_of("b", deadline=2.0, slates=3),
        entry_of("c", deadline=3.0, slates=2),
        entry_of("d", deadline=4.0),
        entry_of("e", deadline=5.0),
        entry_of("f", deadline=6.0),
    )
    assert names(made.take(5, live)) == "abd"  # c has no room, d after it has
    assert names(made.take(4, live)) == "cef"
    assert made.volume == 0


def test_a_row_of_more_slates_than_a_batch_holds_runs_alone():
    made = queue(entry_of("a", deadline=1.0, slates=64), entry_of("b", deadline=2.0))
    assert names(made.take(16, live)) == "a"
    assert names(made.take(16, live)) == "b"


def test_take_drops_what_is_not_live_and_checks_each_entry_once():
    made = queue(*(entry_of(name, deadline=i) for i, name in enumerate("abcde")))
    checked = []

    def is_live(entry):
        checked.append(entry.future)
        return entry.future not in "ac"

    assert names(made.take(2, is_live)) == "bd"
    assert checked == ["a", "b", "c", "d"]
    assert names(made) == "e"
    assert made.volume == 20


def test_the_work_ahead_is_of_the_entries_that_are_at_least_as_urgent():
    entries = [entry_of(name, priority, work_ns=work) for name, priority, work in (
        ("a", 0, 1), ("b", 0, 2), ("c", 1, 10), ("d", 1, 20), ("e", 2, 100),
    )]  # fmt: skip
    made = queue(*entries, limit=5)
    assert [made.work_ahead_ns(priority) for priority in (0, 1, 2)] == [3, 33, 133]
    made.retain(lambda entry: entry.future != "b")
    assert [made.work_ahead_ns(priority) for priority in (0, 1, 2)] == [1, 31, 131]
    assert names(made.make_room(2, 0)) == "e"
    assert [made.work_ahead_ns(priority) for priority in (0, 1, 2)] == [1, 31, 31]
    assert names(made.take(2, lambda entry: entry.future != "c")) == "ad"
    assert [made.work_ahead_ns(priority) for priority in (0, 1, 2)] == [0, 0, 0]
