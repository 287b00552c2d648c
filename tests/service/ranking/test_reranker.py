"""The re-ranker on a fleet of one bundle, without HTTP."""

import asyncio
import time

import pytest

from service.engine.features.candidates import CandidateList
from service.errors import InferenceFailed, InvalidRequest
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.ranking.decision import Timeline
from service.ranking.request import RankingRequest, RequestedConstraints
from service.ranking.reranker import Reranker
from service.settings import Settings
from tests.support.fakes import Failing


def ranking_request(ids, path="", **options):
    deadline = time.monotonic() + 60
    return RankingRequest(CandidateList(ids=ids), "r-1", path, deadline, **options)


def rank(session, requests, **settings):
    """Return the decisions of a new re-ranker."""
    values = Settings(**{"adaptive_budget": False, **settings})
    fleet = Fleet.of(session, values, Metrics())
    reranker = Reranker(values, fleet, on_shadow=lambda manifest, outcome: None)

    async def call():
        fleet.start()
        try:
            received = time.monotonic()
            lists = [reranker.prepare(request) for request in requests]
            return await reranker.rank(lists, Timeline(received, received, time.monotonic()))
        finally:
            await fleet.close()

    return asyncio.run(call())


def test_a_decision_has_the_slate_and_what_was_granted(session, items):
    request = ranking_request(items[:24], slate_size=5, budget=1, entropy_threshold=-1.0)
    (decision,) = rank(session, [request])
    assert (decision.request_id, decision.variant, decision.degraded) == ("r-1", "active", None)
    assert (decision.model, decision.version) == ("ranklens", "1")
    assert len(decision.slate.indices) == decision.row.slate_size == 5
    assert (decision.budget, decision.steps) == (1, 5)
    assert decision.fallback == ()


def test_the_decision_of_a_failed_list_is_its_initial_ranking_under_its_constraints(session, items):
    constraints = RequestedConstraints({items[3]: 0}, [items[0]], None, {})
    request = ranking_request(items[:10], slate_size=3, constraints=constraints)
    (decision,) = rank(Failing(session), [request])
    assert decision.slate is None
    assert decision.degraded == "model_error"
    assert decision.fallback == [3, 1, 2]
    assert (decision.steps, decision.utility, decision.inference_s) == (0, None, 0.0)


def test_a_failed_list_raises_if_failures_are_errors(session, items):
    with pytest.raises(InferenceFailed):
        rank(Failing(session), [ranking_request(items[:10])], on_failure="error")


def test_an_invalid_list_is_refused_with_the_path_of_its_request(session, items):
    for request, field in (
        (ranking_request([items[0]] * 2, "requests[1]."), "requests[1].candidates[1].id"),
        (ranking_request(items[:5], slate_size=6), "slate_size"),
        (ranking_request(items[:5], budget=99), "reasoning.budget"),
        (ranking_request(items[:5], model="other"), "model"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            rank(session, [request])
        assert [error.field for error in refused.value.errors] == [field]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [({}, None), ({"author": ["a", None, "b"]}, ["a", None, "b"])],
)
def test_a_limited_attribute_must_be_in_the_schema_or_in_the_request(
    session, items, groups, expected
):
    constraints = RequestedConstraints({}, [], ("author", 1), groups)
    request = ranking_request(items[:3], constraints=constraints)
    if expected is None:
        with pytest.raises(InvalidRequest, match=r"constraints\.max_per_group"):
            rank(session, [request])
    else:
        (decision,) = rank(session, [request])
        assert len(decision.slate.indices) == 3
