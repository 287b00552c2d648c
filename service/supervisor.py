"""Start and replace the worker processes of the service, on top of uvicorn's supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time

import uvicorn
from prometheus_client import multiprocess
from uvicorn.supervisors import Multiprocess

from service.metrics import Metrics
from service.signals import STOP_SIGNALS

logger = logging.getLogger("service")

PARENT_POLL_S = 1.0  # between a worker's checks that its supervisor is alive
JOIN_POLL_S = 0.05  # between a stopping supervisor's checks of signals and workers


class Supervisor(Multiprocess):
    """uvicorn's supervisor, which starts and replaces workers; this one also counts deaths."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, metrics: Metrics) -> None:
        super().__init__(config, sockets=[listener])
        self._metrics = metrics

    def keep_subprocess_alive(self) -> None:
        """Replace dead workers. uvicorn calls this twice a second."""
        before = [process.pid for process in self.processes]
        for process in self.processes:
            # While this copy of the worker's end of the pipe is open, uvicorn keeps waiting for a
            # worker that died before it replied to a ping.
            process.child_conn.close()
        super().keep_subprocess_alive()
        for old, process in zip(before, self.processes, strict=True):
            if process.pid != old and old is not None:
                multiprocess.mark_process_dead(old)  # type: ignore[no-untyped-call]
                self._metrics.worker_restarts.inc()
                logger.error("worker %d died, worker %s takes its place", old, process.pid)

    def join_all(self) -> None:
        """Wait for stopping workers; pass a further signal on to them as SIGINT."""
        while running := [process for process in self.processes if process.exitcode is None]:
            while self.signal_queue:
                if self.signal_queue.pop(0) in STOP_SIGNALS:
                    for process in running:
                        if process.pid is not None:
                            os.kill(process.pid, signal.SIGINT)
            time.sleep(JOIN_POLL_S)


async def stop_with_parent(parent: int) -> None:
    """Stop as on SIGTERM once the supervisor is dead, so that a new service can use the port."""
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_POLL_S)
    logger.error("supervisor %d died, its worker %d stops", parent, os.getpid())
    os.kill(os.getpid(), signal.SIGTERM)
