"""Evaluation for callers without item features and for callers with fresh item features."""

import shutil
import weakref

import numpy as np
import polars as pl
import pytest

from model.data.dataset import Dataset, Impression
from model.data.freshness import stale_shares
from model.learning import evaluate as module
from model.learning.callers import shuffled, without
from model.learning.evaluate import evaluate
from model.learning.worth import sentences
from tests.support.sales import LENGTH, SCHEMA, cheapest_first, in_place_of_a_session, write_sale


@pytest.fixture(scope="module")
def sale(tmp_path_factory):
    return write_sale(tmp_path_factory.mktemp("sale"))


@pytest.fixture(scope="module")
def bundle(sale):
    return in_place_of_a_session(Dataset(sale).featuriser)


def ndcg(labels, order):
    """Return NDCG@10 of a slate of LENGTH, by the definition."""
    gains = [labels[i] / np.log2(place + 2) for place, i in enumerate(order[:LENGTH])]
    ideal = sum(1 / np.log2(place + 2) for place in range(int(min(sum(labels), 10))))
    return sum(gains) / ideal


def by_hand(sale, prices):
    """Return NDCG@10 of the test lists in the order of a price, from the files of the data set."""
    rows = pl.read_parquet(sale / "impressions.parquet").filter(split="test")
    table = dict(pl.read_parquet(sale / "items.parquet").select("item_id", "price").iter_rows())
    values = []
    for _, lists in rows.group_by("request_id", maintain_order=True):
        labels = lists["label"].to_list()
        if 0 < sum(labels) < len(labels):
            price = lists["price"] if prices == "fresh" else lists["item_id"].replace_strict(table)
            values.append(ndcg(labels, np.argsort(price.to_numpy(), kind="stable")))
    return float(np.mean(values))


@pytest.fixture(scope="module")
def result(sale, bundle):
    return evaluate(bundle, sale, rank=cheapest_first(bundle.featuriser))


def test_the_headline_is_without_item_features_and_the_fresh_figure_stands_beside_it(result, sale):
    assert result["caller"] == "no item features"
    assert result["ndcg@10"][0] == pytest.approx(by_hand(sale, "table"), abs=1e-4)
    assert result["fresh"]["ndcg@10"][0] == pytest.approx(by_hand(sale, "fresh"), abs=1e-4)
    assert set(result["fresh"]["features"]) >= {"price", "brand", "tags"}
    mean, low, high = result["fresh"]["ndcg@10 gain over"]["no item features"]
    assert 0.05 < low < mean < high
    assert mean == pytest.approx(result["fresh"]["ndcg@10"][0] - result["ndcg@10"][0], abs=2e-4)


def test_every_baseline_is_printed_for_both_callers(result):
    names = {"shown order", "item like rate", "first stage"}
    assert result["ndcg@10 gain over"].keys() == names
    assert result["fresh"]["ndcg@10 gain over"].keys() == names | {"no item features"}
    assert result["fresh"]["ndcg@10 gain over"]["first stage"][1] > 0.1


def test_stale_features_are_listed_by_their_gain_with_the_share_of_rows_that_differ(result, sale):
    shares = stale_shares(Dataset(sale), ["test"], ["price", "brand", "tags"])
    assert shares["brand"] == 0.0
    assert 0.1 < shares["tags"] < 0.6
    assert shares["price"] > 0.9
    first, *others = result["keep_fresh"]
    assert first["feature"] == "price"
    assert first["rows"] == pytest.approx(shares["price"], abs=1e-4)
    assert first["ndcg@10 gain"] == result["fresh"]["ndcg@10 gain over"]["no item features"]
    assert "tags" in [entry["feature"] for entry in others]
    assert "brand" not in [entry["feature"] for entry in others]
    (tags,) = (entry for entry in others if entry["feature"] == "tags")
    assert tags["ndcg@10 gain"] == [0.0, 0.0, 0.0]


def test_the_sentences_name_the_caller_the_figures_and_the_features_to_send(result):
    text = "\n".join(sentences(result))
    sent = "A caller that sends ids, `score`, user id and history, but no item features, gets "
    assert f"{sent}NDCG@10 {result['ndcg@10'][0]:.4f} [" in text
    assert result["sent"] == ["ids", "`score`", "user id", "history"]
    assert f"gets NDCG@10 {result['fresh']['ndcg@10'][0]:.4f} [" in text
    assert "Send `price` or keep it fresh: it differs from the item table in" in text
    assert "`tags` alone is of no use" in text
    assert "`brand`:" not in text


def test_a_difference_within_the_noise_names_no_feature(sale, bundle):
    def in_order_of_ids(impressions):
        return [(np.argsort(i.request.ids)[:LENGTH].tolist(), 0) for i in impressions]

    result = evaluate(bundle, sale, rank=in_order_of_ids)
    assert result["fresh"]["ndcg@10 gain over"]["no item features"] == [0.0, 0.0, 0.0]
    assert "keep_fresh" not in result
    assert any("no more than noise" in line for line in sentences(result))


def test_a_sample_of_the_lists_measures_the_features(sale, bundle, monkeypatch):
    monkeypatch.setattr(module, "LISTS_PER_FEATURE", 35)
    result = evaluate(bundle, sale, rank=cheapest_first(bundle.featuriser))
    entry = result["keep_fresh"][0]
    assert (entry["feature"], entry["lists"]) == ("price", 35)
    assert entry["ndcg@10 gain"][1] > 0


def test_blocks_of_any_size_give_the_same_figures(result, sale, bundle, monkeypatch):
    monkeypatch.setattr(module, "LISTS_AT_ONCE", 7)
    assert evaluate(bundle, sale, rank=cheapest_first(bundle.featuriser)) == result


def test_graded_figures_stand_beside_binary_ones(sale, tmp_path):
    graded = shutil.copytree(sale, tmp_path / "graded")
    rows = pl.read_parquet(sale / "impressions.parquet")
    grades = pl.Series(np.random.default_rng(1).integers(0, 5, len(rows)) / 4, dtype=pl.Float32)
    rows.with_columns(label=grades).write_parquet(graded / "impressions.parquet")
    label = "label: {range: [0, 4], gain: exponential, positive: 4}\nfeatures:"
    (graded / "schema.yaml").write_text(SCHEMA.replace("features:", label))
    featuriser = Dataset(graded).featuriser
    result = evaluate(in_place_of_a_session(featuriser), graded, rank=cheapest_first(featuriser))
    values = []
    rows = pl.read_parquet(graded / "impressions.parquet").filter(split="test")
    table = dict(pl.read_parquet(sale / "items.parquet").select("item_id", "price").iter_rows())
    for _, lists in rows.group_by("request_id"):
        price = lists["item_id"].replace_strict(table).to_numpy()
        gains = 2 ** (4 * lists["label"].to_numpy()) - 1
        weight = 1 / np.log2(np.arange(len(gains)) + 2)
        order = np.argsort(price, kind="stable")[:LENGTH]
        best = np.sort(gains)[::-1] @ weight
        values.append(gains[order] @ weight[:LENGTH] / best)
    assert result["graded lists"] == len(values) > result["lists"]
    text = "\n".join(sentences(result))
    assert f"over {result['lists']} test lists" in text
    assert f"over {len(values)} test lists" in text
    assert result["graded ndcg@10"][0] == pytest.approx(np.mean(values), abs=1e-4)
    assert result["ndcg@10"][0] != result["graded ndcg@10"][0]
    assert result["graded ndcg@10 gain over"].keys() == result["ndcg@10 gain over"].keys()
    assert any("gets graded NDCG@10" in line for line in sentences(result))


def test_lists_that_were_measured_are_not_kept(sale, bundle, monkeypatch):
    read, alive = Dataset.impressions, []

    def counted(dataset, splits, fresh=False):
        created: weakref.WeakSet = weakref.WeakSet()
        for impression in read(dataset, splits, fresh):
            created.add(impression)
            alive.append(len(created))
            yield impression

    monkeypatch.setattr(Impression, "__hash__", object.__hash__)
    monkeypatch.setattr(Dataset, "impressions", counted)
    monkeypatch.setattr(module, "LISTS_AT_ONCE", 8)
    result = evaluate(bundle, sale, rank=cheapest_first(bundle.featuriser))
    assert result["lists"] > 30
    assert 8 <= max(alive) <= 24


def test_few_lists_are_called_too_few_to_tell(sale, bundle, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sale.iterdir():
        (few / path.name).write_bytes(path.read_bytes())
    rows = pl.read_parquet(sale / "impressions.parquet")
    tests = rows.filter(split="test")["request_id"].unique(maintain_order=True)
    dropped = pl.col("request_id").is_in(tests[12:].implode())
    rows.filter(~dropped).write_parquet(few / "impressions.parquet")
    result = evaluate(bundle, few, rank=cheapest_first(bundle.featuriser))
    assert 0 < result["lists"] <= 12
    assert result["ndcg@10"][1:] == [None, None]
    assert "keep_fresh" not in result
    assert any("Fewer than 30 lists are too few to tell" in line for line in sentences(result))


def test_without_features_a_list_is_the_one_that_a_caller_without_item_features_sends(sale):
    dataset = Dataset(sale)
    names = dataset.fresh_features(["test"])
    fresh, bare = (list(dataset.impressions(["test"], fresh)) for fresh in (True, False))
    assert [without(i, names) for i in fresh] == bare
    assert fresh[0] != bare[0]
    assert shuffled(bare[0]).request.ids != bare[0].request.ids
