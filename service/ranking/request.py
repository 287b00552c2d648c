"""The input of the re-ranker: one candidate list and the options of its request."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from service.engine.contract import Floats
from service.engine.features.candidates import CandidateList
from service.engine.intent import DiversityTerm
from service.engine.rows import SlateSampling
from service.state.store import ListLookup

T = TypeVar("T")

CANDIDATE_FIELD = re.compile(r"candidates\[(?P<index>\d+)\]\.(?P<field>.*)", re.DOTALL)


@dataclass(frozen=True)
class RequestedConstraints:
    """Constraints on one slate, as the client stated them.

    pinned maps a candidate id to its position. limit is an attribute and the maximum number of
    items per value of it; groups holds the values that the request gives, one per candidate.
    """

    pinned: Mapping[str, int]
    blocked: Collection[str]
    limit: tuple[str, int] | None
    groups: Mapping[str, Sequence[str | None]]


StatedValues = Sequence[tuple[str, ...] | None]


@dataclass(frozen=True)
class RequestedIntent:
    """The intent about one list, as the client stated it.

    fields: path of each term below the request. values: for each term's attribute the distinct
    values that the request gives per candidate, None where it gives none. boosts: float32 [N] in
    nats, None if no candidate has one.
    """

    terms: Sequence[DiversityTerm]
    fields: Sequence[str]
    values: Mapping[str, StatedValues | None]
    boosts: Floats | None


# Built for every list and not frozen: a frozen dataclass takes seven times as long to build.
@dataclass(slots=True)
class RankingRequest:
    """One candidate list to rank. None stands for the default of the bundle.

    path is the prefix of field paths in errors, such as "requests[3]."; deadline is a time of
    time.monotonic(); form is that of the candidates in the body. lookup is that of the list in the
    entity store, None without one; has_history is true if the request states a history, be
    it empty. explain_steps: with `explain`, the states of reasoning as well.
    """

    inputs: CandidateList
    request_id: str
    path: str
    deadline: float
    model: str | None = None
    slate_size: int | None = None
    budget: int | None = None
    entropy_threshold: float | None = None
    reason_temperature: float | None = None
    recommend_temperature: float | None = None
    sampling: SlateSampling | None = None
    constraints: RequestedConstraints | None = None
    intent: RequestedIntent | None = None
    form: Literal["records", "ids", "columns"] = "records"
    priority: str = "interactive"
    explain: bool = False
    explain_steps: bool = False
    lookup: ListLookup | None = None
    has_history: bool = False

    def field(self, path: str) -> str:
        """Return the path of a field of a record as the client sent it, in the form of the request.

        `candidates[3].features.price` is `candidates.features.price[3]` in columns, and
        `candidates[3].id` is `candidates[3]` if candidates are ids alone.
        """
        record = CANDIDATE_FIELD.fullmatch(path)
        if record is not None and self.form == "columns":
            path = f"candidates.{record['field']}[{record['index']}]"
        elif record is not None and self.form == "ids" and record["field"] == "id":
            path = f"candidates[{record['index']}]"
        return f"{self.path}{path}"

    @property
    def volume(self) -> int:
        """Slates times candidates, which the time of a run grows with."""
        slates = self.sampling.slates if self.sampling else 1
        return slates * len(self.inputs.ids)

    @property
    def cheap_to_shed(self) -> bool:
        """True if nothing but the ids and the session's own checks can make the list invalid."""
        inputs, constraints = self.inputs, self.constraints
        if inputs.inline or inputs.history_features or inputs.user or inputs.context:
            return False
        if self.intent is not None and self.intent.terms:
            return False
        return constraints is None or constraints.limit is None


def first_values(preferred: Sequence[T | None], others: Sequence[T]) -> list[T]:
    """Return each candidate's preferred value, or the other one where that is None."""
    return [
        other if value is None else value for value, other in zip(preferred, others, strict=True)
    ]
