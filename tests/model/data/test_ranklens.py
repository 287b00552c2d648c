"""Preparing the committed RankLens events."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import math
import re

import numpy as np
import polars as pl
import pytest

from model.data.dataset import Dataset, Impression
from model.data.errors import DataError
from tests.support.logs import DOC, EVENTS, ROOT, prepare


def test_ranklens_has_every_list_user_and_like_of_the_source(warm):
    assert warm["request_id"].n_unique() == 9_800
    assert warm["user_id"].n_unique() == 2_145
    assert len(warm) == 9_800 * 24
    assert round(float(warm["label"].mean()), 3) == 0.196
    assert warm.schema["position"] == pl.Int32
    assert warm.schema["label"] == pl.Float32
    assert warm.schema["timestamp"] == pl.Int64


def test_rows_are_ordered_by_request_then_position(warm):
    positions = warm["position"].to_numpy().reshape(-1, 24)
    assert (positions == np.arange(24)).all()
    requests = warm["request_id"].to_numpy().reshape(-1, 24)
    assert (requests == requests[:, :1]).all()
    assert warm["timestamp"].is_sorted()


def test_the_readme_holds_the_hashes_of_the_committed_data():
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for path in (EVENTS, EVENTS.with_name("LICENSE.CC-BY-SA-4.0.md")):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme


def test_the_warm_split_keeps_the_last_list_of_each_user_for_test(warm):
    order = warm.group_by("user_id", "request_id", maintain_order=True).agg(pl.col("split").first())
    for (_,), lists in order.group_by("user_id"):
        splits = lists["split"].to_list()
        expected = {1: [], 2: ["test"]}.get(len(splits), ["valid", "test"])
        assert splits == ["train"] * (len(splits) - len(expected)) + expected


def test_the_cold_split_shares_no_user_between_train_valid_and_test(cold):
    users = {split: set(rows["user_id"]) for (split,), rows in cold.group_by("split")}
    assert not users["train"] & users["valid"]
    assert not users["train"] & users["test"]
    assert not users["valid"] & users["test"]
    assert users["history"] <= users["valid"] | users["test"]
    last = cold.group_by("user_id").agg(pl.col("split").last())
    held_out = last.filter(pl.col("user_id").is_in(list(users["valid"] | users["test"])))
    assert set(held_out["split"]) == {"valid", "test"}


def test_the_metarank_split_has_only_lists_with_a_like_and_the_last_fifth_is_test(ranklens, warm):
    rows = pl.read_parquet(ranklens[0] / "metarank" / "impressions.parquet")
    lists = rows.group_by("request_id", maintain_order=True).agg(
        pl.col("timestamp", "split").first(), pl.col("label").sum()
    )
    assert (lists["label"] >= 1).all()
    liked = warm.filter(pl.col("label") > 0.5)["request_id"].n_unique()
    assert len(lists) == liked == 8_773
    assert lists["timestamp"].is_sorted()
    count = {split: len(group) for (split,), group in lists.group_by("split")}
    assert count == {"train": 6_316, "valid": 702, "test": 1_755}
    order = lists["split"].to_list()
    assert order == ["train"] * 6_316 + ["valid"] * 702 + ["test"] * 1_755


def test_the_documentation_has_the_number_of_rankable_metarank_test_lists(ranklens):
    lists = Dataset(ranklens[0] / "metarank").lists(["test"]).rankable()
    assert f"{len(lists):,} of its {1_755:,} test lists" in " ".join(DOC.split())


def test_items_have_metadata_or_nulls_and_vectors_of_length_one_or_zero(ranklens):
    items = pl.read_parquet(ranklens[0] / "warm" / "items.parquet")
    assert len(items) == 2_520
    assert items["genres"].null_count() == 8
    assert items["popularity"].null_count() == 8
    for name, width in (("tags_vector", 32), ("people_vector", 16), ("text_vector", 32)):
        assert items.schema[name] == pl.List(pl.Float32)
        vectors = np.array(items[name].drop_nulls().to_list())
        assert vectors.shape == (2_512, width)
        length = np.linalg.norm(vectors, axis=1)
        assert ((abs(length - 1) < 1e-4) | (length == 0)).all()
        assert (length > 0).mean() > 0.8


def test_histories_hold_other_train_lists_or_earlier_lists_but_not_the_list_itself(ranklens):
    dataset = Dataset(ranklens[0] / "warm")
    lists = list(dataset.impressions(["train", "valid", "test"]))
    by_user: dict[str, list[Impression]] = {}
    for impression in lists:
        by_user.setdefault(impression.user_id, []).append(impression)
    for user in list(by_user)[:200]:
        of_user = by_user[user]
        for impression in of_user:
            sizes = {
                "train": sum(len(o.labels) for o in of_user if o.split == "train")
                - len(impression.labels),
                "valid": sum(len(o.labels) for o in of_user if o.split == "train"),
                "test": sum(len(o.labels) for o in of_user if o.split != "test"),
            }
            assert len(impression.request.history) == min(128, sizes[impression.split])


def test_a_train_list_has_out_of_fold_rates_and_a_test_list_those_of_the_table(ranklens):
    dataset = Dataset(ranklens[0] / "warm")
    column = dataset.featuriser.column("like_rate")
    for split, same in (("train", False), ("test", True)):
        impression = next(dataset.impressions([split]))
        numbers, _ = dataset.featuriser.transform(impression.request)
        bare = dataclasses.replace(impression.request, features=())
        table, _ = dataset.featuriser.transform(bare)
        assert np.array_equal(numbers[:, column], table[:, column]) is same


def test_permuted_labels_keep_the_likes_of_each_list_but_not_of_each_item(warm, tmp_path):
    prepare("ranklens", "--events", EVENTS, "--out", tmp_path, "--permute-labels", 7)
    permuted = pl.read_parquet(tmp_path / "warm" / "impressions.parquet")
    before = warm["label"].to_numpy().reshape(-1, 24)
    after = permuted["label"].to_numpy().reshape(-1, 24)
    assert (before.sum(axis=1) == after.sum(axis=1)).all()
    assert (before != after).any(axis=1).mean() > 0.8
    spread = [
        rows.group_by("item_id").agg(pl.col("label").mean()).select(pl.col("label").var()).item()
        for rows in (warm, permuted)
    ]
    assert spread[1] < 0.5 * spread[0]


EVENT_LIST = {"event": "ranking", "id": "l1", "user": "u", "timestamp": "1", "items": [{"id": "a"}]}


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([EVENT_LIST, "{"], "row 2: must be JSON, got '{"),
        (
            [{"event": "view"}],
            "row 1, column event: must be item, ranking or interaction, got 'view'",
        ),
        ([{"event": "item", "item": "a"}], "row 1, column fields: is missing"),
        (
            [EVENT_LIST, EVENT_LIST],
            "row 2, column id: must differ from the id of every earlier list, got 'l1'",
        ),
        ([{**EVENT_LIST, "items": []}], "row 1, column items: must hold at least one candidate"),
        (
            [{**EVENT_LIST, "timestamp": "noon"}],
            "row 1, column timestamp: must be whole milliseconds",
        ),
        (
            [EVENT_LIST, {"event": "interaction", "ranking": "l9", "item": "a"}],
            "row 2, column ranking: must be the id of a list in the file, got 'l9'",
        ),
        (
            [EVENT_LIST, {"event": "interaction", "ranking": "l1", "item": "b"}],
            "row 2, column item: must be a candidate of list l1, got 'b'",
        ),
        ([], "has no ranking events"),
        ([EVENT_LIST], "has no interaction events"),
        *(
            (
                [EVENT_LIST, {"event": "item", "item": "a", "fields": [{"name": n, "value": v}]}],
                f"row 2, column {n}: {rule}, got {v!r}",
            )
            for n, v, rule in (
                ("popularity", "high", "must be a finite number"),
                ("runtime", math.nan, "must be a finite number"),
                ("release_date", 1e18, "must be seconds since 1970, fewer than 6e10"),
                ("director", ["Varda"], "must be a text"),
                ("genres", "drama", "must be a list of texts"),
                ("actors", [1], "must be a list of texts"),
            )
        ),
    ],
)
def test_a_broken_event_is_reported_and_writes_nothing(tmp_path, events, message):
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        prepare("ranklens", "--events", path, "--out", tmp_path / "out")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "warm").exists()


def test_an_unreadable_events_file_is_reported(tmp_path):
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(EVENTS.read_bytes()[:10_000])
    with pytest.raises(DataError, match="cannot be read after row"):
        prepare("ranklens", "--events", path, "--out", tmp_path / "out")
    path.write_text("not gzip")
    with pytest.raises(DataError, match="cannot be read after row 0"):
        prepare("ranklens", "--events", path, "--out", tmp_path / "out")
