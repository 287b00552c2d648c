"""LitServe: API servers queue requests, and inference workers take them in batches."""

# Annotations are not made strings here: LitServe hands that of decode_request on to FastAPI, where
# its names cannot be resolved.
import os
import signal
from pathlib import Path
from typing import Annotated

import litserve
from fastapi import Depends, Request, Response

from peers.work import ParsedRequest, Work, parse_options
from service.engine.rows import Slate

MAX_BATCH = 32  # lists in a run
# Take queued requests alone: LitServe waits for all of a longer timeout, even for one list.
WAIT_S = 0.0


async def content_of(request: Request) -> bytes:
    """Return the raw body: bytes go through the queue cheaper than parsed values."""
    return await request.body()


class Ranker(litserve.LitAPI):
    """One inference worker; LitServe runs everything but HTTP here."""

    def __init__(self, bundle: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=WAIT_S, api_path="/rerank")
        self.bundle = bundle

    def setup(self, device: str) -> None:
        """Load the model in the worker's own process."""
        self.work = Work(self.bundle)

    def decode_request(self, request: Annotated[bytes, Depends(content_of)]) -> ParsedRequest:
        """Parse and featurise."""
        return self.work.parse(request)

    def batch(self, inputs: list[ParsedRequest]) -> list[ParsedRequest]:
        """Leave the requests apart: `predict` pads them and puts them together."""
        return inputs

    def predict(self, x: list[ParsedRequest]) -> list[tuple[ParsedRequest, Slate]]:
        """Rank all requests in one run."""
        return list(zip(x, self.work.run(x), strict=True))

    def unbatch(
        self, output: list[tuple[ParsedRequest, Slate]]
    ) -> list[tuple[ParsedRequest, Slate]]:
        """Return the slates, which are apart already."""
        return output

    def encode_response(self, output: tuple[ParsedRequest, Slate]) -> Response:
        """Return the response as bytes, so that FastAPI does not encode it again."""
        return Response(self.work.respond(*output), media_type="application/json")


def main() -> None:
    """Serve until SIGTERM, which is turned into the Ctrl-C that LitServe handles."""
    # One worker, because the API server and the queue's own process fill the other core.
    options = parse_options(__doc__, workers=1)
    server = litserve.LitServer(
        Ranker(options.bundle),
        accelerator="cpu",
        workers_per_device=options.workers,
        healthcheck_path="/readyz",
    )
    parent = os.getpid()

    def interrupt(*_: object) -> None:
        if os.getpid() == parent:  # API servers are forked from here, and end by themselves
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    server.run(
        host="127.0.0.1",
        port=options.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
