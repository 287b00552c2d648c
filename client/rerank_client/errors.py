"""Exceptions of the clients; the docstring of `rerank_client` draws the tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One broken rule: the path of the field in the request, the rule, and the value as JSON."""

    field: str
    rule: str
    value: str


class RerankError(Exception):
    """Base class. `request_id` identifies the call in the log of the service."""

    request_id: str


class Refused(RerankError):
    """The service refused the request (4xx), and would refuse it again.

    status: HTTP status. code: the code of the service, such as `invalid_request`, or `http_403` and
    the like when a proxy refused. errors: every field that broke a rule.
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
    """No usable response. `reason` is a short text that is the same for the same cause."""

    def __init__(self, reason: str, detail: str, request_id: str) -> None:
        super().__init__(reason, detail, request_id)
        self.reason, self.detail, self.request_id = reason, detail, request_id

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail} (request {self.request_id})"


class TimedOut(NoAnswer):
    """The deadline passed; `reason` is `timeout`."""


class Unavailable(NoAnswer):
    """No instance could be reached, or each responded 503; `reason` is `unavailable`."""


class Failed(NoAnswer):
    """Any other status, or an incomplete or unreadable response; `reason` is like `status 500`."""
