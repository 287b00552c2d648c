"""Refusals as problem+json (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from service.errors import FieldError, ServiceError, StoreFull, StoreUnavailable
from service.http.responses import JsonResponse
from service.state.errors import EngineError, StateFull, StateNewer

logger = logging.getLogger("service")

# Headers of a refusal that say what the service accepts.
REMEDIES = {401: {"WWW-Authenticate": "Bearer"}, 415: {"Accept-Encoding": "identity"}}


class ProblemResponse(JsonResponse):
    """An RFC 9457 problem."""

    media_type = "application/problem+json"


def refusal_by_store(error: EngineError) -> ServiceError:
    """Return the refusal for an error of the entity store; the log has the cause."""
    logger.warning("entity store: %s", error)
    if isinstance(error, StateFull):
        return StoreFull("the entity store has no room for all of this write; a part may be kept")
    if isinstance(error, StateNewer):
        return StoreUnavailable(
            "an entity was written by a later version of the service, and is kept; send the "
            "request again later, or update this service"
        )
    return StoreUnavailable("the entity store does not respond; send the request again later")


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
