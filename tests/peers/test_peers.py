"""The peers: the same work as the service's, and servers that can be installed and started."""

import json
import random
import re
import tomllib
from pathlib import Path

import httpx
import pytest

from loadtest.openloop import told
from loadtest.scenarios import Asking, Catalogue, history, ids_only, inline
from loadtest.server import serving
from peers import PEERS, bodies_answer, bodies_body, same, v2_answer, v2_body
from peers.work import Work

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "ranklens" / "1"
PEERS_DIRECTORY = ROOT / "peers"


@pytest.fixture(scope="module")
def work():
    return Work(BUNDLE)


@pytest.fixture(scope="module")
def service():
    with serving(BUNDLE, timeout_ms=60_000, adaptive_budget="false") as server:
        yield server.url


def bodies_of(make, count=3):
    draw, catalogue = random.Random(4), Catalogue.of(BUNDLE)
    sizes = (50, 7, 20)[:count]
    return [json.dumps(make(catalogue, Asking(size), draw)).encode() for size in sizes]


def test_an_answer_in_the_shape_of_another_server_tells_nothing_of_itself(work):
    answer = json.loads(work.answer(bodies_of(ids_only, 1))[0])
    assert told(answer) == told([json.dumps(answer)]) == told({"outputs": [answer]}) == {}


@pytest.mark.parametrize("make", [ids_only, history, inline])
def test_the_work_of_a_peer_answers_as_the_service_does(work, service, make):
    for body in bodies_of(make):
        (content,) = work.answer([body])
        ours = json.loads(content)
        theirs = httpx.post(f"{service}/rerank", content=body, timeout=60).json()
        assert ours["slate"] == theirs["slate"]
        assert ours["model"].items() <= theirs["model"].items()
        assert ours["reasoning"].items() <= theirs["reasoning"].items()
        assert theirs["degraded"] is None


def test_lists_that_share_a_run_are_answered_in_their_order(work):
    bodies = [body for make in (ids_only, history) for body in bodies_of(make)]
    alone = [json.loads(work.answer([body])[0])["slate"] for body in bodies]
    together = [json.loads(content)["slate"] for content in work.answer(bodies)]
    chosen = [[[entry["id"] for entry in slate] for slate in way] for way in (alone, together)]
    assert chosen[0] == chosen[1]


def test_a_slate_size_and_reasoning_that_are_asked_for_reach_the_run(work):
    body = {"candidates": ["1", "296", "318", "4993"], "slate_size": 2, "reasoning": {"budget": 0}}
    answer = json.loads(work.answer([json.dumps(body).encode()])[0])
    assert len(answer["slate"]) == 2
    assert answer["reasoning"] == {"steps_used": 0, "budget": 0, "budget_per_position": 0}


CONTENT = '{"candidates": ["1", "ä \\" \\n"]}'.encode()


def test_the_v2_protocol_carries_the_body_as_its_only_string():
    (given,) = json.loads(v2_body(CONTENT))["inputs"]
    assert given["data"] == [CONTENT.decode()]
    assert (given["datatype"], given["shape"]) == ("BYTES", [1, 1])
    assert v2_answer(json.dumps({"outputs": [given]}).encode()) == CONTENT


def test_a_list_of_bodies_carries_the_body_as_its_only_string():
    given = json.loads(bodies_body(CONTENT))["bodies"]
    assert given == [CONTENT.decode()]
    assert bodies_answer(json.dumps(given).encode()) == CONTENT
    assert same(CONTENT) == CONTENT


def pins_of(peer):
    lines = (PEERS_DIRECTORY / peer.requirements).read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.module)
def test_a_peer_can_be_installed_and_started(peer):
    assert (PEERS_DIRECTORY / f"{peer.module}.py").is_file()
    pins = pins_of(peer)
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.]+", pin)] == []
    assert len(peer.settings.split()) > 10
    assert peer.path.startswith("/")
    assert peer.ready.startswith("/")


def test_every_peer_runs_the_graph_on_the_runtime_that_the_service_has():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    ours = project["dependency-groups"]["service"]
    (runtime,) = (pin for pin in ours if pin.startswith("onnxruntime=="))
    assert [peer.module for peer in PEERS if runtime not in pins_of(peer)] == []


def test_a_peer_in_the_environment_of_development_names_what_is_installed_there():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    installed = {line.lower() for line in lines}
    own = [peer for peer in PEERS if peer.environment is not None]
    assert own
    for peer in own:
        assert {pin.lower() for pin in pins_of(peer)} <= installed


def test_no_two_peers_share_a_name_or_a_module():
    for names in ([peer.name for peer in PEERS], [peer.module for peer in PEERS]):
        assert len(set(names)) == len(names)
