"""Feedback moves the statistics of the next ranking, unless counters are off."""

import numpy as np
import pytest

from service.engine.features.snapshot import Snapshot, StatisticCounts
from service.state.engine import now_ms
from tests.support.stores import copy_bundle, store_server, update_hashes

DAY = 86_400_000
CANDIDATES = [str(number) for number in (10, 100, 1003, 1036, 1073, 1079, 1080, 1089)]


@pytest.fixture(scope="module")
def bundles(session, tmp_path_factory):
    """A store of bundles whose one bundle has counts behind its rate."""
    store = tmp_path_factory.mktemp("counted") / "store"
    store.mkdir()
    directory = copy_bundle(store, "counted", "1")
    items = len(session.featuriser.items.ids)
    counts = StatisticCounts(
        np.full(items, 40.0), np.full(items, 8.0), 40.0 * items, 8.0 * items, DAY // 24, 3 * DAY
    )
    Snapshot(now_ms(), {"like_rate": counts}).save(directory)
    update_hashes(directory)
    return store


def ranked(client):
    """Return the logprob of each candidate in the slate, and the part of stored items."""
    body = {"candidates": CANDIDATES, "explain": True, "slate_size": len(CANDIDATES)}
    response = client.post("/rerank", json=body).raise_for_status().json()
    assert response["degraded"] is None
    slate = [(entry["id"], entry["logprob"]) for entry in response["slate"]]
    return slate, response["state"]["items"]


def like(client, item, times):
    events = [
        {"event_id": f"{item} {number}", "user": f"u{number}", "item": item, "type": "like"}
        for number in range(times)
    ]
    client.post("/feedback", json={"events": events}).raise_for_status()


@pytest.mark.parametrize("live", [True, False])
def test_the_next_ranking_follows_feedback_where_counters_are_live(bundles, tmp_path, live):
    with store_server(bundles, state=f"lmdb://{tmp_path}", state_counters=live) as (client, _):
        before, items = ranked(client)
        assert (items["hits"], items["counters"]) == (0, [])
        last = before[-1][0]
        like(client, last, 60)
        after, items = ranked(client)
        assert items["hits"] == 1
        assert (items["features"], items["counters"]) == ([], ["like_rate"] if live else [])
        assert (after != before) is live
        again, _ = ranked(client)
        position = [item for item, _ in after].index(last)
        assert [item for item, _ in again].index(last) == position
        assert (position < len(CANDIDATES) - 1) is live
