"""Bodies that mean the same in another form, and bodies with a repeated key."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ormsgpack
from hypothesis import strategies as st

from loadtest.fuzz.bodies import MARK
from loadtest.fuzz.ids import float_id, integer_id, with_ids
from loadtest.fuzz.messages import MSGPACK, Message

# Schema of the OpenAPI document for each object in a list's body.
OBJECTS = {
    "user": "User", "reasoning": "Reasoning", "temperatures": "Temperatures",
    "sampling": "Sampling", "constraints": "Constraints",
}  # fmt: skip
Optional = Mapping[str, Sequence[str]]  # schema -> names of its optional fields


def optional_fields(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the optional fields of every object schema in an OpenAPI document, by its name."""
    return {
        name: sorted(fields.keys() - set(schema.get("required", ())))
        for name, schema in document["components"]["schemas"].items()
        for fields in [_object_of(schema).get("properties", {})]
    }


def _object_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the object among the alternatives of a schema, else the schema."""
    return next((s for s in schema.get("anyOf", ()) if s.get("type") == "object"), schema)


def with_nulls(body: dict[str, Any], optional: Optional) -> dict[str, Any]:
    """Return a copy of a list's body with null for every optional field that it lacks."""
    body = copy.deepcopy(body)
    for schema, value in list(_objects(body)):  # before nulls hide the objects
        for name in optional.get(schema, ()):
            value.setdefault(name, None)
    return body


def _objects(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a list's body with the names of their schemas."""
    yield "RerankRequest", body
    for name, schema in OBJECTS.items():
        if isinstance(body.get(name), dict):
            yield schema, body[name]
    diversity = body.get("diversity")
    terms = diversity if isinstance(diversity, list) else [diversity]
    yield from (("Diversity", term) for term in terms if isinstance(term, dict))
    candidates = body["candidates"]
    if isinstance(candidates, dict):
        yield "CandidateColumns", candidates
    else:
        yield from (("Candidate", entry) for entry in candidates if isinstance(entry, dict))
    history = (body.get("user") or {}).get("history") or ()
    yield from (("HistoryEntry", entry) for entry in history if isinstance(entry, dict))


# Forms in which the body of a list means the same.
FORMS: tuple[Callable[[dict[str, Any], Optional], dict[str, Any]], ...] = (
    lambda body, _: with_ids(body, integer_id),
    lambda body, _: with_ids(body, float_id),
    with_nulls,
)


def packed(message: Message, payload: Any) -> Message:
    """Return the message with its body in MessagePack."""
    return Message(
        message.method, message.target, (("Content-Type", MSGPACK),), ormsgpack.packb(payload)
    )


@st.composite
def with_repeated_key(draw: st.DrawFn, body: st.SearchStrategy[Any]) -> bytes:
    """Return a valid body in which one object has a key twice, with two values or one."""
    payload = draw(body)
    places = [value for value in _containers(payload) if value]
    holder = draw(st.sampled_from(places))
    key = draw(st.sampled_from(sorted(holder)))
    change: Callable[[Any], Any] = altered if draw(st.booleans()) else copy.deepcopy
    values = [holder[key], change(holder[key])]
    first, second = values if draw(st.booleans()) else values[::-1]
    holder[key] = MARK
    text = json.dumps(payload)
    pair = f"{json.dumps(first)}, {json.dumps(key)}: {json.dumps(second)}"
    return text.replace(f'"{MARK}"', pair).encode()


def _containers(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a body; of a list only those in its first three entries."""
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else ()
    for entry in value[:3] if isinstance(value, list) else inner:
        yield from _containers(entry)


def altered(value: Any) -> Any:
    """Return another value of the same type; null stays."""
    match value:
        case bool():
            return not value
        case int():
            return value - 1 if value > 1 else value + 1
        case float():
            return value / 2
        case str():
            return value[:-1] + "y" if value[-1:] != "y" else "z"
        case list():
            return value[1:]
        case dict():
            return {}
    return value
