"""The HTTP application: routes, error handlers and lifespan."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import FieldError, InvalidRequest, NotReady, ServiceError, SlowClient
from service.http.admin import AdminApi
from service.http.big_integers import decode_exactly
from service.http.disconnects import cancel_on_disconnect
from service.http.documentation import add_documentation
from service.http.edge import Edge
from service.http.methods import refusal_by_router
from service.http.openapi import openapi
from service.http.parsing import (
    Limits,
    decode,
    is_msgpack,
    list_path,
    parse_batch,
    parse_single,
    ranking_request,
)
from service.http.responses import (
    batch_content,
    decision_content,
    decision_entries,
    problem_response,
    response_class,
    server_info,
    server_timing,
    slowest_latency,
)
from service.http.schemas import RerankRequest
from service.http.security import Keys, Quota
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.ranking.decision import Decision, Timeline
from service.ranking.observer import Observer
from service.ranking.reranker import PreparedList, Reranker
from service.settings import Settings
from service.telemetry import Tracer

logger = logging.getLogger("service")

API_VERSION = "1"
# RERANK_TRACING alone decides what is exported. FastAPI would follow variables of its own and
# export exceptions, with what they say of a request.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False, "metrics": False, "logs": False, "operation_spans": False,
    "auto_configure": False,
}  # fmt: skip

Handler = Callable[[Request], Awaitable[Response]]
Parser = Callable[[Any, Limits], Sequence[RerankRequest]]


class Application(FastAPI):
    """A FastAPI application that serves ranking calls without the framework's middleware.

    The middleware stack and the router cost more time than parsing such a call.
    """

    ranking_paths: Mapping[str, Handler]
    ranking_app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch one ASGI connection."""
        if scope["type"] == "http":
            path = scope["path"]
            if path.endswith("/") and path != "/":  # the same path; a redirect would lose https
                path = scope["path"] = path[:-1]
            if scope["method"] == "POST" and path in self.ranking_paths:
                await self.ranking_app(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    fleet: Fleet,
    metrics: Metrics,
    on_start: Callable[[FastAPI], None] = lambda app: None,
) -> FastAPI:
    """Build the application over loaded models.

    Args:
        on_start: called on the event loop once the deployments accept lists.

    Raises KeysError or TelemetryError for settings that cannot be used.
    """
    return Api(settings, fleet, metrics, on_start).app


class Api:
    """The routes of one application and the objects that they share."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        metrics: Metrics,
        on_start: Callable[[FastAPI], None],
    ) -> None:
        self._settings, self._fleet, self._metrics = settings, fleet, metrics
        self._on_start = on_start
        self._keys = None if settings.api_keys_file is None else Keys(settings.api_keys_file)
        admin_keys = None if settings.admin_keys_file is None else Keys(settings.admin_keys_file)
        self._key_files = [keys for keys in (self._keys, admin_keys) if keys is not None]
        self._quota = None if settings.quota_rps is None else Quota(settings.quota_rps)
        self._tracer = Tracer.of(settings)
        self._observer = Observer(metrics, fleet)
        self._reranker = Reranker(settings, fleet, self._observer.shadow_compared)
        self.app = Application(
            title="EGLR re-ranking service",
            version=API_VERSION,
            description="Re-rank candidate lists into slates, with the reasoning steps they took.",
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            telemetry=NO_TELEMETRY,
        )
        self.app.state.ready = False
        self.app.state.draining = False  # set by the server on SIGTERM
        self.app.state.reload = self.reload
        self._add_routes()
        if admin_keys is not None:
            AdminApi(fleet, admin_keys, settings).add_routes(self.app)
        self.app.add_exception_handler(ServiceError, self._on_error)
        self.app.add_exception_handler(HTTPException, self._on_error)
        self.app.add_middleware(self._edge)
        self.app.openapi = lambda: openapi(self.app)  # type: ignore[method-assign]

    def _add_routes(self) -> None:
        app = self.app
        app.ranking_paths = {
            prefix + path: handler
            for path, handler in (("/rerank", self.rerank), ("/rerank/batch", self.rerank_batch))
            for prefix in ("", "/v1")
        }
        app.ranking_app = self._edge(self._serve_ranking_call)
        for path, handler in app.ranking_paths.items():
            app.router.add_route(path, handler, methods=["POST"])
        for path, endpoint in (
            ("/livez", self.livez),
            ("/readyz", self.readyz),
            ("/info", self.info),
            ("/metrics", self.metrics_page),
        ):
            app.add_api_route(path, endpoint, methods=["GET"], tags=["operate"])
            app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
        add_documentation(app)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        self._fleet.start()
        self._on_start(app)
        app.state.ready = True
        yield {"head_timeout_s": self._settings.body_timeout_s}
        app.state.ready = False
        await self._fleet.close()
        if self._tracer is not None:
            self._tracer.close()

    def reload(self) -> None:
        """Read the files of keys again, and look at the store."""
        for keys in self._key_files:
            keys.reload()
        self._fleet.look_now()

    def _edge(self, inner: ASGIApp) -> Edge:
        return Edge(
            inner,
            max_body_bytes=self._settings.max_body_bytes,
            on_error=lambda: self._observer.call_refused(True),
            is_draining=lambda: bool(self.app.state.draining),
        )

    async def _serve_ranking_call(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self.app.ranking_paths[scope["path"]](request)
        except (ServiceError, HTTPException) as error:
            response = await self._on_error(request, error)
        await response(scope, receive, send)

    async def _on_error(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return refusal_by_router(self.app, request, error)
        assert isinstance(error, ServiceError)
        if request.method == "POST" and not request.url.path.startswith("/admin"):
            self._observer.call_refused(error.status >= 500)
        response = problem_response(error, request.state.request_id)
        if isinstance(error, SlowClient):
            response.headers["Connection"] = "close"
        return response

    async def rerank(self, request: Request) -> Response:
        """Re-rank one candidate list."""
        return await self._rank_call(request, parse_single, batch=False)

    async def rerank_batch(self, request: Request) -> Response:
        """Re-rank several candidate lists; one invalid list refuses the call."""
        return await self._rank_call(request, parse_batch, batch=True)

    async def _rank_call(self, request: Request, parse: Parser, batch: bool) -> Response:
        client = self._authenticate(request)
        content = await self._read(request)
        payload, received = decode(content, request.state.headers), time.monotonic()
        bodies = self._parse(request, parse, payload, content)
        parsed = time.monotonic()
        self._spend_quota(client, len(bodies))
        lists = self._prepare(request, bodies, received, batch)
        timeline = Timeline(received, parsed, time.monotonic())
        self._observer.call_started()
        try:
            ranking = self._reranker.rank(lists, timeline)
            decisions = await cancel_on_disconnect(request, ranking)
        finally:
            self._observer.call_ended()
        return self._respond(request, decisions, batch)

    def _authenticate(self, request: Request) -> str:
        """Return the client's name. Raises Unauthorized, Forbidden or NotReady."""
        if not self.app.state.ready:
            raise NotReady("no model is ready")
        if self._keys is None:
            return ""
        return self._keys.client(request.state.headers.get("authorization"))

    async def _read(self, request: Request) -> bytes:
        """Return the body. Raises SlowClient."""
        timeout = self._settings.body_timeout_s
        try:
            async with asyncio.timeout(timeout):
                return await request.body()
        except TimeoutError:
            raise SlowClient(f"body: must arrive within {timeout:g} s") from None

    def _parse(
        self, request: Request, parse: Parser, payload: Any, content: bytes
    ) -> Sequence[RerankRequest]:
        """Return the lists of a body that is decoded as `payload`. Raises InvalidRequest."""
        try:
            return parse(payload, self._limits())
        except InvalidRequest as refusal:
            if is_msgpack(request.state.headers.get("content-type")):
                raise
            return parse(decode_exactly(content, refusal), self._limits())

    def _limits(self) -> Limits:
        settings = self._settings
        lists = min(settings.max_lists_per_call, settings.max_queue)
        return Limits(self._fleet.max_candidates, settings.max_history, lists)

    def _spend_quota(self, client: str, lists: int) -> None:
        if self._quota is None:
            return
        try:
            self._quota.spend(client, lists)
        except ServiceError:
            self._observer.over_quota(lists)
            raise

    def _prepare(
        self, request: Request, bodies: Sequence[RerankRequest], received: float, batch: bool
    ) -> list[PreparedList]:
        """Check and featurise the lists of a call. Raises InvalidRequest."""
        call_id = request.state.request_id
        timeout_ms = min(header_timeout_ms(request), self._settings.timeout_ms)
        lists = []
        for index, body in enumerate(bodies):
            # In a batch call each list has an id of its own, so that logs can name it.
            path, request_id = (list_path(index), f"{call_id}.{index}") if batch else ("", call_id)
            limit_ms = timeout_ms if body.timeout_ms is None else min(timeout_ms, body.timeout_ms)
            list_request = ranking_request(body, path, request_id, received + limit_ms / 1e3)
            prepared = self._reranker.prepare(list_request)
            self._observer.prepared(prepared)
            lists.append(prepared)
        return lists

    def _respond(self, request: Request, decisions: Sequence[Decision], batch: bool) -> Response:
        """Render the decisions, with the slowest list's times in header, log and trace."""
        responses = [self._content(decision) for decision in decisions]
        latency_ms = slowest_latency(responses)
        headers = {"Server-Timing": server_timing(latency_ms)}
        if self._tracer is not None:
            headers["traceparent"] = self._tracer.record(
                request.state.headers.get("traceparent"),
                f"POST {request.url.path}",
                latency_ms,
                {"rerank.lists": len(decisions), "rerank.model": decisions[0].model},
            )
        if self._settings.log_requests:
            self._log(request, decisions, latency_ms, batch)
        content = batch_content(responses) if batch else responses[0]
        return response_class(request.state.headers)(content, headers=headers)

    def _content(self, decision: Decision) -> dict[str, Any]:
        entries = decision_entries(decision)
        times = decision.stage_times(time.monotonic())
        self._observer.decided(decision, times)
        return decision_content(decision, entries, times)

    def _log(
        self,
        request: Request,
        decisions: Sequence[Decision],
        latency_ms: Mapping[str, float],
        batch: bool,
    ) -> None:
        logger.info(
            "answered",
            extra={
                # The body of a single list may name its own id.
                "request_id": request.state.request_id if batch else decisions[0].request_id,
                "path": request.url.path,
                "lists": len(decisions),
                "latency_ms": latency_ms,
                "degraded": [d.degraded for d in decisions if d.degraded is not None],
            },
        )

    def livez(self) -> dict[str, str]:
        """Report that the process is up."""
        return {"status": "live"}

    def readyz(self) -> dict[str, str]:
        """Report that the model is loaded, verified and warm, and that the service is not draining.

        Responds with 503 otherwise.
        """
        if not self.app.state.ready:
            raise NotReady("loading")
        if self.app.state.draining:
            raise NotReady("draining")
        return {"status": "ready"}

    def info(self) -> dict[str, Any]:
        """Describe the served models, their limits and their offline metrics."""
        return server_info(self._fleet, self._settings)

    def metrics_page(self) -> Response:
        """Return the Prometheus metrics of all workers."""
        return Response(self._metrics.page(), media_type=CONTENT_TYPE_LATEST)


def header_timeout_ms(request: Request) -> float:
    """Return the header X-Request-Timeout-Ms, or infinity without it. Raises InvalidRequest."""
    text = request.state.headers.get("x-request-timeout-ms")
    if text is None:
        return math.inf
    try:
        timeout = float(text)
    except ValueError:
        timeout = math.nan
    if not 0 < timeout < math.inf:
        error = FieldError("header X-Request-Timeout-Ms", "a positive number", text)
        raise InvalidRequest.of(error)
    return timeout
