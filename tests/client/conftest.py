"""Fixtures of the client's tests: an unused address, and clients of both kinds."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket

import pytest

from rerank_client import AsyncClient, Client
from tests.support.scripted import PATIENT_MS


@pytest.fixture
def down():
    """The URL of an instance that refuses connections."""
    # The socket is bound, so that no other test gets the port, but it does not listen.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


class BlockingAsyncClient:
    """An AsyncClient with the blocking methods of a Client."""

    def __init__(self, runner, client):
        self.runner, self.client = runner, client

    def __getattr__(self, name):
        method = getattr(self.client, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*args, **more):
            return await method(*args, **more)

        return lambda *args, **more: self.runner.run(call(*args, **more))


@pytest.fixture(params=["sync", "async"])
def connect(request):
    """A function that opens clients of either kind and closes them after the test."""
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def open_client(urls, **settings):
            settings = {"timeout_ms": PATIENT_MS, **settings}
            if request.param == "sync":
                return stack.enter_context(Client(urls, **settings))
            client = BlockingAsyncClient(runner, AsyncClient(urls, **settings))
            stack.callback(client.aclose)
            return client

        yield open_client
