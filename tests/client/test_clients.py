"""Both clients on real sockets, against the service and against scripted failures."""

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from rerank_client import AsyncClient, Client, Failed, Refused, TimedOut, Unavailable
from rerank_client.clients import TIMEOUT_MS
from rerank_client.connections import LIMITS
from service.server import KEEP_ALIVE_S
from service.settings import Settings
from tests.support.scripted import (
    CUT,
    HANG,
    PATIENT_MS,
    RESET,
    TRICKLE,
    reply,
    response_to,
    scripted,
)
from tests.support.servers import fresh

CANDIDATES = [str(i) for i in (1, 32, 34, 47, 50, 110, 150, 165)]


def reversed_slate(body, request_id):
    return reply(body=response_to(body, request_id))


def elapsed_s(call):
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_a_response_equals_that_of_plain_http(connect, url):
    options = {
        "user": {"history": ["260", {"id": "1721", "label": 0.0}]},
        "slate_size": 3,
        "reasoning": {"budget": 2, "entropy_threshold": -1.0},
        "constraints": {"pinned": {"34": 1}, "blocked": ["1"]},
        "temperatures": {"recommend": 2.0},
        "sampling": {"slates": 4, "seed": 7},
    }
    plain = {"candidates": [{"id": item} for item in CANDIDATES], **options}
    expected = httpx.post(f"{url}/rerank", json=plain, timeout=30).raise_for_status().json()
    client = connect(url)
    response = client.rerank(CANDIDATES, request_id="mine", **options)
    assert response.raw["slate"] == expected["slate"]
    assert response.ids == tuple(entry["id"] for entry in expected["slate"])
    assert response.raw["utility"] == expected["utility"]
    assert response.slate[1].id == "34"
    assert response.reasoning.steps_used == expected["reasoning"]["steps_used"] > 0
    assert (response.model.name, response.request_id) == ("ranklens", "mine")
    assert response.degraded is None
    assert response.latency_ms["total"] > 0
    other = client.rerank(CANDIDATES, **options | {"sampling": None})
    assert other.raw["utility"] is None


def test_a_batch_returns_its_lists_in_order_each_with_its_id(connect, url):
    client = connect(url)
    lists = [{"candidates": CANDIDATES[:n], "slate_size": 2} for n in (2, 5, 8)]
    responses = client.rerank_many(lists, request_id="page")
    assert [response.request_id for response in responses] == ["page.0", "page.1", "page.2"]
    alone = [client.rerank(CANDIDATES[:n], slate_size=2) for n in (2, 5, 8)]
    assert [response.ids for response in responses] == [response.ids for response in alone]
    assert client.rerank_many([]) == []


def test_a_refusal_names_every_field_and_is_raised_despite_the_fallback(connect, url):
    client = connect(url)
    with pytest.raises(Refused) as raised:
        client.rerank(CANDIDATES, slate_size=0, reasoning={"budget": -1}, request_id="mine")
    assert (raised.value.status, raised.value.code) == (422, "invalid_request")
    assert raised.value.request_id == "mine"
    assert [error.field for error in raised.value.errors] == ["slate_size", "reasoning.budget"]
    with pytest.raises(Refused) as raised:
        client.rerank_many([{"candidates": CANDIDATES}, {"candidates": ["1", "1"]}])
    assert [error.field for error in raised.value.errors] == ["requests[1].candidates[1].id"]
    assert client.rerank(CANDIDATES, slate_size=1).degraded is None


def test_an_explanation_is_present_only_with_explain(connect, url):
    plain, explained = (connect(url).rerank(CANDIDATES, explain=flag) for flag in (False, True))
    assert plain.slate[0].explanation is None
    assert 0 < explained.slate[0].explanation["probability"] <= 1


def test_a_degraded_response_of_the_service_keeps_its_reason_and_model(connect, session):
    with fresh(session, timeout_ms=0.001) as hasty:
        response = connect(hasty).rerank(CANDIDATES, slate_size=2)
    assert response.degraded == "deadline"
    assert response.ids == tuple(CANDIDATES[:2])
    assert (response.slate[0].logprob, response.model.name) == (None, "ranklens")


@pytest.mark.parametrize(("grace_s", "degraded"), [(5.0, "deadline"), (0.01, "client: timeout")])
def test_a_response_within_the_grace_period_counts(connect, monkeypatch, grace_s, degraded):
    def late(body, request_id):
        time.sleep(0.15)
        return reply(body=response_to(body, request_id, degraded={"reason": "deadline"}))

    monkeypatch.setattr("rerank_client.dispatch.GRACE_S", grace_s)
    with scripted(late) as server:
        assert connect(server.url, timeout_ms=50).rerank(["a"]).degraded == degraded


def test_headers_carry_deadline_key_id_and_trace(connect):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with scripted(reversed_slate) as server:
        connect(server.url, api_key="s3cret").rerank(
            ["a"], timeout_ms=5000, request_id="mine", traceparent=trace
        )
        connect(server.url, timeout_ms=700).rerank(["a"])
    (headers, _), (bare, _) = server.requests
    assert headers["authorization"] == "Bearer s3cret"
    assert headers["traceparent"] == trace
    assert headers["x-request-id"] == "mine"
    assert 4000 < float(headers["x-request-timeout-ms"]) <= 5000
    assert 0 < float(bare["x-request-timeout-ms"]) <= 700
    assert "authorization" not in bare
    assert "traceparent" not in bare
    assert len(bare["x-request-id"]) == 32


def test_a_refused_connection_and_a_reset_are_retried_on_the_next_instance(connect, down):
    with scripted(RESET) as resetting, scripted(reversed_slate) as good:
        response = connect([down, resetting.url, good.url]).rerank(["a", "b"])
        assert response.ids == ("b", "a")
        assert response.degraded is None
        assert (len(resetting.requests), len(good.requests)) == (1, 1)
        sent = [server.requests[0][0]["x-request-id"] for server in (resetting, good)]
        assert sent[0] == sent[1] == good.requests[0][0]["x-request-id"]
        lone = connect([down, resetting.url]).rerank(["a", "b"])
        assert lone.degraded == "client: unavailable"
        assert lone.ids == ("a", "b")


def test_an_incomplete_response_is_not_retried(connect):
    with scripted(CUT) as cutting, scripted(reversed_slate) as good:
        response = connect([cutting.url, good.url]).rerank(["a", "b"])
        assert response.degraded == "client: broken answer"
        assert good.requests == []


@pytest.mark.alone
def test_a_busy_instance_is_tried_again_after_retry_after_if_time_is_left(connect):
    busy = reply(status=503, Retry_After="1")
    with scripted(busy, reversed_slate) as server:
        client = connect(server.url)
        assert elapsed_s(lambda: client.rerank(["a"], timeout_ms=900)) < 0.9
        assert len(server.requests) == 1
    with scripted(busy, reversed_slate) as server:
        client = connect(server.url)
        assert elapsed_s(lambda: client.rerank(["a"], timeout_ms=3000)) >= 1
        (first, _), (second, _) = server.requests
    left = [float(headers["x-request-timeout-ms"]) for headers in (first, second)]
    assert left[0] - left[1] >= 1000


@pytest.mark.alone
@pytest.mark.parametrize("act", [HANG, TRICKLE])
def test_a_server_that_hangs_or_trickles_ends_a_call_soon_after_the_deadline(connect, act):
    with scripted(act) as server:
        client = connect(server.url, timeout_ms=150)
        client.rerank(["a"], timeout_ms=1)  # leave one-time work out of the measurement
        options = {"slate_size": 1, "constraints": {"blocked": ["a"], "pinned": {"c": 0}}}
        began = time.monotonic()
        response = client.rerank(["a", "b", "c"], **options)
        spent = time.monotonic() - began
        assert response.degraded == "client: timeout"
        assert response.ids == ("c",)
        assert 0.15 <= spent < 1
        with pytest.raises(TimedOut):
            connect(server.url, fallback=False).rerank(["a"], timeout_ms=20)


@pytest.mark.parametrize(
    ("act", "kind", "reason"),
    [
        (reply(status=500), Failed, "status 500"),
        (reply(status=504), TimedOut, "timeout"),
        (reply(status=503, Retry_After="60"), Unavailable, "unavailable"),
        (reply(body=b"<html>"), Failed, "unreadable answer"),
        (RESET, Unavailable, "unavailable"),
    ],
)
def test_every_failure_falls_back_after_one_request_or_raises(connect, act, kind, reason):
    with scripted(act) as server:
        response = connect(server.url).rerank(["a", "b"], slate_size=1)
        assert (response.degraded, response.ids) == (f"client: {reason}", ("a",))
        assert len(server.requests) == 1
        with pytest.raises(kind) as raised:
            connect(server.url, fallback=False, api_key="s3cret").rerank(["a"], request_id="mine")
    assert (raised.value.reason, raised.value.request_id) == (reason, "mine")
    error = raised.value
    while error is not None:
        assert "s3cret" not in f"{error!r} {error} {vars(error)}"
        error = error.__cause__ or error.__context__


def test_a_batch_falls_back_list_by_list(connect, down):
    lists = [{"candidates": ["a", "b"]}, {"candidates": ["c", "d"], "slate_size": 1}]
    responses = connect(down).rerank_many(lists, request_id="page")
    assert [response.ids for response in responses] == [("a", "b"), ("c",)]
    assert [response.request_id for response in responses] == ["page.0", "page.1"]
    with pytest.raises(Unavailable):
        connect(down, fallback=False).rerank_many(lists)


def test_a_rolling_restart_degrades_no_response_while_one_instance_is_up(connect, session):
    def start(stack):
        return stack.enter_context(fresh(session))

    def while_stopping(stack, client):
        stopping = threading.Thread(target=stack.close)
        stopping.start()
        responses = [client.rerank(CANDIDATES)]
        while stopping.is_alive():
            responses.append(client.rerank(CANDIDATES))
        return [*responses, client.rerank(CANDIDATES)]

    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        client = connect([start(first), start(second)])
        responses = [client.rerank(CANDIDATES), *while_stopping(first, client)]
        assert {response.degraded for response in responses} == {None}
        assert {response.ids for response in responses} == {responses[0].ids}
        last = while_stopping(second, client)[-1]
    assert last.degraded == "client: unavailable"


def test_threads_share_a_client_and_tasks_an_async_client(url):
    sizes = [1 + i % 8 for i in range(40)]
    with Client(url, timeout_ms=PATIENT_MS) as client, ThreadPoolExecutor(8) as pool:
        threads = list(pool.map(lambda n: client.rerank(CANDIDATES, slate_size=n), sizes))

    async def together():
        async with AsyncClient(url, timeout_ms=PATIENT_MS) as client:
            return await asyncio.gather(*(client.rerank(CANDIDATES, slate_size=n) for n in sizes))

    for responses in (threads, asyncio.run(together())):
        assert [len(response.slate) for response in responses] == sizes
        assert not any(response.degraded for response in responses)


@pytest.mark.parametrize("act", [TRICKLE, reply(body=b"no gzip", Content_Encoding="gzip")])
def test_an_abandoned_response_releases_its_connection(connect, monkeypatch, act):
    monkeypatch.setattr("rerank_client.connections.LIMITS", httpx.Limits(max_connections=1))
    with scripted(act, reversed_slate) as server:
        client = connect(server.url)
        assert client.rerank(["a"], timeout_ms=100).degraded.startswith("client: ")
        assert client.rerank(["a"]).degraded is None


def test_idle_connections_are_closed_before_the_service_closes_them(connect, monkeypatch, url):
    assert LIMITS.keepalive_expiry is not None
    assert LIMITS.keepalive_expiry < KEEP_ALIVE_S
    assert connect(url).rerank(CANDIDATES).degraded is None
    monkeypatch.setattr("rerank_client.connections.LIMITS", httpx.Limits(max_connections=0))
    assert connect(url, timeout_ms=50).rerank(CANDIDATES).degraded == "client: timeout"


def test_a_client_keeps_working_after_the_cancellation_of_a_call():
    async def cancelled():
        with scripted(HANG, reversed_slate) as server:
            async with AsyncClient(server.url, timeout_ms=5000) as client:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await client.rerank(["a"])
                return await client.rerank(["a"])

    assert asyncio.run(cancelled()).degraded is None


def test_an_http_client_of_the_caller_is_used_and_left_open(url):
    requests: list[httpx.Request] = []
    with httpx.Client(event_hooks={"request": [requests.append]}, timeout=1e-6) as http:
        with Client(url, timeout_ms=PATIENT_MS, http=http) as client:
            assert client.rerank(CANDIDATES).degraded is None
        assert len(requests) == 1
        assert not http.is_closed

    async def with_async_client():
        async with httpx.AsyncClient(timeout=1e-6) as http:
            async with AsyncClient(url, timeout_ms=PATIENT_MS, http=http) as client:
                response = await client.rerank(CANDIDATES)
            return response.degraded, http.is_closed

    assert asyncio.run(with_async_client()) == (None, False)
    with Client(url) as client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        client.rerank(CANDIDATES)


def test_the_repr_has_the_urls_and_not_the_key():
    for kind in (Client, AsyncClient):
        text = repr(kind("http://a:8000", timeout_ms=5, api_key="s3cret"))
        assert text == (
            f"{kind.__name__}(urls=['http://a:8000'], timeout_ms=5, fallback=True)"
        )  # fmt: skip


def test_the_default_timeout_is_that_of_the_service():
    assert Settings.model_fields["timeout_ms"].default == TIMEOUT_MS
