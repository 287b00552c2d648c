"""BentoML: each worker takes requests over HTTP and runs them in batches of adaptive size."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from pydantic import BaseModel

from peers import child
from peers.work import Work, arguments

MOST = 8  # lists in a run: larger batches are waited for longer than the bound allows
SHED_MS = 1000  # answered 503 what is expected to take longer; far above the bound, so nothing is


class Given(BaseModel):
    """What BentoML hands on from its command line to its workers."""

    bundle: str = "bundles/ranklens/1"
    workers: int = 2


given = bentoml.use_arguments(Given)


@bentoml.service(
    workers=given.workers,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Ranker:
    """One worker."""

    def __init__(self) -> None:
        self.work = Work(Path(given.bundle))

    # Of a parameter without a name, or an answer without a type, BentoML makes the JSON schema anew
    # for each request.
    @bentoml.api(batchable=True, max_batch_size=MOST, max_latency_ms=SHED_MS)
    def rerank(self, bodies: list[str]) -> Annotated[list[str], ContentType("application/json")]:
        """Bodies of one request each in, their answers out: what is batched must be a list."""
        answers = self.work.answer([body.encode() for body in bodies])
        return [answer.decode() for answer in answers]


def main() -> int:
    """Run BentoML's own command until SIGTERM; its exit status."""
    asked = arguments(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        own = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": directory}
        return child.run(
            [
                sys.executable, "-m", "bentoml", "serve", "peers.bentoml_peer:Ranker",
                "--host", "127.0.0.1", "--port", str(asked.port),
                "--arg", f"bundle={asked.bundle}", "--arg", f"workers={asked.workers}",
            ],
            {**os.environ, **own},
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
