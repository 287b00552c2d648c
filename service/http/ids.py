"""Ids in request bodies, by the rule of service.engine.features.ids."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from service.engine.features.ids import BLANKS, read_id

MAX_CHARACTERS = 256
ID_RULE = f"a string of 1 to {MAX_CHARACTERS} characters that is not blank, or an integer"
ID_ERROR = "id_type"  # pydantic's error type of a value that is no id
NOT_BLANK = f"[^{BLANKS}]"
NOT_PADDED = f"^{NOT_BLANK}(?s:.*{NOT_BLANK})?$"
TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS, "pattern": NOT_BLANK}
INTEGER = {"type": "integer"}


def sent_id(value: object) -> str:
    """Return the id of a number or of text with blanks around it. Raises ValueError."""
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise ValueError
    item = read_id(value)
    if len(item) > MAX_CHARACTERS:
        raise ValueError
    return item


class IdSchema:
    """The validation of an id, and the schema that is published for it."""

    def __init__(self, published: dict[str, Any]) -> None:
        self._published = published

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        # Text without blanks around it comes first, so that it never reaches Python code.
        text = core_schema.str_schema(max_length=MAX_CHARACTERS, pattern=NOT_PADDED, strict=True)
        other = core_schema.no_info_plain_validator_function(sent_id)
        return core_schema.union_schema(
            [text, other], custom_error_type=ID_ERROR, custom_error_message=ID_RULE
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(self._published)


Id = Annotated[str, IdSchema({"anyOf": [TEXT, INTEGER]})]
KeyId = Annotated[str, IdSchema(TEXT)]  # a key of an object; MessagePack has integers there too
