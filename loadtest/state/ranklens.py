"""Replay RankLens: by the user's id alone every list must get the slate of an inline history."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
from tqdm import tqdm

from loadtest.measured import Bar, Measured
from loadtest.server import serving
from loadtest.state.calls import batches, put_records, rank_all
from loadtest.state.command import State
from loadtest.state.logs import Listed, read_lists
from loadtest.state.stores import empty_store, run_module

SETTINGS = {"adaptive_budget": "false", "timeout_ms": 30_000, "state_timeout_ms": 1000}
LISTS = 16  # of a call
HISTORY = 128
History = list[dict[str, Any]]


def add_ranklens(measured: Measured, options: State) -> None:
    """Rank every test list in both ways with each engine. Raises ServerError, LoadTestError."""
    if not options.ranklens.exists():
        run_module("model", "prepare", "ranklens", "--out", options.ranklens.parent)
    visits = list(visits_of(read_lists(options.ranklens)))
    for engine in options.engine:
        with (
            empty_store(options, engine, "ranklens") as address,
            serving(options.bundle, state=address, state_counters="false", **SETTINGS) as server,
            httpx.Client(base_url=server.url, timeout=60) as client,
        ):
            differing = sum(
                count_differing(client, server.url, visit)
                for visit in tqdm(visits, desc="RankLens", disable=None, leave=False)
            )
        lists = sum(map(len, visits))
        measured.add("RankLens: test lists ranked by user.id alone", engine, lists, "lists")
        measured.add(
            "RankLens: slates that differ from those of inline histories", engine, differing,
            "lists", Bar("==", 0),
        )  # fmt: skip


def visits_of(lists: Sequence[Listed]) -> Iterator[list[tuple[Listed, History]]]:
    """Yield test lists with their users' answers before them, at most one list of each user.

    The next lists of the same users follow in the next visit.
    """
    answers: defaultdict[str, list[tuple[int, str, float]]] = defaultdict(list)
    visits: defaultdict[int, list[tuple[Listed, History]]] = defaultdict(list)
    counts: defaultdict[str, int] = defaultdict(int)
    for listed in lists:
        if listed.split == "test":
            before = [entry for entry in answers[listed.user] if entry[0] < listed.time]
            history = [
                {"id": item, "label": label, "time": time}
                for time, item, label in before[-HISTORY:]
            ]
            visits[counts[listed.user]].append((listed, history))
            counts[listed.user] += 1
        for item, label in zip(listed.items, listed.labels, strict=True):
            answers[listed.user].append((listed.time, item, label))
    yield from visits.values()


def count_differing(client: httpx.Client, url: str, visit: Sequence[tuple[Listed, History]]) -> int:
    """Put the users' histories, rank each list in both ways, and count slates that differ."""
    put_records(url, "users", ({"user": each.user, "history": past} for each, past in visit))
    draw, differing = random.Random(0), 0
    for part in batches(visit, LISTS):
        inline, by_id = [], []
        for listed, past in part:
            candidates = draw.sample(listed.items, len(listed.items))
            history = [{"id": entry["id"], "label": entry["label"]} for entry in past]
            inline.append({"user": {"history": history}, "candidates": candidates})
            by_id.append({"user": {"id": listed.user}, "candidates": candidates})
        pairs = zip(rank_all(client, inline), rank_all(client, by_id), strict=True)
        differing += sum(slate != other for slate, other in pairs)
    return differing
