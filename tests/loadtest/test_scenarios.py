"""Every scenario's bodies are what the service takes, or what it must refuse."""

import httpx
import pytest

from loadtest.scenarios import MAKERS, Asking, Catalogue, scenario
from tests.support.bundles import BUNDLE
from tests.support.servers import fresh


@pytest.fixture(scope="module")
def catalogue():
    return Catalogue.of(BUNDLE)


@pytest.mark.parametrize("name", MAKERS)
def test_the_service_answers_each_scenario_as_expected(session, catalogue, name):
    asked = scenario(name, catalogue, Asking(20), count=8)
    with fresh(session) as base:
        for body in asked.bodies:
            headers = {"Content-Type": asked.kind}
            answer = httpx.post(base + asked.path, content=body, headers=headers)
            assert answer.status_code in asked.expected, answer.text[:300]
            if answer.status_code == 200:
                answers = answer.json().get("responses", [answer.json()])
                assert [each["degraded"] for each in answers] == [None] * len(answers)


def test_packed_bodies_get_the_same_slates(session, catalogue):
    asked = scenario("inline", catalogue, Asking(20), count=3)
    packed = asked.packed()
    with fresh(session) as base:
        for plain, short in zip(asked.bodies, packed.bodies, strict=True):
            slates = [
                httpx.post(
                    f"{base}/rerank", content=body,
                    headers={"Content-Type": kind, "Accept": "application/json"},
                ).json()["slate"]
                for body, kind in ((plain, asked.kind), (short, packed.kind))
            ]  # fmt: skip
            assert slates[0] == slates[1]
            assert len(short) < len(plain)


def test_the_same_seed_asks_the_same(catalogue):
    first, again = (scenario("mixed", catalogue, Asking(), seed=3) for _ in range(2))
    assert first.bodies == again.bodies
    assert first.bodies != scenario("mixed", catalogue, Asking(), seed=4).bodies


def test_short_lists_are_common_in_the_mix_and_long_ones_are_there(catalogue):
    asked = scenario("mixed", catalogue, Asking(), count=400)
    sizes = [body.count(b'", "') + 1 for body in asked.bodies]
    assert sorted(sizes)[200] <= 50
    assert max(sizes) >= 200
