"""A server of FastAPI and uvicorn around one function: for peers that are no framework."""

from __future__ import annotations

from collections.abc import Callable

import uvicorn
from fastapi import FastAPI, Request, Response

from peers.work import arguments


def application(answer: Callable[[bytes], bytes]) -> FastAPI:
    """From the body of a request to that of its answer.

    The route is a coroutine that holds the event loop while it answers: a thread of its own for
    each request saves nothing where the model takes the core anyway, and lets requests that run at
    the same time delay each other.
    """
    app = FastAPI()

    @app.post("/rerank")
    async def rerank(request: Request) -> Response:
        return Response(answer(await request.body()), media_type="application/json")

    @app.get("/readyz")
    async def readyz() -> Response:
        return Response()

    return app


def serve(factory: str, about: str) -> None:
    """Run `module:function`, which makes the application, in each worker until SIGTERM."""
    asked = arguments(about)
    uvicorn.run(
        factory,
        factory=True,
        host="127.0.0.1",
        port=asked.port,
        workers=asked.workers,
        access_log=False,
        log_level="warning",
    )
