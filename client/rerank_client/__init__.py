"""Client of the EGLR re-ranking service: a slate within a deadline, or the initial ranking.

`Client` blocks its thread and `AsyncClient` runs on asyncio; they have the same methods. Rankings
return `RerankResponse`. Users, items and events are written by `feedback`, `put_users`, `put_items`
and `forget`, which have no fallback. All raise

    RerankError
    |- Refused           4xx: the request breaks a rule, which a retry or a fallback would hide
    `- NoAnswer          a ranking raises it only with `fallback=False`, else it is the initial one
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
from rerank_client.state_calls import FeedbackResult, PutResult, RefusedRecord

__all__ = [
    "AsyncClient",
    "Candidate",
    "CandidateColumns",
    "Client",
    "Constraints",
    "Diversity",
    "Failed",
    "FeedbackResult",
    "FieldProblem",
    "ListRequest",
    "Model",
    "NoAnswer",
    "Position",
    "PutResult",
    "Reasoning",
    "Refused",
    "RefusedRecord",
    "RequestOptions",
    "RerankError",
    "RerankResponse",
    "TimedOut",
    "Unavailable",
]
