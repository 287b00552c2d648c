"""Read explored decisions of one bundle and the feedback on them from a journal in files.

Feedback earns its label at the position of its item in the slate of its decision. An event that
names its request goes to that request; one that names only a user goes to the latest list of this
user with the item, if the caller allows it. All others are counted, and never guessed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model.offline.errors import OfflineError
from service.journal.errors import RecordError
from service.journal.frames import Frame
from service.journal.records import DecisionRecord, record_of
from service.journal.segments import segments_in

Array = np.ndarray[Any, Any]
Attribution = Literal["request", "user"]
MS_PER_HOUR = 3_600_000


@dataclass
class Log:
    """Explored decisions of one bundle, the oldest first, with their rewards.

    Args:
        records: the decisions.
        labels: of each decision, the highest label of an event by position.
        counts: decisions and events that were used, and those that were not, by reason.
    """

    records: list[DecisionRecord]
    labels: list[dict[int, float]]
    counts: Counter[str] = field(default_factory=Counter)

    def rewards(self, positions: int) -> Array:
        """Return the rewards float64 [R, K]."""
        rewards = np.zeros((len(self.records), positions))
        for number, labels in enumerate(self.labels):
            for position, label in labels.items():
                rewards[number, position] = label
        return rewards

    def users(self) -> Array:
        """Return the number of each list's user, int64 [R]; an anonymous list is one of its own."""
        numbers: dict[tuple[str, str], int] = {}
        keys = [("", r.record) if r.user is None else ("user", r.user) for r in self.records]
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def read_log(
    directory: Path,
    digest: str,
    last: int,
    types: Sequence[str] = (),
    attribution: Attribution = "request",
    window_h: float = 24.0,
) -> Log:
    """Read a journal twice: for its decisions, and then for the feedback on them.

    Args:
        directory: of the journal's segments.
        digest: SHA-256 of the manifest of the bundle whose decisions are read.
        last: decisions to keep, the latest; bounds the memory.
        types: of events that count; empty for all.
        attribution: request, or user for events that name no request too.
        window_h: hours after a decision within which an event without a request may be its.

    Raises:
        OfflineError: there is no such decision, or the journal cannot be read.
    """
    counts: Counter[str] = Counter()
    kept: deque[DecisionRecord] = deque(maxlen=last)
    for fields in fields_in(directory):
        if fields.get("kind") == "decision":
            reason = exclusion(fields, digest)
            counts[reason or "decisions"] += 1
            if reason is None:
                kept.append(decision_of(fields))
    if not kept:
        reasons = ", ".join(f"{name}: {count}" for name, count in counts.items()) or "no decision"
        raise OfflineError(
            f"{directory}: must have explored decisions of the bundle {digest[:12]}, got none "
            f"({reasons}); set RERANK_EXPLORE_SHARE above 0"
        )
    records = sorted(kept, key=lambda record: record.at)
    counts["decisions beyond the latest"] = counts["decisions"] - len(records)
    log = Log(records, [{} for _ in records], counts)
    touches = Touches(log, window_h) if attribution == "user" else None
    requests: defaultdict[str, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        requests[record.request_id].append(number)
    seen: set[int] = set()
    for fields in fields_in(directory):
        if fields.get("kind") == "decision":
            if touches is not None:
                touches.add(fields)
        elif fields.get("kind") == "event" and (not types or fields.get("type") in types):
            _add_event(log, fields, requests, touches, seen)
    if touches is not None:
        touches.settle()
    return log


def fields_in(directory: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the records of a journal as maps, in the order of the files.

    Raises OfflineError if the directory cannot be read.
    """
    try:
        for segment in segments_in(directory):
            for part in segment.read():
                if isinstance(part, Frame):
                    yield from (record for record in part.records if isinstance(record, dict))
    except FileNotFoundError as error:
        raise OfflineError(f"{error.filename}: no such journal; must be a directory") from None


def exclusion(fields: Mapping[str, Any], digest: str) -> str | None:
    """Return the reason for which a decision cannot be evaluated, None if it can."""
    policy = fields.get("policy") or {}
    if (fields.get("bundle") or {}).get("digest") != digest:
        return "of another bundle"
    if fields.get("degraded"):
        return "degraded"
    if policy.get("kind") != "explore":
        return f"of the policy {policy.get('kind')}"
    if policy.get("slates") != 1 or not fields.get("slate"):
        return "without an exact propensity"
    return None


def decision_of(fields: Mapping[str, Any]) -> DecisionRecord:
    """Return the record of a decision. Raises OfflineError for one of another form."""
    try:
        record = record_of(fields)
    except RecordError as error:
        raise OfflineError(f"journal: {error}") from None
    assert isinstance(record, DecisionRecord)
    return record


def identity(fields: Mapping[str, Any]) -> int | None:
    """Return the hash that records of one event share, None for an event without an id.

    An id is unique for its user, and without a user for its request.
    """
    event_id, user = fields.get("event_id"), fields.get("user")
    owner = ("user", user) if user is not None else ("request", fields.get("request_id"))
    return None if event_id is None else hash((owner, event_id))


def _add_event(
    log: Log,
    fields: Mapping[str, Any],
    requests: Mapping[str, Sequence[int]],
    touches: Touches | None,
    seen: set[int],
) -> None:
    """Count an event, and add its label to a list.

    The outcome `duplicate` excludes none: the journal may have lost the first record of its event.
    """
    event, label = identity(fields), fields.get("label")
    if event in seen:
        log.counts["events: duplicate"] += 1
    elif label is None:
        log.counts["events: without a label"] += 1
    elif fields.get("request_id") is not None:
        _add_by_request(log, fields, requests.get(fields["request_id"], ()))
    elif touches is None:
        log.counts["events: without a request"] += 1
    else:
        touches.events.append(fields)
    if event is not None:
        seen.add(event)


def _add_by_request(log: Log, fields: Mapping[str, Any], numbers: Sequence[int]) -> None:
    places = [
        (number, position)
        for number in numbers
        if fields.get("user") in (None, log.records[number].user)
        for position, candidate in enumerate(log.records[number].slate)
        if log.records[number].ids[candidate] == fields["item"]
    ]
    if len(places) == 1:
        _earn(log, *places[0], fields["label"])
    else:
        # A request id that several decisions share does not tell them apart.
        log.counts["events: ambiguous" if places else "events: of no such decision"] += 1


def _earn(log: Log, number: int, position: int, label: float) -> None:
    labels = log.labels[number]
    labels[position] = max(label, labels.get(position, label))
    log.counts["events"] += 1


class Touches:
    """The lists of the users of a log, to attribute events to the latest that has the item."""

    def __init__(self, log: Log, window_h: float) -> None:
        self.events: list[Mapping[str, Any]] = []
        self._log, self._window = log, window_h * MS_PER_HOUR
        self._numbers = {record.record: number for number, record in enumerate(log.records)}
        users = {record.user for record in log.records if record.user is not None}
        self._lists: dict[str, list[tuple[int, str, Sequence[str]]]] = {user: [] for user in users}

    def add(self, fields: Mapping[str, Any]) -> None:
        """Note a list of any policy: a later one takes the event, although it is not evaluated."""
        if fields.get("user") in self._lists:
            items = [fields["ids"][candidate] for candidate in fields["slate"]]
            self._lists[fields["user"]].append((fields["at"], fields["record"], items))

    def settle(self) -> None:
        """Attribute the events that name only a user."""
        for of_user in self._lists.values():
            of_user.sort(key=lambda entry: entry[0])
        for fields in self.events:
            place = self._place_of(fields)
            if place is None:
                self._log.counts["events: of no such decision"] += 1
            else:
                _earn(self._log, *place, fields["label"])

    def _place_of(self, fields: Mapping[str, Any]) -> tuple[int, int] | None:
        of_user = self._lists.get(fields.get("user") or "", [])
        at = fields["at"] if fields.get("time") is None else fields["time"]
        last = bisect_right(of_user, at, key=lambda entry: entry[0])
        for moment, record, items in reversed(of_user[:last]):
            if moment < at - self._window:
                return None
            if fields["item"] in items:
                number = self._numbers.get(record)
                return None if number is None else (number, items.index(fields["item"]))
        return None
