"""Diversity and boosts of the client: what it sends, and the fallback that follows them."""

import array
from typing import Any

import numpy as np
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_client.fallback import initial_ranking
from rerank_client.intent import DECAY, LAW, WEIGHT
from rerank_client.requests import build_list_body, encode
from service.engine.constraints import resolve
from service.engine.intent import DiversityTerm, build_intent
from service.http.fields import Diversity
from service.http.intent import requested_intent
from service.http.parsing import validate
from service.http.schemas import RerankRequest

CLOSE = 1e-4  # nats: the service computes in float32

IDS = [f"i{n}" for n in range(7)]
WEIGHTS = st.floats(0, 10).map(lambda weight: round(weight, 3))


@st.composite
def list_requests(draw):
    ids = IDS[: draw(st.integers(1, 7))]
    words = st.none() | st.lists(st.sampled_from("abc"), max_size=3)
    names = ["mood", "look"][: draw(st.integers(0, 2))]
    candidates = [
        {
            "id": item,
            "topics": {name: draw(words) for name in names},
            "groups": {"mood": draw(st.sampled_from(["a", "b", None]))},
            "boost": draw(st.none() | st.floats(-10, 10)),
        }
        for item in ids
    ]
    term = st.fixed_dictionaries(
        {"weight": WEIGHTS, "decay": st.floats(0.01, 0.99), "law": st.sampled_from(["sum", "mean"])}
    )
    pins = draw(st.lists(st.sampled_from(ids), unique=True, max_size=2))
    return {
        "candidates": candidates,
        "slate_size": draw(st.integers(1, len(ids))),
        "diversity": [{"by": name, **draw(term)} for name in names],
        "constraints": {
            "pinned": dict(zip(pins, range(len(pins)), strict=True)),
            "max_per_group": {"mood": 3},
        },
    }


def as_seen_by_the_service(request):
    """Return size, constraints and intent of a valid request, by the code of the service."""
    body = validate(RerankRequest, request)
    rules = request["constraints"]
    size, constraints = resolve(
        [one["id"] for one in request["candidates"]],
        None,
        request["slate_size"],
        {item: at for item, at in rules["pinned"].items() if at < request["slate_size"]},
        (),
        [one["groups"]["mood"] for one in request["candidates"]],
        ("mood", rules["max_per_group"]["mood"]),
    )
    stated = requested_intent(body, "")
    if stated is None:
        return size, constraints, None
    values = [
        [entry or () for entry in stated.values[term.name] or [()] * len(request["candidates"])]
        for term in stated.terms
    ]
    return size, constraints, build_intent(stated.terms, values, stated.boosts)


def shortfall(slate, constraints, intent):
    """Return the largest score that a choice of the slate lies below the best allowed one."""
    if intent is None:
        return 0.0 if slate == constraints.initial_ranking(len(slate)) else np.inf
    adjustment = intent.adjustment(slate)
    worst = 0.0
    for position, item in enumerate(slate):
        if constraints.pinned[position] >= 0:
            continue
        scores = adjustment[position] - np.log1p(np.arange(adjustment.shape[1]))
        allowed = [
            other
            for other in range(len(scores))
            if other not in slate[:position]
            and other not in constraints.pinned
            and constraints.violation([*slate[:position], other]) is None
        ]
        worst = max(worst, max(scores[allowed]) - scores[item])
    return worst


@given(list_requests())
def test_the_fallback_is_the_initial_ranking_of_the_service_under_the_same_intent(request):
    size, constraints, intent = as_seen_by_the_service(request)
    slate = [entry.initial_position for entry in initial_ranking(build_list_body(**request))][:size]
    assert constraints.violation(slate) is None
    assert shortfall(slate, constraints, intent) < CLOSE
    assert shortfall(constraints.initial_ranking(size, intent), constraints, intent) < CLOSE


def test_a_slate_of_another_order_is_no_initial_ranking():
    request: Any = {
        "candidates": [
            {"id": one, "topics": {"mood": ["a"]}, "groups": {"mood": None}} for one in IDS
        ],
        "slate_size": 3,
        "diversity": [{"by": "mood", "weight": 0.5, "decay": 0.3}],
        "constraints": {"pinned": {}, "max_per_group": {"mood": 3}},
    }
    _, constraints, intent = as_seen_by_the_service(request)
    assert shortfall([0, 1, 2], constraints, intent) < CLOSE
    assert shortfall([0, 2, 1], constraints, intent) > 1000 * CLOSE


def test_the_defaults_of_the_client_are_those_of_the_service():
    fields = Diversity.model_fields
    assert [fields[name].default for name in ("weight", "decay", "law")] == [WEIGHT, DECAY, LAW]


CANDIDATES: Any = [
    {"id": "a", "topics": {"mood": ["calm"]}},
    {"id": "b", "topics": {"mood": ["calm"]}},
    {"id": "c", "groups": {"mood": "dark"}},
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "abc"),
        ({"diversity": {"by": "mood", "weight": 5}}, "acb"),
        ({"diversity": [{"by": "mood", "weight": 5}]}, "acb"),
        ({"diversity": {"by": "mood", "weight": 0}}, "abc"),
        ({"diversity": {"by": "absent", "weight": 5}}, "abc"),
        ({"diversity": {"by": "mood", "weight": 5, "decay": 1e-9}}, "abc"),
        ({"diversity": []}, "abc"),
        ({"diversity": {"by": "mood", "weight": 5}, "constraints": {"pinned": {"c": 0}}}, "cab"),
    ],
)
def test_each_part_of_the_diversity_changes_the_fallback(options, expected):
    slate = initial_ranking(build_list_body(CANDIDATES, **options))
    assert "".join(str(entry.id) for entry in slate) == expected


def test_the_fallback_of_columns_is_that_of_their_records():
    boosts = [0.25, -0.5, 3.0]
    records: Any = [{**one, "boost": boost} for one, boost in zip(CANDIDATES, boosts, strict=True)]
    columns: Any = {
        "id": ["a", "b", "c"],
        "topics": {"mood": [["calm"], ("calm",), None]},
        "groups": {"mood": [None, None, "dark"]},
    }
    option: Any = {"by": "mood", "weight": 2.0}
    expected = initial_ranking(build_list_body(records, diversity=option))
    assert expected[0].id == "c"
    for column in (boosts, array.array("d", boosts), np.array(boosts, np.float32)):
        columns["boost"] = column
        body = build_list_body(columns, diversity=option)
        assert initial_ranking(body) == expected


def test_an_intent_reaches_the_service_as_it_was_stated():
    columns: Any = {
        "id": ["a", "b"],
        "topics": {"mood": [["calm", "dark"], None]},
        "boost": np.array([0.5, -2.0], np.float32),
    }
    body = build_list_body(columns, diversity=({"by": "mood", "weight": 2, "decay": None},))
    payload = ormsgpack.unpackb(encode(body, packed=True))
    stated = requested_intent(validate(RerankRequest, payload), "")
    assert stated is not None
    assert stated.terms == [DiversityTerm("mood", 2.0, 0.2, "sum")]
    assert stated.values == {"mood": [("calm", "dark"), None]}
    assert stated.boosts is not None
    assert stated.boosts.tolist() == [0.5, -2.0]


@pytest.mark.parametrize("large", [1e300, 10**400, -(10**400)])
def test_the_fallback_of_a_number_out_of_range_raises_nothing(large):
    options: Any = {"diversity": {"by": "mood", "weight": large, "decay": large}}
    candidates: Any = [{**one, "boost": large} for one in CANDIDATES]
    assert len(initial_ranking(build_list_body(candidates, **options))) == 3


def test_the_fallback_of_a_boost_that_is_no_number_is_that_without_it():
    def ranked(*boosts):
        columns: Any = {"id": ["a", "b", "c"], "boost": array.array("f", boosts)}
        return [entry.id for entry in initial_ranking(build_list_body(columns))]

    nan = float("nan")
    assert ranked(nan, 0.0, 3.0) == ranked(0.0, 0.0, 3.0) == ["c", "a", "b"]
    assert ranked(0.0, nan, nan) == ["a", "b", "c"]
    assert ranked(1.0, 3.0, nan) == ["b", "a", "c"]
