"""Logs of graded candidates with 300 sparse numbers, as in LightGBM's ranking example.

`read_example` reads that example's files (examples/lambdarank of microsoft/LightGBM), and
`draw_lists` draws lists of the same shape: few queries, many sparse features, skewed grades.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from model.data.errors import DataError

Array = np.ndarray[Any, Any]
FEATURES = 300
GRADES = 4  # the highest
TRAIN, TEST = 201, 50  # queries
VALID = 5  # every fifth train query validates
FACTORS = 8
VIEWS = 240  # features that show a factor; the others show nothing
SHARES = (0.4, 0.24, 0.2, 0.11, 0.05)  # of the grades 0 to 4


@dataclass(frozen=True)
class Query:
    """One list: grades int [N] and features float [N, F]."""

    grades: Array
    features: Array


def read_example(directory: Path) -> tuple[list[Query], list[Query]]:
    """Read `rank.train` and `rank.test` with their `.query` files: train and test queries.

    A line of the former is `grade column:value ...`, columns counted from 1 or 0; a line of the
    latter is the number of rows of a query. Raises DataError for a missing or a broken file.
    """
    read = [_read_rows(directory / name) for name in ("rank.train", "rank.test")]
    width = 1 + max(columns.max(initial=0) for _, _, columns, _ in read)
    splits = []
    for name, (grades, rows, columns, values) in zip(
        ("rank.train", "rank.test"), read, strict=True
    ):
        table = np.zeros((len(grades), width))
        table[rows, columns] = values
        sizes = _read_sizes(directory / f"{name}.query", len(grades))
        ends = np.cumsum(sizes)
        splits.append(
            [Query(grades[e - n : e], table[e - n : e]) for e, n in zip(ends, sizes, strict=True)]
        )
    return splits[0], splits[1]


def _read_rows(path: Path) -> tuple[Array, Array, Array, Array]:
    """Return the grade of each row, and row, column and value of each entry."""
    grades, rows, columns, values = [], [], [], []
    for row, line in enumerate(_lines(path)):
        try:
            grade, *entries = line.split()
            pairs = [entry.split(":") for entry in entries]
            grades.append(int(grade))
            columns += [int(column) for column, _ in pairs]
            values += [float(value) for _, value in pairs]
        except ValueError:
            raise DataError(
                path, "must be `grade column:value ...`", row=row + 1, value=line
            ) from None
        rows += [row] * len(entries)
    return np.array(grades), np.array(rows, int), np.array(columns, int), np.array(values)


def _read_sizes(path: Path, rows: int) -> list[int]:
    """Return the rows of each query. Raises DataError unless they add up to `rows`."""
    lines = _lines(path)
    if not all(line.isdecimal() for line in lines) or sum(map(int, lines)) != rows:
        raise DataError(path, f"must be numbers of rows that add up to {rows}")
    return [int(line) for line in lines]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(path, "no such file")
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def draw_lists(
    seed: int = 0, train: int = TRAIN, test: int = TEST, features: int = FEATURES
) -> tuple[list[Query], list[Query]]:
    """Draw train and test queries; the same seed draws the same ones.

    Eight hidden factors of a candidate make its worth: by steps, products and a slope. A feature
    shows one or two of them behind a threshold, so most of its values are 0, and is scaled anew by
    each query. Noise is added to the worth, and grades cut it at fixed shares of all candidates.
    """
    draw = np.random.default_rng(seed)
    views = features * VIEWS // FEATURES
    loads = np.zeros((FACTORS, features))
    for column in range(views):
        picked = draw.choice(FACTORS, draw.integers(1, 3), replace=False)
        loads[picked, column] = draw.normal(size=len(picked))
    threshold = draw.normal(0.8, 0.8, features)
    sizes = draw.integers(6, 25, train + test)
    per_query = np.repeat(draw.normal(size=(train + test, FACTORS)), sizes, axis=0)
    factors = 0.5 * per_query + draw.normal(size=per_query.shape)
    seen = factors @ loads + 0.7 * draw.normal(size=(len(factors), features)) - threshold
    scales = np.repeat(draw.lognormal(0.0, 0.4, (train + test, features)), sizes, axis=0)
    table = np.round(np.maximum(seen, 0.0) * scales, 2)
    worth = _worth(factors) + 1.4 * draw.normal(size=len(factors))
    grades = np.searchsorted(np.quantile(worth, np.cumsum(SHARES)[:-1]), worth)
    ends = np.cumsum(sizes)
    queries = [Query(grades[e - n : e], table[e - n : e]) for e, n in zip(ends, sizes, strict=True)]
    return queries[:train], queries[train:]


def _worth(factors: Array) -> Array:
    """Return the worth [X] of candidates with these factors [X, FACTORS]."""
    f = factors.T
    return np.asarray(
        0.9 * f[0]
        + 0.9 * (f[1] > 0.5)
        + 0.7 * np.maximum(f[2], 0.0) * (f[3] > 0)
        + 0.5 * f[4] * f[5]
        - 0.8 * (f[6] > 1.0)
    )


def write_log(directory: Path, train: Sequence[Query], test: Sequence[Query]) -> tuple[Path, Path]:
    """Write `log.parquet` and `schema.yaml` for `prepare impressions`; return their paths.

    Every fifth train query is valid. Features that are 0 throughout are left out.
    """
    queries = [*train, *test]
    splits = ["valid" if n % VALID == VALID - 1 else "train" for n in range(len(train))]
    splits += ["test"] * len(test)
    sizes = [len(query.grades) for query in queries]
    table = np.concatenate([query.features for query in queries])
    names = [f"x{column}" for column in np.flatnonzero(table.any(axis=0))]
    requests = np.repeat([f"q{number:04d}" for number in range(len(queries))], sizes)
    position = np.concatenate([np.arange(size) for size in sizes])
    columns = {
        "request_id": requests,
        "user_id": requests,
        "item_id": [f"{q}-{p}" for q, p in zip(requests, position, strict=True)],
        "position": position,
        "label": np.concatenate([query.grades for query in queries]),
        "split": np.repeat(splits, sizes),
        **{name: table[:, int(name[1:])] for name in names},
    }
    directory.mkdir(parents=True, exist_ok=True)
    log, schema = directory / "log.parquet", directory / "schema.yaml"
    pl.DataFrame(columns).write_parquet(log)
    feature = {"of": "candidate", "kind": "number", "relative": True}
    payload = {
        "name": "graded",
        "label": {"range": [0, GRADES], "gain": "exponential", "positive": 1},
        "features": [{"name": name, **feature} for name in names],
    }
    schema.write_text(yaml.safe_dump(payload, sort_keys=False), encoding="utf-8")
    return log, schema
