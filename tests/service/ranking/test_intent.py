"""The effect of an intent on a slate, from the logits of its choices."""

import dataclasses

import numpy as np
import pytest

from service.engine.features.candidates import CandidateList
from service.engine.intent import DiversityTerm, build_intent
from service.engine.rows import Slate, SlateSampling
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.ranking.decision import Decision, Timeline
from service.ranking.intent import IntentEffect, effect_of, texts_of
from service.ranking.observer import Observer
from service.settings import Settings

POSITIONS = 10
MASKED = np.float32(-1e9)
VALUES = [["a"], ["a"], ["b"], []]
# Without an intent the order would be 0, 1, 2, 3.
SCORES = np.array([4.0, 3.5, 3.0, 1.0], np.float32)


@pytest.fixture
def row(session, items):
    return session.row(CandidateList(ids=items[:4]), slate_size=3)


def decoded(row):
    """Return slate and logits of the greedy choice by SCORES under the row's intent."""
    slate: list[int] = []
    logits = []
    for position in range(row.slate_size):
        scores = SCORES + row.intent.adjustment([*slate, 0])[position]
        scores[slate] = MASKED
        pinned = row.constraints.pinned[position]
        slate.append(int(scores.argmax()) if pinned < 0 else int(pinned))
        logits.append(scores)
    return slate, np.array(logits)


def stated_effect(row, indices, logits, sample=0):
    """Return the effect of a row that has an intent, from the logits of its choices."""
    zeros = np.zeros(len(indices), np.float32)
    slate = Slate(
        np.array(indices), zeros, zeros, zeros, zeros.astype(np.int64), None, logits, sample
    )
    effect = effect_of(row, indices, slate, POSITIONS)
    assert effect is not None
    return effect


def with_intent(row, weight=2.0, boosts=None):
    terms = [DiversityTerm("mood", weight, 0.5, "sum")]
    return dataclasses.replace(row, intent=build_intent(terms, [VALUES], boosts))


def test_a_position_names_the_candidate_that_the_scores_alone_would_have_chosen(row):
    row = with_intent(row)
    slate, logits = decoded(row)
    assert slate == [0, 2, 1]
    effect = stated_effect(row, slate, logits)
    assert effect.boost == [0.0, 0.0, 0.0]
    assert effect.diversity == pytest.approx([0.0, 0.0, 2 * np.log(0.5)])
    assert effect.instead_of == [None, 1, None]
    assert (effect.choices, effect.changed) == (3, 1)


def test_a_boost_is_told_apart_from_diversity(row):
    row = with_intent(row, boosts=np.array([-1, 0, 0, 6], np.float32))
    slate, logits = decoded(row)
    assert slate == [3, 1, 2]
    effect = stated_effect(row, slate, logits)
    assert effect.boost == [6.0, 0.0, 0.0]
    assert effect.diversity == [0.0, 0.0, 0.0]
    assert effect.instead_of == [0, 0, 0]


def test_a_pinned_position_has_no_effect(row):
    row = with_intent(row)
    constraints = dataclasses.replace(row.constraints, pinned=np.array([-1, 3, -1]))
    row = dataclasses.replace(row, constraints=constraints)
    slate, logits = decoded(row)
    effect = stated_effect(row, slate, logits)
    assert slate == [0, 3, 2]
    assert (effect.boost[1], effect.diversity[1], effect.instead_of[1]) == (None, None, None)
    assert effect.instead_of == [None, None, 1]
    assert effect.choices == 2


def test_without_logits_no_choice_is_compared(row):
    row = with_intent(row)
    slate, _ = decoded(row)
    effect = effect_of(row, slate, None, POSITIONS)
    assert effect is not None
    assert (effect.instead_of, effect.choices, effect.changed) == ([None] * 3, 0, 0)
    assert effect.diversity == pytest.approx([0.0, 0.0, 2 * np.log(0.5)])
    assert effect_of(dataclasses.replace(row, intent=None), slate, None, POSITIONS) is None


def test_a_sampled_choice_is_compared_under_the_same_noise(row):
    sampling = SlateSampling(slates=3, seed=1)
    row = dataclasses.replace(with_intent(row), sampling=sampling, recommend_temperature=2.0)
    slate, logits = [0, 2, 1], np.tile(SCORES, (3, 1))
    adjustment = row.intent.adjustment(slate)
    for sample, noise in enumerate(sampling.noise(POSITIONS, 4)):
        alone = (SCORES / 2.0 + noise[:3]).argmax(axis=1).tolist()
        effect = stated_effect(row, slate, logits + adjustment, sample)
        expected = [
            None if other == item else other for other, item in zip(alone, slate, strict=True)
        ]
        assert effect.instead_of == expected
        assert effect.choices == 3
    assert len({tuple(noise[:3].argmax(axis=1)) for noise in sampling.noise(POSITIONS, 4)}) > 1


@pytest.mark.parametrize(
    ("value", "texts"),
    [("a", ("a",)), (9.0, ("9",)), (["b", "a", "b", 7], ("b", "a", "7")), ([], ())],
)
def test_inline_values_are_compared_as_text(value, texts):
    assert texts_of(value) == texts


def test_lists_with_an_intent_and_changed_positions_are_counted(session, row):
    metrics = Metrics()
    observer = Observer(metrics, Fleet.of(session, Settings(), metrics))
    both = with_intent(row, boosts=np.array([1, 0, 0, 0], np.float32))
    for counted, effect in (
        (row, None),
        (with_intent(row), IntentEffect([0.0], [0.0], [4, None, 2], 3)),
        (both, IntentEffect([0.0], [0.0], [None] * 3, 3)),
    ):
        decision = Decision(
            "r", "m", "1", "active", ["a"], counted, None, (), 0, 0, 0, None,
            Timeline(0.0, 0.0, 0.0), 0.0, 0.0, effect,
        )  # fmt: skip
        observer.decided(decision, decision.stage_times(1.0))
    page = metrics.page().decode()
    assert 'rerank_intent_lists_total{kind="diversity"} 2.0' in page
    assert 'rerank_intent_lists_total{kind="boost"} 1.0' in page
    assert "rerank_intent_positions_total 6.0" in page
    assert "rerank_intent_changed_positions_total 2.0" in page
