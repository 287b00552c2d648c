"""Engines of the entity store, over real servers."""

import pytest

from service.state.address import parse_address
from service.state.opening import open_engine
from tests.support.processes import poll
from tests.support.redis_servers import free_port, redis_server


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """Start each server at its first use."""
    running, contexts = {}, []

    def start(name):
        if name not in running:
            options: tuple[str, ...] = ()
            if name == "cluster":  # its second port would be 10,000 above, which may not exist
                options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            context = redis_server(
                "redis" if name == "cluster" else name, tmp_path_factory.mktemp(name), *options
            )
            running[name] = context.__enter__()
            contexts.append(context)
            if name == "cluster":
                with running[name].client() as client:
                    client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
                    assert poll(lambda: client.cluster("info")["cluster_state"] == "ok", 30)
        return running[name]

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


@pytest.fixture
def address(request, servers, tmp_path):
    """The address of an empty store of the engine that the test is parametrised with."""
    if request.param == "lmdb":
        return parse_address(f"lmdb://{tmp_path}/state")
    server = servers(request.param)
    with server.client() as client:
        client.flushall()
    query = "?cluster=true" if request.param == "cluster" else ""
    return parse_address(f"redis://127.0.0.1:{server.port}/0{query}")


@pytest.fixture
def engine(address):
    """An engine over an empty store."""
    opened = open_engine(address, timeout_s=30)
    yield opened
    opened.close()
