"""The signals of a process that serves."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from types import FrameType

from fastapi import FastAPI

logger = logging.getLogger("service")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def exit_cleanly(number: int, frame: FrameType | None) -> None:
    """Exit with status 0 on SIGTERM or SIGINT. SystemExit lets context managers clean up."""
    raise SystemExit(0)


def drain_on_sigterm(app: FastAPI, drain_s: float, single_worker: bool) -> None:
    """On SIGTERM report unready at once and run uvicorn's own handler `drain_s` seconds later.

    A second signal ends the wait. One of several workers may receive the first signal twice, from
    its supervisor and from a manager that signals every process; its wait ends only with the
    supervisor's SIGINT. Outside the main thread, which receives all signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop, previous = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        if not callable(previous):
            return
        # Deferred, so that the line does not interrupt another one.
        loop.call_soon_threadsafe(logger.info, "SIGTERM received, stopping")
        if not drain_s or (app.state.draining and single_worker):
            previous(number, frame)
        elif not app.state.draining:
            loop.call_soon_threadsafe(lambda: loop.call_later(drain_s, previous, number, None))
        app.state.draining = True

    signal.signal(signal.SIGTERM, on_sigterm)
