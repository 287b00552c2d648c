"""Start worker processes, replace those that die, and stop them.

What serves goes on: a replacement that cannot start is tried again with growing delays, and the
service ends only if no worker serves at all.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from service.engine.contract import BundleError
from service.log_handler import take_dropped
from service.metrics import Metrics
from service.settings import Settings
from service.shared_values import SharedValues
from service.signals import HANDLED, RELOAD, STOP, handle, name_of

logger = logging.getLogger("service")

TICK_S = 0.2  # between looks at signals and workers
STOP_TICK_S = 0.05  # the same while workers stop
STABLE_S = 30.0  # of service after which earlier failures no longer delay a replacement
MAX_DELAY_S = 30.0  # before another try to start a worker
HUNG_S = 30.0  # without a heartbeat after which a worker is killed
UNSERVED_S = 30.0  # without any worker after which the service ends if none can start

SPAWN = multiprocessing.get_context("spawn")

# Runs a worker in its process. It sends (reason, message) if it cannot start.
WorkerMain = Callable[[Settings, socket.socket, SharedValues, int, Connection], None]


class Worker:
    """One worker process, started by the constructor."""

    def __init__(
        self,
        main: WorkerMain,
        settings: Settings,
        listener: socket.socket,
        shared: SharedValues,
        slot: int,
    ) -> None:
        """Start the process. Raises OSError."""
        self._slot = shared.slots[slot]
        self._receiver, sender = SPAWN.Pipe(duplex=False)
        self.process = SPAWN.Process(target=main, args=(settings, listener, shared, slot, sender))
        # The child inherits the mask, and unblocks the signals once it handles them.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            self.process.start()
        except OSError:
            self._receiver.close()
            raise
        finally:
            sender.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        self.served_since: float | None = None
        self._beats = self._silent_ticks = 0

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.process.pid is not None
        return self.process.pid

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.process.exitcode is None:
            os.kill(self.pid, number)

    def has_ended(self) -> bool:
        """Follow the heartbeats of one tick; kill the process if they have stopped."""
        ended = self.process.exitcode is not None
        # Read after the exit code: a worker that served for less than a tick has served.
        beats = self._slot.beats if self._slot.pid == self.pid else 0
        if beats != self._beats:
            self.served_since = self.served_since or time.monotonic()
            self._silent_ticks = 0
        if ended:
            return True
        # Counted in ticks: a machine that was suspended does not make its workers hang.
        self._silent_ticks += 1
        self._beats = beats
        if self.served_since is None or self._silent_ticks * TICK_S < HUNG_S:
            return False
        logger.error("worker %d has hung for %g s, it is killed", self.pid, HUNG_S)
        self.process.kill()
        self.process.join()
        return True

    def end(self) -> tuple[str, str]:
        """Release what the ended process held; return the reason of its end, and a message."""
        self._slot.close()
        with self._receiver:
            try:
                if self._receiver.poll():
                    reason, message = self._receiver.recv()
                    return str(reason), str(message)
            except EOFError:  # ended without a message
                pass
        status = self.process.exitcode
        assert status is not None
        if status < 0:
            return "killed", name_of(-status)
        return "internal", f"exit status {status}"


@dataclass
class Place:
    """A slot, the worker that has it, and the back-off of the next one."""

    slot: int
    worker: Worker | None = None
    failures: int = 0
    retry_at: float = 0.0

    def fail(self) -> float:
        """Return the delay in seconds before the next try: 0, 1, 2, 4 and so on."""
        self.failures += 1
        delay_s = 0.0 if self.failures == 1 else min(2.0 ** (self.failures - 2), MAX_DELAY_S)
        self.retry_at = time.monotonic() + delay_s
        return delay_s


class Supervisor:
    """Runs the workers of a service on one listening socket."""

    def __init__(
        self,
        main: WorkerMain,
        settings: Settings,
        listener: socket.socket,
        shared: SharedValues,
        metrics: Metrics,
    ) -> None:
        self._main, self._settings, self._listener = main, settings, listener
        self._shared, self._metrics = shared, metrics
        self._places = [Place(slot) for slot in range(1, 1 + settings.workers)]
        self._signals: list[int] = []
        self._served_at: float | None = None  # last time at which any worker served
        self._failure: str | None = None  # message of the last start that failed
        metrics.workers_configured.set(settings.workers)

    def run(self) -> None:
        """Supervise until a stop signal, then stop every worker.

        Raises BundleError if no worker serves and none can start.
        """
        handle(lambda number, frame: self._signals.append(number))
        try:
            while not self._stop_requested():
                for place in self._places:
                    self._look_after(place)
                self._check_that_one_serves()
                self._metrics.log_lines_dropped.inc(take_dropped())
                time.sleep(TICK_S)
        finally:
            self._stop_workers()

    def _stop_requested(self) -> bool:
        """Act on the signals that arrived; True if one of them stops the service."""
        while self._signals:
            number = self._signals.pop(0)
            if number in STOP:
                logger.info("%s received, stopping", name_of(number))
                return True
            if number not in RELOAD:
                logger.info("%s received, ignored", name_of(number))
                continue
            for place in self._places:
                place.retry_at = 0.0
                if place.worker is not None:
                    place.worker.send_signal(number)
        return False

    def _look_after(self, place: Place) -> None:
        worker = place.worker
        if worker is None:
            if time.monotonic() >= place.retry_at:
                self._start(place)
        elif worker.has_ended():
            place.worker = None
            reason, message = worker.end()
            if worker.served_since is None:
                self._record_failure(place, reason, message)
            else:
                self._replace(place, worker, message)
        elif worker.served_since and time.monotonic() - worker.served_since > STABLE_S:
            place.failures = 0

    def _start(self, place: Place) -> None:
        try:
            place.worker = Worker(
                self._main, self._settings, self._listener, self._shared, place.slot
            )
        except OSError as error:
            self._record_failure(place, "system", f"no process for it ({error.strerror})")

    def _replace(self, place: Place, worker: Worker, message: str) -> None:
        """Start another worker in place of one that served and died, at once if it was stable."""
        self._metrics.worker_restarts.inc()
        delay_s = place.fail()
        if delay_s:
            logger.error(
                "worker %d died (%s), the next one starts in %g s", worker.pid, message, delay_s
            )
            return
        self._start(place)
        if place.worker is not None:
            logger.error(
                "worker %d died (%s), worker %d takes its place",
                worker.pid, message, place.worker.pid,
            )  # fmt: skip

    def _record_failure(self, place: Place, reason: str, message: str) -> None:
        self._metrics.start_failures.labels(reason).inc()
        delay_s = place.fail()
        if reason != "killed":
            self._failure = message
        logger.error(
            "a worker could not start: %s; %d of %d workers serve, next try in %g s",
            message, self._serving(), len(self._places), delay_s,
        )  # fmt: skip

    def _serving(self) -> int:
        return sum(bool(place.worker and place.worker.served_since) for place in self._places)

    def _check_that_one_serves(self) -> None:
        """Raise BundleError if no worker serves, and none can start."""
        serving = self._serving()
        self._metrics.workers.set(serving)
        if serving:
            self._served_at, self._failure = time.monotonic(), None
        elif self._failure is None:
            return
        elif self._served_at is None:
            raise BundleError("a worker did not start; the line above gives its reason")
        elif time.monotonic() - self._served_at > UNSERVED_S:
            raise BundleError(
                f"no worker has served for {UNSERVED_S:g} s and none can start: {self._failure}"
            )

    def _stop_workers(self) -> None:
        """Stop the workers as on SIGTERM; pass a further stop signal on to them as SIGINT."""
        self._signals.clear()
        workers = [place.worker for place in self._places if place.worker is not None]
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        while any(worker.process.exitcode is None for worker in workers):
            while self._signals:
                if self._signals.pop(0) in STOP:
                    for worker in workers:
                        worker.send_signal(signal.SIGINT)
            time.sleep(STOP_TICK_S)
