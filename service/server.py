"""From settings to a listening process, or several: uvicorn with our manners around it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client import multiprocess
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service.engine.contract import BundleError
from service.http.api import create_app
from service.http.protocol import Protocol
from service.http.security import KeysError
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.settings import Settings, with_profile
from service.telemetry import TelemetryError, configure

logger = logging.getLogger("service")

BACKLOG = 2048
SWITCH_INTERVAL_S = 0.0001
KEEP_ALIVE_S = 75  # longer than callers keep a connection, so that they are the ones to close it
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
PARENT_POLL_S = 1.0  # how often a worker looks for its supervisor
JOIN_POLL_S = 0.05  # how often a supervisor that stops looks for signals and at its workers


class Supervisor(Multiprocess):
    """uvicorn's supervisor: starts workers, replaces those that die. Deaths are counted."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, metrics: Metrics) -> None:
        super().__init__(config, sockets=[listener])
        self._metrics = metrics

    def keep_subprocess_alive(self) -> None:
        """Called twice a second."""
        before = [process.pid for process in self.processes]
        for process in self.processes:
            # Our copy of its end of the pipe: while that is open, a worker that dies with a ping
            # unanswered is not gone, but waited for.
            process.child_conn.close()
        super().keep_subprocess_alive()
        for old, process in zip(before, self.processes, strict=True):
            if process.pid != old and old is not None:
                multiprocess.mark_process_dead(old)  # type: ignore[no-untyped-call]
                self._metrics.worker_restarts.inc()
                logger.error("worker %d died, worker %s takes its place", old, process.pid)

    def join_all(self) -> None:
        """Wait for workers that were told to stop; a second signal goes to them as SIGINT."""
        while running := [process for process in self.processes if process.exitcode is None]:
            while self.signal_queue:
                if self.signal_queue.pop(0) in STOP_SIGNALS:
                    for process in running:
                        if process.pid is not None:
                            os.kill(process.pid, signal.SIGINT)
            time.sleep(JOIN_POLL_S)


def serve(settings: Settings) -> None:
    """Serve until told to stop. Raises BundleError, KeysError, TelemetryError or OSError before."""
    listener = listen(settings.host, settings.port)
    if settings.workers > 1:
        metrics = Metrics()
        supervisor = Supervisor(
            uvicorn_config("service.server:worker", settings), listener, metrics
        )
        log_address(listener, f"{settings.workers} workers")
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise BundleError("a worker did not start; its own line says why")
        return
    for number in STOP_SIGNALS:  # uvicorn raises again what stopped it
        signal.signal(number, exit_cleanly)
    app, fleet = application(settings)
    model = fleet.models[fleet.default_name()]
    log_address(listener, f"{fleet.default_name()}/{model.config.active}")
    uvicorn.Server(uvicorn_config(app, settings)).run(sockets=[listener])


def exit_cleanly(number: int, frame: FrameType | None) -> None:
    """To be told to stop is no failure: status 0, and what was opened is closed on the way."""
    raise SystemExit(0)


def worker() -> FastAPI:
    """The application of one of several workers; its settings come from the environment."""
    settings = with_profile(Settings.model_validate({}))
    configure(settings)
    try:
        return application(settings)[0]
    except (BundleError, KeysError, TelemetryError, OSError) as error:
        logger.error("%s", error)
        raise SystemExit(STARTUP_FAILURE) from None


def application(settings: Settings) -> tuple[FastAPI, Fleet]:
    """The application with its models loaded and warm."""
    # A thread that loads a model holds the interpreter for so long at a time; 5 ms, the default,
    # would be added to every tenth answer meanwhile.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    metrics = Metrics()
    fleet = Fleet.load(settings, metrics)

    def on_start(app: FastAPI) -> None:
        drain_on_sigterm(app, settings.drain_s, single_worker=settings.workers == 1)
        if settings.workers > 1:
            app.state.parent = asyncio.create_task(stop_with_parent(os.getppid()))
        # All that is there now stays: a full look through it for garbage took 30 ms, every second
        # or two under load, and was most of what 1 % of the requests waited.
        gc.collect()
        gc.freeze()

    return create_app(settings, fleet, metrics, on_start), fleet


async def stop_with_parent(parent: int) -> None:
    """Stop, as at SIGTERM, once the supervisor is gone: who starts anew needs the port."""
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_POLL_S)
    logger.error("the supervisor is gone, its worker stops")
    os.kill(os.getpid(), signal.SIGTERM)


def uvicorn_config(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs it."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        http=Protocol,
        ws="none",
        loop="uvloop",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who the client is decides nothing here
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.shutdown_s) or 1,
        timeout_worker_healthcheck=30,
    )


def log_address(listener: socket.socket, served: str) -> None:
    """One line that says where, once it can be asked."""
    host, port = listener.getsockname()[:2]
    host_text = f"[{host}]" if ":" in host else host
    logger.info("serving %s on http://%s:%d", served, host_text, port)


def drain_on_sigterm(app: FastAPI, drain_s: float, single_worker: bool) -> None:
    """Before uvicorn's own handling of SIGTERM: unready at once, but served for `drain_s` more.

    A second signal does not wait; but one of several workers may get a first one twice, from its
    parent and from who signals every process, and only leaves off at its parent's SIGINT. Does
    nothing outside of the main thread, where nobody signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop, previous = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        if not callable(previous):
            return
        loop.call_soon_threadsafe(logger.info, "told to stop")  # not in the middle of another line
        if not drain_s or (app.state.draining and single_worker):
            previous(number, frame)
        elif not app.state.draining:
            loop.call_soon_threadsafe(lambda: loop.call_later(drain_s, previous, number, None))
        app.state.draining = True

    signal.signal(signal.SIGTERM, on_sigterm)


def listen(host: str, port: int) -> socket.socket:
    """A listening address. Raises OSError naming it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port}: cannot listen there ({error.strerror})") from None
    listener.listen(BACKLOG)  # who connects before the model is warm waits, and is answered
    return listener


def export_settings(settings: Settings, overrides: dict[str, Any]) -> None:
    """Let workers find in the environment what the command line said."""
    for name in overrides:
        os.environ[f"RERANK_{name.upper()}"] = str(getattr(settings, name))
