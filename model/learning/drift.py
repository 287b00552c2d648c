"""Compare the features of two train splits by the population stability index (PSI).

    PSI = sum over bins of (p - q) * ln(p / q)

p and q are the shares of the rows of both splits in a bin. Usual marks are 0.1 and 0.25 (Yurdakul,
"Statistical Properties of Population Stability Index", Western Michigan University, 2018).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from model.data.growth import ABSENT
from model.data.lists import Array, Lists
from service.engine.contract import Integers
from service.engine.features.layout import Layout
from service.engine.features.schema import Feature, Schema

FILE = "distributions.json"
DRIFTED = 0.2  # PSI above which a feature counts as drifted
BINS = 10  # with about equal numbers of rows, or of values of a vocabulary
SINGLES = 20  # values that have a bin each; more share BINS bins, in their order
ROWS = 100_000  # at most about so many are counted


@dataclass(frozen=True)
class Distribution:
    """Numbers of rows in the bins of a column; `edges` lie between the bins of numbers."""

    counts: list[int]
    edges: list[float]


Distributions = Mapping[str, list[Distribution]]  # by feature; one per component of a vector


def count_rows(
    lists: Lists,
    schema: Schema,
    reference: Distributions | None = None,
    tokens: Integers | None = None,
) -> dict[str, list[Distribution]]:
    """Count rows of evenly spaced lists.

    Args:
        schema: fitted schema whose values define the bins.
        reference: distributions whose edges are used; by default those of the rows themselves.
        tokens: tokens in `schema` of the lists' tokens, from growth.earlier_tokens.
    """
    layout = Layout(schema)
    every = max(1, len(lists) * lists.longest // ROWS)
    arrays = lists.read(slice(None, None, every))
    numbers, token_rows = arrays.numbers[arrays.mask], arrays.tokens[arrays.mask]
    if tokens is not None:
        token_rows = tokens[token_rows]
    columns: dict[str, list[Distribution]] = {}
    for feature in schema.features:
        if feature.slots:
            values = token_rows[:, layout.slots(feature)].ravel()
            columns[feature.name] = [_count_tokens(feature, values, layout)]
        elif feature.kind != "vector" or feature.input:
            first = layout.column[feature.name]
            components = numbers[:, first : first + feature.width].T
            edges = [_quantiles(column) for column in components]
            if reference is not None:
                edges = [distribution.edges for distribution in reference[feature.name]]
            pairs = zip(components, edges, strict=True)
            columns[feature.name] = [_count_numbers(*pair) for pair in pairs]
    return columns


def _quantiles(column: Array) -> list[float]:
    quantiles: list[float] = np.quantile(column, np.arange(1, BINS) / BINS).tolist()
    return quantiles


def _count_numbers(column: Array, edges: list[float]) -> Distribution:
    place = np.searchsorted(np.array(edges, np.float32), column, side="right")
    return Distribution(np.bincount(place, minlength=BINS).tolist(), edges)


def _count_tokens(feature: Feature, values: Integers, layout: Layout) -> Distribution:
    """Count tokens: none, out of vocabulary, absent from the schema, and groups of values."""
    first, size = layout.first_token[feature.name], feature.values
    groups = size if size <= SINGLES else BINS
    group = 3 + (values - (first + 1)) * groups // max(size, 1)
    place = np.select([values == 0, values == first, values == ABSENT], [0, 1, 2], group)
    return Distribution(np.bincount(place, minlength=3 + groups).tolist(), [])


def measure_drift(before: Distributions, after: Distributions) -> dict[str, float]:
    """Return the PSI of each feature, largest first; of a vector, that of its worst component."""
    drift = {}
    for name, distributions in before.items():
        pairs = zip(distributions, after[name], strict=True)
        indices = [population_stability(one.counts, other.counts) for one, other in pairs]
        drift[name] = round(max(indices), 4)
    return dict(sorted(drift.items(), key=lambda entry: -entry[1]))


def population_stability(before: Iterable[int], after: Iterable[int]) -> float:
    """Return the PSI of two rows of counts. An empty bin counts as half a row."""
    counts = np.array([[*before], [*after]], np.float64)
    counts = counts[:, counts.any(axis=0)]
    p, q = np.maximum(counts, 0.5) / counts.sum(axis=1, keepdims=True).clip(min=1.0)
    return float(((p - q) * np.log(p / q)).sum())


def drift_table(drift: Mapping[str, float]) -> list[str]:
    """Return the lines of a table of `measure_drift`, with a mark at drifted features."""
    width = max([len("feature"), *map(len, drift)])
    lines = [f"{'feature':<{width}}     PSI"]
    for name, index in drift.items():
        mark = f"  drifted (above {DRIFTED:g})" if index > DRIFTED else ""
        lines.append(f"{name:<{width}}  {index:6.3f}{mark}")
    return lines


def save(directory: Path, distributions: Distributions) -> None:
    """Write FILE."""
    payload = {name: [asdict(one) for one in columns] for name, columns in distributions.items()}
    (directory / FILE).write_text(json.dumps(payload) + "\n", encoding="utf-8")


def load(directory: Path) -> Distributions | None:
    """Read the file of `save`; None if a run of an earlier version lacks it."""
    if not (directory / FILE).exists():
        return None
    payload = json.loads((directory / FILE).read_text(encoding="utf-8"))
    return {name: [Distribution(**one) for one in columns] for name, columns in payload.items()}
