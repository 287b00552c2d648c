"""Read MovieLens-1M as candidate lists of a first-stage retriever (see model.data.retrieval)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from model.data import statistics
from model.data.errors import DataError
from model.data.ids import id_rule
from model.data.retrieval import (
    FOLDS,
    GROUPS,
    HELD_OUT,
    Floats,
    Integers,
    Ratings,
    RetrievedLists,
    deal_into_cells,
    k_core,
    retrieval_quality,
    retrieve_all,
)
from model.data.rules import Rule, check_rows
from model.data.scan import ROW, scan_file
from model.data.source import Source
from model.data.tables import (
    DTYPES,
    require_columns,
    require_unique,
)
from service.engine.features.schema import Schema

MIN_RATINGS = 20  # of every user and of every movie
POSITIVE_RATING = 4.0  # minimum that counts as a like
MIN_RATING, MAX_RATING = 0.5, 5.0  # stars
VALID_GROUP = 0  # the group of users whose lists are valid instead of train
RATING_COLUMNS = ("user_id", "movie_id", "rating", "timestamp")
MOVIE_COLUMNS = ("movie_id", "title", "genres")
USER_COLUMNS = ("user_id", "gender", "age", "occupation", "zip_code")


def read_movielens(
    ratings: Path, movies: Path, users: Path | None, schema: Schema
) -> tuple[Source, dict[str, dict[str, float]]]:
    """Read MovieLens-1M, and return its tables and the `retrieval_quality` of each split.

    Args:
        ratings: ratings.dat, or a CSV (.csv, .csv.gz) of user_id, movie_id and rating. Times are
            not read, because the split is at random.
        movies: movies.dat.
        users: users.dat.

    Raises DataError for a row that breaks a rule, or for too few ratings.
    """
    table = k_core(read_ratings(ratings), MIN_RATINGS)
    if (count := table["user_id"].n_unique()) < GROUPS:
        ratings_rule = f"{MIN_RATINGS} ratings of movies with {MIN_RATINGS} ratings"
        rule = f"must have at least {GROUPS} users with {ratings_rule}"
        raise DataError(ratings, rule, value=count)
    movie_table = _read_id_table(movies, MOVIE_COLUMNS)
    user_table = None if users is None else _read_id_table(users, USER_COLUMNS)
    dealt = deal_into_cells(table)
    retrieved = retrieve_all(dealt)
    cells = [(group, fold) for group in range(GROUPS) for fold in range(FOLDS)]
    splits = [*("valid" if group == VALID_GROUP else "train" for group, _ in cells), "test"]
    qualities = {
        split: retrieval_quality(
            np.concatenate([f.labels for f, s in zip(retrieved, splits, strict=True) if s == split])
        )
        for split in ("train", "valid", "test")
    }
    return _build_source(dealt, retrieved, splits, movie_table, user_table, schema), qualities


def _build_source(
    ratings: Ratings,
    retrieved: Sequence[RetrievedLists],
    splits: Sequence[str],
    movie_table: pl.DataFrame,
    user_table: pl.DataFrame | None,
    schema: Schema,
) -> Source:
    """Convert lists to tables; rows of a cell have item statistics without that cell inline."""
    counts = _count_likes(ratings)
    shape = (GROUPS * FOLDS, len(ratings.item_ids))
    shows = counts["shows"].to_numpy().reshape(shape).astype(np.float64)
    popularity = shows.sum(axis=0)
    strength = next(f.prior_strength for f in schema.features if f.name == "like_rate")
    like_rate, _ = statistics.like_rates(counts, strength)
    out_of_cell = statistics.out_of_fold_like_rates(counts, strength)["value"].to_numpy()
    # Values inline in the rows of each cell. Test rows, the last, use the item table instead.
    table = np.full((1, shape[1]), np.nan)
    inline = {
        "popularity": np.vstack([popularity - shows, table]),
        "like_rate": np.vstack([out_of_cell.reshape(shape), table]),
    }
    rows, requests, histories = [], [], []
    for cell, (lists, split) in enumerate(zip(retrieved, splits, strict=True)):
        name = "test" if split == "test" else str(cell % FOLDS)
        requests.append(_request_ids(ratings, lists.users, name).with_columns(split=pl.lit(split)))
        features = {feature: values[cell] for feature, values in inline.items()}
        rows.append(_list_rows(ratings, lists, name, features))
        histories.append(_histories(ratings, lists, name))
    movies = pl.DataFrame({"item_id": ratings.item_ids, "popularity": popularity}).join(
        like_rate.rename({"value": "like_rate"}), on="item_id", how="left", maintain_order="left"
    )
    users = pl.DataFrame({"user_id": ratings.user_ids})
    return Source(
        rows=pl.concat(rows).lazy(),
        requests=pl.concat(requests).with_row_index("timestamp").cast({"timestamp": pl.Int64}),
        items=movies.hstack(_movie_features(ratings.item_ids, movie_table, schema)),
        users=users
        if user_table is None
        else users.join(user_table, on="user_id", how="left", maintain_order="left"),
        histories=pl.concat(histories),
    )


def _list_rows(
    ratings: Ratings, lists: RetrievedLists, name: str, inline: dict[str, Floats]
) -> pl.DataFrame:
    """Return one row per candidate of the lists; `inline` holds features float64 [I] by item."""
    is_candidate = np.isfinite(lists.scores)
    row, position = np.nonzero(is_candidate)
    items = lists.items[is_candidate]
    return _request_ids(ratings, lists.users[row], name).with_columns(
        item_id=pl.Series(ratings.item_ids[items]),
        position=pl.Series(position, dtype=pl.Int32),
        label=pl.Series(lists.labels[is_candidate], dtype=pl.Float32),
        score=pl.Series(lists.scores[is_candidate]),
        **{feature: pl.Series(values[items]).fill_nan(None) for feature, values in inline.items()},
    )


def _histories(ratings: Ratings, lists: RetrievedLists, name: str) -> pl.DataFrame:
    """Return the histories of the lists: the ratings of their users that the retriever may use."""
    in_history = lists.observed & np.isin(ratings.users, lists.users)
    return _request_ids(ratings, ratings.users[in_history], name).select(
        "request_id",
        item_id=pl.Series(ratings.item_ids[ratings.items[in_history]]),
        label=pl.Series(ratings.liked[in_history], dtype=pl.Float32),
    )


def _request_ids(ratings: Ratings, users: Integers, name: str) -> pl.DataFrame:
    """Return request_id (USER-`name`) and user_id, one row for each of `users`."""
    user = pl.Series("user_id", ratings.user_ids[users])
    return pl.DataFrame([(user + f"-{name}").alias("request_id"), user])


def _count_likes(ratings: Ratings) -> pl.DataFrame:
    """Count ratings (as shows) and likes of every movie in every observed cell, cell by cell.

    Columns are those of `statistics.like_counts`; zeros are included.
    """
    observed = ratings.fold != HELD_OUT
    cell = (ratings.group[ratings.users] * FOLDS + ratings.fold)[observed]
    size = GROUPS * FOLDS * len(ratings.item_ids)
    at = cell * len(ratings.item_ids) + ratings.items[observed]
    return pl.DataFrame(
        {
            "item_id": np.tile(ratings.item_ids, GROUPS * FOLDS),
            "fold": np.repeat(np.arange(GROUPS * FOLDS, dtype=np.int32), len(ratings.item_ids)),
            "shows": np.bincount(at, minlength=size),
            "likes": np.bincount(at[ratings.liked[observed]], minlength=size),
        }
    )


def _movie_features(
    item_ids: npt.NDArray[np.str_], movie_table: pl.DataFrame, schema: Schema
) -> pl.DataFrame:
    """Return year, decade, genres, title words and title vector of each id, null if unknown."""
    table = pl.DataFrame({"movie_id": item_ids}).join(
        movie_table, on="movie_id", how="left", maintain_order="left"
    )
    year = table["title"].str.extract(r"\((\d{4})\)\s*$").cast(pl.Float64)
    bare = table["title"].str.replace(r"\s*\(\d{4}\)\s*$", "").str.to_lowercase()
    words = bare.str.extract_all(r"[\p{L}\p{N}]+")
    width = next(f.width for f in schema.features if f.name == "title_vector")
    vectors = statistics.token_vectors([bag or () for bag in words.to_list()], width)
    decade = year.map_elements(lambda y: [f"{int(y) // 10 * 10}"], DTYPES["categories"])
    return pl.DataFrame(
        {
            "year": year,
            "decade": decade,
            "genres": table["genres"].str.split("|"),
            "title_words": words,
            "title_vector": pl.Series(vectors.tolist(), dtype=DTYPES["vector"]),
        }
    )


def read_ratings(path: Path) -> pl.DataFrame:
    """Read and check ratings; return user_id str, item_id str and liked bool."""
    if path.suffix == ".dat":
        frame = _read_dat(path, RATING_COLUMNS).lazy()
    else:
        frame = scan_file(path)
        require_columns(path, frame.collect_schema(), RATING_COLUMNS[:3])
    rating = pl.col("rating").cast(pl.Float64, strict=False)
    rule = f"must be a number from {MIN_RATING:g} to {MAX_RATING:g}"
    rules = [
        id_rule("user_id"),
        id_rule("movie_id"),
        Rule("rating", rule, ~rating.is_between(MIN_RATING, MAX_RATING).fill_null(False)),
    ]
    check_rows(path, frame, rules)
    ids = [pl.col(name).cast(pl.String) for name in ("user_id", "movie_id")]
    table = frame.select(ROW, *ids, (rating >= POSITIVE_RATING).alias("liked")).collect()
    require_unique(path, table, ["user_id", "movie_id"], "must occur once per user")
    return table.drop(ROW).rename({"movie_id": "item_id"})


def _read_id_table(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read a .dat file whose first column is an id that occurs once per file."""
    table = _read_dat(path, columns)
    check_rows(path, table.lazy(), [id_rule(columns[0])])
    require_unique(path, table, columns[:1])
    return table.drop(ROW)


def _read_dat(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read a .dat file (latin-1, fields separated by `::`) as text columns, with ROW first."""
    try:
        lines = path.read_text(encoding="latin-1").rstrip("\n").split("\n")
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})") from None
    fields = pl.Series(lines).str.split("::")
    broken = (fields.list.len() != len(columns)).arg_true()
    if len(broken):
        row = int(broken[0])
        rule = f"must hold {', '.join(columns)}, separated by ::"
        raise DataError(path, rule, row=row + 1, value=lines[row])
    table = {name: fields.list.get(index) for index, name in enumerate(columns)}
    return pl.DataFrame(table).with_row_index(ROW, offset=1)
