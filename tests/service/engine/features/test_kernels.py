"""History columns by token lists, against the dense form of the same kernels."""

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.features import kernels
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.schema import Schema

ITEMS, WIDTH = 30, 3


def random_featuriser(draw, values, kernels=("tags", "shape"), dtype=np.int32):
    """Return a featuriser over random items, some without tags or with one twice."""
    features = [
        {"name": "rate", "of": "item", "kind": "statistic", "mean": -1.0, "std": 0.5},
        {"name": "tags", "of": "item", "kind": "categories", "width": WIDTH,
         "vocabulary": [str(value) for value in range(values)]},
        {"name": "shape", "of": "item", "kind": "vector", "width": 4, "input": False},
    ]  # fmt: skip
    history = {"limit": 20, "kernels": list(kernels), "rate": "rate"}
    schema = Schema.from_dict({"name": "random", "history": history, "features": features})
    vectors = draw.normal(size=(ITEMS, 4)).astype(np.float32)
    vectors[0] = 0.0
    table = ItemTable(
        ids=tuple(map(str, range(ITEMS))),
        numbers=draw.normal(size=(ITEMS, 1)).astype(np.float32),
        tokens=draw.integers(0, values + 2, (ITEMS, WIDTH)).astype(dtype),
        vectors={"shape": vectors},
    )
    return Featuriser(schema, table)


def dense_columns(featuriser, candidates, tokens, vectors, ridge=8.0):
    """Return the history columns [W, N] by dense unit vectors in float64.

    tokens, vectors: of each candidate, those of inline features included.
    """
    table = featuriser.items
    past = [(int(item), label) for item, label in candidates.history[-20:] if item in table.ids]
    rows, labels = (np.array(each) for each in zip(*past, strict=True))
    logits = table.numbers[rows, 0].astype(np.float64) * 0.5 - 1.0
    surprise = labels - 1.0 / (1.0 + np.exp(-logits))
    values = len(featuriser.schema.features[1].vocabulary)

    def unit(kind, numbers):
        if kind == "tags":
            bag = np.zeros((len(numbers), values + 2))
            np.put_along_axis(bag, numbers.astype(np.int64), 1.0, axis=1)
            numbers = bag[:, 2:]
        length = np.linalg.norm(numbers.astype(np.float64), axis=1, keepdims=True)
        return numbers / np.where(length == 0.0, 1.0, length)

    of_candidates, of_items = {"tags": tokens, "shape": vectors}, (table.tokens, table.vectors)
    raw = {"tags": of_items[0][rows], "shape": of_items[1]["shape"][rows]}
    columns, similarities, among = [], [], []
    for name in featuriser.schema.history.kernels:
        similarity = unit(name, of_candidates[name]) @ unit(name, raw[name]).T
        similarities.append(similarity)
        among.append(unit(name, raw[name]) @ unit(name, raw[name]).T)
        total = similarity @ surprise
        mean = total / (np.abs(similarity).sum(axis=1) + 1.0)
        columns += [total / math.sqrt(len(rows)), mean, standard(mean)]
    mean, count = np.mean(similarities, axis=0), len(rows)
    weights = np.linalg.solve(np.mean(among, axis=0) + ridge * np.eye(count), surprise)
    nearest = np.argsort(-mean, axis=1)[:, :10]
    near = np.take_along_axis(mean, nearest, axis=1)
    echo = (near * surprise[nearest]).sum(axis=1)
    liked = labels > 0.5
    latest = dict(past)
    seen = [latest.get(int(item)) if item in table.ids else None for item in candidates.ids]
    return np.array([
        *columns, mean @ weights, standard(mean @ weights), near.mean(axis=1), echo, standard(echo),
        mean[:, liked].max(axis=1, initial=0.0), mean[:, ~liked].max(axis=1, initial=0.0),
        [0.0 if label is None else label for label in seen],
        [0.0 if label is None else 1.0 - label for label in seen],
        [math.log1p(count) / 4.0] * len(candidates.ids),
    ])  # fmt: skip


def standard(values):
    return (values - values.mean()) / (values.std() + 1e-6)


def random_list(draw, values, history):
    """Return a list with unknown ids and inline tags, and its tokens and vectors."""
    ids = [str(item) for item in draw.permutation(ITEMS + 4)[: draw.integers(2, 12)]]
    past = [(str(item), float(draw.integers(0, 5) / 4)) for item in draw.permutation(ITEMS)]
    inline = [
        {"tags": [str(v) for v in draw.integers(0, values + 3, WIDTH)]} if draw.random() < 0.3
        else {}
        for _ in ids
    ]  # fmt: skip
    return CandidateList(ids, features=inline, history=past[:history])


def raw_rows(featuriser, candidates, values):
    """Return tokens [N, WIDTH] and vectors [N, 4] of a list as its request gives them."""
    table, rows = featuriser.items, []
    for item, inline in zip(candidates.ids, candidates.features, strict=True):
        in_table = item in table.ids
        tokens = table.tokens[int(item)] if in_table else np.zeros(WIDTH, int)
        if inline:
            tokens = [2 + int(v) if int(v) < values else 1 for v in inline["tags"]]
        vector = table.vectors["shape"][int(item)] if in_table else np.zeros(4)
        rows.append((tokens, vector))
    return tuple(np.array(each) for each in zip(*rows, strict=True))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([5, 64, 65, 300]), st.integers(1, 20))
def test_token_lists_give_the_columns_of_the_dense_form(seed, values, history):
    draw = np.random.default_rng(seed)
    featuriser = random_featuriser(draw, values, dtype=(np.int32, np.int64)[seed % 2])
    candidates = random_list(draw, values, history)
    numbers, _ = featuriser.transform(candidates)
    tokens, vectors = raw_rows(featuriser, candidates, values)
    expected = dense_columns(featuriser, candidates, tokens, vectors)
    np.testing.assert_allclose(numbers[:, 1:].T, expected, rtol=1e-4, atol=2e-4)
    other = dense_columns(featuriser, candidates, tokens, vectors, ridge=9.0)
    assert not np.allclose(numbers[:, 1:].T, other, rtol=1e-4, atol=2e-4) or not other[6].any()


def test_a_candidate_as_near_to_many_entries_echoes_ten_of_them():
    featuriser = random_featuriser(np.random.default_rng(0), 100, kernels=("tags",))
    table = dataclasses.replace(
        featuriser.items,
        tokens=np.full((ITEMS, WIDTH), 2),
        numbers=np.zeros((ITEMS, 1), np.float32),
    )
    alike = Featuriser(featuriser.schema, table)
    past = [(str(item), 1.0) for item in range(15)]
    columns = alike.transform(CandidateList(["20", "21"], history=past))[0][:, 1:].T
    surprise = 1.0 - 1.0 / (1.0 + math.exp(1.0))
    assert columns[6] == pytest.approx([10 * surprise] * 2, rel=1e-5)
    assert columns[6] != pytest.approx([15 * surprise] * 2, rel=1e-5)


def test_items_that_take_turns_in_one_place_keep_their_rows(monkeypatch):
    computed = []

    def compute(index):
        computed.append(index.tolist())
        return np.stack([index, index], axis=1).astype(np.float32)

    monkeypatch.setattr(kernels, "KEPT_BYTES", 3 * 2 * 4)
    rows = kernels.RecentRows(compute, width=2, count=10)
    for index in ([0, 1], [3, 1, 3], [0, 3, 6], [6]):
        assert rows.take(np.array(index))[:, 0].tolist() == index
    assert computed == [[0, 1], [3, 3], [0, 6]]  # of 0, 3 and 6, which share a place, one is kept


def test_rows_that_all_fit_are_computed_once_and_those_of_one_item_more_are_not(monkeypatch):
    computed = []

    def compute(index):
        computed.append(index.tolist())
        return np.stack([index, index], axis=1).astype(np.float32)

    monkeypatch.setattr(kernels, "KEPT_BYTES", 10 * 2 * 4)
    rows = kernels.RecentRows(compute, width=2, count=10)
    for index in ([0, 9], [3, 1, 3], [9]):
        assert rows.take(np.array(index))[:, 0].tolist() == index
    assert computed == [[*range(10)]]
    kernels.RecentRows(compute, width=2, count=11).take(np.array([10]))
    assert computed[1:] == [[10]]


def test_no_array_of_items_times_vocabulary_is_ever_made():
    items, values = 40_000, 20_000
    schema = Schema.from_dict({
        "name": "wide",
        "history": {"limit": 48, "kernels": ["tags"], "rate": None},
        "features": [
            {"name": "tags", "of": "item", "kind": "categories", "width": 5,
             "vocabulary": [str(value) for value in range(values)]}
        ],
    })  # fmt: skip
    tokens = np.random.default_rng(0).integers(2, values, (items, 5)).astype(np.int32)
    ids = tuple(map(str, range(items)))
    tracemalloc.start()
    try:
        featuriser = Featuriser(
            schema, ItemTable(ids, np.zeros((items, 0), np.float32), tokens, {})
        )
        featuriser.transform(CandidateList(ids[:50], history=[(i, 1.0) for i in ids[-48:]]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * tokens.nbytes < items * values * 4 / 100
