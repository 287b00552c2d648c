"""Conversations about users, items and events of the entity store."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import ormsgpack
from hypothesis import strategies as st

from loadtest.fuzz.bodies import NAMES, mutated
from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.ids import canonical, is_id
from loadtest.fuzz.messages import MSGPACK, Conversation, Manner, Message, is_msgpack

NDJSON, JSON = "application/x-ndjson", "application/json"
KINDS = ("user", "item")
EVENT_PATHS = ("/feedback", "/v1/feedback")
MUTATIONS = ("value", "value", "key", "cut", "bytes", "code")
PLACE = "zPLACEOFITSOWNzz"  # in ids; `with_own_ids` puts as many other characters there
SUFFIXES = ("", "", "/", "/é", "%2F", "?a#", ". .")  # some of which a path has to encode
IDS = st.builds("{}{}{}".format, st.just(PLACE), st.integers(0, 99), st.sampled_from(SUFFIXES))
TIMES = st.integers(0, 1 << 52)


class FromStore:
    """Strategies of conversations about the entity store of a bundle's service."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        label: st.SearchStrategy[Any] = st.none() | st.floats(0, 1) | st.sampled_from([0, 1])
        answer = st.fixed_dictionaries(
            {"id": st.sampled_from(bundle.ids) | NAMES},
            optional={"label": label, "type": st.none() | st.sampled_from("ab"), "time": TIMES},
        )
        history = st.lists(answer | st.sampled_from(bundle.ids), max_size=5)
        columns = st.lists(st.sampled_from(bundle.ids), max_size=200).map(lambda ids: {"id": ids})
        counter = st.builds(
            lambda likes, passes, time: {"shows": likes + passes, "likes": likes, "time": time},
            st.integers(0, 1000), st.floats(0, 1000), TIMES,
        )  # fmt: skip
        shared: dict[str, st.SearchStrategy[Any]] = {"updated_at": st.none() | TIMES}
        self._records: dict[str, st.SearchStrategy[dict[str, Any]]] = {
            "user": st.fixed_dictionaries(
                {"user": IDS}, optional={"history": st.none() | history | columns, **shared}
            ),
            "item": st.fixed_dictionaries(
                {"item": IDS},
                optional={
                    "features": _features(bundle),
                    "counters": st.fixed_dictionaries(
                        {}, optional=dict.fromkeys(bundle.statistics, counter)
                    ),
                    **shared,
                },
            ),
        }

    def kinds(self) -> dict[str, tuple[st.SearchStrategy[Conversation], int]]:
        """Return the strategy and the weight of every kind."""
        weighted = {self.stored: 2, self.uploads: 2, self.events: 1}
        return {make.__name__: (make(), weight) for make, weight in weighted.items()}

    def stored(self) -> st.SearchStrategy[Conversation]:
        """Return a record that is written, read, deleted, and read again."""

        @st.composite
        def conversation(draw: st.DrawFn) -> Conversation:
            kind, path = draw(_collections)
            record = draw(self._records[kind])
            one = f"{path}/{quote(record[kind], safe='')}"
            put = draw(_put(path, [record]))
            return Conversation(
                (put, *(Message(method, one, (), b"") for method in ("GET", "DELETE", "GET"))),
                Manner.STORED,
            )

        return conversation()

    def uploads(self) -> st.SearchStrategy[Conversation]:
        """Return bodies of several records, some of them with a mistake."""

        @st.composite
        def conversation(draw: st.DrawFn) -> Conversation:
            kind, path = draw(_collections)
            good = self._records[kind]
            message = draw(_put(path, draw(st.lists(good, max_size=6))))
            if draw(st.booleans()):
                bad = mutated(good, MUTATIONS)
                lines = draw(st.lists(bad | good.map(_json), min_size=1, max_size=6))
                message = Message("PUT", path, (("Content-Type", NDJSON),), b"\n".join(lines))
            query = draw(st.sampled_from(["", "", "?check=false", "?ttl_s=60", "?ttl_s=x", "?y=1"]))
            return Conversation(
                (
                    Message(
                        message.method,
                        message.target + query,
                        message.headers,
                        message.body,
                        chunked=draw(st.booleans()),
                        chunk=draw(st.sampled_from([0, 1, 7, 100])),
                    ),
                )
            )

        return conversation()

    def events(self) -> st.SearchStrategy[Conversation]:
        """Return events that are sent twice, as after a response that was lost."""
        time = st.none() | TIMES.map(lambda time: time >> 12)  # none of them in the future
        event: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
            {
                "event_id": IDS,
                "user": IDS,
                "item": IDS,
                "type": st.sampled_from(self._bundle.events),
            },
            optional={
                "time": time,
                "shown": st.lists(IDS, max_size=4),
                "request_id": st.text(min_size=1, max_size=128),
                "value": st.floats(allow_nan=False, allow_infinity=False),
            },
        )
        events = st.lists(event, min_size=1, max_size=5, unique_by=lambda one: str(one["event_id"]))

        @st.composite
        def conversation(draw: st.DrawFn) -> Conversation:
            body = {"events": draw(events)}
            path, is_json = draw(st.sampled_from(EVENT_PATHS)), draw(st.booleans())
            content = _json(body) if is_json else ormsgpack.packb(body)
            headers = (("Content-Type", JSON if is_json else MSGPACK),)
            message = Message("POST", path, headers, content)
            return Conversation((message, message), Manner.REPEATED)

        return conversation()


_collections = st.sampled_from(
    [(kind, f"{prefix}/{kind}s") for kind in KINDS for prefix in ("", "/v1")]
)


def _features(bundle: Bundle) -> st.SearchStrategy[dict[str, Any]]:
    """Return values of some features of items."""
    number = st.integers(-1000, 1000) | st.floats(-1000, 1000)
    names = [name for name in bundle.numbers if name in bundle.of_items]
    fields: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(names[:3], number)
    for name, words in bundle.categories.items():
        fields[name] = st.sampled_from([*words, "?"])
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def _put(draw: st.DrawFn, path: str, records: list[dict[str, Any]]) -> Message:
    """Return a request that writes records, in one of the forms of a body."""
    kind = draw(st.sampled_from([NDJSON, JSON, MSGPACK]))
    content = {
        NDJSON: b"\n".join(map(_json, records)),
        JSON: _json(records[0] if len(records) == 1 else records),
        MSGPACK: b"".join(map(ormsgpack.packb, records)),
    }[kind]
    return Message("PUT", path, (("Content-Type", kind),), content)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def with_own_ids(conversation: Conversation, key: str) -> Conversation:
    """Return the conversation with ids that no conversation of another key has."""
    digits = hashlib.sha256(key.encode()).hexdigest()[: len(PLACE) - 1]
    return replace(
        conversation,
        messages=tuple(
            replace(
                message,
                target=message.target.replace(PLACE, f"z{digits}"),
                body=message.body.replace(PLACE.encode(), f"z{digits}".encode()),
            )
            for message in conversation.messages
        ),
    )


def written_ids(message: Message) -> Iterator[str]:
    """Yield the canonical ids of the items that a request may have written into the store.

    What MessagePack writes has ids of `IDS`, which no candidate has.
    """
    path = message.path.removeprefix("/v1")
    if not path.startswith(("/items", "/feedback")) or is_msgpack(message.headers):
        return
    for part in (message.body, *message.body.split(b"\n")):
        with contextlib.suppress(ValueError, RecursionError):
            yield from map(canonical, filter(is_id, _items(json.loads(part))))


def _items(payload: Any) -> Iterator[Any]:
    """Yield the values of `item` and `shown` in a body, however it is nested."""
    waiting = [payload]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            displayed = value.get("shown")
            yield value.get("item")
            yield from displayed if isinstance(displayed, list) else ()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
