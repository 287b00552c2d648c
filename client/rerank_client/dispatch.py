"""The logic of one call without its I/O: attempts, retries, deadlines and the fallback.

`Dispatcher.single` and `Dispatcher.batch` return a generator that both clients drive. It yields an
Attempt and receives its HttpResponse or TransportFailure, or yields a Drop and receives None. It
returns one RerankResponse per list.
"""

from __future__ import annotations

import heapq
import random
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

import httpx

from rerank_client.columns import as_records, holds_arrays
from rerank_client.errors import Failed, NoAnswer, TimedOut, Unavailable
from rerank_client.fallback import initial_ranking
from rerank_client.requests import (
    Candidates,
    ListRequest,
    RequestOptions,
    build_batch_bodies,
    build_list_body,
    encode,
)
from rerank_client.responses import (
    RerankResponse,
    describe_mix_up,
    parse_problem,
    parse_responses,
)
from rerank_client.settings import (
    check_api_key,
    check_header,
    check_timeout_ms,
    normalize_base_urls,
)

# Time past the deadline in which a degraded response of the service may still arrive.
GRACE_S = 0.05
# Pause before the first retry; it doubles with every round over the instances.
BACKOFF_S = 0.02
# Of a body with arrays.
PACKED_HEADERS = {"content-type": "application/msgpack", "accept": "application/json"}
# Smallest timeout for httpx, because 0 means "do not block" to a socket.
MIN_TIMEOUT_S = 0.001


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to one instance, sent after a pause of `pause_s` seconds.

    connect_deadline, deadline and give_up_at are times of the monotonic clock, in seconds. The
    service receives what is left until `deadline`; the client waits until `give_up_at`.
    """

    method: str
    url: str
    headers: httpx.Headers  # their repr hides the API key
    content: bytes
    pause_s: float
    connect_deadline: float
    deadline: float
    give_up_at: float

    def remaining_s(self) -> float:
        """Return the seconds left until the client stops waiting, at least MIN_TIMEOUT_S."""
        return max(MIN_TIMEOUT_S, self.give_up_at - time.monotonic())

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Build the request with the time that is left now, so call this after the pause."""
        remaining_ms = 1e3 * max(MIN_TIMEOUT_S, self.deadline - time.monotonic())
        headers = httpx.Headers(self.headers)
        headers["X-Request-Timeout-Ms"] = f"{remaining_ms:.3f}"
        return http.build_request(
            self.method, self.url, content=self.content, headers=headers,
            extensions={"timeout": _RemainingTimeouts(self)},
        )  # fmt: skip


class _RemainingTimeouts(dict[str, float]):
    """The timeouts of httpx, computed when a phase (connect, write, read) begins.

    Fixed timeouts would add up: a slow connect followed by a slow response would take twice the
    deadline.
    """

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(dict.fromkeys(("connect", "read", "write", "pool"), attempt.remaining_s()))
        self._attempt = attempt

    def get(self, phase: str, default: object = None) -> float:
        if phase == "connect":
            return max(MIN_TIMEOUT_S, self._attempt.connect_deadline - time.monotonic())
        return self._attempt.remaining_s()


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete response of an instance."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    stream: Any = None  # the connection, where httpx names it


@dataclass(frozen=True, slots=True)
class Drop:
    """The order to close a connection that carries the responses of other requests."""

    stream: Any


@dataclass(frozen=True, slots=True)
class TransportFailure:
    """A request without a complete response.

    kind: `connection` before the first byte of a response, `late` when time ran out, `broken` when
    the response ended early.
    """

    kind: Literal["connection", "late", "broken"]
    detail: str

    @classmethod
    def from_exception(cls, error: Exception, begun: bool) -> TransportFailure:
        """Classify an exception of httpx; `begun` says that a part of the response had arrived."""
        detail = f"{type(error).__name__}: {error}"
        if isinstance(error, httpx.ConnectTimeout):
            return cls("connection", detail)
        if isinstance(error, (httpx.TimeoutException, TimeoutError)):
            return cls("late", detail)
        return cls("broken" if begun else "connection", detail)


Outcome = HttpResponse | TransportFailure | None
T = TypeVar("T")
Steps = Generator[Attempt | Drop, Outcome, T]
Call = Steps[list[RerankResponse]]


class Dispatcher:
    """The state of a client between calls: instances, API key, and the last one that responded."""

    def __init__(
        self,
        urls: str | Sequence[str],
        timeout_ms: float,
        api_key: str | None,
        fallback: bool,
        rng: random.Random | None = None,
        state_key: str | None = None,
    ) -> None:
        self.urls = normalize_base_urls(urls)
        self.timeout_ms = check_timeout_ms(timeout_ms)
        self.fallback = fallback
        self._headers = httpx.Headers({"Content-Type": "application/json"})
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {check_api_key(api_key)}"
        self._state_headers = httpx.Headers(self._headers)
        if state_key is not None:
            bearer = f"Bearer {check_api_key(state_key, 'state_key')}"
            self._state_headers["Authorization"] = bearer
        self._preferred = 0
        self._rng = rng or random.SystemRandom()  # forked processes must not retry in step

    def __repr__(self) -> str:
        return f"urls={self.urls}, timeout_ms={self.timeout_ms}, fallback={self.fallback}"

    def single(
        self,
        candidates: Candidates,
        timeout_ms: float | None,
        request_id: str | None,
        traceparent: str | None,
        options: RequestOptions,
    ) -> Call:
        """Prepare a call of /rerank.

        Raises TypeError or ValueError for arguments that cannot be sent.
        """
        body = build_list_body(candidates, **options)
        return self._call("/rerank", body, [body], None, timeout_ms, request_id, traceparent)

    def batch(
        self,
        requests: Sequence[ListRequest],
        timeout_ms: float | None,
        request_id: str | None,
        traceparent: str | None,
    ) -> Call:
        """Prepare a call of /rerank/batch.

        Raises TypeError or ValueError for arguments that cannot be sent.
        """
        bodies = build_batch_bodies(requests)
        body = {"requests": bodies}
        return self._call(
            "/rerank/batch", body, bodies, len(bodies), timeout_ms, request_id, traceparent
        )

    def _call(
        self,
        path: str,
        body: Mapping[str, Any],
        bodies: Sequence[Mapping[str, Any]],
        lists: int | None,
        timeout_ms: float | None,
        request_id: str | None,
        traceparent: str | None,
    ) -> Call:
        """Check the arguments now, and return the generator that sends the attempts."""
        timeout_s = check_timeout_ms(self.timeout_ms if timeout_ms is None else timeout_ms) / 1e3
        packed = any(holds_arrays(list_body) for list_body in bodies)
        content = encode(body, packed)
        request_id = (
            uuid.uuid4().hex if request_id is None else check_header("request_id", request_id)
        )
        headers = httpx.Headers({**self._headers, **(PACKED_HEADERS if packed else {})})
        headers["X-Request-ID"] = request_id
        if traceparent is not None:
            headers["traceparent"] = check_header("traceparent", traceparent)

        ids = [request_id] if lists is None else [f"{request_id}.{i}" for i in range(lists)]

        def call() -> Call:
            began = time.monotonic()
            try:
                response = yield from self._first_response(
                    "POST", path, content, headers, began + timeout_s
                )
                try:
                    responses = parse_responses(response.content, lists)
                except ValueError as error:
                    raise Failed("unreadable answer", str(error), request_id) from None
                for expected_id, list_body, reranked in zip(ids, bodies, responses, strict=True):
                    records = as_records(list_body["candidates"])
                    if foreign := describe_mix_up(reranked, expected_id, records):
                        yield from _drop(response)
                        raise Failed("foreign answer", foreign, request_id)
                return responses
            except NoAnswer as error:
                if not self.fallback:
                    raise
                spent = {"total": round(1e3 * (time.monotonic() - began), 3)}
                return [
                    RerankResponse(
                        slate=initial_ranking(list_body),
                        request_id=list_id,
                        model=None,
                        reasoning=None,
                        latency_ms=spent,
                        degraded=f"client: {error.reason}",
                        raw={},
                    )
                    for list_id, list_body in zip(ids, bodies, strict=True)
                ]

        return call()

    def request(
        self,
        method: Literal["GET", "POST", "PUT", "DELETE"],
        path: str,
        content: bytes,
        content_type: str | None,
        timeout_ms: float | None,
    ) -> Steps[HttpResponse]:
        """Prepare a call about users, items or events, which has no fallback.

        Raises TypeError or ValueError for a timeout that cannot be used. The steps raise Refused or
        NoAnswer.
        """
        timeout_s = check_timeout_ms(self.timeout_ms if timeout_ms is None else timeout_ms) / 1e3
        of_feedback = path == "/feedback"
        headers = httpx.Headers(self._headers if of_feedback else self._state_headers)
        headers["X-Request-ID"] = request_id = uuid.uuid4().hex
        if content_type is None:
            del headers["Content-Type"]
        else:
            headers["Content-Type"] = content_type

        def steps() -> Steps[HttpResponse]:
            deadline = time.monotonic() + timeout_s
            response = yield from self._first_response(method, path, content, headers, deadline)
            answered = response.headers.get("X-Request-ID")
            if answered != request_id:
                yield from _drop(response)
                raise Failed("foreign answer", f"X-Request-ID: {answered!r}", request_id)
            return response

        return steps()

    def _first_response(
        self, method: str, path: str, content: bytes, headers: httpx.Headers, deadline: float
    ) -> Steps[HttpResponse]:
        """Return the first response of status 200 or 204 before `deadline`, a monotonic time.

        The client tries every instance once, starting with the one that responded last. It tries an
        instance again after a 503, when Retry-After allows it, and never one that it cannot reach.
        """
        request_id, count, attempts = headers["X-Request-ID"], len(self.urls), 0
        now, preferred = time.monotonic(), self._preferred
        # Heap of (earliest time of the next attempt, order of preference, index of the instance).
        queue = [(now, rank, (preferred + rank) % count) for rank in range(count)]
        while True:
            ready_at, rank, instance = heapq.heappop(queue)
            now = time.monotonic()
            # Split the time among the instances not tried yet: one may swallow packets.
            share = (deadline - max(now, ready_at)) / max(1, count - attempts)
            outcome = yield Attempt(
                method=method,
                url=self.urls[instance] + path,
                headers=headers,
                content=content,
                pause_s=max(0.0, ready_at - now),
                connect_deadline=max(now, ready_at) + share,
                deadline=deadline,
                give_up_at=deadline + GRACE_S,
            )
            match outcome:
                case HttpResponse(status=503):
                    backoff = BACKOFF_S * 2 ** (attempts // count) * self._rng.uniform(0.5, 1.5)
                    retry_at = time.monotonic() + backoff + _retry_after_s(outcome.headers)
                    heapq.heappush(queue, (retry_at, rank, instance))
                    last = "status 503"
                case HttpResponse(status=status):
                    self._preferred = instance
                    if status in (200, 204):
                        return outcome
                    if 400 <= status < 500:
                        refused = parse_problem(status, outcome.content, request_id)
                        if refused.request_id != request_id and not _closes(outcome.headers):
                            yield from _drop(outcome)
                            detail = f"status {status} of request {refused.request_id!r}"
                            raise Failed("foreign answer", detail, request_id)
                        raise refused
                    if status == 504:
                        raise TimedOut("timeout", "status 504", request_id)
                    raise Failed(f"status {status}", self.urls[instance], request_id)
                case TransportFailure("connection", last):
                    pass
                case TransportFailure("late", detail):
                    raise TimedOut("timeout", detail, request_id)
                case TransportFailure(_, detail):
                    raise Failed("broken answer", detail, request_id)
            attempts += 1
            if time.monotonic() >= deadline:
                raise TimedOut("timeout", f"attempts: {attempts}, the last: {last}", request_id)
            if not queue or queue[0][0] >= deadline:
                raise Unavailable(
                    "unavailable", f"attempts: {attempts}, the last: {last}", request_id
                )


def _drop(response: HttpResponse) -> Steps[None]:
    if response.stream is not None:
        yield Drop(response.stream)


def _closes(headers: Mapping[str, str]) -> bool:
    """Tell if the connection ends here: a service that cannot read a header makes up an id."""
    return headers.get("Connection", "").lower() == "close"


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds that Retry-After (a number or a date) asks for, 0 if it is unreadable."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (at.astimezone(UTC) - datetime.now(UTC)).total_seconds())
