"""Rank test lists with trained networks, and estimate utilities of slates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.dataset import Dataset
from model.data.lists import Lists
from model.learning.checkpoint import Trained
from model.learning.policy import Batch, Policy
from model.learning.train import Run
from model.network.config import Config
from model.network.evaluator import Evaluator

Array = np.ndarray[Any, Any]


def second_evaluator(config: Config, dataset: Dataset, directory: Path) -> Evaluator:
    """Train, or finish training, an evaluator for reporting only; it rewards no model.

    It differs in architecture (a GRU along the slate instead of attention, after the evaluator of
    GRN, arXiv 2104.00860) and seed, and learns from the same lists.
    """
    network = config.evaluator_network or config.network
    changed = dataclasses.replace(
        config,
        seed=config.seed + 1_000,
        evaluator_network=dataclasses.replace(network, encoder_blocks=0, recurrent=True),
    )
    run = Run(changed, dataset, directory, None)
    run.run(stop_before="warm_start")
    return run.evaluator.eval()


@torch.no_grad()
def utilities(evaluator: Evaluator, lists: Lists, slate: Array) -> Array:
    """Return the evaluator's utility [R] of slates int64 [R, K] of these lists."""
    parts = []
    for start in range(0, len(lists), 256):
        rows = slice(start, start + 256)
        b = Batch(lists, rows)
        embedded = evaluator.embed(b.numbers, b.tokens)
        parts.append(evaluator.utility(embedded, torch.from_numpy(slate[rows].astype(np.int64))))
    return torch.cat(parts).numpy()


def rank_greedily(
    trained: Trained, test: Lists, keep_entropies: bool = False
) -> tuple[Array, dict[str, Array]]:
    """Return greedy slates of a finished run, its steps [R] and entropies by position [K] (nats).

    `keep_entropies` adds the entropies before reasoning of every list, [R, K].
    """
    policy = Policy(trained.config, trained.generator, trained.threshold, trained.share)
    torch.manual_seed(trained.config.seed)  # for the random gate
    decoded = policy.greedy_slates(test, trained.config.reasoning.budget)
    arrays = {
        name: torch.cat([getattr(d, name) for d in decoded]).numpy()
        for name in ("slate", "steps", "entropy_before", "entropy_after")
    }
    entropies = {"entropies_before": arrays["entropy_before"]} if keep_entropies else {}
    return arrays["slate"], entropies | {
        "reasoning_steps": arrays["steps"].sum(axis=1).astype(np.float64),
        "steps_by_position": arrays["steps"].mean(axis=0),
        "entropy_before": arrays["entropy_before"].mean(axis=0),
        "entropy_after": arrays["entropy_after"].mean(axis=0),
        "threshold": np.array(trained.threshold),
        "validation": np.array(trained.state.validation["final"]["ndcg@10"]),
        # 1 if an epoch of GRPO validated better than the start, 0 if the start was kept.
        "grpo_kept": np.array(float("grpo" in trained.state.validation)),
    }
