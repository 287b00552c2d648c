"""Deprecated location of the client: install `eglr-rerank-client` and import `rerank_client`.

This package goes away in version 0.3.0.
"""

import importlib.util
import sys
import warnings
from pathlib import Path

if importlib.util.find_spec("rerank_client") is None:
    # A checkout is on the path and the distribution is not installed.
    sys.path.append(str(Path(__file__).parent))

from rerank_client import (
    AsyncClient,
    Candidate,
    Client,
    Constraints,
    Failed,
    FieldProblem,
    ListRequest,
    Model,
    NoAnswer,
    Position,
    Reasoning,
    Refused,
    RerankError,
    TimedOut,
    Unavailable,
)
from rerank_client import RequestOptions as Wishes
from rerank_client import RerankResponse as Reranked

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
    "RerankError",
    "Reranked",
    "TimedOut",
    "Unavailable",
    "Wishes",
]

warnings.warn(
    "`client` is deprecated and goes away in 0.3.0; `pip install ./client` and import "
    "`rerank_client`",
    DeprecationWarning,
    stacklevel=2,
)
