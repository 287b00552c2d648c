"""Calls about users, items and events, without their I/O; see rerank_client.dispatch."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from rerank_client.checks import ItemId, as_list, as_mapping, check_id, id_text
from rerank_client.dispatch import Dispatcher, HttpResponse, Steps
from rerank_client.errors import Failed, Refused
from rerank_client.requests import encode

Kind = Literal["user", "item"]

BATCH = 1000  # records or events of one request
NDJSON = "application/x-ndjson"
JSON = "application/json"
UNKNOWN = "unknown_entity"  # the code of the service for a user that its store does not have


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """A record or event that the service refused, while it kept the others.

    index: its place in the arguments, from 0. field, rule, value: as in FieldProblem.
    """

    index: int
    field: str
    rule: str
    value: str


@dataclass(frozen=True, slots=True)
class PutResult:
    """The outcome of put_users and put_items.

    refused names at most the first 20 of every 1,000 records; refused_count counts all.
    """

    written: int
    refused_count: int
    refused: tuple[RefusedRecord, ...]


@dataclass(frozen=True, slots=True)
class FeedbackResult:
    """The outcome of feedback: numbers of new events and of those that were already kept."""

    accepted: int
    duplicates: int
    refused: tuple[RefusedRecord, ...]


def feedback_call(
    dispatcher: Dispatcher, events: Iterable[Mapping[str, Any]], timeout_ms: float | None
) -> Steps[FeedbackResult]:
    """Prepare calls of POST /feedback.

    An event without an id gets one now, so that every attempt sends the same.
    """
    bodies = [
        encode({"events": [_event(event, start + place) for place, event in enumerate(batch)]})
        for start, batch in _batches("events", events)
    ]
    calls = [dispatcher.request("POST", "/feedback", body, JSON, timeout_ms) for body in bodies]

    def steps() -> Steps[FeedbackResult]:
        accepted, duplicates, refused = 0, 0, list[RefusedRecord]()
        for number, call in enumerate(calls):
            response = yield from call
            with _readable(response) as payload:
                accepted += payload["accepted"]
                duplicates += payload["duplicates"]
                refused += _refused(payload["refused"], "index", number * BATCH)
        return FeedbackResult(accepted, duplicates, tuple(refused))

    return steps()


def put_call(
    dispatcher: Dispatcher,
    kind: Kind,
    records: Iterable[Mapping[str, Any]],
    check: bool,
    timeout_ms: float | None,
) -> Steps[PutResult]:
    """Prepare calls of PUT /users or /items, with a line per record."""
    path = f"/{kind}s" if check else f"/{kind}s?check=false"
    bodies = [
        b"\n".join(_line(record, f"records[{start + place}]") for place, record in enumerate(batch))
        for start, batch in _batches("records", records)
    ]
    calls = [dispatcher.request("PUT", path, body, NDJSON, timeout_ms) for body in bodies]

    def steps() -> Steps[PutResult]:
        written, refused_count, refused = 0, 0, list[RefusedRecord]()
        for number, call in enumerate(calls):
            response = yield from call
            with _readable(response) as payload:
                written += payload["written"]
                refused_count += payload["refused_count"]
                refused += _refused(payload["refused"], "line", number * BATCH - 1)
        return PutResult(written, refused_count, tuple(refused))

    return steps()


def read_call(
    dispatcher: Dispatcher, user: ItemId, timeout_ms: float | None
) -> Steps[dict[str, Any] | None]:
    """Prepare a call of GET /users/ID; None for a user that the store does not have."""
    call = dispatcher.request("GET", _path(user), b"", None, timeout_ms)

    def steps() -> Steps[dict[str, Any] | None]:
        try:
            response = yield from call
        except Refused as refused:
            if refused.code != UNKNOWN:
                raise
            return None
        with _readable(response) as record:
            return record

    return steps()


def forget_call(dispatcher: Dispatcher, user: ItemId, timeout_ms: float | None) -> Steps[None]:
    """Prepare a call of DELETE /users/ID."""
    call = dispatcher.request("DELETE", _path(user), b"", None, timeout_ms)

    def steps() -> Steps[None]:
        yield from call

    return steps()


def _batches(field: str, values: object) -> Iterator[tuple[int, list[Any]]]:
    """Yield the values in lists of at most BATCH, each with the place of its first one."""
    listed = as_list(field, values, "mappings")
    for start in range(0, len(listed), BATCH):
        yield start, listed[start : start + BATCH]


def _event(event: object, index: int) -> dict[str, Any]:
    """Return an event with an id. Raises TypeError."""
    checked = dict(as_mapping(f"events[{index}]", event))
    if checked.get("event_id") is None:
        checked["event_id"] = uuid.uuid4().hex
    return checked


def _line(record: object, field: str) -> bytes:
    """Return a record as JSON on one line. Raises TypeError or ValueError."""
    return encode(as_mapping(field, record), path=field)


def _path(user: ItemId) -> str:
    """Return the path of a user. Raises TypeError or ValueError."""
    check_id("user", user)
    text = id_text(user)
    if not text:
        raise ValueError(f"user: must not be blank, got {user!r}")
    # Clients and proxies remove segments of dots.
    return "/users/" + quote(text, safe="").replace(".", "%2E")


@contextlib.contextmanager
def _readable(response: HttpResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON object of a response. Raises Failed for a body of another form."""
    try:
        yield {**json.loads(response.content)}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise Failed("unreadable answer", detail, response.headers["X-Request-ID"]) from None


def _refused(entries: Sequence[Mapping[str, Any]], place: str, offset: int) -> list[RefusedRecord]:
    """Return the refused records of one response.

    Args:
        place: the member with the place of a record. offset: to be added to it.
    """
    return [
        RefusedRecord(entry[place] + offset, entry["field"], entry["rule"], entry["value"])
        for entry in entries
    ]
