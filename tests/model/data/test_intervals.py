"""Intervals over lists and seeds: the bootstrap, and the normal law in its place."""

import tracemalloc

import numpy as np
import pytest

from model.data import intervals
from model.data.intervals import (
    FEWEST,
    bootstrap_means,
    excludes_zero,
    format_interval,
    interval,
    normal_means,
    rounded,
)
from model.study.plots import arms


def ends(means):
    return np.quantile(means, [0.025, 0.975])


def ends_of(values):
    """Return mean, low and high over enough lists for an interval."""
    mean, low, high = interval(values)
    assert low is not None
    assert high is not None
    return mean, low, high


def largest_shift(values):
    """Return how far the ends by both laws lie apart, as a share of the interval's width."""
    low, high = ends(bootstrap_means(values, 2000, 0))
    return np.abs(ends(normal_means(values, 2000, 0)) - [low, high]).max() / (high - low)


def test_the_interval_holds_the_mean_and_narrows_with_more_lists():
    draw = np.random.default_rng(0)
    few, many = draw.random(50), draw.random(2500)
    mean, low, high = ends_of(few)
    assert low < mean < high
    narrow = ends_of(many)
    assert narrow[2] - narrow[1] < (high - low) / 5


def test_an_interval_over_seeds_widens_only_if_the_seeds_differ():
    values = np.random.default_rng(0).random(400)
    alone = ends_of(values)
    assert ends_of(np.stack([values] * 4)) == pytest.approx(alone)
    mean, low, high = ends_of(np.stack([values - 0.2, values + 0.2] * 2))
    assert mean == pytest.approx(alone[0])
    assert high - low > 2 * (alone[2] - alone[1])


@pytest.mark.parametrize("shape", [(1, 333), (3, 333)])
def test_blocks_of_resamples_give_the_interval_of_one_large_draw(shape):
    values = np.random.default_rng(5).random(shape)
    draw = np.random.default_rng(0)
    of_lists, of_seeds = (draw.multinomial(n, np.full(n, 1 / n), 2000) for n in shape[::-1])
    means = ((of_lists @ values.T) * of_seeds).sum(axis=1) / values.size
    assert interval(values)[1:] == pytest.approx(ends(means), abs=1e-15)


@pytest.mark.parametrize("seeds", [1, 3])
def test_over_thousands_of_skewed_lists_both_laws_agree(seeds):
    draw = np.random.default_rng(3)
    shape = seeds, 3_000  # six in a hundred lists gain much, and the seeds differ a little
    skewed = draw.exponential(1.0, shape) * (draw.random(shape) < 0.06)
    assert largest_shift(skewed + 0.01 * np.arange(seeds)[:, None]) < 0.08


def test_over_few_skewed_lists_the_normal_law_would_be_wrong():
    skewed = np.zeros((1, 40))
    skewed[0, 0] = 1.0
    assert largest_shift(skewed) > 0.15


def test_at_the_border_the_interval_goes_over_to_the_normal_law(monkeypatch):
    monkeypatch.setattr(intervals, "NORMAL_FROM", 500)
    values = np.random.default_rng(2).random(500)
    _, low, high = ends_of(values[:-1])
    assert [low, high] == pytest.approx(ends(bootstrap_means(values[None, :-1], 2000, 0)))
    mean, low, high = ends_of(values)
    assert mean - low == pytest.approx(1.96 * values.std() / np.sqrt(500), rel=0.01)
    assert high - mean == pytest.approx(mean - low)


def test_a_million_lists_take_little_memory():
    values = np.random.default_rng(0).random(1_000_000, np.float32)
    tracemalloc.start()
    mean, low, high = ends_of(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert low < mean < high
    assert peak < 64 << 20


def test_fewer_than_thirty_lists_are_too_few_to_tell():
    values = np.random.default_rng(0).random((3, FEWEST))
    assert interval(values)[1] is not None
    mean, low, high = interval(values[:, 1:])
    assert (low, high) == (None, None)
    assert mean == pytest.approx(values[:, 1:].mean())
    assert rounded(np.array([0.25]), 4) == [0.25, None, None]
    assert format_interval((0.25, None, None)) == "0.2500 (too few to tell)"
    assert format_interval((0.25, None, None), signed=True) == "+0.2500 (too few to tell)"
    assert np.isnan(arms([(0.25, None, None)])).all()
    assert arms([(0.5, 0.25, 1.0)]) == [[0.25], [0.5]]
    with pytest.raises(ValueError, match="at least one list, got 0"):
        interval(np.zeros((1, 0)))


def test_an_interval_excludes_zero_only_if_there_is_one_and_zero_lies_outside():
    assert excludes_zero((0.2, 0.1, 0.3))
    assert excludes_zero((-0.2, -0.3, -0.1))
    assert not excludes_zero((0.2, -0.1, 0.3))
    assert not excludes_zero((0.0, 0.0, 0.0))
    assert not excludes_zero((0.2, None, None))
