"""The OpenAPI document: FastAPI's own, extended by the ranking routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.http import schemas
from service.http.entities_openapi import add_entities
from service.http.feedback_openapi import (
    EXAMPLE,
    FeedbackRequest,
    FeedbackResponse,
    feedback_operation,
)
from service.http.parsing import MSGPACK

REFUSALS = (
    ("400", "The body is not valid JSON or MessagePack, or the request is not HTTP"),
    ("401", "No API key, although the service requires one"),
    (
        "403",
        "The API key is not valid; or, without keys and with a journal, a page of another origin "
        "sends the call",
    ),
    ("408", "The body took too long to arrive"),
    ("413", "The body is over the size limit"),
    ("414", "Path and query are too long"),
    ("415", "The body is compressed"),
    ("422", "A field breaks a rule; `errors` names field, rule and value"),
    ("429", "The key's quota is used up; see Retry-After"),
    ("431", "The headers are too large"),
    ("500", "The model failed and the fallback is off"),
    ("501", "The body has a transfer coding besides chunked"),
    ("503", "Not ready, or overloaded with the fallback off; see Retry-After"),
    ("504", "The deadline passed and the fallback is off"),
)
TIMEOUT_HEADER = {
    "name": "X-Request-Timeout-Ms", "in": "header", "required": False,
    "description": "Deadline in milliseconds; the smallest of header, body and setting applies.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}  # fmt: skip


def openapi(app: FastAPI) -> dict[str, Any]:
    """Return the document of an application; it is built once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        bodies = (schemas.RerankRequest, schemas.BatchRequest)
        responses = (schemas.RerankResponse, schemas.BatchResponse, schemas.Problem)
        _, definitions = models_json_schema(
            [(model, "validation") for model in bodies]
            + [(model, "serialization") for model in responses],
            ref_template="#/components/schemas/{model}",
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        batch_example = {"requests": [schemas.EXAMPLE, schemas.EXAMPLE]}
        for path, body, response, example, summary in (
            ("/rerank", bodies[0], responses[0], schemas.EXAMPLE, "Re-rank one candidate list"),
            (
                "/rerank/batch",
                bodies[1],
                responses[1],
                batch_example,
                "Re-rank several candidate lists",
            ),
        ):
            for prefix in ("", "/v1"):
                document["paths"][prefix + path] = {
                    "post": ranking_operation(prefix + path, summary, body, response, example)
                }
        if any(getattr(route, "path", None) == "/feedback" for route in app.routes):
            add_feedback(document)
        if any(getattr(route, "path", None) == "/users" for route in app.routes):
            add_entities(document)
        app.openapi_schema = document
    return app.openapi_schema


def add_feedback(document: dict[str, Any]) -> None:
    """Describe `POST /feedback`, which exists with an entity store alone."""
    _, definitions = models_json_schema(
        [(FeedbackRequest, "validation"), (FeedbackResponse, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    document["components"]["schemas"].update(definitions["$defs"])
    for path in ("/feedback", "/v1/feedback"):
        operation = ranking_operation(
            path, "Report what users did", FeedbackRequest, FeedbackResponse, EXAMPLE
        )
        document["paths"][path] = {"post": feedback_operation(operation)}


def ranking_operation(
    path: str, summary: str, body: type[Any], response: type[Any], example: Any
) -> dict[str, Any]:
    """Describe one POST route with all its responses."""
    request_content = {"schema": schema_reference(body)}
    response_content = {"schema": schema_reference(response)}
    refusals = {
        status: {
            "description": meaning,
            "content": {"application/problem+json": {"schema": schema_reference(schemas.Problem)}},
        }
        for status, meaning in REFUSALS
    }
    return {
        "tags": ["re-rank"],
        "summary": summary,
        "operationId": path.strip("/").replace("/", "_"),
        "parameters": [TIMEOUT_HEADER],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {**request_content, "example": example},
                MSGPACK: request_content,
            },
        },
        "responses": {
            "200": {
                "description": "The slate; `degraded` marks a response with the initial ranking.",
                "content": {"application/json": response_content, MSGPACK: response_content},
            },
            **refusals,
        },
    }


def schema_reference(model: type[Any]) -> dict[str, str]:
    """Return a reference to the schema of a model."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}
