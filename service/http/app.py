"""The HTTP application: routes, error table, lifespan. pydantic stops here and in schemas."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import fastapi
import onnxruntime
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import (
    FieldError,
    InvalidRequest,
    NotReady,
    ServiceError,
    SlowClient,
)
from service.http import admin, schemas
from service.http.edge import Edge
from service.http.openapi import openapi
from service.http.parsing import decode, validate
from service.http.protocol import ON_LEAVE
from service.http.responses import problem_from, problem_response, response_class
from service.http.security import Keys, Quota
from service.metrics import STAGES, Metrics
from service.models.fleet import Fleet
from service.ranking.reranker import Clock, Reranker
from service.settings import Settings
from service.telemetry import Tracer

logger = logging.getLogger("service")

T = TypeVar("T")

API_VERSION = "1"


class Application(FastAPI):
    """Takes calls to rank past the framework's middleware, which costs more than parsing them."""

    handlers: Mapping[str, Callable[[Request], Awaitable[Response]]]
    direct: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        hot = scope["type"] == "http" and scope["method"] == "POST"
        if hot and scope["path"] in self.handlers:
            await self.direct(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    fleet: Fleet,
    metrics: Metrics,
    started: Callable[[FastAPI], None] = lambda app: None,
) -> FastAPI:
    """The application over loaded models. Raises KeysError or TelemetryError for bad settings.

    started: called on the event loop, once requests may come.
    """
    keys = None if settings.api_keys_file is None else Keys(settings.api_keys_file)
    admins = None if settings.admin_keys_file is None else Keys(settings.admin_keys_file)
    quota = None if settings.quota_rps is None else Quota(settings.quota_rps)
    tracer = Tracer.of(settings)
    reranker = Reranker(settings, fleet, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        fleet.start()
        started(app)
        app.state.ready = True
        yield {"head_timeout_s": settings.body_timeout_s}
        app.state.ready = False
        await fleet.close()
        if tracer is not None:
            tracer.close()

    app = Application(
        title="EGLR re-ranking service",
        version=API_VERSION,
        description="Candidate lists in, re-ranked slates out, with the reasoning steps they took.",
        lifespan=lifespan,
    )
    app.state.ready = False
    app.state.draining = False  # set by the server when it is told to stop

    def admitted(request: Request) -> str:
        """Who asks, by key. Raises Unauthorized, Forbidden or NotReady."""
        if not app.state.ready:
            raise NotReady("no model is ready yet")
        return "" if keys is None else keys.client(request.state.headers.get("authorization"))

    async def read(request: Request) -> tuple[Any, float]:
        """The body's content, and when it was complete."""
        try:
            async with asyncio.timeout(settings.body_timeout_s):
                content = await request.body()
        except TimeoutError:
            rule = f"a body within {settings.body_timeout_s:g} s"
            raise SlowClient(f"body: {rule}") from None
        return decode(content, request.state.headers), time.monotonic()

    def header_timeout(request: Request) -> float | None:
        text = request.state.headers.get("x-request-timeout-ms")
        if text is None:
            return None
        try:
            timeout = float(text)
        except ValueError:
            timeout = math.nan
        if not 0 < timeout < math.inf:
            error = FieldError("header X-Request-Timeout-Ms", "a positive number", text)
            raise InvalidRequest.of(error)
        return timeout

    def refuse_long(payload: Any, path: str) -> None:
        """Before field by field: ten thousand entries deserve one error, not a slow parse."""
        if not isinstance(payload, dict):
            return
        candidates = payload.get("candidates")
        columns = isinstance(candidates, dict)
        ids = candidates.get("id") if isinstance(candidates, dict) else candidates
        most = fleet.max_candidates
        if isinstance(ids, list) and len(ids) > most:
            where = f"{path}candidates{'.id' if columns else ''}"
            raise InvalidRequest.of(FieldError(where, f"at most {most} candidates", len(ids)))
        if (
            isinstance(candidates, list)
            and candidates
            and all(isinstance(c, str) for c in candidates)
        ):
            payload["candidates"] = {"id": candidates}  # ids alone, the shortest body
        user = payload.get("user")
        history = user.get("history") if isinstance(user, dict) else None
        if isinstance(history, list) and len(history) > settings.max_history:
            rule = f"at most {settings.max_history} entries"
            raise InvalidRequest.of(FieldError(f"{path}user.history", rule, len(history)))

    async def answer(
        request: Request,
        client: str,
        bodies: Sequence[schemas.RerankRequest],
        paths: Sequence[str],
        began: float,
    ) -> list[dict[str, Any]]:
        parsed = time.monotonic()
        if quota is not None:
            try:
                quota.spend(client, len(bodies))
            except ServiceError:
                metrics.shed.labels("quota").inc(len(bodies))
                raise
        request_id = request.state.request_id
        timeout = header_timeout(request)
        deadlines = [reranker.deadline(began, (body.timeout_ms, timeout)) for body in bodies]
        lists = [
            # In a batch call each list has an id of its own to be found by in a log.
            reranker.prepare(body, path, f"{request_id}.{index}" if path else request_id, deadline)
            for index, (body, path, deadline) in enumerate(
                zip(bodies, paths, deadlines, strict=True)
            )
        ]
        clock = Clock(began, parsed, time.monotonic())
        metrics.inflight.inc()
        try:
            responses = reranker.answer(lists, deadlines, clock)
            return await unless_gone(request, responses)
        finally:
            metrics.inflight.dec()

    def told(
        request: Request, content: Any, responses: Sequence[dict[str, Any]], lists: int
    ) -> Response:
        """The answer with its times in headers, log and trace; of several lists the slowest's."""
        latency = max((r["latency_ms"] for r in responses), key=lambda each: each["total"])
        timing = ", ".join(f"{stage};dur={latency[stage]}" for stage in (*STAGES, "total"))
        headers = {"Server-Timing": timing}
        if tracer is not None:
            about = {"rerank.lists": lists, "rerank.model": responses[0]["model"]["name"]}
            given = request.state.headers.get("traceparent")
            name = f"POST {request.url.path}"
            headers["traceparent"] = tracer.record(given, name, latency, about)
        if settings.log_requests:
            degraded = [r["degraded"]["reason"] for r in responses if r["degraded"]]
            # A lone list may name itself in its body.
            request_id = content.get("request_id", request.state.request_id)
            logger.info(
                "answered",
                extra={
                    "request_id": request_id, "path": request.url.path, "lists": lists,
                    "latency_ms": latency, "degraded": degraded,
                },
            )  # fmt: skip
        return response_class(request.state.headers)(content, headers=headers)

    async def rerank(request: Request) -> Response:
        """Re-rank one candidate list."""
        client = admitted(request)
        payload, began = await read(request)
        refuse_long(payload, "")
        body = validate(schemas.RerankRequest, payload)
        responses = await answer(request, client, [body], [""], began)
        return told(request, responses[0], responses, 1)

    async def rerank_batch(request: Request) -> Response:
        """Re-rank several candidate lists; one bad list refuses the call."""
        client = admitted(request)
        payload, began = await read(request)
        entries = payload.get("requests") if isinstance(payload, dict) else None
        if isinstance(entries, list):
            most = min(settings.max_lists_per_call, settings.max_queue)
            if len(entries) > most:
                rule = f"at most {most} lists"
                raise InvalidRequest.of(FieldError("requests", rule, len(entries)))
            for index, entry in enumerate(entries):
                refuse_long(entry, f"requests[{index}].")
        body = validate(schemas.BatchRequest, payload)
        paths = [f"requests[{index}]." for index in range(len(body.requests))]
        responses = await answer(request, client, body.requests, paths, began)
        return told(request, {"responses": responses}, responses, len(responses))

    def livez() -> dict[str, str]:
        """The process is up."""
        return {"status": "live"}

    def readyz() -> dict[str, str]:
        """Loaded, golden requests replayed, warmed, not draining."""
        if not app.state.ready:
            raise NotReady("loading")
        if app.state.draining:
            raise NotReady("draining")
        return {"status": "ready"}

    def info() -> dict[str, Any]:
        """What is served, and what it scored offline."""
        session = fleet.lineups[fleet.default_name()].active.session
        manifest = session.manifest
        return {
            "model": {"name": manifest.name, "version": manifest.version},
            "models": {name: lineup.serving.active for name, lineup in fleet.lineups.items()},
            "contract_version": manifest.contract_version,
            "provider": session.provider,
            "slate_length": manifest.slate_length,
            "max_candidates": manifest.max_candidates,
            "budget_per_position": manifest.budget,
            "entropy_threshold": manifest.entropy_threshold,
            "temperatures": {
                "reason": manifest.reason_temperature,
                "recommend": manifest.recommend_temperature,
            },
            "offline_metrics": manifest.offline_metrics,
            "features": [
                {"name": f.name, "of": f.of, "kind": f.kind, "required": f.required}
                for f in session.featuriser.schema.features
            ],
            "training_commit": manifest.training.get("commit"),
            "threads": settings.threads,
            "max_batch_size": settings.max_batch_size,
            "versions": {"onnxruntime": onnxruntime.__version__, "fastapi": fastapi.__version__},
        }

    def metrics_page() -> Response:
        """Prometheus metrics, of all workers."""
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    handlers = {
        prefix + path: handler
        for path, handler in (("/rerank", rerank), ("/rerank/batch", rerank_batch))
        for prefix in ("", "/v1")
    }
    for path, handler in handlers.items():
        app.router.add_route(path, handler, methods=["POST"])
    for path, endpoint in (("/livez", livez), ("/readyz", readyz), ("/info", info)):
        app.add_api_route(path, endpoint, methods=["GET"], tags=["operate"])
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    app.add_api_route("/metrics", metrics_page, methods=["GET"], tags=["operate"])
    if admins is not None:
        admin.add_routes(app, fleet, admins, settings)

    async def on_service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        if request.method == "POST" and not request.url.path.startswith("/admin"):
            reranker.refused(error.status >= 500)
        response = problem_response(error, request.state.request_id)
        if isinstance(error, SlowClient):
            response.headers["Connection"] = "close"
        return response

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "http_error")
        detail = f"{request.method} {request.url.path}: {error.detail}"[:200]
        return problem_from(
            error.status_code, code, detail, request.state.request_id, headers=error.headers
        )

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)

    async def direct(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await handlers[scope["path"]](request)
        except ServiceError as error:
            response = await on_service_error(request, error)
        except HTTPException as error:
            response = await on_http_error(request, error)
        await response(scope, receive, send)

    def edge(inner: ASGIApp) -> Edge:
        return Edge(
            inner,
            max_body_bytes=settings.max_body_bytes,
            on_error=lambda: reranker.refused(True),
            leaving=lambda: bool(app.state.draining),
        )

    app.add_middleware(edge)
    app.direct, app.handlers = edge(direct), handlers
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The work's result; cancelled when the client leaves before it is there.

    Raises ClientDisconnect then.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    state = request.scope["state"]
    state[ON_LEAVE] = leave
    try:
        return await work
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        del state[ON_LEAVE]
