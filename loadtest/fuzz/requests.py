"""Requests for fuzzing, drawn by seed: from the OpenAPI document, and from strategies.

Schemathesis makes those from the document: bodies that fit the published schemas, and bodies that
barely do not. The strategies use the bundle: ids of items among other ids, every option, then
mutations of such bodies, other forms of them, and heads, methods, paths and ways of sending that no
schema describes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from loadtest.fuzz.arrays import bodies_with_arrays, with_arrays
from loadtest.fuzz.bodies import bodies, mutated
from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.entities import FromStore, with_own_ids
from loadtest.fuzz.heads import HEADERS, METHODS, accepts, padded, targets
from loadtest.fuzz.messages import MSGPACK, PATHS, Conversation, Manner, Message
from loadtest.fuzz.variants import FORMS, Optional, packed, with_repeated_key

Conversations = st.SearchStrategy[Conversation]
PACKED = (("Content-Type", MSGPACK),)
DISTINCT_TURNS = 3  # a strategy may have few values


def draw_conversations(strategy: Conversations, key: str, count: int) -> list[Conversation]:
    """Return conversations of exactly `count` messages, the same ones for the same key.

    Hypothesis often repeats itself. Repeated conversations are drawn again, a few times.
    """
    conversations: list[Conversation] = []
    seen: set[Conversation] = set()
    missing = count
    for turn in itertools.count():  # hypothesis may also end a search early
        for conversation in _examples(strategy, f"{key}.{turn}", missing):
            if missing and (conversation not in seen or turn >= DISTINCT_TURNS):
                seen.add(conversation)
                conversations.append(conversation.first(missing))
                missing -= len(conversations[-1].messages)
        if not missing:
            break
    return [with_own_ids(one, f"{key}.{place}") for place, one in enumerate(conversations)]


def _examples(strategy: Conversations, key: str, count: int) -> list[Conversation]:
    """Return about `count` conversations."""
    examples: list[Conversation] = []

    @seed(key)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(conversation: Conversation) -> None:
        examples.append(conversation)

    draw()
    return examples


def from_document(document: dict[str, Any]) -> Conversations:
    """Return schemathesis's requests for an OpenAPI document, valid and invalid ones."""
    schema = schemathesis.openapi.from_dict(document)
    results: list[Any] = list(schema.get_all_operations())
    strategies = [
        operation.as_strategy(generation_mode=mode)
        for operation in (result.ok() for result in results)
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or operation.body
        for _ in range(_share(operation.path))
    ]
    return st.one_of(strategies).map(lambda case: Conversation((_message(case),)))


def _share(path: str) -> int:
    """Return the share of an operation: rankings have several, but lists of lists draw slowly."""
    if "/rerank" not in path:
        return 1
    return 2 if "batch" in path else 4


def _message(case: Any) -> Message:
    """Return a schemathesis case as the bytes that requests would send."""
    parts = case.as_transport_kwargs(base_url="http://127.0.0.1")
    names = ("method", "url", "headers", "json", "data", "params", "cookies", "files")
    request = requests.Request(**{name: parts[name] for name in names if name in parts}).prepare()
    body: Any = request.body or b""
    dropped = ("content-length", "x-schemathesis-testcaseid")  # the latter is not drawn by seed
    headers = ((str(name), str(value)) for name, value in request.headers.items())
    return Message(
        str(request.method),
        request.path_url,
        tuple(pair for pair in headers if pair[0].lower() not in dropped),
        body.encode() if isinstance(body, str) else body,
    )


class FromBundle:
    """Strategies over a bundle, one method for each kind of conversation."""

    def __init__(self, bundle: Bundle, optional: Optional, has_store: bool = False) -> None:
        """has_store: the service has an entity store, with routes of its own."""
        self._optional, self._bundle, self._has_store = optional, bundle, has_store
        single = bodies(bundle)
        batch = st.fixed_dictionaries({"requests": st.lists(single, min_size=1, max_size=4)})
        # Three of four are single lists.
        self._groups = ((single, PATHS[:2]),) * 3 + ((batch, PATHS[2:]),)

    def kinds(self) -> dict[str, tuple[Conversations, int]]:
        """Return the strategy and the weight of every kind."""
        weighted = {
            self.valid: 4, self.mutated: 4, self.with_headers: 2, self.with_target: 2,
            self.packed: 1, self.with_padded_head: 2, self.negotiated: 1,
            self.with_repeated_key: 1, self.twins: 3, self.with_arrays: 1,
        }  # fmt: skip
        manners = (Manner.PIPELINED, Manner.HALF_CLOSED, Manner.CUT, Manner.DEPARTED)
        return {
            **{make.__name__: (make(), weight) for make, weight in weighted.items()},
            **{manner.value: (self.together(manner), 1) for manner in manners},
            **(FromStore(self._bundle).kinds() if self._has_store else {}),
        }

    def _alone(self, message: st.SearchStrategy[Message]) -> Conversations:
        return message.map(lambda one: Conversation((one,)))

    def _posts(
        self, change: Callable[[st.SearchStrategy[Any]], st.SearchStrategy[bytes]]
    ) -> st.SearchStrategy[Message]:
        """Return POST requests whose bodies `change` makes of valid ones."""
        return st.one_of(
            [
                st.builds(Message, st.just("POST"), st.sampled_from(targets), st.just(()), body)
                for payload, targets in self._groups
                for body in [change(payload)]
            ]
        )

    def _valid(self) -> st.SearchStrategy[Message]:
        return self._posts(lambda payload: payload.map(_written))

    def valid(self) -> Conversations:
        """Return valid bodies as JSON."""
        return self._alone(self._valid())

    def mutated(self) -> Conversations:
        """Return bodies with a mistake."""
        return self._alone(self._posts(mutated))

    def packed(self) -> Conversations:
        """Return valid bodies as MessagePack."""
        return self._alone(
            self._valid().map(lambda message: packed(message, json.loads(message.body)))
        )

    def with_arrays(self) -> Conversations:
        """Return bodies as MessagePack with arrays of numbers, some of them broken."""
        posts = self._posts(lambda payload: bodies_with_arrays(payload, self._bundle))
        return self._alone(posts.map(lambda post: replace(post, headers=PACKED)))

    def with_repeated_key(self) -> Conversations:
        """Return bodies in which an object has a key twice."""
        return self._alone(self._posts(with_repeated_key))

    def with_headers(self) -> Conversations:
        """Return valid bodies under odd headers, chunked or over the limit."""
        names = st.lists(st.sampled_from(list(HEADERS)), min_size=1, max_size=3, unique=True)
        padding = st.sampled_from([0] * 19 + [1 << 20])  # white space that breaks the limit
        versions = st.sampled_from(["1.1"] * 6 + ["1.0", "1.0", "0.9", "1.2", "2.0"])

        @st.composite
        def message(draw: st.DrawFn) -> Message:
            valid = draw(self._valid())
            return replace(
                valid,
                headers=tuple((name, draw(HEADERS[name])) for name in draw(names)),
                body=valid.body + b" " * draw(padding),
                chunked=draw(st.booleans()),
                version=draw(versions),
                host=draw(st.sampled_from([True, True, True, False])),
            )

        return self._alone(message())

    def with_target(self) -> Conversations:
        """Return odd methods on every route, and odd targets."""
        methods = st.sampled_from(METHODS)
        empty = st.sampled_from([True, False])

        @st.composite
        def message(draw: st.DrawFn) -> Message:
            valid = draw(self._valid())
            body = b"" if draw(empty) else valid.body
            return replace(valid, method=draw(methods), target=draw(targets()), body=body)

        return self._alone(message())

    def with_padded_head(self) -> Conversations:
        """Return valid bodies under a head, trailers or chunk extensions of any size."""
        return self._alone(self._valid().flatmap(padded))

    def negotiated(self) -> Conversations:
        """Return valid bodies in both formats with weights in `Accept`."""

        @st.composite
        def message(draw: st.DrawFn) -> Message:
            valid = draw(self._valid())
            if draw(st.booleans()):
                valid = packed(valid, json.loads(valid.body))
            return replace(valid, headers=(*valid.headers, ("Accept", draw(accepts))))

        return self._alone(message())

    def twins(self) -> Conversations:
        """Return a valid body and one that means the same, in the same format or the other."""
        forms = st.sampled_from(FORMS)

        @st.composite
        def conversation(draw: st.DrawFn) -> Conversation:
            first, form = draw(self._valid()), draw(forms)
            payload = json.loads(first.body)
            lists = [form(one, self._optional) for one in payload.get("requests", [payload])]
            other = {"requests": lists} if "requests" in payload else lists[0]
            if draw(st.booleans()):
                lists = [with_arrays(one) for one in lists]
                other = {"requests": lists} if "requests" in payload else lists[0]
                return Conversation((first, packed(first, other)), Manner.TWINS)
            return Conversation((first, replace(first, body=_written(other))), Manner.TWINS)

        return conversation()

    def together(self, manner: Manner) -> Conversations:
        """Return several requests for one connection, sent at once."""
        gets = st.sampled_from(["/livez", "/info", "/nowhere", "/rerank", "/openapi.json"])
        get = st.builds(Message, st.sampled_from(["GET", "HEAD"]), gets, st.just(()), st.just(b""))
        message = self._valid() | self._valid() | self._posts(mutated) | get
        shares = st.floats(0, 1)

        @st.composite
        def conversation(draw: st.DrawFn) -> Conversation:
            messages = draw(st.lists(message, min_size=1, max_size=6))
            numbered = tuple(
                replace(one, headers=(("X-Request-ID", f"p{number}"),))
                for number, one in enumerate(messages)
            )
            return Conversation(numbered, manner, draw(shares))

        return conversation()


def _written(body: Any) -> bytes:
    return json.dumps(body).encode()
