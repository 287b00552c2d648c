"""The first model of a seed: a log of random slates, and what is trained on it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from loadtest.loop.plan import (
    DAY_MS,
    DAYS_BEFORE,
    Base,
    Scale,
    hour,
    hour_of,
    training_config,
    world_of,
    write_config,
)
from loadtest.loop.steps import done_once, run_step
from model.study.known_world import SCHEMA, SLATE, KnownWorld

BUNDLE = Path("models") / "world" / "1"
RUN = "run"
DAYS_AGO = 60  # of day 0; files of a journal must not be older than their records


def make_first_model(directory: Path, base: Base, scale: Scale, seed: int) -> dict[str, Any]:
    """Write the log, train, and export the bundle into a directory, unless it has all.

    Returns `begin`, the time in ms of day 0, the seconds that it took, and those of each stage. A
    training that was interrupted resumes. Raises LoadTestError.
    """
    stages: dict[str, float] = {}

    def run_stage(name: str, log: Path, *words: object) -> None:
        began = time.monotonic()
        run_step(log, *words)
        stages[name] = round(time.monotonic() - began, 1)

    def work() -> dict[str, Any]:
        began = time.monotonic()
        directory.mkdir(parents=True, exist_ok=True)
        begin = done_once(directory / "begin.json", lambda: {"begin": today() - DAYS_AGO * DAY_MS})
        world, log = world_of(seed, scale), directory / "log"
        write_log(directory, world, begin["begin"])
        config = training_config(base, scale, seed, again=False)
        path = write_config(directory / "config.yaml", config)
        if not (directory / "data" / "summary.json").exists():
            run_stage(
                "prepare", log, "model", "prepare", "impressions",
                "--log", directory / "log.parquet", "--items", directory / "items.parquet",
                "--schema", directory / "schema.yaml", "--out", directory / "data",
            )  # fmt: skip
        run_stage(
            "train", log, "model", "train", "--config", path, "--data", directory / "data",
            "--out", directory / RUN,
        )  # fmt: skip
        shutil.rmtree(directory / BUNDLE, ignore_errors=True)
        run_stage(
            "export", log, "export", "--checkpoint", directory / RUN, "--out", directory / BUNDLE,
            "--entropy-quantile", config["reasoning"]["entropy_quantile"],
        )  # fmt: skip
        return {**begin, "seconds": round(time.monotonic() - began, 1), "stages": stages}

    return done_once(directory / "first.json", work)


def today() -> int:
    """Return the time in ms of the last midnight in UTC."""
    return time.time_ns() // 1_000_000 // DAY_MS * DAY_MS


def write_log(directory: Path, world: KnownWorld, begin: int) -> None:
    """Write schema, items and the log of the days before day 0, in which slates are random."""
    (directory / "schema.yaml").write_text(SCHEMA, "utf-8")
    write_items(directory / "items.parquet", world, 0)
    frames = [day_log(world, day, begin) for day in range(-DAYS_BEFORE, 0)]
    pl.concat(frames).write_parquet(directory / "log.parquet")


def day_log(world: KnownWorld, day: int, begin: int) -> pl.DataFrame:
    """Return the rows of the lists of a day; the first candidates are displayed."""
    lists = world.lists(day)
    places = np.broadcast_to(np.arange(SLATE), (len(lists), SLATE))
    clicks = world.clicks(lists, places)
    row = np.repeat(np.arange(len(lists)), SLATE)
    times = np.array([begin + hour(day, hour_of(r, world.size)) for r in lists.round.tolist()])
    return pl.DataFrame(
        {
            "request_id": [f"d{day}-{number}" for number in row.tolist()],
            "user_id": [f"u{lists.user[number]}" for number in row.tolist()],
            "timestamp": times[row],
            "position": places.ravel(),
            "item_id": [f"i{item}" for item in lists.item[:, :SLATE].ravel().tolist()],
            "label": clicks.ravel().astype(np.float32),
        }
    )


def histories(world: KnownWorld, begin: int, limit: int) -> dict[str, list[dict[str, Any]]]:
    """Return the latest answers of each user on the days before day 0, the latest last."""
    past: dict[str, list[dict[str, Any]]] = {}
    for day in range(-DAYS_BEFORE, 0):
        for user, item, label, moment in (
            day_log(world, day, begin)
            .select("user_id", "item_id", "label", "timestamp")
            .iter_rows()
        ):
            past.setdefault(user, []).append({"id": item, "label": label, "time": moment})
    return {user: answers[-limit:] for user, answers in past.items()}


def write_items(path: Path, world: KnownWorld, day: int) -> None:
    """Write the table of all items that were on sale up to a day."""
    numbers = range(int(world.on_sale(day)[-1]) + 1)
    rows = [{"item_id": f"i{number}", **world.features(number)} for number in numbers]
    pl.DataFrame(rows, schema_overrides={"topic": pl.List(pl.Float64)}).write_parquet(path)
