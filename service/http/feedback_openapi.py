"""The part of the OpenAPI document about `POST /feedback`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.http.fields import StrictModel
from service.http.ids import Id
from service.http.schemas import FieldProblem
from service.state.events import MAX_POSITION, MAX_REQUEST_CHARACTERS, MAX_SHOWN

MAX_EVENTS = 1000  # of one call
EXAMPLE = {
    "events": [
        {"event_id": "e1", "user": "u42", "item": "480", "type": "like"},
        {"event_id": "e2", "user": "u42", "item": "296", "type": "like", "shown": ["318", "296"]},
        {
            "event_id": "e3", "request_id": "5f0c", "user": "u42", "item": "10", "type": "like",
            "position": 0, "value": 9.99,
        },
    ]
}  # fmt: skip


class FeedbackEvent(StrictModel):
    """One event about an item."""

    event_id: Id = Field(description="of each event of a user another one")
    user: Id | None = Field(None, description="optional beside a request_id")
    item: Id
    type: str = Field(description="a type of the bundle's schema, listed by GET /info")
    time: int | None = Field(None, ge=0, description="ms since 1970 UTC; default: now")
    label: float | None = Field(None, ge=0, le=1, description="replaces the label of the type")
    request_id: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_REQUEST_CHARACTERS,
        description="of the response that the event is about; joins it with that slate",
    )
    position: int | None = Field(
        None, ge=0, lt=MAX_POSITION, description="of the item in that slate, from 0"
    )
    value: float | None = Field(
        None, description="such as a price or a dwell time; the journal keeps it"
    )
    displayed: Annotated[list[Id], Field(max_length=MAX_SHOWN)] | None = Field(
        None,
        alias="shown",
        description="items displayed together; those without this event were passed over. With "
        "request_id it says which part of the slate was displayed",
    )


class FeedbackRequest(StrictModel):
    """Events; a bad one is refused alone."""

    events: list[FeedbackEvent] = Field(min_length=1, max_length=MAX_EVENTS)


class RefusedEvent(FieldProblem):
    """An event that breaks a rule."""

    index: int = Field(description="of the event in the call")
    event_id: str | int | None = Field(description="as it was sent; null without a valid one")


class FeedbackResponse(BaseModel):
    """The number of events that are kept, and those that are not."""

    accepted: int
    duplicates: int = Field(description="events that were kept before")
    refused: list[RefusedEvent]


REFUSALS = (
    ("403", "The API key is not valid; or, without keys, a page of another origin sends events"),
    ("503", "Not ready, the store does not respond, or too many events wait; see Retry-After"),
    ("507", "The store has no room"),
)
NOT_ANSWERED = ("429", "504")  # refusals of rankings that events never meet


def feedback_operation(operation: dict[str, Any]) -> dict[str, Any]:
    """Return the operation of a ranking route as that of events."""
    responses = {
        status: response
        for status, response in operation["responses"].items()
        if status not in NOT_ANSWERED
    }
    for status, meaning in REFUSALS:
        responses[status] = {**responses["500"], "description": meaning}
    responses["200"] = {**responses["200"], "description": "Accepted events are durable."}
    return {**operation, "tags": ["events"], "parameters": [], "responses": responses}
