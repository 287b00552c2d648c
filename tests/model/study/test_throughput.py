"""The measurement of GRPO rounds, on a small run."""

import dataclasses

import pytest

from model.network.config import Config
from model.study.click_model import prepare_simulation
from model.study.throughput import describe, measure

CONFIG = Config(slate_length=4, max_candidates=32, utility="even").smoke()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("world") / "data"
    prepare_simulation(directory, 400, seed=0)
    return directory


def test_throughput_names_the_five_most_expensive_operators(data):
    config = dataclasses.replace(CONFIG, grpo=dataclasses.replace(CONFIG.grpo, batch=8))
    figures = measure(config, data, threads=1, rounds=2)
    assert 0 < figures["low"] <= figures["requests_per_second"] <= figures["high"]
    shares = [share for _, share in figures["costs"]]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) < 1.0
    assert "batch 8, group" in describe(figures)
