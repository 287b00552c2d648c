"""The network of tests that run for every host."""

import dataclasses

import pytest

from model.network.hosts import HOSTS
from tests.support import generators


@pytest.fixture(params=sorted(HOSTS))
def network(request, monkeypatch):
    """Let tests.support.generators build generators with each host in turn."""
    network = dataclasses.replace(generators.NETWORK, host=request.param)
    monkeypatch.setattr(generators, "NETWORK", network)
    return network
