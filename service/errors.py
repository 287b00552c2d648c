"""Everything that can go wrong with a request, and the one table of how it is told.

    ServiceError
    |- BadRequest           400 bad_json         the body is not the JSON or MessagePack it says
    |- Unauthorized         401 unauthorized     no API key
    |- Forbidden            403 forbidden        a key that is not known
    |- SlowClient           408 timeout          the body took too long to arrive
    |- Conflict             409 conflict         a change of models that cannot be made
    |- PayloadTooLarge      413 payload_too_large
    |- UnsupportedMedia     415 unsupported_media_type
    |- InvalidRequest       422 invalid_request  fields that break a rule; every one is named
    |- QuotaExceeded        429 quota            the key's lists per second are used up
    |- NotReady             503 not_ready        still loading, or draining
    |- Overloaded           503 overload         the queue is full
    |- DeadlineExceeded     504 deadline         no time left for an answer
    `- InferenceFailed      500 model_error      the graph failed or answered no slate

Each is answered as problem+json (RFC 9457) with `code` and `request_id`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import orjson
from fastapi.responses import Response

SHOWN = 100  # characters of a refused value that are told back


class JsonResponse(Response):
    """JSON by orjson: several times faster than the standard library's."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


class ProblemResponse(JsonResponse):
    """An RFC 9457 problem."""

    media_type = "application/problem+json"


@dataclass(frozen=True)
class FieldError:
    """One broken rule: the field's path as in the request, the rule, the given value."""

    field: str
    rule: str
    value: object

    def as_dict(self) -> dict[str, str]:
        """For the problem's `errors`: the value as JSON, cut where it is long."""
        try:
            text = json.dumps(self.value, ensure_ascii=False, default=repr)
        except RecursionError:  # nested deeper than Python writes
            text = f"a deeply nested {type(self.value).__name__}"
        text = text.encode("utf-8", "replace").decode("utf-8")
        shown = text if len(text) <= SHOWN else text[:SHOWN] + "..."
        return {"field": self.field[: SHOWN * 2], "rule": self.rule, "value": shown}


class ServiceError(Exception):
    """Base of all; `detail` is safe to show to a client."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retry_after_s: int | None = None

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail, self.errors = detail, tuple(errors)


class BadRequest(ServiceError):
    """The body cannot be read as what it says it is."""

    status, code = 400, "bad_json"


class Unauthorized(ServiceError):
    """No API key was sent."""

    status, code = 401, "unauthorized"


class Forbidden(ServiceError):
    """The API key is not known."""

    status, code = 403, "forbidden"


class SlowClient(ServiceError):
    """The body did not arrive in time."""

    status, code = 408, "timeout"


class Conflict(ServiceError):
    """A change of models that cannot be made; what is served goes on."""

    status, code = 409, "conflict"


class UnsupportedMedia(ServiceError):
    """A body of a type that is not read here."""

    status, code = 415, "unsupported_media_type"


class PayloadTooLarge(ServiceError):
    """The body is over the limit."""

    status, code = 413, "payload_too_large"


class InvalidRequest(ServiceError):
    """One or more fields break a rule."""

    status, code = 422, "invalid_request"

    @classmethod
    def of(cls, *errors: FieldError) -> InvalidRequest:
        """One problem for all the fields; its detail tells the first."""
        first = errors[0].as_dict()
        return cls(f"{first['field']}: {first['rule']}, got {first['value']}", errors)


class QuotaExceeded(ServiceError):
    """The client asks for more than its quota."""

    status, code = 429, "quota"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class NotReady(ServiceError):
    """No model is ready."""

    status, code = 503, "not_ready"
    retry_after_s = 1


class Overloaded(ServiceError):
    """More requests wait than the queue holds."""

    status, code = 503, "overload"
    retry_after_s = 1


class DeadlineExceeded(ServiceError):
    """The time given ran out before the answer."""

    status, code = 504, "deadline"


class InferenceFailed(ServiceError):
    """The model failed; the cause is in the log, not in the answer."""

    status, code = 500, "model_error"


def problem(error: ServiceError, request_id: str) -> ProblemResponse:
    """The answer that tells this error."""
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return problem_of(
        error.status,
        error.code,
        error.detail,
        request_id,
        error.errors,
        error.retry_after_s,
        headers,
    )


def problem_of(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    errors: Sequence[FieldError] = (),
    retry_after_s: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """A problem from its parts, for what the framework refuses (404, 405 with its Allow)."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if errors:
        body["errors"] = [entry.as_dict() for entry in errors]
    more = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return ProblemResponse(body, status_code=status, headers={**(headers or {}), **more})
