"""Start the processes of the service, on top of uvicorn."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from service.engine.contract import BundleError
from service.http.api import create_app
from service.http.protocol import Protocol
from service.http.security import KeysError
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.settings import Settings, with_profile
from service.signals import STOP_SIGNALS, drain_on_sigterm, exit_cleanly
from service.supervisor import Supervisor, stop_with_parent
from service.telemetry import TelemetryError, configure

logger = logging.getLogger("service")

BACKLOG = 2048  # connections that wait to be accepted
SWITCH_INTERVAL_S = 0.0001
KEEP_ALIVE_S = 75  # longer than clients keep a connection, so that the client closes it


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises BundleError, KeysError, TelemetryError or OSError if the service cannot start.
    """
    listener = listen(settings.host, settings.port)
    if settings.workers > 1:
        metrics = Metrics()
        supervisor = Supervisor(
            uvicorn_config("service.server:worker", settings), listener, metrics
        )
        log_address(listener, f"{settings.workers} workers")
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise BundleError("a worker did not start; the line above gives its reason")
        return
    for number in STOP_SIGNALS:  # uvicorn raises the signal again after it has stopped
        signal.signal(number, exit_cleanly)
    app, fleet = application(settings)
    model = fleet.models[fleet.default_name()]
    log_address(listener, f"{fleet.default_name()}/{model.config.active}")
    uvicorn.Server(uvicorn_config(app, settings)).run(sockets=[listener])


def worker() -> FastAPI:
    """Build the application of one of several workers, with settings from the environment."""
    settings = with_profile(Settings.model_validate({}))
    configure(settings)
    try:
        return application(settings)[0]
    except (BundleError, KeysError, TelemetryError, OSError) as error:
        logger.error("%s", error)
        raise SystemExit(STARTUP_FAILURE) from None


def application(settings: Settings) -> tuple[FastAPI, Fleet]:
    """Load and warm the models and build the application over them."""
    # A thread that loads a model holds the interpreter for this long at a time. The default, 5 ms,
    # would be added to every tenth response during a load.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    metrics = Metrics()
    fleet = Fleet.load(settings, metrics)

    def on_start(app: FastAPI) -> None:
        drain_on_sigterm(app, settings.drain_s, single_worker=settings.workers == 1)
        if settings.workers > 1:
            app.state.parent = asyncio.create_task(stop_with_parent(os.getppid()))
        # All present objects stay alive. A full collection over them took 30 ms, every second or
        # two under load, and dominated the slowest 1 % of the requests.
        gc.collect()
        gc.freeze()

    return create_app(settings, fleet, metrics, on_start), fleet


def uvicorn_config(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    """Return the configuration with which uvicorn runs an application or its factory."""
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
        proxy_headers=False,  # nothing depends on the client's address
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.shutdown_s) or 1,
        timeout_worker_healthcheck=30,
    )


def log_address(listener: socket.socket, served: str) -> None:
    """Log the URL once the service accepts requests."""
    host, port = listener.getsockname()[:2]
    host_text = f"[{host}]" if ":" in host else host
    logger.info("serving %s on http://%s:%d", served, host_text, port)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError naming the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port}: cannot listen ({error.strerror})") from None
    listener.listen(BACKLOG)  # connections made before the model is warm wait for their response
    return listener


def export_settings(settings: Settings, overrides: dict[str, Any]) -> None:
    """Set environment variables for the options of the command line, which workers read."""
    for name in overrides:
        os.environ[f"RERANK_{name.upper()}"] = str(getattr(settings, name))
