"""The check of explanations passes the stated law and reports departures from it."""

import copy
import math
from typing import Any

import pytest

from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.exchange import Exchange
from loadtest.fuzz.explanations import explained, has_intent, steps_explained
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


def exchange(request=REQUEST, slate=SLATE, **response):
    bundle = Bundle([], {}, {}, labels={"genres": GENRES})
    return Exchange(request, {"slate": slate, "degraded": None, **response}, bundle, {})


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


def state(choice, entropy, weight, changed=False):
    choices = [{"id": "a", "probability": 0.6, "logprob": -0.510826, "weight": weight}]
    return {"choice": choice, "entropy": entropy, "changed": changed, "choices": choices}


BEFORE, AFTER = state("b", 1.0, 0.5), state("a", 0.5, None, True)
STEPS_SLATE = [
    {"id": "a", "reasoning_steps": 1, "entropy": 1.0, "entropy_after": 0.5, "explanation": {
        "steps": [BEFORE, AFTER]}},
    {"id": "c", "reasoning_steps": 0, "entropy": None, "entropy_after": None, "explanation": {
        "steps": []}},
]  # fmt: skip
STEPS_REQUEST = {
    "candidates": ["a", "b", "c"], "constraints": {"pinned": {"c": 1}}, "explain": "steps"
}  # fmt: skip


def with_state(number, **figures):
    states = copy.deepcopy([BEFORE, AFTER])
    states[number].update(figures)
    return [{**STEPS_SLATE[0], "explanation": {"steps": states}}, STEPS_SLATE[1]]


def test_states_that_agree_with_their_position_pass():
    assert steps_explained(exchange(STEPS_REQUEST, STEPS_SLATE)) is None
    assert steps_explained(exchange(REQUEST, SLATE)) is None


@pytest.mark.parametrize(
    ("reasons", "missing", "passes"),
    [
        ([], "opening", True),
        (["state", "reduced_budget"], "deadline", True),
        (["overload"], "not_ranked", True),
        ([], None, False),
        ([], "not_ranked", False),
        ([], "model_error", False),
        (["deadline", "state"], "deadline", False),
    ],
)
def test_a_slate_without_states_needs_a_reason_that_fits_its_degradation(reasons, missing, passes):
    late = [{**entry, "explanation": {"steps": None}} for entry in STEPS_SLATE]
    degraded = {"reason": reasons[0], "reasons": reasons} if reasons else None
    late_list = exchange(STEPS_REQUEST, late, degraded=degraded, steps_missing=missing)
    assert (steps_explained(late_list) is None) == passes


def test_a_reason_beside_states_is_reported():
    for request, slate in ((STEPS_REQUEST, STEPS_SLATE), (REQUEST, SLATE)):
        assert steps_explained(exchange(request, slate)) is None
        assert steps_explained(exchange(request, slate, steps_missing="deadline")) is not None


@pytest.mark.parametrize(
    "slate",
    [
        with_state(0, entropy=1.001),
        with_state(1, entropy=0.499),
        with_state(1, choice="b", changed=False),
        with_state(1, changed=False),
        with_state(0, changed=True),
        with_state(0, choices=[]),
        with_state(0, choices=6 * BEFORE["choices"]),
        with_state(0, choices=2 * BEFORE["choices"]),
        with_state(0, choices=AFTER["choices"]),
        with_state(1, choices=BEFORE["choices"]),
        [{**STEPS_SLATE[0], "reasoning_steps": 2}, STEPS_SLATE[1]],
        [STEPS_SLATE[0], {**STEPS_SLATE[1], "explanation": {"steps": [state("c", 0.0, None)]}}],
        [STEPS_SLATE[0], {**STEPS_SLATE[1], "explanation": {"steps": None}}],
        [STEPS_SLATE[0], {**STEPS_SLATE[1], "explanation": {}}],
    ],
)
def test_states_that_disagree_are_reported(slate):
    assert steps_explained(exchange(STEPS_REQUEST, slate)) is not None


def test_states_that_were_not_requested_are_reported():
    request = {**STEPS_REQUEST, "explain": True}
    assert steps_explained(exchange(request, STEPS_SLATE)) == "states of reasoning unasked"


def test_the_values_of_the_bundle_are_those_of_the_service(session, items):
    bundle = Bundle.read(BUNDLE)
    assert bundle.labels.keys() == {"genres", "director", "tags", "actors"}
    row = session.row(CandidateList(ids=items[:300]))
    for name in bundle.labels:
        values = [bundle.values_of({"id": item}, name) for item in items[:300]]
        assert values == session.values(name, row)
        assert any(values)
