"""The two clients: the same calls over blocking sockets and over asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from rerank_client.checks import ItemId, as_list
from rerank_client.connections import Connections
from rerank_client.dispatch import (
    Attempt,
    Dispatcher,
    Drop,
    HttpResponse,
    Steps,
    TransportFailure,
)
from rerank_client.requests import Candidates, ListRequest, RequestOptions
from rerank_client.responses import RerankResponse
from rerank_client.state_calls import (
    FeedbackResult,
    PutResult,
    feedback_call,
    forget_call,
    put_call,
    read_call,
)

T = TypeVar("T")

TIMEOUT_MS = 1000.0  # equals the service's default, RERANK_TIMEOUT_MS


class Client:
    """A blocking client that threads may share, and that stays usable in a forked process.

    Args:
        urls: base URL of one instance, or of several that serve the same model. The client moves to
            the next one when a connection fails, when it ends before the response begins, and after
            a 503.
        timeout_ms: deadline of a whole call, retries included. A call ends at most 50 ms later,
            unless the service sends the header of its response byte by byte.
        api_key: sent as a bearer token.
        state_key: sent in its place by put_users, put_items, get_user and forget.
        fallback: return the initial ranking instead of raising NoAnswer.
        http: an httpx client to use for its transport, proxies or certificates, or a function that
            makes one. An httpx client stays open and serves the process that uses it first; the
            function is called once in each process. Timeouts of httpx do not apply. Without it, the
            proxies of the environment are not used.

    Raises ValueError or TypeError for a URL, timeout, key or httpx client that cannot be used.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout_ms: float = TIMEOUT_MS,
        api_key: str | None = None,
        state_key: str | None = None,
        fallback: bool = True,
        http: httpx.Client | Callable[[], httpx.Client] | None = None,
    ) -> None:
        self._dispatcher = Dispatcher(urls, timeout_ms, api_key, fallback, state_key=state_key)
        self._connections = Connections(httpx.Client, self._dispatcher.urls, http)

    def rerank(
        self,
        candidates: Candidates,
        *,
        timeout_ms: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> RerankResponse:
        """Re-rank one list of candidates, which come in the order of the initial ranking.

        Args:
            candidates: ids (strings or integers), or mappings with `id` and the keys in
                docs/service.md, or one mapping of columns, whose numbers may be arrays.
            timeout_ms: deadline of this call, in place of that of the client.
            request_id: id of the call in response and logs; random by default.
            traceparent: W3C trace context, passed on unchanged.
            options: see RequestOptions.

        Raises Refused; NoAnswer with `fallback=False`; ValueError or TypeError for arguments that
        cannot be sent; RuntimeError once the client is closed.
        """
        call = self._dispatcher.single(candidates, timeout_ms, request_id, traceparent, options)
        return self._run(call)[0]

    def rerank_many(
        self,
        requests: Sequence[ListRequest],
        *,
        timeout_ms: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> list[RerankResponse]:
        """Re-rank several lists in one call, and return the responses in the same order.

        The request id of a list is that of the call followed by `.0`, `.1` and so on. One invalid
        list refuses the whole call. Raises the same as `rerank`.
        """
        lists = as_list("requests", requests, "mappings")
        if not lists:
            return []
        return self._run(self._dispatcher.batch(lists, timeout_ms, request_id, traceparent))

    def feedback(
        self, events: Sequence[Mapping[str, Any]], *, timeout_ms: float | None = None
    ) -> FeedbackResult:
        """Send events about users and items; on return they are kept and count in rankings.

        Args:
            events: mappings as in docs/service.md. One without `event_id` gets a random one, so
                that no retry of this call counts it twice; to repeat the call, pass ids.
            timeout_ms: deadline of each request of up to 1,000 events.

        There is no fallback: raises Refused, NoAnswer, ValueError or TypeError.
        """
        return self._run(feedback_call(self._dispatcher, events, timeout_ms))

    def put_users(
        self,
        records: Sequence[Mapping[str, Any]],
        *,
        check: bool = True,
        timeout_ms: float | None = None,
    ) -> PutResult:
        """Write users into the entity store; each record changes what it has.

        Args:
            records: mappings as in docs/state.md.
            check: refuse features that the served schema does not declare or allow.
            timeout_ms: deadline of each request of up to 1,000 records.

        After an error the call may be repeated. Raises the same as `feedback`.
        """
        return self._run(put_call(self._dispatcher, "user", records, check, timeout_ms))

    def put_items(
        self,
        records: Sequence[Mapping[str, Any]],
        *,
        check: bool = True,
        timeout_ms: float | None = None,
    ) -> PutResult:
        """Write items into the entity store; see put_users."""
        return self._run(put_call(self._dispatcher, "item", records, check, timeout_ms))

    def get_user(self, user: ItemId, *, timeout_ms: float | None = None) -> dict[str, Any] | None:
        """Return the record of a user, None if the store has none. Raises as `feedback` does."""
        return self._run(read_call(self._dispatcher, user, timeout_ms))

    def forget(self, user: ItemId, *, timeout_ms: float | None = None) -> None:
        """Delete a user from the entity store, if it is there. Raises as `feedback` does."""
        self._run(forget_call(self._dispatcher, user, timeout_ms))

    def _run(self, call: Steps[T]) -> T:
        http = self._connections.current()
        outcome: HttpResponse | TransportFailure | None = None
        while True:
            try:
                step = call.send(outcome)
            except StopIteration as done:
                value: T = done.value
                return value
            if isinstance(step, Drop):
                step.stream.close()
                outcome = None
            else:
                outcome = self._send(http, step)

    def _send(self, http: httpx.Client, attempt: Attempt) -> HttpResponse | TransportFailure:
        time.sleep(attempt.pause_s)
        response, content = None, bytearray()
        try:
            response = http.send(attempt.request(http), stream=True)
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > attempt.give_up_at:
                    raise TimeoutError("the response did not end before the deadline")
        except (httpx.RequestError, TimeoutError) as error:
            return TransportFailure.from_exception(error, begun=response is not None)
        finally:
            if response is not None:
                response.close()
        return _complete(response, bytes(content))

    def close(self) -> None:
        """Close the connections of this process, unless the caller passed an httpx client."""
        for http in self._connections.close():
            http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._dispatcher!r})"


class AsyncClient:
    """The client for asyncio; see Client. Every call ends at most 50 ms after `timeout_ms`.

    Several event loops may share it: each gets connections of its own. A function passed as `http`
    is called once in each process and event loop.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout_ms: float = TIMEOUT_MS,
        api_key: str | None = None,
        state_key: str | None = None,
        fallback: bool = True,
        http: httpx.AsyncClient | Callable[[], httpx.AsyncClient] | None = None,
    ) -> None:
        self._dispatcher = Dispatcher(urls, timeout_ms, api_key, fallback, state_key=state_key)
        self._connections = Connections(httpx.AsyncClient, self._dispatcher.urls, http)

    async def rerank(
        self,
        candidates: Candidates,
        *,
        timeout_ms: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> RerankResponse:
        """Re-rank one list; see Client.rerank."""
        call = self._dispatcher.single(candidates, timeout_ms, request_id, traceparent, options)
        return (await self._run(call))[0]

    async def rerank_many(
        self,
        requests: Sequence[ListRequest],
        *,
        timeout_ms: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> list[RerankResponse]:
        """Re-rank several lists; see Client.rerank_many."""
        lists = as_list("requests", requests, "mappings")
        if not lists:
            return []
        return await self._run(self._dispatcher.batch(lists, timeout_ms, request_id, traceparent))

    async def feedback(
        self, events: Sequence[Mapping[str, Any]], *, timeout_ms: float | None = None
    ) -> FeedbackResult:
        """Send events; see Client.feedback."""
        return await self._run(feedback_call(self._dispatcher, events, timeout_ms))

    async def put_users(
        self,
        records: Sequence[Mapping[str, Any]],
        *,
        check: bool = True,
        timeout_ms: float | None = None,
    ) -> PutResult:
        """Write users; see Client.put_users."""
        return await self._run(put_call(self._dispatcher, "user", records, check, timeout_ms))

    async def put_items(
        self,
        records: Sequence[Mapping[str, Any]],
        *,
        check: bool = True,
        timeout_ms: float | None = None,
    ) -> PutResult:
        """Write items; see Client.put_users."""
        return await self._run(put_call(self._dispatcher, "item", records, check, timeout_ms))

    async def get_user(
        self, user: ItemId, *, timeout_ms: float | None = None
    ) -> dict[str, Any] | None:
        """Return the record of a user; see Client.get_user."""
        return await self._run(read_call(self._dispatcher, user, timeout_ms))

    async def forget(self, user: ItemId, *, timeout_ms: float | None = None) -> None:
        """Delete a user; see Client.forget."""
        await self._run(forget_call(self._dispatcher, user, timeout_ms))

    async def _run(self, call: Steps[T]) -> T:
        http = self._connections.current(asyncio.get_running_loop())
        outcome: HttpResponse | TransportFailure | None = None
        while True:
            try:
                step = call.send(outcome)
            except StopIteration as done:
                value: T = done.value
                return value
            if isinstance(step, Drop):
                await step.stream.aclose()
                outcome = None
            else:
                outcome = await self._send(http, step)

    async def _send(
        self, http: httpx.AsyncClient, attempt: Attempt
    ) -> HttpResponse | TransportFailure:
        await asyncio.sleep(attempt.pause_s)
        response = None
        try:
            try:
                async with asyncio.timeout(attempt.remaining_s()):
                    response = await http.send(attempt.request(http), stream=True)
                    content = await response.aread()
            finally:
                if response is not None:
                    await response.aclose()
        except (httpx.RequestError, TimeoutError) as error:
            return TransportFailure.from_exception(error, begun=response is not None)
        except RuntimeError as error:
            if http.is_closed:
                raise
            # The caller's httpx client holds a connection of another event loop.
            return TransportFailure.from_exception(error, begun=response is not None)
        return _complete(response, content)

    async def aclose(self) -> None:
        """Close the connections of this process, unless the caller passed an httpx client."""
        running, lifetimes = asyncio.get_running_loop(), self._connections.lifetimes()
        self._connections.close()
        for loop, lifetime in lifetimes:
            if loop is running:
                await lifetime.aclose()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(_end(lifetime), loop)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self._dispatcher!r})"


async def _end(lifetime: AsyncGenerator[None]) -> None:
    await lifetime.aclose()


def _complete(response: httpx.Response, content: bytes) -> HttpResponse:
    stream: Any = response.extensions.get("network_stream")
    return HttpResponse(response.status_code, response.headers, content, stream)
