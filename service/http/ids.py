"""Ids in request bodies: strings, and integers, which are the same ids as their decimal text."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from service.engine.features.candidates import NumericId

MAX_CHARACTERS = 256
ID_RULE = f"a string of 1 to {MAX_CHARACTERS} characters, or an integer"
ID_ERROR = "id_type"  # pydantic's error type of a value that is no id
# Below this, an integral float is exactly the number in the body.
EXACT_FLOATS = 1 << 53
TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
INTEGER = {"type": "integer"}


def numeric_id(value: object) -> NumericId:
    """Return the id of an integer. Raises ValueError for any other value, True and 1.5 included."""
    if isinstance(value, float):
        if not (value.is_integer() and abs(value) < EXACT_FLOATS):
            raise ValueError
        return NumericId(value)
    if isinstance(value, int) and not isinstance(value, bool):
        item = NumericId(value)
        if len(item) <= MAX_CHARACTERS:
            return item
    raise ValueError


class IdSchema:
    """The validation of an id, and the schema that is published for it."""

    def __init__(self, published: dict[str, Any]) -> None:
        self._published = published

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        # The string comes first, so that string ids never reach Python code.
        text = core_schema.str_schema(min_length=1, max_length=MAX_CHARACTERS, strict=True)
        number = core_schema.no_info_plain_validator_function(numeric_id)
        return core_schema.union_schema(
            [text, number], custom_error_type=ID_ERROR, custom_error_message=ID_RULE
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(self._published)


Id = Annotated[str, IdSchema({"anyOf": [TEXT, INTEGER]})]
KeyId = Annotated[str, IdSchema(TEXT)]  # a key of an object; MessagePack has integers there too
