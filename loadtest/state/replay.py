"""Replay logs against a service with a store: generated ones in time order, and RankLens.

The models of the generated logs are those of `python -m model worth`. Lists behind the moment of
the bundle's counts are ranked at the time that they were logged, by a service whose clock is set;
then the answers of their users are sent as feedback. Items are put when the log has a new value.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from loadtest.measured import Bar, Measured
from loadtest.server import serving, serving_under
from loadtest.state.calls import (
    batches,
    event,
    feedback_body,
    put_records,
    rank_all,
    require_accepted,
)
from loadtest.state.clock import Clock
from loadtest.state.command import State
from loadtest.state.logs import Listed, item_kinds, mean_interval, moment_of, ndcg, read_lists
from loadtest.state.ranklens import add_ranklens
from loadtest.state.stores import empty_store, run_module

CASES = {"changing items": "changing", "fading items, half-life": "fading"}  # and the bundle
SEED = 0
SETTINGS = {"adaptive_budget": "false", "timeout_ms": 30_000, "state_timeout_ms": 1000}
LISTS = 16  # of a call
EVENTS = 500  # of a call
HISTORY = 128
POINTS = 12  # of a curve
SHOWN_ORDER, IDS, FRESH, STORE = (
    "shown order", "ids and inline history", "fresh features inline", "ids with the store",
)  # fmt: skip
ARMS = (SHOWN_ORDER, IDS, FRESH, STORE)
CLOSE = 0.02  # of NDCG@10


def measure(options: State) -> Measured:
    """Replay both logs, then RankLens. Raises ServerError or LoadTestError."""
    measured = Measured()
    cache = options.scratch / "worth"
    train_models(cache, options.config)
    for case, bundle_name in CASES.items():
        directory = cache / case.replace(",", "").replace(" ", "-") / str(SEED)
        bundle = directory / "bundles" / bundle_name / str(SEED + 1)
        with empty_store(options, "lmdb", "replay") as address:
            replay = Replay(bundle, read_lists(directory / "data"), moment_of(bundle))
            replay.run(address, options.scratch / "clock")
        replay.add_rows(measured, bundle_name)
        measured.curves[case] = replay.curves()
    add_ranklens(measured, options)
    return measured


def train_models(cache: Path, config: Path) -> None:
    """Generate the logs and train their models, unless the cache has them. Raises LoadTestError."""
    words = ["worth", "--seeds", "1", "--cases", *CASES, "--config", config, "--cache", cache]
    # A figure outside of its interval, status 1, concerns the worth and not the store.
    run_module("model", *words, "--out", cache / "reports", accepted=(0, 1))


@dataclass
class Replay:
    """One log in time order against two services, one of which has a store.

    lists: by time; begin: time in ms behind which lists are ranked; the users of earlier ones are
    put with their answers. scores: NDCG@10 of the lists in `judged`, by the way of ranking them.
    """

    bundle: Path
    lists: Sequence[Listed]
    begin: int
    scores: dict[str, list[float]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    judged: list[Listed] = field(default_factory=list)
    _histories: defaultdict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _put: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _draw: random.Random = field(default_factory=lambda: random.Random(SEED))
    _events: int = 0

    def __post_init__(self) -> None:
        # Counters feed the statistics.
        kinds = item_kinds(self.bundle)
        self._stored = [name for name, kind in kinds.items() if kind != "statistic"]

    def run(self, address: str, clock_file: Path) -> None:
        """Replay the log. Raises ServerError."""
        clock = Clock(clock_file, self.begin)
        settings = {**SETTINGS, "state": address}
        with (
            serving(self.bundle, **SETTINGS) as plain,
            serving_under(clock.wrapper, self.bundle, settings=settings) as store,
            httpx.Client(base_url=plain.url, timeout=60) as of_plain,
            httpx.Client(base_url=store.url, timeout=60) as of_store,
        ):
            before = [listed for listed in self.lists if listed.time <= self.begin]
            for listed in before:
                self._remember(listed)
            put_records(store.url, "users", self._users())
            after = self.lists[len(before) :]
            with tqdm(total=len(after), unit="list", desc="replay", disable=None) as bar:
                for moment, group in itertools.groupby(after, key=lambda listed: listed.time):
                    clock.set(moment)
                    lists = list(group)
                    self._put_changes(store.url, lists)
                    self._rank(of_plain, of_store, [each for each in lists if each.is_decided])
                    self._answer(of_store, lists)
                    bar.update(len(lists))

    def _users(self) -> list[dict[str, Any]]:
        """Return all users with what they answered so far."""
        return [{"user": u, "history": past[-HISTORY:]} for u, past in self._histories.items()]

    def _remember(self, listed: Listed) -> None:
        for item, label in zip(listed.items, listed.labels, strict=True):
            self._histories[listed.user].append({"id": item, "label": label, "time": listed.time})

    def _put_changes(self, url: str, lists: Sequence[Listed]) -> None:
        """Put the items that the lists have with other values than before."""
        records = {}
        for listed in lists:
            for item, features in zip(listed.items, listed.features, strict=True):
                values = {name: features[name] for name in self._stored if name in features}
                if values and self._put.get(item) != values:
                    self._put[item] = values
                    records[item] = {"item": item, "features": values}
        put_records(url, "items", records.values())

    def _rank(self, plain: httpx.Client, store: httpx.Client, lists: Sequence[Listed]) -> None:
        """Rank the lists in every way and keep their NDCG@10."""
        for part in batches(lists, LISTS):
            orders = [self._draw.sample(range(len(each.items)), len(each.items)) for each in part]
            bodies: dict[str, list[dict[str, Any]]] = {IDS: [], FRESH: [], STORE: []}
            for listed, order in zip(part, orders, strict=True):
                ids = [listed.items[place] for place in order]
                fresh = [
                    {"id": listed.items[place], "features": listed.features[place]}
                    for place in order
                ]
                past = self._histories[listed.user][-HISTORY:]
                user = {"history": [{"id": e["id"], "label": e["label"]} for e in past]}
                bodies[IDS].append({"user": user, "candidates": ids})
                bodies[FRESH].append({"user": user, "candidates": fresh})
                bodies[STORE].append({"user": {"id": listed.user}, "candidates": ids})
            self.judged += part
            self.scores[SHOWN_ORDER] += [ndcg(listed.items, listed) for listed in part]
            for arm, requests in bodies.items():
                slates = rank_all(store if arm == STORE else plain, requests)
                self.scores[arm] += [
                    ndcg([entry["id"] for entry in slate], listed)
                    for slate, listed in zip(slates, part, strict=True)
                ]

    def _answer(self, store: httpx.Client, lists: Sequence[Listed]) -> None:
        """Send what the users of the lists answered, and remember it."""
        events = []
        for listed in lists:
            for item, label in zip(listed.items, listed.labels, strict=True):
                events.append(event(self._events, listed.user, item, label, listed.time))
                self._events += 1
            self._remember(listed)
        for part in batches(events, EVENTS):
            response = store.post("/feedback", content=feedback_body(part))
            require_accepted(response.status_code, response.content, len(part))

    def add_rows(self, measured: Measured, name: str) -> None:
        """Add NDCG@10 of the test lists in every way, and the differences that count."""
        tests = [number for number, each in enumerate(self.judged) if each.split == "test"]
        users = [self.judged[number].user for number in tests]
        scores = {arm: np.array(values)[tests] for arm, values in self.scores.items()}
        measured.add(f"{name} items: test lists", "lmdb", len(tests), "lists")
        for arm, values in scores.items():
            interval = mean_interval(values, users)
            measured.add_interval(f"{name} items: {arm}", "lmdb", interval, "NDCG@10")
        over_fresh = mean_interval(scores[STORE] - scores[FRESH], users)
        over_shown = mean_interval(scores[STORE] - scores[SHOWN_ORDER], users)
        changing = name == "changing"
        measured.add_interval(
            f"{name} items: the store over fresh features inline", "lmdb", over_fresh, "NDCG@10",
            Bar(">=", -CLOSE) if changing else None,
        )  # fmt: skip
        measured.add_interval(
            f"{name} items: the store over the shown order", "lmdb", over_shown, "NDCG@10",
            None if changing else Bar(">", 0), compared=over_shown[1],
        )  # fmt: skip

    def curves(self) -> dict[str, Any]:
        """Return NDCG@10 in every way in blocks of lists by time, and the middle of each block."""
        count = len(self.judged)
        blocks = np.array_split(np.arange(count), min(POINTS, count))
        return {
            "lists": [float(block.mean()) for block in blocks],
            **{
                arm: [round(float(np.array(values)[block].mean()), 4) for block in blocks]
                for arm, values in self.scores.items()
            },
        }
