"""Inline features by column: the same bits as value by value, and errors that name the value."""

import math
import struct
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import (
    FeatureError,
    encode_number,
    encode_numbers,
    relative_ranks,
)
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.schema import Feature, Schema

NUMBERS = st.one_of(
    st.floats(-5e5, 5e5),
    st.floats(0, 1e-300),
    st.integers(-500_000, 500_000),
    st.sampled_from([0.0, -0.0, 3.5, math.e - 1]),
)


@st.composite
def number_features(draw):
    """Draw number features whose values are never too far from the mean."""
    statistics = st.sampled_from([(0.0, 1.0), (math.log1p(3.5), 0.7), (-1e3, 3.0), (7.0, 1e20)])
    features = []
    for index in range(draw(st.integers(1, 4))):
        mean, std = draw(statistics)
        transform = draw(st.sampled_from(["none", "log"]))
        features.append(Feature(f"n{index}", "candidate", "number", transform, mean=mean, std=std))
    return features


def featuriser_of(*features, **of_schema):
    """Return a featuriser without items."""
    schema = Schema("s", features, **of_schema)
    numbers = sum(feature.of == "item" for feature in features)
    table = ItemTable((), np.zeros((0, numbers), np.float32), np.zeros((0, 0), np.int64), {})
    return Featuriser(schema, table)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_records_and_columns_have_the_bits_of_values_encoded_one_by_one(data):
    features = data.draw(number_features())
    cell = st.none() | NUMBERS
    count = data.draw(st.integers(1, 6))
    table = [data.draw(st.lists(cell, min_size=count, max_size=count)) for _ in features]
    names = [feature.name for feature in features]
    expected = np.array(
        [
            [encode_number(feature, value, "") for value in column]
            for feature, column in zip(features, table, strict=True)
        ],
        np.float32,
    ).T
    whole = [dict(zip(names, row, strict=True)) for row in zip(*table, strict=True)]
    ragged = [{name: v for name, v in record.items() if v is not None} for record in whole]
    ids = [str(row) for row in range(count)]
    for candidates in (
        CandidateList(ids, features=whole),
        CandidateList(ids, features=ragged),
        CandidateList(ids, columns=dict(zip(names, table, strict=True))),
    ):
        numbers, _ = featuriser_of(*features).transform(candidates)
        assert numbers.tobytes() == expected.tobytes()


@settings(max_examples=20, deadline=None)
@given(number_features(), st.lists(st.floats(-5e5, 5e5, width=32), min_size=1, max_size=30))
def test_arrays_have_the_bits_of_lists(features, values):
    ids = [str(row) for row in range(len(values))]
    for dtype in (np.float32, np.float64, ">f8"):
        array = np.array(values, dtype)
        columns = {feature.name: array for feature in features}
        listed = {feature.name: values for feature in features}
        numbers, _ = featuriser_of(*features).transform(CandidateList(ids, columns=columns))
        expected, _ = featuriser_of(*features).transform(CandidateList(ids, columns=listed))
        assert numbers.tobytes() == expected.tobytes()


def test_logarithms_that_numpy_and_math_round_apart_are_those_of_math():
    feature = Feature("price", "candidate", "number", "log", mean=0.3, std=0.7)
    values = np.random.default_rng(0).exponential(size=200_000)
    encoded = encode_numbers([feature], values[None], None)[0].astype(np.float32)
    expected = [encode_number(feature, value, "") for value in values.tolist()]
    assert encoded.tobytes() == struct.pack(f"={len(values)}f", *expected)


def test_a_negative_infinity_has_no_logarithm():
    feature = Feature("price", "candidate", "number", "log")
    for columns in ({"price": [1.0, -math.inf]}, {"price": np.array([1.0, -math.inf])}):
        with pytest.raises(FeatureError, match=r"candidates\[1\]\.features\.price: a finite"):
            featuriser_of(feature).transform(CandidateList(["a", "b"], columns=columns))


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (True, "a finite number"),
        ("3", "a finite number"),
        (math.nan, "a finite number"),
        (10**400, "a finite number"),
        ([1.0], "a finite number"),
        (1e300, "deviations of the train mean"),
    ],
)
def test_the_first_broken_value_of_many_is_named_in_records_and_columns(value, rule):
    features = [Feature(f"n{index}", "candidate", "number") for index in range(30)]
    records: list[dict[str, Any]] = [
        dict.fromkeys((feature.name for feature in features), 0.5) for _ in range(20)
    ]
    records[17]["n29"] = value
    records[18]["n0"] = "later in the list, in an earlier column"
    columns = {feature.name: [record[feature.name] for record in records] for feature in features}
    ids = [str(row) for row in range(20)]
    for candidates in (CandidateList(ids, features=records), CandidateList(ids, columns=columns)):
        with pytest.raises(FeatureError) as raised:
            featuriser_of(*features).transform(candidates)
        assert raised.value.path == "candidates[17].features.n29"
        assert rule in raised.value.rule
        assert raised.value.value is value


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_first_of_several_broken_values_is_named_by_candidate_and_then_by_column(data):
    features = [Feature(f"n{index}", "candidate", "number") for index in range(3)]
    features += [
        Feature("look", "candidate", "vector", width=2),
        Feature("tag", "candidate", "category"),
    ]
    names = [feature.name for feature in features]
    count = data.draw(st.integers(1, 9))
    table: dict[str, Any] = {name: [0.5] * count for name in names[:3]}
    table |= {"look": [[1.0, 2.0]] * count, "tag": ["x"] * count}
    broken: dict[str, Any] = {"look": [1.0], "tag": 0.5}
    places = st.tuples(st.integers(0, count - 1), st.sampled_from(names))
    chosen = data.draw(st.lists(places, min_size=1, max_size=4))
    for row, name in chosen:
        table[name][row] = broken.get(name, math.nan)
    first = min(chosen, key=lambda place: (place[0], names.index(place[1])))
    ids = [str(row) for row in range(count)]
    records = [dict(zip(names, row, strict=True)) for row in zip(*table.values(), strict=True)]
    arrays = {name: np.array(table[name]) for name in names[:3]}
    for candidates in (
        CandidateList(ids, features=records),
        CandidateList(ids, columns=table),
        CandidateList(ids, columns=table | arrays),
    ):
        with pytest.raises(FeatureError) as raised:
            featuriser_of(*features).transform(candidates)
        assert raised.value.path == f"candidates[{first[0]}].features.{first[1]}"


@pytest.mark.parametrize("form", ["records", "columns", "arrays"])
def test_a_broken_value_is_searched_for_in_fewer_calls_than_the_list_has_values(form):
    count, width = 100, 100
    features = [Feature(f"n{index}", "candidate", "number") for index in range(width)]
    values = np.ones((width, count))
    values[-1, -1] = math.nan
    names = [feature.name for feature in features]
    ids = list(map(str, range(count)))
    columns: dict[str, Any] = dict(
        zip(names, values if form == "arrays" else values.tolist(), strict=True)
    )
    candidates = CandidateList(ids, columns=columns)
    if form == "records":
        candidates = CandidateList(ids, features=candidates.by_candidate())
    featuriser, calls = featuriser_of(*features), 0

    def count_call(_frame, event, _argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count_call)
    try:
        with pytest.raises(FeatureError, match=r"candidates\[99\]\.features\.n99: a finite number"):
            featuriser.transform(candidates)
    finally:
        sys.setprofile(None)
    assert calls < count * width / 2


def test_a_required_feature_that_one_candidate_lacks_is_named():
    required = Feature("price", "candidate", "number", required=True)
    optional = Feature("look", "candidate", "vector", width=2)
    for candidates in (
        CandidateList(["a", "b"], features=[{"price": 1.0}, {"look": [1.0, 2.0]}]),
        CandidateList(["a", "b"], columns={"price": [1.0, None]}),
        CandidateList(["a", "b"], features=[{"price": 1.0}, {"price": None}]),
    ):
        with pytest.raises(FeatureError, match=r"^candidates\[1\]\.features\.price: required"):
            featuriser_of(required, optional).transform(candidates)


def test_vectors_of_candidates_users_and_contexts_fill_their_columns():
    features = [
        Feature("taste", "user", "vector", width=2),
        Feature("mood", "context", "vector", width=1),
        Feature("look", "candidate", "vector", width=2, default=[7.0, 8.0]),
    ]
    listed = CandidateList(
        ["a", "b"],
        features=[{"look": [1, 2.5]}, {}],
        user={"taste": [0.5, -1.0]},
        context={"mood": (3.0,)},
    )
    packed = CandidateList(
        ["a", "b"],
        columns={"look": np.array([[1, 2.5], [7, 8]], np.float32)},
        user={"taste": np.array([0.5, -1.0])},
        context={"mood": np.array([3.0], np.float32)},
    )
    for candidates in (listed, packed):
        numbers, _ = featuriser_of(*features).transform(candidates)
        assert numbers.tolist() == [[0.5, -1.0, 3.0, 1.0, 2.5], [0.5, -1.0, 3.0, 7.0, 8.0]]


@pytest.mark.parametrize(
    ("candidates", "path"),
    [
        (CandidateList(["a"], user={"taste": [1.0]}), "user.features.taste"),
        (CandidateList(["a"], user={"taste": np.ones(3)}), "user.features.taste"),
        (CandidateList(["a"], user={"taste": 1.0}), "user.features.taste"),
        (CandidateList(["a"], columns={"look": np.ones((1, 3))}), "candidates[0].features.look"),
        (CandidateList(["a"], columns={"look": np.ones(1)}), "candidates[0].features.look"),
        (CandidateList(["a"], columns={"look": [[None, 1]]}), "candidates[0].features.look"),
        (
            CandidateList(["a", "b"], columns={"look": np.array([[1, 1], [1, math.nan]])}),
            "candidates[1].features.look",
        ),
    ],
)
def test_a_vector_of_another_width_or_without_numbers_is_refused(candidates, path):
    features = [
        Feature("taste", "user", "vector", width=2),
        Feature("look", "candidate", "vector", width=2),
    ]
    with pytest.raises(FeatureError) as raised:
        featuriser_of(*features).transform(candidates)
    assert raised.value.path == path
    assert raised.value.rule == "a list of 2 numbers of size 1e+06 at most"


def test_a_score_counts_before_the_inline_feature_of_its_name():
    score = Feature("score", "candidate", "number", default=-1.0)
    inline = {"score": [1.0, 2.0, None]}
    records = [{"score": 1.0}, {"score": 2.0}, {}]
    for more in ({"columns": inline}, {"features": records}):
        candidates = CandidateList(["a", "b", "c"], scores=[None, 5.0, None], **more)
        assert featuriser_of(score).transform(candidates)[0][:, 0].tolist() == [1.0, 5.0, -1.0]
        refused = CandidateList(["a", "b", "c"], scores=[None, math.nan, None], **more)
        with pytest.raises(FeatureError, match=r"^candidates\[1\]\.score: a finite number"):
            featuriser_of(score).transform(refused)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 9), st.randoms(use_true_random=False))
def test_ranks_of_many_rows_equal_those_of_each_row_alone(height, width, random):
    rows = np.array([[random.choice([-0.0, 0.0, 1.5, 2.0]) for _ in range(width)]] * height)
    rows = rows.reshape(height, width).astype(np.float32)
    alone = [relative_ranks(row[None])[0] for row in rows]
    assert relative_ranks(rows).tobytes() == np.array(alone, np.float32).tobytes()


def test_a_list_in_columns_is_written_as_records():
    columns: dict[str, Any] = {"price": np.array([1.5, 2.5]), "genre": ["x", None]}
    written = CandidateList(["a", "b"], columns=columns).to_json()
    assert written["candidates"] == [
        {"id": "a", "features": {"price": 1.5, "genre": "x"}},
        {"id": "b", "features": {"price": 2.5}},
    ]


def test_names_that_every_candidate_invents_are_refused_in_memory_of_the_size_of_the_request():
    count = 300
    records = [{f"{row} {name}": 0.5 for name in range(50)} for row in range(count)]
    candidates = CandidateList(ids=list(map(str, range(count))), features=records)
    featuriser = featuriser_of(Feature("n", "candidate", "number"))
    tracemalloc.start()
    try:
        with pytest.raises(FeatureError, match="not a feature of the schema") as raised:
            featuriser.transform(candidates)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert raised.value.path == "candidates[0].features.0 0"
    assert peak < 8 << 20
