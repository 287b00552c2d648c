"""Write a bundle: compose, verify torch against onnxruntime, pick golden requests, measure."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from export.graph.compose import ComposeError, compose, compose_evaluator
from model.data.dataset import Dataset
from model.learning.checkpoint import Trained
from model.learning.evaluate import evaluate
from model.network.reasoning import Decoded, EntropyGate, Rules, decode, noisy
from service.engine import constraints
from service.engine.contract import (
    EVALUATOR,
    FEATURES,
    GENERATOR,
    GOLDEN,
    INPUTS,
    ITEMS,
    MANIFEST,
    OUTPUTS,
    SEAL,
    STATIC,
    BundleError,
    Manifest,
)
from service.engine.features.featuriser import Request
from service.engine.session import Row, Sampling, Session, Slate, collate, open_graph

LOGPROB_TOLERANCE = 1e-4
# Two choices closer than this are an exact tie for float32: either is right.
TIE = 1e-5
# A sampled choice is taken for a tie, since what is compared has noise on it: few may be one.
MOST_TIES = 0.01
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


def tensors_of(trained: Trained, rows: list[Row]) -> dict[str, torch.Tensor]:
    """The rows as the graph's inputs, padded to the longest."""
    arrays = collate(rows, trained.config.slate_length)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def decode_torch(trained: Trained, rows: list[Row]) -> Decoded:
    """The rows through the torch loop; a row that samples takes as many slates."""
    feeds = tensors_of(trained, rows)
    lists = feeds["list"]
    knobs = {name: feeds[f"{name}_temperature"].unsqueeze(1) for name in ("reason", "recommend")}
    with torch.no_grad():
        given = (feeds[name][lists] for name in ("numbers", "tokens", "mask"))
        return decode(
            trained.generator,
            trained.generator.encode(*given),
            trained.config.slate_length,
            noisy(feeds["noise"], knobs["recommend"]),
            knobs["recommend"],
            EntropyGate(feeds["entropy_threshold"], feeds["budget"]),
            rules=Rules(feeds["length"], feeds["pinned"], feeds["group"], feeds["quota"]),
            reason_temperature=knobs["reason"],
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
            reasoning.recommend_temperature, constraints.Rules.none(size, longest),
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
        size, rules = row.slate_size, row.rules
    return dataclasses.replace(
        row,
        slate_size=size,
        rules=rules,
        reason_temperature=float(draw.uniform(0.5, 3.0)),
        recommend_temperature=float(draw.uniform(0.3, 2.0)),
        sampling=Sampling(2, int(draw.integers(1 << 32))) if draw.random() < 0.5 else None,
    )


def verify(trained: Trained, bundle: Path, requests: Requests) -> dict[str, Any]:
    """Compare torch with both forms of the graph, and the evaluators, on every case.

    Raises VerificationError naming the first difference.
    """
    graphs = {
        name: open_graph(bundle / name, 1, "cpu", packed=name != GENERATOR)
        for name in (GENERATOR, STATIC, EVALUATOR)
    }
    worst, ties, slates, began = 0.0, 0, 0, time.monotonic()
    for number, case in enumerate(tqdm(cases(trained), "verify", leave=False)):
        rows = random_rows(trained, requests, case, seed=number)
        expected = decode_torch(trained, rows)
        feeds = {n: t.numpy() for n, t in tensors_of(trained, rows).items()}
        each = [row for row in rows for _ in range(row.sampling.slates if row.sampling else 1)]
        for form in (GENERATOR, STATIC):
            names = list(OUTPUTS)[:5]
            outputs = graphs[form].run(names, {name: feeds[name] for name in INPUTS})
            for index, row in enumerate(each):
                slate = Slate(*(output[index, : row.slate_size] for output in outputs))
                difference = compare(expected, index, row, slate, form)
                slates += 1
                if difference is None:
                    ties += 1
                elif not difference <= LOGPROB_TOLERANCE:  # nor may it be NaN
                    raise VerificationError(
                        f"{form}, {case}, row {index}: log-probabilities or entropies differ by "
                        f"{difference:.2e}, allowed {LOGPROB_TOLERANCE}"
                    )
                else:
                    worst = max(worst, difference)
        worst = max(worst, compare_evaluators(trained, graphs[EVALUATOR], feeds, expected.slate))
    if ties > slates * MOST_TIES:
        raise VerificationError(f"{ties} of {slates} slates differ, all of them as by exact ties")
    seconds = round(time.monotonic() - began, 1)
    return {"slates": slates, "ties": ties, "largest_difference": worst, "seconds": seconds}


def compare_evaluators(
    trained: Trained, graph: Any, feeds: dict[str, np.ndarray[Any, Any]], slate: torch.Tensor
) -> float:
    """Largest difference of the utilities of slates int64 [R, K]. Raises VerificationError."""
    given = {name: feeds[name] for name in ("numbers", "tokens", "list")}
    (found,) = graph.run(["utility"], {**given, "slate": slate.numpy()})
    with torch.no_grad():
        embedded = trained.evaluator.embed(
            *(torch.from_numpy(feeds[n]) for n in ("numbers", "tokens"))
        )
        expected = trained.evaluator.utility(embedded[torch.from_numpy(feeds["list"])], slate)
    difference = float(np.abs(found - expected.numpy()).max())
    if not difference <= LOGPROB_TOLERANCE:  # nor may it be NaN
        raise VerificationError(
            f"{EVALUATOR}: utilities differ by {difference:.2e}, allowed {LOGPROB_TOLERANCE}"
        )
    return difference


def compare(
    expected: Decoded, index: int, row: Row, slate: Slate, form: str = GENERATOR
) -> float | None:
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
            f"{form}, position {first} of a list of {len(row.numbers)}: torch chose "
            f"{want.tolist()} after {steps.tolist()} steps, onnxruntime "
            f"{slate.indices.tolist()} after "
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
    if row.sampling:  # what is compared has noise on it: no choice is known to be clear
        return np.zeros(size)
    top = logits.topk(min(2, logits.shape[1]), dim=1).values
    choice = (top[:, 0] - top[:, -1]) if top.shape[1] > 1 else torch.full((size,), 1e9)
    choice = torch.where(torch.from_numpy(row.rules.pinned) >= 0, 1e9, choice)
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
        reasoning = trained.config.reasoning
        row = Row(
            numbers, tokens, longest, reasoning.budget, trained.threshold,
            reasoning.reason_temperature, reasoning.recommend_temperature,
            constraints.Rules.none(size, longest),
        )  # fmt: skip
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
    offline metrics. Raises VerificationError or service.engine.contract.BundleError; `out` is then
    as it was.
    """
    own = {MANIFEST, SEAL, GENERATOR, STATIC, EVALUATOR, FEATURES, ITEMS, GOLDEN}
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
    replaced = out.parent / f".{out.name}.replaced"
    for left in (building, replaced):
        shutil.rmtree(left, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        features = trained.featuriser
        columns = features.numbers_width, features.tokens_width, config.slate_length
        try:
            forms = {
                GENERATOR: compose(trained.generator, *columns, gated=True),
                STATIC: compose(trained.generator, *columns, gated=False),
                EVALUATOR: compose_evaluator(trained.evaluator, *columns),
            }
        except ComposeError as error:
            raise BundleError(str(error)) from error
        for name, model in forms.items():
            (building / name).write_bytes(model.SerializeToString())
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
        verification = verify(trained, building, requests)
        session = Session.load(building)
        metrics = evaluate(session, data)
        manifest = Manifest(**{**manifest.__dict__, "offline_metrics": metrics})
        manifest.write(building)
        if out.exists():
            os.replace(out, replaced)  # a moment's work: who loads `out` finds a whole bundle
        os.replace(building, out)
    finally:
        for left in (building, replaced):
            shutil.rmtree(left, ignore_errors=True)
    return {"verification": verification, "offline_metrics": metrics}
