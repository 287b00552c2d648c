"""The queue: who goes first, who makes room, who runs together."""

import math

import numpy as np
import pytest

from service.batching.admission import Queue, QueueEntry
from service.engine.buckets import SIZES
from service.engine.constraints import SlateConstraints
from service.engine.rows import Row, SlateSampling

ALL = 1000  # slates, more than any test has


def waiting(name, priority=0, deadline=10.0, size=20, slates=None):
    """One list; its name stands in for the answer that somebody waits for."""
    numbers, tokens = np.zeros((size, 1), np.float32), np.zeros((size, 1), np.int64)
    sampling = None if slates is None else SlateSampling(slates, seed=0)
    row = Row(numbers, tokens, 1, 3, 0.0, 1.0, 1.0, SlateConstraints.none(size, 1), sampling)
    return QueueEntry(row, priority, deadline, 0.0, name)


def queue(*entries, limit=8):
    made = Queue(limit)
    for entry in entries:
        made.push(entry)
    return made


def names(entries):
    return "".join(entry.future for entry in entries)


def always(entry):
    return True


def test_it_is_ordered_by_priority_then_by_deadline_then_by_arrival():
    made = queue(
        waiting("f", 1, 1.0),
        waiting("c", 0, 5.0),
        waiting("d", 0, 9.0),
        waiting("a", 0, 2.0),
        waiting("e", 0, 9.0),
        waiting("b", 0, 2.0),
        waiting("g", 2, 0.5),
    )
    assert names(made.take(ALL, always)) == "abcdefg"
    assert len(made) == 0
    assert made.take(ALL, always) == []


def test_cells_are_slates_times_candidates_of_all_that_wait():
    made = queue(waiting("a", size=30), waiting("b", size=7, slates=4), waiting("c", size=1))
    assert made.volume == 30 + 28 + 1
    made.take(1, always)
    assert made.volume == 29
    made.make_room(7, 0)
    assert made.volume == 29
    made.take(ALL, lambda entry: False)
    assert (made.volume, len(made)) == (0, 0)


def test_the_tightest_deadline_is_anybodys():
    assert queue().earliest_deadline() == math.inf
    assert queue(waiting("a", 0, 5.0), waiting("b", 2, 3.0)).earliest_deadline() == 3.0


def test_those_of_a_lower_class_make_room_the_last_of_the_lowest_first():
    entries = [
        waiting("a", 0, 1.0), waiting("b", 1, 1.0), waiting("c", 1, 9.0), waiting("d", 2, 1.0),
    ]  # fmt: skip
    made = queue(*entries, limit=4)
    assert made.make_room(0, 0) == []
    assert names(made.make_room(1, 0)) == "d"
    assert made.make_room(1, 0) == []  # one has gone
    assert names(made.make_room(2, 0)) == "c"
    assert names(made) == "ab"
    assert made.volume == 40


def test_where_too_few_would_go_nobody_goes():
    made = queue(waiting("a", 0), waiting("b", 1), waiting("c", 2), limit=3)
    assert made.make_room(3, 0) is None
    assert names(made.make_room(1, 1)) == "c"
    made = queue(waiting("a", 0), waiting("b", 1), limit=2)
    assert made.make_room(1, 1) is None  # nobody is below
    assert made.make_room(1, 2) is None
    assert len(made) == 2


def test_more_at_once_than_the_queue_holds_never_fit():
    assert queue(limit=3).make_room(3, 0) == []
    assert queue(limit=3).make_room(4, 0) is None


def test_the_order_holds_after_some_have_made_room():
    entries = [waiting(name, i % 2, 9.0 - i) for i, name in enumerate("abcdefgh")]
    made = queue(*entries)
    assert names(made.make_room(2, 0)) == "bd"  # the latest deadlines of class 1
    assert names(made.take(ALL, always)) == "gecahf"


def test_who_is_not_wanted_any_more_leaves_with_his_cells():
    made = queue(waiting("a"), waiting("b", slates=3), waiting("c", 1), limit=3)
    asked = []

    def is_live(entry):
        asked.append(entry.future)
        return entry.future != "b"

    made.retain(is_live)
    assert sorted(asked) == ["a", "b", "c"]
    assert made.volume == 40
    assert made.make_room(1, 0) == []
    assert names(made.take(ALL, always)) == "ac"


@pytest.mark.parametrize(
    ("size", "bucket"),
    [(1, 32), (32, 32), (33, 64), (64, 64), (65, 128), (129, 256), (257, 512), (512, 512),
     (513, 513)],
)  # fmt: skip
def test_a_list_is_of_the_smallest_class_that_holds_it(size, bucket):
    assert waiting("a", size=size).bucket == bucket
    assert SIZES == (32, 64, 128, 256, 512)


def test_a_run_takes_the_first_and_those_of_its_size_class_and_the_rest_keep_their_order():
    made = queue(
        waiting("a", deadline=1.0, size=40),
        waiting("b", deadline=2.0, size=20),
        waiting("c", deadline=3.0, size=64),
        waiting("d", deadline=4.0, size=500),
        waiting("e", deadline=5.0, size=1),
        waiting("f", 1, deadline=0.0, size=33),
    )
    assert names(made.take(ALL, always)) == "acf"
    assert made.volume == 20 + 500 + 1
    assert names(made.take(ALL, always)) == "be"
    assert names(made.take(ALL, always)) == "d"


def test_a_run_takes_so_many_slates_and_a_sampled_list_counts_as_all_of_its_own():
    made = queue(
        waiting("a", deadline=1.0),
        waiting("b", deadline=2.0, slates=3),
        waiting("c", deadline=3.0, slates=2),
        waiting("d", deadline=4.0),
        waiting("e", deadline=5.0),
        waiting("f", deadline=6.0),
    )
    assert names(made.take(5, always)) == "abd"  # c has no room, d after it has
    assert names(made.take(4, always)) == "cef"
    assert made.volume == 0


def test_a_list_of_more_slates_than_a_run_takes_runs_alone():
    made = queue(waiting("a", deadline=1.0, slates=64), waiting("b", deadline=2.0))
    assert names(made.take(16, always)) == "a"
    assert names(made.take(16, always)) == "b"


def test_who_is_not_wanted_takes_no_place_in_a_run_and_is_asked_once():
    made = queue(*(waiting(name, deadline=i) for i, name in enumerate("abcde")))
    asked = []

    def is_live(entry):
        asked.append(entry.future)
        return entry.future not in "ac"

    assert names(made.take(2, is_live)) == "bd"
    assert asked == ["a", "b", "c", "d"]
    assert names(made) == "e"
    assert made.volume == 20
