"""The cases that verification covers, and random requests to fill them with."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.data.dataset import Dataset
from model.learning.checkpoint import Trained
from service.engine import constraints
from service.engine.contract import BundleError
from service.engine.features.candidates import CandidateList
from service.engine.rows import Row, SlateSampling


@dataclass(frozen=True)
class Case:
    """One comparison: a batch of lists under one budget and threshold."""

    size: int
    batch: int
    budget: int
    threshold: float


def cases(trained: Trained) -> list[Case]:
    """List sizes 1, 2, K-1, K, N_max; several batches; every budget; thresholds at extremes."""
    k, most = trained.config.slate_length, trained.config.max_candidates
    sizes = sorted({s for s in (1, 2, k - 1, k, 2 * k, most) if 1 <= s <= most})
    budgets = range(trained.config.reasoning.budget + 1)
    thresholds = (-1.0, trained.threshold, 1e9)
    return [
        Case(size, batch, budget, threshold)
        for size in sizes
        for batch in ((1, 3) if size == most else (1, 2, 9))
        for budget in budgets
        for threshold in thresholds
    ]


class Requests:
    """Draws requests such as the data set's: its items, users, contexts and inline features."""

    def __init__(self, data: Path) -> None:
        dataset = Dataset(data)
        self.known = dataset.featuriser.items.ids
        some = itertools.islice(dataset.impressions(["valid", "test"]), 256)
        self.asked = [impression.request for impression in some]
        self.inline = [features for request in self.asked for features in request.features]
        if not self.asked:
            raise BundleError(f"{data}: no valid or test list to draw requests from")

    def draw(self, size: int, draw: np.random.Generator) -> CandidateList:
        """Distinct candidates, mostly known ones, and a history of likes and passed-over items."""
        pool = [*self.known, *(f"unknown-{i}" for i in range(max(size, len(self.known) // 50)))]
        chosen = draw.choice(len(pool), size, replace=False).tolist()
        most = min(len(self.known), int(draw.integers(0, 48)))
        past = draw.choice(len(self.known), most, replace=False).tolist()
        inline = draw.integers(0, len(self.inline), size).tolist() if self.inline else []
        return dataclasses.replace(
            self.asked[int(draw.integers(len(self.asked)))],
            ids=[pool[i] for i in chosen],
            scores=(),
            features=[self.inline[i] for i in inline],
            history=[(self.known[i], float(draw.random() < 0.3)) for i in past],
        )


def random_rows(trained: Trained, requests: Requests, case: Case, seed: int) -> list[Row]:
    """Lists of known and unknown items with random histories, through the featuriser.

    In a batch, lists have different sizes; the first has the case's. Every other row has knobs of
    its own: temperatures, a shorter slate, constraints, sampled slates.
    """
    draw = np.random.default_rng(seed)
    reasoning = trained.config.reasoning
    rows = []
    for index in range(case.batch):
        size = case.size if index == 0 else int(draw.integers(1, case.size + 1))
        request = requests.draw(size, draw)
        numbers, tokens = trained.featuriser.transform(request)
        longest = min(size, trained.config.slate_length)
        row = Row(
            numbers, tokens, longest, case.budget, case.threshold, reasoning.reason_temperature,
            reasoning.recommend_temperature, constraints.SlateConstraints.none(size, longest),
        )  # fmt: skip
        rows.append(knobbed(row, list(request.ids), longest, draw) if index % 2 else row)
    return rows


def knobbed(row: Row, ids: list[str], longest: int, draw: np.random.Generator) -> Row:
    """The row with random knobs; constraints that cannot be met leave it unconstrained."""
    blocked = set(draw.choice(ids, len(ids) // 4, replace=False).tolist())
    free = [item for item in ids if item not in blocked]
    pins = draw.choice(free, min(len(free), int(draw.integers(0, 3))), replace=False).tolist()
    places = draw.choice(longest, min(longest, len(pins)), replace=False).tolist()
    groups = draw.integers(0, 1 + len(ids) // 3, len(ids)).tolist()
    try:
        size, rules = constraints.resolve(
            ids, None, longest, dict(zip(pins, places, strict=False)), blocked, groups,
            ("group", int(draw.integers(1, 4))),
        )  # fmt: skip
    except constraints.ConstraintError:
        size, rules = row.slate_size, row.constraints
    return dataclasses.replace(
        row,
        slate_size=size,
        constraints=rules,
        reason_temperature=float(draw.uniform(0.5, 3.0)),
        recommend_temperature=float(draw.uniform(0.3, 2.0)),
        sampling=SlateSampling(2, int(draw.integers(1 << 32))) if draw.random() < 0.5 else None,
    )
