"""Types of fields that several request bodies share, and those of a list's intent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

Text = Annotated[str, Field(max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
# For lists without a bound of their own: each invalid entry costs time before the refusal.
MAX_ENTRIES = Field(max_length=10_000)


def _without_copy(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Return an object of string keys as it is; pydantic would copy it key by key."""
    if type(value) is not dict:
        return validate(value)
    try:
        "".join(value)  # the fastest way to see that every key is text
    except TypeError:
        return validate(value)
    return value


def _refuse_numbers(value: Any) -> Any:
    """Return a value of `explain`; to pydantic the number 1 would be the literal True."""
    if isinstance(value, bool) or (isinstance(value, str) and value == "steps"):
        return value
    raise PydanticCustomError("explain", 'true, false or "steps"')


Explain = Annotated[Literal[False, True, "steps"], BeforeValidator(_refuse_numbers)]
# Values are checked against the bundle's feature schema, not here.
Features = Annotated[dict[str, Any], WrapValidator(_without_copy)]
# Tags of unions in pydantic's error locations; no keys of a body.
RECORDS, IDS, COLUMNS, ENTRY, ID, VALUES, PACKED, TERM, TERMS = TAGS = (
    "<records>", "<ids>", "<columns>", "<entry>", "<id>", "<values>", "<packed>", "<term>",
    "<terms>",
)  # fmt: skip


class StrictModel(BaseModel):
    """Refuses unknown fields, coercions and NaN, because a silent default hides a client's bug.

    Every optional field may be null, which is the same as leaving it out.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class PackedNumbers(StrictModel):
    """An array of numbers as bytes (`bin` of MessagePack): little-endian, row after row."""

    dtype: Literal["float32", "float64"]
    # Without numbers, a shape of any size would cost the client nothing.
    shape: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1, max_length=2, description="of a vector feature: candidates, width"
    )
    # No format: generators of requests make bytes of `binary`, which JSON cannot hold.
    data: Annotated[
        bytes, WithJsonSchema({"type": "string", "description": "bytes, in MessagePack alone"})
    ]


def _column_tag(value: Any) -> str:
    return PACKED if isinstance(value, (dict, PackedNumbers)) else VALUES


Values = Annotated[
    Annotated[list[Any], Tag(VALUES)] | Annotated[PackedNumbers, Tag(PACKED)],
    Discriminator(_column_tag),
]
Scores = Annotated[
    Annotated[list[float | None], MAX_ENTRIES, Tag(VALUES)] | Annotated[PackedNumbers, Tag(PACKED)],
    Discriminator(_column_tag),
]

# Limits of a list's intent; service.ranking.intent bounds what a bundle's item table adds.
MAX_TERMS = 4
MAX_TOPICS = 64
LARGEST_BOOST = 10.0

Boost = Annotated[float, Field(ge=-LARGEST_BOOST, le=LARGEST_BOOST)]
Boosts = Annotated[
    Annotated[list[Boost | None], MAX_ENTRIES, Tag(VALUES)] | Annotated[PackedNumbers, Tag(PACKED)],
    Discriminator(_column_tag),
]
Topics = Annotated[list[Text], Field(max_length=MAX_TOPICS)]


class Diversity(StrictModel):
    """A bonus for values of one attribute that the slate does not have yet."""

    by: Name = Field(
        description="a key of `candidates[].topics` or `groups`, or a category, categories or "
        "identifier of items or candidates in the model's schema"
    )
    weight: float | None = Field(
        0.6, ge=0, le=10, description="factor of the logarithm in the logit; 0: none"
    )
    decay: float | None = Field(
        0.2, gt=0, lt=1, description="share of a value's worth that each item with it takes away"
    )
    law: Literal["sum", "mean"] | None = Field(
        "sum", description="the worth of an item: the sum over its values, or their mean"
    )


def _diversity_tag(value: Any) -> str:
    return TERMS if isinstance(value, list) else TERM


Diversities = Annotated[
    Annotated[Diversity, Tag(TERM)]
    | Annotated[list[Diversity], Field(max_length=MAX_TERMS), Tag(TERMS)],
    Discriminator(_diversity_tag),
]
