"""Fixtures of the tests over HTTP."""

import httpx
import pytest

from tests.support.fakes import Failing
from tests.support.servers import fresh


@pytest.fixture(scope="module")
def degraded(session):
    """A client of a service whose model fails, so that responses are the initial ranking."""
    failing = Failing(session)
    failing.supports_intent = True
    with fresh(failing) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client
