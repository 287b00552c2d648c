"""What every peer does with a request, so that only the server around it differs."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from service.engine.features.candidates import CandidateList
from service.engine.rows import Row, Slate
from service.engine.session import Session
from service.http.parsing import featuriser_input, validate
from service.http.responses import slate_entries
from service.http.schemas import RerankRequest


@dataclass(frozen=True)
class Asked:
    """One parsed and featurised list."""

    request: CandidateList
    row: Row


class Work:
    """The service's own code for a request, without what it adds around it."""

    def __init__(self, bundle: Path, threads: int = 1) -> None:
        """Load a bundle. Raises BundleError.

        And what the service does for its own process: threads hand the interpreter over early, the
        garbage collector leaves alone what stays.
        """
        self.session = Session.load(bundle, threads)
        self.session.warm_up([1, 8, 32], 50)
        sys.setswitchinterval(1e-4)
        gc.collect()
        gc.freeze()

    def parse(self, content: bytes) -> Asked:
        """From the body of a request to arrays. Raises InvalidRequest or ValueError."""
        body = validate(RerankRequest, columns_of(orjson.loads(content)))
        request, _ = featuriser_input(body, "")
        reasoning = body.reasoning
        budget = reasoning.budget if reasoning else None
        threshold = reasoning.entropy_threshold if reasoning else None
        return Asked(request, self.session.row(request, body.slate_size, budget, threshold))

    def run(self, asked: Sequence[Asked]) -> list[Slate]:
        """One slate for each list, in one run of the graph."""
        return self.session.run([each.row for each in asked])

    def respond(self, asked: Asked, slate: Slate) -> bytes:
        """The body of the answer, as the service writes it less what only it knows."""
        row, manifest = asked.row, self.session.manifest
        return orjson.dumps(
            {
                "model": {"name": manifest.name, "version": manifest.version},
                "slate": slate_entries(asked.request.ids, slate, row),
                "reasoning": {
                    "steps_used": int(slate.steps.sum()),
                    "budget": row.budget * row.slate_size,
                    "budget_per_position": row.budget,
                },
            }
        )

    def answer(self, contents: Sequence[bytes]) -> list[bytes]:
        """From bodies to answers, in one run."""
        asked = [self.parse(content) for content in contents]
        slates = self.run(asked)
        return [self.respond(each, slate) for each, slate in zip(asked, slates, strict=True)]


def columns_of(payload: Any) -> Any:
    """Ids alone are a column: the shortest body."""
    if isinstance(payload, dict):
        candidates = payload.get("candidates")
        if isinstance(candidates, list) and candidates and isinstance(candidates[0], str):
            payload["candidates"] = {"id": candidates}
    return payload


def arguments(about: str, workers: int = 2) -> argparse.Namespace:
    """--bundle, --port, --workers of a peer's command line.

    workers: the default, what serves best on two cores.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=workers, help="processes that run the model")
    return parser.parse_args()
