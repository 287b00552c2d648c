"""Real servers on real sockets, in a thread of the test process."""

import contextlib
import socket
import threading
import time
from unittest import mock

import uvicorn

from service.http.api import create_app
from service.metrics import Metrics
from service.models import deployment
from service.models.fleet import Fleet
from service.server import uvicorn_config
from service.settings import Settings


def short_warm_up():
    """Let deployments warm up with short lists, which saves a tenth of a second each."""
    return mock.patch.object(deployment, "WARM_UP_LIST", 10)


def application(session, **settings):
    """Build an application over one bundle, with a long deadline and without adaptive budgets.

    Shared machines stall for longer than the default deadline.
    """
    values = Settings(**{"timeout_ms": 60_000, "adaptive_budget": False, **settings})
    metrics = Metrics()
    with short_warm_up():
        fleet = Fleet.of(session, values, metrics)
    return create_app(values, fleet, metrics)


@contextlib.contextmanager
def serving(app):
    """Run an application in a thread and yield its base URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn_config(app, Settings()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive()


def fresh(session, **settings):
    """Run a separate server, for tests that would disturb the shared one."""
    return serving(application(session, **settings))
