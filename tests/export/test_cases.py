"""Random requests for the comparison of graphs with torch."""

import numpy as np
import polars as pl

from export.cases import RequestSampler
from tests.support.logs import prepare

SCHEMA = """name: shop
features:
  - {name: price, of: item, kind: number}
"""


def test_random_candidates_differ_in_their_inline_features(tmp_path):
    """Equal candidates are a tie in every choice, and at most 1 % of the slates may be ties."""
    rows = [
        {
            "request_id": f"r{number}", "user_id": f"u{number % 7}",
            "timestamp": number * 3_600_000, "position": position, "item_id": f"i{item}",
            "label": (number + position) % 2, "price": float(item),
        }
        for number in range(100)
        for position, item in enumerate([number % 20, (number + 3) % 20, (number + 7) % 20])
    ]  # fmt: skip
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    prepare("impressions", "--log", tmp_path / "log.parquet", "--schema",
            tmp_path / "schema.yaml", "--out", tmp_path / "data")  # fmt: skip
    requests = RequestSampler(tmp_path / "data")
    logged = [each["price"] for request in requests.requests for each in request.features]
    distinct = len(set(logged))
    assert 8 <= distinct < len(logged)  # the log repeats the features of an item
    draw = np.random.default_rng(0)
    for size in (8, distinct + 5):
        prices = {each["price"] for each in requests.draw(size, draw).features}
        assert (len(prices) == size) == (size <= distinct)
