"""Make candidate lists from ratings with a first-stage retriever.

A rating is a like or not. Each user's ratings are split at random into 70 % *observed* and 30 %
held-out ratings. For the test lists, EASE is fitted on the observed likes and retrieves 50 items
per user that the user has not rated there. Their labels are the held-out likes.

Train and valid lists are made in the same way from observed ratings alone. These are dealt into
cells, each a tenth of the users (a *group*) times a third of every such user's ratings (a *fold*).
For each cell a retriever is fitted on all other cells and retrieves 50 items per user of the group.
Their labels are the likes of the cell.

So a train list relates to its retriever as a test list does. Per held-out rating the user has two
observed ones (test: 7 to 3), all other users are observed in full, and no label enters the fit. An
item liked in the 30 % may be a negative of a train list, because excluding it would use held-out
ratings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import linalg
from scipy.sparse import csr_array
from tqdm import tqdm

from model.data.metrics import ndcg

OBSERVED_SHARE = 0.7  # of each user's ratings
RETRIEVED = 50
REGULARISATION = 500.0  # EASE; of 100 to 1200 it gives the most valid lists with a positive
GROUPS, FOLDS = 10, 3
HELD_OUT = -1  # value of `Ratings.fold` for held-out ratings
SEED = 0
CUTOFF = 6  # of the NDCG in `retrieval_quality`

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratings:
    """n ratings of U users and I items, ordered by user and then at random.

    users, items  int64 [n], indices into user_ids [U] and item_ids [I]
    liked         bool [n]
    fold          int64 [n], 0..FOLDS-1 for observed ratings, HELD_OUT for the others
    group         int64 [U], 0..GROUPS-1
    """

    users: Integers
    items: Integers
    liked: npt.NDArray[np.bool_]
    fold: Integers
    group: Integers
    user_ids: npt.NDArray[np.str_]
    item_ids: npt.NDArray[np.str_]

    def matrix(self, rows: npt.NDArray[np.bool_]) -> csr_array:
        """Return float64 [U, I] with a 1 for each rating that `rows` bool [n] selects."""
        at = (self.users[rows], self.items[rows])
        shape = (len(self.user_ids), len(self.item_ids))
        return csr_array((np.ones(len(at[0])), at), shape=shape)


@dataclass(frozen=True)
class RetrievedLists:
    """R lists of N items, one for each of `users`.

    users           int64 [R]
    items           int64 [R, N], by falling score
    scores, labels  float64 [R, N]; a score of -inf pads the list of a user with fewer items left
    observed        bool [n], the ratings that the retriever uses
    """

    users: Integers
    items: Integers
    scores: Floats
    labels: Floats
    observed: npt.NDArray[np.bool_]


def ease(gram: Floats, regularisation: float) -> Floats:
    """Return EASE's item-to-item weights float64 [I, I] from X'X, with likes X float64 [U, I].

    The weights B minimise |X - X B|^2 + regularisation |B|^2 with a zero diagonal. From H. Steck,
    Embarrassingly Shallow Autoencoders for Sparse Data, 2019 (arXiv 1905.03375).
    """
    inverse = linalg.inv(gram + regularisation * np.eye(len(gram)), assume_a="pos")
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights)


def retrieve_all(ratings: Ratings) -> list[RetrievedLists]:
    """Return the lists of each cell, group by group and fold by fold, then the test lists."""
    observed = ratings.fold != HELD_OUT
    likes = ratings.matrix(observed & ratings.liked)
    all_users = gram_matrix(likes)
    groups = [np.flatnonzero(ratings.group == group) for group in range(GROUPS)]
    retrieved = []
    with tqdm(total=GROUPS * FOLDS + 1, desc="retrieve", disable=None, leave=False) as bar:
        for users in groups:
            others = all_users - gram_matrix(likes[users])
            for fold in range(FOLDS):
                before = observed & (ratings.fold != fold)
                group_gram = gram_matrix(ratings.matrix(before & ratings.liked)[users])
                retrieved.append(
                    retrieve_lists(
                        ratings, users, before, ratings.fold == fold, others + group_gram
                    )
                )
                bar.update()
        users = np.arange(len(ratings.user_ids))
        retrieved.append(retrieve_lists(ratings, users, observed, ~observed, all_users))
        bar.update()
    return retrieved


def gram_matrix(likes: csr_array) -> Floats:
    """Return X'X float64 [I, I] of likes X [U, I]."""
    return np.asarray((likes.T @ likes).toarray(), np.float64)


def retrieve_lists(
    ratings: Ratings,
    users: Integers,
    observed: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    gram: Floats,
) -> RetrievedLists:
    """Retrieve a list for each of `users` int64 [R].

    Args:
        observed: bool [n], ratings that the retriever uses; their items are not retrieved.
        held_out: bool [n], ratings whose likes are the labels.
        gram: float64 [I, I], Gram matrix of the likes that EASE is fitted on.
    """
    scores = ratings.matrix(observed & ratings.liked)[users] @ ease(gram, REGULARISATION)
    # The last digits depend on the machine's linear algebra, and the order must not.
    scores = np.round(scores, 6)
    seen = ratings.matrix(observed)[users].nonzero()
    scores[seen] = -np.inf
    top = np.argsort(-scores, axis=1, kind="stable")[:, :RETRIEVED]
    labels = ratings.matrix(held_out & ratings.liked)[users].toarray()
    return RetrievedLists(
        users,
        top,
        np.take_along_axis(scores, top, axis=1),
        np.take_along_axis(labels, top, axis=1),
        observed,
    )


def retrieval_quality(labels: Floats) -> dict[str, float]:
    """Measure retrieval by the labels [R, N] of its lists; NDCG is over lists with a positive.

    NDCG in random order is the expectation, for which each position holds the list's mean gain.
    """
    positives = labels.sum(axis=1)
    has_positive = positives > 0
    gained, count = labels[has_positive], positives[has_positive].astype(np.int64)
    expected_gain = np.broadcast_to(gained.mean(axis=1, keepdims=True), gained.shape)
    return {
        "share of lists with a positive": float(has_positive.mean()),
        "positives per list": float(positives.mean()),
        f"NDCG@{CUTOFF} in the retriever's order": float(ndcg(gained, count, CUTOFF).mean()),
        f"NDCG@{CUTOFF} in random order": float(ndcg(expected_gain, count, CUTOFF).mean()),
    }


def deal_into_cells(table: pl.DataFrame) -> Ratings:
    """Deal ratings (user_id str, item_id str, liked bool, each pair once) into cells at random."""
    user_ids, users = _index_ids(table["user_id"])
    item_ids, items = _index_ids(table["item_id"])
    random = np.random.default_rng(SEED)
    order = np.lexsort((items, users))  # independent of the order in the file
    order = order[np.lexsort((random.random(len(order)), users[order]))]
    users = users[order]
    counts = np.bincount(users)
    rank = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    observed = rank < np.round(OBSERVED_SHARE * counts)[users]
    return Ratings(
        users,
        items[order],
        table["liked"].to_numpy()[order],
        np.where(observed, rank % FOLDS, HELD_OUT),
        random.permutation(len(user_ids)) % GROUPS,
        user_ids,
        item_ids,
    )


def _index_ids(ids: pl.Series) -> tuple[npt.NDArray[np.str_], Integers]:
    """Return the distinct ids, by length and then text (1, 2, 10), and the index of each row."""
    distinct = np.array(sorted(ids.unique(), key=lambda name: (len(name), name)), dtype=np.str_)
    row = {name: index for index, name in enumerate(distinct.tolist())}
    return distinct, np.array([row[name] for name in ids], np.int64)


def k_core(table: pl.DataFrame, minimum: int) -> pl.DataFrame:
    """Drop users and items with fewer than `minimum` ratings until all have as many."""
    while True:
        enough = pl.all_horizontal(pl.len().over(c) >= minimum for c in ("user_id", "item_id"))
        kept = table.filter(enough)
        if len(kept) == len(table):
            return kept
        table = kept
