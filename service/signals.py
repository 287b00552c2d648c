"""The signals of the processes of a service: which stop it, which reload, which are only logged."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger("service")


def by_name(*names: str) -> frozenset[int]:
    """Return those of the signals that the platform has."""
    return frozenset(getattr(signal, name) for name in names if hasattr(signal, name))


STOP = by_name("SIGTERM", "SIGINT", "SIGQUIT", "SIGXCPU", "SIGPWR")
RELOAD = by_name("SIGHUP")
# Signals that cannot be caught, that report a crash, or that end no process by default.
UNTOUCHED = by_name(
    "SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP",
    "SIGCHLD", "SIGCONT", "SIGTSTP", "SIGURG", "SIGWINCH", "SIGPIPE", "SIGXFSZ",
)  # fmt: skip
HANDLED = frozenset(signal.valid_signals()) - UNTOUCHED


def name_of(number: int) -> str:
    """Return the name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def handle(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call a handler for every signal that would end this process, and unblock them."""
    for number in HANDLED:
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def exit_if_stopped(number: int, frame: FrameType | None) -> None:
    """Exit with status 0 on a stop signal; SystemExit lets context managers clean up.

    Handler of a process that does not serve yet.
    """
    if number in STOP:
        raise SystemExit(0)


class Drain:
    """Handler of a process that serves: stops with a drain, reloads, or logs.

    On a stop signal the process is unready at once, and its server stops `drain_s` seconds later.
    A second stop signal ends that wait. One of several workers may receive the first signal twice,
    from its supervisor and from a manager that signals every process; its wait ends only with a
    SIGINT after the first signal.
    """

    def __init__(
        self,
        drain_s: float,
        single_worker: bool,
        on_drain: Callable[[], None],
        on_reload: Callable[[], None],
    ) -> None:
        """Replace the handlers of the server that runs on this event loop.

        Outside the main thread, which receives all signals, this does nothing.
        """
        self._drain_s, self._single_worker = drain_s, single_worker
        self._on_drain, self._on_reload = on_drain, on_reload
        self._draining = self._stopped = False
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            self._server_handler = signal.getsignal(signal.SIGTERM)
            handle(self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._loop.is_closed():
            # Deferred, so that the work does not interrupt other code.
            self._loop.call_soon_threadsafe(self._act, number)

    def _act(self, number: int) -> None:
        if number in RELOAD:
            logger.info("%s received, reading keys and store again", name_of(number))
            self._on_reload()
        elif number not in STOP:
            logger.info("%s received, ignored", name_of(number))
        elif not self._draining:
            logger.info("%s received, stopping", name_of(number))
            self._draining = True
            self._on_drain()
            self._loop.call_later(self._drain_s, self._stop)
        elif self._single_worker or number == signal.SIGINT:
            self._stop()

    def _stop(self) -> None:
        # Once, and as SIGTERM: a second SIGINT makes uvicorn drop the requests in flight.
        if not self._stopped and callable(self._server_handler):
            self._stopped = True
            self._server_handler(signal.SIGTERM, None)
