"""Histories of the lists of a data set."""

import polars as pl
import pytest

from model.data import prepare
from model.data.dataset import Dataset

SCHEMA = """
name: tiny
history: {limit: 4, kernels: [genres], rate: like_rate}
features:
  - {name: like_rate, of: item, kind: statistic}
  - {name: genres, of: item, kind: categories, width: 1}
"""
SPLITS = ("train", "train", "history", "train", "valid", "test")


@pytest.fixture
def data(tmp_path):
    """Prepare lists 0..5 of one user in the splits above; list n holds items na (liked) and nb."""
    rows = [
        (f"r{n}", "ada", n, position, f"{n}{'ab'[position]}", 1 - position, split, "x")
        for n, split in enumerate(SPLITS)
        for position in range(2)
    ]
    names = "request_id,user_id,timestamp,position,item_id,label,split,genres"
    lines = [names, *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    prepare.prepare_impressions(tmp_path / "log.csv", tmp_path / "schema.yaml", tmp_path / "tiny")
    return tmp_path / "tiny"


def history_of(data, request):
    impressions = Dataset(data).impressions(SPLITS)
    history = next(i.request.history for i in impressions if i.request_id == request)
    assert all(label == item.endswith("a") for item, label in history)
    return [item for item, _ in history]


def test_a_valid_or_test_list_has_the_latest_answers_before_it(data):
    assert history_of(data, "r4") == ["2a", "2b", "3a", "3b"]
    assert history_of(data, "r5") == ["3a", "3b", "4a", "4b"]


def test_a_train_list_has_answers_of_other_train_lists_and_earlier_ones_first(data):
    assert history_of(data, "r0") == ["1a", "1b", "3a", "3b"]
    assert history_of(data, "r1") == ["0a", "0b", "3a", "3b"]
    # Lists 0 and 1 fill the limit of four entries.
    assert history_of(data, "r3") == ["0a", "0b", "1a", "1b"]


def test_later_train_lists_fill_only_the_room_that_earlier_ones_leave(data):
    schema = data / "schema.yaml"
    schema.write_text(schema.read_text().replace("limit: 4", "limit: 3"))
    assert history_of(data, "r3") == ["0b", "1a", "1b"]
    assert history_of(data, "r1") == ["0a", "0b", "3a"]


def test_a_histories_file_replaces_the_answers_of_the_users_lists(data):
    entries = [("r5", f"{n}{'ab'[n % 2]}", float(n % 2 == 0)) for n in range(6)]
    entries += [("r0", "4a", 1.0)]
    before = Dataset(data).digest()
    frame = pl.DataFrame(entries, schema=["request_id", "item_id", "label"], orient="row")
    frame.write_parquet(data / "histories.parquet")
    assert history_of(data, "r5") == ["2a", "3b", "4a", "5b"]  # the latest four
    assert history_of(data, "r0") == ["4a"]
    assert history_of(data, "r1") == []
    assert Dataset(data).digest() != before
