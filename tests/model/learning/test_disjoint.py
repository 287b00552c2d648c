"""Ranks of a data set in shards train on disjoint lists."""

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.data.dataset import Dataset
from model.data.lists import JoinedFiles, MappedFile
from model.data.log_splits import SplitOptions
from model.data.prepare import prepare_impressions
from model.data.shards.options import ShardOptions
from model.learning import accelerator, distributed
from model.learning.stages import Stage
from model.learning.train import Run
from model.network.config import Config
from tests.support.ranks import run_ranks
from tests.support.shards import SCHEMA, random_log

CONFIG = Path(__file__).parents[3] / "model" / "configs" / "world.yaml"
SHARDS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shards")
    random_log(lists=200).write_parquet(directory / "log.parquet")
    (directory / "schema.yaml").write_text(SCHEMA)
    out = directory / "data"
    prepare_impressions(
        directory / "log.parquet", directory / "schema.yaml", out,
        splitting=SplitOptions("last-list"), sharding=ShardOptions("local", 1, SHARDS),
    )  # fmt: skip
    return out


def on_all_lists():
    return dataclasses.replace(Config.load(CONFIG).smoke(), train_lists=None)


def train_rank(rank, data, directory):
    """Train the evaluator on one of two ranks; save its lists and weights."""
    torch.set_num_threads(1)
    with accelerator.open_accelerator("cpu"):
        run = Run(on_all_lists(), Dataset(data, memory=0), directory / "run", None)
        run.run(stop_before="warm_start")
        tensors = {f"weight {n}": t for n, t in run.evaluator.state_dict().items()}
        tensors["lists"] = torch.from_numpy(run.train.numbers)
        tensors["steps"] = torch.tensor([run.evaluator_stage().steps])
        save_file(tensors, directory / f"{rank}.safetensors")


@pytest.fixture(scope="module")
def ranks(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("ranks")
    run_ranks(train_rank, data, directory)
    return [load_file(directory / f"{rank}.safetensors") for rank in range(2)]


def keys(numbers):
    return {row.tobytes() for row in np.asarray(numbers)}


def test_two_ranks_share_all_lists_and_have_none_in_common(data, ranks):
    every = keys(Dataset(data).lists(["train"]).numbers)
    first, second = (keys(rank["lists"]) for rank in ranks)
    assert first | second == every
    assert first & second == set()
    assert min(len(first), len(second)) > 20


def test_two_ranks_end_with_the_same_weights(ranks):
    names = [name for name in ranks[0] if name.startswith("weight")]
    assert len(names) > 5
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in names)


def test_an_epoch_has_as_many_steps_as_all_lists_fill(data, ranks):
    batch = on_all_lists().evaluator.batch
    steps = max(1, len(Dataset(data).lists(["train"])) // batch)
    assert [rank["steps"].item() for rank in ranks] == [steps, steps]


def test_more_ranks_than_shards_share_every_list():
    with (
        mock.patch.object(distributed, "world_size", return_value=4),
        mock.patch.object(distributed, "rank", return_value=1),
    ):
        assert distributed.disjoint_shards(3) is None
        assert distributed.disjoint_shards(9) == range(1, 9, 4)
    assert distributed.disjoint_shards(9) is None  # one process


def test_parts_of_a_batch_make_up_its_size_and_wrap_around():
    settings = Config.load(CONFIG).smoke().evaluator
    order = np.arange(7)[::-1]
    arguments: list[Any] = ["evaluator", torch.nn.Identity(), settings, None, 1, None, None]
    stage = dataclasses.replace(Stage(*arguments), disjoint=True)
    sizes = []
    for number in range(3):
        with (
            mock.patch.object(distributed, "world_size", return_value=3),
            mock.patch.object(distributed, "rank", return_value=number),
        ):
            rows = [stage.rows(order, step) for step in range(4)]
        sizes.append(len(rows[0]))
        taken = np.concatenate(rows)
        assert taken.tolist() == np.resize(order, len(taken)).tolist()
    assert sum(sizes) == settings.batch


def test_joined_files_are_read_like_one_array(tmp_path):
    whole = np.random.default_rng(0).random((9, 2))
    for number, part in enumerate((whole[:4], whole[4:5], whole[5:])):
        np.save(tmp_path / f"{number}.npy", part)
    joined = JoinedFiles([MappedFile(tmp_path / f"{number}.npy") for number in range(3)])
    assert joined.shape == (9, 2)
    for rows in ([8, 0, 4, 4, 3], [], [5]):
        index = np.array(rows, np.int64)
        np.testing.assert_array_equal(joined[index], whole[index])


def test_arrays_of_shards_lie_in_files_that_a_second_reading_finds(data, monkeypatch):
    held = Dataset(data).lists(["train", "valid"])
    stored = Dataset(data, memory=0).lists(["train", "valid"])
    np.testing.assert_array_equal(stored.numbers, held.numbers)
    np.testing.assert_array_equal(stored.tokens, held.tokens)
    first = Dataset(data, memory=0).lists(["train", "valid"], limit=50)
    np.testing.assert_array_equal(first.labels, held.labels[:50])
    monkeypatch.setattr(Dataset, "impressions", None)  # nothing is featurised again
    again = Dataset(data, memory=0).lists(["train", "valid"])
    np.testing.assert_array_equal(again.labels, held.labels)
