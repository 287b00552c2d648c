"""Build the request that a caller would have sent for a list of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from model.data.histories import ANSWER, ListColumns
from model.data.layout import COLUMNS
from model.data.moment import Moment
from model.data.users import user_of_request
from service.engine.features.candidates import CandidateList
from service.engine.features.schema import Schema


class RequestBuilder:
    """Turns the rows of a list into a request, by the schema and the inline columns of a data set.

    Args:
        columns: of impressions.parquet.
        moment: record of the data set. Without one, every list carries its inline item features.
        fresh: lists that are not train carry them too.
    """

    def __init__(
        self, schema: Schema, columns: Sequence[str], moment: Moment | None, fresh: bool
    ) -> None:
        owners = {feature.name: feature.of for feature in schema.features}
        inline = [name for name in columns if name not in COLUMNS]
        self._of = {
            owner: [name for name in inline if owners.get(name) == owner]
            for owner in ("candidate", "user", "context")
        }
        self._candidates = [n for n in inline if owners.get(n) in ("candidate", "item")]
        self._users = [f.name for f in schema.features if f.of == "user" and f.name != "user_id"]
        self._carries_items = fresh or moment is None
        # Only a candidate feature named score is a first-stage score, which a request carries in a
        # field of its own. An item feature of that name is not.
        self._scored = owners.get("score") == "candidate"
        self._limit = schema.history.limit
        rate = schema.history.rate
        timed = moment is not None and moment.as_of is not None and rate in inline
        self._train_answer = (*ANSWER, rate) if timed and rate is not None else ANSWER

    def answer_columns(self, split: str) -> Sequence[str]:
        """Return the columns of an answer in the history of a list.

        A train list of a log with time has the rate at each answer too, because the item table
        counts later labels.
        """
        return self._train_answer if split == "train" else ANSWER

    def build(
        self, rows: ListColumns, user: Mapping[str, Any], history: Sequence[tuple[Any, ...]]
    ) -> CandidateList:
        """Return the request of a list.

        Args:
            user: features of the user; those inline replace them.
            history: answers, oldest first, with the columns of `answer_columns`.
        """
        carries_items = self._carries_items or rows["split"][0] == "train"
        names = self._candidates if carries_items else self._of["candidate"]
        candidates = [
            {name: rows[name][i] for name in names if rows[name][i] is not None}
            for i in range(len(rows["item_id"]))
        ]
        scores = [entry.pop("score", None) if self._scored else None for entry in candidates]
        then = {n: rows[n][0] for n in self._of["user"] if rows[n][0] is not None}
        recent = history[-self._limit :]
        return CandidateList(
            ids=rows["item_id"],
            scores=scores,
            features=candidates if any(candidates) else (),
            user_id=user_of_request(rows["user_id"][0]),
            user={name: then.get(name, user.get(name)) for name in self._users} if user else {},
            history=[(item, label) for item, label, *_ in recent],
            context={name: rows[name][0] for name in self._of["context"]},
            history_rates=self._rates(rows, recent),
        )

    def _rates(self, rows: ListColumns, recent: Sequence[tuple[Any, ...]]) -> list[float]:
        """Return the rate of each answer of a train list; the list's mean where it has none."""
        if not recent or len(recent[0]) == len(ANSWER):
            return []
        rates = [rate for _, _, rate in recent]
        if None not in rates:
            return rates
        mean = fmean(rate for rate in rows[self._train_answer[-1]] if rate is not None)
        return [mean if rate is None else rate for rate in rates]
