"""From a parsed body to a list of answers: rules, features, batcher, degraded answers."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.batching.admission import PRIORITIES, SHADOW_PRIORITY
from service.batching.batcher import Outcome
from service.engine import constraints
from service.engine.constraints import ConstraintError, Rules
from service.engine.features.candidates import Request
from service.engine.features.encoding import FeatureError
from service.engine.rows import Row, Sampling, Slate
from service.errors import (
    DeadlineExceeded,
    FieldError,
    InferenceFailed,
    InvalidRequest,
    Overloaded,
    ServiceError,
)
from service.http.parsing import Groups, request_of
from service.http.responses import slate_entries
from service.http.schemas import Constraints, RerankRequest
from service.metrics import Metrics
from service.models.fleet import Engine, Fleet
from service.settings import Settings

logger = logging.getLogger("service")

KNOBS = ("entropy_threshold", "reason_temperature", "recommend_temperature")
NOBODY = ServiceError("nobody was asked")


@dataclass(frozen=True)
class Prepared:
    """One list, checked and featurised, and the engine that will answer it."""

    ids: Sequence[str]
    row: Row
    request_id: str
    engine: Engine
    variant: str
    priority: int
    request: Request
    shed: Overloaded | None  # refused before it was featurised


@dataclass(frozen=True)
class Clock:
    """When the call's shared stages ended, by time.monotonic(), in seconds."""

    began: float
    parsed: float
    featurised: float


class Reranker:
    """Answers checked bodies; knows nothing of HTTP but its error types."""

    def __init__(self, settings: Settings, fleet: Fleet, metrics: Metrics) -> None:
        self._settings, self._fleet, self._metrics = settings, fleet, metrics
        self._shadows: set[asyncio.Task[None]] = set()

    def prepare(self, body: RerankRequest, path: str, request_id: str, deadline: float) -> Prepared:
        """Check what only the bundle knows, then featurise. Raises InvalidRequest.

        A plain list that the queue would make late is not featurised: under overload most are.
        """
        user_id = body.user.id if body.user else None
        engine, variant = self._fleet.choose(body.model, user_id, path)
        request, groups = request_of(body, path)
        ids = request.ids
        manifest = engine.manifest
        errors = []
        if len(set(ids)) < len(ids):
            seen: dict[str, int] = {}
            for position, item in enumerate(ids):
                if item in seen:
                    rule = f"unique within the list, already at candidates[{seen[item]}]"
                    errors.append(FieldError(f"{path}candidates[{position}].id", rule, item))
                seen.setdefault(item, position)
        if len(ids) > manifest.max_candidates:
            rule = f"at most {manifest.max_candidates} candidates"
            errors.append(FieldError(f"{path}candidates", rule, len(ids)))
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
        threshold = reasoning.entropy_threshold if reasoning else None
        slates = body.sampling.slates if body.sampling else 1
        plain = not (request.features or request.user or request.context) and not (
            body.constraints and body.constraints.max_per_group
        )
        shed = None
        if plain and engine.batcher.late(slates * len(ids), deadline):
            shed = Overloaded("the lists that wait would take it past its deadline")
            self._metrics.shed.labels("overload").inc()
        try:
            reading = engine.session.row if shed is None else engine.session.unread
            row = reading(request, body.slate_size, budget, threshold)
            row = self._knobs(body, row, longest, request, groups, engine)
        except (FeatureError, ConstraintError) as error:
            broken = FieldError(f"{path}{error.path}", error.rule, error.value)
            raise InvalidRequest.of(broken) from None
        unknown = 0 if shed else engine.session.featuriser.unknown(ids)
        if unknown:
            self._metrics.unknown.inc(unknown)
        return Prepared(
            ids, row, body.request_id or request_id, engine, variant,
            PRIORITIES[body.priority], request, shed,
        )  # fmt: skip

    def _knobs(
        self,
        body: RerankRequest,
        row: Row,
        longest: int,
        request: Request,
        groups: Groups,
        engine: Engine,
    ) -> Row:
        """The row with what the body asks of it beside reasoning. Raises ConstraintError."""
        changed: dict[str, Any] = {}
        if body.temperatures is not None:
            given = body.temperatures
            changed["reason_temperature"] = given.reason or row.reason_temperature
            changed["recommend_temperature"] = given.recommend or row.recommend_temperature
        if body.sampling is not None:
            changed["sampling"] = Sampling(**body.sampling.model_dump())
        if body.constraints is not None:
            size, rules = self._rules(body, body.constraints, row, longest, request, groups, engine)
            changed |= {"slate_size": size, "rules": rules}
        if body.explain:
            changed["explain"] = True
        return dataclasses.replace(row, **changed) if changed else row

    def _rules(
        self,
        body: RerankRequest,
        asked: Constraints,
        row: Row,
        longest: int,
        request: Request,
        given: Groups,
        engine: Engine,
    ) -> tuple[int, Rules]:
        groups, limit = None, next(iter(asked.max_per_group.items()), None)
        if limit is not None:
            name = limit[0]
            values = given.get(name)
            try:
                known: Sequence[int | None] = engine.session.featuriser.groups(name, row.tokens)
            except KeyError:
                if values is None:
                    rule = "a category of the model's schema, or a key of candidates[].groups"
                    raise ConstraintError("constraints.max_per_group", rule, name) from None
                known = [None] * len(request.ids)
            groups = [
                own if value is None else value
                for value, own in zip(values or [None] * len(known), known, strict=True)
            ]
        return constraints.resolve(
            request.ids,
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
        waits: list[asyncio.Future[Outcome] | ServiceError] = [NOBODY for _ in lists]
        together: dict[tuple[int, int], list[int]] = {}
        for index, entry in enumerate(lists):
            if entry.shed is not None:
                waits[index] = entry.shed
                continue
            together.setdefault((id(entry.engine), entry.priority), []).append(index)
        try:
            for (_, priority), indices in together.items():
                rows = [lists[index].row for index in indices]
                ends = [deadlines[index] for index in indices]
                try:
                    found: Sequence[asyncio.Future[Outcome] | ServiceError]
                    found = lists[indices[0]].engine.batcher.submit(rows, ends, priority)
                except Overloaded as error:
                    found = [error] * len(indices)
                for index, future in zip(indices, found, strict=True):
                    waits[index] = future
            outcomes = [
                await self._outcome(wait, end) for wait, end in zip(waits, deadlines, strict=True)
            ]
        finally:
            for wait in waits:
                if isinstance(wait, asyncio.Future) and not wait.cancel() and not wait.cancelled():
                    wait.exception()  # seen: a failure that came when nobody waited is no news
        for entry, outcome in zip(lists, outcomes, strict=True):
            broken = isinstance(outcome, InferenceFailed)
            if broken:
                logger.error("request %s: the model failed", entry.request_id)
            self._fleet.told(entry.engine, broken)
        failed = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
        if failed and self._settings.on_failure == "error":
            raise failed[0]
        for entry, outcome in zip(lists, outcomes, strict=True):
            if isinstance(outcome, Outcome):
                self._beside(entry, outcome)
        return [
            self._response(entry, outcome, clock)
            for entry, outcome in zip(lists, outcomes, strict=True)
        ]

    async def _outcome(
        self, wait: asyncio.Future[Outcome] | ServiceError, deadline: float
    ) -> Outcome | ServiceError:
        if isinstance(wait, ServiceError):
            return wait

        def give_up() -> None:
            if not wait.done():
                wait.set_exception(DeadlineExceeded("the deadline passed during the run"))

        left = max(0.0, deadline - time.monotonic())
        handle = asyncio.get_running_loop().call_later(left, give_up)
        try:
            return await wait
        except (DeadlineExceeded, Overloaded, InferenceFailed) as error:
            return error
        finally:
            handle.cancel()

    def _beside(self, entry: Prepared, outcome: Outcome) -> None:
        """Let the shadow rank the same list, where there is one and it does not get in the way."""
        shadow = self._fleet.shadow_of(entry.engine)
        if shadow is None or entry.row.sampling is not None:
            return
        count = self._metrics.shadow.labels(
            shadow.manifest.name, shadow.manifest.version, "skipped"
        )
        calm = entry.engine.batcher.level >= entry.engine.manifest.budget
        if not calm or outcome.budget < entry.row.budget:
            count.inc()
            return
        task = asyncio.get_running_loop().create_task(self._compare(entry, outcome.slate, shadow))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _compare(self, entry: Prepared, slate: Slate, shadow: Engine) -> None:
        manifest, outcome = shadow.manifest, "failed"
        try:
            row = shadow.session.row(entry.request)
            size = min(entry.row.slate_size, row.slate_size)
            asked: dict[str, Any] = {
                knob: value
                for knob in KNOBS
                if (value := getattr(entry.row, knob)) != getattr(entry.engine.manifest, knob)
            }
            row = dataclasses.replace(
                row,
                slate_size=size,
                rules=entry.row.rules,
                budget=min(row.budget, entry.row.budget),
                **asked,
            )
            if size == entry.row.slate_size:
                end = time.monotonic() + self._settings.timeout_ms / 1e3
                (future,) = shadow.batcher.submit([row], [end], SHADOW_PRIORITY)
                answered = await future
                mine, theirs = slate.indices.tolist(), answered.slate.indices.tolist()
                if answered.budget < row.budget:
                    outcome = "skipped"
                elif mine == theirs:
                    outcome = "same_slate"
                else:
                    outcome = "same_items" if set(mine) == set(theirs) else "different"
            else:
                outcome = "skipped"
        except (Overloaded, DeadlineExceeded):
            outcome = "skipped"
        except Exception:  # a shadow may do anything but be noticed
            logger.exception("shadow %s/%s", manifest.name, manifest.version)
        self._metrics.shadow.labels(manifest.name, manifest.version, outcome).inc()

    def _response(
        self, entry: Prepared, outcome: Outcome | ServiceError, clock: Clock
    ) -> dict[str, Any]:
        manifest, row = entry.engine.manifest, entry.row
        queue = inference = 0.0
        reason = utility = None
        budget = row.budget
        if isinstance(outcome, Outcome):
            slate, queue, inference = outcome.slate, outcome.queue_s, outcome.inference_s
            utility = slate.utility if slate.utility is None else round(slate.utility, 6)
            if outcome.budget < row.budget:
                budget, reason = outcome.budget, "reduced_budget"
            entries = slate_entries(entry.ids, slate, row)
            used = int(slate.steps.sum())
        else:
            reason = outcome.code
            queue = time.monotonic() - clock.featurised  # it waited, whether in a queue or a run
            used = 0
            entries = [
                {
                    "id": entry.ids[index], "position": position, "initial_position": index,
                    "logprob": None, "entropy": None, "entropy_after": None, "reasoning_steps": 0,
                }
                for position, index in enumerate(row.rules.initial_ranking(row.slate_size))
            ]  # fmt: skip
            if row.explain:
                for told in entries:
                    moved = told["initial_position"] - told["position"]
                    told["explanation"] = {"probability": None, "alternatives": [], "moved": moved}
        if reason is not None:
            self._metrics.degraded.labels(reason).inc()
        now = time.monotonic()
        parts = {
            "parse": clock.parsed - clock.began,
            "features": clock.featurised - clock.parsed,
            "queue": queue,
            "inference": inference,
        }
        parts["respond"] = max(0.0, now - clock.began - sum(parts.values()))
        metrics = self._metrics
        for stage, seconds in parts.items():
            metrics.stages[stage].observe(seconds)
        metrics.duration.observe(now - clock.began)
        metrics.steps.observe(used)
        metrics.list_size.observe(len(entry.ids))
        outcomes = {None: "ok", "reduced_budget": "reduced_budget"}
        metrics.requests.labels(
            manifest.name, manifest.version, entry.variant, outcomes.get(reason, "degraded")
        ).inc()
        return {
            "request_id": entry.request_id,
            "model": {
                "name": manifest.name, "version": manifest.version, "variant": entry.variant,
            },
            "slate": entries,
            "reasoning": {
                "steps_used": used,
                "budget": budget * row.slate_size,
                "budget_per_position": budget,
                "budget_asked": row.budget,
                "entropy_threshold": round(row.entropy_threshold, 6),
            },
            "utility": utility,
            "latency_ms": {
                "total": round(1e3 * (now - clock.began), 3),
                **{stage: round(1e3 * seconds, 3) for stage, seconds in parts.items()},
            },
            "degraded": None if reason is None else {"reason": reason},
        }  # fmt: skip

    def refused(self, error: bool) -> None:
        """Count a call that got no list back: `error` ours, else the client's."""
        lineup = self._fleet.lineups.get(self._fleet.default_name())
        manifest = lineup.active.manifest if lineup else None
        names = (manifest.name, manifest.version) if manifest else ("", "")
        outcome = "error" if error else "client_error"
        self._metrics.requests.labels(*names, "active", outcome).inc()

    def deadline(self, began: float, timeouts: Sequence[float | None]) -> float:
        """The smallest of the given timeouts (ms) and the server's, as a monotonic time."""
        given = [timeout for timeout in timeouts if timeout is not None and math.isfinite(timeout)]
        return began + min([*given, self._settings.timeout_ms]) / 1e3
