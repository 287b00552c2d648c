"""The columns that compare candidates: the native library gives numpy's bits."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine import native_columns
from service.engine.features.candidates import CandidateList
from service.engine.features.compared import SHARES, Places
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.schema import Schema
from service.engine.native_columns import NativeColumns, gives_same_bits, random_past
from service.engine.native_library import NativeError
from tests.support import native

pytestmark = pytest.mark.skipif(not native.is_available(), reason="needs a C++ compiler")

ITEMS = 80


def make_featuriser(draw, vocabulary):
    """Return a featuriser with two kernels; its tags have fixed columns if there are few."""
    features = [
        {"name": "rate", "of": "item", "kind": "statistic", "relative": True},
        {"name": "price", "of": "item", "kind": "number", "relative": True, "std": 3.0},
        {"name": "tags", "of": "item", "kind": "categories", "width": 3,
         "vocabulary": [str(value) for value in range(vocabulary)]},
        {"name": "shape", "of": "item", "kind": "vector", "width": 12, "input": False},
    ]  # fmt: skip
    history = {"limit": 60, "kernels": ["tags", "shape"], "rate": "rate"}
    schema = Schema.from_dict({"name": "random", "history": history, "features": features})
    table = ItemTable(
        ids=tuple(map(str, range(ITEMS))),
        numbers=draw.integers(0, 9, (ITEMS, 2)).astype(np.float32),
        tokens=draw.integers(0, vocabulary + 2, (ITEMS, 3)).astype(np.int32),
        vectors={"shape": draw.normal(size=(ITEMS, 12)).astype(np.float32)},
    )
    return Featuriser(schema, table)


def random_list(draw):
    ids = [str(item) for item in draw.permutation(ITEMS + 5)[: draw.integers(1, 70)]]
    labels = draw.integers(0, 3, ITEMS) / 2
    size = draw.integers(0, 60)
    past = [(str(i), float(labels[i])) for i in draw.permutation(ITEMS)[:size]]
    inline = [{"price": float(draw.integers(9))} for _ in ids] if draw.random() < 0.3 else ()
    return CandidateList(ids, features=inline, history=past)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([9, 300]))
def test_the_library_gives_the_bits_of_numpy(native_library, seed, vocabulary):
    draw = np.random.default_rng(seed)
    featuriser = make_featuriser(draw, vocabulary)
    library = NativeColumns(native_library, featuriser.compared.places)
    candidates = random_list(draw)
    expected, _ = featuriser.transform(candidates)
    written = []

    def record(numbers, past):
        written.append(library(numbers, past))
        return written[-1]

    featuriser.compared.native = record
    numbers, _ = featuriser.transform(candidates)
    assert numbers.tobytes() == expected.tobytes()
    assert written == [True]
    if candidates.history:
        item, label = candidates.history[-1]
        other = dataclasses.replace(
            candidates, history=[*candidates.history[:-1], (item, abs(label - 0.25))]
        )
        assert featuriser.transform(other)[0].tobytes() != expected.tobytes()


def test_entries_as_near_as_the_last_of_the_nearest_are_left_to_numpy(native_library):
    featuriser = make_featuriser(np.random.default_rng(0), 9)
    alike = dataclasses.replace(
        featuriser.items,
        tokens=np.full((ITEMS, 3), 2),
        vectors={"shape": np.ones((ITEMS, 12), np.float32)},
    )
    featuriser = Featuriser(featuriser.schema, alike)
    past = [(str(item), float(item % 2)) for item in range(15)]
    candidates = CandidateList(["20", "21"], history=past)
    expected, _ = featuriser.transform(candidates)
    featuriser.compared.native = NativeColumns(native_library, featuriser.compared.places)
    assert featuriser.transform(candidates)[0].tobytes() == expected.tobytes()
    numbers = np.zeros((2, featuriser.numbers_width), np.float32)
    tied = random_past(np.random.default_rng(0), 2, 15, 2)
    tied.summands[:2] = 0.5
    assert not featuriser.compared.native(numbers, tied)
    tied.summands[:2, :, 3:] = np.linspace(0.1, 0.2, 12)
    assert featuriser.compared.native(numbers, tied)


def test_a_library_that_gives_other_bits_is_noticed(native_library, monkeypatch):
    compared = make_featuriser(np.random.default_rng(0), 9).compared
    library = NativeColumns(native_library, compared.places)
    assert gives_same_bits(library, compared)
    monkeypatch.setattr(native_columns, "SHARES", SHARES * np.float32(1.000001))
    assert not gives_same_bits(library, compared)


def test_arrays_that_do_not_fit_are_refused(native_library):
    places = Places(width=30, sources=[0], targets=[1, 2, 3], history=4, kernels=2)
    library = NativeColumns(native_library, places)
    draw = np.random.default_rng(0)
    past, numbers = random_past(draw, 2, 5, 4), np.zeros((4, 30), np.float32)
    assert library(numbers, past)
    for broken in (
        dataclasses.replace(past, summands=past.summands.astype(np.float64)),
        dataclasses.replace(past, summands=past.summands[:, :, ::-1]),
        dataclasses.replace(past, row_in_history=past.row_in_history[:3]),
        random_past(draw, 1, 5, 4),
        random_past(draw, 2, 5, 3),
    ):
        with pytest.raises(NativeError, match="must be contiguous"):
            library(numbers, broken)
    with pytest.raises(NativeError, match="numbers: must be contiguous float32"):
        library(numbers[:, :29], past)


@pytest.mark.parametrize(
    "change", [{"sources": [30]}, {"targets": [1, 2, -1]}, {"history": 15}, {"history": -1}]
)
def test_columns_outside_the_numbers_are_refused(native_library, change):
    places = Places(width=30, sources=[0], targets=[1, 2, 3], history=4, kernels=2)
    library = NativeColumns(native_library, dataclasses.replace(places, **change))
    past = random_past(np.random.default_rng(0), 2, 5, 4)
    with pytest.raises(NativeError, match="must fit each other"):
        library(np.zeros((4, 30), np.float32), past)


def test_more_positive_entries_than_entries_are_refused(native_library):
    places = Places(width=30, sources=[], targets=[], history=4, kernels=2)
    past = random_past(np.random.default_rng(0), 2, 5, 4)
    past.history.positives = 6
    with pytest.raises(NativeError, match="must fit each other"):
        NativeColumns(native_library, places)(np.zeros((4, 30), np.float32), past)


def test_long_lists_are_left_to_numpy(native_library):
    draw = np.random.default_rng(0)
    library = NativeColumns(native_library, Places(60, [], [], history=0, kernels=2))
    for count, written in ((512, True), (513, False)):
        numbers = np.zeros((count, 60), np.float32)
        assert library(numbers, random_past(draw, 2, 5, count)) is written


def test_a_list_without_anything_to_compare_is_left_as_it_is(native_library):
    places = Places(width=2, sources=[], targets=[], history=2, kernels=0)
    numbers = np.ones((3, 2), np.float32)
    assert NativeColumns(native_library, places)(numbers, None)
    assert numbers.all()
