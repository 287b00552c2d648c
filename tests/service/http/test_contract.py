"""The response to a valid request, over HTTP."""

import random
import re

import httpx
import pytest

from service.http.schemas import RerankResponse
from tests.support.bodies import body, problem_of, slate_ids
from tests.support.fakes import Failing
from tests.support.servers import fresh


def test_a_slate_has_the_requested_size_and_no_repeated_candidate(client, items):
    payload = body(items, slate_size=7)
    result = client.post("/rerank", json=payload).raise_for_status().json()
    RerankResponse.model_validate(result, strict=True)
    ids, candidate_ids = slate_ids(result), [c["id"] for c in payload["candidates"]]
    assert len(ids) == len(set(ids)) == 7
    for position, entry in enumerate(result["slate"]):
        assert entry["position"] == position
        assert candidate_ids[entry["initial_position"]] == entry["id"]
        assert 0 <= entry["reasoning_steps"] <= result["reasoning"]["budget_per_position"]
    steps = [entry["reasoning_steps"] for entry in result["slate"]]
    assert result["reasoning"]["steps_used"] == sum(steps)
    assert result["reasoning"]["budget"] == 7 * result["reasoning"]["budget_per_position"]
    assert result["degraded"] is None


def test_stage_times_add_up_and_match_the_server_timing_header(client, items):
    response = client.post("/rerank", json=body(items))
    latency = response.json()["latency_ms"]
    total = latency.pop("total")
    assert sum(latency.values()) == pytest.approx(total, abs=0.005)
    timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert {name: float(ms) for name, ms in timing.items()} == {**latency, "total": total}
    assert "state" not in latency


def test_the_lookup_in_an_entity_store_is_a_stage_in_response_and_header(session, items, tmp_path):
    with fresh(session, state=f"lmdb://{tmp_path}") as url:
        response = httpx.post(f"{url}/rerank", json=body(items)).raise_for_status()
    latency = response.json()["latency_ms"]
    timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert {name: float(ms) for name, ms in timing.items()} == latency
    assert list(latency) == [
        "total", "parse", "state", "features", "queue", "inference", "respond",
    ]  # fmt: skip
    assert latency["state"] > 0
    assert sum(latency.values()) == pytest.approx(2 * latency["total"], abs=0.005)


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        ({"budget": 0}, 0),
        ({"entropy_threshold": 1e9}, 0),
        ({"entropy_threshold": -1.0}, 30),
        ({"entropy_threshold": -1.0, "budget": 1}, 10),
    ],
)
def test_budget_and_threshold_limit_the_reasoning_steps(client, items, reasoning, expected):
    result = client.post("/rerank", json=body(items, reasoning=reasoning)).json()
    assert result["reasoning"]["steps_used"] == expected


def test_the_default_threshold_causes_reasoning_at_some_positions_only(client, items):
    steps = [
        entry["reasoning_steps"]
        for seed in range(40)
        for entry in client.post("/rerank", json=body(items, seed=seed)).json()["slate"]
    ]
    assert 0 in steps
    assert max(steps) > 0


def test_lists_twice_as_long_as_those_of_validation_take_every_step(client, items):
    for seed in range(5):
        response = client.post("/rerank", json=body(items, size=50, seed=seed)).json()
        assert {entry["reasoning_steps"] for entry in response["slate"]} == {3}


def test_the_order_of_the_candidates_does_not_change_the_slate(client, items):
    payload = body(items)
    reversed_payload = {"candidates": payload["candidates"][::-1]}
    results = [client.post("/rerank", json=one).json() for one in (payload, reversed_payload)]
    assert slate_ids(results[0]) == slate_ids(results[1])


def test_the_history_changes_the_slate_and_its_labels_matter(client, items):
    slates = []
    history_ids = random.Random(9).sample(items, 40)
    for label in (None, 1.0, 0.0):
        history = [] if label is None else [{"id": i, "label": label} for i in history_ids]
        payload = body(items, size=100, user={"history": history})
        slates.append(slate_ids(client.post("/rerank", json=payload).json()))
    assert slates[0] != slates[1] != slates[2]


def test_an_id_alone_in_the_history_counts_as_a_like(client, items):
    history_ids = items[:20]
    plain = body(items, user={"history": history_ids})
    explicit = body(items, user={"history": [{"id": i, "label": 1.0} for i in history_ids]})
    results = [client.post("/rerank", json=one).json() for one in (plain, explicit)]
    assert results[0]["slate"] == results[1]["slate"]


def test_unknown_ids_are_ranked_and_inline_features_override_their_defaults(client):
    candidates: list[dict[str, object]] = [{"id": f"new-{i}"} for i in range(5)]
    candidates[3]["features"] = {"like_rate": 2.0, "genres": ["drama"]}
    result = client.post("/rerank", json={"candidates": candidates}).raise_for_status().json()
    assert sorted(slate_ids(result)) == [f"new-{i}" for i in range(5)]
    assert result["slate"][0]["id"] == "new-3"


def test_a_seed_reproduces_its_sample_and_more_samples_raise_the_utility(client, items):
    def sample(**sampling):
        payload = {"candidates": [{"id": item} for item in items[:30]], "sampling": sampling}
        result = client.post("/rerank", json=payload).raise_for_status().json()
        return [entry["id"] for entry in result["slate"]], result["utility"]

    assert sample(slates=4, seed=7) == sample(slates=4, seed=7)
    assert sample(slates=1, seed=7)[0] != sample(slates=1, seed=8)[0]
    assert sample(slates=16, seed=7)[1] > sample(slates=1, seed=7)[1]


def test_a_lower_recommending_temperature_raises_the_first_log_probability(client, items):
    candidates = [{"id": item} for item in items[:30]]
    logprob = {}
    for recommend in (0.1, 1.0):
        payload = {"candidates": candidates, "temperatures": {"recommend": recommend}}
        result = client.post("/rerank", json=payload).raise_for_status().json()
        logprob[recommend] = result["slate"][0]["logprob"]
    assert logprob[0.1] > logprob[1.0]


def test_request_ids_and_traceparents_are_returned(client, items):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-Request-ID": "abc-1", "traceparent": trace}
    response = client.post("/rerank", json=body(items), headers=headers)
    assert response.headers["x-request-id"] == response.json()["request_id"] == "abc-1"
    assert response.headers["traceparent"] == trace
    assert client.post("/rerank", json=body(items, request_id="own")).json()["request_id"] == "own"
    generated = client.get("/livez", headers={"X-Request-ID": "x" * 129}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", generated)


def test_the_first_of_repeated_headers_counts(session, items):
    with fresh(Failing(session, 0.2, fail=False), brief_run_ms=0) as url:
        reasons = []
        for values in (("20", "30000"), ("30000", "20")):
            headers = [("X-Request-Timeout-Ms", value) for value in values]
            result = httpx.post(f"{url}/rerank", json=body(items), headers=headers)
            reasons.append(result.raise_for_status().json()["degraded"])
    assert reasons == [{"reason": "deadline", "reasons": ["deadline"]}, None]


def test_an_invalid_timeout_header_is_refused_by_name(client, items):
    response = client.post("/rerank", json=body(items), headers={"X-Request-Timeout-Ms": "soon"})
    error = problem_of(response, 422)["errors"][0]
    assert (error["field"], error["value"]) == ("header X-Request-Timeout-Ms", '"soon"')
