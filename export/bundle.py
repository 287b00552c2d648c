"""Write a bundle: compose, verify torch against onnxruntime, pick golden requests, measure."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from export.compose import compose
from model.checkpoint import Trained
from model.dataset import Dataset
from model.evaluate import evaluate
from model.reasoning import Decoded, EntropyGate, decode, greedy
from service.contract import (
    FEATURES,
    GENERATOR,
    GOLDEN,
    ITEMS,
    MANIFEST,
    BundleError,
    Manifest,
)
from service.features import Request
from service.session import Row, Session, Slate

LOGPROB_TOLERANCE = 1e-4
# Two choices closer than this are an exact tie for float32: either is right.
TIE = 1e-5
# Golden requests must decode alike on any machine: no choice or gate of theirs is this close.
GOLDEN_MARGIN = 1e-3


class VerificationError(RuntimeError):
    """torch and onnxruntime disagree: the bundle is not written."""


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


def decode_torch(trained: Trained, rows: list[Row]) -> Decoded:
    """The rows through the torch loop, padded to the longest."""
    from service.session import collate

    feeds = {name: torch.from_numpy(array) for name, array in collate(rows).items()}
    with torch.no_grad():
        encoded = trained.generator.encode(feeds["numbers"], feeds["tokens"], feeds["mask"])
        return decode(
            trained.generator,
            encoded,
            trained.config.slate_length,
            greedy,
            trained.config.reasoning.recommend_temperature,
            EntropyGate(feeds["entropy_threshold"], feeds["budget"]),
        )


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

    def draw(self, size: int, draw: np.random.Generator) -> Request:
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

    In a batch, lists have different sizes; the first has the case's.
    """
    draw = np.random.default_rng(seed)
    rows = []
    for index in range(case.batch):
        size = case.size if index == 0 else int(draw.integers(1, case.size + 1))
        numbers, tokens = trained.featuriser.transform(requests.draw(size, draw))
        longest = min(size, trained.config.slate_length)
        rows.append(Row(numbers, tokens, longest, case.budget, case.threshold))
    return rows


def verify(trained: Trained, session: Session, requests: Requests) -> dict[str, Any]:
    """Compare both decoders on every case. Raises VerificationError naming the first difference."""
    worst, ties, slates = 0.0, 0, 0
    for number, case in enumerate(tqdm(cases(trained), "verify", leave=False)):
        rows = random_rows(trained, requests, case, seed=number)
        expected = decode_torch(trained, rows)
        for index, (row, slate) in enumerate(zip(rows, session.run(rows), strict=True)):
            difference = compare(expected, index, row, slate)
            slates += 1
            if difference is None:
                ties += 1
            elif difference > LOGPROB_TOLERANCE:
                raise VerificationError(
                    f"{case}, row {index}: log-probabilities or entropies differ by "
                    f"{difference:.2e}, allowed {LOGPROB_TOLERANCE}"
                )
            else:
                worst = max(worst, difference)
    return {"slates": slates, "ties": ties, "largest_difference": worst}


def compare(expected: Decoded, index: int, row: Row, slate: Slate) -> float | None:
    """Largest difference of one row, None where an exact tie went the other way.

    Raises VerificationError when slates or steps differ without a tie.
    """
    size = row.slate_size
    want = expected.slate[index, :size].numpy()
    steps = expected.steps[index, :size].numpy()
    if (want != slate.indices).any() or (steps != slate.steps).any():
        margins = margin(expected, index, row)
        first = int(np.flatnonzero((want != slate.indices) | (steps != slate.steps))[0])
        if margins[first] < TIE:
            return None
        raise VerificationError(
            f"position {first} of a list of {len(row.numbers)}: torch chose {want.tolist()} "
            f"after {steps.tolist()} steps, onnxruntime {slate.indices.tolist()} after "
            f"{slate.steps.tolist()}"
        )
    differences = [
        np.abs(getattr(expected, name)[index, :size].numpy() - getattr(slate, name)).max()
        for name in ("logprob", "entropy_before", "entropy_after")
    ]
    return float(max(differences))


def margin(expected: Decoded, index: int, row: Row) -> np.ndarray[Any, Any]:
    """Per position [k], how far the nearest decision - choice or gate - was from the other way."""
    size = row.slate_size
    logits = expected.logits[index, :size]
    top = logits.topk(min(2, logits.shape[1]), dim=1).values
    choice = (top[:, 0] - top[:, -1]) if top.shape[1] > 1 else torch.full((size,), 1e9)
    before = (expected.entropy_before[index, :size] - row.entropy_threshold).abs()
    after = (expected.entropy_after[index, :size] - row.entropy_threshold).abs()
    if row.budget == 0:
        return choice.numpy()
    return torch.minimum(choice, torch.minimum(before, after)).numpy()


def clear_of_ties(trained: Trained, row: Row) -> bool:
    """Whether rounding can change no choice and no gate of this list, at any budget."""
    for budget in range(row.budget + 1):
        capped = dataclasses.replace(row, budget=budget)
        margins = margin(decode_torch(trained, [capped]), 0, capped)
        if margins[: len(row.numbers) - 1].min(initial=1e9) < GOLDEN_MARGIN:
            return False
    return True


def golden(trained: Trained, requests: Requests, count: int = 8) -> list[dict[str, Any]]:
    """Requests with slates that no rounding can change, for replay at every load."""
    draw = np.random.default_rng(2601)
    entries: list[dict[str, Any]] = []
    for _ in range(100 * count):
        size = int(draw.integers(1, min(60, trained.config.max_candidates) + 1))
        request = requests.draw(size, draw)
        numbers, tokens = trained.featuriser.transform(request)
        longest = min(size, trained.config.slate_length)
        row = Row(numbers, tokens, longest, trained.config.reasoning.budget, trained.threshold)
        if not clear_of_ties(trained, row):
            continue
        decoded = decode_torch(trained, [row])
        slate = decoded.slate[0, :longest].tolist()
        steps = decoded.steps[0, :longest].tolist()
        entries.append(
            {"request": request.to_json(), "slate": [request.ids[i] for i in slate], "steps": steps}
        )
        if len(entries) == count:
            return entries
    raise VerificationError(f"only {len(entries)} of {count} golden requests are clear of ties")


def write(trained: Trained, out: Path, data: Path) -> dict[str, Any]:
    """Build the bundle beside `out`, verify it, and only then move it there.

    `out` is `.../<name>/<version>`, new or a bundle to replace. Returns the verification and the
    offline metrics. Raises VerificationError or service.contract.BundleError; `out` is then as it
    was.
    """
    own = {MANIFEST, GENERATOR, FEATURES, ITEMS, GOLDEN}
    foreign = sorted({path.name for path in out.iterdir()} - own) if out.exists() else []
    if foreign:
        raise BundleError(f"{out}: a new directory or a bundle to replace, it holds {foreign[0]!r}")
    if trained.config.reasoning.gate != "entropy":
        raise BundleError(
            f"reasoning.gate: only entropy is served, got {trained.config.reasoning.gate!r}"
        )
    requests = Requests(data)
    config = trained.config
    building = out.parent / f".{out.name}.building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        features = trained.featuriser
        model = compose(
            trained.generator,
            features.numbers_width,
            features.tokens_width,
            config.slate_length,
            config.reasoning.budget,
            config.reasoning.recommend_temperature,
        )
        (building / GENERATOR).write_bytes(model.SerializeToString())
        features.save(building)
        (building / GOLDEN).write_text(
            json.dumps(golden(trained, requests)) + "\n", encoding="utf-8"
        )
        manifest = Manifest(
            name=out.parent.name,
            version=out.name,
            slate_length=config.slate_length,
            budget=config.reasoning.budget,
            entropy_threshold=trained.threshold,
            reason_temperature=config.reasoning.reason_temperature,
            recommend_temperature=config.reasoning.recommend_temperature,
            max_candidates=config.max_candidates,
            numbers=features.numbers_width,
            tokens=features.tokens_width,
            offline_metrics={},
            training={
                "commit": trained.info["commit"],
                "config": trained.info["config"],
                "seconds": round(trained.info["seconds"]),
                "validation": trained.info["validation"],
            },
        ).write(building)
        session = Session.load(building)
        verification = verify(trained, session, requests)
        metrics = evaluate(session, data)
        manifest = Manifest(**{**manifest.__dict__, "offline_metrics": metrics})
        manifest.write(building)
        if out.exists():
            shutil.rmtree(out)
        os.replace(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return {"verification": verification, "offline_metrics": metrics}
