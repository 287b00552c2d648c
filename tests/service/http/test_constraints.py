"""Constraints of a request, over HTTP."""

import httpx

from service.engine.features.candidates import CandidateList
from service.http.parsing import featuriser_input
from service.http.schemas import RerankRequest
from tests.support.bodies import body
from tests.support.fakes import Failing
from tests.support.servers import fresh


def constrained(items):
    """Item 7 pinned first, item 0 blocked, at most one of each of three authors and the pinned."""
    candidates = [{"id": item, "groups": {"author": str(i % 3)}} for i, item in enumerate(items)]
    asked = {"pinned": {items[7]: 0}, "blocked": [items[0]], "max_per_group": {"author": 2}}
    return {"candidates": candidates[:30], "constraints": asked}


def keeps(answer, items):
    ids = [entry["id"] for entry in answer["slate"]]
    authors = [items.index(item) % 3 for item in ids]
    assert ids[0] == items[7]
    assert items[0] not in ids
    assert len(ids) == 6  # three authors, two items each: no more can be filled
    assert all(authors.count(author) == 2 for author in range(3))


def test_constraints_are_met_and_a_pinned_position_is_no_choice(client, items):
    answer = client.post("/rerank", json=constrained(items)).raise_for_status().json()
    keeps(answer, items)
    first = answer["slate"][0]
    assert (first["logprob"], first["entropy"], first["reasoning_steps"]) == (None, None, 0)
    assert answer["slate"][1]["logprob"] < 0


def test_constraints_of_the_models_own_category_are_met(client, session, items):
    asked = {"candidates": [{"id": item} for item in items[:200]],
             "constraints": {"max_per_group": {"director": 1}}}  # fmt: skip
    free = client.post("/rerank", json={"candidates": asked["candidates"]}).json()
    kept = client.post("/rerank", json=asked).raise_for_status().json()
    for answer, unique in ((free, False), (kept, True)):
        row = session.row(CandidateList(ids=[entry["id"] for entry in answer["slate"]]))
        directors = [d for d in session.featuriser.groups("director", row.tokens) if d]
        assert (len(directors) == len(set(directors))) == unique


def test_a_degraded_answer_keeps_its_constraints(session, items):
    with fresh(Failing(session)) as base:
        answer = httpx.post(f"{base}/rerank", json=constrained(items)).raise_for_status().json()
    assert answer["degraded"] == {"reason": "model_error"}
    keeps(answer, items)


def test_groups_that_no_constraint_names_cost_nothing(items):
    asked = body(items, 40)
    for index, candidate in enumerate(asked["candidates"]):
        candidate["groups"] = {f"{index}-{i}": "a" for i in range(31)} | {"author": "b"}
    assert featuriser_input(RerankRequest.model_validate(asked), "")[1] == {}
    asked["constraints"] = {"max_per_group": {"author": 2}}
    assert featuriser_input(RerankRequest.model_validate(asked), "")[1] == {"author": ["b"] * 40}
