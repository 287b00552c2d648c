"""The gates between a trained candidate and the store: each must pass before it is published.

Both bundles are run by the session that serves them, on the latest lists of the log, which neither
was trained on. A difference counts with its interval over users, because lists of a user are alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from model.data.dataset import Dataset
from model.data.intervals import FEWEST
from model.learning.callers import is_rankable
from model.learning.evaluate import LISTS_AT_ONCE, Meter, session_ranker
from model.offline.bootstrap import resample
from model.offline.estimators import mean_of
from service.engine.collate import ModelError
from service.engine.contract import GOLDEN, BundleError
from service.engine.features.encoding import FeatureError
from service.engine.features.schema import LabelScale
from service.engine.session import Session

Array = np.ndarray[Any, Any]
RESAMPLES = 2000
TIMED_LISTS = 200  # of each bundle, in turns
CANDIDATES = 50  # of a timed list
LATEST = "test"  # split of the latest lists
JUDGED = ("train", "valid", LATEST)  # splits whose labels the gate of the log judges
TRAIN_LISTS = 5_000  # of the train split that this gate ranks at least, evenly over the users


@dataclass(frozen=True)
class Limits:
    """Limits of the gates that are options of the command."""

    margin: float
    slowdown: float


@dataclass(frozen=True)
class Gate:
    """One gate: its rule in words, the figures that it judged, and the outcome."""

    name: str
    passed: bool
    rule: str
    figures: Mapping[str, Any]


def judge_log(champion: Path, data: Path) -> dict[str, Any]:
    """Return the gate of the log as JSON, in the form of `judge_candidate`.

    It needs no candidate, so it comes before training.
    """
    session = Session.load(champion)
    counts = json.loads((data / "summary.json").read_text(encoding="utf-8"))["splits"]
    steps = {"train": max(1, counts.get("train", {}).get("requests", 0) // TRAIN_LISTS)}
    ranked = {split: rank_lists([session], data, split, steps.get(split, 1)) for split in JUDGED}
    return summary([labels_gate(ranked)])


def judge_candidate(
    champion: Path, candidate: Path, data: Path, verification: Mapping[str, Any], limits: Limits
) -> dict[str, Any]:
    """Return the gates as JSON, and if all passed.

    Args:
        champion, candidate: bundles.
        data: set whose latest lists are ranked.
        verification: the comparison of the candidate's graph with torch.
    """
    old = Session.load(champion)
    try:
        new = Session.load(candidate)
    except BundleError as error:  # a golden request of its own, or a damaged file
        gates = [Gate("golden requests", False, "the candidate loads", {"reason": str(error)})]
    else:
        latest = rank_lists([old, new], data, LATEST)
        gates = [
            quality_gate(latest.metric[1] - latest.metric[0], latest.users, limits.margin),
            parity_gate(verification),
            latency_gate(*times_in_turns(old, new), limits.slowdown),
            golden_gate(new, champion),
            limits_gate(old, new),
        ]
    return summary(gates)


def summary(gates: Sequence[Gate]) -> dict[str, Any]:
    """Return gates as JSON, and if all passed."""
    return {"passed": all(gate.passed for gate in gates), "gates": [asdict(g) for g in gates]}


@dataclass(frozen=True)
class Ranked:
    """Lists of one split, ranked by some bundles.

    Args:
        metric: float64 [S, R], the headline metric of each bundle and list.
        chance: float64 [R], its expectation in random order.
        users: int64 [R], number of the user.
    """

    metric: Array
    chance: Array
    users: Array


def rank_lists(sessions: Sequence[Session], data: Path, split: str, step: int = 1) -> Ranked:
    """Rank the lists of a split that have two different gains, as their requests were logged.

    step: rank one of so many lists.
    """
    dataset, scale = Dataset(data), sessions[0].featuriser.schema.label
    meters = [Meter(session, session_ranker(session)) for session in sessions]
    fresh = bool(dataset.fresh_features([split]))  # item features of the time of the list
    chosen = islice(dataset.impressions([split], fresh), 0, None, step)
    lists = (i for i in chosen if is_rankable(i, scale))
    columns: list[Array] = []
    chance, users, numbers = [], [], dict[str, int]()
    while block := list(islice(lists, LISTS_AT_ONCE)):
        columns.append(np.stack([meter.measure(block)[meter.headline] for meter in meters]))
        chance += [chance_of(i.labels, scale, meters[0].length) for i in block]
        users += [numbers.setdefault(i.user_id, len(numbers)) for i in block]
    metric = np.concatenate([*columns, np.zeros((len(sessions), 0))], axis=1)
    present = ~np.isnan(metric).any(axis=0)
    return Ranked(
        metric[:, present], np.array(chance, np.float64)[present], np.array(users, int)[present]
    )


def chance_of(labels: Sequence[float], scale: LabelScale, length: int) -> float:
    """Return the expected headline metric, NDCG@10, of a random order cut to `length` positions."""
    values = np.array(labels, np.float64)
    of_labels = scale.gain(values) if scale.is_graded else scale.is_positive(values)
    gains = np.sort(np.asarray(of_labels, np.float64))[::-1]
    weight = 1.0 / np.log2(np.arange(10) + 2.0)
    best = float((gains[:10] * weight[: len(gains)]).sum())
    positions = min(10, length, len(gains))
    return float(gains.mean() * weight[:positions].sum() / best) if best else float("nan")


def interval_over_users(values: Array, users: Array) -> list[float]:
    """Return mean, low and high of values [R] at 95 %, by resampling users with their lists."""
    mean = mean_of(values)
    (drawn,) = resample([mean], users, RESAMPLES, seed=0)
    return [mean.value, *np.quantile(drawn, [0.025, 0.975]).tolist()]


def labels_gate(splits: Mapping[str, Ranked]) -> Gate:
    """Judge the log: the champion, which comes first, must rank its lists better than chance.

    Where it does not, labels are not those of the lists, as after a wrong join. Training would then
    unlearn, and a validation on such labels would pass anything.
    """
    rule = (
        f"the active bundle ranks the lists of each split better than a random order, beyond "
        f"noise, over at least {FEWEST} users"
    )
    figures: dict[str, Any] = {}
    passed = True
    for split, ranked in splits.items():
        count = len(np.unique(ranked.users))
        if count < FEWEST:
            figures[split], passed = f"{count} users", False
            continue
        figures[split] = interval_over_users(ranked.metric[0] - ranked.chance, ranked.users)
        passed = passed and figures[split][1] > 0.0
    return Gate("labels", passed, rule, figures)


def quality_gate(differences: Array, users: Array, margin: float) -> Gate:
    """Judge the mean difference by its 95 % interval over users.

    An interval below 0 shows a loss. One that reaches below minus `margin` could hide a loss that
    matters, so that a candidate does not pass because there are too few lists.

    Args:
        differences: [R], candidate - champion; users: [R].
    """
    count = len(np.unique(users))
    rule = (
        f"the interval of the difference ends at 0 or above and begins at -{margin:g} or above, "
        f"over at least {FEWEST} users"
    )
    figures: dict[str, Any] = {"lists": len(differences), "users": count}
    if count < FEWEST:
        return Gate("validation", False, rule, figures)
    figures["difference"] = interval_over_users(differences, users)
    _, low, high = figures["difference"]
    return Gate("validation", bool(high >= 0.0 and low >= -margin), rule, figures)


def parity_gate(verification: Mapping[str, Any]) -> Gate:
    """Pass what the export has verified; it writes no bundle that differs from torch."""
    rule = "the exported graph gives the slates of torch"
    return Gate("parity", verification["slates"] > 0, rule, dict(verification))


def times_in_turns(old: Session, new: Session, rounds: int = TIMED_LISTS) -> tuple[Array, Array]:
    """Return seconds [rounds] of one list with each bundle, in turns, with every reasoning step."""
    size = min(CANDIDATES, old.manifest.max_candidates, new.manifest.max_candidates)
    sessions = [(session, session.blank_row(size)) for session in (old, new)]
    times = np.zeros((2, rounds + 2))
    for turn in range(rounds + 2):
        for number, (session, row) in enumerate(sessions):
            began = time.perf_counter()
            session.run([row])
            times[number, turn] = time.perf_counter() - began
    return times[0, 2:], times[1, 2:]  # the first runs pay for allocations


def latency_gate(old: Array, new: Array, slowdown: float) -> Gate:
    """Compare the medians of times in seconds that were measured in turns."""
    before, after = float(np.median(old)), float(np.median(new))
    figures = {"champion_ms": 1e3 * before, "candidate_ms": 1e3 * after, "ratio": after / before}
    rule = f"a list takes at most {slowdown:g} times as long as with the active bundle"
    return Gate("latency", after <= slowdown * before, rule, figures)


def golden_gate(new: Session, champion: Path) -> Gate:
    """Send the champion's golden requests to the candidate, which has replayed its own.

    The slates may differ, but no request may be refused or get a slate of another size.
    """
    entries = json.loads((champion / GOLDEN).read_text(encoding="utf-8"))
    rule = "the candidate answers all golden requests of the active bundle"
    figures: dict[str, Any] = {"requests": len(entries), "same_slate": 0}
    for number, entry in enumerate(entries):
        ids = [candidate["id"] for candidate in entry["request"]["candidates"]]
        try:
            slate = new.run([new.golden_row(entry["request"])])[0]
        except (FeatureError, ModelError) as error:
            return Gate("golden requests", False, rule, {**figures, "reason": f"{number}: {error}"})
        chosen = [ids[index] for index in slate.indices.tolist()]
        if len(chosen) != len(entry["slate"]):
            reason = f"{number}: {len(chosen)} positions in place of {len(entry['slate'])}"
            return Gate("golden requests", False, rule, {**figures, "reason": reason})
        figures["same_slate"] += chosen == entry["slate"]
    return Gate("golden requests", True, rule, figures)


def limits_gate(old: Session, new: Session) -> Gate:
    """Compare the limits that callers rely on."""
    before, after = old.manifest, new.manifest
    passed = (
        after.slate_length == before.slate_length
        and after.max_candidates >= before.max_candidates
        and new.supports_intent >= old.supports_intent
    )
    figures = {
        name: [getattr(before, name), getattr(after, name)]
        for name in ("slate_length", "max_candidates")
    }
    rule = "slates are as long, lists may be as long, and intent is supported as before"
    return Gate("limits", passed, rule, figures)
