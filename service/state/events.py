"""Events that callers report: parse and check them, and apply them to users and items."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from service.engine.features.durations import to_ms
from service.engine.features.event_types import PASS, EventType
from service.engine.features.featuriser import Featuriser
from service.engine.features.ids import read_id
from service.engine.features.schema_rules import is_finite
from service.state.counters import added, seed
from service.state.engine import KEEP_EXPIRY, MARK_BYTES, Key, Value, encode_id
from service.state.entities import (
    Answers,
    Counter,
    Item,
    User,
    entity_to_change,
    fingerprint_of,
    with_answers,
)
from service.state.errors import EntityError
from service.state.records import TIME_RULE

MAX_SHOWN = 1000  # items in the field `shown` of an event
MAX_AHEAD_MS = 60_000  # of the service's clock
MAX_CHARACTERS = 256  # of an id, as in requests
MAX_REQUEST_CHARACTERS = 128  # of a request id, as in requests
MAX_POSITION = 1 << 31
FIELDS = {
    "event_id", "user", "item", "type", "time", "label", "shown", "request_id", "position", "value",
}  # fmt: skip
ID_TEXT_RULE = f"a text of 1 to {MAX_CHARACTERS} characters that is not blank, or an integer"


@dataclass(slots=True)
class Event:
    """One checked event.

    user        None only with a request_id: then it moves counters of items alone
    type        name of its type in the schema
    time        in ms since 1970 UTC
    label       of the answer, 0..1; None: it adds no answer
    shows       items that were displayed with it and got no event of their own, as passed over
    order       of the answers: items of `shows` and the event's own, in the order of display
    request_id  of the list that it is about; position in its slate, from 0; value: as stated, such
                as a price. The store does not read the three, the journal keeps them.
    """

    event_id: str
    user: str | None
    item: str
    type: str
    time: int
    label: float | None
    shows: Sequence[str] = ()
    order: Sequence[str] = ()
    request_id: str | None = None
    position: int | None = None
    value: float | None = None
    displays: bool = False  # `order` is the display as the event states it

    def mark(self) -> bytes:
        """Return the mark by which a repetition is noticed: of the user and the event's id.

        Without a user, of the request and the event's id.
        """
        kind, owner = ("", self.user) if self.user is not None else ("r", str(self.request_id))
        text = f"{kind}{len(owner)}:{owner}{self.event_id}".encode()
        return hashlib.blake2b(text, digest_size=MARK_BYTES).digest()

    def entities(self) -> list[Key]:
        """Return the entities that it changes: the user, the item, and the items passed over."""
        of_items = [Key("item", item) for item in (self.item, *self.shows)]
        return of_items if self.user is None else [Key("user", self.user), *of_items]


@dataclass(frozen=True)
class CountedStatistic:
    """A statistic whose counters events move; half_life in ms, None for counts that stay."""

    name: str
    half_life: int | None


class EventRules:
    """The meaning of events for the store, by the schema and the counts of a bundle."""

    def __init__(self, featuriser: Featuriser, limit: int) -> None:
        """Read the rules of a bundle.

        Args:
            featuriser: of the bundle.
            limit: most answers that a user keeps.
        """
        self.types: Mapping[str, EventType] = featuriser.schema.events
        self.featuriser, self.limit = featuriser, limit
        self._rows, self._snapshot = featuriser.find, featuriser.snapshot
        self._fingerprint = fingerprint_of(featuriser.schema)
        counts = {} if self._snapshot is None else self._snapshot.statistics
        self._statistics = [
            CountedStatistic(
                feature.name,
                counts[feature.name].half_life
                if feature.name in counts
                else to_ms(feature.half_life)
                if feature.half_life is not None
                else None,
            )
            for feature in featuriser.schema.features
            if feature.kind == "statistic"
        ]
        self._passed = self.types.get(PASS, EventType(0.0))
        self._gain = lru_cache(1024)(lambda label: float(featuriser.schema.label.gain(label)))

    def parse(self, payload: Any, now: int) -> Event:
        """Return the event of a decoded object. Raises EntityError naming field, rule and value.

        now: time in ms since 1970 UTC; of an event that states none.
        """
        if not isinstance(payload, dict):
            raise EntityError("", "an object", payload)
        if not payload.keys() <= FIELDS:
            name = next(name for name in payload if name not in FIELDS)
            rule = f"unknown field; must be one of {', '.join(sorted(FIELDS))}"
            raise EntityError(str(name), rule, payload[name])
        event_id = _id(payload.get("event_id"), "event_id")
        request_id = _request_id(payload.get("request_id"))
        user = None
        if payload.get("user") is not None or request_id is None:
            user = _entity(payload.get("user"), "user", "user")
        item = _entity(payload.get("item"), "item", "item")
        name = payload.get("type")
        if type(name) is not str or name not in self.types:
            raise EntityError("type", f"one of {', '.join(self.types)}", name)
        label = self._label(payload.get("label"), self.types[name])
        time = _time(payload.get("time"), now)
        about = request_id, _position(payload, request_id), _value(payload.get("value"))
        displayed = payload.get("shown")
        if displayed is None:
            return Event(event_id, user, item, name, time, label, (), (item,), *about)
        order = _displayed(displayed)
        shows = [other for other in order if other != item]
        if len(shows) == len(order):
            order.append(item)
        return Event(event_id, user, item, name, time, label, shows, order, *about, bool(displayed))

    def _label(self, label: Any, kind: EventType) -> float | None:
        if label is None:
            return kind.label
        if kind.label is None:
            raise EntityError("label", "absent for a type that adds no answer", label)
        if not (is_finite(label) and 0.0 <= label <= 1.0):
            raise EntityError("label", "a number from 0 to 1", label)
        return float(label)

    def user_after(self, blob: bytes | None, event: Event, now: int) -> Value:
        """Return the user of an event with its answers, in their place by time."""
        acted, passed = (event.label, event.type), (self._passed.label, PASS)
        stated = ((item, *(acted if item == event.item else passed)) for item in event.order)
        answers = [(item, label, kind) for item, label, kind in stated if label is not None]
        appended = None
        if blob is not None:
            appended = with_answers(blob, answers, event.time, self.limit, now)
        if appended is None:
            appended = self._with_late_answers(blob, answers, event.time, now)
        return Value(appended, KEEP_EXPIRY)

    def _with_late_answers(
        self, blob: bytes | None, answers: Sequence[tuple[str, float, str]], time: int, now: int
    ) -> bytes:
        user = entity_to_change(User, blob)
        if blob is None:
            user.fingerprint = self._fingerprint
        user.answers = inserted(user.answers, answers, time).last(self.limit)
        user.updated_at = max(user.updated_at, now)
        try:
            return user.to_blob()
        except EntityError:  # more types than a history has room for
            user.answers.types = [None] * len(user.answers.items)
            return user.to_blob()

    def item_after(self, blob: bytes | None, event: Event, key: Key, now: int) -> Value | None:
        """Return an item of an event with its counters moved, None if it has none that move."""
        item = entity_to_change(Item, blob)
        if blob is None:
            item.fingerprint, item.updated_at = self._fingerprint, now
        kind, label = self._passed, self._passed.label
        if key.id == event.item:
            kind, label = self.types[event.type], event.label
        shows, likes = kind.weight * kind.show, kind.weight * self._gain(label or 0.0)
        row: int | None = None
        before = dict(item.counters)
        for statistic in self._statistics:
            counter = item.counters.get(statistic.name)
            if counter is None:
                if row is None:
                    row = int(self._rows([key.id])[0])
                counter = seed(self._snapshot, statistic.name, row)
                if counter is None:
                    continue
            moved = added(counter, shows, likes, event.time, statistic.half_life)
            # An event that is no show adds likes alone; there are no more of them than shows.
            item.counters[statistic.name] = Counter(
                moved.shows, min(moved.likes, moved.shows), moved.time
            )
        return None if item.counters == before else Value(item.to_blob(), KEEP_EXPIRY)


def inserted(answers: Answers, new: Sequence[tuple[str, float, str]], time: int) -> Answers:
    """Return answers with new ones of one time behind those that are not later.

    An answer without a time counts as earlier.
    """
    if not new:
        return answers
    at = len(answers.items)
    times = answers.times
    while at and (before := times[at - 1]) is not None and before > time:
        at -= 1
    items, labels, types = zip(*new, strict=True)
    return Answers(
        [*answers.items[:at], *items, *answers.items[at:]],
        [*answers.labels[:at], *labels, *answers.labels[at:]],
        [*answers.types[:at], *types, *answers.types[at:]],
        [*times[:at], *[time] * len(new), *times[at:]],
    )


def _id(value: Any, path: str) -> str:
    try:
        item = str(read_id(value))
    except ValueError:
        raise EntityError(path, ID_TEXT_RULE, value) from None
    if len(item) > MAX_CHARACTERS:
        raise EntityError(path, ID_TEXT_RULE, value)
    return item


def _entity(value: Any, path: str, kind: Any) -> str:
    item = _id(value, path)
    try:
        encode_id(Key(kind, item))
    except EntityError as error:
        raise EntityError(path, error.rule, value) from None
    return item


def _time(value: Any, now: int) -> int:
    if value is None:
        return now
    if type(value) is not int or value < 0:
        raise EntityError("time", TIME_RULE, value)
    if value > now + MAX_AHEAD_MS:
        rule = f"{TIME_RULE}, at most {MAX_AHEAD_MS // 1000} s ahead of the service's clock"
        raise EntityError("time", rule, value)
    return value


def _request_id(value: Any) -> str | None:
    """Return the id of a request as it was answered; no blanks are taken off."""
    if value is None:
        return None
    if type(value) is not str or not 0 < len(value) <= MAX_REQUEST_CHARACTERS:
        rule = f"the request_id of a response, a text of 1 to {MAX_REQUEST_CHARACTERS} characters"
        raise EntityError("request_id", rule, value)
    return value


def _position(payload: Mapping[str, Any], request_id: str | None) -> int | None:
    value = payload.get("position")
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < MAX_POSITION:
        raise EntityError("position", "a whole number from 0 on, the place in the slate", value)
    if request_id is None:
        raise EntityError("position", "absent without the request_id of its slate", value)
    return value


def _value(value: Any) -> float | None:
    if value is None:
        return None
    if not is_finite(value):
        raise EntityError("value", "a finite number", value)
    return float(value)


def _displayed(payload: Any) -> list[str]:
    """Return the distinct items of a list in order."""
    if type(payload) is not list or len(payload) > MAX_SHOWN:
        raise EntityError("shown", f"a list of at most {MAX_SHOWN} ids", payload)
    items = [_entity(each, f"shown[{index}]", "item") for index, each in enumerate(payload)]
    return list(dict.fromkeys(items))
