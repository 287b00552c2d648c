"""Cached cells belong to one configuration and one data set."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.learning.checkpoint import CheckpointError, build
from model.network.config import Config
from model.study import grid, variants


def lists(digest):
    return SimpleNamespace(digest=lambda: digest)


def test_the_same_configuration_and_data_reuse_a_directory_of_cells(tmp_path):
    grid.record_setting(tmp_path, Config(seed=3), lists("a"))
    grid.record_setting(tmp_path, Config(seed=3), lists("a"))


@pytest.mark.parametrize(
    ("config", "digest"),
    [
        (Config(seed=4), "a"),
        (dataclasses.replace(Config(seed=3), selection="utility"), "a"),
        (Config(seed=3), "b"),
    ],
)
def test_cells_of_another_configuration_or_other_data_are_refused(tmp_path, config, digest):
    grid.record_setting(tmp_path, Config(seed=3), lists("a"))
    with pytest.raises(CheckpointError, match=r"study.json: the cells beside it"):
        grid.record_setting(tmp_path, config, lists(digest))


def test_a_configuration_field_added_later_counts_as_its_default(tmp_path):
    grid.record_setting(tmp_path, Config(seed=3), lists("a"))
    path = tmp_path / grid.STUDY
    recorded = json.loads(path.read_text(encoding="utf-8"))
    del recorded["config"]["reasoning"]["training_gate"]
    path.write_text(json.dumps(recorded), encoding="utf-8")
    grid.record_setting(tmp_path, Config(seed=3), lists("a"))
    grid.check_setting(tmp_path, Config(seed=3))
    with pytest.raises(CheckpointError, match=r"study.json"):
        grid.check_setting(tmp_path, Config(seed=4))


def test_a_cell_holds_its_commit_and_the_processor_time_of_its_work(tmp_path, monkeypatch):
    class Counting:
        """A runner whose models take a second of the process's clock each."""

        def __init__(self, *_):
            pass

        def run(self, _model):
            clock[0] += 1.0
            return {"slate": np.zeros((2, 3), np.int16)}

    clock = [5.0]
    monkeypatch.setattr(grid, "CellRunner", Counting)
    monkeypatch.setattr(grid, "Dataset", lambda _: lists("a"))
    monkeypatch.setattr(grid, "time", SimpleNamespace(process_time=lambda: clock[0]))
    study = variants.Study("ranklens", "warm", "stand-alone", 3, tmp_path, ("a", "b"))
    grid.fill_study(Config(), study, tmp_path)
    for model in ("a", "b"):
        cell = grid.load(study.directory(tmp_path) / f"{model}.npz")
        assert cell["cpu_seconds"] == 1.0
        assert len(str(cell["commit"])) >= 40


@pytest.mark.parametrize("model", list(variants.NEURAL))
def test_every_model_of_a_study_can_load_the_evaluator_of_its_first(model):
    of_any_list: Any = SimpleNamespace(numbers_width=7, vocabulary_size=11)
    first, evaluator = (
        build(variants.with_overrides(Config(), variants.NEURAL[name]), of_any_list, positions=24)[
            1
        ]
        for name in (grid.FIRST, model)
    )
    evaluator.load_state_dict(first.state_dict())
