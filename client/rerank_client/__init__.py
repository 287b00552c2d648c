"""Client of the EGLR re-ranking service: a slate within a deadline, or the initial ranking.

`Client` blocks its thread and `AsyncClient` runs on asyncio; they have the same methods. Both
return `RerankResponse`, and raise

    RerankError
    |- Refused           4xx: the request breaks a rule, which a retry or a fallback would hide
    `- NoAnswer          only with `fallback=False`; otherwise the initial ranking is returned
       |- TimedOut       the deadline passed, at the client or at the service (504)
       |- Unavailable    no instance could be reached, or every one that was responded 503
       `- Failed         any other status, or a response that is incomplete or unreadable

They raise ValueError and TypeError for arguments that cannot be sent.
"""

from rerank_client.clients import AsyncClient, Client
from rerank_client.errors import (
    Failed,
    FieldProblem,
    NoAnswer,
    Refused,
    RerankError,
    TimedOut,
    Unavailable,
)
from rerank_client.intent import Diversity
from rerank_client.requests import (
    Candidate,
    CandidateColumns,
    Constraints,
    ListRequest,
    RequestOptions,
)
from rerank_client.responses import Model, Position, Reasoning, RerankResponse

__all__ = [
    "AsyncClient",
    "Candidate",
    "CandidateColumns",
    "Client",
    "Constraints",
    "Diversity",
    "Failed",
    "FieldProblem",
    "ListRequest",
    "Model",
    "NoAnswer",
    "Position",
    "Reasoning",
    "Refused",
    "RequestOptions",
    "RerankError",
    "RerankResponse",
    "TimedOut",
    "Unavailable",
]
