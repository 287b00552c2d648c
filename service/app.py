"""The HTTP application: routes, error table, lifespan. pydantic stops here and in schemas."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import fastapi
import onnxruntime
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from service import schemas
from service.batcher import Batcher
from service.edge import Edge
from service.errors import (
    BadRequest,
    FieldError,
    InvalidRequest,
    JsonResponse,
    NotReady,
    ServiceError,
    problem,
    problem_of,
)
from service.metrics import Metrics
from service.reranker import Clock, Reranker, validated
from service.session import Session
from service.settings import Settings

API_VERSION = "1"
STAGES = ("parse", "features", "queue", "inference", "respond", "total")


def create_app(settings: Settings, session: Session) -> FastAPI:
    """The application over a loaded session; it becomes ready once every batch size has run."""
    metrics = Metrics()
    manifest = session.manifest
    batcher = Batcher(session, metrics, settings.max_batch_size, settings.max_queue)
    reranker = Reranker(settings, session, batcher, metrics)
    ready = False

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal ready
        batcher.start()
        session.warm_up([1, settings.max_batch_size], min(50, manifest.max_candidates))
        metrics.model_info.labels(manifest.name, manifest.version, session.provider).set(1)
        ready = True
        yield
        ready = False
        await batcher.close()

    app = FastAPI(
        title="EGLR re-ranking service",
        version=API_VERSION,
        description="Candidate lists in, re-ranked slates out, with the reasoning steps they took.",
        lifespan=lifespan,
    )

    async def read(request: Request) -> tuple[Any, float]:
        """The body as JSON, and when it was complete."""
        if not ready:
            raise NotReady("no model is ready yet")
        content = await request.body()
        began = time.monotonic()
        try:
            return orjson.loads(content), began
        except orjson.JSONDecodeError as error:
            value = content[:100].decode("utf-8", "replace")
            broken = FieldError("body", f"JSON in UTF-8 ({error})", value)
            raise BadRequest(f"body: not JSON in UTF-8 ({error})", [broken]) from None

    def header_timeout(request: Request) -> float | None:
        text = request.headers.get("x-request-timeout-ms")
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
        candidates = payload.get("candidates") if isinstance(payload, dict) else None
        if isinstance(candidates, list) and len(candidates) > manifest.max_candidates:
            rule = f"at most {manifest.max_candidates} candidates"
            raise InvalidRequest.of(FieldError(f"{path}candidates", rule, len(candidates)))
        user = payload.get("user") if isinstance(payload, dict) else None
        history = user.get("history") if isinstance(user, dict) else None
        if isinstance(history, list) and len(history) > settings.max_history:
            rule = f"at most {settings.max_history} entries"
            raise InvalidRequest.of(FieldError(f"{path}user.history", rule, len(history)))

    async def answer(
        request: Request,
        bodies: Sequence[schemas.RerankRequest],
        paths: Sequence[str],
        began: float,
    ) -> list[dict[str, Any]]:
        parsed = time.monotonic()
        request_id = request.state.request_id
        lists = [
            # In a batch call each list has an id of its own to be found by in a log.
            reranker.prepare(body, path, f"{request_id}.{index}" if path else request_id)
            for index, (body, path) in enumerate(zip(bodies, paths, strict=True))
        ]
        timeout = header_timeout(request)
        deadlines = [reranker.deadline(began, (body.timeout_ms, timeout)) for body in bodies]
        clock = Clock(began, parsed, time.monotonic())
        with metrics.inflight.track_inprogress():
            return await reranker.answer(lists, deadlines, clock)

    def timed(content: Any, latency: dict[str, float]) -> Response:
        timing = ", ".join(f"{stage};dur={latency[stage]}" for stage in STAGES)
        return JsonResponse(content, headers={"Server-Timing": timing})

    async def rerank(request: Request) -> Response:
        """Re-rank one candidate list."""
        payload, began = await read(request)
        refuse_long(payload, "")
        body = validated(schemas.RerankRequest, payload)
        (response,) = await answer(request, [body], [""], began)
        return timed(response, response["latency_ms"])

    async def rerank_batch(request: Request) -> Response:
        """Re-rank several candidate lists; one bad list refuses the call."""
        payload, began = await read(request)
        entries = payload.get("requests") if isinstance(payload, dict) else None
        if isinstance(entries, list):
            if len(entries) > settings.max_lists_per_call:
                rule = f"at most {settings.max_lists_per_call} lists"
                raise InvalidRequest.of(FieldError("requests", rule, len(entries)))
            for index, entry in enumerate(entries):
                refuse_long(entry, f"requests[{index}].")
        body = validated(schemas.BatchRequest, payload)
        paths = [f"requests[{index}]." for index in range(len(body.requests))]
        responses = await answer(request, body.requests, paths, began)
        slowest = max((r["latency_ms"] for r in responses), key=lambda latency: latency["total"])
        return timed({"responses": responses}, slowest)

    def livez() -> dict[str, str]:
        """The process is up."""
        return {"status": "live"}

    def readyz() -> dict[str, str]:
        """Loaded, golden requests replayed, warmed, not draining."""
        if not ready:
            raise NotReady("loading or draining")
        return {"status": "ready"}

    def info() -> dict[str, Any]:
        """What is served, and what it scored offline."""
        return {
            "model": {"name": manifest.name, "version": manifest.version},
            "contract_version": manifest.contract_version,
            "provider": session.provider,
            "slate_length": manifest.slate_length,
            "max_candidates": manifest.max_candidates,
            "budget_per_position": manifest.budget,
            "entropy_threshold": manifest.entropy_threshold,
            "offline_metrics": manifest.offline_metrics,
            "features": [
                {"name": f.name, "of": f.of, "kind": f.kind, "required": f.required}
                for f in session.featuriser.schema.features
            ],
            "training_commit": manifest.training.get("commit"),
            "versions": {"onnxruntime": onnxruntime.__version__, "fastapi": fastapi.__version__},
        }

    def metrics_page() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    for path, handler in (
        ("/rerank", rerank),
        ("/v1/rerank", rerank),
        ("/rerank/batch", rerank_batch),
        ("/v1/rerank/batch", rerank_batch),
    ):
        app.add_api_route(
            path, handler, methods=["POST"], tags=["re-rank"], response_class=JsonResponse
        )
    for path, endpoint in (("/livez", livez), ("/readyz", readyz), ("/info", info)):
        app.add_api_route(path, endpoint, methods=["GET"], tags=["operate"])
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    app.add_api_route("/metrics", metrics_page, methods=["GET"], tags=["operate"])

    async def on_service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        if request.method == "POST":
            reranker.count("client_error" if error.status < 500 else "error")
        return problem(error, request.state.request_id)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "http_error")
        detail = f"{request.method} {request.url.path}: {error.detail}"[:200]
        return problem_of(
            error.status_code, code, detail, request.state.request_id, headers=error.headers
        )

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_middleware(
        Edge, max_body_bytes=settings.max_body_bytes, on_error=lambda: reranker.count("error")
    )
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the bodies that the routes parse themselves."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        bodies = (schemas.RerankRequest, schemas.BatchRequest)
        answers = (schemas.RerankResponse, schemas.BatchResponse, schemas.Problem)
        _, definitions = models_json_schema(
            [(model, "validation") for model in bodies]
            + [(model, "serialization") for model in answers],
            ref_template="#/components/schemas/{model}",
        )
        components = document.setdefault("components", {}).setdefault("schemas", {})
        components.update(definitions["$defs"])
        many = {"requests": [schemas.EXAMPLE, schemas.EXAMPLE]}
        for path, body, answer, example in (
            ("/rerank", bodies[0], answers[0], schemas.EXAMPLE),
            ("/v1/rerank", bodies[0], answers[0], schemas.EXAMPLE),
            ("/rerank/batch", bodies[1], answers[1], many),
            ("/v1/rerank/batch", bodies[1], answers[1], many),
        ):
            operation = document["paths"][path]["post"]
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": _ref(body), "example": example}},
            }
            operation["responses"] = {
                "200": {
                    "description": "The slate; `degraded` says when it is the initial ranking.",
                    "content": {"application/json": {"schema": _ref(answer)}},
                }
            }
            for status, meaning in (
                ("400", "Not JSON"),
                ("413", "Body too large"),
                ("422", "A field breaks a rule; `errors` names field, rule and value"),
                ("500", "The model failed and the fallback is off"),
                ("503", "Overload or not ready; see Retry-After"),
                ("504", "Deadline passed and the fallback is off"),
            ):
                operation["responses"][status] = {
                    "description": meaning,
                    "content": {"application/problem+json": {"schema": _ref(schemas.Problem)}},
                }
        app.openapi_schema = document
    return app.openapi_schema


def _ref(model: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
