"""Logged lists of a prepared data set, and NDCG of slates."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from loadtest.errors import UsageError

COLUMNS = ("request_id", "user_id", "timestamp", "position", "item_id", "label", "split")
RESAMPLES = 2000


@dataclass(frozen=True)
class Listed:
    """A logged list of N candidates in the order that was shown.

    time in ms; labels in 0..1; features: of each item at that time.
    """

    user: str
    time: int
    split: str
    items: Sequence[str]
    labels: Sequence[float]
    features: Sequence[Mapping[str, Any]]

    @property
    def is_decided(self) -> bool:
        """True if one candidate was liked and another one was not."""
        return len({label > 0.5 for label in self.labels}) == 2


def read_lists(data: Path) -> list[Listed]:
    """Return the lists of a data set by time. Raises UsageError for one that cannot be read."""
    try:
        rows = pl.read_parquet(data / "impressions.parquet")
        names = [name for name in rows.columns if name not in COLUMNS]
        rows = rows.sort("timestamp", "request_id", "position", maintain_order=True)
        lists = rows.group_by("request_id", maintain_order=True).agg(pl.all())
        return [_listed(columns, names) for columns in lists.iter_rows(named=True)]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(f"{data}: no data set of `python -m model prepare`: {error}") from error


def _listed(columns: Mapping[str, Any], names: Sequence[str]) -> Listed:
    values = zip(*(columns[name] for name in names), strict=True) if names else ()
    features = [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in values
    ]
    return Listed(
        columns["user_id"][0], columns["timestamp"][0], columns["split"][0], columns["item_id"],
        columns["label"], features or [{} for _ in columns["item_id"]],
    )  # fmt: skip


def item_kinds(bundle: Path) -> dict[str, str]:
    """Return the kind of each item feature of a bundle by name."""
    features = json.loads((bundle / "features.json").read_text("utf-8"))["features"]
    return {feature["name"]: feature["kind"] for feature in features if feature["of"] == "item"}


def moment_of(bundle: Path) -> int:
    """Return the time (ms) up to which the counts of a bundle reach. Raises UsageError."""
    try:
        with np.load(bundle / "statistics.npz", allow_pickle=False) as arrays:
            return int(arrays["as_of"])
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(f"{bundle}: the moment of its statistics is unknown: {error}") from error


def ndcg(slate: Sequence[str], listed: Listed) -> float:
    """Return NDCG@10 of the ids of a slate, with a gain of 1 for a like."""
    gains = {i: float(label > 0.5) for i, label in zip(listed.items, listed.labels, strict=True)}
    discounts = [1.0 / math.log2(place + 2) for place in range(10)]
    gained = sum(d * gains[item] for d, item in zip(discounts, slate, strict=False))
    best = sorted(gains.values(), reverse=True)
    return gained / sum(d * gain for d, gain in zip(discounts, best, strict=False))


def mean_interval(
    values: npt.NDArray[np.float64], users: Sequence[str]
) -> tuple[float, float, float]:
    """Return the mean of a value per list, and its 95 % interval over resampled users."""
    _, number = np.unique(np.asarray(users), return_inverse=True)
    sums, counts = np.bincount(number, values), np.bincount(number)
    draws = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)
