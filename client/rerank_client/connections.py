"""The httpx clients behind a client: one for each process and, on asyncio, each event loop.

A connection that two processes share hands one process the response of the other, and one that two
event loops share never wakes the second.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401
import os
import ssl
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Generic, TypeVar

import httpx

# httpx imports more modules with its first transport and its first request. A process that is
# forked while another thread imports one inherits the lock of the import, and waits forever.
httpx.HTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)).close()

# The service closes an idle connection after 75 s and common load balancers after 60 s. A client
# that closes first never sends a request on a connection that is being closed.
LIMITS = httpx.Limits(keepalive_expiry=50.0)

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Place = tuple[int, AbstractEventLoop | None]  # process id and event loop


class Connections(Generic[Http]):
    """Opens an httpx client where none is open yet.

    Args:
        kind: httpx.Client or httpx.AsyncClient.
        urls: base URLs of the instances.
        http: an httpx client of the caller, which stays open; a function that makes one; or None
            for one with the defaults of this package.

    Raises TypeError for any other `http`, ValueError for unreadable certificates.
    """

    def __init__(
        self, kind: type[Http], urls: Sequence[str], http: Http | Callable[[], Http] | None
    ) -> None:
        self._make: Callable[[], Http]
        self._passed: Http | None = None
        self._passed_pid: int | None = None
        self._open: dict[Place, Http] = {}
        self._lifetimes: dict[Place, AsyncGenerator[None]] = {}
        self._closed = False
        if isinstance(http, kind):
            self._passed = http
        elif http is None:
            context = _ssl_context(urls)
            # Proxies are for the outside world; the variables for certificates are read above.
            self._make = lambda: kind(limits=LIMITS, verify=context, trust_env=False)
        elif callable(http) and not isinstance(http, httpx.Client | httpx.AsyncClient):
            self._make = http
        else:
            name = f"httpx.{kind.__name__}"
            raise TypeError(
                f"http: must be an {name} or a function that makes one, got {type(http).__name__}"
            )

    def current(self, loop: AbstractEventLoop | None = None) -> Http:
        """Return the httpx client of this process and of `loop`.

        Raises RuntimeError once closed, and for an httpx client of the caller that was used in
        another process.
        """
        if self._closed:
            raise RuntimeError("the client is closed; make another one")
        pid = os.getpid()
        if self._passed is not None:
            self._passed_pid = self._passed_pid or pid
            if self._passed_pid != pid:
                raise RuntimeError(
                    f"http: was used in process {self._passed_pid} and cannot be used in process "
                    f"{pid}, which would read the responses of the other; pass a function that "
                    "makes it, or make it after the fork"
                )
            return self._passed
        place = pid, loop
        http = self._open.get(place)
        if http is None or http.is_closed:
            self._forget_closed_loops(pid)
            if http is not None:
                self._open.pop(place, None)
            http = self._open.setdefault(place, self._make())
            if isinstance(http, httpx.AsyncClient):
                self._lifetimes[place] = _start_lifetime(http)
        return http

    def _forget_closed_loops(self, pid: int) -> None:
        # Keep what was inherited from another process: to close it may disturb that process.
        for place in list(self._open):
            if place[0] == pid and place[1] is not None and place[1].is_closed():
                self._open.pop(place, None)
                self._lifetimes.pop(place, None)

    def close(self) -> list[Http]:
        """Refuse further use, and return the httpx clients of this process for closing."""
        self._closed = True
        places = [place for place in list(self._open) if place[0] == os.getpid()]
        return [self._open.pop(place) for place in places]

    def lifetimes(self) -> list[tuple[AbstractEventLoop, AsyncGenerator[None]]]:
        """Return each open event loop of this process, with the generator that closes in it."""
        pid = os.getpid()
        self._forget_closed_loops(pid)
        places = [place for place in list(self._lifetimes) if place[0] == pid]
        return [(loop, self._lifetimes.pop((pid, loop))) for _, loop in places if loop is not None]


def _start_lifetime(http: httpx.AsyncClient) -> AsyncGenerator[None]:
    """Close the httpx client when its event loop shuts down its generators, before it closes.

    `asyncio.run` does so at its end. Without it every run would leave sockets behind.
    """

    async def lifetime() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await http.aclose()

    generator = lifetime()
    with contextlib.suppress(StopIteration):
        generator.__anext__().__await__().send(None)  # to the yield, which suspends nothing
    return generator


def _ssl_context(urls: Sequence[str]) -> ssl.SSLContext:
    """Load the certificates once for all processes and loops, and only if a URL needs them."""
    if not any(url.lower().startswith("https:") for url in urls):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
        values = [f"{name}={os.environ[name]!r}" for name in names if os.environ.get(name)]
        raise ValueError(f"environment {', '.join(values)}: cannot be used, {error}") from None
