"""The cases that verification covers, and random requests to fill them with."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.data.dataset import Dataset
from model.learning.checkpoint import Trained
from service.engine import constraints
from service.engine.contract import BundleError
from service.engine.features.candidates import CandidateList
from service.engine.intent import DiversityTerm, SlateIntent, build_intent
from service.engine.rows import Row, SlateSampling

Featurise = Callable[[CandidateList], dict[str, Any]]

# Entropy thresholds in nats, below and above every entropy.
EVERY_STEP, NO_STEP = -1.0, 1e9
MOST_VALUES = 8  # of one attribute of a random intent


@dataclass(frozen=True)
class Case:
    """One comparison: a batch of lists under one budget and threshold."""

    size: int
    batch: int
    budget: int
    threshold: float


def cases(trained: Trained) -> list[Case]:
    """List the cases: every budget, extreme thresholds, several batches and list sizes.

    The sizes are 1, 2, K-1, K, 2K and N_max.
    """
    k, longest = trained.config.slate_length, trained.config.max_candidates
    sizes = sorted({size for size in (1, 2, k - 1, k, 2 * k, longest) if 1 <= size <= longest})
    budgets = range(trained.config.reasoning.budget + 1)
    thresholds = (EVERY_STEP, trained.threshold, NO_STEP)
    return [
        Case(size, batch, budget, threshold)
        for size in sizes
        for batch in ((1, 3) if size == longest else (1, 2, 9))
        for budget in budgets
        for threshold in thresholds
    ]


class RequestSampler:
    """Draws random requests like those of a data set: its items, users, contexts and features."""

    def __init__(self, data: Path) -> None:
        """Read a data set. Raises BundleError if it has no validation or test list."""
        dataset = Dataset(data)
        self.items = dataset.featuriser.items.ids
        impressions = itertools.islice(dataset.impressions(["valid", "test"], fresh=True), 256)
        self.requests = [impression.request for impression in impressions]
        inline = (features for request in self.requests for features in request.features)
        # Candidates with equal features are a tie in every choice.
        self.inline = list({repr(features): features for features in inline}.values())
        if not self.requests:
            raise BundleError(f"{data}: no valid or test list to draw requests from")

    def draw(self, size: int, draw: np.random.Generator) -> CandidateList:
        """Draw distinct candidates, few of them unknown, and a history of likes and skips."""
        items = self.items
        pool = [*items, *(f"unknown-{i}" for i in range(max(size, len(items) // 50)))]
        chosen = draw.choice(len(pool), size, replace=False).tolist()
        length = min(len(items), int(draw.integers(0, 48)))
        past = draw.choice(len(items), length, replace=False).tolist()
        repeated = len(self.inline) < size
        inline = draw.choice(len(self.inline), size, repeated).tolist() if self.inline else []
        return dataclasses.replace(
            self.requests[int(draw.integers(len(self.requests)))],
            ids=[pool[i] for i in chosen],
            scores=(),
            features=[self.inline[i] for i in inline],
            history=[(items[i], float(draw.random() < 0.3)) for i in past],
        )


def random_intent(size: int, draw: np.random.Generator) -> SlateIntent:
    """Return random boosts and diversity by up to three attributes for a list of `size`."""
    terms = [
        DiversityTerm(
            f"attribute {number}",
            float(draw.uniform(0.1, 2.0)),
            float(draw.uniform(0.05, 0.95)),
            "sum" if draw.random() < 0.5 else "mean",
        )
        for number in range(int(draw.integers(0, 4)))
    ]
    values_of = [
        [np.flatnonzero(draw.random(MOST_VALUES) < 0.3).tolist() for _ in range(size)]
        for _ in terms
    ]
    boosts = draw.uniform(-3.0, 3.0, size).astype(np.float32)
    return build_intent(terms, values_of, boosts if draw.random() < 0.5 else 0 * boosts)


def random_rows(
    trained: Trained,
    requests: RequestSampler,
    case: Case,
    seed: int,
    featurise: Featurise | None = None,
    intents: bool = False,
) -> list[Row]:
    """Return a batch of featurised random requests, the same for the same seed.

    The first list has the case's size, the others at most that. Every other row is randomised.

    Args:
        intents: give every row a random intent.
        featurise: as in `row_of`.
    """
    draw = np.random.default_rng(seed)
    rows = []
    for index in range(case.batch):
        size = case.size if index == 0 else int(draw.integers(1, case.size + 1))
        candidates = requests.draw(size, draw)
        row = row_of(trained, candidates, case.budget, case.threshold, featurise)
        if index % 2:
            row = randomised(row, list(candidates.ids), row.slate_size, draw)
        if intents:
            row = dataclasses.replace(row, intent=random_intent(size, draw))
        rows.append(row)
    return rows


def row_of(
    trained: Trained,
    candidates: CandidateList,
    budget: int,
    threshold: float,
    featurise: Featurise | None = None,
) -> Row:
    """Featurise a request for a full, unconstrained slate at the configured temperatures.

    Args:
        featurise: returns the fields of a row for a bundle's graph; by default, the row has whole
            numbers and tokens, as torch reads them.
    """
    if featurise is None:
        numbers, tokens = trained.featuriser.transform(candidates)
        features: dict[str, Any] = {"numbers": numbers, "tokens": tokens}
    else:
        features = featurise(candidates)
    size, reasoning = len(candidates.ids), trained.config.reasoning
    positions = min(size, trained.config.slate_length)
    return Row(
        slate_size=positions,
        budget=budget,
        entropy_threshold=threshold,
        reason_temperature=reasoning.reason_temperature,
        recommend_temperature=reasoning.recommend_temperature,
        constraints=constraints.SlateConstraints.none(size, positions),
        **features,
    )


def randomised(row: Row, ids: list[str], positions: int, draw: np.random.Generator) -> Row:
    """Return the row with random temperatures, slate length, constraints and sampling.

    Constraints that cannot be met leave it unconstrained.
    """
    blocked = set(draw.choice(ids, len(ids) // 4, replace=False).tolist())
    free = [item for item in ids if item not in blocked]
    pins = draw.choice(free, min(len(free), int(draw.integers(0, 3))), replace=False).tolist()
    places = draw.choice(positions, min(positions, len(pins)), replace=False).tolist()
    groups = draw.integers(0, 1 + len(ids) // 3, len(ids)).tolist()
    try:
        size, resolved = constraints.resolve(
            ids, None, positions, dict(zip(pins, places, strict=False)), blocked, groups,
            ("group", int(draw.integers(1, 4))),
        )  # fmt: skip
    except constraints.ConstraintError:
        size, resolved = row.slate_size, row.constraints
    return dataclasses.replace(
        row,
        slate_size=size,
        constraints=resolved,
        reason_temperature=float(draw.uniform(0.5, 3.0)),
        recommend_temperature=float(draw.uniform(0.3, 2.0)),
        sampling=SlateSampling(2, int(draw.integers(1 << 32))) if draw.random() < 0.5 else None,
    )
