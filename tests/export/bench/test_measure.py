"""The basis of the benchmark: feeds, floating-point counts, cores, timing in turns."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from export.bench.measure import (
    Size,
    cores,
    feeds_of,
    flops,
    gemm_throughput,
    timed,
    whole_lists,
)
from export.graph.compose import compose
from model.network.config import NetworkConfig, ReasoningConfig
from model.network.generator import Generator
from model.network.hosts import HOSTS
from model.network.reasoning import EntropyGate, decode, greedy


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 8), (0.5, 16), (1.0, 32)])
def test_the_feeds_have_the_given_share_of_rows_that_reason(share, count):
    feeds = feeds_of(Size(32, share=share), 7, 64, 10)
    assert (feeds["entropy_threshold"] < 0).sum() == count


@pytest.mark.parametrize("host", HOSTS)
def test_floating_point_operations_are_those_that_torch_counts_beside_the_hoisted_ones(host):
    network = NetworkConfig(host=host, width=32, heads=4)
    generator = Generator(network, 7, 50, 5, ReasoningConfig(budget=2)).eval()
    size = Size(4, 20, budget=2)
    feeds = feeds_of(size, 7, 32, 5)
    count = flops(compose(generator, range(7), 5, gated=False), feeds)
    lists = [torch.from_numpy(array) for array in whole_lists(size, 7, 3, 50).values()]
    threshold, budget = (torch.from_numpy(feeds[n]) for n in ("entropy_threshold", "budget"))
    with FlopCounterMode(display=False) as counter:
        gate = EntropyGate(threshold, budget)
        decode(generator, generator.encode(*lists), 5, greedy, 0.7, gate)
    # torch counts neither the CPU's attention nor GRUCell; here projections are made once.
    low, high = (0.9, 1.3) if host == "transformer" else (0.9, 2.0)
    assert low < count / counter.get_total_flops() < high


def test_a_batch_twice_as_large_takes_twice_the_operations():
    generator = Generator(NetworkConfig(width=32), 7, 50, 4, ReasoningConfig(budget=1)).eval()
    model = compose(generator, range(7), 4, gated=False)
    one, two = (flops(model, feeds_of(Size(b, 20, budget=1), 7, 32, 4)) for b in (4, 8))
    assert two == 2 * one


def test_a_containers_quota_caps_the_cores(tmp_path):
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores(tmp_path) == cores(tmp_path / "absent") >= 1


def test_runs_are_timed_in_turns_and_the_first_run_of_a_turn_does_not_count():
    order = []
    runs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = timed(runs, seconds=0.0, turn=0.0)
    assert order == ["a", "a", "b", "b"] + ["a", "a", "b", "b"] * 5  # two warm-ups, five turns
    assert [len(runs) for runs in times.values()] == [5, 5]


def test_the_throughput_of_a_core_is_a_positive_number():
    assert 1e8 < gemm_throughput(0.1) < np.inf
