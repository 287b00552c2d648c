"""The service's JSON as dataclasses."""

import dataclasses
import json

import pytest

from rerank_client.responses import Model, Position, Reasoning, parse_problem, parse_responses
from service.http.schemas import Latency, ReasoningUsed, RerankResponse, SlateEntry
from service.http.schemas import Model as ServedModel
from tests.client.conftest import response_to

RAW = response_to({"candidates": [{"id": "a"}, {"id": "b"}]})


def names(kind):
    return [field.name for field in dataclasses.fields(kind)]


def test_the_dataclasses_have_the_fields_of_the_services_schemas():
    assert names(Position) == list(SlateEntry.model_fields)
    assert names(Reasoning) == list(ReasoningUsed.model_fields)
    assert names(Model) == list(ServedModel.model_fields)


def test_the_answer_that_these_tests_script_is_one_the_service_could_give():
    parts = dict.fromkeys(Latency.model_fields, 0.0)
    RerankResponse.model_validate(RAW | {"latency_ms": parts}, strict=True)


def test_an_answer_is_read_field_by_field_and_kept_whole_beside():
    (response,) = parse_responses(json.dumps(RAW | {"new": 1}).encode(), None)
    assert response.ids == ("b", "a")
    assert response.slate[0] == Position("b", 0, 1, -1.5, -1.5, -1.5, 2)
    assert response.model == Model("turn", "7", "active")
    assert response.reasoning == Reasoning(4, 30, 3, 3, 2.5)
    assert response.latency_ms == {"total": 2.0, "inference": 1.0}
    assert response.degraded is None
    assert response.raw["new"] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        response.request_id = "other"


def test_a_degraded_answer_of_the_service_says_why():
    raw = RAW | {"degraded": {"reason": "overload"}}
    assert parse_responses(json.dumps(raw).encode(), None)[0].degraded == "overload"


def test_a_batch_is_read_in_order():
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
def test_what_is_no_answer_is_said_to_be_none(content, lists):
    with pytest.raises(ValueError, match=r"."):
        parse_responses(content, lists)


def test_a_problem_is_told_with_every_field_and_a_page_with_its_status():
    errors = [{"field": "slate_size", "rule": "at most 2", "value": "9"}]
    problem = {"code": "invalid_request", "detail": "d", "request_id": "r", "errors": errors}
    told = parse_problem(422, json.dumps(problem).encode(), "mine")
    assert (told.status, told.code, told.request_id) == (422, "invalid_request", "r")
    assert [dataclasses.asdict(error) for error in told.errors] == errors
    page = parse_problem(403, b"<html>", "mine")
    assert (page.code, page.detail, page.request_id) == ("http_403", "Forbidden", "mine")
    assert page.errors == ()
    assert parse_problem(499, b"", "mine").code == "http_499"
