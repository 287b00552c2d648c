"""Find absurd numbers, such as 1e30 for a price, which would flatten a whole feature.

A number is absurd if it is farther from the median of its column than 1e6 times the range of the
middle 90 % of the values, and a thousand times farther than the nearest number that is not absurd.
The featuriser accepts no number beyond 1e6 deviations either. Columns with heavy tails pass: of a
million log-normal numbers with sigma 3, the largest is about 1e4 ranges from the median, and the
numbers of a heavier tail, such as a power law, leave no such gap. The logarithm of a feature with
`transform: log` makes 1e12 small, so the factor is 1e12 there.

If the middle 90 % are equal, the range is that of the values beside the median. If fewer than 20
values say how far values lie, a number is absurd only beyond 2^63, which no counter, id or clock of
64 bits reaches. No number within a thousand times the median is absurd.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from model.data.rules import Rule
from model.data.scan import ROW
from service.engine.features.encoding import LARGEST
from service.engine.features.schema import NUMBER_KINDS, Feature

FACTORS = {"none": LARGEST, "log": LARGEST**2}
TAIL = 0.05  # share of the values beyond each end of the range
FEW = 20  # values below which a tail has not even one
CONSTANT = 1e-6  # of the median: a range below it is rounding, as in model.data.fitting
WIDEST = 2.0**63
NEAR = 1e3  # multiples of the median that are never absurd
GAP = 1e3  # times the distance of the nearest other number
SAMPLE = 100_000  # values that the range is taken from
COLUMNS = 16  # columns that are sampled at once


@dataclass(frozen=True)
class Spread:
    """The median of a column, and the largest distance from it that is not absurd."""

    median: float
    limit: float
    reason: str


def spread_of(values: npt.NDArray[np.float64], transform: str) -> Spread | None:
    """Return the spread of finite numbers, None if there are none."""
    ordered = np.sort(values)
    count = len(ordered)
    if not count:
        return None
    median = float(ordered[(count - 1) // 2])
    least = CONSTANT * max(1.0, abs(median))
    factor, scale, name = FACTORS[transform], 0.0, ""
    with np.errstate(over="ignore"):
        if count >= FEW:
            cut = int(TAIL * count)
            scale = float(ordered[count - 1 - cut] - ordered[cut])
            name = "the range of its middle 90 %"
        if scale < least:
            distances = np.sort(np.abs(ordered[ordered != median] - median))
            scale, few = 0.0, len(distances) < FEW
            if not few:
                scale = float(distances[len(distances) - 1 - int(TAIL * len(distances))])
                name = "the distance of its other values"
    if scale < least:
        return Spread(median, WIDEST, "its other values hardly differ")
    limit = max(factor * scale, NEAR * abs(median))
    return Spread(median, limit, f"{factor:.0e} times {name}, {scale:.3g}")


def extreme_rules(
    rows: pl.LazyFrame, features: Sequence[Feature], row_count: int
) -> Iterator[Rule]:
    """Yield a rule for each numeric feature that `rows` has: no value is absurd.

    A sample of every few rows, always the same ones, tells the range of a column.

    Args:
        rows: with ROW, in any order.
    """
    names = set(rows.collect_schema().names())
    numeric = [f for f in features if f.kind in NUMBER_KINDS and f.name in names]
    step = max(1, row_count // SAMPLE)
    for start in range(0, len(numeric), COLUMNS):
        part = numeric[start : start + COLUMNS]
        sample = rows.filter((pl.col(ROW) - 1) % step == 0).select(feature.name for feature in part)
        columns = sample.collect(engine="streaming")
        spreads = []
        for feature in part:
            values = columns[feature.name].drop_nulls().to_numpy()
            spread = spread_of(values, feature.transform)
            if spread is not None:
                distance = (pl.col(feature.name) - spread.median).abs()
                spreads.append((feature, spread, distance))
        largest = [distance.max().alias(feature.name) for feature, _, distance in spreads]
        reached = rows.select(largest).collect(engine="streaming") if spreads else columns
        for feature, spread, distance in spreads:
            if reached[feature.name].item() <= spread.limit:
                continue
            least = _first_behind_gap(rows, distance, spread.limit)
            if least is not None:
                hint = "" if feature.transform == "log" else ", or declare transform: log"
                text = f"must be within {spread.limit:.3g} of the median {spread.median:.3g}"
                text += f" of its column ({spread.reason}); correct it{hint}"
                yield Rule(feature.name, text, (distance >= least).fill_null(False))


def _first_behind_gap(rows: pl.LazyFrame, distance: pl.Expr, limit: float) -> float | None:
    """Return the least distance beyond `limit` that lies behind a gap, None without one."""
    far = rows.select(distance.filter(distance > limit).alias("far"))
    near = rows.select(distance.filter(distance <= limit).max())
    start = near.collect(engine="streaming").item() or 0.0
    ordered = np.append(start, far.collect(engine="streaming")["far"].sort().to_numpy())
    behind = np.flatnonzero(ordered[1:] > GAP * ordered[:-1])
    return float(ordered[behind[0] + 1]) if len(behind) else None
