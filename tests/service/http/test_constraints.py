"""Constraints of a request, over HTTP."""

import httpx
import pytest

from service.engine.features.candidates import CandidateList
from service.http.parsing import featuriser_input
from service.http.schemas import RerankRequest
from tests.support.bodies import body
from tests.support.fakes import Failing
from tests.support.servers import fresh


def constrained_payload(items):
    """Pin item 7 to the first position, block item 0 and limit three authors to two items each."""
    candidates = [{"id": item, "groups": {"author": str(i % 3)}} for i, item in enumerate(items)]
    constraints = {"pinned": {items[7]: 0}, "blocked": [items[0]], "max_per_group": {"author": 2}}
    return {"candidates": candidates[:30], "constraints": constraints}


def assert_constraints_hold(result, items):
    ids = [entry["id"] for entry in result["slate"]]
    authors = [items.index(item) % 3 for item in ids]
    assert ids[0] == items[7]
    assert items[0] not in ids
    assert len(ids) == 6  # three authors with two items each
    assert all(authors.count(author) == 2 for author in range(3))


def test_constraints_hold_and_a_pinned_position_has_no_log_probability(client, items):
    result = client.post("/rerank", json=constrained_payload(items)).raise_for_status().json()
    assert_constraints_hold(result, items)
    first = result["slate"][0]
    assert (first["logprob"], first["entropy"], first["reasoning_steps"]) == (None, None, 0)
    assert result["slate"][1]["logprob"] < 0


def test_a_limit_on_a_category_of_the_model_holds(client, session, items):
    payload = {"candidates": [{"id": item} for item in items[:200]],
             "constraints": {"max_per_group": {"director": 1}}}  # fmt: skip
    free = client.post("/rerank", json={"candidates": payload["candidates"]}).json()
    limited = client.post("/rerank", json=payload).raise_for_status().json()
    for result, unique in ((free, False), (limited, True)):
        row = session.row(CandidateList(ids=[entry["id"] for entry in result["slate"]]))
        directors = [d for d in session.groups("director", row) if d]
        assert (len(directors) == len(set(directors))) == unique


def named_directors(session, items):
    """Return ids by director, for directors that the model knows by name."""
    directors = session.groups("director", session.row(CandidateList(ids=items)))
    by_director: dict[str, list[str]] = {}
    for item, director in zip(items, directors, strict=True):
        if director is not None:
            by_director.setdefault(director, []).append(item)
    return by_director


SOURCES = {
    "a group": lambda name: {"groups": {"director": name}},
    "an inline feature": lambda name: {"features": {"director": name}},
    "a group over an inline feature": lambda name: {
        "groups": {"director": name}, "features": {"director": "someone else"},
    },
}  # fmt: skip


def columns_of(candidates):
    columns: dict[str, object] = {"id": [candidate["id"] for candidate in candidates]}
    for field in ("groups", "features"):
        values = [candidate.get(field, {}).get("director") for candidate in candidates]
        columns[field] = {"director": values}
    return columns


@pytest.mark.parametrize("form", [list, columns_of], ids=["records", "columns"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_group_is_the_same_value_whatever_its_source(client, session, items, source, form):
    by_director = named_directors(session, items)
    (name, (item, *_)), (_, (other, *_)) = list(by_director.items())[:2]
    state = SOURCES[source]
    candidates = [
        {"id": item},  # of the item table
        {"id": "no-item", **state(name)},
        {"id": other, **state(name)},  # the request overrides the table
    ]
    payload = {"constraints": {"max_per_group": {"director": 1}}, "candidates": form(candidates)}
    slate = client.post("/rerank", json=payload).raise_for_status().json()["slate"]
    assert len(slate) == 1


def test_a_value_that_the_model_does_not_know_is_a_group_too(client):
    candidates = [
        {"id": "a", "features": {"director": "a newcomer"}},
        {"id": "b", "features": {"director": "a newcomer"}},
        {"id": "c", "groups": {"director": "a newcomer"}},
        {"id": "d"},
        {"id": "e"},
    ]
    payload = {"constraints": {"max_per_group": {"director": 1}}, "candidates": candidates}
    slate = client.post("/rerank", json=payload).raise_for_status().json()["slate"]
    assert len(slate) == 3  # one of the newcomer, and the two without a value
    assert {"d", "e"} < {entry["id"] for entry in slate}


def test_constraints_hold_in_a_degraded_response(session, items):
    with fresh(Failing(session)) as url:
        result = (
            httpx.post(f"{url}/rerank", json=constrained_payload(items)).raise_for_status().json()
        )
    assert result["degraded"] == {"reason": "model_error", "reasons": ["model_error"]}
    assert_constraints_hold(result, items)


def test_only_groups_that_a_constraint_names_are_read(items):
    payload = body(items, 40)
    for index, candidate in enumerate(payload["candidates"]):
        candidate["groups"] = {f"{index}-{i}": "a" for i in range(31)} | {"author": "b"}
    assert featuriser_input(RerankRequest.model_validate(payload), "")[1] == {}
    payload["constraints"] = {"max_per_group": {"author": 2}}
    assert featuriser_input(RerankRequest.model_validate(payload), "")[1] == {"author": ["b"] * 40}
