"""The check of explanations passes the stated law and reports departures from it."""

import copy
import math
from typing import Any

import pytest

from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.exchange import Exchange
from loadtest.fuzz.explanations import explained, has_intent
from service.engine.features.candidates import CandidateList
from tests.support.bundles import BUNDLE

GENRES = {"a": ("drama", "war"), "b": ("drama",), "c": ("war",)}
REQUEST: dict[str, Any] = {
    "candidates": [{"id": "a"}, {"id": "b", "boost": 0.5}, {"id": "c", "topics": {"genres": []}}],
    "diversity": {"by": "genres", "weight": 2.0, "decay": 0.5},
    "constraints": {"pinned": {"c": 1}},
    "explain": True,
}
SLATE = [
    {"id": "a", "initial_position": 0, "explanation": {
        "boost": 0.0, "diversity": 2 * math.log(2), "instead_of": "b"}},
    {"id": "c", "initial_position": 2, "explanation": {
        "boost": None, "diversity": None, "instead_of": None}},
    {"id": "b", "initial_position": 1, "explanation": {
        "boost": 0.5, "diversity": 2 * math.log(0.5), "instead_of": None}},
]  # fmt: skip


def exchange(request=REQUEST, slate=SLATE):
    return Exchange(request, {"slate": slate}, Bundle([], {}, {}, labels={"genres": GENRES}), {})


def changed(position, **figures):
    slate = copy.deepcopy(SLATE)
    slate[position]["explanation"].update(figures)
    return slate


def test_the_stated_law_passes():
    assert has_intent(exchange())
    assert explained(exchange()) is None
    mean = {**REQUEST["diversity"], "law": "mean"}
    slate = changed(0, diversity=0.0)
    assert explained(exchange({**REQUEST, "diversity": [mean]}, slate)) is None


@pytest.mark.parametrize(
    "slate",
    [
        changed(0, diversity=2 * math.log(2) + 0.002),
        changed(0, diversity=None),
        changed(0, instead_of="a"),
        changed(0, instead_of="x"),
        changed(1, boost=0.0),
        changed(2, boost=0.0),
        changed(2, diversity=0.0),
        [{**entry, "explanation": None} for entry in SLATE],
    ],
)
def test_another_figure_is_reported(slate):
    assert explained(exchange(slate=slate)) is not None


def test_without_intent_the_figures_are_null_and_without_a_request_nothing_is_explained():
    plain = {"candidates": ["a", "b", "c"], "explain": True}
    assert not has_intent(exchange(plain))
    assert explained(exchange(plain)) is not None
    nothing = [{**entry, "explanation": SLATE[1]["explanation"]} for entry in SLATE]
    assert explained(exchange(plain, nothing)) is None
    assert explained(exchange({**plain, "explain": False})) == "explained unasked"


def test_the_values_of_the_bundle_are_those_of_the_service(session, items):
    bundle = Bundle.read(BUNDLE)
    assert bundle.labels.keys() == {"genres", "director", "tags", "actors"}
    row = session.row(CandidateList(ids=items[:300]))
    for name in bundle.labels:
        values = [bundle.values_of({"id": item}, name) for item in items[:300]]
        assert values == session.values(name, row)
        assert any(values)
