"""Diversity and boosts over HTTP: their forms, sources, refusals, and the degraded response."""

import math

import httpx
import numpy as np
import ormsgpack
import pytest

from service.engine.features.candidates import CandidateList
from service.engine.session import Session
from service.http.parsing import MSGPACK, ranking_request, validate
from service.http.schemas import Candidate, PlainCandidate, RerankRequest, RerankResponse
from tests.support.bodies import problem_of, slate_ids
from tests.support.bundles import ROOT
from tests.support.servers import fresh

# A second item of a value then ranks below every item of another one.
STRONG = {"weight": 10.0, "decay": 0.99}


def columns_of(candidates):
    """Return the columns of records."""
    columns: dict[str, object] = {"id": [one["id"] for one in candidates]}
    for field in ("topics", "groups", "features"):
        names = sorted({name for one in candidates for name in one.get(field, {})})
        columns[field] = {n: [one.get(field, {}).get(n) for one in candidates] for n in names}
    if any("boost" in one for one in candidates):
        columns["boost"] = [one.get("boost") for one in candidates]
    return columns


def ranked(client, candidates, **more):
    """Return the ids of a slate of all candidates."""
    response = client.post("/rerank", json={"candidates": candidates, **more})
    return slate_ids(response.raise_for_status().json())


def named_items(session, items, name, count=2):
    """Return ids of items with different values of a feature, and the values of the first."""
    by_values: dict[tuple[str, ...], str] = {}
    values_of = session.values(name, session.row(CandidateList(ids=items)))
    for item, values in zip(items, values_of, strict=True):
        if values and not any(set(values) & set(other) for other in by_values):
            by_values[values] = item
    return list(by_values.values())[:count], list(next(iter(by_values)))


SOURCES = {
    "topics": lambda name, values: {"topics": {name: values}},
    "a group": lambda name, values: {"groups": {name: values[0]}},
    "an inline feature": lambda name, values: {
        "features": {name: values[0] if name == "director" else values}
    },
    "topics over all others": lambda name, values: {
        "topics": {name: values}, "groups": {name: "another"},
        "features": {name: "a third" if name == "director" else ["a third"]},
    },
    "a group over an inline feature": lambda name, values: {
        "groups": {name: values[0]},
        "features": {name: "a third" if name == "director" else ["a third"]},
    },
}  # fmt: skip


@pytest.mark.parametrize("form", [list, columns_of], ids=["records", "columns"])
@pytest.mark.parametrize("name", ["director", "genres"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_value_is_the_same_whatever_its_source(degraded, session, items, source, name, form):
    (item, other), values = named_items(session, items, name)
    candidates = [{"id": item}, {"id": "no-item", **SOURCES[source](name, values)}, {"id": other}]
    assert ranked(degraded, form(candidates)) == [item, "no-item", other]
    diverse = ranked(degraded, form(candidates), diversity={"by": name, **STRONG, "law": "mean"})
    assert diverse == [item, other, "no-item"]


def test_values_that_only_the_request_has_are_told_apart(degraded):
    candidates = [
        {"id": "a", "topics": {"mood": ["calm", "calm"]}},
        {"id": "b", "topics": {"mood": ["calm"]}},
        {"id": "c", "topics": {"mood": []}, "groups": {"mood": "calm"}},
        {"id": "d", "groups": {"mood": "calm"}},
        {"id": "e", "topics": {"mood": None}},
    ]
    for form in (list, columns_of):
        slate = ranked(degraded, form(candidates), diversity={"by": "mood", **STRONG})
        assert slate == ["a", "c", "e", "b", "d"]


def test_a_value_that_the_model_does_not_know_is_compared_as_text(degraded):
    candidates = [
        {"id": "a", "features": {"director": "a newcomer"}},
        {"id": "b", "groups": {"director": "a newcomer"}},
        {"id": "c"},
    ]
    slate = ranked(degraded, candidates, diversity={"by": "director", **STRONG})
    assert slate == ["a", "c", "b"]


def test_several_attributes_add_up(degraded):
    candidates = [
        {"id": "a", "topics": {"mood": ["calm"], "era": ["old"]}},
        {"id": "b", "topics": {"mood": ["calm"]}},
        {"id": "c", "topics": {"mood": ["dark"], "era": ["old"]}},
        {"id": "d", "topics": {"mood": ["dark"], "era": ["new"]}},
    ]
    by_mood = {"by": "mood", **STRONG}
    assert ranked(degraded, candidates, diversity=[by_mood])[:2] == ["a", "c"]
    both = [by_mood, {"by": "era", **STRONG}]
    assert ranked(degraded, candidates, diversity=both)[:2] == ["a", "d"]


BOOSTED = [{"id": "a"}, {"id": "b", "boost": 0.5}, {"id": "c", "boost": 10}, {"id": "d"}]


def test_boosts_move_candidates_in_every_form(degraded):
    assert ranked(degraded, BOOSTED) == ["c", "a", "b", "d"]
    assert ranked(degraded, columns_of(BOOSTED)) == ["c", "a", "b", "d"]
    low = [{"id": "a", "boost": -10}, *BOOSTED[1:]]
    assert ranked(degraded, low) == ["c", "b", "d", "a"]


def packed_boosts(*numbers, dtype="<f4"):
    return {
        "dtype": {"<f4": "float32", "<f8": "float64"}[dtype],
        "shape": [len(numbers)],
        "data": np.array(numbers, dtype).tobytes(),
    }


def post_packed(client, payload):
    headers = {"Content-Type": MSGPACK, "Accept": "application/json"}
    return client.post("/rerank", content=ormsgpack.packb(payload), headers=headers)


def test_boosts_may_be_an_array_of_messagepack(degraded):
    for dtype in ("<f4", "<f8"):
        columns = {"id": list("abcd"), "boost": packed_boosts(0, 0.5, 10, 0, dtype=dtype)}
        response = post_packed(degraded, {"candidates": columns}).raise_for_status().json()
        assert slate_ids(response) == ["c", "a", "b", "d"]


def test_diversity_keeps_to_the_constraints_and_counts_pinned_items(degraded):
    candidates = [
        {"id": item, "topics": {"mood": [mood]}}
        for item, mood in zip("abcdef", ["x", "x", "y", "y", "z", "z"], strict=True)
    ]
    rules = {"pinned": {"d": 0}, "blocked": ["a"]}
    slate = ranked(
        degraded, candidates, slate_size=3, constraints=rules, diversity={"by": "mood", **STRONG}
    )
    assert slate == ["d", "b", "e"]


def test_a_batch_has_an_intent_for_each_list(degraded):
    plain = {"candidates": BOOSTED[:2]}
    lists = [{"candidates": BOOSTED}, plain, {**plain, "diversity": {"by": "director"}}]
    response = degraded.post("/rerank/batch", json={"requests": lists}).raise_for_status().json()
    slates = [slate_ids(each) for each in response["responses"]]
    assert slates == [["c", "a", "b", "d"], ["a", "b"], ["a", "b"]]


def test_a_degraded_response_explains_boosts_and_diversity(degraded):
    candidates = [
        {"id": "a", "topics": {"mood": ["x", "y"]}, "boost": 0.25},
        {"id": "b", "topics": {"mood": ["x"]}},
        {"id": "c", "boost": -1},
    ]
    payload = {
        "candidates": candidates,
        "explain": True,
        "diversity": {"by": "mood", "weight": 1, "decay": 0.5},
        "constraints": {"pinned": {"c": 1}},
    }
    result = degraded.post("/rerank", json=payload).raise_for_status().json()
    RerankResponse.model_validate(result, strict=True)
    explanations = [entry["explanation"] for entry in result["slate"]]
    assert slate_ids(result) == ["a", "c", "b"]
    assert [each["boost"] for each in explanations] == [0.25, None, 0.0]
    assert explanations[0]["diversity"] == pytest.approx(math.log(2), abs=1e-5)
    assert explanations[1]["diversity"] is None
    assert explanations[2]["diversity"] == pytest.approx(math.log(0.5), abs=1e-5)
    assert [each["instead_of"] for each in explanations] == [None] * 3


ONE = {"candidates": [{"id": "1"}, {"id": "32"}]}
COLUMNS = {"id": ["1", "32"]}
REFUSED = [
    ({"diversity": {"by": "mood"}}, "diversity.by", "a category, categories or identifier", '"mo'),
    ({"diversity": [{"by": "genres"}, {"by": "runtime"}]}, "diversity[1].by", "a category", '"ru'),
    ({"diversity": [{"by": "genres"}] * 2}, "diversity[1].by", "already at diversity[0]", '"genr'),
    ({"diversity": [{"by": "genres"}] * 5}, "diversity", "at most 4 entries", "[{"),
    ({"diversity": {}}, "diversity.by", "required", "null"),
    ({"diversity": {"by": ""}}, "diversity.by", "at least 1 character", '""'),
    ({"diversity": 3}, "diversity", "an object, or a list of them", "3"),
    ({"diversity": [3]}, "diversity[0]", "an object", "3"),
    ({"diversity": {"by": "genres", "weights": 1}}, "diversity.weights", "unknown field", "1"),
    ({"diversity": {"by": "genres", "weight": -1}}, "diversity.weight", "or equal to 0", "-1"),
    ({"diversity": {"by": "genres", "weight": 11}}, "diversity.weight", "or equal to 10", "11"),
    ({"diversity": [{"by": "genres", "weight": "1"}]}, "diversity[0].weight", "a number", '"1"'),
    ({"diversity": {"by": "genres", "decay": 0}}, "diversity.decay", "greater than 0", "0"),
    ({"diversity": {"by": "genres", "decay": 1}}, "diversity.decay", "less than 1", "1"),
    ({"diversity": {"by": "genres", "law": "max"}}, "diversity.law", "'sum' or 'mean'", '"max"'),
    ({"candidates": [{"id": "1", "boost": 10.5}]}, "candidates[0].boost", "equal to 10", "10.5"),
    ({"candidates": [{"id": "1", "boost": -11}]}, "candidates[0].boost", "to -10", "-11"),
    ({"candidates": [{"id": "1", "boost": True}]}, "candidates[0].boost", "a number", "true"),
    ({"candidates": {**COLUMNS, "boost": [0, 11]}}, "candidates.boost[1]", "equal to 10", "11"),
    ({"candidates": {**COLUMNS, "boost": [0]}}, "candidates.boost", "as long as id, which has 2",
     "1"),
    ({"candidates": {**COLUMNS, "topics": {"mood": [["a"]]}}}, "candidates.topics.mood",
     "as long as id, which has 2", "1"),
    ({"candidates": {**COLUMNS, "topics": {"mood": ["a", None]}}}, "candidates.topics.mood[0]",
     "a list", '"a"'),
    ({"candidates": [{"id": "1", "topics": {"mood": "a"}}]}, "candidates[0].topics.mood", "a list",
     '"a"'),
    ({"candidates": [{"id": "1", "topics": {"mood": [1]}}]}, "candidates[0].topics.mood[0]",
     "a string", "1"),
    ({"candidates": [{"id": "1", "topics": {"mood": ["a"] * 65}}]}, "candidates[0].topics.mood",
     "at most 64 entries", '["a"'),
    ({"candidates": [{"id": "1", "topics": {str(i): [] for i in range(33)}}]},
     "candidates[0].topics", "at most 32 entries", '{"0"'),
    ({"candidates": {**COLUMNS, "topics": {str(i): None for i in range(33)}}},
     "candidates.topics", "at most 32 entries", '{"0"'),
]  # fmt: skip


@pytest.mark.parametrize(("payload", "field", "rule", "value"), REFUSED)
def test_an_invalid_intent_is_refused_with_field_rule_and_value(
    degraded, payload, field, rule, value
):
    payload = {**ONE, **payload}
    requests = {"requests": [ONE, payload]}
    for path, body, prefix in (
        ("/rerank", payload, ""),
        ("/rerank/batch", requests, "requests[1]."),
    ):
        (error,) = problem_of(degraded.post(path, json=body), 422)["errors"]
        assert error["field"] == f"{prefix}{field}"
        assert rule in error["rule"]
        assert error["value"].startswith(value)


@pytest.mark.parametrize(
    ("candidates", "field", "rule"),
    [
        ([{"id": "1", "boost": math.nan}], "candidates[0].boost", "finite"),
        ({**COLUMNS, "boost": [0.0, math.nan]}, "candidates.boost[1]", "finite"),
        ({**COLUMNS, "boost": packed_boosts(0, math.nan)}, "candidates.boost[1]", "finite"),
        ({**COLUMNS, "boost": packed_boosts(0, math.inf)}, "candidates.boost[1]", "finite"),
        ({**COLUMNS, "boost": packed_boosts(0, -10.5)}, "candidates.boost[1]", "from -10 to 10"),
        ({**COLUMNS, "boost": packed_boosts(0)}, "candidates.boost", "as long as id"),
    ],
)
def test_a_boost_that_is_not_finite_or_out_of_range_is_refused_in_messagepack(
    degraded, candidates, field, rule
):
    (error,) = problem_of(post_packed(degraded, {"candidates": candidates}), 422)["errors"]
    assert error["field"] == field
    assert rule in error["rule"]


@pytest.mark.parametrize("decay", [math.nan, math.inf])
def test_a_weight_or_decay_that_is_not_finite_is_refused_in_messagepack(degraded, decay):
    for name in ("weight", "decay"):
        payload = {**ONE, "diversity": {"by": "genres", name: decay}}
        (error,) = problem_of(post_packed(degraded, payload), 422)["errors"]
        assert (error["field"], "finite" in error["rule"]) == (f"diversity.{name}", True)


def ring(size, reach):
    """Return records on a ring that share a value with each of `reach` neighbours a side."""
    pairs = {(i, (i + k) % size) for i in range(size) for k in range(1, reach + 1)}
    return [
        {"id": f"x{i}", "topics": {"tag": [f"{a}-{b}" for a, b in sorted(pairs) if i in (a, b)]}}
        for i in range(size)
    ]


def test_values_that_too_many_candidates_share_are_refused(degraded):
    shared = [{"id": str(i), "topics": {"tag": [f"{i // 2}-{k}" for k in range(64)]}}
              for i in range(40)]  # fmt: skip
    diversity = [{"by": "director"}, {"by": "tag"}]
    # Values of the same candidates count once.
    assert len(ranked(degraded, shared, diversity=diversity)) == 10
    response = degraded.post("/rerank", json={"candidates": ring(130, 32), "diversity": diversity})
    (error,) = problem_of(response, 422)["errors"]
    assert (error["field"], error["value"]) == ("diversity[1].by", "4160")
    assert error["rule"].startswith("at most 3846 values, over all attributes")


def test_many_sampled_slates_of_many_shared_values_are_refused(degraded):
    body = {"candidates": ring(100, 15), "diversity": {"by": "tag"}}
    for slates in (None, {"slates": 53, "seed": 1}):
        degraded.post("/rerank", json={**body, "sampling": slates}).raise_for_status()
    response = degraded.post("/rerank", json={**body, "sampling": {"slates": 54, "seed": 1}})
    (error,) = problem_of(response, 422)["errors"]
    assert (error["field"], error["value"]) == ("diversity.by", "1500")
    assert error["rule"].startswith("at most 1481 values, over all attributes")
    assert error["rule"].endswith("candidates share, for 54 sampled slates")


@pytest.fixture(scope="module")
def old():
    """A client of a service over a bundle of contract 2, whose graph has no intent."""
    session = Session.load(ROOT / "tests" / "frozen" / "bundles" / "ranklens" / "1")
    with fresh(session) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    ("payload", "field", "value"),
    [
        ({"diversity": {"by": "genres"}}, "diversity", '["genres"]'),
        ({"diversity": [{"by": "genres", "weight": 0}]}, "diversity", '["genres"]'),
        ({"candidates": [{"id": "1"}, {"id": "32", "boost": 0.5}]}, "candidates[1].boost", "0.5"),
        ({"candidates": {**COLUMNS, "boost": [None, 2]}}, "candidates.boost[1]", "2.0"),
    ],
)
def test_a_bundle_without_intent_refuses_it_and_names_the_way_out(old, payload, field, value):
    response = old.post("/rerank", json={**ONE, **payload})
    (error,) = problem_of(response, 422)["errors"]
    assert (error["field"], error["value"]) == (field, value)
    assert "ranklens/1 was exported without it" in error["rule"]
    assert "python -m export upgrade" in error["rule"]
    assert old.get("/info").json()["intent"] is False
    assert old.post("/rerank", json={**ONE, "diversity": None}).status_code == 200
    assert old.post("/rerank", json={**ONE, "diversity": []}).status_code == 200


def test_records_without_fields_of_an_intent_are_read_as_plain_ones():
    for boost, kind in ((None, PlainCandidate), (1.0, Candidate)):
        records = [{"id": "1"}, {"id": "2", **({} if boost is None else {"boost": boost})}]
        body = validate(RerankRequest, {"candidates": records})
        assert [type(one) for one in body.candidates] == [kind, kind]


def test_a_list_with_diversity_is_not_shed_before_it_is_featurised():
    plain, boosted = (
        ranking_request(validate(RerankRequest, {"candidates": [{"id": "1", **more}]}), "", "r", 0)
        for more in ({}, {"boost": 1.0})
    )
    assert plain.cheap_to_shed
    assert boosted.cheap_to_shed
    body = validate(RerankRequest, {**ONE, "diversity": {"by": "genres"}})
    assert not ranking_request(body, "", "r", 0).cheap_to_shed
