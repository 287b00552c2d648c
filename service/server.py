"""Start the processes of the service, on top of uvicorn."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from functools import partial
from multiprocessing.connection import Connection

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from service.accepting import BalancedServer
from service.engine.contract import BundleError
from service.engine.digests import Digests
from service.http.api import create_app
from service.http.protocol import Protocol
from service.http.security import KeysError
from service.metrics import Metrics
from service.models.deployment import hash_files
from service.models.fleet import Fleet
from service.settings import Settings
from service.shared_values import SharedValues
from service.signals import Drain, exit_if_stopped, handle
from service.supervisor import Supervisor
from service.telemetry import TelemetryError, configure
from service.upkeep import check_repeatedly, raise_descriptor_limit

logger = logging.getLogger("service")

BACKLOG = 2048  # connections that wait to be accepted
SWITCH_INTERVAL_S = 0.0001
KEEP_ALIVE_S = 75  # longer than clients keep a connection, so that the client closes it


def serve(settings: Settings) -> None:
    """Serve until a stop signal.

    Raises BundleError, KeysError, TelemetryError or OSError if the service cannot start.
    """
    listener = listen(settings.host, settings.port)
    raise_descriptor_limit()
    if settings.workers > 1:
        shared = SharedValues.create(settings.workers)
        main = partial(run_worker, digests=hash_files(settings))
        supervisor = Supervisor(main, settings, listener, shared, Metrics(shared))
        log_address(listener, f"{settings.workers} workers")
        supervisor.run()
        return
    handle(exit_if_stopped)  # uvicorn raises the signal again after it has stopped
    app, fleet = application(settings)
    model = fleet.models[fleet.default_name()]
    log_address(listener, f"{fleet.default_name()}/{model.config.active}")
    uvicorn.Server(uvicorn_config(app, settings)).run(sockets=[listener])


def run_worker(
    settings: Settings,
    listener: socket.socket,
    shared: SharedValues,
    slot: int,
    failure: Connection,
    digests: Digests,
) -> None:
    """Serve as one of several workers; send the supervisor the reason if that is impossible.

    digests: of files that the supervisor has read, and that no worker has to read again.
    """
    configure(settings)
    handle(exit_if_stopped)
    try:
        app, _ = application(settings, shared, slot, digests)
    except Exception as error:
        reason = failure_reason(error)
        if reason == "internal":
            logger.exception("unhandled error at the start of a worker")
        failure.send((reason, str(error) or repr(error)))
        raise SystemExit(STARTUP_FAILURE) from None
    others = [each for number, each in enumerate(shared.slots) if number not in (0, slot)]
    server = BalancedServer(uvicorn_config(app, settings), shared.slots[slot], others)
    server.run(sockets=[listener])


def failure_reason(error: Exception) -> str:
    """Return the label of an error that keeps a worker from starting."""
    reasons = {BundleError: "bundle", KeysError: "keys", TelemetryError: "telemetry"}
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    return "system" if isinstance(error, OSError | MemoryError) else "internal"


def application(
    settings: Settings,
    shared: SharedValues | None = None,
    slot: int = 0,
    digests: Digests | None = None,
) -> tuple[FastAPI, Fleet]:
    """Load and warm the models and build the application over them.

    Args:
        shared: The values of all processes of the service, for one of several workers.
        slot: The worker's slot among them.
        digests: Of files that the supervisor has read.
    """
    # A thread that loads a model holds the interpreter for this long at a time. The default, 5 ms,
    # would be added to every tenth response during a load.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    metrics = Metrics(shared, slot)
    fleet = Fleet.load(settings, metrics, digests)

    def on_start(app: FastAPI) -> None:
        def drain() -> None:
            app.state.draining = True

        # Kept in the state, or it would be collected.
        app.state.drain = Drain(
            settings.drain_s, shared is None, on_drain=drain, on_reload=app.state.reload
        )
        if shared is None:
            metrics.workers.set(1)
            metrics.workers_configured.set(1)
            checks = check_repeatedly(metrics)
        else:
            checks = check_repeatedly(metrics, shared.slots[slot], shared.slots[0].pid)
        app.state.checks = asyncio.create_task(checks)
        # All present objects stay alive. A full collection over them took 30 ms, every second or
        # two under load, and dominated the slowest 1 % of the requests.
        gc.collect()
        gc.freeze()

    return create_app(settings, fleet, metrics, on_start), fleet


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return the configuration with which uvicorn runs an application."""
    return uvicorn.Config(
        app,
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
    except (OSError, TypeError) as error:  # TypeError: IDNA cannot encode the name
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else error
        raise OSError(f"{host}:{port}: cannot listen ({reason})") from None
    listener.listen(BACKLOG)  # connections made before the model is warm wait for their response
    return listener
