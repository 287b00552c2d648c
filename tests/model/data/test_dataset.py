"""Data sets larger than memory give the same arrays as small ones."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.data import chunks
from model.data import dataset as dataset_module
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.lists import Arrays, Lists
from model.learning.policy import Batch
from model.study.random_log import write_log

ROOT = Path(__file__).parents[3]
ITEMS = 1000
ROWS = 6_000  # 240 lists of 25 by 24 users, whose lists are spread over the file


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    directory = tmp_path_factory.mktemp("log") / "data"
    write_log(directory, ROWS, ITEMS)
    return directory


@pytest.fixture
def in_small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "ROWS_PER_CHUNK", 700)  # 28 lists, fewer than three users have
    monkeypatch.setattr(dataset_module, "LISTS_PER_BLOCK", 7)


def arrays(lists):
    return Arrays(lists.numbers, lists.tokens, lists.mask, lists.labels)


@pytest.mark.parametrize("splits", [["train"], ["test"], ["train", "valid"]])
def test_arrays_in_files_from_chunks_equal_arrays_in_memory_from_the_whole_log(
    log, in_small_chunks, splits
):
    stored_lists = Dataset(log, memory=0).lists(splits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "ROWS_PER_CHUNK", ROWS + 1)
        held_lists = Dataset(log).lists(splits)
    assert len(stored_lists) == len(held_lists) > 0
    for stored, held in zip(arrays(stored_lists), arrays(held_lists), strict=True):
        assert stored.dtype == held.dtype
        if stored.dtype == np.float32:  # chunks round means and deviations differently
            np.testing.assert_allclose(stored, held, rtol=0, atol=2e-6)
        else:
            assert np.array_equal(stored, held)


def test_every_request_lies_in_one_chunk(log, in_small_chunks, monkeypatch):
    whole = Dataset(log).rows.collect()
    monkeypatch.setattr(chunks, "ROWS_PER_CHUNK", 33)  # a list and a third
    parts = list(chunks.read_chunks(whole.lazy()))
    assert sum(part["request_id"].n_unique() for part in parts) == ROWS // 25
    assert [row for part in parts for row in part.rows()] == whole.rows()


def test_a_batch_from_files_equals_the_batch_from_memory(log):
    stored = Dataset(log, memory=0).lists(["train"]).rankable().take(slice(10, 60))
    held = Dataset(log).lists(["train"]).rankable().take(slice(10, 60))
    for index in (np.array([5, 3, 40]), slice(7, 9)):
        assert Batch(stored, index).numbers.equal(Batch(held, index).numbers)
        assert Batch(stored, index).labels.equal(Batch(held, index).labels)
    others = Batch(held, np.array([5, 3, 41])).labels
    assert not Batch(stored, np.array([5, 3, 40])).labels.equal(others)


def test_lists_without_a_positive_and_a_negative_are_not_rankable(log):
    every = Dataset(log).lists(["train"]).take(slice(6))
    labels = every.labels
    labels[1], labels[4] = 0.0, every.mask[4]
    changed = Lists.of({**every.arrays, "labels": np.concatenate([labels, every.labels])})
    assert changed.take(slice(6)).rankable(chunk=4).rows.tolist() == [0, 2, 3, 5]


def test_a_limit_selects_the_first_of_all_lists(log, in_small_chunks):
    some, every = (Dataset(log, memory=0).lists(["train"], limit) for limit in (10, None))
    assert len(some) == 10
    assert np.array_equal(some.numbers, every.numbers[:10])


def test_arrays_in_files_are_built_once_and_again_for_another_log(log, tmp_path, monkeypatch):
    write_log(tmp_path / "data", ROWS, ITEMS)
    first = Dataset(tmp_path / "data", memory=0).lists(["train"])
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "impressions", None)  # reading the log again would fail
        again = Dataset(tmp_path / "data", memory=0).lists(["train"])
    assert np.array_equal(first.numbers, again.numbers)
    write_log(tmp_path / "data2", ROWS, ITEMS, seed=1)
    os.replace(tmp_path / "data2" / "impressions.parquet", tmp_path / "data/impressions.parquet")
    other = Dataset(tmp_path / "data", memory=0).lists(["train"])
    assert not np.array_equal(first.labels, other.labels)


def test_killed_featurising_leaves_no_arrays_that_look_complete(log, tmp_path):
    write_log(tmp_path / "data", ROWS, ITEMS)
    code = (
        "import sys; from pathlib import Path; from model.data import dataset;"
        "dataset.LISTS_PER_BLOCK = 1;"
        "dataset.Dataset(Path(sys.argv[1]), memory=0).lists(['train'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "data")], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    cache = tmp_path / "data.arrays"
    begun = cache / "unfinished" / "numbers.npy"
    while process.poll() is None and not (begun.exists() and begun.stat().st_size > 4096):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert sorted(path.name for path in cache.iterdir()) == ["lock", "unfinished"]
    stored = Dataset(tmp_path / "data", memory=0).lists(["train"])
    assert np.array_equal(stored.numbers, Dataset(log).lists(["train"]).numbers)
    assert not (cache / "unfinished").exists()


@pytest.mark.parametrize("name", ["impressions", "items", "users", "histories"])
def test_a_truncated_file_is_reported_by_its_name(log, tmp_path, name):
    copy = shutil.copytree(log, tmp_path / "data")
    path = copy / f"{name}.parquet"
    path.write_bytes((log / "impressions.parquet").read_bytes()[:5000])
    with pytest.raises(DataError, match=rf"data/{name}\.parquet: cannot be read \(") as raised:
        Dataset(copy)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda out: (out / "statistics.parquet").unlink(),
            r"statistics\.parquet: cannot be read \(",
        ),
        (
            lambda out: (out / "statistics.parquet").write_bytes(b"PAR1"),
            r"statistics\.parquet: cannot be read \(",
        ),
        (
            lambda out: pl.DataFrame({"item_id": ["tea"]}).write_parquet(
                out / "statistics.parquet"
            ),
            r"statistics\.parquet: cannot be read \(.*like_rate",
        ),
        (
            lambda out: keep_rows(out / "statistics.parquet", 1),
            r"statistics\.parquet: must have the 4 rows of items\.parquet; .*, got 1",
        ),
        (
            lambda out: (out / "summary.json").unlink(),
            r"summary\.json: must have the key time or statistics, as",
        ),
        (lambda out: (out / "items.parquet").unlink(), r"items\.parquet: cannot be read \("),
    ],
)
def test_a_half_prepared_data_set_is_reported_by_its_file_and_the_command(shop, change, message):
    out = shop()
    change(out)
    with pytest.raises(DataError, match=message) as raised:
        Dataset(out)
    assert "write the data set again with `python -m model prepare`" in str(raised.value)
    assert "\n" not in str(raised.value)


def drop_columns(path):
    pl.read_parquet(path).select("item_id").write_parquet(path)


def keep_rows(path, count):
    pl.read_parquet(path).head(count).write_parquet(path)


def test_an_error_while_featurising_leaves_no_arrays(tmp_path, monkeypatch):
    write_log(tmp_path / "data", ROWS, ITEMS)
    broken = Dataset(tmp_path / "data", memory=0)
    impressions = broken.impressions

    def breaks(splits, fresh, shards):
        for number, impression in enumerate(impressions(splits, fresh, shards)):
            assert number < 50, "planted"
            yield impression

    with monkeypatch.context() as patch:
        patch.setattr(broken, "impressions", breaks)
        patch.setattr(dataset_module, "LISTS_PER_BLOCK", 7)
        with pytest.raises(AssertionError, match="planted"):
            broken.lists(["train"])
    assert len(broken.lists(["train"])) == 192


def test_a_list_that_cannot_be_featurised_is_reported_by_its_request(shop):
    out = shop()
    path = out / "impressions.parquet"
    price = pl.when(pl.col("item_id") == "pen").then(1e300).otherwise("price")
    pl.read_parquet(path).with_columns(price=price).write_parquet(path)
    with pytest.raises(
        DataError, match=r"request 'r2': candidates\[0\]\.features\.price: within 1e"
    ):
        Dataset(out).lists(["test"])
