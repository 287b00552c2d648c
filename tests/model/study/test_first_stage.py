"""`python -m model first-stage`: out-of-fold scores in an otherwise unchanged data set."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.prepare import prepare_impressions
from model.study import lambdamart
from model.study.first_stage import (
    FOLDS,
    first_stage,
    is_made_from,
    out_of_fold_scores,
    user_folds,
    with_scores,
)

ROOT = Path(__file__).parents[3]
ITEMS, SIZE = 24, 6
SCHEMA = """
name: shop
history: {limit: 64, kernels: [genres], rate: like_rate}
features:
  - {name: like_rate, of: item, kind: statistic, relative: true}
  - {name: price, of: item, kind: number}
  - {name: genres, of: item, kind: categories, width: 2}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Write lists of 60 users, six each; a user likes one genre and cheap items. Lengths differ."""
    directory = tmp_path_factory.mktemp("shop")
    draw = np.random.default_rng(0)
    price = draw.normal(size=ITEMS)
    rows = []
    for user in range(60):
        for number in range(6):
            size = SIZE - (user + number) % 2
            listed = draw.choice(ITEMS, size, replace=False)
            logit = 2.0 * (listed % 4 == user % 4) - price[listed] - 0.5
            liked = draw.random(size) < 1.0 / (1.0 + np.exp(-logit))
            rows += [
                {"request_id": f"u{user}-{number}", "user_id": f"u{user}", "timestamp": number,
                 "position": 2 * position, "item_id": f"i{item}", "label": float(like)}
                for position, (item, like) in enumerate(zip(listed, liked, strict=True))
            ]  # fmt: skip
    pl.DataFrame(rows).write_parquet(directory / "log.parquet")
    items = {"item_id": [f"i{item}" for item in range(ITEMS)], "price": price}
    genres = [[f"g{item % 4}"] for item in range(ITEMS)]
    pl.DataFrame({**items, "genres": genres}).write_parquet(directory / "items.parquet")
    (directory / "schema.yaml").write_text(SCHEMA)
    out = directory / "shop"
    prepare_impressions(
        directory / "log.parquet", directory / "schema.yaml", out, directory / "items.parquet"
    )
    return out


@pytest.fixture(scope="module")
def scored(shop):
    out = shop.with_name("scored")
    return out, first_stage(shop, out)


@pytest.fixture
def relabelled(shop):
    """Return train lists before and after permuting the labels of one list, and its row."""
    before, after = Dataset(shop), Dataset(shop)
    lists = before.lists(["train"])
    row = int(np.flatnonzero((lists.labels.sum(axis=1) == 2) & lists.mask.all(axis=1))[7])
    request = pl.col("request_id") == before.requests(["train"])["request_id"][row]
    turned = pl.when(request).then(1.0 - pl.col("label")).otherwise(pl.col("label"))
    after.rows = before.rows.with_columns(turned.cast(pl.Float32).alias("label"))
    users = before.requests(["train"])["user_id"].to_list()
    return lists, after.lists(["train"]), users, row, before.featuriser.vocabulary_size


def test_the_score_of_a_train_list_does_not_depend_on_its_labels(relabelled):
    before, after, users, row, vocabulary = relabelled
    folds = user_folds(users)
    old, new = (out_of_fold_scores(x, folds, [30] * 3, 0, vocabulary) for x in (before, after))
    assert np.array_equal(old[row], new[row])
    # Scores of the other folds change, because their rankers learned from the list.
    assert not np.array_equal(old, new)


def test_a_ranker_fitted_on_the_list_or_its_users_others_depends_on_its_labels(relabelled):
    before, after, _, row, vocabulary = relabelled
    old, new = (lambdamart.fit(x.rankable(), [30] * 3, 0, vocabulary) for x in (before, after))
    assert not np.array_equal(old.score(before)[row], new.score(after)[row])
    by_list = np.arange(len(before)) % FOLDS  # the user's histories leak the labels
    scores = [out_of_fold_scores(x, by_list, [30] * 3, 0, vocabulary) for x in (before, after)]
    assert not np.array_equal(scores[0][row], scores[1][row])


def test_folds_keep_users_together_and_are_even(shop):
    users = Dataset(shop).requests(["train"])["user_id"].to_list()
    folds = user_folds(users)
    assert len(set(zip(users, folds.tolist(), strict=True))) == len(set(users)) == 60
    assert np.bincount(folds).tolist() == [len(users) // FOLDS] * FOLDS


def test_the_scored_data_set_differs_only_by_the_score(shop, scored):
    out, _ = scored
    before = pl.read_parquet(shop / "impressions.parquet")
    after = pl.read_parquet(out / "impressions.parquet")
    assert after.columns == [*before.columns, "score"]
    assert after.drop("score").equals(before)  # rows keep order and position
    assert after["score"].is_finite().all()
    for name in ("items.parquet", "users.parquet"):
        assert (out / name).read_bytes() == (shop / name).read_bytes()
    old, new = (yaml.safe_load((d / "schema.yaml").read_text()) for d in (shop, out))
    feature = {"name": "score", "of": "candidate", "kind": "number", "relative": True}
    assert new == {**old, "features": [*old["features"], feature]}
    summary = json.loads((out / "summary.json").read_text())
    facts = summary.pop("first_stage")
    assert summary == json.loads((shop / "summary.json").read_text())
    assert facts["data"] == Dataset(shop).digest()


def test_each_score_is_in_the_row_of_its_candidate(shop, scored):
    dataset = Dataset(shop)
    rounds = json.loads((scored[0] / "summary.json").read_text())["first_stage"]["rounds"]
    vocabulary = dataset.featuriser.vocabulary_size
    train, test = dataset.lists(["train"]), dataset.lists(["test"])
    expected = lambdamart.fit(train.rankable(), rounds, 0, vocabulary).score(test)
    rows = pl.read_parquet(scored[0] / "impressions.parquet")
    for row in (0, 11):
        request = dataset.requests(["test"])["request_id"][row]
        scores = rows.filter(pl.col("request_id") == request)["score"]
        assert scores.to_list() == expected[row][test.mask[row]].tolist()


def test_the_scored_data_set_keeps_the_histories(shop, tmp_path):
    copy = shutil.copytree(shop, tmp_path / "shop")
    history = {"request_id": ["u0-5"], "item_id": ["i3"], "label": [1.0]}
    pl.DataFrame(history).write_parquet(copy / "histories.parquet")
    first_stage(copy, tmp_path / "scored")
    both = [Dataset(directory).histories for directory in (copy, tmp_path / "scored")]
    assert both[0] is not None
    assert both[1] is not None
    assert both[0].collect().equals(both[1].collect())


def test_a_column_named_index_does_not_change_the_scores(shop):
    dataset = Dataset(shop)
    test = dataset.lists(["test"])
    scores = np.arange(test.mask.size, dtype=np.float64).reshape(test.mask.shape)
    without = with_scores(dataset, {"test": (test, scores)})
    dataset.rows = dataset.rows.with_columns(index=pl.lit(7.0))
    assert with_scores(dataset, {"test": (test, scores)}).drop("index").equals(without)


def test_the_featuriser_reads_the_score_and_its_rank_in_the_list(scored):
    out, ndcg = scored
    dataset = Dataset(out)
    column = dataset.featuriser.column("score")
    numbers = dataset.lists(["test"]).take([3]).numbers[0]
    _, tail = np.unique(numbers[:, column + 1], return_inverse=True)
    assert np.array_equal(tail, np.unique(numbers[:, column], return_inverse=True)[1])
    assert numbers[:, column + 3].max() == 0.0  # the distance from the best
    assert ndcg.keys() == {"train", "valid", "test"}
    assert all(0.6 < value < 1.0 for value in ndcg.values())


def test_a_second_run_writes_the_same_bytes_over_the_first(shop, scored):
    def digests():
        files = sorted(path for path in scored[0].iterdir())
        return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]

    before = digests()
    assert len(before) == 6
    first_stage(shop, scored[0])
    assert digests() == before


def test_data_that_cannot_have_a_first_stage_is_refused_and_nothing_written(shop, scored, tmp_path):
    (tmp_path / "link").symlink_to(shop)
    for out in (shop, tmp_path / "link"):
        with pytest.raises(DataError, match="must not be the directory of --data"):
            first_stage(shop, out)
    with pytest.raises(DataError, match=r"schema\.yaml: must not have a feature named score"):
        first_stage(scored[0], tmp_path / "twice")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "notes.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"notes\.txt"):
        first_stage(shop, tmp_path / "thesis")
    for split, rule in (("valid", "must have a valid list"), ("train", "of several users")):
        poor = tmp_path / split
        poor.mkdir()
        for path in shop.iterdir():
            (poor / path.name).write_bytes(path.read_bytes())
        rows = pl.read_parquet(poor / "impressions.parquet")
        spared = pl.col("user_id") == "u0" if split == "train" else pl.lit(False)
        rows = rows.filter((pl.col("split") != split) | spared)
        rows.write_parquet(poor / "impressions.parquet")
        with pytest.raises(DataError, match=rule):
            first_stage(poor, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_missing_data_set_gives_status_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "model", "first-stage", "--data", str(tmp_path / "no"),
               "--out", str(tmp_path / "out")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("first-stage: ")
    assert done.stderr.count("\n") == 1


def test_is_made_from_rejects_scores_of_older_data(shop, scored, tmp_path):
    out, _ = scored
    assert is_made_from(out, shop)
    assert not is_made_from(tmp_path, shop)
    today = tmp_path / "shop"
    shutil.copytree(shop, today)
    log = pl.read_parquet(today / "impressions.parquet")
    log[:-1].write_parquet(today / "impressions.parquet")
    assert not is_made_from(out, today)
