"""Train hosts and EGLR in the simulated environment and measure their slates against its truth.

Resumable: each (host, seed) leaves its results in the cache.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.dataset import Dataset
from model.data.lists import Lists
from model.learning import checkpoint
from model.learning.policy import Policy
from model.learning.train import Run, train
from model.network.config import Config
from model.study.grid import save
from model.study.slates import neural_slates
from model.study.world import Law, LawJudge, truth

Array = np.ndarray[Any, Any]
AMBIGUOUS = 500  # test lists whose gaps are sought: all continuations of every choice are tried
LEAD = 2  # rewarded by the law, a plain host first learns so many times the rounds of what follows
QUANTILES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # of entropy: thresholds to rank behind


def gaps(law: Law, appeal: Array, topic: Array, slate: Array) -> Array:
    """How much worse the second-best next item is than the best, float [R, K], along `slate`.

    Next items are compared by the best that can follow them. A small gap is an ambiguous choice.
    """
    rows, size = appeal.shape
    found = np.zeros(slate.shape)
    for k in range(slate.shape[1]):
        value = np.full((rows, size), -np.inf)
        for order in itertools.permutations(range(size - k), slate.shape[1] - k):
            left = np.argsort(_taken(slate[:, :k], size), axis=1, kind="stable")[:, : size - k]
            tail = left[:, list(order)]
            worth = law.worth(appeal, topic, np.concatenate([slate[:, :k], tail], axis=1))
            index = np.arange(rows), tail[:, 0]
            value[index] = np.maximum(value[index], worth)
        ordered = np.sort(value, axis=1)
        found[:, k] = ordered[:, -1] - ordered[:, -2]
    return found


def _taken(prefix: Array, size: int) -> Array:
    """bool [R, size]: which candidates the prefixes int [R, k] hold."""
    return np.asarray((prefix[:, :, None] == np.arange(size)).any(axis=1))


def evaluator(config: Config, data: Path, directory: Path) -> None:
    """Train the evaluator that all hosts of one seed are rewarded by."""
    torch.set_num_threads(1)
    Run(config, data, directory, None).run(last="warm_start")


def cell(config: Config, data: Path, cache: Path, evaluator: Path | None) -> None:
    """Plain host and EGLR of one host and seed: test slates' worth and entropies, one file each.

    They are rewarded by the evaluator of that run, or without one by the law.

    A plain host is trained to the end; from there it goes on once as it is and once with reasoning
    plugged in, through the same rounds of GRPO on the same requests.
    """
    torch.set_num_threads(1)
    cache.mkdir(parents=True, exist_ok=True)
    none = dataclasses.replace(config.reasoning, budget=0)
    plain = dataclasses.replace(config, reasoning=none)
    dataset, law = Dataset(data), Law()
    appeal, topic = truth(dataset, "test")
    valid, test = dataset.lists(["valid"]), dataset.lists(["test"])
    judge = None if evaluator else LawJudge(dataset.featuriser, law)
    lead = 1 if evaluator else LEAD
    grpo = dataclasses.replace(plain.grpo, epochs=lead * plain.grpo.epochs)
    start = dataclasses.replace(plain, grpo=grpo)
    train(start, dataset, cache / "start", evaluator, reward_model=judge)
    for name, own in {"host": plain, "eglr": config}.items():
        if (cache / f"{name}.npz").exists():
            continue
        train(own, dataset, cache / name, cache / "start", plug_in=True, reward_model=judge)
        trained = checkpoint.load(cache / name)
        slate, found = neural_slates(trained, test, keep_entropies=True)
        some = slice(AMBIGUOUS)
        found["gap"] = gaps(law, appeal[some], topic[some], slate[some])
        found["entropies_before"] = found["entropies_before"][some]
        found["worth"] = law.worth(appeal, topic, slate)
        if name == "eglr":
            slates, found["gate_steps"] = by_threshold(trained, valid, test)
            found["gate_worth"] = np.array([law.worth(appeal, topic, s) for s in slates])
        save(cache / f"{name}.npz", found)


def by_threshold(trained: checkpoint.Trained, valid: Lists, test: Lists) -> tuple[Array, Array]:
    """Slates int64 [Q, R, K] of EGLR's weights behind other thresholds, and steps per slate [Q].

    Each threshold is one of QUANTILES of the entropies on validation lists without reasoning.
    """
    policy = Policy(trained.config, trained.generator, trained.threshold, trained.share)
    entropies, budget = policy.entropies(valid), trained.config.reasoning.budget
    slates, steps = [], []
    for quantile in QUANTILES:
        # The gate asks for more than the threshold: the lowest entropy itself would stay outside.
        policy.threshold = float(torch.quantile(entropies, quantile)) if quantile else -1.0
        decoded = policy.greedy_slates(test, budget if quantile < 1 else 0)
        slates.append(torch.cat([d.slate for d in decoded]).numpy())
        steps.append(torch.cat([d.steps for d in decoded]).sum(dim=1).double().mean().item())
    return np.array(slates), np.array(steps)
