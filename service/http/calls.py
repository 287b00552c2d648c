"""Ranking calls: one plain ASGI callable from the body to the response.

It does the work of `service.http.edge` for its paths, without objects for request and response.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from service.errors import FieldError, InvalidRequest, NotReady, ServiceError, SlowClient
from service.http.big_integers import decode_exactly
from service.http.bodies import read_body
from service.http.disconnects import DISCONNECTED, ON_DISCONNECT
from service.http.edge import header_map, request_id_of
from service.http.exchange import Exchange
from service.http.lookups import look_up
from service.http.origins import refuse_cross_site
from service.http.parsing import (
    Limits,
    decode,
    is_msgpack,
    list_path,
    parse_batch,
    parse_single,
    ranking_request,
)
from service.http.problems import problem_from, problem_response
from service.http.responses import (
    batch_content,
    decision_content,
    decision_entries,
    encoder_for,
    server_timing,
    slowest_latency,
)
from service.http.schemas import RerankRequest
from service.http.security import Keys, Quota
from service.journal.capture import record_decisions
from service.journal.journal import Journal
from service.models.fleet import Fleet
from service.ranking.decision import Decision, Timeline
from service.ranking.observer import Observer
from service.ranking.reranker import PreparedList, Reranker
from service.settings import Settings
from service.state.store import EntityStore, ListLookup
from service.telemetry import Tracer

logger = logging.getLogger("service")

BATCH = "/batch"  # the end of the path of a batch call
NOSNIFF = (b"x-content-type-options", b"nosniff")

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)  # not frozen, as in service.ranking.decision
class Call:
    """One call: headers by lower-case name, the id in its response, and its start (monotonic)."""

    scope: Scope
    headers: Mapping[str, str]
    request_id: str
    batch: bool
    began: float


@dataclass(slots=True)
class Reply:
    """A response: status, headers and body; close: the connection ends with it."""

    status: int
    headers: Headers
    body: bytes
    close: bool = False


class RankingCalls:
    """Answers POST /rerank and /rerank/batch."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        observer: Observer,
        reranker: Reranker,
        state: Mapping[str, Any],
        keys: Keys | None,
        tracer: Tracer | None,
        store: EntityStore | None = None,
        journal: Journal | None = None,
    ) -> None:
        """state: `ready` and `draining`, true while calls are accepted, and before the end."""
        self._store, self._journal = store, journal
        self._settings, self._fleet = settings, fleet
        self._observer, self._reranker = observer, reranker
        self._state, self._keys, self._tracer = state, keys, tracer
        self._quota = None if settings.quota_rps is None else Quota(settings.quota_rps)
        self._lists = min(settings.max_lists_per_call, settings.max_queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        headers = header_map(scope)
        call = Call(
            scope, headers, request_id_of(headers), scope["path"].endswith(BATCH), time.monotonic()
        )
        exchange = Exchange.of(scope)
        try:
            reply = await self._reply(call, exchange, receive)
        except ServiceError as error:
            self._observer.call_refused(error.status >= 500)
            reply = self._refusal(call, error)
        except ClientDisconnect:
            return  # no client is left to respond to, and the service did not fail
        except Exception:
            logger.exception("unhandled error, request %s", call.request_id)
            self._observer.call_refused(True)
            detail = "an unexpected error; the log describes it under this request id"
            response = problem_from(500, "internal_error", detail, call.request_id)
            reply = Reply(500, list(response.raw_headers), bytes(response.body))
        await self._send(call, reply, exchange, send)

    def _refusal(self, call: Call, error: ServiceError) -> Reply:
        response = problem_response(error, call.request_id)
        closes = isinstance(error, SlowClient)
        return Reply(error.status, list(response.raw_headers), bytes(response.body), closes)

    async def _send(self, call: Call, reply: Reply, exchange: Exchange | None, send: Send) -> None:
        """Add the headers of every response, and send it."""
        headers = reply.headers
        names = {name for name, _ in headers}
        headers += (NOSNIFF, (b"x-request-id", call.request_id.encode()))
        echoed = call.headers.get("traceparent") if b"traceparent" not in names else None
        if echoed:
            headers.append((b"traceparent", echoed.encode("latin-1")))
        if b"server-timing" not in names:
            elapsed_ms = 1e3 * (time.monotonic() - call.began)
            headers.append((b"server-timing", b"total;dur=%.3f" % elapsed_ms))
        close = reply.close or self._state["draining"]
        # A header of the client goes the other way, on which the server checks its value.
        if exchange is not None and not echoed and (
            exchange.respond(reply.status, headers, reply.body, close)
        ):  # fmt: skip
            return
        if close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, call: Call, exchange: Exchange | None, receive: Receive) -> Reply:
        """Rank the lists of a call. Raises ServiceError or ClientDisconnect."""
        client = self._authenticate(call)
        settings, observer = self._settings, self._observer
        content = exchange.take_body() if exchange is not None else None
        if content is None or len(content) > settings.max_body_bytes:
            content = await read_body(
                receive, settings.max_body_bytes, settings.body_timeout_s, content
            )
        payload, received = decode(content, call.headers), time.monotonic()
        bodies = self._parse(call, payload, content)
        parsed = time.monotonic()
        if self._quota is not None:
            self._spend_quota(self._quota, client, len(bodies))
        lookups = looked_up = None
        if self._store is not None:
            lookups = await look_up(self._store, bodies)
            looked_up = time.monotonic()
            if exchange is not None and exchange.disconnected:
                observer.call_abandoned(len(bodies))
                raise ClientDisconnect
        lists = self._prepare(call, bodies, lookups, received)
        timeline = Timeline(received, parsed, time.monotonic(), looked_up)
        observer.call_started()
        state, task = call.scope.setdefault("state", {}), asyncio.current_task()
        assert task is not None
        state[ON_DISCONNECT] = functools.partial(task.cancel, DISCONNECTED)
        try:
            decisions = await self._reranker.rank(lists, timeline)
        except asyncio.CancelledError as cancellation:
            if cancellation.args != (DISCONNECTED,):
                raise
            task.uncancel()
            raise ClientDisconnect from None
        finally:
            del state[ON_DISCONNECT]
            observer.call_ended()
        if self._journal is not None:  # once the response is on its way
            asyncio.get_running_loop().call_soon(
                record_decisions, self._journal, lists, decisions, time.monotonic()
            )
        return self._respond(call, decisions)

    def _authenticate(self, call: Call) -> str:
        """Return the client's name. Raises Unauthorized, Forbidden or NotReady."""
        if not self._state["ready"]:
            raise NotReady("no model is ready")
        if self._keys is None:
            if self._journal is not None:  # a journal becomes training data
                refuse_cross_site(call.headers, self._settings.host)
            return ""
        return self._keys.client(call.headers.get("authorization"))

    def _parse(self, call: Call, payload: Any, content: bytes) -> Sequence[RerankRequest]:
        """Return the lists of a body that is decoded as `payload`. Raises InvalidRequest."""
        parse = parse_batch if call.batch else parse_single
        limits = Limits(self._fleet.max_candidates, self._settings.max_history, self._lists)
        try:
            return parse(payload, limits)
        except InvalidRequest as refusal:
            if is_msgpack(call.headers.get("content-type")):
                raise
            return parse(decode_exactly(content, refusal), limits)

    def _spend_quota(self, quota: Quota, client: str, lists: int) -> None:
        try:
            quota.spend(client, lists)
        except ServiceError:
            self._observer.over_quota(lists)
            raise

    def _prepare(
        self,
        call: Call,
        bodies: Sequence[RerankRequest],
        lookups: Sequence[ListLookup] | None,
        received: float,
    ) -> list[PreparedList]:
        """Check and featurise the lists of a call. Raises InvalidRequest."""
        timeout_ms = min(header_timeout_ms(call.headers), self._settings.timeout_ms)
        path, request_id = "", call.request_id
        lists = []
        for index, body in enumerate(bodies):
            if call.batch:  # each list has an id of its own, so that logs can name it
                path, request_id = list_path(index), f"{call.request_id}.{index}"
            limit_ms = timeout_ms if body.timeout_ms is None else min(timeout_ms, body.timeout_ms)
            list_request = ranking_request(body, path, request_id, received + limit_ms / 1e3)
            if lookups is not None:
                list_request.lookup = lookups[index]
                list_request.has_history = body.user is not None and body.user.history is not None
            prepared = self._reranker.prepare(list_request)
            self._observer.prepared(prepared)
            lists.append(prepared)
        return lists

    def _respond(self, call: Call, decisions: Sequence[Decision]) -> Reply:
        """Render the decisions, with the slowest list's times in header, log and trace."""
        responses = [self._content(decision) for decision in decisions]
        latency_ms = slowest_latency(responses)
        media_type, encode = encoder_for(call.headers)
        content = encode(batch_content(responses) if call.batch else responses[0])
        headers = [
            (b"server-timing", server_timing(latency_ms).encode()),
            (b"content-length", b"%d" % len(content)),
            (b"content-type", media_type),
        ]
        if self._tracer is not None:
            attributes = {"rerank.lists": len(decisions), "rerank.model": decisions[0].model}
            name, parent = f"POST {call.scope['path']}", call.headers.get("traceparent")
            trace = self._tracer.record(parent, name, latency_ms, attributes)
            headers.append((b"traceparent", trace.encode()))
        if self._settings.log_requests:
            self._log(call, decisions, latency_ms)
        return Reply(200, headers, content)

    def _content(self, decision: Decision) -> dict[str, Any]:
        entries = decision_entries(decision)
        now = time.monotonic()
        times = of_ranking = decision.stage_times(now)
        if decision.trace_s:  # a wait for explanations says nothing about the speed of rankings
            of_ranking = decision.stage_times(now - decision.trace_s)
        self._observer.decided(decision, of_ranking)
        return decision_content(decision, entries, times)

    def _log(
        self, call: Call, decisions: Sequence[Decision], latency_ms: Mapping[str, float]
    ) -> None:
        logger.info(
            "answered",
            extra={
                # The body of a single list may name its own id.
                "request_id": call.request_id if call.batch else decisions[0].request_id,
                "path": call.scope["path"],
                "lists": len(decisions),
                "latency_ms": latency_ms,
                "degraded": [d.reasons[0] for d in decisions if d.reasons],
            },
        )


def header_timeout_ms(headers: Mapping[str, str]) -> float:
    """Return the header X-Request-Timeout-Ms, or infinity without it. Raises InvalidRequest."""
    text = headers.get("x-request-timeout-ms")
    if text is None:
        return math.inf
    try:
        timeout = float(text)
    except ValueError:
        timeout = math.nan
    if not 0 < timeout < math.inf:
        error = FieldError("header X-Request-Timeout-Ms", "a positive number", text)
        raise InvalidRequest.of(error)
    return timeout
