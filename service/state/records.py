"""Entities as lines of files and bodies: parse and check them, merge them into the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.engine.features.ids import read_id
from service.engine.features.schema_rules import is_finite
from service.state.engine import Key, Value, encode_id
from service.state.entities import (
    MAX_TYPES,
    UNKNOWN_SCHEMA,
    Answers,
    Counter,
    Item,
    User,
    entity_to_change,
    pack_history,
    user_blob,
)
from service.state.errors import EntityError

MAX_NAME = 256  # characters of the name of a feature, statistic or type
MAX_FEATURES = 1000
MAX_TIME = 1 << 53  # ms; beyond, JSON numbers are not exact
VALUE_RULE = "a number, a text, true or false, or a list of numbers or of texts"
TIME_RULE = "a whole number of ms since 1970 UTC"
FIELDS = {
    "user": {"user", "features", "history", "updated_at", "expires_at"},
    "item": {"item", "features", "counters", "updated_at", "expires_at"},
}
FIELDS_OF_ANSWER = ("id", "label", "type", "time")
ENTRY_FIELDS = set(FIELDS_OF_ANSWER)
COUNTER_FIELDS = {"shows", "likes", "time"}


@dataclass(slots=True)
class Record:
    """A partial update of an entity. None leaves a part as it is.

    A feature or counter of None is removed; `expires_at` is set only where it was stated. history:
    the answers, once they are packed.
    """

    key: Key
    features: Mapping[str, Any] | None
    answers: Answers | None
    counters: Mapping[str, Counter | None] | None
    updated_at: int | None
    expires_at: int | None
    history: bytes | None = None

    def pack(self, limit: int) -> None:
        """Pack the last `limit` answers, which then take a tenth of the memory.

        Raises EntityError for too many types.
        """
        if self.answers is not None:
            self.history, self.answers = pack_history(self.answers.last(limit)), None

    def merged(
        self, blob: bytes | None, now: int, limit: int, fingerprint: bytes = UNKNOWN_SCHEMA
    ) -> Value:
        """Return the new value of the entity.

        Args:
            blob: the old value, None if absent.
            now: time of the change in ms, unless the record has one.
            limit: most answers that a user keeps.
            fingerprint: of the schema that the features of the record were checked against.

        Raises StateNewer as `entity_to_change`.
        """
        updated_at = now if self.updated_at is None else self.updated_at
        if self.key.kind == "user":
            user = entity_to_change(User, blob)
            features = merged_values(user.features, self.features)
            history = self.history
            if history is None:
                answers = user.answers if self.answers is None else self.answers
                history = pack_history(answers.last(limit))
            fingerprint = _fingerprint(blob, user, fingerprint)
            return Value(user_blob(features, history, updated_at, fingerprint), self.expires_at)
        item = entity_to_change(Item, blob)
        item.features = merged_values(item.features, self.features)
        item.counters = merged_values(item.counters, self.counters)
        item.updated_at, item.fingerprint = updated_at, _fingerprint(blob, item, fingerprint)
        return Value(item.to_blob(), self.expires_at)


def _fingerprint(blob: bytes | None, entity: User | Item, fingerprint: bytes) -> bytes:
    """Return the fingerprint of old and new features together."""
    return fingerprint if blob is None or entity.fingerprint == fingerprint else UNKNOWN_SCHEMA


def merged_values(old: dict[str, Any], new: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the old values with the new ones, without those that are None."""
    if not new:
        return old
    return {name: value for name, value in {**old, **new}.items() if value is not None}


def parse_record(payload: Any) -> Record:
    """Return the record of a decoded line. Raises EntityError naming field, rule and value."""
    if not isinstance(payload, dict):
        raise EntityError("line", "an object", payload)
    kinds = [kind for kind in FIELDS if kind in payload]
    if len(kinds) != 1:
        raise EntityError("line", "one of the fields user and item", sorted(map(str, payload))[:5])
    kind = kinds[0]
    for name in payload:
        if name not in FIELDS[kind]:
            rule = f"unknown field; must be one of {', '.join(sorted(FIELDS[kind]))}"
            raise EntityError(str(name), rule, payload[name])
    key = Key("user" if kind == "user" else "item", _id(payload[kind], kind))
    encode_id(key)
    history, counters = payload.get("history"), payload.get("counters")
    return Record(
        key,
        features=_features(payload.get("features")),
        answers=None if history is None else _answers(history),
        counters=None if counters is None else _counters(counters),
        updated_at=_time(payload.get("updated_at"), "updated_at"),
        expires_at=_time(payload.get("expires_at"), "expires_at"),
    )


def _id(value: Any, path: str) -> str:
    try:
        return str(read_id(value))
    except ValueError:
        raise EntityError(path, "a text that is not blank, or a whole number", value) from None


def _time(value: Any, path: str) -> int | None:
    if value is None or (type(value) is int and 0 <= value < MAX_TIME):
        return value
    raise EntityError(path, TIME_RULE, value)


def _features(payload: Any) -> dict[str, Any] | None:
    if payload is None:
        return None
    if not isinstance(payload, dict) or len(payload) > MAX_FEATURES:
        raise EntityError("features", f"an object of at most {MAX_FEATURES} values", payload)
    for name, value in payload.items():
        if not _is_name(name):
            raise EntityError("features", f"names of 1 to {MAX_NAME} characters", name)
        if not (value is None or _is_value(value)):
            raise EntityError(f"features.{name}", VALUE_RULE, value)
    return payload


def _is_value(value: Any) -> bool:
    if isinstance(value, str | bool) or is_finite(value):
        return True
    if type(value) is not list:
        return False
    return all(type(entry) is str for entry in value) or all(is_finite(entry) for entry in value)


def _answers(payload: Any) -> Answers:
    """Return the answers of a history: ids or objects as in a request, or a list per field."""
    if isinstance(payload, dict):
        answers = _answers_of_columns(payload)
    elif isinstance(payload, list):
        answers = _valid_objects(payload) or _answers_of_entries(payload)
    else:
        raise EntityError("history", "a list, or an object of lists", payload)
    kinds = len(set(answers.types) - {None})
    if kinds > MAX_TYPES:
        raise EntityError("history", f"at most {MAX_TYPES} distinct types", kinds)
    return answers


def _answers_of_entries(payload: list[Any]) -> Answers:
    entries = [_answer(entry, f"history[{index}]") for index, entry in enumerate(payload)]
    return Answers(*map(list, zip(*entries, strict=True))) if entries else Answers()


def _answers_of_columns(payload: dict[Any, Any]) -> Answers:
    columns = {name: column for name, column in payload.items() if column is not None}
    items = columns.get("id")
    if not isinstance(items, list):
        raise EntityError("history.id", "a list", items)
    for name, column in columns.items():
        if name not in ENTRY_FIELDS:
            rule = f"unknown field; must be one of {', '.join(sorted(ENTRY_FIELDS))}"
            raise EntityError(f"history.{name}", rule, column)
        if not isinstance(column, list) or len(column) != len(items):
            rule = f"a list as long as id, which has {len(items)}"
            raise EntityError(f"history.{name}", rule, column)
    absent = [None] * len(items)
    columns.setdefault("label", [1.0] * len(items))
    answers = _valid(*(columns.get(name, absent) for name in FIELDS_OF_ANSWER))
    if answers is not None:
        return answers
    rows = zip(*columns.values(), strict=True)
    return _answers([dict(zip(columns, row, strict=True)) for row in rows])


def _valid_objects(payload: list[Any]) -> Answers | None:
    """Return the answers of objects that are valid as they are, else None."""
    if set(map(type, payload)) != {dict} or not set().union(*payload) <= ENTRY_FIELDS:
        return None
    return _valid(*([entry.get(name) for entry in payload] for name in FIELDS_OF_ANSWER))


def _valid(
    items: list[Any], labels: list[Any], types: list[Any], times: list[Any]
) -> Answers | None:
    """Return the answers of columns that are valid as they are, else None.

    Checks of whole columns take a fifth of the time of `_answer` for each entry.
    """
    try:
        if not items or "" in items or list(map(str.strip, items)) != items:
            return None
        if not all(kind is None or _is_name(kind) for kind in set(types)):
            return None
    except TypeError:  # an id that is no text, or a type that has no hash
        return None
    if set(map(type, labels)) != {float} or not all(0.0 <= one <= 1.0 for one in set(labels)):
        return None
    kinds = set(map(type, times))
    moments = times if kinds == {int} else [time for time in times if time is not None]
    if moments and (not kinds <= {int, type(None)} or not _are_times(moments)):
        return None
    return Answers(items, labels, types, times)


def _are_times(moments: list[int]) -> bool:
    return min(moments) >= 0 and max(moments) < MAX_TIME


def _answer(entry: Any, path: str) -> tuple[str, float, str | None, int | None]:
    """Return item, label, type and time of an entry. Raises EntityError."""
    if not isinstance(entry, dict):
        return _id(entry, f"{path}.id"), 1.0, None, None
    for name in entry:
        if name not in ENTRY_FIELDS:
            rule = f"unknown field; must be one of {', '.join(sorted(ENTRY_FIELDS))}"
            raise EntityError(f"{path}.{name}", rule, entry[name])
    label, kind = entry.get("label"), entry.get("type")
    if label is None:
        label = 1.0  # as in a request: an id alone counts as liked
    elif type(label) not in (float, int) or not 0.0 <= label <= 1.0:
        raise EntityError(f"{path}.label", "a number from 0 to 1", label)
    if kind is not None and not _is_name(kind):
        raise EntityError(f"{path}.type", f"a text of 1 to {MAX_NAME} characters", kind)
    item = _id(entry.get("id"), f"{path}.id")
    return item, float(label), kind, _time(entry.get("time"), f"{path}.time")


def _is_name(value: object) -> bool:
    return type(value) is str and 0 < len(value) <= MAX_NAME


def _counters(payload: Any) -> dict[str, Counter | None]:
    if not isinstance(payload, dict) or len(payload) > MAX_FEATURES:
        raise EntityError("counters", f"an object of at most {MAX_FEATURES} counters", payload)
    counters: dict[str, Counter | None] = {}
    for name, entry in payload.items():
        if not _is_name(name):
            raise EntityError("counters", f"names of 1 to {MAX_NAME} characters", name)
        path = f"counters.{name}"
        if entry is None:
            counters[name] = None
            continue
        if not isinstance(entry, dict) or entry.keys() != COUNTER_FIELDS:
            raise EntityError(path, "an object with shows, likes and time", entry)
        shows, likes = entry["shows"], entry["likes"]
        if not (is_finite(shows) and is_finite(likes) and 0 <= likes <= shows):
            raise EntityError(path, "numbers with 0 <= likes <= shows", entry)
        time = _time(entry["time"], f"{path}.time")
        if time is None:
            raise EntityError(f"{path}.time", TIME_RULE, None)
        counters[name] = Counter(float(shows), float(likes), time)
    return counters


def record_of(key: Key, value: Value) -> dict[str, Any]:
    """Return the line of an entity, which `parse_record` reads. Raises EntityError."""
    record: dict[str, Any] = {key.kind: key.id}
    entity: User | Item
    if key.kind == "user":
        entity = user = User.from_blob(value.blob)
        answers = user.answers
        columns = answers.items, answers.labels, answers.types, answers.times
        history = dict(zip(FIELDS_OF_ANSWER, map(list, columns), strict=True))
        record |= {"features": user.features, "history": history}
    else:
        entity = item = Item.from_blob(value.blob)
        counters = {name: counter._asdict() for name, counter in item.counters.items()}
        record |= {"features": item.features, "counters": counters}
    record["updated_at"] = entity.updated_at
    if value.expires_at is not None:
        record["expires_at"] = value.expires_at
    return record
