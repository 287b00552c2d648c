"""The checks that a serving process repeats: heartbeat, supervisor, log, file descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket

from service.log_handler import take_dropped
from service.metrics import Metrics
from service.shared_values import Slot

logger = logging.getLogger("service")

CHECK_S = 1.0  # between two checks
MAX_DESCRIPTORS = 1 << 16  # that the service raises its limit to, if it may


async def check_repeatedly(metrics: Metrics, slot: Slot | None = None, parent: int = 0) -> None:
    """Check until cancelled.

    Args:
        slot: The slot of this worker, for its heartbeat.
        parent: The process id of the worker's supervisor. The worker stops as on SIGTERM once the
            supervisor is dead, so that a new service can use the port.
    """
    exhausted = stopping = False
    while True:
        if slot is not None:
            slot.beat()
            if os.getppid() != parent and not stopping:
                stopping = True
                logger.error("supervisor %d died, its worker %d stops", parent, os.getpid())
                os.kill(os.getpid(), signal.SIGTERM)
        metrics.log_lines_dropped.inc(take_dropped())
        reason = descriptor_shortage()
        if reason is not None:
            metrics.descriptors_exhausted.inc()
            if not exhausted:
                logger.error(
                    "%s: connections are dropped; raise the limit of %d file descriptors, or send "
                    "fewer connections", reason, resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                )  # fmt: skip
        elif exhausted:
            logger.info("file descriptors are free again")
        exhausted = reason is not None
        await asyncio.sleep(CHECK_S)


def descriptor_shortage() -> str | None:
    """Return the system's message if this process can open no file descriptor.

    The event loop does not report it: it closes the connections that it cannot accept.
    """
    try:
        socket.socket().close()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return error.strerror
    return None


def raise_descriptor_limit() -> None:
    """Raise the limit of file descriptors, often 1024, as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
