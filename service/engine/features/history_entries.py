"""Read the entries of a history, with the features that they carry for new items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats, Integers
from service.engine.features.candidates import CandidateList
from service.engine.features.history import (
    HistoryKernels,
    PreparedHistory,
    expected_labels,
    sigmoid,
)
from service.engine.features.id_index import Ids
from service.engine.features.inline import InlineFeatures
from service.engine.features.item_arrays import ItemArrays
from service.engine.features.kept_history import Entries, KeptHistory
from service.engine.features.kernels import Encoded
from service.engine.features.layout import Layout
from service.engine.features.schema import History

UNKNOWN_RULE = "not an item feature of the schema"


class HistoryEntries:
    """Prepares the user's half of histories; I items."""

    def __init__(
        self,
        layout: Layout,
        ids: Ids,
        items: ItemArrays,
        history: History,
        kernels: HistoryKernels,
    ) -> None:
        self._layout, self._ids, self._items, self._kernels = layout, ids, items, kernels
        self._limit = history.limit
        self._reader = object()
        self._rate = None if history.rate is None else layout.features[history.rate]
        self._inline = InlineFeatures(
            layout, history.kernels, ("item",), UNKNOWN_RULE, history_path
        )

    def prepare(
        self, candidates: CandidateList, index: Integers
    ) -> tuple[PreparedHistory | None, Integers]:
        """Return the user's half of the last entries, None for none, and the row of each candidate.

        Entries that neither are in the table nor carry features are left out. An entry is compared
        with the rate of its item, or with that at its answer if the list has `history_rates`. A
        candidate repeats the entries whose row is equal to its own: a new item that an entry
        carries features for has one above I.

        index: row of each candidate in the item table, int64 [N]. Raises FeatureError.
        """
        if candidates.history_features:
            return self._prepare_with_features(candidates, index)
        history, rates = candidates.history, None
        if not (history and len(self._kernels)):
            return None, index
        if len(candidates.history_rates):
            rates = np.array(candidates.history_rates[-self._limit :], np.float32)
            rows, labels, in_table = self._find(history)
            entries, rates = Entries(rows, labels, b""), rates[in_table]
        elif isinstance(history, KeptHistory):
            if history.entries is None or history.reader is not self._reader:
                history.entries, history.reader = self._entries(history), self._reader
            entries = history.entries
        else:
            entries = self._entries(history)
        if not len(entries.rows):
            return None, index
        return self._kernels.prepare(entries.rows, entries.labels, entries.key, rates), index

    def _entries(self, history: Sequence[tuple[str, float]]) -> Entries:
        """Return the last entries of a history that are in the table."""
        rows, labels, _ = self._find(history)
        return Entries(rows, labels, rows.tobytes() + labels.tobytes())

    def _find(
        self, history: Sequence[tuple[str, float]]
    ) -> tuple[Integers, Floats, npt.NDArray[np.bool_]]:
        """Return rows and labels of the last entries in the table, and true for each that is."""
        items, answers = zip(*history[-self._limit :], strict=True)
        rows, labels = self._ids.find(items), np.array(answers, np.float32)
        in_table = rows < len(self._ids)
        if in_table.all():
            return rows, labels, in_table
        return rows[in_table], labels[in_table], in_table

    def _prepare_with_features(
        self, candidates: CandidateList, index: Integers
    ) -> tuple[PreparedHistory | None, Integers]:
        """Do the same for entries with features, of which also those are checked that do not count.

        As for a candidate, features override the item table, and those that an entry leaves out
        are those of the table, or the defaults of an unknown item.
        """
        items, answers = zip(*candidates.history, strict=True)
        rows = self._ids.find(items)
        raw, expected = self._encode(candidates, items, rows)
        if not len(self._kernels):
            return None, index
        if len(candidates.history_rates):
            expected = sigmoid(np.array(candidates.history_rates, np.float32))
        unknown = len(self._ids)
        records = candidates.history_features
        carries = [any(value is not None for value in record.values()) for record in records]
        kept = ((rows < unknown) | np.array(carries)).nonzero()[0]
        kept = kept[kept >= len(rows) - self._limit]
        if not len(kept):
            return None, index
        new_rows: dict[str, int] = {}
        for place in kept[rows[kept] == unknown].tolist():
            rows[place] = new_rows.setdefault(items[place], unknown + 1 + len(new_rows))
        if new_rows:
            index = index.copy()
            for place in (index == unknown).nonzero()[0].tolist():
                index[place] = new_rows.get(candidates.ids[place], unknown)
        labels = np.array(answers, np.float32)[kept]
        of_kept = [each[kept] for each in raw]
        return self._kernels.prepare_raw(rows[kept], labels, expected[kept], of_kept), index

    def _encode(
        self, candidates: CandidateList, items: tuple[str, ...], rows: Integers
    ) -> tuple[list[Encoded], Floats]:
        """Return per kernel the raw rows [H, width] of all entries, and their expected targets [H].

        rows: of the item table, int64 [H]. Raises FeatureError.
        """
        layout, rate = self._layout, self._rate
        numbers = np.empty((len(rows), layout.numbers_width), np.float32)
        tokens = np.empty((len(rows), layout.tokens_width), np.int64)
        raw = self._kernels.take(rows)
        if rate is not None:
            column = layout.column[rate.name]
            numbers[:, column] = self._items.numbers[rows, self._items.place[rate.name]]
        entries = CandidateList(ids=items, features=candidates.history_features)
        self._inline.fill(entries, numbers, tokens, raw)
        encoded = np.zeros(len(rows), np.float32) if rate is None else numbers[:, column]
        return raw, expected_labels(rate, encoded)


def history_path(position: int, name: str, scored: bool) -> str:
    """Return the path of a feature of an entry; no entry has a score."""
    return f"user.history[{position}].features.{name}"
