"""Small generators with random weights, inputs for them, and a run of the reasoning loop."""

import torch

from model.network.config import NetworkConfig, ReasoningConfig
from model.network.generator import Generator
from model.network.reasoning import EntropyGate, Replay, decode, greedy

K, S, F, T, VOCABULARY = 5, 2, 6, 3, 20
NETWORK = NetworkConfig(width=16, heads=2, dropout=0.0)


def make_generator(budget: int = S, seed: int = 0, **reasoning) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(
        NETWORK, F, VOCABULARY, K, ReasoningConfig(budget=budget, **reasoning)
    ).eval()
    with torch.no_grad():  # far enough from uniform that slates differ
        for parameter in generator.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return generator


def make_inputs(rows: int = 4, size: int = 8, seed: int = 1):
    torch.manual_seed(seed)
    mask = torch.ones(rows, size, dtype=torch.bool)
    return torch.randn(rows, size, F), torch.randint(0, VOCABULARY, (rows, size, T)), mask


def run(generator, inputs, threshold=-1.0, budget=S, pick=greedy, replay=None, group=1):
    rows = inputs[0].shape[0] * group
    thresholds = torch.as_tensor(threshold, dtype=torch.float32).expand(rows)
    budgets = torch.as_tensor(budget, dtype=torch.int64).expand(rows)
    gate = EntropyGate(thresholds, budgets) if replay is None else Replay(replay)
    return decode(generator, generator.encode(*inputs), K, pick, 0.7, gate, group)
