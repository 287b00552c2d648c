"""Look up the users and items of a call in the entity store, all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from service.http.schemas import (
    CandidateColumns,
    PlainCandidate,
    RerankRequest,
    candidates_form,
)
from service.state.store import EntityStore, ListLookup


async def look_up(store: EntityStore, bodies: Sequence[RerankRequest]) -> Sequence[ListLookup]:
    """Return the lookup of each list: its items, and its user if that is left to the store."""
    users = [user_to_look_up(body) for body in bodies]
    return await store.look_up(users, [candidate_ids(body) for body in bodies])


def user_to_look_up(body: RerankRequest) -> str | None:
    """Return the id of a user whose history or features the request leaves to the store."""
    user = body.user
    if user is None or user.id is None:
        return None
    return user.id if user.history is None or user.features is None else None


def candidate_ids(body: RerankRequest) -> Sequence[str]:
    """Return the ids of the candidates, in their order."""
    candidates = body.candidates
    if isinstance(candidates, CandidateColumns):
        return candidates.id
    if candidates_form(candidates) == "ids":
        return cast("list[str]", candidates)
    return [record.id for record in cast("list[PlainCandidate]", candidates)]
