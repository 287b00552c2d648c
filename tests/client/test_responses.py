"""Parsing of responses and problems."""

import dataclasses
import json

import pytest

from rerank_client.responses import Model, Position, Reasoning, parse_problem, parse_responses
from service.http.schemas import Latency, ReasoningUsed, RerankResponse, SlateEntry
from service.http.schemas import Model as ServedModel
from tests.support.scripted import response_to

RAW = response_to({"candidates": [{"id": "a"}, {"id": "b"}]})


def names(kind):
    return [field.name for field in dataclasses.fields(kind)]


def test_the_dataclasses_have_the_fields_of_the_service_schemas():
    assert names(Position) == list(SlateEntry.model_fields)
    assert names(Reasoning) == list(ReasoningUsed.model_fields)
    assert names(Model) == list(ServedModel.model_fields)


def test_the_scripted_response_of_these_tests_fits_the_schema_of_the_service():
    parts = dict.fromkeys(Latency.model_fields, 0.0)
    RerankResponse.model_validate(RAW | {"latency_ms": parts}, strict=True)


def test_a_response_is_parsed_by_field_and_kept_as_raw_json():
    (response,) = parse_responses(json.dumps(RAW | {"new": 1}).encode(), None)
    assert response.ids == ("b", "a")
    assert response.slate[0] == Position("b", 0, 1, -1.5, -1.5, -1.5, 2)
    assert response.model == Model("turn", "7", "active")
    assert response.reasoning == Reasoning(4, 30, 3, 3, 2.5)
    assert response.latency_ms == {"total": 2.0, "inference": 1.0}
    assert response.degraded is None
    assert response.unknown_candidates == 1
    assert response.raw["new"] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        response.request_id = "other"  # type: ignore[misc]


def test_a_degraded_response_of_the_service_has_its_reason():
    raw = RAW | {"degraded": {"reason": "overload"}}
    del raw["unknown_candidates"]  # of an older service
    (response,) = parse_responses(json.dumps(raw).encode(), None)
    assert (response.degraded, response.unknown_candidates) == ("overload", None)


def test_a_batch_is_parsed_in_order():
    raws = [RAW | {"request_id": name} for name in "xy"]
    responses = parse_responses(json.dumps({"responses": raws}).encode(), 2)
    assert [response.request_id for response in responses] == ["x", "y"]


@pytest.mark.parametrize(
    ("content", "lists"),
    [
        (b"<html>", None),
        (b"\xff", None),
        (b"[]", None),
        (b"null", None),
        (b"{}", None),
        (json.dumps(RAW | {"slate": None}).encode(), None),
        (json.dumps(RAW | {"slate": [{"id": "a"}]}).encode(), None),
        (json.dumps(RAW | {"latency_ms": 3}).encode(), None),
        (json.dumps(RAW).encode(), 1),
        (json.dumps({"responses": [RAW]}).encode(), 2),
    ],
)
def test_a_body_that_is_no_response_is_a_value_error(content, lists):
    with pytest.raises(ValueError, match=r"."):
        parse_responses(content, lists)


def test_a_problem_is_parsed_with_every_field_and_a_page_by_its_status():
    errors = [{"field": "slate_size", "rule": "at most 2", "value": "9"}]
    problem = {"code": "invalid_request", "detail": "d", "request_id": "r", "errors": errors}
    refused = parse_problem(422, json.dumps(problem).encode(), "mine")
    assert (refused.status, refused.code, refused.request_id) == (422, "invalid_request", "r")
    assert [dataclasses.asdict(error) for error in refused.errors] == errors
    page = parse_problem(403, b"<html>", "mine")
    assert (page.code, page.detail, page.request_id) == ("http_403", "Forbidden", "mine")
    assert page.errors == ()
    assert parse_problem(499, b"", "mine").code == "http_499"
