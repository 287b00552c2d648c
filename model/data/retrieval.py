"""A first-stage retriever makes the candidate lists that are to be re-ranked.

A rating is a like or not. Each user's ratings are split 70/30 at random. Of the 70 %, the *known*
part, EASE retrieves 50 unseen items; their labels are the likes of the 30 %. These are the test
lists.

Train and valid lists are made within the known part alone, in the same way. Its ratings are dealt
into cells of a tenth of the users (a *group*) and a third of each one's known ratings (a *fold*).
For each cell a retriever is fitted on all other cells and gives each user of the group a list of 50
items unseen there; the labels are the cell's likes. So a train list relates to its retriever as a
test list does: two known ratings for each held out (in test 7 : 3), all other users in full, and no
label in anything that is fitted. What a user liked in the 30 % may stand in a train list as a
negative, for to exclude it would be to use it.
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

OBSERVED_SHARE = 0.7  # share of a user's ratings
RETRIEVED = 50
REGULARISATION = 500.0  # of EASE: of 100 .. 1200, the most valid lists with a positive
GROUPS, FOLDS = 10, 3
HELD_OUT = -1  # in place of a fold: the 30 %
SEED = 0
CUTOFF = 6  # of the NDCG in `quality`

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratings:
    """n ratings of U users and I items, by user and then in random order.

    users, items int64 [n] are indices into user_ids, item_ids; liked bool [n]; fold int64 [n] is
    0..FOLDS-1 in the known part and HELD_OUT outside; group int64 [U].
    """

    users: Integers
    items: Integers
    liked: npt.NDArray[np.bool_]
    fold: Integers
    group: Integers
    user_ids: npt.NDArray[np.str_]
    item_ids: npt.NDArray[np.str_]

    def matrix(self, rows: npt.NDArray[np.bool_]) -> csr_array:
        """float64 [U, I], 1 for each of the n ratings that `rows` marks."""
        at = (self.users[rows], self.items[rows])
        shape = (len(self.user_ids), len(self.item_ids))
        return csr_array((np.ones(len(at[0])), at), shape=shape)


@dataclass(frozen=True)
class RetrievedLists:
    """R lists: of users int64 [R], items int64 [R, N], scores, labels float64 [R, N].

    A score of -inf pads the list of a user who has not so many items left. `known` bool [n] marks
    the ratings that the retriever knows.
    """

    users: Integers
    items: Integers
    scores: Floats
    labels: Floats
    observed: npt.NDArray[np.bool_]


def ease(gram: Floats, regularisation: float) -> Floats:
    """EASE: item-to-item weights float64 [I, I] from the Gram matrix X'X of users' likes X [U, I].

    Minimises |X - X B|^2 + regularisation |B|^2 with a zero diagonal; from H. Steck, Embarrassingly
    Shallow Autoencoders for Sparse Data, 2019 (arXiv 1905.03375).
    """
    inverse = linalg.inv(gram + regularisation * np.eye(len(gram)), assume_a="pos")
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights)


def retrieve_all(ratings: Ratings) -> list[RetrievedLists]:
    """The lists of each cell, group by group and fold by fold; then the test lists."""
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
    """X'X float64 [I, I] of likes X [U, I]."""
    return np.asarray((likes.T @ likes).toarray(), np.float64)


def retrieve_lists(
    ratings: Ratings,
    users: Integers,
    observed: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    gram: Floats,
) -> RetrievedLists:
    """The lists of `users` int64 [R], from what is `known`; labels are the likes `held_out`.

    known, held_out bool [n] mark ratings; gram float64 [I, I] is that of the likes to fit on.
    """
    scores = ratings.matrix(observed & ratings.liked)[users] @ ease(gram, REGULARISATION)
    # The last digits depend on the machine's linear algebra; no order may depend on them.
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
    """What retrieval gave in labels [R, N]: NDCG over lists with a positive, binary gain.

    `random order` is the expectation: each position then holds a positive equally often.
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
    """Split and deal ratings: user_id, item_id str, liked bool; each pair once."""
    user_ids, users = _index_ids(table["user_id"])
    item_ids, items = _index_ids(table["item_id"])
    random = np.random.default_rng(SEED)
    order = np.lexsort((items, users))  # whatever the order in the file
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
    """The distinct ids, shorter ones first so that numbers are in order, and each row's index."""
    distinct = np.array(sorted(ids.unique(), key=lambda name: (len(name), name)), dtype=np.str_)
    row = {name: index for index, name in enumerate(distinct.tolist())}
    return distinct, np.array([row[name] for name in ids], np.int64)


def k_core(table: pl.DataFrame, minimum: int) -> pl.DataFrame:
    """Drop users and items of fewer than `least` ratings until all have as many."""
    while True:
        enough = pl.all_horizontal(pl.len().over(c) >= minimum for c in ("user_id", "item_id"))
        kept = table.filter(enough)
        if len(kept) == len(table):
            return kept
        table = kept
