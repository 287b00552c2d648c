"""TLS connections belong to the process that opened them, as plain ones do."""

import shutil
import ssl

import httpx
import pytest

from rerank_client import Client
from tests.client.forking import CALLS, PROCESSES, forked
from tests.support.scripted import PATIENT_MS
from tests.support.tls import self_signed, tls_proxy

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture(scope="module")
def certificate_and_key(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def proxy(url, certificate_and_key, monkeypatch):
    """The https URL of the service, whose certificate is trusted, and its TLS connections."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate_and_key[0]))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    with tls_proxy(url, *certificate_and_key) as (https, connections):
        yield https, connections


@pytest.mark.parametrize("mode", ["sync", "async", "function", "dropped"])
def test_processes_that_inherit_a_used_tls_client_each_open_one_connection(proxy, mode):
    https, connections = proxy
    expected = [f"{process}: {CALLS} of {CALLS} right" for process in range(PROCESSES)]
    assert forked(https, mode) == expected
    assert len(set(connections)) == len(connections) == PROCESSES


def test_a_fork_while_threads_make_their_first_tls_calls_disturbs_no_process(proxy):
    https, connections = proxy
    expected = [f"{process}: {CALLS} of {CALLS} right" for process in range(PROCESSES)]
    assert forked(https, "threads") == expected
    assert len(connections) >= PROCESSES


def test_an_untrusted_certificate_makes_the_client_fall_back(proxy, monkeypatch):
    https, connections = proxy
    monkeypatch.delenv("SSL_CERT_FILE")
    with Client(https, timeout_ms=PATIENT_MS) as client:
        response = client.rerank(["1", "32"])
    assert response.degraded == "client: unavailable"
    assert connections == []


def test_a_caller_verifies_with_a_context_of_its_own(proxy, certificate_and_key, monkeypatch):
    https, _ = proxy
    monkeypatch.delenv("SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=str(certificate_and_key[0]))
    with Client(https, timeout_ms=PATIENT_MS, http=lambda: httpx.Client(verify=context)) as client:
        assert client.rerank(["1", "32"]).degraded is None
