"""The HTTP application: routes, error handlers and lifespan."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import NotReady, ServiceError, SlowClient
from service.http.admin import AdminApi
from service.http.calls import RankingCalls
from service.http.documentation import add_documentation
from service.http.edge import Edge
from service.http.entities import UPLOAD_PATHS, EntityApi
from service.http.feedback import FeedbackApi
from service.http.methods import refusal_by_router
from service.http.openapi import openapi
from service.http.playground import add_playground
from service.http.problems import problem_response
from service.http.responses import server_info
from service.http.security import Keys
from service.journal.journal import Journal
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.ranking.observer import Observer
from service.ranking.reranker import Reranker
from service.settings import Settings
from service.state.store import EntityStore
from service.telemetry import Tracer

logger = logging.getLogger("service")

API_VERSION = "1"
# RERANK_TRACING alone decides what is exported. FastAPI would follow variables of its own and
# export exceptions, with what they say of a request.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False, "metrics": False, "logs": False, "operation_spans": False,
    "auto_configure": False,
}  # fmt: skip


class Application(FastAPI):
    """A FastAPI application that serves ranking calls without the framework's middleware.

    The middleware stack and the router cost more time than parsing such a call.
    """

    ranking_paths: Collection[str]
    ranking_calls: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch one ASGI connection."""
        if scope["type"] == "http":
            path = scope["path"]
            if path.endswith("/") and path != "/":  # the same path; a redirect would lose https
                path = scope["path"] = path[:-1]
            if scope["method"] == "POST" and path in self.ranking_paths:
                await self.ranking_calls(scope, receive, send)
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
        keys = None if settings.api_keys_file is None else Keys(settings.api_keys_file)
        admin_keys = None if settings.admin_keys_file is None else Keys(settings.admin_keys_file)
        state_keys = None if settings.state_keys_file is None else Keys(settings.state_keys_file)
        self._key_files = [each for each in (keys, admin_keys, state_keys) if each is not None]
        self._tracer = Tracer.of(settings)
        self._observer = Observer(metrics, fleet)
        self._store = EntityStore.of(settings, metrics)
        self._journal = Journal.of(settings, metrics)
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
        # Read by every ranking call; an attribute of the state costs a call of Python code.
        self._state: dict[str, Any] = {"ready": False, "draining": False}
        self.app.state = State(self._state)  # the server sets `draining` on SIGTERM
        self.app.state.reload = self.reload
        self._reranker = Reranker(settings, fleet, self._observer.shadow_compared)
        self.app.ranking_calls = RankingCalls(
            settings,
            fleet,
            self._observer,
            self._reranker,
            self._state,
            keys,
            self._tracer,
            self._store,
            self._journal,
        )
        self._add_routes()
        if settings.playground:
            add_playground(self.app, keys)
        if admin_keys is not None:
            AdminApi(fleet, admin_keys, settings).add_routes(self.app)
        self._entities: EntityApi | None = None
        self._feedback: FeedbackApi | None = None
        if self._store is not None:
            self._add_store_routes(self._store, keys, state_keys)
        self.app.add_exception_handler(ServiceError, self._on_error)
        self.app.add_exception_handler(HTTPException, self._on_error)
        self.app.add_middleware(self._edge)
        self.app.openapi = lambda: openapi(self.app)  # type: ignore[method-assign]

    def _add_store_routes(
        self, store: EntityStore, keys: Keys | None, state_keys: Keys | None
    ) -> None:
        fleet, settings, metrics = self._fleet, self._settings, self._metrics
        self._entities = EntityApi(store, fleet, settings, metrics, state_keys, self._journal)
        self._entities.add_routes(self.app)
        self._feedback = FeedbackApi(store, fleet, settings, metrics, keys, journal=self._journal)
        self._feedback.add_routes(self.app)

    def _add_routes(self) -> None:
        app = self.app
        app.ranking_paths = [
            prefix + path for path in ("/rerank", "/rerank/batch") for prefix in ("", "/v1")
        ]
        for path in app.ranking_paths:  # for the methods that a path has
            app.router.routes.append(Route(path, app.ranking_calls, methods=["POST"]))
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
        if self._store is not None:
            await self._store.start()
        if self._journal is not None:
            self._journal.start()
        self._on_start(app)
        app.state.ready = True
        yield {"head_timeout_s": self._settings.body_timeout_s}
        app.state.ready = False
        self._reranker.close()
        await self._fleet.close()
        if self._entities is not None:
            await self._entities.close()
        if self._feedback is not None:
            await self._feedback.close()
        if self._store is not None:
            await self._store.close()
        if self._journal is not None:
            await self._journal.close()
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
            streamed_paths=UPLOAD_PATHS,
        )

    async def _on_error(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return refusal_by_router(self.app, request, error)
        assert isinstance(error, ServiceError)
        response = problem_response(error, request.state.request_id)
        if isinstance(error, SlowClient):  # the rest of its body may never come
            response.headers["Connection"] = "close"
        return response

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
        if self._store is None:
            return {"status": "ready"}
        return {"status": "ready", "state": "up" if self._store.problem is None else "down"}

    def info(self) -> dict[str, Any]:
        """Describe the served models, their limits and their offline metrics."""
        content = server_info(self._fleet, self._settings, self._store)
        if self._feedback is not None:
            content["state"]["events"] = self._feedback.describe()
        return content

    def metrics_page(self) -> Response:
        """Return the Prometheus metrics of all workers."""
        return Response(self._metrics.page(), media_type=CONTENT_TYPE_LATEST)
