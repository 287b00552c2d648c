"""Like rates and text vectors."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from model.data import statistics
from service.engine.features.schema import LabelScale


@pytest.mark.parametrize("kind", ["warm", "cold", "metarank"])
def test_a_statistic_equals_its_value_by_hand_from_train_lists_of_other_folds(ranklens, kind):
    rows = pl.read_parquet(ranklens[0] / kind / "impressions.parquet")
    items = pl.read_parquet(ranklens[0] / kind / "items.parquet")
    table = dict(zip(items["item_id"], items["like_rate"], strict=True))
    train = rows.filter(pl.col("split") == "train")
    requests = train["request_id"].unique(maintain_order=True).to_list()
    fold = dict(zip(requests, statistics.folds(len(requests)).tolist(), strict=True))
    request = requests[1234]
    candidates = train.filter(pl.col("request_id") == request)
    others = train.filter(
        pl.col("request_id").replace_strict(fold, return_dtype=pl.Int32) != fold[request]
    )

    def by_hand(lists, item):
        prior = float(lists["label"].mean())
        labels = lists.filter(pl.col("item_id") == item)["label"]
        rate = (float(labels.sum()) + 10 * prior) / (len(labels) + 10)
        return math.log(rate / (1 - rate))

    for item, value in zip(candidates["item_id"], candidates["like_rate"], strict=True):
        assert value == pytest.approx(by_hand(others, item), abs=1e-9)
        assert table[item] == pytest.approx(by_hand(train, item), abs=1e-9)
        # The tolerance distinguishes the two values.
        assert value != pytest.approx(table[item], abs=1e-9)


def test_only_train_rows_have_a_statistic_inline_and_every_item_has_one(ranklens, warm, cold):
    for kind, rows in (("warm", warm), ("cold", cold)):
        assert (rows["like_rate"].is_not_null() == (rows["split"] == "train")).all()
        items = pl.read_parquet(ranklens[0] / kind / "items.parquet")
        assert items["like_rate"].is_finite().all()


def test_vectors_of_similar_texts_are_closer_than_those_of_different_ones():
    bags = [
        ["sea", "ship"],
        ["sea", "ship", "war"],
        ["love", "paris"],
        ["love", "paris", "war"],
        [],
    ]
    vectors = statistics.token_vectors(bags, 2)
    assert vectors.shape == (5, 2)
    assert vectors[0] @ vectors[1] > 0.8
    assert abs(vectors[0] @ vectors[2]) < 0.5
    assert (vectors[4] == 0).all()


def test_the_labels_of_a_list_do_not_change_its_own_statistics(shop):
    random = np.random.default_rng(5)
    requests, size, items = 30, 4, 6
    columns = {
        "request_id": [f"r{r}" for r in range(requests) for _ in range(size)],
        "user_id": [f"u{r}" for r in range(requests) for _ in range(size)],
        "position": list(range(size)) * requests,
        "item_id": [f"i{i}" for _ in range(requests) for i in random.permutation(items)[:size]],
        "label": random.integers(0, 2, requests * size).tolist(),
    }
    schema = "name: s\nfeatures:\n  - {name: rate, of: item, kind: statistic}\n"
    log = pl.DataFrame(columns)
    mine = pl.col("request_id") == "r3"
    flipped = log.with_columns(
        pl.when(mine).then(1 - pl.col("label")).otherwise("label").alias("label")
    )
    first, second = (
        pl.read_parquet(shop(frame, schema) / "impressions.parquet") for frame in (log, flipped)
    )
    assert first.filter(mine)["rate"].equals(second.filter(mine)["rate"])
    assert not first.filter(~mine)["rate"].equals(second.filter(~mine)["rate"])


def test_likes_are_the_sum_of_graded_gains_whatever_the_order_of_rows():
    scale = LabelScale((0, 4), "exponential", 1)
    grades = np.random.default_rng(0).integers(0, 5, 5000)
    frame = pl.DataFrame({"label": grades / 4}, schema={"label": pl.Float32})
    frame = frame.with_columns(item_id=pl.lit("tea"), fold=pl.lit(0, pl.Int32))
    likes = [
        statistics.like_counts(rows.lazy(), scale)["likes"].item()
        for rows in (frame, frame.reverse(), frame.sample(fraction=1.0, shuffle=True, seed=1))
    ]
    assert likes == [likes[0]] * 3
    assert likes[0] == pytest.approx(((2.0**grades - 1) / 15).sum(), abs=1e-4)
