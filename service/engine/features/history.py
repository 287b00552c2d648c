"""Columns that compare a user's history with each candidate, by kernels over item features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from service.engine.contract import Floats, Integers
from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import z_scores
from service.engine.features.schema import History, LabelScale

JOINT = 10  # columns over all kernels together
RIDGE = 8.0  # of the kernel ridge regression, in units of an item's similarity to itself
NEAREST = 10  # most similar history entries that are averaged


def history_width(history: History) -> int:
    """Return the number of columns that `HistoryKernels.fill` writes."""
    # Per kernel: sum, mean and z-score of the mean; then the columns of all kernels together.
    return 3 * len(history.kernels) + JOINT if history.kernels else 0


class HistoryKernels:
    """Writes the history columns of a candidate list; I items.

    tables: per kernel, unit vectors float32 [I + 1, width] whose inner products are the kernel;
    rate: float32 [I + 1], the expected target of each item; first_column: of the history columns;
    scale: of the labels in a history.
    """

    def __init__(
        self,
        limit: int,
        tables: Sequence[Floats],
        rate: Floats,
        first_column: int,
        scale: LabelScale,
    ) -> None:
        self.tables, self._scale = tables, scale
        self._limit, self._rate, self._first_column = limit, rate, first_column

    def recent(
        self, history: Sequence[tuple[str, float]], index_of: Mapping[str, int]
    ) -> list[tuple[int, float]]:
        """Return table row and label of the last `limit` entries whose items are in the table."""
        if not (history and self.tables):
            return []
        recent = history[-self._limit :]
        return [(index_of[item], label) for item, label in recent if item in index_of]

    def expected_then(
        self, candidates: CandidateList, index_of: Mapping[str, int]
    ) -> Floats | None:
        """Return the expected target of each entry of `recent` at the time of its answer.

        float32 [H], or None unless the list has `history_rates`.
        """
        if not candidates.history_rates:
            return None
        entries = zip(candidates.history, candidates.history_rates, strict=True)
        rates = [rate for (item, _), rate in [*entries][-self._limit :] if item in index_of]
        return np.asarray(1.0 / (1.0 + np.exp(-np.array(rates, np.float32))))

    def fill(
        self,
        recent: Sequence[tuple[int, float]],
        numbers: Floats,
        index: Integers,
        kernels: list[Floats],
        expected: Floats | None = None,
    ) -> None:
        """Write the surprises of a history, regressed onto each candidate, to `numbers` [N, F].

        Args:
            recent: table row and label of each entry, from `recent`; H entries.
            numbers: columns to write to.
            index: table row of each candidate, int64 [N].
            kernels: per kernel, unit vectors of the candidates, float32 [N, width].
            expected: target of each entry, float32 [H]; None: by its item's rate.
        """
        rows = np.array([row for row, _ in recent], np.int64)
        labels = np.array([label for _, label in recent], np.float32)
        surprise = self._scale.target(labels) - (self._rate[rows] if expected is None else expected)
        column = self._first_column
        compared = []  # columns that are also standardised within the list
        to_history = np.zeros((len(index), len(rows)), np.float32)
        among_history = np.zeros((len(rows), len(rows)), np.float32)
        for candidates, table in zip(kernels, self.tables, strict=True):
            past = table[rows]
            similarity = candidates @ past.T  # [N, H]
            to_history += similarity / len(kernels)
            among_history += (past @ past.T) / len(kernels)
            total = similarity @ surprise
            numbers[:, column] = total / math.sqrt(len(rows))
            compared.append(total / (np.abs(similarity).sum(axis=1) + 1.0))
            column += 3
        # All entries together: a ridge regression in the mean of the kernels, ...
        among_history[np.diag_indices(len(rows))] += RIDGE
        ridge = to_history @ np.linalg.solve(among_history, surprise)
        # ... and the entries most similar to each candidate.
        nearest = np.argpartition(-to_history, min(NEAREST, len(rows)) - 1, axis=1)[:, :NEAREST]
        near = np.take_along_axis(to_history, nearest, axis=1)
        echo = (near * surprise[nearest]).sum(axis=1)
        liked = self._scale.is_positive(labels)
        compared += [ridge, echo]
        standard = z_scores(np.array(compared, np.float32))
        for kernel in range(len(kernels)):
            place = self._first_column + 3 * kernel
            numbers[:, place + 1], numbers[:, place + 2] = compared[kernel], standard[kernel]
        for values in (
            ridge,
            standard[-2],
            near.mean(axis=1),
            echo,
            standard[-1],
            to_history[:, liked].max(axis=1, initial=0.0),
            to_history[:, ~liked].max(axis=1, initial=0.0),
        ):
            numbers[:, column] = values
            column += 1
        self._fill_repeats(recent, numbers, index, column)
        numbers[:, column + 2] = math.log1p(len(rows)) / 4.0

    def _fill_repeats(
        self, recent: Sequence[tuple[int, float]], numbers: Floats, index: Integers, column: int
    ) -> None:
        """Write the target of each candidate that the history holds, and 1 minus it, in place."""
        latest = dict(recent)  # the most recent label of an item counts
        for position, row in enumerate(index.tolist()):
            if row in latest:
                target = latest[row]
                if self._scale.gain_form is not None:
                    target = float(self._scale.target(target))
                numbers[position, column] = target
                numbers[position, column + 1] = 1.0 - target
