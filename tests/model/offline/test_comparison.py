"""Verdicts, controls and intervals, on decisions of the simulated environment."""

import dataclasses

import numpy as np
import pytest

from model.offline.bootstrap import resample
from model.offline.comparison import DOUBLY_ROBUST, compare
from model.offline.errors import OfflineError
from model.offline.estimators import mean_of
from model.offline.world import LISTS_PER_USER, Population, draw_pair

PAIR = 3  # of a true difference that this many lists show


@pytest.fixture(scope="module")
def population():
    return Population.draw(10, 1)


@pytest.fixture(scope="module")
def logged(population):
    """Decisions of a policy, this policy, and a better one on them; the true difference."""
    old, new = draw_pair(PAIR)
    truth = population.value(new) - population.value(old)
    if truth < 0:
        old, new, truth = new, old, -truth
    decisions, lists = population.log(old, 300, 5)
    targets = [
        population.target(name, policy, decisions, lists)
        for name, policy in (("old", old), ("new", new))
    ]
    return decisions, *targets, truth


def test_the_value_by_all_slates_is_the_mean_of_sampled_ones(population):
    policy, _ = draw_pair(0)
    rewards = population.log(policy, 3000, 2)[0].reward.sum(axis=1)
    error = 4 * rewards.std() / np.sqrt(3000)
    assert abs(rewards.mean() - population.value(policy)) < error
    other = dataclasses.replace(policy, appeal=-policy.appeal)
    assert abs(rewards.mean() - population.value(other)) > error


def test_the_marginals_of_a_policy_are_the_shares_of_its_slates(population):
    policy, _ = draw_pair(0)
    marginals = population.marginals(policy)
    assert marginals.sum(axis=2) == pytest.approx(np.ones(marginals.shape[:2]))
    decisions, lists = population.log(policy, 3000, 2)
    of_first = decisions.slate[lists == 4]
    shares = np.stack([np.bincount(of_first[:, k], minlength=8) for k in range(4)]) / len(of_first)
    assert np.abs(shares - marginals[4]).max() < 0.1
    assert np.abs(shares - marginals[5]).max() > 0.1


def test_a_better_policy_is_called_better_and_the_reverse_worse(logged):
    decisions, old, new, truth = logged
    comparison = compare(decisions, old, new)
    assert (comparison.verdict, comparison.reasons) == ("better", [])
    _, low, high = comparison.estimates[DOUBLY_ROBUST].difference
    assert low < truth < high
    assert compare(decisions, new, old).verdict == "worse"
    assert (comparison.lists, comparison.users) == (300 * LISTS_PER_USER, 300)


def test_a_policy_against_itself_cannot_be_told_apart(logged):
    decisions, old, _, _ = logged
    comparison = compare(decisions, old, old)
    assert comparison.verdict == "cannot tell"
    assert comparison.estimates[DOUBLY_ROBUST].difference == [0.0, 0.0, 0.0]


def test_rewards_of_other_lists_give_no_verdict(logged):
    decisions, old, new, _ = logged
    order = np.random.default_rng(0).permutation(len(decisions.slate))
    permuted = dataclasses.replace(decisions, reward=decisions.reward[order])
    assert compare(permuted, old, new).verdict == "cannot tell"


def test_wrong_propensities_fail_the_control_of_weights(logged):
    decisions, old, new, _ = logged
    wrong = dataclasses.replace(decisions, logprob=0.8 * decisions.logprob)
    comparison = compare(wrong, old, new)
    assert comparison.verdict == "cannot tell"
    assert any("mean weight" in reason for reason in comparison.reasons)


def test_few_effective_lists_give_no_verdict(logged):
    decisions, old, new, _ = logged
    few = np.flatnonzero(decisions.user < 8)
    part = type(decisions)(
        **{f.name: getattr(decisions, f.name)[few] for f in dataclasses.fields(decisions)}
    )
    targets = [
        dataclasses.replace(each, choice=each.choice[few], logprob=each.logprob[few])
        for each in (old, new)
    ]
    comparison = compare(part, *targets)
    assert comparison.verdict == "cannot tell"
    assert any("effective sample size" in reason for reason in comparison.reasons)
    with pytest.raises(OfflineError, match="user: must have at least 5 users, got 1"):
        compare(dataclasses.replace(part, user=np.zeros(len(few), int)), *targets)


def test_many_clipped_weights_give_no_verdict(logged):
    decisions, old, new, _ = logged
    comparison = compare(decisions, old, new, clip=1.0)
    assert any("may be clipped" in reason for reason in comparison.reasons)
    assert comparison.verdict == "cannot tell"


def test_lists_of_a_user_are_resampled_together():
    draw = np.random.default_rng(0)
    of_user = draw.normal(size=100).repeat(20)
    mean = mean_of(of_user)
    clustered = resample([mean], np.arange(100).repeat(20), 500, 0).std()
    apart = resample([mean], np.arange(2000), 500, 0).std()
    assert clustered == pytest.approx(of_user.std() / 10, rel=0.15)
    assert apart < 0.5 * clustered
