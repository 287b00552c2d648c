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

KNOWN = 0.7  # share of a user's ratings
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
class Retrieved:
    """R lists: of users int64 [R], items int64 [R, N], scores, labels float64 [R, N].

    A score of -inf pads the list of a user who has not so many items left. `known` bool [n] marks
    the ratings that the retriever knows.
    """

    users: Integers
    items: Integers
    scores: Floats
    labels: Floats
    known: npt.NDArray[np.bool_]


def ease(gram: Floats, regularisation: float) -> Floats:
    """EASE: item-to-item weights float64 [I, I] from the Gram matrix X'X of users' likes X [U, I].

    Minimises |X - X B|^2 + regularisation |B|^2 with a zero diagonal; from H. Steck, Embarrassingly
    Shallow Autoencoders for Sparse Data, 2019 (arXiv 1905.03375).
    """
    inverse = linalg.inv(gram + regularisation * np.eye(len(gram)), assume_a="pos")
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights)


def retrieve(ratings: Ratings) -> list[Retrieved]:
    """The lists of each cell, group by group and fold by fold; then the test lists."""
    known = ratings.fold != HELD_OUT
    likes = ratings.matrix(known & ratings.liked)
    everyone = gram_of(likes)
    groups = [np.flatnonzero(ratings.group == group) for group in range(GROUPS)]
    found = []
    with tqdm(total=GROUPS * FOLDS + 1, desc="retrieve", disable=None, leave=False) as bar:
        for users in groups:
            others = everyone - gram_of(likes[users])
            for fold in range(FOLDS):
                before = known & (ratings.fold != fold)
                own = gram_of(ratings.matrix(before & ratings.liked)[users])
                found.append(
                    candidate_lists(ratings, users, before, ratings.fold == fold, others + own)
                )
                bar.update()
        users = np.arange(len(ratings.user_ids))
        found.append(candidate_lists(ratings, users, known, ~known, everyone))
        bar.update()
    return found


def gram_of(likes: csr_array) -> Floats:
    """X'X float64 [I, I] of likes X [U, I]."""
    return np.asarray((likes.T @ likes).toarray(), np.float64)


def candidate_lists(
    ratings: Ratings,
    users: Integers,
    known: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    gram: Floats,
) -> Retrieved:
    """The lists of `users` int64 [R], from what is `known`; labels are the likes `held_out`.

    known, held_out bool [n] mark ratings; gram float64 [I, I] is that of the likes to fit on.
    """
    scores = ratings.matrix(known & ratings.liked)[users] @ ease(gram, REGULARISATION)
    # The last digits depend on the machine's linear algebra; no order may depend on them.
    scores = np.round(scores, 6)
    seen = ratings.matrix(known)[users].nonzero()
    scores[seen] = -np.inf
    top = np.argsort(-scores, axis=1, kind="stable")[:, :RETRIEVED]
    labels = ratings.matrix(held_out & ratings.liked)[users].toarray()
    return Retrieved(
        users,
        top,
        np.take_along_axis(scores, top, axis=1),
        np.take_along_axis(labels, top, axis=1),
        known,
    )


def quality(labels: Floats) -> dict[str, float]:
    """What retrieval gave in labels [R, N]: NDCG over lists with a positive, binary gain.

    `random order` is the expectation: each position then holds a positive equally often.
    """
    positives = labels.sum(axis=1)
    some = positives > 0
    gained, count = labels[some], positives[some].astype(np.int64)
    level = np.broadcast_to(gained.mean(axis=1, keepdims=True), gained.shape)
    return {
        "share of lists with a positive": float(some.mean()),
        "positives per list": float(positives.mean()),
        f"NDCG@{CUTOFF} in the retriever's order": float(ndcg(gained, count, CUTOFF).mean()),
        f"NDCG@{CUTOFF} in random order": float(ndcg(level, count, CUTOFF).mean()),
    }


def deal(table: pl.DataFrame) -> Ratings:
    """Split and deal ratings: user_id, item_id str, liked bool; each pair once."""
    user_ids, users = _index(table["user_id"])
    item_ids, items = _index(table["item_id"])
    random = np.random.default_rng(SEED)
    order = np.lexsort((items, users))  # whatever the order in the file
    order = order[np.lexsort((random.random(len(order)), users[order]))]
    users = users[order]
    counts = np.bincount(users)
    rank = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    known = rank < np.round(KNOWN * counts)[users]
    return Ratings(
        users,
        items[order],
        table["liked"].to_numpy()[order],
        np.where(known, rank % FOLDS, HELD_OUT),
        random.permutation(len(user_ids)) % GROUPS,
        user_ids,
        item_ids,
    )


def _index(ids: pl.Series) -> tuple[npt.NDArray[np.str_], Integers]:
    """The distinct ids, shorter ones first so that numbers are in order, and each row's index."""
    distinct = np.array(sorted(ids.unique(), key=lambda name: (len(name), name)), dtype=np.str_)
    row = {name: index for index, name in enumerate(distinct.tolist())}
    return distinct, np.array([row[name] for name in ids], np.int64)


def core(table: pl.DataFrame, least: int) -> pl.DataFrame:
    """Drop users and items of fewer than `least` ratings until all have as many."""
    while True:
        enough = pl.all_horizontal(pl.len().over(c) >= least for c in ("user_id", "item_id"))
        kept = table.filter(enough)
        if len(kept) == len(table):
            return kept
        table = kept
