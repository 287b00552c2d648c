"""Features of history entries: a new item with them counts as one that the table holds."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import FeatureError
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.history_entries import HistoryEntries
from service.engine.features.kept_history import KeptHistory
from service.engine.features.schema import Schema
from tests.support.features import GENRES, LIKED, PASSED, SIZE, featuriser

ITEMS, WIDTH, FEW, MANY = 12, 3, 5, 100  # a vocabulary of MANY has columns for the history alone


def random_items(draw):
    """Return a featuriser over random items, and the raw features of each item."""
    features = [
        {"name": "rate", "of": "item", "kind": "statistic", "mean": -1.0, "std": 0.5},
        {"name": "few", "of": "item", "kind": "categories", "width": WIDTH,
         "vocabulary": list(map(str, range(FEW)))},
        {"name": "many", "of": "item", "kind": "categories", "width": WIDTH,
         "vocabulary": list(map(str, range(MANY)))},
        {"name": "shape", "of": "item", "kind": "vector", "width": 4, "input": False},
    ]  # fmt: skip
    history = {"limit": 8, "kernels": ["few", "many", "shape"], "rate": "rate"}
    schema = Schema.from_dict({"name": "random", "history": history, "features": features})
    values = {
        name: draw.integers(0, size, (ITEMS, WIDTH)) for name, size in (("few", 5), ("many", 100))
    }
    table = ItemTable(
        ids=tuple(map(str, range(ITEMS))),
        numbers=draw.normal(size=(ITEMS, 1)).astype(np.float32),
        tokens=np.concatenate([values["few"] + 2, values["many"] + 3 + FEW], axis=1).astype("i4"),
        vectors={"shape": draw.normal(size=(ITEMS, 4)).astype(np.float32)},
    )
    raw = [
        {
            "rate": float(table.numbers[row, 0]) * 0.5 - 1.0,
            "shape": table.vectors["shape"][row].tolist(),
            **{name: [str(value) for value in tokens[row]] for name, tokens in values.items()},
        }
        for row in range(ITEMS)
    ]
    return Featuriser(schema, table), raw


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans())
def test_a_new_item_with_the_features_of_an_item_gives_its_bits(seed, cached):
    draw = np.random.default_rng(seed)
    served, raw = random_items(draw)
    if cached:
        served.cache_histories(1 << 20, lambda hit: None)
    past = draw.integers(ITEMS, size=6).tolist()
    others = [str(row) for row in range(ITEMS) if row not in past]
    labels = draw.integers(2, size=6).astype(float).tolist()
    held = [(str(row), label) for row, label in zip(past, labels, strict=True)]
    is_new = [draw.random() < 0.5 for _ in past]
    new = [(f"new-{item}" if n else item, v) for (item, v), n in zip(held, is_new, strict=True)]
    features = [raw[row] if n else {} for row, n in zip(past, is_new, strict=True)]
    expected = served.transform(CandidateList(others, history=held))[0]
    sent = CandidateList(others, history=new, history_features=features)
    for _ in range(2):  # a hit, if cached
        assert served.transform(sent)[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("cached", [False, True])
def test_a_kept_history_is_found_once_by_each_featuriser_and_gives_its_bits(monkeypatch, cached):
    draw, finds, find = np.random.default_rng(3), [], HistoryEntries._find
    featurisers = [random_items(draw)[0] for _ in range(2)]
    history = [("3", 1.0), ("gone", 1.0), ("5", 0.0), ("3", 0.0)]
    kept, unknown = KeptHistory(history), KeptHistory([("gone", 1.0)])

    def counted(self, history):
        finds.append(history)
        return find(self, history)

    for turn in range(3):
        for served in featurisers if turn else featurisers[:1] * 2:
            if cached and served.history_cache is None:
                served.cache_histories(1 << 20, lambda hit: None)
            plain = CandidateList(["1", "3", "5"], history=history)
            expected, none = served.transform(plain)[0], CandidateList(["1"])
            with monkeypatch.context() as patch:
                patch.setattr(HistoryEntries, "_find", counted)
                shared = dataclasses.replace(plain, history=kept)
                assert served.transform(shared)[0].tobytes() == expected.tobytes()
                without = dataclasses.replace(none, history=unknown)
                assert served.transform(without)[0].tobytes() == (
                    served.transform(none)[0].tobytes()
                )
    assert len(finds) == 2 * (1 + 1 + 2)  # the second featuriser joins in the second turn
    other = CandidateList(["1", "3", "5"], history=KeptHistory(history[:1]))
    assert featurisers[0].transform(other)[0].tobytes() != expected.tobytes()


@pytest.mark.parametrize("name", ["rate", "few", "many", "shape"])
def test_each_feature_that_the_history_reads_counts(name):
    served, raw = random_items(np.random.default_rng(5))
    entry = CandidateList(["1", "2"], history=[("new", 1.0)], history_features=[raw[0]])
    changed = dataclasses.replace(entry, history_features=[{**raw[0], name: raw[3][name]}])
    assert not np.array_equal(served.transform(entry)[0], served.transform(changed)[0])


def test_a_candidate_repeats_the_entry_of_the_same_new_item_only():
    past = [("new", 1.0), ("newer", 0.0), ("b", 1.0), ("new", 0.0)]
    sent = [{"style": [1.0, 0.0]}, {"style": [0.0, 1.0]}, {}, {"style": [1.0, 0.0]}]
    ids = ["a", "b", "new", "newer", "newest"]
    numbers, _ = featuriser().transform(CandidateList(ids, history=past, history_features=sent))
    assert numbers[:, LIKED].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert numbers[:, PASSED].tolist() == [0.0, 0.0, 1.0, 1.0, 0.0]  # the later answer counts


def test_features_override_the_table_and_the_rest_of_the_item_stays():
    served = featuriser()
    plain = CandidateList(ids=["a", "b", "c"], history=[("a", 1.0)])
    columns, _ = served.transform(plain)
    same, _ = served.transform(
        dataclasses.replace(plain, history_features=[{"style": [2.0, 0.0], "genres": ["x"]}])
    )
    moved, _ = served.transform(dataclasses.replace(plain, history_features=[{"genres": ["y"]}]))
    assert same.tobytes() == columns.tobytes()
    assert columns[0, GENRES] > 0.0 == moved[0, GENRES]
    assert moved[1, GENRES] > 0.0 == columns[1, GENRES]
    assert np.array_equal(moved[:, GENRES + 3], columns[:, GENRES + 3])  # the vector of the table
    assert moved[0, LIKED] == 1.0


def test_a_new_item_without_any_value_is_left_out():
    served = featuriser()
    past = [("new", 1.0), ("newer", 1.0), ("a", 0.0)]
    candidates = CandidateList(["c"], history=past, history_features=[{}, {"style": None}, {}])
    expected, _ = served.transform(CandidateList(["c"], history=[("a", 0.0)]))
    assert served.transform(candidates)[0].tobytes() == expected.tobytes()
    one_value = dataclasses.replace(candidates, history_features=[{}, {"price": 3.0}, {}])
    assert served.transform(one_value)[0][0, SIZE] > expected[0, SIZE]
    alone = CandidateList(["c"], history=[("new", 1.0)], history_features=[{"style": None}])
    without, _ = served.transform(CandidateList(["c"]))
    assert served.transform(alone)[0].tobytes() == without.tobytes()


def test_only_the_last_entries_count_and_earlier_ones_are_checked_too():
    served = featuriser(limit=1)
    past, sent = [("new", 1.0), ("newer", 1.0)], [{"genres": ["y"]}, {"genres": ["x"]}]
    both = CandidateList(["a", "b"], history=past, history_features=sent)
    last = CandidateList(["a", "b"], history=past[1:], history_features=sent[1:])
    assert served.transform(both)[0].tobytes() == served.transform(last)[0].tobytes()
    wrong = dataclasses.replace(both, history_features=[{"genres": 7}, sent[1]])
    with pytest.raises(FeatureError, match=r"^user\.history\[0\]\.features\.genres: a list of str"):
        served.transform(wrong)


@pytest.mark.parametrize("kernels", [["genres", "style"], []])
@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"price": "cheap"}, "price: a finite number, got 'cheap'"),
        ({"price": 1e300, "style": [1.0, 2.0, 3.0]}, "style: a list of 2 numbers"),
        ({"colour": 1}, "colour: not an item feature of the schema, got 1"),
        ({"score": 1.0}, "score: not an item feature of the schema, got 1.0"),
        ({"age": 30}, "age: not an item feature of the schema, got 30"),
        ({"brand": 1.5}, "brand: a string or an integer, got 1.5"),
    ],
)
def test_a_wrong_feature_is_refused_by_its_path(kernels, features, message):
    records = [{}, {"price": 2.0}, {}, features, {"price": "dear"}]
    past = [("a", 1.0), ("new", 1.0), ("b", 0.0), ("newer", 1.0), ("newest", 1.0)]
    candidates = CandidateList(["c"], history=past, history_features=records)
    with pytest.raises(FeatureError) as error:
        featuriser(kernels=kernels).transform(candidates)
    assert str(error.value).startswith(f"user.history[3].features.{message}")


def test_the_cache_tells_histories_apart_by_their_features():
    served = featuriser()
    looked_up: list[bool] = []
    served.cache_histories(1 << 20, looked_up.append)
    features: list[dict[str, Any]]
    features = [{"genres": ["x"]}, {"genres": ["y"]}, {"like_rate": 2.0}, {"genres": ["x"]}, {}]
    lists = [
        CandidateList(["a", "b", "c"], history=[("a", 1.0)], history_features=[each])
        for each in features
    ]
    lists[-1] = dataclasses.replace(lists[-1], history_features=())
    columns = [served.transform(each)[0] for each in lists]
    assert looked_up == [False, False, False, True, False]
    for each, numbers in zip(lists, columns, strict=True):
        assert numbers.tobytes() == featuriser().transform(each)[0].tobytes()
    assert len({numbers.tobytes() for numbers in columns}) == 3  # "a" has the genre x


def test_rates_of_the_time_of_a_train_list_replace_those_of_features():
    past = [("new", 1.0), ("b", 0.0)]
    rated = CandidateList(
        ["a"],
        history=past,
        history_rates=[0.5, -0.5],
        history_features=[{"genres": ["x"], "like_rate": 3.0}, {}],
    )
    same = dataclasses.replace(
        rated,
        history_rates=(),
        history_features=[{"genres": ["x"], "like_rate": 0.5}, {"like_rate": -0.5}],
    )
    columns = featuriser().transform(rated)[0]
    assert columns.tobytes() == featuriser().transform(same)[0].tobytes()
    other = dataclasses.replace(rated, history_rates=())
    assert columns.tobytes() != featuriser().transform(other)[0].tobytes()


def test_json_keeps_the_features_of_entries():
    past, sent = [("new", 0.5), ("a", 1.0)], [{"price": 3.0, "style": [1.0, 0.0]}, {}]
    candidates = CandidateList(["a"], history=past, history_features=sent)
    body = candidates.to_json()
    assert body["user"]["history"][0] == {"id": "new", "label": 0.5, "features": sent[0]}
    assert body["user"]["history"][1] == {"id": "a", "label": 1.0}
    assert CandidateList.from_json(body) == dataclasses.replace(candidates, scores=[None])
    assert CandidateList.from_json({"candidates": [], "user": {"history": ["a"]}}).history == [
        ("a", 1.0)
    ]
