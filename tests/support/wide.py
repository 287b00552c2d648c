"""A data set of many numbers and of vectors of every owner, and an untrained bundle of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from model.data.dataset import Dataset
from model.learning.checkpoint import Trained, build
from model.learning.state import RunState
from tests.support.logs import prepare
from tests.support.runs import SMOKE

NUMBERS = 300
CANDIDATES = 6


def schema_text() -> str:
    """Return the schema: numbers and a vector of candidates, vectors of users and contexts."""
    lines = [
        "name: wide",
        "features:",
        "  - {name: like_rate, of: item, kind: statistic, relative: true}",
        "  - {name: taste, of: user, kind: vector, width: 4}",
        "  - {name: mood, of: context, kind: vector, width: 2}",
        "  - {name: look, of: candidate, kind: vector, width: 3}",
    ]
    for index in range(NUMBERS):
        extra = ", transform: log" if index % 3 == 0 else ", relative: true" if index < 9 else ""
        lines.append(f"  - {{name: number_{index}, of: candidate, kind: number{extra}}}")
    return "\n".join(lines) + "\n"


def log_frame(requests: int = 24) -> pl.DataFrame:
    """Return a log whose users and contexts have vectors, and whose candidates have numbers."""
    draw = np.random.default_rng(0)
    rows = requests * CANDIDATES
    request = np.repeat(np.arange(requests), CANDIDATES)
    taste, mood = draw.normal(size=(4, 4)).round(3), draw.normal(size=(requests, 2)).round(3)
    return pl.DataFrame(
        {
            "request_id": [f"r{index}" for index in request.tolist()],
            "user_id": [f"u{index % 4}" for index in request.tolist()],
            "timestamp": request * 60_000,
            "position": np.tile(np.arange(CANDIDATES), requests),
            "item_id": [f"i{index % 40}" for index in range(rows)],
            "label": draw.integers(0, 2, rows),
            "taste": taste[request % 4].tolist(),
            "mood": mood[request].tolist(),
            "look": draw.normal(size=(rows, 3)).round(3).tolist(),
            **{f"number_{index}": draw.exponential(size=rows) for index in range(NUMBERS)},
        }
    )


def write_data(directory: Path) -> Path:
    """Prepare the log in a directory and return that of the data set."""
    log_frame().write_parquet(directory / "log.parquet")
    (directory / "schema.yaml").write_text(schema_text())
    out = directory / "data"
    log = ("--log", directory / "log.parquet", "--schema", directory / "schema.yaml")
    prepare("impressions", *log, "--out", out)
    return out


def untrained(data: Path) -> Trained:
    """Return networks of random weights for a data set."""
    torch.manual_seed(0)
    featuriser = Dataset(data).featuriser
    state = RunState(config=SMOKE, data=str(data), positions=CANDIDATES)
    networks = build(SMOKE, featuriser, CANDIDATES)
    for network in networks:
        network.eval()
    return Trained(SMOKE, featuriser, *networks, threshold=1.0, share=0.5, state=state)
