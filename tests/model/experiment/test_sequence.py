"""Always-valid intervals under constant peeking."""

import numpy as np
import pytest

from model.experiment.sequence import difference_over_time, reach, share_over_time

LEAST, USERS, RUNS, EFFECT, RISK = 100, 3000, 400, 0.1, 0.05


def false_alarms(fixed=False):
    """Return the share of experiments without a difference in which any look excludes 0."""
    draw, alarms = np.random.default_rng(1), 0
    for _ in range(RUNS):
        is_canary = draw.random(USERS) < 0.2
        values = draw.poisson(0.8, USERS).astype(float)
        path = difference_over_time(values, is_canary, EFFECT, RISK)
        looks = path.users.min(axis=1) >= LEAST
        low, high = path.low[looks], path.high[looks]
        if fixed:  # the interval of a single look, at every look
            variance = (0.8 / path.users[looks]).sum(axis=1)
            low = path.difference[looks] - 1.96 * np.sqrt(variance)
            high = path.difference[looks] + 1.96 * np.sqrt(variance)
        alarms += bool(((low > 0) | (high < 0)).any())
    return alarms / RUNS


def test_looking_after_every_user_gives_no_more_false_alarms_than_the_risk():
    assert false_alarms() <= RISK


def test_an_interval_of_a_single_look_gives_many_false_alarms_if_it_is_read_after_every_user():
    assert false_alarms(fixed=True) > 3 * RISK


def test_the_interval_is_that_of_the_normal_mixture_by_numerical_integration():
    variance, effect, risk = 0.004, 0.1, 0.05
    width = float(reach(np.array([variance]), effect, risk)[0])
    truths = np.linspace(-2.0, 2.0, 200_001)
    prior = np.exp(-(truths**2) / (2 * effect**2)) / np.sqrt(2 * np.pi * effect**2)
    ratio = np.exp((width * truths - truths**2 / 2) / variance)
    evidence = (prior * ratio).sum() * (truths[1] - truths[0])
    assert evidence == pytest.approx(1 / risk, rel=1e-6)
    assert evidence != pytest.approx(1 / (1.01 * risk), rel=1e-6)


def test_means_and_differences_after_each_user_are_those_of_the_users_so_far():
    draw = np.random.default_rng(2)
    values, is_canary = draw.random(50) + 1000.0, draw.random(50) < 0.5
    path = difference_over_time(values, is_canary, EFFECT, RISK)
    for count in (20, 50):
        canary, active = (values[:count][arm[:count]] for arm in (is_canary, ~is_canary))
        variance = sum(arm.var(ddof=1) / len(arm) + 1 / len(arm) ** 2 for arm in (canary, active))
        width = float(reach(np.array([variance]), EFFECT, RISK)[0])
        difference = canary.mean() - active.mean()
        assert path.users[count - 1].tolist() == [len(active), len(canary)]
        assert path.low[count - 1] == pytest.approx(difference - width, abs=1e-6)
        assert path.high[count - 1] == pytest.approx(difference + width, abs=1e-6)


def test_no_interval_exists_before_both_arms_have_two_users():
    path = difference_over_time(np.ones(4), np.array([0, 0, 1, 1], bool), EFFECT, RISK)
    assert np.isnan(path.low[:3]).all()
    assert np.isfinite(path.low[3])


def test_a_wrong_share_of_users_is_excluded_and_the_right_one_is_not():
    members = np.random.default_rng(3).random(5000) < 0.15
    right = share_over_time(members, 0.15, 0.02, RISK)
    assert (right.low[LEAST:] <= 0).all()
    assert (right.high[LEAST:] >= 0).all()
    assert share_over_time(members, 0.1, 0.02, RISK).low[-1] > 0
