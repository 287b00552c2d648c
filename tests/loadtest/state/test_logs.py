"""Logged lists of a data set, NDCG of slates, and intervals over users."""

import random

import numpy as np
import pytest

from loadtest.errors import UsageError
from loadtest.state.logs import Listed, mean_interval, moment_of, ndcg, read_lists
from loadtest.state.ranklens import visits_of
from model.study.caller import Log
from tests.support.sales import write_sale


def listed(*labels, user="u", time=0, split="test"):
    items = [f"i{number}" for number in range(len(labels))]
    return Listed(user, time, split, items, labels, [{}] * len(items))


def test_ndcg_is_one_for_the_best_order_and_less_for_any_other():
    example = listed(0.0, 1.0, 0.0)
    assert ndcg(["i1", "i0", "i2"], example) == 1.0
    assert ndcg(["i0", "i1", "i2"], example) == pytest.approx(1 / np.log2(3))
    assert ndcg(["i0", "i2"], example) == 0.0


def test_lists_and_histories_are_those_of_the_caller_that_checks_the_evaluation(tmp_path):
    data = write_sale(tmp_path)
    expected = {
        (rows[0]["user_id"], rows[0]["timestamp"]): ([r["item_id"] for r in rows], history)
        for rows, history in Log(tmp_path / "log.parquet", data).lists(["price"])
    }
    visits = list(visits_of(read_lists(data)))
    actual = {
        (each.user, each.time): (each.items, [(e["id"], e["label"]) for e in past])
        for visit in visits
        for each, past in visit
    }
    assert actual == expected
    assert all(len({each.user for each, _ in visit}) == len(visit) for visit in visits)
    assert len(visits) > 1


def test_the_features_of_a_list_are_those_of_its_time(tmp_path):
    lists = read_lists(write_sale(tmp_path))
    prices = {features["price"] for each in lists for features in each.features}
    assert len(prices) > 40
    assert [each.time for each in lists] == sorted(each.time for each in lists)


def test_a_directory_without_a_data_set_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no data set"):
        read_lists(tmp_path)
    with pytest.raises(UsageError, match="moment"):
        moment_of(tmp_path)


def test_an_interval_covers_the_mean_and_widens_with_dependent_lists():
    draw = random.Random(0)
    values = np.array([draw.gauss(0.5, 0.1) for _ in range(400)])
    alone = mean_interval(values, [f"u{number}" for number in range(400)])
    repeated = mean_interval(np.repeat(values[:100], 4), [f"u{n // 4}" for n in range(400)])
    assert alone[1] < 0.5 < alone[2]
    assert repeated[2] - repeated[1] > 1.5 * (alone[2] - alone[1])
