"""The rule for passed-over items in a schema."""

import pytest

from service.engine.features.passed_over import DEFAULT, PassedOver
from service.engine.features.schema import Schema
from service.engine.features.schema_rules import SchemaError


def schema_of(**entries):
    return Schema.from_dict({"name": "shop", "features": [], **entries})


def test_a_rule_survives_the_way_into_a_bundle_and_the_default_leaves_no_trace():
    schema = schema_of(passed_over={"rule": "above", "settle": "2h"})
    assert schema.passed_over == PassedOver("above", "2h")
    assert schema.passed_over.settle_ms == 7_200_000
    assert Schema.from_dict(schema.to_dict()) == schema
    assert schema_of().passed_over == DEFAULT == PassedOver("all", "30m")
    assert "passed_over" not in schema_of(passed_over={"settle": "30m"}).to_dict()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"rule": "below"}, "passed_over.rule: must be one of all, above, stated, got 'below'"),
        ({"settle": 30}, "passed_over.settle: must be a duration above 0 such as 90m, 6h or 3d"),
        ({"wait": "1h"}, "passed_over.wait: "),
        (["above"], "passed_over: "),
    ],
)
def test_a_wrong_rule_is_refused_by_field_and_value(entry, message):
    with pytest.raises(SchemaError, match=f"^{message}"):
        schema_of(passed_over=entry)
