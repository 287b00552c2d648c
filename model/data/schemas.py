"""Read feature schemas from YAML files."""

from __future__ import annotations

from pathlib import Path

import yaml

from model.data.errors import DataError
from model.data.layout import COLUMNS
from service.engine.features.schema import Schema
from service.engine.features.schema_rules import SchemaError

SCHEMAS = Path(__file__).parents[1] / "schemas"


def load_schema(path: Path) -> Schema:
    """Read a feature schema. Raises DataError that names file, field and rule."""
    try:
        payload = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(path, f"cannot be read ({error})") from None
    if not isinstance(payload, dict):
        raise DataError(path, "must be a mapping with name and features", value=payload)
    try:
        schema = Schema.from_dict(payload)
    except SchemaError as error:
        raise DataError(path, str(error)) from None
    for feature in schema.features:
        is_id = (feature.name, feature.of) in (("item_id", "item"), ("user_id", "user"))
        taken = feature.name in COLUMNS or feature.name.startswith("__")
        if taken and not (is_id and feature.kind == "identifier"):
            rule = "must not be a column of the log or begin with __"
            raise DataError(path, f"features.{feature.name}.name: {rule}", value=feature.name)
    return schema
