"""Candidates by column, and arrays of other libraries, which the client sends as MessagePack."""

import array
import json
import math
from typing import Any

import numpy as np
import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_client import Client
from rerank_client.columns import as_column, holds_arrays, pack
from rerank_client.fallback import initial_ranking
from rerank_client.requests import build_list_body, encode
from service.http.parsing import featuriser_input, validate
from service.http.schemas import RerankRequest

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([-1, 0, 127, 128, 2**31, 2**63])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.sampled_from(["x" * 255, "x" * 256, "x" * 70_000]),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_a_packed_value_unpacks_to_itself(value):
    unpacked = ormsgpack.unpackb(pack(value))
    assert json.dumps(unpacked) == json.dumps(value)  # 1, 1.0 and true are equal in Python


@pytest.mark.parametrize("size", [0, 15, 16, 255, 256, 70_000])
def test_heads_of_every_length_are_read(size):
    values = {"list": list(range(size)), "map": {str(key): None for key in range(size)}}
    assert ormsgpack.unpackb(pack(values)) == values


ARRAYS = {
    "float32": np.array([0.5, 2.25], np.float32),
    "float64": np.array([0.5, 2.25]),
    "strided": np.array([0.5, 9.0, 2.25, 9.0])[::2],
    "array": array.array("d", [0.5, 2.25]),
    "big-endian": np.array([0.5, 2.25], ">f8"),
    "list": [0.5, 2.25],
    "generator": (value for value in (0.5, 2.25)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_numbers_of_any_kind_reach_the_service_as_the_same_column(name):
    columns: Any = {"id": np.array(["a", "b"]), "features": {"price": ARRAYS[name], "none": None}}
    body = build_list_body(columns)
    payload = ormsgpack.unpackb(encode(body, packed=True))
    inputs, _ = featuriser_input(validate(RerankRequest, payload), "")
    assert inputs.ids == ["a", "b"]
    assert inputs.columns.keys() == {"price"}
    assert np.asarray(inputs.columns["price"]).tolist() == [0.5, 2.25]


def test_vectors_scores_and_features_of_users_and_contexts_may_be_arrays():
    body = build_list_body(
        {
            "id": np.array([1, 2]),
            "score": np.array([0.5, 0.25], np.float32),
            "features": {"look": np.array([[1.0, 2.0], [3.0, 4.0]])},
        },
        user={"id": "ada", "features": {"taste": np.ones(3, np.float32), "age": 7}},
        context={"mood": np.zeros(2)},
    )
    payload = ormsgpack.unpackb(encode(body, packed=True))
    inputs, _ = featuriser_input(validate(RerankRequest, payload), "")
    assert inputs.ids == ["1", "2"]
    assert inputs.scores == [0.5, 0.25]
    assert np.asarray(inputs.columns["look"]).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert inputs.user["taste"].tolist() == [1.0, 1.0, 1.0]
    assert inputs.context["mood"].tolist() == [0.0, 0.0]


def test_vectors_of_history_entries_may_be_arrays():
    features = {"look": np.ones(2, np.float32), "price": 3}
    past = ["a", {"id": "new", "features": features}, {"id": 7}]
    body = build_list_body(["b"], user={"history": past})
    assert holds_arrays(body)
    assert not holds_arrays(build_list_body(["b"], user={"history": past[::2]}))
    payload = ormsgpack.unpackb(encode(body, packed=True))
    inputs, _ = featuriser_input(validate(RerankRequest, payload), "")
    assert inputs.history == [("a", 1.0), ("new", 1.0), ("7", 1.0)]
    none, sent, nothing = inputs.history_features
    assert none == nothing == {}
    assert np.asarray(sent["look"]).tolist() == [1.0, 1.0]
    assert sent["price"] == 3
    assert isinstance(features["look"], np.ndarray)  # the arguments are left alone


def test_whole_numbers_and_booleans_are_sent_as_lists():
    assert as_column(np.array([1, 2])) == [1, 2]
    assert as_column(np.array([True])) == [True]
    assert as_column("text") == "text"


@pytest.mark.parametrize(("value", "text"), [(2**64, "64 bits"), (math.nan, "context.b: must be")])
def test_a_value_that_messagepack_or_json_lacks_is_refused_beside_arrays(value, text):
    with Client("http://127.0.0.1:9") as client, pytest.raises(ValueError, match=text):
        client.rerank(["1"], context={"a": np.ones(1), "b": value})


def test_a_vector_of_a_history_entry_gives_the_same_slate_as_array_and_list(url, items):
    vector = np.linspace(-1.0, 1.0, 32, dtype=np.float32)
    with Client(url, fallback=False, timeout_ms=30_000) as client:
        packed, listed, without = (
            client.rerank(items[:20], user={"history": [{"id": "new", "features": features}]})
            for features in ({"tags_vector": vector}, {"tags_vector": vector.tolist()}, {})
        )
    assert packed.slate == listed.slate != without.slate


def test_columns_with_arrays_and_lists_give_the_same_slate(url, items):
    values = [row / 4 for row in range(20)]
    with Client(url, fallback=False, timeout_ms=30_000) as client:
        packed, listed = (
            client.rerank({"id": items[:20], "features": {"vote_avg": column}})
            for column in (np.array(values, np.float32), values)
        )
        (batched,) = client.rerank_many(
            [{"candidates": {"id": items[:20], "features": {"vote_avg": np.array(values)}}}]
        )
    assert packed.slate == listed.slate == batched.slate


def test_the_fallback_keeps_the_constraints_of_columns():
    with Client("http://127.0.0.1:9", timeout_ms=50) as client:
        response = client.rerank(
            {"id": ["a", "b", 3], "groups": {"by": ["x", "x", None], "more": None}},
            constraints={"max_per_group": {"by": 1}},
        )
    assert response.ids == ("a", 3)
    assert initial_ranking(build_list_body({"id": ["a"], "groups": {"by": []}}))[0].id == "a"
