"""The part of the OpenAPI document about the routes of users and items."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from service.http.fields import Features, Name, StrictModel
from service.http.ids import Id
from service.http.parsing import MSGPACK
from service.http.schemas import FieldProblem, Problem
from service.state.engine import MAX_ID_BYTES
from service.state.records import MAX_FEATURES, MAX_TIME

NDJSON = "application/x-ndjson"
TIME = "ms since 1970 UTC"
USER_EXAMPLE = {
    "user": "u42",
    "history": [{"id": "480", "label": 1.0, "type": "like", "time": 1700000000000}, "1721"],
}
ITEM_EXAMPLE = {
    "item": "480",
    "features": {"popularity": 9.5, "genres": ["Drama"]},
    "counters": {"like_rate": {"shows": 40.0, "likes": 11.5, "time": 1700000000000}},
}
REFUSALS = {
    "400": "The body, or the rest of it, cannot be read",
    "401": "No key, although RERANK_STATE_KEYS_FILE is set",
    "403": "The key is not valid",
    "404": "The store has no such user or item, or the routes are off",
    "408": "The next part of the body took too long to arrive",
    "413": "A JSON document is over the size limit; lines are not limited in number",
    "415": "The body is compressed",
    "422": "The id or the query breaks a rule",
    "500": "The entity has bytes that no store has written",
    "503": "The entity store does not respond; see Retry-After",
    "507": "The entity store has no room",
}
READING = ("401", "403", "404", "422", "500", "503")
WRITING = ("400", "401", "403", "404", "408", "413", "415", "422", "503", "507")
DELETING = ("401", "403", "404", "422", "503", "507")


class StoredAnswer(StrictModel):
    """One past answer of a user."""

    id: Id
    label: float | None = Field(1.0, ge=0, le=1, description="scaled label")
    type: Name | None = Field(None, description="of the event")
    time: int | None = Field(None, ge=0, lt=MAX_TIME, description=TIME)


class AnswerColumns(StrictModel):
    """Past answers as a list per field, the latest answer last."""

    id: list[Id]
    label: list[float | None] | None = None
    type: list[Name | None] | None = None
    time: list[int | None] | None = None


class StoredCounter(StrictModel):
    """Decayed counts of a statistic, as of a time."""

    shows: float = Field(ge=0)
    likes: float = Field(ge=0, description="at most `shows`")
    time: int = Field(ge=0, lt=MAX_TIME, description=TIME)


class Entity(StrictModel):
    """The fields of users and items; a record changes those that it has."""

    features: Features | None = Field(
        None,
        max_length=MAX_FEATURES,
        description="by name; null removes one",
    )
    updated_at: int | None = Field(None, ge=0, lt=MAX_TIME, description=f"{TIME}; default: now")
    expires_at: int | None = Field(
        None, ge=0, lt=MAX_TIME, description=f"{TIME}; default: by the query, or never"
    )


class UserRecord(Entity):
    """A user of the entity store."""

    user: Id = Field(description=f"at most {MAX_ID_BYTES} bytes in UTF-8")
    history: list[StoredAnswer | Id] | AnswerColumns | None = Field(
        None, description="replaces the history, the latest answer last; an id alone was liked"
    )


class ItemRecord(Entity):
    """An item of the entity store."""

    item: Id = Field(description=f"at most {MAX_ID_BYTES} bytes in UTF-8")
    counters: dict[str, StoredCounter | None] | None = Field(
        None, description="by statistic; null removes one"
    )


class RefusedRecord(FieldProblem):
    """A record that breaks a rule."""

    line: int = Field(description="number of the line, value or list entry, from 1")


class PutResponse(BaseModel):
    """The number of records that are kept, and those that are not."""

    written: int
    refused_count: int
    refused: list[RefusedRecord] = Field(description="the first 20")


def add_entities(document: dict[str, Any]) -> None:
    """Describe the routes of users and items, which exist with an entity store alone."""
    _, definitions = models_json_schema(
        [
            (UserRecord, "validation"),
            (ItemRecord, "validation"),
            (PutResponse, "serialization"),
        ],
        ref_template="#/components/schemas/{model}",
    )
    document["components"]["schemas"].update(definitions["$defs"])
    for kind, record, example in (
        ("user", UserRecord, USER_EXAMPLE),
        ("item", ItemRecord, ITEM_EXAMPLE),
    ):
        for prefix in ("", "/v1"):
            path = f"{prefix}/{kind}s"
            document["paths"][path] = {"put": _put(kind, path, record, example)}
            document["paths"][f"{path}/{{id}}"] = {
                "get": _read(kind, path, record),
                "delete": _delete(kind, path),
            }


def _put(kind: str, path: str, record: type[Any], example: Any) -> dict[str, Any]:
    one, binary = _reference(record), {"type": "string", "format": "binary"}
    return {
        "tags": ["entities"],
        "summary": f"Write {kind}s into the entity store",
        "description": "Bodies of lines and of MessagePack values may have any size. A bad record "
        "is refused alone, and sending a body again is harmless.",
        "operationId": f"put_{_name(path)}",
        "parameters": [
            _query("check", {"type": "boolean", "default": True},
                   "Refuse what the schema of the default model does not declare or allow."),
            _query("ttl_s", {"type": "number", "exclusiveMinimum": 0, "maximum": 1e9},
                   "Seconds until a record without `expires_at` expires."),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"anyOf": [one, {"type": "array", "items": one}]},
                    "example": [example],
                },
                NDJSON: {"schema": binary, "description": "a record per line"},
                MSGPACK: {"schema": binary, "description": "records behind each other"},
            },
        },
        "responses": {
            "200": _content("What was written, and what was refused.", PutResponse),
            **_refusals(WRITING),
        },
    }  # fmt: skip


def _read(kind: str, path: str, record: type[Any]) -> dict[str, Any]:
    return {
        "tags": ["entities"],
        "summary": f"Read one {kind}",
        "operationId": f"get_{_name(path)}",
        "parameters": [_id(kind)],
        "responses": {
            "200": _content("The record, without `expires_at`.", record),
            **_refusals(READING),
        },
    }


def _delete(kind: str, path: str) -> dict[str, Any]:
    return {
        "tags": ["entities"],
        "summary": f"Delete one {kind}",
        "operationId": f"delete_{_name(path)}",
        "parameters": [_id(kind)],
        "responses": {
            "204": {"description": f"The store has no such {kind} any more."},
            **_refusals(DELETING),
        },
    }


def _id(kind: str) -> dict[str, Any]:
    return {
        "name": "id", "in": "path", "required": True,
        "description": f"The {kind}'s id, percent-encoded UTF-8.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES},
    }  # fmt: skip


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "name": name, "in": "query", "required": False, "schema": schema,
        "description": description,
    }  # fmt: skip


def _content(description: str, model: type[Any]) -> dict[str, Any]:
    content = {"schema": _reference(model)}
    return {
        "description": description, "content": {"application/json": content, MSGPACK: content},
    }  # fmt: skip


def _refusals(statuses: tuple[str, ...]) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _reference(Problem)}}
    return {status: {"description": REFUSALS[status], "content": content} for status in statuses}


def _reference(model: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _name(path: str) -> str:
    return path.strip("/").replace("/", "_")
