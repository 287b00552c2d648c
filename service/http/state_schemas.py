"""The published form of what the entity store gave to a list."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ItemsUsed(BaseModel):
    """The part of stored items in the ranking of one list."""

    hits: int = Field(description="candidates that the store has")
    misses: int = Field(description="candidates that the store lacks")
    features: list[str] = Field(description="features that came from the store for some candidate")
    counters: list[str] = Field(
        description="statistics that came from live counters for some candidate"
    )
    ignored: list[str] = Field(
        description="stored features that the model's schema does not declare or allow"
    )
    clipped: int = Field(description="numbers that were clipped to the range of training")
    oldest_age_s: float | None = Field(
        description="seconds since the last change of the item that changed longest ago"
    )
    newest_age_s: float | None = Field(description="seconds since the latest change of an item")


class StateUsed(BaseModel):
    """The part of the entity store in the ranking of one list."""

    user: Literal["hit", "miss", "unavailable"] | None = Field(
        description="null if the request has no user id, or has history and features of the user"
    )
    history: int = Field(description="entries of the history that came from the store")
    features: list[str] = Field(description="user features that came from the store")
    ignored: list[str] = Field(
        description="stored features that the model's schema does not declare or allow"
    )
    age_s: float | None = Field(description="seconds since the user's last change")
    items: ItemsUsed | None = Field(description="null if they could not be read")
