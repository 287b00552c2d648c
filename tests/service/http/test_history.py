"""Features of history entries over HTTP: new items, refusals, arrays, and bundles of contract 2."""

import copy
import struct
from typing import Any

import numpy as np
import ormsgpack
import pytest

from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser
from service.engine.features.row_featuriser import RowFeaturiser
from service.http.parsing import MSGPACK
from tests.support.bodies import body, problem_of, slate_ids
from tests.support.bundles import BUNDLE, ROOT

FROZEN = ROOT / "tests" / "frozen" / "bundles" / "ranklens" / "1"
LIKES = 6
CLOSE = 1e-4  # nats


def features_of(featuriser: Featuriser, item: str) -> dict[str, Any]:
    """Return the features of an item that the history columns read, as a client has them."""
    schema, table = featuriser.schema, featuriser.items
    (row,) = featuriser.find([item]).tolist()
    layout = {feature.name: feature for feature in schema.features}
    rate, genres = layout["like_rate"], layout["genres"]
    first = featuriser.layout.first_token["genres"]
    slots = range(genres.width)  # genres have the first tokens of an item
    tokens = [int(table.tokens[row, slot]) for slot in slots]
    words = genres.vocabulary
    return {
        "like_rate": float(table.numbers[row, 0]) * rate.std + rate.mean,
        "genres": [words[token - first - 1] for token in tokens if token > first],
        **{name: vectors[row].tolist() for name, vectors in table.vectors.items()},
    }


@pytest.fixture(scope="module")
def featuriser():
    return RowFeaturiser.load(BUNDLE)


@pytest.fixture(scope="module")
def past(featuriser, items):
    """Return a history of items, and the same one of new items with their features."""
    held = [{"id": item, "label": 1.0} for item in items[40 : 40 + LIKES]]
    new = [
        {**entry, "id": f"new-{entry['id']}", "features": features_of(featuriser, entry["id"])}
        for entry in held
    ]
    return held, new


def ranked(client, payload):
    """Return the ids of a slate and their log-probabilities."""
    response = client.post("/rerank", json=payload).raise_for_status().json()
    return slate_ids(response), [entry["logprob"] for entry in response["slate"]]


def test_new_items_with_the_features_of_old_ones_give_their_slate(client, items, past):
    held, new = past
    plain = body(items[:40], 24)
    expected, logprobs = ranked(client, plain | {"user": {"history": held}})
    slate, again = ranked(client, plain | {"user": {"history": new}})
    assert slate == expected
    assert again == pytest.approx(logprobs, abs=CLOSE)
    bare = [{name: entry[name] for name in ("id", "label")} for entry in new]
    ignored = ranked(client, plain | {"user": {"history": bare}})
    assert ignored == ranked(client, plain)
    assert ignored[1] != pytest.approx(logprobs, abs=CLOSE)


def test_both_contracts_give_the_same_columns(featuriser, past):
    ids = list(featuriser.items.ids[:20])
    candidates = CandidateList.from_json({"candidates": [{"id": i} for i in ids],
                                          "user": {"history": past[1]}})  # fmt: skip
    numbers, _ = featuriser.transform(candidates)
    old, _ = Featuriser.load(FROZEN).transform(candidates)
    assert old.tobytes() == numbers.tobytes()
    bare = CandidateList(ids)
    assert not np.array_equal(featuriser.transform(bare)[0], numbers)


@pytest.mark.parametrize(
    ("features", "suffix", "rule", "value"),
    [
        ({"runtime": "long"}, ".runtime", "a finite number", '"long"'),
        ({"genres": 3}, ".genres", "a list of strings", "3"),
        ({"tags_vector": [1.0]}, ".tags_vector", "a list of 32 numbers", "[1.0]"),
        ({"color": 1}, ".color", "not an item feature of the schema", "1"),
        ([1], "", "an object", "[1]"),
    ],
)
def test_a_wrong_feature_of_an_entry_is_refused_naming_field_rule_and_value(
    client, items, features, suffix, rule, value
):
    past = [items[0], "new", {"id": items[1]}, {"id": "newer", "features": features}]
    payload = {"candidates": items[:3], "user": {"history": past}}
    batch = {"requests": [{"candidates": items[:3]}, payload]}
    for path, content, prefix in (("", payload, ""), ("/batch", batch, "requests[1].")):
        (error,) = problem_of(client.post(f"/rerank{path}", json=content), 422)["errors"]
        assert error["field"] == f"{prefix}user.history[3].features{suffix}"
        assert rule in error["rule"]
        assert error["value"] == value


def test_vectors_of_entries_may_be_arrays(client, items, past):
    arrays = copy.deepcopy(past[1])
    for entry in arrays:
        for name in ("tags_vector", "people_vector", "text_vector"):
            vector = entry["features"][name]
            data = struct.pack(f"<{len(vector)}f", *vector)
            entry["features"][name] = {"dtype": "float32", "shape": [len(vector)], "data": data}
    plain = body(items[:40], 24)
    headers = {"Content-Type": MSGPACK, "Accept": "application/json"}

    def post(history):
        content = ormsgpack.packb(plain | {"user": {"history": history}})
        return client.post("/rerank", content=content, headers=headers)

    assert post(arrays).raise_for_status().json()["slate"] == post(past[1]).json()["slate"]
    arrays[2]["features"]["text_vector"]["data"] = b"1234"
    (error,) = problem_of(post(arrays), 422)["errors"]
    assert error["field"] == "user.history[2].features.text_vector.data"
    assert "128 bytes" in error["rule"]
