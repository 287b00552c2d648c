"""Ranking calls with and without the server's extension for whole bodies and responses."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from service.http.exchange import Exchange
from tests.support.servers import application

VARYING = {"date", "server-timing", "x-request-id"}


def post(app, body, **headers):
    """Return the response of an application called by ASGI messages alone."""

    async def call():
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
                return await client.post("/rerank", json=body, headers=headers)

    return asyncio.run(call())


def without_times(response):
    content = response.json()
    for name in ("latency_ms", "request_id"):
        del content[name]
    headers = {name: text for name, text in response.headers.items() if name not in VARYING}
    headers.pop("content-length")
    return response.status_code, headers, content


@pytest.mark.parametrize("slate_size", [5, "five"])
def test_a_server_without_the_extension_gets_the_same_response(session, client, items, slate_size):
    body = {"candidates": items[:10], "slate_size": slate_size}
    by_messages = post(application(session), body)
    by_extension = client.post("/rerank", json=body)
    if slate_size == 5:
        assert without_times(by_messages) == without_times(by_extension)
    assert by_messages.status_code == by_extension.status_code
    assert by_messages.headers.keys() ^ by_extension.headers.keys() == {"date"}


def test_the_header_traceparent_of_a_request_is_sent_back(client, items):
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    response = client.post(
        "/rerank", json={"candidates": items[:3]}, headers={"traceparent": parent}
    )
    assert response.headers["traceparent"] == parent


def exchange(write_paused=False, disconnected=False):
    """Return the exchange of a request whose body has not arrived, over a stand-in of uvicorn's."""
    state: Any = SimpleNamespace(
        flow=SimpleNamespace(write_paused=write_paused), disconnected=disconnected,
        more_body=True, waiting_for_100_continue=False,
    )  # fmt: skip
    return Exchange(state)


def test_a_response_to_a_slow_reader_is_left_to_messages():
    assert not exchange(write_paused=True).respond(200, [], b"", close=False)


def test_a_response_to_a_client_that_left_is_dropped():
    assert exchange(disconnected=True).respond(200, [], b"", close=False)


def test_a_body_that_has_not_arrived_is_left_to_messages():
    assert exchange().take_body() is None
