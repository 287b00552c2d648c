"""Cells are kept for the configuration and the data that they were made of."""

import dataclasses
from types import SimpleNamespace

import pytest

from model import grid
from model.checkpoint import CheckpointError
from model.config import Config


def lists(digest):
    return SimpleNamespace(digest=lambda: digest)


def test_a_directory_of_cells_is_taken_up_again_by_the_same_work(tmp_path):
    grid.claim(tmp_path, Config(seed=3), lists("a"))
    grid.claim(tmp_path, Config(seed=3), lists("a"))


@pytest.mark.parametrize(
    ("config", "digest"),
    [
        (Config(seed=4), "a"),
        (dataclasses.replace(Config(seed=3), selection="utility"), "a"),
        (Config(seed=3), "b"),
    ],
)
def test_cells_of_another_configuration_or_other_data_are_refused(tmp_path, config, digest):
    grid.claim(tmp_path, Config(seed=3), lists("a"))
    with pytest.raises(CheckpointError, match=r"study.json: the cells beside it"):
        grid.claim(tmp_path, config, lists(digest))
