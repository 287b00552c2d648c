"""The world of the closed loop: drift, new items, and clicks by its law."""

import numpy as np
import pytest

from model.study.known_world import LAW, SLATE, KnownWorld, Size

SIZE = Size(users=40, items=30, arrivals=3, lists=240, rounds=6)


@pytest.fixture(scope="module")
def world():
    return KnownWorld(1, SIZE, 20)


def displayed(lists):
    """Return slates of the first candidates, int [L, K]."""
    return np.broadcast_to(np.arange(SLATE), (len(lists), SLATE))


def test_a_day_is_the_same_however_often_it_is_drawn_and_other_days_differ(world):
    first, again, other = world.lists(3), KnownWorld(1, SIZE, 20).lists(3), world.lists(4)
    assert np.array_equal(first.appeal, again.appeal)
    assert np.array_equal(first.luck, again.luck)
    assert not np.array_equal(first.item, other.item)


def test_a_user_has_at_most_one_list_in_a_round_and_no_item_twice(world):
    lists = world.lists(0)
    for number in range(SIZE.rounds):
        users = lists.user[lists.round == number]
        assert len(users) == len(set(users.tolist())) == SIZE.lists // SIZE.rounds
    assert all(len(set(row)) == len(row) for row in lists.item.tolist())


def test_items_arrive_and_leave_and_none_does_before_day_1(world):
    assert len(world.arrivals(0)) == len(world.arrivals(-3)) == 0
    assert len(world.arrivals(1)) == SIZE.arrivals
    assert len(world.on_sale(9)) == SIZE.items
    assert not set(world.arrivals(9).tolist()) & set(world.on_sale(8).tolist())
    styles = [{world.features(n)["style"] for n in world.on_sale(d).tolist()} for d in (0, 19)]
    assert styles[1] - styles[0]  # of styles that did not exist before


def test_appeal_drifts_with_the_days(world):
    """Correlate the appeal of items to users on day 0 with the appeal on later days."""

    def appeal(day):
        lists = world.lists(day)
        sums = np.zeros((SIZE.users, 8 * 6))
        style = np.array([int(world.features(n)["style"][5:]) for n in lists.item.ravel().tolist()])
        cell = lists.topic.argmax(axis=2).ravel() * 6 + style
        np.add.at(sums, (np.repeat(lists.user, lists.item.shape[1]), cell), lists.appeal.ravel())
        return sums.ravel()

    start = appeal(0)
    soon, late = (np.corrcoef(start, appeal(day))[0, 1] for day in (1, 7))
    assert soon > late


def test_clicks_have_the_mean_that_the_law_expects(world):
    clicks, expected = [], []
    for day in range(8):
        lists = world.lists(day)
        clicks.append(world.clicks(lists, displayed(lists)).sum(axis=1).mean())
        expected.append(world.expected_clicks(lists, displayed(lists)).mean())
    assert abs(np.mean(clicks) - np.mean(expected)) < 0.1
    assert abs(np.mean(clicks) - 1.2 * np.mean(expected)) > 0.1  # another law would fail


def test_no_slate_is_above_the_best_and_the_best_is_one_of_them():
    world = KnownWorld(2, Size(users=20, items=20, arrivals=1, lists=20, rounds=1), 4)
    lists, draw = world.lists(2), np.random.default_rng(0)
    best = world.best(lists)
    for _ in range(20):
        slates = np.argsort(draw.random(lists.item.shape), axis=1)[:, :SLATE]
        assert (world.expected_clicks(lists, slates) <= best + 1e-12).all()
    slates, worth = LAW.best_slates(lists.appeal, lists.topic, SLATE)
    assert np.array_equal(world.expected_clicks(lists, slates), worth)
