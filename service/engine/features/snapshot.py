"""The moment of an item table, and the counts from which its statistics were computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import STATISTICS

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StatisticCounts:
    """The counts of one statistic as of the moment; I items, in the order of the item table.

    With a half-life, each count has decayed since the end of its bucket, and decays further after
    the moment. Counts of the same moment may be added.

    shows      float64 [I], times that each item was shown
    likes      float64 [I], sum of the gains of these shows, of binary labels the number of likes
    all_shows  all shows, those of items that the table lacks included
    all_likes  likewise; all_likes / all_shows is the prior rate
    bucket     width of the time buckets in ms; None for a log without time
    half_life  time in ms after which a show and its gain count half; None: they count for ever
    """

    shows: Counts
    likes: Counts
    all_shows: float
    all_likes: float
    bucket: int | None = None
    half_life: int | None = None


SCALARS = ("all_shows", "all_likes", "bucket", "half_life")
ARRAYS = ("shows", "likes")


@dataclass(frozen=True)
class Snapshot:
    """The moment of an item table in ms since 1970 UTC, or None, and the counts by statistic."""

    as_of: int | None
    statistics: Mapping[str, StatisticCounts] = dataclasses.field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write `statistics.npz` (no pickle); an absent moment, bucket or half-life is NaN."""
        arrays: dict[str, Any] = {"as_of": np.array(_number(self.as_of), np.float64)}
        for name, counts in self.statistics.items():
            for field in (*ARRAYS, *SCALARS):
                value = getattr(counts, field)
                arrays[f"{field}.{name}"] = np.asarray(_number(value), np.float64)
        with (directory / STATISTICS).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, directory: Path) -> Snapshot | None:
        """Read what `save` wrote, None without a file. Raises OSError or ValueError if broken."""
        path = directory / STATISTICS
        if not path.is_file():
            return None
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = [key.removeprefix("shows.") for key in arrays.files if key[:6] == "shows."]
            statistics = {
                name: StatisticCounts(
                    arrays[f"shows.{name}"],
                    arrays[f"likes.{name}"],
                    float(arrays[f"all_shows.{name}"]),
                    float(arrays[f"all_likes.{name}"]),
                    _whole(arrays[f"bucket.{name}"]),
                    _whole(arrays[f"half_life.{name}"]),
                )
                for name in names
            }
            return cls(_whole(arrays["as_of"]), statistics)


def _number(value: Any) -> Any:
    return np.nan if value is None else value


def _whole(value: Any) -> int | None:
    return None if np.isnan(value) else int(value)
