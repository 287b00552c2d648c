"""LitServe: API servers that queue requests, inference workers that take them in batches."""

# Annotations are not made strings here: LitServe hands that of decode_request on to FastAPI, from
# where its names cannot be looked up.
import os
import signal
from pathlib import Path
from typing import Annotated

import litserve
from fastapi import Depends, Request, Response

from peers.work import Asked, Work, arguments
from service.engine.rows import Slate

MOST = 32  # lists in a run
WAIT_S = 0.0  # take what is queued: any wait is kept to the end, even where one list is all


async def content_of(request: Request) -> bytes:
    """The body as it came: bytes go through the queue cheaper than what LitServe parses of them."""
    return await request.body()


class Ranker(litserve.LitAPI):
    """One inference worker: everything but HTTP happens here, as LitServe has it."""

    def __init__(self, bundle: Path) -> None:
        super().__init__(max_batch_size=MOST, batch_timeout=WAIT_S, api_path="/rerank")
        self.bundle = bundle

    def setup(self, device: str) -> None:
        """Load the model, in the worker's own process."""
        self.work = Work(self.bundle)

    def decode_request(self, request: Annotated[bytes, Depends(content_of)]) -> Asked:
        """Parse and featurise."""
        return self.work.parse(request)

    def batch(self, inputs: list[Asked]) -> list[Asked]:
        """Lists are padded and put together where they are run."""
        return inputs

    def predict(self, x: list[Asked]) -> list[tuple[Asked, Slate]]:
        """One run for all of them."""
        return list(zip(x, self.work.run(x), strict=True))

    def unbatch(self, output: list[tuple[Asked, Slate]]) -> list[tuple[Asked, Slate]]:
        """They never were one."""
        return output

    def encode_response(self, output: tuple[Asked, Slate]) -> Response:
        """The answer as bytes, which FastAPI then does not encode anew."""
        return Response(self.work.respond(*output), media_type="application/json")


def main() -> None:
    """Serve until SIGTERM, which LitServe knows as Ctrl-C alone."""
    # One, because the API server and the queue's own process fill the other core.
    asked = arguments(__doc__, workers=1)
    server = litserve.LitServer(
        Ranker(asked.bundle),
        accelerator="cpu",
        workers_per_device=asked.workers,
        healthcheck_path="/readyz",
    )
    parent = os.getpid()

    def end(*_: object) -> None:
        if os.getpid() == parent:  # API servers are forked from here, and end by themselves
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    server.run(
        host="127.0.0.1",
        port=asked.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
