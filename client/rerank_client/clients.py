"""The two clients: the same calls, once over blocking sockets and once over asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx

from rerank_client.dispatch import Answer, Asker, Call, Lost, Send
from rerank_client.requests import Candidate, ListRequest, Wishes
from rerank_client.responses import Reranked

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
        self._asker = Asker(urls, timeout_ms, api_key, fallback)
        self._owned = http is None
        self._http = httpx.Client(limits=LIMITS) if http is None else http

    def rerank(
        self,
        candidates: Sequence[Candidate],
        *,
        timeout_ms: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **wishes: Unpack[Wishes],
    ) -> Reranked:
        """The slate of one list of candidates, given in the order of the initial ranking.

        candidates: ids, or mappings with `id` and what docs/service.md lists. timeout_ms: of this
        call, instead of the client's. request_id: names it in answer and logs, made if not given.
        traceparent: passed on as it is. wishes: see Wishes. Raises Refused; NoAnswer without
        fallback; ValueError or TypeError for what cannot be sent.
        """
        call = self._asker.single(candidates, timeout_ms, request_id, traceparent, wishes)
        return self._run(call)[0]

    def rerank_many(
        self,
        requests: Sequence[ListRequest],
        *,
        timeout_ms: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> list[Reranked]:
        """The slates of several lists in one call, in order; one bad list refuses the call.

        Each list's id is the request_id with `.0`, `.1` ... after it. Raises as `rerank` does.
        """
        if not requests:
            return []
        return self._run(self._asker.batch(requests, timeout_ms, request_id, traceparent))

    def _run(self, call: Call) -> list[Reranked]:
        outcome: Answer | Lost | None = None
        while True:
            try:
                send = call.send(outcome)
            except StopIteration as done:
                return list(done.value)
            outcome = self._send(send)

    def _send(self, send: Send) -> Answer | Lost:
        time.sleep(send.pause_s)
        response, content = None, bytearray()
        try:
            response = self._http.send(send.request(self._http), stream=True)
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > send.until:
                    raise TimeoutError("the answer took too long to arrive")
        except (httpx.RequestError, TimeoutError) as error:
            return Lost.of(error, begun=response is not None)
        finally:
            if response is not None:
                response.close()
        return Answer(response.status_code, response.headers, bytes(content))

    def close(self) -> None:
        """Close the connections; not those of an `http` given."""
        if self._owned:
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
        return f"Client({self._asker!r})"


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
        self._asker = Asker(urls, timeout_ms, api_key, fallback)
        self._owned = http is None
        self._http = httpx.AsyncClient(limits=LIMITS) if http is None else http

    async def rerank(
        self,
        candidates: Sequence[Candidate],
        *,
        timeout_ms: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **wishes: Unpack[Wishes],
    ) -> Reranked:
        """As Client.rerank."""
        call = self._asker.single(candidates, timeout_ms, request_id, traceparent, wishes)
        return (await self._run(call))[0]

    async def rerank_many(
        self,
        requests: Sequence[ListRequest],
        *,
        timeout_ms: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> list[Reranked]:
        """As Client.rerank_many."""
        if not requests:
            return []
        return await self._run(self._asker.batch(requests, timeout_ms, request_id, traceparent))

    async def _run(self, call: Call) -> list[Reranked]:
        outcome: Answer | Lost | None = None
        while True:
            try:
                send = call.send(outcome)
            except StopIteration as done:
                return list(done.value)
            outcome = await self._send(send)

    async def _send(self, send: Send) -> Answer | Lost:
        await asyncio.sleep(send.pause_s)
        response = None
        try:
            async with asyncio.timeout(send.left_s()):
                response = await self._http.send(send.request(self._http), stream=True)
                content = await response.aread()
        except (httpx.RequestError, TimeoutError) as error:
            return Lost.of(error, begun=response is not None)
        finally:
            if response is not None:
                await response.aclose()
        return Answer(response.status_code, response.headers, content)

    async def aclose(self) -> None:
        """Close the connections; not those of an `http` given."""
        if self._owned:
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
        return f"AsyncClient({self._asker!r})"
