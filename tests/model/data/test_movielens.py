"""Preparing MovieLens-1M from generated ratings: no label leaks into a list."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.data import movielens, prepare, retrieval
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.movielens import read_ratings

ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared" / "data" / "ml1m"
USERS, MOVIES = 60, 90


def make_ratings(seed=0):
    """Return (user, movie, rating) of users who like one half of the movies more."""
    random = np.random.default_rng(seed)
    rated = random.random((USERS, MOVIES)) < 0.6
    taste = (np.arange(USERS)[:, None] + np.arange(MOVIES)) % 2 == 0
    stars = np.where(random.random((USERS, MOVIES)) < 0.2, ~taste, taste) * 2 + 2
    stars += random.integers(0, 2, stars.shape)
    return [(u + 1, m + 1, int(stars[u, m])) for u, m in zip(*np.nonzero(rated), strict=True)]


def write(directory, ratings):
    """Write ratings.dat, movies.dat and users.dat in the format of GroupLens."""
    lines = [f"{user}::{movie}::{stars}::978300760" for user, movie, stars in ratings]
    (directory / "ratings.dat").write_text("\n".join(lines) + "\n")
    titles = [
        f"{m}::{'Misérables, Les' if m == 3 else f'Star Wars: Part {m}'} ({1930 + m % 70})"
        f"::{'Action|Drama' if m % 2 else 'Comedy'}"
        for m in range(1, MOVIES + 1)
    ]
    (directory / "movies.dat").write_text("\n".join(titles) + "\n", encoding="latin-1")
    people = [f"{u}::{'MF'[u % 2]}::25::{u % 20}::48067" for u in range(1, USERS + 1)]
    (directory / "users.dat").write_text("\n".join(people) + "\n")


def prepare_files(directory, ratings="ratings.dat", users="users.dat", out="out"):
    people = None if users is None else directory / users
    prepare.prepare_movielens(
        directory / out, directory / ratings, directory / "movies.dat", people
    )
    return directory / out


def tables(out):
    names = ("impressions", "histories", "items", "users")
    return {name: pl.read_parquet(out / f"{name}.parquet") for name in names}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ml")
    write(directory, make_ratings())
    return directory


@pytest.fixture(scope="module")
def out(directory):
    return prepare_files(directory)


def read_histories(out):
    """Return {item: label} of the history of each request."""
    table = pl.read_parquet(out / "histories.parquet")
    by_request: dict[str, dict[str, float]] = {}
    for request, item, label in table.iter_rows():
        assert item not in by_request.setdefault(request, {})
        by_request[request][item] = label
    return by_request


def lists(out):
    rows = pl.read_parquet(out / "impressions.parquet")
    for (request,), group in rows.group_by("request_id", maintain_order=True):
        yield request, group["user_id"][0], group["split"][0], group


def test_a_list_holds_up_to_fifty_movies_outside_its_history_by_falling_score(out):
    histories = read_histories(out)
    for request, _, _, group in lists(out):
        assert len(set(group["item_id"])) == len(group) <= 50
        assert not set(group["item_id"]) & set(histories[request])
        assert group["score"].is_sorted(descending=True)
        assert group["position"].to_list() == list(range(len(group)))


def test_the_labels_of_a_test_list_are_the_likes_of_held_out_ratings(out):
    rated = {(str(user), str(movie)): stars for user, movie, stars in make_ratings()}
    histories = read_histories(out)
    for request, user, split, group in lists(out):
        user_ratings = {movie: stars for (u, movie), stars in rated.items() if u == user}
        for movie, label in histories[request].items():
            assert label == (user_ratings[movie] >= 4)
        if split == "test":
            assert len(histories[request]) == round(0.7 * len(user_ratings))
            for movie, label in zip(group["item_id"], group["label"], strict=True):
                assert label == (user_ratings.get(movie, 0) >= 4)


def test_train_lists_use_only_ratings_in_the_history_of_the_test_list(out):
    histories = read_histories(out)
    held_out: dict[str, list[set[str]]] = {}
    for request, user, split, group in lists(out):
        if split == "test":
            continue
        allowed = histories[f"{user}-test"]
        assert histories[request].items() <= allowed.items()
        missing = allowed.keys() - histories[request].keys()
        assert set(group.filter(pl.col("label") > 0.5)["item_id"]) <= missing
        held_out.setdefault(user, []).append(missing)
    for user, parts in held_out.items():  # the folds partition the observed ratings
        assert sorted(m for part in parts for m in part) == sorted(histories[f"{user}-test"])


def test_users_of_valid_lists_have_no_train_list(out):
    rows = pl.read_parquet(out / "impressions.parquet")
    users = {split: set(group["user_id"]) for (split,), group in rows.group_by("split")}
    assert not users["train"] & users["valid"]
    assert len(users["valid"]) == USERS / 10
    assert users["test"] == users["train"] | users["valid"]


def test_held_out_ratings_change_nothing_but_the_labels_of_test_lists(tmp_path, out):
    histories = read_histories(out)
    flipped = [
        (u, m, stars if str(m) in histories[f"{u}-test"] else 6 - stars)
        for u, m, stars in make_ratings()
    ]
    write(tmp_path, flipped)
    before, after = tables(out), tables(prepare_files(tmp_path))
    for name in ("histories", "items", "users"):
        assert before[name].equals(after[name])
    test = pl.col("split") == "test"
    labels = [frame["impressions"].filter(test)["label"] for frame in (before, after)]
    assert not labels[0].equals(labels[1])
    for rule, dropped in ((~test, ()), (test, ("label",))):
        first, second = (f["impressions"].filter(rule).drop(dropped) for f in (before, after))
        assert first.equals(second)


def test_the_labels_of_a_train_list_do_not_change_its_own_features(tmp_path, out):
    histories = read_histories(out)
    user, fold = 7, 1
    cell_movies = histories[f"{user}-test"].keys() - histories[f"{user}-{fold}"].keys()
    write(
        tmp_path,
        [(u, m, 6 - s if u == user and str(m) in cell_movies else s) for u, m, s in make_ratings()],
    )
    before, after = tables(out)["impressions"], tables(prepare_files(tmp_path))["impressions"]
    is_list = pl.col("request_id") == f"{user}-{fold}"
    assert before.filter(is_list).drop("label").equals(after.filter(is_list).drop("label"))
    assert not before.filter(is_list)["label"].equals(after.filter(is_list)["label"])
    # The same ratings do change the features of other lists.
    for column in ("score", "like_rate"):
        assert not before.filter(~is_list)[column].equals(after.filter(~is_list)[column])


def test_statistics_of_a_train_list_equal_values_by_hand_without_its_cell(directory, out):
    dealt = retrieval.deal_into_cells(read_ratings(directory / "ratings.dat"))
    request, user, _, group = next(entry for entry in lists(out) if entry[2] == "train")
    of_group = dealt.group[dealt.user_ids.tolist().index(user)]
    fold = int(request.rsplit("-", 1)[1])
    cell = (dealt.group[dealt.users] == of_group) & (dealt.fold == fold)
    used = (dealt.fold != retrieval.HELD_OUT) & ~cell
    prior = dealt.liked[used].mean()
    for movie, popularity, rate in group.select("item_id", "popularity", "like_rate").iter_rows():
        rows = used & (dealt.item_ids[dealt.items] == movie)
        smoothed = (dealt.liked[rows].sum() + 10 * prior) / (rows.sum() + 10)
        assert popularity == rows.sum()
        assert rate == pytest.approx(math.log(smoothed / (1 - smoothed)), abs=1e-9)
    items = pl.read_parquet(out / "items.parquet")
    whole = np.bincount(dealt.items[dealt.fold != retrieval.HELD_OUT])
    assert (
        items.join(pl.DataFrame({"item_id": dealt.item_ids, "n": whole}), "item_id")
        .select((pl.col("popularity") == pl.col("n")).all())
        .item()
    )


def test_ease_is_a_ridge_regression_of_each_item_on_the_others():
    likes = (np.random.default_rng(3).random((40, 6)) < 0.4).astype(float)
    weights = retrieval.ease(likes.T @ likes, 2.0)
    for item in range(6):
        others = [i for i in range(6) if i != item]
        x = likes[:, others]
        by_hand = np.linalg.solve(x.T @ x + 2.0 * np.eye(5), x.T @ likes[:, item])
        assert weights[others, item] == pytest.approx(by_hand, abs=1e-9)
        assert weights[item, item] == 0.0
    assert retrieval.ease(likes.T @ likes, 2.1) != pytest.approx(weights, abs=1e-9)


def test_the_core_is_iterated_until_it_is_stable():
    # User b has one rating and is dropped, then item y has one left, then user c.
    rows = [("a", "x"), ("a", "z"), ("b", "y"), ("c", "y"), ("c", "x"), ("d", "x"), ("d", "z")]
    table = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    kept = retrieval.k_core(table, 2)
    assert kept.rows() == [("a", "x"), ("a", "z"), ("d", "x"), ("d", "z")]


def test_retrieval_quality_equals_values_computed_by_hand():
    labels = np.zeros((2, 8))
    labels[0, 1] = 1.0
    results = retrieval.retrieval_quality(labels)
    assert results["share of lists with a positive"] == 0.5
    assert results["positives per list"] == 0.5
    assert results["NDCG@6 in the retriever's order"] == pytest.approx(1 / math.log2(3))
    random = sum(1 / math.log2(position + 2) for position in range(6)) / 8
    assert results["NDCG@6 in random order"] == pytest.approx(random)


def test_a_csv_in_reverse_order_gives_the_same_bytes_as_the_dat_file(tmp_path, out):
    write(tmp_path, make_ratings())
    rows = "".join(f"{u},{m},{s}\n" for u, m, s in reversed(make_ratings()))
    path = tmp_path / "ratings.csv.gz"
    path.write_bytes(gzip.compress(f"user_id,movie_id,rating\n{rows}".encode()))
    again = prepare_files(tmp_path, ratings=path.name)
    for name in ("impressions", "histories", "items", "users"):
        file = f"{name}.parquet"
        assert (again / file).read_bytes() == (out / file).read_bytes()


def test_movies_and_users_have_their_features(out):
    items = {row["item_id"]: row for row in tables(out)["items"].iter_rows(named=True)}
    assert items["3"]["title_words"] == ["misérables", "les"]
    assert (items["3"]["year"], items["3"]["decade"]) == (1933.0, ["1930"])
    assert items["3"]["genres"] == ["Action", "Drama"]
    assert len(items["3"]["title_vector"]) == 16
    assert tables(out)["users"].row(0) == ("1", "F", "25", "1")


def test_a_request_has_its_history_and_the_retrievers_scores(out):
    histories = read_histories(out)
    seen = 0
    for impression in Dataset(out).impressions(["train", "test"]):
        assert dict(impression.request.history) == histories[impression.request_id]
        assert all(score is not None for score in impression.request.scores)
        assert impression.request.user["gender"] in ("M", "F")
        seen += 1
    assert seen == USERS * 0.9 * 3 + USERS


def test_without_users_there_are_no_user_features_and_lists_are_the_same(directory, out):
    alone = prepare_files(directory, users=None, out="alone")
    assert tables(alone)["users"].columns == ["user_id"]
    assert tables(alone)["impressions"].equals(tables(out)["impressions"])
    assert Dataset(alone).lists(["valid"]).numbers.shape[0] == USERS / 10 * 3


def test_the_summary_holds_the_retrieval_quality_of_each_split(out):
    summary = json.loads((out / "summary.json").read_text())
    for split in ("train", "valid", "test"):
        labels = [g["label"].to_list() for *_, s, g in lists(out) if s == split]
        padded = np.array([label + [0.0] * (50 - len(label)) for label in labels])
        assert summary["retrieval"][split] == retrieval.retrieval_quality(padded)
        assert 0.0 < padded.mean() < 0.5


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "ratings.dat",
            "::978300760\n",
            "\n",
            "row 1: must hold user_id, movie_id, rating, timestamp, separated by ::",
        ),
        (
            "ratings.dat",
            "::978300760\n",
            "::0\n1::1::x::0\n",
            "row 2, column rating: must be a number from",
        ),
        ("ratings.dat", "::978300760\n", "::0\n1::1::6::0\n", "from 0.5 to 5, got '6'"),
        (
            "ratings.dat",
            "::978300760\n",
            "::0\n::1::3::0\n",
            "row 2, column user_id: must be an id",
        ),
        ("ratings.dat", "2::1::", "1::1::", "column movie_id: must occur once per user, got '1'"),
        (
            "movies.dat",
            "::Star",
            ":Star",
            "row 1: must hold movie_id, title, genres, separated by ::, got",
        ),
        (
            "movies.dat",
            "2::Star",
            "1::Star",
            "row 2, column movie_id: must occur once per file, got '1'",
        ),
        (
            "users.dat",
            "1::F",
            "F",
            "row 1: must hold user_id, gender, age, occupation, zip_code, separated by ::",
        ),
    ],
)
def test_a_broken_row_is_reported(tmp_path, file, old, new, message):
    ratings = [(1, 1, 3), *(r for r in make_ratings() if r[:2] not in {(1, 1), (2, 1)}), (2, 1, 3)]
    write(tmp_path, ratings)
    path = tmp_path / file
    text = path.read_text(encoding="latin-1")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="latin-1")
    with pytest.raises(DataError, match=re.escape(f"{file}, row ")) as caught:
        prepare_files(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unusable_files_are_reported(tmp_path):
    write(tmp_path, make_ratings()[:500])
    with pytest.raises(
        DataError, match="must have at least 10 users with 20 ratings of movies with 20"
    ):
        prepare_files(tmp_path)
    with pytest.raises(DataError, match=r"nothing\.dat: cannot be read \(No such file"):
        prepare_files(tmp_path, ratings="nothing.dat")
    (tmp_path / "ratings.csv").write_text("user_id,movie,rating\n1,1,3\n")
    with pytest.raises(
        DataError, match=r"column movie_id: is missing; the file has user_id, movie,"
    ):
        prepare_files(tmp_path, ratings="ratings.csv")


@pytest.mark.skipif(not REAL.is_dir(), reason="MovieLens may not be redistributed")
def test_movielens_1m_gives_lists_like_those_of_the_literature():
    ratings = retrieval.deal_into_cells(
        retrieval.k_core(read_ratings(REAL / "ratings_no_time.csv.gz"), movielens.MIN_RATINGS)
    )
    observed = ratings.fold != retrieval.HELD_OUT
    users = np.arange(len(ratings.user_ids))
    gram = retrieval.gram_matrix(ratings.matrix(observed & ratings.liked))
    lists = retrieval.retrieve_lists(ratings, users, observed, ~observed, gram)
    measured = list(retrieval.retrieval_quality(lists.labels).values())
    assert measured == pytest.approx([0.978, 10.3, 0.488, 0.220], rel=0.03)
