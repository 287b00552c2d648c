"""Decayed counters of items: the one place that ages them, adds to them and begins them.

The shows and likes of a counter are as of its time. Training decays its counts by the same law, so
a counter continues the counts of a bundle.
"""

from __future__ import annotations

from service.engine.features.snapshot import Snapshot
from service.state.entities import Counter


def decayed(counter: Counter, now: int, half_life: int | None) -> Counter:
    """Return the counter as of `now`; unchanged if that is before its time.

    Args:
        counter: of one statistic.
        now: time in ms since 1970 UTC.
        half_life: in ms; None for counts that stay.
    """
    if now <= counter.time:
        return counter
    weight = _weight(now - counter.time, half_life)
    return Counter(counter.shows * weight, counter.likes * weight, now)


def added(counter: Counter, shows: float, likes: float, at: int, half_life: int | None) -> Counter:
    """Return the counter with shows and likes that happened at a time, in any order of times.

    The counter is as of the later one of both times.

    Args:
        counter: of one statistic.
        shows: at least 0.
        likes: from 0 to `shows`.
        at: time in ms since 1970 UTC.
        half_life: in ms; None for counts that stay.
    """
    aged = decayed(counter, at, half_life)
    weight = _weight(aged.time - at, half_life)  # of an event that arrives late
    return Counter(aged.shows + shows * weight, aged.likes + likes * weight, aged.time)


def seed(snapshot: Snapshot | None, statistic: str, row: int) -> Counter | None:
    """Return the counter that continues the counts of a bundle, as of their moment.

    None if the bundle has no counts of the statistic: it must have no counter then, or the counts
    of the first bundle that has some would be ignored.

    Args:
        snapshot: of the bundle.
        statistic: name of the feature.
        row: of the item in the bundle's table; an item that the table lacks has no shows.
    """
    counts = None if snapshot is None else snapshot.statistics.get(statistic)
    if snapshot is None or counts is None:
        return None
    as_of = snapshot.as_of or 0  # counts of a log without time stay
    if row >= len(counts.shows):
        return Counter(0.0, 0.0, as_of)
    return Counter(float(counts.shows[row]), float(counts.likes[row]), as_of)


def _weight(elapsed: int, half_life: int | None) -> float:
    return 1.0 if half_life is None else 2.0 ** (-elapsed / half_life)
