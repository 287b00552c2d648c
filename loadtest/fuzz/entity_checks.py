"""Checks of responses about users, items and events: docs/service.md, users and items, feedback."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import ormsgpack

from loadtest.fuzz.entities import EVENT_PATHS, JSON, KINDS
from loadtest.fuzz.ids import canonical
from loadtest.fuzz.messages import MSGPACK, Message, Response, is_msgpack

MAX_REFUSED = 20  # refused records that a response names
LABEL_ERROR = 1e-6  # labels are kept as float32
Result = tuple[str, str | None]


def content_of(response: Response) -> Any:
    """Return the content of a response. Raises ValueError."""
    if response.headers.get("content-type") == MSGPACK:
        return ormsgpack.unpackb(response.body)
    return json.loads(response.body)


def schema_of(message: Message) -> str | None:
    """Return the name of the schema of a successful response about the store, None of others."""
    path = message.path.removeprefix("/v1")
    if message.method == "POST" and message.path in EVENT_PATHS:
        return "FeedbackResponse"
    for kind in KINDS:
        if message.method == "PUT" and path == f"/{kind}s":
            return "PutResponse"
        if message.method == "GET" and path.startswith(f"/{kind}s/"):
            return f"{kind.title()}Record"
    return None


def entity(message: Message, content: Mapping[str, Any]) -> str | None:
    """Check a response whose content fulfils its schema."""
    if message.method == "PUT":
        return _upload(message, content)
    if message.method == "POST":
        return _feedback(message, content)
    kind = "user" if "user" in content else "item"
    sent = unquote(message.path.removeprefix("/v1").split("/", 2)[2])
    expected = {canonical(sent), canonical(sent.removesuffix("/"))}
    return None if content[kind] in expected else f"{content[kind]!r} in place of {sent!r}"


def _upload(message: Message, content: Mapping[str, Any]) -> str | None:
    """Check that every record is counted once, and that refused ones are named in their order."""
    places = [entry["line"] for entry in content["refused"]]
    if len(places) != min(MAX_REFUSED, content["refused_count"]):
        return f"{len(places)} refused records are named of {content['refused_count']}"
    if places != sorted(set(places)) or not all(entry["rule"] for entry in content["refused"]):
        return f"refused records without order or rule: {places}"
    numbers = _record_numbers(message)
    if numbers is None:
        return None
    if not set(places) <= set(numbers):
        return f"lines {places} are refused of {numbers}"
    counted = content["written"] + content["refused_count"]
    return None if counted == len(numbers) else f"{counted} records counted of {len(numbers)}"


def _record_numbers(message: Message) -> list[int] | None:
    """Return the numbers of the records of a body, None for MessagePack."""
    if is_msgpack(message.headers):
        return None
    kinds = message.header("content-type")
    if kinds and kinds[0].partition(";")[0].strip().lower() == JSON:
        payload = json.loads(message.body)
        return list(range(1, 1 + len(payload))) if isinstance(payload, list) else [1]
    lines = message.body.split(b"\n")
    return [number for number, line in enumerate(lines, 1) if line and not line.isspace()]


def _feedback(message: Message, content: Mapping[str, Any]) -> str | None:
    """Check that every event is counted once."""
    if is_msgpack(message.headers):
        payload = ormsgpack.unpackb(message.body, option=ormsgpack.OPT_NON_STR_KEYS)
    else:
        payload = json.loads(message.body)
    refused = content["refused"]
    counted = content["accepted"] + content["duplicates"] + len(refused)
    events = payload["events"]
    if counted != len(events):
        return f"{counted} events counted of {len(events)}"
    wrong = [one for one in refused if not one["field"].startswith(f"events[{one['index']}]")]
    return f"fields of other events: {wrong}" if wrong else None


def stored(messages: tuple[Message, ...], responses: list[Response]) -> str | None:
    """Check that a record is read back as it was written, and is gone once it is deleted."""
    statuses = [response.status for response in responses]
    if statuses != [200, 200, 204, 404][: len(statuses)]:
        return f"statuses {statuses}"
    if len(responses) > 3 and content_of(responses[3])["code"] != "unknown_entity":
        return "the code of an absent entity is another"
    if len(responses) < 2:
        return None
    body = messages[0].body
    sent = ormsgpack.unpackb(body) if is_msgpack(messages[0].headers) else json.loads(body)
    record = sent[0] if isinstance(sent, list) else sent
    return next(_differences(record, content_of(responses[1])), None)


def _differences(sent: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error for each part of a record that is read back as another."""
    features = sent.get("features") or {}
    if read["features"] != features:
        yield f"features {read['features']}, {features} written"
    if "item" in sent:
        if read["counters"] != (sent.get("counters") or {}):
            yield f"counters {read['counters']}, {sent.get('counters')} written"
        return
    history = sent.get("history") or []
    if isinstance(history, dict):
        history = [{"id": item} for item in history["id"]]
    answers = [one if isinstance(one, dict) else {"id": one} for one in history]
    kept = len(read["history"]["id"])
    answers = answers[len(answers) - kept :]  # the last ones, as many as the schema reads
    if read["history"]["id"] != [canonical(answer["id"]) for answer in answers]:
        yield f"history {read['history']}, {answers} written"
    for answer, label in zip(answers, read["history"]["label"], strict=False):
        expected = 1.0 if answer.get("label") is None else answer["label"]
        if not math.isclose(label, expected, abs_tol=LABEL_ERROR):
            yield f"label {label}, {expected} written"


def repeated(messages: tuple[Message, ...], responses: list[Response]) -> str | None:
    """Check that a repetition of events changes nothing."""
    if len(responses) < 2:
        return None
    statuses = [response.status for response in responses]
    if statuses != [200, 200]:
        return f"statuses {statuses}"
    first, second = map(content_of, responses)
    if first["refused"] or first["duplicates"]:
        return f"new events are not accepted: {first}"
    if (second["accepted"], second["duplicates"]) != (0, first["accepted"]):
        return f"repeated events: {second}, the first time {first}"
    return None
