"""The types of events that callers report about items, as a schema declares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.engine.features.schema_rules import SchemaError, is_finite, refuse_unknown

MAX_EVENT_TYPES = 64
MAX_TYPE_NAME = 256  # characters
FIELDS = {"label", "weight", "show"}
# Without a type of this name in the schema, passed-over items have a label of 0 and a weight of 1.
PASS = "pass"


@dataclass(frozen=True)
class EventType:
    """One type of events.

    label       of the answer that an event adds to its user's history, 0..1; None: it adds none
    weight      of an event in the counters of its item
    show        an event counts as a show of its item; false for one that follows another event
                about the same show, such as a purchase after a click
    """

    label: float | None = None
    weight: float = 1.0
    show: bool = True


DEFAULT_EVENTS: Mapping[str, EventType] = {"like": EventType(1.0), PASS: EventType(0.0)}


def parse_event_types(payload: Any) -> Mapping[str, EventType]:
    """Return the types of the entry `events` of a schema, the default ones for None.

    Raises SchemaError.
    """
    if payload is None:
        return DEFAULT_EVENTS
    if not isinstance(payload, Mapping) or not 0 < len(payload) <= MAX_EVENT_TYPES:
        rule = f"must be a mapping of 1 to {MAX_EVENT_TYPES} types"
        raise SchemaError(f"events: {rule}, got {payload!r}")
    return {name: _event_type(name, fields) for name, fields in payload.items()}


def _event_type(name: object, payload: Any) -> EventType:
    if not (isinstance(name, str) and 0 < len(name) <= MAX_TYPE_NAME):
        raise SchemaError(f"events: names must have 1 to {MAX_TYPE_NAME} characters, got {name!r}")
    refuse_unknown(payload, FIELDS, f"events.{name}")
    label, weight = payload.get("label"), payload.get("weight", 1.0)
    show = payload.get("show", True)
    for field, rule, value, valid in (
        ("label", "null or from 0 to 1", label, label is None or _is_label(label)),
        ("weight", "a finite number above 0", weight, is_finite(weight, above=0)),
        ("show", "true or false", show, isinstance(show, bool)),
    ):
        if not valid:
            raise SchemaError(f"events.{name}.{field}: must be {rule}, got {value!r}")
    return EventType(None if label is None else float(label), float(weight), show)


def _is_label(value: object) -> bool:
    return is_finite(value) and 0.0 <= value <= 1.0  # type: ignore[operator]
