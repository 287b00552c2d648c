"""Check entities against the feature schema of a bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.engine.contract import FEATURES
from service.engine.features.encoding import FeatureError, encode_number, encode_vector
from service.engine.features.ids import read_id
from service.engine.features.item_files import IN_FILES
from service.engine.features.schema import NUMBER_KINDS, Feature, Schema
from service.state.entities import fingerprint_of
from service.state.errors import EntityError
from service.state.records import Record


@dataclass(frozen=True)
class SchemaCheck:
    """Refuses features that a schema does not declare, or of another type."""

    schema: Schema

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint of the schema."""
        return fingerprint_of(self.schema)

    @classmethod
    def of(cls, bundle: Path) -> SchemaCheck:
        """Read the schema of a bundle. Raises EntityError naming the file."""
        path = bundle / FEATURES
        try:
            payload = json.loads(path.read_text(encoding="utf-8"))
            declared = {name: part for name, part in payload.items() if name != IN_FILES}
            return cls(Schema.from_dict(declared))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise EntityError(str(path), "the feature schema of a bundle", str(error)) from None

    def __call__(self, record: Record) -> None:
        """Raise EntityError for a feature or counter that the schema does not allow."""
        owner = record.key.kind
        features = {f.name: f for f in self.schema.features if f.of == owner}
        for name, value in (record.features or {}).items():
            if name not in features:
                raise EntityError(f"features.{name}", f"a feature of {owner} of the schema", value)
            if value is not None:
                check_value(features[name], value)
        for name in record.counters or {}:
            if name not in features or features[name].kind != "statistic":
                raise EntityError(f"counters.{name}", "a statistic of the schema", name)


def check_value(feature: Feature, value: Any) -> None:
    """Raise EntityError for a value that the feature's kind does not allow."""
    path = f"features.{feature.name}"
    try:
        if feature.kind in NUMBER_KINDS:
            encode_number(feature, value, path)
        elif feature.kind == "vector":
            encode_vector(feature, value, path)
        else:
            _check_tokens(feature, value, path)
    except FeatureError as error:
        raise EntityError(error.path, error.rule, value) from None


def _check_tokens(feature: Feature, value: Any, path: str) -> None:
    entries = value if feature.kind == "categories" and isinstance(value, list) else [value]
    for entry in entries:
        try:
            if not isinstance(entry, str):
                read_id(entry)
        except ValueError:
            rule = "a list of texts" if feature.kind == "categories" else "a text or a whole number"
            raise FeatureError(path, rule, value) from None
