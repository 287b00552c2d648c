"""Response bodies: slates, problems and server state as JSON or MessagePack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import numpy as np
import orjson
import ormsgpack
from starlette.responses import Response

from service.engine.rows import Row, Slate
from service.errors import FieldError, ServiceError
from service.http.parsing import MSGPACK, MSGPACK_NAMES, is_msgpack

ALTERNATIVES = 3  # entries of an explanation
MASKED_LOGIT = -1e8  # candidates that may no longer be chosen have logits below it


class JsonResponse(Response):
    """JSON by orjson, which is several times faster than the standard library."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


class MsgpackResponse(Response):
    """MessagePack, about two thirds of the size of the same JSON."""

    media_type = MSGPACK

    def render(self, content: Any) -> bytes:
        return ormsgpack.packb(content)


class ProblemResponse(JsonResponse):
    """An RFC 9457 problem."""

    media_type = "application/problem+json"


def response_class(headers: Mapping[str, str]) -> type[Response]:
    """Choose JSON or MessagePack by the `Accept` header, else by the request's content type."""
    accept = headers.get("accept", "*/*").lower()
    if any(name in accept for name in MSGPACK_NAMES):
        return MsgpackResponse
    if "*/*" in accept and is_msgpack(headers.get("content-type")):
        return MsgpackResponse
    return JsonResponse


def problem_response(error: ServiceError, request_id: str) -> ProblemResponse:
    """Render an error of the service as a problem."""
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return problem_from(
        error.status,
        error.code,
        error.detail,
        request_id,
        error.errors,
        error.retry_after_s,
        headers,
    )


def problem_from(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    errors: Sequence[FieldError] = (),
    retry_after_s: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """Render a problem from its parts, for refusals by the framework (404, 405 with `Allow`)."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if errors:
        body["errors"] = [
            {"field": error.path, "rule": error.rule, "value": error.value_text} for error in errors
        ]
    retry = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return ProblemResponse(body, status_code=status, headers={**(headers or {}), **retry})


def slate_entries(ids: Sequence[str], slate: Slate, row: Row) -> list[dict[str, Any]]:
    """Render the positions of a slate.

    Log-probability and entropies of a pinned position are null: the model chose nothing there.
    """
    entries = []
    figures = np.array([slate.logprob, slate.entropy_before, slate.entropy_after], np.float64)
    columns = (slate.indices, *figures.round(6), slate.steps, row.rules.pinned)
    for position, (index, logprob, before, after, steps, pinned) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        chosen = pinned < 0
        entry = {
            "id": ids[index],
            "position": position,
            "initial_position": index,
            "logprob": logprob if chosen else None,
            "entropy": before if chosen else None,
            "entropy_after": after if chosen else None,
            "reasoning_steps": steps,
        }
        if slate.logits is not None:
            entry["explanation"] = {
                "probability": round(math.exp(logprob), 6) if chosen else None,
                "alternatives": alternatives(ids, slate.logits[position], index, row)
                if chosen
                else [],
                "moved": index - position,
            }
        entries.append(entry)
    return entries


def alternatives(
    ids: Sequence[str], logits: np.ndarray[Any, Any], chosen: int, row: Row
) -> list[dict[str, Any]]:
    """Return the most probable candidates besides the chosen one that were still allowed.

    Args:
        logits: float32 [N], the logits of the position.
        chosen: index of the chosen candidate.
    """
    scaled = logits.astype(np.float64) / row.recommend_temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    order = [
        i for i in np.argsort(-logits, kind="stable")[: ALTERNATIVES + 1].tolist() if i != chosen
    ]
    return [
        {"id": ids[i], "probability": round(float(weights[i]), 6)}
        for i in order[:ALTERNATIVES]
        if logits[i] > MASKED_LOGIT
    ]
