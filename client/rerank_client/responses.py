"""What comes back, as dataclasses, and how the service's JSON becomes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from rerank_client.errors import FieldProblem, Refused


@dataclass(frozen=True, slots=True)
class Position:
    """One position of the slate, counted from 0; the figures are None in a degraded answer.

    initial_position: the index among the candidates; logprob: of this choice; entropy,
    entropy_after: nats, before any reasoning and when the item was chosen; explanation: where
    it was asked for, `probability`, `alternatives` and `moved`.
    """

    id: str
    position: int
    initial_position: int
    logprob: float | None = None
    entropy: float | None = None
    entropy_after: float | None = None
    reasoning_steps: int = 0
    explanation: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """Which bundle answered."""

    name: str
    version: str
    variant: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Steps taken over the slate and granted, over the slate and per position.

    budget_asked: per position; the threshold is in nats.
    """

    steps_used: int
    budget: int
    budget_per_position: int
    budget_asked: int
    entropy_threshold: float


@dataclass(frozen=True, slots=True)
class RerankResponse:
    """A slate, best first.

    degraded: None, or `reduced_budget` where it was reasoned about less than asked, or why this is
    the initial ranking: the service's `deadline`, `overload` or `model_error`, or
    `client: ` and a reason of NoAnswer. Made by the client, it has no model and no reasoning.
    latency_ms: `total` and its parts at the service, or the time spent here.
    raw: the answer as it came, with what has no field here; empty if there was none.
    """

    slate: tuple[Position, ...]
    request_id: str
    model: Model | None
    reasoning: Reasoning | None
    latency_ms: Mapping[str, float]
    degraded: str | None
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids alone, in order."""
        return tuple(entry.id for entry in self.slate)


def parse_responses(content: bytes, lists: int | None) -> list[RerankResponse]:
    """The answer to one list (None) or to so many in a batch. Raises ValueError if it is not."""
    try:
        payload = json.loads(content)
        raws = [payload] if lists is None else payload["responses"]
        if len(raws) != (lists or 1):
            raise ValueError(f"{len(raws)} answers to {lists} lists")
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
    )


def parse_problem(status: int, content: bytes, request_id: str) -> Refused:
    """The problem that a 4xx tells; what is not problem+json (a proxy's page) tells its status."""
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
        detail = HTTPStatus(status).phrase if standard else "no problem+json in the answer"
        return Refused(status, f"http_{status}", detail, request_id)
