"""The optimizer updates dense parameters as AdamW does, and tables by the rows of a batch."""

import dataclasses

import pytest
import torch
from torch import nn

from model.learning import checkpoint
from model.learning.optimizer import RowAdamW, clip_gradients
from model.learning.train import Run
from tests.support.runs import SMOKE, tensors_of

BATCHES = [torch.tensor(rows) for rows in ([1, 2, 2], [3, 1, 0], [2, 5, 1])]


def module(sparse):
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(6, 4, padding_idx=0, sparse=sparse), nn.Linear(4, 1))


def descend(network, optimizer, batches=BATCHES, largest=1.0):
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        (network(batch) - 3.0).pow(2).sum().backward()
        clip_gradients(network, largest)
        optimizer.step()
    return network


def test_dense_gradients_get_the_bits_of_torch_adamw_and_sparse_ones_do_not():
    expected = module(sparse=False)
    plain = torch.optim.AdamW(expected.parameters(), lr=0.1, weight_decay=0.05)
    descend(expected, plain)
    for sparse in (False, True):
        network = module(sparse)
        descend(network, RowAdamW(network.parameters(), 0.1, 0.05))
        assert torch.equal(network[0].weight, expected[0].weight) is not sparse


def test_a_table_whose_rows_all_change_follows_adamw_without_momentum():
    every = [torch.arange(6)] * 4
    expected, network = module(sparse=False), module(sparse=True)
    tables = torch.optim.AdamW(expected[0].parameters(), 0.1, (0.0, 0.999), weight_decay=0.0)
    momentum = module(sparse=False)
    with_momentum = torch.optim.AdamW(momentum[0].parameters(), 0.1, weight_decay=0.0)
    descend(expected, tables, every)
    descend(momentum, with_momentum, every)
    descend(network, RowAdamW(network[0].parameters(), 0.1, 0.0), every)
    difference = (network[0].weight - expected[0].weight).abs().max()
    assert difference < 1e-6
    assert (network[0].weight - momentum[0].weight).abs().max() > 1e-3


def test_rows_that_no_batch_has_keep_their_bits_until_the_decay_of_all_rows():
    network = module(sparse=True)
    before = network[0].weight.detach().clone()
    optimizer = RowAdamW(network.parameters(), 0.1, 0.05)
    descend(network, optimizer)
    changed = (network[0].weight != before).any(dim=1)
    assert changed.tolist() == [False, True, True, True, False, True]
    optimizer.decay_rows()
    assert torch.allclose(network[0].weight[4], before[4] * (1 - 0.1 * 0.05) ** 3, rtol=1e-6)
    decayed = network[0].weight.detach().clone()
    optimizer.decay_rows()
    assert torch.equal(network[0].weight, decayed)


@pytest.mark.parametrize("largest", [0.5, 1e6])
def test_the_norm_of_sparse_and_dense_gradients_together_is_clipped(largest):
    gradients = []
    for sparse in (False, True):
        network = module(sparse)
        (network(BATCHES[0]) - 3.0).pow(2).sum().backward()
        unclipped = network[1].weight.grad.clone()
        clip_gradients(network, largest)
        gradients.append([p.grad.to_dense() for p in network.parameters()])
        assert torch.equal(network[1].weight.grad, unclipped) is (largest == 1e6)
    for dense, rows in zip(*gradients, strict=True):
        assert torch.allclose(dense, rows, rtol=1e-5)


def test_a_run_over_a_small_vocabulary_has_the_bits_of_torch_adamw(log, tmp_path):
    class Plain(RowAdamW):
        step = torch.optim.AdamW.step

    tables = {}
    for name, optimizer, tokens in (
        ("plain", Plain, SMOKE.sparse_vocabulary),
        ("run", RowAdamW, SMOKE.sparse_vocabulary),
        ("rows", RowAdamW, 1),
    ):
        config = dataclasses.replace(SMOKE, sparse_vocabulary=tokens)
        run = Run(config, log, tmp_path / name, None)
        run.train_stage(dataclasses.replace(run.evaluator_stage(), optimizer_type=optimizer))
        tables[name] = tensors_of(tmp_path / name)
    assert all(torch.equal(tables["run"][name], value) for name, value in tables["plain"].items())
    table = "evaluator.embed.table.weight"
    assert not torch.equal(tables["rows"][table], tables["plain"][table])


def test_a_run_with_sparse_gradients_resumes_to_the_same_weights(log, tmp_path, monkeypatch):
    stage = dataclasses.replace(SMOKE.evaluator, epochs=2)
    config = dataclasses.replace(SMOKE, sparse_vocabulary=1, evaluator=stage)
    whole = Run(config, log, tmp_path / "whole", None)
    whole.run(stop_before="warm_start")
    interrupted = Run(config, log, tmp_path / "parts", None)
    save = interrupted._save

    def save_and_stop(optimizer=None):
        save(optimizer)
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupted, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    _, tensors = checkpoint.read(tmp_path / "parts")
    assert tensors["optimizer.2.exp_avg_sq"].shape == tensors["evaluator.embed.table.weight"].shape
    Run(config, log, tmp_path / "parts", None).run(stop_before="warm_start")
    expected, resumed = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
