"""The response to a valid request, over HTTP."""

import random
import re

import httpx
import pytest

from service.http.schemas import RerankResponse
from tests.support.bodies import body, problem_of, slate_ids
from tests.support.fakes import Failing
from tests.support.servers import fresh


def test_24_ids_give_a_slate_without_repeats_of_the_asked_length(client, items):
    asked = body(items, slate_size=7)
    answer = client.post("/rerank", json=asked).raise_for_status().json()
    RerankResponse.model_validate(answer, strict=True)
    ids, given_ids = slate_ids(answer), [c["id"] for c in asked["candidates"]]
    assert len(ids) == len(set(ids)) == 7
    for position, entry in enumerate(answer["slate"]):
        assert entry["position"] == position
        assert given_ids[entry["initial_position"]] == entry["id"]
        assert 0 <= entry["reasoning_steps"] <= answer["reasoning"]["budget_per_position"]
    steps = [entry["reasoning_steps"] for entry in answer["slate"]]
    assert answer["reasoning"]["steps_used"] == sum(steps)
    assert answer["reasoning"]["budget"] == 7 * answer["reasoning"]["budget_per_position"]
    assert answer["degraded"] is None


def test_the_parts_of_the_latency_add_up_and_are_told_in_server_timing(client, items):
    response = client.post("/rerank", json=body(items))
    latency = response.json()["latency_ms"]
    total = latency.pop("total")
    assert sum(latency.values()) == pytest.approx(total, abs=0.005)
    timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert float(timing["inference"]) == latency["inference"]
    assert float(timing["total"]) == total


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        ({"budget": 0}, 0),
        ({"entropy_threshold": 1e9}, 0),
        ({"entropy_threshold": -1.0}, 30),
        ({"entropy_threshold": -1.0, "budget": 1}, 10),
    ],
)
def test_budget_and_threshold_rule_the_steps(client, items, reasoning, expected):
    answer = client.post("/rerank", json=body(items, reasoning=reasoning)).json()
    assert answer["reasoning"]["steps_used"] == expected


def test_the_bundles_own_threshold_reasons_at_some_positions_and_not_at_others(client, items):
    steps = [
        entry["reasoning_steps"]
        for seed in range(5)
        for entry in client.post("/rerank", json=body(items, seed=seed)).json()["slate"]
    ]
    assert 0 in steps
    assert max(steps) > 0


def test_the_order_of_the_candidates_does_not_change_the_slate(client, items):
    asked = body(items)
    turned = {"candidates": asked["candidates"][::-1]}
    answers = [client.post("/rerank", json=one).json() for one in (asked, turned)]
    assert slate_ids(answers[0]) == slate_ids(answers[1])


def test_the_history_changes_the_slate_and_likes_differ_from_passes(client, items):
    slates = []
    past = random.Random(9).sample(items, 40)
    for label in (None, 1.0, 0.0):
        history = [] if label is None else [{"id": i, "label": label} for i in past]
        asked = body(items, size=100, user={"history": history})
        slates.append(slate_ids(client.post("/rerank", json=asked).json()))
    assert slates[0] != slates[1] != slates[2]


def test_an_id_alone_in_the_history_is_a_like(client, items):
    past = items[:20]
    plain = body(items, user={"history": past})
    spelt = body(items, user={"history": [{"id": i, "label": 1.0} for i in past]})
    answers = [client.post("/rerank", json=one).json() for one in (plain, spelt)]
    assert answers[0]["slate"] == answers[1]["slate"]


def test_unknown_ids_are_ranked_by_defaults_and_inline_features_override(client):
    asked = {"candidates": [{"id": f"new-{i}"} for i in range(5)]}
    asked["candidates"][3]["features"] = {"like_rate": 2.0, "genres": ["drama"]}
    answer = client.post("/rerank", json=asked).raise_for_status().json()
    assert sorted(slate_ids(answer)) == [f"new-{i}" for i in range(5)]
    assert answer["slate"][0]["id"] == "new-3"


def test_a_seed_answers_the_same_sample_and_the_evaluators_opinion_of_it(client, items):
    def ask(**sampling):
        asked = {"candidates": [{"id": item} for item in items[:30]], "sampling": sampling}
        answer = client.post("/rerank", json=asked).raise_for_status().json()
        return [entry["id"] for entry in answer["slate"]], answer["utility"]

    assert ask(slates=4, seed=7) == ask(slates=4, seed=7)
    assert ask(slates=1, seed=7)[0] != ask(slates=1, seed=8)[0]
    assert ask(slates=16, seed=7)[1] > ask(slates=1, seed=7)[1]


def test_temperatures_sharpen_and_soften_the_choice(client, items):
    candidates = [{"id": item} for item in items[:30]]
    logprob = {}
    for recommend in (0.1, 1.0):
        asked = {"candidates": candidates, "temperatures": {"recommend": recommend}}
        answer = client.post("/rerank", json=asked).raise_for_status().json()
        logprob[recommend] = answer["slate"][0]["logprob"]
    assert logprob[0.1] > logprob[1.0]


def test_request_ids_and_trace_parents_come_back(client, items):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-Request-ID": "abc-1", "traceparent": trace}
    response = client.post("/rerank", json=body(items), headers=headers)
    assert response.headers["x-request-id"] == response.json()["request_id"] == "abc-1"
    assert response.headers["traceparent"] == trace
    assert client.post("/rerank", json=body(items, request_id="own")).json()["request_id"] == "own"
    made = client.get("/livez", headers={"X-Request-ID": "x" * 129}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)


def test_of_a_repeated_header_the_first_counts(session, items):
    with fresh(Failing(session, 0.2, fail=False), brief_run_ms=0) as base:
        reasons = []
        for given in (("20", "30000"), ("30000", "20")):
            headers = [("X-Request-Timeout-Ms", value) for value in given]
            answer = httpx.post(f"{base}/rerank", json=body(items), headers=headers)
            reasons.append(answer.raise_for_status().json()["degraded"])
    assert reasons == [{"reason": "deadline"}, None]


def test_a_bad_timeout_header_is_named(client, items):
    response = client.post("/rerank", json=body(items), headers={"X-Request-Timeout-Ms": "soon"})
    error = problem_of(response, 422)["errors"][0]
    assert (error["field"], error["value"]) == ("header X-Request-Timeout-Ms", '"soon"')
