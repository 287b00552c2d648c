"""Dataclasses of a response, parsed from the JSON of the service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from rerank_client.checks import ItemId, id_text
from rerank_client.errors import FieldProblem, Refused


@dataclass(frozen=True, slots=True)
class Position:
    """One position of the slate, counted from 0; its figures are None in a degraded response.

    id: as the service sent it, which is as the request had it.
    initial_position: index among the candidates. logprob: log-probability of this choice. entropy
    and entropy_after: nats, before any reasoning step and after the last. explanation: with
    `explain=True` the keys `probability`, `alternatives`, `moved`, `boost`, `diversity` and
    `instead_of`; with `explain="steps"` also `steps`.
    """

    id: ItemId
    position: int
    initial_position: int
    logprob: float | None = None
    entropy: float | None = None
    entropy_after: float | None = None
    reasoning_steps: int = 0
    explanation: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """The bundle that ranked the list."""

    name: str
    version: str
    variant: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning steps of a slate.

    steps_used: steps taken over the slate. budget: most steps over the slate.
    budget_per_position: steps granted per position. budget_asked: steps per position that the
    request asked for. entropy_threshold: nats.
    """

    steps_used: int
    budget: int
    budget_per_position: int
    budget_asked: int
    entropy_threshold: float


@dataclass(frozen=True, slots=True)
class RerankResponse:
    """A slate, best first.

    degraded: None, or `reduced_budget` if the service granted fewer reasoning steps than
    requested, or `state` if it ranked without its entity store. Otherwise the reason for returning
    the initial ranking: `deadline`, `overload` or `model_error` from the service, or `client: `
    followed by the reason of a NoAnswer. A response made by the client has neither model nor
    reasoning.
    latency_ms: `total` and its parts at the service, or the time that the client spent.
    raw: the JSON of the service, including keys without a field here; empty if there was none.
    unknown_candidates: candidates whose id the model does not know; None without the service.
    steps_missing: with `explain="steps"`, the reason for a slate without steps: `not_ranked`,
    `opening`, `deadline`, `overload` or `model_error`.
    """

    slate: tuple[Position, ...]
    request_id: str
    model: Model | None
    reasoning: Reasoning | None
    latency_ms: Mapping[str, float]
    degraded: str | None
    raw: Mapping[str, Any] = field(repr=False)
    unknown_candidates: int | None = None
    steps_missing: str | None = None

    @property
    def ids(self) -> tuple[ItemId, ...]:
        """The item ids of the slate, best first."""
        return tuple(entry.id for entry in self.slate)


def parse_responses(content: bytes, lists: int | None) -> list[RerankResponse]:
    """Parse the body of a 200: one list for `lists=None`, otherwise a batch of `lists` lists.

    Raises ValueError if the body is something else.
    """
    try:
        payload = json.loads(content)
        raws = [payload] if lists is None else payload["responses"]
        if len(raws) != (lists or 1):
            raise ValueError(f"responses: expected {lists} entries, one per list, got {len(raws)}")
        return [_parse_response(raw) for raw in raws]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _parse_response(raw: Mapping[str, Any]) -> RerankResponse:
    degraded, model, reasoning = raw["degraded"], raw["model"], raw["reasoning"]
    return RerankResponse(
        slate=tuple(
            Position(
                entry["id"],
                entry["position"],
                entry["initial_position"],
                entry["logprob"],
                entry["entropy"],
                entry["entropy_after"],
                entry["reasoning_steps"],
                entry.get("explanation"),
            )
            for entry in raw["slate"]
        ),
        request_id=raw["request_id"],
        model=Model(model["name"], model["version"], model["variant"]),
        reasoning=Reasoning(
            reasoning["steps_used"],
            reasoning["budget"],
            reasoning["budget_per_position"],
            reasoning["budget_asked"],
            reasoning["entropy_threshold"],
        ),
        latency_ms=dict(raw["latency_ms"]),
        degraded=None if degraded is None else str(degraded["reason"]),
        raw=raw,
        unknown_candidates=raw.get("unknown_candidates"),
        steps_missing=raw.get("steps_missing"),
    )


def describe_mix_up(
    response: RerankResponse, request_id: str, candidates: Sequence[Mapping[str, Any]]
) -> str | None:
    """Describe why the response belongs to another request, or return None if it does not.

    Its request id must be that of the request, and each id of its slate that of the candidate at
    `initial_position`, because callers may give several requests one id.
    """
    if response.request_id != request_id:
        return f"request_id: expected {request_id!r}, got {response.request_id!r}"
    for entry in response.slate:
        index = entry.initial_position
        within = isinstance(index, int) and 0 <= index < len(candidates)
        if not within or id_text(candidates[index]["id"]) != id_text(entry.id):
            return f"slate[{entry.position}]: {entry.id!r} is not the id of candidate {index}"
    return None


def parse_problem(status: int, content: bytes, request_id: str) -> Refused:
    """Parse a 4xx; without problem+json (the page of a proxy, say) only the status is known."""
    try:
        problem = json.loads(content)
        return Refused(
            status,
            problem["code"],
            problem["detail"],
            problem["request_id"],
            [
                FieldProblem(entry["field"], entry["rule"], entry["value"])
                for entry in problem.get("errors", [])
            ],
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        standard = status in HTTPStatus._value2member_map_
        detail = HTTPStatus(status).phrase if standard else "the body is not problem+json"
        return Refused(status, f"http_{status}", detail, request_id)
