"""Generated users and items, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ormsgpack
from tqdm import tqdm

from loadtest.scenarios import Catalogue, value
from loadtest.state.calls import now_ms

ANSWERS = 128  # of a user of a load
BEGIN = 1_700_000_000_000  # time of the first answer of a load, in ms
MINUTE_MS = 60_000
FEATURES = 4  # of an item
HISTORIES = 2000  # distinct ones of a load
# The parts of a packed record {"user": NAME, "history": HISTORY} around its values.
PAIR, USER, HISTORY = b"\x82", ormsgpack.packb("user"), ormsgpack.packb("history")
LABELS = (0.0, 0.0, 0.0, 0.0, 1.0)  # a fifth of the answers are likes, as in RankLens


def item_records(
    catalogue: Catalogue, ids: Sequence[str], seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield items with values of the bundle's first features and counters of its statistics."""
    draw, moment = random.Random(seed), now_ms()
    usable = [f for f in catalogue.features if f["of"] == "item" and f["name"] != "item_id"]
    features = [f for f in usable if f["kind"] in ("number", "category", "categories")][:FEATURES]
    statistics = [f["name"] for f in usable if f["kind"] == "statistic"]
    for item in ids:
        counters = {}
        for name in statistics:
            shows = draw.randint(10, 200)
            likes = draw.randint(0, shows // 4)
            counters[name] = {"shows": float(shows), "likes": float(likes), "time": moment}
        values = {feature["name"]: likely_value(feature, draw) for feature in features}
        yield {"item": item, "features": values, "counters": counters}


def likely_value(feature: Mapping[str, Any], draw: random.Random) -> Any:
    """Return a value within the range that training saw."""
    if feature["kind"] != "number":
        return value(feature, draw)
    spread = 0.5 * feature.get("std", 1.0)
    number = draw.gauss(feature.get("mean", 0.0), spread)
    return round(2.718**number if feature.get("transform") == "log" else number, 4)


def user_record(name: str, items: Sequence[str], draw: random.Random) -> dict[str, Any]:
    """Return a user who has answered the items one after the other."""
    count = len(items)
    first = BEGIN + draw.randrange(10**9)
    history = {
        "id": items,
        "label": draw.choices(LABELS, k=count),
        "type": [None] * count,
        "time": list(range(first, first + count * MINUTE_MS, MINUTE_MS)),
    }
    return {"user": name, "history": history}


def write_users(path: Path, count: int, items: Sequence[str], answers: int = ANSWERS) -> None:
    """Write users with answers to a MessagePack file of the form of dumps.

    They share HISTORIES histories, because drawing a million takes longer than loading them.
    """
    draw = random.Random(1)
    histories = [
        ormsgpack.packb(user_record("", draw.choices(items, k=answers), draw)["history"])
        for _ in range(min(count, HISTORIES))
    ]
    with path.open("wb") as file:
        for number in tqdm(range(count), unit=" users", desc="generate", disable=None, leave=False):
            head = PAIR + USER + ormsgpack.packb(f"u{number}") + HISTORY
            file.write(head + histories[number % len(histories)])


def write_items(path: Path, catalogue: Catalogue, ids: Sequence[str]) -> None:
    """Write items with features and counters to a MessagePack file of the form of dumps."""
    with path.open("wb") as file:
        for record in tqdm(
            item_records(catalogue, ids), total=len(ids), unit=" items", desc="generate",
            disable=None, leave=False,
        ):  # fmt: skip
            file.write(ormsgpack.packb(record))
