"""`POST /feedback`: events about users and items, kept in the entity store before the response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response

from service.engine.features.event_types import EventType
from service.engine.features.featuriser import Featuriser
from service.errors import FieldError, InvalidRequest, NotReady, Overloaded, ServiceError
from service.http.big_integers import decode_exactly
from service.http.bodies import read_body
from service.http.feedback_openapi import MAX_EVENTS
from service.http.ids import sent_id
from service.http.origins import refuse_cross_site
from service.http.parsing import decode, is_msgpack
from service.http.problems import refusal_by_store
from service.http.responses import response_class
from service.http.security import Keys
from service.journal.capture import record_events
from service.journal.journal import Journal
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.settings import Settings
from service.state.engine import now_ms
from service.state.errors import EngineError, EntityError
from service.state.events import Event, EventRules
from service.state.store import EntityStore
from service.state.writer import COMMITS, EventWriter, Outcome, QueueFull

PATHS = ("/feedback", "/v1/feedback")


class FeedbackApi:
    """The route, with the writer of this process."""

    def __init__(
        self,
        store: EntityStore,
        fleet: Fleet,
        settings: Settings,
        metrics: Metrics,
        keys: Keys | None,
        clock: Callable[[], int] = now_ms,
        journal: Journal | None = None,
    ) -> None:
        """keys: as of /rerank; clock: returns the time in ms since 1970 UTC."""
        self._journal = journal
        self._fleet, self._settings, self._metrics = fleet, settings, metrics
        self._keys, self._clock = keys, clock
        self._writer = EventWriter(store, metrics, COMMITS[store.engine_name], clock)
        self._rules: EventRules | None = None

    def add_routes(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        for path in PATHS:
            app.router.add_route(path, self.post, methods=["POST"])

    async def close(self) -> None:
        """Write what waits."""
        await self._writer.close()

    async def post(self, request: Request) -> Response:
        """Keep the events of a body, and respond once every reader of the store sees them.

        An event that breaks a rule is refused alone. Raises ServiceError.
        """
        if not request.app.state.ready:
            raise NotReady("no model is ready")
        settings, headers = self._settings, request.state.headers
        if self._keys is None:
            refuse_cross_site(headers, settings.host)
        else:
            self._keys.client(headers.get("authorization"))
        content = await read_body(request.receive, settings.max_body_bytes, settings.body_timeout_s)
        payloads, rules = payloads_of(decode(content, headers)), await self._current_rules()
        events, refused = self._parsed(payloads, rules)
        if refused and not is_msgpack(headers.get("content-type")):
            payload = with_big_integers(content, list(refused.values()))
            if payload is not None:
                payloads = payloads_of(payload)
                events, refused = self._parsed(payloads, rules)
        outcomes = await self._write(events, rules) if events else ()
        if self._journal is not None:
            record_events(self._journal, events, outcomes)
        self._metrics.feedback_events["refused"].inc(len(refused))
        duplicates = outcomes.count("duplicate")
        body = {
            "accepted": len(outcomes) - duplicates,
            "duplicates": duplicates,
            "refused": [refusal(index, payloads[index], error) for index, error in refused.items()],
        }
        return response_class(headers)(body)

    def _parsed(
        self, payloads: Sequence[Any], rules: EventRules
    ) -> tuple[list[Event], dict[int, FieldError]]:
        """Return the events that can be kept, and the error of each other one by its index."""
        events, refused, now = [], {}, self._clock()
        for index, payload in enumerate(payloads):
            try:
                events.append(rules.parse(payload, now))
            except EntityError as error:
                path = f"events[{index}].{error.field}" if error.field else f"events[{index}]"
                refused[index] = FieldError(path, error.rule, error.value)
        return events, refused

    async def _write(self, events: Sequence[Event], rules: EventRules) -> Sequence[Outcome]:
        """Return the outcome of each event. Raises ServiceError; then a repetition is safe."""
        counts = self._metrics.feedback_events
        try:
            outcomes = await self._writer.write(events, rules)
        except (EngineError, QueueFull) as error:
            counts["failed"].inc(len(events))
            raise refusal_of(error) from None
        for outcome in set(outcomes):
            counts[outcome].inc(outcomes.count(outcome))
        return outcomes

    async def _current_rules(self) -> EventRules:
        """Return the rules of the default bundle, whose counts are read on another thread."""
        active = [model.active.session.featuriser for model in self._fleet.models.values()]
        limit = max(featuriser.schema.history.limit for featuriser in active)
        featuriser, rules = self._default_featuriser(), self._rules
        if rules is None or rules.featuriser is not featuriser or rules.limit != limit:
            rules = self._rules = await asyncio.to_thread(EventRules, featuriser, limit)
        return rules

    def _default_featuriser(self) -> Featuriser:
        return self._fleet.models[self._fleet.default_name()].active.session.featuriser

    def describe(self) -> dict[str, Any]:
        """Return the types of events and the window of their ids, for `GET /info`."""
        types = self._default_featuriser().schema.events
        return {
            "types": {name: type_content(kind) for name, kind in types.items()},
            "window_s": self._settings.state_event_window_s,
        }


def payloads_of(payload: Any) -> list[Any]:
    """Return the events of a decoded body. Raises InvalidRequest."""
    if not isinstance(payload, dict):
        raise InvalidRequest.of(FieldError("body", "an object with a list of events", payload))
    for name in payload:
        if name != "events":
            raise InvalidRequest.of(FieldError(str(name), "unknown field", payload[name]))
    events = payload.get("events")
    if not isinstance(events, list):
        raise InvalidRequest.of(FieldError("events", "a list of events", events))
    if not 0 < len(events) <= MAX_EVENTS:
        raise InvalidRequest.of(FieldError("events", f"1 to {MAX_EVENTS} events", len(events)))
    return events


def with_big_integers(content: bytes, errors: Sequence[FieldError]) -> Any:
    """Return a JSON body with integers beyond 64 bits, None if no refused value was one."""
    refusal_of_body = InvalidRequest.of(*errors)
    try:
        return decode_exactly(content, refusal_of_body)
    except InvalidRequest:
        return None


def refusal(index: int, payload: Any, error: FieldError) -> dict[str, Any]:
    """Render a refused event; its id as it was sent, null if it has none."""
    return {
        "index": index,
        "event_id": sent_event_id(payload),
        "field": error.path,
        "rule": error.rule,
        "value": error.value_text,
    }


def sent_event_id(payload: Any) -> str | None:
    """Return the id of an event, None without a valid one; the response has it as it was sent."""
    try:
        return sent_id(payload["event_id"])
    except (KeyError, TypeError, ValueError):
        return None


def refusal_of(error: EngineError | QueueFull) -> ServiceError:
    """Return the refusal of a call whose events were not kept, or not all of them."""
    if isinstance(error, QueueFull):
        return Overloaded("more events wait than the entity store keeps up with; send it again")
    return refusal_by_store(error)


def type_content(kind: EventType) -> dict[str, Any]:
    """Render one type of events."""
    return {"label": kind.label, "weight": kind.weight, "show": kind.show}
