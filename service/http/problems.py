"""Refusals as problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from service.errors import FieldError, ServiceError
from service.http.responses import JsonResponse

# Headers of a refusal that say what the service accepts.
REMEDIES = {401: {"WWW-Authenticate": "Bearer"}, 415: {"Accept-Encoding": "identity"}}


class ProblemResponse(JsonResponse):
    """An RFC 9457 problem."""

    media_type = "application/problem+json"


def problem_response(error: ServiceError, request_id: str) -> ProblemResponse:
    """Render an error of the service as a problem."""
    headers = REMEDIES.get(error.status)
    return problem_from(
        error.status,
        error.code,
        error.detail,
        request_id,
        error.errors,
        error.retry_after_s,
        headers,
        error.members,
    )


def problem_from(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    errors: Sequence[FieldError] = (),
    retry_after_s: int | None = None,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> ProblemResponse:
    """Render a problem from its parts, for refusals by the framework (404, 405 with `Allow`)."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        **(members or {}),
    }
    if errors:
        body["errors"] = [
            {"field": error.path, "rule": error.rule, "value": error.value_text} for error in errors
        ]
    retry = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return ProblemResponse(body, status_code=status, headers={**(headers or {}), **retry})
