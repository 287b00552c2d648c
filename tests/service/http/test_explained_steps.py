"""The states of reasoning in responses: `explain` "steps"."""

import re
import time

import httpx
import numpy as np
import pytest

from service.engine.steps import StepTracer
from service.http.schemas import RerankResponse
from tests.support.bodies import body, problem_of
from tests.support.bundles import BUNDLE
from tests.support.fakes import CountingTracer, Failing, Slow
from tests.support.servers import fresh
from tests.support.stores import wait_until

CLOSE = 2e-5
EVERY_STEP = {"budget": 3, "entropy_threshold": -1.0}


@pytest.fixture
def counted(session):
    """A session that counts its runs, with a tracer that counts its slates."""
    copy = Slow(session, 0.0)
    copy.tracer = CountingTracer(session.tracer)
    return copy


def post(client, payload):
    return response_to(client, payload)["slate"]


def response_to(client, payload):
    result = client.post("/rerank", json=payload).raise_for_status().json()
    RerankResponse.model_validate(result, strict=True)
    assert ("steps_missing" in result) == (
        payload.get("explain") == "steps" and result["slate"][0]["explanation"]["steps"] is None
    )
    return result


def check_states(entry, ids):
    """Compare the states of one position with its figures."""
    states = entry["explanation"]["steps"]
    assert len(states) == 1 + entry["reasoning_steps"]
    for figure, at in (("entropy", 0), ("entropy_after", -1)):
        assert states[at]["entropy"] == pytest.approx(entry[figure], abs=CLOSE)
    assert states[-1]["choice"] == entry["id"]
    assert not states[0]["changed"]
    for state, following in zip(states, [*states[1:], None], strict=True):
        choices = state["choices"]
        assert 1 <= len(choices) <= 5
        assert {each["id"] for each in choices} <= set(ids)
        probabilities = [each["probability"] for each in choices]
        assert probabilities == sorted(probabilities, reverse=True)
        assert probabilities == pytest.approx(np.exp([c["logprob"] for c in choices]), abs=CLOSE)
        weights = [each["weight"] for each in choices]
        if following is None:
            assert set(weights) == {None}
        else:
            assert 0 < sum(weights) <= 1 + CLOSE
            assert following["changed"] == (following["choice"] != state["choice"])
    of_choice = [each for each in states[-1]["choices"] if each["id"] == entry["id"]]
    for each in of_choice:
        assert each["logprob"] == pytest.approx(entry["logprob"], abs=CLOSE)
    return states


def test_the_states_begin_and_end_with_the_figures_of_their_position(client, items):
    payload = body(items, 40, 3, explain="steps", reasoning=EVERY_STEP)
    ids = [candidate["id"] for candidate in payload["candidates"]]
    slate = post(client, payload)
    assert [entry["reasoning_steps"] for entry in slate] == [3] * len(slate)
    moved = 0
    for entry in slate:
        states = check_states(entry, ids)
        assert states[-1]["choices"][0]["id"] == entry["id"]  # the greedy choice
        moved += abs(states[0]["entropy"] - states[-1]["entropy"]) > CLOSE
    assert moved  # so that states in another order would be noticed


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampling": {"slates": 8, "seed": 5}, "temperatures": {"recommend": 3.0}},
        {"diversity": {"by": "genres", "weight": 1.0}, "reasoning": {"budget": 2}},
        {"reasoning": {"budget": 0}},
    ],
    ids=["default", "sampled", "diverse", "plain"],
)
def test_steps_explain_slates_of_every_kind(client, items, options):
    payload = body(items, 24, 1, explain="steps", **options)
    ids = [candidate["id"] for candidate in payload["candidates"]]
    for entry in post(client, payload):
        check_states(entry, ids)


def test_a_pinned_position_has_no_state_and_its_candidate_is_none_of_the_others(client, items):
    payload = body(items, 12, 2, explain="steps", reasoning=EVERY_STEP)
    ids = [candidate["id"] for candidate in payload["candidates"]]
    payload["constraints"] = {"pinned": {ids[4]: 1}, "blocked": [ids[0]]}
    for entry in post(client, payload):
        if entry["position"] == 1:
            assert entry["explanation"]["steps"] == []
            continue
        for state in check_states(entry, ids):
            assert not {each["id"] for each in state["choices"]} & {ids[0], ids[4]}


def test_equal_candidates_do_not_take_turns(client):
    payload = {
        "candidates": [f"nothing {number}" for number in range(8)],
        "explain": "steps", "reasoning": EVERY_STEP,
    }  # fmt: skip
    for entry in post(client, payload):
        states = entry["explanation"]["steps"]
        assert {state["choice"] for state in states} == {entry["id"]}
        assert not any(state["changed"] for state in states)


def test_steps_change_nothing_else(client, items):
    payload = body(items, 30, 4)
    plain = post(client, {**payload, "explain": True})
    for entry, other in zip(post(client, {**payload, "explain": "steps"}), plain, strict=True):
        assert "steps" not in other["explanation"]
        del entry["explanation"]["steps"]
        assert entry == other


def test_a_list_that_requests_no_steps_is_not_traced(counted, items):
    with fresh(counted) as url, httpx.Client(base_url=url, timeout=60) as client:
        for explain in (False, True, None):
            post(client, body(items, explain=explain))
        assert counted.tracer.slates == 0
        runs = len(counted.ran)
        batch = [body(items, seed=seed, explain="steps" if seed == 1 else True) for seed in (0, 1)]
        result = client.post("/rerank/batch", json={"requests": batch}).raise_for_status().json()
        assert counted.tracer.slates == 1
        assert len(counted.ran) == runs + 2
    first, second = (response["slate"] for response in result["responses"])
    assert all("steps" not in entry["explanation"] for entry in first)
    assert all(entry["explanation"]["steps"] for entry in second)


def test_the_wait_for_steps_counts_in_responses_and_not_in_metrics(session, items):
    wait_s, copy = 0.2, Slow(session, 0.0)

    class SlowTracer(CountingTracer):
        def trace(self, row, slate, budget):
            time.sleep(wait_s)
            return super().trace(row, slate, budget)

    copy.tracer = SlowTracer(session.tracer)
    batch = {"requests": [body(items, explain="steps"), body(items, seed=1)]}
    with fresh(copy) as url:
        result = httpx.post(f"{url}/rerank/batch", json=batch, timeout=60).raise_for_status().json()
        metrics = httpx.get(f"{url}/metrics").text
    totals = [response["latency_ms"]["total"] / 1e3 for response in result["responses"]]
    sums = re.findall(r"^rerank_(?:request|stage)_duration_seconds_sum\S* (\S+)$", metrics, re.M)
    observed, *stages = map(float, sums)
    assert len(stages) == 5
    assert sum(totals) - observed >= len(totals) * wait_s - CLOSE
    assert sum(stages) == pytest.approx(observed, abs=CLOSE)


def test_of_more_lists_than_may_wait_the_last_ones_have_no_steps(counted, items):
    batch = {"requests": [body(items, seed=seed, explain="steps") for seed in range(4)]}
    with fresh(counted, max_traces=2) as url:
        result = httpx.post(f"{url}/rerank/batch", json=batch, timeout=60).raise_for_status().json()
        again = httpx.post(f"{url}/rerank", json=batch["requests"][3], timeout=60).json()
    with_steps = [
        all(entry["explanation"]["steps"] for entry in response["slate"])
        for response in [*result["responses"], again]
    ]
    assert with_steps == [True, True, False, False, True]
    missing = [response.get("steps_missing") for response in result["responses"]]
    assert missing == [None, None, "overload", "overload"]


def test_without_traces_a_request_for_steps_is_refused(session, items):
    with fresh(session, max_traces=0) as url:
        response = httpx.post(f"{url}/rerank", json=body(items, explain="steps"))
        httpx.post(f"{url}/rerank", json=body(items, explain=True)).raise_for_status()
    (error,) = problem_of(response, 422)["errors"]
    rule = "true or false: RERANK_MAX_TRACES=0 refuses steps"
    assert error == {"field": "explain", "rule": rule, "value": '"steps"'}


@pytest.mark.parametrize("value", ["all", "Steps", "true", 1, 0, 1.0, ["steps"], {}])
def test_another_value_of_explain_is_refused(client, items, value):
    (error,) = problem_of(client.post("/rerank", json=body(items, explain=value)), 422)["errors"]
    assert (error["field"], error["rule"]) == ("explain", 'true, false or "steps"')


def test_a_failed_trace_leaves_the_slate_without_steps(session, items, caplog):
    broken = Slow(session, 0.0)
    broken.tracer = CountingTracer(None)
    with fresh(broken) as url, httpx.Client(base_url=url, timeout=60) as client:
        response = response_to(client, body(items, explain="steps", request_id="r-1"))
    assert all(entry["explanation"]["steps"] is None for entry in response["slate"])
    assert response["steps_missing"] == "model_error"
    assert "request r-1: its steps cannot be traced" in caplog.text


def test_a_degraded_response_has_no_steps(session, items):
    with fresh(Failing(session)) as url, httpx.Client(base_url=url, timeout=60) as client:
        response = response_to(client, body(items, explain="steps"))
    assert all(entry["explanation"]["steps"] is None for entry in response["slate"])
    assert response["steps_missing"] == "not_ranked"


def test_the_graphs_of_steps_are_opened_at_the_start_if_the_settings_say_so(session, items):
    lazy, eager = (CountingTracer(session.tracer, is_open=False) for _ in range(2))
    for tracer in (lazy, eager):
        copy = Slow(session, 0.0)
        copy.tracer = tracer
        with fresh(copy, preload_steps=tracer is eager) as url:
            httpx.post(f"{url}/rerank", json=body(items)).raise_for_status()
            if tracer is eager:
                wait_until(lambda: eager.is_open)
    assert not lazy.is_open


def test_graphs_of_steps_that_cannot_be_opened_leave_the_service_ready(session, items, caplog):
    copy = Slow(session, 0.0)
    copy.tracer = StepTracer(BUNDLE / "absent", session.manifest)
    with fresh(copy, preload_steps=True) as url:
        httpx.post(f"{url}/rerank", json=body(items)).raise_for_status()
    assert "ranklens/1: its steps cannot be traced" in caplog.text
    assert "generator.static.onnx: cannot be read" in caplog.text
