"""BentoML: workers take requests over HTTP and run them in batches of adaptive size."""

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
from peers.work import Work, parse_options

MAX_BATCH = 8  # lists in a run; larger batches wait longer than the bound allows
# BentoML sheds with 503 the requests that it expects to take longer. This limit lies far above the
# bound, so that it sheds none.
SHED_MS = 1000


class WorkerOptions(BaseModel):
    """Options that BentoML hands on from its command line to its workers."""

    bundle: str = "bundles/ranklens/1"
    workers: int = 2


worker_options = bentoml.use_arguments(WorkerOptions)


@bentoml.service(
    workers=worker_options.workers,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Ranker:
    """One worker."""

    def __init__(self) -> None:
        self.work = Work(Path(worker_options.bundle))

    # BentoML makes the JSON schema of a parameter without a name, or of a response without a type,
    # anew for each request.
    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=SHED_MS)
    def rerank(self, bodies: list[str]) -> Annotated[list[str], ContentType("application/json")]:
        """Return the responses to request bodies; BentoML batches lists alone."""
        responses = self.work.handle([body.encode() for body in bodies])
        return [response.decode() for response in responses]


def main() -> int:
    """Run BentoML's own command until SIGTERM and return its exit status."""
    options = parse_options(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        variables = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": directory}
        return child.run(
            [
                sys.executable, "-m", "bentoml", "serve", "peers.bentoml_peer:Ranker",
                "--host", "127.0.0.1", "--port", str(options.port),
                "--arg", f"bundle={options.bundle}", "--arg", f"workers={options.workers}",
            ],
            {**os.environ, **variables},
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
