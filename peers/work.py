"""Handle a request as every peer does, so that only the server around it differs."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from service.engine.features.candidates import CandidateList
from service.engine.native_backend import BackendName
from service.engine.rows import Row, Slate
from service.engine.session import Session
from service.http.parsing import featuriser_input, validate
from service.http.responses import slate_entries, to_json
from service.http.schemas import RerankRequest


@dataclass(frozen=True)
class ParsedRequest:
    """One parsed and featurised request."""

    candidates: CandidateList
    row: Row


class Work:
    """The service's own code for a request, without the server around it.

    whole_features: rows have all numbers and tokens of a list, for a model that is not the graph.
    """

    whole_features = False

    def __init__(self, bundle: Path, threads: int = 1, backend: BackendName | None = None) -> None:
        """Load a bundle and set the process up as the service does. Raises BundleError.

        backend: That of the session; None takes "native" where RERANK_BACKEND says so, and
        otherwise the graph.
        """
        if backend is None:
            backend = "native" if os.environ.get("RERANK_BACKEND") == "native" else "onnx"
        self.session = Session.load(bundle, threads, backend=backend)
        self.session.warm_up([1, 8, 32], 50)
        sys.setswitchinterval(1e-4)  # threads hand the interpreter over early
        gc.collect()
        gc.freeze()  # the collector skips everything that lives as long as the process

    def parse(self, content: bytes) -> ParsedRequest:
        """Parse and featurise the body of a request. Raises InvalidRequest or ValueError."""
        body = validate(RerankRequest, orjson.loads(content))
        candidates, _ = featuriser_input(body, "")
        reasoning = body.reasoning
        budget = reasoning.budget if reasoning else None
        threshold = reasoning.entropy_threshold if reasoning else None
        featurise = self.session.whole_row if self.whole_features else self.session.row
        row = featurise(candidates, body.slate_size, budget, threshold)
        return ParsedRequest(candidates, row)

    def run(self, requests: Sequence[ParsedRequest]) -> list[Slate]:
        """Return one slate for each request, all from one run of the graph."""
        return self.session.run([request.row for request in requests])

    def respond(self, request: ParsedRequest, slate: Slate) -> bytes:
        """Return the service's response without the fields that only a server can fill."""
        row, manifest = request.row, self.session.manifest
        return to_json(
            {
                "model": {"name": manifest.name, "version": manifest.version},
                "slate": slate_entries(request.candidates.ids, slate, row),
                "reasoning": {
                    "steps_used": int(slate.steps.sum()),
                    "budget": row.budget * row.slate_size,
                    "budget_per_position": row.budget,
                },
            }
        )

    def handle(self, contents: Sequence[bytes]) -> list[bytes]:
        """Return the responses to request bodies, ranked in one run."""
        requests = [self.parse(content) for content in contents]
        slates = self.run(requests)
        return [
            self.respond(request, slate) for request, slate in zip(requests, slates, strict=True)
        ]


@dataclass(frozen=True)
class ServerOptions:
    """Command line of a peer."""

    bundle: Path
    port: int
    workers: int


def parse_options(description: str | None, workers: int = 2) -> ServerOptions:
    """Parse --bundle, --port and --workers.

    argparse does it, because the peers' environments hold no other parser.

    Args:
        workers: Default that serves best on two cores.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=workers, help="processes that run the model")
    return ServerOptions(**vars(parser.parse_args()))
