"""Probabilities of a bundle's choices on logged slates, by the graph that serves.

Noise that is large at the logged candidates makes the graph choose them one after another, so a
single run gives the logits of every position after the logged choices before it, with constraints,
intent and reasoning steps as the bundle would have them there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from model.offline.decisions import Decisions, Target
from model.offline.errors import OfflineError, SkewError
from model.offline.journal import Log
from service.engine.collate import ModelError
from service.engine.contract import Floats
from service.engine.rows import Row, Slate, SlateSampling
from service.engine.session import Session
from service.journal.records import Bundle, DecisionRecord
from service.journal.replay import replay_row

Array = np.ndarray[Any, Any]
PolicyKind = Literal["sampled", "greedy"]
LISTS_AT_ONCE = 32
FORCE = 1e6  # nats; above every log-probability but those of candidates that may not be chosen
TOLERANCE = 0.01  # nats between a logged and a replayed log-probability: other hardware, other sums
MOST_APART = 0.01  # share of the lists; next to a threshold, rounding may take another step


@dataclass(frozen=True)
class ForcedChoices(SlateSampling):
    """Noise with which a slate of these candidates is decoded."""

    choices: tuple[int, ...] = ()

    def noise(self, positions: int, size: int) -> Floats:
        """Return noise float32 [1, K, N]."""
        noise = np.zeros((1, positions, size), np.float32)
        noise[0, np.arange(len(self.choices)), self.choices] = FORCE
        return noise


@dataclass(frozen=True)
class Replay:
    """The choices of one bundle on R logged slates.

    choice: float64 [R, K, N], probabilities after the logged choices before; logprob: float64
    [R, K], of the logged choices as the graph computes them, 0 where pinned; numbers: float32
    [R, N, F] of the candidates.
    """

    choice: Array
    logprob: Array
    numbers: Array


def replay(session: Session, log: Log, old: Session, kind: PolicyKind, name: str) -> Replay:
    """Replay a log with a bundle, as the logging bundle or as another one.

    Args:
        old: the logging bundle, whose defaults say which options the request left open.
        kind: sampled at the bundle's recommending temperature, or greedy.
        name: of the bundle, for messages and the progress bar.

    Raises:
        OfflineError: the bundle cannot rank a list, with the reason.
    """
    records = log.records
    positions = max(len(record.slate) for record in records)
    candidates = max(len(record.ids) for record in records)
    choice = np.zeros((len(records), positions, candidates))
    logprob, numbers = np.zeros((len(records), positions)), None
    starts = range(0, len(records), LISTS_AT_ONCE)
    for start in tqdm(starts, desc=f"replay {name}", leave=False, disable=None):
        block = records[start : start + LISTS_AT_ONCE]
        rows = [forced_row(session, record, old, name) for record in block]
        try:
            slates = session.run(rows)
        except ModelError as error:
            raise OfflineError(f"{name}: cannot decode the logged slates ({error})") from None
        for place, (row, slate) in enumerate(zip(rows, slates, strict=True), start):
            if slate.indices.tolist() != list(records[place].slate):
                raise OfflineError(f"{name}: may not choose the slate of list {place} of the log")
            size, length = len(row.numbers), len(slate.indices)
            choice[place, :length, :size] = choices_of(row, slate, kind)
            logprob[place, :length] = slate.logprob
            if numbers is None:
                shape = (len(records), candidates, row.numbers.shape[1])
                numbers = np.zeros(shape, np.float32)
            numbers[place, :size] = row.numbers
    assert numbers is not None
    return Replay(choice, logprob, numbers)


def forced_row(session: Session, record: DecisionRecord, old: Session, name: str) -> Row:
    """Return the row that decodes the logged slate with a bundle. Raises OfflineError."""
    policy = record.policy
    changes: dict[str, Any] = {"granted": min(policy.granted, session.manifest.budget)}
    for option, default in (
        ("threshold", "entropy_threshold"),
        ("reason_temperature", "reason_temperature"),
        ("recommend_temperature", "recommend_temperature"),
    ):
        if session is not old and getattr(policy, option) == getattr(old.manifest, default):
            changes[option] = getattr(session.manifest, default)
    bundle = Bundle(session.manifest.name, session.manifest.version, session.digest)
    if session is old:
        bundle = record.bundle  # replay_row refuses another one
    changed = dataclasses.replace(
        record, bundle=bundle, policy=dataclasses.replace(policy, **changes)
    )
    try:
        row = replay_row(changed, session)
    except ValueError as error:  # features or an intent that the bundle does not have
        raise OfflineError(f"{name}: cannot featurise decision {record.record}: {error}") from None
    forced = ForcedChoices(1, 0, tuple(record.slate))
    return dataclasses.replace(row, sampling=forced, explain=True)


def choices_of(row: Row, slate: Slate, kind: PolicyKind) -> Array:
    """Return the probability float64 [k, N] of each candidate at each position."""
    assert slate.logits is not None
    logits = slate.logits.astype(np.float64) / row.recommend_temperature
    pinned = row.constraints.pinned >= 0
    if kind == "greedy":
        probability = np.zeros_like(logits)
        probability[np.arange(len(logits)), logits.argmax(axis=1)] = 1.0
    else:
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        probability = weight / weight.sum(axis=1, keepdims=True)
    probability[pinned] = 0.0
    probability[pinned, row.constraints.pinned[pinned]] = 1.0
    return np.asarray(probability)


def logged_logprob(records: Sequence[DecisionRecord], positions: int) -> Array:
    """Return the logged log-probabilities float64 [R, K]."""
    logged = np.zeros((len(records), positions))
    for number, record in enumerate(records):
        logged[number, : len(record.slate)] = record.logprob
    return logged


def check_skew(logged: Array, replayed: Array, name: str) -> dict[str, float]:
    """Return the largest difference in nats, and the share of lists above TOLERANCE.

    Raises SkewError if that share is above MOST_APART: features, bundle or temperature are not
    those that served, and neither would be the propensities of the other bundle.
    """
    apart = np.abs(logged - replayed).max(axis=1)
    share = float((apart > TOLERANCE).mean())
    if share > MOST_APART:
        raise SkewError(
            f"{name}: replaying the old bundle must give the logged log-probabilities within "
            f"{TOLERANCE:g} nats in {1 - MOST_APART:.0%} of the lists; they differ by up to "
            f"{apart.max():.4f} in {share:.1%}"
        )
    return {"largest_difference": float(apart.max()), "share_apart": share}


def targets(
    log: Log, old: Session, new: Session, kind: PolicyKind
) -> tuple[Decisions, Target, Target, dict[str, float]]:
    """Return the decisions of a log, both bundles' policies on them, and the skew.

    Raises OfflineError, SkewError or PropensityError.
    """
    names = ["/".join((each.manifest.name, each.manifest.version)) for each in (old, new)]
    if names[0] == names[1]:
        names = [f"old {names[0]}", f"new {names[1]}"]
    of_old, of_new = (
        replay(session, log, old, kind, name)
        for session, name in zip((old, new), names, strict=True)
    )
    positions = of_old.choice.shape[1]
    logged = logged_logprob(log.records, positions)
    skew = check_skew(logged, of_old.logprob, names[0])
    slate = np.full((len(log.records), positions), -1, np.int64)
    for number, record in enumerate(log.records):
        slate[number, : len(record.slate)] = record.slate
    decisions = Decisions(slate, logged, log.rewards(positions), log.users(), of_old.numbers)
    return (
        decisions,
        Target.of(names[0], of_old.choice, decisions),
        Target.of(names[1], of_new.choice, decisions),
        skew,
    )
