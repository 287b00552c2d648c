"""The HTTP contract, asked of a real server."""

import asyncio
import json
import random
import re

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.engine.features.candidates import CandidateList
from service.http.parsing import featuriser_input
from service.http.schemas import EXAMPLE, RerankRequest, RerankResponse
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


def test_a_list_alone_in_a_batch_call_and_among_concurrent_requests_gets_the_same_slate(
    url, client, items
):
    bodies = [body(items, size, seed=size) for size in (3, 24, 200, 12, 1, 50)]
    alone = [client.post("/rerank", json=one).json() for one in bodies]
    together = client.post("/rerank/batch", json={"requests": bodies}).json()["responses"]

    async def concurrently():
        async with httpx.AsyncClient(base_url=url, timeout=30) as many:
            return await asyncio.gather(*(many.post("/rerank", json=b) for b in bodies * 4))

    parallel = [response.json() for response in asyncio.run(concurrently())]
    for index, answer in enumerate(alone):
        assert slate_ids(together[index]) == slate_ids(answer)
        for copy in range(4):
            assert slate_ids(parallel[index + copy * len(bodies)]) == slate_ids(answer)


def test_requests_in_flight_together_share_runs(session, items):
    with fresh(session) as base:

        async def flood():
            async with httpx.AsyncClient(base_url=base, timeout=30) as many:
                asked = [many.post("/rerank", json=body(items, seed=i)) for i in range(40)]
                return await asyncio.gather(*asked)

        assert all(response.status_code == 200 for response in asyncio.run(flood()))
        text = httpx.get(f"{base}/metrics").text
    runs = float(re.search(r"rerank_batch_size_count (\S+)", text)[1])
    assert float(re.search(r"rerank_batch_size_sum (\S+)", text)[1]) == 40
    assert runs < 40


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


REFUSED = [
    ({"candidates": []}, "candidates", "at least one entry", "[]"),
    ({}, "candidates", "required", "null"),
    ([1], "body", "an object", "[1]"),
    (
        {"candidates": [{"id": "a"}, {"id": "b"}, {"id": "a"}]},
        "candidates[2].id",
        "unique within the list, already at candidates[0]",
        '"a"',
    ),
    ({"candidates": [{"id": str(i)} for i in range(10_000)]}, "candidates", "at most 500", "10000"),
    ({"candidates": [{"id": "a"}], "slate_size": 0}, "slate_size", "greater than or equal", "0"),
    ({"candidates": [{"id": "a"}], "slate_size": 2}, "slate_size", "at most 1", "2"),
    (
        {"candidates": [{"id": str(i)} for i in range(20)], "slate_size": 11},
        "slate_size",
        "at most 10",
        "11",
    ),
    ({"candidates": [{"id": "a"}], "slate_size": "2"}, "slate_size", "an integer", '"2"'),
    ({"candidates": [{"id": "a"}], "slate_size": True}, "slate_size", "an integer", "true"),
    ({"candidates": [{"id": 7}]}, "candidates[0].id", "a string", "7"),
    ({"candidates": [{"id": ""}]}, "candidates[0].id", "at least 1 character", '""'),
    ({"candidates": "a"}, "candidates", "a list", '"a"'),
    ({"candidates": [{"id": "a", "scor": 1}]}, "candidates[0].scor", "unknown field", "1"),
    ({"candidates": [{"id": "a"}], "sample": {}}, "sample", "unknown field", "{}"),
    (
        {"candidates": [{"id": "a"}], "sampling": {"slates": 2}},
        "sampling.seed",
        "required",
        "null",
    ),
    (
        {"candidates": [{"id": "a"}], "temperatures": {"reason": 0}},
        "temperatures.reason",
        "greater than or equal to 0.01",
        "0",
    ),
    (
        {"candidates": [{"id": "a"}], "constraints": {"pinned": {"b": 0}}},
        "constraints.pinned.b",
        "the id of a candidate",
        '"b"',
    ),
    (
        {"candidates": [{"id": "a"}], "constraints": {"blocked": ["a"]}},
        "constraints",
        "at least 1 candidates",
        '{"slate_size": 1, "candidates": 1}',
    ),
    (
        {"candidates": [{"id": "a"}], "constraints": {"max_per_group": {"colour": 1}}},
        "constraints.max_per_group",
        "a category of the model's schema",
        '"colour"',
    ),
    (
        {"candidates": [{"id": "a"}], "constraints": {"max_per_group": {"genres": 1}}},
        "constraints.max_per_group",
        "a category of the model's schema",
        '"genres"',
    ),
    (
        {"candidates": [{"id": "a"}], "constraints": {"max_per_group": {"a": 1, "b": 1}}},
        "constraints.max_per_group",
        "at most one entry",
        '{"a": 1, "b": 1}',
    ),
    (
        {"candidates": [{"id": "a", "features": {"color": 1}}]},
        "candidates[0].features.color",
        "not a feature of the schema",
        "1",
    ),
    (
        {"candidates": [{"id": "a", "features": {"runtime": "long"}}]},
        "candidates[0].features.runtime",
        "a finite number",
        '"long"',
    ),
    (
        {"candidates": [{"id": "a", "features": {"runtime": 1e300}}]},
        "candidates[0].features.runtime",
        "within 1e+06 deviations",
        "1e+300",
    ),
    (
        {"candidates": [{"id": "a"}], "reasoning": {"entropy_threshold": 1e300}},
        "reasoning.entropy_threshold",
        "less than or equal to",
        "1e+300",
    ),
    ({"candidates": [{"id": "a"}], "context": {"hour": 3}}, "context.hour", "not a feature", "3"),
    (
        {"candidates": [{"id": "a"}], "user": {"features": {"age": 3}}},
        "user.features.age",
        "not a feature",
        "3",
    ),
    (
        {"candidates": [{"id": "a"}], "user": {"history": [{"id": "b", "label": 2}]}},
        "user.history[0].label",
        "less than or equal to 1",
        "2",
    ),
    (
        {"candidates": [{"id": "a"}], "user": {"history": ["b"] * 1001}},
        "user.history",
        "at most 1000",
        "1001",
    ),
    (
        {"candidates": [{"id": "a"}], "reasoning": {"budget": 4}},
        "reasoning.budget",
        "at most 3",
        "4",
    ),
    (
        {"candidates": [{"id": "a"}], "reasoning": {"budget": -1}},
        "reasoning.budget",
        "greater than or equal to 0",
        "-1",
    ),
    ({"candidates": [{"id": "a"}], "timeout_ms": 0}, "timeout_ms", "greater than 0", "0"),
]


@pytest.mark.parametrize(("asked", "field", "rule", "value"), REFUSED)
def test_a_bad_field_is_refused_naming_field_rule_and_value(client, asked, field, rule, value):
    problem = problem_of(client.post("/rerank", json=asked), 422)
    error = problem["errors"][0]
    assert error["field"] == field
    assert rule in error["rule"]
    assert error["value"].startswith(value)
    assert client.get("/livez").status_code == 200


def test_a_batch_names_the_list_of_a_bad_field(client):
    good, bad = {"candidates": [{"id": "a"}]}, {"candidates": [{"id": "a"}, {"id": "a"}]}
    problem = problem_of(client.post("/rerank/batch", json={"requests": [good, bad]}), 422)
    assert problem["errors"][0]["field"] == "requests[1].candidates[1].id"
    problem = problem_of(client.post("/rerank/batch", json={"requests": [good] * 65}), 422)
    assert problem["errors"][0]["field"] == "requests"
    assert "at most 64" in problem["errors"][0]["rule"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"candidates": [{"id": "a", "score": NaN}]}',
        b'{"candidates": [{"id": "a", "score": Infinity}]}',
        b'{"candidates": [{"id": "a"',
        b"[" * 100_000,
        b'{"candidates": [{"id": "\xff\xfe"}]}',
        b"",
    ],
    ids=["nan", "infinity", "truncated", "deep", "not utf-8", "empty"],
)
def test_what_is_not_json_is_400_and_the_service_stays_up(client, items, content):
    problem = problem_of(client.post("/rerank", content=content), 400)
    assert problem["code"] == "bad_json"
    assert problem["errors"][0]["field"] == "body"
    assert "JSON in UTF-8" in problem["errors"][0]["rule"]
    assert client.post("/rerank", json=body(items)).status_code == 200


def test_a_number_too_large_for_a_float_is_refused(client):
    content = b'{"candidates": [{"id": "a", "score": 1e999}]}'
    response = client.post("/rerank", content=content)
    assert response.status_code in (400, 422)
    problem_of(response, response.status_code)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_5_mb_is_413_and_the_service_stays_up(client, items, chunked):
    megabyte = b" " * (1 << 20)
    content = (megabyte for _ in range(5)) if chunked else megabyte * 5
    problem = problem_of(client.post("/rerank", content=content), 413)
    assert problem["errors"][0]["field"] == "body"
    assert "at most 1048576 bytes" in problem["errors"][0]["rule"]
    assert client.post("/rerank", json=body(items)).status_code == 200


def test_unknown_paths_and_methods_are_problems_too(client):
    assert problem_of(client.get("/nowhere"), 404)["code"] == "not_found"
    refused = client.get("/rerank")
    assert problem_of(refused, 405)["code"] == "method_not_allowed"
    assert refused.headers["allow"] == "POST"


def test_a_deeply_nested_value_is_named_without_being_written_out(client):
    nested = "[" * 990 + "]" * 990
    content = '{"candidates": [{"id": "1", "features": {"runtime": ' + nested + "}}]}"
    error = problem_of(client.post("/rerank", content=content), 422)["errors"][0]
    assert error["field"] == "candidates[0].features.runtime"
    assert len(error["value"]) < 200


def test_request_ids_and_trace_parents_come_back(client, items):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-Request-ID": "abc-1", "traceparent": trace}
    response = client.post("/rerank", json=body(items), headers=headers)
    assert response.headers["x-request-id"] == response.json()["request_id"] == "abc-1"
    assert response.headers["traceparent"] == trace
    assert client.post("/rerank", json=body(items, request_id="own")).json()["request_id"] == "own"
    made = client.get("/livez", headers={"X-Request-ID": "x" * 129}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)


def test_health_info_and_openapi(client, session):
    assert client.get("/livez").json() == {"status": "live"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.head("/readyz").status_code == 200
    info = client.get("/info").json()
    assert info["offline_metrics"] == session.manifest.offline_metrics
    assert info["provider"] == "CPUExecutionProvider"
    document = client.get("/openapi.json").json()
    assert {"name": "genres", "of": "item", "kind": "categories", "required": False} in info[
        "features"
    ]
    for path in ("/rerank", "/v1/rerank", "/rerank/batch", "/v1/rerank/batch"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        answer = client.post(path, json=content["example"])
        assert answer.status_code == 200, answer.text
    kinds = [one["type"] for one in document["components"]["schemas"]["HistoryEntry"]["anyOf"]]
    assert kinds == ["string", "object"]
    RerankRequest.model_validate(EXAMPLE)


def test_lists_of_a_batch_call_have_ids_of_their_own(client, items):
    asked = {"requests": [body(items), body(items, request_id="mine"), body(items)]}
    answers = client.post("/rerank/batch", json=asked, headers={"X-Request-ID": "call"}).json()
    assert [a["request_id"] for a in answers["responses"]] == ["call.0", "mine", "call.2"]


def test_candidates_that_the_item_table_lacks_are_counted(session, items):
    with fresh(session) as base, httpx.Client(base_url=base) as own:
        own.post("/rerank", json={"candidates": [{"id": i} for i in ("new-1", items[0], "new-2")]})
        assert "rerank_unknown_candidates_total 2.0" in own.get("/metrics").text


def test_metrics_count_every_request_once(session, items):
    with fresh(session) as base, httpx.Client(base_url=base) as own:
        for _ in range(7):
            own.post("/rerank", json=body(items))
        own.post("/rerank/batch", json={"requests": [body(items)] * 3})
        own.post("/rerank", json={})
        text = own.get("/metrics").text
    name = 'rerank_requests_total{model="ranklens",outcome="%s",variant="active",version="1"} %s'
    assert name % ("ok", "10.0") in text
    assert name % ("client_error", "1.0") in text
    assert "rerank_request_duration_seconds_count 10.0" in text
    assert 'rerank_stage_duration_seconds_count{stage="queue"} 10.0' in text


def constrained(items):
    """Item 7 pinned first, item 0 blocked, at most one of each of three authors and the pinned."""
    candidates = [{"id": item, "groups": {"author": str(i % 3)}} for i, item in enumerate(items)]
    asked = {"pinned": {items[7]: 0}, "blocked": [items[0]], "max_per_group": {"author": 2}}
    return {"candidates": candidates[:30], "constraints": asked}


def keeps(answer, items):
    ids = [entry["id"] for entry in answer["slate"]]
    authors = [items.index(item) % 3 for item in ids]
    assert ids[0] == items[7]
    assert items[0] not in ids
    assert len(ids) == 6  # three authors, two items each: no more can be filled
    assert all(authors.count(author) == 2 for author in range(3))


def test_constraints_are_met_and_a_pinned_position_is_no_choice(client, items):
    answer = client.post("/rerank", json=constrained(items)).raise_for_status().json()
    keeps(answer, items)
    first = answer["slate"][0]
    assert (first["logprob"], first["entropy"], first["reasoning_steps"]) == (None, None, 0)
    assert answer["slate"][1]["logprob"] < 0


def test_constraints_of_the_models_own_category_are_met(client, session, items):
    asked = {"candidates": [{"id": item} for item in items[:200]],
             "constraints": {"max_per_group": {"director": 1}}}  # fmt: skip
    free = client.post("/rerank", json={"candidates": asked["candidates"]}).json()
    kept = client.post("/rerank", json=asked).raise_for_status().json()
    for answer, unique in ((free, False), (kept, True)):
        row = session.row(CandidateList(ids=[entry["id"] for entry in answer["slate"]]))
        directors = [d for d in session.featuriser.groups("director", row.tokens) if d]
        assert (len(directors) == len(set(directors))) == unique


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


def test_a_degraded_answer_keeps_its_constraints(session, items):
    with fresh(Failing(session)) as base:
        answer = httpx.post(f"{base}/rerank", json=constrained(items)).raise_for_status().json()
    assert answer["degraded"] == {"reason": "model_error"}
    keeps(answer, items)


@pytest.mark.parametrize("reason", ["model_error", "deadline"])
def test_what_cannot_be_ranked_comes_back_in_its_own_order_and_says_so(session, items, reason):
    failing = Failing(session, 0.0 if reason == "model_error" else 0.2, reason == "model_error")
    asked = body(items, slate_size=5, timeout_ms=50)
    with fresh(failing, brief_run_ms=0) as base:
        answer = httpx.post(f"{base}/rerank", json=asked).raise_for_status().json()
        text = httpx.get(f"{base}/metrics").text
    RerankResponse.model_validate(answer, strict=True)
    assert answer["degraded"] == {"reason": reason}
    assert slate_ids(answer) == [c["id"] for c in asked["candidates"][:5]]
    assert answer["reasoning"]["steps_used"] == 0
    if reason == "deadline":  # the time it waited is told as such
        assert answer["latency_ms"]["queue"] > max(20, answer["latency_ms"]["respond"])
    assert f'rerank_degraded_total{{reason="{reason}"}} 1.0' in text


def test_an_impatient_list_of_a_batch_does_not_degrade_its_neighbours(session, items):
    with fresh(Failing(session, 0.2, fail=False), brief_run_ms=0) as base:
        lists = [body(items, timeout_ms=20), body(items, timeout_ms=30_000)]
        answer = httpx.post(f"{base}/rerank/batch", json={"requests": lists}).json()
    reasons = [response["degraded"] for response in answer["responses"]]
    assert reasons == [{"reason": "deadline"}, None]


def test_of_a_repeated_header_the_first_counts(session, items):
    with fresh(Failing(session, 0.2, fail=False), brief_run_ms=0) as base:
        reasons = []
        for given in (("20", "30000"), ("30000", "20")):
            headers = [("X-Request-Timeout-Ms", value) for value in given]
            answer = httpx.post(f"{base}/rerank", json=body(items), headers=headers)
            reasons.append(answer.raise_for_status().json()["degraded"])
    assert reasons == [{"reason": "deadline"}, None]


@pytest.mark.parametrize(
    ("field", "given", "rule"),
    [
        ("candidates[0].groups", {str(i): "a" for i in range(33)}, "at most 32 entries"),
        ("constraints.blocked", [0] * 300_000, "at most 10000 entries"),
        ("constraints.max_per_group", {"a": 1, "b": 1}, "at most one entry"),
    ],
)
def test_what_has_too_many_entries_is_refused_by_its_bound(client, items, field, given, rule):
    asked = body(items)
    if field.startswith("candidates"):
        asked["candidates"][0]["groups"] = given
    else:
        asked["constraints"] = {field.partition(".")[2]: given}
    response = client.post("/rerank", json=asked)
    errors = problem_of(response, 422)["errors"]
    assert rule in [error["rule"] for error in errors if error["field"] == field]


def test_candidates_that_are_neither_all_objects_nor_all_ids_are_told_so(client, items):
    rule = "an object with id, or every candidate an id alone"
    for mixed, index in (([{"id": items[0]}, items[1]], 1), ([items[0], 7], 0), ([7, 8], 0)):
        errors = problem_of(client.post("/rerank", json={"candidates": mixed}), 422)["errors"]
        assert (errors[0]["field"], errors[0]["rule"]) == (f"candidates[{index}]", rule)


def test_a_batch_that_the_queue_could_never_hold_is_refused_and_not_shed(session, items):
    with fresh(session, max_queue=2) as base:
        for count, status in ((2, 200), (3, 422)):
            asked = {"requests": [body(items)] * count}
            response = httpx.post(f"{base}/rerank/batch", json=asked)
            assert response.status_code == status
    assert response.json()["errors"][0]["rule"] == "at most 2 lists"


def test_groups_that_no_constraint_names_cost_nothing(items):
    asked = body(items, 40)
    for index, candidate in enumerate(asked["candidates"]):
        candidate["groups"] = {f"{index}-{i}": "a" for i in range(31)} | {"author": "b"}
    assert featuriser_input(RerankRequest.model_validate(asked), "")[1] == {}
    asked["constraints"] = {"max_per_group": {"author": 2}}
    assert featuriser_input(RerankRequest.model_validate(asked), "")[1] == {"author": ["b"] * 40}


@pytest.mark.parametrize(("reason", "status"), [("model_error", 500), ("deadline", 504)])
def test_with_the_fallback_off_a_failure_is_an_error_without_its_inside(
    session, items, reason, status
):
    failing = Failing(session, 0.0 if status == 500 else 0.2, status == 500)
    with fresh(failing, on_failure="error", brief_run_ms=0) as base:
        headers = {"X-Request-Timeout-Ms": "50"}
        response = httpx.post(f"{base}/rerank", json=body(items), headers=headers)
    assert problem_of(response, status)["code"] == reason
    assert "secret" not in response.text


def test_a_full_queue_sheds_with_a_degraded_answer(session, items):
    slow = Failing(session, 0.05, fail=False)
    with fresh(slow, max_queue=2, max_batch_size=1, brief_run_ms=0) as base:

        async def flood():
            async with httpx.AsyncClient(base_url=base, timeout=30) as many:
                return await asyncio.gather(
                    *(many.post("/rerank", json=body(items, seed=i)) for i in range(12))
                )

        answers = [response.json() for response in asyncio.run(flood())]
    reasons = [answer["degraded"] and answer["degraded"]["reason"] for answer in answers]
    assert "overload" in reasons
    assert None in reasons


def test_a_bad_timeout_header_is_named(client, items):
    response = client.post("/rerank", json=body(items), headers={"X-Request-Timeout-Ms": "soon"})
    error = problem_of(response, 422)["errors"][0]
    assert (error["field"], error["value"]) == ("header X-Request-Timeout-Ms", '"soon"')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NEAR = st.fixed_dictionaries(
    {"candidates": st.lists(st.fixed_dictionaries({"id": st.text()}, optional={"features": JSON}))},
    optional={
        "user": JSON | st.fixed_dictionaries({"history": JSON}),
        "context": JSON,
        "slate_size": JSON,
        "reasoning": JSON,
    },
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(payload=NEAR | JSON)
def test_no_body_ever_gives_a_server_error(client, payload):
    try:
        content = json.dumps(payload).encode()
    except UnicodeEncodeError:
        return
    response = client.post("/rerank", content=content)
    assert response.status_code in (200, 400, 422), response.text
