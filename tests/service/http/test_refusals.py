"""Requests that are refused, with the field, rule and value in the problem."""

import json

import ormsgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.http.ids import ID_RULE
from tests.support.bodies import body, problem_of

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
    ({"candidates": [{"id": ""}]}, "candidates[0].id", "a string of 1 to 256", '""'),
    ({"candidates": [{"id": "x" * 257}]}, "candidates[0].id", "a string of 1 to 256", '"xx'),
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
        {"candidates": [{"id": "a"}], "constraints": {"blocked": ["b", "a"]}},
        "constraints.blocked",
        "at least 1 candidates for the free positions, 0 may be chosen; 1 of 1 are blocked",
        '["a"]',
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
        "less than or equal to 1: a label of the log scaled to 0..1 by the label range",
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


@pytest.mark.parametrize(("payload", "field", "rule", "value"), REFUSED)
def test_an_invalid_field_is_refused_with_field_rule_and_value(client, payload, field, rule, value):
    problem = problem_of(client.post("/rerank", json=payload), 422)
    error = problem["errors"][0]
    assert error["field"] == field
    assert rule in error["rule"]
    assert error["value"].startswith(value)
    assert client.get("/livez").status_code == 200


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
def test_invalid_json_is_refused_with_400_and_the_service_keeps_serving(client, items, content):
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
def test_a_body_over_the_limit_is_refused_with_413_and_the_service_keeps_serving(
    client, items, chunked
):
    megabyte = b" " * (1 << 20)
    content = (megabyte for _ in range(5)) if chunked else megabyte * 5
    problem = problem_of(client.post("/rerank", content=content), 413)
    assert problem["errors"][0]["field"] == "body"
    assert "at most 1048576 bytes" in problem["errors"][0]["rule"]
    assert "MessagePack" in problem["detail"]
    assert "RERANK_MAX_BODY_BYTES" in problem["detail"]
    assert client.post("/rerank", json=body(items)).status_code == 200


def test_unknown_paths_and_methods_are_problems(client):
    assert problem_of(client.get("/nowhere"), 404)["code"] == "not_found"
    refused = client.get("/rerank")
    assert problem_of(refused, 405)["code"] == "method_not_allowed"
    assert refused.headers["allow"] == "OPTIONS, POST"


def test_a_deeply_nested_value_is_truncated_in_the_problem(client):
    nested = "[" * 990 + "]" * 990
    content = '{"candidates": [{"id": "1", "features": {"runtime": ' + nested + "}}]}"
    error = problem_of(client.post("/rerank", content=content), 422)["errors"][0]
    assert error["field"] == "candidates[0].features.runtime"
    assert len(error["value"]) < 200


def test_a_key_of_bytes_in_a_value_is_quoted_in_the_problem(client, items):
    entry = {"id": items[0], "features": {"runtime": {b"a": 1}}}
    content = ormsgpack.packb({"candidates": [entry]}, option=ormsgpack.OPT_NON_STR_KEYS)
    headers = {"Content-Type": "application/msgpack"}
    error = problem_of(client.post("/rerank", content=content, headers=headers), 422)["errors"][0]
    assert error["field"] == "candidates[0].features.runtime"
    assert error["value"] == "\"{b'a': 1}\""


@pytest.mark.parametrize(
    ("field", "entries", "rule"),
    [
        ("candidates[0].groups", {str(i): "a" for i in range(33)}, "at most 32 entries"),
        ("constraints.blocked", [0] * 300_000, "at most 10000 entries"),
        ("constraints.max_per_group", {"a": 1, "b": 1}, "at most one entry"),
    ],
)
def test_too_many_entries_are_refused_with_their_bound(client, items, field, entries, rule):
    payload = body(items)
    if field.startswith("candidates"):
        payload["candidates"][0]["groups"] = entries
    else:
        payload["constraints"] = {field.partition(".")[2]: entries}
    response = client.post("/rerank", json=payload)
    errors = problem_of(response, 422)["errors"]
    assert rule in [error["rule"] for error in errors if error["field"] == field]


def test_candidates_of_mixed_forms_are_refused(client, items):
    for mixed, rule in (
        ([{"id": items[0]}, items[1]], "an object with id, or every candidate an id alone"),
        ([items[0], {"id": items[1]}], f"{ID_RULE}, or every candidate an object with id"),
    ):
        (error,) = problem_of(client.post("/rerank", json={"candidates": mixed}), 422)["errors"]
        assert (error["field"], error["rule"]) == ("candidates[1]", rule)


COLUMNS = {"id": ["1", "32"]}


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"candidates": ["1", ""]}, "candidates[1]"),
        ({"candidates": {"id": ["1", ""]}}, "candidates.id[1]"),
        ({"candidates": [{"id": "1"}, {"id": ""}]}, "candidates[1].id"),
        ({"candidates": ["1", "2", "1"]}, "candidates[2]"),
        ({"candidates": {"id": ["1", "2", "1"]}}, "candidates.id[2]"),
        (
            {"candidates": {**COLUMNS, "features": {"runtime": [1, "long"]}}},
            "candidates.features.runtime[1]",
        ),
        (
            {"candidates": {**COLUMNS, "features": {"colour": [None, 1]}}},
            "candidates.features.colour[0]",
        ),
        ({"candidates": {**COLUMNS, "records": []}}, "candidates.records"),
        ({"candidates": ["1"], "user": {"history": ["260", ""]}}, "user.history[1]"),
        ({"candidates": ["1"], "user": {"history": [{"id": ""}]}}, "user.history[0].id"),
        ({"candidates": ["1"], "user": {"history": [{"label": 1}]}}, "user.history[0].id"),
        ({"candidates": ["1"], "user": {"history": [None]}}, "user.history[0]"),
        ({"candidates": ["1"], "constraints": {"pinned": {"x" * 257: 0}}},
         "constraints.pinned." + "x" * 181),
        ({"candidates": [{"id": "1", "groups": {"x" * 257: "a"}}]},
         "candidates[0].groups." + "x" * 179),
    ],
)  # fmt: skip
def test_an_error_names_the_field_in_the_form_that_was_sent(client, payload, field):
    for path, sent, prefix in (
        ("/rerank", payload, ""),
        ("/rerank/batch", {"requests": [{"candidates": ["1"]}, payload]}, "requests[1]."),
    ):
        errors = problem_of(client.post(path, json=sent), 422)["errors"]
        assert errors[0]["field"] == f"{prefix}{field}"[:200]
        assert len(errors) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


NEARLY_VALID = st.fixed_dictionaries(
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
@given(payload=NEARLY_VALID | JSON)
def test_no_generated_body_gives_a_server_error(client, payload):
    try:
        content = json.dumps(payload).encode()
    except UnicodeEncodeError:
        return
    response = client.post("/rerank", content=content)
    assert response.status_code in (200, 400, 422), response.text
