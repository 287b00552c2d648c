"""The cache of prepared histories: equal columns, its bounds, threads, and its use."""

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np
import pytest

from service.engine.features.candidates import CandidateList
from service.engine.features.history_cache import OVERHEAD, HistoryCache
from service.settings import Settings
from tests.support.bodies import body
from tests.support.features import featuriser
from tests.support.servers import fresh


@dataclass
class Value:
    nbytes: int


def test_a_cached_history_gives_the_same_bits():
    cached = featuriser()
    lookups: list[bool] = []
    cached.cache_histories(1 << 20, lookups.append)
    lists = [
        CandidateList(ids=["a", "b", "x"], history=[("a", 1.0), ("x", 1.0), ("c", 0.0)]),
        CandidateList(ids=["c", "b"], history=[("a", 1.0), ("c", 0.0)]),  # x is not in the table
        CandidateList(ids=["c", "b"], history=[("a", 1.0), ("c", 0.5)]),
        CandidateList(ids=["c", "b"], history=[("c", 0.0), ("a", 1.0)]),
    ]
    columns = [cached.transform(each)[0] for each in lists]
    assert lookups == [False, True, False, False]
    for each, numbers in zip(lists, columns, strict=True):
        assert numbers.tobytes() == featuriser().transform(each)[0].tobytes()
    assert columns[1].tobytes() != columns[2].tobytes()


def test_a_list_of_training_with_rates_of_its_time_is_not_cached():
    cached = featuriser()
    lookups: list[bool] = []
    cached.cache_histories(1 << 20, lookups.append)
    past = [("a", 1.0), ("nobody", 1.0), ("c", 0.0)]
    rated = CandidateList(ids=["b"], history=past, history_rates=[0.5, 9.0, -0.5])
    numbers = cached.transform(rated)[0]
    assert (lookups, len(cached.history_cache)) == ([], 0)
    assert numbers.tobytes() == featuriser().transform(rated)[0].tobytes()
    assert numbers.tobytes() != cached.transform(CandidateList(["b"], history=past))[0].tobytes()


def test_nothing_is_cached_unless_it_was_enabled():
    plain, disabled = featuriser(), featuriser()
    disabled.cache_histories(0, lambda hit: pytest.fail("looked up"))
    disabled.transform(CandidateList(ids=["b"], history=[("a", 1.0)]))
    assert plain.history_cache is disabled.history_cache is None


def test_bytes_and_entries_stay_within_their_limits():
    size = 100 + 1 + OVERHEAD
    by_bytes: HistoryCache[Value] = HistoryCache(3 * size)
    by_entries: HistoryCache[Value] = HistoryCache(100 * size, max_entries=2)
    for cache, limit in ((by_bytes, 3), (by_entries, 2)):
        for key in b"abcdefgh":
            cache.put(bytes([key]), Value(100))
            assert len(cache) <= limit
            assert cache.nbytes == len(cache) * size
        assert len(cache) == limit
    by_bytes.put(b"x", Value(3 * size))  # larger than the whole cache
    assert by_bytes.get(b"x") is None
    assert by_bytes.get(b"h") is not None


def test_the_least_recently_used_history_goes_first():
    cache: HistoryCache[Value] = HistoryCache(1 << 20, max_entries=2)
    cache.put(b"a", Value(1))
    cache.put(b"b", Value(1))
    cache.get(b"a")
    cache.put(b"c", Value(1))
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]


def test_threads_get_the_columns_of_their_own_history():
    shared, items = featuriser(), ("a", "b", "c")
    shared.cache_histories(3 * (OVERHEAD + 400), lambda hit: None)  # so that values leave it too
    draw = np.random.default_rng(0)
    lists = [
        CandidateList(items, history=[(draw.choice(items), float(draw.integers(2)))] * size)
        for size in draw.integers(1, 5, 200)
    ]
    expected = [featuriser().transform(each)[0] for each in lists]
    with ThreadPoolExecutor(4) as pool:
        columns = [numbers for numbers, _ in pool.map(shared.transform, lists)]
    assert all(map(np.array_equal, columns, expected))
    assert shared.history_cache.nbytes <= 3 * (OVERHEAD + 400)


def test_a_pickled_featuriser_gives_the_same_columns():
    one = featuriser()
    each = CandidateList(ids=["a", "b"], history=[("a", 1.0)])
    expected = one.transform(each)[0]
    assert np.array_equal(pickle.loads(pickle.dumps(one)).transform(each)[0], expected)


def test_the_service_counts_hits_and_misses(session, items):
    def lookups(url):
        page = httpx.get(f"{url}/metrics").text
        pairs = re.findall(r'^rerank_history_cache_total{result="(\w+)"} (\S+)$', page, re.M)
        return {result: float(value) for result, value in pairs}

    plain = body(items, 5)
    bodies = [plain | {"user": {"history": [item]}} for item in items[5:7]]
    with fresh(session) as url:
        assert lookups(url) == {"hit": 0.0, "miss": 0.0}
        for each in (*bodies, bodies[0], plain):
            httpx.post(f"{url}/rerank", json=each).raise_for_status()
        assert lookups(url) == {"hit": 1.0, "miss": 2.0}
    with fresh(session, history_cache_mb=0) as url:
        httpx.post(f"{url}/rerank", json=bodies[0]).raise_for_status()
        assert lookups(url) == {"hit": 0.0, "miss": 0.0}
    assert Settings().history_cache_mb > 0
