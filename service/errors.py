"""Every error that the service reports to a client, as one exception tree.

    ServiceError
    |- BadHttp              400 bad_http         the request is not valid HTTP
    |- BadRequest           400 bad_json         the body is not valid JSON or MessagePack
    |- Unauthorized         401 unauthorized     the request has no API key
    |- Forbidden            403 forbidden        the API key is not in the key file
    |- SlowClient           408 timeout          the body took too long to arrive
    |- NotFound             404 not_found        the route is off
    |- UnknownEntity        404 unknown_entity   the entity store has no such user or item
    |- Conflict             409 conflict         the served models cannot be changed as requested
    |- PayloadTooLarge      413 payload_too_large
    |- TargetTooLong        414 target_too_long
    |- UnsupportedMedia     415 unsupported_media_type
    |- InvalidRequest       422 invalid_request  fields break a rule; each one is named
    |- QuotaExceeded        429 quota            the key's lists per second are used up
    |- HeadTooLarge         431 head_too_large   headers, trailers or chunk extensions are too large
    |- NotReady             503 not_ready        the service is loading or draining
    |- Overloaded           503 overload         the queue is full, or too long for the deadline
    |- StoreUnavailable     503 state_unavailable  the entity store does not respond
    |- StoreFull            507 state_full       the entity store has no room for a write
    |- StoreCorrupt         500 state_corrupt    the entity has bytes that no store has written
    |- DeadlineExceeded     504 deadline         no time is left for a response
    |- InferenceFailed      500 model_error      the graph failed or returned no valid slate
    |- CodingNotSupported   501 bad_http         the body has a transfer coding besides chunked
    `- VersionNotSupported  505 bad_http         the request names another version of HTTP

`service.http.problems` renders each as problem+json (RFC 9457) with `code` and `request_id`.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

MAX_VALUE = 100  # characters of a refused value that are repeated to the client
MAX_FIELD = 200  # characters of a field path


@dataclass(frozen=True)
class FieldError:
    """One broken rule: the field's path as in the request, the rule and the rejected value."""

    field: str
    rule: str
    value: object

    @property
    def path(self) -> str:
        """The field's path, truncated to MAX_FIELD characters."""
        return self.field[:MAX_FIELD]

    @property
    def value_text(self) -> str:
        """The rejected value as JSON text, truncated to MAX_VALUE characters."""
        try:
            text = json.dumps(self.value, ensure_ascii=False, default=repr)
        except RecursionError:  # nested deeper than Python writes
            text = f"a deeply nested {type(self.value).__name__}"
        except TypeError:  # a key of bytes or a list, which MessagePack allows
            text = json.dumps(reprlib.repr(self.value), ensure_ascii=False)
        text = text.encode("utf-8", "replace").decode("utf-8")
        return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "..."


class ServiceError(Exception):
    """Base class; `detail` is safe to send to a client.

    members: further members of the problem.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retry_after_s: int | None = None
    members: Mapping[str, object] = {}

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail, self.errors = detail, tuple(errors)


class BadHttp(ServiceError):
    """The request is not valid HTTP; the start of the next one is unknown."""

    status, code = 400, "bad_http"


class BadRequest(ServiceError):
    """The body cannot be decoded as its content type says."""

    status, code = 400, "bad_json"


class Unauthorized(ServiceError):
    """The request has no API key."""

    status, code = 401, "unauthorized"


class Forbidden(ServiceError):
    """The API key is not in the key file."""

    status, code = 403, "forbidden"


class SlowClient(ServiceError):
    """The body did not arrive in time."""

    status, code = 408, "timeout"


class NotFound(ServiceError):
    """The route is off in this service."""

    status, code = 404, "not_found"


class UnknownEntity(ServiceError):
    """The entity store has no such user or item."""

    status, code = 404, "unknown_entity"


class Conflict(ServiceError):
    """The served models cannot be changed as requested; the service keeps serving as before."""

    status, code = 409, "conflict"


class UnsupportedMedia(ServiceError):
    """The body has an encoding that the service does not read."""

    status, code = 415, "unsupported_media_type"


class PayloadTooLarge(ServiceError):
    """The body is over the size limit."""

    status, code = 413, "payload_too_large"


class TargetTooLong(ServiceError):
    """The request target is over its limit."""

    status, code = 414, "target_too_long"


class InvalidRequest(ServiceError):
    """One or more fields break a rule."""

    status, code = 422, "invalid_request"

    @classmethod
    def of(cls, *errors: FieldError) -> InvalidRequest:
        """Combine field errors; the detail names the first one."""
        first = errors[0]
        return cls(f"{first.path}: {first.rule}, got {first.value_text}", errors)


class QuotaExceeded(ServiceError):
    """The client sent more lists per second than its quota allows."""

    status, code = 429, "quota"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class HeadTooLarge(ServiceError):
    """A header, the head as a whole, or what surrounds a chunked body is over its limit."""

    status, code = 431, "head_too_large"


class NotReady(ServiceError):
    """No model is ready."""

    status, code = 503, "not_ready"
    retry_after_s = 1


class Overloaded(ServiceError):
    """The queue is full, or too long for the list's deadline."""

    status, code = 503, "overload"
    retry_after_s = 1


class StoreUnavailable(ServiceError):
    """The entity store does not respond; what was not acknowledged may not be kept."""

    status, code = 503, "state_unavailable"
    retry_after_s = 1


class StoreFull(ServiceError):
    """The entity store has no room for all of a write; Redis may have kept a part."""

    status, code = 507, "state_full"


class StoreCorrupt(ServiceError):
    """The entity store has bytes under the id that no store has written."""

    status, code = 500, "state_corrupt"


class DeadlineExceeded(ServiceError):
    """The deadline passed before the response was ready."""

    status, code = 504, "deadline"


class InferenceFailed(ServiceError):
    """The model failed; the log holds the cause and the response does not."""

    status, code = 500, "model_error"


class CodingNotSupported(ServiceError):
    """The body has a transfer coding that the service does not decode."""

    status, code = 501, "bad_http"


class VersionNotSupported(ServiceError):
    """The request names a version of HTTP other than 1.0 and 1.1."""

    status, code = 505, "bad_http"
