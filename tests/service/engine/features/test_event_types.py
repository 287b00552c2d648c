"""Declared types of events: refusals by name, defaults, and their dictionary form."""

import re

import pytest

from service.engine.features.event_types import DEFAULT_EVENTS, EventType
from service.engine.features.schema import Schema
from service.engine.features.schema_rules import SchemaError
from tests.support.features import SCHEMA


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], "events: must be a mapping of 1 to 64 types, got []"),
        ({}, "events: must be a mapping of 1 to 64 types, got {}"),
        ({str(n): {} for n in range(65)}, "events: must be a mapping of 1 to 64 types"),
        ({"": {}}, "events: names must have 1 to 256 characters, got ''"),
        ({1: {}}, "events: names must have 1 to 256 characters, got 1"),
        ({"buy": 1}, "events.buy: must be a mapping of names to values, got 1"),
        ({"buy": {"labels": 1}}, "events.buy.labels: unknown field; must be one of"),
        ({"buy": {"label": 2}}, "events.buy.label: must be null or from 0 to 1, got 2"),
        ({"buy": {"label": True}}, "events.buy.label: must be null or from 0 to 1, got True"),
        ({"buy": {"weight": 0}}, "events.buy.weight: must be a finite number above 0, got 0"),
        ({"buy": {"show": "no"}}, "events.buy.show: must be true or false, got 'no'"),
    ],
)
def test_an_impossible_type_is_refused_naming_field_rule_and_value(events, message):
    with pytest.raises(SchemaError, match=re.escape(message)):
        Schema.from_dict({**SCHEMA, "events": events})


def test_a_schema_without_types_has_like_and_pass_and_is_written_as_before():
    schema = Schema.from_dict(SCHEMA)
    assert schema.events == DEFAULT_EVENTS == {"like": EventType(1.0), "pass": EventType(0.0)}
    assert "events" not in schema.to_dict()
    declared = Schema.from_dict({**SCHEMA, "events": {"pass": {"label": 0}, "like": {"label": 1}}})
    assert declared.to_dict() == schema.to_dict()


def test_declared_types_read_back_as_themselves():
    events = {"click": {"label": 0.5}, "buy": {"label": 1, "weight": 3, "show": False}, "see": {}}
    schema = Schema.from_dict({**SCHEMA, "events": events})
    assert schema.events == {
        "click": EventType(0.5),
        "buy": EventType(1.0, 3.0, False),
        "see": EventType(None),
    }
    assert Schema.from_dict(schema.to_dict()) == schema
