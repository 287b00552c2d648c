"""Like rates as of their moment, with and without a half-life."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.moment import read_moment
from model.data.rates import Clock, count_events, rates_over_time
from service.engine.features.durations import UNITS, to_ms
from service.engine.features.schema import Feature
from service.engine.features.schema_rules import SchemaError
from service.engine.features.snapshot import Snapshot

DAY, HOUR = UNITS["d"], UNITS["h"]
START = 1_700_000_000_000
LISTS, SIZE, ITEMS = 80, 3, 6
SCHEMA = """
name: s
history: {limit: 4, kernels: [kind], rate: rate}
features:
  - {name: rate, of: item, kind: statistic, prior_strength: 5MEMORY}
  - {name: kind, of: item, kind: categories}
"""
DECAYING = SCHEMA.replace("MEMORY", ", bucket: 6h, half_life: 36h")
PLAIN = SCHEMA.replace("MEMORY", "")


def random_log(seed=0):
    """Return 80 lists over 20 days; the items of the last days include one that is new."""
    draw = np.random.default_rng(seed)
    rows = [
        {
            "request_id": f"r{number:02d}",
            "user_id": f"u{number % 5}",
            "timestamp": START + int(number * DAY / 4 + draw.integers(0, HOUR)),
            "position": position,
            "item_id": f"i{item}",
            "label": int(draw.random() < 0.4),
            "kind": "abc"[item % 3],
        }
        for number in range(LISTS)
        for position, item in enumerate(draw.permutation(ITEMS + (number > 70))[:SIZE])
    ]
    return pl.DataFrame(rows)


def by_hand(events, item, reference, bucket, half_life, strength=5.0):
    """Return the statistic of an item from (timestamp, item, label) rows, one at a time."""
    shows = likes = all_shows = all_likes = 0.0
    for time, candidate, label in events:
        age = max(0, reference - (time // bucket + 1) * bucket)
        weight = 2.0 ** (-age / half_life)
        all_shows, all_likes = all_shows + weight, all_likes + weight * label
        if candidate == item:
            shows, likes = shows + weight, likes + weight * label
    floor = 0.5 / (all_shows + 1)
    prior = min(max(all_likes / all_shows if all_shows else 0.0, floor), 1 - floor)
    return math.log((likes + strength * prior) / (shows - likes + strength * (1 - prior)))


@pytest.mark.parametrize(
    ("schema", "bucket", "half_life"), [(DECAYING, 6 * HOUR, 36 * HOUR), (PLAIN, HOUR, math.inf)]
)
def test_a_row_counts_closed_buckets_before_its_own_and_the_table_all_of_train(
    shop, schema, bucket, half_life
):
    out = shop(random_log(), schema)
    rows, moment = pl.read_parquet(out / "impressions.parquet"), read_moment(out)
    assert moment is not None
    assert moment.statistics["rate"]["bucket"] == bucket
    train = rows.filter(pl.col("split") == "train")
    columns = ["timestamp", "item_id", "label"]
    for row in [*train.rows(named=True)[::7], *rows[-30:].rows(named=True)]:
        start = row["timestamp"] // bucket * bucket
        source = train if row["split"] == "train" else rows
        earlier = source.filter(pl.col("timestamp") < start).select(columns).rows()
        expected = by_hand(earlier, row["item_id"], start, bucket, half_life)
        assert row["rate"] == pytest.approx(expected, abs=1e-9)
    events = train.select(columns).rows()
    items = pl.read_parquet(out / "items.parquet")
    assert items["item_id"].to_list() == [f"i{item}" for item in range(ITEMS)]
    for item, rate in items.select("item_id", "rate").rows():
        expected = by_hand(events, item, moment.as_of, bucket, half_life)
        assert rate == pytest.approx(expected, abs=1e-9)
    default = Dataset(out).featuriser.schema.features[0].default
    assert default == pytest.approx(by_hand(events, "new", moment.as_of, bucket, half_life))


def test_a_train_row_counts_no_list_that_is_held_out_earlier(shop):
    log = random_log()
    numbers = pl.col("request_id").str.slice(1).cast(pl.Int64)
    held_out = pl.when(numbers % 4 == 0).then(pl.lit("test")).otherwise(pl.lit("train"))
    out = shop(log.with_columns(split=held_out), DECAYING)
    rows, moment = pl.read_parquet(out / "impressions.parquet"), read_moment(out)
    assert moment is not None
    assert not moment.ordered
    bucket = 6 * HOUR
    for row in rows[::11].rows(named=True):
        start = row["timestamp"] // bucket * bucket
        counted = rows.filter(pl.col("timestamp") < start)
        if row["split"] == "train":
            counted = counted.filter(pl.col("split") == "train")
        events = counted.select("timestamp", "item_id", "label").rows()
        expected = by_hand(events, row["item_id"], start, bucket, 36 * HOUR)
        assert row["rate"] == pytest.approx(expected, abs=1e-9)


def test_no_label_of_a_list_or_of_a_later_one_changes_the_statistics_of_its_rows(shop):
    log = random_log()
    late = pl.col("request_id") >= "r40"
    turned = log.with_columns(label=pl.when(late).then(1 - pl.col("label")).otherwise("label"))
    first, second = (
        pl.read_parquet(shop(frame, DECAYING) / "impressions.parquet") for frame in (log, turned)
    )
    until = pl.col("request_id") <= "r40"
    assert first.filter(until)["rate"].equals(second.filter(until)["rate"])
    assert not first.filter(~until)["rate"].equals(second.filter(~until)["rate"])


def test_labels_of_held_out_lists_enter_neither_table_nor_train_rows(shop):
    log = random_log()
    requests = pl.read_parquet(shop(log, DECAYING) / "impressions.parquet")
    held_out = requests.filter(pl.col("split") != "train")["request_id"].unique()
    mine = pl.col("request_id").is_in(held_out.implode())
    turned = log.with_columns(label=pl.when(mine).then(1 - pl.col("label")).otherwise("label"))
    tables = []
    for frame in (log, turned):
        out = shop(frame, DECAYING)
        rows = pl.read_parquet(out / "impressions.parquet")
        train = rows.filter(pl.col("split") == "train")["rate"].to_list()
        items = pl.read_parquet(out / "items.parquet").rows()
        tables.append((train, items, (out / "statistics.parquet").read_bytes()))
    assert tables[0] == tables[1]


def test_the_history_of_a_train_list_has_the_rates_at_its_answers(shop):
    out = shop(random_log(), DECAYING)
    rows = pl.read_parquet(out / "impressions.parquet")
    at_answer = {(r["item_id"], r["rate"]) for r in rows.rows(named=True)}
    seen = 0
    for impression in Dataset(out).impressions(["train"]):
        request = impression.request
        assert len(request.history_rates) == len(request.history)
        pairs = zip(request.history, request.history_rates, strict=True)
        assert all((item, rate) in at_answer for (item, _), rate in pairs)
        seen += len(request.history)
    assert seen > 100
    assert all(not i.request.history_rates for i in Dataset(out).impressions(["test"]))


def test_the_labels_of_a_train_list_do_not_enter_its_own_request(shop):
    """Its user's later answers have no rates of their time, which would count these labels."""
    log = random_log().with_columns(split=pl.lit("train"))
    held_out = pl.col("request_id").is_in(["r03", "r78", "r79"])  # not all after train
    log = log.with_columns(split=pl.when(held_out).then(pl.lit("test")).otherwise("split"))
    turned = log.with_columns(
        label=pl.when(pl.col("request_id") == "r05").then(1 - pl.col("label")).otherwise("label")
    )
    requests = [
        {i.request_id: i.request for i in Dataset(shop(frame, DECAYING)).impressions(["train"])}
        for frame in (log, turned)
    ]
    first, second = requests
    assert len(first["r05"].history_rates) == len(first["r05"].history) > 0
    assert first["r05"] == second["r05"]
    assert first["r10"] != second["r10"]  # a later list of the same user


def test_surprises_in_train_lists_use_the_rates_at_the_answers(shop):
    dataset = Dataset(shop(random_log(), DECAYING))
    impression = [*dataset.impressions(["train"])][-1]
    rated = dataset.featuriser.transform(impression.request)[0]
    table = {**vars(impression.request), "history_rates": ()}
    unrated = dataset.featuriser.transform(type(impression.request)(**table))[0]
    assert not np.allclose(rated, unrated)


def test_counts_of_parts_of_a_log_add_up():
    log = random_log().select("item_id", "timestamp", gain="label")
    ids = log["item_id"].unique().sort()
    clock = Clock(HOUR, 12.0 * HOUR, START + 20 * DAY)
    parts = [log, log[:100], log[100:]]
    counts = [
        rates_over_time(count_events(part.lazy(), ids, HOUR), clock, 5.0)[1] for part in parts
    ]
    np.testing.assert_allclose(counts[0].shows, counts[1].shows + counts[2].shows)
    np.testing.assert_allclose(counts[0].likes, counts[1].likes + counts[2].likes)
    assert counts[0].all_shows == pytest.approx(counts[1].all_shows + counts[2].all_shows)


def test_a_data_set_keeps_the_counts_behind_its_table_and_saves_them_with_the_featuriser(
    shop, tmp_path
):
    dataset = Dataset(shop(random_log(), DECAYING))
    dataset.featuriser.save(tmp_path)
    snapshot = Snapshot.load(tmp_path)
    assert snapshot is not None
    assert dataset.moment is not None
    assert snapshot.as_of == dataset.moment.as_of
    counts = snapshot.statistics["rate"]
    assert (counts.bucket, counts.half_life) == (6 * HOUR, 36 * HOUR)
    prior = counts.all_likes / counts.all_shows
    rates = np.log((counts.likes + 5 * prior) / (counts.shows - counts.likes + 5 * (1 - prior)))
    np.testing.assert_allclose(rates, dataset.items["rate"].to_numpy())


def test_a_log_without_time_keeps_counts_without_a_moment(shop):
    dataset = Dataset(shop(random_log().drop("timestamp"), PLAIN))
    snapshot = dataset.featuriser.snapshot
    assert snapshot is not None
    train = dataset.rows.filter(pl.col("split") == "train").collect()
    counts = snapshot.statistics["rate"]
    assert (snapshot.as_of, counts.bucket, counts.half_life) == (None, None, None)
    assert (counts.all_shows, counts.all_likes) == (len(train), train["label"].sum())
    assert counts.shows.sum() == len(train)


def test_a_half_life_needs_a_log_with_time(shop):
    rule = r"column features\.rate\.bucket: needs a log whose timestamps span more than an hour"
    with pytest.raises(DataError, match=rule):
        shop(random_log().drop("timestamp"), DECAYING)


@pytest.mark.parametrize(
    ("feature", "days", "bucket"),
    [({}, 20, HOUR), ({}, 1, 5 * 60_000), ({}, 4000, DAY), ({"half_life": "2h"}, 20, 15 * 60_000),
     ({"bucket": "7m"}, 20, 7 * 60_000), ({}, 0.01, 60_000)],
)  # fmt: skip
def test_the_width_of_buckets_follows_the_time_of_the_log_and_the_half_life(feature, days, bucket):
    rate = Feature("rate", "item", "statistic", **feature)
    assert Clock.of(rate, START, START + int(days * DAY)).bucket == bucket


@pytest.mark.parametrize("text", ["3", "3 d", "-3d", "0d", "3y", "", 3, True, "1e3d"])
def test_a_duration_is_a_number_above_0_with_a_unit(text):
    rule = "features.rate.half_life: must be a duration above 0 such as 90m, 6h or 3d, got "
    with pytest.raises(SchemaError) as caught:
        Feature("rate", "item", "statistic", half_life=text)
    assert str(caught.value) == f"{rule}{text!r}"


def test_durations_are_read_and_belong_to_statistics_only():
    assert [to_ms(text) for text in ("90m", "1.5h", "3d", "2w", "30s")] == [
        5_400_000, 5_400_000, 3 * DAY, 14 * DAY, 30_000
    ]  # fmt: skip
    rule = "features.price.bucket: must be absent from a number, got '1h'"
    with pytest.raises(SchemaError, match=rule):
        Feature("price", "item", "number", bucket="1h")


def test_the_record_of_statistics_is_plain_json(shop):
    record = json.loads((shop(random_log(), DECAYING) / "summary.json").read_text())["time"]
    assert record["statistics"]["rate"]["half_life"] == 36 * HOUR
    assert record["split"] == "time"
