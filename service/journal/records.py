"""The records of the journal: one MessagePack map each, with names for all values.

A record has everything that it takes to featurise and decode its list again with the bundle that it
names: raw values as they were used, and no featurised arrays. Readers ignore names that they do not
know; VERSION changes if a name gets another meaning.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import ormsgpack

from service.engine.contract import Floats
from service.engine.features.candidates import CandidateList
from service.engine.features.stored_items import StoredItems
from service.journal.errors import RecordError
from service.state.entities import Item

VERSION = 1
PolicyKind = Literal["greedy", "explore", "sampled"]
T = TypeVar("T")


# The classes below are built for every list. They are not frozen, because a frozen dataclass takes
# seven times as long to build.
@dataclass(slots=True)
class Bundle:
    """A bundle: name, version, and the SHA-256 of its manifest, which vouches for every file."""

    name: str
    version: str
    digest: str


@dataclass(slots=True)
class Policy:
    """The policy of one decision.

    Args:
        kind: greedy; explore, if the service sampled; sampled, if the request asked for it.
        bucket: of the user and day, 0 to 1; explored below `share`. None if not eligible.
        share: probability that this list was explored.
        budget: reasoning steps per position as requested; granted: as the run had them.
        threshold: of the entropy, nats.
        seed, slates, kept: of the Gumbel noise, the slates that were sampled with it, and the
            number of the one that was answered; None for a greedy slate.
        top: leading candidates of the initial ranking among which an explored list chose.
    """

    kind: PolicyKind
    bucket: float | None
    share: float
    budget: int
    granted: int
    threshold: float
    reason_temperature: float
    recommend_temperature: float
    seed: int | None = None
    slates: int | None = None
    kept: int | None = None
    top: int | None = None


@dataclass(slots=True)
class Constraints:
    """The constraints of a slate as the graph read them (service.engine.constraints).

    pinned [k]: candidate index of each position, -1 where it is free; group, quota [N].
    """

    pinned: Sequence[int]
    group: Sequence[int]
    quota: Sequence[float]


@dataclass(slots=True)
class Intent:
    """Diversity and boosts as the request stated them.

    terms: (attribute, weight, decay, law); fields: path of each in the request; values: those that
    the request has for each attribute, per candidate; boosts [N] in nats.
    """

    terms: Sequence[Sequence[Any]]
    fields: Sequence[str]
    values: Mapping[str, Any]
    boosts: Sequence[float] | None


@dataclass(slots=True)
class StoredValues:
    """The part of the entity store in one list.

    Args:
        status: of the user's lookup: hit, miss or unavailable; None without one.
        history: number of stored answers in the history of the record.
        features: names of the user's features in the record that are stored ones.
        ignored: names of stored features that the bundle does not declare or allow.
        age_s: seconds since the user changed.
        blobs: of each candidate, the bytes of its item as the store had them (features and
            counters, service.state.entities), None for one that it lacks; empty if not read.
        now: time in ms since 1970 UTC that counters were decayed to.
        live: counters gave the values of statistics.
    """

    status: str | None
    history: int = 0
    features: Sequence[str] = ()
    ignored: Sequence[str] = ()
    age_s: float | None = None
    blobs: Sequence[bytes | None] = ()
    now: int = 0
    live: bool = True


@dataclass(slots=True)
class DecisionRecord:
    """One answered list: N candidates, of which k were chosen.

    Args:
        record: id of the record; request_id need not be unique, because clients may state it.
        at: time in ms since 1970 UTC.
        user: id, None for an anonymous request. user_features, history, history_features and
            context: as used, with values of the store. history: (item, label), the latest last.
        user_is_partial: required features of the user may be absent, because the store failed.
        ids, scores, features, columns: candidates in initial order with their inline values.
        store: the part of the entity store, None without one.
        slate: candidate index of each position; of the initial ranking in a degraded list.
        logprob: of each choice under its mask, nats, float32 values [k]; 0 where pinned. Empty
            like the next three if the list was not ranked.
        entropy_before, entropy_after: nats [k]; steps: reasoning steps [k].
        utility: the evaluator's estimate of a sampled slate.
        degraded: all reasons, the gravest first.
        total_ms, queue_ms, inference_ms: times of the list, without waits for steps of reasoning.
    """

    record: str
    at: int
    request_id: str
    user: str | None
    user_features: Mapping[str, Any]
    user_is_partial: bool
    history: Sequence[tuple[str, float]]
    history_features: Sequence[Mapping[str, Any]]
    context: Mapping[str, Any]
    ids: Sequence[str]
    scores: Sequence[float | None]
    features: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Any]
    store: StoredValues | None
    bundle: Bundle
    variant: str
    policy: Policy
    constraints: Constraints | None
    intent: Intent | None
    slate: Sequence[int]
    logprob: Any
    entropy_before: Any
    entropy_after: Any
    steps: Sequence[int]
    utility: float | None
    unknown: int
    degraded: Sequence[str]
    priority: str
    total_ms: float
    queue_ms: float
    inference_ms: float
    kind: Literal["decision"] = "decision"
    version: int = VERSION

    def candidate_list(self) -> CandidateList:
        """Return the input of the featuriser, as it was used."""
        return CandidateList(
            ids=self.ids,
            scores=self.scores,
            features=self.features,
            user_id=self.user,
            user=self.user_features,
            history=[(item, label) for item, label in self.history],
            history_features=self.history_features,
            context=self.context,
            columns=self.columns,
            user_is_partial=self.user_is_partial,
            stored=self._stored_items(),
        )

    def _stored_items(self) -> StoredItems | None:
        store = self.store
        if store is None or not store.blobs:
            return None
        return StoredItems(store.blobs, Item.from_blob, store.now, store.live)

    def log_propensity(self) -> Floats | None:
        """Return the log-probability float32 [k] with which the policy made each choice.

        A choice follows those before it, so the sum is that of the slate. Greedy slates and
        initial rankings are certain. None for the best of several sampled slates, whose
        probability has no closed form.
        """
        sampled = self.policy.kind != "greedy" and len(self.logprob)
        if not sampled:
            return np.zeros(len(self.slate), np.float32)
        return None if self.policy.slates != 1 else np.array(self.logprob, np.float32)


@dataclass(slots=True)
class EventRecord:
    """One event of feedback that was kept.

    Args:
        record: id of the record.
        at: time of its arrival in ms since 1970 UTC; time: of the event, as it was stated.
        event_id: of the client, None without one.
        request_id, user, item, position: what the event is about, None where not stated.
        type: of the schema's events; outcome: accepted, or duplicate for an event_id that was
            repeated; value: as stated; label: canonical, 0 to 1.
        displayed: items in the order of display, where the event states them.
    """

    record: str
    at: int
    event_id: str | None
    request_id: str | None
    user: str | None
    item: str | None
    type: str
    outcome: str = "accepted"
    value: float | None = None
    label: float | None = None
    time: int | None = None
    position: int | None = None
    displayed: Sequence[str] = ()
    kind: Literal["event"] = "event"
    version: int = VERSION


@dataclass(slots=True)
class ErasureRecord:
    """A user was deleted at `at`; the next erasure removes their records up to then, and this."""

    record: str
    at: int
    user: str
    kind: Literal["erasure"] = "erasure"
    version: int = VERSION


Record = DecisionRecord | EventRecord | ErasureRecord
KINDS: Mapping[str, type[Record]] = {
    "decision": DecisionRecord, "event": EventRecord, "erasure": ErasureRecord,
}  # fmt: skip
PARTS: Mapping[str, Any] = {
    "bundle": Bundle, "policy": Policy, "constraints": Constraints, "intent": Intent,
    "store": StoredValues,
}  # fmt: skip
# Read for every record.
NAMES: Mapping[type[Any], frozenset[str]] = {
    kind: frozenset(each.name for each in dataclasses.fields(kind))
    for kind in (*KINDS.values(), *PARTS.values())
}


def now_ms() -> int:
    """Return the time in ms since 1970 UTC."""
    return time.time_ns() // 1_000_000


def pack(record: Record) -> bytes:
    """Return the bytes of a record; arrays become lists.

    Raises TypeError for a value that MessagePack does not have, such as an integer of 65 bits.
    """
    return ormsgpack.packb(record, _as_list, ormsgpack.OPT_SERIALIZE_NUMPY)


def _as_list(value: object) -> object:
    if isinstance(value, np.ndarray):  # of a layout or type that the encoder does not know
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be encoded")


def record_of(fields: object) -> Record:
    """Return the record of a decoded map. Raises RecordError for all that `pack` did not write."""
    kind = KINDS.get(str(fields.get("kind"))) if isinstance(fields, dict) else None
    if kind is None or not isinstance(fields, dict):
        raise RecordError(f"kind: must be one of {', '.join(KINDS)}, got {str(fields)[:100]}")
    if fields.get("version") != VERSION:
        raise RecordError(f"version: must be {VERSION}, got {fields.get('version')!r}")
    parts = {
        name: _built(PARTS[name], value)
        for name, value in fields.items()
        if name in PARTS and value is not None and kind is DecisionRecord
    }
    return _built(kind, {**fields, **parts})


def _built(kind: type[T], fields: object) -> T:
    if not isinstance(fields, dict):
        raise RecordError(f"{kind.__name__}: must be a map, got {str(fields)[:100]}")
    names = NAMES[kind]
    try:
        return kind(**{name: value for name, value in fields.items() if name in names})
    except TypeError as error:
        raise RecordError(f"{kind.__name__}: {error}") from None
