"""A real server on a real socket over the committed bundle."""

import contextlib
import shutil
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn

from service.app import create_app
from service.fleet import Fleet
from service.metrics import Metrics
from service.server import config_of
from service.session import Session
from service.settings import Settings

BUNDLE = Path(__file__).parents[2] / "bundles" / "ranklens" / "1"


@pytest.fixture(scope="session")
def session():
    return Session.load(BUNDLE)


def application(session, **settings):
    """An application over one loaded bundle; patient, and as thoughtful under load as at rest.

    A machine of two shared cores stalls now and then for longer than the default deadline.
    """
    settings = Settings(**{"timeout_ms": 60_000, "adaptive_budget": False, **settings})
    metrics = Metrics()
    return create_app(settings, Fleet.of(session, settings, metrics), metrics)


@contextlib.contextmanager
def serving(app):
    """Run the application in a thread; yields its base URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(config_of(app, Settings()))
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
    with serving(application(session)) as base:
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
    """A server of its own, for what the shared one must not suffer."""
    return serving(application(session, **settings))


@pytest.fixture
def store(tmp_path):
    """A store that holds the committed bundle."""
    root = tmp_path / "models"
    shutil.copytree(BUNDLE, root / "ranklens" / "1")
    return root
