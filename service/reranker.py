"""From a parsed body to a list of answers: rules, features, batcher, degraded answers."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service import constraints
from service.batcher import Batcher, Outcome
from service.constraints import ConstraintError, Rules
from service.errors import (
    DeadlineExceeded,
    FieldError,
    InferenceFailed,
    InvalidRequest,
    Overloaded,
    ServiceError,
)
from service.features import FeatureError, Request
from service.metrics import Metrics
from service.schemas import Constraints, RerankRequest
from service.session import Row, Sampling, Session
from service.settings import Settings

logger = logging.getLogger("service")

T = TypeVar("T", bound=BaseModel)
REQUEST_FIELDS = {"user", "context", "candidates"}  # what the featuriser reads of a body


@dataclass(frozen=True)
class Prepared:
    """One list, checked and featurised."""

    ids: Sequence[str]
    row: Row
    request_id: str


@dataclass(frozen=True)
class Clock:
    """When the call's shared stages ended, by time.monotonic(), in seconds."""

    began: float
    parsed: float
    featurised: float


class Reranker:
    """Answers checked bodies; knows nothing of HTTP but its error types."""

    def __init__(
        self, settings: Settings, session: Session, batcher: Batcher, metrics: Metrics
    ) -> None:
        self._settings, self._session = settings, session
        self._batcher, self._metrics = batcher, metrics

    def prepare(self, body: RerankRequest, path: str, request_id: str) -> Prepared:
        """Check what only the bundle knows, then featurise. Raises InvalidRequest."""
        manifest = self._session.manifest
        ids = [candidate.id for candidate in body.candidates]
        errors = []
        seen: dict[str, int] = {}
        for position, item in enumerate(ids):
            if item in seen:
                rule = f"unique within the list, already at candidates[{seen[item]}]"
                errors.append(FieldError(f"{path}candidates[{position}].id", rule, item))
            seen.setdefault(item, position)
        longest = min(len(ids), manifest.slate_length)
        if body.slate_size is not None and body.slate_size > longest:
            rule = f"at most {longest}, the lesser of candidates and the bundle's slate length"
            errors.append(FieldError(f"{path}slate_size", rule, body.slate_size))
        reasoning = body.reasoning
        budget = reasoning.budget if reasoning else None
        if budget is not None and budget > manifest.budget:
            rule = f"at most {manifest.budget}, the budget of the bundle's graph"
            errors.append(FieldError(f"{path}reasoning.budget", rule, budget))
        if errors:
            raise InvalidRequest.of(*errors)
        request = Request.from_json(body.model_dump(include=REQUEST_FIELDS))
        threshold = reasoning.entropy_threshold if reasoning else None
        try:
            row = self._session.row(request, body.slate_size, budget, threshold)
            row = self._knobs(body, row, longest)
        except (FeatureError, ConstraintError) as error:
            broken = FieldError(f"{path}{error.path}", error.rule, error.value)
            raise InvalidRequest.of(broken) from None
        self._metrics.unknown.inc(self._session.featuriser.unknown(ids))
        return Prepared(ids, row, body.request_id or request_id)

    def _knobs(self, body: RerankRequest, row: Row, longest: int) -> Row:
        """The row with what the body asks of it beside reasoning. Raises ConstraintError."""
        if body.temperatures is not None:
            reason, recommend = body.temperatures.reason, body.temperatures.recommend
            row = dataclasses.replace(
                row,
                reason_temperature=reason or row.reason_temperature,
                recommend_temperature=recommend or row.recommend_temperature,
            )
        if body.sampling is not None:
            row = dataclasses.replace(row, sampling=Sampling(**body.sampling.model_dump()))
        if body.constraints is not None:
            size, rules = self._rules(body, body.constraints, row, longest)
            row = dataclasses.replace(row, slate_size=size, rules=rules)
        return row

    def _rules(
        self, body: RerankRequest, asked: Constraints, row: Row, longest: int
    ) -> tuple[int, Rules]:
        groups, limit = None, next(iter(asked.max_per_group.items()), None)
        if limit is not None:
            name = limit[0]
            try:
                known: list[int | None] = self._session.featuriser.groups(name, row.tokens)
            except KeyError:
                if not any(name in candidate.groups for candidate in body.candidates):
                    rule = "a category of the model's schema, or a key of candidates[].groups"
                    raise ConstraintError("constraints.max_per_group", rule, name) from None
                known = [None] * len(body.candidates)
            groups = [
                candidate.groups.get(name, value)
                for candidate, value in zip(body.candidates, known, strict=True)
            ]
        return constraints.resolve(
            [candidate.id for candidate in body.candidates],
            body.slate_size,
            longest,
            asked.pinned,
            set(asked.blocked),
            groups,
            limit,
        )

    async def answer(
        self, lists: Sequence[Prepared], deadlines: Sequence[float], clock: Clock
    ) -> list[dict[str, Any]]:
        """Responses in order. Raises what failed when `on_failure` is error."""
        futures: list[asyncio.Future[Outcome]] = []
        outcomes: Sequence[Outcome | ServiceError]
        try:
            futures = self._batcher.submit([entry.row for entry in lists], deadlines)
            outcomes = await asyncio.gather(*map(self._outcome, futures, deadlines))
        except Overloaded as error:
            outcomes = [error] * len(lists)
        finally:
            for future in futures:
                future.cancel()
        for entry, outcome in zip(lists, outcomes, strict=True):
            if isinstance(outcome, InferenceFailed):
                logger.error("request %s: the model failed", entry.request_id)
        failed = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
        if failed and self._settings.on_failure == "error":
            raise failed[0]
        return [
            self._response(entry, outcome, clock)
            for entry, outcome in zip(lists, outcomes, strict=True)
        ]

    async def _outcome(
        self, future: asyncio.Future[Outcome], deadline: float
    ) -> Outcome | ServiceError:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await future
        except TimeoutError:
            return DeadlineExceeded("the deadline passed during the run")
        except (DeadlineExceeded, InferenceFailed) as error:
            return error

    def _response(
        self, entry: Prepared, outcome: Outcome | ServiceError, clock: Clock
    ) -> dict[str, Any]:
        manifest, row = self._session.manifest, entry.row
        queue = inference = 0.0
        degraded = utility = None
        if isinstance(outcome, Outcome):
            slate, queue, inference = outcome.slate, outcome.queue_s, outcome.inference_s
            utility = slate.utility if slate.utility is None else round(slate.utility, 6)
            columns = zip(
                slate.indices.tolist(),
                slate.logprob.tolist(),
                slate.entropy_before.tolist(),
                slate.entropy_after.tolist(),
                slate.steps.tolist(),
                strict=True,
            )
            positions: list[tuple[int, float | None, float | None, float | None, int]] = [
                (index, round(logprob, 6), round(before, 6), round(after, 6), steps)
                for index, logprob, before, after, steps in columns
            ]
        else:
            degraded = {"reason": outcome.code}
            queue = time.monotonic() - clock.featurised  # it waited, whether in a queue or a run
            ranking = row.rules.initial_ranking(row.slate_size)
            positions = [(index, None, None, None, 0) for index in ranking]
            self._metrics.degraded.labels(outcome.code).inc()
        used = sum(position[-1] for position in positions)
        now = time.monotonic()
        parts = {
            "parse": clock.parsed - clock.began,
            "features": clock.featurised - clock.parsed,
            "queue": queue,
            "inference": inference,
        }
        parts["respond"] = max(0.0, now - clock.began - sum(parts.values()))
        for stage, seconds in parts.items():
            self._metrics.stage.labels(stage).observe(seconds)
        self._metrics.duration.observe(now - clock.began)
        self._metrics.steps.observe(used)
        self._metrics.list_size.observe(len(entry.ids))
        self.count("degraded" if degraded else "ok")
        return {
            "request_id": entry.request_id,
            "model": {"name": manifest.name, "version": manifest.version},
            "slate": [
                {
                    "id": entry.ids[index],
                    "position": position,
                    "initial_position": index,
                    "logprob": logprob,
                    "entropy": before,
                    "entropy_after": after,
                    "reasoning_steps": steps,
                }
                for position, (index, logprob, before, after, steps) in enumerate(positions)
            ],
            "reasoning": {
                "steps_used": used,
                "budget": row.budget * row.slate_size,
                "budget_per_position": row.budget,
                "entropy_threshold": round(row.entropy_threshold, 6),
            },
            "utility": utility,
            "latency_ms": {
                "total": round(1e3 * (now - clock.began), 3),
                **{stage: round(1e3 * seconds, 3) for stage, seconds in parts.items()},
            },
            "degraded": degraded,
        }

    def count(self, outcome: str, lists: int = 1) -> None:
        """Count answered lists by outcome."""
        manifest = self._session.manifest
        self._metrics.requests.labels(manifest.name, manifest.version, outcome).inc(lists)

    def deadline(self, began: float, timeouts: Sequence[float | None]) -> float:
        """The smallest of the given timeouts (ms) and the server's, as a monotonic time."""
        given = [timeout for timeout in timeouts if timeout is not None and math.isfinite(timeout)]
        return began + min([*given, self._settings.timeout_ms]) / 1e3


def validated(model: type[T], payload: Any) -> T:
    """The payload as model. Raises InvalidRequest naming every broken field."""
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        errors = [
            FieldError(
                path_of(entry["loc"]),
                RULES.get(entry["type"], entry["msg"]),
                "nothing" if entry["type"] == "missing" else entry["input"],
            )
            for entry in error.errors(include_url=False, include_context=False)[:20]
        ]
        raise InvalidRequest.of(*errors) from None


RULES = {
    "extra_forbidden": "unknown field",
    "missing": "required",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "too_short": "at least one entry",
}


def path_of(location: Sequence[str | int]) -> str:
    """("candidates", 3, "id") -> candidates[3].id"""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"
