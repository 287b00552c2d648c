"""Generate logs of shops whose items change with time.

Each writes log.parquet and schema.yaml, for `python -m model prepare impressions`. The same seed
gives the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

DAY_MS = 86_400_000
BEGIN = 1_700_000_000_000  # time of the first day, in ms
SHOWN = 10  # candidates of a list
COLUMNS = ["request_id", "user_id", "timestamp", "position", "item_id", "label"]
SCHEMA = """name: {name}
label: {{range: [0, 1]}}
history: {{limit: 128, kernels: [], rate: like_rate}}
features:
  - {{name: like_rate, of: item, kind: statistic, prior_strength: 10, relative: true}}
"""


def write_changing_items(directory: Path, seed: int) -> None:
    """Write a log in which every day other items are on sale, and users like what is on sale.

    200 items, 300 users, 10 days of 300 lists. `promo` and `price` say what is on sale at the time
    of a list; a caller that sends ids only leaves both to the item table.
    """
    draw = np.random.default_rng(seed)
    items, users, days, lists_a_day = 200, 300, 10, 300

    def rows() -> Iterator[tuple[Any, ...]]:
        for day in range(days):
            on_sale = draw.random(items) < 0.3
            for number in range(lists_a_day):
                user = int(draw.integers(0, users))
                time = BEGIN + day * DAY_MS + number * 1000
                for position, item in enumerate(draw.choice(items, SHOWN, replace=False).tolist()):
                    label = int(draw.random() < (0.6 if on_sale[item] else 0.1))
                    promo, price = ("sale", 5.0) if on_sale[item] else ("full", 10.0)
                    yield (f"r{day}-{number}", f"u{user}", time, position, f"i{item}", label,
                           promo, price)  # fmt: skip

    features = [
        "  - {name: promo, of: item, kind: category}\n",
        "  - {name: price, of: item, kind: number, relative: true}\n",
    ]
    schema = SCHEMA.format(name="changing") + "".join(features)
    _write(directory, schema, pl.DataFrame(rows(), [*COLUMNS, "promo", "price"], orient="row"))


def write_fading_items(directory: Path, seed: int, half_life: str | None = None) -> None:
    """Write a log in which an item is liked for six days after a random day of its own.

    400 items, 1,500 users with four lists each within three days, 30 days. Whoever reads the whole
    log knows what will be liked; whoever reads only the past knows what was. With `half_life`, the
    like rate of an item forgets what was.
    """
    draw = np.random.default_rng(seed)
    items, users, days, lists_a_user, hot_days = 400, 1500, 30, 4, 6
    born, quality = draw.integers(0, days, items), draw.normal(0, 1, items)

    def rows() -> Iterator[tuple[Any, ...]]:
        for user in range(users):
            first = int(draw.integers(0, days - 3))
            for visit in range(lists_a_user):
                day = first + visit * 0.7
                listed = draw.choice(items, SHOWN, replace=False)
                age = day - born[listed]
                hot = np.where((age >= 0) & (age < hot_days), 2.5, 0.0)
                chance = 1 / (1 + np.exp(-(-2 + hot + 0.3 * quality[listed])))
                labels = (draw.random(SHOWN) < chance).astype(int).tolist()
                for position, (item, label) in enumerate(zip(listed, labels, strict=True)):
                    yield (f"r{user}-{visit}", f"u{user}", int(BEGIN + day * DAY_MS), position,
                           f"i{item}", label)  # fmt: skip

    schema = SCHEMA.format(name="fading")
    if half_life is not None:
        schema = schema.replace("relative: true", f"relative: true, half_life: {half_life}")
    _write(directory, schema, pl.DataFrame(rows(), COLUMNS, orient="row"))


def _write(directory: Path, schema: str, rows: pl.DataFrame) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(directory / "log.parquet")
    (directory / "schema.yaml").write_text(schema, encoding="utf-8")
