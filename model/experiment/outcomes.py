"""Outcomes of the users of an experiment, from the decisions and events of a journal.

The unit is the user, because a canary is chosen by user and the lists of a user are alike. Each
user has one outcome for each metric, over the lists within a window after the first one. Users are
ordered by the end of their window, so an outcome never changes once it is counted.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from model.experiment.errors import ExperimentError
from model.offline.journal import fields_in, identity

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Arms:
    """The two versions: SHA-256 of their manifests."""

    active: str
    canary: str


@dataclass(frozen=True)
class Span:
    """Times of an experiment, ms since 1970 UTC, and the lengths of the rules in ms.

    since: None for the canary's first list.
    """

    since: int | None
    until: int
    window: int
    settle: int


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of the users whose window and feedback are over, in the order in which that was.

    ended: int64 [U], ms since 1970 UTC; is_canary: bool [U]. reward, degraded, slow: float64 [U],
    means over the lists of a user. began: int, ms. crossed: users with lists of both versions,
    which are left out. counts: lists, events and users by fate.
    """

    ended: Array
    is_canary: Array
    reward: Array
    degraded: Array
    slow: Array
    began: int
    crossed: int
    counts: Mapping[str, int]


@dataclass
class Lists:
    """Columns of the lists of both versions, in the order of the journal."""

    at: array[int] = field(default_factory=lambda: array("q"))
    user: array[int] = field(default_factory=lambda: array("q"))
    is_canary: array[int] = field(default_factory=lambda: array("b"))
    degraded: array[int] = field(default_factory=lambda: array("b"))
    total_ms: array[float] = field(default_factory=lambda: array("d"))
    # One entry for each item of each slate: hash of request and item, and the number of the list.
    place: array[int] = field(default_factory=lambda: array("q"))
    of_list: array[int] = field(default_factory=lambda: array("q"))
    users: dict[str, int] = field(default_factory=dict)

    def add(self, fields: Mapping[str, Any], is_canary: bool) -> None:
        """Append a decision."""
        number, request, ids = len(self.at), fields["request_id"], fields["ids"]
        self.at.append(fields["at"])
        self.user.append(self.users.setdefault(fields["user"], len(self.users)))
        self.is_canary.append(is_canary)
        self.degraded.append(bool(fields["degraded"]))
        self.total_ms.append(fields["total_ms"])
        for candidate in fields["slate"]:
            self.place.append(hash((request, ids[candidate])))
            self.of_list.append(number)

    def is_of(self, user: str | None, number: int) -> bool:
        """True if an event that states this user, or none, may be about a list."""
        return user is None or self.users.get(user) == self.user[number]


def read_outcomes(
    journal: Path, arms: Arms, span: Span, types: Sequence[str], slow_ms: float
) -> Outcomes:
    """Read a journal twice: for the decisions of both versions, then for the feedback on them.

    Args:
        types: of events that count; empty for all.
        slow_ms: time in ms above which a list is slow.

    Raises ExperimentError if the canary has no list of a user.
    """
    counts: Counter[str] = Counter()
    lists = read_lists(journal, arms, span, counts)
    at, is_canary = np.array(lists.at, np.int64), np.array(lists.is_canary, np.bool_)
    if not is_canary.any():
        raise ExperimentError(
            f"{journal}: must have lists of the canary {arms.canary[:12]} that name a user, got "
            f"none ({', '.join(f'{name}: {n}' for name, n in counts.items()) or 'no decision'})"
        )
    began = int(at[is_canary].min()) if span.since is None else span.since
    reward = read_rewards(journal, lists, span, types, counts)
    kept = at >= began
    counts["lists before the experiment"] = int((~kept).sum())
    user = np.array(lists.user, np.int64)
    first = np.full(len(lists.users), span.until)
    np.minimum.at(first, user[kept], at[kept])
    kept &= at <= first[user] + span.window
    versions = np.zeros((len(lists.users), 2), np.bool_)
    versions[user[kept], is_canary[kept].astype(np.int64)] = True
    per_user = np.bincount(user[kept], minlength=len(first))
    ended = first + span.window + span.settle
    crossed = versions.all(axis=1)
    complete = (per_user > 0) & ~crossed & (ended <= span.until)
    counts["users that are not complete yet"] = int((ended[per_user > 0] > span.until).sum())
    order = np.flatnonzero(complete)
    order = order[np.argsort(ended[order], kind="stable")]

    def mean(values: Array) -> Array:
        totals = np.bincount(user[kept], values[kept], minlength=len(first))
        return np.asarray(totals[order] / per_user[order])

    return Outcomes(
        ended=ended[order],
        is_canary=versions[order, 1],
        reward=mean(reward),
        degraded=mean(np.array(lists.degraded, np.float64)),
        slow=mean((np.array(lists.total_ms) > slow_ms).astype(np.float64)),
        began=began,
        crossed=int(crossed.sum()),
        counts=dict(counts),
    )


def read_lists(journal: Path, arms: Arms, span: Span, counts: Counter[str]) -> Lists:
    """Read the lists of both versions up to the end, and count those that are left out."""
    lists, versions = Lists(), {arms.active: False, arms.canary: True}
    for fields in fields_in(journal):
        if fields.get("kind") != "decision" or fields["at"] > span.until:
            continue
        is_canary = versions.get(fields["bundle"]["digest"])
        if is_canary is None:
            counts["lists of other versions"] += 1
        elif fields["user"] is None:  # always answered by the active version
            counts["lists without a user"] += 1
        else:
            counts["lists"] += 1
            lists.add(fields, is_canary)
    return lists


def read_rewards(
    journal: Path, lists: Lists, span: Span, types: Sequence[str], counts: Counter[str]
) -> Array:
    """Return the reward of each list, float64 [R]: the sum of its items' highest labels.

    An event counts for the list that its request names, if it comes while the list's feedback is
    awaited. All others are counted by reason.
    """
    order = np.argsort(np.array(lists.place, np.int64), kind="stable")
    places, numbers = np.array(lists.place, np.int64)[order], np.array(lists.of_list)[order]
    labels: dict[int, float] = {}  # by entry of places
    seen: set[int] = set()
    for fields in fields_in(journal):
        if fields.get("kind") != "event" or (types and fields.get("type") not in types):
            continue
        event = identity(fields)
        reason = exclusion(fields, event, seen)
        if reason is None:
            key = hash((fields["request_id"], fields["item"]))
            first, last = (int(np.searchsorted(places, key, side)) for side in ("left", "right"))
            if last - first != 1:
                reason = "of no such list" if first == last else "ambiguous"
            elif fields["at"] > lists.at[numbers[first]] + span.settle:
                reason = "late"  # by its arrival, so that no outcome changes after it is counted
            elif not lists.is_of(fields.get("user"), numbers[first]):
                reason = "of another user"
        counts[f"events: {reason}" if reason else "events"] += 1
        if reason is None:
            labels[first] = max(fields["label"], labels.get(first, 0.0))
            if event is not None:
                seen.add(event)
    reward = np.zeros(len(lists.at))
    for entry, label in labels.items():
        reward[numbers[entry]] += label
    return reward


def exclusion(fields: Mapping[str, Any], event: int | None, seen: set[int]) -> str | None:
    """Return the reason for which an event is left out, None if it may count.

    The outcome `duplicate` is none: a worker that was killed before the journal's flush has lost
    the first record of an event that the store had kept, and a repetition has its place.

    Args:
        event: identity of the event.
        seen: identities of the events that count.
    """
    if event in seen:
        return "duplicate"
    if fields.get("label") is None:
        return "without a label"
    if fields.get("request_id") is None:
        return "without a request"
    return None
