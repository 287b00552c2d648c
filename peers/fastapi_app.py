"""A server of FastAPI and uvicorn around one function, for peers that are no framework."""

from __future__ import annotations

from collections.abc import Callable

import uvicorn
from fastapi import FastAPI, Request, Response

from peers.work import parse_options


def application(handle: Callable[[bytes], bytes]) -> FastAPI:
    """Return an application that passes request bodies to `handle` and sends its responses.

    The route is a coroutine that holds the event loop while it ranks. A thread for each request
    saves nothing where the model takes the core anyway, and requests that run at the same time
    delay each other.
    """
    app = FastAPI()

    @app.post("/rerank")
    async def rerank(request: Request) -> Response:
        return Response(handle(await request.body()), media_type="application/json")

    @app.get("/readyz")
    async def readyz() -> Response:
        return Response()

    return app


def serve(factory: str, description: str | None) -> None:
    """Serve the application that `module:function` makes in each worker, until SIGTERM."""
    options = parse_options(description)
    uvicorn.run(
        factory,
        factory=True,
        host="127.0.0.1",
        port=options.port,
        workers=options.workers,
        access_log=False,
        log_level="warning",
    )
