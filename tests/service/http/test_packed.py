"""Columns, scores and vectors as arrays of MessagePack."""

import struct

import ormsgpack
import pytest

from service.errors import InvalidRequest
from service.http.parsing import MSGPACK, featuriser_input, validate
from service.http.schemas import RerankRequest
from tests.support.bodies import problem_of


def packed(values, dtype="float32"):
    code = {"float32": "f", "float64": "d"}[dtype]
    data = struct.pack(f"<{len(values)}{code}", *values)
    return {"dtype": dtype, "shape": [len(values)], "data": data}


def post(client, payload):
    headers = {"Content-Type": MSGPACK, "Accept": "application/json"}
    return client.post("/rerank", content=ormsgpack.packb(payload), headers=headers)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_rank_as_the_lists_of_their_numbers_do(client, items, dtype):
    values = [row / 4 for row in range(30)]
    vectors = [row / 8 for row in range(30 * 32)]
    matrix = {**packed(vectors, dtype), "shape": [30, 32]}
    listed = [vectors[32 * row : 32 * row + 32] for row in range(30)]
    forms = (
        {"vote_avg": packed(values, dtype), "tags_vector": matrix},
        {"vote_avg": values, "tags_vector": listed},
    )
    user = {"history": items[40:60]}
    bodies = [{"candidates": {"id": items[:30], "features": f}, "user": user} for f in forms]
    bodies.append({"candidates": {"id": items[:30]}, "user": user})
    slates = [post(client, body).json()["slate"] for body in bodies]
    assert slates[0] == slates[1] != slates[2]


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"dtype": "int8"}, "candidates.features.vote_avg.dtype", "'float32' or 'float64'"),
        ({"shape": [2, 1, 1]}, "candidates.features.vote_avg.shape", "at most 2 entries"),
        ({"shape": []}, "candidates.features.vote_avg.shape", "at least one entry"),
        ({"shape": [1, 2]}, "candidates.features.vote_avg", "as long as id, which has 2"),
        ({"shape": [2, 2]}, "candidates.features.vote_avg.data", "16 bytes, as shape [2, 2]"),
        ({"data": b"1234567"}, "candidates.features.vote_avg.data", "8 bytes, as shape [2] of"),
        ({"data": "12345678"}, "candidates.features.vote_avg.data", "bytes, which only"),
        ({"data": struct.pack("<2f", 1, float("nan"))}, "candidates.features.vote_avg[1]", "a fin"),
        ({"order": "C"}, "candidates.features.vote_avg.order", "unknown field"),
    ],
)
def test_an_array_that_cannot_be_read_is_refused_naming_field_and_rule(
    client, items, change, field, rule
):
    columns = {"id": items[:2], "features": {"vote_avg": packed([1, 2]) | change}}
    (error,) = problem_of(post(client, {"candidates": columns}), 422)["errors"]
    assert error["field"] == field
    assert rule in error["rule"]


def test_an_array_in_json_is_refused_because_only_messagepack_has_bytes(client, items):
    array = {"dtype": "float32", "shape": [1], "data": "AACAPw=="}
    columns = {"id": items[:1], "features": {"vote_avg": array}}
    problem = problem_of(client.post("/rerank", json={"candidates": columns}), 422)
    assert "which only MessagePack has" in problem["detail"]


def test_a_column_that_is_no_list_is_refused_with_both_forms(client, items):
    columns = {"id": items[:1], "features": {"vote_avg": 3}}
    (error,) = problem_of(post(client, {"candidates": columns}), 422)["errors"]
    assert error["field"] == "candidates.features.vote_avg"
    assert error["rule"] == "a list, or an object with dtype, shape and data"


def inputs_of(payload):
    return featuriser_input(validate(RerankRequest, payload), "requests[3].")[0]


def test_scores_and_vectors_of_user_and_context_may_be_arrays():
    inputs = inputs_of(
        {
            "candidates": {"id": ["1", "2"], "score": packed([0.5, 2.0])},
            "user": {"features": {"taste": packed([1.0, 2.0], "float64"), "age": 7}},
            "context": {"mood": packed([3.0])},
        }
    )
    assert inputs.scores == [0.5, 2.0]
    assert inputs.user["taste"].tolist() == [1.0, 2.0]
    assert inputs.user["age"] == 7
    assert inputs.context["mood"].tolist() == [3.0]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (
            {"candidates": {"id": ["1", "2"], "score": packed([1.0, float("inf")])}},
            "requests[3].candidates.score[1]",
        ),
        (
            {"candidates": {"id": ["1"], "score": packed([1.0]) | {"shape": [1, 1]}}},
            "requests[3].candidates.score.shape",
        ),
        (
            {"candidates": ["1"], "user": {"features": {"taste": {"shape": [1], "data": b""}}}},
            "requests[3].user.features.taste.dtype",
        ),
        (
            {"candidates": ["1"], "context": {"mood": packed([3.0]) | {"data": b""}}},
            "requests[3].context.mood.data",
        ),
        (
            {"candidates": ["1"], "context": {"mood": packed([]) | {"shape": [1 << 63, 0]}}},
            "requests[3].context.mood.shape[1]",
        ),
        (
            {"candidates": {"id": ["1"], "features": {"f": packed([]) | {"shape": [1, 0]}}}},
            "candidates.features.f.shape[1]",
        ),
    ],
)
def test_arrays_outside_of_columns_are_refused_naming_their_field(payload, field):
    with pytest.raises(InvalidRequest) as raised:
        inputs_of(payload)
    assert raised.value.errors[0].field == field
