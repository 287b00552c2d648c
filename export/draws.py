"""Draw random requests over the items and the schema of a bundle, where no data set is at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.cases import EVERY_STEP, NO_STEP, random_intent, randomised
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser
from service.engine.features.schema import NUMBER_KINDS, Feature
from service.engine.rows import Row
from service.engine.session import Session

UNKNOWN_SHARE, INLINE_SHARE, FAVOURED_SHARE = 0.05, 0.3, 0.3
LONGEST_HISTORY = 48


class BundleSampler:
    """Draws requests with known and unknown items, histories and values of every feature."""

    def __init__(self, featuriser: Featuriser, favoured: Sequence[str] = ()) -> None:
        """favoured: ids of the item table that a part of the candidates are taken from."""
        self._favoured = favoured
        self._featuriser, self._items = featuriser, featuriser.items.ids
        self._of = {
            owner: [f for f in featuriser.schema.features if f.of == owner and f.name != "user_id"]
            for owner in ("item", "user", "context", "candidate")
        }
        names = [feature.name for feature in featuriser.schema.features]
        self._users = featuriser.vocabulary("user_id") if "user_id" in names else ()

    def draw(self, size: int, draw: np.random.Generator) -> CandidateList:
        """Draw `size` distinct candidates and all that a request may send with them."""
        unknown = int(draw.binomial(size, UNKNOWN_SHARE))
        unknown = max(unknown, size - len(self._items))
        count = min(len(self._favoured), int(FAVOURED_SHARE * size))
        places = draw.choice(max(1, len(self._favoured)), count, replace=False).tolist()
        ids = [*(self._favoured[place] for place in places), *self._draw_items(size, draw)]
        ids = [*dict.fromkeys(ids)][: size - unknown] + [f"unknown-{i}" for i in range(unknown)]
        draw.shuffle(ids)
        past = self._draw_items(int(draw.integers(0, LONGEST_HISTORY)), draw)
        inline = draw.random() < INLINE_SHARE
        listed = self._of["candidate"] + (self._of["item"] if inline else [])
        users = len(self._users)
        return CandidateList(
            ids,
            features=[self._values(listed, draw) for _ in ids] if listed else (),
            user_id=self._users[int(draw.integers(users))] if users else "user",
            user=self._values(self._of["user"], draw),
            context=self._values(self._of["context"], draw),
            history=[(item, float(draw.random() < 0.3)) for item in past],
        )

    def _draw_items(self, count: int, draw: np.random.Generator) -> list[str]:
        count = min(count, len(self._items))
        places = draw.choice(max(1, len(self._items)), count, replace=False).tolist()
        return [self._items[place] for place in places]

    def _values(self, features: list[Feature], draw: np.random.Generator) -> dict[str, Any]:
        """Return values of these features; some are left out, unless they are required."""
        return {
            feature.name: self._value(feature, draw)
            for feature in features
            if feature.required or draw.random() > INLINE_SHARE
        }

    def _value(self, feature: Feature, draw: np.random.Generator) -> Any:
        if feature.kind in NUMBER_KINDS:
            value = feature.mean + feature.std * float(draw.normal())
            return float(np.expm1(max(value, 0.0))) if feature.transform == "log" else value
        if feature.kind == "vector":
            return draw.normal(size=feature.width).round(4).tolist()
        words = self._featuriser.vocabulary(feature.name)
        count = int(draw.integers(0, feature.slots + 1)) if feature.kind == "categories" else 1
        some = [words[int(draw.integers(len(words)))] if len(words) else "?" for _ in range(count)]
        return some if feature.kind == "categories" else some[0]


def random_batches(
    session: Session, lists: list[list[CandidateList]], seed: int, intents: bool = False
) -> list[list[Row]]:
    """Return explained rows with random options; every other one is randomised.

    The same lists and seed give the same rows in every session of the same bundle.

    Args:
        intents: give rows a random intent.
    """
    batches = []
    for number, batch in enumerate(lists):
        rows = []
        for place, candidates in enumerate(batch):
            draw = np.random.default_rng([seed, number, place])
            row = with_options(session, candidates, draw, place)
            if intents:
                intent = random_intent(len(candidates.ids), draw)
                row = dataclasses.replace(row, intent=intent)
            rows.append(row)
        batches.append(rows)
    return batches


def with_options(
    session: Session, candidates: CandidateList, draw: np.random.Generator, place: int
) -> Row:
    """Return a row with a random budget and threshold, randomised if its place is odd."""
    manifest = session.manifest
    threshold = float(draw.choice([EVERY_STEP, manifest.entropy_threshold, NO_STEP]))
    budget = int(draw.integers(0, manifest.budget + 1))
    row = session.row(candidates, None, budget, threshold)
    if place % 2:
        row = randomised(row, list(candidates.ids), row.slate_size, draw)
    return dataclasses.replace(row, explain=True)


def random_lists(
    session: Session, count: int, seed: int, longest: int = 50
) -> list[list[CandidateList]]:
    """Return `count` batches of 1 to 8 lists of up to `longest` candidates."""
    draw, sampler = np.random.default_rng(seed), BundleSampler(session.featuriser)
    longest = min(longest, session.manifest.max_candidates)
    return [
        [
            sampler.draw(int(draw.integers(1, longest + 1)), draw)
            for _ in range(int(draw.integers(1, 9)))
        ]
        for _ in range(count)
    ]
