"""Fill a request from the entity store; inline values take precedence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.engine.features.candidates import CandidateList
from service.engine.features.schema import Schema
from service.engine.features.stored_items import StoredItems, StoredList
from service.state.entities import Item
from service.state.store import ListLookup, Status, UserLookup

USER_ID = "user_id"  # the feature that the id of the request fills


@dataclass(slots=True)
class StateUse:
    """The part that the store had in one list, for explanations.

    history: number of stored answers in the history; features: names of stored features in use;
    ignored: names of those that the schema does not declare or allow; age_s: seconds since the
    entity changed; incomplete: a default stands for a stored value that the schema requires and
    does not allow. status: of the user, None if the list leaves nothing of it to the store. items:
    the stored items in the features; items_failed: they could not be read.
    """

    status: Status | None
    history: int = 0
    features: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    age_s: float | None = None
    incomplete: bool = False
    items: StoredList | None = None
    items_failed: bool = False

    @property
    def failed(self) -> bool:
        """True if the list was ranked without something that the store should have given."""
        unread = self.items_failed or (self.items is not None and self.items.corrupt > 0)
        return unread or self.status == "unavailable" or self.incomplete


def with_stored(
    inputs: CandidateList, lookup: ListLookup, has_history: bool, schema: Schema, live: bool
) -> tuple[CandidateList, StateUse]:
    """Return the list with its stored user and items, and what was used of the user.

    Args:
        has_history: the request states a history, be it empty.
        schema: of the bundle; stored features that it does not declare are left out.
        live: counters of items give the values of statistics.
    """
    use = StateUse(None)
    if lookup.user is not None:
        inputs, use = with_stored_user(inputs, lookup.user, has_history, schema)
    if lookup.items is None:
        use.items_failed = True
        return inputs, use
    items = StoredItems(lookup.items, Item.from_blob, lookup.now, live, lookup.recent)
    return inputs.with_values(stored=items), use


def with_stored_user(
    inputs: CandidateList, lookup: UserLookup, has_history: bool, schema: Schema
) -> tuple[CandidateList, StateUse]:
    """Return the list with the user's stored history and features, and what was used.

    Args:
        has_history: the request states a history, be it empty.
        schema: of the bundle; stored features that it does not declare are left out.
    """
    user = lookup.user
    if user is None:
        if lookup.status == "unavailable":  # the caller cannot know what the store would have given
            inputs = inputs.with_values(user_is_partial=True)
        return inputs, StateUse(lookup.status)
    changes: dict[str, Any] = {}
    if not has_history and user.answers.items:
        changes["history"] = user.answers.history(schema.history.limit)
    stored, ignored = _declared(user.features, inputs.user, schema)
    if stored:
        changes["user"] = {**inputs.user, **stored}
    use = StateUse("hit", len(changes.get("history", ())), tuple(stored), ignored, lookup.age_s)
    return (inputs.with_values(**changes) if changes else inputs), use


def _declared(
    features: Mapping[str, Any], inline: Mapping[str, Any], schema: Schema
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the stored features to use, and the names of those that the schema lacks."""
    if not features:
        return {}, ()
    names = {f.name for f in schema.features if f.of == "user" and f.name != USER_ID}
    stored = {
        name: value
        for name, value in features.items()
        if name in names and inline.get(name) is None
    }
    return stored, tuple(name for name in features if name not in names)


def without(
    inputs: CandidateList, use: StateUse, path: str
) -> tuple[CandidateList, StateUse] | None:
    """Return the list without the stored feature that an error names, None if it names another.

    If the schema requires a feature whose stored value was left out before, the list may be without
    it: the request relied on the store.

    path: of the error, such as user.features.age.
    """
    name = path.removeprefix("user.features.")
    if name == path:
        return None
    if name in use.ignored and not inputs.user_is_partial:
        partial = inputs.with_values(user_is_partial=True)
        return partial, dataclasses.replace(use, incomplete=True)
    if name not in use.features:
        return None
    user = {other: value for other, value in inputs.user.items() if other != name}
    features = tuple(other for other in use.features if other != name)
    return inputs.with_values(user=user), dataclasses.replace(
        use, features=features, ignored=(*use.ignored, name)
    )
