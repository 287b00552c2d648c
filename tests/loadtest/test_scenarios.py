"""The service accepts the bodies of every scenario, and refuses those of `bad`."""

import httpx
import pytest

from loadtest.history_cache import CacheCounts
from loadtest.scenarios import MAKERS, Catalogue, RequestOptions, scenario
from tests.support.bundles import BUNDLE
from tests.support.servers import fresh
from tests.support.stub_servers import stub_server, unused_url


@pytest.fixture(scope="module")
def catalogue():
    return Catalogue.of(BUNDLE)


@pytest.mark.parametrize("name", MAKERS)
def test_the_service_answers_each_scenario_as_expected(session, catalogue, name):
    requests = scenario(name, catalogue, RequestOptions(20), count=8)
    with fresh(session) as base:
        for body in requests.bodies:
            headers = {"Content-Type": requests.media_type}
            response = httpx.post(base + requests.path, content=body, headers=headers)
            assert response.status_code in requests.expected, response.text[:300]
            if response.status_code == 200:
                responses = response.json().get("responses", [response.json()])
                assert [each["degraded"] for each in responses] == [None] * len(responses)


def test_no_history_of_the_history_scenario_returns(session, catalogue):
    shares = {}
    for name in ("ids", "history", "returning"):
        requests = scenario(name, catalogue, RequestOptions(5), count=4)
        with fresh(session) as base:
            before = CacheCounts.of(base)
            for each in (requests, requests, requests.packed(), requests.packed()):
                for body in each.bodies:
                    headers = {"Content-Type": each.media_type}
                    httpx.post(f"{base}/rerank", content=body, headers=headers).raise_for_status()
            shares[name] = CacheCounts.of(base).share_since(before)
    assert shares == {"ids": None, "history": 0.0, "returning": 0.75}


def test_a_service_without_the_metric_has_no_share():
    with stub_server() as url, unused_url() as unused:
        counts = [CacheCounts.of(each) for each in (url, unused)]
    assert [each.share_since(CacheCounts()) for each in counts] == [None, None]


def test_packed_bodies_get_the_same_slates(session, catalogue):
    requests = scenario("inline", catalogue, RequestOptions(20), count=3)
    packed = requests.packed()
    with fresh(session) as base:
        for plain, short in zip(requests.bodies, packed.bodies, strict=True):
            slates = [
                httpx.post(
                    f"{base}/rerank", content=body,
                    headers={"Content-Type": media_type, "Accept": "application/json"},
                ).json()["slate"]
                for body, media_type in ((plain, requests.media_type), (short, packed.media_type))
            ]  # fmt: skip
            assert slates[0] == slates[1]
            assert len(short) < len(plain)


def test_the_same_seed_makes_the_same_bodies(catalogue):
    first, again = (scenario("mixed", catalogue, RequestOptions(), seed=3) for _ in range(2))
    assert first.bodies == again.bodies
    assert first.bodies != scenario("mixed", catalogue, RequestOptions(), seed=4).bodies


def test_the_mix_has_short_lists_and_long_ones(catalogue):
    requests = scenario("mixed", catalogue, RequestOptions(), count=400)
    sizes = [body.count(b'", "') + 1 for body in requests.bodies]
    assert sorted(sizes)[200] <= 50
    assert max(sizes) >= 200
