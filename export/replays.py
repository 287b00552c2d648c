"""Golden requests that a session decodes, without torch and a data set."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.agreement import closeness
from export.draws import BundleSampler
from export.golden import GOLDEN_MARGIN, GOLDEN_USER, TRIES
from export.verify import VerificationError
from service.engine.features.candidates import CandidateList
from service.engine.rows import Row
from service.engine.session import Session

GOLDEN_REQUESTS = 8
INTENT_REQUESTS = 4

AddIntent = Callable[[Session, CandidateList, np.random.Generator], dict[str, Any]]


def golden_requests(session: Session, favoured: Sequence[str]) -> list[dict[str, Any]]:
    """Return random requests with their slates and steps, none of which rounding can change.

    Args:
        favoured: ids that a part of the candidates are taken from.

    Raises VerificationError if too few of the requests drawn are clear of ties.
    """
    plain = [lambda _session, candidates, _draw: candidates.to_json()] * GOLDEN_REQUESTS
    return decoded_requests(session, favoured, plain, 2603)


def intent_requests(session: Session, favoured: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the same for requests with an intent: diversity and boosts in turns.

    The diversity is by a feature of the schema that has values; without one all have boosts.

    Args:
        favoured: ids that a part of the candidates are taken from.

    Raises VerificationError if too few of the requests drawn are clear of ties.
    """
    kinds: list[AddIntent] = [with_boosts]
    if diverse_features(session):
        kinds.insert(0, with_diversity)
    intents = [kinds[number % len(kinds)] for number in range(INTENT_REQUESTS)]
    return decoded_requests(session, favoured, intents, 2604)


def diverse_features(session: Session) -> list[str]:
    """Return the features of items and candidates that may be named in `diversity`."""
    return [
        feature.name
        for feature in session.featuriser.schema.features
        if feature.slots and feature.buckets is None and feature.of in ("item", "candidate")
    ]


def with_diversity(
    session: Session, candidates: CandidateList, draw: np.random.Generator
) -> dict[str, Any]:
    """Return the request of a list with diversity by one feature."""
    term = {
        "by": str(draw.choice(diverse_features(session))),
        "weight": round(float(draw.uniform(0.5, 2.0)), 2),
        "decay": round(float(draw.uniform(0.2, 0.8)), 2),
        "law": str(draw.choice(["sum", "mean"])),
    }
    return {**candidates.to_json(), "diversity": [term]}


def with_boosts(
    _session: Session, candidates: CandidateList, draw: np.random.Generator
) -> dict[str, Any]:
    """Return the request of a list whose candidates have boosts, about half of them 0."""
    request = candidates.to_json()
    for candidate in request["candidates"]:
        if draw.random() < 0.5:
            candidate["boost"] = round(float(draw.uniform(-2.0, 2.0)), 2)
    return request


def decoded_requests(
    session: Session, favoured: Sequence[str], kinds: Sequence[AddIntent], seed: int
) -> list[dict[str, Any]]:
    """Return one request of each kind, with slate and steps."""
    draw, sampler = np.random.default_rng(seed), BundleSampler(session.featuriser, favoured)
    longest = min(60, session.manifest.max_candidates)
    entries: list[dict[str, Any]] = []
    for _ in range(TRIES * len(kinds)):
        size = int(draw.integers(1, longest + 1))
        candidates = sampler.draw(size, draw).with_values(user_id=GOLDEN_USER)
        request = kinds[len(entries)](session, candidates, draw)
        row = session.golden_row(request)
        if not is_clear_of_ties(session, row):
            continue
        (slate,) = session.run([row])
        entries.append(
            {
                "request": request,
                "slate": [candidates.ids[index] for index in slate.indices.tolist()],
                "steps": slate.steps.tolist(),
            }
        )
        if len(entries) == len(kinds):
            return entries
    raise VerificationError(
        f"golden requests: {len(entries)} of {TRIES * len(kinds)} drawn are clear of ties, "
        f"{len(kinds)} are needed"
    )


def is_clear_of_ties(session: Session, row: Row) -> bool:
    """Return true if rounding can change no choice and no gate of this list, at any budget."""
    for budget in range(row.budget + 1):
        capped = dataclasses.replace(row, budget=budget, explain=True)
        (slate,) = session.run([capped])
        decided = range(min(row.slate_size, len(row.numbers) - 1))
        if any(closeness(capped, slate, position) < GOLDEN_MARGIN for position in decided):
            return False
    return True


def write_golden(path: Path, requests: Sequence[dict[str, Any]]) -> None:
    """Write golden requests as a file of a bundle."""
    path.write_text(json.dumps(requests) + "\n", encoding="utf-8")
