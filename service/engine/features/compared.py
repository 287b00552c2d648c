"""Columns that compare the candidates of one list: list-relative numbers and history columns."""

from __future__ import annotations

import numpy as np

from service.engine.contract import Floats
from service.engine.features.encoding import relative_ranks, z_scores
from service.engine.features.history import HistoryKernels
from service.engine.features.layout import RELATIVE, Layout, places_of


class ComparedColumns:
    """Writes the columns that depend on the other candidates of a list."""

    def __init__(self, layout: Layout, history: HistoryKernels) -> None:
        """history: the kernels whose columns are standardised within the list."""
        self._relative = len(layout.relative)
        self._sources = places_of([source for source, _ in layout.relative])
        self._targets = places_of(
            [first + column for _, first in layout.relative for column in range(RELATIVE)]
        )
        self._history, self._history_at = history, layout.history

    def fill(self, numbers: Floats, history: Floats | None) -> None:
        """Write the columns of the history and all list-relative ones to numbers [N, F], in place.

        history: columns [W, N] from `HistoryKernels.compare`, whose standardised ones are set here.
        """
        relative = self._relative
        if not relative and history is None:
            return
        compared = 0 if history is None else len(self._history.compared)
        # Each column a contiguous row: for few of them the numpy calls cost more than the work.
        rows = np.empty((relative + compared, len(numbers)), np.float32)
        if relative:
            rows[:relative] = numbers[:, self._sources].T
        if history is not None:
            rows[relative:] = history.take(self._history.compared, axis=0)
        standard = z_scores(rows)
        if relative:
            values = rows[:relative]
            columns = np.empty((relative, RELATIVE, len(numbers)), np.float32)
            columns[:, 0] = standard[:relative]
            columns[:, 1] = relative_ranks(values)
            best = np.maximum.reduce(values, axis=1, keepdims=True, initial=-np.inf)
            np.subtract(values, best, out=columns[:, 2])
            numbers[:, self._targets] = columns.reshape(RELATIVE * relative, len(numbers)).T
        if history is not None:
            history[self._history.standardised] = standard[relative:]
            numbers[:, self._history_at : self._history_at + len(history)] = history.T
