"""Data sets of joined lists, with all candidates and histories as they were served."""

import polars as pl
import pytest

from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.join.joining import join
from model.data.join.options import JoinOptions
from model.data.layout import SPLITS
from model.data.prepare import prepare_impressions
from model.study.first_stage import first_stage
from tests.support.journals import decision, event, write_segment
from tests.support.logs import SCHEMA, prepare

HOUR = 3_600_000
START = 1_700_000_000_000 - 1_700_000_000_000 % HOUR
ITEMS = ["a", "b", "c", "d", "e"]
RELATIVE = SCHEMA.replace("kind: number}", "kind: number, relative: true}")
SHOP = f"""{RELATIVE}  - {{name: age, of: user, kind: number}}
history: {{kernels: [genres], rate: like_rate}}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A directory with schema.yaml, the joined log of 12 lists, and a log of lists before them."""
    root = tmp_path_factory.mktemp("prepared")
    (root / "journal").mkdir()
    (root / "schema.yaml").write_text(SHOP)
    for hour in range(12):
        at = START + hour * HOUR
        stated = [{"genres": ["drink"], "price": hour + place} for place in range(5)]
        served = decision(
            hour, f"u{hour % 3}", at, f"r{hour}", ids=ITEMS, slate=[3, 0, 2], features=stated,
            context={"hour": "9"}, history=[("a", 0.5), ("z", 1.0)], user_features={"age": 20},
            history_features=[{}, {"genres": ["drink"]}],
        )  # fmt: skip
        like = event(hour, at=at + 5, request=f"r{hour}", item="a", label=1.0)
        write_segment(root / "journal", [served, like])
    options = JoinOptions.read(root / "schema.yaml", "1h", "1h", None)
    join(root / "journal", root / "joined", options, START + 15 * HOUR)
    earlier = pl.read_parquet(root / "joined" / "impressions" / "*.parquet").with_columns(
        pl.format("old {}", "request_id").alias("request_id"), pl.col("timestamp") - 20 * HOUR
    )
    earlier.write_parquet(root / "earlier.parquet")
    return root


def prepared(shop, out, *options):
    """Prepare the joined log with the lists before it, and return the data set."""
    logs = [shop / "joined" / "impressions", shop / "earlier.parquet"]
    prepare(
        "impressions", "--log", *logs, "--users", shop / "joined" / "users", "--served",
        shop / "joined", "--schema", shop / "schema.yaml", "--split", "time", *options,
        "--out", out,
    )  # fmt: skip
    return Dataset(out)


def test_lists_of_a_join_and_others_stand_side_by_side(shop, tmp_path):
    lists = {one.request_id: one for one in prepared(shop, tmp_path / "data").impressions(SPLITS)}
    assert len(lists) == 24
    served, other = lists["d4"], lists["old d4"]
    request, places = served.whole
    assert (request.ids, places) == (ITEMS, [3, 0, 2])
    assert served.request.ids == other.request.ids == ["d", "a", "c"]
    assert [record["price"] for record in request.features] == [4.0, 5.0, 6.0, 7.0, 8.0]
    assert (request.history, request.user) == ([("a", 0.5), ("z", 1.0)], {"age": 20.0})
    assert request.history_features == [{}, {"genres": ["drink"]}]
    # Of the user's list three hours before, as in a data set without a join.
    assert (other.whole, other.request.history[-3:]) == (
        None, [("d", 0.0), ("a", 1.0), ("c", 0.0)],
    )  # fmt: skip


def test_features_of_a_list_are_compared_with_all_of_its_candidates(shop, tmp_path):
    dataset = prepared(shop, tmp_path / "data")
    ids = list(dataset.requests(["train"])["request_id"])
    column = dataset.featuriser.column("price")
    lists = dataset.lists(["train"])
    served, other = (lists.numbers[ids.index(name)] for name in ("d4", "old d4"))
    assert served[:3, column].tolist() == other[:3, column].tolist()
    # Rank and distance from the best: of five prices, and of the three that were displayed.
    assert (served[:3, column + 1 :] != other[:3, column + 1 :]).any()


def test_shards_have_the_same_lists(shop, tmp_path):
    whole = prepared(shop, tmp_path / "whole").impressions(SPLITS)
    shards = prepared(shop, tmp_path / "shards", "--shards", 3, "--workers", 1)
    assert len(shards.shards) == 2  # one of three has no user
    pairs = {one.request_id: one for one in shards.impressions(SPLITS)}
    assert all(pairs[one.request_id] == one for one in whole)


def test_what_is_no_join_of_the_schema_is_refused(shop, tmp_path):
    log, out = shop / "joined" / "impressions", tmp_path / "data"
    with pytest.raises(DataError, match=r"--served: must be a directory that .* join. wrote lists"):
        prepare_impressions(log, shop / "schema.yaml", out, served=tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text(SHOP.replace("prior_strength: 10", "prior_strength: 9"))
    with pytest.raises(DataError, match="was joined with another schema"):
        prepare_impressions(log, other, out, served=shop / "joined")
    prepared(shop, out)
    with pytest.raises(DataError, match="lists of a journal have the first stage that served"):
        first_stage(out, tmp_path / "scored")


def test_a_displayed_item_that_was_no_candidate_is_refused(shop, tmp_path):
    prepared(shop, tmp_path / "data")
    path = tmp_path / "data" / "candidates.parquet"
    pl.read_parquet(path).filter(pl.col("item_id") != "a").write_parquet(path)
    with pytest.raises(DataError, match=r"must have the items of request 'd.', but lacks 'a'"):
        list(Dataset(tmp_path / "data").impressions(SPLITS))
