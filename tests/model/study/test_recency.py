"""The study of laws of statistics, and its logs."""

import json

import numpy as np
import polars as pl
import pytest

from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.intervals import interval
from model.data.log_splits import SplitOptions
from model.data.metrics import slate_metrics
from model.data.prepare import prepare_impressions
from model.data.source import Source
from model.study import drifting_logs, lambdamart, recency
from model.study.baselines import item_like_rate, item_logit, shown_order
from model.study.commands import Recency
from model.study.drifting_logs import DRIFTING, write_ranklens, write_ratings
from model.study.moving_items import BEGIN, DAY_MS, SCHEMA, write_fading_items

ITEMS = 8


def write_tiny(directory, seed):
    """Write 200 lists over 20 days; the last days show an item that is new."""
    draw = np.random.default_rng(seed)
    rows = [
        {
            "request_id": f"r{number}",
            "user_id": f"u{number % 9}",
            "timestamp": BEGIN + number * DAY_MS // 10,
            "position": position,
            "item_id": f"i{item}",
            "label": int(draw.random() < (item + 1) / 10),
        }
        for number in range(200)
        for position, item in enumerate(draw.permutation(ITEMS + (number > 190))[:5])
    ]
    directory.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_parquet(directory / "log.parquet")
    (directory / "schema.yaml").write_text(SCHEMA.format(name="tiny"))


def prepared(directory, schema):
    prepare_impressions(directory / "log.parquet", schema, directory / "data",
                        splitting=SplitOptions("time"))  # fmt: skip
    return Dataset(directory / "data")


@pytest.fixture
def in_miniature(monkeypatch):
    monkeypatch.setattr(recency, "CASES", {"tiny": write_tiny})
    monkeypatch.setattr(lambdamart, "BOOSTERS", 1)
    monkeypatch.setattr(lambdamart, "ROUNDS", 5)


def test_every_law_is_measured_once_and_read_from_the_cache_afterwards(
    in_miniature, tmp_path, monkeypatch, capsys
):
    command = Recency(tmp_path / "recency.json", tmp_path / "cache", seeds=1, half_lives=("1d",))
    assert command.execute() == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [
        "tiny seed 0, out of fold", "tiny seed 0, as of", "tiny seed 0, 1d"
    ]  # fmt: skip
    rows = json.loads((tmp_path / "recency.json").read_text())["rows"]
    # The held-out rows of both laws without a half-life hold the same values.
    for name in ("like rate, ids only", "like rate, fresh"):
        assert rows[0]["ndcg@10"][name] == rows[1]["ndcg@10"][name]
    assert rows[1]["ndcg@10"] != rows[2]["ndcg@10"]
    monkeypatch.setattr(recency, "measure_law", None)  # measuring again would fail
    recency.report(command)
    assert capsys.readouterr().out.splitlines() == printed


def test_splits_are_measured_in_place_of_laws_where_they_leave_valid_lists(
    in_miniature, tmp_path, monkeypatch, capsys
):
    def write_single(directory, seed):
        write_tiny(directory, seed)
        rows = pl.read_parquet(directory / "log.parquet")
        rows.with_columns(user_id="request_id").write_parquet(directory / "log.parquet")

    monkeypatch.setattr(recency, "CASES", {"tiny": write_tiny, "single": write_single})
    out, splits = tmp_path / "splits.json", ("time", "last-list")
    Recency(out, tmp_path / "cache", seeds=1, splits=splits).execute()
    rows = json.loads(out.read_text())["rows"]
    of_rows = [(row["case"], row["law"], row["split"]) for row in rows]
    assert of_rows == [("tiny", "as of", split) for split in splits] + [("single", "as of", "time")]
    assert "tiny seed 0, as of, last-list split: " in capsys.readouterr().out
    assert rows[0]["lists"] != rows[1]["lists"]


def test_out_of_fold_values_replace_those_of_train_rows_only(tmp_path):
    write_tiny(tmp_path, 0)
    data = prepared(tmp_path, tmp_path / "schema.yaml").directory
    before = pl.read_parquet(data / "impressions.parquet")
    recency.replace_by_out_of_fold(data)
    after = pl.read_parquet(data / "impressions.parquet")
    train = pl.col("split") == "train"
    assert after.columns == before.columns
    assert after.filter(~train).equals(before.filter(~train))
    assert after.drop("like_rate").equals(before.drop("like_rate"))
    changed = after.filter(train)["like_rate"] != before.filter(train)["like_rate"]
    assert changed.sum() > 0.9 * len(changed)


def test_a_baseline_ranks_items_that_train_never_had(tmp_path):
    write_tiny(tmp_path, 0)
    dataset = prepared(tmp_path, tmp_path / "schema.yaml")
    assert f"i{ITEMS}" not in dataset.featuriser.items.ids
    lists = dataset.lists(["test"])
    assert (item_logit(lists, 5, dataset, "test")[:, 0] >= 0).all()


def test_where_items_fade_frozen_rates_gain_nothing_and_fresh_ones_that_forget_do(tmp_path):
    write_fading_items(tmp_path, 0)
    dataset = prepared(tmp_path, recency.with_half_life(tmp_path / "schema.yaml", "3d"))
    ends: dict[bool, tuple[float, float]] = {}
    for fresh in (False, True):
        lists = dataset.lists(["test"], fresh=fresh).rankable()
        quality, displayed = (
            slate_metrics(slate, lists.labels)["ndcg@10"]
            for slate in (item_like_rate(lists, 10, dataset), shown_order(lists, 10))
        )
        _, low, high = interval(quality - displayed)
        assert low is not None
        assert high is not None
        ends[fresh] = low, high
    assert ends[False][1] < 0.01
    assert ends[True][0] > 0.05


@pytest.mark.parametrize("case", DRIFTING)
def test_the_same_seed_writes_the_same_log_and_another_seed_another(tmp_path, case):
    logs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        DRIFTING[case](tmp_path / name, seed)
        logs.append(pl.read_parquet(tmp_path / name / "log.parquet"))
    assert logs[0].equals(logs[1])
    assert not logs[0].equals(logs[2])
    assert logs[0].group_by("request_id").len()["len"].unique().to_list() == [10]


def test_ratings_are_cut_into_lists_of_ten_in_order_of_time(tmp_path):
    ratings = [("ada", f"f{n}", n % 5 + 1, 1000 + n) for n in reversed(range(25))]
    ratings += [("bob", f"f{n}", 5, 2000) for n in range(9)]
    lines = ["user\titem\trating\ttime", *("\t".join(map(str, row)) for row in ratings)]
    (tmp_path / "ratings.tsv").write_text("\n".join(lines) + "\n")
    write_ratings(tmp_path, tmp_path / "ratings.tsv")
    log = pl.read_parquet(tmp_path / "log.parquet")
    assert log["item_id"].to_list() == [f"f{n}" for n in range(20)]
    assert log["request_id"].unique().sort().to_list() == ["ada-0", "ada-1"]
    assert log["timestamp"][0] == 1_000_000
    assert log["label"].to_list() == [int(n % 5 >= 3) for n in range(20)]
    (tmp_path / "broken.tsv").write_text("a\tb\n")
    with pytest.raises(DataError, match=r"broken\.tsv: cannot be read"):
        write_ratings(tmp_path, tmp_path / "broken.tsv")


def test_ranklens_becomes_a_log_of_a_list_a_minute_in_its_order(tmp_path, monkeypatch):
    rows = pl.LazyFrame({"request_id": ["a", "b"], "item_id": ["x", "y"]})
    requests = pl.DataFrame({"request_id": ["b", "a"], "timestamp": [1, 2]})
    source = Source(rows, requests, pl.DataFrame({"item_id": ["x"]}), pl.DataFrame())
    monkeypatch.setattr(drifting_logs, "read_ranklens", lambda *arguments: source)
    write_ranklens(tmp_path, tmp_path / "events")
    log = pl.read_parquet(tmp_path / "log.parquet").sort("request_id")
    assert log["timestamp"].to_list() == [BEGIN + 60_000, BEGIN]
    assert pl.read_parquet(tmp_path / "items.parquet")["item_id"].to_list() == ["x"]
    assert "like_rate" in (tmp_path / "schema.yaml").read_text()
