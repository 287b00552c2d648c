"""Exploration: its share, days and exclusions, and propensities that are exact."""

import dataclasses
import math
import random

import numpy as np
import pytest
from scipy.stats import chisquare

from service.engine.constraints import SlateConstraints, resolve
from service.engine.features.candidates import CandidateList
from service.engine.rows import SlateSampling
from service.ranking.exploration import DAY_S, Explorer, bucket_of, limited, smallest_top
from service.ranking.request import RankingRequest

NOON = 20_000.5 * DAY_S
DRAWS = 4000


def request_of(user=None, request_id="r", **more):
    return RankingRequest(CandidateList(ids=["a"], user_id=user), request_id, "", math.inf, **more)


@pytest.fixture(scope="module")
def row(session, items):
    return session.row(CandidateList(ids=items[:6]), slate_size=2)


def explored(explorer, row, now=NOON, **request):
    return explorer.explore(request_of(**request), row, now)[1].explored


def test_the_share_of_users_is_explored_all_day_and_others_the_next(row):
    explorer = Explorer(0.2, None)
    users = [f"u{number}" for number in range(2000)]
    today = [explored(explorer, row, user=user) for user in users]
    evening = [explored(explorer, row, NOON + 0.4 * DAY_S, user=user) for user in users]
    tomorrow = [explored(explorer, row, NOON + DAY_S, user=user) for user in users]
    assert today == evening
    assert 0.16 < sum(today) / len(users) < 0.24
    both = sum(one and other for one, other in zip(today, tomorrow, strict=True))
    assert 0.02 < both / len(users) < 0.06  # independent: 0.04


def test_anonymous_lists_are_drawn_by_their_request(row):
    explorer = Explorer(0.5, None)
    drawn = {explored(explorer, row, request_id=f"r{number}") for number in range(20)}
    assert drawn == {True, False}


def test_buckets_are_uniform_and_below_one():
    buckets = np.array([bucket_of(f"user {number}", 3) for number in range(10_000)])
    assert chisquare(np.histogram(buckets, 20, (0, 1))[0]).pvalue > 0.001
    assert buckets.max() < 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": SlateSampling(2, 1)},
        {"reason_temperature": 1.0},
        {"recommend_temperature": 1.0},
    ],
)
def test_requests_with_sampling_or_temperatures_are_left_alone(row, options):
    same, exploration = Explorer(1.0, 2).explore(request_of("u", **options), row)
    assert same is row
    assert (exploration.bucket, exploration.share, exploration.explored) == (None, 0.0, False)
    assert Explorer(1.0, 2).explore(request_of("u"), row)[1].explored


def test_each_list_has_a_seed_of_its_own_even_for_one_request_id(row):
    explorer = Explorer(1.0, None)
    drawn = {explorer.explore(request_of("u"), row)[0].sampling for _ in range(100)}
    assert len(drawn) == 100


def frequencies(session, row, seed):
    """Return how often each slate of a row was sampled, and a slate's logged log-probability."""
    explorer = Explorer(1.0, None, random.Random(seed))
    counts: dict[tuple, int] = {}
    logprobs: dict[tuple, float] = {}
    rows = [explorer.explore(request_of("u"), row)[0] for _ in range(DRAWS)]
    for start in range(0, DRAWS, 100):
        for slate in session.run(rows[start : start + 100]):
            key = tuple(slate.indices.tolist())
            counts[key] = counts.get(key, 0) + 1
            logprobs[key] = float(slate.logprob.sum())
    return counts, logprobs


def rules_of(kind, size):
    ids = [f"c{number}" for number in range(size)]
    if kind == "pinned and blocked":
        return resolve(ids, 2, 2, {"c4": 0}, {"c1"}, None, None)[1]
    if kind == "groups":
        return resolve(ids, 2, 2, {}, set(), ["x", "x", "x", "x", "y", "y"], ("tone", 1))[1]
    return SlateConstraints.none(size, 2)


@pytest.mark.parametrize("kind", ["none", "pinned and blocked", "groups"])
def test_logged_propensities_are_the_frequencies_of_slates(session, row, kind):
    constrained = dataclasses.replace(row, constraints=rules_of(kind, 6))
    counts, logprobs = frequencies(session, constrained, 1)
    slates = list(counts)
    expected = np.array([DRAWS * math.exp(logprobs[slate]) for slate in slates])
    assert expected.sum() / DRAWS == pytest.approx(1.0, abs=0.01)  # all but rare slates were seen
    often = expected > 5
    observed = np.array([counts[slate] for slate in slates])
    rest = DRAWS - expected[often].sum(), DRAWS - observed[often].sum()
    assert chisquare(
        [*observed[often], rest[1] + 1e-9], [*expected[often], rest[0] + 1e-9]
    ).pvalue > 0.001  # fmt: skip
    # At another temperature the same frequencies would be refused.
    wrong = expected[often] ** 1.2
    assert chisquare(observed[often], wrong * observed[often].sum() / wrong.sum()).pvalue < 1e-6


def test_a_bounded_exploration_chooses_among_the_leading_candidates(session, items):
    whole = session.row(CandidateList(ids=items[:30]), slate_size=4)
    explorer = Explorer(1.0, 7, random.Random(2))
    rows, draws = zip(*(explorer.explore(request_of("u"), whole) for _ in range(60)), strict=True)
    slates = session.run(rows)
    chosen = {place for slate in slates for place in slate.indices.tolist()}
    assert chosen == set(range(7))
    assert {draw.top for draw in draws} == {7}
    free = Explorer(1.0, None, random.Random(2))
    slates = session.run([free.explore(request_of("u"), whole)[0] for _ in range(60)])
    assert max(place for slate in slates for place in slate.indices.tolist()) > 7


def test_a_bound_makes_room_for_the_constraints():
    ids = [f"c{number}" for number in range(8)]
    none = SlateConstraints.none(8, 3)
    assert smallest_top(none, 1) == 3
    assert smallest_top(none, 5) == 5
    _, blocked = resolve(ids, 3, 3, {}, {"c0", "c1"}, None, None)
    assert smallest_top(blocked, 1) == 5
    _, grouped = resolve(ids, 3, 3, {}, set(), ["x"] * 5 + ["y"] * 3, ("tone", 2))
    assert smallest_top(grouped, 2) == 6
    _, pinned = resolve(ids, 3, 3, {"c7": 1}, set(), None, None)
    assert smallest_top(pinned, 2) == 2
    for rules in (blocked, grouped, pinned):
        bound = limited(rules, smallest_top(rules, 1))
        assert bound.violation(bound.initial_ranking(3)) is None


def test_a_bound_beyond_the_list_is_none(row):
    explored_row, exploration = Explorer(1.0, 6).explore(request_of("u"), row)
    assert exploration.top is None
    assert explored_row.constraints is row.constraints
