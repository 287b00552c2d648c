"""A real server on a real socket over the committed bundle."""

import contextlib
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn

from service import wire
from service.app import create_app
from service.session import Session
from service.settings import Settings

BUNDLE = Path(__file__).parents[2] / "bundles" / "ranklens" / "1"


@pytest.fixture(scope="session")
def session():
    return Session.load(BUNDLE)


@contextlib.contextmanager
def serving(app):
    """Run the application in a thread; yields its base URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(wire.config(app, "warning"))
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


@pytest.fixture(scope="session")
def url(session):
    with serving(create_app(Settings(timeout_ms=60_000), session)) as base:
        yield base


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, timeout=30) as connected:
        yield connected


@pytest.fixture(scope="session")
def items(session):
    """Known item ids, in the order of the table."""
    return list(session.featuriser.items.ids)


def fresh(session, **settings):
    """A server of its own, for what the shared one must not suffer; patient, like the shared one.

    A machine of two shared cores stalls now and then for longer than the default deadline.
    """
    return serving(create_app(Settings(**{"timeout_ms": 60_000, **settings}), session))
