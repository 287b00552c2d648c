"""Hashed identifiers from the log to the service."""

import json

import httpx
import polars as pl
import pytest

from export import bundle
from model.data.collisions import count_collisions
from model.data.dataset import Dataset
from model.data.growth import read_schema
from model.data.schemas import load_schema
from model.learning import checkpoint
from model.learning.train import Run, train
from model.study.identifier_log import write_identifier_log
from service.engine.features.hashing import Buckets
from service.engine.session import Session
from tests.support.logs import prepare
from tests.support.runs import SMOKE, tensors_of
from tests.support.servers import fresh

SCHEMA = """
name: shop
features:
  - {name: item_id, of: item, kind: identifier, buckets: 64}
  - {name: user_id, of: user, kind: identifier, buckets: 8}
  - {name: brand, of: item, kind: category, buckets: 16}
  - {name: length, of: item, kind: number}
  - {name: hour, of: context, kind: category}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared data set, and what `prepare` printed."""
    root = tmp_path_factory.mktemp("hashed")
    write_identifier_log(root / "raw", items=100, rows=5000)
    log = root / "log.parquet"
    pl.read_parquet(root / "raw" / "impressions.parquet").drop("split").write_parquet(log)
    items = pl.read_parquet(root / "raw" / "items.parquet")
    brands = pl.Series("brand", [f"b{number % 7}" for number in range(len(items))])
    items.with_columns(brands).write_parquet(root / "items.parquet")
    (root / "shop.yaml").write_text(SCHEMA)
    printed = prepare(
        "impressions", "--log", log, "--items", root / "items.parquet",
        "--schema", root / "shop.yaml", "--out", root / "shop", "--split", "time",
    )  # fmt: skip
    return root / "shop", printed


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train(SMOKE, prepared[0], out)
    return out


@pytest.fixture(scope="module")
def url(prepared, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "shop" / "1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "verify", lambda *arguments: {})
        bundle.write(checkpoint.load(run), out, prepared[0])
    with fresh(Session.load(out)) as address:
        yield address


def rerank(url, **fields):
    body = {"candidates": [{"id": f"i{number:07d}"} for number in range(8)], **fields}
    return httpx.post(f"{url}/rerank", json=body)


def test_prepare_prints_and_stores_the_values_that_share_a_bucket(prepared):
    directory, printed = prepared
    counts = json.loads((directory / "summary.json").read_text())["buckets"]
    assert counts == count_collisions(directory, load_schema(directory / "schema.yaml"))
    items = pl.read_parquet(directory / "items.parquet")["item_id"].to_list()
    buckets = Buckets(64).find(items).tolist()
    shared = sum(buckets.count(bucket) > 1 for bucket in buckets)
    assert counts["item_id"] == {"values": len(items), "buckets": 64, "shared": shared}
    assert 0 < shared < len(items)
    line = f"item_id: {shared} of {len(items)} values ({shared / len(items):.1%}) share one of 64"
    assert line in printed


def test_values_are_hashed_a_block_at_a_time_to_the_same_counts(prepared, monkeypatch):
    directory, _ = prepared
    schema = load_schema(directory / "schema.yaml")
    expected, sizes = count_collisions(directory, schema), []
    find = Buckets.find

    def recorded(buckets, values):
        sizes.append(len(values))
        return find(buckets, values)

    monkeypatch.setattr(Buckets, "find", recorded)
    monkeypatch.setattr("model.data.collisions.VALUES_AT_ONCE", 7)
    assert count_collisions(directory, schema) == expected
    assert max(sizes) == 7


def test_lists_without_a_user_do_not_count_as_users_that_share_a_bucket(prepared, tmp_path):
    directory, _ = prepared
    log = pl.read_parquet(directory.parent / "log.parquet")
    anonymous = pl.when(pl.col("user_id") >= "u0050").then("user_id").alias("user_id")
    log.with_columns(anonymous).write_parquet(tmp_path / "log.parquet")
    prepare(
        "impressions", "--log", tmp_path / "log.parquet", "--items",
        directory.parent / "items.parquet", "--schema", directory.parent / "shop.yaml",
        "--out", tmp_path / "shop", "--split", "time",
    )  # fmt: skip
    schema = load_schema(directory / "schema.yaml")
    of_users = [count_collisions(out, schema)["user_id"] for out in (directory, tmp_path / "shop")]
    assert of_users[0]["values"] - of_users[1]["values"] == 50


def test_a_hashed_data_set_and_its_run_keep_no_vocabulary(prepared, run):
    featuriser = Dataset(prepared[0]).featuriser
    assert [feature.vocabulary for feature in featuriser.schema.features[:3]] == [()] * 3
    hours = len(featuriser.schema.features[4].vocabulary)
    assert featuriser.vocabulary_size == 1 + (1 + 64) + (1 + 8) + (1 + 16) + (1 + hours)
    assert len(tensors_of(run)["generator.embed.table.weight"]) == featuriser.vocabulary_size
    assert "i0000001" not in (run / "features.json").read_text()


def test_the_served_bundle_ranks_by_the_hash_of_any_user(url):
    results = {}
    for user in ("u0001", "never seen"):
        response = rerank(url, user={"id": user}, context={"hour": "3"})
        results[user] = response.raise_for_status().json()
        assert len(results[user]["slate"]) == 4
    again = rerank(url, user={"id": "u0001"}, context={"hour": "3"}).json()
    assert again["slate"] == results["u0001"]["slate"]


def test_an_inline_value_has_the_bucket_of_the_same_value_in_the_item_table(url):
    def slate(shift):
        candidates = [
            {"id": f"i{number:07d}", "features": {"brand": f"b{(number + shift) % 7}"}}
            for number in range(8)
        ]
        return logprobs(rerank(url, candidates=candidates))

    def logprobs(response):
        slate = response.raise_for_status().json()["slate"]
        return [(entry["id"], entry["logprob"]) for entry in slate]

    expected, same, other = logprobs(rerank(url)), slate(0), slate(1)
    assert [entry[0] for entry in same] == [entry[0] for entry in expected]
    assert [entry[1] for entry in same] == pytest.approx([entry[1] for entry in expected], abs=1e-4)
    assert other[0][1] != pytest.approx(expected[0][1], abs=1e-4)


def test_a_limit_per_hashed_value_needs_groups_of_the_request(url):
    refused = rerank(url, constraints={"max_per_group": {"item_id": 1}})
    assert refused.status_code == 422
    assert "because the model has buckets of its values" in refused.text
    groups = [{"id": f"i{number:07d}", "groups": {"item_id": str(number % 2)}} for number in
              range(8)]  # fmt: skip
    limited = rerank(url, candidates=groups, constraints={"max_per_group": {"item_id": 1}})
    assert len(limited.raise_for_status().json()["slate"]) == 2


def test_a_continued_run_keeps_the_embedding_of_every_bucket(prepared, run, tmp_path):
    continued = Run(SMOKE, prepared[0], tmp_path, run, continued=True)
    name = "evaluator.embed.table.weight"
    assert continued.evaluator.embed.table.weight.equal(tensors_of(run)[name])
    assert read_schema(tmp_path) == read_schema(run)
