"""Connections belong to one process and one event loop, and ignore the proxies around them."""

import asyncio
import gc
import threading
from pathlib import Path

import certifi
import httpx
import pytest

from rerank_client import AsyncClient, Client
from rerank_client.connections import _ssl_context
from tests.client.forking import CALLS, PROCESSES, forked
from tests.support.scripted import PATIENT_MS, reply, response_to, scripted

PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@pytest.mark.parametrize("mode", ["sync", "async", "threads", "function"])
def test_processes_that_inherit_a_used_client_each_get_their_own_slates(url, mode):
    expected = [f"{process}: {CALLS} of {CALLS} right" for process in range(PROCESSES)]
    assert forked(url, mode) == expected


def test_an_httpx_client_of_the_caller_is_refused_in_a_second_process(url):
    first, *children = forked(url, "instance")
    assert first == f"0: {CALLS} of {CALLS} right"
    assert len(children) == PROCESSES - 1
    for line in children:
        assert "RuntimeError: http: was used in process" in line
        assert "pass a function that makes it, or make it after the fork" in line


def test_one_client_serves_event_loops_one_after_another(url):
    client = AsyncClient(url, timeout_ms=PATIENT_MS)
    responses = [asyncio.run(client.rerank(["1", "32"])) for _ in range(5)]
    assert [response.degraded for response in responses] == [None] * 5
    assert len(client._connections._open) == 1  # those of closed loops are released
    asyncio.run(client.aclose())
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(client.rerank(["1", "32"]))


def test_one_client_serves_event_loops_in_several_threads_at_once(url):
    client = AsyncClient(url, timeout_ms=PATIENT_MS)
    together = threading.Barrier(4)
    responses = []

    async def rank(number):
        together.wait(30)
        for call in range(20):
            ids = [f"{number}-{call}-{i}" for i in range(4)]
            response = await client.rerank(ids)
            responses.append((response.degraded, set(response.ids) == set(ids)))

    threads = [threading.Thread(target=asyncio.run, args=(rank(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert responses == [(None, True)] * 80
    asyncio.run(client.aclose())


def test_closing_an_async_client_closes_the_connections_of_a_loop_in_another_thread(url):
    client = AsyncClient(url, timeout_ms=PATIENT_MS)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(client.rerank(["1", "32"]), loop).result(30)
        (http,) = client._connections._open.values()
        asyncio.run(client.aclose())
        settled = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), loop)
        settled.result(30)
        assert http.is_closed
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_httpx_client_of_another_loop_falls_back_and_never_raises(url):
    http = httpx.AsyncClient()
    client = AsyncClient(url, timeout_ms=2000, http=http)
    assert asyncio.run(client.rerank(["1", "32"])).degraded is None
    for _ in range(3):
        response = asyncio.run(client.rerank(["1", "32"]))
        assert set(response.ids) == {"1", "32"}
    del client, http
    gc.collect()  # nothing can close a connection of a loop that is closed


def test_a_function_that_makes_httpx_clients_is_called_once_per_loop(url):
    made = []

    def make():
        made.append(httpx.AsyncClient())
        return made[-1]

    async def rank_twice():
        return [(await client.rerank(["1", "32"])).degraded for _ in range(2)]

    client = AsyncClient(url, timeout_ms=PATIENT_MS, http=make)
    assert [asyncio.run(rank_twice()) for _ in range(3)] == [[None, None]] * 3
    assert [http.is_closed for http in made] == [True] * 3


@pytest.mark.parametrize("proxy", ["{down}", "socks5://127.0.0.1:9", "nonsense://x"])
def test_proxies_of_the_environment_are_not_used(connect, url, down, monkeypatch, proxy):
    for name in PROXIES:
        monkeypatch.setenv(name, proxy.format(down=down))
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert connect(url).rerank(["1", "32"]).degraded is None


def test_a_proxy_that_the_caller_passes_is_used():
    def respond(body, request_id):
        return reply(body=response_to(body, request_id))

    with scripted(respond) as proxy, httpx.Client(proxy=proxy.url) as passed:
        for http in (passed, lambda: httpx.Client(proxy=proxy.url)):
            with Client("http://elsewhere.invalid", timeout_ms=PATIENT_MS, http=http) as client:
                assert client.rerank(["a", "b"]).ids == ("b", "a")
        assert len(proxy.requests) == 2


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_missing_file_of_certificates_matters_only_to_https(connect, url, monkeypatch, name):
    monkeypatch.setenv(name, "/missing/certificates")
    assert connect(url).rerank(["1", "32"]).degraded is None


def test_an_unreadable_file_of_certificates_is_a_value_error_that_names_the_variable(
    monkeypatch, tmp_path
):
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    for path in ("/missing/certificates.pem", tmp_path):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(ValueError, match=f"environment SSL_CERT_FILE='{path}': cannot be used"):
            Client("https://a")


def test_https_trusts_the_certificates_of_the_environment(monkeypatch, tmp_path):
    everything = Path(certifi.where()).read_text(encoding="utf-8")
    end = "-----END CERTIFICATE-----\n"
    one = tmp_path / "one.pem"
    one.write_text(everything[: everything.index(end) + len(end)], encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(one))
    assert len(_ssl_context(["http://a", "HTTPS://b"]).get_ca_certs()) == 1
    assert _ssl_context(["http://a"]).get_ca_certs() == []


@pytest.mark.parametrize(
    ("kind", "http"), [(Client, httpx.AsyncClient()), (AsyncClient, httpx.Client()), (Client, 7)]
)
def test_a_wrong_kind_of_httpx_client_is_a_type_error(kind, http):
    with pytest.raises(TypeError, match=r"^http: must be an httpx\.(Async)?Client or a function"):
        kind("http://a", http=http)
