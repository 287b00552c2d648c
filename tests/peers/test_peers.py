"""The peers: they do the service's work, and their environments hold what it imports."""

import importlib.metadata
import json
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

from loadtest.openloop import response_fields
from loadtest.scenarios import Catalogue, RequestOptions, history, ids_only, inline
from loadtest.server import serving
from peers import PEERS, from_bodies, from_v2, to_bodies, to_v2, unchanged
from peers.environments import requirements_of
from peers.work import Work

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "ranklens" / "1"
CONTENT = '{"candidates": ["1", "ä \\" \\n"]}'.encode()


@pytest.fixture(scope="module")
def work():
    return Work(BUNDLE)


@pytest.fixture(scope="module")
def service():
    settings = {"timeout_ms": 60_000, "adaptive_budget": "false", "backend": "onnx"}
    with serving(BUNDLE, **settings) as server:
        yield server.url


def bodies_of(make, count=3):
    draw, catalogue = random.Random(4), Catalogue.of(BUNDLE)
    sizes = (50, 7, 20)[:count]
    return [json.dumps(make(catalogue, RequestOptions(size), draw)).encode() for size in sizes]


def test_a_response_of_a_peer_has_no_figures_of_the_service(work):
    response = json.loads(work.handle(bodies_of(ids_only, 1))[0])
    for shape in (response, [json.dumps(response)], {"outputs": [response]}):
        assert response_fields(shape) == {}


@pytest.mark.parametrize("make", [ids_only, history, inline])
def test_the_work_of_a_peer_responds_as_the_service_does(work, service, make):
    for body in bodies_of(make):
        (content,) = work.handle([body])
        peer = json.loads(content)
        response = httpx.post(f"{service}/rerank", content=body, timeout=60).json()
        assert peer["slate"] == response["slate"]
        assert peer["model"].items() <= response["model"].items()
        assert peer["reasoning"].items() <= response["reasoning"].items()
        assert response["degraded"] is None


def test_responses_to_requests_that_share_a_run_come_in_their_order(work):
    bodies = [body for make in (ids_only, history) for body in bodies_of(make)]
    alone = [json.loads(work.handle([body])[0])["slate"] for body in bodies]
    together = [json.loads(content)["slate"] for content in work.handle(bodies)]
    first, second = (
        [[entry["id"] for entry in slate] for slate in slates] for slates in (alone, together)
    )
    assert first == second


def test_slate_size_and_reasoning_of_a_request_reach_the_run(work):
    body = {"candidates": ["1", "296", "318", "4993"], "slate_size": 2, "reasoning": {"budget": 0}}
    response = json.loads(work.handle([json.dumps(body).encode()])[0])
    assert len(response["slate"]) == 2
    assert response["reasoning"] == {"steps_used": 0, "budget": 0, "budget_per_position": 0}


def test_the_v2_protocol_carries_the_body_as_its_only_string():
    (tensor,) = json.loads(to_v2(CONTENT))["inputs"]
    assert tensor["data"] == [CONTENT.decode()]
    assert (tensor["datatype"], tensor["shape"]) == ("BYTES", [1, 1])
    assert from_v2(json.dumps({"outputs": [tensor]}).encode()) == CONTENT


def test_a_list_of_bodies_carries_the_body_as_its_only_string():
    bodies = json.loads(to_bodies(CONTENT))["bodies"]
    assert bodies == [CONTENT.decode()]
    assert from_bodies(json.dumps(bodies).encode()) == CONTENT
    assert unchanged(CONTENT) == CONTENT


def pins_of(peer):
    lines = requirements_of(peer).read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def normalised(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_names_a_module_exact_pins_settings_and_routes(peer):
    assert (ROOT / "peers" / f"{peer.module}.py").is_file()
    pins = pins_of(peer)
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.]+", pin)] == []
    assert len(peer.settings.split()) > 10
    assert peer.path.startswith("/")
    assert peer.ready.startswith("/")


def service_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return project["dependency-groups"]["service"]


def test_every_peer_runs_the_graph_on_the_runtime_that_the_service_has():
    (runtime,) = (pin for pin in service_pins() if pin.startswith("onnxruntime=="))
    assert [peer.module for peer in PEERS if runtime not in pins_of(peer)] == []


@pytest.fixture(scope="module")
def imported():
    """Return the service's dependencies that `peers.work` imports."""
    code = "import sys, peers.work; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    distributions = importlib.metadata.packages_distributions()
    loaded = {normalised(d) for module in output.split() for d in distributions.get(module, ())}
    return loaded & {normalised(pin.split("==")[0]) for pin in service_pins()}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_the_environment_of_a_peer_holds_the_dependencies_that_its_work_imports(peer, imported):
    pins = {normalised(re.split(r"[\[=]", pin)[0]) for pin in pins_of(peer)}
    assert {"numpy", "onnxruntime", "fastapi"} <= imported
    assert imported - pins == set()


def test_a_peer_in_the_environment_of_development_pins_the_packages_installed_there():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    constraints = {line.lower() for line in lines}
    peers = [peer for peer in PEERS if peer.environment is not None]
    assert peers
    for peer in peers:
        assert {pin.lower() for pin in pins_of(peer)} <= constraints


def test_no_two_peers_share_a_name_or_the_module_and_work():
    for names in ([peer.name for peer in PEERS], [(peer.module, peer.work) for peer in PEERS]):
        assert len(set(names)) == len(names)


def test_one_server_is_compared_with_the_exported_graph_and_with_equal_work():
    works = {work: {p.module for p in PEERS if p.work == work} for work in ("exported", "equal")}
    assert works["equal"]
    assert works["equal"] <= works["exported"]
