"""`python -m model prepare`: RankLens as it is committed, and logs of one's own, good and bad."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tyro

from model.data import statistics
from model.data.commands import Prepare
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.replacement import replaced
from service.engine.features.encoding import FeatureError

ROOT = Path(__file__).parents[3]
EVENTS = ROOT / "data" / "ranklens" / "events.jsonl.gz"
DOC = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
HEADER = "request_id,user_id,timestamp,position,item_id,label,genres,price,hour\n"
LOG = HEADER + (
    "r1,ada,1,0,tea,1,drink|hot,3.5,9\n"
    "r1,ada,1,1,ink,0,office,7,9\n"
    "r2,ada,2,0,pen,1,office|gift,1.5,10\n"
    "r2,ada,2,1,mug,0,,9,10\n"
)
SCHEMA = """
name: shop
features:
  - {name: like_rate, of: item, kind: statistic, prior_strength: 10}
  - {name: genres, of: item, kind: categories, width: 3}
  - {name: price, of: candidate, kind: number}
  - {name: hour, of: context, kind: category}
"""


def run(*arguments: object) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert tyro.cli(Prepare, args=[str(argument) for argument in arguments]).execute() == 0
    return printed.getvalue()


def digests(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def ranklens(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranklens")
    printed = run("ranklens", "--events", EVENTS, "--out", out)
    return out, printed


@pytest.fixture(scope="module")
def warm(ranklens):
    return pl.read_parquet(ranklens[0] / "warm" / "impressions.parquet")


@pytest.fixture(scope="module")
def cold(ranklens):
    return pl.read_parquet(ranklens[0] / "cold" / "impressions.parquet")


@pytest.fixture
def shop(tmp_path):
    """Prepare a log, a schema and maybe tables; returns the data set's directory."""

    def write(log=LOG, schema=SCHEMA, **tables):
        (tmp_path / "schema.yaml").write_text(schema)
        path = tmp_path / "log.csv"
        if isinstance(log, pl.DataFrame):
            path = path.with_suffix(".parquet")
            log.write_parquet(path)
        else:
            path.write_text(log)
        arguments = ["--log", path, "--schema", tmp_path / "schema.yaml"]
        for name, text in tables.items():
            (tmp_path / f"{name}.csv").write_text(text)
            arguments += [f"--{name}", tmp_path / f"{name}.csv"]
        run("impressions", *arguments, "--out", tmp_path / "shop")
        return tmp_path / "shop"

    return write


# --- RankLens -------------------------------------------------------------------------------------


def test_ranklens_has_every_list_user_and_like_of_the_source(warm):
    assert warm["request_id"].n_unique() == 9_800
    assert warm["user_id"].n_unique() == 2_145
    assert len(warm) == 9_800 * 24
    assert round(float(warm["label"].mean()), 3) == 0.196
    assert warm.schema["position"] == pl.Int32
    assert warm.schema["label"] == pl.Float32
    assert warm.schema["timestamp"] == pl.Int64


def test_rows_are_ordered_by_request_then_position(warm):
    positions = warm["position"].to_numpy().reshape(-1, 24)
    assert (positions == np.arange(24)).all()
    requests = warm["request_id"].to_numpy().reshape(-1, 24)
    assert (requests == requests[:, :1]).all()
    assert warm["timestamp"].is_sorted()


def test_the_committed_data_is_what_its_readme_says():
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for path in (EVENTS, EVENTS.with_name("LICENSE.CC-BY-SA-4.0.md")):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme


def test_the_documentation_shows_what_ranklens_prints(ranklens):
    out, printed = ranklens
    assert printed.replace(str(out), "build/ranklens") in DOC


def test_the_warm_split_keeps_the_last_list_of_each_user_for_test(warm):
    order = warm.group_by("user_id", "request_id", maintain_order=True).agg(pl.col("split").first())
    for (_,), lists in order.group_by("user_id"):
        splits = lists["split"].to_list()
        expected = {1: [], 2: ["test"]}.get(len(splits), ["valid", "test"])
        assert splits == ["train"] * (len(splits) - len(expected)) + expected


def test_the_cold_split_shares_no_user_between_train_valid_and_test(cold):
    users = {split: set(rows["user_id"]) for (split,), rows in cold.group_by("split")}
    assert not users["train"] & users["valid"]
    assert not users["train"] & users["test"]
    assert not users["valid"] & users["test"]
    assert users["history"] <= users["valid"] | users["test"]
    last = cold.group_by("user_id").agg(pl.col("split").last())
    held_out = last.filter(pl.col("user_id").is_in(list(users["valid"] | users["test"])))
    assert set(held_out["split"]) == {"valid", "test"}


def test_the_metarank_split_is_lists_with_a_like_the_last_fifth_in_time_being_test(ranklens, warm):
    rows = pl.read_parquet(ranklens[0] / "metarank" / "impressions.parquet")
    lists = rows.group_by("request_id", maintain_order=True).agg(
        pl.col("timestamp", "split").first(), pl.col("label").sum()
    )
    assert (lists["label"] >= 1).all()
    liked = warm.filter(pl.col("label") > 0.5)["request_id"].n_unique()
    assert len(lists) == liked == 8_773
    assert lists["timestamp"].is_sorted()
    count = {split: len(group) for (split,), group in lists.group_by("split")}
    assert count == {"train": 6_316, "valid": 702, "test": 1_755}
    order = lists["split"].to_list()
    assert order == ["train"] * 6_316 + ["valid"] * 702 + ["test"] * 1_755


def test_as_many_metarank_test_lists_count_in_our_metrics_as_the_documentation_says(ranklens):
    lists = Dataset(ranklens[0] / "metarank").lists(["test"]).rankable()
    assert f"{len(lists):,} of its {1_755:,} test lists" in DOC


@pytest.mark.parametrize("kind", ["warm", "cold", "metarank"])
def test_a_statistic_is_recomputed_by_hand_from_train_lists_of_other_folds(ranklens, kind):
    rows = pl.read_parquet(ranklens[0] / kind / "impressions.parquet")
    items = pl.read_parquet(ranklens[0] / kind / "items.parquet")
    table = dict(zip(items["item_id"], items["like_rate"], strict=True))
    train = rows.filter(pl.col("split") == "train")
    requests = train["request_id"].unique(maintain_order=True).to_list()
    fold = dict(zip(requests, statistics.folds(len(requests)).tolist(), strict=True))
    request = requests[1234]
    shown = train.filter(pl.col("request_id") == request)
    others = train.filter(
        pl.col("request_id").replace_strict(fold, return_dtype=pl.Int32) != fold[request]
    )

    def by_hand(lists, item):
        prior = float(lists["label"].mean())
        labels = lists.filter(pl.col("item_id") == item)["label"]
        rate = (float(labels.sum()) + 10 * prior) / (len(labels) + 10)
        return math.log(rate / (1 - rate))

    for item, value in zip(shown["item_id"], shown["like_rate"], strict=True):
        assert value == pytest.approx(by_hand(others, item), abs=1e-9)
        assert table[item] == pytest.approx(by_hand(train, item), abs=1e-9)
        # The twin: the tolerance tells the two apart.
        assert value != pytest.approx(table[item], abs=1e-9)


def test_only_train_rows_have_a_statistic_inline_and_every_item_has_one(ranklens, warm, cold):
    for kind, rows in (("warm", warm), ("cold", cold)):
        assert (rows["like_rate"].is_not_null() == (rows["split"] == "train")).all()
        items = pl.read_parquet(ranklens[0] / kind / "items.parquet")
        assert items["like_rate"].is_finite().all()


def test_items_have_metadata_or_nulls_and_vectors_of_length_one_or_zero(ranklens):
    items = pl.read_parquet(ranklens[0] / "warm" / "items.parquet")
    assert len(items) == 2_520
    assert items["genres"].null_count() == 8
    assert items["popularity"].null_count() == 8
    for name, width in (("tags_vector", 32), ("people_vector", 16), ("text_vector", 32)):
        assert items.schema[name] == pl.List(pl.Float32)
        vectors = np.array(items[name].drop_nulls().to_list())
        assert vectors.shape == (2_512, width)
        length = np.linalg.norm(vectors, axis=1)
        assert ((abs(length - 1) < 1e-4) | (length == 0)).all()
        assert (length > 0).mean() > 0.8


def test_vectors_of_like_texts_are_closer_than_of_unlike_ones():
    bags = [
        ["sea", "ship"],
        ["sea", "ship", "war"],
        ["love", "paris"],
        ["love", "paris", "war"],
        [],
    ]
    vectors = statistics.token_vectors(bags, 2)
    assert vectors.shape == (5, 2)
    assert vectors[0] @ vectors[1] > 0.8
    assert abs(vectors[0] @ vectors[2]) < 0.5
    assert (vectors[4] == 0).all()


def test_the_same_input_gives_the_same_bytes(ranklens, tmp_path):
    run("ranklens", "--events", EVENTS, "--out", tmp_path)
    assert digests(tmp_path) == digests(ranklens[0])
    assert len(digests(tmp_path)) == 15


def test_permuted_labels_keep_the_likes_of_each_list_but_not_of_each_item(warm, tmp_path):
    run("ranklens", "--events", EVENTS, "--out", tmp_path, "--permute-labels", 7)
    permuted = pl.read_parquet(tmp_path / "warm" / "impressions.parquet")
    before = warm["label"].to_numpy().reshape(-1, 24)
    after = permuted["label"].to_numpy().reshape(-1, 24)
    assert (before.sum(axis=1) == after.sum(axis=1)).all()
    assert (before != after).any(axis=1).mean() > 0.8
    spread = [
        float(rows.group_by("item_id").agg(pl.col("label").mean())["label"].var())
        for rows in (warm, permuted)
    ]
    assert spread[1] < 0.5 * spread[0]


EVENT_LIST = {"event": "ranking", "id": "l1", "user": "u", "timestamp": "1", "items": [{"id": "a"}]}


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([EVENT_LIST, "{"], "row 2: JSON, got '{"),
        ([{"event": "view"}], "row 1, column event: item, ranking or interaction, got 'view'"),
        ([{"event": "item", "item": "a"}], "row 1, column fields: missing"),
        ([EVENT_LIST, EVENT_LIST], "row 2, column id: a list of its own, got 'l1'"),
        ([{**EVENT_LIST, "items": []}], "row 1, column items: at least one candidate"),
        ([{**EVENT_LIST, "timestamp": "noon"}], "row 1, column timestamp: whole milliseconds"),
        (
            [EVENT_LIST, {"event": "interaction", "ranking": "l9", "item": "a"}],
            "row 2, column ranking: the id of a list, got 'l9'",
        ),
        (
            [EVENT_LIST, {"event": "interaction", "ranking": "l1", "item": "b"}],
            "row 2, column item: a candidate of list l1, got 'b'",
        ),
        ([], "no ranking events"),
        ([EVENT_LIST], "no interaction events"),
        *(
            (
                [EVENT_LIST, {"event": "item", "item": "a", "fields": [{"name": n, "value": v}]}],
                f"row 2, column {n}: {rule}, got {v!r}",
            )
            for n, v, rule in (
                ("popularity", "high", "a finite number"),
                ("runtime", math.nan, "a finite number"),
                ("release_date", 1e18, "seconds since 1970, fewer than 6e10"),
                ("director", ["Varda"], "a text"),
                ("genres", "drama", "a list of texts"),
                ("actors", [1], "a list of texts"),
            )
        ),
    ],
)
def test_a_broken_event_is_named(tmp_path, events, message):
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        run("ranklens", "--events", path, "--out", tmp_path / "out")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "warm").exists()


def test_a_truncated_events_file_is_named(tmp_path):
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(EVENTS.read_bytes()[:10_000])
    with pytest.raises(DataError, match="unreadable after row"):
        run("ranklens", "--events", path, "--out", tmp_path / "out")
    path.write_text("not gzip")
    with pytest.raises(DataError, match="unreadable after row 0"):
        run("ranklens", "--events", path, "--out", tmp_path / "out")


# --- a log of one's own ---------------------------------------------------------------------------


def test_the_documented_example_prints_and_writes_what_the_documentation_shows(tmp_path):
    example = DOC[DOC.index("## Your own log") : DOC.index("### The log")]
    schema, log, command, printed, items, error = re.findall(
        r"```\w+\n(.*?)```", example, re.DOTALL
    )
    (tmp_path / "schema.yaml").write_text(schema)
    (tmp_path / "log.csv").write_text(log)
    name, *arguments = command.split()
    assert name == "python"

    def start():
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    good = start()
    assert (good.returncode, good.stdout, good.stderr) == (0, printed, "")
    table = pl.read_parquet(tmp_path / "shop" / "items.parquet").with_columns(
        pl.col("like_rate").round(3), pl.col("genres").list.join("|")
    )
    assert table.write_csv() == items
    before = digests(tmp_path / "shop")
    (tmp_path / "log.csv").write_text(log.replace(",1,ink,", ",-1,ink,"))
    bad = start()
    assert (bad.returncode, bad.stdout, bad.stderr) == (2, "", error)
    assert digests(tmp_path / "shop") == before


def test_a_parquet_log_gives_what_the_same_csv_gives(shop):
    rows = pl.read_parquet(shop() / "impressions.parquet")
    log = pl.read_csv(io.StringIO(LOG)).with_columns(
        pl.col("genres").str.split("|"), pl.from_epoch("timestamp", "ms")
    )
    assert pl.read_parquet(shop(log) / "impressions.parquet").equals(rows)


def test_without_timestamps_the_order_in_the_file_is_time(shop):
    log = pl.read_csv(io.StringIO(LOG)).drop("timestamp").reverse()
    rows = pl.read_parquet(shop(log) / "impressions.parquet")
    assert rows["request_id"].to_list() == ["r2", "r2", "r1", "r1"]
    assert rows["split"].to_list() == ["train", "train", "test", "test"]
    assert rows["timestamp"].to_list() == [1, 1, 3, 3]


def test_a_split_in_the_log_is_kept(shop):
    log = pl.read_csv(io.StringIO(LOG)).with_columns(
        split=pl.Series(["history", "history", "train", "train"])
    )
    rows = pl.read_parquet(shop(log) / "impressions.parquet")
    assert rows["split"].to_list() == ["history", "history", "train", "train"]


def test_the_labels_of_a_list_have_no_part_in_its_own_statistics(shop):
    random = np.random.default_rng(5)
    requests, size, items = 30, 4, 6
    columns = {
        "request_id": [f"r{r}" for r in range(requests) for _ in range(size)],
        "user_id": [f"u{r}" for r in range(requests) for _ in range(size)],
        "position": list(range(size)) * requests,
        "item_id": [f"i{i}" for _ in range(requests) for i in random.permutation(items)[:size]],
        "label": random.integers(0, 2, requests * size).tolist(),
    }
    schema = "name: s\nfeatures:\n  - {name: rate, of: item, kind: statistic}\n"
    log = pl.DataFrame(columns)
    mine = pl.col("request_id") == "r3"
    flipped = log.with_columns(
        pl.when(mine).then(1 - pl.col("label")).otherwise("label").alias("label")
    )
    first, second = (
        pl.read_parquet(shop(frame, schema) / "impressions.parquet") for frame in (log, flipped)
    )
    assert first.filter(mine)["rate"].equals(second.filter(mine)["rate"])
    assert not first.filter(~mine)["rate"].equals(second.filter(~mine)["rate"])


@pytest.mark.parametrize(
    "name",
    ["order", "fold", "number", "index", "value", "first", "row", "rows", "lists", "run", "score"],
)
def test_a_feature_may_have_any_name_without_two_underscores_in_front(shop, name):
    log = pl.read_csv(io.StringIO(LOG)).drop("price")
    log = log.with_columns(pl.Series(name, [9.0, 7.0, 5.0, 3.0]))
    turned = log.with_columns(label=pl.Series([1, 0, 0, 1]))  # r2, which is test
    for of in ("candidate", "item"):
        schema = SCHEMA.replace("name: price, of: candidate", f"name: {name}, of: {of}")
        rates = []
        for frame in (log, turned):
            out = shop(frame, schema, items=f"item_id,{name}\ntea,0\nink,1\npen,0\nmug,1\n")
            rows = pl.read_parquet(out / "impressions.parquet")
            assert rows["item_id"].to_list() == ["tea", "ink", "pen", "mug"]
            assert rows[name].to_list() == [9.0, 7.0, 5.0, 3.0]
            items = pl.read_parquet(out / "items.parquet")["like_rate"].to_list()
            rates.append((items, rows["like_rate"].to_list()))
        assert rates[0] == rates[1]
        lists = Dataset(out).lists(["train", "test"])
        column = Dataset(out).featuriser.column(name)
        assert lists.labels.tolist() == [[1.0, 0.0], [0.0, 1.0]]
        assert (np.diff(lists.numbers[:, :, column]) < 0).all()


def test_tables_give_item_and_user_features_and_the_log_stands_over_them(shop):
    schema = SCHEMA + "  - {name: age, of: user, kind: number}\n"
    out = shop(
        schema=schema,
        items="item_id,genres\ntea,leaf\nhat,\n",
        users="user_id,age\nada,36\n",
    )
    items = pl.read_parquet(out / "items.parquet")
    assert items["item_id"].to_list() == ["hat", "ink", "mug", "pen", "tea"]
    assert dict(zip(items["item_id"], items["genres"], strict=True))["tea"].to_list() == ["leaf"]
    rows = pl.read_parquet(out / "impressions.parquet")
    assert rows["genres"][0].to_list() == ["drink", "hot"]
    assert pl.read_parquet(out / "users.parquet").rows() == [("ada", 36.0)]


def test_vectors_are_read_from_csv(shop):
    schema = "name: s\nfeatures:\n  - {name: v, of: item, kind: vector, width: 2}\n"
    log = "request_id,user_id,position,item_id,label,v\nr,u,0,a,1,0.5|2\nr,u,1,b,0,\n"
    items = pl.read_parquet(shop(log, schema) / "items.parquet")
    assert items["v"].to_list() == [[0.5, 2.0], None]
    for bad in ("0.5", "0.5|x", "0.5|nan"):
        with pytest.raises(DataError, match=r"row 1, column v: 2 finite numbers, got '0.5"):
            shop(log.replace("0.5|2", bad), schema)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("position", "-1", "row 2, column position: at least 0, got '-1'"),
        ("position", "0", "row 2, column position: once per request; request 'r1' has it in row 1"),
        ("position", "1.5", "row 2, column position: a whole number, got '1.5'"),
        ("item_id", "tea", "row 2, column item_id: once per request; request 'r1' has it in row 1"),
        ("item_id", "", "row 2, column item_id: an id, neither null nor blank, got null"),
        ("user_id", " ", "row 2, column user_id: an id, neither null nor blank, got ' '"),
        ("request_id", "", "row 2, column request_id: an id, neither null nor blank, got null"),
        ("user_id", "bob", "row 2, column user_id: one value per request; request 'r1' began"),
        ("hour", "10", "row 2, column hour: one value per request; request 'r1' began with '9'"),
        ("label", "2", "row 2, column label: between 0 and 1, got '2'"),
        ("label", "", "row 2, column label: a number, got null"),
        ("label", "nan", "row 2, column label: a number, got 'nan'"),
        ("label", "yes", "row 2, column label: a number, got 'yes'"),
        ("timestamp", "noon", "row 2, column timestamp: a whole number, got 'noon'"),
        ("price", "inf", "row 2, column price: a finite number, got 'inf'"),
        ("price", "cheap", "row 2, column price: a finite number, got 'cheap'"),
        ("price", "1,2", "row 2: 9 fields, got 10"),
    ],
)
def test_a_bad_value_is_named_with_its_row_column_rule_and_value(shop, column, value, message):
    lines = LOG.splitlines()
    cells = lines[2].split(",")
    cells[HEADER.strip().split(",").index(column)] = value
    lines[2] = ",".join(cells)
    with pytest.raises(DataError, match=re.escape(f"log.csv, {message}")):
        shop("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            pl.read_csv(io.StringIO(LOG)).with_columns(label=math.nan),
            "column label: a number, got nan",
        ),
        (pl.read_csv(io.StringIO(LOG)).with_columns(position=0.5), "a whole number, got 0.5"),
        (pl.read_csv(io.StringIO(LOG)).with_columns(item_id=None), "at least one candidate"),
        (pl.read_csv(io.StringIO(LOG)).with_columns(split=pl.lit("dev")), "one of train, valid"),
        (pl.read_csv(io.StringIO(LOG)).with_columns(split=pl.lit("test")), "of split train"),
        (pl.read_csv(io.StringIO(LOG)).with_columns(like_rate=0.5), "a statistic is computed"),
        (pl.read_csv(io.StringIO(LOG)).with_columns(hour=["a"]), "one value per row"),
        (pl.read_csv(io.StringIO(LOG)).clear(), "at least one row"),
        *(
            (pl.read_csv(io.StringIO(LOG)).with_columns(value.alias(name)), f"{name}: {rule}")
            for name, value, rule in (
                ("user_id", pl.lit(1.5), "text or a whole number, got 1.5"),
                ("user_id", pl.lit(math.nan), "an id, neither null nor blank, got nan"),
                ("request_id", pl.lit(True), "text or a whole number, got True"),
                ("hour", pl.lit(1.5), "text or a whole number, got 1.5"),
                ("hour", pl.lit(math.inf), "text or a whole number, got inf"),
                ("hour", pl.lit(True), "text or a whole number, got True"),
                ("genres", pl.lit(2.5), "text or a whole number, got 2.5"),
                ("genres", pl.lit([1.0, 2.5]), "text or a whole number, got [1.0, 2.5]"),
                ("genres", pl.lit([False]), "text or a whole number, got [False]"),
            )
        ),
    ],
)
def test_a_bad_parquet_log_is_named(shop, log, message):
    with pytest.raises(DataError, match=r"log\.parquet") as caught:
        shop(log)
    assert message in str(caught.value)


@pytest.mark.parametrize("log", ["", HEADER])
def test_an_empty_log_is_named(shop, log):
    with pytest.raises(DataError, match=r"log\.csv: at least one row, got an empty file"):
        shop(log)


def test_a_request_without_candidates_is_named(shop):
    with pytest.raises(DataError, match="at least one candidate in request 'r9', got null"):
        shop(LOG + "r9,ada,3,0,,0,,1,9\n")


def test_a_missing_column_is_named_with_those_there_are(shop):
    with pytest.raises(DataError, match=r"column label: missing; the log has request_id, user_id"):
        shop(LOG.replace("label", "clicked", 1))


def test_a_feature_without_a_column_anywhere_is_named(shop):
    with pytest.raises(DataError, match=r"column genres: missing; .* nor in a table given with --"):
        shop(LOG.replace("genres", "genre", 1))
    with pytest.raises(DataError, match=r"column price: missing; .* it is not in the log$"):
        shop(LOG.replace("price", "cost", 1))


def test_a_required_feature_may_not_be_null(shop):
    schema = SCHEMA.replace("of: candidate,", "of: candidate, required: true,")
    with pytest.raises(DataError, match="row 2, column price: required by the schema, got null"):
        shop(LOG.replace(",7,", ",,"), schema)


BOB = LOG + "r3,bob,3,0,tea,1,,3,9\n"  # a second user, in row 5
REQUIRED_AGE = SCHEMA + "  - {name: age, of: user, kind: number, required: true}\n"


@pytest.mark.parametrize(
    ("log", "users", "message"),
    [
        (BOB, "user_id,age\nada,36\nbob,\n", "users.csv, row 2, column age: required by the sch"),
        (BOB, "user_id,age\nada,36\n", "log.csv, row 5, column age: required by the schema, but "),
        (
            BOB.replace("hour\n", "hour,age\n").replace("ink,0,office,7,9", "ink,0,office,7,9,36"),
            "user_id\nada\n",
            "log.csv, row 5, column age: required by the schema, but user 'bob' has none",
        ),
    ],
)
def test_a_required_feature_of_a_user_is_there_for_every_user(shop, log, users, message):
    with pytest.raises(DataError, match=re.escape(message)):
        shop(log, REQUIRED_AGE, users=users)


def test_a_feature_of_a_user_is_the_same_in_every_row_of_the_log_or_null(shop):
    schema = SCHEMA + "  - {name: age, of: user, kind: number}\n"
    schema += "  - {name: tastes, of: user, kind: categories, width: 2}\n"

    def log(ages, tastes):
        frame = pl.read_csv(io.StringIO(LOG))
        return frame.with_columns(age=pl.Series(ages), tastes=pl.Series(tastes))

    same = log([None, 36, None, 36], [None, ["a", "b"], ["a", "b"], ["a", "b"]])
    users = pl.read_parquet(shop(same, schema) / "users.parquet")
    assert users.rows() == [("ada", 36.0, ["a", "b"])]
    rule = "one value per user, or else of: context; user 'ada' began with"
    with pytest.raises(DataError, match=f"row 4, column age: {rule} 36.0, got 37.0"):
        shop(log([None, 36, None, 37], [["a"]] * 4), schema)
    with pytest.raises(DataError, match=f"row 3, column tastes: {rule} "):
        shop(log([36] * 4, [["a"], ["a"], ["b"], ["b"]]), schema)
    # Where the table of users has the column, the log's is not read.
    given = shop(log([1, 2, 3, 4], [["a"]] * 4), schema, users="user_id,age\nada,36\n")
    assert pl.read_parquet(given / "users.parquet").rows() == [("ada", 36.0, ["a"])]


def test_whole_numbers_are_read_alike_as_floats_as_integers_and_as_text(shop):
    log = pl.read_csv(io.StringIO(LOG)).with_columns(
        request_id=pl.Series([1, 1, 2, 2]),
        user_id=pl.Series([7, 7, 7, 7]),
        item_id=pl.Series([10, 20, 30, 40]),
        genres=pl.Series([[1], [2, 3], [], [4]]),
    )
    floats = log.with_columns(
        pl.col("request_id", "user_id", "item_id", "hour").cast(pl.Float64),
        pl.col("genres").cast(pl.List(pl.Float64)),
    )
    categories = log.with_columns(
        pl.col("request_id", "user_id", "item_id", "hour").cast(pl.String).cast(pl.Categorical)
    )
    frames = [pl.read_parquet(shop(x) / "impressions.parquet") for x in (log, floats, categories)]
    assert frames[0]["item_id"].to_list() == ["10", "20", "30", "40"]
    assert frames[0]["genres"].to_list() == [["1"], ["2", "3"], [], ["4"]]
    assert all(frame.equals(frames[0]) for frame in frames)
    nothing = floats.with_columns(
        hour=math.nan, genres=pl.Series([[math.nan, 1.0], [], [], []])
    )  # NaN is the null of many tools
    rows = pl.read_parquet(shop(nothing) / "impressions.parquet")
    assert rows["hour"].null_count() == 4
    assert rows["genres"].to_list() == [["1"], [], [], []]


def test_an_item_twice_in_the_item_table_is_named(shop):
    with pytest.raises(
        DataError, match=r"items\.csv, row 3, column item_id: once per file, got 'a'"
    ):
        shop(items="item_id,genres\na,x\nb,y\na,z\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: 3", "wide: 3", "features[1].wide: unknown; one of"),
        ("kind: categories", "kind: colour", "features.genres.kind: one of identifier"),
        (
            "prior_strength: 10",
            "prior_strength: 0",
            "like_rate.prior_strength: a finite number above 0, got 0",
        ),
        ("name: price", "name: position", "a name that the log does not use itself"),
        ("name: price", "name: __fold", "not beginning with __, got '__fold'"),
        ("name: shop", "- shop", "schema.yaml: unreadable"),
    ],
)
def test_a_bad_schema_is_named(shop, old, new, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        shop(schema=SCHEMA.replace(old, new))
    assert "schema.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "items", "message"),
    [
        (
            SCHEMA + "  - {name: weight, of: item, kind: number}\n",
            "item_id,weight\ntea,1\nink,2\nmug,1e300\n",
            "items.parquet['mug'].weight: within 1e+06 deviations of the train mean, got 1e+300",
        ),
        (
            SCHEMA.replace("of: context,", "of: context, default: [9],"),
            "item_id\ntea\n",
            "hour: a string or an integer, got [9]",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_training(shop, schema, items, message):
    out = shop()
    before = digests(out)
    with pytest.raises(FeatureError, match=re.escape(message)):
        shop(schema=schema, items=items)
    assert digests(out) == before


def test_a_list_that_cannot_be_featurised_is_named(shop):
    out = shop(LOG.replace("1.5,10", "1e300,10"))
    with pytest.raises(
        DataError, match=r"request 'r2': candidates\[0\]\.features\.price: within 1e"
    ):
        Dataset(out).lists(["test"])


def test_an_interruption_leaves_the_old_data_set_and_no_other(shop):
    out = shop()
    before = digests(out.parent)
    # The interrupt must come after half a file, so the block holds two statements.
    with pytest.raises(KeyboardInterrupt), replaced([out]) as (directory,):  # noqa: PT012
        (directory / "schema.yaml").write_text("half")
        raise KeyboardInterrupt
    assert digests(out.parent) == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("move", range(5))
def test_an_interruption_of_the_exchange_leaves_all_old_data_sets(shop, monkeypatch, move, when):
    out = shop()
    other, fresh = shutil.copytree(out, out.with_name("other")), out.with_name("fresh")
    before = digests(out.parent)
    rename, moves = Path.rename, itertools.count()

    def interrupted(path, target):
        number = next(moves)
        if (number, when) == (move, "before"):
            raise KeyboardInterrupt
        rename(path, target)
        if (number, when) == (move, "after"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replaced([out, fresh, other]) as directories:  # noqa: PT012
        for directory in directories:
            (directory / "schema.yaml").write_text("new")
        monkeypatch.setattr(Path, "rename", interrupted)
    assert digests(out.parent) == before
    assert not fresh.exists()


def test_after_a_kill_between_the_two_moves_the_old_data_set_is_back(shop):
    out = shop()
    before = digests(out)
    out.rename(out.with_name("shop.tmp.old"))
    with pytest.raises(DataError):
        shop(LOG.replace("tea,1", "tea,2"))
    assert digests(out) == before
    shutil.copytree(out, out.with_name("shop.tmp.old"))  # killed after both
    shop(LOG.replace("tea,1", "tea,0"))
    assert digests(out) != before
    assert sorted(path.name for path in out.parent.iterdir()) == ["log.csv", "schema.yaml", "shop"]


def test_a_link_to_a_data_set_stays_and_what_it_leads_to_is_replaced(shop, tmp_path):
    out = shop()
    elsewhere = out.rename(tmp_path / "elsewhere")
    out.symlink_to(elsewhere)
    before = digests(elsewhere)
    shop(LOG.replace("tea,1", "tea,0"))
    assert out.is_symlink()
    assert digests(elsewhere).keys() == before.keys()
    assert digests(elsewhere) != before


def test_a_directory_with_other_files_is_never_replaced(shop):
    out = shop()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(
        DataError, match="a new directory or a data set to replace, got one with 'th"
    ):
        shop()
    assert (out / "thesis.txt").exists()
