"""A data set in shards holds the tables of the same log in one file."""

import polars as pl
import pytest

from model.data.scan import ROW
from model.data.shards import options, parts, requests
from tests.support.logs import digest_tree
from tests.support.shards import ITEMS, SCHEMA, differences, random_log

HOUR = 3_600_000
GRADED = SCHEMA.replace("range: [0, 1]", "range: [0, 4], gain: exponential, positive: 2")
FORGETFUL = SCHEMA + (
    "  - {name: recent, of: item, kind: statistic, prior_strength: 3, half_life: 3h}\n"
)


def graded_log():
    label = (pl.col("label") * 4 - (pl.col("price") > 8).cast(pl.Int64)).clip(0, 4)
    return random_log().with_columns(label=label)


def marked_log():
    names = ["train", "train", "valid", "test", "history"]
    number = pl.col("request_id").str.slice(1).cast(pl.Int64) % 5
    return random_log().with_columns(split=number.replace_strict(dict(enumerate(names))))


CASES = {
    "by time": (random_log(), {}),
    "half-life": (random_log(), {"schema": FORGETFUL}),
    "graded": (graded_log(), {"schema": GRADED}),
    "last lists": (random_log(), {"split": "last-list"}),
    "users held out": (random_log(), {"split": "user"}),
    "marked": (marked_log(), {}),
    "within an hour": (random_log(minutes=0), {}),
    "without times": (random_log().drop("timestamp"), {}),
    "users held out without times": (random_log().drop("timestamp"), {"split": "user"}),
}


@pytest.mark.parametrize("case", CASES)
def test_shards_hold_the_tables_of_one_file(prepare, case):
    log, options = CASES[case]
    one = prepare("one", log, **options)
    assert differences(one, prepare("in three", log, 3, **options)) == []


def test_a_changed_label_is_a_difference(prepare, tmp_path):
    log = random_log()
    one = prepare("one", log, 3)
    (tmp_path / "log.parquet").unlink()
    flipped = pl.when(pl.int_range(pl.len()) == 7).then(1 - pl.col("label")).otherwise("label")
    other = prepare("other", log.with_columns(label=flipped), 3)
    assert "impressions" in differences(one, other)


def test_tables_that_change_with_time_give_the_same_values_in_shards(prepare):
    times = [1_700_000_000_000 + hours * HOUR for hours in (0, 4, 9)]
    items = pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(0, ITEMS, 2) for _ in times],
            "timestamp": times * (ITEMS // 2),
            "stock": [float(n % 7) for n in range(3 * ITEMS // 2)],
        }
    )
    users = pl.DataFrame(
        {
            "user_id": [f"u{i}" for i in range(30) for _ in times],
            "timestamp": times * 30,
            "age": [float(n % 11) for n in range(90)],
        }
    )
    log = random_log()
    one = prepare("one", log, items=items, users=users)
    assert "age" in pl.read_parquet_schema(one / "impressions.parquet")
    assert differences(one, prepare("in shards", log, 3, items=items, users=users)) == []


def test_the_sizes_of_tasks_change_nothing_but_the_files(prepare, monkeypatch):
    log = random_log()
    one = prepare("one", log)
    whole = prepare("whole", log, 2)
    monkeypatch.setattr(requests, "ROWS_AT_ONCE", 70)
    monkeypatch.setattr(options, "ROWS_PER_SHARD", 30)
    monkeypatch.setattr(options, "CELLS_PER_PARTITION", 1000)
    monkeypatch.setattr(parts, "ROWS_PER_PART", 150)
    monkeypatch.setattr("model.data.scan.ROWS_PER_FRAME", 130)
    small = prepare("small", log, 2)
    assert differences(one, whole) == differences(one, small) == []
    files = [len([*(out / "impressions").iterdir()]) for out in (whole, small)]
    assert files[0] == 2
    assert files[1] > 8


def test_one_and_two_processes_write_the_same_bytes(prepare):
    log = random_log()
    one = prepare("one", log, 3, workers=1)
    assert digest_tree(one) == digest_tree(prepare("two", log, 3, workers=2))


def test_every_user_lies_in_one_shard(prepare):
    rows = pl.read_parquet(prepare("out", random_log(), 3) / "impressions", include_file_paths=ROW)
    assert rows[ROW].n_unique() == 3
    assert rows.group_by("user_id").agg(pl.col(ROW).n_unique())[ROW].max() == 1
