"""New and changed items in a bundle without training: rows, scores, refusals and the manifest."""

import dataclasses
import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from export import bundle
from export.items import ItemsOptions, update_items
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.learning.checkpoint import Trained, build
from model.learning.state import RunState
from service.engine.contract import NETWORKS, BundleError, Manifest
from service.engine.features.candidates import CandidateList
from service.engine.features.row_featuriser import RowFeaturiser
from service.engine.session import Session
from tests.support.bundles import BUNDLE, ROOT
from tests.support.logs import prepare
from tests.support.runs import SMOKE

HOUR = 3_600_000
SCHEMA = """
name: shop
history: {kernels: [tags], rate: like_rate}
features:
  - {name: like_rate, of: item, kind: statistic, relative: true}
  - {name: price, of: item, kind: number, transform: log, relative: true}
  - {name: brand, of: item, kind: category}
  - {name: tags, of: item, kind: categories, width: 2}
  - {name: look, of: item, kind: vector, width: 2}
"""
ITEM_ID = "  - {name: item_id, of: item, kind: identifier}\n"


def write_bundle(directory, schema):
    """Prepare a small log and export untrained networks of it; return the data set and bundle."""
    draw = np.random.default_rng(0)
    rows = [
        {"request_id": f"r{request}", "user_id": f"u{request % 6}", "timestamp": request * HOUR,
         "position": position, "item_id": f"i{item}", "label": float(draw.random() < 0.4)}
        for request in range(40)
        for position, item in enumerate(draw.choice(20, 6, replace=False).tolist())
    ]  # fmt: skip
    items = [
        {"item_id": f"i{item}", "price": 1.0 + item, "brand": f"b{item % 4}",
         "tags": [f"t{item % 3}", f"t{item % 5}"], "look": draw.normal(size=2).tolist()}
        for item in range(20)
    ]  # fmt: skip
    directory.mkdir()
    pl.DataFrame(rows).write_parquet(directory / "log.parquet")
    pl.DataFrame(items).write_parquet(directory / "table.parquet")
    (directory / "schema.yaml").write_text(schema)
    data = directory / "data"
    log = ("--log", directory / "log.parquet", "--items", directory / "table.parquet")
    prepare("impressions", *log, "--schema", directory / "schema.yaml", "--out", data)
    torch.manual_seed(0)
    featuriser = Dataset(data).featuriser
    networks = build(SMOKE, featuriser, 6)
    for network in networks:
        network.eval()
        torch.nn.init.normal_(network.embed.table.weight)
        with torch.no_grad():
            network.embed.table.weight[0] = 0.0
    state = RunState(config=SMOKE, data=str(data), positions=6)
    trained = Trained(SMOKE, featuriser, *networks, threshold=1.0, share=0.5, state=state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "verify", lambda *arguments: {})
        bundle.write(trained, directory / "shop" / "1", data)
    return data, directory / "shop" / "1", trained


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("shops") / "plain", SCHEMA)


@pytest.fixture(scope="module")
def shop_of_ids(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("shops") / "ids", SCHEMA + ITEM_ID)


def updated(directory, source, items, **options):
    """Write items to a file, bring them into a bundle, and return its session and the outcome."""
    table = directory / "items.jsonl"
    table.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    out = directory / "shop" / "2"
    outcome = update_items(ItemsOptions(source, ((table,),), out, **options))
    return Session.load(out), outcome


def item_of(data, item_id):
    """Return the row of an item in a data set's table."""
    table = pl.read_parquet(data / "items.parquet")
    return table.filter(pl.col("item_id") == item_id).row(0, named=True)


def featuriser_of(session):
    """Return the featuriser of a session of contract 3."""
    featuriser = session.featuriser
    assert isinstance(featuriser, RowFeaturiser)
    return featuriser


def rows_of(session, ids, network="generator"):
    featuriser = featuriser_of(session)
    return featuriser.rows(featuriser.encode(CandidateList(ids)), network)


def test_a_new_item_that_is_identical_to_another_gets_its_row_and_its_score(shop, tmp_path):
    data, source, _ = shop
    twin = item_of(data, "i3") | {"item_id": "twin"}
    session, outcome = updated(tmp_path, source, [twin])
    assert (outcome["new"], outcome["changed"], outcome["items"]) == (1, 0, 21)
    for network in NETWORKS:
        one, other = rows_of(session, ["i3", "twin"], network)
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-7 * np.abs(one).max())
    history = [("i5", 1.0), ("i6", 0.0)]
    rows = [
        session.row(CandidateList([first, "i1", "i2", "i7"], history=history))
        for first in ("i3", "twin", "nobody")
    ]
    logits = [
        slate.logits for slate in session.run([dataclasses.replace(r, explain=True) for r in rows])
    ]
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-5)
    assert np.abs(logits[0] - logits[2]).max() > 1e-3  # an unknown item has another score


def test_a_changed_item_is_what_the_table_would_have_held_and_others_keep_their_rows(
    shop, tmp_path
):
    _, source, trained = shop
    before = featuriser_of(Session.load(source))
    session, outcome = updated(tmp_path, source, [{"item_id": "i4", "price": 99.0, "seller": "x"}])
    assert (outcome["new"], outcome["changed"], outcome["ignored"]) == (0, 1, ["seller"])
    assert outcome["features"] == ["price"]
    inline = CandidateList(["i4", "i5"], columns={"price": [99.0, None]})
    ids = CandidateList(["i4", "i5"])
    width = before.request_width
    for network in NETWORKS:
        expected = before.rows(before.encode(inline), network)
        rows = rows_of(session, ids.ids, network)
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-6)
        assert np.array_equal(
            rows[1], before.rows(before.encode(CandidateList(["i5"])), network)[0]
        )
    one, other = before.encode(inline), featuriser_of(session).encode(ids)
    assert np.array_equal(one.numbers[:, :width], other.numbers[:, :width])
    numbers, tokens = session.featuriser.transform(ids)
    expected_numbers, expected_tokens = trained.featuriser.transform(inline)
    assert np.array_equal(numbers, expected_numbers)
    assert np.array_equal(tokens, expected_tokens)


def test_a_changed_item_keeps_the_embedding_of_its_id_and_a_new_one_has_none(shop_of_ids, tmp_path):
    data, source, trained = shop_of_ids
    feature = next(f for f in trained.featuriser.schema.features if f.name == "item_id")
    assert "i3" in feature.vocabulary
    twin = item_of(data, "i3") | {"item_id": "twin"}
    session, _ = updated(tmp_path, source, [item_of(data, "i3") | {"price": 5.0}, twin])
    table = trained.generator.embed.table.weight.detach().numpy()
    first = trained.featuriser.layout.first_token["item_id"]
    own_token = first + 1 + feature.vocabulary.index("i3")
    inline = CandidateList(["i3"], columns={"price": [5.0]})
    before = featuriser_of(Session.load(source))
    changed, new = rows_of(session, ["i3", "twin"])
    np.testing.assert_allclose(
        changed, before.rows(before.encode(inline), "generator")[0], rtol=0, atol=2e-6
    )
    old = rows_of(Session.load(source), ["i3"])[0]
    np.testing.assert_allclose(new - old, table[first] - table[own_token], rtol=0, atol=2e-6)
    assert session.groups("item_id", session.row(CandidateList(["i3", "twin"]))) == ["i3", None]


def test_the_manifest_says_that_offline_figures_are_older_than_the_table(shop, tmp_path):
    _, source, _ = shop
    rated = [{"item_id": "i1", "like_rate": 2.0}]
    session, outcome = updated(tmp_path, source, rated, as_of="2026-01-02T03:04:05Z")
    manifest = session.manifest
    assert manifest.as_of == outcome["as_of"] == "2026-01-02T03:04:05.000Z"
    assert manifest.metrics_of == "shop/1"
    assert manifest.offline_metrics == Manifest.read(source).offline_metrics
    assert "statistics.npz" in Manifest.read(source).files
    assert "statistics.npz" not in manifest.files  # its counts are not those of these rates
    again, _ = updated(tmp_path / "shop", tmp_path / "shop" / "2", [{"item_id": "x", "price": 1}])
    assert again.manifest.metrics_of == "shop/1"


def test_counts_of_statistics_stay_and_new_items_have_none(shop, tmp_path):
    _, source, _ = shop
    before = Session.load(source).featuriser.snapshot
    session, _ = updated(tmp_path, source, [{"item_id": "new", "price": 3.0}])
    after = session.featuriser.snapshot
    assert before is not None
    assert after is not None
    counts = after.statistics["like_rate"]
    assert counts.shows.tolist() == [*before.statistics["like_rate"].shows.tolist(), 0.0]
    assert counts.all_likes == before.statistics["like_rate"].all_likes


def test_golden_requests_hold_new_items_and_are_replayed(shop, tmp_path):
    _, source, _ = shop
    new = [{"item_id": f"new{number}", "price": number} for number in range(8)]
    updated(tmp_path, source, new)
    golden = json.loads((tmp_path / "shop" / "2" / "golden.json").read_text())
    ids = {c["id"] for entry in golden for c in entry["request"]["candidates"]}
    assert len(golden) == 8
    assert ids & {item["item_id"] for item in new}
    with_intent = json.loads((tmp_path / "shop" / "2" / "golden.intent.json").read_text())
    assert [bool(entry["request"].get("diversity")) for entry in with_intent] == [1, 0, 1, 0]
    golden[0]["steps"][0] += 1
    (tmp_path / "shop" / "2" / "golden.json").write_text(json.dumps(golden))
    Manifest.read(tmp_path / "shop" / "2").write(tmp_path / "shop" / "2")
    with pytest.raises(BundleError, match=r"golden\.json\[0\]\.steps"):
        Session.load(tmp_path / "shop" / "2")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"item_id": "a", "price": "cheap"}], "column price: must be a finite number"),
        ([{"item_id": "a", "look": [1.0]}], "column look: must hold 2 finite numbers"),
        ([{"item_id": "a", "colour": "red"}], "must have a feature of items, one of like_rate"),
        ([{"item_id": "a", "price": 1}, {"item_id": "a", "price": 2}], "must occur once per file"),
        ([{"item_id": "a", "look": [1e9, 0.0]}], "column look: must hold numbers of size 1e.06"),
    ],
)
def test_items_that_break_the_schema_are_refused_and_nothing_is_written(
    shop, tmp_path, items, message
):
    with pytest.raises(DataError, match=message):
        updated(tmp_path, shop[1], items)
    assert not (tmp_path / "shop" / "2").exists()


def test_the_report_of_several_bad_items_names_no_option_of_another_command(shop, tmp_path):
    bad = [{"item_id": name, "price": "cheap"} for name in "ab"]
    with pytest.raises(DataError, match="2 rows") as caught:
        updated(tmp_path, shop[1], bad)
    assert "--skip-bad-rows" not in str(caught.value)


@pytest.mark.parametrize("moment", ["yesterday", "0001-01-01T00:00:00+14:00"])
def test_a_moment_outside_of_the_calendar_is_refused(shop, tmp_path, moment):
    with pytest.raises(DataError, match="--as-of: must be a time in ISO 8601, got"):
        updated(tmp_path, shop[1], [{"item_id": "a", "price": 1}], as_of=moment)


def test_a_moment_before_that_of_the_bundle_is_refused_naming_both(shop, tmp_path):
    source, items = shop[1], [{"item_id": "a", "price": 1}]
    moment = datetime.fromisoformat(str(Manifest.read(source).as_of))
    earlier = (moment - timedelta(milliseconds=1)).isoformat()
    with pytest.raises(DataError) as error:
        updated(tmp_path, source, items, as_of=earlier)
    text = str(error.value)
    assert text.startswith("--as-of: must not be before the moment of the bundle's other items, ")
    assert str(Manifest.read(source).as_of) in text
    assert earlier in text
    assert not (tmp_path / "shop" / "2").exists()
    _, outcome = updated(tmp_path, source, items, as_of=moment.isoformat())
    assert outcome["as_of"] == Manifest.read(source).as_of


def test_the_item_table_of_a_data_set_brings_its_moment(shop, tmp_path):
    data, source, _ = shop
    later = shutil.copytree(data, tmp_path / "later")
    summary = json.loads((later / "summary.json").read_text())
    summary["time"]["as_of"] += 7 * 24 * HOUR
    (later / "summary.json").write_text(json.dumps(summary))
    options = ItemsOptions(source, ((later / "items.parquet",),), tmp_path / "shop" / "2")
    before, after = Manifest.read(source).as_of, update_items(options)["as_of"]
    moments = [datetime.fromisoformat(str(moment)) for moment in (before, after)]
    assert moments[1] - moments[0] == timedelta(days=7)


def test_a_bundle_at_a_path_relative_to_its_name_has_the_name(shop, tmp_path, monkeypatch):
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "price": 1}\n')
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path / "store")
    update_items(ItemsOptions(shop[1], ((tmp_path / "items.jsonl",),), Path("7")))
    manifest = Manifest.read(tmp_path / "store" / "7")
    assert (manifest.name, manifest.version) == ("store", "7")


def test_the_table_of_a_data_set_with_another_schema_is_refused(shop, shop_of_ids, tmp_path):
    table = shop_of_ids[0] / "items.parquet"
    with pytest.raises(DataError, match=r"features\.item_id: must be absent"):
        update_items(ItemsOptions(shop[1], ((table,),), tmp_path / "shop" / "2"))
    outcome = update_items(
        ItemsOptions(shop[1], ((shop[0] / "items.parquet",),), tmp_path / "shop" / "2")
    )
    assert (outcome["new"], outcome["changed"]) == (0, 20)


def test_a_bundle_of_contract_2_is_refused_with_the_command_that_helps(tmp_path):
    old = ROOT / "tests" / "frozen" / "bundles" / "ranklens" / "1"
    with pytest.raises(BundleError, match="export upgrade"):
        update_items(ItemsOptions(old, ((BUNDLE,),), tmp_path / "ranklens" / "2"))
    with pytest.raises(DataError, match="--as-of: must be a time in ISO 8601, got 'today'"):
        update_items(ItemsOptions(BUNDLE, ((BUNDLE,),), tmp_path / "a" / "2", as_of="today"))


def test_export_takes_the_items_of_the_data_set_that_it_is_passed(
    shop, shop_of_ids, tmp_path, monkeypatch
):
    data, _, trained = shop
    other = tmp_path / "data"
    other.mkdir()
    for path in data.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    items = pl.read_parquet(other / "items.parquet")
    price = pl.when(pl.col("item_id") == "i4").then(77.0).otherwise("price").alias("price")
    items.with_columns(price).write_parquet(other / "items.parquet")
    monkeypatch.setattr(bundle, "verify", lambda *arguments: {})
    bundle.write(trained, tmp_path / "shop" / "3", other)
    ids = CandidateList(["i3", "i4"])
    served = Session.load(tmp_path / "shop" / "3").featuriser.transform(ids)[0]
    inline = CandidateList(["i3", "i4"], columns={"price": [None, 77.0]})
    assert np.array_equal(served, trained.featuriser.transform(inline)[0])
    assert not np.array_equal(served, trained.featuriser.transform(ids)[0])
    with pytest.raises(DataError, match=r"schema\.yaml: features\.item_id: must be absent"):
        bundle.write(trained, tmp_path / "shop" / "4", shop_of_ids[0])
    assert not (tmp_path / "shop" / "4").exists()
