"""Histories and like rates of the committed lists."""

import dataclasses

import numpy as np

from model.data.dataset import Dataset


def test_histories_hold_other_train_lists_or_earlier_lists_never_the_list_itself(warm_ranklens):
    dataset = Dataset(warm_ranklens)
    lists = list(dataset.impressions(["train", "valid", "test"]))
    by_user = {}
    for impression in lists:
        by_user.setdefault(impression.user_id, []).append(impression)
    for user in list(by_user)[:200]:
        own = by_user[user]
        for impression in own:
            sizes = {
                "train": sum(len(o.labels) for o in own if o.split == "train")
                - len(impression.labels),
                "valid": sum(len(o.labels) for o in own if o.split == "train"),
                "test": sum(len(o.labels) for o in own if o.split != "test"),
            }
            assert len(impression.request.history) == min(128, sizes[impression.split])


def test_a_train_list_gets_out_of_fold_rates_and_a_test_list_the_tables(warm_ranklens):
    dataset = Dataset(warm_ranklens)
    column = dataset.featuriser.column("like_rate")
    for split, same in (("train", False), ("test", True)):
        impression = next(dataset.impressions([split]))
        numbers, _ = dataset.featuriser.transform(impression.request)
        bare = dataclasses.replace(impression.request, features=())
        table, _ = dataset.featuriser.transform(bare)
        assert np.array_equal(numbers[:, column], table[:, column]) is same
