"""Null is the same as an absent field, for every optional field."""

import copy
from typing import Any

import ormsgpack
import pytest
from pydantic import BaseModel

from service.http import fields, schemas
from service.http.parsing import MSGPACK

HISTORY = [{"id": "1", "label": 0.5, "features": {"genres": ["war"]}}]
FULL = {
    "request_id": "r",
    "user": {"id": "u", "history": HISTORY, "features": {}},
    "context": {},
    "candidates": [
        {"id": "1", "score": 0.5, "features": {"runtime": 90}, "groups": {"author": "a"}},
        {"id": "32", "groups": {"author": "b"}},
        {"id": "47"},
    ],
    "slate_size": 2,
    "reasoning": {"budget": 1, "entropy_threshold": 1.0},
    "temperatures": {"reason": 1.0, "recommend": 1.0},
    "sampling": {"slates": 2, "seed": 1},
    "constraints": {"pinned": {"1": 0}, "blocked": ["47"], "max_per_group": {"author": 1}},
    "timeout_ms": 60_000,
    "model": "ranklens",
    "priority": "background",
    "explain": True,
}
COLUMNS = {
    **FULL,
    "candidates": {
        "id": ["1", "32", "47"],
        "score": [0.5, None, None],
        "features": {"runtime": [90, 80, 70]},
        "groups": {"author": ["a", "b", None]},
    },
}
INTENT = {
    "candidates": [
        {"id": "1", "topics": {"mood": ["calm", "old"]}, "boost": -1.0},
        {"id": "32", "topics": {"mood": ["calm"]}, "boost": 0.5},
        {"id": "47", "topics": {"mood": ["dark"]}, "boost": 0.25},
    ],
    "diversity": {"by": "mood", "weight": 2.0, "decay": 0.5, "law": "mean"},
    "explain": True,
}
INTENT_COLUMNS = {
    **INTENT,
    "candidates": {
        "id": ["1", "32", "47"],
        "topics": {"mood": [["calm", "old"], ["calm"], ["dark"]]},
        "boost": [-1.0, 0.5, 0.25],
    },
}
REQUIRED = {"candidates", "id", "slates", "seed"}
# Paths of optional fields; the first record and the first entry stand for all.
RECORD_PATHS = [
    *([name] for name in FULL if name not in REQUIRED),
    *(["user", name] for name in FULL["user"]),  # type: ignore[attr-defined]
    *(["user", "history", 0, name] for name in ("label", "features")),
    ["user", "history", 0, "features", "genres"],
    *(["candidates", 0, name] for name in ("score", "features", "groups")),
    ["candidates", 0, "features", "runtime"],
    ["candidates", 0, "groups", "author"],
    *([part, name] for part in ("reasoning", "temperatures") for name in FULL[part]),  # type: ignore[attr-defined]
    *(["constraints", name] for name in FULL["constraints"]),  # type: ignore[attr-defined]
]
COLUMN_PATHS = [
    *(["candidates", name] for name in ("score", "features", "groups")),
    ["candidates", "features", "runtime"],
    ["candidates", "groups", "author"],
]
INTENT_CASES: list[Any] = [
    *((INTENT, ["candidates", 0, name]) for name in ("topics", "boost")),
    (INTENT, ["diversity"]),
    *((INTENT, ["diversity", name]) for name in ("weight", "decay", "law")),
    *((INTENT_COLUMNS, ["candidates", name]) for name in ("topics", "boost")),
    (INTENT_COLUMNS, ["diversity"]),
]
CASES = [(FULL, path) for path in RECORD_PATHS] + [(COLUMNS, path) for path in COLUMN_PATHS]


def with_null_and_without(payload, path):
    """Return a payload with null at a path, and one without the field."""
    results = []
    for remove in (False, True):
        changed = copy.deepcopy(payload)
        *above, name = path
        holder = changed
        for key in above:
            holder = holder[key]
        if remove:
            del holder[name]
        else:
            holder[name] = None
        if path == ["candidates", "topics"]:  # else no candidate has the attribute
            changed.pop("diversity")
        if path[-1] in ("groups", "author"):  # else the constraint names no attribute
            changed["constraints"] = {"blocked": ["47"]}
        results.append(changed)
    return results


@pytest.mark.parametrize(("payload", "path"), INTENT_CASES, ids=lambda value: str(value)[-40:])
def test_null_in_an_intent_gives_the_response_of_an_absent_field(degraded, payload, path):
    null, absent = with_null_and_without(payload, path)
    expected = outcome_of(degraded.post("/rerank", json=absent))
    assert outcome_of(degraded.post("/rerank", json=null)) == expected
    assert outcome_of(degraded.post("/rerank", json=payload)) != expected


def outcome_of(response):
    result = response.raise_for_status().json()
    return {k: v for k, v in result.items() if k not in ("latency_ms", "request_id")}


@pytest.mark.parametrize(("payload", "path"), CASES, ids=lambda value: str(value)[:60])
def test_null_gives_the_response_of_an_absent_field(client, payload, path):
    null, absent = with_null_and_without(payload, path)
    expected = outcome_of(client.post("/rerank", json=absent))
    assert outcome_of(client.post("/rerank", json=null)) == expected
    headers = {"Content-Type": MSGPACK, "Accept": "application/json"}
    packed = client.post("/rerank", content=ormsgpack.packb(null), headers=headers)
    assert outcome_of(packed) == expected
    batch = client.post("/rerank/batch", json={"requests": [null]})
    assert batch.raise_for_status().json()["responses"][0]["degraded"] is None


def test_every_optional_field_of_the_schemas_is_tested_with_null():
    models = [
        kind for kind in {**vars(fields), **vars(schemas)}.values()
        if isinstance(kind, type) and issubclass(kind, fields.StrictModel)
    ]  # fmt: skip
    optional = {
        name for model in models for name, field in model.model_fields.items()
        if not field.is_required()
    }  # fmt: skip
    paths: list[Any] = [path for _, path in [*CASES, *INTENT_CASES]]
    assert optional == {path[-1] for path in paths} - {"runtime", "author", "genres"}
    assert all(issubclass(model, BaseModel) for model in models)


def test_an_all_null_request_ranks_as_candidates_alone(client):
    nulls = {name: None for name in FULL if name not in REQUIRED}
    results = [
        outcome_of(client.post("/rerank", json={**extra, "candidates": ["1", "32"]}))
        for extra in (nulls, {})
    ]
    assert results[0] == results[1]
