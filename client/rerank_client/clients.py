"""The two clients: the same calls, once over blocking sockets and once over asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx

from rerank_client.dispatch import Attempt, Call, Dispatcher, HttpResponse, TransportFailure
from rerank_client.requests import Candidate, ListRequest, RequestOptions
from rerank_client.responses import RerankResponse

TIMEOUT_MS = 1000.0  # the service's own default
# The service closes an idle connection after 75 s and common load balancers after 60 s. A client
# that closes first never sends a request on a connection that is being closed.
LIMITS = httpx.Limits(keepalive_expiry=50.0)


class Client:
    """A client for threads; one may serve many of them.

    urls: base URL of one instance, or of several that serve the same model: one is asked, the next
    when it cannot be reached, drops the connection before it answers, or says 503.
    timeout_ms: for a whole call, retries included; the answer comes at most 50 ms after it, unless
    the service sends the header of its answer byte by byte. api_key: sent as a bearer token.
    fallback: answer with the initial ranking instead of raising NoAnswer. http: use this client
    (its transport, proxies, certificates) and leave it open; its own timeouts do not count.
    Raises ValueError for arguments that cannot be used.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout_ms: float = TIMEOUT_MS,
        api_key: str | None = None,
        fallback: bool = True,
        http: httpx.Client | None = None,
    ) -> None:
        self._dispatcher = Dispatcher(urls, timeout_ms, api_key, fallback)
        self._closes_http = http is None
        self._http = httpx.Client(limits=LIMITS) if http is None else http

    def rerank(
        self,
        candidates: Sequence[Candidate],
        *,
        timeout_ms: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> RerankResponse:
        """The slate of one list of candidates, given in the order of the initial ranking.

        candidates: ids, or mappings with `id` and what docs/service.md lists. timeout_ms: of this
        call, instead of the client's. request_id: names it in answer and logs, made if not given.
        traceparent: passed on as it is. options: see RequestOptions.
        Raises Refused; NoAnswer without fallback; ValueError or TypeError for what cannot be sent.
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
        """The slates of several lists in one call, in order; one bad list refuses the call.

        Each list's id is the request_id with `.0`, `.1` ... after it. Raises as `rerank` does.
        """
        if not requests:
            return []
        return self._run(self._dispatcher.batch(requests, timeout_ms, request_id, traceparent))

    def _run(self, call: Call) -> list[RerankResponse]:
        outcome: HttpResponse | TransportFailure | None = None
        while True:
            try:
                attempt = call.send(outcome)
            except StopIteration as done:
                return list(done.value)
            outcome = self._send(attempt)

    def _send(self, attempt: Attempt) -> HttpResponse | TransportFailure:
        time.sleep(attempt.pause_s)
        response, content = None, bytearray()
        try:
            response = self._http.send(attempt.request(self._http), stream=True)
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > attempt.give_up_at:
                    raise TimeoutError("the answer took too long to arrive")
        except (httpx.RequestError, TimeoutError) as error:
            return TransportFailure.from_exception(error, begun=response is not None)
        finally:
            if response is not None:
                response.close()
        return HttpResponse(response.status_code, response.headers, bytes(content))

    def close(self) -> None:
        """Close the connections; not those of an `http` given."""
        if self._closes_http:
            self._http.close()

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
    """The same for asyncio; see Client. `timeout_ms` and the 50 ms bound every answer."""

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout_ms: float = TIMEOUT_MS,
        api_key: str | None = None,
        fallback: bool = True,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._dispatcher = Dispatcher(urls, timeout_ms, api_key, fallback)
        self._closes_http = http is None
        self._http = httpx.AsyncClient(limits=LIMITS) if http is None else http

    async def rerank(
        self,
        candidates: Sequence[Candidate],
        *,
        timeout_ms: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> RerankResponse:
        """As Client.rerank."""
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
        """As Client.rerank_many."""
        if not requests:
            return []
        return await self._run(
            self._dispatcher.batch(requests, timeout_ms, request_id, traceparent)
        )

    async def _run(self, call: Call) -> list[RerankResponse]:
        outcome: HttpResponse | TransportFailure | None = None
        while True:
            try:
                attempt = call.send(outcome)
            except StopIteration as done:
                return list(done.value)
            outcome = await self._send(attempt)

    async def _send(self, attempt: Attempt) -> HttpResponse | TransportFailure:
        await asyncio.sleep(attempt.pause_s)
        response = None
        try:
            async with asyncio.timeout(attempt.remaining_s()):
                response = await self._http.send(attempt.request(self._http), stream=True)
                content = await response.aread()
        except (httpx.RequestError, TimeoutError) as error:
            return TransportFailure.from_exception(error, begun=response is not None)
        finally:
            if response is not None:
                await response.aclose()
        return HttpResponse(response.status_code, response.headers, content)

    async def aclose(self) -> None:
        """Close the connections; not those of an `http` given."""
        if self._closes_http:
            await self._http.aclose()

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
