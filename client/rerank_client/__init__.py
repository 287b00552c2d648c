"""A client of the re-ranking service: a slate within a deadline, whatever becomes of the service.

`Client` and `AsyncClient` ask the same way; the one waits in its thread, the other on asyncio.
Both answer `RerankResponse`, and raise

    RerankError
    |- Refused           4xx: the request breaks a rule; retrying or falling back would hide it
    `- NoAnswer          only with `fallback=False`, else the initial ranking is the answer
       |- TimedOut       the deadline passed, here or at the service (504)
       |- Unavailable    no instance could be reached, or those reached said 503
       `- Failed         any other status, an answer cut short, or one that cannot be read

beside ValueError and TypeError for what cannot be sent at all. Depends on httpx alone.
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
from rerank_client.requests import Candidate, Constraints, ListRequest, RequestOptions
from rerank_client.responses import Model, Position, Reasoning, RerankResponse

__all__ = [
    "AsyncClient",
    "Candidate",
    "Client",
    "Constraints",
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
