"""Data sets in shards are read, featurised and trained on like those in one file."""

import json

import numpy as np
import pytest

from model.data.commands import Featurise
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.growth import read_schema
from model.data.shards.featurise import featurise
from model.data.shards.options import ShardOptions
from tests.support.shards import random_log

SPLITS = ["train", "valid", "test"]


@pytest.fixture
def pair(prepare):
    """Data sets of one log in one file and in three shards."""
    log = random_log()
    return Dataset(prepare("one", log)), Dataset(prepare("three", log, 3))


def by_request(dataset):
    return {impression.request_id: impression for impression in dataset.impressions(SPLITS)}


def test_every_list_has_the_request_and_labels_of_one_file(pair):
    one, three = map(by_request, pair)
    assert len(three.keys()) == 120
    assert one == three


def test_every_list_has_the_arrays_of_one_file_but_for_rounding(pair):
    arrays = []
    for dataset in pair:
        lists = dataset.lists(["train"])
        order = np.argsort(dataset.requests(["train"])["request_id"].to_numpy())
        arrays.append(lists.read(order))
    for one, three in zip(*arrays, strict=True):
        np.testing.assert_allclose(one, three, rtol=1e-6, atol=1e-6)
    assert not np.allclose(arrays[0].numbers, arrays[1].numbers[::-1], rtol=1e-6, atol=1e-6)


def test_the_fitted_schema_differs_only_by_rounding(pair):
    for one, three in zip(*(d.featuriser.schema.features for d in pair), strict=True):
        assert one.vocabulary == three.vocabulary
        assert one.mean == pytest.approx(three.mean, rel=1e-12)
        assert one.std == pytest.approx(three.std, rel=1e-12)


def test_requests_stand_in_the_order_of_lists(pair):
    for dataset in pair:
        ids = [impression.request_id for impression in dataset.impressions(SPLITS)]
        assert dataset.requests(SPLITS)["request_id"].to_list() == ids


def test_the_digest_follows_the_rows(prepare, tmp_path):
    log = random_log()
    first = Dataset(prepare("first", log, 3)).digest()
    assert Dataset(prepare("again", log, 3)).digest() == first
    (tmp_path / "log.parquet").unlink()
    other = log.with_columns(price=log["price"] + 1.0)
    assert Dataset(prepare("other", other, 3)).digest() != first


def test_a_broken_list_of_shards_and_a_missing_file_are_named(prepare):
    directory = prepare("out", random_log(), 3)
    (directory / "impressions" / "00001-000.parquet").rename(directory / "elsewhere")
    with pytest.raises(DataError, match=r"00001-000\.parquet: cannot be read"):
        Dataset(directory)
    (directory / "shards.json").write_text(json.dumps({"shards": [{"files": []}]}))
    with pytest.raises(DataError, match=r"shards\.json: cannot be read .*`python -m model prepare"):
        Dataset(directory)


def test_a_file_of_another_data_set_among_the_shards_is_refused(prepare, tmp_path):
    other = prepare("other", random_log(lists=60), 3)
    (tmp_path / "log.parquet").unlink()
    directory = prepare("out", random_log(), 3)
    name = "impressions/00001-000.parquet"
    (other / name).replace(directory / name)
    with pytest.raises(DataError, match=rf"{name}: must have \d+ bytes, as shards\.json says"):
        Dataset(directory)


def test_training_finds_the_arrays_that_featurise_wrote(prepare, monkeypatch):
    directory = prepare("out", random_log(), 3)
    held = Dataset(directory).lists(["train"])
    assert featurise(directory, ["train", "valid"], ShardOptions(workers=1)) == 108
    assert not (directory.with_name("out.arrays") / "featuriser").exists()
    monkeypatch.setattr(Dataset, "impressions", None)  # nothing is featurised again
    found_again = Dataset(directory).lists(["train"])
    for stored, fresh in zip(found_again.read(slice(None)), held.read(slice(None)), strict=True):
        np.testing.assert_array_equal(stored, fresh)


def test_a_continued_training_finds_the_arrays_of_its_grown_schema(prepare, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    Dataset(prepare("first", random_log(seed=1), 2)).featuriser.save(run)
    (tmp_path / "log.parquet").unlink()
    directory = prepare("out", random_log(), 3)
    held = Dataset(directory, earlier=read_schema(run)).lists(["train"]).numbers
    featurise(directory, ["train"], ShardOptions(workers=2), start=run)
    monkeypatch.setattr(Dataset, "impressions", None)  # nothing is featurised again
    again = Dataset(directory, earlier=read_schema(run)).lists(["train"]).numbers
    np.testing.assert_array_equal(again, held)
    with pytest.raises(TypeError):  # arrays of another schema are not there
        Dataset(directory).lists(["train"])


def test_one_file_is_featurised_too(prepare):
    directory = prepare("out", random_log())
    assert featurise(directory, ["valid"], ShardOptions(workers=1)) == 12
    assert len([*directory.with_name("out.arrays").glob("valid-*/labels.npy")]) == 1


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"--splits: must be some of train, .*, got 'dev'"):
        Featurise(tmp_path, splits=("dev",)).execute()
