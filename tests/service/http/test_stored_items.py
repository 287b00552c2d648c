"""Items by id over HTTP: the same slates as with their features inline, and explanations."""

import httpx
import numpy as np
import pytest

from service.state.engine import Key, Value, now_ms
from service.state.entities import Item
from service.state.lmdb_engine import LmdbEngine
from tests.support.servers import fresh
from tests.support.stores import metric_value

NEW = "no-such-movie"
STORED = {
    "popularity": 400.0, "vote_avg": 8.9, "vote_cnt": 25_000, "runtime": 240, "release_year": 2016,
    "like_rate": 1.2, "genres": ["western", "crime"], "director": "steven spielberg",
    "tags_vector": [0.4] * 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def candidates(session):
    return [*list(session.featuriser.items.ids)[100:150], NEW]


@pytest.fixture(scope="module")
def features(candidates):
    """The stored features of some candidates; every third has all, and others one each."""
    names = list(STORED)
    return {
        item: STORED if place % 3 == 0 else {(name := names[place % len(names)]): STORED[name]}
        for place, item in enumerate(candidates)
        if place % 4
    }


@pytest.fixture(scope="module")
def client(session, features, tmp_path_factory):
    """A client of a service whose store has the features, and some that the schema lacks."""
    directory = tmp_path_factory.mktemp("state")
    engine, now = LmdbEngine(directory), now_ms()
    for item, values in features.items():
        stored = Item({**values, "nosuch": 1, "budget": "much"}, updated_at=now - 5000)
        engine.put_many([(Key("item", item), Value(stored.to_blob()))])
    engine.put_many([(Key("item", "noise"), Value(b"noise"))])
    engine.close()
    with (
        fresh(session, state=f"lmdb://{directory}") as url,
        httpx.Client(base_url=url, timeout=30) as opened,
    ):
        yield opened


def slate_of(client, candidates, **options):
    """Return the response and the figures of the slate, for a user with a history."""
    user = {"history": [{"id": item, "label": 1.0} for item in ("260", "1196", "1210")]}
    body = {"user": user, "candidates": candidates, **options}
    response = client.post("/rerank", json=body).raise_for_status().json()
    return response, [
        (entry["id"], entry["logprob"], entry["entropy"]) for entry in response["slate"]
    ]


def test_items_by_id_rank_as_with_their_features_inline_in_every_bit(client, candidates, features):
    inline = [{"id": item, "features": features.get(item, {})} for item in candidates]
    _, expected = slate_of(client, inline)
    response, by_id = slate_of(client, candidates)
    assert by_id == expected
    assert response["degraded"] is None
    changed = [
        {"id": item, "features": {**features.get(item, {}), "runtime": 90}} for item in candidates
    ]
    assert slate_of(client, changed)[1] != expected
    assert (
        slate_of(client, [{"id": item, "features": {"runtime": 90}} for item in candidates])[1]
        == (slate_of(client, changed)[1])
    )


def test_sampled_slates_are_those_of_inline_features_too(client, candidates, features):
    inline = [{"id": item, "features": features.get(item, {})} for item in candidates]
    options = {"sampling": {"slates": 4, "seed": 7}}
    one, other = slate_of(client, candidates, **options), slate_of(client, inline, **options)
    assert one[1] == other[1]
    assert one[0]["utility"] == other[0]["utility"]


def test_a_limit_per_category_reads_the_stored_value(client, candidates, features):
    options = {"constraints": {"max_per_group": {"director": 1}}, "slate_size": 10}
    response, _ = slate_of(client, candidates, **options)
    directed = [
        entry["id"] for entry in response["slate"]
        if features.get(entry["id"], {}).get("director") == STORED["director"]
    ]  # fmt: skip
    assert len(directed) <= 1
    assert len([item for item in features if "director" in features[item]]) > 10


def test_an_explanation_says_what_the_store_gave(client, candidates, features):
    response, _ = slate_of(client, candidates, explain=True)
    used = response["state"]["items"]
    assert (used["hits"], used["misses"]) == (len(features), len(candidates) - len(features))
    assert used["features"] == [name for name in used["features"] if name in STORED]
    assert set(used["features"]) == set(STORED)
    assert (used["counters"], used["ignored"]) == ([], ["budget", "nosuch"])
    assert used["clipped"] == 0
    assert 5 <= used["newest_age_s"] <= used["oldest_age_s"] < 600


def test_a_new_item_of_the_store_is_known(client, candidates, features):
    assert NEW in features
    assert slate_of(client, candidates)[0]["unknown_candidates"] == 0
    assert slate_of(client, [*candidates, "other"])[0]["unknown_candidates"] == 1


def test_bytes_that_no_store_has_written_degrade_the_list_and_are_counted(client, candidates):
    clean, _ = slate_of(client, candidates[:5])
    assert clean["degraded"] is None
    response, slate = slate_of(client, [*candidates[:5], "noise"])
    assert response["degraded"] == {"reason": "state", "reasons": ["state"]}
    assert None not in [logprob for _, logprob, _ in slate]
    assert metric_value(client, 'rerank_state_item_lookups_total{result="corrupt"}') == 1


def test_lookups_ages_and_refused_values_of_items_are_counted(client, candidates, features):
    names = [
        'rerank_state_item_lookups_total{result="hit"}',
        'rerank_state_item_lookups_total{result="miss"}',
        "rerank_state_ignored_values_total",
        "rerank_state_item_age_seconds_count",
    ]
    before = [metric_value(client, name) for name in names]
    slate_of(client, candidates)
    after = [metric_value(client, name) for name in names]
    hits = len(features)
    expected = [hits, len(candidates) - hits, 2 * hits, 1]
    assert [b - a for a, b in zip(before, after, strict=True)] == expected


def test_lists_of_a_batch_share_items(client, candidates):
    lists = [candidates[:20], candidates[10:30], candidates[::-1]]
    requests = [{"candidates": ids} for ids in lists]
    response = client.post("/rerank/batch", json={"requests": requests}).raise_for_status().json()
    slates = [[entry["id"] for entry in each["slate"]] for each in response["responses"]]
    alone = [client.post("/rerank", json=each).json()["slate"] for each in requests]
    assert slates == [[entry["id"] for entry in slate] for slate in alone]


def test_values_that_change_daily_rank_as_with_the_fresh_values_inline(session, tmp_path):
    draw, ids = np.random.default_rng(6), list(session.featuriser.items.ids)[:30]
    slates = []
    with (
        fresh(session, state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        for _ in range(4):
            changed = draw.choice([*ids, NEW], 20, replace=False).tolist()
            values = {item: {"vote_cnt": int(draw.integers(10, 30_000))} for item in changed}
            lines = [{"item": item, "features": record} for item, record in values.items()]
            client.put("/items", json=lines).raise_for_status()
            stored = {item: client.get(f"/items/{item}").json()["features"] for item in changed}
            assert stored == values
            inline = [{"id": item, "features": values[item]} for item in changed]
            slates.append(slate_of(client, changed)[1])
            assert slates[-1] == slate_of(client, inline)[1]
            # By id, an item that did not change today has the value of the day of its last change.
            slates.append(slate_of(client, [*ids, NEW])[1])
    assert len({tuple(slate) for slate in slates}) == len(slates)
