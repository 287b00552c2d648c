"""Accept connections so that every worker has as many as the others.

The kernel wakes all workers for a connection to their common socket, and the event loop of the
first one that runs accepts all that wait. A worker in a run is late, so another gets a burst of
connections alone and keeps them: some requests wait while a worker idles.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from service.shared_values import Slot

PAUSE_S = 0.001  # in which a worker with fewer connections may accept
PATIENCE = 5  # pauses in a row, about a run, after which a worker accepts nevertheless
SHORTAGE_PAUSE_S = 0.1  # without a file descriptor
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
CLOSED = 1 << 32  # connections that a worker reports once it accepts no more


class BalancedServer(uvicorn.Server):
    """uvicorn's server in one of several workers, which share a listening socket."""

    def __init__(self, config: uvicorn.Config, slot: Slot, others: Sequence[Slot]) -> None:
        """others: slots of the other workers."""
        super().__init__(config)
        self._slot, self._others = slot, others

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, and accept from the one socket."""
        assert sockets is not None
        (listener,) = sockets
        await super().startup(sockets=[])
        connections = ObservedSet()
        self.server_state.connections = connections

        def make_protocol() -> asyncio.Protocol:
            protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )
            return protocol

        acceptor = Acceptor(listener, make_protocol, connections, self._slot, self._others)
        self.servers.append(acceptor)  # type: ignore[arg-type]


class ObservedSet(set[Any]):
    """A set that calls `on_change` after an element came or went."""

    on_change: Callable[[], None] = staticmethod(lambda: None)

    def add(self, element: Any) -> None:
        """Add an element."""
        super().add(element)
        self.on_change()

    def discard(self, element: Any) -> None:
        """Remove an element if it is there."""
        super().discard(element)
        self.on_change()


class Acceptor:
    """Accepts from a listening socket while no other worker has fewer connections.

    A worker with more waits up to PATIENCE pauses: one that is in a long run, or hangs, must not
    keep connections waiting.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        connections: ObservedSet,
        slot: Slot,
        others: Sequence[Slot],
    ) -> None:
        """Start to accept; needs a running event loop."""
        self._listener, self._make_protocol = listener, make_protocol
        self._connections, self._slot, self._others = connections, slot, others
        self._opening: set[asyncio.Task[Any]] = set()
        self._pauses = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        connections.on_change = self._report
        self._report()
        listener.setblocking(False)
        self._listen()

    @property
    def _count(self) -> int:
        return len(self._connections) + len(self._opening)

    def _report(self) -> None:
        self._slot.connections = self._count

    def _listen(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._on_connection)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self._listen)

    def _on_connection(self) -> None:
        if self._pauses < PATIENCE and self._has_more_than_another():
            self._pauses += 1
            self._pause(PAUSE_S)
            return
        self._pauses = 0
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in SHORTAGES:
                self._pause(SHORTAGE_PAUSE_S)
            return  # else another worker was faster, or the client has left
        connection.setblocking(False)
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._on_open)
        self._report()

    def _on_open(self, task: asyncio.Task[Any]) -> None:
        self._opening.discard(task)
        if self._slot.connections != CLOSED:
            self._report()

    def _has_more_than_another(self) -> bool:
        """True if a worker that serves has fewer connections."""
        return any(other.beats and other.connections < self._count for other in self._others)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:  # the client has left
            connection.close()

    def close(self) -> None:
        """Stop accepting; no other worker waits for this one any more."""
        self._connections.on_change = lambda: None
        self._slot.connections = CLOSED
        if self._timer is None:
            self._loop.remove_reader(self._listener)
        else:
            self._timer.cancel()

    async def wait_closed(self) -> None:
        """Return at once; uvicorn waits for the connections itself."""
