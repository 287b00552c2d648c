"""Measure NDCG@10 over HTTP as a caller would, from the rows of a raw log.

This is a check of `evaluate`, so it shares nothing with it: the module imports nothing of the
project, makes its own requests, histories and shuffles, and computes NDCG by its definition.
"""

from __future__ import annotations

import json
import math
import random
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

HISTORY = 128  # answers of a user that a caller remembers
LISTS_PER_CALL = 16
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Log:
    """A raw log, and the part of it that is measured.

    path        Parquet: request_id, item_id, label, perhaps user_id, timestamp and item features
    data        data set that was prepared from it: says which requests are test, and holds the
                item features that are in no log, such as statistics
    label       label above which a candidate is liked
    """

    path: Path
    data: Path
    label: float = 0.5

    def lists(self, features: Sequence[str]) -> Iterator[tuple[list[Row], list[tuple[str, bool]]]]:
        """Yield the rows of each test list, and what its user answered before, oldest first."""
        rows = pl.read_parquet(self.path)
        if "timestamp" not in rows.columns:
            rows = rows.with_columns(timestamp=pl.int_range(pl.len()))
        prepared = pl.read_parquet(self.data / "impressions.parquet").filter(split="test")
        computed = [name for name in features if name not in rows.columns]
        keys = ["request_id", "item_id"]
        rows = rows.join(prepared.select(*keys, *computed), on=keys, how="left")
        tests = set(prepared["request_id"])
        if "user_id" not in rows.columns:
            rows = rows.with_columns(user_id=pl.lit(None, pl.String))
        # A list without a user is of a user of its own.
        rows = rows.with_columns(
            __user=pl.coalesce(pl.col("user_id", "request_id").cast(pl.String))
        )
        for _, visits in rows.group_by("user_id", "__user", maintain_order=True):
            answers: list[tuple[int, str, bool]] = []
            lists: list[list[Row]] = [
                list(listed.iter_rows(named=True))
                for listed in visits.partition_by("request_id", maintain_order=True)
            ]
            for listed in sorted(lists, key=_time):
                time = _time(listed)
                if listed[0]["request_id"] in tests:
                    before = [(item, liked) for at, item, liked in answers if at < time]
                    yield listed, before[-HISTORY:]
                answers += [
                    (time, str(row["item_id"]), row["label"] > self.label) for row in listed
                ]


def _time(rows: Sequence[Row]) -> int:
    return min(row["timestamp"] for row in rows)


def measure(log: Log, url: str, features: Sequence[str] = (), seed: int = 0) -> dict[str, Any]:
    """Return NDCG@10 over the test lists that have a like and a candidate without.

    Args:
        url: base URL of a running service.
        features: item features to send with each candidate; without them ids are sent alone.
        seed: seed of the order in which candidates are sent.
    """
    draw = random.Random(seed)
    values: list[float] = []
    bodies: list[dict[str, Any]] = []
    likes: list[list[bool]] = []

    def send() -> None:
        for slate, liked in zip(_rerank(url, bodies), likes, strict=True):
            values.append(_ndcg([liked[position] for position in slate], sum(liked)))
        bodies.clear()
        likes.clear()

    for rows, history in log.lists(features):
        listed = draw.sample(rows, len(rows))
        liked = [row["label"] > log.label for row in listed]
        if 0 < sum(liked) < len(liked):
            bodies.append(_body(listed, history, features))
            likes.append(liked)
        if len(bodies) == LISTS_PER_CALL:
            send()
    if bodies:
        send()
    return {"ndcg@10": math.fsum(values) / len(values), "lists": len(values)}


def _body(
    rows: Sequence[Row], history: Sequence[tuple[str, bool]], features: Sequence[str]
) -> dict[str, Any]:
    """Return the request for one list."""
    candidates = []
    for row in rows:
        candidate: dict[str, Any] = {"id": str(row["item_id"])}
        values = {name: row[name] for name in features if row[name] is not None}
        if values:
            candidate["features"] = values
        candidates.append(candidate)
    entries = [{"id": item, "label": float(liked)} for item, liked in history]
    user: dict[str, Any] = {"history": entries}
    if rows[0]["user_id"] is not None:
        user["id"] = str(rows[0]["user_id"])
    return {"user": user, "candidates": candidates, "timeout_ms": 30_000}


def _rerank(url: str, bodies: Sequence[dict[str, Any]]) -> Iterator[list[int]]:
    """Yield the slate of each request as places in its list of candidates.

    Raises OSError if the service did not answer with the model's slate.
    """
    content = json.dumps({"requests": bodies}).encode()
    call = urllib.request.Request(f"{url}/rerank/batch", content, method="POST")
    with urllib.request.urlopen(call, timeout=60) as response:
        answers = json.load(response)["responses"]
    for body, answer in zip(bodies, answers, strict=True):
        if answer["degraded"]:
            raise OSError(f"{url}: degraded ({answer['degraded']['reason']}); the machine is busy")
        places = {candidate["id"]: place for place, candidate in enumerate(body["candidates"])}
        yield [places[entry["id"]] for entry in answer["slate"]]


def _ndcg(liked: Sequence[bool], likes: int) -> float:
    """Return NDCG@10 of a slate from best to worst, in a list with so many likes."""
    discounts = [1.0 / math.log2(place + 2) for place in range(10)]
    gained = sum(discount for discount, like in zip(discounts, liked, strict=False) if like)
    return gained / sum(discounts[: min(likes, 10)])
