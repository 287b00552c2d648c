"""Look up the users of a call in the entity store."""

from __future__ import annotations

from collections.abc import Sequence

from service.http.schemas import RerankRequest
from service.state.store import EntityStore, UserLookup


async def look_up(
    store: EntityStore, bodies: Sequence[RerankRequest]
) -> Sequence[UserLookup | None]:
    """Return the lookup of each list's user, None for a list that leaves nothing to the store."""
    ids = [user_to_look_up(body) for body in bodies]
    wanted = [item for item in ids if item is not None]
    if not wanted:
        return [None] * len(bodies)
    lookups = iter(await store.users(wanted))
    return [None if item is None else next(lookups) for item in ids]


def user_to_look_up(body: RerankRequest) -> str | None:
    """Return the id of a user whose history or features the request leaves to the store."""
    user = body.user
    if user is None or user.id is None:
        return None
    return user.id if user.history is None or user.features is None else None
