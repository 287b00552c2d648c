"""Estimators of a policy's value, against the exact value over all slates."""

import dataclasses
import itertools

import numpy as np
import pytest

from model.offline.decisions import Decisions, Target
from model.offline.errors import OfflineError, PropensityError
from model.offline.estimators import (
    direct,
    doubly_robust,
    prefix_weights,
    self_normalised,
    weighted_reward,
)
from model.offline.values import cross_fit
from model.offline.world import Population, draw_pair

SLATES = np.array(list(itertools.permutations(range(3), 2)))


def policy_of(draw):
    """Return the probability of each first candidate [3], and of each second after it [3, 3]."""
    second = draw.dirichlet([1, 1], 3)
    table = np.zeros((3, 3))
    for first in range(3):
        table[first, [item for item in range(3) if item != first]] = second[first]
    return draw.dirichlet([1, 1, 1]), table


@pytest.fixture
def tiny():
    """Every slate of two of three candidates once: decisions, target, probabilities, the value."""
    draw = np.random.default_rng(4)
    (first, second), (other, another) = policy_of(draw), policy_of(draw)
    a, b = SLATES.T
    logged = np.stack([first[a], second[a, b]], axis=1)
    reward = np.stack([draw.random(3)[a], draw.random((3, 3))[a, b]], axis=1)
    decisions = Decisions(
        SLATES, np.log(logged), reward, np.arange(6), draw.random((6, 3, 2))
    )  # fmt: skip
    choice = np.stack([np.broadcast_to(other, (6, 3)), another[a]], axis=1)
    target = Target.of("new", choice, decisions)
    value = (other[a] * another[a, b] * reward.sum(axis=1)).sum()
    return decisions, target, logged.prod(axis=1), value


def expectation(statistic, probability):
    """Return the expectation of a statistic that is a mean over lists."""
    return float((probability * statistic.sums[:, 0]).sum())


@pytest.mark.parametrize("seed", range(3))
def test_prefix_ips_and_doubly_robust_are_exact_in_expectation_over_all_slates(tiny, seed):
    decisions, target, probability, value = tiny
    weights = prefix_weights(decisions, target)
    draw = np.random.default_rng(seed)
    first, second = draw.random(3), draw.random((3, 3))  # wrong on purpose, but of the prefix alone
    values = np.stack([np.broadcast_to(first, (6, 3)), second[SLATES[:, 0]]], axis=1)
    estimates = [
        weighted_reward(weights.weight, decisions),
        doubly_robust(weights, decisions, target, values),
    ]
    for statistic in estimates:
        assert expectation(statistic, probability) == pytest.approx(value, abs=1e-12)
    assert abs(expectation(direct(target, values), probability) - value) > 1e-3


def test_weights_of_single_positions_are_not_exact(tiny):
    decisions, target, probability, value = tiny
    single = np.exp(target.logprob - decisions.logprob)
    assert abs(expectation(weighted_reward(single, decisions), probability) - value) > 1e-3


def test_the_weights_have_mean_1_in_expectation_at_every_position(tiny):
    decisions, target, probability, _ = tiny
    mean = probability @ prefix_weights(decisions, target).weight
    assert mean == pytest.approx([1.0, 1.0], abs=1e-12)
    warmer = dataclasses.replace(decisions, logprob=1.1 * decisions.logprob)
    assert (np.abs(probability @ prefix_weights(warmer, target).weight - 1.0) > 0.01).any()


def test_the_logging_policy_has_the_mean_reward_by_every_estimator_with_weights():
    population = Population.draw(8, 0)
    old, _ = draw_pair(0)
    decisions, lists = population.log(old, 40, 0)
    target = population.target("old", old, decisions, lists)
    weights = prefix_weights(decisions, target)
    mean = decisions.reward.sum(axis=1).mean()
    assert weights.effective_sizes == pytest.approx([len(lists)] * 4)
    assert self_normalised(weights, decisions).value == pytest.approx(mean)
    assert weighted_reward(weights.weight, decisions).value == pytest.approx(mean)


def test_shorter_slates_count_as_nothing_behind_their_end():
    features = np.zeros((2, 3, 1))
    slate = np.array([[0, 1], [2, -1]])
    decisions = Decisions(
        slate, np.array([[-1.0, -0.5], [-1.0, 0.0]]), np.array([[1.0, 2.0], [4.0, 0.0]]),
        np.arange(2), features,
    )  # fmt: skip
    choice = np.zeros((2, 2, 3))
    choice[[0, 0, 1], [0, 1, 0], [0, 1, 2]] = 1.0
    weights = prefix_weights(decisions, Target.of("greedy", choice, decisions))
    assert weights.weight == pytest.approx(np.array([[np.e, np.exp(1.5)], [np.e, 0.0]]))
    assert self_normalised(weights, decisions).value == pytest.approx(2.5 + 0.5 * 2.0)


def test_clipped_weights_are_counted(tiny):
    decisions, target, _, _ = tiny
    free, clipped = prefix_weights(decisions, target), prefix_weights(decisions, target, 1.5)
    assert free.clipped.tolist() == [0.0, 0.0]
    assert clipped.clipped == pytest.approx((free.weight > 1.5).mean(axis=0))
    assert clipped.clipped.max() > 0
    assert clipped.weight.max() == 1.5


def test_the_values_of_a_list_do_not_depend_on_its_reward_or_its_users_others():
    population = Population.draw(8, 0)
    old, new = draw_pair(1)
    decisions, lists = population.log(old, 30, 0)
    target = population.target("new", new, decisions, lists)
    reward = decisions.reward.copy()
    reward[decisions.user == 3] += 5.0
    changed = dataclasses.replace(decisions, reward=reward)
    values, others = cross_fit(decisions, target, 0), cross_fit(changed, target, 0)
    same = (values == others).all(axis=(1, 2))
    assert same[decisions.user == 3].all()
    assert not same.all()


@pytest.mark.parametrize("value", [0.1, np.nan, -np.inf])
def test_a_propensity_outside_of_0_to_1_is_refused_with_its_place(tiny, value):
    decisions = tiny[0]
    logprob = decisions.logprob.copy()
    logprob[2, 1] = value
    with pytest.raises(PropensityError, match=r"logprob: .* \(0, 1\], list 2 .* at position 1"):
        dataclasses.replace(decisions, logprob=logprob)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slate": np.zeros((0, 2), int)}, "slate: must have lists"),
        ({"slate": SLATES * 0}, "list 0 repeats a candidate"),
        ({"slate": SLATES + 5}, "slate: must hold numbers of candidates"),
        ({"reward": np.full((6, 2), np.nan)}, "reward: must be finite"),
        ({"reward": np.zeros((5, 2))}, r"reward: must have the shape \(6, 2\)"),
        ({"user": np.arange(5)}, "user: must have"),
        ({"features": np.zeros((6, 3))}, "features: must be"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_field(tiny, changes, message):
    with pytest.raises(OfflineError, match=message):
        dataclasses.replace(tiny[0], **changes)


def test_probabilities_that_do_not_sum_to_1_are_refused(tiny):
    decisions, target, _, _ = tiny
    with pytest.raises(OfflineError, match=r"choice of new: .* sum of 1\.1"):
        Target.of("new", 1.1 * target.choice, decisions)


def test_the_unit_of_a_feature_does_not_change_estimated_values():
    population = Population.draw(8, 0)
    old, new = draw_pair(2)
    decisions, lists = population.log(old, 60, 0)
    target = population.target("new", new, decisions, lists)
    scaled = dataclasses.replace(decisions, features=40.0 * decisions.features - 7.0)
    values = cross_fit(decisions, target, 0)
    assert cross_fit(scaled, target, 0) == pytest.approx(values, abs=1e-8)
    assert np.abs(cross_fit(decisions, target, 1) - values).max() > 1e-3


def test_the_model_of_the_reward_prefers_candidates_that_are_clicked_more():
    population = Population.draw(30, 0)
    policy, _ = draw_pair(0)
    decisions, lists = population.log(policy, 400, 0)
    values = cross_fit(decisions, population.target("old", policy, decisions, lists), 0)
    appeal = decisions.features[:, :, 0]
    assert np.corrcoef(values[:, 0].ravel(), appeal.ravel())[0, 1] > 0.5
    other = np.roll(appeal, 1, axis=0)
    assert abs(np.corrcoef(values[:, 0].ravel(), other.ravel())[0, 1]) < 0.5
