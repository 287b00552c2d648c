"""Fixtures of all tests: the committed bundle, loaded once, and one server over it.

One thread per process: two cores are shared by tests, servers and child processes.
"""

import os

import pytest

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy or polars is imported

from service.engine.session import Session  # noqa: E402
from tests.support.bundles import BUNDLE  # noqa: E402
from tests.support.servers import application, serving  # noqa: E402


@pytest.fixture(scope="session")
def session():
    return Session.load(BUNDLE)


@pytest.fixture(scope="session")
def url(session):
    """The base URL of a server that tests share."""
    with serving(application(session)) as base:
        yield base


@pytest.fixture(scope="session")
def items(session):
    """Known item ids, in the order of the table."""
    return list(session.featuriser.items.ids)
