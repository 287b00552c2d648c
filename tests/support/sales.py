"""A shop whose prices change by the hour, with rankers that rank by price."""

import types

import numpy as np
import polars as pl

from tests.support.logs import prepare

ITEMS, SHOWN, LISTS, LENGTH = 40, 6, 600, 4
HOUR_MS = 3_600_000
SCHEMA = """
name: sale
features:
  - {name: like_rate, of: item, kind: statistic}
  - {name: price, of: item, kind: number}
  - {name: brand, of: item, kind: category}
  - {name: tags, of: item, kind: categories, width: 2}
  - {name: score, of: candidate, kind: number}
"""


def write_sale(directory):
    """Write a log and its data set: prices change by the hour, tags now and then, brands never.

    Cheap items are liked, and the first stage ranks by the opposite. Return the data set.
    """
    draw = np.random.default_rng(0)
    rows = []
    for number in range(LISTS):
        for position, item in enumerate(draw.choice(ITEMS, SHOWN, replace=False).tolist()):
            price = float(np.random.default_rng([item, number // 5]).random())
            rows.append(
                {
                    "request_id": f"r{number}",
                    "user_id": f"u{number % 50}",
                    "timestamp": number * HOUR_MS,
                    "position": position,
                    "item_id": f"i{item}",
                    "label": int(draw.random() < 0.9 - 0.8 * price),
                    "price": price,
                    "brand": f"b{item % 3}",
                    "tags": ["new"] if draw.random() < 0.2 else ["old"],
                    "score": price,
                }
            )
    pl.DataFrame(rows).write_parquet(directory / "log.parquet")
    (directory / "schema.yaml").write_text(SCHEMA)
    prepare("impressions", "--log", directory / "log.parquet",
            "--schema", directory / "schema.yaml", "--out", directory / "data")  # fmt: skip
    return directory / "data"


def in_place_of_a_session(featuriser):
    manifest = types.SimpleNamespace(slate_length=LENGTH)
    return types.SimpleNamespace(featuriser=featuriser, manifest=manifest)


def cheapest_first(featuriser):
    """Return a ranker that puts the candidates in the order of the price in their features."""

    def rank(impressions):
        prices = [
            featuriser.transform(i.request)[0][:, featuriser.column("price")] for i in impressions
        ]
        return [(np.argsort(price, kind="stable")[:LENGTH].tolist(), 1) for price in prices]

    return rank
