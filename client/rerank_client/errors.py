"""What the clients raise; `client` draws the tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One broken rule: the field's path as in the request, the rule, the given value as JSON."""

    field: str
    rule: str
    value: str


class RerankError(Exception):
    """Base of all. `request_id` is the one to look for in the service's log."""

    request_id: str


class Refused(RerankError):
    """The service refused the request (4xx); sent again it would be refused again.

    status: of HTTP; code: the service's, such as `invalid_request` (`http_403` and the like where
    something before the service refused); errors: every field that broke a rule.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        request_id: str,
        errors: Sequence[FieldProblem] = (),
    ) -> None:
        super().__init__(status, code, detail, request_id, errors)
        self.status, self.code, self.detail = status, code, detail
        self.request_id, self.errors = request_id, tuple(errors)

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.detail} (request {self.request_id})"


class NoAnswer(RerankError):
    """No answer that could be used. `reason`: few words, the same for the same cause."""

    def __init__(self, reason: str, detail: str, request_id: str) -> None:
        super().__init__(reason, detail, request_id)
        self.reason, self.detail, self.request_id = reason, detail, request_id

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail} (request {self.request_id})"


class TimedOut(NoAnswer):
    """The deadline passed; `reason` is `timeout`."""


class Unavailable(NoAnswer):
    """No instance could be reached, or those reached said 503; `reason` is `unavailable`."""


class Failed(NoAnswer):
    """Any other status, or an answer cut short or unreadable; `reason` is like `status 500`."""
